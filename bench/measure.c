/* SPDX-License-Identifier: Apache-2.0 */
/*
 * measure.c - middle and spread, processor time, system calls. One thread.
 * Limit: threads that start between begin and end of a count are not in it.
 */
#include "bench/measure.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- numbers ---- */

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Between the two nearest. */
static double quantile(const double *sorted, size_t n, double q)
{
	double at = q * (double)(n - 1);
	size_t below = (size_t)at;
	double part = at - (double)below;

	return below + 1 < n ? sorted[below] * (1 - part) + sorted[below + 1] * part
			     : sorted[below];
}

struct kvh_spread kvh_spread_of(double *values, size_t n)
{
	if (n == 0)
		return (struct kvh_spread){0, 0, 0};
	qsort(values, n, sizeof(*values), ascending);
	return (struct kvh_spread){
		.median = quantile(values, n, 0.5),
		.low = quantile(values, n, 0.25),
		.high = quantile(values, n, 0.75),
	};
}

static uint64_t ns_of(const struct timeval *tv)
{
	return (uint64_t)tv->tv_sec * 1000000000u + (uint64_t)tv->tv_usec * 1000u;
}

uint64_t kvh_cpu_ns(void)
{
	struct rusage usage;

	(void)getrusage(RUSAGE_SELF, &usage);
	return ns_of(&usage.ru_utime) + ns_of(&usage.ru_stime);
}

/* The first number of a thread's schedstat. */
static uint64_t thread_ns(const char *tid)
{
	char path[64];
	unsigned long long ns = 0;
	FILE *file;

	(void)snprintf(path, sizeof(path), "/proc/self/task/%.20s/schedstat", tid);
	file = fopen(path, "re");
	if (file == NULL)
		return 0;
	if (fscanf(file, "%llu", &ns) != 1)
		ns = 0;
	(void)fclose(file);
	return ns;
}

static bool is_named(const char *tid, const char *name)
{
	char path[64], line[32] = "";
	FILE *file;

	(void)snprintf(path, sizeof(path), "/proc/self/task/%.20s/comm", tid);
	file = fopen(path, "re");
	if (file == NULL)
		return false;
	if (fgets(line, sizeof(line), file) == NULL)
		line[0] = '\0';
	(void)fclose(file);
	return strncmp(line, name, strlen(name)) == 0;
}

uint64_t kvh_cpu_of_threads_ns(const char *name)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	uint64_t sum = 0;

	if (dir == NULL)
		return 0;
	while ((entry = readdir(dir)) != NULL)
		if (entry->d_name[0] != '.' && is_named(entry->d_name, name))
			sum += thread_ns(entry->d_name);
	(void)closedir(dir);
	return sum;
}

/* ---- system calls ---- */

struct kvh_calls {
	int n;
	int fds[256]; /* one a thread */
};

static int tracepoint_id(uint64_t *id_p)
{
	static const char *const paths[] = {
		"/sys/kernel/tracing/events/raw_syscalls/sys_enter/id",
		"/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/id",
	};
	int err = -ENOENT;

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		char text[32] = "";
		int fd = open(paths[i], O_RDONLY | O_CLOEXEC);

		if (fd < 0) {
			err = -errno;
			continue;
		}
		err = read(fd, text, sizeof(text) - 1) > 0 ? 0 : -EIO;
		(void)close(fd);
		*id_p = strtoull(text, NULL, 10);
		if (err == 0)
			return 0;
	}
	return err;
}

static int count_thread(struct kvh_calls *calls, uint64_t id, pid_t tid)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
		.config = id,
	};
	long fd = syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);

	if (fd < 0)
		return errno == ESRCH ? 0 : -errno; /* gone meanwhile */
	calls->fds[calls->n++] = (int)fd;
	return 0;
}

static void calls_free(struct kvh_calls *calls)
{
	while (calls->n > 0)
		(void)close(calls->fds[--calls->n]);
	free(calls);
}

int kvh_calls_begin(struct kvh_calls **calls_p)
{
	struct kvh_calls *calls = calloc(1, sizeof(*calls));
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	uint64_t id = 0;
	int err = calls == NULL || dir == NULL ? -ENOMEM : tracepoint_id(&id);

	while (err == 0 && (entry = readdir(dir)) != NULL) {
		pid_t tid = (pid_t)strtol(entry->d_name, NULL, 10);

		if (calls->n == (int)(sizeof(calls->fds) / sizeof(calls->fds[0])))
			err = -EMFILE;
		else if (tid > 0)
			err = count_thread(calls, id, tid);
	}
	if (dir != NULL)
		(void)closedir(dir);
	if (err == 0)
		*calls_p = calls;
	else if (calls != NULL)
		calls_free(calls);
	return err;
}

uint64_t kvh_calls_end(struct kvh_calls *calls)
{
	uint64_t total = 0, one;

	for (int i = 0; i < calls->n; i++) {
		if (read(calls->fds[i], &one, sizeof(one)) == sizeof(one))
			total += one;
	}
	calls_free(calls);
	return total;
}
