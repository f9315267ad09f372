// SPDX-License-Identifier: Apache-2.0
//
// engine_devices_test.cc - several devices in one engine: a pool finds its own, its
// jobs run there and nowhere else, chunks go from one device's pages to another's,
// frames lie near their device. Devices that die: engine_device_dies_test.cc.
#include "engine_devices_rig.h"
#include "sanitizers.h"

#include <array>
#include <atomic>
#include <memory>
#include <set>
#include <thread>

using namespace enginetest;

namespace
{

/* ---- which device ------------------------------------------------------- */

TEST(Devices, WorkIsDoneOnThePoolsDevice)
{
	Engine engine(on("host,host,host"));
	Desc desc;
	Side a(engine, desc, 0), b(engine, desc, 1), c(engine, desc, 2);
	const uint64_t bytes = 3 * static_cast<uint64_t>(kvh_space_chunk_bytes(
					   engine.get(), b.pool.space, 0));

	EXPECT_EQ(3u, store_prompt(b.queue, b.pool, prompt(1, 3)));
	EXPECT_EQ(3u, fetch_and_check(b.queue, b.pool, prompt(1, 3)));
	EXPECT_GT(b.count(KVH_HOST_GATHER), 0u);
	EXPECT_GT(b.count(KVH_HOST_SCATTER), 0u);
	for (const Side *other : {&a, &c}) {
		const kvh_device_status st = engine.device(other->index);

		for (enum kvh_host_call call : {KVH_HOST_GATHER, KVH_HOST_SCATTER})
			EXPECT_EQ(0u, other->count(call)) << other->index;
		EXPECT_EQ(1u, st.pools);
		EXPECT_EQ(0u, st.stored_chunks + st.loaded_chunks + st.jobs);
	}
	const kvh_device_status st = engine.device(1);
	EXPECT_STREQ("host:1", st.label);
	EXPECT_STREQ("host", st.name);
	EXPECT_EQ(0, memcmp(st.uuid, engine.get()->devices.list[1].info.uuid, 16));
	EXPECT_EQ(3u, st.stored_chunks);
	EXPECT_EQ(bytes, st.stored_bytes);
	EXPECT_EQ(3u, st.loaded_chunks);
	EXPECT_EQ(bytes, st.loaded_bytes);
	EXPECT_EQ(0u, st.dead + st.errors);
	EXPECT_EQ(3u, engine.status().n_devices);
	EXPECT_EQ(bytes, engine.status().stored_bytes);

	Job unregister;
	EXPECT_EQ(0, b.queue.unregister(unregister, b.pool));
	EXPECT_EQ(0, b.queue.finish(unregister).status);
	EXPECT_EQ(0u, engine.device(1).pools);
	kvh_device_status none{};
	none.size = sizeof(none);
	EXPECT_EQ(-ENOENT, kvh_device_status_get(engine.get(), 3, &none));
	none.size--;
	EXPECT_EQ(-EINVAL, kvh_device_status_get(engine.get(), 0, &none));
}

TEST(Devices, OneJobIsOnTheDeviceUntilItHasEnded)
{
	Engine engine(on("host,host"));
	Desc desc;
	Side a(engine, desc, 0), b(engine, desc, 1);
	const kvh_host_rule hold = {KVH_HOST_GATHER, KVH_HOST_HOLD, 1, UINT64_MAX, 0, 0};
	Job job;

	ASSERT_EQ(0, kvh_host_rule_add(b.dev, &hold));
	ASSERT_EQ(0, b.queue.store(job, b.pool, make_items(b.pool, prompt(1, 2))));
	kvh_host_held_wait(b.dev, 1);
	EXPECT_EQ(1u, engine.device(1).jobs);
	EXPECT_EQ(0u, engine.device(0).jobs);
	/* The other device does not wait for it. */
	EXPECT_EQ(2u, store_prompt(a.queue, a.pool, prompt(2, 2)));
	EXPECT_EQ(2u, fetch_and_check(a.queue, a.pool, prompt(2, 2)));
	EXPECT_EQ(KVH_PENDING, job.status[0]);
	engine.release();
	EXPECT_EQ(2u, b.queue.finish(job).n_ok);
	EXPECT_EQ(0u, engine.device(1).jobs);
}

constexpr uint64_t PAGE = 4096;

/* A pool of one opaque page at each of the addresses. */
int register_at(const Engine &engine, const std::vector<void *> &where, const uint8_t *uuid,
		kvh_pool_t *pool_p, kvh_space_t *space_p = nullptr)
{
	std::vector<kvh_plane_shape> shapes(where.size());
	std::vector<kvh_alloc> allocs;
	std::vector<kvh_plane> planes;
	const uint32_t pages = 1;
	kvh_group_desc group{};
	kvh_space_desc space;
	kvh_pool_desc desc;

	for (uint32_t i = 0; i < where.size(); i++) {
		shapes[i].kind = KVH_PLANE_OPAQUE;
		shapes[i].layer = i;
		shapes[i].page_bytes = PAGE;
		allocs.push_back({where[i], PAGE});
		planes.push_back({i, 0, 0, PAGE, 0, 0});
	}
	group.page_tokens = 16;
	group.n_planes = static_cast<uint32_t>(shapes.size());
	group.planes = shapes.data();
	kvh_space_desc_init(&space, sizeof(space));
	space.chunk_tokens = 16;
	space.layers = space.heads = space.head_size = space.tp_size = space.pp_size = 1;
	space.n_groups = 1;
	space.groups = &group;
	kvh_pool_desc_init(&desc, sizeof(desc));
	EXPECT_EQ(0, kvh_space_open(engine.get(), &space, &desc.space));
	desc.n_allocs = static_cast<uint32_t>(allocs.size());
	desc.allocs = allocs.data();
	desc.n_planes = static_cast<uint32_t>(planes.size());
	desc.planes = planes.data();
	desc.group_pages = &pages;
	if (space_p != nullptr)
		*space_p = desc.space;
	if (uuid != nullptr)
		memcpy(desc.device_uuid, uuid, sizeof(desc.device_uuid));
	return kvh_pool_register(engine.get(), &desc, pool_p);
}

/* Memory of each device, and of none. */
class Owners : public testing::Test
{
      protected:
	explicit Owners(const char *device = "host,host,host") : engine(on(device))
	{
		for (uint32_t i = 0; i < engine.get()->devices.n; i++) {
			mem.push_back(nullptr);
			EXPECT_EQ(0, engine.dev(i)->ops->mem_alloc(engine.dev(i), 2 * PAGE,
								   &mem.back()));
		}
	}
	~Owners() override
	{
		for (uint32_t i = 0; i < mem.size(); i++)
			engine.dev(i)->ops->mem_free(engine.dev(i), mem[i]);
	}
	uint64_t pools(uint32_t i)
	{
		return engine.device(i).pools;
	}

