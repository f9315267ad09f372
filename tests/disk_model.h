// SPDX-License-Identifier: Apache-2.0
//
// disk_model.h - a disk in memory below the table of file operations, with a
// volatile cache: it logs each write, hole, length and flush, and with the log makes
// the image that a power cut at any moment may have left. Any thread, io_uring's
// transfers included. Files are memfds: locks and rings work on them.
#ifndef KVH_TESTS_DISK_MODEL_H
#define KVH_TESTS_DISK_MODEL_H

#include "l2/io.h"
#include "tests/disk_log.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <linux/falloc.h>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace l2test
{

class DiskModel
{
      public:
	explicit DiskModel(const Image &image = {}) : base_(image)
	{
		for (const auto &[name, bytes] : image) {
			const int fd = make(name);

			if (ftruncate(fd, static_cast<off_t>(bytes.size())) != 0 ||
			    !put(fd, bytes.data(), bytes.size(), 0))
				abort();
		}
	}
	~DiskModel()
	{
		for (const auto &[name, fd] : files_)
			::close(fd);
	}
	DiskModel(const DiskModel &) = delete;
	DiskModel &operator=(const DiskModel &) = delete;

	static const struct kvh_io_ops *ops()
	{
		static const struct kvh_io_ops table = make_table();

		return &table;
	}

	// ---- switches: while nothing runs ----

	bool logs = true;
	// A disk that says so and has not: the controls' own.
	bool ignores_flushes = false;
	bool drops_zeros = false; // writes of nothing but zeros, and holes
	int ring = 0;             // what ring_allowed says

	// The n-th flush from now, from 1, fails. What it should have held is not held
	// by later ones either: the kernel says so once, and forgets.
	void fail_flush(uint64_t n)
	{
		fail_flush_ = n;
	}

	// Where the process dies: at the n-th call that changes something, from 1.
	enum Death { kBefore, kTorn, kAfter };
	void die_at(uint64_t n, Death how)
	{
		die_at_ = n;
		death_ = how;
	}

	// ---- what happened ----

	// A new moment, later than all before.
	uint64_t moment()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return ++moment_;
	}
	uint64_t changes()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return changes_;
	}
	uint64_t flushes()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return flushes_;
	}
	uint64_t failed_flushes()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return failed_flushes_;
	}
	size_t open_fds()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return open_.size();
	}

	// What is there now.
	Image image()
	{
		std::lock_guard<std::mutex> guard(lock_);
		Image now;

		for (const auto &[name, fd] : files_) {
			std::vector<uint8_t> &bytes = now[name];

			bytes.resize(static_cast<size_t>(lseek(fd, 0, SEEK_END)));
			if (pread(fd, bytes.data(), bytes.size(), 0) !=
			    static_cast<ssize_t>(bytes.size()))
				abort();
		}
		return now;
	}

	// Changes bytes below whoever has the file open.
	void poke(const std::string &name, uint64_t off, const void *bytes, size_t len)
	{
		std::lock_guard<std::mutex> guard(lock_);

		if (!put(files_.at(name), bytes, len, off))
			abort();
	}

	// What a power cut at the moment leaves; `random` says what of the rest.
	Image cut(uint64_t at, std::mt19937_64 &random)
	{
		std::lock_guard<std::mutex> guard(lock_);

		return log_.cut(base_, at, random);
	}

      private:
	struct Opened {
		std::string name;
		bool direct, through;
	};
	// ---- the log ----

	// The index of a new event, or SIZE_MAX where none is kept.
	size_t begin(DiskEvent::Kind kind, int fd, const void *data, uint64_t len, uint64_t off)
	{
		std::lock_guard<std::mutex> guard(lock_);
		const auto at = open_.find(fd);

		if (!logs || at == open_.end())
			return SIZE_MAX;
		DiskEvent event = {kind, at->second.name,    off,       len,
				   {},   at->second.through, ++moment_, DiskLog::kNever};
		if (kind == DiskEvent::kWrite)
			event.data.assign(static_cast<const uint8_t *>(data),
					  static_cast<const uint8_t *>(data) + len);
		log_.events.push_back(std::move(event));
		return log_.events.size() - 1;
	}
	// `moved`: so many bytes of it were written.
	void end(size_t event, uint64_t moved)
	{
		std::lock_guard<std::mutex> guard(lock_);

		if (event == SIZE_MAX)
			return;
		log_.events[event].len = std::min(log_.events[event].len, moved);
		log_.events[event].end = ++moment_;
	}
	void failed(size_t event)
	{
		std::lock_guard<std::mutex> guard(lock_);

		if (event != SIZE_MAX)
			log_.events[event].begin = DiskLog::kNever;
	}

	bool flush_fails()
	{
		std::lock_guard<std::mutex> guard(lock_);

		if (fail_flush_ == 0 || --fail_flush_ > 0)
			return false;
		failed_flushes_++;
		log_.forget();
		return true;
	}

	// ---- death ----

	bool dies_now()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return ++changes_ == die_at_;
	}
	[[noreturn]] static void die()
	{
		kill(getpid(), SIGKILL);
		for (;;)
			pause();
	}

	// ---- files ----

	int make(const std::string &name)
	{
		const int fd = memfd_create(name.c_str(), MFD_CLOEXEC);

		if (fd < 0)
			abort();
		files_[name] = fd;
		return fd;
	}
	static bool put(int fd, const void *buf, size_t len, uint64_t off)
	{
		const char *bytes = static_cast<const char *>(buf);

		while (len > 0) {
			const ssize_t n = pwrite(fd, bytes, len, static_cast<off_t>(off));

			if (n <= 0)
				return false;
			bytes += n;
			off += static_cast<uint64_t>(n);
			len -= static_cast<size_t>(n);
		}
		return true;
	}
	static bool all_zero(const void *buf, size_t len)
	{
		const char *bytes = static_cast<const char *>(buf);

		return len > 0 && bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0;
	}
	// As a strict disk has it.
	int check(int fd, const void *buf, size_t len, off_t off)
	{
		std::lock_guard<std::mutex> guard(lock_);
		const auto at = open_.find(fd);
		const uint64_t bits = reinterpret_cast<uintptr_t>(buf) | len |
				      static_cast<uint64_t>(off);

		return at != open_.end() && at->second.direct && bits % 512 != 0 ? -EINVAL : 0;
	}

	// ---- the table ----

	static DiskModel *of(void *ctx)
	{
		return static_cast<DiskModel *>(ctx);
	}
	static int do_open(void *ctx, int dirfd, const char *path, int flags, mode_t mode,
			   int beneath)
	{
		DiskModel *disk = of(ctx);
		std::lock_guard<std::mutex> guard(disk->lock_);
		const auto at = disk->files_.find(path);
		int fd;

		if ((flags & O_DIRECTORY) != 0)
			return kvh_io_system.open(nullptr, AT_FDCWD, "/", O_RDONLY, 0, 0);
		if (at == disk->files_.end() && (flags & O_CREAT) == 0)
			return -ENOENT;
		if (at != disk->files_.end() && (flags & O_CREAT) && (flags & O_EXCL))
			return -EEXIST;
		(void)dirfd, (void)mode, (void)beneath;
		fd = at == disk->files_.end() ? disk->make(path) : at->second;
		fd = ::open(("/proc/self/fd/" + std::to_string(fd)).c_str(),
			    (flags & (O_ACCMODE | O_TRUNC)) | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		disk->open_[fd] = {path, (flags & O_DIRECT) != 0, (flags & O_DSYNC) != 0};
		return fd;
	}
	static int do_close(void *ctx, int fd)
	{
		DiskModel *disk = of(ctx);

		{
			std::lock_guard<std::mutex> guard(disk->lock_);
			disk->open_.erase(fd);
		}
		return kvh_io_system.close(nullptr, fd);
	}
	static ssize_t do_pread(void *ctx, int fd, void *buf, size_t len, off_t off)
	{
		const int ret = of(ctx)->check(fd, buf, len, off);

		return ret < 0 ? ret : kvh_io_system.pread(nullptr, fd, buf, len, off);
	}
	static ssize_t do_pwrite(void *ctx, int fd, const void *buf, size_t len, off_t off)
	{
		DiskModel *disk = of(ctx);
		const int ret = disk->check(fd, buf, len, off);

		if (ret < 0)
			return ret;
		if (disk->drops_zeros && all_zero(buf, len))
			return static_cast<ssize_t>(len);
		const bool dies = disk->dies_now();
		if (dies && disk->death_ == kBefore)
			die();
		if (dies && disk->death_ == kTorn) {
			(void)kvh_io_system.pwrite(nullptr, fd, buf, len / 1024 * 512, off);
			die();
		}
		const size_t event = disk->begin(DiskEvent::kWrite, fd, buf, len,
						 static_cast<uint64_t>(off));
		const ssize_t n = kvh_io_system.pwrite(nullptr, fd, buf, len, off);
		disk->end(event, n < 0 ? 0 : static_cast<uint64_t>(n));
		if (dies)
			die();
		return n;
	}
	static int do_fsync(void *ctx, int fd, int data_only)
	{
		DiskModel *disk = of(ctx);
		const bool dies = disk->dies_now();

		if (dies && disk->death_ != kAfter)
			die();
		if (disk->flush_fails())
			return -EIO;
		if (!disk->ignores_flushes) {
			const size_t event = disk->begin(DiskEvent::kFlush, fd, nullptr, 0, 0);

			disk->end(event, 0);
		}
		(void)data_only;
		if (dies)
			die();
		std::lock_guard<std::mutex> guard(disk->lock_);
		disk->flushes_++;
		return 0;
	}
	static int do_fallocate(void *ctx, int fd, int mode, off_t off, off_t len)
	{
		DiskModel *disk = of(ctx);
		const bool zero = (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0;
		const uint64_t from = static_cast<uint64_t>(off);
		const uint64_t bytes = static_cast<uint64_t>(len);

		if (zero && disk->drops_zeros)
			return 0;
		if (!zero && (mode & FALLOC_FL_KEEP_SIZE) != 0) // room alone
			return kvh_io_system.fallocate(nullptr, fd, mode, off, len);
		const bool dies = disk->dies_now();
		if (dies && disk->death_ != kAfter)
			die();
		const size_t event = zero ? disk->begin(DiskEvent::kZero, fd, nullptr, bytes,
							from)
					  : disk->begin(DiskEvent::kResize, fd, nullptr,
							from + bytes, 0);
		const int ret = kvh_io_system.fallocate(nullptr, fd, mode, off, len);
		if (ret < 0)
			disk->failed(event);
		disk->end(event, UINT64_MAX);
		if (dies)
			die();
		return ret;
	}
	static int do_ftruncate(void *ctx, int fd, off_t len)
	{
		DiskModel *disk = of(ctx);
		const bool dies = disk->dies_now();

		if (dies && disk->death_ != kAfter)
			die();
		const size_t event = disk->begin(DiskEvent::kResize, fd, nullptr,
						 static_cast<uint64_t>(len), 0);
		const int ret = kvh_io_system.ftruncate(nullptr, fd, len);
		disk->end(event, UINT64_MAX);
		if (dies)
			die();
		return ret;
	}
	static int do_unlink(void *ctx, int, const char *path)
	{
		DiskModel *disk = of(ctx);
		std::lock_guard<std::mutex> guard(disk->lock_);
		const auto at = disk->files_.find(path);

		if (at == disk->files_.end())
			return -ENOENT;
		::close(at->second);
		disk->files_.erase(at);
		return 0;
	}
	static int do_ring_allowed(void *ctx)
	{
		return of(ctx)->ring;
	}
	static int do_submitting(void *ctx, enum kvh_io_dir dir, int fd, const void *buf,
				 size_t len, off_t off)
	{
		DiskModel *disk = of(ctx);
		const int ret = disk->check(fd, buf, len, off);

		if (ret < 0 || dir == KVH_IO_READ)
			return ret;
		const bool dies = disk->dies_now();
		if (dies && disk->death_ == kBefore)
			die();
		const size_t event = disk->begin(DiskEvent::kWrite, fd, buf, len,
						 static_cast<uint64_t>(off));
		std::lock_guard<std::mutex> guard(disk->lock_);
		disk->on_ring_[{buf, off}] = {event, dies};
		return 0;
	}
	static int do_completed(void *ctx, enum kvh_io_dir dir, int, void *buf, size_t,
				off_t off, int res)
	{
		DiskModel *disk = of(ctx);
		std::pair<size_t, bool> was;

		if (dir == KVH_IO_READ)
			return res;
		{
			std::lock_guard<std::mutex> guard(disk->lock_);
			was = disk->on_ring_[{buf, off}];
			disk->on_ring_.erase({buf, off});
		}
		disk->end(was.first, res < 0 ? 0 : static_cast<uint64_t>(res));
		if (was.second)
			die();
		return res;
	}

	// What this does not know of goes to the system: on memfds, which are there.
	static struct kvh_io_ops make_table()
	{
		struct kvh_io_ops table = kvh_io_system;

		table.open = do_open;
		table.close = do_close;
		table.pread = do_pread;
		table.pwrite = do_pwrite;
		table.fsync = do_fsync;
		table.fallocate = do_fallocate;
		table.ftruncate = do_ftruncate;
		table.unlink = do_unlink;
		table.ring_allowed = do_ring_allowed;
		table.submitting = do_submitting;
		table.completed = do_completed;
		return table;
	}

	std::mutex lock_;
	const Image base_;
	std::map<std::string, int> files_;
	std::map<int, Opened> open_;
	DiskLog log_;
	std::map<std::pair<const void *, off_t>, std::pair<size_t, bool>> on_ring_;
	uint64_t moment_ = 0, changes_ = 0, flushes_ = 0, die_at_ = 0;
	uint64_t fail_flush_ = 0, failed_flushes_ = 0;
	Death death_ = kBefore;
};

} // namespace l2test

#endif
