// SPDX-License-Identifier: Apache-2.0
//
// store_scenario_test.cc - what users of such systems have suffered, each with its
// control: one slow adapter or one flooding space in everybody's way, lost signals,
// an adapter that dies, answers that make no sense, a stop in the middle of it all.
#include "host/controller_impl.h"
#include "tests/controller_jobs.h"
#include "tests/sanitizers.h"

#include <atomic>
#include <sys/eventfd.h>
#include <thread>

namespace
{

using namespace ctl;
using N = struct kvh_adapter_counters;

Options with(std::vector<std::string> l2, uint32_t retries = 2)
{
	Options options;

	options.l2 = std::move(l2);
	options.retries = retries;
	return options;
}

// ---- a slow adapter ---------------------------------------------------------

TEST(SlowAdapter, DelaysNobodyElse)
{
	Rig rig(with({"fault:slow,script=put x*:hang,next=mem:x,depth=1", "mem:b"}));
	constexpr uint64_t kChunks = 100;

	for (uint64_t i = 0; i < kChunks; i++)
		ASSERT_EQ(rig.store(rig.key(i)), 0);
	rig.until([&] { return rig.count(1, &N::puts) == kChunks; });
	EXPECT_EQ(rig.count(0, &N::puts), 0u);
	kvh_l1_evict(rig.l1, 0);
	Prefetch p(rig, hashes(1)); // and reads are served by the other
	p.start().wait();
	EXPECT_EQ(p.usable, 1u);
	Fault("slow").script("");
	Fault("slow").release();
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::puts), kChunks);
}

// Control: who waits for every adapter's answer does wait.
TEST(SlowAdapter, ControlItsOwnAnswerIsLate)
{
	Rig rig(with({"fault:slow,script=put x*:hang,next=mem", "mem:b"}));
	Persist persist;

	ASSERT_EQ(rig.store(rig.key(1), &persist), 0);
	rig.until([&] { return rig.count(1, &N::puts) == 1; });
	rig.rounds();
	EXPECT_EQ(persist.count.now(), 0u);
	Fault("slow").script("");
	Fault("slow").release();
	persist.count.wait();
}

// ---- a flooding space -------------------------------------------------------

// How many of the flood are stored before the other space's one chunk.
uint64_t before_the_other(bool same_space)
{
	// One at a time; the first hangs until all are in the queue.
	Options options = with({"fault:f,script=put@1:hang,next=mem:x,depth=1"});

	options.workers = 1; /* several seal out of order */
	Rig rig(options);
	std::atomic<uint64_t> flood{0}, seen{UINT64_MAX};
	struct Told : kvh_persist {
		std::function<void()> fn;
	} of_flood, of_other;

	of_flood.settled = of_other.settled = [](kvh_persist *p, uint32_t,
						 const kvh_store_outcome *) {
		static_cast<Told *>(p)->fn();
	};
	of_flood.fn = [&] { flood++; };
	of_other.fn = [&] { seen = flood.load(); };
	EXPECT_EQ(rig.store(rig.key(0)), 0);
	Fault("f").held(1);
	for (uint64_t i = 1; i <= 100; i++) {
		kvh_frame frame = rig.reserve(rig.key(i));

		EXPECT_EQ(kvh_controller_publish(rig.controller, frame, &of_flood), 0);
	}
	struct kvh_key other = rig.key(1000);

	if (!same_space)
		other.space ^= 1;
	kvh_frame frame = rig.reserve(other);

	EXPECT_EQ(kvh_controller_publish(rig.controller, frame, &of_other), 0);
	rig.until([&] { // all are sealed, and wait
		return kvh_counted(&kvh_adapter_counters(rig.adapter(0))->waiting) == 101;
	});
	Fault("f").release();
	rig.drain();
	EXPECT_EQ(flood, 100u);
	return seen;
}

TEST(FloodingSpace, DoesNotStarveAnother)
{
	EXPECT_LE(before_the_other(false), 2u);
}

TEST(FloodingSpace, ControlInTheSameSpaceItIsLast)
{
	EXPECT_EQ(before_the_other(true), 100u);
}

// ---- lost, doubled and impossible signals -----------------------------------

// Every signal of the listener is stolen: what was published is found by the sweep.
TEST(Signal, ALostOneCostsASweepAtMost)
{
	Options options = with({"mem"});

	options.sweep_ns = 20 * KVH_NS_PER_MS;
	Rig rig(options);

	for (uint64_t i = 0; i < 10; i++) {
		Persist persist;
		{
			LoopGate gate(rig); // so that it cannot be faster than the thief
			eventfd_t ignored;

			ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
			ASSERT_EQ(eventfd_read(kvh_listener_fd(&rig.controller->listener),
					       &ignored),
				  0);
		}
		persist.count.wait();
	}
	EXPECT_EQ(rig.count(0, &N::puts), 10u);
}

