/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_layout.c - plans, seals and checks superblock, table pages and snapshots.
 * Pure functions over memory; any thread. A checksum finds damage, not malice:
 * the geometry is checked besides, so that no file can lead us out of itself.
 */
#include "l2/nvme_layout.h"

#include <errno.h>
#include <isa-l/crc64.h>
#include <stdbool.h>
#include <string.h>

#define TABLE_MAGIC 0x5448564bu /* "KVHT" */
#define DATA_ALIGN  (UINT64_C(64) << 10)
/* A small file has this many segments, so that as many frame sizes fit at once. */
#define SEGMENTS_MIN 8u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pages are written as they lie");
_Static_assert(offsetof(struct kvh_nvme_super, bytes) == 48, "format");
_Static_assert(offsetof(struct kvh_nvme_super, owner) == 108, "format");
_Static_assert(offsetof(struct kvh_nvme_super, snapshot_checksum) == 128, "format");
_Static_assert(offsetof(struct kvh_nvme_super, checksum) == 504, "in one sector");
_Static_assert(sizeof(struct kvh_nvme_record) == 48, "format");
_Static_assert(sizeof(struct kvh_nvme_super) == KVH_NVME_PAGE, "a page");
_Static_assert(offsetof(struct kvh_nvme_table_page, checksum) == 4088, "format");
_Static_assert(sizeof(struct kvh_nvme_table_page) == KVH_NVME_PAGE, "a page");

static const uint8_t super_magic[8] = "KVHNVME";

static uint64_t align_down(uint64_t value, uint64_t align)
{
	return value / align * align;
}

