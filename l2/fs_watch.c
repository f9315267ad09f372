/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_watch.c - whether the fs adapter's directory is still where it was, and takes
 * writes. On the thread of l2/watch.h. A directory that was made anew is another
 * one: nothing is stored there before the adapter is opened anew.
 * Limit: the lock's file gets a new time of change at each look.
 */
#include "l2/fs.h"

#include <fcntl.h>
#include <sys/statvfs.h>

/* One that went read-only after an error of its own may not say so in its flags:
 * only a change, one that changes nothing, tells. */
static int takes_writes(struct fs_l2 *fs)
{
	struct statvfs vfs;
	int ret = fs->io->fstatvfs(fs->io_ctx, fs->root, &vfs);

	if (ret == 0 && (vfs.f_flag & ST_RDONLY))
		ret = -EROFS;
	if (ret == 0)
		ret = fs->io->ftruncate(fs->io_ctx, fs->lock_fd, 0);
	/* A full disk takes writes again when there is room: requests say so. */
	return ret == -ENOSPC || ret == -EDQUOT ? 0 : ret;
}

/* Whether `name` in dirfd is what `fd` has open. */
static int is_there(struct fs_l2 *fs, int dirfd, const char *name, bool beneath, int fd)
{
	struct stat now, own;
	int at = fs->io->open(fs->io_ctx, dirfd, name, O_PATH | O_DIRECTORY, 0, beneath);
	int ret = at;

	if (at < 0)
		return ret;
	ret = fs->io->fstat(fs->io_ctx, at, &now);
	(void)fs->io->close(fs->io_ctx, at);
	if (ret == 0)
		ret = fs->io->fstat(fs->io_ctx, fd, &own);
	if (ret < 0)
		return ret;
	return now.st_dev == own.st_dev && now.st_ino == own.st_ino ? 0 : -ESTALE;
}

int kvh_fs_look(void *arg, const char **why_p)
{
	struct fs_l2 *fs = arg;
	int ret = is_there(fs, AT_FDCWD, fs->path, false, fs->root);

	*why_p = ret == -ESTALE ? "another directory stands at its path"
				: "its directory is gone";
	if (ret == 0) {
		ret = is_there(fs, fs->root, "tmp", true, fs->tmp);
		*why_p = "its directory for temporaries is gone";
	}
	if (ret == 0) {
		ret = takes_writes(fs);
		*why_p = "its file system takes no writes";
	}
	return ret;
}
