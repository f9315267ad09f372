/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order_lru.c - least recently used first. One list, no marks, no ghosts: 12
 * bytes an item.
 */
#include "host/order.h"

static void lru_put(struct kvh_evict_order *order, uint32_t item, uint32_t after,
		    uint32_t stamp)
{
	order->items->links[item].stamp = stamp;
	kvh_order_list_put(order->items, &order->lists[0], item, after);
}

static void lru_insert(struct kvh_evict_order *order, uint32_t item, uint64_t id,
		       uint32_t after, uint32_t stamp)
{
	(void)id;
	lru_put(order, item, after, stamp);
}

static void lru_use(struct kvh_evict_order *order, uint32_t item, uint32_t after,
		    uint32_t stamp)
{
	if (item == after)
		return;
	kvh_order_list_take(order->items, &order->lists[0], item);
	lru_put(order, item, after, stamp);
}

static void lru_note(struct kvh_evict_order *order, uint32_t item)
{
	(void)order; /* restored as the newest, it was used last */
	(void)item;
}

static void lru_remove(struct kvh_evict_order *order, uint32_t item)
{
	kvh_order_list_take(order->items, &order->lists[0], item);
}

static void lru_restore(struct kvh_evict_order *order, uint32_t item, uint32_t stamp,
			bool newest)
{
	lru_put(order, item, newest ? KVH_ORDER_NEWEST : order->lists[0].oldest, stamp);
}

static void lru_evicted(struct kvh_evict_order *order, uint32_t item, uint64_t id)
{
	(void)order;
	(void)item;
	(void)id;
}

static uint32_t lru_victims(struct kvh_evict_order *order, uint32_t *items, uint32_t n)
{
	uint32_t item = order->lists[0].oldest, len = 0;

	for (; len < n && item != KVH_ORDER_NONE; item = order->items->links[item].newer)
		items[len++] = item;
	return len;
}

static uint32_t lru_next(const struct kvh_evict_order *order)
{
	(void)order;
	return 0;
}

const struct kvh_order_ops kvh_order_lru = {
	.name = "lru",
	.insert = lru_insert,
	.use = lru_use,
	.note = lru_note,
	.remove = lru_remove,
	.restore = lru_restore,
	.evicted = lru_evicted,
	.victims = lru_victims,
	.next = lru_next,
};
