/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_cuda_test.cc - how the seam on CUDA treats errors and contexts, over the
 * runtime of cuda_fake.h: on any machine.
 */
#include "tests/cuda_fake.h"

#include <set>

namespace
{

class DeviceCuda : public testing::Test
{
      protected:
	void SetUp() override
	{
		fake::reset();
		lines = 0;
		first = 0;
		dev = nullptr;
		kvh_log_set(count, this, KVH_LOG_WARN);
	}
	void TearDown() override
	{
		kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
		fake::reset(); /* what calls that failed have left */
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
		EXPECT_EQ(fake::last, cudaSuccess) << fake::state.failed;
		EXPECT_EQ(fake::contexts.size(), 0u) << fake::state.failed;
		EXPECT_EQ(fake::mode, CU_STREAM_CAPTURE_MODE_GLOBAL) << fake::state.failed;
		fake::state.gpus[1].mourned = dev != nullptr && dev->ops->dead(dev);
		return rc;
	}
	void all_but_open();
	/* Every function of the table, from open to close. */
	void all()
	{
		dev = nullptr;
		if (did(kvh_device_cuda_open(1, &dev)) == 0)
			all_but_open();
		const fake::Gpu &gpu = fake::state.gpus[1];
		EXPECT_EQ(gpu.retained, gpu.mourned ? 1 : 0) << fake::state.failed;
		EXPECT_FALSE(gpu.touched) << "when dead, after " << fake::state.failed;
		EXPECT_EQ(fake::state.gpus[0].kept, 0) << "nobody asked for it";
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

/* Memory that cannot be corrected, a GPU that is lost or was reset, a kernel that went
 * wrong: whatever the runtime calls it and wherever it comes up, the device is dead from
 * then on, and CUDA is not called for it any more (as all() insists). */
TEST_F(DeviceCuda, EveryContextErrorAtEveryCallIsTheEnd)
{
	std::set<cudaError_t> errors = {cudaErrorDeviceUninitialized,
					static_cast<cudaError_t>(12345)};

	for (const error_row &row : error_table)
		if (row.sticky)
			errors.insert(row.error);
	EXPECT_EQ(errors.size(), 20u);
	all();
	const int n = fake::state.calls;
	EXPECT_GE(n, 40);
	for (const cudaError_t error : errors) {
		for (int i = 0; i < n && !HasFailure(); i++) {
			SetUp();
			fake::state.fail_at = i;
			fake::state.error = error;
			all();
			const bool opened = fake::state.gpus[1].mourned;
			const std::string &name = fake::state.failed;

			SCOPED_TRACE(name + ", error " + std::to_string(error));
			EXPECT_EQ(dev != nullptr, opened) << "open, and dead";
			if (name != "cudaFree" && name != "cudaFreeHost" &&
			    name != "cudaEventDestroy" && name != "cudaStreamDestroy") {
				EXPECT_EQ(first, -EIO);
			}
			EXPECT_GE(lines, 1);
		}
	}
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
	/* These are said of the caller, who is to know. */
	EXPECT_EQ(did(dev->ops->host_unregister(dev, mem)), -ENOENT);
	EXPECT_EQ(did(dev->ops->host_register(dev, mem, sizeof(mem))), 0);
	EXPECT_EQ(did(dev->ops->host_register(dev, mem, sizeof(mem))), -EEXIST);
	EXPECT_EQ(did(dev->ops->host_unregister(dev, mem)), 0);
	EXPECT_EQ(lines, 2);
	EXPECT_FALSE(dev->ops->dead(dev));
	dev->ops->close(dev);
}

/* Whose memory is it? What is pinned or unknown is no GPU's, whatever number CUDA puts
 * beside it. */
TEST_F(DeviceCuda, OwnsTheMemoryOfItsNumber)
{
	kvh_device *devs[2];
	void *mem[2], *pinned;

	ASSERT_EQ(kvh_device_open_list("cuda:0,cuda:1", devs, 2), 2);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(devs[i]->ops->mem_alloc(devs[i], 64, &mem[i]), 0);
	ASSERT_EQ(devs[0]->ops->host_alloc(devs[0], 64, &pinned), 0);
	for (int i = 0; i < 2; i++) {
		for (int j = 0; j < 2; j++)
			EXPECT_EQ(did(devs[i]->ops->owns(devs[i], mem[j])),
				  i == j ? KVH_OWNS_YES : KVH_OWNS_NO);
		EXPECT_EQ(did(devs[i]->ops->owns(devs[i], pinned)), KVH_OWNS_NO);
		EXPECT_EQ(did(devs[i]->ops->owns(devs[i], this)), KVH_OWNS_NO);
	}
	EXPECT_EQ(lines, 0);
	devs[0]->ops->host_free(devs[0], pinned);
	for (int i = 0; i < 2; i++) {
		devs[i]->ops->mem_free(devs[i], mem[i]);
		devs[i]->ops->close(devs[i]);
	}
}

TEST_F(DeviceCuda, PrioritiesAreLevelsAsFarAsThereAreSome)
{
	static const struct {
		int greatest, levels[3]; /* of priorities 0, 1, 2 */
	} cases[] = {{-5, {0, -4, -5}}, {-2, {0, -1, -2}}, {-1, {0, -1, -1}}, {0, {0, 0, 0}}};

	for (const auto &c : cases) {
		fake::state.greatest = c.greatest;
		ASSERT_EQ(kvh_device_cuda_open(0, &dev), 0);
		for (int priority = 0; priority < 3; priority++) {
			kvh_stream stream;

			ASSERT_EQ(did(dev->ops->stream_create(dev, priority, &stream)), 0);
			EXPECT_EQ(fake::state.level, c.levels[priority]);
			dev->ops->stream_destroy(dev, stream);
		}
		dev->ops->close(dev);
	}
}

/* ---- contexts --------------------------------------------------------- */

/* The runtime and every engine share a GPU's primary context; it goes with the last. */
TEST_F(DeviceCuda, TwoThatAreOpenedOnOneGpuShareItsContext)
{
	kvh_device *one, *two;
	void *mem;

	ASSERT_EQ(kvh_device_cuda_open(1, &one), 0);
	ASSERT_EQ(kvh_device_cuda_open(1, &two), 0);
	EXPECT_EQ(fake::state.gpus[1].retained, 2);
	one->ops->close(one);
	EXPECT_EQ(fake::state.gpus[1].retained, 1);
	ASSERT_EQ(two->ops->mem_alloc(two, 64, &mem), 0) << "it goes on in the context";
	two->ops->mem_free(two, mem);
	two->ops->close(two);
	EXPECT_EQ(fake::state.gpus[1].retained, 0);
	EXPECT_EQ(fake::state.gpus[0].calls, 0);
}

TEST_F(DeviceCuda, AskingWhatIsThereMakesNoContext)
{
	kvh_device *devs[2];

	EXPECT_EQ(kvh_device_cuda_count(), fake::GPUS);
	EXPECT_NE(std::string(kvh_device_cuda_describe()).find("GPU 0 of the test (1 of 2)"),
		  std::string::npos);
	/* cuda_fake.h would have complained of a call that needs one. */
	EXPECT_EQ(kvh_device_open("cuda:2", devs), -ENODEV);
	EXPECT_EQ(kvh_device_open_list("cuda:1,cuda:2", devs, 2), -ENODEV);
	for (const fake::Gpu &gpu : fake::state.gpus)
		EXPECT_EQ(gpu.retained, 0);
	ASSERT_EQ(kvh_device_open_list("cuda:1", devs, 2), 1);
	EXPECT_EQ(fake::state.gpus[0].retained, 0);
	EXPECT_EQ(fake::state.gpus[1].retained, 1);
	devs[0]->ops->close(devs[0]);
}

TEST_F(DeviceCuda, AllMeansThoseThatCanBeUsed)
{
	kvh_device *devs[2] = {};
	kvh_device_info info;

	ASSERT_EQ(kvh_device_open_list("cuda:*", devs, 2), 2);
	for (int i = 0; i < 2; i++) {
		devs[i]->ops->info(devs[i], &info);
		EXPECT_EQ(std::string(info.label), "cuda:" + std::to_string(i));
		devs[i]->ops->close(devs[i]);
	}
	fake::state.gpus[0].major = 7; /* too old */
	ASSERT_EQ(kvh_device_open_list("cuda:*", devs, 2), 1);
	devs[0]->ops->info(devs[0], &info);
	EXPECT_STREQ(info.label, "cuda:1");
	EXPECT_EQ(fake::state.gpus[0].retained, 0);
	devs[0]->ops->close(devs[0]);
	fake::state.gpus[1].major = 7;
	EXPECT_EQ(kvh_device_open_list("cuda:*", devs, 2), -ENODEV);
	/* One that is new enough and fails is an error, and closes the others. */
	fake::reset();
	fake::state.fail_on = 1;
	fake::state.fail_at = 2;
	fake::state.error = cudaErrorMemoryAllocation;
	EXPECT_EQ(kvh_device_open_list("cuda:*", devs, 2), -ENOMEM) << fake::state.failed;
	for (const fake::Gpu &gpu : fake::state.gpus)
		EXPECT_EQ(gpu.retained, 0);
}

/* ---- others' errors --------------------------------------------------- */

/* What the caller has not looked at yet is the caller's. */
TEST_F(DeviceCuda, ErrorsOfOthersStay)
{
	kvh_event_mark event;

	ASSERT_EQ(kvh_device_cuda_open(0, &dev), 0);
	fake::last = cudaErrorInvalidValue;
	EXPECT_EQ(dev->ops->event_create(dev, &event), 0);
	EXPECT_EQ(dev->ops->event_query(dev, event), 1);
	EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
	dev->ops->close(dev);
}

} // namespace
