// SPDX-License-Identifier: Apache-2.0
//
// nearest_test.cc - the edit distance against a plain recursive one, and which
// name is found.
#include "host/nearest.h"

#include <algorithm>
#include <cctype>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <string>

namespace
{

// The definition, by recursion with a memory.
struct Plain {
	const std::string &a, &b;
	std::map<std::pair<size_t, size_t>, uint32_t> known;

	static bool same(char x, char y)
	{
		return tolower(x) == tolower(y);
	}
	uint32_t at(size_t i, size_t j)
	{
		if (i == 0 || j == 0)
			return static_cast<uint32_t>(i + j);
		const auto found = known.find({i, j});

		if (found != known.end())
			return found->second;
		uint32_t d = std::min(at(i - 1, j), at(i, j - 1)) + 1;

		d = std::min(d, at(i - 1, j - 1) + !same(a[i - 1], b[j - 1]));
		if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
			d = std::min(d, at(i - 2, j - 2) + 1);
		return known[{i, j}] = d;
	}
};

std::string word(std::mt19937 &rng, size_t longest)
{
	std::string text(rng() % (longest + 1), ' ');

	for (char &c : text)
		c = "abcABC._"[rng() % 8];
	return text;
}

TEST(Nearest, DistanceIsThatOfTheDefinition)
{
	std::mt19937 rng(1);

	for (int i = 0; i < 3000; i++) {
		const std::string a = word(rng, 12), b = word(rng, 12);

		ASSERT_EQ((Plain{a, b, {}}.at(a.size(), b.size())),
			  kvh_edit_distance(a.c_str(), b.c_str()))
			<< a << " " << b;
	}
}

TEST(Nearest, OnlyTheBeginningOfLongTextsCounts)
{
	const std::string stem(63, 'x');

	EXPECT_EQ(0u, kvh_edit_distance((stem + "abc").c_str(), (stem + "d").c_str()));
	EXPECT_EQ(63u, kvh_edit_distance(std::string(1 << 20, 'y').c_str(), stem.c_str()));
}

TEST(Nearest, TheFirstOfTheNearestIsKept)
{
	struct kvh_nearest nearest = {"sise", nullptr, 0};

	for (const char *name : {"depth", "size", "side", "sise_"})
		kvh_nearest_try(&nearest, name);
	EXPECT_STREQ("size", nearest.best);
	EXPECT_EQ(1u, nearest.distance);
}

} // namespace
