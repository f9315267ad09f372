/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c - the store controller: from a published frame to every adapter that
 * the policy names. The controller's thread, but for the seal itself.
 *
 *   popped --no target, gone--------------------------------> settled
 *      \--> SEALING --sealed--> PUTTING --last put settled--> SETTLED --> freed
 *             (worker)           |    ^                         (when no buffer
 *                                v    |                          is out)
 *                               backoff
 *
 * One hold on the frame, from publishing until the item is freed: the frame
 * stays READY or DOOMED, and its bytes stay what they were sealed as.
 */
#include "host/clock.h"
#include "host/controller_impl.h"
#include "host/frame.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BACKOFF_NS     (10 * KVH_NS_PER_MS) /* doubled with each attempt */
#define BACKOFF_MAX_NS (10 * KVH_NS_PER_S)

struct put {
	struct kvh_l2_task task;
	struct kvh_store_item *item;
	uint32_t adapter;
	uint32_t attempts;
	uint64_t retry_ns; /* in backoff until then; 0: is not */
};

/* pending + settled puts == n_puts;  out <= n_puts
 * each of them is admitted to its adapter's queue until its buffer is back */
struct kvh_store_item {
	struct kvh_controller *c;
	kvh_frame frame;
	struct kvh_persist *persist;
	struct kvh_key key;
	void *data;
	uint64_t bytes;
	uint32_t targets, stored; /* adapters, a bit each */
	uint32_t n_puts, pending;
	uint32_t out; /* puts past their deadline, whose adapter has the buffer still */
	struct kvh_work seal;
	struct kvh_loop_work sealed;
	struct kvh_store_item *prev, *next;
	struct put puts[];
};

void kvh_store_unsettle(struct kvh_controller *c)
{
	kvh_count(&c->opts.metrics->store_waiting, 1);
	pthread_mutex_lock(&c->lock);
	c->unsettled++;
	pthread_mutex_unlock(&c->lock);
}

void kvh_store_settle(struct kvh_controller *c)
{
	kvh_uncount(&c->opts.metrics->store_waiting, 1);
	pthread_mutex_lock(&c->lock);
	if (--c->unsettled == 0)
		pthread_cond_broadcast(&c->settled);
	pthread_mutex_unlock(&c->lock);
}

static void settle(struct kvh_controller *c, struct kvh_persist *persist)
{
	if (persist != NULL)
		persist->settled(persist);
	kvh_store_settle(c);
}

static void item_free(struct kvh_store_item *item)
{
	struct kvh_controller *c = item->c;

	if (item->prev != NULL)
		item->prev->next = item->next;
	else
		c->items = item->next;
	if (item->next != NULL)
		item->next->prev = item->prev;
	free(item);
}

static void item_release(struct kvh_store_item *item)
{
	assert(item->pending == 0 && item->out == 0);
	kvh_l1_unhold(item->c->opts.l1, item->frame);
	item_free(item);
}

static void item_settled(struct kvh_store_item *item)
{
	struct kvh_controller *c = item->c;
	struct kvh_persist *persist = item->persist;

	if (c->opts.policy->select_deletion(&item->key, item->targets, item->stored))
		kvh_l1_doom(c->opts.l1, item->frame);
	if (item->out == 0)
		item_release(item);
	settle(c, persist);
}

static void put_settled(struct put *put, bool buffer_free)
{
	struct kvh_store_item *item = put->item;

	if (buffer_free)
		kvh_adapter_settled(item->c->adapters[put->adapter], item->key.space,
				    item->bytes);
	else
		item->out++;
	if (--item->pending == 0)
		item_settled(item);
}

static void put_dropped(struct put *put)
{
	kvh_count(&kvh_adapter_counters(put->item->c->adapters[put->adapter])->put_dropped, 1);
	put_settled(put, true);
}

/* The adapter was not asked. */
static bool is_drop(int status)
{
	return status == -ECANCELED || status == -ENOBUFS || status == -EHOSTDOWN;
}

static bool worth_retrying(int status)
{
	return kvh_breaker_counts(status) && !is_drop(status);
}

static uint64_t backoff_ns(uint32_t attempts)
{
	uint64_t ns = attempts < 16 ? BACKOFF_NS << attempts : BACKOFF_MAX_NS;

	return ns < BACKOFF_MAX_NS ? ns : BACKOFF_MAX_NS;
}

