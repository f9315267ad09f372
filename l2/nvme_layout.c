/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_layout.c - plans, seals and checks the superblock and the table pages.
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
_Static_assert(offsetof(struct kvh_nvme_super, checksum) == 4088, "format");
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

int kvh_nvme_super_plan(struct kvh_nvme_super *super, uint64_t bytes, uint64_t segment_bytes)
{
	uint64_t size = segment_bytes;
	uint64_t pages, data;

	bytes = align_down(bytes, KVH_NVME_PAGE);
	if (bytes < KVH_NVME_MIN_BYTES || bytes > KVH_NVME_MAX_BYTES)
		return -EINVAL;
	if (size == 0)
		size = min_u64(KVH_NVME_SEGMENT_MAX, bytes / SEGMENTS_MIN);
	size = align_down(size, KVH_NVME_PAGE);
	if (size == 0)
		return -EINVAL;
	pages = (bytes / size + KVH_NVME_ENTRIES) / KVH_NVME_ENTRIES;
	data = align_up((2 + 2 * pages) * KVH_NVME_PAGE, DATA_ALIGN);
	if (data >= bytes)
		return -EINVAL;
	if (segment_bytes == 0)
		size = min_u64(KVH_NVME_SEGMENT_MAX, (bytes - data) / SEGMENTS_MIN);
	size = align_down(size, KVH_NVME_PAGE);
	if (size > bytes - data || (bytes - data) / size > KVH_NVME_SEGMENTS)
		return -EINVAL;
	memset(super, 0, sizeof(*super));
	memcpy(super->magic, super_magic, sizeof(super_magic));
	super->version = KVH_NVME_VERSION;
	super->stripes = 1;
	super->bytes = bytes;
	super->table_offset = UINT64_C(2) * KVH_NVME_PAGE;
	super->table_pages = (uint32_t)pages;
	super->segments = (uint32_t)((bytes - data) / size);
	super->data_offset = data;
	super->segment_bytes = size;
	return 0;
}

static uint64_t page_checksum(const void *page)
{
	return crc64_ecma_refl(0, page, KVH_NVME_PAGE - sizeof(uint64_t));
}

void kvh_nvme_super_seal(struct kvh_nvme_super *super)
{
	super->checksum = page_checksum(super);
}

static bool geometry_is_sound(const struct kvh_nvme_super *super)
{
	uint64_t data;

	if (super->bytes > KVH_NVME_MAX_BYTES || super->data_offset >= super->bytes ||
	    super->segments == 0 || super->segments > KVH_NVME_SEGMENTS ||
	    super->segment_bytes < KVH_NVME_PAGE || super->stripes != 1 || super->stripe != 0)
		return false;
	if ((super->bytes | super->table_offset | super->data_offset | super->segment_bytes) %
	    KVH_NVME_PAGE)
		return false;
	data = super->bytes - super->data_offset;
	if (data / super->segment_bytes != super->segments)
		return false;
	if ((uint64_t)super->table_pages * KVH_NVME_ENTRIES < super->segments ||
	    super->table_offset < UINT64_C(2) * KVH_NVME_PAGE ||
	    super->table_offset > super->data_offset)
		return false;
	return super->table_pages <=
	       (super->data_offset - super->table_offset) / (2 * KVH_NVME_PAGE);
}

int kvh_nvme_super_check(const struct kvh_nvme_super *super)
{
	if (memcmp(super->magic, super_magic, sizeof(super_magic)) != 0)
		return -ENOENT;
	if (super->checksum != page_checksum(super))
		return -EBADMSG;
	if (super->version != KVH_NVME_VERSION || super->incompat != 0)
		return -EPROTONOSUPPORT;
	return geometry_is_sound(super) ? 0 : -EBADMSG;
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
