/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_beside_test.cc - what `kvhoist-bench pack --load` stands on: the pump moves, and
 * rests, when it is told to, and its bytes are checked; kernels are measured alone and
 * beside it, and what they lost is what is reported.
 */
#include "bench/beside.h"
#include "cuda/device_host.h"
#include "tests/run_program.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

namespace
{

class Beside : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		ASSERT_EQ(kvh_pack_rig_open(&rig, "host", 8u << 20, 16u << 20), 0);
		open();
	}
	void TearDown() override
	{
		kvh_pump_close(pump);
		kvh_pack_set_close(&set);
		kvh_pack_rig_close(&rig);
	}
	void open()
	{
		/* Rows of 16 KiB, four a page: what a gentle store can take. Four chunks. */
		const struct kvh_pack_shape shape = {16u << 10, 1u << 20, 4u << 20,
						     KVH_PAGES_SHUFFLED, 1};

		ASSERT_EQ(kvh_pack_set_open(&rig, &shape, &set), 0);
	}
	/* Another way, with a set of its own. */
	void start(enum kvh_pump_way way, bool load)
	{
		kvh_pump_close(pump);
		pump = nullptr;
		kvh_pack_set_close(&set);
		open();
		ASSERT_EQ(kvh_pump_open(&set, way, load, &pump), 0);
	}
	template <typename Fn>
	void each_way(Fn fn)
	{
		for (int way = 0; way < KVH_PUMP_WAYS; way++)
			for (bool load : {false, true}) {
				if (!kvh_pump_way_goes((enum kvh_pump_way)way, load))
					continue;
				SCOPED_TRACE(
					std::string(kvh_pump_way_name((enum kvh_pump_way)way)) +
					(load ? " load" : " store"));
				start((enum kvh_pump_way)way, load);
				if (!HasFatalFailure())
					fn();
			}
	}

	struct kvh_pack_rig rig = {};
	struct kvh_pack_set set = {};
	struct kvh_pump *pump = nullptr;
};

TEST_F(Beside, ThePumpMovesTheRightBytesEachWay)
{
	each_way([this] {
		for (int i = 0; i < 3; i++) {
			const struct kvh_pump_mark before = kvh_pump_mark(pump);

			ASSERT_EQ(kvh_pump_run(pump), 0);
			ASSERT_EQ(kvh_pump_pause(pump), 0);
			EXPECT_GE(kvh_pump_mark(pump).bytes, before.bytes + set.bytes);
		}
		EXPECT_TRUE(kvh_pump_check(pump));
	});
}

/* While it is paused no copy is made; it was made before, and is again later. */
TEST_F(Beside, APausedPumpMovesNothing)
{
	each_way([this] {
		for (int i = 0; i < 3; i++) {
			const uint64_t none = kvh_host_count(rig.dev, KVH_HOST_COPY);

			ASSERT_EQ(kvh_pump_run(pump), 0);
			ASSERT_EQ(kvh_pump_pause(pump), 0);
			const uint64_t some = kvh_host_count(rig.dev, KVH_HOST_COPY);
			const struct kvh_pump_mark mark = kvh_pump_mark(pump);

			EXPECT_GT(some, none);
			ASSERT_EQ(kvh_pack_rig_wait(&rig), 0);
			EXPECT_EQ(kvh_host_count(rig.dev, KVH_HOST_COPY), some);
			EXPECT_EQ(kvh_pump_mark(pump).bytes, mark.bytes);
		}
	});
}

/* The control of the check: copies that copy nothing. */
TEST_F(Beside, ControlBytesThatAreLostAreFound)
{
	each_way([this] {
		const struct kvh_host_rule lie = {
			KVH_HOST_COPY, KVH_HOST_LIE, 1, UINT64_MAX, 0, 0};

		ASSERT_EQ(kvh_host_rule_add(rig.dev, &lie), 0);
		ASSERT_EQ(kvh_pump_run(pump), 0);
		ASSERT_EQ(kvh_pump_pause(pump), 0);
		kvh_host_release(rig.dev);
		EXPECT_FALSE(kvh_pump_check(pump));
	});
}

