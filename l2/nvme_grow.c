/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_grow.c - gives the frames of a size more slots: wipes the headers of the
 * next ones in a segment, and writes the table that says so. On the controller
 * thread; in one segment at a time, since that is enough for many PUTs.
 *
 * A new file reads as zeros: nothing to wipe. In a used one the wipes cost
 * 4 KiB a slot, or the whole slot where it is at most 64 KiB.
 */
#include "l2/nvme.h"

#include "host/log.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

/* Slots opened at once. Fewer where they have to be wiped: PUTs wait. */
#define VIRGIN_SLOTS 16384u
#define WIPED_SLOTS  1024u
#define WIPED_BYTES  (UINT64_C(16) << 20)

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

#define TO(s) (1u << KVH_NVME_GROW_##s)
static const uint8_t grow_next[] = {
	[KVH_NVME_GROW_IDLE] = TO(FLUSH) | TO(AGAIN) | TO(DROP) | TO(WIPE) | TO(TABLE),
	[KVH_NVME_GROW_FLUSH] = TO(AGAIN) | TO(DROP) | TO(TABLE) | TO(IDLE),
	[KVH_NVME_GROW_AGAIN] = TO(FLUSH) | TO(IDLE),
	[KVH_NVME_GROW_DROP] = TO(WIPE) | TO(IDLE),
	[KVH_NVME_GROW_WIPE] = TO(FLUSH) | TO(AGAIN) | TO(TABLE) | TO(IDLE),
	[KVH_NVME_GROW_TABLE] = TO(IDLE),
};

static void grow_move(struct kvh_nvme_grow *grow, enum kvh_nvme_grow_state to)
{
	assert(grow_next[grow->state] & (1u << to));
	grow->state = to;
}

static bool wipe_next(struct kvh_nvme_stripe *stripe, struct kvh_nvme_io *io)
{
	struct kvh_nvme_grow *grow = &stripe->grow;
	uint64_t len = grow->step == KVH_NVME_ZEROS ? KVH_NVME_ZEROS : KVH_NVME_PAGE;

	if (grow->at >= grow->end)
		return false;
	len = min_u64(len, grow->end - grow->at);
	grow->running++;
	io->owner = KVH_NVME_OWNER_GROW;
	kvh_nvme_start(stripe, io, KVH_NVME_STORE, stripe->nvme->zeros, len, grow->at,
		       KVH_NVME_NONE);
	grow->at += grow->step;
	return true;
}

static void table_fill(const struct kvh_nvme_stripe *stripe, struct kvh_nvme_table_page *table,
		       uint32_t page, uint64_t generation)
{
	const struct kvh_nvme_index *index = &stripe->index;
	uint32_t first = page * KVH_NVME_ENTRIES;

	memset(table, 0, sizeof(*table));
	table->page = page;
	table->generation = generation;
	for (uint32_t e = 0; e < KVH_NVME_ENTRIES && first + e < index->super->segments; e++) {
		const struct kvh_nvme_segment *segment = &index->segments[first + e];
		struct kvh_nvme_entry *entry = &table->entries[e];

		entry->flags = segment->virgin ? KVH_NVME_VIRGIN : 0;
		if (segment->class == KVH_NVME_NONE)
			continue;
		entry->slot_bytes = index->classes[segment->class].slot_bytes;
		entry->used = segment->used;
		if (first + e == stripe->grow.segment &&
		    stripe->grow.state == KVH_NVME_GROW_TABLE)
			entry->used += stripe->grow.count;
	}
	kvh_nvme_table_seal(table);
}

/* DROP and TABLE differ in whether the new slots are in. AGAIN: what is there
 * already, in its place. */
