/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefetch_plan.c - one prefetch's way through its entries, a bounded number a
 * step: found, asked for, leased where L1 has them, read where it has not. The
 * controller's thread; prefetch.h draws the phases and an entry's states.
 *
 * All passes go through the entries in the prompt's order, so that what arrives
 * first is of use first. An entry that is lost shortens the prefix, which may need
 * other entries of windows and states: the passes begin anew for it.
 */
#include "host/controller_impl.h"
#include "host/prefix.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define BATCH       256u  /* entries found or leased in one step */
#define STEP_LOOKS  1024u /* entries passed over in one step */
#define TURN_READS  8u    /* begun before others have their turn */
#define LOOK_BEHIND 64u   /* entries behind one that has no room, for other adapters */

struct batch {
	uint32_t n;
	uint32_t entry[BATCH];
	struct kvh_key key[BATCH];
};

/* ---- entries, one by one ----------------------------------------------- */

static bool entry_needed(const struct kvh_prefetch *p, uint32_t entry)
{
	uint32_t group = entry / p->prefix.n_ranks % p->prefix.n_groups;

	return kvh_prefix_needs(p->space, p->usable,
				entry / p->prefix.n_ranks / p->prefix.n_groups, group);
}

static void entry_leased(struct kvh_prefetch *p, uint32_t entry, uint32_t hits)
{
	p->entry[entry] = KVH_ENTRY_LEASED;
	p->hits[entry] = hits;
	/* While it shrinks, what is missing is counted anew. */
	if (!p->shrunk && entry_needed(p, entry))
		p->missing--;
}

void kvh_prefetch_entry_read(struct kvh_prefetch *p, uint32_t entry, uint32_t adapter)
{
	entry_leased(p, entry, KVH_HITS_READ | adapter);
	kvh_prefetch_mark(p);
}

void kvh_prefetch_entry_lost(struct kvh_prefetch *p, uint32_t entry)
{
	p->entry[entry] = KVH_ENTRY_ABSENT;
	p->shrunk |= entry_needed(p, entry);
	kvh_prefetch_mark(p);
}

/* Adapters that may have it: whose index says so, or that have none. */
static uint32_t entry_hits(struct kvh_controller *c, const struct kvh_key *key)
{
	uint32_t hits = 0;

	for (uint32_t a = 0; a < c->n_adapters; a++) {
		uint8_t has = 0;

		if (!kvh_adapter_usable(c->adapters[a]))
			continue;
		kvh_adapter_peek(c->adapters[a], key, 1, &has);
		if (has || !kvh_adapter_caps(c->adapters[a])->local_index)
			hits |= UINT32_C(1) << a;
	}
	return hits;
}

static void entry_key(const struct kvh_prefetch *p, uint32_t entry, struct kvh_key *key)
{
	uint32_t group = entry / p->prefix.n_ranks % p->prefix.n_groups;

	kvh_prefix_key(&p->prefix, p->space, entry / p->prefix.n_ranks / p->prefix.n_groups,
		       group, entry % p->prefix.n_ranks, key);
}

void kvh_prefetch_entry_gone(struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_key key;

	entry_key(p, entry, &key);
	p->hits[entry] = p->expired ? 0 : entry_hits(p->controller, &key);
	if (p->hits[entry] == 0)
		kvh_prefetch_entry_lost(p, entry);
	else
		p->entry[entry] = KVH_ENTRY_WANTED;
}

/* What L1 said to a lease of an entry that was said to be there. */
static void entry_answered(struct kvh_prefetch *p, uint32_t entry, int32_t status)
{
	switch (status) {
	case 0: entry_leased(p, entry, 0); return;
	case -ENOENT: kvh_prefetch_entry_gone(p, entry); return;
	case -EINPROGRESS:
		if (!p->expired) {
			p->entry[entry] = KVH_ENTRY_WANTED;
			return;
		}
		break;
	default: p->no_memory = true;
	}
	kvh_prefetch_entry_lost(p, entry);
}

void kvh_prefetch_entry_look(struct kvh_prefetch *p, uint32_t entry)
{
	uint32_t chunk = entry / p->prefix.n_ranks / p->prefix.n_groups;
	struct kvh_key key;
	int32_t status;

	entry_key(p, entry, &key);
	(void)kvh_l1_lease(p->controller->opts.l1, p->client, &key, 1, &p->leases[entry],
			   &status);
	entry_answered(p, entry, status);
	if (p->entry[entry] == KVH_ENTRY_WANTED && p->walk.chunk >= chunk)
		p->walk = (struct kvh_walk){.chunk = chunk};
	kvh_prefetch_mark(p);
}

