/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_opts.c - the command line of `kvhoist-bench pack`. One thread.
 */
#include "bench/pack_opts.h"

#include "bench/bench.h"
#include "l2/conf.h"

#include <argp.h>
#include <stdlib.h>
#include <string.h>

/* On a GPU large enough for what a sample has beside its bytes, once each, to be well below
 * the percents that matter; the pool is twice that, and the arena four times. */
#define GPU_SAMPLE   (UINT64_C(512) << 20)
#define HOST_SAMPLE  (UINT64_C(8) << 20)
#define GPU_SAMPLES  5u
#define HOST_SAMPLES 7u
#define GPU_BESIDE   (UINT64_C(32) << 20) /* a stage's, and a chunk's of many models */
#define HOST_BESIDE  (UINT64_C(2) << 20)

enum option_key {
	OPTION_DEVICE = 256,
	OPTION_FRAGMENTS,
	OPTION_FRAMES,
	OPTION_PAGES,
	OPTION_WAYS,
	OPTION_ALL,
	OPTION_SAMPLE,
	OPTION_SAMPLES,
	OPTION_LAYERS,
	OPTION_POOL,
	OPTION_ARENA,
	OPTION_JSON,
	OPTION_CSV,
	OPTION_SVG,
	OPTION_SVG_LOAD,
	OPTION_TRANSFERS,
	OPTION_LOAD,
	OPTION_LATENCY,
	OPTION_PIN,
};

static const struct argp_option option_list[] = {
	{"device", OPTION_DEVICE, "NAME", 0, "auto, host, cuda, cuda:N (auto)", 0},
	{"transfers", OPTION_TRANSFERS, NULL, 0, "every way of moving pages", 0},
	{"load", OPTION_LOAD, "KERNELS", OPTION_ARG_OPTIONAL,
	 "what other kernels lose meanwhile: wave, 64x8192x8192, 1024x8192x4096, "
	 "2048x2112x4096, 4096x4096x4096, 8192x8192x8192, copy (all)",
	 0},
	{"latency", OPTION_LATENCY, NULL, 0,
	 "from the device's end of a job to its user's thread awake", 0},
	{"pin", OPTION_PIN, NULL, 0,
	 "how fast 32 GiB are pinned, or a half of what is free (256M on the host device)", 0},
	{"fragments", OPTION_FRAGMENTS, "LIST", 0,
	 "bytes that a page has of a plane (2K,4K,8K,16K,32K,128K)", 0},
	{"frames", OPTION_FRAMES, "LIST", 0, "payloads of a chunk (2M,128K,512K,8M,32M)", 0},
	{"pages", OPTION_PAGES, "LIST", 0,
	 "contiguous, strided, shuffled (shuffled,strided,contiguous)", 0},
	{"ways", OPTION_WAYS, "LIST", 0,
	 "copies, batch, 2d, zero-copy, kvhoist, staged, direct (all)", 0},
	{"all", OPTION_ALL, NULL, 0,
	 "everything with everything; else others' ways, and other orders of pages than the "
	 "first, with the first frame only",
	 0},
	{"sample", OPTION_SAMPLE, "SIZE", 0,
	 "bytes moved at once (512M; 8M on the host device)", 0},
	{"samples", OPTION_SAMPLES, "N", 0, "of each measurement (5; 7 on the host device)", 0},
	{"layers", OPTION_LAYERS, "N", 0,
	 "that the planes are of, in equal parts: a load is submitted layer by layer (1)", 0},
	{"pool", OPTION_POOL, "SIZE", 0, "pages are drawn from (1G; 64M on the host device)",
	 0},
	{"arena", OPTION_ARENA, "SIZE", 0, "pinned memory (2G; 128M on the host device)", 0},
	{"json", OPTION_JSON, "FILE", OPTION_ARG_OPTIONAL,
	 "print JSON instead of a table; or write it to a file beside what is printed", 0},
	{"csv", OPTION_CSV, "FILE", OPTION_ARG_OPTIONAL, "the same as CSV", 0},
	{"svg", OPTION_SVG, "FILE", 0, "also plot shares of the link by fragment", 0},
	{"svg-load", OPTION_SVG_LOAD, "FILE", 0,
	 "also plot what other kernels lose, against rate", 0},
	{NULL, 0, NULL, 0, NULL, 0},
};

/* ---- options ------------------------------------------------------------ */

/* Calls take for each item of a list; a wrong one is an argp_error. */
static void each_item(struct argp_state *state, const char *option, const char *list,
		      bool (*take)(struct kvh_pack_opts *o, int key, const char *item), int key)
{
	char *copy = strdup(list), *save = NULL;

	for (char *item = copy == NULL ? NULL : strtok_r(copy, ",", &save); item != NULL;
	     item = strtok_r(NULL, ",", &save))
		if (!take(state->input, key, item))
			argp_error(state, "--%s: '%s' is not one of what --help names", option,
				   item);
	free(copy);
}

