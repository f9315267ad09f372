/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_cmd.c - `kvhoist-bench pack`: how fast pages move to frames and back, by the
 * mover and by the ways that others use, as shares of the link; and what other kernels
 * lose meanwhile; in one run. One thread beside the mover's and the pump's.
 */
#include "bench/bench.h"
#include "bench/beside.h"
#include "bench/figures.h"
#include "bench/pack_opts.h"
#include "bench/pack_report.h"
#include "host/arena_map.h"
#include "host/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LINK_SAMPLES 5u
#define LINK_BYTES   (UINT64_C(512) << 20)
#define HOST_LINK    (UINT64_C(16) << 20)

/* ---- transfers ---------------------------------------------------------- */

struct run {
	const struct kvh_pack_opts *o;
	struct kvh_pack_rig *rig;
	struct kvh_pack_report *report;
	int error; /* the first */
};

/* A table, as it comes. */
static bool prints(const struct run *run)
{
	return !run->o->json && !run->o->csv;
}

/* Behind each part of a run; false: another one makes no sense. */
static bool goes_on(struct run *run, int err)
{
	struct kvh_device *dev = run->rig->dev;

	if (err == 0 && kvh_bench_signal != 0)
		err = -EINTR;
	if (run->error == 0)
		run->error = err;
	return err != -EINTR && !dev->ops->dead(dev);
}

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
	if (prints(run)) {
		kvh_pack_row_print(stdout, row);
		(void)fflush(stdout);
	}
}

static struct kvh_pack_row *row_begin(struct run *run, const struct kvh_pack_shape *shape,
				      enum kvh_way way, bool load)
{
	struct kvh_pack_row *row = kvh_pack_report_row(run->report);

	if (row == NULL)
		return NULL;
	row->way = way;
	row->load = load;
	row->fragment = shape->fragment;
	row->payload = shape->payload;
	row->order = shape->order;
	row->decided = "";
	return row;
}

/* Rows of what could not be measured, which is no success. */
static int note_missing(struct run *run, const struct kvh_pack_shape *shape, int error)
{
	for (int load = 0; load < 2 && run->o->ways[KVH_WAY_KVHOIST]; load++) {
		struct kvh_pack_row *row = row_begin(run, shape, KVH_WAY_KVHOIST, load != 0);
		struct kvh_way_result result = {.error = error};

		if (row == NULL)
			return -ENOMEM;
		note(run, row, &result);
	}
	return 0;
}

