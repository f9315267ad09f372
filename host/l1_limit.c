/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_limit.c - what concerns all frames of one space: limits, usage, erasing. Any
 * thread, under no lock of L1's.
 */
#include "host/l1_impl.h"

#include <errno.h>

/* As far as its frames can go: what is held goes when eviction meets it again. */
static void shrink(struct kvh_l1 *l1, const struct kvh_l1_space *space)
{
	for (;;) {
		uint64_t used = __atomic_load_n(&space->used, __ATOMIC_RELAXED);
		uint64_t hard = __atomic_load_n(&space->hard, __ATOMIC_RELAXED);
		struct kvh_victims gone;

		if (used <= hard)
			return;
		gone = kvh_l1_hunt(l1, space->lane, UINT32_MAX, used - hard, NULL);
		if (gone.n == 0)
			return;
		(void)__atomic_fetch_add(&l1->evicted_quota, gone.n, __ATOMIC_RELAXED);
	}
}

int kvh_l1_limits_set(struct kvh_l1 *l1, kvh_space_t space, const struct kvh_l1_limits *limits)
{
	struct kvh_arena_stats arena;
	uint32_t number;
	int rc;

	kvh_arena_stats(l1->arena, &arena);
	rc = kvh_spaces_limit(&l1->spaces, space, arena.wanted_bytes, limits, &number);
	if (rc != 0)
		return rc;
	/* It may have been pinned, or be so no more. */
	for (uint32_t i = 0; i < l1->n_shards; i++) {
		kvh_l1_lock(&l1->shards[i]);
		kvh_l1_show_oldest(l1, &l1->shards[i]);
		pthread_mutex_unlock(&l1->shards[i].lock);
	}
	shrink(l1, &l1->spaces.space[number]);
	return 0;
}

static uint64_t limit_of(const uint64_t *limit)
{
	uint64_t bytes = __atomic_load_n(limit, __ATOMIC_RELAXED);

	return bytes != UINT64_MAX ? bytes : 0;
}

int kvh_l1_space_stats(const struct kvh_l1 *l1, kvh_space_t id,
		       struct kvh_l1_space_stats *stats)
{
	uint32_t number = kvh_spaces_find(&l1->spaces, id);
	const struct kvh_l1_space *space;

	if (number == KVH_SPACE_NONE)
		return -ENOENT;
	space = &l1->spaces.space[number];
	*stats = (struct kvh_l1_space_stats){
		.used_bytes = __atomic_load_n(&space->used, __ATOMIC_RELAXED),
		.evicted = __atomic_load_n(&space->evicted, __ATOMIC_RELAXED),
		.limits.soft_bytes = limit_of(&space->soft),
		.limits.hard_bytes = limit_of(&space->hard),
		.limits.pinned = kvh_lane_is_pinned(&l1->spaces, space->lane),
	};
	return 0;
}

/* ---- erase -------------------------------------------------------------- */

static bool is_of(const struct kvh_l1 *l1, uint32_t rec, uint32_t space)
{
	enum kvh_frame_state state = kvh_word_state(kvh_word_load(&l1->recs[rec]));

	return (state == KVH_FRAME_READY || state == KVH_FRAME_FILLING) &&
	       kvh_l1_space_of(l1, rec) == space;
}

/* What was read without the lock is looked at again. */
static bool erase_of(struct kvh_l1 *l1, uint32_t rec, uint32_t space)
{
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	bool erased = false;

	kvh_l1_lock(shard);
	if (kvh_l1_shard_of(l1, rec) == shard && is_of(l1, rec, space)) {
		kvh_l1_erase_rec(l1, shard, rec);
		erased = true;
	}
	kvh_l1_unlock(l1, shard);
	return erased;
}

uint64_t kvh_l1_erase_space(struct kvh_l1 *l1, kvh_space_t id)
{
	uint32_t space = kvh_spaces_find(&l1->spaces, id);
	uint64_t erased = 0;
	uint32_t end;

	if (space == KVH_SPACE_NONE)
		return 0;
	pthread_mutex_lock(&l1->pool.lock);
	end = l1->pool.fresh;
	pthread_mutex_unlock(&l1->pool.lock);
	/* A frame that was there has one of these records until it is gone. */
	for (uint32_t rec = 0; rec < end; rec++)
		if (is_of(l1, rec, space) && erase_of(l1, rec, space))
			erased++;
	return erased;
}
