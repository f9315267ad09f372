/* SPDX-License-Identifier: Apache-2.0 */
/*
 * context_cuda_gpu_test.cc - on which GPUs contexts are made, as the driver says: on
 * none by looking what is there, on those that are opened, and on no other.
 */
#include "cuda/device.h"

#include <cuda.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace
{

/* The driver's own word, from the driver's library: the runtime is not asked. */
class CudaContext : public testing::Test
{
      protected:
	void SetUp() override
	{
		void *library = dlopen("libcuda.so.1", RTLD_NOW);
		CUresult (*init)(unsigned int) = nullptr;
		CUresult (*count)(int *) = nullptr;

		if (library == nullptr)
			GTEST_SKIP() << "no driver: " << dlerror();
		find(library, "cuInit", init);
		find(library, "cuDeviceGetCount", count);
		find(library, "cuDevicePrimaryCtxGetState", state_);
		if (HasFailure() || init(0) != CUDA_SUCCESS || count(&n_) != CUDA_SUCCESS ||
		    n_ == 0)
			GTEST_SKIP() << "no GPU";
	}
	std::vector<bool> active() const
	{
		std::vector<bool> all;

		for (CUdevice gpu = 0; gpu < n_; gpu++) {
			unsigned int flags;
			int is = -1;

			EXPECT_EQ(state_(gpu, &flags, &is), CUDA_SUCCESS);
			all.push_back(is != 0);
		}
		return all;
	}
	std::vector<bool> only(int gpu) const
	{
		std::vector<bool> all(static_cast<size_t>(n_), false);

		if (gpu >= 0)
			all[static_cast<size_t>(gpu)] = true;
		return all;
	}

	int n_ = 0;

      private:
	template <typename Fn>
	static void find(void *library, const char *name, Fn &fn)
	{
		fn = reinterpret_cast<Fn>(dlsym(library, name));
		EXPECT_NE(fn, nullptr) << name;
	}

	CUresult (*state_)(CUdevice, unsigned int *, int *) = nullptr;
};

TEST_F(CudaContext, NoneIsMadeByLooking)
{
	ASSERT_EQ(active(), only(-1)) << "run alone: somebody made one before";
	EXPECT_EQ(kvh_device_cuda_count(), n_);
	EXPECT_NE(std::string(kvh_device_describe()), "");
	EXPECT_EQ(active(), only(-1));
}

TEST_F(CudaContext, OneIsMadeWhereADeviceIsOpened)
{
	const int gpu = n_ - 1; /* not the first, where there are others */
	const std::string name = "cuda:" + std::to_string(gpu);
	kvh_device *dev = nullptr;
	void *mem = nullptr;

	ASSERT_EQ(active(), only(-1)) << "run alone: somebody made one before";
	ASSERT_EQ(kvh_device_open(name.c_str(), &dev), 0);
	EXPECT_EQ(active(), only(gpu));
	ASSERT_EQ(dev->ops->mem_alloc(dev, 4096, &mem), 0);
	EXPECT_EQ(dev->ops->owns(dev, mem), KVH_OWNS_YES);
	EXPECT_EQ(dev->ops->owns(dev, &mem), KVH_OWNS_NO);
	dev->ops->mem_free(dev, mem);
	EXPECT_EQ(active(), only(gpu));
	dev->ops->close(dev);
}

TEST_F(CudaContext, MemoryIsItsGpus)
{
	kvh_device *devs[64];
	const int n = kvh_device_open_list("cuda:*", devs, 64);

	if (n < 2) {
		if (n == 1)
			devs[0]->ops->close(devs[0]);
		GTEST_SKIP() << "two GPUs are needed";
	}
	for (int i = 0; i < n; i++) {
		void *mem = nullptr;

		ASSERT_EQ(devs[i]->ops->mem_alloc(devs[i], 4096, &mem), 0);
		for (int j = 0; j < n; j++)
			EXPECT_EQ(devs[j]->ops->owns(devs[j], mem),
				  i == j ? KVH_OWNS_YES : KVH_OWNS_NO);
		devs[i]->ops->mem_free(devs[i], mem);
	}
	for (int i = 0; i < n; i++)
		devs[i]->ops->close(devs[i]);
}

} // namespace
