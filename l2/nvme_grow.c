/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_grow.c - gives the frames of a size more slots: wipes the headers of the
 * next ones in a segment, and writes the table that says so. On the controller
 * thread; one extent at a time, since one is enough for many PUTs.
 *
 * A new file reads as zeros: nothing to wipe. In a used one the wipes cost
 * 4 KiB a slot, or the whole slot where it is at most 64 KiB.
 */
#include "l2/nvme.h"

#include "host/log.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

/* Bytes of slots opened at once. Fewer where they have to be wiped: PUTs wait. */
#define GROW_VIRGIN (UINT64_C(64) << 20)
#define GROW_WIPED  (UINT64_C(16) << 20)

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void grow_move(struct kvh_nvme_grow *grow, enum kvh_nvme_grow_state to)
{
	assert(to == KVH_NVME_GROW_IDLE || grow->state == KVH_NVME_GROW_IDLE ||
	       (grow->state == KVH_NVME_GROW_WIPE && to == KVH_NVME_GROW_TABLE));
	grow->state = to;
}

static bool wipe_next(struct kvh_nvme *nvme, struct kvh_nvme_io *io)
{
	struct kvh_nvme_grow *grow = &nvme->grow;
	uint64_t len = grow->step == KVH_NVME_ZEROS ? KVH_NVME_ZEROS : KVH_NVME_PAGE;

	if (grow->at >= grow->end)
		return false;
	len = min_u64(len, grow->end - grow->at);
	grow->running++;
	io->owner = KVH_NVME_OWNER_GROW;
	kvh_nvme_start(nvme, io, KVH_IO_WRITE, nvme->zeros, len, grow->at, KVH_NVME_NONE);
	grow->at += grow->step;
	return true;
}

static void table_fill(const struct kvh_nvme *nvme, struct kvh_nvme_table_page *table,
		       uint32_t page)
{
	const struct kvh_nvme_index *index = &nvme->index;
	uint32_t first = page * KVH_NVME_ENTRIES;

	memset(table, 0, sizeof(*table));
	table->page = page;
	table->generation = nvme->file.generations[page] + 1;
	for (uint32_t e = 0; e < KVH_NVME_ENTRIES && first + e < index->super->segments; e++) {
		const struct kvh_nvme_segment *segment = &index->segments[first + e];
		struct kvh_nvme_entry *entry = &table->entries[e];

		entry->flags = segment->virgin ? KVH_NVME_VIRGIN : 0;
		if (segment->class == KVH_NVME_NONE)
			continue;
		entry->slot_bytes = index->classes[segment->class].slot_bytes;
		entry->used = segment->used;
		if (first + e == nvme->grow.segment)
			entry->used += nvme->grow.count;
	}
	kvh_nvme_table_seal(table);
}

static void table_write(struct kvh_nvme *nvme)
{
	struct kvh_nvme_grow *grow = &nvme->grow;
	struct kvh_nvme_table_page *table = nvme->file.page;
	uint32_t page = grow->segment / KVH_NVME_ENTRIES;

	grow_move(grow, KVH_NVME_GROW_TABLE);
	table_fill(nvme, table, page);
	grow->running++;
	grow->ios[0].owner = KVH_NVME_OWNER_GROW;
	kvh_nvme_start(nvme, &grow->ios[0], KVH_IO_WRITE, table, KVH_NVME_PAGE,
		       kvh_nvme_table_offset(nvme->file.super, page, table->generation),
		       KVH_NVME_NONE);
}

void kvh_nvme_grow_start(struct kvh_nvme *nvme, uint32_t i, uint32_t class)
{
	struct kvh_nvme_grow *grow = &nvme->grow;
	struct kvh_nvme_index *index = &nvme->index;
	struct kvh_nvme_segment *segment = &index->segments[i];
	uint64_t slot_bytes = index->classes[class].slot_bytes;
	uint64_t offset = kvh_nvme_segment_offset(index->super, i);
	uint64_t count;

	assert(!kvh_nvme_growing(nvme) && grow->running == 0);
	if (segment->class != class || segment->drained) {
		if (segment->class != KVH_NVME_NONE)
			kvh_nvme_segment_clear(index, i);
		kvh_nvme_segment_assign(index, i, class);
	}
	count = (segment->virgin ? GROW_VIRGIN : GROW_WIPED) / slot_bytes;
	count = min_u64(count, KVH_NVME_EXTENT_SLOTS);
	count = min_u64(count == 0 ? 1 : count,
			kvh_nvme_segment_slots(index, i, slot_bytes) - segment->used);
	assert(count > 0);
	grow->segment = i;
	grow->class = class;
	grow->count = (uint32_t)count;
	grow->status = 0;
	grow->at = offset + segment->used * slot_bytes;
	grow->end = grow->at + count * slot_bytes;
	grow->step = slot_bytes <= KVH_NVME_ZEROS ? KVH_NVME_ZEROS : slot_bytes;
	if (segment->virgin) {
		table_write(nvme);
		return;
	}
	grow_move(grow, KVH_NVME_GROW_WIPE);
	for (uint32_t n = 0; n < KVH_NVME_GROW_IOS; n++)
		(void)wipe_next(nvme, &grow->ios[n]);
}

static void grow_finish(struct kvh_nvme *nvme)
{
	struct kvh_nvme_grow *grow = &nvme->grow;
	uint32_t extent;

	if (grow->status == 0 && grow->state == KVH_NVME_GROW_TABLE) {
		nvme->file.generations[grow->segment / KVH_NVME_ENTRIES]++;
		grow->status = kvh_nvme_segment_open(&nvme->index, grow->segment, grow->count,
						     &extent);
	}
	if (grow->status < 0) {
		kvh_warn("nvme: %s: segment %" PRIu32 " cannot be used: %s", nvme->conf.path,
			 grow->segment, strerror(-grow->status));
		nvme->index.segments[grow->segment].failed = true;
	}
	grow_move(grow, KVH_NVME_GROW_IDLE);
}

void kvh_nvme_grow_ended(struct kvh_nvme *nvme, struct kvh_nvme_io *io)
{
	struct kvh_nvme_grow *grow = &nvme->grow;

	assert(grow->running > 0);
	grow->running--;
	if (io->result < 0 && grow->status == 0)
		grow->status = io->result;
	if (grow->status == 0 && grow->state == KVH_NVME_GROW_WIPE && wipe_next(nvme, io))
		return;
	if (grow->running > 0)
		return;
	if (grow->status == 0 && grow->state == KVH_NVME_GROW_WIPE)
		table_write(nvme);
	else
		grow_finish(nvme);
}
