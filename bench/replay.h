/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay.h - what the commands that play a trace share: the trace by its name, the
 * runtime that fits it, the report. One thread.
 */
#ifndef KVH_BENCH_REPLAY_H
#define KVH_BENCH_REPLAY_H

#include "bench/player.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_replay {
	const char *trace_name; /* a path, or "gen:SEED" */
	uint64_t salt;          /* of the hashes */
	struct kvh_trace trace;
	struct kvh_geometry geo;
	struct kvh_runtime *rt;
	struct kvh_result result;
	char geo_text[256];
	char device_text[256];
	/* progress, on a terminal */
	bool show_progress;
	size_t n_requests;
	uint64_t shown_ns;
};

/* Each prints the reason of a failure. max_requests 0: all of a file, 1000 of a
 * generated one. -EINVAL: the name, or what is in the file */
int kvh_replay_trace(struct kvh_replay *replay, const char *name, size_t max_requests);
/* The trace and the geometry are there. */
int kvh_replay_runtime(struct kvh_replay *replay, const char *device, uint32_t n_slots);
/* An L1 that nothing is evicted from. -ENOMEM: more than the machine has left */
int kvh_replay_l1(const struct kvh_replay *replay, uint64_t *l1_p);
void kvh_replay_close(struct kvh_replay *replay);

void kvh_replay_head(const struct kvh_replay *replay, uint64_t l1_bytes,
		     struct kvh_report_head *head);
/* For kvh_player_opts: a line on stderr, ten times a second, where that is a
 * terminal and show_progress was set. */
void kvh_replay_progress(void *replay);
void kvh_replay_progress_end(struct kvh_replay *replay);

#ifdef __cplusplus
}
#endif
#endif
