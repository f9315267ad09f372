// SPDX-License-Identifier: Apache-2.0
//
// Order points and events: pages are read when the stream got there and not
// before, a chunk is found when its last copy was done and not before, a layer
// may be read when its event fired. Each guard with its negative control: the
// same run on a device that lies, in which the check has to fail.
#include "engine_harness.h"
#include "sanitizers.h"

using namespace enginetest;

namespace
{

class Order : public testing::Test
{
      protected:
	Order() : pool(engine, desc.layout, engine.space(desc)), queue(engine), stream(engine)
	{
	}
	~Order() override
	{
		engine.release();
	}
	/* One chunk whose bytes the model is about to write: the pool holds others,
	 * and `image` what the stream will copy to it. */
	Item coming(uint64_t i)
	{
		const Item item = {pool.key(0, hash_of(1, i)), pool.take(0), {}};

		image = pool.memory.all();
		pool.expect(image, item.key, item.pages);
		return item;
	}
	void model_writes()
	{
		for (size_t i = 0; i < image.size(); i++) {
			const auto &alloc = pool.memory.allocs()[i];
			auto *base = static_cast<unsigned char *>(alloc.base);
			const auto at = static_cast<size_t>(base - pool.memory.all()[i].data());

			stream.copy(base, image[i].data() + at, alloc.bytes);
		}
	}
	/* What L1 has for the key, loaded to other pages: as it has to be? */
	bool good(const Item &item)
	{
		std::vector<kvh_lease_t> leases;
		const Item to = {item.key, pool.take(0), {}};
		Job load;

		EXPECT_EQ(1u, queue.lookup({pool.space, {item.key.hash}}, nullptr, &leases));
		EXPECT_EQ(0, queue.load(load, pool, leases, {to}, KVH_LOAD_RELEASE));
		EXPECT_EQ(0, queue.finish(load).status);
		return pool.holds(to.key, to.pages);
	}
	bool found(const Item &item)
	{
		return queue.lookup({pool.space, {item.key.hash}}) != 0;
	}

	Desc desc;
	Engine engine;
	Pool pool;
	Queue queue;
	Stream stream;
	std::vector<Bytes> image;
};

/* ---- the order point of a store ----------------------------------------- */

TEST_F(Order, AStoreReadsBehindItsStream)
{
	const Item item = coming(0);
	Job job;

	stream.block(engine);
	model_writes();
	ASSERT_EQ(0, queue.store(job, pool, {item}, KVH_STORE_PACKED, stream.get()));
	EXPECT_FALSE(found(item));
	EXPECT_EQ(std::vector<int32_t>(1, KVH_PENDING), job.status);
	queue.poll();
	EXPECT_TRUE(job.events.empty());
	engine.release();
	EXPECT_EQ(1u, queue.finish(job).n_ok);
	EXPECT_EQ(std::vector<int32_t>(1, 0), job.status);
	EXPECT_TRUE(good(item));
}

TEST_F(Order, AStoreReadsBehindItsEvent)
{
	const Item item = coming(0);
	Job job;

	stream.block(engine);
	model_writes();
	ASSERT_EQ(0, queue.store(job, pool, {item}, 0, nullptr, stream.mark()));
	EXPECT_FALSE(found(item));
	queue.poll();
	EXPECT_TRUE(job.events.empty());
	engine.release();
	EXPECT_EQ(1u, queue.finish(job).n_ok);
	EXPECT_TRUE(good(item));
}

/* Recorded before the call returns: what the stream gets later is not waited
 * for, nor does it count that the event is recorded again. */
TEST_F(Order, TheOrderPointIsThatOfTheCall)
{
	const Item item = coming(0), second = {pool.key(0, hash_of(1, 1)), item.pages, {}};
	Stream held(engine);
	Job by_stream, by_event;

	held.block(engine);
	pool.fill(item.key, item.pages);
	ASSERT_EQ(0, queue.store(by_stream, pool, {item}, 0, stream.get()));
	ASSERT_EQ(0, queue.store(by_event, pool, {second}, 0, nullptr, stream.mark()));
	stream.wait_for(held.mark());
	stream.mark();
	EXPECT_EQ(1u, queue.finish(by_stream).n_ok);
	EXPECT_EQ(1u, queue.finish(by_event).n_ok);
	EXPECT_FALSE(stream.reached());
	EXPECT_TRUE(good(item));
	engine.release();
	stream.wait();
}

TEST_F(Order, ControlWithoutTheWaitOldBytesAreStored)
{
	CONTROL_IS_A_DATA_RACE();
	static uint64_t times;
	/* Bytes of its own, each time: the copy does not wait for the gather either,
	 * and in memory used again it would find those of the time before. */
	const Item item = coming(1000 + times++);
	Job job;

	stream.block(engine);
	model_writes();
	engine.lie(KVH_HOST_WAIT_EVENT);
	ASSERT_EQ(0, queue.store(job, pool, {item}, 0, stream.get()));
	EXPECT_EQ(1u, queue.finish(job).n_ok); /* it did not wait */
	engine.release();
	stream.wait();
	EXPECT_FALSE(good(item)) << "the test would not see that the wait is missing";
}

/* ---- publishing --------------------------------------------------------- */

/* Whether nothing is found while a store's own device work is held. */
class Publish : public Order, public testing::WithParamInterface<kvh_host_call>
{
      protected:
	Job job;
	Item item;

