// SPDX-License-Identifier: Apache-2.0
//
// controller_close_test.cc - a stop with work in flight: bounded in time, every
// owner told once, every hold back, nothing freed that an adapter may still touch.
#include "tests/controller_jobs.h"

#include <thread>

namespace
{

using namespace ctl;
using N = struct kvh_adapter_counters;
using M = struct kvh_metrics;

Options with(std::vector<std::string> l2)
{
	Options options;

	options.l2 = std::move(l2);
	return options;
}

TEST(Drain, WaitsForWhatIsPublished)
{
	Rig rig(with({"fault:a,script=put@1:hang,next=mem"}));

	rig.drain(); // there is nothing
	ASSERT_EQ(rig.store(rig.key(1)), 0);
	Fault("a").held(1);
	EXPECT_FALSE(kvh_controller_drain_wait(rig.controller, 0)); // does not wait
	EXPECT_FALSE(
		kvh_controller_drain_wait(rig.controller, kvh_deadline_ns(5 * KVH_NS_PER_MS)));
	Fault("a").release();
	EXPECT_TRUE(kvh_controller_drain_wait(rig.controller, UINT64_MAX));
	EXPECT_TRUE(rig.in_l2(0, rig.key(1)));
}

TEST(Close, WithStoresThatAreOutAndWaiting)
{
	Rig rig(with({"fault:a,script=put x*:hang,next=mem:x,depth=2", "mem:b"}));
	Persist persist;

	for (uint64_t i = 0; i < 10; i++)
		ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
	Fault("a").held(2);
	EXPECT_EQ(rig.close(), 0);
	EXPECT_EQ(persist.count.now(), 10u); // each once
	EXPECT_EQ(rig.metric(&M::store_waiting), 0u);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	EXPECT_EQ(rig.l1_stats().frames, 10u); // L1 is not the controller's
}

TEST(Close, WithStoresNotHeardOfYet)
{
	Rig rig(with({"mem"}));
	Persist persist;
	std::unique_ptr<LoopGate> gate = std::make_unique<LoopGate>(rig);

	for (uint64_t i = 0; i < 10; i++)
		ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
	std::thread closer([&rig] { EXPECT_EQ(rig.close(), 0); });

	gate.reset();
	closer.join();
	EXPECT_EQ(persist.count.now(), 10u);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

TEST(Close, WithStoresBeingSealed)
{
	Options options = with({"mem:a", "mem:b"});

	options.workers = 1;
	Rig rig(options);
	Persist persist;
	std::unique_ptr<WorkerGate> gate = std::make_unique<WorkerGate>(rig);

	for (uint64_t i = 0; i < 10; i++)
		ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
	rig.rounds();
	std::thread closer([&rig] { EXPECT_EQ(rig.close(), 0); });

	gate.reset();
	closer.join();
	EXPECT_EQ(persist.count.now(), 10u);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

// The put that is tried again is the last of its chunk to settle, but not the
// last in its row.
TEST(Close, WithStoresInBackoff)
{
	Options options = with({"fault:a,script=put x*:fail=EIO,next=mem", "mem:b"});

	options.retries = 16;
	Rig rig(options);
	Persist persist;

	for (uint64_t i = 0; i < 10; i++)
		ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
	rig.until([&] { return rig.count(0, &N::put_retried) >= 30; });
	rig.until([&] { return rig.count(1, &N::puts) == 10; });
	EXPECT_EQ(rig.close(), 0);
	EXPECT_EQ(persist.count.now(), 10u);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

TEST(Close, EndsPrefetchesWithoutALease)
{
	Rig rig(with({"fault:a,next=mem:x,depth=3"}));

	for (uint64_t i = 0; i < 10; i++)
		rig.preload(0, rig.key(i));
	Fault("a").script("get@2x*:hang");
	Prefetch p(rig, hashes(10)), q(rig, hashes(5, 3));

	p.start();
	q.start();
	Fault("a").held(3);
	EXPECT_EQ(rig.close(), 0);
	for (Prefetch *each : {&p, &q}) {
		EXPECT_EQ(each->done.now(), 1u);
		EXPECT_EQ(each->status, -ECANCELED);
		EXPECT_EQ(each->usable, 0u);
		EXPECT_EQ(each->leased(), 0u);
	}
	EXPECT_LE(rig.l1_stats().frames, 1u); // nothing is left FILLING
}

TEST(Close, WithAProbeThatIsOut)
{
	Rig rig(with({"fault:a,script=probe x*:hang,next=null"}));
	Prefetch p(rig, hashes(4));

	p.start();
	Fault("a").held(4);
	EXPECT_EQ(rig.close(), 0);
	EXPECT_EQ(p.status, -ECANCELED);
}

TEST(Close, WithAFrameBeingVerified)
{
	Options options = with({"mem"});

	options.workers = 1;
	Rig rig(options);

	rig.preload(0, rig.key(0));
	Prefetch p(rig, hashes(1));
	std::unique_ptr<WorkerGate> gate = std::make_unique<WorkerGate>(rig);

	p.start();
	rig.until([&] { return rig.find(rig.key(0)) == 2; });
	rig.until([&] { return rig.count(0, &N::inflight) == 0; });
	std::thread closer([&rig] { EXPECT_EQ(rig.close(), 0); });

	p.wait(); // close has begun
	gate.reset();
	closer.join();
	EXPECT_EQ(p.status, -ECANCELED);
	EXPECT_EQ(p.leased(), 0u);
}

TEST(Close, WhatIsPostedBehindItEnds)
{
	Rig rig(with({"mem"}));
	Prefetch p(rig, hashes(2));
	Erase e(rig, {rig.key(0)});
	std::unique_ptr<LoopGate> gate = std::make_unique<LoopGate>(rig);
	Count closing;
	std::thread closer([&] {
		closing.add();
		EXPECT_EQ(rig.close(), 0);
	});

	closing.wait();
	p.start();
	e.start();
	gate.reset();
	closer.join();
	p.wait();
	e.wait();
	EXPECT_TRUE(p.status == -ECANCELED || p.status == 0) << p.status;
	EXPECT_TRUE(e.result[0] == -ECANCELED || e.result[0] == -ENOENT) << e.result[0];
}

// ---- an adapter that never answers ------------------------------------------

// Not even close may take these requests back. The memory stays: ours, mapped and
// as it was. What is left behind is reachable from the adapter's list.
TEST(CloseHung, IsBoundedAndFreesNothing)
{
	Log log;
	Options options = with({"fault:stuck,next=mem", "mem:b"});
	Persist persist;
	Rig &rig = *new Rig(options);
	Fault fault("stuck");

	rig.preload(0, rig.key(100));
	fault.script("any x*:hang=hard");
	ASSERT_EQ(rig.store(rig.key(1), &persist), 0);
	fault.held(1);
	Prefetch p(rig, {hash_of(100)});
	Erase e(rig, {rig.key(2)});

	p.start();
	e.start();
	fault.held(3);
	rig.until([&] { return rig.count(1, &N::puts) == 1; });
	const uint64_t used = rig.l1_stats().used_bytes;
	const struct kvh_key key = rig.key(1);
	kvh_frame frame;

	ASSERT_EQ(kvh_l1_hold_key(rig.l1, &key, &frame), 0);
	const uint8_t *data = static_cast<uint8_t *>(kvh_l1_data(rig.l1, frame));

	kvh_l1_unhold(rig.l1, frame);
	EXPECT_EQ(rig.close(KVH_NS_PER_MS), -ETIMEDOUT);
	EXPECT_EQ(persist.count.now(), 1u);
	EXPECT_EQ(p.status, -ECANCELED);
	EXPECT_EQ(e.result[0], -ETIMEDOUT);
	EXPECT_EQ(rig.metric(&M::l2_quarantined), 2u);
	EXPECT_EQ(log.count("3 requests are still out, their memory stays mapped"), 1u);
	// Neither frame is given to anybody again, nor to be found.
	EXPECT_EQ(rig.l1_stats().used_bytes, used);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	EXPECT_EQ(rig.find(key), 0);
	kvh_l1_evict(rig.l1, 0);
	EXPECT_EQ(rig.l1_stats().used_bytes, used);
	std::vector<uint8_t> want(rig.payload_bytes());

	Rig::pattern(key, want.size(), want.data());
	EXPECT_EQ(memcmp(data + KVH_FRAME_ALIGN, want.data(), want.size()), 0);
}

// The others are closed, and their work is given back, whatever the order.
TEST(CloseHung, TheOtherAdaptersAreClosed)
{
	for (bool first : {false, true}) {
		Log log;
		const std::string stuck = first ? "fault:stuck-first,next=mem"
						: "fault:stuck-last,next=mem";
		Options options = with(
			{first ? stuck : "fault:well,script=put x*:hang,next=mem",
			 first ? "fault:well,script=put x*:hang,next=mem" : stuck});
		Rig &rig = *new Rig(options); // as above
		Persist persist;

		Fault(first ? "stuck-first" : "stuck-last").script("put x*:hang=hard");
		for (uint64_t i = 0; i < 3; i++)
			ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
		Fault(first ? "stuck-first" : "stuck-last").held(3);
		Fault("well").held(3);
		EXPECT_EQ(rig.close(KVH_NS_PER_MS), -ETIMEDOUT);
		EXPECT_EQ(persist.count.now(), 3u);
		EXPECT_EQ(kvh_fault_find("well"), nullptr); // is gone
		EXPECT_EQ(rig.l1_stats().holds, 0u);
	}
}

// The same requests, but the adapter lets go while close waits: all is freed.
TEST(CloseHung, ThatLetsGoInTimeIsClosedAndFreed)
{
	Rig rig(with({"fault:a,next=mem", "mem:b"}));
	Persist persist;

	rig.preload(0, rig.key(100));
	Fault("a").script("any x*:hang=hard");
	ASSERT_EQ(rig.store(rig.key(1), &persist), 0);
	Prefetch p(rig, {hash_of(100)});

	p.start();
	Fault("a").held(2);
	Fault fault("a");
	std::thread closer([&rig] { EXPECT_EQ(rig.close(), 0); });

	p.wait(); // close is on its way
	fault.release();
	closer.join();
	EXPECT_EQ(persist.count.now(), 1u);
	EXPECT_EQ(rig.metric(&M::l2_quarantined), 0u);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

// ---- random -----------------------------------------------------------------

// Everything at once, stopped anywhere: the sanitizer sees what is freed twice,
// too early or never; the rig's end, what is held.
TEST(Close, TwoHundredTimesWithWorkInFlight)
{
	const uint32_t seed = std::random_device()();
	std::mt19937 random(seed);

	SCOPED_TRACE(testing::Message() << "seed " << seed);
	for (int round = 0; round < 200; round++) {
		Log log;
		static const char *const ops[] = {"put", "get", "delete", "any"};
		static const char *const what[] = {"hang",      "fail=EIO",  "delay=1",
						   "delay=20",  "reorder=3", "corrupt=payload",
						   "short=lie", "die",       "mute"};
		std::string script;

		for (int i = 0; i < 4; i++)
			script += std::string(ops[random() % 4]) + "@" +
				  std::to_string(1 + random() % 20) + "x" +
				  std::to_string(1 + random() % 10) + ":" + what[random() % 9] +
				  ";";
		Options options = with({"fault:a,next=mem:x,depth=8", "mem:b"});

		options.policy = random() % 2 == 0 ? "default" : "buffer-only";
		options.deadline_ns = random() % 4 == 0 ? 1 : 30 * kSecond;
		options.retries = uint32_t(random() % 4);
		Rig rig(options);
		std::deque<Prefetch> prefetches;
		std::deque<Erase> erases;
		Persist persist;
		uint64_t stored = 0;

		for (uint64_t i = 0; i < 10; i++)
			rig.preload(random() % 2, rig.key(i));
		Fault("a").script(script.c_str());
		for (uint64_t i = 0, n = random() % 60; i < n; i++) {
			switch (random() % 5) {
			case 0:
				prefetches.emplace_back(
					rig, hashes(1 + random() % 10, random() % 10));
				prefetches.back().start();
				break;
			case 1:
				erases.emplace_back(rig, std::vector<struct kvh_key>{
								 rig.key(random() % 20)});
				erases.back().start();
				break;
			default: ASSERT_EQ(rig.store(rig.key(1000 + i), &persist), 0); stored++;
			}
		}
		EXPECT_EQ(rig.close(), 0) << script;
		EXPECT_EQ(persist.count.now(), stored) << script;
		for (Prefetch &p : prefetches)
			EXPECT_EQ(p.done.now(), 1u) << script;
		for (Erase &e : erases)
			EXPECT_EQ(e.done.now(), 1u) << script;
		EXPECT_EQ(rig.metric(&M::store_waiting), 0u);
		EXPECT_EQ(rig.metric(&M::l2_quarantined), 0u);
	}
}

} // namespace
