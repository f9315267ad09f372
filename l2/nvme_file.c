/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_file.c - opens or makes the file of the nvme adapter, and refuses what is
 * not its own. On the thread that opens and closes; blocks.
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
#include <sys/random.h>
#include <unistd.h>

#define BLANK_BYTES   (UINT64_C(1) << 20) /* zeros so far: no signature that we know of */
#define TABLE_OFFSET  (UINT64_C(2) * KVH_NVME_PAGE)
#define LOCK_WAIT_NS  (10 * KVH_NS_PER_S) /* for the writes of a process that died */
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

static int file_sync(const struct kvh_nvme_file *file)
{
	if (file->conf->sync == KVH_NVME_SYNC_NONE)
		return 0;
	return file->io->fsync(file->io_ctx, file->fd, 1);
}

/* ---- the descriptor ---- */

static int open_fd(struct kvh_nvme_file *file, bool direct)
{
	int flags = O_RDWR | O_CLOEXEC;

	if (file->conf->sync == KVH_NVME_SYNC_WRITE)
		flags |= O_DSYNC;
	if (direct)
		flags |= O_DIRECT;
	file->fd = file->io->open(file->io_ctx, AT_FDCWD, file->conf->path, flags, 0, 0);
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
		kvh_warn("nvme: %s: no O_DIRECT here, goes through the page cache",
			 file->conf->path);
	return ret;
}

static int create(struct kvh_nvme_file *file)
{
	const struct kvh_nvme_conf *conf = file->conf;
	int fd;

	if (conf->size == 0) {
		kvh_err("nvme: %s does not exist; size=BYTES would make it", conf->path);
		return -ENOENT;
	}
	/* Apart from O_DIRECT: refusing that, some file systems leave the file. */
	fd = file->io->open(file->io_ctx, AT_FDCWD, conf->path,
			    O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600, 0);
	if (fd < 0) {
		kvh_err("nvme: %s: cannot be made: %s", conf->path, strerror(-fd));
		return fd;
	}
	file->created = true;
	(void)file->io->close(file->io_ctx, fd);
	return 0;
}

static int open_or_create(struct kvh_nvme_file *file)
{
	int ret = open_direct_or_not(file);

	if (ret == -ENOENT) {
		ret = create(file);
		if (ret < 0)
			return ret;
		ret = open_direct_or_not(file);
	}
	if (ret < 0)
		kvh_err("nvme: %s: cannot be opened%s: %s", file->conf->path,
			file->direct ? " with O_DIRECT" : "", strerror(-ret));
	return ret;
}

static int find_size(struct kvh_nvme_file *file)
{
	struct stat st;
	int sector = 0;
	int ret = file->io->fstat(file->io_ctx, file->fd, &st);

	if (ret < 0)
		return ret;
	file->bytes = (uint64_t)st.st_size;
	file->block = S_ISBLK(st.st_mode);
	if (S_ISREG(st.st_mode))
		return 0;
	if (!file->block) {
		kvh_err("nvme: %s is neither a file nor a block device", file->conf->path);
		return -EINVAL;
	}
	if (ioctl(file->fd, BLKGETSIZE64, &file->bytes) < 0 ||
	    ioctl(file->fd, BLKSSZGET, &sector) < 0)
		return -errno;
	if (sector > (int)KVH_NVME_PAGE) {
		kvh_err("nvme: %s has sectors of %d bytes, at most %u are supported",
			file->conf->path, sector, KVH_NVME_PAGE);
		return -EINVAL;
	}
	return 0;
}

/* ---- the lock ---- */

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

static int lock(struct kvh_nvme_file *file)
{
	const struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};
	uint64_t until = kvh_deadline_ns(LOCK_WAIT_NS);

	for (;;) {
		struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
		uint32_t owner;

		if (fcntl(file->fd, F_OFD_SETLK, &all) == 0)
			return 0;
		if (errno != EAGAIN && errno != EACCES)
			return -errno;
		owner = owner_find(file);
		if ((owner != 0 && (kill((pid_t)owner, 0) == 0 || errno != ESRCH)) ||
		    kvh_now_ns() >= until) {
			kvh_err("nvme: %s is in use by process %" PRIu32 "; one at a time",
				file->conf->path, owner);
			return -EBUSY;
		}
		(void)nanosleep(&pause, NULL);
	}
}

/* ---- what is on it ---- */

/* Reads both copies and leaves the one that counts in file->super. A newer
 * version outweighs a sound copy: its writer knew more than we do. */
