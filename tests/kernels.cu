// SPDX-License-Identifier: Apache-2.0
//
// kernels.cu - kernels for tests; not about speed. See kernels.h.
#include "tests/kernels.h"

#include <cerrno>
#include <cuda_runtime.h>

namespace
{

constexpr unsigned THREADS = 256;

__device__ uint64_t now_ns()
{
	uint64_t ns;

	asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
	return ns;
}

__device__ void spin(uint64_t ns)
{
	const uint64_t begun = now_ns();

	while (now_ns() - begun < ns) {}
}

// Launch: one CTA of THREADS.
__global__ void write_kernel(const struct kvh_test_pages pages, uint64_t generation,
			     uint64_t delay_ns)
{
	for (uint32_t page = 0; page < pages.n; page++) {
		for (uint32_t i = threadIdx.x; i < pages.words; i += THREADS)
			pages.pages[uint64_t(page) * pages.words + i] = kvh_test_word(
				generation, page, i);
		if (delay_ns != 0)
			spin(delay_ns);
	}
}

// Launch: a CTA of THREADS a page.
__global__ void sum_kernel(const struct kvh_test_pages pages, uint64_t *sums)
{
	const uint64_t *words = pages.pages + uint64_t(blockIdx.x) * pages.words;
	__shared__ unsigned long long sum;
	unsigned long long mine = 0;

	if (threadIdx.x == 0)
		sum = 0;
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < pages.words; i += THREADS)
		mine += kvh_test_term(words[i], i);
	atomicAdd(&sum, mine);
	__syncthreads();
	if (threadIdx.x == 0)
		sums[blockIdx.x] = sum;
}

// Launch: one thread.
__global__ void fault_kernel(uint64_t delay_ns, volatile int *nobodys)
{
	spin(delay_ns);
	*nobodys = 1;
}

template <typename... Args>
int launch(void (*kernel)(Args...), unsigned grid, unsigned threads, cudaStream_t stream,
	   Args... args)
{
	void *pointers[] = {&args...};

	return cudaLaunchKernel(reinterpret_cast<const void *>(kernel), dim3(grid),
				dim3(threads), pointers, 0, stream) == cudaSuccess
		       ? 0
		       : -EIO;
}

} // namespace

extern "C" int kvh_test_write(const struct kvh_test_pages *pages, uint64_t generation,
			      uint64_t delay_ns, struct CUstream_st *stream)
{
	return launch(write_kernel, 1, THREADS, stream, *pages, generation, delay_ns);
}

extern "C" int kvh_test_sum(const struct kvh_test_pages *pages, uint64_t *sums,
			    struct CUstream_st *stream)
{
	return launch(sum_kernel, pages->n, THREADS, stream, *pages, sums);
}

extern "C" int kvh_test_fault(uint64_t delay_ns, struct CUstream_st *stream)
{
	return launch(fault_kernel, 1, 1, stream, delay_ns,
		      reinterpret_cast<volatile int *>(uintptr_t(0x10)));
}
