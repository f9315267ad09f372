// SPDX-License-Identifier: Apache-2.0
//
// l1_evict_test.cc - eviction: its order, what may not be evicted, and room for
// one size where another one was.
#include "tests/l1_rig.h"

#include <cerrno>

namespace
{

constexpr uint64_t kFrame = 64 * 1024;
constexpr uint64_t kPayload = kFrame - 4096;

using Keys = std::vector<uint64_t>;

class EvictBase : public L1Rig
{
      protected:
	// Keys [from, from + n) as one batch, all READY.
	void fill(uint64_t from, uint32_t n, uint64_t payload = kPayload)
	{
		std::vector<reserve_item> items(n);

		for (uint32_t i = 0; i < n; i++) {
			items[i].key = make_key(from + i);
			items[i].payload_bytes = payload;
		}
		ASSERT_EQ(kvh_l1_reserve(l1, items.data(), n), n);
		for (auto &item : items)
			ASSERT_EQ(kvh_l1_publish(l1, item.frame, 0), 0);
	}

	Keys present(uint64_t n)
	{
		Keys there;

		for (uint64_t i = 0; i < n; i++)
			if (find(make_key(i)) == 1)
				there.push_back(i);
		return there;
	}

	void touch(uint64_t i)
	{
		EXPECT_EQ(kvh_l1_release(l1, lease(make_key(i))), 0);
	}

