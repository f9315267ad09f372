/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pulse.h - whether a thread makes progress. It says when it takes work and when
 * that is done; who hands work over says since when some waits. So a thread that
 * hangs shows, and so does one that is gone, but not one that has nothing to do.
 *
 *     idle: busy_ns == 0, waiting_ns == 0
 */
#ifndef KVH_HOST_PULSE_H
#define KVH_HOST_PULSE_H

#include <stdint.h>

/* Zeroed. Relaxed atomics: times of kvh_now_ns, 0 is none. */
struct kvh_pulse {
	uint64_t busy_ns;    /* the thread's: since when it has what it works on */
	uint64_t waiting_ns; /* under the lock of its list: since when that is not empty */
};

static inline void kvh_pulse_set(uint64_t *since, uint64_t now_ns)
{
	__atomic_store_n(since, now_ns, __ATOMIC_RELAXED);
}

/* For how long it has made no progress, as of now. */
static inline uint64_t kvh_pulse_age(const struct kvh_pulse *pulse, uint64_t now_ns)
{
	uint64_t busy = __atomic_load_n(&pulse->busy_ns, __ATOMIC_RELAXED);
	uint64_t waiting = __atomic_load_n(&pulse->waiting_ns, __ATOMIC_RELAXED);
	uint64_t since = busy != 0 && (waiting == 0 || busy < waiting) ? busy : waiting;

	/* The other thread's clock may be a moment ahead. */
	return since != 0 && since < now_ns ? now_ns - since : 0;
}

#endif
