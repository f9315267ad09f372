// SPDX-License-Identifier: Apache-2.0
//
// process_test.cc - the process around an engine: killed with registrations and
// stores in flight (scenario M6), out of file descriptors (M3), and what it is said
// to take of memory (M4).
#include "engine_harness.h"
#include "sanitizers.h"

#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace
{

using namespace enginetest;
namespace fs = std::filesystem;

constexpr uint32_t kChunks = 8;

/* ---- killed (M6) ---------------------------------------------------------- */

/* Opens, registers, says so, and stores until it is killed. */
[[noreturn]] void child_main(const Opts &opts, int ready)
{
	kvh_engine *engine = nullptr;
	kvh_space_t space;
	Desc desc;

	if (open_engine(opts, &engine) != 0 || desc.open(engine, &space) != 0)
		_exit(3);
	for (uint64_t i = 0;; i++) {
		std::vector<kvh_store_chunk> chunks;
		static layouts::Memory memory(desc.layout.allocs, 0, 1);
		static kvh_queue *queue;
		static kvh_pool_t pool;
		kvh_event event;
		kvh_job_t job;

		if (queue == nullptr) {
			std::vector<kvh_plane> planes = desc.layout.groups[0].planes;
			const uint32_t n_pages = desc.layout.groups[0].n_pages;
			kvh_pool_desc p;

			kvh_pool_desc_init(&p, sizeof(p));
			p.space = space;
			p.n_allocs = memory.n();
			p.allocs = memory.allocs().data();
			p.n_planes = static_cast<uint32_t>(planes.size());
			p.planes = planes.data();
			p.group_pages = &n_pages;
			if (kvh_queue_open(engine, 4, &queue) != 0 ||
			    kvh_pool_register(engine, &p, &pool) != 0 ||
			    write(ready, "r", 1) != 1)
				_exit(4);
		}
		static const uint32_t pages[2] = {0, 1};

		for (uint32_t c = 0; c < kChunks; c++)
			chunks.push_back({{hash_of(i, c), space, 0, 0}, {}, pages, 2, 0});
		if (kvh_store(queue, pool, chunks.data(), kChunks, nullptr, nullptr, &job) !=
			    0 ||
		    kvh_queue_wait(queue, &event, 1, GUARD_NS) != 1)
			_exit(5);
	}
}

std::set<std::string> names(const std::string &dir)
{
	std::set<std::string> all;
	std::error_code ignored;

	for (const auto &entry : fs::directory_iterator(dir, ignored))
		all.insert(entry.path().filename());
	return all;
}

/* What is left in the directory of an adapter beside frames. */
size_t temporaries(const std::string &root)
{
	size_t n = 0;

	for (const auto &name : names(root + "/tmp"))
		n += name.find('-') != std::string::npos;
	return n;
}

TEST(Killed, AHundredTimesWithRegistrationsNothingStaleIsLeft)
{
	const auto shm = names("/dev/shm");
	Opts opts;
	Dir dir;
	layouts::Rng rng(7);

	opts.l2 = {"nvme:" + dir.path() + "/nvme,size=64M", "fs:" + dir.path() + "/fs"};
	opts.l1_bytes = 8 * MIB;
	for (int i = 0; i < 100; i++) {
		int ready[2], status = 0;
		char byte;

		ASSERT_EQ(0, pipe(ready));
		const pid_t child = fork();
		if (child == 0)
			child_main(opts, ready[1]);
		close(ready[1]);
		/* The next one has the lock of the disk, and takes its place at once. */
		ASSERT_EQ(1, read(ready[0], &byte, 1)) << "kill " << i;
		for (uint64_t spin = rng() % 2000000; spin > 0; spin--)
			asm volatile("");
		ASSERT_EQ(0, kill(child, SIGKILL));
		ASSERT_EQ(child, waitpid(child, &status, 0));
		ASSERT_TRUE(WIFSIGNALED(status)) << WEXITSTATUS(status);
		close(ready[0]);
	}
	const size_t left = temporaries(dir.path() + "/fs");
	Engine engine(opts);

	/* Removed by whoever opens next; the control is that a kill leaves some now
	 * and then, which `left` says. */
	RecordProperty("temporaries_after_the_last_kill", static_cast<int>(left));
	EXPECT_EQ(0u, temporaries(dir.path() + "/fs"));
	EXPECT_EQ(shm, names("/dev/shm"));
	EXPECT_EQ((std::set<std::string>{"nvme", "fs"}), names(dir.path()));
}

/* ---- no file descriptors (M3) ---------------------------------------------- */

/* No more of them, while it lives. */
class NoFds
{
      public:
	NoFds()
	{
		struct rlimit now;

		EXPECT_EQ(0, getrlimit(RLIMIT_NOFILE, &before_));
		/* The lowest that is free: none below the limit is. */
		while ((fd_ = dup(0)) >= 0 && fill_.size() < 1024)
			fill_.push_back(fd_);
		now = before_;
		now.rlim_cur = static_cast<rlim_t>(fill_.empty() ? 3 : fill_.back() + 1);
		EXPECT_EQ(0, setrlimit(RLIMIT_NOFILE, &now));
	}
	~NoFds()
	{
		EXPECT_EQ(0, setrlimit(RLIMIT_NOFILE, &before_));
		for (const int fd : fill_)
			close(fd);
	}
	NoFds(const NoFds &) = delete;
	NoFds &operator=(const NoFds &) = delete;

      private:
	struct rlimit before_;
	int fd_ = -1;
	std::vector<int> fill_;
};

kvh_l2_status l2_of(const Engine &engine)
{
	kvh_l2_status l2{};

	l2.size = sizeof(l2);
	EXPECT_EQ(0, kvh_l2_status_get(engine.get(), 0, &l2));
	return l2;
}

/* Files that are open go on: a store that began before ends well, and what comes
 * after it, too. What needs another fd is refused with a code. */
TEST(NoFileDescriptors, WhatIsOpenGoesOnAndNewIsRefused)
{
	Dir dir;
	Engine engine({{"nvme:" + dir.path() + "/nvme,size=64M"}, 8 * MIB});
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	kvh_queue *other = nullptr;
	kvh_engine *second = nullptr;
	Job before;
	Log log;

	ASSERT_EQ(0, queue.store(before, pool, make_items(pool, prompt(1, kChunks)),
				 KVH_STORE_PERSISTED));
	{
		NoFds none;

		EXPECT_EQ(kChunks, queue.finish(before).n_ok);
		EXPECT_EQ(-EMFILE, kvh_queue_open(engine.get(), 4, &other));
		EXPECT_EQ(-EMFILE, open_engine({{}, 2 * MIB}, &second));
		EXPECT_EQ(nullptr, other);
		EXPECT_EQ(nullptr, second);
		pool.give_all();
		EXPECT_EQ(kChunks,
			  store_prompt(queue, pool, prompt(2, kChunks), KVH_STORE_PERSISTED));
		engine.evict();
		pool.give_all();
		EXPECT_EQ(kChunks, fetch_and_check(queue, pool, prompt(1, kChunks)));
	}
	EXPECT_EQ(0, kvh_queue_open(engine.get(), 4, &other));
	kvh_queue_close(other);
	EXPECT_EQ(0, open_engine({{}, 2 * MIB}, &second));
	EXPECT_EQ(0, kvh_engine_close(second, 0));
	EXPECT_EQ(0u, l2_of(engine).put_failed + l2_of(engine).get_failed);
}

/* An adapter that opens a file for each frame fails for as long, says so, and
 * works again. */
TEST(NoFileDescriptors, AnAdapterThatNeedsOneFailsAndRecovers)
{
	Dir dir;
	Engine engine({{"fs:" + dir.path() + "/fs"}, 8 * MIB});
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);

	{
		NoFds none;
		Log log;

		EXPECT_EQ(kChunks,
			  store_prompt(queue, pool, prompt(1, kChunks), KVH_STORE_PERSISTED))
			<< "L1 has them";
		EXPECT_EQ(uint64_t{kChunks}, l2_of(engine).put_failed);
		EXPECT_NE(0u, log.count("Too many open files")) << log.text();
	}
	uint64_t seed = 2;

	/* Until the adapter is asked again. */
	for (uint64_t puts = 0; puts == 0; puts = l2_of(engine).puts, seed++) {
		pool.give_all();
		EXPECT_EQ(kChunks, store_prompt(queue, pool, prompt(seed, kChunks),
						KVH_STORE_PERSISTED));
	}
	engine.evict();
	pool.give_all();
	EXPECT_EQ(kChunks, fetch_and_check(queue, pool, prompt(seed - 1, kChunks)));
}

