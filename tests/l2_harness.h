// SPDX-License-Identifier: Apache-2.0
//
// l2_harness.h - opens an adapter by its spec and drives it as the controller
// does: one thread, waiting on the event fd. The suites over all adapters take
// their cases from here.
#ifndef KVH_TESTS_L2_HARNESS_H
#define KVH_TESTS_L2_HARNESS_H

#include "host/frame.h"
#include "l2/io.h"
#include "l2/l2.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <ostream>
#include <poll.h>
#include <random>
#include <string>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

namespace l2test
{

// A guard against tests that hang, no limit of what is tested.
constexpr int kGuardMs = 120000;

class Dir
{
      public:
	Dir()
	{
		std::string path =
			(std::filesystem::temp_directory_path() / "kvhoist-XXXXXX").string();

		if (mkdtemp(path.data()) == nullptr)
			abort();
		path_ = path;
	}
	~Dir()
	{
		std::error_code ignored;

		std::filesystem::remove_all(path_, ignored);
	}
	Dir(const Dir &) = delete;
	Dir &operator=(const Dir &) = delete;

	const std::string &path() const
	{
		return path_;
	}

      private:
	std::string path_;
};

// Lines of the log while it lives; a test that expects a failure also expects
// its reason.
class Log
{
      public:
	explicit Log(enum kvh_log_level up_to = KVH_LOG_WARN)
	{
		kvh_log_set(take, this, up_to);
	}
	~Log()
	{
		kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	}
	Log(const Log &) = delete;
	Log &operator=(const Log &) = delete;

	std::string text()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return text_;
	}
	size_t count(const std::string &part)
	{
		const std::string all = text();
		size_t n = 0;

		for (size_t at = 0; (at = all.find(part, at)) != std::string::npos; at++)
			n++;
		return n;
	}

      private:
	static void take(void *arg, enum kvh_log_level, const char *line)
	{
		Log *log = static_cast<Log *>(arg);
		std::lock_guard<std::mutex> guard(log->lock_);

		log->text_ += line;
		log->text_ += '\n';
	}

	std::mutex lock_;
	std::string text_;
};

struct Free {
	void operator()(void *p) const
	{
		free(p);
	}
};

// Memory as L1 has it: aligned to 4 KiB.
class Buffer
{
      public:
	explicit Buffer(uint64_t bytes, int fill = 0xEE)
	    : bytes_(bytes), memory_(static_cast<uint8_t *>(aligned_alloc(4096, bytes)))
	{
		memset(data(), fill, bytes_);
	}
	uint8_t *data() const
	{
		return memory_.get();
	}
	uint64_t size() const
	{
		return bytes_;
	}
	bool operator==(const Buffer &other) const
	{
		return bytes_ == other.bytes_ && memcmp(data(), other.data(), bytes_) == 0;
	}

      private:
	uint64_t bytes_;
	std::unique_ptr<uint8_t, Free> memory_;
};

inline struct kvh_key make_key(uint64_t n, uint64_t space = 0x5ACE, uint32_t rank = 0,
			       uint32_t group = 0)
{
	struct kvh_key key = {};
	uint64_t spread = n * UINT64_C(0x9E3779B97F4A7C15);

	memcpy(key.hash.bytes, &spread, 8);
	memcpy(key.hash.bytes + 8, &n, 8);
	key.space = space;
	key.rank = rank;
	key.group = group;
	return key;
}

// A sealed frame of the key; versions differ in every page.
inline Buffer make_frame(const struct kvh_key &key, uint64_t payload, uint64_t version = 0)
{
	Buffer frame(kvh_frame_bytes(payload));
	const uint8_t digest[32] = {1};
	const struct kvh_hash parent = {};
	std::mt19937_64 random(version * 1000003 + key.hash.bytes[8] + key.rank * 7919u +
			       key.group * 104729u + key.space);

	for (uint64_t i = 0; i + 8 <= payload; i += 8) {
		const uint64_t word = random();

		memcpy(frame.data() + KVH_FRAME_ALIGN + i, &word, 8);
	}
	kvh_frame_fill(frame.data(), &key, digest, &parent, version + 1, payload);
	kvh_frame_seal(frame.data());
	return frame;
}

inline struct kvh_l2_req make_req(enum kvh_l2_op op, const struct kvh_key &key,
				  void *buf = nullptr, uint64_t len = 0)
{
	struct kvh_l2_req req = {};

	req.op = op;
	req.key = key;
	req.buf = buf;
	req.len = len;
	req.region = KVH_L2_NO_REGION;
	req.status = KVH_PENDING;
	return req;
}

class Adapter
{
      public:
	explicit Adapter(const std::string &spec, const struct kvh_io_ops *io = &kvh_io_system,
			 void *io_ctx = nullptr)
	    : env_{io, io_ctx}
	{
		const char *conf;

		error_ = kvh_l2_find(spec.c_str(), &ops_, &conf);
		if (error_ == 0)
			error_ = ops_->open(conf, &env_, &self_);
		if (error_ == 0)
			ops_->query(self_, &caps_);
	}
	~Adapter()
	{
		if (self_ != nullptr) {
			EXPECT_EQ(close(), 0);
		}
	}
	Adapter(const Adapter &) = delete;
	Adapter &operator=(const Adapter &) = delete;

	int close(uint64_t deadline_ns = KVH_L2_DEADLINE_NO)
	{
		void *self = self_;

		self_ = nullptr;
		return ops_->close(self, deadline_ns);
	}