	Engine engine;
	std::vector<void *> mem;
	alignas(256) char process[PAGE];
	kvh_pool_t pool = 77;
};

TEST_F(Owners, WithoutAUuidTheMemorySays)
{
	for (uint32_t i = 0; i < 3; i++) {
		EXPECT_EQ(0, register_at(engine, {mem[i]}, nullptr, &pool));
		EXPECT_EQ(1u, pools(i));
	}
	EXPECT_EQ(0, register_at(engine, {process}, nullptr, &pool));
	EXPECT_EQ(2u, pools(0)) << "the process's: the first reaches it";
}

TEST_F(Owners, MemoryOfTwoDevicesIsNoPool)
{
	Log log;

	EXPECT_EQ(-ENODEV, register_at(engine, {mem[1], mem[2]}, nullptr, &pool));
	EXPECT_EQ(77u, pool);
	EXPECT_EQ(1u, log.count("allocation 0 is on host:1, 1 on host:2")) << log.text();
	for (const char *label : {"  host:0 ", "  host:1 ", "  host:2 "})
		EXPECT_EQ(1u, log.count(label)) << log.text();
	EXPECT_EQ(0, register_at(engine, {mem[1], static_cast<char *>(mem[1]) + PAGE}, nullptr,
				 &pool));
	EXPECT_EQ(1u, pools(1));
}

TEST_F(Owners, AUuidIsTakenAtItsWord)
{
	uint8_t uuid[16];
	Log log;

	memcpy(uuid, engine.device(2).uuid, sizeof(uuid));
	EXPECT_EQ(0, register_at(engine, {process}, uuid, &pool));
	EXPECT_EQ(1u, pools(2));
	uuid[15] ^= 0x40;
	EXPECT_EQ(-ENODEV, register_at(engine, {process}, uuid, &pool));
	EXPECT_EQ(1u, log.count("no device of the UUID 6b76686f6973742d686f737400000042"))
		<< log.text();
	EXPECT_EQ(1u, log.count("  host:2 6b76686f6973742d686f737400000002 (host)"));
}

class OneOwner : public Owners
{
      protected:
	OneOwner() : Owners("host")
	{
	}
};

TEST_F(OneOwner, NeedsNoUuid)
{
	uint8_t uuid[16];

	memcpy(uuid, engine.device(0).uuid, sizeof(uuid));
	EXPECT_EQ(0, register_at(engine, {mem[0]}, nullptr, &pool));
	EXPECT_EQ(0, register_at(engine, {process}, nullptr, &pool));
	EXPECT_EQ(0, register_at(engine, {process}, uuid, &pool));
	uuid[0] ^= 1;
	Log log;
	EXPECT_EQ(-ENODEV, register_at(engine, {process}, uuid, &pool));
	EXPECT_EQ(3u, pools(0));
}

TEST(Devices, TheOptionIsAsItWasGiven)
{
	Engine engine(on("host,host"));
	kvh_snapshot *snapshot;
	char text[32];

	EXPECT_EQ(9, kvh_engine_get(engine.get(), "device", text, sizeof(text)));
	EXPECT_STREQ("host,host", text);
	ASSERT_EQ(0, kvh_snapshot_take(engine.get(), &snapshot));
	ASSERT_EQ(2u, snapshot->n_devices);
	EXPECT_STREQ("host:0", snapshot->devices[0].label);
	EXPECT_STREQ("host:1", snapshot->devices[1].label);
	kvh_snapshot_free(snapshot);

	std::string most = "host";
	for (uint32_t i = 1; i < KVH_DEVICES_MAX; i++)
		most += ",host";
	Engine all(on(most.c_str()));
	std::vector<char> long_text(most.size() + 1);
	EXPECT_EQ(static_cast<int>(most.size()),
		  kvh_engine_get(all.get(), "device", long_text.data(), long_text.size()));
	EXPECT_EQ(most, long_text.data());
	EXPECT_EQ(KVH_DEVICES_MAX, all.status().n_devices);
	most += ",host";
	kvh_engine *too_many = nullptr;
	Log refused;
	EXPECT_EQ(-EINVAL, open_engine(on(most.c_str()), &too_many));
	for (const char *names : {"host,tpu", "host,cuda:0", "host,auto", ","}) {
		kvh_engine *none = nullptr;

		EXPECT_EQ(-EINVAL, open_engine(on(names), &none)) << names;
		EXPECT_EQ(nullptr, none);
	}
}

/* ---- chunks across devices ---------------------------------------------- */

/* From pages of one device to pages of another, which have other numbers. */
void across(const Desc &desc, uint32_t rank_a, uint32_t rank_b)
{
	Engine engine(on("host,host"));
	Side a(engine, desc, 0, rank_a), b(engine, desc, 1, rank_b);
	const auto hashes = prompt(1, 5);

	EXPECT_EQ(5u, store_prompt(a.queue, a.pool, hashes, KVH_STORE_PERSISTED));
	EXPECT_EQ(5u, fetch_and_check(b.queue, b.pool, hashes)) << "by L1";
	engine.evict();
	EXPECT_EQ(5u, fetch_and_check(b.queue, b.pool, hashes)) << "by L2";
	EXPECT_EQ(0u, b.count(KVH_HOST_GATHER));
	EXPECT_EQ(0u, a.count(KVH_HOST_SCATTER));
	EXPECT_EQ(5u, engine.device(0).stored_chunks);
	EXPECT_EQ(10u, engine.device(1).loaded_chunks);
}

TEST(Devices, ChunksOfOneRankGoAcross)
{
	across({}, 0, 0);
}

TEST(Devices, ChunksOfReplicatedGroupsGoAcrossRanks)
{
	Desc desc;

	desc.layout.groups[0].fields.replicated = 1;
	across(desc, 0, 1);
}

/* Two devices of an engine with memory of their own for a page each, of which no UUID is
 * named; also on GPUs, where there are two. */
class OwnMemory : public testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		kvh_engine *opened = nullptr;
		Log log;

