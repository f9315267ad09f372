/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_pairs.c - pairs of runs. Both move as many bytes; the adapter goes first in
 * every other pair, so that a disk that gets slower or faster favours neither.
 * fio reads where the frames are; what it writes goes to a twin of the file, made
 * and written once as that was, or it would write over frames that are read.
 */
#include "bench/l2_pairs.h"

#include "bench/bench.h"
#include "bench/l2_fio.h"

#include <errno.h>
#include <stdlib.h>

#define CALIBRATE_S 0.1 /* a run that lasts as long tells the rate */

static const char *pattern_of(enum kvh_l2_mode mode)
{
	switch (mode) {
	case KVH_L2_STORE: return "write";
	case KVH_L2_LOAD: return "randread";
	case KVH_L2_MIXED: return "randrw";
	case KVH_L2_PROBES:
	case KVH_L2_MODES: break;
	}
	return NULL;
}

/* NULL, or why fio is no measure here. */
static const char *no_fio(const struct kvh_pairs_opts *opts, const struct kvh_target *target,
			  enum kvh_l2_mode mode)
{
	bool writes = mode == KVH_L2_STORE || mode == KVH_L2_MIXED;

	if (mode == KVH_L2_PROBES)
		return "moves no bytes";
	if (!opts->fio)
		return "not asked for, or not installed";
	if (target->kind != KVH_TARGET_FILE && target->kind != KVH_TARGET_BLOCK)
		return "no file to compare with";
	if (writes && target->kind == KVH_TARGET_BLOCK)
		return "would write over the device";
	if (writes && target->twin == NULL)
		return "no room for what it writes";
	return NULL;
}

/* Sums of all the adapter's runs of a row, and what each pair came to. */
struct sums {
	struct kvh_rig_result runs;
	double gb_per_s[KVH_PAIRS_MAX], per_s[KVH_PAIRS_MAX];
	double fio_gb_per_s[KVH_PAIRS_MAX], share[KVH_PAIRS_MAX], fio_cpu[KVH_PAIRS_MAX];
	uint64_t bytes; /* of a run */
};

static int run_adapter(struct kvh_rig *rig, const struct kvh_target *target,
		       const struct kvh_pairs_row *row, struct sums *sums, uint32_t pair)
{
	struct kvh_rig_result *runs = &sums->runs;
	uint64_t ns = runs->ns, bytes = runs->bytes, frames = runs->frames;
	double seconds;
	int err;

	if (row->mode != KVH_L2_STORE && target->kind == KVH_TARGET_DIRECTORY)
		kvh_target_cool(target);
	err = kvh_rig_run(rig, row->mode, row->run_frames, runs);
	if (err != 0)
		return err;
	seconds = (double)(runs->ns - ns) / 1e9;
	sums->bytes = runs->bytes - bytes;
	sums->gb_per_s[pair] = (double)sums->bytes / 1e9 / seconds;
	sums->per_s[pair] = (double)(runs->frames - frames) / seconds;
	return 0;
}

static int run_fio(const struct kvh_pairs_opts *opts, const struct kvh_target *target,
		   const struct kvh_pairs_row *row, struct sums *sums, uint32_t pair)
{
	bool writes = row->mode != KVH_L2_LOAD;
	struct kvh_fio_opts fio = {
		.path = writes ? target->twin : target->path,
		.pattern = pattern_of(row->mode),
		.size = target->bytes / row->frame_bytes * row->frame_bytes,
		.block = row->frame_bytes,
		.bytes = row->run_frames * row->frame_bytes,
		.depth = row->depth,
		.seed = pair + 1,
		.huge = opts->fio_huge,
	};
	struct kvh_fio_result result = {0};
	int err = kvh_fio_run(&fio, &result);

	sums->fio_gb_per_s[pair] = result.gb_per_s;
	sums->fio_cpu[pair] = result.cpu_s_per_gb;
	return err;
}

static int run_pair(const struct kvh_pairs_opts *opts, struct kvh_rig *rig,
		    const struct kvh_target *target, const struct kvh_pairs_row *row,
		    struct sums *sums, uint32_t pair)
{
	bool fio = row->no_fio == NULL;
	int err = 0;

	if (fio && pair % 2 != 0)
		err = run_fio(opts, target, row, sums, pair);
	if (err == 0)
		err = run_adapter(rig, target, row, sums, pair);
	if (err == 0 && fio && pair % 2 == 0)
		err = run_fio(opts, target, row, sums, pair);
	if (err == 0 && fio)
		sums->share[pair] = sums->gb_per_s[pair] / sums->fio_gb_per_s[pair];
	return err != 0 ? err : kvh_bench_signal != 0 ? -EINTR : 0;
}

