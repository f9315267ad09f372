/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work.c - the worker pool: a list under a lock, and threads that take from it.
 * Work is long compared with the lock (a checksum of a frame: tens of
 * microseconds and more), so one lock is enough.
 */
#include "host/work.h"

#include "host/histogram.h"
#include "host/pulse.h"
#include "host/thread.h"

#include <errno.h>
#include <stdlib.h>

struct worker {
	struct kvh_workers *pool;
	struct kvh_thread thread;
	struct kvh_pulse pulse;
};

struct kvh_workers {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct kvh_work *head, **tail;
	bool closing;
	uint32_t n_threads;
	struct kvh_histogram *runs; /* how long one takes, or NULL */
	uint64_t waiting_ns;        /* of every pulse: of the list, under the lock */
	struct worker threads[];
};

static enum kvh_round worker_round(void *arg, enum kvh_wake wake)
{
	struct worker *worker = arg;
	struct kvh_workers *workers = worker->pool;
	struct kvh_work *work;
	uint64_t now = 0;
	bool closing;

	pthread_mutex_lock(&workers->lock);
	while (workers->head == NULL && !workers->closing && wake == KVH_WAKE_WAIT)
		(void)kvh_cond_wait(&workers->wake, &workers->lock, UINT64_MAX);
	closing = workers->closing;
	work = workers->head;
	if (work != NULL) {
		workers->head = work->next;
		if (workers->head == NULL)
			workers->tail = &workers->head;
	}
	if (work != NULL) {
		now = kvh_now_ns();
		kvh_pulse_set(&worker->pulse.busy_ns, now);
		kvh_pulse_set(&workers->waiting_ns, workers->head != NULL ? now : 0);
	}
	pthread_mutex_unlock(&workers->lock);
	if (work == NULL)
		return closing ? KVH_ROUND_END : KVH_ROUND_ASLEEP;
	work->run(work);
	kvh_pulse_set(&worker->pulse.busy_ns, 0);
	if (workers->runs != NULL)
		kvh_histogram_add(workers->runs, kvh_now_ns() - now);
	return KVH_ROUND_DONE;
}

int kvh_workers_open(uint32_t n_threads, struct kvh_workers **workers_p)
{
	struct kvh_workers *workers;
	int err;

	workers = calloc(1, sizeof(*workers) + n_threads * sizeof(workers->threads[0]));
	if (workers == NULL)
		return -ENOMEM;
	pthread_mutex_init(&workers->lock, NULL);
	pthread_cond_init(&workers->wake, NULL);
	workers->tail = &workers->head;
	while (workers->n_threads < n_threads) {
		struct worker *worker = &workers->threads[workers->n_threads];

		worker->pool = workers;
		worker->thread = (struct kvh_thread){
			.name = "kvh-worker", .round = worker_round, .arg = worker};
		err = kvh_thread_start(&worker->thread);
		if (err != 0) {
			kvh_workers_close(workers);
			return err;
		}
		workers->n_threads++;
	}
	*workers_p = workers;
	return 0;
}

void kvh_workers_close(struct kvh_workers *workers)
{
	if (workers == NULL)
		return;
	pthread_mutex_lock(&workers->lock);
	workers->closing = true;
	pthread_cond_broadcast(&workers->wake);
	pthread_mutex_unlock(&workers->lock);
	for (uint32_t i = 0; i < workers->n_threads; i++)
		kvh_thread_join(&workers->threads[i].thread);
	pthread_cond_destroy(&workers->wake);
	pthread_mutex_destroy(&workers->lock);
	free(workers);
}

void kvh_workers_post(struct kvh_workers *workers, struct kvh_work *work)
{
	work->next = NULL;
	pthread_mutex_lock(&workers->lock);
	if (workers->head == NULL)
		kvh_pulse_set(&workers->waiting_ns, kvh_now_ns());
	*workers->tail = work;
	workers->tail = &work->next;
	pthread_cond_signal(&workers->wake);
	pthread_mutex_unlock(&workers->lock);
}

bool kvh_workers_pulse(const struct kvh_workers *workers, uint32_t index,
		       struct kvh_pulse *pulse)
{
	if (index >= workers->n_threads)
		return false;
	pulse->busy_ns = __atomic_load_n(&workers->threads[index].pulse.busy_ns,
					 __ATOMIC_RELAXED);
	pulse->waiting_ns = __atomic_load_n(&workers->waiting_ns, __ATOMIC_RELAXED);
	return true;
}

void kvh_workers_measure(struct kvh_workers *workers, struct kvh_histogram *runs)
{
	workers->runs = runs;
}
