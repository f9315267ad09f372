// SPDX-License-Identifier: Apache-2.0
//
// arena_pin_test.cc - an arena whose pieces are pinned by several threads, behind
// the opener's back: what serves and what does not while a registration is held, one
// that fails, room that vanishes, a close and a fork meanwhile, and threads that use
// the arena as it grows.
#include "cuda/device_host.h"
#include "host/arena.h"
#include "host/arena_impl.h"
#include "host/log.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <mutex>
#include <random>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

constexpr uint64_t kMiB = UINT64_C(1) << 20;
constexpr uint64_t kPage = 4096;
constexpr uint32_t kPieces = 8;
constexpr uint64_t kPiece = 2 * kMiB;

std::mutex log_lock;
std::string log_lines;

void log_sink(void *, enum kvh_log_level, const char *line)
{
	std::lock_guard<std::mutex> guard(log_lock);

	log_lines += line;
	log_lines += '\n';
}

std::string logged()
{
	std::lock_guard<std::mutex> guard(log_lock);

	return log_lines;
}

size_t count_of(const std::string &text, const std::string &what)
{
	size_t n = 0;

	for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at++)
		n++;
	return n;
}

class Pin : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		log_lines.clear();
		kvh_log_set(log_sink, nullptr, KVH_LOG_WARN);
		ASSERT_EQ(kvh_device_host_open(&dev), 0);
		opts.dev = dev;
		opts.bytes = kPieces * kPiece;
		opts.piece_bytes = kPiece;
		opts.numa_node = -1;
		opts.touch_threads = 1;
		opts.early = true;
	}

	void TearDown() override
	{
		kvh_host_release(dev);
		if (arena != nullptr) {
			EXPECT_TRUE(kvh_arena_check(arena)) << logged();
			kvh_arena_close(arena, false);
		}
		EXPECT_EQ(kvh_host_registered(dev), 0u);
		dev->ops->close(dev);
		kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	}

	void open()
	{
		ASSERT_EQ(kvh_arena_open(&opts, &arena), 0) << logged();
	}

	void rule(enum kvh_host_action action, uint64_t nth, uint64_t count = 1,
		  uint64_t ns = 0)
	{
		const kvh_host_rule r = {KVH_HOST_REGISTER, action, nth, count, EAGAIN, ns};

		ASSERT_EQ(kvh_host_rule_add(dev, &r), 0);
	}

	// Open, with the second piece's registration held.
	void open_held()
	{
		rule(KVH_HOST_HOLD, 2);
		open();
		kvh_host_held_wait(dev, 1);
	}

	void release_and_wait()
	{
		kvh_host_release(dev);
		kvh_arena_pinned_wait(arena);
	}

	struct kvh_arena_stats stats()
	{
		struct kvh_arena_stats s;

		kvh_arena_stats(arena, &s);
		return s;
	}

	uint32_t n_pieces()
	{
		const kvh_arena_piece *pieces;

		return kvh_arena_pieces(arena, &pieces);
	}

	const kvh_arena_piece &piece(uint32_t i)
	{
		const kvh_arena_piece *pieces;

		kvh_arena_pieces(arena, &pieces);
		return pieces[i];
	}

	std::vector<void *> alloc(uint64_t bytes, uint32_t n)
	{
		std::vector<void *> frames(n);
		int got = kvh_arena_alloc(arena, bytes, n, frames.data());

		EXPECT_GE(got, 0);
		frames.resize(got < 0 ? 0 : static_cast<size_t>(got));
		return frames;
	}

	void free_all(const std::vector<void *> &frames)
	{
		kvh_arena_free_many(arena, frames.data(), static_cast<uint32_t>(frames.size()));
	}

	bool in_core(uint32_t i)
	{
		unsigned char page = 0;

		EXPECT_EQ(mincore(piece(i).base, kPage, &page), 0);
		return (page & 1) != 0;
	}

	kvh_device *dev = nullptr;
	kvh_arena *arena = nullptr;
	kvh_arena_opts opts = {};
};

// -- while memory is coming ----------------------------------------------------

