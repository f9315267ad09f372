/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_set.h - what `kvhoist-bench pack` moves: a pool of planes on a device, pages
 * of it, and frames in pinned memory, with bytes that follow from their places, so
 * that any way of moving them can be checked. One thread.
 *
 *   pool    n_planes tensors of n_pages x fragment bytes, one behind the other: the
 *           planes lie at one stride, which is what 2-D copies need
 *   chunk   pages_per_chunk pages of every plane; its payload is plane-major
 *   frame   a header page and the payload, side by side as the arena gives them
 *
 * A word of the pool is a function of its offset and of the set's generation: a
 * move of another page, or none at all, is seen.
 */
#ifndef KVH_BENCH_PACK_SET_H
#define KVH_BENCH_PACK_SET_H

#include "cuda/device.h"
#include "cuda/mover.h"
#include "host/arena.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_pages_order {
	KVH_PAGES_SHUFFLED,   /* drawn from the whole pool */
	KVH_PAGES_STRIDED,    /* every other page */
	KVH_PAGES_CONTIGUOUS, /* page after page */
	KVH_PAGES_ORDERS
};
const char *kvh_pages_order_name(enum kvh_pages_order order);

/* What stays from shape to shape. */
struct kvh_pack_rig {
	struct kvh_device *dev;
	struct kvh_mover *mover;
	struct kvh_arena *arena;
	unsigned char *pool; /* device memory */
	uint64_t pool_bytes;
	unsigned char *bounce; /* pinned, bounce_bytes: fills and reads the pool */
	uint64_t bounce_bytes;
	kvh_stream stream;
};

struct kvh_pack_shape {
	uint64_t fragment; /* bytes that a page has of a plane, a multiple of 8 */
	uint64_t payload;  /* of a chunk, at most; rounded down to whole fragments */
	uint64_t sample;   /* bytes that are moved at once, at most; one chunk at least */
	enum kvh_pages_order order;
	uint32_t layers; /* that the planes are of, in equal parts; 0: one */
};

/* n_chunks * payload_bytes == bytes */
struct kvh_pack_set {
	struct kvh_pack_rig *rig;
	struct kvh_plan *plan;
	struct kvh_mover_plan mplan;
	uint64_t fragment, plane_bytes; /* plane_bytes: from one plane to the next */
	uint64_t payload_bytes, bytes;
	uint32_t n_planes, pages_per_chunk, n_chunks, n_pages;
	uint32_t *pages;          /* [n_chunks * pages_per_chunk], none twice */
	uint8_t *page_generation; /* [n_pages] of the bytes that the pool's page must hold */
	uint32_t *dev_pages;      /* the same where the device reads it */
	void **frames;            /* [n_chunks] */
	void **payloads;          /* [n_chunks] */
	int32_t *status;          /* [n_chunks] */
	uint8_t generation;       /* the last one made */
};

/* "auto", "host", "cuda:N". Sizes 0: chosen for the device. The reason of a
 * failure was printed. -EINVAL, -ENODEV, -ENOMEM, -EIO */
int kvh_pack_rig_open(struct kvh_pack_rig *rig, const char *device, uint64_t pool_bytes,
		      uint64_t arena_bytes);
/* Zeroed or open: NULLs are passed over. */
void kvh_pack_rig_close(struct kvh_pack_rig *rig);
/* Waits for what the stream has, as the driver does: CUDA's spins. */
int kvh_pack_rig_wait(struct kvh_pack_rig *rig);

/* -ENOSPC: the shape does not fit the pool or the arena. Fills the whole pool. */
int kvh_pack_set_open(struct kvh_pack_rig *rig, const struct kvh_pack_shape *shape,
		      struct kvh_pack_set *set);
void kvh_pack_set_close(struct kvh_pack_set *set);

/* The pool's bytes from `offset` on, as they are in a generation: `bytes` is a multiple
 * of 8. The second says where `at` differs first, or `bytes`. */
void kvh_pack_bytes_fill(unsigned char *to, uint64_t offset, uint64_t bytes,
			 uint8_t generation);
uint64_t kvh_pack_bytes_compare(const unsigned char *at, uint64_t offset, uint64_t bytes,
				uint8_t generation);

/* Of the first n chunks. With `flat` the payloads are one behind the other there,
 * and not in frames. */

/* Payloads that hold nothing of the pool: before a store. */
void kvh_pack_frames_spoil(struct kvh_pack_set *set, unsigned char *flat, uint32_t n);
/* Whether they hold what the pages do; prints the first difference. */
bool kvh_pack_frames_check(const struct kvh_pack_set *set, unsigned char *flat, uint32_t n);
/* Makes them hold the next generation: after a load of them, their pages must, too. */
void kvh_pack_frames_next(struct kvh_pack_set *set, unsigned char *flat, uint32_t n);
/* Whether every page of the pool holds its generation, those that were loaded and
 * those that were to be left alone; prints the first difference. Waits. */
bool kvh_pack_pool_check(struct kvh_pack_set *set);

#ifdef __cplusplus
}
#endif
#endif
