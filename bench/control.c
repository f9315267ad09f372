/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.c - measures the store controller. Each storing thread reserves frames
 * for a batch of new keys in L1, fills their headers as a store does, publishes
 * them, and goes on while no more than WINDOW of its chunks are on their way; L1
 * evicts what is oldest once it is full. What is measured is the whole of that, by
 * the wall, and the controller's thread by its own processor clock.
 */
#include "bench/control.h"

#include "bench/bench.h"
#include "cuda/device.h"
#include "host/adapter.h"
#include "host/clock.h"
#include "host/controller.h"
#include "host/frame.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define BATCH        64u /* chunks of one call, as of one store */
#define CREDITS      16u /* batches on their way, a thread */
#define WINDOW       (BATCH * CREDITS)
#define SAMPLE_EVERY 16u /* batches of which one chunk is timed */
#define SAMPLES_MAX  (1u << 20)

struct rig {
	const struct kvh_control_opts *opts;
	struct kvh_device *dev;
	struct kvh_arena *arena;
	struct kvh_l1 *l1;
	struct kvh_metrics metrics;
	struct kvh_controller *controller;
	uint64_t until_ns;
	bool failed; /* atomic */
};

/* Its owner's, but for done, waiting and times: the controller's thread. */
struct storer {
	struct kvh_persist persist; /* first: settled gets it */
	struct rig *rig;
	pthread_t thread;
	uint32_t number;
	uint64_t published, settled; /* settled: atomic */
	sem_t credits;               /* batches that may be begun */
	uint64_t start_ns[WINDOW];   /* by place; 0: is not timed */
	uint64_t *times;             /* [SAMPLES_MAX] */
	uint64_t n_times;
};

static void settled(struct kvh_persist *persist, uint32_t index,
		    const struct kvh_store_outcome *outcome)
{
	struct storer *s = (struct storer *)persist;
	uint64_t start = s->start_ns[index];
	uint64_t n = s->settled + 1;

	(void)outcome;
	if (start != 0 && s->n_times < SAMPLES_MAX)
		s->times[s->n_times++] = kvh_now_ns() - start;
	__atomic_store_n(&s->settled, n, __ATOMIC_RELEASE);
	if (n % BATCH == 0)
		(void)sem_post(&s->credits);
}

static void make_key(const struct storer *s, uint64_t n, struct kvh_key *key)
{
	/* Hashes of a real runtime are spread; so are these. */
	uint64_t a = (n + 1) * UINT64_C(0x9E3779B97F4A7C15) ^ (uint64_t)s->number << 56;
	uint64_t b = a * UINT64_C(0xC2B2AE3D27D4EB4F) ^ a >> 31;

	memcpy(key->hash.bytes, &a, 8);
	memcpy(key->hash.bytes + 8, &b, 8);
	key->space = 1 + n / BATCH % s->rig->opts->spaces;
	key->rank = 0;
	key->group = 0;
}

/* False: it was not all done. */
static bool store_batch(struct storer *s)
{
	static const uint8_t digest[32];
	static const struct kvh_hash parent;
	struct rig *rig = s->rig;
	struct kvh_l1_reserve items[BATCH] = {0};
	struct kvh_published published[BATCH];
	int32_t status[BATCH];
	bool timed = s->published / BATCH % SAMPLE_EVERY == 0;

	for (uint32_t i = 0; i < BATCH; i++) {
		make_key(s, s->published + i, &items[i].key);
		items[i].payload_bytes = rig->opts->payload_bytes;
	}
	if (kvh_l1_reserve(rig->l1, items, BATCH) != BATCH)
		return false;
	for (uint32_t i = 0; i < BATCH; i++) {
		uint32_t place = (uint32_t)((s->published + i) % WINDOW);

		kvh_frame_fill(kvh_l1_data(rig->l1, items[i].frame), &items[i].key, digest,
			       &parent, s->published + i + 1, rig->opts->payload_bytes);
		published[i] = (struct kvh_published){
			.frame = items[i].frame, .persist = &s->persist, .index = place};
		s->start_ns[place] = timed && i == 0 ? kvh_now_ns() : 0;
	}
	s->published += BATCH;
	return kvh_controller_publish_many(rig->controller, published, BATCH, status) == BATCH;
}

static void *storer_main(void *arg)
{
	struct storer *s = arg;
	struct rig *rig = s->rig;

	while (kvh_now_ns() < rig->until_ns && kvh_bench_signal == 0) {
		while (sem_wait(&s->credits) != 0)
			;
		if (store_batch(s))
			continue;
		__atomic_store_n(&rig->failed, true, __ATOMIC_RELAXED);
		break;
	}
	return NULL;
}

/* ---- processor time ------------------------------------------------------ */

static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * KVH_NS_PER_S + (uint64_t)ts.tv_nsec;
}

static uint64_t process_cpu_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * KVH_NS_PER_S + (uint64_t)ts.tv_nsec;
}

struct ask {
	struct kvh_loop_work work;
	sem_t answered;
	uint64_t cpu_ns;
};

static void answer(struct kvh_loop_work *work)
{
	struct ask *ask = (struct ask *)work;

	ask->cpu_ns = thread_cpu_ns();
	(void)sem_post(&ask->answered);
}

static uint64_t controller_cpu_ns(struct rig *rig)
{
	struct ask ask = {.work = {.run = answer}};

	(void)sem_init(&ask.answered, 0, 0);
	kvh_controller_post(rig->controller, &ask.work);
	while (sem_wait(&ask.answered) != 0)
		;
	(void)sem_destroy(&ask.answered);
	return ask.cpu_ns;
}

