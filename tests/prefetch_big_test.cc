// SPDX-License-Identifier: Apache-2.0
//
// prefetch_big_test.cc - a prefetch of very many chunks: work a round, reads out and
// frames reserved stay bounded, and a small one beside it is not kept waiting.
#include "tests/prefetch_rig.h"

namespace
{

using namespace ctl;

constexpr uint32_t kMany = 16384;

// Of the prefetch controller, from the start of one that needs no adapter.
uint64_t rounds_until_done(Rig &rig, Prefetch &p)
{
	uint64_t rounds = 0;
	Task<struct kvh_loop_work> count([&] {
		for (; p.done.now() == 0; rounds++)
			(void)kvh_prefetch_tick(rig.controller, kvh_now_ns());
	});

	{
		LoopGate gate(rig); // so that both run in one round of the loop
		p.start();
		kvh_controller_post(rig.controller, &count);
	}
	count.done.wait();
	return rounds;
}

TEST(PrefetchBig, ARoundDoesABoundedPart)
{
	Options options;

	options.l1_bytes = uint64_t(kMany) * 8192 + (16 << 20);
	Rig rig(options);

	for (uint64_t i = 0; i < kMany; i++)
		ASSERT_EQ(rig.store(rig.key(i)), 0);
	Prefetch big(rig, hashes(kMany)), small(rig, hashes(64));

	// At most 16 steps of 256 entries, which are found and leased.
	EXPECT_GE(rounds_until_done(rig, big), 2u * kMany / (16 * 256));
	EXPECT_EQ(big.usable, kMany);
	EXPECT_EQ(rig.metric(&M::hits_l1), kMany);
	EXPECT_EQ(rounds_until_done(rig, small), 1u); // the control
	EXPECT_EQ(small.usable, 64u);
}

// Four reads are out at a time, and only move on when they are let go.
TEST(PrefetchBig, ASmallOneBesideItHasItsShare)
{
	Options options = with({"fault:a,next=mem:x,depth=4"});

	options.l1_bytes = 64u << 20;
	Rig rig(options);
	Fault fault("a");

	for (uint64_t i = 0; i < 600; i++)
		rig.preload(0, rig.key(i));
	fault.script("get x*:hang");
	Prefetch big(rig, hashes(500)), small(rig, hashes(8, 500));

	big.start();
	fault.held(4);
	small.start();
	rig.rounds();
	while (small.done.now() == 0) {
		fault.release();
		if (small.done.now() == 0)
			rig.rounds();
	}
	EXPECT_EQ(big.done.now(), 0u);
	EXPECT_LE(rig.count(0, &N::gets),
		  4u + 8 + 8 + 8); // half of what goes, and what was out
	expect_prefix(rig, small, 8);
	fault.script("");
	fault.release();
	big.wait();
	expect_prefix(rig, big, 500);
}

constexpr uint64_t kFrame = 8192;

struct Bound {
	uint64_t frames; // of read_bytes; 0: no limit
	uint32_t depth;  // of the adapter
	uint32_t out;    // what is expected
};

class PrefetchBound : public ::testing::TestWithParam<Bound>
{
};

// Frames are reserved as their reads begin: no more than are out. Without a bound
// (the control) all of them are.
TEST_P(PrefetchBound, FramesAreReservedAsReadsBegin)
{
	const Bound &bound = GetParam();
	Options options = with({"fault:a,next=mem:x,depth=" + std::to_string(bound.depth)});

	options.l1_bytes = 16u << 20;
	options.read_bytes = bound.frames == 0 ? UINT64_MAX : bound.frames * kFrame;
	Rig rig(options);

	ASSERT_EQ(rig.frame_bytes(), kFrame);
	for (uint64_t i = 0; i < 300; i++)
		rig.preload(0, rig.key(i));
	Fault("a").script("get x*:hang");
	Prefetch p(rig, hashes(300));

	p.start();
	Fault("a").held(bound.out);
	rig.rounds();
	EXPECT_EQ(rig.l1_stats().frames, bound.out);
	EXPECT_EQ(rig.l1_stats().used_bytes, bound.out * rig.frame_bytes());
	Fault("a").script("");
	Fault("a").release();
	p.wait();
	expect_prefix(rig, p, 300);
}

INSTANTIATE_TEST_SUITE_P(, PrefetchBound,
			 ::testing::Values(Bound{8, 256, 8}, Bound{1, 256, 1}, Bound{0, 4, 4},
					   Bound{0, 512, 300}));

// An adapter whose window is full keeps nobody from another.
TEST(PrefetchBig, AFullWindowBlocksOnlyItsAdapter)
{
	Options options = with({"fault:a,next=mem:x,depth=2", "mem:b"});
	Rig rig(options);

	for (uint64_t i = 0; i < 10; i++)
		rig.preload(0, rig.key(i));
	for (uint64_t i = 10; i < 20; i++)
		rig.preload(1, rig.key(i));
	Fault("a").script("get x*:hang");
	Prefetch stuck(rig, hashes(20)), other(rig, hashes(10, 10));

	stuck.start();
	Fault("a").held(2);
	// Its own chunks of the other adapter do not wait for those of the first.
	rig.until([&] { return rig.count(1, &N::gets) == 10; });
	other.start().wait();
	expect_prefix(rig, other, 10);
	EXPECT_EQ(stuck.done.now(), 0u);
	Fault("a").script("");
	Fault("a").release();
	stuck.wait();
	expect_prefix(rig, stuck, 20);
}

} // namespace
