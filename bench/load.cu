// SPDX-License-Identifier: Apache-2.0
//
// load.cu - what a model computes, on a GPU: GEMMs by cuBLAS where it can be loaded,
// else by our own kernel; a kernel of one wave; a copy. Timed by events on a stream of
// normal priority, as a runtime's are. The seam has no events with times, and needs
// none: this file calls CUDA itself. One thread, whose current device it sets.
#include "bench/bench.h"
#include "bench/load.h"
#include "bench/load_cublas.cuh"
#include "bench/load_gemm.cuh"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>

namespace
{

using gemm::bf16;

constexpr size_t OPERAND = size_t(8192) * 8192; // numbers; the largest
constexpr size_t OPERAND_BYTES = OPERAND * sizeof(bf16);
constexpr unsigned WAVE_THREADS = 512;
constexpr unsigned WAVE_ROUNDS = 8192;     // some 0.2 ms
constexpr size_t WAVE_SHARED = 200 * 1024; // more than half of what an SM has
constexpr unsigned CHECKS = 64;            // places of a result

struct gpu_load {
	int ordinal;
	unsigned n_sms;
	size_t shared_bytes; // of a CTA of the wave
	cudaStream_t stream;
	cudaEvent_t begun, ended;
	bf16 *a, *b, *c;
	uint32_t *wave; // [n_sms * WAVE_THREADS]
	cublas::Library blas;
	bool has_blas;
	uint32_t seed; // of the places that are checked
	char how[64];
};

int failed(const char *what, cudaError_t error)
{
	kvh_bench_complain("%s: %s", what, cudaGetErrorString(error));
	(void)cudaGetLastError();
	return error == cudaErrorMemoryAllocation ? -ENOMEM : -EIO;
}

int call(const char *what, cudaError_t error)
{
	return error == cudaSuccess ? 0 : failed(what, error);
}
#define CALL(fn, ...) call(#fn, fn(__VA_ARGS__))

// ---- what is computed ----

__host__ __device__ uint32_t mix(uint32_t x)
{
	x = (x ^ x >> 16) * 0x7feb352du;
	x = (x ^ x >> 15) * 0x846ca68bu;
	return x ^ x >> 16;
}

// -1.5 to 1.5 by halves: sums of 8192 products are exact in fp32.
__host__ __device__ float number_of(uint32_t salt, uint32_t i)
{
	return (float(mix(i * 2 + salt) % 7) - 3.0f) * 0.5f;
}

__global__ void fill_kernel(bf16 *to, uint32_t salt)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;

	to[i] = __float2bfloat16_rn(number_of(salt, i));
}

__host__ __device__ uint32_t wave_step(uint32_t x)
{
	x = x * 1664525u + 1013904223u;
	return x ^ x >> 15;
}

// Launch: a CTA for each SM, WAVE_THREADS, shared memory for one only.
__global__ void __launch_bounds__(WAVE_THREADS) wave_kernel(uint32_t *out, uint32_t rounds)
{
	extern __shared__ volatile uint32_t shared[];
	const uint32_t thread = blockIdx.x * WAVE_THREADS + threadIdx.x;

	shared[threadIdx.x] = thread;
	for (uint32_t i = 0; i < rounds; i++)
		shared[threadIdx.x] = wave_step(shared[threadIdx.x]);
	out[thread] = shared[threadIdx.x];
}

uint32_t wave_result(uint32_t thread)
{
	uint32_t x = thread;

	for (uint32_t i = 0; i < WAVE_ROUNDS; i++)
		x = wave_step(x);
	return x;
}

// By cudaLaunchKernel: <<<>>> goes through stubs with statics of the C++ library.
template <typename... Args>
int launch(void (*kernel)(Args...), dim3 grid, unsigned threads, size_t shared,
	   cudaStream_t stream, Args... args)
{
	void *pointers[] = {&args...};

	return CALL(cudaLaunchKernel, reinterpret_cast<const void *>(kernel), grid,
		    dim3(threads), pointers, shared, stream);
}

// ---- open ----

int find_device(const struct kvh_device_info *device, int *ordinal_p)
{
	int n = 0;

	if (cudaGetDeviceCount(&n) != cudaSuccess)
		n = 0;
	for (int i = 0; i < n; i++) {
		cudaDeviceProp prop;

		if (cudaGetDeviceProperties(&prop, i) == cudaSuccess &&
		    memcmp(prop.uuid.bytes, device->uuid, sizeof(device->uuid)) == 0) {
			*ordinal_p = i;
			return 0;
		}
	}
	(void)cudaGetLastError();
	kvh_bench_complain("%s: CUDA does not know this device", device->name);
	return -ENODEV;
}