static void put_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	struct put *put = (struct put *)task;
	struct kvh_store_item *item = put->item;
	struct kvh_controller *c = item->c;
	struct kvh_adapter *adapter = c->adapters[put->adapter];
	struct kvh_adapter_counters *n = kvh_adapter_counters(adapter);

	if (status == 0) {
		item->stored |= UINT32_C(1) << put->adapter;
		kvh_count(&n->puts, 1);
		kvh_count(&n->put_bytes, item->bytes);
		c->put_failing[put->adapter] = false;
	} else if (buffer_free && worth_retrying(status) && put->attempts < c->opts.retries &&
		   !c->stopping) {
		put->retry_ns = kvh_deadline_ns(backoff_ns(put->attempts));
		put->attempts++;
		kvh_adapter_key_hold(adapter, &item->key); /* a DELETE must not overtake it */
		if (put->retry_ns < c->next_retry_ns)
			c->next_retry_ns = put->retry_ns;
		kvh_count(&n->put_retried, 1);
		return;
	} else if (is_drop(status)) {
		kvh_count(&n->put_dropped, 1);
	} else {
		kvh_count(&n->put_failed, 1);
		/* The first of a row: a full disk must not fill the log, too. */
		if (!c->put_failing[put->adapter])
			kvh_warn("%s: a store of %llu bytes failed after %u attempts: %s",
				 kvh_adapter_name(adapter), (unsigned long long)item->bytes,
				 put->attempts + 1, strerror(-status));
		c->put_failing[put->adapter] = true;
	}
	put_settled(put, buffer_free);
}

static void put_returned(struct kvh_l2_task *task)
{
	struct put *put = (struct put *)task;
	struct kvh_store_item *item = put->item;

	kvh_adapter_settled(item->c->adapters[put->adapter], item->key.space, item->bytes);
	if (--item->out == 0 && item->pending == 0)
		item_release(item);
}

static void put_submit(struct put *put)
{
	struct kvh_store_item *item = put->item;

	put->retry_ns = 0;
	memset(&put->task, 0, sizeof(put->task));
	put->task.req.op = KVH_L2_PUT;
	put->task.req.key = item->key;
	put->task.req.buf = item->data;
	put->task.req.len = item->bytes;
	put->task.ended = put_ended;
	put->task.returned = put_returned;
	kvh_adapter_submit(item->c->adapters[put->adapter], &put->task);
}

/* Loop: the frame is sealed. It may have been erased, or we may be closing. */
static void item_sealed(struct kvh_loop_work *work)
{
	struct kvh_store_item *item = (struct kvh_store_item *)((char *)work -
								offsetof(struct kvh_store_item,
									 sealed));
	struct kvh_controller *c = item->c;
	bool drop = c->stopping || kvh_l1_doomed(c->opts.l1, item->frame);
	uint32_t n = item->n_puts;

	for (uint32_t i = 0; i < n; i++) {
		if (drop)
			put_dropped(&item->puts[i]); /* the last one may free item */
		else
			put_submit(&item->puts[i]);
	}
}

/* Worker: the checksum, once in the frame's life. */
static void item_seal(struct kvh_work *work)
{
	struct kvh_store_item *item =
		(struct kvh_store_item *)((char *)work - offsetof(struct kvh_store_item, seal));

	kvh_frame_seal(item->data);
	kvh_loop_post(item->c->loop, &item->sealed);
}

/* Adapters that are to get the item: puts[] for those that do not have it yet
 * (nor are about to delete it) and have room in their queue. */
static void item_puts(struct kvh_store_item *item)
{
	struct kvh_controller *c = item->c;

	for (uint32_t a = 0; a < c->n_adapters; a++) {
		uint32_t bit = UINT32_C(1) << a;
		uint8_t has = 0;

		if ((item->targets & bit) == 0)
			continue;
		if (!kvh_adapter_erasing(c->adapters[a]))
			kvh_adapter_peek(c->adapters[a], &item->key, 1, &has);
		if (has) {
			item->stored |= bit;
			continue;
		}
		if (!kvh_adapter_usable(c->adapters[a]) ||
		    !kvh_adapter_admit(c->adapters[a], item->key.space, item->bytes,
				       c->opts.queue_bytes)) {
			kvh_count(&kvh_adapter_counters(c->adapters[a])->put_dropped, 1);
			continue;
		}
		item->puts[item->n_puts].item = item;
		item->puts[item->n_puts].adapter = a;
		item->n_puts++;
	}
	item->pending = item->n_puts;
}

