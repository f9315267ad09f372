// SPDX-License-Identifier: Apache-2.0
//
// prefetch_share_test.cc - a chunk that several want is read once, whoever leaves;
// frames that others fill wake who waits for them; FOUND comes before the bytes.
#include "tests/prefetch_rig.h"

namespace
{

using namespace ctl;

class PrefetchShare : public ::testing::Test
{
      protected:
	PrefetchShare() : rig(with({"fault:a,next=mem"})), fault("a")
	{
		for (uint64_t i = 0; i < 8; i++)
			rig.preload(0, rig.key(i));
		fault.script("get@1x*:hang");
	}
	uint64_t reads()
	{
		return fault.accepted(KVH_L2_GET);
	}
	Rig rig;
	Fault fault;
};

TEST_F(PrefetchShare, ManyWantItItIsReadOnce)
{
	std::deque<Prefetch> all;

	for (int i = 0; i < 10; i++) {
		all.emplace_back(rig, hashes(1 + uint64_t(i) % 8));
		all.back().start();
	}
	fault.held(8);
	rig.rounds();
	fault.release();
	for (Prefetch &p : all) {
		p.wait();
		EXPECT_EQ(p.status, 0);
		expect_prefix(rig, p, p.prefix.n_chunks);
	}
	EXPECT_EQ(reads(), 8u);
	EXPECT_EQ(rig.count(0, &N::gets), 8u);
	// 1+2+...+8+1+2 entries, of which 8 were read for the first who asked.
	EXPECT_EQ(rig.metric(&M::hits_l2), 39u);
	EXPECT_EQ(rig.metric(&M::reads_shared), 31u);
	EXPECT_EQ(rig.count(0, &N::hits), 39u);
	EXPECT_EQ(rig.metric(&M::hits_l1), 0u);
}

// The control: other chunks are other reads, and nothing is shared.
TEST_F(PrefetchShare, ControlOtherChunksAreOtherReads)
{
	Prefetch first(rig, hashes(4)), second(rig, hashes(4, 4));

	first.start();
	second.start();
	fault.held(8);
	fault.release();
	first.wait();
	second.wait();
	EXPECT_EQ(reads(), 8u);
	EXPECT_EQ(rig.metric(&M::reads_shared), 0u);
}

TEST_F(PrefetchShare, WhoIsCancelledTakesItFromNoOther)
{
	for (bool cancel_first : {true, false}) {
		const uint64_t before = reads();
		Prefetch first(rig, hashes(4)), second(rig, hashes(4));

		first.start();
		fault.held(4);
		second.start();
		rig.rounds();
		(cancel_first ? first : second).cancel();
		EXPECT_EQ((cancel_first ? first : second).status, -ECANCELED);
		Prefetch &left = cancel_first ? second : first;

		rig.rounds();
		EXPECT_EQ(left.done.now(), 0u);
		fault.release();
		left.wait();
		EXPECT_EQ(left.status, 0);
		expect_prefix(rig, left, 4);
		EXPECT_EQ(reads() - before, 4u); // not read anew
		left.release();
		for (uint64_t i = 0; i < 4; i++)
			EXPECT_EQ(kvh_l1_erase(rig.l1, std::array{rig.key(i)}.data()), 0);
	}
}

TEST_F(PrefetchShare, WhoRunsOutOfTimeTakesItFromNoOther)
{
	Prefetch first(rig, hashes(4)), second(rig, hashes(4));

	first.deadline_ns = kvh_deadline_ns(10 * KVH_NS_PER_MS);
	first.start();
	fault.held(4);
	second.start();
	first.wait();
	EXPECT_EQ(first.status, -ETIMEDOUT);
	expect_prefix(rig, first, 0);
	EXPECT_EQ(second.done.now(), 0u);
	fault.release();
	second.wait();
	EXPECT_EQ(second.status, 0);
	expect_prefix(rig, second, 4);
	EXPECT_EQ(reads(), 4u);
}

// The control of the two above: with nobody left, a cancelled one's reads end, and
// the next prefetch does not wait for them.
TEST_F(PrefetchShare, ControlTheLastWhoIsCancelledTakesItAlong)
{
	Prefetch first(rig, hashes(4)), second(rig, hashes(4)), third(rig, hashes(4));

	fault.script("get@1x4:hang=hard");
	first.start();
	fault.held(4);
	second.start();
	rig.rounds();
	second.cancel();
	first.cancel();
	third.start().wait();
	EXPECT_EQ(third.status, 0);
	expect_prefix(rig, third, 4);
	EXPECT_EQ(reads(), 8u);
	EXPECT_EQ(rig.l1_stats().doomed, 4u); // the hanging reads' own frames
	fault.release();
	rig.until([&] { return rig.l1_stats().doomed == 0; });
	expect_prefix(rig, third, 4);
}

TEST_F(PrefetchShare, AReadThatFailsFailsForAll)
{
	Prefetch first(rig, hashes(2)), second(rig, hashes(2));

	fault.script("get@2:fail=EIO");
	{
		LoopGate gate(rig); // both are heard before a read begins
		first.start();
		second.start();
	}
	first.wait();
	second.wait();
	expect_prefix(rig, first, 1);
	expect_prefix(rig, second, 1);
	EXPECT_EQ(rig.metric(&M::misses), 2u);
	EXPECT_EQ(rig.count(0, &N::get_failed), 1u);
}

// What only the second knows: that another adapter has it, too.
TEST(PrefetchShareTwo, AJoiningOneBringsItsAdapters)
{
	Rig rig(with({"fault:a,next=mem", "mem:b"}));
	Fault fault("a");

	rig.preload(0, rig.key(0));
	Prefetch first(rig, hashes(1)), second(rig, hashes(1));

	fault.script("get@1:hang=hard");
	first.start();
	fault.held(1);
	rig.preload(1, rig.key(0));
	second.start();
	rig.rounds();
	EXPECT_EQ(rig.metric(&M::reads_shared), 1u);
	fault.script("");
	EXPECT_EQ(rig.raw(0, KVH_L2_DELETE, rig.key(0)), 0);
	fault.release(); // it goes on to an adapter that has it no more
	first.wait();
	second.wait();
	expect_prefix(rig, first, 1);
	expect_prefix(rig, second, 1);
	EXPECT_EQ(rig.count(0, &N::get_missed), 1u);
	EXPECT_EQ(rig.count(1, &N::hits), 2u);
}

// ---- frames that others fill -----------------------------------------------------

TEST(PrefetchWait, ManyWaitForOneStore)
{
	Rig rig(with({"mem"}));
	kvh_frame filling = rig.reserve(rig.key(0));
	std::deque<Prefetch> all;

	for (int i = 0; i < 5; i++) {
		all.emplace_back(rig, hashes(1));
		all.back().start();
	}
	rig.rounds();
	EXPECT_EQ(kvh_controller_publish(rig.controller, filling, nullptr), 0);
	for (Prefetch &p : all) {
		p.wait();
		expect_prefix(rig, p, 1);
	}
	EXPECT_EQ(rig.metric(&M::hits_l1), 5u);
	EXPECT_EQ(rig.metric(&M::reads_shared), 0u); // no read
}

// Nothing looks again and again: no timer runs while one waits.
TEST(PrefetchWait, ForAnothersFrameWithoutATimer)
{
	Rig rig;
	kvh_frame filling = rig.reserve(rig.key(0));
	Prefetch p(rig, hashes(1));
	uint64_t next = 0;

	p.start();
	rig.rounds();
	rig.on_loop([&] { next = kvh_prefetch_tick(rig.controller, kvh_now_ns()); });
	EXPECT_EQ(next, UINT64_MAX);
	kvh_l1_abort(rig.l1, filling);
	p.wait();
	EXPECT_EQ(p.usable, 0u);
}

// ---- FOUND ----------------------------------------------------------------------

TEST(PrefetchFound, IsSentBeforeTheBytesAreThere)
{
	Rig rig(with({"fault:a,next=mem"}));
	Prefetch p(rig, hashes(6));

	for (uint64_t i = 0; i < 5; i++)
		rig.preload(0, rig.key(i));
	Fault("a").script("get x*:hang=hard");
	p.want_found = true;
	p.start();
	Fault("a").held(5);
	rig.rounds();
	EXPECT_EQ(p.n_found, 1u);
	EXPECT_EQ(p.found_usable, 5u);
	EXPECT_EQ(p.done.now(), 0u); // the control: it has not ended
	EXPECT_EQ(rig.count(0, &N::gets), 0u);
	Fault("a").release();
	p.wait();
	expect_prefix(rig, p, 5);
	EXPECT_EQ(p.n_found, 1u);
}

} // namespace
