/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine_layers_test.cc - kvh_store_layer: a store whose layers come one by one, late,
 * all at once, or never; and the options of stores that are live.
 */
#include "engine_harness.h"

#include <thread>

using namespace enginetest;

namespace
{

Desc five_layers()
{
	Sizes s = sizes(64);
	Desc desc;

	s.L = desc.layers = 5;
	desc.layout = layouts::dense("five", "pkthd", s, KVH_FORMAT_NATIVE);
	return desc;
}

class Layers : public testing::Test
{
      protected:
	explicit Layers(const Opts &opts = {})
	    : engine(opts), desc(five_layers()), space(engine.space(desc)),
	      pool(engine, desc.layout, space), queue(engine)
	{
		for (const auto &shape : desc.layout.groups[0].shapes)
			last = std::max(last, shape.layer);
	}
	/* Chunks whose pages are not computed yet. */
	std::vector<Item> items(uint32_t n)
	{
		std::vector<Item> made;

		for (const kvh_hash &hash : prompt(3, n))
			made.push_back({pool.key(0, hash), pool.take(0), {}});
		return made;
	}
	void compute(const std::vector<Item> &made, uint32_t layer)
	{
		for (const Item &item : made)
			pool.fill(item.key, item.pages, layer);
	}
	/* The layers from this one on: what was given is not touched any more. */
	void compute_from(const std::vector<Item> &made, uint32_t layer)
	{
		for (; layer <= last; layer++)
			compute(made, layer);
	}
	int give(const Job &job, uint32_t layer, kvh_stream stream = nullptr,
		 kvh_event_mark event = nullptr)
	{
		return kvh_store_layer(queue.get(), job.id, layer, stream, event);
	}
	/* Behind the first n layers. */
	void begin(Job &job, const std::vector<Item> &made, uint32_t n, uint32_t flags = 0)
	{
		ASSERT_EQ(0, queue.store(job, pool, made, KVH_STORE_LAYERS | flags));
		for (uint32_t layer = 0; layer < n; layer++) {
			compute(made, layer);
			ASSERT_EQ(0, give(job, layer));
		}
	}
	void expect_cancelled(const Job &job, const kvh_event &end)
	{
		EXPECT_EQ(-ECANCELED, end.status);
		EXPECT_EQ(0u, end.n_ok);
		for (int32_t status : job.status)
			EXPECT_EQ(-ECANCELED, status);
		EXPECT_EQ(0u, engine.status().l1_used_bytes);
	}

