/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c - pools: register, unregister, and the checks of what a call names.
 * Any thread. Unregister frees on a worker: returning device memory may wait for
 * the device.
 */
#include "host/pool.h"

#include "host/engine.h"
#include "host/log.h"
#include "host/work.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int kvh_pool_get(struct kvh_engine *engine, kvh_pool_t id, struct kvh_pool **pool_p)
{
	struct kvh_pool *pool;
	int err = -ENOENT;

	pthread_mutex_lock(&engine->lock);
	for (pool = engine->pools; pool != NULL && pool->id != id; pool = pool->next)
		;
	if (pool != NULL) {
		pthread_mutex_lock(&pool->lock);
		if (pool->open) {
			pool->n_users++;
			*pool_p = pool;
			err = 0;
		}
		pthread_mutex_unlock(&pool->lock);
	}
	pthread_mutex_unlock(&engine->lock);
	if (err != 0)
		kvh_err("pool: there is no pool %llu", (unsigned long long)id);
	return err;
}

void kvh_pool_hold(struct kvh_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->n_users++;
	pthread_mutex_unlock(&pool->lock);
}

static void unlink_pool(struct kvh_engine *engine, struct kvh_pool *pool)
{
	struct kvh_pool **link;

	pthread_mutex_lock(&engine->lock);
	for (link = &engine->pools; *link != pool; link = &(*link)->next)
		;
	*link = pool->next;
	pthread_mutex_unlock(&engine->lock);
}

struct finish_work {
	struct kvh_work work;
	struct kvh_pool *pool;
};

static void finish_run(struct kvh_work *work)
{
	struct kvh_pool *pool = ((struct finish_work *)work)->pool;
	struct kvh_job *job = pool->closing;

	unlink_pool(pool->engine, pool);
	kvh_pool_free(pool);
	kvh_job_end(job, 0, 0, 0, 0);
	/* `work` is the job's body: freed when its event was polled */
}

void kvh_pool_put(struct kvh_pool *pool)
{
	struct finish_work *finish = NULL;

	pthread_mutex_lock(&pool->lock);
	if (--pool->n_users == 0 && !pool->open)
		finish = pool->closing->body;
	pthread_mutex_unlock(&pool->lock);
	if (finish != NULL)
		kvh_workers_post(kvh_controller_workers(pool->engine->controller),
				 &finish->work);
}

void kvh_pool_user_add(struct kvh_pool *pool, struct kvh_pool_user *user)
{
	user->prev = NULL;
	user->next = pool->users;
	if (user->next != NULL)
		user->next->prev = user;
	pool->users = user;
}

void kvh_pool_user_remove(struct kvh_pool *pool, struct kvh_pool_user *user)
{
	if (user->prev != NULL)
		user->prev->next = user->next;
	else
		pool->users = user->next;
	if (user->next != NULL)
		user->next->prev = user->prev;
}

int kvh_pool_check_key(const struct kvh_pool *pool, const struct kvh_key *key, uint32_t chunk)
{
	uint32_t rank;

	if (key->space != pool->space->id) {
		kvh_err("chunk %u: its key is of space %016llx, the pool is of %016llx", chunk,
			(unsigned long long)key->space, (unsigned long long)pool->space->id);
		return -EINVAL;
	}
	if (key->group >= pool->space->n_groups) {
		kvh_err("chunk %u: group %u, the space has %u", chunk, key->group,
			pool->space->n_groups);
		return -EINVAL;
	}
	rank = pool->space->groups[key->group].desc.replicated ? KVH_RANK_ANY : pool->rank;
	if (key->rank != rank) {
		kvh_err("chunk %u: rank %u in the key, the pool's chunks of group %u have %u",
			chunk, key->rank, key->group, rank);
		return -EINVAL;
	}
	return 0;
}

int kvh_pool_check_pages(const struct kvh_pool *pool, uint32_t group, const uint32_t *pages,
			 uint32_t n_pages, bool none_allowed, uint32_t chunk)
{
	const struct kvh_plan *plan = pool->plans[group];

	if (n_pages != plan->pages_per_chunk || pages == NULL) {
		kvh_err("chunk %u: %u pages, a chunk of group %u has %u", chunk, n_pages, group,
			plan->pages_per_chunk);
		return -EINVAL;
	}
	for (uint32_t i = 0; i < n_pages; i++) {
		if (pages[i] < plan->n_pages || (none_allowed && pages[i] == KVH_PAGE_NONE))
			continue;
		kvh_err("chunk %u: page %u at place %u, group %u has pages 0..%u", chunk,
			pages[i], i, group, plan->n_pages - 1);
		return -EINVAL;
	}
	return 0;
}

