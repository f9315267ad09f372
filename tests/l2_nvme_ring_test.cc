// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_ring_test.cc - the nvme adapter where io_uring is refused, by a real
// seccomp filter, at each of its three calls; and with rings that are too small for
// what is asked of them: a million completions in the long form, none lost, none
// twice.
#include "tests/l2_harness.h"
#include "tests/long_run.h"

#include <cstddef>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <set>
#include <sys/prctl.h>
#include <sys/wait.h>

namespace l2test
{
namespace
{

// From now on, in this process, the call ends with the error.
bool refuse(unsigned call, unsigned error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {4, code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

enum { kWorks, kNoFilter, kNoOpen, kNoPut, kNoGet, kAskedForAndOpened };

// In a child: the filter cannot be taken away again.
int run_refused(const std::string &spec, unsigned call, unsigned error)
{
	const Buffer frame = make_frame(make_key(1), 150000), into(frame.size());

	if (!refuse(call, error))
		return kNoFilter;
	{
		Adapter l2(spec);

		if (l2.error() != 0)
			return kNoOpen;
		if (l2.put(make_key(1), frame) != 0)
			return kNoPut;
		if (l2.get(make_key(1), into) != 0 || !(into == frame))
			return kNoGet;
	}
	return Adapter(spec + ",engine=uring").error() < 0 ? kWorks : kAskedForAndOpened;
}

struct Refusal {
	const char *name;
	unsigned call, error;
};

class Seccomp : public ::testing::TestWithParam<Refusal>
{
};

// S9. Before the test, where nothing is refused, io_uring is what is used.
TEST_P(Seccomp, WhereTheRingIsRefusedThreadsAreUsed)
{
	Dir dir;
	const std::string spec = "nvme:" + dir.path() + "/l2,size=16M";
	const pid_t child = fork();
	int status = 0;

	if (child == 0) {
		alarm(kGuardMs / 1000);
		_exit(run_refused(spec, GetParam().call, GetParam().error));
	}
	ASSERT_EQ(waitpid(child, &status, 0), child);
	ASSERT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
	if (WEXITSTATUS(status) == kNoFilter)
		GTEST_SKIP() << "no seccomp filters here";
	EXPECT_EQ(WEXITSTATUS(status), kWorks);
	if (uring_works()) {
		EXPECT_EQ(Adapter(spec + ",engine=uring").error(), 0) << "the control";
	}
}

INSTANTIATE_TEST_SUITE_P(Calls, Seccomp,
			 ::testing::Values(Refusal{"setup_eperm", SYS_io_uring_setup, EPERM},
					   Refusal{"setup_enosys", SYS_io_uring_setup, ENOSYS},
					   Refusal{"register_eperm", SYS_io_uring_register,
						   EPERM},
					   Refusal{"enter_eperm", SYS_io_uring_enter, EPERM}),
			 [](const auto &info) { return std::string(info.param.name); });

// Keeps as much running as it can, and counts.
class Flood
{
      public:
	Flood(Adapter &l2, unsigned depth) : l2_(l2), ops_(depth)
	{
		for (Op &op : ops_)
			idle_.push_back(&op);
	}
	// Of each op that was accepted exactly one end is seen.
	void run(uint64_t count, std::mt19937_64 &random)
	{
		uint64_t begun = 0;

		while (begun < count || idle_.size() < ops_.size()) {
			while (begun < count && !idle_.empty() && start(random))
				begun++;
			if (idle_.size() < ops_.size())
				collect(random);
		}
	}
	uint64_t ended = 0, twice = 0, cancelled = 0, refused = 0;

      private:
	struct Op : kvh_l2_req {
		Buffer memory{8192};
		bool running = false;
	};

	bool start(std::mt19937_64 &random)
	{
		Op *op = idle_.back();
		const uint64_t k = random() % 16;

		static_cast<struct kvh_l2_req &>(*op) = make_req(KVH_L2_GET, make_key(k),
								 op->memory.data(), 8192);
		if (l2_.submit(op) != 0) {
			refused++;
			return false;
		}
		op->running = true;
		idle_.pop_back();
		return true;
	}
	void collect(std::mt19937_64 &random)
	{
		if (random() % 8 == 0) {
			Op &op = ops_[random() % ops_.size()];

			if (op.running && l2_.ops()->cancel != nullptr)
				l2_.ops()->cancel(l2_.self(), &op);
		}
		for (struct kvh_l2_req *req : l2_.wait(1)) {
			Op *op = static_cast<Op *>(req);

			twice += !op->running;
			ended++;
			cancelled += req->status == -ECANCELED;
			EXPECT_TRUE(req->status == 0 || req->status == -ECANCELED)
				<< strerror(-req->status);
			op->running = false;
			idle_.push_back(op);
		}
	}

	Adapter &l2_;
	std::vector<Op> ops_;
	std::vector<Op *> idle_;
};

class Rings : public ::testing::TestWithParam<std::tuple<const char *, int>>
{
};

// S9: more is asked for than the ring, or the pool, takes at once.
TEST_P(Rings, NothingIsLostOrDoubled)
{
	const std::string engine = std::get<0>(GetParam());
	const unsigned depth = static_cast<unsigned>(std::get<1>(GetParam()));

	if (engine == "uring" && !uring_works())
		GTEST_SKIP() << "io_uring is refused here";
	std::mt19937_64 random(draw_seed());
	Dir dir;
	Adapter l2("nvme:" + dir.path() + "/l2,size=16M,direct=off,threads=2,depth=" +
		   std::to_string(depth) + ",engine=" + engine);
	ASSERT_EQ(l2.error(), 0);
	for (uint64_t k = 0; k < 16; k++)
		ASSERT_EQ(l2.put(make_key(k), make_frame(make_key(k), 4096)), 0);

	const uint64_t count = long_or(engine == "uring" ? 400000 : 100000, 5000);
	Flood flood(l2, 2 * depth + 2);
	flood.run(count, random);
	EXPECT_EQ(flood.ended, count);
	EXPECT_EQ(flood.twice, 0u);
	EXPECT_GT(flood.refused, 0u) << "it was never full: this proves nothing";
	EXPECT_TRUE(l2.reap().empty());
	VERDICT("S9 %s depth %u: %" PRIu64 " ended, %" PRIu64 " cancelled, %" PRIu64
		" refused as full",
		engine.c_str(), depth, flood.ended, flood.cancelled, flood.refused);
}

INSTANTIATE_TEST_SUITE_P(Depths, Rings,
			 ::testing::Combine(::testing::Values("uring", "threads"),
					    ::testing::Values(1, 8, 256)),
			 [](const auto &info) {
				 return std::string(std::get<0>(info.param)) + "_" +
					std::to_string(std::get<1>(info.param));
			 });

} // namespace
} // namespace l2test
