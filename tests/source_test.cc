// SPDX-License-Identifier: Apache-2.0
//
// source_test.cc - which adapter is read from: windows, measured speed, and that
// neither a slow start nor a slow moment sticks. A world of adapters with a known
// speed stands in for them, and a clock of its own.
#include "host/source.h"

#include "host/clock.h"

#include <gtest/gtest.h>
#include <queue>
#include <vector>

namespace
{

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kMs = KVH_NS_PER_MS;

// Adapters that need `latency` for a read and deliver one MiB in `ns_per_mib`, one
// after the other.
class World
{
      public:
	struct Speed {
		uint64_t latency, ns_per_mib;
	};
	World(std::vector<Speed> speeds, enum kvh_read_plan plan = KVH_READ_FASTEST)
	    : speed(std::move(speeds)), free_at_(speed.size()), reads(speed.size())
	{
		s.plan = plan;
		s.window_bytes = UINT64_MAX;
		for (uint32_t a = 0; a < speed.size(); a++)
			kvh_source_open(&s, a, 1000);
	}
	uint32_t all() const
	{
		return (1u << speed.size()) - 1;
	}
	// A read of 1 MiB from an adapter, to its end.
	void read(uint32_t a)
	{
		begin(a);
		finish(0);
	}
	void begin(uint32_t a, uint64_t bytes = kMiB)
	{
		kvh_source_began(&s, a, bytes, now);
		reads[a]++;
		free_at_[a] = std::max(free_at_[a], now) + speed[a].ns_per_mib * bytes / kMiB;
		out_.push({free_at_[a] + speed[a].latency, a, now, s.at[a].bytes, bytes});
	}
	// Lets reads end until so many are out.
	void finish(size_t leave)
	{
		while (out_.size() > leave) {
			const Out o = out_.top();

			out_.pop();
			now = std::max(now, o.at);
			kvh_source_ended(&s, o.a, o.ahead, o.bytes, o.began, now, true);
			kvh_source_freed(&s, o.a, o.bytes);
		}
	}
	void choose_and_read(uint32_t n, size_t depth = 1)
	{
		for (uint32_t i = 0; i < n; i++) {
			begin(kvh_source_choose(&s, all(), kMiB));
			finish(depth - 1);
		}
		finish(0);
	}
	struct kvh_sources s = {};
	std::vector<Speed> speed;
	uint64_t now = KVH_NS_PER_S;

      private:
	struct Out {
		uint64_t at;
		uint32_t a;
		uint64_t began, ahead, bytes;
		bool operator<(const Out &other) const
		{
			return at > other.at;
		}
	};
	std::vector<uint64_t> free_at_;
	std::priority_queue<Out> out_;