/* ---- the rig --------------------------------------------------------------- */

static int rig_open(struct rig *rig)
{
	const struct kvh_control_opts *o = rig->opts;
	struct kvh_arena_opts arena = {.bytes = o->l1_bytes, .numa_node = -1};
	struct kvh_controller_opts opts = {
		.metrics = &rig->metrics,
		.l2 = &o->l2,
		.n_l2 = 1,
		.workers = 2,
		.deadline_ns = 30 * KVH_NS_PER_S,
		.breaker = 8,
		.queue_bytes = o->l1_bytes / 2,
		.high_bytes = UINT64_MAX,
		.low_bytes = UINT64_MAX,
	};
	struct kvh_l1_opts l1 = {0};
	int err = kvh_policy_find(o->policy, &opts.policy);

	if (err == 0)
		err = kvh_device_open("host", &rig->dev);
	if (err != 0)
		return err;
	arena.dev = rig->dev;
	err = kvh_arena_open(&arena, &rig->arena);
	if (err != 0)
		return err;
	l1.arena = opts.arena = rig->arena;
	err = kvh_l1_open(&l1, &rig->l1);
	if (err != 0)
		return err;
	opts.l1 = rig->l1;
	return kvh_controller_open(&opts, &rig->controller);
}

static int rig_close(struct rig *rig)
{
	int err = 0;

	if (rig->controller != NULL)
		err = kvh_controller_close(rig->controller, UINT64_MAX);
	if (rig->l1 != NULL)
		kvh_l1_close(rig->l1);
	if (rig->arena != NULL)
		kvh_arena_close(rig->arena, false);
	if (rig->dev != NULL)
		rig->dev->ops->close(rig->dev);
	return err;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Percentiles of all storers' times; they are the first one's afterwards. */
static int percentiles(struct storer *storers, uint32_t n, struct kvh_control_result *result)
{
	uint64_t *all, total = 0;

	for (uint32_t i = 0; i < n; i++)
		total += storers[i].n_times;
	all = calloc(total > 0 ? total : 1, sizeof(all[0]));
	if (all == NULL)
		return -ENOMEM;
	result->samples = total;
	for (uint32_t i = 0, at = 0; i < n; i++) {
		memcpy(all + at, storers[i].times, storers[i].n_times * sizeof(all[0]));
		at += (uint32_t)storers[i].n_times;
	}
	qsort(all, total, sizeof(all[0]), compare);
	if (total > 0) {
		result->p50_ns = all[total / 2];
		result->p99_ns = all[total * 99 / 100];
	}
	free(all);
	return 0;
}

/* ---- the run --------------------------------------------------------------- */

static int storers_run(struct rig *rig, struct storer *storers,
		       struct kvh_control_result *result)
{
	uint32_t n = rig->opts->threads, started = 0;
	uint64_t start_ns, cpu_ns, controller_ns;
	int err = 0;

	controller_ns = controller_cpu_ns(rig);
	cpu_ns = process_cpu_ns();
	start_ns = kvh_now_ns();
	rig->until_ns = start_ns + rig->opts->time_ns;
	for (; started < n && err == 0; started++)
		err = -pthread_create(&storers[started].thread, NULL, storer_main,
				      &storers[started]);
	started -= err != 0;
	for (uint32_t i = 0; i < started; i++)
		(void)pthread_join(storers[i].thread, NULL);
	if (!kvh_controller_drain_wait(rig->controller, UINT64_MAX))
		err = -ENOMEM;
	result->wall_ns = kvh_now_ns() - start_ns;
	result->process_cpu_ns = process_cpu_ns() - cpu_ns;
	result->controller_cpu_ns = controller_cpu_ns(rig) - controller_ns;
	for (uint32_t i = 0; i < n; i++) {
		result->cycles += storers[i].published;
		if (storers[i].published !=
		    __atomic_load_n(&storers[i].settled, __ATOMIC_ACQUIRE))
			err = -EBADMSG; /* one was lost */
	}
	result->stored = kvh_counted(
		&kvh_adapter_counters(kvh_controller_adapter(rig->controller, 0))->puts);
	return rig->failed ? -ENOMEM : err;
}

int kvh_control_run(const struct kvh_control_opts *opts, struct kvh_control_result *result)
{
	struct rig rig = {.opts = opts};
	struct storer *storers = calloc(opts->threads, sizeof(storers[0]));
	int err = storers == NULL ? -ENOMEM : rig_open(&rig), rc;

	memset(result, 0, sizeof(*result));
	for (uint32_t i = 0; i < opts->threads && err == 0; i++) {
		storers[i].persist.settled = settled;
		storers[i].rig = &rig;
		storers[i].number = i;
		(void)sem_init(&storers[i].credits, 0, CREDITS);
		storers[i].times = calloc(SAMPLES_MAX, sizeof(uint64_t));
		if (storers[i].times == NULL)
			err = -ENOMEM;
	}
	if (err == 0)
		err = storers_run(&rig, storers, result);
	if (err == 0)
		err = percentiles(storers, opts->threads, result);
	rc = rig_close(&rig);
	for (uint32_t i = 0; storers != NULL && i < opts->threads; i++)
		free(storers[i].times);
	free(storers);
	if (err == 0 && kvh_bench_signal != 0)
		err = -EINTR;
	return err != 0 ? err : rc;
}
