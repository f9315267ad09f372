/* SPDX-License-Identifier: Apache-2.0 */
/*
 * index.c - search, insert, erase and growth of one shard's table, under the
 * shard's lock. Limit: 2^32 - 1 records; at a load of 85 % a search looks at
 * 1.2 buckets, and mostly at one cache line of fingerprints.
 */
#include "host/index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __SSE2__
#	include <emmintrin.h>
#endif

#define LANES       KVH_INDEX_LANES
#define PLACES      15u /* of a bucket */
#define PLACES_MASK 0x7FFFu
#define PASSED_MAX  UINT16_MAX /* stays there: the count is lost, searches go on */
#define LOAD_PCT    85u
#define HUGE_BYTES  ((size_t)2 << 20)

/* ---- buckets ------------------------------------------------------------ */

/* Bit i: lane i is fp. */
static inline uint32_t match(const uint16_t *fps, uint16_t fp)
{
#ifdef __SSE2__
	__m128i want = _mm_set1_epi16((short)fp);
	__m128i lo = _mm_cmpeq_epi16(_mm_load_si128((const __m128i *)(const void *)fps), want);
	__m128i hi = _mm_cmpeq_epi16(_mm_load_si128((const __m128i *)(const void *)(fps + 8)),
				     want);

	return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(lo, hi)) & PLACES_MASK;
#else
	uint32_t mask = 0;

	for (uint32_t i = 0; i < PLACES; i++)
		mask |= (uint32_t)(fps[i] == fp) << i;
	return mask;
#endif
}

static inline uint16_t fingerprint(uint64_t place)
{
	uint16_t fp = (uint16_t)place;

	return fp != 0 ? fp : 1;
}

/* Of any number of buckets, not only powers of two: growth by half. */
static inline uint32_t first_bucket(const struct kvh_index_table *table, uint64_t place)
{
	return (uint32_t)((place >> 32) * table->n_buckets >> 32);
}

static inline uint32_t next_bucket(const struct kvh_index_table *table, uint32_t bucket)
{
	return bucket + 1 < table->n_buckets ? bucket + 1 : 0;
}

static inline uint16_t *bucket_fps(const struct kvh_index_table *table, uint32_t bucket)
{
	return table->fps + (size_t)bucket * LANES;
}

static inline uint32_t *bucket_slots(const struct kvh_index_table *table, uint32_t bucket)
{
	return table->slots + (size_t)bucket * LANES;
}

/* ---- tables ------------------------------------------------------------- */

static size_t table_bytes(uint32_t n_buckets)
{
	return (size_t)n_buckets * LANES * (sizeof(uint32_t) + sizeof(uint16_t));
}

static bool table_open(struct kvh_index_table *table, uint32_t n_buckets)
{
	size_t bytes = table_bytes(n_buckets);
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);

	if (at == MAP_FAILED)
		return false;
	if (bytes >= HUGE_BYTES) /* 4 KiB pages cost 30 % of the look-ups */
		(void)madvise(at, bytes, MADV_HUGEPAGE);
	table->slots = at;
	table->fps = (uint16_t *)(void *)(table->slots + (size_t)n_buckets * LANES);
	table->n_buckets = n_buckets;
	table->used = 0;
	return true;
}

static void table_close(struct kvh_index_table *table)
{
	if (table->n_buckets > 0)
		(void)munmap(table->slots, table_bytes(table->n_buckets));
	*table = (struct kvh_index_table){0};
}

static inline uint32_t table_find(const struct kvh_index_table *table,
				  const struct kvh_index_rec *recs, uint64_t place,
				  const uint64_t hash[2], uint32_t family)
{
	uint32_t bucket = first_bucket(table, place);
	uint16_t fp = fingerprint(place);

	for (uint32_t i = 0; i < table->n_buckets; i++) {
		const uint16_t *fps = bucket_fps(table, bucket);

		for (uint32_t hits = match(fps, fp); hits != 0; hits &= hits - 1) {
			uint32_t n = bucket_slots(table, bucket)[__builtin_ctz(hits)];
			const struct kvh_index_rec *rec = &recs[n];

			if (rec->hash[0] == hash[0] && rec->hash[1] == hash[1] &&
			    kvh_index_family(rec) == family)
				return n;
		}
		if (fps[PLACES] == 0)
			break;
		bucket = next_bucket(table, bucket);
	}
	return KVH_INDEX_NONE;
}

