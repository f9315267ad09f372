/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_dir.c - names and directories of the fs adapter: the root, temporaries of
 * this instance and of dead ones, and the walk over all frames. Any of the
 * adapter's threads; no state but the fds.
 * Limit: a directory is read in pieces of 32 KiB, each file is opened to be
 * sized: some 5 us a file at open.
 */
#include "l2/fs.h"

#include "host/log.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define TMP_DIR     "tmp"
#define LOCK_SUFFIX ".lock"
#define DIR_FLAGS   (O_RDONLY | O_DIRECTORY)
#define HEX         "0123456789abcdef"

/* ---- names ------------------------------------------------------------- */

void kvh_fs_path_make(const struct kvh_key *key, struct fs_path *path)
{
	char hash[33];

	for (int i = 0; i < 16; i++) {
		hash[2 * i] = HEX[key->hash.bytes[i] >> 4];
		hash[2 * i + 1] = HEX[key->hash.bytes[i] & 15];
	}
	hash[32] = '\0';
	(void)snprintf(path->text, sizeof(path->text),
		       "%016" PRIx64 "/%.2s/%s-%08" PRIx32 "-%08" PRIx32, key->space, hash,
		       hash, key->rank, key->group);
}

/* `n` lower-case hex digits at *p. */
static bool take_hex(const char **p, int n, uint64_t *value_p)
{
	uint64_t value = 0;

	for (int i = 0; i < n; i++) {
		const char *digit = (*p)[i] != '\0' ? strchr(HEX, (*p)[i]) : NULL;

		if (digit == NULL)
			return false;
		value = value << 4 | (uint64_t)(digit - HEX);
	}
	*p += n;
	*value_p = value;
	return true;
}

static bool take_char(const char **p, char c)
{
	if (**p != c)
		return false;
	(*p)++;
	return true;
}

/* The key of "<hash>-<rank>-<group>", in space's directory. */
static bool key_of_name(const char *name, uint64_t space, struct kvh_key *key)
{
	uint64_t value;

	for (int i = 0; i < 16; i++) {
		if (!take_hex(&name, 2, &value))
			return false;
		key->hash.bytes[i] = (uint8_t)value;
	}
	if (!take_char(&name, '-') || !take_hex(&name, 8, &value))
		return false;
	key->rank = (uint32_t)value;
	if (!take_char(&name, '-') || !take_hex(&name, 8, &value))
		return false;
	key->group = (uint32_t)value;
	key->space = space;
	return *name == '\0';
}

/* The instance in "<instance>.lock" or "<instance>-<number>". */
static bool instance_of_name(const char *name, uint64_t *instance_p, bool *is_lock_p)
{
	uint64_t number;

	if (!take_hex(&name, 16, instance_p))
		return false;
	*is_lock_p = strcmp(name, LOCK_SUFFIX) == 0;
	if (*is_lock_p)
		return true;
	return take_char(&name, '-') && take_hex(&name, 16, &number) && *name == '\0';
}

/* ---- reading directories ------------------------------------------------ */

/* Calls visit for each name in the directory until it returns < 0. */
static int each_name(struct fs_l2 *fs, int dir, int (*visit)(void *arg, const char *name),
		     void *arg)
{
	char *buf = malloc(32768);
	ssize_t n = -ENOMEM;
	int ret = 0;

	while (buf != NULL && ret >= 0 &&
	       (n = fs->io->getdents(fs->io_ctx, dir, buf, 32768)) > 0) {
		for (char *p = buf; p < buf + n && ret >= 0;) {
			struct dirent64 *entry = (struct dirent64 *)(void *)p;

			p += entry->d_reclen;
			if (entry->d_name[0] != '.')
				ret = visit(arg, entry->d_name);
		}
	}
	free(buf);
	return ret < 0 ? ret : (int)n;
}

