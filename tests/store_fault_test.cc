// SPDX-License-Identifier: Apache-2.0
//
// store_fault_test.cc - stores whose adapters fail, fill up, hang, lose wake-ups
// and die: holds come back, others go on, every failure is counted, once.
#include "tests/controller_harness.h"

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

// Every put that was to be ended in exactly one of these ways.
uint64_t ends(Rig &rig, uint32_t adapter)
{
	return rig.count(adapter, &N::puts) + rig.count(adapter, &N::put_failed) +
	       rig.count(adapter, &N::put_dropped);
}

TEST(StoreFault, AFailureIsCountedAndTheHoldComesBack)
{
	Log log;
	Rig rig(with({"fault:a,script=put x*:fail=EIO,next=mem", "mem:b"}, 0));

	rig.store_wait(rig.key(1));
	rig.drain();
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	EXPECT_EQ(rig.find(rig.key(1)), 1); // it is in L1 all the same
	EXPECT_EQ(rig.count(0, &N::put_failed), 1u);
	EXPECT_EQ(rig.count(0, &N::puts), 0u);
	EXPECT_EQ(rig.count(0, &N::put_retried), 0u);
	EXPECT_FALSE(rig.in_l2(0, rig.key(1)));
	EXPECT_EQ(rig.count(1, &N::puts), 1u); // the other does not notice
	EXPECT_TRUE(rig.in_l2(1, rig.key(1)));
	EXPECT_EQ(log.count("a store of 8192 bytes failed after 1 attempts"), 1u);
}

TEST(StoreFault, ASubmitThatFailsGivesTheHoldBack)
{
	Log log;
	Rig rig(with({"mem:a,size=8K", "mem:b"})); // room for one small frame
	Options large = with({"mem:a,size=8K", "mem:b"});

	large.groups[0].head_bytes = 1000;
	Rig too_large(large);

	too_large.store_wait(too_large.key(1)); // refused by submit: over max_len
	too_large.drain();
	EXPECT_EQ(too_large.l1_stats().holds, 0u);
	EXPECT_EQ(too_large.count(0, &N::put_failed), 1u);
	EXPECT_EQ(too_large.count(0, &N::put_retried), 0u);
	EXPECT_EQ(too_large.count(1, &N::puts), 1u);
	EXPECT_EQ(log.count("refused a request of 20480 bytes"), 1u);
}

TEST(StoreFault, ARetryHelps)
{
	Rig rig(with({"fault:a,script=put@1x2:fail=EIO,next=mem"}));

	rig.store_wait(rig.key(1));
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::put_retried), 2u);
	EXPECT_EQ(rig.count(0, &N::puts), 1u);
	EXPECT_EQ(rig.count(0, &N::put_failed), 0u);
	EXPECT_TRUE(rig.in_l2(0, rig.key(1)));
}

TEST(StoreFault, RetriesAreBounded)
{
	Log log;
	Rig rig(with({"fault:a,script=put x*:fail=EIO,next=mem"}, 3));

	for (uint64_t i = 0; i < 5; i++)
		ASSERT_EQ(rig.store(rig.key(i)), 0);
	rig.drain();
	EXPECT_EQ(Fault("a").accepted(KVH_L2_PUT), 5u * 4);
	EXPECT_EQ(rig.count(0, &N::put_retried), 5u * 3);
	EXPECT_EQ(rig.count(0, &N::put_failed), 5u);
	EXPECT_EQ(log.count("after 4 attempts"), 1u); // the first of a row
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

// Each attempt comes later after the one before: the sweep could not do that.
TEST(StoreFault, RetriesBackOff)
{
	Log log;
	Rig rig(with({"fault:a,script=put x*:fail=EIO,next=mem"}, 4));
	const uint64_t start = kvh_now_ns();

	rig.store_wait(rig.key(1));
	EXPECT_GE(kvh_now_ns() - start, (10 + 20 + 40 + 80) * KVH_NS_PER_MS);
}

// The failure is only seen by a sweep; the retry is not lost with it.
TEST(StoreFault, ARetryBehindALostWakeUp)
{
	Rig rig(with({"fault:a,script=any:mute;put@1:fail=EIO,next=mem"}));

	rig.store_wait(rig.key(1));
	EXPECT_EQ(rig.count(0, &N::put_retried), 1u);
	EXPECT_EQ(rig.count(0, &N::puts), 1u);
}

TEST(StoreFault, LostWakeUpsCostASweepEach)
{
	constexpr uint64_t kChunks = 40;
	Rig rig(with({"fault:a,script=any:mute,next=mem:x,depth=16", "mem:b"}));
	Persist persist;

	for (uint64_t i = 0; i < kChunks; i++)
		ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
	persist.count.wait(kChunks);
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::puts), kChunks);
	EXPECT_EQ(rig.count(0, &N::timeouts), 0u);
}

