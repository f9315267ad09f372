// SPDX-License-Identifier: Apache-2.0
//
// conf_test.cc - the text behind an adapter's name: what is understood, what is
// refused and with which words, and that a failure leaves values alone.
#include "l2/conf.h"
#include "tests/l2_harness.h"

namespace
{

const char *const kModes[] = {"slow", "fast", nullptr};

struct Conf {
	uint64_t size = 7;
	uint32_t depth = 7;
	int flag = 7, mode = 7;
	char *text = nullptr, *rest = nullptr, *path = nullptr;

	~Conf()
	{
		free(text);
		free(rest);
		free(path);
	}
	int parse(const char *conf)
	{
		const struct kvh_conf_option options[] = {
			{"size", KVH_CONF_BYTES, &size, 4096, UINT64_C(1) << 40, nullptr},
			{"depth", KVH_CONF_U32, &depth, 1, 100, nullptr},
			{"flag", KVH_CONF_BOOL, &flag, 0, 0, nullptr},
			{"mode", KVH_CONF_CHOICE, &mode, 0, 0, kModes},
			{"text", KVH_CONF_TEXT, &text, 0, 0, nullptr},
			{"next", KVH_CONF_REST, &rest, 0, 0, nullptr},
			{nullptr, KVH_CONF_TEXT, nullptr, 0, 0, nullptr},
		};

		return kvh_conf_parse("toy", conf, &path, options);
	}
	bool untouched() const
	{
		return size == 7 && depth == 7 && flag == 7 && mode == 7 && !text && !rest &&
		       !path;
	}
};

TEST(ConfBytes, Understood)
{
	const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{"0", 0},
		{"4096", 4096},
		{"64K", 65536},
		{"8G", UINT64_C(8) << 30},
		{"1.5G", 3u << 29},
		{"0.25k", 256},
		{"2t", UINT64_C(2) << 40},
		{"1.0M", 1u << 20},
		{"0.1K", 102}, // rounded down
		{"18446744073709551615", UINT64_MAX},
		{"16777215.5T",
		 (UINT64_C(1) << 63) + ((UINT64_C(1) << 63) - (UINT64_C(1) << 39))},
		{"007M", 7u << 20},
	};

	for (const auto &g : good) {
		uint64_t bytes = 1;

		EXPECT_EQ(kvh_conf_bytes(g.text, &bytes), 0) << g.text;
		EXPECT_EQ(bytes, g.bytes) << g.text;
	}
}

TEST(ConfBytes, Refused)
{
	const struct {
		const char *text;
		int error;
	} bad[] = {
		{"", -EINVAL},
		{"K", -EINVAL},
		{"-1", -EINVAL},
		{"+1", -EINVAL},
		{" 1", -EINVAL},
		{"1 ", -EINVAL},
		{"1KB", -EINVAL},
		{"1.5", -EINVAL},
		{"1.G", -EINVAL},
		{".5G", -EINVAL},
		{"1.5.5G", -EINVAL},
		{"0x10", -EINVAL},
		{"1e9", -EINVAL},
		{"NaN", -EINVAL},
		{"inf", -EINVAL},
		{"1P", -EINVAL},
		{"16777216T", -ERANGE},
		{"18446744073709551616", -ERANGE},
		{"99999999999999999999999999T", -ERANGE},
		{"1.00000000000000000000000001G", -ERANGE},
	};

	for (const auto &b : bad) {
		uint64_t bytes = 1;

		EXPECT_EQ(kvh_conf_bytes(b.text, &bytes), b.error) << b.text;
		EXPECT_EQ(bytes, 1u) << "written on failure: " << b.text;
	}
}

TEST(Conf, PathAndOptions)
{
	Conf conf;

	ASSERT_EQ(conf.parse("/a/b=c,size=64K,depth=100,flag=yes,mode=fast,text=x=y"), 0);
	EXPECT_STREQ(conf.path, "/a/b=c");
	EXPECT_EQ(conf.size, 65536u);
	EXPECT_EQ(conf.depth, 100u);
	EXPECT_EQ(conf.flag, 1);
	EXPECT_EQ(conf.mode, 1);
	EXPECT_STREQ(conf.text, "x=y");
	EXPECT_EQ(conf.rest, nullptr);
}

