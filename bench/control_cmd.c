/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control_cmd.c - `kvhoist-bench control`: store cycles a second through the store
 * controller and the null adapter, by threads, with and without checksums.
 */
#include "bench/bench.h"
#include "bench/control.h"
#include "host/clock.h"
#include "l2/conf.h"

#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define RUNS_MAX 9u

struct options {
	uint64_t payload, l1;
	uint32_t spaces, runs;
	double seconds;
	const char *policy;
	bool json;
};

enum option_key {
	OPTION_JSON = 256,
	OPTION_PAYLOAD,
	OPTION_L1,
	OPTION_SPACES,
	OPTION_RUNS,
	OPTION_SECONDS,
	OPTION_POLICY,
};

static const struct argp_option option_list[] = {
	{"json", OPTION_JSON, NULL, 0, "print JSON instead of a table", 0},
	{"payload", OPTION_PAYLOAD, "SIZE", 0, "of a chunk, beside its header (4K)", 0},
	{"l1", OPTION_L1, "SIZE", 0, "pinned memory (256M)", 0},
	{"spaces", OPTION_SPACES, "N", 0, "that are stored to in turn, 1..1000 (1)", 0},
	{"runs", OPTION_RUNS, "N", 0, "of each kind, of which the median counts, 1..9 (3)", 0},
	{"seconds", OPTION_SECONDS, "S", 0, "of a run, 0.1..60 (2)", 0},
	{"policy", OPTION_POLICY, "NAME", 0, "the store policy (default)", 0},
	{NULL, 0, NULL, 0, NULL, 0},
};

