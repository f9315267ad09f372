// SPDX-License-Identifier: Apache-2.0
//
// prefix_test.cc - the longest usable prefix against its definition: the largest
// L for which every entry that L needs is there, tried from the top.
#include "host/prefix.h"
#include "tests/l2_harness.h"

namespace
{

struct Shape {
	enum kvh_group_kind kind;
	uint32_t window_chunks; // WINDOW
	bool replicated;
};

struct kvh_space make_space(const std::vector<Shape> &shapes)
{
	struct kvh_space space = {};

	space.n_groups = uint32_t(shapes.size());
	for (size_t g = 0; g < shapes.size(); g++) {
		space.groups[g].desc.kind = shapes[g].kind;
		space.groups[g].desc.replicated = shapes[g].replicated;
		space.groups[g].window_chunks = shapes[g].window_chunks;
	}
	return space;
}

struct Case {
	explicit Case(std::vector<Shape> shapes_, uint32_t n_chunks, uint32_t n_ranks = 1)
	    : shapes(std::move(shapes_)), space(make_space(shapes)), hashes(n_chunks)
	{
		prefix.hashes = hashes.data();
		prefix.n_chunks = n_chunks;
		prefix.n_ranks = n_ranks;
		prefix.n_groups = space.n_groups;
		present.assign(KVH_ENTRIES(&prefix), 0);
	}

	uint8_t &at(uint32_t chunk, uint32_t group = 0, uint32_t r = 0)
	{
		return present[KVH_ENTRY(&prefix, chunk, group, r)];
	}
	uint32_t usable() const
	{
		return kvh_prefix_usable(&prefix, &space, present.data());
	}

	// The definition, of a group's shape and nothing else.
	static bool needs(const Shape &shape, uint32_t l, uint32_t chunk)
	{
		switch (shape.kind) {
		case KVH_GROUP_FULL: return chunk < l;
		case KVH_GROUP_WINDOW: return chunk < l && chunk + shape.window_chunks >= l;
		case KVH_GROUP_STATE: return chunk + 1 == l;
		}
		return false;
	}
	uint32_t by_definition() const
	{
		for (uint32_t l = prefix.n_chunks; l > 0; l--) {
			bool all = true;

			for (uint32_t chunk = 0; chunk < l; chunk++)
				for (uint32_t g = 0; g < shapes.size(); g++)
					for (uint32_t r = 0;
					     r < (shapes[g].replicated ? 1 : prefix.n_ranks);
					     r++)
						if (needs(shapes[g], l, chunk) &&
						    !present[KVH_ENTRY(&prefix, chunk, g, r)])
							all = false;
			if (all)
				return l;
		}
		return 0;
	}