TEST_F(Pin, OpenReturnsWithTheFirstPieceAndOnlyThatServes)
{
	open_held();
	EXPECT_EQ(n_pieces(), 1u);
	EXPECT_EQ(kvh_arena_pieces_max(arena), kPieces);
	EXPECT_EQ(stats().pinned_bytes, kPiece);
	EXPECT_EQ(stats().wanted_bytes, kPieces * kPiece);
	EXPECT_EQ(stats().missing_bytes, 0u);
	EXPECT_TRUE(stats().pinning);
	EXPECT_EQ(kvh_arena_piece_of(arena, piece(0).base), 0u);
	EXPECT_EQ(kvh_arena_piece_of(arena, piece(1).base), UINT32_MAX);

	auto frames = alloc(kMiB, 16);
	ASSERT_EQ(frames.size(), 2u) << "nothing that is not pinned";
	EXPECT_EQ(frames[0], piece(0).base);
	EXPECT_TRUE(kvh_arena_check(arena)) << logged();
	void *lo, *hi;
	EXPECT_TRUE(kvh_arena_window(arena, kPiece, piece(0).base, &lo, &hi));
	EXPECT_FALSE(kvh_arena_window(arena, kPiece, piece(1).base, &lo, &hi));

	release_and_wait();
	EXPECT_EQ(n_pieces(), kPieces);
	EXPECT_EQ(stats().pinned_bytes, kPieces * kPiece);
	EXPECT_FALSE(stats().pinning);
	EXPECT_EQ(kvh_arena_piece_of(arena, piece(7).base), 7u);
	auto rest = alloc(kMiB, 16);
	EXPECT_EQ(rest.size(), 14u);
	free_all(frames);
	free_all(rest);
	EXPECT_EQ(logged(), "");
}

// The control of all that is held here: who does not ask for it waits.
TEST_F(Pin, WithoutEarlyOpenWaitsForAll)
{
	std::atomic<bool> opened{false};

	opts.early = false;
	rule(KVH_HOST_HOLD, kPieces);
	std::thread opener([&] {
		open();
		opened = true;
	});
	kvh_host_held_wait(dev, 1);
	EXPECT_FALSE(opened);
	kvh_host_release(dev);
	opener.join();
	EXPECT_EQ(n_pieces(), kPieces);
	EXPECT_FALSE(stats().pinning);
}

TEST_F(Pin, AFrameLargerThanWhatIsPinnedHasNoRoomYet)
{
	opts.bytes = 3 * kPiece;
	open_held();
	auto first = alloc(kPiece, 3);
	EXPECT_EQ(first.size(), 1u);
	EXPECT_EQ(alloc(kPiece, 1).size(), 0u);
	release_and_wait();
	auto second = alloc(kPiece, 3);
	EXPECT_EQ(second.size(), 2u);
	free_all(first);
	free_all(second);
}

// It is told of each that comes, and of the end; of nothing after it has left.
TEST_F(Pin, WhoWatchesIsTold)
{
	std::atomic<uint32_t> told{0};

	open_held();
	kvh_arena_watch(
		arena, [](void *arg) { ++*static_cast<std::atomic<uint32_t> *>(arg); }, &told);
	EXPECT_EQ(told, 0u);
	release_and_wait();
	EXPECT_EQ(told, kPieces - 1 + 1);
	kvh_arena_watch(arena, nullptr, nullptr);
}

TEST_F(Pin, OthersAreTouchedWhileOneIsRegistered)
{
	opts.touch_threads = 2;
	opts.register_threads = 1;
	rule(KVH_HOST_HOLD, 1, UINT64_MAX);
	std::thread opener([&] { open(); });
	kvh_host_held_wait(dev, 1);
	// The table is there only once open returns: where the last piece will be is not
	// known here, so all of the process's pages that fork does not take are counted.
	auto touched = [] {
		std::ifstream smaps("/proc/self/smaps");
		std::string line;
		uint64_t kib = 0, sum = 0;

		while (std::getline(smaps, line)) {
			if (line.rfind("Rss:", 0) == 0)
				kib = std::stoull(line.substr(4));
			if (line.rfind("VmFlags:", 0) == 0 &&
			    line.find(" dc") != std::string::npos)
				sum += kib;
		}
		return sum * 1024;
	};
	while (touched() < kPieces * kPiece)
		std::this_thread::yield();
	EXPECT_EQ(kvh_host_held(dev), 1u) << "one at a time, as asked";
	kvh_host_release(dev);
	opener.join();
	kvh_arena_pinned_wait(arena);
	EXPECT_EQ(n_pieces(), kPieces);
}

