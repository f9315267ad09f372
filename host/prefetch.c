/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefetch.c - the prefetch controller: probe, plan, read, lease. The
 * controller's thread, but for kvh_prefetch_from_l1. The reads are fetch.c's.
 *
 * A prefetch: PROBING --all answered--> READING --needed entries leased--> ended
 * where READING plans anew, for a shorter prefix, whenever an entry is lost.
 *
 * An entry:
 *
 *   ABSENT <---- nobody has it (any more) ----------+----------+
 *     | found                                       |          |
 *     +--> IN_L1 ----lease--> LEASED                |          |
 *     +--> FILLING (by another) --published--> IN_L1|          |
 *     `--> IN_L2 --reserved, GET--> READING --verified--> LEASED
 *                                      `--failed: the next adapter
 */
#include "host/clock.h"
#include "host/controller_impl.h"
#include "host/prefix.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_NS KVH_NS_PER_MS /* between looks at entries that another fills */
struct probe_batch {
	struct kvh_prefetch *p; /* NULL: detached */
	struct kvh_controller *c;
	uint32_t out;
	struct probe {
		struct kvh_l2_task task;
		struct probe_batch *batch;
		uint32_t entry, adapter;
	} probes[];
};

/* There is something to look at. */
static void mark(struct kvh_prefetch *p)
{
	p->dirty = true;
	p->controller->dirty = true;
}

void kvh_prefetch_key(const struct kvh_prefetch *p, uint32_t entry, struct kvh_key *key)
{
	uint32_t r = entry % p->prefix.n_ranks;
	uint32_t group = entry / p->prefix.n_ranks % p->prefix.n_groups;
	uint32_t chunk = entry / p->prefix.n_ranks / p->prefix.n_groups;

	kvh_prefix_key(&p->prefix, p->space, chunk, group, r, key);
}

void kvh_prefetch_entry_lost(struct kvh_prefetch *p, uint32_t entry)
{
	p->entry[entry] = p->hits[entry] != 0 ? KVH_ENTRY_IN_L2 : KVH_ENTRY_ABSENT;
	mark(p);
}

void kvh_prefetch_entry_read(struct kvh_prefetch *p, uint32_t entry)
{
	p->entry[entry] = KVH_ENTRY_LEASED;
	p->hits[entry] |= KVH_HITS_READ;
	mark(p);
}

/* Calls fn for every entry there is. */
static void each_entry(struct kvh_prefetch *p,
		       void (*fn)(struct kvh_prefetch *p, uint32_t entry))
{
	for (uint32_t chunk = 0; chunk < p->prefix.n_chunks; chunk++)
		for (uint32_t g = 0; g < p->space->n_groups; g++)
			for (uint32_t r = 0; r < kvh_prefix_ranks(&p->prefix, p->space, g); r++)
				fn(p, (uint32_t)KVH_ENTRY(&p->prefix, chunk, g, r));
}

/* Calls fn for each entry that a prefix of n chunks needs, in the prompt's order,
 * until it returns false; then that is the result. */
static bool each_needed(struct kvh_prefetch *p, uint32_t n,
			bool (*fn)(struct kvh_prefetch *p, uint32_t entry))
{
	for (uint32_t chunk = 0; chunk < n; chunk++)
		for (uint32_t g = 0; g < p->space->n_groups; g++)
			for (uint32_t r = 0; r < kvh_prefix_ranks(&p->prefix, p->space, g); r++)
				if (kvh_prefix_needs(p->space, n, chunk, g) &&
				    !fn(p, (uint32_t)KVH_ENTRY(&p->prefix, chunk, g, r)))
					return false;
	return true;
}

static uint32_t usable(const struct kvh_prefetch *p)
{
	return kvh_prefix_usable(&p->prefix, p->space, p->entry); /* KVH_ENTRY_ABSENT is 0 */
}

/* ---- the short way: all of it is in L1 -------------------------------- */

static void release_one(struct kvh_prefetch *p, size_t entry)
{
	if (p->leases[entry] == KVH_NONE)
		return;
	(void)kvh_l1_release(p->controller->opts.l1, p->leases[entry]);
	p->leases[entry] = KVH_NONE;
}

static bool lease_one(struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_key key;
	int32_t status;

	kvh_prefetch_key(p, entry, &key);
	return kvh_l1_lease(p->controller->opts.l1, p->client, &key, 1, &p->leases[entry],
			    &status) == 1;
}

