/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order_s3fifo.c - S3-FIFO (Yang and others, SOSP 2023): what is used once goes
 * through a small queue and does not push out what is used again.
 *
 *   insert --> small (a tenth) --used twice or more--> main --oldest, used--> main
 *      |          `--else--> evicted, ghost             `--oldest, unused--> evicted
 *      `--its ghost is there--> main
 *
 * A use is a counter of two bits and moves nothing.
 */
#include "host/order.h"

#define SMALL 0u
#define MAIN  1u

#define SMALL_PART 10u
#define USES_MAX   3u
#define USES_STAY  2u /* of the small queue to the main one */

/* A mark: uses << 1 | list. */
static uint32_t list_of(const struct kvh_evict_order *order, uint32_t item)
{
	return order->items->marks[item] & 1u;
}

static uint32_t uses_of(const struct kvh_evict_order *order, uint32_t item)
{
	return order->items->marks[item] >> 1;
}

static void set_mark(struct kvh_evict_order *order, uint32_t item, uint32_t list, uint32_t uses)
{
	order->items->marks[item] = (uint8_t)(uses << 1 | list);
}

static void s3_put(struct kvh_evict_order *order, uint32_t item, uint32_t after, uint32_t stamp)
{
	uint32_t list = list_of(order, item);

	if (after != KVH_ORDER_NONE && list_of(order, after) != list)
		after = KVH_ORDER_NEWEST;
	order->items->links[item].stamp = stamp;
	kvh_order_list_put(order->items, &order->lists[list], item, after);
}

static void s3_insert(struct kvh_evict_order *order, uint32_t item, uint64_t id, uint32_t after,
		      uint32_t stamp)
{
	set_mark(order, item, kvh_ghosts_take(&order->ghosts[0], id) ? MAIN : SMALL, 0);
	s3_put(order, item, after, stamp);
}

static void s3_note(struct kvh_evict_order *order, uint32_t item)
{
	if (uses_of(order, item) < USES_MAX)
		order->items->marks[item] += 2;
}

static void s3_use(struct kvh_evict_order *order, uint32_t item, uint32_t after, uint32_t stamp)
{
	(void)after;
	(void)stamp;
	s3_note(order, item);
}

static void s3_remove(struct kvh_evict_order *order, uint32_t item)
{
	kvh_order_list_take(order->items, &order->lists[list_of(order, item)], item);
}

static void s3_restore(struct kvh_evict_order *order, uint32_t item, uint32_t stamp,
		       bool newest)
{
	if (newest) {
		s3_put(order, item, KVH_ORDER_NEWEST, stamp);
		return;
	}
	set_mark(order, item, list_of(order, item), 0);
	s3_put(order, item, order->lists[list_of(order, item)].oldest, stamp);
}

static void s3_evicted(struct kvh_evict_order *order, uint32_t item, uint64_t id)
{
	struct kvh_ghosts *ghosts = &order->ghosts[0];

	if (list_of(order, item) != SMALL)
		return;
	(void)kvh_ghosts_take(ghosts, id); /* an item may have come under its id twice */
	kvh_ghosts_add(ghosts, id);
	while (ghosts->n > 1 && ghosts->n > kvh_order_count(order))
		kvh_ghosts_drop_oldest(ghosts);
}

/* Which queue gives the next victim, if so many are still in them. */
static uint32_t choose(uint32_t in_small, uint32_t in_main)
{
	if (in_main == 0)
		return SMALL;
	return (uint64_t)in_small * SMALL_PART >= (uint64_t)in_small + in_main && in_small > 0
		       ? SMALL
		       : MAIN;
}

static uint32_t s3_next(const struct kvh_evict_order *order)
{
	return choose(order->lists[SMALL].n, order->lists[MAIN].n);
}

/* The oldest that were used get another turn in the main queue, instead of
 * being victims. */
static void promote(struct kvh_evict_order *order, uint32_t item)
{
	uint32_t list = list_of(order, item);

	kvh_order_list_take(order->items, &order->lists[list], item);
	set_mark(order, item, MAIN, list == SMALL ? 0 : uses_of(order, item) - 1);
	s3_put(order, item, KVH_ORDER_NEWEST, order->stamp);
}

static uint32_t s3_victims(struct kvh_evict_order *order, uint32_t *items, uint32_t n)
{
	/* The next of each queue behind those that are victims already. */
	uint32_t at[2] = {order->lists[SMALL].oldest, order->lists[MAIN].oldest};
	uint32_t chosen[2] = {0, 0}, moves = 0, len = 0;

	while (len < n) {
		uint32_t list = choose(order->lists[SMALL].n - chosen[SMALL],
				       order->lists[MAIN].n - chosen[MAIN]);
		uint32_t item = at[list];
		uint32_t stay = list == SMALL ? USES_STAY : 1;

		if (item == KVH_ORDER_NONE)
			break;
		at[list] = order->items->links[item].newer;
		if (uses_of(order, item) >= stay && moves < KVH_ORDER_MOVES_MAX) {
			moves++;
			promote(order, item);
			if (at[MAIN] == KVH_ORDER_NONE)
				at[MAIN] = item;
			continue;
		}
		chosen[list]++;
		items[len++] = item;
	}
	return len;
}

const struct kvh_order_ops kvh_order_s3fifo = {
	.name = "s3-fifo",
	.n_ghosts = 1,
	.insert = s3_insert,
	.use = s3_use,
	.note = s3_note,
	.remove = s3_remove,
	.restore = s3_restore,
	.evicted = s3_evicted,
	.victims = s3_victims,
	.next = s3_next,
};
