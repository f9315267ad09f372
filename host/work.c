/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work.c - the worker pool: a list under a lock, and threads that take from it.
 * Work is long compared with the lock (a checksum of a frame: tens of
 * microseconds and more), so one lock is enough.
 */
#include "host/work.h"

#include "host/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct kvh_workers {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct kvh_work *head, **tail;
	bool closing;
	uint32_t n_threads;
	pthread_t threads[];
};

static struct kvh_work *take(struct kvh_workers *workers)
{
	struct kvh_work *work;

	pthread_mutex_lock(&workers->lock);
	while (workers->head == NULL && !workers->closing)
		pthread_cond_wait(&workers->wake, &workers->lock);
	work = workers->head;
	if (work != NULL) {
		workers->head = work->next;
		if (workers->head == NULL)
			workers->tail = &workers->head;
	}
	pthread_mutex_unlock(&workers->lock);
	return work;
}

static void *worker_main(void *arg)
{
	struct kvh_workers *workers = arg;
	struct kvh_work *work;

	while ((work = take(workers)) != NULL)
		work->run(work);
	return NULL;
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
		err = pthread_create(&workers->threads[workers->n_threads], NULL, worker_main,
				     workers);
		if (err != 0) {
			kvh_err("workers: thread %u of %u cannot be started: %s",
				workers->n_threads + 1, n_threads, strerror(err));
			kvh_workers_close(workers);
			return -err;
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
		pthread_join(workers->threads[i], NULL);
	pthread_cond_destroy(&workers->wake);
	pthread_mutex_destroy(&workers->lock);
	free(workers);
}

void kvh_workers_post(struct kvh_workers *workers, struct kvh_work *work)
{
	work->next = NULL;
	pthread_mutex_lock(&workers->lock);
	*workers->tail = work;
	workers->tail = &work->next;
	pthread_cond_signal(&workers->wake);
	pthread_mutex_unlock(&workers->lock);
}
