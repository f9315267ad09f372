/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_room.c - how much memory can still be had: cgroups v1 and v2, a NUMA
 * node, the machine. Reads the kernel's files at open, on the opening thread.
 * Limit: what others take meanwhile is not known; this catches what could not
 * have worked, before the kernel kills for it.
 */
#include "host/arena_map.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NO_LIMIT UINT64_MAX

static FILE *open_fmt(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static FILE *open_fmt(const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	return len > 0 && (size_t)len < sizeof(path) ? fopen(path, "re") : NULL;
}

/* A file that is one number, or "max". `absent` where it cannot be read. */
static uint64_t read_number(const char *dir, const char *name, uint64_t absent)
{
	FILE *file = open_fmt("%s/%s", dir, name);
	uint64_t value;

	if (file == NULL)
		return absent;
	if (fscanf(file, "%" SCNu64, &value) != 1)
		value = absent;
	(void)fclose(file);
	return value;
}

/* The sum of the fields whose names stand in `names` (ended by NULL), in a file
 * of lines "... name[:] number". */
static uint64_t read_fields(FILE *file, const char *const *names, unsigned *found)
{
	char line[256];
	uint64_t sum = 0, value;

	*found = 0;
	while (fgets(line, sizeof(line), file) != NULL) {
		for (size_t i = 0; names[i] != NULL; i++) {
			const char *at = strstr(line, names[i]);

			if (at == NULL || (at != line && at[-1] != ' '))
				continue;
			if (sscanf(at + strlen(names[i]), "%*[: ]%" SCNu64, &value) == 1) {
				sum += value;
				(*found)++;
			}
		}
	}
	return sum;
}

static uint64_t cache_bytes(const char *dir, const char *const *names)
{
	FILE *file = open_fmt("%s/memory.stat", dir);
	uint64_t bytes = 0;
	unsigned found;

	if (file != NULL) {
		bytes = read_fields(file, names, &found);
		(void)fclose(file);
	}
	return bytes;
}

struct cgroup_files {
	const char *mount;
	const char *limit, *usage;
	const char *cache[3]; /* in memory.stat: given back under pressure */
};

static const struct cgroup_files cgroup_v1 = {
	.mount = "/sys/fs/cgroup/memory",
	.limit = "memory.limit_in_bytes",
	.usage = "memory.usage_in_bytes",
	.cache = {"total_active_file", "total_inactive_file", NULL},
};
static const struct cgroup_files cgroup_v2 = {
	.mount = "/sys/fs/cgroup",
	.limit = "memory.max",
	.usage = "memory.current",
	.cache = {"active_file", "inactive_file", NULL},
};

static uint64_t room_of_dir(const struct cgroup_files *files, const char *dir)
{
	uint64_t limit = read_number(dir, files->limit, NO_LIMIT);
	uint64_t usage = read_number(dir, files->usage, 0);
	uint64_t cache;

	if (limit >= (uint64_t)INT64_MAX / 4096 * 4096) /* how v1 writes "max" */
		return NO_LIMIT;
	cache = cache_bytes(dir, files->cache);
	usage -= cache < usage ? cache : usage;
	return usage < limit ? limit - usage : 0;
}

/* From the group up to the mount: each may limit. In a container the path may
 * be the host's and not exist here; the mount itself is then the group. */
static uint64_t room_of_group(const char *root, const struct cgroup_files *files,
			      const char *path)
{
	char dir[PATH_MAX];
	uint64_t room = NO_LIMIT;
	int len = snprintf(dir, sizeof(dir), "%s%s%s", root, files->mount, path);
	size_t top = strlen(root) + strlen(files->mount);

	if (len < 0 || (size_t)len >= sizeof(dir))
		return NO_LIMIT;
	for (size_t end = (size_t)len;; end--) {
		if (end > top && dir[end] != '/' && dir[end] != '\0')
			continue;
		uint64_t here;

		dir[end] = '\0';
		here = room_of_dir(files, dir);
		room = here < room ? here : room;
		if (end <= top)
			return room;
	}
}

uint64_t kvh_arena_room_cgroup(const char *root)
{
	FILE *file = open_fmt("%s/proc/self/cgroup", root);
	char line[PATH_MAX];
	uint64_t room = NO_LIMIT;

	if (file == NULL)
		return NO_LIMIT;
	while (fgets(line, sizeof(line), file) != NULL) {
		char *controllers = strchr(line, ':');
		char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
		uint64_t here = NO_LIMIT;

		if (path == NULL)
			continue;
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (controllers[1] == '\0')
			here = room_of_group(root, &cgroup_v2, path);
		else if (strstr(controllers + 1, "memory") != NULL)
			here = room_of_group(root, &cgroup_v1, path);
		room = here < room ? here : room;
	}
	(void)fclose(file);
	return room;
}

static uint64_t room_of_meminfo(FILE *file, const char *const *names)
{
	uint64_t kib;
	unsigned found;

	if (file == NULL)
		return NO_LIMIT;
	kib = read_fields(file, names, &found);
	(void)fclose(file);
	return found > 0 ? kib * 1024 : NO_LIMIT;
}

uint64_t kvh_arena_room_node(const char *root, int node)
{
	static const char *const names[] = {"MemFree", "Active(file)", "Inactive(file)", NULL};

	return room_of_meminfo(
		open_fmt("%s/sys/devices/system/node/node%d/meminfo", root, node), names);
}

uint64_t kvh_arena_room_machine(const char *root)
{
	static const char *const names[] = {"MemAvailable", NULL};

	return room_of_meminfo(open_fmt("%s/proc/meminfo", root), names);
}
