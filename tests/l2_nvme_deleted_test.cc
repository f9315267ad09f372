// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_deleted_test.cc - what was deleted stays away, also after a crash, though
// a frame of the key is still on the medium when the DELETE or CLEAR comes: its slot
// could not be wiped, is being written over, or is read; its segment is to be cleared.
// A crash is a copy of the file while it is open.
#include "tests/l2_nvme_io.h"

namespace l2test
{
namespace
{

// Wipes fail, or wait until released. A wipe is a page of zeros.
class WipeIo
{
      public:
	struct kvh_io_ops ops = kvh_io_system;
	std::atomic<bool> wipes_fail{false};
	std::atomic<int> frames_fail{0}; // so many writes of frames do
	std::atomic<unsigned> wipes{0}, writes{0};

	WipeIo()
	{
		// What is over the ring fails before the kernel has it.
		ops.submitting = [](void *ctx, enum kvh_io_dir dir, int, const void *buf,
				    size_t len, off_t) {
			return dir == KVH_IO_WRITE ? of(ctx)->judge(buf, len) : 0;
		};
		ops.pwrite = [](void *ctx, int fd, const void *buf, size_t len,
				off_t off) -> ssize_t {
			const int ret = of(ctx)->judge(buf, len);

			return ret < 0 ? ret : kvh_io_system.pwrite(nullptr, fd, buf, len, off);
		};
		ops.pread = [](void *ctx, int fd, void *buf, size_t len, off_t off) -> ssize_t {
			if (len > 4096)
				of(ctx)->reads.pass();
			return kvh_io_system.pread(nullptr, fd, buf, len, off);
		};
	}
	Gate reads, wipe_gate; // of frames; threads engine only

      private:
	static WipeIo *of(void *ctx)
	{
		return static_cast<WipeIo *>(ctx);
	}
	int judge(const void *buf, size_t len)
	{
		static const char zeros[4096] = {};

		writes++;
		if (len == 4096 && memcmp(buf, zeros, len) == 0) {
			wipes++;
			wipe_gate.pass();
			return wipes_fail ? -EIO : 0;
		}
		return len > 4096 && frames_fail.fetch_sub(1) > 0 ? -EIO : 0;
	}
};

class Deleted : public Nvme
{
      protected:
	void SetUp() override
	{
		Nvme::SetUp();
		io.frames_fail = 0;
	}
	static Buffer frame(uint64_t k, uint64_t version = 0, uint64_t payload = 100000)
	{
		return make_frame(make_key(k), payload, version);
	}
	static int put(Adapter &l2, uint64_t k, uint64_t version = 0)
	{
		return l2.put(make_key(k), frame(k, version));
	}
	static int clear(Adapter &l2)
	{
		struct kvh_l2_req req = make_req(KVH_L2_CLEAR, make_key(0));

		return l2.run(&req);
	}
	// What would be found under the key if the process died now.
	int64_t after_crash(uint64_t k) const
	{
		const std::string copy = path() + ".copy";

		std::filesystem::copy_file(path(), copy,
					   std::filesystem::copy_options::overwrite_existing);
		Adapter l2("nvme:" + copy);
		EXPECT_EQ(l2.error(), 0);
		return l2.probe(make_key(k));
	}
	// All that can go on without what is held has.
	static std::vector<struct kvh_l2_req *> settle(Adapter &l2)
	{
		std::vector<struct kvh_l2_req *> all;

		while (l2.readable(50))
			for (struct kvh_l2_req *req : l2.reap())
				all.push_back(req);
		return all;
	}
	// It is replaced, and the slot of the old frame cannot be wiped.
	void leave_behind(Adapter &l2, uint64_t k)
	{
		ASSERT_EQ(put(l2, k, 1), 0);
		io.wipes_fail = true;
		ASSERT_EQ(put(l2, k, 2), 0);
		io.wipes_fail = false;
	}