		if (open_engine(on(GetParam()), &opened) != 0)
			GTEST_SKIP() << kvh_device_describe();
		engine = std::make_unique<Engine>(opened);
		if (engine->status().n_devices < 2)
			GTEST_SKIP() << "two devices are needed";
		for (uint32_t i = 0; i < 2; i++) {
			kvh_device *dev = engine->dev(i);

			ASSERT_EQ(0, dev->ops->mem_alloc(dev, PAGE, &mem[i]));
			ASSERT_EQ(0,
				  register_at(*engine, {mem[i]}, nullptr, &pools[i], &space));
			EXPECT_EQ(1u, engine->device(i).pools);
		}
		queue = std::make_unique<Queue>(*engine);
	}
	void TearDown() override
	{
		Job unregister[2];

		for (uint32_t i = 0; i < 2 && queue != nullptr; i++) {
			kvh_device *dev = engine->dev(i);

			EXPECT_EQ(0, queue->run(unregister[i], [&](kvh_queue *q, uint64_t tag,
								   kvh_job_t *id) {
				return kvh_pool_unregister(q, pools[i], tag, id);
			}));
			EXPECT_EQ(0, queue->finish(unregister[i]).status);
			dev->ops->mem_free(dev, mem[i]);
		}
		queue.reset();
	}
	/* On the stream that stores and loads are ordered by where none is named. */
	void copy(uint32_t device, enum kvh_copy_kind kind, void *dst, const void *src)
	{
		kvh_device *dev = engine->dev(device);
		const kvh_copy c = {dst, src, PAGE};

		EXPECT_EQ(0, dev->ops->copy(dev, kind, &c, nullptr));
		EXPECT_EQ(0, dev->ops->stream_wait(dev, nullptr));
	}
	void store(uint32_t device, const kvh_hash &hash)
	{
		const uint32_t page = 0;
		const kvh_store_chunk chunk = {{hash, space, 0, 0}, {}, &page, 1, 0};
		kvh_store_opts opts;
		Job job;

		kvh_store_opts_init(&opts, sizeof(opts));
		ASSERT_EQ(0, queue->run(job, [&](kvh_queue *q, uint64_t tag, kvh_job_t *id) {
			opts.user_data = tag;
			return kvh_store(q, pools[device], &chunk, 1, &opts, nullptr, id);
		}));
		EXPECT_EQ(1u, queue->finish(job).n_ok);
	}
	void load(uint32_t device, const kvh_hash &hash)
	{
		const uint32_t page = 0;
		std::vector<kvh_lease_t> leases;
		kvh_load_opts opts;
		Job job;

		ASSERT_EQ(1u, queue->lookup({space, {hash}}, nullptr, &leases));
		const kvh_load_chunk chunk = {leases[0], &page, 1, 0};
		kvh_load_opts_init(&opts, sizeof(opts));
		opts.flags = KVH_LOAD_RELEASE;
		ASSERT_EQ(0, queue->run(job, [&](kvh_queue *q, uint64_t tag, kvh_job_t *id) {
			opts.user_data = tag;
			return kvh_load(q, pools[device], &chunk, 1, &opts, nullptr, id);
		}));
		EXPECT_EQ(1u, queue->finish(job).n_ok);
	}

	std::unique_ptr<Engine> engine;
	std::unique_ptr<Queue> queue;
	void *mem[2] = {};
	kvh_pool_t pools[2] = {};
	kvh_space_t space = KVH_NONE;
};

