/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_watch.c - who waits for a frame that another fills is told when that has
 * ended, well or badly: a bit in the frame's word asks for it. Any thread. One
 * watcher: it keeps the books of who waits for what.
 */
#include "host/l1_batch.h"

#include <errno.h>

void kvh_l1_watcher_set(struct kvh_l1 *l1,
			void (*settled)(void *arg, const struct kvh_key *key), void *arg)
{
	pthread_mutex_lock(&l1->watcher.lock);
	l1->watcher.settled = settled;
	l1->watcher.arg = arg;
	pthread_mutex_unlock(&l1->watcher.lock);
}

void kvh_l1_tell(struct kvh_l1 *l1, const struct kvh_key *key)
{
	pthread_mutex_lock(&l1->watcher.lock);
	if (l1->watcher.settled != NULL)
		l1->watcher.settled(l1->watcher.arg, key);
	pthread_mutex_unlock(&l1->watcher.lock);
}

/* Publishing takes no lock: the bit is set by a swap that fails if it was faster. */
static int watch_rec(struct kvh_index_rec *rec)
{
	uint64_t word = kvh_word_load(rec);

	do {
		if (kvh_word_state(word) == KVH_FRAME_READY)
			return -EEXIST;
		assert(kvh_word_state(word) == KVH_FRAME_FILLING);
	} while (!kvh_word_swap(rec, &word, word | KVH_WORD_WATCH));
	return 0;
}

int kvh_l1_watch(struct kvh_l1 *l1, const struct kvh_key *key)
{
	struct kvh_batch batch;
	struct kvh_l1_shard *shard;
	int rc = -ENOENT;
	uint32_t rec;

	kvh_batch_fill(&batch, l1, key, sizeof(*key), 1, false);
	shard = &l1->shards[batch.shard[0]];
	kvh_l1_lock(shard);
	rec = kvh_batch_find(&batch, shard, 0, key);
	if (rec != KVH_REC_NONE)
		rc = watch_rec(&l1->recs[rec]);
	pthread_mutex_unlock(&shard->lock);
	return rc;
}
