// SPDX-License-Identifier: Apache-2.0
//
// A few threads that store, prefetch, look up, load, release, erase and cancel
// the same prompts, over an L1 that holds a part of them and L2s that hold most.
// Every loaded byte is checked; at the end nothing is held and the counts agree.
#include "engine_harness.h"

#include <cstdlib>
#include <memory>
#include <thread>

using namespace enginetest;

namespace
{

constexpr uint32_t PROMPTS = 40, CHUNKS = 6;

uint64_t rounds()
{
	const char *s = getenv("KVH_STRESS_ROUNDS");

	return s != nullptr ? strtoull(s, nullptr, 10) : 250;
}

/* A thread with a queue and a pool of its own. */
class Worker
{
      public:
	Worker(const Engine &engine, const Desc &desc, uint64_t seed)
	    : rng_(seed), pool_(engine, desc.layout, engine.space(desc), 0, seed),
	      queue_(engine, 8)
	{
	}
	void run(uint64_t n)
	{
		for (uint64_t i = 0; i < n && !testing::Test::HasFailure(); i++) {
			const auto hashes = prompt(rng_() % PROMPTS,
						   1 + static_cast<uint32_t>(rng_() % CHUNKS));

			pool_.give_all();
			switch (rng_() % 8) {
			case 0:
			case 1:
			case 2: store(hashes); break;
			case 3:
			case 4: prefetch(hashes); break;
			case 5: lookup(hashes); break;
			case 6: several(hashes); break;
			default: erase(hashes); break;
			}
		}
		Job unregister;
		EXPECT_EQ(0, queue_.unregister(unregister, pool_));
		EXPECT_EQ(0, queue_.finish(unregister).status);
	}

	uint64_t loaded = 0;

      private:
	void store(const std::vector<kvh_hash> &hashes)
	{
		Job job;

		ASSERT_EQ(0, queue_.store(job, pool_, make_items(pool_, hashes),
					  static_cast<uint32_t>(rng_() % 4)));
		if (rng_() % 8 == 0)
			(void)kvh_cancel(queue_.get(), job.id);
		queue_.finish(job);
		for (const int32_t status : job.status)
			EXPECT_TRUE(status == 0 || status == -EEXIST ||
				    status == -EINPROGRESS || status == -ECANCELED ||
				    status == -ENOMEM)
				<< status;
	}
	void load(const Prefix &prefix, const std::vector<kvh_lease_t> &leases)
	{
		std::vector<kvh_lease_t> held;
		const auto items = leased_items(pool_, prefix, leases, &held);
		Job job;

		if (items.empty())
			return;
		ASSERT_EQ(0, queue_.load(job, pool_, held, items, KVH_LOAD_RELEASE));
		ASSERT_EQ(0, queue_.finish(job).status);
		for (const auto &item : items)
			ASSERT_TRUE(pool_.holds(item.key, item.pages));
		loaded += items.size();
	}
	void prefetch(const std::vector<kvh_hash> &hashes)
	{
		const Prefix prefix = prefix_of(pool_, hashes);
		Job job;

		ASSERT_EQ(0, queue_.prefetch(job, prefix, rng_() % 2));
		if (rng_() % 8 == 0)
			(void)kvh_cancel(queue_.get(), job.id);
		const kvh_event end = queue_.finish(job);
		EXPECT_TRUE(end.status == 0 || end.status == -ECANCELED ||
			    end.status == -ENOMEM)
			<< end.status;
		if (rng_() % 8 != 0) {
			load(prefix, job.leases);
			return;
		}
		EXPECT_EQ(0, queue_.release(job.leases));
	}
	void lookup(const std::vector<kvh_hash> &hashes)
	{
		const Prefix prefix = prefix_of(pool_, hashes);
		std::vector<kvh_lease_t> leases;
		std::vector<uint8_t> where;

		EXPECT_LE(queue_.lookup(prefix, &where), hashes.size());
		queue_.lookup(prefix, &where, &leases);
		load(prefix, leases);
	}
	/* At once, and their events in whatever order. */
	void several(const std::vector<kvh_hash> &hashes)
	{
		const Prefix prefix = prefix_of(pool_, hashes);
		Job jobs[3];

		ASSERT_EQ(0, queue_.prefetch(jobs[0], prefix));
		ASSERT_EQ(0, queue_.store(jobs[1], pool_, make_items(pool_, hashes)));
		ASSERT_EQ(0, queue_.erase(jobs[2], {pool_.key(0, hashes[0])}));
		for (const auto &job : jobs)
			queue_.finish(job);
		load(prefix, jobs[0].leases);
	}
	void erase(const std::vector<kvh_hash> &hashes)
	{
		std::vector<kvh_key> keys;
		Job job;

		for (const auto &hash : hashes)
			keys.push_back(pool_.key(0, hash));
		ASSERT_EQ(0, queue_.erase(job, keys));
		const kvh_event end = queue_.finish(job);
		EXPECT_EQ(0, end.status);
		for (const int32_t status : job.status)
			EXPECT_TRUE(status == 0 || status == -ENOENT) << status;
	}

	layouts::Rng rng_;
	Pool pool_;
	Queue queue_;
};

/* 2 MiB of L1 is one slab: frames of 64 KiB, 32 of them, for 240 chunks. */
Desc large_chunks()
{
	Desc desc;
	Sizes s = sizes(32);

	s.D = 600;
	desc.layout = layouts::dense("large", "pkthd", s, KVH_FORMAT_NATIVE);
	return desc;
}

void stress(const Opts &opts, uint64_t seed)
{
	SCOPED_TRACE("seed " + std::to_string(seed));
	Engine engine(opts);
	const Desc desc = large_chunks();
	std::vector<std::unique_ptr<Worker>> workers;
	std::vector<std::thread> threads;
	uint64_t loaded = 0;

	for (uint64_t t = 0; t < 3; t++)
		workers.push_back(std::make_unique<Worker>(engine, desc, seed * 16 + t));
	for (auto &worker : workers)
		threads.emplace_back([&worker] { worker->run(rounds()); });
	for (auto &thread : threads)
		thread.join();
	for (const auto &worker : workers)
		loaded += worker->loaded;
	workers.clear();
	engine.drain();

	const kvh_status st = engine.status();
	EXPECT_GT(loaded, rounds() / 4);
	EXPECT_EQ(loaded, st.loaded_chunks);
	EXPECT_EQ(0u, st.jobs);
	EXPECT_EQ(0u, st.l1_leases);
	EXPECT_EQ(0u, st.l1_doomed);
	EXPECT_EQ(0u, st.store_waiting);
	EXPECT_EQ(0u, st.corrupt);
	EXPECT_EQ(0u, st.store_failed);
	EXPECT_EQ(nullptr, engine.get()->pools);
	/* What was detached may still be read in, with no job: it ends at close. */
	engine.evict();
}

class Stress : public testing::Test
{
      protected:
	Dir dir;
	const uint64_t seed = std::random_device{}();
};

TEST_F(Stress, SmallL1OverMemAndFs)
{
	stress({{"mem:size=600K", "fs:" + dir.path() + "/fs"}, 2 * MIB}, seed);
}

TEST_F(Stress, BufferOnlyOverNvme)
{
	stress({{"nvme:" + dir.path() + "/file,size=8M,segment=1M"}, 2 * MIB, "buffer-only"},
	       seed);
}

TEST_F(Stress, L1Alone)
{
	stress({{}, 2 * MIB}, seed);
}

} // namespace
