/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_frame.c - the life of one frame's record: its state and count, its place
 * with its shard and its space, and where records come from. Any thread, under the
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
	uint64_t keep = to == KVH_FRAME_READY ? *word & (KVH_WORD_PLACE | KVH_WORD_DIRTY |
							 KVH_WORD_TEMP | KVH_WORD_GUESS)
					      : 0;

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
	l1->items.links[rec].older = *list;
	*list = rec;
}

static uint32_t pop_unused(struct kvh_l1 *l1, uint32_t *list)
{
	uint32_t rec = *list;

	*list = l1->items.links[rec].older;
	return rec;
}

static void recs_from_pool(struct kvh_l1 *l1, struct kvh_l1_shard *shard)
{
	struct kvh_rec_pool *pool = &l1->pool;

	kvh_spin_lock(&pool->lock);
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
	kvh_spin_lock(&l1->pool.lock);
	for (; shard->n_unused > RECS_MOVED; shard->n_unused--)
		push_unused(l1, &l1->pool.unused, pop_unused(l1, &shard->unused));
	pthread_mutex_unlock(&l1->pool.lock);
}

void kvh_l1_give(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec)
{
	uint32_t page = l1->recs[rec].page;

	if (page != KVH_PAGE_UNSET) {
		void *memory = kvh_l1_memory(l1, page);

		kvh_space_uncharge(&l1->spaces, kvh_l1_space_of(l1, rec),
				   kvh_arena_frame_bytes(l1->arena, memory));
		__atomic_store_n(&l1->owners[page], 0, __ATOMIC_RELAXED);
		kvh_arena_free(l1->arena, memory);
	}
	kvh_l1_rec_unused(l1, shard, rec);
}

void kvh_l1_unfind(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint64_t word)
{
	kvh_index_erase(&shard->index, kvh_index_rec_place(&l1->recs[rec]), rec);
	kvh_l1_unlist(l1, shard, rec, word);
	kvh_l1_kin_leave(l1, shard, rec);
	kvh_l1_count(&shard->frames, UINT64_MAX);
	if ((word & KVH_WORD_GUESS) != 0 && kvh_word_state(word) == KVH_FRAME_READY)
		(void)__atomic_fetch_add(&l1->guesses_wasted, 1, __ATOMIC_RELAXED);
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

	kvh_l1_lock(shard);
	word = kvh_word_load(&l1->recs[rec]);
	(void)kvh_l1_move(&l1->recs[rec], &word, KVH_FRAME_ABSENT, 0);
	kvh_l1_count(&shard->doomed, UINT64_MAX);
	kvh_l1_give(l1, shard, rec);
	pthread_mutex_unlock(&shard->lock);
}

/* By who took the last count. The frame may be gone by now, and the record
 * another's: then the lock is some shard's, and the generation is not ours. */
static void idle(struct kvh_l1 *l1, uint32_t rec, uint32_t generation)
{
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	struct kvh_index_rec *r = &l1->recs[rec];
	struct kvh_l1_evicted gone = {.frames = 0};
	uint64_t word;

	kvh_l1_lock(shard);
	word = kvh_word_load(r);
	if (kvh_word_generation(word) == generation &&
	    kvh_word_state(word) == KVH_FRAME_READY && kvh_word_count(word) == 0) {
		if (kvh_word_place(word) == KVH_PLACE_PARKED)
			kvh_l1_relist(l1, shard, rec, true);
		if ((word & KVH_WORD_TEMP) != 0)
			(void)kvh_l1_evict_rec(l1, shard, rec, 0, &gone);
	}
	kvh_l1_unlock(l1, shard);
	kvh_l1_evict_end(l1, &gone);
}

/* A count of a READY frame is 0 now. */
static void ended(struct kvh_l1 *l1, uint32_t rec, uint64_t word)
{
	if (kvh_word_place(word) == KVH_PLACE_PARKED || (word & KVH_WORD_TEMP) != 0)
		idle(l1, rec, kvh_word_generation(word));
}

void kvh_l1_published(struct kvh_l1 *l1, uint32_t rec, uint64_t word)
{
	if (kvh_word_place(word) == KVH_PLACE_PARKED)
		idle(l1, rec, kvh_word_generation(word));
}

void kvh_l1_unref(struct kvh_l1 *l1, uint32_t rec)
{
	uint64_t word = __atomic_fetch_sub(&l1->recs[rec].word, KVH_WORD_ONE, __ATOMIC_ACQ_REL);

	assert(kvh_word_count(word) > 0);
	if (kvh_word_count(word) > 1)
		return;
	if (kvh_word_state(word) == KVH_FRAME_DOOMED)
		free_doomed(l1, rec);
	else if (kvh_word_state(word) == KVH_FRAME_READY)
		ended(l1, rec, word);
}

static bool reuse_memory(struct kvh_l1_reuse *reuse, void *memory, uint64_t bytes)
{
	if (reuse == NULL || reuse->n == reuse->max || reuse->bytes != bytes)
		return false;
	reuse->memory[reuse->n++] = memory;
	return true;
}

uint64_t kvh_l1_evict_rec(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec,
			  uint32_t holds, struct kvh_l1_evicted *gone)
{
	struct kvh_index_rec *r = &l1->recs[rec];
	uint64_t word = kvh_word_load(r);
	uint32_t space = kvh_l1_space_of(l1, rec);
	void *memory;
	uint64_t bytes;

	/* READY with nobody: only this lock's holder can change that. */
	do {
		if (kvh_word_state(word) != KVH_FRAME_READY || kvh_word_count(word) != holds ||
		    (word & KVH_WORD_DIRTY) != 0)
			return 0;
	} while (!kvh_l1_move(r, &word, KVH_FRAME_ABSENT, 0));
	kvh_l1_unfind(l1, shard, rec, word);
	kvh_order_evicted(&kvh_l1_slot_of(l1, shard, rec)->lane->order, rec,
			  kvh_l1_identity(l1, rec));
	if (gone->space != space || gone->n_memory == KVH_EVICTED_MAX)
		kvh_l1_evict_end(l1, gone);
	memory = kvh_l1_memory(l1, r->page);
	bytes = kvh_arena_frame_bytes(l1->arena, memory);
	gone->space = space;
	gone->frames++;
	gone->bytes += bytes;
	gone->last = memory;
	__atomic_store_n(&l1->owners[r->page], 0, __ATOMIC_RELAXED);
	if (!reuse_memory(gone->reuse, memory, bytes))
		gone->memory[gone->n_memory++] = memory;
	kvh_l1_rec_unused(l1, shard, rec);
	return bytes;
}

void kvh_l1_evict_end(struct kvh_l1 *l1, struct kvh_l1_evicted *gone)
{
	struct kvh_l1_space *space = &l1->spaces.space[gone->space];

	if (gone->frames == 0)
		return;
	if (gone->n_memory > 0)
		kvh_arena_free_many(l1->arena, gone->memory, gone->n_memory);
	kvh_space_uncharge(&l1->spaces, gone->space, gone->bytes);
	(void)__atomic_fetch_add(&space->evicted, gone->frames, __ATOMIC_RELAXED);
	gone->frames = 0;
	gone->bytes = 0;
	gone->n_memory = 0;
}
