// SPDX-License-Identifier: Apache-2.0
//
// engine_cuda_test.cc - an engine with two GPUs over the runtime of cuda_fake.h: which
// contexts it keeps, and that one GPU's context error, at whatever call it comes up,
// is the end of that GPU and of nothing else.
#include "tests/cuda_fake.h"

#include "engine_harness.h"

using namespace enginetest;

namespace
{

Opts on(const char *device)
{
	Opts opts;

	opts.device = device;
	opts.l1_bytes = 4 * MIB;
	opts.l2 = {"mem:size=16M"};
	return opts;
}

class EngineCuda : public testing::Test
{
      protected:
	void SetUp() override
	{
		fake::reset();
	}
	void TearDown() override
	{
		fake::reset(); /* what a dead GPU kept */
	}
	static int retained(int gpu)
	{
		fake::Guard guard(fake::lock);

		return fake::state.gpus[gpu].retained;
	}
};

/* ---- contexts ----------------------------------------------------------- */

TEST_F(EngineCuda, OnlyTheGpusAskedForAreTouched)
{
	Desc desc;
	{
		Engine engine(on("cuda:1"));
		Pool pool(engine, desc.layout, engine.space(desc));
		Queue queue(engine);

		EXPECT_EQ(3u, store_prompt(queue, pool, prompt(1, 3)));
		EXPECT_EQ(3u, fetch_and_check(queue, pool, prompt(1, 3)));
		EXPECT_EQ(1, retained(1));
		EXPECT_STREQ("cuda:1", engine.device(0).label);
	}
	EXPECT_EQ(0, fake::state.gpus[0].kept);
	EXPECT_EQ(0, retained(0) + retained(1));
}

TEST_F(EngineCuda, TwoEnginesShareAContext)
{
	Desc desc;
	auto one = std::make_unique<Engine>(on("cuda:0"));
	Engine two(on("cuda:*"));
	Pool pool(two, desc.layout, two.space(desc), 0, 1, 0, 0);
	Queue queue(two);

	EXPECT_EQ(2, retained(0));
	EXPECT_EQ(1, retained(1));
	one.reset();
	EXPECT_EQ(1, retained(0));
	EXPECT_EQ(2u, store_prompt(queue, pool, prompt(1, 2))) << "the context is there still";
	EXPECT_EQ(2u, fetch_and_check(queue, pool, prompt(1, 2)));
	queue.close();
	EXPECT_EQ(0, two.close());
	EXPECT_EQ(0, retained(0) + retained(1));
}

/* ---- context errors ----------------------------------------------------- */

/* What one GPU's user does; what it is told where the GPU has died. */
struct Side {
	Side(const Engine &engine, const Desc &desc, uint32_t index)
	    : index(index), engine(engine),
	      pool(desc.layout, engine.space(desc), static_cast<int>(index)), queue(engine)
	{
	}
	/* Whether all went well; else what is allowed to a GPU that has died. */
	bool run(uint64_t seed)
	{
		const Prefix prefix = prefix_of(pool, prompt(seed, 3));
		std::vector<kvh_lease_t> all, leases;
		Job store, load;
		int err = pool.id == KVH_NONE ? pool.add(engine.get()) : 0;

		if (err != 0)
			return refused(err);
		err = queue.store(store, pool, make_items(pool, prefix.hashes),
				  KVH_STORE_PERSISTED);
		if (err != 0)
			return refused(err);
		if (queue.finish(store).status != 0)
			return refused(store.events.back().status);
		EXPECT_EQ(3u, queue.lookup(prefix, nullptr, &all));
		const auto to = leased_items(pool, prefix, all, &leases);
		err = queue.load(load, pool, leases, to, KVH_LOAD_RELEASE);
		if (err != 0) {
			EXPECT_EQ(0, queue.release(leases));
			return refused(err);
		}
		if (queue.finish(load).status != 0) {
			EXPECT_EQ(KVH_EVENT_PAGES_LOST, load.events.back().flags);
			return refused(load.events.back().status);
		}
		for (const Item &item : to)
			EXPECT_TRUE(pool.holds(item.key, item.pages));
		return true;
	}
	/* The other side's chunks, from L1. */
	void fetch(uint64_t seed)
	{
		const auto hashes = prompt(seed, 3);
		const uint32_t there = queue.lookup(prefix_of(pool, hashes));

		if (there > 0) {
			EXPECT_EQ(there, fetch_and_check(queue, pool, hashes));
		}
	}
	bool refused(int err) const
	{
		EXPECT_TRUE(err == -ENODEV || err == -EIO) << err;
		EXPECT_TRUE(dead()) << "that is no error of a GPU that lives: " << err;
		return false;
	}
	bool dead() const
	{
		return engine.device(index).dead != 0;
	}

