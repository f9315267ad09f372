/* SPDX-License-Identifier: Apache-2.0 */
/*
 * histogram.c - percentiles of a histogram. Any thread, beside those that add.
 */
#include "host/histogram.h"

#include <string.h>

uint32_t kvh_histogram_shard(void)
{
	static uint32_t threads; /* atomic: that have asked */
	static __thread uint32_t shard;

	if (shard == 0)
		shard = 1 + __atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED) %
				    KVH_HISTOGRAM_SHARDS;
	return shard - 1;
}

uint64_t kvh_histogram_edge(uint32_t bucket)
{
	uint32_t octave;

	if (bucket < 2u << KVH_HISTOGRAM_BITS)
		return bucket;
	if (bucket >= KVH_HISTOGRAM_BUCKETS - 1)
		return UINT64_MAX;
	octave = (bucket >> KVH_HISTOGRAM_BITS) - 1;
	return (((uint64_t)bucket - ((uint64_t)octave << KVH_HISTOGRAM_BITS) + 1) << octave) -
	       1;
}

static uint64_t percentile(const uint64_t *counts, uint64_t total, uint64_t permille)
{
	uint64_t rank = (total * permille + 999) / 1000, seen = 0;

	for (uint32_t b = 0; b < KVH_HISTOGRAM_BUCKETS; b++) {
		seen += counts[b];
		if (seen >= rank && seen > 0)
			return kvh_histogram_edge(b);
	}
	return 0;
}

void kvh_histogram_read(const struct kvh_histogram *h, uint32_t n, struct kvh_latency *latency)
{
	uint64_t counts[KVH_HISTOGRAM_BUCKETS] = {0};

	memset(latency, 0, sizeof(*latency));
	for (uint32_t i = 0; i < n; i++) {
		latency->sum_ns += __atomic_load_n(&h[i].sum, __ATOMIC_RELAXED);
		for (uint32_t b = 0; b < KVH_HISTOGRAM_BUCKETS; b++)
			counts[b] += __atomic_load_n(&h[i].counts[b], __ATOMIC_RELAXED);
	}
	for (uint32_t b = 0; b < KVH_HISTOGRAM_BUCKETS; b++)
		latency->count += counts[b];
	latency->p50_ns = percentile(counts, latency->count, 500);
	latency->p90_ns = percentile(counts, latency->count, 900);
	latency->p99_ns = percentile(counts, latency->count, 990);
	latency->p999_ns = percentile(counts, latency->count, 999);
	latency->max_ns = percentile(counts, latency->count, 1000);
}
