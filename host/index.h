/* SPDX-License-Identifier: Apache-2.0 */
/*
 * index.h - one shard's table from key to record number. The caller's lock
 * covers it all, and the records' hash and family.
 *
 * Buckets of 15: their 16-bit fingerprints lie together, half a cache line that
 * one or two vector compares search; the record numbers lie apart from them.
 * The 16th lane counts the keys that found the bucket full and went on to the
 * next: a search ends where it is 0, and an erase leaves no tombstone behind.
 *
 *    fps    | f0 f1 ... f14  passed |  f: 0 is empty
 *    slots  | r0 r1 ... r14       - |
 *
 * 6.4 bytes a place. It grows by half at 85 %, a bucket an insert: nothing
 * stalls for a rehash. It never shrinks.
 */
#ifndef KVH_HOST_INDEX_H
#define KVH_HOST_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_INDEX_NONE  UINT32_MAX
#define KVH_INDEX_LANES 16u /* of a bucket, the last one for its count */

#define KVH_INDEX_FAMILY_BITS 18u
#define KVH_INDEX_FAMILY      ((1u << KVH_INDEX_FAMILY_BITS) - 1)

/* Half a cache line. The index looks at hash and family; word, page and the upper
 * bits of family, which change at any time, are the records' owner's. */
struct kvh_index_rec {
	uint64_t word;
	uint64_t hash[2]; /* struct kvh_hash */
	uint32_t family;  /* stands for space, rank and group */
	uint32_t page;
};

static inline uint32_t kvh_index_family(const struct kvh_index_rec *rec)
{
	return __atomic_load_n(&rec->family, __ATOMIC_RELAXED) & KVH_INDEX_FAMILY;
}

/*
 *   used == fingerprints that are not 0
 *   passed of bucket b == keys that lie behind b, seen from their first bucket
 */
struct kvh_index_table {
	uint32_t *slots; /* one allocation with fps, which follows */
	uint16_t *fps;
	uint32_t n_buckets; /* 0: no table */
	uint32_t used;
};

struct kvh_index {
	const struct kvh_index_rec *recs;
	struct kvh_index_table now;
	struct kvh_index_table old; /* of a growth: buckets below `moved` are empty */
	uint32_t moved;
	uint32_t first_buckets;
};

/* Of the hash alone: chooses the shard. */
static inline uint64_t kvh_index_spread(const uint64_t hash[2])
{
	unsigned __int128 product = (unsigned __int128)(hash[0] ^
							UINT64_C(0x9E3779B97F4A7C15)) *
				    (hash[1] ^ UINT64_C(0xD1B54A32D192ED03));

	/* The sum keeps keys apart where one factor is 0. */
	return (uint64_t)(product >> 64) ^ (uint64_t)product ^ (hash[0] + hash[1]);
}

/* Of the whole key: bucket in the upper half, fingerprint in the lower. */
static inline uint64_t kvh_index_place(uint64_t spread, uint32_t family)
{
	uint64_t x = spread + (uint64_t)family * UINT64_C(0xA0761D6478BD642F);

	x = (x ^ x >> 32) * UINT64_C(0xE9846AF9B1A615D);
	return x ^ x >> 29;
}

static inline uint64_t kvh_index_rec_place(const struct kvh_index_rec *rec)
{
	return kvh_index_place(kvh_index_spread(rec->hash), kvh_index_family(rec));
}

/* Of the first table, 1 or more. Shards fill alike: where they start with sizes
 * from n to n * 3 / 2 they never all grow at once. */
void kvh_index_open(struct kvh_index *index, const struct kvh_index_rec *recs,
		    uint32_t first_buckets);
void kvh_index_close(struct kvh_index *index);

/* The record that has this hash and family; `place` is its kvh_index_place. */
uint32_t kvh_index_find(const struct kvh_index *index, uint64_t place, const uint64_t hash[2],
			uint32_t family);
/* A record whose key is not in yet. -ENOMEM: full, and could not grow. */
int kvh_index_insert(struct kvh_index *index, uint64_t place, uint32_t rec);
/* A record that is in. */
void kvh_index_erase(struct kvh_index *index, uint64_t place, uint32_t rec);

/* Asks for the lines that a search will look at first. Needs no lock: a table
 * that changes meanwhile makes it useless, not wrong. */
static inline void kvh_index_prefetch(const struct kvh_index *index, uint64_t place)
{
	const uint16_t *fps = __atomic_load_n(&index->now.fps, __ATOMIC_RELAXED);
	const uint32_t *slots = __atomic_load_n(&index->now.slots, __ATOMIC_RELAXED);
	uint32_t n = __atomic_load_n(&index->now.n_buckets, __ATOMIC_RELAXED);
	uintptr_t bucket = (uintptr_t)((place >> 32) * n >> 32);

	__builtin_prefetch((const void *)((uintptr_t)fps + bucket * KVH_INDEX_LANES * 2));
	__builtin_prefetch((const void *)((uintptr_t)slots + bucket * KVH_INDEX_LANES * 4));
}

/* Whether a record that is in has this hash and family. */
static inline bool kvh_index_is(const struct kvh_index *index, uint32_t n,
				const uint64_t hash[2], uint32_t family)
{
	const struct kvh_index_rec *rec = &index->recs[n];

	return rec->hash[0] == hash[0] && rec->hash[1] == hash[1] &&
	       kvh_index_family(rec) == family;
}

/* A record that a search will probably look at, or KVH_INDEX_NONE. */
uint32_t kvh_index_guess(const struct kvh_index *index, uint64_t place);

static inline uint32_t kvh_index_count(const struct kvh_index *index)
{
	return index->now.used + index->old.used;
}

uint64_t kvh_index_bytes(const struct kvh_index *index);
/* Whether the equations above hold. Slow: tests. */
bool kvh_index_check(const struct kvh_index *index);

#ifdef __cplusplus
}
#endif
#endif
