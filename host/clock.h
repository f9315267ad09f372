/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.h - the one clock: monotonic, so that no jump of the wall clock is seen.
 */
#ifndef KVH_HOST_CLOCK_H
#define KVH_HOST_CLOCK_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#define KVH_NS_PER_MS UINT64_C(1000000)
#define KVH_NS_PER_S  UINT64_C(1000000000)

static inline uint64_t kvh_now_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * KVH_NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* now + ns, UINT64_MAX (for ever) where that overflows. */
static inline uint64_t kvh_deadline_ns(uint64_t ns)
{
	uint64_t now = kvh_now_ns();

	return ns > UINT64_MAX - now ? UINT64_MAX : now + ns;
}

static inline struct timespec kvh_timespec(uint64_t ns)
{
	struct timespec ts;

	ts.tv_sec = (time_t)(ns / KVH_NS_PER_S);
	ts.tv_nsec = (long)(ns % KVH_NS_PER_S);
	return ts;
}

/* Timed waits on it take the time of kvh_now_ns. */
static inline void kvh_cond_init_monotonic(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

#endif
