/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_kin.c - parents and children: of a prefix the tail is evicted first. Any
 * thread.
 *
 * A record counts its children in the upper bits of its family, and each child
 * has its parent's record number. Both are hints: a parent may go before its
 * children (erased, corrupt), and its record be another frame's then.
 *
 *   children of a record <= findable frames whose parent it is
 *
 * holds all the same: what joins adds first and takes back if it came too late;
 * what leaves subtracts, never below 0; a record starts with 0. So a wrong hint
 * makes a frame go early, and none stays for ever: when nothing else is left,
 * eviction takes frames with children, too (two that are each other's parents).
 */
#include "host/l1_batch.h"

#include <stdlib.h>

#define CHILD        (KVH_INDEX_FAMILY + 1)
#define CHILDREN_MAX (UINT32_MAX / CHILD)
#define PARENT_GONE  UINT32_MAX /* of a child that cannot be found any more */
#define LOOK_BACK    16u        /* items of a batch between a chunk and the one before */

uint32_t kvh_l1_children(const struct kvh_l1 *l1, uint32_t rec)
{
	return __atomic_load_n(&l1->recs[rec].family, __ATOMIC_SEQ_CST) / CHILD;
}

uint32_t kvh_l1_parent(const struct kvh_l1 *l1, uint32_t rec)
{
	uint32_t parent = __atomic_load_n(&l1->parents[rec], __ATOMIC_RELAXED);

	return parent != 0 && parent != PARENT_GONE ? parent - 1 : KVH_REC_NONE;
}

void kvh_l1_kin_reset(struct kvh_l1 *l1, uint32_t rec, uint32_t family)
{
	__atomic_store_n(&l1->recs[rec].family, family, __ATOMIC_RELAXED);
	__atomic_store_n(&l1->parents[rec], 0, __ATOMIC_RELAXED);
}

/* Beyond what can be counted they are not: then the parent may go too early. */
static void add_child(struct kvh_l1 *l1, uint32_t parent)
{
	uint32_t *word = &l1->recs[parent].family;
	uint32_t old = __atomic_load_n(word, __ATOMIC_RELAXED);

	while (old / CHILD < CHILDREN_MAX &&
	       !__atomic_compare_exchange_n(word, &old, old + CHILD, true, __ATOMIC_SEQ_CST,
					    __ATOMIC_RELAXED))
		;
}

/* Whether that was the last one. */
static bool drop_child(struct kvh_l1 *l1, uint32_t parent)
{
	uint32_t *word = &l1->recs[parent].family;
	uint32_t old = __atomic_load_n(word, __ATOMIC_RELAXED);

	while (old / CHILD > 0)
		if (__atomic_compare_exchange_n(word, &old, old - CHILD, true, __ATOMIC_SEQ_CST,
						__ATOMIC_RELAXED))
			return old / CHILD == 1;
	return false;
}

/* ---- joining ------------------------------------------------------------ */

/* The caller's own frame of this batch that the chunk is the next of. */
static uint32_t parent_in_batch(const struct kvh_l1_reserve *items, uint32_t i)
{
	for (uint32_t back = 1; back <= LOOK_BACK && back <= i; back++) {
		const struct kvh_l1_reserve *item = &items[i - back];

		if (item->status == 0 &&
		    memcmp(&item->key.hash, &items[i].parent, sizeof(items[i].parent)) == 0 &&
		    item->key.space == items[i].key.space &&
		    item->key.rank == items[i].key.rank &&
		    item->key.group == items[i].key.group)
			return (uint32_t)item->frame;
	}
	return KVH_REC_NONE;
}

/* Adds a child to the frame that has this hash, if it is there. */
static uint32_t add_child_of(struct kvh_l1 *l1, const struct kvh_l1_reserve *item)
{
	struct kvh_key key = item->key;
	struct kvh_l1_shard *shard;
	struct kvh_batch batch;
	uint32_t rec;

	key.hash = item->parent;
	kvh_batch_fill(&batch, l1, &key, sizeof(key), 1, false);
	shard = &l1->shards[batch.shard[0]];
	kvh_l1_lock(shard);
	rec = kvh_batch_find(&batch, shard, 0, &key);
	if (rec != KVH_REC_NONE)
		add_child(l1, rec);
	pthread_mutex_unlock(&shard->lock);
	return rec;
}

void kvh_l1_kin_join(struct kvh_l1 *l1, const struct kvh_l1_reserve *items, uint32_t n)
{
	static const struct kvh_hash none;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t parent, rec = (uint32_t)items[i].frame, expected = 0;

		if (items[i].status != 0 ||
		    memcmp(&items[i].parent, &none, sizeof(none)) == 0 ||
		    memcmp(&items[i].parent, &items[i].key.hash, sizeof(none)) == 0)
			continue;
		parent = parent_in_batch(items, i);
		if (parent != KVH_REC_NONE)
			add_child(l1, parent);
		else
			parent = add_child_of(l1, &items[i]);
		if (parent == KVH_REC_NONE)
			continue;
		/* Erased meanwhile by another thread: it was no child. */
		if (!__atomic_compare_exchange_n(&l1->parents[rec], &expected, parent + 1,
						 false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			(void)drop_child(l1, parent);
	}
}

/* ---- leaving ------------------------------------------------------------ */

void kvh_l1_kin_leave(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec)
{
	uint32_t parent = __atomic_exchange_n(&l1->parents[rec], PARENT_GONE, __ATOMIC_SEQ_CST);

	if (parent == 0 || parent == PARENT_GONE || !drop_child(l1, parent - 1))
		return;
	/* After the count: who sets it aside looks at the count after that. */
	if (kvh_word_place(__atomic_load_n(&l1->recs[parent - 1].word, __ATOMIC_SEQ_CST)) !=
	    KVH_PLACE_KIN)
		return;
	assert(shard->n_orphans < KVH_ORPHANS_MAX);
	shard->orphans[shard->n_orphans++] = parent - 1;
}

/* Whoever the record is by now: KIN without children is what may not stay. */
static void list_orphan(struct kvh_l1 *l1, uint32_t rec)
{
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	uint64_t word;

	kvh_l1_lock(shard);
	word = kvh_word_load(&l1->recs[rec]);
	if (kvh_l1_shard_of(l1, rec) == shard && kvh_word_state(word) == KVH_FRAME_READY &&
	    kvh_word_place(word) == KVH_PLACE_KIN && kvh_l1_children(l1, rec) == 0)
		kvh_l1_relist(l1, shard, rec, false);
	pthread_mutex_unlock(&shard->lock);
}

void kvh_l1_unlock(struct kvh_l1 *l1, struct kvh_l1_shard *shard)
{
	uint32_t orphans[KVH_ORPHANS_MAX];
	uint32_t n = shard->n_orphans;

	memcpy(orphans, shard->orphans, n * sizeof(*orphans));
	shard->n_orphans = 0;
	pthread_mutex_unlock(&shard->lock);
	for (uint32_t i = 0; i < n; i++)
		list_orphan(l1, orphans[i]);
}
