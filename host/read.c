/* SPDX-License-Identifier: Apache-2.0 */
/*
 * read.c - one GET of a chunk into one L1 frame, and its verification. The
 * controller's thread, but for the check of a frame (a worker).
 *
 *   start --> OUT --0--> CHECKING --sound--> kvh_fetch_arrived
 *              |            `--not what was stored--> deleted there, kvh_fetch_failed
 *              |--error--> kvh_fetch_failed, which may use the frame again
 *              `--past its deadline--> kvh_fetch_failed; LATE --comes back--> aborted
 *
 * Given up at any point: its frame cannot be found from then on, is never
 * published, and is freed when the adapter has done with it.
 */
#include "host/clock.h"
#include "host/controller_impl.h"
#include "host/frame.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct kvh_read {
	struct kvh_l2_task task;
	struct kvh_controller *c;
	struct kvh_fetch *fetch; /* NULL: given up */
	const uint8_t *digest;
	uint32_t adapter;
	kvh_frame frame;
	uint64_t began_ns, hedge_ns;
	uint64_t ahead; /* bytes out with the adapter when it began, its own among them */
	bool overdue, guess;
	struct kvh_work check;
	struct kvh_loop_work checked;
	const char *wrong; /* NULL: verified */
	TAILQ_ENTRY(kvh_read) list;
};

static void read_free(struct kvh_read *r)
{
	TAILQ_REMOVE(&r->c->prefetcher.reads, r, list);
	free(r);
}

static void set_overdue(struct kvh_read *r, bool overdue)
{
	struct kvh_source *source = &r->c->prefetcher.sources.at[r->adapter];

	source->overdue += overdue && !r->overdue;
	source->overdue -= !overdue && r->overdue;
	r->overdue = overdue;
}

/* It uses no room in the adapter's window any more. */
static void leave_window(struct kvh_read *r)
{
	r->c->prefetcher.sources.at[r->adapter].guesses -= r->guess;
	kvh_source_freed(&r->c->prefetcher.sources, r->adapter, r->task.req.len);
	kvh_prefetch_unblock(r->c);
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

/* ---- the end ------------------------------------------------------------ */

static void count_corrupt(struct kvh_read *r)
{
	struct kvh_adapter *adapter = r->c->adapters[r->adapter];

	kvh_warn("%s: a frame of %llu bytes is not what was stored (%s); deleted",
		 kvh_adapter_name(adapter), (unsigned long long)r->task.req.len, r->wrong);
	kvh_count(&r->c->opts.metrics->corrupt, 1);
	kvh_count(&kvh_adapter_counters(adapter)->get_corrupt, 1);
	discard(r->c, r->adapter, &r->task.req.key);
}

static void read_checked(struct kvh_loop_work *work)
{
	struct kvh_read *r = (struct kvh_read *)((char *)work -
						 offsetof(struct kvh_read, checked));
	struct kvh_adapter_counters *n = kvh_adapter_counters(r->c->adapters[r->adapter]);
	struct kvh_fetch *f = r->fetch;

	leave_window(r);
	if (r->wrong == NULL) {
		kvh_count(&n->gets, 1);
		kvh_count(&n->get_bytes, r->task.req.len);
	} else {
		count_corrupt(r);
	}
	if (f == NULL) {
		kvh_count(&r->c->opts.metrics->prefetch_wasted, 1);
		kvh_l1_abort(r->c->opts.l1, r->frame);
	} else if (r->wrong == NULL) {
		kvh_fetch_arrived(f, r->frame, r->adapter);
	} else {
		kvh_fetch_failed(f, r->frame);
	}
	read_free(r);
}

/* Worker. */
static void read_check(struct kvh_work *work)
{
	struct kvh_read *r = (struct kvh_read *)((char *)work -
						 offsetof(struct kvh_read, check));

	if (kvh_frame_verify(r->task.req.buf, r->task.req.len, &r->task.req.key, r->digest,
			     &r->wrong) == 0)
		r->wrong = NULL;
	kvh_loop_post(r->c->loop, &r->checked);
}

static void count_failed(struct kvh_read *r, int status)
{
	struct kvh_adapter_counters *n = kvh_adapter_counters(r->c->adapters[r->adapter]);

	if (status == -ENOENT)
		kvh_count(&n->get_missed, 1);
	else if (status != -ECANCELED && status != -EHOSTDOWN)
		kvh_count(&n->get_failed, 1);
}

static void read_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	struct kvh_read *r = (struct kvh_read *)task;
	struct kvh_controller *c = r->c;
	struct kvh_fetch *f = r->fetch;

	kvh_source_ended(&c->prefetcher.sources, r->adapter, r->ahead, task->req.len,
			 r->began_ns, kvh_now_ns(), status == 0);
	if (buffer_free)
		set_overdue(r, false);
	if (status == 0 && f != NULL) {
		assert(buffer_free);
		kvh_workers_post(c->workers, &r->check);
		return;
	}
	if (status == 0)
		kvh_count(&c->opts.metrics->prefetch_wasted, 1);
	else
		count_failed(r, status);
	leave_window(r);
	if (!buffer_free) {
		/* The transfer may still write to the frame: out of the index, so that
		 * another can fill the key. */
		kvh_l1_doom(c->opts.l1, r->frame);
		set_overdue(r, true);
		r->fetch = NULL;
	} else if (f == NULL) {
		kvh_l1_abort(c->opts.l1, r->frame);
	}
	if (f != NULL)
		kvh_fetch_failed(f, buffer_free ? r->frame : 0);
	if (buffer_free)
		read_free(r);
}

