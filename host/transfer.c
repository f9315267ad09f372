/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer.c - the body of a store or a load, its checks, and its way to the
 * mover. Chunks stand in the body sorted by group, a part of the move a group.
 */
#include "host/transfer.h"

#include "host/frame.h"
#include "host/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the body --------------------------------------------------------- */

void kvh_transfer_free(struct kvh_transfer *t)
{
	free(t->pieces);
	free(t->payloads);
	free(t->results);
	free(t->pages);
	free(t);
}

struct kvh_transfer *kvh_transfer_make(struct kvh_queue *queue, struct kvh_pool *pool,
				       uint32_t n, bool is_load)
{
	struct kvh_transfer *t = calloc(1, sizeof(*t));

	if (t == NULL)
		return NULL;
	t->engine = queue->engine;
	t->device = pool->device;
	t->pool = pool;
	t->is_load = is_load;
	t->n = n;
	t->user.move = &t->move;
	t->pieces = calloc(n, sizeof(t->pieces[0]));
	t->payloads = calloc(n, sizeof(t->payloads[0]));
	t->results = calloc(n, sizeof(t->results[0]));
	if (t->pieces == NULL || t->payloads == NULL || t->results == NULL) {
		kvh_transfer_free(t);
		return NULL;
	}
	return t;
}

