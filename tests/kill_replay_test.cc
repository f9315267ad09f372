/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill_replay_test.cc - a replay is killed with SIGKILL at random moments of its
 * run and started again on the same L2, 20 times: what it finds there must be right,
 * byte by byte, every time. $KVHOIST_SEED repeats a run.
 */
#include "tests/run_program.h"

#include <chrono>
#include <random>
#include <string>

namespace
{

constexpr int kKills = 20;

uint64_t seed_of_run()
{
	const char *env = getenv("KVHOIST_SEED");

	return env != nullptr ? strtoull(env, nullptr, 0) : std::random_device()();
}

class KillReplay : public ::testing::TestWithParam<std::string>
{
      protected:
	std::vector<std::string> args(const std::string &name, bool persist) const
	{
		std::string path = dir_.path(name);
		std::vector<std::string> a = {
			"replay",
			"--device",
			"host",
			"--json",
			"--trace",
			"gen:9",
			"--requests",
			"100",
			"--scale",
			"0.002",
			"--l1",
			"8M",
			"--l2",
			GetParam() == "fs" ? "fs:" + path : "nvme:" + path + ",size=256M"};

		if (persist)
			a.push_back("--persist");
		return a;
	}

	TempDir dir_;
};

TEST_P(KillReplay, NeverServesWrongBytes)
{
	uint64_t seed = seed_of_run();
	std::mt19937_64 random(seed);
	int kills = 0, runs = 0;

	SCOPED_TRACE("KVHOIST_SEED=" + std::to_string(seed));
	auto began = std::chrono::steady_clock::now();
	ASSERT_EQ(run(args("whole", true)).status, 0);
	int64_t whole_us = std::chrono::duration_cast<std::chrono::microseconds>(
				   std::chrono::steady_clock::now() - began)
				   .count();
	/* A run may end before its moment comes; it must have been right, then. */
	for (; kills < kKills && runs < 20 * kKills; runs++) {
		std::uniform_int_distribution<int64_t> moment(0, whole_us);
		Program program(args("killed", random() % 2 == 0));

		if (!program.ends_within_us(moment(random)))
			program.kill(SIGKILL);
		int status = program.wait();
		ASSERT_TRUE(status == 0 || status == 1000 + SIGKILL) << status << program.err;
		ASSERT_EQ(program.err.find("MISMATCH"), std::string::npos) << program.err;
		kills += status == 1000 + SIGKILL;
	}
	EXPECT_EQ(kills, kKills) << "runs are too short to be killed";
	Outcome last = run(args("killed", true));
	ASSERT_EQ(last.status, 0) << last.err;
	Json json(last.out);
	EXPECT_EQ(json["mismatches"], 0);
	EXPECT_GT(json["hits_l2"], 0) << "nothing outlived the kills: they proved nothing";
	EXPECT_EQ(json["chunks_verified"], json["prefix_hits"]);
	RecordProperty("kills", kills);
	RecordProperty("runs", runs);
}

INSTANTIATE_TEST_SUITE_P(All, KillReplay, ::testing::Values("fs", "nvme"),
			 [](const ::testing::TestParamInfo<std::string> &info) {
				 return info.param;
			 });

} // namespace