static int open_dir(struct fs_l2 *fs, int parent, const char *name)
{
	return fs->io->open(fs->io_ctx, parent, name, DIR_FLAGS, 0, 1);
}

struct walk {
	struct fs_l2 *fs;
	bool (*visit)(void *arg, const struct kvh_key *key, const struct stat *st);
	void *arg;
	uint64_t space;
	int dir;      /* that the names are in */
	int *error_p; /* the first for which something was passed over */
};

static void pass_over(const struct walk *walk, int error)
{
	if (error != -ENOENT && *walk->error_p == 0)
		*walk->error_p = error;
}

static int walk_file(void *arg, const char *name)
{
	struct walk *walk = arg;
	struct fs_l2 *fs = walk->fs;
	struct kvh_key key;
	struct stat st;
	int fd, ret;

	if (!key_of_name(name, walk->space, &key))
		return 0;
	fd = fs->io->open(fs->io_ctx, walk->dir, name, O_PATH, 0, 1);
	if (fd == -ELOOP)
		return 0; /* a symlink: not one of ours */
	ret = fd;
	if (fd >= 0) {
		ret = fs->io->fstat(fs->io_ctx, fd, &st);
		fs->io->close(fs->io_ctx, fd);
	}
	if (ret < 0)
		pass_over(walk, ret);
	if (ret < 0 || !S_ISREG(st.st_mode))
		return 0;
	return walk->visit(walk->arg, &key, &st) ? 0 : -ECANCELED;
}

/* Goes into the directory `name`; one that cannot be read ends nothing. */
static int walk_into(struct walk *walk, const char *name,
		     int (*visit)(void *arg, const char *name))
{
	struct walk below = *walk;
	int ret;

	below.dir = open_dir(walk->fs, walk->dir, name);
	ret = below.dir;
	if (ret >= 0) {
		ret = each_name(walk->fs, below.dir, visit, &below);
		walk->fs->io->close(walk->fs->io_ctx, below.dir);
	}
	if (ret < 0 && ret != -ECANCELED) {
		kvh_warn("fs: %s: directory %s of space %016" PRIx64 " is passed over: %s",
			 walk->fs->path, name, walk->space, strerror(-ret));
		pass_over(walk, ret);
		ret = 0;
	}
	return ret;
}

static int walk_fan(void *arg, const char *name)
{
	const char *p = name;
	uint64_t value;

	if (!take_hex(&p, 2, &value) || *p != '\0')
		return 0;
	return walk_into(arg, name, walk_file);
}

static int walk_space(void *arg, const char *name)
{
	struct walk *walk = arg;
	const char *p = name;

	if (!take_hex(&p, 16, &walk->space) || *p != '\0')
		return 0;
	return walk_into(walk, name, walk_fan);
}

int kvh_fs_walk(struct fs_l2 *fs,
		bool (*visit)(void *arg, const struct kvh_key *key, const struct stat *st),
		void *arg)
{
	int passed = 0, ret;
	struct walk walk = {.fs = fs, .visit = visit, .arg = arg, .error_p = &passed};

	walk.dir = open_dir(fs, fs->root, "."); /* an fd with a position of its own */
	if (walk.dir < 0)
		return walk.dir;
	ret = each_name(fs, walk.dir, walk_space, &walk);
	fs->io->close(fs->io_ctx, walk.dir);
	return ret == -ECANCELED ? 0 : ret;
}

int kvh_fs_walk_space(struct fs_l2 *fs, kvh_space_t space,
		      bool (*visit)(void *arg, const struct kvh_key *key,
				    const struct stat *st),
		      void *arg)
{
	int passed = 0, ret;
	struct walk walk = {
		.fs = fs, .visit = visit, .arg = arg, .space = space, .error_p = &passed};
	char name[17];

	(void)snprintf(name, sizeof(name), "%016" PRIx64, space);
	walk.dir = open_dir(fs, fs->root, name);
	if (walk.dir < 0)
		return walk.dir == -ENOENT ? 0 : walk.dir;
	ret = each_name(fs, walk.dir, walk_fan, &walk);
	fs->io->close(fs->io_ctx, walk.dir);
	return ret == -ECANCELED || ret == 0 ? passed : ret;
}