	const uint32_t index;
	const Engine &engine;
	Pool pool;
	Queue queue;
};

/* No call reaches the GPU that the seam knows to be dead, not even at close. */
void mourn(int gpu)
{
	fake::Guard guard(fake::lock);

	fake::state.gpus[gpu].mourned = true;
}

/* With the engine closed: what is left. */
void expect_left(int victim, bool dead)
{
	const fake::Gpu &gpu = fake::state.gpus[victim];
	const std::string &name = fake::state.failed;

	EXPECT_FALSE(gpu.touched) << name;
	EXPECT_EQ(dead ? 1 : 0, gpu.retained) << name << ": a dead context is left alone";
	EXPECT_EQ(0, fake::state.gpus[1 - victim].retained) << name;
	EXPECT_TRUE(fake::state.registered.empty())
		<< name << ": L1 goes back through the one that lives";
	for (const auto &m : fake::state.memory)
		EXPECT_EQ(victim, m.second.gpu) << name << ": memory of the one that lives";
	EXPECT_EQ(cudaSuccess, fake::last);
	EXPECT_TRUE(fake::contexts.empty());
}

/* The nth call that concerns GPU `victim` says `error`, and so does every one after
 * it. Whether it came to that. */
bool die(int victim, cudaError_t error, int nth)
{
	Log log;
	Desc desc;
	kvh_engine *opened = nullptr;
	bool dead;

	fake::reset();
	fake::state.fail_on = victim;
	fake::state.fail_at = nth;
	fake::state.error = error;
	fake::state.stays = true;
	int err = open_engine(on("cuda:0,cuda:1"), &opened);
	if (err != 0) {
		EXPECT_TRUE(err == -EIO || err == -ENOMEM) << err;
		EXPECT_EQ(0, fake::state.gpus[1 - victim].retained) << fake::state.failed;
		return true;
	}
	{
		Engine engine(opened);
		Side a(engine, desc, 0), b(engine, desc, 1);
		Side &lost = victim == 0 ? a : b, &other = victim == 0 ? b : a;

		const bool well = lost.run(1);
		EXPECT_TRUE(other.run(2));
		dead = lost.dead();
		EXPECT_TRUE(well || dead);
		EXPECT_FALSE(other.dead());
		if (dead) {
			mourn(victim);
			EXPECT_FALSE(lost.run(3));
			kvh_health health{};
			health.size = sizeof(health);
			EXPECT_EQ(0, kvh_engine_set(engine.get(), "health.bound", "1h"));
			EXPECT_EQ(0, kvh_health_get(engine.get(), &health));
			EXPECT_EQ("device cuda:" + std::to_string(victim) + ": it has died",
				  std::string(health.reason));
		}
		other.fetch(1);
		EXPECT_TRUE(other.run(4));
	}
	/* Maybe it died at close. */
	dead = dead || fake::state.gpus[victim].dead != cudaSuccess;
	expect_left(victim, dead);
	return dead;
}

class ContextError : public testing::TestWithParam<std::tuple<int, cudaError_t>>
{
};

TEST_P(ContextError, IsTheEndOfOneGpuOnly)
{
	const auto [victim, error] = GetParam();
	int nth = 0, late = 0;

	/* At close, and by the mover's looking, calls are not always as many. */
	for (; late < 3 && !HasFailure(); nth++) {
		SCOPED_TRACE("call " + std::to_string(nth));
		late = die(victim, error, nth) ? 0 : late + 1;
		ASSERT_LT(nth, 2000);
	}
	EXPECT_GT(nth, 60) << "so many calls there are";
}

INSTANTIATE_TEST_SUITE_P(
	EngineCuda, ContextError,
	testing::Combine(testing::Values(0, 1),
			 testing::Values(cudaErrorIllegalAddress, cudaErrorECCUncorrectable)),
	[](const auto &info) {
		return std::string(std::get<1>(info.param) == cudaErrorIllegalAddress
					   ? "illegal_address_"
					   : "ecc_") +
		       std::to_string(std::get<0>(info.param));
	});

} // namespace
