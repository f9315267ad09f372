// SPDX-License-Identifier: Apache-2.0
//
// store_controller_test.cc - from a published frame to the adapters that the
// policy names, in good weather: who gets what, who is told, what stays in L1,
// and that every hold comes back.
#include "tests/controller_jobs.h"

#include <atomic>
#include <thread>

namespace
{

using namespace ctl;
using N = struct kvh_adapter_counters;

Options with(std::vector<std::string> l2)
{
	Options options;

	options.l2 = std::move(l2);
	return options;
}

void expect_stored(Rig &rig, uint32_t adapter, const struct kvh_key &key)
{
	l2test::Buffer frame(rig.frame_bytes(key.group));

	ASSERT_EQ(rig.raw(adapter, KVH_L2_GET, key, &frame), 0);
	EXPECT_EQ(rig.verify(frame, key), 0);
	EXPECT_TRUE(frame == rig.sealed(key)); // header, payload, padding
}

// ---- start and stop ---------------------------------------------------------

TEST(StoreController, StartAndStopWithNoAdapter)
{
	for (int i = 0; i < 20; i++) {
		Rig rig;

		ASSERT_EQ(rig.open_error, 0);
		EXPECT_EQ(kvh_controller_adapters(rig.controller), 0u);
	}
}

TEST(StoreController, StartAndStopWithSeveral)
{
	for (int i = 0; i < 20; i++) {
		Rig rig(with({"mem:a", "null:b", "fault:c,next=mem", "mem:d"}));

		ASSERT_EQ(rig.open_error, 0);
		ASSERT_EQ(kvh_controller_adapters(rig.controller), 4u);
		EXPECT_STREQ(kvh_adapter_name(rig.adapter(0)), "mem"); // in their order
		EXPECT_STREQ(kvh_adapter_name(rig.adapter(1)), "null");
		EXPECT_STREQ(kvh_adapter_name(rig.adapter(2)), "fault");
	}
}

TEST(StoreController, OneThatCannotBeOpenedEndsTheOpen)
{
	Log log;
	Rig rig(with({"mem:a", "nosuch:b", "mem:c"}));

	EXPECT_EQ(rig.open_error, -EINVAL);
	EXPECT_EQ(rig.controller, nullptr);
	EXPECT_EQ(log.count("L2 'nosuch:b' cannot be opened"), 1u);
}

// ---- storing ----------------------------------------------------------------

TEST(StoreController, OneKey)
{
	Rig rig(with({"mem"}));
	const struct kvh_key key = rig.key(1);
	Persist persist;

	EXPECT_EQ(rig.store(key, &persist), 0);
	EXPECT_EQ(rig.find(key), 1); // findable at once
	persist.count.wait();
	rig.drain();
	EXPECT_EQ(persist.count.now(), 1u);
	EXPECT_EQ(rig.find(key), 1); // and it stays
	EXPECT_EQ(rig.count(0, &N::puts), 1u);
	EXPECT_EQ(rig.count(0, &N::put_bytes), rig.frame_bytes());
	EXPECT_EQ(rig.metric(&kvh_metrics::store_waiting), 0u);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	expect_stored(rig, 0, key);
}

TEST(StoreController, ManyKeysToAllAdapters)
{
	constexpr uint64_t kChunks = 200;
	Rig rig(with({"mem:a", "mem:b,depth=3", "fault:c,script=put x*:reorder=7,next=mem"}));
	Persist persist;

	for (uint64_t i = 0; i < kChunks; i++)
		ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
	persist.count.wait(kChunks);
	rig.drain();
	EXPECT_EQ(persist.count.now(), kChunks);
	for (uint32_t a = 0; a < 3; a++) {
		EXPECT_EQ(rig.count(a, &N::puts), kChunks);
		EXPECT_EQ(rig.count(a, &N::put_bytes), kChunks * rig.frame_bytes());
		EXPECT_EQ(rig.count(a, &N::objects), kChunks);
		for (uint64_t i = 0; i < kChunks; i++)
			expect_stored(rig, a, rig.key(i));
	}
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	EXPECT_EQ(rig.l1_stats().frames, kChunks);
}

TEST(StoreController, TwoBatchesBehindOneWakeUp)
{
	Rig rig(with({"mem"}));
	Persist first, second;

	{
		LoopGate gate(rig); // the controller looks at neither before both are there
		for (uint64_t i = 0; i < 10; i++)
			ASSERT_EQ(rig.store(rig.key(i), &first), 0);
		for (uint64_t i = 10; i < 30; i++)
			ASSERT_EQ(rig.store(rig.key(i), &second), 0);
		EXPECT_EQ(rig.l1_stats().holds, 30u);
		EXPECT_EQ(rig.metric(&kvh_metrics::store_waiting), 30u);
	}
	first.count.wait(10);
	second.count.wait(20);
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::puts), 30u);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

