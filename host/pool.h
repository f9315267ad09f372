/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.h - a runtime's pages on a device: plans, and the jobs that use them.
 *
 *   OPEN --unregister--> CLOSING --last user gone--> freed
 *
 * A pool is used from kvh_pool_get until kvh_pool_put; a job does so from start
 * to end. Any thread.
 */
#ifndef KVH_HOST_POOL_H
#define KVH_HOST_POOL_H

#include "cuda/mover.h"
#include "host/space.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_job;

/* In a transfer's body: those of one pool, so that unregister can cancel them. */
struct kvh_pool_user {
	struct kvh_move *move;
	struct kvh_pool_user *prev, *next;
};

struct kvh_pool {
	kvh_pool_t id;
	struct kvh_engine *engine;
	struct kvh_engine_device *device; /* its memory is there */
	const struct kvh_space *space;
	uint32_t rank;
	struct kvh_plan *plans[KVH_GROUPS_MAX];
	struct kvh_mover_plan mplans[KVH_GROUPS_MAX];
	struct kvh_pool *next; /* of the engine's list */

	pthread_mutex_t lock; /* of all below */
	uint32_t n_users;
	struct kvh_pool_user *users; /* with a move */
	struct kvh_job *closing;     /* the unregister job, in CLOSING */
	bool open;
};

/* -ENOENT: none of that id, or closing. */
int kvh_pool_get(struct kvh_engine *engine, kvh_pool_t id, struct kvh_pool **pool_p);
/* Once more, by who has it. */
void kvh_pool_hold(struct kvh_pool *pool);
/* The last put of a closing pool ends its unregister job, from a worker. */
void kvh_pool_put(struct kvh_pool *pool);
void kvh_pool_user_add(struct kvh_pool *pool, struct kvh_pool_user *user);
void kvh_pool_user_remove(struct kvh_pool *pool, struct kvh_pool_user *user);
/* 0, or -EINVAL with a log line: the key is not one of this pool's. */
int kvh_pool_check_key(const struct kvh_pool *pool, const struct kvh_key *key, uint32_t chunk);
/* 0, or -EINVAL with a log line: count or a page number. */
int kvh_pool_check_pages(const struct kvh_pool *pool, uint32_t group, const uint32_t *pages,
			 uint32_t n_pages, bool none_allowed, uint32_t chunk);
/* Without users; device memory and the struct. */
void kvh_pool_free(struct kvh_pool *pool);

#ifdef __cplusplus
}
#endif
#endif
