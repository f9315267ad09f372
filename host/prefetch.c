/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefetch.c - the prefetch controller: probe, plan, read, verify, publish,
 * lease. The controller's thread, but for kvh_prefetch_from_l1 and the check of
 * a frame (a worker).
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
#include "host/frame.h"
#include "host/log.h"
#include "host/prefix.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_NS  KVH_NS_PER_MS /* between looks at entries that another fills */
#define WAS_READ (UINT32_C(1) << 31)

enum entry_state { ABSENT, IN_L1, FILLING, IN_L2, READING, LEASED };

struct kvh_fetch {
	struct kvh_l2_task task;
	struct kvh_controller *c;
	struct kvh_prefetch *p; /* NULL: detached, the frame goes to L1 all the same */
	uint32_t entry;
	uint32_t adapter;
	kvh_frame frame;
	uint8_t digest[32];
	struct kvh_work check;
	struct kvh_loop_work checked;
	const char *wrong; /* NULL: verified */
	struct kvh_fetch *prev, *next;
};

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

static void mark(struct kvh_prefetch *p)
{
	p->dirty = true;
	p->controller->dirty = true;
}

static void entry_key(const struct kvh_prefetch *p, uint32_t entry, struct kvh_key *key)
{
	uint32_t r = entry % p->prefix.n_ranks;
	uint32_t group = entry / p->prefix.n_ranks % p->prefix.n_groups;
	uint32_t chunk = entry / p->prefix.n_ranks / p->prefix.n_groups;

	kvh_prefix_key(&p->prefix, p->space, chunk, group, r, key);
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
	return kvh_prefix_usable(&p->prefix, p->space, p->entry); /* ABSENT is 0 */
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

	entry_key(p, entry, &key);
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

/* ---- reading ---------------------------------------------------------- */

static void fetch_free(struct kvh_fetch *f)
{
	if (f->prev != NULL)
		f->prev->next = f->next;
	else
		f->c->fetches = f->next;
	if (f->next != NULL)
		f->next->prev = f->prev;
	free(f);
}

/* The entry's read came to nothing: the next adapter, or absent. */
static void entry_lost(struct kvh_prefetch *p, uint32_t entry)
{
	p->entry[entry] = (p->hits[entry] & ~WAS_READ) != 0 ? IN_L2 : ABSENT;
	mark(p);
}

static void fetch_lost(struct kvh_fetch *f)
{
	if (f->p != NULL)
		entry_lost(f->p, f->entry);
	f->p = NULL;
}

static void discard_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	(void)status;
	if (buffer_free)
		free(task);
}

static void discard_returned(struct kvh_l2_task *task)
{
	free(task);
}

/* What failed verification is deleted where it was read. */
static void discard(struct kvh_controller *c, uint32_t adapter, const struct kvh_key *key)
{
	struct kvh_l2_task *task;

	if (c->stopping)
		return;
	task = calloc(1, sizeof(*task));
	if (task == NULL)
		return; /* it will fail to verify again */
	task->req.op = KVH_L2_DELETE;
	task->req.key = *key;
	task->ended = discard_ended;
	task->returned = discard_returned;
	kvh_count(&kvh_adapter_counters(c->adapters[adapter])->deletes, 1);
	kvh_adapter_submit(c->adapters[adapter], task);
}

/* A verified frame, published: leased for the prefetch that waits for it. */
static void fetch_done(struct kvh_fetch *f)
{
	struct kvh_controller *c = f->c;
	struct kvh_prefetch *p = f->p;
	struct kvh_l1 *l1 = c->opts.l1;

	if (kvh_l1_publish(l1, f->frame, 1) != 0) { /* erased meanwhile */
		fetch_lost(f);
		return;
	}
	if (p == NULL) {
		kvh_count(&c->opts.metrics->prefetch_wasted, 1);
	} else if (kvh_l1_lease_held(l1, p->client, f->frame, &p->leases[f->entry]) == 0) {
		p->entry[f->entry] = LEASED;
		p->hits[f->entry] |= WAS_READ;
		mark(p);
	} else {
		p->no_memory = true;
		p->hits[f->entry] = 0;
		fetch_lost(f);
	}
	if (!c->opts.policy->retain_prefetched)
		kvh_l1_doom(l1, f->frame);
	kvh_l1_unhold(l1, f->frame);
}

