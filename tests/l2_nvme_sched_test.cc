// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_sched_test.cc - the nvme adapter's order of transfers and its budget of
// bytes, over an engine that does what the test says.
#include "l2/nvme_sched.h"

#include <cerrno>
#include <deque>
#include <gtest/gtest.h>
#include <memory>
#include <vector>

namespace l2test
{
namespace
{

constexpr uint64_t kMiB = UINT64_C(1) << 20;

// Keeps what was started; ends what the test ends.
struct Engine {
	std::deque<struct kvh_nvme_io *> flying;
	struct kvh_nvme_io_list ended;

	Engine()
	{
		kvh_nvme_io_list_init(&ended);
	}
	void end(size_t n = 1)
	{
		for (; n > 0 && !flying.empty(); n--) {
			flying.front()->done = flying.front()->len;
			kvh_nvme_io_list_append(&ended, flying.front());
			flying.pop_front();
		}
	}
};

const struct kvh_nvme_engine_ops kOps = [] {
	struct kvh_nvme_engine_ops ops = {};

	ops.name = "test";
	ops.start = [](void *engine, struct kvh_nvme_io *io) {
		static_cast<Engine *>(engine)->flying.push_back(io);
	};
	ops.reap = [](void *engine) {
		return kvh_nvme_io_list_take(&static_cast<Engine *>(engine)->ended);
	};
	ops.cancel = [](void *, struct kvh_nvme_io *) {};
	return ops;
}();

class Sched : public ::testing::Test
{
      protected:
	void init(uint64_t budget)
	{
		kvh_nvme_sched_init(&sched, &kOps, &engine, budget);
	}
	struct kvh_nvme_io *start(enum kvh_nvme_kind kind, uint64_t len = kMiB)
	{
		ios.emplace_back(new struct kvh_nvme_io());
		ios.back()->kind = static_cast<uint8_t>(kind);
		ios.back()->len = len;
		kvh_nvme_sched_start(&sched, ios.back().get());
		return ios.back().get();
	}
	// Ends the oldest in the engine, one by one; the kinds in which they went.
	std::string order()
	{
		std::string kinds;

		while (!engine.flying.empty()) {
			kinds += "LSl"[engine.flying.front()->kind];
			engine.end();
			(void)kvh_nvme_sched_reap(&sched);
			EXPECT_LE(sched.flying_bytes, std::max(sched.budget_bytes, kMiB));
		}
		return kinds;
	}

	Engine engine;
	struct kvh_nvme_sched sched;
	std::vector<std::unique_ptr<struct kvh_nvme_io>> ios;
};

TEST_F(Sched, NoMoreFliesThanTheBudgetHasRoomFor)
{
	init(4 * kMiB);
	for (int i = 0; i < 10; i++)
		start(KVH_NVME_LOAD);
	EXPECT_EQ(engine.flying.size(), 4u);
	engine.end(2);
	(void)kvh_nvme_sched_reap(&sched);
	EXPECT_EQ(engine.flying.size(), 4u);
	EXPECT_EQ(order(), "LLLLLLLL");
	EXPECT_EQ(sched.flying_bytes, 0u);
}

TEST_F(Sched, OneLargerThanTheBudgetFliesAlone)
{
	init(4 * kMiB);
	start(KVH_NVME_STORE, 64 * kMiB);
	start(KVH_NVME_LOAD);
	EXPECT_EQ(engine.flying.size(), 1u);
	engine.end();
	(void)kvh_nvme_sched_reap(&sched);
	EXPECT_EQ(engine.flying.size(), 1u);
}

TEST_F(Sched, LoadsPassStoresAndStoresPassWhatCanWaitButNoneStarves)
{
	init(kMiB); // one at a time
	start(KVH_NVME_STORE);
	for (int i = 0; i < 3; i++) {
		start(KVH_NVME_LATER);
		start(KVH_NVME_STORE);
		start(KVH_NVME_LOAD);
	}
	EXPECT_EQ(order(), "SLLLSlSSll")
		<< "the first was under way; after four, one that waits";
	for (int i = 0; i < 12; i++)
		start(KVH_NVME_LOAD);
	start(KVH_NVME_STORE);
	EXPECT_EQ(order().find('S'), 5u) << "four pass it, behind the one that flew";
}

TEST_F(Sched, WhatWaitsCanBeCancelled)
{
	init(kMiB);
	start(KVH_NVME_LOAD);
	struct kvh_nvme_io *waits = start(KVH_NVME_LOAD);

	kvh_nvme_sched_cancel(&sched, waits);
	EXPECT_EQ(kvh_nvme_sched_reap(&sched), waits);
	EXPECT_EQ(waits->result, -ECANCELED);
	EXPECT_EQ(order(), "L");
}

// A disk that moves `most` once `knee` bytes fly, and less in proportion before.
uint64_t rate_at(uint64_t budget, uint64_t knee, uint64_t most)
{
	return budget >= knee ? most : most / 1000 * (budget * 1000 / knee);
}

TEST_F(Sched, TheBudgetFindsTheKnee)
{
	for (uint64_t knee : {8 * kMiB, 32 * kMiB, 128 * kMiB, 512 * kMiB}) {
		init(0);
		for (int i = 0; i < 400; i++)
			kvh_nvme_sched_judge(&sched,
					     rate_at(sched.budget_bytes, knee, 2000000000));
		const uint64_t found = sched.kept_bytes;

		EXPECT_GE(rate_at(found, knee, 1000), 960u)
			<< knee / kMiB << " " << found / kMiB;
		EXPECT_LE(found, 2 * knee) << "more would only be latency";
	}
}

TEST_F(Sched, TheBudgetFollowsADiskThatChanges)
{
	init(0);
	for (int i = 0; i < 300; i++)
		kvh_nvme_sched_judge(&sched,
				     rate_at(sched.budget_bytes, 16 * kMiB, 1000000000));
	EXPECT_LE(sched.kept_bytes, 32 * kMiB);
	for (int i = 0; i < 600; i++)
		kvh_nvme_sched_judge(&sched,
				     rate_at(sched.budget_bytes, 200 * kMiB, 5000000000));
	EXPECT_GE(rate_at(sched.kept_bytes, 200 * kMiB, 1000), 960u);
}

TEST_F(Sched, ABudgetThatIsGivenIsKept)
{
	init(8 * kMiB);
	for (int i = 0; i < 100; i++) {
		for (int n = 0; n < 40; n++)
			start(KVH_NVME_LOAD);
		(void)order();
	}
	EXPECT_EQ(sched.budget_bytes, 8 * kMiB);
}

} // namespace
} // namespace l2test
