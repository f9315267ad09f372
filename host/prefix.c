/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefix.c - the longest usable prefix.
 *
 * L is lowered until every group agrees. Each group and rank, on its own, says
 * the largest L' <= L it can serve; a group that lowers L makes the others look
 * again. L only falls, by at least one each round, and every look starts where
 * the last one ended, so the cost is entries, not entries squared.
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
	    prefix->first_rank > KVH_RANK_ANY - 1 - prefix->n_ranks) {
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

/* The largest L' <= limit that one group and rank can serve. */
static uint32_t group_usable(const struct kvh_prefix *prefix, const struct kvh_space *space,
			     const uint8_t *present, uint32_t group, uint32_t r, uint32_t limit)
{
	uint32_t enough = limit; /* entries at the end that must be there */
	uint32_t run = 0, usable = limit;

	if (space->groups[group].desc.kind == KVH_GROUP_FULL) {
		for (usable = 0; usable < limit; usable++)
			if (!present[KVH_ENTRY(prefix, usable, group, r)])
				break;
		return usable;
	}
	enough = space->groups[group].desc.kind == KVH_GROUP_STATE
			 ? 1
			 : space->groups[group].window_chunks;
	/* Back from the end: a run of `enough`, or one that reaches chunk 0. */
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

uint32_t kvh_prefix_usable(const struct kvh_prefix *prefix, const struct kvh_space *space,
			   const uint8_t *present)
{
	uint32_t usable = prefix->n_chunks, before;

	do {
		before = usable;
		for (uint32_t g = 0; g < space->n_groups; g++)
			for (uint32_t r = 0; r < kvh_prefix_ranks(prefix, space, g); r++)
				usable = group_usable(prefix, space, present, g, r, usable);
	} while (usable != before && usable > 0);
	return usable;
}
