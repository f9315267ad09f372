/* SPDX-License-Identifier: Apache-2.0 */
/*
 * erase.c - the erase controller: a DELETE of every key on every adapter. The
 * controller's thread.
 *
 * An erased key does not come back. PUTs of it that are queued or out go first,
 * as the adapters' queues keep the order of writes to one key; those in backoff
 * are dropped. Reads that are out are not published, and none begins until every
 * adapter has answered.
 */
#include "host/controller_impl.h"

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
	struct delete_batch *prev, *next;
	uint32_t n;   /* keys; tasks[i] is of key i / n_adapters */
	uint64_t out; /* tasks not given back */
	struct delete_task tasks[];
};

static struct delete_batch *batch_make(struct kvh_controller *c, struct kvh_erase *e)
{
	uint64_t n_tasks = (uint64_t)e->n * c->n_adapters;
	struct delete_batch *batch = calloc(1,
					    sizeof(*batch) + n_tasks * sizeof(batch->tasks[0]));

	if (batch == NULL)
		return NULL;
	batch->c = c;
	batch->erase = e;
	batch->n = e->n;
	batch->out = n_tasks;
	batch->next = c->deletes;
	if (batch->next != NULL)
		batch->next->prev = batch;
	c->deletes = batch;
	return batch;
}

static void batch_put(struct delete_batch *batch)
{
	if (--batch->out > 0)
		return;
	if (batch->prev != NULL)
		batch->prev->next = batch->next;
	else
		batch->c->deletes = batch->next;
	if (batch->next != NULL)
		batch->next->prev = batch->prev;
	free(batch);
}

bool kvh_erase_pending(const struct kvh_controller *c, const struct kvh_key *key)
{
	for (const struct delete_batch *batch = c->deletes; batch != NULL; batch = batch->next)
		for (uint32_t i = 0; i < batch->n; i++)
			if (memcmp(&batch->tasks[(uint64_t)i * c->n_adapters].task.req.key, key,
				   sizeof(*key)) == 0)
				return true;
	return false;
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
			e->ended(e);
		}
	}
	if (buffer_free)
		batch_put(batch);
}

static void delete_returned(struct kvh_l2_task *task)
{
	batch_put(((struct delete_task *)task)->batch);
}

static void delete_submit(struct delete_batch *batch, uint64_t i, const struct kvh_key *key)
{
	struct kvh_controller *c = batch->c;
	struct delete_task *t = &batch->tasks[i];

	t->batch = batch;
	t->adapter = (uint32_t)(i % c->n_adapters);
	t->index = (uint32_t)(i / c->n_adapters);
	t->task.req.op = KVH_L2_DELETE;
	t->task.req.key = *key;
	t->task.ended = delete_ended;
	t->task.returned = delete_returned;
	kvh_adapter_submit(c->adapters[t->adapter], &t->task);
}

static void erase_start(struct kvh_loop_work *work)
{
	struct kvh_erase *e = (struct kvh_erase *)((char *)work -
						   offsetof(struct kvh_erase, start));
	struct kvh_controller *c = e->controller;
	uint64_t n = (uint64_t)e->n * c->n_adapters;

	kvh_fetch_erase(c, e->keys, e->n);
	kvh_store_erased(c);
	if (n > 0 && !c->stopping)
		e->batch = batch_make(c, e);
	if (e->batch == NULL) {
		for (uint32_t i = 0; i < e->n && n > 0; i++)
			e->status[i] = c->stopping ? -ECANCELED : -ENOMEM;
		e->ended(e);
		return;
	}
	e->pending = n;
	for (uint64_t i = 0; i < n; i++)
		delete_submit(e->batch, i, &e->keys[i / c->n_adapters]);
}

void kvh_erase_cancel(struct kvh_erase *e)
{
	struct delete_batch *batch = e->batch;
	uint64_t n = (uint64_t)e->n * e->controller->n_adapters;

	for (uint64_t i = 0; i < n; i++)
		if (!batch->tasks[i].answered)
			e->status[batch->tasks[i].index] = -ECANCELED;
	batch->erase = NULL; /* the deletes themselves go on */
	e->ended(e);
}

void kvh_controller_erase(struct kvh_controller *c, struct kvh_erase *e)
{
	e->controller = c;
	e->batch = NULL;
	e->start.run = erase_start;
	kvh_loop_post(c->loop, &e->start);
}
