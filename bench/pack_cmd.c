/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_cmd.c - `kvhoist-bench pack`: how fast pages move to frames and back, by the
 * mover and by the ways that others use, as shares of the link, in one run. One
 * thread beside the mover's.
 */
#include "bench/bench.h"
#include "bench/pack_report.h"
#include "l2/conf.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX     16u
#define LINK_SAMPLES 5u
#define LINK_BYTES   (UINT64_C(512) << 20)
#define GPU_SAMPLE   (UINT64_C(256) << 20)
#define HOST_SAMPLE  (UINT64_C(8) << 20)
#define HOST_LINK    (UINT64_C(16) << 20)

struct size_list {
	uint64_t sizes[LIST_MAX];
	uint32_t n;
};

struct options {
	const char *device;
	struct size_list fragments, frames;
	bool orders[KVH_PAGES_ORDERS];
	bool ways[KVH_WAYS];
	bool all; /* every way with every shape */
	uint64_t sample, pool, arena;
	uint32_t samples;
	bool json, csv;
	const char *svg;
};

enum option_key {
	OPTION_DEVICE = 256,
	OPTION_FRAGMENTS,
	OPTION_FRAMES,
	OPTION_PAGES,
	OPTION_WAYS,
	OPTION_ALL,
	OPTION_SAMPLE,
	OPTION_SAMPLES,
	OPTION_POOL,
	OPTION_ARENA,
	OPTION_JSON,
	OPTION_CSV,
	OPTION_SVG,
};

static const struct argp_option option_list[] = {
	{"device", OPTION_DEVICE, "NAME", 0, "auto, host, cuda, cuda:N (auto)", 0},
	{"fragments", OPTION_FRAGMENTS, "LIST", 0,
	 "bytes that a page has of a plane (2K,4K,8K,16K,32K,128K)", 0},
	{"frames", OPTION_FRAMES, "LIST", 0, "payloads of a chunk (2M,128K,512K,8M,32M)", 0},
	{"pages", OPTION_PAGES, "LIST", 0,
	 "contiguous, strided, shuffled (shuffled,strided,contiguous)", 0},
	{"ways", OPTION_WAYS, "LIST", 0, "copies, batch, 2d, zero-copy, kvhoist (all)", 0},
	{"all", OPTION_ALL, NULL, 0,
	 "everything with everything; else others' ways, and other orders of pages than the "
	 "first, with the first frame only",
	 0},
	{"sample", OPTION_SAMPLE, "SIZE", 0,
	 "bytes moved at once (256M; 8M on the host device)", 0},
	{"samples", OPTION_SAMPLES, "N", 0, "of each measurement (7)", 0},
	{"pool", OPTION_POOL, "SIZE", 0, "pages are drawn from (1G; 64M on the host device)",
	 0},
	{"arena", OPTION_ARENA, "SIZE", 0, "pinned memory (2G; 128M on the host device)", 0},
	{"json", OPTION_JSON, NULL, 0, "print JSON instead of a table", 0},
	{"csv", OPTION_CSV, NULL, 0, "print CSV instead of a table", 0},
	{"svg", OPTION_SVG, "FILE", 0, "also plot shares of the link by fragment", 0},
	{NULL, 0, NULL, 0, NULL, 0},
};

/* ---- options ------------------------------------------------------------ */

/* Calls take for each item of a list; a wrong one is an argp_error. */
static void each_item(struct argp_state *state, const char *option, const char *list,
		      bool (*take)(struct options *o, int key, const char *item), int key)
{
	char *copy = strdup(list), *save = NULL;

	for (char *item = copy == NULL ? NULL : strtok_r(copy, ",", &save); item != NULL;
	     item = strtok_r(NULL, ",", &save))
		if (!take(state->input, key, item))
			argp_error(state, "--%s: '%s' is not one of what --help names", option,
				   item);
	free(copy);
}

static bool take_size(struct options *o, int key, const char *item)
{
	struct size_list *list = key == OPTION_FRAMES ? &o->frames : &o->fragments;
	uint64_t bytes;

	if (list->n == LIST_MAX || kvh_conf_bytes(item, &bytes) != 0 || bytes < 8 ||
	    bytes % 8 != 0 || bytes > UINT64_C(1) << 30)
		return false;
	list->sizes[list->n++] = bytes;
	return true;
}

static bool take_order(struct options *o, int key, const char *item)
{
	(void)key;
	for (int i = 0; i < KVH_PAGES_ORDERS; i++) {
		if (strcmp(item, kvh_pages_order_name((enum kvh_pages_order)i)) == 0) {
			o->orders[i] = true;
			return true;
		}
	}
	return false;
}

static bool take_way(struct options *o, int key, const char *item)
{
	(void)key;
	for (int i = 0; i < KVH_WAYS; i++) {
		if (strcmp(item, kvh_way_name((enum kvh_way)i)) == 0) {
			o->ways[i] = true;
			return true;
		}
	}
	return false;
}

