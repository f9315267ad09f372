/* SPDX-License-Identifier: Apache-2.0 */
/*
 * player.h - plays requests of a trace through an engine, as a runtime would, and
 * checks every byte that comes back. One thread.
 */
#ifndef KVH_BENCH_PLAYER_H
#define KVH_BENCH_PLAYER_H

#include "bench/model.h"
#include "bench/report.h"
#include "bench/runtime.h"
#include "bench/trace.h"
#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_player;

struct kvh_player_opts {
	const struct kvh_engine_opts *engine;
	const struct kvh_geometry *geo;
	const struct kvh_trace *trace;
	struct kvh_runtime *rt;
	struct kvh_result *result;
	uint64_t salt;               /* of the hashes: traces of equal ids need not be equal */
	uint32_t n_slots;            /* requests at once; 1: in sequence */
	bool paced;                  /* not before their time */
	bool persist;                /* a request ends when the adapters have its chunks, too */
	void (*progress)(void *arg); /* after each request; may be NULL */
	void *arg;
};
/* Everything in opts but opts itself is borrowed until close. The reason of a
 * failure was printed. As kvh_engine_open, kvh_space_open, kvh_pool_register. */
int kvh_player_open(const struct kvh_player_opts *opts, struct kvh_player **player_p);

/* Plays requests [*next, end) and moves *next behind the last one that began;
 * begins none after until_ns (monotonic). 0, -EINTR at a signal, or what failed:
 * then, as after -EINTR, the player can only be closed. */
int kvh_player_play(struct kvh_player *player, size_t *next, size_t end, uint64_t until_ns);

/* Waits until the adapters have taken what is on the way to them, adds the
 * engine's counters to the result, closes. 0, or -EIO: a lease was left, or
 * -ETIMEDOUT. NULL is fine. */
int kvh_player_close(struct kvh_player *player);

uint64_t kvh_player_now(void); /* CLOCK_MONOTONIC */

#ifdef __cplusplus
}
#endif
#endif
