/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work.h - a few threads for work that burns CPU or may block for a moment:
 * checksums, freeing device memory. Nothing here may wait for the controller.
 */
#ifndef KVH_HOST_WORK_H
#define KVH_HOST_WORK_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_histogram;
struct kvh_pulse;
struct kvh_workers;

/* The poster's memory, the pool's until run is called; run may free it. */
struct kvh_work {
	void (*run)(struct kvh_work *work);
	struct kvh_work *next;
};

int kvh_workers_open(uint32_t n_threads, struct kvh_workers **workers_p);
/* Runs what was posted, then joins. */
void kvh_workers_close(struct kvh_workers *workers);
/* Any thread. In order of posting with one thread. */
void kvh_workers_post(struct kvh_workers *workers, struct kvh_work *work);
/* A copy of a worker's; what waits waits for all of them. False: there are no more.
 * Any thread. */
bool kvh_workers_pulse(const struct kvh_workers *workers, uint32_t index,
		       struct kvh_pulse *pulse);
/* Before the first post: counts how long each takes. */
void kvh_workers_measure(struct kvh_workers *workers, struct kvh_histogram *runs);

#ifdef __cplusplus
}
#endif
#endif
