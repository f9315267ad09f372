/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_reserve.c - making frames: the key is taken first, then its space is charged,
 * then there is memory; what fails is undone, and says why. Any thread.
 */
#include "host/l1_batch.h"
#include "host/log.h"

#include <errno.h>
#include <inttypes.h>

#define QUOTA_TRIES 16u /* frames of the own space that others may take before us */

/* A temporary frame that somebody would make again is worth keeping. */
static int there_already(struct kvh_index_rec *rec)
{
	uint64_t word = kvh_word_load(rec);

	if (kvh_word_state(word) != KVH_FRAME_READY)
		return -EINPROGRESS;
	if ((word & KVH_WORD_TEMP) != 0)
		(void)__atomic_fetch_and(&rec->word, ~KVH_WORD_TEMP, __ATOMIC_ACQ_REL);
	return -EEXIST;
}

/* ABSENT -> FILLING, without memory yet. 0, -EEXIST, -EINPROGRESS, -ENOMEM. */
static int reserve_key(struct kvh_l1 *l1, struct kvh_l1_shard *shard,
		       const struct kvh_batch *batch, uint32_t i,
		       const struct kvh_l1_reserve *item, uint32_t *rec_p)
{
	uint32_t rec = kvh_batch_find(batch, shard, i, &item->key);
	struct kvh_index_rec *r;
	uint64_t hash[2], word;

	if (rec != KVH_REC_NONE)
		return there_already(&l1->recs[rec]);
	if (batch->family[i] == KVH_FAMILY_NONE)
		return -ENOMEM;
	rec = kvh_l1_rec_new(l1, shard);
	if (rec == KVH_REC_NONE)
		return -ENOMEM;
	r = &l1->recs[rec];
	memcpy(hash, item->key.hash.bytes, sizeof(hash));
	__atomic_store_n(&r->hash[0], hash[0], __ATOMIC_RELAXED);
	__atomic_store_n(&r->hash[1], hash[1], __ATOMIC_RELAXED);
	kvh_l1_kin_reset(l1, rec, batch->family[i]);
	r->page = KVH_PAGE_UNSET;
	if (kvh_index_insert(&shard->index, batch->place[i], rec) != 0) {
		kvh_l1_rec_unused(l1, shard, rec);
		return -ENOMEM;
	}
	word = kvh_word_load(r);
	(void)kvh_l1_move(r, &word, KVH_FRAME_FILLING, 1);
	if ((item->flags & KVH_L1_TEMPORARY) != 0)
		(void)__atomic_fetch_or(&r->word, KVH_WORD_TEMP, __ATOMIC_RELAXED);
	kvh_l1_count(&shard->frames, 1);
	*rec_p = rec;
	return 0;
}

/* It could not be listed. */
static void forget_key(struct kvh_l1 *l1, struct kvh_l1_shard *shard,
		       struct kvh_l1_reserve *item, uint32_t rec)
{
	uint64_t word = kvh_word_load(&l1->recs[rec]);

	(void)kvh_l1_move(&l1->recs[rec], &word, KVH_FRAME_ABSENT, 0);
	kvh_index_erase(&shard->index, kvh_index_rec_place(&l1->recs[rec]), rec);
	kvh_l1_count(&shard->frames, UINT64_MAX);
	kvh_l1_rec_unused(l1, shard, rec);
	item->frame = 0;
	item->status = -ENOMEM;
}

/* The items of some shards, which are locked. The first of a batch is made the
 * newest, the others follow it: of a prompt, the tail is evicted first. */
static void reserve_window(struct kvh_l1 *l1, const struct kvh_batch *batch, uint32_t at,
			   uint32_t end, uint32_t stamp, struct kvh_l1_reserve *items)
{
	const struct kvh_l1_shard *last = NULL;
	uint32_t after = KVH_REC_NONE;

	for (; at < end; at++) {
		struct kvh_l1_shard *shard = kvh_batch_shard(l1, batch, at);
		uint32_t i = batch->order[at], rec;
		struct kvh_l1_reserve *item = &items[i];

		after = shard == last ? after : KVH_REC_NONE;
		last = shard;
		if (item->status != 0)
			continue;
		item->status = reserve_key(l1, shard, batch, i, item, &rec);
		if (item->status != 0)
			continue;
		item->frame = kvh_l1_value(rec, kvh_word_load(&l1->recs[rec]));
		if (kvh_l1_list(l1, shard, rec, after, stamp + batch->n - 1 - i) != 0) {
			forget_key(l1, shard, item, rec);
			continue;
		}
		after = rec;
	}
}

/* ---- memory ------------------------------------------------------------- */

/* Items that are reserved and have one size, space and node. */
struct run {
	uint16_t items[KVH_BATCH_MAX];
	uint32_t n;
	uint64_t bytes;
	uint32_t space;
	uint32_t near;
};

