/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.h - who is evicted next: the policies, behind one interface that L1 and
 * adapters share.
 *
 * An item is a 32-bit number of its owner's: a record, a slot. Where it stands
 * lies in arrays by that number (struct kvh_order_items), which several orders
 * may share: an item is in one of them at most.
 *
 *              insert             remove (anywhere, O(1))
 *    unknown ----------> LISTED ---------------------------> AWAY
 *                        ^    |                                |
 *                        |    '- use, victims: stays LISTED    |- evicted: may leave a ghost
 *                        '------------- restore ---------------'- or just forgotten
 *
 * An item that must not be evicted for a while (held, pinned, being written) is
 * removed and restored: its standing with the policy stays in its mark, and
 * while it is away its links are free for a list of the owner's.
 *
 *   n of a list == the items in it; nothing counts what is away
 *   memory: 12 bytes an item; s3-fifo and arc 1 more, and 24 a ghost, of which
 *   there are as many as items at most
 *
 * No lock of its own. Nothing fails but open: without memory for a ghost there
 * is none. Policies count items, not bytes: an order is for items of about one
 * size.
 */
#ifndef KVH_HOST_ORDER_H
#define KVH_HOST_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_ORDER_NONE UINT32_MAX

struct kvh_order_link {
	uint32_t newer, older; /* KVH_ORDER_NONE at the ends */
	uint32_t stamp;        /* as given at its last move */
};

struct kvh_order_list {
	uint32_t newest, oldest;
	uint32_t n;
};

struct kvh_order_items {
	struct kvh_order_link *links;
	uint8_t *marks; /* s3-fifo: list and uses; arc: list; lru never touches it */
	uint32_t max;
};

/* For the numbers below max: address space for all, memory with use. -ENOMEM. */
int kvh_order_items_open(struct kvh_order_items *items, uint32_t max);
void kvh_order_items_close(struct kvh_order_items *items);

/* Where a list's item may be put: ends, and behind another. */
#define KVH_ORDER_NEWEST KVH_ORDER_NONE

struct kvh_evict_order;

/* One const table a policy; call them through the functions below. */
struct kvh_order_ops {
	const char *name;
	uint32_t n_ghosts; /* ghost lists it keeps: 0..2 */
	void (*insert)(struct kvh_evict_order *order, uint32_t item, uint64_t id,
		       uint32_t after, uint32_t stamp);
	void (*use)(struct kvh_evict_order *order, uint32_t item, uint32_t after,
		    uint32_t stamp);
	void (*note)(struct kvh_evict_order *order, uint32_t item);
	void (*remove)(struct kvh_evict_order *order, uint32_t item);
	void (*restore)(struct kvh_evict_order *order, uint32_t item, uint32_t stamp,
			bool newest);
	void (*evicted)(struct kvh_evict_order *order, uint32_t item, uint64_t id);
	uint32_t (*victims)(struct kvh_evict_order *order, uint32_t *items, uint32_t n);
	/* The list whose oldest is the next victim; its oldest may be none. */
	uint32_t (*next)(const struct kvh_evict_order *order);
};

/* What was evicted lately, by identity: a first-in, first-out set. */
struct kvh_ghost {
	uint64_t id;
	uint32_t newer, older; /* unused: older is the next unused one */
	uint32_t chain;        /* next of its bucket */
	uint32_t head;         /* of bucket i, in ghost i */
};
struct kvh_ghosts {
	struct kvh_ghost *at;
	uint32_t room;      /* of `at` */
	uint32_t n_buckets; /* == ghosts ever in use; each new one splits a bucket */
	uint32_t unused;
	uint32_t newest, oldest, n;
};

struct kvh_evict_order {
	const struct kvh_order_ops *ops;
	struct kvh_order_items *items;
	struct kvh_order_list lists[2]; /* lru: one; s3-fifo: small, main; arc: T1, T2 */
	uint32_t stamp;                 /* the last one given */
	uint32_t target;                /* arc: of T1, <= capacity */
	uint32_t capacity;              /* arc: items when victims were last asked for */
	struct kvh_ghosts ghosts[2];    /* s3-fifo: one; arc: B1, B2 */
};

/* "lru", "s3-fifo", "arc"; NULL is "lru". NULL: there is no such policy. */
const struct kvh_order_ops *kvh_order_find(const char *name);
/* "lru, s3-fifo, arc", for messages. */
const char *kvh_order_name(size_t index); /* NULL beyond the last */
const char *kvh_order_names(void);

void kvh_order_open(struct kvh_evict_order *order, const struct kvh_order_ops *ops,
		    struct kvh_order_items *items);
/* The items are the owner's to forget. */
void kvh_order_close(struct kvh_evict_order *order);

/* A new item. `id` is its identity, the same if it comes again (a hash of its
 * key). `after`: an item just inserted or used, which this one shall be next
 * older than where the policy allows it, or KVH_ORDER_NEWEST. `stamp`: the
 * owner's clock, for comparing orders; 0 if that is not needed. */
