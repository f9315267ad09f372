/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_check.c - the equations of l1_impl.h, looked up record by record. For
 * tests and debug builds, while no other thread is in L1: takes no lock.
 */
#include "host/l1_impl.h"
#include "host/log.h"

#include <inttypes.h>

struct truth {
	uint64_t frames, listed, doomed, quarantined, absent;
	uint64_t counts; /* leases and holds */
	uint64_t bytes;
};

static bool count_is_right(uint64_t word)
{
	uint32_t count = kvh_word_count(word);

	switch (kvh_word_state(word)) {
	case KVH_FRAME_ABSENT: return count == 0 && (word & KVH_WORD_PARK) == 0;
	case KVH_FRAME_FILLING: return count == 1;
	case KVH_FRAME_CANCELLED: return count == 1 && (word & KVH_WORD_PARK) == 0;
	case KVH_FRAME_READY: return count > 0 || (word & KVH_WORD_PARK) == 0;
	case KVH_FRAME_DOOMED: return count > 0 && (word & KVH_WORD_PARK) == 0;
	case KVH_FRAME_QUARANTINED: return (word & KVH_WORD_PARK) == 0;
	case KVH_FRAME_NSTATES: break;
	}
	return false;
}

static void add_state(struct truth *t, uint64_t word)
{
	switch (kvh_word_state(word)) {
	case KVH_FRAME_ABSENT: t->absent++; return;
	case KVH_FRAME_FILLING:
		t->frames++;
		t->listed += (word & KVH_WORD_PARK) == 0;
		return;
	case KVH_FRAME_CANCELLED: t->doomed++; return;
	case KVH_FRAME_READY:
		t->frames++;
		t->listed += (word & KVH_WORD_PARK) == 0;
		break;
	case KVH_FRAME_DOOMED: t->doomed++; break;
	case KVH_FRAME_QUARANTINED: t->quarantined++; break;
	case KVH_FRAME_NSTATES: return;
	}
	t->counts += kvh_word_count(word);
}

static const char *rec_fault(struct kvh_l1 *l1, uint32_t rec, struct truth *t)
{
	const struct kvh_index_rec *r = &l1->recs[rec];
	enum kvh_frame_state state = kvh_word_state(r->word);
	const struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);

	if (!count_is_right(r->word))
		return "a count that its state does not have";
	if ((r->word & KVH_WORD_WATCH) != 0 && state != KVH_FRAME_FILLING)
		return "watched, and not filling";
	add_state(t, r->word);
	if (state == KVH_FRAME_ABSENT)
		return NULL;
	if ((state == KVH_FRAME_FILLING || state == KVH_FRAME_READY) &&
	    kvh_index_find(&shard->index, kvh_index_rec_place(r), r->hash, r->family) != rec)
		return "a frame that the index does not find";
	if (r->page == KVH_PAGE_UNSET)
		return "a frame without memory";
	if (l1->owners[r->page] != rec + 1)
		return "memory that has another owner";
	t->bytes += kvh_arena_frame_bytes(l1->arena, kvh_l1_memory(l1, r->page));
	return NULL;
}

static const char *list_fault(struct kvh_l1 *l1, const struct kvh_l1_shard *shard,
			      struct truth *seen)
{
	uint32_t newer = KVH_REC_NONE;

	for (uint32_t rec = shard->newest; rec != KVH_REC_NONE; rec = l1->links[rec].older) {
		uint64_t word = l1->recs[rec].word;

		if (l1->links[rec].newer != newer || seen->listed++ > l1->pool.max)
			return "an LRU list that is not one";
		if (kvh_l1_shard_of(l1, rec) != shard || (word & KVH_WORD_PARK) != 0 ||
		    (kvh_word_state(word) != KVH_FRAME_READY &&
		     kvh_word_state(word) != KVH_FRAME_FILLING))
			return "an LRU list with a frame that should not be in it";
		newer = rec;
	}
	return shard->oldest == newer ? NULL : "an LRU list with another end";
}

static const char *shard_fault(struct kvh_l1 *l1, const struct kvh_l1_shard *shard,
			       struct truth *seen, uint64_t *holds)
{
	uint64_t unused = 0;

	for (uint32_t rec = shard->unused; rec != KVH_REC_NONE; rec = l1->links[rec].older)
		unused++;
	if (unused != shard->n_unused)
		return "unused records != n_unused";
	if (shard->frames != kvh_index_count(&shard->index))
		return "frames != keys in the index";
	seen->absent += unused;
	seen->frames += shard->frames;
	seen->doomed += shard->doomed;
	seen->quarantined += shard->quarantined;
	*holds += shard->holds;
	return list_fault(l1, shard, seen);
}

static const char *sum_fault(const struct truth *is, const struct truth *seen)
{
	if (is->frames != seen->frames)
		return "FILLING + READY != frames of all shards";
	if (is->listed != seen->listed)
		return "frames that are not parked != LRU lists";
	if (is->doomed != seen->doomed)
		return "DOOMED + CANCELLED != doomed of all shards";
	if (is->quarantined != seen->quarantined)
		return "QUARANTINED != quarantined of all shards";
	if (is->absent != seen->absent)
		return "ABSENT records != unused records";
	if (is->counts != seen->counts)
		return "sum of counts != leases + holds";
	return is->bytes != seen->bytes ? "sum of frames' bytes != used_bytes" : NULL;
}

static const char *l1_fault(struct kvh_l1 *l1)
{
	struct truth is = {0}, seen = {0};
	struct kvh_arena_stats arena;
	const char *fault = NULL;
	uint64_t holds = 0;

	for (uint32_t rec = 0; rec < l1->pool.fresh && fault == NULL; rec++)
		fault = rec_fault(l1, rec, &is);
	for (uint32_t i = 0; i < l1->n_shards && fault == NULL; i++)
		fault = shard_fault(l1, &l1->shards[i], &seen, &holds);
	if (fault != NULL)
		return fault;
	for (uint32_t rec = l1->pool.unused; rec != KVH_REC_NONE; rec = l1->links[rec].older)
		seen.absent++;
	kvh_arena_stats(l1->arena, &arena);
	seen.bytes = arena.used_bytes;
	seen.counts = kvh_clients_leases(l1->clients) + holds;
	return sum_fault(&is, &seen);
}

bool kvh_l1_check(struct kvh_l1 *l1)
{
	const char *fault = l1_fault(l1);

	if (fault != NULL)
		kvh_err("L1: %s", fault);
	return fault == NULL && kvh_arena_check(l1->arena);
}