TEST(StoreController, FromManyThreads)
{
	constexpr uint64_t kThreads = 4, kEach = 60;
	Rig rig(with({"mem:a", "mem:b"}));
	std::vector<std::thread> threads;
	Persist persist;

	for (uint64_t t = 0; t < kThreads; t++)
		threads.emplace_back([&rig, &persist, t] {
			for (uint64_t i = 0; i < kEach; i++)
				EXPECT_EQ(rig.store(rig.key(t * kEach + i), &persist), 0);
		});
	for (std::thread &thread : threads)
		thread.join();
	persist.count.wait(kThreads * kEach);
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::puts), kThreads * kEach);
	EXPECT_EQ(rig.count(1, &N::puts), kThreads * kEach);
}

TEST(StoreController, APrefetchedKeyIsNotStoredAgain)
{
	Rig rig(with({"mem:a", "mem:b"}));

	rig.preload(0, rig.key(1));
	Prefetch p(rig, {hash_of(1)});

	p.start().wait();
	ASSERT_EQ(p.usable, 1u);
	rig.drain();
	EXPECT_EQ(rig.find(rig.key(1)), 1);
	EXPECT_EQ(rig.count(0, &N::puts), 0u); // raw ones are not counted
	EXPECT_EQ(rig.count(1, &N::puts), 0u);
	EXPECT_FALSE(rig.in_l2(1, rig.key(1)));
}

TEST(StoreController, WhatAnAdapterHasIsNotPutAgain)
{
	Rig rig(with({"fault:a,next=mem", "mem:b"}));

	rig.preload(0, rig.key(1));
	rig.store_wait(rig.key(1));
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::puts), 0u);
	EXPECT_EQ(rig.count(1, &N::puts), 1u);
	EXPECT_EQ(Fault("a").accepted(KVH_L2_PUT), 1u); // the one that preloaded
}

TEST(StoreController, AFrameIsNotEvictedWhileItIsStored)
{
	Rig rig(with({"fault:a,script=put@1:hang,next=mem"}));
	const struct kvh_key key = rig.key(1);
	Persist persist;

	ASSERT_EQ(rig.store(key, &persist), 0);
	Fault("a").held(1);
	kvh_l1_evict(rig.l1, 0);
	EXPECT_EQ(rig.find(key), 1);
	Fault("a").release();
	persist.count.wait();
	rig.drain();
	kvh_l1_evict(rig.l1, 0);
	EXPECT_EQ(rig.find(key), 0);
	expect_stored(rig, 0, key);
}

// ---- no adapter, policies ---------------------------------------------------

TEST(StoreController, WithoutAnAdapterNothingIsHeld)
{
	Rig rig;
	Persist persist;

	ASSERT_EQ(rig.store(rig.key(1), &persist), 0);
	EXPECT_EQ(persist.count.now(), 1u); // told in the call
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	EXPECT_EQ(rig.metric(&kvh_metrics::store_waiting), 0u);
	EXPECT_EQ(rig.find(rig.key(1)), 1);
}

