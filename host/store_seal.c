/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_seal.c - frames get their checksums from the workers before their first
 * PUT: small ones many at a time, since handing over costs more than a small
 * checksum. The controller's thread, but for seal_run (a worker).
 *
 *   batch: open on c->sealing --full, or the round's end--> worker --> loop --> freed
 */
#include "host/frame.h"
#include "host/store_impl.h"

#define BATCH_ITEMS 32u
#define BATCH_BYTES (UINT64_C(1) << 20) /* 80 us of a core; one large frame is alone */

struct kvh_seal {
	struct kvh_work work;
	struct kvh_loop_work sealed;
	struct kvh_controller *c;
	struct kvh_store_item *head, **tail;
	uint32_t n;
	uint64_t bytes;
};

const size_t kvh_seal_size = sizeof(struct kvh_seal);

/* Worker. */
static void seal_run(struct kvh_work *work)
{
	struct kvh_seal *seal = (struct kvh_seal *)work;

	for (struct kvh_store_item *item = seal->head; item != NULL; item = item->batch)
		kvh_frame_seal(item->data);
	kvh_loop_post(seal->c->loop, &seal->sealed);
}

/* Loop. Some of them may have been erased, or we may be closing. */
static void seal_done(struct kvh_loop_work *work)
{
	struct kvh_seal *seal = (struct kvh_seal *)((char *)work -
						    offsetof(struct kvh_seal, sealed));
	struct kvh_store_item *item = seal->head, *next;
	struct kvh_controller *c = seal->c;

	kvh_cells_give(&c->seals, seal);
	for (; item != NULL; item = next) {
		next = item->batch;
		kvh_puts_submit(item); /* may free it */
	}
}

static struct kvh_seal *seal_open(struct kvh_controller *c)
{
	struct kvh_seal *seal = kvh_cells_take(&c->seals);

	if (seal == NULL)
		return NULL;
	*seal = (struct kvh_seal){
		.work = {.run = seal_run},
		.sealed = {.run = seal_done},
		.c = c,
	};
	seal->tail = &seal->head;
	c->sealing = seal;
	return seal;
}

void kvh_seal_post(struct kvh_controller *c)
{
	struct kvh_seal *seal = c->sealing;

	c->sealing = NULL;
	if (seal != NULL)
		kvh_workers_post(c->workers, &seal->work);
}

void kvh_seal_add(struct kvh_store_item *item)
{
	struct kvh_controller *c = item->c;
	struct kvh_seal *seal = c->sealing != NULL ? c->sealing : seal_open(c);

	if (seal == NULL) { /* no memory: here and now, rather than not at all */
		kvh_frame_seal(item->data);
		kvh_puts_submit(item);
		return;
	}
	item->batch = NULL;
	*seal->tail = item;
	seal->tail = &item->batch;
	seal->bytes += item->bytes;
	if (++seal->n >= BATCH_ITEMS || seal->bytes >= BATCH_BYTES)
		kvh_seal_post(c);
}
