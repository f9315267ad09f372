/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_band.c - which units lie in a stage, and the pieces of payloads that they
 * are. Arithmetic over plans; the caller's thread, no lock, no memory.
 *
 * A chunk's band is one piece of its payload and one piece of the stage; only
 * chunks with absent pages have more.
 */
#include "cuda/mover_band.h"

#include <assert.h>

void kvh_band_init(struct kvh_band *band, const struct kvh_move_part *part,
		   uint32_t plane_first, uint32_t plane_end)
{
	const struct kvh_plan *plan = part->plan->plan;
	const struct kvh_plan_plane *last = &plan->planes[plane_end - 1];

	assert(plane_first < plane_end && plane_end <= plan->n_planes);
	band->part = part;
	band->plan = plan;
	band->plane_first = plane_first;
	band->plane_end = plane_end;
	band->lo = plan->planes[plane_first].payload_off;
	band->bytes = last->payload_off + last->unit_bytes * plan->pages_per_chunk - band->lo;
	band->units = (uint64_t)(plane_end - plane_first) * plan->pages_per_chunk;
	band->total = band->units * part->n;
}

uint64_t kvh_band_position(const struct kvh_band *band, uint64_t unit)
{
	return kvh_pack_position(band->plan, band->plane_first, band->plane_end, unit);
}

uint64_t kvh_band_cut(const struct kvh_band *band, uint64_t first, uint64_t room)
{
	uint64_t limit = kvh_band_position(band, first) + room;
	uint64_t lo = first + 1, hi = band->total;

	assert(first < band->total && kvh_band_position(band, lo) <= limit);
	if (kvh_band_position(band, hi) <= limit)
		return hi;
	while (lo + 1 < hi) { /* lo fits, hi does not */
		uint64_t mid = lo + (hi - lo) / 2;

		if (kvh_band_position(band, mid) <= limit)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

uint64_t kvh_band_skip(const struct kvh_band *band, const unsigned char *present, uint64_t unit)
{
	uint64_t chunk = unit / band->units;

	if (!present || chunk >= band->part->n || present[chunk] != KVH_PRESENT_NONE)
		return unit;
	while (chunk < band->part->n && present[chunk] == KVH_PRESENT_NONE)
		chunk++;
	return chunk * band->units;
}

/* The present units of a chunk in [first, end), whose positions start at `base`
 * of the stage: runs of pages grow together in the batch. */
static int copy_units(const struct kvh_band *band, uint64_t chunk, uint64_t first, uint64_t end,
		      unsigned char *stage, uint64_t base, struct kvh_device *dev,
		      struct kvh_batch *batch)
{
	uint32_t ppc = band->plan->pages_per_chunk;
	const uint32_t *pages = band->part->pages + chunk * ppc;
	unsigned char *payload = band->part->payloads[chunk];
	int rc = 0;

	for (uint64_t u = first; u < end && rc == 0; u++) {
		uint64_t in_chunk = u - chunk * band->units;
		const struct kvh_plan_plane *plane =
			&band->plan->planes[band->plane_first + in_chunk / ppc];
		uint64_t page = in_chunk % ppc;
		uint64_t off = plane->payload_off + page * plane->unit_bytes;

		if (pages[page] != KVH_PAGE_NONE)
			rc = kvh_batch_add(
				dev, batch, payload + off,
				stage + (chunk * band->bytes + off - band->lo - base),
				plane->unit_bytes);
	}
	return rc;
}

static int copy_chunk(const struct kvh_band *band, uint64_t chunk, uint64_t first, uint64_t end,
		      unsigned char *stage, uint64_t base, struct kvh_device *dev,
		      struct kvh_batch *batch)
{
	uint64_t from = kvh_band_position(band, first), to = kvh_band_position(band, end);
	unsigned char *payload = band->part->payloads[chunk];

	return kvh_batch_add(dev, batch, payload + band->lo + (from - chunk * band->bytes),
			     stage + (from - base), to - from);
}

int kvh_band_copy(const struct kvh_band *band, const unsigned char *present, uint64_t first,
		  uint64_t end, unsigned char *stage, struct kvh_device *dev,
		  struct kvh_batch *batch)
{
	uint64_t base = kvh_band_position(band, first);
	int rc = 0;

	batch->n = 0;
	for (uint64_t u = first; u < end && rc == 0;) {
		uint64_t chunk = u / band->units;
		uint64_t chunk_end = (chunk + 1) * band->units;
		uint64_t to = chunk_end < end ? chunk_end : end;

		if (!present || present[chunk] == KVH_PRESENT_ALL)
			rc = copy_chunk(band, chunk, u, to, stage, base, dev, batch);
		else if (present[chunk] == KVH_PRESENT_SOME)
			rc = copy_units(band, chunk, u, to, stage, base, dev, batch);
		u = to;
	}
	return rc ? rc : kvh_batch_flush(dev, batch);
}

void kvh_band_pack(const struct kvh_band *band, uint64_t first, uint64_t end,
		   const uint32_t *dev_pages, unsigned char *stage, struct kvh_pack *pack)
{
	*pack = (struct kvh_pack){
		.plan = band->part->plan->dev_plan,
		.pages = dev_pages,
		.stage = stage,
		.plane_first = band->plane_first,
		.plane_end = band->plane_end,
		.unit_first = first,
		.n_units = end - first,
	};
	kvh_pack_prepare(pack, band->plan);
}
