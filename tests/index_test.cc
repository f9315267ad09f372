// SPDX-License-Identifier: Apache-2.0
//
// index_test.cc - one shard's table against a std::map: growth in steps, erase
// without tombstones, forced collisions, bytes a key.
#include "host/index.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

namespace
{

class Index : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		recs.resize(400000);
		kvh_index_open(&index, recs.data(), 4);
	}

	void TearDown() override
	{
		kvh_index_close(&index);
	}

	uint64_t set_key(uint32_t rec, uint64_t a, uint64_t b, uint32_t family)
	{
		recs[rec].hash[0] = a;
		recs[rec].hash[1] = b;
		recs[rec].family = family;
		return kvh_index_rec_place(&recs[rec]);
	}

	void insert(uint32_t rec, uint64_t a, uint64_t b, uint32_t family)
	{
		ASSERT_EQ(kvh_index_insert(&index, set_key(rec, a, b, family), rec), 0);
	}

	uint32_t find(uint64_t a, uint64_t b, uint32_t family)
	{
		const uint64_t hash[2] = {a, b};

		return kvh_index_find(&index, kvh_index_place(kvh_index_spread(hash), family),
				      hash, family);
	}

	void erase(uint32_t rec)
	{
		kvh_index_erase(&index, kvh_index_rec_place(&recs[rec]), rec);
	}

	std::vector<kvh_index_rec> recs;
	kvh_index index;
};

TEST_F(Index, EmptyFindsNothing)
{
	EXPECT_EQ(find(1, 2, 3), KVH_INDEX_NONE);
	EXPECT_EQ(kvh_index_count(&index), 0u);
	EXPECT_EQ(kvh_index_bytes(&index), 0u);
}

TEST_F(Index, EveryPartOfTheKeyCounts)
{
	insert(0, 1, 2, 3);
	EXPECT_EQ(find(1, 2, 3), 0u);
	EXPECT_EQ(find(0, 2, 3), KVH_INDEX_NONE);
	EXPECT_EQ(find(1, 0, 3), KVH_INDEX_NONE);
	EXPECT_EQ(find(1, 2, 0), KVH_INDEX_NONE);
	EXPECT_EQ(find(2, 1, 3), KVH_INDEX_NONE);
	erase(0);
	EXPECT_EQ(find(1, 2, 3), KVH_INDEX_NONE);
}

// Keys that count up, as tests and simple runtimes make them: no worse spread
// than random ones. 255 of 65536 fingerprints and all first buckets in a row.
TEST_F(Index, SequentialKeysSpread)
{
	const uint32_t n = 100000;

	for (int which = 0; which < 3; which++) {
		std::vector<uint32_t> shards(64);

		for (uint32_t i = 0; i < n; i++) {
			uint64_t x = i;
			const uint64_t hash[2] = {which == 0   ? x
						  : which == 1 ? 0
							       : x << 40,
						  which == 1 ? x : 0};

			shards[kvh_index_spread(hash) % 64]++;
		}
		for (uint32_t count : shards)
			EXPECT_NEAR(count, n / 64, n / 64 / 4) << "part " << which;
	}
}

TEST_F(Index, GrowsInStepsAndStaysSmall)
{
	std::mt19937_64 random(7);
	uint64_t largest_step = 0;

	for (uint32_t i = 0; i < recs.size(); i++) {
		uint64_t moved = index.old.n_buckets > 0 ? index.moved : 0;

		insert(i, random(), random(), i % 5);
		if (index.old.n_buckets > 0 && index.moved > moved)
			largest_step = std::max<uint64_t>(largest_step, index.moved - moved);
		if (i > 1000 && index.old.n_buckets == 0) {
			ASSERT_LT(kvh_index_bytes(&index), uint64_t{i} * 115 / 10);
		}
	}
	EXPECT_LE(largest_step, 1u);
	for (uint32_t i = 0; i < recs.size(); i++)
		ASSERT_EQ(find(recs[i].hash[0], recs[i].hash[1], recs[i].family), i);
	for (uint32_t i = 0; i < recs.size(); i++)
		ASSERT_EQ(find(random(), random(), 0), KVH_INDEX_NONE);
}

