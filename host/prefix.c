/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefix.c - the longest usable prefix.
 *
 * L is lowered until every group agrees. Each group and rank, on its own, says
 * the largest L' <= L it can serve; a group that lowers L makes the others look
 * again, but for the full groups: what serves L serves all below it. L only
 * falls, and a look goes no further back than a window from where it ends up, so
 * the cost is entries times windows at worst, not entries squared.
 */
#include "host/prefix.h"

#include "host/log.h"

#include <errno.h>

int kvh_prefix_check(const struct kvh_prefix *prefix, const struct kvh_space *space)
{
	if (prefix->n_chunks == 0 || prefix->hashes == NULL) {
		kvh_err("prefix: n_chunks is %u, allowed: >= 1, with hashes", prefix->n_chunks);
		return -EINVAL;
	}
	if (prefix->n_groups != space->n_groups) {
		kvh_err("prefix: n_groups is %u, the space has %u", prefix->n_groups,
			space->n_groups);
		return -EINVAL;
	}
	if (prefix->n_ranks == 0 || prefix->n_ranks > 65536 ||
	    prefix->first_rank > KVH_RANK_ANY - prefix->n_ranks) {
		kvh_err("prefix: ranks [%u, +%u), allowed: 1..65536 of them below 2^32 - 1",
			prefix->first_rank, prefix->n_ranks);
		return -EINVAL;
	}
	if (KVH_ENTRIES(prefix) > UINT32_MAX / 2) {
		kvh_err("prefix: %u chunks x %u groups x %u ranks are too many",
			prefix->n_chunks, prefix->n_groups, prefix->n_ranks);
		return -EINVAL;
	}
	return 0;
}

void kvh_prefix_key(const struct kvh_prefix *prefix, const struct kvh_space *space,
		    uint32_t chunk, uint32_t group, uint32_t r, struct kvh_key *key)
{
	key->hash = prefix->hashes[chunk];
	key->space = prefix->space;
	key->group = group;
	key->rank = space->groups[group].desc.replicated ? KVH_RANK_ANY
							 : prefix->first_rank + r;
}

bool kvh_prefix_needs(const struct kvh_space *space, uint32_t usable, uint32_t chunk,
		      uint32_t group)
{
	const struct kvh_space_group *g = &space->groups[group];

	if (chunk >= usable)
		return false;
	switch ((enum kvh_group_kind)g->desc.kind) {
	case KVH_GROUP_FULL: return true;
	case KVH_GROUP_WINDOW: return usable - chunk <= g->window_chunks;
	case KVH_GROUP_STATE: return chunk == usable - 1;
	}
	return true;
}

/* To the next (chunk, group) that is walked, from the walk's own on. */
static bool walk_settle(const struct kvh_prefix *prefix, const struct kvh_space *space,
			uint32_t usable, struct kvh_walk *walk)
{
	uint32_t end = usable < prefix->n_chunks ? usable : prefix->n_chunks;

	while (walk->chunk < end) {
		if (walk->rank < kvh_prefix_ranks(prefix, space, walk->group) &&
		    (usable == KVH_WALK_ALL ||
		     kvh_prefix_needs(space, usable, walk->chunk, walk->group)))
			return true;
		walk->rank = 0;
		if (++walk->group == prefix->n_groups) {
			walk->group = 0;
			walk->chunk++;
		}
	}
	return false;
}

bool kvh_prefix_step(const struct kvh_prefix *prefix, const struct kvh_space *space,
		     uint32_t usable, struct kvh_walk *walk, uint32_t *entry_p,
		     struct kvh_key *key_p)
{
	if (!walk_settle(prefix, space, usable, walk))
		return false;
	*entry_p = (uint32_t)KVH_ENTRY(prefix, walk->chunk, walk->group, walk->rank);
	kvh_prefix_key(prefix, space, walk->chunk, walk->group, walk->rank, key_p);
	walk->rank++;
	return true;
}

static uint32_t full_usable(const struct kvh_prefix *prefix, const uint8_t *present,
			    uint32_t group, uint32_t r, uint32_t limit)
{
	uint32_t usable = 0;

	while (usable < limit && present[KVH_ENTRY(prefix, usable, group, r)])
		usable++;
	return usable;
}

/* Back from the limit, to a run of `enough`, or one that reaches chunk 0. */
static uint32_t window_usable(const struct kvh_prefix *prefix, const uint8_t *present,
			      uint32_t group, uint32_t r, uint32_t enough, uint32_t limit)
{
	uint32_t run = 0, usable = limit;

	for (uint32_t chunk = limit; chunk > 0 && run < enough; chunk--) {
		if (present[KVH_ENTRY(prefix, chunk - 1, group, r)]) {
			run++;
		} else {
			run = 0;
			usable = chunk - 1;
		}
	}
	return usable;
}

/* The largest L' <= limit that one group can serve, on each of the ranks. */
static uint32_t group_usable(const struct kvh_prefix *prefix, const struct kvh_space *space,
			     const uint8_t *present, uint32_t group, uint32_t limit)
{
	const struct kvh_space_group *g = &space->groups[group];
	uint32_t enough = g->desc.kind == KVH_GROUP_STATE ? 1 : g->window_chunks;

	for (uint32_t r = 0; r < kvh_prefix_ranks(prefix, space, group); r++)
		limit = g->desc.kind == KVH_GROUP_FULL
				? full_usable(prefix, present, group, r, limit)
				: window_usable(prefix, present, group, r, enough, limit);
	return limit;
}

uint32_t kvh_prefix_usable(const struct kvh_prefix *prefix, const struct kvh_space *space,
			   const uint8_t *present)
{
	uint32_t usable = prefix->n_chunks, before;

	for (uint32_t g = 0; g < space->n_groups; g++)
		if (space->groups[g].desc.kind == KVH_GROUP_FULL)
			usable = group_usable(prefix, space, present, g, usable);
	do {
		before = usable;
		for (uint32_t g = 0; g < space->n_groups; g++)
			if (space->groups[g].desc.kind != KVH_GROUP_FULL)
				usable = group_usable(prefix, space, present, g, usable);
	} while (usable != before && usable > 0);
	return usable;
}
