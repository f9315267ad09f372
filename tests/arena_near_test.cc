// SPDX-License-Identifier: Apache-2.0
//
// arena_near_test.cc - frames near a NUMA node, from pieces on several.
#include "arena_rig.h"

#include <algorithm>

namespace
{

// The node is known from the table, so that any machine can test who gets what: a
// piece "of node 900" is one that mbind refused, and loses it; so the nodes are set
// after open, in the table itself, which nothing else reads but placement.
class Near : public Arena
{
      protected:
	void open_on(std::initializer_list<int> nodes)
	{
		const kvh_arena_piece *pieces;
		uint32_t i = 0, n;

		opts.bytes = 8 * kMiB * nodes.size();
		opts.piece_bytes = 8 * kMiB;
		open();
		n = kvh_arena_pieces(arena, &pieces);
		ASSERT_EQ(n, nodes.size());
		for (int node : nodes)
			const_cast<kvh_arena_piece *>(pieces)[i++].node = node;
	}
	std::vector<int> nodes_of(const std::vector<void *> &frames)
	{
		const kvh_arena_piece *pieces;
		std::vector<int> nodes;

		kvh_arena_pieces(arena, &pieces);
		nodes.reserve(frames.size());
		for (void *frame : frames)
			nodes.push_back(pieces[kvh_arena_piece_of(arena, frame)].node);
		return nodes;
	}
	std::vector<void *> near(int node, uint64_t bytes, uint32_t n)
	{
		std::vector<void *> frames(n);
		int got = kvh_arena_alloc_near(arena, node, bytes, n, frames.data());

		EXPECT_GE(got, 0);
		frames.resize(got < 0 ? 0 : static_cast<size_t>(got));
		EXPECT_TRUE(std::is_sorted(frames.begin(), frames.end()));
		EXPECT_TRUE(kvh_arena_check(arena)) << log_lines;
		return frames;
	}
};

TEST_F(Near, FramesComeFromTheNodeWhileItHasRoom)
{
	open_on({0, 1, 0, 1});
	auto far = near(0, kMiB, 2);
	EXPECT_EQ(nodes_of(far), (std::vector<int>{0, 0}));
	auto one = near(1, kMiB, 1);
	EXPECT_EQ(nodes_of(one), (std::vector<int>{1})) << "not the lowest address";
	auto all = near(1, kMiB, 15);
	EXPECT_EQ(nodes_of(all), std::vector<int>(15, 1)) << "over both of its pieces";
	// Full: the rest comes from anywhere.
	auto rest = near(1, kMiB, 14);
	EXPECT_EQ(nodes_of(rest), std::vector<int>(14, 0));
	EXPECT_EQ(near(1, kMiB, 1).size(), 0u);
	free_all(far);
	free_all(one);
	free_all(all);
	free_all(rest);
}

TEST_F(Near, PartlyNearIsFilledUpFromElsewhere)
{
	open_on({0, 1});
	auto frames = near(1, kMiB, 11);
	std::vector<int> want(11, 1);

	std::fill(want.begin(), want.begin() + 3, 0); // rising addresses
	EXPECT_EQ(nodes_of(frames), want);
	free_all(frames);
}

// Slabs there are already are used before new ones, on each side of its own.
TEST_F(Near, FreeFramesOfSlabsAreFoundPastThoseOfOtherNodes)
{
	open_on({0, 0, 1, 0, 1});
	auto all = near(0, kPage, 2048 * 3);
	ASSERT_EQ(nodes_of(all), std::vector<int>(all.size(), 0));
	auto mine = near(1, kPage, 2048 * 2);
	ASSERT_EQ(nodes_of(mine), std::vector<int>(mine.size(), 1));
	for (size_t i : {size_t{5}, size_t{2000}, size_t{5000}})
		kvh_arena_free(arena, all[i]);
	kvh_arena_free(arena, mine[3000]);
	auto found = near(1, kPage, 1);
	ASSERT_EQ(found.size(), 1u);
	EXPECT_EQ(found[0], mine[3000]);
	EXPECT_EQ(near(1, kPage, 1), (std::vector<void *>{all[5]}));
	EXPECT_EQ(near(7, kPage, 1), (std::vector<void *>{all[2000]})) << "no such node";
	EXPECT_EQ(near(KVH_NODE_ANY, kPage, 1), (std::vector<void *>{all[5000]}));
	free_all(all);
	free_all(mine);
}

} // namespace
