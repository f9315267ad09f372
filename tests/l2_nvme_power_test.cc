// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_power_test.cc - the power fails under the nvme adapter: at any moment of a
// recorded log, with any of the writes that no flush holds kept, lost or torn; and
// again while it recovers. `make crash` has the long form.
#include "tests/crash_ledger.h"
#include "tests/long_run.h"

namespace l2test
{
namespace
{

struct Store {
	const char *label, *sync;
	Promise promise;
	const char *size;
	uint64_t keys;
	bool evicts;
};

std::ostream &operator<<(std::ostream &os, const Store &s)
{
	return os << s.label;
}

const Store kStores[] = {
	{"every_write", "write", Promise::kEvery, "8M", 40, false},
	{"every_write_evicts", "write", Promise::kEvery, "1M", 80, true},
	{"close", "close", Promise::kPoint, "8M", 40, false},
	{"close_evicts", "close", Promise::kPoint, "1M", 80, true},
	{"none", "none", Promise::kPoint, "8M", 40, false},
};
const Store &kNoFlush = kStores[4];

// One store from its making over several sessions, recorded.
class History
{
      public:
	History(const Store &store, const std::string &engine, uint64_t seed)
	    : spec_("nvme:/disk/l2,check=5,threads=4,depth=8,engine=" + engine +
		    ",sync=" + store.sync),
	      size_(store.size), store_(store), random_(seed)
	{
	}

	DiskModel disk;
	CrashLedger ledger;
	unsigned misread = 0; // while it lived

	void live(unsigned sessions = 3)
	{
		CrashLoad load([this] { return disk.moment(); }, ledger, store_.keys, 6);

		for (unsigned i = 0; i < sessions; i++) {
			const uint64_t failed = disk.failed_flushes();
			{
				Adapter l2(spec(), DiskModel::ops(), &disk);

				if (l2.error() == 0)
					load.run(l2, 20 + static_cast<unsigned>(random_() % 40),
						 random_);
				else
					EXPECT_GT(disk.failed_flushes(), failed);
			}
			const uint64_t now = disk.moment();
			if (disk.failed_flushes() != failed)
				ledger.forsake(now);
			else if (std::string(store_.sync) != "none") // its closes hold nothing
				ledger.point(now, now);
		}
		misread = load.misread();
		end_ = disk.moment();
	}
	uint64_t any_moment()
	{
		return 1 + random_() % end_;
	}
	// Opens what a cut left, checks it, and cuts again while it was opened and
	// closed, `depth` times.
	void cut_and_check(uint64_t at, unsigned depth, bool verifies, Findings *findings)
	{
		Image left = disk.cut(at, random_);

		for (unsigned i = 0;; i++) {
			DiskModel next(left);

			next.logs = i < depth;
			{
				Adapter l2(spec(), DiskModel::ops(), &next);

				ledger.check(l2, at, store_.promise, store_.evicts, verifies,
					     findings);
			}
			if (i == depth || !findings->clean())
				return;
			left = next.cut(1 + random_() % next.moment(), random_);
		}
	}
	std::string spec() const
	{
		return spec_ + ",size=" + size_;
	}

