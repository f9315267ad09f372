/* SPDX-License-Identifier: Apache-2.0 */
/*
 * controller_job.c - jobs that are one thing for the controller to do: flush, the
 * erase of a space, and adapters that are added, drained and removed.
 * The user's thread begins and cancels; the controller's ends.
 */
#include "host/change.h"
#include "host/clear.h"
#include "host/clock.h"
#include "host/engine.h"
#include "host/flush.h"
#include "host/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Two may have it: the job, and a cancel on its way to the controller. */
struct task_job {
	struct kvh_job *job;
	struct kvh_engine *engine;
	void (*stop)(struct task_job *t); /* controller's thread, not ended: ends it */
	bool ended;                       /* controller's thread */
	struct kvh_loop_work cancel;
	bool cancel_posted; /* user's thread */
	uint32_t refs;      /* atomic */
	union {
		struct kvh_flush flush;
		struct kvh_change change;
		struct kvh_clear clear;
	};
	char spec[]; /* kvh_l2_add */
};

static void task_put(struct task_job *t)
{
	if (__atomic_sub_fetch(&t->refs, 1, __ATOMIC_ACQ_REL) == 0)
		free(t);
}

static void task_end(struct task_job *t, int status, uint32_t usable)
{
	t->ended = true;
	kvh_job_end(t->job, status, 0, usable, 0);
}

static void task_cancel_run(struct kvh_loop_work *work)
{
	struct task_job *t = (struct task_job *)((char *)work -
						 offsetof(struct task_job, cancel));

	if (!t->ended)
		t->stop(t);
	task_put(t);
}

static void task_cancel(struct kvh_job *job)
{
	struct task_job *t = job->body;

	if (t->cancel_posted)
		return;
	t->cancel_posted = true;
	(void)__atomic_add_fetch(&t->refs, 1, __ATOMIC_RELAXED);
	t->cancel.run = task_cancel_run;
	kvh_controller_post(t->engine->controller, &t->cancel);
}

static void task_forget(struct kvh_job *job)
{
	task_put(job->body);
}

static const struct kvh_job_ops task_ops = {
	.name = "controller",
	.cancel = task_cancel,
	.forget = task_forget,
};

static int task_begin(struct kvh_queue *queue, const char *spec, uint64_t user_data,
		      struct task_job **task_p)
{
	int err = kvh_engine_alive(queue->engine);
	struct task_job *t;

	if (err != 0)
		return err;
	t = calloc(1, sizeof(*t) + strlen(spec) + 1);
	if (t == NULL)
		return -ENOMEM;
	strcpy(t->spec, spec);
	err = kvh_job_begin(queue, &task_ops, user_data, &t->job);
	if (err != 0) {
		free(t);
		return err;
	}
	t->job->body = t;
	t->engine = queue->engine;
	t->refs = 1;
	*task_p = t;
	return 0;
}

/* It came to nothing: no event follows. */
static void task_abandon(struct task_job *t)
{
	kvh_job_abandon(t->job);
	free(t);
}

/* ---- flush -------------------------------------------------------------- */

static void flush_ended(struct kvh_flush *flush, int status)
{
	task_end((struct task_job *)((char *)flush - offsetof(struct task_job, flush)), status,
		 0);
}

static void flush_stop(struct task_job *t)
{
	kvh_flush_cancel(&t->flush);
}

int kvh_flush(struct kvh_queue *queue, uint64_t user_data, kvh_job_t *job_p)
{
	struct task_job *t;
	kvh_job_t id;
	int err = task_begin(queue, "", user_data, &t);

	if (err != 0)
		return err;
	id = t->job->id;
	t->stop = flush_stop;
	t->flush.ended = flush_ended;
	err = kvh_controller_flush(queue->engine->controller, &t->flush);
	if (err != 0) {
		task_abandon(t);
		return err;
	}
	*job_p = id;
	return 0;
}

/* ---- the erase of a space ------------------------------------------------- */

static void clear_ended(struct kvh_clear *clear, int status)
{
	task_end((struct task_job *)((char *)clear - offsetof(struct task_job, clear)), status,
		 0);
}

static void clear_stop(struct task_job *t)
{
	kvh_clear_cancel(&t->clear);
}

int kvh_space_erase(struct kvh_queue *queue, kvh_space_t space, uint64_t user_data,
		    kvh_job_t *job_p)
{
	struct kvh_engine *engine = queue->engine;
	int err = kvh_engine_alive(engine);
	struct task_job *t;

	if (err != 0)
		return err;
	if (kvh_space_table_find(&engine->spaces, space) == NULL) {
		kvh_err("erase: there is no space %016llx", (unsigned long long)space);
		return -ENOENT;
	}
	err = task_begin(queue, "", user_data, &t);
	if (err != 0)
		return err;
	kvh_count(&engine->metrics.erased, kvh_l1_erase_space(engine->l1, space));
	*job_p = t->job->id;
	t->stop = clear_stop;
	t->clear.space = space;
	t->clear.ended = clear_ended;
	kvh_controller_clear(engine->controller, &t->clear);
	return 0;
}

/* ---- adapters ----------------------------------------------------------- */

static void change_ended(struct kvh_change *change, int status)
{
	task_end((struct task_job *)((char *)change - offsetof(struct task_job, change)),
		 status, change->kind == KVH_CHANGE_ADD && status == 0 ? change->index : 0);
}

static void change_stop(struct task_job *t)
{
	kvh_change_cancel(&t->change);
}

static void change_begin(struct task_job *t, enum kvh_change_kind kind, kvh_job_t *job_p)
{
	*job_p = t->job->id;
	t->stop = change_stop;
	t->change.kind = kind;
	t->change.ended = change_ended;
	kvh_controller_change(t->engine->controller, &t->change);
}

int kvh_l2_add(struct kvh_queue *queue, const char *spec, uint64_t user_data, kvh_job_t *job_p)
{
	struct task_job *t;
	int err = task_begin(queue, spec, user_data, &t);

	if (err != 0)
		return err;
	t->change.spec = t->spec;
	change_begin(t, KVH_CHANGE_ADD, job_p);
	return 0;
}

int kvh_l2_drain(struct kvh_queue *queue, uint32_t index, uint64_t user_data, kvh_job_t *job_p)
{
	struct task_job *t;
	int err = task_begin(queue, "", user_data, &t);

	if (err != 0)
		return err;
	t->change.index = index;
	change_begin(t, KVH_CHANGE_DRAIN, job_p);
	return 0;
}

int kvh_l2_remove(struct kvh_queue *queue, uint32_t index, uint64_t drain_ns,
		  uint64_t user_data, kvh_job_t *job_p)
{
	struct task_job *t;
	int err = task_begin(queue, "", user_data, &t);

	if (err != 0)
		return err;
	t->change.index = index;
	t->change.drain_until_ns = kvh_deadline_ns(drain_ns);
	change_begin(t, KVH_CHANGE_REMOVE, job_p);
	return 0;
}
