/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_job.c - kvh_store: check, reserve, fill headers -> mover -> publish or
 * abort -> ended; or, where PERSISTED was asked, ended when every adapter has
 * answered. The user's thread up to the mover's call, then the mover's, and the
 * controller's for the adapters' answers.
 */
#include "host/frame.h"
#include "host/log.h"
#include "host/transfer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PUBLISH_MAX 64u

/* The wait for the adapters: outlives the job where that is cancelled. Who takes
 * `transfer` out of it ends the job. */
struct persisting {
	struct kvh_persist base;
	pthread_mutex_t lock;          /* of all below */
	struct kvh_transfer *transfer; /* NULL: somebody ends the job, or has */
	uint32_t waiting;              /* chunks not settled, and one until all are published */
	uint32_t refs;                 /* chunks not settled, and one of the transfer's */
	bool published, cancelled;
};

static void persisting_put(struct persisting *p)
{
	bool last;

	pthread_mutex_lock(&p->lock);
	last = --p->refs == 0;
	pthread_mutex_unlock(&p->lock);
	if (last) {
		pthread_mutex_destroy(&p->lock);
		free(p);
	}
}

/* One thing less to wait for; with the last one the job ends. */
static void persisting_less(struct persisting *p, bool published)
{
	struct kvh_transfer *t = NULL;
	bool settled;

	pthread_mutex_lock(&p->lock);
	settled = --p->waiting == 0;
	p->published |= published;
	if (settled || (p->published && p->cancelled)) {
		t = p->transfer;
		p->transfer = NULL;
	}
	pthread_mutex_unlock(&p->lock);
	if (t == NULL)
		return;
	if (settled)
		kvh_job_event(t->job, KVH_EVENT_PERSISTED, t->n_ok, 0);
	kvh_transfer_end(t, settled ? t->first_error : -ECANCELED);
}

/* A chunk is not waited for any more. */
static void persisting_gone(struct persisting *p)
{
	persisting_less(p, false);
	persisting_put(p);
}

static void persisting_settled(struct kvh_persist *persist, uint32_t index,
			       const struct kvh_store_outcome *outcome)
{
	struct persisting *p = (struct persisting *)persist;

	pthread_mutex_lock(&p->lock);
	if (p->transfer != NULL && p->transfer->outcomes != NULL)
		p->transfer->outcomes[index] = *outcome; /* else the array is not ours */
	pthread_mutex_unlock(&p->lock);
	persisting_gone(p);
}

static void persisting_more(struct persisting *p, uint32_t n)
{
	pthread_mutex_lock(&p->lock);
	p->waiting += n;
	p->refs += n;
	pthread_mutex_unlock(&p->lock);
}

/* Ends the job without waiting any longer, once its chunks are published. */
static void persisting_cancel(struct persisting *p)
{
	struct kvh_transfer *t = NULL;

	pthread_mutex_lock(&p->lock);
	p->cancelled = true;
	if (p->published) {
		t = p->transfer;
		p->transfer = NULL;
	}
	pthread_mutex_unlock(&p->lock);
	if (t != NULL)
		kvh_transfer_end(t, -ECANCELED);
}

static int persisting_make(struct kvh_transfer *t)
{
	struct persisting *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return -ENOMEM;
	p->base.settled = persisting_settled;
	pthread_mutex_init(&p->lock, NULL);
	p->transfer = t;
	p->waiting = 1;
	p->refs = 1;
	t->persisting = p;
	return 0;
}

static void store_cancel(struct kvh_job *job)
{
	struct kvh_transfer *t = job->body;

	if (t->n_moving > 0)
		kvh_mover_cancel(t->device->mover, &t->move);
	if (t->persisting != NULL)
		persisting_cancel(t->persisting);
}

/* The user calls no more: what lacks layers will not get them. */
static void store_seal(struct kvh_job *job)
{
	struct kvh_transfer *t = job->body;

	if ((t->flags & KVH_STORE_LAYERS) != 0 && t->n_moving > 0)
		kvh_mover_seal(t->device->mover, &t->move);
}

static void store_forget(struct kvh_job *job)
{
	struct kvh_transfer *t = job->body;

	if (t->persisting != NULL)
		persisting_put(t->persisting);
	kvh_transfer_free(t);
}

static const struct kvh_job_ops store_ops = {
	.name = "store",
	.measured = 1 + KVH_LATENCY_STORE,
	.cancel = store_cancel,
	.seal = store_seal,
	.forget = store_forget,
};

