/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_wipe.c - wipes that no request waits for, room that is given back, and
 * CLEAR. On the thread of the adapter's calls; a CLEAR goes on some slots at a
 * time, so that the thread is not held up by it.
 *
 * A slot of a deleted frame, with discard=yes, stays WIPING until the room was
 * given back: nobody can write into it before.
 *
 * A CLEAR is over when no crash can bring a frame of its space back: what it found
 * is wiped, and so is what had given way before and was still on the medium.
 *
 *   idle + running == KVH_NVME_WIPE_IOS
 */
#include "l2/nvme.h"

#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define CLEAR_EXTENTS 32u  /* looked at in one step */
#define CLEAR_DOOMED  256u /* no more are doomed before some have been wiped */

void kvh_nvme_wiper_init(struct kvh_nvme_stripe *stripe)
{
	struct kvh_nvme_wiper *wiper = &stripe->wiper;

	kvh_order_list_init(&wiper->doomed);
	kvh_order_list_init(&wiper->trims);
	for (uint32_t i = 0; i < KVH_NVME_WIPE_IOS; i++) {
		wiper->idle[i] = i;
		wiper->slots[i] = KVH_NVME_NONE;
	}
}

static bool list_has(const struct kvh_nvme_index *index, const struct kvh_order_list *list,
		     const struct kvh_key *key)
{
	uint32_t slot = list->oldest;

	for (; slot != KVH_NVME_NONE; slot = index->items.links[slot].newer) {
		if (kvh_nvme_slot_resembles(index, slot, key))
			return true;
	}
	return false;
}

bool kvh_nvme_bad_has(const struct kvh_nvme_stripe *stripe, const struct kvh_key *key)
{
	for (uint32_t i = 0; i < stripe->index.n_classes; i++) {
		if (list_has(&stripe->index, &stripe->index.classes[i].failed, key))
			return true;
	}
	return false;
}

bool kvh_nvme_wiper_has(const struct kvh_nvme_stripe *stripe, const struct kvh_key *key)
{
	const struct kvh_nvme_wiper *wiper = &stripe->wiper;
	const struct kvh_nvme_index *index = &stripe->index;

	if (list_has(index, &wiper->doomed, key))
		return true;
	for (uint32_t i = 0; i < KVH_NVME_WIPE_IOS; i++) {
		if (wiper->slots[i] != KVH_NVME_NONE && !wiper->trimming[i] &&
		    kvh_nvme_slot_resembles(index, wiper->slots[i], key))
			return true;
	}
	return false;
}

static uint32_t take(struct kvh_nvme_stripe *stripe, struct kvh_order_list *list)
{
	uint32_t slot = list->oldest;

	if (slot != KVH_NVME_NONE)
		kvh_order_list_take(&stripe->index.items, list, slot);
	return slot;
}

static void start_wipe(struct kvh_nvme_stripe *stripe, uint32_t i, uint32_t slot)
{
	kvh_nvme_slot_wipe(&stripe->index, slot);
	stripe->wiper.trimming[i] = false;
	kvh_nvme_start(stripe, &stripe->wiper.ios[i], KVH_NVME_LATER, stripe->nvme->zeros,
		       KVH_NVME_PAGE, kvh_nvme_slot_offset(&stripe->index, slot),
		       KVH_NVME_NONE);
}

static void start_trim(struct kvh_nvme_stripe *stripe, uint32_t i, uint32_t slot)
{
	struct kvh_nvme_io *io = &stripe->wiper.ios[i];

	stripe->wiper.trimming[i] = true;
	io->dir = KVH_NVME_DISCARD;
	io->region = (uint32_t)(stripe - stripe->nvme->stripes);
	io->off = kvh_nvme_slot_offset(&stripe->index, slot);
	io->len = kvh_nvme_slot_bytes(&stripe->index, slot);
	stripe->running++;
	kvh_nvme_side_start(stripe->nvme->side, io);
}

static void fill(struct kvh_nvme_stripe *stripe)
{
	struct kvh_nvme_wiper *wiper = &stripe->wiper;

	while (wiper->running < KVH_NVME_WIPE_IOS) {
		uint32_t slot = take(stripe, &wiper->doomed);
		bool trim = slot == KVH_NVME_NONE;
		uint32_t i;

		if (trim)
			slot = take(stripe, &wiper->trims);
		if (slot == KVH_NVME_NONE)
			return;
		wiper->running++;
		i = wiper->idle[KVH_NVME_WIPE_IOS - wiper->running];
		wiper->slots[i] = slot;
		wiper->ios[i].owner = KVH_NVME_OWNER_WIPE;
		if (trim)
			start_trim(stripe, i, slot);
		else
			start_wipe(stripe, i, slot);
	}
}

