/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine_harness.h - queues whose events are held to the contract (one terminal
 * event a job, nothing after it), and whole ways from pages to L1 and back, with
 * every byte checked. A queue and its jobs belong to one thread.
 */
#ifndef KVH_TESTS_ENGINE_HARNESS_H
#define KVH_TESTS_ENGINE_HARNESS_H

#include "engine_rig.h"

#include <map>

namespace enginetest
{

/* ---- queue and jobs ----------------------------------------------------- */

/* A chunk and its pages. */
struct Item {
	kvh_key key;
	Pages pages;
	kvh_hash parent{};
};

/* At one place from its call until its terminal event was polled. */
struct Job {
	Job() = default;
	Job(const Job &) = delete;
	Job &operator=(const Job &) = delete;

	kvh_job_t id = KVH_NONE;
	std::vector<int32_t> status;
	std::vector<kvh_lease_t> leases;
	std::vector<kvh_event> events; /* in order */

	bool done() const
	{
		return !events.empty() && events.back().type == KVH_EVENT_DONE;
	}
	uint32_t count(uint32_t type) const
	{
		return static_cast<uint32_t>(
			std::count_if(events.begin(), events.end(),
				      [&](const kvh_event &e) { return e.type == type; }));
	}
};

struct Prefix {
	kvh_space_t space;
	std::vector<kvh_hash> hashes;
	uint32_t n_groups = 1, first_rank = 0, n_ranks = 1;

	kvh_prefix get() const
	{
		return {space,      hashes.data(), static_cast<uint32_t>(hashes.size()),
			first_rank, n_ranks,       n_groups};
	}
	size_t entries() const
	{
		return hashes.size() * n_groups * n_ranks;
	}
};

class Queue
{
      public:
	explicit Queue(const Engine &engine, uint32_t capacity = 64) : engine_(engine.get())
	{
		EXPECT_EQ(0, kvh_queue_open(engine_, capacity, &queue_));
	}
	~Queue()
	{
		kvh_queue_close(queue_);
	}
	Queue(const Queue &) = delete;
	Queue &operator=(const Queue &) = delete;

	void close()
	{
		kvh_queue_close(std::exchange(queue_, nullptr));
	}
	/* Its engine closes it. */
	void forget()
	{
		queue_ = nullptr;
	}
	kvh_queue *get() const
	{
		return queue_;
	}

