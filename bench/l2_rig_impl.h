/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_rig_impl.h - between l2_rig.c and l2_flow.c. Everything belongs to the thread
 * that drives the adapter: the rig's controller, or (raw) the caller of run.
 *
 *    PUT   FREE -> SEALING -> SEALED -> OUT -> FREE
 *    GET   FREE -> OUT -> CHECKING -> FREE
 *    PROBE FREE -> OUT -> FREE
 */
#ifndef KVH_BENCH_L2_RIG_IMPL_H
#define KVH_BENCH_L2_RIG_IMPL_H

#include "bench/l2_rig.h"
#include "host/adapter.h"
#include "host/arena.h"
#include "host/work.h"

#include <pthread.h>

enum kvh_lane_state {
	KVH_LANE_FREE,
	KVH_LANE_SEALING,
	KVH_LANE_SEALED,
	KVH_LANE_OUT,
	KVH_LANE_CHECKING
};

/* A frame's memory, and the request that it is in. */
struct kvh_lane {
	struct kvh_l2_task task; /* first */
	struct kvh_rig *rig;
	enum kvh_lane_state state;
	void *frame;
	uint64_t number; /* of the key */
	uint64_t began_ns;
	const char *wrong; /* what the check found */
	struct kvh_work work;
	struct kvh_loop_work worked;
	struct kvh_lane *next;
};

struct kvh_lanes {
	struct kvh_lane *lanes;
	uint32_t n;
	struct kvh_lane *free, *sealed, **sealed_tail; /* oldest first */
};

/* ended <= started <= n;  out <= depth */
struct kvh_flow {
	enum kvh_l2_mode mode;
	bool finding; /* PROBES: over `found` from the first to the last key */
	uint64_t n, started, ended;
	uint32_t out;
	uint64_t began_ns, began_cpu_ns;
	struct kvh_rig_result *result;
};

struct kvh_rig {
	struct kvh_rig_opts opts;
	struct kvh_l2_env env;
	struct kvh_metrics metrics;
	struct kvh_device *dev;
	struct kvh_arena *arena;
	struct kvh_workers *workers;
	struct kvh_loop *loop;
	struct kvh_adapter *adapter;  /* NULL if raw */
	const struct kvh_l2_ops *ops; /* raw */
	void *self;
	uint32_t *regions; /* raw: as attach said, a piece each */

	struct kvh_lanes puts, gets;
	struct kvh_flow flow;
	uint64_t next_put;  /* keys below were put, or are in a sealed frame */
	uint64_t find_next; /* the next that kvh_rig_find asks for */
	uint64_t *living;   /* [n_living] numbers, in the order they are got */
	uint64_t n_living, living_room, next_living;
	uint64_t seed;

	pthread_mutex_t lock;
	pthread_cond_t over; /* flow.ended == flow.n, or out == 0 after `stop` */
	bool done;
	bool stop; /* atomic: a signal came */
};

/* l2_flow.c */
/* Once, with the memory there: payloads are made up, and gets' memory is touched. */
void kvh_flow_init(struct kvh_rig *rig);
void kvh_flow_begin(struct kvh_rig *rig);
/* Starts what may be started now. */
void kvh_flow_pump(struct kvh_rig *rig);
/* Everything that was started has ended, and nothing more will be. */
bool kvh_flow_over(const struct kvh_rig *rig);
/* Raw: a request was reaped. */
void kvh_flow_reaped(struct kvh_lane *lane);

/* l2_rig.c: hands it to the adapter, by way of its queues or not. */
void kvh_rig_submit(struct kvh_rig *rig, struct kvh_lane *lane);
/* Its thread, once kvh_flow_over. */
void kvh_rig_over(struct kvh_rig *rig);

#endif
