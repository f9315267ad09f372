/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_file.c - opens or makes a file of the nvme adapter, locks it, reads and writes
 * its superblock. On the thread that opens and closes; blocks.
 *
 * One process has it open: an OFD lock, which dies with the last reference to
 * the open file. io_uring holds one until its writes have ended, so the lock of
 * a killed process also keeps us off until its last write is on the disk.
 */
#include "l2/nvme_engine.h"

#include "host/clock.h"
#include "host/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LOCK_WAIT_NS  (10 * KVH_NS_PER_S) /* for the writes of a process that died */
#define BUSY_WAIT_NS  (2 * KVH_NS_PER_S)  /* for a device that was just closed */
#define LOCK_PAUSE_NS (5 * KVH_NS_PER_MS)

/* ---- transfers ---- */

static int transfer(struct kvh_nvme_file *file, struct kvh_nvme_io *io)
{
	ssize_t res;

	do {
		char *buf = io->buf + io->done;
		size_t len = kvh_nvme_io_piece(io);
		off_t off = (off_t)(io->off + io->done);

		if (io->dir == KVH_IO_READ)
			res = file->io->pread(file->io_ctx, file->fd, buf, len, off);
		else
			res = file->io->pwrite(file->io_ctx, file->fd, buf, len, off);
	} while (!kvh_nvme_io_advance(io, res, file->direct));
	if (io->result == -EINVAL && file->direct)
		file->refused = true;
	return io->result;
}

int kvh_nvme_file_read(struct kvh_nvme_file *file, void *buf, uint64_t len, uint64_t off)
{
	struct kvh_nvme_io io = {.dir = KVH_IO_READ, .buf = buf, .len = len, .off = off};

	return transfer(file, &io);
}

int kvh_nvme_file_write(struct kvh_nvme_file *file, const void *buf, uint64_t len, uint64_t off)
{
	struct kvh_nvme_io io = {
		.dir = KVH_IO_WRITE, .buf = (char *)buf, .len = len, .off = off};

	return transfer(file, &io);
}

int kvh_nvme_file_sync(const struct kvh_nvme_file *file, bool always)
{
	if (file->conf->sync == KVH_NVME_SYNC_NONE && !always)
		return 0;
	return file->io->fsync(file->io_ctx, file->fd, 1);
}

/* ---- the descriptor ---- */

/* O_EXCL: of a block device that is mounted, or part of something, -EBUSY. */
static int open_fd(struct kvh_nvme_file *file, bool direct)
{
	int flags = O_RDWR | O_EXCL | O_CLOEXEC;

	if (file->conf->sync == KVH_NVME_SYNC_WRITE)
		flags |= O_DSYNC;
	if (direct)
		flags |= O_DIRECT;
	file->fd = file->io->open(file->io_ctx, AT_FDCWD, file->path, flags, 0, 0);
	file->direct = direct;
	return file->fd < 0 ? file->fd : 0;
}

static int open_direct_or_not(struct kvh_nvme_file *file)
{
	int ret = open_fd(file, file->conf->direct != KVH_NVME_DIRECT_OFF);

	if (ret != -EINVAL || !file->direct || file->conf->direct == KVH_NVME_DIRECT_ON)
		return ret;
	ret = open_fd(file, false);
	if (ret == 0)
		kvh_warn("nvme: %s: no O_DIRECT here, goes through the page cache", file->path);
	return ret;
}

static int create(struct kvh_nvme_file *file)
{
	int fd;

	if (file->conf->size == 0) {
		kvh_err("nvme: %s does not exist; size=BYTES would make it", file->path);
		return -ENOENT;
	}
	/* Apart from O_DIRECT: refusing that, some file systems leave the file. */
	fd = file->io->open(file->io_ctx, AT_FDCWD, file->path,
			    O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600, 0);
	if (fd < 0) {
		kvh_err("nvme: %s: cannot be made: %s", file->path, strerror(-fd));
		return fd;
	}
	file->created = true;
	(void)file->io->close(file->io_ctx, fd);
	return 0;
}

/* Whoever wrote the superblock last; 0: nobody that we can name. */
static uint32_t owner_find(struct kvh_nvme_file *file)
{
	uint64_t newest = 0;
	uint32_t owner = 0;

	for (unsigned copy = 0; copy < 2; copy++) {
		if (kvh_nvme_file_read(file, file->super, KVH_NVME_PAGE, copy * KVH_NVME_PAGE) <
			    0 ||
		    kvh_nvme_super_check(file->super) < 0 || file->super->sequence < newest)
			continue;
		newest = file->super->sequence;
		owner = file->super->owner;
	}
	return owner;
}

static bool is_alive(uint32_t owner)
{
	return owner != 0 && (kill((pid_t)owner, 0) == 0 || errno != ESRCH);
}

