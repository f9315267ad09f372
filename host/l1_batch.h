/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_batch.h - keys grouped by shard, so that each shard is locked once a
 * batch, and in windows of a few shards, so that what the index and the records
 * miss in the cache is fetched for many keys at a time. On the caller's stack.
 *
 *	for (at = 0; at < n; at = end) {
 *		end = kvh_batch_lock(l1, &batch, at);
 *		for (k = at; k < end; k++)
 *			use item batch.order[k] and its shard
 *		kvh_batch_unlock(l1, &batch, at, end);
 *	}
 */
#ifndef KVH_HOST_L1_BATCH_H
#define KVH_HOST_L1_BATCH_H

#include "host/l1_impl.h"

#define KVH_BATCH_MAX  1024u /* larger ones are done in parts */
#define KVH_SHARDS_MAX 1024u

struct kvh_batch {
	uint32_t n;
	uint32_t asked; /* items before it were prefetched: of kvh_batch_lock_one */
	uint16_t order[KVH_BATCH_MAX]; /* of one shard: in the items' order */
	uint16_t shard[KVH_BATCH_MAX];
	uint32_t family[KVH_BATCH_MAX];
	uint64_t place[KVH_BATCH_MAX];
	uint32_t guess[KVH_BATCH_MAX]; /* the record that locking has asked for, or none */
};

/* The n keys that lie `stride` bytes apart; families are added if `add`. */
void kvh_batch_fill(struct kvh_batch *batch, struct kvh_l1 *l1, const struct kvh_key *keys,
		    size_t stride, uint32_t n, bool add);

/* Locks the next few shards, in rising order; returns where their items end. No
 * other shard may be locked until kvh_batch_unlock. */
uint32_t kvh_batch_lock(struct kvh_l1 *l1, struct kvh_batch *batch, uint32_t at);
/* Locks the next shard alone, for whoever changes something: a thread that has
 * several while it does so is in the way of all others. `there`: the keys are in the
 * index, probably. */
uint32_t kvh_batch_lock_one(struct kvh_l1 *l1, struct kvh_batch *batch, uint32_t at,
			    bool there);
void kvh_batch_unlock(struct kvh_l1 *l1, const struct kvh_batch *batch, uint32_t at,
		      uint32_t end);

static inline struct kvh_l1_shard *kvh_batch_shard(struct kvh_l1 *l1,
						   const struct kvh_batch *batch, uint32_t k)
{
	return &l1->shards[batch->shard[batch->order[k]]];
}

/* The record of item i, under the lock of its shard; or KVH_REC_NONE. */
static inline uint32_t kvh_batch_find(const struct kvh_batch *batch,
				      const struct kvh_l1_shard *shard, uint32_t i,
				      const struct kvh_key *key)
{
	uint64_t hash[2];

	memcpy(hash, key->hash.bytes, sizeof(hash));
	/* What was guessed with the shard unlocked since may have gone, or be doomed. */
	if (batch->guess[i] != KVH_INDEX_NONE &&
	    kvh_word_is_findable(kvh_word_load(&shard->index.recs[batch->guess[i]])) &&
	    kvh_index_is(&shard->index, batch->guess[i], hash, batch->family[i]))
		return batch->guess[i];
	return kvh_index_find(&shard->index, batch->place[i], hash, batch->family[i]);
}

#endif
