// SPDX-License-Identifier: Apache-2.0
//
// l2_tool_test.cc - kvhoist-l2 run as an operator does, on files that the nvme adapter
// made: what it prints, what it finds, what it refuses, and that it changes nothing
// but what it was told to.
#include "l2/nvme_layout.h"
#include "l2/tool.h"
#include "tests/l2_harness.h"
#include "tests/run_program.h"

#include <algorithm>
#include <cinttypes>
#include <fstream>
#include <functional>
#include <map>
#include <pty.h>

namespace l2test
{
namespace
{

using Args = std::vector<std::string>;

// Two spaces and two frame sizes: the larger one takes several reads.
constexpr uint64_t kSmall = 60 << 10, kLarge = (5 << 20) - 4096 - 77;
constexpr uint64_t kSpaceA = 0xA, kSpaceB = 0xB0000000000000B0;
constexpr unsigned kFramesA = 20, kFramesB = 5;

Outcome tool(const Args &args)
{
	return run(args, "kvhoist-l2");
}

Args join(Args args, const Args &more)
{
	args.insert(args.end(), more.begin(), more.end());
	return args;
}

Buffer frame_of(const struct kvh_key &key, uint64_t payload)
{
	Buffer frame = make_frame(key, payload);
	const struct kvh_hash parent = {};
	uint8_t digest[32] = {};

	memcpy(digest, &key.space, 8); // what makes an id of a digest
	digest[31] = 0x77;
	kvh_frame_fill(frame.data(), &key, digest, &parent, key.hash.bytes[8] + 1u, payload);
	kvh_frame_seal(frame.data());
	return frame;
}

struct Frame {
	struct kvh_key key;
	uint64_t payload;

	Buffer bytes() const
	{
		return frame_of(key, payload);
	}
	std::string hash() const
	{
		char text[KVH_TOOL_KEY_TEXT];

		return std::string(kvh_tool_key_text(&key, text)).substr(0, 32);
	}
};

std::vector<Frame> all_frames()
{
	std::vector<Frame> frames;

	for (uint64_t n = 0; n < kFramesA; n++)
		frames.push_back({make_key(n, kSpaceA), kSmall});
	for (uint64_t n = 0; n < kFramesB; n++)
		frames.push_back({make_key(n + 100, kSpaceB), kLarge});
	return frames;
}

// Nothing, if it is not there.
std::string contents(const std::string &path)
{
	std::ifstream file(path, std::ios::binary | std::ios::ate);
	std::string bytes;

	if (file.good()) {
		bytes.resize(static_cast<size_t>(file.tellg()));
		file.seekg(0);
		file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
	}
	return bytes;
}

void write_at(const std::string &path, uint64_t off, const void *bytes, size_t n)
{
	std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);

	file.seekp(static_cast<std::streamoff>(off));
	file.write(static_cast<const char *>(bytes), static_cast<std::streamsize>(n));
	ASSERT_TRUE(file.good()) << path;
}

void flip(const std::string &path, uint64_t off, unsigned bit = 0)
{
	std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
	char byte;

	file.seekg(static_cast<std::streamoff>(off));
	file.get(byte);
	byte = static_cast<char>(byte ^ (1 << bit));
	file.seekp(static_cast<std::streamoff>(off));
	file.put(byte);
	ASSERT_TRUE(file.good()) << path;
}

std::string text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	EXPECT_NE(text, nullptr) << name;
	return text != nullptr ? text : "";
}

uint64_t number_of(const json_t *object, const char *name)
{
	const json_t *value = json_object_get(object, name);

	EXPECT_TRUE(json_is_integer(value)) << name;
	return static_cast<uint64_t>(json_integer_value(value));
}

class Tool : public ::testing::Test
{
      protected:
	std::string path(const std::string &name = "a") const
	{
		return dir_.path(name);
	}
	// A set of `stripes` files, "a", "b", ...
	static Args names(unsigned stripes)
	{
		Args names;

		for (unsigned i = 0; i < stripes; i++)
			names.push_back(std::string(1, static_cast<char>('a' + i)));
		return names;
	}
	Args paths(unsigned stripes = 1) const
	{
		Args paths;

		for (const std::string &name : names(stripes))
			paths.push_back(path(name));
		return paths;
	}
	std::string spec(unsigned stripes = 1, const std::string &more = "") const
	{
		std::string spec = "nvme:" + path();

		for (unsigned i = 1; i < stripes; i++)
			spec += ",stripe=" + paths(stripes)[i];
		return spec + more;
	}
	void make(unsigned stripes = 1) const
	{
		Adapter l2(spec(stripes, ",size=64M"));

		ASSERT_EQ(l2.error(), 0);
		for (const Frame &frame : all_frames())
			ASSERT_EQ(l2.put(frame.key, frame.bytes()), 0);
	}
	// Which of them an adapter then serves, whole.
	std::vector<Frame> served(unsigned stripes = 1) const
	{
		std::vector<Frame> found;
		Adapter l2(spec(stripes));

		EXPECT_EQ(l2.error(), 0);
		for (const Frame &frame : all_frames()) {
			const Buffer want = frame.bytes(), into(want.size());

			if (l2.error() == 0 && l2.get(frame.key, into) == 0 && into == want)
				found.push_back(frame);
		}
		return found;
	}
	// Where they lie, as dump says: by hash.
	std::map<std::string, uint64_t> offsets(const std::string &name = "a") const
	{
		const Outcome o = tool({"dump", "--json", "-q", path(name)});
		const Json json(o.out);
		std::map<std::string, uint64_t> offsets;
		const json_t *one;
		size_t i;

		EXPECT_EQ(o.status, 0) << o.err;
		json_array_foreach(json.root(), i, one)
		{
			offsets[text_of(one, "key").substr(0, 32)] = number_of(one, "offset");
		}
		return offsets;
	}
	// Exit status and message of every subcommand, and that it wrote nothing.
	void refused(const Args &paths, int status, const std::string &message) const
	{
		for (const char *command : {"inspect", "verify", "dump", "discard"}) {
			const std::string before = contents(paths[0]);
			Args args = join({command}, paths);

			if (args[0] == "discard")
				args.push_back("--yes");
			const Outcome o = tool(args);

			EXPECT_EQ(o.status, status) << command << o.err;
			EXPECT_NE(o.err.find(message), std::string::npos)
				<< command << ": " << o.err;
			EXPECT_TRUE(contents(paths[0]) == before) << command;
		}
	}

      private:
	TempDir dir_;
};

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

// ---- dump ----

TEST_F(Tool, DumpListsFrames)
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

TEST_F(Tool, DumpWritesThePayloadAsItWasStored)
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

TEST_F(Tool, DumpOfADamagedFrameWritesNothing)
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

TEST_F(Tool, DumpAsksWhichOfSeveral)
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

TEST_F(Tool, WhatIsDiscardedIsNotFoundAgain)
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
TEST_F(Tool, WhatIsDiscardedDoesNotComeBackWithAnOlderTable)
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

TEST_F(Tool, WithoutAYesNothingIsDiscarded)
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

TEST_F(Tool, DiscardOfASpaceKeepsTheOthers)
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

TEST_F(Tool, DiscardOfWhatIsDamagedKeepsTheRest)
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

} // namespace
} // namespace l2test