      private:
	std::string spec_, size_;
	const Store store_;
	std::mt19937_64 random_;
	uint64_t end_ = 0;
};

class Power : public ::testing::TestWithParam<std::tuple<Store, const char *>>
{
      protected:
	void SetUp() override
	{
		if (engine() == "uring" && !uring_works())
			GTEST_SKIP() << "io_uring is refused here";
	}
	const Store &store() const
	{
		return std::get<0>(GetParam());
	}
	std::string engine() const
	{
		return std::get<1>(GetParam());
	}
	// `cuts` of them, a hundred from each history.
	Findings cut(unsigned cuts, unsigned depth, uint64_t seed)
	{
		Findings findings;
		Log log(KVH_LOG_ERROR);

		for (unsigned done = 0; done < cuts && findings.clean(); seed++) {
			History history(store(), engine(), seed);

			history.live();
			EXPECT_EQ(history.misread, 0u);
			for (unsigned i = 0; i < 100 && done < cuts; i++, done++) {
				history.cut_and_check(history.any_moment(), depth, true,
						      &findings);
				if (!findings.clean()) {
					ADD_FAILURE() << "seed " << seed << ", cut " << i
						      << ": " << findings << "\n"
						      << log.text();
					break;
				}
			}
		}
		return findings;
	}
};

// C3
TEST_P(Power, CutAnywhereNothingIsWrong)
{
	const Findings findings = cut(long_or(1300, 50), 0, draw_seed());

	EXPECT_TRUE(findings.clean()) << findings;
	EXPECT_GT(findings.found, findings.opens) << "the cuts left too little to prove it";
	VERDICT("C3 %s %s: %u cuts, %u found, %u torn, %u wrong, %u lost, %u failed opens",
		store().label, engine().c_str(), findings.opens, findings.found, findings.torn,
		findings.wrong, findings.lost, findings.failed_opens);
}

// C5
TEST_P(Power, CutAgainWhileItRecovers)
{
	const Findings findings = cut(long_or(200, 12), 3, draw_seed());

	EXPECT_TRUE(findings.clean()) << findings;
	VERDICT("C5 %s %s: %u recoveries, %u failed opens, %u wrong", store().label,
		engine().c_str(), findings.opens, findings.failed_opens, findings.wrong);
}

// S10: what the failed flush should have held is not promised, and no later flush
// makes up for it; but what a later session puts is held by that one's flushes.
TEST_P(Power, AFlushThatFailsOncePromisesNothing)
{
	std::mt19937_64 random(draw_seed());
	Findings findings;
	unsigned failed = 0;
	Log log;

	for (unsigned i = 0; i < long_or(100, 8); i++) {
		const uint64_t seed = random();
		History history(store(), engine(), seed);

		history.disk.fail_flush(2 + random() % 14);
		history.live();
		EXPECT_EQ(history.misread, 0u);
		failed += history.disk.failed_flushes() > 0;
		for (unsigned n = 0; n < 8; n++)
			history.cut_and_check(history.any_moment(), 0, true, &findings);
	}
	EXPECT_TRUE(findings.clean()) << findings << "\n" << log.text();
	EXPECT_GT(failed, 0u);
	VERDICT("S10 %s %s: %u flushes failed, %u cuts, %u wrong, %u lost", store().label,
		engine().c_str(), failed, findings.opens, findings.wrong, findings.lost);
}

INSTANTIATE_TEST_SUITE_P(All, Power,
			 ::testing::Combine(::testing::ValuesIn(kStores),
					    ::testing::Values("threads", "uring")),
			 [](const auto &info) {
				 return std::string(std::get<0>(info.param).label) + "_" +
					std::get<1>(info.param);
			 });

// ---- what the suite above must notice ----

// A store of the controls', over so many histories, until `what` was found.
template <typename Prepare>
unsigned control(const Store &store, bool verifies, unsigned Findings::*what, Prepare prepare)
{
	Findings findings;
	Log log(KVH_LOG_ERROR);

	for (uint64_t seed = 1; seed < 30 && findings.*what == 0; seed++) {
		History history(store, "threads", seed);

		prepare(history.disk);
		history.live();
		for (unsigned i = 0; i < 60 && findings.*what == 0; i++)
			history.cut_and_check(history.any_moment(), 0, verifies, &findings);
	}
	return findings.*what;
}

void as_it_is(DiskModel &)
{
}

TEST(PowerControl, WithoutVerificationWrongBytesAreSeen)
{
	EXPECT_GT(control(kNoFlush, false, &Findings::wrong, as_it_is), 0u);
}

TEST(PowerControl, ADiskThatIgnoresFlushesIsSeen)
{
	EXPECT_GT(control(kStores[2], true, &Findings::lost,
			  [](DiskModel &disk) { disk.ignores_flushes = true; }),
		  0u);
}

TEST(PowerControl, ADiskThatDropsWipesIsSeen)
{
	EXPECT_GT(control(kStores[0], true, &Findings::risen,
			  [](DiskModel &disk) { disk.drops_zeros = true; }),
		  0u);
}

// A store that promises more than it was asked to keep is found out.
TEST(PowerControl, APromiseThatIsNotKeptIsSeen)
{
	Store store = kNoFlush;

	store.promise = Promise::kEvery;
	EXPECT_GT(control(store, true, &Findings::lost, as_it_is), 0u);
}

} // namespace
} // namespace l2test
