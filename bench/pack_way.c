/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_way.c - the ways of `kvhoist-bench pack`, each timed and then compared. One
 * thread, beside the mover's own. What is waited for is spun on, as a driver does for a
 * stream: a sleep's wake-up would be a percent of what is measured.
 */
#include "bench/pack_way.h"

#include "bench/bench.h"
#include "bench/measure.h"
#include "cuda/pack.h"
#include "host/clock.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Fragments that a slow way moves in a sample: some 0.1 s of submitting. */
#define COPIES_MAX     20000u
#define BATCH_MAX      100000u
#define KVH_LINK_ALIGN 4096u

const char *kvh_way_name(enum kvh_way way)
{
	switch (way) {
	case KVH_WAY_COPIES: return "copies";
	case KVH_WAY_BATCH: return "batch";
	case KVH_WAY_COPY_2D: return "2d";
	case KVH_WAY_ZERO_COPY: return "zero-copy";
	case KVH_WAY_KVHOIST: return "kvhoist";
	case KVH_WAY_STAGED: return "staged";
	case KVH_WAY_DIRECT: return "direct";
	case KVH_WAYS: break;
	}
	return "?";
}

void kvh_way_result_free(struct kvh_way_result *result)
{
	free(result->each.ns);
	memset(result, 0, sizeof(*result));
}

