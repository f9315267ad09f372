// SPDX-License-Identifier: Apache-2.0
//
// limits_test.cc - the public calls: limits of a space, and of each by the options,
// use without a lease, and the eviction policy by name.
#include "engine_harness.h"

using namespace enginetest;

namespace
{

class Limits : public testing::Test
{
      protected:
	static Opts opts(const char *eviction)
	{
		Opts o;

		o.l1_bytes = 2 * MIB;
		o.l1_eviction = eviction;
		return o;
	}
	explicit Limits(const char *eviction = nullptr)
	    : engine(opts(eviction)), space(engine.space(desc)),
	      pool(engine, desc.layout, space), queue(engine)
	{
		frame_bytes = kvh_frame_bytes(
			static_cast<uint64_t>(kvh_space_chunk_bytes(engine.get(), space, 0)));
	}
	int set(uint64_t soft, uint64_t hard, uint32_t pinned = 0, kvh_space_t of = KVH_NONE)
	{
		kvh_space_limits limits;

		kvh_space_limits_init(&limits, sizeof(limits));
		limits.l1_soft_bytes = soft * frame_bytes;
		limits.l1_hard_bytes = hard * frame_bytes;
		limits.pinned = pinned;
		return kvh_space_limits_set(engine.get(), of != KVH_NONE ? of : space, &limits);
	}

	Desc desc;
	Engine engine;
	kvh_space_t space;
	Pool pool;
	Queue queue;
	uint64_t frame_bytes;
};

TEST_F(Limits, AHardLimitHoldsForStores)
{
	ASSERT_EQ(0, set(0, 4));
	const auto hashes = prompt(1, 8);
	store_prompt(queue, pool, hashes);
	EXPECT_LE(engine.status().l1_used_bytes, 4 * frame_bytes);
	EXPECT_GT(engine.status().l1_used_bytes, 0u);
}

// Far above a limit that was lowered while all was leased: the next store makes room.
TEST(LimitsLowered, UnderLeasesHoldForTheNextStore)
{
	constexpr uint32_t kChunks = 64, kLimit = 4;
	Engine engine;
	Desc desc;
	desc.layout = small_layout(KVH_FORMAT_NATIVE, 256);
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	const Prefix prefix = prefix_of(pool, prompt(1, kChunks));
	kvh_space_limits limits;
	Job job;

	store_prompt(queue, pool, prompt(1, kChunks));
	const uint64_t frame_bytes = engine.status().l1_used_bytes / kChunks;
	ASSERT_EQ(0, queue.prefetch(job, prefix));
	ASSERT_EQ(kChunks, queue.finish(job).usable);
	kvh_space_limits_init(&limits, sizeof(limits));
	limits.l1_hard_bytes = kLimit * frame_bytes;
	ASSERT_EQ(0, kvh_space_limits_set(engine.get(), pool.space, &limits));
	EXPECT_EQ(kChunks, engine.status().l1_frames) << "control: none could go";
	ASSERT_EQ(0, kvh_release(engine.get(), job.leases.data(), job.leases.size(), nullptr));
	EXPECT_EQ(1u, store_prompt(queue, pool, prompt(2, 1)));
	EXPECT_LE(engine.status().l1_frames, kLimit);
}

TEST_F(Limits, BadOnesAreRefused)
{
	Log log;

	EXPECT_EQ(-ENOENT, set(0, 4, 0, space + 1));
	EXPECT_EQ(-EINVAL, set(5, 4));
	EXPECT_EQ(-EINVAL, set(0, 1 << 20));
	EXPECT_EQ(-EINVAL, set(1, 0, 1));
	EXPECT_EQ(-EINVAL, set(0, 4, 2));
	kvh_space_limits limits;
	kvh_space_limits_init(&limits, sizeof(limits));
	limits.size--;
	EXPECT_EQ(-EINVAL, kvh_space_limits_set(engine.get(), space, &limits));
	EXPECT_EQ(0, set(3, 4, 1));
}

TEST_F(Limits, TouchSaysWhatIsThere)
{
	const auto hashes = prompt(2, 3);
	int32_t status[3] = {1, 1, 1};

	store_prompt(queue, pool, {hashes[0], hashes[1]});
	const kvh_key keys[3] = {pool.key(0, hashes[0]), pool.key(0, hashes[2]),
				 pool.key(0, hashes[1])};
	EXPECT_EQ(2, kvh_touch(engine.get(), keys, 3, status));
	EXPECT_EQ(0, status[0]);
	EXPECT_EQ(-ENOENT, status[1]);
	EXPECT_EQ(0, status[2]);
	EXPECT_EQ(2, kvh_touch(engine.get(), keys, 3, nullptr));
}

// ---- of each space, by the options -----------------------------------------

constexpr uint32_t kStored = 16, kHardL1 = 8, kHardL2 = 12; // frames

class LimitsOfEachSpace : public testing::Test
{
      protected:
	explicit LimitsOfEachSpace(uint32_t l1_hard = kHardL1, uint32_t l2_hard = kHardL2)
	    : engine(opts(l1_hard, l2_hard)), pool(engine, desc.layout, engine.space(desc)),
	      queue(engine)
	{
		store_prompt(queue, pool, prompt(1, kStored / 2), KVH_STORE_PERSISTED);
		store_prompt(queue, pool, prompt(2, kStored / 2), KVH_STORE_PERSISTED);
	}
	static uint64_t frame_bytes()
	{
		const Engine engine;

		return kvh_frame_bytes(static_cast<uint64_t>(
			kvh_space_chunk_bytes(engine.get(), engine.space(Desc()), 0)));
	}
	static Opts opts(uint32_t l1_hard, uint32_t l2_hard)
	{
		Opts o;

		o.l2 = {"mem:limits"};
		o.space_l1_hard = l1_hard * frame_bytes();
		o.space_l2_hard = l2_hard * frame_bytes();
		return o;
	}
	uint64_t frames_in_l2()
	{
		kvh_l2_status st{};

		st.size = sizeof(st);
		EXPECT_EQ(0, kvh_l2_status_get(engine.get(), 0, &st));
		return st.objects;
	}

