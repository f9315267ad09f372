// SPDX-License-Identifier: Apache-2.0
//
// l1_spin_test.cc - the states of frames and leases, searched through exhaustively
// by SPIN (l1_model.pml); and that each guard, taken out, is missed.
#include "run_program.h"
#include "sanitizers.h"

#include <fstream>
#include <iterator>
#include <string>

namespace
{

bool have_spin()
{
	return std::system(
		       "command -v spin >/dev/null 2>&1 && command -v cc >/dev/null 2>&1") == 0;
}

#define NEEDS_SPIN()                                                       \
	if (TSAN || ASAN)                                                  \
		GTEST_SKIP() << "a model is the same under any sanitizer"; \
	if (!have_spin())                                                  \
	GTEST_SKIP() << "spin is not installed (cmake/install-deps.sh --ci)"

// What the search says, which ends with all states seen or at the first fault.
std::string search(const std::string &defines)
{
	TempDir dir;
	const std::string model = KVH_SOURCE_DIR "/tests/l1_model.pml";
	const std::string command =
		"cd " + dir.path() + " && spin -a " + defines + " " + model +
		" >spin.log 2>&1 && cc -O2 -DSAFETY -DCOLLAPSE -DVECTORSZ=2048 -o pan pan.c "
		">cc.log 2>&1 && ./pan -m1000000 -n -w20 >pan.log 2>&1";
	std::string text;

	EXPECT_EQ(std::system(command.c_str()), 0);
	for (const char *name : {"spin.log", "cc.log", "pan.log"}) {
		std::ifstream file(dir.path(name));

		text.append(std::istreambuf_iterator<char>(file), {});
	}
	return text;
}

bool all_is_well(const std::string &text)
{
	return text.find("errors: 0") != std::string::npos &&
	       text.find("max search depth too small") == std::string::npos &&
	       text.find("out of memory") == std::string::npos;
}

TEST(L1Spin, TwoAdaptersAndAReader)
{
	NEEDS_SPIN();
	const std::string text = search("-DKEYS=1 -DADAPTERS=2 -DREADERS=1");
	EXPECT_TRUE(all_is_well(text)) << text;
}

// Minutes on a slow machine: with the other long runs.
TEST(L1Spin, TwoReaders)
{
	NEEDS_SPIN();
	if (getenv("KVH_TORTURE") == nullptr)
		GTEST_SKIP() << "long: set KVH_TORTURE";
	const std::string text = search("-DKEYS=1 -DADAPTERS=1 -DREADERS=2");
	EXPECT_TRUE(all_is_well(text)) << text;
}

class Guard : public ::testing::TestWithParam<const char *>
{
};

TEST_P(Guard, NegativeControlWithoutItTheSearchFindsAFault)
{
	NEEDS_SPIN();
	const std::string text = search(std::string("-DKEYS=1 -DADAPTERS=1 -DREADERS=1 -D") +
					GetParam());
	EXPECT_NE(text.find("assertion violated"), std::string::npos) << text;
}

INSTANTIATE_TEST_SUITE_P(Guards, Guard,
			 ::testing::Values("NO_SWAP", "NO_GENERATION", "NO_UNPARK",
					   "NO_BEGIN"));

} // namespace
