/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_scan.c - builds the index from the medium: from the snapshot of a clean
 * close, else the header page of every slot that the table names is read, many at a
 * time in all stripes at once, and a sound one is a frame. On the thread that opens;
 * blocks. A frame that is torn behind its header is found when it is read and
 * verified.
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

#define SCAN_DEPTH 256u                 /* reads at a time, of a stripe */
#define RUN_BYTES  (UINT64_C(32) << 10) /* small slots are read together: as fast */
#define RUN_SLOTS  (RUN_BYTES / KVH_NVME_PAGE)
#define POLL_MS    100 /* should a wake-up be missed */

/* One read: the headers of `n` slots side by side. */
struct reader {
	struct kvh_nvme_io io;
	char *buf; /* RUN_BYTES */
	uint32_t slot, n;
};

/* Of a stripe. */
struct scan {
	struct kvh_nvme_stripe *stripe;
	uint32_t extent, place; /* of the next slot to read */
	uint32_t depth, running;
	char *pages; /* [depth], RUN_BYTES each */
	struct reader readers[SCAN_DEPTH];
	uint64_t unreadable;
};

/* ---- the segments, from the table ---- */

static int segment_load(struct kvh_nvme_index *index, uint32_t i,
			const struct kvh_nvme_entry *entry)
{
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
	return kvh_nvme_segment_open(index, i, entry->used);
}

static int segments_load(struct kvh_nvme_stripe *stripe, const struct kvh_nvme_entry *entries)
{
	int ret = 0;

	for (uint32_t i = 0; i < stripe->file->super->segments && ret == 0; i++)
		ret = segment_load(&stripe->index, i, &entries[i]);
	return ret;
}

/* ---- the frames, from the headers ---- */

static void wipe_now(struct kvh_nvme_stripe *stripe, uint32_t slot)
{
	int ret;

	kvh_nvme_slot_wipe(&stripe->index, slot);
	ret = kvh_nvme_file_write(stripe->file, stripe->nvme->zeros, KVH_NVME_PAGE,
				  kvh_nvme_slot_offset(&stripe->index, slot));
	kvh_nvme_slot_wiped(&stripe->index, slot, ret == 0);
}

/* Of the frame in a slot; 0 if it cannot be read. */
static uint64_t sequence_of(struct kvh_nvme_stripe *stripe, uint32_t slot)
{
	const struct kvh_frame_header *header = stripe->file->page;

	if (kvh_nvme_file_read(stripe->file, stripe->file->page, KVH_NVME_PAGE,
			       kvh_nvme_slot_offset(&stripe->index, slot)) < 0)
		return 0;
	return header->sequence;
}

static int take_header(struct kvh_nvme_stripe *stripe, uint32_t slot,
		       const struct kvh_frame_header *header)
{
	struct kvh_nvme_index *index = &stripe->index;
	const struct kvh_nvme_extent *extent = kvh_nvme_extent_of(index, slot);
	uint32_t other, pool;
	int ret;

	if (kvh_frame_check_header(header) < 0 ||
	    header->frame_bytes != kvh_nvme_slot_bytes(index, slot))
		return 0;
	ret = kvh_nvme_pool_get(index, index->segments[extent->segment].class,
				header->key.space, &pool);
	if (ret < 0)
		return ret;
	kvh_nvme_slot_claim(index, slot, pool);
	other = kvh_nvme_index_find(index, &header->key);
	if (kvh_nvme_stripe_of(stripe->nvme, &header->key) != stripe ||
	    (other != KVH_NVME_NONE && sequence_of(stripe, other) > header->sequence)) {
		wipe_now(stripe, slot);
		return 0;
	}
	other = kvh_nvme_slot_publish(index, slot, &header->key,
				      (uint32_t)header->header_checksum);
	if (other != KVH_NVME_NONE)
		wipe_now(stripe, other);
	return 0;
}

