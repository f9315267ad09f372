/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_test.cc - what every device does: one body over the host device, its
 * stepped form, and CUDA, which is skipped where there is none. Memory of the
 * device is only ever reached by copies.
 */
#include "cuda/device.h"
#include "cuda/pack.h"
#include "host/log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

using Bytes = std::vector<unsigned char>;

void quiet(void *, kvh_log_level, const char *)
{
}

int open_named(const std::string &name, kvh_device **dev_p)
{
	if (name == "stepped")
		return kvh_device_host_open_stepped(dev_p);
	return kvh_device_open(name.c_str(), dev_p);
}

class DeviceTest : public testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		kvh_log_set(quiet, nullptr, KVH_LOG_ERROR); /* failures are the point */
		int err = open_named(GetParam(), &dev);
		if (err == -ENODEV && std::string(GetParam()) == "cuda")
			GTEST_SKIP() << kvh_device_describe();
		ASSERT_EQ(err, 0);
		ops = dev->ops;
		ASSERT_EQ(ops->stream_create(dev, 0, &stream), 0);
		ASSERT_EQ(ops->stream_create(dev, 1, &other), 0);
		seed = std::random_device{}();
		rng.seed(seed);
	}

	void TearDown() override
	{
		if (HasFailure())
			std::cerr << "seed " << seed << "\n";
		if (dev != nullptr) {
			ops->stream_destroy(dev, stream);
			ops->stream_destroy(dev, other);
			for (void *mem : device_mem)
				ops->mem_free(dev, mem);
			for (void *mem : host_mem)
				ops->host_free(dev, mem);
			ops->close(dev);
		}
		kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	}

	unsigned char *device_alloc(uint64_t bytes)
	{
		void *mem = nullptr;

		EXPECT_EQ(ops->mem_alloc(dev, bytes, &mem), 0);
		device_mem.push_back(mem);
		return static_cast<unsigned char *>(mem);
	}

	unsigned char *host_alloc(uint64_t bytes)
	{
		void *mem = nullptr;

		EXPECT_EQ(ops->host_alloc(dev, bytes, &mem), 0);
		host_mem.push_back(mem);
		return static_cast<unsigned char *>(mem);
	}

	/* Pinned, random. */
	unsigned char *host_random(uint64_t bytes)
	{
		unsigned char *mem = host_alloc(bytes);

		for (uint64_t i = 0; i < bytes; i++)
			mem[i] = static_cast<unsigned char>(rng());
		return mem;
	}

	void copy_now(kvh_copy_kind kind, void *dst, const void *src, uint64_t bytes)
	{
		kvh_copy copy = {dst, src, bytes};

		ASSERT_EQ(ops->copy(dev, kind, &copy, stream), 0);
		ASSERT_EQ(ops->stream_wait(dev, stream), 0);
	}

	Bytes device_read(const void *src, uint64_t bytes)
	{
		unsigned char *mem = host_alloc(bytes);

		copy_now(KVH_COPY_D2H, mem, src, bytes);
		return Bytes(mem, mem + bytes);
	}

	void device_write(void *dst, const Bytes &bytes)
	{
		unsigned char *mem = host_alloc(bytes.size());

		memcpy(mem, bytes.data(), bytes.size());
		copy_now(KVH_COPY_H2D, dst, mem, bytes.size());
	}

	kvh_device *dev = nullptr;
	const kvh_device_ops *ops = nullptr;
	kvh_stream stream = nullptr, other = nullptr;
	std::vector<void *> device_mem, host_mem;
	unsigned seed = 0;
	std::mt19937 rng;
};

TEST_P(DeviceTest, SaysWhatItIs)
{
	kvh_device_info info;

	ops->info(dev, &info);
	EXPECT_GT(strlen(info.name), 0u);
	EXPECT_GT(info.mem_bytes, 0u);
	EXPECT_GE(info.numa_node, -1);
	EXPECT_EQ(info.n_sms != 0, std::string(ops->name) == "cuda");
	EXPECT_EQ(std::string(info.label), std::string(ops->name) + ":0");
	EXPECT_NE(std::string(16, '\0'),
		  std::string(reinterpret_cast<const char *>(info.uuid), 16))
		<< "that one means any device";
	EXPECT_FALSE(ops->dead(dev));
}