void kvh_nvme_wipe_later(struct kvh_nvme_stripe *stripe, uint32_t slot)
{
	assert(kvh_nvme_slot_at(&stripe->index, slot)->pins == 0);
	kvh_order_list_put(&stripe->index.items, &stripe->wiper.doomed, slot, KVH_ORDER_NEWEST);
	fill(stripe);
}

static void again(struct kvh_nvme_stripe *stripe, uint32_t slot)
{
	kvh_nvme_slot_doom_again(&stripe->index, slot);
	kvh_nvme_wipe_later(stripe, slot);
}

void kvh_nvme_wipe_again(struct kvh_nvme_stripe *stripe, const struct kvh_key *key)
{
	const struct kvh_nvme_index *index = &stripe->index;

	for (uint32_t i = 0; i < index->n_classes; i++) {
		uint32_t slot = index->classes[i].failed.oldest, next;

		for (; slot != KVH_NVME_NONE; slot = next) {
			next = index->items.links[slot].newer;
			if (key == NULL || kvh_nvme_slot_resembles(index, slot, key))
				again(stripe, slot);
		}
	}
}

void kvh_nvme_wipe_oldest(struct kvh_nvme_stripe *stripe)
{
	for (uint32_t i = 0; i < stripe->index.n_classes; i++) {
		if (stripe->index.classes[i].failed.n > 0)
			again(stripe, stripe->index.classes[i].failed.oldest);
	}
}

/* The first, and then seldom: one that is broken for good fails again and again. */
static void complain(struct kvh_nvme_stripe *stripe, uint32_t slot, int error)
{
	uint32_t n = ++stripe->wipe_errors;

	if ((n & (n - 1)) == 0)
		kvh_warn("nvme: %s: slot at %" PRIu64
			 " cannot be wiped, is set aside: %s (%" PRIu32 " such so far)",
			 stripe->file->path, kvh_nvme_slot_offset(&stripe->index, slot),
			 strerror(-error), n);
}

void kvh_nvme_wiped(struct kvh_nvme_stripe *stripe, uint32_t slot, int result,
		    enum kvh_nvme_why why)
{
	struct kvh_nvme_index *index = &stripe->index;

	if (result < 0) {
		complain(stripe, slot, result);
		if (stripe->wiper.status == 0)
			stripe->wiper.status = result;
	}
	if (result == 0 && why == KVH_NVME_NOT_WRITTEN) {
		kvh_nvme_slot_set_aside(index, slot);
	} else if (result == 0 && why == KVH_NVME_DELETED && stripe->nvme->conf.discard) {
		kvh_order_list_put(&index->items, &stripe->wiper.trims, slot, KVH_ORDER_NEWEST);
		fill(stripe);
	} else {
		kvh_nvme_slot_wiped(index, slot, result == 0);
	}
}

static void trimmed(struct kvh_nvme_stripe *stripe, uint32_t slot, int result)
{
	struct kvh_nvme_conf *conf = &stripe->nvme->conf;

	if (result < 0 && conf->discard) {
		kvh_warn("nvme: %s: room cannot be given back (%s), does without",
			 stripe->file->path, strerror(-result));
		conf->discard = 0;
	}
	kvh_nvme_slot_wiped(&stripe->index, slot, true);
}

void kvh_nvme_wipe_ended(struct kvh_nvme_stripe *stripe, struct kvh_nvme_io *io)
{
	struct kvh_nvme_wiper *wiper = &stripe->wiper;
	uint32_t i = (uint32_t)(io - wiper->ios);
	uint32_t slot = wiper->slots[i];

	wiper->idle[KVH_NVME_WIPE_IOS - wiper->running] = i;
	wiper->running--;
	wiper->slots[i] = KVH_NVME_NONE;
	if (wiper->trimming[i])
		trimmed(stripe, slot, io->result);
	else
		kvh_nvme_wiped(stripe, slot, io->result, KVH_NVME_DELETED);
	fill(stripe);
}

/* ---- CLEAR ---- */

/* What is doomed and read by a GET comes to the wiper when that has ended. */
static bool is_busy(const struct kvh_nvme_stripe *stripe)
{
	return stripe->wiper.doomed.n > 0 || stripe->wiper.running > 0 ||
	       stripe->wiper.orphans > 0 || kvh_nvme_unsettled(stripe);
}

