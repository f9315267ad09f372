/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_pool.c - pools of the nvme adapter's index: the frames of one size and
 * space, and which of them goes next. One thread.
 *
 * A frame can only take the slot of one of its own size, so the choice is among
 * the pools of a class: each names its candidate, and of these the one not used
 * for the longest time goes, but for spaces beyond their soft limit, which give
 * way first.
 */
#include "l2/nvme_index.h"

#include <errno.h>
#include <stdlib.h>

static int pool_new(struct kvh_nvme_index *index, uint32_t *place_p)
{
	uint32_t n = index->n_pools;
	struct kvh_nvme_pool *pools;

	for (uint32_t i = 0; i < n; i++) {
		if (index->pools[i].members == 0) {
			kvh_order_close(&index->pools[i].order);
			*place_p = i;
			return 0;
		}
	}
	pthread_mutex_lock(&index->lock);
	pools = realloc(index->pools, (n + 1) * sizeof(*pools));
	if (pools != NULL) {
		index->pools = pools;
		index->n_pools = n + 1;
	}
	pthread_mutex_unlock(&index->lock);
	*place_p = n;
	return pools != NULL ? 0 : -ENOMEM;
}

int kvh_nvme_pool_get(struct kvh_nvme_index *index, uint32_t class, kvh_space_t id,
		      uint32_t *pool_p)
{
	struct kvh_nvme_space *space = kvh_nvme_space_get(index->spaces, id);
	int ret;

	if (space == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < index->n_pools; i++) {
		if (index->pools[i].space == space && index->pools[i].class == class) {
			*pool_p = i;
			return 0;
		}
	}
	ret = pool_new(index, pool_p);
	if (ret < 0)
		return ret;
	index->pools[*pool_p] = (struct kvh_nvme_pool){.space = space, .class = class};
	kvh_order_open(&index->pools[*pool_p].order, index->policy, &index->items);
	return 0;
}

static uint64_t beyond_soft(const struct kvh_nvme_space *space)
{
	if (space->soft_bytes == 0 || space->used_bytes <= space->soft_bytes)
		return 0;
	return space->used_bytes - space->soft_bytes;
}

/* Of one pool; NULL: KVH_NVME_NONE. */
static uint32_t victim_in(struct kvh_nvme_pool *pool)
{
	uint32_t id;

	if (pool == NULL || kvh_order_victims(&pool->order, &id, 1) == 0)
		return KVH_NVME_NONE;
	return id;
}

uint32_t kvh_nvme_pool_victim(struct kvh_nvme_index *index, uint32_t class)
{
	struct kvh_nvme_pool *best = NULL;
	uint64_t best_beyond = 0;
	uint32_t best_age = 0;

	for (uint32_t i = 0; i < index->n_pools; i++) {
		struct kvh_nvme_pool *pool = &index->pools[i];
		uint64_t beyond = beyond_soft(pool->space);
		uint32_t age, stamp;

		if (pool->class != class || beyond < best_beyond ||
		    !kvh_order_next(&pool->order, &stamp))
			continue;
		age = index->tick - stamp; /* the tick may wrap */
		if (best != NULL && beyond == best_beyond && age <= best_age)
			continue;
		best = pool;
		best_age = age;
		best_beyond = beyond;
	}
	return victim_in(best);
}

uint32_t kvh_nvme_pool_victim_of(struct kvh_nvme_index *index,
				 const struct kvh_nvme_space *space, uint32_t class)
{
	struct kvh_nvme_pool *best = NULL;
	uint32_t best_age = 0;

	for (uint32_t i = 0; i < index->n_pools; i++) {
		struct kvh_nvme_pool *pool = &index->pools[i];
		uint32_t age, stamp;

		if (pool->space != space || (class != KVH_NVME_NONE && pool->class != class) ||
		    !kvh_order_next(&pool->order, &stamp))
			continue;
		age = index->tick - stamp;
		if (best == NULL || age > best_age) {
			best = pool;
			best_age = age;
		}
	}
	return victim_in(best);
}
