// SPDX-License-Identifier: Apache-2.0
//
// arena_test.cc - pieces, slabs and frames over the host device: limits,
// placement, changing sizes, failure at every piece, fork, room.
#include "arena_rig.h"
#include "host/arena_map.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace
{

TEST_F(Arena, BytesOutOfRange)
{
	for (uint64_t bytes : {UINT64_C(0), kMiB - 1, UINT64_MAX}) {
		opts.bytes = bytes;
		EXPECT_EQ(kvh_arena_open(&opts, &arena), -EINVAL);
		EXPECT_NE(log_lines.find(std::to_string(bytes)), std::string::npos);
	}
}

TEST_F(Arena, PieceBytesOutOfRange)
{
	for (uint64_t bytes : {UINT64_C(1), 2 * kMiB - 1, 1024 * kMiB + 1}) {
		opts.piece_bytes = bytes;
		EXPECT_EQ(kvh_arena_open(&opts, &arena), -EINVAL);
		EXPECT_NE(log_lines.find(std::to_string(bytes)), std::string::npos);
	}
}

TEST_F(Arena, LastPieceIsTheRemainderAndTheSumIsRoundedDown)
{
	const kvh_arena_piece *pieces;

	opts.bytes = 21 * kMiB;
	opts.piece_bytes = 9 * kMiB; // 8
	open();
	ASSERT_EQ(kvh_arena_pieces(arena, &pieces), 3u);
	EXPECT_EQ(pieces[0].bytes, 8 * kMiB);
	EXPECT_EQ(pieces[1].bytes, 8 * kMiB);
	EXPECT_EQ(pieces[2].bytes, 4 * kMiB);
	EXPECT_EQ(stats().pinned_bytes, 20 * kMiB);
	EXPECT_EQ(stats().wanted_bytes, 20 * kMiB);
	for (uint32_t i = 0; i < 3; i++) {
		auto *base = static_cast<char *>(pieces[i].base);

		EXPECT_EQ(reinterpret_cast<uintptr_t>(base) % (2 * kMiB), 0u);
		EXPECT_EQ(kvh_arena_piece_of(arena, base), i);
		EXPECT_EQ(kvh_arena_piece_of(arena, base + pieces[i].bytes - 1), i);
		EXPECT_EQ(kvh_arena_piece_of(arena, base + pieces[i].bytes), UINT32_MAX);
		if (i > 0) {
			EXPECT_GT(base, static_cast<char *>(pieces[i - 1].base) +
						pieces[i - 1].bytes);
		}
	}
	EXPECT_EQ(kvh_arena_piece_of(arena, static_cast<char *>(pieces[0].base) - 1),
		  UINT32_MAX);
	EXPECT_EQ(kvh_arena_piece_of(arena, &opts), UINT32_MAX);
}

TEST_F(Arena, SmallestIsOneGranule)
{
	opts.bytes = kMiB;
	open();
	EXPECT_EQ(stats().pinned_bytes, 2 * kMiB);
	free_all(alloc(2 * kMiB, 1));
}

TEST_F(Arena, WholeCapacityIsWritableAndTouchedByThreads)
{
	const kvh_arena_piece *pieces;

	for (uint32_t threads : {0u, 1u, 3u, 100u}) {
		opts.touch_threads = threads;
		open();
		ASSERT_EQ(kvh_arena_pieces(arena, &pieces), 1u);
		std::vector<unsigned char> in_core(pieces[0].bytes / kPage);
		ASSERT_EQ(mincore(pieces[0].base, pieces[0].bytes, in_core.data()), 0);
		for (unsigned char page : in_core)
			ASSERT_EQ(page & 1, 1);
		memset(pieces[0].base, 0xA5, pieces[0].bytes);
		kvh_arena_close(arena, false);
		arena = nullptr;
	}
}

TEST_F(Arena, FramesOfWrongSizeAreRefused)
{
	void *frame = nullptr;

	opts.piece_bytes = 8 * kMiB;
	open();
	for (uint64_t bytes : {UINT64_C(0), UINT64_C(1), kPage + 1, 8 * kMiB + kPage}) {
		EXPECT_EQ(kvh_arena_alloc(arena, bytes, 1, &frame), -EINVAL) << bytes;
		EXPECT_NE(log_lines.find(std::to_string(bytes)), std::string::npos);
	}
	EXPECT_EQ(alloc(8 * kMiB, 9).size(), 4u); // as large as a piece: one each
	free_all({});
	const kvh_arena_piece *pieces;
	for (uint32_t i = 0; i < kvh_arena_pieces(arena, &pieces); i++)
		kvh_arena_free(arena, pieces[i].base);
}

TEST_F(Arena, FramesLieSideBySideInRisingAddresses)
{
	open();
	auto frames = alloc(12 * kPage, 40);

	ASSERT_EQ(frames.size(), 40u);
	for (size_t i = 1; i < frames.size(); i++)
		ASSERT_EQ(static_cast<char *>(frames[i]) - static_cast<char *>(frames[i - 1]),
			  static_cast<ptrdiff_t>(12 * kPage));
	// A hole of one frame does not break a later batch up; a single one fills it.
	kvh_arena_free(arena, frames[3]);
	auto more = alloc(12 * kPage, 2);
	ASSERT_EQ(more.size(), 2u);
	EXPECT_EQ(static_cast<char *>(more[1]) - static_cast<char *>(more[0]),
		  static_cast<ptrdiff_t>(12 * kPage));
	auto one = alloc(12 * kPage, 1);
	ASSERT_EQ(one.size(), 1u);
	EXPECT_EQ(one[0], frames[3]); // first fit
	free_all(frames);
	free_all(more);
}

TEST_F(Arena, ShortMemoryGivesFewerInRisingAddresses)
{
	open();
	auto all = alloc(kMiB, 100);

	ASSERT_EQ(all.size(), 32u);
	EXPECT_EQ(alloc(kMiB, 1).size(), 0u);
	for (size_t i : {20, 3, 11})
		kvh_arena_free(arena, all[i]);
	auto holes = alloc(kMiB, 5);
	EXPECT_EQ(holes, (std::vector<void *>{all[3], all[11], all[20]}));
	EXPECT_EQ(stats().used_bytes, 32 * kMiB);
	free_all(all);
}

TEST_F(Arena, EmptySlabsChangeSize)
{
	open();
	for (uint64_t bytes : {kPage, 3 * kPage, 2 * kMiB + kPage, kMiB, 16 * kMiB + kPage}) {
		auto frames = alloc(bytes, 10000);

		EXPECT_EQ(stats().used_bytes, frames.size() * bytes);
		EXPECT_EQ(kvh_arena_frame_bytes(arena, frames[0]), bytes);
		free_all(frames);
		EXPECT_EQ(stats().slab_bytes, 0u);
	}
}

// What a size can use of the arena: the cost of exact sizes in slabs.
TEST_F(Arena, WasteIsSmall)
{
	opts.bytes = 512 * kMiB;
	opts.touch_threads = 4;
	open();
	for (uint64_t bytes : {kPage, 9 * kPage, 65 * kPage, 175 * kPage, kMiB + kPage,
			       2 * kMiB + kPage, 5 * kMiB + 3 * kPage, 10 * kMiB + kPage}) {
		auto frames = alloc(bytes, 131072);

		EXPECT_GE(frames.size() * bytes, opts.bytes * 97 / 100) << bytes;
		free_all(frames);
	}
}

TEST_F(Arena, ShortMemoryStillMakesSmallerSlabs)
{
	opts.bytes = 64 * kMiB;
	open();
	auto most = alloc(kMiB, 61); // three of 64 MiB are left
	auto frames = alloc(2 * kMiB + kPage, 10);
	EXPECT_EQ(frames.size(), 0u); // one granule and a half
	kvh_arena_free(arena, most[60]);
	frames = alloc(2 * kMiB + kPage, 10);
	EXPECT_EQ(frames.size(), 1u);
	most.pop_back();
	free_all(most);
	free_all(frames);
}

TEST_F(Arena, RandomSizesAgainstAMapOfWhatIsOut)
{
	const uint64_t sizes[] = {kPage, 2 * kPage, 33 * kPage, kMiB, 3 * kMiB + kPage};
	const uint32_t seed = 20261;
	std::mt19937 random(seed);
	std::map<char *, uint64_t> out; // start -> bytes
	uint64_t used = 0;

	SCOPED_TRACE("seed " + std::to_string(seed));
	opts.piece_bytes = 10 * kMiB;
	open();
	for (int step = 0; step < 20000; step++) {
		if (random() % 2 != 0 && !out.empty()) {
			auto it = out.lower_bound(static_cast<char *>(out.begin()->first) +
						  random() % (32 * kMiB));

			if (it == out.end())
				it = out.begin();
			kvh_arena_free(arena, it->first);
			used -= it->second;
			out.erase(it);
		} else {
			uint64_t bytes = sizes[random() % 5];
			void *frames[8];
			int n = kvh_arena_alloc(arena, bytes, 1 + random() % 8, frames);

			for (int i = 0; i < n; i++) {
				char *at = static_cast<char *>(frames[i]);
				auto next = out.lower_bound(at);

				ASSERT_TRUE(i == 0 || frames[i] > frames[i - 1]);
				ASSERT_TRUE(next == out.end() || at + bytes <= next->first);
				ASSERT_TRUE(next == out.begin() ||
					    std::prev(next)->first + std::prev(next)->second <=
						    at);
				ASSERT_EQ(kvh_arena_piece_of(arena, at),
					  kvh_arena_piece_of(arena, at + bytes - 1));
				ASSERT_EQ(kvh_arena_frame_bytes(arena, at), bytes);
				out[at] = bytes;
				used += bytes;
			}
		}
		ASSERT_EQ(stats().used_bytes, used);
		ASSERT_EQ(stats().frames, out.size());
		if (step % 16 == 0) {
			ASSERT_TRUE(kvh_arena_check(arena)) << log_lines;
		}
	}
	for (auto &frame : out)
		kvh_arena_free(arena, frame.first);
}

TEST_F(Arena, ListAndWindowSayWhatIsInTheWay)
{
	opts.piece_bytes = 8 * kMiB;
	open();
	auto frames = alloc(kMiB, 32);
	uint64_t span;
	void *base = kvh_arena_base(arena, &span), *lo, *hi;
	std::vector<void *> listed(64);

	ASSERT_EQ(frames.size(), 32u);
	EXPECT_EQ(kvh_arena_list(arena, base, static_cast<char *>(base) + span, listed.data(),
				 64),
		  32u);
	EXPECT_EQ(memcmp(listed.data(), frames.data(), 32 * sizeof(void *)), 0);
	EXPECT_EQ(kvh_arena_list(arena, frames[5], frames[9], listed.data(), 64), 4u);
	EXPECT_EQ(listed[0], frames[5]);
	// Every window, once empty, has room for the frame.
	for (void *from : {frames[0], frames[7], frames[13], frames[31]}) {
		ASSERT_TRUE(kvh_arena_window(arena, 3 * kMiB, from, &lo, &hi));
		EXPECT_LE(lo, from);
		EXPECT_GT(hi, from);
		uint32_t n = kvh_arena_list(arena, lo, hi, listed.data(), 64);
		ASSERT_GT(n, 0u);
		EXPECT_EQ(alloc(3 * kMiB, 1).size(), 0u);
		for (uint32_t i = 0; i < n; i++)
			kvh_arena_free(arena, listed[i]);
		auto large = alloc(3 * kMiB, 1);
		ASSERT_EQ(large.size(), 1u);
		EXPECT_GE(large[0], lo);
		EXPECT_LT(large[0], hi);
		free_all(large);
		ASSERT_EQ(alloc(kMiB, n).size(), n);
	}
	EXPECT_FALSE(
		kvh_arena_window(arena, 3 * kMiB, static_cast<char *>(base) + span, &lo, &hi));
	free_all(frames);
}

// -- what may fail -----------------------------------------------------------

bool is_mapped(const void *at)
{
	unsigned char in_core;

	return mincore(const_cast<void *>(at), 1, &in_core) == 0 || errno != ENOMEM;
}

uint64_t mapped_bytes()
{
	std::ifstream statm("/proc/self/statm");
	uint64_t pages = 0;

	statm >> pages;
	return pages * kPage;
}

TEST_F(Arena, RegistrationFailingAtEachPieceLeavesNothingBehind)
{
	opts.piece_bytes = 4 * kMiB;
	opts.touch_threads = 1; // others map stacks and heaps of their own, which stay
	for (uint64_t n = 1; n <= 8; n++) {
		kvh_host_rule rule = {};
		uint64_t before = mapped_bytes();

		rule.call = KVH_HOST_REGISTER;
		rule.action = KVH_HOST_FAIL;
		rule.nth = n;
		rule.count = 1;
		rule.error = EAGAIN;
		ASSERT_EQ(kvh_host_rule_add(dev, &rule), 0);
		log_lines.clear();
		ASSERT_EQ(kvh_arena_open(&opts, &arena), -ENOMEM) << "piece " << n;
		EXPECT_EQ(arena, nullptr);
		EXPECT_NE(log_lines.find("RLIMIT_MEMLOCK"), std::string::npos) << log_lines;
		EXPECT_LT(mapped_bytes(), before + 2 * kMiB); // of 32
		kvh_host_release(dev);
	}
	// The device would refuse a range that is registered still.
	open();
}

TEST_F(Arena, LeakLeavesTheMemoryMapped)
{
	open();
	auto frames = alloc(kMiB, 1);

	kvh_arena_close(arena, true);
	arena = nullptr;
	memset(frames[0], 1, kMiB); // a transfer that hangs may still do so
	EXPECT_TRUE(is_mapped(frames[0]));
	dev->ops->host_unregister(dev, frames[0]);
	munmap(frames[0], 32 * kMiB);
}

TEST_F(Arena, UnusableNodeIsCountedAndTheArenaIsThere)
{
	opts.numa_node = 900;
	opts.piece_bytes = 16 * kMiB;
	open();
	EXPECT_EQ(stats().numa_refused, 2u);
	size_t first = log_lines.find("NUMA node 900");
	ASSERT_NE(first, std::string::npos);
	EXPECT_EQ(log_lines.find("NUMA node 900", first + 1), std::string::npos); // one line
	free_all(alloc(kMiB, 32));
}

// Nodes that are not there: mbind refuses, and no piece says that it is bound.
TEST_F(Arena, NodesOutOfRangeAndTooMany)
{
	opts.n_nodes = KVH_ARENA_NODES_MAX + 1;
	EXPECT_EQ(kvh_arena_open(&opts, &arena), -EINVAL);
	EXPECT_NE(log_lines.find("17 NUMA nodes"), std::string::npos) << log_lines;
	opts.n_nodes = 2;
	opts.nodes[1] = 1024;
	EXPECT_EQ(kvh_arena_open(&opts, &arena), -EINVAL);
	EXPECT_NE(log_lines.find("NUMA node 1024"), std::string::npos) << log_lines;
}

TEST_F(Arena, PiecesLieInTurnOnTheNodes)
{
	const kvh_arena_piece *pieces;

	opts.piece_bytes = 8 * kMiB;
	opts.n_nodes = 2;
	opts.nodes[0] = 0;
	opts.nodes[1] = 901;
	open();
	ASSERT_EQ(kvh_arena_pieces(arena, &pieces), 4u);
	// What mbind says of node 0 is the machine's: containers may refuse it.
	const int zero = stats().numa_refused == 2 ? 0 : KVH_NODE_ANY;
	for (uint32_t i = 0; i < 4; i++)
		EXPECT_EQ(pieces[i].node, i % 2 == 0 ? zero : KVH_NODE_ANY) << i;
	EXPECT_EQ(stats().numa_refused, zero == 0 ? 2u : 4u);
}

TEST_F(Arena, MoreThanTheMachineHasIsRefusedWithBothNumbers)
{
	uint64_t room = kvh_arena_room_machine("");

	if (room > UINT64_C(1) << 42)
		GTEST_SKIP() << "the machine does not say what it has";
	opts.bytes = room * 2;
	EXPECT_EQ(kvh_arena_open(&opts, &arena), -ENOMEM);
	EXPECT_NE(log_lines.find("the machine has room for"), std::string::npos) << log_lines;
	EXPECT_EQ(kvh_host_count(dev, KVH_HOST_REGISTER), 0u);
}

TEST_F(Arena, ForkTakesNoMemory)
{
	open();
	auto frames = alloc(kMiB, 32);
	pid_t child = fork();

	if (child == 0) {
		for (void *frame : frames)
			if (is_mapped(frame))
				_exit(1);
		_exit(is_mapped(&child) ? 0 : 2); // the check itself works
	}
	int status = -1;
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(WEXITSTATUS(status), 0);
	free_all(frames);
}

// -- room, from files as kernels write them ------------------------------------

class Room : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		char name[] = "/tmp/kvh_room_XXXXXX";

		ASSERT_NE(mkdtemp(name), nullptr);
		root = name;
	}

	void TearDown() override
	{
		ASSERT_EQ(system(("rm -rf '" + root + "'").c_str()), 0);
	}

	void file(const std::string &path, const std::string &text)
	{
		for (size_t at = 1; (at = path.find('/', at)) != std::string::npos; at++)
			mkdir((root + path.substr(0, at)).c_str(), 0700);
		std::ofstream(root + path) << text;
	}

	uint64_t cgroup()
	{
		return kvh_arena_room_cgroup(root.c_str());
	}

	std::string root;
};

