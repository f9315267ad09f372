/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay_test.cc - kvhoist-bench from outside: arguments, exit status, the numbers
 * of replays that are known from the trace alone, and that wrong bytes are found.
 */
#include "tests/run_program.h"

#include "bench/runtime.h"
#include "bench/trace.h"

#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <vector>

namespace
{

using Args = std::vector<std::string>;

Args operator+(Args a, const Args &b)
{
	a.insert(a.end(), b.begin(), b.end());
	return a;
}

/* Small, but with several layers and heads. */
const Args kReplay = {"replay", "--device", "host", "--json"};

/* ---- arguments ---- */

TEST(Bench, HelpAndVersion)
{
	Outcome help = run({"help"}), version = run({"--version"}),
		replay = run({"replay", "--help"});

	EXPECT_EQ(help.status, 0);
	EXPECT_NE(help.out.find("replay"), std::string::npos);
	EXPECT_NE(help.out.find("demo"), std::string::npos);
	EXPECT_EQ(version.status, 0);
	EXPECT_EQ(version.out, std::string("kvhoist-bench ") + kvh_version() + "\n");
	EXPECT_EQ(replay.status, 0);
	for (size_t i = 0; kvh_model_at(i) != nullptr; i++)
		EXPECT_NE(replay.out.find(kvh_model_at(i)->name), std::string::npos)
			<< replay.out;
}

struct BadUse {
	const char *name;
	Args args;
	const char *complaint;
};

class BenchBadUse : public ::testing::TestWithParam<BadUse>
{
};

TEST_P(BenchBadUse, Exits2AndSaysWhy)
{
	Outcome o = run(GetParam().args);

	EXPECT_EQ(o.status, 2);
	EXPECT_NE(o.err.find(GetParam().complaint), std::string::npos) << o.err;
	EXPECT_EQ(o.out.find("stage "), std::string::npos) << "a report of nothing";
}

INSTANTIATE_TEST_SUITE_P(
	All, BenchBadUse,
	::testing::Values(
		BadUse{"NoCommand", {}, "which command"},
		BadUse{"UnknownCommand", {"repaly"}, "no command 'repaly'"},
		BadUse{"UnknownOption", {"replay", "--fast"}, "--fast"},
		BadUse{"NoOption", {"replay", "fast"}, "'fast'"},
		BadUse{"UnknownModel",
		       {"replay", "--model", "gpt-7"},
		       "no model 'gpt-7'; there are llama-3.1-8b, llama-3.1-70b-tp8, "
		       "qwen3-32b, "
		       "deepseek-v3, gpt-oss-120b"},
		BadUse{"ScaleZero", {"replay", "--scale", "0"}, "--scale 0"},
		BadUse{"ScaleAboveOne", {"replay", "--scale", "1.5"}, "--scale 1.5"},
		BadUse{"ScaleNan", {"replay", "--scale", "nan"}, "--scale nan"},
		BadUse{"ScaleText", {"replay", "--scale", "0.5x"}, "--scale 0.5x"},
		BadUse{"RequestsZero", {"replay", "--requests", "0"}, "--requests 0"},
		BadUse{"RequestsNegative", {"replay", "--requests", "-1"}, "--requests -1"},
		BadUse{"L1Text", {"replay", "--l1", "much"}, "--l1 much"},
		BadUse{"L1TooSmall", {"replay", "--l1", "64K"}, "--l1 64K"},
		BadUse{"SeedText", {"replay", "--trace", "gen:one"}, "gen:one"},
		BadUse{"SeedEmpty", {"replay", "--trace", "gen:"}, "gen:"},
		BadUse{"NoTrace",
		       {"replay", "--trace", "/nonexistent.jsonl"},
		       "/nonexistent.jsonl: No such file"},
		BadUse{"Device",
		       {"replay", "--requests", "1", "--scale", "0.001", "--device", "tpu"},
		       "'tpu'"},
		BadUse{"Policy",
		       {"replay", "--requests", "1", "--scale", "0.001", "--policy", "best"},
		       "best"},
		BadUse{"Adapter",
		       {"replay", "--requests", "1", "--scale", "0.001", "--l2", "tape:X"},
		       "tape"},
		BadUse{"AdapterTwice",
		       {"replay", "--requests", "1", "--scale", "0.001", "--l2", "fs:/tmp/x",
			"--l2", "fs:/tmp/x"},
		       "fs:/tmp/x"},
		BadUse{"DemoArgument", {"demo", "fast"}, "'fast'"},
		BadUse{"DemoDevice", {"demo", "--device", "tpu"}, "'tpu'"}),
	[](const ::testing::TestParamInfo<BadUse> &info) { return info.param.name; });

TEST(Bench, BadTraceLineExits2WithFileAndLine)
{
	TempDir dir;
	std::ofstream(dir.path("t.jsonl"))
		<< "{\"timestamp\": 1, \"input_length\": 4, \"output_length\": 1, "
		   "\"hash_ids\": "
		   "[1]}\n"
		<< "{\"timestamp\": 1, \"input_length\": -4, \"output_length\": 1, "
		   "\"hash_ids\": [1]}\n";
	Outcome o = run(kReplay + Args{"--trace", dir.path("t.jsonl")});

	EXPECT_EQ(o.status, 2);
	EXPECT_NE(o.err.find(dir.path("t.jsonl") + ":2: input_length is negative: -4"),
		  std::string::npos)
		<< o.err;
}

TEST(Bench, L2ThatCannotBeMadeFailsAndSaysWhich)
{
	Outcome o = run(kReplay + Args{"--requests", "1", "--scale", "0.001", "--l2",
				       "nvme:/nonexistent/file,size=64M"});

	EXPECT_EQ(o.status, 1);
	EXPECT_NE(o.err.find("/nonexistent/file"), std::string::npos) << o.err;
}

TEST(Bench, TooLittleMemorySaysTheNumbers)
{
	/* 4,500 blocks of 128 MiB: more than a machine that runs tests has. */
	Outcome o = run({"replay", "--model", "qwen3-32b", "--requests", "1600"});

	EXPECT_EQ(o.status, 1);
	EXPECT_NE(o.err.find("distinct blocks takes"), std::string::npos) << o.err;
	EXPECT_NE(o.err.find("--scale"), std::string::npos) << o.err;
}

TEST(Bench, OutputThatCannotBeWrittenIsNoSuccess)
{
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

	if (full < 0)
		GTEST_SKIP() << "no /dev/full";
	Program program({"replay", "--device", "host", "--requests", "5", "--scale", "0.001"},
			full);
	EXPECT_EQ(program.wait(), 1);
	EXPECT_NE(program.err.find("could not be written"), std::string::npos) << program.err;
	close(full);
}

/* ---- replays ---- */

/* With an unbounded cache, a block is a hit if and only if all up to it were seen. */
struct Expected {
	int64_t references = 0, distinct = 0, hits = 0;
};

Expected expect_unbounded(uint64_t seed, size_t n_requests)
{
	struct kvh_trace trace;
	std::set<uint64_t> seen;
	Expected e;

	EXPECT_EQ(kvh_trace_generate(seed, n_requests, &trace), 0);
	for (size_t i = 0; i < trace.n_requests; i++) {
		const struct kvh_trace_request &r = trace.requests[i];
		bool prefix = true;

		for (uint32_t k = 0; k < r.n_ids; k++) {
			prefix = prefix && seen.count(trace.ids[r.first + k]) != 0;
			e.hits += prefix;
		}
		e.references += r.n_ids;
		seen.insert(trace.ids + r.first, trace.ids + r.first + r.n_ids);
	}
	e.distinct = static_cast<int64_t>(seen.size());
	kvh_trace_free(&trace);
	return e;
}

void expect_totals(const Json &json, const Expected &e)
{
	EXPECT_EQ(json["block_references"], e.references);
	EXPECT_EQ(json["distinct_blocks"], e.distinct);
	EXPECT_EQ(json["mismatches"], 0);
	EXPECT_EQ(json["store_failed"], 0);
	EXPECT_EQ(json["l1_leases"], 0);
}

class ReplayModel : public ::testing::TestWithParam<std::string>
{
};

TEST_P(ReplayModel, UnboundedHitsWhatWasSeen)
{
	Expected e = expect_unbounded(11, 150);
	Outcome o = run(kReplay + Args{"--trace", "gen:11", "--requests", "150", "--model",
				       GetParam(), "--scale", "0.003"});

	ASSERT_EQ(o.status, 0) << o.err;
	Json json(o.out);
	expect_totals(json, e);
	EXPECT_EQ(json["requests"], 150);
	EXPECT_EQ(json["prefix_hits"], e.hits);
	EXPECT_EQ(json["evicted"], 0);
	EXPECT_EQ(json["store_no_memory"], 0);
	/* Of a window, only the last chunk of a prefix is needed. */
	if (GetParam() == "gpt-oss-120b") {
		EXPECT_GT(json["chunks_verified"], e.hits);
		EXPECT_LE(json["chunks_verified"], e.hits + 150);
		EXPECT_EQ(json["stored_chunks"], 2 * e.distinct);
	} else {
		EXPECT_EQ(json["chunks_verified"], e.hits);
		EXPECT_EQ(json["stored_chunks"], e.distinct);
	}
	EXPECT_EQ(json["loaded_chunks"], json["chunks_verified"]);
}

/* Two blocks at full size: real heads, layers and page sizes. */
TEST_P(ReplayModel, FullSize)
{
	TempDir dir;
	std::ofstream trace(dir.path("t"));

	for (const char *ids : {"[0]", "[0, 1]", "[0, 1]"})
		trace << "{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 1, "
			 "\"hash_ids\": "
		      << ids << "}\n";
	trace.close();
	Outcome o = run(kReplay +
			Args{"--trace", dir.path("t"), "--model", GetParam(), "--l1", "288M"});

	ASSERT_EQ(o.status, 0) << o.err;
	Json json(o.out);
	expect_totals(json, {5, 2, 0});
	EXPECT_EQ(json["prefix_hits"], 3);
	EXPECT_EQ(json["evicted"], 0);
}

INSTANTIATE_TEST_SUITE_P(All, ReplayModel,
			 ::testing::Values("llama-3.1-8b", "llama-3.1-70b-tp8", "qwen3-32b",
					   "deepseek-v3", "gpt-oss-120b"),
			 [](const ::testing::TestParamInfo<std::string> &info) {
				 std::string name = info.param;

				 for (char &c : name) {
					 if (c == '-' || c == '.')
						 c = '_';
				 }
				 return name;
			 });

/* The L1 holds some 40 of 600 chunks: what is hit was evicted and read back. */
class ReplayL2 : public ::testing::TestWithParam<std::string>
{
      protected:
	std::string spec() const
	{
		std::string path = dir_.path("l2");

		return GetParam() == "mem"  ? "mem:,size=256M"
		       : GetParam() == "fs" ? "fs:" + path
					    : "nvme:" + path + ",size=256M";
	}
	Outcome play(const char *requests) const
	{
		return run(kReplay + Args{"--trace", "gen:5", "--requests", requests, "--scale",
					  "0.002", "--l1", "8M", "--persist", "--l2", spec()});
	}

