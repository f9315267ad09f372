/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_rig.c - opens one adapter with the engine's own parts around it, and runs
 * them: host/loop.h, adapter.h, work.h and arena.h, or (raw) only a poll on the
 * adapter's event fd. The caller's thread opens, closes and waits.
 */
#include "bench/l2_rig_impl.h"

#include "bench/bench.h"
#include "host/clock.h"
#include "host/thread.h"
#include "l2/io.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define REQUEST_NS (120 * KVH_NS_PER_S)  /* a disk that is slow is measured, not failed */
#define LOOK_NS    (200 * KVH_NS_PER_MS) /* for a signal */
#define BATCH      64u
#define SLACK      (UINT64_C(16) << 20) /* granules that slabs leave over */

/* ---- driving ---- */

static uint64_t rig_tick(void *arg, uint64_t now_ns)
{
	struct kvh_rig *rig = arg;

	if (rig->adapter == NULL) /* being opened or closed */
		return UINT64_MAX;
	kvh_flow_pump(rig);
	return kvh_adapter_tick(rig->adapter, now_ns);
}

static void raw_submit(struct kvh_rig *rig, struct kvh_lane *lane)
{
	struct kvh_l2_req *req = &lane->task.req;
	uint32_t piece = req->buf != NULL ? kvh_arena_piece_of(rig->arena, req->buf)
					  : UINT32_MAX;
	int err;

	req->cancelled = false;
	req->region = piece != UINT32_MAX ? rig->regions[piece] : KVH_L2_NO_REGION;
	err = rig->ops->submit(rig->self, req);
	if (err == 0)
		return;
	req->status = err;
	kvh_flow_reaped(lane);
}

void kvh_rig_submit(struct kvh_rig *rig, struct kvh_lane *lane)
{
	if (rig->opts.raw)
		raw_submit(rig, lane);
	else
		kvh_adapter_submit(rig->adapter, &lane->task);
}

void kvh_rig_over(struct kvh_rig *rig)
{
	pthread_mutex_lock(&rig->lock);
	rig->done = true;
	pthread_cond_signal(&rig->over);
	pthread_mutex_unlock(&rig->lock);
}

static void raw_run(struct kvh_rig *rig)
{
	struct pollfd pfd = {.fd = rig->ops->event_fd(rig->self), .events = POLLIN};
	struct kvh_l2_req *done[BATCH];

	kvh_flow_begin(rig);
	for (;;) {
		uint32_t n;

		if (kvh_bench_signal != 0)
			__atomic_store_n(&rig->stop, true, __ATOMIC_RELAXED);
		kvh_flow_pump(rig);
		if (kvh_flow_over(rig))
			break;
		(void)poll(&pfd, 1, (int)(LOOK_NS / KVH_NS_PER_MS));
		n = rig->ops->reap(rig->self, done, BATCH);
		for (uint32_t i = 0; i < n; i++)
			kvh_flow_reaped(done[i]->owner);
	}
}

struct start {
	struct kvh_loop_work work;
	struct kvh_rig *rig;
	struct kvh_flow flow;
};

static void start_run(struct kvh_loop_work *work)
{
	struct start *start = (struct start *)work;

	start->rig->flow = start->flow;
	kvh_flow_begin(start->rig);
}