static void fetch_checked(struct kvh_loop_work *work)
{
	struct kvh_fetch *f = (struct kvh_fetch *)((char *)work -
						   offsetof(struct kvh_fetch, checked));
	struct kvh_controller *c = f->c;
	struct kvh_adapter *adapter = c->adapters[f->adapter];

	if (f->wrong == NULL) {
		kvh_count(&kvh_adapter_counters(adapter)->gets, 1);
		kvh_count(&kvh_adapter_counters(adapter)->get_bytes, f->task.req.len);
		fetch_done(f);
	} else {
		kvh_warn("%s: a frame of %llu bytes is not what was stored (%s); deleted",
			 kvh_adapter_name(adapter), (unsigned long long)f->task.req.len,
			 f->wrong);
		kvh_count(&c->opts.metrics->corrupt, 1);
		kvh_count(&kvh_adapter_counters(adapter)->get_corrupt, 1);
		kvh_l1_abort(c->opts.l1, f->frame);
		discard(c, f->adapter, &f->task.req.key);
		fetch_lost(f);
	}
	fetch_free(f);
}

/* Worker. */
static void fetch_check(struct kvh_work *work)
{
	struct kvh_fetch *f = (struct kvh_fetch *)((char *)work -
						   offsetof(struct kvh_fetch, check));

	if (kvh_frame_verify(f->task.req.buf, f->task.req.len, &f->task.req.key, f->digest,
			     &f->wrong) == 0)
		f->wrong = NULL;
	kvh_loop_post(f->c->loop, &f->checked);
}

static void fetch_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	struct kvh_fetch *f = (struct kvh_fetch *)task;
	struct kvh_controller *c = f->c;
	struct kvh_adapter_counters *n = kvh_adapter_counters(c->adapters[f->adapter]);

	if (status == 0 && buffer_free) {
		kvh_workers_post(c->workers, &f->check);
		return;
	}
	if (status == -ENOENT)
		kvh_count(&n->get_missed, 1);
	else if (status != -ECANCELED)
		kvh_count(&n->get_failed, 1);
	fetch_lost(f);
	if (buffer_free) {
		kvh_l1_abort(c->opts.l1, f->frame);
		fetch_free(f);
	} else {
		/* The transfer may still write to the frame: out of the index, so that
		 * another can fill the key; freed when it comes back. */
		(void)kvh_l1_erase(c->opts.l1, &f->task.req.key);
	}
}

static void fetch_returned(struct kvh_l2_task *task)
{
	struct kvh_fetch *f = (struct kvh_fetch *)task;

	kvh_l1_abort(f->c->opts.l1, f->frame);
	fetch_free(f);
}

static struct kvh_fetch *fetch_make(struct kvh_prefetch *p, uint32_t entry, kvh_frame frame,
				    const struct kvh_key *key)
{
	struct kvh_controller *c = p->controller;
	struct kvh_fetch *f = calloc(1, sizeof(*f));

	if (f == NULL)
		return NULL;
	f->c = c;
	f->p = p;
	f->entry = entry;
	f->frame = frame;
	f->adapter = (uint32_t)__builtin_ctz(p->hits[entry]);
	p->hits[entry] &= p->hits[entry] - 1;
	memcpy(f->digest, p->space->digest, sizeof(f->digest));
	f->check.run = fetch_check;
	f->checked.run = fetch_checked;
	f->task.req.op = KVH_L2_GET;
	f->task.req.key = *key;
	f->task.req.buf = kvh_l1_data(c->opts.l1, frame);
	f->task.req.len = kvh_l1_frame_bytes(c->opts.l1, frame);
	f->task.ended = fetch_ended;
	f->task.returned = fetch_returned;
	f->next = c->fetches;
	if (f->next != NULL)
		f->next->prev = f;
	c->fetches = f;
	return f;
}

