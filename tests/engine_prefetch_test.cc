// SPDX-License-Identifier: Apache-2.0
//
// Prefetches and lookups through the public API: warm-ups, temporary ones, leases
// that end by themselves, and a status that is the truth.
#include "engine_harness.h"

#include <thread>

using namespace enginetest;

namespace
{

constexpr uint64_t MS = 1000000;

class EnginePrefetch : public testing::Test
{
      protected:
	EnginePrefetch()
	    : engine({{"mem:size=16M"}}), pool(engine, desc.layout, engine.space(desc)),
	      queue(engine), prefix(prefix_of(pool, prompt(1, 6)))
	{
		EXPECT_EQ(6u, store_prompt(queue, pool, prefix.hashes, KVH_STORE_PERSISTED));
		engine.drain();
	}
	kvh_event prefetch(Job &job, const kvh_prefetch_opts &opts, bool leases = true)
	{
		const kvh_prefix p = prefix.get();

		job.leases.assign(prefix.entries(), 77);
		EXPECT_EQ(0, kvh_prefetch(queue.get(), &p, &opts,
					  leases ? job.leases.data() : nullptr, &job.id));
		kvh_event event = {};

		EXPECT_EQ(1, kvh_queue_wait(queue.get(), &event, 1, GUARD_NS));
		EXPECT_EQ(job.id, event.job);
		return event;
	}
	static kvh_prefetch_opts opts_of(uint32_t flags, uint64_t lease_ns = 0)
	{
		kvh_prefetch_opts opts;

		kvh_prefetch_opts_init(&opts, sizeof(opts));
		opts.flags = flags;
		opts.lease_ns = lease_ns;
		return opts;
	}
	// Until so many have ended by themselves, without a call that could end one. They
	// are counted last.
	void await_expired(uint64_t n)
	{
		while (engine.status().leases_expired < n)
			std::this_thread::yield();
		EXPECT_EQ(n, engine.status().leases_expired);
		EXPECT_EQ(0u, engine.status().l1_leases);
	}

	Desc desc;
	Engine engine;
	Pool pool;
	Queue queue;
	Prefix prefix;
};

TEST_F(EnginePrefetch, AWarmUpBringsItAndLeasesNothing)
{
	Job job;

	engine.evict();
	ASSERT_EQ(0u, engine.status().l1_frames);
	for (int round = 0; round < 2; round++) { // from L2, then from L1
		const kvh_event event = prefetch(job, opts_of(KVH_PREFETCH_WARM), false);

		EXPECT_EQ(0, event.status);
		EXPECT_EQ(6u, event.usable);
		EXPECT_EQ(6u, event.n_ok);
		EXPECT_EQ(0u, engine.status().l1_leases);
		EXPECT_EQ(6u, engine.status().l1_frames);
	}
	EXPECT_EQ(6u, engine.status().hits_l2);
	EXPECT_EQ(6u, engine.status().hits_l1);
	EXPECT_EQ(6u, fetch_and_check(queue, pool, prefix.hashes));
}

TEST_F(EnginePrefetch, ATemporaryOneLeavesNothing)
{
	Job job;

	engine.evict();
	EXPECT_EQ(6u, prefetch(job, opts_of(KVH_PREFETCH_TEMPORARY)).usable);
	EXPECT_EQ(6u, engine.status().l1_frames);
	load_and_check(queue, pool, prefix, job.leases); // releases them
	while (engine.status().l1_frames != 0)
		std::this_thread::yield();
	EXPECT_EQ(6u, fetch_and_check(queue, pool, prefix.hashes)); // the control
	EXPECT_EQ(6u, engine.status().l1_frames);
}

// "A lookup that is never followed by a load holds its lease for ever."
TEST_F(EnginePrefetch, ALookupThatIsNeverFollowedByALoadLosesItsLeases)
{
	const kvh_prefix p = prefix.get();
	std::vector<kvh_lease_t> leases(prefix.entries());
	std::vector<int32_t> status(prefix.entries());
	uint32_t usable = 0;

	ASSERT_EQ(0, kvh_lookup_lease(queue.get(), &p, MS, nullptr, leases.data(), &usable));
	EXPECT_EQ(6u, usable);
	await_expired(6);
	EXPECT_EQ(-ESTALE,
		  kvh_release(engine.get(), leases.data(), leases.size(), status.data()));
	EXPECT_EQ(std::vector<int32_t>(6, -ESTALE), status);
	engine.evict();
	EXPECT_EQ(0u, engine.status().l1_frames); // nothing holds them
}

// Its control: without a deadline they are held when those with one have ended.
TEST_F(EnginePrefetch, ControlWithoutADeadlineALookupsLeasesAreKept)
{
	const kvh_prefix p = prefix.get();
	std::vector<kvh_lease_t> kept, timed(prefix.entries());

	EXPECT_EQ(6u, queue.lookup(prefix, nullptr, &kept));
	ASSERT_EQ(0, kvh_lookup_lease(queue.get(), &p, MS, nullptr, timed.data(), nullptr));
	while (engine.status().leases_expired != 6)
		std::this_thread::yield();
	EXPECT_EQ(6u, engine.status().l1_leases);
	engine.evict();
	EXPECT_EQ(6u, engine.status().l1_frames);
	EXPECT_EQ(0, queue.release(kept));
}

TEST_F(EnginePrefetch, ALeaseThatIsUsedInTimeIsGood)
{
	const kvh_prefix p = prefix.get();
	std::vector<kvh_lease_t> leases(prefix.entries());

	ASSERT_EQ(0,
		  kvh_lookup_lease(queue.get(), &p, GUARD_NS, nullptr, leases.data(), nullptr));
	load_and_check(queue, pool, prefix, leases);
	EXPECT_EQ(0u, engine.status().l1_leases);
	EXPECT_EQ(0u, engine.status().leases_expired);
}

TEST_F(EnginePrefetch, APrefetchsLeasesEndToo)
{
	for (bool in_l1 : {true, false}) {
		const uint64_t before = engine.status().leases_expired;
		Job job;

		if (!in_l1)
			engine.evict();
		EXPECT_EQ(6u, prefetch(job, opts_of(0, MS)).usable);
		await_expired(before + 6);
	}
}

TEST_F(EnginePrefetch, BadArguments)
{
	const kvh_prefix p = prefix.get();
	std::vector<kvh_lease_t> leases(prefix.entries());

	kvh_log_set([](void *, enum kvh_log_level, const char *) {}, nullptr, KVH_LOG_ERROR);
	EXPECT_EQ(-EINVAL,
		  kvh_lookup_lease(queue.get(), &p, 0, nullptr, leases.data(), nullptr));
	EXPECT_EQ(-EINVAL, kvh_lookup_lease(queue.get(), &p, MS, nullptr, nullptr, nullptr));
	kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
}

} // namespace
