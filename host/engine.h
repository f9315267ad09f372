/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h - the parts of an engine, for those that make up its API.
 */
#ifndef KVH_HOST_ENGINE_H
#define KVH_HOST_ENGINE_H

#include "host/arena.h"
#include "host/controller.h"
#include "host/devices.h"
#include "host/l1.h"
#include "host/metrics.h"
#include "host/pool.h"
#include "host/queue.h"
#include "host/space.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_engine {
	struct kvh_devices devices; /* with the movers; a pool knows its own */
	struct kvh_arena *arena;
	struct kvh_l1 *l1;
	struct kvh_controller *controller;
	struct kvh_space_table spaces;
	struct kvh_metrics metrics;
	kvh_counter sequence; /* of the last store */
	uint64_t last_job;    /* atomic: how many there were */
	uint32_t forks;       /* of the process, at open */
	bool closing;         /* atomic */

	pthread_mutex_t opts_lock;   /* of opts and limits; taken before any other */
	struct kvh_engine_opts opts; /* in force; without l2 */
	char *device_name;           /* opts.device */
	uint64_t health_bound_ns;    /* the options; atomic */
	uint64_t lease_ns;

	pthread_mutex_t lock; /* of all below */
	struct kvh_queue *queues;
	struct kvh_pool *pools;
	uint64_t next_pool;

	struct kvh_engine *abandoned; /* the next one that could not be freed */
};

/* Of a store: rises, also from one run to the next. */
static inline uint64_t kvh_next_sequence(struct kvh_engine *engine)
{
	return __atomic_add_fetch(&engine->sequence.value, 1, __ATOMIC_RELAXED);
}

/* Fills it in, whatever `size` says. */
void kvh_health_read(struct kvh_engine *engine, struct kvh_health *health);

/* How long leases last of which nothing else is said; 0: until they are released. */
static inline uint64_t kvh_engine_lease_ns(const struct kvh_engine *engine)
{
	return __atomic_load_n(&engine->lease_ns, __ATOMIC_RELAXED);
}

/* limits.c: those that the options give a space that has been given none yet. */
int kvh_limits_default(struct kvh_engine *engine, struct kvh_space *space);

/* 0; -EPERM in a child of fork; -ESHUTDOWN while it closes. */
int kvh_engine_alive(const struct kvh_engine *engine);
/* The space of a prefix that was checked. -ENOENT, -EINVAL, or as kvh_engine_alive. */
int kvh_find_space(struct kvh_queue *queue, const struct kvh_prefix *prefix,
		   const struct kvh_space **space_p);
/* 0, or -EINVAL with a log line: a struct of a size that this library does not
 * know. Before anything else of it is read. */
int kvh_check_size(const char *what, size_t size, size_t known);

#ifdef __cplusplus
}
#endif
#endif
