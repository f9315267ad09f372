// SPDX-License-Identifier: Apache-2.0
//
// prefetch_hedge_test.cc - an adapter that does not answer stalls nobody who can be
// served by another: its reads are given up past a bound, and it is asked for
// nothing new that others have until it has answered.
#include "tests/prefetch_rig.h"

namespace
{

using namespace ctl;

Options hedged(uint64_t hedge_ns)
{
	Options options = with({"fault:a,next=mem", "mem:b"});

	options.hedge_ns = hedge_ns;
	return options;
}

void preload_both(Rig &rig, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		for (uint32_t a = 0; a < 2; a++)
			rig.preload(a, rig.key(i));
}

TEST(PrefetchHedge, AReadThatHangsIsAskedElsewhere)
{
	Rig rig(hedged(KVH_NS_PER_MS));
	Fault fault("a");
	Prefetch p(rig, hashes(1));

	preload_both(rig, 1);
	fault.script("get x*:hang=hard");
	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_prefix(rig, p, 1);
	EXPECT_EQ(rig.metric(&M::hedges), 1u);
	EXPECT_EQ(rig.count(0, &N::hedged), 1u);
	EXPECT_EQ(rig.count(1, &N::hedged), 0u);
	EXPECT_EQ(rig.count(1, &N::hits), 1u);
	EXPECT_EQ(rig.l1_stats().doomed, 1u); // the hanging one's frame
	// It comes back, and has nobody's frame but its own to write to.
	fault.release();
	rig.until([&] { return rig.l1_stats().doomed == 0; });
	expect_prefix(rig, p, 1);
	EXPECT_EQ(rig.metric(&M::misses), 0u);
}

// The control: without the bound, it waits for as long as the adapter hangs.
TEST(PrefetchHedge, ControlWithoutTheBoundItStalls)
{
	Rig rig(hedged(UINT64_MAX));
	Fault fault("a");
	Prefetch p(rig, hashes(1));

	preload_both(rig, 1);
	fault.script("get x*:hang=hard");
	p.deadline_ns = kvh_deadline_ns(50 * KVH_NS_PER_MS);
	p.start().wait();
	EXPECT_EQ(p.status, -ETIMEDOUT);
	expect_prefix(rig, p, 0);
	EXPECT_EQ(rig.metric(&M::hedges), 0u);
	fault.release();
}

// "The slowest adapter stalls every request": after the first that it stalled, all
// others go past it, and it is not asked until it has answered.
TEST(PrefetchHedge, TheSlowestAdapterStallsNoOtherRequest)
{
	Rig rig(hedged(KVH_NS_PER_MS));
	Fault fault("a");

	preload_both(rig, 200);
	fault.script("get x*:hang=hard");
	Prefetch first(rig, hashes(1));

	first.start().wait();
	expect_prefix(rig, first, 1);
	for (uint64_t i = 1; i < 200; i++) {
		Prefetch p(rig, hashes(1, i));

		p.start().wait();
		EXPECT_EQ(p.status, 0);
		expect_prefix(rig, p, 1);
	}
	EXPECT_EQ(fault.accepted(KVH_L2_GET), 1u);
	EXPECT_EQ(rig.metric(&M::hedges), 1u);
	fault.script("");
	fault.release(); // it has answered: preferred again
	rig.until([&] { return rig.l1_stats().doomed == 0; });
	EXPECT_EQ(kvh_l1_erase(rig.l1, std::array{rig.key(7)}.data()), 0);
	Prefetch again(rig, hashes(1, 7));

	again.start().wait();
	expect_prefix(rig, again, 1);
	EXPECT_EQ(fault.accepted(KVH_L2_GET), 2u);
}

TEST(PrefetchHedge, NobodyElseHasItThenItWaits)
{
	Rig rig(hedged(KVH_NS_PER_MS));
	Fault fault("a");
	Prefetch p(rig, hashes(1));

	rig.preload(0, rig.key(0));
	fault.script("get x*:hang=hard");
	p.start();
	fault.held(1);
	const uint64_t bound = kvh_now_ns() + 2 * KVH_NS_PER_MS;

	rig.until([&] { return kvh_now_ns() > bound; });
	rig.rounds();
	EXPECT_EQ(p.done.now(), 0u);
	fault.release();
	p.wait();
	expect_prefix(rig, p, 1);
	EXPECT_EQ(rig.metric(&M::hedges), 0u);
	EXPECT_EQ(fault.accepted(KVH_L2_GET), 1u);
}

// Presence is advice: the other had it no more. The slow one is asked again, and
// waited for.
TEST(PrefetchHedge, TheOtherFailsThenTheSlowOneIsAskedAgain)
{
	Options options = with({"fault:a,next=mem", "fault:b,next=mem"});

	options.hedge_ns = KVH_NS_PER_MS;
	Rig rig(options);
	Prefetch p(rig, hashes(1));

	preload_both(rig, 1);
	Fault("a").script("get@1:hang=hard");
	Fault("b").script("get x*:fail=ENOENT");
	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_prefix(rig, p, 1);
	EXPECT_EQ(rig.count(1, &N::get_missed), 1u);
	EXPECT_EQ(rig.count(0, &N::hits), 1u);
	EXPECT_EQ(Fault("a").accepted(KVH_L2_GET), 2u);
	EXPECT_EQ(rig.metric(&M::hedges), 1u);
	Fault("a").release();
}

TEST(PrefetchHedge, AStoreOfTheKeyMeanwhileIsNotHarmed)
{
	Rig rig(hedged(UINT64_MAX));
	Fault fault("a");
	Prefetch p(rig, hashes(1)), q(rig, hashes(1));
	Persist persist;

	rig.preload(0, rig.key(0));
	fault.script("get x*:hang=hard");
	p.start();
	fault.held(1);
	p.cancel(); // its read hangs on, for nobody
	ASSERT_EQ(rig.store(rig.key(0), &persist), 0);
	q.start().wait();
	expect_prefix(rig, q, 1);
	fault.release();
	rig.until([&] { return rig.l1_stats().doomed == 0; });
	expect_prefix(rig, q, 1);
	persist.count.wait();
}

TEST(PrefetchHedge, ProbesThatHangAreNotWaitedForEither)
{
	Options options = with({"fault:a,script=probe x*:hang=hard,next=null", "mem:b"});

	options.hedge_ns = KVH_NS_PER_MS;
	Rig rig(options);

	rig.preload(1, rig.key(0));
	for (int i = 0; i < 3; i++) {
		Prefetch p(rig, hashes(2));

		p.start().wait();
		EXPECT_EQ(p.status, 0);
		expect_prefix(rig, p, 1);
	}
	// Only the first asked it: it has not answered since.
	EXPECT_EQ(Fault("a").accepted(KVH_L2_PROBE), 1u);
	Fault("a").release();
	rig.until([&] { return rig.count(0, &N::probes) == 1; });
	Fault("a").script("");
	Prefetch again(rig, hashes(2));

	again.start().wait();
	EXPECT_EQ(rig.count(0, &N::probes), 2u);
}

// ---- which one is asked ------------------------------------------------------------

TEST(PrefetchPlan, TheFastestGetsMostReads)
{
	for (enum kvh_read_plan plan : {KVH_READ_FIRST, KVH_READ_FASTEST}) {
		Options options = with({"fault:a,next=mem", "mem:b"});

		options.plan = plan;
		Rig rig(options);

		preload_both(rig, 200);
		Fault("a").script("get x*:delay=2");
		for (uint64_t i = 0; i < 200; i++) {
			Prefetch p(rig, hashes(1, i));

			p.start().wait();
			expect_prefix(rig, p, 1);
		}
		if (plan == KVH_READ_FIRST) // the control
			EXPECT_EQ(rig.count(0, &N::hits), 200u);
		else
			EXPECT_LE(rig.count(0, &N::hits), 20u);
		EXPECT_EQ(rig.count(0, &N::hits) + rig.count(1, &N::hits), 200u);
	}
}

} // namespace