TEST(StoreFault, NoSpaceIsNotRetried)
{
	for (const char *error : {"ENOSPC", "EDQUOT", "EINVAL"}) {
		Log log;
		Rig rig(with({std::string("fault:a,script=put x*:fail=") + error + ",next=mem",
			      "mem:b"},
			     5));

		for (uint64_t i = 0; i < 4; i++)
			ASSERT_EQ(rig.store(rig.key(i)), 0);
		rig.drain();
		EXPECT_EQ(Fault("a").accepted(KVH_L2_PUT), 4u) << error;
		EXPECT_EQ(rig.count(0, &N::put_retried), 0u);
		EXPECT_EQ(rig.count(0, &N::put_failed), 4u);
		EXPECT_EQ(rig.count(1, &N::puts), 4u);
		Fault("a").script(""); // there is room again: stores resume
		rig.store_wait(rig.key(9));
		rig.drain();
		EXPECT_EQ(rig.count(0, &N::puts), 1u);
	}
}

TEST(StoreFault, ADeadAdapterFailsAloneAndComesBack)
{
	Log log;
	Rig rig(with({"fault:a,script=put@3:die,next=mem", "mem:b"}, 1));

	for (uint64_t i = 0; i < 10; i++)
		rig.store_wait(rig.key(i));
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::puts), 2u);
	EXPECT_EQ(rig.count(0, &N::put_failed), 8u);
	EXPECT_EQ(rig.count(1, &N::puts), 10u);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	Fault("a").script("");
	rig.store_wait(rig.key(10));
	EXPECT_EQ(rig.count(0, &N::puts), 3u);
}

// Seen by the raw frame, not by our own counters: bytes damaged on their way to
// the adapter are there, the detector that reads them later is not idle.
TEST(StoreFault, DamageOnTheWayIsInTheAdapterAndToBeDetected)
{
	Rig rig(with({"fault:a,script=put@1:corrupt=payload;put@2:corrupt=header;"
		      "put@3:short=lie,next=mem"}));

	for (uint64_t i = 1; i <= 4; i++) {
		const struct kvh_key key = rig.key(i);
		l2test::Buffer frame(rig.frame_bytes());

		rig.store_wait(key);
		ASSERT_EQ(rig.raw(0, KVH_L2_GET, key, &frame), 0);
		EXPECT_EQ(rig.verify(frame, key), i <= 3 ? -EBADMSG : 0) << i;
	}
	EXPECT_EQ(rig.count(0, &N::puts), 4u); // nobody noticed yet
}

// ---- bounded queues ---------------------------------------------------------

TEST(StoreQueue, BeyondTheBoundIsDroppedAndCounted)
{
	Options options = with({"fault:a,script=put@1:hang,next=mem:x,depth=1", "mem:b"});
	const uint64_t frame = kvh_frame_bytes(16 * 40);

	options.queue_bytes = 3 * frame;
	Rig rig(options);
	Persist persist;

	ASSERT_EQ(rig.store(rig.key(0), &persist), 0);
	Fault("a").held(1);
	for (uint64_t i = 1; i < 10; i++) {
		ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
		rig.until([&] { return rig.count(1, &N::puts) == i + 1; });
	}
	persist.count.wait(7); // those that were dropped had only the other
	Fault("a").release();
	persist.count.wait(10);
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::puts), 3u);
	EXPECT_EQ(rig.count(0, &N::put_dropped), 7u);
	EXPECT_EQ(rig.count(1, &N::puts), 10u);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	for (uint64_t i = 0; i < 10; i++)
		EXPECT_EQ(rig.in_l2(0, rig.key(i)), i < 3) << i;
	rig.store_wait(rig.key(20)); // room again
	EXPECT_TRUE(rig.in_l2(0, rig.key(20)));
}