/* ---- finding ------------------------------------------------------------ */

/* hits of the entries that `absent` names, from the indexes. */
static void peek(struct kvh_prefetch *p, const struct batch *absent)
{
	struct kvh_controller *c = p->controller;
	uint8_t has[BATCH];

	for (uint32_t a = 0; a < c->n_adapters; a++) {
		if (!kvh_adapter_caps(c->adapters[a])->local_index ||
		    !kvh_adapter_usable(c->adapters[a]))
			continue;
		memset(has, 0, absent->n);
		kvh_adapter_peek(c->adapters[a], absent->key, absent->n, has);
		for (uint32_t i = 0; i < absent->n; i++)
			p->hits[absent->entry[i]] |= (uint32_t)has[i] << a;
	}
}

/* Full groups need all that is before: nothing behind a gap is looked at. */
static void bound(struct kvh_prefetch *p, uint32_t entry)
{
	uint32_t group = entry / p->prefix.n_ranks % p->prefix.n_groups;
	uint32_t chunk = entry / p->prefix.n_ranks / p->prefix.n_groups;

	if (p->space->groups[group].desc.kind == KVH_GROUP_FULL && chunk < p->usable)
		p->usable = chunk;
}

static void find(struct kvh_prefetch *p, const struct batch *batch)
{
	struct batch absent = {.n = 0};
	uint8_t in_l1[BATCH];

	kvh_l1_find(p->controller->opts.l1, batch->key, batch->n, in_l1);
	for (uint32_t i = 0; i < batch->n; i++) {
		if (in_l1[i] == 1) {
			p->entry[batch->entry[i]] = KVH_ENTRY_IN_L1;
			continue;
		}
		if (in_l1[i] != 0 && !p->expired)
			p->entry[batch->entry[i]] = KVH_ENTRY_WANTED;
		absent.entry[absent.n] = batch->entry[i];
		absent.key[absent.n++] = batch->key[i];
	}
	if (!p->expired)
		peek(p, &absent);
	for (uint32_t i = 0; i < absent.n; i++) {
		if (p->hits[absent.entry[i]] != 0)
			p->entry[absent.entry[i]] = KVH_ENTRY_WANTED;
		else if (p->askable == 0 && p->entry[absent.entry[i]] == KVH_ENTRY_ABSENT)
			bound(p, absent.entry[i]);
	}
}

/* What follows what in the prompt, from a chunk up to where the walk is. */
static void learn(struct kvh_prefetch *p, uint32_t from)
{
	for (uint32_t i = from; i + 1 < p->prefix.n_chunks && i < p->walk.chunk; i++)
		kvh_speculate_learn(p->controller, p->prefix.space, &p->prefix.hashes[i],
				    &p->prefix.hashes[i + 1]);
}

static enum kvh_step find_step(struct kvh_prefetch *p)
{
	struct batch batch = {.n = 0};
	uint32_t from = p->walk.chunk;
	bool more = true;

	while (batch.n < BATCH && more) {
		more = p->walk.chunk < p->usable &&
		       kvh_prefix_step(&p->prefix, p->space, KVH_WALK_ALL, &p->walk,
				       &batch.entry[batch.n], &batch.key[batch.n]);
		batch.n += more;
	}
	find(p, &batch);
	learn(p, from);
	if (more)
		return KVH_STEP_LATER;
	p->phase = KVH_PREFETCH_PROBING;
	return KVH_STEP_ON;
}

/* ---- how long the prefix is ---------------------------------------------- */

/* A pass for the prefix that is usable by what is known. It only falls, so that
 * what is behind it need not be looked at. */
static void begin_pass(struct kvh_prefetch *p)
{
	struct kvh_prefix shorter = p->prefix;
	struct kvh_walk walk = {0};
	struct kvh_key key;
	uint32_t entry;

	shorter.n_chunks = p->usable;
	p->usable = kvh_prefix_usable(&shorter, p->space, p->entry);
	p->shrunk = false;
	p->missing = 0;
	while (kvh_prefix_step(&p->prefix, p->space, p->usable, &walk, &entry, &key))
		p->missing += p->entry[entry] != KVH_ENTRY_LEASED;
	p->walk = (struct kvh_walk){0};
	p->phase = KVH_PREFETCH_LEASING;
}

static enum kvh_step probe_step(struct kvh_prefetch *p)
{
	enum kvh_step step = kvh_probe_step(p);

