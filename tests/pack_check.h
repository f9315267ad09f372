/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_check.h - runs a gather and a scatter over one group of a layout, in
 * random cuts, and compares every byte of pool, stage and guards with the
 * element-by-element definition in layouts.h. For the twin and for anything that
 * claims to do the same.
 */
#ifndef KVH_TESTS_PACK_CHECK_H
#define KVH_TESTS_PACK_CHECK_H

#include "cuda/pack.h"
#include "tests/layouts.h"

#include <algorithm>
#include <functional>
#include <gtest/gtest.h>

namespace layouts
{

using Move = std::function<int(const kvh_pack *)>;

/* Chunks to move, a band of planes, a page for each place. */
struct Job {
	uint32_t first = 0, end = 0; /* planes */
	uint32_t n_chunks = 0, per_chunk = 0;
	std::vector<uint32_t> pages; /* some of them KVH_PAGE_NONE */
};

/* Distinct pages in random order, some left out. */
inline Job job_make(const Layout &layout, const Group &g, Rng &rng)
{
	const auto n_planes = static_cast<uint32_t>(g.planes.size());
	std::vector<uint32_t> free(g.n_pages);
	Job job;

	for (uint32_t i = 0; i < g.n_pages; i++)
		free[i] = i;
	std::shuffle(free.begin(), free.end(), rng);
	job.per_chunk = pages_of_chunk(g, layout.chunk_tokens);
	job.n_chunks = static_cast<uint32_t>(1 + below(rng, 3));
	for (uint32_t i = 0; i < job.n_chunks * job.per_chunk; i++) {
		const bool none = free.empty() || below(rng, 8) == 0;

		job.pages.push_back(none ? KVH_PAGE_NONE : free.back());
		if (!none)
			free.pop_back();
	}
	job.first = static_cast<uint32_t>(below(rng, 2) ? 0 : below(rng, n_planes));
	job.end = job.first + 1 + static_cast<uint32_t>(below(rng, n_planes - job.first));
	if (below(rng, 2))
		job.end = n_planes;
	return job;
}

/* The band's sequence: fn(position, plane, page of the pool, element). */
template <typename Fn>
void each_place(const Layout &layout, const Group &g, const Job &job, Fn fn)
{
	uint64_t band = 0;

	for (uint32_t i = job.first; i < job.end; i++)
		band += job.per_chunk * unit_of(g, i);
	for (uint32_t c = 0; c < job.n_chunks; c++) {
		for (uint32_t i = job.first; i < job.end; i++) {
			for (uint32_t p = 0; p < job.per_chunk; p++) {
				const uint32_t page = job.pages[c * job.per_chunk + p];

				each_byte(g, i, p, [&](const Element &e) {
					fn(c * band + position(g, layout.chunk_tokens,
							       job.first, i, e),
					   i, page, e);
				});
			}
		}
	}
}

/* A stage with guards; 16-byte aligned, as a stage is. */
class Stage
{
      public:
	Stage(uint64_t bytes, unsigned char fill)
	    : block_(bytes + 2 * GUARD + 16, fill), bytes_(bytes), fill_(fill)
	{
		const auto a = reinterpret_cast<uintptr_t>(block_.data()) + GUARD;

		data_ = reinterpret_cast<unsigned char *>((a + 15) & ~uintptr_t{15});
	}
	unsigned char *data()
	{
		return data_;
	}
	bool guards_intact() const
	{
		const auto same = [this](unsigned char b) { return b == fill_; };
		const unsigned char *end = block_.data() + block_.size();

		return std::all_of(block_.data(), static_cast<const unsigned char *>(data_),
				   same) &&
		       std::all_of(static_cast<const unsigned char *>(data_) + bytes_, end,
				   same);
	}

      private:
	static constexpr uint64_t GUARD = 64;

