/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout.h - planes to plan: where the bytes of a page lie, and where they go
 * in a chunk's payload. Plain C, no device, no allocation of the pool's.
 *
 * Payload of a chunk, of n planes with P pages a chunk:
 *
 *   | plane 0: page 0 | page 1 | .. | page P-1 | plane 1: page 0 | ..
 *              `- unit
 *
 * A unit is what one page contributes of one plane. Inside a unit, native
 * format keeps the page's order with gaps left out; portable is token-major,
 * heads in order. Either way a unit is n_outer x n_inner runs:
 *
 *   for o in [0, n_outer) for i in [0, n_inner):
 *     unit + o*unit_outer + i*unit_inner  <->
 *     base + page*page_stride + o*page_outer + i*page_inner   (run_bytes)
 *
 * in the unit's own order and without gaps: unit_inner is run_bytes, unit_outer
 * n_inner*run_bytes (a stride of one step is 0).
 */
#ifndef KVH_CUDA_LAYOUT_H
#define KVH_CUDA_LAYOUT_H

#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A page's bytes of one plane: so a stage holds them, and 32 bits count them. */
#define KVH_UNIT_MAX (UINT64_C(1) << 30)

struct kvh_plan_plane {
	uint64_t base; /* address of page 0's first run */
	uint64_t page_stride;
	uint64_t payload_off; /* of the plane's first unit in a chunk's payload */
	uint64_t unit_bytes;  /* == run_bytes * n_inner * n_outer */
	uint64_t run_bytes;   /* merged as far as both sides allow */
	uint64_t page_inner, page_outer;
	uint64_t unit_inner, unit_outer;
	uint32_t n_inner, n_outer; /* >= 1; n_outer 1 where one loop is enough */
	uint32_t layer;
	uint32_t width; /* widest legal access to its pages in bytes: 16, 8, 4, 2 or 1 */
	uint32_t alloc; /* that it lies in: no copy of rows goes from one to another */
	uint32_t reserved;
};

/* One allocation, position-independent but for `base`: it is copied to the
 * device as it is. */
struct kvh_plan {
	uint64_t bytes;         /* of the plan itself, planes included */
	uint64_t payload_bytes; /* of a chunk */
	uint64_t max_unit_bytes;
	uint32_t pages_per_chunk;
	uint32_t n_pages; /* of the pool's group; page numbers are below it */
	uint32_t n_planes;
	uint32_t width; /* the narrowest of the planes' */
	struct kvh_plan_plane planes[];
};

/* Geometry that needs no pool. Both return a negative errno for a bad shape. */
int64_t kvh_shape_unit_bytes(const struct kvh_plane_shape *shape, uint32_t page_tokens);
/* Pages a chunk: chunk_tokens / page_tokens, or 1 for a state group. */
int64_t kvh_group_pages_per_chunk(const struct kvh_group_desc *group, uint32_t chunk_tokens);
int64_t kvh_group_payload_bytes(const struct kvh_group_desc *group, uint32_t chunk_tokens);
/* 0, or -EINVAL with a log line that names group, plane, field and value. */
int kvh_group_check(const struct kvh_group_desc *group, uint32_t index, uint32_t chunk_tokens);

/* Checks the planes of one group (n = group->n_planes) against shapes and
 * allocations, and makes the plan. `plane_base` is the index of planes[0] in
 * the pool, for messages. Free with kvh_plan_free.
 * -EINVAL: a plane leaves its allocation, planes overlap, a stride is too small
 *          or against the order of a native group, arithmetic overflows
 * -ENOMEM */
int kvh_plan_make(const struct kvh_group_desc *group, uint32_t chunk_tokens,
		  const struct kvh_alloc *allocs, uint32_t n_allocs,
		  const struct kvh_plane *planes, uint32_t plane_base, uint32_t n_pages,
		  struct kvh_plan **plan_p);
void kvh_plan_free(struct kvh_plan *plan);

/* How many planes have a layer below, which are the first ones: the planes of layers
 * [a, b) are those from below a on, up to below b. A layer is 32 bits, its end more. */
uint32_t kvh_plan_planes_below(const struct kvh_plan *plan, uint64_t layer_end);

#ifdef __cplusplus
}
#endif
#endif