static void read_returned(struct kvh_l2_task *task)
{
	struct kvh_read *r = (struct kvh_read *)task;

	set_overdue(r, false);
	kvh_l1_abort(r->c->opts.l1, r->frame);
	read_free(r);
}

/* ---- the start, and giving up ------------------------------------------- */

int kvh_read_start(struct kvh_fetch *f, uint32_t adapter, kvh_frame frame)
{
	struct kvh_controller *c = f->c;
	struct kvh_sources *sources = &c->prefetcher.sources;
	struct kvh_read *r = calloc(1, sizeof(*r));
	uint64_t patience;

	if (r == NULL)
		return -ENOMEM;
	r->c = c;
	r->fetch = f;
	r->digest = f->space->digest;
	r->adapter = adapter;
	r->frame = frame;
	r->check.run = read_check;
	r->checked.run = read_checked;
	r->task.req.op = KVH_L2_GET;
	r->task.req.key = f->key;
	r->task.req.buf = kvh_l1_data(c->opts.l1, frame);
	r->task.req.len = kvh_l1_frame_bytes(c->opts.l1, frame);
	r->task.ended = read_ended;
	r->task.returned = read_returned;
	r->began_ns = kvh_now_ns();
	patience = kvh_source_patience(sources, adapter, r->task.req.len);
	r->hedge_ns = patience < UINT64_MAX - r->began_ns ? r->began_ns + patience : UINT64_MAX;
	if (r->hedge_ns < c->prefetcher.hedge_ns)
		c->prefetcher.hedge_ns = r->hedge_ns;
	kvh_source_began(sources, adapter, r->task.req.len, r->began_ns);
	r->ahead = sources->at[adapter].bytes;
	r->guess = f->speculative;
	sources->at[adapter].guesses += r->guess;
	TAILQ_INSERT_TAIL(&c->prefetcher.reads, r, list);
	f->read = r;
	kvh_adapter_submit(c->adapters[adapter], &r->task);
	return 0;
}

bool kvh_read_is_out(const struct kvh_read *r)
{
	return r->task.state != KVH_TASK_IDLE;
}

void kvh_read_give_up(struct kvh_read *r)
{
	kvh_l1_doom(r->c->opts.l1, r->frame);
	r->fetch = NULL;
	if (kvh_read_is_out(r))
		kvh_adapter_cancel(r->c->adapters[r->adapter], &r->task); /* may free it */
}

void kvh_read_hedge(struct kvh_controller *c, uint64_t now_ns)
{
	struct kvh_read *r, *next;

	if (now_ns < c->prefetcher.hedge_ns)
		return;
	c->prefetcher.hedge_ns = UINT64_MAX;
	for (r = TAILQ_FIRST(&c->prefetcher.reads); r != NULL; r = next) {
		next = TAILQ_NEXT(r, list);
		if (r->fetch == NULL || !kvh_read_is_out(r) || r->hedge_ns == UINT64_MAX)
			continue;
		if (r->hedge_ns <= now_ns) {
			set_overdue(r, true);
			r->hedge_ns = UINT64_MAX;
			(void)kvh_fetch_hedge(r->fetch, r->adapter); /* may free it */
		} else if (r->hedge_ns < c->prefetcher.hedge_ns) {
			c->prefetcher.hedge_ns = r->hedge_ns;
		}
	}
}

/* ---- all of them --------------------------------------------------------- */

void kvh_read_stop(struct kvh_controller *c)
{
	struct kvh_read *r, *next;

	for (r = TAILQ_FIRST(&c->prefetcher.reads); r != NULL; r = next) {
		next = TAILQ_NEXT(r, list);
		if (kvh_read_is_out(r))
			kvh_adapter_cancel(c->adapters[r->adapter], &r->task);
	}
}

void kvh_read_quarantine(struct kvh_controller *c)
{
	struct kvh_read *r;

	/* Leaked: their requests are out. */
	TAILQ_FOREACH(r, &c->prefetcher.reads, list)
	kvh_l1_quarantine(c->opts.l1, r->frame);
	TAILQ_INIT(&c->prefetcher.reads);
}
