// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_room_test.cc - what the nvme adapter does with room: memory a frame, the
// floor of free space, room given back, flushing; and that it knows by itself that
// its file is gone.
#include "host/order.h"
#include "l2/nvme_inspect.h"
#include "tests/l2_nvme_io.h"

#include <fstream>
#include <linux/falloc.h>
#include <pthread.h>
#include <thread>

#define class class_ // a field's name in C
#include "l2/nvme_index.h"
#undef class

namespace l2test
{
namespace
{

constexpr uint64_t kPayload = 60 << 10; // frames of 64 KiB
constexpr uint64_t kFrame = 64 << 10;

// A table of operations over the system's whose answers about room are set.
class RoomIo
{
      public:
	struct kvh_io_ops ops = kvh_io_system;
	std::atomic<uint64_t> free_bytes{UINT64_C(1) << 40};
	std::atomic<bool> read_only{false};
	std::atomic<int> room_error{0}, punch_error{0}, sync_error{0};
	std::atomic<unsigned> punched{0}, synced{0};

	RoomIo()
	{
		ops.fstatvfs = [](void *ctx, int fd, struct statvfs *vfs) {
			RoomIo *io = static_cast<RoomIo *>(ctx);
			const int ret = kvh_io_system.fstatvfs(nullptr, fd, vfs);

			vfs->f_frsize = 4096;
			vfs->f_blocks = (UINT64_C(1) << 40) / 4096;
			vfs->f_bavail = io->free_bytes / 4096;
			if (io->read_only)
				vfs->f_flag |= ST_RDONLY;
			return ret;
		};
		ops.fallocate = [](void *ctx, int fd, int mode, off_t off, off_t len) {
			RoomIo *io = static_cast<RoomIo *>(ctx);

			if (!(mode & FALLOC_FL_PUNCH_HOLE) && io->room_error != 0)
				return static_cast<int>(io->room_error);
			if (!(mode & FALLOC_FL_PUNCH_HOLE))
				return kvh_io_system.fallocate(nullptr, fd, mode, off, len);
			if (io->punch_error != 0)
				return static_cast<int>(io->punch_error);
			io->punched++;
			return kvh_io_system.fallocate(nullptr, fd, mode, off, len);
		};
		ops.fsync = [](void *ctx, int fd, int data_only) {
			RoomIo *io = static_cast<RoomIo *>(ctx);
			const int error = io->sync_error.exchange(0);

			io->synced++;
			return error != 0 ? error : kvh_io_system.fsync(nullptr, fd, data_only);
		};
	}
};

class NvmeRoom : public ::testing::Test
{
      protected:
	std::string path() const
	{
		return dir_.path() + "/l2";
	}
	std::string spec(const std::string &more = "") const
	{
		return "nvme:" + path() + ",size=16M" + (more.empty() ? "" : "," + more);
	}
	const std::string &dir() const
	{
		return dir_.path();
	}
	static int put(Adapter &l2, uint64_t n)
	{
		return l2.put(make_key(n), make_frame(make_key(n), kPayload));
	}
	static int flush(Adapter &l2)
	{
		struct kvh_l2_req req = make_req(KVH_L2_FLUSH, make_key(0));

		return l2.run(&req);
	}
	static int health(const Adapter &l2)
	{
		const char *why = "";

		return l2.ops()->health(l2.self(), &why);
	}
	// Without traffic, until it says so. A guard against a hang, not a limit.
	static bool becomes(const Adapter &l2, int wanted, int looks = 12000)
	{
		for (int i = 0; i < looks; i++) {
			if (health(l2) == wanted)
				return true;
			std::this_thread::sleep_for(std::chrono::milliseconds(10));
		}
		return false;
	}

