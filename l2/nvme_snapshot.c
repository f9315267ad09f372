/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_snapshot.c - the index as it is at a clean close, so that the next open
 * need not read a header a frame. On the thread that opens or closes; blocks.
 *
 * It is believed only if the superblock that counts is that of a clean close and
 * names it with this checksum; open marks the file as open, on the medium, before
 * anything in it changes. Where a superblock is damaged, it may be the one with that
 * mark, and no snapshot is believed. A snapshot is written beside the one before, never over
 * it.
 */
#include "l2/nvme.h"

#include "host/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_RECORDS 16384u /* 768 KiB, whole pages */

_Static_assert(PIECE_RECORDS * sizeof(struct kvh_nvme_record) % KVH_NVME_PAGE == 0,
	       "pieces are whole pages");

static uint64_t page_up(uint64_t bytes)
{
	return (bytes + KVH_NVME_PAGE - 1) / KVH_NVME_PAGE * KVH_NVME_PAGE;
}

/* ---- saving ---- */

struct writer {
	struct kvh_nvme_stripe *stripe;
	struct kvh_nvme_record *records; /* [PIECE_RECORDS] */
	uint32_t n;
	uint32_t snapshot;
	uint64_t written; /* bytes */
	uint64_t total;   /* records */
	uint64_t checksum;
};

static int write_piece(struct writer *w)
{
	uint64_t bytes = w->n * sizeof(*w->records), padded = page_up(bytes);
	struct kvh_nvme_file *file = w->stripe->file;
	int ret;

	if (w->n == 0)
		return 0;
	memset((char *)w->records + bytes, 0, padded - bytes);
	ret = kvh_nvme_file_write(file, w->records, padded,
				  kvh_nvme_snapshot_offset(file->super, w->snapshot) +
					  w->written);
	w->checksum = kvh_nvme_snapshot_checksum(w->checksum, w->records, padded);
	w->written += padded;
	w->total += w->n;
	w->n = 0;
	return ret;
}

static int write_slot(struct writer *w, uint32_t slot, uint32_t list)
{
	const struct kvh_nvme_index *index = &w->stripe->index;
	const struct kvh_nvme_extent *extent = kvh_nvme_extent_of(index, slot);

	w->records[w->n++] = (struct kvh_nvme_record){
		.key = kvh_nvme_slot_key(index, slot),
		.segment = extent->segment,
		.slot = (extent->first + slot % KVH_NVME_EXTENT_SLOTS) |
			(list != 0 ? KVH_NVME_SECOND_LIST : 0),
		.age = index->tick - index->items.links[slot].stamp,
		.tag = kvh_nvme_slot_at(index, slot)->tag,
	};
	return w->n == PIECE_RECORDS ? write_piece(w) : 0;
}

static int write_pool(struct writer *w, const struct kvh_nvme_pool *pool)
{
	const struct kvh_nvme_index *index = &w->stripe->index;
	int ret = 0;

	for (uint32_t list = 0; list < 2; list++) {
		uint32_t slot = pool->order.lists[list].oldest;

		for (; slot != KVH_NVME_NONE && ret == 0; slot = index->items.links[slot].newer)
			ret = write_slot(w, slot, list);
	}
	return ret;
}

static int save(struct writer *w)
{
	const struct kvh_nvme_index *index = &w->stripe->index;
	int ret = 0;

	w->records = aligned_alloc(KVH_NVME_PAGE, PIECE_RECORDS * sizeof(*w->records));
	if (w->records == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < index->n_pools && ret == 0; i++)
		ret = write_pool(w, &index->pools[i]);
	if (ret == 0)
		ret = write_piece(w);
	free(w->records);
	return ret;
}

void kvh_nvme_snapshot_save(struct kvh_nvme_stripe *stripe)
{
	struct kvh_nvme_super *super = stripe->file->super;
	/* Of the closes of this file, one after another. */
	struct writer w = {.stripe = stripe,
			   .snapshot = 1 + (uint32_t)(super->sequence / 2 & 1)};
	int ret;

	/* They may hold what a crash after the next open would take for frames. */
	if (kvh_nvme_index_bad(&stripe->index) > 0 || stripe->index.unsettled > 0) {
		kvh_warn("nvme: %s: some slots could not be wiped: the next open reads the "
			 "headers",
			 stripe->file->path);
		return;
	}
	if (stripe->index.objects > kvh_nvme_snapshot_room(super)) {
		kvh_info("nvme: %s: no room for a snapshot of %" PRIu64
			 " frames: the next open reads their headers",
			 stripe->file->path, stripe->index.objects);
		return;
	}
	ret = save(&w);
	if (ret < 0) {
		kvh_warn("nvme: %s: no snapshot of the index: %s", stripe->file->path,
			 strerror(-ret));
		return;
	}
	super->snapshot = w.snapshot;
	super->snapshot_records = w.total;
	super->snapshot_checksum = w.checksum;
}

