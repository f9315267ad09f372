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
	uint32_t bad_supers, bad_tables; /* copies that are neither sound nor blank */
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

/* Of a file that has no superblock to go by. */
static void complain(const struct kvh_nvme_file *file, int err)
{
	char name[64];

	if (err == 1) {
		kvh_err("nvme: %s: its making was not finished, there is nothing in it; the "
			"adapter, opened with size=BYTES, begins anew",
			file->path);
	} else if (err == -EPROTONOSUPPORT) {
		kvh_err("nvme: %s has format version %" PRIu32 " (features %#" PRIx32
			"), this program knows version %u: use that of the release that made "
			"it",
			file->path, file->super->version, file->super->incompat,
			KVH_NVME_VERSION);
	} else if (err == -EBADMSG) {
		kvh_err("nvme: %s: both superblocks are damaged, so nothing in it can be "
			"found; the adapter, opened with format=yes, makes it anew",
			file->path);
	} else if (err == -ENOENT && file->fd >= 0) {
		kvh_nvme_file_name(file, name, sizeof(name));
		kvh_err("nvme: %s has no superblock, it holds %s that is not kvhoist's; is it "
			"the right path?",
			file->path, name);
	} else {
		kvh_err("nvme: %s: %s", file->path, strerror(-err));
	}
}

/* ---- both copies of what there are two of ---- */

static bool is_zero(const void *page)
{
	static const char zeros[KVH_NVME_PAGE];

	return memcmp(page, zeros, sizeof(zeros)) == 0;
}

static bool super_is_sound(const void *page, uint32_t ignored)
{
	(void)ignored;
	return kvh_nvme_super_check(page) == 0;
}

/* A copy that was never written is all zeros. */
static bool table_is_sound(const void *page, uint32_t number)
{
	return is_zero(page) || kvh_nvme_table_check(page, number) == 0;
}

/* Twice, as whoever has the file open may be writing it. */
static bool copy_is_bad(struct kvh_nvme_file *file, uint64_t off, uint32_t number,
			bool (*is_sound)(const void *page, uint32_t number))
{
	for (int i = 0; i < 2; i++) {
		if (kvh_nvme_file_read(file, file->page, KVH_NVME_PAGE, off) == 0 &&
		    is_sound(file->page, number))
			return false;
	}
	return true;
}

static void count_bad_copies(struct kvh_nvme_inspect *inspect)
{
	struct kvh_nvme_file *file = &inspect->file;

	for (uint32_t copy = 0; copy < 2; copy++) {
		inspect->bad_supers += copy_is_bad(file, copy * KVH_NVME_PAGE, 0,
						   super_is_sound);
		for (uint32_t i = 0; i < file->super->table_pages; i++)
			inspect->bad_tables += copy_is_bad(
				file, kvh_nvme_table_offset(file->super, i, copy), i,
				table_is_sound);
	}
}

/* ---- open ---- */

static int load(struct kvh_nvme_inspect *inspect)
{
	struct kvh_nvme_file *file = &inspect->file;
	int ret;

	file->super = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_PAGE);
	file->page = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_PAGE);
	if (file->super == NULL || file->page == NULL || file->path == NULL)
		return -ENOMEM;
	ret = open_reading(file);
	if (ret == 0 && kvh_nvme_file_find_size(file) < 0)
		return -EINVAL;
	if (ret == 0)
		ret = read_super(file);
	if (ret != 0) {
		complain(file, ret);
		return ret == 1 ? -ENOENT : ret;
	}
	inspect->entries = calloc(file->super->segments, sizeof(*inspect->entries));
	if (inspect->entries == NULL)
		return -ENOMEM;
	count_bad_copies(inspect);
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
	struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	*info = (struct kvh_nvme_info){
		.version = super->version,
		.clean = super->clean,
		.owner = super->owner,
		.stripes = super->stripes,
		.stripe = super->stripe,
		.sequence = super->sequence,
		.bytes = super->bytes,
		.file_bytes = inspect->file.bytes,
		.bad_super_copies = inspect->bad_supers,
		.bad_table_copies = inspect->bad_tables,
		.bad_table_pages = inspect->file.bad_table_pages,
		.data_offset = super->data_offset,
		.segment_bytes = super->segment_bytes,
		.segments = super->segments,
		.snapshot_records = super->snapshot_records,
	};
	memcpy(info->uuid, super->uuid, sizeof(info->uuid));
	info->in_use = fcntl(inspect->file.fd, F_OFD_GETLK, &all) == 0 && all.l_type != F_UNLCK;
}

void kvh_nvme_inspect_segment(const struct kvh_nvme_inspect *inspect, uint32_t segment,
			      struct kvh_nvme_segment_info *info)
{
	const struct kvh_nvme_entry *entry = &inspect->entries[segment];
	uint64_t bytes = kvh_nvme_segment_bytes(inspect->file.super, segment);

	*info = (struct kvh_nvme_segment_info){
		.offset = kvh_nvme_segment_offset(inspect->file.super, segment),
		.slot_bytes = entry->slot_bytes,
	};
	if (entry->slot_bytes == 0 || entry->slot_bytes % KVH_NVME_PAGE != 0)
		return;
	info->slots = (uint32_t)(bytes / entry->slot_bytes);
	info->used = entry->used < info->slots ? entry->used : info->slots;
}

int kvh_nvme_inspect_judge(const void *page, uint64_t slot_bytes, const char **what_p)
{
	const struct kvh_frame_header *header = page;
	const char *what;

	if (is_zero(page))
		return -ENOENT;
	what = kvh_frame_header_fault(page);
	if (what == NULL && header->frame_bytes != slot_bytes)
		what = "size";
	if (what == NULL)
		return 0;
	*what_p = what;
	return -EBADMSG;
}

int kvh_nvme_inspect_read(const struct kvh_nvme_inspect *inspect, uint64_t offset,
			  uint64_t bytes, void *buf)
{
	struct kvh_nvme_file file =
		inspect->file; /* what a transfer notes is not ours to write */

	return kvh_nvme_file_read(&file, buf, bytes, offset);
}