/* Of several slots that cannot be read together, each is tried. */
static int read_again(struct kvh_nvme_stripe *stripe, uint32_t slot, void *page)
{
	return kvh_nvme_file_read(stripe->file, page, KVH_NVME_PAGE,
				  kvh_nvme_slot_offset(&stripe->index, slot));
}

static int take_headers(struct scan *scan, const struct reader *reader)
{
	struct kvh_nvme_stripe *stripe = scan->stripe;
	uint64_t step = kvh_nvme_slot_bytes(&stripe->index, reader->slot);
	int ret = 0;

	for (uint32_t i = 0; i < reader->n && ret == 0; i++) {
		void *page = reader->buf + i * step;
		int result = reader->io.result;

		if (result < 0 && reader->n > 1)
			result = read_again(stripe, reader->slot + i, page);
		if (result == 0) {
			ret = take_header(stripe, reader->slot + i, page);
			continue;
		}
		scan->unreadable++;
		kvh_nvme_slot_bad(&stripe->index, reader->slot + i);
	}
	return ret;
}

/* The next slots that one read is for, side by side in an extent; 0 after the
 * last. */
static uint32_t next_slots(struct scan *scan, uint32_t *slot_p)
{
	const struct kvh_nvme_index *index = &scan->stripe->index;

	for (; scan->extent < index->n_extents; scan->extent++, scan->place = 0) {
		const struct kvh_nvme_extent *extent = index->extents[scan->extent];
		uint64_t n;

		if (extent == NULL || scan->place == extent->count)
			continue;
		*slot_p = scan->extent * KVH_NVME_EXTENT_SLOTS + scan->place;
		n = RUN_BYTES / kvh_nvme_slot_bytes(index, *slot_p);
		n = n < 1 ? 1 : n;
		n = n < extent->count - scan->place ? n : extent->count - scan->place;
		scan->place += (uint32_t)n;
		return (uint32_t)n;
	}
	return 0;
}

static void read_next(struct scan *scan, struct reader *reader)
{
	struct kvh_nvme_stripe *stripe = scan->stripe;
	uint64_t step;

	reader->n = next_slots(scan, &reader->slot);
	if (reader->n == 0)
		return;
	step = kvh_nvme_slot_bytes(&stripe->index, reader->slot);
	scan->running++;
	kvh_nvme_start(stripe, &reader->io, KVH_NVME_LOAD, reader->buf,
		       (reader->n - 1) * step + KVH_NVME_PAGE,
		       kvh_nvme_slot_offset(&stripe->index, reader->slot), KVH_NVME_NONE);
}

static int reap(struct scan *scan)
{
	struct kvh_nvme_stripe *stripe = scan->stripe;
	struct kvh_nvme_io *io = kvh_nvme_sched_reap(&stripe->sched), *next;
	int ret = 0;

	kvh_nvme_sched_plug(&stripe->sched, true);
	for (; io != NULL; io = next) {
		struct reader *reader = (struct reader *)io; /* its first field */

		next = io->next;
		stripe->running--;
		scan->running--;
		if (ret == 0)
			ret = take_headers(scan, reader);
		if (ret == 0)
			read_next(scan, reader);
	}
	kvh_nvme_sched_plug(&stripe->sched, false);
	return ret;
}

/* ---- all stripes ---- */

static struct scan *scan_new(struct kvh_nvme_stripe *stripe)
{
	struct scan *scan = calloc(1, sizeof(*scan));

	if (scan == NULL)
		return NULL;
	scan->stripe = stripe;
	scan->depth = stripe->depth < SCAN_DEPTH ? stripe->depth : SCAN_DEPTH;
	scan->pages = aligned_alloc(KVH_NVME_PAGE, scan->depth * RUN_BYTES);
	if (scan->pages == NULL) {
		free(scan);
		return NULL;
	}
	for (uint32_t i = 0; i < scan->depth; i++)
		scan->readers[i].buf = scan->pages + i * RUN_BYTES;
	return scan;
}

