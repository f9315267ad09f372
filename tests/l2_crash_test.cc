// SPDX-License-Identifier: Apache-2.0
//
// l2_crash_test.cc - a process that writes through the nvme or fs adapter is killed
// at any moment. What it was told is on the disk is found, whole; what it
// was not told of is the old, the new, or a miss.
#include "tests/l2_harness.h"
#include "tests/long_run.h"

#include <atomic>
#include <csignal>
#include <sys/mman.h>
#include <sys/wait.h>

namespace l2test
{
namespace
{

// 16 MiB are in flight.
constexpr uint64_t kKeys = 64;
constexpr uint32_t kDepth = 48;
constexpr uint64_t kLargest = 800000;

// Shared with the child, which changes it before submit and after reap.
struct Ledger {
	std::atomic<int64_t> told[kKeys]; // version that is there; -1: none
	std::atomic<int64_t> next[kKeys]; // being put; -1: nothing, or a delete
	std::atomic<bool> changing[kKeys];
	std::atomic<uint64_t> ended;
};

uint64_t payload_of(uint64_t k)
{
	return k % 3 == 0 ? 20000 : k % 3 == 1 ? 150000 : kLargest;
}

struct ChildOp : kvh_l2_req {
	Buffer memory{kvh_frame_bytes(kLargest)};
	uint64_t k = 0;
	bool idle = true;
};

// Never returns, it is killed. No gtest in here.
[[noreturn]] void child_run(const std::string &spec, Ledger *ledger, uint64_t seed, int go)
{
	std::mt19937_64 random(seed);
	std::vector<ChildOp> ops(kDepth);
	Adapter l2(spec);
	char byte = l2.error() == 0;

	if (write(go, &byte, 1) != 1 || byte == 0)
		_exit(1);
	for (;;) {
		for (ChildOp &op : ops) {
			const uint64_t k = random() % kKeys;

			if (!op.idle || ledger->changing[k])
				continue;
			const bool put = random() % 4 != 0;
			const int64_t version = put ? static_cast<int64_t>(random() % 1000000)
						    : -1;
			const Buffer frame = make_frame(make_key(k), payload_of(k),
							static_cast<uint64_t>(version));

			memcpy(op.memory.data(), frame.data(), frame.size());
			static_cast<struct kvh_l2_req &>(op) = make_req(
				put ? KVH_L2_PUT : KVH_L2_DELETE, make_key(k), op.memory.data(),
				frame.size());
			op.k = k;
			op.idle = false;
			ledger->next[k] = version;
			ledger->changing[k] = true;
			if (l2.submit(&op) != 0)
				_exit(2);
		}
		for (struct kvh_l2_req *req : l2.wait(1)) {
			ChildOp *op = static_cast<ChildOp *>(req);

			if (req->status != 0 && req->status != -ENOENT)
				_exit(3);
			ledger->told[op->k] = ledger->next[op->k].load();
			ledger->changing[op->k] = false;
			op->idle = true;
			ledger->ended++;
		}
	}
}

class Crash : public ::testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		if (kind() == "uring" && !uring_works())
			GTEST_SKIP() << "io_uring is refused here";
		void *memory = mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		ASSERT_NE(memory, MAP_FAILED);
		ledger_ = new (memory) Ledger{};
		for (uint64_t k = 0; k < kKeys; k++)
			ledger_->told[k] = ledger_->next[k] = -1;
	}
	void TearDown() override
	{
		if (ledger_ != nullptr)
			munmap(ledger_, sizeof(Ledger));
	}
	static std::string kind()
	{
		return GetParam();
	}
	std::string spec(const std::string &as = kind()) const
	{
		const std::string path = dir_.path() + "/l2,size=192M";

		return as == "fs" ? "fs:" + path : "nvme:" + path + ",engine=" + as;
	}
	// What is on the disk beside the objects and an instance's lock.
	size_t stale() const
	{
		size_t n = 0;

		if (kind() != "fs")
			return 0;
		for (const auto &entry :
		     std::filesystem::directory_iterator(dir_.path() + "/l2/tmp"))
			n += entry.path().extension() != ".lock";
		return n;
	}

	// Killed when it has ended so many requests, and a moment of its own.
	void live_and_die(uint64_t seed, uint64_t ops, const std::string &with)
	{
		int go[2];
		char byte = 0;

		ASSERT_EQ(pipe(go), 0);
		ledger_->ended = 0;
		const pid_t child = fork();
		if (child == 0)
			child_run(with, ledger_, seed, go[1]);
		::close(go[1]);
		ASSERT_EQ(read(go[0], &byte, 1), 1);
		ASSERT_EQ(byte, 1);
		while (ledger_->ended < ops && waitpid(child, nullptr, WNOHANG) == 0)
			sched_yield();
		kill(child, SIGKILL);

		int status = 0;
		ASSERT_EQ(waitpid(child, &status, 0), child);
		ASSERT_TRUE(WIFSIGNALED(status)) << "the child failed by itself: " << status;
		::close(go[0]);
	}

