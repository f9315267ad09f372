// SPDX-License-Identifier: Apache-2.0
//
// A few threads that store, prefetch, look up, load, release, erase and cancel
// the same prompts, over an L1 that holds a part of them and L2s that hold most.
// Every loaded byte is checked; at the end nothing is held and the counts agree.
// Beside them one evicts, clients die, and engines stop with all of it in flight.
#include "engine_harness.h"
#include "long_run.h"
#include "sanitizers.h"

#include <atomic>
#include <cinttypes>
#include <memory>
#include <thread>

using namespace enginetest;

namespace
{

constexpr uint32_t PROMPTS = 40, CHUNKS = 6;

/* Of a thread and test. Long: ten million operations in all tests together, or half
 * an hour under ThreadSanitizer. */
uint64_t rounds()
{
	return l2test::long_or(TSAN ? 25000 : 250000, TSAN ? 600 : 250);
}

/* A thread with a queue and a pool of its own. */
class Worker
{
      public:
	Worker(const Engine &engine, const Desc &desc, uint64_t seed)
	    : engine_(engine), rng_(seed),
	      pool_(engine, desc.layout, engine.space(desc), 0, seed),
	      queue_(std::make_unique<Queue>(engine, 8))
	{
	}
	void run(uint64_t n)
	{
		some(n);
		Job unregister;
		EXPECT_EQ(0, queue_->unregister(unregister, pool_));
		EXPECT_EQ(0, queue_->finish(unregister).status);
	}
	/* The engine stops before these have ended. */
	void leave(uint64_t n)
	{
		some(n);
		const auto hashes = prompt(rng_() % PROMPTS, CHUNKS);

		pool_.give_all();
		EXPECT_EQ(0, queue_->prefetch(left_[0], prefix_of(pool_, hashes)));
		EXPECT_EQ(0, queue_->store(left_[1], pool_, make_items(pool_, hashes),
					   KVH_STORE_PERSISTED));
		EXPECT_EQ(0, queue_->erase(left_[2], {pool_.key(0, hashes[1])}));
	}
	/* The engine has closed it. */
	void forget()
	{
		queue_->forget();
	}

	uint64_t loaded = 0, operations = 0;

      private:
	void some(uint64_t n)
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
			operations += hashes.size();
			if (rng_() % 64 == 0)
				die(hashes);
		}
	}
	/* With a job under way and leases held. */
	void die(const std::vector<kvh_hash> &hashes)
	{
		std::vector<kvh_lease_t> leases;
		Job job;

		pool_.give_all();
		(void)queue_->lookup(prefix_of(pool_, hashes), nullptr, &leases);
		EXPECT_EQ(0, queue_->store(job, pool_, make_items(pool_, hashes),
					   KVH_STORE_PERSISTED));
		queue_->close();
		queue_ = std::make_unique<Queue>(engine_, 8);
	}
	void store(const std::vector<kvh_hash> &hashes)
	{
		Job job;

		ASSERT_EQ(0, queue_->store(job, pool_, make_items(pool_, hashes),
					   static_cast<uint32_t>(rng_() % 4)));
		if (rng_() % 8 == 0)
			(void)kvh_cancel(queue_->get(), job.id);
		queue_->finish(job);
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
		ASSERT_EQ(0, queue_->load(job, pool_, held, items, KVH_LOAD_RELEASE));
		ASSERT_EQ(0, queue_->finish(job).status);
		for (const auto &item : items)
			ASSERT_TRUE(pool_.holds(item.key, item.pages));
		loaded += items.size();
	}
	void prefetch(const std::vector<kvh_hash> &hashes)
	{
		const Prefix prefix = prefix_of(pool_, hashes);
		Job job;

		ASSERT_EQ(0, queue_->prefetch(job, prefix, rng_() % 2));
		if (rng_() % 8 == 0)
			(void)kvh_cancel(queue_->get(), job.id);
		const kvh_event end = queue_->finish(job);
		EXPECT_TRUE(end.status == 0 || end.status == -ECANCELED ||
			    end.status == -ENOMEM)
			<< end.status;
		if (rng_() % 8 != 0) {
			load(prefix, job.leases);
			return;
		}
		EXPECT_EQ(0, queue_->release(job.leases));
	}
	void lookup(const std::vector<kvh_hash> &hashes)
	{
		const Prefix prefix = prefix_of(pool_, hashes);
		std::vector<kvh_lease_t> leases;
		std::vector<uint8_t> where;

		EXPECT_LE(queue_->lookup(prefix, &where), hashes.size());
		queue_->lookup(prefix, &where, &leases);
		load(prefix, leases);
	}
	/* At once, and their events in whatever order. */
	void several(const std::vector<kvh_hash> &hashes)
	{
		const Prefix prefix = prefix_of(pool_, hashes);
		Job jobs[3];

		ASSERT_EQ(0, queue_->prefetch(jobs[0], prefix));
		ASSERT_EQ(0, queue_->store(jobs[1], pool_, make_items(pool_, hashes)));
		ASSERT_EQ(0, queue_->erase(jobs[2], {pool_.key(0, hashes[0])}));
		for (const auto &job : jobs)
			queue_->finish(job);
		load(prefix, jobs[0].leases);
	}
	void erase(const std::vector<kvh_hash> &hashes)
	{
		std::vector<kvh_key> keys;
		Job job;

		for (const auto &hash : hashes)
			keys.push_back(pool_.key(0, hash));
		ASSERT_EQ(0, queue_->erase(job, keys));
		const kvh_event end = queue_->finish(job);
		EXPECT_EQ(0, end.status);
		for (const int32_t status : job.status)
			EXPECT_TRUE(status == 0 || status == -ENOENT) << status;
	}

	const Engine &engine_;
	layouts::Rng rng_;
	Pool pool_;
	std::unique_ptr<Queue> queue_;
	Job left_[3];
};

