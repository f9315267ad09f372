/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report_test.cc - percentiles, units, and the JSON's names and sums.
 */
#include "bench/report.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <jansson.h>
#include <string>

namespace
{

TEST(Samples, Percentiles)
{
	struct kvh_samples samples = {};

	EXPECT_EQ(kvh_samples_percentile(&samples, 50), 0u);
	ASSERT_TRUE(kvh_samples_add(&samples, 7));
	EXPECT_EQ(kvh_samples_percentile(&samples, 0), 7u);
	EXPECT_EQ(kvh_samples_percentile(&samples, 50), 7u);
	EXPECT_EQ(kvh_samples_percentile(&samples, 99), 7u);
	samples.n = 0;
	/* 1..5000, not in order: 1777 and 5000 have no common divisor. */
	for (uint64_t i = 0; i < 5000; i++)
		ASSERT_TRUE(kvh_samples_add(&samples, i * 1777 % 5000 + 1));
	EXPECT_EQ(kvh_samples_percentile(&samples, 50), 2500u);
	EXPECT_EQ(kvh_samples_percentile(&samples, 99), 4950u);
	EXPECT_EQ(kvh_samples_percentile(&samples, 99.99), 5000u);
	EXPECT_EQ(kvh_samples_percentile(&samples, 100), 5000u);
	EXPECT_EQ(kvh_samples_percentile(&samples, 0), 1u);
	free(samples.ns);
}

TEST(ReportFormat, Units)
{
	char text[24];

	EXPECT_STREQ(kvh_size_text(0, text), "0 B");
	EXPECT_STREQ(kvh_size_text(1023, text), "1023 B");
	EXPECT_STREQ(kvh_size_text(1536, text), "1.50 KiB");
	EXPECT_STREQ(kvh_size_text(uint64_t{3} << 40, text), "3.00 TiB");
	EXPECT_STREQ(kvh_size_text(UINT64_MAX, text), "16777216.00 TiB");
	EXPECT_STREQ(kvh_format_ns(999, text), "999 ns");
	EXPECT_STREQ(kvh_format_ns(1200000, text), "1.20 ms");
	EXPECT_STREQ(kvh_format_ns(75000000000, text), "75.00 s");
}

class Report : public ::testing::Test
{
      protected:
	Report()
	{
		head_.model = "toy: 1 layer";
		head_.model_name = "toy";
		head_.trace = "gen:1";
		head_.device = "host";
		head_.scale = 0.5;
		head_.token_bytes = 64;
		head_.block_bytes = 32768;
		result_.requests = 3;
		result_.block_references = 8;
		result_.distinct_blocks = 5;
		result_.prefix_hits = 2;
		result_.chunks_verified = 2;
		result_.engine.hits_l2 = 1;
		result_.engine.evicted_alloc = 4;
		result_.engine.evicted_background = 6;
		kvh_result_stage(&result_, KVH_STAGE_LOAD, 4000, 1000);
		kvh_result_stage(&result_, KVH_STAGE_LOAD, 2000, 3000);
	}
	~Report() override
	{
		kvh_result_free(&result_);
	}
	std::string print(bool json)
	{
		char *text = nullptr;
		size_t len = 0;
		FILE *out = open_memstream(&text, &len);

		if (json)
			EXPECT_EQ(kvh_report_json(out, &head_, &result_), 0);
		else
			kvh_report_table(out, &result_);
		fclose(out);
		std::string printed(text, len);
		free(text);
		return printed;
	}

	struct kvh_report_head head_ = {};
	struct kvh_result result_ = {};
};

/* 1.5 GB/s of a link of 3; without a link nothing is said of it. */
TEST_F(Report, SharesOfTheLink)
{
	EXPECT_EQ(print(false).find("link"), std::string::npos);
	EXPECT_EQ(print(true).find("link"), std::string::npos);
	result_.link_store = 2;
	result_.link_load = 3;
	EXPECT_NE(print(false).find("D2H 2.00 GB/s, H2D 3.00 GB/s"), std::string::npos);
	EXPECT_NE(print(false).find("50.0%"), std::string::npos) << print(false);
	EXPECT_NE(print(true).find("\"share_of_link\": 0.5"), std::string::npos);
	EXPECT_NE(print(true).find("\"link_h2d_gb_per_s\": 3.0"), std::string::npos);
}

TEST_F(Report, Json)
{
	json_error_t error;
	json_t *root = json_loads(print(true).c_str(), 0, &error);

	ASSERT_NE(root, nullptr) << error.text;
	auto number = [&](const char *name) {
		const json_t *value = json_object_get(root, name);

		EXPECT_TRUE(json_is_number(value)) << name;
		return json_number_value(value);
	};
	EXPECT_EQ(number("requests"), 3);
	EXPECT_EQ(number("block_references"), 8);
	EXPECT_EQ(number("distinct_blocks"), 5);
	EXPECT_EQ(number("prefix_hits"), 2);
	EXPECT_EQ(number("prefix_hit_percent"), 25);
	EXPECT_EQ(number("chunks_verified"), 2);
	EXPECT_EQ(number("mismatches"), 0);
	EXPECT_EQ(number("evicted"), 10);
	EXPECT_EQ(number("hits_l2"), 1);
	EXPECT_EQ(number("load_p50_ns"), 1000);
	EXPECT_EQ(number("load_p99_ns"), 3000);
	EXPECT_GT(number("peak_memory_bytes"), 0);
	EXPECT_GE(number("cpu_seconds"), 0);
	const json_t *load = json_object_get(json_object_get(root, "stages"), "load");
	EXPECT_EQ(json_integer_value(json_object_get(load, "bytes")), 6000);
	EXPECT_EQ(json_real_value(json_object_get(load, "gb_per_s")), 1.5);
	EXPECT_STREQ(json_string_value(json_object_get(root, "model")), "toy");
	json_decref(root);
}

TEST_F(Report, JsonOfAPathThatIsNoText)
{
	head_.trace = "bad-\xff-name";
	EXPECT_NE(print(true).find("\"trace\": null"), std::string::npos);
}

TEST_F(Report, Table)
{
	std::string table = print(false);

	EXPECT_NE(table.find("8 references, 5 distinct"), std::string::npos) << table;
	EXPECT_NE(table.find("2 (25.0 %)"), std::string::npos) << table;
	EXPECT_NE(table.find("verified      2 chunks, 0 mismatches"), std::string::npos)
		<< table;
}

} // namespace
