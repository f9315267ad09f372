/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keyset.h - a set of keys in their owner's memory, each of which may be in it
 * several times: whether one is in it costs the same whatever there is. One thread.
 */
#ifndef KVH_HOST_KEYSET_H
#define KVH_HOST_KEYSET_H

#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_keyset_node {
	struct kvh_key key;
	struct kvh_keyset_node *chain;
};

/* n == nodes in the buckets; buckets double when there are as many nodes, as long as
 * there is memory */
struct kvh_keyset {
	struct kvh_keyset_node **buckets;
	uint32_t mask;
	uint64_t n;
};

int kvh_keyset_open(struct kvh_keyset *set); /* -ENOMEM */
void kvh_keyset_close(struct kvh_keyset *set);
void kvh_keyset_add(struct kvh_keyset *set, struct kvh_keyset_node *node);
void kvh_keyset_remove(struct kvh_keyset *set, struct kvh_keyset_node *node);
bool kvh_keyset_has(const struct kvh_keyset *set, const struct kvh_key *key);

#ifdef __cplusplus
}
#endif
#endif
