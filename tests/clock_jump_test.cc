// SPDX-License-Identifier: Apache-2.0
//
// clock_jump_test.cc - the wall clock jumps by ten years, there and back, while the
// engine works (scenario X10): no deadline fires, none is lost, nothing is evicted
// or forgotten. Calls for the time are taken over by this program, the library's
// among them.
#include "engine_harness.h"
#include "host/clock.h"

#include <atomic>
#include <sys/syscall.h>
#include <sys/time.h>
#include <thread>
#include <unistd.h>

namespace
{

std::atomic<int64_t> jump_s{0};      /* of CLOCK_REALTIME */
std::atomic<int64_t> monotonic_s{0}; /* of CLOCK_MONOTONIC: the control's */
std::atomic<uint64_t> asked{0};      /* for the wall clock */

} // namespace

/* In front of the C library's. */
extern "C" int clock_gettime(clockid_t id, struct timespec *ts) noexcept
{
	const long rc = syscall(SYS_clock_gettime, id, ts);

	if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) {
		ts->tv_sec += jump_s.load();
		asked++;
	} else if (id == CLOCK_MONOTONIC) {
		ts->tv_sec += monotonic_s.load();
	}
	return static_cast<int>(rc);
}

extern "C" time_t time(time_t *at) noexcept
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (at != nullptr)
		*at = ts.tv_sec;
	return ts.tv_sec;
}

namespace
{

using namespace enginetest;

constexpr int64_t kTenYears = INT64_C(10) * 365 * 24 * 3600;
constexpr uint32_t kChunks = 8;

/* There, back, and the other way, for as long as it lives. */
class Jumps
{
      public:
	Jumps()
	    : thread_([this] {
		      for (uint64_t i = 0; !stop_.load(); i++) {
			      jump_s = (i % 2 == 0 ? 1 : -1) * kTenYears;
			      n_++;
			      std::this_thread::yield();
		      }
	      })
	{
	}
	~Jumps()
	{
		stop_ = true;
		thread_.join();
		jump_s = 0;
	}
	uint64_t n() const
	{
		return n_.load();
	}

      private:
	std::atomic<bool> stop_{false};
	std::atomic<uint64_t> n_{0};
	std::thread thread_;
};

TEST(ClockJump, ControlTheClockOfThisProgramJumps)
{
	struct timespec before, after;

	clock_gettime(CLOCK_REALTIME, &before);
	jump_s = kTenYears;
	clock_gettime(CLOCK_REALTIME, &after);
	jump_s = 0;
	EXPECT_GT(after.tv_sec - before.tv_sec, kTenYears - 60);
	EXPECT_LT(time(nullptr), after.tv_sec);
}

TEST(ClockJump, StoresAndPrefetchesGoOn)
{
	const std::string adapters[] = {"mem:", "fs:", "nvme:,size=64M",
					"nvme:,size=64M,engine=threads"};
	const uint64_t before = asked.load();

	for (const auto &spec : adapters) {
		const size_t colon = spec.find(':') + 1;
		Opts opts;
		Dir dir;

		opts.l2 = {spec == "mem:" ? spec
					  : spec.substr(0, colon) + dir.path() + "/l2" +
						    spec.substr(colon)};
		Engine engine(opts);
		Desc desc;
		Pool pool(engine, desc.layout, engine.space(desc));
		Queue queue(engine);
		Jumps jumps;

		for (uint64_t round = 0; round < 20; round++) {
			pool.give_all();
			EXPECT_EQ(kChunks, store_prompt(queue, pool, prompt(round, kChunks),
							KVH_STORE_PERSISTED));
			engine.evict();
			pool.give_all();
			EXPECT_EQ(kChunks, fetch_and_check(queue, pool, prompt(round, kChunks)))
				<< spec;
		}
		const kvh_status st = engine.status();
		kvh_l2_status l2{};

		l2.size = sizeof(l2);
		EXPECT_EQ(0, kvh_l2_status_get(engine.get(), 0, &l2));
		EXPECT_EQ(0u, l2.timeouts) << spec;
		EXPECT_EQ(0u, l2.put_failed + l2.put_dropped + l2.get_failed) << spec;
		EXPECT_EQ(0u, st.store_failed + st.misses + st.corrupt) << spec;
		EXPECT_GT(jumps.n(), 20u) << "the clock has to have jumped meanwhile";
	}
	EXPECT_GT(asked.load(), before)
		<< "an engine's first store sequence is the wall clock's";
}

/* A deadline ends a prefetch in its own time, whatever the wall clock says. */
TEST(ClockJump, DeadlinesAreKept)
{
	Opts opts;

	opts.l2 = {"fault:,script=get x*:delay=100000,next=mem:"};
	Engine engine(opts);
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	Job job;
	Jumps jumps;

	EXPECT_EQ(kChunks, store_prompt(queue, pool, prompt(1, kChunks), KVH_STORE_PERSISTED));
	engine.evict();
	ASSERT_EQ(0, queue.prefetch(job, prefix_of(pool, prompt(1, kChunks)), 0,
				    300 * UINT64_C(1000000)));
	const uint64_t began = kvh_now_ns();
	const kvh_event end = queue.finish(job);

	EXPECT_EQ(-ETIMEDOUT, end.status);
	EXPECT_GE(kvh_now_ns() - began, 200 * UINT64_C(1000000)) << "no earlier";
}

/* The control: were deadlines of a clock that jumps, they would fire at once. */
TEST(ClockJump, ControlAJumpOfTheClockThatIsUsedShows)
{
	Opts opts;

	opts.l2 = {"fault:,script=get x*:delay=100000,next=mem:"};
	Engine engine(opts);
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	Job job, other;

	EXPECT_EQ(kChunks, store_prompt(queue, pool, prompt(1, kChunks), KVH_STORE_PERSISTED));
	engine.evict();
	ASSERT_EQ(0, queue.prefetch(job, prefix_of(pool, prompt(1, kChunks)), 0,
				    UINT64_C(3600000000000)));
	monotonic_s = kTenYears;
	/* Its own work makes the controller look at the time. */
	ASSERT_EQ(0, queue.prefetch(other, prefix_of(pool, prompt(2, 1))));
	EXPECT_EQ(-ETIMEDOUT, queue.finish(job).status) << "an hour has not passed";
	queue.finish(other);
	monotonic_s = 0;
}

} // namespace
