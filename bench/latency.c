/* SPDX-License-Identifier: Apache-2.0 */
/*
 * latency.c - one job after the other, each waited for in poll(). The user's thread.
 */
#include "bench/latency.h"

#include "bench/bench.h"
#include "bench/lookout.h"
#include "bench/measure.h"
#include "bench/runtime.h"
#include "host/clock.h"
#include "host/engine.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define MODEL      "llama-3.1-8b"
#define GPU_SCALE  0.5  /* of a block of 64 MiB: one stage */
#define HOST_SCALE 0.02 /* 1.3 MiB */
#define L1_CHUNKS  16u
#define LEASE_NS   (UINT64_C(3600) * KVH_NS_PER_S)

const char *kvh_latency_mode_name(enum kvh_latency_mode mode)
{
	switch (mode) {
	case KVH_LATENCY_NOTICE: return "notice";
	case KVH_LATENCY_SPIN: return "spin";
	case KVH_LATENCY_ALONE: return "spin alone";
	case KVH_LATENCY_LOOK: return "look";
	case KVH_LATENCY_MODES: break;
	}
	return "?";
}

struct rig {
	const struct kvh_latency_opts *opts;
	struct kvh_geometry geo;
	struct kvh_runtime *rt;
	struct kvh_engine *engine;
	struct kvh_lookout *lookout;
	bool watching;
	struct kvh_queue *queue;
	kvh_space_t space;
	kvh_pool_t pool;
	uint32_t n_pages; /* of a chunk */
	uint32_t *pages;  /* [2 * n_pages]: those that are stored, and those that are loaded */
	uint64_t stored;  /* chunks, each under a key of its own; all have the bytes of key 0 */
	kvh_lease_t lease; /* of the last */
};

/* ---- a job -------------------------------------------------------------- */

static struct kvh_key key_of(const struct rig *rig, uint64_t i)
{
	struct kvh_key key = {.space = rig->space, .rank = kvh_geometry_rank(&rig->geo, 0)};

	kvh_fill_hash(1, i, &key.hash);
	return key;
}

static int start_store(struct rig *rig, kvh_job_t *job_p)
{
	struct kvh_store_chunk chunk = {
		.key = key_of(rig, rig->stored),
		.pages = rig->pages,
		.n_pages = rig->n_pages,
	};
	struct kvh_store_opts opts;
	int err;

	kvh_store_opts_init(&opts, sizeof(opts));
	opts.stream = kvh_runtime_stream(rig->rt);
	err = kvh_store(rig->queue, rig->pool, &chunk, 1, &opts, NULL, job_p);
	if (err == 0)
		rig->stored++;
	return err;
}

static int start_load(struct rig *rig, kvh_job_t *job_p)
{
	struct kvh_load_chunk chunk = {
		.lease = rig->lease,
		.pages = rig->pages + rig->n_pages,
		.n_pages = rig->n_pages,
	};
	struct kvh_load_opts opts;

	kvh_load_opts_init(&opts, sizeof(opts));
	opts.stream = kvh_runtime_stream(rig->rt);
	return kvh_load(rig->queue, rig->pool, &chunk, 1, &opts, NULL, job_p);
}

/* Asleep until the terminal event was taken; when that was. */
static int sleep_until_done(struct rig *rig, uint64_t *at_ns_p)
{
	struct pollfd fd = {.fd = kvh_queue_fd(rig->queue), .events = POLLIN};
	struct kvh_event event;
	int n;

	do {
		if (poll(&fd, 1, -1) < 0)
			return -errno;
		n = kvh_queue_poll(rig->queue, &event, 1);
		*at_ns_p = kvh_now_ns();
	} while (n == 0 || (n == 1 && event.type != KVH_EVENT_DONE));
	return n < 0 ? n : event.status;
}

static int job(struct rig *rig, bool load, uint64_t *latency_p, uint64_t *way_p)
{
	uint64_t begun = kvh_now_ns(), woken = 0, finished;
	kvh_job_t id;
	int err = load ? start_load(rig, &id) : start_store(rig, &id);

	if (err == 0)
		err = sleep_until_done(rig, &woken);
	if (err != 0)
		return err;
	finished = kvh_lookout_finished(rig->lookout);
	if (finished == 0)
		return -EIO;
	*latency_p = woken > finished ? woken - finished : 0;
	*way_p += woken - begun;
	return 0;
}

/* ---- rows --------------------------------------------------------------- */

static int set_mode(struct rig *rig, enum kvh_latency_mode mode)
{
	bool spins = mode == KVH_LATENCY_SPIN || mode == KVH_LATENCY_ALONE;

	kvh_lookout_mute(rig->lookout, mode == KVH_LATENCY_ALONE || mode == KVH_LATENCY_LOOK);
	return kvh_engine_set(rig->engine, "gpu.spin", spins ? "1s" : "0ns");
}

/* The first job of a row is not counted. */
static int measure_row(struct rig *rig, struct kvh_latency_row *row)
{
	struct kvh_samples each = {0};
	uint64_t cpu = 0, way = 0, latency;
	int err = set_mode(rig, row->mode);

	for (uint32_t i = 0; i <= row->n && err == 0; i++) {
		err = job(rig, row->load, &latency, &way);
		if (i == 0) {
			cpu = kvh_cpu_of_threads_ns(KVH_MOVER_THREADS);
			way = 0;
		} else if (err == 0 && !kvh_samples_add(&each, latency)) {
			err = -ENOMEM;
		}
	}
	cpu = kvh_cpu_of_threads_ns(KVH_MOVER_THREADS) - cpu;
	row->p50_ns = kvh_samples_percentile(&each, 50);
	row->p99_ns = kvh_samples_percentile(&each, 99);
	row->mover_cores = way == 0 ? 0 : (double)cpu / (double)way;
	row->error = err;
	free(each.ns);
	return err;
}