TEST_P(OwnMemory, ChunksGoAcrossBothWays)
{
	for (uint32_t from = 0; from < 2; from++) {
		const uint32_t to = 1 - from;
		Bytes bytes(PAGE), zero(PAGE), back(PAGE);

		for (size_t i = 0; i < bytes.size(); i++)
			bytes[i] = static_cast<unsigned char>(mix(from + 1) >> i % 8 * 8 ^ i);
		copy(from, KVH_COPY_H2D, mem[from], bytes.data());
		copy(to, KVH_COPY_H2D, mem[to], zero.data());
		store(from, hash_of(from, 0));
		copy(from, KVH_COPY_H2D, mem[from], zero.data());
		load(to, hash_of(from, 0));
		copy(to, KVH_COPY_D2H, back.data(), mem[to]);
		EXPECT_TRUE(back == bytes);
		EXPECT_EQ(1u, engine->device(from).stored_chunks);
		EXPECT_EQ(1u, engine->device(to).loaded_chunks);
	}
}

INSTANTIATE_TEST_SUITE_P(Devices, OwnMemory, testing::Values("host,host", "cuda:*"),
			 [](const auto &info) { return info.index == 0 ? "host" : "cuda"; });

/* Threads that store from one device and load to the other, in both directions, while
 * L1 is emptied under them: then L2 serves. */
