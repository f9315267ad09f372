/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_cuda_open.cu - finds, opens and names CUDA devices, and gets the few
 * functions of the driver that are needed. Where there is no driver, the runtime
 * says so in an error, and that is -ENODEV. Any thread.
 */
#include "cuda/device_cuda_impl.h"
#include "cuda/pack.h"
#include "host/log.h"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

namespace
{

constexpr unsigned int DRIVER_API = 12080; // what the driver's functions are asked for as
constexpr int SM_MAJOR_MIN = 8;            // what the kernels are built for

int driver_find(cuda_device *dev, const char *symbol, void **fn_p)
{
	cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
	int err = CUDA_CALL(dev, cudaGetDriverEntryPointByVersion, symbol, fn_p, DRIVER_API,
			    cudaEnableDefault, &found);

	if (err == 0 && (found != cudaDriverEntryPointSuccess || *fn_p == nullptr)) {
		kvh_err("cuda:%d: the driver has no %s", dev->ordinal, symbol);
		err = -ENODEV;
	}
	return err;
}

int driver_load(cuda_device *dev)
{
	struct {
		const char *symbol;
		void *fn;
	} row[] = {{"cuDeviceGet", nullptr},
		   {"cuDevicePrimaryCtxRetain", nullptr},
		   {"cuDevicePrimaryCtxRelease", nullptr},
		   {"cuCtxPushCurrent", nullptr},
		   {"cuCtxPopCurrent", nullptr},
		   {"cuThreadExchangeStreamCaptureMode", nullptr}};
	struct cuda_driver *driver = &dev->driver;

	for (auto &r : row) {
		int err = driver_find(dev, r.symbol, &r.fn);
		if (err != 0)
			return err;
	}
	driver->device_get = reinterpret_cast<decltype(driver->device_get)>(row[0].fn);
	driver->ctx_retain = reinterpret_cast<decltype(driver->ctx_retain)>(row[1].fn);
	driver->ctx_release = reinterpret_cast<decltype(driver->ctx_release)>(row[2].fn);
	driver->ctx_push = reinterpret_cast<decltype(driver->ctx_push)>(row[3].fn);
	driver->ctx_pop = reinterpret_cast<decltype(driver->ctx_pop)>(row[4].fn);
	driver->capture_mode_swap = reinterpret_cast<decltype(driver->capture_mode_swap)>(
		row[5].fn);
	return 0;
}

// From sysfs by PCI address; -1: not known there (one node, a virtual machine).
int numa_node_of(const char *pci_id)
{
	char path[96];
	char id[32];
	int node = -1;
	size_t n = 0;

	for (; pci_id[n] != '\0' && n < sizeof(id) - 1; n++)
		id[n] = pci_id[n] >= 'A' && pci_id[n] <= 'F' ? static_cast<char>(pci_id[n] + 32)
							     : pci_id[n];
	id[n] = '\0';
	(void)snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/numa_node", id);
	FILE *f = fopen(path, "re");
	if (f == nullptr)
		return -1;
	if (fscanf(f, "%d", &node) != 1 || node < 0)
		node = -1;
	(void)fclose(f);
	return node;
}

// What the driver says without a context.
int info_fill(cuda_device *dev)
{
	struct kvh_device_info *info = &dev->info;
	cudaDeviceProp prop;
	char pci_id[32] = "";
	int version = 0;
	int err = CUDA_CALL(dev, cudaGetDeviceProperties, &prop, dev->ordinal);

	if (err == 0)
		err = CUDA_CALL(dev, cudaDriverGetVersion, &version);
	if (err == 0)
		err = CUDA_CALL(dev, cudaDeviceGetPCIBusId, pci_id, sizeof(pci_id),
				dev->ordinal);
	if (err != 0)
		return err;
	if (prop.major < SM_MAJOR_MIN) {
		kvh_err("cuda:%d: %s has compute capability %d.%d, %d.0 is needed",
			dev->ordinal, prop.name, prop.major, prop.minor, SM_MAJOR_MIN);
		return -ENODEV;
	}
	(void)snprintf(info->name, sizeof(info->name), "%.95s", prop.name);
	(void)snprintf(info->label, sizeof(info->label), "cuda:%d", dev->ordinal);
	static_assert(sizeof(info->uuid) == sizeof(prop.uuid.bytes), "a UUID is 16 bytes");
	memcpy(info->uuid, prop.uuid.bytes, sizeof(info->uuid));
	info->numa_node = numa_node_of(pci_id);
	info->mem_bytes = prop.totalGlobalMem;
	info->n_sms = static_cast<uint32_t>(prop.multiProcessorCount);
	(void)snprintf(info->driver, sizeof(info->driver), "%d.%d", version / 1000,
		       version % 1000 / 10);
	return 0;
}

// Keeps the primary context, the one that the runtime has too. A GPU that is there and
// has none for us is an error: -ENODEV is passed over where any will do.
int context_retain(cuda_device *dev)
{
	int err = kvh_cuda_check_driver(dev, "cuDeviceGet",
					dev->driver.device_get(&dev->device, dev->ordinal));

	if (err == 0)
		err = kvh_cuda_check_driver(dev, "cuDevicePrimaryCtxRetain",
					    dev->driver.ctx_retain(&dev->ctx, dev->device));
	return err == -ENODEV ? -EIO : err;
}

// What has to be asked and done in the context.
int context_prepare(cuda_device *dev)
{
	int err = kvh_cuda_enter(dev);

	if (err != 0)
		return err;
	err = CUDA_CALL(dev, cudaDeviceGetStreamPriorityRange, &dev->priority_normal,
			&dev->priority_high);
	if (err == 0) {
		err = kvh_pack_load_cuda();
		if (err != 0)
			kvh_err("cuda:%d: %s: the kernels cannot be loaded: %s", dev->ordinal,
				dev->info.name, strerror(-err));
	}
	return kvh_cuda_leave(dev, err);
}

int device_start(cuda_device *dev)
{
	int err = info_fill(dev);

	if (err == 0)
		err = driver_load(dev);
	if (err == 0)
		err = context_retain(dev);
	if (err != 0)
		return err;
	err = context_prepare(dev);
	if (err != 0)
		(void)dev->driver.ctx_release(dev->device);
	return err;
}

} // namespace

