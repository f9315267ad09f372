// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_set_test.cc - the nvme adapter over several files: what makes a set,
// which are refused and why, and that stripes share limits and faults stay apart.
#include "tests/l2_nvme_io.h"

#include <fstream>

namespace l2test
{
namespace
{

constexpr uint64_t kPayload = 60 << 10; // frames of 64 KiB
constexpr uint64_t kFrame = 64 << 10;

class NvmeSet : public ::testing::Test
{
      protected:
	std::string file(char name) const
	{
		return dir_.path() + "/" + name;
	}
	// "ab": the first path, and stripe=PATH for the others.
	std::string spec(const std::string &names, const std::string &more = "size=8M") const
	{
		std::string text = "nvme:" + file(names[0]);

		for (char name : names.substr(1))
			text += ",stripe=" + file(name);
		return text + ",check=0" + (more.empty() ? "" : "," + more);
	}
	void fill(Adapter &l2, uint64_t n, uint64_t space = 0x5ACE)
	{
		for (uint64_t i = 0; i < n; i++) {
			const struct kvh_key key = make_key(i, space);

			ASSERT_EQ(l2.put(key, make_frame(key, kPayload)), 0) << i;
		}
	}
	uint64_t count(Adapter &l2, uint64_t n, uint64_t space = 0x5ACE)
	{
		uint64_t found = 0;

		for (uint64_t i = 0; i < n; i++) {
			const struct kvh_key key = make_key(i, space);
			const Buffer into(kFrame);
			const int status = l2.get(key, into);

			EXPECT_TRUE(status == 0 || status == -ENOENT) << status;
			if (status != 0)
				continue;
			EXPECT_TRUE(into == make_frame(key, kPayload)) << i;
			found++;
		}
		return found;
	}
	// A set that was used.
	void make(const std::string &names, const std::string &more = "size=8M")
	{
		Adapter l2(spec(names, more));

		ASSERT_EQ(l2.error(), 0);
		fill(l2, 20);
	}
	// Refused with the error and these words, and nothing was changed.
	void refused(const std::string &names, int error, const std::vector<std::string> &says)
	{
		Log log;
		const Adapter l2(spec(names, ""));

		EXPECT_EQ(l2.error(), error) << names;
		for (const std::string &word : says)
			EXPECT_NE(log.text().find(word), std::string::npos)
				<< word << " in " << log.text();
	}
	uint64_t frames_in(char name)
	{
		std::ifstream in(file(name), std::ios::binary);
		std::string all((std::istreambuf_iterator<char>(in)), {});
		uint64_t n = 0;

		for (size_t at = 0; at + 4096 <= all.size(); at += 4096)
			n += kvh_frame_check_header(all.data() + at) == 0 ? 1 : 0;
		return n;
	}

