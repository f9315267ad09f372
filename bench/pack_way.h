/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_way.h - the ways of moving a set between pages and frames, ours and those
 * that others use, all through the seam, so that they run on every device. One
 * thread.
 */
#ifndef KVH_BENCH_PACK_WAY_H
#define KVH_BENCH_PACK_WAY_H

#include "bench/pack_set.h"
#include "bench/report.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_way {
	KVH_WAY_COPIES,    /* one copy a fragment */
	KVH_WAY_BATCH,     /* the same in batches */
	KVH_WAY_COPY_2D,   /* one 2-D copy a page: planes lie at one stride */
	KVH_WAY_ZERO_COPY, /* a kernel that reads or writes host memory itself; into one flat
			    * buffer, which is its best case */
	KVH_WAY_KVHOIST,   /* the mover, into frames, as it decides */
	KVH_WAY_STAGED,    /* the mover, made to go through stages */
	KVH_WAY_DIRECT,    /* the mover, made to copy without them */
	KVH_WAYS
};
const char *kvh_way_name(enum kvh_way way);

struct kvh_way_result {
	uint64_t bytes;          /* of one sample */
	struct kvh_samples each; /* ns from the first call to the last byte */
	/* Processor time of all samples: of the caller's thread in its calls, and of the
	 * mover's, which submits our stores; of all other threads of the process. */
	uint64_t submit_ns, other_ns;
	bool right; /* the bytes arrived, and no others changed */
	int error;  /* 0, or why there is no result; -EOPNOTSUPP: not for this set */
};
void kvh_way_result_free(struct kvh_way_result *result);

/* n samples of at most the set's bytes; a slow way moves fewer chunks (counted in
 * bytes), which are what is compared. Then the bytes are compared. */
void kvh_way_run(enum kvh_way way, struct kvh_pack_set *set, bool load, uint32_t n,
		 struct kvh_way_result *result);

/* The link: one contiguous copy of `bytes` between the pool and pinned memory,
 * n times; or both ways at once. GB/s (10^9) of the median; 0: it failed. */
double kvh_way_link(struct kvh_pack_rig *rig, bool load, uint64_t bytes, uint32_t n);
double kvh_way_link_both(struct kvh_pack_rig *rig, uint64_t bytes, uint32_t n);
/* One half of the set's chunks is stored while the other half is loaded. GB/s in
 * total of the median; 0: it failed. */
double kvh_way_both(struct kvh_pack_set *set, uint32_t n, bool *right_p);

#ifdef __cplusplus
}
#endif
#endif
