/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_rig.h - an L1 of frames without a payload, in an arena of addresses without
 * memory, so that a hundred million keys fit: what is measured is the product's
 * index, states, leases, eviction and locks, and no memory of frames.
 */
#ifndef KVH_BENCH_L1_RIG_H
#define KVH_BENCH_L1_RIG_H

#include "host/l1.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_L1_THREADS_MAX 64u

struct kvh_l1_rig {
	struct kvh_device *dev;
	struct kvh_arena *arena;
	struct kvh_l1 *l1;
	uint64_t keys;        /* resident */
	double bytes_per_key; /* of this process, beside frames */
};

/* What one run of one kind has measured; times of a batch in ns. */
struct kvh_l1_rate {
	double per_s; /* keys, or cycles, of all threads together */
	double p50_ns, p99_ns;
};

enum kvh_l1_work {
	KVH_L1_WORK_LOOKUP, /* keys that are resident */
	KVH_L1_WORK_MISS,
	KVH_L1_WORK_CYCLE, /* reserve, publish, lease, release of new keys; L1 is full */
	KVH_L1_WORKS
};
const char *kvh_l1_work_name(enum kvh_l1_work work);

/* Room for `keys` frames, all of them in use. 0, or a negative errno. */
int kvh_l1_rig_open(struct kvh_l1_rig *rig, uint64_t keys, const char *eviction);
void kvh_l1_rig_close(struct kvh_l1_rig *rig);

/* For so many seconds, batch by batch, on n threads. A cycle that fails is -EIO. */
int kvh_l1_rig_run(struct kvh_l1_rig *rig, enum kvh_l1_work work, uint32_t batch,
		   uint32_t n_threads, double seconds, struct kvh_l1_rate *rate);

#ifdef __cplusplus
}
#endif
#endif
