/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.c - asking adapters that have no local index for what nobody has so far, a
 * bounded number at a time, in the prompt's order. The controller's thread.
 *
 * The tasks outlive the prefetch where an adapter does not answer in time.
 */
#include "host/clock.h"
#include "host/controller_impl.h"
#include "host/prefix.h"

#include <assert.h>
#include <stdlib.h>

#define PROBES_OUT 256u

struct probe {
	struct kvh_l2_task task;
	struct kvh_probing *probing;
	uint32_t entry, adapter;
	uint64_t began_ns;
	bool overdue;
	struct probe *next; /* unused */
};

/* out + unused == n */
struct kvh_probing {
	struct kvh_prefetch *p; /* NULL: detached */
	struct kvh_controller *c;
	struct kvh_walk walk;
	uint32_t entry; /* the one that is asked for */
	struct kvh_key key;
	uint32_t rest;    /* adapters to ask for it still */
	bool walked;      /* there is no other */
	uint32_t pending; /* without an answer, <= out */
	uint32_t out;     /* of which the adapter still has the task */
	struct probe *unused;
	uint32_t n;
	struct probe probes[];
};

uint32_t kvh_probe_askable(const struct kvh_controller *c)
{
	uint32_t askable = 0;

	for (uint32_t a = 0; a < c->n_adapters; a++)
		if (!kvh_adapter_caps(c->adapters[a])->local_index &&
		    kvh_adapter_usable(c->adapters[a]) &&
		    c->prefetcher.sources.at[a].overdue == 0)
			askable |= UINT32_C(1) << a;
	return askable;
}

static struct kvh_probing *probing_make(struct kvh_prefetch *p)
{
	uint64_t most = (uint64_t)KVH_ENTRIES(&p->prefix) *
			(uint32_t)__builtin_popcount(p->askable);
	uint32_t n = most < PROBES_OUT ? (uint32_t)most : PROBES_OUT;
	struct kvh_probing *g = calloc(1, sizeof(*g) + n * sizeof(g->probes[0]));

	if (g == NULL)
		return NULL;
	g->p = p;
	g->c = p->controller;
	g->n = n;
	for (uint32_t i = 0; i < n; i++) {
		g->probes[i].probing = g;
		g->probes[i].next = g->unused;
		g->unused = &g->probes[i];
	}
	return g;
}

static void probe_back(struct probe *probe)
{
	struct kvh_probing *g = probe->probing;

	g->c->prefetcher.sources.at[probe->adapter].overdue -= probe->overdue;
	probe->overdue = false;
	probe->next = g->unused;
	g->unused = probe;
	if (--g->out == 0 && g->p == NULL)
		free(g);
}

/* A full group's entry that all have denied: nothing behind it is of use. */
static void entry_denied(struct kvh_prefetch *p, uint32_t entry)
{
	uint32_t group = entry / p->prefix.n_ranks % p->prefix.n_groups;
	uint32_t chunk = entry / p->prefix.n_ranks / p->prefix.n_groups;

	if ((p->hits[entry] >> KVH_ADAPTERS_MAX & p->askable) == p->askable &&
	    p->space->groups[group].desc.kind == KVH_GROUP_FULL && chunk < p->usable)
		p->usable = chunk;
}

static void probe_answered(struct kvh_prefetch *p, const struct probe *probe, int status)
{
	if (status == 0) {
		p->hits[probe->entry] |= UINT32_C(1) << probe->adapter;
		if (p->entry[probe->entry] == KVH_ENTRY_ABSENT)
			p->entry[probe->entry] = KVH_ENTRY_WANTED;
	} else {
		p->hits[probe->entry] |= KVH_HITS_NOT(probe->adapter);
		entry_denied(p, probe->entry);
	}
	kvh_prefetch_mark(p);
}

static void probe_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	struct probe *probe = (struct probe *)task;
	struct kvh_controller *c = probe->probing->c;

	kvh_count(&kvh_adapter_counters(c->adapters[probe->adapter])->probes, 1);
	if (buffer_free)
		kvh_source_probed(&c->prefetcher.sources, probe->adapter,
				  kvh_now_ns() - probe->began_ns);
	if (probe->probing->p != NULL)
		probe_answered(probe->probing->p, probe, status);
	probe->probing->pending--;
	if (buffer_free)
		probe_back(probe);
}

static void probe_returned(struct kvh_l2_task *task)
{
	probe_back((struct probe *)task);
}

static void probe_submit(struct kvh_probing *g, uint32_t adapter)
{
	struct probe *probe = g->unused;
	uint64_t now = kvh_now_ns();
	uint64_t patience = kvh_source_probe_patience(&g->c->prefetcher.sources, adapter);

	g->unused = probe->next;
	g->out++;
	g->pending++;
	probe->entry = g->entry;
	probe->adapter = adapter;
	probe->began_ns = now;
	probe->task = (struct kvh_l2_task){.ended = probe_ended, .returned = probe_returned};
	probe->task.req.op = KVH_L2_PROBE;
	probe->task.req.key = g->key;
	/* From the last one asked: it is for one that does not answer at all. */
	g->p->probe_until_ns = patience < UINT64_MAX - now ? now + patience : UINT64_MAX;
	kvh_adapter_submit(g->c->adapters[adapter], &probe->task);
}

/* The next entry that nobody has so far. */
static bool next_absent(struct kvh_probing *g)
{
	struct kvh_prefetch *p = g->p;

	while (g->walk.chunk < p->usable && kvh_prefix_step(&p->prefix, p->space, KVH_WALK_ALL,
							    &g->walk, &g->entry, &g->key)) {
		if (p->entry[g->entry] != KVH_ENTRY_ABSENT)
			continue;
		g->rest = p->askable;
		return true;
	}
	return false;
}

static void forget_denials(struct kvh_prefetch *p)
{
	for (uint32_t e = 0; e < (uint32_t)KVH_ENTRIES(&p->prefix); e++)
		p->hits[e] &= KVH_HITS_MAYBE;
}

enum kvh_step kvh_probe_step(struct kvh_prefetch *p)
{
	struct kvh_probing *g = p->probing;

	if (p->askable == 0)
		return KVH_STEP_ON;
	if (g == NULL) {
		g = p->probing = probing_make(p);
		if (g == NULL) {
			p->no_memory = true;
			p->askable = 0;
			return KVH_STEP_ON;
		}
	}
	while (g->unused != NULL && !g->walked) {
		if (g->rest == 0 && !next_absent(g)) {
			g->walked = true;
			break;
		}
		probe_submit(g, (uint32_t)__builtin_ctz(g->rest));
		g->rest &= g->rest - 1;
	}
	if (!g->walked || g->pending > 0)
		return KVH_STEP_WAIT;
	kvh_probe_detach(p, false);
	return KVH_STEP_ON;
}

void kvh_probe_detach(struct kvh_prefetch *p, bool overdue)
{
	struct kvh_probing *g = p->probing;

	p->askable = 0;
	p->probe_until_ns = UINT64_MAX;
	if (g == NULL)
		return;
	forget_denials(p);
	p->probing = NULL;
	g->p = NULL;
	for (uint32_t i = 0; i < g->n && overdue; i++) {
		struct probe *probe = &g->probes[i];

		if (probe->task.state == KVH_TASK_IDLE || probe->overdue)
			continue;
		probe->overdue = true;
		g->c->prefetcher.sources.at[probe->adapter].overdue++;
	}
	if (g->out == 0)
		free(g);
}
