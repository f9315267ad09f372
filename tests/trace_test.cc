/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace_test.cc - traces: what a good file says, what is said of a bad one, and
 * what the generator promises.
 */
#include "bench/trace.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

namespace
{

const char *const kGood = "{\"timestamp\": 5, \"input_length\": 600, \"output_length\": 7, "
			  "\"hash_ids\": [3, 4]}\n";

class TraceFile : public ::testing::Test
{
      protected:
	TraceFile()
	{
		char path[] = "/tmp/kvhoist-trace-XXXXXX";
		int fd = mkstemp(path);

		EXPECT_GE(fd, 0);
		close(fd);
		path_ = path;
	}
	~TraceFile() override
	{
		unlink(path_.c_str());
		kvh_trace_free(&trace_);
	}
	int read(const std::string &text, size_t max_requests = 0)
	{
		FILE *file = fopen(path_.c_str(), "w");

		EXPECT_NE(file, nullptr);
		EXPECT_EQ(fwrite(text.data(), 1, text.size(), file), text.size());
		fclose(file);
		return kvh_trace_read(path_.c_str(), max_requests, &trace_, what_,
				      sizeof(what_));
	}
	/* The complaint, without the file's name. */
	std::string complaint() const
	{
		std::string what = what_;

		EXPECT_EQ(what.compare(0, path_.size(), path_), 0) << what;
		return what.substr(path_.size());
	}

