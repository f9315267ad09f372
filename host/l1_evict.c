/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_evict.c - eviction, and memory for frames at its price. Any thread, under
 * no lock of L1's. Least recently used first: exactly within a shard, over all
 * shards to a 16th of the oldest frame's age.
 *
 * Memory of one size is of no use to another until a slab is empty. So when
 * evicting the oldest frames did not help, the neighbours of a victim go with
 * it, as many as make room for the size that is wanted; and when these are
 * held, the whole arena is looked through for such a place. Only when there is
 * none is memory refused.
 */
#include "host/l1_impl.h"

#include <errno.h>

#define AGE_PART    16u /* what is nearly as old as the oldest goes, too */
#define LOCKED_MAX  32u /* victims under one locking of a shard */
#define TRIES_MAX   16u /* oldest frames that may go without making room */
#define SWEEPS_MAX  64u /* places that others may take before us */
#define LIST_FRAMES 256u
#define AHEAD_MAX   (1u << 24)

struct victims {
	uint32_t n;
	uint64_t bytes;
	const void *last; /* where the last one was */
};

/* ---- the oldest --------------------------------------------------------- */

/* In uses of L1, modulo 2^32: frames of several shards that are older still are
 * taken in any order. Others' stamps can be a little ahead of `now`. */
static uint32_t age_of(uint32_t now, uint32_t stamp)
{
	uint32_t age = now - stamp;

	return age <= UINT32_MAX - AHEAD_MAX ? age : 0;
}

/* The shard with the oldest frame and its age; false: no shard has one. */
static bool find_oldest(const struct kvh_l1 *l1, uint32_t now, uint32_t *shard_p,
			uint32_t *age_p)
{
	bool found = false;

	*age_p = 0;
	for (uint32_t i = 0; i < l1->n_shards; i++) {
		uint64_t oldest = __atomic_load_n(&l1->oldest[i], __ATOMIC_RELAXED);
		uint32_t age = age_of(now, (uint32_t)oldest);

		if (oldest == 0 || (found && age <= *age_p))
			continue;
		*shard_p = i;
		*age_p = age;
		found = true;
	}
	return found;
}

/* Takes a frame that is held out of the list, until it is given back. False:
 * it was given back right now. */
static bool park(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec)
{
	struct kvh_index_rec *r = &l1->recs[rec];
	uint64_t word = kvh_word_load(r);

	while (kvh_word_count(word) > 0) {
		if (kvh_word_swap(r, &word, word | KVH_WORD_PARK)) {
			kvh_l1_unlink(l1, shard, rec);
			return true;
		}
	}
	return false;
}

/* The oldest of a shard that are of the age or older, up to n. What evicting
 * them will miss in the cache is asked for, for all of them at once. */
static uint32_t list_oldest(struct kvh_l1 *l1, const struct kvh_l1_shard *shard, uint32_t now,
			    uint32_t age, uint32_t *recs, uint32_t n)
{
	uint32_t rec = shard->oldest, len = 0;

	for (; len < n && rec != KVH_REC_NONE; rec = l1->links[rec].newer) {
		if (age_of(now, l1->links[rec].stamp) < age)
			break;
		recs[len++] = rec;
		__builtin_prefetch(&l1->recs[rec], 1);
	}
	for (uint32_t i = 0; i < len; i++) {
		const struct kvh_index_rec *r = &l1->recs[recs[i]];

		kvh_index_prefetch(&shard->index, kvh_index_rec_place(r));
	}
	return len;
}

/* Victims of one shard that are of the age or older, while more are wanted. */
static void evict_shard(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t now,
			uint32_t age, uint32_t want, uint64_t want_bytes, struct victims *gone)
{
	uint32_t recs[LOCKED_MAX], n = want - gone->n;

	pthread_mutex_lock(&shard->lock);
	n = list_oldest(l1, shard, now, age, recs, n < LOCKED_MAX ? n : LOCKED_MAX);
	for (uint32_t i = 0; i < n && gone->bytes < want_bytes; i++) {
		const void *memory;
		uint64_t bytes = kvh_l1_evict_rec(l1, shard, recs[i], &memory);

		if (bytes > 0) {
			gone->n++;
			gone->bytes += bytes;
			gone->last = memory;
		} else {
			(void)park(l1, shard, recs[i]); /* else the next round takes it */
		}
	}
	pthread_mutex_unlock(&shard->lock);
}

