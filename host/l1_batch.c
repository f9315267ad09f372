/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_batch.c - groups a batch of keys by shard, and locks shards for it. Any
 * thread. Locking is a barrier to loads but not to prefetches: these run ahead
 * over several shards.
 */
#include "host/l1_batch.h"

#define SMALL         8u
#define WINDOW_KEYS   32u /* as many misses as a core has under way, twice */
#define WINDOW_SHARDS 8u

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
	batch->asked = 0;
	for (uint32_t i = 0; i < n; i++) {
		const void *at = (const char *)keys + i * stride;
		const struct kvh_key *key = at;
		uint64_t hash[2], spread;

		if (last == NULL || !same_family(key, last))
			family = add ? kvh_family_add(&l1->families, &l1->spaces, key)
				     : kvh_family_find(&l1->families, key);
		last = key;
		memcpy(hash, key->hash.bytes, sizeof(hash));
		spread = kvh_index_spread(hash);
		batch->shard[i] = (uint16_t)(spread & (l1->n_shards - 1));
		batch->family[i] = family;
		batch->place[i] = kvh_index_place(spread, family);
		batch->guess[i] = KVH_INDEX_NONE;
	}
	if (n <= SMALL)
		sort_small(batch);
	else
		sort_counting(batch, l1->n_shards);
}

static void prefetch_places(struct kvh_l1 *l1, const struct kvh_batch *batch, uint32_t from,
			    uint32_t end)
{
	for (uint32_t k = from; k < end && k < batch->n; k++)
		kvh_index_prefetch(&kvh_batch_shard(l1, batch, k)->index,
				   batch->place[batch->order[k]]);
}

static void prefetch_next(struct kvh_l1 *l1, const struct kvh_batch *batch, uint32_t at)
{
	if (at == 0)
		prefetch_places(l1, batch, 0, WINDOW_KEYS);
	prefetch_places(l1, batch, at + WINDOW_KEYS, at + 2 * WINDOW_KEYS);
}

/* Asks for the records of one shard's items, under its lock; returns where they end. */
static uint32_t guess_shard(struct kvh_l1 *l1, struct kvh_batch *batch, uint32_t at)
{
	const struct kvh_l1_shard *shard = kvh_batch_shard(l1, batch, at);

	for (; at < batch->n && kvh_batch_shard(l1, batch, at) == shard; at++) {
		uint32_t i = batch->order[at];
		uint32_t guess = kvh_index_guess(&shard->index, batch->place[i]);

		batch->guess[i] = guess;
		if (guess != KVH_INDEX_NONE)
			__builtin_prefetch(&l1->recs[guess], 1);
	}
	return at;
}

uint32_t kvh_batch_lock(struct kvh_l1 *l1, struct kvh_batch *batch, uint32_t at)
{
	uint32_t k = at;

	prefetch_next(l1, batch, at);
	for (uint32_t shards = 0; k < batch->n && shards < WINDOW_SHARDS; shards++) {
		if (k - at >= WINDOW_KEYS)
			break;
		kvh_l1_lock(kvh_batch_shard(l1, batch, k));
		k = guess_shard(l1, batch, k);
	}
	return k;
}

/* The same window, but each shard is locked for its guesses alone. */
static uint32_t guess_window(struct kvh_l1 *l1, struct kvh_batch *batch, uint32_t at)
{
	uint32_t k = at;

	for (uint32_t shards = 0; k < batch->n && shards < WINDOW_SHARDS; shards++) {
		struct kvh_l1_shard *shard = kvh_batch_shard(l1, batch, k);
		uint32_t from = k;

		if (k - at >= WINDOW_KEYS)
			break;
		kvh_l1_lock(shard);
		k = guess_shard(l1, batch, k);
		pthread_mutex_unlock(&shard->lock);
		for (; from < k; from++) {
			uint32_t guess = batch->guess[batch->order[from]];

			if (guess != KVH_INDEX_NONE)
				__builtin_prefetch(&l1->items.links[guess], 1);
		}
	}
	return k;
}

uint32_t kvh_batch_lock_one(struct kvh_l1 *l1, struct kvh_batch *batch, uint32_t at, bool there)
{
	struct kvh_l1_shard *shard = kvh_batch_shard(l1, batch, at);

	if (at >= batch->asked) {
		prefetch_next(l1, batch, at);
		batch->asked = there ? guess_window(l1, batch, at) : at + WINDOW_KEYS;
	}
	kvh_l1_lock(shard);
	while (at < batch->n && kvh_batch_shard(l1, batch, at) == shard)
		at++;
	return at;
}

void kvh_batch_unlock(struct kvh_l1 *l1, const struct kvh_batch *batch, uint32_t at,
		      uint32_t end)
{
	const struct kvh_l1_shard *last = NULL;

	for (; at < end; at++) {
		struct kvh_l1_shard *shard = kvh_batch_shard(l1, batch, at);

		if (shard != last)
			pthread_mutex_unlock(&shard->lock);
		last = shard;
	}
}