// With the 48 bytes of record, list and owner beside them: at most 64 a key,
// also while tables grow, since they do not all grow at once.
TEST_F(Index, SmallAtAnyTimeOverShards)
{
	const uint32_t shards = 64, n = static_cast<uint32_t>(recs.size());
	std::vector<kvh_index> indexes(shards);
	std::mt19937_64 random(11);
	double worst = 0;

	for (uint32_t s = 0; s < shards; s++)
		kvh_index_open(&indexes[s], recs.data(), 16 + 8 * s / shards);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t place = set_key(i, random(), random(), 0);
		uint64_t shard = kvh_index_spread(recs[i].hash) % shards, bytes = 0;

		ASSERT_EQ(kvh_index_insert(&indexes[shard], place, i), 0);
		if (i < 50000 || i % 500 != 0)
			continue;
		for (const kvh_index &one : indexes)
			bytes += kvh_index_bytes(&one);
		worst = std::max(worst, double(bytes) / i);
	}
	EXPECT_LE(worst, 12.5);
	RecordProperty("bytes_per_key", std::to_string(worst));
	for (kvh_index &one : indexes)
		kvh_index_close(&one);
}

TEST_F(Index, RandomOperationsAgainstAMap)
{
	const uint32_t seed = 4711;
	std::mt19937 random(seed);
	std::map<std::tuple<uint64_t, uint64_t, uint32_t>, uint32_t> oracle;
	std::vector<uint32_t> unused;

	SCOPED_TRACE("seed " + std::to_string(seed));
	for (uint32_t i = 0; i < 3000; i++)
		unused.push_back(i);
	for (int step = 0; step < 200000; step++) {
		// Grows, churns, shrinks, over and over.
		bool fill = random() % 100 < (step / 20000 % 2 == 0 ? 60u : 40u);
		uint64_t a = random() % 64, b = random() % 64;
		uint32_t family = static_cast<uint32_t>(random() % 3);
		auto key = std::make_tuple(a, b, family);
		auto it = oracle.find(key);

		ASSERT_EQ(find(a, b, family), it == oracle.end() ? KVH_INDEX_NONE : it->second);
		if (fill && it == oracle.end() && !unused.empty()) {
			insert(unused.back(), a, b, family);
			oracle[key] = unused.back();
			unused.pop_back();
		} else if (!fill && it != oracle.end()) {
			erase(it->second);
			unused.push_back(it->second);
			oracle.erase(it);
		}
		ASSERT_EQ(kvh_index_count(&index), oracle.size());
		if (step % 10000 == 0 || (step < 500 && step % 10 == 0)) {
			ASSERT_TRUE(kvh_index_check(&index)) << "step " << step;
		}
	}
	for (auto &entry : oracle)
		erase(entry.second);
	EXPECT_TRUE(kvh_index_check(&index));
	EXPECT_EQ(kvh_index_count(&index), 0u);
}

// At a constant number of keys nothing accumulates: a table with tombstones
// would grow, or search ever further.
TEST_F(Index, ChurnLeavesNothingBehind)
{
	std::mt19937_64 random(3);
	uint64_t bytes;

	for (uint32_t i = 0; i < 1000; i++)
		insert(i, random(), random(), 0);
	while (index.old.n_buckets > 0) { // let the growth end
		erase(0);
		insert(0, random(), random(), 0);
	}
	bytes = kvh_index_bytes(&index);
	for (uint32_t i = 0; i < 100000; i++) {
		erase(i % 1000);
		insert(i % 1000, random(), random(), 0);
	}
	EXPECT_EQ(kvh_index_bytes(&index), bytes);
	EXPECT_TRUE(kvh_index_check(&index));
}

// All keys in one bucket with one fingerprint: slow, and right; also where the
// counter of passed keys is full.
TEST_F(Index, CollidingPlacesAreToldApartByTheKey)
{
	const uint32_t n = 2000;
	const uint64_t place = 0x123456789ABC0000; // fingerprint 0, too

	for (uint32_t i = 0; i < n; i++) {
		recs[i].hash[0] = i;
		recs[i].hash[1] = 0;
		recs[i].family = 0;
		// Below the load that would move keys to where they belong.
		if (i == 0) {
			for (uint32_t j = n; j < 40 * n; j++)
				insert(j, j, 1, 0);
			for (uint32_t j = n; j < 40 * n; j++)
				erase(j);
		}
		while (index.old.n_buckets > 0) {
			insert(n, n, 1, 0);
			erase(n);
		}
		ASSERT_EQ(kvh_index_insert(&index, place, i), 0);
	}
	for (uint32_t i = 0; i < n; i++) {
		const uint64_t hash[2] = {i, 0};

		ASSERT_EQ(kvh_index_find(&index, place, hash, 0), i);
	}
	for (uint32_t i = 0; i < n; i += 2)
		kvh_index_erase(&index, place, i);
	for (uint32_t i = 0; i < n; i++) {
		const uint64_t hash[2] = {i, 0};

		ASSERT_EQ(kvh_index_find(&index, place, hash, 0),
			  i % 2 == 0 ? KVH_INDEX_NONE : i);
	}
}

} // namespace
