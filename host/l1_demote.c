/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_demote.c - frames that are not in L2 yet: eviction does not take them but
 * puts them in line, from where they go to L2 before they go from here. Any
 * thread.
 *
 *   LISTED, dirty --met--> LINE --take--> held, PARKED --demoted--> ABSENT, or LISTED
 */
#include "host/l1_impl.h"

#include <errno.h>

void kvh_l1_set_dirty(struct kvh_l1 *l1, kvh_frame frame)
{
	uint32_t rec = kvh_l1_rec(l1, frame);

	(void)__atomic_fetch_or(&l1->recs[rec].word, KVH_WORD_DIRTY, __ATOMIC_ACQ_REL);
}

void kvh_l1_set_clean(struct kvh_l1 *l1, kvh_frame frame)
{
	uint32_t rec = kvh_l1_rec(l1, frame);
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	uint64_t word;

	pthread_mutex_lock(&shard->lock);
	word = __atomic_fetch_and(&l1->recs[rec].word, ~KVH_WORD_DIRTY, __ATOMIC_ACQ_REL);
	if (kvh_word_state(word) == KVH_FRAME_READY && kvh_word_place(word) == KVH_PLACE_LINE)
		kvh_l1_relist(l1, shard, rec, false);
	pthread_mutex_unlock(&shard->lock);
}

bool kvh_l1_is_dirty(const struct kvh_l1 *l1, kvh_frame frame)
{
	return (kvh_word_load(&l1->recs[kvh_l1_rec(l1, frame)]) & KVH_WORD_DIRTY) != 0;
}

/* Under the lock, of a READY frame. */
static kvh_frame hold_rec(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec)
{
	kvh_l1_ref(l1, rec);
	(void)__atomic_fetch_add(&shard->holds, 1, __ATOMIC_RELAXED);
	return kvh_l1_value(rec, kvh_word_load(&l1->recs[rec]));
}

static uint32_t take_line(struct kvh_l1 *l1, struct kvh_l1_shard *shard, kvh_frame *frames,
			  uint32_t max)
{
	uint32_t n = 0;

	while (n < max && shard->line.n > 0) {
		uint32_t rec = shard->line.oldest;

		/* Leased meanwhile, too: it is as well to write it now. */
		frames[n++] = hold_rec(l1, shard, rec);
		(void)kvh_l1_set_aside(l1, shard, rec, KVH_PLACE_PARKED);
	}
	(void)__atomic_fetch_add(&l1->n_demoting, n, __ATOMIC_RELAXED);
	return n;
}

uint32_t kvh_l1_demote_take(struct kvh_l1 *l1, kvh_frame *frames, uint32_t max)
{
	uint32_t n = 0;

	for (uint32_t s = 0; s < l1->n_shards && n < max; s++) {
		struct kvh_l1_shard *shard = &l1->shards[s];

		if (__atomic_load_n(&l1->n_line, __ATOMIC_RELAXED) == 0)
			break;
		pthread_mutex_lock(&shard->lock);
		n += take_line(l1, shard, frames + n, max - n);
		pthread_mutex_unlock(&shard->lock);
	}
	return n;
}

void kvh_l1_demoted(struct kvh_l1 *l1, kvh_frame frame, bool done)
{
	uint32_t rec = kvh_l1_rec(l1, frame);
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	struct kvh_l1_evicted gone = {.frames = 0};

	if (done) {
		pthread_mutex_lock(&shard->lock);
		(void)__atomic_fetch_and(&l1->recs[rec].word, ~KVH_WORD_DIRTY,
					 __ATOMIC_ACQ_REL);
		if (kvh_l1_children(l1, rec) == 0 &&
		    kvh_l1_evict_rec(l1, shard, rec, 1, &gone) > 0)
			(void)__atomic_fetch_sub(&shard->holds, 1, __ATOMIC_RELAXED);
		kvh_l1_unlock(l1, shard);
	}
	if (gone.frames > 0)
		(void)__atomic_fetch_add(&l1->evicted_background, 1, __ATOMIC_RELAXED);
	else
		kvh_l1_unhold(l1, frame);
	kvh_l1_evict_end(l1, &gone);
	(void)__atomic_fetch_sub(&l1->n_demoting, 1, __ATOMIC_RELAXED);
}

/* What was read without the lock is looked at again. */
static bool hold_dirty(struct kvh_l1 *l1, uint32_t rec, kvh_frame *frame_p)
{
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	uint64_t word;
	bool held = false;

	pthread_mutex_lock(&shard->lock);
	word = kvh_word_load(&l1->recs[rec]);
	if (kvh_l1_shard_of(l1, rec) == shard && kvh_word_state(word) == KVH_FRAME_READY &&
	    (word & KVH_WORD_DIRTY) != 0) {
		*frame_p = hold_rec(l1, shard, rec);
		held = true;
	}
	pthread_mutex_unlock(&shard->lock);
	return held;
}

bool kvh_l1_next_dirty(struct kvh_l1 *l1, uint32_t *cursor, kvh_frame *frame_p)
{
	uint32_t end;

	pthread_mutex_lock(&l1->pool.lock);
	end = l1->pool.fresh;
	pthread_mutex_unlock(&l1->pool.lock);
	while (*cursor < end) {
		uint32_t rec = (*cursor)++;
		uint64_t word = kvh_word_load(&l1->recs[rec]);

		if (kvh_word_state(word) == KVH_FRAME_READY && (word & KVH_WORD_DIRTY) != 0 &&
		    hold_dirty(l1, rec, frame_p))
			return true;
	}
	return false;
}
