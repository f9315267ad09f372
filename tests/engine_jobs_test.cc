// SPDX-License-Identifier: Apache-2.0
//
// Jobs that are cut short: cancelled at every stage, their pool unregistered,
// their queue or engine closed; and adapters that hang meanwhile (l2/fault.h).
// The queue of the harness sees to it that each event comes once, and none
// after the end.
#include "engine_harness.h"

#include "l2/fault.h"

#include <atomic>
#include <gmock/gmock.h>
#include <thread>

using namespace enginetest;

namespace
{

const char *const HANGS = "put@1x1000:hang; get@1x1000:hang; delete@1x1000:hang";

std::string hanging(const char *script = HANGS)
{
	return std::string("fault:jobs,script=") + script + ",next=mem:size=64M";
}

class Jobs : public testing::Test
{
      protected:
	explicit Jobs(const std::vector<std::string> &l2 = {"mem:size=16M"})
	    : engine({l2}), pool(engine, desc.layout, engine.space(desc)), queue(engine),
	      stream(engine)
	{
	}
	~Jobs() override
	{
		engine.release();
	}
	void expect_idle()
	{
		const kvh_status st = engine.status();

		EXPECT_EQ(0u, st.jobs);
		EXPECT_EQ(0u, st.l1_leases);
		EXPECT_EQ(0u, st.l1_doomed);
	}
	std::vector<Item> items(uint32_t n, uint64_t seed = 1)
	{
		return make_items(pool, prompt(seed, n));
	}

	Desc desc;
	Engine engine;
	Pool pool;
	Queue queue;
	Stream stream;
};

/* ---- cancel: stores ------------------------------------------------------ */

TEST_F(Jobs, AStoreThatWaitsForItsStreamIsCancelled)
{
	Job job;

	stream.block(engine);
	ASSERT_EQ(0, queue.store(job, pool, items(3), KVH_STORE_PACKED | KVH_STORE_PERSISTED,
				 stream.get()));
	EXPECT_EQ(0, kvh_cancel(queue.get(), job.id));
	/* Again does not hurt; if nothing was fed yet, the job may have ended by now. */
	EXPECT_THAT(kvh_cancel(queue.get(), job.id), testing::AnyOf(0, -ENOENT));
	engine.release();
	/* What was on the device by then was stored, perhaps all, also to L2. */
	const kvh_event end = queue.finish(job);
	EXPECT_EQ(job.count(KVH_EVENT_PERSISTED) == 0 || end.n_ok < 3 ? -ECANCELED : 0,
		  end.status);
	for (const int32_t status : job.status)
		EXPECT_TRUE(status == 0 || status == -ECANCELED) << status;
	EXPECT_EQ(std::count(job.status.begin(), job.status.end(), 0), end.n_ok);
	EXPECT_EQ(end.n_ok, engine.status().l1_frames);
	EXPECT_EQ(1u, job.count(KVH_EVENT_PACKED));
	EXPECT_EQ(-ENOENT, kvh_cancel(queue.get(), job.id));
	expect_idle();
}

TEST_F(Jobs, AStoreBehindOneThatWaitsIsCancelledWhole)
{
	Job first, rest[8];

	stream.block(engine);
	ASSERT_EQ(0, queue.store(first, pool, items(8, 1), 0, stream.get()));
	for (uint64_t i = 0; i < 8; i++)
		ASSERT_EQ(0, queue.store(rest[i], pool, items(2, 2 + i)));
	for (auto &job : rest)
		EXPECT_EQ(0, kvh_cancel(queue.get(), job.id));
	engine.release();
	EXPECT_EQ(0, queue.finish(first).status);
	for (auto &job : rest)
		queue.finish(job);
	/* The ring has three stages: those behind them had not begun. */
	EXPECT_EQ(std::vector<int32_t>(2, -ECANCELED), rest[7].status);
	EXPECT_EQ(0u, queue.lookup(prefix_of(pool, prompt(9, 2))));
	expect_idle();
}

class HangingJobs : public Jobs
{
      protected:
	HangingJobs() : Jobs({hanging()}), fault(kvh_fault_find("jobs"))
	{
	}
	void let_go()
	{
		EXPECT_EQ(0, kvh_fault_set_script(fault, ""));
		kvh_fault_release(fault);
	}