static void table_write(struct kvh_nvme_stripe *stripe, enum kvh_nvme_grow_state state)
{
	struct kvh_nvme_grow *grow = &stripe->grow;
	struct kvh_nvme_table_page *table = stripe->file->page;
	bool again = state == KVH_NVME_GROW_AGAIN;
	uint32_t page = again ? grow->dirty_page : grow->segment / KVH_NVME_ENTRIES;

	grow_move(grow, state);
	table_fill(stripe, table, page, stripe->file->generations[page] + (again ? 0 : 1));
	grow->unflushed = true;
	grow->running++;
	grow->ios[0].owner = KVH_NVME_OWNER_GROW;
	kvh_nvme_start(stripe, &grow->ios[0], KVH_NVME_STORE, table, KVH_NVME_PAGE,
		       kvh_nvme_table_offset(stripe->file->super, page, table->generation),
		       KVH_NVME_NONE);
}

static void flush(struct kvh_nvme_stripe *stripe)
{
	struct kvh_nvme_grow *grow = &stripe->grow;
	struct kvh_nvme_io *io = &grow->ios[0];

	grow_move(grow, KVH_NVME_GROW_FLUSH);
	grow->running++;
	stripe->running++;
	io->owner = KVH_NVME_OWNER_GROW;
	io->dir = KVH_NVME_FLUSH_ONE;
	io->region = (uint32_t)(stripe - stripe->nvme->stripes);
	kvh_nvme_side_start(stripe->nvme->side, io);
}

static void flush_and_write(struct kvh_nvme_stripe *stripe, enum kvh_nvme_grow_state next)
{
	struct kvh_nvme_grow *grow = &stripe->grow;

	grow->next = next;
	if (!grow->unflushed || stripe->nvme->conf.sync == KVH_NVME_SYNC_WRITE)
		table_write(stripe, next);
	else if (grow->lost && grow->table_dirty)
		table_write(stripe, KVH_NVME_GROW_AGAIN);
	else
		flush(stripe);
}

static void grow_fail(struct kvh_nvme_stripe *stripe)
{
	struct kvh_nvme_grow *grow = &stripe->grow;

	kvh_warn("nvme: %s: segment %" PRIu32 " cannot be used: %s", stripe->file->path,
		 grow->segment, strerror(-grow->status));
	stripe->index.segments[grow->segment].failed = true;
	grow_move(grow, KVH_NVME_GROW_IDLE);
}

/* Another failure after AGAIN ends it: the table is not written over the one copy
 * that may be left. */
static void flush_ended(struct kvh_nvme_stripe *stripe, int result)
{
	struct kvh_nvme_grow *grow = &stripe->grow;
	bool again = grow->lost;

	if (result == 0) {
		grow->unflushed = grow->table_dirty = grow->lost = false;
		table_write(stripe, grow->next);
		return;
	}
	kvh_nvme_flush_failed(stripe->nvme, result);
	if (!grow->table_dirty) {
		table_write(stripe, grow->next);
	} else if (!again) {
		table_write(stripe, KVH_NVME_GROW_AGAIN);
	} else {
		grow->status = result;
		grow_fail(stripe);
	}
}

static void wipe_begin(struct kvh_nvme_stripe *stripe)
{
	grow_move(&stripe->grow, KVH_NVME_GROW_WIPE);
	stripe->grow.unflushed = true;
	for (uint32_t n = 0; n < KVH_NVME_GROW_IOS; n++)
		(void)wipe_next(stripe, &stripe->grow.ios[n]);
}

static uint64_t count_slots(const struct kvh_nvme_index *index, uint32_t i, uint64_t slot_bytes)
{
	const struct kvh_nvme_segment *segment = &index->segments[i];
	uint64_t most = segment->virgin ? VIRGIN_SLOTS
					: min_u64(WIPED_SLOTS, WIPED_BYTES / slot_bytes);

	return min_u64(most == 0 ? 1 : most,
		       kvh_nvme_segment_slots(index, i, slot_bytes) - segment->used);
}

