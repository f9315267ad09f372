/* SPDX-License-Identifier: Apache-2.0 */
/*
 * erase.c - the erase controller: a DELETE of every key on every adapter. The
 * controller's thread. PUTs of these keys that are out or in backoff go first:
 * the adapters' queues keep the order of writes to one key.
 */
#include "host/controller_impl.h"
#include "host/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct delete_task {
	struct kvh_l2_task task;
	struct delete_batch *batch;
	uint32_t adapter, index;
	bool answered;
};

/* The tasks of one erase: outlives it where an adapter does not answer. */
struct delete_batch {
	struct kvh_erase *erase; /* NULL: has ended */
	struct kvh_controller *c;
	uint64_t out; /* tasks not given back */
	struct delete_task tasks[];
};

static void batch_put(struct delete_batch *batch)
{
	if (--batch->out == 0)
		free(batch);
}

static void erase_ended(struct kvh_erase *e)
{
	e->controller->erases--;
	e->ended(e);
}

static void delete_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	struct delete_task *t = (struct delete_task *)task;
	struct delete_batch *batch = t->batch;
	struct kvh_erase *e = batch->erase;
	struct kvh_adapter_counters *n = kvh_adapter_counters(batch->c->adapters[t->adapter]);

	kvh_count(&n->deletes, 1);
	kvh_count(&n->delete_failed, status != 0 && status != -ENOENT);
	t->answered = true;
	if (e != NULL) {
		if (status != -ENOENT && (status != 0 || e->status[t->index] == -ENOENT))
			e->status[t->index] = status;
		if (--e->pending == 0) {
			batch->erase = NULL;
			erase_ended(e);
		}
	}
	if (buffer_free)
		batch_put(batch);
}

static void delete_returned(struct kvh_l2_task *task)
{
	batch_put(((struct delete_task *)task)->batch);
}

static void erase_start(struct kvh_loop_work *work)
{
	struct kvh_erase *e = (struct kvh_erase *)((char *)work -
						   offsetof(struct kvh_erase, start));
	struct kvh_controller *c = e->controller;
	uint64_t n = (uint64_t)e->n * c->n_adapters;
	struct delete_batch *batch = NULL;

	c->erases++;
	if (n > 0 && !c->stopping)
		batch = calloc(1, sizeof(*batch) + n * sizeof(batch->tasks[0]));
	if (batch == NULL) {
		for (uint32_t i = 0; i < e->n && n > 0; i++)
			e->status[i] = c->stopping ? -ECANCELED : -ENOMEM;
		erase_ended(e);
		return;
	}
	batch->erase = e;
	e->batch = batch;
	batch->c = c;
	batch->out = n;
	e->pending = n;
	for (uint64_t i = 0; i < n; i++) {
		struct delete_task *t = &batch->tasks[i];

		t->batch = batch;
		t->adapter = (uint32_t)(i % c->n_adapters);
		t->index = (uint32_t)(i / c->n_adapters);
		t->task.req.op = KVH_L2_DELETE;
		t->task.req.key = e->keys[t->index];
		t->task.ended = delete_ended;
		t->task.returned = delete_returned;
		kvh_adapter_submit(c->adapters[t->adapter], &t->task);
	}
}

void kvh_erase_cancel(struct kvh_erase *e)
{
	struct delete_batch *batch = e->batch;
	uint64_t n = (uint64_t)e->n * e->controller->n_adapters;

	for (uint64_t i = 0; i < n; i++)
		if (!batch->tasks[i].answered)
			e->status[batch->tasks[i].index] = -ECANCELED;
	batch->erase = NULL; /* the deletes themselves go on */
	erase_ended(e);
}

void kvh_controller_erase(struct kvh_controller *c, struct kvh_erase *e)
{
	e->controller = c;
	e->start.run = erase_start;
	kvh_loop_post(c->loop, &e->start);
}
