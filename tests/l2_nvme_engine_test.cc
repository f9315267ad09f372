// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_engine_test.cc - how the nvme adapter moves bytes: in pieces, registered,
// in one write a frame, and not at all while nobody asks for anything; and that no
// byte of a frame gets into another.
#include "tests/l2_nvme_io.h"
#include "tests/long_run.h"

#include <ctime>
#include <fstream>
#include <thread>

namespace l2test
{
namespace
{

// Counts transfers over the system's table; the n-th write or read can fail.
class CountIo
{
      public:
	struct kvh_io_ops ops = kvh_io_system;
	std::atomic<uint64_t> writes{0}, reads{0}, longest{0};
	std::atomic<int64_t> fails{-1}; // so many transfers later one does

	CountIo()
	{
		ops.submitting = [](void *ctx, enum kvh_io_dir dir, int, const void *,
				    size_t len, off_t) { return of(ctx)->count(dir, len); };
		ops.pwrite = [](void *ctx, int fd, const void *buf, size_t len,
				off_t off) -> ssize_t {
			const int ret = of(ctx)->count(KVH_IO_WRITE, len);

			return ret < 0 ? ret : kvh_io_system.pwrite(nullptr, fd, buf, len, off);
		};
		ops.pread = [](void *ctx, int fd, void *buf, size_t len, off_t off) -> ssize_t {
			const int ret = of(ctx)->count(KVH_IO_READ, len);

			return ret < 0 ? ret : kvh_io_system.pread(nullptr, fd, buf, len, off);
		};
	}