int open_memory(gpu_load *load)
{
	const unsigned threads = 256;
	const size_t wave_bytes = size_t(load->n_sms) * WAVE_THREADS * sizeof(uint32_t);
	int err = CALL(cudaMalloc, reinterpret_cast<void **>(&load->a), OPERAND_BYTES);

	if (err == 0)
		err = CALL(cudaMalloc, reinterpret_cast<void **>(&load->b), OPERAND_BYTES);
	if (err == 0)
		err = CALL(cudaMalloc, reinterpret_cast<void **>(&load->c), OPERAND_BYTES);
	if (err == 0)
		err = CALL(cudaMalloc, reinterpret_cast<void **>(&load->wave), wave_bytes);
	if (err == 0)
		err = launch(fill_kernel, dim3(unsigned(OPERAND / threads)), threads, 0,
			     load->stream, load->a, uint32_t(0));
	if (err == 0)
		err = launch(fill_kernel, dim3(unsigned(OPERAND / threads)), threads, 0,
			     load->stream, load->b, uint32_t(1));
	return err != 0 ? err : CALL(cudaStreamSynchronize, load->stream);
}

// As much shared memory as shuts out a second CTA: 200 KiB, or what there is.
int open_wave(gpu_load *load)
{
	int most = 0;
	int err = CALL(cudaDeviceGetAttribute, &most, cudaDevAttrMaxSharedMemoryPerBlockOptin,
		       load->ordinal);

	if (err != 0)
		return err;
	load->shared_bytes = size_t(most) < WAVE_SHARED ? size_t(most) : WAVE_SHARED;
	return CALL(cudaFuncSetAttribute, reinterpret_cast<const void *>(wave_kernel),
		    cudaFuncAttributeMaxDynamicSharedMemorySize, int(load->shared_bytes));
}

int open_all(gpu_load *load)
{
	int err = CALL(cudaSetDevice, load->ordinal);

	if (err == 0)
		err = CALL(cudaStreamCreateWithFlags, &load->stream, cudaStreamNonBlocking);
	if (err == 0)
		err = CALL(cudaEventCreate, &load->begun);
	if (err == 0)
		err = CALL(cudaEventCreate, &load->ended);
	if (err == 0)
		err = open_wave(load);
	if (err == 0)
		err = open_memory(load);
	if (err != 0)
		return err;
	load->has_blas = cublas::open(load->blas, load->stream);
	if (load->has_blas)
		(void)snprintf(load->how, sizeof(load->how), "cuBLAS %d.%d.%d",
			       load->blas.version / 10000, load->blas.version / 100 % 100,
			       load->blas.version % 100);
	else
		(void)snprintf(load->how, sizeof(load->how),
			       "our own kernel (no cuBLAS here), which is slower");
	return 0;
}

void gpu_close(void *self)
{
	gpu_load *load = static_cast<gpu_load *>(self);

	(void)cudaSetDevice(load->ordinal);
	if (load->has_blas)
		cublas::close(load->blas);
	if (load->begun != nullptr)
		(void)cudaEventDestroy(load->begun);
	if (load->ended != nullptr)
		(void)cudaEventDestroy(load->ended);
	if (load->stream != nullptr)
		(void)cudaStreamDestroy(load->stream);
	for (void *mem : {static_cast<void *>(load->a), static_cast<void *>(load->b),
			  static_cast<void *>(load->c), static_cast<void *>(load->wave)})
		(void)cudaFree(mem);
	free(load);
}

int gpu_open(const struct kvh_device_info *device, void **self_p)
{
	gpu_load *load = static_cast<gpu_load *>(calloc(1, sizeof(*load)));
	int err;

	if (load == nullptr)
		return -ENOMEM;
	load->n_sms = device->n_sms;
	err = find_device(device, &load->ordinal);
	if (err != 0) {
		free(load);
		return err;
	}
	err = open_all(load);
	if (err != 0) {
		gpu_close(load);
		return err;
	}
	*self_p = load;
	return 0;
}

const char *gpu_how(const void *self)
{
	return static_cast<const gpu_load *>(self)->how;
}

bool gpu_has(const void *, enum kvh_load_kernel)
{
	return true;
}

// ---- run ----

int run_gemm(gpu_load *load, const kvh_gemm_shape &shape)
{
	const dim3 grid((shape.columns + gemm::TILE - 1) / gemm::TILE,
			(shape.rows + gemm::TILE - 1) / gemm::TILE);

	if (load->has_blas)
		return cublas::run(load->blas, load->a, load->b, load->c, shape);
	return launch(gemm::kernel, grid, gemm::THREADS, 0, load->stream,
		      static_cast<const bf16 *>(load->a), static_cast<const bf16 *>(load->b),
		      load->c, shape);
}

