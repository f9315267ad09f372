// SPDX-License-Identifier: Apache-2.0
//
// prefetch_speculate_test.cc - reading ahead: what followed before is read, what was
// guessed right and wrong is counted, and neither a load, nor a store, nor a frame
// gives way to a guess.
#include "tests/prefetch_rig.h"

namespace
{

using namespace ctl;

class Speculate : public ::testing::Test
{
      protected:
	explicit Speculate(uint32_t n = 2, uint64_t l1_bytes = 4 << 20)
	    : rig(options(n, l1_bytes))
	{
		for (uint64_t i = 0; i < 10; i++)
			rig.preload(0, rig.key(i));
		ask(10); // which teaches what follows what
		settle(rig);
		forget();
	}
	static Options options(uint32_t n, uint64_t l1_bytes)
	{
		Options options = with({"fault:a,next=mem"});

		options.speculate = n;
		options.l1_bytes = l1_bytes;
		return options;
	}
	void ask(uint64_t n, uint64_t from = 0)
	{
		Prefetch p(rig, hashes(n, from));

		p.start().wait();
		expect_prefix(rig, p, uint32_t(n));
	}
	void forget()
	{
		kvh_l1_evict(rig.l1, 0);
		ASSERT_EQ(rig.l1_stats().frames, 0u);
	}
	uint64_t begun()
	{
		return rig.metric(&M::speculation_begun);
	}
	void expect_counts(uint64_t n_begun, uint64_t hits, uint64_t wasted)
	{
		const struct kvh_l1_stats stats = rig.l1_stats();

		EXPECT_EQ(begun(), n_begun);
		EXPECT_EQ(rig.metric(&M::speculation_hits) + stats.guesses_used, hits);
		EXPECT_EQ(rig.metric(&M::speculation_wasted) + stats.guesses_wasted, wasted);
	}
	Rig rig;
};

TEST_F(Speculate, WhatFollowedIsReadAndAHitWhenAskedFor)
{
	ask(4);
	settle(rig);
	for (uint64_t i = 0; i < 7; i++)
		EXPECT_EQ(rig.find(rig.key(i)), i < 6 ? 1 : 0) << i;
	expect_counts(2, 0, 0);
	EXPECT_EQ(rig.l1_stats().leases, 0u);
	ask(6); // the two that were guessed, and two more are read
	settle(rig);
	expect_counts(4, 2, 0);
	EXPECT_EQ(rig.metric(&M::hits_l1), 6u);
	EXPECT_EQ(rig.metric(&M::prefetch_wasted), 0u);
}

TEST_F(Speculate, NotAskedForIsWastedWhenItGoes)
{
	ask(4);
	settle(rig);
	forget();
	expect_counts(2, 0, 2);
	ask(4);
	settle(rig);
	ASSERT_EQ(kvh_l1_erase(rig.l1, std::array{rig.key(4)}.data()), 0);
	expect_counts(4, 0, 3);
}

TEST_F(Speculate, AtThePromptsEndNothingIsKnown)
{
	ask(10);
	settle(rig);
	expect_counts(0, 0, 0);
}

class SpeculateOff : public Speculate
{
      protected:
	SpeculateOff() : Speculate(0)
	{
	}
};

// The control of all others.
TEST_F(SpeculateOff, NothingIsRead)
{
	ask(4);
	settle(rig);
	expect_counts(0, 0, 0);
	EXPECT_EQ(rig.l1_stats().frames, 4u);
}

TEST_F(Speculate, AskedForWhileItIsReadItIsReadOnce)
{
	ask(3);
	settle(rig);
	forget();
	expect_counts(2, 0, 2);
	Fault("a").script("get@4x2:hang"); // behind those that are asked for
	ask(3);
	Fault("a").held(2);
	const uint64_t reads = Fault("a").accepted(KVH_L2_GET);
	Prefetch p(rig, hashes(5));

	p.start();
	rig.rounds();
	Fault("a").release();
	p.wait();
	expect_prefix(rig, p, 5);
	settle(rig);
	EXPECT_EQ(Fault("a").accepted(KVH_L2_GET), reads + 2); // two guesses more
	expect_counts(6, 2, 2);
}

TEST_F(Speculate, AGuessThatFailsIsWasted)
{
	Fault("a").script("get@5x2:fail=EIO");
	ask(4);
	settle(rig);
	expect_counts(2, 0, 2);
	EXPECT_EQ(rig.l1_stats().frames, 4u);
}

// Loads before guesses: while one is out, nothing is read ahead.
TEST_F(Speculate, NothingIsReadWhileALoadIsOut)
{
	Prefetch slow(rig, hashes(1, 9));

	Fault("a").script("get@1:hang");
	slow.start();
	Fault("a").held(1);
	ask(4);
	rig.rounds();
	EXPECT_EQ(begun(), 0u);
	Fault("a").release(); // then they are
	slow.wait();
	rig.until([&] { return begun() == 2; });
	settle(rig);
}

class SpeculateSmall : public Speculate
{
      protected:
	SpeculateSmall() : Speculate(4, 2 << 20)
	{
	}
};

// No frame gives way: in a full L1, nothing is read ahead and nothing evicted.
TEST_F(SpeculateSmall, NothingIsEvictedForAGuess)
{
	const uint64_t room = (2 << 20) / rig.frame_bytes();

	for (uint64_t i = 0; i < room; i++)
		ASSERT_EQ(rig.store(rig.key(1000 + i)), 0);
	rig.drain();
	ask(2); // by evicting two
	settle(rig);
	expect_counts(0, 0, 0);
	EXPECT_EQ(rig.l1_stats().frames, room);
	EXPECT_EQ(rig.l1_stats().evicted_alloc, 2u);
	// The control: with room for three, three are.
	for (uint64_t i = 0; i < 3; i++)
		ASSERT_EQ(kvh_l1_erase(rig.l1, std::array{rig.key(1000 + 10 + i)}.data()), 0);
	ask(2);
	settle(rig);
	expect_counts(3, 0, 0);
	EXPECT_EQ(rig.l1_stats().evicted_alloc, 2u);
}

TEST(SpeculateStores, TeachWhatFollowsWhat)
{
	Options options = with({"mem"});

	options.speculate = 2;
	Rig rig(options);

	for (uint64_t i = 1; i < 6; i++) {
		kvh_frame frame = rig.reserve(rig.key(i));
		const struct kvh_key key = rig.key(i);
		const struct kvh_hash parent = i > 1 ? hash_of(i - 1) : kvh_hash{};
		Persist persist;

		kvh_frame_fill(kvh_l1_data(rig.l1, frame), &key, rig.space->digest, &parent, 1,
			       rig.payload_bytes());
		ASSERT_EQ(kvh_controller_publish(rig.controller, frame, &persist), 0);
		persist.count.wait();
	}
	kvh_l1_evict(rig.l1, 0);
	Prefetch p(rig, hashes(1, 1));

	p.start().wait();
	expect_prefix(rig, p, 1);
	settle(rig);
	EXPECT_EQ(rig.metric(&M::speculation_begun), 2u);
	EXPECT_EQ(rig.find(rig.key(2)), 1);
	EXPECT_EQ(rig.find(rig.key(3)), 1);
	EXPECT_EQ(rig.find(rig.key(4)), 0);
}

} // namespace
