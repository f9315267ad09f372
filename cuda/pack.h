/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack.h - gather (pages to stage) and scatter (stage to pages).
 *
 * A stage holds whole units back to back. Which ones: a band of planes
 * [plane_first, plane_end) of every chunk, in the order chunk, plane, page
 * (page fastest); from that sequence the units [unit_first, unit_first +
 * n_units). So the place of a unit follows from its number, and no list of
 * fragments is ever made:
 *
 *   position(chunk, plane, page) = chunk * band_bytes
 *           + planes[plane].payload_off - planes[plane_first].payload_off
 *           + page * planes[plane].unit_bytes
 *   stage offset(u) = position(u) - position(unit_first)
 *
 * A unit whose page is KVH_PAGE_NONE keeps its place in the stage and is not
 * touched on either side.
 */
#ifndef KVH_CUDA_PACK_H
#define KVH_CUDA_PACK_H

#include "cuda/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_pack {
	const struct kvh_plan *plan; /* where the kernel can read it */
	const uint32_t *pages; /* [n_chunks * pages_per_chunk], where the kernel can read it */
	unsigned char *stage;  /* 16-byte aligned */
	uint32_t plane_first, plane_end;
	uint64_t unit_first, n_units;
	uint32_t ctas;     /* of a launch at most; 0: as many as there is work for */
	uint64_t unit_pos; /* position(unit_first): kvh_pack_position */
	/* The plan's, of the band, so that a launch needs no device memory: */
	uint64_t band_bytes; /* of one chunk's planes */
	uint32_t pages_per_chunk;
	/* The planes' narrowest and widest: 16, 8, 4, 2 or 1. Where they differ, each unit
	 * is moved as its own plane and its place in the stage allow. */
	uint32_t width, widest;
	uint64_t max_unit_bytes;
};

/* Fills the derived fields (unit_pos, band_bytes, pages_per_chunk, width, widest,
 * max_unit_bytes) from a plan that the host can read. */
void kvh_pack_prepare(struct kvh_pack *pack, const struct kvh_plan *host_plan);
/* position(u) in the band's sequence, for u in [0, units of the job]. */
uint64_t kvh_pack_position(const struct kvh_plan *plan, uint32_t plane_first,
			   uint32_t plane_end, uint64_t unit);

/* In plain C on host memory: what the kernels must do, and the host device's
 * implementation. -EINVAL bad shape. */
int kvh_gather_ref(const struct kvh_pack *pack);
int kvh_scatter_ref(const struct kvh_pack *pack);

/* Loads the kernels onto the GPU of the current context: left to its first launch,
 * loading may wait for all that runs there. -ENODEV no code for this GPU, -EIO */
int kvh_pack_load_cuda(void);
/* The kernels: enqueue on `stream` and return; they neither wait nor allocate.
 * -EINVAL bad shape, -EIO the launch failed. Built only with CUDA. */
int kvh_gather_cuda(const struct kvh_pack *pack, struct CUstream_st *stream);
int kvh_scatter_cuda(const struct kvh_pack *pack, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif
#endif
