// SPDX-License-Identifier: Apache-2.0
//
// l2_tool_test.cc - kvhoist-l2 run as an operator does, on files that the nvme adapter
// made: what it refuses, what inspect counts, what verify finds and what it does not
// call damaged.
#include "tests/tool_rig.h"

#include <algorithm>
#include <functional>
#include <pty.h>

namespace l2test
{
namespace
{

using Tool = ToolRig;

// ---- arguments ----

TEST_F(Tool, WrongArgumentsAreNamed)
{
	const struct {
		Args args;
		const char *named;
	} bad[] = {
		{{}, "which command"},
		{{"verfy", "x"}, "verfy"},
		{{"verify"}, "which PATH"},
		{{"verify", "x", "--yes"}, "--yes"},
		{{"verify", "x", "--threads=0"}, "--threads 0"},
		{{"verify", "x", "--threads=65"}, "65"},
		{{"inspect", "x", "--key=12"}, "--key"},
		{{"dump", "x", "--key=12"}, "--key 12"},
		{{"dump", "x", "--key=0123456789abcdef0123456789abcdef-1-2"}, "-1-2"},
		{{"dump", "x", "--space=0xb"}, "--space 0xb"},
		{{"dump", "x", "--space=zz23456789abcdef"}, "zz23456789abcdef"},
		{{"dump", "x", "--output=y"}, "--key"},
		{{"dump", "x", "--json", "--key=0123456789abcdef0123456789abcdef"}, "--output"},
		{{"discard", "x", "--damaged", "--space=0123456789abcdef"}, "together"},
	};

	for (const auto &b : bad) {
		const Outcome o = tool(b.args);

		EXPECT_EQ(o.status, 2) << b.named;
		EXPECT_NE(o.err.find(b.named), std::string::npos) << b.named << ": " << o.err;
		EXPECT_EQ(o.out, "");
	}
}

TEST_F(Tool, HelpListsWhatThereIs)
{
	for (const Args &args : {Args{"help"}, Args{"--help"}, Args{"--version"},
				 Args{"verify", "--help"}, Args{"discard", "--help"}}) {
		const Outcome o = tool(args);

		EXPECT_EQ(o.status, 0) << args[0];
		EXPECT_NE(o.out.find("kvhoist-l2"), std::string::npos) << o.out;
	}
}

// ---- what it does not work on ----

TEST_F(Tool, WhatIsNotOursIsRefused)
{
	std::ofstream(path("text")) << std::string(100000, 'x');
	std::ofstream(path("empty")).flush();
	std::ofstream(path("zeros")) << std::string(4 << 20, '\0');
	std::filesystem::create_directory(path("dir"));
	ASSERT_EQ(mkfifo(path("fifo").c_str(), 0600), 0);

	refused({path("text")}, 2, "no superblock");
	refused({path("empty")}, 2, "no superblock");
	refused({path("zeros")}, 2, "no superblock");
	refused({path("none")}, 2, "No such file");
	EXPECT_EQ(tool({"verify", path("dir")}).status, 2);
	EXPECT_NE(tool({"verify", path("dir")}).err.find("the fs adapter"), std::string::npos);
	EXPECT_EQ(tool({"verify", path("fifo")}).status, 2);
}

TEST_F(Tool, AnotherVersionIsRefused)
{
	make();
	std::string bytes = contents(path());
	auto *super = reinterpret_cast<struct kvh_nvme_super *>(bytes.data());

	super->version = 3;
	kvh_nvme_super_seal(super);
	write_at(path(), 0, super, sizeof(*super));
	refused({path()}, 2, "version 3");
}

TEST_F(Tool, AMissingStripeIsSaidAndNothingIsDiscarded)
{
	make(3);
	const Args two = {path("c"), path("a")};
	const Outcome o = tool(join({"verify"}, two));

	EXPECT_EQ(o.status, 0) << o.err;
	EXPECT_NE(o.err.find("1 of the 3 stripes"), std::string::npos) << o.err;

	const Outcome discard = tool(join({"discard", "--yes"}, two));

	EXPECT_EQ(discard.status, 2);
	EXPECT_NE(discard.err.find("of 3, but 2 are given"), std::string::npos) << discard.err;
	refused({path("a"), path("b"), path("b")}, 2, "are both stripe");
	EXPECT_EQ(served(3).size(), kFramesA + kFramesB);

	// In any order.
	const Json all(tool({"verify", "--json", path("b"), path("c"), path("a")}).out);

	EXPECT_EQ(all["frames"], kFramesA + kFramesB);
}

TEST_F(Tool, StripesOfAnotherSetAreRefused)
{
	make(1);
	Adapter(spec() + "2,size=64M").close();
	refused({path(), path("a2")}, 2, "another set");
}

// ---- inspect ----

TEST_F(Tool, InspectCountsBySpaceAndSize)
{
	make(2);
	const Outcome o = tool(join({"inspect", "--json"}, paths(2)));
	const Json json(o.out);
	const json_t *spaces = json_object_get(json.root(), "spaces");
	const json_t *files = json_object_get(json.root(), "files");
	const json_t *sizes = json_object_get(json.root(), "frame_sizes");
	const json_t *b = json_array_get(spaces, 0), *a = json_array_get(spaces, 1);

	ASSERT_EQ(o.status, 0) << o.err;
	EXPECT_EQ(json["frames"], kFramesA + kFramesB);
	ASSERT_EQ(json_array_size(spaces), 2u);
	EXPECT_EQ(text_of(b, "space"), "b0000000000000b0");
	EXPECT_EQ(text_of(b, "digest"), "b0000000000000b0" + std::string(46, '0') + "77");
	EXPECT_EQ(number_of(b, "frames"), kFramesB);
	EXPECT_EQ(number_of(b, "bytes"), kFramesB * kvh_frame_bytes(kLarge));
	EXPECT_EQ(number_of(b, "oldest_sequence"), 101u);
	EXPECT_EQ(number_of(b, "newest_sequence"), 105u);
	EXPECT_EQ(text_of(a, "space"), "000000000000000a");
	EXPECT_EQ(number_of(a, "frames"), kFramesA);
	EXPECT_NEAR(json_number_value(json_object_get(a, "share_percent")),
		    100.0 * kFramesA * 65536 / static_cast<double>(json["room_bytes"]), 1e-3);
	ASSERT_EQ(json_array_size(files), 2u);
	EXPECT_EQ(number_of(json_array_get(files, 0), "snapshot_frames") +
			  number_of(json_array_get(files, 1), "snapshot_frames"),
		  kFramesA + kFramesB);
	EXPECT_EQ(number_of(json_array_get(files, 1), "stripe"), 1u);
	EXPECT_EQ(number_of(json_array_get(files, 1), "version"), KVH_NVME_VERSION);
	EXPECT_TRUE(json_is_true(json_object_get(json_array_get(files, 0), "closed_in_order")));
	ASSERT_EQ(json_array_size(sizes), 3u) << "none yet, and two";
	EXPECT_EQ(number_of(json_array_get(sizes, 1), "frame_bytes"), 65536u);
	EXPECT_EQ(number_of(json_array_get(sizes, 2), "frame_bytes"), kvh_frame_bytes(kLarge));

	const Outcome table = tool(join({"inspect"}, paths(2)));

	EXPECT_EQ(table.status, 0);
	for (const char *part : {"b0000000000000b0          5", "101..105", "64.00 KiB",
				 "stripe 1 of 2", "25 frames", "with a snapshot of"})
		EXPECT_NE(table.out.find(part), std::string::npos) << part << table.out;
}

TEST_F(Tool, AFileLeftOpenByACrashIsLookedAt)
{
	std::filesystem::path copy = path("copy");
	{
		Adapter l2(spec(1, ",size=64M"));

		for (const Frame &frame : all_frames())
			ASSERT_EQ(l2.put(frame.key, frame.bytes()), 0);
		std::filesystem::copy_file(path(), copy);
	}
	const Outcome o = tool({"inspect", copy});

	EXPECT_EQ(o.status, 0) << o.err;
	EXPECT_EQ(o.err, "");
	EXPECT_NE(o.out.find("not closed in order by process " + std::to_string(getpid())),
		  std::string::npos)
		<< o.out;
	EXPECT_NE(o.out.find("25 frames"), std::string::npos) << o.out;
}

// ---- in use ----

TEST_F(Tool, BesideARunningOwnerItReadsAndDoesNotDiscard)
{
	make();
	Adapter l2(spec());

	ASSERT_EQ(l2.error(), 0);
	for (const char *command : {"inspect", "verify", "dump"}) {
		const Outcome o = tool({command, path()});

		EXPECT_EQ(o.status, 0) << command << o.err;
		EXPECT_NE(o.err.find("in use by process " + std::to_string(getpid())),
			  std::string::npos)
			<< command << o.err;
	}
	for (const Args &what : {Args{}, Args{"--space=000000000000000a"}, Args{"--damaged"}}) {
		const Outcome o = tool(join({"discard", "--yes", path()}, what));

		EXPECT_EQ(o.status, 3) << o.err;
		EXPECT_NE(o.err.find("in use by process"), std::string::npos) << o.err;
	}
	ASSERT_EQ(l2.close(), 0);
	EXPECT_EQ(served().size(), kFramesA + kFramesB);
}

// While frames are written over one another, none is called damaged.
TEST_F(Tool, WhatAnOwnerWritesMeanwhileIsNotDamage)
{
	make();
	Adapter l2(spec());
	std::vector<Frame> frames = all_frames();

	ASSERT_EQ(l2.error(), 0);
	Program verify({"verify", "--json", path()}, -1, "kvhoist-l2");
	for (unsigned i = 0; i < 400; i++) {
		const Frame &frame = frames[i % frames.size()];

		ASSERT_EQ(l2.put(frame.key, make_frame(frame.key, frame.payload, i)), 0);
	}
	EXPECT_EQ(verify.wait(), 0) << verify.out;
}

// ---- verify ----

TEST_F(Tool, WhatIsSoundIsVerified)
{
	make(2);
	const Outcome o = tool(join({"verify", "--json"}, paths(2)));
	const Json json(o.out);

	EXPECT_EQ(o.status, 0) << o.err;
	EXPECT_EQ(json["frames"], kFramesA + kFramesB);
	EXPECT_EQ(static_cast<uint64_t>(json["bytes"]),
		  kFramesA * 65536 + kFramesB * kvh_frame_bytes(kLarge));
	EXPECT_EQ(json["changed"], 0);
	EXPECT_EQ(json_array_size(json_object_get(json.root(), "damaged")), 0u);
	EXPECT_NE(
		tool(join({"verify", "--threads=1"}, paths(2))).out.find("25 frames are sound"),
		std::string::npos);
}

TEST_F(Tool, AFlippedBitIsNamed)
{
	make();
	const Frame small = all_frames()[3], large = all_frames()[kFramesA + 1];
	const uint64_t large_end = kvh_frame_bytes(kLarge);
	const struct {
		Frame frame;
		uint64_t at;
		const char *fault;
	} flips[] = {
		{small, 0, "magic"},
		{small, 30, "header checksum"},
		{small, 200, "header checksum"},
		{small, 4096, "payload checksum"},
		{small, 65535, "payload checksum"},
		{large, 4096 + 5, "payload checksum"},
		{large, (2 << 20) + 7, "payload checksum"}, // not in the first read
		{large, large_end - 1, "payload checksum"}, // its padding
	};
	const auto offsets = this->offsets();

	for (const auto &f : flips) {
		const uint64_t at = offsets.at(f.frame.hash());

		flip(path(), at + f.at, 3);
		const Outcome o = tool({"verify", path()});
		const Json json(tool({"verify", "--json", path()}).out);
		const json_t *damaged = json_object_get(json.root(), "damaged");
		flip(path(), at + f.at, 3);

		EXPECT_EQ(o.status, 1) << f.at;
		EXPECT_NE(o.out.find("offset " + std::to_string(at) + " "), std::string::npos)
			<< o.out;
		EXPECT_NE(o.out.find(f.fault), std::string::npos) << o.out;
		EXPECT_NE(o.out.find("24 frames are sound"), std::string::npos) << o.out;
		ASSERT_EQ(json_array_size(damaged), 1u) << f.at;
		EXPECT_EQ(number_of(json_array_get(damaged, 0), "offset"), at);
		EXPECT_EQ(text_of(json_array_get(damaged, 0), "path"), path());
		if (f.at > 4096) {
			EXPECT_NE(o.out.find(f.frame.hash()), std::string::npos) << o.out;
		}
	}
	EXPECT_EQ(tool({"verify", path()}).status, 0) << "control: it was the bits";
}

// What reads only headers does not see a flip behind them: it is the checksum over the
// payload that finds it.
TEST_F(Tool, ControlWithoutThePayloadAFlipIsNotSeen)
{
	make();
	flip(path(), offsets().begin()->second + 5000);
	EXPECT_EQ(tool({"inspect", path()}).status, 0);
	EXPECT_EQ(tool({"dump", path()}).status, 0);
	EXPECT_EQ(tool({"verify", path()}).status, 1);
}

TEST_F(Tool, DamagedHeadersAreCountedByAll)
{
	make();
	flip(path(), offsets().begin()->second + 100);
	const Outcome inspect = tool({"inspect", path()}), dump = tool({"dump", path()});

	EXPECT_EQ(inspect.status, 1);
	EXPECT_NE(inspect.out.find("1 damaged headers"), std::string::npos) << inspect.out;
	EXPECT_EQ(dump.status, 1);
	EXPECT_NE(dump.err.find("1 damaged headers"), std::string::npos) << dump.err;
}

TEST_F(Tool, DamagedSuperblocksAndTablesAreFound)
{
	make();
	const std::string bytes = contents(path());
	const auto *super = reinterpret_cast<const struct kvh_nvme_super *>(bytes.data());
	const struct {
		std::vector<uint64_t> at;
		const char *message;
	} flips[] = {
		{{100}, "1 of 2 copies of the superblock"},
		{{4096 + 100}, "1 of 2 copies of the superblock"},
		{{super->table_offset + 20}, "1 copies of pages of the segment table"},
		{{super->table_offset + 20, super->table_offset + 4096 + 20},
		 "their frames are lost"},
	};

	for (const auto &f : flips) {
		for (const uint64_t at : f.at)
			flip(path(), at);
		for (const char *command : {"verify", "inspect"}) {
			const Outcome o = tool({command, path()});

			EXPECT_EQ(o.status, 1) << f.message;
			EXPECT_NE(o.out.find(f.message), std::string::npos) << o.out;
		}
		for (const uint64_t at : f.at)
			flip(path(), at);
	}
	EXPECT_EQ(tool({"verify", path()}).status, 0) << "control: it was the bits";
	flip(path(), 100);
	flip(path(), 4096 + 100);
	refused({path()}, 1, "both superblocks are damaged");
}

TEST_F(Tool, AFileThatWasCutIsNamed)
{
	make();
	std::filesystem::resize_file(path(), 20 << 20);
	const Outcome o = tool({"verify", path()});

	EXPECT_EQ(o.status, 1);
	EXPECT_NE(o.out.find("cut, 20971520 of 67108864"), std::string::npos) << o.out;
	EXPECT_NE(o.out.find("Input/output error\n"), std::string::npos) << o.out;
	EXPECT_EQ(tool({"discard", "--yes", path()}).status, 1);
}

TEST_F(Tool, OnATerminalItShowsHowFarItIs)
{
	make();
	const std::string program =
		std::filesystem::read_symlink("/proc/self/exe").parent_path().string() +
		"/../kvhoist-l2";
	const std::string file = path();
	std::string shown;
	char some[512];
	int fd, status = 0;
	const pid_t pid = forkpty(&fd, nullptr, nullptr, nullptr);
	ssize_t n;

	if (pid == 0) {
		execl(program.c_str(), "kvhoist-l2", "verify", file.c_str(), nullptr);
		_exit(127);
	}
	ASSERT_GT(pid, 0);
	while ((n = read(fd, some, sizeof(some))) > 0)
		shown.append(some, static_cast<size_t>(n));
	close(fd);
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_EQ(WEXITSTATUS(status), 0);
	EXPECT_NE(shown.find("100 % [####################]"), std::string::npos) << shown;
	EXPECT_NE(shown.find("GB/s, 25 frames, 0 damaged"), std::string::npos) << shown;
	// Control: what is no terminal gets none of it.
	EXPECT_EQ(tool({"verify", path()}).err, "");
}

// ---- a second look ----

struct SecondLook {
	std::function<void()> then; // once, after what is damaged was read
	unsigned damaged = 0;
};

// One thread, so the first frame is read first; what a test does to it is done when
// the next is visited.
struct kvh_tool_totals look(const std::string &path, SecondLook *look)
{
	std::string copy = path;
	char *paths[] = {copy.data()};
	struct kvh_tool_opts opts = {};
	struct kvh_tool tool;
	struct kvh_tool_totals totals = {};
	const auto visit = [](void *arg, const struct kvh_tool_slot *slot) {
		SecondLook *l = static_cast<SecondLook *>(arg);

		l->damaged += slot->fault != nullptr;
		if (l->then)
			std::exchange(l->then, nullptr)();
	};

