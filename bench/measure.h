/* SPDX-License-Identifier: Apache-2.0 */
/*
 * measure.h - what a measurement is made of beside its clock: the middle and the
 * spread of a few numbers, the processor time of this process, and how many
 * system calls it makes. One thread.
 */
#ifndef KVH_BENCH_MEASURE_H
#define KVH_BENCH_MEASURE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of the values, half of which lie in [low, high]. */
struct kvh_spread {
	double median, low, high;
};
/* Sorts them. Zeros without any. */
struct kvh_spread kvh_spread_of(double *values, size_t n);

/* User and system time of all threads of this process. */
uint64_t kvh_cpu_ns(void);
/* Of those whose names begin so, as it was when each last left its processor. */
uint64_t kvh_cpu_of_threads_ns(const char *name);
/* The movers' of an engine or a bench: one a device. */
#define KVH_MOVER_THREADS "kvh-mover"

/* Counts the system calls of every thread that this process has at begin, by the
 * kernel's own tracepoint: some 100 ns a call, so not while something is timed.
 * -ENOENT, -EACCES: the kernel does not let us (tracefs, perf_event_paranoid). */
struct kvh_calls;
int kvh_calls_begin(struct kvh_calls **calls_p);
uint64_t kvh_calls_end(struct kvh_calls *calls);

#ifdef __cplusplus
}
#endif
#endif