/* The next items that are like the first of them. */
static bool next_run(const struct kvh_l1 *l1, const struct kvh_l1_reserve *items, uint32_t n,
		     uint32_t *at, struct run *run)
{
	run->n = 0;
	for (; *at < n; ++*at) {
		uint64_t bytes = kvh_frame_bytes(items[*at].payload_bytes);
		uint32_t space;

		if (items[*at].status != 0)
			continue;
		space = kvh_l1_space_of(l1, (uint32_t)items[*at].frame);
		if (run->n > 0 && (bytes != run->bytes || space != run->space ||
				   items[*at].near != run->near))
			break;
		run->bytes = bytes;
		run->space = space;
		run->near = items[*at].near;
		run->items[run->n++] = (uint16_t)*at;
	}
	return run->n > 0;
}

/* Charges the space with as many as it may have, evicting its own frames where
 * it has too much; returns how many. */
static uint32_t charge(struct kvh_l1 *l1, const struct run *run)
{
	uint32_t got = kvh_space_charge(&l1->spaces, run->space, run->bytes, run->n);

	for (uint32_t tries = 0; got < run->n && tries < QUOTA_TRIES; tries++) {
		uint32_t more = run->n - got, lane = l1->spaces.space[run->space].lane;
		uint64_t lacks = kvh_space_lacks(&l1->spaces, run->space, more * run->bytes);
		struct kvh_victims gone = kvh_l1_hunt(l1, lane, UINT32_MAX, lacks, NULL);

		if (gone.n == 0)
			break;
		(void)__atomic_fetch_add(&l1->evicted_quota, gone.n, __ATOMIC_RELAXED);
		got += kvh_space_charge(&l1->spaces, run->space, run->bytes, more);
	}
	return got;
}

static void give_run(struct kvh_l1 *l1, struct kvh_l1_reserve *items, const struct run *run)
{
	void *memory[KVH_BATCH_MAX];
	uint32_t charged = charge(l1, run);
	int node = run->near != 0 ? (int)run->near - 1 : KVH_NODE_ANY;
	uint32_t got = charged > 0 ? kvh_l1_alloc(l1, node, run->bytes, charged, memory) : 0;
	int full = got < run->n ? kvh_l1_full(l1) : 0;

	if (got < charged)
		kvh_space_uncharge(&l1->spaces, run->space, (charged - got) * run->bytes);
	for (uint32_t i = 0; i < got; i++) {
		uint32_t rec = kvh_l1_rec(l1, items[run->items[i]].frame);
		uint32_t page = kvh_l1_page(l1, memory[i]);

		l1->recs[rec].page = page;
		__atomic_store_n(&l1->owners[page], rec + 1, __ATOMIC_RELEASE);
	}
	for (uint32_t i = got; i < run->n; i++) {
		struct kvh_l1_reserve *item = &items[run->items[i]];

		kvh_l1_abort(l1, item->frame);
		item->frame = 0;
		item->status = i >= charged && full == -ENOMEM ? -EDQUOT : full;
	}
}

static void give_memory(struct kvh_l1 *l1, struct kvh_l1_reserve *items, uint32_t n)
{
	struct run run;
	uint32_t at = 0;

	while (next_run(l1, items, n, &at, &run))
		give_run(l1, items, &run);
}

/* ---- interface ---------------------------------------------------------- */

static void check_size(const struct kvh_l1 *l1, struct kvh_l1_reserve *item)
{
	item->frame = 0;
	item->status = 0;
	if (item->payload_bytes <= l1->frame_max &&
	    kvh_frame_bytes(item->payload_bytes) <= l1->frame_max)
		return;
	kvh_err("a chunk of %" PRIu64 " bytes is larger than an L1 piece, %" PRIu64,
		item->payload_bytes, l1->frame_max);
	item->status = -EINVAL;
}

static uint32_t reserve_part(struct kvh_l1 *l1, struct kvh_l1_reserve *items, uint32_t n)
{
	struct kvh_batch batch;
	uint32_t stamp = kvh_l1_tick(l1, n);
	uint32_t made = 0;

	for (uint32_t i = 0; i < n; i++)
		check_size(l1, &items[i]);
	kvh_batch_fill(&batch, l1, &items[0].key, sizeof(items[0]), n, true);
	for (uint32_t at = 0, end; at < n; at = end) {
		end = kvh_batch_lock_one(l1, &batch, at, false);
		reserve_window(l1, &batch, at, end, stamp, items);
		kvh_batch_unlock(l1, &batch, at, end);
	}
	give_memory(l1, items, n);
	kvh_l1_kin_join(l1, items, n);
	for (uint32_t i = 0; i < n; i++)
		made += items[i].status == 0;
	return made;
}

uint32_t kvh_l1_reserve(struct kvh_l1 *l1, struct kvh_l1_reserve *items, uint32_t n)
{
	uint32_t made = 0;

	for (uint32_t at = 0; at < n; at += KVH_BATCH_MAX)
		made += reserve_part(l1, items + at,
				     n - at < KVH_BATCH_MAX ? n - at : KVH_BATCH_MAX);
	return made;
}
