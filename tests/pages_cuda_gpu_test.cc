/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pages_cuda_gpu_test.cc - a runtime that writes its pages while they are about to be
 * stored, and takes them back the moment it is told that it may: with kernels of its own,
 * and sums of the pages made on the GPU. 100,000 pages each way, none of them wrong; and
 * with the wait left out some are.
 *
 * The same on the host device, step by step: MoverOrder in mover_order_test.cc.
 */
#include "tests/kernels.h"
#include "tests/mover_rig.h"

#include <cstdlib>
#include <cstring>

using namespace rig;

namespace
{

constexpr uint32_t PAGES = 4096, WORDS = 256; /* 2 KiB a page, 8 MiB in all */
constexpr uint32_t ROUNDS = 25;               /* 102,400 pages */
constexpr uint64_t SLOW_NS = 1000;            /* a page: 4 ms and more for all of them */

class CudaPages : public testing::Test
{
      protected:
	void SetUp() override
	{
		struct kvh_device *dev = nullptr;

		if (!open_device(Kind::CUDA, &dev))
			GTEST_SKIP() << "no CUDA device: " << kvh_device_describe();
		dev->ops->close(dev);
		rig = std::make_unique<Rig>(Kind::CUDA, 1u << 20); /* stages: many a job */
		group = &rig->group(shape());
		ASSERT_EQ(0, rig->dev->ops->stream_create(rig->dev, 0, &other));
		void *mem = nullptr;
		ASSERT_EQ(0,
			  rig->dev->ops->host_alloc(rig->dev, PAGES * sizeof(uint64_t), &mem));
		sums = static_cast<uint64_t *>(mem);
	}
	void TearDown() override
	{
		if (!rig)
			return;
		rig->dev->ops->host_free(rig->dev, sums);
		rig->dev->ops->stream_destroy(rig->dev, other);
	}
	static Shape shape()
	{
		Shape s;

		s.planes = s.planes_a_layer = 1;
		s.heads = 1;
		s.head_bytes = uint32_t(WORDS * sizeof(uint64_t)) / s.page_tokens;
		s.n_pages = PAGES;
		return s;
	}
	struct kvh_test_pages pages() const
	{
		return {reinterpret_cast<uint64_t *>(
				static_cast<unsigned char *>(group->memory()) + GUARD),
			PAGES, WORDS};
	}
	/* All pages, the late ones first. */
	static Pages backwards()
	{
		Pages all(PAGES);

		for (uint32_t i = 0; i < PAGES; i++)
			all[i] = PAGES - 1 - i;
		return all;
	}
	void write(uint64_t generation, uint64_t delay_ns, kvh_stream stream)
	{
		const struct kvh_test_pages all = pages();

		ASSERT_EQ(0, kvh_test_write(&all, generation, delay_ns, stream));
	}
	void sum(kvh_stream stream)
	{
		const struct kvh_test_pages all = pages();

		ASSERT_EQ(0, kvh_test_sum(&all, sums, stream));
	}
	void wait(kvh_stream stream)
	{
		ASSERT_EQ(0, rig->dev->ops->stream_wait(rig->dev, stream));
	}
	static uint64_t *words_of(Job &job, uint32_t i)
	{
		Job::Part &part = job.parts[0];
		const uint32_t per_chunk = part.group->pages_per_chunk();

		return static_cast<uint64_t *>(part.payloads[i / per_chunk]) +
		       size_t(i % per_chunk) * WORDS;
	}
	/* Pages of the payloads whose sum is not the one that the GPU made of the page. */
	uint32_t differ_from_sums(Job &job)
	{
		uint32_t wrong = 0;

		for (uint32_t i = 0; i < PAGES; i++) {
			const uint64_t *words = words_of(job, i);
			uint64_t sum = 0;

			for (uint32_t w = 0; w < WORDS; w++)
				sum += kvh_test_term(words[w], w);
			wrong += sum != sums[job.parts[0].pages[i]];
		}
		return wrong;
	}
	/* Pages of the payloads that do not hold what a writer leaves. */
	static uint32_t differ_from(Job &job, uint64_t generation)
	{
		uint32_t wrong = 0;

		for (uint32_t i = 0; i < PAGES; i++) {
			const uint64_t *words = words_of(job, i);
			bool same = true;

			for (uint32_t w = 0; w < WORDS; w++)
				same = same &&
				       words[w] == kvh_test_word(generation,
								 job.parts[0].pages[i], w);
			wrong += !same;
		}
		return wrong;
	}
	/* Pages on the GPU that do not. */
	uint32_t sums_differ_from(uint64_t generation) const
	{
		uint32_t wrong = 0;

		for (uint32_t page = 0; page < PAGES; page++) {
			uint64_t sum = 0;

			for (uint32_t w = 0; w < WORDS; w++)
				sum += kvh_test_term(kvh_test_word(generation, page, w), w);
			wrong += sum != sums[page];
		}
		return wrong;
	}

