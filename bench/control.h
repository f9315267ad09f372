/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.h - one measurement of the store controller: chunks through reserve,
 * publish, policy, adapter and back, with no device and no job around them.
 */
#ifndef KVH_BENCH_CONTROL_H
#define KVH_BENCH_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_control_opts {
	const char *l2;         /* the adapter, "null:bench" */
	const char *policy;     /* NULL: "default" */
	uint32_t threads;       /* that store */
	uint32_t spaces;        /* that each of them stores to in turn */
	uint64_t payload_bytes; /* of a chunk */
	uint64_t l1_bytes;
	uint64_t time_ns; /* at least as long */
};

struct kvh_control_result {
	uint64_t cycles; /* chunks that were settled */
	uint64_t stored; /* of them, that the adapter has taken */
	uint64_t wall_ns;
	uint64_t controller_cpu_ns; /* of its thread */
	uint64_t process_cpu_ns;    /* of all threads */
	uint64_t p50_ns, p99_ns;    /* from before its publish until it was settled */
	uint64_t samples;
};

/* 0; -EINTR: a signal; others: it could not be set up, or the books do not balance. */
int kvh_control_run(const struct kvh_control_opts *opts, struct kvh_control_result *result);

#ifdef __cplusplus
}
#endif
#endif