bool kvh_prefetch_from_l1(struct kvh_controller *c, struct kvh_prefetch *p, uint32_t *n_ok_p)
{
	uint32_t n = 0;

	p->controller = c;
	for (size_t e = 0; e < KVH_ENTRIES(&p->prefix); e++)
		p->leases[e] = KVH_NONE;
	if (!each_needed(p, p->prefix.n_chunks, lease_one)) {
		for (size_t e = 0; e < KVH_ENTRIES(&p->prefix); e++)
			release_one(p, e);
		return false;
	}
	for (size_t e = 0; e < KVH_ENTRIES(&p->prefix); e++)
		n += p->leases[e] != KVH_NONE;
	kvh_count(&c->opts.metrics->hits_l1, n);
	*n_ok_p = n;
	return true;
}

/* ---- planning --------------------------------------------------------- */

/* Adapters that may have an entry: those whose index says so, and those that
 * have none and must be asked. */
static uint32_t entry_hits(struct kvh_controller *c, const struct kvh_key *key)
{
	uint32_t hits = 0;

	for (uint32_t a = 0; a < c->n_adapters; a++) {
		uint8_t has = 0;

		kvh_adapter_peek(c->adapters[a], key, 1, &has);
		if (has || !kvh_adapter_caps(c->adapters[a])->local_index)
			hits |= UINT32_C(1) << a;
	}
	return hits;
}

/* An entry that was in L1, or was being filled, and is not any more. */
static void entry_gone(struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_key key;

	kvh_prefetch_key(p, entry, &key);
	p->hits[entry] = entry_hits(p->controller, &key);
	p->entry[entry] = p->hits[entry] != 0 ? KVH_ENTRY_IN_L2 : KVH_ENTRY_ABSENT;
}

static void entry_lease(struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_l1 *l1 = p->controller->opts.l1;
	struct kvh_key key;
	int32_t status;

	kvh_prefetch_key(p, entry, &key);
	if (kvh_l1_lease(l1, p->client, &key, 1, &p->leases[entry], &status) == 1) {
		p->entry[entry] = KVH_ENTRY_LEASED;
	} else if (status == -EINPROGRESS) {
		p->entry[entry] = KVH_ENTRY_FILLING;
	} else if (status == -ENOENT) {
		entry_gone(p, entry);
	} else {
		p->no_memory = true;
		p->entry[entry] = KVH_ENTRY_ABSENT;
	}
}

/* Leases one needed entry where L1 has it. False: it is lost. */
static bool entry_take(struct kvh_prefetch *p, uint32_t entry)
{
	if (p->entry[entry] == KVH_ENTRY_FILLING)
		p->entry[entry] = KVH_ENTRY_IN_L1; /* lease says whether it still is */
	if (p->entry[entry] == KVH_ENTRY_IN_L1)
		entry_lease(p, entry);
	return p->entry[entry] != KVH_ENTRY_ABSENT;
}

/* The same, but what L1 does not have now is lost, too. */
static bool entry_take_or_lose(struct kvh_prefetch *p, uint32_t entry)
{
	if (!entry_take(p, entry) || p->entry[entry] != KVH_ENTRY_LEASED)
		p->entry[entry] = KVH_ENTRY_ABSENT;
	return p->entry[entry] == KVH_ENTRY_LEASED;
}

/* Moves one needed entry on as far as it goes now. False: it is lost, and the
 * prefix is shorter. */
static bool entry_advance(struct kvh_prefetch *p, uint32_t entry)
{
	/* Each step may be overtaken by another thread; a few are enough, and one
	 * that is not settled then is looked at again with the FILLING ones. */
	for (int step = 0; step < 4; step++) {
		if (p->entry[entry] == KVH_ENTRY_IN_L1)
			entry_lease(p, entry);
		else if (p->entry[entry] == KVH_ENTRY_IN_L2)
			kvh_fetch_start(p, entry);
	}
	switch ((enum kvh_entry_state)p->entry[entry]) {
	case KVH_ENTRY_ABSENT: return false;
	case KVH_ENTRY_LEASED: return true;
	case KVH_ENTRY_READING: p->reading++; return true;
	case KVH_ENTRY_IN_L1:
	case KVH_ENTRY_IN_L2:
	case KVH_ENTRY_FILLING: p->waiting++; return true;
	}
	return false;
}

/* ---- the end ----------------------------------------------------------- */

static void entry_drop_unleased(struct kvh_prefetch *p, uint32_t entry)
{
	if (p->entry[entry] != KVH_ENTRY_LEASED)
		p->entry[entry] = KVH_ENTRY_ABSENT;
}