static int by_group(const void *a, const void *b)
{
	const struct kvh_piece *x = a, *y = b;

	if (x->key.group != y->key.group)
		return x->key.group < y->key.group ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

/* Makes the move's parts of the first n_moving pieces. */
static int make_parts(struct kvh_transfer *t)
{
	const struct kvh_pool *pool = t->pool;
	struct kvh_l1 *l1 = t->engine->l1;
	size_t n_pages = 0, at = 0;
	struct kvh_move_part *part = NULL;

	qsort(t->pieces, t->n_moving, sizeof(t->pieces[0]), by_group);
	for (uint32_t i = 0; i < t->n_moving; i++)
		n_pages += pool->plans[t->pieces[i].key.group]->pages_per_chunk;
	t->pages = malloc(n_pages * sizeof(t->pages[0]));
	if (t->pages == NULL)
		return -ENOMEM;
	t->move.parts = t->parts;
	for (uint32_t i = 0; i < t->n_moving; i++) {
		const struct kvh_piece *piece = &t->pieces[i];
		uint32_t group = piece->key.group;
		uint32_t n = pool->plans[group]->pages_per_chunk;

		if (i == 0 || group != t->pieces[i - 1].key.group) {
			part = &t->parts[t->move.n_parts++];
			part->plan = &pool->mplans[group];
			part->payloads = t->payloads + i;
			part->pages = t->pages + at;
			part->status = t->results + i;
		}
		part->n++;
		t->payloads[i] = (char *)kvh_l1_data(l1, piece->frame) + KVH_FRAME_ALIGN;
		memcpy(t->pages + at, piece->pages, n * sizeof(t->pages[0]));
		at += n;
	}
	return 0;
}

/* Joins or leaves the pool's list of moves: unregister cancels those in it. The
 * mover may be done before its call has returned. */
static void join_pool(struct kvh_transfer *t)
{
	pthread_mutex_lock(&t->pool->lock);
	if (!t->moved) {
		kvh_pool_user_add(t->pool, &t->user);
		if (!t->pool->open)
			kvh_mover_cancel(t->device->mover, &t->move);
	}
	pthread_mutex_unlock(&t->pool->lock);
}

void kvh_transfer_count(const struct kvh_transfer *t, uint32_t group)
{
	struct kvh_space_counters *space = t->pool->space->counters;
	struct kvh_engine_device *device = t->device;
	struct kvh_metrics *m = &t->engine->metrics;
	uint64_t bytes = t->pool->plans[group]->payload_bytes;

	kvh_count(t->is_load ? &m->loaded_chunks : &m->stored_chunks, 1);
	kvh_count(t->is_load ? &m->loaded_bytes : &m->stored_bytes, bytes);
	kvh_count(t->is_load ? &space->loaded_chunks : &space->stored_chunks, 1);
	kvh_count(t->is_load ? &space->loaded_bytes : &space->stored_bytes, bytes);
	kvh_count(t->is_load ? &device->loaded_chunks : &device->stored_chunks, 1);
	kvh_count(t->is_load ? &device->loaded_bytes : &device->stored_bytes, bytes);
}

static void count_error(struct kvh_engine *engine, struct kvh_engine_device *device)
{
	kvh_count(&engine->metrics.device_errors, 1);
	kvh_count(&device->errors, 1);
}

void kvh_transfer_moved(struct kvh_transfer *t)
{
	if (t->move.status != 0 && t->move.status != -ECANCELED)
		count_error(t->engine, t->device);
	kvh_uncount(&t->device->jobs, 1);
	pthread_mutex_lock(&t->pool->lock);
	if (t->user.prev != NULL || t->pool->users == &t->user)
		kvh_pool_user_remove(t->pool, &t->user);
	t->moved = true;
	pthread_mutex_unlock(&t->pool->lock);
	kvh_pool_put(t->pool);
}

void kvh_transfer_end(struct kvh_transfer *t, int status)
{
	kvh_job_end(t->job, status, t->n_ok, 0, t->move.pages_lost ? KVH_EVENT_PAGES_LOST : 0);
}

int kvh_transfer_result(const struct kvh_transfer *t, uint32_t i)
{
	int result = t->results[i];

	return result == 0 || result == -ECANCELED ? result : -EIO;
}

/* A device that dies says -EIO before it is seen as dead. */
static int device_error(const struct kvh_pool *pool, int err)
{
	if (err != -EIO && !kvh_device_dead(pool->device))
		return err;
	count_error(pool->engine, pool->device);
	kvh_err("transfer: the device %s has died", pool->device->info.label);
	return -ENODEV;
}

int kvh_transfer_start(struct kvh_transfer *t, struct CUstream_st *stream,
		       struct CUevent_st *event)
{
	struct kvh_mover *mover = t->device->mover;
	int err = make_parts(t);

	if (err != 0)
		return err;
	kvh_pool_hold(t->pool);
	kvh_count(&t->device->jobs, 1); /* it may be done before it was begun here */
	err = t->is_load ? kvh_mover_load(mover, &t->move, stream, event)
			 : kvh_mover_store(mover, &t->move, stream, event);
	if (err != 0) {
		kvh_uncount(&t->device->jobs, 1);
		kvh_pool_put(t->pool);
		return device_error(t->pool, err);
	}
	join_pool(t);
	return 0;
}

int kvh_transfer_begin(struct kvh_queue *queue, kvh_pool_t pool_id, uint32_t flags,
		       uint32_t known, uint32_t n, struct kvh_pool **pool_p)
{
	struct kvh_pool *pool;
	int err = kvh_engine_alive(queue->engine);

	if (err != 0)
		return err;
	if ((flags & ~known) != 0 || n == 0) {
		kvh_err("transfer: %u chunks, flags %#x; allowed: >= 1, within %#x", n, flags,
			known);
		return -EINVAL;
	}
	err = kvh_pool_get(queue->engine, pool_id, &pool);
	if (err != 0)
		return err;
	err = device_error(pool, 0);
	if (err != 0)
		kvh_pool_put(pool);
	else
		*pool_p = pool;
	return err;
}

int kvh_transfer_order_point(const struct kvh_pool *pool, struct CUstream_st *stream,
			     struct CUevent_st *event)
{
	struct kvh_device *dev = pool->device->dev;
	int capturing;

	if (stream != NULL && event != NULL) {
		kvh_err("transfer: both a stream and an event, allowed: one of them");
		return -EINVAL;
	}
	if (event != NULL)
		return 0;
	capturing = dev->ops->stream_capturing(dev, stream);
	if (capturing > 0) {
		kvh_err("transfer: the stream is being captured");
		return -EBUSY;
	}
	return capturing < 0 ? device_error(pool, capturing) : 0;
}
