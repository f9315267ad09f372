/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_batch.h - keys grouped by shard, so that each shard is locked once a
 * batch. On the caller's stack, 18 KiB.
 *
 *	for (at = 0; at < batch.n; at = end) {
 *		end = kvh_batch_group(&batch, at);
 *		lock batch.shard[batch.order[at]]
 *		for (k = at; k < end; k++) use item batch.order[k]
 *		unlock
 *	}
 */
#ifndef KVH_HOST_L1_BATCH_H
#define KVH_HOST_L1_BATCH_H

#include "host/l1_impl.h"

#define KVH_BATCH_MAX  1024u /* larger ones are done in parts */
#define KVH_SHARDS_MAX 1024u

struct kvh_batch {
	uint32_t n;
	uint16_t order[KVH_BATCH_MAX]; /* of one shard: in the items' order */
	uint16_t shard[KVH_BATCH_MAX];
	uint32_t family[KVH_BATCH_MAX];
	uint64_t place[KVH_BATCH_MAX];
};

/* The n keys that lie `stride` bytes apart; families are added if `add`. */
void kvh_batch_fill(struct kvh_batch *batch, struct kvh_l1 *l1, const struct kvh_key *keys,
		    size_t stride, uint32_t n, bool add);

static inline uint32_t kvh_batch_group(const struct kvh_batch *batch, uint32_t at)
{
	uint16_t shard = batch->shard[batch->order[at]];

	do
		at++;
	while (at < batch->n && batch->shard[batch->order[at]] == shard);
	return at;
}

/* The record of item i, under the lock of its shard; or KVH_REC_NONE. */
static inline uint32_t kvh_batch_find(const struct kvh_batch *batch,
				      const struct kvh_l1_shard *shard, uint32_t i,
				      const struct kvh_key *key)
{
	uint64_t hash[2];

	memcpy(hash, key->hash.bytes, sizeof(hash));
	return kvh_index_find(&shard->index, batch->place[i], hash, batch->family[i]);
}

#endif