TEST(Signal, ControlWithoutTheSweepItIsLost)
{
	Options options = with({"mem"});

	options.sweep_ns = UINT64_MAX;
	Rig rig(options);
	Persist persist;
	{
		LoopGate gate(rig);
		eventfd_t ignored;

		ASSERT_EQ(rig.store(rig.key(1), &persist), 0);
		ASSERT_EQ(eventfd_read(kvh_listener_fd(&rig.controller->listener), &ignored),
			  0);
	}
	for (int i = 0; i < 20; i++)
		rig.rounds(); // it goes round, and does not look
	EXPECT_EQ(persist.count.now(), 0u);
	rig.close(); // looks once more
	EXPECT_EQ(persist.count.now(), 1u);
}

TEST(Signal, AnEventfdAtItsMaximumAndSpuriousOnes)
{
	Rig rig(with({"mem"}));
	const int fd = kvh_listener_fd(&rig.controller->listener);

	for (uint64_t i = 0; i < 100; i++) {
		(void)eventfd_write(fd, UINT64_MAX - 1); // a further write would be EAGAIN
		rig.store_wait(rig.key(i));
		(void)eventfd_write(fd, 1); // for nothing
	}
	EXPECT_EQ(rig.count(0, &N::puts), 100u);
}

// A million through the listener from two threads, with a thief at the signals and
// a sweep now and then: none is lost, none doubled, each thread's in order.
TEST(Signal, AMillionTasksNoneLost)
{
	constexpr uint64_t kEach = 500000;
	struct kvh_listener listener;
	std::atomic<bool> stop{false};
	std::vector<std::thread> threads;
	uint64_t next[2] = {0, 0}, total = 0;

	ASSERT_EQ(kvh_listener_open(&listener), 0);
	for (uint64_t t = 0; t < 2; t++)
		threads.emplace_back([&listener, t] {
			struct kvh_published items[50] = {};

			for (uint64_t i = 0; i < kEach; i += 50) {
				for (uint64_t k = 0; k < 50; k++)
					items[k].frame = (i + k) << 1 | t;
				ASSERT_EQ(kvh_listener_push(&listener, items, 50), 0);
			}
		});
	threads.emplace_back([&] {
		eventfd_t ignored;

		while (!stop)
			(void)eventfd_read(kvh_listener_fd(&listener), &ignored);
	});
	while (total < 2 * kEach) { // the sweep: it looks whether it was told or not
		struct kvh_published *items;
		const uint32_t n = kvh_listener_pop(&listener, &items);

		for (uint32_t i = 0; i < n; i++) {
			const uint64_t t = items[i].frame & 1;

			ASSERT_EQ(items[i].frame >> 1, next[t]);
			next[t]++;
		}
		total += n;
	}
	stop = true;
	for (std::thread &thread : threads)
		thread.join();
	EXPECT_EQ(kvh_listener_pushed(&listener), 2 * kEach);
	EXPECT_EQ(listener.n, 0u);
	kvh_listener_close(&listener);
}

// ---- an adapter that dies ----------------------------------------------------

TEST(DyingAdapter, IsLeftAloneItsTasksFailAndOthersGoOn)
{
	Log log;
	Options options = with({"fault:a,script=any@5:die,next=mem", "mem:b"}, 0);

	options.breaker = 3;
	Rig rig(options);

	for (uint64_t i = 0; i < 50; i++)
		rig.store_wait(rig.key(i));
	rig.drain();
	EXPECT_EQ(rig.count(1, &N::puts), 50u);
	EXPECT_EQ(rig.count(0, &N::puts), 4u);
	EXPECT_EQ(rig.count(0, &N::put_failed), 3u); // then it is not asked any more
	EXPECT_EQ(rig.count(0, &N::put_dropped), 43u);
	EXPECT_EQ(kvh_adapter_breaker(rig.adapter(0)), KVH_BREAKER_OPEN);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	Fault("a").script(""); // it is replaced, and found out by itself
	rig.until([&] { return kvh_adapter_breaker(rig.adapter(0)) == KVH_BREAKER_CLOSED; });
	rig.store_wait(rig.key(100));
	EXPECT_TRUE(rig.in_l2(0, rig.key(100)));
}

TEST(DyingAdapter, ControlWithoutABreakerEveryStoreIsTried)
{
	Log log;
	Rig rig(with({"fault:a,script=any@5:die,next=mem"}, 0));

	for (uint64_t i = 0; i < 50; i++)
		rig.store_wait(rig.key(i));
	EXPECT_EQ(rig.count(0, &N::put_failed), 46u);
}

