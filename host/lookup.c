/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lookup.c - what is there now, and leases for it: L1's index and the adapters'
 * local ones, on the user's thread, in batches.
 */
#include "host/clock.h"
#include "host/engine.h"
#include "host/log.h"
#include "host/prefix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 256u /* keys leased at once */

struct lookup {
	struct kvh_engine *engine;
	uint32_t client;
	const struct kvh_prefix *prefix;
	const struct kvh_space *space;
	size_t n;             /* entries */
	uint64_t deadline_ns; /* of leases; 0: none */
};

int kvh_find_space(struct kvh_queue *queue, const struct kvh_prefix *prefix,
		   const struct kvh_space **space_p)
{
	int err = kvh_engine_alive(queue->engine);

	if (err != 0)
		return err;
	*space_p = kvh_space_table_find(&queue->engine->spaces, prefix->space);
	if (*space_p == NULL) {
		kvh_err("prefix: there is no space %016llx", (unsigned long long)prefix->space);
		return -ENOENT;
	}
	return kvh_prefix_check(prefix, *space_p);
}

/* ---- what is there -------------------------------------------------------- */

/* KVH_IN_* of the next entries. */
static void find_some(const struct lookup *l, const uint32_t *entries,
		      const struct kvh_key *keys, uint32_t n, uint8_t *where)
{
	uint8_t in_l1[BATCH], in_l2[BATCH] = {0};

	kvh_l1_find(l->engine->l1, keys, n, in_l1);
	kvh_controller_peek(l->engine->controller, keys, n, in_l2);
	for (uint32_t i = 0; i < n; i++)
		where[entries[i]] = (uint8_t)((in_l1[i] == 1 ? KVH_IN_L1 : 0) |
					      (in_l2[i] != 0 ? KVH_IN_L2 : 0));
}

static void find_all(const struct lookup *l, uint8_t *where)
{
	struct kvh_key keys[BATCH];
	uint32_t entries[BATCH], n;
	struct kvh_walk walk = {0};

	memset(where, 0, l->n);
	do {
		for (n = 0; n < BATCH; n++)
			if (!kvh_prefix_step(l->prefix, l->space, KVH_WALK_ALL, &walk,
					     &entries[n], &keys[n]))
				break;
		find_some(l, entries, keys, n, where);
	} while (n == BATCH);
}

/* ---- leases ------------------------------------------------------------------ */

/* Leases what a prefix of `usable` chunks needs and has no lease of. False: some of
 * it has gone meanwhile. */
static bool lease_needed(const struct lookup *l, uint32_t usable, uint8_t *in_l1,
			 kvh_lease_t *leases)
{
	struct kvh_key keys[BATCH];
	uint32_t entries[BATCH], n;
	struct kvh_walk walk = {0};
	kvh_lease_t got[BATCH];
	int32_t status[BATCH];
	bool all = true, more = true;

	while (more && all) {
		for (n = 0; n < BATCH && more;) {
			more = kvh_prefix_step(l->prefix, l->space, usable, &walk, &entries[n],
					       &keys[n]);
			n += more && leases[entries[n]] == KVH_NONE;
		}
		(void)kvh_l1_lease_until(l->engine->l1, l->client, keys, n, l->deadline_ns, got,
					 status);
		for (uint32_t i = 0; i < n; i++) {
			leases[entries[i]] = got[i];
			in_l1[entries[i]] = status[i] == 0;
			all &= status[i] == 0;
		}
	}
	return all;
}

/* Gives back what a prefix of `usable` chunks does not need. */
static void release_others(const struct lookup *l, uint32_t usable, kvh_lease_t *leases)
{
	for (size_t e = 0; e < l->n; e++) {
		uint32_t group = (uint32_t)(e / l->prefix->n_ranks % l->prefix->n_groups);
		uint32_t chunk = (uint32_t)(e / l->prefix->n_ranks / l->prefix->n_groups);

		if (leases[e] == KVH_NONE || kvh_prefix_needs(l->space, usable, chunk, group))
			continue;
		(void)kvh_l1_release(l->engine->l1, leases[e]);
		leases[e] = KVH_NONE;
	}
}

/* Leases what the longest prefix usable from L1 alone needs. A frame that was
 * evicted since it was found shortens the prefix, and it is done again. */
static uint32_t lease_usable(const struct lookup *l, const uint8_t *where, uint8_t *in_l1,
			     kvh_lease_t *leases)
{
	uint32_t usable;

	for (size_t e = 0; e < l->n; e++) {
		in_l1[e] = (where[e] & KVH_IN_L1) != 0;
		leases[e] = KVH_NONE;
	}
	do
		usable = kvh_prefix_usable(l->prefix, l->space, in_l1);
	while (!lease_needed(l, usable, in_l1, leases));
	release_others(l, usable, leases);
	return usable;
}

/* ---- the call ------------------------------------------------------------------ */

static int lookup(struct lookup *l, uint8_t *where, kvh_lease_t *leases, uint32_t *usable_p)
{
	uint32_t usable;
	uint8_t *found;

	l->n = KVH_ENTRIES(l->prefix);
	found = malloc(2 * l->n); /* everywhere, and in L1 */
	if (found == NULL)
		return -ENOMEM;
	find_all(l, found);
	if (where != NULL)
		memcpy(where, found, l->n);
	usable = leases != NULL ? lease_usable(l, found, found + l->n, leases)
				: kvh_prefix_usable(l->prefix, l->space, found);
	if (leases != NULL && l->deadline_ns != 0)
		kvh_controller_lease_timed(l->engine->controller, l->deadline_ns);
	if (usable_p != NULL)
		*usable_p = usable;
	free(found);
	return 0;
}

int kvh_lookup(struct kvh_queue *queue, const struct kvh_prefix *prefix, uint32_t flags,
	       uint8_t *where, kvh_lease_t *leases, uint32_t *usable_p)
{
	struct lookup l = {.engine = queue->engine, .client = queue->client, .prefix = prefix};
	uint64_t lease_ns;
	int err = kvh_find_space(queue, prefix, &l.space);

	if (err != 0)
		return err;
	if ((flags & ~KVH_LOOKUP_LEASE) != 0 || (flags != 0) != (leases != NULL)) {
		kvh_err("lookup: flags %#x with%s leases; allowed: 0, or KVH_LOOKUP_LEASE with "
			"them",
			flags, leases != NULL ? "" : "out");
		return -EINVAL;
	}
	lease_ns = kvh_engine_lease_ns(queue->engine);
	if (leases != NULL && lease_ns != 0)
		l.deadline_ns = kvh_deadline_ns(lease_ns);
	return lookup(&l, where, leases, usable_p);
}

int kvh_lookup_lease(struct kvh_queue *queue, const struct kvh_prefix *prefix,
		     uint64_t lease_ns, uint8_t *where, kvh_lease_t *leases, uint32_t *usable_p)
{
	struct lookup l = {.engine = queue->engine, .client = queue->client, .prefix = prefix};
	int err = kvh_find_space(queue, prefix, &l.space);

	if (err != 0)
		return err;
	if (lease_ns == 0 || leases == NULL) {
		kvh_err("lookup: lease_ns is %llu, with%s leases; allowed: >= 1, with them",
			(unsigned long long)lease_ns, leases != NULL ? "" : "out");
		return -EINVAL;
	}
	l.deadline_ns = kvh_deadline_ns(lease_ns);
	return lookup(&l, where, leases, usable_p);
}
