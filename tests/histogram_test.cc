// SPDX-License-Identifier: Apache-2.0
//
// histogram_test.cc - buckets that tile all values, percentiles against sorted
// samples, nothing lost among threads, and what a count costs.
#include "host/histogram.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace
{

TEST(Histogram, BucketsTileAllValues)
{
	uint64_t below = 0;

	for (uint32_t b = 0; b < KVH_HISTOGRAM_BUCKETS; b++) {
		const uint64_t edge = kvh_histogram_edge(b);

		ASSERT_EQ(b, kvh_histogram_bucket(below)) << "the first value of a bucket";
		ASSERT_EQ(b, kvh_histogram_bucket(edge)) << "the last one";
		ASSERT_LE(edge - below, b + 1 < KVH_HISTOGRAM_BUCKETS ? below / 16 : edge);
		below = edge + 1;
	}
	EXPECT_EQ(0u, below) << "the last edge is the largest value";
}

TEST(Histogram, PercentilesAgainstSortedSamples)
{
	const auto h = std::make_unique<kvh_histogram>();
	std::lognormal_distribution<double> draw(10, 2);
	std::vector<uint64_t> samples;
	std::mt19937_64 rng(1);
	kvh_latency got;
	uint64_t sum = 0;

	for (int i = 0; i < 100000; i++) {
		samples.push_back(static_cast<uint64_t>(draw(rng)));
		sum += samples.back();
		kvh_histogram_add(h.get(), samples.back());
	}
	std::sort(samples.begin(), samples.end());
	kvh_histogram_read(h.get(), 1, &got);
	EXPECT_EQ(samples.size(), got.count);
	EXPECT_EQ(sum, got.sum_ns);
	for (const auto &[permille, value] : {std::pair<size_t, uint64_t>{500, got.p50_ns},
					      {900, got.p90_ns},
					      {990, got.p99_ns},
					      {999, got.p999_ns},
					      {1000, got.max_ns}}) {
		const uint64_t want = samples[samples.size() * permille / 1000 - 1];

		EXPECT_GE(value, want) << permille;
		EXPECT_LE(value, want + want / 16) << permille;
	}
}

TEST(Histogram, EmptyAndExtremeValues)
{
	const auto h = std::make_unique<kvh_histogram>();
	kvh_latency got;

	kvh_histogram_read(h.get(), 1, &got);
	EXPECT_EQ(0u, got.count);
	EXPECT_EQ(0u, got.max_ns);
	kvh_histogram_add(h.get(), 0);
	kvh_histogram_add(h.get(), UINT64_MAX);
	kvh_histogram_read(h.get(), 1, &got);
	EXPECT_EQ(2u, got.count);
	EXPECT_EQ(0u, got.p50_ns);
	EXPECT_EQ(UINT64_MAX, got.max_ns);
}

TEST(Histogram, ThreadsLoseNothing)
{
	const auto h = std::make_unique<kvh_histogram[]>(2);
	std::vector<std::thread> threads;
	kvh_latency got;

	for (uint32_t t = 0; t < 4; t++)
		threads.emplace_back([&, t] {
			for (uint64_t i = 0; i < 100000; i++)
				kvh_histogram_add(&h[t % 2], i & 1023);
		});
	for (auto &thread : threads)
		thread.join();
	kvh_histogram_read(h.get(), 2, &got);
	EXPECT_EQ(400000u, got.count);
}

} // namespace