	Desc desc;
	Engine engine;
	Pool pool;
	Queue queue;
};

TEST_F(LimitsOfEachSpace, ComeFromTheOptions)
{
	kvh_snapshot *snapshot;

	EXPECT_EQ(kHardL1, engine.status().l1_frames);
	EXPECT_EQ(kHardL2, frames_in_l2());
	ASSERT_EQ(0, kvh_snapshot_take(engine.get(), &snapshot));
	ASSERT_EQ(1u, snapshot->n_spaces);
	EXPECT_EQ(kHardL1 * frame_bytes(), snapshot->spaces[0].l1_used_bytes);
	EXPECT_EQ(kStored - kHardL1, snapshot->spaces[0].l1_evicted);
	kvh_snapshot_free(snapshot);
}

// L1 has 2 MiB of these, and no limit fits that the arena does not.
TEST(LimitsOfEachSpaceBad, AreRefusedWithWhatL1Has)
{
	kvh_engine *engine = nullptr;
	Opts o;
	Log log;

	o.l1_bytes = 3 * MIB;
	o.space_l1_hard = 3 * MIB;
	EXPECT_EQ(-EINVAL, open_engine(o, &engine));
	EXPECT_EQ(1u, log.count("space_l1_hard_bytes is 3145728 and l1_bytes is 2097152"));
	o.space_l1_hard = 2 * MIB;
	ASSERT_EQ(0, open_engine(o, &engine));
	EXPECT_EQ(0, kvh_engine_close(engine, 0));
}

class NoLimitsOfEachSpace : public LimitsOfEachSpace
{
      protected:
	NoLimitsOfEachSpace() : LimitsOfEachSpace(0, 0)
	{
	}
};

TEST_F(NoLimitsOfEachSpace, ControlAllIsThere)
{
	EXPECT_EQ(kStored, engine.status().l1_frames);
	EXPECT_EQ(kStored, frames_in_l2());
}

// ---- which frame goes first --------------------------------------------------

class WithArc : public Limits
{
      protected:
	WithArc() : Limits("arc")
	{
	}
};

TEST_F(WithArc, StoresAndEvicts)
{
	store_prompt(queue, pool, prompt(1, 4));
	engine.evict();
	EXPECT_EQ(0u, engine.status().l1_used_bytes);
}

TEST(Eviction, AnUnknownPolicyIsRefusedWithTheNamesThereAre)
{
	kvh_engine *engine = nullptr;
	Opts o;
	Log log;

	o.l1_eviction = "mru";
	EXPECT_EQ(-EINVAL, open_engine(o, &engine));
	EXPECT_GT(log.count("mru"), 0u);
	EXPECT_GT(log.count("lru, s3-fifo, arc"), 0u);
}

} // namespace