static int super_read(struct kvh_nvme_file *file)
{
	struct kvh_nvme_super *found = file->page;
	uint64_t newest = 0;
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
			kvh_warn("nvme: %s: superblock %u, version %" PRIu32 ": %s",
				 file->conf->path, copy,
				 ret == -EPROTONOSUPPORT ? found->version : 0, strerror(-ret));
		if (best == -EPROTONOSUPPORT)
			continue;
		if (ret == 0 && found->sequence >= newest) {
			memcpy(file->super, found, KVH_NVME_PAGE);
			newest = found->sequence;
			best = 0;
		} else if (ret == -EPROTONOSUPPORT || (best == -ENOENT && ret < 0)) {
			best = ret;
		}
	}
	return best;
}

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

/* A format that was interrupted: our table behind no superblock. */
static bool is_half_formatted(struct kvh_nvme_file *file)
{
	struct kvh_nvme_table_page *table = file->page;

	return file->bytes >= KVH_NVME_MIN_BYTES &&
	       kvh_nvme_file_read(file, table, KVH_NVME_PAGE, TABLE_OFFSET) == 0 &&
	       kvh_nvme_table_check(table, 0) == 0;
}

/* 0: ours, and as asked for; 1: nothing there; -errno: refused, and said why. */
static int judge(struct kvh_nvme_file *file)
{
	const struct kvh_nvme_conf *conf = file->conf;
	int ret = super_read(file);

	if (ret == -EINVAL)
		return ret;
	if (ret == 0 && conf->size != 0 &&
	    conf->size / KVH_NVME_PAGE * KVH_NVME_PAGE != file->super->bytes) {
		kvh_err("nvme: %s was made with size=%" PRIu64 ", not %" PRIu64, conf->path,
			file->super->bytes, conf->size);
		return -EEXIST;
	}
	if (ret == 0 && file->bytes < file->super->bytes) {
		kvh_err("nvme: %s has been cut: %" PRIu64 " of %" PRIu64 " bytes", conf->path,
			file->bytes, file->super->bytes);
		return -EBADMSG;
	}
	if (ret == 0)
		return 0;
	if (ret == -ENOENT) {
		ret = is_half_formatted(file) ? 1 : is_blank(file);
		if (ret != 0)
			return ret;
		kvh_err("nvme: %s holds something that is not kvhoist's", conf->path);
		return -EEXIST;
	}
	kvh_err("nvme: %s: no superblock to go by: %s", conf->path, strerror(-ret));
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
			 file->conf->path);
		ret = file->io->ftruncate(file->io_ctx, file->fd, (off_t)bytes);
	}
	if (ret < 0)
		kvh_err("nvme: %s: no room for %" PRIu64 " bytes: %s", file->conf->path, bytes,
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

static int super_write(struct kvh_nvme_file *file, bool clean)
{
	file->super->sequence++;
	file->super->clean = clean;
	file->super->owner = clean ? 0 : (uint32_t)getpid();
	kvh_nvme_super_seal(file->super);
	return kvh_nvme_file_write(file, file->super, KVH_NVME_PAGE,
				   (file->super->sequence & 1) * KVH_NVME_PAGE);
}

/* The superblock comes last: until it is there, the file is blank or refused. */
static int write_format(struct kvh_nvme_file *file)
{
	int ret = write_zeros(file, 0);

	if (ret == 0)
		ret = write_zeros(file, KVH_NVME_PAGE);
	if (ret == 0)
		ret = write_tables(file);
	if (ret == 0)
		ret = file_sync(file);
	if (ret == 0)
		ret = super_write(file, true);
	if (ret < 0)
		kvh_err("nvme: %s: cannot be formatted: %s", file->conf->path, strerror(-ret));
	return ret;
}

static int format(struct kvh_nvme_file *file)
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
			conf->path, bytes, conf->segment, KVH_NVME_MIN_BYTES, file->bytes);
		return ret;
	}
	if (getrandom(file->super->uuid, sizeof(file->super->uuid), 0) < 0)
		return -errno;
	if (!file->block)
		ret = allocate(file, file->super->bytes);
	if (ret == 0)
		ret = write_format(file);
	return ret;
}

/* ---- all of it ---- */

