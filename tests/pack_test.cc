/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_test.cc - gather and scatter in plain C against the definition, element
 * by element: every layout, every alignment, random ones, and portable chunks
 * between pools of different order.
 */
#include "tests/pack_check.h"

#include <cerrno>

using namespace layouts;

namespace
{

const Sizes kAligned{};
const Sizes kOdd{3, 5, 3, 2, 5, 2};
const Sizes kLarge{1, 5, 16, 4, 256, 1};

class PackLayouts : public testing::TestWithParam<Layout>
{
};

TEST_P(PackLayouts, MatchDefinition)
{
	for (uint64_t shift : {0, 1, 2, 4, 8, 16, 37})
		for (uint64_t seed = 0; seed < 4; seed++) {
			check_layout(GetParam(), shift, seed, kvh_gather_ref, kvh_scatter_ref);
			if (HasFatalFailure())
				return;
		}
}

std::string name_of(const testing::TestParamInfo<Layout> &info)
{
	return info.param.name;
}

#define ALL_LAYOUTS(name, sizes)                                                             \
	INSTANTIATE_TEST_SUITE_P(name##Native, PackLayouts,                                  \
				 testing::ValuesIn(all_layouts(sizes, KVH_FORMAT_NATIVE)),   \
				 name_of);                                                   \
	INSTANTIATE_TEST_SUITE_P(name##Portable, PackLayouts,                                \
				 testing::ValuesIn(all_layouts(sizes, KVH_FORMAT_PORTABLE)), \
				 name_of)

ALL_LAYOUTS(Aligned, kAligned);
ALL_LAYOUTS(Odd, kOdd);
ALL_LAYOUTS(Large, kLarge);

TEST(Pack, RandomLayouts)
{
	const uint64_t cases = property_cases(20000);

	for (uint64_t seed = 0; seed < cases; seed++) {
		check_layout(random_layout(seed), seed % 17, seed, kvh_gather_ref,
			     kvh_scatter_ref);
		ASSERT_FALSE(HasFailure()) << "seed " << seed;
	}
}

/* One chunk of payload out of the pool's pages 0.. or into them. */
void move_chunk(const Layout &layout, const Memory &mem, Bytes &payload, const Move &move)
{
	const Group &g = layout.groups[0];
	Plan plan = plan_make(layout, g, mem.allocs());
	std::vector<uint32_t> pages(pages_of_chunk(g, layout.chunk_tokens));
	Stage stage(payload.size(), 0);
	kvh_pack pack{};

	ASSERT_NE(plan, nullptr);
	ASSERT_EQ(plan->payload_bytes, payload.size());
	for (uint32_t i = 0; i < pages.size(); i++)
		pages[i] = g.n_pages - 1 - i; /* not as they lie */
	memcpy(stage.data(), payload.data(), payload.size());
	pack.plan = plan.get();
	pack.pages = pages.data();
	pack.stage = stage.data();
	pack.plane_end = plan->n_planes;
	pack.n_units = uint64_t{plan->n_planes} * pages.size();
	kvh_pack_prepare(&pack, plan.get());
	ASSERT_EQ(move(&pack), 0);
	memcpy(payload.data(), stage.data(), payload.size());
}

/* Byte d of (token, head) of a plane, wherever the layout has it. */
unsigned char kv_byte(const Layout &layout, const Memory &mem, size_t plane, uint32_t token,
		      uint32_t head, uint64_t d)
{
	const Group &g = layout.groups[0];
	const uint32_t T = g.fields.page_tokens;

	return *mem.at(g.planes[plane], g.n_pages - 1 - token / T, {0, token % T, head, d});
}

TEST(Pack, PortableChunksLoadIntoAnyPool)
{
	const Sizes s = kAligned;
	const auto kv = kv_layouts(s, KVH_FORMAT_PORTABLE);

	for (const Layout &from : kv) {
		for (const Layout &to : kv) {
			SCOPED_TRACE(from.name + " to " + to.name);
			Memory a(from.allocs, 3, 1), b(to.allocs, 8, 2);
			Bytes payload(uint64_t{s.L} * 2 * s.T * s.P * s.H * s.D);

			move_chunk(from, a, payload, kvh_gather_ref);
			move_chunk(to, b, payload, kvh_scatter_ref);
			if (HasFatalFailure())
				return;
			for (size_t i = 0; i < 2 * s.L; i++)
				for (uint32_t t = 0; t < s.T * s.P; t++)
					for (uint32_t h = 0; h < s.H; h++)
						for (uint32_t d = 0; d < s.D; d++)
							ASSERT_EQ(kv_byte(from, a, i, t, h, d),
								  kv_byte(to, b, i, t, h, d));
		}
	}
}

/* The control: native payloads of an HND pool are not what an NHD pool loads. */
TEST(Pack, NativeChunksKeepTheirOrder)
{
	const Sizes s = kAligned;
	const Layout from = dense("hnd", "phtd", s, KVH_FORMAT_NATIVE);
	const Layout to = dense("nhd", "pthd", s, KVH_FORMAT_NATIVE);
	Memory a(from.allocs, 0, 1), b(to.allocs, 0, 2);
	Bytes payload(uint64_t{s.L} * 2 * s.T * s.P * s.H * s.D);

	move_chunk(from, a, payload, kvh_gather_ref);
	move_chunk(to, b, payload, kvh_scatter_ref);
	EXPECT_NE(memcmp(a.allocs()[0].base, b.allocs()[0].base, a.allocs()[0].bytes), 0);
	EXPECT_NE(kv_byte(from, a, 0, 1, 0, 0), kv_byte(to, b, 0, 1, 0, 0));
}

class PackBadInput : public testing::Test
{
      protected:
	PackBadInput()
	    : layout_(dense("x", "pthd", kAligned, KVH_FORMAT_NATIVE)),
	      mem_(layout_.allocs, 0, 1),
	      plan_(plan_make(layout_, layout_.groups[0], mem_.allocs())), stage_(4096, 0)
	{
		pack_.plan = plan_.get();
		pack_.pages = pages_;
		pack_.stage = stage_.data();
		pack_.plane_end = 2;
		pack_.n_units = 4;
		kvh_pack_prepare(&pack_, plan_.get());
	}
	void refused(const kvh_pack &pack)
	{
		const auto before = mem_.all();

		EXPECT_EQ(kvh_gather_ref(&pack), -EINVAL);
		EXPECT_EQ(kvh_scatter_ref(&pack), -EINVAL);
		EXPECT_TRUE(before == mem_.all());
	}

