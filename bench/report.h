/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.h - what a replay has counted and timed, as a table for people and as
 * JSON for programs. One thread.
 */
#ifndef KVH_BENCH_REPORT_H
#define KVH_BENCH_REPORT_H

#include "kvhoist.h"
#include "l2/size_text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_RESULT_L2_MAX 16u

struct kvh_samples {
	uint64_t *ns;
	size_t n, room;
};
/* False: no memory; the sample is lost. */
bool kvh_samples_add(struct kvh_samples *samples, uint64_t ns);
/* The smallest sample that is not below `percent` of them; 0 without samples. */
uint64_t kvh_samples_percentile(struct kvh_samples *samples, double percent);

enum kvh_stage {
	KVH_STAGE_LOOKUP,
	KVH_STAGE_PREFETCH, /* bytes: read from L2 */
	KVH_STAGE_LOAD,     /* call to terminal event; bytes: L1 to pages */
	KVH_STAGE_CHECK,    /* the runtime reads pages */
	KVH_STAGE_FILL,     /* the runtime writes pages */
	KVH_STAGE_STORE,    /* call to terminal event; bytes: pages to L1 */
	KVH_STAGES
};
const char *kvh_stage_name(enum kvh_stage stage);

struct kvh_stage_total {
	uint64_t bytes;
	uint64_t ns;             /* of all samples */
	struct kvh_samples each; /* a request */
};

/* Zero is a valid empty result. */
struct kvh_result {
	uint64_t requests, block_references, distinct_blocks;
	uint64_t prefix_hits; /* blocks of usable prefixes, as prefetch found them */
	/* Chunks, here as in the engine: a block has one for each group. */
	uint64_t chunks_verified, mismatches;
	uint64_t store_exists, store_no_memory, store_failed;
	uint64_t prefetch_short; /* prefetches that ended for want of L1 */
	uint64_t late;           /* paced: requests that began after their time */
	uint64_t wall_ns;
	struct kvh_stage_total stages[KVH_STAGES];
	/* GB/s (10^9) of one contiguous copy, D2H and H2D: the most that stores and loads
	 * can reach. 0: not measured. */
	double link_store, link_load;
	uint64_t engines;         /* opened and closed */
	struct kvh_status engine; /* counters of all; what is now, of the last */
	uint32_t n_l2;
	struct kvh_l2_status l2[KVH_RESULT_L2_MAX];
};
void kvh_result_free(struct kvh_result *result);
void kvh_result_stage(struct kvh_result *result, enum kvh_stage stage, uint64_t bytes,
		      uint64_t ns);
/* Adds what an engine has counted in its life. */
void kvh_result_engine(struct kvh_result *result, struct kvh_engine *engine);

/* What was replayed, for the report's head. */
struct kvh_report_head {
	const char *model; /* kvh_geometry_describe */
	const char *model_name;
	const char *trace;
	const char *device;
	double scale;
	uint64_t token_bytes, block_bytes; /* of all groups */
	uint64_t l1_bytes;
};

void kvh_report_head_print(FILE *out, const struct kvh_report_head *head);
void kvh_report_table(FILE *out, struct kvh_result *result);
/* One object and a newline. 0 or -ENOMEM. */
int kvh_report_json(FILE *out, const struct kvh_report_head *head, struct kvh_result *result);

/* "850 ns", "1.20 ms". `text` has room for 24. */
const char *kvh_format_ns(uint64_t ns, char *text);

#ifdef __cplusplus
}
#endif
#endif
