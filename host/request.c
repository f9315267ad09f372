/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.c - the calls about keys and leases: release, erase.
 * The user's thread; what needs an adapter's answer ends on the controller's.
 */
#include "host/engine.h"
#include "host/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- release ---------------------------------------------------------- */

int kvh_release(struct kvh_engine *engine, const kvh_lease_t *leases, size_t n, int32_t *status)
{
	int err = kvh_engine_alive(engine), e;

	if (err != 0)
		return err;
	for (size_t i = 0; i < n; i++) {
		e = leases[i] != KVH_NONE ? kvh_l1_release(engine->l1, leases[i]) : 0;
		if (e != 0 && err == 0) {
			kvh_err("release: lease %#llx at place %zu is not held",
				(unsigned long long)leases[i], i);
			err = e;
		}
		if (status != NULL)
			status[i] = e;
	}
	return err;
}

int kvh_touch(struct kvh_engine *engine, const struct kvh_key *keys, uint32_t n,
	      int32_t *status)
{
	int32_t part[256];
	uint32_t there = 0, len;
	int err = kvh_engine_alive(engine);

	if (err != 0)
		return err;
	if (n > INT32_MAX)
		return -EINVAL;
	for (uint32_t at = 0; at < n; at += len) {
		len = n - at < 256 ? n - at : 256;
		there += kvh_l1_touch(engine->l1, keys + at, len,
				      status != NULL ? status + at : part);
	}
	return (int)there;
}

/* ---- erase ------------------------------------------------------------ */

struct erase_job {
	struct kvh_erase base;
	struct kvh_job *job;
	struct kvh_engine *engine;
	int32_t *user_status;
	bool ended; /* controller's thread */
	struct kvh_loop_work cancel;
	bool cancel_posted; /* user's thread */
	uint32_t refs;      /* atomic */
	int32_t *status;    /* [n], behind the keys */
	struct kvh_key keys[];
};

static void erase_put(struct erase_job *e)
{
	if (__atomic_sub_fetch(&e->refs, 1, __ATOMIC_ACQ_REL) == 0)
		free(e);
}

static void erase_ended(struct kvh_erase *base)
{
	struct erase_job *e = (struct erase_job *)base;
	uint32_t n_ok = 0;
	int first = 0;

	for (uint32_t i = 0; i < base->n; i++) {
		int status = base->status[i];

		n_ok += status == 0;
		if (first == 0 && status != -ENOENT)
			first = status;
		if (e->user_status != NULL)
			e->user_status[i] = status;
	}
	e->ended = true;
	kvh_job_end(e->job, first, n_ok, 0, 0);
}

static void erase_cancel_run(struct kvh_loop_work *work)
{
	struct erase_job *e = (struct erase_job *)((char *)work -
						   offsetof(struct erase_job, cancel));

	if (!e->ended)
		kvh_erase_cancel(&e->base);
	erase_put(e);
}

static void erase_cancel(struct kvh_job *job)
{
	struct erase_job *e = job->body;

	if (e->cancel_posted)
		return;
	e->cancel_posted = true;
	(void)__atomic_add_fetch(&e->refs, 1, __ATOMIC_RELAXED);
	e->cancel.run = erase_cancel_run;
	kvh_controller_post(e->engine->controller, &e->cancel);
}

static void erase_forget(struct kvh_job *job)
{
	erase_put(job->body);
}

static const struct kvh_job_ops erase_ops = {
	.name = "erase",
	.measured = 1 + KVH_LATENCY_ERASE,
	.cancel = erase_cancel,
	.forget = erase_forget,
};

int kvh_erase(struct kvh_queue *queue, const struct kvh_key *keys, uint32_t n,
	      uint64_t user_data, int32_t *status, kvh_job_t *job_p)
{
	struct kvh_engine *engine = queue->engine;
	struct erase_job *e;
	int err = kvh_engine_alive(engine);

	if (err != 0)
		return err;
	if (n == 0) {
		kvh_err("erase: n is 0, allowed: >= 1");
		return -EINVAL;
	}
	e = calloc(1, sizeof(*e) + n * (sizeof(e->keys[0]) + sizeof(e->status[0])));
	if (e == NULL)
		return -ENOMEM;
	err = kvh_job_begin(queue, &erase_ops, user_data, &e->job);
	if (err != 0) {
		free(e);
		return err;
	}
	e->refs = 1;
	e->engine = engine;
	e->user_status = status;
	e->status = (int32_t *)(e->keys + n);
	memcpy(e->keys, keys, n * sizeof(keys[0]));
	e->job->body = e;
	for (uint32_t i = 0; i < n; i++) {
		e->status[i] = kvh_l1_erase(engine->l1, &keys[i]);
		kvh_count(&engine->metrics.erased, e->status[i] == 0);
		if (status != NULL)
			status[i] = KVH_PENDING;
	}
	e->base.keys = e->keys;
	e->base.n = n;
	e->base.status = e->status;
	e->base.ended = erase_ended;
	*job_p = e->job->id;
	kvh_controller_erase(engine->controller, &e->base);
	return 0;
}
