/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lru.h - keys to nodes, and which of them was used least recently. Nodes are
 * embedded in the owner's structs and stay the owner's; 64 bytes with the key.
 * No lock of its own. Limit: the table only ever grows.
 */
#ifndef KVH_L2_LRU_H
#define KVH_L2_LRU_H

#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_lru_node {
	struct kvh_key key;
	struct kvh_lru_node *chain; /* of the bucket */
	struct kvh_lru_node *older, *newer;
};

struct kvh_lru {
	struct kvh_lru_node **buckets;
	size_t n_buckets; /* a power of two */
	size_t n_nodes;   /* hidden ones too */
	uint64_t seed;
	struct kvh_lru_node ends; /* ends.newer is the oldest, ends.older the newest */
};

/* -ENOMEM. */
int kvh_lru_init(struct kvh_lru *lru);
/* Frees the table; the nodes are the owner's. */
void kvh_lru_fini(struct kvh_lru *lru);

struct kvh_lru_node *kvh_lru_find(const struct kvh_lru *lru, const struct kvh_key *key);

/* node->key is set, and not in yet. It becomes the newest. Never fails: without
 * memory for a larger table the chains get longer. */
void kvh_lru_insert(struct kvh_lru *lru, struct kvh_lru_node *node);
void kvh_lru_remove(struct kvh_lru *lru, struct kvh_lru_node *node);

/* Makes it the newest, also after it was hidden. */
void kvh_lru_touch(struct kvh_lru *lru, struct kvh_lru_node *node);
/* It can be found but is in no order: kvh_lru_oldest passes it over. */
void kvh_lru_hide(struct kvh_lru *lru, struct kvh_lru_node *node);

/* NULL: none, or all are hidden. */
struct kvh_lru_node *kvh_lru_oldest(const struct kvh_lru *lru);

#ifdef __cplusplus
}
#endif
#endif
