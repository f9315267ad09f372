// SPDX-License-Identifier: Apache-2.0
//
// From pages to L1, to L2, and back, byte by byte, over every layout; what is
// found by whom, and what a restart finds again.
#include "engine_harness.h"

using namespace enginetest;

namespace
{

/* ---- every layout ------------------------------------------------------- */

class EveryLayout : public testing::TestWithParam<Layout>
{
};

std::vector<Layout> every_layout()
{
	auto all = layouts::all_layouts(sizes(64), KVH_FORMAT_NATIVE);
	const auto portable = layouts::all_layouts(sizes(64), KVH_FORMAT_PORTABLE);

	all.insert(all.end(), portable.begin(), portable.end());
	return all;
}

TEST_P(EveryLayout, ComesBackFromL1AndFromL2)
{
	Engine engine({{"mem:size=64M"}});
	Desc desc;
	desc.layout = GetParam();
	const kvh_space_t space = engine.space(desc);
	Pool pool(engine, desc.layout, space, 0, 7, 3);
	Queue queue(engine);
	const auto hashes = prompt(1, 4);
	const auto n = static_cast<uint32_t>(hashes.size() * desc.layout.groups.size());

	EXPECT_EQ(n, store_prompt(queue, pool, hashes, KVH_STORE_PERSISTED));
	EXPECT_EQ(4u, fetch_and_check(queue, pool, hashes));
	EXPECT_EQ(0u, engine.status().l1_leases);
	EXPECT_EQ(0u, engine.status().hits_l2);
	engine.evict();
	EXPECT_EQ(0u, engine.status().l1_frames);
	EXPECT_EQ(4u, fetch_and_check(queue, pool, hashes));
	EXPECT_EQ(0u, engine.status().l1_leases);
	EXPECT_GT(engine.status().hits_l2, 0u);
}

INSTANTIATE_TEST_SUITE_P(StoreLoad, EveryLayout, testing::ValuesIn(every_layout()),
			 [](const auto &info) { return info.param.name; });

TEST(StoreLoad, PortableGoesFromAnyPoolToAnyOther)
{
	Engine engine;
	const auto all = layouts::kv_layouts(sizes(32), KVH_FORMAT_PORTABLE);
	Queue queue(engine);
	uint64_t seed = 1;

	/* One loads what all others stored: those with pages of 4 tokens are one
	 * space, whatever their order. */
	for (const auto &from : all)
		for (const auto &to : {all[0], all[1]}) {
			Desc a, b;
			a.layout = from;
			b.layout = to;
			if (from.groups[0].fields.page_tokens != 4 ||
			    from.groups[0].shapes.size() != to.groups[0].shapes.size())
				continue;
			ASSERT_EQ(engine.space(a), engine.space(b)) << from.name;
			Pool source(engine, from, engine.space(a), 0, seed);
			Pool target(engine, to, engine.space(b), 0, seed + 1);
			const auto hashes = prompt(seed++, 3);

			SCOPED_TRACE(from.name + " to " + to.name);
			EXPECT_EQ(3u, store_prompt(queue, source, hashes));
			EXPECT_EQ(3u, fetch_and_check(queue, target, hashes));
		}
	EXPECT_GT(seed, 12u); /* it was not all skipped */
}

TEST(StoreLoad, NativeSpacesOfOtherOrdersAreApart)
{
	Engine engine;
	Desc nhd, hnd;
	nhd.layout = layouts::dense("nhd", "pthd", sizes(32), KVH_FORMAT_NATIVE);
	hnd.layout = layouts::dense("hnd", "phtd", sizes(32), KVH_FORMAT_NATIVE);
	Pool source(engine, hnd.layout, engine.space(hnd));
	Pool target(engine, nhd.layout, engine.space(nhd));
	Queue queue(engine);

	EXPECT_EQ(2u, store_prompt(queue, source, prompt(1, 2)));
	EXPECT_EQ(0u, fetch_and_check(queue, target, prompt(1, 2)));
}

/* ---- ranks and groups --------------------------------------------------- */

TEST(StoreLoad, ReplicatedIsStoredOnceAndLoadedByAllRanks)
{
	Engine engine;
	Desc desc;
	desc.tp_size = 2;
	desc.layout = layouts::mla("mla", 36, 64, sizes(32), KVH_FORMAT_NATIVE);
	const kvh_space_t space = engine.space(desc);
	Pool first(engine, desc.layout, space, 0, 1), second(engine, desc.layout, space, 1, 2);
	Queue queue(engine);
	const auto hashes = prompt(1, 3);
	Job again;

	EXPECT_EQ(3u, store_prompt(queue, first, hashes));
	ASSERT_EQ(0, queue.store(again, second, make_items(second, hashes)));
	EXPECT_EQ(0u, queue.finish(again).n_ok);
	EXPECT_EQ(std::vector<int32_t>(3, -EEXIST), again.status);
	EXPECT_EQ(0, again.events.back().status);
	EXPECT_EQ(3u, engine.status().store_exists);
	EXPECT_EQ(3u, fetch_and_check(queue, first, hashes));
	EXPECT_EQ(3u, fetch_and_check(queue, second, hashes));
}

TEST(StoreLoad, APrefixIsAsLongAsTheShortestRank)
{
	Engine engine;
	Desc desc;
	desc.tp_size = 2;
	const kvh_space_t space = engine.space(desc);
	Pool first(engine, desc.layout, space, 4, 1), second(engine, desc.layout, space, 5, 2);
	Queue queue(engine);
	auto hashes = prompt(1, 4);
	Prefix both = prefix_of(first, hashes);
	std::vector<uint8_t> where;
	Job job;

	both.n_ranks = 2;
	EXPECT_EQ(4u, store_prompt(queue, first, hashes));
	hashes.pop_back();
	EXPECT_EQ(3u, store_prompt(queue, second, hashes));
	EXPECT_EQ(3u, queue.lookup(both, &where));
	EXPECT_EQ((std::vector<uint8_t>{1, 1, 1, 1, 1, 1, 1, 0}), where);
	ASSERT_EQ(0, queue.prefetch(job, both));
	EXPECT_EQ(3u, queue.finish(job).usable);
	EXPECT_EQ(6u, job.events.back().n_ok);
	EXPECT_EQ(2, std::count(job.leases.begin(), job.leases.end(), KVH_NONE));
	EXPECT_EQ(0, queue.release(job.leases));
	EXPECT_EQ(0u, engine.status().l1_leases);
}

TEST(StoreLoad, WindowsNeedTheirEndOnly)
{
	Engine engine;
	Desc desc;
	desc.layout = layouts::shared_by_groups(sizes(64), KVH_FORMAT_NATIVE);
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	const auto hashes = prompt(1, 5);
	const Prefix prefix = prefix_of(pool, hashes);
	auto items = make_items(pool, hashes);
	std::vector<kvh_lease_t> leases;
	Job store;

	/* Group 1 is a window of one chunk: without [1], [2] and [4]. */
	items.erase(items.begin() + 2 * 4 + 1);
	items.erase(items.begin() + 2 * 2 + 1);
	items.erase(items.begin() + 2 * 1 + 1);
	ASSERT_EQ(0, queue.store(store, pool, items));
	EXPECT_EQ(7u, queue.finish(store).n_ok);
	EXPECT_EQ(4u, queue.lookup(prefix, nullptr, &leases));
	for (uint32_t chunk = 0; chunk < 5; chunk++) {
		EXPECT_EQ(chunk < 4, leases[2 * chunk] != KVH_NONE) << chunk;
		EXPECT_EQ(chunk == 3, leases[2 * chunk + 1] != KVH_NONE) << chunk;
	}
	load_and_check(queue, pool, prefix, leases);
	EXPECT_EQ(4u, fetch_and_check(queue, pool, hashes));
	EXPECT_EQ(0u, engine.status().l1_leases);
}

TEST(StoreLoad, AStateStandsForItsPrefix)
{
	Engine engine;
	Desc desc;
	desc.layout = layouts::hybrid_state(sizes(64), KVH_FORMAT_NATIVE);
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	const auto hashes = prompt(1, 5);
	auto items = make_items(pool, hashes);
	Job store;

	items.erase(items.begin() + 2 * 4 + 1); /* the states at 5 and at 4 */
	items.erase(items.begin() + 2 * 3 + 1);
	ASSERT_EQ(0, queue.store(store, pool, items));
	EXPECT_EQ(8u, queue.finish(store).n_ok);
	EXPECT_EQ(3u, fetch_and_check(queue, pool, hashes));
}

/* ---- parts -------------------------------------------------------------- */

TEST(StoreLoad, APageLeftOutIsNotTouched)
{
	Engine engine;
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	const auto hashes = prompt(1, 3);
	const Prefix prefix = prefix_of(pool, hashes);
	std::vector<kvh_lease_t> all, leases;
	Job load;

	EXPECT_EQ(3u, store_prompt(queue, pool, hashes));
	EXPECT_EQ(3u, queue.lookup(prefix, nullptr, &all));
	auto items = leased_items(pool, prefix, all, &leases);
	items[0].pages[1] = KVH_PAGE_NONE;
	items[1].pages = {KVH_PAGE_NONE, KVH_PAGE_NONE};
	items[2].pages[0] = KVH_PAGE_NONE;
	auto want = pool.memory.all();
	for (const auto &item : items)
		pool.expect(want, item.key, item.pages);
	ASSERT_EQ(0, queue.load(load, pool, leases, items));
	EXPECT_EQ(3u, queue.finish(load).n_ok);
	EXPECT_TRUE(want == pool.memory.all());
	EXPECT_EQ(3u, engine.status().l1_leases); /* no KVH_LOAD_RELEASE */
	EXPECT_EQ(0, queue.release(leases));
	EXPECT_EQ(0u, engine.status().l1_leases);
}

TEST(StoreLoad, PartOfAPrompt)
{
	Engine engine({{"mem:size=64M"}});
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	const auto known = prompt(1, 3);
	auto hashes = known;

	hashes.push_back(hash_of(2, 0));
	hashes.push_back(hash_of(2, 1));
	EXPECT_EQ(0u, fetch_and_check(queue, pool, hashes));
	EXPECT_EQ(5u, engine.status().misses);
	EXPECT_EQ(3u, store_prompt(queue, pool, known, KVH_STORE_PERSISTED));
	EXPECT_EQ(3u, fetch_and_check(queue, pool, hashes));
	engine.evict();
	pool.give_all();
	EXPECT_EQ(3u, fetch_and_check(queue, pool, hashes));
	EXPECT_EQ(3u, engine.status().hits_l1);
	EXPECT_EQ(3u, engine.status().hits_l2);
}

/* ---- L2 ----------------------------------------------------------------- */

struct Specs {
	const char *name;
	std::vector<std::string> (*make)(const std::string &dir);
};

void PrintTo(const Specs &specs, std::ostream *os)
{
	*os << specs.name;
}

const Specs all_specs[] = {
	{"mem", [](const std::string &) { return std::vector<std::string>{"mem:size=64M"}; }},
	{"fs",
	 [](const std::string &d) { return std::vector<std::string>{"fs:" + d + "/fs"}; }},
	{"nvme",
	 [](const std::string &d) {
		 return std::vector<std::string>{"nvme:" + d + "/file,size=64M,segment=1M"};
	 }},
	{"all",
	 [](const std::string &d) {
		 return std::vector<std::string>{"mem:size=64M", "fs:" + d + "/a",
						 "nvme:" + d + "/b,size=64M,segment=1M",
						 "fs:" + d + "/c"};
	 }},
};

class OverL2 : public testing::TestWithParam<Specs>
{
      protected:
	Dir dir;
};

TEST_P(OverL2, SmallL1AndManyPrompts)
{
	/* 24 prompts of 8 chunks of 8 KiB: 1.5 MiB, through 2 MiB of L1 that is
	 * emptied on the way. */
	Engine engine({GetParam().make(dir.path()), 2 * MIB});
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);

