/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_pairs.h - one row of the report: a mode at one size, as the median of pairs
 * of runs, the adapter's and fio's in turn. The program's only thread.
 */
#ifndef KVH_BENCH_L2_PAIRS_H
#define KVH_BENCH_L2_PAIRS_H

#include "bench/l2_rig.h"
#include "bench/l2_target.h"
#include "bench/measure.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_pairs_opts {
	uint32_t pairs; /* 1..KVH_PAIRS_MAX */
	double seconds; /* that a run is to last */
	bool fio, fio_huge;
	void (*progress)(void *arg, uint32_t pair); /* NULL: nobody asks */
	void *arg;
};
#define KVH_PAIRS_MAX 101u

/* Rates are of the pairs' runs. share: of each pair, adapter's by fio's. */
struct kvh_pairs_row {
	uint64_t frame_bytes;
	uint32_t depth;
	enum kvh_l2_mode mode;
	const char *cold;                  /* kvh_target_cold */
	uint32_t pairs;                    /* that were run */
	uint64_t run_frames;               /* of one run */
	struct kvh_spread gb_per_s, per_s; /* bytes and frames */
	struct kvh_spread fio_gb_per_s, share_of_fio;
	const char *no_fio; /* why there is none; NULL: there is */
	double cpu_s_per_gb, fio_cpu_s_per_gb;
	double calls_per_frame; /* below 0: not known */
	uint64_t p50_ns, p99_ns, p999_ns;
	uint64_t frames, misses, failed, corrupt;
};

/* The rig's adapter is filled. 0, -EINTR, -ENOMEM, -ENOENT: nothing to load, -EIO. */
int kvh_pairs_run(const struct kvh_pairs_opts *opts, struct kvh_rig *rig,
		  const struct kvh_target *target, struct kvh_pairs_row *row);

/* Writes the target's twin once: the first write is slower. */
int kvh_pairs_prepare(const struct kvh_pairs_opts *opts, const struct kvh_target *target,
		      uint64_t frame_bytes, uint32_t depth);

#ifdef __cplusplus
}
#endif
#endif
