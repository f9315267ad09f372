/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_put.c - one chunk's way to one adapter: submitted, tried again with
 * doubled backoff, counted. The controller's thread.
 *
 * Retries are bounded in count (`retries`), and in bytes: what waits in backoff is
 * admitted to its adapter's queue, and no more than a quarter of that may be in
 * backoff; beyond, a put that fails has failed.
 */
#include "host/clock.h"
#include "host/log.h"
#include "host/store_impl.h"

#include <errno.h>
#include <string.h>

#define BACKOFF_NS     (10 * KVH_NS_PER_MS) /* doubled with each attempt */
#define BACKOFF_MAX_NS (10 * KVH_NS_PER_S)

/* ---- backoff ------------------------------------------------------------ */

static uint64_t backoff_ns(uint32_t attempts)
{
	uint64_t ns = attempts < 16 ? BACKOFF_NS << attempts : BACKOFF_MAX_NS;

	return ns < BACKOFF_MAX_NS ? ns : BACKOFF_MAX_NS;
}

static void backoff_add(struct kvh_put *put)
{
	struct kvh_controller *c = put->item->c;

	put->retry_ns = kvh_deadline_ns(backoff_ns(put->attempts));
	put->attempts++;
	put->prev_backoff = NULL;
	put->next_backoff = c->backoff;
	if (c->backoff != NULL)
		c->backoff->prev_backoff = put;
	c->backoff = put;
	c->backoff_bytes[put->adapter] += put->item->bytes;
	if (put->retry_ns < c->next_retry_ns)
		c->next_retry_ns = put->retry_ns;
	/* A DELETE must not overtake it. */
	kvh_adapter_key_hold(c->adapters[put->adapter], &put->item->key);
}

static void backoff_remove(struct kvh_put *put)
{
	struct kvh_controller *c = put->item->c;

	if (put->prev_backoff != NULL)
		put->prev_backoff->next_backoff = put->next_backoff;
	else
		c->backoff = put->next_backoff;
	if (put->next_backoff != NULL)
		put->next_backoff->prev_backoff = put->prev_backoff;
	put->retry_ns = 0;
	c->backoff_bytes[put->adapter] -= put->item->bytes;
	kvh_adapter_key_unhold(c->adapters[put->adapter], &put->item->key);
}

/* The adapter was not asked. */
static bool was_dropped(int status)
{
	return status == -ECANCELED || status == -ENOBUFS || status == -EHOSTDOWN;
}

static bool worth_retrying(int status)
{
	return status != -ENOSPC && status != -EDQUOT && status != -EROFS &&
	       status != -EINVAL && status != -EFBIG && status != -EOPNOTSUPP;
}

static bool may_retry(const struct kvh_put *put, int status)
{
	const struct kvh_controller *c = put->item->c;
	uint64_t bytes = c->backoff_bytes[put->adapter];

	return worth_retrying(status) && !was_dropped(status) && !c->stopping &&
	       put->attempts < c->opts.retries &&
	       (bytes == 0 || bytes + put->item->bytes <= c->opts.queue_bytes / 4);
}

/* ---- a put --------------------------------------------------------------- */

static void put_failed(struct kvh_put *put, int status)
{
	struct kvh_controller *c = put->item->c;
	struct kvh_adapter *adapter = c->adapters[put->adapter];
	struct kvh_adapter_counters *n = kvh_adapter_counters(adapter);

	if (was_dropped(status)) {
		kvh_count(&n->put_dropped, 1);
		return;
	}
	kvh_count(&n->put_failed, 1);
	/* The first of a row: a full disk must not fill the log, too. */
	if (!c->put_failing[put->adapter])
		kvh_warn("%s: a store of %llu bytes failed after %u attempts: %s",
			 kvh_adapter_name(adapter), (unsigned long long)put->item->bytes,
			 put->attempts + 1, strerror(-status));
	c->put_failing[put->adapter] = true;
}

static void put_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	struct kvh_put *put = (struct kvh_put *)task;
	struct kvh_store_item *item = put->item;
	struct kvh_controller *c = item->c;
	struct kvh_adapter_counters *n = kvh_adapter_counters(c->adapters[put->adapter]);

	if (status == 0) {
		kvh_count(&n->puts, 1);
		kvh_count(&n->put_bytes, item->bytes);
		c->put_failing[put->adapter] = false;
	} else if (buffer_free && may_retry(put, status)) {
		kvh_count(&n->put_retried, 1);
		backoff_add(put);
		return;
	} else {
		put_failed(put, status);
	}
	kvh_item_put_settled(put, status == 0, buffer_free);
}

static void put_returned(struct kvh_l2_task *task)
{
	kvh_item_put_back((struct kvh_put *)task);
}

static void put_submit(struct kvh_put *put)
{
	struct kvh_store_item *item = put->item;

	memset(&put->task, 0, sizeof(put->task));
	put->task.req.op = KVH_L2_PUT;
	put->task.req.key = item->key;
	put->task.req.buf = item->data;
	put->task.req.len = item->bytes;
	put->task.ended = put_ended;
	put->task.returned = put_returned;
	kvh_adapter_submit(item->c->adapters[put->adapter], &put->task);
}

static void put_drop(struct kvh_put *put)
{
	put_failed(put, -ECANCELED);
	kvh_item_put_settled(put, false, true);
}

static bool is_to_drop(const struct kvh_store_item *item)
{
	return item->c->stopping || kvh_l1_doomed(item->c->opts.l1, item->frame);
}

void kvh_puts_submit(struct kvh_store_item *item)
{
	bool drop = is_to_drop(item);
	struct kvh_put *put, *next;

	for (put = item->puts; put != NULL; put = next) {
		next = put->sibling;
		if (drop)
			put_drop(put); /* the last one may free item */
		else
			put_submit(put);
	}
}

void kvh_puts_retry(struct kvh_controller *c, uint64_t now_ns)
{
	struct kvh_put *put, *next;

	c->next_retry_ns = UINT64_MAX;
	for (put = c->backoff; put != NULL; put = next) {
		bool drop = is_to_drop(put->item);

		next = put->next_backoff;
		if (put->retry_ns > now_ns && !drop) {
			if (put->retry_ns < c->next_retry_ns)
				c->next_retry_ns = put->retry_ns;
			continue;
		}
		backoff_remove(put);
		if (drop)
			put_drop(put);
		else
			put_submit(put);
	}
}

void kvh_store_erased(struct kvh_controller *c)
{
	c->next_retry_ns = 0; /* looked at in this round */
}
