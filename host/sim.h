/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim.h - the seam at which a simulation stands in for time and threads.
 *
 * The library takes from the system: a clock and timers (clock.h), threads and
 * waits (thread.h). With kvh_sim set, those two ask it instead: a thread is then
 * a function whose rounds the simulation calls, a wait lets the others' rounds go
 * on, and time is what it says. All code above runs unchanged, on one thread.
 *
 * Set it before an engine is opened, reset it when all are closed. Adapters that
 * have threads or a kernel of their own (fs, nvme) cannot be simulated; the host
 * device, mem, null and fault can. tests/sim_world.h has the one there is.
 */
#ifndef KVH_HOST_SIM_H
#define KVH_HOST_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_thread;

struct kvh_sim {
	uint64_t (*now_ns)(struct kvh_sim *sim);
	/* From now on the thread's rounds are called, until one has returned
	 * KVH_ROUND_END. 0 or a negative errno, as for a thread that cannot be. */
	int (*start)(struct kvh_sim *sim, struct kvh_thread *thread);
	/* Somebody waits: another round is called, or time moves, at most to until_ns. */
	void (*step)(struct kvh_sim *sim, uint64_t until_ns);
	/* An eventfd that stands for a timer is to be written at at_ns; UINT64_MAX: it is
	 * not. */
	void (*arm)(struct kvh_sim *sim, int fd, uint64_t at_ns);
	/* Whether the loop is not to see that this fd is readable: a lost wake-up. */
	bool (*lost)(struct kvh_sim *sim, int fd);
};

extern struct kvh_sim *kvh_sim; /* NULL: the system's */

static inline bool kvh_simulated(void)
{
	return __builtin_expect(kvh_sim != NULL, 0);
}

#ifdef __cplusplus
}
#endif
#endif
