// SPDX-License-Identifier: Apache-2.0
//
// erase_race_test.cc - an erase and a read of the same key meet, at every point that
// they can: the caller's thread is interrupted between L1 and the controller, and
// the read is anywhere. Simulated, so that "every point" is some hundred seeds.
#include "engine_harness.h"
#include "sim_world.h"

using namespace enginetest;

namespace
{

struct Erase {
	struct kvh_erase base {
	};
	kvh_key key{};
	int32_t status = 0;
	bool ended = false;

	Erase()
	{
		base.keys = &key;
		base.n = 1;
		base.status = &status;
		base.ended = [](struct kvh_erase *e) {
			reinterpret_cast<Erase *>(e)->ended = true;
		};
	}
};

/* How L1 has the key in the end: 0, it is not there. */
uint8_t erase_beside_a_read(uint64_t seed, bool *read)
{
	sim::World world(seed);
	const Desc desc;
	Engine engine({{"mem:size=4M"}, 2 * MIB});
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	const auto hashes = prompt(1, 1);
	struct kvh_l1 *l1 = engine.get()->l1;
	uint8_t found = 77;
	Erase erase;
	Job store, prefetch;

	erase.key = pool.key(0, hashes[0]);
	EXPECT_EQ(0, queue.store(store, pool, make_items(pool, hashes), KVH_STORE_PERSISTED));
	EXPECT_TRUE(world.until([&] {
		queue.poll();
		return store.done();
	}));
	engine.evict();
	EXPECT_EQ(0, queue.prefetch(prefetch, prefix_of(pool, hashes)));
	world.run(world.rng().below(12));
	erase.status = kvh_l1_erase(l1, &erase.key);
	world.run(world.rng().below(12));
	kvh_controller_erase(engine.get()->controller, &erase.base);
	EXPECT_TRUE(world.until([&] {
		queue.poll();
		return erase.ended && prefetch.done();
	}));
	world.settle();
	*read = prefetch.events.back().usable == 1;
	EXPECT_EQ(0, queue.release(prefetch.leases));
	kvh_l1_find(l1, &erase.key, 1, &found);
	EXPECT_TRUE(kvh_l1_check(l1));
	return found;
}

TEST(EraseRace, AReadBetweenTheHalvesOfAnEraseDoesNotBringItBack)
{
	unsigned reads = 0;

	for (uint64_t seed = 1; seed <= 400 && !HasFailure(); seed++) {
		bool read;

		ASSERT_EQ(0, erase_beside_a_read(seed, &read)) << "seed " << seed;
		reads += read;
	}
	/* Both orders were met. */
	EXPECT_GT(reads, 10u);
	EXPECT_LT(reads, 390u);
}

} // namespace
