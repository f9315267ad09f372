/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_batch.h - the copies between payloads and a stage, or pages, as few as there
 * can be. The thread that enqueues, under its lane's lock; no memory of its own.
 */
#ifndef KVH_CUDA_MOVER_BATCH_H
#define KVH_CUDA_MOVER_BATCH_H

#include "cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_MOVER_BATCH 512u /* copies in one submission */
/* Rows shorter than this go as one 2-D copy where they lie at one stride: on an H100
 * a batch of copies reached 83 % of the link with rows of 128 KiB, 95 % with 512 KiB
 * and 99 % with 2 MiB, a 2-D copy mostly all of it. */
#define KVH_MOVER_ROWS_BELOW (UINT64_C(2) << 20)

/* Fewer rows go as copies of the batch: of 32 KiB, these reached 59 % of the link there,
 * and 11 - 19 % as calls of their own. */
#define KVH_MOVER_ROWS_MIN 4u

/* Rows of the same length, each at a stride from the one before on either side. */
struct kvh_batch_piece {
	unsigned char *payload, *mem; /* mem: of the device, a stage's or a page's */
	uint64_t bytes;               /* of a row */
	uint64_t rows;                /* >= 1; strides mean something from 2 on */
	uint64_t payload_stride, mem_stride;
};

struct kvh_batch {
	enum kvh_copy_kind kind; /* D2H or H2D */
	kvh_stream stream;
	/* Payloads lie in registrations, each within `pinned_stride` bytes from a multiple
	 * of it after pinned_base on: no 2-D copy reaches into the next. 0: all in one. */
	uintptr_t pinned_base;
	uint64_t pinned_stride;
	bool sealed; /* the last piece takes nothing more */
	size_t n;
	struct kvh_batch_piece pieces[KVH_MOVER_BATCH];
	struct kvh_copy copies[KVH_MOVER_BATCH]; /* of a flush */
};

/* Adds a piece; submits when there is no room for it. Errors as of the device's
 * copies: what was added since the last flush is dropped. */
int kvh_batch_add(struct kvh_device *dev, struct kvh_batch *batch, unsigned char *payload,
		  unsigned char *mem, uint64_t bytes);
/* The same of rows whose strides are at least their length and at most INT_MAX,
 * which is what a 2-D copy takes. */
int kvh_batch_add_rows(struct kvh_device *dev, struct kvh_batch *batch,
		       const struct kvh_batch_piece *piece);
/* What comes next is not joined to what there is: it lies in another allocation. */
static inline void kvh_batch_seal(struct kvh_batch *batch)
{
	batch->sealed = true;
}
/* Submits all there are, in any order: they do not overlap. */
int kvh_batch_flush(struct kvh_device *dev, struct kvh_batch *batch);

#ifdef __cplusplus
}
#endif
#endif
