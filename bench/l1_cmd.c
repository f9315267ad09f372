/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_cmd.c - `kvhoist-bench l1`: what looking up, and making and dropping frames,
 * costs beside their memory; by size of the index and threads. Names in the JSON
 * are for good.
 */
#include "bench/bench.h"
#include "bench/l1_rig.h"
#include "host/order.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES_MAX 32u
#define ROWS_MAX    64u
#define MILLION     UINT64_C(1000000)

struct options {
	uint64_t keys, large;
	uint32_t batch, threads, samples;
	double seconds;
	const char *eviction;
	bool works[KVH_L1_WORKS];
	bool json;
};

/* The median of the samples. */
struct row {
	uint64_t keys;
	uint32_t threads;
	enum kvh_l1_work work;
	struct kvh_l1_rate rate;
};

struct results {
	struct row rows[ROWS_MAX];
	uint32_t n;
	double bytes_per_key, bytes_per_key_large;
};

enum option_key {
	OPTION_KEYS = 256,
	OPTION_LARGE,
	OPTION_BATCH,
	OPTION_THREADS,
	OPTION_SAMPLES,
	OPTION_SECONDS,
	OPTION_EVICTION,
	OPTION_WORK,
	OPTION_JSON,
};

static const struct argp_option option_list[] = {
	{"keys", OPTION_KEYS, "N", 0, "resident keys (1000000)", 0},
	{"large", OPTION_LARGE, "N", 0,
	 "... of a second, large index (100000000: 64 bytes a key, 6.4 GB; 0: none)", 0},
	{"batch", OPTION_BATCH, "N", 0, "keys a call, up to 1024 (256)", 0},
	{"threads", OPTION_THREADS, "N", 0, "also on so many, up to 64 (2)", 0},
	{"samples", OPTION_SAMPLES, "N", 0, "of each figure, of which the median counts (5)",
	 0},
	{"seconds", OPTION_SECONDS, "S", 0, "of each sample (0.5)", 0},
	{"eviction", OPTION_EVICTION, "NAME", 0, "lru, s3-fifo, arc (lru)", 0},
	{"work", OPTION_WORK, "NAME", 0, "lookup, miss or cycle; may be repeated (all)", 0},
	{"json", OPTION_JSON, NULL, 0, "print JSON instead of a table", 0},
	{NULL, 0, NULL, 0, NULL, 0},
};

/* ---- options ------------------------------------------------------------ */

static uint64_t parse_number(struct argp_state *state, const char *name, const char *arg,
			     uint64_t min, uint64_t max)
{
	char *end;
	uint64_t value;

	errno = 0;
	value = strtoull(arg, &end, 10);
	if (errno != 0 || end == arg || *end != '\0' || *arg == '-' || value < min ||
	    value > max)
		argp_error(state, "--%s: '%s' is not in %" PRIu64 "..%" PRIu64, name, arg, min,
			   max);
	return value;
}

static double parse_seconds(struct argp_state *state, const char *arg)
{
	char *end;
	double value = strtod(arg, &end);

	if (end == arg || *end != '\0' || !(value >= 0.001 && value <= 60))
		argp_error(state, "--seconds: '%s' is not in 0.001..60", arg);
	return value;
}

