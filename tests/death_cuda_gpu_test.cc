/* SPDX-License-Identifier: Apache-2.0 */
/*
 * death_cuda_gpu_test.cc - a kernel of the runtime's runs into an illegal address, and the
 * context is lost, with a store and a load in flight. In a child process: CUDA is of no
 * use to a process afterwards. What was in L1 has to be in L2 in the end, byte by byte.
 *
 * The same on the host device, at every operation: engine_fault_test.cc.
 */
#include "bench/runtime.h"
#include "host/clock.h"
#include "tests/kernels.h"
#include "tests/run_program.h"

#include <cuda_runtime_api.h>
#include <vector>

namespace
{

constexpr uint64_t SPIN_NS = 200 * KVH_NS_PER_MS; /* until the fault */
constexpr uint64_t GUARD_NS = 60 * KVH_NS_PER_S;  /* against a hang */
constexpr uint32_t N = 4;                         /* chunks that are kept */

/* An engine over `fs`, with a runtime's pool of pages on the device. */
class Life
{
      public:
	Life(const char *device, const std::string &dir)
	{
		const std::string spec = "fs:" + dir;
		const char *l2 = spec.c_str();
		struct kvh_runtime_opts rt = {};
		struct kvh_engine_opts opts;
		struct kvh_space_desc desc;

		EXPECT_EQ(0, kvh_geometry_make(kvh_model_find("llama-3.1-8b"), 0.02, &geo));
		n_pages = kvh_geometry_chunk_pages(&geo, 0);
		rt.device = device;
		rt.geo = &geo;
		rt.n_pages = 2 * N * n_pages;
		EXPECT_EQ(0, kvh_runtime_open(&rt, &runtime));
		kvh_engine_opts_init(&opts, sizeof(opts));
		opts.device = device;
		opts.l1_bytes = kvh_geometry_l1_bytes(&geo, 4 * N);
		opts.l2 = &l2;
		opts.n_l2 = 1;
		opts.policy = "write-back"; /* L1 alone has what was stored, until a flush */
		EXPECT_EQ(0, kvh_engine_open(&opts, &engine));
		kvh_geometry_space(&geo, &desc);
		EXPECT_EQ(0, kvh_space_open(engine, &desc, &space));
		EXPECT_EQ(0, kvh_queue_open(engine, 16, &queue));
		EXPECT_EQ(0, kvh_runtime_register(runtime, engine, space, &pool));
		pages.resize(2 * N * n_pages);
		EXPECT_TRUE(
			kvh_runtime_pages_take(runtime, uint32_t(pages.size()), pages.data()));
	}
	int close()
	{
		kvh_queue_close(queue);
		const int err = kvh_engine_close(engine, GUARD_NS);

		kvh_runtime_close(runtime);
		kvh_geometry_free(&geo);
		return err;
	}
	kvh_stream stream() const
	{
		return kvh_runtime_stream(runtime);
	}
	struct kvh_key key(uint64_t i) const
	{
		struct kvh_key k = {};

		k.space = space;
		k.rank = kvh_geometry_rank(&geo, 0);
		kvh_fill_hash(1, i, &k.hash);
		return k;
	}
	const uint32_t *pages_of(uint32_t i) const
	{
		return &pages[i * n_pages];
	}
	std::vector<kvh_runtime_chunk> chunks(uint64_t first, uint32_t at, uint32_t n) const
	{
		std::vector<kvh_runtime_chunk> all;

		for (uint32_t i = 0; i < n; i++)
			all.push_back({key(first + i), pages_of(at + i)});
		return all;
	}
	/* Keys from `first` on, from the pages of place `at` on. */
	int store(uint64_t first, uint32_t at, kvh_job_t *job)
	{
		std::vector<kvh_store_chunk> all(N);
		struct kvh_store_opts opts;

		for (uint32_t i = 0; i < N; i++) {
			all[i].key = key(first + i);
			all[i].pages = pages_of(at + i);
			all[i].n_pages = n_pages;
		}
		kvh_store_opts_init(&opts, sizeof(opts));
		opts.stream = stream();
		return kvh_store(queue, pool, all.data(), N, &opts, nullptr, job);
	}
	int load(const std::vector<kvh_lease_t> &leases, uint32_t at, kvh_job_t *job)
	{
		std::vector<kvh_load_chunk> all(N);
		struct kvh_load_opts opts;

		for (uint32_t i = 0; i < N; i++) {
			all[i].lease = leases[i];
			all[i].pages = pages_of(at + i);
			all[i].n_pages = n_pages;
		}
		kvh_load_opts_init(&opts, sizeof(opts));
		opts.stream = stream();
		return kvh_load(queue, pool, all.data(), N, &opts, nullptr, job);
	}
	/* The prompt of the first N keys. */
	struct kvh_prefix prefix(std::vector<kvh_hash> &hashes) const
	{
		struct kvh_prefix p = {};

