// SPDX-License-Identifier: Apache-2.0
//
// reconfigure_test.cc - options that change while an engine runs: what takes
// effect, and that a refused change leaves the old value in force.
#include "engine_harness.h"

extern "C" {
#include "host/controller_impl.h"
}

#include <atomic>
#include <thread>

namespace
{

using namespace enginetest;

std::string get(const Engine &engine, const char *name)
{
	char text[256] = "?";

	EXPECT_LE(0, kvh_engine_get(engine.get(), name, text, sizeof(text))) << name;
	return text;
}

TEST(Reconfigure, ARefusedChangeLeavesTheOldValue)
{
	const struct {
		const char *name, *value;
		int err;
		const char *log;
	} cases[] = {
		{"watermark.high_pct", "101", -EINVAL, "allowed: 2..100"},
		{"watermark.high_pct", "90", -EINVAL, "0 < low < high"},
		{"watermark.high_pct", "", -EINVAL, "it stays 95"},
		{"watermark.low_pct", "95", -EINVAL, "stays 90"},
		{"watermark.low", "50", -EINVAL, "the nearest is watermark.low_pct"},
		{"l1.eviction", "mru", -EINVAL, "the nearest is 'lru'"},
		{"l1.lease", "10", -EINVAL, "it stays 600s"},
		{"space.l1_hard_bytes", "64M", -EINVAL,
		 "space.l1_hard_bytes is 67108864 and l1.bytes is 33554432"},
		{"l1.bytes", "64M", -EBUSY, "l1.bytes cannot change"},
		{"l2.adapters", "mem:x", -EBUSY, "l2.adapters cannot change"},
	};
	Engine engine;

	for (const auto &c : cases) {
		Log log;

		EXPECT_EQ(c.err, kvh_engine_set(engine.get(), c.name, c.value)) << c.name;
		EXPECT_EQ(1u, log.count(c.log)) << c.name << ": " << log.text();
		EXPECT_EQ("95", get(engine, "watermark.high_pct"));
		EXPECT_EQ("90", get(engine, "watermark.low_pct"));
		EXPECT_EQ("32M", get(engine, "l1.bytes"));
	}
}

// What was posted before has run.
void settle(const Engine &engine)
{
	struct Marker {
		kvh_loop_work work;
		std::atomic<bool> ran;
	} marker{{[](kvh_loop_work *work) { reinterpret_cast<Marker *>(work)->ran = true; },
		  nullptr},
		 {false}};

	kvh_controller_post(engine.get()->controller, &marker.work);
	while (!marker.ran)
		std::this_thread::yield();
}

// Leases end by themselves, and are no use any more.
TEST(Reconfigure, ALeaseHasTheDeadlineInForce)
{
	Engine engine;
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	const Prefix prefix = prefix_of(pool, prompt(1, 4));
	Job forever, soon, load;
	std::vector<kvh_lease_t> leases;

	store_prompt(queue, pool, prompt(1, 4));
	ASSERT_EQ(0, queue.prefetch(forever, prefix)); // the default, 10 min
	ASSERT_EQ(4u, queue.finish(forever).usable);
	settle(engine);
	EXPECT_GT(__atomic_load_n(&engine.get()->controller->expire_ns, __ATOMIC_SEQ_CST),
		  kvh_now_ns() + 60 * KVH_NS_PER_S)
		<< "an idle engine is woken for nothing";
	ASSERT_EQ(0, kvh_engine_set(engine.get(), "l1.lease", "1ms"));
	ASSERT_EQ(0, queue.prefetch(soon, prefix));
	ASSERT_EQ(4u, queue.finish(soon).usable);
	while (engine.status().leases_expired < 4) /* counted last */
		std::this_thread::yield();
	EXPECT_EQ(4u, engine.status().l1_leases);
	Log log;
	const std::vector<Item> items = leased_items(pool, prefix, soon.leases, &leases);
	EXPECT_EQ(-ESTALE, queue.load(load, pool, leases, items, KVH_LOAD_RELEASE));
	EXPECT_EQ(-ESTALE, kvh_release(engine.get(), leases.data(), leases.size(), nullptr));
	load_and_check(queue, pool, prefix, forever.leases); // control
}

TEST(Reconfigure, WatermarksTakeEffect)
{
	Opts opts;

	opts.l1_bytes = 2 * MIB;
	opts.high_pct = 100;
	opts.low_pct = 99;
	Engine engine(opts);
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);

	EXPECT_EQ(16u, store_prompt(queue, pool, prompt(1, 16)));
	const auto before = engine.status();

	ASSERT_GT(before.l1_used_bytes, before.l1_bytes / 50) << "the test needs some use";
	settle(engine);
	EXPECT_EQ(0u, engine.status().evicted_background) << "control: below the watermark";
	EXPECT_EQ(0, kvh_engine_set(engine.get(), "watermark.low_pct", "1"));
	EXPECT_EQ(0, kvh_engine_set(engine.get(), "watermark.high_pct", "2"));
	settle(engine);
	EXPECT_LE(engine.status().l1_used_bytes, before.l1_bytes / 50);
	EXPECT_NE(0u, engine.status().evicted_background);
	EXPECT_EQ("2", get(engine, "watermark.high_pct"));
}

} // namespace