	Bytes block_;
	uint64_t bytes_;
	unsigned char fill_;
	unsigned char *data_;
};

/* Calls fn(pack, stage, from, to) for consecutive random cuts of the job; a
 * stage is what fits between two cuts. */
template <typename Fn>
void each_cut(const kvh_plan *plan, const Job &job, Rng &rng, unsigned char fill, Fn fn)
{
	const uint64_t n = uint64_t{job.end - job.first} * job.per_chunk * job.n_chunks;
	uint64_t next;

	for (uint64_t unit = 0; unit < n; unit = next) {
		kvh_pack pack{};

		next = unit + 1 + (below(rng, 3) ? below(rng, n - unit) : 0);
		const uint64_t from = kvh_pack_position(plan, job.first, job.end, unit);
		const uint64_t to = kvh_pack_position(plan, job.first, job.end, next);
		Stage stage(to - from, fill);

		pack.plan = plan;
		pack.pages = job.pages.data();
		pack.stage = stage.data();
		pack.plane_first = job.first;
		pack.plane_end = job.end;
		pack.unit_first = unit;
		pack.n_units = next - unit;
		kvh_pack_prepare(&pack, plan);
		fn(pack, stage, from, to);
	}
}

/* Pages to stages: the pool is read only, a stage has what the definition says,
 * and nothing where a page is left out. */
inline void check_gather(const Layout &layout, const Group &g, Memory &mem, const Job &job,
			 Rng &rng, const Move &gather)
{
	const unsigned char fill = 0xA5;
	const auto before = mem.all();
	Plan plan = plan_make(layout, g, mem.allocs());
	Bytes want;

	ASSERT_NE(plan, nullptr);
	each_place(layout, g, job,
		   [&](uint64_t pos, uint32_t i, uint32_t page, const Element &e) {
			   if (want.size() <= pos)
				   want.resize(pos + 1, fill);
			   if (page != KVH_PAGE_NONE)
				   want[pos] = *mem.at(g.planes[i], page, e);
		   });
	each_cut(plan.get(), job, rng, fill,
		 [&](const kvh_pack &pack, Stage &stage, uint64_t from, uint64_t to) {
			 ASSERT_EQ(gather(&pack), 0);
			 ASSERT_LE(to, want.size());
			 ASSERT_EQ(memcmp(stage.data(), &want[from], to - from), 0)
				 << "units " << pack.unit_first << " + " << pack.n_units;
			 ASSERT_TRUE(stage.guards_intact());
		 });
	ASSERT_TRUE(before == mem.all()) << "gather wrote to the pool";
}

/* Stages to pages: the pool changes where the definition says and nowhere else. */
inline void check_scatter(const Layout &layout, const Group &g, Memory &mem, const Job &job,
			  Rng &rng, const Move &scatter)
{
	auto want = mem.all();
	Plan plan = plan_make(layout, g, mem.allocs());
	Bytes payload;

	ASSERT_NE(plan, nullptr);
	each_place(layout, g, job,
		   [&](uint64_t pos, uint32_t i, uint32_t page, const Element &e) {
			   if (payload.size() <= pos)
				   payload.resize(pos + 1);
			   payload[pos] = static_cast<unsigned char>(rng());
			   if (page != KVH_PAGE_NONE)
				   mem.in(want, g.planes[i], page, e) = payload[pos];
		   });
	each_cut(plan.get(), job, rng, 0x5A,
		 [&](const kvh_pack &pack, Stage &stage, uint64_t from, uint64_t to) {
			 memcpy(stage.data(), &payload[from], to - from);
			 ASSERT_EQ(scatter(&pack), 0);
			 ASSERT_EQ(memcmp(stage.data(), &payload[from], to - from), 0)
				 << "scatter wrote to the stage";
			 ASSERT_TRUE(stage.guards_intact());
		 });
	ASSERT_TRUE(want == mem.all());
}

/* Both, for every group, `shift` bytes off alignment. */
inline void check_layout(const Layout &layout, uint64_t shift, uint64_t seed,
			 const Move &gather, const Move &scatter)
{
	Rng rng(seed);
	Memory mem(layout.allocs, shift, rng());

	for (const Group &g : layout.groups) {
		SCOPED_TRACE(layout.name + " shift " + std::to_string(shift) + " seed " +
			     std::to_string(seed));
		check_gather(layout, g, mem, job_make(layout, g, rng), rng, gather);
		if (testing::Test::HasFatalFailure())
			return;
		check_scatter(layout, g, mem, job_make(layout, g, rng), rng, scatter);
		if (testing::Test::HasFatalFailure())
			return;
	}
}

/* ---- random layouts ---------------------------------------------------- */

/* Lays `axes` (of 'p', 't', 'h', the fastest first) with random gaps over a run;
 * returns the bytes from first to last. */
inline uint64_t lay_out(kvh_plane &p, const std::string &axes, uint64_t run,
			const std::map<char, uint64_t> &n, uint64_t max_gap, Rng &rng)
{
	uint64_t extent = run;

	for (char axis : axes) {
		const uint64_t stride = extent + (below(rng, 2) ? below(rng, max_gap + 1) : 0);

		(axis == 'p'   ? p.page_stride
		 : axis == 't' ? p.token_stride
			       : p.head_stride) = stride;
		extent += (n.at(axis) - 1) * stride;
	}
	return extent;
}

inline void random_shape(kvh_plane_shape &s, uint32_t layer, Rng &rng)
{
	s = {};
	s.layer = layer;
	s.kind = below(rng, 5) ? KVH_PLANE_TOKENS : KVH_PLANE_OPAQUE;
	if (s.kind == KVH_PLANE_OPAQUE) {
		s.page_bytes = 1 + below(rng, 100);
		return;
	}
	s.heads = static_cast<uint32_t>(1 + below(rng, 4));
	s.head_bytes = static_cast<uint32_t>(below(rng, 2) ? 16u << below(rng, 3)
							   : 1 + below(rng, 40));
}

/* Planes that share a page stride, their pages one behind the other; or each in
 * an allocation of its own, its axes in any order. */
inline void random_planes(Layout &layout, Group &g, Rng &rng)
{
	const bool together = below(rng, 2);
	const uint64_t gap = below(rng, 2) ? 16 : 7;
	uint64_t page = 0;

	for (size_t i = 0; i < g.shapes.size(); i++) {
		kvh_plane_shape &s = g.shapes[i];
		const bool tokens = s.kind == KVH_PLANE_TOKENS;
		const std::map<char, uint64_t> n = {
			{'p', g.n_pages}, {'t', tokens_of(g, i)}, {'h', heads_of(g, i)}};
		std::string axes = tokens ? "th" : "";
		kvh_plane p{};

		if (!together)
			axes += 'p';
		std::shuffle(axes.begin(), axes.end(), rng);
		p.offset = page;
		const uint64_t extent = lay_out(p, axes, bytes_of(g, i), n, gap, rng);

		s.order = tokens && axes.find('h') < axes.find('t') ? KVH_ORDER_NHD
								    : KVH_ORDER_HND;
		if (!tokens)
			s.order = 0;
		if (together) {
			page += extent + below(rng, gap);
		} else {
			p.offset = below(rng, 20);
			p.alloc = static_cast<uint32_t>(layout.allocs.size());
			layout.allocs.push_back(p.offset + extent);
		}
		g.planes.push_back(p);
	}
	if (together) {
		for (auto &p : g.planes)
			p.page_stride = page;
		layout.allocs.push_back(g.n_pages * page);
	}
}

inline Layout random_layout(uint64_t seed)
{
	Rng rng(seed);
	Sizes s;
	uint32_t layer = 0;

	s.T = static_cast<uint32_t>(1 + below(rng, 5));
	s.P = static_cast<uint32_t>(1 + below(rng, 3));
	s.NB = static_cast<uint32_t>(1 + below(rng, 8));
	const uint32_t kind = below(rng, 5) ? KVH_GROUP_FULL : KVH_GROUP_STATE;
	const uint32_t format = below(rng, 2) ? KVH_FORMAT_NATIVE : KVH_FORMAT_PORTABLE;
	Layout layout{"random", s.T * s.P, {}, {group_of(s, kind, format)}};

	layout.groups[0].shapes.resize(1 + below(rng, 5));
	for (auto &shape : layout.groups[0].shapes)
		random_shape(shape, layer += static_cast<uint32_t>(below(rng, 3)), rng);
	random_planes(layout, layout.groups[0], rng);
	return layout;
}

} // namespace layouts

#endif
