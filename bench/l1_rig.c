/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_rig.c - fills an L1, and runs one kind of work on it from several threads.
 * While it runs, a further thread sleeps: the C library skips the locks' atomic
 * operations while a process has only one, which no product has.
 */
#include "bench/l1_rig.h"

#include "bench/bench.h"
#include "cuda/device_host.h"
#include "host/clock.h"
#include "host/frame.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH_MAX   1024u
#define SAMPLES_MAX (1u << 20) /* times of batches that are kept, a thread */
#define KEYS_AHEAD  (1u << 21) /* drawn before the clock starts */
#define SPACE       UINT64_C(0x5EED)

const char *kvh_l1_work_name(enum kvh_l1_work work)
{
	switch (work) {
	case KVH_L1_WORK_LOOKUP: return "lookup";
	case KVH_L1_WORK_MISS: return "miss";
	case KVH_L1_WORK_CYCLE: return "cycle";
	case KVH_L1_WORKS: break;
	}
	return "?";
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 32) * UINT64_C(0xE9846AF9B1A615D);
	x = (x ^ x >> 32) * UINT64_C(0xE9846AF9B1A615D);
	return x ^ x >> 28;
}

/* The number's hash, as far from its neighbours' as a real one. */
static struct kvh_key key_of(uint64_t number)
{
	const uint64_t words[2] = {mix(number + 1), mix(~number)};
	struct kvh_key key = {.space = SPACE};

	memcpy(key.hash.bytes, words, sizeof(words));
	return key;
}

static uint64_t resident_bytes(void)
{
	unsigned long long size = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	if (file != NULL && fscanf(file, "%llu %llu", &size, &resident) != 2)
		resident = 0;
	if (file != NULL)
		(void)fclose(file);
	return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* ---- filling ------------------------------------------------------------ */

/* READY frames of the numbers from `from` on. How many there are. */
static uint32_t store_batch(struct kvh_l1 *l1, struct kvh_l1_reserve *items, uint64_t from,
			    uint32_t n)
{
	uint32_t made = 0;

	for (uint32_t i = 0; i < n; i++) {
		items[i].key = key_of(from + i);
		if (i > 0)
			items[i].parent = items[i - 1].key.hash;
		else
			memset(&items[i].parent, 0, sizeof(items[i].parent));
		items[i].payload_bytes = 0;
		items[i].flags = 0;
	}
	(void)kvh_l1_reserve(l1, items, n);
	for (uint32_t i = 0; i < n; i++)
		made += items[i].status == 0 && kvh_l1_publish(l1, items[i].frame, 0) == 0;
	return made;
}

static int fill(struct kvh_l1_rig *rig)
{
	struct kvh_l1_reserve items[BATCH_MAX];

	memset(items, 0, sizeof(items));
	for (uint64_t at = 0; at < rig->keys;) {
		uint32_t n = rig->keys - at < BATCH_MAX ? (uint32_t)(rig->keys - at)
							: BATCH_MAX;

		if (kvh_bench_signal != 0)
			return -EINTR;
		if (store_batch(rig->l1, items, at, n) != n)
			return -ENOMEM;
		at += n;
	}
	return 0;
}

int kvh_l1_rig_open(struct kvh_l1_rig *rig, uint64_t keys, const char *eviction)
{
	const uint64_t granule = UINT64_C(2) << 20, frame = kvh_frame_bytes(0);
	struct kvh_arena_opts arena = {.numa_node = -1, .addresses_only = true};
	struct kvh_l1_opts l1 = {.eviction = eviction};
	uint64_t before = resident_bytes();
	int err;

	*rig = (struct kvh_l1_rig){0};
	err = kvh_device_host_open(&rig->dev);
	if (err != 0)
		return err;
	arena.dev = rig->dev;
	arena.bytes = (keys * frame + granule - 1) / granule * granule;
	err = kvh_arena_open(&arena, &rig->arena);
	if (err == 0) {
		l1.arena = rig->arena;
		err = kvh_l1_open(&l1, &rig->l1);
	}
	rig->keys = arena.bytes / frame; /* full: what comes next evicts */
	if (err == 0)
		err = fill(rig);
	if (err != 0) {
		kvh_l1_rig_close(rig);
		return err;
	}
	rig->bytes_per_key = (double)(resident_bytes() - before) / (double)rig->keys;
	return 0;
}

void kvh_l1_rig_close(struct kvh_l1_rig *rig)
{
	if (rig->l1 != NULL)
		kvh_l1_close(rig->l1);
	if (rig->arena != NULL)
		kvh_arena_close(rig->arena, false);
	if (rig->dev != NULL)
		rig->dev->ops->close(rig->dev);
	*rig = (struct kvh_l1_rig){0};
}

/* ---- work --------------------------------------------------------------- */

struct worker {
	struct kvh_l1_rig *rig;
	enum kvh_l1_work work;
	uint32_t batch, number;
	const bool *stop; /* atomic */
	pthread_barrier_t *start;
	struct kvh_key *keys; /* KEYS_AHEAD, of lookups and misses */
	uint32_t *times;      /* of batches, ns */
	uint32_t n_times;
	uint64_t done;
	uint64_t ns;
	int err;
};

/* Lookups and misses look for keys in no order. */
static void draw_keys(struct worker *w)
{
	uint64_t from = w->work == KVH_L1_WORK_MISS ? UINT64_C(1) << 60 : 0;

	for (uint32_t i = 0; i < KEYS_AHEAD; i++)
		w->keys[i] = key_of(from + mix(i * 7919 + w->number) % w->rig->keys);
}

static int find_batch(struct worker *w, uint64_t round)
{
	uint32_t at = (uint32_t)(round * w->batch % (KEYS_AHEAD - BATCH_MAX));
	uint8_t found[BATCH_MAX], want = w->work == KVH_L1_WORK_LOOKUP;
	uint32_t right = 0;

	kvh_l1_find(w->rig->l1, w->keys + at, w->batch, found);
	for (uint32_t i = 0; i < w->batch; i++)
		right += found[i] == want;
	return right == w->batch ? 0 : -EIO;
}

/* What L1 said to the first item that it refused. */
static int refused(const char *what, const int32_t *status, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (status[i] != 0) {
			kvh_bench_complain("%s %u of %u: %s", what, i, n, strerror(-status[i]));
			break;
		}
	}
	return -EIO;
}