/* ---- what it takes (M4) ----------------------------------------------------- */

struct Mapped {
	uint64_t bytes = 0, resident = 0;
};

/* Mappings that fork does not copy: pinned pieces, nothing else. */
Mapped pinned()
{
	std::ifstream smaps("/proc/self/smaps");
	std::string line, word;
	uint64_t size = 0, rss = 0;
	Mapped sum;

	while (std::getline(smaps, line)) {
		std::istringstream in(line);

		in >> word;
		if (word == "Size:")
			in >> size;
		if (word == "Rss:")
			in >> rss;
		if (word == "VmFlags:" && line.find(" dc") != std::string::npos) {
			sum.bytes += size * 1024;
			sum.resident += rss * 1024;
		}
	}
	return sum;
}

uint64_t resident()
{
	std::ifstream status("/proc/self/status");
	std::string line;
	uint64_t kib = 0;

	while (std::getline(status, line))
		if (line.rfind("VmRSS:", 0) == 0)
			kib = std::stoull(line.substr(6));
	return kib * 1024;
}

TEST(Accounting, ReportedPinnedBytesAreTheActualOnes)
{
	for (uint64_t asked : {2 * MIB, 32 * MIB, 33 * MIB + 4096, 128 * MIB}) {
		const Mapped before = pinned();
		Engine engine({{}, asked});
		const kvh_status st = engine.status();
		const Mapped now = pinned();

		EXPECT_EQ(now.bytes - before.bytes, st.l1_bytes) << asked;
		EXPECT_EQ(now.resident - before.resident, st.l1_bytes)
			<< asked << ": all touched";
		EXPECT_LE(st.l1_bytes, asked);
		EXPECT_GT(st.l1_bytes + 2 * MIB, asked) << "no more is lost than a granule";
	}
}

TEST(Accounting, TheRestIsAtMostOnePercent)
{
	if (ASAN || TSAN)
		GTEST_SKIP() << "a sanitizer has memory of its own";
	Engine first({{}, 2 * MIB}); /* what is made once for all */
	constexpr uint64_t asked = 512 * MIB;
	const uint64_t before = resident();
	Engine engine({{}, asked});
	const uint64_t took = resident() - before;

	EXPECT_LE(took, asked + asked / 100) << took;
	EXPECT_GE(took, asked) << "control: it is all there";
}

/* The equation holds after use, not only at open. */
TEST(Accounting, UsedBytesAreTheFramesBytes)
{
	Engine engine;
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	const auto frame = static_cast<uint64_t>(
		(4096 + kvh_space_chunk_bytes(engine.get(), pool.space, 0) + 4095) / 4096 *
		4096);

	for (uint32_t n : {1u, 5u, 16u}) {
		pool.give_all();
		store_prompt(queue, pool, prompt(1, n));
		EXPECT_EQ(n * frame, engine.status().l1_used_bytes);
		EXPECT_TRUE(kvh_arena_check(engine.get()->arena));
	}
	engine.evict();
	EXPECT_EQ(0u, engine.status().l1_used_bytes);
}

} // namespace