/* ---- loading ---- */

/* Slots by segment and place, which the index does not keep. */
struct places {
	uint32_t *first;   /* [segments + 1] of each segment's extents in `extents` */
	uint32_t *extents; /* in the order of their slots */
};

static int places_make(const struct kvh_nvme_index *index, struct places *places)
{
	uint32_t n = index->super->segments, total = 0;

	places->first = calloc(n + 1u, sizeof(*places->first));
	for (uint32_t i = 0; i < n && places->first != NULL; i++) {
		places->first[i] = total;
		total += (index->segments[i].used + KVH_NVME_EXTENT_SLOTS - 1) /
			 KVH_NVME_EXTENT_SLOTS;
	}
	places->extents = calloc(total + 1u, sizeof(*places->extents));
	if (places->first == NULL || places->extents == NULL)
		return -ENOMEM;
	places->first[n] = total;
	for (uint32_t e = 0; e < index->n_extents; e++) {
		const struct kvh_nvme_extent *extent = index->extents[e];

		if (extent != NULL)
			places->extents[places->first[extent->segment] +
					extent->first / KVH_NVME_EXTENT_SLOTS] = e;
	}
	return 0;
}

static void places_free(struct places *places)
{
	free(places->extents);
	free(places->first);
}

static int take_record(struct kvh_nvme_index *index, const struct places *places,
		       const struct kvh_nvme_record *record)
{
	uint32_t place = record->slot & ~KVH_NVME_SECOND_LIST;
	uint32_t slot, pool;
	int ret;

	if (record->segment >= index->super->segments ||
	    place >= index->segments[record->segment].used)
		return -EBADMSG;
	slot = places->extents[places->first[record->segment] + place / KVH_NVME_EXTENT_SLOTS] *
		       KVH_NVME_EXTENT_SLOTS +
	       place % KVH_NVME_EXTENT_SLOTS;
	if (kvh_nvme_slot_at(index, slot)->state != KVH_NVME_FREE ||
	    kvh_nvme_index_find(index, &record->key) != KVH_NVME_NONE)
		return -EBADMSG;
	ret = kvh_nvme_pool_get(index, index->segments[record->segment].class,
				record->key.space, &pool);
	if (ret < 0)
		return ret;
	kvh_nvme_slot_claim(index, slot, pool);
	index->tick = 0u - record->age - 1; /* publish adds one */
	(void)kvh_nvme_slot_publish(index, slot, &record->key, record->tag);
	if (record->slot & KVH_NVME_SECOND_LIST)
		kvh_order_use(&index->pools[pool].order, slot, KVH_ORDER_NEWEST, index->tick);
	return 0;
}

static int take_all(struct kvh_nvme_stripe *stripe, const struct kvh_nvme_record *records)
{
	struct places places = {NULL, NULL};
	int ret = places_make(&stripe->index, &places);

	for (uint64_t i = 0; i < stripe->file->super->snapshot_records && ret == 0; i++)
		ret = take_record(&stripe->index, &places, &records[i]);
	places_free(&places);
	stripe->index.tick = 0;
	return ret;
}

int kvh_nvme_snapshot_load(struct kvh_nvme_stripe *stripe)
{
	struct kvh_nvme_file *file = stripe->file;
	const struct kvh_nvme_super *super = file->super;
	uint64_t bytes = page_up(super->snapshot_records * sizeof(struct kvh_nvme_record));
	struct kvh_nvme_record *records;
	int ret;

	if (!super->clean || super->snapshot == 0)
		return -ENOENT;
	if (!file->paired) {
		kvh_warn("nvme: %s: a superblock is damaged, which may be the newer: reads the "
			 "headers",
			 file->path);
		return -ENOENT;
	}
	records = aligned_alloc(KVH_NVME_PAGE, bytes + KVH_NVME_PAGE);
	if (records == NULL)
		return -ENOMEM;
	ret = bytes == 0 ? 0
			 : kvh_nvme_file_read(file, records, bytes,
					      kvh_nvme_snapshot_offset(super, super->snapshot));
	if (ret == 0 &&
	    kvh_nvme_snapshot_checksum(0, records, bytes) != super->snapshot_checksum)
		ret = -EBADMSG;
	if (ret == 0)
		ret = take_all(stripe, records);
	if (ret < 0)
		kvh_warn("nvme: %s: the snapshot of the index is damaged (%s): reads the "
			 "headers",
			 file->path, strerror(-ret));
	free(records);
	return ret;
}
