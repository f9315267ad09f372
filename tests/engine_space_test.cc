// SPDX-License-Identifier: Apache-2.0
//
// engine_space_test.cc - what concerns a space as a whole, by the public calls: its
// limits in L2, its erase, and which frames of it leave L1.
#include "engine_harness.h"

using namespace enginetest;

namespace
{

constexpr uint32_t kChunks = 8;

/* Two tenants of one model. */
struct Tenants {
	explicit Tenants(const std::vector<std::string> &l2)
	    : engine(opts(l2)), a_space(engine.space(desc("a"))),
	      b_space(engine.space(desc("b"))), a(engine, small_layout(), a_space),
	      b(engine, small_layout(), b_space), queue(engine)
	{
	}
	static Opts opts(const std::vector<std::string> &l2)
	{
		Opts o;

		o.l2 = l2;
		return o;
	}
	static Desc desc(const char *salt)
	{
		Desc d;

		d.salt = salt;
		return d;
	}
	/* Chunks that are there, and where. */
	uint32_t in(const Pool &pool, uint8_t bits)
	{
		std::vector<uint8_t> where;

		queue.lookup(prefix_of(pool, prompt(1, kChunks)), &where);
		return static_cast<uint32_t>(
			std::count_if(where.begin(), where.end(),
				      [&](uint8_t w) { return (w & bits) != 0; }));
	}
	void store(Pool &pool)
	{
		EXPECT_EQ(kChunks,
			  store_prompt(queue, pool, prompt(1, kChunks), KVH_STORE_PERSISTED));
		pool.give_all();
	}
	uint32_t fetch(Pool &pool)
	{
		const uint32_t n = fetch_and_check(queue, pool, prompt(1, kChunks));

		pool.give_all();
		return n;
	}
	int erase(kvh_space_t space)
	{
		Job job;
		const int err = queue.run(job, [&](kvh_queue *q, uint64_t data, kvh_job_t *id) {
			return kvh_space_erase(q, space, data, id);
		});

		return err != 0 ? err : queue.finish(job).status;
	}
	uint64_t frame_bytes(const Pool &pool) const
	{
		return kvh_frame_bytes(static_cast<uint64_t>(
			kvh_space_chunk_bytes(engine.get(), pool.space, 0)));
	}

