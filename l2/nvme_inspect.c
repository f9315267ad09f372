/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_inspect.c - reads superblock, table and slots of a file of the nvme adapter,
 * which it opens for reading only. Stateless after open.
 */
#include "l2/nvme_inspect.h"

#include "host/log.h"
#include "l2/nvme_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct kvh_nvme_inspect {
	struct kvh_nvme_conf conf; /* empty: nothing is asked for */
	struct kvh_nvme_file file;
	struct kvh_nvme_entry *entries; /* [segments] */
	char *path;
};

static int open_reading(struct kvh_nvme_file *file)
{
	int flags = O_RDONLY | O_CLOEXEC;

	file->direct = true;
	file->fd = file->io->open(file->io_ctx, AT_FDCWD, file->path, flags | O_DIRECT, 0, 0);
	if (file->fd != -EINVAL)
		return file->fd < 0 ? file->fd : 0;
	file->direct = false;
	file->fd = file->io->open(file->io_ctx, AT_FDCWD, file->path, flags, 0, 0);
	return file->fd < 0 ? file->fd : 0;
}

/* Where O_DIRECT is taken by open and refused by the transfers, goes without. */
static int read_super(struct kvh_nvme_file *file)
{
	int ret = kvh_nvme_super_read(file);

	if (ret != -EINVAL || !file->direct)
		return ret;
	(void)file->io->close(file->io_ctx, file->fd);
	file->direct = false;
	file->fd = file->io->open(file->io_ctx, AT_FDCWD, file->path, O_RDONLY | O_CLOEXEC, 0,
				  0);
	return file->fd < 0 ? file->fd : kvh_nvme_super_read(file);
}

static int load(struct kvh_nvme_inspect *inspect)
{
	struct kvh_nvme_file *file = &inspect->file;
	int ret;

	file->super = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_PAGE);
	file->page = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_PAGE);
	if (file->super == NULL || file->page == NULL || file->path == NULL)
		return -ENOMEM;
	ret = open_reading(file);
	if (ret == 0)
		ret = read_super(file);
	if (ret < 0) {
		kvh_err("nvme: %s: %s", file->path,
			ret == -EPROTONOSUPPORT ? "has another format version"
			: ret == -EBADMSG       ? "both superblocks are damaged"
			: ret == -ENOENT        ? "has no superblock, or is not there"
						: strerror(-ret));
		return ret;
	}
	inspect->entries = calloc(file->super->segments, sizeof(*inspect->entries));
	if (inspect->entries == NULL)
		return -ENOMEM;
	return kvh_nvme_file_read_table(file, false, inspect->entries);
}

int kvh_nvme_inspect_open(const char *path, const struct kvh_io_ops *io, void *io_ctx,
			  struct kvh_nvme_inspect **inspect_p)
{
	struct kvh_nvme_inspect *inspect = calloc(1, sizeof(*inspect));
	int ret;

	if (inspect == NULL)
		return -ENOMEM;
	inspect->path = strdup(path);
	inspect->file = (struct kvh_nvme_file){
		.io = io,
		.io_ctx = io_ctx,
		.conf = &inspect->conf,
		.path = inspect->path,
		.fd = -1,
	};
	ret = load(inspect);
	if (ret < 0) {
		kvh_nvme_inspect_close(inspect);
		return ret;
	}
	*inspect_p = inspect;
	return 0;
}

void kvh_nvme_inspect_close(struct kvh_nvme_inspect *inspect)
{
	struct kvh_nvme_file *file = &inspect->file;

	if (file->fd >= 0)
		(void)file->io->close(file->io_ctx, file->fd);
	free(file->generations);
	free(file->page);
	free(file->super);
	free(inspect->entries);
	free(inspect->path);
	free(inspect);
}

void kvh_nvme_inspect_info(const struct kvh_nvme_inspect *inspect, struct kvh_nvme_info *info)
{
	const struct kvh_nvme_super *super = inspect->file.super;

	*info = (struct kvh_nvme_info){
		.version = super->version,
		.clean = super->clean,
		.owner = super->owner,
		.stripes = super->stripes,
		.stripe = super->stripe,
		.sequence = super->sequence,
		.bytes = super->bytes,
		.data_offset = super->data_offset,
		.segment_bytes = super->segment_bytes,
		.segments = super->segments,
		.snapshot_records = super->snapshot_records,
	};
	memcpy(info->uuid, super->uuid, sizeof(info->uuid));
}

void kvh_nvme_inspect_segment(const struct kvh_nvme_inspect *inspect, uint32_t segment,
			      struct kvh_nvme_segment_info *info)
{
	const struct kvh_nvme_entry *entry = &inspect->entries[segment];
	uint64_t bytes = kvh_nvme_segment_bytes(inspect->file.super, segment);

	*info = (struct kvh_nvme_segment_info){.slot_bytes = entry->slot_bytes};
	if (entry->slot_bytes == 0 || entry->slot_bytes % KVH_NVME_PAGE != 0)
		return;
	info->slots = (uint32_t)(bytes / entry->slot_bytes);
	info->used = entry->used < info->slots ? entry->used : info->slots;
}

static int judge(const struct kvh_frame_header *header, uint64_t slot_bytes)
{
	static const char zeros[KVH_NVME_PAGE];

	if (memcmp(header, zeros, sizeof(zeros)) == 0)
		return -ENOENT;
	if (kvh_frame_check_header(header) < 0 || header->frame_bytes != slot_bytes)
		return -EBADMSG;
	return 0;
}

int kvh_nvme_inspect_walk(const struct kvh_nvme_inspect *inspect, uint32_t segment,
			  bool (*visit)(void *arg, const struct kvh_nvme_slot_info *slot),
			  void *arg)
{
	uint64_t offset = kvh_nvme_segment_offset(inspect->file.super, segment);
	struct kvh_nvme_segment_info in;
	void *page = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_PAGE);
	bool go_on = true;

	if (page == NULL)
		return -ENOMEM;
	kvh_nvme_inspect_segment(inspect, segment, &in);
	for (uint32_t i = 0; i < in.used && go_on; i++) {
		struct kvh_nvme_slot_info slot = {
			.segment = segment,
			.slot = i,
			.offset = offset + i * in.slot_bytes,
			.bytes = in.slot_bytes,
		};

		slot.status = kvh_nvme_inspect_read(inspect, slot.offset, KVH_NVME_PAGE, page);
		if (slot.status == 0) {
			slot.header = page;
			slot.status = judge(page, in.slot_bytes);
		}
		go_on = visit(arg, &slot);
	}
	free(page);
	return 0;
}

int kvh_nvme_inspect_read(const struct kvh_nvme_inspect *inspect, uint64_t offset,
			  uint64_t bytes, void *buf)
{
	struct kvh_nvme_file file =
		inspect->file; /* what a transfer notes is not ours to write */

	return kvh_nvme_file_read(&file, buf, bytes, offset);
}
