/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda_fake.h - a CUDA runtime that is not there, with two GPUs: its functions are
 * defined here, and the seam's files compiled against them, into the one program that
 * includes this. Work is done at the call, on host memory, so an engine runs over it;
 * whatever the seam must keep to is insisted on: a context of the right GPU, relaxed
 * capture mode, no legacy stream in batches. A call fails when told to; the last error
 * is the thread's, as in the runtime. What CUDA does with calls it can't show.
 */
#ifndef KVH_TESTS_CUDA_FAKE_H
#define KVH_TESTS_CUDA_FAKE_H

#include "cuda/device_cuda.cu"
#include "cuda/device_cuda_error.cu"
#include "cuda/device_cuda_open.cu"

#include <array>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace fake
{

constexpr int GPUS = 2;

struct Gpu {
	int calls = 0;    /* that concern it */
	int kept = 0;     /* times its context was made sure of, since the reset */
	int retained = 0; /* times its context is kept */
	cudaError_t dead = cudaSuccess; /* a context error: what every call says then */
	bool mourned = false;           /* set by the test: the seam knows that it is dead */
	bool touched = false;           /* called since */
	int major = 9;                  /* compute capability */
};

struct Memory {
	int gpu;
	bool pinned; /* the host's, allocated through the GPU */
	size_t bytes;
};

struct State {
	int calls = 0;      /* of all */
	int fail_at = -1;   /* this call fails, of all or of those of one GPU */
	int fail_on = -1;   /* that GPU */
	bool stays = false; /* with a context error the GPU is dead, as a real one would be */
	cudaError_t error = cudaSuccess;
	std::string failed; /* the call that did */
	std::array<Gpu, GPUS> gpus;
	cudaError_t query = cudaSuccess, capture = cudaSuccess, batch = cudaSuccess;
	int batches = 0, copies = 0;
	std::map<void *, Memory> memory;
	std::map<const void *, size_t> registered;
	int greatest = -5; /* of the streams' levels, and what the last one got */
	int level = 1;
};
inline State state;
inline std::recursive_mutex lock;
using Guard = std::lock_guard<std::recursive_mutex>;

/* Of a thread. */
inline thread_local cudaError_t last = cudaSuccess;
inline thread_local std::vector<int> contexts; /* pushed: GPUs */
inline thread_local CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

inline void reset()
{
	for (auto &m : state.memory)
		free(m.first);
	state = {};
	last = cudaSuccess;
}

inline int current()
{
	return contexts.empty() ? -1 : contexts.back();
}

inline cudaError_t result(cudaError_t error)
{
	if (error != cudaSuccess)
		last = error;
	return error;
}

inline bool kills(cudaError_t error)
{
	return error_find(error)->sticky;
}

/* A call that concerns a GPU (-1: none): does it fail? */
inline cudaError_t concern(const char *name, int gpu)
{
	Guard guard(lock);
	const int n = state.fail_on < 0      ? state.calls
		      : gpu == state.fail_on ? state.gpus[gpu].calls
					     : -2;

	state.calls++;
	if (gpu >= 0) {
		Gpu &g = state.gpus[gpu];

		g.calls++;
		g.touched |= g.mourned;
		if (g.dead != cudaSuccess)
			return result(g.dead);
	}
	if (n != state.fail_at)
		return cudaSuccess;
	state.failed = name;
	if (state.stays && gpu >= 0 && kills(state.error))
		state.gpus[gpu].dead = state.error;
	return result(state.error);
}

/* A call in a context: it would make one, were none there. */
inline cudaError_t call(const char *name)
{
	EXPECT_EQ(contexts.size(), 1u) << name;
	EXPECT_EQ(mode, CU_STREAM_CAPTURE_MODE_RELAXED) << name;
	return concern(name, current());
}

template <typename Handle>
cudaError_t make(const char *name, Handle *handle)
{
	static int thing;
	cudaError_t error = call(name);

	if (error == cudaSuccess)
		*handle = reinterpret_cast<Handle>(&thing);
	return error;
}

inline cudaError_t allocate(const char *name, void **mem, size_t bytes, bool pinned)
{
	cudaError_t error = call(name);

	if (error != cudaSuccess)
		return error;
	Guard guard(lock);
	*mem = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
	state.memory[*mem] = {current(), pinned, bytes};
	return cudaSuccess;
}

inline cudaError_t release(const char *name, void *mem)
{
	cudaError_t error = call(name);

	if (error != cudaSuccess)
		return error;
	Guard guard(lock);
	EXPECT_EQ(state.memory.erase(mem), 1u);
	free(mem);
	return cudaSuccess;
}

inline void copy_rows(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
		      size_t width, size_t height)
{
	for (size_t y = 0; y < height; y++)
		memcpy(static_cast<char *>(dst) + y * dst_pitch,
		       static_cast<const char *>(src) + y * src_pitch, width);
}

/* ---- the driver ------------------------------------------------------- */

inline CUresult device_get(CUdevice *device, int ordinal)
{
	*device = ordinal;
	return CUDA_SUCCESS;
}

inline CUresult ctx_retain(CUcontext *ctx, CUdevice device)
{
	Guard guard(lock);

	*ctx = reinterpret_cast<CUcontext>(static_cast<intptr_t>(device) + 1);
	state.gpus[device].retained++;
	state.gpus[device].kept++;
	return CUDA_SUCCESS;
}

inline CUresult ctx_release(CUdevice device)
{
	Guard guard(lock);
	Gpu &g = state.gpus[device];

	g.touched |= g.mourned;
	EXPECT_GT(g.retained, 0);
	g.retained--;
	return CUDA_SUCCESS;
}

inline CUresult ctx_push(CUcontext ctx)
{
	Guard guard(lock);
	const int gpu = static_cast<int>(reinterpret_cast<intptr_t>(ctx)) - 1;
	Gpu &g = state.gpus[gpu];

	g.touched |= g.mourned;
	EXPECT_GT(g.retained, 0) << "a context that nobody keeps";
	contexts.push_back(gpu);
	return CUDA_SUCCESS;
}

inline CUresult ctx_pop(CUcontext *)
{
	contexts.pop_back();
	return CUDA_SUCCESS;
}

inline CUresult mode_swap(CUstreamCaptureMode *other)
{
	std::swap(*other, mode);
	return CUDA_SUCCESS;
}

inline const struct {
	const char *name;
	void *fn;
} driver[] = {
	{"cuDeviceGet", reinterpret_cast<void *>(device_get)},
	{"cuDevicePrimaryCtxRetain", reinterpret_cast<void *>(ctx_retain)},
	{"cuDevicePrimaryCtxRelease", reinterpret_cast<void *>(ctx_release)},
	{"cuCtxPushCurrent", reinterpret_cast<void *>(ctx_push)},
	{"cuCtxPopCurrent", reinterpret_cast<void *>(ctx_pop)},
	{"cuThreadExchangeStreamCaptureMode", reinterpret_cast<void *>(mode_swap)},
};

} // namespace fake

