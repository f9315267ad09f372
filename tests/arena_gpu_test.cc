// SPDX-License-Identifier: Apache-2.0
//
// arena_gpu_test.cc - an arena that a device writes and reads while the rest of it is
// still being pinned, by threads that register at once. On the host device, too,
// which shows that the test itself is right where there is no GPU.
#include "cuda/device.h"
#include "host/arena.h"
#include "host/log.h"
#include "tests/device_or_skip.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace
{

constexpr uint64_t kPiece = UINT64_C(8) << 20;
constexpr uint32_t kPieces = 16;
constexpr uint64_t kFrame = UINT64_C(1) << 20;

class ArenaOnDevice : public testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		DEVICE_OR_SKIP(GetParam(), &dev_);
		ASSERT_EQ(dev_->ops->stream_create(dev_, 0, &stream_), 0);
		ASSERT_EQ(dev_->ops->mem_alloc(dev_, 2 * kFrame, &memory_), 0);
		opts_.dev = dev_;
		opts_.bytes = kPieces * kPiece;
		opts_.piece_bytes = kPiece;
		opts_.numa_node = KVH_NODE_ANY;
		opts_.register_threads = 4;
		opts_.early = true;
	}
	void TearDown() override
	{
		if (dev_ == nullptr)
			return;
		if (arena_ != nullptr)
			kvh_arena_close(arena_, false);
		if (memory_ != nullptr)
			dev_->ops->mem_free(dev_, memory_);
		if (stream_ != nullptr)
			dev_->ops->stream_destroy(dev_, stream_);
		dev_->ops->close(dev_);
	}

	// From frame to device, to another place there, and back to the frame.
	void there_and_back(void *frame, unsigned char value)
	{
		auto *at = static_cast<unsigned char *>(frame);
		auto *half = static_cast<unsigned char *>(memory_) + kFrame;
		const kvh_copy steps[] = {
			{memory_, at, kFrame}, {half, memory_, kFrame}, {at, half, kFrame}};
		const kvh_copy_kind kinds[] = {KVH_COPY_H2D, KVH_COPY_D2D, KVH_COPY_D2H};

		memset(at, value, kFrame);
		for (int i = 0; i < 3; i++) {
			ASSERT_EQ(dev_->ops->copy(dev_, kinds[i], &steps[i], stream_), 0);
			ASSERT_EQ(dev_->ops->stream_wait(dev_, stream_), 0);
			if (i == 0)
				memset(at, 0, kFrame);
		}
		EXPECT_EQ(at[0], value);
		EXPECT_EQ(memcmp(at, at + 1, kFrame - 1), 0);
	}

	kvh_device *dev_ = nullptr;
	kvh_stream stream_ = nullptr;
	void *memory_ = nullptr;
	kvh_arena *arena_ = nullptr;
	kvh_arena_opts opts_ = {};
};

TEST_P(ArenaOnDevice, CopiesToWhatIsPinnedWhileTheRestComes)
{
	const kvh_arena_piece *pieces;
	struct kvh_arena_stats stats;
	std::vector<void *> frames;
	bool pinning = true;

	ASSERT_EQ(kvh_arena_open(&opts_, &arena_), 0);
	// Some of whatever serves by now, round by round, and once more after the end.
	while (pinning) {
		void *got[8];

		kvh_arena_stats(arena_, &stats);
		pinning = stats.pinning;
		const int n = kvh_arena_alloc(arena_, kFrame, 8, got);
		ASSERT_GE(n, 0);
		for (int i = 0; i < n; i++) {
			there_and_back(got[i], static_cast<unsigned char>(frames.size() + 1));
			frames.push_back(got[i]);
		}
	}
	ASSERT_EQ(kvh_arena_pieces(arena_, &pieces), kPieces);
	kvh_arena_free_many(arena_, frames.data(), static_cast<uint32_t>(frames.size()));
	// The last byte of each piece is pinned as the first.
	frames.resize(kPieces * (kPiece / kFrame));
	ASSERT_EQ(kvh_arena_alloc(arena_, kFrame, static_cast<uint32_t>(frames.size()),
				  frames.data()),
		  static_cast<int>(frames.size()));
	for (size_t i = 0; i < frames.size(); i += kPiece / kFrame - 1)
		there_and_back(frames[i], static_cast<unsigned char>(i));
	kvh_arena_free_many(arena_, frames.data(), static_cast<uint32_t>(frames.size()));
}

TEST_P(ArenaOnDevice, ClosesAtAnyMoment)
{
	for (int i = 0; i < 20; i++) {
		void *frame;

		ASSERT_EQ(kvh_arena_open(&opts_, &arena_), 0);
		ASSERT_EQ(kvh_arena_alloc(arena_, kFrame, 1, &frame), 1);
		for (int copies = 0; copies < i % 5; copies++)
			there_and_back(frame, static_cast<unsigned char>(i));
		kvh_arena_free(arena_, frame);
		kvh_arena_close(arena_, false);
		arena_ = nullptr;
	}
}

// What was registered is so no more: the device takes the same addresses again.
TEST_P(ArenaOnDevice, ManyTimesNothingIsLeftRegistered)
{
	opts_.early = false;
	opts_.bytes = 4 * kPiece;
	for (int i = 0; i < 10; i++) {
		struct kvh_arena_stats stats;

		ASSERT_EQ(kvh_arena_open(&opts_, &arena_), 0);
		kvh_arena_stats(arena_, &stats);
		EXPECT_EQ(stats.pinned_bytes, opts_.bytes);
		kvh_arena_close(arena_, false);
		arena_ = nullptr;
	}
}

INSTANTIATE_TEST_SUITE_P(Devices, ArenaOnDevice, testing::Values("host", "cuda"),
			 [](const auto &info) { return std::string(info.param); });

} // namespace
