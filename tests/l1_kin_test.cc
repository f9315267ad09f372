// SPDX-License-Identifier: Apache-2.0
//
// l1_kin_test.cc - a prefix is evicted from its tail, the ranks and groups of a
// chunk together; and hints that are wrong do no harm.
#include "tests/l1_rig.h"

#include <algorithm>

namespace
{

constexpr uint64_t kFrame = 64 * 1024;
constexpr uint64_t kPayload = kFrame - 4096;
constexpr uint64_t kNone = UINT64_MAX;

// A hash of zeros is no parent's.
kvh_key key_of(uint64_t i, kvh_space_t space = 1, uint32_t rank = 0)
{
	return make_key(i + 1, space, rank);
}

class L1Kin : public L1Rig, public ::testing::WithParamInterface<const char *>
{
      protected:
	void SetUp() override
	{
		L1Rig::SetUp();
		open(4 * kMiB, 0, 0, GetParam());
	}

	static reserve_item item_of(uint64_t i, uint64_t parent, uint32_t rank = 0)
	{
		reserve_item item = {};

		item.key = key_of(i, 1, rank);
		item.payload_bytes = kPayload;
		if (parent != kNone)
			item.parent = key_of(parent).hash;
		return item;
	}

	void store(uint64_t i, uint64_t parent, uint32_t rank = 0)
	{
		reserve_item item = item_of(i, parent, rank);

		ASSERT_EQ(kvh_l1_reserve(l1, &item, 1), 1u);
		ASSERT_EQ(kvh_l1_publish(l1, item.frame, 0), 0);
	}

	// Chunk by chunk, as they are computed: the head is the oldest.
	void store_prompt(uint64_t from, uint64_t n)
	{
		for (uint64_t i = 0; i < n; i++)
			store(from + i, i > 0 ? from + i - 1 : kNone);
	}

	uint64_t there(uint64_t from, uint64_t n)
	{
		uint64_t len = 0;

		while (len < n && find(key_of(from + len)) == 1)
			len++;
		for (uint64_t i = len; i < n; i++)
			EXPECT_EQ(find(key_of(from + i)), 0) << "a hole in the prefix";
		return len;
	}