TEST(Devices, BothAtOnce)
{
	constexpr uint32_t THREADS = 3;
	const uint32_t rounds = TSAN ? 25 : 100;
	Engine engine(on("host,host", 16 * MIB));
	Desc desc;
	std::vector<std::thread> threads;
	std::atomic<uint64_t> loaded{0};

	for (uint32_t t = 0; t < THREADS; t++)
		threads.emplace_back([&, t] {
			Side sides[] = {{engine, desc, 0}, {engine, desc, 1}};
			layouts::Rng rng(t);

			for (uint32_t i = 0; i < rounds && !testing::Test::HasFailure(); i++) {
				const auto hashes = prompt(
					rng() % 24, 1 + static_cast<uint32_t>(rng() % 6));
				const size_t from = rng() % 2;

				for (Side &side : sides)
					side.pool.give_all();
				(void)store_prompt(sides[from].queue, sides[from].pool, hashes,
						   KVH_STORE_PERSISTED);
				if (rng() % 4 == 0)
					engine.evict();
				loaded += fetch_and_check(sides[1 - from].queue,
							  sides[1 - from].pool, hashes);
			}
		});
	for (auto &thread : threads)
		thread.join();
	const kvh_device_status a = engine.device(0), b = engine.device(1);
	EXPECT_GT(a.stored_chunks, 0u);
	EXPECT_GT(b.stored_chunks, 0u);
	EXPECT_EQ(engine.status().stored_chunks, a.stored_chunks + b.stored_chunks);
	EXPECT_EQ(engine.status().stored_bytes, a.stored_bytes + b.stored_bytes);
	EXPECT_GT(a.loaded_chunks, 0u);
	EXPECT_GT(b.loaded_chunks, 0u);
	EXPECT_EQ(loaded, a.loaded_chunks + b.loaded_chunks);
	EXPECT_EQ(0u, a.jobs + b.jobs + a.errors + b.errors);
}

/* ---- NUMA nodes --------------------------------------------------------- */

/* Devices on nodes that this machine need not have, and an arena whose pieces lie on
 * them in turn: said after open, where mbind would have refused. */
class Nodes : public testing::Test
{
      protected:
	Nodes() : engine(opts())
	{
		kvh_devices &devices = engine.get()->devices;

		kvh_arena_pinned_wait(engine.get()->arena);
		uint32_t n = kvh_arena_pieces(engine.get()->arena, &pieces);

		EXPECT_EQ(4u, n);
		for (uint32_t i = 0; i < n; i++)
			const_cast<kvh_arena_piece *>(pieces)[i].node = 4 +
									static_cast<int>(i % 2);
		for (uint32_t i = 0; i < devices.n; i++)
			devices.list[i].info.numa_node = 4 + static_cast<int>(i);
	}
	static Opts opts()
	{
		Opts opts = on("host,host");

		opts.l1_piece_bytes = 2 * MIB;
		return opts;
	}
	/* Where the chunks' frames lie. */
	std::set<int> nodes(const Pool &pool, const std::vector<kvh_hash> &hashes)
	{
		kvh_l1 *l1 = engine.get()->l1;
		std::set<int> found;

		for (const kvh_hash &hash : hashes) {
			const kvh_key key = pool.key(0, hash);
			kvh_frame frame;

			if (kvh_l1_hold_key(l1, &key, &frame) != 0)
				continue;
			found.insert(pieces[kvh_arena_piece_of(engine.get()->arena,
							       kvh_l1_data(l1, frame))]
					     .node);
			kvh_l1_unhold(l1, frame);
		}
		return found;
	}

