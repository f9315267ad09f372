/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefetch.c - the prefetch controller: one prefetch from its start to its end,
 * deadlines, and whose turn it is. The controller's thread, but for
 * kvh_prefetch_from_l1.
 *
 *              something happened             has more to do, or others' turn
 *      IDLE ----------------------> READY <-----------------------------.
 *       ^                          (in turn) --step--> nothing to do now |
 *       |                             |                    |             |
 *       |   no room for its next read v                    |             |
 *       |                          BLOCKED --a read ended--+-------------'
 *       '--------------------------------------------------'
 *
 * A step is bounded, and so is what is done in one round of the loop: however long
 * a prefetch is, others and the adapters have their turn in between.
 */
#include "host/clock.h"
#include "host/controller_impl.h"
#include "host/prefix.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define ROUND_STEPS 16u  /* of all prefetches, in one round */
#define BATCH       256u /* entries leased at once */

/* ---- the short way: all of it is in L1 -------------------------------- */

static void release_all(struct kvh_prefetch *p)
{
	for (size_t e = 0; e < KVH_ENTRIES(&p->prefix); e++) {
		if (p->leases[e] != KVH_NONE)
			(void)kvh_l1_release(p->controller->opts.l1, p->leases[e]);
		p->leases[e] = KVH_NONE;
	}
}

/* The next entries that are needed; false: one of them is not there. */
static bool lease_next(struct kvh_prefetch *p, uint64_t deadline_ns, struct kvh_walk *walk,
		       uint32_t *n_p)
{
	struct kvh_key keys[BATCH];
	uint32_t entries[BATCH], n = 0;
	kvh_lease_t leases[BATCH];
	int32_t status[BATCH];
	uint32_t got;

	while (n < BATCH && kvh_prefix_step(&p->prefix, p->space, p->prefix.n_chunks, walk,
					    &entries[n], &keys[n]))
		n++;
	got = kvh_l1_lease_until(p->controller->opts.l1, p->client, keys, n, deadline_ns,
				 leases, status);
	for (uint32_t i = 0; i < n; i++)
		p->leases[entries[i]] = leases[i];
	*n_p = n;
	return got == n;
}

bool kvh_prefetch_from_l1(struct kvh_controller *c, struct kvh_prefetch *p, uint32_t *n_ok_p)
{
	uint64_t deadline_ns = p->lease_ns != 0 ? kvh_deadline_ns(p->lease_ns) : 0;
	struct kvh_walk walk = {0};
	uint32_t n, total = 0;

	p->controller = c;
	for (size_t e = 0; e < KVH_ENTRIES(&p->prefix); e++)
		p->leases[e] = KVH_NONE;
	do {
		if (!lease_next(p, deadline_ns, &walk, &n)) {
			release_all(p);
			return false;
		}
		total += n;
	} while (n == BATCH);
	kvh_count(&c->opts.metrics->hits_l1, total);
	kvh_count(&p->space->counters->hits_l1, total);
	if (deadline_ns != 0)
		kvh_controller_lease_timed(c, deadline_ns);
	kvh_speculate_after(c, &p->prefix, p->space);
	*n_ok_p = total;
	return true;
}

uint32_t kvh_prefetch_warm_client(const struct kvh_controller *c)
{
	return c->prefetcher.client;
}

/* ---- turns --------------------------------------------------------------- */

static struct kvh_prefetches *queue_of(struct kvh_prefetch *p)
{
	struct kvh_prefetcher *f = &p->controller->prefetcher;

	return p->place == KVH_PREFETCH_READY ? &f->ready : &f->blocked;
}

/* The one way from place to place. */
static void place(struct kvh_prefetch *p, enum kvh_prefetch_place to)
{
	if (p->place != KVH_PREFETCH_IDLE)
		TAILQ_REMOVE(queue_of(p), p, turn);
	p->place = (uint8_t)to;
	if (to != KVH_PREFETCH_IDLE)
		TAILQ_INSERT_TAIL(queue_of(p), p, turn);
}

void kvh_prefetch_mark(struct kvh_prefetch *p)
{
	if (p->place != KVH_PREFETCH_READY)
		place(p, KVH_PREFETCH_READY);
	p->controller->dirty = true;
}

void kvh_prefetch_unblock(struct kvh_controller *c)
{
	struct kvh_prefetch *p, *next;

	for (p = TAILQ_FIRST(&c->prefetcher.blocked); p != NULL; p = next) {
		next = TAILQ_NEXT(p, turn);
		if (!p->had_turn)
			kvh_prefetch_mark(p);
	}
	while ((p = TAILQ_FIRST(&c->prefetcher.blocked)) != NULL)
		kvh_prefetch_mark(p);
}

/* ---- the end ------------------------------------------------------------- */