static int cycle_batch(struct worker *w, uint32_t client, struct kvh_l1_reserve *items,
		       uint64_t round)
{
	/* Numbers that nobody had before: rounds of this process, by thread. */
	static uint64_t used;
	uint64_t from = (UINT64_C(1) << 61) +
			__atomic_fetch_add(&used, w->batch, __ATOMIC_RELAXED);
	struct kvh_key keys[BATCH_MAX];
	kvh_lease_t leases[BATCH_MAX];
	int32_t status[BATCH_MAX];
	uint32_t made;

	(void)round;
	made = store_batch(w->rig->l1, items, from, w->batch);
	for (uint32_t i = 0; i < w->batch; i++) {
		keys[i] = items[i].key;
		status[i] = items[i].status;
	}
	if (made != w->batch)
		return refused("reserving", status, w->batch);
	if (kvh_l1_lease(w->rig->l1, client, keys, w->batch, leases, status) != w->batch)
		return refused("leasing", status, w->batch);
	for (uint32_t i = 0; i < w->batch; i++)
		if (kvh_l1_release(w->rig->l1, leases[i]) != 0)
			return -EIO;
	return 0;
}

static void work_rounds(struct worker *w, uint32_t client)
{
	struct kvh_l1_reserve items[BATCH_MAX];
	uint64_t begin, last;

	memset(items, 0, sizeof(items));
	(void)pthread_barrier_wait(w->start);
	begin = last = kvh_now_ns();
	for (uint64_t round = 0; w->err == 0 && !__atomic_load_n(w->stop, __ATOMIC_RELAXED);
	     round++) {
		uint64_t now;

		w->err = w->work == KVH_L1_WORK_CYCLE ? cycle_batch(w, client, items, round)
						      : find_batch(w, round);
		now = kvh_now_ns();
		w->times[w->n_times++ % SAMPLES_MAX] = (uint32_t)(now - last);
		last = now;
		w->done += w->batch;
	}
	w->ns = last - begin;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	uint32_t client = 0;

	if (w->work != KVH_L1_WORK_CYCLE)
		draw_keys(w);
	w->err = kvh_l1_client_open(w->rig->l1, &client);
	work_rounds(w, client);
	if (w->err != -EMFILE)
		kvh_l1_client_close(w->rig->l1, client);
	return NULL;
}