      private:
	Dir dir_;
};

TEST_F(NvmeRoom, TheFloorStopsStoresAndMoreRoomLetsThemGoOn)
{
	for (const char *floor : {"floor=1G", "floor=50%"}) {
		RoomIo io;
		Adapter l2(spec(std::string(floor) + ",check=5"), &io.ops, &io);
		int ret = 0;
		uint64_t n = 0;
		Log log;

		ASSERT_EQ(l2.error(), 0);
		ASSERT_EQ(put(l2, 1), 0);
		io.free_bytes = UINT64_C(1) << 29;
		while ((ret = put(l2, 2)) == 0 && n++ < 100000)
			;
		EXPECT_EQ(ret, -ENOSPC) << floor;
		EXPECT_EQ(l2.probe(make_key(1)), static_cast<int64_t>(kFrame)) << "loads go on";
		io.free_bytes = UINT64_C(1) << 40;
		for (n = 0; (ret = put(l2, 3)) != 0 && n++ < 100000;)
			;
		EXPECT_EQ(ret, 0) << floor;
		EXPECT_EQ(log.count("stores nothing"), 1u) << log.text();
		EXPECT_EQ(log.count("stores again"), 1u) << log.text();
	}
}

TEST_F(NvmeRoom, ABadFloorIsRefused)
{
	for (const char *floor : {"floor=100%", "floor=x", "floor=%", "floor=-1"}) {
		Log log;

		EXPECT_EQ(Adapter(spec(floor)).error(), -EINVAL) << floor;
		EXPECT_NE(log.text().find(floor), std::string::npos) << log.text();
	}
}

TEST_F(NvmeRoom, AFloorThatNobodyLooksAtIsRefused)
{
	Log log;

	EXPECT_EQ(Adapter(spec("floor=1G,check=0")).error(), -EINVAL);
	EXPECT_NE(log.text().find("floor=1G needs check"), std::string::npos) << log.text();
	EXPECT_EQ(Adapter(spec("floor=0,check=0")).error(), 0);
}

TEST_F(NvmeRoom, APathStaysWhereItWasWhenTheProcessGoesElsewhere)
{
	const std::filesystem::path before = std::filesystem::current_path();

	std::filesystem::create_directory(dir() + "/deeper");
	std::filesystem::current_path(dir());
	Adapter l2("nvme:l2,size=16M,check=5");
	std::filesystem::current_path(dir() + "/deeper");
	const int error = l2.error();
	const bool well = error == 0 && !becomes(l2, -ENOENT, 100);
	std::filesystem::current_path(before);
	EXPECT_EQ(error, 0);
	EXPECT_TRUE(well);
}

TEST_F(NvmeRoom, TheRoomOfDeletedFramesIsGivenBack)
{
	RoomIo io;
	Adapter l2(spec("discard=yes,check=0"), &io.ops, &io);
	struct stat before, after;

	ASSERT_EQ(l2.error(), 0);
	for (uint64_t n = 0; n < 40; n++) {
		ASSERT_EQ(put(l2, n), 0);
	}
	ASSERT_EQ(stat(path().c_str(), &before), 0);
	for (uint64_t n = 0; n < 40; n++) {
		ASSERT_EQ(l2.del(make_key(n)), 0);
	}
	for (uint64_t n = 100; n < 120; n++) { // beside it: no slot is both
		ASSERT_EQ(put(l2, n), 0);
	}
	for (uint64_t n = 100; n < 120; n++) {
		const Buffer into(kFrame);

		ASSERT_EQ(l2.get(make_key(n), into), 0);
		EXPECT_TRUE(into == make_frame(make_key(n), kPayload)) << n;
	}
	ASSERT_EQ(l2.close(), 0);
	EXPECT_EQ(io.punched, 40u);
	ASSERT_EQ(stat(path().c_str(), &after), 0);
	EXPECT_LT(after.st_blocks, before.st_blocks);
}

TEST_F(NvmeRoom, WhereRoomCannotBeGivenBackItSaysSoOnceAndGoesOn)
{
	RoomIo io;
	Log log;

	io.punch_error = -EOPNOTSUPP;
	Adapter l2(spec("discard=yes,check=0"), &io.ops, &io);
	for (uint64_t n = 0; n < 30; n++) {
		ASSERT_EQ(put(l2, n), 0);
		ASSERT_EQ(l2.del(make_key(n)), 0);
	}
	EXPECT_EQ(l2.close(), 0);
	EXPECT_EQ(log.count("given back"), 1u) << log.text();
}

TEST_F(NvmeRoom, ControlWithoutTheOptionNoRoomIsGivenBack)
{
	RoomIo io;
	Adapter l2(spec("check=0"), &io.ops, &io);

	ASSERT_EQ(put(l2, 1), 0);
	ASSERT_EQ(l2.del(make_key(1)), 0);
	EXPECT_EQ(l2.close(), 0);
	EXPECT_EQ(io.punched, 0u);
}

TEST_F(NvmeRoom, AFlushThatFailedEndsAllPromisesUntilAReopen)
{
	RoomIo io;
	Log log;
	{
		Adapter l2(spec("check=0"), &io.ops, &io);

		ASSERT_EQ(put(l2, 1), 0);
		ASSERT_EQ(flush(l2), 0);
		ASSERT_EQ(put(l2, 2), 0);
		io.sync_error = -EIO; // once
		EXPECT_EQ(flush(l2), -EIO);
		EXPECT_EQ(flush(l2), -EIO) << "though the system's would succeed now";
		ASSERT_EQ(put(l2, 3), 0) << "it still serves";
		EXPECT_EQ(l2.probe(make_key(2)), static_cast<int64_t>(kFrame));
		EXPECT_EQ(log.count("a flush failed"), 1u) << log.text();
	}
	Adapter l2(spec("check=0"), &io.ops, &io);

	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(flush(l2), 0);
	EXPECT_EQ(l2.probe(make_key(3)), static_cast<int64_t>(kFrame)) << "found by its header";
}

TEST_F(NvmeRoom, SyncOfEveryWriteNeedsNoFlush)
{
	RoomIo io;
	Adapter l2(spec("check=0,sync=write"), &io.ops, &io);
	const unsigned synced = io.synced;

	ASSERT_EQ(put(l2, 1), 0);
	EXPECT_EQ(flush(l2), 0);
	EXPECT_EQ(io.synced, synced);
}

// Two growths in a row write both copies of a page of the table: a flush in between
// holds the first, also where a close flushes nothing.
TEST_F(NvmeRoom, NoSecondCopyOfTheTableIsWrittenBeforeTheFirstIsHeld)
{
	for (const char *sync : {"close", "none", "write"}) {
		RoomIo io;

		std::filesystem::remove(path());
		Adapter l2(spec(std::string("check=0,sync=") + sync), &io.ops, &io);
		ASSERT_EQ(l2.error(), 0);
		const unsigned before = io.synced;

		ASSERT_EQ(l2.put(make_key(1), make_frame(make_key(1), 4000)), 0);
		ASSERT_EQ(l2.put(make_key(2), make_frame(make_key(2), 20000)), 0);
		if (std::string(sync) == "write")
			EXPECT_EQ(io.synced, before) << "each write is held by itself";
		else
			EXPECT_GT(io.synced, before) << sync;
	}
}

// Who makes a file and who locks it first may be two; the other leaves it alone.
TEST_F(NvmeRoom, AFileThatSomebodyElseLockedFirstIsNotRemoved)
{
	struct Race {
		std::string spec;
		std::unique_ptr<Adapter> other;
	} race{spec("check=0"), nullptr};
	struct kvh_io_ops ops = kvh_io_system;
	Log log;

	ops.open = [](void *ctx, int dirfd, const char *path, int flags, mode_t mode,
		      int beneath) {
		Race *r = static_cast<Race *>(ctx);
		const int fd = kvh_io_system.open(nullptr, dirfd, path, flags, mode, beneath);

		if (fd >= 0 && (flags & O_CREAT))
			r->other = std::make_unique<Adapter>(r->spec);
		return fd;
	};
	EXPECT_EQ(Adapter(race.spec, &ops, &race).error(), -EBUSY);
	ASSERT_TRUE(race.other);
	ASSERT_EQ(race.other->error(), 0);
	EXPECT_EQ(put(*race.other, 1), 0);
	race.other.reset();
	Adapter l2(spec("check=0"));
	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.probe(make_key(1)), static_cast<int64_t>(kFrame));
}

TEST_F(NvmeRoom, ItKnowsByItselfThatItsFileIsGone)
{
	Log log;
	Adapter l2(spec("check=20"));

	ASSERT_TRUE(becomes(l2, 0));
	std::filesystem::rename(path(), path() + "2");
	EXPECT_TRUE(becomes(l2, -ENOENT));
	{
		std::ofstream other(path()); // a file, but another
	}
	EXPECT_TRUE(becomes(l2, -ESTALE));
	std::filesystem::remove(path());
	std::filesystem::create_symlink("/dev/zero", path()); // planted
	EXPECT_TRUE(becomes(l2, -ESTALE));
	std::filesystem::remove(path());
	std::filesystem::rename(path() + "2", path());
	EXPECT_TRUE(becomes(l2, 0)) << "and back";
	EXPECT_EQ(log.count("is gone"), 1u) << log.text();
	EXPECT_EQ(log.count("well again"), 1u) << log.text();
}

TEST_F(NvmeRoom, ItKnowsThatNothingCanBeWrittenAnyMore)
{
	RoomIo io;
	Log log;
	Adapter l2(spec("check=20"), &io.ops, &io);

	ASSERT_TRUE(becomes(l2, 0));
	io.read_only = true;
	EXPECT_TRUE(becomes(l2, -EROFS));
	io.read_only = false;
	EXPECT_TRUE(becomes(l2, 0));
	io.room_error = -EROFS; // by itself, without the flag
	EXPECT_TRUE(becomes(l2, -EROFS));
	io.room_error = 0;
	EXPECT_TRUE(becomes(l2, 0));
}

TEST_F(NvmeRoom, WhatOthersHangOnToItsFileStays)
{
	Adapter l2(spec("check=1"));

	std::filesystem::resize_file(path(), 24 << 20);
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(put(l2, 1), 0);
		std::this_thread::sleep_for(std::chrono::milliseconds(1));
	}
	EXPECT_EQ(l2.close(), 0);
	EXPECT_EQ(std::filesystem::file_size(path()), 24u << 20);
}

