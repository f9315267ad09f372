/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io.c - kvh_io_system: the table of file operations over the system's own
 * calls. Any thread; no state. A signal does not end an operation: all but
 * close are called again after EINTR.
 */
#include "l2/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RETRY(call)                                 \
	({                                          \
		__typeof__(call) ret_;              \
		do                                  \
			ret_ = (call);              \
		while (ret_ < 0 && errno == EINTR); \
		ret_ < 0 ? -errno : ret_;           \
	})

static int io_open(void *ctx, int dirfd, const char *path, int flags, mode_t mode, int beneath)
{
	(void)ctx;
	if (!beneath)
		return RETRY(openat(dirfd, path, flags | O_CLOEXEC, mode));

	/* openat2 refuses a mode without O_CREAT. */
	struct open_how how = {
		.flags = (unsigned)flags | O_CLOEXEC,
		.mode = flags & O_CREAT ? mode : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	long fd;

	/* EAGAIN: a rename ran beside the walk and the kernel could not be sure. */
	do
		fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
	while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	return fd < 0 ? -errno : (int)fd;
}

static int io_close(void *ctx, int fd)
{
	(void)ctx;
	return close(fd) < 0 ? -errno : 0; /* never again: Linux has freed the number */
}

static ssize_t io_pread(void *ctx, int fd, void *buf, size_t len, off_t off)
{
	(void)ctx;
	return RETRY(pread(fd, buf, len, off));
}

static ssize_t io_pwrite(void *ctx, int fd, const void *buf, size_t len, off_t off)
{
	(void)ctx;
	return RETRY(pwrite(fd, buf, len, off));
}

static int io_fsync(void *ctx, int fd, int data_only)
{
	(void)ctx;
	return data_only ? RETRY(fdatasync(fd)) : RETRY(fsync(fd));
}

static int io_fallocate(void *ctx, int fd, int mode, off_t off, off_t len)
{
	(void)ctx;
	return RETRY(fallocate(fd, mode, off, len));
}

static int io_ftruncate(void *ctx, int fd, off_t len)
{
	(void)ctx;
	return RETRY(ftruncate(fd, len));
}

static int io_fstat(void *ctx, int fd, struct stat *st)
{
	(void)ctx;
	return fstat(fd, st) < 0 ? -errno : 0;
}

static int io_fstatvfs(void *ctx, int fd, struct statvfs *vfs)
{
	(void)ctx;
	return RETRY(fstatvfs(fd, vfs));
}

static int io_mkdir(void *ctx, int dirfd, const char *path, mode_t mode)
{
	(void)ctx;
	return mkdirat(dirfd, path, mode) < 0 ? -errno : 0;
}

static int io_rename(void *ctx, int olddirfd, const char *oldpath, int newdirfd,
		     const char *newpath)
{
	(void)ctx;
	return renameat(olddirfd, oldpath, newdirfd, newpath) < 0 ? -errno : 0;
}

static int io_unlink(void *ctx, int dirfd, const char *path)
{
	(void)ctx;
	return unlinkat(dirfd, path, 0) < 0 ? -errno : 0;
}

static ssize_t io_getdents(void *ctx, int fd, void *buf, size_t len)
{
	(void)ctx;
	return RETRY(syscall(SYS_getdents64, fd, buf, len));
}

static int io_lock(void *ctx, int fd)
{
	(void)ctx;
	return RETRY(flock(fd, LOCK_EX | LOCK_NB));
}

static int io_ring_allowed(void *ctx)
{
	(void)ctx;
	return 0;
}

static int io_submitting(void *ctx, enum kvh_io_dir dir, int fd, const void *buf, size_t len,
			 off_t off)
{
	(void)ctx, (void)dir, (void)fd, (void)buf, (void)len, (void)off;
	return 0;
}

static int io_completed(void *ctx, enum kvh_io_dir dir, int fd, void *buf, size_t len,
			off_t off, int res)
{
	(void)ctx, (void)dir, (void)fd, (void)buf, (void)len, (void)off;
	return res;
}

const struct kvh_io_ops kvh_io_system = {
	.open = io_open,
	.close = io_close,
	.pread = io_pread,
	.pwrite = io_pwrite,
	.fsync = io_fsync,
	.fallocate = io_fallocate,
	.ftruncate = io_ftruncate,
	.fstat = io_fstat,
	.fstatvfs = io_fstatvfs,
	.mkdir = io_mkdir,
	.rename = io_rename,
	.unlink = io_unlink,
	.getdents = io_getdents,
	.lock = io_lock,
	.ring_allowed = io_ring_allowed,
	.submitting = io_submitting,
	.completed = io_completed,
};
