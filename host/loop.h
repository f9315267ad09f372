/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h - the controller's thread: epoll over eventfds and one timer, and a
 * list of work that other threads hand over.
 */
#ifndef KVH_HOST_LOOP_H
#define KVH_HOST_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_histogram;
struct kvh_loop;
struct kvh_pulse;

/* Handed over to the loop's thread: the poster's memory until run is called,
 * which may free it. */
struct kvh_loop_work {
	void (*run)(struct kvh_loop_work *work);
	struct kvh_loop_work *next;
};

/* Calls `ready` on the loop's thread when fd is readable. It must clear it. */
struct kvh_loop_source {
	int fd;
	void (*ready)(struct kvh_loop_source *source);
	bool hint; /* that it is readable may be missed: its owner also looks by itself */
};

/* `tick` is called on the loop's thread after each round of events, and when
 * the time it returned last (CLOCK_MONOTONIC ns, UINT64_MAX: none) has come. */
int kvh_loop_open(uint64_t (*tick)(void *arg, uint64_t now_ns), void *arg,
		  struct kvh_loop **loop_p);
/* Before start, or on the loop's thread. */
int kvh_loop_add(struct kvh_loop *loop, struct kvh_loop_source *source);
/* On the loop's thread, but not from `ready`: it is not called again. */
void kvh_loop_remove(struct kvh_loop *loop, struct kvh_loop_source *source);
int kvh_loop_start(struct kvh_loop *loop);
/* Any thread; in order. Works between open and close, also before start. */
void kvh_loop_post(struct kvh_loop *loop, struct kvh_loop_work *work);
/* Runs what was posted, ends the thread, joins. Safe if never started. */
void kvh_loop_stop(struct kvh_loop *loop);
void kvh_loop_close(struct kvh_loop *loop);
/* Any thread. */
const struct kvh_pulse *kvh_loop_pulse(const struct kvh_loop *loop);
/* Before start: counts how long rounds take, without their sleep. */
void kvh_loop_measure(struct kvh_loop *loop, struct kvh_histogram *rounds);

#ifdef __cplusplus
}
#endif
#endif
