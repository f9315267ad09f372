/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lru.c - a chained hash table whose nodes also stand in a list by last use.
 * The caller locks. The seed keeps chosen prefix hashes from meeting in one
 * bucket.
 */
#include "l2/lru.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BUCKETS_FIRST 1024u

_Static_assert(sizeof(struct kvh_key) == 32, "keys are hashed and compared as bytes");

int kvh_lru_init(struct kvh_lru *lru)
{
	*lru = (struct kvh_lru){.n_buckets = BUCKETS_FIRST};
	lru->buckets = calloc(lru->n_buckets, sizeof(struct kvh_lru_node *));
	if (lru->buckets == NULL)
		return -ENOMEM;
	/* Without entropy the table is as correct, only easier to attack. */
	if (getrandom(&lru->seed, sizeof(lru->seed), GRND_NONBLOCK) < 0)
		lru->seed = (uint64_t)(uintptr_t)lru;
	lru->ends.older = &lru->ends;
	lru->ends.newer = &lru->ends;
	return 0;
}

void kvh_lru_fini(struct kvh_lru *lru)
{
	free(lru->buckets);
	lru->buckets = NULL;
}

static size_t bucket_of(const struct kvh_lru *lru, const struct kvh_key *key)
{
	uint64_t words[4], h = lru->seed;

	memcpy(words, key, sizeof(words));
	for (int i = 0; i < 4; i++) {
		h = (h ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
		h ^= h >> 32;
	}
	return (size_t)h & (lru->n_buckets - 1);
}

struct kvh_lru_node *kvh_lru_find(const struct kvh_lru *lru, const struct kvh_key *key)
{
	struct kvh_lru_node *node = lru->buckets[bucket_of(lru, key)];

	while (node != NULL && memcmp(&node->key, key, sizeof(*key)) != 0)
		node = node->chain;
	return node;
}

static void chain_push(struct kvh_lru *lru, struct kvh_lru_node *node)
{
	struct kvh_lru_node **bucket = &lru->buckets[bucket_of(lru, &node->key)];

	node->chain = *bucket;
	*bucket = node;
}

static void grow(struct kvh_lru *lru)
{
	struct kvh_lru_node **old = lru->buckets;
	size_t n_old = lru->n_buckets;
	struct kvh_lru_node **buckets = calloc(n_old * 2, sizeof(struct kvh_lru_node *));

	if (buckets == NULL)
		return;
	lru->buckets = buckets;
	lru->n_buckets = n_old * 2;
	for (size_t i = 0; i < n_old; i++) {
		for (struct kvh_lru_node *node = old[i], *next; node != NULL; node = next) {
			next = node->chain;
			chain_push(lru, node);
		}
	}
	free(old);
}

static void order_unlink(struct kvh_lru_node *node)
{
	node->older->newer = node->newer;
	node->newer->older = node->older;
	node->older = node;
	node->newer = node;
}

static void order_push(struct kvh_lru *lru, struct kvh_lru_node *node)
{
	node->older = lru->ends.older;
	node->newer = &lru->ends;
	node->older->newer = node;
	node->newer->older = node;
}

void kvh_lru_insert(struct kvh_lru *lru, struct kvh_lru_node *node)
{
	assert(kvh_lru_find(lru, &node->key) == NULL);
	if (lru->n_nodes >= lru->n_buckets)
		grow(lru);
	lru->n_nodes++;
	chain_push(lru, node);
	order_push(lru, node);
}

void kvh_lru_remove(struct kvh_lru *lru, struct kvh_lru_node *node)
{
	struct kvh_lru_node **p = &lru->buckets[bucket_of(lru, &node->key)];

	while (*p != node) {
		assert(*p != NULL);
		p = &(*p)->chain;
	}
	*p = node->chain;
	order_unlink(node);
	lru->n_nodes--;
}

void kvh_lru_touch(struct kvh_lru *lru, struct kvh_lru_node *node)
{
	order_unlink(node);
	order_push(lru, node);
}

void kvh_lru_hide(struct kvh_lru *lru, struct kvh_lru_node *node)
{
	(void)lru;
	order_unlink(node);
}

struct kvh_lru_node *kvh_lru_oldest(const struct kvh_lru *lru)
{
	struct kvh_lru_node *node = lru->ends.newer;

	return node == &lru->ends ? NULL : node;
}