TEST_F(Beside, WhereNothingCanBeGentleThePumpSaysSo)
{
	const struct kvh_pack_shape shape = {4096, 256u << 10, 1u << 20, KVH_PAGES_SHUFFLED, 1};

	kvh_pack_set_close(&set);
	ASSERT_EQ(kvh_pack_set_open(&rig, &shape, &set), 0);
	EXPECT_EQ(kvh_pump_open(&set, KVH_PUMP_GENTLE, false, &pump), -EOPNOTSUPP);
	EXPECT_EQ(kvh_pump_open(&set, KVH_PUMP_KVHOIST, false, &pump), 0) << "control";
}

TEST_F(Beside, AnEnqueueThatFailsEndsItAndIsReported)
{
	each_way([this] {
		const struct kvh_host_rule fail = {KVH_HOST_ENQUEUE, KVH_HOST_FAIL, 1,
						   UINT64_MAX,       ENOMEM,        0};

		ASSERT_EQ(kvh_host_rule_add(rig.dev, &fail), 0);
		EXPECT_EQ(kvh_pump_run(pump), -ENOMEM);
		EXPECT_EQ(kvh_pump_pause(pump), -ENOMEM);
		kvh_host_release(rig.dev);
		EXPECT_EQ(kvh_pump_run(pump), -ENOMEM) << "and it stays ended";
		EXPECT_EQ(kvh_pump_pause(pump), -ENOMEM);
	});
}

/* ---- what was lost ------------------------------------------------------ */

/* A kernel that takes 1000 ns while nothing moves, and as much more as it is told while
 * something does. It looks at the pump to know, and so shows when it was run. */
struct Fake {
	struct kvh_pump *pump;
	uint64_t more_ns;
	bool right;
	std::vector<bool> moved; /* of each run of a sample */

	static int run(void *self, enum kvh_load_kernel, uint32_t n, uint64_t *ns_p)
	{
		Fake *fake = static_cast<Fake *>(self);
		const uint64_t seen = kvh_pump_mark(fake->pump).bytes;
		bool moved = false;

		if (n > 1) {
			moved = fake->moving(seen);
			fake->moved.push_back(moved);
		}
		*ns_p = n * (1000 + (moved ? fake->more_ns : 0));
		return 0;
	}
	/* Samples come in turn: where the second of a pair belongs, it waits for the pump
	 * to move; a pump that does not hangs the test. */
	bool moving(uint64_t seen) const
	{
		if (moved.size() % 2 == 0)
			return kvh_pump_mark(pump).bytes != seen;
		while (kvh_pump_mark(pump).bytes == seen) {}
		return true;
	}
	static int check(void *self, enum kvh_load_kernel, bool *right_p)
	{
		*right_p = static_cast<Fake *>(self)->right;
		return 0;
	}
};

struct kvh_load_ops fake_ops()
{
	struct kvh_load_ops ops = kvh_load_host;

	ops.run = Fake::run;
	ops.check = Fake::check;
	return ops;
}

TEST_F(Beside, SamplesAreInTurnAndWhatIsLostIsReported)
{
	const struct kvh_load_ops ops = fake_ops();
	struct kvh_beside b = {};

	b.rig = &rig;
	b.ops = &ops;
	b.samples = 5;
	b.sample_ns = 4000;
	b.link_store = b.link_load = 1000;
	each_way([&] {
		Fake fake = {pump, 250, true, {}};
		struct kvh_beside_row row = {};

		kvh_beside_kernel(&b, &fake, pump, &row);
		ASSERT_EQ(row.error, 0);
		EXPECT_EQ(row.launches, 4u);
		EXPECT_EQ(fake.moved, (std::vector<bool>{false, true, false, true, false, true,
							 false, true, false, true}));
		EXPECT_DOUBLE_EQ(row.alone_ns, 1000);
		EXPECT_DOUBLE_EQ(row.beside_ns, 1250);
		EXPECT_DOUBLE_EQ(row.slower.median, 0.25);
		EXPECT_GT(row.rate, 0);
		EXPECT_DOUBLE_EQ(row.share, row.rate / 1000);
		EXPECT_TRUE(row.right);
	});
}

TEST_F(Beside, AKernelWithAWrongResultIsFound)
{
	const struct kvh_load_ops ops = fake_ops();
	struct kvh_beside b = {};
	struct kvh_beside_row row = {};
	struct kvh_beside_report report = {};

	b.rig = &rig;
	b.ops = &ops;
	b.samples = 1;
	b.sample_ns = 4000;
	start(KVH_PUMP_KVHOIST, false);
	Fake fake = {pump, 0, false, {}};
	kvh_beside_kernel(&b, &fake, pump, &row);
	EXPECT_EQ(row.error, 0);
	EXPECT_FALSE(row.right);
	report.rows = &row;
	report.n = 1;
	EXPECT_FALSE(kvh_beside_report_right(&report));
}