TEST(StoreController, ErasedBeforePublishingTellsNobody)
{
	Rig rig(with({"mem"}));
	Persist persist;
	const struct kvh_key key = rig.key(1);
	kvh_frame frame = rig.reserve(key);

	ASSERT_EQ(kvh_l1_erase(rig.l1, &key), 0);
	EXPECT_EQ(kvh_controller_publish(rig.controller, frame, &persist), -ECANCELED);
	rig.drain();
	EXPECT_EQ(persist.count.now(), 0u);
	EXPECT_FALSE(rig.in_l2(0, rig.key(1)));
}

using Chunk = const struct kvh_policy_chunk *;

uint32_t admit_all(void *, Chunk)
{
	return KVH_ADMIT_NOW;
}

uint32_t no_targets(void *, Chunk, uint32_t)
{
	return 0;
}

std::atomic<uint32_t> deletions_asked;

uint32_t count_deletions(void *, Chunk, uint32_t, uint32_t)
{
	deletions_asked++;
	return 1;
}

struct kvh_policy make_policy(const char *name, uint32_t (*targets)(void *, Chunk, uint32_t),
			      uint32_t (*deletes)(void *, Chunk, uint32_t, uint32_t))
{
	struct kvh_policy policy = {};

	policy.version = KVH_POLICY_VERSION;
	policy.flags = KVH_POLICY_RETAIN;
	policy.name = name;
	policy.admit = admit_all;
	policy.targets = targets;
	policy.deletes = deletes;
	return policy;
}

TEST(StorePolicy, ThatSkipsAll)
{
	const struct kvh_policy policy = make_policy("skip", no_targets, count_deletions);
	Options options = with({"mem:a", "mem:b"});

	options.own_policy = &policy;
	deletions_asked = 0;
	Rig rig(options);

	for (uint64_t i = 0; i < 10; i++)
		rig.store_wait(rig.key(i));
	rig.drain();
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	EXPECT_EQ(rig.l1_stats().frames, 10u);
	EXPECT_EQ(deletions_asked, 0u); // not where there was no target
	for (uint32_t a = 0; a < 2; a++)
		EXPECT_EQ(rig.count(a, &N::puts) + rig.count(a, &N::put_dropped), 0u);
}

uint32_t by_hash(void *, Chunk chunk, uint32_t adapters)
{
	return chunk->key->hash.bytes[8] & adapters;
}

uint32_t keep_all(void *, Chunk, uint32_t, uint32_t)
{
	return 0;
}