static void store_one(struct kvh_controller *c, const struct kvh_published *published)
{
	struct kvh_l1 *l1 = c->opts.l1;
	struct kvh_store_item *item = NULL;
	struct kvh_key key;
	uint32_t targets;

	kvh_l1_key(l1, published->frame, &key);
	targets = c->opts.policy->select_targets(&key, c->n_adapters);
	if (targets != 0 && !c->stopping && !kvh_l1_doomed(l1, published->frame))
		item = calloc(1, sizeof(*item) + c->n_adapters * sizeof(item->puts[0]));
	if (item == NULL) { /* nothing to do, or no memory: it is a cache */
		kvh_l1_unhold(l1, published->frame);
		settle(c, published->persist);
		return;
	}
	item->c = c;
	item->frame = published->frame;
	item->persist = published->persist;
	item->key = key;
	item->data = kvh_l1_data(l1, published->frame);
	item->bytes = kvh_l1_frame_bytes(l1, published->frame);
	item->targets = targets;
	item->seal.run = item_seal;
	item->sealed.run = item_sealed;
	item->next = c->items;
	if (item->next != NULL)
		item->next->prev = item;
	c->items = item;
	item_puts(item);
	if (item->n_puts > 0)
		kvh_workers_post(c->workers, &item->seal);
	else
		item_settled(item);
}

void kvh_store_hear(struct kvh_controller *c)
{
	assert(c->published == NULL);
	c->n_published = kvh_listener_pop(&c->listener, &c->published);
}

static void store_published(struct kvh_controller *c)
{
	struct kvh_published *published = c->published;

	c->published = NULL;
	for (uint32_t i = 0; i < c->n_published; i++)
		store_one(c, &published[i]);
	c->n_published = 0;
	free(published);
}

void kvh_store_listen(struct kvh_controller *c)
{
	store_published(c);
	kvh_store_hear(c);
	store_published(c);
}

/* Submits the puts of an item that have waited long enough; drops them where the
 * item was erased, which a DELETE waits for, or when stopping. */
static void item_retry(struct kvh_store_item *item, uint64_t now_ns)
{
	struct kvh_controller *c = item->c;
	bool drop = c->stopping || kvh_l1_doomed(c->opts.l1, item->frame);
	uint32_t left = item->pending;

	for (uint32_t i = 0; left > 0 && i < item->n_puts; i++) {
		struct put *put = &item->puts[i];

		if (put->retry_ns == 0)
			continue;
		if (put->retry_ns > now_ns && !drop) {
			if (put->retry_ns < c->next_retry_ns)
				c->next_retry_ns = put->retry_ns;
			continue;
		}
		put->retry_ns = 0;
		kvh_adapter_key_unhold(c->adapters[put->adapter], &item->key);
		if (!drop) {
			put_submit(put);
			continue;
		}
		left--;
		put_dropped(put); /* with none left it may free item */
	}
}

static void retry(struct kvh_controller *c, uint64_t now_ns)
{
	struct kvh_store_item *item, *next;

	c->next_retry_ns = UINT64_MAX;
	for (item = c->items; item != NULL; item = next) {
		next = item->next;
		item_retry(item, now_ns);
	}
}

void kvh_store_tick(struct kvh_controller *c, uint64_t now_ns)
{
	store_published(c);
	if (now_ns >= c->next_retry_ns)
		retry(c, now_ns);
}

void kvh_store_stop(struct kvh_controller *c)
{
	kvh_store_listen(c);
	retry(c, UINT64_MAX);
}

void kvh_store_erased(struct kvh_controller *c)
{
	c->next_retry_ns = 0; /* looked at in this round */
}

void kvh_store_quarantine(struct kvh_controller *c)
{
	while (c->items != NULL) {
		struct kvh_store_item *item = c->items;

		kvh_l1_quarantine(c->opts.l1, item->frame);
		/* The adapter still has a request inside item: it is leaked. */
		c->items = item->next;
		if (item->pending > 0)
			settle(c, item->persist);
	}
}