static void store_result(struct kvh_transfer *t, const struct kvh_piece *piece, int status)
{
	struct kvh_engine *engine = t->engine;
	struct kvh_space_counters *counters = t->pool->space->counters;

	kvh_transfer_status(t, piece->index, status);
	if (status == 0) {
		t->n_ok++;
		kvh_transfer_count(t, piece->key.group);
		return;
	}
	kvh_count(&engine->metrics.store_failed, status != -ECANCELED);
	kvh_count(&counters->store_failed, status != -ECANCELED);
	if (t->first_error == 0)
		t->first_error = status;
}

/* Of the pieces from `first` on, up to PUBLISH_MAX: publishes what the device has
 * brought, aborts the rest. Returns where the next ones begin. */
static uint32_t store_publish(struct kvh_transfer *t, uint32_t first)
{
	struct kvh_engine *engine = t->engine;
	struct persisting *p = t->persisting;
	const struct kvh_piece *moved[PUBLISH_MAX];
	struct kvh_published items[PUBLISH_MAX];
	int32_t status[PUBLISH_MAX];
	uint32_t i, n = 0;

	for (i = first; i < t->n_moving && n < PUBLISH_MAX; i++) {
		const struct kvh_piece *piece = &t->pieces[i];
		int err = kvh_transfer_result(t, i);

		if (err != 0) {
			kvh_l1_abort(engine->l1, piece->frame);
			store_result(t, piece, err);
			continue;
		}
		moved[n] = piece;
		items[n++] = (struct kvh_published){
			.frame = piece->frame,
			.persist = p != NULL ? &p->base : NULL,
			.index = piece->index,
		};
	}
	if (n == 0)
		return i;
	if (p != NULL)
		persisting_more(p, n);
	(void)kvh_controller_publish_many(engine->controller, items, n, status);
	for (uint32_t k = 0; k < n; k++) {
		store_result(t, moved[k], status[k]);
		if (status[k] != 0 && p != NULL)
			persisting_gone(p);
	}
	return i;
}

/* Mover's thread, or the caller's where nothing had to move. */
static void store_finish(struct kvh_transfer *t)
{
	if ((t->flags & KVH_STORE_PACKED) != 0)
		kvh_job_event(t->job, KVH_EVENT_PACKED, t->n_ok, 0);
	if (t->persisting == NULL)
		kvh_transfer_end(t, t->first_error);
	else
		persisting_less(t->persisting, true);
}

static void store_done(struct kvh_move *move)
{
	struct kvh_transfer *t = (struct kvh_transfer *)((char *)move -
							 offsetof(struct kvh_transfer, move));

	for (uint32_t i = 0; i < t->n_moving;)
		i = store_publish(t, i);
	kvh_transfer_moved(t);
	kvh_controller_pressure(t->engine->controller);
	store_finish(t);
}

/* Chunks that got no frame; counted once it is certain that there is a job. */
struct unreserved {
	uint64_t exists, no_memory, failed;
};

/* Reserves frames; the pieces that got one come first. */
static int store_reserve(struct kvh_transfer *t, struct unreserved *un)
{
	struct kvh_l1_reserve *items = calloc(t->n, sizeof(items[0]));

	if (items == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < t->n; i++) {
		items[i].key = t->pieces[i].key;
		items[i].parent = *t->pieces[i].parent;
		items[i].near = kvh_devices_near(&t->engine->devices, t->device);
		items[i].payload_bytes = t->pool->plans[items[i].key.group]->payload_bytes;
	}
	(void)kvh_l1_reserve(t->engine->l1, items, t->n);
	for (uint32_t i = 0; i < t->n; i++) {
		int status = items[i].status;

		if (status == 0) {
			t->pieces[i].frame = items[i].frame;
			kvh_frame_fill(kvh_l1_data(t->engine->l1, items[i].frame),
				       &items[i].key, t->pool->space->digest, &items[i].parent,
				       kvh_next_sequence(t->engine), items[i].payload_bytes);
			kvh_transfer_status(t, i, KVH_PENDING);
			t->pieces[t->n_moving++] = t->pieces[i];
			continue;
		}
		kvh_transfer_status(t, i, status);
		if (status == -EEXIST || status == -EINPROGRESS) {
			un->exists++;
			continue;
		}
		un->failed += status == -EINVAL;
		un->no_memory += status != -EINVAL;
		if (t->first_error == 0)
			t->first_error = status;
	}
	free(items);
	return 0;
}

static void store_unreserve(struct kvh_transfer *t)
{
	for (uint32_t i = 0; i < t->n_moving; i++)
		kvh_l1_abort(t->engine->l1, t->pieces[i].frame);
}

static int store_check(const struct kvh_pool *pool, const struct kvh_store_chunk *chunks,
		       uint32_t n)
{
	int err = 0;

	for (uint32_t i = 0; i < n && err == 0; i++) {
		err = kvh_pool_check_key(pool, &chunks[i].key, i);
		if (err == 0)
			err = kvh_pool_check_pages(pool, chunks[i].key.group, chunks[i].pages,
						   chunks[i].n_pages, false, i);
	}
	return err;
}

