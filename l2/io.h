/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io.h - the table of file operations. Adapters do no file I/O but through it,
 * so that a seeded layer can fail, tear, reorder and delay it. System-call
 * injectors do not see io_uring's results, which arrive in shared memory: the
 * `completed` hook stands between the kernel's result and the adapter.
 *
 * All calls return >= 0 or a negative errno (not errno). Threads as the
 * adapter's: an implementation must be safe from several.
 */
#ifndef KVH_L2_IO_H
#define KVH_L2_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_io_dir { KVH_IO_READ, KVH_IO_WRITE };

struct kvh_io_ops {
	/* openat2 with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS where `beneath`;
	 * -ENOSYS of an old kernel is the adapter's to handle, by refusing. */
	int (*open)(void *ctx, int dirfd, const char *path, int flags, mode_t mode,
		    int beneath);
	int (*close)(void *ctx, int fd);
	ssize_t (*pread)(void *ctx, int fd, void *buf, size_t len, off_t off);
	ssize_t (*pwrite)(void *ctx, int fd, const void *buf, size_t len, off_t off);
	int (*fsync)(void *ctx, int fd, int data_only);
	int (*fallocate)(void *ctx, int fd, int mode, off_t off, off_t len);
	int (*ftruncate)(void *ctx, int fd, off_t len);
	int (*fstat)(void *ctx, int fd, struct stat *st);
	int (*fstatvfs)(void *ctx, int fd, struct statvfs *vfs);
	int (*mkdir)(void *ctx, int dirfd, const char *path, mode_t mode);
	int (*rename)(void *ctx, int olddirfd, const char *oldpath, int newdirfd,
		      const char *newpath);
	int (*unlink)(void *ctx, int dirfd, const char *path);
	/* Records of struct dirent64 from where the directory's fd stands, as
	 * getdents64: 0 at its end. */
	ssize_t (*getdents)(void *ctx, int fd, void *buf, size_t len);
	/* An exclusive flock, without waiting. -EWOULDBLOCK: another has it. */
	int (*lock)(void *ctx, int fd);

	/* io_uring: may the adapter use a ring at all? 0, or a negative errno as
	 * io_uring_setup would return it. */
	int (*ring_allowed)(void *ctx);
	/* Before a read or write is put on the ring: 0, or a negative errno that the
	 * operation ends with instead of being submitted. */
	int (*submitting)(void *ctx, enum kvh_io_dir dir, int fd, const void *buf, size_t len,
			  off_t off);
	/* The kernel reported `res` (bytes, or a negative errno); the adapter goes
	 * on with what this returns. */
	int (*completed)(void *ctx, enum kvh_io_dir dir, int fd, void *buf, size_t len,
			 off_t off, int res);
};

/* The system's own calls. */
extern const struct kvh_io_ops kvh_io_system;

#ifdef __cplusplus
}
#endif
#endif
