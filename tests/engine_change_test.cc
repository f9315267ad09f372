// SPDX-License-Identifier: Apache-2.0
//
// engine_change_test.cc - by the public API: flush, the outcomes of a store's
// chunks, policies of the user's own, and adapters that come and go.
#include "engine_harness.h"

#include "l2/fault.h"

#include <atomic>
#include <cstring>

using namespace enginetest;

namespace
{

class Changes : public testing::Test
{
      protected:
	explicit Changes(const std::vector<std::string> &l2 = {"mem:a,size=16M"})
	    : engine({l2}), pool(engine, desc.layout, engine.space(desc)), queue(engine)
	{
	}
	std::vector<Item> items(uint32_t n, uint64_t seed = 1)
	{
		return make_items(pool, prompt(seed, n));
	}
	kvh_l2_status l2(uint32_t index)
	{
		kvh_l2_status st{};

		st.size = sizeof(st);
		EXPECT_EQ(0, kvh_l2_status_get(engine.get(), index, &st));
		return st;
	}
	int flush()
	{
		Job job;

		EXPECT_EQ(0, queue.run(job, [](kvh_queue *q, uint64_t ud, kvh_job_t *id) {
			return kvh_flush(q, ud, id);
		}));
		return queue.finish(job).status;
	}
	kvh_event add(const char *spec)
	{
		Job job;

		EXPECT_EQ(0, queue.run(job, [spec](kvh_queue *q, uint64_t ud, kvh_job_t *id) {
			return kvh_l2_add(q, spec, ud, id);
		}));
		return queue.finish(job);
	}
	int drain(uint32_t index)
	{
		Job job;

		EXPECT_EQ(0, queue.run(job, [index](kvh_queue *q, uint64_t ud, kvh_job_t *id) {
			return kvh_l2_drain(q, index, ud, id);
		}));
		return queue.finish(job).status;
	}
	int remove(uint32_t index)
	{
		Job job;

		EXPECT_EQ(0, queue.run(job, [index](kvh_queue *q, uint64_t ud, kvh_job_t *id) {
			return kvh_l2_remove(q, index, UINT64_MAX, ud, id);
		}));
		return queue.finish(job).status;
	}
	void store(uint32_t n, uint64_t seed, kvh_store_outcome *outcomes = nullptr)
	{
		Job job;

		ASSERT_EQ(0, queue.store(job, pool, items(n, seed), KVH_STORE_PERSISTED,
					 nullptr, nullptr, outcomes));
		EXPECT_EQ(0, queue.finish(job).status);
	}

