// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_kill_test.cc - the process dies at the n-th call that changes the disk,
// for every n of a life that does all there is to do: formats, grows, replaces,
// deletes, evicts, gives a segment to another size, closes, opens. And who owns a
// store whose owner died. `make crash` has the long form.
#include "tests/crash_ledger.h"
#include "tests/long_run.h"

#include <atomic>
#include <sys/wait.h>

namespace l2test
{
namespace
{

// How far the child came; it lies in memory that both have.
struct Progress {
	std::atomic<uint32_t> begun, told;
	std::atomic<uint64_t> changes;
};

// Made by the parent, so that it has what the child wrote.
const Image kEmpty = {{"/disk/l2", {}}};

struct Step {
	uint64_t k;
	int64_t version; // kGone: a delete
	bool reopens;    // before it
};

// Small frames until they fill the store, then large ones, which take from them.
std::vector<Step> script(uint64_t seed)
{
	std::mt19937_64 random(seed);
	std::vector<Step> steps;

	for (int64_t i = 0; i < 70; i++) {
		const bool large = i > 50;
		// Payloads go by key: 0 small, 1 middle, 2 large, but for multiples of 5.
		const uint64_t k = large ? 2 + 3 * (30 + random() % 8) : 3 * (random() % 30);
		const bool deletes = random() % 6 == 0;

		steps.push_back({k, deletes ? kGone : i, i == 25 || i == 60});
	}
	return steps;
}

class Kill : public ::testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		if (std::string(GetParam()) == "uring" && !uring_works())
			GTEST_SKIP() << "io_uring is refused here";
		void *memory = mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		ASSERT_NE(memory, MAP_FAILED);
		progress_ = new (memory) Progress{};
	}
	void TearDown() override
	{
		if (progress_ != nullptr)
			munmap(progress_, sizeof(Progress));
	}
	std::string spec() const
	{
		return "nvme:/disk/l2,size=" + size_ +
		       ",depth=4,threads=1,engine=" + GetParam();
	}

	// In the child: no gtest.
	int live(DiskModel &disk, const std::vector<Step> &steps)
	{
		auto l2 = std::make_unique<Adapter>(spec(), DiskModel::ops(), &disk);

		for (uint32_t i = 0; i < steps.size(); i++) {
			const Step &step = steps[i];

			if (step.reopens) {
				l2.reset();
				l2 = std::make_unique<Adapter>(spec(), DiskModel::ops(), &disk);
			}
			if (l2->error() != 0)
				return 1;
			progress_->begun = i + 1;
			const int ret = step.version == kGone
						? l2->del(CrashLedger::key(step.k))
						: l2->put(CrashLedger::key(step.k),
							  CrashLedger::frame(step.k,
									     step.version));
			if (ret != 0 && ret != -ENOENT)
				return 2;
			progress_->told = i + 1;
		}
		l2.reset();
		progress_->changes = disk.changes();
		return 0;
	}
	// How it ended, as wait says; SIGKILL at the n-th change.
	int run(DiskModel &disk, const std::vector<Step> &steps, uint64_t n,
		DiskModel::Death how)
	{
		progress_->begun = progress_->told = 0;
		disk.logs = false;
		disk.die_at(n, how);
		const pid_t child = fork();
		if (child == 0)
			_exit(live(disk, steps));

		int status = -1;
		EXPECT_EQ(waitpid(child, &status, 0), child);
		disk.die_at(0, how);
		return status;
	}
	// What the child was told, in moments of the steps.
	CrashLedger ledger(const std::vector<Step> &steps) const
	{
		CrashLedger ledger;

		for (uint32_t i = 0; i < progress_->begun; i++) {
			ledger.begin(steps[i].k, steps[i].version, 2 * i + 1);
			if (i < progress_->told)
				ledger.end(steps[i].k, 2 * i + 2);
		}
		return ledger;
	}

	// Every call of one life, or in the short form each in one way of three.
	void die_everywhere(uint64_t seed)
	{
		const std::vector<Step> steps = script(seed);
		DiskModel whole(kEmpty);

		ASSERT_EQ(run(whole, steps, 0, DiskModel::kBefore), 0);
		const uint64_t calls = progress_->changes;
		for (uint64_t n = 1; n <= calls; n++) {
			for (unsigned how = 0; how < 3; how++) {
				if (!is_long() && how != n % 3)
					continue;
				die_once(steps, n, static_cast<DiskModel::Death>(how));
				ASSERT_TRUE(findings_.clean())
					<< "seed " << seed << ", size " << size_ << ", call "
					<< n << " of " << calls << ", way " << how << ": "
					<< findings_;
			}
		}
	}
	void die_once(const std::vector<Step> &steps, uint64_t n, DiskModel::Death how)
	{
		DiskModel disk(kEmpty);
		const int status = run(disk, steps, n, how);

		points_++;
		reached_ += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
		Adapter l2(spec(), DiskModel::ops(), &disk);
		ledger(steps).check(l2, UINT64_MAX - 1, Promise::kEvery, size_ == "1M", true,
				    &findings_);
	}