	TempDir dir_;
};

TEST_P(ReplayL2, EvictsAndReadsBack)
{
	Expected e = expect_unbounded(5, 200);
	Outcome o = play("200");

	ASSERT_EQ(o.status, 0) << o.err;
	Json json(o.out);
	expect_totals(json, e);
	EXPECT_GT(json["evicted"], 100);
	EXPECT_GT(json["hits_l2"], 100);
	EXPECT_EQ(json["corrupt"], 0);
	EXPECT_EQ(json["prefix_hits"], e.hits) << "nothing that was stored is lost";
	EXPECT_EQ(json["chunks_verified"], e.hits);
}

TEST_P(ReplayL2, ARestartFindsEverything)
{
	if (GetParam() == "mem")
		GTEST_SKIP() << "mem keeps nothing";
	Expected e = expect_unbounded(5, 100);
	Outcome first = play("100"), second = play("100");

	ASSERT_EQ(first.status, 0) << first.err;
	ASSERT_EQ(second.status, 0) << second.err;
	Json json(second.out);
	expect_totals(json, e);
	EXPECT_EQ(json["prefix_hits"], e.references) << "all of it was there before";
	EXPECT_EQ(json["stored_chunks"], 0);
	EXPECT_GE(json["hits_l2"], e.distinct);
}

INSTANTIATE_TEST_SUITE_P(All, ReplayL2, ::testing::Values("mem", "fs", "nvme"),
			 [](const ::testing::TestParamInfo<std::string> &info) {
				 return info.param;
			 });

/* Requests that come together run side by side, and share what they can. */
TEST(Replay, Paced)
{
	TempDir dir;
	std::ofstream trace(dir.path("t"));

	for (int i = 0; i < 60; i++)
		trace << "{\"timestamp\": " << i / 20 * 50
		      << ", \"input_length\": 2048, \"output_length\": 1, \"hash_ids\": [0, "
		      << 1 + i % 7 << ", " << 10 + i % 7 << ", " << 100 + i << "]}\n";
	trace.close();
	Outcome o = run(kReplay + Args{"--trace", dir.path("t"), "--scale", "0.01", "--paced"});

	ASSERT_EQ(o.status, 0) << o.err;
	Json json(o.out);
	EXPECT_EQ(json["requests"], 60);
	expect_totals(json, {240, 75, 0});
	EXPECT_EQ(json["stored_chunks"], 75);
	EXPECT_GT(json["prefix_hits"], 60) << "at least what came later";
	EXPECT_GE(json_real_value(json_object_get(json.root(), "wall_seconds")), 0.1);
}

TEST(Replay, TableSaysWhatItDid)
{
	Outcome o = run(
		{"replay", "--device", "host", "--requests", "20", "--scale", "0.0001"});

	ASSERT_EQ(o.status, 0) << o.err;
	EXPECT_NE(o.out.find("llama-3.1-8b: 1 layer, 1 KV head of 16 bytes; 32 bytes a token"),
		  std::string::npos)
		<< o.out;
	EXPECT_NE(o.out.find(" 0 mismatches\n"), std::string::npos) << o.out;
	EXPECT_EQ(o.err, "") << "no progress where stderr is no terminal";
}

TEST(Replay, OfSeveralDevicesItPlaysOnTheFirst)
{
	Outcome replay = run(
		{"replay", "--device", "host,host", "--requests", "5", "--scale", "0.0001"});
	Outcome status = run(
		{"status", "--device", "host,host", "--spaces", "1", "--snapshots", "1"});

	ASSERT_EQ(replay.status, 0) << replay.err;
	EXPECT_NE(replay.out.find(" 0 mismatches\n"), std::string::npos) << replay.out;
	ASSERT_EQ(status.status, 0) << status.err;
	EXPECT_NE(status.out.find("host:0: host, "), std::string::npos) << status.out;
	EXPECT_NE(status.out.find("host:1: host, "), std::string::npos) << status.out;
}

TEST(Replay, EmptyPromptsAreRequestsToo)
{
	TempDir dir;
	std::ofstream(dir.path("t")) << "{\"timestamp\": 0, \"input_length\": 0, "
					"\"output_length\": 0, \"hash_ids\": []}\n";
	Outcome o = run(kReplay + Args{"--trace", dir.path("t"), "--scale", "0.001"});

	ASSERT_EQ(o.status, 0) << o.err;
	EXPECT_EQ(Json(o.out)["requests"], 1);
}

/* The real one is no part of the project: $KVH_TRACE, or beside the tree. */
TEST(Replay, RealTraceHasItsTotals)
{
	const char *env = getenv("KVH_TRACE");
	std::string path = env != nullptr ? env
					  : KVH_SOURCE_DIR
				   "/../shared/traces/conversation_trace.jsonl";

	if (env == nullptr && access(path.c_str(), R_OK) != 0)
		GTEST_SKIP() << path << " is not there";
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	GTEST_SKIP() << "4 GiB of L1, several times as much under a sanitizer";
#elif defined(__has_feature)
#	if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
	GTEST_SKIP() << "4 GiB of L1, several times as much under a sanitizer";
#	endif
#endif
	Outcome o = run(kReplay + Args{"--trace", path, "--scale", "0.0001"});
	if (o.status == 1 && o.err.find("distinct blocks takes") != std::string::npos)
		GTEST_SKIP() << o.err;
	ASSERT_EQ(o.status, 0) << o.err;
	Json json(o.out);
	expect_totals(json, {288500, 182790, 0});
	EXPECT_EQ(json["requests"], 12031);
	EXPECT_EQ(json["prefix_hits"], 105710);
	EXPECT_EQ(json["chunks_verified"], 105710);
}

/* ---- signals ---- */

TEST(Replay, InterruptEndsInGoodOrder)
{
	TempDir dir;
	/* The second request is due in a century. */
	std::ofstream(dir.path("t"))
		<< "{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 1, "
		   "\"hash_ids\": [1]}\n"
		<< "{\"timestamp\": 3155760000000, \"input_length\": 9, \"output_length\": 1, "
		   "\"hash_ids\": [1]}\n";
	Program program({"replay", "--device", "host", "--scale", "0.001", "--paced", "--trace",
			 dir.path("t")});

	ASSERT_TRUE(program.wait_for("\nL1 "));
	program.kill(SIGINT);
	EXPECT_EQ(program.wait(), 128 + SIGINT) << program.err;
	EXPECT_NE(program.out.find("0 mismatches"), std::string::npos) << program.out;
}

TEST(Demo, InterruptLeavesNothingBehind)
{
	TempDir dir;
	Program program({"demo", "--device", "host", "--dir", dir.path()});

	ASSERT_TRUE(program.wait_for("distinct blocks of"));
	program.kill(SIGTERM);
	EXPECT_EQ(program.wait(), 128 + SIGTERM) << program.err;
	EXPECT_NE(program.out.find("demo: FAILED"), std::string::npos) << program.out;
	EXPECT_TRUE(dir.empty());
}

TEST(Demo, AClosedPipeLeavesNothingBehind)
{
	TempDir dir;
	int ends[2];

	ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
	close(ends[0]);
	Program program({"demo", "--device", "host", "--dir", dir.path()}, ends[1]);
	close(ends[1]);
	EXPECT_EQ(program.wait(), 128 + SIGPIPE) << program.err;
	EXPECT_TRUE(dir.empty());
}

/* ---- the negative control ---- */

/* Stores, under the key of block `id`, what belongs to block `other`: sealed and
 * sound, so that only the replay's own check can tell. */
void store_as(const std::string &l2, const struct kvh_geometry *geo, uint64_t id,
	      uint64_t other)
{
	struct kvh_engine_opts engine_opts;
	struct kvh_runtime_opts rt_opts = {};
	struct kvh_space_desc desc;
	struct kvh_engine *engine = nullptr;
	struct kvh_queue *queue = nullptr;
	struct kvh_runtime *rt = nullptr;
	struct kvh_runtime_chunk chunk = {};
	struct kvh_store_chunk store = {};
	struct kvh_store_opts opts;
	struct kvh_event event;
	const char *spec = l2.c_str();
	std::vector<uint32_t> pages(kvh_geometry_chunk_pages(geo, 0));
	kvh_pool_t pool;
	kvh_job_t job;
	int32_t status = KVH_PENDING;

	rt_opts.device = "host";
	rt_opts.geo = geo;
	rt_opts.n_pages = static_cast<uint32_t>(pages.size());
	ASSERT_EQ(kvh_runtime_open(&rt_opts, &rt), 0);
	kvh_engine_opts_init(&engine_opts, sizeof(engine_opts));
	engine_opts.device = "host";
	engine_opts.l1_bytes = 64 << 20;
	engine_opts.l2 = &spec;
	engine_opts.n_l2 = 1;
	ASSERT_EQ(kvh_engine_open(&engine_opts, &engine), 0);
	kvh_geometry_space(geo, &desc);
	ASSERT_EQ(kvh_space_open(engine, &desc, &chunk.key.space), 0);
	ASSERT_EQ(kvh_space_chunk_bytes(engine, chunk.key.space, 0),
		  static_cast<int64_t>(kvh_geometry_chunk_bytes(geo, 0)));
	ASSERT_EQ(kvh_queue_open(engine, 4, &queue), 0);
	ASSERT_EQ(kvh_runtime_register(rt, engine, chunk.key.space, &pool), 0);
	ASSERT_TRUE(kvh_runtime_pages_take(rt, rt_opts.n_pages, pages.data()));
	chunk.pages = pages.data();
	kvh_fill_hash(0, other, &chunk.key.hash);
	ASSERT_EQ(kvh_runtime_fill(rt, &chunk, 1), 0);
	store.key = chunk.key;
	kvh_fill_hash(0, id, &store.key.hash);
	store.pages = pages.data();
	store.n_pages = rt_opts.n_pages;
	kvh_store_opts_init(&opts, sizeof(opts));
	opts.flags = KVH_STORE_PERSISTED;
	ASSERT_EQ(kvh_store(queue, pool, &store, 1, &opts, &status, &job), 0);
	do {
		ASSERT_EQ(kvh_queue_wait(queue, &event, 1, UINT64_MAX), 1);
	} while (event.type != KVH_EVENT_DONE);
	EXPECT_EQ(status, 0);
	kvh_queue_close(queue);
	EXPECT_EQ(kvh_engine_close(engine, UINT64_MAX), 0);
	kvh_runtime_close(rt);
}

TEST(Replay, WrongBytesAreFoundAndExit1)
{
	TempDir dir;
	struct kvh_geometry geo;
	std::string l2 = "fs:" + dir.path("l2");

	std::ofstream(dir.path("t"))
		<< "{\"timestamp\": 0, \"input_length\": 1500, \"output_length\": 1, "
		   "\"hash_ids\": [7, 8, 9]}\n";
	ASSERT_EQ(kvh_geometry_make(kvh_model_at(0), 0.01, &geo), 0);
	store_as(l2, &geo, 7, 7);
	store_as(l2, &geo, 8, 1008);
	store_as(l2, &geo, 9, 9);
	kvh_geometry_free(&geo);
	Outcome o = run(kReplay +
			Args{"--trace", dir.path("t"), "--scale", "0.01", "--l2", l2});
	EXPECT_EQ(o.status, 1);
	Json json(o.out);
	EXPECT_EQ(json["prefix_hits"], 3);
	EXPECT_EQ(json["chunks_verified"], 2);
	EXPECT_EQ(json["mismatches"], 1);
	EXPECT_NE(o.err.find("MISMATCH: request 1, block 8, group 0, plane 0, page 0"),
		  std::string::npos)
		<< o.err;
}

} // namespace
