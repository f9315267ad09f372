/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_lane.c - where frames stand for eviction: in their lane's order, or aside.
 * l1_impl.h draws the places. Any thread, under the shard's lock.
 */
#include "host/l1_impl.h"
#include "host/log.h"
#include "host/root.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

static uint64_t slots_bytes(const struct kvh_l1 *l1)
{
	return (uint64_t)l1->n_shards * KVH_LANES_MAX * sizeof(*l1->slots);
}

int kvh_l1_lanes_open(struct kvh_l1 *l1)
{
	void *at = mmap(NULL, slots_bytes(l1), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return -ENOMEM;
	kvh_root_add(at, slots_bytes(l1));
	l1->slots = at;
	for (uint32_t i = 0; i < l1->n_shards; i++) {
		l1->shards[i].slots = l1->slots + (uint64_t)i * KVH_LANES_MAX;
		kvh_order_list_init(&l1->shards[i].line);
	}
	return 0;
}

void kvh_l1_lanes_close(struct kvh_l1 *l1)
{
	for (uint32_t i = 0; i < l1->n_shards; i++) {
		struct kvh_l1_shard *shard = &l1->shards[i];

		for (uint32_t lane = 0; lane < shard->n_lanes; lane++) {
			if (shard->slots[lane].lane == NULL)
				continue;
			kvh_order_close(&shard->slots[lane].lane->order);
			free(shard->slots[lane].lane);
		}
	}
	kvh_root_remove(l1->slots, slots_bytes(l1));
	(void)munmap(l1->slots, slots_bytes(l1));
}

static bool lane_make(struct kvh_l1 *l1, struct kvh_l1_shard *shard, struct kvh_l1_slot *slot)
{
	struct kvh_l1_lane *lane = aligned_alloc(_Alignof(struct kvh_l1_lane), sizeof(*lane));
	uint32_t number = (uint32_t)(slot - shard->slots);

	if (lane == NULL)
		return false;
	kvh_order_open(&lane->order, __atomic_load_n(&l1->policy, __ATOMIC_RELAXED),
		       &l1->items);
	kvh_order_list_init(&lane->kin);
	lane->shown = KVH_REC_NONE;
	slot->lane = lane;
	if (number >= shard->n_lanes)
		shard->n_lanes = number + 1;
	return true;
}

/* ---- what others see ---------------------------------------------------- */

void kvh_l1_show_slot(struct kvh_l1_slot *slot)
{
	const struct kvh_evict_order *order = &slot->lane->order;
	uint32_t stamp;
	uint64_t next = 0;

	slot->lane->shown = order->lists[order->ops->next(order)].oldest;
	if (kvh_order_next(order, &stamp))
		next = UINT64_C(1) << 32 | stamp;
	__atomic_store_n(&slot->next, next, __ATOMIC_RELAXED);
}

/* In uses of L1, modulo 2^32. */
static bool is_older(uint32_t now, uint64_t next, uint64_t than)
{
	return next != 0 && (than == 0 || now - (uint32_t)next > now - (uint32_t)than);
}

void kvh_l1_show_oldest(struct kvh_l1 *l1, struct kvh_l1_shard *shard)
{
	uint32_t now = __atomic_load_n(&l1->clock, __ATOMIC_RELAXED);
	uint64_t oldest = 0;

	for (uint32_t i = 0; i < shard->n_lanes; i++) {
		const struct kvh_l1_slot *slot = &shard->slots[i];

		if (is_older(now, slot->next, oldest) && !kvh_lane_is_pinned(&l1->spaces, i)) {
			oldest = slot->next;
			shard->oldest_lane = i;
		}
	}
	__atomic_store_n(&l1->oldest[shard - l1->shards], oldest, __ATOMIC_RELAXED);
}

/* Exact for one lane; with more, a shard may seem a little younger than it is
 * until it is visited, but never empty when it is not. */
static void show(struct kvh_l1 *l1, struct kvh_l1_shard *shard, struct kvh_l1_slot *slot,
		 uint32_t moved)
{
	const struct kvh_evict_order *order = &slot->lane->order;
	uint32_t number = (uint32_t)(slot - shard->slots);
	uint32_t next = order->lists[order->ops->next(order)].oldest;
	uint64_t *oldest = &l1->oldest[shard - l1->shards];

	if (next == slot->lane->shown && next != moved)
		return;
	kvh_l1_show_slot(slot);
	if (kvh_lane_is_pinned(&l1->spaces, number))
		return;
	if (slot->next == 0 && shard->n_lanes > 1) {
		kvh_l1_show_oldest(l1, shard);
	} else if (shard->oldest_lane == number || *oldest == 0) {
		shard->oldest_lane = number;
		__atomic_store_n(oldest, slot->next, __ATOMIC_RELAXED);
	}
}

/* ---- places ------------------------------------------------------------- */

static void set_place(struct kvh_index_rec *rec, enum kvh_frame_place place)
{
	uint64_t word = kvh_word_load(rec);

	while (!kvh_word_swap(rec, &word, (word & ~KVH_WORD_PLACE) | (uint64_t)place << 3))
		;
}

static void count_aside(uint64_t *counter, uint64_t n)
{
	(void)__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

int kvh_l1_list(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint32_t after,
		uint32_t stamp)
{
	struct kvh_l1_slot *slot = kvh_l1_slot_of(l1, shard, rec);

	if (slot->lane == NULL && !lane_make(l1, shard, slot))
		return -ENOMEM;
	if (after != KVH_REC_NONE && kvh_l1_slot_of(l1, shard, after) != slot)
		after = KVH_ORDER_NEWEST;
	kvh_order_insert(&slot->lane->order, rec, kvh_l1_identity(l1, rec), after, stamp);
	show(l1, shard, slot, rec);
	return 0;
}

void kvh_l1_use(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint32_t *after,
		uint32_t stamp)
{
	struct kvh_l1_slot *slot = kvh_l1_slot_of(l1, shard, rec);
	uint64_t word = kvh_word_load(&l1->recs[rec]);
	enum kvh_frame_place place = kvh_word_place(word);

	if ((word & KVH_WORD_GUESS) != 0) {
		(void)__atomic_fetch_and(&l1->recs[rec].word, ~KVH_WORD_GUESS,
					 __ATOMIC_ACQ_REL);
		(void)__atomic_fetch_add(&l1->guesses_used, 1, __ATOMIC_RELAXED);
	}
	if (place != KVH_PLACE_LISTED)
		kvh_order_note(&slot->lane->order, rec);
	if (place == KVH_PLACE_KIN || place == KVH_PLACE_LINE) {
		kvh_l1_relist(l1, shard, rec, true);
	} else if (place == KVH_PLACE_LISTED) {
		if (*after != KVH_REC_NONE && kvh_l1_slot_of(l1, shard, *after) != slot)
			*after = KVH_ORDER_NEWEST;
		kvh_order_use(&slot->lane->order, rec, *after, stamp);
		show(l1, shard, slot, rec);
		*after = rec;
	}
}

void kvh_l1_unlist(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint64_t word)
{
	struct kvh_l1_slot *slot = kvh_l1_slot_of(l1, shard, rec);

	switch (kvh_word_place(word)) {
	case KVH_PLACE_LISTED:
		kvh_order_remove(&slot->lane->order, rec);
		show(l1, shard, slot, rec);
		break;
	case KVH_PLACE_PARKED: break;
	case KVH_PLACE_KIN:
		kvh_order_list_take(&l1->items, &slot->lane->kin, rec);
		count_aside(&l1->n_kin, UINT64_MAX);
		break;
	case KVH_PLACE_LINE:
		kvh_order_list_take(&l1->items, &shard->line, rec);
		count_aside(&l1->n_line, UINT64_MAX);
		count_aside(&l1->line_bytes, -kvh_l1_rec_bytes(l1, rec));
		break;
	}
}

bool kvh_l1_set_aside(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec,
		      enum kvh_frame_place place)
{
	struct kvh_l1_slot *slot = kvh_l1_slot_of(l1, shard, rec);
	struct kvh_index_rec *r = &l1->recs[rec];
	uint64_t word = kvh_word_load(r);
	uint64_t old;

	do {
		old = word;
		if (place == KVH_PLACE_PARKED && kvh_word_count(word) == 0)
			return false;
	} while (!kvh_word_swap(r, &word, (word & ~KVH_WORD_PLACE) | (uint64_t)place << 3));
	kvh_l1_unlist(l1, shard, rec, old);
	if (place == KVH_PLACE_KIN) {
		kvh_order_list_put(&l1->items, &slot->lane->kin, rec, KVH_ORDER_NEWEST);
		count_aside(&l1->n_kin, 1);
	} else if (place == KVH_PLACE_LINE) {
		kvh_order_list_put(&l1->items, &shard->line, rec, KVH_ORDER_NEWEST);
		count_aside(&l1->n_line, 1);
		count_aside(&l1->line_bytes, kvh_l1_rec_bytes(l1, rec));
	}
	return true;
}

void kvh_l1_relist(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, bool newest)
{
	struct kvh_l1_slot *slot = kvh_l1_slot_of(l1, shard, rec);
	uint32_t stamp = newest ? kvh_l1_tick(l1, 1) : l1->items.links[rec].stamp;

	kvh_l1_unlist(l1, shard, rec, kvh_word_load(&l1->recs[rec]));
	set_place(&l1->recs[rec], KVH_PLACE_LISTED);
	kvh_order_restore(&slot->lane->order, rec, stamp, newest);
	show(l1, shard, slot, rec);
}

/* ---- another policy ----------------------------------------------------- */

#define MOVED 64u

static void slot_rebuild(struct kvh_l1 *l1, struct kvh_l1_slot *slot,
			 const struct kvh_order_ops *policy)
{
	struct kvh_l1_lane *lane = slot->lane;
	struct kvh_evict_order to;
	uint32_t recs[MOVED], n;

	kvh_order_open(&to, policy, &l1->items);
	while ((n = kvh_order_victims(&lane->order, recs, MOVED)) > 0) {
		for (uint32_t i = 0; i < n; i++) {
			kvh_order_remove(&lane->order, recs[i]);
			kvh_order_insert(&to, recs[i], kvh_l1_identity(l1, recs[i]),
					 KVH_ORDER_NEWEST, l1->items.links[recs[i]].stamp);
		}
	}
	kvh_order_close(&lane->order);
	lane->order = to;
	kvh_l1_show_slot(slot);
}

int kvh_l1_eviction_set(struct kvh_l1 *l1, const char *name)
{
	const struct kvh_order_ops *policy = kvh_order_find(name);

	if (policy == NULL) {
		kvh_err("L1: there is no eviction policy '%s'; there are %s", name,
			kvh_order_names());
		return -EINVAL;
	}
	/* First: a lane that is made meanwhile has it, or is made before its shard's turn. */
	__atomic_store_n(&l1->policy, policy, __ATOMIC_RELAXED);
	for (uint32_t i = 0; i < l1->n_shards; i++) {
		struct kvh_l1_shard *shard = &l1->shards[i];

		kvh_l1_lock(shard);
		for (uint32_t lane = 0; lane < shard->n_lanes; lane++)
			if (shard->slots[lane].lane != NULL)
				slot_rebuild(l1, &shard->slots[lane], policy);
		kvh_l1_show_oldest(l1, shard);
		pthread_mutex_unlock(&shard->lock);
	}
	return 0;
}
