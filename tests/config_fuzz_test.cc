// SPDX-License-Identifier: Apache-2.0
//
// config_fuzz_test.cc - files that were damaged at random, and files with keys that
// nobody knows: nothing crashes, what is taken is in range, and every unknown key
// is named. KVH_TEST_SEED repeats a run.
#include "config_rig.h"

#include <sys/mman.h>
#include <unistd.h>

namespace
{

using l2test::Log;
using Rng = std::mt19937_64;

constexpr int kMutants = 100000;

uint64_t seed()
{
	const char *given = getenv("KVH_TEST_SEED");

	return given != nullptr ? strtoull(given, nullptr, 10) : 20240607;
}

const char *const kWhole =
	"{\n"
	"  \"device\": \"host\",\n"
	"  \"l1\": { \"bytes\": \"64M\", \"piece_bytes\": 2097152, \"numa_node\": -1 },\n"
	"  \"watermark\": { \"high_pct\": 95, \"low_pct\": 90 },\n"
	"  \"store\": { \"policy\": \"default\" },\n"
	"  \"l2\": {\n"
	"    \"adapters\": [\n"
	"      { \"adapter\": \"nvme\", \"path\": \"/d/k,v\", \"size\": \"1T\", \"format\": "
	"true "
	"},\n"
	"      \"fault:x,script=put:fail=EIO,next=fs:/shared,size=10T\"\n"
	"    ],\n"
	"    \"deadline\": \"1.5s\", \"retries\": 3, \"queue_bytes\": \"8M\"\n"
	"  },\n"
	"  \"workers\": 2, \"stage_bytes\": \"64K\"\n"
	"}\n";

// What a file may be made of, so that mutants stay near what is read.
const char *const kPieces[] = {"NaN",
			       "Infinity",
			       "-Infinity",
			       "1e999",
			       "-1",
			       "0",
			       "99999999999999999999",
			       "1.5",
			       "\"nan\"",
			       "\"-1G\"",
			       "\"1e9\"",
			       "null",
			       "{",
			       "}",
			       "[",
			       "]",
			       ",",
			       ":",
			       "\"",
			       "\\",
			       "\n",
			       "\\u0000",
			       "\\ud800",
			       "\xff",
			       "\"l1\"",
			       "\"l1.bytes\": 1,",
			       "{}",
			       "[[[[[[",
			       "true",
			       "\"999999999T\"",
			       "\"0s\"",
			       "/*"};

class Text
{
      public:
	Text() : fd_(memfd_create("config", MFD_CLOEXEC))
	{
	}
	~Text()
	{
		close(fd_);
	}
	int read(const std::string &text, kvh_config *config) const
	{
		const std::string path = "/proc/self/fd/" + std::to_string(fd_);

		EXPECT_EQ(0, ftruncate(fd_, 0));
		EXPECT_EQ(static_cast<ssize_t>(text.size()),
			  pwrite(fd_, text.data(), text.size(), 0));
		return kvh_config_file(config, path.c_str());
	}

      private:
	int fd_;
};

std::string mutant(Rng &rng)
{
	std::string text = kWhole;

	for (uint64_t n = 1 + rng() % 4; n > 0; n--) {
		const size_t at = rng() % (text.size() + 1), len = rng() % 12;

		switch (rng() % 5) {
		case 0: text.erase(at, len); break;
		case 1: text.insert(at, kPieces[rng() % std::size(kPieces)]); break;
		case 2:
			text.insert(at, text.substr(rng() % (text.size() + 1), rng() % 60));
			break;
		case 3: text.resize(at); break;
		default:
			if (at < text.size())
				text[at] = static_cast<char>(rng());
			break;
		}
	}
	return text;
}

// Every number that got through is in the range of its option.
void expect_in_range(const kvh_engine_opts &opts)
{
	kvh_engine_opts again = opts;
	kvh_why why;

	EXPECT_EQ(0, kvh_options_check(&again, true, &why)) << why.text;
	for (uint32_t i = 0; i < opts.n_l2; i++)
		EXPECT_NE(nullptr, opts.l2[i]);
}

TEST(ConfigFuzz, DamagedFilesAreReadOrRefused)
{
	const Text file;
	Rng rng(seed());
	int taken = 0, refused = 0;

	for (int i = 0; i < kMutants; i++) {
		kvh_config *config = nullptr;
		kvh_engine_opts opts;
		Log log;

		ASSERT_EQ(0, kvh_config_open(&config));
		const int err = file.read(mutant(rng), config);
		const int used = kvh_config_opts(config, &opts);

		EXPECT_EQ(err != 0, !log.text().empty() && err != 0)
			<< "a failure has its reason";
		if (used == 0) {
			EXPECT_EQ(0, err) << "used in spite of an error";
			expect_in_range(opts);
		}
		taken += used == 0;
		refused += err != 0;
		kvh_config_close(config);
		ASSERT_FALSE(HasFailure()) << "KVH_TEST_SEED=" << seed() << ", mutant " << i;
	}
	EXPECT_GT(taken, kMutants / 100) << "some have to be whole, or nothing is tested";
	EXPECT_GT(refused, kMutants / 2);
}

// A key that is made up, at the place of a key that is there, or beside it.
std::string with_unknown_key(Rng &rng, std::string *key)
{
	static const char *const known[] = {"\"device\"",  "\"l1\"",      "\"bytes\"",
					    "\"store\"",   "\"policy\"",  "\"deadline\"",
					    "\"workers\"", "\"high_pct\""};
	std::string text = kWhole;
	const size_t at = text.find(known[rng() % std::size(known)]);

	*key = "k";
	for (uint64_t n = rng() % 30; n > 0; n--)
		*key += "abcdefghijklmnopqrstuvwxyz_0123456789"[rng() % 37];
	*key += "zq"; // so that no option has the name
	text.insert(at,
		    "\"" + *key + "\": " + (rng() % 2 == 0 ? "1" : "{\"x\": [1, {}]}") + ", ");
	return text;
}

TEST(ConfigFuzz, EveryUnknownKeyIsNamed)
{
	const Text file;
	Rng rng(seed());

	for (int i = 0; i < kMutants / 10; i++) {
		kvh_config *config = nullptr;
		std::string key;
		Log log;

		ASSERT_EQ(0, kvh_config_open(&config));
		ASSERT_EQ(-EINVAL, file.read(with_unknown_key(rng, &key), config)) << key;
		EXPECT_EQ(1u, log.count(key + " is no option; the nearest is ")) << log.text();
		kvh_config_close(config);
		ASSERT_FALSE(HasFailure()) << "KVH_TEST_SEED=" << seed() << ", file " << i;
	}
}

// The control: without the key nothing is said.
TEST(ConfigFuzz, ControlTheWholeFileIsTaken)
{
	kvh_config *config = nullptr;
	kvh_engine_opts opts;
	Log log;

	ASSERT_EQ(0, kvh_config_open(&config));
	EXPECT_EQ(0, Text().read(kWhole, config));
	EXPECT_EQ(0, kvh_config_opts(config, &opts));
	EXPECT_EQ("", log.text());
	kvh_config_close(config);
}

} // namespace