	/* A producer that is still writing when the store is called. */
	uint32_t stored_too_early(kvh_stream order, uint64_t round)
	{
		Job job(*rig);

		job.add(*group, backwards());
		write(round, SLOW_NS, rig->stream);
		sum(rig->stream);
		EXPECT_EQ(0, job.start(false, order));
		job.wait();
		wait(rig->stream);
		return differ_from_sums(job);
	}
	/* Pages written again by the runtime, after the store's end or beside it. */
	uint32_t stored_from_reused(bool waits, uint64_t round)
	{
		Job job(*rig);

		job.add(*group, backwards());
		write(2 * round, 0, rig->stream);
		wait(rig->stream);
		EXPECT_EQ(0, job.start(false, rig->stream));
		if (waits)
			job.wait();
		write(2 * round + 1, 0, other);
		job.wait();
		wait(other);
		return differ_from(job, 2 * round);
	}
	/* The same of a load. Pages are written from the first on, and loaded from the
	 * last on: beside each other, the load is at the first pages late. */
	uint32_t loaded_into_reused(bool waits, uint64_t round)
	{
		Job job(*rig);

		job.add(*group, backwards());
		if (!waits)
			write(round, 0, other);
		EXPECT_EQ(0, job.start(true, rig->stream));
		job.wait();
		if (waits)
			write(round, 0, other);
		sum(other); /* what is there when all has ended */
		wait(other);
		return sums_differ_from(round);
	}
	static bool is_set_to(const char *name, const char *value)
	{
		const char *text = getenv(name);

		return text != nullptr && strcmp(text, value) == 0;
	}
	/* Launches that wait for their kernels, or streams that share one queue to the
	 * GPU: what is enqueued later starts later, whether it was told to or not. */
	static bool kernels_take_turns()
	{
		return is_set_to("CUDA_LAUNCH_BLOCKING", "1") ||
		       is_set_to("CUDA_DEVICE_MAX_CONNECTIONS", "1");
	}

	std::unique_ptr<Rig> rig;
	Group *group = nullptr;
	kvh_stream other = nullptr;
	uint64_t *sums = nullptr;
};

TEST_F(CudaPages, AProducerThatStillWritesIsWaitedFor)
{
	for (uint64_t round = 1; round <= ROUNDS; round++)
		ASSERT_EQ(0u, stored_too_early(rig->stream, round)) << "round " << round;
}

TEST_F(CudaPages, ControlWithoutTheWaitOldPagesAreStored)
{
	uint32_t wrong = 0;

	if (kernels_take_turns())
		GTEST_SKIP() << "kernels take turns";
	for (uint64_t round = 1; round <= 5; round++)
		wrong += stored_too_early(other, round);
	EXPECT_GT(wrong, 0u);
}

TEST_F(CudaPages, PagesThatAreReusedAfterTheStoresEndWereStoredAsTheyWere)
{
	for (uint64_t round = 1; round <= ROUNDS; round++)
		ASSERT_EQ(0u, stored_from_reused(true, round)) << "round " << round;
}

TEST_F(CudaPages, ControlPagesThatAreReusedBeforeTheStoresEndAreStoredAsTheyBecame)
{
	uint32_t wrong = 0;

	if (kernels_take_turns())
		GTEST_SKIP() << "kernels take turns";
	for (uint64_t round = 1; round <= ROUNDS && wrong == 0; round++)
		wrong += stored_from_reused(false, round);
	EXPECT_GT(wrong, 0u);
}

TEST_F(CudaPages, PagesThatAreReusedAfterTheLoadsEndKeepWhatIsWritten)
{
	for (uint64_t round = 1; round <= ROUNDS; round++)
		ASSERT_EQ(0u, loaded_into_reused(true, round)) << "round " << round;
}

TEST_F(CudaPages, ControlPagesThatAreReusedBeforeTheLoadsEndAreWrittenOver)
{
	uint32_t wrong = 0;

	if (kernels_take_turns())
		GTEST_SKIP() << "kernels take turns";
	for (uint64_t round = 1; round <= ROUNDS && wrong == 0; round++)
		wrong += loaded_into_reused(false, round);
	EXPECT_GT(wrong, 0u);
}

} // namespace