TEST_F(Pin, SeveralAreRegisteredAtOnce)
{
	opts.touch_threads = 4;
	opts.register_threads = 3;
	rule(KVH_HOST_HOLD, 2, UINT64_MAX);
	open();
	kvh_host_held_wait(dev, 3); // the one above is the control
	release_and_wait();
	EXPECT_EQ(n_pieces(), kPieces);
}

// Parts of pieces, more threads than pieces, and a last piece that is smaller.
TEST_F(Pin, EveryPageIsTouchedWhateverTheShape)
{
	for (uint32_t threads : {1u, 3u, 100u}) {
		for (uint64_t piece_bytes : {2 * kMiB, 34 * kMiB, 64 * kMiB}) {
			opts.touch_threads = threads;
			opts.bytes = 70 * kMiB;
			opts.piece_bytes = piece_bytes;
			open();
			kvh_arena_pinned_wait(arena);
			for (uint32_t i = 0; i < n_pieces(); i++) {
				std::vector<unsigned char> core(piece(i).bytes / kPage);

				ASSERT_EQ(mincore(piece(i).base, piece(i).bytes, core.data()),
					  0);
				for (unsigned char page : core)
					ASSERT_EQ(page & 1, 1);
			}
			EXPECT_EQ(stats().pinned_bytes, 70 * kMiB);
			EXPECT_EQ(kvh_host_registered(dev), n_pieces());
			kvh_arena_close(arena, false);
			arena = nullptr;
		}
	}
}

// -- failure ---------------------------------------------------------------------

TEST_F(Pin, AFirstPieceThatFailsIsOpensError)
{
	rule(KVH_HOST_FAIL, 1);
	EXPECT_EQ(kvh_arena_open(&opts, &arena), -ENOMEM);
	EXPECT_EQ(arena, nullptr);
	EXPECT_EQ(kvh_host_registered(dev), 0u);
	EXPECT_EQ(count_of(logged(), "RLIMIT_MEMLOCK"), 1u) << logged();
}

TEST_F(Pin, ALaterPieceThatFailsLeavesWhatIsThere)
{
	for (uint32_t k = 2; k <= kPieces; k++) {
		log_lines.clear();
		rule(KVH_HOST_FAIL, k);
		open();
		kvh_arena_pinned_wait(arena);
		EXPECT_EQ(n_pieces(), k - 1);
		EXPECT_EQ(stats().pinned_bytes, (k - 1) * kPiece);
		EXPECT_EQ(stats().missing_bytes, (kPieces - k + 1) * kPiece);
		EXPECT_EQ(kvh_arena_pieces_max(arena), kPieces);
		EXPECT_EQ(stats().error, -EAGAIN);
		EXPECT_FALSE(stats().pinning);
		EXPECT_EQ(kvh_host_registered(dev), k - 1);
		EXPECT_TRUE(in_core(k - 2));
		EXPECT_FALSE(in_core(k - 1)) << "its memory is given back";
		EXPECT_EQ(count_of(logged(), "\n"), 1u) << logged();
		EXPECT_NE(logged().find("piece " + std::to_string(k) + " of 8"),
			  std::string::npos);
		auto frames = alloc(kMiB, 100);
		EXPECT_EQ(frames.size(), 2 * (k - 1));
		free_all(frames);
		EXPECT_TRUE(kvh_arena_check(arena)) << logged();
		kvh_arena_close(arena, false);
		arena = nullptr;
		EXPECT_EQ(kvh_host_registered(dev), 0u);
	}
}