	opts.paths = paths;
	opts.n_paths = 1;
	opts.threads = 1;
	opts.quiet = true;
	EXPECT_EQ(kvh_tool_open(&tool, &opts), 0);
	EXPECT_EQ(kvh_tool_scan(&tool, true, visit, look, &totals), 0);
	EXPECT_EQ(totals.damaged, look->damaged);
	kvh_tool_close(&tool);
	return totals;
}

TEST_F(Tool, WhatChangesMeanwhileIsNotDamaged)
{
	make();
	const auto offsets = this->offsets();
	uint64_t first = UINT64_MAX;
	for (const auto &o : offsets)
		first = std::min(first, o.second);
	const Buffer zeros(4096, 0);
	const std::function<void()> changes[] = {
		[&] { flip(path(), first + 5000); },                   // it is sound
		[&] { write_at(path(), first, zeros.data(), 4096); },  // no frame
		[&] { write_at(path(), first, "another one's", 13); }, // another's, torn
	};

	for (const auto &change : changes) {
		const std::string before = contents(path());
		SecondLook second = {change};

		flip(path(), first + 5000);
		const struct kvh_tool_totals totals = look(path(), &second);

		EXPECT_EQ(totals.changed, 1u);
		EXPECT_EQ(totals.damaged, 0u);
		write_at(path(), 0, before.data(), before.size());
	}
}

TEST_F(Tool, ControlWhatStaysAsItIsIsDamaged)
{
	make();
	uint64_t first = UINT64_MAX;
	for (const auto &o : offsets())
		first = std::min(first, o.second);
	SecondLook second;

	flip(path(), first + 5000);
	const struct kvh_tool_totals totals = look(path(), &second);

	EXPECT_EQ(totals.changed, 0u);
	EXPECT_EQ(totals.damaged, 1u);
	EXPECT_EQ(totals.frames, kFramesA + kFramesB - 1);
}

} // namespace
} // namespace l2test