/* -EINTR: a signal came. */
static int measure_ways(struct run *run, struct kvh_pack_set *set,
			const struct kvh_pack_shape *shape)
{
	bool others = run->o->all || shape->payload == run->o->frames.sizes[0];

	for (int way = 0; way < KVH_WAYS; way++) {
		bool asked = run->o->ways[way] && (others || way == KVH_WAY_KVHOIST);

		for (int load = 0; load < 2 && asked; load++) {
			struct kvh_pack_row *row = row_begin(run, shape, (enum kvh_way)way,
							     load != 0);
			struct kvh_way_result result;

			if (row == NULL)
				return -ENOMEM;
			if (way == KVH_WAY_KVHOIST)
				row->decided = kvh_mover_way_name(set->mplan.way[load]);
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
	if (prints(run))
		kvh_pack_both_print(stdout, both);
	return 0;
}

static int measure_shape(struct run *run, uint64_t fragment, uint64_t payload,
			 enum kvh_pages_order order)
{
	struct kvh_pack_shape shape = {fragment, payload, run->o->sample, order,
				       run->o->layers};
	struct kvh_pack_set set;
	int err, rc;

	if (fragment > payload || !run->o->orders[order])
		return 0;
	err = kvh_pack_set_open(run->rig, &shape, &set);
	if (err != 0) {
		kvh_bench_complain("fragments of %" PRIu64 " in frames of %" PRIu64 ": %s",
				   fragment, payload,
				   err == -ENOSPC ? "a larger --pool or --arena is needed"
						  : strerror(-err));
		rc = note_missing(run, &shape, err);
		return err == -ENOSPC ? rc : err;
	}
	err = measure_ways(run, &set, &shape);
	if (err == 0)
		err = measure_both(run, &set, &shape);
	kvh_pack_set_close(&set);
	return err;
}

/* What the mover measured when the sets were made, and which way it took. */
static void print_calibration(struct kvh_mover *mover)
{
	struct kvh_calibration seen[KVH_CALIBRATIONS_MAX];
	uint32_t n = kvh_mover_calibration(mover, seen, KVH_CALIBRATIONS_MAX);

	if (n != 0)
		puts("\ncalibrated        row     rows   staged   direct  GB/s");
	for (uint32_t i = 0; i < n; i++)
		printf("%-10s %7" PRIu64 " KiB %6" PRIu32 " %8.2f %8.2f  %s\n",
		       seen[i].load ? "load" : "store", seen[i].row_bytes >> 10, seen[i].rows,
		       (double)seen[i].staged_rate / 1e9, (double)seen[i].direct_rate / 1e9,
		       kvh_mover_way_name(seen[i].way));
}

static bool measure_transfers(struct run *run)
{
	const struct kvh_pack_opts *o = run->o;
	bool on = true;
	int first = 0;

	if (prints(run))
		kvh_pack_rows_head(stdout);
	while (!o->orders[first])
		first++;
	for (uint32_t frame = 0; frame < o->frames.n; frame++)
		for (uint32_t fragment = 0; fragment < o->fragments.n; fragment++)
			for (int order = first; order < KVH_PAGES_ORDERS && on; order++)
				if (o->all || frame == 0 || order == first)
					on = goes_on(
						run,
						measure_shape(run, o->fragments.sizes[fragment],
							      o->frames.sizes[frame],
							      (enum kvh_pages_order)order));
	if (prints(run))
		print_calibration(run->rig->mover);
	return on;
}

/* ---- beside other kernels ----------------------------------------------- */

#define BESIDE_SAMPLE_NS UINT64_C(20000000) /* many stages' time on the link */

static void note_beside(void *arg, const struct kvh_beside_row *row)
{
	struct run *run = arg;

	if (!prints(run))
		return;
	if (run->report->beside.n == 1)
		kvh_beside_head_print(stdout, run->report->beside.how);
	kvh_beside_row_print(stdout, row);
	(void)fflush(stdout);
}

static int measure_beside(struct run *run)
{
	struct kvh_beside b = {
		.rig = run->rig,
		.ops = kvh_load_for(&run->report->device),
		.fragments = run->o->beside_fragments.sizes,
		.n_fragments = run->o->beside_fragments.n,
		.payload = run->o->beside_payload,
		.sample = run->o->sample,
		.layers = run->o->layers,
		.samples = run->o->samples,
		.sample_ns = BESIDE_SAMPLE_NS,
		.link_store = run->report->link_store,
		.link_load = run->report->link_load,
		.note = note_beside,
		.arg = run,
	};

	memcpy(b.kernels, run->o->kernels, sizeof(b.kernels));
	return kvh_beside_run(&b, &run->report->beside);
}

/* ---- latency ------------------------------------------------------------ */

#define GPU_JOBS  400u
#define HOST_JOBS 50u

static void note_latency(void *arg, const struct kvh_latency_row *row)
{
	struct run *run = arg;

	if (!prints(run))
		return;
	if (run->report->latency.n == 1)
		kvh_latency_head_print(stdout);
	kvh_latency_row_print(stdout, row);
	(void)fflush(stdout);
}

static int measure_latency(struct run *run)
{
	bool gpu = run->report->device.n_sms != 0;
	struct kvh_latency_opts opts = {
		.device = run->o->device,
		.gpu = gpu,
		.n = gpu ? GPU_JOBS : HOST_JOBS,
		.note = note_latency,
		.arg = run,
	};

	return kvh_latency_run(&opts, &run->report->latency);
}

/* ---- pinning ------------------------------------------------------------ */

#define GPU_PIN  UINT64_C(0x800000000) /* 32 GiB */
#define HOST_PIN (UINT64_C(256) << 20)

/* All of an arena, as an engine opens it. */
static int measure_pin(struct run *run)
{
	struct kvh_pack_report *report = run->report;
	uint64_t room = kvh_arena_room_machine(""), cgroup = kvh_arena_room_cgroup(""), ns;
	struct kvh_arena_opts opts = {
		.dev = run->rig->dev,
		.numa_node = report->device.numa_node,
	};
	uint64_t most = report->device.n_sms != 0 ? GPU_PIN : HOST_PIN;
	struct kvh_arena *arena;
	int err;

	room = (cgroup < room ? cgroup : room) / 2;
	opts.bytes = (room < most ? room : most) / KVH_GRANULE_BYTES * KVH_GRANULE_BYTES;
	ns = kvh_now_ns();
	err = kvh_arena_open(&opts, &arena);
	if (err != 0) {
		kvh_bench_complain("%" PRIu64 " MiB could not be pinned: %s", opts.bytes >> 20,
				   strerror(-err));
		return err;
	}
	kvh_arena_pinned_wait(arena);
	ns = kvh_now_ns() - ns;
	kvh_arena_close(arena, false);
	report->pin_bytes = opts.bytes;
	report->pin_rate = (double)opts.bytes / (double)ns;
	if (prints(run))
		printf("\npinning: %.2f GB/s, %" PRIu64 " MiB\n", report->pin_rate,
		       opts.bytes >> 20);
	return 0;
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

enum form { FORM_JSON, FORM_CSV, FORM_SVG, FORM_SVG_LOAD };

static int write_file(const char *path, const struct kvh_pack_report *report, enum form form)
{
	FILE *out;
	int err = 0;

	if (path == NULL)
		return 0;
	out = fopen(path, "w");
	if (out == NULL) {
		kvh_bench_complain("%s: %s", path, strerror(errno));
		return -EIO;
	}
	switch (form) {
	case FORM_JSON: err = kvh_pack_report_json(out, report); break;
	case FORM_CSV: kvh_pack_report_csv(out, report); break;
	case FORM_SVG: kvh_pack_report_svg(out, report); break;
	case FORM_SVG_LOAD:
		kvh_beside_svg(out, &report->beside, kvh_pack_report_device(report));
		break;
	}
	if (fclose(out) == 0)
		return err;
	kvh_bench_complain("%s: %s", path, strerror(errno));
	return -EIO;
}

/* Each that was asked for, whatever became of the others: the first error. */
static int show(const struct run *run)
{
	const struct kvh_pack_report *report = run->report;
	const struct kvh_pack_opts *o = run->o;
	struct kvh_figure figures[KVH_FIGURES_MAX];
	const int errors[] = {
		o->json ? kvh_pack_report_json(stdout, report) : 0,
		write_file(o->json_file, report, FORM_JSON),
		write_file(o->csv_file, report, FORM_CSV),
		write_file(o->svg, report, FORM_SVG),
		write_file(o->svg_load, report, FORM_SVG_LOAD),
	};

	if (o->csv)
		kvh_pack_report_csv(stdout, report);
	if (prints(run) && report->device.n_sms != 0)
		kvh_figures_print(stdout, figures, kvh_figures_of(report, figures));
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i] != 0)
			return errors[i];
	return 0;
}

/* Part by part: what one could not measure says nothing about the others. */
static void measure(struct run *run)
{
	const struct kvh_pack_opts *o = run->o;
	bool on = goes_on(run, measure_link(run, run->report->device.n_sms != 0));

	if (prints(run))
		kvh_pack_report_head(stdout, run->report);
	if (on && o->transfers)
		on = measure_transfers(run);
	if (on && o->beside)
		on = goes_on(run, measure_beside(run));
	if (on && o->latency)
		on = goes_on(run, measure_latency(run));
	if (on && o->pin)
		(void)goes_on(run, measure_pin(run));
}

int kvh_bench_pack(int argc, char **argv)
{
	struct kvh_pack_opts o;
	struct kvh_pack_report report = {0};
	struct kvh_pack_rig rig;
	struct run run = {&o, &rig, &report, 0};
	uint64_t begun = kvh_now_ns();
	int err;

	kvh_pack_opts_parse(&o, argc, argv);
	kvh_bench_catch();
	err = kvh_pack_rig_open(&rig, o.device, o.pool, o.arena);
	if (err != 0)
		return err == -EINVAL ? KVH_BENCH_USAGE : KVH_BENCH_FAILED;
	rig.dev->ops->info(rig.dev, &report.device);
	kvh_pack_opts_defaults(&o, report.device.n_sms != 0);
	measure(&run);
	if (prints(&run))
		printf("\ntook %.0f s\n", (double)(kvh_now_ns() - begun) / 1e9);
	err = show(&run);
	if (run.error != 0)
		err = run.error;
	if (err == 0 && !kvh_pack_report_right(&report))
		err = -EBADMSG;
	kvh_pack_report_free(&report);
	kvh_pack_rig_close(&rig);
	if (err == -EINTR && kvh_bench_signal != 0)
		return KVH_BENCH_SIGNALLED + (int)kvh_bench_signal;
	return err == 0 ? KVH_BENCH_OK : KVH_BENCH_FAILED;
}
