/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_tile_test.cc - the pack kernels without a GPU: every thread of the grid
 * in turn, at every width that is legal, against the definition. The sanitizers
 * see each access, so misaligned ones, too.
 */
#include "cuda/pack_tile.cuh"

#include "tests/pack_check.h"

using namespace layouts;

namespace
{

template <uint32_t W>
struct alignas(W) [[gnu::may_alias]] Vec {
	unsigned char b[W];
};

struct Vecs {
	template <uint32_t W>
	using of = Vec<W>;
};

template <uint32_t W, int direction>
void run_grid(const kvh_pack &pack, const kvh_pack_grid &grid)
{
	for (uint64_t t = 0; t < grid.ctas * KVH_PACK_THREADS; t++)
		kvh_pack_thread<Vecs, W, direction>(pack, grid, t);
}

template <int direction>
void run_width(const kvh_pack &pack, const kvh_pack_grid &grid)
{
	switch (pack.width == pack.widest ? pack.width : 0) {
	case 16: return run_grid<16, direction>(pack, grid);
	case 8: return run_grid<8, direction>(pack, grid);
	case 4: return run_grid<4, direction>(pack, grid);
	case 2: return run_grid<2, direction>(pack, grid);
	case 1: return run_grid<1, direction>(pack, grid);
	default: return run_grid<0, direction>(pack, grid);
	}
}

/* At the pack's own width, or a narrower one; as many splits as the launcher
 * takes, or fewer, as it does for large grids; on so many CTAs at most. */
template <int direction>
Move emulate(uint32_t max_width, uint32_t max_splits, uint32_t ctas)
{
	return [=](const kvh_pack *pack) {
		kvh_pack narrow = *pack;
		kvh_pack_grid grid;
		int err = kvh_pack_check(pack);

		narrow.ctas = ctas;
		/* 16: as the launcher does. */
		narrow.width = std::min(pack->width, max_width);
		if (max_width < 16)
			narrow.widest = narrow.width;
		if (err == 0)
			err = kvh_pack_grid_make(narrow, &grid);
		if (err != 0)
			return err;
		if (grid.splits > max_splits) {
			grid.splits = max_splits;
			grid.teams = narrow.n_units * max_splits;
		}
		run_width<direction>(narrow, grid);
		return 0;
	};
}

void check(const Layout &layout, uint64_t shift, uint64_t seed, uint32_t width, uint32_t splits,
	   uint32_t ctas = 0)
{
	check_layout(layout, shift, seed, emulate<KVH_PACK_GATHER>(width, splits, ctas),
		     emulate<KVH_PACK_SCATTER>(width, splits, ctas));
}

void check_all(const Sizes &sizes)
{
	for (uint32_t format : {KVH_FORMAT_NATIVE, KVH_FORMAT_PORTABLE})
		for (const Layout &layout : all_layouts(sizes, format))
			for (uint64_t shift : {0, 1, 2, 4, 8})
				for (uint32_t width : {16, 4, 1}) {
					check(layout, shift, shift + width, width, UINT32_MAX);
					if (testing::Test::HasFatalFailure())
						return;
				}
}

TEST(PackTile, SmallUnits)
{
	check_all(Sizes{2, 5, 4, 3, 32, 2});
}

TEST(PackTile, OddUnits)
{
	check_all(Sizes{2, 5, 3, 2, 5, 2});
}

/* Several tiles a unit, the last one not full; runs that straddle tiles. */
TEST(PackTile, UnitsOfSeveralTiles)
{
	check_all(Sizes{1, 4, 7, 3, 496, 1});
	check_all(Sizes{1, 4, 11, 3, 248, 1}); /* 8 bytes less than two tiles */
}

TEST(PackTile, TeamsThatTakeSeveralTiles)
{
	const Sizes sizes{1, 3, 8, 4, 1040, 1};

	for (uint32_t splits : {1, 2, 3, 5})
		for (const Layout &layout : all_layouts(sizes, KVH_FORMAT_PORTABLE)) {
			check(layout, 0, splits, 16, splits);
			ASSERT_FALSE(HasFatalFailure()) << layout.name << " splits " << splits;
		}
}

TEST(PackTile, RandomLayouts)
{
	const uint64_t cases = property_cases(4000);

	for (uint64_t seed = 0; seed < cases; seed++) {
		check(random_layout(seed), seed % 17, seed, 16, UINT32_MAX);
		ASSERT_FALSE(HasFailure()) << "seed " << seed;
	}
}

/* Narrow bursts: few CTAs whose teams go on to further units. */
TEST(PackTile, FewerCtasThanWork)
{
	const Sizes sizes{2, 24, 8, 4, 80, 6};

	for (uint32_t ctas : {1, 2, 7})
		for (const Layout &layout : all_layouts(sizes, KVH_FORMAT_PORTABLE)) {
			check(layout, 0, ctas, 16, UINT32_MAX, ctas);
			ASSERT_FALSE(HasFatalFailure()) << layout.name << " CTAs " << ctas;
		}
}

/* Planes of 4 tokens: of 256 bytes a page, of 5, of 256, of 24. */
Layout mixed_widths(uint32_t pages_per_chunk)
{
	Sizes s;

	s.P = pages_per_chunk;
	s.NB = 2 * s.P;
	Layout layout{"mixed", s.T * s.P, {}, {group_of(s, KVH_GROUP_FULL, KVH_FORMAT_NATIVE)}};
	Group &g = layout.groups[0];

	for (uint64_t unit : {256, 5, 256, 24}) {
		kvh_plane_shape shape{};
		kvh_plane p{};

		shape.kind = KVH_PLANE_OPAQUE;
		shape.page_bytes = unit;
		p.alloc = static_cast<uint32_t>(layout.allocs.size());
		p.page_stride = unit;
		layout.allocs.push_back(unit * s.NB);
		g.shapes.push_back(shape);
		g.planes.push_back(p);
	}
	return layout;
}

/* One odd plane makes nobody else's accesses narrow, as far as it leaves them aligned
 * in the stage. */
TEST(PackTile, EachUnitHasItsWidth)
{
	const Layout layout = mixed_widths(16); /* 16 x 5 bytes keep what follows aligned */
	Memory mem(layout.allocs, 0, 1);
	Plan plan = plan_make(layout, layout.groups[0], mem.allocs());
	std::vector<uint32_t> pages(16);
	std::vector<uint64_t> stage(2 + 16 * (256 + 5 + 256 + 24) / 8);
	const uint32_t width[] = {16, 1, 16, 8};
	kvh_pack pack{};

	ASSERT_NE(plan, nullptr);
	pack.plan = plan.get();
	pack.pages = pages.data();
	pack.stage = reinterpret_cast<unsigned char *>(
		(reinterpret_cast<uintptr_t>(stage.data()) + 15) & ~uintptr_t{15});
	pack.plane_end = 4;
	pack.n_units = 4 * 16;
	kvh_pack_prepare(&pack, plan.get());
	EXPECT_EQ(pack.width, 1u);
	EXPECT_EQ(pack.widest, 16u);
	EXPECT_EQ(plan->width, 1u);
	for (uint32_t u = 0; u < 4 * 16; u++) {
		kvh_pack_ends ends;

		ASSERT_TRUE(kvh_pack_ends_at(&pack, u, &ends));
		EXPECT_EQ(plan->planes[u / 16].width, width[u / 16]);
		/* A page of 24 bytes lies on 8; one of 5 may by chance lie on more. */
		EXPECT_LE(kvh_pack_unit_width(ends), width[u / 16]);
		if (u / 16 != 1) {
			EXPECT_EQ(kvh_pack_unit_width(ends), width[u / 16]) << u;
		}
	}
	/* A band without the odd plane is as if it were not there. */
	pack.plane_first = 2;
	pack.n_units = 2 * 16;
	kvh_pack_prepare(&pack, plan.get());
	EXPECT_EQ(pack.width, 8u);
	pack.plane_end = 3;
	kvh_pack_prepare(&pack, plan.get());
	EXPECT_EQ(pack.width, 16u);
	EXPECT_EQ(pack.max_unit_bytes, 256u);
}

TEST(PackTile, MixedWidths)
{
	for (uint32_t pages : {1, 3, 16})
		for (uint64_t shift : {0, 1, 4, 8})
			for (uint32_t seed = 1; seed < 20; seed++) {
				check(mixed_widths(pages), shift, seed, 16, UINT32_MAX);
				ASSERT_FALSE(HasFatalFailure()) << pages << " pages, shift "
								<< shift << " seed " << seed;
			}
}

kvh_pack_grid grid_of(uint64_t n_units, uint64_t max_unit_bytes, uint32_t width,
		      uint32_t ctas = 0)
{
	kvh_pack pack{};
	kvh_pack_grid grid{};

	pack.ctas = ctas;
	pack.n_units = n_units;
	pack.max_unit_bytes = max_unit_bytes;
	pack.width = pack.widest = width;
	EXPECT_EQ(kvh_pack_grid_make(pack, &grid), 0);
	return grid;
}

TEST(PackTile, GridFitsTheWork)
{
	/* A stage of 32 MiB in units of 32 KiB: a warp for every 4 KiB. */
	kvh_pack_grid g = grid_of(1024, 32768, 16);

	EXPECT_EQ(g.lanes, 32u);
	EXPECT_EQ(g.splits, 8u);
	EXPECT_EQ(g.ctas, 1024u);

	EXPECT_EQ(g.step, 8192u);
	EXPECT_EQ(g.teams, 8192u);

	/* The same on a quarter of the GPU: as many teams, in turns. */
	g = grid_of(1024, 32768, 16, 132);
	EXPECT_EQ(g.ctas, 132u);
	EXPECT_EQ(g.teams, 8192u);
	EXPECT_EQ(g.step, 132u * 8);
	EXPECT_EQ(grid_of(8, 4096, 16, 132).ctas, 1u);

	/* Tiny units: no warp for 64 bytes. */
	g = grid_of(1 << 19, 64, 16);
	EXPECT_EQ(g.lanes, 4u);
	EXPECT_EQ(g.splits, 1u);
	EXPECT_EQ(g.ctas, 8192u);

	/* Very different ones: bounded. */
	g = grid_of(1 << 19, 8 << 20, 16);
	EXPECT_LE(g.ctas, KVH_PACK_CTAS);
	EXPECT_GE(g.teams, uint64_t{1} << 19);

	/* One element. */
	g = grid_of(1, 1, 1);
	EXPECT_EQ(g.lanes, 1u);
	EXPECT_EQ(g.ctas, 1u);

	/* The largest unit: 32 bits count its tiles. */
	g = grid_of(1, KVH_UNIT_MAX, 16);
	EXPECT_EQ(g.splits, KVH_UNIT_MAX / KVH_PACK_TILE);
}

TEST(PackTile, MoreThanAGridIsRefused)
{
	kvh_pack pack{};
	kvh_pack_grid grid{};

	pack.n_units = UINT64_MAX;
	pack.max_unit_bytes = 4096;
	pack.width = pack.widest = 16;
	EXPECT_EQ(kvh_pack_grid_make(pack, &grid), -EINVAL);
}

} // namespace