void kvh_pool_free(struct kvh_pool *pool)
{
	for (uint32_t g = 0; g < KVH_GROUPS_MAX; g++) {
		if (pool->mplans[g].dev_plan != NULL)
			kvh_mover_plan_remove(pool->device->mover, &pool->mplans[g]);
		kvh_plan_free(pool->plans[g]);
	}
	if (pool->id != 0) /* was registered */
		kvh_uncount(&pool->device->pools, 1);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

/* ---- public ----------------------------------------------------------- */

void kvh_pool_desc_init(struct kvh_pool_desc *desc, size_t size)
{
	memset(desc, 0, size);
	desc->size = size;
}

static int check_desc(const struct kvh_pool_desc *desc, const struct kvh_space *space)
{
	if (desc->n_planes != space->n_planes || desc->planes == NULL ||
	    desc->group_pages == NULL || desc->allocs == NULL || desc->n_allocs == 0) {
		kvh_err("pool: %u planes in %u allocations, the space has %u planes",
			desc->n_planes, desc->n_allocs, space->n_planes);
		return -EINVAL;
	}
	if (desc->rank == KVH_RANK_ANY) {
		kvh_err("pool: rank is KVH_RANK_ANY, allowed: the pool's own");
		return -EINVAL;
	}
	return 0;
}

static int make_plans(struct kvh_pool *pool, const struct kvh_pool_desc *desc)
{
	const struct kvh_space *space = pool->space;
	int err;

	for (uint32_t g = 0; g < space->n_groups; g++) {
		const struct kvh_space_group *group = &space->groups[g];

		err = kvh_plan_make(&group->desc, space->chunk_tokens, desc->allocs,
				    desc->n_allocs, desc->planes + group->first_plane,
				    group->first_plane, desc->group_pages[g], &pool->plans[g]);
		if (err != 0)
			return err;
		err = kvh_mover_plan_add(pool->device->mover, pool->plans[g], &pool->mplans[g]);
		if (err != 0)
			return err;
	}
	return 0;
}

int kvh_pool_register(struct kvh_engine *engine, const struct kvh_pool_desc *desc,
		      kvh_pool_t *pool_p)
{
	struct kvh_engine_device *device;
	struct kvh_space *space;
	struct kvh_pool *pool;
	int err = kvh_engine_alive(engine);

	if (err == 0)
		err = kvh_check_size("pool", desc->size, sizeof(*desc));
	if (err != 0)
		return err;
	space = kvh_space_table_find(&engine->spaces, desc->space);
	if (space == NULL) {
		kvh_err("pool: there is no space %016llx", (unsigned long long)desc->space);
		return -ENOENT;
	}
	err = check_desc(desc, space);
	if (err == 0)
		err = kvh_devices_find(&engine->devices, desc, &device);
	if (err != 0)
		return err;
	pool = calloc(1, sizeof(*pool));
	if (pool == NULL)
		return -ENOMEM;
	pool->engine = engine;
	pool->device = device;
	pool->space = space;
	pool->rank = desc->rank;
	pool->open = true;
	pthread_mutex_init(&pool->lock, NULL);
	err = make_plans(pool, desc);
	if (err != 0) {
		kvh_pool_free(pool);
		return err == -EIO ? -ENODEV : err;
	}
	pthread_mutex_lock(&engine->lock);
	pool->id = ++engine->next_pool;
	pool->next = engine->pools;
	engine->pools = pool;
	kvh_count(&device->pools, 1);
	kvh_space_near_set(space, pool->rank, kvh_devices_near(&engine->devices, device));
	*pool_p = pool->id;
	pthread_mutex_unlock(&engine->lock);
	return 0;
}

static void unregister_forget(struct kvh_job *job)
{
	free(job->body);
}

static const struct kvh_job_ops unregister_ops = {
	.name = "unregister",
	.forget = unregister_forget,
};

int kvh_pool_unregister(struct kvh_queue *queue, kvh_pool_t id, uint64_t user_data,
			kvh_job_t *job_p)
{
	struct finish_work *finish;
	struct kvh_pool *pool;
	struct kvh_job *job;
	bool mine;
	int err = kvh_engine_alive(queue->engine);

	if (err != 0)
		return err;
	err = kvh_pool_get(queue->engine, id, &pool);
	if (err != 0)
		return err;
	finish = calloc(1, sizeof(*finish));
	err = finish == NULL ? -ENOMEM : kvh_job_begin(queue, &unregister_ops, user_data, &job);
	if (err != 0)
		goto err_put;
	finish->work.run = finish_run;
	finish->pool = pool;
	job->body = finish;
	pthread_mutex_lock(&pool->lock);
	mine = pool->open; /* two threads at once: one of them */
	if (mine) {
		pool->open = false;
		pool->closing = job;
		for (struct kvh_pool_user *user = pool->users; user != NULL; user = user->next)
			kvh_mover_cancel(pool->device->mover, user->move);
	}
	pthread_mutex_unlock(&pool->lock);
	if (!mine) {
		kvh_job_abandon(job);
		err = -ENOENT;
		goto err_put;
	}
	*job_p = job->id;
	kvh_pool_put(pool);
	return 0;

err_put:
	free(finish);
	kvh_pool_put(pool);
	return err;
}
