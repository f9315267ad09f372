/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_target.c - finds the path in a spec, and looks after what lies there. It
 * branches on what is there, and on no adapter's name. One thread.
 */
#include "bench/l2_target.h"

#include "bench/bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of "name:PATH,option=...": as l2/conf.h says. NULL: none, or no memory. */
static char *path_of(const char *spec)
{
	const char *at = strchr(spec, ':');
	const char *sign = at != NULL ? strpbrk(at + 1, "=/,") : NULL;
	char *path;
	size_t n = 0;

	if (at == NULL || at[1] == '\0' || at[1] == ',' || (sign != NULL && *sign == '='))
		return NULL;
	path = calloc(1, strlen(at));
	for (at++; path != NULL && *at != '\0' && *at != ','; at++) {
		if (at[0] == '\\' && at[1] == ',')
			at++;
		path[n++] = *at;
	}
	return path;
}

int kvh_target_init(struct kvh_target *target, const char *spec)
{
	struct stat st;

	*target = (struct kvh_target){.spec = spec};
	if (strstr(spec, ",stripe=") != NULL) {
		kvh_bench_complain("%s: stripe= is not supported here: one path is measured, "
				   "and removed at the end",
				   spec);
		return -EINVAL;
	}
	target->path = path_of(spec);
	if (target->path == NULL || stat(target->path, &st) < 0)
		return 0;
	/* A device is formatted by the adapter, and only where the spec says so. */
	target->was_there = true;
	if (S_ISBLK(st.st_mode))
		return 0;
	kvh_bench_complain("%s is there already, and may be somebody's cache. Name a path that "
			   "is not: what is made there is removed at the end",
			   target->path);
	free(target->path);
	target->path = NULL;
	return -EEXIST;
}

void kvh_target_look(struct kvh_target *target)
{
	struct stat st;

	target->kind = KVH_TARGET_NONE;
	if (target->path == NULL || stat(target->path, &st) < 0)
		return;
	if (S_ISBLK(st.st_mode))
		target->kind = KVH_TARGET_BLOCK;
	else if (S_ISDIR(st.st_mode))
		target->kind = KVH_TARGET_DIRECTORY;
	else if (S_ISREG(st.st_mode))
		target->kind = KVH_TARGET_FILE;
	target->bytes = target->kind == KVH_TARGET_FILE ? (uint64_t)st.st_size : 0;
	if (target->kind == KVH_TARGET_BLOCK) {
		int fd = open(target->path, O_RDONLY | O_CLOEXEC);
		off_t end = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;

		target->bytes = end > 0 ? (uint64_t)end : 0;
		if (fd >= 0)
			(void)close(fd);
	}
}

static int twin_make(const char *path, uint64_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), err;

	if (fd < 0)
		return -errno;
	err = fallocate(fd, 0, 0, (off_t)bytes) < 0 ? -errno : 0;
	(void)close(fd);
	if (err != 0)
		(void)unlink(path);
	return err;
}

int kvh_target_twin(struct kvh_target *target)
{
	char *twin;
	int err;

	if (asprintf(&twin, "%s.fio", target->path) < 0)
		return -ENOMEM;
	err = twin_make(twin, target->bytes);
	if (err == 0) {
		target->twin = twin;
		return 0;
	}
	kvh_bench_complain("%s: %" PRIu64 " bytes for fio to write: %s", twin, target->bytes,
			   strerror(-err));
	free(twin);
	return err;
}

void kvh_target_twin_drop(struct kvh_target *target)
{
	if (target->twin == NULL)
		return;
	(void)unlink(target->twin);
	free(target->twin);
	target->twin = NULL;
}

/* ---- cold ---- */

/* Whether this process has the path open, and with O_DIRECT: 1, 0; -1: it has not. */
static int opened_direct(const char *path)
{
	char want[PATH_MAX], link[64], found[PATH_MAX], line[128];
	DIR *dir = opendir("/proc/self/fd");
	const struct dirent *entry;
	int direct = -1;

	if (dir == NULL || realpath(path, want) == NULL) {
		if (dir != NULL)
			(void)closedir(dir);
		return -1;
	}
	while (direct < 1 && (entry = readdir(dir)) != NULL) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, found, sizeof(found) - 1);
		unsigned flags = 0;
		FILE *info;

		if (n <= 0 || strlen(want) != (size_t)n || memcmp(want, found, (size_t)n) != 0)
			continue;
		(void)snprintf(link, sizeof(link), "/proc/self/fdinfo/%.20s", entry->d_name);
		info = fopen(link, "re");
		while (info != NULL && fgets(line, sizeof(line), info) != NULL) {
			if (sscanf(line, "flags: %o", &flags) == 1)
				direct = (flags & O_DIRECT) != 0;
		}
		if (info != NULL)
			(void)fclose(info);
	}
	(void)closedir(dir);
	return direct;
}

const char *kvh_target_cold(const struct kvh_target *target)
{
	if (target->kind == KVH_TARGET_NONE)
		return "memory";
	if (target->kind == KVH_TARGET_DIRECTORY)
		return "dropped";
	return opened_direct(target->path) == 1 ? "direct" : "cached";
}

static int cool_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	int fd;

	(void)st;
	(void)ftw;
	if (type != FTW_F)
		return 0;
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return 0;
	(void)fdatasync(fd); /* dirty pages would stay */
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	(void)close(fd);
	return 0;
}

void kvh_target_cool(const struct kvh_target *target)
{
	if (target->path != NULL)
		(void)nftw(target->path, cool_file, 16, FTW_PHYS);
}

/* ---- the end ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	(void)remove(path);
	return 0;
}

void kvh_target_fini(struct kvh_target *target)
{
	kvh_target_twin_drop(target);
	if (target->path == NULL)
		return;
	if (!target->was_there)
		(void)nftw(target->path, remove_one, 16, FTW_PHYS | FTW_DEPTH);
	free(target->path);
	target->path = NULL;
}
