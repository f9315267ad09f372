/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keyset.c - chained hashing over nodes that belong to the caller. One thread.
 */
#include "host/keyset.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_FIRST 64u
#define BUCKETS_MAX   (1u << 24)

static uint32_t place(const struct kvh_keyset *set, const struct kvh_key *key)
{
	uint64_t h;

	memcpy(&h, key->hash.bytes, sizeof(h));
	h = (h ^ key->space ^ ((uint64_t)key->rank << 20) ^ key->group) *
	    UINT64_C(0x9E3779B97F4A7C15);
	return (uint32_t)(h >> 32) & set->mask;
}

int kvh_keyset_open(struct kvh_keyset *set)
{
	*set = (struct kvh_keyset){.mask = BUCKETS_FIRST - 1};
	set->buckets = calloc(BUCKETS_FIRST, sizeof(struct kvh_keyset_node *));
	return set->buckets != NULL ? 0 : -ENOMEM;
}

void kvh_keyset_close(struct kvh_keyset *set)
{
	free(set->buckets);
	set->buckets = NULL;
}

static void link_node(struct kvh_keyset *set, struct kvh_keyset_node *node)
{
	struct kvh_keyset_node **head = &set->buckets[place(set, &node->key)];

	node->chain = *head;
	*head = node;
}

static void grow(struct kvh_keyset *set)
{
	struct kvh_keyset_node **old = set->buckets, *node, *next;
	uint32_t n = set->mask + 1;
	struct kvh_keyset_node **buckets = calloc(2 * (size_t)n, sizeof(*old));

	if (buckets == NULL)
		return; /* longer chains, then */
	set->buckets = buckets;
	set->mask = 2 * n - 1;
	for (uint32_t i = 0; i < n; i++) {
		for (node = old[i]; node != NULL; node = next) {
			next = node->chain;
			link_node(set, node);
		}
	}
	free(old);
}

void kvh_keyset_add(struct kvh_keyset *set, struct kvh_keyset_node *node)
{
	if (set->n > set->mask && set->mask < BUCKETS_MAX)
		grow(set);
	link_node(set, node);
	set->n++;
}

void kvh_keyset_remove(struct kvh_keyset *set, struct kvh_keyset_node *node)
{
	struct kvh_keyset_node **at = &set->buckets[place(set, &node->key)];

	while (*at != node) {
		assert(*at != NULL);
		at = &(*at)->chain;
	}
	*at = node->chain;
	set->n--;
}

bool kvh_keyset_has(const struct kvh_keyset *set, const struct kvh_key *key)
{
	const struct kvh_keyset_node *node = set->buckets[place(set, key)];

	while (node != NULL && memcmp(&node->key, key, sizeof(*key)) != 0)
		node = node->chain;
	return node != NULL;
}
