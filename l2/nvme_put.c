/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_put.c - where the frame of a PUT goes: a free slot, one that is opened for
 * it, or that of a frame which gives way. On the thread of the adapter's calls.
 *
 * While writes fail, the slot of the last one is tried again: a burst of errors
 * costs few frames, not all of them. But it may be the slot that fails, not the disk,
 * so now and then another frame gives way.
 *
 * A frame that gives way costs no transfer: the new one is written over it. What
 * does take some is opening slots, so it begins before the last free one is taken.
 */
#include "l2/nvme.h"

#include "host/log.h"

#include <errno.h>
#include <inttypes.h>

#define FRESH_EVERY 16u /* failed writes in a row, from one other frame to the next */
#define IDLE_EVERY  16u /* evictions from one search for an idle segment to the next */
#define LOW_BYTES   (UINT64_C(16) << 20)
#define LOW_MAX     64u

/* The last write failed, and so may the next: no frame is given up for it. */
static bool writes_fail(const struct kvh_nvme_stripe *stripe)
{
	return stripe->write_errors > 0 || stripe->grow.status < 0;
}

/* A segment in which the class can get more slots: for nothing; else now and
 * then, or if it has no frame to evict, one that has been idle for longer. A class
 * without frames gets one also after a failed write: no other would tell whether the
 * disk writes again. */
static uint32_t find_segment(struct kvh_nvme_stripe *stripe, uint32_t class)
{
	struct kvh_nvme_index *index = &stripe->index;
	bool none = index->classes[class].live == 0;
	uint32_t segment = kvh_nvme_segment_room(index, class);

	if (segment != KVH_NVME_NONE || kvh_nvme_growing(stripe) || stripe->grow.status < 0 ||
	    (stripe->write_errors > 0 && !none))
		return segment;
	if (none || index->evicted % IDLE_EVERY == 0)
		segment = kvh_nvme_segment_idle(index, class);
	if (segment == KVH_NVME_NONE && none)
		kvh_nvme_segment_drain(index, class);
	return segment;
}

/* So many free slots are left, no more are being opened: opens some. */
static void grow_early(struct kvh_nvme_stripe *stripe, uint32_t class)
{
	const struct kvh_nvme_class *c = &stripe->index.classes[class];
	uint64_t low = LOW_BYTES / c->slot_bytes;
	uint32_t segment;

	if (c->free.n != (low < 1         ? 1
			  : low < LOW_MAX ? low
					  : LOW_MAX) ||
	    kvh_nvme_growing(stripe))
		return;
	segment = kvh_nvme_segment_room(&stripe->index, class);
	if (segment != KVH_NVME_NONE)
		kvh_nvme_grow_start(stripe, segment, class);
}

/* ---- limits of a space ---- */

static bool anything_runs(const struct kvh_nvme *nvme)
{
	for (uint32_t i = 0; i < nvme->n_stripes; i++) {
		if (nvme->stripes[i].running > 0)
			return true;
	}
	return false;
}

/* Of the space, wherever: it gives way. False: none can. */
static bool drop_one(struct kvh_nvme_stripe *first, const struct kvh_nvme_space *space)
{
	struct kvh_nvme *nvme = first->nvme;
	uint32_t start = (uint32_t)(first - nvme->stripes);

	for (uint32_t i = 0; i < nvme->n_stripes; i++) {
		struct kvh_nvme_stripe *stripe = &nvme->stripes[(start + i) % nvme->n_stripes];
		uint32_t slot = kvh_nvme_pool_victim_of(&stripe->index, space, KVH_NVME_NONE);

		if (slot == KVH_NVME_NONE)
			continue;
		kvh_nvme_slot_drop(&stripe->index, slot);
		kvh_nvme_wipe_later(stripe, slot);
		return true;
	}
	return false;
}

/* Makes room within the hard limit. *slot_p: the slot of a frame that gave way for
 * it, or KVH_NVME_NONE. -EDQUOT, -EAGAIN. */