// A piece is held and then fails, while the others get pinned behind it: they are
// given back. Which of those under way it is, is chance.
TEST_F(Pin, WhatIsPinnedBehindAGapIsGivenBack)
{
	opts.touch_threads = 2;
	opts.register_threads = 2;
	rule(KVH_HOST_HOLD, 2);
	rule(KVH_HOST_FAIL, 2);
	open();
	kvh_host_held_wait(dev, 1);
	while (kvh_host_registered(dev) < kPieces - 1)
		std::this_thread::yield();
	EXPECT_LT(n_pieces(), kPieces - 1) << "control: they serve nobody behind the gap";
	release_and_wait();
	EXPECT_GE(n_pieces(), 1u);
	EXPECT_LT(n_pieces(), kPieces);
	EXPECT_EQ(kvh_host_registered(dev), n_pieces());
	EXPECT_EQ(stats().missing_bytes, (kPieces - n_pieces()) * kPiece);
	EXPECT_FALSE(in_core(kPieces - 1));
}

// Without `early` any failure is open's, whoever registers what.
TEST_F(Pin, WithoutEarlyNothingIsLeftOfAnyFailure)
{
	opts.early = false;
	opts.touch_threads = 4;
	opts.register_threads = 3;
	for (uint32_t k = 1; k <= kPieces; k++) {
		rule(KVH_HOST_FAIL, k);
		EXPECT_EQ(kvh_arena_open(&opts, &arena), -ENOMEM);
		EXPECT_EQ(kvh_host_registered(dev), 0u);
	}
}

class PinRoom : public Pin
{
      protected:
	void SetUp() override
	{
		char name[] = "/tmp/kvh_pin_XXXXXX";

		Pin::SetUp();
		ASSERT_NE(mkdtemp(name), nullptr);
		root = name;
		opts.root = root.c_str();
		ASSERT_EQ(system(("mkdir -p '" + root + "/proc/self' '" + root +
				  "/sys/devices/system/node/node0' '" + root +
				  "/sys/devices/system/node/node1'")
					 .c_str()),
			  0);
		available(64);
	}
	void TearDown() override
	{
		Pin::TearDown();
		ASSERT_EQ(system(("rm -rf '" + root + "'").c_str()), 0);
	}
	void available(uint64_t mib)
	{
		std::ofstream(root + "/proc/meminfo")
			<< "MemAvailable: " << mib * 1024 << " kB\n";
	}
	void node(int n, uint64_t mib)
	{
		std::ofstream(root + "/sys/devices/system/node/node" + std::to_string(n) +
			      "/meminfo")
			<< "Node " << n << " MemFree: " << mib * 1024 << " kB\n";
	}

	std::string root;
};

TEST_F(PinRoom, VanishesAndPinningStopsBeforeTheKernelKills)
{
	open_held();
	available(1);
	release_and_wait();
	EXPECT_EQ(n_pieces(), 2u) << "the one that was on its way";
	EXPECT_EQ(stats().missing_bytes, (kPieces - 2) * kPiece);
	EXPECT_EQ(stats().error, -ENOMEM);
	EXPECT_NE(logged().find("the machine has room for 1048576"), std::string::npos)
		<< logged();
	EXPECT_FALSE(in_core(2));
}

// Control: the files are read, and with room all is pinned.
TEST_F(PinRoom, Stays)
{
	open_held();
	available(2);
	release_and_wait();
	EXPECT_EQ(n_pieces(), kPieces);
}

TEST_F(PinRoom, OfEachNodeIsAskedForItsPieces)
{
	opts.n_nodes = 2;
	opts.nodes[0] = 0;
	opts.nodes[1] = 1;
	node(0, 8);
	node(1, 7);
	EXPECT_EQ(kvh_arena_open(&opts, &arena), -ENOMEM);
	EXPECT_NE(logged().find("L1 of 8388608 bytes does not fit: NUMA node 1 has room for "
				"7340032"),
		  std::string::npos)
		<< logged();
	EXPECT_EQ(kvh_host_count(dev, KVH_HOST_REGISTER), 0u);
	node(1, 8);
	open();
	kvh_arena_pinned_wait(arena);
	EXPECT_EQ(n_pieces(), kPieces);
}

// -- close, fork ------------------------------------------------------------------

