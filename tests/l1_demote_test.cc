// SPDX-License-Identifier: Apache-2.0
//
// l1_demote_test.cc - dirty frames: not evicted, but handed over first.
#include "tests/l1_rig.h"

#include <cerrno>

namespace
{

constexpr uint64_t kFrame = 64 * 1024;
constexpr uint64_t kPayload = kFrame - 4096;
constexpr uint64_t kFrames = 64;

class L1Demote : public L1Rig
{
      protected:
	void SetUp() override
	{
		L1Rig::SetUp();
		open(kFrames * kFrame);
	}

	void put_dirty(uint64_t i)
	{
		kvh_frame frame = reserve(make_key(i), kPayload);

		ASSERT_NE(frame, 0u);
		kvh_l1_set_dirty(l1, frame);
		ASSERT_EQ(kvh_l1_publish(l1, frame, 0), 0);
	}

	std::vector<kvh_frame> take(uint32_t max = 1000)
	{
		std::vector<kvh_frame> frames(max);

		frames.resize(kvh_l1_demote_take(l1, frames.data(), max, UINT64_MAX));
		return frames;
	}

	uint64_t key_of(kvh_frame frame)
	{
		kvh_key key;
		uint64_t i;

		kvh_l1_key(l1, frame, &key);
		memcpy(&i, key.hash.bytes, sizeof(i));
		return i;
	}
};

TEST_F(L1Demote, FullOfDirtyFramesIsAgainUntilTheyAreWritten)
{
	int status = 0;

	for (uint64_t i = 0; i < kFrames; i++)
		put_dirty(i);
	EXPECT_EQ(reserve(make_key(1000), kPayload, &status), 0u);
	EXPECT_EQ(status, -EAGAIN);
	EXPECT_GE(demote_calls, 1u);
	EXPECT_EQ(find(make_key(0)), 1); // nothing was lost

	std::vector<kvh_frame> frames = take(4);
	ASSERT_EQ(frames.size(), 4u);
	EXPECT_EQ(reserve(make_key(1000), kPayload, &status), 0u);
	EXPECT_EQ(status, -EAGAIN); // on their way
	for (kvh_frame frame : frames)
		kvh_l1_demoted(l1, frame, true);
	for (uint64_t i = 0; i < 4; i++)
		EXPECT_NE(put(make_key(1000 + i), kPayload), 0u);
	for (kvh_frame frame : take())
		kvh_l1_demoted(l1, frame, true);
	EXPECT_EQ(stats().demoting, 0u);
}

TEST_F(L1Demote, CleanOnesGoBeforeThem)
{
	for (uint64_t i = 0; i < kFrames / 2; i++)
		put_dirty(i);
	for (uint64_t i = kFrames / 2; i < kFrames; i++)
		put(make_key(i), kPayload);
	put(make_key(1000), kPayload);
	for (uint64_t i = 0; i < kFrames / 2; i++)
		EXPECT_EQ(find(make_key(i)), 1);
	EXPECT_EQ(find(make_key(kFrames / 2)), 0);
}

TEST_F(L1Demote, OldestAreHandedOverFirst)
{
	for (uint64_t i = 0; i < 10; i++)
		put_dirty(i);
	EXPECT_EQ(take().size(), 0u); // eviction did not ask for any
	EXPECT_EQ(kvh_l1_evict(l1, 0), 0u);
	std::vector<kvh_frame> frames = take();
	ASSERT_EQ(frames.size(), 10u);
	EXPECT_EQ(stats().holds, 10u);
	EXPECT_TRUE(kvh_l1_check(l1));
	for (kvh_frame frame : frames)
		kvh_l1_demoted(l1, frame, key_of(frame) % 2 == 0);
	for (uint64_t i = 0; i < 10; i++)
		EXPECT_EQ(find(make_key(i)), i % 2 == 0 ? 0 : 1);
	EXPECT_EQ(kvh_l1_evict(l1, 0), 0u); // those that failed are dirty still
	frames = take();
	EXPECT_EQ(frames.size(), 5u);
	for (kvh_frame frame : frames)
		kvh_l1_demoted(l1, frame, true);
	EXPECT_EQ(stats().used_bytes, 0u);
}

TEST_F(L1Demote, UsedWhileInLineIsOutOfIt)
{
	put_dirty(0);
	put_dirty(1);
	kvh_l1_evict(l1, 0);
	kvh_l1_release(l1, lease(make_key(0)));
	std::vector<kvh_frame> frames = take();
	ASSERT_EQ(frames.size(), 1u);
	EXPECT_EQ(key_of(frames[0]), 1u);
	kvh_l1_demoted(l1, frames[0], true);
	EXPECT_EQ(find(make_key(0)), 1);
}

TEST_F(L1Demote, LeasedWhileOnItsWayStaysAfterIt)
{
	put_dirty(0);
	kvh_l1_evict(l1, 0);
	std::vector<kvh_frame> frames = take();
	kvh_lease_t held = lease(make_key(0));
	kvh_l1_demoted(l1, frames.at(0), true);
	EXPECT_EQ(find(make_key(0)), 1);
	kvh_l1_release(l1, held);
	EXPECT_EQ(kvh_l1_evict(l1, 0), kFrame); // clean now
}

TEST_F(L1Demote, ErasedWhileDirtyIsSimplyGone)
{
	for (uint64_t i = 0; i < 3; i++)
		put_dirty(i);
	kvh_l1_evict(l1, 0);
	const kvh_key in_line = make_key(0), on_its_way = make_key(1);
	EXPECT_EQ(kvh_l1_erase(l1, &in_line), 0);
	std::vector<kvh_frame> frames = take(1);
	ASSERT_EQ(frames.size(), 1u);
	kvh_key key;
	kvh_l1_key(l1, frames[0], &key);
	EXPECT_EQ(kvh_l1_erase(l1, &key), 0);
	EXPECT_TRUE(kvh_l1_check(l1));
	kvh_l1_demoted(l1, frames[0], true);
	EXPECT_EQ(kvh_l1_erase(l1, &on_its_way),
		  memcmp(&key, &on_its_way, 32) == 0 ? -ENOENT : 0);
	for (kvh_frame frame : take())
		kvh_l1_demoted(l1, frame, true);
	EXPECT_EQ(stats().used_bytes, 0u);
}

TEST_F(L1Demote, CleanedByAHolderIsEvictableAgain)
{
	const kvh_key key = make_key(0);
	kvh_frame frame = 0;

	put_dirty(0);
	kvh_l1_evict(l1, 0); // in line
	ASSERT_EQ(kvh_l1_hold_key(l1, &key, &frame), 0);
	EXPECT_TRUE(kvh_l1_is_dirty(l1, frame));
	kvh_l1_set_clean(l1, frame);
	EXPECT_FALSE(kvh_l1_is_dirty(l1, frame));
	kvh_l1_unhold(l1, frame);
	EXPECT_EQ(take().size(), 0u);
	EXPECT_EQ(kvh_l1_evict(l1, 0), kFrame);
}

TEST_F(L1Demote, AllDirtyOnesForAFlush)
{
	uint32_t cursor = 0, n = 0;
	kvh_frame frame;

	for (uint64_t i = 0; i < 6; i++)
		put_dirty(i);
	put(make_key(6), kPayload);
	kvh_lease_t held = lease(make_key(5));
	kvh_l1_evict(l1, 3 * kFrame); // some in line, some parked
	while (kvh_l1_next_dirty(l1, &cursor, &frame)) {
		kvh_l1_set_clean(l1, frame);
		kvh_l1_unhold(l1, frame);
		n++;
	}
	EXPECT_EQ(n, 6u);
	cursor = 0;
	EXPECT_FALSE(kvh_l1_next_dirty(l1, &cursor, &frame));
	kvh_l1_release(l1, held);
	EXPECT_TRUE(kvh_l1_check(l1));
	kvh_l1_evict(l1, 0);
	EXPECT_EQ(stats().used_bytes, 0u);
}

// The control: what is not marked is evicted unwritten.
TEST_F(L1Demote, NegativeControlCleanFramesAreLost)
{
	for (uint64_t i = 0; i < kFrames; i++)
		put(make_key(i), kPayload);
	put(make_key(1000), kPayload);
	EXPECT_EQ(find(make_key(0)), 0);
	EXPECT_EQ(demote_calls, 0u);
}

} // namespace
