// SPDX-License-Identifier: Apache-2.0
//
// thread_test.cc - threads as rounds, waits and timers: as the system has them,
// and with a simulation in their place. Then a whole engine on one thread.
#include "engine_harness.h"
#include "host/loop.h"
#include "host/thread.h"
#include "host/work.h"
#include "sim_world.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

using namespace enginetest;

namespace
{

constexpr uint64_t MS = KVH_NS_PER_MS;

/* A thread that counts eventfd's rises, and ends at `last` of them. */
struct Counter {
	explicit Counter(uint64_t n) : last(n)
	{
		thread.name = "counter";
		thread.round = [](void *arg, kvh_wake wake) {
			return static_cast<Counter *>(arg)->round(wake);
		};
		thread.arg = this;
	}
	~Counter()
	{
		close(fd);
	}
	kvh_round round(kvh_wake wake)
	{
		eventfd_t n = 0;

		if (kvh_fd_wait(fd, wake == KVH_WAKE_WAIT ? UINT64_MAX : 0) != 0 &&
		    wake == KVH_WAKE_IF_READY)
			return KVH_ROUND_ASLEEP;
		if (eventfd_read(fd, &n) != 0)
			n = 0;
		sigset_t blocked;
		pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
		signals_blocked = sigismember(&blocked, SIGTERM) == 1;
		seen += n;
		rounds++;
		return seen >= last ? KVH_ROUND_END : KVH_ROUND_DONE;
	}
	void raise()
	{
		EXPECT_EQ(0, eventfd_write(fd, 1));
	}

	const uint64_t last;
	const int fd = eventfd(0, EFD_NONBLOCK);
	kvh_thread thread{};
	std::atomic<uint64_t> seen = 0, rounds = 0;
	std::atomic<bool> signals_blocked = false;
};

size_t threads_of_process()
{
	const std::filesystem::directory_iterator tasks("/proc/self/task");

	return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
}

/* ---- the system's ---- */

TEST(Thread, RunsRoundsUntilOneEndsIt)
{
	Counter counter(100);

	ASSERT_EQ(0, kvh_thread_start(&counter.thread));
	for (int i = 0; i < 100; i++)
		counter.raise();
	kvh_thread_join(&counter.thread);
	EXPECT_EQ(100u, counter.seen);
	EXPECT_TRUE(counter.signals_blocked);
}

TEST(Thread, WaitsEndAtTheirDeadline)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond;
	const int fd = eventfd(0, EFD_NONBLOCK);
	const uint64_t until = kvh_deadline_ns(2 * MS);
	int err = 0;

	kvh_cond_init(&cond);
	pthread_mutex_lock(&lock);
	while (err == 0)
		err = kvh_cond_wait(&cond, &lock, until);
	pthread_mutex_unlock(&lock);
	EXPECT_EQ(ETIMEDOUT, err);
	EXPECT_GE(kvh_now_ns(), until);

	const uint64_t later = kvh_deadline_ns(2 * MS);
	EXPECT_EQ(-ETIMEDOUT, kvh_fd_wait(fd, later));
	EXPECT_GE(kvh_now_ns(), later);
	EXPECT_EQ(-ETIMEDOUT, kvh_fd_wait(fd, 0));
	ASSERT_EQ(0, eventfd_write(fd, 1));
	EXPECT_EQ(0, kvh_fd_wait(fd, UINT64_MAX));
	close(fd);
	pthread_cond_destroy(&cond);
}

TEST(Thread, ATimerIsReadableAtItsTime)
{
	const int fd = kvh_timer_open();

	ASSERT_GE(fd, 0);
	kvh_timer_arm(fd, 0); /* long ago, not off */
	EXPECT_EQ(0, kvh_fd_wait(fd, UINT64_MAX));
	kvh_timer_clear(fd);
	EXPECT_EQ(-ETIMEDOUT, kvh_fd_wait(fd, 0));
	kvh_timer_arm(fd, kvh_deadline_ns(1 * MS));
	EXPECT_EQ(0, kvh_fd_wait(fd, UINT64_MAX));
	kvh_timer_arm(fd, UINT64_MAX);
	EXPECT_EQ(-ETIMEDOUT, kvh_fd_wait(fd, 0));
	kvh_timer_close(fd);
}

/* ---- a simulation's ---- */

TEST(Simulated, AThreadRunsOnlyWhenItsRoundIsCalled)
{
	sim::World world(1);
	Counter counter(2);

	world.spurious_one_in = 0;
	ASSERT_EQ(0, kvh_thread_start(&counter.thread));
	world.settle();
	EXPECT_EQ(0u, counter.rounds) << "it was asleep";
	counter.raise();
	EXPECT_EQ(0u, counter.rounds);
	world.settle();
	EXPECT_EQ(1u, counter.rounds);
	counter.raise();
	kvh_thread_join(&counter.thread);
	EXPECT_EQ(2u, counter.seen);
	EXPECT_EQ(0u, world.threads());
}

TEST(Simulated, ThreadsAreWokenForNothingToo)
{
	sim::World world(1);
	Counter counter(1000);

	world.spurious_one_in = 1;
	ASSERT_EQ(0, kvh_thread_start(&counter.thread));
	for (int i = 0; i < 10; i++)
		world.run(1);
	EXPECT_EQ(10u, counter.rounds);
	EXPECT_EQ(0u, counter.seen);
}