	int error() const
	{
		return error_;
	}
	const struct kvh_l2_ops *ops() const
	{
		return ops_;
	}
	void *self() const
	{
		return self_;
	}
	const struct kvh_l2_caps &caps() const
	{
		return caps_;
	}
	struct kvh_l2_usage usage() const
	{
		struct kvh_l2_usage usage = {};

		ops_->usage(self_, &usage);
		return usage;
	}

	int submit(struct kvh_l2_req *req)
	{
		return ops_->submit(self_, req);
	}
	std::vector<struct kvh_l2_req *> reap(uint32_t max = 64)
	{
		std::vector<struct kvh_l2_req *> done(max);

		done.resize(ops_->reap(self_, done.data(), max));
		return done;
	}
	bool readable(int timeout_ms = 0) const
	{
		struct pollfd pfd = {ops_->event_fd(self_), POLLIN, 0};

		return poll(&pfd, 1, timeout_ms) == 1;
	}
	// Until n have ended; in the order in which they were reaped.
	std::vector<struct kvh_l2_req *> wait(size_t n)
	{
		std::vector<struct kvh_l2_req *> all;

		while (all.size() < n) {
			if (!readable(kGuardMs)) {
				ADD_FAILURE() << "the event fd stayed silent, " << all.size()
					      << " of " << n << " reaped";
				break;
			}
			for (struct kvh_l2_req *req : reap())
				all.push_back(req);
		}
		return all;
	}
	// Submits, waits, and returns the status.
	int run(struct kvh_l2_req *req)
	{
		const int ret = submit(req);

		if (ret < 0)
			return ret;

		const auto done = wait(1);

		EXPECT_EQ(done.size(), 1u);
		EXPECT_TRUE(done.empty() || done[0] == req);
		return req->status;
	}

	int put(const struct kvh_key &key, const Buffer &frame)
	{
		struct kvh_l2_req req = make_req(KVH_L2_PUT, key, frame.data(), frame.size());

		return run(&req);
	}
	int get(const struct kvh_key &key, const Buffer &into)
	{
		struct kvh_l2_req req = make_req(KVH_L2_GET, key, into.data(), into.size());

		return run(&req);
	}
	// The object's bytes, or a negative errno.
	int64_t probe(const struct kvh_key &key)
	{
		struct kvh_l2_req req = make_req(KVH_L2_PROBE, key);
		const int status = run(&req);

		return status < 0 ? status : static_cast<int64_t>(req.len);
	}
	int del(const struct kvh_key &key)
	{
		struct kvh_l2_req req = make_req(KVH_L2_DELETE, key);

		return run(&req);
	}

      private:
	struct kvh_l2_env env_;
	const struct kvh_l2_ops *ops_ = nullptr;
	void *self_ = nullptr;
	struct kvh_l2_caps caps_ = {};
	int error_;
};

// One way to open an adapter. In a spec, DIR stands for a fresh directory and
// SIZE for the bytes it may hold.
struct Case {
	std::string label;
	std::string spec;
	bool keeps; // false: a put is forgotten at once
};

inline std::ostream &operator<<(std::ostream &os, const Case &c)
{
	return os << c.label;
}

inline std::vector<Case> cases()
{
	std::vector<Case> all = {
		{"null", "null", false},
		{"mem", "mem:size=SIZE", true},
		{"fs", "fs:DIR/fs,size=SIZE", true},
		{"fs_one_thread", "fs:DIR/fs,size=SIZE,direct=off,threads=1,depth=8", true},
		{"fs_full_sync", "fs:DIR/fs,size=SIZE,fsync=full", true},
		{"fs_data_sync", "fs:DIR/fs,size=SIZE,fsync=data,direct=off", true},
		{"nvme_uring", "nvme:DIR/nvme,size=SIZE,engine=uring", true},
		{"nvme_threads", "nvme:DIR/nvme,size=SIZE,engine=threads", true},
	};
	const size_t plain = all.size();

	for (size_t i = 0; i < plain; i++)
		all.push_back(
			{"fault_" + all[i].label, "fault:next=" + all[i].spec, all[i].keeps});
	return all;
}

// As a sandbox does that refuses it.
inline bool uring_works()
{
	uint8_t params[256] = {};
	const long fd = syscall(SYS_io_uring_setup, 1, params);

	if (fd >= 0)
		::close(static_cast<int>(fd));
	return fd >= 0;
}

class L2 : public ::testing::TestWithParam<Case>
{
      protected:
	void SetUp() override
	{
		if (GetParam().label.find("uring") != std::string::npos && !uring_works())
			GTEST_SKIP() << "io_uring is refused here";
	}
	// Also a second time, for what was left by the first.
	std::unique_ptr<Adapter> open(const std::string &size = "64M")
	{
		std::string spec = GetParam().spec;
		size_t at;

		while ((at = spec.find("DIR")) != std::string::npos)
			spec.replace(at, 3, dir_.path());
		while ((at = spec.find("SIZE")) != std::string::npos)
			spec.replace(at, 4, size);

		auto adapter = std::make_unique<Adapter>(spec);

		if (adapter->error() != 0) {
			ADD_FAILURE() << spec << ": " << strerror(-adapter->error());
			return nullptr;
		}
		return adapter;
	}
	bool keeps() const
	{
		return GetParam().keeps;
	}
	const std::string &dir() const
	{
		return dir_.path();
	}

      private:
	Dir dir_;
};

inline std::string case_label(const ::testing::TestParamInfo<Case> &info)
{
	return info.param.label;
}

} // namespace l2test

#endif