TEST_P(DeviceTest, OwnsWhatWasAllocatedOnIt)
{
	unsigned char *mem = device_alloc(4096);
	const int here = std::string(ops->name) == "cuda" ? KVH_OWNS_NO : KVH_OWNS_MAYBE;
	void *pinned = nullptr;

	EXPECT_EQ(ops->owns(dev, mem), KVH_OWNS_YES);
	EXPECT_EQ(ops->owns(dev, mem + 4095), KVH_OWNS_YES);
	EXPECT_EQ(ops->owns(dev, &pinned), here) << "the process's";
	ASSERT_EQ(ops->host_alloc(dev, 4096, &pinned), 0);
	EXPECT_EQ(ops->owns(dev, pinned), here);
	ops->host_free(dev, pinned);
}

TEST_P(DeviceTest, AllocationsFailCleanly)
{
	void *mem = this;

	EXPECT_EQ(ops->mem_alloc(dev, 0, &mem), -EINVAL);
	EXPECT_EQ(ops->host_alloc(dev, 0, &mem), -EINVAL);
	EXPECT_EQ(ops->mem_alloc(dev, UINT64_C(1) << 63, &mem), -ENOMEM);
	EXPECT_EQ(ops->host_alloc(dev, UINT64_C(1) << 63, &mem), -ENOMEM);
	EXPECT_EQ(mem, this) << "outputs are written on success only";
	EXPECT_FALSE(ops->dead(dev));

	/* And it goes on as before. */
	unsigned char *buf = device_alloc(4096);
	EXPECT_EQ(reinterpret_cast<uintptr_t>(buf) % 64, 0u);
	device_write(buf, Bytes(4096, 7));
	EXPECT_EQ(device_read(buf, 4096), Bytes(4096, 7));
	ops->mem_free(dev, nullptr);
	ops->host_free(dev, nullptr);
}

TEST_P(DeviceTest, CopiesRoundTrip)
{
	for (int round = 0; round < 20; round++) {
		uint64_t bytes = rng() % (round < 10 ? 100 : 1 << 20) + 1;
		unsigned char *src = host_random(bytes), *dst = host_alloc(bytes);
		unsigned char *a = device_alloc(bytes), *b = device_alloc(bytes);
		kvh_copy up = {a, src, bytes}, over = {b, a, bytes}, down = {dst, b, bytes};

		ASSERT_EQ(ops->copy(dev, KVH_COPY_H2D, &up, stream), 0);
		ASSERT_EQ(ops->copy(dev, KVH_COPY_D2D, &over, stream), 0);
		ASSERT_EQ(ops->copy(dev, KVH_COPY_D2H, &down, stream), 0);
		ASSERT_EQ(ops->stream_wait(dev, stream), 0);
		ASSERT_EQ(memcmp(src, dst, bytes), 0) << bytes << " bytes";
	}
}

TEST_P(DeviceTest, Copies2dLeaveTheGapsAlone)
{
	const uint64_t width = 100, height = 37, wide = 256;
	unsigned char *src = host_random(width * height);
	unsigned char *dst = device_alloc(wide * height);
	Bytes want(wide * height, 0xee);

	device_write(dst, want);
	ASSERT_EQ(ops->copy_2d(dev, KVH_COPY_H2D, dst, wide, src, width, width, height, stream),
		  0);
	ASSERT_EQ(ops->stream_wait(dev, stream), 0);
	for (uint64_t y = 0; y < height; y++)
		memcpy(&want[y * wide], src + y * width, width);
	EXPECT_EQ(device_read(dst, wide * height), want);
	EXPECT_EQ(ops->copy_2d(dev, KVH_COPY_H2D, dst, width - 1, src, width, width, height,
			       stream),
		  -EINVAL);
}

/* More copies than one submission holds, empty ones among them, in any order. */
TEST_P(DeviceTest, BatchesCopyEverything)
{
	const size_t n = 700, each = 64;

	for (kvh_stream s : {stream, static_cast<kvh_stream>(nullptr)}) {
		unsigned char *src = host_random(n * each), *dst = device_alloc(n * each);
		std::vector<kvh_copy> copies;
		Bytes want(n * each, 0);

		device_write(dst, want);
		for (size_t i = 0; i < n; i++) {
			uint64_t bytes = i % 7 == 0 ? 0 : rng() % each + 1;

			copies.push_back({dst + i * each, src + (n - 1 - i) * each, bytes});
			memcpy(&want[i * each], src + (n - 1 - i) * each, bytes);
		}
		ASSERT_EQ(ops->copy_batch(dev, KVH_COPY_H2D, copies.data(), n, s), 0);
		ASSERT_EQ(ops->copy_batch(dev, KVH_COPY_H2D, nullptr, 0, s), 0);
		ASSERT_EQ(ops->stream_wait(dev, s), 0);
		EXPECT_EQ(device_read(dst, n * each), want);
	}
}

