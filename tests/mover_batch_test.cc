/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_batch_test.cc - the copies of a stage's pieces: that they are few, and that
 * together they are the pieces, whatever these are. Over a device that only
 * copies, at once, and counts.
 */
#include "cuda/mover_batch.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

namespace
{

struct Counter {
	struct kvh_device base;
	int copies, batches, batched, rows_copies, fail;
};

Counter *of(struct kvh_device *dev)
{
	return reinterpret_cast<Counter *>(dev);
}

int copy(struct kvh_device *dev, enum kvh_copy_kind, const struct kvh_copy *c, kvh_stream)
{
	of(dev)->copies++;
	memcpy(c->dst, c->src, c->bytes);
	return of(dev)->fail;
}

int copy_batch(struct kvh_device *dev, enum kvh_copy_kind, const struct kvh_copy *c, size_t n,
	       kvh_stream)
{
	of(dev)->batches++;
	of(dev)->batched += int(n);
	for (size_t i = 0; i < n; i++)
		memcpy(c[i].dst, c[i].src, c[i].bytes);
	return of(dev)->fail;
}

int copy_2d(struct kvh_device *dev, enum kvh_copy_kind, void *dst, uint64_t dst_pitch,
	    const void *src, uint64_t src_pitch, uint64_t width, uint64_t height, kvh_stream)
{
	of(dev)->rows_copies++;
	EXPECT_GE(dst_pitch, width);
	EXPECT_GE(src_pitch, width);
	for (uint64_t i = 0; i < height; i++)
		memcpy(static_cast<char *>(dst) + i * dst_pitch,
		       static_cast<const char *>(src) + i * src_pitch, width);
	return of(dev)->fail;
}

class Batch : public ::testing::TestWithParam<enum kvh_copy_kind>
{
      protected:
	void SetUp() override
	{
		ops.copy = copy;
		ops.copy_batch = copy_batch;
		ops.copy_2d = copy_2d;
		dev.base.ops = &ops;
		batch->kind = GetParam();
		for (size_t i = 0; i < memory.size(); i++)
			memory[i] = static_cast<unsigned char>(i * 2654435761u >> 13);
		stage_was.assign(stage(0), stage(0) + kSide);
		payload_was.assign(payload(0), payload(0) + kSide);
	}

	/* The two sides, in one memory. */
	static constexpr size_t kSide = 1 << 20;
	unsigned char *stage(size_t at)
	{
		return memory.data() + at;
	}
	unsigned char *payload(size_t at)
	{
		return memory.data() + kSide + at;
	}
	int add(size_t payload_at, size_t stage_at, size_t bytes)
	{
		auto &to = GetParam() == KVH_COPY_D2H ? payload_was : stage_was;
		const auto &from = GetParam() == KVH_COPY_D2H ? stage_was : payload_was;
		const size_t dst = GetParam() == KVH_COPY_D2H ? payload_at : stage_at;
		const size_t src = GetParam() == KVH_COPY_D2H ? stage_at : payload_at;

		memcpy(to.data() + dst, from.data() + src, bytes);
		return kvh_batch_add(&dev.base, batch.get(), payload(payload_at),
				     stage(stage_at), bytes);
	}
	void expect_moved()
	{
		EXPECT_EQ(memcmp(stage(0), stage_was.data(), kSide), 0);
		EXPECT_EQ(memcmp(payload(0), payload_was.data(), kSide), 0);
	}