	Engine engine;
	const kvh_arena_piece *pieces = nullptr;
	Desc desc;
};

TEST_F(Nodes, FramesLieNearThePoolsDevice)
{
	engine.get()->devices.spread = true;
	Side a(engine, desc, 0, 0), b(engine, desc, 1, 1);

	for (Side *side : {&b, &a}) {
		const std::set<int> near = {4 + static_cast<int>(side->index)};
		const auto hashes = prompt(side->index, 6);

		EXPECT_EQ(6u,
			  store_prompt(side->queue, side->pool, hashes, KVH_STORE_PERSISTED));
		EXPECT_EQ(near, nodes(side->pool, hashes));
		engine.evict();
		EXPECT_EQ(std::set<int>(), nodes(side->pool, hashes));
		EXPECT_EQ(6u, fetch_and_check(side->queue, side->pool, hashes));
		EXPECT_EQ(near, nodes(side->pool, hashes)) << "read for the rank's pool";
	}
}

/* What no node was asked for goes where there is room, from the lowest address on. */
TEST_F(Nodes, OneNodeAsksForNone)
{
	Side b(engine, desc, 1);

	EXPECT_EQ(6u, store_prompt(b.queue, b.pool, prompt(1, 6)));
	EXPECT_EQ(std::set<int>{4}, nodes(b.pool, prompt(1, 6)));
}

/* Nor to evict: the other node is taken first. */
TEST_F(Nodes, AFullNodeIsNoReasonToRefuse)
{
	constexpr uint32_t CHUNKS = 16;
	std::set<int> last;

	engine.get()->devices.spread = true;
	Side b(engine, desc, 1);
	for (uint64_t i = 0; last != std::set<int>{4} && !HasFailure(); i++) {
		b.pool.give_all();
		ASSERT_EQ(CHUNKS, store_prompt(b.queue, b.pool, prompt(i, CHUNKS)));
		last = nodes(b.pool, prompt(i, CHUNKS));
		EXPECT_TRUE(i > 0 || last == std::set<int>{5});
		ASSERT_LT(i, 100u);
	}
	EXPECT_GE(engine.status().l1_used_bytes, 4 * MIB - 64 * 1024);
	EXPECT_EQ(0u, engine.status().evicted_alloc + engine.status().evicted_background);
}

TEST(Devices, NodesAreNamedOnceEach)
{
	kvh_engine_device list[5] = {};
	kvh_devices devices = {list, 5, false, {}};
	int nodes[5];

	for (uint32_t i = 0; i < 5; i++)
		list[i].info.numa_node = std::array<int, 5>{3, -1, 0, 3, 1}[i];
	ASSERT_EQ(3u, kvh_devices_nodes(&devices, nodes, 5));
	EXPECT_EQ(3, nodes[0]);
	EXPECT_EQ(0, nodes[1]);
	EXPECT_EQ(1, nodes[2]);
	EXPECT_EQ(2u, kvh_devices_nodes(&devices, nodes, 2));
	devices.spread = true;
	EXPECT_EQ(4u, kvh_devices_near(&devices, &list[0]));
	EXPECT_EQ(0u, kvh_devices_near(&devices, &list[1]));
	EXPECT_EQ(1u, kvh_devices_near(&devices, &list[2]));
	devices.spread = false;
	EXPECT_EQ(0u, kvh_devices_near(&devices, &list[0]));
}

} // namespace
