// SPDX-License-Identifier: Apache-2.0
//
// work_test.cc - the worker pool runs all that was posted, once, also what is
// posted while it closes, and as much at a time as it has threads.
#include "host/work.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace
{

struct Work : kvh_work {
	explicit Work(std::function<void()> f) : fn(std::move(f))
	{
		next = nullptr;
		run = [](kvh_work *work) { static_cast<Work *>(work)->fn(); };
	}
	std::function<void()> fn;
};

struct kvh_workers *open_workers(uint32_t n)
{
	struct kvh_workers *workers = nullptr;

	EXPECT_EQ(kvh_workers_open(n, &workers), 0);
	return workers;
}

TEST(Workers, CloseRunsWhatWasPosted)
{
	for (uint32_t threads : {1u, 2u, 64u}) {
		std::atomic<uint32_t> ran = 0;
		std::vector<std::unique_ptr<Work>> works;
		struct kvh_workers *workers = open_workers(threads);

		for (int i = 0; i < 1000; i++)
			works.push_back(std::make_unique<Work>([&ran] { ran++; }));
		for (auto &work : works)
			kvh_workers_post(workers, work.get());
		kvh_workers_close(workers);
		EXPECT_EQ(ran, 1000u) << threads;
	}
}

TEST(Workers, CloseWithNothingPosted)
{
	for (int i = 0; i < 100; i++)
		kvh_workers_close(open_workers(3));
	kvh_workers_close(nullptr);
}

TEST(Workers, OneThreadKeepsOrder)
{
	std::vector<std::unique_ptr<Work>> works;
	std::vector<int> order, want;
	struct kvh_workers *workers = open_workers(1);

	for (int i = 0; i < 500; i++) {
		works.push_back(std::make_unique<Work>([&order, i] { order.push_back(i); }));
		want.push_back(i);
		kvh_workers_post(workers, works.back().get());
	}
	kvh_workers_close(workers);
	EXPECT_EQ(order, want);
}

// Each waits until all have begun: with fewer threads it would never end.
TEST(Workers, AsManyAtOnceAsThereAreThreads)
{
	constexpr uint32_t kThreads = 5;
	std::mutex lock;
	std::condition_variable all;
	uint32_t inside = 0;
	std::vector<std::unique_ptr<Work>> works;
	struct kvh_workers *workers = open_workers(kThreads);

	for (uint32_t i = 0; i < kThreads; i++)
		works.push_back(std::make_unique<Work>([&] {
			std::unique_lock<std::mutex> guard(lock);

			inside++;
			all.notify_all();
			all.wait(guard, [&] { return inside == kThreads; });
		}));
	for (auto &work : works)
		kvh_workers_post(workers, work.get());
	kvh_workers_close(workers);
	EXPECT_EQ(inside, kThreads);
}

TEST(Workers, RunMayFreeItsWork)
{
	std::atomic<uint32_t> ran = 0;
	struct kvh_workers *workers = open_workers(2);

	struct Owned : kvh_work {
		std::atomic<uint32_t> *ran;
	};
	for (int i = 0; i < 100; i++) {
		Owned *work = new Owned();

		work->ran = &ran;
		work->run = [](kvh_work *w) {
			++*static_cast<Owned *>(w)->ran;
			delete static_cast<Owned *>(w);
		};
		kvh_workers_post(workers, work);
	}
	kvh_workers_close(workers);
	EXPECT_EQ(ran, 100u);
}

TEST(Workers, WorkMayPostWork)
{
	std::atomic<uint32_t> ran = 0;
	struct kvh_workers *workers = open_workers(1);
	Work last([&ran] { ran++; });
	Work first([&] {
		ran++;
		kvh_workers_post(workers, &last);
	});

	kvh_workers_post(workers, &first);
	kvh_workers_close(workers);
	EXPECT_EQ(ran, 2u);
}

TEST(Workers, PostedFromManyThreads)
{
	constexpr int kThreads = 4, kEach = 2000;
	std::atomic<uint32_t> ran = 0;
	std::vector<std::vector<Work>> works(kThreads);
	std::vector<std::thread> threads;
	struct kvh_workers *workers = open_workers(3);

	for (auto &mine : works)
		for (int i = 0; i < kEach; i++)
			mine.emplace_back([&ran] { ran++; });
	for (auto &mine : works)
		threads.emplace_back([&mine, workers] {
			for (Work &work : mine)
				kvh_workers_post(workers, &work);
		});
	for (std::thread &thread : threads)
		thread.join();
	kvh_workers_close(workers);
	EXPECT_EQ(ran, uint32_t(kThreads * kEach));
}

} // namespace
