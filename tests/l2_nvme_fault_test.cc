// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_fault_test.cc - the nvme adapter over file operations that fail: every
// single one in turn, once and for ever; short ones; and what may be refused.
#include "tests/l2_nvme_io.h"
#include "tests/long_run.h"

#include <map>

namespace l2test
{
namespace
{

class Fault : public Nvme
{
      protected:
	void put_and_get(Adapter &l2, FaultIo &io, unsigned times)
	{
		const int64_t before = io.shortened;

		for (uint64_t i = 0; i < times; i++) {
			const struct kvh_key key = make_key(i % 30);
			const Buffer frame = make_frame(key, 150000, i), into(frame.size());

			ASSERT_EQ(l2.put(key, frame), 0) << i;
			ASSERT_EQ(l2.get(key, into), 0) << i;
			ASSERT_TRUE(into == frame) << i;
		}
		EXPECT_GT(io.shortened, before + times) << "control: nothing was short";
	}
};

// With nothing in flight, what is used is what is listed.
void expect_accounts(const Adapter &l2)
{
	const struct kvh_l2_usage usage = l2.usage();
	struct {
		uint64_t bytes = 0, objects = 0;
	} sum;

	l2.ops()->list(
		l2.self(),
		[](void *arg, const struct kvh_key *, uint64_t len) {
			auto *s = static_cast<decltype(sum) *>(arg);

			s->bytes += len;
			s->objects++;
			return true;
		},
		&sum);
	EXPECT_EQ(usage.used_bytes, sum.bytes);
	EXPECT_EQ(usage.objects, sum.objects);
	EXPECT_LE(usage.used_bytes, usage.capacity_bytes);
}

// A little of everything. What may be under a key is known whatever fails: the
// last version that was put for sure, what may have been left, or nothing.
class Script
{
      public:
	Script(const std::string &spec, FaultIo &io) : spec_(spec), io_(io)
	{
	}

	void run()
	{
		for (int round = 0; round < 2; round++) {
			Adapter l2(spec_, &io_.ops, &io_);

			if (l2.error() != 0)
				continue; // the next may succeed
			opens_++;
			check_all(l2);
			for (uint64_t k = 0; k < 5; k++)
				put(l2, k);
			put(l2, 1); // replaces
			del(l2, 2);
			del(l2, 7);                           // was never there
			for (uint64_t k = 40; k < kKeys; k++) // evicts, and takes segments
				put(l2, k);
			check_all(l2);
			expect_accounts(l2);
			EXPECT_TRUE(l2.reap().empty());
		}
	}
	unsigned opens() const
	{
		return opens_;
	}
	unsigned ok() const
	{
		return ok_;
	}

      private:
	static constexpr uint64_t kKeys = 50;

	struct State {
		int64_t sure = -1;          // found, unless evicted
		std::vector<int64_t> maybe; // of failed puts: what a reopen may find
	};

	static uint64_t payload(uint64_t k)
	{
		return k < 40 ? 15000 : 100000;
	}
	void put(Adapter &l2, uint64_t k)
	{
		const int64_t version = next_++;
		const Buffer frame = make_frame(make_key(k), payload(k),
						static_cast<uint64_t>(version));
		const int status = l2.put(make_key(k), frame);

		if (status == 0) {
			ok_++;
			states_[k].sure = version;
			return;
		}
		if (io_.for_ever) // else its header was wiped, and stays away
			states_[k].maybe.push_back(version);
		// Not this one: the old one or nothing.
		const Buffer into(frame.size());
		if (l2.get(make_key(k), into) == 0) {
			EXPECT_FALSE(into == frame) << "a failed put is found, key " << k;
			expect_known(k, into);
		}
	}
	void del(Adapter &l2, uint64_t k)
	{
		const int status = l2.del(make_key(k));

		EXPECT_EQ(l2.probe(make_key(k)), -ENOENT);
		if (status == 0 && states_[k].maybe.empty()) {
			states_.erase(k);
		} else {
			states_[k].maybe.push_back(states_[k].sure);
			states_[k].sure = -1;
		}
	}
	void expect_known(uint64_t k, const Buffer &into)
	{
		const struct kvh_key key = make_key(k);
		const uint8_t digest[32] = {1};
		const State &state = states_[k];
		struct kvh_frame_header header;

		if (kvh_frame_verify(into.data(), into.size(), &key, digest, nullptr) != 0) {
			EXPECT_FALSE(state.maybe.empty()) << "torn, key " << k;
			return;
		}
		memcpy(&header, into.data(), sizeof(header));
		const int64_t version = static_cast<int64_t>(header.sequence) - 1;
		bool known = version == state.sure;

		for (int64_t m : state.maybe)
			known |= version == m;
		EXPECT_TRUE(known) << "key " << k << " has version " << version;
	}
	void check_all(Adapter &l2)
	{
		for (uint64_t k = 0; k < kKeys; k += k == 7 ? 33 : 1) {
			const Buffer into(kvh_frame_bytes(payload(k)));
			const int status = l2.get(make_key(k), into);

			if (status != 0)
				continue; // evicted, lost or failed: each is a miss above
			expect_known(k, into);
		}
	}

