// SPDX-License-Identifier: Apache-2.0
//
// What store, load, lookup, prefetch, release and erase refuse: each error that
// the header names, with its reason in the log, and nothing begun.
#include "engine_harness.h"

#include <functional>

using namespace enginetest;

namespace
{

class Bad : public testing::Test
{
      protected:
	Bad()
	    : engine({{}, 2 * MIB, nullptr, 0, 0, 100, 99}),
	      pool(engine, desc.layout, engine.space(desc)), queue(engine)
	{
	}
	void TearDown() override
	{
		const kvh_status st = engine.status();

		EXPECT_EQ(0u, st.jobs);
		EXPECT_EQ(0u, st.l1_leases);
		EXPECT_EQ(0u, st.l1_doomed);
	}
	/* Refused, logged once, nothing left in L1 or on the queue. */
	void refuses(int err, const char *reason, const std::function<int(Job &)> &call)
	{
		const kvh_status before = engine.status();
		Job job;
		Log log;

		EXPECT_EQ(err, call(job)) << reason;
		EXPECT_EQ(KVH_NONE, job.id) << reason;
		EXPECT_NE(0u, log.count(reason)) << reason << ": " << log.text();
		EXPECT_EQ(1u, log.count("\n")) << log.text();
		EXPECT_EQ(before.jobs, engine.status().jobs);
		EXPECT_EQ(before.l1_used_bytes, engine.status().l1_used_bytes);
		EXPECT_EQ(before.l1_leases, engine.status().l1_leases);
	}
	Item item(uint64_t i)
	{
		return {pool.key(0, hash_of(9, i)), pool.take(0), {}};
	}
	/* Stored chunks [0, n) and their leases. */
	std::vector<kvh_lease_t> leased(uint32_t n)
	{
		std::vector<kvh_lease_t> leases;

		EXPECT_EQ(n, store_prompt(queue, pool, prompt(1, n)));
		EXPECT_EQ(n, queue.lookup(prefix_of(pool, prompt(1, n)), nullptr, &leases));
		return leases;
	}

