/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_band.h - which units a stage holds, and where they lie in it and in
 * payloads. Arithmetic over plans, on the thread that enqueues; no memory of its own.
 */
#ifndef KVH_CUDA_MOVER_BAND_H
#define KVH_CUDA_MOVER_BAND_H

#include "cuda/mover.h"
#include "cuda/mover_batch.h"
#include "cuda/pack.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What of a chunk a load moves. */
enum kvh_present { KVH_PRESENT_NONE, KVH_PRESENT_SOME, KVH_PRESENT_ALL };

/* The units of one layer, or of all, of every chunk of a part. */
struct kvh_band {
	const struct kvh_move_part *part;
	const struct kvh_plan *plan;
	uint32_t plane_first, plane_end;
	uint64_t lo;    /* of the band in a payload */
	uint64_t bytes; /* of the band, a chunk */
	uint64_t units; /* a chunk */
	uint64_t total; /* units of all chunks */
};

void kvh_band_init(struct kvh_band *band, const struct kvh_move_part *part,
		   uint32_t plane_first, uint32_t plane_end);
uint64_t kvh_band_position(const struct kvh_band *band, uint64_t unit);
/* The end of the longest sequence from `first` that fits in `room` bytes; at
 * least one unit has to. */
uint64_t kvh_band_cut(const struct kvh_band *band, uint64_t first, uint64_t room);
/* The first unit >= `unit` whose chunk has pages; present may be NULL: all. */
uint64_t kvh_band_skip(const struct kvh_band *band, const unsigned char *present,
		       uint64_t unit);
/* Copies between the units [first, end) at `stage` and the payloads. */
int kvh_band_copy(const struct kvh_band *band, const unsigned char *present, uint64_t first,
		  uint64_t end, unsigned char *stage, struct kvh_device *dev,
		  struct kvh_batch *batch);
/* What gather and scatter need to know. */
void kvh_band_pack(const struct kvh_band *band, uint64_t first, uint64_t end,
		   const uint32_t *dev_pages, unsigned char *stage, struct kvh_pack *pack);

#ifdef __cplusplus
}
#endif
#endif