static void entry_drop(struct kvh_prefetch *p, uint32_t entry)
{
	p->entry[entry] = KVH_ENTRY_ABSENT;
}

/* Keeps the leases that a prefix of `got` chunks needs, and counts: a cancelled
 * prefetch missed nothing. Returns how many were kept. */
static uint32_t keep_leases(struct kvh_prefetch *p, uint32_t got, bool count_misses)
{
	struct kvh_metrics *m = p->controller->opts.metrics;
	const struct kvh_prefix *prefix = &p->prefix;
	uint32_t kept = 0;

	for (uint32_t e = 0; e < (uint32_t)KVH_ENTRIES(prefix); e++) {
		uint32_t g = e / prefix->n_ranks % prefix->n_groups;
		uint32_t chunk = e / prefix->n_ranks / prefix->n_groups;
		bool read = (p->hits[e] & KVH_HITS_READ) != 0;

		if (e % prefix->n_ranks >= kvh_prefix_ranks(prefix, p->space, g))
			continue;
		if (kvh_prefix_needs(p->space, got, chunk, g)) {
			kept++;
			kvh_count(read ? &m->hits_l2 : &m->hits_l1, 1);
			continue;
		}
		if (count_misses && kvh_prefix_needs(p->space, prefix->n_chunks, chunk, g))
			kvh_count(&m->misses, 1);
		kvh_count(&m->prefetch_wasted, read);
		release_one(p, e);
	}
	return kept;
}

static void prefetch_end(struct kvh_prefetch *p, int status)
{
	struct kvh_controller *c = p->controller;
	uint32_t got, n_ok;

	each_entry(p, status == -ECANCELED ? entry_drop : entry_drop_unleased);
	got = usable(p);
	n_ok = keep_leases(p, got, status != -ECANCELED);
	if (p->prev != NULL)
		p->prev->next = p->next;
	else
		c->prefetches = p->next;
	if (p->next != NULL)
		p->next->prev = p->prev;
	p->ended(p, status, got, n_ok);
}

/* Detaches what is still out. Reads go on, for L1, unless `cancel`. */
static void prefetch_detach(struct kvh_prefetch *p, bool cancel)
{
	kvh_fetch_detach(p, cancel);
	if (p->probes != NULL)
		p->probes->p = NULL;
}

/* Ends it with what L1 has at this moment, which a shorter prefix may need and
 * the longer one did not. */
static void prefetch_expire(struct kvh_prefetch *p)
{
	prefetch_detach(p, false);
	while (!each_needed(p, usable(p), entry_take_or_lose))
		;
	prefetch_end(p, -ETIMEDOUT);
}

/* Leases first: a frame for a read is never made by evicting what is needed. */
static void prefetch_plan(struct kvh_prefetch *p)
{
	uint32_t n;

	do {
		n = usable(p);
		if (p->want_found && !p->found_sent)
			p->found(p, n);
		p->found_sent = true;
		p->reading = p->waiting = 0;
	} while (!each_needed(p, n, entry_take) || !each_needed(p, n, entry_advance));
	if (p->reading + p->waiting == 0) {
		prefetch_detach(p, false);
		prefetch_end(p, p->no_memory ? -ENOMEM : 0);
	}
}

/* ---- probing ---------------------------------------------------------- */

static void probe_batch_put(struct probe_batch *batch)
{
	if (--batch->out == 0) {
		if (batch->p != NULL)
			batch->p->probes = NULL;
		free(batch);
	}
}

static void probe_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	struct probe *probe = (struct probe *)task;
	struct probe_batch *batch = probe->batch;
	struct kvh_prefetch *p = batch->p;

	kvh_count(&kvh_adapter_counters(batch->c->adapters[probe->adapter])->probes, 1);
	if (p != NULL) {
		if (status == 0)
			p->hits[probe->entry] |= UINT32_C(1) << probe->adapter;
		if (status == 0 && p->entry[probe->entry] == KVH_ENTRY_ABSENT)
			p->entry[probe->entry] = KVH_ENTRY_IN_L2;
		if (--p->probing == 0)
			mark(p);
	}
	if (buffer_free)
		probe_batch_put(batch);
}

static void probe_returned(struct kvh_l2_task *task)
{
	probe_batch_put(((struct probe *)task)->batch);
}

