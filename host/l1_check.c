/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_check.c - the equations of l1_impl.h, looked up record by record. For
 * tests and debug builds, while no other thread is in L1: takes no lock.
 */
#include "host/l1_impl.h"
#include "host/log.h"

#include <inttypes.h>
#include <stdlib.h>

struct truth {
	uint64_t frames, listed, kin, line, line_bytes, doomed, quarantined, absent;
	uint64_t counts; /* leases and holds */
	uint64_t bytes;
	uint64_t *space_bytes; /* by number */
	uint32_t *children;    /* by record: frames that can be found whose parent it is */
};

static bool count_is_right(uint64_t word)
{
	enum kvh_frame_place place = kvh_word_place(word);
	uint32_t count = kvh_word_count(word);
	bool nowhere = place == KVH_PLACE_LISTED; /* as all bits that are 0 */

	switch (kvh_word_state(word)) {
	case KVH_FRAME_ABSENT: return count == 0 && nowhere;
	case KVH_FRAME_FILLING: return count == 1 && (nowhere || place == KVH_PLACE_PARKED);
	case KVH_FRAME_CANCELLED: return count == 1 && nowhere;
	case KVH_FRAME_READY:
		return (count > 0 || place != KVH_PLACE_PARKED) &&
		       (place != KVH_PLACE_LINE || (word & KVH_WORD_DIRTY) != 0);
	case KVH_FRAME_DOOMED: return count > 0 && nowhere;
	case KVH_FRAME_QUARANTINED: return nowhere;
	case KVH_FRAME_NSTATES: break;
	}
	return false;
}

static void add_place(struct truth *t, uint64_t word)
{
	t->frames++;
	switch (kvh_word_place(word)) {
	case KVH_PLACE_LISTED: t->listed++; break;
	case KVH_PLACE_PARKED: break;
	case KVH_PLACE_KIN: t->kin++; break;
	case KVH_PLACE_LINE: t->line++; break;
	}
}

static void add_state(struct truth *t, uint64_t word)
{
	switch (kvh_word_state(word)) {
	case KVH_FRAME_ABSENT: t->absent++; return;
	case KVH_FRAME_FILLING: add_place(t, word); return;
	case KVH_FRAME_CANCELLED: t->doomed++; return;
	case KVH_FRAME_READY: add_place(t, word); break;
	case KVH_FRAME_DOOMED: t->doomed++; break;
	case KVH_FRAME_QUARANTINED: t->quarantined++; break;
	case KVH_FRAME_NSTATES: return;
	}
	t->counts += kvh_word_count(word);
}

static bool can_be_found(const struct kvh_index_rec *r)
{
	return kvh_word_state(r->word) == KVH_FRAME_FILLING ||
	       kvh_word_state(r->word) == KVH_FRAME_READY;
}

static const char *rec_fault(struct kvh_l1 *l1, uint32_t rec, struct truth *t)
{
	const struct kvh_index_rec *r = &l1->recs[rec];
	enum kvh_frame_state state = kvh_word_state(r->word);
	const struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	uint64_t bytes;

	if (!count_is_right(r->word))
		return "a count that its state does not have";
	if ((r->word & KVH_WORD_WATCH) != 0 && state != KVH_FRAME_FILLING)
		return "watched, and not filling";
	add_state(t, r->word);
	if (state == KVH_FRAME_ABSENT)
		return NULL;
	if (can_be_found(r) && kvh_index_find(&shard->index, kvh_index_rec_place(r), r->hash,
					      kvh_index_family(r)) != rec)
		return "a frame that the index does not find";
	if (r->page == KVH_PAGE_UNSET)
		return "a frame without memory";
	if (l1->owners[r->page] != rec + 1)
		return "memory that has another owner";
	bytes = kvh_arena_frame_bytes(l1->arena, kvh_l1_memory(l1, r->page));
	t->bytes += bytes;
	t->space_bytes[kvh_l1_space_of(l1, rec)] += bytes;
	if (can_be_found(r) && kvh_word_place(r->word) == KVH_PLACE_LINE)
		t->line_bytes += bytes;
	if (can_be_found(r) && l1->parents[rec] != 0)
		t->children[l1->parents[rec] - 1]++;
	return NULL;
}

static const char *list_fault(struct kvh_l1 *l1, const struct kvh_l1_shard *shard,
			      const struct kvh_order_list *list, enum kvh_frame_place place)
{
	if (!kvh_order_list_check(&l1->items, list))
		return "a list that is not one";
	for (uint32_t rec = list->newest; rec != KVH_REC_NONE;
	     rec = l1->items.links[rec].older) {
		const struct kvh_index_rec *r = &l1->recs[rec];

		if (kvh_l1_shard_of(l1, rec) != shard || kvh_word_place(r->word) != place ||
		    !can_be_found(r) ||
		    (place != KVH_PLACE_LISTED && kvh_word_state(r->word) != KVH_FRAME_READY))
			return "a list with a frame that should not be in it";
	}
	return NULL;
}