/* ---- the runtime ------------------------------------------------------ */

extern "C" {

cudaError_t cudaGetLastError(void)
{
	return std::exchange(fake::last, cudaSuccess);
}
const char *cudaGetErrorName(cudaError_t)
{
	return "cudaErrorOfAKind";
}
cudaError_t cudaGetDeviceCount(int *n)
{
	*n = fake::GPUS;
	return fake::concern("cudaGetDeviceCount", -1);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int gpu)
{
	memset(prop, 0, sizeof(*prop));
	snprintf(prop->name, sizeof(prop->name), "GPU %d of the test", gpu);
	prop->major = fake::state.gpus[gpu].major;
	memset(prop->uuid.bytes, 0x10 + gpu, sizeof(prop->uuid.bytes));
	prop->multiProcessorCount = 4;
	return fake::concern("cudaGetDeviceProperties", gpu);
}
cudaError_t cudaDriverGetVersion(int *version)
{
	*version = 13000;
	return fake::concern("cudaDriverGetVersion", -1);
}
cudaError_t cudaDeviceGetPCIBusId(char *id, int, int gpu)
{
	*id = '\0';
	return fake::concern("cudaDeviceGetPCIBusId", gpu);
}
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **fn, unsigned int,
					     unsigned long long,
					     cudaDriverEntryPointQueryResult *found)
{
	*found = cudaDriverEntryPointSymbolNotFound;
	for (const auto &f : fake::driver) {
		if (strcmp(f.name, symbol) == 0) {
			*fn = f.fn;
			*found = cudaDriverEntryPointSuccess;
		}
	}
	return fake::concern("cudaGetDriverEntryPointByVersion", -1);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
	*least = 0;
	*greatest = fake::state.greatest;
	return fake::call("cudaDeviceGetStreamPriorityRange");
}
cudaError_t cudaMalloc(void **mem, size_t bytes)
{
	return fake::allocate("cudaMalloc", mem, bytes, false);
}
cudaError_t cudaFree(void *mem)
{
	return fake::release("cudaFree", mem);
}
cudaError_t cudaHostAlloc(void **mem, size_t bytes, unsigned int)
{
	return fake::allocate("cudaHostAlloc", mem, bytes, true);
}
cudaError_t cudaFreeHost(void *mem)
{
	return fake::release("cudaFreeHost", mem);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attrs, const void *mem)
{
	fake::Guard guard(fake::lock);

	*attrs = {};
	attrs->type = cudaMemoryTypeUnregistered;
	attrs->device = -2; /* as CUDA has it: no device */
	for (const auto &m : fake::state.memory) {
		const char *base = static_cast<const char *>(m.first);

		if (mem < base || mem >= base + m.second.bytes)
			continue;
		attrs->type = m.second.pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
		attrs->device = m.second.gpu;
	}
	return fake::call("cudaPointerGetAttributes");
}
cudaError_t cudaHostRegister(void *mem, size_t bytes, unsigned int flags)
{
	cudaError_t error = fake::call("cudaHostRegister");
	fake::Guard guard(fake::lock);

	EXPECT_EQ(flags, unsigned{cudaHostRegisterPortable | cudaHostRegisterMapped});
	if (error == cudaSuccess && !fake::state.registered.emplace(mem, bytes).second)
		return fake::result(cudaErrorHostMemoryAlreadyRegistered);
	return error;
}
cudaError_t cudaHostUnregister(void *mem)
{
	cudaError_t error = fake::call("cudaHostUnregister");
	fake::Guard guard(fake::lock);

	if (error == cudaSuccess && fake::state.registered.erase(mem) == 0)
		return fake::result(cudaErrorHostMemoryNotRegistered);
	return error;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int level)
{
	fake::state.level = level;
	EXPECT_EQ(flags, unsigned{cudaStreamNonBlocking});
	return fake::make("cudaStreamCreateWithPriority", stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t)
{
	return fake::call("cudaStreamDestroy");
}
cudaError_t cudaStreamSynchronize(cudaStream_t)
{
	return fake::call("cudaStreamSynchronize");
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus *status)
{
	*status = cudaStreamCaptureStatusNone;
	cudaError_t error = fake::call("cudaStreamIsCapturing");

	return error != cudaSuccess ? error : fake::result(fake::state.capture);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int)
{
	return fake::make("cudaEventCreateWithFlags", event);
}
cudaError_t cudaEventDestroy(cudaEvent_t)
{
	return fake::call("cudaEventDestroy");
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t)
{
	return fake::call("cudaEventRecord");
}
cudaError_t cudaEventQuery(cudaEvent_t)
{
	cudaError_t error = fake::call("cudaEventQuery");

	return error != cudaSuccess ? error : fake::result(fake::state.query);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned int)
{
	return fake::call("cudaStreamWaitEvent");
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind,
			    cudaStream_t)
{
	cudaError_t error = fake::call("cudaMemcpyAsync");
	fake::Guard guard(fake::lock);

	fake::state.copies++;
	if (error == cudaSuccess)
		fake::copy_rows(dst, 0, src, 0, bytes, 1);
	return error;
}
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
			      size_t width, size_t height, cudaMemcpyKind, cudaStream_t)
{
	cudaError_t error = fake::call("cudaMemcpy2DAsync");

	if (error == cudaSuccess)
		fake::copy_rows(dst, dst_pitch, src, src_pitch, width, height);
	return error;
}
#if CUDART_VERSION >= 13000
cudaError_t cudaMemcpyBatchAsync(void *const *dsts, const void *const *srcs,
				 const size_t *sizes, size_t n, cudaMemcpyAttributes *,
				 size_t *, size_t, cudaStream_t stream)