static uint64_t take_bytes(struct argp_state *state, const char *name, const char *text,
			   uint64_t min, uint64_t max)
{
	uint64_t bytes = 0;

	if (kvh_conf_bytes(text, &bytes) != 0 || bytes < min || bytes > max)
		argp_error(state, "--%s %s: must be a size, %llu..%llu bytes", name, text,
			   (unsigned long long)min, (unsigned long long)max);
	return bytes;
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;
	char *end;

	switch (key) {
	case OPTION_JSON: o->json = true; break;
	case OPTION_PAYLOAD:
		o->payload = take_bytes(state, "payload", arg, 1, UINT64_C(1) << 24);
		break;
	case OPTION_L1:
		o->l1 = take_bytes(state, "l1", arg, UINT64_C(32) << 20, UINT64_C(64) << 30);
		break;
	case OPTION_SPACES:
		o->spaces = (uint32_t)kvh_bench_number(state, "spaces", arg, 1000);
		break;
	case OPTION_RUNS:
		o->runs = (uint32_t)kvh_bench_number(state, "runs", arg, RUNS_MAX);
		break;
	case OPTION_SECONDS:
		o->seconds = strtod(arg, &end);
		if (*end != '\0' || !(o->seconds >= 0.1 && o->seconds <= 60))
			argp_error(state, "--seconds %s: must be a number, 0.1..60", arg);
		break;
	case OPTION_POLICY: o->policy = arg; break;
	case ARGP_KEY_ARG: argp_error(state, "'%s' is no option", arg); break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp parser = {
	.options = option_list,
	.parser = take,
	.doc = "Measures the store controller: chunks are reserved in L1, published, given to "
	       "the null adapter as the policy says, and settled.\v"
	       "A cycle is all of that for one chunk, whose memory L1 takes from the oldest. "
	       "No device copies anything. The null adapter keeps nothing, so it gets frames "
	       "without checksums; the rows `sealed` are with them, as for any other adapter.",
};

/* ---- rows ------------------------------------------------------------------ */

struct row {
	const char *name;
	const char *l2;
	uint32_t threads;
	const char *suffix;               /* of the JSON's names */
	struct kvh_control_result result; /* the run with the median rate */
};

static double rate(const struct kvh_control_result *r)
{
	return (double)r->cycles * 1e9 / (double)r->wall_ns;
}

static int by_rate(const void *a, const void *b)
{
	double x = rate(a), y = rate(b);

	return (x > y) - (x < y);
}

static int row_run(const struct options *o, struct row *row)
{
	struct kvh_control_result results[RUNS_MAX];
	struct kvh_control_opts opts = {
		.l2 = row->l2,
		.policy = o->policy,
		.threads = row->threads,
		.spaces = o->spaces,
		.payload_bytes = o->payload,
		.l1_bytes = o->l1,
		.time_ns = (uint64_t)(o->seconds * 1e9),
	};

	for (uint32_t i = 0; i < o->runs; i++) {
		int err = kvh_control_run(&opts, &results[i]);

		if (err != 0)
			return err;
	}
	qsort(results, o->runs, sizeof(results[0]), by_rate);
	row->result = results[o->runs / 2];
	return 0;
}

static double a_chunk(uint64_t ns, const struct kvh_control_result *r)
{
	return r->cycles > 0 ? (double)ns / (double)r->cycles : 0;
}

static void print_table(const struct row *rows, size_t n)
{
	printf("%-22s %10s %12s %12s %9s %9s\n", "store cycles", "M/s", "controller",
	       "all threads", "p50", "p99");
	for (size_t i = 0; i < n; i++) {
		const struct kvh_control_result *r = &rows[i].result;

		printf("%-22s %10.3f %9.0f ns %9.0f ns %6.0f us %6.0f us\n", rows[i].name,
		       rate(r) / 1e6, a_chunk(r->controller_cpu_ns, r),
		       a_chunk(r->process_cpu_ns, r), (double)r->p50_ns / 1e3,
		       (double)r->p99_ns / 1e3);
	}
	puts("\ncontroller, all threads: processor time a chunk");
}

static void put(json_t *root, const char *name, const char *suffix, double value)
{
	char text[96];

	(void)snprintf(text, sizeof(text), "%s%s", name, suffix);
	(void)json_object_set_new(root, text, json_real(value));
}

static int print_json(const struct options *o, const struct row *rows, size_t n)
{
	json_t *root = json_object();
	int err;

	if (root == NULL)
		return -ENOMEM;
	put(root, "payload_bytes", "", (double)o->payload);
	put(root, "spaces", "", o->spaces);
	put(root, "runs", "", o->runs);
	for (size_t i = 0; i < n; i++) {
		const struct kvh_control_result *r = &rows[i].result;
		const char *suffix = rows[i].suffix;

		put(root, "store_cycles_per_s", suffix, rate(r));
		put(root, "controller_cpu_ns_per_chunk", suffix,
		    a_chunk(r->controller_cpu_ns, r));
		put(root, "process_cpu_ns_per_chunk", suffix, a_chunk(r->process_cpu_ns, r));
		put(root, "store_p50_us", suffix, (double)r->p50_ns / 1e3);
		put(root, "store_p99_us", suffix, (double)r->p99_ns / 1e3);
		put(root, "stored_share", suffix, a_chunk(r->stored, r));
	}
	err = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(root);
	return err == 0 ? 0 : -EIO;
}

int kvh_bench_control(int argc, char **argv)
{
	struct options o = {.payload = 4096,
			    .l1 = UINT64_C(256) << 20,
			    .spaces = 1,
			    .runs = 3,
			    .seconds = 2};
	struct row rows[] = {
		{.name = "1 thread", .l2 = "null:bench", .threads = 1, .suffix = ""},
		{.name = "2 threads", .l2 = "null:bench", .threads = 2, .suffix = "_2t"},
		{.name = "1 thread, sealed",
		 .l2 = "null:bench,sealed=yes",
		 .threads = 1,
		 .suffix = "_sealed"},
		{.name = "2 threads, sealed",
		 .l2 = "null:bench,sealed=yes",
		 .threads = 2,
		 .suffix = "_sealed_2t"},
	};
	size_t n = sizeof(rows) / sizeof(rows[0]);
	int err = 0;

	(void)argp_parse(&parser, argc, argv, 0, NULL, &o);
	kvh_bench_catch();
	for (size_t i = 0; i < n && err == 0; i++)
		err = row_run(&o, &rows[i]);
	if (err == -EINTR && kvh_bench_signal != 0)
		return KVH_BENCH_SIGNALLED + (int)kvh_bench_signal;
	if (err == -EINVAL)
		return KVH_BENCH_USAGE;
	if (err == 0 && o.json)
		err = print_json(&o, rows, n);
	else if (err == 0)
		print_table(rows, n);
	if (err != 0)
		kvh_bench_complain("control: %s", strerror(-err));
	return err == 0 ? KVH_BENCH_OK : KVH_BENCH_FAILED;
}