/* IN_L2 -> READING, or what the index says instead. */
static void entry_read(struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_controller *c = p->controller;
	struct kvh_l1_reserve item = {0};
	struct kvh_fetch *f;

	entry_key(p, entry, &item.key);
	item.payload_bytes = p->space->groups[item.key.group].payload_bytes;
	(void)kvh_l1_reserve(c->opts.l1, &item, 1);
	if (item.status == -EEXIST || item.status == -EINPROGRESS) {
		p->entry[entry] = item.status == -EEXIST ? IN_L1 : FILLING;
		return;
	}
	f = item.status == 0 ? fetch_make(p, entry, item.frame, &item.key) : NULL;
	if (f == NULL) {
		if (item.status == 0)
			kvh_l1_abort(c->opts.l1, item.frame);
		p->no_memory = true;
		p->entry[entry] = ABSENT;
		return;
	}
	p->entry[entry] = READING;
	kvh_adapter_submit(c->adapters[f->adapter], &f->task);
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

	entry_key(p, entry, &key);
	p->hits[entry] = entry_hits(p->controller, &key);
	p->entry[entry] = p->hits[entry] != 0 ? IN_L2 : ABSENT;
}

static void entry_lease(struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_l1 *l1 = p->controller->opts.l1;
	struct kvh_key key;
	int32_t status;

	entry_key(p, entry, &key);
	if (kvh_l1_lease(l1, p->client, &key, 1, &p->leases[entry], &status) == 1) {
		p->entry[entry] = LEASED;
	} else if (status == -EINPROGRESS) {
		p->entry[entry] = FILLING;
	} else if (status == -ENOENT) {
		entry_gone(p, entry);
	} else {
		p->no_memory = true;
		p->entry[entry] = ABSENT;
	}
}

/* Moves one needed entry on as far as it goes now. False: it is lost, and the
 * prefix is shorter. */
static bool entry_advance(struct kvh_prefetch *p, uint32_t entry)
{
	if (p->entry[entry] == FILLING)
		p->entry[entry] = IN_L1; /* lease says whether it still is */
	/* Each step may be overtaken by another thread; a few are enough, and one
	 * that is not settled then is looked at again with the FILLING ones. */
	for (int step = 0; step < 4; step++) {
		if (p->entry[entry] == IN_L1)
			entry_lease(p, entry);
		else if (p->entry[entry] == IN_L2)
			entry_read(p, entry);
	}
	switch ((enum entry_state)p->entry[entry]) {
	case ABSENT: return false;
	case LEASED: return true;
	case READING: p->reading++; return true;
	case IN_L1:
	case IN_L2:
	case FILLING: p->waiting++; return true;
	}
	return false;
}

static void prefetch_end(struct kvh_prefetch *p, int status)
{
	struct kvh_controller *c = p->controller;
	struct kvh_metrics *m = c->opts.metrics;
	const struct kvh_prefix *prefix = &p->prefix;
	uint32_t got, n_ok = 0;

	for (size_t e = 0; e < KVH_ENTRIES(prefix); e++)
		if (p->entry[e] != LEASED || status == -ECANCELED)
			p->entry[e] = ABSENT;
	got = usable(p);
	for (uint32_t chunk = 0; chunk < prefix->n_chunks; chunk++) {
		for (uint32_t g = 0; g < prefix->n_groups; g++) {
			bool keep = kvh_prefix_needs(p->space, got, chunk, g);
			bool wanted = kvh_prefix_needs(p->space, prefix->n_chunks, chunk, g);

			for (uint32_t r = 0; r < kvh_prefix_ranks(prefix, p->space, g); r++) {
				size_t e = KVH_ENTRY(prefix, chunk, g, r);
				bool read = (p->hits[e] & WAS_READ) != 0;

				if (keep) {
					n_ok++;
					kvh_count(read ? &m->hits_l2 : &m->hits_l1, 1);
				} else {
					kvh_count(&m->misses, wanted);
					kvh_count(&m->prefetch_wasted, read);
					release_one(p, e);
				}
			}
		}
	}
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
	struct kvh_controller *c = p->controller;
	struct kvh_fetch *f, *next;

	for (f = c->fetches; f != NULL; f = next) {
		next = f->next;
		if (f->p != p)
			continue;
		f->p = NULL;
		if (cancel && f->task.state != KVH_TASK_IDLE)
			kvh_adapter_cancel(c->adapters[f->adapter], &f->task);
	}
	if (p->probes != NULL)
		p->probes->p = NULL;
}