	void complain(uint64_t k, const std::string &what)
	{
		complaints_ += "key " + std::to_string(k) + ": " + what + "\n";
	}
	// The version under the key; -1: a miss. `torn_p`: does not verify.
	int64_t read_version(Adapter &l2, uint64_t k, bool *torn_p)
	{
		const struct kvh_key key = make_key(k);
		const Buffer into(kvh_frame_bytes(payload_of(k)));
		const uint8_t digest[32] = {1};
		struct kvh_frame_header header;
		const int status = l2.get(key, into);

		*torn_p = status == 0 && kvh_frame_verify(into.data(), into.size(), &key,
							  digest, nullptr) != 0;
		if (status != 0 && status != -ENOENT)
			complain(k, strerror(-status));
		if (status != 0 || *torn_p)
			return -1;
		memcpy(&header, into.data(), sizeof(header));
		const int64_t version = static_cast<int64_t>(header.sequence) - 1;
		if (!(into == make_frame(key, payload_of(k), static_cast<uint64_t>(version))))
			complain(k, "wrong bytes");
		return version;
	}
	void check(Adapter &l2)
	{
		for (uint64_t k = 0; k < kKeys; k++) {
			const int64_t told = ledger_->told[k], next = ledger_->next[k];
			const bool changing = ledger_->changing[k];
			bool torn;
			const int64_t version = read_version(l2, k, &torn);

			found_ += version >= 0;
			torn_ += torn;
			if (version != told && !(changing && (version == next || version < 0)))
				complain(k, "has version " + std::to_string(version) +
						    ", was told " + std::to_string(told));
			// What it is from now on; a torn one is deleted, as above us.
			if (torn && l2.del(make_key(k)) != 0)
				complain(k, "is torn and cannot be deleted");
			ledger_->told[k] = version;
			ledger_->changing[k] = false;
		}
	}

	Dir dir_;
	Ledger *ledger_ = nullptr;
	std::string complaints_;
	unsigned found_ = 0, torn_ = 0;
};

// C1
TEST_P(Crash, KilledAtAnyMomentNothingIsWrong)
{
	std::mt19937_64 random(draw_seed());
	const unsigned cycles = long_or(kind() == "fs" ? 200 : 500, 12);

	for (unsigned cycle = 0; cycle < cycles && !HasFailure(); cycle++) {
		live_and_die(random(), random() % 150, spec());
		ASSERT_FALSE(HasFailure());
		Adapter l2(spec());
		ASSERT_EQ(l2.error(), 0) << "cycle " << cycle;
		EXPECT_EQ(stale(), 0u);
		check(l2);
		ASSERT_EQ(complaints_, "") << "cycle " << cycle;
	}
	EXPECT_GT(found_, 20u);
	VERDICT("C1 %s: %u kills, %u found whole, %u torn", GetParam(), cycles, found_, torn_);
}

// A version that was never told of, or one that was and is not there, is seen.
TEST_P(Crash, ControlALedgerThatLiesIsSeen)
{
	live_and_die(2, 100, spec());
	ASSERT_FALSE(HasFailure());
	for (uint64_t k = 0; k < kKeys; k++) {
		ledger_->told[k] = ledger_->told[k] < 0 ? 7 : -1;
		ledger_->changing[k] = false;
	}
	Adapter l2(spec());
	ASSERT_EQ(l2.error(), 0);
	check(l2);
	EXPECT_NE(complaints_, "");
}

// Opened with other engines, or ways, than it was written with.
TEST_P(Crash, AnotherEngineFindsTheSame)
{
	live_and_die(1, 60, spec());
	ASSERT_FALSE(HasFailure());
	Adapter l2(kind() == "fs" ? spec() + ",threads=1,direct=off"
				  : spec(kind() == "uring" ? "threads" : "auto"));
	ASSERT_EQ(l2.error(), 0);
	check(l2);
	EXPECT_EQ(complaints_, "");
	EXPECT_GT(found_, 0u);
}

INSTANTIATE_TEST_SUITE_P(Stores, Crash, ::testing::Values("uring", "threads", "fs"),
			 [](const auto &info) { return std::string(info.param); });

} // namespace
} // namespace l2test
