// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_io.h - a table of file operations that fails, shortens, refuses and
// holds what the nvme adapter does, io_uring's results included. For its tests.
#ifndef KVH_TESTS_L2_NVME_IO_H
#define KVH_TESTS_L2_NVME_IO_H

#include "l2/io.h"
#include "l2/nvme_layout.h"
#include "tests/l2_harness.h"

#include <atomic>
#include <condition_variable>
#include <fcntl.h>
#include <mutex>

namespace l2test
{

// Whoever comes waits until it is released. At any time.
class Gate
{
      public:
	void hold()
	{
		std::lock_guard<std::mutex> guard(lock_);
		held_ = true;
	}
	void release()
	{
		std::lock_guard<std::mutex> guard(lock_);
		held_ = false;
		changed_.notify_all();
	}
	void await(unsigned n)
	{
		std::unique_lock<std::mutex> guard(lock_);
		changed_.wait(guard, [&] { return waiting_ >= n; });
	}
	void pass()
	{
		std::unique_lock<std::mutex> guard(lock_);

		if (!held_)
			return;
		waiting_++;
		changed_.notify_all();
		changed_.wait(guard, [&] { return !held_; });
		waiting_--;
	}

      private:
	std::mutex lock_;
	std::condition_variable changed_;
	bool held_ = false;
	unsigned waiting_ = 0;
};

// Set the fields before the adapter is opened, but those that say otherwise.
class FaultIo
{
      public:
	// The n-th read, write or flush (0 is the first) from now fails; -1: none does.
	std::atomic<int64_t> read_at{-1}, write_at{-1}, flush_at{-1};
	std::atomic<bool> for_ever{false}; // all behind it fail, too
	std::atomic<int> error{-EIO};
	std::atomic<int64_t> failed{0}, shortened{0};
	// 1: transfers move a part of their bytes; whole pages only with 4096.
	int shorten = 0;
	int ring = 0;              // what ring_allowed says
	bool no_direct = false;    // O_DIRECT is refused by open
	bool no_direct_io = false; // ... by the transfers
	bool no_fallocate = false;
	Gate reads; // of more than a page

	struct kvh_io_ops ops = {};

	explicit FaultIo(uint32_t seed = 1) : random_(seed)
	{
		ops = kvh_io_system;
		ops.open = [](void *ctx, int dirfd, const char *path, int flags, mode_t mode,
			      int beneath) {
			FaultIo *io = of(ctx);

			if (io->no_direct && (flags & O_DIRECT))
				return -EINVAL;
			if (flags & O_DIRECT)
				io->direct_ = true;
			else if (!(flags & O_CREAT))
				io->direct_ = false;
			return kvh_io_system.open(nullptr, dirfd, path, flags, mode, beneath);
		};
		ops.pread = [](void *ctx, int fd, void *buf, size_t len, off_t off) -> ssize_t {
			FaultIo *io = of(ctx);

			if (const int ret = io->fault(&io->read_at))
				return ret;
			if (len > 4096)
				io->reads.pass();
			return kvh_io_system.pread(nullptr, fd, buf, io->cut(len), off);
		};
		ops.pwrite = [](void *ctx, int fd, const void *buf, size_t len,
				off_t off) -> ssize_t {
			FaultIo *io = of(ctx);

			if (const int ret = io->fault(&io->write_at))
				return ret;
			return kvh_io_system.pwrite(nullptr, fd, buf, io->cut(len), off);
		};
		// None for real: it would only cost the machine's other users.
		ops.fsync = [](void *ctx, int, int) {
			return of(ctx)->fault(&of(ctx)->flush_at);
		};
		ops.fallocate = [](void *ctx, int fd, int mode, off_t off, off_t len) {
			if (of(ctx)->no_fallocate)
				return -EOPNOTSUPP;
			return kvh_io_system.fallocate(nullptr, fd, mode, off, len);
		};
		ops.ring_allowed = [](void *ctx) { return of(ctx)->ring; };
		// Half of the faults before the kernel had it, half behind.
		ops.submitting = [](void *ctx, enum kvh_io_dir dir, int, const void *, size_t,
				    off_t) {
			FaultIo *io = of(ctx);

			io->late_ = io->fault(dir == KVH_IO_READ ? &io->read_at
								 : &io->write_at);
			if (io->late_ != 0 && (io->failed & 1)) {
				const int ret = io->late_;

				io->late_ = 0;
				return ret;
			}
			return 0;
		};
		ops.completed = [](void *ctx, enum kvh_io_dir, int, void *, size_t, off_t,
				   int res) {
			FaultIo *io = of(ctx);
			const int late = io->late_;

			io->late_ = 0;
			if (late != 0)
				return late;
			return res > 0 ? static_cast<int>(io->cut(static_cast<size_t>(res)))
				       : res;
		};
	}

