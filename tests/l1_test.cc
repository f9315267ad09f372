// SPDX-License-Identifier: Apache-2.0
//
// l1_test.cc - every state of a frame and every way between them, one thread.
#include "tests/l1_rig.h"

#include <cerrno>

namespace
{

constexpr uint64_t kPayload = 64 * 1024 - 4096; // a frame of 64 KiB

class L1 : public L1Rig
{
      protected:
	void SetUp() override
	{
		L1Rig::SetUp();
		open(4 * kMiB);
	}

	void check()
	{
		ASSERT_TRUE(kvh_l1_check(l1));
	}

	const kvh_key key = make_key(1);
};

TEST_F(L1, ShardsMustBeAPowerOfTwo)
{
	kvh_l1_opts opts = {};
	kvh_l1 *other = nullptr;

	kvh_log_set([](void *, enum kvh_log_level, const char *) {}, nullptr, KVH_LOG_ERROR);
	opts.arena = arena;
	for (uint32_t n : {3u, 65u, 2048u}) {
		opts.n_shards = n;
		EXPECT_EQ(kvh_l1_open(&opts, &other), -EINVAL);
	}
}

TEST_F(L1, ReservedIsFillingThenPublishedIsReady)
{
	EXPECT_EQ(find(key), 0);
	kvh_frame frame = reserve(key, kPayload);
	EXPECT_EQ(find(key), 2);
	lease(key, -EINPROGRESS);
	EXPECT_EQ(kvh_l1_frame_bytes(l1, frame), kvh_frame_bytes(kPayload));
	memset(kvh_l1_data(l1, frame), 7, kvh_frame_bytes(kPayload));
	check();
	EXPECT_EQ(kvh_l1_publish(l1, frame, 0), 0);
	EXPECT_EQ(find(key), 1);
	EXPECT_EQ(stats().frames, 1u);
	EXPECT_EQ(stats().used_bytes, kvh_frame_bytes(kPayload));
}

TEST_F(L1, KeyOfAFrame)
{
	const kvh_key odd = make_key(0xFEDCBA9876543210, 0x1234567890ABCDEF, KVH_RANK_ANY, 15);
	kvh_frame frame = put(odd, 1, 1);
	kvh_key back;

	kvh_l1_key(l1, frame, &back);
	EXPECT_EQ(memcmp(&back, &odd, sizeof(odd)), 0);
	kvh_l1_unhold(l1, frame);
}

TEST_F(L1, EveryPartOfTheKeyCounts)
{
	put(key, 1);
	for (unsigned i = 0; i < sizeof(key); i++) {
		kvh_key other = key;

		reinterpret_cast<uint8_t *>(&other)[i] ^= 0x10;
		EXPECT_EQ(find(other), 0) << "byte " << i;
		put(other, 1);
		EXPECT_EQ(find(other), 1) << "byte " << i;
	}
	EXPECT_EQ(stats().frames, 33u);
	check();
}

TEST_F(L1, SecondWriterIsTold)
{
	kvh_frame frame = reserve(key, kPayload);
	int status = 0;

	reserve(key, kPayload, &status);
	EXPECT_EQ(status, -EINPROGRESS);
	kvh_l1_publish(l1, frame, 0);
	reserve(key, kPayload, &status);
	EXPECT_EQ(status, -EEXIST);
	EXPECT_EQ(stats().used_bytes, kvh_frame_bytes(kPayload));
}

TEST_F(L1, SameKeyTwiceInABatch)
{
	reserve_item items[4] = {};

	items[0].key = items[2].key = key;
	items[1].key = make_key(2);
	items[3].key = make_key(3);
	items[3].payload_bytes = 5 * kMiB; // larger than the piece
	kvh_log_set([](void *, enum kvh_log_level, const char *) {}, nullptr, KVH_LOG_ERROR);
	EXPECT_EQ(kvh_l1_reserve(l1, items, 4), 2u);
	EXPECT_EQ(items[0].status, 0);
	EXPECT_EQ(items[1].status, 0);
	EXPECT_EQ(items[2].status, -EINPROGRESS);
	EXPECT_EQ(items[2].frame, 0u);
	EXPECT_EQ(items[3].status, -EINVAL);
	EXPECT_EQ(items[3].frame, 0u);
	check();
	kvh_l1_abort(l1, items[0].frame);
	kvh_l1_abort(l1, items[1].frame);
}

TEST_F(L1, PayloadLengthsThatWrapAreRefused)
{
	int status = 0;

	kvh_log_set([](void *, enum kvh_log_level, const char *) {}, nullptr, KVH_LOG_ERROR);
	for (uint64_t bytes : {UINT64_MAX, UINT64_MAX - 4095, 4 * kMiB, 4 * kMiB - 4095}) {
		reserve(key, bytes, &status);
		EXPECT_EQ(status, -EINVAL) << bytes;
	}
	kvh_frame frame = reserve(key, 4 * kMiB - 4096, &status); // exactly the piece
	EXPECT_EQ(status, 0);
	kvh_l1_abort(l1, frame);
}

TEST_F(L1, BatchLiesSideBySide)
{
	std::vector<reserve_item> items(20);

	for (uint32_t i = 0; i < 20; i++) {
		items[i].key = make_key(i);
		items[i].payload_bytes = kPayload;
	}
	ASSERT_EQ(kvh_l1_reserve(l1, items.data(), 20), 20u);
	for (uint32_t i = 1; i < 20; i++)
		EXPECT_EQ(static_cast<char *>(kvh_l1_data(l1, items[i].frame)) -
				  static_cast<char *>(kvh_l1_data(l1, items[i - 1].frame)),
			  64 * 1024);
	for (auto &item : items)
		kvh_l1_abort(l1, item.frame);
}

TEST_F(L1, AbortLeavesNothing)
{
	kvh_l1_abort(l1, reserve(key, kPayload));
	EXPECT_EQ(find(key), 0);
	EXPECT_EQ(stats().frames, 0u);
	EXPECT_EQ(stats().used_bytes, 0u);
	check();
	put(key, kPayload);
}

TEST_F(L1, EmptyPayload)
{
	kvh_frame frame = put(key, 0, 1);

	EXPECT_EQ(kvh_l1_frame_bytes(l1, frame), 4096u);
	kvh_l1_unhold(l1, frame);
}

TEST_F(L1, LeaseKeepsAnErasedFrame)
{
	kvh_frame frame = put(key, kPayload), held;
	kvh_lease_t value = lease(key);

	EXPECT_EQ(kvh_l1_erase(l1, &key), 0);
	EXPECT_EQ(find(key), 0);
	EXPECT_EQ(kvh_l1_erase(l1, &key), -ENOENT);
	EXPECT_EQ(stats().doomed, 1u);
	EXPECT_EQ(stats().frames, 0u);
	check();
	// The key can be stored again at once; the lease stays with the old frame.
	kvh_frame again = put(key, kPayload, 1);
	EXPECT_EQ(kvh_l1_hold_lease(l1, value, &held), 0);
	EXPECT_EQ(held, frame);
	EXPECT_NE(kvh_l1_data(l1, held), kvh_l1_data(l1, again));
	EXPECT_EQ(kvh_l1_release(l1, value), 0);
	EXPECT_EQ(stats().doomed, 1u); // the hold keeps it still
	kvh_l1_unhold(l1, held);
	EXPECT_EQ(stats().doomed, 0u);
	EXPECT_EQ(stats().used_bytes, kvh_frame_bytes(kPayload));
	EXPECT_EQ(find(key), 1);
	kvh_l1_unhold(l1, again);
}

TEST_F(L1, EraseWithoutHolderFreesAtOnce)
{
	EXPECT_EQ(kvh_l1_erase(l1, &key), -ENOENT);
	put(key, kPayload);
	EXPECT_EQ(kvh_l1_erase(l1, &key), 0);
	EXPECT_EQ(stats().used_bytes, 0u);
	EXPECT_EQ(stats().doomed, 0u);
}

TEST_F(L1, EraseWhileFillingIsToldToPublish)
{
	kvh_frame frame = reserve(key, kPayload);

	EXPECT_EQ(kvh_l1_erase(l1, &key), 0);
	EXPECT_EQ(find(key), 0);
	EXPECT_EQ(stats().doomed, 1u);
	memset(kvh_l1_data(l1, frame), 1, kvh_frame_bytes(kPayload)); // still the writer's
	kvh_frame second = reserve(key, kPayload);
	check();
	EXPECT_EQ(kvh_l1_publish(l1, frame, 3), -ECANCELED);
	EXPECT_EQ(stats().holds, 0u);
	EXPECT_EQ(find(key), 2); // the second one's
	EXPECT_EQ(kvh_l1_publish(l1, second, 0), 0);
	EXPECT_EQ(find(key), 1);
	EXPECT_EQ(stats().doomed, 0u);
}

TEST_F(L1, EraseWhileFillingThenAbort)
{
	kvh_frame frame = reserve(key, kPayload);

	EXPECT_EQ(kvh_l1_erase(l1, &key), 0);
	kvh_l1_abort(l1, frame);
	EXPECT_EQ(stats().used_bytes, 0u);
	EXPECT_EQ(stats().doomed, 0u);
}

TEST_F(L1, DoomByAHolder)
{
	kvh_frame frame = put(key, kPayload, 2);

	kvh_l1_doom(l1, frame);
	EXPECT_EQ(find(key), 0);
	kvh_l1_doom(l1, frame); // no-op
	kvh_l1_unhold(l1, frame);
	EXPECT_EQ(stats().doomed, 1u);
	kvh_l1_doom(l1, frame);
	kvh_l1_unhold(l1, frame);
	EXPECT_EQ(stats().used_bytes, 0u);
}

TEST_F(L1, HoldsOfPublishAndKey)
{
	kvh_frame frame = put(key, kPayload, 2), held = 0;
	const kvh_key absent = make_key(99);

	EXPECT_EQ(stats().holds, 2u);
	EXPECT_EQ(kvh_l1_hold_key(l1, &key, &held), 0);
	EXPECT_EQ(held, frame);
	EXPECT_EQ(kvh_l1_hold_key(l1, &absent, &held), -ENOENT);
	kvh_frame filling = reserve(absent, 1);
	EXPECT_EQ(kvh_l1_hold_key(l1, &absent, &held), -ENOENT);
	kvh_l1_abort(l1, filling);
	for (int i = 0; i < 3; i++)
		kvh_l1_unhold(l1, frame);
	EXPECT_EQ(stats().holds, 0u);
}

TEST_F(L1, LateAndDoubleReleasesAreStale)
{
	kvh_frame frame;

	put(key, kPayload);
	kvh_lease_t first = lease(key), second = lease(key);
	EXPECT_NE(first, second);
	EXPECT_EQ(kvh_l1_release(l1, first), 0);
	EXPECT_EQ(kvh_l1_release(l1, first), -ESTALE);
	EXPECT_EQ(kvh_l1_hold_lease(l1, first, &frame), -ESTALE);
	EXPECT_EQ(stats().leases, 1u);
	EXPECT_EQ(kvh_l1_release(l1, second), 0);
	EXPECT_EQ(kvh_l1_release(l1, KVH_NONE), -ESTALE);
	EXPECT_EQ(kvh_l1_release(l1, UINT64_MAX), -ESTALE);
	kvh_lease_t third = lease(key);
	EXPECT_EQ(kvh_l1_release(l1, first), -ESTALE);
	EXPECT_EQ(kvh_l1_release(l1, second), -ESTALE);
	EXPECT_EQ(stats().leases, 1u);
	EXPECT_EQ(kvh_l1_release(l1, third), 0);
}

TEST_F(L1, LeaseBatchSaysEachKeysStatus)
{
	std::vector<kvh_key> keys;
	std::vector<kvh_lease_t> leases(5);
	std::vector<int32_t> status(5);

	for (uint64_t i = 0; i < 4; i++)
		keys.push_back(make_key(i));
	keys.push_back(keys[0]); // twice is two leases
	put(keys[0], 1);
	kvh_frame filling = reserve(keys[1], 1);
	put(keys[3], 1);
	EXPECT_EQ(kvh_l1_lease(l1, client, keys.data(), 5, leases.data(), status.data()), 3u);
	EXPECT_EQ(status, (std::vector<int32_t>{0, -EINPROGRESS, -ENOENT, 0, 0}));
	EXPECT_EQ(leases[1], KVH_NONE);
	EXPECT_EQ(leases[2], KVH_NONE);
	EXPECT_NE(leases[0], leases[4]);
	check();
	kvh_l1_abort(l1, filling);
}

TEST_F(L1, ClientsThatAreNotThere)
{
	kvh_lease_t value;
	int32_t status = 0;
	kvh_frame frame = put(key, 1, 1);

	for (uint32_t id : {client + 1, 4096u, UINT32_MAX}) {
		EXPECT_EQ(kvh_l1_lease(l1, id, &key, 1, &value, &status), 0u);
		EXPECT_EQ(status, -ESTALE);
		EXPECT_EQ(kvh_l1_lease_held(l1, id, frame, &value), -ESTALE);
	}
	kvh_l1_unhold(l1, frame);
}

TEST_F(L1, LeaseHeldOutlivesTheHold)
{
	kvh_lease_t value;
	kvh_frame frame = put(key, 1, 1), again;

	kvh_l1_doom(l1, frame); // even where nobody can find it
	EXPECT_EQ(kvh_l1_lease_held(l1, client, frame, &value), 0);
	kvh_l1_unhold(l1, frame);
	EXPECT_EQ(stats().used_bytes, 8192u);
	EXPECT_EQ(kvh_l1_hold_lease(l1, value, &again), 0);
	EXPECT_EQ(again, frame);
	EXPECT_EQ(kvh_l1_release(l1, value), 0);
	kvh_l1_unhold(l1, frame);
	EXPECT_EQ(stats().used_bytes, 0u);
}

TEST_F(L1, ClientCloseGivesAllBack)
{
	uint32_t other;
	std::vector<kvh_key> keys;
	std::vector<kvh_lease_t> leases(30);
	std::vector<int32_t> status(30);
	kvh_frame frame;

	ASSERT_EQ(kvh_l1_client_open(l1, &other), 0);
	for (uint64_t i = 0; i < 30; i++) {
		keys.push_back(make_key(i));
		put(keys.back(), 1);
	}
	ASSERT_EQ(kvh_l1_lease(l1, other, keys.data(), 30, leases.data(), status.data()), 30u);
	kvh_lease_t mine = lease(keys[4]);
	EXPECT_EQ(kvh_l1_erase(l1, &keys[5]), 0);
	EXPECT_EQ(kvh_l1_hold_lease(l1, leases[6], &frame), 0);
	kvh_l1_client_close(l1, other);
	EXPECT_EQ(stats().leases, 1u);
	EXPECT_EQ(stats().holds, 1u); // a transfer goes on
	EXPECT_EQ(stats().doomed, 0u);
	for (kvh_lease_t value : leases)
		EXPECT_EQ(kvh_l1_release(l1, value), -ESTALE);
	EXPECT_EQ(kvh_l1_release(l1, mine), 0);
	kvh_l1_unhold(l1, frame);
	check();
}

TEST_F(L1, QuarantineKeepsTheMemoryForEver)
{
	kvh_frame filling = reserve(key, kPayload);
	kvh_frame held = put(make_key(2), kPayload, 2);
	kvh_frame doomed = put(make_key(3), kPayload, 1);
	kvh_frame cancelled = reserve(make_key(4), kPayload);
	const kvh_key key3 = make_key(3), key4 = make_key(4);
	kvh_lease_t value = lease(make_key(2));

	quarantined = true;
	EXPECT_EQ(kvh_l1_erase(l1, &key3), 0);
	EXPECT_EQ(kvh_l1_erase(l1, &key4), 0);
	for (kvh_frame frame : {filling, held, doomed, cancelled})
		kvh_l1_quarantine(l1, frame);
	check();
	EXPECT_EQ(find(key), 0);
	EXPECT_EQ(find(make_key(2)), 0);
	EXPECT_EQ(stats().frames, 0u);
	EXPECT_EQ(stats().doomed, 0u);
	EXPECT_EQ(stats().holds, 1u);
	kvh_l1_quarantine(l1, held); // the other transfer of it hangs, too
	EXPECT_EQ(stats().holds, 0u);
	EXPECT_EQ(kvh_l1_release(l1, value), 0);
	EXPECT_EQ(stats().used_bytes, 4 * kvh_frame_bytes(kPayload));
	EXPECT_EQ(kvh_l1_evict(l1, 0), 0u);
	// What is left can be had, and is other memory.
	uint64_t n = 0;
	for (uint64_t i = 100; i < 200; i++) {
		kvh_frame frame = put(make_key(i), kPayload, 1);

		if (frame == 0)
			break;
		n++;
		kvh_l1_unhold(l1, frame);
	}
	EXPECT_EQ(n, 100u);
	EXPECT_EQ(stats().frames, 60u);
	check();
}

TEST_F(L1, MoreCombinationsThanThereAreNumbers)
{
	int status = 0;
	uint32_t group = 0;

	kvh_log_set([](void *, enum kvh_log_level, const char *) {}, nullptr, KVH_LOG_ERROR);
	while (status == 0 && group < 300000) {
		kvh_frame frame = reserve(make_key(1, 1, 0, group++), 0, &status);

		if (frame != 0)
			kvh_l1_abort(l1, frame);
	}
	EXPECT_EQ(status, -ENOMEM);
	EXPECT_EQ(group, 262144u / 4 * 3 + 1);
	EXPECT_EQ(find(make_key(1, 1, 0, 7)), 0);
	put(make_key(1, 1, 0, 7), 0); // those that have one go on
}

using L1DeathTest = L1;

TEST_F(L1DeathTest, GivingBackWhatIsNotOnesOwnIsFound)
{
	GTEST_FLAG_SET(death_test_style, "threadsafe");
	kvh_frame frame = put(key, 1, 1);

	EXPECT_DEATH(kvh_l1_publish(l1, frame, 0), "");
	EXPECT_DEATH(kvh_l1_abort(l1, frame), "");
	kvh_l1_unhold(l1, frame);
	EXPECT_EQ(kvh_l1_erase(l1, &key), 0);
	EXPECT_DEATH(kvh_l1_unhold(l1, frame), "");
	EXPECT_DEATH(kvh_l1_data(l1, frame), "");
}

} // namespace