	void held_store()
	{
		item = coming(0);
		pool.fill(item.key, item.pages);
		engine.hold(GetParam(), GetParam() == KVH_HOST_COPY ? 2 : 1);
		ASSERT_EQ(0, queue.store(job, pool, {item}, KVH_STORE_PACKED));
		kvh_host_held_wait(engine.dev(), 1);
	}
};

TEST_P(Publish, NothingIsFoundBeforeItsCopyIsDone)
{
	std::vector<uint8_t> where;
	Job again, prefetch;

	held_store();
	EXPECT_EQ(0u, queue.lookup({pool.space, {item.key.hash}}, &where));
	EXPECT_EQ(0, where[0]);
	EXPECT_EQ(std::vector<int32_t>(1, KVH_PENDING), job.status);
	queue.poll();
	EXPECT_TRUE(job.events.empty());
	/* Another store of the key is told so; a prefetch waits for this one. */
	ASSERT_EQ(0, queue.store(again, pool, {item}));
	EXPECT_EQ(0, queue.finish(again).status);
	EXPECT_EQ(std::vector<int32_t>(1, -EINPROGRESS), again.status);
	ASSERT_EQ(0, queue.prefetch(prefetch, {pool.space, {item.key.hash}}));
	queue.poll();
	EXPECT_FALSE(prefetch.done());
	engine.release();
	EXPECT_EQ(1u, queue.finish(job).n_ok);
	EXPECT_EQ(KVH_EVENT_PACKED, job.events[0].type);
	EXPECT_EQ(1u, queue.finish(prefetch).usable);
	EXPECT_EQ(0, queue.release(prefetch.leases));
	EXPECT_TRUE(good(item));
}

TEST_P(Publish, ControlAQueryThatLiesPublishesTooEarly)
{
	CONTROL_IS_A_DATA_RACE();
	engine.lie(KVH_HOST_QUERY);
	held_store();
	EXPECT_EQ(1u, queue.finish(job).n_ok);
	EXPECT_TRUE(found(item)) << "the test would not see that nobody asks the event";
	/* The bytes are not there, and a load cannot know. */
	const kvh_frame frame = [&] {
		kvh_frame f = 0;
		EXPECT_EQ(0, kvh_l1_hold_key(engine.get()->l1, &item.key, &f));
		return f;
	}();
	const auto *payload = static_cast<const unsigned char *>(
				      kvh_l1_data(engine.get()->l1, frame)) +
			      KVH_FRAME_ALIGN;
	bool same = true;
	for (uint64_t i = 0; i < 3072; i++)
		same &= payload[i] == byte_of(item.key, i);
	EXPECT_FALSE(same);
	engine.release();
	/* What the mover's streams run behind it, and honestly, ends after it: until
	 * then the pool must not go. */
	Job behind;
	ASSERT_EQ(0, queue.store(behind, pool, {coming(1)}));
	EXPECT_EQ(1u, queue.finish(behind).n_ok);
	kvh_l1_unhold(engine.get()->l1, frame);
}

INSTANTIATE_TEST_SUITE_P(Order, Publish, testing::Values(KVH_HOST_GATHER, KVH_HOST_COPY),
			 [](const auto &info) {
				 return info.param == KVH_HOST_COPY ? "copy" : "gather";
			 });

TEST_F(Order, AStoreThatWaitsIsNotOvertaken)
{
	const Item first = coming(0);
	const Item second = coming(1);
	Job a, b;

	pool.fill(second.key, second.pages);
	stream.block(engine);
	ASSERT_EQ(0, queue.store(a, pool, {first}, 0, stream.get()));
	ASSERT_EQ(0, queue.store(b, pool, {second}));
	EXPECT_FALSE(found(first));
	engine.release();
	EXPECT_EQ(1u, queue.finish(b).n_ok);
	EXPECT_TRUE(a.done());
	EXPECT_TRUE(good(second));
}

/* ---- loads -------------------------------------------------------------- */

class LoadOrder : public Order
{
      protected:
	Item to;
	Job load;
	std::vector<kvh_lease_t> leases;