	if (step != KVH_STEP_ON)
		return step;
	begin_pass(p);
	if (p->want_found && !p->found_sent && !p->expired)
		p->found(p, p->usable);
	p->found_sent = true;
	return KVH_STEP_ON;
}

/* ---- leasing ------------------------------------------------------------- */

static void lease(struct kvh_prefetch *p, const struct batch *batch)
{
	kvh_lease_t leases[BATCH];
	int32_t status[BATCH];

	(void)kvh_l1_lease(p->controller->opts.l1, p->client, batch->key, batch->n, leases,
			   status);
	for (uint32_t i = 0; i < batch->n; i++) {
		p->leases[batch->entry[i]] = leases[i];
		entry_answered(p, batch->entry[i], status[i]);
	}
}

static enum kvh_step lease_step(struct kvh_prefetch *p)
{
	struct batch batch = {.n = 0};
	bool more = true;

	for (uint32_t looks = 0; looks < STEP_LOOKS && batch.n < BATCH && more; looks++) {
		more = kvh_prefix_step(&p->prefix, p->space, p->usable, &p->walk,
				       &batch.entry[batch.n], &batch.key[batch.n]);
		batch.n += more && p->entry[batch.entry[batch.n]] == KVH_ENTRY_IN_L1;
	}
	lease(p, &batch);
	if (more)
		return KVH_STEP_LATER;
	p->walk = (struct kvh_walk){0};
	p->phase = KVH_PREFETCH_READING;
	return KVH_STEP_ON;
}

/* ---- reading ------------------------------------------------------------- */

static enum kvh_want want(struct kvh_prefetch *p, uint32_t entry, const struct kvh_key *key)
{
	enum kvh_want answer = kvh_fetch_want(p, entry, key);

	if (answer == KVH_WANT_IN_L1)
		kvh_prefetch_entry_look(p, entry);
	else if (answer == KVH_WANT_LOST)
		kvh_prefetch_entry_lost(p, entry);
	return answer;
}

/* One without room does not keep those behind it from other adapters. */
static enum kvh_step read_step(struct kvh_prefetch *p)
{
	struct kvh_walk here, resume = {0};
	uint32_t looks = 0, reads = 0, end = STEP_LOOKS, entry;
	bool blocked = false;
	struct kvh_key key;

	while (looks++ < end && reads < TURN_READS && !p->shrunk) {
		here = p->walk;
		if (!kvh_prefix_step(&p->prefix, p->space, p->usable, &p->walk, &entry, &key)) {
			p->walk = blocked ? resume : p->walk;
			p->had_turn = reads > 0;
			return blocked ? KVH_STEP_BLOCKED : KVH_STEP_WAIT;
		}
		if (p->entry[entry] != KVH_ENTRY_WANTED)
			continue;
		switch (want(p, entry, &key)) {
		case KVH_WANT_WAITS: reads++; break;
		case KVH_WANT_AGAIN: p->walk = here; break;
		case KVH_WANT_IN_L1:
		case KVH_WANT_LOST: break;
		case KVH_WANT_BLOCKED:
			if (!blocked) {
				resume = here;
				end = looks + LOOK_BEHIND;
			}
			blocked = true;
		}
	}
	p->walk = blocked ? resume : p->walk;
	p->had_turn = reads > 0;
	return blocked && reads < TURN_READS && !p->shrunk ? KVH_STEP_BLOCKED : KVH_STEP_LATER;
}

/* ---- one step ------------------------------------------------------------- */

enum kvh_step kvh_prefetch_step(struct kvh_prefetch *p)
{
	if (p->phase >= KVH_PREFETCH_LEASING && p->shrunk)
		begin_pass(p);
	switch ((enum kvh_prefetch_phase)p->phase) {
	case KVH_PREFETCH_FINDING: return find_step(p);
	case KVH_PREFETCH_PROBING: return probe_step(p);
	case KVH_PREFETCH_LEASING: return lease_step(p);
	case KVH_PREFETCH_READING: return read_step(p);
	}
	return KVH_STEP_WAIT;
}

void kvh_prefetch_expire(struct kvh_prefetch *p)
{
	p->expired = true;
	p->askable = 0;
	kvh_probe_detach(p, false);
	kvh_fetch_detach(p, false);
	for (uint32_t e = 0; e < (uint32_t)KVH_ENTRIES(&p->prefix); e++)
		if (p->entry[e] == KVH_ENTRY_WANTED)
			p->entry[e] = KVH_ENTRY_ABSENT;
	p->shrunk = p->phase >= KVH_PREFETCH_LEASING;
	kvh_prefetch_mark(p);
}
