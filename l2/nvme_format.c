/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_format.c - judges what is on a file of the nvme adapter, makes it one, and
 * reads its table. Nothing is written over that is neither ours nor blank, unless
 * format=yes asks for it. On the thread that opens; blocks.
 */
#include "l2/nvme_file.h"

#include "host/log.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLANK_BYTES (UINT64_C(1) << 20) /* zeros so far: no signature that we know of */

/* `len` bytes at `off` are zeros: 1, something: 0, or -errno. */
static int are_zeros(const struct kvh_nvme_file *file, char *buf, uint64_t off, uint64_t len)
{
	uint64_t done = 0;

	while (done < len) {
		ssize_t got = file->io->pread(file->io_ctx, file->fd, buf + done,
					      BLANK_BYTES - done, (off_t)(off + done));

		if (got < 0)
			return (int)got;
		done += (uint64_t)got;
		if (got == 0 || (done < len && done % KVH_NVME_PAGE != 0))
			return -EIO;
	}
	return len == 0 || (buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0);
}

/* Zeros where signatures stand, at the start and the end: 1, 0 or -errno. */
static int is_blank(const struct kvh_nvme_file *file)
{
	uint64_t len = file->bytes < BLANK_BYTES ? file->bytes : BLANK_BYTES;
	uint64_t tail = (file->bytes - len) / KVH_NVME_PAGE * KVH_NVME_PAGE;
	char *buf = aligned_alloc(KVH_NVME_PAGE, BLANK_BYTES);
	int ret;

	if (buf == NULL)
		return -ENOMEM;
	ret = are_zeros(file, buf, 0, len);
	if (ret == 1 && tail >= len) {
		len = file->bytes - tail < BLANK_BYTES ? file->bytes - tail : BLANK_BYTES;
		ret = are_zeros(file, buf, tail, len);
	}
	free(buf);
	return ret;
}

/* ---- what stands on it ---- */

static int probe_with(blkid_probe probe, int fd, char *name, size_t size)
{
	const char *type = NULL;

	if (blkid_probe_set_device(probe, fd, 0, 0) != 0)
		return -EIO;
	blkid_probe_enable_superblocks(probe, 1);
	blkid_probe_enable_partitions(probe, 1);
	if (blkid_do_safeprobe(probe) != 0)
		return -ENOENT;
	if (blkid_probe_lookup_value(probe, "TYPE", &type, NULL) < 0 &&
	    blkid_probe_lookup_value(probe, "PTTYPE", &type, NULL) < 0)
		return -ENOENT;
	(void)snprintf(name, size, "%s", type);
	return 0;
}

void kvh_nvme_file_name(const struct kvh_nvme_file *file, char *name, size_t size)
{
	blkid_probe probe = blkid_new_probe();
	int fd = file->io->open(file->io_ctx, AT_FDCWD, file->path, O_RDONLY | O_CLOEXEC, 0, 0);

	(void)snprintf(name, size, "something");
	if (probe != NULL && fd >= 0)
		(void)probe_with(probe, fd, name, size);
	blkid_free_probe(probe);
	if (fd >= 0)
		(void)file->io->close(file->io_ctx, fd);
}

static int judge_ours(const struct kvh_nvme_file *file)
{
	const struct kvh_nvme_conf *conf = file->conf;

	if (conf->size != 0 &&
	    conf->size / KVH_NVME_PAGE * KVH_NVME_PAGE != file->super->bytes) {
		kvh_err("nvme: %s was made with size=%" PRIu64 ", not %" PRIu64
			"; leave size out, or make it anew with format=yes: its frames are "
			"lost",
			file->path, file->super->bytes, conf->size);
		return -EEXIST;
	}
	if (file->bytes < file->super->bytes) {
		kvh_err("nvme: %s has been cut: %" PRIu64 " of %" PRIu64
			" bytes; format=yes makes it anew",
			file->path, file->bytes, file->super->bytes);
		return -EBADMSG;
	}
	if (file->bytes / KVH_NVME_PAGE * KVH_NVME_PAGE > file->super->bytes)
		kvh_info("nvme: %s has grown: of its %" PRIu64 " bytes %" PRIu64
			 " are used; format=yes would take all",
			 file->path, file->bytes, file->super->bytes);
	return 0;
}

int kvh_nvme_file_judge(struct kvh_nvme_file *file)
{
	char name[64];
	int ret = kvh_nvme_super_read(file);

	if (ret == -EINVAL || ret == 1)
		return ret;
	if (ret == 0)
		return judge_ours(file);
	if (ret == -ENOENT) {
		ret = is_blank(file);
		if (ret < 0)
			kvh_err("nvme: %s: cannot be read: %s", file->path, strerror(-ret));
		if (ret != 0)
			return ret;
		kvh_nvme_file_name(file, name, sizeof(name));
		kvh_err("nvme: %s holds %s that is not kvhoist's; wipe it, or format=yes "
			"formats over it",
			file->path, name);
		return -EEXIST;
	}
	if (ret == -EPROTONOSUPPORT)
		kvh_err("nvme: %s has format version %" PRIu32 " (features %#" PRIx32
			"), this library has version %u; use the one that made it, or "
			"format=yes makes it anew: its frames are lost",
			file->path, file->super->version, file->super->incompat,
			KVH_NVME_VERSION);
	else
		kvh_err("nvme: %s: both superblocks are damaged (%s); format=yes makes it anew",
			file->path, strerror(-ret));
	return ret;
}

