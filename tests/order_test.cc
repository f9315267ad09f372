// SPDX-License-Identifier: Apache-2.0
//
// order_test.cc - every eviction policy against a plain model of it, and what
// the policies are for: a scan must not push out what is used again.
#include "host/order.h"
#include "tests/order_model.h"

#include <gtest/gtest.h>
#include <random>
#include <set>

namespace
{

constexpr uint32_t kItems = 512;

static_assert(sizeof(struct kvh_order_link) == 12, "an item of an LRU order costs 12 bytes");

class Order : public ::testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		const kvh_order_ops *ops = kvh_order_find(GetParam());

		ASSERT_NE(ops, nullptr);
		ASSERT_EQ(kvh_order_items_open(&items_, kItems), 0);
		kvh_order_open(&order_, ops, &items_);
	}
	void TearDown() override
	{
		EXPECT_TRUE(kvh_order_check(&order_));
		kvh_order_close(&order_);
		kvh_order_items_close(&items_);
	}

	std::vector<uint32_t> victims(uint32_t n)
	{
		std::vector<uint32_t> out(n);

		out.resize(kvh_order_victims(&order_, out.data(), n));
		return out;
	}

	struct kvh_order_items items_ = {};
	struct kvh_evict_order order_ = {};
};

std::string policy_name(const ::testing::TestParamInfo<const char *> &info)
{
	std::string name = info.param;

	name.erase(std::remove(name.begin(), name.end(), '-'), name.end());
	return name;
}

INSTANTIATE_TEST_SUITE_P(Policies, Order, ::testing::Values("lru", "s3-fifo", "arc"),
			 policy_name);

// Random operations, and the model next to them.
class Walk
{
      public:
	Walk(struct kvh_evict_order *order, OrderModel *model, uint32_t seed)
	    : order_(order), model_(model), random_(seed)
	{
	}

	void step()
	{
		switch (random_() % 8) {
		case 0:
		case 1: insert(); break;
		case 2:
		case 3: use(); break;
		case 4: remove(); break;
		case 5: restore(); break;
		case 6: note(); break;
		case 7: evict(); break;
		}
		EXPECT_EQ(kvh_order_count(order_), model_->count());
	}

	uint32_t evicted = 0;

      private:
	uint32_t pick(const std::set<uint32_t> &from)
	{
		auto at = from.lower_bound(random_() % kItems);

		return at != from.end() ? *at : *from.begin();
	}

	void insert()
	{
		uint32_t item = random_() % kItems;

		if (listed_.count(item) + away_.count(item) > 0)
			return;
		id_[item] = random_() % 1500; // comes again while its ghost may be there
		kvh_order_insert(order_, item, id_[item], KVH_ORDER_NEWEST, clock_++);
		model_->insert(item, id_[item]);
		listed_.insert(item);
	}

	void use()
	{
		if (listed_.empty())
			return;
		uint32_t item = pick(listed_);

		kvh_order_use(order_, item, KVH_ORDER_NEWEST, clock_++);
		model_->use(item);
	}

	void remove()
	{
		if (listed_.empty())
			return;
		uint32_t item = pick(listed_);

		kvh_order_remove(order_, item);
		model_->remove(item);
		listed_.erase(item);
		away_.insert(item);
	}

	void restore()
	{
		if (away_.empty())
			return;
		uint32_t item = pick(away_);

		away_.erase(item);
		if (random_() % 4 == 0)
			return; // erased: simply forgotten
		bool newest = random_() % 2 == 0;

		kvh_order_restore(order_, item, clock_++, newest);
		model_->restore(item, newest);
		listed_.insert(item);
	}

	void note()
	{
		if (away_.empty())
			return;
		uint32_t item = pick(away_);

		kvh_order_note(order_, item);
		model_->note(item);
	}

	void evict()
	{
		std::vector<uint32_t> got(random_() % 6 + 1);

		got.resize(kvh_order_victims(order_, got.data(),
					     static_cast<uint32_t>(got.size())));
		ASSERT_EQ(got, model_->victims(std::max<size_t>(got.size(), 1)));
		// Not always all of them: the others stay where they are.
		got.resize(random_() % (got.size() + 1));
		for (uint32_t item : got) {
			kvh_order_remove(order_, item);
			kvh_order_evicted(order_, item, id_[item]);
			model_->remove(item);
			model_->evicted(item, id_[item]);
			listed_.erase(item);
			evicted++;
		}
	}

	struct kvh_evict_order *order_;
	OrderModel *model_;
	std::mt19937 random_;
	std::set<uint32_t> listed_, away_;
	std::map<uint32_t, uint64_t> id_;
	uint32_t clock_ = 1;
};

TEST_P(Order, RandomOperationsAgainstAModel)
{
	std::unique_ptr<OrderModel> model = order_model(GetParam());
	Walk walk(&order_, model.get(), 20240607);

	for (int i = 0; i < 60000 && !HasFailure(); i++) {
		walk.step();
		if (i % 1000 == 0) {
			ASSERT_TRUE(kvh_order_check(&order_)) << i;
		}
	}
	EXPECT_GT(walk.evicted, 5000u);
}

TEST_P(Order, EmptyHasNoVictim)
{
	uint32_t stamp;

	EXPECT_EQ(victims(3).size(), 0u);
	EXPECT_FALSE(kvh_order_next(&order_, &stamp));
}

