/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_demote.c - frames that are not in L2 yet: eviction does not take them but
 * puts them in line, from where they go to L2 before they go from here. Any
 * thread.
 *
 *   LISTED, dirty --met--> LINE --take--> held, PARKED --demoted--> ABSENT, or LISTED
 */
#include "host/l1_batch.h"
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

	kvh_l1_lock(shard);
	word = __atomic_fetch_and(&l1->recs[rec].word, ~KVH_WORD_DIRTY, __ATOMIC_ACQ_REL);
	if (kvh_word_state(word) == KVH_FRAME_READY && kvh_word_place(word) == KVH_PLACE_LINE)
		kvh_l1_relist(l1, shard, rec, false);
	pthread_mutex_unlock(&shard->lock);
}

bool kvh_l1_is_dirty(const struct kvh_l1 *l1, kvh_frame frame)
{
	return (kvh_word_load(&l1->recs[kvh_l1_rec(l1, frame)]) & KVH_WORD_DIRTY) != 0;
}

/* ---- on the way to L2 ---------------------------------------------------- */

uint64_t kvh_l1_coming(const struct kvh_l1 *l1)
{
	return __atomic_load_n(&l1->line_bytes, __ATOMIC_RELAXED) +
	       __atomic_load_n(&l1->demoting_bytes, __ATOMIC_RELAXED);
}