	void SetUp() override
	{
		EXPECT_EQ(1u, store_prompt(queue, pool, prompt(1, 1)));
		EXPECT_EQ(1u, queue.lookup(prefix_of(pool, prompt(1, 1)), nullptr, &leases));
		to = {pool.key(0, hash_of(1, 0)), pool.take(0), {}};
	}
	void start(kvh_stream order = nullptr)
	{
		ASSERT_EQ(0, queue.load(load, pool, leases, {to}, KVH_LOAD_RELEASE, order));
	}
};

TEST_F(LoadOrder, PagesAreWrittenBehindTheOrderPoint)
{
	const auto before = pool.memory.all();

	stream.block(engine);
	start(stream.get());
	queue.poll();
	EXPECT_FALSE(load.done());
	EXPECT_TRUE(before == pool.memory.all()) << "written before the stream got there";
	engine.release();
	EXPECT_EQ(0, queue.finish(load).status);
	EXPECT_TRUE(pool.holds(to.key, to.pages));
}

TEST_F(LoadOrder, ControlWithoutTheWaitPagesAreWrittenAtOnce)
{
	CONTROL_IS_A_DATA_RACE();
	const auto before = pool.memory.all();

	stream.block(engine);
	engine.lie(KVH_HOST_WAIT_EVENT);
	start(stream.get());
	EXPECT_EQ(0, queue.finish(load).status);
	EXPECT_FALSE(before == pool.memory.all())
		<< "the test would not see that the wait is missing";
}

/* Layer 0 can be read while layer 1 is held. */
TEST_F(LoadOrder, ALayerCanBeReadWhenItIsThere)
{
	Stream second(engine);

	engine.hold(KVH_HOST_SCATTER, 2);
	start();
	ASSERT_EQ(0, kvh_load_wait(queue.get(), load.id, 0, stream.get()));
	ASSERT_EQ(0, kvh_load_wait(queue.get(), load.id, 1, second.get()));
	second.mark();
	stream.wait();
	EXPECT_TRUE(pool.holds(to.key, to.pages, 0));
	EXPECT_FALSE(pool.holds(to.key, to.pages, 1));
	kvh_host_held_wait(engine.dev(), 1);
	EXPECT_FALSE(second.reached());
	queue.poll();
	EXPECT_FALSE(load.done());
	engine.release();
	second.wait();
	EXPECT_TRUE(pool.holds(to.key, to.pages, 1));
	EXPECT_EQ(0, queue.finish(load).status);
}

TEST_F(LoadOrder, ControlALayerThatIsNotWaitedFor)
{
	CONTROL_IS_A_DATA_RACE();
	engine.hold(KVH_HOST_SCATTER, 1);
	start();
	kvh_host_held_wait(engine.dev(), 1);
	engine.lie(KVH_HOST_WAIT_EVENT);
	ASSERT_EQ(0, kvh_load_wait(queue.get(), load.id, 0, stream.get()));
	stream.wait();
	EXPECT_FALSE(pool.holds(to.key, to.pages, 0))
		<< "the test would not see that the wait is missing";
	engine.release();
	EXPECT_EQ(0, queue.finish(load).status);
	EXPECT_TRUE(pool.holds(to.key, to.pages));
}

/* Leases may go while the load runs: the frame stays until it has ended. */
TEST_F(LoadOrder, AFrameUnderALoadIsNotReused)
{
	const Prefix prefix = prefix_of(pool, prompt(1, 1));

	stream.block(engine);
	start(stream.get());
	EXPECT_EQ(0, queue.release(leases));
	engine.evict();
	EXPECT_EQ(1u, engine.status().l1_frames);
	Job erase;
	ASSERT_EQ(0, queue.erase(erase, {to.key}));
	EXPECT_EQ(0, queue.finish(erase).status);
	EXPECT_EQ(0u, queue.lookup(prefix));
	EXPECT_EQ(1u, engine.status().l1_doomed);
	engine.release();
	EXPECT_EQ(0, queue.finish(load).status);
	EXPECT_TRUE(pool.holds(to.key, to.pages));
	EXPECT_EQ(0u, engine.status().l1_used_bytes);
}

} // namespace
