/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack.c - gather and scatter in plain C: what the kernels must do, and what
 * the host device does. Runs on whatever thread calls; touches only the pages
 * and the stage of the pack.
 */
#include "cuda/pack.h"

#include "cuda/pack_address.h"

#include <assert.h>
#include <string.h>

static uint64_t band_bytes(const struct kvh_plan *plan, uint32_t plane_first,
			   uint32_t plane_end)
{
	const uint64_t end = plane_end < plan->n_planes ? plan->planes[plane_end].payload_off
							: plan->payload_bytes;

	return end - plan->planes[plane_first].payload_off;
}

uint64_t kvh_pack_position(const struct kvh_plan *plan, uint32_t plane_first,
			   uint32_t plane_end, uint64_t unit)
{
	const struct kvh_pack_unit at = kvh_pack_unit_at(unit, plane_first, plane_end,
							 plan->pages_per_chunk);

	assert(plane_first < plane_end && plane_end <= plan->n_planes);
	return kvh_pack_unit_pos(plan, at, plane_first,
				 band_bytes(plan, plane_first, plane_end));
}

/* What the units of the band have in common. */
static void band_units(const struct kvh_plan *plan, struct kvh_pack *pack)
{
	pack->width = 16;
	pack->widest = 1;
	pack->max_unit_bytes = 0;
	for (uint32_t i = pack->plane_first; i < pack->plane_end; i++) {
		const struct kvh_plan_plane *pp = &plan->planes[i];

		if (pp->width < pack->width)
			pack->width = pp->width;
		if (pp->width > pack->widest)
			pack->widest = pp->width;
		if (pp->unit_bytes > pack->max_unit_bytes)
			pack->max_unit_bytes = pp->unit_bytes;
	}
}

void kvh_pack_prepare(struct kvh_pack *pack, const struct kvh_plan *host_plan)
{
	pack->pages_per_chunk = host_plan->pages_per_chunk;
	band_units(host_plan, pack);
	pack->band_bytes = band_bytes(host_plan, pack->plane_first, pack->plane_end);
	pack->unit_pos = kvh_pack_position(host_plan, pack->plane_first, pack->plane_end,
					   pack->unit_first);
}

enum direction { GATHER, SCATTER };

static void unit_move(const struct kvh_pack_ends *ends, enum direction direction)
{
	const struct kvh_plan_plane *pp = ends->plane;

	for (uint64_t o = 0; o < pp->n_outer; o++) {
		for (uint64_t i = 0; i < pp->n_inner; i++) {
			unsigned char *page = ends->page + o * pp->page_outer +
					      i * pp->page_inner;
			unsigned char *stage = ends->stage + o * pp->unit_outer +
					       i * pp->unit_inner;

			if (direction == GATHER)
				memcpy(stage, page, pp->run_bytes);
			else
				memcpy(page, stage, pp->run_bytes);
		}
	}
}

/* More than a kernel can check: the plan is at hand here. */
static int ref_check(const struct kvh_pack *pack)
{
	const struct kvh_plan *plan = pack->plan;
	struct kvh_pack want = *pack;
	int err = kvh_pack_check(pack);

	if (err != 0)
		return err;
	if (pack->plane_end > plan->n_planes)
		return -EINVAL;
	band_units(plan, &want);
	if (pack->width > want.width || pack->widest > want.widest ||
	    pack->pages_per_chunk != plan->pages_per_chunk ||
	    pack->max_unit_bytes < want.max_unit_bytes ||
	    pack->band_bytes != band_bytes(plan, pack->plane_first, pack->plane_end) ||
	    pack->unit_pos != kvh_pack_position(plan, pack->plane_first, pack->plane_end,
						pack->unit_first))
		return -EINVAL;
	return 0;
}

static int move_ref(const struct kvh_pack *pack, enum direction direction)
{
	struct kvh_pack_ends ends;
	int err = ref_check(pack);

	if (err != 0)
		return err;
	for (uint64_t u = 0; u < pack->n_units; u++) {
		if (kvh_pack_ends_at(pack, u, &ends))
			unit_move(&ends, direction);
	}
	return 0;
}

int kvh_gather_ref(const struct kvh_pack *pack)
{
	return move_ref(pack, GATHER);
}

int kvh_scatter_ref(const struct kvh_pack *pack)
{
	return move_ref(pack, SCATTER);
}
