// SPDX-License-Identifier: Apache-2.0
//
// shelf_test.cc - the keys, bytes and limits of mem and fs, against a plain model.
#include "l2/shelf.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace
{

constexpr uint64_t kSize = 64 * 4096;

struct kvh_key key_of(uint32_t n, kvh_space_t space = 1)
{
	struct kvh_key key = {};

	// Neighbours differ in a single place, that moves.
	key.hash.bytes[n % 3] = static_cast<uint8_t>(n / 7);
	key.rank = n % 97;
	key.group = n;
	key.space = space;
	return key;
}

class Shelf : public ::testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		open(kSize);
	}
	void TearDown() override
	{
		kvh_shelf_close(&shelf_);
	}
	void open(uint64_t size)
	{
		if (shelf_.items != nullptr)
			kvh_shelf_close(&shelf_);
		ASSERT_EQ(kvh_shelf_open(&shelf_, kvh_order_find(GetParam()), size), 0);
	}
	void drop(uint32_t item, bool evicted)
	{
		if (kvh_shelf_at(&shelf_, item)->state == KVH_SHELF_LISTED)
			kvh_shelf_hold(&shelf_, item);
		if (evicted)
			kvh_shelf_evicted(&shelf_, item);
		kvh_shelf_set_len(&shelf_, item, 0);
		kvh_shelf_remove(&shelf_, item);
	}
	// As an adapter does; without asking for room where `ask` is not set.
	int put(const struct kvh_key &key, uint64_t len, bool ask = true)
	{
		uint32_t item = kvh_shelf_find(&shelf_, &key), victim;
		int ret = 0;

		if (item != KVH_SHELF_NONE)
			drop(item, false);
		item = kvh_shelf_add(&shelf_, &key);
		EXPECT_NE(item, KVH_SHELF_NONE);
		while (ask && (ret = kvh_shelf_room(&shelf_, item, len, &victim)) == 1)
			drop(victim, true);
		if (ret < 0) {
			drop(item, false);
			return ret;
		}
		kvh_shelf_set_len(&shelf_, item, len);
		kvh_shelf_list(&shelf_, item);
		return 0;
	}
	bool has(const struct kvh_key &key)
	{
		return kvh_shelf_find(&shelf_, &key) != KVH_SHELF_NONE;
	}
	struct kvh_l2_usage usage(kvh_space_t space)
	{
		struct kvh_l2_usage usage = {};

		kvh_shelf_usage_space(&shelf_, space, &usage);
		return usage;
	}
	bool is_lru() const
	{
		return std::string(GetParam()) == "lru";
	}

	struct kvh_shelf shelf_ = {};
};

TEST_P(Shelf, FarMoreKeysThanBucketsAreAllApart)
{
	constexpr uint32_t kPlaces = 24, kEach = 512;
	std::map<std::string, uint32_t> items;

	open(0);
	// For each byte of the key: keys that differ only there.
	for (uint32_t place = 0; place < kPlaces; place++) {
		for (uint32_t i = 1; i < kEach; i++) {
			struct kvh_key key;
			const uint16_t value = static_cast<uint16_t>(i);
			uint8_t bytes[sizeof(key)];

			memset(bytes, 0x11, sizeof(bytes));
			memcpy(bytes + 8 + place - (place == kPlaces - 1), &value, 2);
			memcpy(&key, bytes, sizeof(key));
			if (kvh_shelf_find(&shelf_, &key) != KVH_SHELF_NONE)
				continue; // two places, one key
			const uint32_t item = kvh_shelf_add(&shelf_, &key);

			ASSERT_NE(item, KVH_SHELF_NONE);
			items[std::string(reinterpret_cast<char *>(bytes), 32)] = item;
		}
	}
	EXPECT_GT(items.size(), 10000u);
	for (const auto &[bytes, item] : items) {
		struct kvh_key key;

		memcpy(&key, bytes.data(), sizeof(key));
		EXPECT_EQ(kvh_shelf_find(&shelf_, &key), item);
		drop(item, false);
	}
	EXPECT_EQ(shelf_.n_items, 0u);
	EXPECT_TRUE(kvh_shelf_check(&shelf_));
}