TEST(StoreQueue, OneFrameAlwaysFits)
{
	Options options = with({"mem"});

	options.queue_bytes = 1;
	Rig rig(options);

	for (uint64_t i = 0; i < 5; i++)
		rig.store_wait(rig.key(i));
	EXPECT_EQ(rig.count(0, &N::puts), 5u);
	EXPECT_EQ(rig.count(0, &N::put_dropped), 0u);
}

// Backoff counts as waiting: a failing adapter does not collect frames.
TEST(StoreQueue, BackoffIsInTheBound)
{
	Log log;
	Options options = with({"fault:a,script=put x*:fail=EIO,next=mem"}, 2);
	const uint64_t frame = kvh_frame_bytes(16 * 40);

	options.queue_bytes = 4 * frame;
	Rig rig(options);

	{
		LoopGate gate(rig);
		for (uint64_t i = 0; i < 20; i++)
			ASSERT_EQ(rig.store(rig.key(i)), 0);
	}
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::put_failed), 4u);
	EXPECT_EQ(rig.count(0, &N::put_dropped), 16u);
	EXPECT_EQ(ends(rig, 0), 20u);
}

// What hangs past its deadline counts until it comes back: an adapter that never
// answers takes no more of L1 than its queue may have.
TEST(StoreQueue, AHungAdapterHoldsNoMoreThanTheBound)
{
	Log log;
	Options options = with({"fault:a,script=put x*:hang=hard,next=mem", "mem:b"}, 0);
	const uint64_t frame = kvh_frame_bytes(16 * 40);

	options.deadline_ns = KVH_NS_PER_MS; // found at the next sweep
	options.queue_bytes = 4 * frame;
	Rig rig(options);

	for (uint64_t i = 0; i < 20; i++)
		rig.store_wait(rig.key(i));
	EXPECT_EQ(rig.count(0, &N::put_failed), 4u);
	EXPECT_EQ(rig.count(0, &N::put_dropped), 16u);
	EXPECT_EQ(rig.metric(&kvh_metrics::l2_quarantined), 4u);
	EXPECT_EQ(rig.l1_stats().holds, 4u);
	EXPECT_EQ(rig.count(1, &N::puts), 20u);
	Fault("a").script("");
	Fault("a").release();
}

// ---- an adapter that never answers ------------------------------------------

TEST(StoreHang, TheStoreEndsAtItsDeadlineAndTheBufferWaits)
{
	Log log;
	Options options = with({"fault:a,script=put@1:hang=hard,next=mem", "mem:b"});

	options.deadline_ns = KVH_NS_PER_MS;
	Rig rig(options);
	const struct kvh_key key = rig.key(1);

	rig.store_wait(key); // both have answered, or ran past their deadline
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::timeouts), 1u);
	EXPECT_EQ(rig.count(0, &N::put_failed), 1u);
	EXPECT_EQ(rig.count(0, &N::put_retried), 0u); // the buffer is out
	EXPECT_EQ(rig.count(1, &N::puts), 1u);
	EXPECT_EQ(rig.metric(&kvh_metrics::l2_quarantined), 1u);
	EXPECT_EQ(rig.metric(&kvh_metrics::store_waiting), 0u);
	EXPECT_EQ(rig.l1_stats().holds, 1u);

	// The frame is neither evicted nor, erased, freed while the transfer may run.
	const uint64_t used = rig.l1_stats().used_bytes;

	kvh_l1_evict(rig.l1, 0);
	EXPECT_EQ(rig.find(key), 1);
	EXPECT_EQ(kvh_l1_erase(rig.l1, &key), 0);
	EXPECT_EQ(rig.l1_stats().used_bytes, used);
	EXPECT_EQ(rig.l1_stats().doomed, 1u);

	rig.store_wait(rig.key(2)); // others go on, at this adapter, too
	EXPECT_EQ(rig.count(0, &N::puts), 1u);

	Fault("a").release();
	rig.until([&] { return rig.metric(&kvh_metrics::l2_quarantined) == 0; });
	rig.rounds();
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	EXPECT_EQ(rig.l1_stats().doomed, 0u);
}