/* ---- formatting ---- */

/* A regular file, empty, gets its bytes: all of them read as zeros. */
static int allocate(struct kvh_nvme_file *file, uint64_t bytes)
{
	int ret = file->io->ftruncate(file->io_ctx, file->fd, 0);

	if (ret == 0)
		ret = file->io->fallocate(file->io_ctx, file->fd, 0, 0, (off_t)bytes);
	if (ret == -EOPNOTSUPP || ret == -ENOSYS) {
		kvh_warn("nvme: %s: cannot be preallocated here: stores may find the disk full",
			 file->path);
		ret = file->io->ftruncate(file->io_ctx, file->fd, (off_t)bytes);
	}
	if (ret < 0)
		kvh_err("nvme: %s: no room for %" PRIu64 " bytes: %s", file->path, bytes,
			strerror(-ret));
	else
		file->bytes = bytes;
	return ret;
}

static int write_zeros(struct kvh_nvme_file *file, uint64_t off)
{
	memset(file->page, 0, KVH_NVME_PAGE);
	return kvh_nvme_file_write(file, file->page, KVH_NVME_PAGE, off);
}

/* Generation 0 of every page, and nothing where generation 1 will stand. */
static int write_tables(struct kvh_nvme_file *file)
{
	struct kvh_nvme_table_page *table = file->page;

	for (uint32_t i = 0; i < file->super->table_pages; i++) {
		int ret = write_zeros(file, kvh_nvme_table_offset(file->super, i, 1));

		if (ret < 0)
			return ret;
		table->page = i;
		for (uint32_t e = 0; e < KVH_NVME_ENTRIES; e++)
			table->entries[e].flags = file->block ? 0 : KVH_NVME_VIRGIN;
		kvh_nvme_table_seal(table);
		ret = kvh_nvme_file_write(file, table, KVH_NVME_PAGE,
					  kvh_nvme_table_offset(file->super, i, 0));
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* The first thing is a mark in place of the superblock: while it stands, what is
 * behind it is nobody's, and may be formatted again. */
static int write_mark(struct kvh_nvme_file *file)
{
	int ret;

	file->super->formatting = 1;
	kvh_nvme_super_seal(file->super);
	ret = kvh_nvme_file_write(file, file->super, KVH_NVME_PAGE, 0);
	file->super->formatting = 0;
	return ret == 0 ? kvh_nvme_file_sync(file, true) : ret;
}

static int write_format(struct kvh_nvme_file *file)
{
	int ret = write_mark(file);

	if (ret == 0)
		ret = write_zeros(file, KVH_NVME_PAGE);
	if (ret == 0)
		ret = write_tables(file);
	if (ret == 0)
		ret = kvh_nvme_file_sync(file, true);
	if (ret < 0)
		kvh_err("nvme: %s: cannot be formatted: %s", file->path, strerror(-ret));
	return ret;
}

int kvh_nvme_file_format(struct kvh_nvme_file *file, const uint8_t uuid[16], uint32_t stripes,
			 uint32_t stripe)
{
	const struct kvh_nvme_conf *conf = file->conf;
	uint64_t bytes = conf->size != 0 ? conf->size : file->bytes;
	int ret = kvh_nvme_super_plan(file->super, bytes, conf->segment);

	if (ret == 0 && file->block && bytes > file->bytes)
		ret = -EINVAL;
	if (ret < 0) {
		kvh_err("nvme: %s: size %" PRIu64 " with segments of %" PRIu64
			" (0: chosen) does not do; a size from %" PRIu64
			", a multiple of segments, and on a device at most %" PRIu64,
			file->path, bytes, conf->segment, KVH_NVME_MIN_BYTES, file->bytes);
		return ret;
	}
	memcpy(file->super->uuid, uuid, sizeof(file->super->uuid));
	file->super->stripes = stripes;
	file->super->stripe = stripe;
	if (!file->block)
		ret = allocate(file, file->super->bytes);
	if (ret == 0)
		ret = write_format(file);
	return ret;
}

/* The first goes beside the mark, the second over it. */
int kvh_nvme_file_formatted(struct kvh_nvme_file *file)
{
	int ret = kvh_nvme_super_write(file, true);

	if (ret == 0)
		ret = kvh_nvme_file_sync(file, true);
	if (ret < 0)
		kvh_err("nvme: %s: superblock: %s", file->path, strerror(-ret));
	return ret;
}

/* ---- the table ---- */

/* -ENOENT: both copies are damaged. Another error: none is sound, and one could not
 * be read, which may be. */
static int table_read(struct kvh_nvme_file *file, uint32_t page,
		      struct kvh_nvme_table_page *best)
{
	struct kvh_nvme_table_page *found = file->page;
	bool any = false;
	int error = -ENOENT;

	for (unsigned copy = 0; copy < 2; copy++) {
		uint64_t off = kvh_nvme_table_offset(file->super, page, copy);
		int ret = kvh_nvme_file_read(file, found, KVH_NVME_PAGE, off);

		error = ret < 0 ? ret : error;
		if (ret < 0 || kvh_nvme_table_check(found, page) < 0 ||
		    (any && found->generation < best->generation))
			continue;
		memcpy(best, found, KVH_NVME_PAGE);
		any = true;
	}
	return any ? 0 : error;
}

/* Where it is: the other copy may be the only one on the medium. */
static int rewrite_page(struct kvh_nvme_file *file, const struct kvh_nvme_table_page *table)
{
	uint64_t off = kvh_nvme_table_offset(file->super, table->page, table->generation);

	memcpy(file->page, table, KVH_NVME_PAGE);
	return kvh_nvme_file_write(file, file->page, KVH_NVME_PAGE, off);
}

int kvh_nvme_file_read_table(struct kvh_nvme_file *file, bool rewrite,
			     struct kvh_nvme_entry *entries)
{
	int ret = 0;
	struct kvh_nvme_table_page *best = malloc(sizeof(*best));

	free(file->generations);
	file->generations = calloc(file->super->table_pages, sizeof(*file->generations));
	if (best == NULL || file->generations == NULL) {
		free(best);
		return -ENOMEM;
	}
	memset(entries, 0, file->super->segments * sizeof(*entries));
	file->bad_table_pages = 0;
	file->table_error = 0;
	for (uint32_t page = 0; page < file->super->table_pages && ret == 0; page++) {
		uint32_t first = page * KVH_NVME_ENTRIES;
		uint32_t n = file->super->segments > first ? file->super->segments - first : 0;

		int found = table_read(file, page, best);

		if (found < 0) {
			kvh_warn("nvme: %s: table page %" PRIu32 " %s", file->path, page,
				 found == -ENOENT ? "is damaged, its frames are lost"
						  : "cannot be read");
			file->bad_table_pages++;
			if (found != -ENOENT)
				file->table_error = found;
			continue;
		}
		file->generations[page] = best->generation;
		if (rewrite)
			ret = rewrite_page(file, best);
		n = n < KVH_NVME_ENTRIES ? n : KVH_NVME_ENTRIES;
		memcpy(entries + first, best->entries, n * sizeof(*entries));
	}
	free(best);
	return ret;
}

/* ---- emptying ---- */

/* The next generation of a page, of segments that hold nothing. */
static int empty_page(struct kvh_nvme_file *file, uint32_t page)
{
	struct kvh_nvme_table_page *table = file->page;
	uint64_t generation = ++file->generations[page];

	memset(table, 0, KVH_NVME_PAGE);
	table->page = page;
	table->generation = generation;
	kvh_nvme_table_seal(table);
	return kvh_nvme_file_write(file, table, KVH_NVME_PAGE,
				   kvh_nvme_table_offset(file->super, page, generation));
}

static int empty_table(struct kvh_nvme_file *file)
{
	int ret = 0;

	for (uint32_t page = 0; page < file->super->table_pages && ret == 0; page++)
		ret = empty_page(file, page);
	return ret == 0 ? kvh_nvme_file_sync(file, true) : ret;
}

/* What was in the segments is given back; of a file, the room is reserved anew. */
static int give_back(struct kvh_nvme_file *file)
{
	off_t off = (off_t)file->super->data_offset;
	off_t len = (off_t)(file->super->bytes - file->super->data_offset);
	int ret = file->io->fallocate(file->io_ctx, file->fd,
				      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);

	if (ret == 0 && !file->block)
		ret = file->io->fallocate(file->io_ctx, file->fd, 0, off, len);
	if (ret == -EOPNOTSUPP || ret == -ENOSYS) {
		kvh_info("nvme: %s: room cannot be given back here: old bytes stay on it",
			 file->path);
		return 0;
	}
	return ret;
}

/* Both copies of each page: the older one counts, should the other be damaged. */
int kvh_nvme_file_empty(struct kvh_nvme_file *file)
{
	struct kvh_nvme_entry *entries = calloc(file->super->segments, sizeof(*entries));
	int ret = entries == NULL ? -ENOMEM : kvh_nvme_file_read_table(file, false, entries);

	free(entries);
	if (ret == 0)
		ret = empty_table(file);
	if (ret == 0)
		ret = empty_table(file);
	if (ret == 0)
		ret = give_back(file);
	if (ret < 0)
		kvh_err("nvme: %s: cannot be emptied: %s", file->path, strerror(-ret));
	return ret;
}
