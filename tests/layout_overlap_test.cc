/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout_overlap_test.cc - do planes share a byte? Against a map of bytes, over
 * random planes that do and that do not; then cases too large for any map.
 */
#include "cuda/overlap.h"
#include "tests/pack_check.h"

#include <cerrno>
#include <set>

using namespace layouts;

namespace
{

/* ---- lattices against sets of bytes ------------------------------------ */

struct Comb {
	uint64_t start, run;
	std::vector<std::pair<uint64_t, uint64_t>> levels; /* stride, n */
};

bool lattice_of(const Comb &comb, uint32_t plane, kvh_lattice *lat)
{
	kvh_lattice_init(lat, plane, comb.start, comb.run);
	for (const auto &level : comb.levels)
		kvh_lattice_add(lat, "stride", level.first, level.second);
	return kvh_lattice_seal(lat) == nullptr;
}

std::vector<uint64_t> bytes_of_comb(const Comb &comb)
{
	std::vector<uint64_t> all;

	for (uint64_t d = 0; d < comb.run; d++)
		all.push_back(comb.start + d);
	for (const auto &level : comb.levels) {
		const size_t n = all.size();

		for (uint64_t k = 1; k < level.second; k++)
			for (size_t i = 0; i < n; i++)
				all.push_back(all[i] + k * level.first);
	}
	return all;
}

bool self_overlaps(const std::vector<uint64_t> &bytes)
{
	return std::set<uint64_t>(bytes.begin(), bytes.end()).size() != bytes.size();
}

Comb random_comb(Rng &rng, const std::vector<uint64_t> &strides)
{
	Comb comb{below(rng, 60), 1 + below(rng, 4), {}};

	for (uint64_t l = below(rng, 4); l > 0; l--)
		comb.levels.emplace_back(strides[below(rng, strides.size())],
					 1 + below(rng, 5));
	return comb;
}

/* A comb whose every step is longer than what it covers is never refused, and
 * one that has a byte twice always. */
TEST(LayoutOverlap, SealKnowsCombsThatOverlapThemselves)
{
	uint64_t accepted = 0, refused = 0;
	const uint64_t cases = property_cases(20000);

	for (uint64_t seed = 0; seed < cases; seed++) {
		Rng rng(seed);
		const Comb comb = random_comb(rng, {1, 2, 3, 5, 8, 12, 20, 50});
		kvh_lattice lat;

		if (lattice_of(comb, 0, &lat)) {
			const auto bytes = bytes_of_comb(comb);

			ASSERT_FALSE(self_overlaps(bytes)) << "seed " << seed;
			const uint64_t last = *std::max_element(bytes.begin(), bytes.end());
			ASSERT_EQ(static_cast<uint64_t>(lat.start + lat.extent[0]), last + 1)
				<< "seed " << seed;
			accepted++;
		} else {
			refused++;
		}
	}
	EXPECT_GT(accepted, cases / 10);
	EXPECT_GT(refused, cases / 10);
}

/* Exact, whether strides are equal or not; and the byte it names is in both. */
TEST(LayoutOverlap, AgreesWithAMapOfBytes)
{
	uint64_t apart = 0, met = 0;
	const uint64_t cases = property_cases(30000);

	for (uint64_t seed = 0; seed < cases; seed++) {
		Rng rng(seed);
		const std::vector<uint64_t> strides = seed % 2
							      ? std::vector<uint64_t>{6, 18, 60}
							      : std::vector<uint64_t>{
									3, 4, 7, 10, 19, 40};
		std::vector<Comb> combs;
		std::vector<kvh_lattice> lats;
		std::map<uint64_t, std::set<uint32_t>> owners;
		kvh_overlap found{};
		bool overlap = false;

		while (combs.size() < 2 + seed % 3) {
			const Comb comb = random_comb(rng, strides);
			kvh_lattice lat;

			if (!lattice_of(comb, static_cast<uint32_t>(combs.size()), &lat))
				continue;
			for (uint64_t byte : bytes_of_comb(comb)) {
				owners[byte].insert(lat.plane);
				overlap = overlap || owners[byte].size() > 1;
			}
			combs.push_back(comb);
			lats.push_back(lat);
		}
		const int err = kvh_lattices_disjoint(
			lats.data(), static_cast<uint32_t>(lats.size()), &found);

		ASSERT_EQ(err, overlap ? -EEXIST : 0) << "seed " << seed;
		if (overlap) {
			ASSERT_NE(found.plane[0], found.plane[1]) << "seed " << seed;
			ASSERT_TRUE(owners[found.address].count(found.plane[0])) << seed;
			ASSERT_TRUE(owners[found.address].count(found.plane[1])) << seed;
		}
		(overlap ? met : apart)++;
	}
	EXPECT_GT(apart, cases / 10);
	EXPECT_GT(met, cases / 10);
}

/* ---- pools of real size ------------------------------------------------ */

/* Memory that is never touched: plans only count. */
const kvh_alloc kHuge = {reinterpret_cast<void *>(uintptr_t{1} << 40), UINT64_C(1) << 46};

int make(const Layout &layout)
{
	const Group &g = layout.groups[0];
	const kvh_group_desc desc = g.desc();
	std::vector<kvh_alloc> allocs;
	kvh_plan *made = nullptr;
	auto base = reinterpret_cast<uintptr_t>(kHuge.base);

	for (uint64_t bytes : layout.allocs) {
		allocs.push_back({reinterpret_cast<void *>(base), bytes});
		base += bytes;
	}
	const int err = kvh_plan_make(&desc, layout.chunk_tokens, allocs.data(),
				      static_cast<uint32_t>(allocs.size()), g.planes.data(), 0,
				      g.n_pages, &made);

	kvh_plan_free(made);
	return err;
}

Sizes real_size()
{
	Sizes s;

	s.L = 128;
	s.NB = 100000;
	s.T = 16;
	s.H = 8;
	s.D = 256;
	return s;
}

std::string last_line;

void keep_line(void *, kvh_log_level, const char *line)
{
	last_line = line;
}

TEST(LayoutOverlap, RealPoolsAreTakenAndOneByteTooFarIsNot)
{
	kvh_log_set(keep_line, nullptr, KVH_LOG_ERROR);
	for (Layout &layout : kv_layouts(real_size(), KVH_FORMAT_PORTABLE)) {
		SCOPED_TRACE(layout.name);
		EXPECT_EQ(make(layout), 0);

		kvh_plane &last = layout.groups[0].planes.back();

		if (last.offset == 0)
			continue; /* alone in its allocation */
		last.offset -= 1; /* into its neighbour's last byte */
		EXPECT_EQ(make(layout), -EINVAL);
		EXPECT_NE(last_line.find("plane 255"), std::string::npos) << last_line;
		EXPECT_NE(last_line.find("overlaps"), std::string::npos) << last_line;
	}
	kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
}

TEST(LayoutOverlap, AsManyPlanesAsAPoolMayHave)
{
	Sizes s = real_size();

	s.L = KVH_PLANES_MAX / 2;
	EXPECT_EQ(make(dense("interleaved by token", "ptlkhd", s, KVH_FORMAT_NATIVE)), 0);
	EXPECT_EQ(make(dense("apart", "lkpthd", s, KVH_FORMAT_NATIVE)), 0);
}

/* Bytes 0 and 1 of every 4 against 3 of every 6: they never meet, but only
 * counting up tells, and beyond the budget nobody counts. */
Layout combs(uint64_t n, uint64_t offset)
{
	Layout layout{"combs", 1, {}, {}};
	Group g;

	g.fields.page_tokens = 1;
	g.n_pages = static_cast<uint32_t>(n);
	add_opaque(g, 0, 2, 0, 0, 4);
	add_opaque(g, 0, 1, 0, offset, 6);
	layout.allocs.push_back(6 * n + 16);
	layout.groups.push_back(g);
	return layout;
}

TEST(LayoutOverlap, DifferentStridesAreCountedWithinABudget)
{
	kvh_log_set(keep_line, nullptr, KVH_LOG_ERROR);
	/* 6k + 3 is 3 or 1 modulo 4. */
	EXPECT_EQ(make(combs(1000000, 3)), -EINVAL);
	EXPECT_NE(last_line.find("overlaps"), std::string::npos) << last_line;

	Layout apart = combs(1000000, 2); /* 6k + 2 is 2 or 0 modulo 4 */
	EXPECT_EQ(make(apart), -EINVAL);
	apart.groups[0].planes[1].page_stride = 8; /* 2 modulo 4 */
	apart.allocs[0] *= 2;
	EXPECT_EQ(make(apart), 0);

	Layout many = combs(400000000, 2);
	many.groups[0].planes[1].page_stride = 8;
	many.allocs[0] *= 2;
	EXPECT_EQ(make(many), -EINVAL);
	EXPECT_NE(last_line.find("too many to tell"), std::string::npos) << last_line;
	kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
}

/* ---- planes of random layouts, moved ----------------------------------- */

/* What kvh_plan_make says about overlap is what a map of bytes says. */
TEST(LayoutOverlap, PlansOfRandomLayoutsMoved)
{
	const uint64_t cases = property_cases(10000);
	uint64_t apart = 0, met = 0;

	kvh_log_set(keep_line, nullptr, KVH_LOG_ERROR);
	for (uint64_t seed = 0; seed < cases; seed++) {
		Layout layout = random_layout(seed);
		Group &g = layout.groups[0];
		Rng rng(seed);
		const size_t moved = below(rng, g.planes.size());
		std::map<std::pair<uint32_t, uint64_t>, size_t> owner;
		bool overlap = false;

		for (auto &bytes : layout.allocs)
			bytes += 64;
		g.planes[moved].offset += below(rng, 64);
		for (size_t i = 0; i < g.planes.size(); i++) {
			const kvh_plane &p = g.planes[i];

			for (uint32_t page = 0; page < g.n_pages; page++)
				each_byte(g, i, 0, [&](const Element &e) {
					const uint64_t at = p.offset + page * p.page_stride +
							    e.token * p.token_stride +
							    e.head * p.head_stride + e.byte;
					const auto put = owner.insert({{p.alloc, at}, i});

					overlap = overlap || !put.second;
				});
		}
		ASSERT_EQ(make(layout), overlap ? -EINVAL : 0) << "seed " << seed;
		(overlap ? met : apart)++;
	}
	kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	EXPECT_GT(apart, cases / 10);
	EXPECT_GT(met, cases / 20);
}

/* Two allocations of the same memory: what counts is the address. */
TEST(LayoutOverlap, AllocationsThatAreTheSameMemory)
{
	Layout layout = dense("x", "pthd", Sizes{}, KVH_FORMAT_NATIVE);
	Group &g = layout.groups[0];
	const kvh_group_desc desc = g.desc();
	std::vector<kvh_alloc> allocs(layout.allocs.size(), kHuge);
	kvh_plan *plan = nullptr;

	kvh_log_set(keep_line, nullptr, KVH_LOG_ERROR);
	EXPECT_EQ(kvh_plan_make(&desc, layout.chunk_tokens, allocs.data(),
				static_cast<uint32_t>(allocs.size()), g.planes.data(), 0,
				g.n_pages, &plan),
		  -EINVAL);
	kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	EXPECT_EQ(plan, nullptr);
}

} // namespace
