/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model_test.cc - geometries: the bytes that the published configurations give,
 * what scaling leaves, and that pages of a pool neither overlap nor leave it.
 */
#include "bench/model.h"
#include "cuda/layout.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cmath>
#include <string>
#include <vector>

namespace
{

class Geometry
{
      public:
	Geometry(const char *name, double scale)
	{
		const struct kvh_model *model = kvh_model_find(name);

		EXPECT_NE(model, nullptr) << name;
		EXPECT_EQ(kvh_geometry_make(model, scale, &geo), 0);
	}
	~Geometry()
	{
		kvh_geometry_free(&geo);
	}
	Geometry(const Geometry &) = delete;
	Geometry &operator=(const Geometry &) = delete;

	struct kvh_geometry geo;
};

TEST(Model, TokensTakeWhatTheConfigsSay)
{
	const struct {
		const char *name;
		uint64_t token_bytes;
	} expected[] = {
		{"llama-3.1-8b", 2u * 32 * 8 * 128 * 2},
		{"llama-3.1-70b-tp8", 2u * 80 * 1 * 128 * 2},
		{"qwen3-32b", 2u * 64 * 8 * 128 * 2},
		{"deepseek-v3", 61u * (512 + 64) * 2},
		{"gpt-oss-120b", 2u * 36 * 8 * 64 * 2},
	};
	size_t n = 0;

	for (const auto &e : expected) {
		Geometry g(e.name, 1);

		EXPECT_EQ(g.geo.token_bytes, e.token_bytes) << e.name;
		EXPECT_EQ(g.geo.full_token_bytes, e.token_bytes) << e.name;
		n++;
	}
	EXPECT_EQ(kvh_model_at(n), nullptr) << "a model that this test does not know";
	EXPECT_EQ(kvh_model_find("llama-4"), nullptr);
}

TEST(Model, GroupsAndRanks)
{
	Geometry llama("llama-3.1-8b", 1), deepseek("deepseek-v3", 1), oss("gpt-oss-120b", 1);

	EXPECT_EQ(llama.geo.n_groups, 1u);
	EXPECT_EQ(llama.geo.groups[0].n_planes, 64u);
	EXPECT_EQ(kvh_geometry_rank(&llama.geo, 0), 0u);
	EXPECT_EQ(kvh_geometry_chunk_pages(&llama.geo, 0), 32u);

	EXPECT_EQ(deepseek.geo.groups[0].replicated, 1u);
	EXPECT_EQ(kvh_geometry_rank(&deepseek.geo, 0), KVH_RANK_ANY);
	EXPECT_EQ(deepseek.geo.groups[0].n_planes, 61u);
	EXPECT_EQ(kvh_geometry_chunk_pages(&deepseek.geo, 0), 8u);

	ASSERT_EQ(oss.geo.n_groups, 2u);
	EXPECT_EQ(oss.geo.groups[0].kind, uint32_t{KVH_GROUP_FULL});
	EXPECT_EQ(oss.geo.groups[1].kind, uint32_t{KVH_GROUP_WINDOW});
	EXPECT_EQ(oss.geo.groups[1].window_tokens, 128u);
	EXPECT_EQ(oss.geo.groups[1].planes[0].layer, 0u) << "the first layer has a window";
	EXPECT_EQ(oss.geo.groups[0].planes[0].layer, 1u);
	EXPECT_EQ(oss.geo.groups[0].planes[35].layer, 35u);
	EXPECT_EQ(oss.geo.n_allocs, 18u) << "a tensor for each pair of layers";
}

TEST(Model, ScaleOutOfRange)
{
	struct kvh_geometry geo;

	for (double scale : {0.0, -0.5, 1.0001, std::nan(""), double{INFINITY}})
		EXPECT_EQ(kvh_geometry_make(kvh_model_at(0), scale, &geo), -EINVAL) << scale;
}

TEST(Model, ScaleCutsHeadSizeThenHeadsThenLayers)
{
	Geometry half("llama-3.1-8b", 0.5), heads("llama-3.1-8b", 0.03),
		layers("qwen3-32b", 0.001), least("llama-3.1-8b", 0.0001);

	EXPECT_EQ(half.geo.head_bytes, 128u);
	EXPECT_EQ(half.geo.heads, 8u);
	EXPECT_EQ(half.geo.layers, 32u);

	EXPECT_EQ(heads.geo.head_bytes, 16u);
	EXPECT_EQ(heads.geo.heads, 4u);
	EXPECT_EQ(heads.geo.layers, 32u);

	EXPECT_EQ(layers.geo.head_bytes, 16u);
	EXPECT_EQ(layers.geo.heads, 1u);
	EXPECT_EQ(layers.geo.layers, 8u);

	EXPECT_EQ(least.geo.layers, 1u);
	EXPECT_EQ(least.geo.token_bytes, 32u) << "16 bytes of K, 16 of V";
}

class EveryModel : public ::testing::TestWithParam<const struct kvh_model *>
{
};

TEST_P(EveryModel, ScalesToAboutWhatWasAskedFor)
{
	for (double scale : {1.0, 0.7, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0001, 1e-9}) {
		Geometry g(GetParam()->name, scale);
		double target = scale * static_cast<double>(g.geo.full_token_bytes);
		double ratio = static_cast<double>(g.geo.token_bytes) / target;
		uint32_t least = GetParam()->layout == KVH_LAYOUT_LATENT ? 1 : 2;

		least *= 16 * g.geo.n_groups;
		SCOPED_TRACE(scale);
		EXPECT_GE(g.geo.token_bytes, least);
		EXPECT_GT(ratio, 0.6);
		if (g.geo.token_bytes != least) {
			EXPECT_LT(ratio, 1.5);
		}
		for (uint32_t i = 0; i < g.geo.n_planes; i++)
			EXPECT_GE(g.geo.shapes[i].heads * g.geo.shapes[i].head_bytes, 16u);
	}
}

/* The library's own check of a pool, at every scale: what it accepts and what it
 * computes must be what the geometry says. */
TEST_P(EveryModel, MakesPoolsThatTheLibraryAccepts)
{
	for (double scale : {1.0, 0.1, 0.001, 1e-9}) {
		Geometry g(GetParam()->name, scale);
		const uint32_t n_pages = 77;
		std::vector<struct kvh_plane> planes(g.geo.n_planes);
		std::vector<struct kvh_alloc> allocs(g.geo.n_allocs);
		uint32_t first = 0;

		SCOPED_TRACE(scale);
		for (uint32_t i = 0; i < g.geo.n_allocs; i++) {
			allocs[i].base = reinterpret_cast<void *>((i + 1) *
								  (uintptr_t{1} << 36));
			allocs[i].bytes = g.geo.page_bytes * n_pages;
		}
		kvh_geometry_planes(&g.geo, n_pages, planes.data());
		for (uint32_t k = 0; k < g.geo.n_groups; k++) {
			struct kvh_plan *plan = nullptr;

			ASSERT_EQ(kvh_group_check(&g.geo.groups[k], k, KVH_MODEL_CHUNK_TOKENS),
				  0);
			ASSERT_EQ(kvh_plan_make(&g.geo.groups[k], KVH_MODEL_CHUNK_TOKENS,
						allocs.data(), g.geo.n_allocs, &planes[first],
						first, n_pages, &plan),
				  0);
			EXPECT_EQ(plan->payload_bytes, kvh_geometry_chunk_bytes(&g.geo, k));
			EXPECT_EQ(plan->pages_per_chunk, kvh_geometry_chunk_pages(&g.geo, k));
			EXPECT_EQ(plan->width, 16u);
			/* One page more does not fit: the tensors have no slack. */
			struct kvh_plan *none = nullptr;
			EXPECT_EQ(kvh_plan_make(&g.geo.groups[k], KVH_MODEL_CHUNK_TOKENS,
						allocs.data(), g.geo.n_allocs, &planes[first],
						first, n_pages + 1, &none),
				  -EINVAL);
			kvh_plan_free(plan);
			first += g.geo.groups[k].n_planes;
		}
	}
}

TEST_P(EveryModel, DescribesItself)
{
	Geometry full(GetParam()->name, 1), small(GetParam()->name, 0.01);
	char text[256];

	kvh_geometry_describe(&full.geo, text, sizeof(text));
	EXPECT_EQ(std::string(text).find(GetParam()->name), 0u);
	EXPECT_NE(std::string(text).find(std::to_string(full.geo.token_bytes)),
		  std::string::npos)
		<< text;
	EXPECT_EQ(std::string(text).find("asked for"), std::string::npos) << text;
	kvh_geometry_describe(&small.geo, text, sizeof(text));
	EXPECT_NE(std::string(text).find("asked for 0.01"), std::string::npos) << text;
}

TEST_P(EveryModel, L1HoldsWhatItIsSizedFor)
{
	for (double scale : {1.0, 0.05, 0.0001}) {
		Geometry g(GetParam()->name, scale);
		uint64_t frames = 0;

		for (uint32_t k = 0; k < g.geo.n_groups; k++)
			frames += 4096 +
				  (kvh_geometry_chunk_bytes(&g.geo, k) + 4095) / 4096 * 4096;
		for (uint64_t chunks : {uint64_t{1}, uint64_t{1000}, uint64_t{182790}}) {
			EXPECT_GE(kvh_geometry_l1_bytes(&g.geo, chunks), chunks * frames);
			EXPECT_LE(kvh_geometry_l1_bytes(&g.geo, chunks),
				  chunks * frames * 5 / 4 + (uint64_t{2} << 30));
		}
	}
}

std::vector<const struct kvh_model *> all_models()
{
	std::vector<const struct kvh_model *> models;

	for (size_t i = 0; kvh_model_at(i) != nullptr; i++)
		models.push_back(kvh_model_at(i));
	return models;
}

INSTANTIATE_TEST_SUITE_P(All, EveryModel, ::testing::ValuesIn(all_models()),
			 [](const ::testing::TestParamInfo<const struct kvh_model *> &info) {
				 std::string name = info.param->name;

				 for (char &c : name) {
					 if (c == '-' || c == '.')
						 c = '_';
				 }
				 return name;
			 });

} // namespace