TEST_P(Shelf, TheSizeIsNeverExceeded)
{
	for (uint32_t n = 0; n < 1000; n++) {
		ASSERT_EQ(put(key_of(n, 1 + n % 5), 4096 * (1 + n % 7)), 0);
		ASSERT_LE(shelf_.used, kSize);
	}
	EXPECT_GT(shelf_.evicted, 500u);
	EXPECT_TRUE(kvh_shelf_check(&shelf_));
}

TEST_P(Shelf, WithoutAskingForRoomItIs) // control of the one above
{
	for (uint32_t n = 0; n < 30; n++)
		put(key_of(n), UINT64_C(4) * 4096, false);
	EXPECT_GT(shelf_.used, kSize);
}

TEST_P(Shelf, WhatIsHeldIsNoVictim)
{
	uint32_t victim = 0;

	for (uint32_t n = 0; n < 64; n++)
		ASSERT_EQ(put(key_of(n), 4096), 0);
	for (uint32_t n = 1; n < 64; n++) {
		const struct kvh_key key = key_of(n);

		kvh_shelf_hold(&shelf_, kvh_shelf_find(&shelf_, &key));
	}
	const struct kvh_key more = key_of(1000), only = key_of(0);
	const uint32_t item = kvh_shelf_add(&shelf_, &more);

	ASSERT_EQ(kvh_shelf_room(&shelf_, item, 4096, &victim), 1);
	EXPECT_EQ(victim, kvh_shelf_find(&shelf_, &only));
	drop(victim, true);
	EXPECT_EQ(kvh_shelf_room(&shelf_, item, 8192, &victim), -ENOSPC);
	EXPECT_EQ(kvh_shelf_room(&shelf_, item, 4096, &victim), 0);
	kvh_shelf_remove(&shelf_, item);
}

TEST_P(Shelf, ReservedRoomIsTaken)
{
	const struct kvh_key key = key_of(1), other = key_of(2);
	const uint32_t a = kvh_shelf_add(&shelf_, &key), b = kvh_shelf_add(&shelf_, &other);
	uint32_t victim;

	kvh_shelf_reserve(&shelf_, a, kSize - 4096);
	EXPECT_EQ(kvh_shelf_room(&shelf_, b, 4096, &victim), 0);
	EXPECT_EQ(kvh_shelf_room(&shelf_, b, 8192, &victim), -ENOSPC);
	ASSERT_EQ(kvh_shelf_limits(&shelf_, 1, 0, kSize - 4096), 0);
	EXPECT_EQ(kvh_shelf_room(&shelf_, b, 4096, &victim), -EDQUOT) << "of the space, too";
	EXPECT_EQ(usage(1).used_bytes, kSize - 4096);
	kvh_shelf_unreserve(&shelf_, a, kSize - 4096);
	EXPECT_EQ(kvh_shelf_room(&shelf_, b, 8192, &victim), 0);
	kvh_shelf_remove(&shelf_, a);
	kvh_shelf_remove(&shelf_, b);
}

TEST_P(Shelf, AHardLimitIsItsOwnSpacesAffair) // X7
{
	ASSERT_EQ(kvh_shelf_limits(&shelf_, 1, 0, 8 * 4096), 0);
	for (uint32_t n = 0; n < 32; n++)
		ASSERT_EQ(put(key_of(n, 2), 4096), 0);
	for (uint32_t n = 0; n < 320; n++) { // ten times what the other has
		ASSERT_EQ(put(key_of(n, 1), 4096), 0);
		ASSERT_LE(usage(1).used_bytes, 8u * 4096);
	}
	EXPECT_EQ(usage(2).objects, 32u);
	EXPECT_EQ(usage(1).objects, 8u);
	EXPECT_EQ(usage(1).evicted, 312u);
	EXPECT_EQ(put(key_of(999, 1), 9 * 4096), -EDQUOT);
	EXPECT_TRUE(kvh_shelf_check(&shelf_));
}