/* What was kept: of L1, and of each adapter. */
static uint32_t count_hits(const struct kvh_prefetch *p, uint32_t in_l1,
			   const uint32_t from[KVH_ADAPTERS_MAX])
{
	struct kvh_space_counters *s = p->space->counters;
	struct kvh_controller *c = p->controller;
	struct kvh_metrics *m = c->opts.metrics;
	uint32_t n = in_l1;

	kvh_count(&m->hits_l1, in_l1);
	kvh_count(&s->hits_l1, in_l1);
	for (uint32_t a = 0; a < KVH_ADAPTERS_MAX; a++) {
		if (from[a] == 0)
			continue;
		kvh_count(&m->hits_l2, from[a]);
		kvh_count(&s->hits_l2, from[a]);
		kvh_count(&kvh_adapter_counters(c->adapters[a])->hits, from[a]);
		n += from[a];
	}
	return n;
}

/* Keeps the leases that a prefix of `got` chunks needs, and counts; a cancelled
 * prefetch missed nothing. Returns how many were kept. */
static uint32_t keep_leases(struct kvh_prefetch *p, uint32_t got, bool count_misses)
{
	struct kvh_space_counters *s = p->space->counters;
	struct kvh_metrics *m = p->controller->opts.metrics;
	uint32_t from[KVH_ADAPTERS_MAX] = {0}, in_l1 = 0, misses = 0, wasted = 0, entry;
	struct kvh_walk walk = {0};
	struct kvh_key key;

	while (kvh_prefix_step(&p->prefix, p->space, KVH_WALK_ALL, &walk, &entry, &key)) {
		uint32_t chunk = entry / p->prefix.n_ranks / p->prefix.n_groups;
		bool read = (p->hits[entry] & KVH_HITS_READ) != 0;

		if (kvh_prefix_needs(p->space, got, chunk, key.group)) {
			if (read)
				from[p->hits[entry] & ~KVH_HITS_READ]++;
			else
				in_l1++;
			continue;
		}
		misses += count_misses &&
			  kvh_prefix_needs(p->space, p->prefix.n_chunks, chunk, key.group);
		if (p->leases[entry] == KVH_NONE)
			continue;
		wasted += read;
		(void)kvh_l1_release(p->controller->opts.l1, p->leases[entry]);
		p->leases[entry] = KVH_NONE;
	}
	kvh_count(&m->misses, misses);
	kvh_count(&m->prefetch_wasted, wasted);
	kvh_count(&s->misses, misses);
	kvh_count(&s->prefetch_wasted, wasted);
	return count_hits(p, in_l1, from);
}

/* From the end on: nobody could have used them before. */
static void set_deadline(struct kvh_prefetch *p)
{
	uint64_t deadline_ns;

	if (p->lease_ns == 0)
		return;
	deadline_ns = kvh_deadline_ns(p->lease_ns);
	kvh_l1_lease_deadline(p->controller->opts.l1, p->leases,
			      (uint32_t)KVH_ENTRIES(&p->prefix), deadline_ns);
	kvh_controller_lease_timed(p->controller, deadline_ns);
}

static void prefetch_end(struct kvh_prefetch *p, int status)
{
	struct kvh_controller *c = p->controller;
	uint32_t got = status == -ECANCELED ? 0 : p->usable;
	uint32_t n_ok;

	kvh_probe_detach(p, false);
	kvh_fetch_detach(p, status == -ECANCELED);
	n_ok = keep_leases(p, got, status != -ECANCELED);
	if (p->warm)
		release_all(p);
	else
		set_deadline(p);
	place(p, KVH_PREFETCH_IDLE);
	TAILQ_REMOVE(&c->prefetcher.all, p, all);
	if (status == 0 && got == p->prefix.n_chunks)
		kvh_speculate_after(c, &p->prefix, p->space);
	p->ended(p, status, got, n_ok);
}

static int outcome(const struct kvh_prefetch *p)
{
	if (p->expired)
		return -ETIMEDOUT;
	return p->no_memory ? -ENOMEM : 0;
}

/* ---- the start ------------------------------------------------------------ */

static void note_deadline(struct kvh_prefetcher *f, uint64_t at_ns)
{
	if (at_ns < f->deadline_ns)
		f->deadline_ns = at_ns;
}

static void prefetch_start(struct kvh_loop_work *work)
{
	struct kvh_prefetch *p = (struct kvh_prefetch *)((char *)work -
							 offsetof(struct kvh_prefetch, start));
	struct kvh_controller *c = p->controller;

	TAILQ_INSERT_TAIL(&c->prefetcher.all, p, all);
	LIST_INIT(&p->waits);
	p->usable = p->prefix.n_chunks;
	p->probe_until_ns = UINT64_MAX;
	if (c->stopping) {
		prefetch_end(p, -ECANCELED);
		return;
	}
	p->askable = kvh_probe_askable(c);
	note_deadline(&c->prefetcher, p->deadline_ns);
	kvh_prefetch_mark(p);
}