	uint64_t used()
	{
		return stats().used_bytes;
	}
};

INSTANTIATE_TEST_SUITE_P(Policies, L1Kin, ::testing::Values("lru", "s3-fifo", "arc"),
			 [](const ::testing::TestParamInfo<const char *> &info) {
				 std::string name = info.param;
				 name.erase(std::remove(name.begin(), name.end(), '-'),
					    name.end());
				 return name;
			 });

TEST_P(L1Kin, OfAPrefixTheTailGoesFirst)
{
	store_prompt(0, 40);
	for (uint64_t left = 40; left-- > 0;) {
		ASSERT_EQ(kvh_l1_evict(l1, left * kFrame), kFrame);
		ASSERT_EQ(there(0, 40), left);
		ASSERT_TRUE(kvh_l1_check(l1));
	}
}

// Without the parents they go from the head: nothing of the prefix is of use.
TEST_P(L1Kin, NegativeControlWithoutParentsTheHeadGoesFirst)
{
	for (uint64_t i = 0; i < 40; i++)
		store(i, kNone);
	kvh_l1_evict(l1, 20 * kFrame);
	EXPECT_EQ(find(key_of(0)), 0);
	EXPECT_EQ(find(key_of(39)), 1);
}

TEST_P(L1Kin, AsOneBatchTheTailGoesFirst)
{
	std::vector<reserve_item> items;

	for (uint64_t i = 0; i < 30; i++)
		items.push_back(item_of(i, i > 0 ? i - 1 : kNone));
	ASSERT_EQ(kvh_l1_reserve(l1, items.data(), 30), 30u);
	for (auto &item : items)
		kvh_l1_publish(l1, item.frame, 0);
	kvh_l1_evict(l1, 11 * kFrame);
	EXPECT_EQ(there(0, 30), 11u);
}

// Two prompts with a common head: it stays as long as one of them.
TEST_P(L1Kin, TheForkStaysWhileABranchDoes)
{
	store_prompt(0, 10);
	store(100, 9);
	store(101, 100);
	store(200, 9);
	kvh_l1_evict(l1, 12 * kFrame);
	EXPECT_EQ(there(0, 10), 10u);
	kvh_l1_evict(l1, 10 * kFrame);
	EXPECT_EQ(there(0, 10), 10u);
	kvh_l1_evict(l1, 3 * kFrame);
	EXPECT_EQ(there(0, 10), 3u);
}

TEST_P(L1Kin, AParentThatIsUsedIsYoungAgain)
{
	store_prompt(0, 2);
	store(50, kNone);
	kvh_l1_evict(l1, 3 * kFrame); // nothing to do
	for (int i = 0; i < 3; i++)
		kvh_l1_release(l1, lease(key_of(50)));
	kvh_l1_evict(l1, 2 * kFrame); // 0 is met, set aside, and 1 goes
	EXPECT_EQ(there(0, 2), 1u);
	EXPECT_TRUE(kvh_l1_check(l1));
}

TEST_P(L1Kin, RanksOfAChunkGoTogether)
{
	for (uint32_t rank = 0; rank < 4; rank++)
		for (uint64_t i = 0; i < 8; i++)
			store(i, i > 0 ? i - 1 : kNone, rank);
	kvh_l1_evict(l1, 31 * kFrame); // one of them
	EXPECT_EQ(used(), 28 * kFrame);
	for (uint32_t rank = 0; rank < 4; rank++) {
		EXPECT_EQ(find(key_of(7, 1, rank)), 0);
		EXPECT_EQ(find(key_of(6, 1, rank)), 1);
	}
}

TEST_P(L1Kin, ARankThatIsHeldStays)
{
	store(0, kNone, 0);
	store(0, kNone, 1);
	kvh_lease_t held = lease(key_of(0, 1, 1));
	kvh_l1_evict(l1, 0);
	EXPECT_EQ(find(key_of(0, 1, 0)), 0);
	EXPECT_EQ(find(key_of(0, 1, 1)), 1);
	kvh_l1_release(l1, held);
	kvh_l1_evict(l1, 0);
	EXPECT_EQ(used(), 0u);
}

// -- hints that are wrong ---------------------------------------------------------

TEST_P(L1Kin, EachOthersParentsAreEvictedInTheEnd)
{
	store(1, 2);
	store(2, 1);
	store(3, 3);   // its own
	store(4, 999); // of one that never was
	const kvh_key key = key_of(1);
	ASSERT_EQ(kvh_l1_erase(l1, &key), 0);
	store(1, 2); // so that each names the other
	EXPECT_EQ(kvh_l1_evict(l1, 0), 4 * kFrame);
	EXPECT_EQ(used(), 0u);
}

// The parent is erased and its record becomes another frame: the children that
// still name it must not keep that one, nor count below zero.
TEST_P(L1Kin, AnErasedParentLeavesNobodyPinned)
{
	store_prompt(0, 8);
	for (uint64_t i = 0; i < 7; i++) {
		const kvh_key key = key_of(i);

		ASSERT_EQ(kvh_l1_erase(l1, &key), 0);
		store(100 + i, i > 0 ? 99 + i : kNone);
		ASSERT_TRUE(kvh_l1_check(l1));
	}
	while (used() > 0)
		ASSERT_GT(kvh_l1_evict(l1, used() - kFrame), 0u);
}

TEST_P(L1Kin, ChildrenOutliveWhatIsAbortedOrErased)
{
	reserve_item item = item_of(1, 0);
	const kvh_key key = key_of(1);

	store(0, kNone);
	ASSERT_EQ(kvh_l1_reserve(l1, &item, 1), 1u);
	kvh_l1_abort(l1, item.frame);
	ASSERT_EQ(kvh_l1_reserve(l1, &item, 1), 1u);
	ASSERT_EQ(kvh_l1_erase(l1, &key), 0); // FILLING: cancelled
	ASSERT_EQ(kvh_l1_publish(l1, item.frame, 0), -ECANCELED);
	EXPECT_EQ(kvh_l1_evict(l1, 0), kFrame); // 0 has no children left
}

} // namespace
