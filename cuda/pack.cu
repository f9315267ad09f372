/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack.cu - gather and scatter on the GPU: every address is computed there,
 * from plan, pages and a unit's number.
 *
 * Memory bound: each byte is read once and written once, inside device memory,
 * so that a stage of 32 MiB is worth 64 MiB of traffic: some 25 us on an H100.
 * It is meant to be wide and short: the whole GPU for that moment, while the
 * link takes 600 us to carry the stage. Any thread may launch.
 */
#include "cuda/pack.h"

#include "cuda/pack_tile.cuh"

#include <cuda_runtime.h>

namespace
{

template <uint32_t width>
struct vec;
template <>
struct vec<16> {
	using type = uint4;
};
template <>
struct vec<8> {
	using type = uint2;
};
template <>
struct vec<4> {
	using type = uint32_t;
};
template <>
struct vec<2> {
	using type = uint16_t;
};
template <>
struct vec<1> {
	using type = uint8_t;
};

struct vecs {
	template <uint32_t width>
	using of = typename vec<width>::type;
};

/* width: bytes of one access, which divide every address and stride used; 0: each
 * unit's own, which takes more registers. Launch: grid.ctas CTAs of KVH_PACK_THREADS,
 * no shared memory. */
template <uint32_t width, int direction>
__global__ void __launch_bounds__(KVH_PACK_THREADS, width == 0 ? 3 : 4)
	pack_kernel(const struct kvh_pack pack, const struct kvh_pack_grid grid)
{
	kvh_pack_thread<vecs, width, direction>(
		pack, grid, uint64_t(blockIdx.x) * KVH_PACK_THREADS + threadIdx.x);
}

using kernel_fn = void (*)(struct kvh_pack, struct kvh_pack_grid);

template <int direction>
kernel_fn kernel_of(uint32_t width)
{
	switch (width) {
	case 16: return pack_kernel<16, direction>;
	case 8: return pack_kernel<8, direction>;
	case 4: return pack_kernel<4, direction>;
	case 2: return pack_kernel<2, direction>;
	case 1: return pack_kernel<1, direction>;
	default: return pack_kernel<0, direction>;
	}
}

/* The launch's own result, not the thread's last error: that may be another's.
 * Only what this launch left there is cleared. */
int launch(const struct kvh_pack *pack, kernel_fn kernel, cudaStream_t stream)
{
	struct kvh_pack_grid grid;
	struct kvh_pack copy = *pack;
	void *args[] = {&copy, &grid};

	if (kvh_pack_grid_make(copy, &grid) != 0)
		return -EINVAL;
	if (cudaLaunchKernel(reinterpret_cast<const void *>(kernel), dim3(unsigned(grid.ctas)),
			     dim3(KVH_PACK_THREADS), args, 0, stream) == cudaSuccess)
		return 0;
	(void)cudaGetLastError();
	return -EIO;
}

template <int direction>
cudaError_t load()
{
	cudaFuncAttributes unused;
	cudaError_t error = cudaSuccess;

	for (uint32_t width : {16, 8, 4, 2, 1, 0})
		if (error == cudaSuccess)
			error = cudaFuncGetAttributes(
				&unused,
				reinterpret_cast<const void *>(kernel_of<direction>(width)));
	return error;
}

template <int direction>
int move_cuda(const struct kvh_pack *pack, cudaStream_t stream)
{
	const int err = kvh_pack_check(pack);

	if (err != 0 || pack->n_units == 0)
		return err;
	return launch(pack, kernel_of<direction>(pack->width == pack->widest ? pack->width : 0),
		      stream);
}

} // namespace

extern "C" int kvh_pack_load_cuda(void)
{
	cudaError_t error = load<KVH_PACK_GATHER>();

	if (error == cudaSuccess)
		error = load<KVH_PACK_SCATTER>();
	if (error == cudaSuccess)
		return 0;
	(void)cudaGetLastError();
	return error == cudaErrorNoKernelImageForDevice ||
			       error == cudaErrorInvalidDeviceFunction
		       ? -ENODEV
		       : -EIO;
}

extern "C" int kvh_gather_cuda(const struct kvh_pack *pack, struct CUstream_st *stream)
{
	return move_cuda<KVH_PACK_GATHER>(pack, stream);
}

extern "C" int kvh_scatter_cuda(const struct kvh_pack *pack, struct CUstream_st *stream)
{
	return move_cuda<KVH_PACK_SCATTER>(pack, stream);
}