TEST_P(DeviceTest, EventsFollowTheStream)
{
	kvh_event_mark event;

	ASSERT_EQ(ops->event_create(dev, &event), 0);
	EXPECT_EQ(ops->event_query(dev, event), 1) << "never recorded";
	EXPECT_EQ(ops->stream_wait_event(dev, stream, event), 0);
	for (kvh_stream s : {stream, other, static_cast<kvh_stream>(nullptr)}) {
		ASSERT_EQ(ops->event_record(dev, event, s), 0);
		int rc = ops->event_query(dev, event);
		EXPECT_TRUE(rc == 0 || rc == 1) << rc;
		ASSERT_EQ(ops->stream_wait(dev, s), 0);
		EXPECT_EQ(ops->event_query(dev, event), 1);
	}
	ops->event_destroy(dev, event);
	ops->event_destroy(dev, nullptr);
}

/* A value is handed from slot to slot, on two streams in turn, each waiting for
 * the other's event, and by the NULL stream now and then. */
TEST_P(DeviceTest, StreamsWaitForEachOther)
{
	const uint64_t each = 1 << 16;
	const size_t n = 60;
	unsigned char *src = host_random(each), *slots = device_alloc(n * each);
	kvh_stream streams[] = {stream, other};
	kvh_event_mark events[2];

	for (kvh_event_mark &event : events)
		ASSERT_EQ(ops->event_create(dev, &event), 0);
	device_write(slots, Bytes(n * each, 0));
	kvh_copy first = {slots, src, each};
	ASSERT_EQ(ops->copy(dev, KVH_COPY_H2D, &first, stream), 0);
	ASSERT_EQ(ops->event_record(dev, events[0], stream), 0);
	for (size_t i = 1; i < n; i++) {
		kvh_stream s = i % 10 == 0 ? nullptr : streams[i % 2];
		kvh_copy hand = {slots + i * each, slots + (i - 1) * each, each};

		ASSERT_EQ(ops->stream_wait_event(dev, s, events[(i - 1) % 2]), 0);
		ASSERT_EQ(ops->copy(dev, KVH_COPY_D2D, &hand, s), 0);
		ASSERT_EQ(ops->event_record(dev, events[i % 2], s), 0);
	}
	ASSERT_EQ(ops->stream_wait_event(dev, stream, events[(n - 1) % 2]), 0);
	EXPECT_EQ(device_read(slots + (n - 1) * each, each), Bytes(src, src + each));
	for (kvh_event_mark event : events)
		ops->event_destroy(dev, event);
}

TEST_P(DeviceTest, NotifiesBehindTheWork)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	unsigned char *src = host_random(1 << 20), *dst = host_alloc(1 << 20);
	unsigned char *mem = device_alloc(1 << 20);
	kvh_copy up = {mem, src, 1 << 20}, down = {dst, mem, 1 << 20};
	eventfd_t n = 0;

	ASSERT_GE(fd, 0);
	ASSERT_EQ(ops->copy(dev, KVH_COPY_H2D, &up, stream), 0);
	ASSERT_EQ(ops->copy(dev, KVH_COPY_D2H, &down, stream), 0);
	ASSERT_EQ(ops->notify(dev, stream, fd), 0);
	ASSERT_EQ(ops->notify(dev, stream, fd), 0);
	ASSERT_EQ(ops->notify(dev, nullptr, fd), 0);
	ASSERT_EQ(ops->stream_wait(dev, stream), 0);
	ASSERT_EQ(ops->stream_wait(dev, nullptr), 0);
	ASSERT_EQ(eventfd_read(fd, &n), 0);
	EXPECT_EQ(n, 3u);
	EXPECT_EQ(memcmp(src, dst, 1 << 20), 0);
	close(fd);
}

