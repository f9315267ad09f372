/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread.h - a thread as rounds of one function, and the ways to wait. All of the
 * library's threads are made here, but for those of adapters; with the program's
 * signals blocked, which are for its own threads.
 *
 * A round sleeps first, until there is something to do, then does it, and keeps
 * nothing on the stack for the next: so a simulation (sim.h) can call rounds in
 * any order it likes, and see who sleeps.
 */
#ifndef KVH_HOST_THREAD_H
#define KVH_HOST_THREAD_H

#include "host/clock.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_wake {
	KVH_WAKE_WAIT,     /* sleep until there is something to do: a thread */
	KVH_WAKE_IF_READY, /* KVH_ROUND_ASLEEP instead of sleeping: a simulation */
	KVH_WAKE_SPURIOUS, /* go on, as after a wake-up that nobody meant */
};

enum kvh_round {
	KVH_ROUND_ASLEEP, /* nothing to do, nothing done; never with KVH_WAKE_WAIT */
	KVH_ROUND_DONE,
	KVH_ROUND_END, /* the thread ends */
};

/* The owner's memory, from start to join. */
struct kvh_thread {
	const char *name; /* <= 15 characters */
	enum kvh_round (*round)(void *arg, enum kvh_wake wake);
	void *arg;
	/* Asleep, it is ready then without anybody's doing; set by the round. */
	uint64_t alarm_ns;
	pthread_t id;
	bool ended; /* simulation only */
	void *sim;  /* the simulation's own */
};

/* Negative errno, logged: no thread. name, round and arg are set. */
int kvh_thread_start(struct kvh_thread *thread);
/* Waits for the end. */
void kvh_thread_join(struct kvh_thread *thread);

/* With the clock of kvh_now_ns. */
void kvh_cond_init(pthread_cond_t *cond);
/* Waits for a signal or until deadline_ns (UINT64_MAX: for ever); returns early
 * for no reason, too, so ask again. 0 or ETIMEDOUT. In a simulation others' rounds
 * run meanwhile on this very thread: of all locks only `lock` may be held. */
int kvh_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns);
/* Waits until fd is readable. 0, -ETIMEDOUT, -EINTR */
int kvh_fd_wait(int fd, uint64_t deadline_ns);

#ifdef __cplusplus
}
#endif
#endif