	Progress *progress_ = nullptr;
	std::string size_ = "1M"; // too little for all of it
	Findings findings_;
	uint64_t points_ = 0, reached_ = 0;
};

// C2: the calls are the points, so none has to be named in the product.
TEST_P(Kill, DiesAtEveryCallThatChangesTheDisk)
{
	const uint64_t first = draw_seed();
	Log log(KVH_LOG_ERROR);

	for (uint64_t seed = first; seed < first + long_or(4, 1); seed++) {
		for (const char *size : {"1M", "8M"}) {
			size_ = size;
			die_everywhere(seed);
			ASSERT_FALSE(HasFailure()) << log.text();
		}
	}
	EXPECT_EQ(reached_, points_);
	EXPECT_GT(points_, 100u);
	EXPECT_GT(findings_.found, points_) << "nothing outlived the kills: they prove nothing";
	VERDICT("C2 %s: %" PRIu64 " of %" PRIu64 " points, %u found, %u wrong, %u failed opens",
		GetParam(), reached_, points_, findings_.found, findings_.wrong,
		findings_.failed_opens);
}

// The check sees it if what the child was told is not what it did.
TEST_P(Kill, ControlALedgerThatLiesIsSeen)
{
	const std::vector<Step> steps = script(1);
	unsigned seen = 0;

	for (uint32_t i = 0; i < steps.size(); i++) {
		DiskModel disk(kEmpty);
		Findings findings;

		ASSERT_EQ(run(disk, steps, 0, DiskModel::kBefore), 0);
		std::vector<Step> others = steps;
		others[i].version = others[i].version == kGone ? 1000 : kGone;
		Adapter l2(spec(), DiskModel::ops(), &disk);
		ledger(others).check(l2, UINT64_MAX - 1, Promise::kEvery, false, true,
				     &findings);
		seen += !findings.clean();
	}
	EXPECT_GT(seen, 0u);
}

INSTANTIATE_TEST_SUITE_P(Engines, Kill, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

// ---- C9 ----

class Owner : public Kill
{
      protected:
	std::string file() const
	{
		return "nvme:" + dir_.path() + "/l2,size=16M,engine=" + GetParam();
	}
	// Opens, says so, and writes until it is killed.
	pid_t own(int go)
	{
		const pid_t child = fork();

		if (child != 0)
			return child;
		Adapter l2(file());
		char byte = l2.error() == 0;
		for (uint64_t k = 0; byte == 1; k++) {
			const Buffer frame = make_frame(make_key(k % 20), 150000, k);

			if (l2.put(make_key(k % 20), frame) != 0 ||
			    (k == 20 && write(go, &byte, 1) != 1))
				break;
		}
		_exit(1);
	}

	Dir dir_;
	double worst_ = 0;
};

TEST_P(Owner, OneAtATimeAndTheNextWhenItDied)
{
	for (unsigned i = 0; i < long_or(50, 3); i++) {
		int go[2];
		char byte = 0;
		Log log(KVH_LOG_ERROR);

		ASSERT_EQ(pipe(go), 0);
		const pid_t child = own(go[1]);
		ASSERT_EQ(read(go[0], &byte, 1), 1);
		{
			const Adapter second(file());

			EXPECT_EQ(second.error(), -EBUSY);
		}
		EXPECT_GE(log.count(std::to_string(child)), 1u)
			<< "does not name the owner: " << log.text();
		kill(child, SIGKILL);
		ASSERT_EQ(waitpid(child, nullptr, 0), child);

		struct timespec before, after;
		clock_gettime(CLOCK_MONOTONIC, &before);
		{
			Adapter next(file());

			ASSERT_EQ(next.error(), 0) << log.text();
			EXPECT_EQ(next.usage().objects, 20u);
		}
		clock_gettime(CLOCK_MONOTONIC, &after);
		const double took = static_cast<double>(after.tv_sec - before.tv_sec) +
				    static_cast<double>(after.tv_nsec - before.tv_nsec) / 1e9;
		worst_ = std::max(worst_, took);
		::close(go[0]);
		::close(go[1]);
	}
	VERDICT("C9 %s: takeover within %.3f s of the owner's death", GetParam(), worst_);
}

INSTANTIATE_TEST_SUITE_P(Engines, Owner, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

} // namespace
} // namespace l2test