/* The mover's way of learning that bytes are there: it polls the event. */
TEST_P(DeviceTest, AQueriedEventMeansThatBytesAreThere)
{
	if (std::string(GetParam()) == "stepped")
		GTEST_SKIP() << "nothing goes on while this thread polls";
	kvh_event_mark event;
	unsigned char *src = host_random(1 << 16), *dst = host_alloc(1 << 16);
	unsigned char *mem = device_alloc(1 << 16);
	kvh_copy up = {mem, src, 1 << 16}, down = {dst, mem, 1 << 16};

	ASSERT_EQ(ops->event_create(dev, &event), 0);
	for (int i = 0, rc; i < 50; i++) {
		memset(dst, 0, 1 << 16);
		ASSERT_EQ(ops->copy(dev, KVH_COPY_H2D, &up, stream), 0);
		ASSERT_EQ(ops->copy(dev, KVH_COPY_D2H, &down, stream), 0);
		ASSERT_EQ(ops->event_record(dev, event, stream), 0);
		while ((rc = ops->event_query(dev, event)) == 0)
			std::this_thread::yield();
		ASSERT_EQ(rc, 1);
		ASSERT_EQ(memcmp(src, dst, 1 << 16), 0);
	}
	ops->event_destroy(dev, event);
}

TEST_P(DeviceTest, RegistersOnce)
{
	const uint64_t bytes = 2 << 20;
	std::unique_ptr<void, decltype(&free)> mem(aligned_alloc(4096, bytes), &free);
	unsigned char *base = static_cast<unsigned char *>(mem.get());

	ASSERT_NE(base, nullptr);
	memset(base, 0, bytes);
	ASSERT_EQ(ops->host_register(dev, base, bytes / 2), 0);
	EXPECT_EQ(ops->host_register(dev, base, bytes / 2), -EEXIST);
	EXPECT_EQ(ops->host_register(dev, base + bytes / 2, bytes / 2), 0) << "beside it";
	EXPECT_EQ(ops->host_register(dev, base, 0), -EINVAL);
	EXPECT_EQ(ops->host_unregister(dev, base), 0);
	EXPECT_EQ(ops->host_unregister(dev, base + bytes / 2), 0);
	EXPECT_NE(ops->host_unregister(dev, base), 0);
	EXPECT_FALSE(ops->dead(dev));
	ASSERT_EQ(ops->host_register(dev, base, bytes), 0) << "after the errors, too";
	EXPECT_EQ(ops->host_unregister(dev, base), 0);
}

TEST_P(DeviceTest, NothingIsCaptured)
{
	EXPECT_EQ(ops->stream_capturing(dev, stream), 0);
	EXPECT_EQ(ops->stream_capturing(dev, nullptr), 0);
}

/* Threads with a stream each, and one device. */
TEST_P(DeviceTest, IsUsedFromManyThreads)
{
	if (std::string(GetParam()) == "stepped")
		GTEST_SKIP() << "single-threaded by nature";
	const uint64_t bytes = 1 << 14;
	std::vector<std::thread> threads;
	std::vector<unsigned char *> src, dst;

	for (int t = 0; t < 4; t++) {
		src.push_back(host_random(bytes));
		dst.push_back(host_alloc(bytes));
	}
	for (size_t t = 0; t < 4; t++) {
		threads.emplace_back([&, t] {
			for (int i = 0; i < 20; i++) {
				kvh_stream own;
				void *mem;

				ASSERT_EQ(ops->stream_create(dev, i % 2, &own), 0);
				ASSERT_EQ(ops->mem_alloc(dev, bytes, &mem), 0);
				kvh_copy up = {mem, src[t], bytes};
				kvh_copy down = {dst[t], mem, bytes};
				ASSERT_EQ(ops->copy(dev, KVH_COPY_H2D, &up, own), 0);
				ASSERT_EQ(ops->copy(dev, KVH_COPY_D2H, &down, own), 0);
				ASSERT_EQ(ops->stream_wait(dev, own), 0);
				ops->stream_destroy(dev, own);
				ops->mem_free(dev, mem);
			}
		});
	}
	for (std::thread &thread : threads)
		thread.join();
	for (size_t t = 0; t < 4; t++)
		EXPECT_EQ(memcmp(src[t], dst[t], bytes), 0) << t;
}

/* ---- gather and scatter ---- */

/* Two planes side by side in one page, three pages a chunk: odd run lengths. */
struct Pool {
	static constexpr uint32_t n_pages = 40, per_chunk = 3, n_chunks = 5;
	static constexpr uint64_t unit[2] = {6 * 48, 96}, page = 1024;
	static constexpr uint64_t payload = per_chunk * (unit[0] + unit[1]);