/* Of a device that may not be opened for writing: without a claim on it. */
static uint32_t owner_of_claimed(struct kvh_nvme_file *file)
{
	uint32_t owner;

	file->direct = false;
	file->fd = file->io->open(file->io_ctx, AT_FDCWD, file->path, O_RDONLY | O_CLOEXEC, 0,
				  0);
	if (file->fd < 0)
		return 0;
	owner = owner_find(file);
	(void)file->io->close(file->io_ctx, file->fd);
	file->fd = -1;
	return owner;
}

/* A device that was just closed, or whose process died, is free when the kernel
 * has let go of it; one that somebody else has is refused. */
static int open_patiently(struct kvh_nvme_file *file)
{
	const struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};
	uint64_t since = kvh_now_ns(), wait = BUSY_WAIT_NS;
	uint32_t owner = 0;
	int ret = open_direct_or_not(file);

	if (ret == -EBUSY) {
		owner = owner_of_claimed(file);
		wait = is_alive(owner) ? 0 : owner != 0 ? LOCK_WAIT_NS : BUSY_WAIT_NS;
	}
	while (ret == -EBUSY && kvh_now_ns() - since < wait) {
		(void)nanosleep(&pause, NULL);
		ret = open_direct_or_not(file);
	}
	if (ret == -EBUSY && is_alive(owner))
		kvh_err("nvme: %s is in use by process %" PRIu32 "; one at a time", file->path,
			owner);
	else if (ret == -EBUSY)
		kvh_err("nvme: %s: the device is in use: mounted, or part of another; it has "
			"to be free of that, also for format=yes",
			file->path);
	return ret;
}

static int open_or_create(struct kvh_nvme_file *file)
{
	int ret = open_patiently(file);

	if (ret == -ENOENT) {
		ret = create(file);
		if (ret < 0)
			return ret;
		ret = open_direct_or_not(file);
	}
	if (ret == -EISDIR)
		kvh_err("nvme: %s is a directory; the path of a file or block device is wanted",
			file->path);
	else if (ret < 0 && ret != -EBUSY)
		kvh_err("nvme: %s: cannot be opened%s: %s", file->path,
			file->direct ? " with O_DIRECT" : "", strerror(-ret));
	return ret;
}

int kvh_nvme_file_find_size(struct kvh_nvme_file *file)
{
	struct stat st;
	int sector = 0;
	int ret = file->io->fstat(file->io_ctx, file->fd, &st);

	if (ret < 0)
		return ret;
	file->bytes = (uint64_t)st.st_size;
	file->block = S_ISBLK(st.st_mode);
	file->dev = file->block ? st.st_rdev : st.st_dev;
	file->ino = file->block ? 0 : st.st_ino;
	if (S_ISREG(st.st_mode))
		return 0;
	if (!file->block) {
		kvh_err("nvme: %s is neither a file nor a block device", file->path);
		return -EINVAL;
	}
	if (ioctl(file->fd, BLKGETSIZE64, &file->bytes) < 0 ||
	    ioctl(file->fd, BLKSSZGET, &sector) < 0)
		return -errno;
	if (sector > (int)KVH_NVME_PAGE) {
		kvh_err("nvme: %s has sectors of %d bytes, at most %u are supported",
			file->path, sector, KVH_NVME_PAGE);
		return -EINVAL;
	}
	return 0;
}

/* ---- the lock ---- */

static int lock(struct kvh_nvme_file *file)
{
	const struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};
	uint64_t until = kvh_deadline_ns(LOCK_WAIT_NS);

	for (;;) {
		struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
		uint32_t owner;

		if (fcntl(file->fd, F_OFD_SETLK, &all) == 0)
			return 0;
		if (errno != EAGAIN && errno != EACCES) {
			int ret = -errno;

			kvh_err("nvme: %s cannot be locked on this file system: %s", file->path,
				strerror(-ret));
			return ret;
		}
		owner = owner_find(file);
		if (is_alive(owner) || kvh_now_ns() >= until) {
			kvh_err("nvme: %s is in use by process %" PRIu32 "; one at a time",
				file->path, owner);
			file->created = false; /* what we made is theirs now */
			return -EBUSY;
		}
		(void)nanosleep(&pause, NULL);
	}
}

/* ---- the superblock ---- */

/* Another version outweighs a sound copy, its writer knew more than we do, and so
 * does one that is being formatted, as what the other names is half gone. It is left
 * in file->super for the message. */