	Engine engine;
	kvh_space_t a_space, b_space;
	Pool a, b;
	Queue queue;
};

class SpaceErase : public testing::TestWithParam<const char *>
{
};

TEST_P(SpaceErase, TakesAllOfOneAndNothingOfAnother)
{
	const Dir dir;
	Tenants t({std::string(GetParam()) + ":" + dir.path() + "/kv,size=64M"});

	t.store(t.a);
	t.store(t.b);
	EXPECT_EQ(kChunks, t.in(t.a, KVH_IN_L2));
	EXPECT_EQ(0, t.erase(t.a_space));
	EXPECT_EQ(0u, t.in(t.a, KVH_IN_L1 | KVH_IN_L2));
	EXPECT_EQ(0u, t.fetch(t.a));
	EXPECT_EQ(kChunks, t.engine.status().erased);
	t.engine.evict();
	EXPECT_EQ(kChunks, t.fetch(t.b));
	t.store(t.a); // and it may come again
	t.engine.evict();
	EXPECT_EQ(kChunks, t.fetch(t.a));
}

INSTANTIATE_TEST_SUITE_P(Adapters, SpaceErase, testing::Values("mem", "fs", "nvme"));

TEST(SpaceErases, ALeasedChunkLivesOnAndIsNotFound)
{
	Tenants t({"mem:a"});
	std::vector<kvh_lease_t> leases;

	t.store(t.a);
	EXPECT_EQ(kChunks,
		  t.queue.lookup(prefix_of(t.a, prompt(1, kChunks)), nullptr, &leases));
	EXPECT_EQ(0, t.erase(t.a_space));
	EXPECT_EQ(0u, t.in(t.a, KVH_IN_L1 | KVH_IN_L2));
	EXPECT_EQ(kChunks, t.engine.status().l1_doomed);
	load_and_check(t.queue, t.a, prefix_of(t.a, prompt(1, kChunks)), leases);
	EXPECT_EQ(0u, t.engine.status().l1_doomed);
}

TEST(SpaceErases, AnUnknownSpaceIsRefused)
{
	Tenants t({"mem:a"});
	Log log;

	EXPECT_EQ(-ENOENT, t.erase(t.a_space + 1));
	EXPECT_EQ(1u, log.count("there is no space"));
}

TEST(SpaceErases, WithoutAnAdapterL1IsAll)
{
	Tenants t({});

	t.store(t.a);
	EXPECT_EQ(0, t.erase(t.a_space));
	EXPECT_EQ(0u, t.in(t.a, KVH_IN_L1));
}

class L2Limits : public testing::TestWithParam<const char *>
{
};

TEST_P(L2Limits, HoldInTheAdapterAndOfOneSpaceOnly)
{
	const Dir dir;
	Tenants t({std::string(GetParam()) + ":" + dir.path() + "/kv,size=64M"});
	kvh_space_limits limits;

	t.store(t.a); // control: without limits all is there
	EXPECT_EQ(kChunks, t.in(t.a, KVH_IN_L2));
	EXPECT_EQ(0, t.erase(t.a_space));
	kvh_space_limits_init(&limits, sizeof(limits));
	limits.l2_hard_bytes = 4 * t.frame_bytes(t.a);
	ASSERT_EQ(0, kvh_space_limits_set(t.engine.get(), t.a_space, &limits));
	t.store(t.a);
	t.store(t.b);
	EXPECT_LE(t.in(t.a, KVH_IN_L2), 4u);
	EXPECT_GT(t.in(t.a, KVH_IN_L2), 0u);
	EXPECT_EQ(kChunks, t.in(t.b, KVH_IN_L2));
}

INSTANTIATE_TEST_SUITE_P(Adapters, L2Limits, testing::Values("mem", "fs", "nvme"));

TEST(L2LimitsBad, OutOfOrderOrAboveL1AreRefusedWithBothValues)
{
	Tenants t({"mem:a"});
	kvh_space_limits limits;
	Log log;

	kvh_space_limits_init(&limits, sizeof(limits));
	limits.l2_soft_bytes = 4096;
	limits.l2_hard_bytes = 2048;
	EXPECT_EQ(-EINVAL, kvh_space_limits_set(t.engine.get(), t.a_space, &limits));
	EXPECT_EQ(1u, log.count("4096"));
	EXPECT_EQ(1u, log.count("2048"));
	kvh_space_limits_init(&limits, sizeof(limits));
	limits.l1_hard_bytes = 33 * MIB;
	limits.l2_hard_bytes = 4 * t.frame_bytes(t.a);
	EXPECT_EQ(-EINVAL, kvh_space_limits_set(t.engine.get(), t.a_space, &limits));
	EXPECT_EQ(1u, log.count(std::to_string(33 * MIB).c_str()));
	EXPECT_EQ(1u, log.count(std::to_string(32 * MIB).c_str()));
	t.store(t.a); // nothing of it is in force, in L2 neither
	EXPECT_EQ(kChunks, t.in(t.a, KVH_IN_L2));
}

TEST(LiveEviction, ChangesByNameAndARefusedOneStays)
{
	Tenants t({"mem:a"});
	char value[16];
	Log log;

	t.store(t.a);
	for (const char *name : {"arc", "s3-fifo", "lru", "arc"}) {
		EXPECT_EQ(0, kvh_engine_set(t.engine.get(), "l1.eviction", name));
		EXPECT_LT(0,
			  kvh_engine_get(t.engine.get(), "l1.eviction", value, sizeof(value)));
		EXPECT_STREQ(name, value);
	}
	EXPECT_EQ(-EINVAL, kvh_engine_set(t.engine.get(), "l1.eviction", "mru"));
	EXPECT_LT(0, kvh_engine_get(t.engine.get(), "l1.eviction", value, sizeof(value)));
	EXPECT_STREQ("arc", value);
	EXPECT_EQ(1u, log.count("lru, s3-fifo, arc"));
	EXPECT_EQ(kChunks, t.in(t.a, KVH_IN_L1));
	t.engine.evict();
	EXPECT_EQ(0u, t.engine.status().l1_frames);
}

} // namespace
