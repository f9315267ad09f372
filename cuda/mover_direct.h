/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_direct.h - payloads and pages without a stage in between: which copies these
 * are, and what they would be like. Arithmetic over plans and page numbers, on the
 * thread that enqueues; no memory of its own.
 */
#ifndef KVH_CUDA_MOVER_DIRECT_H
#define KVH_CUDA_MOVER_DIRECT_H

#include "cuda/mover_band.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What copies without a stage would be like. */
struct kvh_direct_shape {
	bool can;           /* every unit is one run */
	uint64_t row_bytes; /* mean of a page's units */
	uint64_t rows;      /* mean of a page's copies, rounded down */
	uint64_t copy_bytes;
};
/* Of one page in a band of all planes, or layer by layer. */
void kvh_direct_shape(const struct kvh_plan *plan, bool by_layer,
		      struct kvh_direct_shape *shape);
/* Copies between payloads and pages: the units [first, end) whose page is there. */
int kvh_direct_copy(const struct kvh_band *band, uint64_t first, uint64_t end,
		    struct kvh_device *dev, struct kvh_batch *batch);
/* mover_way.c. The way that such rates, of one shape, are for. */
enum kvh_mover_way kvh_way_of_rates(uint64_t staged_rate, uint64_t direct_rate);

#ifdef __cplusplus
}
#endif
#endif