static void take_bytes(struct argp_state *state, const char *option, const char *text,
		       uint64_t *bytes_p)
{
	if (kvh_conf_bytes(text, bytes_p) != 0 || *bytes_p < 1u << 20)
		argp_error(state, "--%s %s: must be a size of at least 1M, like 512M", option,
			   text);
}

static void take_samples(struct argp_state *state, struct options *o, const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '\0' || n == 0 || n > 10000)
		argp_error(state, "--samples %s: must be 1..10000", text);
	o->samples = (uint32_t)n;
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case OPTION_DEVICE: o->device = arg; break;
	case OPTION_FRAGMENTS: each_item(state, "fragments", arg, take_size, key); break;
	case OPTION_FRAMES: each_item(state, "frames", arg, take_size, key); break;
	case OPTION_PAGES: each_item(state, "pages", arg, take_order, key); break;
	case OPTION_WAYS: each_item(state, "ways", arg, take_way, key); break;
	case OPTION_ALL: o->all = true; break;
	case OPTION_SAMPLE: take_bytes(state, "sample", arg, &o->sample); break;
	case OPTION_SAMPLES: take_samples(state, o, arg); break;
	case OPTION_POOL: take_bytes(state, "pool", arg, &o->pool); break;
	case OPTION_ARENA: take_bytes(state, "arena", arg, &o->arena); break;
	case OPTION_JSON: o->json = true; break;
	case OPTION_CSV: o->csv = true; break;
	case OPTION_SVG: o->svg = arg; break;
	case ARGP_KEY_ARG: argp_error(state, "'%s' is no option", arg); break;
	case ARGP_KEY_END:
		if (o->json && o->csv)
			argp_error(state, "--json or --csv, not both");
		break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp parser = {
	.options = option_list,
	.parser = take,
	.doc = "Measures how fast pages move to frames in pinned memory and back.\v"
	       "The link is one contiguous copy in the same run. Every measurement's bytes "
	       "are compared: frames with pages after a store, the whole pool after a load. "
	       "The exit status is 1 if any were wrong.",
};

static bool any(const bool *flags, int n)
{
	for (int i = 0; i < n; i++)
		if (flags[i])
			return true;
	return false;
}

static void defaults(struct options *o, bool gpu)
{
	static const struct size_list fragments = {
		{2048, 4096, 8192, 16384, 32768, 131072},
		6,
	};
	static const struct size_list frames = {
		{2u << 20, 128u << 10, 512u << 10, 8u << 20, 32u << 20},
		5,
	};

	if (o->fragments.n == 0)
		o->fragments = fragments;
	if (o->frames.n == 0)
		o->frames = frames;
	if (!any(o->orders, KVH_PAGES_ORDERS))
		memset(o->orders, true, sizeof(o->orders));
	if (!any(o->ways, KVH_WAYS))
		memset(o->ways, true, sizeof(o->ways));
	if (o->sample == 0)
		o->sample = gpu ? GPU_SAMPLE : HOST_SAMPLE;
	if (o->samples == 0)
		o->samples = 7;
}

/* ---- measuring ---------------------------------------------------------- */

struct run {
	const struct options *o;
	struct kvh_pack_rig *rig;
	struct kvh_pack_report *report;
};

static void note(struct run *run, struct kvh_pack_row *row, struct kvh_way_result *result)
{
	double link = row->load ? run->report->link_load : run->report->link_store;
	double gb = (double)result->bytes * (double)result->each.n / 1e9;

	row->bytes = result->bytes;
	row->error = result->error;
	row->right = result->right;
	if (result->error == 0) {
		row->p50_ns = kvh_samples_percentile(&result->each, 50);
		row->p99_ns = kvh_samples_percentile(&result->each, 99);
		row->rate = (double)result->bytes / (double)row->p50_ns;
		row->share = link > 0 ? row->rate / link : 0;
		row->submit_us_per_gb = (double)result->submit_ns / 1e3 / gb;
		row->other_us_per_gb = (double)result->other_ns / 1e3 / gb;
	}
	if (!run->o->json && !run->o->csv) {
		kvh_pack_row_print(stdout, row);
		(void)fflush(stdout);
	}
}

/* -EINTR: a signal came. */
static int measure_ways(struct run *run, struct kvh_pack_set *set,
			const struct kvh_pack_shape *shape)
{
	bool others = run->o->all || shape->payload == run->o->frames.sizes[0];

	for (int way = 0; way < KVH_WAYS; way++) {
		bool asked = run->o->ways[way] && (others || way == KVH_WAY_KVHOIST);

		for (int load = 0; load < 2 && asked; load++) {
			struct kvh_pack_row *row = kvh_pack_report_row(run->report);
			struct kvh_way_result result;

			if (row == NULL)
				return -ENOMEM;
			row->way = (enum kvh_way)way;
			row->load = load != 0;
			row->fragment = shape->fragment;
			row->payload = shape->payload;
			row->order = shape->order;
			kvh_way_run(row->way, set, row->load, run->o->samples, &result);
			note(run, row, &result);
			kvh_way_result_free(&result);
			if (kvh_bench_signal != 0)
				return -EINTR;
		}
	}
	return 0;
}

