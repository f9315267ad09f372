// SPDX-License-Identifier: Apache-2.0
//
// Closing a queue, or the engine, with everything in flight: bounded, nothing
// leaked, every lease returned (scenario L10); and fork (M7).
#include "engine_harness.h"
#include "sanitizers.h"

#include "host/clock.h"
#include "host/log.h"
#include "l2/fault.h"

#include <atomic>
#include <memory>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace enginetest;

namespace
{

constexpr uint64_t SECOND = UINT64_C(1000000000);

/* Everything at once, and adapters that answer, hang, or answer late. */
struct Busy {
	explicit Busy(const std::vector<std::string> &l2, uint64_t seed)
	    : rng(seed), engine(std::make_unique<Engine>(Opts{l2, 2 * MIB}))
	{
		desc.layout = small_layout(KVH_FORMAT_NATIVE, 256);
		pool = std::make_unique<Pool>(*engine, desc.layout, engine->space(desc));
	}
	/* Their bytes do not matter here, and stores read the pages meanwhile. */
	std::vector<Item> unfilled(const std::vector<kvh_hash> &hashes)
	{
		std::vector<Item> items;

		for (const auto &hash : hashes)
			items.push_back({pool->key(0, hash), pool->take(0), {}});
		return items;
	}
	void begin(Queue &queue, uint32_t n)
	{
		for (uint32_t i = 0; i < n; i++) {
			const uint64_t seed = rng() % 8;
			const Prefix prefix = prefix_of(*pool, prompt(seed, 3));
			Job *job = jobs.emplace_back(std::make_unique<Job>()).get();
			int err = 0;

			if (i % 16 == 0)
				pool->give_all();
			switch (rng() % 4) {
			case 0:
			case 1:
				err = queue.store(*job, *pool, unfilled(prefix.hashes),
						  rng() % 4);
				break;
			case 2: err = queue.prefetch(*job, prefix, rng() % 2); break;
			case 3:
				err = queue.erase(*job, {pool->key(0, prefix.hashes[0])});
				break;
			}
			ASSERT_TRUE(err == 0 || err == -EAGAIN) << err;
			if (rng() % 8 == 0)
				queue.poll();
		}
	}

	layouts::Rng rng;
	std::unique_ptr<Engine> engine;
	Desc desc;
	std::unique_ptr<Pool> pool;
	std::vector<std::unique_ptr<Job>> jobs; /* their arrays are the library's */
};

/* Also after what happened to it before. */
void check_works(Engine &engine, Queue &queue, Pool &pool)
{
	const auto hashes = prompt(1000, 4);

	pool.give_all();
	EXPECT_EQ(4u, store_prompt(queue, pool, hashes));
	EXPECT_EQ(4u, fetch_and_check(queue, pool, hashes));
	EXPECT_EQ(0u, engine.status().l1_leases);
}

std::vector<std::string> lively(const Dir &dir)
{
	return {"mem:size=1M", "fs:" + dir.path() + "/fs,size=256K"};
}

std::vector<std::string> hangs()
{
	return {"mem:size=1M", "fault:close,script=put x*:hang; get x*:hang; delete@3x*:hang,"
			       "next=mem:size=4M"};
}

TEST(Close, TheEngineWithAllInFlight)
{
	Dir dir;

	for (uint64_t seed = 0; seed < 100; seed++) {
		Busy busy(lively(dir), seed);
		kvh_queue *queues[2]; /* the engine's to free */

		for (auto &q : queues)
			ASSERT_EQ(0, kvh_queue_open(busy.engine->get(), 16, &q));
		Queue queue(*busy.engine, 16);
		busy.begin(queue, 24);
		kvh_queue_close(queues[0]);
		if (seed % 4 == 0)
			queue.close();
		else
			queue.forget();
		const uint64_t start = kvh_now_ns();
		EXPECT_EQ(0, busy.engine->close(seed % 2 ? 0 : 5 * SECOND)) << seed;
		EXPECT_LT(kvh_now_ns() - start, 5 * SECOND) << seed;
	}
}

TEST(Close, TheEngineWhileAnAdapterHangs)
{
	for (uint64_t seed = 0; seed < 20; seed++) {
		Busy busy(hangs(), seed);
		Queue queue(*busy.engine, 16);

		busy.begin(queue, 16);
		queue.forget();
		const uint64_t start = kvh_now_ns();
		EXPECT_EQ(0, busy.engine->close(0)) << seed;
		EXPECT_LT(kvh_now_ns() - start, 5 * SECOND) << seed;
	}
}

TEST(Close, AQueueWhileAnAdapterHangs)
{
	for (uint64_t seed = 0; seed < 20; seed++) {
		Busy busy(hangs(), seed);
		Queue queue(*busy.engine, 16), other(*busy.engine);

		busy.begin(queue, 16);
		queue.close();
		EXPECT_EQ(0u, busy.engine->status().jobs) << seed;
		EXPECT_EQ(0u, busy.engine->status().l1_leases) << seed;
		check_works(*busy.engine, other, *busy.pool);
	}
}

/* A queue whose store waits for a stream that is held: close waits for what is
 * on the device, nothing else does. */
TEST(Close, AQueueWithAHeldStream)
{
	Engine engine;
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine), other(engine);
	Stream stream(engine);
	std::atomic<bool> closed{false};
	std::vector<kvh_lease_t> leases;
	Job store, load;