int kvh_nvme_super_read(struct kvh_nvme_file *file)
{
	struct kvh_nvme_super *found = file->page;
	uint64_t newest = 0, sum = 0;
	int best = -ENOENT;

	for (unsigned copy = 0; copy < 2; copy++) {
		int ret = kvh_nvme_file_read(file, found, KVH_NVME_PAGE, copy * KVH_NVME_PAGE);

		if (ret == -EINVAL)
			return ret; /* of O_DIRECT: no page is read at all */
		if (ret == 0)
			ret = kvh_nvme_super_check(found);
		else
			ret = file->bytes < 2 * KVH_NVME_PAGE ? -ENOENT : ret;
		if (ret < 0 && ret != -ENOENT)
			kvh_warn("nvme: %s: superblock %u: %s", file->path, copy,
				 ret == -EPROTONOSUPPORT ? "of another version"
							 : strerror(-ret));
		if (best == -EPROTONOSUPPORT || best == 1)
			continue;
		if (ret == 0)
			sum += found->sequence;
		if (ret == 0 && found->sequence >= newest) {
			memcpy(file->super, found, KVH_NVME_PAGE);
			newest = found->sequence;
			best = 0;
		} else if (ret == -EPROTONOSUPPORT || ret == 1) {
			memcpy(file->super, found, KVH_NVME_PAGE);
			best = ret;
		} else if (best == -ENOENT && ret < 0) {
			best = ret;
		}
	}
	file->paired = sum == 2 * newest - 1;
	return best;
}

int kvh_nvme_super_write(struct kvh_nvme_file *file, bool clean)
{
	file->super->sequence++;
	file->super->clean = clean;
	file->super->owner = clean ? 0 : (uint32_t)getpid();
	kvh_nvme_super_seal(file->super);
	return kvh_nvme_file_write(file, file->super, KVH_NVME_PAGE,
				   (file->super->sequence & 1) * KVH_NVME_PAGE);
}

/* ---- all of it ---- */

static int open_locked(struct kvh_nvme_file *file)
{
	int ret = open_or_create(file);

	if (ret < 0)
		return ret;
	ret = kvh_nvme_file_find_size(file);
	if (ret == 0)
		ret = lock(file);
	return ret;
}

/* Some file systems take O_DIRECT at open and refuse the transfers. */
static int open_and_judge(struct kvh_nvme_file *file)
{
	int ret = open_locked(file);

	if (ret == 0)
		ret = kvh_nvme_file_judge(file);
	if (ret != -EINVAL || !file->refused)
		return ret;
	if (file->conf->direct == KVH_NVME_DIRECT_ON) {
		kvh_err("nvme: %s: O_DIRECT is refused, and direct=on", file->path);
		return ret;
	}
	kvh_warn("nvme: %s: O_DIRECT is refused, goes through the page cache", file->path);
	(void)file->io->close(file->io_ctx, file->fd);
	ret = open_fd(file, false);
	if (ret == 0)
		ret = lock(file);
	return ret < 0 ? ret : kvh_nvme_file_judge(file);
}

static void release(struct kvh_nvme_file *file)
{
	struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	if (file->created && !file->begun)
		(void)file->io->unlink(file->io_ctx, AT_FDCWD, file->path);
	if (file->fd >= 0) {
		/* Nothing runs. The kernel lets go of a ring's file when it likes. */
		(void)fcntl(file->fd, F_OFD_SETLK, &all);
		(void)file->io->close(file->io_ctx, file->fd);
	}
	free(file->generations);
	free(file->page);
	free(file->super);
}

int kvh_nvme_file_open(struct kvh_nvme_file *file, const struct kvh_nvme_conf *conf,
		       const char *path, const struct kvh_io_ops *io, void *io_ctx)
{
	int ret = -ENOMEM;

	*file = (struct kvh_nvme_file){
		.io = io, .io_ctx = io_ctx, .conf = conf, .path = path, .fd = -1};
	file->super = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_PAGE);
	file->page = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_PAGE);
	if (file->super != NULL && file->page != NULL)
		ret = open_and_judge(file);
	if (ret == 0)
		file->created = false; /* formatted by another, before we had the lock */
	if (ret >= 0) {
		file->found = ret == 0 ? KVH_NVME_OURS : KVH_NVME_BLANK;
		return 0;
	}
	if (conf->format && (ret == -EEXIST || ret == -EBADMSG || ret == -EPROTONOSUPPORT)) {
		file->found = KVH_NVME_OTHER;
		return 0;
	}
	release(file);
	return ret;
}

/* To the medium whatever `sync` says: a snapshot from before must never be taken
 * for one from after. */
int kvh_nvme_file_begin(struct kvh_nvme_file *file)
{
	int ret;

	if (!file->super->clean)
		kvh_info("nvme: %s was not closed in order", file->path);
	file->begun = true;
	file->super->snapshot = 0;
	file->super->snapshot_records = 0;
	ret = kvh_nvme_super_write(file, false);
	if (ret == 0)
		ret = kvh_nvme_file_sync(file, true);
	if (ret < 0)
		kvh_err("nvme: %s: superblock: %s", file->path, strerror(-ret));
	return ret;
}

void kvh_nvme_file_close(struct kvh_nvme_file *file, bool clean)
{
	int ret = clean ? kvh_nvme_file_sync(file, false) : 0;

	if (ret == 0 && clean)
		ret = kvh_nvme_super_write(file, true);
	if (ret == 0 && clean)
		ret = kvh_nvme_file_sync(file, false);
	if (ret < 0)
		kvh_warn("nvme: %s: not closed in order: %s", file->path, strerror(-ret));
	release(file);
}
