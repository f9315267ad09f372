/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_scan.c - builds the index from the medium: the header page of every slot
 * that the table names is read, many at a time, and a sound one is a frame. On
 * the thread that opens; blocks. A frame that is torn behind its header is found
 * when it is read and verified.
 *
 * Of two frames of one key, which only a crash can leave, the later one stays.
 */
#include "l2/nvme.h"

#include "host/frame.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>

#define SCAN_DEPTH 64u
#define POLL_MS    100 /* should a wake-up be missed */

struct scan {
	struct kvh_nvme *nvme;
	uint32_t extent, place; /* of the next slot to read */
	uint32_t depth, running;
	char *pages; /* [depth] */
	struct kvh_nvme_io ios[SCAN_DEPTH];
	uint32_t slots[SCAN_DEPTH]; /* that each reads */
	uint64_t unreadable;
};

/* ---- the segments, from the table ---- */

static int segment_load(struct kvh_nvme_index *index, uint32_t i,
			const struct kvh_nvme_entry *entry)
{
	uint32_t extent, left = entry->used;

	index->segments[i].virgin = (entry->flags & KVH_NVME_VIRGIN) != 0;
	if (entry->slot_bytes == 0)
		return 0;
	if (entry->slot_bytes % KVH_NVME_PAGE != 0 ||
	    entry->used > kvh_nvme_segment_slots(index, i, entry->slot_bytes)) {
		kvh_warn("nvme: segment %" PRIu32 ": %" PRIu32 " slots of %" PRIu64
			 " bytes do not fit, its frames are lost",
			 i, entry->used, entry->slot_bytes);
		index->segments[i].virgin = false;
		return 0;
	}
	kvh_nvme_segment_assign(index, i, kvh_nvme_class_get(index, entry->slot_bytes));
	while (left > 0) {
		uint32_t n = left < KVH_NVME_EXTENT_SLOTS ? left : KVH_NVME_EXTENT_SLOTS;
		int ret = kvh_nvme_segment_open(index, i, n, &extent);

		if (ret < 0)
			return ret;
		left -= n;
	}
	return 0;
}

static int segments_load(struct kvh_nvme *nvme)
{
	uint32_t n = nvme->file.super->segments;
	struct kvh_nvme_entry *entries = calloc(n, sizeof(*entries));
	int ret;

	if (entries == NULL)
		return -ENOMEM;
	ret = kvh_nvme_file_read_table(&nvme->file, entries);
	for (uint32_t i = 0; i < n && ret == 0; i++)
		ret = segment_load(&nvme->index, i, &entries[i]);
	free(entries);
	return ret;
}

/* ---- the frames, from the headers ---- */

static void wipe_now(struct kvh_nvme *nvme, uint32_t slot)
{
	int ret;

	kvh_nvme_slot_wipe(&nvme->index, slot);
	ret = kvh_nvme_file_write(&nvme->file, nvme->zeros, KVH_NVME_PAGE,
				  kvh_nvme_slot_offset(&nvme->index, slot));
	kvh_nvme_slot_wiped(&nvme->index, slot, ret == 0);
}

/* Of the frame in a slot; 0 if it cannot be read. */
static uint64_t sequence_of(struct kvh_nvme *nvme, uint32_t slot)
{
	const struct kvh_frame_header *header = nvme->file.page;

	if (kvh_nvme_file_read(&nvme->file, nvme->file.page, KVH_NVME_PAGE,
			       kvh_nvme_slot_offset(&nvme->index, slot)) < 0)
		return 0;
	return header->sequence;
}

static void take_header(struct scan *scan, uint32_t slot, const void *page, int result)
{
	struct kvh_nvme *nvme = scan->nvme;
	const struct kvh_frame_header *header = page;
	uint32_t other;

	if (result < 0) {
		scan->unreadable++;
		kvh_nvme_slot_bad(&nvme->index, slot);
		return;
	}
	if (kvh_frame_check_header(header) < 0 ||
	    header->frame_bytes != kvh_nvme_slot_bytes(&nvme->index, slot))
		return;
	kvh_nvme_slot_claim(&nvme->index, slot);
	other = kvh_nvme_index_find(&nvme->index, &header->key);
	if (other != KVH_NVME_NONE && sequence_of(nvme, other) > header->sequence) {
		wipe_now(nvme, slot);
		return;
	}
	other = kvh_nvme_slot_publish(&nvme->index, slot, &header->key);
	if (other != KVH_NVME_NONE)
		wipe_now(nvme, other);
}

/* KVH_NVME_NONE after the last. */
static uint32_t next_slot(struct scan *scan)
{
	const struct kvh_nvme_index *index = &scan->nvme->index;

	while (scan->extent < index->n_extents && index->extents[scan->extent] != NULL) {
		if (scan->place < index->extents[scan->extent]->count)
			return scan->extent * KVH_NVME_EXTENT_SLOTS + scan->place++;
		scan->extent++;
		scan->place = 0;
	}
	return KVH_NVME_NONE;
}

static void read_next(struct scan *scan, uint32_t i)
{
	struct kvh_nvme *nvme = scan->nvme;
	uint32_t slot = next_slot(scan);

	if (slot == KVH_NVME_NONE)
		return;
	scan->slots[i] = slot;
	scan->running++;
	kvh_nvme_start(nvme, &scan->ios[i], KVH_IO_READ, scan->pages + i * KVH_NVME_PAGE,
		       KVH_NVME_PAGE, kvh_nvme_slot_offset(&nvme->index, slot), KVH_NVME_NONE);
}

static void headers_read(struct scan *scan)
{
	struct kvh_nvme *nvme = scan->nvme;
	struct pollfd pfd = {.fd = nvme->efd, .events = POLLIN};

	for (uint32_t i = 0; i < scan->depth; i++)
		read_next(scan, i);
	while (scan->running > 0) {
		struct kvh_nvme_io *io;

		(void)poll(&pfd, 1, POLL_MS);
		kvh_event_clear(nvme->efd);
		io = nvme->engine_ops->reap(nvme->engine);
		while (io != NULL) {
			uint32_t i = (uint32_t)(io - scan->ios);

			io = io->next; /* before it is started again */
			nvme->running--;
			scan->running--;
			take_header(scan, scan->slots[i], scan->pages + i * KVH_NVME_PAGE,
				    scan->ios[i].result);
			read_next(scan, i);
		}
	}
}

int kvh_nvme_scan(struct kvh_nvme *nvme)
{
	struct scan *scan;
	int ret = segments_load(nvme);

	if (ret < 0)
		return ret;
	scan = calloc(1, sizeof(*scan));
	if (scan == NULL)
		return -ENOMEM;
	scan->nvme = nvme;
	scan->depth = nvme->conf.depth < SCAN_DEPTH ? nvme->conf.depth : SCAN_DEPTH;
	scan->pages = aligned_alloc(KVH_NVME_PAGE, scan->depth * KVH_NVME_PAGE);
	if (scan->pages != NULL)
		headers_read(scan);
	else
		ret = -ENOMEM;
	if (scan->unreadable > 0)
		kvh_warn("nvme: %s: %" PRIu64 " slots cannot be read and are set aside",
			 nvme->conf.path, scan->unreadable);
	free(scan->pages);
	free(scan);
	return ret;
}