		for (uint32_t i = 0; i < N; i++)
			hashes.push_back(key(i).hash);
		p.space = space;
		p.hashes = hashes.data();
		p.n_chunks = N;
		p.n_ranks = p.n_groups = 1;
		return p;
	}
	struct kvh_event finish(kvh_job_t job)
	{
		struct kvh_event event = {};

		for (auto known = ended.begin(); known != ended.end(); ++known)
			if (known->job == job)
				return *known;
		while (kvh_queue_wait(queue, &event, 1, GUARD_NS) == 1) {
			if (event.type != KVH_EVENT_DONE)
				continue;
			if (event.job == job)
				return event;
			ended.push_back(event);
		}
		ADD_FAILURE() << "the job did not end";
		return event;
	}

	struct kvh_geometry geo = {};
	struct kvh_runtime *runtime = nullptr;
	struct kvh_engine *engine = nullptr;
	struct kvh_queue *queue = nullptr;
	kvh_space_t space = 0;
	kvh_pool_t pool = 0;
	uint32_t n_pages = 0;
	std::vector<uint32_t> pages;
	std::vector<struct kvh_event> ended;
};

/* N chunks into L1, and leases of them. */
void keep(Life &life, std::vector<kvh_lease_t> &leases)
{
	const auto chunks = life.chunks(0, 0, N);
	std::vector<kvh_hash> hashes;
	const struct kvh_prefix prefix = life.prefix(hashes);
	uint32_t usable = 0;
	kvh_job_t job;

	ASSERT_EQ(0, kvh_runtime_fill(life.runtime, chunks.data(), N));
	ASSERT_EQ(0, life.store(0, 0, &job));
	ASSERT_EQ(0, life.finish(job).status);
	leases.resize(N);
	ASSERT_EQ(0, kvh_lookup(life.queue, &prefix, KVH_LOOKUP_LEASE, nullptr, leases.data(),
				&usable));
	ASSERT_EQ(N, usable);
}

bool healthy(const Life &life, std::string *reason)
{
	struct kvh_health health = {};

	health.size = sizeof(health);
	EXPECT_EQ(0, kvh_health_get(life.engine, &health));
	*reason = health.reason;
	return health.healthy != 0;
}

/* A store and a load wait behind the kernel that is going to fail. */
void die(Life &life, const std::vector<kvh_lease_t> &leases)
{
	std::string reason;
	kvh_job_t store, load;

	EXPECT_TRUE(healthy(life, &reason)) << reason;
	ASSERT_EQ(0, kvh_test_fault(SPIN_NS, life.stream()));
	const uint64_t begun = kvh_now_ns();

	ASSERT_EQ(0, life.store(100, 0, &store));
	ASSERT_EQ(0, life.load(leases, N, &load));
	const struct kvh_event stored = life.finish(store), loaded = life.finish(load);
	const uint64_t ended = kvh_now_ns();

	EXPECT_EQ(-EIO, stored.status);
	EXPECT_EQ(-EIO, loaded.status);
	EXPECT_TRUE(loaded.flags & KVH_EVENT_PAGES_LOST);
	while (healthy(life, &reason) && kvh_now_ns() - begun < GUARD_NS) {}
	const uint64_t ill = kvh_now_ns();

	/* The promise itself is a time: a second from the fault, which comes SPIN_NS
	 * after the launch, or later. */
	EXPECT_LE(ended - begun, SPIN_NS + KVH_NS_PER_S);
	EXPECT_LE(ill - begun, SPIN_NS + KVH_NS_PER_S) << reason;
	EXPECT_EQ(-ENODEV, life.store(200, 0, &store));
	EXPECT_EQ(-ENODEV, life.load(leases, N, &load));
}

/* L1 goes on: what it had gets to L2, which needs no device. */
void save(Life &life, const std::vector<kvh_lease_t> &leases)
{
	std::vector<kvh_hash> hashes;
	const struct kvh_prefix prefix = life.prefix(hashes);
	uint32_t usable = 0;
	kvh_job_t job;

	EXPECT_EQ(0, kvh_lookup(life.queue, &prefix, 0, nullptr, nullptr, &usable));
	EXPECT_EQ(N, usable);
	ASSERT_EQ(0, kvh_flush(life.queue, 0, &job));
	EXPECT_EQ(0, life.finish(job).status);
	EXPECT_EQ(0, kvh_release(life.engine, leases.data(), leases.size(), nullptr));
}

/* In the child. The exit status is what the parent sees. */
void run_and_die(const std::string &dir)
{
	std::vector<kvh_lease_t> leases;
	Life life("cuda", dir);

	if (!testing::Test::HasFailure())
		keep(life, leases);
	if (!testing::Test::HasFailure())
		die(life, leases);
	if (!testing::Test::HasFailure())
		save(life, leases);
	EXPECT_EQ(0, life.close());
	_exit(testing::Test::HasFailure() ? 1 : 0); /* no more of CUDA */
}

/* Another process, without the GPU, has every byte. */
void expect_kept(const std::string &dir)
{
	Life life("host", dir);
	std::vector<kvh_lease_t> leases(N);
	std::vector<kvh_runtime_wrong> wrong(N);
	std::vector<kvh_hash> hashes;
	const struct kvh_prefix prefix = life.prefix(hashes);
	const auto chunks = life.chunks(0, N, N);
	struct kvh_prefetch_opts opts;
	kvh_job_t job;

	kvh_prefetch_opts_init(&opts, sizeof(opts));
	ASSERT_EQ(0, kvh_prefetch(life.queue, &prefix, &opts, leases.data(), &job));
	ASSERT_EQ(N, life.finish(job).usable);
	ASSERT_EQ(0, kvh_runtime_poison(life.runtime, chunks.data(), N));
	ASSERT_EQ(0, life.load(leases, N, &job));
	EXPECT_EQ(0, life.finish(job).status);
	EXPECT_EQ(0, kvh_runtime_check(life.runtime, chunks.data(), N, wrong.data()));
	for (const auto &w : wrong)
		EXPECT_FALSE(w.wrong) << "plane " << w.plane << ", page " << w.page;
	EXPECT_EQ(0, kvh_release(life.engine, leases.data(), N, nullptr));
	EXPECT_EQ(0, life.close());
}

/* The same without a fault: what the test stands on, and the control of the jobs' ends. */
void run_and_live(const char *device, const std::string &dir)
{
	std::vector<kvh_lease_t> leases;
	std::string reason;
	kvh_job_t store, load;
	{
		Life life(device, dir);

		ASSERT_NO_FATAL_FAILURE(keep(life, leases));
		ASSERT_EQ(0, life.store(100, 0, &store));
		ASSERT_EQ(0, life.load(leases, N, &load));
		EXPECT_EQ(0, life.finish(store).status);
		EXPECT_EQ(0, life.finish(load).status);
		EXPECT_TRUE(healthy(life, &reason)) << reason;
		save(life, leases);
		EXPECT_EQ(0, life.close());
	}
	expect_kept(dir);
}

bool has_cuda()
{
	struct kvh_device *dev = nullptr;

	if (kvh_device_open("cuda", &dev) != 0)
		return false;
	dev->ops->close(dev);
	return true;
}

TEST(CudaDeath, AnIllegalAddressEndsTheDeviceAndNothingElse)
{
	const char *given = getenv("KVH_DEATH_DIR"); /* the child is told its parent's */

	GTEST_FLAG_SET(death_test_style, "threadsafe"); /* a process of its own */
	if (given != nullptr) {
		EXPECT_EXIT(run_and_die(given), testing::ExitedWithCode(0), "");
		return;
	}
	if (!has_cuda())
		GTEST_SKIP() << "no CUDA device: " << kvh_device_describe();
	TempDir dir;
	ASSERT_EQ(0, setenv("KVH_DEATH_DIR", dir.path("l2").c_str(), 1));
	EXPECT_EXIT(run_and_die(dir.path("l2")), testing::ExitedWithCode(0), "");
	ASSERT_EQ(0, unsetenv("KVH_DEATH_DIR"));
	expect_kept(dir.path("l2"));
}

TEST(CudaDeath, ControlWithoutTheFaultAllEndsWell)
{
	TempDir dir;

	if (!has_cuda())
		GTEST_SKIP() << "no CUDA device: " << kvh_device_describe();
	run_and_live("cuda", dir.path("l2"));
}

TEST(HostDeath, ControlWithoutTheFaultAllEndsWell)
{
	TempDir dir;

	run_and_live("host", dir.path("l2"));
}

} // namespace