void kvh_controller_prefetch(struct kvh_controller *c, struct kvh_prefetch *p)
{
	p->controller = c;
	p->start.run = prefetch_start;
	kvh_loop_post(c->loop, &p->start);
}

void kvh_prefetch_cancel(struct kvh_prefetch *p)
{
	prefetch_end(p, -ECANCELED);
}

/* ---- rounds ---------------------------------------------------------------- */

static void expire(struct kvh_prefetcher *f, uint64_t now_ns)
{
	struct kvh_prefetch *p;

	if (now_ns < f->deadline_ns)
		return;
	f->deadline_ns = UINT64_MAX;
	TAILQ_FOREACH(p, &f->all, all)
	{
		if (p->deadline_ns <= now_ns && !p->expired)
			kvh_prefetch_expire(p);
		if (p->probe_until_ns <= now_ns) {
			p->probe_until_ns = UINT64_MAX;
			kvh_probe_detach(p, true);
			kvh_prefetch_mark(p);
		}
		if (!p->expired)
			note_deadline(f, p->deadline_ns);
		note_deadline(f, p->probe_until_ns);
	}
}

/* One whose turn it is, until its next turn. */
static void prefetch_turn(struct kvh_prefetch *p, uint32_t *steps)
{
	enum kvh_step step;

	place(p, KVH_PREFETCH_IDLE);
	do {
		step = kvh_prefetch_step(p);
		++*steps;
		if (p->phase >= KVH_PREFETCH_LEASING && !p->shrunk && p->missing == 0) {
			prefetch_end(p, outcome(p));
			return;
		}
	} while (step == KVH_STEP_ON);
	if (p->phase == KVH_PREFETCH_PROBING)
		note_deadline(&p->controller->prefetcher, p->probe_until_ns);
	if (step == KVH_STEP_LATER)
		place(p, KVH_PREFETCH_READY);
	else if (step == KVH_STEP_BLOCKED && p->place == KVH_PREFETCH_IDLE)
		place(p, KVH_PREFETCH_BLOCKED);
}

static void settled_wake(struct kvh_loop_work *work)
{
	struct kvh_controller *c = (struct kvh_controller *)((char *)work -
							     offsetof(struct kvh_controller,
								      prefetcher.settled.wake));
	struct kvh_key *keys;
	bool forgot;
	uint32_t n = kvh_settled_take(&c->prefetcher.settled, &keys, &forgot);

	for (uint32_t i = 0; i < n; i++)
		kvh_fetch_settled(c, &keys[i]);
	if (forgot)
		kvh_fetch_settled_any(c);
	free(keys);
}

uint64_t kvh_prefetch_tick(struct kvh_controller *c, uint64_t now_ns)
{
	struct kvh_prefetcher *f = &c->prefetcher;
	struct kvh_prefetch *p;
	uint32_t steps = 0;

	expire(f, now_ns);
	kvh_read_hedge(c, now_ns);
	while (steps < ROUND_STEPS && (p = TAILQ_FIRST(&f->ready)) != NULL)
		prefetch_turn(p, &steps);
	c->dirty = false;
	kvh_speculate_tick(c);
	if (!TAILQ_EMPTY(&f->ready))
		return now_ns; /* after the next look at the events */
	return f->deadline_ns < f->hedge_ns ? f->deadline_ns : f->hedge_ns;
}

/* ---- opening and closing --------------------------------------------------- */

int kvh_prefetcher_open(struct kvh_controller *c)
{
	struct kvh_prefetcher *f = &c->prefetcher;
	int err;

	TAILQ_INIT(&f->all);
	TAILQ_INIT(&f->ready);
	TAILQ_INIT(&f->blocked);
	TAILQ_INIT(&f->reads);
	f->deadline_ns = f->hedge_ns = UINT64_MAX;
	f->sources.plan = c->opts.plan;
	f->sources.window_bytes = c->opts.read_bytes;
	f->sources.hedge_ns = c->opts.hedge_ns;
	err = kvh_speculation_open(c);
	if (err != 0)
		return err;
	err = kvh_l1_client_open(c->opts.l1, &f->client);
	if (err != 0) {
		kvh_speculation_close(c);
		return err;
	}
	kvh_settled_open(&f->settled, c->loop, settled_wake);
	kvh_l1_watcher_set(c->opts.l1, kvh_settled_tell, &f->settled);
	return 0;
}

void kvh_prefetcher_close(struct kvh_controller *c)
{
	kvh_l1_watcher_set(c->opts.l1, NULL, NULL);
	kvh_settled_close(&c->prefetcher.settled);
	kvh_l1_client_close(c->opts.l1, c->prefetcher.client);
	kvh_speculation_close(c);
}

void kvh_prefetch_stop(struct kvh_controller *c)
{
	struct kvh_prefetch *p;

	while ((p = TAILQ_FIRST(&c->prefetcher.all)) != NULL)
		kvh_prefetch_cancel(p);
	kvh_read_stop(c);
}