static const char *lane_fault(struct kvh_l1 *l1, const struct kvh_l1_shard *shard,
			      const struct kvh_l1_lane *lane, struct truth *seen)
{
	const char *fault = NULL;

	if (!kvh_order_check(&lane->order))
		return "an eviction order that is not one";
	for (int i = 0; i < 2 && fault == NULL; i++)
		fault = list_fault(l1, shard, &lane->order.lists[i], KVH_PLACE_LISTED);
	seen->listed += kvh_order_count(&lane->order);
	seen->kin += lane->kin.n;
	return fault != NULL ? fault : list_fault(l1, shard, &lane->kin, KVH_PLACE_KIN);
}

static const char *lanes_fault(struct kvh_l1 *l1, const struct kvh_l1_shard *shard,
			       struct truth *seen)
{
	const char *fault = NULL;

	for (uint32_t i = 0; i < shard->n_lanes && fault == NULL; i++)
		if (shard->slots[i].lane != NULL)
			fault = lane_fault(l1, shard, shard->slots[i].lane, seen);
	seen->line += shard->line.n;
	return fault != NULL ? fault : list_fault(l1, shard, &shard->line, KVH_PLACE_LINE);
}

static const char *shard_fault(struct kvh_l1 *l1, const struct kvh_l1_shard *shard,
			       struct truth *seen, uint64_t *holds)
{
	uint64_t unused = 0;

	for (uint32_t rec = shard->unused; rec != KVH_REC_NONE;
	     rec = l1->items.links[rec].older)
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
	return shard->n_orphans == 0 ? lanes_fault(l1, shard, seen) : "orphans left";
}

static const char *sum_fault(const struct truth *is, const struct truth *seen)
{
	if (is->frames != seen->frames)
		return "FILLING + READY != frames of all shards";
	if (is->listed != seen->listed)
		return "LISTED frames != those in orders";
	if (is->kin != seen->kin || is->line != seen->line)
		return "KIN or LINE frames != those in lists";
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

static const char *spaces_fault(const struct kvh_l1 *l1, const struct truth *is)
{
	for (uint32_t i = 0; i < l1->spaces.n; i++)
		if (l1->spaces.space[i].used != is->space_bytes[i])
			return "a space's used bytes != sum of its frames' bytes";
	for (uint32_t rec = 0; rec < l1->pool.fresh; rec++)
		if (kvh_l1_children(l1, rec) > is->children[rec])
			return "a frame with more children than there are";
	return NULL;
}

static const char *l1_fault(struct kvh_l1 *l1, struct truth *is)
{
	struct truth seen = {0};
	struct kvh_arena_stats arena;
	const char *fault = NULL;
	uint64_t holds = 0;

	for (uint32_t rec = 0; rec < l1->pool.fresh && fault == NULL; rec++)
		fault = rec_fault(l1, rec, is);
	for (uint32_t i = 0; i < l1->n_shards && fault == NULL; i++)
		fault = shard_fault(l1, &l1->shards[i], &seen, &holds);
	if (fault != NULL)
		return fault;
	for (uint32_t rec = l1->pool.unused; rec != KVH_REC_NONE;
	     rec = l1->items.links[rec].older)
		seen.absent++;
	kvh_arena_stats(l1->arena, &arena);
	seen.bytes = arena.used_bytes;
	seen.counts = kvh_clients_leases(l1->clients) + holds;
	if (is->kin != l1->n_kin || is->line != l1->n_line || is->line_bytes != l1->line_bytes)
		return "KIN or LINE frames != their counters";
	fault = sum_fault(is, &seen);
	return fault != NULL ? fault : spaces_fault(l1, is);
}

bool kvh_l1_check(struct kvh_l1 *l1)
{
	struct truth is = {
		.space_bytes = calloc(l1->spaces.n + 1, sizeof(*is.space_bytes)),
		.children = calloc((size_t)l1->pool.fresh + 1, sizeof(*is.children)),
	};
	const char *fault = NULL;

	/* What could not be looked at is not wrong. */
	if (is.space_bytes != NULL && is.children != NULL)
		fault = l1_fault(l1, &is);
	else
		kvh_warn("L1: no memory to check it");
	free(is.space_bytes);
	free(is.children);
	if (fault != NULL)
		kvh_err("L1: %s", fault);
	return fault == NULL && kvh_arena_check(l1->arena);
}
