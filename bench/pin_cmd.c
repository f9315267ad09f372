/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pin_cmd.c - `kvhoist-bench pin`: how long an arena takes until its first frame, and
 * until all of it is pinned, by threads, beside what the machine can do in the same
 * run: memset of as much fresh memory by as many threads, and what a runtime without
 * an arena calls, one large allocation of pinned memory. Names in the JSON are for
 * good. The main thread waits; arena and memset have threads of their own.
 */
#include "bench/bench.h"
#include "bench/measure.h"
#include "host/arena.h"
#include "host/arena_map.h"
#include "host/clock.h"
#include "l2/conf.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define THREADS_MAX 16u /* what an arena uses at most */
#define SAMPLES_MAX 32u
#define ROWS_MAX    8u
#define ALLOC_BYTES (UINT64_C(1) << 30)
#define ALIGN       KVH_GRANULE_BYTES

struct options {
	const char *device;
	uint64_t bytes, piece;
	uint32_t from, threads, registers, samples;
	bool json;
};

/* Medians of the samples. */
struct row {
	uint32_t threads;
	double memset_rate, pin_rate; /* GB/s */
	double first_ms, all_ms;
};

struct result {
	struct kvh_device_info device;
	uint64_t bytes, huge_bytes;
	uint32_t n_pieces;
	double alloc_rate; /* GB/s; 0: the device has nothing of the kind */
	struct row rows[ROWS_MAX];
	uint32_t n;
};

/* ---- options ------------------------------------------------------------ */

enum option_key {
	OPTION_DEVICE = 256,
	OPTION_BYTES,
	OPTION_PIECE,
	OPTION_FROM,
	OPTION_THREADS,
	OPTION_REGISTERS,
	OPTION_SAMPLES,
	OPTION_JSON,
};

static const struct argp_option option_list[] = {
	{"device", OPTION_DEVICE, "NAME", 0, "auto, host, cuda, cuda:N (auto)", 0},
	{"bytes", OPTION_BYTES, "SIZE", 0, "of the arena (a quarter of the room there is)", 0},
	{"piece", OPTION_PIECE, "SIZE", 0, "of what is registered at once (1G)", 0},
	{"from", OPTION_FROM, "N", 0, "the first number of threads, 1..16 (1)", 0},
	{"threads", OPTION_THREADS, "N", 0,
	 "and twice as many each time, up to so many, 1..16 (as many as there are cores)", 0},
	{"registers", OPTION_REGISTERS, "N", 0, "of which register at once, 1..16 (2)", 0},
	{"samples", OPTION_SAMPLES, "N", 0, "of each figure, of which the median counts (3)",
	 0},
	{"json", OPTION_JSON, NULL, 0, "print JSON instead of a table", 0},
	{NULL, 0, NULL, 0, NULL, 0},
};

