/* SPDX-License-Identifier: Apache-2.0 */
/*
 * capture_cuda_gpu_test.cc - next to graphs that the runtime captures. Every call
 * of ours must work while another thread captures, in the strictest mode, and must
 * not spoil the graph; into a stream under capture none may be made.
 */
#include "tests/mover_rig.h"

#include <cuda_runtime_api.h>
#include <thread>

using namespace rig;

namespace
{

/* A capture in global mode, with one node, from here to end. */
class Capture
{
      public:
	explicit Capture(unsigned int flags = cudaStreamNonBlocking)
	{
		EXPECT_EQ(cudaStreamCreateWithFlags(&stream, flags), cudaSuccess);
		EXPECT_EQ(cudaMalloc(&mem, 256), cudaSuccess);
		EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal),
			  cudaSuccess);
		EXPECT_EQ(cudaMemsetAsync(mem, 1, 256, stream), cudaSuccess);
	}
	/* Was it left alone? */
	void end()
	{
		cudaGraph_t graph = nullptr;
		cudaGraphExec_t exec = nullptr;
		size_t n = 0;

		ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
		EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &n), cudaSuccess);
		EXPECT_EQ(n, 1u);
		EXPECT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
		EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
		EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
		EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
		EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
		EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
		EXPECT_EQ(cudaFree(mem), cudaSuccess);
	}

	cudaStream_t stream = nullptr;

      private:
	void *mem = nullptr;
};

class CudaCapture : public testing::Test
{
      protected:
	void SetUp() override
	{
		struct kvh_device *dev = nullptr;

		if (!open_device(Kind::CUDA, &dev))
			GTEST_SKIP() << "no CUDA device: " << kvh_device_describe();
		dev->ops->close(dev);
	}
};

/* A whole round on a thread of its own, from open to close: pages move, memory is
 * allocated and pinned, events are queried by the mover's thread. */
TEST_F(CudaCapture, EverythingWorksNextToOne)
{
	{
		Rig warm(Kind::CUDA); /* the context is the runtime's: it is there */
	}
	Capture capture;

	std::thread([] {
		Rig r(Kind::CUDA, 4096, 2);
		Group &g = r.group(Shape());
		Job store(r), load(r);

		store.add(g, 5);
		ASSERT_EQ(0, store.start(false, r.stream));
		store.wait();
		store.expect_stored();
		load.add(g, 5);
		ASSERT_EQ(0, load.start(true, r.stream));
		load.wait();
		load.expect_loaded();
	}).join();
	capture.end();
}

/* Also on the thread that captures, for streams that are not captured. */
TEST_F(CudaCapture, EverythingWorksOnItsThread)
{
	Rig r(Kind::CUDA, 4096, 2);
	Group &g = r.group(Shape());
	Job store(r);

	store.add(g, 3);
	Capture capture;
	EXPECT_EQ(0, store.start(false, r.stream));
	store.wait();
	capture.end();
	store.expect_stored();
}

TEST_F(CudaCapture, NothingEntersOne)
{
	Rig r(Kind::CUDA);
	Group &g = r.group(Shape());
	Job store(r), load(r);

	store.add(g, 1);
	load.add(g, 1);
	Capture capture;
	EXPECT_EQ(1, r.dev->ops->stream_capturing(r.dev, capture.stream));
	EXPECT_EQ(-EBUSY, store.start(false, capture.stream));
	EXPECT_EQ(-EBUSY, load.start(true, capture.stream));
	capture.end();
}

/* A stream that waits for the NULL stream's work takes that one along. */
TEST_F(CudaCapture, NorTheNullStream)
{
	Rig r(Kind::CUDA);
	Group &g = r.group(Shape());
	Job store(r), later(r);

	store.add(g, 1);
	later.add(g, 1);
	Capture capture(cudaStreamDefault);
	EXPECT_EQ(-EBUSY, store.start(false, nullptr));
	capture.end();
	EXPECT_EQ(0, later.start(false, nullptr));
	later.wait();
	later.expect_stored();
}

} // namespace
