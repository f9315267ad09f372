/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_open.h - how long an adapter takes to open what it kept: after a clean stop,
 * and after a process with it open was killed. One thread, and a child that dies.
 */
#ifndef KVH_BENCH_L2_OPEN_H
#define KVH_BENCH_L2_OPEN_H

#include "bench/l2_target.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_OPEN_DEPTH 64u /* of fio's reads */

struct kvh_open_opts {
	const char *spec;
	uint64_t frames;
	uint64_t frame_bytes;
	uint32_t tries; /* of each; the median counts */
	bool fio;
};

struct kvh_open_result {
	uint64_t frames; /* as the adapter counts them, at the end */
	uint64_t frame_bytes;
	double clean_s, crash_s;             /* open calls */
	uint64_t clean_frames, crash_frames; /* found by them */
	double fio_s;                        /* as many random reads of 4 KiB; 0: not run */
};

/* -ENOSPC: so many do not fit; -EOPNOTSUPP: it keeps nothing. Complains. */
int kvh_open_times(const struct kvh_open_opts *opts, struct kvh_target *target,
		   struct kvh_open_result *result);

#ifdef __cplusplus
}
#endif
#endif
