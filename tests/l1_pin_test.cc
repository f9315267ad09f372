// SPDX-License-Identifier: Apache-2.0
//
// l1_pin_test.cc - L1 over an arena that is still growing: memory that is short now
// is made by eviction as ever, memory that comes is used, and all agrees throughout.
#include "l1_rig.h"

#include <random>

namespace
{

constexpr uint32_t kPieces = 6;

class L1Pin : public L1Rig
{
      protected:
	// The first piece of 2 MiB is there; registering the others is held.
	void open_held(const char *eviction = nullptr)
	{
		const kvh_host_rule rule = {
			KVH_HOST_REGISTER, KVH_HOST_HOLD, 2, UINT64_MAX, 0, 0};

		ASSERT_EQ(kvh_host_rule_add(dev, &rule), 0);
		early = true;
		open(kPieces * 2 * kMiB, 8, 2 * kMiB, eviction);
		kvh_host_held_wait(dev, 1);
	}
	void let_go()
	{
		kvh_host_release(dev);
		kvh_arena_pinned_wait(arena);
	}
	void TearDown() override
	{
		kvh_host_release(dev);
		L1Rig::TearDown();
	}
};

TEST_F(L1Pin, EvictsWhileItIsShortAndFillsWhatComes)
{
	constexpr uint64_t kPayload = 256 * 1024 - 4096;

	open_held();
	for (uint64_t i = 1; i <= 8; i++)
		put(make_key(i), kPayload);
	EXPECT_EQ(stats().evicted_alloc, 0u);
	put(make_key(9), kPayload);
	EXPECT_EQ(stats().evicted_alloc, 1u) << "nothing waits for what is coming";
	EXPECT_EQ(find(make_key(1)), 0);
	EXPECT_TRUE(kvh_l1_check(l1));

	let_go();
	for (uint64_t i = 10; i <= 8 * kPieces + 1; i++)
		put(make_key(i), kPayload);
	EXPECT_EQ(stats().evicted_alloc, 1u) << "all of it is used";
	put(make_key(100), kPayload);
	EXPECT_EQ(stats().evicted_alloc, 2u);
}

TEST_F(L1Pin, LeasedAndShortIsNoMemoryUntilMoreComes)
{
	kvh_lease_t leases[2];
	int status = 0;

	open_held();
	for (uint64_t i = 0; i < 2; i++) {
		put(make_key(i), kMiB - 4096);
		leases[i] = lease(make_key(i));
	}
	EXPECT_EQ(reserve(make_key(7), kMiB - 4096, &status), 0u);
	EXPECT_EQ(status, -ENOMEM);
	let_go();
	put(make_key(7), kMiB - 4096);
	for (kvh_lease_t one : leases)
		EXPECT_EQ(kvh_l1_release(l1, one), 0);
}

// Limits are of what was asked for.
TEST_F(L1Pin, LimitsMayBeMoreThanIsPinnedYet)
{
	const kvh_l1_limits fits = {0, kPieces * 2 * kMiB, true};
	const kvh_l1_limits too_much = {0, kPieces * 2 * kMiB + 4096, false};

	open_held();
	EXPECT_EQ(kvh_l1_limits_set(l1, 1, &fits), 0);
	EXPECT_EQ(kvh_l1_limits_set(l1, 2, &too_much), -EINVAL);
	let_go();
}

// Sizes that need whole slabs, so that places are cleared and swept, while pieces
// come at any moment.
class L1Grows : public L1Pin, public ::testing::WithParamInterface<const char *>
{
};

TEST_P(L1Grows, RandomlyAndAllAgrees)
{
	const uint32_t seed = 4711;
	std::mt19937 random(seed);
	const uint64_t payloads[] = {4096, 60 * 1024, 700 * 1024, 2 * kMiB - 4096};

	SCOPED_TRACE("seed " + std::to_string(seed));
	open_held(GetParam());
	for (int step = 0; step < 3000; step++) {
		const kvh_key key = make_key(random() % 200);
		reserve_item item = {};

		if (step == 1000)
			kvh_host_release(dev); // they come during the next steps
		item.key = key;
		item.payload_bytes = payloads[random() % 4];
		if (kvh_l1_reserve(l1, &item, 1) == 1) {
			memset(kvh_l1_data(l1, item.frame), 1, 4096);
			ASSERT_EQ(kvh_l1_publish(l1, item.frame, 0), 0);
		} else {
			ASSERT_EQ(item.status, -EEXIST) << "nobody holds anything";
		}
		if (step % 100 == 0) {
			ASSERT_TRUE(kvh_arena_check(arena));
		}
	}
	kvh_arena_pinned_wait(arena);
	EXPECT_TRUE(kvh_l1_check(l1));
}

INSTANTIATE_TEST_SUITE_P(Policies, L1Grows, ::testing::Values("lru", "s3-fifo", "arc"),
			 [](const auto &info) {
				 std::string name = info.param;
				 name.erase(std::remove(name.begin(), name.end(), '-'),
					    name.end());
				 return name;
			 });

} // namespace
