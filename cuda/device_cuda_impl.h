/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_cuda_impl.h - the inside of the seam on CUDA, for its own three files:
 *
 *   device_cuda.cu        the table: what is called on a device
 *   device_cuda_open.cu   finding, opening and naming devices
 *   device_cuda_error.cu  every result goes through it
 *
 * Which GPU a call means is the thread's current context, and that one is the
 * runtime's. So the device's primary context is pushed for every call and popped
 * again: unlike cudaSetDevice and setting it back, that never makes a context on
 * a GPU that nobody asked for, and leaves the caller's choice as it was.
 *
 * While a thread of the runtime's captures a graph in global mode, as is the
 * default, a query or an allocation on any other thread fails and spoils that
 * graph. None of our calls belongs to one, so they are made in relaxed mode.
 */
#ifndef KVH_CUDA_DEVICE_CUDA_IMPL_H
#define KVH_CUDA_DEVICE_CUDA_IMPL_H

#include "cuda/device.h"

#include <atomic>

#include <cuda.h>
#include <cuda_runtime_api.h>

#if CUDART_VERSION < 12080
#	error "CUDA 12.8 or newer is needed"
#endif

/* The driver's, which is not linked: the library loads where there is none. */
struct cuda_driver {
	CUresult (*device_get)(CUdevice *, int);
	CUresult (*ctx_retain)(CUcontext *, CUdevice);
	CUresult (*ctx_release)(CUdevice);
	CUresult (*ctx_push)(CUcontext);
	CUresult (*ctx_pop)(CUcontext *);
	CUresult (*capture_mode_swap)(CUstreamCaptureMode *);
};

struct cuda_device {
	struct kvh_device base;
	std::atomic<bool> dead;     /* a context error was seen; never reset */
	std::atomic<bool> no_batch; /* the driver has no cudaMemcpyBatchAsync */
	int ordinal;
	CUdevice device;
	CUcontext ctx;
	int priority_normal, priority_high;
	struct cuda_driver driver;
	struct kvh_device_info info;
};

[[maybe_unused]] static inline struct cuda_device *cuda_of(struct kvh_device *dev)
{
	return reinterpret_cast<struct cuda_device *>(dev);
}

extern const struct kvh_device_ops kvh_cuda_ops; /* device_cuda.cu */

/* device_cuda_error.cu */

/* The result as it is; what the runtime keeps as the thread's last error is
 * cleared. For errors that the caller expects; anything else goes to check. */
cudaError_t kvh_cuda_take(cudaError_t error);
/* 0 or a negative errno; logged with the name of the call. */
int kvh_cuda_check(struct cuda_device *dev, const char *site, cudaError_t error);
int kvh_cuda_check_driver(struct cuda_device *dev, const char *site, CUresult result);
/* The errno (positive) of an error. */
int kvh_cuda_errno(cudaError_t error);
/* A context error: from now on CUDA is not called for this device. */
void kvh_cuda_die(struct cuda_device *dev, const char *site, const char *why);

#define CUDA_CALL(dev, fn, ...) kvh_cuda_check(dev, #fn, fn(__VA_ARGS__))

/* Makes the device's context the thread's current one, and its capture mode relaxed,
 * until kvh_cuda_leave; not nested. 0, or -EIO: the device is dead, and there is
 * nothing to leave. */
int kvh_cuda_enter(struct cuda_device *dev);
/* Returns rc. */
int kvh_cuda_leave(struct cuda_device *dev, int rc);

#endif