TEST(Conf, PathAloneEmptyOrLeftOut)
{
	const struct {
		const char *text, *path;
		uint32_t depth;
	} good[] = {
		{"", "", 7},
		{"/x", "/x", 7},
		{",depth=3", "", 3},
		{"depth=3", "", 3},
		{"name,depth=3", "name", 3},
		{"./depth=3", "./depth=3", 7},
		{"a\\,b,depth=3", "a,b", 3},
		{"\\", "\\", 7},
		{"a\\b", "a\\b", 7},
	};

	for (const auto &g : good) {
		Conf conf;

		ASSERT_EQ(conf.parse(g.text), 0) << g.text;
		EXPECT_STREQ(conf.path, g.path) << g.text;
		EXPECT_EQ(conf.depth, g.depth) << g.text;
	}
}

TEST(Conf, TheRestIsTakenAsItIs)
{
	Conf conf;

	ASSERT_EQ(conf.parse("text=a\\,b,next=mem:a\\,b,size=1,next=x"), 0);
	EXPECT_STREQ(conf.text, "a,b");
	EXPECT_STREQ(conf.rest, "mem:a\\,b,size=1,next=x");
	EXPECT_EQ(conf.size, 7u);
}

// Each refusal names the adapter, and what was wrong.
TEST(Conf, RefusedWithReason)
{
	const struct {
		const char *text, *reason;
	} bad[] = {
		{"/x,nosuch=1", "nosuch"},
		{"nosuch=1", "\"./\""},
		{"/x,", "no option"},
		{"/x,,depth=1", "no option"},
		{"/x,depth", "no value"},
		{"/x,=3", "no option"},
		{"/x,depth=", "1 to 100"},
		{"/x,depth=0", "depth=0"},
		{"/x,depth=101", "1 to 100"},
		{"/x,depth=1K", "depth=1K"},
		{"/x,depth=1.5", "depth=1.5"},
		{"/x,depth=-1", "depth=-1"},
		{"/x,depth=4294967297", "depth=4294967297"},
		{"/x,size=4095", "4096"},
		{"/x,size=2T", "size=2T"},
		{"/x,size=x", "size=x"},
		{"/x,flag=2", "yes, no"},
		{"/x,flag=true", "flag=true"},
		{"/x,mode=slower", "slow|fast"},
		{"/x,mode=", "slow|fast"},
		{"/x,depth=1,depth=1", "twice"},
		{"/x,text=a,text=b", "twice"},
		{"/x,size=8K,text=kept,depth=0", "depth=0"},
		{"/x,Depth=1", "Depth"},
	};

	for (const auto &b : bad) {
		l2test::Log log;
		Conf conf;

		EXPECT_EQ(conf.parse(b.text), -EINVAL) << b.text;
		EXPECT_TRUE(conf.untouched()) << b.text;
		EXPECT_EQ(log.count("\n"), 1u) << b.text << " gave:\n" << log.text();
		EXPECT_NE(log.text().find("toy: "), std::string::npos) << log.text();
		EXPECT_NE(log.text().find(b.reason), std::string::npos)
			<< b.text << ": " << log.text();
	}
}

// Whatever comes in: an answer, no crash, nothing half-written.
TEST(Conf, RandomTextIsAnsweredOrRefused)
{
	const uint32_t seed = std::random_device{}();
	std::mt19937 random(seed);
	const char *const pieces[] = {",",     "=",    "\\,",  "size=", "depth=", "next=",
				      "text=", "1K",   "NaN",  "-1",    "inf",    "/",
				      "a",     "\\",   "flag", "mode=", "fast",   "99",
				      "1e99",  "\xff", "."};
	unsigned good = 0, refused = 0;
	l2test::Log log;

	for (int i = 0; i < 100000; i++) {
		std::string text;
		Conf conf;

		for (unsigned n = random() % 8; n-- > 0;)
			text += pieces[random() % (sizeof(pieces) / sizeof(pieces[0]))];
		const int ret = conf.parse(text.c_str());

		ASSERT_TRUE(ret == 0 || ret == -EINVAL) << "seed " << seed << ": " << text;
		ASSERT_TRUE(ret == 0 ? conf.path != nullptr : conf.untouched()) << text;
		if (ret == 0) {
			ASSERT_TRUE(conf.depth >= 1 && conf.depth <= 100) << text;
			ASSERT_TRUE(conf.mode == 7 || conf.mode == 0 || conf.mode == 1) << text;
			good++;
		} else {
			refused++;
		}
	}
	EXPECT_GT(good, 100u);
	EXPECT_GT(refused, 100u);
}

} // namespace