/* The oldest frames, up to `want` or `want_bytes`, whichever comes first. */
static struct victims evict_oldest(struct kvh_l1 *l1, uint32_t want, uint64_t want_bytes)
{
	struct victims gone = {0};

	while (gone.n < want && gone.bytes < want_bytes) {
		uint32_t now = __atomic_load_n(&l1->clock, __ATOMIC_RELAXED);
		uint32_t first, age;

		if (!find_oldest(l1, now, &first, &age))
			break;
		age -= age / AGE_PART;
		for (uint32_t i = 0; i < l1->n_shards; i++) {
			uint32_t s = (first + i) & (l1->n_shards - 1);
			uint64_t oldest = __atomic_load_n(&l1->oldest[s], __ATOMIC_RELAXED);

			if (gone.n >= want || gone.bytes >= want_bytes)
				break;
			if (oldest != 0 && age_of(now, (uint32_t)oldest) >= age)
				evict_shard(l1, &l1->shards[s], now, age, want, want_bytes,
					    &gone);
		}
	}
	return gone;
}

/* ---- places ------------------------------------------------------------- */

/* The record whose frame starts there, or KVH_REC_NONE. It may be another's as
 * soon as this returns. */
static uint32_t owner_at(const struct kvh_l1 *l1, const void *memory)
{
	uint32_t page = kvh_l1_page(l1, memory);

	return __atomic_load_n(&l1->owners[page], __ATOMIC_ACQUIRE) - 1;
}

static bool seems_evictable(const struct kvh_l1 *l1, const void *memory)
{
	uint32_t rec = owner_at(l1, memory);
	uint64_t word;

	if (rec == KVH_REC_NONE)
		return false; /* being reserved, or quarantined */
	word = kvh_word_load(&l1->recs[rec]);
	return kvh_word_state(word) == KVH_FRAME_READY && kvh_word_count(word) == 0;
}

/* Evicts the frame at this address, if nobody holds it and it is of this size
 * (0: any). Its bytes, or 0. */
static uint64_t evict_at(struct kvh_l1 *l1, const void *memory, uint64_t size)
{
	uint32_t rec = owner_at(l1, memory);
	struct kvh_l1_shard *shard;
	struct kvh_index_rec *r;
	const void *where;
	uint64_t bytes = 0;

	if (rec == KVH_REC_NONE)
		return 0;
	r = &l1->recs[rec];
	shard = kvh_l1_shard_of(l1, rec);
	pthread_mutex_lock(&shard->lock);
	/* What was read without the lock may be the past. READY frames of this
	 * shard do not change while it is locked; of another shard is not ours. */
	if (kvh_word_state(kvh_word_load(r)) == KVH_FRAME_READY &&
	    kvh_l1_shard_of(l1, rec) == shard && owner_at(l1, memory) == rec &&
	    (size == 0 || kvh_arena_frame_bytes(l1->arena, memory) == size))
		bytes = kvh_l1_evict_rec(l1, shard, rec, &where);
	pthread_mutex_unlock(&shard->lock);
	return bytes;
}

