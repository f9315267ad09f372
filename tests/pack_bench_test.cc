/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_bench_test.cc - what `kvhoist-bench pack` says is true: every way moves the
 * bytes it claims to, and a way that does not is found out.
 */
#include "bench/pack_report.h"
#include "cuda/device_host.h"
#include "tests/run_program.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <string>

namespace
{

class PackBench : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		ASSERT_EQ(kvh_pack_rig_open(&rig, "host", 4u << 20, 8u << 20), 0);
	}
	void TearDown() override
	{
		kvh_pack_rig_close(&rig);
	}

	void open(uint64_t fragment, uint64_t payload, enum kvh_pages_order order,
		  uint32_t layers = 1)
	{
		const struct kvh_pack_shape shape = {fragment, payload, 1u << 20, order,
						     layers};

		ASSERT_EQ(kvh_pack_set_open(&rig, &shape, &set), 0);
	}

	struct kvh_pack_rig rig = {};
	struct kvh_pack_set set = {};
};

bool is_right(enum kvh_way way, struct kvh_pack_set *set, bool load)
{
	struct kvh_way_result result;

	kvh_way_run(way, set, load, 2, &result);
	const bool right = result.right;
	EXPECT_EQ(result.error, 0) << kvh_way_name(way);
	EXPECT_EQ(result.each.n, 2u);
	kvh_way_result_free(&result);
	return right;
}

TEST_F(PackBench, EveryWayMovesTheBytes)
{
	for (uint64_t fragment : {8u, 2048u, 4096u}) {
		for (int order = 0; order < KVH_PAGES_ORDERS; order++) {
			open(fragment, 32u << 10, (enum kvh_pages_order)order);
			for (int way = 0; way < KVH_WAYS; way++) {
				if (way == KVH_WAY_COPY_2D && set.n_planes < 2)
					continue;
				EXPECT_TRUE(is_right((enum kvh_way)way, &set, false));
				EXPECT_TRUE(is_right((enum kvh_way)way, &set, true));
			}
			kvh_pack_set_close(&set);
		}
	}
}

TEST_F(PackBench, PlanesAreOfAsManyLayersAsWereAskedFor)
{
	const struct {
		uint32_t layers, first; /* of the last layer's planes, of 4 */
	} rows[] = {{0, 0}, {1, 0}, {2, 2}, {3, 3}, {4, 3}, {400, 3}};

	for (const auto &row : rows) {
		const uint32_t last = row.layers == 0 ? 0 : std::min(row.layers, 4u) - 1;

		open(2048, 128u << 10, KVH_PAGES_SHUFFLED, row.layers);
		ASSERT_EQ(set.n_planes, 4u);
		EXPECT_EQ(kvh_plan_planes_below(set.plan, last), row.first) << row.layers;
		EXPECT_EQ(kvh_plan_planes_below(set.plan, last + 1), 4u) << row.layers;
		EXPECT_TRUE(is_right(KVH_WAY_KVHOIST, &set, true)) << row.layers;
		kvh_pack_set_close(&set);
	}
}

TEST_F(PackBench, BothDirectionsAtOnce)
{
	bool right = false;

	open(4096, 128u << 10, KVH_PAGES_SHUFFLED);
	EXPECT_GT(kvh_way_both(&set, 2, &right), 0.0);
	EXPECT_TRUE(right);
	kvh_pack_set_close(&set);
}

/* Whichever submission fails, of the store's or of the load's: what is on its way lands
 * before the call returns, and the next one is right. */
