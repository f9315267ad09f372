/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_rig.h - a configuration, the environment of a test, and values by name.
 */
#ifndef KVH_TESTS_CONFIG_RIG_H
#define KVH_TESTS_CONFIG_RIG_H

#include "host/option.h"
#include "l2_harness.h"

#include <fstream>
#include <map>

namespace configtest
{

struct Value {
	std::string value, origin, fallback, allowed, help;
	bool live;
};

/* Variables that go with it. */
class Env
{
      public:
	Env() = default;
	~Env()
	{
		for (const auto &name : names_)
			unsetenv(name.c_str());
	}
	Env(const Env &) = delete;
	Env &operator=(const Env &) = delete;

	void set(const std::string &name, const std::string &value)
	{
		EXPECT_EQ(0, setenv(name.c_str(), value.c_str(), 1));
		names_.push_back(name);
	}

      private:
	std::vector<std::string> names_;
};

class Config
{
      public:
	Config()
	{
		EXPECT_EQ(0, kvh_config_open(&config_));
	}
	~Config()
	{
		kvh_config_close(config_);
	}
	Config(const Config &) = delete;
	Config &operator=(const Config &) = delete;

	kvh_config *get() const
	{
		return config_;
	}
	/* As the file of the configuration. */
	int file(const std::string &text, const std::string &name = "kv.json")
	{
		path = dir.path() + "/" + name;
		std::ofstream(path) << text;
		return kvh_config_file(config_, path.c_str());
	}
	int set(const char *name, const std::string &value) const
	{
		return kvh_config_set(config_, name, value.c_str());
	}
	int env() const
	{
		return kvh_config_env(config_);
	}
	int opts(kvh_engine_opts *o) const
	{
		return kvh_config_opts(config_, o);
	}
	std::map<std::string, Value> values() const
	{
		std::map<std::string, Value> all;
		kvh_config_value v{};

		v.size = sizeof(v);
		for (uint32_t i = 0; kvh_config_value_get(config_, i, &v) == 0; i++)
			all[v.name] = {v.value,   v.origin, v.fallback,
				       v.allowed, v.help,   v.live != 0};
		return all;
	}
	/* "value origin" */
	std::string at(const std::string &name) const
	{
		const auto all = values();
		const auto found = all.find(name);

		if (found == all.end())
			return "none";
		return found->second.value + " " + found->second.origin;
	}

	l2test::Dir dir;
	std::string path;

      private:
	kvh_config *config_ = nullptr;
};

} /* namespace configtest */

#endif
