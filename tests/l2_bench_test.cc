// SPDX-License-Identifier: Apache-2.0
//
// l2_bench_test.cc - `kvhoist-bench l2` run as a user does: its options, what it
// prints, and that it sees wrong bytes and leaves nothing behind. No figure is
// held to anything: that is what measurements are for.
#include "tests/l2_harness.h"
#include "tests/run_program.h"

#include <cstdlib>
#include <fstream>
#include <thread>

namespace
{

using Args = std::vector<std::string>;

Args with(Args args, const Args &more)
{
	args.insert(args.begin(), "l2");
	args.insert(args.end(), more.begin(), more.end());
	return args;
}

const Args kShort = {"--size=256K", "--depth=4", "--pairs=1", "--seconds=0.01"};

double real(const json_t *object, const char *name)
{
	const json_t *value = json_object_get(object, name);

	EXPECT_TRUE(json_is_number(value)) << name;
	return json_number_value(value);
}

bool has_fio()
{
	return system("fio --version >/dev/null 2>&1") == 0;
}

TEST(L2Bench, WrongOptionsAreNamed)
{
	const struct {
		Args args;
		const char *named;
	} bad[] = {
		{{}, "--l2"},
		{{"--l2=mem", "--size=5000"}, "5000"},
		{{"--l2=mem", "--size=4K"}, "4K"},
		{{"--l2=mem", "--mode=stor"}, "stor"},
		{{"--l2=mem", "--depth=0"}, "--depth"},
		{{"--l2=mem", "--pairs=102"}, "102"},
		{{"--l2=mem", "--seconds=x"}, "--seconds"},
		{{"--l2=mem", "--verify=maybe"}, "maybe"},
		{{"--l2=mem", "--frames=-1"}, "--frames"},
		{{"--l2=mem", "--frame-bytes=9000"}, "9000"},
		{{"--l2=mem", "stray"}, "stray"},
	};

	for (const auto &b : bad) {
		const Outcome o = run(with(b.args, {}));

		EXPECT_EQ(o.status, 2) << b.named;
		EXPECT_NE(o.err.find(b.named), std::string::npos) << o.err;
		EXPECT_EQ(o.out, "");
	}
}

TEST(L2Bench, WhatIsThereIsNotTouched)
{
	const TempDir dir;
	std::ofstream(dir.path("cache")) << "somebody's";
	const Outcome o = run(
		with({"--l2=nvme:" + dir.path("cache") + ",size=16M,format=yes"}, kShort));

	EXPECT_EQ(o.status, 2);
	EXPECT_NE(o.err.find("there already"), std::string::npos) << o.err;
	EXPECT_EQ(std::filesystem::file_size(dir.path("cache")), 10u);
}

TEST(L2Bench, SeveralFilesAreRefusedAndNoneIsMade)
{
	const TempDir dir;

	for (const Args &mode : {Args{}, Args{"--mode=open"}}) {
		const Outcome o = run(with({"--l2=nvme:" + dir.path("a") +
					    ",stripe=" + dir.path("b") + ",size=16M"},
					   mode.empty() ? kShort : mode));

		EXPECT_EQ(o.status, 2);
		EXPECT_NE(o.err.find("stripe="), std::string::npos) << o.err;
		EXPECT_FALSE(std::filesystem::exists(dir.path("a")));
		EXPECT_FALSE(std::filesystem::exists(dir.path("b")));
	}
}

TEST(L2Bench, EveryModeOfAFileBesideFio)
{
	const TempDir dir;
	const Outcome o = run(
		with({"--l2=nvme:" + dir.path("f") + ",size=32M", "--json"}, kShort));
	const Json json(o.out);
	const json_t *rows = json_object_get(json.root(), "rows");
	const char *modes[] = {"store", "load", "mixed", "probe"};

	ASSERT_EQ(o.status, 0) << o.err;
	ASSERT_EQ(json_array_size(rows), 4u);
	for (size_t i = 0; i < 4; i++) {
		const json_t *row = json_array_get(rows, i);
		const std::string mode = json_string_value(json_object_get(row, "mode"));

		EXPECT_EQ(mode, modes[i]);
		EXPECT_GT(real(row, "frames_per_s"), 0) << mode;
		EXPECT_GT(real(row, "frames"), 0) << mode;
		EXPECT_LE(real(row, "p50_ns"), real(row, "p99_ns")) << mode;
		EXPECT_LE(real(row, "p99_ns"), real(row, "p999_ns")) << mode;
		// Mixed, what is read may have been evicted by what is stored.
		EXPECT_LE(real(row, "missed"), mode == "mixed" ? real(row, "frames") : 0);
		EXPECT_EQ(real(row, "failed"), 0) << mode;
		EXPECT_EQ(real(row, "corrupt"), 0) << mode;
		if (mode == "probe")
			continue;
		EXPECT_GT(real(row, "gb_per_s"), 0) << mode;
		EXPECT_GT(real(row, "cpu_s_per_gb"), 0) << mode;
		if (has_fio()) {
			EXPECT_GT(real(row, "fio_gb_per_s"), 0) << mode;
			EXPECT_NEAR(real(row, "share_of_fio"),
				    real(row, "gb_per_s") / real(row, "fio_gb_per_s"), 1e-6)
				<< mode;
		} else {
			EXPECT_TRUE(json_is_null(json_object_get(row, "share_of_fio")));
		}
	}
	EXPECT_TRUE(dir.empty()) << "it removes what it made";
	if (!has_fio())
		GTEST_SKIP() << "fio is not installed: nothing was compared";
}

TEST(L2Bench, WithoutFioItSaysSo)
{
	const TempDir dir; // a PATH without programs
	const std::string path = getenv("PATH");
	setenv("PATH", dir.path().c_str(), 1);
	const Outcome o = run(with({"--l2=mem:size=16M", "--mode=store"}, kShort));
	setenv("PATH", path.c_str(), 1);

	EXPECT_EQ(o.status, 0) << o.err;
	EXPECT_NE(o.err.find("fio is not installed"), std::string::npos) << o.err;
	EXPECT_NE(o.out.find("fio: not installed"), std::string::npos) << o.out;
}

TEST(L2Bench, EveryAdapterCanBeMeasured)
{
	const TempDir dir;

	for (const std::string &spec :
	     {std::string("mem:size=16M"), std::string("null"),
	      "fs:" + dir.path("d") + ",size=16M", "nvme:" + dir.path("f") + ",size=16M"}) {
		for (const char *raw : {"--raw", "--workers=1"}) {
			const Outcome o = run(
				with({"--l2=" + spec, "--no-fio", "--json", raw}, kShort));
			const Json json(o.out);

			EXPECT_EQ(o.status, 0) << spec << raw << o.err;
			EXPECT_GE(json_array_size(json_object_get(json.root(), "rows")), 1u);
			EXPECT_TRUE(dir.empty()) << spec;
		}
	}
}

// What it verifies, and the control: without verifying nothing is seen.
TEST(L2Bench, CorruptFramesAreCounted)
{
	const std::string spec = "fault:no-such-file,script=get x*:corrupt,next=mem:size=16M";

	for (const bool verify : {true, false}) {
		const Outcome o = run(with({"--l2=" + spec, "--mode=load", "--json",
					    verify ? "--verify=on" : "--verify=off"},
					   kShort));
		const Json json(o.out);
		const json_t *row = json_array_get(json_object_get(json.root(), "rows"), 0);

		EXPECT_EQ(o.status, verify ? 1 : 0) << o.err;
		EXPECT_EQ(real(row, "corrupt") > 0, verify);
		EXPECT_EQ(real(row, "frames") > 0, !verify);
	}
}

TEST(L2Bench, RequestsThatFailAreCounted)
{
	const Outcome o = run(
		with({"--l2=fault:no-such-file,script=get x*:fail,next=mem:size=16M",
		      "--mode=load", "--json"},
		     kShort));
	const Json json(o.out);

	EXPECT_EQ(o.status, 1);
	EXPECT_GT(real(json_array_get(json_object_get(json.root(), "rows"), 0), "failed"), 0);
}

TEST(L2Bench, OpenFindsWhatWasStored)
{
	const TempDir dir;
	const Outcome o = run({"l2", "--l2=nvme:" + dir.path("f") + ",size=16M", "--mode=open",
			       "--frames=500", "--frame-bytes=12K", "--json"});
	const Json json(o.out);
	const json_t *open = json_object_get(json.root(), "open");

	ASSERT_EQ(o.status, 0) << o.err;
	EXPECT_EQ(real(open, "open_frames"), 500);
	EXPECT_EQ(real(open, "open_frame_bytes"), 12288);
	EXPECT_EQ(real(open, "open_clean_frames"), 500);
	EXPECT_EQ(real(open, "open_crash_frames"), 501) << "with the one of the killed process";
	EXPECT_GT(real(open, "open_clean_s"), 0);
	EXPECT_GT(real(open, "open_crash_s"), 0);
	EXPECT_TRUE(dir.empty());
}

TEST(L2Bench, OpenSaysWhatItCannotTime)
{
	const TempDir dir;
	const Outcome small = run({"l2", "--l2=nvme:" + dir.path("f") + ",size=16M",
				   "--mode=open", "--frames=5000"});
	const Outcome gone = run({"l2", "--l2=mem", "--mode=open", "--frames=5"});

	EXPECT_NE(small.status, 0);
	EXPECT_NE(small.err.find("do not fit"), std::string::npos) << small.err;
	EXPECT_TRUE(dir.empty());
	EXPECT_NE(gone.status, 0);
	EXPECT_NE(gone.err.find("keeps nothing"), std::string::npos) << gone.err;
}

TEST(L2Bench, ASignalEndsItInGoodOrder)
{
	const TempDir dir;
	Program program(with({"--l2=nvme:" + dir.path("f") + ",size=16M", "--no-fio",
			      "--size=64K", "--mode=store", "--seconds=600", "--pairs=1"},
			     {}));

	while (!std::filesystem::exists(dir.path("f"))) // made by the adapter's open
		std::this_thread::yield();
	program.kill(SIGTERM);
	EXPECT_EQ(program.wait(), 128 + SIGTERM);
	EXPECT_TRUE(dir.empty());
}

} // namespace