TEST_F(PackBench, BothDirectionsEndAfterAFailure)
{
	uint32_t failed = 0;

	open(4096, 128u << 10, KVH_PAGES_SHUFFLED);
	for (uint64_t nth = 1; nth <= 40; nth++) {
		const struct kvh_host_rule rule = {
			KVH_HOST_ENQUEUE, KVH_HOST_FAIL, nth, 1, ENOMEM, 0,
		};
		bool right = false;

		ASSERT_EQ(kvh_host_rule_add(rig.dev, &rule), 0);
		failed += kvh_way_both(&set, 2, &right) == 0;
		kvh_host_release(rig.dev);
		EXPECT_GT(kvh_way_both(&set, 1, &right), 0.0) << nth;
		EXPECT_TRUE(right) << nth;
	}
	EXPECT_GT(failed, 0u);
	kvh_pack_set_close(&set);
}

TEST_F(PackBench, OnePlaneHasNoStrideForCopies2D)
{
	struct kvh_way_result result;

	open(32u << 10, 32u << 10, KVH_PAGES_SHUFFLED);
	ASSERT_EQ(set.n_planes, 1u);
	kvh_way_run(KVH_WAY_COPY_2D, &set, false, 1, &result);
	EXPECT_EQ(result.error, -EOPNOTSUPP);
	kvh_way_result_free(&result);
	kvh_pack_set_close(&set);
}

/* The negative control: a copy that copies nothing. */
TEST_F(PackBench, ACopyThatIsLostIsFound)
{
	struct kvh_host_rule lie = {};

	lie.call = KVH_HOST_COPY;
	lie.action = KVH_HOST_LIE;
	lie.count = UINT64_MAX;
	open(2048, 64u << 10, KVH_PAGES_SHUFFLED);
	ASSERT_EQ(kvh_host_rule_add(rig.dev, &lie), 0);
	for (int load = 0; load < 2; load++) {
		EXPECT_FALSE(is_right(KVH_WAY_COPIES, &set, load != 0));
		EXPECT_FALSE(is_right(KVH_WAY_KVHOIST, &set, load != 0));
	}
	kvh_host_release(rig.dev);
	kvh_pack_set_close(&set); /* page numbers were lost, too: any page was written */
	open(2048, 64u << 10, KVH_PAGES_SHUFFLED);
	EXPECT_TRUE(is_right(KVH_WAY_COPIES, &set, true));
	kvh_pack_set_close(&set);
}

/* And a load into a page that was to be left alone. */
TEST_F(PackBench, APageThatWasWrittenByMistakeIsFound)
{
	open(2048, 64u << 10, KVH_PAGES_STRIDED);
	EXPECT_TRUE(kvh_pack_pool_check(&set));
	rig.pool[set.fragment] ^= 1; /* page 1: not of the set; host memory */
	EXPECT_FALSE(kvh_pack_pool_check(&set));
	kvh_pack_set_close(&set);
}

TEST_F(PackBench, AShapeThatDoesNotFitIsRefused)
{
	const struct kvh_pack_shape odd = {12, 4096, 1u << 20, KVH_PAGES_SHUFFLED, 1};
	const struct kvh_pack_shape small = {4096, 2048, 1u << 20, KVH_PAGES_SHUFFLED, 1};
	const struct kvh_pack_shape large = {4096, 4u << 20, 4u << 20, KVH_PAGES_SHUFFLED, 1};

	EXPECT_EQ(kvh_pack_set_open(&rig, &odd, &set), -ENOSPC);
	EXPECT_EQ(kvh_pack_set_open(&rig, &small, &set), -ENOSPC);
	EXPECT_EQ(kvh_pack_set_open(&rig, &large, &set), -ENOSPC);
}

TEST(PackBenchProgram, PrintsJsonAndPlots)
{
	TempDir dir;
	const Outcome result = run({"pack", "--device", "host", "--fragments", "2K,4K",
				    "--frames", "128K", "--sample", "1M", "--samples", "1",
				    "--json", "--svg", dir.path("pack.svg")});

	ASSERT_EQ(result.status, 0) << result.err;
	const Json json(result.out);
	const json_t *rows = json_object_get(json.root(), "rows");

	EXPECT_TRUE(json_is_false(json_object_get(json.root(), "gpu")));
	EXPECT_GT(json_real_value(json_object_get(json.root(), "link_d2h_gb_per_s")), 0.0);
	ASSERT_EQ(json_array_size(rows), 2u * 3 * KVH_WAYS * 2);
	for (size_t i = 0; i < json_array_size(rows); i++)
		EXPECT_TRUE(json_is_true(json_object_get(json_array_get(rows, i), "right")));
	EXPECT_GT(std::filesystem::file_size(dir.path("pack.svg")), 1000u);
}