	for (uint64_t seed = 0; seed < 24; seed++) {
		pool.give_all();
		EXPECT_EQ(8u, store_prompt(queue, pool, prompt(seed, 8), KVH_STORE_PERSISTED));
		if (seed % 7 == 3)
			engine.evict();
	}
	engine.evict();
	for (uint64_t seed = 0; seed < 24; seed++) {
		pool.give_all();
		EXPECT_EQ(8u, fetch_and_check(queue, pool, prompt(seed, 8))) << seed;
	}
	EXPECT_EQ(24u * 8u, engine.status().hits_l2);
	EXPECT_EQ(0u, engine.status().corrupt);
	EXPECT_EQ(0u, engine.status().l1_leases);
	EXPECT_EQ(0u, engine.status().store_waiting);
}

class KeptL2 : public OverL2
{
};

TEST_P(KeptL2, IsFoundByARestart)
{
	Desc desc;

	{
		Engine engine({GetParam().make(dir.path())});
		Pool pool(engine, desc.layout, engine.space(desc));
		Queue queue(engine);

		EXPECT_EQ(6u, store_prompt(queue, pool, prompt(1, 6)));
		queue.close();
		EXPECT_EQ(0, engine.close());
	}
	Engine engine({GetParam().make(dir.path())});
	Pool pool(engine, desc.layout, engine.space(desc), 0, 99);
	Queue queue(engine);
	EXPECT_EQ(6u, fetch_and_check(queue, pool, prompt(1, 6)));
	EXPECT_EQ(6u, engine.status().hits_l2);
}