	std::string path_;
	char what_[512] = "";
	struct kvh_trace trace_ = {};
};

TEST_F(TraceFile, ReadsRequests)
{
	ASSERT_EQ(
		read(std::string(kGood) + "\n" +
		     "{\"hash_ids\": [], \"input_length\": 0, \"more\": {}, \"output_length\": "
		     "0, \"timestamp\": 9}\r\n" +
		     "{\"timestamp\": 10, \"input_length\": 1, \"output_length\": 1, "
		     "\"hash_ids\": [9223372036854775807]}"),
		0)
		<< what_;
	ASSERT_EQ(trace_.n_requests, 3u);
	EXPECT_EQ(trace_.requests[0].timestamp_ms, 5u);
	EXPECT_EQ(trace_.requests[0].input_length, 600u);
	EXPECT_EQ(trace_.requests[0].output_length, 7u);
	ASSERT_EQ(trace_.requests[0].n_ids, 2u);
	EXPECT_EQ(trace_.ids[trace_.requests[0].first + 1], 4u);
	EXPECT_EQ(trace_.requests[1].n_ids, 0u);
	EXPECT_EQ(trace_.ids[trace_.requests[2].first], uint64_t{INT64_MAX});
	EXPECT_EQ(trace_.n_ids, 3u);
	EXPECT_EQ(kvh_trace_longest(&trace_), 2u);
}

TEST_F(TraceFile, ReadsNoMoreThanAskedFor)
{
	/* What comes behind is not even looked at. */
	ASSERT_EQ(read(std::string(kGood) + kGood + "rubbish\n", 2), 0) << what_;
	EXPECT_EQ(trace_.n_requests, 2u);
	EXPECT_EQ(kvh_trace_distinct(&trace_, 0, 2), 2);
}

struct BadLine {
	const char *name;
	std::string line;
	const char *complaint;
};

class TraceBadLine : public TraceFile, public ::testing::WithParamInterface<BadLine>
{
};

TEST_P(TraceBadLine, IsNamed)
{
	/* In line 3, as a blank one counts. */
	EXPECT_EQ(read(std::string(kGood) + "\n" + GetParam().line + "\n" + kGood), -EINVAL);
	EXPECT_EQ(complaint().compare(0, 4, ":3: "), 0) << what_;
	EXPECT_NE(complaint().find(GetParam().complaint), std::string::npos) << what_;
	EXPECT_EQ(trace_.n_requests, 0u);
	EXPECT_EQ(trace_.requests, nullptr);
}

std::string line(const char *timestamp, const char *input, const char *output, const char *ids)
{
	return std::string("{\"timestamp\": ") + timestamp + ", \"input_length\": " + input +
	       ", \"output_length\": " + output + ", \"hash_ids\": " + ids + "}";
}

INSTANTIATE_TEST_SUITE_P(
	All, TraceBadLine,
	::testing::Values(
		BadLine{"NotJson", "hello", "not JSON"},
		BadLine{"HalfALine", "{\"timestamp\": 1,", "not JSON"},
		BadLine{"TwoObjects", "{} {}", "not JSON"},
		BadLine{"Nul", std::string("{\0}", 3), "not JSON"},
		BadLine{"NotAnObject", "[1, 2]", "not a JSON object"},
		BadLine{"Twice", "{\"timestamp\": 1, \"timestamp\": 2}", "not JSON"},
		BadLine{"NoTimestamp", "{}", "timestamp is missing"},
		BadLine{"NegativeTimestamp", line("-1", "1", "1", "[]"),
			"timestamp is negative: -1"},
		BadLine{"NegativeInput", line("1", "-512", "1", "[]"),
			"input_length is negative: -512"},
		BadLine{"NegativeOutput", line("1", "1", "-3", "[]"),
			"output_length is negative: -3"},
		BadLine{"LongInput", line("1", "4294967296", "1", "[]"),
			"input_length is above 4294967295: 4294967296"},
		BadLine{"HugeInput", line("1", "99999999999999999999", "1", "[]"), "not JSON"},
		BadLine{"FractionInput", line("1", "1.5", "1", "[]"),
			"input_length is not a whole number"},
		BadLine{"TextInput", line("1", "\"1\"", "1", "[]"),
			"input_length is not a whole number"},
		BadLine{"NullOutput", line("1", "1", "null", "[]"),
			"output_length is not a whole number"},
		BadLine{"NoIds",
			"{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1}",
			"hash_ids is missing"},
		BadLine{"IdsNoList", line("1", "1", "1", "7"), "hash_ids is not a list"},
		BadLine{"NegativeId", line("1", "1", "1", "[1, -2]"),
			"hash_ids[1] is negative: -2"},
		BadLine{"TextId", line("1", "1", "1", "[1, 2, \"3\"]"),
			"hash_ids[2] is not a whole number"}),
	[](const ::testing::TestParamInfo<BadLine> &info) { return info.param.name; });

TEST_F(TraceFile, EmptyFileAndNoFile)
{
	EXPECT_EQ(read(""), -EINVAL);
	EXPECT_NE(complaint().find("no request"), std::string::npos);
	EXPECT_EQ(read("\n  \n"), -EINVAL);
	EXPECT_EQ(kvh_trace_read("/nonexistent/trace", 0, &trace_, what_, sizeof(what_)),
		  -ENOENT);
	EXPECT_NE(std::string(what_).find("/nonexistent/trace: No such file"),
		  std::string::npos);
	EXPECT_EQ(kvh_trace_read("/tmp", 0, &trace_, what_, sizeof(what_)), -EISDIR) << what_;
}

TEST(Trace, DistinctOfSomeRequests)
{
	struct kvh_trace trace = {};
	const uint64_t ids[] = {1, 2, 3, 2, 9};
	struct kvh_trace_request request = {};

	request.n_ids = 5;
	ASSERT_EQ(kvh_trace_add(&trace, &request, ids), 0);
	request.n_ids = 1;
	ASSERT_EQ(kvh_trace_add(&trace, &request, ids + 4), 0);
	request.n_ids = 0;
	ASSERT_EQ(kvh_trace_add(&trace, &request, nullptr), 0);
	EXPECT_EQ(kvh_trace_distinct(&trace, 0, 3), 4);
	EXPECT_EQ(kvh_trace_distinct(&trace, 1, 3), 1);
	EXPECT_EQ(kvh_trace_distinct(&trace, 2, 3), 0);
	EXPECT_EQ(kvh_trace_distinct(&trace, 3, 3), 0);
	kvh_trace_free(&trace);
}

/* ---- the generator ---- */

std::vector<uint64_t> ids_of(const struct kvh_trace &trace, size_t i)
{
	const struct kvh_trace_request &r = trace.requests[i];

	return {trace.ids + r.first, trace.ids + r.first + r.n_ids};
}

TEST(TraceGenerator, SameSeedSameTraceAndLongerOnesBeginAlike)
{
	struct kvh_trace a, b, other;

	ASSERT_EQ(kvh_trace_generate(42, 300, &a), 0);
	ASSERT_EQ(kvh_trace_generate(42, 500, &b), 0);
	ASSERT_EQ(kvh_trace_generate(43, 300, &other), 0);
	ASSERT_EQ(a.n_requests, 300u);
	ASSERT_EQ(b.n_requests, 500u);
	bool differs = false;
	for (size_t i = 0; i < a.n_requests; i++) {
		EXPECT_EQ(a.requests[i].timestamp_ms, b.requests[i].timestamp_ms);
		EXPECT_EQ(a.requests[i].input_length, b.requests[i].input_length);
		EXPECT_EQ(a.requests[i].output_length, b.requests[i].output_length);
		EXPECT_EQ(ids_of(a, i), ids_of(b, i));
		differs = differs ||
			  a.requests[i].input_length != other.requests[i].input_length;
	}
	EXPECT_TRUE(differs);
	kvh_trace_free(&a);
	kvh_trace_free(&b);
	kvh_trace_free(&other);
}

/* Equal ids are equal prefixes: an id stands at one place, behind one parent. */
TEST(TraceGenerator, IdsArePrefixes)
{
	for (uint64_t seed = 0; seed < 20; seed++) {
		struct kvh_trace trace;
		std::map<uint64_t, uint64_t> parents;
		std::map<uint64_t, size_t> places;
		uint64_t last = 0;

		SCOPED_TRACE(seed);
		ASSERT_EQ(kvh_trace_generate(seed, 400, &trace), 0);
		for (size_t i = 0; i < trace.n_requests; i++) {
			const struct kvh_trace_request &r = trace.requests[i];
			uint64_t parent = UINT64_MAX;
			size_t place = 0;

			EXPECT_GE(r.timestamp_ms, last);
			last = r.timestamp_ms;
			ASSERT_GT(r.input_length, 0u);
			EXPECT_GT(r.output_length, 0u);
			EXPECT_EQ(r.n_ids, (r.input_length + 511) / 512);
			for (uint64_t id : ids_of(trace, i)) {
				EXPECT_EQ(parents.emplace(id, parent).first->second, parent);
				EXPECT_EQ(places.emplace(id, place).first->second, place);
				parent = id;
				place++;
			}
		}
		kvh_trace_free(&trace);
	}
}

/* What makes it a workload: prompts come back longer, and share their beginning. */
TEST(TraceGenerator, HasTurnsAndSharedSystemPrompts)
{
	struct kvh_trace trace;
	std::map<uint64_t, std::set<uint64_t>> followers;
	size_t forks = 0;

	ASSERT_EQ(kvh_trace_generate(7, 1000, &trace), 0);
	for (size_t i = 0; i < trace.n_requests; i++) {
		std::vector<uint64_t> ids = ids_of(trace, i);

		for (size_t k = 1; k < ids.size(); k++)
			followers[ids[k - 1]].insert(ids[k]);
	}
	for (const auto &f : followers)
		forks += f.second.size() > 5;
	EXPECT_GT(forks, 5u) << "system prompts that many conversations go on from";
	double distinct = static_cast<double>(kvh_trace_distinct(&trace, 0, trace.n_requests));
	double references = static_cast<double>(trace.n_ids);
	EXPECT_GT(references / distinct, 1.5);
	EXPECT_LT(references / distinct, 10);
	kvh_trace_free(&trace);
}

/* The real trace is no part of the project: $KVH_TRACE, or beside the tree. */
TEST(TraceReal, HasItsTotals)
{
	const char *env = getenv("KVH_TRACE");
	std::string path = env != nullptr ? env
					  : KVH_SOURCE_DIR
				   "/../shared/traces/conversation_trace.jsonl";
	struct kvh_trace trace;
	char what[512];

	if (env == nullptr && access(path.c_str(), R_OK) != 0)
		GTEST_SKIP() << path << " is not there";
	ASSERT_EQ(kvh_trace_read(path.c_str(), 0, &trace, what, sizeof(what)), 0) << what;
	EXPECT_EQ(trace.n_requests, 12031u);
	EXPECT_EQ(trace.n_ids, 288500u);
	EXPECT_EQ(kvh_trace_distinct(&trace, 0, trace.n_requests), 182790);
	kvh_trace_free(&trace);
}

} // namespace
