// SPDX-License-Identifier: Apache-2.0
//
// lru_test.cc - the keys of mem and fs and their order, against a plain model.
#include "l2/lru.h"

#include <algorithm>
#include <cstring>
#include <gtest/gtest.h>
#include <list>
#include <memory>
#include <random>
#include <vector>

namespace
{

struct kvh_key key_of(uint32_t n)
{
	struct kvh_key key = {};

	// Neighbours differ in a single place, that moves.
	key.hash.bytes[n % 3] = static_cast<uint8_t>(n / 7);
	key.rank = n % 97;
	key.group = n % 5;
	key.space = n;
	return key;
}

class Lru : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		ASSERT_EQ(kvh_lru_init(&lru_), 0);
	}
	void TearDown() override
	{
		kvh_lru_fini(&lru_);
	}

	struct kvh_lru lru_ = {};
};

TEST_F(Lru, FarMoreKeysThanBucketsAreAllApart)
{
	constexpr uint32_t kPlaces = 24, kEach = 512;
	std::vector<std::unique_ptr<kvh_lru_node>> nodes;

	// For each byte of rank, group, space and hash: keys that differ only there.
	for (uint32_t place = 0; place < kPlaces; place++) {
		for (uint32_t i = 1; i < kEach; i++) {
			auto node = std::make_unique<kvh_lru_node>();
			auto *bytes = reinterpret_cast<uint8_t *>(&node->key);
			const uint16_t value = static_cast<uint16_t>(i);

			memset(&node->key, 0x11, sizeof(node->key));
			memset(bytes, static_cast<int>(place), 1);
			memcpy(bytes + 8 + place - (place == kPlaces - 1), &value, 2);
			if (kvh_lru_find(&lru_, &node->key) != nullptr)
				continue; // two places, one key
			kvh_lru_insert(&lru_, node.get());
			nodes.push_back(std::move(node));
		}
	}
	EXPECT_GT(nodes.size(), 10000u);
	EXPECT_EQ(lru_.n_nodes, nodes.size());
	for (const auto &node : nodes)
		ASSERT_EQ(kvh_lru_find(&lru_, &node->key), node.get());
}

// All in one bucket: nothing but the comparison keeps them apart.
TEST_F(Lru, KeysInOneBucketAreApart)
{
	std::vector<kvh_lru_node> nodes(sizeof(struct kvh_key) + 1);

	lru_.n_buckets = 1;
	for (size_t i = 0; i < nodes.size(); i++) {
		nodes[i] = {};
		if (i > 0)
			reinterpret_cast<uint8_t *>(&nodes[i].key)[i - 1] = 1;
		EXPECT_EQ(kvh_lru_find(&lru_, &nodes[i].key), nullptr) << i;
		lru_.n_nodes = 0; // do not grow
		kvh_lru_insert(&lru_, &nodes[i]);
	}
	for (kvh_lru_node &node : nodes)
		EXPECT_EQ(kvh_lru_find(&lru_, &node.key), &node);
}

TEST_F(Lru, OrderAgreesWithAModel)
{
	const uint32_t seed = std::random_device{}();
	std::mt19937 random(seed);
	std::vector<kvh_lru_node> nodes(400);
	std::vector<bool> in(nodes.size());
	std::list<kvh_lru_node *> order; // oldest first; without the hidden

	for (uint32_t i = 0; i < nodes.size(); i++) {
		nodes[i] = {};
		nodes[i].key = key_of(i);
	}
	for (int step = 0; step < 20000; step++) {
		const size_t i = random() % nodes.size();
		kvh_lru_node *node = &nodes[i];

		ASSERT_EQ(kvh_lru_find(&lru_, &node->key), in[i] ? node : nullptr)
			<< "seed " << seed;
		order.remove_if([&](kvh_lru_node *n) { return n == node && in[i]; });
		if (!in[i]) {
			kvh_lru_insert(&lru_, node);
			in[i] = true;
			order.push_back(node);
		} else if (step % 3 == 0) {
			kvh_lru_remove(&lru_, node);
			in[i] = false;
		} else if (step % 3 == 1) {
			kvh_lru_touch(&lru_, node);
			order.push_back(node);
		} else {
			kvh_lru_hide(&lru_, node);
		}
		ASSERT_EQ(kvh_lru_oldest(&lru_), order.empty() ? nullptr : order.front())
			<< "seed " << seed;
	}
	EXPECT_EQ(lru_.n_nodes, static_cast<size_t>(std::count(in.begin(), in.end(), true)));
}

} // namespace