/* Compared with the link's copies of the same direction and kernel, and no others. */
TEST(BesideReport, MoreThanTheLinkCosts)
{
	struct kvh_beside_row rows[4] = {};
	struct kvh_beside_report report = {};

	rows[0].way = rows[1].way = KVH_PUMP_COPY;
	rows[1].load = true;
	rows[0].slower.median = 0.02;
	rows[1].slower.median = 0.05;
	rows[2].way = rows[3].way = KVH_PUMP_KVHOIST;
	rows[2].load = true;
	rows[2].slower.median = rows[3].slower.median = 0.07;
	rows[3].kernel = KVH_LOAD_COPY;
	report.rows = rows;
	report.n = 4;
	kvh_beside_report_compare(&report);
	EXPECT_FALSE(rows[0].has_link);
	EXPECT_TRUE(rows[2].has_link);
	EXPECT_NEAR(rows[2].over_link, 0.02, 1e-9);
	EXPECT_FALSE(rows[3].has_link) << "its kernel was not measured beside the link";
}

TEST(BesideLoad, TheHostsOwnCopyIsCheckedByItsBytes)
{
	const struct kvh_device_info host = {};
	const struct kvh_load_ops *ops = kvh_load_for(&host);
	uint64_t ns = 0;
	bool right = false;
	void *load;

	ASSERT_EQ(ops, &kvh_load_host);
	ASSERT_EQ(ops->open(&host, &load), 0);
	EXPECT_TRUE(ops->has(load, KVH_LOAD_COPY));
	EXPECT_FALSE(ops->has(load, KVH_LOAD_WAVE));
	ASSERT_EQ(ops->check(load, KVH_LOAD_COPY, &right), 0);
	EXPECT_FALSE(right) << "control: it has not run";
	ASSERT_EQ(ops->run(load, KVH_LOAD_COPY, 2, &ns), 0);
	EXPECT_GT(ns, 0u);
	ASSERT_EQ(ops->check(load, KVH_LOAD_COPY, &right), 0);
	EXPECT_TRUE(right);
	ops->close(load);
}

/* ---- the command -------------------------------------------------------- */

TEST(BesideProgram, PrintsJsonAndPlots)
{
	TempDir dir;
	const Outcome result = run({"pack", "--device", "host", "--load=copy", "--fragments",
				    "4K", "--sample", "8M", "--samples", "1", "--json",
				    "--svg-load", dir.path("load.svg")});

	ASSERT_EQ(result.status, 0) << result.err;
	const Json json(result.out);
	const json_t *beside = json_object_get(json.root(), "beside");
	const json_t *rows = json_object_get(beside, "rows");

	EXPECT_EQ(json_array_size(json_object_get(json.root(), "rows")), 0u);
	EXPECT_NE(std::string(json_string_value(json_object_get(beside, "gemm")))
			  .find("no device"),
		  std::string::npos);
	ASSERT_GE(json_array_size(rows), 4u);
	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i);

		EXPECT_STREQ(json_string_value(json_object_get(row, "kernel")), "copy");
		EXPECT_TRUE(json_is_true(json_object_get(row, "right")));
		EXPECT_TRUE(json_is_real(json_object_get(row, "slower")));
	}
	EXPECT_GT(std::filesystem::file_size(dir.path("load.svg")), 1000u);
}

TEST(BesideProgram, WritesJsonBesideItsTable)
{
	TempDir dir;
	const Outcome result = run({"pack", "--device", "host", "--load=copy", "--fragments",
				    "4K", "--sample", "8M", "--samples", "1",
				    "--json=" + dir.path("pack.json")});

	ASSERT_EQ(result.status, 0) << result.err;
	EXPECT_NE(result.out.find("beside other kernels"), std::string::npos);
	json_error_t error;
	json_t *json = json_load_file(dir.path("pack.json").c_str(), 0, &error);

	ASSERT_NE(json, nullptr) << error.text;
	EXPECT_NE(json_object_get(json, "beside"), nullptr);
	json_decref(json);
}

TEST(BesideProgram, RefusesAKernelItDoesNotKnow)
{
	EXPECT_EQ(run({"pack", "--load=matmul"}).status, 2);
}

} // namespace
