/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.h - the one clock: monotonic, so that no jump of the wall clock is seen;
 * and fds that become readable at a time of it. A simulation (sim.h) may stand in.
 */
#ifndef KVH_HOST_CLOCK_H
#define KVH_HOST_CLOCK_H

#include "host/sim.h"

#include <stdint.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_NS_PER_MS UINT64_C(1000000)
#define KVH_NS_PER_S  UINT64_C(1000000000)

static inline uint64_t kvh_now_ns(void)
{
	struct timespec ts;

	if (kvh_simulated())
		return kvh_sim->now_ns(kvh_sim);
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

/* Nanoseconds since 1970, as the machine believes; only to number things across
 * runs, never to measure. */
uint64_t kvh_wall_ns(void);

/* A non-blocking fd, readable from the time it is armed for (UINT64_MAX: off).
 * It is read with kvh_timer_clear. A negative errno. */
int kvh_timer_open(void);
void kvh_timer_arm(int fd, uint64_t at_ns);
void kvh_timer_clear(int fd);
void kvh_timer_close(int fd);

#ifdef __cplusplus
}
#endif
#endif