TEST_P(Shelf, TheOneFurthestBeyondItsSoftLimitGivesWay)
{
	ASSERT_EQ(kvh_shelf_limits(&shelf_, 1, 16 * 4096, 0), 0);
	ASSERT_EQ(kvh_shelf_limits(&shelf_, 2, 8 * 4096, 0), 0);
	for (uint32_t n = 0; n < 20; n++) {
		ASSERT_EQ(put(key_of(n, 3), 4096), 0); // the oldest, without a limit
		ASSERT_EQ(put(key_of(n, 1), 4096), 0); // 4 beyond
		ASSERT_EQ(put(key_of(n, 2), 4096), 0); // 12 beyond
	}
	for (uint32_t n = 100; n < 112; n++)
		ASSERT_EQ(put(key_of(n, 4), 4096), 0);
	EXPECT_EQ(usage(3).objects, 20u);
	EXPECT_EQ(usage(4).objects, 12u);
	EXPECT_EQ(usage(2).objects, 12u) << "8 of it went";
	EXPECT_EQ(usage(1).objects, 20u);
	EXPECT_EQ(kvh_shelf_limits(&shelf_, 1, 8192, 4096), -EINVAL);
}

TEST_P(Shelf, AgainstAModelAtRandom)
{
	struct Entry {
		uint64_t len, used_at;
	};
	const uint32_t seed = std::random_device{}();
	std::mt19937 random(seed);
	std::map<std::pair<kvh_space_t, uint32_t>, Entry> model;
	uint64_t now = 0;

	SCOPED_TRACE("seed " + std::to_string(seed));
	for (uint32_t step = 0; step < 20000; step++) {
		const uint32_t n = static_cast<uint32_t>(random() % 60);
		const kvh_space_t space = 1 + random() % 3;
		const struct kvh_key key = key_of(n, space);
		const uint32_t item = kvh_shelf_find(&shelf_, &key);

		switch (random() % 4) {
		case 0:
			if (item != KVH_SHELF_NONE)
				drop(item, false);
			model.erase({space, n});
			break;
		case 1:
			if (item != KVH_SHELF_NONE) {
				kvh_shelf_use(&shelf_, item);
				model[{space, n}].used_at = ++now;
			}
			break;
		default: {
			const uint64_t len = 4096 * (1 + random() % 4);

			ASSERT_EQ(put(key, len), 0);
			model[{space, n}] = {len, ++now};
			// Whoever is gone is gone from the model; with lru the oldest.
			for (auto it = model.begin(); it != model.end();) {
				if (has(key_of(it->first.second, it->first.first))) {
					it++;
					continue;
				}
				for (const auto &[k, e] : model) {
					if (is_lru() && has(key_of(k.second, k.first))) {
						ASSERT_GT(e.used_at, it->second.used_at);
					}
				}
				it = model.erase(it);
			}
		}
		}
		const uint64_t used = std::accumulate(
			model.begin(), model.end(), uint64_t{0},
			[](uint64_t sum, const auto &e) { return sum + e.second.len; });

		ASSERT_EQ(shelf_.used, used);
		ASSERT_EQ(shelf_.objects, model.size());
		if (step % 500 == 0) {
			ASSERT_TRUE(kvh_shelf_check(&shelf_));
		}
	}
}

TEST_P(Shelf, MoreItemsThanThereIsRoomForAreRefused)
{
	open(2 * 4096); // three items
	for (uint32_t n = 0; n < 3; n++) {
		const struct kvh_key key = key_of(n);

		EXPECT_NE(kvh_shelf_add(&shelf_, &key), KVH_SHELF_NONE);
	}
	const struct kvh_key key = key_of(3);

	EXPECT_EQ(kvh_shelf_add(&shelf_, &key), KVH_SHELF_NONE);
}

INSTANTIATE_TEST_SUITE_P(Policies, Shelf, ::testing::Values("lru", "s3-fifo", "arc"),
			 [](const auto &info) {
				 std::string name = info.param;

				 name.erase(std::remove(name.begin(), name.end(), '-'),
					    name.end());
				 return name;
			 });

} // namespace