TEST(Simulated, TimeAndTimersAreTheSimulations)
{
	sim::World world(1);
	const uint64_t now = kvh_now_ns();
	const int fd = kvh_timer_open();

	EXPECT_EQ(now, kvh_now_ns());
	kvh_timer_arm(fd, now + 5 * MS);
	EXPECT_EQ(-ETIMEDOUT, kvh_fd_wait(fd, 0));
	world.pass(4 * MS);
	EXPECT_EQ(-ETIMEDOUT, kvh_fd_wait(fd, 0));
	world.pass(1 * MS);
	EXPECT_EQ(0, kvh_fd_wait(fd, 0));
	EXPECT_EQ(now + 5 * MS, kvh_now_ns());
	kvh_timer_arm(fd, now + 6 * MS);
	EXPECT_EQ(-ETIMEDOUT, kvh_fd_wait(fd, 0)) << "armed anew, it has not fired";
	EXPECT_EQ(0, kvh_fd_wait(fd, UINT64_MAX)) << "a wait lets time move";
	kvh_timer_close(fd);
}

TEST(Simulated, AWaitLetsOthersGoOn)
{
	struct Order {
		kvh_work work;
		pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
		pthread_cond_t cond;
		bool done = false;
	} order;
	sim::World world(7);
	kvh_workers *workers = nullptr;

	kvh_cond_init(&order.cond);
	ASSERT_EQ(0, kvh_workers_open(3, &workers));
	order.work.run = [](kvh_work *work) {
		Order *self = reinterpret_cast<Order *>(work);

		pthread_mutex_lock(&self->lock);
		self->done = true;
		pthread_mutex_unlock(&self->lock);
	};
	kvh_workers_post(workers, &order.work);
	pthread_mutex_lock(&order.lock);
	EXPECT_FALSE(order.done);
	while (!order.done)
		EXPECT_EQ(0, kvh_cond_wait(&order.cond, &order.lock, UINT64_MAX));
	pthread_mutex_unlock(&order.lock);
	kvh_workers_close(workers);
	EXPECT_EQ(0u, world.threads());
}

/* ---- an engine ---- */

kvh_event finish(sim::World &world, Queue &queue, Job &job)
{
	EXPECT_TRUE(world.until([&] {
		queue.poll();
		return job.done();
	}));
	return job.done() ? job.events.back() : kvh_event{};
}

/* Stores, evicts, brings back, loads; what happened when. */
uint64_t once(uint64_t seed)
{
	const size_t threads = threads_of_process();
	sim::World world(seed);
	const Desc desc;
	{
		Engine engine({{"fault:sim,script=get:delay=3000,next=mem:size=4M"}, 2 * MIB});
		Pool pool(engine, desc.layout, engine.space(desc));
		Queue queue(engine);
		const auto hashes = prompt(seed, 3);
		const auto items = make_items(pool, hashes);
		Job store, prefetch, load;

		EXPECT_EQ(threads, threads_of_process());
		const uint64_t begun = world.now();
		EXPECT_EQ(0, queue.store(store, pool, items, KVH_STORE_PERSISTED));
		EXPECT_FALSE(store.done());
		EXPECT_EQ(0, finish(world, queue, store).status);
		engine.evict();

		const Prefix prefix = prefix_of(pool, hashes);
		EXPECT_EQ(0, queue.prefetch(prefetch, prefix));
		EXPECT_EQ(3u, finish(world, queue, prefetch).usable);
		EXPECT_GE(world.now(), begun + 3000 * MS) << "the adapter's delay";

		pool.give_all();
		std::vector<kvh_lease_t> leases;
		const auto back = leased_items(pool, prefix, prefetch.leases, &leases);
		EXPECT_EQ(0, queue.load(load, pool, leases, back, KVH_LOAD_RELEASE));
		EXPECT_EQ(0, finish(world, queue, load).status);
		for (const auto &item : back)
			EXPECT_TRUE(pool.holds(item.key, item.pages));
	}
	EXPECT_EQ(0u, world.threads());
	return world.hash();
}

TEST(Simulated, AnEngineRunsOnOneThreadByItsOwnClock)
{
	(void)once(1);
}

TEST(Simulated, TheSameSeedIsTheSameRun)
{
	const uint64_t first = once(11);

	EXPECT_EQ(first, once(11));
	EXPECT_NE(first, once(12));
}

TEST(Simulated, ALostWakeUpCostsASweep)
{
	sim::World world(3);
	const Desc desc;
	Engine engine({{"mem:size=4M"}, 2 * MIB});
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	Job store;

	world.lost_one_in = 1;
	ASSERT_EQ(0, queue.store(store, pool, make_items(pool, prompt(1, 1)),
				 KVH_STORE_PERSISTED));
	const uint64_t begun = world.now();
	EXPECT_EQ(0, finish(world, queue, store).status);
	EXPECT_GE(world.now(), begun + 90 * MS);
	EXPECT_LE(world.now(), begun + 200 * MS);
}

} // namespace
