/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cells.h - a stock of equal pieces of memory, so that nothing is allocated a
 * chunk: grown by slabs, given back at the end. One thread.
 *
 * What was given back longest ago is taken first: a stray completion of a request
 * that has ended then meets a cell that is idle, not one that is in use again.
 */
#ifndef KVH_HOST_CELLS_H
#define KVH_HOST_CELLS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_cell {
	struct kvh_cell *next;
};

/* used + idle == made */
struct kvh_cells {
	size_t bytes;                 /* of one, >= sizeof(struct kvh_cell) */
	uint32_t a_slab;              /* cells */
	struct kvh_cell *head, *tail; /* idle */
	void *slabs;
	uint64_t used, made;
};

void kvh_cells_init(struct kvh_cells *cells, size_t bytes, uint32_t a_slab);
/* All of it, also what is used: the caller knows that nobody looks. */
void kvh_cells_free(struct kvh_cells *cells);
void *kvh_cells_take(struct kvh_cells *cells); /* not zeroed; NULL: no memory */
void kvh_cells_give(struct kvh_cells *cells, void *cell);

#ifdef __cplusplus
}
#endif
#endif