static uint64_t cpu_ns(clockid_t clock)
{
	struct timespec ts;

	(void)clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * KVH_NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* ---- the mover's -------------------------------------------------------- */

/* A move of ours, of chunks of one set. */
struct flight {
	struct kvh_mover_plan plan; /* the set's, with the way that is asked for */
	struct kvh_move move;
	struct kvh_move_part part;
	atomic_bool landed;
};

static void flight_landed(struct kvh_move *move)
{
	atomic_store_explicit(&((struct flight *)move->arg)->landed, true,
			      memory_order_release);
}

/* AUTO: the way that was decided when the set was made. */
static int flight_start(struct flight *f, struct kvh_pack_set *set, uint32_t first, uint32_t n,
			bool load, enum kvh_mover_way way)
{
	struct kvh_pack_rig *rig = set->rig;

	memset(f, 0, sizeof(*f));
	f->plan = set->mplan;
	if (way != KVH_MOVER_AUTO)
		f->plan.way[load] = way;
	f->part = (struct kvh_move_part){
		.plan = &f->plan,
		.n = n,
		.payloads = set->payloads + first,
		.pages = set->pages + (size_t)first * set->pages_per_chunk,
		.status = set->status + first,
	};
	f->move.parts = &f->part;
	f->move.n_parts = 1;
	f->move.done = flight_landed;
	f->move.arg = f;
	return load ? kvh_mover_load(rig->mover, &f->move, rig->stream, NULL)
		    : kvh_mover_store(rig->mover, &f->move, rig->stream, NULL);
}

static int flight_land(struct flight *f, struct kvh_pack_set *set, bool load)
{
	while (!atomic_load_explicit(&f->landed, memory_order_acquire))
		(void)sched_yield();
	if (load)
		kvh_mover_forget(set->rig->mover, &f->move);
	return f->move.status;
}

/* ---- others' ------------------------------------------------------------ */

/* One sample of a way: enqueued by `start`, ended when the stream is. */
struct trip {
	struct kvh_pack_set *set;
	bool load;
	uint32_t n;              /* chunks */
	struct kvh_copy *copies; /* of each fragment */
	size_t n_copies;
	unsigned char *flat;
	struct flight flight;
};

static enum kvh_copy_kind kind_of(const struct trip *t)
{
	return t->load ? KVH_COPY_H2D : KVH_COPY_D2H;
}

static int start_copies(struct trip *t)
{
	struct kvh_pack_rig *rig = t->set->rig;
	int err = 0;

	for (size_t i = 0; i < t->n_copies && err == 0; i++)
		err = rig->dev->ops->copy(rig->dev, kind_of(t), &t->copies[i], rig->stream);
	return err;
}

static int start_batch(struct trip *t)
{
	struct kvh_pack_rig *rig = t->set->rig;

	return rig->dev->ops->copy_batch(rig->dev, kind_of(t), t->copies, t->n_copies,
					 rig->stream);
}

/* A page of all planes: rows of a fragment, a plane apart on one side, and the
 * plane's pages apart in the payload. */
static int start_2d(struct trip *t)
{
	const struct kvh_pack_set *set = t->set;
	struct kvh_pack_rig *rig = set->rig;
	uint64_t pitch = set->fragment * set->pages_per_chunk;
	int err = 0;

	for (uint32_t i = 0; i < t->n * set->pages_per_chunk && err == 0; i++) {
		unsigned char *page = rig->pool + set->pages[i] * set->fragment;
		unsigned char *row = (unsigned char *)set->payloads[i / set->pages_per_chunk] +
				     i % set->pages_per_chunk * set->fragment;

		err = rig->dev->ops->copy_2d(rig->dev, kind_of(t), t->load ? page : row,
					     t->load ? set->plane_bytes : pitch,
					     t->load ? row : page,
					     t->load ? pitch : set->plane_bytes, set->fragment,
					     set->n_planes, rig->stream);
	}
	return err;
}

static int start_zero_copy(struct trip *t)
{
	const struct kvh_pack_set *set = t->set;
	struct kvh_pack_rig *rig = set->rig;
	struct kvh_pack pack = {
		.plan = set->mplan.dev_plan,
		.pages = set->dev_pages,
		.stage = t->flat,
		.plane_end = set->n_planes,
		.n_units = (uint64_t)t->n * set->pages_per_chunk * set->n_planes,
	};

	kvh_pack_prepare(&pack, set->plan);
	return t->load ? rig->dev->ops->scatter(rig->dev, &pack, rig->stream)
		       : rig->dev->ops->gather(rig->dev, &pack, rig->stream);
}

static int start_kvhoist(struct trip *t)
{
	return flight_start(&t->flight, t->set, 0, t->n, t->load, KVH_MOVER_AUTO);
}

static int start_staged(struct trip *t)
{
	return flight_start(&t->flight, t->set, 0, t->n, t->load, KVH_MOVER_STAGED);
}

static int start_direct(struct trip *t)
{
	return flight_start(&t->flight, t->set, 0, t->n, t->load, KVH_MOVER_DIRECT);
}

static int (*const starts[KVH_WAYS])(struct trip *t) = {
	[KVH_WAY_COPIES] = start_copies,   [KVH_WAY_BATCH] = start_batch,
	[KVH_WAY_COPY_2D] = start_2d,      [KVH_WAY_ZERO_COPY] = start_zero_copy,
	[KVH_WAY_KVHOIST] = start_kvhoist, [KVH_WAY_STAGED] = start_staged,
	[KVH_WAY_DIRECT] = start_direct,
};

/* ---- a way -------------------------------------------------------------- */

static uint32_t chunks_of(enum kvh_way way, const struct kvh_pack_set *set)
{
	uint32_t fragments = set->pages_per_chunk * set->n_planes;
	uint32_t most = way == KVH_WAY_COPIES  ? COPIES_MAX / fragments
			: way == KVH_WAY_BATCH ? BATCH_MAX / fragments
					       : set->n_chunks;

	if (most > set->n_chunks)
		most = set->n_chunks;
	return most > 0 ? most : 1;
}

static int trip_copies(struct trip *t)
{
	const struct kvh_pack_set *set = t->set;
	size_t i = 0;

	t->n_copies = (size_t)t->n * set->pages_per_chunk * set->n_planes;
	t->copies = calloc(t->n_copies, sizeof(t->copies[0]));
	if (t->copies == NULL)
		return -ENOMEM;
	for (uint32_t c = 0; c < t->n; c++) {
		const uint32_t *pages = set->pages + (size_t)c * set->pages_per_chunk;
		unsigned char *at = set->payloads[c];

		for (uint32_t plane = 0; plane < set->n_planes; plane++) {
			for (uint32_t p = 0; p < set->pages_per_chunk; p++, i++) {
				unsigned char *page = set->rig->pool +
						      plane * set->plane_bytes +
						      pages[p] * set->fragment;

				t->copies[i] = (struct kvh_copy){
					.dst = t->load ? page : at,
					.src = t->load ? at : page,
					.bytes = set->fragment,
				};
				at += set->fragment;
			}
		}
	}
	return 0;
}

static int trip_prepare(struct trip *t, enum kvh_way way)
{
	struct kvh_pack_rig *rig = t->set->rig;
	void *mem;
	int err;

	if (way == KVH_WAY_COPY_2D && t->set->n_planes < 2)
		return -EOPNOTSUPP; /* there is no stride */
	if (way == KVH_WAY_DIRECT && !t->set->mplan.direct)
		return -EOPNOTSUPP;
	if (way == KVH_WAY_COPIES || way == KVH_WAY_BATCH)
		return trip_copies(t);
	if (way != KVH_WAY_ZERO_COPY)
		return 0;
	err = rig->dev->ops->host_alloc(rig->dev, t->n * t->set->payload_bytes, &mem);
	if (err == 0)
		t->flat = mem;
	return err;
}

/* A store's submitter is the mover's thread, too; a load is submitted by its call. What
 * that thread takes is asked for outside of what is timed. */
static int sample(struct trip *t, enum kvh_way way, struct kvh_way_result *result)
{
	bool movers = way >= KVH_WAY_KVHOIST && !t->load;
	uint64_t mover = movers ? kvh_cpu_of_threads_ns(KVH_MOVER_THREADS) : 0;
	uint64_t process = cpu_ns(CLOCK_PROCESS_CPUTIME_ID), others;
	uint64_t thread = cpu_ns(CLOCK_THREAD_CPUTIME_ID), submitted, begun = kvh_now_ns();
	int err = starts[way](t);

	submitted = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
	if (err != 0)
		return err;
	err = way >= KVH_WAY_KVHOIST ? flight_land(&t->flight, t->set, t->load)
				     : kvh_pack_rig_wait(t->set->rig);
	if (err != 0)
		return err;
	if (!kvh_samples_add(&result->each, kvh_now_ns() - begun))
		return -ENOMEM;
	result->submit_ns += submitted - thread;
	thread = cpu_ns(CLOCK_THREAD_CPUTIME_ID) - thread;
	process = cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - process;
	others = process > thread ? process - thread : 0;
	if (movers)
		mover = kvh_cpu_of_threads_ns(KVH_MOVER_THREADS) - mover;
	if (mover > others) /* the two clocks are not read at once */
		mover = others;
	result->submit_ns += mover;
	result->other_ns += others - mover;
	return 0;
}

void kvh_way_run(enum kvh_way way, struct kvh_pack_set *set, bool load, uint32_t n,
		 struct kvh_way_result *result)
{
	struct trip t = {.set = set, .load = load, .n = chunks_of(way, set)};
	struct kvh_way_result warm = {0};

	memset(result, 0, sizeof(*result));
	result->bytes = t.n * set->payload_bytes;
	result->error = trip_prepare(&t, way);
	if (result->error == 0) {
		if (load)
			kvh_pack_frames_next(set, t.flat, t.n);
		else
			kvh_pack_frames_spoil(set, t.flat, t.n);
		result->error = sample(&t, way, &warm); /* kernels load, memory is touched */
	}
	for (uint32_t i = 0; i < n && result->error == 0; i++)
		result->error = sample(&t, way, result);
	if (result->error == 0)
		result->right = load ? kvh_pack_pool_check(set)
				     : kvh_pack_frames_check(set, t.flat, t.n);
	kvh_way_result_free(&warm);
	free(t.copies);
	if (t.flat != NULL)
		set->rig->dev->ops->host_free(set->rig->dev, t.flat);
}

/* ---- the link ----------------------------------------------------------- */

/* One direction of the link, or both: a stream and a contiguous copy each. */
struct link_side {
	kvh_stream stream;
	struct kvh_copy copy;
	void *frame;
};

static void link_side_close(struct kvh_pack_rig *rig, struct link_side *side)
{
	if (side->frame != NULL)
		kvh_arena_free(rig->arena, side->frame);
	if (side->stream != NULL)
		rig->dev->ops->stream_destroy(rig->dev, side->stream);
}

/* `half`: of the pool, which a link in both directions uses a half each. */
static int link_side_open(struct kvh_pack_rig *rig, struct link_side *side, bool load,
			  uint32_t half, uint64_t bytes)
{
	unsigned char *page = rig->pool + half * (rig->pool_bytes / 2);
	int err = kvh_arena_alloc(rig->arena, bytes, 1, &side->frame);

	if (err != 1)
		return err < 0 ? err : -ENOSPC;
	memset(side->frame, 0, bytes);
	side->copy.dst = load ? (void *)page : side->frame;
	side->copy.src = load ? side->frame : (void *)page;
	side->copy.bytes = bytes;
	return rig->dev->ops->stream_create(rig->dev, 0, &side->stream);
}

static int link_sample(struct kvh_pack_rig *rig, struct link_side *sides, const bool *loads,
		       uint32_t n)
{
	const struct kvh_device_ops *ops = rig->dev->ops;
	int err = 0;

	for (uint32_t i = 0; i < n && err == 0; i++)
		err = ops->copy(rig->dev, loads[i] ? KVH_COPY_H2D : KVH_COPY_D2H,
				&sides[i].copy, sides[i].stream);
	for (uint32_t i = 0; i < n && err == 0; i++)
		err = ops->stream_wait(rig->dev, sides[i].stream);
	return err;
}

static double link_rate(struct kvh_pack_rig *rig, const bool *loads, uint32_t n_sides,
			uint64_t bytes, uint32_t n)
{
	struct link_side sides[2] = {{0}};
	struct kvh_samples each = {0};
	uint64_t median;
	int err = 0;

	if (bytes > rig->pool_bytes / 2)
		bytes = rig->pool_bytes / 2;
	bytes -= bytes % KVH_LINK_ALIGN;
	for (uint32_t i = 0; i < n_sides && err == 0; i++)
		err = link_side_open(rig, &sides[i], loads[i], i, bytes);
	for (uint32_t i = 0; i <= n && err == 0; i++) {
		uint64_t begun = kvh_now_ns();

		err = link_sample(rig, sides, loads, n_sides);
		if (i > 0 && !kvh_samples_add(&each, kvh_now_ns() - begun)) /* 0: warms up */
			err = -ENOMEM;
	}
	for (uint32_t i = 0; i < n_sides; i++)
		link_side_close(rig, &sides[i]);
	median = kvh_samples_percentile(&each, 50);
	free(each.ns);
	if (err != 0)
		kvh_bench_complain("the link could not be measured: %s", strerror(-err));
	return err != 0 || median == 0 ? 0 : (double)(n_sides * bytes) / (double)median;
}

double kvh_way_link(struct kvh_pack_rig *rig, bool load, uint64_t bytes, uint32_t n)
{
	return link_rate(rig, &load, 1, bytes, n);
}

double kvh_way_link_both(struct kvh_pack_rig *rig, uint64_t bytes, uint32_t n)
{
	static const bool loads[] = {false, true};

	return link_rate(rig, loads, 2, bytes, n);
}

/* ---- both --------------------------------------------------------------- */

/* So that every page holds what its frame does. */
static int load_all(struct kvh_pack_set *set)
{
	struct flight f;
	int err;

	kvh_pack_frames_next(set, NULL, set->n_chunks);
	err = flight_start(&f, set, 0, set->n_chunks, true, KVH_MOVER_AUTO);
	return err != 0 ? err : flight_land(&f, set, true);
}

/* The store first: the mover's thread feeds it, while the load's call submits all of it. */
static int both_sample(struct kvh_pack_set *set, uint32_t half)
{
	struct flight out, in;
	int err = flight_start(&out, set, 0, half, false, KVH_MOVER_AUTO), rc;

	if (err != 0)
		return err;
	err = flight_start(&in, set, half, set->n_chunks - half, true, KVH_MOVER_AUTO);
	if (err == 0)
		err = flight_land(&in, set, true);
	rc = flight_land(&out, set, false); /* whatever became of the load */
	return err != 0 ? err : rc;
}

double kvh_way_both(struct kvh_pack_set *set, uint32_t n, bool *right_p)
{
	uint32_t half = set->n_chunks / 2;
	struct kvh_samples each = {0};
	uint64_t median;
	int err = half == 0 ? -ENOSPC : load_all(set);

	if (err == 0)
		kvh_pack_frames_spoil(set, NULL, half);
	for (uint32_t i = 0; i <= n && err == 0; i++) {
		uint64_t begun = kvh_now_ns();

		err = both_sample(set, half);
		if (i > 0 && !kvh_samples_add(&each, kvh_now_ns() - begun))
			err = -ENOMEM;
	}
	median = kvh_samples_percentile(&each, 50);
	free(each.ns);
	*right_p = err == 0 && kvh_pack_frames_check(set, NULL, half) &&
		   kvh_pack_pool_check(set);
	return err != 0 || median == 0 ? 0 : (double)set->bytes / (double)median;
}