static int make_room(struct kvh_nvme_stripe *stripe, uint32_t pool, uint64_t len,
		     uint32_t *slot_p)
{
	struct kvh_nvme_index *index = &stripe->index;
	const struct kvh_nvme_space *space = index->pools[pool].space;
	uint64_t hard = space->hard_bytes;

	*slot_p = KVH_NVME_NONE;
	if (hard == 0)
		return 0;
	if (len > hard)
		return -EDQUOT;
	while (space->used_bytes > hard) {
		if (!drop_one(stripe, space))
			return anything_runs(stripe->nvme) ? -EAGAIN : -EDQUOT;
	}
	if (space->used_bytes + len <= hard)
		return 0;
	*slot_p = kvh_nvme_pool_victim_of(index, space, index->pools[pool].class);
	if (*slot_p != KVH_NVME_NONE) {
		kvh_nvme_slot_evict(index, *slot_p, pool);
		return 0;
	}
	while (space->used_bytes + len > hard) {
		if (!drop_one(stripe, space))
			return anything_runs(stripe->nvme) ? -EAGAIN : -EDQUOT;
	}
	return 0;
}

/* ---- all of it ---- */

/* A slot for a frame of the pool. -EAGAIN: something has to end first. */
static int find_slot(struct kvh_nvme_stripe *stripe, uint32_t pool, uint64_t len,
		     uint32_t *slot_p)
{
	struct kvh_nvme_index *index = &stripe->index;
	uint32_t class = index->pools[pool].class;
	uint32_t segment, victim;
	int ret = make_room(stripe, pool, len, slot_p);

	if (ret < 0 || *slot_p != KVH_NVME_NONE)
		return ret;
	*slot_p = kvh_nvme_slot_take(index, pool);
	if (*slot_p == KVH_NVME_NONE && writes_fail(stripe) &&
	    stripe->write_errors % FRESH_EVERY != 1)
		*slot_p = kvh_nvme_slot_retry(index, pool);
	if (*slot_p != KVH_NVME_NONE) {
		grow_early(stripe, class);
		return 0;
	}
	if (kvh_nvme_growing(stripe) && stripe->grow.class == class)
		return -EAGAIN;
	segment = find_segment(stripe, class);
	if (segment != KVH_NVME_NONE) {
		if (!kvh_nvme_growing(stripe))
			kvh_nvme_grow_start(stripe, segment, class);
		return -EAGAIN;
	}
	if (stripe->grow.status < 0 && index->classes[class].live == 0)
		return stripe->running > 0 ? -EAGAIN : stripe->grow.status;
	victim = kvh_nvme_pool_victim(index, class);
	if (victim != KVH_NVME_NONE) {
		kvh_nvme_slot_evict(index, victim, pool);
		*slot_p = victim;
		return 0;
	}
	if (stripe->running > 0)
		return -EAGAIN;
	return stripe->grow.status < 0 ? stripe->grow.status : -ENOSPC;
}

static int place(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req, uint32_t *slot_p)
{
	uint32_t class = kvh_nvme_class_get(&stripe->index, req->len);
	uint32_t pool;
	int ret = kvh_nvme_pool_get(&stripe->index, class, req->key.space, &pool);

	return ret < 0 ? ret : find_slot(stripe, pool, req->len, slot_p);
}

void kvh_nvme_pump(struct kvh_nvme_stripe *stripe)
{
	struct kvh_req_fifo all = stripe->waiting;
	struct kvh_l2_req *req;

	stripe->waiting = (struct kvh_req_fifo){NULL, NULL};
	while ((req = kvh_req_pop(&all)) != NULL) {
		uint32_t slot;
		int ret = place(stripe, req, &slot);

		if (ret == -EAGAIN)
			kvh_req_push(&stripe->waiting, req);
		else if (ret < 0)
			kvh_nvme_task_finish(stripe->nvme, req, ret);
		else
			kvh_nvme_task_write(stripe, req, slot);
	}
}