TEST_F(NvmeRoom, ItKnowsThatItsFileWasWrittenOver)
{
	Log log;
	Adapter l2(spec("check=20,direct=off"));

	ASSERT_TRUE(becomes(l2, 0));
	{
		std::fstream file(path(), std::ios::in | std::ios::out);
		file << std::string(8192, 'x');
	}
	EXPECT_TRUE(becomes(l2, -ESTALE));
}

TEST_F(NvmeRoom, ControlWithoutLookingItKnowsNothing)
{
	Adapter l2(spec("check=0"));

	std::filesystem::rename(path(), path() + "2");
	EXPECT_EQ(health(l2), 0);
	std::filesystem::rename(path() + "2", path());
}

TEST_F(NvmeRoom, WritesThatFailAreUnhealthyUntilOneSucceeds)
{
	FaultIo io;
	Log log;
	Adapter l2(spec("check=0"), &io.ops, &io);

	ASSERT_EQ(put(l2, 0), 0);
	io.for_ever = true;
	io.write_at = 0;
	for (uint64_t n = 1; n < 20; n++)
		EXPECT_LT(put(l2, n), 0);
	EXPECT_EQ(health(l2), -EIO);
	io.for_ever = false;
	io.write_at = -1;
	for (uint64_t n = 20; n < 200 && health(l2) != 0; n++)
		(void)put(l2, n);
	EXPECT_EQ(health(l2), 0);
}

