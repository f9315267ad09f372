// SPDX-License-Identifier: Apache-2.0
//
// flush_test.cc - a flush waits for what was stored before it, for nothing else,
// and says whether it got there; what waits for its turn's end goes with it; and
// the outcomes of single chunks.
#include "tests/controller_jobs.h"

namespace
{

using namespace ctl;
using N = struct kvh_adapter_counters;

Options with(std::vector<std::string> l2, uint32_t retries = 0)
{
	Options options;

	options.l2 = std::move(l2);
	options.retries = retries;
	return options;
}

struct Flush : kvh_flush {
	explicit Flush(Rig &r) : kvh_flush(), rig(r)
	{
		ended = [](kvh_flush *base, int result) {
			Flush *flush = static_cast<Flush *>(base);

			EXPECT_EQ(flush->done.now(), 0u) << "ended twice";
			flush->status = result;
			flush->done.add();
		};
	}
	Flush &start()
	{
		EXPECT_EQ(kvh_controller_flush(rig.controller, this), 0);
		return *this;
	}
	int wait()
	{
		done.wait();
		return status;
	}
	void cancel()
	{
		rig.on_loop([this] {
			if (done.now() == 0)
				kvh_flush_cancel(this);
		});
	}
	Rig &rig;
	int status = KVH_PENDING;
	Count done;
};

TEST(Flush, WithNothingToDo)
{
	Rig none, some(with({"mem"}));

	EXPECT_EQ(Flush(none).start().wait(), 0);
	EXPECT_EQ(Flush(some).start().wait(), 0);
	EXPECT_EQ(Flush(some).start().wait(), 0);
}

TEST(Flush, WaitsForWhatWasStoredBefore)
{
	Rig rig(with({"fault:a,script=put@1:hang,next=mem"}));

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	Fault("a").held(1);
	Flush flush(rig);

	flush.start();
	rig.rounds();
	EXPECT_EQ(flush.done.now(), 0u);
	Fault("a").release();
	EXPECT_EQ(flush.wait(), 0);
	EXPECT_TRUE(rig.in_l2(0, rig.key(1)));
}

// Control: of what comes later it knows nothing.
TEST(Flush, DoesNotWaitForWhatIsStoredAfter)
{
	Rig rig(with({"fault:a,script=put@1:delay=50;put@2:hang,next=mem"}));

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	rig.until([&] { return Fault("a").accepted(KVH_L2_PUT) == 1; });
	Flush flush(rig);

	flush.start();
	rig.rounds(); // it has drawn its line
	ASSERT_EQ(rig.store(rig.key(2)), 0);
	EXPECT_EQ(flush.wait(), 0);
	Fault("a").held(1);
	Fault("a").release();
}

TEST(Flush, SeveralEndInTheirOrder)
{
	Rig rig(with({"fault:a,script=put@2:hang,next=mem"}));
	Flush first(rig), second(rig), third(rig);

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	first.start();
	EXPECT_EQ(first.wait(), 0);
	ASSERT_EQ(rig.store(rig.key(2)), 0);
	Fault("a").held(1);
	second.start();
	ASSERT_EQ(rig.store(rig.key(3)), 0);
	third.start();
	rig.until([&] { return rig.count(0, &N::puts) == 2; }); // 1 and 3
	rig.rounds();
	EXPECT_EQ(second.done.now() + third.done.now(), 0u); // not before the second
	Fault("a").release();
	EXPECT_EQ(second.wait(), 0);
	EXPECT_EQ(third.wait(), 0);
}

TEST(Flush, SaysThatAStoreFailedOnce)
{
	Log log;
	Rig rig(with({"fault:a,script=put@1:fail=ENOSPC,next=mem"}));

	rig.store_wait(rig.key(1));
	EXPECT_EQ(Flush(rig).start().wait(), -EIO); // although it was over
	rig.store_wait(rig.key(2));
	EXPECT_EQ(Flush(rig).start().wait(), 0); // of those since the last one
}

// Control: SaysThatAStoreFailedOnce.
TEST(Flush, WhatWasErasedDidNotFail)
{
	Log log;
	Rig rig(with({"fault:a,script=put x*:fail=EIO,next=mem"}, 16));

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	rig.until([&] { return Fault("a").accepted(KVH_L2_PUT) >= 1; }); // tried again later
	Erase erase(rig, {rig.key(1)});
	erase.start().done.wait();
	EXPECT_EQ(Flush(rig).start().wait(), 0);
}

TEST(Flush, CancelledWhereverItIs)
{
	Rig rig(with({"fault:a,script=put@1:hang,next=mem"}));
	Flush early(rig), waiting(rig);

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	Fault("a").held(1);
	waiting.start();
	rig.rounds();
	waiting.cancel();
	EXPECT_EQ(waiting.wait(), -ECANCELED);
	early.start();
	early.cancel();
	EXPECT_EQ(early.wait(), -ECANCELED);
	Fault("a").release();
	EXPECT_EQ(Flush(rig).start().wait(), 0);
}

TEST(Flush, ClosingEndsIt)
{
	Rig rig(with({"fault:a,script=put@1:hang,next=mem"}));

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	Fault("a").held(1);
	Flush flush(rig);

	flush.start();
	rig.rounds();
	EXPECT_EQ(rig.close(), 0);
	EXPECT_NE(flush.wait(), 0);
}

// ---- outcomes ---------------------------------------------------------------

TEST(Outcome, EachAdaptersAnswer)
{
	Log log;
	Rig rig(with({"mem:a", "fault:b,script=put x*:fail=ENOSPC,next=mem", "mem:c"}));
	Persist persist;

	rig.preload(2, rig.key(1)); // has it already
	ASSERT_EQ(rig.store(rig.key(1), &persist), 0);
	persist.count.wait();
	EXPECT_EQ(persist.outcome.stored, 5u);
	EXPECT_EQ(persist.outcome.failed, 2u);
	EXPECT_EQ(persist.outcome.skipped, 0u);
}

TEST(Outcome, WhatThePolicyLeavesOutIsSkipped)
{
	Options options = with({"mem:a", "mem:b"});

	options.policy = "second-use";
	Rig rig(options);
	Persist persist;

	ASSERT_EQ(rig.store(rig.key(1), &persist), 0);
	persist.count.wait();
	EXPECT_EQ(persist.outcome.skipped, 3u);
	EXPECT_EQ(persist.outcome.stored | persist.outcome.failed, 0u);
}

TEST(Outcome, AQueueWithoutRoomIsAFailure)
{
	Options options = with({"fault:a,script=put@1:hang,next=mem:x,depth=1"});

	options.queue_bytes = kvh_frame_bytes(16 * 40);
	Rig rig(options);
	Persist first, second;

	ASSERT_EQ(rig.store(rig.key(1), &first), 0);
	Fault("a").held(1);
	ASSERT_EQ(rig.store(rig.key(2), &second), 0);
	second.count.wait();
	EXPECT_EQ(second.outcome.failed, 1u);
	Fault("a").release();
	first.count.wait();
	EXPECT_EQ(first.outcome.stored, 1u);
}

// ---- second use, by way of loads --------------------------------------------

TEST(SecondUse, ALoadIsAUse)
{
	Options options = with({"mem"});

	options.policy = "second-use";
	Rig rig(options);
	const struct kvh_key key = rig.key(1);
	kvh_frame frame;

	rig.store_wait(key);
	EXPECT_FALSE(rig.in_l2(0, key));
	ASSERT_TRUE(kvh_controller_wants_uses(rig.controller));
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(kvh_l1_hold_key(rig.l1, &key, &frame), 0);
		kvh_controller_used(rig.controller, &frame, 1);
		rig.drain();
	}
	EXPECT_TRUE(rig.in_l2(0, key));
	EXPECT_EQ(rig.count(0, &N::puts), 1u); // not again and again
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

TEST(SecondUse, ControlTheDefaultDoesNotAsk)
{
	Rig rig(with({"mem"}));

	EXPECT_FALSE(kvh_controller_wants_uses(rig.controller));
}

// "Stored keys are stored again and again": whatever the policy, once an adapter has
// a chunk it is not given it again.
TEST(StoredAgain, IsWrittenOnce)
{
	for (const char *policy : {"default", "second-use", "whole-prefix"}) {
		Options options = with({"mem"});

		options.policy = policy;
		Rig rig(options);

		for (int i = 0; i < 10; i++) {
			rig.store_wait(rig.key(1));
			rig.drain();
			kvh_l1_evict(rig.l1, 0); // it is made and stored anew
		}
		EXPECT_EQ(rig.count(0, &N::puts), 1u) << policy;
	}
}

} // namespace