static void doom_one(struct kvh_nvme_stripe *stripe, uint32_t slot)
{
	kvh_nvme_slot_doom(&stripe->index, slot);
	if (kvh_nvme_slot_at(&stripe->index, slot)->pins == 0)
		kvh_nvme_wipe_later(stripe, slot);
	else
		stripe->wiper.orphans++;
}

static void doom_in(struct kvh_nvme_stripe *stripe, uint32_t e,
		    const struct kvh_nvme_space *space)
{
	const struct kvh_nvme_index *index = &stripe->index;
	const struct kvh_nvme_extent *extent = index->extents[e];

	for (uint32_t s = 0; extent != NULL && s < extent->count; s++) {
		if (extent->slots[s].state == KVH_NVME_LIVE &&
		    index->pools[extent->slots[s].pool].space == space)
			doom_one(stripe, e * KVH_NVME_EXTENT_SLOTS + s);
	}
}

enum step { STEP_MORE, STEP_WAIT, STEP_END };

/* Some extents further. WAIT: for wipes that run. */
static enum step clear_step(struct kvh_nvme *nvme)
{
	struct kvh_nvme_clear *clear = &nvme->clear;

	for (uint32_t n = 0; n < CLEAR_EXTENTS; n++) {
		struct kvh_nvme_stripe *stripe;

		if (clear->stripe == nvme->n_stripes)
			return STEP_END;
		stripe = &nvme->stripes[clear->stripe];
		if (stripe->wiper.doomed.n >= CLEAR_DOOMED)
			return STEP_WAIT;
		if (clear->extent < stripe->index.n_extents) {
			doom_in(stripe, clear->extent++, clear->space);
		} else {
			clear->stripe++;
			clear->extent = 0;
		}
	}
	return STEP_MORE;
}

static void clear_next(struct kvh_nvme *nvme)
{
	struct kvh_l2_req *req = nvme->clear.waiting.head;

	if (req == NULL)
		return;
	nvme->clear.space = kvh_nvme_space_find(&nvme->spaces, req->key.space);
	nvme->clear.stripe = nvme->clear.space != NULL ? 0 : nvme->n_stripes;
	nvme->clear.extent = 0;
	nvme->clear.marked = false;
	for (uint32_t i = 0; i < nvme->n_stripes; i++)
		nvme->stripes[i].wiper.status = 0;
}

void kvh_nvme_clear_begin(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	bool first = nvme->clear.waiting.head == NULL;

	kvh_req_push(&nvme->clear.waiting, req);
	if (first)
		clear_next(nvme);
	kvh_event_raise(nvme->efd);
}

void kvh_nvme_clear_cancel(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	bool first = nvme->clear.waiting.head == req;

	(void)kvh_req_take(&nvme->clear.waiting, req);
	kvh_nvme_task_finish(nvme, req, -ECANCELED);
	if (first)
		clear_next(nvme);
	kvh_event_raise(nvme->efd);
}

/* What is not in the index any more and may still be on the medium. */
static void mark(struct kvh_nvme *nvme)
{
	kvh_nvme_task_mark(nvme);
	for (uint32_t i = 0; i < nvme->n_stripes; i++)
		kvh_nvme_wipe_again(&nvme->stripes[i], NULL);
	nvme->clear.marked = true;
}

void kvh_nvme_clear_advance(struct kvh_nvme *nvme)
{
	struct kvh_l2_req *req = nvme->clear.waiting.head;
	int status = 0;

	if (req == NULL)
		return;
	switch (clear_step(nvme)) {
	case STEP_MORE: kvh_event_raise(nvme->efd); return;
	case STEP_WAIT: return;
	case STEP_END: break;
	}
	if (!nvme->clear.marked)
		mark(nvme);
	for (uint32_t i = 0; i < nvme->n_stripes; i++) {
		if (is_busy(&nvme->stripes[i]))
			return;
		if (status == 0)
			status = nvme->stripes[i].wiper.status;
		if (status == 0 && nvme->stripes[i].index.unsettled > 0)
			status = -EIO;
	}
	if (nvme->clear.pending > 0)
		return;
	(void)kvh_req_pop(&nvme->clear.waiting);
	kvh_nvme_task_finish(nvme, req, status);
	clear_next(nvme);
	kvh_event_raise(nvme->efd);
}