TEST_F(Pin, CloseWaitsForWhatIsBeingRegisteredAndNoMore)
{
	open_held();
	std::thread closer([&] { kvh_arena_close(arena, false); });
	// It cannot have returned: the arena is there until the held piece is let go.
	for (bool stopping = false; !stopping;) {
		pthread_mutex_lock(&arena->lock);
		stopping = arena->pin.stop;
		pthread_mutex_unlock(&arena->lock);
	}
	kvh_host_release(dev);
	closer.join();
	arena = nullptr;
	EXPECT_EQ(kvh_host_registered(dev), 0u);
	EXPECT_EQ(kvh_host_count(dev, KVH_HOST_REGISTER), 2u) << "the rest was not begun";
}

TEST_F(Pin, CloseWithLeakEndsPinningToo)
{
	open_held();
	auto frames = alloc(kMiB, 1);
	const kvh_arena_piece first = piece(0), second = piece(1);
	std::thread closer([&] { kvh_arena_close(arena, true); });
	for (bool stopping = false; !stopping;) {
		pthread_mutex_lock(&arena->lock);
		stopping = arena->pin.stop;
		pthread_mutex_unlock(&arena->lock);
	}
	kvh_host_release(dev);
	closer.join();
	arena = nullptr;
	memset(frames[0], 1, kMiB); // a transfer that hangs may still do so
	EXPECT_EQ(kvh_host_registered(dev), 2u);
	for (const kvh_arena_piece &p : {first, second})
		dev->ops->host_unregister(dev, p.base);
	munmap(first.base, kPieces * (kPiece + KVH_GRANULE_BYTES));
}

TEST_F(Pin, ForkTakesNothingOfWhatIsComing)
{
	open_held();
	const kvh_arena_piece *pieces;
	kvh_arena_pieces(arena, &pieces);
	pid_t child = fork();

	if (child == 0) {
		for (uint32_t i = 0; i < kPieces; i++) {
			unsigned char core;

			if (mincore(pieces[i].base, kPage, &core) == 0 || errno != ENOMEM)
				_exit(1);
		}
		_exit(0);
	}
	int status = -1;
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(WEXITSTATUS(status), 0);
	release_and_wait();
	EXPECT_EQ(n_pieces(), kPieces) << "the parent's goes on";
}

// -- used while it grows ------------------------------------------------------------

// Frames come and go, and every question is asked, while pieces arrive out of order.
TEST_F(Pin, ServesThreadsWhileItGrows)
{
	opts.touch_threads = 4;
	opts.register_threads = 3;
	rule(KVH_HOST_SLOW, 1, UINT64_MAX, 300000);
	open();
	std::atomic<bool> stop{false};
	std::vector<std::thread> users;
	for (uint32_t t = 0; t < 3; t++)
		users.emplace_back([&, t] {
			std::mt19937 random(t + 1);
			std::vector<void *> mine;

			while (!stop) {
				void *got[4], *lo, *hi;
				int n = kvh_arena_alloc_near(arena, int(t % 2),
							     (1 + random() % 64) * kPage,
							     1 + random() % 4, got);

				for (int i = 0; i < n; i++) {
					*static_cast<uint32_t *>(got[i]) = t;
					EXPECT_NE(kvh_arena_piece_of(arena, got[i]),
						  UINT32_MAX);
					mine.push_back(got[i]);
				}
				struct kvh_arena_stats s = stats();
				EXPECT_LE(s.pinned_bytes, s.wanted_bytes);
				(void)kvh_arena_window(
					arena, kMiB, piece(random() % kPieces).base, &lo, &hi);
				while (mine.size() > 20 || (!mine.empty() && n == 0)) {
					EXPECT_EQ(*static_cast<uint32_t *>(mine.back()), t);
					kvh_arena_free(arena, mine.back());
					mine.pop_back();
				}
			}
			for (void *frame : mine)
				kvh_arena_free(arena, frame);
		});
	kvh_arena_pinned_wait(arena);
	stop = true;
	for (std::thread &user : users)
		user.join();
	EXPECT_EQ(n_pieces(), kPieces);
	EXPECT_EQ(stats().used_bytes, 0u);
	EXPECT_EQ(alloc(kMiB, 100).size(), 16u);
	void *frames[16];
	uint64_t span;
	char *base = static_cast<char *>(kvh_arena_base(arena, &span));
	ASSERT_EQ(kvh_arena_list(arena, base, base + span, frames, 16), 16u);
	kvh_arena_free_many(arena, frames, 16);
}

} // namespace