// By the process's own count, of an index as a full file of 2 MiB frames has it.
TEST(NvmeMemory, AtMostSixtyFourBytesAFrame)
{
	for (uint64_t frame_bytes : {UINT64_C(64) << 10, UINT64_C(2) << 20}) {
		struct kvh_nvme_super super;
		struct kvh_nvme_spaces spaces = {};
		struct kvh_nvme_index index;
		uint32_t pool = 0;
		uint64_t frames = 0;

		ASSERT_EQ(kvh_nvme_super_plan(&super, frame_bytes << 18, 0), 0);
		ASSERT_EQ(kvh_nvme_index_init(&index, &super, &spaces, kvh_order_find("lru")),
			  0);
		const uint32_t c = kvh_nvme_class_get(&index, frame_bytes);

		for (uint32_t s = 0; s < super.segments; s++) {
			kvh_nvme_segment_assign(&index, s, c);
			ASSERT_EQ(kvh_nvme_segment_open(
					  &index, s,
					  kvh_nvme_segment_slots(&index, s, frame_bytes)),
				  0);
		}
		for (uint32_t slot; kvh_nvme_pool_get(&index, c, 1, &pool) == 0 &&
				    (slot = kvh_nvme_slot_take(&index, pool)) != KVH_NVME_NONE;
		     frames++) {
			const struct kvh_key key = make_key(frames);

			(void)kvh_nvme_slot_publish(&index, slot, &key, 0);
		}
		const double each = static_cast<double>(kvh_nvme_index_bytes(&index)) /
				    static_cast<double>(frames);

		EXPECT_GT(frames, 200000u);
		EXPECT_LE(each, 64.0);
		std::printf("frames of %llu KiB: %llu, %.1f bytes of memory each\n",
			    static_cast<unsigned long long>(frame_bytes >> 10),
			    static_cast<unsigned long long>(frames), each);
		RecordProperty("bytes_per_frame", std::to_string(each));
		kvh_nvme_index_fini(&index);
		kvh_nvme_spaces_fini(&spaces);
	}
}

