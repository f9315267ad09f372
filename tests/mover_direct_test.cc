/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_direct_test.cc - copies between pages and payloads without a stage: that they
 * are few, that they are the bytes which gather and scatter would have moved and no
 * others, and that no copy is more than a 2-D copy can be. Over a device that only
 * copies, at once, and counts.
 */
#include "cuda/mover_direct.h"
#include "tests/layouts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>

using layouts::below;
using layouts::Bytes;
using layouts::Layout;
using layouts::Rng;

namespace
{

struct Range {
	const unsigned char *base;
	uint64_t bytes;
};

/* Copies, or for plans over no memory only counts. */
struct Counter {
	struct kvh_device base;
	bool dry;
	std::vector<Range> allocs; /* of the pool: a copy lies in one of them */
	uint64_t copies, rows_copies, rows, bytes;
	bool strayed;
};

Counter *of(struct kvh_device *dev)
{
	return reinterpret_cast<Counter *>(dev);
}

/* The pool's side of a copy, `extent` bytes from first to last. */
void check_pool(Counter *c, const void *mem, uint64_t extent)
{
	const auto *at = static_cast<const unsigned char *>(mem);

	c->strayed |= !std::any_of(c->allocs.begin(), c->allocs.end(), [&](const Range &a) {
		return at >= a.base && at + extent <= a.base + a.bytes;
	});
}

int rows(struct kvh_device *dev, enum kvh_copy_kind kind, void *dst, uint64_t dst_pitch,
	 const void *src, uint64_t src_pitch, uint64_t width, uint64_t height)
{
	Counter *c = of(dev);

	c->bytes += width * height;
	if (c->dry)
		return 0;
	check_pool(c, kind == KVH_COPY_D2H ? src : dst,
		   (height - 1) * (kind == KVH_COPY_D2H ? src_pitch : dst_pitch) + width);
	for (uint64_t i = 0; i < height; i++)
		memcpy(static_cast<char *>(dst) + i * dst_pitch,
		       static_cast<const char *>(src) + i * src_pitch, width);
	return 0;
}

int copy_batch(struct kvh_device *dev, enum kvh_copy_kind kind, const struct kvh_copy *c,
	       size_t n, kvh_stream)
{
	for (size_t i = 0; i < n; i++) {
		of(dev)->copies++;
		rows(dev, kind, c[i].dst, 0, c[i].src, 0, c[i].bytes, 1);
	}
	return 0;
}

int copy(struct kvh_device *dev, enum kvh_copy_kind kind, const struct kvh_copy *c,
	 kvh_stream s)
{
	return copy_batch(dev, kind, c, 1, s);
}

int copy_2d(struct kvh_device *dev, enum kvh_copy_kind kind, void *dst, uint64_t dst_pitch,
	    const void *src, uint64_t src_pitch, uint64_t width, uint64_t height, kvh_stream)
{
	of(dev)->rows_copies++;
	of(dev)->rows += height;
	EXPECT_GE(dst_pitch, width);
	EXPECT_GE(src_pitch, width);
	EXPECT_LE(dst_pitch, uint64_t{INT_MAX});
	EXPECT_LE(src_pitch, uint64_t{INT_MAX});
	return rows(dev, kind, dst, dst_pitch, src, src_pitch, width, height);
}

class Device
{
      public:
	explicit Device(bool dry)
	{
		ops.copy = copy;
		ops.copy_batch = copy_batch;
		ops.copy_2d = copy_2d;
		counter.base.ops = &ops;
		counter.dry = dry;
	}
	struct kvh_device_ops ops = {};
	Counter counter = {};
};

/* Chunks of one plan with payloads, and which of their units are moved. */
class Move
{
      public:
	Move(const kvh_plan *plan, Device &device, uint32_t n,
	     const std::vector<uint32_t> &pages)
	    : plan_(plan), device_(device), pages_(pages), payloads_(n)
	{
		mplan_.plan = plan;
		part_.plan = &mplan_;
		part_.n = n;
		part_.payloads = payloads_.data();
		part_.pages = pages_.data();
	}
	/* As far apart as frames. */
	void payloads_at(unsigned char *mem, uint64_t stride)
	{
		for (size_t i = 0; i < payloads_.size(); i++)
			payloads_[i] = mem + i * stride;
	}
	void run(bool load, uint32_t plane_first, uint32_t plane_end, uint64_t first,
		 uint64_t end)
	{
		batch_->kind = load ? KVH_COPY_H2D : KVH_COPY_D2H;
		kvh_band_init(&band_, &part_, plane_first, plane_end);
		end = std::min(end, band_.total);
		ASSERT_EQ(kvh_direct_copy(&band_, first, end, &device_.counter.base,
					  batch_.get()),
			  0);
	}
	/* The unit's plane, page of the pool, and place in its payload. */
	struct Unit {
		const kvh_plan_plane *plane;
		uint32_t page;
		unsigned char *payload;
	};
	Unit unit(uint32_t plane_first, uint32_t plane_end, uint64_t u) const
	{
		const uint64_t P = plan_->pages_per_chunk,
			       units = (plane_end - plane_first) * P;
		const uint64_t chunk = u / units, plane = plane_first + u % units / P;
		const kvh_plan_plane *pp = &plan_->planes[plane];

		return {pp, pages_[chunk * P + u % P],
			static_cast<unsigned char *>(payloads_[chunk]) + pp->payload_off +
				u % P * pp->unit_bytes};
	}

