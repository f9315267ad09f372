// SPDX-License-Identifier: Apache-2.0
//
// snapshot_wrap_test.cc - one call that returns everything: by space and adapter
// what was done there, latencies one by one, and no lock taken for it.
#include "engine_harness.h"
#include "wrap.h"

#include <map>
#include <thread>

namespace
{

using namespace enginetest;

struct Free2 {
	void operator()(kvh_snapshot *s) const
	{
		kvh_snapshot_free(s);
	}
};
using Snapshot = std::unique_ptr<kvh_snapshot, Free2>;

Snapshot take(const Engine &engine)
{
	kvh_snapshot *s = nullptr;

	EXPECT_EQ(0, kvh_snapshot_take(engine.get(), &s));
	return Snapshot(s);
}

Desc tenant(const std::string &salt)
{
	Desc desc;

	desc.salt = salt;
	return desc;
}

kvh_space_status of(const Snapshot &s, kvh_space_t space)
{
	for (uint32_t i = 0; i < s->n_spaces; i++)
		if (s->spaces[i].space == space)
			return s->spaces[i];
	ADD_FAILURE() << "the space is not there";
	return {};
}

TEST(Snapshot, CountsBySpace)
{
	Engine engine({{"mem:"}});
	const Desc a = tenant("a"), b = tenant("b");
	Pool pool_a(engine, a.layout, engine.space(a)),
		pool_b(engine, b.layout, engine.space(b));
	Queue queue(engine);
	const auto bytes = static_cast<uint64_t>(
		kvh_space_chunk_bytes(engine.get(), pool_a.space, 0));

	EXPECT_EQ(4u, store_prompt(queue, pool_a, prompt(1, 4), KVH_STORE_PERSISTED));
	EXPECT_EQ(0u, store_prompt(queue, pool_a, prompt(1, 4))) << "again";
	EXPECT_EQ(2u, store_prompt(queue, pool_b, prompt(1, 2), KVH_STORE_PERSISTED));
	EXPECT_EQ(2u, fetch_and_check(queue, pool_b, prompt(1, 2)));
	engine.evict();
	EXPECT_EQ(4u, fetch_and_check(queue, pool_a, prompt(1, 4)));
	EXPECT_EQ(0u, fetch_and_check(queue, pool_a, prompt(9, 3)));
	const Snapshot s = take(engine);
	const kvh_space_status sa = of(s, pool_a.space), sb = of(s, pool_b.space);

	EXPECT_EQ(2u, s->n_spaces);
	EXPECT_EQ(4u, sa.stored_chunks);
	EXPECT_EQ(4 * bytes, sa.stored_bytes);
	EXPECT_EQ(4u, sa.store_exists);
	EXPECT_EQ(4u, sa.hits_l2);
	EXPECT_EQ(0u, sa.hits_l1);
	EXPECT_EQ(3u, sa.misses);
	EXPECT_EQ(4u, sa.loaded_chunks);
	EXPECT_EQ(2u, sb.stored_chunks);
	EXPECT_EQ(2u, sb.hits_l1);
	EXPECT_EQ(0u, sb.hits_l2 + sb.misses + sb.store_exists);
	EXPECT_EQ(2 * bytes, sb.loaded_bytes);
	/* The engine's are the sums. */
	EXPECT_EQ(sa.stored_chunks + sb.stored_chunks, s->engine.stored_chunks);
	EXPECT_EQ(sa.stored_bytes + sb.stored_bytes, s->engine.stored_bytes);
	EXPECT_EQ(sa.loaded_bytes + sb.loaded_bytes, s->engine.loaded_bytes);
	EXPECT_EQ(sa.hits_l1 + sb.hits_l1, s->engine.hits_l1);
	EXPECT_EQ(sa.hits_l2 + sb.hits_l2, s->engine.hits_l2);
	EXPECT_EQ(sa.misses + sb.misses, s->engine.misses);
	/* Adapters, and each job once. */
	ASSERT_EQ(1u, s->n_l2);
	EXPECT_STREQ("mem", s->l2[0].name);
	EXPECT_EQ(6u, s->l2[0].puts);
	EXPECT_EQ(4u, s->l2[0].gets);
	EXPECT_EQ(3u, s->latency[KVH_LATENCY_STORE].count);
	EXPECT_EQ(3u, s->latency[KVH_LATENCY_PREFETCH].count);
	EXPECT_EQ(2u, s->latency[KVH_LATENCY_LOAD].count);
	EXPECT_EQ(0u, s->latency[KVH_LATENCY_ERASE].count);
	/* Sealed, small ones together, and verified. */
	EXPECT_LE(1u + 4u, s->latency[KVH_LATENCY_WORK].count);
	EXPECT_LT(0u, s->latency[KVH_LATENCY_ROUND].count);
	EXPECT_LE(s->latency[KVH_LATENCY_STORE].p50_ns, s->latency[KVH_LATENCY_STORE].max_ns);
	EXPECT_LT(0u, s->latency[KVH_LATENCY_STORE].p50_ns);
}

/* Every counter of a later snapshot is at least that of an earlier one. */
TEST(Snapshot, CountersNeverDrop)
{
	Engine engine({{"mem:size=64K"}, 2 * MIB, nullptr, 0, 0, 20, 10});
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	std::atomic<bool> stop{false};
	std::thread reader([&] {
		Snapshot before = take(engine);

		while (!stop.load()) {
			Snapshot now = take(engine);
			const auto *b = reinterpret_cast<const uint64_t *>(
				&before->engine.stored_chunks);
			const auto *n = reinterpret_cast<const uint64_t *>(
				&now->engine.stored_chunks);
			const auto *end = reinterpret_cast<const uint64_t *>(&now->engine.n_l2);

			for (; n < end; n++, b++)
				ASSERT_GE(*n, *b) << "field " << end - n << " from the end";
			for (uint32_t i = 0; i < KVH_LATENCIES; i++)
				ASSERT_GE(now->latency[i].count, before->latency[i].count);
			before = std::move(now);
		}
	});

	for (uint64_t i = 0; i < 300; i++) {
		pool.give_all();
		store_prompt(queue, pool, prompt(i, 8));
		pool.give_all();
		fetch_and_check(queue, pool, prompt(i / 2, 8));
	}
	stop = true;
	reader.join();
}

TEST(Snapshot, AThousandSpacesAndNoLock)
{
	Engine engine({{"mem:a", "mem:b", "null:"}});
	std::map<kvh_space_t, int> spaces;

	for (int i = 0; i < 1000; i++)
		spaces[engine.space(tenant(std::to_string(i)))] = 0;
	wrap::locks = 0;
	wrap::count_locks = true;
	const Snapshot s = take(engine);
	wrap::count_locks = false;

	EXPECT_EQ(0u, wrap::locks) << "taken by this thread meanwhile";
	EXPECT_EQ(1000u, s->n_spaces);
	EXPECT_EQ(3u, s->n_l2);
	for (uint32_t i = 0; i < s->n_spaces; i++)
		EXPECT_EQ(1, ++spaces[s->spaces[i].space]);
	EXPECT_EQ(1000u, spaces.size());
	/* The control: what takes a lock is counted. */
	wrap::count_locks = true;
	engine.space(tenant("one more"));
	wrap::count_locks = false;
	EXPECT_LT(0u, wrap::locks);
}

TEST(Snapshot, NamesOfLatencies)
{
	for (uint32_t i = 0; i < KVH_LATENCIES; i++)
		EXPECT_NE(nullptr, kvh_latency_name(i)) << i;
	EXPECT_EQ(nullptr, kvh_latency_name(KVH_LATENCIES));
}

} // namespace
