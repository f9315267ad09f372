// SPDX-License-Identifier: Apache-2.0
//
// defer_test.cc - windowed groups that wait for their turn's end: what a prompt has
// outgrown is never stored, what the turn leaves is, and nothing is held meanwhile.
#include "host/store_impl.h"
#include "tests/controller_jobs.h"

namespace
{

using namespace ctl;
using N = struct kvh_adapter_counters;

// Group 0 is of full attention, group 1 has a window of three chunks.
Options windows(const char *policy = "deferred-windows")
{
	Options options;

	options.l2 = {"mem"};
	options.policy = policy;
	options.groups = {Group(), Group{KVH_GROUP_WINDOW, 3}};
	options.with_spaces = true;
	return options;
}

// From 1: a hash of zeros is no chunk's.
struct kvh_key at(const Rig &rig, uint64_t n, uint32_t group)
{
	return rig.key(n + 1, group);
}

struct kvh_hash hash_at(uint64_t n)
{
	return hash_of(n + 1);
}

// A prompt of n chunks, each group's, as a runtime stores it.
void grow(Rig &rig, uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i < to; i++)
		for (uint32_t g = 0; g < 2; g++) {
			const struct kvh_hash parent = i > 0 ? hash_at(i - 1) : kvh_hash{};

			ASSERT_EQ(rig.store(at(rig, i, g), nullptr, &parent), 0);
		}
	rig.rounds();
	rig.rounds();
}

TEST(Defer, TheTurnsEndStoresTheWindowOnly)
{
	Rig rig(windows());

	grow(rig, 0, 10);
	rig.until([&] { return rig.count(0, &N::puts) == 10; }); // those of full attention
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	rig.drain(); // flushes
	for (uint64_t i = 0; i < 10; i++) {
		EXPECT_TRUE(rig.in_l2(0, at(rig, i, 0))) << i;
		EXPECT_EQ(rig.in_l2(0, at(rig, i, 1)), i >= 7) << i;
	}
	EXPECT_EQ(rig.metric(&kvh_metrics::deferred_outgrown), 7u);
	EXPECT_EQ(rig.metric(&kvh_metrics::store_waiting), 0u);
}

TEST(Defer, ControlTheDefaultStoresThemAll)
{
	Rig rig(windows("default"));

	grow(rig, 0, 10);
	rig.drain();
	for (uint64_t i = 0; i < 10; i++)
		EXPECT_TRUE(rig.in_l2(0, at(rig, i, 1))) << i;
}

TEST(Defer, ASecondTurnGoesOnWhereTheFirstEnded)
{
	Rig rig(windows());

	grow(rig, 0, 5);
	rig.drain();
	grow(rig, 5, 9);
	rig.drain();
	for (uint64_t i = 0; i < 9; i++) {
		const bool of_first = i >= 2 && i < 5, of_second = i >= 6;

		EXPECT_EQ(rig.in_l2(0, at(rig, i, 1)), of_first || of_second) << i;
	}
}

TEST(Defer, WithoutAFlushTheTurnEndsByItself)
{
	Rig rig(windows());

	grow(rig, 0, 4);
	EXPECT_FALSE(rig.in_l2(0, at(rig, 3, 1)));
	rig.on_loop([&] { // five seconds later
		(void)kvh_defer_tick(rig.controller, rig.controller->now_ns + 5 * kSecond);
		kvh_seal_post(rig.controller);
	});
	rig.until([&] { return rig.in_l2(0, at(rig, 3, 1)); });
	EXPECT_FALSE(rig.in_l2(0, at(rig, 0, 1)));
}

TEST(Defer, ItDoesNotKeepL1)
{
	Rig rig(windows());

	grow(rig, 0, 3);
	rig.until([&] { return rig.count(0, &N::puts) == 3; });
	kvh_l1_evict(rig.l1, 0);
	EXPECT_EQ(rig.l1_stats().frames, 0u);
	rig.drain();
	EXPECT_EQ(rig.metric(&kvh_metrics::deferred_lost), 3u);
	EXPECT_FALSE(rig.in_l2(0, at(rig, 2, 1)));
}

TEST(Defer, TwoPromptsDoNotDisturbEachOther)
{
	Rig rig(windows());

	for (uint64_t i = 0; i < 8; i++)
		for (uint64_t prompt = 0; prompt < 2; prompt++) {
			const struct kvh_hash parent = i > 0 ? hash_at(1000 * prompt + i - 1)
							     : kvh_hash{};

			ASSERT_EQ(rig.store(at(rig, 1000 * prompt + i, 1), nullptr, &parent),
				  0);
		}
	rig.drain();
	for (uint64_t i = 0; i < 8; i++)
		for (uint64_t prompt = 0; prompt < 2; prompt++)
			EXPECT_EQ(rig.in_l2(0, at(rig, 1000 * prompt + i, 1)), i >= 5);
}

TEST(Defer, ClosingForgetsWhatWaits)
{
	Rig rig(windows());

	grow(rig, 0, 6);
	EXPECT_EQ(rig.close(), 0); // and nothing leaks
}

} // namespace
