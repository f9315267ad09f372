/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_opts.h - the command line of `kvhoist-bench pack`. One thread.
 */
#ifndef KVH_BENCH_PACK_OPTS_H
#define KVH_BENCH_PACK_OPTS_H

#include "bench/load.h"
#include "bench/pack_way.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_PACK_LIST_MAX 16u

struct kvh_size_list {
	uint64_t sizes[KVH_PACK_LIST_MAX];
	uint32_t n;
};

struct kvh_pack_opts {
	const char *device;
	bool transfers, beside, latency, pin; /* the parts to do; none named: all, on
					       * the host device but pin */
	struct kvh_size_list fragments, frames;
	/* Beside other kernels: 4 and 32 KiB, in frames of 32 MiB, where nothing was said. */
	struct kvh_size_list beside_fragments;
	uint64_t beside_payload;
	bool orders[KVH_PAGES_ORDERS];
	bool ways[KVH_WAYS];
	bool kernels[KVH_LOAD_KERNELS];
	bool all; /* every way with every shape */
	uint64_t sample, pool, arena;
	uint32_t samples, layers;
	bool json, csv;
	const char *svg, *svg_load, *json_file, *csv_file;
};

/* Ends the process where they are wrong, or --help was asked for. */
void kvh_pack_opts_parse(struct kvh_pack_opts *o, int argc, char **argv);
/* What was not said; sizes depend on whether it is a GPU. */
void kvh_pack_opts_defaults(struct kvh_pack_opts *o, bool gpu);

#ifdef __cplusplus
}
#endif
#endif