	EXPECT_EQ(2u, store_prompt(queue, pool, prompt(1, 2)));
	EXPECT_EQ(2u, queue.lookup(prefix_of(pool, prompt(1, 2)), nullptr, &leases));
	stream.block(engine);
	ASSERT_EQ(0, queue.load(load, pool, leases,
				{{pool.key(0, hash_of(1, 0)), pool.take(0), {}}}, 0,
				stream.get()));
	ASSERT_EQ(0, queue.store(store, pool, make_items(pool, prompt(2, 2)), 0, stream.get()));
	std::thread thread([&] {
		queue.close();
		closed = true;
	});
	EXPECT_EQ(2u, other.lookup(prefix_of(pool, prompt(1, 2))));
	EXPECT_FALSE(closed);
	engine.release();
	thread.join();
	EXPECT_EQ(0u, engine.status().l1_leases);
	EXPECT_EQ(0u, engine.status().jobs);
	for (const int32_t status : store.status)
		EXPECT_TRUE(status == 0 || status == -ECANCELED) << status;
	EXPECT_EQ(std::vector<int32_t>(1, 0), load.status);
}

/* An adapter that does not even end at close: the memory is left, said so, and
 * the engine is gone. */
TEST(Close, AnAdapterThatKeepsABuffer)
{
	if (TSAN)
		GTEST_SKIP() << "ThreadSanitizer takes the device that is left for a leak";
	Engine engine({{"fault:keeps,script=put x*:hang=hard,next=mem:size=4M"}, 4 * MIB});
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	struct kvh_fault *fault = kvh_fault_find("keeps");
	Job store;
	Log log;

	ASSERT_EQ(0, queue.store(store, pool, make_items(pool, prompt(1, 3)),
				 KVH_STORE_PERSISTED));
	kvh_fault_wait_held(fault, 3);
	queue.forget();
	EXPECT_EQ(-ETIMEDOUT, engine.close(0));
	EXPECT_NE(0u, log.count("mapped")) << log.text();
	EXPECT_EQ(std::vector<int32_t>(3, 0), store.status);
}

/* ---- fork --------------------------------------------------------------- */

/* All that the calls of a child are given: made before the fork, as a child of
 * threads should not allocate. */
struct ForChild {
	ForChild(const Engine &engine, const Queue &queue, const Pool &pool, const Desc &desc)
	    : engine(engine.get()), queue(queue.get()),
	      space(desc.fields(groups)), chunk{pool.key(0, hash), {}, pages, 2, 0},
	      load_chunk{1, pages, 2, 0}, prefix{pool.space, &hash, 1, 0, 1, 1}, pool(pool.id)
	{
		kvh_store_opts_init(&store, sizeof(store));
		kvh_load_opts_init(&load, sizeof(load));
		kvh_prefetch_opts_init(&prefetch, sizeof(prefetch));
		kvh_pool_desc_init(&pool_desc, sizeof(pool_desc));
		status.size = sizeof(status);
		l2.size = sizeof(l2);
		health.size = sizeof(health);
	}

	kvh_engine *engine;
	kvh_queue *queue;
	std::vector<kvh_group_desc> groups;
	kvh_space_desc space;
	kvh_hash hash = hash_of(1, 1);
	uint32_t pages[2] = {0, 1};
	kvh_store_chunk chunk;
	kvh_load_chunk load_chunk;
	kvh_prefix prefix;
	kvh_pool_t pool;
	kvh_store_opts store;
	kvh_load_opts load;
	kvh_prefetch_opts prefetch;
	kvh_pool_desc pool_desc;
	kvh_status status = {};
	kvh_l2_status l2 = {};
	kvh_health health = {};
	kvh_snapshot *snapshot = nullptr;
};

