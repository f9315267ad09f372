/* SPDX-License-Identifier: Apache-2.0 */
/*
 * histogram.h - how long something takes, in buckets whose width is a sixteenth of
 * the value (log-linear), so that a percentile is known to 1/16. Any thread adds;
 * a read beside it sees each count once, or not yet.
 */
#ifndef KVH_HOST_HISTOGRAM_H
#define KVH_HOST_HISTOGRAM_H

#include "kvhoist.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_HISTOGRAM_BITS 4u  /* of a value, below its highest one, that choose a bucket */
#define KVH_HISTOGRAM_TOP  36u /* values of 2^36 and more (68 s) share the last bucket */
#define KVH_HISTOGRAM_BUCKETS                                               \
	(((KVH_HISTOGRAM_TOP - KVH_HISTOGRAM_BITS) << KVH_HISTOGRAM_BITS) + \
	 (1u << KVH_HISTOGRAM_BITS) + 1u)

/* Zeroed. Relaxed atomics; counts only rise. */
struct kvh_histogram {
	uint64_t sum;
	uint64_t counts[KVH_HISTOGRAM_BUCKETS];
};

/*
 * Values below 16 have a bucket each; then each octave has 16:
 *
 *     value     0 1 .. 15 | 16 17 .. 31 | 32,33  34,35 .. 62,63 | 64..67 ..
 *     bucket    0 1 .. 15 | 16 17 .. 31 | 32     33    .. 47    | 48     ..
 */
static inline uint32_t kvh_histogram_bucket(uint64_t value)
{
	uint32_t octave;

	if (value < 1u << KVH_HISTOGRAM_BITS)
		return (uint32_t)value;
	if (value >= UINT64_C(1) << KVH_HISTOGRAM_TOP)
		return KVH_HISTOGRAM_BUCKETS - 1;
	octave = 63u - (uint32_t)__builtin_clzll(value) - KVH_HISTOGRAM_BITS;
	return (octave << KVH_HISTOGRAM_BITS) + (uint32_t)(value >> octave);
}

static inline void kvh_histogram_add(struct kvh_histogram *h, uint64_t value)
{
	uint64_t *count = &h->counts[kvh_histogram_bucket(value)];

	(void)__atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
	(void)__atomic_fetch_add(&h->sum, value, __ATOMIC_RELAXED);
}

/* Of what many threads add to there are several, and each thread has its own of
 * them, as long as there are no more threads. */
#define KVH_HISTOGRAM_SHARDS 4u
uint32_t kvh_histogram_shard(void);

/* The largest value that falls into the bucket; UINT64_MAX of the last. */
uint64_t kvh_histogram_edge(uint32_t bucket);
/* What `n` of them hold together. Percentiles are edges of buckets: at least the
 * true one, and at most 1/16 above. */
void kvh_histogram_read(const struct kvh_histogram *h, uint32_t n, struct kvh_latency *latency);

#ifdef __cplusplus
}
#endif
#endif
