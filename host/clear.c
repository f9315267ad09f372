/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clear.c - the erase of a whole space. The controller's thread.
 *
 * As with single keys (erase.c): the adapters' queues let a CLEAR follow the
 * writes of its space that are before it and go before those behind it, reads that
 * are out are not published, and none begins until every adapter has answered.
 * There are few at a time, so a list will do.
 */
#include "host/clear.h"

#include "host/controller_impl.h"

#include <errno.h>
#include <stdlib.h>

/* The tasks of one: outlives it where an adapter does not answer. */
struct clear_batch {
	struct kvh_clear *clear; /* NULL: has ended */
	struct kvh_controller *c;
	kvh_space_t space;
	int status;
	uint32_t pending, out;
	struct clear_batch *prev, *next;
	struct clear_task {
		struct kvh_l2_task task;
		struct clear_batch *batch;
		uint32_t adapter;
	} tasks[KVH_ADAPTERS_MAX];
};

static void batch_free(struct clear_batch *batch)
{
	if (batch->prev != NULL)
		batch->prev->next = batch->next;
	else
		batch->c->clears = batch->next;
	if (batch->next != NULL)
		batch->next->prev = batch->prev;
	free(batch);
}

static void batch_put(struct clear_batch *batch)
{
	if (--batch->out == 0)
		batch_free(batch);
}

bool kvh_clear_pending(const struct kvh_controller *c, kvh_space_t space)
{
	for (const struct clear_batch *batch = c->clears; batch != NULL; batch = batch->next)
		if (batch->space == space)
			return true;
	return false;
}

static void task_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	struct clear_task *t = (struct clear_task *)task;
	struct clear_batch *batch = t->batch;
	struct kvh_adapter_counters *n = kvh_adapter_counters(batch->c->adapters[t->adapter]);

	kvh_count(&n->deletes, 1);
	kvh_count(&n->delete_failed, status != 0);
	/* That one cannot is said where nothing worse is to be. */
	if (batch->status == 0 || (batch->status == -EOPNOTSUPP && status != 0))
		batch->status = status;
	if (--batch->pending == 0 && batch->clear != NULL) {
		struct kvh_clear *clear = batch->clear;

		batch->clear = NULL;
		clear->ended(clear, batch->status);
	}
	if (buffer_free)
		batch_put(batch);
}

static void task_returned(struct kvh_l2_task *task)
{
	batch_put(((struct clear_task *)task)->batch);
}

static void submit(struct clear_batch *batch, uint32_t adapter)
{
	struct clear_task *t = &batch->tasks[batch->out++];

	t->batch = batch;
	t->adapter = adapter;
	t->task.req.op = KVH_L2_CLEAR;
	t->task.req.key.space = batch->space;
	t->task.ended = task_ended;
	t->task.returned = task_returned;
	kvh_adapter_submit(batch->c->adapters[adapter], &t->task);
}

static struct clear_batch *batch_make(struct kvh_controller *c, struct kvh_clear *clear)
{
	struct clear_batch *batch = calloc(1, sizeof(*batch));

	if (batch == NULL)
		return NULL;
	batch->c = c;
	batch->clear = clear;
	batch->space = clear->space;
	batch->next = c->clears;
	if (batch->next != NULL)
		batch->next->prev = batch;
	c->clears = batch;
	for (uint32_t left = c->adapter_bits; left != 0; left &= left - 1) {
		uint32_t a = (uint32_t)__builtin_ctz(left);
		const struct kvh_l2_caps *caps = kvh_adapter_caps(c->adapters[a]);

		if (caps->clear)
			submit(batch, a);
		else if (!caps->discards)
			batch->status = -EOPNOTSUPP;
	}
	batch->pending = batch->out;
	return batch;
}

static void clear_start(struct kvh_loop_work *work)
{
	struct kvh_clear *clear = (struct kvh_clear *)((char *)work -
						       offsetof(struct kvh_clear, start));
	struct kvh_controller *c = clear->controller;
	struct clear_batch *batch;
	int status;

	kvh_fetch_erase_space(c, clear->space);
	kvh_store_erased(c);
	batch = c->stopping ? NULL : batch_make(c, clear);
	clear->batch = batch;
	if (batch == NULL) {
		clear->ended(clear, c->stopping ? -ECANCELED : -ENOMEM);
	} else if (batch->out == 0) {
		status = batch->status;
		batch_free(batch);
		clear->ended(clear, status);
	}
}

void kvh_clear_cancel(struct kvh_clear *clear)
{
	clear->batch->clear = NULL;
	clear->ended(clear, -ECANCELED);
}

void kvh_controller_clear(struct kvh_controller *c, struct kvh_clear *clear)
{
	kvh_space_t space = clear->space; /* clear may end */

	clear->controller = c;
	clear->batch = NULL;
	clear->start.run = clear_start;
	kvh_loop_post(c->loop, &clear->start);
	/* Again: a read that began after the first time may be through already. One that
	 * begins after this finds the CLEAR posted before its end. */
	(void)kvh_l1_erase_space(c->opts.l1, space);
}