/* How many frames a run of so many seconds moves; that is also the warm-up. */
static int calibrate(const struct kvh_pairs_opts *opts, struct kvh_rig *rig,
		     struct kvh_pairs_row *row)
{
	double enough = opts->seconds < CALIBRATE_S ? opts->seconds : CALIBRATE_S;
	uint64_t n = 2 * row->depth;
	double seconds = 0;

	while (seconds < enough) {
		struct kvh_rig_result run = {0};
		int err = kvh_rig_run(rig, row->mode, n, &run);

		free(run.latency.ns);
		if (err != 0)
			return err;
		seconds = (double)run.ns / 1e9;
		row->run_frames = (uint64_t)((double)n * opts->seconds / seconds);
		n *= 2;
	}
	if (row->run_frames < 2 * row->depth)
		row->run_frames = 2 * row->depth;
	row->run_frames += row->run_frames % 2; /* as many stores as loads */
	return 0;
}

/* In a run of its own: counting slows it down. */
static int count_calls(struct kvh_rig *rig, struct kvh_pairs_row *row)
{
	struct kvh_rig_result run = {0};
	struct kvh_calls *calls;
	uint64_t n;
	int err;

	row->calls_per_frame = -1;
	if (kvh_calls_begin(&calls) != 0)
		return 0; /* the report says that it is not known */
	err = kvh_rig_run(rig, row->mode, row->run_frames, &run);
	n = kvh_calls_end(calls);
	if (err == 0 && run.frames > 0)
		row->calls_per_frame = (double)n / (double)run.frames;
	free(run.latency.ns);
	return err;
}

static void row_fill(struct kvh_pairs_row *row, struct sums *sums)
{
	struct kvh_rig_result *runs = &sums->runs;

	row->gb_per_s = kvh_spread_of(sums->gb_per_s, row->pairs);
	row->per_s = kvh_spread_of(sums->per_s, row->pairs);
	if (row->no_fio == NULL) {
		row->fio_gb_per_s = kvh_spread_of(sums->fio_gb_per_s, row->pairs);
		row->share_of_fio = kvh_spread_of(sums->share, row->pairs);
		row->fio_cpu_s_per_gb = kvh_spread_of(sums->fio_cpu, row->pairs).median;
	}
	if (runs->bytes > 0)
		row->cpu_s_per_gb = (double)runs->cpu_ns / (double)runs->bytes;
	row->p50_ns = kvh_samples_percentile(&runs->latency, 50);
	row->p99_ns = kvh_samples_percentile(&runs->latency, 99);
	row->p999_ns = kvh_samples_percentile(&runs->latency, 99.9);
	row->frames = runs->frames;
	row->misses = runs->misses;
	row->failed = runs->failed;
	row->corrupt = runs->corrupt;
}

int kvh_pairs_run(const struct kvh_pairs_opts *opts, struct kvh_rig *rig,
		  const struct kvh_target *target, struct kvh_pairs_row *row)
{
	struct sums *sums = calloc(1, sizeof(*sums));
	int err = sums == NULL ? -ENOMEM : 0;

	row->cold = kvh_target_cold(target);
	row->no_fio = no_fio(opts, target, row->mode);
	if (err == 0 && row->mode != KVH_L2_STORE)
		err = kvh_rig_find(rig);
	if (err == 0)
		err = calibrate(opts, rig, row);
	for (row->pairs = 0; err == 0 && row->pairs < opts->pairs;) {
		if (opts->progress != NULL)
			opts->progress(opts->arg, row->pairs);
		err = run_pair(opts, rig, target, row, sums, row->pairs);
		row->pairs += err == 0;
	}
	if (err == 0)
		err = count_calls(rig, row);
	if (sums != NULL) {
		row_fill(row, sums);
		free(sums->runs.latency.ns);
	}
	free(sums);
	return err;
}

int kvh_pairs_prepare(const struct kvh_pairs_opts *opts, const struct kvh_target *target,
		      uint64_t frame_bytes, uint32_t depth)
{
	const struct kvh_fio_opts fio = {
		.path = target->twin,
		.pattern = "write",
		.size = target->bytes / frame_bytes * frame_bytes,
		.block = frame_bytes,
		.bytes = target->bytes / frame_bytes * frame_bytes,
		.depth = depth,
		.seed = 1,
		.huge = opts->fio_huge,
	};
	struct kvh_fio_result result;

	return kvh_fio_run(&fio, &result);
}
