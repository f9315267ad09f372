/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.c - the table of policies, and the lists that all of them are made of.
 * The caller locks. Limit: 2^32 - 2 items.
 */
#include "host/order.h"

#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

static const struct kvh_order_ops *const policies[] = {
	&kvh_order_lru,
	&kvh_order_s3fifo,
	&kvh_order_arc,
};

const struct kvh_order_ops *kvh_order_find(const char *name)
{
	if (name == NULL)
		return &kvh_order_lru;
	for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++)
		if (strcmp(name, policies[i]->name) == 0)
			return policies[i];
	return NULL;
}

const char *kvh_order_name(size_t index)
{
	return index < sizeof(policies) / sizeof(policies[0]) ? policies[index]->name : NULL;
}

const char *kvh_order_names(void)
{
	return "lru, s3-fifo, arc";
}

/* ---- items -------------------------------------------------------------- */

static void *map_array(uint64_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at != MAP_FAILED ? at : NULL;
}

int kvh_order_items_open(struct kvh_order_items *items, uint32_t max)
{
	uint64_t n = max > 0 ? max : 1;

	*items = (struct kvh_order_items){.max = max};
	items->links = map_array(n * sizeof(*items->links));
	items->marks = map_array(n);
	if (items->links == NULL || items->marks == NULL) {
		kvh_err("eviction: no addresses for the order of %u items", max);
		kvh_order_items_close(items);
		return -ENOMEM;
	}
	/* Looked at in no order: fewer TLB entries for them. */
	(void)madvise(items->links, n * sizeof(*items->links), MADV_HUGEPAGE);
	return 0;
}

void kvh_order_items_close(struct kvh_order_items *items)
{
	uint64_t n = items->max > 0 ? items->max : 1;

	if (items->links != NULL)
		(void)munmap(items->links, n * sizeof(*items->links));
	if (items->marks != NULL)
		(void)munmap(items->marks, n);
	*items = (struct kvh_order_items){0};
}

/* ---- lists -------------------------------------------------------------- */

void kvh_order_list_init(struct kvh_order_list *list)
{
	*list = (struct kvh_order_list){KVH_ORDER_NONE, KVH_ORDER_NONE, 0};
}

void kvh_order_list_put(struct kvh_order_items *items, struct kvh_order_list *list,
			uint32_t item, uint32_t after)
{
	struct kvh_order_link *link = &items->links[item];

	assert(item < items->max && item != after);
	link->newer = after;
	link->older = after != KVH_ORDER_NONE ? items->links[after].older : list->newest;
	if (after != KVH_ORDER_NONE)
		items->links[after].older = item;
	else
		list->newest = item;
	if (link->older != KVH_ORDER_NONE)
		items->links[link->older].newer = item;
	else
		list->oldest = item;
	list->n++;
}

void kvh_order_list_put_oldest(struct kvh_order_items *items, struct kvh_order_list *list,
			       uint32_t item)
{
	kvh_order_list_put(items, list, item, list->oldest);
}

void kvh_order_list_take(struct kvh_order_items *items, struct kvh_order_list *list,
			 uint32_t item)
{
	const struct kvh_order_link *link = &items->links[item];

	assert(list->n > 0);
	assert(link->newer != KVH_ORDER_NONE ? items->links[link->newer].older == item
					     : list->newest == item);
	if (link->newer != KVH_ORDER_NONE)
		items->links[link->newer].older = link->older;
	else
		list->newest = link->older;
	if (link->older != KVH_ORDER_NONE)
		items->links[link->older].newer = link->newer;
	else
		list->oldest = link->newer;
	list->n--;
}

bool kvh_order_list_check(const struct kvh_order_items *items,
			  const struct kvh_order_list *list)
{
	uint32_t newer = KVH_ORDER_NONE, n = 0;

	for (uint32_t at = list->newest; at != KVH_ORDER_NONE; at = items->links[at].older) {
		if (items->links[at].newer != newer || n++ > list->n)
			return false;
		newer = at;
	}
	return list->oldest == newer && list->n == n;
}

/* ---- orders ------------------------------------------------------------- */

void kvh_order_open(struct kvh_evict_order *order, const struct kvh_order_ops *ops,
		    struct kvh_order_items *items)
{
	*order = (struct kvh_evict_order){.ops = ops, .items = items};
	for (int i = 0; i < 2; i++) {
		kvh_order_list_init(&order->lists[i]);
		kvh_ghosts_open(&order->ghosts[i]);
	}
}

void kvh_order_close(struct kvh_evict_order *order)
{
	for (int i = 0; i < 2; i++)
		kvh_ghosts_close(&order->ghosts[i]);
}

size_t kvh_order_bytes(const struct kvh_evict_order *order)
{
	return ((size_t)order->ghosts[0].room + order->ghosts[1].room) *
	       sizeof(struct kvh_ghost);
}

bool kvh_order_check(const struct kvh_evict_order *order)
{
	for (int i = 0; i < 2; i++)
		if (!kvh_order_list_check(order->items, &order->lists[i]))
			return false;
	return order->target <= order->capacity;
}
