/* SPDX-License-Identifier: Apache-2.0 */
/*
 * erase.c - the erase controller: a DELETE of every key on every adapter. The
 * controller's thread.
 *
 * An erased key does not come back. PUTs of it that are queued or out go first,
 * as the adapters' queues keep the order of writes to one key; those in backoff
 * are dropped. Reads that are out are not published, and none begins until every
 * adapter has answered; one that cannot answer in time owes the DELETE, and the key
 * is not read before it was done.
 */
#include "host/controller_impl.h"

#include <errno.h>
#include <stdlib.h>

struct delete_key {
	struct kvh_keyset_node node; /* of c->erasing while out > 0 */
	struct delete_batch *batch;
	uint32_t out; /* adapters that have not given their task back */
};

struct delete_task {
	struct kvh_l2_task task;
	struct delete_key *key;
	uint32_t adapter;
	bool answered;
};

/* The tasks of one erase: outlives it where an adapter does not answer. */
struct delete_batch {
	struct kvh_erase *erase; /* NULL: has ended */
	struct kvh_controller *c;
	uint32_t n;                /* keys */
	uint32_t out;              /* keys whose out > 0 */
	uint32_t n_tasks;          /* of one key */
	struct delete_task *tasks; /* [n * n_tasks], a key's side by side */
	struct delete_key keys[];
};

static struct delete_batch *batch_make(struct kvh_controller *c, struct kvh_erase *e,
				       uint32_t n_tasks)
{
	size_t keys_bytes = e->n * sizeof(struct delete_key);
	struct delete_batch *batch = calloc(1, sizeof(*batch) + keys_bytes +
						       (size_t)e->n * n_tasks *
							       sizeof(struct delete_task));

	if (batch == NULL)
		return NULL;
	batch->c = c;
	batch->erase = e;
	batch->n = batch->out = e->n;
	batch->n_tasks = n_tasks;
	batch->tasks = (struct delete_task *)((char *)batch->keys + keys_bytes);
	for (uint32_t i = 0; i < e->n; i++) {
		batch->keys[i].node.key = e->keys[i];
		batch->keys[i].batch = batch;
		batch->keys[i].out = n_tasks;
		kvh_keyset_add(&c->erasing, &batch->keys[i].node);
	}
	return batch;
}

static void key_put(struct delete_key *key)
{
	struct delete_batch *batch = key->batch;

	if (--key->out > 0)
		return;
	kvh_keyset_remove(&batch->c->erasing, &key->node);
	if (--batch->out == 0)
		free(batch);
}

bool kvh_erase_pending(const struct kvh_controller *c, const struct kvh_key *key)
{
	return (c->erasing.n > 0 && kvh_keyset_has(&c->erasing, key)) ||
	       kvh_clear_pending(c, key->space);
}

static void delete_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	struct delete_task *t = (struct delete_task *)task;
	struct delete_batch *batch = t->key->batch;
	struct kvh_erase *e = batch->erase;
	struct kvh_adapter_counters *n = kvh_adapter_counters(batch->c->adapters[t->adapter]);
	uint32_t index = (uint32_t)(t->key - batch->keys);

	kvh_count(&n->deletes, 1);
	kvh_count(&n->delete_failed, status != 0 && status != -ENOENT);
	t->answered = true;
	if (e != NULL) {
		if (status != -ENOENT && (status != 0 || e->status[index] == -ENOENT))
			e->status[index] = status;
		if (--e->pending == 0) {
			batch->erase = NULL;
			e->ended(e);
		}
	}
	if (buffer_free)
		key_put(t->key);
}

static void delete_returned(struct kvh_l2_task *task)
{
	key_put(((struct delete_task *)task)->key);
}

static void key_submit(struct delete_batch *batch, struct delete_key *key)
{
	struct kvh_controller *c = batch->c;
	struct delete_task *t = &batch->tasks[(size_t)(key - batch->keys) * batch->n_tasks];

	for (uint32_t left = c->adapter_bits; left != 0; left &= left - 1, t++) {
		t->key = key;
		t->adapter = (uint32_t)__builtin_ctz(left);
		t->task.req.op = KVH_L2_DELETE;
		t->task.req.key = key->node.key;
		t->task.ended = delete_ended;
		t->task.returned = delete_returned;
		kvh_adapter_submit(c->adapters[t->adapter], &t->task);
	}
}

static void erase_start(struct kvh_loop_work *work)
{
	struct kvh_erase *e = (struct kvh_erase *)((char *)work -
						   offsetof(struct kvh_erase, start));
	struct kvh_controller *c = e->controller;
	uint32_t n_tasks = (uint32_t)__builtin_popcount(c->adapter_bits);

	kvh_fetch_erase(c, e->keys, e->n);
	kvh_store_erased(c);
	if (n_tasks > 0 && !c->stopping)
		e->batch = batch_make(c, e, n_tasks);
	if (e->batch == NULL) {
		for (uint32_t i = 0; i < e->n && n_tasks > 0; i++)
			e->status[i] = c->stopping ? -ECANCELED : -ENOMEM;
		e->ended(e);
		return;
	}
	e->pending = (uint64_t)e->n * n_tasks;
	for (uint32_t i = 0; i < e->n; i++)
		key_submit(e->batch, &e->batch->keys[i]);
}

void kvh_erase_cancel(struct kvh_erase *e)
{
	struct delete_batch *batch = e->batch;
	uint64_t n = (uint64_t)batch->n * batch->n_tasks;

	for (uint64_t i = 0; i < n; i++)
		if (!batch->tasks[i].answered)
			e->status[batch->tasks[i].key - batch->keys] = -ECANCELED;
	batch->erase = NULL; /* the deletes themselves go on */
	e->ended(e);
}

void kvh_controller_erase(struct kvh_controller *c, struct kvh_erase *e)
{
	const struct kvh_key *keys = e->keys;
	uint32_t n = e->n; /* e may end, but the keys are the caller's */

	e->controller = c;
	e->batch = NULL;
	e->start.run = erase_start;
	kvh_loop_post(c->loop, &e->start);
	/* Again: a read that began after the first time may be through already. One that
	 * begins after this finds the erase posted before its end. */
	for (uint32_t i = 0; i < n; i++)
		(void)kvh_l1_erase(c->opts.l1, &keys[i]);
}
