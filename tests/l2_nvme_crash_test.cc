// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_crash_test.cc - a process that writes through the nvme adapter is
// killed at any moment. What it was told is on the disk is found, whole; what it
// was not told of is the old, the new, or a miss.
#include "tests/l2_nvme_io.h"

#include <csignal>
#include <sys/mman.h>
#include <sys/wait.h>

namespace l2test
{
namespace
{

constexpr uint64_t kKeys = 40;
constexpr uint32_t kDepth = 12;

// Shared with the child, which changes it before submit and after reap.
struct Ledger {
	std::atomic<int64_t> told[kKeys]; // version that is there; -1: none
	std::atomic<int64_t> next[kKeys]; // being put; -1: nothing, or a delete
	std::atomic<bool> changing[kKeys];
	std::atomic<uint64_t> ended;
};

uint64_t payload_of(uint64_t k)
{
	return k % 3 == 0 ? 20000 : k % 3 == 1 ? 150000 : 700000;
}

struct ChildOp : kvh_l2_req {
	Buffer memory{kvh_frame_bytes(700000)};
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

class Crash : public Nvme
{
      protected:
	void SetUp() override
	{
		Nvme::SetUp();
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

	void check(Adapter &l2)
	{
		const uint8_t digest[32] = {1};

		for (uint64_t k = 0; k < kKeys; k++) {
			const struct kvh_key key = make_key(k);
			const Buffer into(kvh_frame_bytes(payload_of(k)));
			const int status = l2.get(key, into);
			int64_t version = -1;

			ASSERT_TRUE(status == 0 || status == -ENOENT) << status;
			if (status == 0 && kvh_frame_verify(into.data(), into.size(), &key,
							    digest, nullptr) == 0) {
				struct kvh_frame_header header;

				memcpy(&header, into.data(), sizeof(header));
				version = static_cast<int64_t>(header.sequence) - 1;
				found_++;
				ASSERT_TRUE(into == make_frame(key, payload_of(k),
							       static_cast<uint64_t>(version)));
			} else if (status == 0) {
				torn_++;
			}
			if (!ledger_->changing[k]) {
				EXPECT_EQ(version, ledger_->told[k]) << "key " << k;
				EXPECT_TRUE(version >= 0 || status != 0) << "torn: key " << k;
			} else if (version >= 0) {
				EXPECT_TRUE(version == ledger_->told[k] ||
					    version == ledger_->next[k])
					<< "key " << k;
			}
			// What it is from now on; a torn one is deleted, as above us.
			if (status == 0 && version < 0) {
				EXPECT_EQ(l2.del(key), 0);
			}
			ledger_->told[k] = version;
			ledger_->changing[k] = false;
		}
	}

	Ledger *ledger_ = nullptr;
	unsigned found_ = 0, torn_ = 0;
};

TEST_P(Crash, KilledAtAnyMomentNothingIsWrong)
{
	const uint64_t seed = std::random_device{}();
	std::mt19937_64 random(seed);

	SCOPED_TRACE("seed " + std::to_string(seed));
	for (int cycle = 0; cycle < 12 && !HasFailure(); cycle++) {
		live_and_die(random(), random() % 150, spec("size=128M"));
		ASSERT_FALSE(HasFailure());
		Adapter l2(spec(""));
		ASSERT_EQ(l2.error(), 0) << "cycle " << cycle;
		check(l2);
	}
	EXPECT_GT(found_, 20u);
}

// The two engines read what the other left.
TEST_P(Crash, TheOtherEngineFindsTheSame)
{
	const std::string other = std::string(GetParam()) == "uring" ? "threads" : "auto";

	live_and_die(1, 60, spec("size=128M"));
	ASSERT_FALSE(HasFailure());
	Adapter l2("nvme:" + path() + ",engine=" + other);
	ASSERT_EQ(l2.error(), 0);
	check(l2);
	EXPECT_GT(found_, 0u);
}

INSTANTIATE_TEST_SUITE_P(Engines, Crash, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

} // namespace
} // namespace l2test
