/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cells.c - slabs cut into cells, and a list of the idle ones. One thread.
 */
#include "host/cells.h"

#include <assert.h>
#include <stdlib.h>

#define LINE 64u /* a cell is whole cache lines, so that none is shared */

struct slab {
	struct slab *next;
	char pad[LINE - sizeof(struct slab *)];
};

void kvh_cells_init(struct kvh_cells *cells, size_t bytes, uint32_t a_slab)
{
	*cells = (struct kvh_cells){
		.bytes = (bytes + LINE - 1) / LINE * LINE,
		.a_slab = a_slab,
	};
}

void kvh_cells_free(struct kvh_cells *cells)
{
	struct slab *slab = cells->slabs, *next;

	for (; slab != NULL; slab = next) {
		next = slab->next;
		free(slab);
	}
	cells->slabs = NULL;
	cells->head = cells->tail = NULL;
	cells->used = cells->made = 0;
}

static void add_idle(struct kvh_cells *cells, struct kvh_cell *cell)
{
	cell->next = NULL;
	if (cells->tail != NULL)
		cells->tail->next = cell;
	else
		cells->head = cell;
	cells->tail = cell;
}

static void grow(struct kvh_cells *cells)
{
	size_t bytes = sizeof(struct slab) + cells->bytes * cells->a_slab;
	struct slab *slab = aligned_alloc(LINE, bytes);

	if (slab == NULL)
		return;
	slab->next = cells->slabs;
	cells->slabs = slab;
	for (uint32_t i = 0; i < cells->a_slab; i++)
		add_idle(cells,
			 (struct kvh_cell *)((char *)slab + sizeof(*slab) + i * cells->bytes));
	cells->made += cells->a_slab;
}

void *kvh_cells_take(struct kvh_cells *cells)
{
	struct kvh_cell *cell;

	if (cells->head == NULL)
		grow(cells);
	cell = cells->head;
	if (cell == NULL)
		return NULL;
	cells->head = cell->next;
	if (cells->head == NULL)
		cells->tail = NULL;
	cells->used++;
	return cell;
}

void kvh_cells_give(struct kvh_cells *cells, void *cell)
{
	assert(cells->used > 0);
	cells->used--;
	add_idle(cells, cell);
}