TEST_F(Room, UnknownIsUnlimited)
{
	EXPECT_EQ(cgroup(), UINT64_MAX);
	EXPECT_EQ(kvh_arena_room_node(root.c_str(), 0), UINT64_MAX);
	EXPECT_EQ(kvh_arena_room_machine(root.c_str()), UINT64_MAX);
	file("/proc/self/cgroup", "nonsense\n0:\n::\n");
	EXPECT_EQ(cgroup(), UINT64_MAX);
}

TEST_F(Room, CgroupV2TakesTheTightestAncestorAndCountsCacheAsRoom)
{
	file("/proc/self/cgroup", "0::/outer/inner\n");
	file("/sys/fs/cgroup/outer/inner/memory.max", "max\n");
	file("/sys/fs/cgroup/outer/memory.max", "1000000\n");
	file("/sys/fs/cgroup/outer/memory.current", "400000\n");
	EXPECT_EQ(cgroup(), 600000u);
	file("/sys/fs/cgroup/outer/memory.stat",
	     "anon 1\ninactive_file 100000\nactive_file 50000\nworkingset_activate_file 9\n");
	EXPECT_EQ(cgroup(), 750000u);
	file("/sys/fs/cgroup/outer/inner/memory.max", "5000\n");
	file("/sys/fs/cgroup/outer/inner/memory.current", "7000\n");
	EXPECT_EQ(cgroup(), 0u);
}

TEST_F(Room, CgroupV1InAContainerWhoseGroupIsTheMount)
{
	file("/proc/self/cgroup", "4:cpu,cpuacct:/docker/x\n9:memory:/docker/x\n");
	file("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	EXPECT_EQ(cgroup(), UINT64_MAX);
	file("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n");
	file("/sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n");
	file("/sys/fs/cgroup/memory/memory.stat",
	     "active_file 7\ntotal_active_file 100\ntotal_inactive_file 200\n");
	EXPECT_EQ(cgroup(), 1500300u);
}

TEST_F(Room, NodeAndMachine)
{
	file("/sys/devices/system/node/node1/meminfo",
	     "Node 1 MemTotal:       1000 kB\nNode 1 MemFree:        100 kB\n"
	     "Node 1 Active(file):     20 kB\nNode 1 Inactive(file):    3 kB\n");
	file("/proc/meminfo", "MemTotal: 9 kB\nMemAvailable:      77 kB\n");
	EXPECT_EQ(kvh_arena_room_node(root.c_str(), 1), 123u * 1024);
	EXPECT_EQ(kvh_arena_room_machine(root.c_str()), 77u * 1024);
}

} // namespace
