// SPDX-License-Identifier: Apache-2.0
//
// tool_rig.h - files that the nvme adapter made, with known frames on them, and
// kvhoist-l2 run on them. For its tests.
#ifndef KVH_TESTS_TOOL_RIG_H
#define KVH_TESTS_TOOL_RIG_H

#include "l2/nvme_layout.h"
#include "l2/tool.h"
#include "tests/l2_harness.h"
#include "tests/run_program.h"

#include <fstream>
#include <map>

namespace l2test
{

using Args = std::vector<std::string>;

// Two spaces and two frame sizes: the larger one takes several reads.
constexpr uint64_t kSmall = 60 << 10, kLarge = (5 << 20) - 4096 - 77;
constexpr uint64_t kSpaceA = 0xA, kSpaceB = 0xB0000000000000B0;
constexpr unsigned kFramesA = 20, kFramesB = 5;

inline Outcome tool(const Args &args)
{
	return run(args, "kvhoist-l2");
}

inline Args join(Args args, const Args &more)
{
	args.insert(args.end(), more.begin(), more.end());
	return args;
}

inline Buffer frame_of(const struct kvh_key &key, uint64_t payload)
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

inline std::vector<Frame> all_frames()
{
	std::vector<Frame> frames;

	for (uint64_t n = 0; n < kFramesA; n++)
		frames.push_back({make_key(n, kSpaceA), kSmall});
	for (uint64_t n = 0; n < kFramesB; n++)
		frames.push_back({make_key(n + 100, kSpaceB), kLarge});
	return frames;
}

// Nothing, if it is not there.
inline std::string contents(const std::string &path)
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

inline void write_at(const std::string &path, uint64_t off, const void *bytes, size_t n)
{
	std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);

	file.seekp(static_cast<std::streamoff>(off));
	file.write(static_cast<const char *>(bytes), static_cast<std::streamsize>(n));
	ASSERT_TRUE(file.good()) << path;
}

inline void flip(const std::string &path, uint64_t off, unsigned bit = 0)
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

inline std::string text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	EXPECT_NE(text, nullptr) << name;
	return text != nullptr ? text : "";
}

inline uint64_t number_of(const json_t *object, const char *name)
{
	const json_t *value = json_object_get(object, name);

	EXPECT_TRUE(json_is_integer(value)) << name;
	return static_cast<uint64_t>(json_integer_value(value));
}

class ToolRig : public ::testing::Test
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

} // namespace l2test

#endif