      private:
	const kvh_plan *plan_;
	Device &device_;
	std::vector<uint32_t> pages_;
	std::vector<void *> payloads_;
	kvh_mover_plan mplan_{};
	kvh_move_part part_{};
	kvh_band band_{};
	std::unique_ptr<kvh_batch> batch_ = std::make_unique<kvh_batch>();
};

/* ---- any layout --------------------------------------------------------- */

/* Opaque planes, often of one size and at one stride, in one allocation or more;
 * pages of a plane, or planes of a page, one behind the other, some with gaps. */
Layout random_stacks(Rng &rng)
{
	layouts::Sizes s;

	s.T = 1;
	s.P = uint32_t(1 + below(rng, 6));
	s.NB = uint32_t(4 * s.P + below(rng, 20));
	Layout layout{
		"stacks", s.P, {0}, {layouts::group_of(s, KVH_GROUP_FULL, KVH_FORMAT_NATIVE)}};
	layouts::Group &g = layout.groups[0];
	const bool by_page = below(rng, 3) == 0;
	uint64_t unit = 1 + below(rng, 40), gap = below(rng, 3) ? 0 : below(rng, 9);
	uint32_t layer = 0;

	for (uint64_t i = 1 + below(rng, 9); i-- > 0;) {
		kvh_plane_shape shape{};
		kvh_plane p{};

		if (below(rng, 5) == 0)
			unit = 1 + below(rng, 40);
		if (below(rng, 6) == 0)
			gap = below(rng, 9);
		if (below(rng, 6) == 0)
			layout.allocs.push_back(0);
		layer += uint32_t(below(rng, 2));
		shape.kind = KVH_PLANE_OPAQUE;
		shape.layer = layer;
		shape.page_bytes = unit;
		g.shapes.push_back(shape);
		p.alloc = uint32_t(layout.allocs.size() - 1);
		p.offset = layout.allocs.back();
		p.page_stride = unit + gap;
		layout.allocs.back() += by_page ? unit + gap : p.page_stride * s.NB;
		if (below(rng, 4) == 0)
			layout.allocs.back() += below(rng, 5);
		g.planes.push_back(p);
	}
	for (auto &p : g.planes)
		if (by_page)
			p.page_stride = layout.allocs[p.alloc];
	for (auto &bytes : layout.allocs)
		bytes *= by_page ? s.NB : 1;
	return layout;
}

/* Often the page behind the last one, or at the last step; none twice. */
std::vector<uint32_t> random_pages(uint32_t n, uint32_t n_pages, bool absent, Rng &rng)
{
	std::vector<uint32_t> pages;
	std::vector<bool> taken(n_pages);
	uint32_t at = 0, step = 1;

	while (pages.size() < n) {
		if (below(rng, 4) == 0)
			at = uint32_t(below(rng, n_pages));
		if (below(rng, 6) == 0)
			step = uint32_t(1 + below(rng, 3));
		at = (at + step) % n_pages;
		while (taken[at])
			at = (at + 1) % n_pages;
		taken[at] = true;
		pages.push_back(absent && below(rng, 4) == 0 ? KVH_PAGE_NONE : at);
	}
	return pages;
}

struct Sequence {
	uint32_t plane_first, plane_end;
	uint64_t first, end;
};

/* Unit by unit, through a stage: into the pool, or into a copy of the frames. Returns
 * how many bytes. */
uint64_t move_by_twin(const Move &move, const kvh_plan *plan,
		      const std::vector<uint32_t> &pages, bool load, const Sequence &s,
		      const Bytes &frames, Bytes &copy)
{
	std::vector<uint64_t> stage(plan->max_unit_bytes / 8 + 4);
	uint64_t bytes = 0;
	void *aligned = stage.data();
	size_t room = stage.size() * 8;
	auto *mem = static_cast<unsigned char *>(
		std::align(16, plan->max_unit_bytes, aligned, room));

	for (uint64_t u = s.first; u < s.end; u++) {
		const Move::Unit unit = move.unit(s.plane_first, s.plane_end, u);
		kvh_pack pack{};

		if (unit.page == KVH_PAGE_NONE)
			continue;
		pack.plan = plan;
		pack.pages = pages.data();
		pack.stage = mem;
		pack.plane_first = s.plane_first;
		pack.plane_end = s.plane_end;
		pack.unit_first = u;
		pack.n_units = 1;
		kvh_pack_prepare(&pack, plan);
		if (load)
			memcpy(mem, unit.payload, unit.plane->unit_bytes);
		EXPECT_EQ(load ? kvh_scatter_ref(&pack) : kvh_gather_ref(&pack), 0);
		if (!load)
			memcpy(&copy[size_t(unit.payload - frames.data())], mem,
			       unit.plane->unit_bytes);
		bytes += unit.plane->unit_bytes;
	}
	return bytes;
}

/* Moves a random band of random pages, and the same by the twin of the kernels. */
void check_move(const Layout &layout, const layouts::Group &g, bool load, Rng &rng)
{
	layouts::Memory mem(layout.allocs, 0, rng());
	auto plan = layouts::plan_make(layout, g, mem.allocs());
	Device device(false);

	ASSERT_NE(plan, nullptr);
	for (const kvh_alloc &a : mem.allocs())
		device.counter.allocs.push_back(
			{static_cast<const unsigned char *>(a.base), a.bytes});
	const uint32_t P = plan->pages_per_chunk;
	const uint32_t n = uint32_t(1 + below(rng, std::min<uint32_t>(4, g.n_pages / P)));
	const uint32_t first = uint32_t(below(rng, plan->n_planes));
	const uint32_t last = uint32_t(first + 1 + below(rng, plan->n_planes - first));
	const auto pages = random_pages(n * P, g.n_pages, load, rng);
	const uint64_t stride = plan->payload_bytes + 64 + below(rng, 64);
	Bytes frames(64 + n * stride);
	const uint64_t total = uint64_t{last - first} * P * n;
	const uint64_t from = below(rng, total), to = from + 1 + below(rng, total - from);
	Move move(plan.get(), device, n, pages);

	for (auto &b : frames)
		b = static_cast<unsigned char>(rng());
	move.payloads_at(frames.data() + 32, stride);

	auto pool_was = mem.all();
	Bytes frames_was = frames;
	const uint64_t bytes = move_by_twin(move, plan.get(), pages, load,
					    {first, last, from, to}, frames, frames_was);
	auto pool_want = mem.all();
	mem.all() = pool_was; /* the same blocks: vectors of equal size keep their memory */

	move.run(load, first, last, from, to);
	EXPECT_TRUE(mem.all() == pool_want);
	EXPECT_TRUE(frames == frames_was);
	EXPECT_EQ(device.counter.bytes, bytes);
	EXPECT_FALSE(device.counter.strayed);
}

TEST(Direct, RandomStacksAreWhatTheTwinMoves)
{
	for (uint64_t seed = 1; seed <= layouts::property_cases(1500); seed++) {
		Rng rng(seed);
		const Layout layout = random_stacks(rng);

		SCOPED_TRACE("seed " + std::to_string(seed));
		check_move(layout, layout.groups[0], seed % 2, rng);
		if (HasFailure())
			return;
	}
}

/* Every documented layout whose pages have one run a plane. */
TEST(Direct, DocumentedLayouts)
{
	unsigned can = 0, cannot = 0;

	for (uint64_t seed = 1; seed <= 40; seed++) {
		Rng rng(seed);
		layouts::Sizes s;

		s.NB = 12;
		for (const Layout &layout : layouts::all_layouts(
			     s, seed % 2 ? KVH_FORMAT_NATIVE : KVH_FORMAT_PORTABLE)) {
			SCOPED_TRACE(layout.name + " seed " + std::to_string(seed));
			for (const auto &g : layout.groups) {
				layouts::Memory mem(layout.allocs, 0, 1);
				auto plan = layouts::plan_make(layout, g, mem.allocs());
				struct kvh_direct_shape shape;

				kvh_direct_shape(plan.get(), false, &shape);
				can += shape.can;
				cannot += !shape.can;
				if (shape.can)
					check_move(layout, g, seed / 2 % 2, rng);
				if (HasFailure())
					return;
			}
		}
	}
	EXPECT_GE(can, 40u * 8);
	EXPECT_GE(cannot, 40u);
}

/* ---- how many copies ---------------------------------------------------- */

/* Planes of `unit` bytes a page, `stride` apart, over no memory. */
struct DryPlan {
	DryPlan(uint32_t n_planes, uint64_t unit, uint64_t page_stride, uint64_t stride,
		uint32_t n_pages, uint32_t pages_per_chunk,
		uint32_t planes_an_alloc = UINT32_MAX)
	{
		layouts::Sizes s;

		s.T = 1;
		s.P = pages_per_chunk;
		s.NB = n_pages;
		Layout layout{"dry",
			      s.P,
			      {},
			      {layouts::group_of(s, KVH_GROUP_FULL, KVH_FORMAT_NATIVE)}};
		std::vector<kvh_alloc> allocs;

		for (uint32_t i = 0; i < n_planes; i++) {
			kvh_plane_shape shape{};
			kvh_plane p{};

			shape.kind = KVH_PLANE_OPAQUE;
			shape.page_bytes = unit;
			shape.layer = i / 2;
			p.page_stride = page_stride;
			p.alloc = i / planes_an_alloc;
			p.offset = i % planes_an_alloc * stride;
			layout.groups[0].shapes.push_back(shape);
			layout.groups[0].planes.push_back(p);
			if (i % planes_an_alloc == 0) {
				const uint64_t bytes =
					stride * (std::min(n_planes, planes_an_alloc) - 1) +
					page_stride * n_pages;

				allocs.push_back(
					{reinterpret_cast<void *>(BASE + i * stride), bytes});
			}
		}
		plan = layouts::plan_make(layout, layout.groups[0], allocs);
		EXPECT_NE(plan, nullptr);
	}
	static constexpr uintptr_t BASE = uintptr_t{1} << 40;
	layouts::Plan plan;
};

struct Counts {
	uint64_t copies, rows_copies, rows;
	bool operator==(const Counts &o) const
	{
		return copies == o.copies && rows_copies == o.rows_copies && rows == o.rows;
	}
};

void PrintTo(const Counts &c, std::ostream *os)
{
	*os << c.copies << " copies, " << c.rows_copies << " 2-D copies of " << c.rows
	    << " rows";
}

/* One chunk of these pages, a load of planes [first, end). */
Counts count(const DryPlan &dry, const std::vector<uint32_t> &pages, uint32_t first = 0,
	     uint32_t end = UINT32_MAX)
{
	Device device(true);
	Move move(dry.plan.get(), device, uint32_t(pages.size() / dry.plan->pages_per_chunk),
		  pages);

	end = std::min(end, dry.plan->n_planes);
	move.payloads_at(reinterpret_cast<unsigned char *>(uintptr_t{1} << 50),
			 dry.plan->payload_bytes + 4096);
	move.run(true, first, end, 0, UINT64_MAX);
	return {device.counter.copies, device.counter.rows_copies, device.counter.rows};
}

constexpr uint64_t K16 = 16 << 10;

TEST(DirectCopies, ScatteredPagesAreOneEach)
{
	const DryPlan dry(64, K16, K16, 100 * K16, 100, 4);

	EXPECT_EQ(count(dry, {50, 3, 77, 9}), (Counts{0, 4, 4 * 64}));
	EXPECT_EQ(count(dry, {50, KVH_PAGE_NONE, 77, KVH_PAGE_NONE}), (Counts{0, 2, 2 * 64}));
	EXPECT_EQ(count(dry, {KVH_PAGE_NONE, KVH_PAGE_NONE, KVH_PAGE_NONE, KVH_PAGE_NONE}),
		  (Counts{0, 0, 0}));
}

TEST(DirectCopies, AdjacentPagesAreLongerRows)
{
	const DryPlan dry(64, K16, K16, 100 * K16, 100, 4);

	EXPECT_EQ(count(dry, {50, 51, 52, 53}), (Counts{0, 1, 64}));
	EXPECT_EQ(count(dry, {50, 51, 8, 9}), (Counts{0, 2, 2 * 64}));
	/* Adjacent in the pool, but not in the chunk, or the other way round. */
	EXPECT_EQ(count(dry, {50, KVH_PAGE_NONE, 51, 52}), (Counts{0, 2, 2 * 64}));
	EXPECT_EQ(count(dry, {53, 52, 51, 50}), (Counts{0, 4, 4 * 64}));
	/* With a gap between pages they are no longer row. */
	const DryPlan gaps(64, K16, K16 + 512, 100 * (K16 + 512), 100, 4);
	EXPECT_EQ(count(gaps, {50, 51, 52, 53}), (Counts{0, 4, 4 * 64}));
}

/* Where planes are few, pages at one stride are the rows. */
TEST(DirectCopies, PagesAtOneStrideAreRows)
{
	const DryPlan dry(64, K16, K16, 100 * K16, 100, 8);

	EXPECT_EQ(count(dry, {2, 4, 6, 8, 10, 12, 14, 16}, 0, 2), (Counts{0, 2, 16}));
	EXPECT_EQ(count(dry, {2, 4, 6, 8, 50, 52, 54, 56}, 0, 1), (Counts{0, 2, 8}));
	/* Fewer rows than are worth a call of their own. */
	EXPECT_EQ(count(dry, {9, 4, 60, 8, 50, 2, 54, 16}, 0, 1), (Counts{8, 0, 0}));
	EXPECT_EQ(count(dry, {9, 4, 60, 8, 50, 2, 54, 16}, 0, 2), (Counts{16, 0, 0}));
	const DryPlan gaps(2, K16, 7 * K16, 700 * K16, 100, 8);
	EXPECT_EQ(count(gaps, {2, 3, 4, 5, 6, 7, 8, 9}), (Counts{0, 2, 16}));
}

/* Planes of a page one behind the other: rows without a gap on the pool's side. */
TEST(DirectCopies, PlanesInAPage)
{
	const DryPlan dry(32, K16, 32 * K16, K16, 100, 4);

	EXPECT_EQ(count(dry, {50, 51, 8, 9}), (Counts{0, 4, 4 * 32}));
}

/* CUDA's 2-D copies know pitches up to INT_MAX. */
TEST(DirectCopies, StridesBeyondWhatAPitchMayBe)
{
	const uint64_t n_pages = (uint64_t{1} << 31) / K16;
	const DryPlan below_it(8, K16, K16, (n_pages - 1) * K16, uint32_t(n_pages - 1), 2);
	const DryPlan beyond(8, K16, K16, n_pages * K16, uint32_t(n_pages), 2);

	EXPECT_EQ(count(below_it, {5, 7}), (Counts{0, 2, 16}));
	EXPECT_EQ(count(beyond, {5, 7}), (Counts{16, 0, 0}));
}

/* One copy does not go through several allocations, though they lie at one stride;
 * if they were one, it would. */
TEST(DirectCopies, AllocationsAreApart)
{
	const DryPlan apart(32, K16, K16, 100 * K16, 100, 4, 8);
	const DryPlan one(32, K16, K16, 100 * K16, 100, 4);
	const DryPlan each(32, K16, K16, 100 * K16, 100, 4, 1);

	EXPECT_EQ(count(apart, {50, 3, 77, 9}), (Counts{0, 16, 16 * 8}));
	EXPECT_EQ(count(one, {50, 3, 77, 9}), (Counts{0, 4, 4 * 32}));
	EXPECT_EQ(count(each, {50, 51, 52, 53}), (Counts{32, 0, 0}));
}

/* Rows of 2 MiB and more are as good alone. */
TEST(DirectCopies, LongRowsAreABatch)
{
	const uint64_t row = uint64_t{2} << 20;
	const DryPlan dry(16, row, row, 100 * row, 100, 1);

	EXPECT_EQ(count(dry, {50}), (Counts{16, 0, 0}));
}

/* ---- what is said of them beforehand ------------------------------------ */

TEST(DirectShape, OfStoresAndOfLoadsByLayer)
{
	const DryPlan dry(64, K16, K16, 100 * K16, 100, 4);
	struct kvh_direct_shape shape;

	kvh_direct_shape(dry.plan.get(), false, &shape);
	EXPECT_TRUE(shape.can);
	EXPECT_EQ(shape.row_bytes, K16);
	EXPECT_EQ(shape.rows, 64u);
	EXPECT_EQ(shape.copy_bytes, 64 * K16);
	kvh_direct_shape(dry.plan.get(), true, &shape); /* two planes a layer */
	EXPECT_TRUE(shape.can);
	EXPECT_EQ(shape.rows, 2u);
	EXPECT_EQ(shape.copy_bytes, 2 * K16);
	const DryPlan apart(64, K16, K16, 100 * K16, 100, 4, 16);
	kvh_direct_shape(apart.plan.get(), false, &shape);
	EXPECT_EQ(shape.rows, 16u);
}

} // namespace
