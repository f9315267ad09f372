/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_fio.c - runs fio and reads its JSON. One thread.
 * Limit: fio tells times in milliseconds, so runs should last for some hundred.
 */
#include "bench/l2_fio.h"

#include "bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX 32u
#define ARG_MAX_ 4352u /* a path of 4096 and an option's name */

extern char **environ;

/* ---- the command line ---- */

struct args {
	char *argv[ARGS_MAX + 1];
	uint32_t n;
	bool no_memory;
};

static void add(struct args *args, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct args *args, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (args->n == ARGS_MAX || vasprintf(&args->argv[args->n], fmt, ap) < 0)
		args->no_memory = true;
	else
		args->n++;
	va_end(ap);
}

/* fio separates names by colons. */
static void add_path(struct args *args, const char *path)
{
	char escaped[ARG_MAX_];
	size_t n = 0;

	for (; *path != '\0' && n + 2 < sizeof(escaped); path++) {
		if (*path == ':' || *path == '\\')
			escaped[n++] = '\\';
		escaped[n++] = *path;
	}
	escaped[n] = '\0';
	add(args, "--filename=%s", escaped);
}

static void args_make(const struct kvh_fio_opts *opts, struct args *args)
{
	add(args, "fio");
	add(args, "--name=kvhoist");
	add_path(args, opts->path);
	add(args, "--rw=%s", opts->pattern);
	add(args, "--rwmixread=50");
	add(args, "--size=%" PRIu64, opts->size);
	add(args, "--bs=%" PRIu64, opts->block);
	add(args, "--io_size=%" PRIu64, opts->bytes);
	add(args, "--iodepth=%" PRIu32, opts->depth);
	add(args, "--randseed=%" PRIu64, opts->seed);
	add(args, "--direct=1");
	add(args, "--ioengine=io_uring");
	add(args, "--iomem=%s", opts->huge ? "mmaphuge" : "mmap");
	add(args, "--scramble_buffers=0");
	add(args, "--registerfiles");
	add(args, "--fixedbufs");
	add(args, "--allow_file_create=0");
	add(args, "--fallocate=none");
	add(args, "--output-format=json");
}

static void args_free(struct args *args)
{
	for (uint32_t i = 0; i < args->n; i++)
		free(args->argv[i]);
}

/* ---- the process ---- */

/* Its output into two files in memory. -ENOENT: there is no fio. */
static int spawn_wait(char *const argv[], int out, int err, int *status_p)
{
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int ret;

	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	(void)posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
	ret = -posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
	(void)posix_spawn_file_actions_destroy(&actions);
	if (ret < 0)
		return ret;
	while (waitpid(pid, status_p, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

/* malloc'ed; NULL: no memory. */
static char *read_all(int fd)
{
	struct stat st;
	char *text = fstat(fd, &st) == 0 ? calloc(1, (size_t)st.st_size + 1) : NULL;

	if (text != NULL && pread(fd, text, (size_t)st.st_size, 0) < 0)
		text[0] = '\0';
	return text;
}

static void complain(int err_fd, int status)
{
	char *text = read_all(err_fd);

	kvh_bench_complain("fio ended with status %d: %.*s", status,
			   text != NULL ? (int)strcspn(text, "\n") : 0,
			   text != NULL ? text : "");
	free(text);
}

static double number(const json_t *object, const char *name)
{
	return json_number_value(json_object_get(object, name));
}

/* Behind whatever it says before. */
static int parse(const char *text, struct kvh_fio_result *result)
{
	const char *start = text != NULL ? strchr(text, '{') : NULL;
	json_t *root = start != NULL ? json_loads(start, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
	json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
	const json_t *read = json_object_get(job, "read"),
		     *write = json_object_get(job, "write");
	double gb = (number(read, "io_bytes") + number(write, "io_bytes")) / 1e9;
	double ms = number(read, "runtime") > number(write, "runtime")
			    ? number(read, "runtime")
			    : number(write, "runtime");
	double cpu = (number(job, "usr_cpu") + number(job, "sys_cpu")) / 100;
	int err = gb > 0 && ms > 0 && number(job, "error") == 0 ? 0 : -EIO;

	json_decref(root);
	if (err == 0)
		*result = (struct kvh_fio_result){
			.seconds = ms / 1e3,
			.gb_per_s = gb / (ms / 1e3),
			.cpu_s_per_gb = cpu * (ms / 1e3) / gb,
		};
	return err;
}

int kvh_fio_run(const struct kvh_fio_opts *opts, struct kvh_fio_result *result)
{
	struct args args = {.n = 0};
	int out = memfd_create("fio", MFD_CLOEXEC), err_fd = memfd_create("fio", MFD_CLOEXEC);
	int status = 0, err = -ENOMEM;
	char *text;

	args_make(opts, &args);
	if (!args.no_memory && out >= 0 && err_fd >= 0)
		err = spawn_wait(args.argv, out, err_fd, &status);
	if (err == 0 && status != 0) {
		complain(err_fd, status);
		err = -EIO;
	}
	if (err == 0) {
		text = read_all(out);
		err = parse(text, result);
		free(text);
		if (err < 0)
			kvh_bench_complain("fio's report could not be read");
	}
	args_free(&args);
	if (out >= 0)
		(void)close(out);
	if (err_fd >= 0)
		(void)close(err_fd);
	return err;
}

bool kvh_fio_there(void)
{
	char name[] = "fio", option[] = "--version";
	char *argv[] = {name, option, NULL};
	int out = memfd_create("fio", MFD_CLOEXEC), status = 1;
	int err = out >= 0 ? spawn_wait(argv, out, out, &status) : -ENOMEM;

	if (out >= 0)
		(void)close(out);
	return err == 0 && status == 0;
}

/* ---- huge pages ---- */

bool kvh_fio_huge(uint64_t block, uint32_t depth)
{
	unsigned long long kib = 0, free_pages = 0, value;
	FILE *file = fopen("/proc/meminfo", "re");
	char line[128];

	if (file == NULL)
		return false;
	while (fgets(line, sizeof(line), file) != NULL) {
		if (sscanf(line, "HugePages_Free: %llu", &value) == 1)
			free_pages = value;
		else if (sscanf(line, "Hugepagesize: %llu kB", &value) == 1)
			kib = value;
	}
	(void)fclose(file);
	/* One more: fio rounds up, after adding a page. */
	return kib > 0 && free_pages * kib * 1024 >= block * depth + kib * 1024;
}
