// SPDX-License-Identifier: Apache-2.0
//
// l2_tool_discard_test.cc - kvhoist-l2's dump and discard, run as an operator does:
// what they write is what was stored, and what goes is what was meant.
#include "tests/real_disk.h"
#include "tests/tool_rig.h"

#include <algorithm>
#include <cinttypes>

namespace l2test
{
namespace
{

using ToolDiscard = ToolRig;

// ---- dump ----

TEST_F(ToolDiscard, DumpListsFrames)
{
	make(2);
	const Outcome all = tool(join({"dump"}, paths(2)));

	EXPECT_EQ(all.status, 0) << all.err;
	EXPECT_EQ(std::count(all.out.begin(), all.out.end(), '\n'), kFramesA + kFramesB);
	for (const Frame &frame : all_frames()) {
		char line[256];

		(void)snprintf(line, sizeof(line),
			       "%s-00000000-00000000 space %016" PRIx64 " bytes %" PRIu64
			       " sequence %u offset ",
			       frame.hash().c_str(), frame.key.space, frame.payload,
			       frame.key.hash.bytes[8] + 1u);
		EXPECT_NE(all.out.find(line), std::string::npos) << line;
	}
	for (const std::string &space :
	     {std::string("000000000000000a"), "0a" + std::string(60, '0') + "77"}) {
		const Outcome some = tool(join({"dump", "--space=" + space}, paths(2)));

		EXPECT_EQ(std::count(some.out.begin(), some.out.end(), '\n'), kFramesA);
	}
	EXPECT_EQ(tool({"dump", "--space=0000000000000fff", path()}).out, "");
}

TEST_F(ToolDiscard, DumpWritesThePayloadAsItWasStored)
{
	make();
	for (const Frame &frame : {all_frames()[7], all_frames()[kFramesA]}) {
		const Buffer bytes = frame.bytes();
		const std::string want(reinterpret_cast<char *>(bytes.data()) + 4096,
				       frame.payload);
		const std::string to = path("out-" + frame.hash());
		const Outcome o = tool(
			{"dump", "--key=" + frame.hash(), "--output=" + to, path()});
		const Outcome again = tool(
			{"dump", "--key=" + frame.hash(), "--output=" + to, path()});

		EXPECT_EQ(o.status, 0) << o.err;
		EXPECT_TRUE(contents(to) == want);
		EXPECT_TRUE(tool({"dump", "--key=" + frame.hash(), path()}).out == want);
		EXPECT_EQ(again.status, 2) << "it writes over nothing";
		EXPECT_NE(again.err.find("File exists"), std::string::npos) << again.err;
	}
	EXPECT_EQ(tool({"dump", "--key=" + std::string(32, 'f'), path()}).status, 2);
}

TEST_F(ToolDiscard, DumpOfADamagedFrameWritesNothing)
{
	make();
	const Frame frame = all_frames()[2];

	flip(path(), offsets().at(frame.hash()) + 6000);
	const Outcome o = tool(
		{"dump", "--key=" + frame.hash(), "--output=" + path("out"), path()});

	EXPECT_EQ(o.status, 1);
	EXPECT_NE(o.err.find("payload checksum"), std::string::npos) << o.err;
	EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(ToolDiscard, DumpAsksWhichOfSeveral)
{
	const struct kvh_key one = make_key(1, kSpaceA, 0, 0),
			     other = make_key(1, kSpaceA, 2, 0);
	{
		Adapter l2(spec(1, ",size=64M"));

		ASSERT_EQ(l2.put(one, frame_of(one, 3000)), 0);
		ASSERT_EQ(l2.put(other, frame_of(other, 2000)), 0);
	}
	const std::string hash = Frame{one, 0}.hash();
	const Outcome both = tool({"dump", "--key=" + hash, path()});

	EXPECT_EQ(both.status, 2);
	EXPECT_NE(both.err.find("2 frames have that hash"), std::string::npos) << both.err;
	EXPECT_EQ(tool({"dump", "--key=" + hash + "-00000002-00000000", path()}).out.size(),
		  2000u);
}

// ---- discard ----

TEST_F(ToolDiscard, WhatIsDiscardedIsNotFoundAgain)
{
	make(3);
	const Outcome o = tool(join({"discard", "--yes", "--json"}, paths(3)));
	const Json json(o.out);

	EXPECT_EQ(o.status, 0) << o.err;
	EXPECT_EQ(json["discarded_frames"], kFramesA + kFramesB);
	EXPECT_EQ(Json(tool(join({"inspect", "--json"}, paths(3))).out)["frames"], 0);
	EXPECT_EQ(tool(join({"verify"}, paths(3))).status, 0);
	EXPECT_EQ(served(3).size(), 0u);
	for (const std::string &path : paths(3))
		EXPECT_EQ(std::filesystem::file_size(path), 64u << 20);
	make(3);
	EXPECT_EQ(served(3).size(), kFramesA + kFramesB) << "it can be used as before";
}

// Nor if the copy of the table that counts is damaged then: the other says the same.
TEST_F(ToolDiscard, WhatIsDiscardedDoesNotComeBackWithAnOlderTable)
{
	make();
	const std::string bytes = contents(path());
	const auto *super = reinterpret_cast<const struct kvh_nvme_super *>(bytes.data());

	EXPECT_EQ(tool({"discard", "--yes", path()}).status, 0);
	for (const uint64_t copy : {0, 4096}) {
		flip(path(), super->table_offset + copy + 20);
		EXPECT_EQ(Json(tool({"inspect", "--json", path()}).out)["frames"], 0);
		flip(path(), super->table_offset + copy + 20);
	}
}

TEST_F(ToolDiscard, WithoutAYesNothingIsDiscarded)
{
	make();
	const int saved = dup(STDIN_FILENO);
	const struct {
		const char *answer;
		int status;
		size_t left;
	} answers[] = {{"", 2, 25}, {"n\n", 2, 25}, {"yellow\n", 2, 25}, {"y\n", 0, 0}};

	for (const auto &a : answers) {
		const int in = memfd_create("stdin", 0);

		ASSERT_EQ(write(in, a.answer, strlen(a.answer)),
			  static_cast<ssize_t>(strlen(a.answer)));
		lseek(in, 0, SEEK_SET);
		dup2(in, STDIN_FILENO);
		const Outcome o = tool({"discard", path()});
		dup2(saved, STDIN_FILENO);
		close(in);

		EXPECT_EQ(o.status, a.status) << a.answer;
		EXPECT_NE(o.err.find("Discard 25 frames, which are all"), std::string::npos)
			<< o.err;
		EXPECT_EQ(served().size(), a.left) << a.answer;
	}
	close(saved);
}

TEST_F(ToolDiscard, DiscardOfASpaceKeepsTheOthers)
{
	for (const std::string &space : {std::string("b0000000000000b0"),
					 "b0000000000000b0" + std::string(46, '0') + "77"}) {
		make(2);
		ASSERT_EQ(served(2).size(), kFramesA + kFramesB);
		const Outcome o = tool(
			join({"discard", "--yes", "--space=" + space}, paths(2)));

		EXPECT_EQ(o.status, 0) << o.err;
		EXPECT_NE(o.out.find("5 frames"), std::string::npos) << o.out;
		const std::vector<Frame> left = served(2);

		EXPECT_EQ(left.size(), kFramesA);
		for (const Frame &frame : left)
			EXPECT_EQ(frame.key.space, kSpaceA);
		EXPECT_EQ(tool(join({"verify"}, paths(2))).status, 0);
	}
}

TEST_F(ToolDiscard, DiscardOfWhatIsDamagedKeepsTheRest)
{
	make();
	const auto offsets = this->offsets();
	const Frame header = all_frames()[1], payload = all_frames()[kFramesA + 2];

	flip(path(), offsets.at(header.hash()) + 9);
	flip(path(), offsets.at(payload.hash()) + (3 << 20));
	ASSERT_EQ(tool({"verify", path()}).status, 1);
	const Outcome o = tool({"discard", "--damaged", "--yes", path()});

	EXPECT_EQ(o.status, 0) << o.err;
	EXPECT_NE(o.out.find("2 frames"), std::string::npos) << o.out;
	EXPECT_EQ(tool({"verify", path()}).status, 0);
	const std::vector<Frame> left = served();

	EXPECT_EQ(left.size(), kFramesA + kFramesB - 2);
	for (const Frame &frame : left) {
		EXPECT_NE(frame.hash(), header.hash());
		EXPECT_NE(frame.hash(), payload.hash());
	}
}

// ---- devices ----

TEST_F(ToolDiscard, OfADeviceThatFailsAndWorksAgain)
{
	RealDisk disk;

	disk.make_failing();
	if (!disk.missing().empty())
		GTEST_SKIP() << disk.missing();
	{
		Adapter l2("nvme:" + disk.path());

		ASSERT_EQ(l2.error(), 0);
		for (const Frame &frame : all_frames())
			ASSERT_EQ(l2.put(frame.key, frame.bytes()), 0);
	}
	disk.fails("reads", true);
	const Outcome unread = tool({"verify", disk.path()});
	disk.fails("reads", false);
	const Outcome verify = tool({"verify", disk.path()});
	disk.fails("writes", true);
	const Outcome unwritten = tool({"discard", "--yes", disk.path()});
	disk.fails("writes", false);
	const Outcome discard = tool({"discard", "--yes", disk.path()});

	EXPECT_EQ(unread.status, 1);
	EXPECT_NE(unread.err.find("Input/output error"), std::string::npos) << unread.err;
	EXPECT_EQ(verify.status, 0) << verify.out;
	EXPECT_NE(verify.out.find("25 frames are sound"), std::string::npos) << verify.out;
	EXPECT_EQ(unwritten.status, 1);
	EXPECT_NE(unwritten.err.find("Input/output error"), std::string::npos) << unwritten.err;
	EXPECT_EQ(discard.status, 0) << discard.err;
	EXPECT_NE(discard.out.find("25 frames"), std::string::npos) << discard.out;

	Adapter l2("nvme:" + disk.path());

	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.usage().objects, 0u);
}

} // namespace
} // namespace l2test
