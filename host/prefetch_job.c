/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefetch_job.c - kvh_prefetch: checks, the short way for what L1 has, the job.
 * The user's thread; what needs an adapter ends on the controller's.
 */
#include "host/clock.h"
#include "host/engine.h"
#include "host/log.h"
#include "host/prefix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KVH_PREFETCH_ALL (KVH_PREFETCH_FOUND | KVH_PREFETCH_TEMPORARY | KVH_PREFETCH_WARM)

/* Two may have it: the job, and a cancel on its way to the controller. */
struct prefetch_job {
	struct kvh_prefetch base;
	struct kvh_job *job;
	struct kvh_engine *engine;
	bool ended; /* controller's thread */
	struct kvh_loop_work cancel;
	bool cancel_posted;       /* user's thread */
	uint32_t refs;            /* atomic */
	struct kvh_hash hashes[]; /* and leases of a warm-up, hits, entries */
};

static void prefetch_put(struct prefetch_job *p)
{
	if (__atomic_sub_fetch(&p->refs, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	free(p);
}

static void prefetch_found(struct kvh_prefetch *base, uint32_t usable)
{
	kvh_job_event(((struct prefetch_job *)base)->job, KVH_EVENT_FOUND, 0, usable);
}

static void prefetch_ended(struct kvh_prefetch *base, int status, uint32_t usable,
			   uint32_t n_ok)
{
	struct prefetch_job *p = (struct prefetch_job *)base;

	p->ended = true;
	kvh_controller_pressure(p->engine->controller);
	kvh_job_end(p->job, status, n_ok, usable, 0);
}

static void prefetch_cancel_run(struct kvh_loop_work *work)
{
	struct prefetch_job *p = (struct prefetch_job *)((char *)work -
							 offsetof(struct prefetch_job, cancel));

	if (!p->ended)
		kvh_prefetch_cancel(&p->base);
	prefetch_put(p);
}

static void prefetch_cancel(struct kvh_job *job)
{
	struct prefetch_job *p = job->body;

	if (p == NULL || p->cancel_posted)
		return; /* the short way has no body, and has ended */
	p->cancel_posted = true;
	(void)__atomic_add_fetch(&p->refs, 1, __ATOMIC_RELAXED);
	p->cancel.run = prefetch_cancel_run;
	kvh_controller_post(p->engine->controller, &p->cancel);
}

static void prefetch_forget(struct kvh_job *job)
{
	if (job->body != NULL)
		prefetch_put(job->body);
}

static const struct kvh_job_ops prefetch_ops = {
	.name = "prefetch",
	.measured = 1 + KVH_LATENCY_PREFETCH,
	.cancel = prefetch_cancel,
	.forget = prefetch_forget,
};

/* What the caller gave, borrowed. */
static void fill(struct kvh_prefetch *p, struct kvh_queue *queue,
		 const struct kvh_prefix *prefix, const struct kvh_space *space,
		 const struct kvh_prefetch_opts *opts, kvh_lease_t *leases)
{
	p->prefix = *prefix;
	p->space = space;
	p->client = queue->client;
	p->leases = leases;
	p->deadline_ns = opts->deadline_ns != 0 ? kvh_deadline_ns(opts->deadline_ns)
						: UINT64_MAX;
	p->lease_ns = opts->lease_ns != 0 ? opts->lease_ns : kvh_engine_lease_ns(queue->engine);
	p->want_found = (opts->flags & KVH_PREFETCH_FOUND) != 0;
	p->temporary = (opts->flags & KVH_PREFETCH_TEMPORARY) != 0;
	p->warm = (opts->flags & KVH_PREFETCH_WARM) != 0;
	p->found = prefetch_found;
	p->ended = prefetch_ended;
}

/* One with its own copies and arrays, of `base`. NULL: no memory. */
static struct prefetch_job *prefetch_make(struct kvh_engine *engine,
					  const struct kvh_prefetch *base)
{
	size_t n = KVH_ENTRIES(&base->prefix), n_leases = base->warm ? n : 0;
	struct prefetch_job *p = calloc(
		1, sizeof(*p) + base->prefix.n_chunks * sizeof(p->hashes[0]) +
			   n_leases * sizeof(kvh_lease_t) + n * (sizeof(uint32_t) + 1));
	kvh_lease_t *own;

	if (p == NULL)
		return NULL;
	p->refs = 1;
	p->engine = engine;
	p->base = *base;
	memcpy(p->hashes, base->prefix.hashes, base->prefix.n_chunks * sizeof(p->hashes[0]));
	p->base.prefix.hashes = p->hashes;
	own = (kvh_lease_t *)(p->hashes + base->prefix.n_chunks);
	p->base.hits = (uint32_t *)(own + n_leases);
	p->base.entry = (uint8_t *)(p->base.hits + n);
	if (base->warm) {
		p->base.client = kvh_prefetch_warm_client(engine->controller);
		p->base.leases = own;
	}
	return p;
}

static int check(const struct kvh_prefetch_opts *opts, const kvh_lease_t *leases)
{
	bool warm = (opts->flags & KVH_PREFETCH_WARM) != 0;

	if ((opts->flags & ~KVH_PREFETCH_ALL) == 0 && warm == (leases == NULL))
		return 0;
	kvh_err("prefetch: flags %#x, with%s leases; allowed: within %#x, with leases exactly "
		"if "
		"not KVH_PREFETCH_WARM",
		opts->flags, leases != NULL ? "" : "out", KVH_PREFETCH_ALL);
	return -EINVAL;
}

/* True: it has ended. */
static bool from_l1(struct kvh_engine *engine, struct kvh_job *job, struct kvh_prefetch *p)
{
	uint32_t n_ok;

	if (p->warm || !kvh_prefetch_from_l1(engine->controller, p, &n_ok))
		return false;
	if (p->want_found)
		kvh_job_event(job, KVH_EVENT_FOUND, 0, p->prefix.n_chunks);
	kvh_job_end(job, 0, n_ok, p->prefix.n_chunks, 0);
	return true;
}

int kvh_prefetch(struct kvh_queue *queue, const struct kvh_prefix *prefix,
		 const struct kvh_prefetch_opts *opts, kvh_lease_t *leases, kvh_job_t *job_p)
{
	struct kvh_engine *engine = queue->engine;
	const struct kvh_space *space;
	struct kvh_prefetch base = {0};
	struct prefetch_job *p;
	struct kvh_job *job;
	int err = kvh_find_space(queue, prefix, &space);

	if (err == 0)
		err = kvh_check_size("prefetch", opts->size, sizeof(*opts));
	if (err == 0)
		err = check(opts, leases);
	if (err != 0)
		return err;
	err = kvh_job_begin(queue, &prefetch_ops, opts->user_data, &job);
	if (err != 0)
		return err;
	fill(&base, queue, prefix, space, opts, leases);
	*job_p = job->id;
	if (from_l1(engine, job, &base))
		return 0;
	p = prefetch_make(engine, &base);
	if (p == NULL) {
		kvh_job_abandon(job);
		return -ENOMEM;
	}
	p->job = job;
	job->body = p;
	kvh_controller_prefetch(engine->controller, &p->base);
	return 0;
}