static inline void kvh_order_insert(struct kvh_evict_order *order, uint32_t item, uint64_t id,
				    uint32_t after, uint32_t stamp);
/* A listed item was used. */
static inline void kvh_order_use(struct kvh_evict_order *order, uint32_t item, uint32_t after,
				 uint32_t stamp);
/* An item that is away was used. */
static inline void kvh_order_note(struct kvh_evict_order *order, uint32_t item);
/* A listed item goes away. */
static inline void kvh_order_remove(struct kvh_evict_order *order, uint32_t item);
/* It comes back, as the newest or as the oldest of where it was. Counts as no use. */
static inline void kvh_order_restore(struct kvh_evict_order *order, uint32_t item,
				     uint32_t stamp, bool newest);
/* An item that is away was evicted, not just erased: the policy may keep a
 * ghost of it, by which it knows it when it comes again. */
static inline void kvh_order_evicted(struct kvh_evict_order *order, uint32_t item, uint64_t id);
/* The next to be evicted, first first; they stay listed. Returns how many, up to
 * n; 0: nothing is listed. Policies may move others meanwhile; a call looks at
 * n + KVH_ORDER_MOVES_MAX items at most. */
#define KVH_ORDER_MOVES_MAX 4096u
static inline uint32_t kvh_order_victims(struct kvh_evict_order *order, uint32_t *items,
					 uint32_t n);
/* The stamp of about the next victim; false: nothing is listed. Moves nothing. */
static inline bool kvh_order_next(const struct kvh_evict_order *order, uint32_t *stamp_p);

static inline uint32_t kvh_order_count(const struct kvh_evict_order *order)
{
	return order->lists[0].n + order->lists[1].n;
}

/* Of its ghosts; the items' arrays are counted by their owner. */
size_t kvh_order_bytes(const struct kvh_evict_order *order);
/* Whether lists and counts agree. Slow: tests. */
bool kvh_order_check(const struct kvh_evict_order *order);

/* ---- lists over items, also for owners' lists of items that are away ---- */

void kvh_order_list_init(struct kvh_order_list *list);
void kvh_order_list_put(struct kvh_order_items *items, struct kvh_order_list *list,
			uint32_t item, uint32_t after);
void kvh_order_list_put_oldest(struct kvh_order_items *items, struct kvh_order_list *list,
			       uint32_t item);
void kvh_order_list_take(struct kvh_order_items *items, struct kvh_order_list *list,
			 uint32_t item);
bool kvh_order_list_check(const struct kvh_order_items *items,
			  const struct kvh_order_list *list);

/* ---- ghosts: for policies ----------------------------------------------- */

void kvh_ghosts_open(struct kvh_ghosts *ghosts);
void kvh_ghosts_close(struct kvh_ghosts *ghosts);
/* As the newest; it must not be in. Nothing where there is no memory. */
void kvh_ghosts_add(struct kvh_ghosts *ghosts, uint64_t id);
/* Takes it out; false: it was not in. */
bool kvh_ghosts_take(struct kvh_ghosts *ghosts, uint64_t id);
void kvh_ghosts_drop_oldest(struct kvh_ghosts *ghosts);

/* ---- the calls ---------------------------------------------------------- */

static inline void kvh_order_insert(struct kvh_evict_order *order, uint32_t item, uint64_t id,
				    uint32_t after, uint32_t stamp)
{
	order->stamp = stamp;
	order->ops->insert(order, item, id, after, stamp);
}

static inline void kvh_order_use(struct kvh_evict_order *order, uint32_t item, uint32_t after,
				 uint32_t stamp)
{
	order->stamp = stamp;
	order->ops->use(order, item, after, stamp);
}

static inline void kvh_order_note(struct kvh_evict_order *order, uint32_t item)
{
	order->ops->note(order, item);
}

static inline void kvh_order_remove(struct kvh_evict_order *order, uint32_t item)
{
	order->ops->remove(order, item);
}

static inline void kvh_order_restore(struct kvh_evict_order *order, uint32_t item,
				     uint32_t stamp, bool newest)
{
	order->ops->restore(order, item, stamp, newest);
}

static inline void kvh_order_evicted(struct kvh_evict_order *order, uint32_t item, uint64_t id)
{
	order->ops->evicted(order, item, id);
}

static inline uint32_t kvh_order_victims(struct kvh_evict_order *order, uint32_t *items,
					 uint32_t n)
{
	return order->ops->victims(order, items, n);
}

static inline bool kvh_order_next(const struct kvh_evict_order *order, uint32_t *stamp_p)
{
	uint32_t item = order->lists[order->ops->next(order)].oldest;

	if (item == KVH_ORDER_NONE)
		return false;
	*stamp_p = order->items->links[item].stamp;
	return true;
}

extern const struct kvh_order_ops kvh_order_lru;
extern const struct kvh_order_ops kvh_order_s3fifo;
extern const struct kvh_order_ops kvh_order_arc;

#ifdef __cplusplus
}
#endif
#endif