/* ---- making directories ------------------------------------------------- */

static int sync_dir(struct fs_l2 *fs, int parent)
{
	return fs->sync == FS_SYNC_FULL ? fs->io->fsync(fs->io_ctx, parent, 0) : 0;
}

/* Opens `name` in parent, made if it is not there. */
static int make_dir(struct fs_l2 *fs, int parent, const char *name)
{
	int fd = open_dir(fs, parent, name);
	int ret;

	if (fd != -ENOENT)
		return fd;
	ret = fs->io->mkdir(fs->io_ctx, parent, name, 0700);
	if (ret < 0 && ret != -EEXIST)
		return ret;
	ret = sync_dir(fs, parent);
	return ret < 0 ? ret : open_dir(fs, parent, name);
}

int kvh_fs_dir_of(struct fs_l2 *fs, const struct fs_path *path, bool make)
{
	char name[FS_PATH_DIR + 1];
	int space, fd;

	memcpy(name, path->text, FS_PATH_DIR);
	name[FS_PATH_DIR] = '\0';
	fd = open_dir(fs, fs->root, name);
	if (fd != -ENOENT || !make)
		return fd;
	name[FS_PATH_SPACE] = '\0';
	space = make_dir(fs, fs->root, name);
	if (space < 0)
		return space;
	fd = make_dir(fs, space, name + FS_PATH_SPACE + 1);
	fs->io->close(fs->io_ctx, space);
	return fd;
}

/* ---- temporaries -------------------------------------------------------- */

static void lock_name(uint64_t instance, char name[32])
{
	(void)snprintf(name, 32, "%016" PRIx64 LOCK_SUFFIX, instance);
}

/* An fd with the instance's lock: nobody lives behind it as long as we have it.
 * -ENOENT: nobody does, its lock stands from before its first file on. */
static int take_dead(struct fs_l2 *fs, uint64_t instance)
{
	char name[32];
	int fd, ret;

	lock_name(instance, name);
	fd = fs->io->open(fs->io_ctx, fs->tmp, name, O_RDWR | O_NONBLOCK, 0, 1);
	if (fd < 0)
		return fd;
	ret = fs->io->lock(fs->io_ctx, fd);
	if (ret == 0)
		return fd;
	fs->io->close(fs->io_ctx, fd);
	return ret;
}

struct sweep {
	struct fs_l2 *fs;
	bool locks; /* these in the second round, so that none is gone too early */
	uint64_t removed;
};

static int sweep_name(void *arg, const char *name)
{
	struct sweep *sweep = arg;
	struct fs_l2 *fs = sweep->fs;
	uint64_t instance;
	bool is_lock;

	int lock_fd;

	if (!instance_of_name(name, &instance, &is_lock) || is_lock != sweep->locks ||
	    instance == fs->instance)
		return 0;
	lock_fd = take_dead(fs, instance);
	if (lock_fd < 0 && lock_fd != -ENOENT)
		return 0; /* it lives */
	if (fs->io->unlink(fs->io_ctx, fs->tmp, name) == 0)
		sweep->removed += !is_lock;
	if (lock_fd >= 0)
		fs->io->close(fs->io_ctx, lock_fd);
	return 0;
}

static int sweep_round(struct sweep *sweep, bool locks)
{
	struct fs_l2 *fs = sweep->fs;
	int dir = open_dir(fs, fs->tmp, "."), ret;

	if (dir < 0)
		return dir;
	sweep->locks = locks;
	ret = each_name(fs, dir, sweep_name, sweep);
	fs->io->close(fs->io_ctx, dir);
	return ret;
}

