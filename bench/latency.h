/* SPDX-License-Identifier: Apache-2.0 */
/*
 * latency.h - from the moment the device has finished a store or a load until its user,
 * asleep in poll() on the queue's fd, is awake and has taken the event: through the public
 * API, one job at a time. And what the mover's thread burns for that. One thread beside
 * the engine's and the lookout's.
 */
#ifndef KVH_BENCH_LATENCY_H
#define KVH_BENCH_LATENCY_H

#include "bench/report.h"

#include <stdbool.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How the mover's thread learns of the end. */
enum kvh_latency_mode {
	KVH_LATENCY_NOTICE, /* a host function behind the job wakes it: the default */
	KVH_LATENCY_SPIN,   /* gpu.spin: it looks all the time; and notices come */
	KVH_LATENCY_ALONE,  /* gpu.spin, and no notices */
	KVH_LATENCY_LOOK,   /* neither: it looks now and then, as after a lost notice */
	KVH_LATENCY_MODES
};
/* "notice", "spin", "spin alone", "look". */
const char *kvh_latency_mode_name(enum kvh_latency_mode mode);

struct kvh_latency_row {
	enum kvh_latency_mode mode;
	bool load;
	uint64_t bytes;          /* of a job */
	uint32_t n;              /* jobs */
	uint64_t p50_ns, p99_ns; /* 0 also where the user knew before the lookout did */
	double mover_cores;      /* that its thread took while jobs were on their way */
	int error;               /* 0, or why there is no measurement */
};

struct kvh_latency_report {
	struct kvh_latency_row rows[2 * KVH_LATENCY_MODES];
	uint32_t n;
	bool right; /* what was loaded at the end is what was stored */
};

struct kvh_latency_opts {
	const char *device;
	bool gpu;   /* it is one: jobs of 32 MiB, else of 1 MiB */
	uint32_t n; /* jobs a row */
	void (*note)(void *arg, const struct kvh_latency_row *row); /* of each, as it comes */
	void *arg;
};
/* 0, -EINTR after a signal, or as kvh_engine_open and jobs fail; the reason was printed. */
int kvh_latency_run(const struct kvh_latency_opts *opts, struct kvh_latency_report *report);

void kvh_latency_head_print(FILE *out);
void kvh_latency_row_print(FILE *out, const struct kvh_latency_row *row);
void kvh_latency_csv(FILE *out, const struct kvh_latency_report *report);
/* An array of objects; NULL: no memory. */
struct json_t;
struct json_t *kvh_latency_json(const struct kvh_latency_report *report);

#ifdef __cplusplus
}
#endif
#endif
