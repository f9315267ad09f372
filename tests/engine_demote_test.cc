// SPDX-License-Identifier: Apache-2.0
//
// engine_demote_test.cc - write-back as a user sees it: a chunk goes to L2 when L1
// evicts it, and not before; what is left goes with a flush or a close; adapters
// that fail or hang take neither memory nor accounting with them.
#include "engine_harness.h"
#include "l2/fault.h"

#include <thread>

using namespace enginetest;

namespace
{

constexpr uint32_t kChunks = 512; // what the pool has pages for
constexpr uint32_t kBatch = 8;    // chunks of a prompt

Opts write_back(const std::vector<std::string> &l2, const char *policy = "write-back")
{
	Opts opts;

	opts.l2 = l2;
	opts.l1_bytes = 2 * MIB;
	opts.policy = policy;
	return opts;
}

struct Rig {
	explicit Rig(const Opts &opts)
	    : engine(opts), pool(engine, small_layout(KVH_FORMAT_NATIVE, 2 * 2 * kChunks),
				 engine.space(desc())),
	      queue(engine)
	{
	}
	static Desc desc()
	{
		Desc d;

		d.layout = small_layout(KVH_FORMAT_NATIVE, 2 * 2 * kChunks);
		return d;
	}
	kvh_l2_status l2(uint32_t index = 0) const
	{
		kvh_l2_status st{};

		st.size = sizeof(st);
		EXPECT_EQ(0, kvh_l2_status_get(engine.get(), index, &st));
		return st;
	}
	/* The end of the job, when every adapter has been asked or left out. */
	kvh_event store(uint64_t seed, std::vector<kvh_store_outcome> *outcomes = nullptr)
	{
		std::vector<kvh_store_outcome> all(kBatch);
		Job job;

		EXPECT_EQ(0, queue.store(job, pool, make_items(pool, prompt(seed, kBatch)),
					 KVH_STORE_PERSISTED, nullptr, nullptr, all.data()));
		const kvh_event end = queue.finish(job);
		pool.give_all();
		if (outcomes != nullptr)
			*outcomes = all;
		return end;
	}
	/* Until it is there: L1 makes room when L2 has what has to go. */
	void store_at_last(uint64_t seed)
	{
		while (store(seed).status == -EAGAIN)
			std::this_thread::yield();
		EXPECT_EQ(kBatch, queue.lookup(prefix_of(pool, prompt(seed, kBatch))));
	}
	/* Chunks of the prompt that are in L1, or in L2. */
	uint32_t in(uint64_t seed, uint8_t where)
	{
		std::vector<uint8_t> all;

		queue.lookup(prefix_of(pool, prompt(seed, kBatch)), &all);
		return static_cast<uint32_t>(std::count_if(
			all.begin(), all.end(), [&](uint8_t w) { return (w & where) != 0; }));
	}
	int flush()
	{
		Job job;

		EXPECT_EQ(0, queue.run(job, [&](kvh_queue *q, uint64_t data, kvh_job_t *id) {
			return kvh_flush(q, data, id);
		}));
		return queue.finish(job).status;
	}
	/* All that the pool's prompts have, every byte compared. */
	uint32_t fetch(uint64_t seed)
	{
		const uint32_t n = fetch_and_check(queue, pool, prompt(seed, kBatch));

		pool.give_all();
		return n;
	}
	/* Nothing is on its way or leased; the close holds the books to the truth. */
	void expect_clean()
	{
		const kvh_status st = engine.status();

		EXPECT_EQ(0u, st.l1_demoting);
		EXPECT_EQ(0u, st.store_waiting);
		EXPECT_EQ(0u, st.l1_leases);
	}
	uint64_t capacity() const
	{
		const kvh_status st = engine.status();

		return st.l1_bytes / (st.l1_used_bytes / st.l1_frames);
	}

