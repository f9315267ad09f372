/* SPDX-License-Identifier: Apache-2.0 */
/*
 * player_impl.h - a player's inside, for its own two files:
 *
 *   player.c       requests, from prompt to pages and back
 *   player_open.c  what they need: engine, queue, pool, slots
 */
#ifndef KVH_BENCH_PLAYER_IMPL_H
#define KVH_BENCH_PLAYER_IMPL_H

#include "bench/player.h"

enum slot_state { SLOT_FREE, SLOT_PREFETCH, SLOT_PAGES, SLOT_LOAD, SLOT_STORE, SLOT_NSTATES };

/* Chunks that are moved together, in the three forms that they are named in. */
struct batch {
	uint32_t n;
	uint64_t bytes;
	struct kvh_runtime_chunk *chunks;
	struct kvh_load_chunk *loads;
	struct kvh_store_chunk *stores;
	uint64_t *ids; /* of the trace: for messages */
};

struct slot {
	enum slot_state state;
	size_t request;
	uint64_t began_ns; /* the job that runs */
	struct kvh_prefix prefix;
	struct kvh_hash *hashes; /* [longest] */
	kvh_lease_t *leases;     /* [entries], and so below */
	uint32_t usable;
	uint32_t n_pages;
	uint32_t *pages;
	struct batch batch;
	int32_t *status;
	struct kvh_runtime_wrong *wrong;
	kvh_job_t job;
};

struct kvh_player {
	struct kvh_player_opts opts;
	struct kvh_engine *engine;
	struct kvh_queue *queue;
	kvh_space_t space;
	kvh_pool_t pool;
	uint32_t n_active;
	uint64_t base_ns; /* paced: when the trace's time 0 is */
	bool broken;      /* jobs may be out: do not wait for them one by one */
	struct slot *slots;
};

#endif