	static void plan(kvh_plan *p, const unsigned char *base)
	{
		memset(static_cast<void *>(p), 0, plan_bytes);
		p->bytes = plan_bytes;
		p->payload_bytes = payload;
		p->max_unit_bytes = unit[0];
		p->pages_per_chunk = per_chunk;
		p->n_pages = n_pages;
		p->n_planes = 2;
		p->width = 16;
		for (int i = 0; i < 2; i++) {
			kvh_plan_plane *plane = &p->planes[i];

			plane->base = reinterpret_cast<uintptr_t>(base) + (i == 0 ? 0 : 512);
			plane->page_stride = page;
			plane->payload_off = i == 0 ? 0 : per_chunk * unit[0];
			plane->unit_bytes = unit[i];
			plane->run_bytes = i == 0 ? 48 : 96;
			plane->n_inner = i == 0 ? 6 : 1;
			plane->n_outer = 1;
			plane->page_inner = i == 0 ? 64 : 96;
			plane->unit_inner = plane->run_bytes;
			plane->layer = static_cast<uint32_t>(i);
			plane->width = 16;
		}
	}
	static constexpr uint64_t plan_bytes = sizeof(kvh_plan) + 2 * sizeof(kvh_plan_plane);
};

TEST_P(DeviceTest, GathersAndScattersLikeTheTwin)
{
	const uint64_t pool_bytes = Pool::n_pages * Pool::page;
	const uint64_t stage_bytes = Pool::n_chunks * Pool::payload;
	const uint32_t n_units = Pool::n_chunks * Pool::per_chunk * 2;
	unsigned char *pool = device_alloc(pool_bytes), *stage = device_alloc(stage_bytes);
	unsigned char *dev_plan = device_alloc(Pool::plan_bytes);
	Bytes host_pool(pool_bytes), plan_mem(Pool::plan_bytes), dev_mem(Pool::plan_bytes);
	kvh_plan *plan = reinterpret_cast<kvh_plan *>(plan_mem.data());
	std::vector<uint32_t> pages(Pool::n_pages);
	kvh_pack pack = {}, twin = {};

	for (unsigned char &c : host_pool)
		c = static_cast<unsigned char>(rng());
	for (uint32_t i = 0; i < Pool::n_pages; i++)
		pages[i] = i;
	std::shuffle(pages.begin(), pages.end(), rng);
	pages.resize(Pool::n_chunks * Pool::per_chunk);
	pages[4] = KVH_PAGE_NONE;

	Pool::plan(reinterpret_cast<kvh_plan *>(dev_mem.data()), pool);
	device_write(dev_plan, dev_mem);
	device_write(pool, host_pool);
	device_write(stage, Bytes(stage_bytes, 0x5a));
	uint32_t *dev_pages = reinterpret_cast<uint32_t *>(device_alloc(pages.size() * 4));
	Bytes page_bytes(pages.size() * 4);
	memcpy(page_bytes.data(), pages.data(), page_bytes.size());
	device_write(dev_pages, page_bytes);

	/* The twin, on copies in plain memory. */
	Bytes want_stage(stage_bytes + 16, 0x5a);
	void *aligned = want_stage.data();
	size_t room = want_stage.size();
	ASSERT_NE(std::align(16, stage_bytes, aligned, room), nullptr);
	Pool::plan(plan, host_pool.data());
	twin.plan = plan;
	twin.pages = pages.data();
	twin.stage = static_cast<unsigned char *>(aligned);
	twin.plane_end = 2;
	twin.n_units = n_units;
	kvh_pack_prepare(&twin, plan);
	ASSERT_EQ(kvh_gather_ref(&twin), 0);

	pack = twin;
	pack.plan = reinterpret_cast<const kvh_plan *>(dev_plan);
	pack.pages = dev_pages;
	pack.stage = stage;
	ASSERT_EQ(ops->gather(dev, &pack, stream), 0);
	EXPECT_EQ(device_read(stage, stage_bytes), Bytes(twin.stage, twin.stage + stage_bytes));

	/* And back, into pages of zeroes. */
	std::fill(host_pool.begin(), host_pool.end(), 0);
	device_write(pool, host_pool);
	ASSERT_EQ(kvh_scatter_ref(&twin), 0);
	ASSERT_EQ(ops->scatter(dev, &pack, stream), 0);
	EXPECT_EQ(device_read(pool, pool_bytes), host_pool);
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceTest, testing::Values("host", "stepped", "cuda"),
			 [](const auto &info) { return std::string(info.param); });