/* A failure leaves garbage, but nothing that is wrong. */
static void sweep_tmp(struct fs_l2 *fs)
{
	struct sweep sweep = {.fs = fs};
	int ret = sweep_round(&sweep, false);

	if (ret == 0)
		ret = sweep_round(&sweep, true);
	if (ret < 0)
		kvh_warn("fs: %s/" TMP_DIR ": stale files may be left: %s", fs->path,
			 strerror(-ret));
	if (sweep.removed > 0)
		kvh_info("fs: %s/" TMP_DIR ": removed %" PRIu64 " files of dead processes",
			 fs->path, sweep.removed);
}

/* A lock that a sweeper took or removed before we had it is not ours. Without
 * locks on this file system nothing of ours is ever swept. */
static int try_lock(struct fs_l2 *fs, const char *name)
{
	const struct kvh_io_ops *io = fs->io;
	struct stat st = {.st_nlink = 1};
	int fd = io->open(fs->io_ctx, fs->tmp, name, O_RDWR | O_CREAT | O_EXCL, 0600, 1);
	int ret;

	if (fd < 0)
		return fd;
	ret = io->lock(fs->io_ctx, fd);
	if (ret == 0)
		ret = io->fstat(fs->io_ctx, fd, &st);
	else if (ret != -EWOULDBLOCK)
		kvh_warn("fs: %s/" TMP_DIR "/%s: %s: files that a crash leaves will stay",
			 fs->path, name, strerror(-ret));
	if (ret != -EWOULDBLOCK && st.st_nlink > 0)
		return fd;
	io->close(fs->io_ctx, fd);
	return -EWOULDBLOCK;
}

static int lock_instance(struct fs_l2 *fs)
{
	char name[32];
	int fd = -EEXIST;

	for (int i = 0; i < 100 && (fd == -EEXIST || fd == -EWOULDBLOCK); i++) {
		if (getrandom(&fs->instance, sizeof(fs->instance), 0) < 0)
			return -errno;
		lock_name(fs->instance, name);
		fd = try_lock(fs, name);
	}
	return fd;
}

/* ---- the root ------------------------------------------------------------ */

static int open_root(struct fs_l2 *fs)
{
	int ret = fs->io->mkdir(fs->io_ctx, AT_FDCWD, fs->path, 0700);

	if (ret < 0 && ret != -EEXIST)
		return ret;
	/* The root itself is the user's word: it may be a symlink. */
	return fs->io->open(fs->io_ctx, AT_FDCWD, fs->path, DIR_FLAGS, 0, 0);
}

int kvh_fs_dir_open(struct fs_l2 *fs)
{
	const char *what = "";
	int ret = fs->root = open_root(fs);

	if (ret >= 0) {
		what = "/" TMP_DIR;
		ret = fs->tmp = make_dir(fs, fs->root, TMP_DIR);
	}
	if (ret >= 0) {
		what = "/" TMP_DIR ": lock of this instance";
		ret = fs->lock_fd = lock_instance(fs);
	}
	if (ret >= 0) {
		sweep_tmp(fs);
		return 0;
	}
	kvh_err("fs: %s%s: %s%s", fs->path, what, strerror(-ret),
		ret == -ENOSYS ? " (openat2: Linux 5.6 is needed)" : "");
	kvh_fs_dir_close(fs);
	return ret;
}

void kvh_fs_dir_close(struct fs_l2 *fs)
{
	char name[32];

	if (fs->lock_fd >= 0) {
		lock_name(fs->instance, name);
		fs->io->unlink(fs->io_ctx, fs->tmp, name);
		fs->io->close(fs->io_ctx, fs->lock_fd);
	}
	if (fs->tmp >= 0)
		fs->io->close(fs->io_ctx, fs->tmp);
	if (fs->root >= 0)
		fs->io->close(fs->io_ctx, fs->root);
	fs->lock_fd = fs->tmp = fs->root = -1;
}