/* A shape that does not fit is a row, and no success; all others are measured. */
TEST(PackBenchProgram, GoesOnBehindAShapeThatDoesNotFit)
{
	TempDir dir;
	const Outcome result = run({"pack",
				    "--device",
				    "host",
				    "--transfers",
				    "--latency",
				    "--ways",
				    "kvhoist,copies",
				    "--fragments",
				    "4K",
				    "--frames",
				    "4M,128K",
				    "--pool",
				    "4M",
				    "--arena",
				    "8M",
				    "--pages",
				    "shuffled",
				    "--samples",
				    "1",
				    "--json=" + dir.path("pack.json")});
	json_error_t error;
	json_t *json = json_load_file(dir.path("pack.json").c_str(), 0, &error);

	EXPECT_EQ(result.status, 1);
	EXPECT_NE(result.err.find("a larger --pool"), std::string::npos) << result.err;
	ASSERT_NE(json, nullptr) << error.text;
	const json_t *rows = json_object_get(json, "rows");
	ASSERT_EQ(json_array_size(rows), 4u);
	for (size_t i = 0; i < 4; i++) {
		const json_t *row = json_array_get(rows, i);

		EXPECT_STREQ(json_string_value(json_object_get(row, "way")), "kvhoist");
		EXPECT_EQ(json_object_get(row, "error") != nullptr, i < 2) << i;
		EXPECT_EQ(json_is_true(json_object_get(row, "right")), i >= 2) << i;
	}
	EXPECT_GT(json_array_size(json_object_get(json, "latency")), 0u);
	json_decref(json);
}

TEST(PackBenchProgram, WritesWhatItHasMeasuredWhenItIsStopped)
{
	TempDir dir;
	Program program({"pack", "--device", "host", "--transfers", "--latency", "--all",
			 "--samples", "20", "--json=" + dir.path("pack.json"),
			 "--csv=" + dir.path("pack.csv"), "--svg", dir.path("pack.svg")});
	json_error_t error;

	ASSERT_TRUE(program.wait_for("\ncopies     H2D"));
	program.kill(SIGTERM);
	EXPECT_EQ(program.wait(), 128 + SIGTERM) << program.err;
	json_t *json = json_load_file(dir.path("pack.json").c_str(), 0, &error);
	ASSERT_NE(json, nullptr) << error.text;
	const size_t n = json_array_size(json_object_get(json, "rows"));
	EXPECT_GE(n, 2u);
	EXPECT_LT(n, 5u * 6 * 3 * KVH_WAYS * 2);
	EXPECT_EQ(json_array_size(json_object_get(json, "latency")), 0u);
	json_decref(json);
	std::ifstream csv(dir.path("pack.csv"));
	std::string line;
	size_t lines = 0;
	while (std::getline(csv, line))
		lines++;
	EXPECT_GE(lines, 3u) << "names, and what was measured";
	EXPECT_GT(std::filesystem::file_size(dir.path("pack.svg")), 1000u);
}

TEST(PackBenchProgram, RefusesWhatItDoesNotKnow)
{
	for (const std::string bad : {"--fragments=3", "--pages=sideways", "--ways=magic",
				      "--samples=0", "--layers=0", "--sample=1"}) {
		const Outcome result = run({"pack", bad});

		EXPECT_EQ(result.status, 2) << bad;
		EXPECT_NE(result.err.find(bad.substr(0, bad.find('='))), std::string::npos)
			<< result.err;
	}
}

} // namespace
