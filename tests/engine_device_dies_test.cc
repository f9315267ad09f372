// SPDX-License-Identifier: Apache-2.0
//
// engine_device_dies_test.cc - one of several devices dies, at each of its calls: it
// takes nothing with it that is not its own. In the last round of each the fault does
// not come: that all is well then is the control.
#include "engine_devices_rig.h"

using namespace enginetest;

namespace
{

kvh_health health(const Engine &engine)
{
	kvh_health h{};

	h.size = sizeof(h);
	EXPECT_EQ(0, kvh_health_get(engine.get(), &h));
	return h;
}

/* A store of new chunks and a load of known ones, under way on one side. */
struct Work {
	Side &side;
	const Prefix known;
	std::vector<Item> items, to;
	std::vector<kvh_lease_t> leases;
	Job store, load;
	int store_err = 0, load_err = 0;

	explicit Work(Side &side)
	    : side(side), known(prefix_of(side.pool, prompt(10 + side.index, 3)))
	{
		std::vector<kvh_lease_t> all;

		EXPECT_EQ(3u, store_prompt(side.queue, side.pool, known.hashes,
					   KVH_STORE_PERSISTED));
		EXPECT_EQ(3u, side.queue.lookup(known, nullptr, &all));
		to = leased_items(side.pool, known, all, &leases);
		items = make_items(side.pool, prompt(20 + side.index, 3));
	}
	void start()
	{
		store_err = side.queue.store(store, side.pool, items, KVH_STORE_PERSISTED,
					     side.stream.get());
		load_err = side.queue.load(load, side.pool, leases, to, KVH_LOAD_RELEASE,
					   side.stream.get());
	}
	void finish()
	{
		if (store_err == 0)
			side.queue.finish(store);
		if (load_err == 0)
			side.queue.finish(load);
		else
			EXPECT_EQ(0, side.queue.release(leases));
	}
	/* As if there were no other device. */
	void expect_well()
	{
		ASSERT_EQ(0, store_err);
		ASSERT_EQ(0, load_err);
		EXPECT_EQ(0, store.events.back().status);
		EXPECT_EQ(3u, store.events.back().n_ok);
		EXPECT_EQ(0, load.events.back().status);
		EXPECT_EQ(0u, load.events.back().flags | store.events.back().flags);
		for (const Item &item : to)
			EXPECT_TRUE(side.pool.holds(item.key, item.pages));
		EXPECT_EQ(3u,
			  side.queue.lookup(prefix_of(side.pool, prompt(20 + side.index, 3))));
		EXPECT_EQ(3u, fetch_and_check(side.queue, side.pool, known.hashes));
	}
	/* What a dead device leaves: done, or told so. */
	void expect_lost_or_done()
	{
		EXPECT_TRUE(store_err == 0 || store_err == -ENODEV) << store_err;
		EXPECT_TRUE(load_err == 0 || load_err == -ENODEV) << load_err;
		if (store_err == 0) {
			EXPECT_EQ(std::count(store.status.begin(), store.status.end(), 0),
				  store.events.back().n_ok);
			for (const int32_t status : store.status)
				EXPECT_TRUE(status == 0 || status == -EIO) << status;
		}
		if (load_err == 0 && load.events.back().status != 0) {
			EXPECT_EQ(-EIO, load.events.back().status);
			EXPECT_EQ(KVH_EVENT_PAGES_LOST, load.events.back().flags);
		}
	}
};

void expect_refused(const Engine &engine, Work &work)
{
	Side &side = work.side;
	const kvh_device_status st = engine.device(side.index);
	std::vector<kvh_lease_t> all;
	const std::string reason = health(engine).reason;
	Job none;

	EXPECT_EQ("device host:" + std::to_string(side.index) + ": it has died", reason);
	EXPECT_EQ(1u, health(engine).n_ill);
	EXPECT_EQ(1u, st.dead);
	EXPECT_EQ(0u, st.jobs);
	EXPECT_EQ(-ENODEV, side.queue.store(none, side.pool, work.items));
	EXPECT_EQ(3u, side.queue.lookup(work.known, nullptr, &all)) << "L1 goes on";
	EXPECT_EQ(-ENODEV, side.queue.load(none, side.pool, all, work.to));
	EXPECT_EQ(-ENODEV, side.pool.add(engine.get()));
	EXPECT_EQ(0, side.queue.release(all));
	EXPECT_EQ(st.errors + 2, engine.device(side.index).errors);
}

/* What the dead device stored is there for the other, in L1 and in L2. */
void expect_rest(const Engine &engine, Work &dead, Work &other)
{
	Side &side = other.side;

	EXPECT_EQ(0u, engine.device(side.index).dead);
	EXPECT_EQ(0u, engine.device(side.index).errors);
	side.pool.give_all();
	EXPECT_EQ(3u, fetch_and_check(side.queue, side.pool, dead.known.hashes));
	engine.drain();
	engine.evict();
	EXPECT_EQ(3u, fetch_and_check(side.queue, side.pool, dead.known.hashes));
	EXPECT_EQ(2u, store_prompt(side.queue, side.pool, prompt(30, 2)));
	EXPECT_EQ(2u, fetch_and_check(side.queue, side.pool, prompt(30, 2)));

	Job unregister;
	EXPECT_EQ(0, dead.side.queue.unregister(unregister, dead.side.pool));
	EXPECT_EQ(0, dead.side.queue.finish(unregister).status);
	EXPECT_EQ(0u, engine.status().l1_leases);
	EXPECT_EQ(0u, engine.status().jobs);
}

/* The nth call of a stream on device d is a context error. Whether it came to that. */
bool die(uint32_t d, enum kvh_host_call call, uint64_t nth)
{
	Engine engine(on("host,host"));
	Desc desc;
	Side a(engine, desc, 0), b(engine, desc, 1);
	Work works[] = {Work(a), Work(b)};
	Work &victim = works[d], &other = works[1 - d];
	const kvh_host_rule rule = {call, KVH_HOST_FAIL, nth, 1, EIO, 0};
	const uint64_t before = victim.side.count(call);
	Log log;

	EXPECT_EQ(0, kvh_engine_set(engine.get(), "health.bound", "1h"));
	EXPECT_EQ(0, kvh_host_rule_add(victim.side.dev, &rule));
	victim.start();
	other.start();
	victim.finish();
	other.finish();
	engine.release(); /* a rule that was not hit so far */
	other.expect_well();
	if (!victim.side.dev->ops->dead(victim.side.dev)) {
		victim.expect_well(); /* the control: it is the fault that does all this */
		EXPECT_TRUE(health(engine).healthy);
		return false;
	}
	EXPECT_GE(victim.side.count(call), before + nth) << "it was hit";
	EXPECT_FALSE(other.side.dev->ops->dead(other.side.dev));
	victim.expect_lost_or_done();
	expect_refused(engine, victim);
	expect_rest(engine, victim, other);
	return true;
}

/* Which device, and at what it dies. The first is the one that L1 is registered with. */
class ADeviceDies : public testing::TestWithParam<std::tuple<uint32_t, kvh_host_call>>
{
};

TEST_P(ADeviceDies, AndTheOtherGoesOn)
{
	const auto [d, call] = GetParam();
	uint64_t nth = 1;

	for (; die(d, call, nth) && !HasFailure(); nth++)
		ASSERT_LT(nth, 200u);
	EXPECT_GT(nth, 1u) << "no fault ever hit";
}

INSTANTIATE_TEST_SUITE_P(Devices, ADeviceDies,
			 testing::Combine(testing::Values(0u, 1u),
					  testing::Values(KVH_HOST_COPY, KVH_HOST_GATHER,
							  KVH_HOST_SCATTER, KVH_HOST_RECORD,
							  KVH_HOST_WAIT_EVENT)),
			 [](const auto &info) {
				 const std::string d = std::to_string(std::get<0>(info.param));

				 switch (std::get<1>(info.param)) {
				 case KVH_HOST_COPY: return "copy_" + d;
				 case KVH_HOST_GATHER: return "gather_" + d;
				 case KVH_HOST_SCATTER: return "scatter_" + d;
				 case KVH_HOST_RECORD: return "record_" + d;
				 default: return "wait_event_" + d;
				 }
			 });

void kill(Side &side)
{
	const kvh_host_rule rule = {KVH_HOST_GATHER, KVH_HOST_FAIL, 1, 1, EIO, 0};
	Job job;

	ASSERT_EQ(0, kvh_host_rule_add(side.dev, &rule));
	ASSERT_EQ(0, side.queue.store(job, side.pool, make_items(side.pool, prompt(90, 1))));
	EXPECT_EQ(-EIO, side.queue.finish(job).status);
	ASSERT_TRUE(side.dev->ops->dead(side.dev));
}

/* The log of a close after these devices have died. */
std::string close_after(const std::vector<uint32_t> &dead)
{
	Engine engine(on("host,host"));
	Desc desc;
	{
		Side sides[] = {{engine, desc, 0}, {engine, desc, 1}};
		Log log;

		for (const uint32_t d : dead)
			kill(sides[d]);
	}
	Log log;
	EXPECT_EQ(0, engine.close(0));
	return log.text();
}

/* L1's registration goes back through whichever device lives. If none does, it can't:
 * then its addresses stay taken, so that nobody registers them again. */
TEST(Devices, WhatIsPinnedGoesBack)
{
	EXPECT_EQ("", close_after({}));
	EXPECT_EQ("", close_after({0}));
	EXPECT_EQ("", close_after({1}));
	const std::string all = close_after({0, 1});
	EXPECT_NE(std::string::npos, all.find("L1: it could not be unregistered")) << all;
	EXPECT_EQ("", close_after({0})) << "engines after that";
}

} // namespace
