/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout_test.cc - plans: how long their runs are, how wide an access, where a
 * layer lies; and every geometry that is refused, with its line in the log.
 */
#include "tests/layouts.h"

#include <cerrno>
#include <functional>
#include <gtest/gtest.h>

using namespace layouts;

namespace
{

/* Collects the log for as long as it lives. */
class Lines
{
      public:
	Lines()
	{
		kvh_log_set(take, this, KVH_LOG_ERROR);
	}
	~Lines()
	{
		kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	}
	Lines(const Lines &) = delete;
	Lines &operator=(const Lines &) = delete;
	/* One line, and each of the words in it. */
	void expect(const std::vector<std::string> &words)
	{
		ASSERT_EQ(lines_.size(), 1u);
		for (const auto &word : words)
			EXPECT_NE(lines_[0].find(word), std::string::npos)
				<< "no '" << word << "' in: " << lines_[0];
		lines_.clear();
	}

      private:
	static void take(void *arg, kvh_log_level, const char *line)
	{
		static_cast<Lines *>(arg)->lines_.push_back(line);
	}

	std::vector<std::string> lines_;
};

/* ---- runs and width ---------------------------------------------------- */

struct Shape {
	uint64_t run;
	uint32_t inner, outer;
};

void expect_runs(const Layout &layout, const Shape &want)
{
	SCOPED_TRACE(layout.name);
	Memory mem(layout.allocs, 0, 1);
	Plan plan = plan_make(layout, layout.groups[0], mem.allocs());

	ASSERT_NE(plan, nullptr);
	for (uint32_t i = 0; i < plan->n_planes; i++) {
		EXPECT_EQ(plan->planes[i].run_bytes, want.run);
		EXPECT_EQ(plan->planes[i].n_inner, want.inner);
		EXPECT_EQ(plan->planes[i].n_outer, want.outer);
	}
}

TEST(Layout, RunsAreMergedAsFarAsBothSidesAllow)
{
	const Sizes s; /* T 4, H 3, D 32: a page is 384 */
	const auto dense_of = [&](const char *order, uint32_t format) {
		return dense(order, order, s, format);
	};

	for (const char *order : {"pthd", "kpthd", "pkthd", "lkpthd", "plkthd"})
		for (uint32_t format : {KVH_FORMAT_NATIVE, KVH_FORMAT_PORTABLE})
			expect_runs(dense_of(order, format), {384, 1, 1});
	for (const char *order : {"phtd", "kphtd", "pkhtd", "plkhtd"}) {
		expect_runs(dense_of(order, KVH_FORMAT_NATIVE), {384, 1, 1});
		expect_runs(dense_of(order, KVH_FORMAT_PORTABLE), {32, 3, 4});
	}
	/* One loop where two would have the same step. */
	expect_runs(dense_of("pthkd", KVH_FORMAT_NATIVE), {32, 12, 1});
	expect_runs(dense_of("phtkd", KVH_FORMAT_NATIVE), {32, 12, 1});
	expect_runs(dense_of("phtkd", KVH_FORMAT_PORTABLE), {32, 3, 4});
	/* A token's heads are one run. */
	expect_runs(dense_of("ptkhd", KVH_FORMAT_NATIVE), {96, 4, 1});
	expect_runs(dense_of("ptlkhd", KVH_FORMAT_PORTABLE), {96, 4, 1});
	/* A head's tokens are one, but not in portable order. */
	expect_runs(dense_of("hptd", KVH_FORMAT_NATIVE), {128, 3, 1});
	expect_runs(dense_of("hptd", KVH_FORMAT_PORTABLE), {32, 3, 4});
}

uint32_t width_of(const Layout &layout, uint64_t shift)
{
	Memory mem(layout.allocs, shift, 1);
	Plan plan = plan_make(layout, layout.groups[0], mem.allocs());

	return plan == nullptr ? 0 : plan->width;
}

TEST(Layout, TheWidestLegalAccess)
{
	const Layout aligned = dense("x", "pthd", Sizes{}, KVH_FORMAT_NATIVE);
	Sizes s;

	EXPECT_EQ(width_of(aligned, 0), 16u);
	EXPECT_EQ(width_of(aligned, 48), 16u);
	for (uint32_t shift : {1, 2, 4, 8})
		EXPECT_EQ(width_of(aligned, shift), shift);
	EXPECT_EQ(width_of(aligned, 7), 1u);
	s.D = 24;
	EXPECT_EQ(width_of(dense("d24", "phtd", s, KVH_FORMAT_PORTABLE), 0), 8u);
	/* 4 x 3 x 24 in one run is a multiple of 16. */
	EXPECT_EQ(width_of(dense("d24", "phtd", s, KVH_FORMAT_NATIVE), 0), 16u);
	s.D = 6;
	EXPECT_EQ(width_of(dense("d6", "phtd", s, KVH_FORMAT_PORTABLE), 0), 2u);
	s.D = 5;
	EXPECT_EQ(width_of(dense("d5", "phtd", s, KVH_FORMAT_PORTABLE), 0), 1u);
	/* Scales of 4 bytes between the values set the width of all. */
	EXPECT_EQ(width_of(scales_in_page(Sizes{}, KVH_FORMAT_NATIVE), 0), 16u);
	s = Sizes{};
	s.T = 5;
	EXPECT_EQ(width_of(scales_in_page(s, KVH_FORMAT_NATIVE), 0), 4u);
}

/* The stride of a step that is never made says nothing. */
TEST(Layout, StridesOfOneStepAreIgnored)
{
	Sizes s;
	s.NB = 1;
	s.T = 1;
	s.H = 1;
	s.P = 1;
	Layout layout = dense("one", "pthd", s, KVH_FORMAT_NATIVE);

	for (auto &p : layout.groups[0].planes) {
		p.page_stride = 3;
		p.token_stride = UINT64_MAX;
		p.head_stride = 1;
	}
	EXPECT_EQ(width_of(layout, 0), 16u);
	expect_runs(layout, {32, 1, 1});
}

/* ---- the plan as a whole ----------------------------------------------- */

TEST(Layout, PayloadIsPlaneByPlane)
{
	const Layout layout = scales_apart(Sizes{}, KVH_FORMAT_NATIVE);
	const kvh_group_desc desc = layout.groups[0].desc();
	Memory mem(layout.allocs, 0, 1);
	Plan plan = plan_make(layout, layout.groups[0], mem.allocs());
	uint64_t off = 0;

	ASSERT_NE(plan, nullptr);
	EXPECT_EQ(plan->n_planes, 8u);
	EXPECT_EQ(plan->n_pages, 7u);
	EXPECT_EQ(plan->pages_per_chunk, 2u);
	EXPECT_EQ(plan->bytes, sizeof(kvh_plan) + 8 * sizeof(kvh_plan_plane));
	EXPECT_EQ(plan->max_unit_bytes, 384u);
	for (uint32_t i = 0; i < 8; i++) {
		EXPECT_EQ(plan->planes[i].payload_off, off);
		EXPECT_EQ(plan->planes[i].unit_bytes, i % 2 ? 48u : 384u);
		off += 2 * plan->planes[i].unit_bytes;
	}
	EXPECT_EQ(plan->payload_bytes, off);
	EXPECT_EQ(kvh_group_payload_bytes(&desc, layout.chunk_tokens),
		  static_cast<int64_t>(off));
}

TEST(Layout, LayersAreFound)
{
	Layout layout = dense("x", "pthd", Sizes{}, KVH_FORMAT_NATIVE);

	layout.groups[0].shapes[0].layer = 3; /* 3, 7, 7, UINT32_MAX */
	layout.groups[0].shapes[1].layer = 7;
	layout.groups[0].shapes[2].layer = 7;
	layout.groups[0].shapes[3].layer = UINT32_MAX;
	Memory mem(layout.allocs, 0, 1);
	Plan plan = plan_make(layout, layout.groups[0], mem.allocs());

	ASSERT_NE(plan, nullptr);
	const struct {
		uint64_t layer_end;
		uint32_t planes;
	} want[] = {{0, 0},
		    {3, 0},
		    {4, 1},
		    {7, 1},
		    {8, 3},
		    {UINT32_MAX, 3},
		    {uint64_t{UINT32_MAX} + 1, 4},
		    {UINT64_MAX, 4}};

	for (const auto &w : want)
		EXPECT_EQ(kvh_plan_planes_below(plan.get(), w.layer_end), w.planes)
			<< w.layer_end;
}

TEST(Layout, StateGroupsHaveOnePageAChunk)
{
	const Layout layout = hybrid_state(Sizes{}, KVH_FORMAT_NATIVE);
	const kvh_group_desc state = layout.groups[1].desc();

	EXPECT_EQ(kvh_group_pages_per_chunk(&state, layout.chunk_tokens), 1);
	EXPECT_EQ(kvh_group_check(&state, 1, layout.chunk_tokens), 0);
	EXPECT_EQ(kvh_group_payload_bytes(&state, layout.chunk_tokens),
		  2 * (768 / 8 + 1 + 768 / 2 + 3));
}

TEST(Layout, ShapesThatHaveNoSize)
{
	kvh_plane_shape s{KVH_PLANE_TOKENS, 0, 8, 256, 0, 0, 0};

	EXPECT_EQ(kvh_shape_unit_bytes(&s, 16), 16 * 8 * 256);
	EXPECT_EQ(kvh_shape_unit_bytes(&s, 0), -EINVAL);
	s.page_bytes = 1;
	EXPECT_EQ(kvh_shape_unit_bytes(&s, 16), -EINVAL);
	s.page_bytes = 0;
	s.heads = s.head_bytes = UINT32_MAX;
	EXPECT_EQ(kvh_shape_unit_bytes(&s, UINT32_MAX), -EINVAL);
	s = {KVH_PLANE_OPAQUE, 0, 0, 0, 0, 0, KVH_UNIT_MAX};
	EXPECT_EQ(kvh_shape_unit_bytes(&s, 0), static_cast<int64_t>(KVH_UNIT_MAX));
	s.page_bytes++;
	EXPECT_EQ(kvh_shape_unit_bytes(&s, 0), -EINVAL);
	s.page_bytes = 0;
	EXPECT_EQ(kvh_shape_unit_bytes(&s, 0), -EINVAL);
	s.kind = 2;
	s.page_bytes = 1;
	EXPECT_EQ(kvh_shape_unit_bytes(&s, 0), -EINVAL);
}

/* ---- bad groups -------------------------------------------------------- */

struct BadGroup {
	std::function<void(Group &, uint32_t &)> spoil;
	std::vector<std::string> words;
};

TEST(Layout, BadGroupsAreRefusedWithTheirValue)
{
	const std::vector<BadGroup> bad = {
		{[](Group &g, uint32_t &) { g.fields.kind = 3; }, {"kind 3"}},
		{[](Group &g, uint32_t &) { g.fields.format = 2; }, {"format 2"}},
		{[](Group &g, uint32_t &) { g.fields.replicated = 2; }, {"replicated is 2"}},
		{[](Group &g, uint32_t &) { g.fields.kind = KVH_GROUP_WINDOW; },
		 {"window_tokens is 0"}},
		{[](Group &g, uint32_t &) { g.fields.window_tokens = 5; },
		 {"window_tokens is 5"}},
		{[](Group &g, uint32_t &) { g.fields.page_tokens = 3; },
		 {"page_tokens 3", "chunk_tokens 8"}},
		{[](Group &g, uint32_t &) { g.fields.page_tokens = 0; }, {"page_tokens 0"}},
		{[](Group &g, uint32_t &) { g.fields.page_tokens = 16; }, {"page_tokens 16"}},
		{[](Group &, uint32_t &chunk) { chunk = 0; }, {"chunk_tokens is 0"}},
		{[](Group &g, uint32_t &) { g.shapes.clear(); }, {"n_planes is 0"}},
		{[](Group &g, uint32_t &) { g.shapes.resize(KVH_PLANES_MAX + 1, g.shapes[0]); },
		 {"n_planes is 4097"}},
		{[](Group &g, uint32_t &) { g.shapes[2].kind = 7; }, {"plane 2", "kind 7"}},
		{[](Group &g, uint32_t &) { g.shapes[1].reserved = 9; },
		 {"plane 1", "reserved is 9"}},
		{[](Group &g, uint32_t &) { g.shapes[1].layer = 5; },
		 {"plane 2", "layer 1", "layer 5"}},
		{[](Group &g, uint32_t &) { g.shapes[3].heads = 0; },
		 {"plane 3", "heads is 0"}},
		{[](Group &g, uint32_t &) { g.shapes[3].head_bytes = 0; },
		 {"plane 3", "head_bytes is 0"}},
		{[](Group &g, uint32_t &) { g.shapes[0].page_bytes = 4; },
		 {"plane 0", "page_bytes is 4"}},
		{[](Group &g, uint32_t &) { g.shapes[0].order = 2; }, {"plane 0", "order 2"}},
		{[](Group &g, uint32_t &) { g.shapes[0].kind = KVH_PLANE_OPAQUE; },
		 {"plane 0", "page_bytes is 0"}},
		{[](Group &g, uint32_t &) { g.shapes[0].heads = UINT32_MAX; },
		 {"plane 0", "4294967295 heads", "1 GiB"}},
		{[](Group &g, uint32_t &) {
			 g.fields.kind = KVH_GROUP_STATE;
			 g.fields.page_tokens = 0;
		 },
		 {"plane 0", "page_tokens is 0"}},
	};
	const Layout good = dense("x", "pthd", Sizes{}, KVH_FORMAT_NATIVE);

	for (size_t i = 0; i < bad.size(); i++) {
		SCOPED_TRACE(i);
		Layout layout = good;
		Lines lines;

		bad[i].spoil(layout.groups[0], layout.chunk_tokens);
		kvh_group_desc desc = layout.groups[0].desc();
		EXPECT_EQ(kvh_group_check(&desc, 5, layout.chunk_tokens), -EINVAL);
		auto words = bad[i].words;

		words.push_back("group 5: ");
		lines.expect(words);
		Memory mem(layout.allocs, 0, 1);
		EXPECT_EQ(plan_make(layout, layout.groups[0], mem.allocs()), nullptr);
		lines.expect(bad[i].words);
	}
}

TEST(Layout, GroupsWithoutPlanesArray)
{
	kvh_group_desc desc = dense("x", "pthd", Sizes{}, KVH_FORMAT_NATIVE).groups[0].desc();
	Lines lines;

	desc.planes = nullptr;
	EXPECT_EQ(kvh_group_check(&desc, 0, 8), -EINVAL);
	lines.expect({"planes is NULL"});
}

TEST(Layout, PortableGroupsIgnoreTheOrder)
{
	Layout layout = dense("x", "phtd", Sizes{}, KVH_FORMAT_PORTABLE);
	Memory mem(layout.allocs, 0, 1);

	for (uint32_t order : {0u, 1u, 77u}) {
		for (auto &shape : layout.groups[0].shapes)
			shape.order = order;
		EXPECT_NE(plan_make(layout, layout.groups[0], mem.allocs()), nullptr);
	}
}

/* A payload of more than 63 bits, though each page is small enough. */
TEST(Layout, PayloadsBeyondAllBounds)
{
	Group g;
	Lines lines;

	g.fields.page_tokens = 1;
	for (int i = 0; i < 3; i++)
		add_opaque(g, 0, KVH_UNIT_MAX, 0, 0, 0);
	const kvh_group_desc desc = g.desc();

	EXPECT_EQ(kvh_group_check(&desc, 0, 1u << 31), 0);
	EXPECT_EQ(kvh_group_check(&desc, 0, UINT32_MAX), -EINVAL);
	lines.expect({"4294967295 tokens"});
	EXPECT_EQ(kvh_group_payload_bytes(&desc, UINT32_MAX), -EINVAL);
}

/* ---- bad planes -------------------------------------------------------- */

struct BadPlane {
	std::function<void(Layout &, std::vector<kvh_alloc> &)> spoil;
	std::vector<std::string> words;
};

kvh_plane &plane(Layout &layout, size_t i)
{
	return layout.groups[0].planes[i];
}

const std::vector<BadPlane> kBadPlanes = {
	{[](Layout &l, auto &) { plane(l, 1).alloc = 4; }, {"plane 13", "alloc is 4 of 4"}},
	{[](Layout &l, auto &) { plane(l, 1).alloc = UINT32_MAX; }, {"alloc is 4294967295"}},
	{[](Layout &l, auto &) { plane(l, 2).reserved = 1; }, {"plane 14", "reserved is 1"}},
	{[](Layout &l, auto &) { plane(l, 2).offset = 1; },
	 {"plane 14", "page 6 ends at 2689", "2688 bytes"}},
	{[](Layout &l, auto &) { l.groups[0].n_pages = 8; },
	 {"plane 12", "page 7 ends at 3072", "2688 bytes"}},
	{[](Layout &l, auto &) { l.groups[0].n_pages = 0; }, {"plane 12", "0 pages"}},
	{[](Layout &l, auto &) { plane(l, 0).offset = UINT64_MAX; },
	 {"plane 12", "offset 18446744073709551615"}},
	{[](Layout &l, auto &) { plane(l, 0).page_stride = UINT64_MAX; },
	 {"plane 12", "page_stride 18446744073709551615"}},
	{[](Layout &l, auto &) { plane(l, 0).page_stride = UINT64_MAX / 6; },
	 {"plane 12", "63 bits"}},
	{[](Layout &l, auto &) { plane(l, 0).token_stride = UINT64_MAX / 3 + 1; },
	 {"plane 12", "token_stride 6148914691236517206"}},
	{[](Layout &l, auto &) { plane(l, 0).page_stride = 383; },
	 {"plane 12", "page_stride 383", "384 bytes"}},
	{[](Layout &l, auto &) { plane(l, 0).page_stride = 0; }, {"plane 12", "page_stride 0"}},
	{[](Layout &l, auto &) { plane(l, 0).token_stride = 95; },
	 {"plane 12", "token_stride 95", "96 bytes"}},
	{[](Layout &l, auto &) { plane(l, 0).head_stride = 31; },
	 {"plane 12", "head_stride 31", "32 bytes"}},
	{[](Layout &l, auto &) { plane(l, 0).head_stride = 0; }, {"plane 12", "head_stride 0"}},
	{[](Layout &l, auto &) { plane(l, 0).head_stride = 97; },
	 {"plane 12", "NHD", "token_stride 96", "head_stride 97"}},
	{[](Layout &l, auto &) { l.groups[0].shapes[1].order = KVH_ORDER_HND; },
	 {"plane 13", "HND", "head_stride 32", "token_stride 96"}},
	{[](Layout &l, auto &) { plane(l, 3) = plane(l, 1); },
	 {"plane 13", "plane 15", "overlaps"}},
	{[](Layout &, auto &a) { a[1].base = nullptr; }, {"plane 13", "allocation 1", "NULL"}},
	{[](Layout &, auto &a) { a[1].bytes = UINT64_MAX; },
	 {"plane 13", "allocation 1", "18446744073709551615"}},
	{[](Layout &, auto &a) { a[1].bytes = 0; }, {"plane 13", "allocation 1 has 0 bytes"}},
	{[](Layout &, auto &a) { a.clear(); }, {"plane 12", "alloc is 0 of 0"}},
	{[](Layout &l, auto &) {
		 auto &g = l.groups[0];
		 g.shapes[0] = {KVH_PLANE_OPAQUE, 0, 0, 0, 0, 0, 384};
	 },
	 {"plane 12", "token_stride is 96", "opaque"}},
	{[](Layout &l, auto &) {
		 auto &g = l.groups[0];
		 g.shapes[0] = {KVH_PLANE_OPAQUE, 0, 0, 0, 0, 0, 384};
		 plane(l, 0).token_stride = 0;
	 },
	 {"plane 12", "head_stride is 32", "opaque"}},
};

TEST(Layout, BadPlanesAreRefusedWithTheirValue)
{
	const Layout good = dense("x", "pthd", Sizes{}, KVH_FORMAT_NATIVE);
	Memory mem(good.allocs, 0, 1);

	for (size_t i = 0; i < kBadPlanes.size(); i++) {
		SCOPED_TRACE(i);
		Layout layout = good;
		std::vector<kvh_alloc> allocs = mem.allocs();
		kvh_plan *plan = nullptr;
		Lines lines;

		kBadPlanes[i].spoil(layout, allocs);
		const kvh_group_desc desc = layout.groups[0].desc();

		EXPECT_EQ(kvh_plan_make(&desc, layout.chunk_tokens, allocs.data(),
					static_cast<uint32_t>(allocs.size()),
					layout.groups[0].planes.data(), 12,
					layout.groups[0].n_pages, &plan),
			  -EINVAL);
		EXPECT_EQ(plan, nullptr) << "written on failure";
		lines.expect(kBadPlanes[i].words);
	}
}

} // namespace
