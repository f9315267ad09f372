// SPDX-License-Identifier: Apache-2.0
//
// long_run.h - the two forms of a test that draws lots: a short one, and with
// KVHOIST_LONG=1, as `make crash` sets it, the full one. Both print their seed when
// they begin; KVHOIST_SEED=N repeats one.
#ifndef KVH_TESTS_LONG_RUN_H
#define KVH_TESTS_LONG_RUN_H

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <gtest/gtest.h>
#include <random>

namespace l2test
{

inline bool is_long()
{
	const char *env = getenv("KVHOIST_LONG");

	return env != nullptr && env[0] == '1';
}

inline unsigned long_or(unsigned full, unsigned brief)
{
	return is_long() ? full : brief;
}

inline uint64_t draw_seed()
{
	const char *env = getenv("KVHOIST_SEED");
	const uint64_t seed = env != nullptr ? strtoull(env, nullptr, 0)
					     : std::random_device{}();

	printf("KVHOIST_SEED=%" PRIu64 "\n", seed);
	::testing::Test::RecordProperty("seed", std::to_string(seed));
	return seed;
}

// What a run comes to, in one line that a log can be searched for.
#define VERDICT(...) (printf("verdict: " __VA_ARGS__), printf("\n"))

} // namespace l2test

#endif
