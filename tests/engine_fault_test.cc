// SPDX-License-Identifier: Apache-2.0
//
// Devices that fail: every call of one kind, one after the other, refused at the
// call or broken on the stream; and what is left when a device has died. What a
// job says is held against the bytes that are there.
#include "engine_harness.h"

#include <poll.h>

using namespace enginetest;

namespace
{

/* ---- calls that are refused --------------------------------------------- */

/* The n-th call of a kind fails, for every n that a store and a load get to. */
class Refused : public testing::TestWithParam<kvh_host_call>
{
};

/* Every chunk that is said to be stored can be loaded, byte by byte, and every
 * load that is said to have ended well has. Whether the rule was hit. */
bool run_with_rule(kvh_host_call call, uint64_t nth)
{
	Engine engine({{"mem:size=16M"}, 4 * MIB});
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	Stream stream(engine);
	const auto hashes = prompt(nth, 3);
	const auto items = make_items(pool, hashes);
	std::vector<kvh_lease_t> leases;
	uint64_t failed = 0;
	Job store, load;
	Log log;

	engine.fail(call, nth, ENOMEM);
	int err = queue.store(store, pool, items, KVH_STORE_PERSISTED, stream.get());
	if (err == 0) {
		const kvh_event end = queue.finish(store);

		for (const int32_t status : store.status)
			EXPECT_TRUE(status == 0 || status == -EIO) << status;
		EXPECT_EQ(std::count(store.status.begin(), store.status.end(), 0), end.n_ok);
		failed += end.status != 0;
	} else {
		EXPECT_TRUE(err == -ENOMEM) << err;
		EXPECT_EQ(0u, engine.status().l1_used_bytes);
		EXPECT_EQ(0u, engine.status().jobs);
		failed++;
	}
	const uint32_t usable = queue.lookup(prefix_of(pool, hashes), nullptr, &leases);
	leases.resize(usable);
	if (usable > 0) {
		std::vector<Item> to(items.begin(), items.begin() + usable);

		for (auto &item : to)
			item.pages = pool.take(0);
		err = queue.load(load, pool, leases, to, 0, stream.get());
		if (err == 0 && queue.finish(load).status == 0) {
			for (const auto &item : to)
				EXPECT_TRUE(pool.holds(item.key, item.pages));
		} else {
			EXPECT_TRUE(err == -ENOMEM || load.status[0] == -EIO ||
				    load.status.back() == -EIO);
			failed++;
		}
		if (load.done()) {
			EXPECT_EQ(0u, load.events.back().flags);
		}
		EXPECT_EQ(0, queue.release(leases));
	}
	/* The device lives, and with the rule used up all is well again. */
	engine.release();
	EXPECT_EQ(4u, store_prompt(queue, pool, prompt(1000 + nth, 4)));
	EXPECT_EQ(4u, fetch_and_check(queue, pool, prompt(1000 + nth, 4)));
	EXPECT_EQ(0u, engine.status().l1_leases);
	EXPECT_EQ(0u, engine.status().jobs);
	return failed > 0;
}

TEST_P(Refused, NothingIsLostOrWrong)
{
	uint64_t hit = 0, idle = 0;

	for (uint64_t nth = 1; idle < 3; nth++) {
		SCOPED_TRACE("call " + std::to_string(nth));
		ASSERT_LT(nth, 400u);
		const bool failed = run_with_rule(GetParam(), nth);

		hit += failed;
		idle = failed ? 0 : idle + 1;
	}
	EXPECT_GT(hit, 0u);
}

INSTANTIATE_TEST_SUITE_P(Fault, Refused,
			 testing::Values(KVH_HOST_ENQUEUE, KVH_HOST_EVENT_CREATE,
					 KVH_HOST_MEM_ALLOC, KVH_HOST_HOST_ALLOC),
			 [](const auto &info) {
				 switch (info.param) {
				 case KVH_HOST_ENQUEUE: return "enqueue";
				 case KVH_HOST_EVENT_CREATE: return "event_create";
				 case KVH_HOST_MEM_ALLOC: return "mem_alloc";
				 default: return "host_alloc";
				 }
			 });

TEST(Fault, APoolWithoutDeviceMemory)
{
	Engine engine;
	Desc desc;
	const kvh_space_t space = engine.space(desc);
	Pool pool(engine, desc.layout, space);
	const kvh_pool_t id = pool.id;
	int ok = 0;

	for (uint64_t nth = 1; ok < 3; nth++) {
		Log log;

		engine.fail(KVH_HOST_MEM_ALLOC, nth, ENOMEM);
		const int err = pool.add(engine.get());
		EXPECT_TRUE(err == 0 || err == -ENOMEM) << err;
		ok += err == 0;
		engine.release();
		ASSERT_LT(nth, 100u);
	}
	EXPECT_GE(pool.id, id + 3);
	Queue queue(engine);
	EXPECT_EQ(2u, store_prompt(queue, pool, prompt(1, 2)));
	EXPECT_EQ(2u, fetch_and_check(queue, pool, prompt(1, 2)));
}

/* ---- devices that die --------------------------------------------------- */

/* A context error at the n-th thing that a stream does: of a store and a load
 * that run together. */
class Dies : public testing::TestWithParam<kvh_host_call>
{
};

/* long: one story, of which every step needs what came before. */
bool die(kvh_host_call call, uint64_t nth)
{
	Dir dir;
	Engine engine({{"mem:size=16M", "fs:" + dir.path() + "/fs"}, 4 * MIB});
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	Stream stream(engine);
	const Prefix known = prefix_of(pool, prompt(1, 3));
	std::vector<kvh_lease_t> all, leases;
	Job store, load, prefetch, erase, unregister, none;
	Log log;

	EXPECT_EQ(3u, store_prompt(queue, pool, known.hashes, KVH_STORE_PERSISTED));
	EXPECT_EQ(3u, queue.lookup(known, nullptr, &all));
	const auto to = leased_items(pool, known, all, &leases);
	const auto items = make_items(pool, prompt(2, 3));
	engine.fail(call, nth, EIO);
	EXPECT_EQ(0, queue.store(store, pool, items, KVH_STORE_PERSISTED, stream.get()));
	const int err = queue.load(load, pool, leases, to, KVH_LOAD_RELEASE, stream.get());
	const kvh_event stored = queue.finish(store);
	kvh_event loaded = {};
	if (err == 0) {
		loaded = queue.finish(load);
	} else { /* it was dead already */
		EXPECT_EQ(-ENODEV, err);
		EXPECT_EQ(0, queue.release(leases));
		loaded.status = -EIO;
		loaded.flags = KVH_EVENT_PAGES_LOST;
	}
	const bool dead = engine.dev()->ops->dead(engine.dev());

	for (const int32_t status : store.status)
		EXPECT_TRUE(status == 0 || (dead && status == -EIO)) << status;
	EXPECT_EQ(std::count(store.status.begin(), store.status.end(), 0), stored.n_ok);
	EXPECT_EQ(stored.n_ok, queue.lookup(prefix_of(pool, prompt(2, 3))));
	if (loaded.status == 0) {
		EXPECT_EQ(0u, loaded.flags);
		for (const auto &item : to)
			EXPECT_TRUE(pool.holds(item.key, item.pages));
	} else {
		EXPECT_TRUE(dead);
		EXPECT_EQ(-EIO, loaded.status);
		EXPECT_EQ(KVH_EVENT_PAGES_LOST, loaded.flags);
	}
	EXPECT_EQ(0u, stored.flags);
	EXPECT_EQ(0u, engine.status().l1_leases); /* released, however it ended */
	if (!dead)
		return false;

	/* L1 and L2 go on; the device is refused. */
	EXPECT_EQ(3u, queue.lookup(known));
	engine.drain();
	engine.evict();
	EXPECT_EQ(0, queue.prefetch(prefetch, known));
	EXPECT_EQ(3u, queue.finish(prefetch).usable);
	EXPECT_EQ(-ENODEV, queue.store(none, pool, items));
	EXPECT_EQ(-ENODEV, queue.load(none, pool, prefetch.leases, to));
	EXPECT_EQ(-ENODEV, pool.add(engine.get()));
	EXPECT_GT(engine.status().device_errors, 0u);
	EXPECT_EQ(0, queue.erase(erase, {to[0].key}));
	EXPECT_EQ(0, queue.finish(erase).status);
	EXPECT_EQ(0, queue.release(prefetch.leases));
	EXPECT_EQ(0, queue.unregister(unregister, pool));
	EXPECT_EQ(0, queue.finish(unregister).status);
	queue.close();
	EXPECT_EQ(0u, engine.status().jobs);
	return true;
}

TEST_P(Dies, TheRestGoesOn)
{
	uint64_t nth = 1;

	for (; die(GetParam(), nth); nth++)
		ASSERT_LT(nth, 200u);
	EXPECT_GT(nth, 1u);
}

INSTANTIATE_TEST_SUITE_P(Fault, Dies,
			 testing::Values(KVH_HOST_COPY, KVH_HOST_GATHER, KVH_HOST_SCATTER,
					 KVH_HOST_RECORD, KVH_HOST_WAIT_EVENT),
			 [](const auto &info) {
				 switch (info.param) {
				 case KVH_HOST_COPY: return "copy";
				 case KVH_HOST_GATHER: return "gather";
				 case KVH_HOST_SCATTER: return "scatter";
				 case KVH_HOST_RECORD: return "record";
				 default: return "wait_event";
				 }
			 });

TEST(Fault, ALoadWaitOnADeadDevice)
{
	Engine engine;
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	Stream stream(engine);
	std::vector<kvh_lease_t> leases;
	Job load;
	Log log;

	EXPECT_EQ(1u, store_prompt(queue, pool, prompt(1, 1)));
	EXPECT_EQ(1u, queue.lookup(prefix_of(pool, prompt(1, 1)), nullptr, &leases));
	engine.hold(KVH_HOST_SCATTER, 2, 1); /* of layer 1 */
	engine.fail(KVH_HOST_SCATTER, 2, EIO);
	ASSERT_EQ(0, queue.load(load, pool, leases,
				{{pool.key(0, hash_of(1, 0)), pool.take(0), {}}},
				KVH_LOAD_RELEASE));
	kvh_host_held_wait(engine.dev(), 1);
	EXPECT_EQ(0, kvh_load_wait(queue.get(), load.id, 0, stream.get()));
	engine.release();
	struct pollfd fd = {kvh_queue_fd(queue.get()), POLLIN, 0};
	EXPECT_EQ(1, poll(&fd, 1, -1)); /* it has ended, and was not polled */
	EXPECT_EQ(-EIO, kvh_load_wait(queue.get(), load.id, 0, stream.get()));
	EXPECT_EQ(-EIO, kvh_load_wait(queue.get(), load.id, 1, stream.get()));
	EXPECT_EQ(-EIO, queue.finish(load).status);
	EXPECT_EQ(KVH_EVENT_PAGES_LOST, load.events.back().flags);
	EXPECT_EQ(-ENOENT, kvh_load_wait(queue.get(), load.id, 0, stream.get()));
}

/* Close with work on a device that dies meanwhile. */
TEST(Fault, CloseOfADeadDevice)
{
	for (int i = 0; i < 20; i++) {
		Engine engine({{"mem:size=16M"}, 4 * MIB});
		Desc desc;
		Pool pool(engine, desc.layout, engine.space(desc));
		Queue queue(engine);
		Stream stream(engine);
		Job jobs[4];
		Log log;

		engine.fail(KVH_HOST_GATHER, 1 + static_cast<uint64_t>(i) % 5, EIO);
		for (uint64_t j = 0; j < 4; j++) {
			const int err = queue.store(jobs[j], pool,
						    make_items(pool, prompt(j, 2)),
						    KVH_STORE_PERSISTED, stream.get());
			EXPECT_TRUE(err == 0 || err == -ENODEV) << err;
		}
		queue.close();
		EXPECT_EQ(0u, engine.status().jobs);
	}
}

} // namespace
