// SPDX-License-Identifier: Apache-2.0
//
// io_fault.h - the table of file operations with a seeded layer in between:
// fails the n-th call of a kind, cuts transfers short, refuses O_DIRECT, holds
// calls until told, and remembers what was opened. Any thread.
#ifndef KVH_TESTS_IO_FAULT_H
#define KVH_TESTS_IO_FAULT_H

#include "l2/io.h"

#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <vector>

namespace iofault
{

enum Call {
	kOpen,
	kClose,
	kPread,
	kPwrite,
	kFsync,
	kFallocate,
	kFtruncate,
	kFstat,
	kFstatvfs,
	kMkdir,
	kRename,
	kUnlink,
	kGetdents,
	kLock,
	kCalls
};

constexpr uint64_t kForEver = UINT64_MAX;

struct Opened {
	int dirfd;
	std::string path;
	int flags;
	bool beneath;
};

class IoFault
{
      public:
	explicit IoFault(uint32_t seed = 1) : random_(seed)
	{
	}
	IoFault(const IoFault &) = delete;
	IoFault &operator=(const IoFault &) = delete;

	static const struct kvh_io_ops *ops()
	{
		return &kTable;
	}

	// The calls nth .. nth+count-1 from now on (nth from 1) end with `error`.
	void fail(Call call, int error, uint64_t nth = 1, uint64_t count = kForEver)
	{
		std::lock_guard<std::mutex> guard(lock_);

		rules_[call] = {error, calls_[call] + nth, count};
	}
	// Of transfers, one in `one_in` moves only 1 .. len-1 bytes.
	void shorten(unsigned one_in)
	{
		std::lock_guard<std::mutex> guard(lock_);

		shorten_ = one_in;
	}
	enum Direct { kAllowed, kRefusedAtOpen, kRefusedAtTransfer };
	void set_direct(Direct direct)
	{
		std::lock_guard<std::mutex> guard(lock_);

		direct_ = direct;
	}
	void clear()
	{
		std::lock_guard<std::mutex> guard(lock_);

		rules_.clear();
		shorten_ = 0;
		direct_ = kAllowed;
	}
	// Calls of this kind stand still until release.
	void hold(Call call)
	{
		std::lock_guard<std::mutex> guard(lock_);

		held_call_ = call;
	}
	void wait_held(unsigned n)
	{
		std::unique_lock<std::mutex> guard(lock_);

		changed_.wait(guard, [&] { return held_ >= n; });
	}
	void release()
	{
		std::lock_guard<std::mutex> guard(lock_);

		held_call_ = kCalls;
		changed_.notify_all();
	}