	Layout layout_;
	Memory mem_;
	Plan plan_;
	Stage stage_;
	uint32_t pages_[2] = {0, 1};
	kvh_pack pack_{};
};

TEST_F(PackBadInput, IsRefusedUntouched)
{
	ASSERT_EQ(kvh_gather_ref(&pack_), 0);
	const std::vector<std::function<void(kvh_pack &)>> spoil = {
		[](kvh_pack &p) { p.plan = nullptr; },
		[](kvh_pack &p) { p.pages = nullptr; },
		[](kvh_pack &p) { p.stage = nullptr; },
		[](kvh_pack &p) { p.stage += 8; },
		[](kvh_pack &p) { p.plane_end = p.plane_first; },
		[](kvh_pack &p) { p.plane_end = 5; },
		[](kvh_pack &p) { p.pages_per_chunk = 0; },
		[](kvh_pack &p) { p.pages_per_chunk = 3; },
		[](kvh_pack &p) { p.width = 0; },
		[](kvh_pack &p) { p.width = 3; },
		[](kvh_pack &p) { p.width = 32; },
		[](kvh_pack &p) { p.widest = 0; },
		[](kvh_pack &p) { p.widest = 12; },
		[](kvh_pack &p) { p.widest = 32; },
		[](kvh_pack &p) { p.widest = 8; },
		[](kvh_pack &p) { p.max_unit_bytes = 0; },
		[](kvh_pack &p) { p.max_unit_bytes -= 16; },
		[](kvh_pack &p) { p.max_unit_bytes += 1; },
		[](kvh_pack &p) { p.band_bytes = 0; },
		[](kvh_pack &p) { p.band_bytes -= 16; },
		[](kvh_pack &p) { p.unit_pos += 16; },
	};

	for (size_t i = 0; i < spoil.size(); i++) {
		SCOPED_TRACE(i);
		kvh_pack pack = pack_;

		spoil[i](pack);
		refused(pack);
	}
}

TEST_F(PackBadInput, NothingToDoIsFine)
{
	pack_.n_units = 0;
	EXPECT_EQ(kvh_gather_ref(&pack_), 0);
	EXPECT_EQ(kvh_scatter_ref(&pack_), 0);
}

TEST_F(PackBadInput, PreparedFieldsFollowFromThePlan)
{
	kvh_pack pack = pack_;

	pack.plane_first = 1;
	pack.plane_end = 3;
	pack.unit_first = 7; /* chunk 1, plane 2, page 1 */
	kvh_pack_prepare(&pack, plan_.get());
	const uint64_t unit = uint64_t{kAligned.T} * kAligned.H * kAligned.D;

	EXPECT_EQ(pack.pages_per_chunk, 2u);
	EXPECT_EQ(pack.width, 16u);
	EXPECT_EQ(pack.max_unit_bytes, unit);
	EXPECT_EQ(pack.band_bytes, 2 * 2 * unit);
	EXPECT_EQ(pack.unit_pos, 7 * unit);
}

} // namespace
