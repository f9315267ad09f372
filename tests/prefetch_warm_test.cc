// SPDX-License-Identifier: Apache-2.0
//
// prefetch_warm_test.cc - warm-ups, which lease nothing; temporary prefetches, which
// leave nothing; and that what came from L2 never goes there again.
#include "tests/prefetch_rig.h"

namespace
{

using namespace ctl;

TEST(PrefetchWarm, TheFramesStayAndNobodyHoldsThem)
{
	Rig rig(with({"mem"}));

	for (uint64_t i = 0; i < 6; i++)
		rig.preload(0, rig.key(i));
	Prefetch p(rig, hashes(8));

	p.warm = true;
	p.client = kvh_prefetch_warm_client(rig.controller);
	p.want_found = true;
	p.start().wait();
	EXPECT_EQ(p.status, 0);
	EXPECT_EQ(p.usable, 6u);
	EXPECT_EQ(p.n_ok, 6u);
	EXPECT_EQ(p.found_usable, 6u);
	EXPECT_EQ(p.leased(), 0u);
	EXPECT_EQ(rig.l1_stats().leases, 0u);
	EXPECT_EQ(rig.metric(&M::hits_l2), 6u);
	EXPECT_EQ(rig.metric(&M::misses), 2u);
	Prefetch q(rig, hashes(6));

	q.start().wait();
	expect_prefix(rig, q, 6);
	EXPECT_EQ(rig.metric(&M::hits_l1), 6u);
	EXPECT_EQ(rig.count(0, &N::gets), 6u);
}

// While it runs it holds what it has: a warm-up of more than L1 has room for does
// not evict its own head for its tail.
TEST(PrefetchWarm, DoesNotEvictItsOwnHead)
{
	Options options = with({"mem"});

	options.l1_bytes = 2 << 20;
	Rig rig(options);
	const uint32_t room = uint32_t((2 << 20) / rig.frame_bytes());

	for (uint64_t i = 0; i < room + 20; i++)
		rig.preload(0, rig.key(i));
	Prefetch p(rig, hashes(room + 20));

	p.warm = true;
	p.client = kvh_prefetch_warm_client(rig.controller);
	p.start().wait();
	EXPECT_EQ(p.status, -ENOMEM);
	EXPECT_EQ(p.usable, room);
	for (uint64_t i = 0; i < room; i++)
		EXPECT_EQ(rig.find(rig.key(i)), 1) << i;
}

TEST(PrefetchTemporary, GoneWithTheLastLease)
{
	Rig rig(with({"mem"}));

	for (uint64_t i = 0; i < 4; i++)
		rig.preload(0, rig.key(i));
	Prefetch p(rig, hashes(4));

	p.temporary = true;
	p.start().wait();
	expect_prefix(rig, p, 4);
	p.release();
	EXPECT_EQ(rig.l1_stats().used_bytes, 0u);
	for (uint64_t i = 0; i < 4; i++)
		EXPECT_EQ(rig.find(rig.key(i)), 0);
	// The control: a retained one stays.
	Prefetch q(rig, hashes(4));

	q.start().wait();
	q.release();
	for (uint64_t i = 0; i < 4; i++)
		EXPECT_EQ(rig.find(rig.key(i)), 1);
}

TEST(PrefetchTemporary, WhatL1HadStays)
{
	Rig rig(with({"mem"}));

	rig.store_wait(rig.key(0));
	rig.preload(0, rig.key(1));
	Prefetch p(rig, hashes(2));

	p.temporary = true;
	p.start().wait();
	p.release();
	EXPECT_EQ(rig.find(rig.key(0)), 1);
	EXPECT_EQ(rig.find(rig.key(1)), 0);
}

TEST(PrefetchTemporary, SharedWithOneThatRetainsItStays)
{
	for (bool temporary_first : {true, false}) {
		Rig rig(with({"fault:a,next=mem"}));

		rig.preload(0, rig.key(0));
		Fault("a").script("get@1:hang");
		Prefetch p(rig, hashes(1)), q(rig, hashes(1));

		(temporary_first ? p : q).temporary = true;
		p.start();
		Fault("a").held(1);
		q.start();
		rig.rounds();
		Fault("a").release();
		p.wait();
		q.wait();
		expect_prefix(rig, p, 1);
		expect_prefix(rig, q, 1);
		p.release();
		q.release();
		EXPECT_EQ(rig.find(rig.key(0)), 1);
		EXPECT_EQ(rig.count(0, &N::gets), 1u);
	}
}

// Prefetched chunks are never stored again, and failed reads never served: counted
// over many reads. KVH_LONG=1 makes it a million each.
uint64_t many()
{
	const char *text = getenv("KVH_LONG");

	return text != nullptr && *text == '1' ? 1000000 : 20000;
}

TEST(PrefetchMany, WhatIsPrefetchedIsNeverStoredAgain)
{
	constexpr uint32_t kChunks = 100;
	Rig rig(with({"mem:a", "mem:b"}));
	uint64_t reads = 0;

	for (uint64_t i = 0; i < kChunks; i++)
		rig.preload(0, rig.key(i));
	while (reads < many()) {
		Prefetch p(rig, hashes(kChunks));

		p.temporary = true;
		p.start().wait();
		ASSERT_EQ(p.usable, kChunks);
		p.release();
		reads = rig.count(0, &N::gets);
	}
	rig.drain();
	for (uint32_t a = 0; a < 2; a++) {
		EXPECT_EQ(rig.count(a, &N::puts), 0u);
		EXPECT_EQ(rig.count(a, &N::put_dropped), 0u);
	}
	// The control: what was stored by a runtime is.
	rig.store_wait(rig.key(kChunks));
	for (uint32_t a = 0; a < 2; a++)
		EXPECT_EQ(rig.count(a, &N::puts), 1u);
}

TEST(PrefetchMany, AReadThatFailsIsNeverServed)
{
	constexpr uint32_t kChunks = 100;
	Rig rig(with({"fault:a,next=mem"}));
	uint64_t failed = 0, asked = 0;

	for (uint64_t i = 0; i < kChunks; i++)
		rig.preload(0, rig.key(i));
	Fault("a").script("get x*:fail=EIO");
	while (failed < many()) {
		Prefetch p(rig, {hash_of(asked++ % kChunks)});

		p.start().wait();
		ASSERT_EQ(p.usable, 0u);
		ASSERT_EQ(p.leased(), 0u);
		ASSERT_EQ(rig.l1_stats().frames, 0u); // neither found nor left behind
		failed = rig.count(0, &N::get_failed);
	}
	EXPECT_EQ(failed, asked);
	EXPECT_EQ(rig.metric(&M::hits_l1) + rig.metric(&M::hits_l2), 0u);
	// The control: the same reads, when they succeed, are.
	Fault("a").script("");
	for (uint64_t i = 0; i < kChunks; i++) {
		Prefetch p(rig, hashes(1, i));

		p.start().wait();
		expect_prefix(rig, p, 1);
	}
}

} // namespace
