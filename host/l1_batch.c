/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_batch.c - groups a batch of keys by shard. Any thread, no lock.
 */
#include "host/l1_batch.h"

#define SMALL 8u

static void sort_small(struct kvh_batch *batch)
{
	for (uint32_t i = 0; i < batch->n; i++) {
		uint32_t at = i;

		for (; at > 0 && batch->shard[batch->order[at - 1]] > batch->shard[i]; at--)
			batch->order[at] = batch->order[at - 1];
		batch->order[at] = (uint16_t)i;
	}
}

static void sort_counting(struct kvh_batch *batch, uint32_t n_shards)
{
	uint16_t start[KVH_SHARDS_MAX + 1];

	memset(start, 0, (n_shards + 1) * sizeof(*start));
	for (uint32_t i = 0; i < batch->n; i++)
		start[batch->shard[i] + 1]++;
	for (uint32_t s = 1; s < n_shards; s++)
		start[s] = (uint16_t)(start[s] + start[s - 1]);
	for (uint32_t i = 0; i < batch->n; i++)
		batch->order[start[batch->shard[i]]++] = (uint16_t)i;
}

static bool same_family(const struct kvh_key *a, const struct kvh_key *b)
{
	return a->space == b->space && a->rank == b->rank && a->group == b->group;
}

void kvh_batch_fill(struct kvh_batch *batch, struct kvh_l1 *l1, const struct kvh_key *keys,
		    size_t stride, uint32_t n, bool add)
{
	const struct kvh_key *last = NULL;
	uint32_t family = KVH_FAMILY_NONE;

	assert(n <= KVH_BATCH_MAX);
	batch->n = n;
	for (uint32_t i = 0; i < n; i++) {
		const void *at = (const char *)keys + i * stride;
		const struct kvh_key *key = at;
		uint64_t hash[2], spread;

		if (last == NULL || !same_family(key, last))
			family = add ? kvh_family_add(&l1->families, key)
				     : kvh_family_find(&l1->families, key);
		last = key;
		memcpy(hash, key->hash.bytes, sizeof(hash));
		spread = kvh_index_spread(hash);
		batch->shard[i] = (uint16_t)(spread & (l1->n_shards - 1));
		batch->family[i] = family;
		batch->place[i] = kvh_index_place(spread, family);
	}
	if (n <= SMALL)
		sort_small(batch);
	else
		sort_counting(batch, l1->n_shards);
}