	Engine engine;
	Pool pool;
	Queue queue;
};

TEST(WriteBack, AChunkGoesToL2WhenL1EvictsItAndNotBefore)
{
	Rig rig(write_back({"mem:a"}));
	std::vector<kvh_store_outcome> outcomes;
	uint64_t n = 0;

	ASSERT_EQ(0, rig.store(n++, &outcomes).status);
	for (const kvh_store_outcome &o : outcomes)
		EXPECT_EQ(1u, o.skipped) << "not yet";
	const uint64_t prompts = rig.capacity() / kBatch;
	while (n < prompts * 3 / 4) // below the high watermark
		ASSERT_EQ(0, rig.store(n++).status);
	EXPECT_EQ(0u, rig.l2().puts + rig.l2().inflight + rig.l2().waiting);
	for (uint64_t i = 0; i < n; i++) {
		EXPECT_EQ(kBatch, rig.in(i, KVH_IN_L1));
		EXPECT_EQ(0u, rig.in(i, KVH_IN_L2));
	}

	while (n < 3 * prompts)
		rig.store_at_last(n++);
	EXPECT_GT(rig.l2().puts, prompts * kBatch);
	EXPECT_EQ(kBatch, rig.in(0, KVH_IN_L2));
	for (uint64_t i = 0; i < n; i++) // nothing was lost: it is here, there, or both
		ASSERT_EQ(kBatch, rig.in(i, KVH_IN_L1 | KVH_IN_L2)) << i;
	EXPECT_LT(rig.in(n - 1, KVH_IN_L2), kBatch) << "the newest are in L1 only";
	for (uint64_t i = 0; i < n; i += 7)
		EXPECT_EQ(kBatch, rig.fetch(i)) << i;
}

TEST(WriteBack, NegativeControlWithTheDefaultPolicyItIsThereAtOnce)
{
	Rig rig(write_back({"mem:a"}, "default"));

	ASSERT_EQ(0, rig.store(0).status);
	EXPECT_EQ(kBatch, rig.l2().puts);
	EXPECT_EQ(kBatch, rig.in(0, KVH_IN_L2));
}

TEST(WriteBack, OnlyAsMuchGoesAsL1Needs)
{
	Opts opts = write_back({"mem:a"});
	opts.high_pct = 100; // the stores themselves evict
	opts.low_pct = 99;
	Rig rig(opts);
	uint64_t n = 0;

	ASSERT_EQ(0, rig.store(n++).status);
	const uint64_t prompts = rig.capacity() / kBatch;
	while (n < prompts + 4)
		rig.store_at_last(n++);
	EXPECT_GE(rig.l2().puts, 3u * kBatch);
	EXPECT_LT(rig.l2().puts, prompts * kBatch / 2) << "all of L1 was written";
}

TEST(WriteBack, OfAPrefixTheTailGoesFirst)
{
	Opts opts = write_back({"mem:a"});
	opts.high_pct = 100;
	opts.low_pct = 99;
	Rig rig(opts);
	uint64_t n = 0;

	ASSERT_EQ(0, rig.store(n++).status);
	while (rig.l2().puts == 0)
		(void)rig.store(n++);
	for (uint64_t i = 0; i < n; i++) {
		std::vector<uint8_t> where;

		rig.queue.lookup(prefix_of(rig.pool, prompt(i, kBatch)), &where);
		for (uint32_t c = 1; c < kBatch; c++)
			EXPECT_GE(where[c - 1] & KVH_IN_L1, where[c] & KVH_IN_L1)
				<< "prompt " << i << ": chunk " << c << " without its parent";
	}
}

TEST(WriteBack, AFlushStoresWhatIsDirtyAndKeepsIt)
{
	Rig rig(write_back({"mem:a", "mem:b"}));
	uint64_t n = 0;

	while (n < 10)
		ASSERT_EQ(0, rig.store(n++).status);
	EXPECT_EQ(0, rig.flush());
	for (uint64_t i = 0; i < n; i++) {
		EXPECT_EQ(kBatch, rig.in(i, KVH_IN_L2));
		EXPECT_EQ(kBatch, rig.in(i, KVH_IN_L1));
	}
	EXPECT_EQ(n * kBatch, rig.l2(0).puts);
	EXPECT_EQ(n * kBatch, rig.l2(1).puts);
	EXPECT_EQ(0, rig.flush()); // once
	EXPECT_EQ(n * kBatch, rig.l2().puts);
	rig.expect_clean();
	rig.engine.evict(); // clean now: goes at once
	EXPECT_EQ(0u, rig.engine.status().l1_frames);
	EXPECT_EQ(kBatch, rig.fetch(3));
	rig.expect_clean();
}

// More than the queue of an adapter may hold, which would drop it.
TEST(WriteBack, AFlushOfMoreThanTheQueueDropsNothing)
{
	Opts opts = write_back({"mem:a"});
	opts.l2_queue_bytes = 64 << 10;
	Rig rig(opts);
	uint64_t n = 0;

	while (n < 20)
		ASSERT_EQ(0, rig.store(n++).status);
	EXPECT_EQ(0, rig.flush());
	EXPECT_EQ(n * kBatch, rig.l2().puts);
	EXPECT_EQ(0u, rig.l2().put_dropped);
	rig.expect_clean();
}

TEST(WriteBack, ACloseKeepsWhatIsDirty)
{
	const Dir dir;
	const Opts opts = write_back({"fs:" + dir.path() + "/kv,size=64M"});
	uint64_t n = 0;

	{
		Rig rig(opts);

		while (n < 10)
			ASSERT_EQ(0, rig.store(n++).status);
		EXPECT_EQ(0u, rig.l2().puts);
		rig.queue.close();
		EXPECT_EQ(0, rig.engine.close());
	}
	Rig rig(opts);
	for (uint64_t i = 0; i < n; i++)
		EXPECT_EQ(kBatch, rig.fetch(i)) << i;
}

// Control: a close that may not wait for a slow adapter loses it.
TEST(WriteBack, NegativeControlACloseWithoutTimeLosesIt)
{
	const Dir dir;
	const std::string fs = "fs:" + dir.path() + "/kv,size=64M";
	const Opts opts = write_back({fs});

	{
		Rig rig(write_back({"fault:slow,script=put x*:hang,next=" + fs}));

		ASSERT_EQ(0, rig.store(0).status);
		rig.queue.close();
		EXPECT_EQ(0, rig.engine.close(0));
	}
	EXPECT_EQ(0u, Rig(opts).fetch(0));
}

TEST(WriteBack, AnAdapterThatFailsTakesNeitherRoomNorAccounting)
{
	Rig rig(write_back({"fault:a,script=put x*:fail=EIO,next=mem"}));
	uint64_t n = 0;

	ASSERT_EQ(0, rig.store(n++).status);
	const uint64_t prompts = rig.capacity() / kBatch;
	while (n < 3 * prompts)
		rig.store_at_last(n++);
	EXPECT_EQ(0u, rig.l2().puts);
	EXPECT_GT(rig.l2().put_failed + rig.l2().put_dropped, prompts * kBatch);
	EXPECT_GT(rig.l2().breaker_opened, 0u);
	EXPECT_EQ(-EIO, rig.flush()); // and it says so
	rig.engine.evict();
	rig.engine.drain();
	rig.expect_clean();
}

// What a flush could not store stays dirty, and goes with the next one.
TEST(WriteBack, WhatAFlushCouldNotStoreIsStillDirty)
{
	Opts opts = write_back({"fault:a,script=put@1 x4:fail=ENOSPC,next=mem"});
	Rig rig(opts);

	ASSERT_EQ(0, rig.store(0).status);
	EXPECT_EQ(-EIO, rig.flush());
	EXPECT_EQ(kBatch - 4, rig.in(0, KVH_IN_L2));
	EXPECT_EQ(0, rig.flush());
	EXPECT_EQ(kBatch, rig.in(0, KVH_IN_L2));
	rig.expect_clean();
}

TEST(WriteBack, AnAdapterThatHangsDoesNotBlockEvictionForEver)
{
	Opts opts = write_back({"fault:hangs,script=put x*:hang=hard,next=mem"});
	opts.l2_deadline_ns = 20000000;
	Rig rig(opts);
	uint64_t n = 0;

	ASSERT_EQ(0, rig.store(n++).status);
	const uint64_t prompts = rig.capacity() / kBatch;
	for (; n < prompts + prompts / 2; n++)
		while (rig.store(n).status == -EAGAIN)
			std::this_thread::yield();
	EXPECT_GT(rig.l2().timeouts, 0u);
	EXPECT_GT(rig.engine.status().l2_quarantined, 0u);
	EXPECT_EQ(0u, rig.l2().puts);
	rig.engine.drain();
	EXPECT_EQ(0u, rig.engine.status().l1_demoting); // they are not waited for
	/* The rule first: what the breaker lets through after a trial would hang again. */
	ASSERT_EQ(0, kvh_fault_set_script(kvh_fault_find("hangs"), ""));
	kvh_fault_release(kvh_fault_find("hangs"));
	while (rig.engine.status().l2_quarantined > 0)
		std::this_thread::yield();
	rig.expect_clean();
}

TEST(WriteBack, AnErasedChunkIsNotDemoted)
{
	Rig rig(write_back({"mem:a"}));
	Job job;
	std::vector<kvh_key> keys;

	ASSERT_EQ(0, rig.store(0).status);
	for (const kvh_hash &hash : prompt(0, kBatch))
		keys.push_back(rig.pool.key(0, hash));
	ASSERT_EQ(0, rig.queue.erase(job, keys));
	rig.queue.finish(job);
	EXPECT_EQ(0, rig.flush());
	EXPECT_EQ(0u, rig.in(0, KVH_IN_L1 | KVH_IN_L2));
	EXPECT_EQ(0u, rig.l2().puts);
	rig.expect_clean();
}

// With another policy from now on nothing that waits is lost.
TEST(WriteBack, WhatIsDirtyIsDemotedUnderAnotherPolicyToo)
{
	Rig rig(write_back({"mem:a"}));
	uint64_t n = 0;

	ASSERT_EQ(0, rig.store(n++).status);
	ASSERT_EQ(0, kvh_engine_set(rig.engine.get(), "store.policy", "default"));
	const uint64_t prompts = rig.capacity() / kBatch;
	while (n < 2 * prompts)
		rig.store_at_last(n++);
	EXPECT_EQ(kBatch, rig.in(0, KVH_IN_L2));
	EXPECT_EQ(kBatch, rig.fetch(0));
}

} // namespace
