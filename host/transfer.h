/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer.h - what store and load jobs share: the body, and its way to the
 * mover. The user's thread up to the mover's call, the mover's thread from its
 * `done`.
 */
#ifndef KVH_HOST_TRANSFER_H
#define KVH_HOST_TRANSFER_H

#include "host/engine.h"

struct persisting;

/* One of a transfer's chunks, whatever group it is of. */
struct kvh_piece {
	struct kvh_key key;
	const struct kvh_hash *parent; /* store; the caller's, during the call */
	const uint32_t *pages;         /* the caller's, during the call */
	kvh_lease_t lease;             /* load */
	kvh_frame frame;
	uint32_t index; /* in the caller's array */
};

struct kvh_transfer {
	struct kvh_job *job;
	struct kvh_engine *engine;
	struct kvh_engine_device *device; /* the pool's; it stays when the pool goes */
	struct kvh_pool *pool;
	struct kvh_pool_user user;
	struct kvh_move move;
	struct kvh_move_part parts[KVH_GROUPS_MAX];
	bool is_load;
	bool moved; /* the mover is done with it; under the pool's lock. Then the pool
		     * may be gone. */
	uint32_t flags;
	int32_t *status;                    /* the caller's, or NULL */
	struct kvh_store_outcome *outcomes; /* the same; store */
	uint32_t n, n_moving;
	uint32_t n_ok;
	int first_error;
	struct persisting *persisting;
	struct kvh_piece *pieces; /* [n]; the first n_moving of them sorted by group */
	void **payloads;          /* [n_moving] */
	int32_t *results;         /* [n_moving] */
	uint32_t *pages;          /* of all that move, part after part */
};

static inline void kvh_transfer_status(struct kvh_transfer *t, uint32_t index, int status)
{
	if (t->status != NULL)
		t->status[index] = status;
}

/* Checks what every call checks first. The pool is to be put. */
int kvh_transfer_begin(struct kvh_queue *queue, kvh_pool_t pool_id, uint32_t flags,
		       uint32_t known, uint32_t n, struct kvh_pool **pool_p);
int kvh_transfer_order_point(const struct kvh_pool *pool, struct CUstream_st *stream,
			     struct CUevent_st *event);
/* NULL: no memory. */
struct kvh_transfer *kvh_transfer_make(struct kvh_queue *queue, struct kvh_pool *pool,
				       uint32_t n, bool is_load);
void kvh_transfer_free(struct kvh_transfer *t);
/* Makes the move's parts of the first n_moving pieces, and gives them to the
 * mover. It holds the pool from here until kvh_transfer_moved. */
int kvh_transfer_start(struct kvh_transfer *t, struct CUstream_st *stream,
		       struct CUevent_st *event);
/* What the mover says of a piece that it moved, as users are told: 0, -ECANCELED,
 * and -EIO for whatever the device refused. */
int kvh_transfer_result(const struct kvh_transfer *t, uint32_t i);
/* From `done`, for each piece that was moved well: of the engine, its space, its
 * device. */
void kvh_transfer_count(const struct kvh_transfer *t, uint32_t group);
/* From `done`: no transfer touches the pages any more. Before the end, so that
 * nothing but the body is left to whoever ends the job. */
void kvh_transfer_moved(struct kvh_transfer *t);
/* The terminal event; the user's thread may free t from here on. */
void kvh_transfer_end(struct kvh_transfer *t, int status);

#endif
