/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.c - the thread that looks. What it found is in atomics, so that nobody
 * who asks waits for it. Limit: a look that hangs is told from a slow one after
 * half a second.
 */
#include "l2/watch.h"

#include "host/log.h"
#include "host/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define HANG_NS (500 * KVH_NS_PER_MS)

struct kvh_watch {
	struct kvh_watch_opts opts;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* of stop, and of ended */
	bool stop, ended;
	pthread_t thread;
	_Atomic(const char *) why; /* NULL: all is well */
	atomic_int error;
	atomic_uint_fast64_t since_ns; /* of the look that goes on; 0: none does */
};

static void found(struct kvh_watch *watch, int error, const char *why)
{
	const char *before = atomic_load(&watch->why);

	if (error == 0 && before != NULL)
		kvh_warn("%s: %s: is well again", watch->opts.adapter, watch->opts.path);
	if (error != 0 && before != why)
		kvh_err("%s: %s: %s: %s", watch->opts.adapter, watch->opts.path, why,
			strerror(-error));
	atomic_store(&watch->error, error);
	atomic_store(&watch->why, error != 0 ? why : NULL);
}

static void look(struct kvh_watch *watch)
{
	const char *why = "it is not well";
	int error;

	atomic_store(&watch->since_ns, kvh_now_ns());
	error = watch->opts.look(watch->opts.arg, &why);
	atomic_store(&watch->since_ns, 0);
	found(watch, error, why);
}

static void *watch_main(void *arg)
{
	struct kvh_watch *watch = arg;

	pthread_mutex_lock(&watch->lock);
	while (!watch->stop) {
		uint64_t next_ns;

		pthread_mutex_unlock(&watch->lock);
		look(watch);
		next_ns = kvh_deadline_ns(watch->opts.every_ms * KVH_NS_PER_MS);
		pthread_mutex_lock(&watch->lock);
		while (!watch->stop && kvh_now_ns() < next_ns)
			(void)kvh_cond_wait(&watch->changed, &watch->lock, next_ns);
	}
	watch->ended = true;
	pthread_cond_broadcast(&watch->changed);
	pthread_mutex_unlock(&watch->lock);
	return NULL;
}

int kvh_watch_open(const struct kvh_watch_opts *opts, struct kvh_watch **watch_p)
{
	struct kvh_watch *watch = calloc(1, sizeof(*watch));
	sigset_t all, old;
	int err;

	if (watch == NULL)
		return -ENOMEM;
	watch->opts = *opts;
	pthread_mutex_init(&watch->lock, NULL);
	kvh_cond_init(&watch->changed);
	/* Signals are for the process's own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&watch->thread, NULL, watch_main, watch);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err == 0) {
		*watch_p = watch;
		return 0;
	}
	kvh_err("%s: %s: no thread to look after it: %s", opts->adapter, opts->path,
		strerror(err));
	pthread_cond_destroy(&watch->changed);
	pthread_mutex_destroy(&watch->lock);
	free(watch);
	return -err;
}

int kvh_watch_close(struct kvh_watch *watch, uint64_t deadline_ns)
{
	bool ended;

	if (watch == NULL)
		return 0;
	pthread_mutex_lock(&watch->lock);
	watch->stop = true;
	pthread_cond_broadcast(&watch->changed);
	while (!watch->ended && kvh_now_ns() < deadline_ns)
		(void)kvh_cond_wait(&watch->changed, &watch->lock, deadline_ns);
	ended = watch->ended;
	pthread_mutex_unlock(&watch->lock);
	if (!ended)
		return -ETIMEDOUT;
	pthread_join(watch->thread, NULL);
	pthread_cond_destroy(&watch->changed);
	pthread_mutex_destroy(&watch->lock);
	free(watch);
	return 0;
}

int kvh_watch_get(const struct kvh_watch *watch, const char **why_p)
{
	uint64_t since_ns = atomic_load(&watch->since_ns);
	const char *why = atomic_load(&watch->why);
	int error = atomic_load(&watch->error);

	if (since_ns != 0 && kvh_now_ns() - since_ns > HANG_NS) {
		*why_p = "it does not answer";
		return -ETIMEDOUT;
	}
	if (error == 0 || why == NULL)
		return 0;
	*why_p = why;
	return error;
}