static int compare_times(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Of all threads' batches together. */
static int sum_up(struct worker *workers, uint32_t n, struct kvh_l1_rate *rate)
{
	uint32_t *times = malloc((size_t)n * SAMPLES_MAX * sizeof(*times));
	size_t n_times = 0;

	*rate = (struct kvh_l1_rate){0};
	if (times == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		const struct worker *w = &workers[i];
		uint32_t len = w->n_times < SAMPLES_MAX ? w->n_times : SAMPLES_MAX;

		memcpy(times + n_times, w->times, len * sizeof(*times));
		n_times += len;
		rate->per_s += w->ns > 0 ? (double)w->done * 1e9 / (double)w->ns : 0;
	}
	if (n_times > 0) {
		qsort(times, n_times, sizeof(*times), compare_times);
		rate->p50_ns = times[n_times / 2];
		rate->p99_ns = times[n_times - 1 - n_times / 100];
	}
	free(times);
	return 0;
}

static bool worker_make(struct worker *w)
{
	w->times = malloc(SAMPLES_MAX * sizeof(*w->times));
	if (w->work != KVH_L1_WORK_CYCLE)
		w->keys = malloc(KEYS_AHEAD * sizeof(*w->keys));
	return w->times != NULL && (w->keys != NULL || w->work == KVH_L1_WORK_CYCLE);
}

static int run_workers(struct worker *workers, uint32_t n, double seconds, bool *stop,
		       pthread_barrier_t *start)
{
	pthread_t threads[KVH_L1_THREADS_MAX];
	const struct timespec sleep = kvh_timespec((uint64_t)(seconds * 1e9));
	int err = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (pthread_create(&threads[i], NULL, worker_main, &workers[i]) != 0) {
			kvh_bench_complain("no thread %u", i);
			abort(); /* the others wait at the barrier for ever */
		}
	}
	(void)pthread_barrier_wait(start);
	(void)nanosleep(&sleep, NULL);
	__atomic_store_n(stop, true, __ATOMIC_RELAXED);
	for (uint32_t i = 0; i < n; i++) {
		(void)pthread_join(threads[i], NULL);
		err = err != 0 ? err : workers[i].err;
	}
	return err;
}

int kvh_l1_rig_run(struct kvh_l1_rig *rig, enum kvh_l1_work work, uint32_t batch,
		   uint32_t n_threads, double seconds, struct kvh_l1_rate *rate)
{
	struct worker *workers = calloc(n_threads, sizeof(*workers));
	pthread_barrier_t start;
	bool stop = false;
	int err = workers != NULL ? 0 : -ENOMEM;

	(void)pthread_barrier_init(&start, NULL, n_threads + 1);
	for (uint32_t i = 0; err == 0 && i < n_threads; i++) {
		workers[i] = (struct worker){.rig = rig,
					     .work = work,
					     .batch = batch,
					     .number = i,
					     .stop = &stop,
					     .start = &start};
		if (!worker_make(&workers[i]))
			err = -ENOMEM;
	}
	if (err == 0)
		err = run_workers(workers, n_threads, seconds, &stop, &start);
	if (err == 0)
		err = sum_up(workers, n_threads, rate);
	for (uint32_t i = 0; workers != NULL && i < n_threads; i++) {
		free(workers[i].times);
		free(workers[i].keys);
	}
	free(workers);
	(void)pthread_barrier_destroy(&start);
	return err;
}