	struct kvh_fault *fault;
};

TEST_F(HangingJobs, AStoreThatWaitsForL2IsCancelled)
{
	Job job;

	ASSERT_EQ(0, queue.store(job, pool, items(3), KVH_STORE_PACKED | KVH_STORE_PERSISTED));
	kvh_fault_wait_held(fault, 3);
	EXPECT_EQ(KVH_EVENT_PACKED, queue.await(job, KVH_EVENT_PACKED).type);
	EXPECT_EQ(3u, queue.lookup(prefix_of(pool, prompt(1, 3)))); /* but it is found */
	EXPECT_EQ(0, kvh_cancel(queue.get(), job.id));
	EXPECT_EQ(-ECANCELED, queue.finish(job).status);
	EXPECT_EQ(3u, job.events.back().n_ok);
	EXPECT_EQ(std::vector<int32_t>(3, 0), job.status);
	EXPECT_EQ(0u, job.count(KVH_EVENT_PERSISTED));
	EXPECT_EQ(3u, engine.status().store_waiting);
	let_go();
	engine.drain();
	EXPECT_EQ(0u, engine.status().store_waiting);
	expect_idle();
}

TEST_F(HangingJobs, PersistedComesWhenAllHaveAnswered)
{
	Job job, plain;

	ASSERT_EQ(0, queue.store(job, pool, items(2), KVH_STORE_PERSISTED));
	ASSERT_EQ(0, queue.store(plain, pool, items(2, 2)));
	EXPECT_EQ(0, queue.finish(plain).status); /* does not wait */
	kvh_fault_wait_held(fault, 4);
	queue.poll();
	EXPECT_TRUE(job.events.empty());
	EXPECT_EQ(std::vector<int32_t>(2, 0), job.status);
	let_go();
	EXPECT_EQ(0, queue.finish(job).status);
	EXPECT_EQ(1u, job.count(KVH_EVENT_PERSISTED));
	EXPECT_EQ(2u, job.events[0].n_ok);
	/* Nothing new to persist: it is there already. */
	pool.give_all();
	ASSERT_EQ(0, queue.store(job, pool, items(2), KVH_STORE_PACKED | KVH_STORE_PERSISTED));
	EXPECT_EQ(0, queue.finish(job).status);
	EXPECT_EQ(3u, job.events.size());
	expect_idle();
}

TEST_F(HangingJobs, PersistedAlsoComesWhenTheyRefuse)
{
	Job job;

	ASSERT_EQ(0, kvh_fault_set_script(fault, "put@1x1000:fail=ENOSPC"));
	Log log;
	ASSERT_EQ(0, queue.store(job, pool, items(2), KVH_STORE_PERSISTED));
	EXPECT_EQ(0, queue.finish(job).status);
	EXPECT_EQ(1u, job.count(KVH_EVENT_PERSISTED));
	EXPECT_EQ(2u, queue.lookup(prefix_of(pool, prompt(1, 2))));
	expect_idle();
}

/* ---- cancel: prefetches and erases --------------------------------------- */

TEST_F(HangingJobs, APrefetchThatReadsIsCancelled)
{
	const Prefix prefix = prefix_of(pool, prompt(1, 3));
	Job job;

	ASSERT_EQ(0, kvh_fault_set_script(fault, ""));
	EXPECT_EQ(3u, store_prompt(queue, pool, prefix.hashes, KVH_STORE_PERSISTED));
	engine.evict();
	ASSERT_EQ(0, kvh_fault_set_script(fault, HANGS));
	ASSERT_EQ(0, queue.prefetch(job, prefix, KVH_PREFETCH_FOUND));
	kvh_fault_wait_held(fault, 3);
	EXPECT_EQ(0, kvh_cancel(queue.get(), job.id));
	const int again = kvh_cancel(queue.get(), job.id);
	EXPECT_TRUE(again == 0 || again == -ENOENT);
	const kvh_event end = queue.finish(job);
	EXPECT_EQ(-ECANCELED, end.status);
	EXPECT_EQ(0u, end.usable);
	EXPECT_EQ(std::vector<kvh_lease_t>(3, KVH_NONE), job.leases);
	EXPECT_EQ(1u, job.count(KVH_EVENT_FOUND));
	EXPECT_EQ(3u, job.events[0].usable);
	let_go();
	EXPECT_EQ(3u, fetch_and_check(queue, pool, prefix.hashes));
	expect_idle();
}

TEST_F(HangingJobs, APrefetchEndsAtItsDeadline)
{
	const Prefix prefix = prefix_of(pool, prompt(1, 3));
	Job job;

	ASSERT_EQ(0, kvh_fault_set_script(fault, "get@2x1000:hang"));
	EXPECT_EQ(3u, store_prompt(queue, pool, prefix.hashes, KVH_STORE_PERSISTED));
	engine.evict();
	ASSERT_EQ(0, queue.prefetch(job, prefix, 0, 100000000));
	const kvh_event end = queue.finish(job);
	EXPECT_EQ(-ETIMEDOUT, end.status);
	EXPECT_LE(end.usable, 1u);
	EXPECT_EQ(end.usable, job.leases[0] != KVH_NONE);
	EXPECT_EQ(KVH_NONE, job.leases[1]);
	EXPECT_EQ(0, queue.release(job.leases));
	let_go();
	EXPECT_EQ(3u, fetch_and_check(queue, pool, prefix.hashes));
	expect_idle();
}

TEST_F(HangingJobs, AnEraseThatWaitsIsCancelled)
{
	Job store, erase;

	ASSERT_EQ(0, kvh_fault_set_script(fault, "delete@1x1000:hang"));
	EXPECT_EQ(2u, store_prompt(queue, pool, prompt(1, 2), KVH_STORE_PERSISTED));
	ASSERT_EQ(0, queue.erase(erase, {pool.key(0, hash_of(1, 0)), pool.key(0, hash_of(1, 1)),
					 pool.key(0, hash_of(7, 7))}));
	EXPECT_EQ(0u, engine.status().l1_frames); /* at once */
	kvh_fault_wait_held(fault, 3);
	EXPECT_EQ(std::vector<int32_t>(3, KVH_PENDING), erase.status);
	EXPECT_EQ(0, kvh_cancel(queue.get(), erase.id));
	EXPECT_EQ(-ECANCELED, queue.finish(erase).status);
	EXPECT_EQ(std::vector<int32_t>(3, -ECANCELED), erase.status);
	let_go();
	expect_idle();
}

/* Cancelled from another moment each time: also after the end. */
TEST_F(Jobs, CancelRacesWithTheEnd)
{
	for (uint64_t i = 0; i < 300; i++) {
		Job store, prefetch, erase;
		const Prefix prefix = prefix_of(pool, prompt(i, 2));

		pool.give_all();
		ASSERT_EQ(0, queue.store(store, pool, items(2, i), KVH_STORE_PERSISTED));
		ASSERT_EQ(0, queue.prefetch(prefetch, prefix));
		ASSERT_EQ(0, queue.erase(erase, {pool.key(0, hash_of(i + 1, 0))}));
		for (uint64_t spin = 0; spin < i * 20; spin++)
			std::this_thread::yield();
		for (const auto *job : {&store, &prefetch, &erase}) {
			const int err = kvh_cancel(queue.get(), job->id);
			EXPECT_TRUE(err == 0 || err == -ENOENT);
		}
		queue.finish(store);
		queue.finish(prefetch);
		queue.finish(erase);
		EXPECT_EQ(prefetch.events.back().usable,
			  2 - std::count(prefetch.leases.begin(), prefetch.leases.end(),
					 KVH_NONE));
		EXPECT_EQ(0, queue.release(prefetch.leases));
	}
	engine.drain();
	expect_idle();
}

TEST_F(Jobs, ALoadRunsToItsEnd)
{
	std::vector<kvh_lease_t> leases;
	Job load;

	EXPECT_EQ(1u, store_prompt(queue, pool, prompt(1, 1)));
	EXPECT_EQ(1u, queue.lookup(prefix_of(pool, prompt(1, 1)), nullptr, &leases));
	const Item to = {pool.key(0, hash_of(1, 0)), pool.take(0), {}};
	stream.block(engine);
	ASSERT_EQ(0, queue.load(load, pool, leases, {to}, KVH_LOAD_RELEASE, stream.get()));
	EXPECT_EQ(0, kvh_cancel(queue.get(), load.id));
	queue.poll();
	EXPECT_FALSE(load.done());
	engine.release();
	EXPECT_EQ(0, queue.finish(load).status);
	EXPECT_TRUE(pool.holds(to.key, to.pages));
	expect_idle();
}

/* ---- pool_unregister ------------------------------------------------------ */

TEST_F(Jobs, UnregisterWaitsForTheDeviceAndCancelsTheRest)
{
	Job stores[6], load, unregister, none;
	std::vector<kvh_lease_t> leases;
	Queue other(engine);

	EXPECT_EQ(1u, store_prompt(queue, pool, prompt(9, 1)));
	EXPECT_EQ(1u, queue.lookup(prefix_of(pool, prompt(9, 1)), nullptr, &leases));
	stream.block(engine);
	for (uint64_t i = 0; i < 6; i++)
		ASSERT_EQ(0, (i % 2 ? queue : other)
				     .store(stores[i], pool, items(2, i), 0, stream.get()));
	const Item to = {pool.key(0, hash_of(9, 0)), pool.take(0), {}};
	ASSERT_EQ(0, queue.load(load, pool, leases, {to}, KVH_LOAD_RELEASE, stream.get()));
	ASSERT_EQ(0, queue.unregister(unregister, pool));
	Log log;
	EXPECT_EQ(-ENOENT, queue.store(none, pool, {to}));
	EXPECT_EQ(-ENOENT, queue.unregister(none, pool));
	queue.poll();
	EXPECT_FALSE(unregister.done());
	/* What is on the device, the load and the unregister; the others may have ended. */
	EXPECT_LE(5u, engine.status().jobs);
	engine.release();
	EXPECT_EQ(0, queue.finish(unregister).status);
	for (uint64_t i = 0; i < 6; i++)
		(i % 2 ? queue : other).finish(stores[i]);
	/* The ring has three stages: those behind them had not begun. */
	for (uint64_t i = 3; i < 6; i++)
		EXPECT_EQ(-ECANCELED, stores[i].events.back().status) << i;
	EXPECT_EQ(0, queue.finish(load).status);
	EXPECT_TRUE(pool.holds(to.key, to.pages));
	EXPECT_EQ(nullptr, engine.get()->pools);
	expect_idle();
}

/* A job that only waits for L2 does not touch the pool any more. */
TEST_F(HangingJobs, UnregisterDoesNotWaitForL2)
{
	Job store, unregister;

	ASSERT_EQ(0, queue.store(store, pool, items(2), KVH_STORE_PERSISTED));
	kvh_fault_wait_held(fault, 2);
	ASSERT_EQ(0, queue.unregister(unregister, pool));
	EXPECT_EQ(0, queue.finish(unregister).status);
	EXPECT_FALSE(store.done());
	let_go();
	EXPECT_EQ(0, queue.finish(store).status);
	expect_idle();
}

TEST_F(Jobs, UnregisterAgainAndAgain)
{
	std::atomic<int> won{0};
	Log log;

	for (int i = 0; i < 100; i++) {
		std::vector<std::thread> threads;

		ASSERT_EQ(0, pool.add(engine.get()));
		won = 0;
		for (int t = 0; t < 2; t++)
			threads.emplace_back([&] {
				Queue mine(engine);
				Job store, unregister;

				if (mine.store(store, pool,
					       {{pool.key(0, hash_of(5, 5)), {0, 1}, {}}}) == 0)
					mine.finish(store);
				if (mine.unregister(unregister, pool) == 0) {
					mine.finish(unregister);
					won++;
				}
			});
		for (auto &thread : threads)
			thread.join();
		EXPECT_EQ(1, won);
	}
	expect_idle();
}

} // namespace
