// SPDX-License-Identifier: Apache-2.0
//
// sim_test.cc - many schedules of the simulated engine, by running kvhoist-sim; that
// a schedule is the same each time; and that the library without one of its guards
// is found out. docs/testing.md tells how to run a seed again.
#include "sanitizers.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>
#include <string>
#include <sys/wait.h>

namespace
{

constexpr unsigned SHARDS = 8;
#ifdef KVH_DEBUG
constexpr bool DEBUG = true;
#else
constexpr bool DEBUG = false;
#endif

struct Ran {
	bool well;
	std::string output; /* both streams */
};

Ran run(const std::string &args)
{
	const auto self = std::filesystem::read_symlink("/proc/self/exe");
	const std::string command = (self.parent_path() / "kvhoist-sim").string() + " " + args +
				    " 2>&1";
	std::array<char, 4096> buffer;
	Ran result{false, ""};
	FILE *pipe = popen(command.c_str(), "r");

	EXPECT_NE(nullptr, pipe) << command;
	if (pipe == nullptr)
		return result;
	for (size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
		result.output.append(buffer.data(), n);
	const int status = pclose(pipe);
	result.well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
	return result;
}

/* Of a shard. KVH_SIM_SCHEDULES for the long runs. */
uint64_t schedules()
{
	const char *s = getenv("KVH_SIM_SCHEDULES");

	if (s != nullptr)
		return strtoull(s, nullptr, 10) / SHARDS;
	return TSAN ? 40 : ASAN ? 100 : DEBUG ? 120 : 2500;
}

class Sim : public testing::TestWithParam<unsigned>
{
};

TEST_P(Sim, EverythingIsAsTheContractSays)
{
	const Ran r = run("--seed " + std::to_string(1000000 * (GetParam() + 1)) + " --count " +
			  std::to_string(schedules()));

	EXPECT_TRUE(r.well) << r.output;
	EXPECT_EQ("", r.output);
}

INSTANTIATE_TEST_SUITE_P(Shards, Sim, testing::Range(0u, SHARDS));

TEST(SimSeeds, TheSameSeedIsTheSameSchedule)
{
	const std::string args = "--seed 5 --count 12 --hash";
	const Ran first = run(args);

	EXPECT_TRUE(first.well) << first.output;
	EXPECT_EQ(first.output, run(args).output);
	/* Each on its own, or after others. */
	const Ran last = run("--seed 16 --count 1 --hash");
	EXPECT_FALSE(last.output.empty());
	EXPECT_EQ(last.output, first.output.substr(first.output.size() - last.output.size()));
}

TEST(SimSeeds, ATraceIsOfTheSameSchedule)
{
	const Ran plain = run("--seed 5 --count 1 --hash");
	const Ran traced = run("--seed 5 --count 1 --hash --trace");

	EXPECT_NE(std::string::npos, traced.output.find("the reckoning"));
	EXPECT_NE(std::string::npos, traced.output.find(plain.output));
}

/* Memory, and the store controller's ear, fail in the middle of completions. */
TEST(SimCompletions, NothingIsStuckWhenTheyFail)
{
	const uint64_t count = TSAN || ASAN ? 60 : DEBUG ? 300 : 3000;
	const Ran r = run("--seed 9000000 --completions-fail --count " + std::to_string(count));

	ASSERT_TRUE(r.well) << r.output;
	EXPECT_GE(strtoull(r.output.c_str(), nullptr, 10), 5 * count) << r.output;
}

/* Negative controls: the library without one guard, and how many schedules it may
 * take to find that. */
struct Mutant {
	const char *name;
	uint64_t within;
};

void PrintTo(const Mutant &mutant, std::ostream *os)
{
	*os << mutant.name;
}

class SimMutant : public testing::TestWithParam<Mutant>
{
};

TEST_P(SimMutant, IsFoundAndItsSeedFindsItAgain)
{
	const std::string mutant = std::string(" --mutant ") + GetParam().name;
	const Ran found = run("--seed 1 --count " + std::to_string(GetParam().within) + mutant);

	ASSERT_FALSE(found.well) << "not in " << GetParam().within << " schedules";
	const size_t at = found.output.rfind("seed ");
	ASSERT_NE(std::string::npos, at) << found.output;
	const uint64_t seed = strtoull(found.output.c_str() + at + 5, nullptr, 10);

	const Ran again = run("--count 1 --seed " + std::to_string(seed) + mutant);
	EXPECT_FALSE(again.well);
	/* What is before it may be a sanitizer's report, with other addresses each time. */
	const size_t again_at = again.output.rfind("seed ");
	ASSERT_NE(std::string::npos, again_at) << again.output;
	EXPECT_EQ(found.output.substr(at), again.output.substr(again_at));
	EXPECT_TRUE(run("--count 1 --seed " + std::to_string(seed)).well)
		<< "it is the guard that makes the difference";
}

INSTANTIATE_TEST_SUITE_P(
	Guards, SimMutant,
	testing::Values(Mutant{"no-verify", 2000}, Mutant{"early-publish", 200},
			Mutant{"no-retry-hold", 4000}, Mutant{"leaked-hold", 200},
			Mutant{"leaked-frame", 200}, Mutant{"leaked-leases", 200},
			Mutant{"lost-end", 200}, Mutant{"lost-kick", 200},
			Mutant{"early-flush", 400}, Mutant{"quiet-flush", 4000},
			Mutant{"no-touch", 2000}, Mutant{"lost-set", 200},
			Mutant{"loose-set", 200}, Mutant{"drain-stores", 400},
			Mutant{"no-space-erase", 200}, Mutant{"no-expiry", 400},
			Mutant{"no-quota", 400}, Mutant{"early-layers", 200}),
	[](const auto &p) {
		std::string name = p.param.name;

		for (char &c : name)
			c = c == '-' ? '_' : c;
		return name;
	});

} // namespace