	WipeIo io;
};

TEST_P(Deleted, ASlotThatCouldNotBeWipedIsWipedByTheDelete)
{
	Log log;
	Adapter l2(spec(), &io.ops, &io);
	ASSERT_EQ(l2.error(), 0);

	leave_behind(l2, 1);
	EXPECT_EQ(log.count("set aside"), 1u) << log.text();
	EXPECT_EQ(l2.del(make_key(1)), 0);
	EXPECT_EQ(after_crash(1), -ENOENT);
	EXPECT_EQ(l2.usage().used_bytes, 0u);
}

// The control: as it is without being wiped again, the old one is there.
TEST_P(Deleted, ControlWithoutTheDeleteAnOldFrameIsLeft)
{
	Log log;
	Adapter l2(spec(), &io.ops, &io);
	ASSERT_EQ(l2.error(), 0);

	leave_behind(l2, 1);
	io.wipes_fail = true;
	EXPECT_EQ(l2.del(make_key(1)), -EIO) << "it may come back, and says so";
	EXPECT_EQ(l2.probe(make_key(1)), -ENOENT) << "not before a crash";
	EXPECT_GT(after_crash(1), 0);
	EXPECT_EQ(l2.del(make_key(1)), -EIO) << "still";
	io.wipes_fail = false;
	EXPECT_EQ(l2.del(make_key(1)), -ENOENT);
	EXPECT_EQ(after_crash(1), -ENOENT);
}

TEST_P(Deleted, AClearWipesWhatCouldNotBeWipedBefore)
{
	Log log;
	Adapter l2(spec(), &io.ops, &io);
	ASSERT_EQ(l2.error(), 0);

	leave_behind(l2, 1);
	io.wipes_fail = true;
	EXPECT_EQ(clear(l2), -EIO);
	EXPECT_GT(after_crash(1), 0) << "control";
	io.wipes_fail = false;
	EXPECT_EQ(clear(l2), 0);
	EXPECT_EQ(after_crash(1), -ENOENT);
}

// From a snapshot its slot would be free, and a crash after that one find it.
TEST_P(Deleted, ACleanCloseForgetsNoSlotThatCouldNotBeWiped)
{
	for (const bool heals : {true, false}) {
		Log log;

		std::filesystem::remove(path());
		{
			Adapter l2(spec(), &io.ops, &io);

			ASSERT_EQ(l2.error(), 0);
			leave_behind(l2, 1);
			io.wipes_fail = !heals;
		}
		EXPECT_EQ(log.count("the next open reads"), heals ? 0u : 1u) << log.text();
		io.wipes_fail = false;
		Adapter l2(spec(), &io.ops, &io);

		ASSERT_EQ(l2.error(), 0);
		EXPECT_EQ(l2.usage().objects, 1u);
		EXPECT_EQ(l2.del(make_key(1)), 0);
		EXPECT_EQ(after_crash(1), -ENOENT);
	}
}

TEST_P(Deleted, BadSlotsAreWipedWhenTheDiskWritesAgainAndSaidSeldom)
{
	Log log;
	Adapter l2(spec(), &io.ops, &io);
	ASSERT_EQ(l2.error(), 0);

	leave_behind(l2, 1);
	io.wipes_fail = true;
	for (uint64_t i = 0; i < 640; i++) // every 64th tries it again
		ASSERT_EQ(put(l2, 100 + i), 0);
	EXPECT_LE(log.count("cannot be wiped"), 5u) << log.text();
	io.wipes_fail = false;
	const unsigned before = io.wipes;
	for (uint64_t i = 0; i < 64; i++)
		ASSERT_EQ(put(l2, 1000 + i), 0);
	(void)settle(l2);
	EXPECT_EQ(io.wipes, before + 1);
}

INSTANTIATE_TEST_SUITE_P(Engines, Deleted, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

// ---- with what is held: the threads engine ----

class DeletedHeld : public Deleted
{
      protected:
	// A GET of key 1 is held, and a DELETE, or a CLEAR, or both wait behind it.
	struct Behind {
		explicit Behind(Adapter &l2, WipeIo &io) : l2_(l2)
		{
			EXPECT_EQ(l2.error(), 0);
			EXPECT_EQ(put(l2, 1), 0);
			io.reads.hold();
			EXPECT_EQ(l2.submit(&get), 0);
			io.reads.await(1);
		}
		void submit(struct kvh_l2_req &req)
		{
			EXPECT_EQ(l2_.submit(&req), 0);
			EXPECT_TRUE(settle(l2_).empty());
		}
		void wait()
		{
			ASSERT_EQ(l2_.wait(3).size(), 3u);
		}

		const Buffer into{frame(1).size()};
		struct kvh_l2_req get = make_req(KVH_L2_GET, make_key(1), into.data(),
						 into.size());
		struct kvh_l2_req del = make_req(KVH_L2_DELETE, make_key(1));
		struct kvh_l2_req all = make_req(KVH_L2_CLEAR, make_key(1));

	      private:
		Adapter &l2_;
	};
};

// A failed PUT had taken the slot of an evicted frame, of which nothing was
// written over: until it is wiped, the frame is there.
TEST_P(DeletedHeld, ADeleteWaitsForTheWipeOfASlotThatGaveWay)
{
	Adapter l2(spec("size=1M"), &io.ops, &io);
	uint64_t n = 0;
	ASSERT_EQ(l2.error(), 0);

	for (; l2.usage().evicted == 0; n++)
		ASSERT_EQ(put(l2, n), 0);
	const Buffer other = frame(1000);
	struct kvh_l2_req fails = make_req(KVH_L2_PUT, make_key(1000), other.data(),
					   other.size());
	struct kvh_l2_req del = make_req(KVH_L2_DELETE, make_key(1)); // the oldest now

	io.frames_fail = 1;
	io.wipe_gate.hold();
	ASSERT_EQ(l2.submit(&fails), 0);
	while (l2.usage().evicted != 2)
		(void)l2.reap();
	(void)settle(l2);
	io.wipe_gate.await(1);
	EXPECT_GT(after_crash(1), 0) << "control: it is there";
	ASSERT_EQ(l2.submit(&del), 0);
	EXPECT_TRUE(settle(l2).empty()) << "it has ended while a crash brings the frame back";
	io.wipe_gate.release();
	ASSERT_EQ(l2.wait(2).size(), 2u);
	EXPECT_LT(fails.status, 0);
	EXPECT_EQ(del.status, -ENOENT);
	EXPECT_EQ(after_crash(1), -ENOENT);
}

TEST_P(DeletedHeld, AClearWaitsForADeleteThatWaitsForAGet)
{
	Adapter l2(spec(), &io.ops, &io);
	Behind behind(l2, io);

	behind.submit(behind.del);
	behind.submit(behind.all);
	EXPECT_GT(after_crash(1), 0) << "control: it is there";
	io.reads.release();
	behind.wait();
	EXPECT_EQ(behind.del.status, 0);
	EXPECT_EQ(behind.all.status, 0);
	EXPECT_EQ(after_crash(1), -ENOENT);
}

TEST_P(DeletedHeld, AClearFailsWithTheDeleteThatCouldNotWipe)
{
	Log log;
	Adapter l2(spec(), &io.ops, &io);
	Behind behind(l2, io);

	behind.submit(behind.del);
	behind.submit(behind.all);
	io.wipes_fail = true;
	io.reads.release();
	behind.wait();
	EXPECT_EQ(behind.del.status, -EIO);
	EXPECT_EQ(behind.all.status, -EIO);
	EXPECT_GT(after_crash(1), 0) << "control: it comes back";
	io.wipes_fail = false;
	EXPECT_EQ(clear(l2), 0);
	EXPECT_EQ(after_crash(1), -ENOENT);
}

// And the other way round: what a CLEAR took is read.
TEST_P(DeletedHeld, ADeleteWaitsForAClearThatWaitsForAGet)
{
	Adapter l2(spec(), &io.ops, &io);
	Behind behind(l2, io);

	behind.submit(behind.all);
	behind.submit(behind.del);
	io.reads.release();
	behind.wait();
	EXPECT_EQ(behind.del.status, -ENOENT);
	EXPECT_EQ(behind.all.status, 0);
	EXPECT_EQ(after_crash(1), -ENOENT);
}

// All segments are read, so one is emptied for a PUT of a new size, which then does
// not come: what was in it is evicted, and on the medium as before.
TEST_P(DeletedHeld, ASegmentThatWasEmptiedForNobodyIsTakenOutOfTheTable)
{
	Adapter l2(spec("size=2M,depth=64,threads=64"), &io.ops, &io);
	uint64_t n = 0;
	ASSERT_EQ(l2.error(), 0);

	for (; l2.usage().evicted == 0; n++)
		ASSERT_EQ(put(l2, n), 0);
	// The first half of them is read: one of each segment.
	std::vector<Buffer> buffers;
	std::vector<struct kvh_l2_req> gets;
	for (uint64_t k = 2; k < n; k += 2) {
		buffers.emplace_back(frame(k).size());
		gets.push_back(make_req(KVH_L2_GET, make_key(k), buffers.back().data(),
					buffers.back().size()));
	}
	io.reads.hold();
	for (struct kvh_l2_req &get : gets)
		ASSERT_EQ(l2.submit(&get), 0);
	io.reads.await(static_cast<unsigned>(gets.size()));
	const Buffer other = frame(1000, 0, 30000);
	struct kvh_l2_req waits = make_req(KVH_L2_PUT, make_key(1000), other.data(),
					   other.size());
	ASSERT_EQ(l2.submit(&waits), 0);
	(void)settle(l2);
	uint64_t gone = 0;
	for (uint64_t k = 1; k < n && gone == 0; k += 2)
		gone = l2.probe(make_key(k)) < 0 ? k : 0;
	ASSERT_NE(gone, 0u) << "control: nothing gave way";
	l2.ops()->cancel(l2.self(), &waits);
	EXPECT_EQ(settle(l2).size(), 1u);
	EXPECT_EQ(waits.status, -ECANCELED);
	EXPECT_GT(after_crash(gone), 0) << "control: it is there";
	struct kvh_l2_req del = make_req(KVH_L2_DELETE, make_key(gone));
	ASSERT_EQ(l2.submit(&del), 0);
	EXPECT_TRUE(settle(l2).empty());
	io.reads.release();
	ASSERT_EQ(l2.wait(gets.size() + 1).size(), gets.size() + 1);
	EXPECT_EQ(del.status, -ENOENT);
	EXPECT_EQ(after_crash(gone), -ENOENT);
}

INSTANTIATE_TEST_SUITE_P(Engines, DeletedHeld, ::testing::Values("threads"),
			 [](const auto &info) { return std::string(info.param); });

} // namespace
} // namespace l2test