static int measure_both(struct run *run, struct kvh_pack_set *set,
			const struct kvh_pack_shape *shape)
{
	struct kvh_pack_both *both;

	if (!run->o->ways[KVH_WAY_KVHOIST] || shape->order != KVH_PAGES_SHUFFLED ||
	    set->n_chunks < 2)
		return 0;
	both = kvh_pack_report_both(run->report);
	if (both == NULL)
		return -ENOMEM;
	both->fragment = shape->fragment;
	both->payload = shape->payload;
	both->rate = kvh_way_both(set, run->o->samples, &both->right);
	both->share = run->report->link_both > 0 ? both->rate / run->report->link_both : 0;
	if (!run->o->json && !run->o->csv)
		kvh_pack_both_print(stdout, both);
	return 0;
}

static int measure_shape(struct run *run, uint64_t fragment, uint64_t payload,
			 enum kvh_pages_order order)
{
	struct kvh_pack_shape shape = {fragment, payload, run->o->sample, order};
	struct kvh_pack_set set;
	int err;

	if (fragment > payload || !run->o->orders[order])
		return 0;
	err = kvh_pack_set_open(run->rig, &shape, &set);
	if (err == -ENOSPC) {
		kvh_bench_complain("fragments of %" PRIu64 " in frames of %" PRIu64
				   " do not fit: a larger --pool or --arena",
				   fragment, payload);
		return 0;
	}
	if (err != 0)
		return err;
	err = measure_ways(run, &set, &shape);
	if (err == 0)
		err = measure_both(run, &set, &shape);
	kvh_pack_set_close(&set);
	return err;
}

static int measure(struct run *run)
{
	const struct options *o = run->o;
	int first = 0, err = 0;

	while (!o->orders[first])
		first++;
	for (uint32_t frame = 0; frame < o->frames.n; frame++)
		for (uint32_t fragment = 0; fragment < o->fragments.n; fragment++)
			for (int order = first; order < KVH_PAGES_ORDERS && err == 0; order++)
				if (o->all || frame == 0 || order == first)
					err = measure_shape(run, o->fragments.sizes[fragment],
							    o->frames.sizes[frame],
							    (enum kvh_pages_order)order);
	return err;
}

static int measure_link(struct run *run, bool gpu)
{
	struct kvh_pack_report *report = run->report;

	report->link_bytes = gpu ? LINK_BYTES : HOST_LINK;
	if (report->link_bytes > run->rig->pool_bytes / 2)
		report->link_bytes = run->rig->pool_bytes / 2;
	report->link_store = kvh_way_link(run->rig, false, report->link_bytes, LINK_SAMPLES);
	report->link_load = kvh_way_link(run->rig, true, report->link_bytes, LINK_SAMPLES);
	report->link_both = kvh_way_link_both(run->rig, report->link_bytes, LINK_SAMPLES);
	return report->link_store > 0 && report->link_load > 0 && report->link_both > 0 ? 0
											: -EIO;
}

/* ---- the command -------------------------------------------------------- */

static int plot(const struct options *o, const struct kvh_pack_report *report)
{
	FILE *out = fopen(o->svg, "w");

	if (out == NULL) {
		kvh_bench_complain("%s: %s", o->svg, strerror(errno));
		return -EIO;
	}
	kvh_pack_report_svg(out, report);
	if (fclose(out) == 0)
		return 0;
	kvh_bench_complain("%s: %s", o->svg, strerror(errno));
	return -EIO;
}

static int show(const struct options *o, const struct kvh_pack_report *report)
{
	int err = 0;

	if (o->json)
		err = kvh_pack_report_json(stdout, report);
	else if (o->csv)
		kvh_pack_report_csv(stdout, report);
	if (err == 0 && o->svg != NULL)
		err = plot(o, report);
	return err;
}

int kvh_bench_pack(int argc, char **argv)
{
	struct options o = {.device = "auto"};
	struct kvh_pack_report report = {0};
	struct kvh_pack_rig rig;
	struct run run = {&o, &rig, &report};
	int err;

	(void)argp_parse(&parser, argc, argv, 0, NULL, &o);
	kvh_bench_catch();
	err = kvh_pack_rig_open(&rig, o.device, o.pool, o.arena);
	if (err != 0)
		return err == -EINVAL ? KVH_BENCH_USAGE : KVH_BENCH_FAILED;
	rig.dev->ops->info(rig.dev, &report.device);
	defaults(&o, report.device.n_sms != 0);
	err = measure_link(&run, report.device.n_sms != 0);
	if (err == 0 && !o.json && !o.csv)
		kvh_pack_report_head(stdout, &report);
	if (err == 0)
		err = measure(&run);
	if (err == 0)
		err = show(&o, &report);
	if (err == 0 && !kvh_pack_report_right(&report))
		err = -EBADMSG;
	kvh_pack_report_free(&report);
	kvh_pack_rig_close(&rig);
	if (err == -EINTR && kvh_bench_signal != 0)
		return KVH_BENCH_SIGNALLED + (int)kvh_bench_signal;
	return err == 0 ? KVH_BENCH_OK : KVH_BENCH_FAILED;
}
