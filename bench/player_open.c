/* SPDX-License-Identifier: Apache-2.0 */
/*
 * player_open.c - opens what requests need, and closes it in good order: the pool
 * is unregistered first, then the adapters may finish, then counters are read. One
 * thread.
 */
#include "bench/player_impl.h"

#include "bench/bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DRAIN_NS (UINT64_C(120) * 1000000000)

uint64_t kvh_player_now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

static bool open_slot(struct kvh_player *p, struct slot *slot)
{
	size_t n_chunks = kvh_trace_longest(p->opts.trace);
	size_t n = n_chunks * p->opts.geo->n_groups, n_pages = 0;

	for (uint32_t g = 0; g < p->opts.geo->n_groups; g++)
		n_pages += n_chunks * kvh_geometry_chunk_pages(p->opts.geo, g);
	slot->hashes = calloc(n_chunks + 1, sizeof(*slot->hashes));
	slot->leases = calloc(n + 1, sizeof(*slot->leases));
	slot->pages = calloc(n_pages + 1, sizeof(*slot->pages));
	slot->status = calloc(n + 1, sizeof(*slot->status));
	slot->wrong = calloc(n + 1, sizeof(*slot->wrong));
	slot->batch.chunks = calloc(n + 1, sizeof(*slot->batch.chunks));
	slot->batch.loads = calloc(n + 1, sizeof(*slot->batch.loads));
	slot->batch.stores = calloc(n + 1, sizeof(*slot->batch.stores));
	slot->batch.ids = calloc(n + 1, sizeof(*slot->batch.ids));
	slot->prefix = (struct kvh_prefix){
		.space = p->space,
		.hashes = slot->hashes,
		.n_ranks = 1,
		.n_groups = p->opts.geo->n_groups,
	};
	return slot->hashes != NULL && slot->leases != NULL && slot->pages != NULL &&
	       slot->status != NULL && slot->wrong != NULL && slot->batch.chunks != NULL &&
	       slot->batch.loads != NULL && slot->batch.stores != NULL &&
	       slot->batch.ids != NULL;
}

static void close_slot(struct slot *slot)
{
	free(slot->hashes);
	free(slot->leases);
	free(slot->pages);
	free(slot->status);
	free(slot->wrong);
	free(slot->batch.chunks);
	free(slot->batch.loads);
	free(slot->batch.stores);
	free(slot->batch.ids);
}

static int open_slots(struct kvh_player *p)
{
	p->slots = calloc(p->opts.n_slots, sizeof(*p->slots));
	if (p->slots == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < p->opts.n_slots; i++) {
		if (!open_slot(p, &p->slots[i]))
			return -ENOMEM;
	}
	return 0;
}

static int open_engine(struct kvh_player *p)
{
	struct kvh_space_desc desc;
	int err = kvh_engine_open(p->opts.engine, &p->engine);

	if (err != 0)
		return err;
	kvh_geometry_space(p->opts.geo, &desc);
	err = kvh_space_open(p->engine, &desc, &p->space);
	if (err == 0)
		err = kvh_queue_open(p->engine, p->opts.n_slots + 1, &p->queue);
	if (err == 0)
		err = kvh_runtime_register(p->opts.rt, p->engine, p->space, &p->pool);
	return err;
}

static void free_player(struct kvh_player *p)
{
	for (uint32_t i = 0; p->slots != NULL && i < p->opts.n_slots; i++)
		close_slot(&p->slots[i]);
	free(p->slots);
	free(p);
}

int kvh_player_open(const struct kvh_player_opts *opts, struct kvh_player **player_p)
{
	struct kvh_player *p = calloc(1, sizeof(*p));
	int err;

	if (p == NULL)
		return -ENOMEM;
	p->opts = *opts;
	err = open_engine(p);
	if (err == 0)
		err = open_slots(p);
	if (err != 0) {
		kvh_bench_complain("the engine cannot be opened: %s", strerror(-err));
		kvh_queue_close(p->queue);
		(void)kvh_engine_close(p->engine, 0);
		free_player(p);
		return err;
	}
	*player_p = p;
	return 0;
}

/* The pool's memory is the runtime's again. */
static int unregister(struct kvh_player *p)
{
	struct kvh_event event;
	kvh_job_t job;
	int n, err = kvh_pool_unregister(p->queue, p->pool, 0, &job);

	while (err == 0) {
		n = kvh_queue_wait(p->queue, &event, 1, UINT64_MAX);
		if (n == 1 && event.job == job && event.type == KVH_EVENT_DONE)
			return event.status;
		if (n < 0 && n != -EINTR)
			err = n;
	}
	return err;
}

/* The API has no event for "nothing waits for L2 any more"; asks now and then. */
static int drain(struct kvh_player *p)
{
	static const struct timespec pause = {.tv_nsec = 1000000};
	uint64_t until = kvh_player_now() + DRAIN_NS;

	while (kvh_bench_signal == 0) {
		struct kvh_status status = {.size = sizeof(status)};
		int err = kvh_status_get(p->engine, &status);

		if (err != 0 || status.store_waiting == 0)
			return err;
		if (kvh_player_now() > until)
			return -ETIMEDOUT;
		(void)nanosleep(&pause, NULL);
	}
	return 0;
}

static int settle(struct kvh_player *p)
{
	int err = unregister(p);

	if (err == 0)
		err = drain(p);
	kvh_result_engine(p->opts.result, p->engine);
	if (err == 0 && p->opts.result->engine.l1_leases != 0)
		err = -EIO;
	if (err != 0)
		kvh_bench_complain("at the end: %s; %ju leases, %ju frames wait for L2",
				   strerror(-err), (uintmax_t)p->opts.result->engine.l1_leases,
				   (uintmax_t)p->opts.result->engine.store_waiting);
	return err;
}

int kvh_player_close(struct kvh_player *p)
{
	int err = 0, rc;

	if (p == NULL)
		return 0;
	if (p->broken)
		kvh_result_engine(p->opts.result, p->engine);
	else
		err = settle(p);
	kvh_queue_close(p->queue);
	rc = kvh_engine_close(p->engine, 0);
	free_player(p);
	return err != 0 ? err : rc;
}
