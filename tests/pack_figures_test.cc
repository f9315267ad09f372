/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_figures_test.cc - the figures that `kvhoist-bench pack` compares with those it was
 * to reach: each is the worst of its rows, and only of its rows.
 */
#include "bench/figures.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

namespace
{

constexpr uint64_t KIB = 1024, MIB = 1024 * KIB;

struct Figures {
	struct kvh_figure list[KVH_FIGURES_MAX];
	uint32_t n;

	explicit Figures(const struct kvh_pack_report &report)
	    : n(kvh_figures_of(&report, list))
	{
	}
	const struct kvh_figure *find(const std::string &name) const
	{
		for (uint32_t i = 0; i < n; i++)
			if (name == list[i].name)
				return &list[i];
		return nullptr;
	}
};

struct kvh_pack_row row_of(enum kvh_way way, bool load, uint64_t fragment, uint64_t payload,
			   double share)
{
	struct kvh_pack_row row = {};

	row.way = way;
	row.load = load;
	row.fragment = fragment;
	row.payload = payload;
	row.share = share;
	row.rate = 50;
	row.submit_us_per_gb = 1000 * share; /* so that worse is another row's */
	row.other_us_per_gb = 1000;
	row.decided = "";
	return row;
}

TEST(Figures, NothingMeasuredIsNoFigure)
{
	const struct kvh_pack_report report = {};

	EXPECT_EQ(Figures(report).n, 0u);
}

TEST(Figures, TheWorstRowOfItsKindCounts)
{
	std::vector<struct kvh_pack_row> rows = {
		row_of(KVH_WAY_KVHOIST, false, 2 * KIB, 2 * MIB, 0.985),
		row_of(KVH_WAY_KVHOIST, false, 4 * KIB, 32 * MIB, 0.99),
		row_of(KVH_WAY_KVHOIST, false, 4 * KIB, 512 * KIB, 0.96),
		row_of(KVH_WAY_KVHOIST, true, 4 * KIB, 2 * MIB, 0.5),
		row_of(KVH_WAY_COPIES, false, 4 * KIB, 2 * MIB, 0.01),
		row_of(KVH_WAY_KVHOIST, false, 4 * KIB, 2 * MIB, 0.02), /* contiguous pages */
	};
	struct kvh_pack_report report = {};

	rows[5].order = KVH_PAGES_CONTIGUOUS;
	report.rows = rows.data();
	report.n_rows = rows.size();
	const Figures figures(report);
	const struct kvh_figure *large = figures.find("alone, frames >= 2 MiB, D2H");
	const struct kvh_figure *medium = figures.find("alone, frames of 512 KiB, D2H");
	const struct kvh_figure *load = figures.find("alone, frames >= 2 MiB, H2D");
	const struct kvh_figure *submit = figures.find("CPU of the submitting thread, D2H");
	const struct kvh_figure *cores = figures.find("host CPU, link full, D2H");

	ASSERT_TRUE(large && medium && load && submit && cores);
	EXPECT_NEAR(large->reached, 98.5, 1e-9);
	EXPECT_STREQ(large->where, "2 KiB in frames of 2048 KiB");
	EXPECT_TRUE(kvh_figure_met(large));
	EXPECT_NEAR(medium->reached, 96, 1e-9);
	EXPECT_FALSE(kvh_figure_met(medium));
	EXPECT_FALSE(kvh_figure_met(load));
	EXPECT_NEAR(submit->reached, 990, 1e-9) << "the most, not the least";
	EXPECT_NEAR(cores->reached, 1990 * 50 / 1e6, 1e-9);
	EXPECT_TRUE(kvh_figure_met(cores));
	EXPECT_EQ(figures.find("alone, frames of 128 KiB, D2H"), nullptr);
}

/* As if it were the worst of all, and not as if it were not there. */
TEST(Figures, ARowThatWasNotMeasuredMissesIt)
{
	std::vector<struct kvh_pack_row> rows = {
		row_of(KVH_WAY_KVHOIST, false, 4 * KIB, 2 * MIB, 0.99),
		row_of(KVH_WAY_KVHOIST, false, 8 * KIB, 2 * MIB, 0),
		row_of(KVH_WAY_KVHOIST, false, 16 * KIB, 2 * MIB, 0.5),
		row_of(KVH_WAY_COPIES, false, 4 * KIB, 2 * MIB, 0),
	};
	struct kvh_pack_report report = {};

	for (struct kvh_pack_row &row : rows)
		row.right = true;
	report.rows = rows.data();
	report.n_rows = rows.size();
	rows[3].error = -EIO;
	EXPECT_TRUE(kvh_pack_report_right(&report)) << "others' way";
	EXPECT_EQ(Figures(report).find("alone, frames >= 2 MiB, D2H")->error, 0);
	rows[1].error = -ENOSPC;
	EXPECT_FALSE(kvh_pack_report_right(&report));
	const Figures figures(report);

	for (const char *name : {"alone, frames >= 2 MiB, D2H", "host CPU, link full, D2H",
				 "CPU of the submitting thread, D2H"}) {
		const struct kvh_figure *figure = figures.find(name);

		ASSERT_NE(figure, nullptr) << name;
		EXPECT_EQ(figure->error, -ENOSPC) << name;
		EXPECT_FALSE(kvh_figure_met(figure)) << name;
		EXPECT_STREQ(figure->where, "8 KiB in frames of 2048 KiB") << name;
	}
	rows[1].way = KVH_WAY_DIRECT;
	rows[1].error = -EOPNOTSUPP;
	EXPECT_TRUE(kvh_pack_report_right(&report)) << "there is no such way for its shape";
}

TEST(Figures, OfWhatOthersLoseOnlyTheMoversRowsCount)
{
	struct kvh_beside_row rows[3] = {};
	struct kvh_pack_report report = {};

	for (struct kvh_beside_row &row : rows) {
		row.way = KVH_PUMP_KVHOIST;
		row.kernel = KVH_LOAD_WAVE;
		row.fragment = 4 * KIB;
		row.has_link = true;
		row.share = 0.95;
		row.over_link = 0.02;
	}
	rows[1].way = KVH_PUMP_COPY;
	rows[1].has_link = false;
	rows[1].share = 0.1;
	rows[2].kernel = KVH_LOAD_GEMM_64;
	rows[2].over_link = 0.04;
	report.beside.rows = rows;
	report.beside.n = 3;
	const Figures figures(report);
	const struct kvh_figure *share = figures.find("beside other kernels, D2H");
	const struct kvh_figure *lost = figures.find(
		"what they lose beyond the link's price, D2H");

	ASSERT_TRUE(share && lost);
	EXPECT_NEAR(share->reached, 95, 1e-9);
	EXPECT_TRUE(kvh_figure_met(share));
	EXPECT_NEAR(lost->reached, 4, 1e-9);
	EXPECT_FALSE(kvh_figure_met(lost));
	EXPECT_STREQ(lost->where, "64x8192x8192, 4 KiB");

	rows[0].error = -EIO;
	rows[0].has_link = false;
	EXPECT_EQ(Figures(report).find("beside other kernels, D2H")->error, -EIO);
	EXPECT_EQ(Figures(report).find(lost->name)->error, -EIO);
}

/* Of gentle stores those whose runs are long enough. */
TEST(Figures, GentleIsAboutLongRuns)
{
	struct kvh_beside_row rows[2] = {};
	struct kvh_pack_report report = {};

	for (struct kvh_beside_row &row : rows) {
		row.way = KVH_PUMP_GENTLE;
		row.fragment = 4 * KIB;
		row.has_link = true;
		row.share = 0.4;
		row.over_link = 0.1;
	}
	report.beside.rows = rows;
	report.beside.n = 2;
	EXPECT_EQ(Figures(report).n, 0u);
	rows[1].fragment = 16 * KIB;
	rows[1].share = 0.71;
	rows[1].over_link = -0.01;
	const Figures figures(report);
	ASSERT_EQ(figures.n, 2u);
	EXPECT_NEAR(figures.list[0].reached, 71, 1e-9);
	EXPECT_TRUE(kvh_figure_met(&figures.list[0]));
	EXPECT_TRUE(kvh_figure_met(&figures.list[1]));

	/* Nothing that could be seen is nothing; and the report has what it was. */
	rows[1].over_link = 0.0049;
	const Figures little(report);
	EXPECT_TRUE(kvh_figure_met(&little.list[1]));
	EXPECT_NEAR(little.list[1].reached, 0.49, 1e-9);
	rows[1].over_link = 0.0051;
	const Figures more(report);
	EXPECT_FALSE(kvh_figure_met(&more.list[1]));
}

TEST(Figures, LatencyInMicroseconds)
{
	struct kvh_pack_report report = {};

	report.latency.n = 2;
	report.latency.rows[0].mode = KVH_LATENCY_NOTICE;
	report.latency.rows[0].p50_ns = 39900;
	report.latency.rows[0].p99_ns = 201000;
	report.latency.rows[1].mode = KVH_LATENCY_SPIN;
	report.latency.rows[1].error = -EOPNOTSUPP;
	const Figures figures(report);
	const struct kvh_figure *p50 = figures.find("from its end to the user, p50, D2H");
	const struct kvh_figure *p99 = figures.find("from its end to the user, p99, D2H");

	ASSERT_TRUE(p50 && p99);
	EXPECT_TRUE(kvh_figure_met(p50));
	EXPECT_FALSE(kvh_figure_met(p99));
	const struct kvh_figure *spin = figures.find("the same with gpu.spin, p50, D2H");
	ASSERT_NE(spin, nullptr);
	EXPECT_EQ(spin->error, -EOPNOTSUPP);
	EXPECT_FALSE(kvh_figure_met(spin));
	EXPECT_EQ(figures.find("the same with gpu.spin, p50, H2D"), nullptr);
}

} // namespace
