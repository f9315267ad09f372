/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_address.h - where a unit lies, by its number: the arithmetic that twin
 * and kernels share. Inline, for C and for CUDA, on host and device; reads the
 * plan, writes nothing. Nothing is checked here: plan and pack were.
 */
#ifndef KVH_CUDA_PACK_ADDRESS_H
#define KVH_CUDA_PACK_ADDRESS_H

#include "cuda/pack.h"

#include <errno.h>

#ifdef __CUDACC__
#	define KVH_PACK_FN [[maybe_unused]] static __host__ __device__ __forceinline__
#else
#	define KVH_PACK_FN static inline
#endif

/* A unit: which plane, and which of its pages in which chunk. */
struct kvh_pack_unit {
	uint64_t chunk;
	uint32_t plane;
	uint32_t page; /* in the chunk, not in the pool */
};

KVH_PACK_FN struct kvh_pack_unit kvh_pack_unit_at(uint64_t unit, uint32_t plane_first,
						  uint32_t plane_end, uint32_t pages_per_chunk)
{
	const uint64_t per_chunk = (uint64_t)(plane_end - plane_first) * pages_per_chunk;
	const uint64_t chunk = unit / per_chunk;
	const uint64_t rest = unit - chunk * per_chunk;
	const uint64_t plane = rest / pages_per_chunk;
	struct kvh_pack_unit at;

	at.chunk = chunk;
	at.plane = plane_first + (uint32_t)plane;
	at.page = (uint32_t)(rest - plane * pages_per_chunk);
	return at;
}

/* Its first byte in the band's sequence of all chunks. */
KVH_PACK_FN uint64_t kvh_pack_unit_pos(const struct kvh_plan *plan, struct kvh_pack_unit at,
				       uint32_t plane_first, uint64_t band_bytes)
{
	return at.chunk * band_bytes + plan->planes[at.plane].payload_off -
	       plan->planes[plane_first].payload_off +
	       at.page * plan->planes[at.plane].unit_bytes;
}

/* Both ends of one unit's move. */
struct kvh_pack_ends {
	const struct kvh_plan_plane *plane;
	unsigned char *page;
	unsigned char *stage;
};

/* Unit `u` of the pack's, from 0. False: its page is none of the pool's, that
 * is KVH_PAGE_NONE; it is left out. */
KVH_PACK_FN bool kvh_pack_ends_at(const struct kvh_pack *pack, uint64_t u,
				  struct kvh_pack_ends *ends)
{
	const struct kvh_plan *plan = pack->plan;
	const struct kvh_pack_unit at = kvh_pack_unit_at(pack->unit_first + u,
							 pack->plane_first, pack->plane_end,
							 pack->pages_per_chunk);
	const uint32_t page = pack->pages[at.chunk * pack->pages_per_chunk + at.page];
	const uint64_t pos = kvh_pack_unit_pos(plan, at, pack->plane_first, pack->band_bytes);

	if (page >= plan->n_pages)
		return false;
	ends->plane = &plan->planes[at.plane];
	ends->page = (unsigned char *)(uintptr_t)(ends->plane->base +
						  page * ends->plane->page_stride);
	ends->stage = pack->stage + (pos - pack->unit_pos);
	return true;
}

/* What a pack must be for any implementation, as far as the host can see
 * without reading the plan. */
static inline int kvh_pack_check(const struct kvh_pack *pack)
{
	const uint32_t w = pack->width;

	if (pack->plan == NULL || pack->pages == NULL || pack->stage == NULL ||
	    (uintptr_t)pack->stage % 16 != 0)
		return -EINVAL;
	if (pack->plane_first >= pack->plane_end || pack->pages_per_chunk == 0)
		return -EINVAL;
	if (w == 0 || w > 16 || (w & (w - 1)) != 0)
		return -EINVAL;
	if (pack->widest < w || pack->widest > 16 || (pack->widest & (pack->widest - 1)) != 0)
		return -EINVAL;
	if (pack->max_unit_bytes == 0 || pack->band_bytes == 0 ||
	    (pack->band_bytes | pack->unit_pos | pack->max_unit_bytes) % w != 0)
		return -EINVAL;
	return 0;
}

#endif
