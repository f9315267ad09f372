/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runtime_test.cc - the bench's stand-in of a runtime: its pattern, byte by byte
 * against the definition, its pages, and above all that its check finds what is
 * wrong: a check that cannot fail would make every replay green.
 */
#include "bench/random.h"
#include "bench/runtime.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace
{

struct kvh_key key_of(uint64_t id, uint32_t rank = 0, uint32_t group = 0)
{
	struct kvh_key key = {};

	kvh_fill_hash(1, id, &key.hash);
	key.space = 77;
	key.rank = rank;
	key.group = group;
	return key;
}

/* ---- the pattern ---- */

struct kvh_fill_unit unit_of(uint32_t order, uint32_t heads, uint32_t first_token)
{
	struct kvh_fill_unit unit = {};
	struct kvh_key key = key_of(5);

	unit.base = kvh_fill_base(&key, 3);
	unit.first_token = first_token;
	unit.tokens = 16;
	unit.heads = heads;
	unit.head_bytes = 48;
	unit.order = order;
	return unit;
}

uint64_t bytes_of(const struct kvh_fill_unit &unit)
{
	return uint64_t{unit.tokens} * unit.heads * unit.head_bytes;
}

/* Byte (token, head, d) is the same wherever the order puts it. */
TEST(Fill, DependsOnTokenAndHeadNotOnOrder)
{
	for (uint32_t heads : {1u, 3u, 8u}) {
		struct kvh_fill_unit nhd = unit_of(KVH_ORDER_NHD, heads, 32);
		struct kvh_fill_unit hnd = unit_of(KVH_ORDER_HND, heads, 32);
		std::vector<uint8_t> a(bytes_of(nhd)), b(bytes_of(hnd));

		kvh_fill_write(&nhd, a.data());
		kvh_fill_write(&hnd, b.data());
		for (uint32_t t = 0; t < 16; t++) {
			for (uint32_t h = 0; h < heads; h++) {
				for (uint32_t d = 0; d < 48; d++)
					ASSERT_EQ(a[(t * heads + h) * 48 + d],
						  b[(h * 16 + t) * 48 + d]);
			}
		}
		EXPECT_EQ(a == b, heads == 1);
		EXPECT_EQ(kvh_fill_check(&hnd, a.data()) == -1, heads == 1);
	}
}

/* Pages of a chunk are one plane's bytes in token order, cut. */
TEST(Fill, PagesFollowEachOther)
{
	struct kvh_fill_unit whole = unit_of(KVH_ORDER_NHD, 4, 0);
	std::vector<uint8_t> all, page;

	whole.tokens = 64;
	all.resize(bytes_of(whole));
	kvh_fill_write(&whole, all.data());
	for (uint32_t t = 0; t < 64; t += 16) {
		struct kvh_fill_unit unit = unit_of(KVH_ORDER_NHD, 4, t);

		page.resize(bytes_of(unit));
		kvh_fill_write(&unit, page.data());
		EXPECT_EQ(memcmp(page.data(), &all[t * 4 * 48], page.size()), 0) << t;
	}
}

TEST(Fill, CheckFindsEverySingleByte)
{
	for (uint32_t order : {KVH_ORDER_NHD, KVH_ORDER_HND}) {
		struct kvh_fill_unit unit = unit_of(order, 3, 48);
		std::vector<uint8_t> page(bytes_of(unit));

		kvh_fill_write(&unit, page.data());
		ASSERT_EQ(kvh_fill_check(&unit, page.data()), -1);
		for (size_t i = 0; i < page.size(); i++) {
			ASSERT_EQ(kvh_fill_byte(&unit, i), page[i]);
			page[i] ^= static_cast<uint8_t>(1u << (i % 8));
			ASSERT_EQ(kvh_fill_check(&unit, page.data()), static_cast<int64_t>(i));
			page[i] ^= static_cast<uint8_t>(1u << (i % 8));
		}
	}
}

TEST(Fill, EveryPartOfTheKeyCounts)
{
	std::set<uint64_t> bases;
	struct kvh_key key = key_of(1);

	bases.insert(kvh_fill_base(&key, 0));
	bases.insert(kvh_fill_base(&key, 1));
	key.group = 1;
	bases.insert(kvh_fill_base(&key, 0));
	key = key_of(1, 1);
	bases.insert(kvh_fill_base(&key, 0));
	key = key_of(1);
	key.space++;
	bases.insert(kvh_fill_base(&key, 0));
	for (size_t i = 0; i < 16; i++) {
		key = key_of(1);
		key.hash.bytes[i] ^= 1;
		bases.insert(kvh_fill_base(&key, 0));
	}
	EXPECT_EQ(bases.size(), 21u);
}

TEST(Fill, HashesOfIdsDiffer)
{
	std::set<std::string> hashes;
	const struct kvh_hash zero = {};

	for (uint64_t salt : {0u, 1u, 2u}) {
		for (uint64_t id = 0; id < 20000; id++) {
			struct kvh_hash hash;

			kvh_fill_hash(salt, id, &hash);
			hashes.emplace(reinterpret_cast<char *>(hash.bytes),
				       sizeof(hash.bytes));
			ASSERT_NE(memcmp(&hash, &zero, sizeof(hash)), 0);
		}
	}
	EXPECT_EQ(hashes.size(), 60000u);
}

/* ---- the runtime, on the host device, in place and staged ---- */

class Runtime : public ::testing::TestWithParam<std::tuple<std::string, bool>>
{
      protected:
	void SetUp() override
	{
		struct kvh_runtime_opts opts = {};

		ASSERT_EQ(kvh_geometry_make(kvh_model_find(std::get<0>(GetParam()).c_str()),
					    0.02, &geo_),
			  0);
		opts.device = "host";
		opts.geo = &geo_;
		opts.n_pages = 200;
		opts.staged = std::get<1>(GetParam());
		ASSERT_EQ(kvh_runtime_open(&opts, &rt_), 0);
	}
	void TearDown() override
	{
		kvh_runtime_close(rt_);
		kvh_geometry_free(&geo_);
	}
	/* A chunk of each group, with the given id. */
	std::vector<struct kvh_runtime_chunk> take(uint64_t id)
	{
		std::vector<struct kvh_runtime_chunk> chunks;

		for (uint32_t g = 0; g < geo_.n_groups; g++) {
			uint32_t n = kvh_geometry_chunk_pages(&geo_, g);

			pages_.emplace_back(new uint32_t[n]);
			EXPECT_TRUE(kvh_runtime_pages_take(rt_, n, pages_.back().get()));
			chunks.push_back({key_of(id, kvh_geometry_rank(&geo_, g), g),
					  pages_.back().get()});
		}
		return chunks;
	}
	std::vector<struct kvh_runtime_wrong>
	check(const std::vector<struct kvh_runtime_chunk> &chunks)
	{
		std::vector<struct kvh_runtime_wrong> wrong(chunks.size());

		EXPECT_EQ(kvh_runtime_check(rt_, chunks.data(), chunks.size(), wrong.data()),
			  0);
		return wrong;
	}

	struct kvh_geometry geo_ = {};
	struct kvh_runtime *rt_ = nullptr;
	std::vector<std::unique_ptr<uint32_t[]>> pages_;
};

TEST_P(Runtime, HoldsWhatWasFilled)
{
	auto a = take(1), b = take(2);

	ASSERT_EQ(kvh_runtime_fill(rt_, a.data(), a.size()), 0);
	ASSERT_EQ(kvh_runtime_fill(rt_, b.data(), b.size()), 0);
	for (const auto &chunks : {a, b}) {
		for (const auto &w : check(chunks))
			EXPECT_FALSE(w.wrong);
	}
}

TEST_P(Runtime, FindsPoison)
{
	auto a = take(1), b = take(2);

	ASSERT_EQ(kvh_runtime_fill(rt_, a.data(), a.size()), 0);
	ASSERT_EQ(kvh_runtime_fill(rt_, b.data(), b.size()), 0);
	ASSERT_EQ(kvh_runtime_poison(rt_, a.data(), a.size()), 0);
	for (const auto &w : check(a)) {
		EXPECT_TRUE(w.wrong);
		EXPECT_EQ(w.got, KVH_FILL_POISON);
	}
	for (const auto &w : check(b))
		EXPECT_FALSE(w.wrong) << "its pages were not to be touched";
}

TEST_P(Runtime, FindsOtherKeysBytes)
{
	auto a = take(1);

	ASSERT_EQ(kvh_runtime_fill(rt_, a.data(), a.size()), 0);
	for (auto &chunk : a)
		chunk.key = key_of(2, chunk.key.rank, chunk.key.group);
	for (const auto &w : check(a)) {
		EXPECT_TRUE(w.wrong);
		EXPECT_EQ(w.plane, 0u);
		EXPECT_EQ(w.page, 0u);
		EXPECT_NE(w.want, w.got);
	}
}

TEST_P(Runtime, FindsPagesInTheWrongPlace)
{
	auto a = take(1);
	uint32_t last = kvh_geometry_chunk_pages(&geo_, 0) - 1;

	ASSERT_EQ(kvh_runtime_fill(rt_, a.data(), a.size()), 0);
	std::swap(pages_[0][last], pages_[0][last - 1]);
	auto wrong = check(a);
	EXPECT_TRUE(wrong[0].wrong);
	EXPECT_EQ(wrong[0].page, last - 1);
	for (size_t i = 1; i < wrong.size(); i++)
		EXPECT_FALSE(wrong[i].wrong) << "another group's pages are right";
}

TEST_P(Runtime, PagesAreScatteredAndEachOnce)
{
	std::vector<uint32_t> pages(200);
	uint32_t one, neighbours = 0;

	EXPECT_EQ(kvh_runtime_pages_free(rt_), 200u);
	ASSERT_TRUE(kvh_runtime_pages_take(rt_, 200, pages.data()));
	EXPECT_FALSE(kvh_runtime_pages_take(rt_, 1, &one));
	EXPECT_EQ(std::set<uint32_t>(pages.begin(), pages.end()).size(), 200u);
	EXPECT_LT(*std::max_element(pages.begin(), pages.end()), 200u);
	for (size_t i = 1; i < pages.size(); i++)
		neighbours += pages[i] == pages[i - 1] + 1;
	EXPECT_LT(neighbours, 20u);
	kvh_runtime_pages_give(rt_, 200, pages.data());
	EXPECT_EQ(kvh_runtime_pages_free(rt_), 200u);
	EXPECT_FALSE(kvh_runtime_pages_take(rt_, 201, pages.data()));
}

INSTANTIATE_TEST_SUITE_P(All, Runtime,
			 ::testing::Combine(::testing::Values("llama-3.1-8b",
							      "llama-3.1-70b-tp8", "qwen3-32b",
							      "deepseek-v3", "gpt-oss-120b"),
					    ::testing::Bool()),
			 [](const ::testing::TestParamInfo<Runtime::ParamType> &info) {
				 std::string name = std::get<0>(info.param) +
						    (std::get<1>(info.param) ? "_staged"
									     : "_in_place");

				 for (char &c : name) {
					 if (c == '-' || c == '.')
						 c = '_';
				 }
				 return name;
			 });

TEST(RuntimeOpen, RefusesUnknownDevices)
{
	struct kvh_geometry geo;
	struct kvh_runtime_opts opts = {};
	struct kvh_runtime *rt = nullptr;

	ASSERT_EQ(kvh_geometry_make(kvh_model_at(0), 0.001, &geo), 0);
	opts.device = "abacus";
	opts.geo = &geo;
	opts.n_pages = 8;
	EXPECT_EQ(kvh_runtime_open(&opts, &rt), -EINVAL);
	EXPECT_EQ(rt, nullptr);
	kvh_geometry_free(&geo);
}

} // namespace