	int store(Job &job, const Pool &pool, const std::vector<Item> &items,
		  uint32_t flags = 0, kvh_stream stream = nullptr,
		  kvh_event_mark event = nullptr, kvh_store_outcome *outcomes = nullptr)
	{
		std::vector<kvh_store_chunk> chunks;
		kvh_store_opts opts;

		for (const auto &item : items)
			chunks.push_back({item.key, item.parent, item.pages.data(),
					  static_cast<uint32_t>(item.pages.size()), 0});
		kvh_store_opts_init(&opts, sizeof(opts));
		opts.stream = stream;
		opts.event = event;
		opts.user_data = user_data_of(job);
		opts.flags = flags;
		opts.outcomes = outcomes;
		job.status.assign(items.size(), 77);
		return began(job, kvh_store(queue_, pool.id, chunks.data(),
					    static_cast<uint32_t>(chunks.size()), &opts,
					    job.status.data(), &job.id));
	}
	/* Any other job: start(queue, user_data, &id). */
	template <typename Start>
	int run(Job &job, Start start)
	{
		return began(job, start(queue_, user_data_of(job), &job.id));
	}
	/* Item i from lease i. */
	int load(Job &job, const Pool &pool, const std::vector<kvh_lease_t> &leases,
		 const std::vector<Item> &items, uint32_t flags = 0,
		 kvh_stream stream = nullptr, kvh_event_mark event = nullptr)
	{
		std::vector<kvh_load_chunk> chunks;
		kvh_load_opts opts;

		for (size_t i = 0; i < items.size(); i++)
			chunks.push_back({leases[i], items[i].pages.data(),
					  static_cast<uint32_t>(items[i].pages.size()), 0});
		kvh_load_opts_init(&opts, sizeof(opts));
		opts.stream = stream;
		opts.event = event;
		opts.user_data = user_data_of(job);
		opts.flags = flags;
		job.status.assign(items.size(), 77);
		return began(job, kvh_load(queue_, pool.id, chunks.data(),
					   static_cast<uint32_t>(chunks.size()), &opts,
					   job.status.data(), &job.id));
	}
	int prefetch(Job &job, const Prefix &prefix, uint32_t flags = 0,
		     uint64_t deadline_ns = 0)
	{
		const kvh_prefix p = prefix.get();
		kvh_prefetch_opts opts;

		kvh_prefetch_opts_init(&opts, sizeof(opts));
		opts.deadline_ns = deadline_ns;
		opts.user_data = user_data_of(job);
		opts.flags = flags;
		job.leases.assign(prefix.entries(), 77);
		return began(job, kvh_prefetch(queue_, &p, &opts, job.leases.data(), &job.id));
	}
	int erase(Job &job, const std::vector<kvh_key> &keys)
	{
		job.status.assign(keys.size(), 77);
		return began(job,
			     kvh_erase(queue_, keys.data(), static_cast<uint32_t>(keys.size()),
				       user_data_of(job), job.status.data(), &job.id));
	}
	int unregister(Job &job, const Pool &pool)
	{
		return began(job,
			     kvh_pool_unregister(queue_, pool.id, user_data_of(job), &job.id));
	}
	/* Chunks usable; leases, where asked, are given back by the caller. */
	uint32_t lookup(const Prefix &prefix, std::vector<uint8_t> *where = nullptr,
			std::vector<kvh_lease_t> *leases = nullptr)
	{
		const kvh_prefix p = prefix.get();
		uint32_t usable = UINT32_MAX;

		if (where != nullptr)
			where->assign(prefix.entries(), 77);
		if (leases != nullptr)
			leases->assign(prefix.entries(), 77);
		EXPECT_EQ(0, kvh_lookup(queue_, &p, leases != nullptr ? KVH_LOOKUP_LEASE : 0,
					where != nullptr ? where->data() : nullptr,
					leases != nullptr ? leases->data() : nullptr, &usable));
		return usable;
	}
	int release(const std::vector<kvh_lease_t> &leases)
	{
		return kvh_release(engine_, leases.data(), leases.size(), nullptr);
	}

	/* Takes what is there, at most `max` at a time. */
	void poll(uint32_t max = 16)
	{
		std::vector<kvh_event> events(max);
		int n;

		while ((n = kvh_queue_poll(queue_, events.data(), max)) > 0)
			for (int i = 0; i < n; i++)
				take(events[static_cast<size_t>(i)]);
		EXPECT_EQ(0, n);
	}
	/* Waits for the job's event of the type, or its end; the last one so far. */
	kvh_event await(const Job &job, uint32_t type)
	{
		kvh_event events[16];

		while (!job.done() && job.count(type) == 0) {
			const int n = kvh_queue_wait(queue_, events, 16, GUARD_NS);

			EXPECT_GT(n, 0);
			if (n <= 0)
				return {};
			for (int i = 0; i < n; i++)
				take(events[i]);
		}
		return job.events.back();
	}
	kvh_event finish(const Job &job)
	{
		return await(job, KVH_EVENT_DONE);
	}

      private:
	static uint64_t user_data_of(const Job &job)
	{
		return reinterpret_cast<uintptr_t>(&job);
	}
	int began(Job &job, int err)
	{
		if (err == 0) {
			job.events.clear();
			EXPECT_TRUE(jobs_.emplace(job.id, &job).second) << "job id twice";
		}
		return err;
	}
	void take(const kvh_event &event)
	{
		const auto it = jobs_.find(event.job);

		ASSERT_NE(jobs_.end(), it) << "an event of no job, or after its end";
		ASSERT_EQ(user_data_of(*it->second), event.user_data);
		it->second->events.push_back(event);
		if (event.type == KVH_EVENT_DONE)
			jobs_.erase(it);
		else
			EXPECT_EQ(1u, it->second->count(event.type)) << event.type;
	}