static int load(struct kvh_nvme_file *file)
{
	int ret = judge(file);

	if ((ret == -EEXIST || ret == -EBADMSG || ret == -EPROTONOSUPPORT) &&
	    file->conf->format) {
		kvh_warn("nvme: %s: format=yes: is formatted", file->conf->path);
		ret = 1;
	}
	if (ret == 1)
		ret = format(file);
	if (ret < 0)
		return ret;
	if (!file->super->clean)
		kvh_info("nvme: %s was not closed in order", file->conf->path);
	ret = super_write(file, false);
	if (ret == 0)
		ret = file_sync(file);
	if (ret < 0 && ret != -EINVAL)
		kvh_err("nvme: %s: superblock: %s", file->conf->path, strerror(-ret));
	return ret;
}

static int open_locked(struct kvh_nvme_file *file)
{
	int ret = open_or_create(file);

	if (ret < 0)
		return ret;
	ret = find_size(file);
	if (ret == 0)
		ret = lock(file);
	return ret;
}

/* Some file systems take O_DIRECT at open and refuse the transfers. */
static int open_and_load(struct kvh_nvme_file *file)
{
	int ret = open_locked(file);

	if (ret == 0)
		ret = load(file);
	if (ret != -EINVAL || !file->refused)
		return ret;
	if (file->conf->direct == KVH_NVME_DIRECT_ON) {
		kvh_err("nvme: %s: O_DIRECT is refused, and direct=on", file->conf->path);
		return ret;
	}
	kvh_warn("nvme: %s: O_DIRECT is refused, goes through the page cache",
		 file->conf->path);
	(void)file->io->close(file->io_ctx, file->fd);
	ret = open_fd(file, false);
	if (ret == 0)
		ret = lock(file);
	return ret < 0 ? ret : load(file);
}

static void release(struct kvh_nvme_file *file)
{
	struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

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
		       const struct kvh_io_ops *io, void *io_ctx)
{
	int ret = -ENOMEM;

	*file = (struct kvh_nvme_file){.io = io, .io_ctx = io_ctx, .conf = conf, .fd = -1};
	file->super = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_PAGE);
	file->page = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_PAGE);
	if (file->super != NULL && file->page != NULL)
		ret = open_and_load(file);
	if (ret == 0) {
		file->generations = calloc(file->super->table_pages,
					   sizeof(*file->generations));
		ret = file->generations != NULL ? 0 : -ENOMEM;
	}
	if (ret == 0)
		return 0;
	if (file->created)
		(void)io->unlink(io_ctx, AT_FDCWD, conf->path);
	release(file);
	return ret;
}

void kvh_nvme_file_close(struct kvh_nvme_file *file, bool clean)
{
	int ret = clean ? file_sync(file) : 0;

	if (ret == 0 && clean)
		ret = super_write(file, true);
	if (ret == 0 && clean)
		ret = file_sync(file);
	if (ret < 0)
		kvh_warn("nvme: %s: not closed in order: %s", file->conf->path, strerror(-ret));
	release(file);
}

/* ---- the table ---- */

static bool table_read(struct kvh_nvme_file *file, uint32_t page,
		       struct kvh_nvme_table_page *best)
{
	struct kvh_nvme_table_page *found = file->page;
	bool any = false;

	for (unsigned copy = 0; copy < 2; copy++) {
		uint64_t off = kvh_nvme_table_offset(file->super, page, copy);

		if (kvh_nvme_file_read(file, found, KVH_NVME_PAGE, off) < 0 ||
		    kvh_nvme_table_check(found, page) < 0 ||
		    (any && found->generation < best->generation))
			continue;
		memcpy(best, found, KVH_NVME_PAGE);
		any = true;
	}
	return any;
}

int kvh_nvme_file_read_table(struct kvh_nvme_file *file, struct kvh_nvme_entry *entries)
{
	struct kvh_nvme_table_page *best = malloc(sizeof(*best));

	if (best == NULL)
		return -ENOMEM;
	memset(entries, 0, file->super->segments * sizeof(*entries));
	for (uint32_t page = 0; page < file->super->table_pages; page++) {
		uint32_t first = page * KVH_NVME_ENTRIES;
		uint32_t n = file->super->segments > first ? file->super->segments - first : 0;

		if (!table_read(file, page, best)) {
			kvh_warn("nvme: %s: table page %" PRIu32 " is damaged, its frames are "
				 "lost",
				 file->conf->path, page);
			continue;
		}
		file->generations[page] = best->generation;
		n = n < KVH_NVME_ENTRIES ? n : KVH_NVME_ENTRIES;
		memcpy(entries + first, best->entries, n * sizeof(*entries));
	}
	free(best);
	return 0;
}