TEST_P(Order, WhatIsAwayIsNoVictim)
{
	for (uint32_t i = 0; i < 4; i++)
		kvh_order_insert(&order_, i, i, KVH_ORDER_NEWEST, i);
	kvh_order_remove(&order_, 0);
	kvh_order_remove(&order_, 2);
	EXPECT_EQ(victims(9), (std::vector<uint32_t>{1, 3}));
	kvh_order_restore(&order_, 0, 4, true);
	kvh_order_restore(&order_, 2, 5, false);
	EXPECT_EQ(victims(9), (std::vector<uint32_t>{2, 1, 3, 0}));
}

// Of a batch the first is the newest: of a prompt the tail goes first.
TEST_P(Order, BehindTheOneBefore)
{
	uint32_t after = KVH_ORDER_NEWEST;

	kvh_order_insert(&order_, 9, 9, KVH_ORDER_NEWEST, 0);
	for (uint32_t i = 0; i < 4; i++) {
		kvh_order_insert(&order_, i, i, after, 10 - i);
		after = i;
	}
	EXPECT_EQ(victims(9), (std::vector<uint32_t>{9, 3, 2, 1, 0}));
}

TEST_P(Order, NextHasTheStampOfTheVictim)
{
	uint32_t stamp = 0;

	for (uint32_t i = 0; i < 4; i++)
		kvh_order_insert(&order_, i, i, KVH_ORDER_NEWEST, 100 + i);
	ASSERT_TRUE(kvh_order_next(&order_, &stamp));
	EXPECT_EQ(stamp, 100 + victims(1)[0]);
}

// All used as often as can be counted: the call still ends, with a victim.
TEST_P(Order, VictimsAreFoundAmongUsedOnesToo)
{
	for (uint32_t i = 0; i < kItems; i++)
		kvh_order_insert(&order_, i, i, KVH_ORDER_NEWEST, i);
	for (uint32_t use = 0; use < 9; use++)
		for (uint32_t i = 0; i < kItems; i++)
			kvh_order_use(&order_, i, KVH_ORDER_NEWEST, kItems);
	EXPECT_EQ(victims(kItems).size(), kItems);
}

// A cache of a hundred: how many of sixty that are used again and again, each
// at a distance larger than the cache, are hits while a scan goes through.
double hot_hits_during_a_scan(struct kvh_evict_order *order)
{
	constexpr uint32_t kCache = 100, kHot = 60, kScan = 6000;
	std::map<uint64_t, uint32_t> item_of; // by id
	std::map<uint32_t, uint64_t> id_of;
	uint32_t free_item = 0, hits = 0, asked = 0, clock = 0;

	auto access = [&](uint64_t id) {
		auto at = item_of.find(id);
		uint32_t item = free_item;

		if (at != item_of.end()) {
			kvh_order_use(order, at->second, KVH_ORDER_NEWEST, clock++);
			return true;
		}
		if (item_of.size() == kCache) {
			EXPECT_EQ(kvh_order_victims(order, &item, 1), 1u);
			kvh_order_remove(order, item);
			kvh_order_evicted(order, item, id_of[item]);
			item_of.erase(id_of[item]);
		} else {
			free_item++;
		}
		item_of[id] = item;
		id_of[item] = id;
		kvh_order_insert(order, item, id, KVH_ORDER_NEWEST, clock++);
		return false;
	};

	for (uint32_t round = 0; round < 3; round++)
		for (uint64_t id = 0; id < kHot; id++)
			access(id);
	for (uint64_t i = 0; i < kScan; i++) {
		access(1000 + i);
		if (i % 2 == 0) {
			asked++;
			hits += access(i / 2 % kHot);
		}
	}
	return static_cast<double>(hits) / asked;
}

TEST_P(Order, ScanLeavesTheHotSet)
{
	double share = hot_hits_during_a_scan(&order_);

	if (std::string(GetParam()) == "lru") {
		EXPECT_LT(share, 0.05) << "the control: a plain LRU order loses it";
	} else {
		EXPECT_GT(share, 0.95);
	}
}

TEST(OrderTable, UnknownNamesAreNone)
{
	EXPECT_EQ(kvh_order_find(nullptr), &kvh_order_lru);
	EXPECT_EQ(kvh_order_find("LRU"), nullptr);
	EXPECT_EQ(kvh_order_find(""), nullptr);
	EXPECT_STREQ(kvh_order_names(), "lru, s3-fifo, arc");
}

// Against a plain list, over more ghosts than there is room at first.
TEST(OrderGhosts, RandomOperationsAgainstAList)
{
	std::mt19937 random(7);
	std::list<uint64_t> model; // newest first
	struct kvh_ghosts ghosts;

	kvh_ghosts_open(&ghosts);
	for (int i = 0; i < 40000; i++) {
		uint64_t id = random() % 3000;
		bool in = std::find(model.begin(), model.end(), id) != model.end();

		if (random() % 3 == 0) {
			ASSERT_EQ(kvh_ghosts_take(&ghosts, id), in);
			model.remove(id);
		} else if (!in) {
			kvh_ghosts_add(&ghosts, id);
			model.push_front(id);
		}
		if (model.size() > 1000 || (random() % 16 == 0 && !model.empty())) {
			kvh_ghosts_drop_oldest(&ghosts);
			model.pop_back();
		}
		ASSERT_EQ(ghosts.n, model.size());
	}
	for (uint64_t id : std::list<uint64_t>(model.rbegin(), model.rend())) {
		ASSERT_EQ(ghosts.at[ghosts.oldest].id, id);
		kvh_ghosts_drop_oldest(&ghosts);
	}
	EXPECT_LE(ghosts.room, 2000u);
	kvh_ghosts_close(&ghosts);
}

} // namespace