/* There must be room. */
static void table_insert(struct kvh_index_table *table, uint64_t place, uint32_t rec)
{
	uint32_t bucket = first_bucket(table, place);
	uint16_t *fps = bucket_fps(table, bucket);
	uint32_t empty, lane;

	assert(table->used < (uint64_t)table->n_buckets * PLACES);
	while ((empty = match(fps, 0)) == 0) {
		if (fps[PLACES] < PASSED_MAX)
			fps[PLACES]++;
		bucket = next_bucket(table, bucket);
		fps = bucket_fps(table, bucket);
	}
	lane = (uint32_t)__builtin_ctz(empty);
	fps[lane] = fingerprint(place);
	bucket_slots(table, bucket)[lane] = rec;
	table->used++;
}

static bool bucket_erase(struct kvh_index_table *table, uint32_t bucket, uint16_t fp,
			 uint32_t rec)
{
	uint16_t *fps = bucket_fps(table, bucket);

	for (uint32_t hits = match(fps, fp); hits != 0; hits &= hits - 1) {
		uint32_t lane = (uint32_t)__builtin_ctz(hits);

		if (bucket_slots(table, bucket)[lane] == rec) {
			fps[lane] = 0;
			table->used--;
			return true;
		}
	}
	return false;
}

/* Whether it was there. */
static bool table_erase(struct kvh_index_table *table, uint64_t place, uint32_t rec)
{
	uint32_t first = first_bucket(table, place);
	uint32_t bucket = first;

	for (uint32_t i = 0; i < table->n_buckets; i++) {
		if (bucket_erase(table, bucket, fingerprint(place), rec)) {
			for (; first != bucket; first = next_bucket(table, first)) {
				uint16_t *passed = &bucket_fps(table, first)[PLACES];

				if (*passed < PASSED_MAX)
					(*passed)--;
			}
			return true;
		}
		if (bucket_fps(table, bucket)[PLACES] == 0)
			break;
		bucket = next_bucket(table, bucket);
	}
	return false;
}

/* ---- growth ------------------------------------------------------------- */

/* The records of a bucket: each is a miss in the cache. */
static void prefetch_recs(const struct kvh_index *index, uint32_t bucket)
{
	const uint16_t *fps = bucket_fps(&index->old, bucket);
	const uint32_t *slots = bucket_slots(&index->old, bucket);

	for (uint32_t lane = 0; lane < PLACES; lane++)
		if (fps[lane] != 0)
			__builtin_prefetch(&index->recs[slots[lane]]);
}

/* Moves the keys of the next bucket from the old table to the new one. What the
 * bucket after it will need is asked for: it is there by the next insert. */
static void move_bucket(struct kvh_index *index)
{
	uint32_t bucket = index->moved++;
	uint16_t *fps = bucket_fps(&index->old, bucket);
	uint64_t places[PLACES];

	for (uint32_t lane = 0; lane < PLACES; lane++) {
		if (fps[lane] == 0)
			continue;
		places[lane] = kvh_index_rec_place(
			&index->recs[bucket_slots(&index->old, bucket)[lane]]);
		kvh_index_prefetch(index, places[lane]);
	}
	if (index->moved < index->old.n_buckets)
		prefetch_recs(index, index->moved);
	for (uint32_t lane = 0; lane < PLACES; lane++) {
		uint32_t rec = bucket_slots(&index->old, bucket)[lane];

		if (fps[lane] == 0)
			continue;
		table_insert(&index->now, places[lane], rec);
		(void)table_erase(&index->old, places[lane], rec);
	}
	if (index->moved == index->old.n_buckets) {
		assert(index->old.used == 0);
		table_close(&index->old);
	}
}

/* Each field as a whole: prefetching reads them without the lock. */
static void set_table(struct kvh_index_table *table, const struct kvh_index_table *to)
{
	__atomic_store_n(&table->slots, to->slots, __ATOMIC_RELAXED);
	__atomic_store_n(&table->fps, to->fps, __ATOMIC_RELAXED);
	__atomic_store_n(&table->n_buckets, to->n_buckets, __ATOMIC_RELAXED);
	table->used = to->used;
}

static bool has_room(const struct kvh_index *index, uint32_t pct)
{
	return (uint64_t)kvh_index_count(index) * 100 <
	       (uint64_t)index->now.n_buckets * PLACES * pct;
}