/* Every call that has an engine: 0, or which one was not refused. */
int calls_in_child(ForChild &a)
{
	kvh_event event;
	kvh_lease_t lease = 1;
	kvh_queue *other;
	uint64_t value;
	char text[64];
	const int64_t results[] = {
		kvh_queue_fd(a.queue),
		kvh_queue_poll(a.queue, &event, 1),
		kvh_queue_wait(a.queue, &event, 1, UINT64_MAX),
		kvh_queue_open(a.engine, 1, &other),
		kvh_space_open(a.engine, &a.space, &value),
		kvh_space_chunk_bytes(a.engine, a.prefix.space, 0),
		kvh_pool_register(a.engine, &a.pool_desc, &value),
		kvh_pool_unregister(a.queue, a.pool, 0, &value),
		kvh_store(a.queue, a.pool, &a.chunk, 1, &a.store, nullptr, &value),
		kvh_lookup(a.queue, &a.prefix, 0, nullptr, nullptr, nullptr),
		kvh_prefetch(a.queue, &a.prefix, &a.prefetch, &lease, &value),
		kvh_load(a.queue, a.pool, &a.load_chunk, 1, &a.load, nullptr, &value),
		kvh_load_wait(a.queue, 1, 0, nullptr),
		kvh_release(a.engine, &lease, 1, nullptr),
		kvh_erase(a.queue, &a.chunk.key, 1, 0, nullptr, &value),
		kvh_cancel(a.queue, 1),
		kvh_status_get(a.engine, &a.status),
		kvh_l2_status_get(a.engine, 0, &a.l2),
		kvh_engine_set(a.engine, "watermark.low_pct", "80"),
		kvh_health_get(a.engine, &a.health),
		kvh_snapshot_take(a.engine, &a.snapshot),
		kvh_engine_get(a.engine, "device", text, sizeof(text)),
		kvh_engine_close(a.engine, UINT64_MAX),
	};

	kvh_queue_close(a.queue);
	for (size_t i = 0; i < sizeof(results) / sizeof(results[0]); i++)
		if (results[i] != -EPERM)
			return static_cast<int>(i) + 1;
	return 0;
}

TEST(Fork, CallsOfTheChildAreRefusedAndTheParentGoesOn)
{
	Engine engine({{"mem:size=16M"}, 4 * MIB});
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	ForChild args(engine, queue, pool, desc);

	for (uint64_t i = 0; i < 1000; i++) {
		Job job;
		int result = -1;

		pool.give_all();
		ASSERT_EQ(0, queue.store(job, pool, make_items(pool, prompt(i, 4)),
					 KVH_STORE_PERSISTED));
		const pid_t child = fork();
		if (child == 0)
			_exit(calls_in_child(args));
		ASSERT_GT(child, 0);
		ASSERT_EQ(child, waitpid(child, &result, 0));
		EXPECT_EQ(0, result) << "call " << WEXITSTATUS(result);
		EXPECT_EQ(4u, queue.finish(job).n_ok);
		EXPECT_EQ(4u, fetch_and_check(queue, pool, prompt(i, 4)));
	}
}

/* Without the handlers around fork some child finds the log's lock taken, by a
 * thread that it does not have, and hangs. */
TEST(Fork, AChildCanLogWhileTheParentDoes)
{
	Engine engine;
	std::atomic<bool> stop{false};

	kvh_log_set([](void *, kvh_log_level, const char *) {}, nullptr, KVH_LOG_WARN);
	std::thread logger([&] {
		while (!stop.load())
			kvh_warn("%d", 1);
	});
	for (int i = 0; i < 200; i++) {
		const pid_t child = fork();
		int result = -1;

		if (child == 0) {
			kvh_warn("%d", 2);
			_exit(0);
		}
		EXPECT_EQ(child, waitpid(child, &result, 0));
		EXPECT_EQ(0, result);
	}
	stop = true;
	logger.join();
	kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
}

TEST(Fork, AChildCanHaveAnEngineOfItsOwn)
{
	if (TSAN || ASAN)
		GTEST_SKIP() << "sanitizers do not let go of their locks in a fork";
	Engine engine;
	int result = -1;
	const pid_t child = fork();

	if (child == 0) {
		kvh_engine *own = nullptr;
		int bad = open_engine({{}, 2 * MIB}, &own);

		if (bad == 0) {
			kvh_queue *queue = nullptr;
			bad = kvh_queue_open(own, 1, &queue) || kvh_engine_close(own, 0);
		}
		_exit(bad != 0);
	}
	ASSERT_EQ(child, waitpid(child, &result, 0));
	EXPECT_EQ(0, result);
}

} // namespace