static uint64_t align_up(uint64_t value, uint64_t align)
{
	return align_down(value + align - 1, align);
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Of one snapshot: room for a frame each 6 KiB of the file; above 8 GiB, for 1.4
 * million and one each 48 KiB. With more there is none, and open reads the headers. */
static uint64_t snapshot_bytes(uint64_t bytes)
{
	return align_up(min_u64(bytes / 128, (UINT64_C(64) << 20) + bytes / 1024),
			KVH_NVME_PAGE);
}

/* What is before the segments, if they have `size` bytes. */
static void plan_front(struct kvh_nvme_super *super, uint64_t size)
{
	uint64_t pages = (super->bytes / size + KVH_NVME_ENTRIES) / KVH_NVME_ENTRIES;

	super->table_offset = UINT64_C(2) * KVH_NVME_PAGE;
	super->table_pages = (uint32_t)pages;
	super->snapshot_offset = (2 + 2 * pages) * KVH_NVME_PAGE;
	super->snapshot_bytes = snapshot_bytes(super->bytes);
	super->data_offset = align_up(super->snapshot_offset + 2 * super->snapshot_bytes,
				      DATA_ALIGN);
}

int kvh_nvme_super_plan(struct kvh_nvme_super *super, uint64_t bytes, uint64_t segment_bytes)
{
	uint64_t size = segment_bytes;
	uint64_t data;

	bytes = align_down(bytes, KVH_NVME_PAGE);
	if (bytes < KVH_NVME_MIN_BYTES || bytes > KVH_NVME_MAX_BYTES)
		return -EINVAL;
	if (size == 0)
		size = min_u64(KVH_NVME_SEGMENT_MAX, bytes / SEGMENTS_MIN);
	size = align_down(size, KVH_NVME_PAGE);
	if (size == 0 || bytes / size > 2 * KVH_NVME_SEGMENTS)
		return -EINVAL;
	memset(super, 0, sizeof(*super));
	memcpy(super->magic, super_magic, sizeof(super_magic));
	super->version = KVH_NVME_VERSION;
	super->stripes = 1;
	super->bytes = bytes;
	plan_front(super, size);
	if (super->data_offset >= bytes)
		return -EINVAL;
	data = bytes - super->data_offset;
	if (segment_bytes == 0)
		size = align_down(min_u64(KVH_NVME_SEGMENT_MAX, data / SEGMENTS_MIN),
				  KVH_NVME_PAGE);
	if (size > data || data / size > KVH_NVME_SEGMENTS)
		return -EINVAL;
	super->segments = (uint32_t)(data / size);
	super->segment_bytes = size;
	return 0;
}

static uint64_t page_checksum(const void *page)
{
	return crc64_ecma_refl(0, page, KVH_NVME_PAGE - sizeof(uint64_t));
}

static uint64_t super_checksum(const struct kvh_nvme_super *super)
{
	return crc64_ecma_refl(0, (const unsigned char *)super,
			       offsetof(struct kvh_nvme_super, checksum));
}

void kvh_nvme_super_seal(struct kvh_nvme_super *super)
{
	super->checksum = super_checksum(super);
}

static bool geometry_is_sound(const struct kvh_nvme_super *super)
{
	uint64_t data;

	if (super->bytes > KVH_NVME_MAX_BYTES || super->data_offset >= super->bytes ||
	    super->segments == 0 || super->segments > KVH_NVME_SEGMENTS ||
	    super->segment_bytes < KVH_NVME_PAGE || super->stripes == 0 ||
	    super->stripes > KVH_NVME_STRIPES || super->stripe >= super->stripes)
		return false;
	if ((super->bytes | super->table_offset | super->data_offset | super->segment_bytes |
	     super->snapshot_offset | super->snapshot_bytes) %
	    KVH_NVME_PAGE)
		return false;
	data = super->bytes - super->data_offset;
	if (data / super->segment_bytes != super->segments)
		return false;
	if ((uint64_t)super->table_pages * KVH_NVME_ENTRIES < super->segments ||
	    super->table_offset < UINT64_C(2) * KVH_NVME_PAGE ||
	    super->table_offset > super->snapshot_offset ||
	    super->snapshot_offset > super->data_offset || super->snapshot > 2)
		return false;
	if (super->snapshot_bytes > (super->data_offset - super->snapshot_offset) / 2 ||
	    super->snapshot_records > kvh_nvme_snapshot_room(super))
		return false;
	return super->table_pages <=
	       (super->snapshot_offset - super->table_offset) / (2 * KVH_NVME_PAGE);
}

/* Version 1 had its checksum at the end of the page. */
static bool super_of_1_is_sound(const struct kvh_nvme_super *super)
{
	uint64_t checksum;

	memcpy(&checksum, (const char *)super + KVH_NVME_PAGE - sizeof(checksum),
	       sizeof(checksum));
	return checksum == page_checksum(super);
}

int kvh_nvme_super_check(const struct kvh_nvme_super *super)
{
	if (memcmp(super->magic, super_magic, sizeof(super_magic)) != 0)
		return -ENOENT;
	if (super->version == 1 && super_of_1_is_sound(super))
		return -EPROTONOSUPPORT;
	if (super->checksum != super_checksum(super))
		return -EBADMSG;
	if (super->version != KVH_NVME_VERSION || super->incompat != 0)
		return -EPROTONOSUPPORT;
	if (!geometry_is_sound(super))
		return -EBADMSG;
	return super->formatting != 0;
}

void kvh_nvme_table_seal(struct kvh_nvme_table_page *table)
{
	table->magic = TABLE_MAGIC;
	table->checksum = page_checksum(table);
}

int kvh_nvme_table_check(const struct kvh_nvme_table_page *table, uint32_t page)
{
	if (table->magic != TABLE_MAGIC || table->page != page ||
	    table->checksum != page_checksum(table))
		return -EBADMSG;
	return 0;
}

/* Ranks and groups of a chunk go to different stripes. */
uint64_t kvh_nvme_layout_hash(const struct kvh_key *key)
{
	uint64_t w[4], h = 0;

	memcpy(w, key, sizeof(w));
	for (unsigned i = 0; i < 4; i++) {
		h = (h ^ w[i]) * UINT64_C(0x9e3779b97f4a7c15);
		h ^= h >> 32;
	}
	return h * UINT64_C(0xd6e8feb86659fd93);
}

uint64_t kvh_nvme_snapshot_room(const struct kvh_nvme_super *super)
{
	return super->snapshot_bytes / sizeof(struct kvh_nvme_record);
}

uint64_t kvh_nvme_snapshot_checksum(uint64_t before, const void *pages, uint64_t bytes)
{
	return crc64_ecma_refl(before, pages, bytes);
}

uint64_t kvh_nvme_snapshot_offset(const struct kvh_nvme_super *super, uint32_t snapshot)
{
	return super->snapshot_offset + (snapshot - 1) * super->snapshot_bytes;
}

uint64_t kvh_nvme_segment_offset(const struct kvh_nvme_super *super, uint32_t segment)
{
	return super->data_offset + segment * super->segment_bytes;
}

uint64_t kvh_nvme_segment_bytes(const struct kvh_nvme_super *super, uint32_t segment)
{
	if (segment + 1 < super->segments)
		return super->segment_bytes;
	return align_down(super->bytes - kvh_nvme_segment_offset(super, segment),
			  KVH_NVME_PAGE);
}

uint64_t kvh_nvme_table_offset(const struct kvh_nvme_super *super, uint32_t page,
			       uint64_t generation)
{
	return super->table_offset + (UINT64_C(2) * page + (generation & 1)) * KVH_NVME_PAGE;
}
