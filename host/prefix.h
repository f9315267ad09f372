/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefix.h - the longest usable prefix, from which entries are present. Pure
 * functions; any thread.
 *
 * With L chunks usable, of each group and rank these must be there:
 *   full    [0, L)
 *   window  [L - window_chunks, L), from 0 on
 *   state   L - 1 alone
 */
#ifndef KVH_HOST_PREFIX_H
#define KVH_HOST_PREFIX_H

#include "host/space.h"
#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* -EINVAL: logged. */
int kvh_prefix_check(const struct kvh_prefix *prefix, const struct kvh_space *space);

/* Ranks that have an entry of their own: 1 for a replicated group. */
static inline uint32_t kvh_prefix_ranks(const struct kvh_prefix *prefix,
					const struct kvh_space *space, uint32_t group)
{
	return space->groups[group].desc.replicated ? 1 : prefix->n_ranks;
}

void kvh_prefix_key(const struct kvh_prefix *prefix, const struct kvh_space *space,
		    uint32_t chunk, uint32_t group, uint32_t r, struct kvh_key *key);

/* present[KVH_ENTRIES]: nonzero is there. */
uint32_t kvh_prefix_usable(const struct kvh_prefix *prefix, const struct kvh_space *space,
			   const uint8_t *present);

/* Whether a usable prefix of `usable` chunks needs this chunk of the group. */
bool kvh_prefix_needs(const struct kvh_space *space, uint32_t usable, uint32_t chunk,
		      uint32_t group);

/* A way through the entries, in the prompt's order: chunk, group, rank. */
struct kvh_walk {
	uint32_t chunk, group, rank;
};
#define KVH_WALK_ALL UINT32_MAX

/* The next entry that a usable prefix of `usable` chunks needs, or of all there are
 * (KVH_WALK_ALL), and its key. False: there is none left. */
bool kvh_prefix_step(const struct kvh_prefix *prefix, const struct kvh_space *space,
		     uint32_t usable, struct kvh_walk *walk, uint32_t *entry_p,
		     struct kvh_key *key_p);

#ifdef __cplusplus
}
#endif
#endif
