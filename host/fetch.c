/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fetch.c - one read from L2 into an L1 frame: reserve, GET, verify, publish,
 * lease. The controller's thread, but for the check of a frame (a worker).
 *
 *   start --> GET --0--> checked --sound--> published, leased for its prefetch
 *              |            |
 *              | error      `--not what was stored--> aborted, deleted there
 *              |--------------------------------> aborted
 *              `--past its deadline--> LATE --comes back--> aborted
 *
 * A fetch outlives its prefetch: detached, its frame goes to L1 all the same.
 * What was erased since the fetch began is not published, nor read anew.
 */
#include "host/controller_impl.h"
#include "host/frame.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct kvh_fetch {
	struct kvh_l2_task task;
	struct kvh_controller *c;
	struct kvh_prefetch *p; /* NULL: detached */
	uint32_t entry;
	uint32_t adapter;
	kvh_frame frame;
	bool erased;
	uint8_t digest[32];
	struct kvh_work check;
	struct kvh_loop_work checked;
	const char *wrong; /* NULL: verified */
	struct kvh_fetch *prev, *next;
};

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

/* It came to nothing, here: the next adapter may do better. */
static void fetch_lost(struct kvh_fetch *f)
{
	if (f->p != NULL)
		kvh_prefetch_entry_lost(f->p, f->entry);
	f->p = NULL;
}

/* It came to nothing, and nor would another adapter's. */
static void fetch_in_vain(struct kvh_fetch *f)
{
	kvh_count(&f->c->opts.metrics->prefetch_wasted, 1);
	if (f->p != NULL)
		f->p->hits[f->entry] = 0;
	fetch_lost(f);
}

/* ---- what failed verification is deleted where it was read ------------- */

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

/* ---- the read's end ---------------------------------------------------- */

/* A verified frame, published: leased for the prefetch that waits for it. */
static void fetch_done(struct kvh_fetch *f)
{
	struct kvh_controller *c = f->c;
	struct kvh_prefetch *p = f->p;
	struct kvh_l1 *l1 = c->opts.l1;

	if (f->erased) {
		kvh_l1_abort(l1, f->frame);
		fetch_in_vain(f);
		return;
	}
	if (kvh_l1_publish(l1, f->frame, 1) != 0) { /* erased in L1 meanwhile */
		fetch_in_vain(f);
		return;
	}
	if (p == NULL) {
		kvh_count(&c->opts.metrics->prefetch_wasted, 1);
	} else if (kvh_l1_lease_held(l1, p->client, f->frame, &p->leases[f->entry]) == 0) {
		kvh_prefetch_entry_read(p, f->entry);
	} else {
		p->no_memory = true;
		fetch_in_vain(f);
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

	if (status == 0) {
		assert(buffer_free);
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
	} else if (!f->erased) {
		/* The transfer may still write to the frame: out of the index, so that
		 * another can fill the key; freed when it comes back. An erased one is
		 * out, and the key may be another's by now. */
		(void)kvh_l1_erase(c->opts.l1, &f->task.req.key);
	}
}

static void fetch_returned(struct kvh_l2_task *task)
{
	struct kvh_fetch *f = (struct kvh_fetch *)task;

	kvh_l1_abort(f->c->opts.l1, f->frame);
	fetch_free(f);
}

/* ---- the read's start -------------------------------------------------- */

/* From the first adapter that may have it, which is not asked again. */
static struct kvh_fetch *fetch_make(struct kvh_prefetch *p, uint32_t entry, kvh_frame frame,
				    const struct kvh_key *key)
{
	struct kvh_controller *c = p->controller;
	struct kvh_fetch *f = calloc(1, sizeof(*f));

	if (f == NULL)
		return NULL;
	assert((p->hits[entry] & ~KVH_HITS_READ) != 0);
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

void kvh_fetch_start(struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_controller *c = p->controller;
	struct kvh_l1_reserve item = {0};
	struct kvh_fetch *f;

	kvh_prefetch_key(p, entry, &item.key);
	if (kvh_erase_pending(c, &item.key)) {
		p->entry[entry] = KVH_ENTRY_ABSENT;
		return;
	}
	item.payload_bytes = p->space->groups[item.key.group].payload_bytes;
	(void)kvh_l1_reserve(c->opts.l1, &item, 1);
	if (item.status == -EEXIST || item.status == -EINPROGRESS) {
		p->entry[entry] = item.status == -EEXIST ? KVH_ENTRY_IN_L1 : KVH_ENTRY_FILLING;
		return;
	}
	f = item.status == 0 ? fetch_make(p, entry, item.frame, &item.key) : NULL;
	if (f == NULL) {
		if (item.status == 0)
			kvh_l1_abort(c->opts.l1, item.frame);
		p->no_memory = true;
		p->entry[entry] = KVH_ENTRY_ABSENT;
		return;
	}
	p->entry[entry] = KVH_ENTRY_READING;
	kvh_adapter_submit(c->adapters[f->adapter], &f->task);
}

/* ---- all of them ------------------------------------------------------- */

static void fetch_cancel(struct kvh_fetch *f)
{
	if (f->task.state != KVH_TASK_IDLE)
		kvh_adapter_cancel(f->c->adapters[f->adapter], &f->task);
}

void kvh_fetch_detach(struct kvh_prefetch *p, bool cancel)
{
	struct kvh_fetch *f, *next;

	for (f = p->controller->fetches; f != NULL; f = next) {
		next = f->next;
		if (f->p != p)
			continue;
		f->p = NULL;
		if (cancel)
			fetch_cancel(f); /* may free it */
	}
}

void kvh_fetch_erase(struct kvh_controller *c, const struct kvh_key *keys, uint32_t n)
{
	for (struct kvh_fetch *f = c->fetches; f != NULL; f = f->next)
		for (uint32_t i = 0; i < n && !f->erased; i++)
			f->erased = memcmp(&f->task.req.key, &keys[i], sizeof(keys[i])) == 0;
}

void kvh_fetch_stop(struct kvh_controller *c)
{
	struct kvh_fetch *f, *next;

	for (f = c->fetches; f != NULL; f = next) {
		next = f->next;
		fetch_cancel(f);
	}
}

void kvh_fetch_quarantine(struct kvh_controller *c)
{
	for (struct kvh_fetch *f = c->fetches; f != NULL; f = f->next)
		kvh_l1_quarantine(c->opts.l1, f->frame); /* f is leaked: its request is out */
	c->fetches = NULL;
}