      private:
	static CountIo *of(void *ctx)
	{
		return static_cast<CountIo *>(ctx);
	}
	int count(enum kvh_io_dir dir, size_t len)
	{
		(dir == KVH_IO_READ ? reads : writes)++;
		longest = std::max<uint64_t>(longest, len);
		return fails >= 0 && fails-- == 0 ? -EIO : 0;
	}
};

using Engine = Nvme;

TEST_P(Engine, AFrameLargerThanOneRequestIsWholeOrNothing)
{
	constexpr uint64_t payload = 70 << 20; // two requests
	const Buffer frame = make_frame(make_key(1), payload, 1);
	const Buffer into(frame.size(), 0);
	CountIo io;
	{
		Adapter l2(spec("size=450M,segment=400M"), &io.ops, &io);
		ASSERT_EQ(l2.error(), 0);
		const uint64_t before = io.writes;

		ASSERT_EQ(l2.put(make_key(1), frame), 0);
		EXPECT_GE(io.writes, before + 2);
		EXPECT_LE(io.longest, 64u << 20);
		ASSERT_EQ(l2.get(make_key(1), into), 0);
		EXPECT_TRUE(into == frame);
		for (int piece = 0; piece < 2; piece++) {
			io.fails = piece;
			EXPECT_EQ(l2.get(make_key(1), into), -EIO) << piece;
			io.fails = piece;
			EXPECT_LT(l2.put(make_key(2), frame), 0) << piece;
			EXPECT_EQ(l2.probe(make_key(2)), -ENOENT) << piece;
		}
		io.fails = -1;
	}
	unclose(); // so that headers are what counts
	Adapter l2(spec(""));
	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.usage().objects, 1u);
	EXPECT_EQ(l2.get(make_key(1), into), 0);
	EXPECT_TRUE(into == frame);
}

// The store is full: what gives way costs nothing, the new frame goes over it.
TEST_P(Engine, APutIntoAFullStoreIsOneWrite)
{
	CountIo io;
	Adapter l2(spec("size=8M"), &io.ops, &io);
	uint64_t k = 0;

	ASSERT_EQ(l2.error(), 0);
	for (; l2.usage().evicted < 100; k++)
		ASSERT_EQ(l2.put(make_key(k), make_frame(make_key(k), 100000)), 0);
	const uint64_t writes = io.writes, reads = io.reads;
	for (uint64_t end = k + 200; k < end; k++)
		ASSERT_EQ(l2.put(make_key(k), make_frame(make_key(k), 100000)), 0);
	EXPECT_EQ(io.writes, writes + 200);
	EXPECT_EQ(io.reads, reads);
}

// A number behind a name in what the kernel says about a ring of ours; -1: none.
int ring_has(const std::string &name)
{
	for (const auto &fd : std::filesystem::directory_iterator("/proc/self/fd")) {
		std::error_code error;
		const auto target = std::filesystem::read_symlink(fd.path(), error);
		std::ifstream info("/proc/self/fdinfo/" + fd.path().filename().string());

		if (error || target.string().find("io_uring") == std::string::npos)
			continue;
		for (std::string line; std::getline(info, line);) {
			if (line.rfind(name + ":", 0) == 0)
				return std::stoi(line.substr(name.size() + 1));
		}
	}
	return -1;
}

TEST_P(Engine, TheFileAndAttachedMemoryAreRegistered)
{
	Adapter l2(spec());
	const Buffer memory(1 << 20);

	ASSERT_EQ(l2.error(), 0);
	if (std::string(GetParam()) == "threads") {
		EXPECT_EQ(ring_has("UserFiles"), -1) << "no ring at all";
		return;
	}
	if (ring_has("UserFiles") < 0)
		GTEST_SKIP() << "this kernel does not say";
	EXPECT_EQ(ring_has("UserFiles"), 1);
	const int before = ring_has("UserBufs");
	const int region = l2.ops()->attach(l2.self(), memory.data(), memory.size());

	if (region < 0)
		GTEST_SKIP() << "memory cannot be registered here: " << strerror(-region);
	EXPECT_GE(ring_has("UserBufs"), before);
	EXPECT_GE(ring_has("UserBufs"), 1);
}

double cpu_seconds()
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// By the processor's time of the process, which others on the machine do not add to.
TEST_P(Engine, WhileNobodyAsksItCostsNothing)
{
	CountIo io;
	// As by default, with the look after its file.
	Adapter l2("nvme:" + path() + ",size=16M,engine=" + GetParam(), &io.ops, &io);
	const Buffer frame = make_frame(make_key(1), 100000), into(frame.size());

	ASSERT_EQ(l2.error(), 0);
	for (int i = 0; i < 50; i++) {
		ASSERT_EQ(l2.put(make_key(1), frame), 0);
		ASSERT_EQ(l2.get(make_key(1), into), 0);
	}
	double before = cpu_seconds();
	std::this_thread::sleep_for(std::chrono::seconds(1));
	const double idle = cpu_seconds() - before;
	EXPECT_LT(idle, 0.05);
	EXPECT_FALSE(l2.readable()) << "it asks to be reaped for nothing";

	before = cpu_seconds();
	const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
	while (std::chrono::steady_clock::now() < end)
		(void)l2.reap();
	EXPECT_GT(cpu_seconds() - before, idle) << "control: one who asks all the time";
	VERDICT("idle %s: %.4f CPU seconds in a second", GetParam(), idle);
}

// ---- X5: what a frame leaves behind ----

constexpr uint8_t kCanary = 0xC5;

// Frames of space A hold nothing but canaries, and their slots are given to frames
// of space B, shorter ones too, by eviction, DELETE and CLEAR.
TEST_P(Engine, NoByteOfAFrameIsInAnother)
{
	constexpr kvh_space_t kA = 0xA, kB = 0xB;
	const unsigned stores = long_or(100000, 2000);
	std::mt19937_64 random(draw_seed());
	unsigned found = 0, checked = 0;
	{
		Adapter l2(spec("size=4M,direct=off"));
		ASSERT_EQ(l2.error(), 0);
		for (unsigned i = 0; i < stores; i++) {
			const kvh_space_t space = i % 2 == 0 ? kA : kB;
			const uint64_t payload = 1 + random() % (i % 8 < 6 ? 4096 : 20000);
			const struct kvh_key key = make_key(random() % 600, space);
			const Buffer frame(kvh_frame_bytes(payload), 0);
			const uint8_t digest[32] = {1};
			const struct kvh_hash parent = {};

			memset(frame.data() + 4096, space == kA ? kCanary : 0x11, payload);
			kvh_frame_fill(frame.data(), &key, digest, &parent, i + 1, payload);
			kvh_frame_seal(frame.data());
			ASSERT_EQ(l2.put(key, frame), 0);
			if (i % 16 == 0)
				(void)l2.del(make_key(random() % 600, kA));
			if (i % 1000 == 499) {
				struct kvh_l2_req req = make_req(KVH_L2_CLEAR, make_key(0, kA));

				ASSERT_EQ(l2.run(&req), 0);
			}
			if (space != kB)
				continue;
			const Buffer into(frame.size());
			ASSERT_EQ(l2.get(key, into), 0);
			found += memchr(into.data() + 4096, kCanary, into.size() - 4096) !=
				 nullptr;
			checked++;
		}
	}
	// And as it lies in the file, up to the end of each slot.
	std::ifstream file(path(), std::ios::binary);
	const std::string all((std::istreambuf_iterator<char>(file)), {});
	unsigned canaries = 0;
	for (size_t at = 0; at + 4096 <= all.size(); at += 4096) {
		struct kvh_frame_header header;

		memcpy(&header, all.data() + at, sizeof(header));
		if (kvh_frame_check_header(all.data() + at) != 0)
			continue;
		const bool any = memchr(all.data() + at + 4096, kCanary,
					header.frame_bytes - 4096) != nullptr;
		canaries += header.key.space == kA && any;
		found += header.key.space == kB && any;
		checked += header.key.space == kB;
	}
	EXPECT_EQ(found, 0u);
	EXPECT_GT(checked, stores / 4);
	EXPECT_GT(canaries, 0u) << "control: there were none to find";
	VERDICT("X5 %s: %u stores, %u frames looked at, %u with another's bytes", GetParam(),
		stores, checked, found);
}

INSTANTIATE_TEST_SUITE_P(Engines, Engine, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

} // namespace
} // namespace l2test