      public:
	std::vector<uint64_t> reads;
};

TEST(Source, OneReadAloneAlwaysHasRoomThenDepthAndBytesBound)
{
	struct kvh_sources s = {};

	s.window_bytes = 10;
	kvh_source_open(&s, 0, 3);
	EXPECT_TRUE(kvh_source_room(&s, 0, 1000));
	kvh_source_began(&s, 0, 4, 1);
	EXPECT_TRUE(kvh_source_room(&s, 0, 6));
	EXPECT_FALSE(kvh_source_room(&s, 0, 7));
	kvh_source_began(&s, 0, 1, 1);
	kvh_source_began(&s, 0, 1, 1);
	EXPECT_FALSE(kvh_source_room(&s, 0, 1)); // three are out
	kvh_source_ended(&s, 0, 4, 4, 1, 2, true);
	EXPECT_TRUE(kvh_source_room(&s, 0, 4));
	EXPECT_FALSE(kvh_source_room(&s, 0, 5)); // its bytes are not free yet
	kvh_source_freed(&s, 0, 4);
	EXPECT_TRUE(kvh_source_room(&s, 0, 8));
}

TEST(Source, TheFirstWhateverItsSpeedButNotWhileItIsOverdue)
{
	World w({{100 * kMs, kMs}, {0, kMs}}, KVH_READ_FIRST);

	w.choose_and_read(20);
	EXPECT_EQ(w.reads[0], 20u);
	w.s.at[0].overdue = 1;
	EXPECT_EQ(kvh_source_choose(&w.s, 3, kMiB), 1u);
	EXPECT_EQ(kvh_source_choose(&w.s, 1, kMiB), 0u); // nobody else has it
	w.s.at[1].overdue = 1;
	EXPECT_EQ(kvh_source_choose(&w.s, 3, kMiB), 0u);
}

TEST(Source, TheFastestByLatencyOrByRate)
{
	World latency({{9 * kMs, kMs}, {kMs, kMs}}), rate({{kMs, 9 * kMs}, {kMs, kMs}});

	latency.choose_and_read(200);
	rate.choose_and_read(200, 16);
	EXPECT_GT(latency.reads[1], 185u);
	EXPECT_GT(rate.reads[1], 170u);
	EXPECT_GE(latency.reads[0], 1u); // unknown ones are tried
	EXPECT_GE(rate.reads[0], 1u);
}

// Twice as fast: about twice as many, because what is out counts.
TEST(Source, TwoOfThemShareTheLoadByTheirRates)
{
	World w({{kMs, 4 * kMs}, {kMs, 2 * kMs}});

	w.choose_and_read(3000, 32);
	EXPECT_NEAR(double(w.reads[1]) / double(w.reads[0]), 2.0, 0.4);
}

// Of the read that comes next, for a steady number of reads out.
TEST(Source, AnEstimateIsAboutRight)
{
	for (size_t depth : {1, 4, 16}) {
		World w({{5 * kMs, 2 * kMs}});

		w.choose_and_read(200, depth);
		for (size_t i = 1; i < depth; i++)
			w.begin(0);
		const uint64_t estimate = kvh_source_estimate(&w.s, 0, kMiB), began = w.now;

		w.read(0);
		EXPECT_GT(estimate, (w.now - began) * 6 / 10) << depth;
		EXPECT_LT(estimate, (w.now - began) * 14 / 10) << depth;
	}
}

// The second was slow in its first reads, and is the faster one ever after.
World slow_start()
{
	World w({{kMs, kMs}, {50 * kMs, kMs}});

	w.choose_and_read(40);
	w.speed[1].latency = 0;
	w.speed[1].ns_per_mib = kMs / 4;
	w.reads.assign(2, 0);
	return w;
}

TEST(Source, ASlowStartDoesNotStick)
{
	World w = slow_start();

	w.choose_and_read(20000);
	w.reads.assign(2, 0);
	w.choose_and_read(1000);
	EXPECT_GT(w.reads[1], 900u);
}

// The control: by the estimates alone, it is never tried again.
TEST(Source, ControlWithoutExplorationASlowStartSticks)
{
	World w = slow_start();

	for (int i = 0; i < 21000; i++)
		w.read(kvh_source_estimate(&w.s, 0, kMiB) <= kvh_source_estimate(&w.s, 1, kMiB)
			       ? 0
			       : 1);
	EXPECT_EQ(w.reads[1], 0u);
}

TEST(Source, ExploringCostsLittleWhereOneStaysSlow)
{
	World w({{kMs, kMs}, {500 * kMs, kMs}});

	w.choose_and_read(10000);
	EXPECT_LE(w.reads[1], 1 + 10000 / (32 * 32) + 1);
	EXPECT_GE(w.reads[1], 2u);
}

TEST(Source, PatienceIsEightTimesTheEstimateWithinBounds)
{
	World w({{50 * kMs, kMs}});

	EXPECT_EQ(kvh_source_patience(&w.s, 0, kMiB), KVH_NS_PER_S); // unknown
	w.read(0);
	const uint64_t estimate = kvh_source_estimate(&w.s, 0, kMiB);

	EXPECT_EQ(kvh_source_patience(&w.s, 0, kMiB), 8 * estimate);
	w.speed[0] = {0, 1000};
	w.choose_and_read(200);
	EXPECT_EQ(kvh_source_patience(&w.s, 0, kMiB), 100 * kMs);
	w.s.hedge_ns = 7;
	EXPECT_EQ(kvh_source_patience(&w.s, 0, kMiB), 7u);
	EXPECT_EQ(kvh_source_probe_patience(&w.s, 0), 7u);
}

TEST(Source, FailuresTeachNothingAboutSpeed)
{
	World w({{kMs, kMs}});

	w.read(0);
	const uint64_t before = kvh_source_estimate(&w.s, 0, kMiB);

	kvh_source_began(&w.s, 0, kMiB, w.now);
	kvh_source_ended(&w.s, 0, kMiB, kMiB, w.now, w.now + KVH_NS_PER_S, false);
	kvh_source_freed(&w.s, 0, kMiB);
	EXPECT_EQ(kvh_source_estimate(&w.s, 0, kMiB), before);
}

} // namespace
