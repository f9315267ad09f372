/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shelf.h - what an adapter has, in memory: an item a key, bytes by space, the
 * limits of spaces (l2.h, rule 13), and who goes next when room is short
 * (host/order.h). For adapters that keep one thing an object; where that lies is
 * theirs.
 *
 *            add            list                   evicted, erased
 *    FREE ---------> HELD ---------> LISTED    HELD ---------------> FREE
 *                      ^   <--------    |               remove
 *                      '---- hold ------'
 *
 * HELD: the owner works on it; it can be found, and is no victim.
 *
 *   used     == sum of the spaces' used     == sum of the items' len
 *   reserved == sum of the spaces' reserved
 *   used + reserved <= size, and of a space <= hard, as long as kvh_shelf_room was
 *   asked before each growth
 *
 * No lock of its own. 80 bytes an item. Limits: the tables only grow, 2^26 items;
 * a choice of victim looks at every space.
 */
#ifndef KVH_L2_SHELF_H
#define KVH_L2_SHELF_H

#include "host/order.h"
#include "l2/l2.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_SHELF_NONE  UINT32_MAX
#define KVH_SHELF_ITEMS (1u << 26)

/* For an option: names of kvh_order_find, the default first; ended by NULL. */
extern const char *const kvh_shelf_policies[];

enum kvh_shelf_state { KVH_SHELF_FREE, KVH_SHELF_HELD, KVH_SHELF_LISTED };

struct kvh_shelf_item {
	struct kvh_key key;
	void *data;     /* the owner's; NULL at add */
	uint64_t len;   /* bytes that it takes; kvh_shelf_set_len */
	uint32_t chain; /* of its bucket, or of the free ones */
	uint32_t space; /* index of the shelf's */
	uint8_t state;  /* enum kvh_shelf_state */
	bool ordered;   /* the policy knows it */
};

struct kvh_shelf_space {
	kvh_space_t id;
	uint64_t used, reserved;   /* bytes */
	uint64_t objects, evicted; /* objects: items with a len */
	uint64_t soft, hard;       /* 0: none */
	uint32_t chain;
	struct kvh_evict_order order; /* of its LISTED items */
};

struct kvh_shelf {
	const struct kvh_order_ops *policy;
	uint64_t size; /* 0: no limit */
	uint64_t used, reserved, objects, evicted;
	struct kvh_order_items order_items;
	struct kvh_shelf_item *items; /* [max] of address space */
	uint32_t max, n_ever, free, n_items;
	uint32_t *buckets, n_buckets; /* a power of two */
	struct kvh_shelf_space **spaces;
	uint32_t n_spaces, space_room;
	uint32_t space_buckets[256];
	uint64_t seed;
	uint32_t clock; /* of uses, across spaces; it wraps */
};

/* -ENOMEM. */
int kvh_shelf_open(struct kvh_shelf *shelf, const struct kvh_order_ops *policy, uint64_t size);
/* The items' data is the owner's: walk before. */
void kvh_shelf_close(struct kvh_shelf *shelf);

static inline struct kvh_shelf_item *kvh_shelf_at(const struct kvh_shelf *shelf, uint32_t item)
{
	return &shelf->items[item];
}

/* KVH_SHELF_NONE: not there. */
uint32_t kvh_shelf_find(const struct kvh_shelf *shelf, const struct kvh_key *key);
/* HELD, len 0. It is not there yet. KVH_SHELF_NONE: no memory. */
uint32_t kvh_shelf_add(struct kvh_shelf *shelf, const struct kvh_key *key);
void kvh_shelf_hold(struct kvh_shelf *shelf, uint32_t item);
/* As the one that was used last. */
void kvh_shelf_list(struct kvh_shelf *shelf, uint32_t item);
/* LISTED: it was used. */
void kvh_shelf_use(struct kvh_shelf *shelf, uint32_t item);
void kvh_shelf_set_len(struct kvh_shelf *shelf, uint32_t item, uint64_t len);
/* HELD: its object was evicted, not erased: counted, and the policy may remember
 * it. Its len is 0 then. */
void kvh_shelf_evicted(struct kvh_shelf *shelf, uint32_t item);
/* HELD, len 0. */
void kvh_shelf_remove(struct kvh_shelf *shelf, uint32_t item);

/* Whether len more bytes of the item's space fit: 0; 1: not before *victim_p has
 * gone, which is LISTED; -EDQUOT: they never do, or nothing of the space can go;
 * -ENOSPC: nothing can go. */
int kvh_shelf_room(struct kvh_shelf *shelf, uint32_t item, uint64_t len, uint32_t *victim_p);
void kvh_shelf_reserve(struct kvh_shelf *shelf, uint32_t item, uint64_t len);
void kvh_shelf_unreserve(struct kvh_shelf *shelf, uint32_t item, uint64_t len);
/* Next to go while more is used than `size`; KVH_SHELF_NONE: it is not, or none can. */
uint32_t kvh_shelf_excess(struct kvh_shelf *shelf);

/* As kvh_l2_ops.limits and usage_space. */
int kvh_shelf_limits(struct kvh_shelf *shelf, kvh_space_t space, uint64_t soft, uint64_t hard);
void kvh_shelf_usage(const struct kvh_shelf *shelf, struct kvh_l2_usage *usage);
void kvh_shelf_usage_space(const struct kvh_shelf *shelf, kvh_space_t space,
			   struct kvh_l2_usage *usage);

/* The first item in use from `item` on, in no order; KVH_SHELF_NONE: no more. */
uint32_t kvh_shelf_next(const struct kvh_shelf *shelf, uint32_t item);

/* Whether the equations above hold. Slow: tests. */
bool kvh_shelf_check(const struct kvh_shelf *shelf);

#ifdef __cplusplus
}
#endif
#endif