static void count_evicted(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Calls visit for each frame in [lo, hi) until it returns false; then returns
 * that frame, or else NULL. */
static void *visit_frames(struct kvh_l1 *l1, const void *lo, const void *hi,
			  bool (*visit)(struct kvh_l1 *l1, const void *memory, uint64_t arg),
			  uint64_t arg)
{
	void *frames[LIST_FRAMES];
	uint32_t n;

	do {
		n = kvh_arena_list(l1->arena, lo, hi, frames, LIST_FRAMES);
		for (uint32_t i = 0; i < n; i++)
			if (!visit(l1, frames[i], arg))
				return frames[i];
		if (n > 0)
			lo = (const char *)frames[n - 1] + 1;
	} while (n == LIST_FRAMES);
	return NULL;
}

static bool visit_check(struct kvh_l1 *l1, const void *memory, uint64_t arg)
{
	(void)arg;
	return seems_evictable(l1, memory);
}

static bool visit_evict(struct kvh_l1 *l1, const void *memory, uint64_t arg)
{
	(void)arg;
	if (evict_at(l1, memory, 0) == 0)
		return false;
	count_evicted(&l1->evicted_alloc, 1);
	return true;
}

/* Goes on until one of the size could be evicted. */
static bool visit_evict_one(struct kvh_l1 *l1, const void *memory, uint64_t size)
{
	if (!seems_evictable(l1, memory) || evict_at(l1, memory, size) == 0)
		return true;
	count_evicted(&l1->evicted_alloc, 1);
	return false;
}

/* Empties a range. NULL, or a frame in it that stays. */
static void *clear_range(struct kvh_l1 *l1, const void *lo, const void *hi)
{
	void *in_the_way = visit_frames(l1, lo, hi, visit_check, 0);

	if (in_the_way != NULL)
		return in_the_way;
	return visit_frames(l1, lo, hi, visit_evict, 0);
}

static bool clear_around(struct kvh_l1 *l1, uint64_t bytes, const void *memory)
{
	void *lo, *hi;

	return kvh_arena_window(l1->arena, bytes, memory, &lo, &hi) &&
	       clear_range(l1, lo, hi) == NULL;
}

/* Anywhere: one frame of the size, or else a range that can be emptied. */
static bool sweep(struct kvh_l1 *l1, uint64_t bytes)
{
	uint64_t span;
	const char *at = kvh_arena_base(l1->arena, &span);
	const char *end = at + span;
	void *lo, *hi;

	if (visit_frames(l1, at, end, visit_evict_one, bytes) != NULL)
		return true;
	while (at < end && kvh_arena_window(l1->arena, bytes, at, &lo, &hi)) {
		const void *in_the_way = clear_range(l1, lo, hi);
		const char *next;

		if (in_the_way == NULL)
			return true;
		next = kvh_arena_slab_end(l1->arena, in_the_way);
		at = next > at ? next : (const char *)hi;
	}
	return false;
}

/* ---- interface ---------------------------------------------------------- */

static uint32_t alloc_more(struct kvh_l1 *l1, uint64_t bytes, uint32_t n, void **frames)
{
	int got = kvh_arena_alloc(l1->arena, bytes, n, frames);

	assert(got >= 0); /* sizes were checked */
	return got > 0 ? (uint32_t)got : 0;
}

uint32_t kvh_l1_alloc(struct kvh_l1 *l1, uint64_t bytes, uint32_t n, void **frames)
{
	uint32_t got = alloc_more(l1, bytes, n, frames);
	uint32_t more;

	for (uint32_t tries = 0; got < n && tries < TRIES_MAX; tries++) {
		struct victims gone = evict_oldest(l1, n - got, (n - got) * bytes);

		if (gone.n == 0) /* all that is left is held: sweeping finds nothing */
			return got;
		count_evicted(&l1->evicted_alloc, gone.n);
		more = alloc_more(l1, bytes, n - got, frames + got);
		if (more == 0 && clear_around(l1, bytes, gone.last))
			more = alloc_more(l1, bytes, n - got, frames + got);
		got += more;
		tries = more > 0 ? 0 : tries;
	}
	for (uint32_t sweeps = 0; got < n && sweeps < SWEEPS_MAX; sweeps++) {
		if (!sweep(l1, bytes))
			break;
		more = alloc_more(l1, bytes, n - got, frames + got);
		got += more;
		sweeps = more > 0 ? 0 : sweeps;
	}
	return got;
}

uint64_t kvh_l1_evict(struct kvh_l1 *l1, uint64_t target_bytes)
{
	struct kvh_arena_stats stats;
	struct victims gone;
	uint64_t bytes = 0;

	for (;;) {
		kvh_arena_stats(l1->arena, &stats);
		if (stats.used_bytes <= target_bytes)
			return bytes;
		gone = evict_oldest(l1, UINT32_MAX, stats.used_bytes - target_bytes);
		if (gone.n == 0)
			return bytes;
		count_evicted(&l1->evicted_background, gone.n);
		bytes += gone.bytes;
	}
}
