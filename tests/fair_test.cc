// SPDX-License-Identifier: Apache-2.0
//
// fair_test.cc - the queue that is fair between spaces: order, shares, the bound,
// and its books, against a model under random use.
#include "host/fair.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <set>
#include <vector>

namespace
{

constexpr uint64_t kMiB = 1 << 20;

struct Queue {
	Queue()
	{
		kvh_fair_init(&fair);
		feeder.base.feed = [](kvh_feeder *f, kvh_l2_task *task) {
			return reinterpret_cast<Feeder *>(f)->queue->offer(task);
		};
		feeder.base.turn_over = [](kvh_feeder *) {};
		feeder.queue = this;
	}
	~Queue()
	{
		EXPECT_EQ(fair.n, 0u);
		EXPECT_EQ(fair.bytes, 0u);
		EXPECT_EQ(fair.n_ring, 0u);
		EXPECT_EQ(fair.cells.used, 0u); // every flow is gone
		kvh_fair_free(&fair);
	}
	struct kvh_l2_task *add(kvh_space_t space, uint64_t bytes,
				enum kvh_l2_op op = KVH_L2_PUT)
	{
		tasks.emplace_back();
		struct kvh_l2_task *task = &tasks.back();

		task->req.op = op;
		task->req.key.space = space;
		task->req.buf = op == KVH_L2_PUT ? task : nullptr;
		task->req.len = bytes;
		kvh_fair_add(&fair, task);
		return task;
	}
	bool admit(kvh_space_t space, uint64_t bytes, uint64_t limit)
	{
		return kvh_fair_admit(
			&fair, space, bytes, limit,
			[](void *arg, kvh_l2_task *task) {
				Queue *q = static_cast<Queue *>(arg);

				q->dropped[task->req.key.space]++;
				const kvh_space_t space = task->req.key.space;
				const uint64_t bytes = task->req.len;

				kvh_fair_remove(&q->fair, task);
				kvh_fair_settled(&q->fair, space, bytes);
			},
			this);
	}
	enum kvh_fed offer(kvh_l2_task *task)
	{
		if (hook)
			return hook(task);
		if (room == 0)
			return KVH_FED_FULL;
		room--;
		kvh_fair_sent(&fair, task);
		sent.push_back(task->req.key.space);
		kvh_fair_back(&fair, task);
		return KVH_FED_TAKEN;
	}
	bool feed(uint64_t n = UINT64_MAX)
	{
		room = n;
		return kvh_fair_feed(&fair, &feeder.base);
	}
	uint64_t count(kvh_space_t space) const
	{
		return uint64_t(std::count(sent.begin(), sent.end(), space));
	}
	struct Feeder {
		struct kvh_feeder base;
		Queue *queue;
	} feeder;
	struct kvh_fair fair;
	std::deque<kvh_l2_task> tasks;
	std::vector<kvh_space_t> sent;
	std::map<kvh_space_t, uint64_t> dropped;
	std::function<enum kvh_fed(kvh_l2_task *)> hook;
	uint64_t room = 0;
};

TEST(Fair, OneSpaceInOrder)
{
	Queue q;
	std::vector<kvh_l2_task *> order, want;

	for (int i = 0; i < 50; i++)
		want.push_back(q.add(7, 1 + uint64_t(i) % 3 * kMiB));
	q.hook = [&](kvh_l2_task *task) {
		order.push_back(task);
		kvh_fair_remove(&q.fair, task);
		return KVH_FED_TAKEN;
	};
	EXPECT_TRUE(q.feed());
	EXPECT_EQ(order, want);
}

// A thousand of one space are there first; another's one is sent second.
TEST(Fair, AFloodDelaysAnotherByOneTurn)
{
	Queue q;

	for (int i = 0; i < 1000; i++)
		q.add(1, kMiB);
	q.add(2, kMiB);
	EXPECT_FALSE(q.feed(2));
	EXPECT_EQ(q.count(2), 1u);
	EXPECT_TRUE(q.feed());
}

// Control: with all of them in one flow, the queue is a plain FIFO, and the one
// waits for the thousand.
TEST(Fair, ControlInOneFlowTheFloodGoesFirst)
{
	Queue q;
	struct kvh_l2_task *last;
	bool seen = false;

	for (int i = 0; i < 1000; i++)
		q.add(1, kMiB);
	last = q.add(1, kMiB); // what would be another space's
	q.hook = [&](kvh_l2_task *task) {
		if (q.room == 0)
			return KVH_FED_FULL;
		q.room--;
		seen |= task == last;
		kvh_fair_remove(&q.fair, task);
		return KVH_FED_TAKEN;
	};
	EXPECT_FALSE(q.feed(1000));
	EXPECT_FALSE(seen);
	EXPECT_TRUE(q.feed());
	EXPECT_TRUE(seen);
}

// By bytes, not by requests: a space of small frames gets as many bytes.
TEST(Fair, SharesAreOfBytes)
{
	Queue q;

	for (int i = 0; i < 100; i++)
		q.add(1, 16 * kMiB);
	for (int i = 0; i < 1600; i++)
		q.add(2, kMiB);
	q.feed(17 * 20); // twenty turns of each
	EXPECT_NEAR(double(q.count(1)), 20, 1);
	EXPECT_NEAR(double(q.count(2)), 320, 16);
	q.feed();
}

TEST(Fair, ATurnThatWasInterruptedGoesOn)
{
	Queue q;

	for (int i = 0; i < 64; i++)
		q.add(1, kMiB);
	for (int i = 0; i < 4; i++)
		q.add(2, 16 * kMiB);
	while (!q.feed(1)) // one at a time: as with a shallow adapter
		;
	uint64_t ones = 0, worst = 0;

	for (kvh_space_t space : q.sent) {
		ones = space == 1 ? ones + 1 : 0;
		worst = ones > worst ? ones : worst;
		if (q.count(2) == 4 && space == 2)
			break;
	}
	EXPECT_LE(worst, 48u);
	EXPECT_EQ(q.sent.size(), 68u);
}

TEST(Fair, ABlockedSpaceBlocksNobodyElse)
{
	Queue q;

	q.add(1, 1);
	q.add(2, 1);
	q.add(3, 1);
	q.hook = [&](kvh_l2_task *task) {
		if (task->req.key.space != 3)
			return task->req.key.space == 1 ? KVH_FED_BLOCKED : KVH_FED_PASSED;
		kvh_fair_remove(&q.fair, task);
		return KVH_FED_TAKEN;
	};
	EXPECT_TRUE(q.feed()); // returns: nobody can move any more
	EXPECT_EQ(q.fair.n, 2u);
	q.hook = nullptr;
	q.feed();
}

// ---- the bound --------------------------------------------------------------

TEST(FairBound, OnePutAlwaysFits)
{
	Queue q;

	EXPECT_TRUE(q.admit(1, 100, 10));
	EXPECT_FALSE(q.admit(2, 1, 10));
	kvh_fair_settled(&q.fair, 1, 100);
}

TEST(FairBound, AFloodMakesRoomForOthers)
{
	Queue q;
	uint64_t mine = 0;

	for (int i = 0; i < 100; i++) {
		ASSERT_TRUE(q.admit(1, kMiB, 100 * kMiB));
		q.add(1, kMiB);
	}
	EXPECT_FALSE(q.admit(1, kMiB, 100 * kMiB)); // not at its own cost
	for (int i = 0; i < 100; i++) {
		if (!q.admit(2, kMiB, 100 * kMiB))
			break;
		q.add(2, kMiB);
		mine++;
	}
	EXPECT_EQ(mine, 50u); // half each
	EXPECT_EQ(q.dropped[1], 50u);
	EXPECT_LE(q.fair.bytes, 100 * kMiB);
	q.hook = [&](kvh_l2_task *task) {
		const kvh_space_t space = task->req.key.space;

		kvh_fair_remove(&q.fair, task);
		kvh_fair_settled(&q.fair, space, kMiB);
		return KVH_FED_TAKEN;
	};
	q.feed();
}

TEST(FairBound, WhatIsOutIsNotTakenBack)
{
	Queue q;
	std::vector<kvh_l2_task *> out;

	for (int i = 0; i < 10; i++) {
		ASSERT_TRUE(q.admit(1, kMiB, 10 * kMiB));
		q.add(1, kMiB);
	}
	q.hook = [&](kvh_l2_task *task) {
		kvh_fair_sent(&q.fair, task);
		out.push_back(task);
		return KVH_FED_TAKEN;
	};
	q.feed();
	EXPECT_FALSE(q.admit(2, kMiB, 10 * kMiB)); // the adapter has it all
	for (kvh_l2_task *task : out) {
		kvh_fair_back(&q.fair, task);
		kvh_fair_settled(&q.fair, 1, kMiB);
	}
}

// ---- random -----------------------------------------------------------------

TEST(Fair, RandomUseKeepsTheBooks)
{
	const uint32_t seed = std::random_device()();
	std::mt19937 random(seed);
	Queue q;
	std::set<kvh_l2_task *> waiting, out;
	std::map<kvh_space_t, std::deque<kvh_l2_task *>> order;

	SCOPED_TRACE(testing::Message() << "seed " << seed);
	q.hook = [&](kvh_l2_task *task) {
		auto &space = order[task->req.key.space];

		EXPECT_EQ(space.front(), task);
		switch (random() % 8) {
		case 0: return KVH_FED_BLOCKED;
		case 1: return KVH_FED_FULL;
		default: break;
		}
		space.pop_front();
		waiting.erase(task);
		if (random() % 2 != 0) {
			kvh_fair_remove(&q.fair, task);
		} else {
			kvh_fair_sent(&q.fair, task);
			out.insert(task);
		}
		return KVH_FED_TAKEN;
	};
	for (int i = 0; i < 20000; i++) {
		if (random() % 2 != 0) {
			kvh_l2_task *task = q.add(random() % 700, 1 + random() % (4 * kMiB));

			waiting.insert(task);
			order[task->req.key.space].push_back(task);
		} else if (random() % 4 == 0) {
			q.feed();
		} else if (!out.empty()) {
			kvh_fair_back(&q.fair, *out.begin());
			out.erase(out.begin());
		}
		ASSERT_EQ(q.fair.n, waiting.size());
	}
	for (kvh_l2_task *task : out)
		kvh_fair_back(&q.fair, task);
	q.hook = [&](kvh_l2_task *task) {
		kvh_fair_remove(&q.fair, task);
		return KVH_FED_TAKEN;
	};
	EXPECT_TRUE(q.feed());
}

} // namespace