static bool take_size(struct kvh_pack_opts *o, int key, const char *item)
{
	struct kvh_size_list *list = key == OPTION_FRAMES ? &o->frames : &o->fragments;
	uint64_t bytes;

	if (list->n == KVH_PACK_LIST_MAX || kvh_conf_bytes(item, &bytes) != 0 || bytes < 8 ||
	    bytes % 8 != 0 || bytes > UINT64_C(1) << 30)
		return false;
	list->sizes[list->n++] = bytes;
	return true;
}

static bool take_order(struct kvh_pack_opts *o, int key, const char *item)
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

static bool take_way(struct kvh_pack_opts *o, int key, const char *item)
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

static bool take_kernel(struct kvh_pack_opts *o, int key, const char *item)
{
	(void)key;
	for (int i = 0; i < KVH_LOAD_KERNELS; i++) {
		if (strcmp(item, kvh_load_name((enum kvh_load_kernel)i)) == 0) {
			o->kernels[i] = true;
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

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct kvh_pack_opts *o = state->input;

	switch (key) {
	case OPTION_DEVICE: o->device = arg; break;
	case OPTION_FRAGMENTS: each_item(state, "fragments", arg, take_size, key); break;
	case OPTION_FRAMES: each_item(state, "frames", arg, take_size, key); break;
	case OPTION_PAGES: each_item(state, "pages", arg, take_order, key); break;
	case OPTION_WAYS: each_item(state, "ways", arg, take_way, key); break;
	case OPTION_ALL: o->all = true; break;
	case OPTION_TRANSFERS: o->transfers = true; break;
	case OPTION_LATENCY: o->latency = true; break;
	case OPTION_PIN: o->pin = true; break;
	case OPTION_LOAD:
		o->beside = true;
		if (arg != NULL)
			each_item(state, "load", arg, take_kernel, key);
		break;
	case OPTION_SAMPLE: take_bytes(state, "sample", arg, &o->sample); break;
	case OPTION_SAMPLES:
		o->samples = (uint32_t)kvh_bench_number(state, "samples", arg, 10000);
		break;
	case OPTION_LAYERS:
		o->layers = (uint32_t)kvh_bench_number(state, "layers", arg, KVH_PLANES_MAX);
		break;
	case OPTION_POOL: take_bytes(state, "pool", arg, &o->pool); break;
	case OPTION_ARENA: take_bytes(state, "arena", arg, &o->arena); break;
	case OPTION_JSON:
		o->json = arg == NULL;
		o->json_file = arg;
		break;
	case OPTION_CSV:
		o->csv = arg == NULL;
		o->csv_file = arg;
		break;
	case OPTION_SVG: o->svg = arg; break;
	case OPTION_SVG_LOAD: o->svg_load = arg; break;
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
	.doc = "Measures how fast pages move to frames in pinned memory and back, and what "
	       "other kernels lose meanwhile, and when its user knows. --transfers, "
	       "--load, --latency and --pin are its parts; all, where none is named.\v"
	       "The link is one contiguous copy in the same run. Every measurement's bytes "
	       "are compared: frames with pages after a store, the whole pool after a load. "
	       "The exit status is 1 if any were wrong or missing; what was measured is "
	       "printed and written all the same, also after a signal.",
};

static bool any(const bool *flags, int n)
{
	for (int i = 0; i < n; i++)
		if (flags[i])
			return true;
	return false;
}

void kvh_pack_opts_defaults(struct kvh_pack_opts *o, bool gpu)
{
	static const struct kvh_size_list fragments = {
		{2048, 4096, 8192, 16384, 32768, 131072},
		6,
	};
	static const struct kvh_size_list beside = {{4096, 32768}, 2};
	static const struct kvh_size_list frames = {
		{2u << 20, 128u << 10, 512u << 10, 8u << 20, 32u << 20},
		5,
	};

	if (!o->transfers && !o->beside && !o->latency && !o->pin) {
		o->transfers = o->beside = o->latency = true;
		o->pin = gpu; /* elsewhere nothing is pinned */
	}
	o->beside_fragments = o->fragments.n == 0 ? beside : o->fragments;
	if (o->fragments.n == 0)
		o->fragments = fragments;
	o->beside_payload = o->frames.n != 0 ? o->frames.sizes[0]
			    : gpu            ? GPU_BESIDE
					     : HOST_BESIDE;
	if (!any(o->kernels, KVH_LOAD_KERNELS))
		memset(o->kernels, true, sizeof(o->kernels));
	if (o->frames.n == 0)
		o->frames = frames;
	if (!any(o->orders, KVH_PAGES_ORDERS))
		memset(o->orders, true, sizeof(o->orders));
	if (!any(o->ways, KVH_WAYS))
		memset(o->ways, true, sizeof(o->ways));
	if (o->sample == 0)
		o->sample = gpu ? GPU_SAMPLE : HOST_SAMPLE;
	if (o->samples == 0)
		o->samples = gpu ? GPU_SAMPLES : HOST_SAMPLES;
	if (o->layers == 0)
		o->layers = 1;
}

void kvh_pack_opts_parse(struct kvh_pack_opts *o, int argc, char **argv)
{
	memset(o, 0, sizeof(*o));
	o->device = "auto";
	(void)argp_parse(&parser, argc, argv, 0, NULL, o);
}