	Desc desc;
	Engine engine;
	Pool pool;
	Queue queue;
};

TEST_F(Changes, AFlushEndsWhenAllIsInL2)
{
	Job job;

	ASSERT_EQ(0, queue.store(job, pool, items(5)));
	queue.finish(job);
	EXPECT_EQ(0, flush());
	EXPECT_EQ(5u, l2(0).puts);
	EXPECT_EQ(0, flush());
}

// One that could flush and has gone is not asked.
TEST_F(Changes, AFlushAsksNoneThatHasGone)
{
	const Dir dir;

	ASSERT_EQ(0, add(("nvme:" + dir.path() + "/f,size=4M").c_str()).status);
	store(4, 1);
	EXPECT_EQ(0, flush());
	ASSERT_EQ(0, remove(1));
	store(4, 2);
	EXPECT_EQ(0, flush());
	EXPECT_EQ(0u, l2(1).breaker_refused);
}

TEST_F(Changes, AdaptersComeAndGo)
{
	store(3, 1);
	const kvh_event added = add("mem:b,size=16M");

	EXPECT_EQ(0, added.status);
	EXPECT_EQ(1u, added.usable);
	EXPECT_EQ(uint32_t{KVH_L2_USED}, l2(1).state);
	EXPECT_EQ(-EEXIST, add("mem:b,size=8M").status);
	EXPECT_EQ(-EINVAL, add("nosuch").status);
	store(3, 2);
	EXPECT_EQ(3u, l2(1).puts);
	EXPECT_EQ(0, drain(1));
	EXPECT_EQ(uint32_t{KVH_L2_DRAINING}, l2(1).state);
	store(3, 3);
	EXPECT_EQ(3u, l2(1).puts);
	EXPECT_EQ(9u, l2(0).puts);
	EXPECT_EQ(0, remove(1));
	EXPECT_EQ(uint32_t{KVH_L2_GONE}, l2(1).state);
	EXPECT_EQ(-ENOENT, remove(1));
	EXPECT_EQ(-ENOENT, drain(7));
	store(3, 4);
	EXPECT_EQ(12u, l2(0).puts);
}

TEST_F(Changes, SettingsChangeByTheirNames)
{
	EXPECT_EQ(0, kvh_engine_set(engine.get(), "store.policy", "second-use"));
	store(3, 1);
	EXPECT_EQ(0u, l2(0).puts);
	EXPECT_EQ(-EINVAL, kvh_engine_set(engine.get(), "store.policy", "secnd-use"));
	store(3, 2);
	EXPECT_EQ(0u, l2(0).puts); // the old one is in force
	EXPECT_EQ(0, kvh_engine_set(engine.get(), "store.policy", "default"));
	store(3, 3);
	EXPECT_EQ(3u, l2(0).puts);
	EXPECT_EQ(0, kvh_engine_set(engine.get(), "l2.retries", "0"));
	EXPECT_EQ(-EINVAL, kvh_engine_set(engine.get(), "l2.retries", "17"));
	EXPECT_EQ(0, kvh_engine_set(engine.get(), "l2.queue_bytes", "1M"));
}

class BadAdapter : public Changes
{
      protected:
	BadAdapter() : Changes({"fault:f,script=any x*:fail=EIO,next=mem:b"})
	{
	}
};

TEST_F(BadAdapter, MakesTheEngineIllUntilItIsWellAgain)
{
	kvh_health health{};

	EXPECT_EQ(0, kvh_engine_set(engine.get(), "l2.retries", "0"));
	health.size = sizeof(health);
	ASSERT_EQ(0, kvh_health_get(engine.get(), &health));
	EXPECT_EQ(1u, health.healthy) << health.reason;
	for (uint64_t i = 0; i < 10; i++)
		store(1, i);
	while (l2(0).breaker != KVH_L2_OPEN) /* the next round shows it */
		;
	ASSERT_EQ(0, kvh_health_get(engine.get(), &health));
	EXPECT_EQ(0u, health.healthy);
	EXPECT_NE(nullptr, strstr(health.reason, "adapter 0 (fault)")) << health.reason;
	EXPECT_EQ(0, kvh_fault_set_script(kvh_fault_find("f"), ""));
	while (l2(0).breaker != KVH_L2_CLOSED)
		;
	ASSERT_EQ(0, kvh_health_get(engine.get(), &health));
	EXPECT_EQ(1u, health.healthy) << health.reason;
}

class TwoAdapters : public Changes
{
      protected:
	TwoAdapters()
	    : Changes({"mem:a,size=16M", "fault:f,script=put@2:fail=ENOSPC,next=mem:b"})
	{
	}
};

TEST_F(TwoAdapters, OutcomesSayWhichAdapterHasWhichChunk)
{
	std::vector<kvh_store_outcome> outcomes(4, kvh_store_outcome{9, 9, 9});
	uint32_t failed = 0;

	store(4, 1, outcomes.data());
	for (const kvh_store_outcome &outcome : outcomes) {
		EXPECT_EQ(1u, outcome.stored & 1);
		EXPECT_EQ(2u, (outcome.stored | outcome.failed) & 2);
		EXPECT_EQ(0u, outcome.stored & outcome.failed);
		EXPECT_EQ(0u, outcome.skipped);
		failed += outcome.failed != 0;
	}
	EXPECT_EQ(1u, failed);
	EXPECT_EQ(-EIO, flush()); // says so, too
	EXPECT_EQ(0, flush());
}

TEST_F(TwoAdapters, OutcomesNeedAnEventToWaitFor)
{
	kvh_store_outcome outcomes[2];
	Job job;

	EXPECT_EQ(-EINVAL, queue.store(job, pool, items(2), 0, nullptr, nullptr, outcomes));
}

/* ---- a policy of the user's own ------------------------------------------ */

TEST(UserPolicy, IsFoundByItsNameAndAsked)
{
	static kvh_policy policy{};
	static std::atomic<uint64_t> asked{0};

	policy.version = KVH_POLICY_VERSION;
	policy.flags = KVH_POLICY_RETAIN;
	policy.name = "engine-test-first-only";
	policy.admit = [](void *, const kvh_policy_chunk *chunk) {
		const kvh_hash zero{};

		asked++;
		EXPECT_EQ(uint32_t{KVH_GROUP_FULL}, chunk->kind);
		return uint32_t(memcmp(chunk->parent, &zero, sizeof(zero)) == 0 ? KVH_ADMIT_NOW
										: KVH_ADMIT_NO);
	};
	policy.targets = [](void *, const kvh_policy_chunk *, uint32_t adapters) {
		return adapters;
	};
	policy.deletes = [](void *, const kvh_policy_chunk *, uint32_t, uint32_t) {
		return UINT32_C(0);
	};
	ASSERT_EQ(0, kvh_policy_register(&policy));

	Desc desc;
	Engine engine({{"mem:size=16M"}, 16 * MIB, "engine-test-first-only"});
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	Job job;
	kvh_l2_status st{};

	ASSERT_EQ(0,
		  queue.store(job, pool, make_items(pool, prompt(1, 6)), KVH_STORE_PERSISTED));
	EXPECT_EQ(0, queue.finish(job).status);
	EXPECT_EQ(6u, asked);
	st.size = sizeof(st);
	ASSERT_EQ(0, kvh_l2_status_get(engine.get(), 0, &st));
	EXPECT_EQ(1u, st.puts);
}

} // namespace