/* False: full. When there is no memory to grow, the table fills up. */
static bool make_room(struct kvh_index *index)
{
	struct kvh_index_table larger;
	uint32_t n = index->now.n_buckets;

	if (index->old.n_buckets > 0)
		move_bucket(index);
	if (has_room(index, LOAD_PCT))
		return true;
	/* Does not happen: moving is done long before the new table is full. */
	while (index->old.n_buckets > 0)
		move_bucket(index);
	n = n == 0 ? index->first_buckets : n + (n + 1) / 2;
	if (!table_open(&larger, n))
		return has_room(index, 100);
	index->old = index->now;
	index->moved = 0;
	set_table(&index->now, &larger);
	return true;
}

/* ---- interface ---------------------------------------------------------- */

void kvh_index_open(struct kvh_index *index, const struct kvh_index_rec *recs,
		    uint32_t first_buckets)
{
	*index = (struct kvh_index){.recs = recs, .first_buckets = first_buckets};
}

void kvh_index_close(struct kvh_index *index)
{
	table_close(&index->now);
	table_close(&index->old);
}

uint32_t kvh_index_find(const struct kvh_index *index, uint64_t place, const uint64_t hash[2],
			uint32_t family)
{
	uint32_t rec = table_find(&index->now, index->recs, place, hash, family);

	if (rec == KVH_INDEX_NONE && index->old.n_buckets > 0)
		rec = table_find(&index->old, index->recs, place, hash, family);
	return rec;
}

uint32_t kvh_index_guess(const struct kvh_index *index, uint64_t place)
{
	const struct kvh_index_table *table = &index->now;
	uint32_t bucket, hits;

	if (table->n_buckets == 0)
		return KVH_INDEX_NONE;
	bucket = first_bucket(table, place);
	hits = match(bucket_fps(table, bucket), fingerprint(place));
	return hits != 0 ? bucket_slots(table, bucket)[__builtin_ctz(hits)] : KVH_INDEX_NONE;
}

int kvh_index_insert(struct kvh_index *index, uint64_t place, uint32_t rec)
{
	if (!make_room(index))
		return -ENOMEM;
	table_insert(&index->now, place, rec);
	return 0;
}

void kvh_index_erase(struct kvh_index *index, uint64_t place, uint32_t rec)
{
	bool erased = table_erase(&index->now, place, rec);

	if (!erased && index->old.n_buckets > 0)
		erased = table_erase(&index->old, place, rec);
	assert(erased);
	(void)erased;
}

uint64_t kvh_index_bytes(const struct kvh_index *index)
{
	return table_bytes(index->now.n_buckets) + table_bytes(index->old.n_buckets);
}

/* Of all keys of the table, those whose way leads past `bucket`. */
static uint32_t count_passed(const struct kvh_index *index, const struct kvh_index_table *table,
			     uint32_t bucket)
{
	uint32_t n = 0;

	for (uint32_t b = 0; b < table->n_buckets; b++) {
		for (uint32_t lane = 0; lane < PLACES; lane++) {
			uint32_t rec = bucket_slots(table, b)[lane];
			uint32_t first, from_first, to_bucket;

			if (bucket_fps(table, b)[lane] == 0)
				continue;
			first = first_bucket(table, kvh_index_rec_place(&index->recs[rec]));
			from_first = (b + table->n_buckets - first) % table->n_buckets;
			to_bucket = (bucket + table->n_buckets - first) % table->n_buckets;
			n += to_bucket < from_first;
		}
	}
	return n;
}

static bool table_check(const struct kvh_index *index, const struct kvh_index_table *table)
{
	uint32_t used = 0;

	for (uint32_t b = 0; b < table->n_buckets; b++) {
		const uint16_t *fps = bucket_fps(table, b);
		uint32_t passed = count_passed(index, table, b);

		if (fps[PLACES] != PASSED_MAX && fps[PLACES] != passed)
			return false;
		for (uint32_t lane = 0; lane < PLACES; lane++) {
			uint32_t rec = bucket_slots(table, b)[lane];

			if (fps[lane] == 0)
				continue;
			if (fps[lane] != fingerprint(kvh_index_rec_place(&index->recs[rec])))
				return false;
			used++;
		}
	}
	return used == table->used;
}

bool kvh_index_check(const struct kvh_index *index)
{
	return table_check(index, &index->now) && table_check(index, &index->old);
}