	kvh_engine *engine_;
	kvh_queue *queue_ = nullptr;
	std::map<kvh_job_t, Job *> jobs_;
};

/* ---- all of it ---------------------------------------------------------- */

/* The chunks of a prompt, all groups, with pages of their own that are filled. */
inline std::vector<Item> make_items(Pool &pool, const std::vector<kvh_hash> &hashes)
{
	std::vector<Item> items;

	for (size_t i = 0; i < hashes.size(); i++)
		for (uint32_t g = 0; g < pool.layout.groups.size(); g++) {
			items.push_back({pool.key(g, hashes[i]), pool.take(g),
					 i > 0 ? hashes[i - 1] : kvh_hash{}});
			pool.fill(items.back().key, items.back().pages);
		}
	return items;
}

/* Stores a prompt in all groups: how many chunks are new. */
inline uint32_t store_prompt(Queue &queue, Pool &pool, const std::vector<kvh_hash> &hashes,
			     uint32_t flags = 0)
{
	Job job;

	EXPECT_EQ(0, queue.store(job, pool, make_items(pool, hashes), flags));
	return queue.finish(job).n_ok;
}

inline Prefix prefix_of(const Pool &pool, std::vector<kvh_hash> hashes)
{
	return {pool.space, std::move(hashes), static_cast<uint32_t>(pool.layout.groups.size()),
		pool.rank, 1};
}

/* What a prefetch, or a lookup, of one rank has leased: with pages to load to. */
inline std::vector<Item> leased_items(Pool &pool, const Prefix &prefix,
				      const std::vector<kvh_lease_t> &all,
				      std::vector<kvh_lease_t> *leases)
{
	std::vector<Item> items;

	for (size_t e = 0; e < all.size(); e++) {
		const auto g = static_cast<uint32_t>(e % prefix.n_groups);

		if (all[e] == KVH_NONE)
			continue;
		leases->push_back(all[e]);
		items.push_back(
			{pool.key(g, prefix.hashes[e / prefix.n_groups]), pool.take(g), {}});
	}
	return items;
}

/* Loads what is leased to fresh pages, and holds every byte of the pool, also
 * those that were not to be touched, to what it has to be. Ends the leases. */
inline void load_and_check(Queue &queue, Pool &pool, const Prefix &prefix,
			   const std::vector<kvh_lease_t> &all)
{
	std::vector<Bytes> want = pool.memory.all();
	std::vector<kvh_lease_t> leases;
	const std::vector<Item> items = leased_items(pool, prefix, all, &leases);
	Job job;

	ASSERT_FALSE(items.empty());
	for (const auto &item : items)
		pool.expect(want, item.key, item.pages);
	ASSERT_EQ(0, queue.load(job, pool, leases, items, KVH_LOAD_RELEASE));
	const kvh_event end = queue.finish(job);
	EXPECT_EQ(0, end.status);
	EXPECT_EQ(items.size(), end.n_ok);
	EXPECT_EQ(std::vector<int32_t>(items.size(), 0), job.status);
	EXPECT_TRUE(want == pool.memory.all()) << "bytes differ, or others were touched";
}

/* Prefetches, loads, checks; the chunks that were usable. */
inline uint32_t fetch_and_check(Queue &queue, Pool &pool, const std::vector<kvh_hash> &hashes)
{
	const Prefix prefix = prefix_of(pool, hashes);
	Job job;

	EXPECT_EQ(0, queue.prefetch(job, prefix));
	const kvh_event end = queue.finish(job);
	EXPECT_EQ(0, end.status);
	EXPECT_EQ(end.n_ok,
		  job.leases.size() - static_cast<size_t>(std::count(
					      job.leases.begin(), job.leases.end(), KVH_NONE)));
	if (end.usable > 0)
		load_and_check(queue, pool, prefix, job.leases);
	return end.usable;
}

} // namespace enginetest

#endif