	std::vector<Shape> shapes;
	struct kvh_space space;
	std::vector<struct kvh_hash> hashes;
	struct kvh_prefix prefix = {};
	std::vector<uint8_t> present;
};

TEST(Prefix, FullEndsAtTheFirstGap)
{
	Case c({{KVH_GROUP_FULL, 0, false}}, 6);

	EXPECT_EQ(c.usable(), 0u);
	for (uint32_t chunk : {0u, 1u, 2u, 4u, 5u})
		c.at(chunk) = 1;
	EXPECT_EQ(c.usable(), 3u);
	c.at(3) = 7; // any value but 0
	EXPECT_EQ(c.usable(), 6u);
}

TEST(Prefix, WindowNeedsOnlyItsEnd)
{
	Case c({{KVH_GROUP_WINDOW, 2, false}}, 6);

	c.at(3) = c.at(2) = 1;
	EXPECT_EQ(c.usable(), 4u);
	c.at(5) = 1; // 4 is missing: a window that ends at 6 is not whole
	EXPECT_EQ(c.usable(), 4u);
	c.at(4) = 1;
	EXPECT_EQ(c.usable(), 6u);
}

TEST(Prefix, WindowLargerThanThePromptNeedsAllOfIt)
{
	Case c({{KVH_GROUP_WINDOW, 100, false}}, 4);

	c.at(1) = c.at(2) = c.at(3) = 1;
	EXPECT_EQ(c.usable(), 0u);
	c.at(0) = 1;
	EXPECT_EQ(c.usable(), 4u);
}

TEST(Prefix, StateNeedsOneChunk)
{
	Case c({{KVH_GROUP_STATE, 0, false}}, 6);

	c.at(4) = 1;
	EXPECT_EQ(c.usable(), 5u);
}

TEST(Prefix, GroupsAgreeOnTheLargestThatAllCanServe)
{
	Case c({{KVH_GROUP_FULL, 0, false}, {KVH_GROUP_STATE, 0, false}}, 6);

	for (uint32_t chunk = 0; chunk < 5; chunk++)
		c.at(chunk, 0) = 1;
	c.at(5, 1) = 1; // beyond what the full group has
	EXPECT_EQ(c.usable(), 0u);
	c.at(2, 1) = 1;
	EXPECT_EQ(c.usable(), 3u);
}

TEST(Prefix, EveryRankMustHaveItAndReplicatedOnce)
{
	Case c({{KVH_GROUP_FULL, 0, false}, {KVH_GROUP_FULL, 0, true}}, 2, 3);

	for (uint32_t chunk = 0; chunk < 2; chunk++)
		for (uint32_t r = 0; r < 3; r++)
			c.at(chunk, 0, r) = 1;
	EXPECT_EQ(c.usable(), 0u);
	c.at(0, 1, 0) = c.at(1, 1, 0) = 1; // r = 0 stands for all
	EXPECT_EQ(c.usable(), 2u);
	c.at(1, 0, 2) = 0;
	EXPECT_EQ(c.usable(), 1u);
}

uint32_t below(std::mt19937 &random, uint32_t n)
{
	return uint32_t(random() % n);
}

Shape random_shape(std::mt19937 &random)
{
	Shape shape = {};

	shape.kind = static_cast<enum kvh_group_kind>(below(random, 3));
	shape.window_chunks = shape.kind == KVH_GROUP_WINDOW ? 1 + below(random, 5) : 0;
	shape.replicated = below(random, 3) == 0;
	return shape;
}

TEST(Prefix, LikeTheDefinitionWhateverIsThere)
{
	const uint32_t seed = std::random_device()();
	std::mt19937 random(seed);
	uint32_t n_zero = 0, n_part = 0, n_whole = 0;

	SCOPED_TRACE(testing::Message() << "seed " << seed);
	for (int i = 0; i < 20000; i++) {
		std::vector<Shape> shapes;

		for (uint32_t g = 0, n = 1 + below(random, 4); g < n; g++)
			shapes.push_back(random_shape(random));
		Case c(shapes, 1 + below(random, 12), 1 + below(random, 3));
		const uint32_t missing = below(random, 40); // percent

		for (uint8_t &present : c.present)
			present = below(random, 100) >= missing;
		const uint32_t want = c.by_definition();

		ASSERT_EQ(c.usable(), want) << "case " << i;
		n_zero += want == 0;
		n_part += want > 0 && want < c.prefix.n_chunks;
		n_whole += want == c.prefix.n_chunks;
	}
	EXPECT_GT(n_zero, 500u); // the cases are of all sorts
	EXPECT_GT(n_part, 500u);
	EXPECT_GT(n_whole, 500u);
}

TEST(Prefix, NeedsIsTheDefinition)
{
	std::mt19937 random(3);

	for (int i = 0; i < 2000; i++) {
		Case c({random_shape(random)}, 12);

		for (uint32_t l = 0; l <= 12; l++)
			for (uint32_t chunk = 0; chunk < 12; chunk++)
				ASSERT_EQ(kvh_prefix_needs(&c.space, l, chunk, 0),
					  Case::needs(c.shapes[0], l, chunk))
					<< l << " " << chunk;
	}
}

// Alternating states pull L down one by one. The full group is not looked at
// again each time: that would be 2 * 10^10 looks.
TEST(Prefix, StatesThatNeverMeetPullItDownToNothing)
{
	constexpr uint32_t kChunks = 200000;
	Case c({{KVH_GROUP_STATE, 0, false},
		{KVH_GROUP_STATE, 0, false},
		{KVH_GROUP_FULL, 0, false}},
	       kChunks);

	for (uint32_t chunk = 0; chunk < kChunks; chunk++) {
		c.at(chunk, chunk % 2) = 1;
		c.at(chunk, 2) = 1;
	}
	EXPECT_EQ(c.usable(), 0u);
}

TEST(Prefix, KeysFollowFromTheEntry)
{
	Case c({{KVH_GROUP_FULL, 0, false}, {KVH_GROUP_FULL, 0, true}}, 2, 2);
	struct kvh_key key;

	c.prefix.space = 77;
	c.prefix.first_rank = 6;
	c.hashes[1].bytes[3] = 9;
	kvh_prefix_key(&c.prefix, &c.space, 1, 0, 1, &key);
	EXPECT_EQ(key.hash.bytes[3], 9);
	EXPECT_EQ(key.space, 77u);
	EXPECT_EQ(key.group, 0u);
	EXPECT_EQ(key.rank, 7u);
	kvh_prefix_key(&c.prefix, &c.space, 0, 1, 0, &key);
	EXPECT_EQ(key.hash.bytes[3], 0);
	EXPECT_EQ(key.group, 1u);
	EXPECT_EQ(key.rank, KVH_RANK_ANY);
}

int check(uint32_t n_chunks, uint32_t n_groups, uint32_t n_ranks, uint32_t first_rank,
	  bool hashes = true)
{
	static struct kvh_hash hash[1];
	struct kvh_space space = make_space(
		{{KVH_GROUP_FULL, 0, false}, {KVH_GROUP_FULL, 0, false}});
	struct kvh_prefix prefix = {};

	prefix.n_chunks = n_chunks;
	prefix.n_groups = n_groups;
	prefix.n_ranks = n_ranks;
	prefix.first_rank = first_rank;
	prefix.hashes = hashes ? hash : nullptr;
	return kvh_prefix_check(&prefix, &space);
}

TEST(PrefixCheck, Accepted)
{
	EXPECT_EQ(check(1, 2, 1, 0), 0);
	EXPECT_EQ(check(1, 2, 65536, 0), 0);
	EXPECT_EQ(check(1, 2, 1, KVH_RANK_ANY - 1), 0); // the last rank there is
	EXPECT_EQ(check(UINT32_MAX / 4, 2, 1, 0), 0);
}

TEST(PrefixCheck, RefusedWithTheValue)
{
	l2test::Log log;

	EXPECT_EQ(check(0, 2, 1, 0), -EINVAL);
	EXPECT_EQ(check(1, 2, 1, 0, false), -EINVAL);
	EXPECT_EQ(check(1, 1, 1, 0), -EINVAL);
	EXPECT_EQ(check(1, 3, 1, 0), -EINVAL);
	EXPECT_EQ(check(1, 2, 0, 0), -EINVAL);
	EXPECT_EQ(check(1, 2, 65537, 0), -EINVAL);
	EXPECT_EQ(check(1, 2, 1, KVH_RANK_ANY), -EINVAL); // stands for replicated
	EXPECT_EQ(check(1, 2, 2, KVH_RANK_ANY - 1), -EINVAL);
	EXPECT_EQ(check(UINT32_MAX, 2, 65536, 0), -EINVAL);
	EXPECT_EQ(log.count("prefix: "), 9u);
	EXPECT_EQ(log.count("n_groups is 3, the space has 2"), 1u);
	EXPECT_EQ(log.count("[4294967294, +2)"), 1u);
}

} // namespace
