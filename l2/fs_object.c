/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_object.c - one frame in one file: written under a name of its own, synced
 * as configured, renamed to the key's. So a reader has an old file or a new
 * one, whole, and a crash leaves at most a temporary. Worker threads.
 * Limit: where O_DIRECT is refused, data goes through the page cache.
 */
#include "l2/fs.h"

#include "host/log.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IO_MAX (UINT64_C(1) << 30) /* of one call; the kernel's limit is a page below 2 GiB */

/* Was O_DIRECT refused, and may we do without? For good if not a byte went
 * through; else (a short transfer left us at an odd offset) this time only. */
static bool go_buffered(struct fs_l2 *fs, int ret, uint64_t done)
{
	if (ret != -EINVAL || fs->direct_option == FS_DIRECT_ON)
		return false;
	atomic_fetch_add(&fs->buffered, 1);
	if (done == 0 && atomic_exchange(&fs->direct, false))
		kvh_warn("fs: %s: O_DIRECT is refused, going on through the page cache",
			 fs->path);
	return true;
}

/* ---- write --------------------------------------------------------------- */

static int write_all(struct fs_l2 *fs, int fd, const uint8_t *buf, uint64_t len,
		     uint64_t *done_p)
{
	while (*done_p < len) {
		uint64_t left = len - *done_p;
		ssize_t n = fs->io->pwrite(fs->io_ctx, fd, buf + *done_p,
					   left < IO_MAX ? left : IO_MAX, (off_t)*done_p);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? (int)n : -EIO;
		*done_p += (uint64_t)n;
	}
	return 0;
}

/* A new file `name` in tmp/ with these bytes, synced; or no file. */
static int write_tmp(struct fs_l2 *fs, const char *name, const void *buf, uint64_t len,
		     bool direct, uint64_t *done_p)
{
	int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | (direct ? O_DIRECT : 0);
	int fd = fs->io->open(fs->io_ctx, fs->tmp, name, flags, 0600, 1);
	int ret, ret_close;

	*done_p = 0;
	if (fd < 0) {
		/* The file may have been made before O_DIRECT was found wanting. */
		if (fd == -EINVAL)
			fs->io->unlink(fs->io_ctx, fs->tmp, name);
		return fd;
	}
	ret = write_all(fs, fd, buf, len, done_p);
	if (ret == 0 && fs->sync != FS_SYNC_NONE)
		ret = fs->io->fsync(fs->io_ctx, fd, fs->sync == FS_SYNC_DATA);
	ret_close = fs->io->close(fs->io_ctx, fd);
	if (ret == 0)
		ret = ret_close;
	if (ret < 0)
		fs->io->unlink(fs->io_ctx, fs->tmp, name);
	return ret;
}

static void tmp_name(struct fs_l2 *fs, char name[48])
{
	unsigned long long n = atomic_fetch_add(&fs->next_tmp, 1);

	(void)snprintf(name, 48, "%016" PRIx64 "-%016llx", fs->instance, n);
}

static int write_any(struct fs_l2 *fs, const char *name, const void *buf, uint64_t len)
{
	bool direct = atomic_load(&fs->direct);
	uint64_t done;
	int ret = write_tmp(fs, name, buf, len, direct, &done);

	if (ret < 0 && direct && go_buffered(fs, ret, done))
		ret = write_tmp(fs, name, buf, len, false, &done);
	return ret;
}

/* *len_p: the bytes under the key's name at the end; as before if that is not
 * touched. */
static int put_file(struct fs_l2 *fs, const struct kvh_key *key, const void *buf, uint64_t len,
		    uint64_t *len_p)
{
	struct fs_path path;
	char tmp[48];
	int dir, ret;

	kvh_fs_path_make(key, &path);
	dir = kvh_fs_dir_of(fs, &path, true);
	if (dir < 0)
		return dir;
	tmp_name(fs, tmp);
	ret = write_any(fs, tmp, buf, len);
	if (ret == 0) {
		ret = fs->io->rename(fs->io_ctx, fs->tmp, tmp, dir, path.text + FS_PATH_NAME);
		if (ret < 0)
			fs->io->unlink(fs->io_ctx, fs->tmp, tmp);
		else
			*len_p = len;
	}
	if (ret == 0 && fs->sync == FS_SYNC_FULL) {
		ret = fs->io->fsync(fs->io_ctx, dir, 0);
		if (ret < 0 && fs->io->unlink(fs->io_ctx, dir, path.text + FS_PATH_NAME) == 0)
			*len_p = 0;
	}
	fs->io->close(fs->io_ctx, dir);
	return ret;
}

int kvh_fs_put(struct fs_l2 *fs, const struct kvh_key *key, const void *buf, uint64_t len)
{
	uint32_t item;
	uint64_t now;
	int ret = kvh_fs_index_begin_put(fs, key, len, &item, &now);

	if (ret < 0)
		return ret;
	ret = put_file(fs, key, buf, len, &now);
	kvh_fs_index_end_put(fs, item, len, now);
	return ret;
}

/* ---- read ---------------------------------------------------------------- */