	uint64_t calls(Call call)
	{
		std::lock_guard<std::mutex> guard(lock_);

		return calls_[call];
	}
	uint64_t injected()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return injected_;
	}
	uint64_t data_syncs()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return data_syncs_;
	}
	std::vector<Opened> opened()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return opened_;
	}
	size_t open_fds()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return flags_.size();
	}

      private:
	struct Rule {
		int error;
		uint64_t nth, count;
	};

	// 0, or the error that the call is to end with.
	int enter(Call call)
	{
		std::unique_lock<std::mutex> guard(lock_);
		const uint64_t n = ++calls_[call];

		if (held_call_ == call) {
			held_++;
			changed_.notify_all();
			changed_.wait(guard, [&] { return held_call_ != call; });
			held_--;
		}
		const auto rule = rules_.find(call);
		if (rule == rules_.end() || n < rule->second.nth ||
		    n - rule->second.nth >= rule->second.count)
			return 0;
		injected_++;
		return rule->second.error;
	}
	int transfer(int fd, off_t off, const void *buf, size_t *len)
	{
		std::lock_guard<std::mutex> guard(lock_);
		const bool direct = flags_.count(fd) > 0 && (flags_[fd] & O_DIRECT) != 0;
		const uint64_t bits = reinterpret_cast<uintptr_t>(buf) | *len |
				      static_cast<uint64_t>(off);

		// As a strict disk has it, wherever the test's directory lies.
		if (direct && (direct_ == kRefusedAtTransfer || bits % 512 != 0)) {
			injected_++;
			return -EINVAL;
		}
		if (shorten_ > 0 && *len > 1 && random_() % shorten_ == 0) {
			injected_++;
			*len = 1 + random_() % (*len - 1);
		}
		return 0;
	}

	static IoFault *self(void *ctx)
	{
		return static_cast<IoFault *>(ctx);
	}
	static int do_open(void *ctx, int dirfd, const char *path, int flags, mode_t mode,
			   int beneath)
	{
		IoFault *io = self(ctx);
		const int error = io->enter(kOpen);

		if (error != 0)
			return error;
		{
			std::lock_guard<std::mutex> guard(io->lock_);

			io->opened_.push_back({dirfd, path, flags, beneath != 0});
			if ((flags & O_DIRECT) != 0 && io->direct_ == kRefusedAtOpen) {
				io->injected_++;
				return refuse_direct(dirfd, path, flags, mode, beneath);
			}
		}
		const int fd = kvh_io_system.open(nullptr, dirfd, path, flags, mode, beneath);
		std::lock_guard<std::mutex> guard(io->lock_);

		if (fd >= 0)
			io->flags_[fd] = flags;
		return fd;
	}
	// As the kernel does: a file to be made is made before it is refused.
	static int refuse_direct(int dirfd, const char *path, int flags, mode_t mode,
				 int beneath)
	{
		const int fd = kvh_io_system.open(nullptr, dirfd, path, flags & ~O_DIRECT, mode,
						  beneath);

		if (fd < 0)
			return fd;
		kvh_io_system.close(nullptr, fd);
		return -EINVAL;
	}
	// As the kernel does: the number is free, whatever close says.
	static int do_close(void *ctx, int fd)
	{
		IoFault *io = self(ctx);
		const int error = io->enter(kClose);

		{
			std::lock_guard<std::mutex> guard(io->lock_);

			io->flags_.erase(fd);
		}
		const int ret = kvh_io_system.close(nullptr, fd);
		return error != 0 ? error : ret;
	}
	static ssize_t do_pread(void *ctx, int fd, void *buf, size_t len, off_t off)
	{
		int error = self(ctx)->enter(kPread);

		if (error == 0)
			error = self(ctx)->transfer(fd, off, buf, &len);
		// Not in place: a short direct read would be refused by a real disk.
		return error != 0 ? error : any_pread(fd, buf, len, off);
	}
	static ssize_t any_pread(int fd, void *buf, size_t len, off_t off)
	{
		const int flags = fcntl(fd, F_GETFL);

		if ((flags & O_DIRECT) == 0 || len % 4096 == 0)
			return kvh_io_system.pread(nullptr, fd, buf, len, off);
		fcntl(fd, F_SETFL, flags & ~O_DIRECT);
		const ssize_t n = kvh_io_system.pread(nullptr, fd, buf, len, off);
		fcntl(fd, F_SETFL, flags);
		return n;
	}
	static ssize_t do_pwrite(void *ctx, int fd, const void *buf, size_t len, off_t off)
	{
		int error = self(ctx)->enter(kPwrite);

		if (error == 0)
			error = self(ctx)->transfer(fd, off, buf, &len);
		return error != 0 ? error : any_pwrite(fd, buf, len, off);
	}
	static ssize_t any_pwrite(int fd, const void *buf, size_t len, off_t off)
	{
		const int flags = fcntl(fd, F_GETFL);

		if ((flags & O_DIRECT) == 0 || len % 4096 == 0)
			return kvh_io_system.pwrite(nullptr, fd, buf, len, off);
		fcntl(fd, F_SETFL, flags & ~O_DIRECT);
		const ssize_t n = kvh_io_system.pwrite(nullptr, fd, buf, len, off);
		fcntl(fd, F_SETFL, flags);
		return n;
	}
	static int do_fsync(void *ctx, int fd, int data_only)
	{
		const int error = self(ctx)->enter(kFsync);

		{
			std::lock_guard<std::mutex> guard(self(ctx)->lock_);

			self(ctx)->data_syncs_ += data_only != 0;
		}
		return error != 0 ? error : kvh_io_system.fsync(nullptr, fd, data_only);
	}
	static int do_fallocate(void *ctx, int fd, int mode, off_t off, off_t len)
	{
		const int error = self(ctx)->enter(kFallocate);

		return error != 0 ? error
				  : kvh_io_system.fallocate(nullptr, fd, mode, off, len);
	}
	static int do_ftruncate(void *ctx, int fd, off_t len)
	{
		const int error = self(ctx)->enter(kFtruncate);

		return error != 0 ? error : kvh_io_system.ftruncate(nullptr, fd, len);
	}
	static int do_fstat(void *ctx, int fd, struct stat *st)
	{
		const int error = self(ctx)->enter(kFstat);

		return error != 0 ? error : kvh_io_system.fstat(nullptr, fd, st);
	}
	static int do_fstatvfs(void *ctx, int fd, struct statvfs *vfs)
	{
		const int error = self(ctx)->enter(kFstatvfs);

		return error != 0 ? error : kvh_io_system.fstatvfs(nullptr, fd, vfs);
	}
	static int do_mkdir(void *ctx, int dirfd, const char *path, mode_t mode)
	{
		const int error = self(ctx)->enter(kMkdir);

		return error != 0 ? error : kvh_io_system.mkdir(nullptr, dirfd, path, mode);
	}
	static int do_rename(void *ctx, int olddirfd, const char *oldpath, int newdirfd,
			     const char *newpath)
	{
		const int error = self(ctx)->enter(kRename);

		return error != 0 ? error
				  : kvh_io_system.rename(nullptr, olddirfd, oldpath, newdirfd,
							 newpath);
	}
	static int do_unlink(void *ctx, int dirfd, const char *path)
	{
		const int error = self(ctx)->enter(kUnlink);

		return error != 0 ? error : kvh_io_system.unlink(nullptr, dirfd, path);
	}
	static ssize_t do_getdents(void *ctx, int fd, void *buf, size_t len)
	{
		const int error = self(ctx)->enter(kGetdents);

		return error != 0 ? error : kvh_io_system.getdents(nullptr, fd, buf, len);
	}
	static int do_lock(void *ctx, int fd)
	{
		const int error = self(ctx)->enter(kLock);

		return error != 0 ? error : kvh_io_system.lock(nullptr, fd);
	}
	static int do_ring_allowed(void *)
	{
		return 0;
	}
	static int do_submitting(void *, enum kvh_io_dir, int, const void *, size_t, off_t)
	{
		return 0;
	}
	static int do_completed(void *, enum kvh_io_dir, int, void *, size_t, off_t, int res)
	{
		return res;
	}

	static constexpr struct kvh_io_ops make_table()
	{
		struct kvh_io_ops table = {};

		table.open = do_open;
		table.close = do_close;
		table.pread = do_pread;
		table.pwrite = do_pwrite;
		table.fsync = do_fsync;
		table.fallocate = do_fallocate;
		table.ftruncate = do_ftruncate;
		table.fstat = do_fstat;
		table.fstatvfs = do_fstatvfs;
		table.mkdir = do_mkdir;
		table.rename = do_rename;
		table.unlink = do_unlink;
		table.getdents = do_getdents;
		table.lock = do_lock;
		table.ring_allowed = do_ring_allowed;
		table.submitting = do_submitting;
		table.completed = do_completed;
		return table;
	}
	static const struct kvh_io_ops kTable;

	std::mutex lock_;
	std::condition_variable changed_;
	std::mt19937 random_;
	std::map<Call, Rule> rules_;
	std::map<int, int> flags_; // of the fds that are open
	std::vector<Opened> opened_;
	uint64_t calls_[kCalls] = {};
	uint64_t injected_ = 0, data_syncs_ = 0;
	unsigned shorten_ = 0, held_ = 0;
	Direct direct_ = kAllowed;
	Call held_call_ = kCalls;
};

inline const struct kvh_io_ops IoFault::kTable = IoFault::make_table();

} // namespace iofault

#endif