static void scan_free(struct scan *scan)
{
	if (scan == NULL)
		return;
	if (scan->unreadable > 0)
		kvh_warn("nvme: %s: %" PRIu64 " slots cannot be read and are set aside",
			 scan->stripe->file->path, scan->unreadable);
	free(scan->pages);
	free(scan);
}

static void scan_begin(struct scan *scan)
{
	kvh_nvme_sched_plug(&scan->stripe->sched, true);
	for (uint32_t i = 0; i < scan->depth; i++)
		read_next(scan, &scan->readers[i]);
	kvh_nvme_sched_plug(&scan->stripe->sched, false);
}

/* All that was begun has ended when it returns. */
static int scan_all(struct kvh_nvme *nvme, struct scan **scans)
{
	struct pollfd pfd = {.fd = nvme->efd, .events = POLLIN};
	uint32_t running;
	int ret = 0;

	for (uint32_t i = 0; i < nvme->n_stripes; i++) {
		if (scans[i] != NULL)
			scan_begin(scans[i]);
	}
	do {
		running = 0;
		for (uint32_t i = 0; i < nvme->n_stripes; i++) {
			int one = scans[i] != NULL ? reap(scans[i]) : 0;

			ret = ret < 0 ? ret : one;
			running += scans[i] != NULL ? scans[i]->running : 0;
		}
		if (running > 0) {
			(void)poll(&pfd, 1, POLL_MS);
			kvh_event_clear(nvme->efd);
		}
	} while (running > 0);
	return ret;
}

static int scan_headers(struct kvh_nvme *nvme, const bool *loaded)
{
	struct scan *scans[KVH_NVME_STRIPES] = {NULL};
	int ret = 0;

	for (uint32_t i = 0; i < nvme->n_stripes && ret == 0; i++) {
		if (loaded[i])
			continue;
		scans[i] = scan_new(&nvme->stripes[i]);
		ret = scans[i] != NULL ? 0 : -ENOMEM;
	}
	if (ret == 0)
		ret = scan_all(nvme, scans);
	for (uint32_t i = 0; i < nvme->n_stripes; i++)
		scan_free(scans[i]);
	return ret;
}

/* From a snapshot, if there is one: *loaded_p. Half of one is no index. */
static int entries_load(struct kvh_nvme_stripe *stripe, const struct kvh_nvme_entry *entries,
			bool *loaded_p)
{
	int ret = segments_load(stripe, entries);

	*loaded_p = false;
	if (ret < 0)
		return ret;
	ret = kvh_nvme_snapshot_load(stripe);
	*loaded_p = ret == 0;
	if (ret == 0 || ret == -ENOENT)
		return 0;
	ret = kvh_nvme_index_reset(&stripe->index);
	return ret < 0 ? ret : segments_load(stripe, entries);
}

static int stripe_load(struct kvh_nvme_stripe *stripe, bool *loaded_p)
{
	struct kvh_nvme_entry *entries;
	int ret;

	entries = calloc(stripe->file->super->segments, sizeof(*entries));
	if (entries == NULL)
		return -ENOMEM;
	ret = kvh_nvme_file_read_table(stripe->file, !stripe->file->super->clean, entries);
	if (ret == 0) /* a medium that may read again later has lost no frame */
		ret = stripe->file->table_error;
	if (ret == 0)
		ret = entries_load(stripe, entries, loaded_p);
	free(entries);
	return ret;
}

int kvh_nvme_scan(struct kvh_nvme *nvme)
{
	bool loaded[KVH_NVME_STRIPES];
	int ret = 0;

	for (uint32_t i = 0; i < nvme->n_stripes && ret == 0; i++) {
		ret = stripe_load(&nvme->stripes[i], &loaded[i]);
		if (ret == 0)
			ret = kvh_nvme_file_begin(&nvme->files[i]);
	}
	return ret < 0 ? ret : scan_headers(nvme, loaded);
}