static int take_lease(struct rig *rig)
{
	struct kvh_key last = key_of(rig, rig->stored - 1);
	struct kvh_prefix prefix = {
		.space = rig->space,
		.hashes = &last.hash,
		.n_chunks = 1,
		.n_ranks = 1,
		.n_groups = 1,
	};
	uint32_t usable = 0;
	int err = kvh_lookup_lease(rig->queue, &prefix, LEASE_NS, NULL, &rig->lease, &usable);

	return err != 0 ? err : usable == 1 ? 0 : -ENOENT;
}

static int measure(struct rig *rig, struct kvh_latency_report *report)
{
	int err = 0;

	for (int load = 0; load < 2 && err == 0; load++) {
		if (load)
			err = take_lease(rig);
		for (int mode = 0; mode < KVH_LATENCY_MODES && err == 0; mode++) {
			struct kvh_latency_row *row = &report->rows[report->n++];

			*row = (struct kvh_latency_row){
				.mode = (enum kvh_latency_mode)mode,
				.load = load != 0,
				.bytes = kvh_geometry_chunk_bytes(&rig->geo, 0),
				.n = rig->opts->n,
			};
			err = measure_row(rig, row);
			rig->opts->note(rig->opts->arg, row);
			if (kvh_bench_signal != 0)
				err = -EINTR;
		}
	}
	return err;
}

/* ---- open, close -------------------------------------------------------- */

static int open_pages(struct rig *rig)
{
	struct kvh_runtime_chunk chunk = {.key = key_of(rig, 0)};
	int err;

	rig->pages = calloc(2 * (size_t)rig->n_pages, sizeof(rig->pages[0]));
	if (rig->pages == NULL ||
	    !kvh_runtime_pages_take(rig->rt, 2 * rig->n_pages, rig->pages))
		return -ENOMEM;
	chunk.pages = rig->pages;
	err = kvh_runtime_fill(rig->rt, &chunk, 1);
	chunk.pages = rig->pages + rig->n_pages;
	return err != 0 ? err : kvh_runtime_poison(rig->rt, &chunk, 1);
}

static int open_engine(struct rig *rig)
{
	struct kvh_engine_opts opts;
	struct kvh_space_desc desc;
	int err;

	kvh_engine_opts_init(&opts, sizeof(opts));
	opts.device = rig->opts->device;
	opts.l1_bytes = kvh_geometry_l1_bytes(&rig->geo, L1_CHUNKS);
	opts.l1_pin_wait = 1; /* nothing else runs while it measures */
	err = kvh_engine_open(&opts, &rig->engine);
	if (err != 0)
		return err;
	kvh_geometry_space(&rig->geo, &desc);
	err = kvh_space_open(rig->engine, &desc, &rig->space);
	if (err == 0)
		err = kvh_queue_open(rig->engine, 4, &rig->queue);
	if (err == 0)
		err = kvh_runtime_register(rig->rt, rig->engine, rig->space, &rig->pool);
	if (err == 0)
		err = kvh_lookout_open(rig->engine->devices.list[0].dev, &rig->lookout);
	rig->watching = err == 0;
	return err;
}

static int open_rig(struct rig *rig)
{
	struct kvh_runtime_opts rt = {.device = rig->opts->device, .geo = &rig->geo};
	int err = kvh_geometry_make(kvh_model_find(MODEL),
				    rig->opts->gpu ? GPU_SCALE : HOST_SCALE, &rig->geo);

	if (err != 0)
		return err;
	rig->n_pages = kvh_geometry_chunk_pages(&rig->geo, 0);
	rt.n_pages = 2 * rig->n_pages;
	err = kvh_runtime_open(&rt, &rig->rt);
	if (err == 0)
		err = open_engine(rig);
	return err != 0 ? err : open_pages(rig);
}

static void close_rig(struct rig *rig)
{
	if (rig->watching)
		kvh_lookout_stop(rig->lookout);
	kvh_queue_close(rig->queue);
	(void)kvh_engine_close(rig->engine, 0);
	kvh_lookout_free(rig->lookout);
	kvh_runtime_close(rig->rt);
	kvh_geometry_free(&rig->geo);
	free(rig->pages);
}

/* The pages that were loaded hold what the first key's do. */
static int check(struct rig *rig, bool *right_p)
{
	struct kvh_runtime_chunk chunk = {key_of(rig, 0), rig->pages + rig->n_pages};
	struct kvh_runtime_wrong wrong = {0};
	int err = kvh_runtime_check(rig->rt, &chunk, 1, &wrong);

	*right_p = err == 0 && !wrong.wrong;
	return err;
}

int kvh_latency_run(const struct kvh_latency_opts *opts, struct kvh_latency_report *report)
{
	struct rig rig = {.opts = opts};
	int err = open_rig(&rig);

	memset(report, 0, sizeof(*report));
	if (err == 0)
		err = measure(&rig, report);
	if (err == 0)
		err = check(&rig, &report->right);
	close_rig(&rig);
	if (err != 0 && err != -EINTR)
		kvh_bench_complain("latency: %s", strerror(-err));
	return err;
}