	kvh_frame hold(uint64_t i)
	{
		const kvh_key key = make_key(i);
		kvh_frame frame = 0;

		EXPECT_EQ(kvh_l1_hold_key(l1, &key, &frame), 0);
		return frame;
	}
};

// -- the order, for one shard and for many ------------------------------------

class EvictOrder : public EvictBase, public ::testing::WithParamInterface<uint32_t>
{
      protected:
	void SetUp() override
	{
		EvictBase::SetUp();
		open(4 * kMiB, GetParam());
	}
};

TEST_P(EvictOrder, OldestFirst)
{
	for (uint64_t i = 0; i < 64; i++)
		put(make_key(i), kPayload);
	EXPECT_EQ(present(64).size(), 64u);
	for (uint64_t i = 64; i-- > 20;)
		touch(i);
	touch(1);
	put(make_key(100), kPayload); // for 0
	put(make_key(101), kPayload); // for 2: 1 was used
	EXPECT_EQ(find(make_key(0)), 0);
	EXPECT_EQ(find(make_key(1)), 1);
	EXPECT_EQ(find(make_key(2)), 0);
	EXPECT_EQ(find(make_key(3)), 1);
	EXPECT_EQ(stats().evicted_alloc, 2u);
	EXPECT_EQ(stats().evicted_background, 0u);
}

TEST_P(EvictOrder, OldestOfManyOverAllShards)
{
	for (uint64_t i = 0; i < 64; i++)
		put(make_key(i), kPayload);
	EXPECT_EQ(kvh_l1_evict(l1, 32 * kFrame), 32 * kFrame);
	Keys left = present(64);
	ASSERT_EQ(left.size(), 32u);
	EXPECT_GE(left[0], 24u); // to a 16th of the age; 32 exactly
}

TEST_P(EvictOrder, FindingIsNoUse)
{
	for (uint64_t i = 0; i < 64; i++)
		put(make_key(i), kPayload);
	for (int i = 0; i < 10; i++)
		EXPECT_EQ(find(make_key(0)), 1);
	put(make_key(100), kPayload);
	EXPECT_EQ(find(make_key(0)), 0);
}

TEST_P(EvictOrder, OfAPromptTheTailFirst)
{
	std::vector<kvh_key> keys;
	std::vector<kvh_lease_t> leases(32);
	std::vector<int32_t> status(32);

	fill(0, 32);
	fill(32, 32);
	EXPECT_EQ(kvh_l1_evict(l1, 63 * kFrame), kFrame);
	EXPECT_EQ(find(make_key(31)), 0);
	EXPECT_EQ(present(64).size(), 63u);
	for (uint64_t i = 32; i < 64; i++)
		keys.push_back(make_key(i));
	ASSERT_EQ(kvh_l1_lease(l1, client, keys.data(), 32, leases.data(), status.data()), 32u);
	for (kvh_lease_t value : leases)
		kvh_l1_release(l1, value);
	for (uint64_t i = 31; i-- > 0;)
		touch(i); // now the second prompt is the older one
	EXPECT_EQ(kvh_l1_evict(l1, 62 * kFrame), kFrame);
	EXPECT_EQ(find(make_key(63)), 0);
	EXPECT_EQ(present(64).size(), 62u);
}

INSTANTIATE_TEST_SUITE_P(Shards, EvictOrder, ::testing::Values(1u, 64u, 1024u));

// -- what stays -----------------------------------------------------------------

class Evict : public EvictBase
{
};

TEST_F(Evict, HeldAndFillingStay)
{
	open(4 * kMiB);
	fill(0, 61);
	kvh_lease_t value = lease(make_key(0));
	kvh_frame held = hold(1), filling = reserve(make_key(61), kPayload);

	EXPECT_EQ(kvh_l1_evict(l1, 0), 59 * kFrame);
	EXPECT_TRUE(kvh_l1_check(l1));
	EXPECT_EQ(present(61), (Keys{0, 1}));
	EXPECT_EQ(find(make_key(61)), 2);
	EXPECT_EQ(kvh_l1_evict(l1, 0), 0u);
	touch(0); // a frame that left the list can be used and erased as ever
	EXPECT_EQ(present(61), (Keys{0, 1}));
	// Given back they can be evicted again.
	EXPECT_EQ(kvh_l1_release(l1, value), 0);
	EXPECT_EQ(kvh_l1_publish(l1, filling, 0), 0);
	kvh_l1_unhold(l1, held);
	EXPECT_TRUE(kvh_l1_check(l1));
	EXPECT_EQ(kvh_l1_evict(l1, 0), 3 * kFrame);
	EXPECT_EQ(stats().used_bytes, 0u);
}

TEST_F(Evict, ParkedFramesEndAsOthersDo)
{
	open(4 * kMiB);
	fill(0, 4);
	kvh_frame held[3] = {hold(0), hold(1), hold(2)};
	kvh_frame filling[2] = {reserve(make_key(10), 1), reserve(make_key(11), 1)};
	const kvh_key key0 = make_key(0), key11 = make_key(11);

	EXPECT_EQ(kvh_l1_evict(l1, 0), kFrame); // parks all others
	EXPECT_EQ(kvh_l1_erase(l1, &key0), 0);
	EXPECT_EQ(kvh_l1_erase(l1, &key11), 0);
	kvh_l1_doom(l1, held[1]);
	EXPECT_TRUE(kvh_l1_check(l1));
	for (kvh_frame frame : held)
		kvh_l1_unhold(l1, frame);
	kvh_l1_abort(l1, filling[0]);
	EXPECT_EQ(kvh_l1_publish(l1, filling[1], 2), -ECANCELED);
	EXPECT_TRUE(kvh_l1_check(l1));
	EXPECT_EQ(stats().used_bytes, kFrame); // key 2
	EXPECT_EQ(kvh_l1_evict(l1, 0), kFrame);
}

TEST_F(Evict, AllHeldIsRefusedAndNothingIsLost)
{
	std::vector<kvh_frame> held;
	int status = 0;

	open(4 * kMiB);
	fill(0, 64);
	for (uint64_t i = 0; i < 64; i++)
		held.push_back(hold(i));
	for (int i = 0; i < 3; i++) {
		reserve(make_key(100), kPayload, &status);
		EXPECT_EQ(status, -ENOMEM);
		EXPECT_EQ(find(make_key(100)), 0);
	}
	EXPECT_TRUE(kvh_l1_check(l1));
	EXPECT_EQ(present(64).size(), 64u);
	kvh_l1_unhold(l1, held[30]);
	put(make_key(100), kPayload);
	EXPECT_EQ(find(make_key(30)), 0);
	for (uint64_t i = 0; i < 64; i++)
		if (i != 30)
			kvh_l1_unhold(l1, held[i]);
}

TEST_F(Evict, BatchLargerThanL1GetsWhatThereIs)
{
	std::vector<reserve_item> items(80);

	open(4 * kMiB);
	fill(1000, 64);
	for (uint32_t i = 0; i < 80; i++) {
		items[i].key = make_key(i);
		items[i].payload_bytes = kPayload;
	}
	EXPECT_EQ(kvh_l1_reserve(l1, items.data(), 80), 64u);
	for (uint32_t i = 0; i < 80; i++) {
		ASSERT_EQ(items[i].status, i < 64 ? 0 : -ENOMEM);
		if (i < 64)
			kvh_l1_abort(l1, items[i].frame);
	}
	EXPECT_EQ(stats().evicted_alloc, 64u);
}

// -- sizes --------------------------------------------------------------------

// Memory full of one size, then frames of another: eviction has to empty slabs.
TEST_F(Evict, AnySizeFindsRoomWhereAnyOtherWas)
{
	const uint64_t payloads[] = {0, 8192, kPayload, kMiB, 3 * kMiB, 8 * kMiB - 4096};

	open(32 * kMiB, 0, 8 * kMiB);
	for (uint64_t before : payloads) {
		for (uint64_t after : payloads) {
			uint64_t n = 32 * kMiB / kvh_frame_bytes(before);

			SCOPED_TRACE(std::to_string(before) + " then " + std::to_string(after));
			for (uint64_t i = 0; i < n; i++)
				put(make_key(i), before);
			kvh_frame frame = put(make_key(1 << 20), after, 1);
			ASSERT_NE(frame, 0u);
			ASSERT_EQ(kvh_l1_frame_bytes(l1, frame), kvh_frame_bytes(after));
			kvh_l1_unhold(l1, frame);
			ASSERT_TRUE(kvh_l1_check(l1));
			kvh_l1_evict(l1, 0);
		}
	}
}

// Only one place in the arena is free of held frames: it is found, wherever it
// is and however young its frames are.
TEST_F(Evict, TheOnePlaceWithoutHeldFramesIsFound)
{
	open(32 * kMiB, 0, 8 * kMiB);
	for (uint64_t place = 0; place < 16; place++) { // of 2 MiB
		std::vector<kvh_frame> held;
		const uint64_t per_place = 2 * kMiB / kFrame;

		fill(0, 512);
		for (uint64_t i = 0; i < 512; i++) {
			kvh_frame frame = hold(i);
			const kvh_arena_piece *pieces;
			uint32_t piece = kvh_arena_piece_of(arena, kvh_l1_data(l1, frame));

			kvh_arena_pieces(arena, &pieces);
			uint64_t at = static_cast<uint64_t>(
				static_cast<char *>(kvh_l1_data(l1, frame)) -
				static_cast<char *>(pieces[piece].base));
			// One frame in each place but one.
			if (at / kFrame % per_place == 7 &&
			    (piece * 8 * kMiB + at) / (2 * kMiB) != place)
				held.push_back(frame);
			else
				kvh_l1_unhold(l1, frame);
		}
		ASSERT_EQ(held.size(), 15u);
		int status = 0;
		kvh_frame frame = reserve(make_key(1000), 2 * kMiB - 4096, &status);
		ASSERT_EQ(status, 0) << "place " << place;
		int none = 0;
		reserve(make_key(1001), 2 * kMiB - 4096, &none);
		EXPECT_EQ(none, -ENOMEM);      // there is no second one
		put(make_key(1002), kPayload); // but for the size that there is
		kvh_l1_abort(l1, frame);
		for (kvh_frame one : held)
			kvh_l1_unhold(l1, one);
		ASSERT_TRUE(kvh_l1_check(l1));
		kvh_l1_evict(l1, 0);
	}
}

} // namespace
