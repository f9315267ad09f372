/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metrics.h - what has happened since open. Counters only rise; any thread adds,
 * kvh_status copies. What is now (frames, leases) is asked of its owner instead.
 * Builtins and not stdatomic.h, so that the tests' C++ reads the same header.
 */
#ifndef KVH_HOST_METRICS_H
#define KVH_HOST_METRICS_H

#include "host/clock.h"
#include "host/histogram.h"

typedef struct {
	uint64_t value; /* relaxed atomic */
} kvh_counter;

struct kvh_metrics {
	kvh_counter stored_chunks, stored_bytes;
	kvh_counter loaded_chunks, loaded_bytes;
	kvh_counter store_exists, store_no_memory, store_failed;
	kvh_counter hits_l1, hits_l2, misses;
	kvh_counter prefetch_wasted;
	kvh_counter reads_shared; /* entries that waited for a read begun for another */
	kvh_counter hedges;       /* reads given up for another adapter's */
	kvh_counter speculation_begun, speculation_hits, speculation_wasted;
	kvh_counter erased;
	kvh_counter policy_wrong;
	kvh_counter deferred_outgrown, deferred_lost;
	kvh_counter corrupt;
	kvh_counter device_errors;
	kvh_counter jobs;           /* a gauge */
	kvh_counter store_waiting;  /* a gauge: frames in the store controller */
	kvh_counter l2_quarantined; /* a gauge: buffers of transfers past their deadline */
	struct kvh_histogram latency[KVH_LATENCIES][KVH_HISTOGRAM_SHARDS];
};

static inline void kvh_count(kvh_counter *counter, uint64_t n)
{
	(void)__atomic_fetch_add(&counter->value, n, __ATOMIC_RELAXED);
}

static inline void kvh_uncount(kvh_counter *gauge, uint64_t n)
{
	(void)__atomic_fetch_sub(&gauge->value, n, __ATOMIC_RELAXED);
}

static inline void kvh_took(struct kvh_metrics *m, enum kvh_latency_of which, uint64_t since_ns)
{
	kvh_histogram_add(&m->latency[which][kvh_histogram_shard()], kvh_now_ns() - since_ns);
}

static inline void kvh_gauge(kvh_counter *gauge, uint64_t value)
{
	__atomic_store_n(&gauge->value, value, __ATOMIC_RELAXED);
}

static inline uint64_t kvh_counted(const kvh_counter *counter)
{
	return __atomic_load_n(&counter->value, __ATOMIC_RELAXED);
}

#endif