static void loop_run(struct kvh_rig *rig, struct start *start)
{
	kvh_loop_post(rig->loop, &start->work);
	pthread_mutex_lock(&rig->lock);
	while (!rig->done) {
		(void)kvh_cond_wait(&rig->over, &rig->lock, kvh_deadline_ns(LOOK_NS));
		if (kvh_bench_signal != 0)
			__atomic_store_n(&rig->stop, true, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&rig->lock);
}

static int flow_run(struct kvh_rig *rig, const struct kvh_flow *flow)
{
	struct start start = {.work = {.run = start_run}, .rig = rig, .flow = *flow};

	if (flow->n == 0)
		return 0;
	rig->done = false;
	if (rig->opts.raw) {
		rig->flow = *flow;
		raw_run(rig);
	} else {
		loop_run(rig, &start);
	}
	return kvh_bench_signal != 0 ? -EINTR : 0;
}

int kvh_rig_run(struct kvh_rig *rig, enum kvh_l2_mode mode, uint64_t n,
		struct kvh_rig_result *result)
{
	struct kvh_flow flow = {.mode = mode, .n = n, .result = result};

	if (mode != KVH_L2_STORE && rig->n_living == 0)
		return -ENOENT;
	return flow_run(rig, &flow);
}

int kvh_rig_find(struct kvh_rig *rig)
{
	struct kvh_rig_result result = {0};
	/* Frames are still sealed ahead for a store to come. */
	const uint64_t n = __atomic_load_n(&rig->next_put, __ATOMIC_RELAXED);
	struct kvh_flow flow = {
		.mode = KVH_L2_PROBES, .finding = true, .n = n, .result = &result};
	int err;

	rig->n_living = rig->next_living = rig->find_next = 0;
	if (rig->living_room < n) {
		uint64_t *more = reallocarray(rig->living, n, sizeof(*more));

		if (more == NULL)
			return -ENOMEM;
		rig->living = more;
		rig->living_room = n;
	}
	err = flow_run(rig, &flow);
	free(result.latency.ns);
	return err;
}

uint64_t kvh_rig_living(const struct kvh_rig *rig)
{
	return rig->n_living;
}

static void usage_of(const struct kvh_rig *rig, struct kvh_l2_usage *usage)
{
	struct kvh_adapter_counters *n;

	if (rig->opts.raw) {
		rig->ops->usage(rig->self, usage);
		return;
	}
	n = kvh_adapter_counters(rig->adapter);
	*usage = (struct kvh_l2_usage){
		.capacity_bytes = kvh_counted(&n->capacity_bytes),
		.objects = kvh_counted(&n->objects),
	};
}

uint64_t kvh_rig_room(const struct kvh_rig *rig, uint64_t fallback_bytes)
{
	struct kvh_l2_usage usage = {0};

	usage_of(rig, &usage);
	if (usage.capacity_bytes == 0)
		usage.capacity_bytes = fallback_bytes;
	return usage.capacity_bytes / rig->opts.frame_bytes;
}

uint64_t kvh_rig_objects(const struct kvh_rig *rig)
{
	struct kvh_l2_usage usage = {0};

	usage_of(rig, &usage);
	return usage.objects;
}

/* ---- open and close ---- */

static int lanes_alloc(struct kvh_rig *rig, struct kvh_lanes *lanes, uint32_t n)
{
	void **frames = calloc(n, sizeof(*frames));
	int err = -ENOMEM;

	lanes->lanes = calloc(n, sizeof(*lanes->lanes));
	if (frames != NULL && lanes->lanes != NULL &&
	    kvh_arena_alloc(rig->arena, rig->opts.frame_bytes, n, frames) == (int)n) {
		for (uint32_t i = 0; i < n; i++)
			lanes->lanes[i].frame = frames[i];
		lanes->n = n;
		err = 0;
	}
	free(frames);
	return err;
}

static int memory_open(struct kvh_rig *rig)
{
	uint32_t n = 2 * rig->opts.depth; /* as many ahead, or being checked */
	struct kvh_arena_opts arena = {
		.bytes = 2 * n * rig->opts.frame_bytes + SLACK,
		.numa_node = -1,
	};
	int err = kvh_device_open("host", &rig->dev);

	if (err != 0)
		return err;
	arena.dev = rig->dev;
	err = kvh_arena_open(&arena, &rig->arena);
	if (err == 0)
		err = lanes_alloc(rig, &rig->puts, n);
	if (err == 0)
		err = lanes_alloc(rig, &rig->gets, n);
	if (err == 0)
		kvh_flow_init(rig);
	else if (rig->arena != NULL)
		kvh_bench_complain("no memory for %u frames of %llu bytes", 2 * n,
				   (unsigned long long)rig->opts.frame_bytes);
	return err;
}

static int raw_attach(struct kvh_rig *rig)
{
	const struct kvh_arena_piece *pieces;
	uint32_t n = kvh_arena_pieces(rig->arena, &pieces);

	rig->regions = calloc(n, sizeof(*rig->regions));
	if (rig->regions == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		int region = rig->ops->attach == NULL
				     ? -EOPNOTSUPP
				     : rig->ops->attach(rig->self, pieces[i].base,
							pieces[i].bytes);

		rig->regions[i] = region < 0 ? KVH_L2_NO_REGION : (uint32_t)region;
	}
	return 0;
}

static int raw_open(struct kvh_rig *rig)
{
	const char *conf;
	int err = kvh_l2_find(rig->opts.spec, &rig->ops, &conf);

	if (err == 0)
		err = rig->ops->open(conf, &rig->env, &rig->self);
	return err == 0 ? raw_attach(rig) : err;
}

static int engine_open(struct kvh_rig *rig)
{
	struct kvh_adapter_opts opts = {
		.spec = rig->opts.spec,
		.env = &rig->env,
		.arena = rig->arena,
		.metrics = &rig->metrics,
		.deadline_ns = REQUEST_NS,
	};
	int err = kvh_loop_open(rig_tick, rig, &rig->loop);

	if (err == 0)
		err = kvh_workers_open(rig->opts.workers, &rig->workers);
	if (err == 0)
		err = kvh_adapter_open(&opts, &rig->adapter);
	if (err == 0)
		err = kvh_adapter_watch(rig->adapter, rig->loop);
	return err == 0 ? kvh_loop_start(rig->loop) : err;
}

static int adapter_close(struct kvh_rig *rig)
{
	int err = 0;

	if (rig->loop != NULL)
		kvh_loop_stop(rig->loop);
	kvh_workers_close(rig->workers);
	if (rig->loop != NULL)
		kvh_loop_stop(rig->loop); /* runs what the workers posted */
	if (rig->adapter != NULL) {
		kvh_adapter_drop_waiting(rig->adapter);
		err = kvh_adapter_close(rig->adapter, KVH_L2_DEADLINE_NO);
	}
	if (rig->self != NULL)
		err = rig->ops->close(rig->self, KVH_L2_DEADLINE_NO);
	kvh_loop_close(rig->loop);
	return err;
}

static void lanes_free(struct kvh_rig *rig, struct kvh_lanes *lanes)
{
	for (uint32_t i = 0; i < lanes->n; i++)
		kvh_arena_free(rig->arena, lanes->lanes[i].frame);
	free(lanes->lanes);
}

int kvh_rig_close(struct kvh_rig *rig)
{
	int err = adapter_close(rig);

	if (rig->arena != NULL) {
		lanes_free(rig, &rig->puts);
		lanes_free(rig, &rig->gets);
		kvh_arena_close(rig->arena, false);
	}
	if (rig->dev != NULL)
		rig->dev->ops->close(rig->dev);
	pthread_cond_destroy(&rig->over);
	pthread_mutex_destroy(&rig->lock);
	free(rig->regions);
	free(rig->living);
	free(rig);
	return err;
}

int kvh_rig_open(const struct kvh_rig_opts *opts, struct kvh_rig **rig_p)
{
	struct kvh_rig *rig = calloc(1, sizeof(*rig));
	int err;

	if (rig == NULL)
		return -ENOMEM;
	assert(opts->frame_bytes >= 8192 && opts->frame_bytes % 4096 == 0);
	rig->opts = *opts;
	rig->env = (struct kvh_l2_env){.io = &kvh_io_system};
	pthread_mutex_init(&rig->lock, NULL);
	kvh_cond_init(&rig->over);
	err = memory_open(rig);
	if (err == 0)
		err = opts->raw ? raw_open(rig) : engine_open(rig);
	if (err != 0) {
		(void)kvh_rig_close(rig);
		return err;
	}
	*rig_p = rig;
	return 0;
}
