// SPDX-License-Identifier: Apache-2.0
//
// keyset_test.cc - the set of keys against a std::multiset, and that asking costs
// the same whatever there is.
#include "host/keyset.h"
#include "tests/l2_harness.h"

#include <deque>
#include <random>
#include <set>

namespace
{

struct Set : kvh_keyset {
	Set()
	{
		EXPECT_EQ(kvh_keyset_open(this), 0);
	}
	~Set()
	{
		kvh_keyset_close(this);
	}
	// The longest search there can be.
	uint64_t longest() const
	{
		uint64_t worst = 0;

		for (uint64_t i = 0; i <= mask; i++) {
			uint64_t n_chain = 0;

			for (const kvh_keyset_node *at = buckets[i]; at != nullptr;
			     at = at->chain)
				n_chain++;
			worst = std::max(worst, n_chain);
		}
		return worst;
	}
};

TEST(KeySet, AgainstAModel)
{
	std::mt19937 random(7);
	std::deque<kvh_keyset_node> nodes;
	std::vector<kvh_keyset_node *> in;
	std::multiset<uint64_t> model;
	std::map<kvh_keyset_node *, uint64_t> number;
	Set set;

	for (int i = 0; i < 20000; i++) {
		const uint64_t n = random() % 500;

		if (in.empty() || random() % 2 != 0) {
			nodes.push_back({l2test::make_key(n, 1 + n % 3), nullptr});
			kvh_keyset_add(&set, &nodes.back());
			in.push_back(&nodes.back());
			number[&nodes.back()] = n;
			model.insert(n);
		} else {
			const size_t at = random() % in.size();

			kvh_keyset_remove(&set, in[at]);
			model.erase(model.find(number[in[at]]));
			in.erase(in.begin() + long(at));
		}
		const uint64_t ask = random() % 500;
		const struct kvh_key key = l2test::make_key(ask, 1 + ask % 3);

		ASSERT_EQ(kvh_keyset_has(&set, &key), model.count(ask) > 0);
		ASSERT_EQ(set.n, model.size());
	}
}

TEST(KeySet, ASearchStaysShort)
{
	std::deque<kvh_keyset_node> nodes;
	Set set;

	for (uint64_t i = 0; i < 100000; i++) {
		nodes.push_back({l2test::make_key(i), nullptr});
		kvh_keyset_add(&set, &nodes.back());
	}
	EXPECT_GE(set.mask, 65535u);
	EXPECT_LE(set.longest(), 16u);
}

} // namespace