// One that hangs for ever: its breaker opens, no buffer is freed, a stop is in time.
TEST(HangingAdapter, IsLeftAloneAndNoBufferIsFreed)
{
	Log log;
	Options options = with({"fault:a,script=any x*:hang=hard,next=mem", "mem:b"}, 0);

	options.deadline_ns = KVH_NS_PER_MS;
	options.breaker = 3;
	Rig rig(options);

	for (uint64_t i = 0; i < 10; i++)
		rig.store_wait(rig.key(i));
	rig.until([&] { return rig.metric(&kvh_metrics::l2_quarantined) >= 3; });
	EXPECT_EQ(rig.count(1, &N::puts), 10u);
	EXPECT_GE(rig.count(0, &N::breaker_opened), 1u);
	EXPECT_GE(rig.l1_stats().holds, 3u); // what it may still write from
	Fault("a").script("");
	Fault("a").release();
	rig.until([&] { return rig.l1_stats().holds == 0; });
}

// A failed store stays invisible, to look-ups and to reads.
TEST(FailedStore, IsNotSeen)
{
	Log log;
	Rig rig(with({"fault:a,script=put x*:fail=EIO,next=mem"}, 1));
	const struct kvh_key key = rig.key(1);
	uint8_t found = 0;

	rig.store_wait(key);
	rig.drain();
	kvh_l1_evict(rig.l1, 0);
	kvh_controller_peek(rig.controller, &key, 1, &found);
	EXPECT_EQ(found, 0);
	Prefetch p(rig, {hash_of(1)});

	p.start().wait();
	EXPECT_EQ(p.usable, 0u);
}

// ---- answers that make no sense -----------------------------------------------

uint32_t nonsense(uint64_t n)
{
	return uint32_t(n * UINT64_C(0x9E3779B97F4A7C15) >> 32);
}

uint32_t any_admit(void *self, const struct kvh_policy_chunk *)
{
	return nonsense(++*static_cast<uint64_t *>(self));
}

uint32_t any_targets(void *self, const struct kvh_policy_chunk *, uint32_t)
{
	return nonsense(++*static_cast<uint64_t *>(self));
}

uint32_t any_deletes(void *self, const struct kvh_policy_chunk *, uint32_t, uint32_t)
{
	return nonsense(++*static_cast<uint64_t *>(self));
}

TEST(BadCallback, AHundredThousandAnswersAndNoStuckTask)
{
	constexpr uint64_t kChunks = 100000;
	Log log;
	uint64_t state = 0;
	struct kvh_policy policy = {};
	Options options = with({"null:a", "null:b"});

	policy.version = KVH_POLICY_VERSION;
	policy.name = "nonsense";
	policy.arg = &state;
	policy.admit = any_admit;
	policy.targets = any_targets;
	policy.deletes = any_deletes;
	options.own_policy = &policy;
	Rig rig(options);
	Persist persist;

	for (uint64_t i = 0; i < kChunks; i++) {
		ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
		if (i % 64 == 63)
			persist.count.wait(i + 1); // L1 is small
	}
	persist.count.wait(kChunks);
	rig.drain();
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	EXPECT_GT(rig.metric(&kvh_metrics::policy_wrong), kChunks / 2);
	EXPECT_EQ(log.count("counted, and not said again"), 1u);
}

// ---- a stop with everything in flight ------------------------------------------

// Stores that wait, are sealed, out, late and backing off; a read; an erase; a flush;
// an adapter that drains. Whatever it meets, the stop ends them all, once each.
TEST(Stop, WithEverythingInFlightAThousandTimes)
{
	for (int round = 0; round < (TSAN ? 100 : 1000); round++) {
		Log log;
		Options options = with(
			{"fault:a,script=put@2x*:hang;get x*:hang,next=mem",
			 "fault:b,script=put@1x3:fail=EIO;put@4x*:delay=1,next=mem",
			 "mem:c,depth=2"},
			16);

		options.l1_bytes = 2 << 20;
		Rig rig(options);
		Persist persist;
		uint64_t n = 0;
		std::unique_ptr<Prefetch> p;
		std::unique_ptr<Erase> e;

		rig.preload(0, rig.key(100));
		for (uint64_t i = 0; i < 12; i++)
			n += rig.store(rig.key(i), &persist) == 0;
		p = std::make_unique<Prefetch>(rig, hashes(1, 100));
		p->start();
		e = std::make_unique<Erase>(rig, std::vector<struct kvh_key>{rig.key(3)});
		e->start();
		if (round % 3 == 0)
			rig.rounds();
		const uint64_t start = kvh_now_ns();

		ASSERT_EQ(rig.close(), 0);
		EXPECT_LT(kvh_now_ns() - start, 5 * kSecond);
		EXPECT_EQ(persist.count.now(), n);
		EXPECT_EQ(p->done.now(), 1u);
		EXPECT_EQ(e->done.now(), 1u);
		ASSERT_EQ(rig.metric(&kvh_metrics::store_waiting), 0u);
	}
}

} // namespace
