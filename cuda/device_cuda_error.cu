/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_cuda_error.cu - one way for every result of the runtime and the driver:
 * cleared from the runtime's last error, mapped to an errno, logged once with the
 * call's name. A context error marks the device dead, and a dead device is not
 * touched again: its streams, events and memory are left to the process's end.
 * Any thread.
 */
#include "cuda/device_cuda_impl.h"
#include "host/log.h"

#include <cerrno>

namespace
{

struct error_row {
	cudaError_t error;
	int err;
	bool sticky; // of the context: every later call would fail as well
};

constexpr error_row error_table[] = {
	{cudaErrorMemoryAllocation, ENOMEM, false},
	{cudaErrorLaunchOutOfResources, ENOMEM, false},
	{cudaErrorOperatingSystem, ENOMEM, false}, // memory that cannot be pinned
	{cudaErrorHostMemoryAlreadyRegistered, EEXIST, false},
	{cudaErrorHostMemoryNotRegistered, ENOENT, false},
	{cudaErrorInvalidValue, EINVAL, false},
	{cudaErrorInvalidPitchValue, EINVAL, false},
	{cudaErrorInvalidResourceHandle, EINVAL, false},
	{cudaErrorInvalidMemcpyDirection, EINVAL, false},
	{cudaErrorInvalidDevicePointer, EINVAL, false},
	{cudaErrorInvalidHostPointer, EINVAL, false},
	{cudaErrorInvalidConfiguration, EINVAL, false},
	{cudaErrorNotPermitted, EPERM, false},
	{cudaErrorNotSupported, EOPNOTSUPP, false},
	{cudaErrorCallRequiresNewerDriver, EOPNOTSUPP, false},
	{cudaErrorNoKernelImageForDevice, ENODEV, false},
	{cudaErrorInvalidDeviceFunction, ENODEV, false},
	{cudaErrorNoDevice, ENODEV, false},
	{cudaErrorInvalidDevice, ENODEV, false},
	{cudaErrorInsufficientDriver, ENODEV, false},
	{cudaErrorStubLibrary, ENODEV, false},
	{cudaErrorDevicesUnavailable, ENODEV, false},
	{cudaErrorDeviceNotLicensed, ENODEV, false},
	{cudaErrorInitializationError, ENODEV, false},
	{cudaErrorSystemDriverMismatch, ENODEV, false},
	{cudaErrorCompatNotSupportedOnDevice, ENODEV, false},
	{cudaErrorSystemNotReady, ENODEV, false},
	{cudaErrorStreamCaptureUnsupported, EBUSY, false},
	{cudaErrorStreamCaptureInvalidated, EBUSY, false},
	{cudaErrorStreamCaptureMerge, EBUSY, false},
	{cudaErrorStreamCaptureUnmatched, EBUSY, false},
	{cudaErrorStreamCaptureUnjoined, EBUSY, false},
	{cudaErrorStreamCaptureIsolation, EBUSY, false},
	{cudaErrorStreamCaptureImplicit, EBUSY, false},
	{cudaErrorStreamCaptureWrongThread, EBUSY, false},
	{cudaErrorCapturedEvent, EBUSY, false},
	{cudaErrorECCUncorrectable, EIO, true},
	{cudaErrorNvlinkUncorrectable, EIO, true},
	{cudaErrorContained, EIO, true},
	{cudaErrorIllegalAddress, EIO, true},
	{cudaErrorMisalignedAddress, EIO, true},
	{cudaErrorInvalidAddressSpace, EIO, true},
	{cudaErrorIllegalInstruction, EIO, true},
	{cudaErrorInvalidPc, EIO, true},
	{cudaErrorHardwareStackError, EIO, true},
	{cudaErrorLaunchFailure, EIO, true},
	{cudaErrorLaunchTimeout, EIO, true},
	{cudaErrorAssert, EIO, true},
	{cudaErrorTensorMemoryLeak, EIO, true},
	{cudaErrorContextIsDestroyed, EIO, true},
	{cudaErrorMpsClientTerminated, EIO, true},
	{cudaErrorExternalDevice, EIO, true},
	{cudaErrorCudartUnloading, EIO, true},
	{cudaErrorUnknown, EIO, true},
};

// Between enter and leave: what the thread had before.
thread_local CUstreamCaptureMode capture_mode_before;

// What is not in the table is taken for the worst.
constexpr error_row error_worst = {cudaErrorUnknown, EIO, true};

const error_row *error_find(cudaError_t error)
{
	for (const error_row &row : error_table) {
		if (row.error == error)
			return &row;
	}
	return &error_worst;
}

} // namespace

int kvh_cuda_errno(cudaError_t error)
{
	return error_find(error)->err;
}

void kvh_cuda_die(struct cuda_device *dev, const char *site, const char *why)
{
	if (!dev->dead.exchange(true))
		kvh_err("cuda:%d: %s: %s: the device is dead", dev->ordinal, site, why);
}

cudaError_t kvh_cuda_take(cudaError_t error)
{
	if (error != cudaSuccess)
		(void)cudaGetLastError();
	return error;
}

int kvh_cuda_check(struct cuda_device *dev, const char *site, cudaError_t error)
{
	if (kvh_cuda_take(error) == cudaSuccess)
		return 0;
	const error_row *row = error_find(error);
	if (row->sticky)
		kvh_cuda_die(dev, site, cudaGetErrorName(error));
	else
		kvh_err("cuda:%d: %s: %s", dev->ordinal, site, cudaGetErrorName(error));
	return -row->err;
}

int kvh_cuda_check_driver(struct cuda_device *dev, const char *site, CUresult result)
{
	if (result == CUDA_SUCCESS)
		return 0;
	kvh_err("cuda:%d: %s: driver error %d", dev->ordinal, site, static_cast<int>(result));
	return result == CUDA_ERROR_OUT_OF_MEMORY ? -ENOMEM : -ENODEV;
}

int kvh_cuda_enter(struct cuda_device *dev)
{
	if (dev->dead.load(std::memory_order_relaxed))
		return -EIO;
	if (dev->driver.ctx_push(dev->ctx) != CUDA_SUCCESS) {
		kvh_cuda_die(dev, "cuCtxPushCurrent", "refused");
		return -EIO;
	}
	capture_mode_before = CU_STREAM_CAPTURE_MODE_RELAXED;
	(void)dev->driver.capture_mode_swap(&capture_mode_before);
	return 0;
}

int kvh_cuda_leave(struct cuda_device *dev, int rc)
{
	CUcontext popped;

	(void)dev->driver.capture_mode_swap(&capture_mode_before);
	(void)dev->driver.ctx_pop(&popped);
	return rc;
}