INSTANTIATE_TEST_SUITE_P(StoreLoad, OverL2, testing::ValuesIn(all_specs),
			 [](const auto &info) { return std::string(info.param.name); });
INSTANTIATE_TEST_SUITE_P(StoreLoad, KeptL2,
			 testing::ValuesIn(std::begin(all_specs) + 1, std::end(all_specs)),
			 [](const auto &info) { return std::string(info.param.name); });

/* Scenarios C7 and X3: with one field changed nothing of it is found, in L1 or
 * L2, by the engine that stored it or by the next. */
TEST(StoreLoad, NothingIsFoundFromAnotherSpace)
{
	const std::vector<void (*)(Desc &)> changes = {
		[](Desc &d) { d.model += "b"; },
		[](Desc &d) { d.revision = "r2"; },
		[](Desc &d) { d.dtype = "fp16"; },
		[](Desc &d) { d.quant = "int8"; },
		[](Desc &d) { d.runner = "run-2"; },
		[](Desc &d) { d.hash_algo = "xxh3"; },
		[](Desc &d) { d.hash_seed = "1"; },
		[](Desc &d) { d.salt = "tenant b"; },
		[](Desc &d) { d.layers = 3; },
		[](Desc &d) { d.heads = 6; },
		[](Desc &d) { d.head_size = 8; },
		[](Desc &d) { d.tp_size = 2; },
		[](Desc &d) { d.pp_size = 2; },
		[](Desc &d) { d.layout = layouts::dense("", "pkhtd", sizes(64), 0); },
		[](Desc &d) { d.layout = small_layout(KVH_FORMAT_PORTABLE); },
	};
	Dir dir;
	Opts opts;

	opts.l2 = {"fs:" + dir.path() + "/a", "nvme:" + dir.path() + "/b,size=16M,segment=1M"};
	for (int round = 0; round < 2; round++) {
		Engine engine(opts);
		Desc mine;
		Pool pool(engine, mine.layout, engine.space(mine));
		Queue queue(engine);

		if (round == 0) {
			EXPECT_EQ(4u, store_prompt(queue, pool, prompt(1, 4)));
		}
		engine.drain();
		for (size_t i = 0; i < changes.size(); i++) {
			Desc other;
			changes[i](other);
			Pool theirs(engine, other.layout, engine.space(other));

			EXPECT_EQ(0u, fetch_and_check(queue, theirs, prompt(1, 4))) << i;
		}
		EXPECT_EQ(4u, fetch_and_check(queue, pool, prompt(1, 4)));
		queue.close();
		EXPECT_EQ(0, engine.close());
	}
}

} // namespace
