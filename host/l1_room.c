/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_room.c - memory for frames, at the price of others. Any thread, under no
 * lock of L1's.
 *
 * Memory of one size is of no use to another until a slab is empty. So when
 * evicting the oldest frames did not help, the neighbours of a victim go with
 * it, as many as make room for the size that is wanted; and when these are
 * held, the whole arena is looked through for such a place. Only when there is
 * none is memory refused.
 */
#include "host/l1_impl.h"

#include <errno.h>

#define TRIES_MAX   16u /* oldest frames that may go without making room */
#define SWEEPS_MAX  64u /* places that others may take before us */
#define LIST_FRAMES 256u

/* ---- places ------------------------------------------------------------- */

/* The record whose frame starts there, or KVH_REC_NONE. It may be another's as
 * soon as this returns. */
static uint32_t owner_at(const struct kvh_l1 *l1, const void *memory)
{
	uint32_t page = kvh_l1_page(l1, memory);

	return __atomic_load_n(&l1->owners[page], __ATOMIC_ACQUIRE) - 1;
}

/* Of a record that may be another space's by now. */
static bool is_pinned(const struct kvh_l1 *l1, uint32_t rec)
{
	uint32_t lane = kvh_family_lane(&l1->families, kvh_l1_family_of(l1, rec));

	return kvh_lane_is_pinned(&l1->spaces, lane);
}

static bool seems_evictable(const struct kvh_l1 *l1, const void *memory)
{
	uint32_t rec = owner_at(l1, memory);
	uint64_t word;

	if (rec == KVH_REC_NONE)
		return false; /* being reserved, or quarantined */
	word = kvh_word_load(&l1->recs[rec]);
	return kvh_word_state(word) == KVH_FRAME_READY && kvh_word_count(word) == 0 &&
	       (word & KVH_WORD_DIRTY) == 0 && !is_pinned(l1, rec);
}

/* Evicts the frame at this address, if nobody holds it and it is of this size
 * (0: any). Its bytes, or 0. */
static uint64_t evict_at(struct kvh_l1 *l1, const void *memory, uint64_t size)
{
	uint32_t rec = owner_at(l1, memory);
	struct kvh_l1_shard *shard;
	struct kvh_index_rec *r;
	struct kvh_l1_evicted gone = {.frames = 0};
	uint64_t bytes = 0;

	if (rec == KVH_REC_NONE)
		return 0;
	r = &l1->recs[rec];
	shard = kvh_l1_shard_of(l1, rec);
	kvh_l1_lock(shard);
	/* What was read without the lock may be the past. READY frames of this
	 * shard do not change while it is locked; of another shard is not ours. */
	if (kvh_word_state(kvh_word_load(r)) == KVH_FRAME_READY &&
	    kvh_l1_shard_of(l1, rec) == shard && owner_at(l1, memory) == rec &&
	    seems_evictable(l1, memory) &&
	    (size == 0 || kvh_arena_frame_bytes(l1->arena, memory) == size))
		bytes = kvh_l1_evict_rec(l1, shard, rec, 0, &gone);
	kvh_l1_unlock(l1, shard);
	kvh_l1_evict_end(l1, &gone);
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

static uint32_t alloc_more(struct kvh_l1 *l1, int node, uint64_t bytes, uint32_t n,
			   void **frames)
{
	int got = kvh_arena_alloc_near(l1->arena, node, bytes, n, frames);

	assert(got >= 0); /* sizes were checked */
	return got > 0 ? (uint32_t)got : 0;
}

/* Victims go from the tail of a prefix on, and its frames lay side by side in
 * rising addresses, perhaps: so they do again. */
static void reverse(void **frames, uint32_t n)
{
	for (uint32_t i = 0; i < n / 2; i++) {
		void *frame = frames[i];

		frames[i] = frames[n - 1 - i];
		frames[n - 1 - i] = frame;
	}
}

uint32_t kvh_l1_alloc(struct kvh_l1 *l1, int node, uint64_t bytes, uint32_t n, void **frames)
{
	uint32_t got = alloc_more(l1, node, bytes, n, frames);
	uint32_t more;

	for (uint32_t tries = 0; got < n && tries < TRIES_MAX; tries++) {
		struct kvh_l1_reuse reuse = {
			.bytes = bytes, .max = n - got, .memory = frames + got};
		struct kvh_victims gone = kvh_l1_hunt(l1, KVH_LANE_ANY, n - got,
						      (n - got) * bytes, &reuse);

		if (gone.n == 0) /* all that is left is held: sweeping finds nothing */
			return got;
		count_evicted(&l1->evicted_alloc, gone.n);
		reverse(reuse.memory, reuse.n);
		more = reuse.n;
		if (got + more < n)
			more += alloc_more(l1, node, bytes, n - got - more,
					   frames + got + more);
		if (more == 0 && clear_around(l1, bytes, gone.last))
			more = alloc_more(l1, node, bytes, n - got, frames + got);
		got += more;
		tries = more > 0 ? 0 : tries;
	}
	for (uint32_t sweeps = 0; got < n && sweeps < SWEEPS_MAX; sweeps++) {
		if (!sweep(l1, bytes))
			break;
		more = alloc_more(l1, node, bytes, n - got, frames + got);
		got += more;
		sweeps = more > 0 ? 0 : sweeps;
	}
	return got;
}
