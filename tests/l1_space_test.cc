// SPDX-License-Identifier: Apache-2.0
//
// l1_space_test.cc - what a space has in L1 and may have: bytes, soft and hard
// limits, pinned spaces, erasing all of one.
#include "tests/l1_rig.h"

#include <cerrno>

namespace
{

constexpr uint64_t kFrame = 64 * 1024;
constexpr uint64_t kPayload = kFrame - 4096;
constexpr uint64_t kFrames = 64; // of all L1: 4 MiB
constexpr kvh_space_t kA = 0xA, kB = 0xB, kC = 0xC;

class L1Space : public L1Rig
{
      protected:
	void SetUp() override
	{
		L1Rig::SetUp();
		open(kFrames * kFrame);
	}

	int limit(kvh_space_t space, uint64_t soft, uint64_t hard, bool pinned = false)
	{
		kvh_l1_limits limits = {soft * kFrame, hard * kFrame, pinned};

		return kvh_l1_limits_set(l1, space, &limits);
	}

	// Keys [from, from + n) of a space, one by one; how many there was room for.
	uint64_t store(kvh_space_t space, uint64_t from, uint64_t n, int *status_p = nullptr)
	{
		uint64_t made = 0;

		for (uint64_t i = from; i < from + n; i++) {
			kvh_frame frame = reserve(make_key(i, space), kPayload, status_p);

			if (frame == 0)
				continue;
			EXPECT_EQ(kvh_l1_publish(l1, frame, 0), 0);
			made++;
		}
		return made;
	}