static int read_all(struct fs_l2 *fs, int fd, uint8_t *buf, uint64_t len, uint64_t *done_p)
{
	while (*done_p < len) {
		uint64_t left = len - *done_p;
		ssize_t n = fs->io->pread(fs->io_ctx, fd, buf + *done_p,
					  left < IO_MAX ? left : IO_MAX, (off_t)*done_p);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? (int)n : -EIO; /* it ends early: rule 5 */
		*done_p += (uint64_t)n;
	}
	return 0;
}

static int check_size(struct fs_l2 *fs, int fd, uint64_t len)
{
	struct stat st;
	int ret = fs->io->fstat(fs->io_ctx, fd, &st);

	if (ret < 0)
		return ret;
	return S_ISREG(st.st_mode) && (uint64_t)st.st_size == len ? 0 : -EIO;
}

static int read_file(struct fs_l2 *fs, const struct fs_path *path, void *buf, uint64_t len,
		     bool direct, uint64_t *done_p)
{
	/* O_NONBLOCK: somebody may have planted a FIFO. */
	int flags = O_RDONLY | O_NONBLOCK | O_NOFOLLOW | (direct ? O_DIRECT : 0);
	int fd = fs->io->open(fs->io_ctx, fs->root, path->text, flags, 0, 1);
	int ret;

	*done_p = 0;
	if (fd < 0)
		return fd;
	ret = check_size(fs, fd, len);
	if (ret == 0)
		ret = read_all(fs, fd, buf, len, done_p);
	fs->io->close(fs->io_ctx, fd);
	return ret;
}

int kvh_fs_get(struct fs_l2 *fs, const struct kvh_key *key, void *buf, uint64_t len)
{
	bool direct = atomic_load(&fs->direct);
	struct fs_path path;
	uint64_t done;
	int ret;

	kvh_fs_path_make(key, &path);
	ret = read_file(fs, &path, buf, len, direct, &done);
	if (ret < 0 && direct && go_buffered(fs, ret, done))
		ret = read_file(fs, &path, buf, len, false, &done);
	if (ret == 0)
		kvh_fs_index_saw(fs, key, len);
	else if (ret == -ENOENT)
		kvh_fs_index_saw(fs, key, 0);
	return ret;
}

int kvh_fs_probe(struct fs_l2 *fs, const struct kvh_key *key, uint64_t *len_p)
{
	struct fs_path path;
	struct stat st;
	int fd, ret;

	kvh_fs_path_make(key, &path);
	fd = fs->io->open(fs->io_ctx, fs->root, path.text, O_PATH | O_NOFOLLOW, 0, 1);
	ret = fd;
	if (fd >= 0) {
		ret = fs->io->fstat(fs->io_ctx, fd, &st);
		fs->io->close(fs->io_ctx, fd);
		if (ret == 0 && (!S_ISREG(st.st_mode) || st.st_size <= 0))
			ret = -ENOENT; /* no object of ours */
	}
	if (ret == 0) {
		*len_p = (uint64_t)st.st_size;
		kvh_fs_index_saw(fs, key, *len_p);
	} else if (ret == -ENOENT) {
		kvh_fs_index_saw(fs, key, 0);
	}
	return ret;
}

/* ---- delete -------------------------------------------------------------- */

int kvh_fs_unlink(struct fs_l2 *fs, const struct kvh_key *key)
{
	struct fs_path path;
	int dir, ret;

	kvh_fs_path_make(key, &path);
	dir = kvh_fs_dir_of(fs, &path, false);
	if (dir < 0)
		return dir;
	ret = fs->io->unlink(fs->io_ctx, dir, path.text + FS_PATH_NAME);
	if (ret == 0 && fs->sync == FS_SYNC_FULL)
		ret = fs->io->fsync(fs->io_ctx, dir, 0);
	fs->io->close(fs->io_ctx, dir);
	return ret;
}

int kvh_fs_delete(struct fs_l2 *fs, const struct kvh_key *key)
{
	uint32_t item = kvh_fs_index_begin_delete(fs, key);
	int ret = kvh_fs_unlink(fs, key);

	if (item != KVH_SHELF_NONE)
		kvh_fs_index_end_delete(fs, item, ret == 0 || ret == -ENOENT);
	return ret;
}

/* ---- open ---------------------------------------------------------------- */

int kvh_fs_try_direct(struct fs_l2 *fs)
{
	uint64_t done;
	char name[48];
	void *block;
	int ret;

	atomic_store(&fs->direct, fs->direct_option != FS_DIRECT_OFF);
	if (fs->direct_option == FS_DIRECT_OFF)
		return 0;
	if (posix_memalign(&block, 4096, 4096) != 0)
		return -ENOMEM;
	memset(block, 0, 4096);
	tmp_name(fs, name);
	ret = write_tmp(fs, name, block, 4096, true, &done);
	free(block);
	if (ret == 0) /* one that stays is swept by the next instance */
		(void)fs->io->unlink(fs->io_ctx, fs->tmp, name);
	if (ret == 0 || go_buffered(fs, ret, 0))
		return 0;
	if (ret == -ENOSPC || ret == -EDQUOT)
		return 0; /* a disk that is full can still be read */
	kvh_err("fs: %s: a first write with O_DIRECT: %s%s", fs->path, strerror(-ret),
		ret == -EINVAL ? ": direct=on, and the file system refuses it" : "");
	return ret;
}