      private:
	static FaultIo *of(void *ctx)
	{
		return static_cast<FaultIo *>(ctx);
	}
	int fault(std::atomic<int64_t> *at_p)
	{
		std::atomic<int64_t> &at = *at_p;

		if (no_direct_io && direct_ && at_p != &flush_at)
			return -EINVAL;
		if (at < 0)
			return 0;
		if (at > 0) {
			at--;
			return 0;
		}
		if (!for_ever)
			at = -1;
		failed++;
		return error;
	}
	size_t cut(size_t len)
	{
		std::lock_guard<std::mutex> guard(lock_);

		if (shorten == 0 || len <= static_cast<size_t>(shorten) || random_() % 2)
			return len;

		shortened++;
		const size_t part = 1 + random_() % (len - 1);
		const size_t step = static_cast<size_t>(shorten);

		return part < step ? step : part / step * step;
	}
	std::mutex lock_; // of random_
	std::atomic<bool> direct_{false};
	int late_ = 0; // of the ring, whose hooks one thread calls
	std::mt19937_64 random_;
};

// What a read of a frame has to give: 0 and the bytes, or a miss.
inline void expect_frame_or_miss(Adapter &l2, const struct kvh_key &key, const Buffer &frame)
{
	const Buffer into(frame.size());
	const int status = l2.get(key, into);

	EXPECT_TRUE(status == 0 || status == -ENOENT || status == -EIO) << strerror(-status);
	if (status == 0) {
		EXPECT_TRUE(into == frame);
	}
}

// What the two engines have in common is tested with both.
class Nvme : public ::testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		if (std::string(GetParam()) == "uring" && !uring_works())
			GTEST_SKIP() << "io_uring is refused here";
	}
	std::string path() const
	{
		return dir_.path() + "/l2";
	}
	// Without the look after its files, which would take injected faults.
	std::string spec(const std::string &more = "size=16M") const
	{
		return "nvme:" + path() + ",check=0,engine=" + GetParam() +
		       (more.empty() ? "" : "," + more);
	}
	// As it is after a crash: the headers have to be read.
	void unclose() const
	{
		for (uint64_t copy = 0; copy < 2; copy++) {
			struct kvh_nvme_super super;

			peek(copy * 4096, &super, sizeof(super));
			if (kvh_nvme_super_check(&super) < 0)
				continue;
			super.clean = 0;
			super.snapshot = 0;
			kvh_nvme_super_seal(&super);
			poke(copy * 4096, &super, sizeof(super));
		}
	}
	// The file's own bytes.
	void poke(uint64_t off, const void *bytes, size_t len) const
	{
		const int fd = ::open(path().c_str(), O_WRONLY | O_CLOEXEC);

		ASSERT_EQ(pwrite(fd, bytes, len, static_cast<off_t>(off)),
			  static_cast<ssize_t>(len));
		::close(fd);
	}
	void peek(uint64_t off, void *bytes, size_t len) const
	{
		const int fd = ::open(path().c_str(), O_RDONLY | O_CLOEXEC);

		ASSERT_EQ(pread(fd, bytes, len, static_cast<off_t>(off)),
			  static_cast<ssize_t>(len));
		::close(fd);
	}

      private:
	Dir dir_;
};

} // namespace l2test

#endif
