/* SPDX-License-Identifier: Apache-2.0 */
/*
 * random.h - seeded numbers, the same on every machine: splitmix64, integers
 * only. Any thread, each with its own state.
 */
#ifndef KVH_BENCH_RANDOM_H
#define KVH_BENCH_RANDOM_H

#include <stdint.h>

static inline uint64_t kvh_random_mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static inline uint64_t kvh_random_next(uint64_t *state)
{
	*state += UINT64_C(0x9e3779b97f4a7c15);
	return kvh_random_mix(*state);
}

/* In [low, high]; all equally likely, but for one part in 2^32. */
static inline uint32_t kvh_random_even(uint64_t *state, uint32_t low, uint32_t high)
{
	uint64_t span = (uint64_t)high - low + 1;

	return (uint32_t)(low + ((kvh_random_next(state) >> 32) * span >> 32));
}

/* In [low, high], small ones more likely: the mean lies at a quarter. */
static inline uint32_t kvh_random_skewed(uint64_t *state, uint32_t low, uint32_t high)
{
	return kvh_random_even(state, low, kvh_random_even(state, low, high));
}

#endif
