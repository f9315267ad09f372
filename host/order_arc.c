/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order_arc.c - ARC (Megiddo and Modha, FAST 2003): a list of what was used once
 * and one of what was used again, whose shares follow what comes back.
 *
 *   insert --> T1 --use--> T2 <--use
 *      |        `-oldest-> B1   `-oldest-> B2        ghosts
 *      |-- in B1: target of T1 grows --> T2
 *      `-- in B2: it shrinks ----------> T2
 *
 *   |T1| + |B1| <= capacity,  |B1| + |B2| <= capacity   after each eviction
 *
 * The capacity is what is listed when victims are asked for: then it is full.
 */
#include "host/order.h"

#define T1 0u
#define T2 1u
#define B1 0u
#define B2 1u

static uint32_t max32(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

/* A mark of another policy, set before, has its list in the same bit. */
static uint32_t list_of(const struct kvh_evict_order *order, uint32_t item)
{
	return order->items->marks[item] & 1u;
}

static void arc_put(struct kvh_evict_order *order, uint32_t item, uint32_t after,
		    uint32_t stamp)
{
	uint32_t list = list_of(order, item);

	if (after != KVH_ORDER_NONE && list_of(order, after) != list)
		after = KVH_ORDER_NEWEST;
	order->items->links[item].stamp = stamp;
	kvh_order_list_put(order->items, &order->lists[list], item, after);
}

/* Whether it came back; then the share moves towards the list that it left. */
static bool adapt(struct kvh_evict_order *order, uint64_t id)
{
	struct kvh_ghosts *b1 = &order->ghosts[B1], *b2 = &order->ghosts[B2];
	uint32_t n1 = b1->n, n2 = b2->n, step;

	if (kvh_ghosts_take(b1, id)) {
		step = max32(1, n2 / n1);
		order->target = step < order->capacity - order->target ? order->target + step
								       : order->capacity;
		return true;
	}
	if (kvh_ghosts_take(b2, id)) {
		step = max32(1, n1 / n2);
		order->target -= step < order->target ? step : order->target;
		return true;
	}
	return false;
}

static void arc_insert(struct kvh_evict_order *order, uint32_t item, uint64_t id,
		       uint32_t after, uint32_t stamp)
{
	order->items->marks[item] = adapt(order, id) ? T2 : T1;
	arc_put(order, item, after, stamp);
}

static void arc_remove(struct kvh_evict_order *order, uint32_t item)
{
	kvh_order_list_take(order->items, &order->lists[list_of(order, item)], item);
}

static void arc_note(struct kvh_evict_order *order, uint32_t item)
{
	order->items->marks[item] = T2;
}

static void arc_use(struct kvh_evict_order *order, uint32_t item, uint32_t after,
		    uint32_t stamp)
{
	if (item == after)
		return;
	arc_remove(order, item);
	arc_note(order, item);
	arc_put(order, item, after, stamp);
}

static void arc_restore(struct kvh_evict_order *order, uint32_t item, uint32_t stamp,
			bool newest)
{
	uint32_t list = list_of(order, item);

	arc_put(order, item, newest ? KVH_ORDER_NEWEST : order->lists[list].oldest, stamp);
}

static void arc_evicted(struct kvh_evict_order *order, uint32_t item, uint64_t id)
{
	struct kvh_ghosts *b1 = &order->ghosts[B1], *b2 = &order->ghosts[B2];

	/* An item may have come under its id twice. */
	(void)kvh_ghosts_take(b1, id);
	(void)kvh_ghosts_take(b2, id);
	kvh_ghosts_add(list_of(order, item) == T1 ? b1 : b2, id);
	while (b1->n > 0 && order->lists[T1].n + b1->n > order->capacity)
		kvh_ghosts_drop_oldest(b1);
	while (b1->n + b2->n > order->capacity)
		kvh_ghosts_drop_oldest(b2->n > 0 ? b2 : b1);
}

static uint32_t choose(const struct kvh_evict_order *order, uint32_t in_t1, uint32_t in_t2)
{
	if (in_t1 == 0)
		return T2;
	return in_t1 > order->target || in_t2 == 0 ? T1 : T2;
}

static uint32_t arc_next(const struct kvh_evict_order *order)
{
	return choose(order, order->lists[T1].n, order->lists[T2].n);
}

static uint32_t arc_victims(struct kvh_evict_order *order, uint32_t *items, uint32_t n)
{
	uint32_t at[2] = {order->lists[T1].oldest, order->lists[T2].oldest};
	uint32_t left[2] = {order->lists[T1].n, order->lists[T2].n};
	uint32_t len = 0;

	order->capacity = left[T1] + left[T2];
	if (order->target > order->capacity)
		order->target = order->capacity;
	for (; len < n; len++) {
		uint32_t list = choose(order, left[T1], left[T2]);

		if (at[list] == KVH_ORDER_NONE)
			break;
		items[len] = at[list];
		at[list] = order->items->links[at[list]].newer;
		left[list]--;
	}
	return len;
}

const struct kvh_order_ops kvh_order_arc = {
	.name = "arc",
	.n_ghosts = 2,
	.insert = arc_insert,
	.use = arc_use,
	.note = arc_note,
	.remove = arc_remove,
	.restore = arc_restore,
	.evicted = arc_evicted,
	.victims = arc_victims,
	.next = arc_next,
};
