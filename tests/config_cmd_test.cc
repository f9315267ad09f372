// SPDX-License-Identifier: Apache-2.0
//
// config_cmd_test.cc - `kvhoist-bench config` as a user runs it, that replay reads
// the same options, and that docs/configuration.md lists what the table has.
#include "config_rig.h"
#include "run_program.h"

#include <algorithm>
#include <fstream>
#include <iterator>

namespace
{

using Args = std::vector<std::string>;

struct Outcome {
	int status;
	std::string out, err;
};

Outcome run(const Args &args)
{
	Program program(args);
	Outcome o;

	o.status = program.wait();
	o.out = program.out;
	o.err = program.err;
	return o;
}

TEST(ConfigCommand, PrintsValuesAndOrigins)
{
	TempDir dir;
	configtest::Env env;

	std::ofstream(dir.path("kv.json")) << "{\n\"l1\": {\"bytes\": \"64M\"}}";
	env.set("KVHOIST_WORKERS", "5");
	const Outcome o = run({"config", "--config", dir.path("kv.json"), "--set",
			       "l2.retries=7", "--l2", "mem:a"});

	EXPECT_EQ(0, o.status) << o.err;
	for (const auto &line :
	     {"l1.bytes               64M                  " + dir.path("kv.json") + ":2\n",
	      std::string("workers                5                    "
			  "KVHOIST_WORKERS\n"),
	      std::string("l2.adapters[0]         mem:a                flag\n"),
	      std::string("l2.queue_bytes         32M                  "
			  "default, live\n"),
	      std::string("watermark.low_pct      90                   "
			  "default, live\n")})
		EXPECT_NE(std::string::npos, o.out.find(line)) << line << "in\n" << o.out;
}

TEST(ConfigCommand, TheJsonNamesEveryOption)
{
	const Outcome o = run({"config", "--l1", "2M", "--json"});
	json_t *root = json_loads(o.out.c_str(), 0, nullptr);
	const kvh_option *option = kvh_options;
	json_t *one;
	size_t i;

	EXPECT_EQ(0, o.status) << o.err;
	ASSERT_NE(nullptr, root) << o.out;
	json_array_foreach(root, i, one)
	{
		ASSERT_NE(nullptr, option->name);
		EXPECT_STREQ((option++)->name, json_string_value(json_object_get(one, "name")));
		for (const char *name : {"value", "origin", "default", "allowed", "help"})
			EXPECT_TRUE(json_is_string(json_object_get(one, name))) << name;
		EXPECT_TRUE(json_is_boolean(json_object_get(one, "live")));
	}
	EXPECT_EQ(nullptr, option->name) << "all of them";
	json_decref(root);
}

TEST(ConfigCommand, BadInputExits2)
{
	TempDir dir;
	const struct {
		Args args;
		std::string complaint;
	} cases[] = {
		{{"config"}, "l1.bytes is 0"},
		{{"config", "--config", dir.path("bad.json")},
		 "bad.json:2: worker is no option"},
		{{"config", "--config", "/nonexistent"}, "/nonexistent: No such file"},
		{{"config", "--set", "l1.bytes"}, "NAME=VALUE"},
		{{"config", "--set", "l1.byts=2M"}, "the nearest is l1.bytes"},
		{{"config", "--l1", "2M", "--set", "watermark.low_pct=96"},
		 "watermark.low_pct is 96"},
		{{"config", "now"}, "'now' is no option"},
	};

	std::ofstream(dir.path("bad.json")) << "{\n\"worker\": 2}";
	for (const auto &c : cases) {
		const Outcome o = run(c.args);

		EXPECT_EQ(2, o.status) << c.complaint;
		EXPECT_NE(std::string::npos, o.err.find(c.complaint)) << o.err;
	}
}

TEST(ConfigCommand, ReplayReadsTheSame)
{
	TempDir dir;

	std::ofstream(dir.path("kv.json"))
		<< "{\"device\": \"host\", \"l1\": {\"bytes\": \"8M\"},\n"
		   "\"l2\": {\"adapters\": [{\"adapter\": \"mem\", \"path\": \"x\"}]}}";
	const Outcome o = run({"replay", "--config", dir.path("kv.json"), "--requests", "5",
			       "--scale", "0.001", "--json"});
	json_t *root = json_loads(o.out.c_str(), 0, nullptr);

	EXPECT_EQ(0, o.status) << o.err;
	ASSERT_NE(nullptr, root) << o.out;
	EXPECT_EQ(8 << 20, json_integer_value(json_object_get(root, "l1_bytes")));
	EXPECT_STREQ("mem", json_string_value(json_object_get(
				    json_array_get(json_object_get(root, "l2"), 0), "name")));
	json_decref(root);
}

// One row an option: | `name` | default | allowed | live | help |
TEST(ConfigurationPage, HasTheTable)
{
	std::ifstream page(KVH_SOURCE_DIR "/docs/configuration.md");
	const std::string text{std::istreambuf_iterator<char>(page),
			       std::istreambuf_iterator<char>()};
	size_t rows = 0;

	for (const kvh_option *o = kvh_options; o->name != nullptr; o++, rows++) {
		char allowed[256], fallback[64];
		std::string row;

		kvh_option_default(o, fallback, sizeof(fallback));
		kvh_option_allowed(o, allowed, sizeof(allowed));
		row = std::string("| `") + o->name + "` | " + fallback + " | " +
		      (o->help == std::string(allowed) ? "" : allowed) + " | " +
		      (o->apply != nullptr ? "yes" : "no") + " | " + o->help + " |\n";
		EXPECT_NE(std::string::npos, text.find(row))
			<< "docs/configuration.md lacks the row\n"
			<< row;
	}
	size_t found = 0;

	for (size_t at = 0; (at = text.find("\n| `", at)) != std::string::npos; at++)
		found++;
	EXPECT_EQ(rows, found) << "rows of options that there are not";
}

} // namespace
