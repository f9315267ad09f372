// SPDX-License-Identifier: Apache-2.0
//
// load_gemm.cuh - a GEMM on tensor cores for machines without cuBLAS: something that
// occupies the SMs as a model's does. For measuring only; it reaches a third of what
// cuBLAS does, or so.
//
// C[rows,columns] = A[rows,depth] B[depth,columns], row-major, bf16, accumulated in
// fp32. A CTA computes a tile of 128 x 128; while it multiplies one slice of depth 32,
// the next one is on its way into the other half of its shared memory. The last tiles
// read beyond rows and columns: the buffers are as large as the largest operand with
// a tile more, and what comes of it is not stored.
#ifndef KVH_BENCH_LOAD_GEMM_CUH
#define KVH_BENCH_LOAD_GEMM_CUH

#include "bench/load.h"

#include <cuda_bf16.h>
#include <cuda_pipeline.h>
#include <mma.h>

namespace gemm
{

using bf16 = __nv_bfloat16;

constexpr unsigned TILE = 128; // rows and columns of a CTA's
constexpr unsigned SLICE = 32; // depth
constexpr unsigned PAD = 8;    // keeps rows on different banks
constexpr unsigned THREADS = 256;
constexpr unsigned WARP_ROWS = 32, WARP_COLUMNS = 64; // of a warp's, 4 x 2 of them
constexpr unsigned FRAGMENT = 16;
constexpr unsigned M = WARP_ROWS / FRAGMENT, N = WARP_COLUMNS / FRAGMENT;

struct Slices {
	bf16 a[2][TILE][SLICE + PAD];
	bf16 b[2][SLICE][TILE + PAD];
};
union Shared {
	Slices slices;
	float out[THREADS / 32][FRAGMENT][FRAGMENT]; // a warp's fragment on its way out
};
static_assert(sizeof(Shared) <= 48 * 1024, "more needs an attribute of the kernel");

// 16 bytes a thread and step; the caller commits.
__device__ inline void load_slice(Slices &to, unsigned half, const bf16 *a, const bf16 *b,
				  const kvh_gemm_shape &shape, unsigned row, unsigned column,
				  unsigned at)
{
	for (unsigned i = threadIdx.x; i < TILE * SLICE / 8; i += THREADS) {
		const unsigned r = i / (SLICE / 8), c = i % (SLICE / 8) * 8;

		__pipeline_memcpy_async(&to.a[half][r][c],
					a + size_t(row + r) * shape.depth + at + c, 16);
	}
	for (unsigned i = threadIdx.x; i < SLICE * TILE / 8; i += THREADS) {
		const unsigned r = i / (TILE / 8), c = i % (TILE / 8) * 8;

		__pipeline_memcpy_async(&to.b[half][r][c],
					b + size_t(at + r) * shape.columns + column + c, 16);
	}
}

using Accumulator =
	nvcuda::wmma::fragment<nvcuda::wmma::accumulator, FRAGMENT, FRAGMENT, FRAGMENT, float>;

__device__ inline void multiply(const Slices &from, unsigned half, unsigned row,
				unsigned column, Accumulator (&sum)[M][N])
{
	using namespace nvcuda::wmma;
	fragment<matrix_a, FRAGMENT, FRAGMENT, FRAGMENT, bf16, row_major> a[M];
	fragment<matrix_b, FRAGMENT, FRAGMENT, FRAGMENT, bf16, row_major> b;

	for (unsigned k = 0; k < SLICE; k += FRAGMENT) {
		for (unsigned m = 0; m < M; m++)
			load_matrix_sync(a[m], &from.a[half][row + m * FRAGMENT][k],
					 SLICE + PAD);
		for (unsigned n = 0; n < N; n++) {
			load_matrix_sync(b, &from.b[half][k][column + n * FRAGMENT],
					 TILE + PAD);
			for (unsigned m = 0; m < M; m++)
				mma_sync(sum[m][n], a[m], b, sum[m][n]);
		}
	}
}

// Half a fragment's row a lane: 8 numbers, 16 bytes.
__device__ inline void store(float (&out)[FRAGMENT][FRAGMENT], const Accumulator &sum, bf16 *c,
			     unsigned pitch)
{
	const unsigned lane = threadIdx.x % 32, row = lane / 2, column = lane % 2 * 8;
	__align__(16) bf16 eight[8];

	__syncwarp();
	nvcuda::wmma::store_matrix_sync(&out[0][0], sum, FRAGMENT, nvcuda::wmma::mem_row_major);
	__syncwarp();
	for (unsigned i = 0; i < 8; i++)
		eight[i] = __float2bfloat16_rn(out[row][column + i]);
	*reinterpret_cast<uint4 *>(c + size_t(row) * pitch +
				   column) = *reinterpret_cast<const uint4 *>(eight);
}

// Launch: grid of tiles (columns, rows), THREADS.
__global__ void __launch_bounds__(THREADS)
	kernel(const bf16 *a, const bf16 *b, bf16 *c, const kvh_gemm_shape shape)
{
	__shared__ __align__(128) Shared shared;
	const unsigned warp = threadIdx.x / 32;
	const unsigned warp_row = warp / 2 * WARP_ROWS, warp_column = warp % 2 * WARP_COLUMNS;
	const unsigned row = blockIdx.y * TILE, column = blockIdx.x * TILE;
	Accumulator sum[M][N];

	for (unsigned m = 0; m < M; m++)
		for (unsigned n = 0; n < N; n++)
			nvcuda::wmma::fill_fragment(sum[m][n], 0.0f);
	load_slice(shared.slices, 0, a, b, shape, row, column, 0);
	__pipeline_commit();
	for (unsigned at = 0; at < shape.depth; at += SLICE) {
		const unsigned half = at / SLICE % 2;

		if (at + SLICE < shape.depth)
			load_slice(shared.slices, !half, a, b, shape, row, column, at + SLICE);
		__pipeline_commit(); // of the last slice: nothing
		__pipeline_wait_prior(1);
		__syncthreads();
		multiply(shared.slices, half, warp_row, warp_column, sum);
		__syncthreads();
	}
	for (unsigned m = 0; m < M; m++) {
		for (unsigned n = 0; n < N; n++) {
			const unsigned r = row + warp_row + m * FRAGMENT;
			const unsigned k = column + warp_column + n * FRAGMENT;

			if (r < shape.rows && k < shape.columns)
				store(shared.out[warp], sum[m][n],
				      c + size_t(r) * shape.columns + k, shape.columns);
		}
	}
}

} // namespace gemm

#endif