	struct kvh_device_ops ops = {};
	Counter dev = {};
	std::unique_ptr<kvh_batch> batch = std::make_unique<kvh_batch>();
	std::vector<unsigned char> memory = std::vector<unsigned char>(2 * kSide);
	std::vector<unsigned char> stage_was, payload_was;
};

TEST_P(Batch, FramesSideBySideAreOneCopy)
{
	for (size_t i = 0; i < 16; i++)
		ASSERT_EQ(add(4096 + i * (4096 + 8192), i * 8192, 8192), 0);
	ASSERT_EQ(kvh_batch_flush(&dev.base, batch.get()), 0);
	EXPECT_EQ(dev.rows_copies, 1);
	EXPECT_EQ(dev.copies + dev.batches, 0);
	expect_moved();
}

/* A stage begins and ends in the middle of a chunk; a frame lies elsewhere. */
TEST_P(Batch, WhatIsNoRowOfThemIsACopyOfItsOwn)
{
	ASSERT_EQ(add(4096 + 100, 0, 8092), 0);
	for (size_t i = 1; i < 8; i++)
		ASSERT_EQ(add(4096 + i * (4096 + 8192), i * 8192 - 100, 8192), 0);
	ASSERT_EQ(add(500000, 8 * 8192 - 100, 8192), 0);
	ASSERT_EQ(add(600000, 9 * 8192 - 100, 77), 0);
	ASSERT_EQ(kvh_batch_flush(&dev.base, batch.get()), 0);
	EXPECT_EQ(dev.rows_copies, 1);
	EXPECT_EQ(dev.batches, 1);
	EXPECT_EQ(dev.batched, 3);
	expect_moved();
}

TEST_P(Batch, PiecesThatGoOnAreOne)
{
	for (size_t i = 0; i < 9; i++)
		ASSERT_EQ(add(50 + i * 1000, 70000 + i * 1000, 1000), 0);
	ASSERT_EQ(kvh_batch_flush(&dev.base, batch.get()), 0);
	EXPECT_EQ(dev.copies, 1);
	EXPECT_EQ(dev.rows_copies + dev.batches, 0);
	expect_moved();
}

TEST_P(Batch, NothingIsNoCopy)
{
	ASSERT_EQ(kvh_batch_flush(&dev.base, batch.get()), 0);
	EXPECT_EQ(dev.copies + dev.batches + dev.rows_copies, 0);
}

/* A call of their own is for rows that are worth it. */
TEST_P(Batch, FewRowsGoWithTheOtherCopies)
{
	for (size_t i = 0; i < KVH_MOVER_ROWS_MIN - 1; i++)
		ASSERT_EQ(add(i * 3000, i * 2000, 1000), 0);
	ASSERT_EQ(add(500000, 400000, 77), 0);
	ASSERT_EQ(kvh_batch_flush(&dev.base, batch.get()), 0);
	EXPECT_EQ(dev.rows_copies, 0);
	EXPECT_EQ(dev.batches, 1);
	EXPECT_EQ(dev.batched, int(KVH_MOVER_ROWS_MIN));
	expect_moved();
}

/* So many of them that they are more copies than pieces. */
TEST_P(Batch, PairsOfRowsAreAsManyBatchesAsTheyNeed)
{
	for (size_t i = 0; i < KVH_MOVER_BATCH; i++) {
		ASSERT_EQ(add(i * 600, i * 400, 10), 0);
		ASSERT_EQ(add(i * 600 + 100, i * 400 + 50, 10), 0);
		kvh_batch_seal(batch.get());
	}
	ASSERT_EQ(kvh_batch_flush(&dev.base, batch.get()), 0);
	EXPECT_EQ(dev.batches, 2);
	EXPECT_EQ(dev.batched, int(2 * KVH_MOVER_BATCH));
	expect_moved();
}

TEST_P(Batch, RowsGivenAtOnceAreOneCopy)
{
	struct kvh_batch_piece piece = {payload(100), stage(7), 50, 9, 200, 60};
	auto &to = GetParam() == KVH_COPY_D2H ? payload_was : stage_was;
	const auto &from = GetParam() == KVH_COPY_D2H ? stage_was : payload_was;

	for (size_t i = 0; i < piece.rows; i++) {
		const size_t there = 100 + i * 200, here = 7 + i * 60;

		memcpy(&to[GetParam() == KVH_COPY_D2H ? there : here],
		       &from[GetParam() == KVH_COPY_D2H ? here : there], 50);
	}
	ASSERT_EQ(kvh_batch_add_rows(&dev.base, batch.get(), &piece), 0);
	ASSERT_EQ(add(100 + 9 * 200, 7 + 9 * 60, 50), 0); /* goes on with them */
	ASSERT_EQ(kvh_batch_flush(&dev.base, batch.get()), 0);
	EXPECT_EQ(dev.rows_copies, 1);
	EXPECT_EQ(dev.copies + dev.batches, 0);
	expect_moved();
}

TEST_P(Batch, WhatIsSealedIsNotJoined)
{
	for (size_t i = 0; i < 8; i++) {
		ASSERT_EQ(add(i * 1000, i * 1000, 1000), 0);
		kvh_batch_seal(batch.get());
	}
	ASSERT_EQ(kvh_batch_flush(&dev.base, batch.get()), 0);
	EXPECT_EQ(dev.batched, 8);
	expect_moved();
}

/* At one stride through the gap between two registrations, as it may come. */
TEST_P(Batch, RowsEndWithTheirRegistration)
{
	for (const bool several : {true, false}) {
		batch->pinned_base = reinterpret_cast<uintptr_t>(payload(0));
		batch->pinned_stride = several ? 8 * 16384 : 0;
		dev.rows_copies = 0;
		for (size_t i = 0; i < 16; i++)
			ASSERT_EQ(add(i * 16384, i * 8192, 8192), 0);
		ASSERT_EQ(kvh_batch_flush(&dev.base, batch.get()), 0);
		EXPECT_EQ(dev.rows_copies, several ? 2 : 1);
		expect_moved();
	}
}

TEST_P(Batch, LongRowsAreABatch)
{
	struct kvh_batch_piece *pieces = batch->pieces;
	unsigned char *at = memory.data(); /* never copied */

	for (uint64_t i = 0; i < 3; i++)
		ASSERT_EQ(kvh_batch_add(&dev.base, batch.get(),
					at + i * (KVH_MOVER_ROWS_BELOW + 4096),
					at + i * KVH_MOVER_ROWS_BELOW, KVH_MOVER_ROWS_BELOW),
			  0);
	EXPECT_EQ(batch->n, 3u);
	EXPECT_EQ(pieces[0].rows, 1u);
}

TEST_P(Batch, AFailureIsToldOnce)
{
	dev.fail = -EIO;
	for (size_t i = 0; i < 4; i++)
		ASSERT_EQ(add(i * 3000, i * 2000, 1000), 0);
	ASSERT_EQ(add(500000, 400000, 9), 0);
	EXPECT_EQ(kvh_batch_flush(&dev.base, batch.get()), -EIO);
	EXPECT_EQ(dev.rows_copies, 1);
	EXPECT_EQ(dev.copies, 0); /* not tried */
	EXPECT_EQ(kvh_batch_flush(&dev.base, batch.get()), 0);
}

/* Any pieces, of few sizes and strides so that they often seem to belong together. */
TEST_P(Batch, AnyPieces)
{
	std::mt19937 random(7);

	for (int round = 0; round < 300; round++) {
		const size_t unit = 1 + random() % 7;
		size_t payload_at = 0, stage_at = 0;

		for (int i = 0; i < 2000; i++) {
			const size_t bytes = unit * (1 + random() % 2);

			payload_at += unit * (random() % 3);
			stage_at += unit * (random() % 2);
			ASSERT_EQ(add(payload_at, stage_at, bytes), 0);
			payload_at += bytes;
			stage_at += bytes;
		}
		ASSERT_EQ(kvh_batch_flush(&dev.base, batch.get()), 0);
		expect_moved();
	}
	EXPECT_GT(dev.rows_copies, 1000);
	EXPECT_GT(dev.batched, 1000);
}

INSTANTIATE_TEST_SUITE_P(Direction, Batch, ::testing::Values(KVH_COPY_D2H, KVH_COPY_H2D),
			 [](const auto &info) {
				 return info.param == KVH_COPY_D2H ? "out" : "in";
			 });

} // namespace