static void parse_work(struct argp_state *state, const char *arg)
{
	struct options *o = state->input;

	for (int work = 0; work < KVH_L1_WORKS; work++) {
		if (strcmp(arg, kvh_l1_work_name((enum kvh_l1_work)work)) == 0) {
			o->works[work] = true;
			return;
		}
	}
	argp_error(state, "--work: '%s' is none of lookup, miss, cycle", arg);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case OPTION_KEYS: o->keys = parse_number(state, "keys", arg, 512, 400 * MILLION); break;
	case OPTION_LARGE:
		o->large = parse_number(state, "large", arg, 0, 400 * MILLION);
		break;
	case OPTION_BATCH:
		o->batch = (uint32_t)parse_number(state, "batch", arg, 1, 1024);
		break;
	case OPTION_THREADS:
		o->threads = (uint32_t)parse_number(state, "threads", arg, 1,
						    KVH_L1_THREADS_MAX);
		break;
	case OPTION_SAMPLES:
		o->samples = (uint32_t)parse_number(state, "samples", arg, 1, SAMPLES_MAX);
		break;
	case OPTION_SECONDS: o->seconds = parse_seconds(state, arg); break;
	case OPTION_EVICTION:
		if (kvh_order_find(arg) == NULL)
			argp_error(state, "--eviction: '%s' is none of %s", arg,
				   kvh_order_names());
		o->eviction = arg;
		break;
	case OPTION_WORK: parse_work(state, arg); break;
	case OPTION_JSON: o->json = true; break;
	case ARGP_KEY_END:
		if (!o->works[0] && !o->works[1] && !o->works[2])
			o->works[0] = o->works[1] = o->works[2] = true;
		break;
	case ARGP_KEY_ARG: argp_error(state, "'%s': no arguments are taken", arg); break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/* ---- measuring ---------------------------------------------------------- */

static int compare_rates(const void *a, const void *b)
{
	const struct kvh_l1_rate *x = a, *y = b;

	return (x->per_s > y->per_s) - (x->per_s < y->per_s);
}

static int measure(const struct options *o, struct kvh_l1_rig *rig, enum kvh_l1_work work,
		   uint32_t threads, struct results *results)
{
	struct kvh_l1_rate rates[SAMPLES_MAX];

	for (uint32_t i = 0; i < o->samples; i++) {
		int err = kvh_bench_signal == 0 ? kvh_l1_rig_run(rig, work, o->batch, threads,
								 o->seconds, &rates[i])
						: -EINTR;

		if (err != 0)
			return err;
	}
	qsort(rates, o->samples, sizeof(rates[0]), compare_rates);
	results->rows[results->n++] = (struct row){.keys = rig->keys,
						   .threads = threads,
						   .work = work,
						   .rate = rates[o->samples / 2]};
	return 0;
}

/* All of an index of one size. Cycles come last: they replace the keys. */
static int measure_size(const struct options *o, uint64_t keys, struct results *results,
			double *bytes_per_key)
{
	struct kvh_l1_rig rig;
	int err = kvh_l1_rig_open(&rig, keys, o->eviction);

	if (err != 0) {
		kvh_bench_complain("an L1 of %" PRIu64 " frames: %s", keys, strerror(-err));
		return err;
	}
	*bytes_per_key = rig.bytes_per_key;
	for (int work = 0; err == 0 && work < KVH_L1_WORKS; work++) {
		if (!o->works[work])
			continue;
		err = measure(o, &rig, (enum kvh_l1_work)work, 1, results);
		if (err == 0 && o->threads > 1)
			err = measure(o, &rig, (enum kvh_l1_work)work, o->threads, results);
	}
	kvh_l1_rig_close(&rig);
	if (err != 0)
		kvh_bench_complain("%s",
				   err == -EIO ? "L1 gave a wrong answer" : strerror(-err));
	return err;
}

/* ---- report ------------------------------------------------------------- */

static double rate_of(const struct results *r, uint64_t keys, enum kvh_l1_work work,
		      bool several)
{
	for (uint32_t i = 0; i < r->n; i++)
		if (r->rows[i].work == work && (r->rows[i].threads > 1) == several &&
		    r->rows[i].keys >= keys && r->rows[i].keys < keys + MILLION / 2)
			return r->rows[i].rate.per_s;
	return 0;
}

static void print_table(const struct options *o, const struct results *r)
{
	printf("%-8s %10s %8s %12s %12s %12s\n", "", "keys", "threads", "M/s", "p50 us",
	       "p99 us");
	for (uint32_t i = 0; i < r->n; i++) {
		const struct row *row = &r->rows[i];

		printf("%-8s %10" PRIu64 " %8u %12.2f %12.1f %12.1f\n",
		       kvh_l1_work_name(row->work), row->keys, row->threads,
		       row->rate.per_s / 1e6, row->rate.p50_ns / 1e3, row->rate.p99_ns / 1e3);
	}
	printf("Times are of a batch of %u. Bytes a key beside the frame, %s: %.1f", o->batch,
	       o->eviction, r->bytes_per_key);
	if (o->large > 0)
		printf("; of %" PRIu64 " keys: %.1f", o->large, r->bytes_per_key_large);
	puts("");
}

static json_t *rows_json(const struct results *r)
{
	json_t *rows = json_array();

	for (uint32_t i = 0; i < r->n; i++) {
		const struct row *row = &r->rows[i];

		json_array_append_new(
			rows,
			json_pack("{s:s, s:I, s:i, s:f, s:f, s:f}", "work",
				  kvh_l1_work_name(row->work), "keys", (json_int_t)row->keys,
				  "threads", (int)row->threads, "per_s", row->rate.per_s,
				  "p50_ns", row->rate.p50_ns, "p99_ns", row->rate.p99_ns));
	}
	return rows;
}

static void set_rate(json_t *json, const char *name, double value)
{
	if (value > 0)
		json_object_set_new(json, name, json_real(value));
}

static int print_json(const struct options *o, const struct results *r)
{
	json_t *json = json_pack("{s:i, s:s, s:i}", "batch", (int)o->batch, "eviction",
				 o->eviction, "threads", (int)o->threads);
	int rc;

	if (json == NULL)
		return -ENOMEM;
	set_rate(json, "lookup_keys_per_s", rate_of(r, o->keys, KVH_L1_WORK_LOOKUP, false));
	set_rate(json, "miss_keys_per_s", rate_of(r, o->keys, KVH_L1_WORK_MISS, false));
	set_rate(json, "cycles_per_s", rate_of(r, o->keys, KVH_L1_WORK_CYCLE, false));
	set_rate(json, "cycles_per_s_2t", rate_of(r, o->keys, KVH_L1_WORK_CYCLE, true));
	if (o->large > 0) {
		set_rate(json, "lookup_keys_per_s_100m",
			 rate_of(r, o->large, KVH_L1_WORK_LOOKUP, false));
		set_rate(json, "miss_keys_per_s_100m",
			 rate_of(r, o->large, KVH_L1_WORK_MISS, false));
	}
	set_rate(json, "index_bytes_per_key",
		 o->large > 0 ? r->bytes_per_key_large : r->bytes_per_key);
	json_object_set_new(json, "rows", rows_json(r));
	rc = json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	json_decref(json);
	puts("");
	return rc == 0 ? 0 : -EIO;
}

int kvh_bench_l1(int argc, char **argv)
{
	static const struct argp argp = {
		.options = option_list,
		.parser = parse,
		.doc = "What the index, states, leases and eviction of L1 cost, without the "
		       "memory of frames: look-ups of keys that are there and that are not, "
		       "and "
		       "cycles of reserve, publish, lease and release in a full L1, so that "
		       "each "
		       "evicts another.",
	};
	struct options o = {.keys = MILLION,
			    .large = 100 * MILLION,
			    .batch = 256,
			    .threads = 2,
			    .samples = 5,
			    .seconds = 0.5,
			    .eviction = "lru"};
	struct results results = {.n = 0};
	int err;

	if (argp_parse(&argp, argc, argv, 0, NULL, &o) != 0)
		return KVH_BENCH_USAGE;
	kvh_bench_catch();
	err = measure_size(&o, o.keys, &results, &results.bytes_per_key);
	if (err == 0 && o.large > 0)
		err = measure_size(&o, o.large, &results, &results.bytes_per_key_large);
	if (err == 0 && o.json)
		err = print_json(&o, &results);
	else if (err == 0)
		print_table(&o, &results);
	if (kvh_bench_signal != 0)
		return KVH_BENCH_SIGNALLED + kvh_bench_signal;
	return err == 0 ? KVH_BENCH_OK : KVH_BENCH_FAILED;
}