      private:
	Dir dir_;
};

TEST_F(NvmeSet, FramesAreSpreadOverTheStripesAndFoundAgain)
{
	{
		Adapter l2(spec("abc"));

		ASSERT_EQ(l2.error(), 0);
		EXPECT_GT(l2.usage().capacity_bytes, 3u * (7 << 20));
		fill(l2, 120);
		EXPECT_EQ(count(l2, 120), 120u);
	}
	for (char name : {'a', 'b', 'c'})
		EXPECT_GT(frames_in(name), 20u) << name;
	Adapter l2(spec("cab", "")); // in any order

	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.usage().objects, 120u);
	EXPECT_EQ(count(l2, 120), 120u);
}

TEST_F(NvmeSet, ALargerStripeGetsMore)
{
	make("a");
	std::ofstream(file('b')).close();
	std::filesystem::resize_file(file('a'), 0);
	std::filesystem::resize_file(file('a'), 32 << 20);
	std::filesystem::resize_file(file('b'), 8 << 20);
	Adapter l2(spec("ab", ""));

	ASSERT_EQ(l2.error(), 0);
	fill(l2, 200);
	EXPECT_EQ(l2.close(), 0);
	EXPECT_GT(frames_in('a'), 2 * frames_in('b'));
}

TEST_F(NvmeSet, AStripeThatIsMissingDoubledOrOfAnotherSetIsRefused)
{
	make("abc");
	make("xyz");
	refused("ab", -EEXIST, {"stripe", "of 3", "2", "stripe=PATH"});
	refused("a", -EEXIST, {"of 3", "1 are given"});
	refused("abx", -EEXIST, {"another set", file('x')});
	std::filesystem::copy_file(file('b'), file('d'));
	refused("abd", -EEXIST, {"both stripe 1", file('d'), "missing"});
	{ // blank, beside stripes that are in use
		std::ofstream(file('e')).close();
		std::filesystem::resize_file(file('e'), 8 << 20);
	}
	refused("abe", -EEXIST, {file('e'), "no stripe", "of 3"});
	std::filesystem::rename(file('c'), file('m')); // moved
	refused("abc", -ENOENT, {file('c')});
	for (const char *set : {"abm", "xyz"}) {
		Adapter l2(spec(set, ""));

		ASSERT_EQ(l2.error(), 0) << set;
		EXPECT_EQ(count(l2, 20), 20u) << "nothing was changed";
	}
}

TEST_F(NvmeSet, FormatMakesASetOfWhatDoesNotBelongTogether)
{
	Log log;

	make("ab");
	{
		Adapter l2(spec("abc", "size=8M,format=yes"));

		ASSERT_EQ(l2.error(), 0);
		EXPECT_EQ(l2.usage().objects, 0u);
		fill(l2, 10);
	}
	Adapter l2(spec("abc", "format=yes")); // what is sound is kept

	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(count(l2, 10), 10u);
}

TEST_F(NvmeSet, OneFileTwiceIsRefused)
{
	Log log;

	EXPECT_EQ(Adapter(spec("aa")).error(), -EBUSY);
	EXPECT_NE(log.text().find(file('a')), std::string::npos);
}

TEST_F(NvmeSet, ALimitIsForAllStripesTogether)
{
	constexpr kvh_space_t space = 0xA0A0;
	Adapter l2(spec("abc"));
	struct kvh_l2_usage usage = {};

	ASSERT_EQ(l2.error(), 0);
	ASSERT_EQ(l2.ops()->limits(l2.self(), space, 0, 4 * kFrame), 0);
	for (uint64_t i = 0; i < 60; i++) {
		const struct kvh_key key = make_key(i, space);

		ASSERT_EQ(l2.put(key, make_frame(key, kPayload)), 0) << i;
		l2.ops()->usage_space(l2.self(), space, &usage);
		ASSERT_LE(usage.used_bytes, 4 * kFrame) << i;
	}
	EXPECT_EQ(count(l2, 60, space), 4u);
	EXPECT_EQ(usage.evicted, 56u);
}

// Of one size, evicted for the limit; the new ones are of another.
TEST_F(NvmeSet, ALimitHoldsAcrossSizes)
{
	constexpr kvh_space_t space = 0xA0A0;
	Adapter l2(spec("ab"));
	struct kvh_l2_usage usage = {};

	ASSERT_EQ(l2.error(), 0);
	ASSERT_EQ(l2.ops()->limits(l2.self(), space, 0, 10 * kFrame), 0);
	for (uint64_t i = 0; i < 40; i++) {
		const struct kvh_key key = make_key(i, space);

		ASSERT_EQ(l2.put(key, make_frame(key, i % 2 ? kPayload : 5 * kFrame)), 0) << i;
		l2.ops()->usage_space(l2.self(), space, &usage);
		ASSERT_LE(usage.used_bytes, 10 * kFrame) << i;
	}
	EXPECT_GE(usage.used_bytes, 4 * kFrame);
}

} // namespace
} // namespace l2test