/* What others add or take meanwhile is in both: a hint. */
static void wanted_move(struct kvh_l1 *l1, uint64_t at_least, uint64_t less)
{
	uint64_t old = __atomic_load_n(&l1->demote_wanted, __ATOMIC_RELAXED), to;

	do {
		to = old > less ? old - less : 0;
		to = to > at_least ? to : at_least;
	} while (!__atomic_compare_exchange_n(&l1->demote_wanted, &old, to, true,
					      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

void kvh_l1_demote_want(struct kvh_l1 *l1, uint64_t bytes)
{
	if (__atomic_load_n(&l1->n_line, __ATOMIC_RELAXED) == 0)
		return;
	wanted_move(l1, bytes, 0);
	if (l1->demote != NULL)
		l1->demote(l1->demote_arg);
}

uint64_t kvh_l1_demote_lacks(const struct kvh_l1 *l1)
{
	uint64_t wanted = __atomic_load_n(&l1->demote_wanted, __ATOMIC_RELAXED);
	uint64_t out = __atomic_load_n(&l1->demoting_bytes, __ATOMIC_RELAXED);

	if (__atomic_load_n(&l1->n_line, __ATOMIC_RELAXED) == 0)
		return 0;
	return wanted > out ? wanted - out : 0;
}

void kvh_l1_demoter_set(struct kvh_l1 *l1, void (*demote)(void *arg), void *arg)
{
	l1->demote = demote;
	l1->demote_arg = arg;
}

/* Under the lock, of a READY frame. */
static kvh_frame hold_rec(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec)
{
	kvh_l1_ref(l1, rec);
	(void)__atomic_fetch_add(&shard->holds, 1, __ATOMIC_RELAXED);
	return kvh_l1_value(rec, kvh_word_load(&l1->recs[rec]));
}

struct taking {
	kvh_frame *frames;
	uint32_t n, max;
	uint64_t bytes, max_bytes;
	uint32_t now;
	uint32_t ages[KVH_SHARDS_MAX]; /* of the first in each shard's line, + 1; 0: none */
};

static bool has_enough(const struct taking *t)
{
	return t->n == t->max || t->bytes >= t->max_bytes;
}

static uint32_t first_age(const struct kvh_l1 *l1, const struct kvh_l1_shard *shard,
			  const struct taking *t)
{
	if (shard->line.n == 0)
		return 0;
	return kvh_l1_age(t->now, l1->items.links[shard->line.oldest].stamp) + 1;
}

/* From one shard, what is as old as all others. */
static void take_line(struct kvh_l1 *l1, uint32_t s, uint32_t age, struct taking *t)
{
	struct kvh_l1_shard *shard = &l1->shards[s];
	uint32_t before = t->n;
	uint64_t bytes_before = t->bytes;

	kvh_l1_lock(shard);
	while (!has_enough(t) && (t->ages[s] = first_age(l1, shard, t)) >= age) {
		uint32_t rec = shard->line.oldest;

		/* Leased meanwhile, too: it is as well to write it now. */
		t->frames[t->n++] = hold_rec(l1, shard, rec);
		t->bytes += kvh_l1_rec_bytes(l1, rec);
		(void)kvh_l1_set_aside(l1, shard, rec, KVH_PLACE_PARKED);
	}
	(void)__atomic_fetch_add(&l1->n_demoting, t->n - before, __ATOMIC_RELAXED);
	(void)__atomic_fetch_add(&l1->demoting_bytes, t->bytes - bytes_before,
				 __ATOMIC_RELAXED);
	pthread_mutex_unlock(&shard->lock);
}

/* The shard with the oldest; *age_p is where another one's turn comes, at least 1. */
static uint32_t oldest_shard(const struct kvh_l1 *l1, const struct taking *t, uint32_t *age_p)
{
	uint32_t oldest = 0, second = 1;

	for (uint32_t s = 1; s < l1->n_shards; s++) {
		uint32_t age = t->ages[s];

		if (age > t->ages[oldest]) {
			age = t->ages[oldest];
			oldest = s;
		}
		second = age > second ? age : second;
	}
	*age_p = second;
	return oldest;
}

uint32_t kvh_l1_demote_take(struct kvh_l1 *l1, kvh_frame *frames, uint32_t max,
			    uint64_t max_bytes)
{
	struct taking t = {.frames = frames, .max = max, .max_bytes = max_bytes};
	uint32_t s, age;

	if (__atomic_load_n(&l1->n_line, __ATOMIC_RELAXED) == 0)
		return 0;
	t.now = __atomic_load_n(&l1->clock, __ATOMIC_RELAXED);
	for (s = 0; s < l1->n_shards; s++) {
		kvh_l1_lock(&l1->shards[s]);
		t.ages[s] = first_age(l1, &l1->shards[s], &t);
		pthread_mutex_unlock(&l1->shards[s].lock);
	}
	while (!has_enough(&t)) {
		s = oldest_shard(l1, &t, &age);
		if (t.ages[s] == 0)
			break;
		take_line(l1, s, age, &t);
	}
	return t.n;
}

static void demote_ended(struct kvh_l1 *l1, uint64_t bytes)
{
	(void)__atomic_fetch_sub(&l1->n_demoting, 1, __ATOMIC_RELAXED);
	(void)__atomic_fetch_sub(&l1->demoting_bytes, bytes, __ATOMIC_RELAXED);
}

void kvh_l1_demoted(struct kvh_l1 *l1, kvh_frame frame, bool done)
{
	uint32_t rec = kvh_l1_rec(l1, frame);
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	uint64_t bytes = kvh_l1_rec_bytes(l1, rec);
	struct kvh_l1_evicted gone = {.frames = 0};

	if (done) {
		kvh_l1_lock(shard);
		(void)__atomic_fetch_and(&l1->recs[rec].word, ~KVH_WORD_DIRTY,
					 __ATOMIC_ACQ_REL);
		if (kvh_l1_evict_rec(l1, shard, rec, 1, &gone) > 0)
			(void)__atomic_fetch_sub(&shard->holds, 1, __ATOMIC_RELAXED);
		kvh_l1_unlock(l1, shard);
	}
	if (gone.frames > 0) {
		(void)__atomic_fetch_add(&l1->evicted_background, 1, __ATOMIC_RELAXED);
		wanted_move(l1, 0, bytes);
	} else {
		kvh_l1_unhold(l1, frame);
	}
	kvh_l1_evict_end(l1, &gone);
	demote_ended(l1, bytes);
}

void kvh_l1_demote_late(struct kvh_l1 *l1, kvh_frame frame)
{
	uint32_t rec = kvh_l1_rec(l1, frame);

	(void)__atomic_fetch_and(&l1->recs[rec].word, ~KVH_WORD_DIRTY, __ATOMIC_ACQ_REL);
	demote_ended(l1, kvh_l1_rec_bytes(l1, rec));
}

/* ---- a flush ------------------------------------------------------------- */

/* What was read without the lock is looked at again. */
static bool hold_dirty(struct kvh_l1 *l1, uint32_t rec, kvh_frame *frame_p)
{
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	uint64_t word;
	bool held = false;

	kvh_l1_lock(shard);
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