extern "C" int kvh_device_cuda_count(void)
{
	int n = 0;
	cudaError_t error = kvh_cuda_take(cudaGetDeviceCount(&n));

	return error == cudaSuccess ? n : -kvh_cuda_errno(error);
}

extern "C" int kvh_device_cuda_open(int ordinal, struct kvh_device **dev_p)
{
	int n = kvh_device_cuda_count();

	if (n < 0 || ordinal < 0 || ordinal >= n) {
		kvh_err("device \"cuda:%d\" is not there: %s", ordinal,
			kvh_device_cuda_describe());
		return n < 0 ? n : -ENODEV;
	}
	void *mem = malloc(sizeof(cuda_device));
	if (mem == nullptr)
		return -ENOMEM;
	cuda_device *dev = new (mem) cuda_device{}; // in place: no C++ library is linked
	dev->base.ops = &kvh_cuda_ops;
	dev->ordinal = ordinal;
	int err = device_start(dev);
	if (err != 0) {
		free(dev);
		return err;
	}
	*dev_p = &dev->base;
	return 0;
}

extern "C" const char *kvh_device_cuda_describe(void)
{
	static thread_local char text[384];
	cudaDeviceProp prop;
	int n = 0;
	int len = snprintf(text, sizeof(text), "cuda %d.%d: ", CUDART_VERSION / 1000,
			   CUDART_VERSION % 1000 / 10);
	cudaError_t error = kvh_cuda_take(cudaGetDeviceCount(&n));
	size_t room = sizeof(text) - static_cast<size_t>(len);

	if (error == cudaErrorInsufficientDriver || error == cudaErrorStubLibrary)
		(void)snprintf(text + len, room, "no driver (%s)", cudaGetErrorName(error));
	else if (error != cudaSuccess || n == 0)
		(void)snprintf(
			text + len, room, "no device (%s)",
			cudaGetErrorName(error != cudaSuccess ? error : cudaErrorNoDevice));
	else if ((error = kvh_cuda_take(cudaGetDeviceProperties(&prop, 0))) != cudaSuccess)
		(void)snprintf(text + len, room, "%d devices (%s)", n, cudaGetErrorName(error));
	else if (n == 1)
		(void)snprintf(text + len, room, "%s", prop.name);
	else
		(void)snprintf(text + len, room, "%s (1 of %d)", prop.name, n);
	return text;
}
