/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_frame.c - the life of one frame's record: its state and count, its place
 * in the shard's LRU list, and where records come from. Any thread, under the
 * shard's lock where l1_impl.h says so.
 *
 *                     publish
 *    ABSENT --> FILLING --> READY --(held)--> DOOMED --> ABSENT
 *      ^          |  |        |                 |
 *      |  abort   |  | erase  | evict, erase    |
 *      |<---------'  v        | (nobody         |
 *      |<---- CANCELLED       |  holds it)      |
 *      |        |             |                 |
 *      |<-------|-------------'                 |
 *               |             |                 |
 *               `-------------+--> QUARANTINED <'   also from FILLING; never left
 */
#include "host/l1_impl.h"
#include "host/log.h"

#include <stdlib.h>

#define RECS_MOVED 32u /* between a shard and the pool, at once */

#define TO(state) (1u << KVH_FRAME_##state)
static const uint8_t state_next[KVH_FRAME_NSTATES] = {
	[KVH_FRAME_ABSENT] = TO(FILLING),
	[KVH_FRAME_FILLING] = TO(READY) | TO(ABSENT) | TO(CANCELLED) | TO(QUARANTINED),
	[KVH_FRAME_READY] = TO(ABSENT) | TO(DOOMED) | TO(QUARANTINED),
	[KVH_FRAME_DOOMED] = TO(ABSENT) | TO(QUARANTINED),
	[KVH_FRAME_CANCELLED] = TO(ABSENT) | TO(QUARANTINED),
	[KVH_FRAME_QUARANTINED] = 0,
};
#undef TO

static const char *state_name(enum kvh_frame_state state)
{
	switch (state) {
	case KVH_FRAME_ABSENT: return "absent";
	case KVH_FRAME_FILLING: return "filling";
	case KVH_FRAME_READY: return "ready";
	case KVH_FRAME_DOOMED: return "doomed";
	case KVH_FRAME_CANCELLED: return "cancelled";
	case KVH_FRAME_QUARANTINED: return "quarantined";
	case KVH_FRAME_NSTATES: break;
	}
	return "?";
}

/* Also in release builds: on the wrong way, another's frame would be freed. */
static void check_move(enum kvh_frame_state from, enum kvh_frame_state to)
{
	if ((state_next[from] >> to & 1) != 0)
		return;
	kvh_err("a frame went from %s to %s: somebody gave back what was not theirs",
		state_name(from), state_name(to));
	abort();
}

bool kvh_l1_move(struct kvh_index_rec *rec, uint64_t *word, enum kvh_frame_state to,
		 uint32_t count)
{
	enum kvh_frame_state from = kvh_word_state(*word);
	uint64_t generation = *word >> 32;
	uint64_t keep = to == KVH_FRAME_READY ? *word & KVH_WORD_PARK : 0;

	check_move(from, to);
	if (from == KVH_FRAME_ABSENT)
		generation = generation == UINT32_MAX ? 1 : generation + 1;
	return kvh_word_swap(rec, word,
			     generation << 32 | (uint64_t)count * KVH_WORD_ONE | keep |
				     (uint64_t)to);
}

/* ---- records ------------------------------------------------------------ */

static void push_unused(struct kvh_l1 *l1, uint32_t *list, uint32_t rec)
{
	l1->links[rec].older = *list;
	*list = rec;
}

static uint32_t pop_unused(struct kvh_l1 *l1, uint32_t *list)
{
	uint32_t rec = *list;

	*list = l1->links[rec].older;
	return rec;
}

static void recs_from_pool(struct kvh_l1 *l1, struct kvh_l1_shard *shard)
{
	struct kvh_rec_pool *pool = &l1->pool;

	pthread_mutex_lock(&pool->lock);
	for (; shard->n_unused < RECS_MOVED; shard->n_unused++) {
		if (pool->unused != KVH_REC_NONE)
			push_unused(l1, &shard->unused, pop_unused(l1, &pool->unused));
		else if (pool->fresh < pool->max)
			push_unused(l1, &shard->unused, pool->fresh++);
		else
			break;
	}
	pthread_mutex_unlock(&pool->lock);
}

uint32_t kvh_l1_rec_new(struct kvh_l1 *l1, struct kvh_l1_shard *shard)
{
	if (shard->n_unused == 0)
		recs_from_pool(l1, shard);
	if (shard->n_unused == 0)
		return KVH_REC_NONE;
	shard->n_unused--;
	return pop_unused(l1, &shard->unused);
}

void kvh_l1_rec_unused(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec)
{
	push_unused(l1, &shard->unused, rec);
	if (++shard->n_unused < 2 * RECS_MOVED)
		return;
	pthread_mutex_lock(&l1->pool.lock);
	for (; shard->n_unused > RECS_MOVED; shard->n_unused--)
		push_unused(l1, &l1->pool.unused, pop_unused(l1, &shard->unused));
	pthread_mutex_unlock(&l1->pool.lock);
}

void kvh_l1_give(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec)
{
	uint32_t page = l1->recs[rec].page;

	if (page != KVH_PAGE_UNSET) {
		__atomic_store_n(&l1->owners[page], 0, __ATOMIC_RELAXED);
		kvh_arena_free(l1->arena, kvh_l1_memory(l1, page));
	}
	kvh_l1_rec_unused(l1, shard, rec);
}

/* ---- LRU list ----------------------------------------------------------- */

/* Where others look for the shard with the oldest frame, without its lock. */
static void show_oldest(struct kvh_l1 *l1, const struct kvh_l1_shard *shard)
{
	uint64_t value = 0;

	if (shard->oldest != KVH_REC_NONE)
		value = UINT64_C(1) << 32 | l1->links[shard->oldest].stamp;
	__atomic_store_n(&l1->oldest[shard - l1->shards], value, __ATOMIC_RELAXED);
}

void kvh_l1_link(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint32_t after,
		 uint32_t stamp)
{
	struct kvh_lru_link *link = &l1->links[rec];

	link->stamp = stamp;
	link->newer = after;
	link->older = after != KVH_REC_NONE ? l1->links[after].older : shard->newest;
	if (after != KVH_REC_NONE)
		l1->links[after].older = rec;
	else
		shard->newest = rec;
	if (link->older != KVH_REC_NONE) {
		l1->links[link->older].newer = rec;
	} else {
		shard->oldest = rec;
		show_oldest(l1, shard);
	}
}

void kvh_l1_unlink(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec)
{
	const struct kvh_lru_link *link = &l1->links[rec];

	if (link->newer != KVH_REC_NONE)
		l1->links[link->newer].older = link->older;
	else
		shard->newest = link->older;
	if (link->older != KVH_REC_NONE) {
		l1->links[link->older].newer = link->newer;
	} else {
		shard->oldest = link->newer;
		show_oldest(l1, shard);
	}
}

void kvh_l1_unfind(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint64_t word)
{
	kvh_index_erase(&shard->index, kvh_index_rec_place(&l1->recs[rec]), rec);
	if ((word & KVH_WORD_PARK) == 0)
		kvh_l1_unlink(l1, shard, rec);
	kvh_l1_count(&shard->frames, UINT64_MAX);
}

/* ---- counts ------------------------------------------------------------- */

void kvh_l1_ref(struct kvh_l1 *l1, uint32_t rec)
{
	uint64_t word = __atomic_fetch_add(&l1->recs[rec].word, KVH_WORD_ONE, __ATOMIC_ACQ_REL);

	assert(kvh_word_count(word) < KVH_COUNT_MAX);
	assert(kvh_word_count(word) > 0 || kvh_word_state(word) == KVH_FRAME_READY);
	(void)word;
}

/* Nobody else can reach the frame any more. */
static void free_doomed(struct kvh_l1 *l1, uint32_t rec)
{
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	uint64_t word;

	pthread_mutex_lock(&shard->lock);
	word = kvh_word_load(&l1->recs[rec]);
	(void)kvh_l1_move(&l1->recs[rec], &word, KVH_FRAME_ABSENT, 0);
	kvh_l1_count(&shard->doomed, UINT64_MAX);
	kvh_l1_give(l1, shard, rec);
	pthread_mutex_unlock(&shard->lock);
}

void kvh_l1_unpark(struct kvh_l1 *l1, uint32_t rec, uint32_t generation)
{
	/* The frame may be gone by now, and the record another's: then the lock is
	 * some shard's, and the generation is not ours. */
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	struct kvh_index_rec *r = &l1->recs[rec];
	uint64_t word, idle;

	pthread_mutex_lock(&shard->lock);
	word = kvh_word_load(r);
	idle = (uint64_t)generation << 32 | KVH_WORD_PARK | KVH_FRAME_READY;
	if (word == idle && kvh_word_swap(r, &word, idle & ~KVH_WORD_PARK))
		kvh_l1_link(l1, shard, rec, KVH_REC_NONE, kvh_l1_tick(l1, 1));
	pthread_mutex_unlock(&shard->lock);
}

void kvh_l1_unref(struct kvh_l1 *l1, uint32_t rec)
{
	uint64_t word = __atomic_fetch_sub(&l1->recs[rec].word, KVH_WORD_ONE, __ATOMIC_ACQ_REL);

	assert(kvh_word_count(word) > 0);
	if (kvh_word_count(word) > 1)
		return;
	if (kvh_word_state(word) == KVH_FRAME_DOOMED)
		free_doomed(l1, rec);
	else if (kvh_word_state(word) == KVH_FRAME_READY && (word & KVH_WORD_PARK) != 0)
		kvh_l1_unpark(l1, rec, kvh_word_generation(word));
}

uint64_t kvh_l1_evict_rec(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec,
			  const void **memory_p)
{
	struct kvh_index_rec *r = &l1->recs[rec];
	uint64_t word = kvh_word_load(r);
	uint64_t bytes;

	/* READY with nobody: only this lock's holder can change that. */
	if (kvh_word_state(word) != KVH_FRAME_READY || kvh_word_count(word) > 0)
		return 0;
	*memory_p = kvh_l1_memory(l1, r->page);
	bytes = kvh_arena_frame_bytes(l1->arena, *memory_p);
	if (!kvh_l1_move(r, &word, KVH_FRAME_ABSENT, 0))
		return 0;
	kvh_l1_unfind(l1, shard, rec, word);
	kvh_l1_give(l1, shard, rec);
	return bytes;
}
