// SPDX-License-Identifier: Apache-2.0
//
// soak_test.cc - an engine at work for long: neither memory nor fds grow, also under
// a cap on the process's memory. KVHOIST_LONG=1: ten million operations.
#include "engine_harness.h"
#include "long_run.h"
#include "sanitizers.h"

#include <cinttypes>
#include <filesystem>
#include <fstream>
#include <sys/wait.h>
#include <unistd.h>

using namespace enginetest;

namespace
{

constexpr uint32_t PROMPTS = 30, CHUNKS = 4;

/* A worker round is about 20 operations: chunks stored, looked up, loaded, erased. */
uint64_t operations()
{
	return l2test::long_or(10000000, TSAN || ASAN ? 10000 : 50000);
}

uint64_t rss_bytes()
{
	std::ifstream statm("/proc/self/statm");
	uint64_t size = 0, resident = 0;

	statm >> size >> resident;
	return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

size_t open_fds()
{
	const std::filesystem::directory_iterator fds("/proc/self/fd");

	return static_cast<size_t>(std::distance(begin(fds), end(fds)));
}

class Load
{
      public:
	Load(const Engine &engine, const Desc &desc, uint64_t seed)
	    : rng_(seed), engine_(engine), pool_(engine, desc.layout, engine.space(desc)),
	      queue_(std::make_unique<Queue>(engine, 8))
	{
	}
	void round()
	{
		const auto n = 1 + static_cast<uint32_t>(rng_() % CHUNKS);
		const auto hashes = prompt(rng_() % PROMPTS, n);
		const Prefix prefix = prefix_of(pool_, hashes);
		std::vector<kvh_lease_t> leases;
		Job erase;

		pool_.give_all();
		(void)store_prompt(*queue_, pool_, hashes);
		(void)queue_->lookup(prefix, nullptr, &leases);
		EXPECT_EQ(0, queue_->release(leases));
		pool_.give_all();
		done += 3 * n + fetch_and_check(*queue_, pool_, hashes);
		if (rng_() % 4 == 0) {
			EXPECT_EQ(0, queue_->erase(erase, {pool_.key(0, hashes[0])}));
			EXPECT_EQ(0, queue_->finish(erase).status);
			done++;
		}
		if (rng_() % 64 == 0) /* a client goes, another comes */
			queue_ = std::make_unique<Queue>(engine_, 8);
	}

	uint64_t done = 0;

      private:
	layouts::Rng rng_;
	const Engine &engine_;
	Pool pool_;
	std::unique_ptr<Queue> queue_;
};

/* What the process has grown by, from a tenth of the way on. */
void soak(uint64_t n, uint64_t seed)
{
	const l2test::Dir dir;
	const size_t fds = open_fds();
	int64_t grown = 0;
	{
		Engine engine({{"mem:size=600K", "fs:" + dir.path() + "/fs,size=2M"}, 2 * MIB});
		const Desc desc;
		Load load(engine, desc, seed);
		uint64_t rss = 0;
		size_t warm_fds = 0;

		while (load.done < n && !testing::Test::HasFailure()) {
			load.round();
			if (rss == 0 && load.done >= n / 10) {
				rss = rss_bytes();
				warm_fds = open_fds();
			}
		}
		engine.drain();
		grown = static_cast<int64_t>(rss_bytes()) - static_cast<int64_t>(rss);
		EXPECT_LE(open_fds(), warm_fds + 4) << "files that fs's threads have open";
		EXPECT_EQ(0u, engine.status().l1_leases);
	}
	EXPECT_EQ(fds, open_fds()) << "after close";
	VERDICT("soak: %" PRIu64 " operations, memory grew by %" PRId64 " KiB", n,
		grown / 1024);
	/* Sanitizers keep what was freed for a while. */
	if (!TSAN && !ASAN) {
		EXPECT_LE(grown, 1 << 20);
	}
}

TEST(Soak, MemoryAndFdsStayAsTheyAre)
{
	soak(operations(), l2test::draw_seed());
}

/* A memory cgroup of this process's own, v1 or v2; false: it cannot be made. */
class Cgroup
{
      public:
	explicit Cgroup(uint64_t bytes)
	{
		const bool v1 = std::filesystem::exists("/sys/fs/cgroup/memory");
		const std::string root = v1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
		const std::string path = root + "/kvhoist-soak-" + std::to_string(getpid());
		std::error_code err;

		if (!std::filesystem::create_directory(path, err))
			return;
		path_ = path;
		good_ = write(v1 ? "memory.limit_in_bytes" : "memory.max",
			      std::to_string(bytes));
	}
	~Cgroup()
	{
		if (!path_.empty())
			rmdir(path_.c_str());
	}
	bool good() const
	{
		return good_;
	}
	bool enter() const
	{
		return write("cgroup.procs", std::to_string(getpid()));
	}

      private:
	bool write(const std::string &file, const std::string &text) const
	{
		std::ofstream out(path_ + "/" + file);

		out << text;
		out.flush();
		return out.good();
	}

	std::string path_;
	bool good_ = false;
};

TEST(Soak, TheSameUnderACapOnMemory)
{
	if (TSAN || ASAN)
		GTEST_SKIP() << "sanitizers need more memory than the cap";
	const Cgroup cgroup(UINT64_C(96) << 20);
	if (!cgroup.good())
		GTEST_SKIP() << "no memory cgroup can be made";
	const pid_t pid = fork();
	if (pid == 0) {
		if (!cgroup.enter())
			_exit(77);
		soak(20000, 1);
		_exit(HasFailure() ? 1 : 0);
	}
	int status = 0;
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		GTEST_SKIP() << "the memory cgroup cannot be entered";
	EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

} // namespace