TEST(StoreHang, BufferOnlyKeepsNothingButTheHungFrame)
{
	Log log;
	Options options = with({"fault:a,script=put@2:hang=hard,next=mem"});

	options.deadline_ns = KVH_NS_PER_MS;
	options.policy = "buffer-only";
	Rig rig(options);

	for (uint64_t i = 1; i <= 3; i++)
		rig.store_wait(rig.key(i));
	rig.rounds();
	EXPECT_EQ(rig.l1_stats().frames, 0u);
	EXPECT_EQ(rig.l1_stats().doomed, 1u);
	Fault("a").release();
}

TEST(StoreHang, FullOfHungRequestsItFailsFastAndRecovers)
{
	Log log;
	Options options = with({"fault:a,script=put@1x2:hang=hard,next=mem:x,depth=2", "mem:b"},
			       0);

	options.deadline_ns = KVH_NS_PER_MS;
	Rig rig(options);

	for (uint64_t i = 0; i < 6; i++)
		rig.store_wait(rig.key(i));
	EXPECT_EQ(rig.count(0, &N::put_failed), 6u);
	EXPECT_EQ(rig.count(1, &N::puts), 6u);
	EXPECT_EQ(rig.metric(&kvh_metrics::l2_quarantined), 2u);
	Fault("a").release();
	rig.until([&] { return rig.metric(&kvh_metrics::l2_quarantined) == 0; });
	rig.store_wait(rig.key(10)); // there is room again
	EXPECT_EQ(rig.count(0, &N::puts), 1u);
	EXPECT_EQ(rig.count(1, &N::puts), 7u);
}

// ---- random -----------------------------------------------------------------

// Whatever happens, each chunk settles once, each put ends once, what is said to
// be there is there intact, and nothing is held.
TEST(StoreFault, RandomFailures)
{
	const uint32_t seed = std::random_device()();
	std::mt19937 random(seed);

	SCOPED_TRACE(testing::Message() << "seed " << seed);
	for (int round = 0; round < 15; round++) {
		Log log;
		std::string script;

		for (int i = 0; i < 6; i++) {
			static const char *const what[] = {"fail=EIO",  "fail=ENOSPC",
							   "reorder=3", "delay=1",
							   "short",     "delay=7"};

			script += "put@" + std::to_string(1 + random() % 40) + "x" +
				  std::to_string(1 + random() % 9) + ":" + what[random() % 6] +
				  ";";
		}
		SCOPED_TRACE(script);
		Options options = with({"fault:a,script=" + script + ",next=mem", "mem:b"},
				       uint32_t(random() % 3));

		options.queue_bytes = (8 + random() % 40) * kvh_frame_bytes(16 * 40);
		Rig rig(options);
		Persist persist;
		constexpr uint64_t kChunks = 50;

		for (uint64_t i = 0; i < kChunks; i++)
			ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
		persist.count.wait(kChunks);
		rig.drain();
		EXPECT_EQ(persist.count.now(), kChunks);
		EXPECT_EQ(ends(rig, 0), kChunks);
		EXPECT_EQ(ends(rig, 1), kChunks);
		EXPECT_EQ(rig.l1_stats().holds, 0u);
		Fault("a").script("");
		uint64_t there = 0;

		for (uint64_t i = 0; i < kChunks; i++) {
			l2test::Buffer frame(rig.frame_bytes());
			const struct kvh_key key = rig.key(i);

			if (rig.raw(0, KVH_L2_GET, key, &frame) != 0)
				continue;
			there++;
			EXPECT_EQ(rig.verify(frame, key), 0) << i;
		}
		EXPECT_EQ(there, rig.count(0, &N::puts));
	}
}

} // namespace
