/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_cuda_test.cc - the seam on CUDA over a runtime that is not there: its
 * functions are defined here, and the seam's files compiled against them. They do
 * next to nothing, but fail when told to, keep a last error as the runtime does,
 * and insist on a context and on relaxed capture mode. So this shows how the seam
 * treats errors, on any machine; what CUDA does with its calls it can't show.
 */
#include "cuda/device_cuda.cu"
#include "cuda/device_cuda_error.cu"
#include "cuda/device_cuda_open.cu"

#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <set>
#include <string>

namespace fake
{

struct State {
	int calls = 0, fail_at = -1;
	cudaError_t error = cudaSuccess;
	std::string failed;             /* the call that did */
	cudaError_t last = cudaSuccess; /* of the thread; there is one */
	int depth = 0, retained = 0;    /* contexts pushed, kept */
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
	bool dead = false, touched = false; /* set by the test; called since */
	cudaError_t query = cudaSuccess, capture = cudaSuccess, batch = cudaSuccess;
	int batches = 0, copies = 0;
	cudaMemoryType memory_type = cudaMemoryTypeDevice; /* of any pointer */
	int memory_device = 0;
};
State state;

cudaError_t result(cudaError_t error)
{
	if (error != cudaSuccess)
		state.last = error;
	return error;
}

/* Of every function: does it fail this time? */
cudaError_t call(const char *name, bool in_context = true)
{
	state.touched |= state.dead;
	if (in_context) {
		EXPECT_EQ(state.depth, 1) << name;
		EXPECT_EQ(state.mode, CU_STREAM_CAPTURE_MODE_RELAXED) << name;
	}
	if (state.calls++ != state.fail_at)
		return cudaSuccess;
	state.failed = name;
	return result(state.error);
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

CUresult device_get(CUdevice *device, int ordinal)
{
	*device = ordinal;
	return CUDA_SUCCESS;
}

CUresult ctx_retain(CUcontext *ctx, CUdevice)
{
	*ctx = nullptr;
	state.retained++;
	return CUDA_SUCCESS;
}

CUresult ctx_release(CUdevice)
{
	state.touched |= state.dead;
	state.retained--;
	return CUDA_SUCCESS;
}

CUresult ctx_push(CUcontext)
{
	state.touched |= state.dead;
	state.depth++;
	return CUDA_SUCCESS;
}

CUresult ctx_pop(CUcontext *)
{
	state.depth--;
	return CUDA_SUCCESS;
}

CUresult mode_swap(CUstreamCaptureMode *mode)
{
	std::swap(*mode, state.mode);
	return CUDA_SUCCESS;
}

const struct {
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
	return std::exchange(fake::state.last, cudaSuccess);
}
const char *cudaGetErrorName(cudaError_t)
{
	return "cudaErrorOfAKind";
}
cudaError_t cudaGetDeviceCount(int *n)
{
	*n = 2;
	return fake::call("cudaGetDeviceCount", false);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int)
{
	memset(prop, 0, sizeof(*prop));
	strcpy(prop->name, "GPU of the test");
	prop->major = 9;
	return fake::call("cudaGetDeviceProperties", false);
}
cudaError_t cudaDriverGetVersion(int *version)
{
	*version = 13000;
	return fake::call("cudaDriverGetVersion", false);
}
cudaError_t cudaDeviceGetPCIBusId(char *id, int, int)
{
	*id = '\0';
	return fake::call("cudaDeviceGetPCIBusId", false);
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
	return fake::call("cudaGetDriverEntryPointByVersion", false);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
	*least = 0;
	*greatest = -5;
	return fake::call("cudaDeviceGetStreamPriorityRange");
}
cudaError_t cudaMalloc(void **mem, size_t)
{
	return fake::make("cudaMalloc", mem);
}
cudaError_t cudaFree(void *)
{
	return fake::call("cudaFree");
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attrs, const void *)
{
	*attrs = {};
	attrs->type = fake::state.memory_type;
	attrs->device = fake::state.memory_device;
	return fake::call("cudaPointerGetAttributes");
}
cudaError_t cudaHostAlloc(void **mem, size_t, unsigned int)
{
	return fake::make("cudaHostAlloc", mem);
}
cudaError_t cudaFreeHost(void *)
{
	return fake::call("cudaFreeHost");
}
cudaError_t cudaHostRegister(void *, size_t, unsigned int)
{
	return fake::call("cudaHostRegister");
}
cudaError_t cudaHostUnregister(void *)
{
	return fake::call("cudaHostUnregister");
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int)
{
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
cudaError_t cudaMemcpyAsync(void *, const void *, size_t, cudaMemcpyKind, cudaStream_t)
{
	fake::state.copies++;
	return fake::call("cudaMemcpyAsync");
}
cudaError_t cudaMemcpy2DAsync(void *, size_t, const void *, size_t, size_t, size_t,
			      cudaMemcpyKind, cudaStream_t)
{
	return fake::call("cudaMemcpy2DAsync");
}
#if CUDART_VERSION >= 13000
cudaError_t cudaMemcpyBatchAsync(void *const *, const void *const *, const size_t *, size_t,
				 cudaMemcpyAttributes *, size_t *, size_t, cudaStream_t stream)
#else
cudaError_t cudaMemcpyBatchAsync(void **, void **, size_t *, size_t, cudaMemcpyAttributes *,
				 size_t *, size_t, size_t *, cudaStream_t stream)
#endif
{
	EXPECT_NE(stream, nullptr) << "the legacy stream takes no batches";
	fake::state.batches++;
	cudaError_t error = fake::call("cudaMemcpyBatchAsync");

	return error != cudaSuccess ? error : fake::result(fake::state.batch);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t, void *)
{
	return fake::call("cudaLaunchHostFunc");
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
int kvh_gather_cuda(const struct kvh_pack *, struct CUstream_st *)
{
	return pack_call("gather");
}
int kvh_scatter_cuda(const struct kvh_pack *, struct CUstream_st *)
{
	return pack_call("scatter");
}

} // extern "C"

/* ---- tests ------------------------------------------------------------ */

namespace
{

class DeviceCuda : public testing::Test
{
      protected:
	void SetUp() override
	{
		fake::state = {};
		lines = 0;
		first = 0;
		kvh_log_set(count, this, KVH_LOG_WARN);
	}
	void TearDown() override
	{
		kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	}
	static void count(void *arg, kvh_log_level, const char *)
	{
		static_cast<DeviceCuda *>(arg)->lines++;
	}
	/* After every call: as CUDA was before it, whatever came of it. */
	int did(int rc)
	{
		if (rc < 0 && first == 0)
			first = rc;
		EXPECT_EQ(fake::state.last, cudaSuccess) << fake::state.failed;
		EXPECT_EQ(fake::state.depth, 0) << fake::state.failed;
		EXPECT_EQ(fake::state.mode, CU_STREAM_CAPTURE_MODE_GLOBAL)
			<< fake::state.failed;
		fake::state.dead = dev != nullptr && dev->ops->dead(dev);
		return rc;
	}
	void all_but_open();
	/* Every function of the table, from open to close. */
	void all()
	{
		dev = nullptr;
		if (did(kvh_device_cuda_open(1, &dev)) == 0)
			all_but_open();
		EXPECT_EQ(fake::state.retained, fake::state.dead && dev ? 1 : 0)
			<< fake::state.failed;
		EXPECT_FALSE(fake::state.touched) << "when dead, after " << fake::state.failed;
	}

	kvh_device *dev = nullptr;
	int lines = 0, first = 0; /* logged; error */
};

void DeviceCuda::all_but_open()
{
	const kvh_device_ops *ops = dev->ops;
	char here[64] = "", there[64] = "";
	kvh_copy copies[] = {{here, there, 8}, {here + 8, there, 0}, {here + 16, there, 8}};
	kvh_stream stream = nullptr;
	kvh_event_mark event = nullptr;
	kvh_pack pack = {};
	void *mem = nullptr, *host = nullptr;

	did(ops->mem_alloc(dev, 64, &mem));
	did(ops->owns(dev, mem));
	did(ops->host_alloc(dev, 64, &host));
	did(ops->host_register(dev, here, 64));
	did(ops->stream_create(dev, 1, &stream));
	did(ops->event_create(dev, &event));
	did(ops->stream_capturing(dev, stream));
	did(ops->copy(dev, KVH_COPY_H2D, copies, stream));
	if (stream != nullptr)
		did(ops->copy_batch(dev, KVH_COPY_H2D, copies, 3, stream));
	did(ops->copy_batch(dev, KVH_COPY_D2H, copies, 3, nullptr));
	did(ops->copy_2d(dev, KVH_COPY_H2D, here, 16, there, 16, 8, 2, stream));
	did(ops->gather(dev, &pack, stream));
	did(ops->scatter(dev, &pack, stream));
	did(ops->event_record(dev, event, stream));
	did(ops->stream_wait_event(dev, stream, event));
	did(ops->notify(dev, stream, -1));
	did(ops->event_query(dev, event));
	did(ops->stream_wait(dev, stream));
	did(ops->host_unregister(dev, here));
	ops->event_destroy(dev, event);
	did(0);
	ops->stream_destroy(dev, stream);
	did(0);
	ops->mem_free(dev, mem);
	did(0);
	ops->host_free(dev, host);
	did(0);
	ops->close(dev);
}

struct Kind {
	cudaError_t error;
	int err;
	bool dies;
};

const Kind kinds[] = {
	{cudaErrorMemoryAllocation, -ENOMEM, false},
	{cudaErrorInvalidResourceHandle, -EINVAL, false},
	{cudaErrorStreamCaptureUnsupported, -EBUSY, false},
	{cudaErrorOperatingSystem, -ENOMEM, false},
	{cudaErrorInsufficientDriver, -ENODEV, false},
	{cudaErrorIllegalAddress, -EIO, true},
	{cudaErrorECCUncorrectable, -EIO, true},
	{static_cast<cudaError_t>(12345), -EIO, true},
};

/* Each call of all fails once with each kind of error. */
TEST_F(DeviceCuda, EveryCallMayFail)
{
	all();
	const int n = fake::state.calls;
	std::set<std::string> failed;

	ASSERT_EQ(first, 0);
	ASSERT_EQ(lines, 0);
	for (const Kind &kind : kinds) {
		for (int i = 0; i < n; i++) {
			SetUp();
			fake::state.fail_at = i;
			fake::state.error = kind.error;
			all();
			const std::string &name = fake::state.failed;
			SCOPED_TRACE(name + ", error " + std::to_string(kind.error));
			failed.insert(name);
			EXPECT_GE(lines, 1);
			if (name == "gather" || name == "scatter" || name == "load")
				EXPECT_EQ(first, -EIO);
			else if (name == "cudaFree" || name == "cudaFreeHost" ||
				 name == "cudaEventDestroy" || name == "cudaStreamDestroy")
				EXPECT_EQ(first, 0) << "nobody can be told";
			else if (kind.error == cudaErrorInvalidResourceHandle &&
				 (name == "cudaMalloc" || name == "cudaHostAlloc"))
				EXPECT_EQ(first, -ENOMEM);
			else
				EXPECT_EQ(first, kind.err);
			if (HasFailure())
				return;
		}
	}
	EXPECT_EQ(failed.size(), 29u) << "all that CUDA is called for";
}

/* Errors that say something, and are none: they must not stay behind either, or the
 * runtime takes them for its own at its next look. */
TEST_F(DeviceCuda, ExpectedErrorsLeaveNothing)
{
	kvh_event_mark event;
	kvh_stream stream;
	char mem[16];
	kvh_copy copies[] = {{mem, mem + 8, 4}, {mem + 4, mem + 12, 4}};

	ASSERT_EQ(kvh_device_cuda_open(0, &dev), 0);
	ASSERT_EQ(dev->ops->event_create(dev, &event), 0);
	ASSERT_EQ(dev->ops->stream_create(dev, 0, &stream), 0);
	fake::state.query = cudaErrorNotReady;
	EXPECT_EQ(did(dev->ops->event_query(dev, event)), 0);
	fake::state.capture = cudaErrorStreamCaptureImplicit;
	EXPECT_EQ(did(dev->ops->stream_capturing(dev, nullptr)), 1);
	EXPECT_EQ(did(dev->ops->event_record(dev, event, nullptr)), -EBUSY);
	fake::state.capture = cudaSuccess;
	fake::state.batch = cudaErrorCallRequiresNewerDriver;
	for (int i = 1; i <= 2; i++) {
		EXPECT_EQ(did(dev->ops->copy_batch(dev, KVH_COPY_H2D, copies, 2, stream)), 0);
		EXPECT_EQ(fake::state.copies, 2 * i);
	}
	EXPECT_EQ(fake::state.batches, 1) << "asked once";
	EXPECT_EQ(lines, 0);
	dev->ops->close(dev);
}

/* Whose memory is it? Managed memory has a device, too; what is pinned or unknown has
 * none, whatever number stands beside it. */
TEST_F(DeviceCuda, OwnsTheMemoryOfItsNumber)
{
	ASSERT_EQ(kvh_device_cuda_open(1, &dev), 0);
	for (cudaMemoryType type : {cudaMemoryTypeDevice, cudaMemoryTypeManaged,
				    cudaMemoryTypeHost, cudaMemoryTypeUnregistered}) {
		const bool has = type == cudaMemoryTypeDevice || type == cudaMemoryTypeManaged;

		fake::state.memory_type = type;
		for (int device = 0; device < 2; device++) {
			fake::state.memory_device = device;
			EXPECT_EQ(did(dev->ops->owns(dev, nullptr)),
				  has && device == 1 ? KVH_OWNS_YES : KVH_OWNS_NO)
				<< type << " on " << device;
		}
	}
	EXPECT_EQ(lines, 0);
	dev->ops->close(dev);
}

/* What the caller has not looked at yet is the caller's. */
TEST_F(DeviceCuda, ErrorsOfOthersStay)
{
	kvh_event_mark event;

	ASSERT_EQ(kvh_device_cuda_open(0, &dev), 0);
	fake::state.last = cudaErrorInvalidValue;
	EXPECT_EQ(dev->ops->event_create(dev, &event), 0);
	EXPECT_EQ(dev->ops->event_query(dev, event), 1);
	EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
	dev->ops->close(dev);
}

} // namespace
