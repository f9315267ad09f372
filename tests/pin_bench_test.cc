// SPDX-License-Identifier: Apache-2.0
//
// pin_bench_test.cc - `kvhoist-bench pin` run as a user does: its options, what it
// prints, and that it fails where memory cannot be had. No figure is held to
// anything: that is what measurements are for.
#include "tests/run_program.h"

#include <string>

namespace
{

using Args = std::vector<std::string>;

Args with(const Args &more)
{
	Args args = {"pin"};

	args.insert(args.end(), more.begin(), more.end());
	return args;
}

const Args kShort = {"--device=host", "--bytes=16M", "--piece=4M", "--samples=1"};

TEST(PinBench, WrongOptionsAreNamed)
{
	const struct {
		Args args;
		const char *named;
	} bad[] = {
		{{"--bytes=1M"}, "--bytes 1M"},
		{{"--bytes=much"}, "much"},
		{{"--piece=2G"}, "--piece 2G"},
		{{"--threads=0"}, "--threads 0"},
		{{"--from=0"}, "--from 0"},
		{{"--threads=17"}, "1..16"},
		{{"--registers=x"}, "--registers x"},
		{{"--samples=33"}, "1..32"},
		{{"stray"}, "stray"},
		{{"--device=abacus"}, "abacus"},
	};

	for (const auto &b : bad) {
		const Outcome o = run(with(b.args));

		EXPECT_EQ(o.status, 2) << b.named;
		EXPECT_NE(o.err.find(b.named), std::string::npos) << o.err;
	}
}

TEST(PinBench, TableHasEveryNumberOfThreadsAndSaysWhatIsNotMeasured)
{
	Args args = kShort;

	args.push_back("--threads=3");
	const Outcome o = run(with(args));
	ASSERT_EQ(o.status, 0) << o.err;
	for (const char *text : {"16 MiB in 4 pieces", "registering costs nothing here",
				 "\n      1 ", "\n      2 ", "\n      3 "})
		EXPECT_NE(o.out.find(text), std::string::npos) << text << "\n" << o.out;
	EXPECT_EQ(o.out.find("allocator"), std::string::npos) << "there is none of a GPU's";
}

TEST(PinBench, JsonHasTheSame)
{
	Args args = kShort;

	args.insert(args.end(), {"--from=1", "--threads=2", "--registers=1", "--json"});
	const Outcome o = run(with(args));
	ASSERT_EQ(o.status, 0) << o.err;
	json_t *root = json_loads(o.out.c_str(), 0, nullptr);
	ASSERT_NE(root, nullptr) << o.out;
	EXPECT_EQ(json_integer_value(json_object_get(root, "bytes")), 16 << 20);
	EXPECT_EQ(json_integer_value(json_object_get(root, "pieces")), 4);
	EXPECT_TRUE(json_is_false(json_object_get(root, "registers")));
	EXPECT_TRUE(json_is_null(json_object_get(root, "alloc_gb_per_s")));
	const json_t *rows = json_object_get(root, "rows");
	ASSERT_EQ(json_array_size(rows), 2u);
	for (size_t i = 0; i < 2; i++) {
		const json_t *row = json_array_get(rows, i);
		const double first = json_real_value(json_object_get(row, "first_ms"));

		EXPECT_EQ(json_integer_value(json_object_get(row, "threads")), int(i + 1));
		for (const char *name : {"memset_gb_per_s", "pin_gb_per_s", "first_ms"})
			EXPECT_GT(json_real_value(json_object_get(row, name)), 0.0) << name;
		EXPECT_GE(json_real_value(json_object_get(row, "all_ms")), first);
	}
	json_decref(root);
}

TEST(PinBench, BeginsWhereItIsTold)
{
	Args args = kShort;

	args.insert(args.end(), {"--from=9", "--threads=2"});
	const Outcome o = run(with(args));
	ASSERT_EQ(o.status, 0) << o.err;
	EXPECT_EQ(o.out.find("\n      1 "), std::string::npos) << o.out;
	EXPECT_NE(o.out.find("\n      2 "), std::string::npos) << o.out;
}

TEST(PinBench, MoreThanThereIsFailsAndSaysSo)
{
	const Outcome o = run(with({"--device=host", "--bytes=8192G", "--threads=1"}));

	EXPECT_EQ(o.status, 1);
	EXPECT_NE(o.err.find("8796093022208"), std::string::npos) << o.err;
}

// Capacity as pinned so far and as wanted, where one looks for it.
TEST(PinBench, StatusSaysWhatIsPinned)
{
	const Args args = {"status",     "--device=host", "--l1=16M", "--set=l1.pin_wait=yes",
			   "--spaces=1", "--snapshots=1"};
	Args with_json = args;

	const Outcome o = run(args);
	ASSERT_EQ(o.status, 0) << o.err;
	EXPECT_NE(o.out.find("L1              16 of 16 MiB pinned, 0 missing\n"),
		  std::string::npos)
		<< o.out;
	with_json.push_back("--json");
	json_t *root = json_loads(run(with_json).out.c_str(), 0, nullptr);
	ASSERT_NE(root, nullptr);
	const json_t *l1 = json_object_get(root, "l1");
	EXPECT_EQ(json_integer_value(json_object_get(l1, "wanted_bytes")), 16 << 20);
	EXPECT_EQ(json_integer_value(json_object_get(l1, "pinned_bytes")), 16 << 20);
	EXPECT_TRUE(json_is_false(json_object_get(l1, "pinning")));
	json_decref(root);
}

} // namespace