	Desc desc;
	Engine engine;
	Pool pool;
	Queue queue;
};

TEST_F(Bad, Stores)
{
	const auto store = [&](std::vector<Item> items, uint32_t flags = 0) {
		return [this, items, flags](Job &job) {
			return queue.store(job, pool, items, flags);
		};
	};
	const Item good = item(0), other = item(1);
	Item bad;

	refuses(-EINVAL, "0 chunks", store({}));
	refuses(-EINVAL, "flags", store({good}, 8));
	bad = other, bad.key.space++;
	refuses(-EINVAL, "chunk 1: its key is of space", store({good, bad}));
	bad = other, bad.key.space = KVH_NONE;
	refuses(-EINVAL, "chunk 0: its key is of space", store({bad, good}));
	bad = other, bad.key.rank = 1;
	refuses(-EINVAL, "chunk 1: rank 1", store({good, bad}));
	bad = other, bad.key.rank = KVH_RANK_ANY;
	refuses(-EINVAL, "chunk 1: rank", store({good, bad}));
	bad = other, bad.key.group = 1;
	refuses(-EINVAL, "chunk 1: group 1", store({good, bad}));
	bad = other, bad.pages[1] = 64;
	refuses(-EINVAL, "page 64 at place 1", store({good, bad}));
	bad = other, bad.pages[0] = KVH_PAGE_NONE;
	refuses(-EINVAL, "page 4294967295 at place 0", store({good, bad}));
	bad = other, bad.pages.pop_back();
	refuses(-EINVAL, "chunk 1: 1 pages", store({good, bad}));
	bad = other, bad.pages.push_back(0);
	refuses(-EINVAL, "chunk 1: 3 pages", store({good, bad}));
	refuses(-EINVAL, "both a stream and an event", [&](Job &job) {
		Stream stream(engine);
		return queue.store(job, pool, {good}, 0, stream.get(), stream.mark());
	});

	Job job; /* the good ones are */
	ASSERT_EQ(0, queue.store(job, pool, {good, other}));
	EXPECT_EQ(2u, queue.finish(job).n_ok);
}

TEST_F(Bad, KeysOfAReplicatedGroup)
{
	Desc mla;
	mla.layout = layouts::mla("mla", 36, 0, sizes(8), KVH_FORMAT_NATIVE);
	Pool shared(engine, mla.layout, engine.space(mla), 3);
	Item bad = {shared.key(0, hash_of(1, 1)), shared.take(0), {}};

	EXPECT_EQ(KVH_RANK_ANY, bad.key.rank);
	bad.key.rank = 3;
	refuses(-EINVAL, "rank 3", [&](Job &job) { return queue.store(job, shared, {bad}); });
}

TEST_F(Bad, PoolsThatAreNotThere)
{
	const Item good = item(0);
	const auto leases = leased(1);
	const kvh_pool_t id = pool.id;

	for (const kvh_pool_t none : {KVH_NONE, id + 1, UINT64_MAX}) {
		pool.id = none;
		refuses(-ENOENT, "there is no pool",
			[&](Job &job) { return queue.store(job, pool, {good}); });
		refuses(-ENOENT, "there is no pool",
			[&](Job &job) { return queue.load(job, pool, leases, {good}); });
		refuses(-ENOENT, "there is no pool",
			[&](Job &job) { return queue.unregister(job, pool); });
	}
	pool.id = id;
	EXPECT_EQ(0, queue.release(leases));
}

TEST_F(Bad, Loads)
{
	auto leases = leased(2);
	const Item a = item(0), b = item(1);
	Item bad;
	const auto load = [&](std::vector<Item> items, uint32_t flags = 0) {
		return [this, &leases, items, flags](Job &job) {
			return queue.load(job, pool, leases, items, flags);
		};
	};

	refuses(-EINVAL, "0 chunks", load({}));
	refuses(-EINVAL, "flags", load({a}, 2));
	bad = b, bad.pages[1] = 64;
	refuses(-EINVAL, "page 64 at place 1", load({a, bad}));
	bad = b, bad.pages.pop_back();
	refuses(-EINVAL, "chunk 1: 1 pages", load({a, bad}));
	bad = b, bad.pages[1] = a.pages[0];
	refuses(-EINVAL, "is named twice", load({a, bad}));
	bad = b, bad.pages[1] = bad.pages[0];
	refuses(-EINVAL, "is named twice", load({bad}, KVH_LOAD_RELEASE));
	EXPECT_EQ(2u, engine.status().l1_leases); /* of a call that failed: kept */
	bad = b, bad.pages = {KVH_PAGE_NONE, KVH_PAGE_NONE};
	Job job; /* but nothing is not named twice, and one lease loads twice */
	leases[1] = leases[0];
	ASSERT_EQ(0, queue.load(job, pool, leases, {a, b}));
	EXPECT_EQ(2u, queue.finish(job).n_ok);
	EXPECT_TRUE(pool.holds(pool.key(0, hash_of(1, 0)), a.pages));
	EXPECT_TRUE(pool.holds(pool.key(0, hash_of(1, 0)), b.pages));
	ASSERT_EQ(0, queue.load(job, pool, leases, {bad}));
	EXPECT_EQ(1u, queue.finish(job).n_ok);
	queue.close();
}

TEST_F(Bad, LeasesOfAnotherSpaceOrRank)
{
	Desc desc2;
	desc2.model = "other";
	Pool space2(engine, desc.layout, engine.space(desc2)),
		rank2(engine, desc.layout, pool.space, 2);
	const auto leases = leased(1);
	const Item a = item(0);

	refuses(-EINVAL, "its key is of space",
		[&](Job &job) { return queue.load(job, space2, leases, {a}); });
	refuses(-EINVAL, "rank 0 in the key",
		[&](Job &job) { return queue.load(job, rank2, leases, {a}); });
	EXPECT_EQ(0, queue.release(leases));
}

TEST_F(Bad, StaleLeases)
{
	auto leases = leased(4);
	const std::vector<Item> items = {item(0), item(1), item(2), item(3)};
	const kvh_lease_t kept[2] = {leases[0], leases[2]};
	int32_t status[6];
	Job job;

	EXPECT_EQ(0, queue.release({leases[1], leases[3]}));
	{
		Log log;
		EXPECT_EQ(-ESTALE, queue.load(job, pool, leases, items));
		EXPECT_EQ(1u, log.count("chunk 1: its lease"));
		EXPECT_EQ(1u, log.count("\n"));
	}
	EXPECT_EQ((std::vector<int32_t>{KVH_PENDING, -ESTALE, KVH_PENDING, -ESTALE}),
		  job.status);
	leases[1] = KVH_NONE;
	leases[3] = UINT64_MAX;
	{
		Log log;
		EXPECT_EQ(-ESTALE, queue.load(job, pool, leases, items, KVH_LOAD_RELEASE));
	}
	EXPECT_EQ(2u, engine.status().l1_leases);

	/* release: the good ones go all the same, and each one says so. */
	const kvh_lease_t all[6] = {leases[0], KVH_NONE, leases[0],
				    leases[2], 12345,    leases[3]};
	Log log;
	EXPECT_EQ(-ESTALE, kvh_release(engine.get(), all, 6, status));
	EXPECT_EQ((std::vector<int32_t>{0, 0, -ESTALE, 0, -ESTALE, -ESTALE}),
		  std::vector<int32_t>(status, status + 6));
	EXPECT_EQ(1u, log.count("\n")) << log.text();
	EXPECT_EQ(0u, engine.status().l1_leases);
	EXPECT_EQ(-ESTALE, kvh_release(engine.get(), kept, 2, nullptr));
	EXPECT_EQ(0, kvh_release(engine.get(), nullptr, 0, nullptr));
}

TEST_F(Bad, AStreamUnderCapture)
{
	Stream stream(engine);
	const auto leases = leased(1);
	const Item a = item(0);
	Job load;

	for (const kvh_stream s : {stream.get(), kvh_stream{nullptr}}) {
		kvh_host_set_capturing(engine.dev(), s, true);
		refuses(-EBUSY, "captured",
			[&](Job &job) { return queue.store(job, pool, {a}, 0, s); });
		refuses(-EBUSY, "captured",
			[&](Job &job) { return queue.load(job, pool, leases, {a}, 0, s); });
		kvh_host_set_capturing(engine.dev(), s, false);
	}
	ASSERT_EQ(0, queue.load(load, pool, leases, {a}, KVH_LOAD_RELEASE, stream.get()));
	kvh_host_set_capturing(engine.dev(), stream.get(), true);
	EXPECT_EQ(-EBUSY, kvh_load_wait(queue.get(), load.id, 0, stream.get()));
	kvh_host_set_capturing(engine.dev(), stream.get(), false);
	EXPECT_EQ(0, kvh_load_wait(queue.get(), load.id, 0, stream.get()));
	EXPECT_EQ(0, queue.finish(load).status);
}

TEST_F(Bad, AQueueThatIsFull)
{
	Queue full(engine, 1);
	Stream stream(engine);
	const auto leases = leased(1);
	const Item a = item(0), b = item(1);
	Job held, job;

	stream.block(engine);
	ASSERT_EQ(0, full.store(held, pool, {a}, 0, stream.get()));
	const uint64_t used = engine.status().l1_used_bytes;
	EXPECT_EQ(-EAGAIN, full.store(job, pool, {b}));
	EXPECT_EQ(-EAGAIN, full.load(job, pool, leases, {b}));
	EXPECT_EQ(-EAGAIN, full.prefetch(job, prefix_of(pool, prompt(1, 1))));
	EXPECT_EQ(-EAGAIN, full.erase(job, {b.key}));
	EXPECT_EQ(-EAGAIN, full.unregister(job, pool));
	EXPECT_EQ(used, engine.status().l1_used_bytes);
	EXPECT_EQ(1u, engine.status().jobs);
	EXPECT_EQ(1u, engine.status().l1_leases);
	engine.release();
	EXPECT_EQ(0, full.finish(held).status);
	ASSERT_EQ(0, full.load(job, pool, leases, {b}, KVH_LOAD_RELEASE));
	EXPECT_EQ(0, full.finish(job).status);
}

TEST_F(Bad, L1FullOfLeases)
{
	std::vector<std::vector<kvh_lease_t>> leases;
	uint64_t seed = 0;
	Job job;

	/* 256 frames of 8 KiB, all leased, and no background eviction below 100 %. */
	for (; seed < 16; seed++) {
		pool.give_all();
		EXPECT_EQ(16u, store_prompt(queue, pool, prompt(seed, 16)));
		leases.emplace_back();
		EXPECT_EQ(16u, queue.lookup(prefix_of(pool, prompt(seed, 16)), nullptr,
					    &leases.back()));
	}
	EXPECT_EQ(2 * MIB, engine.status().l1_used_bytes);
	pool.give_all();
	ASSERT_EQ(0, queue.store(job, pool, make_items(pool, prompt(99, 3)), KVH_STORE_PACKED));
	EXPECT_EQ(-ENOMEM, queue.finish(job).status);
	EXPECT_EQ(0u, job.events.back().n_ok);
	EXPECT_EQ(1u, job.count(KVH_EVENT_PACKED));
	EXPECT_EQ(std::vector<int32_t>(3, -ENOMEM), job.status);
	EXPECT_EQ(3u, engine.status().store_no_memory);
	EXPECT_EQ(0, queue.release({leases[3][5], leases[7][0]}));
	pool.give_all();
	ASSERT_EQ(0, queue.store(job, pool, make_items(pool, prompt(99, 3))));
	EXPECT_EQ(2u, queue.finish(job).n_ok);
	EXPECT_EQ(1, std::count(job.status.begin(), job.status.end(), -ENOMEM));
	queue.close();
}

TEST_F(Bad, AFrameLargerThanAPiece)
{
	Desc large;
	large.layout = layouts::opaque_pages(sizes(4), KVH_FORMAT_NATIVE);
	large.layout.groups[0].shapes[0].page_bytes = 3 * MIB;
	large.layout.groups[0].planes[0].page_stride = 3 * MIB;
	large.layout.allocs[0] = 12 * MIB;
	Pool wide(engine, large.layout, engine.space(large));
	Job job;
	Log log;

	ASSERT_EQ(0, queue.store(job, wide, {{wide.key(0, hash_of(1, 1)), wide.take(0), {}}}));
	EXPECT_EQ(-EINVAL, queue.finish(job).status);
	EXPECT_EQ(std::vector<int32_t>(1, -EINVAL), job.status);
	EXPECT_EQ(1u, engine.status().store_failed);
	EXPECT_EQ(0u, engine.status().store_exists);
	EXPECT_NE(0u, log.count("\n"));
}

TEST_F(Bad, DuplicatesInABatch)
{
	Item a = item(0), b = item(1);
	Job job;

	pool.fill(a.key, a.pages);
	b.key = a.key;
	pool.fill(b.key, b.pages);
	ASSERT_EQ(0, queue.store(job, pool, {a, b, a}));
	EXPECT_EQ(0, queue.finish(job).status);
	EXPECT_EQ((std::vector<int32_t>{0, -EINPROGRESS, -EINPROGRESS}), job.status);
	EXPECT_EQ(1u, job.events.back().n_ok);
	ASSERT_EQ(0, queue.store(job, pool, {a, a}));
	EXPECT_EQ(0, queue.finish(job).status);
	EXPECT_EQ(std::vector<int32_t>(2, -EEXIST), job.status);
	ASSERT_EQ(0, queue.erase(job, {a.key, a.key}));
	EXPECT_EQ(0, queue.finish(job).status);
	EXPECT_EQ((std::vector<int32_t>{0, -ENOENT}), job.status);
	EXPECT_EQ(1u, job.events.back().n_ok);
}

TEST_F(Bad, Prefixes)
{
	const Prefix good = prefix_of(pool, prompt(1, 2));
	const auto both = [&](int err, const char *reason, const kvh_prefix &prefix) {
		kvh_prefetch_opts opts;
		kvh_lease_t leases[64];

		kvh_prefetch_opts_init(&opts, sizeof(opts));
		refuses(err, reason, [&](Job &job) {
			return kvh_prefetch(queue.get(), &prefix, &opts, leases, &job.id);
		});
		refuses(err, reason, [&](Job &) {
			return kvh_lookup(queue.get(), &prefix, 0, nullptr, nullptr, nullptr);
		});
	};
	kvh_prefix p = good.get();

	p.space++;
	both(-ENOENT, "there is no space", p);
	p = good.get(), p.n_chunks = 0;
	both(-EINVAL, "n_chunks", p);
	p = good.get(), p.hashes = nullptr;
	both(-EINVAL, "hashes", p);
	p = good.get(), p.n_groups = 2;
	both(-EINVAL, "n_groups is 2", p);
	p = good.get(), p.n_ranks = 0;
	both(-EINVAL, "ranks", p);
	p = good.get(), p.first_rank = KVH_RANK_ANY;
	both(-EINVAL, "ranks", p);

	p = good.get();
	kvh_prefetch_opts opts;
	kvh_lease_t leases[2];
	kvh_prefetch_opts_init(&opts, sizeof(opts));
	refuses(-EINVAL, "without leases", [&](Job &job) {
		return kvh_prefetch(queue.get(), &p, &opts, nullptr, &job.id);
	});
	refuses(-EINVAL, "without", [&](Job &) {
		return kvh_lookup(queue.get(), &p, KVH_LOOKUP_LEASE, nullptr, nullptr, nullptr);
	});
	refuses(-EINVAL, "flags 0 with", [&](Job &) {
		return kvh_lookup(queue.get(), &p, 0, nullptr, leases, nullptr);
	});
	refuses(-EINVAL, "flags 0x2", [&](Job &) {
		return kvh_lookup(queue.get(), &p, 2, nullptr, nullptr, nullptr);
	});
	opts.flags = 8;
	refuses(-EINVAL, "flags 0x8", [&](Job &job) {
		return kvh_prefetch(queue.get(), &p, &opts, leases, &job.id);
	});
	opts.flags = KVH_PREFETCH_WARM;
	refuses(-EINVAL, "with leases", [&](Job &job) {
		return kvh_prefetch(queue.get(), &p, &opts, leases, &job.id);
	});
}

TEST_F(Bad, EraseAndLoadWait)
{
	const auto leases = leased(1);
	Queue other(engine);
	Job store, load;

	refuses(-EINVAL, "n is 0", [&](Job &job) { return queue.erase(job, {}); });
	ASSERT_EQ(0, queue.store(store, pool, {item(5)}));
	EXPECT_EQ(-ENOENT, kvh_load_wait(queue.get(), store.id, 0, nullptr));
	queue.finish(store);
	EXPECT_EQ(-ENOENT, kvh_load_wait(queue.get(), store.id, 0, nullptr));
	ASSERT_EQ(0, queue.load(load, pool, leases, {item(0)}, KVH_LOAD_RELEASE));
	EXPECT_EQ(-ENOENT, kvh_load_wait(other.get(), load.id, 0, nullptr));
	EXPECT_EQ(-EINVAL, kvh_load_wait(queue.get(), load.id, 2, nullptr));
	EXPECT_EQ(0, kvh_load_wait(queue.get(), load.id, 1, nullptr));
	EXPECT_EQ(0, kvh_load_wait(queue.get(), load.id, KVH_LAYER_ALL, nullptr));
	queue.finish(load);
	EXPECT_EQ(-ENOENT, kvh_load_wait(queue.get(), load.id, 0, nullptr));
}

} // namespace