static void probe_submit(struct probe_batch *batch, uint32_t entry, uint32_t adapter)
{
	struct probe *probe = &batch->probes[batch->out++];

	probe->batch = batch;
	probe->entry = entry;
	probe->adapter = adapter;
	probe->task.req.op = KVH_L2_PROBE;
	kvh_prefetch_key(batch->p, entry, &probe->task.req.key);
	probe->task.ended = probe_ended;
	probe->task.returned = probe_returned;
	kvh_adapter_submit(batch->c->adapters[adapter], &probe->task);
}

static void probe_entry(struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_controller *c = p->controller;

	for (uint32_t a = 0; a < c->n_adapters && p->entry[entry] == KVH_ENTRY_ABSENT; a++)
		if (!kvh_adapter_caps(c->adapters[a])->local_index)
			probe_submit(p->probes, entry, a);
}

/* Asks the adapters without a local index for every entry nobody has so far. */
static void probe_absent(struct kvh_prefetch *p)
{
	struct kvh_controller *c = p->controller;
	struct probe_batch *batch;
	size_t n = 0;

	for (uint32_t a = 0; a < c->n_adapters; a++)
		n += !kvh_adapter_caps(c->adapters[a])->local_index;
	n *= KVH_ENTRIES(&p->prefix);
	if (n == 0)
		return;
	batch = calloc(1, sizeof(*batch) + n * sizeof(batch->probes[0]));
	if (batch == NULL) {
		p->no_memory = true;
		return;
	}
	batch->p = p;
	batch->c = c;
	p->probes = batch;
	each_entry(p, probe_entry);
	p->probing = batch->out;
	if (batch->out == 0) {
		p->probes = NULL;
		free(batch);
	}
}

/* What L1 and the local indexes have. */
static void entry_find(struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_controller *c = p->controller;
	struct kvh_key key;
	uint8_t found;

	kvh_prefetch_key(p, entry, &key);
	kvh_l1_find(c->opts.l1, &key, 1, &found);
	if (found != 0) {
		p->entry[entry] = found == 1 ? KVH_ENTRY_IN_L1 : KVH_ENTRY_FILLING;
		return;
	}
	for (uint32_t a = 0; a < c->n_adapters; a++) {
		uint8_t has = 0;

		kvh_adapter_peek(c->adapters[a], &key, 1, &has);
		p->hits[entry] |= (uint32_t)has << a;
	}
	if (p->hits[entry] != 0)
		p->entry[entry] = KVH_ENTRY_IN_L2;
}

static void prefetch_start(struct kvh_loop_work *work)
{
	struct kvh_prefetch *p = (struct kvh_prefetch *)((char *)work -
							 offsetof(struct kvh_prefetch, start));
	struct kvh_controller *c = p->controller;

	p->next = c->prefetches;
	if (p->next != NULL)
		p->next->prev = p;
	c->prefetches = p;
	if (c->stopping) {
		prefetch_end(p, -ECANCELED);
		return;
	}
	each_entry(p, entry_find);
	probe_absent(p);
	mark(p);
}

/* ---- the controller's side -------------------------------------------- */

void kvh_controller_prefetch(struct kvh_controller *c, struct kvh_prefetch *p)
{
	p->controller = c;
	p->start.run = prefetch_start;
	kvh_loop_post(c->loop, &p->start);
}

void kvh_prefetch_cancel(struct kvh_prefetch *p)
{
	prefetch_detach(p, true);
	prefetch_end(p, -ECANCELED);
}

uint64_t kvh_prefetch_tick(struct kvh_controller *c, uint64_t now_ns)
{
	struct kvh_prefetch *p, *next;
	uint64_t at = UINT64_MAX;

	c->dirty = false;
	for (p = c->prefetches; p != NULL; p = next) {
		bool look = p->dirty || p->waiting > 0;

		next = p->next;
		if (p->deadline_ns <= now_ns) {
			prefetch_expire(p);
			continue;
		}
		if (p->deadline_ns < at)
			at = p->deadline_ns;
		p->dirty = false;
		if (!look || p->probing > 0)
			continue;
		prefetch_plan(p); /* may end it */
	}
	for (p = c->prefetches; p != NULL; p = p->next)
		if (p->waiting > 0 && now_ns + WAIT_NS < at)
			at = now_ns + WAIT_NS;
	return at;
}

void kvh_prefetch_stop(struct kvh_controller *c)
{
	while (c->prefetches != NULL)
		kvh_prefetch_cancel(c->prefetches);
	kvh_fetch_stop(c);
}
