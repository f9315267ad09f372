/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load_job.c - kvh_load and kvh_load_wait: hold the frames by their leases,
 * check -> mover -> unhold -> ended. The user's thread up to the mover's call,
 * which enqueues all copies; then the mover's.
 */
#include "host/log.h"
#include "host/transfer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void load_forget(struct kvh_job *job)
{
	struct kvh_transfer *t = job->body;

	kvh_mover_forget(t->device->mover, &t->move);
	kvh_transfer_free(t);
}

/* Without cancel: all of a load is on the device when its call returns. */
static const struct kvh_job_ops load_ops = {
	.name = "load",
	.measured = 1 + KVH_LATENCY_LOAD,
	.forget = load_forget,
};

static void load_unhold(struct kvh_transfer *t)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (t->pieces[i].frame != 0)
			kvh_l1_unhold_lease(t->engine->l1, t->pieces[i].lease,
					    t->pieces[i].frame);
}

/* A policy may want to know what is used. */
static void load_used(const struct kvh_transfer *t)
{
	struct kvh_controller *c = t->engine->controller;
	kvh_frame frames[64];
	uint32_t n = 0;

	if (!kvh_controller_wants_uses(c))
		return;
	for (uint32_t i = 0; i < t->n; i++) {
		if (kvh_transfer_result(t, i) == 0 &&
		    kvh_l1_hold_key(t->engine->l1, &t->pieces[i].key, &frames[n]) == 0)
			n++;
		if (n == 64 || (n > 0 && i + 1 == t->n)) {
			kvh_controller_used(c, frames, n);
			n = 0;
		}
	}
}

static void load_done(struct kvh_move *move)
{
	struct kvh_transfer *t = (struct kvh_transfer *)((char *)move -
							 offsetof(struct kvh_transfer, move));

	for (uint32_t i = 0; i < t->n; i++) {
		struct kvh_piece *piece = &t->pieces[i];
		int status = kvh_transfer_result(t, i);

		kvh_transfer_status(t, piece->index, status);
		if (status == 0) {
			t->n_ok++;
			kvh_transfer_count(t, piece->key.group);
		} else if (t->first_error == 0) {
			t->first_error = status;
		}
		if ((t->flags & KVH_LOAD_RELEASE) != 0)
			(void)kvh_l1_release(t->engine->l1, piece->lease);
	}
	load_used(t);
	load_unhold(t);
	kvh_transfer_moved(t);
	kvh_transfer_end(t, t->first_error);
}

/* Holds every frame by its lease. -ESTALE: status says which. */
static int load_hold(struct kvh_transfer *t, const struct kvh_load_chunk *chunks)
{
	struct kvh_l1 *l1 = t->engine->l1;
	int err = 0;

	for (uint32_t i = 0; i < t->n; i++) {
		struct kvh_piece *piece = &t->pieces[i];
		int e;

		piece->index = i;
		piece->pages = chunks[i].pages;
		piece->lease = chunks[i].lease;
		e = kvh_l1_hold_lease(l1, piece->lease, &piece->frame);
		kvh_transfer_status(t, i, e != 0 ? e : KVH_PENDING);
		if (e == 0) {
			kvh_l1_key(l1, piece->frame, &piece->key);
		} else if (err == 0) {
			kvh_err("load: chunk %u: its lease %#llx is not held", i,
				(unsigned long long)piece->lease);
			err = e;
		}
	}
	return err;
}

/* No page may be written twice: a bit a page and group. */
static int load_check_pages(const struct kvh_pool *pool, const struct kvh_transfer *t)
{
	unsigned char *seen[KVH_GROUPS_MAX] = {0};
	int err = 0;

	for (uint32_t i = 0; i < t->n && err == 0; i++) {
		const struct kvh_piece *piece = &t->pieces[i];
		uint32_t g = piece->key.group;

		if (seen[g] == NULL)
			seen[g] = calloc(1, (size_t)pool->plans[g]->n_pages / 8 + 1);
		if (seen[g] == NULL)
			err = -ENOMEM;
		for (uint32_t p = 0; p < pool->plans[g]->pages_per_chunk && err == 0; p++) {
			uint32_t page = piece->pages[p];

			if (page == KVH_PAGE_NONE)
				continue;
			if ((seen[g][page / 8] >> (page % 8) & 1) != 0) {
				kvh_err("load: chunk %u: page %u of group %u is named twice", i,
					page, g);
				err = -EINVAL;
			}
			seen[g][page / 8] |= (unsigned char)(1u << (page % 8));
		}
	}
	for (uint32_t g = 0; g < KVH_GROUPS_MAX; g++)
		free(seen[g]);
	return err;
}

static int load_check(struct kvh_transfer *t, const struct kvh_load_chunk *chunks)
{
	int err = 0;

	for (uint32_t i = 0; i < t->n && err == 0; i++) {
		const struct kvh_piece *piece = &t->pieces[i];

		err = kvh_pool_check_key(t->pool, &piece->key, i);
		if (err == 0)
			err = kvh_pool_check_pages(t->pool, piece->key.group, chunks[i].pages,
						   chunks[i].n_pages, true, i);
	}
	return err != 0 ? err : load_check_pages(t->pool, t);
}

static int load_start(struct kvh_transfer *t, const struct kvh_load_chunk *chunks,
		      const struct kvh_load_opts *opts)
{
	int err = load_hold(t, chunks);

	if (err == 0)
		err = load_check(t, chunks);
	if (err != 0)
		goto err_unhold;
	t->n_moving = t->n;
	t->move.done = load_done;
	err = kvh_transfer_start(t, opts->stream, opts->event);
	if (err == 0)
		return 0;

err_unhold:
	load_unhold(t);
	return err;
}

int kvh_load(struct kvh_queue *queue, kvh_pool_t pool_id, const struct kvh_load_chunk *chunks,
	     uint32_t n, const struct kvh_load_opts *opts, int32_t *status, kvh_job_t *job_p)
{
	struct kvh_pool *pool;
	struct kvh_transfer *t = NULL;
	kvh_job_t id;
	int err;

	err = kvh_check_size("load", opts->size, sizeof(*opts));
	if (err == 0)
		err = kvh_transfer_begin(queue, pool_id, opts->flags, KVH_LOAD_RELEASE, n,
					 &pool);
	if (err != 0)
		return err;
	err = kvh_transfer_order_point(pool, opts->stream, opts->event);
	if (err != 0)
		goto err_put;
	t = kvh_transfer_make(queue, pool, n, true);
	err = t == NULL ? -ENOMEM : kvh_job_begin(queue, &load_ops, opts->user_data, &t->job);
	if (err != 0)
		goto err_put;
	t->job->body = t;
	t->flags = opts->flags;
	t->status = status;
	id = t->job->id;
	err = load_start(t, chunks, opts);
	if (err != 0)
		goto err_abandon;
	*job_p = id;
	kvh_pool_put(pool);
	return 0;

err_abandon:
	kvh_job_abandon(t->job);
err_put:
	if (t != NULL)
		kvh_transfer_free(t);
	kvh_pool_put(pool);
	return err;
}

int kvh_load_wait(struct kvh_queue *queue, kvh_job_t id, uint32_t layer,
		  struct CUstream_st *stream)
{
	struct kvh_transfer *t;
	struct kvh_job *job;
	int err = kvh_engine_alive(queue->engine);

	if (err != 0)
		return err;
	job = kvh_job_find(queue, id);
	if (job == NULL || job->ops != &load_ops)
		return -ENOENT;
	t = job->body;
	return kvh_mover_load_wait(t->device->mover, &t->move, layer, stream);
}