	Engine engine;
	Desc desc;
	kvh_space_t space;
	Pool pool;
	Queue queue;
	uint32_t last = 0;
};

TEST_F(Layers, AreStoredAsTheyAreComputed)
{
	const std::vector<Item> made = items(4);
	Job job;

	ASSERT_EQ(4u, last);
	begin(job, made, last + 1, KVH_STORE_PACKED);
	const kvh_event end = queue.finish(job);
	EXPECT_EQ(0, end.status);
	EXPECT_EQ(4u, end.n_ok);
	EXPECT_EQ(1u, job.count(KVH_EVENT_PACKED));
	EXPECT_EQ(-ENOENT, give(job, KVH_LAYER_ALL)); /* it has ended */
	EXPECT_EQ(4u, fetch_and_check(queue, pool, prompt(3, 4)));
}

TEST_F(Layers, AllAtOnceAndSomeLeftOut)
{
	const std::vector<Item> made = items(4);
	Job job;

	begin(job, made, 0);
	compute(made, KVH_LAYER_ALL);
	ASSERT_EQ(0, give(job, last));
	EXPECT_EQ(4u, queue.finish(job).n_ok);
	EXPECT_EQ(4u, fetch_and_check(queue, pool, prompt(3, 4)));
}

TEST_F(Layers, WaitForTheirOrderPoint)
{
	const std::vector<Item> made = items(2);
	Stream stream(engine);
	Job job;

	stream.block(engine); /* while nothing else copies */
	begin(job, made, 1);
	ASSERT_EQ(0, give(job, KVH_LAYER_ALL, nullptr, stream.mark()));
	queue.poll();
	EXPECT_FALSE(job.done());
	compute_from(made, 1); /* what the stream waits for */
	engine.release();
	EXPECT_EQ(2u, queue.finish(job).n_ok);
	EXPECT_EQ(2u, fetch_and_check(queue, pool, prompt(3, 2)));
}

TEST_F(Layers, ThatDoNotComeHoldUpNobody)
{
	const std::vector<Item> made = items(2);
	Job job, again;

	begin(job, made, 1);
	EXPECT_EQ(3u, store_prompt(queue, pool, prompt(8, 3)));
	EXPECT_EQ(3u, fetch_and_check(queue, pool, prompt(8, 3)));
	EXPECT_FALSE(job.done());
	EXPECT_EQ(0u, queue.lookup(prefix_of(pool, prompt(3, 2)))); /* not whole */
	/* They are being made: who asks is told, and the store is done at once. */
	ASSERT_EQ(0, queue.store(again, pool, made, KVH_STORE_LAYERS));
	EXPECT_EQ(0, queue.finish(again).status);
	EXPECT_EQ(-EINPROGRESS, again.status[0]);
	EXPECT_EQ(-ENOENT, give(again, KVH_LAYER_ALL));
	compute_from(made, 1);
	ASSERT_EQ(0, give(job, KVH_LAYER_ALL));
	EXPECT_EQ(2u, queue.finish(job).n_ok);
	EXPECT_EQ(2u, fetch_and_check(queue, pool, prompt(3, 2)));
}

TEST_F(Layers, WrongCalls)
{
	const std::vector<Item> made = items(2),
				more = {{pool.key(0, hash_of(9, 0)), pool.take(0), {}}};
	Stream stream(engine);
	Log log;
	Job job, plain;

	EXPECT_EQ(-EINVAL, queue.store(job, pool, made, KVH_STORE_LAYERS, stream.get()));
	EXPECT_EQ(-EINVAL,
		  queue.store(job, pool, made, KVH_STORE_LAYERS, nullptr, stream.mark()));
	EXPECT_EQ(2u, log.count("allowed: none"));
	EXPECT_EQ(0u, engine.status().l1_used_bytes);
	begin(job, made, 0);
	ASSERT_EQ(0, give(job, 1));
	EXPECT_EQ(0, give(job, 1)); /* nothing new */
	EXPECT_EQ(-EINVAL, give(job, 0));
	EXPECT_EQ(1u, log.count("layers up to 0 of a store, after those up to 1"));
	EXPECT_EQ(-EINVAL, give(job, KVH_LAYER_ALL, stream.get(), stream.mark()));
	kvh_host_set_capturing(engine.dev(), stream.get(), true);
	EXPECT_EQ(-EBUSY, give(job, KVH_LAYER_ALL, stream.get()));
	kvh_host_set_capturing(engine.dev(), stream.get(), false);
	ASSERT_EQ(0, queue.store(plain, pool, more));
	EXPECT_EQ(-ENOENT, give(plain, 0));
	EXPECT_EQ(-ENOENT, kvh_store_layer(queue.get(), job.id ^ 1, 0, nullptr, nullptr));
	EXPECT_EQ(-ENOENT, kvh_store_layer(queue.get(), KVH_NONE, 0, nullptr, nullptr));
	EXPECT_EQ(1u, queue.finish(plain).n_ok);
	EXPECT_EQ(0, give(job, KVH_LAYER_ALL));
	EXPECT_EQ(2u, queue.finish(job).n_ok);
	EXPECT_EQ(-ENOENT, give(plain, 0));
}

/* ---- the end without all layers ---------------------------------------- */

TEST_F(Layers, Cancel)
{
	for (uint32_t n = 0; n <= last; n++) {
		pool.give_all();
		const std::vector<Item> made = items(3);
		Job job;

		begin(job, made, n);
		ASSERT_EQ(0, kvh_cancel(queue.get(), job.id));
		expect_cancelled(job, queue.finish(job));
	}
}

TEST_F(Layers, Unregister)
{
	const std::vector<Item> made = items(3);
	Job job, gone;

	begin(job, made, 1);
	ASSERT_EQ(0, queue.unregister(gone, pool));
	expect_cancelled(job, queue.finish(job));
	EXPECT_EQ(0, queue.finish(gone).status);
}

TEST_F(Layers, QueueClose)
{
	const std::vector<Item> made = items(3);
	Job job;

	begin(job, made, 1);
	queue.close();
	EXPECT_EQ(0u, engine.status().jobs);
	EXPECT_EQ(0u, engine.status().l1_used_bytes);
}

/* What lacks layers does not make close wait for what is drained: that has no end
 * here. What has them is finished. */
TEST_F(Layers, EngineClose)
{
	std::vector<Item> made = items(4);
	const std::vector<Item> rest(made.begin() + 2, made.end());
	Job lacks, has;

	made.resize(2);
	begin(lacks, made, 1);
	begin(has, rest, last + 1);
	queue.forget();
	EXPECT_EQ(0, engine.close(UINT64_MAX));
	for (int32_t status : lacks.status)
		EXPECT_EQ(-ECANCELED, status);
	for (int32_t status : has.status)
		EXPECT_EQ(0, status);
}

TEST_F(Layers, ADeadDevice)
{
	const std::vector<Item> made = items(3);
	Stream stream(engine);
	char byte = 0;
	Job job;

	begin(job, made, 0);
	engine.fail(KVH_HOST_COPY, 1, EIO);
	stream.copy(&byte, &byte, 1);
	const kvh_event end = queue.finish(job);
	EXPECT_EQ(-EIO, end.status);
	EXPECT_EQ(0u, end.n_ok);
	EXPECT_EQ(-ENOENT, give(job, KVH_LAYER_ALL));
	EXPECT_EQ(0u, engine.status().l1_used_bytes);
}

/* ---- PERSISTED --------------------------------------------------------- */

struct MemBelow : Layers {
	MemBelow() : Layers({{"mem:"}})
	{
	}
};

TEST_F(MemBelow, PersistedComesAfterTheLastLayer)
{
	const std::vector<Item> made = items(3);
	Job job;

	begin(job, made, last, KVH_STORE_PERSISTED);
	queue.poll();
	EXPECT_TRUE(job.events.empty());
	compute(made, last);
	ASSERT_EQ(0, give(job, last));
	EXPECT_EQ(3u, queue.finish(job).n_ok);
	EXPECT_EQ(1u, job.count(KVH_EVENT_PERSISTED));
	engine.evict();
	EXPECT_EQ(3u, fetch_and_check(queue, pool, prompt(3, 3)));
}

/* ---- live options ------------------------------------------------------ */

/* At a byte a second the second stage never comes, and loads do; without a cap it
 * comes. */
TEST_F(Layers, TheStoreRateIsLive)
{
	const std::vector<Item> made = items(12);
	Job job;
	char value[32];

	EXPECT_EQ(3u, store_prompt(queue, pool, prompt(8, 3)));
	const uint64_t before = kvh_host_count(engine.dev(), KVH_HOST_GATHER);
	ASSERT_EQ(0, kvh_engine_set(engine.get(), "gpu.store_rate", "1"));
	ASSERT_LT(0, kvh_engine_get(engine.get(), "gpu.store_rate", value, sizeof(value)));
	EXPECT_STREQ("1", value);
	compute(made, KVH_LAYER_ALL);
	begin(job, made, 0);
	ASSERT_EQ(0, give(job, 0));
	while (kvh_host_count(engine.dev(), KVH_HOST_GATHER) == before)
		std::this_thread::yield();
	ASSERT_EQ(0, give(job, KVH_LAYER_ALL));
	EXPECT_EQ(3u, fetch_and_check(queue, pool, prompt(8, 3)));
	EXPECT_FALSE(job.done());
	EXPECT_EQ(before + 1, kvh_host_count(engine.dev(), KVH_HOST_GATHER));
	ASSERT_EQ(0, kvh_engine_set(engine.get(), "gpu.store_rate", "0"));
	EXPECT_EQ(12u, queue.finish(job).n_ok);
}

TEST_F(Layers, TheSpinIsLive)
{
	ASSERT_EQ(0, kvh_engine_set(engine.get(), "gpu.spin", "1s"));
	EXPECT_EQ(3u, store_prompt(queue, pool, prompt(8, 3)));
	EXPECT_EQ(3u, fetch_and_check(queue, pool, prompt(8, 3)));
	ASSERT_EQ(0, kvh_engine_set(engine.get(), "gpu.spin", "0ns"));
	EXPECT_EQ(-EINVAL, kvh_engine_set(engine.get(), "gpu.spin", "1"));
}

} // namespace