/* Evicts as if memory were short, while others work. */
class Evictor
{
      public:
	explicit Evictor(const Engine &engine)
	    : thread_([this, &engine] {
		      while (!stop_) {
			      kvh_l1_evict(engine.get()->l1, MIB);
			      std::this_thread::yield();
		      }
	      })
	{
	}
	~Evictor()
	{
		stop_ = true;
		thread_.join();
	}

      private:
	std::atomic<bool> stop_{false};
	std::thread thread_;
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
	printf("seed %" PRIu64 "\n", seed);
	Engine engine(opts);
	const Desc desc = large_chunks();
	std::vector<std::unique_ptr<Worker>> workers;
	std::vector<std::thread> threads;
	uint64_t loaded = 0, operations = 0;

	for (uint64_t t = 0; t < 3; t++)
		workers.push_back(std::make_unique<Worker>(engine, desc, seed * 16 + t));
	{
		/* Without an L2 it would leave nothing to load. */
		const auto evictor = opts.l2.empty() ? nullptr
						     : std::make_unique<Evictor>(engine);

		for (auto &worker : workers)
			threads.emplace_back([&worker] { worker->run(rounds()); });
		for (auto &thread : threads)
			thread.join();
	}
	for (const auto &worker : workers) {
		loaded += worker->loaded;
		operations += worker->operations;
	}
	workers.clear();
	VERDICT("stress: %" PRIu64 " operations, %" PRIu64 " chunks loaded and right",
		operations, loaded);
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

/* Engines one after the other over one directory. */
TEST_F(Stress, StopsWithAllOfItInFlight)
{
	const Desc desc = large_chunks();

	printf("seed %" PRIu64 "\n", seed);
	for (uint64_t life = 0; life < rounds() / 25 && !HasFailure(); life++) {
		std::vector<std::unique_ptr<Worker>> workers;
		std::vector<std::thread> threads;
		Engine engine({{"mem:size=600K", "fs:" + dir.path() + "/fs"}, 2 * MIB});

		for (uint64_t t = 0; t < 3; t++)
			workers.push_back(std::make_unique<Worker>(
				engine, desc, seed * 1000003 + life * 16 + t));
		for (auto &worker : workers)
			threads.emplace_back([&worker] { worker->leave(25); });
		for (auto &thread : threads)
			thread.join();
		EXPECT_EQ(0, engine.close(0));
		for (auto &worker : workers)
			worker->forget();
	}
}

TEST_F(Stress, L1Alone)
{
	stress({{}, 2 * MIB}, seed);
}

} // namespace