	std::string spec_;
	FaultIo &io_;
	std::map<uint64_t, State> states_;
	int64_t next_ = 0;
	unsigned opens_ = 0, ok_ = 0;
};

// Each test begins with a file that is not there.
class Every : public Nvme
{
      protected:
	// Returns how many faults there were to make.
	void sweep(std::atomic<int64_t> FaultIo::*at, bool for_ever, int error, unsigned step,
		   unsigned least = 20)
	{
		Log log;
		unsigned n = 0;

		step = is_long() ? 1 : step;
		for (bool hit = true; hit; n += step) {
			FaultIo io;

			std::filesystem::remove(path());
			(io.*at) = n;
			io.for_ever = for_ever;
			io.error = error;
			SCOPED_TRACE("fault at " + std::to_string(n));
			Script script(spec("size=1M,depth=8,threads=2"), io);
			script.run();
			hit = io.failed > 0;
			if (!hit || !for_ever) {
				EXPECT_GT(script.opens(), 0u);
				EXPECT_GT(script.ok(), 10u);
			}
			if (HasFailure()) {
				fprintf(stderr, "%s", log.text().c_str());
				return;
			}
		}
		EXPECT_GT(n, least);
		VERDICT("S1 %s: failed at each of %u calls, %s", GetParam(), n,
			strerror(-error));
	}
};

TEST_P(Every, ReadFailsOnce)
{
	sweep(&FaultIo::read_at, false, -EIO, 1);
}
TEST_P(Every, ReadsFailForEver)
{
	sweep(&FaultIo::read_at, true, -EIO, 3);
}
TEST_P(Every, WriteFailsOnce)
{
	sweep(&FaultIo::write_at, false, -EIO, 1);
}
TEST_P(Every, WritesFailForEver)
{
	sweep(&FaultIo::write_at, true, -EIO, 3);
}
TEST_P(Every, FlushFailsOnce)
{
	sweep(&FaultIo::flush_at, false, -EIO, 1, 4);
}
TEST_P(Every, FlushesFailForEver)
{
	sweep(&FaultIo::flush_at, true, -EIO, 1, 4);
}
TEST_P(Every, DiskIsFull)
{
	sweep(&FaultIo::write_at, true, -ENOSPC, 3);
}

INSTANTIATE_TEST_SUITE_P(Engines, Every, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

// S3: each transfer may move any part of its bytes, whole pages with O_DIRECT.
TEST_P(Fault, ShortTransfersAreContinued)
{
	const uint32_t seed = static_cast<uint32_t>(draw_seed());
	int64_t cases = 0;

	for (const int step : {4096, 512, 1}) {
		for (const char *direct : {"auto", "off"}) {
			FaultIo io(seed);
			Log log;

			std::filesystem::remove(path());
			// O_DIRECT goes on at a page: the rest of a part is moved again.
			io.shorten = step == 1 && std::string(direct) == "auto" ? 4096 : step;
			{
				Adapter l2(spec("size=16M,direct=") + direct, &io.ops, &io);
				ASSERT_EQ(l2.error(), 0) << log.text();
				put_and_get(l2, io, long_or(1200, 40));
				ASSERT_FALSE(HasFailure()) << step << direct;
			}
			io.shorten = 0;
			EXPECT_EQ(Adapter(spec(""), &io.ops, &io).usage().objects, 30u);
			cases += io.shortened;
		}
	}
	EXPECT_GT(cases, long_or(10000, 200));
	VERDICT("S3 %s: %lld short transfers, 0 wrong", GetParam(),
		static_cast<long long>(cases));
}

// Whoever asks for an early end has found no fault.
TEST_P(Fault, PutsThatAreCancelledAreNoErrorsOfTheDisk)
{
	Adapter l2(spec("size=64M,budget=1M"));
	const Buffer frame = make_frame(make_key(1), 900000);
	const char *why = "";
	unsigned cancelled = 0;

	ASSERT_EQ(l2.error(), 0);
	for (unsigned round = 0; round < 40; round++) {
		std::vector<struct kvh_l2_req> reqs(20);

		for (uint64_t k = 0; k < reqs.size(); k++) {
			reqs[k] = make_req(KVH_L2_PUT, make_key(k), frame.data(), frame.size());
			ASSERT_EQ(l2.submit(&reqs[k]), 0);
		}
		for (struct kvh_l2_req &req : reqs)
			l2.ops()->cancel(l2.self(), &req);
		ASSERT_EQ(l2.wait(reqs.size()).size(), reqs.size());
		for (const struct kvh_l2_req &req : reqs)
			cancelled += req.status == -ECANCELED;
		ASSERT_EQ(l2.ops()->health(l2.self(), &why), 0) << why;
	}
	EXPECT_GT(cancelled, 100u) << "control: none was";
}

TEST_P(Fault, StoresResumeWhenTheDiskWritesAgain)
{
	FaultIo io;
	Adapter l2(spec("size=8M"), &io.ops, &io);
	ASSERT_EQ(l2.error(), 0);
	Log log;
	uint64_t k = 0;

	for (; l2.usage().evicted == 0; k++)
		ASSERT_EQ(l2.put(make_key(k), make_frame(make_key(k), 100000)), 0);
	const uint64_t live = l2.usage().objects;
	io.for_ever = true;
	io.error = -ENOSPC;
	io.write_at = 0;
	for (uint64_t end = k + 320; k < end; k++)
		ASSERT_LT(l2.put(make_key(k), make_frame(make_key(k), 100000)), 0);
	EXPECT_GE(l2.usage().objects + 320 / 16 + 320 / 64 + 1, live)
		<< "a burst costs a frame for every 16 errors at most";
	EXPECT_LT(l2.usage().objects, live) << "control: it costs some";
	io.for_ever = false;
	io.write_at = -1;
	unsigned ok = 0;
	for (uint64_t end = k + 1200; k < end; k++)
		ok += l2.put(make_key(k), make_frame(make_key(k), 100000)) == 0;
	EXPECT_GT(ok, 1000u);
	EXPECT_GT(l2.usage().used_bytes * 2, l2.usage().capacity_bytes); // slots are back
	expect_accounts(l2);
}

// Of the size that failed no frame comes any more: one of another has to find out.
TEST_P(Fault, AfterAFailedWriteFramesOfAnotherSizeAreStored)
{
	FaultIo io;
	Adapter l2(spec("size=8M"), &io.ops, &io);
	ASSERT_EQ(l2.error(), 0);
	Log log;
	uint64_t k = 0;

	for (; l2.usage().evicted == 0; k++)
		ASSERT_EQ(l2.put(make_key(k), make_frame(make_key(k), 100000)), 0);
	io.write_at = 0;
	ASSERT_EQ(l2.put(make_key(k), make_frame(make_key(k), 100000)), -EIO);
	for (uint64_t end = ++k + 10; k < end; k++)
		EXPECT_EQ(l2.put(make_key(k), make_frame(make_key(k), 30000)), 0);
	expect_accounts(l2);
}

// A table of operations over the system's that cannot write one place.
class BadPlace
{
      public:
	struct kvh_io_ops ops = kvh_io_system;
	std::atomic<int64_t> from{-1}, to{-1}; // of the bytes; -1: all is well
	std::atomic<unsigned> failed{0};

	BadPlace()
	{
		ops.submitting = [](void *ctx, enum kvh_io_dir dir, int, const void *,
				    size_t len, off_t off) {
			return dir == KVH_IO_WRITE ? of(ctx)->judge(len, off) : 0;
		};
		ops.pwrite = [](void *ctx, int fd, const void *buf, size_t len,
				off_t off) -> ssize_t {
			const int ret = of(ctx)->judge(len, off);

			return ret < 0 ? ret : kvh_io_system.pwrite(nullptr, fd, buf, len, off);
		};
	}

      private:
	static BadPlace *of(void *ctx)
	{
		return static_cast<BadPlace *>(ctx);
	}
	int judge(size_t len, off_t off)
	{
		if (off >= to || off + static_cast<off_t>(len) <= from)
			return 0;
		failed++;
		return -EIO;
	}
};

// The store is full: each PUT needs the slot of another, and one cannot be written.
TEST_P(Fault, OnePlaceThatCannotBeWrittenStopsNoStores)
{
	BadPlace io;
	Adapter l2(spec("size=8M"), &io.ops, &io);
	ASSERT_EQ(l2.error(), 0);
	Log log;
	uint64_t k = 0;

	for (; l2.usage().evicted == 0; k++)
		ASSERT_EQ(l2.put(make_key(k), make_frame(make_key(k), 100000)), 0);
	io.from = 4 << 20;
	io.to = (4 << 20) + 4096;
	unsigned ok = 0;
	for (uint64_t end = k + 300; k < end; k++)
		ok += l2.put(make_key(k), make_frame(make_key(k), 100000)) == 0;
	EXPECT_GT(io.failed, 0u) << "control: nothing failed";
	EXPECT_GE(ok, 290u);
	EXPECT_LE(log.count("\n"), 10u) << log.text();
	expect_accounts(l2);
}

TEST_P(Fault, WithoutODirectThroughThePageCache)
{
	const Buffer frame = make_frame(make_key(1), 150000);
	const Buffer into(frame.size());

	for (int how = 0; how < 2; how++) {
		FaultIo io;

		io.no_direct = how == 0;
		io.no_direct_io = how == 1;
		std::filesystem::remove(path());
		{
			Log log;
			Adapter l2(spec("size=16M"), &io.ops, &io);

			ASSERT_EQ(l2.error(), 0) << how << log.text();
			EXPECT_EQ(log.count("page cache"), 1u) << log.text(); // said once
			EXPECT_EQ(l2.put(make_key(1), frame), 0);
			EXPECT_EQ(l2.get(make_key(1), into), 0);
			EXPECT_TRUE(into == frame);
			EXPECT_GE(l2.usage().buffered, 2u);
		}
		{
			Log log;
			Adapter l2(spec(""), &io.ops, &io);
			ASSERT_EQ(l2.error(), 0) << how << log.text();
			EXPECT_GT(l2.probe(make_key(1)), 0);
		}
		Log log;
		EXPECT_EQ(Adapter(spec("direct=on"), &io.ops, &io).error(), -EINVAL);
		EXPECT_NE(log.text(), "");
	}
	for (const char *direct : {"direct=on", "direct=off"}) { // nothing was refused
		Adapter l2(spec(direct));

		if (l2.error() == 0) {
			EXPECT_EQ(l2.get(make_key(1), into), 0);
			EXPECT_EQ(l2.usage().buffered, 0u) << direct;
		}
	}
}

TEST_P(Fault, WithoutPreallocationTheFileHasItsLengthAllTheSame)
{
	FaultIo io;
	Log log;

	io.no_fallocate = true;
	Adapter l2(spec("size=16M"), &io.ops, &io);
	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(log.count("preallocated"), 1u);
	EXPECT_EQ(std::filesystem::file_size(path()), 16u << 20);
	EXPECT_EQ(l2.put(make_key(1), make_frame(make_key(1), 150000)), 0);
}

INSTANTIATE_TEST_SUITE_P(Engines, Fault, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

TEST(NvmeRing, RefusedItIsThreadsUnlessAskedFor)
{
	for (const int error : {-EPERM, -ENOSYS, -ENOMEM}) {
		Dir dir;
		FaultIo io;
		Log log;
		const std::string spec = "nvme:" + dir.path() + "/l2,size=16M";
		const Buffer frame = make_frame(make_key(1), 150000);

		io.ring = error;
		{
			Adapter l2(spec, &io.ops, &io);
			ASSERT_EQ(l2.error(), 0);
			EXPECT_EQ(log.count("threads"), 1u) << log.text();
			EXPECT_EQ(l2.put(make_key(1), frame), 0);
		}
		EXPECT_EQ(Adapter(spec + ",engine=uring", &io.ops, &io).error(), error);
		EXPECT_EQ(log.count("refused"), 2u) << log.text();
	}
}

} // namespace
} // namespace l2test