static uint64_t size(struct argp_state *state, const char *option, const char *text,
		     uint64_t max)
{
	uint64_t bytes = 0;

	if (kvh_conf_bytes(text, &bytes) != 0 || bytes < ALIGN || bytes > max)
		argp_error(state, "--%s %s: must be a size of 2M..%" PRIu64 "G", option, text,
			   max >> 30);
	return bytes / ALIGN * ALIGN;
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case OPTION_DEVICE: o->device = arg; break;
	case OPTION_BYTES: o->bytes = size(state, "bytes", arg, UINT64_C(8) << 40); break;
	case OPTION_PIECE: o->piece = size(state, "piece", arg, UINT64_C(1) << 30); break;
	case OPTION_FROM:
		o->from = (uint32_t)kvh_bench_number(state, "from", arg, THREADS_MAX);
		break;
	case OPTION_THREADS:
		o->threads = (uint32_t)kvh_bench_number(state, "threads", arg, THREADS_MAX);
		break;
	case OPTION_REGISTERS:
		o->registers = (uint32_t)kvh_bench_number(state, "registers", arg, THREADS_MAX);
		break;
	case OPTION_SAMPLES:
		o->samples = (uint32_t)kvh_bench_number(state, "samples", arg, SAMPLES_MAX);
		break;
	case OPTION_JSON: o->json = true; break;
	case ARGP_KEY_ARG: argp_error(state, "'%s' is no option", arg); break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp parser = {
	.options = option_list,
	.parser = take,
	.doc = "Measures how long pinning memory takes.\v"
	       "memset writes fresh memory on huge pages, as many bytes by as many threads: "
	       "the kernel clears it first, so it is written twice where pinning writes it "
	       "once. On the host device registering costs nothing: what is measured is "
	       "touching.",
};

static void defaults(struct options *o)
{
	uint64_t room = kvh_arena_room_machine(""), cgroup = kvh_arena_room_cgroup("");
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	room = cgroup < room ? cgroup : room;
	if (o->bytes == 0)
		o->bytes = room / 4 / ALIGN * ALIGN;
	if (o->threads == 0)
		o->threads = cores > 0 && cores < (long)THREADS_MAX ? (uint32_t)cores
								    : THREADS_MAX;
	if (o->from == 0)
		o->from = 1;
	o->from = o->from < o->threads ? o->from : o->threads;
	if (o->samples == 0)
		o->samples = 3;
}

/* ---- what the machine can do -------------------------------------------- */

struct part {
	char *from;
	uint64_t bytes;
	pthread_t thread;
};

static void *fill(void *arg)
{
	struct part *part = arg;

	memset(part->from, 1, part->bytes);
	return NULL;
}

/* Of fresh memory, GB/s; 0: no memory or no thread. */
static double memset_rate(uint64_t bytes, uint32_t threads)
{
	char *at = mmap(NULL, bytes + ALIGN, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t granules = bytes / ALIGN, began, ended;
	struct part parts[THREADS_MAX];
	uint32_t n = 0;
	char *base;

	if (at == MAP_FAILED)
		return 0;
	base = at + (ALIGN - (uintptr_t)at % ALIGN) % ALIGN;
	(void)madvise(at, bytes + ALIGN, MADV_HUGEPAGE);
	began = kvh_now_ns();
	for (; n < threads; n++) {
		uint64_t first = granules * n / threads, end = granules * (n + 1) / threads;

		parts[n].from = base + first * ALIGN;
		parts[n].bytes = (end - first) * ALIGN;
		if (pthread_create(&parts[n].thread, NULL, fill, &parts[n]) != 0)
			break;
	}
	for (uint32_t i = 0; i < n; i++)
		(void)pthread_join(parts[i].thread, NULL);
	ended = kvh_now_ns();
	(void)munmap(at, bytes + ALIGN);
	return n == threads ? (double)bytes / (double)(ended - began) : 0;
}

/* Pinned memory as a runtime asks for it, GB/s; 0: not to be had. */
static double alloc_rate(struct kvh_device *dev)
{
	uint64_t began = kvh_now_ns(), ended;
	void *mem;

	if (dev->ops->host_alloc(dev, ALLOC_BYTES, &mem) != 0)
		return 0;
	ended = kvh_now_ns();
	dev->ops->host_free(dev, mem);
	return (double)ALLOC_BYTES / (double)(ended - began);
}

/* ---- pinning ------------------------------------------------------------ */

/* The way an engine does it, and how long until its first frame. */
static int pin(const struct options *o, struct kvh_device *dev, struct result *result,
	       uint32_t threads, double *first_ms, double *all_ms)
{
	struct kvh_arena_opts opts = {
		.dev = dev,
		.bytes = o->bytes,
		.piece_bytes = o->piece,
		.numa_node = result->device.numa_node,
		.touch_threads = threads,
		.register_threads = o->registers,
		.early = true,
	};
	struct kvh_arena_stats stats;
	struct kvh_arena *arena;
	uint64_t began = kvh_now_ns(), ended;
	void *frame;
	int err = kvh_arena_open(&opts, &arena);

	if (err != 0)
		return err;
	if (kvh_arena_alloc(arena, ALIGN, 1, &frame) != 1)
		err = -ENOMEM;
	ended = kvh_now_ns();
	*first_ms = (double)(ended - began) / 1e6;
	kvh_arena_pinned_wait(arena);
	ended = kvh_now_ns();
	*all_ms = (double)(ended - began) / 1e6;
	kvh_arena_stats(arena, &stats);
	result->bytes = stats.pinned_bytes;
	result->huge_bytes = stats.huge_bytes;
	result->n_pieces = kvh_arena_pieces_max(arena);
	if (err == 0) {
		kvh_arena_free(arena, frame);
		err = stats.error; /* logged, with how much is missing */
	}
	kvh_arena_close(arena, false);
	return err;
}

/* Samples of one and the other in turn: a machine's state changes. */
static int measure_row(const struct options *o, struct kvh_device *dev, struct result *result,
		       uint32_t threads)
{
	double memsets[SAMPLES_MAX], first[SAMPLES_MAX], all[SAMPLES_MAX];
	struct row *row = &result->rows[result->n];

	for (uint32_t i = 0; i < o->samples; i++) {
		/* The arena first: it asks for room, memset would just take it. */
		int err = pin(o, dev, result, threads, &first[i], &all[i]);

		if (err != 0)
			return err;
		memsets[i] = memset_rate(o->bytes, threads);
		if (memsets[i] <= 0)
			return -ENOMEM;
		if (kvh_bench_signal != 0)
			return -EINTR;
	}
	row->threads = threads;
	row->memset_rate = kvh_spread_of(memsets, o->samples).median;
	row->first_ms = kvh_spread_of(first, o->samples).median;
	row->all_ms = kvh_spread_of(all, o->samples).median;
	row->pin_rate = (double)result->bytes / (row->all_ms * 1e6);
	result->n++;
	return 0;
}

/* From the fewest, doubled, and the most. */
static int measure(const struct options *o, struct kvh_device *dev, struct result *result)
{
	uint32_t threads = o->from;
	int err;

	if (result->device.n_sms != 0)
		result->alloc_rate = alloc_rate(dev);
	for (;;) {
		err = measure_row(o, dev, result, threads);
		if (err != 0 || threads == o->threads)
			return err;
		threads = threads * 2 < o->threads ? threads * 2 : o->threads;
	}
}

/* ---- output ------------------------------------------------------------- */

static void print_table(const struct result *r)
{
	bool host = r->device.n_sms == 0;

	printf("device    %s%s\n", r->device.name,
	       host ? ": registering costs nothing here, only touching is measured" : "");
	printf("arena     %" PRIu64 " MiB in %" PRIu32 " pieces, %" PRIu64
	       " MiB on huge pages asked for\n",
	       r->bytes >> 20, r->n_pieces, r->huge_bytes >> 20);
	if (r->alloc_rate > 0)
		printf("allocator %.2f GB/s: %" PRIu64 " MiB of pinned memory at once\n",
		       r->alloc_rate, ALLOC_BYTES >> 20);
	printf("\n%7s  %12s  %12s  %6s  %12s  %12s\n", "threads", "memset", "pinned", "share",
	       "first frame", "all");
	for (uint32_t i = 0; i < r->n; i++) {
		const struct row *row = &r->rows[i];

		printf("%7" PRIu32 "  %7.2f GB/s  %7.2f GB/s  %4.0f %%  %9.1f ms  %9.1f ms\n",
		       row->threads, row->memset_rate, row->pin_rate,
		       100 * row->pin_rate / row->memset_rate, row->first_ms, row->all_ms);
	}
}

static int print_json(const struct result *r)
{
	json_t *rows = json_array();
	json_t *json = json_pack("{s:s, s:b, s:I, s:I, s:I, s:o}", "device", r->device.name,
				 "registers", r->device.n_sms != 0, "bytes",
				 (json_int_t)r->bytes, "huge_bytes", (json_int_t)r->huge_bytes,
				 "pieces", (json_int_t)r->n_pieces, "rows", rows);
	int rc;

	if (json == NULL)
		return -ENOMEM;
	json_object_set_new(json, "alloc_gb_per_s",
			    r->alloc_rate > 0 ? json_real(r->alloc_rate) : json_null());
	for (uint32_t i = 0; i < r->n; i++) {
		const struct row *row = &r->rows[i];

		json_array_append_new(rows, json_pack("{s:i, s:f, s:f, s:f, s:f}", "threads",
						      (int)row->threads, "memset_gb_per_s",
						      row->memset_rate, "pin_gb_per_s",
						      row->pin_rate, "first_ms", row->first_ms,
						      "all_ms", row->all_ms));
	}
	rc = json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	json_decref(json);
	(void)putchar('\n');
	return rc == 0 ? 0 : -EIO;
}

/* ---- the command -------------------------------------------------------- */

int kvh_bench_pin(int argc, char **argv)
{
	struct options o = {.device = "auto"};
	struct result result = {0};
	struct kvh_device *dev;
	int err;

	(void)argp_parse(&parser, argc, argv, 0, NULL, &o);
	kvh_bench_catch();
	defaults(&o);
	err = kvh_device_open(o.device, &dev);
	if (err != 0)
		return err == -EINVAL ? KVH_BENCH_USAGE : KVH_BENCH_FAILED;
	dev->ops->info(dev, &result.device);
	err = measure(&o, dev, &result);
	if (err == 0 && o.json)
		err = print_json(&result);
	else if (err == 0)
		print_table(&result);
	dev->ops->close(dev);
	if (err == -EINTR && kvh_bench_signal != 0)
		return KVH_BENCH_SIGNALLED + (int)kvh_bench_signal;
	if (err != 0)
		kvh_bench_complain("pinning %" PRIu64 " bytes: %s", o.bytes, strerror(-err));
	return err == 0 ? KVH_BENCH_OK : KVH_BENCH_FAILED;
}
