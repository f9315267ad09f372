/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_cuda.cu - the seam on CUDA: each function enters the device's context,
 * makes one call of the runtime, and leaves. Any thread; nothing waits for the
 * GPU but stream_wait (and freeing memory, as CUDA has it). See
 * device_cuda_impl.h.
 */
#include "cuda/device_cuda_impl.h"
#include "cuda/pack.h"
#include "host/log.h"

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <sys/eventfd.h>

namespace
{

constexpr size_t BATCH = 256; // copies a submission: three arrays on the stack

// 1 under capture, 0 not. The legacy stream may not be asked while another one is
// captured globally: it would have to take part.
int capturing(cuda_device *dev, cudaStream_t stream)
{
	cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
	cudaError_t error = kvh_cuda_take(cudaStreamIsCapturing(stream, &status));

	if (error == cudaErrorStreamCaptureImplicit)
		return 1;
	if (error != cudaSuccess)
		return kvh_cuda_check(dev, "cudaStreamIsCapturing", error);
	return status != cudaStreamCaptureStatusNone;
}

// Enters if work may be enqueued; else -EBUSY or an error, and there is nothing to
// leave. Under capture enqueueing would succeed: the work would run when the graph
// does, or never, and an event recorded there poisons whoever waits for it.
int enqueue_enter(cuda_device *dev, cudaStream_t stream)
{
	int err = kvh_cuda_enter(dev);

	if (err != 0)
		return err;
	int rc = capturing(dev, stream);
	if (rc == 0)
		return 0;
	return kvh_cuda_leave(dev, rc > 0 ? -EBUSY : rc);
}

void cuda_info(struct kvh_device *base, struct kvh_device_info *info)
{
	*info = cuda_of(base)->info;
}

bool cuda_dead(struct kvh_device *base)
{
	return cuda_of(base)->dead.load(std::memory_order_relaxed);
}

// ---- memory ----

// A size that no machine has, CUDA may call an invalid value.
int alloc_result(int err)
{
	return err == -EINVAL ? -ENOMEM : err;
}

int cuda_mem_alloc(struct kvh_device *base, uint64_t bytes, void **mem_p)
{
	cuda_device *dev = cuda_of(base);
	void *mem = nullptr;
	int err = bytes == 0 ? -EINVAL : kvh_cuda_enter(dev); // of none CUDA makes NULL

	if (err != 0)
		return err;
	err = alloc_result(kvh_cuda_leave(dev, CUDA_CALL(dev, cudaMalloc, &mem, bytes)));
	if (err == 0)
		*mem_p = mem;
	return err;
}

void cuda_mem_free(struct kvh_device *base, void *mem)
{
	cuda_device *dev = cuda_of(base);

	if (mem != nullptr && kvh_cuda_enter(dev) == 0)
		(void)kvh_cuda_leave(dev, CUDA_CALL(dev, cudaFree, mem));
}

// Managed memory is its who allocated it. What CUDA does not know, or only as pinned,
// is no device's.
int cuda_owns(struct kvh_device *base, const void *mem)
{
	cuda_device *dev = cuda_of(base);
	cudaPointerAttributes attrs = {};
	int err = kvh_cuda_enter(dev);

	if (err != 0)
		return err;
	err = kvh_cuda_leave(dev, CUDA_CALL(dev, cudaPointerGetAttributes, &attrs, mem));
	if (err != 0)
		return err;
	if (attrs.type != cudaMemoryTypeDevice && attrs.type != cudaMemoryTypeManaged)
		return KVH_OWNS_NO;
	return attrs.device == dev->ordinal ? KVH_OWNS_YES : KVH_OWNS_NO;
}

int cuda_host_alloc(struct kvh_device *base, uint64_t bytes, void **mem_p)
{
	cuda_device *dev = cuda_of(base);
	unsigned int flags = cudaHostAllocPortable | cudaHostAllocMapped;
	void *mem = nullptr;
	int err = bytes == 0 ? -EINVAL : kvh_cuda_enter(dev);

	if (err != 0)
		return err;
	err = alloc_result(
		kvh_cuda_leave(dev, CUDA_CALL(dev, cudaHostAlloc, &mem, bytes, flags)));
	if (err == 0)
		*mem_p = mem;
	return err;
}

void cuda_host_free(struct kvh_device *base, void *mem)
{
	cuda_device *dev = cuda_of(base);

	if (mem != nullptr && kvh_cuda_enter(dev) == 0)
		(void)kvh_cuda_leave(dev, CUDA_CALL(dev, cudaFreeHost, mem));
}

int cuda_host_register(struct kvh_device *base, void *mem, uint64_t bytes)
{
	cuda_device *dev = cuda_of(base);
	unsigned int flags = cudaHostRegisterPortable | cudaHostRegisterMapped;
	int err = kvh_cuda_enter(dev);

	if (err != 0)
		return err;
	return kvh_cuda_leave(dev, CUDA_CALL(dev, cudaHostRegister, mem, bytes, flags));
}

int cuda_host_unregister(struct kvh_device *base, void *mem)
{
	cuda_device *dev = cuda_of(base);
	int err = kvh_cuda_enter(dev);

	if (err != 0)
		return err;
	return kvh_cuda_leave(dev, CUDA_CALL(dev, cudaHostUnregister, mem));
}

// ---- streams and events ----

// The driver's levels go down: the highest is the least number.
int stream_level(const cuda_device *dev, int priority)
{
	if (priority == 0)
		return dev->priority_normal;
	if (priority == 1 && dev->priority_normal - dev->priority_high >= 2)
		return dev->priority_high + 1;
	return dev->priority_high;
}

int cuda_stream_create(struct kvh_device *base, int priority, kvh_stream *stream_p)
{
	cuda_device *dev = cuda_of(base);
	int level = stream_level(dev, priority);
	cudaStream_t stream = nullptr;
	int err = kvh_cuda_enter(dev);

	if (err != 0)
		return err;
	// Non-blocking: nothing of ours waits for work on the legacy stream.
	err = kvh_cuda_leave(dev, CUDA_CALL(dev, cudaStreamCreateWithPriority, &stream,
					    cudaStreamNonBlocking, level));
	if (err == 0)
		*stream_p = stream;
	return err;
}

void cuda_stream_destroy(struct kvh_device *base, kvh_stream stream)
{
	cuda_device *dev = cuda_of(base);

	if (stream != nullptr && kvh_cuda_enter(dev) == 0)
		(void)kvh_cuda_leave(dev, CUDA_CALL(dev, cudaStreamDestroy, stream));
}

int cuda_stream_wait(struct kvh_device *base, kvh_stream stream)
{
	cuda_device *dev = cuda_of(base);
	int err = kvh_cuda_enter(dev);

	if (err != 0)
		return err;
	return kvh_cuda_leave(dev, CUDA_CALL(dev, cudaStreamSynchronize, stream));
}

int cuda_stream_capturing(struct kvh_device *base, kvh_stream stream)
{
	cuda_device *dev = cuda_of(base);
	int err = kvh_cuda_enter(dev);

	return err != 0 ? err : kvh_cuda_leave(dev, capturing(dev, stream));
}

int cuda_event_create(struct kvh_device *base, kvh_event_mark *event_p)
{
	cuda_device *dev = cuda_of(base);
	cudaEvent_t event = nullptr;
	int err = kvh_cuda_enter(dev);

	if (err != 0)
		return err;
	err = kvh_cuda_leave(
		dev, CUDA_CALL(dev, cudaEventCreateWithFlags, &event, cudaEventDisableTiming));
	if (err == 0)
		*event_p = event;
	return err;
}

void cuda_event_destroy(struct kvh_device *base, kvh_event_mark event)
{
	cuda_device *dev = cuda_of(base);

	if (event != nullptr && kvh_cuda_enter(dev) == 0)
		(void)kvh_cuda_leave(dev, CUDA_CALL(dev, cudaEventDestroy, event));
}

int cuda_event_record(struct kvh_device *base, kvh_event_mark event, kvh_stream stream)
{
	cuda_device *dev = cuda_of(base);
	int err = enqueue_enter(dev, stream);

	if (err != 0)
		return err;
	return kvh_cuda_leave(dev, CUDA_CALL(dev, cudaEventRecord, event, stream));
}

int cuda_event_query(struct kvh_device *base, kvh_event_mark event)
{
	cuda_device *dev = cuda_of(base);
	int err = kvh_cuda_enter(dev);

	if (err != 0)
		return err;
	cudaError_t error = kvh_cuda_take(cudaEventQuery(event));
	if (error == cudaErrorNotReady)
		return kvh_cuda_leave(dev, 0);
	err = kvh_cuda_leave(dev, kvh_cuda_check(dev, "cudaEventQuery", error));
	return err != 0 ? err : 1;
}

int cuda_stream_wait_event(struct kvh_device *base, kvh_stream stream, kvh_event_mark event)
{
	cuda_device *dev = cuda_of(base);
	int err = enqueue_enter(dev, stream);

	if (err != 0)
		return err;
	return kvh_cuda_leave(dev, CUDA_CALL(dev, cudaStreamWaitEvent, stream, event, 0));
}

// ---- work for streams ----

cudaMemcpyKind copy_kind(enum kvh_copy_kind kind)
{
	switch (kind) {
	case KVH_COPY_D2H: return cudaMemcpyDeviceToHost;
	case KVH_COPY_H2D: return cudaMemcpyHostToDevice;
	case KVH_COPY_D2D: return cudaMemcpyDeviceToDevice;
	}
	return cudaMemcpyDefault;
}

int copy_loop(cuda_device *dev, enum kvh_copy_kind kind, const struct kvh_copy *copies,
	      size_t n, cudaStream_t stream)
{
	int err = 0;

	for (const kvh_copy *c = copies; err == 0 && c < copies + n; c++)
		err = CUDA_CALL(dev, cudaMemcpyAsync, c->dst, c->src, c->bytes, copy_kind(kind),
				stream);
	return err;
}

int cuda_copy(struct kvh_device *base, enum kvh_copy_kind kind, const struct kvh_copy *copy,
	      kvh_stream stream)
{
	cuda_device *dev = cuda_of(base);
	int err = enqueue_enter(dev, stream);

	if (err != 0)
		return err;
	return kvh_cuda_leave(dev, copy_loop(dev, kind, copy, 1, stream));
}

int cuda_copy_2d(struct kvh_device *base, enum kvh_copy_kind kind, void *dst,
		 uint64_t dst_pitch, const void *src, uint64_t src_pitch, uint64_t width,
		 uint64_t height, kvh_stream stream)
{
	cuda_device *dev = cuda_of(base);
	int err = enqueue_enter(dev, stream);

	if (err != 0)
		return err;
	return kvh_cuda_leave(dev,
			      CUDA_CALL(dev, cudaMemcpy2DAsync, dst, dst_pitch, src, src_pitch,
					width, height, copy_kind(kind), stream));
}

cudaError_t memcpy_batch(void **dsts, const void **srcs, size_t *sizes, size_t n,
			 cudaStream_t stream)
{
	cudaMemcpyAttributes attrs = {};
	size_t first = 0;

	attrs.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
#if CUDART_VERSION >= 13000
	return cudaMemcpyBatchAsync(dsts, srcs, sizes, n, &attrs, &first, 1, stream);
#else
	size_t failed;
	return cudaMemcpyBatchAsync(dsts, const_cast<void **>(srcs), sizes, n, &attrs, &first,
				    1, &failed, stream);
#endif
}

// At most BATCH copies. Empty ones are left out: a batch may not have them.
int copy_some(cuda_device *dev, enum kvh_copy_kind kind, const struct kvh_copy *copies,
	      size_t n, cudaStream_t stream)
{
	void *dsts[BATCH];
	const void *srcs[BATCH];
	size_t sizes[BATCH];
	size_t filled = 0;

	for (size_t i = 0; i < n; i++) {
		if (copies[i].bytes == 0)
			continue;
		dsts[filled] = copies[i].dst;
		srcs[filled] = copies[i].src;
		sizes[filled] = copies[i].bytes;
		filled++;
	}
	if (filled == 0)
		return 0;
	cudaError_t error = kvh_cuda_take(memcpy_batch(dsts, srcs, sizes, filled, stream));
	if (error == cudaErrorCallRequiresNewerDriver || error == cudaErrorNotSupported) {
		kvh_info("cuda:%d: no batches of copies (%s): one by one", dev->ordinal,
			 cudaGetErrorName(error));
		dev->no_batch.store(true, std::memory_order_relaxed);
		return copy_loop(dev, kind, copies, n, stream);
	}
	return kvh_cuda_check(dev, "cudaMemcpyBatchAsync", error);
}

int cuda_copy_batch(struct kvh_device *base, enum kvh_copy_kind kind,
		    const struct kvh_copy *copies, size_t n, kvh_stream stream)
{
	cuda_device *dev = cuda_of(base);
	int err = enqueue_enter(dev, stream);

	if (err != 0)
		return err;
	// The legacy stream is refused in a batch, and one copy needs none.
	if (stream == nullptr || stream == cudaStreamLegacy || n == 1 ||
	    dev->no_batch.load(std::memory_order_relaxed))
		return kvh_cuda_leave(dev, copy_loop(dev, kind, copies, n, stream));
	for (size_t i = 0; err == 0 && i < n; i += BATCH)
		err = copy_some(dev, kind, copies + i, n - i < BATCH ? n - i : BATCH, stream);
	return kvh_cuda_leave(dev, err);
}

// A launch that failed is a context error, or a GPU that can never run the kernel:
// the device is of no use either way.
int launched(cuda_device *dev, const char *site, int err)
{
	if (err == -EIO)
		kvh_cuda_die(dev, site, "the launch failed");
	return kvh_cuda_leave(dev, err);
}

int cuda_gather(struct kvh_device *base, const struct kvh_pack *pack, kvh_stream stream)
{
	cuda_device *dev = cuda_of(base);
	int err = enqueue_enter(dev, stream);

	return err != 0 ? err : launched(dev, "gather", kvh_gather_cuda(pack, stream));
}

int cuda_scatter(struct kvh_device *base, const struct kvh_pack *pack, kvh_stream stream)
{
	cuda_device *dev = cuda_of(base);
	int err = enqueue_enter(dev, stream);

	return err != 0 ? err : launched(dev, "scatter", kvh_scatter_cuda(pack, stream));
}

// On a thread of the driver's, which must not call CUDA. Full or closed: the hint
// was there already, or nobody wants it.
void CUDART_CB notify_run(void *arg)
{
	(void)eventfd_write(static_cast<int>(reinterpret_cast<intptr_t>(arg)), 1);
}

int cuda_notify(struct kvh_device *base, kvh_stream stream, int eventfd)
{
	cuda_device *dev = cuda_of(base);
	void *arg = reinterpret_cast<void *>(static_cast<intptr_t>(eventfd));
	int err = enqueue_enter(dev, stream);

	if (err != 0)
		return err;
	return kvh_cuda_leave(dev, CUDA_CALL(dev, cudaLaunchHostFunc, stream, notify_run, arg));
}

// The context goes with the last who keeps it: the runtime's tensors stay.
void cuda_close(struct kvh_device *base)
{
	cuda_device *dev = cuda_of(base);

	if (!cuda_dead(base))
		(void)kvh_cuda_check_driver(dev, "cuDevicePrimaryCtxRelease",
					    dev->driver.ctx_release(dev->device));
	free(dev);
}

} // namespace

const struct kvh_device_ops kvh_cuda_ops = {
	.name = "cuda",
	.close = cuda_close,
	.info = cuda_info,
	.dead = cuda_dead,
	.mem_alloc = cuda_mem_alloc,
	.mem_free = cuda_mem_free,
	.owns = cuda_owns,
	.host_alloc = cuda_host_alloc,
	.host_free = cuda_host_free,
	.host_register = cuda_host_register,
	.host_unregister = cuda_host_unregister,
	.stream_create = cuda_stream_create,
	.stream_destroy = cuda_stream_destroy,
	.stream_wait = cuda_stream_wait,
	.stream_capturing = cuda_stream_capturing,
	.event_create = cuda_event_create,
	.event_destroy = cuda_event_destroy,
	.event_record = cuda_event_record,
	.event_query = cuda_event_query,
	.stream_wait_event = cuda_stream_wait_event,
	.copy = cuda_copy,
	.copy_2d = cuda_copy_2d,
	.copy_batch = cuda_copy_batch,
	.gather = cuda_gather,
	.scatter = cuda_scatter,
	.notify = cuda_notify,
};