static void prefetch_plan(struct kvh_prefetch *p)
{
	uint32_t n;

	do {
		n = usable(p);
		if (p->want_found && !p->found_sent)
			p->found(p, n);
		p->found_sent = true;
		p->reading = p->waiting = 0;
	} while (!each_needed(p, n, entry_advance));
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
		if (status == 0 && p->entry[probe->entry] == ABSENT)
			p->entry[probe->entry] = IN_L2;
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
	entry_key(batch->p, entry, &probe->task.req.key);
	probe->task.ended = probe_ended;
	probe->task.returned = probe_returned;
	kvh_adapter_submit(batch->c->adapters[adapter], &probe->task);
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
	for (uint32_t chunk = 0; chunk < p->prefix.n_chunks; chunk++)
		for (uint32_t g = 0; g < p->space->n_groups; g++)
			for (uint32_t r = 0; r < kvh_prefix_ranks(&p->prefix, p->space, g);
			     r++) {
				uint32_t e = (uint32_t)KVH_ENTRY(&p->prefix, chunk, g, r);

				for (uint32_t a = 0; a < c->n_adapters && p->entry[e] == ABSENT;
				     a++)
					if (!kvh_adapter_caps(c->adapters[a])->local_index)
						probe_submit(batch, e, a);
			}
	p->probing = batch->out;
	if (batch->out == 0)
		free(batch);
	else
		p->probes = batch;
}

/* What L1 and the local indexes have. */
static bool entry_find(struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_controller *c = p->controller;
	struct kvh_key key;
	uint8_t found;

	entry_key(p, entry, &key);
	kvh_l1_find(c->opts.l1, &key, 1, &found);
	if (found != 0) {
		p->entry[entry] = found == 1 ? IN_L1 : FILLING;
		return true;
	}
	for (uint32_t a = 0; a < c->n_adapters; a++) {
		uint8_t has = 0;

		kvh_adapter_peek(c->adapters[a], &key, 1, &has);
		p->hits[entry] |= (uint32_t)has << a;
	}
	if (p->hits[entry] != 0)
		p->entry[entry] = IN_L2;
	return true;
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
	for (uint32_t chunk = 0; chunk < p->prefix.n_chunks; chunk++)
		for (uint32_t g = 0; g < p->space->n_groups; g++)
			for (uint32_t r = 0; r < kvh_prefix_ranks(&p->prefix, p->space, g); r++)
				(void)entry_find(p,
						 (uint32_t)KVH_ENTRY(&p->prefix, chunk, g, r));
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
			prefetch_detach(p, false);
			prefetch_end(p, -ETIMEDOUT);
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
	struct kvh_fetch *f, *next;

	while (c->prefetches != NULL)
		kvh_prefetch_cancel(c->prefetches);
	for (f = c->fetches; f != NULL; f = next) {
		next = f->next;
		if (f->task.state != KVH_TASK_IDLE)
			kvh_adapter_cancel(c->adapters[f->adapter], &f->task);
	}
}

void kvh_prefetch_quarantine(struct kvh_controller *c)
{
	for (struct kvh_fetch *f = c->fetches; f != NULL; f = f->next)
		kvh_l1_quarantine(c->opts.l1, f->frame); /* f is leaked: its request is out */
	c->fetches = NULL;
}
