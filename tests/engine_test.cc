// SPDX-License-Identifier: Apache-2.0
//
// Opening and closing: every option out of range, adapters that cannot be
// opened, what is left behind (nothing), status.
#include "engine_harness.h"

#include <fcntl.h>
#include <fstream>
#include <sys/stat.h>
#include <thread>

using namespace enginetest;

namespace
{

struct Bad {
	const char *log; /* what the line must have */
	int err;
	void (*make)(kvh_engine_opts &o);
};

const char *no_specs[1] = {nullptr};

const Bad bad_options[] = {
	{"engine", -EINVAL, [](kvh_engine_opts &o) { o.size--; }},
	{"engine", -EINVAL, [](kvh_engine_opts &o) { o.size += 8; }},
	{"device", -EINVAL, [](kvh_engine_opts &o) { o.device = "tpu"; }},
	{"device", -EINVAL, [](kvh_engine_opts &o) { o.device = "hostess"; }},
	{"device", -EINVAL, [](kvh_engine_opts &o) { o.device = "cuda:x"; }},
	{"device", -EINVAL, [](kvh_engine_opts &o) { o.device = ""; }},
	{"l1_bytes", -EINVAL, [](kvh_engine_opts &o) { o.l1_bytes = 0; }},
	{"l1_bytes", -EINVAL, [](kvh_engine_opts &o) { o.l1_bytes = MIB - 1; }},
	{"l1_piece_bytes", -EINVAL, [](kvh_engine_opts &o) { o.l1_piece_bytes = 2 * MIB - 1; }},
	{"l1_piece_bytes", -EINVAL, [](kvh_engine_opts &o) { o.l1_piece_bytes = 1025 * MIB; }},
	{"n_l2", -EINVAL, [](kvh_engine_opts &o) { o.n_l2 = 17; }},
	{"n_l2", -EINVAL,
	 [](kvh_engine_opts &o) {
		 o.n_l2 = 1;
		 o.l2 = nullptr;
	 }},
	{"NULL", -EINVAL,
	 [](kvh_engine_opts &o) {
		 o.n_l2 = 1;
		 o.l2 = no_specs;
	 }},
	{"policy", -EINVAL, [](kvh_engine_opts &o) { o.policy = "write-never"; }},
	{"watermark", -EINVAL, [](kvh_engine_opts &o) { o.watermark_high_pct = 50; }},
	{"watermark", -EINVAL, [](kvh_engine_opts &o) { o.watermark_low_pct = 50; }},
	{"watermark", -EINVAL,
	 [](kvh_engine_opts &o) { o.watermark_low_pct = o.watermark_high_pct = 50; }},
	{"watermark", -EINVAL,
	 [](kvh_engine_opts &o) {
		 o.watermark_low_pct = 50;
		 o.watermark_high_pct = 101;
	 }},
	{"numa_node", -EINVAL, [](kvh_engine_opts &o) { o.numa_node = -2; }},
	{"workers", -EINVAL, [](kvh_engine_opts &o) { o.workers = 65; }},
	{"stage_bytes", -EINVAL, [](kvh_engine_opts &o) { o.stage_bytes = (64 << 10) - 1; }},
	{"stage_bytes", -EINVAL, [](kvh_engine_opts &o) { o.stage_bytes = 1024 * MIB + 1; }},
	{"l2_retries", -EINVAL, [](kvh_engine_opts &o) { o.l2_retries = 17; }},
};

TEST(Engine, BadOptions)
{
	for (const auto &bad : bad_options) {
		kvh_engine *engine = reinterpret_cast<kvh_engine *>(8);
		kvh_engine_opts o;
		Log log;

		kvh_engine_opts_init(&o, sizeof(o));
		o.device = "host";
		o.l1_bytes = 2 * MIB;
		bad.make(o);
		EXPECT_EQ(bad.err, kvh_engine_open(&o, &engine)) << bad.log;
		EXPECT_EQ(reinterpret_cast<kvh_engine *>(8), engine);
		EXPECT_NE(0u, log.count(bad.log)) << bad.log << ": " << log.text();
		EXPECT_EQ(1u, log.count("\n")) << log.text();
	}
}

TEST(Engine, TheEdgesOfTheOptions)
{
	kvh_engine_opts o;
	kvh_engine *engine;

	kvh_engine_opts_init(&o, sizeof(o));
	o.device = "host";
	o.l1_bytes = MIB;
	o.l1_piece_bytes = 2 * MIB;
	o.watermark_low_pct = 1;
	o.watermark_high_pct = 100;
	o.workers = 64;
	o.stage_bytes = 64 << 10;
	o.l2_retries = 16;
	o.l2_deadline_ns = UINT64_MAX;
	o.l2_queue_bytes = UINT64_MAX;
	o.policy = "buffer-only";
	ASSERT_EQ(0, kvh_engine_open(&o, &engine));
	EXPECT_EQ(0, kvh_engine_close(engine, UINT64_MAX));
	EXPECT_EQ(0, kvh_engine_close(nullptr, 0));
}

/* An older program's struct is smaller: nothing behind it may be touched. */
TEST(Engine, AnUnknownSizeIsNotReadBeyond)
{
	const std::unique_ptr<unsigned char[]> small(new unsigned char[sizeof(size_t)]);
	kvh_engine *none;
	Engine engine;
	Queue queue(engine);
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	const kvh_prefix prefix = {pool.space, nullptr, 0, 0, 1, 1};
	kvh_lease_t lease;
	kvh_job_t job;
	Log log;
	auto *as = small.get();

	kvh_engine_opts_init(reinterpret_cast<kvh_engine_opts *>(as), sizeof(size_t));
	EXPECT_EQ(-EINVAL, kvh_engine_open(reinterpret_cast<kvh_engine_opts *>(as), &none));
	kvh_pool_desc_init(reinterpret_cast<kvh_pool_desc *>(as), sizeof(size_t));
	EXPECT_EQ(-EINVAL,
		  kvh_pool_register(engine.get(), reinterpret_cast<kvh_pool_desc *>(as), &job));
	kvh_store_opts_init(reinterpret_cast<kvh_store_opts *>(as), sizeof(size_t));
	EXPECT_EQ(-EINVAL, kvh_store(queue.get(), pool.id, nullptr, 1,
				     reinterpret_cast<kvh_store_opts *>(as), nullptr, &job));
	kvh_load_opts_init(reinterpret_cast<kvh_load_opts *>(as), sizeof(size_t));
	EXPECT_EQ(-EINVAL, kvh_load(queue.get(), pool.id, nullptr, 1,
				    reinterpret_cast<kvh_load_opts *>(as), nullptr, &job));
	kvh_prefetch_opts_init(reinterpret_cast<kvh_prefetch_opts *>(as), sizeof(size_t));
	EXPECT_EQ(-EINVAL,
		  kvh_prefetch(queue.get(), &prefix, reinterpret_cast<kvh_prefetch_opts *>(as),
			       &lease, &job));
	EXPECT_EQ(-EINVAL, kvh_status_get(engine.get(), reinterpret_cast<kvh_status *>(as)));
	EXPECT_EQ(-EINVAL,
		  kvh_l2_status_get(engine.get(), 0, reinterpret_cast<kvh_l2_status *>(as)));
	EXPECT_EQ(0u, engine.status().jobs);
}

/* ---- adapters ----------------------------------------------------------- */

int open_with(const std::vector<std::string> &l2)
{
	kvh_engine *engine = nullptr;
	const int err = open_engine({l2, 2 * MIB}, &engine);

	EXPECT_EQ(0, err != 0 ? 0 : kvh_engine_close(engine, 0));
	return err;
}

TEST(Engine, TheSameAdapterAndPathTwice)
{
	Dir dir;
	const std::string a = "fs:" + dir.path() + "/a", b = "fs:" + dir.path() + "/b";
	const std::string file = dir.path() + "/f";
	Log log;

	EXPECT_EQ(-EEXIST, open_with({a, b, a}));
	EXPECT_EQ(-EEXIST, open_with({a, a + ",size=1G"}));
	EXPECT_EQ(-EEXIST, open_with({a + ",fsync=none", b, a + ",fsync=data"}));
	EXPECT_EQ(-EEXIST, open_with({"nvme:" + file + ",size=2M", "nvme:" + file}));
	EXPECT_EQ(-EEXIST, open_with({"fs:" + dir.path() + "/x\\,y,size=1G",
				      "fs:" + dir.path() + "/x\\,y"}));
	EXPECT_EQ(5u, log.count("has the adapter and path of"));
	EXPECT_EQ(5u, log.count("\n"));
	/* Nothing was made by them. */
	EXPECT_EQ(-1, access((dir.path() + "/a").c_str(), F_OK));

	EXPECT_EQ(0, open_with({a, b}));
	EXPECT_EQ(0, open_with({"mem:size=1M", "mem:size=1M", "mem", "mem", "null", "null:"}));
	EXPECT_EQ(0, open_with({"fs:" + dir.path() + "/x\\,y", "fs:" + dir.path() + "/x"}));
	EXPECT_EQ(5u, log.count("\n")) << log.text();
}

TEST(Engine, AdaptersThatAreNotThere)
{
	Log log;

	EXPECT_EQ(-EINVAL, open_with({"floppy:/dev/fd0"}));
	EXPECT_NE(0u, log.count("floppy")) << log.text();
	EXPECT_NE(0u, log.count("nvme")) << "the log says which there are";
	EXPECT_EQ(-EINVAL, open_with({"mem:size=1M", ""}));
	EXPECT_EQ(-EINVAL, open_with({":"}));
	EXPECT_EQ(-EINVAL, open_with({"mem:sise=1M"}));
	EXPECT_EQ(-EINVAL, open_with({"mem:size=minus"}));
}

TEST(Engine, PathsThatCannotBeCreated)
{
	Dir dir;
	const std::string file = dir.path() + "/file", full = dir.path() + "/fs";
	Log log;

	std::ofstream(file) << "not a directory";
	EXPECT_EQ(-ENOTDIR, open_with({"fs:" + file + "/deeper"}));
	EXPECT_NE(0u, log.count(file));
	EXPECT_LT(open_with({"nvme:" + dir.path() + "/no/such/dir/file,size=2M"}), 0);
	EXPECT_NE(0u, log.count("/no/such/dir/file"));
	EXPECT_LT(open_with({"nvme:" + dir.path() + "/small,size=4K"}), 0);
	EXPECT_LT(open_with({"nvme:" + dir.path() + "/none"}), 0); /* size is missing */
	EXPECT_LT(open_with({"fs:"}), 0);

	/* One that fails among others that do not: those are closed again. */
	EXPECT_LT(open_with({"mem:size=1M", "fs:" + full, "nvme:/proc/none,size=2M"}), 0);
	EXPECT_EQ(0, open_with({"mem:size=1M", "fs:" + full}));
}

TEST(Engine, ADeviceThatIsNotThere)
{
	kvh_engine_opts o;
	kvh_engine *engine;
	kvh_device *dev;
	Log log;

	if (kvh_device_open("cuda", &dev) == 0) {
		dev->ops->close(dev);
		GTEST_SKIP() << "it is";
	}
	kvh_engine_opts_init(&o, sizeof(o));
	o.l1_bytes = 2 * MIB;
	o.device = "cuda";
	EXPECT_EQ(-ENODEV, kvh_engine_open(&o, &engine));
	o.device = "cuda:0";
	EXPECT_EQ(-ENODEV, kvh_engine_open(&o, &engine));
	o.device = nullptr;
	ASSERT_EQ(0, kvh_engine_open(&o, &engine));
	EXPECT_EQ(0, kvh_engine_close(engine, 0));
	o.device = "auto";
	ASSERT_EQ(0, kvh_engine_open(&o, &engine));
	EXPECT_EQ(0, kvh_engine_close(engine, 0));
}

TEST(Engine, L1ThatIsTooLarge)
{
	kvh_engine *engine;
	Log log;

	EXPECT_EQ(-ENOMEM, open_engine({{}, UINT64_C(1) << 42}, &engine));
	EXPECT_NE(0u, log.count("does not fit")) << log.text();
}

/* ---- what is left ------------------------------------------------------- */

/* Adapters' threads look at their directories now and then: the fewest of several. */
size_t open_fds()
{
	size_t fewest = SIZE_MAX;

	for (int i = 0; i < 20; i++) {
		size_t n = 0;

		for (const auto &entry : std::filesystem::directory_iterator("/proc/self/fd"))
			n += !entry.path().empty();
		fewest = n < fewest ? n : fewest;
		std::this_thread::yield();
	}
	return fewest;
}

TEST(Engine, OpenAndCloseLeaveNothing)
{
	Dir dir;
	const std::string fs = "fs:" + dir.path() + "/a";
	const std::string nvme = "nvme:" + dir.path() + "/b,size=2M,segment=1M";
	size_t before = 0;

	for (int i = 0; i < 20; i++) {
		Engine engine({{"mem:size=1M", fs, nvme}, 2 * MIB});
		Queue queue(engine);

		if (i == 1)
			before = open_fds();
	}
	{
		Engine engine({{"mem:size=1M", fs, nvme}, 2 * MIB});
		Queue queue(engine);
		EXPECT_EQ(before, open_fds());
	}
}

/* ---- status and the rest ------------------------------------------------ */

TEST(Engine, StatusCounts)
{
	Engine engine({{"null", "mem:size=16M"}, 4 * MIB});
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	struct kvh_l2_status l2 {
	};
	Job erase;

	EXPECT_EQ(4 * MIB, engine.status().l1_bytes);
	EXPECT_EQ(2u, engine.status().n_l2);
	EXPECT_EQ(5u, store_prompt(queue, pool, prompt(1, 5), KVH_STORE_PERSISTED));
	EXPECT_EQ(0u, store_prompt(queue, pool, prompt(1, 5)));
	EXPECT_EQ(5u, fetch_and_check(queue, pool, prompt(1, 5)));
	ASSERT_EQ(0, queue.erase(erase, {pool.key(0, hash_of(1, 0))}));
	EXPECT_EQ(0, queue.finish(erase).status);
	const kvh_status st = engine.status();
	EXPECT_EQ(5u, st.stored_chunks);
	EXPECT_EQ(5u * 3072, st.stored_bytes);
	EXPECT_EQ(5u, st.store_exists);
	EXPECT_EQ(5u, st.loaded_chunks);
	EXPECT_EQ(5u * 3072, st.loaded_bytes);
	EXPECT_EQ(5u, st.hits_l1);
	EXPECT_EQ(1u, st.erased);
	EXPECT_EQ(4u, st.l1_frames);
	EXPECT_EQ(4u * 8192, st.l1_used_bytes);
	EXPECT_EQ(0u, st.jobs + st.l1_leases + st.l1_doomed + st.store_waiting);
	l2.size = sizeof(l2);
	ASSERT_EQ(0, kvh_l2_status_get(engine.get(), 1, &l2));
	EXPECT_STREQ("mem", l2.name);
	EXPECT_EQ(5u, l2.puts);
	EXPECT_EQ(5u * 8192, l2.put_bytes);
	EXPECT_EQ(1u, l2.deletes);
	EXPECT_EQ(-ENOENT, kvh_l2_status_get(engine.get(), 2, &l2));
}

TEST(Engine, Version)
{
	const std::string version = kvh_version();

	EXPECT_EQ(0u, version.find("0.1.0 (")) << version;
	EXPECT_EQ(kvh_version(), kvh_version());
}

TEST(Engine, TheHighWatermarkWakesTheEvictor)
{
	Engine engine({{}, 2 * MIB});
	Desc desc;
	desc.layout = small_layout(KVH_FORMAT_NATIVE, 256);
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);

	/* 256 frames of 8 KiB: 250 are above 95 %. The controller's thread evicts,
	 * a prefetch that it has to look at goes behind that. */
	for (uint64_t seed = 0; seed < 250; seed++) {
		pool.give_all();
		EXPECT_EQ(1u, store_prompt(queue, pool, prompt(seed, 1)));
	}
	pool.give_all();
	EXPECT_EQ(0u, fetch_and_check(queue, pool, prompt(1000, 1)));
	const kvh_status st = engine.status();
	EXPECT_GT(st.evicted_background, 0u);
	EXPECT_EQ(0u, st.evicted_alloc);
	EXPECT_LE(st.l1_used_bytes, 2 * MIB / 100 * 95);
	EXPECT_EQ(250u, st.l1_frames + st.evicted_background);
}

} // namespace