/* ---- names ---- */

TEST(DeviceOpenTest, RefusesNamesItDoesNotKnow)
{
	kvh_log_set(quiet, nullptr, KVH_LOG_ERROR);
	for (const char *name : {"", "gpu", "Host", "hostx", "cuda:", "cuda:x", "cuda:-1",
				 "cuda:1 ", "cuda:0x1", "cuda:00000", "cuda1", "auto:0"}) {
		kvh_device *dev = nullptr;

		EXPECT_EQ(kvh_device_open(name, &dev), -EINVAL) << '"' << name << '"';
		EXPECT_EQ(dev, nullptr);
	}
	kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
}

TEST(DeviceOpenTest, SaysWhichGpuIsNotThere)
{
	static std::string line;
	kvh_device *dev = nullptr;

	kvh_log_set([](void *, kvh_log_level, const char *text) { line = text; }, nullptr,
		    KVH_LOG_ERROR);
	EXPECT_EQ(kvh_device_open("cuda:9999", &dev), -ENODEV);
	kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	EXPECT_EQ(dev, nullptr);
	EXPECT_NE(line.find("cuda:9999"), std::string::npos) << line;
}

TEST(DeviceOpenTest, ListsOfHostsAreToldApart)
{
	kvh_device *devs[4] = {};
	kvh_device_info info[3];

	ASSERT_EQ(kvh_device_open_list("host,host,host", devs, 4), 3);
	EXPECT_EQ(devs[3], nullptr);
	for (int i = 0; i < 3; i++) {
		devs[i]->ops->info(devs[i], &info[i]);
		EXPECT_EQ(std::string(info[i].label), "host:" + std::to_string(i));
		for (int j = 0; j < i; j++)
			EXPECT_NE(0, memcmp(info[i].uuid, info[j].uuid, 16));
	}
	for (int i = 0; i < 3; i++)
		devs[i]->ops->close(devs[i]);

	/* The same names, the same devices, also in the next process. */
	kvh_device_info again;
	ASSERT_EQ(kvh_device_open_list("host", devs, 1), 1);
	devs[0]->ops->info(devs[0], &again);
	EXPECT_EQ(0, memcmp(again.uuid, info[0].uuid, 16));
	devs[0]->ops->close(devs[0]);
}

TEST(DeviceOpenTest, RefusesListsThatMakeNoSense)
{
	static std::string line;
	kvh_device *devs[2] = {};
	const struct {
		const char *names, *why;
	} rows[] = {
		{"host,", "want names"},
		{",host", "want names"},
		{"host,,host", "want names"},
		{"host, host", "want names"},
		{"host,auto", "want names"},
		{"auto,host", "want names"},
		{"cuda:*,cuda:0", "want names"},
		{"host;host", "want names"},
		{"host,hosthosthosthosthost", "want names"},
		{"cuda:1,cuda:1", "a GPU twice"},
		{"cuda,cuda:0", "a GPU twice"},
		{"host,cuda:0", "the host beside GPUs"},
		{"cuda:0,host", "the host beside GPUs"},
		{"host,host,host", "too many"},
	};

	kvh_log_set([](void *, kvh_log_level, const char *text) { line = text; }, nullptr,
		    KVH_LOG_ERROR);
	for (const auto &row : rows) {
		line.clear();
		EXPECT_EQ(kvh_device_open_list(row.names, devs, 2), -EINVAL) << row.names;
		EXPECT_NE(line.find(row.why), std::string::npos) << row.names << ": " << line;
	}
	EXPECT_EQ(kvh_device_open_list("cuda:9998,cuda:9999", devs, 2), -ENODEV);
	kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
}

TEST(DeviceOpenTest, AutoAlwaysFindsOne)
{
	for (const char *name : {static_cast<const char *>(nullptr), "auto"}) {
		kvh_device *dev = nullptr;

		ASSERT_EQ(kvh_device_open(name, &dev), 0);
		dev->ops->close(dev);
	}
}

TEST(DeviceOpenTest, DescribesTheBuild)
{
	std::string text = kvh_device_describe();

	EXPECT_TRUE(text == "no cuda" || text.rfind("cuda 1", 0) == 0) << text;
}

} // namespace