TEST(StorePolicy, ThatPicksASubset)
{
	const struct kvh_policy policy = make_policy("subset", by_hash, keep_all);
	Options options = with({"mem:a", "mem:b", "mem:c"});

	options.own_policy = &policy;
	Rig rig(options);

	for (uint64_t i = 0; i < 16; i++)
		rig.store_wait(rig.key(i));
	rig.drain();
	for (uint64_t i = 0; i < 16; i++)
		for (uint32_t a = 0; a < 3; a++)
			EXPECT_EQ(rig.in_l2(a, rig.key(i)), (i % 8 >> a & 1) != 0) << i << a;
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

uint32_t seen_targets, seen_stored;

uint32_t delete_if_all_have_it(void *, Chunk, uint32_t targets, uint32_t stored)
{
	seen_targets = targets;
	seen_stored = stored;
	return targets == stored;
}

uint32_t all(void *, Chunk, uint32_t adapters)
{
	return adapters;
}

TEST(StorePolicy, ThatDeletesFromL1KnowsWhoHasIt)
{
	Log log;
	const struct kvh_policy policy = make_policy("careful", all, delete_if_all_have_it);
	Options options = with({"mem:a", "fault:b,script=put@2:fail=ENOSPC,next=mem"});

	options.own_policy = &policy;
	Rig rig(options);

	rig.store_wait(rig.key(1));
	rig.drain();
	EXPECT_EQ(seen_targets, 3u);
	EXPECT_EQ(seen_stored, 3u);
	EXPECT_EQ(rig.find(rig.key(1)), 0);
	rig.store_wait(rig.key(2));
	rig.drain();
	EXPECT_EQ(seen_stored, 1u); // the second adapter was full
	EXPECT_EQ(rig.find(rig.key(2)), 1);
	rig.preload(0, rig.key(3)); // has it already: counts as stored
	rig.store_wait(rig.key(3));
	rig.drain();
	EXPECT_EQ(seen_stored, 3u);
	EXPECT_EQ(rig.find(rig.key(3)), 0);
}

TEST(StorePolicy, BufferOnlyLeavesL1Empty)
{
	Options options = with({"mem:a", "mem:b"});

	options.policy = "buffer-only";
	Rig rig(options);

	for (uint64_t i = 0; i < 50; i++)
		ASSERT_EQ(rig.store(rig.key(i)), 0);
	rig.drain();
	EXPECT_EQ(rig.l1_stats().frames, 0u);
	EXPECT_EQ(rig.l1_stats().used_bytes, 0u);
	for (uint64_t i = 0; i < 50; i++)
		for (uint32_t a = 0; a < 2; a++)
			expect_stored(rig, a, rig.key(i));
}

TEST(StorePolicy, BufferOnlyWaitsForTheLastLease)
{
	Options options = with({"fault:a,script=put@1:hang,next=mem"});

	options.policy = "buffer-only";
	Rig rig(options);
	const struct kvh_key key = rig.key(1);
	kvh_lease_t lease;
	int32_t status;

	ASSERT_EQ(rig.store(key), 0);
	ASSERT_EQ(kvh_l1_lease(rig.l1, rig.client, &key, 1, &lease, &status), 1u);
	Fault("a").held(1);
	Fault("a").release();
	rig.drain();
	EXPECT_EQ(rig.find(key), 0); // not to be found any more
	EXPECT_TRUE(rig.shows(lease, key));
	EXPECT_EQ(rig.l1_stats().doomed, 1u);
	EXPECT_EQ(kvh_l1_release(rig.l1, lease), 0);
	EXPECT_EQ(rig.l1_stats().used_bytes, 0u);
}

// ---- pressure ---------------------------------------------------------------

TEST(StoreController, PressureEvictsDownToTheLowMark)
{
	Options options = with({"mem"});
	const uint64_t frame = kvh_frame_bytes(16 * 40);

	options.high_bytes = 100 * frame;
	options.low_bytes = 40 * frame;
	Rig rig(options);

	for (uint64_t i = 0; i < 100; i++)
		rig.store_wait(rig.key(i));
	kvh_controller_pressure(rig.controller); // at the mark, not above
	rig.rounds();
	EXPECT_EQ(rig.l1_stats().frames, 100u);
	rig.store_wait(rig.key(100));
	rig.drain();
	kvh_controller_pressure(rig.controller);
	rig.rounds();
	EXPECT_EQ(rig.l1_stats().frames, 40u);
	EXPECT_EQ(rig.l1_stats().evicted_background, 61u);
	EXPECT_EQ(rig.find(rig.key(100)), 1); // the newest are kept
	EXPECT_EQ(rig.find(rig.key(0)), 0);
	expect_stored(rig, 0, rig.key(0));
}

// ---- peek -------------------------------------------------------------------

TEST(StoreController, PeekAsksAllIndexes)
{
	Rig rig(with({"mem:a", "null:b", "mem:c"}));
	const struct kvh_key keys[] = {rig.key(1), rig.key(2), rig.key(3)};
	uint8_t found[3] = {};

	rig.preload(0, keys[0]);
	rig.preload(2, keys[2]);
	kvh_controller_peek(rig.controller, keys, 3, found);
	EXPECT_EQ(found[0], 1);
	EXPECT_EQ(found[1], 0);
	EXPECT_EQ(found[2], 1);
}

} // namespace