static void count_unreserved(struct kvh_metrics *m, struct kvh_space_counters *s,
			     const struct unreserved *un)
{
	kvh_count(&m->store_exists, un->exists);
	kvh_count(&s->store_exists, un->exists);
	kvh_count(&m->store_no_memory, un->no_memory);
	kvh_count(&s->store_no_memory, un->no_memory);
	kvh_count(&m->store_failed, un->failed);
	kvh_count(&s->store_failed, un->failed);
}

static int store_start(struct kvh_transfer *t, const struct kvh_store_opts *opts)
{
	struct kvh_metrics *m = &t->engine->metrics;
	struct kvh_space_counters *s = t->pool->space->counters;
	struct unreserved un = {0};
	int err;

	if ((opts->flags & KVH_STORE_PERSISTED) != 0) {
		err = persisting_make(t);
		if (err != 0)
			return err;
	}
	err = store_reserve(t, &un);
	if (err != 0)
		return err;
	t->move.done = store_done;
	t->move.layered = (opts->flags & KVH_STORE_LAYERS) != 0;
	if (t->n_moving == 0) {
		count_unreserved(m, s, &un);
		store_finish(t);
		return 0;
	}
	err = kvh_transfer_start(t, opts->stream, opts->event);
	if (err == 0)
		count_unreserved(m, s, &un); /* t may have ended, and be gone */
	else
		store_unreserve(t);
	return err;
}

/* By layers there is none yet. */
static int store_order_point(const struct kvh_pool *pool, const struct kvh_store_opts *opts)
{
	if ((opts->flags & KVH_STORE_LAYERS) == 0)
		return kvh_transfer_order_point(pool, opts->stream, opts->event);
	if (opts->stream == NULL && opts->event == NULL)
		return 0;
	kvh_err("store: an order point with KVH_STORE_LAYERS, allowed: none; "
		"kvh_store_layer takes it");
	return -EINVAL;
}

int kvh_store(struct kvh_queue *queue, kvh_pool_t pool_id, const struct kvh_store_chunk *chunks,
	      uint32_t n, const struct kvh_store_opts *opts, int32_t *status, kvh_job_t *job_p)
{
	struct kvh_pool *pool;
	struct kvh_transfer *t = NULL;
	kvh_job_t id;
	int err;

	err = kvh_check_size("store", opts->size, sizeof(*opts));
	if (err == 0 && opts->outcomes != NULL && (opts->flags & KVH_STORE_PERSISTED) == 0) {
		kvh_err("store: outcomes without KVH_STORE_PERSISTED: nothing says when they "
			"are "
			"there");
		err = -EINVAL;
	}
	if (err == 0)
		err = kvh_transfer_begin(
			queue, pool_id, opts->flags,
			KVH_STORE_PACKED | KVH_STORE_PERSISTED | KVH_STORE_LAYERS, n, &pool);
	if (err != 0)
		return err;
	err = store_check(pool, chunks, n);
	if (err == 0)
		err = store_order_point(pool, opts);
	if (err != 0)
		goto err_put;
	t = kvh_transfer_make(queue, pool, n, false);
	err = t == NULL ? -ENOMEM : kvh_job_begin(queue, &store_ops, opts->user_data, &t->job);
	if (err != 0)
		goto err_put;
	t->job->body = t;
	t->flags = opts->flags;
	t->status = status;
	t->outcomes = opts->outcomes;
	for (uint32_t i = 0; i < n; i++)
		t->pieces[i] = (struct kvh_piece){.key = chunks[i].key,
						  .parent = &chunks[i].parent,
						  .pages = chunks[i].pages,
						  .index = i};
	id = t->job->id;
	err = store_start(t, opts);
	if (err != 0)
		goto err_abandon;
	*job_p = id;
	kvh_pool_put(pool);
	return 0;

err_abandon:
	kvh_job_abandon(t->job);
err_put:
	if (t != NULL) {
		if (t->persisting != NULL)
			persisting_put(t->persisting);
		kvh_transfer_free(t);
	}
	kvh_pool_put(pool);
	return err;
}

int kvh_store_layer(struct kvh_queue *queue, kvh_job_t id, uint32_t layer,
		    struct CUstream_st *stream, struct CUevent_st *event)
{
	struct kvh_transfer *t;
	struct kvh_job *job;
	int err = kvh_engine_alive(queue->engine);

	if (err != 0)
		return err;
	job = kvh_job_find(queue, id);
	if (job == NULL || job->ops != &store_ops)
		return -ENOENT;
	t = job->body;
	return kvh_mover_store_layer(t->device->mover, &t->move, layer, stream, event);
}
