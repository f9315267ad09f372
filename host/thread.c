/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread.c - threads and waits: the system's, or a simulation's.
 */
#include "host/thread.h"

#include "host/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>

static void *thread_main(void *arg)
{
	struct kvh_thread *thread = arg;

	while (thread->round(thread->arg, KVH_WAKE_WAIT) != KVH_ROUND_END) {}
	return NULL;
}

int kvh_thread_start(struct kvh_thread *thread)
{
	sigset_t all, old;
	int err;

	thread->alarm_ns = UINT64_MAX;
	thread->ended = false;
	if (kvh_simulated()) {
		err = -kvh_sim->start(kvh_sim, thread);
	} else {
		(void)sigfillset(&all);
		(void)pthread_sigmask(SIG_SETMASK, &all, &old);
		err = pthread_create(&thread->id, NULL, thread_main, thread);
		(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
		if (err == 0)
			(void)pthread_setname_np(thread->id, thread->name);
	}
	if (err != 0)
		kvh_err("thread %s cannot be started: %s", thread->name, strerror(err));
	return -err;
}

void kvh_thread_join(struct kvh_thread *thread)
{
	if (!kvh_simulated()) {
		(void)pthread_join(thread->id, NULL);
		return;
	}
	while (!thread->ended)
		kvh_sim->step(kvh_sim, UINT64_MAX);
}

void kvh_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(cond, &attr);
	(void)pthread_condattr_destroy(&attr);
}

int kvh_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns)
{
	struct timespec ts;

	if (kvh_simulated()) {
		pthread_mutex_unlock(lock);
		kvh_sim->step(kvh_sim, deadline_ns);
		pthread_mutex_lock(lock);
		return kvh_now_ns() >= deadline_ns ? ETIMEDOUT : 0;
	}
	if (deadline_ns == UINT64_MAX)
		return pthread_cond_wait(cond, lock);
	ts = kvh_timespec(deadline_ns);
	return pthread_cond_timedwait(cond, lock, &ts);
}

int kvh_fd_wait(int fd, uint64_t deadline_ns)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	bool simulated = kvh_simulated(), forever = deadline_ns == UINT64_MAX && !simulated;
	struct timespec ts;
	uint64_t now;
	int n;

	for (;;) {
		now = kvh_now_ns();
		ts = kvh_timespec(now < deadline_ns && !simulated ? deadline_ns - now : 0);
		n = ppoll(&poll_fd, 1, forever ? NULL : &ts, NULL);
		if (n != 0)
			return n < 0 ? -errno : 0;
		if (now >= deadline_ns)
			return -ETIMEDOUT;
		if (simulated)
			kvh_sim->step(kvh_sim, deadline_ns);
	}
}