int run_one(gpu_load *load, enum kvh_load_kernel kernel)
{
	switch (kernel) {
	case KVH_LOAD_WAVE:
		return launch(wave_kernel, dim3(load->n_sms), WAVE_THREADS, load->shared_bytes,
			      load->stream, load->wave, uint32_t(WAVE_ROUNDS));
	case KVH_LOAD_COPY:
		return CALL(cudaMemcpyAsync, load->c, load->a, OPERAND_BYTES,
			    cudaMemcpyDeviceToDevice, load->stream);
	default: return run_gemm(load, kvh_load_gemm(kernel));
	}
}

int gpu_run(void *self, enum kvh_load_kernel kernel, uint32_t n, uint64_t *ns_p)
{
	gpu_load *load = static_cast<gpu_load *>(self);
	float ms = 0;
	int err = CALL(cudaSetDevice, load->ordinal);

	if (err == 0)
		err = CALL(cudaEventRecord, load->begun, load->stream);
	for (uint32_t i = 0; i < n && err == 0; i++)
		err = run_one(load, kernel);
	if (err == 0)
		err = CALL(cudaEventRecord, load->ended, load->stream);
	if (err == 0)
		err = CALL(cudaEventSynchronize, load->ended);
	if (err == 0)
		err = CALL(cudaEventElapsedTime, &ms, load->begun, load->ended);
	if (err == 0)
		*ns_p = uint64_t(double(ms) * 1e6);
	return err;
}

// ---- check ----

template <typename T>
int fetch(T *to, const T *from)
{
	return CALL(cudaMemcpy, to, from, sizeof(T), cudaMemcpyDeviceToHost);
}

int check_gemm(gpu_load *load, const kvh_gemm_shape &shape, uint32_t place, bool *right_p)
{
	const uint32_t row = place / 65536 % shape.rows, column = place % 65536 % shape.columns;
	float want = 0;
	bf16 got;
	int err = fetch(&got, load->c + size_t(row) * shape.columns + column);

	for (uint32_t k = 0; k < shape.depth; k++)
		want += number_of(0, row * shape.depth + k) *
			number_of(1, k * shape.columns + column);
	*right_p = __bfloat162float(got) == __bfloat162float(__float2bfloat16_rn(want));
	return err;
}

int check_one(gpu_load *load, enum kvh_load_kernel kernel, uint32_t place, bool *right_p)
{
	const uint32_t thread = place % (load->n_sms * WAVE_THREADS);
	uint32_t wave;
	bf16 copied;
	int err;

	switch (kernel) {
	case KVH_LOAD_WAVE:
		err = fetch(&wave, load->wave + thread);
		*right_p = wave == wave_result(thread);
		return err;
	case KVH_LOAD_COPY:
		err = fetch(&copied, load->c + place % OPERAND);
		*right_p = __bfloat162float(copied) ==
			   __bfloat162float(__float2bfloat16_rn(number_of(0, place % OPERAND)));
		return err;
	default: return check_gemm(load, kvh_load_gemm(kernel), place, right_p);
	}
}

// Afterwards what it left is wiped out, so that the next check is not of this run.
int gpu_check(void *self, enum kvh_load_kernel kernel, bool *right_p)
{
	gpu_load *load = static_cast<gpu_load *>(self);
	const size_t wave_bytes = size_t(load->n_sms) * WAVE_THREADS * sizeof(uint32_t);
	bool right = true;
	int err = CALL(cudaSetDevice, load->ordinal);

	for (unsigned i = 0; i < CHECKS && err == 0; i++) {
		bool one = false;

		err = check_one(load, kernel, mix(load->seed++), &one);
		right = right && one;
	}
	if (err == 0)
		err = CALL(cudaMemset, load->c, 0xff, OPERAND_BYTES);
	if (err == 0)
		err = CALL(cudaMemset, load->wave, 0xff, wave_bytes);
	if (err == 0)
		err = CALL(cudaDeviceSynchronize);
	if (err == 0)
		*right_p = right;
	return err;
}

const struct kvh_load_ops gpu_ops = {
	.open = gpu_open,
	.close = gpu_close,
	.how = gpu_how,
	.has = gpu_has,
	.run = gpu_run,
	.check = gpu_check,
};

} // namespace

extern "C" {
extern const struct kvh_load_ops *const kvh_load_gpu;
const struct kvh_load_ops *const kvh_load_gpu = &gpu_ops;
}
