/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.h - what a runtime does to its pages on a GPU, for tests: kernels that write
 * them slowly, sum them up, and run into an address that is nobody's. Launchers enqueue
 * on the stream and return 0 or -EIO; any thread whose current device is the stream's.
 */
#ifndef KVH_TESTS_KERNELS_H
#define KVH_TESTS_KERNELS_H

#include <stdint.h>

#ifdef __CUDACC__
/* Unused in one of its two passes is no mistake. */
#	define KVH_TEST_BOTH [[maybe_unused]] __host__ __device__
#else
#	define KVH_TEST_BOTH
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct CUstream_st;

KVH_TEST_BOTH static inline uint64_t kvh_test_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* Word `i` of a page, as writer number `generation` leaves it. */
KVH_TEST_BOTH static inline uint64_t kvh_test_word(uint64_t generation, uint32_t page,
						   uint32_t i)
{
	return kvh_test_mix(kvh_test_mix(generation << 32 | page) + i);
}

/* What word i adds to the sum of a page: a word in another place adds another number. */
KVH_TEST_BOTH static inline uint64_t kvh_test_term(uint64_t word, uint32_t i)
{
	return kvh_test_mix(word + i);
}

/* Pages of `words` words each, one behind the other from `pages` on. */
struct kvh_test_pages {
	uint64_t *pages;
	uint32_t n, words;
};

/* Every word of every page, in the order of the pages, each page `delay_ns` after the
 * one before: by one CTA, so that it is slow, and the last pages are late. */
int kvh_test_write(const struct kvh_test_pages *pages, uint64_t generation, uint64_t delay_ns,
		   struct CUstream_st *stream);
/* sums[n], which the device reaches: of each page's terms. */
int kvh_test_sum(const struct kvh_test_pages *pages, uint64_t *sums,
		 struct CUstream_st *stream);
/* Spins for so long, then writes to an address that is nobody's: the context is lost. */
int kvh_test_fault(uint64_t delay_ns, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif
#endif