void kvh_nvme_grow_start(struct kvh_nvme_stripe *stripe, uint32_t i, uint32_t class)
{
	struct kvh_nvme_grow *grow = &stripe->grow;
	struct kvh_nvme_index *index = &stripe->index;
	struct kvh_nvme_segment *segment = &index->segments[i];
	uint64_t slot_bytes = index->classes[class].slot_bytes;
	uint64_t offset = kvh_nvme_segment_offset(index->super, i);
	assert(!kvh_nvme_growing(stripe) && grow->running == 0);
	if (segment->class != class || segment->drained) {
		if (segment->class != KVH_NVME_NONE)
			kvh_nvme_segment_clear(index, i);
		kvh_nvme_segment_assign(index, i, class);
	}
	grow->segment = i;
	grow->class = class;
	grow->count = (uint32_t)count_slots(index, i, slot_bytes);
	assert(grow->count > 0);
	grow->status = 0;
	grow->at = offset + segment->used * slot_bytes;
	grow->end = grow->at + grow->count * slot_bytes;
	grow->step = slot_bytes <= KVH_NVME_ZEROS ? KVH_NVME_ZEROS : slot_bytes;
	if (segment->stale)
		flush_and_write(stripe, KVH_NVME_GROW_DROP);
	else if (segment->virgin)
		flush_and_write(stripe, KVH_NVME_GROW_TABLE);
	else
		wipe_begin(stripe);
}

void kvh_nvme_grow_settle(struct kvh_nvme_stripe *stripe)
{
	struct kvh_nvme_grow *grow = &stripe->grow;
	uint32_t i = kvh_nvme_growing(stripe)
			     ? KVH_NVME_NONE
			     : kvh_nvme_segment_unsettled(&stripe->index, false);

	if (i == KVH_NVME_NONE)
		return;
	if (stripe->index.segments[i].drained)
		kvh_nvme_segment_clear(&stripe->index, i);
	grow->segment = i;
	grow->class = KVH_NVME_NONE;
	grow->count = 0;
	grow->status = 0;
	flush_and_write(stripe, KVH_NVME_GROW_DROP);
}

static void table_written(struct kvh_nvme_stripe *stripe)
{
	struct kvh_nvme_grow *grow = &stripe->grow;

	grow->table_dirty = true;
	grow->dirty_page = grow->segment / KVH_NVME_ENTRIES;
	stripe->file->generations[grow->dirty_page]++;
	if (grow->state == KVH_NVME_GROW_DROP) {
		kvh_nvme_segment_settled(&stripe->index, grow->segment);
		if (grow->count > 0)
			wipe_begin(stripe);
		else
			grow_move(grow, KVH_NVME_GROW_IDLE);
		return;
	}
	grow->status = kvh_nvme_segment_open(&stripe->index, grow->segment, grow->count);
	if (grow->status < 0)
		grow_fail(stripe);
	else
		grow_move(grow, KVH_NVME_GROW_IDLE);
}

/* All transfers of a state have ended, well. */
static void grow_on(struct kvh_nvme_stripe *stripe)
{
	switch (stripe->grow.state) {
	case KVH_NVME_GROW_AGAIN: flush(stripe); break;
	case KVH_NVME_GROW_WIPE: flush_and_write(stripe, KVH_NVME_GROW_TABLE); break;
	case KVH_NVME_GROW_DROP:
	case KVH_NVME_GROW_TABLE: table_written(stripe); break;
	case KVH_NVME_GROW_FLUSH:
	case KVH_NVME_GROW_IDLE: assert(false);
	}
}

void kvh_nvme_grow_ended(struct kvh_nvme_stripe *stripe, struct kvh_nvme_io *io)
{
	struct kvh_nvme_grow *grow = &stripe->grow;

	assert(grow->running > 0);
	grow->running--;
	if (grow->state == KVH_NVME_GROW_FLUSH) {
		flush_ended(stripe, io->result);
		return;
	}
	if (io->result < 0 && grow->status == 0)
		grow->status = io->result;
	if (grow->status == 0 && grow->state == KVH_NVME_GROW_WIPE && wipe_next(stripe, io))
		return;
	if (grow->running > 0)
		return;
	if (grow->status < 0)
		grow_fail(stripe);
	else
		grow_on(stripe);
}