#else
cudaError_t cudaMemcpyBatchAsync(void **dsts, void **srcs, size_t *sizes, size_t n,
				 cudaMemcpyAttributes *, size_t *, size_t, size_t *,
				 cudaStream_t stream)
#endif
{
	EXPECT_NE(stream, nullptr) << "the legacy stream takes no batches";
	cudaError_t error = fake::call("cudaMemcpyBatchAsync");
	fake::Guard guard(fake::lock);

	fake::state.batches++;
	error = error != cudaSuccess ? error : fake::result(fake::state.batch);
	for (size_t i = 0; i < n && error == cudaSuccess; i++)
		fake::copy_rows(dsts[i], 0, srcs[i], 0, sizes[i], 1);
	return error;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t fn, void *arg)
{
	cudaError_t error = fake::call("cudaLaunchHostFunc");

	if (error == cudaSuccess)
		fn(arg);
	return error;
}

/* pack.cu's: it needs a compiler for kernels. Errors were taken already. */
static int pack_call(const char *name)
{
	cudaError_t error = fake::call(name);

	(void)cudaGetLastError();
	return error == cudaSuccess ? 0 : -EIO;
}
int kvh_pack_load_cuda(void)
{
	return pack_call("load");
}
int kvh_gather_cuda(const struct kvh_pack *pack, struct CUstream_st *)
{
	int err = pack_call("gather");

	return err != 0 || pack->plan == nullptr ? err : kvh_gather_ref(pack);
}
int kvh_scatter_cuda(const struct kvh_pack *pack, struct CUstream_st *)
{
	int err = pack_call("scatter");

	return err != 0 || pack->plan == nullptr ? err : kvh_scatter_ref(pack);
}

} // extern "C"

#endif