	uint64_t frames(kvh_space_t space)
	{
		struct kvh_l1_space_stats s = {};

		if (kvh_l1_space_stats(l1, space, &s) != 0)
			return 0;
		EXPECT_EQ(s.used_bytes % kFrame, 0u);
		return s.used_bytes / kFrame;
	}
};

TEST_F(L1Space, UsageIsCountedInEveryState)
{
	kvh_frame filling = reserve(make_key(1, kA), kPayload);
	EXPECT_EQ(frames(kA), 1u);
	put(make_key(2, kA, 3, 1), kPayload); // another rank and group
	put(make_key(2, kB), kPayload);
	EXPECT_EQ(frames(kA), 2u);
	EXPECT_EQ(frames(kB), 1u);
	EXPECT_EQ(frames(kC), 0u);

	kvh_lease_t held = lease(make_key(2, kB));
	const kvh_key key = make_key(2, kB);
	EXPECT_EQ(kvh_l1_erase(l1, &key), 0);
	EXPECT_EQ(frames(kB), 1u); // doomed, and there
	EXPECT_TRUE(kvh_l1_check(l1));
	EXPECT_EQ(kvh_l1_release(l1, held), 0);
	EXPECT_EQ(frames(kB), 0u);
	kvh_l1_abort(l1, filling);
	EXPECT_EQ(frames(kA), 1u);
}

TEST_F(L1Space, HardLimitIsNeverExceeded)
{
	ASSERT_EQ(limit(kA, 0, 8), 0);
	store(kB, 0, 20);
	for (uint64_t i = 0; i < 100; i++) {
		ASSERT_EQ(store(kA, i, 1), 1u);
		ASSERT_LE(frames(kA), 8u);
	}
	EXPECT_EQ(frames(kA), 8u);
	EXPECT_EQ(frames(kB), 20u); // it went at its own cost
	EXPECT_EQ(stats().evicted_quota, 92u);
	EXPECT_EQ(find(make_key(99, kA)), 1);
	EXPECT_EQ(find(make_key(91, kA)), 0);
}

TEST_F(L1Space, AtTheHardLimitWithAllHeldIsEdquot)
{
	int status = 0;

	ASSERT_EQ(limit(kA, 0, 4), 0);
	store(kA, 0, 4);
	std::vector<kvh_lease_t> held;
	for (uint64_t i = 0; i < 4; i++)
		held.push_back(lease(make_key(i, kA)));
	EXPECT_EQ(store(kA, 4, 1, &status), 0u);
	EXPECT_EQ(status, -EDQUOT);
	EXPECT_EQ(store(kB, 4, 1), 1u); // others are not concerned
	EXPECT_EQ(frames(kA), 4u);
	kvh_l1_release(l1, held[2]);
	EXPECT_EQ(store(kA, 4, 1, &status), 1u);
	EXPECT_EQ(find(make_key(2, kA)), 0);
}

TEST_F(L1Space, BatchAcrossTheLimitGetsWhatFits)
{
	std::vector<reserve_item> items(6);
	uint32_t refused = 0;

	ASSERT_EQ(limit(kA, 0, 4), 0);
	for (uint32_t i = 0; i < 6; i++) {
		items[i].key = make_key(i, kA);
		items[i].payload_bytes = kPayload;
	}
	EXPECT_EQ(kvh_l1_reserve(l1, items.data(), 6), 4u);
	for (auto &item : items) {
		refused += item.status == -EDQUOT;
		if (item.status == 0)
			kvh_l1_publish(l1, item.frame, 0);
	}
	EXPECT_EQ(refused, 2u);
	EXPECT_EQ(frames(kA), 4u);
}

TEST_F(L1Space, LoweredLimitIsReachedAtOnce)
{
	store(kA, 0, 30);
	ASSERT_EQ(limit(kA, 0, 10), 0);
	EXPECT_EQ(frames(kA), 10u);
	EXPECT_EQ(find(make_key(29, kA)), 1);
	ASSERT_EQ(limit(kA, 0, 0), 0); // none again
	store(kA, 100, 30);
	EXPECT_EQ(frames(kA), 40u);
}

TEST_F(L1Space, AboveTheSoftLimitGoesFirst)
{
	ASSERT_EQ(limit(kA, 16, 0), 0);
	store(kB, 0, 32); // older than all of A
	store(kA, 0, 32);
	store(kC, 0, 8);
	EXPECT_EQ(frames(kB), 32u);
	EXPECT_EQ(frames(kA), 24u);
	EXPECT_EQ(frames(kC), 8u);
	store(kC, 100, 16); // A is down to its soft limit after 8: then the oldest go
	EXPECT_EQ(frames(kA), 16u);
	EXPECT_EQ(frames(kB), 24u);
}

// A floods with ten times what there is; B sits still.
class Flood : public L1Space
{
      protected:
	double share_of_b_left()
	{
		store(kB, 0, 32);
		for (uint64_t i = 0; i < 10 * kFrames; i++)
			store(kA, i, 1);
		return static_cast<double>(frames(kB)) / 32;
	}
};

TEST_F(Flood, ASpaceKeepsItsBytesWhenAnotherFloods)
{
	ASSERT_EQ(limit(kA, 32, 0), 0);
	EXPECT_GE(share_of_b_left(), 0.99);
	EXPECT_GE(frames(kA), 32u);
}

TEST_F(Flood, AHardLimitKeepsTheFloodOut)
{
	ASSERT_EQ(limit(kA, 0, 32), 0);
	EXPECT_GE(share_of_b_left(), 0.99);
}

TEST_F(Flood, NegativeControlWithoutLimitsItLosesThem)
{
	EXPECT_LT(share_of_b_left(), 0.01);
}

TEST_F(Flood, APinnedSpaceLosesNothing)
{
	ASSERT_EQ(limit(kB, 0, 32, true), 0);
	EXPECT_EQ(share_of_b_left(), 1.0);
	EXPECT_EQ(frames(kA), 32u);
	// It pays for itself, with the oldest of its own.
	store(kB, 1000, 8);
	EXPECT_EQ(frames(kB), 32u);
	EXPECT_EQ(find(make_key(0, kB)), 0);
	EXPECT_EQ(kvh_l1_evict(l1, 0), 32 * kFrame); // in the background neither
	EXPECT_EQ(frames(kB), 32u);
	ASSERT_EQ(limit(kB, 0, 0), 0);
	EXPECT_EQ(kvh_l1_evict(l1, 0), 32 * kFrame);
}

TEST_F(L1Space, BadLimitsAreRefusedAndTheOldOnesStay)
{
	struct kvh_l1_space_stats s = {};

	ASSERT_EQ(limit(kA, 4, 8), 0);
	kvh_log_set([](void *, enum kvh_log_level, const char *) {}, nullptr, KVH_LOG_ERROR);
	EXPECT_EQ(limit(kA, 0, kFrames + 1), -EINVAL);
	EXPECT_EQ(limit(kA, kFrames + 1, 0), -EINVAL);
	EXPECT_EQ(limit(kA, 9, 8), -EINVAL);
	EXPECT_EQ(limit(kA, 4, 0, true), -EINVAL); // pinned without end
	ASSERT_EQ(limit(kB, 0, 40, true), 0);
	EXPECT_EQ(limit(kA, 0, 25, true), -EINVAL); // together more than there is
	ASSERT_EQ(kvh_l1_space_stats(l1, kA, &s), 0);
	EXPECT_EQ(s.limits.soft_bytes, 4 * kFrame);
	EXPECT_EQ(s.limits.hard_bytes, 8 * kFrame);
	EXPECT_FALSE(s.limits.pinned);
	EXPECT_EQ(limit(kA, 0, 24, true), 0);
	EXPECT_EQ(kvh_l1_space_stats(l1, 0xDEAD, &s), -ENOENT);
}

// Each with a limit: eviction still takes the oldest of all.
TEST_F(L1Space, AThousandSpaces)
{
	for (uint64_t s = 0; s < 1200; s++) {
		ASSERT_EQ(limit(1000 + s, 0, 2), 0);
		ASSERT_EQ(store(1000 + s, 0, 1), 1u);
	}
	for (uint64_t s = 0; s < 1200; s++)
		EXPECT_EQ(frames(1000 + s), s < 1200 - kFrames ? 0u : 1u) << s;
}

TEST_F(L1Space, EraseOfAllOfASpace)
{
	const kvh_key filling_key = make_key(77, kA);
	kvh_frame filling = reserve(filling_key, kPayload);

	store(kA, 0, 10);
	store(kB, 0, 10);
	put(make_key(3, kA, 1), kPayload);
	kvh_lease_t held = lease(make_key(5, kA));
	EXPECT_EQ(kvh_l1_erase_space(l1, kA), 12u);
	for (uint64_t i = 0; i < 10; i++)
		EXPECT_EQ(find(make_key(i, kA)), 0);
	EXPECT_EQ(find(make_key(3, kA, 1)), 0);
	EXPECT_EQ(frames(kB), 10u);
	EXPECT_EQ(kvh_l1_publish(l1, filling, 0), -ECANCELED);
	EXPECT_EQ(frames(kA), 1u); // the leased one
	EXPECT_EQ(kvh_l1_release(l1, held), 0);
	EXPECT_EQ(frames(kA), 0u);
	EXPECT_EQ(kvh_l1_erase_space(l1, kA), 0u);
	EXPECT_EQ(kvh_l1_erase_space(l1, 0xDEAD), 0u);
}

} // namespace