// As after a reset that found no memory: whoever closes ends it once more.
TEST(NvmeMemory, AnIndexCanBeEndedTwice)
{
	struct kvh_nvme_super super;
	struct kvh_nvme_spaces spaces = {};
	struct kvh_nvme_index index;

	ASSERT_EQ(kvh_nvme_super_plan(&super, UINT64_C(16) << 20, 0), 0);
	ASSERT_EQ(kvh_nvme_index_init(&index, &super, &spaces, kvh_order_find("lru")), 0);
	const uint32_t c = kvh_nvme_class_get(&index, kFrame);

	kvh_nvme_segment_assign(&index, 0, c);
	ASSERT_EQ(kvh_nvme_segment_open(&index, 0, 8), 0);
	kvh_nvme_index_fini(&index);
	kvh_nvme_index_fini(&index);
	kvh_nvme_spaces_fini(&spaces);
}

// ---- looking at a file without opening it ----

struct Walk {
	unsigned sound = 0, blank = 0, bad = 0;
	std::vector<uint64_t> offsets;

	void segment(const struct kvh_nvme_inspect *inspect, uint32_t number)
	{
		struct kvh_nvme_segment_info in;
		const Buffer page(4096);
		const char *what = "";

		kvh_nvme_inspect_segment(inspect, number, &in);
		for (uint32_t i = 0; i < in.used; i++) {
			const uint64_t offset = in.offset + i * in.slot_bytes;

			ASSERT_EQ(kvh_nvme_inspect_read(inspect, offset, 4096, page.data()), 0);
			switch (kvh_nvme_inspect_judge(page.data(), in.slot_bytes, &what)) {
			case 0: offsets.push_back(offset), sound++; break;
			case -ENOENT: blank++; break;
			default: bad++; break;
			}
		}
	}
};

TEST_F(NvmeRoom, AFileCanBeLookedAtWhileItIsInUseAndAfterwards)
{
	Adapter l2(spec("check=0"));
	const uint8_t digest[32] = {1};

	for (uint64_t n = 0; n < 30; n++) {
		ASSERT_EQ(put(l2, n), 0);
	}
	ASSERT_EQ(l2.del(make_key(7)), 0);
	for (int closed = 0; closed < 2; closed++) {
		struct kvh_nvme_inspect *inspect;
		struct kvh_nvme_info info;
		Walk walk;

		ASSERT_EQ(kvh_nvme_inspect_open(path().c_str(), &kvh_io_system, nullptr,
						&inspect),
			  0);
		kvh_nvme_inspect_info(inspect, &info);
		EXPECT_EQ(info.version, KVH_NVME_VERSION);
		EXPECT_EQ(info.clean, static_cast<uint32_t>(closed));
		EXPECT_EQ(info.in_use, !closed);
		EXPECT_EQ(info.owner, closed ? 0u : static_cast<uint32_t>(getpid()));
		EXPECT_EQ(info.snapshot_records, closed ? 29u : 0u);
		for (uint32_t s = 0; s < info.segments; s++)
			walk.segment(inspect, s);
		EXPECT_EQ(walk.sound, 29u);
		EXPECT_GE(walk.blank, 1u);
		EXPECT_EQ(walk.bad, 0u);

		const Buffer frame(kFrame);
		const auto *header = reinterpret_cast<struct kvh_frame_header *>(frame.data());

		ASSERT_EQ(kvh_nvme_inspect_read(inspect, walk.offsets[3], kFrame, frame.data()),
			  0);
		EXPECT_EQ(kvh_frame_verify(frame.data(), kFrame, &header->key, digest, nullptr),
			  0);
		kvh_nvme_inspect_close(inspect);
		if (!closed) {
			ASSERT_EQ(l2.close(), 0);
		}
	}
}

TEST_F(NvmeRoom, WhatCannotBeLookedAtIsRefused)
{
	struct kvh_nvme_inspect *inspect;
	Log log;

	EXPECT_EQ(kvh_nvme_inspect_open(path().c_str(), &kvh_io_system, nullptr, &inspect),
		  -ENOENT);
	{
		std::ofstream file(path());
		file << std::string(100000, 'x');
	}
	EXPECT_EQ(kvh_nvme_inspect_open(path().c_str(), &kvh_io_system, nullptr, &inspect),
		  -ENOENT);
	EXPECT_EQ(log.count("No such file"), 1u) << log.text();
	EXPECT_EQ(log.count("no superblock"), 1u) << log.text();
}

} // namespace
} // namespace l2test
