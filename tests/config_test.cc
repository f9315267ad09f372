// SPDX-License-Identifier: Apache-2.0
//
// config_test.cc - options from a file, the environment and flags: which one
// holds, what is refused, where and with which words, and that an engine opens
// with exactly what was said.
#include "config_rig.h"
#include "host/engine.h"
#include "l2/spec.h"

#include <cctype>
#include <set>

namespace
{

using configtest::Config;
using configtest::Env;
using l2test::Log;

constexpr uint64_t MIB = UINT64_C(1) << 20;

// ---- the table ---------------------------------------------------------------

TEST(OptionTable, EveryRowIsWhole)
{
	std::set<std::string> names, variables;

	for (const kvh_option *o = kvh_options; o->name != nullptr; o++) {
		std::string variable = o->name;
		char text[256];

		for (char &c : variable)
			c = c == '.' ? '_' : static_cast<char>(toupper(c));
		EXPECT_TRUE(names.insert(o->name).second) << o->name;
		EXPECT_TRUE(variables.insert(variable).second)
			<< o->name << ": two options with one variable";
		EXPECT_NE(nullptr, o->field) << o->name;
		EXPECT_NE(nullptr, o->help) << o->name;
		EXPECT_EQ(nullptr, strpbrk(o->name, "=[] ")) << o->name;
		EXPECT_EQ(o->type == KVH_OPTION_CHOICE, o->choice != nullptr) << o->name;
		if (o->type == KVH_OPTION_CHOICE || o->type == KVH_OPTION_TEXT ||
		    o->type == KVH_OPTION_SPECS) {
			EXPECT_NE(nullptr, o->fallback_text) << o->name;
		}
		kvh_option_allowed(o, text, sizeof(text));
		EXPECT_STRNE("", text) << o->name;
	}
	EXPECT_LE(names.size(), 64u) << "OPTIONS_MAX of config.c";
}

// A default is a value that the option takes.
TEST(OptionTable, DefaultsAreAllowed)
{
	for (const kvh_option *o = kvh_options; o->name != nullptr; o++) {
		kvh_option_value value{};
		kvh_engine_opts opts;
		kvh_why why;
		char text[256], back[256];

		if (o->type == KVH_OPTION_SPECS ||
		    (o->fallback_text != nullptr && o->choice == nullptr))
			continue;
		kvh_option_default(o, text, sizeof(text));
		ASSERT_EQ(0, kvh_option_parse(o, text, &value, &why)) << o->name << why.text;
		kvh_engine_opts_init(&opts, sizeof(opts));
		kvh_option_set(o, &opts, &value);
		kvh_option_format(o, &opts, back, sizeof(back));
		EXPECT_STREQ(text, back) << o->name;
	}
}

TEST(OptionTable, SizesAndDurationsInTheirShortestForm)
{
	const std::map<uint64_t, const char *> sizes = {{0, "0"},
							{1, "1"},
							{1023, "1023"},
							{65536, "64K"},
							{3u << 29, "1536M"},
							{UINT64_C(1) << 40, "1T"},
							{UINT64_MAX, "18446744073709551615"}};
	const std::map<uint64_t, const char *> durations = {
		{0, "0ns"},
		{1, "1ns"},
		{1500000, "1500us"},
		{30000000000, "30s"},
		{UINT64_MAX, "18446744073709551615ns"}};
	char text[64];

	for (const auto &s : sizes) {
		kvh_format_size(s.first, text, sizeof(text));
		EXPECT_STREQ(s.second, text);
	}
	for (const auto &d : durations) {
		kvh_format_duration(d.first, text, sizeof(text));
		EXPECT_STREQ(d.second, text);
	}
}

// ---- precedence ----------------------------------------------------------------

TEST(Config, DefaultsWithoutAnything)
{
	Config config;
	kvh_engine_opts o;
	Log log;

	EXPECT_EQ("95 default", config.at("watermark.high_pct"));
	EXPECT_EQ("1G default", config.at("l1.piece_bytes"));
	EXPECT_EQ("30s default", config.at("l2.deadline"));
	EXPECT_EQ("-1 default", config.at("l1.numa_node"));
	EXPECT_EQ(" default", config.at("l1.bytes"));
	EXPECT_EQ(-EINVAL, config.opts(&o)) << "l1.bytes has to be given";
	EXPECT_EQ(1u, log.count("l1.bytes is 0, allowed: 1M..")) << log.text();
}

TEST(Config, LaterOriginsOverrideWhateverIsReadFirst)
{
	const char *file = "{\n \"l1\": {\"bytes\": \"64M\"},\n \"workers\": 3,\n"
			   " \"l2\": {\"retries\": 5, \"adapters\": [\"mem:a\"]}\n}\n";

	for (bool file_first : {true, false}) {
		Config config;
		kvh_engine_opts o;
		Env env;

		env.set("KVHOIST_WORKERS", "4");
		env.set("KVHOIST_L2_RETRIES", "6");
		if (!file_first) {
			EXPECT_EQ(0, config.set("l2.retries", "7"));
			EXPECT_EQ(0, config.env());
		}
		EXPECT_EQ(0, config.file(file));
		if (file_first) {
			EXPECT_EQ(0, config.env());
			EXPECT_EQ(0, config.set("l2.retries", "7"));
		}
		EXPECT_EQ("64M " + config.path + ":2", config.at("l1.bytes"));
		EXPECT_EQ("4 KVHOIST_WORKERS", config.at("workers"));
		EXPECT_EQ("7 flag", config.at("l2.retries"));
		EXPECT_EQ("mem:a " + config.path + ":4", config.at("l2.adapters[0]"));
		ASSERT_EQ(0, config.opts(&o));
		EXPECT_EQ(64 * MIB, o.l1_bytes);
		EXPECT_EQ(4u, o.workers);
		EXPECT_EQ(7u, o.l2_retries);
		EXPECT_EQ(32 * MIB, o.l2_queue_bytes) << "derived";
		ASSERT_EQ(1u, o.n_l2);
		EXPECT_STREQ("mem:a", o.l2[0]);
	}
}

TEST(Config, AListOfAdaptersIsOverriddenAsAWhole)
{
	const char *file = "{\"l2\": {\"adapters\": [\"mem:a\", \"null:b\"]}}";
	Config config;
	Env env;

	env.set("KVHOIST_L2_ADAPTERS", "[\"mem:c\", {\"adapter\": \"null\"}]");
	EXPECT_EQ(0, config.file(file));
	EXPECT_EQ("null:b " + config.path + ":1", config.at("l2.adapters[1]"));
	EXPECT_EQ(0, config.env());
	EXPECT_EQ("mem:c KVHOIST_L2_ADAPTERS", config.at("l2.adapters[0]"));
	EXPECT_EQ("null: KVHOIST_L2_ADAPTERS", config.at("l2.adapters[1]"));
	EXPECT_EQ(0, config.set("l2.adapters", "mem:d"));
	EXPECT_EQ(0, config.set("l2.adapters", "mem:e")) << "flags add up";
	EXPECT_EQ("mem:d flag", config.at("l2.adapters[0]"));
	EXPECT_EQ("mem:e flag", config.at("l2.adapters[1]"));
	EXPECT_EQ(0, config.set("l2.adapters", ""));
	EXPECT_EQ(" flag", config.at("l2.adapters")) << "none";
}

TEST(Config, TheVariableNamesTheFile)
{
	l2test::Dir dir;
	const std::string path = dir.path() + "/c.json";
	Config config;
	Env env;
	Log log;

	env.set("KVHOIST_CONFIG", path);
	std::ofstream(path) << "{\"workers\": 9}";
	EXPECT_EQ(0, kvh_config_file(config.get(), nullptr));
	EXPECT_EQ(0, config.env()) << "it is no option";
	EXPECT_EQ("9 " + path + ":1", config.at("workers"));
	EXPECT_EQ(-EEXIST, config.file("{}")) << "a second one";
}

// ---- adapters as objects -------------------------------------------------------

TEST(Config, AdaptersAsObjects)
{
	const struct {
		const char *json, *spec;
	} cases[] = {
		{"{\"adapter\": \"mem\"}", "mem:"},
		{"{\"size\": 8192, \"path\": \"a\", \"adapter\": \"mem\"}", "mem:a,size=8192"},
		{"{\"adapter\": \"mem\", \"size\": \"64M\", \"depth\": 7}",
		 "mem:,size=64M,depth=7"},
		{"{\"adapter\": \"nvme\", \"path\": \"/d/k,v\", \"format\": true}",
		 "nvme:/d/k\\,v,format=yes"},
		{"{\"adapter\": \"fs\", \"path\": \"a=b\"}", "fs:./a=b"},
		{"{\"adapter\": \"fault\", \"next\": \"mem:x,size=1M\", \"seed\": 3, "
		 "\"script\": \"put:fail=EIO;get x*:delay=5\"}",
		 "fault:,seed=3,script=put:fail=EIO;get x*:delay=5,next=mem:x,size=1M"},
	};

	for (const auto &c : cases) {
		Config config;

		EXPECT_EQ(0, config.file(std::string("{\"l2\":{\"adapters\":[\n") + c.json +
					 "]}}"))
			<< c.json;
		EXPECT_EQ(c.spec + (" " + config.path) + ":2", config.at("l2.adapters[0]"));
	}
}

// ---- what is refused -----------------------------------------------------------

struct Bad {
	const char *json;
	int line;
	const char *complaint;
};

const Bad bad_files[] = {
	// names
	{"{\n\"l1\": {\n\"byts\": 1}}", 3, "l1.byts is no option; the nearest is l1.bytes"},
	{"{\"watermarks\": {\"high_pct\": 1}}", 1, "watermarks is no option"},
	{"{\n\n\"Workers\": 2}", 3, "the nearest is workers"},
	{"{\"l1\": {\"\": 1}}", 1, "l1. is no option"},
	{"{\"\": 1}", 1, " is no option"},
	{"{\"l1\": {\"bytes\": 1, \"bytes\": 2}}", 1, "duplicate object key"},
	{"{\"l1\": {\"bytes\": 2097152},\n\"l1.bytes\": 2097152}", 2,
	 "l1.bytes is given twice, first on line 1"},
	{"{\"workers\": 2, \"l2\": {\"adapters\": [{\"adapter\": \"mem\"}, \"null:\"]},\n"
	 " \"stage_byte\": 4}",
	 2, "stage_byte is no option; the nearest is stage_bytes"},
	{"{\"evil\\nkey\": 1}", 1, "evil?key is no option"},
	// types
	{"{\"workers\": \"2\"}", 1, "workers is a text, allowed: a whole number"},
	{"{\"workers\": 2.0}", 1, "workers is a number with a point or exponent"},
	{"{\"workers\": null}", 1, "workers is null"},
	{"{\"workers\": [2]}", 1, "workers is an array"},
	{"{\"l1\": 5}", 1, "l1 is a whole number, allowed: an object"},
	{"{\"l1\": {\"bytes\": true}}", 1, "l1.bytes is true or false"},
	{"{\"l1\": {\"bytes\": 1e30}}", 1, "l1.bytes is a number with a point or exponent"},
	{"{\"l2\": {\"deadline\": 30}}", 1, "l2.deadline is a whole number, allowed: a text"},
	{"{\"device\": 1}", 1, "device is a whole number, allowed: a text"},
	{"{\"l2\": {\"adapters\": \"mem:\"}}", 1, "allowed: an array of adapters"},
	{"{\"l2\": {\"adapters\": [\n7]}}", 2, "has a whole number, allowed: a text or an"},
	{"[]", 1, "is an array, allowed: an object"},
	// numbers
	{"{\"workers\": 0}", 1, "workers is \"0\", allowed: 1..64"},
	{"{\"workers\": -1}", 1, "workers is \"-1\", allowed: 1..64"},
	{"{\"workers\": 4294967297}", 1, "allowed: 1..64"},
	{"{\"workers\": 99999999999999999999}", 1, "too big"},
	{"{\"l1\": {\"bytes\": \"1.5\"}}", 1, "l1.bytes is \"1.5\", allowed: 1M.."},
	{"{\"l1\": {\"bytes\": \"99999999T\"}}", 1, "allowed: 1M.."},
	{"{\"l1\": {\"bytes\": \"nan\"}}", 1, "l1.bytes is \"nan\""},
	{"{\"l1\": {\"bytes\": \"inf\"}}", 1, "l1.bytes is \"inf\""},
	{"{\"l1\": {\"bytes\": NaN}}", 1, "invalid token"},
	{"{\"l1\": {\"bytes\": 1e999}}", 1, "real number overflow"},
	{"{\"l1\": {\"numa_node\": -2}}", 1, "l1.numa_node is \"-2\", allowed: -1.."},
	{"{\"watermark\": {\"high_pct\": 101}}", 1, "allowed: 2..100 percent"},
	{"{\"l2\": {\"deadline\": \"30\"}}", 1, "with a unit (ns, us, ms, s, min, h)"},
	{"{\"l2\": {\"deadline\": \"-3s\"}}", 1, "l2.deadline is \"-3s\""},
	{"{\"l2\": {\"deadline\": \"99999999999h\"}}", 1, "l2.deadline is"},
	// choices and adapters
	{"{\"store\": {\"policy\": \"buffer_only\"}}", 1,
	 "'buffer_only' is not known; the nearest is 'buffer-only'"},
	{"{\"l2\": {\"adapters\": [\n\"mem:\",\n\"nmve:/x\"]}}", 3,
	 "there is no adapter \"nmve\"; the nearest is \"nvme\""},
	{"{\"l2\": {\"adapters\": [\"mem:a,sise=1M\"]}}", 1,
	 "mem has no option \"sise\"; the nearest is \"size\""},
	{"{\"l2\": {\"adapters\": [\"fault:,next=mem:a,dept=3\"]}}", 1,
	 "mem has no option \"dept\"; the nearest is \"depth\""},
	{"{\"l2\": {\"adapters\": [{\"adapter\": \"mem\",\n\"sise\": 1}]}}", 2,
	 "sise is no option of mem; the nearest is \"size\""},
	{"{\"l2\": {\"adapters\": [{\"adapter\": \"memm\"}]}}", 1,
	 "there is no adapter \"memm\"; the nearest is \"mem\""},
	{"{\"l2\": {\"adapters\": [{\"path\": \"x\"}]}}", 1, "without a text \"adapter\""},
	{"{\"l2\": {\"adapters\": [{\"adapter\": 3}]}}", 1, "without a text \"adapter\""},
	{"{\"l2\": {\"adapters\": [{\"adapter\": \"mem\", \"path\": 1}]}}", 1,
	 "path is a whole number, allowed: a text"},
	{"{\"l2\": {\"adapters\": [{\"adapter\": \"mem\",\n\n\"size\": 1.5}]}}", 3,
	 "size is a number with a point"},
	{"{\"l2\": {\"adapters\": [{\"adapter\": \"fs\", \"path\": \"x\\\\\"}]}}", 1,
	 "ends with a backslash"},
	// JSON
	{"", 1, "'[' or '{' expected near end of file"},
	{"{\n\"workers\": 2,\n}", 3, "expected near '}'"},
	{"{\"workers\": 2} x", 1, "end of file expected"},
	{"{\"w\\u0000x\": 2}", 1, "\\u0000"},
};

TEST(Config, BadFilesAreRefusedWithTheirLine)
{
	for (const auto &bad : bad_files) {
		Config config;
		kvh_engine_opts o;
		Log log;

		EXPECT_EQ(-EINVAL, config.file(bad.json)) << bad.json;
		EXPECT_EQ(1u, log.count(config.path + ":" + std::to_string(bad.line) + ": "))
			<< bad.json << "\n"
			<< log.text();
		EXPECT_EQ(1u, log.count(bad.complaint)) << bad.json << "\n" << log.text();
		EXPECT_EQ(1u, log.count("\n")) << "said once: " << log.text();
		EXPECT_EQ(0, config.set("l1.bytes", "2M"));
		EXPECT_EQ(-EINVAL, config.opts(&o)) << "not used after an error";
	}
}

TEST(Config, EveryErrorOfAFileIsNamed)
{
	Config config;
	Log log;

	EXPECT_EQ(-EINVAL,
		  config.file("{\"wrkers\": 1,\n\"l1\": {\"byte\": 2, \"x\": [3, 4]},\n"
			      "\"l2\": {\"adapters\": [\"tape:\", {\"adapter\": \"mem\", "
			      "\"a\": 1,\n\"b\": 2}]},\n\"workers\": 2}"));
	for (const char *name :
	     {":1: wrkers ", ":2: l1.byte ", ":2: l1.x ", "\"tape\"", ":3: a ", ":4: b "})
		EXPECT_EQ(1u, log.count(name)) << name << "\n" << log.text();
	EXPECT_EQ("2 " + config.path + ":5", config.at("workers")) << "read to the end";
}

TEST(Config, BadVariables)
{
	const struct {
		const char *name, *value, *complaint;
	} cases[] = {
		{"KVHOIST_L1_BYTE", "1G", "the nearest is KVHOIST_L1_BYTES"},
		{"KVHOIST_", "1", "KVHOIST_: no option"},
		{"KVHOIST_WORKERS", "", "KVHOIST_WORKERS: is \"\", allowed: 1..64"},
		{"KVHOIST_WORKERS", " 2", "KVHOIST_WORKERS: is \" 2\""},
		{"KVHOIST_L2_ADAPTERS", "tape:x", "no adapter \"tape\""},
		{"KVHOIST_L2_ADAPTERS", "[\"mem:\"", "l2.adapters:1: "},
	};

	for (const auto &c : cases) {
		Config config;
		Env env;
		Log log;

		env.set(c.name, c.value);
		EXPECT_EQ(-EINVAL, config.env()) << c.name;
		EXPECT_EQ(1u, log.count(c.complaint)) << c.name << ": " << log.text();
	}
}

TEST(Config, BadFlags)
{
	const struct {
		const char *name, *value, *complaint;
	} cases[] = {
		{"l1.byte", "1G", "flag: l1.byte is no option; the nearest is l1.bytes"},
		{"workers", "1e1", "flag: workers is \"1e1\""},
		{"l2.adapters", "mem:,x=1", "mem has no option \"x\""},
	};

	for (const auto &c : cases) {
		Config config;
		Log log;

		EXPECT_EQ(-EINVAL, config.set(c.name, c.value)) << c.name;
		EXPECT_EQ(1u, log.count(c.complaint)) << c.name << ": " << log.text();
	}
}

TEST(Config, WhatDoesNotFitTogether)
{
	Config config;
	kvh_engine_opts o;
	Log log;

	EXPECT_EQ(0, config.file("{\"l1\": {\"bytes\": \"64M\"},\n"
				 "\"watermark\": {\"high_pct\": 80}}"));
	EXPECT_EQ(-EINVAL, config.opts(&o));
	EXPECT_EQ(1u, log.count("watermark.high_pct is 80 and watermark.low_pct is 90"))
		<< log.text();
	EXPECT_EQ(0, config.set("watermark.low_pct", "70"));
	EXPECT_EQ(0, config.opts(&o)) << "a flag puts it right";
	EXPECT_EQ(0, config.set("l2.adapters", "mem:a"));
	EXPECT_EQ(0, config.set("l2.adapters", "mem:a"));
	EXPECT_EQ(-EEXIST, config.opts(&o));
}

TEST(Config, FilesThatCannotBeRead)
{
	const struct {
		const char *path;
		int err;
	} cases[] = {{"/nonexistent/kv.json", -ENOENT}, {"/", -EISDIR}, {"/dev/zero", -EFBIG}};

	for (const auto &c : cases) {
		Config config;
		Log log;

		EXPECT_EQ(c.err, kvh_config_file(config.get(), c.path)) << c.path;
		EXPECT_EQ(1u, log.count(std::string(c.path) + ": ")) << log.text();
	}
}

// What help promises is what an adapter takes: its own message lists its options.
TEST(Config, HelpNamesTheOptionsThatAdaptersTake)
{
	for (const auto *const *p = kvh_l2_registry; *p != nullptr; p++) {
		const kvh_l2_env env = {&kvh_io_system, nullptr};
		const char *at = (*p)->help;
		kvh_l2_help help;
		void *self;
		Log log;

		EXPECT_NE(0, (*p)->open("no=1", &env, &self)) << (*p)->name;
		const std::string said = log.text();
		const size_t from = said.find("there are "), to = said.find(" (a path");

		ASSERT_NE(std::string::npos, from) << said;
		std::string taken = "|" + said.substr(from + 10, to - from - 10) + "|";

		while (kvh_l2_help_next(&at, &help)) {
			const std::string name = "|" + std::string(help.name, help.len) + "|";
			const size_t found = taken.find(name);

			EXPECT_NE(std::string::npos, found) << (*p)->name << name;
			if (found != std::string::npos)
				taken.erase(found, name.size() - 1);
		}
		EXPECT_EQ("|", taken) << (*p)->name << ": not in its help";
	}
}

// ---- an engine -----------------------------------------------------------------

TEST(Config, AnEngineOpensWithIt)
{
	Config config;
	kvh_engine_opts o;
	kvh_engine *engine;
	kvh_l2_status l2{};
	char text[64];

	EXPECT_EQ(0, config.file("{\"device\": \"host\", \"l1\": {\"bytes\": \"4M\"},\n"
				 "\"l2\": {\"adapters\": [{\"adapter\": \"mem\", \"size\": "
				 "\"2M\"}], \"deadline\": \"5s\"}}"));
	ASSERT_EQ(0, config.opts(&o));
	ASSERT_EQ(0, kvh_engine_open(&o, &engine));
	l2.size = sizeof(l2);
	EXPECT_EQ(0, kvh_l2_status_get(engine, 0, &l2));
	EXPECT_STREQ("mem", l2.name);
	EXPECT_EQ(2 * MIB, l2.capacity_bytes);
	EXPECT_EQ(2, kvh_engine_get(engine, "l2.deadline", text, sizeof(text)));
	EXPECT_STREQ("5s", text);
	EXPECT_EQ(4, kvh_engine_get(engine, "device", text, 3));
	EXPECT_STREQ("ho", text) << "cut";
	EXPECT_EQ(0, kvh_engine_close(engine, 0));
}

} // namespace
