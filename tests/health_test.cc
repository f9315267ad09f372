// SPDX-License-Identifier: Apache-2.0
//
// health_test.cc - an engine is healthy only while every thread makes progress:
// each of them is stopped, the answer says which, and takes it back. A thread that
// has nothing to do is well.
#include "engine_harness.h"
#include "host/pulse.h"
#include "host/work.h"

#include <condition_variable>
#include <thread>

namespace
{

using namespace enginetest;

kvh_health health(const Engine &engine)
{
	kvh_health h{};

	h.size = sizeof(h);
	EXPECT_EQ(0, kvh_health_get(engine.get(), &h));
	EXPECT_EQ(h.healthy != 0, h.n_ill == 0);
	EXPECT_EQ(h.healthy != 0, h.reason[0] == '\0');
	return h;
}

void wait_until_well(const Engine &engine)
{
	while (!health(engine).healthy)
		std::this_thread::yield();
}

/* Until one whose name begins so is the first that is ill: with a short bound, others
 * may be for a moment where the machine is busy. */
kvh_health wait_until_ill(const Engine &engine, const std::string &who)
{
	kvh_health h = health(engine);

	while (std::string(h.reason).compare(0, who.size(), who) != 0) {
		std::this_thread::yield();
		h = health(engine);
	}
	return h;
}

/* Stops whoever comes in, until it is opened. */
class Gate
{
      public:
	void pass()
	{
		std::unique_lock<std::mutex> guard(lock_);

		inside_++;
		changed_.notify_all();
		changed_.wait(guard, [this] { return open_; });
	}
	void wait_inside(int n)
	{
		std::unique_lock<std::mutex> guard(lock_);

		changed_.wait(guard, [&] { return inside_ >= n; });
	}
	void open()
	{
		std::lock_guard<std::mutex> guard(lock_);

		open_ = true;
		changed_.notify_all();
	}

      private:
	std::mutex lock_;
	std::condition_variable changed_;
	int inside_ = 0;
	bool open_ = false;
};

struct LoopStop {
	kvh_loop_work work{
		[](kvh_loop_work *w) { reinterpret_cast<LoopStop *>(w)->gate.pass(); },
		nullptr};
	Gate gate;
};

struct WorkStop {
	kvh_work work{[](kvh_work *w) { reinterpret_cast<WorkStop *>(w)->gate->pass(); },
		      nullptr};
	Gate *gate;
};

void set_bound(const Engine &engine, const char *bound)
{
	EXPECT_EQ(0, kvh_engine_set(engine.get(), "health.bound", bound));
}

/* What every case ends with: the control, that a bound that never comes says
 * nothing, and that the same thread is ill when it does. */
void expect_ill(const Engine &engine, const char *who)
{
	set_bound(engine, "10ms");
	const kvh_health h = wait_until_ill(engine, who);

	EXPECT_NE(std::string::npos, std::string(h.reason).find(": no progress for "))
		<< h.reason;
	set_bound(engine, "1h");
	EXPECT_TRUE(health(engine).healthy) << "control: without a bound it does not show";
	set_bound(engine, "10ms");
	wait_until_ill(engine, who);
}

void expect_well(const Engine &engine)
{
	set_bound(engine, "750ms");
	wait_until_well(engine);
}

TEST(Health, IdleAndBusyEnginesAreWell)
{
	Engine engine({{"mem:"}});
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);

	expect_well(engine);
	for (uint64_t i = 0; i < 20; i++) {
		pool.give_all();
		store_prompt(queue, pool, prompt(i, 8), KVH_STORE_PERSISTED);
	}
	expect_well(engine);
}

TEST(Health, TheControllerHangs)
{
	Engine engine;
	LoopStop stop;

	kvh_controller_post(engine.get()->controller, &stop.work);
	stop.gate.wait_inside(1);
	expect_ill(engine, "controller");
	stop.gate.open();
	expect_well(engine);
}

TEST(Health, AWorkerHangsAndTheOtherDoesNot)
{
	Engine engine;
	Gate gate;
	WorkStop stop;

	stop.gate = &gate;
	kvh_workers_post(kvh_controller_workers(engine.get()->controller), &stop.work);
	gate.wait_inside(1);
	set_bound(engine, "10ms");
	while (wait_until_ill(engine, "worker ").n_ill != 1)
		std::this_thread::yield(); /* one of two: the other has nothing to do */
	gate.open();
	expect_well(engine);
}

/* Nobody takes what waits: as if the threads were gone. */
TEST(Health, WorkWaitsForWorkersThatAreStuck)
{
	Engine engine;
	Gate gate;
	WorkStop stops[3];
	kvh_pulse pulse{};

	for (auto &stop : stops) {
		stop.gate = &gate;
		kvh_workers_post(kvh_controller_workers(engine.get()->controller), &stop.work);
	}
	gate.wait_inside(2);
	ASSERT_TRUE(
		kvh_workers_pulse(kvh_controller_workers(engine.get()->controller), 0, &pulse));
	EXPECT_NE(0u, pulse.waiting_ns);
	expect_ill(engine, "worker ");
	gate.open();
	gate.wait_inside(3);
	expect_well(engine);
	ASSERT_TRUE(
		kvh_workers_pulse(kvh_controller_workers(engine.get()->controller), 0, &pulse));
	EXPECT_EQ(0u, pulse.waiting_ns);
}

TEST(Health, TheMoverHangs)
{
	Engine engine;
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	Job job;

	engine.hold(KVH_HOST_QUERY);
	ASSERT_EQ(0, queue.store(job, pool, make_items(pool, prompt(1, 4))));
	expect_ill(engine, "mover");
	engine.release();
	EXPECT_EQ(4u, queue.finish(job).n_ok);
	expect_well(engine);
}

TEST(Health, ADeadDeviceStaysIll)
{
	Engine engine;
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	Job job;
	Log log;

	EXPECT_TRUE(health(engine).healthy);
	engine.fail(KVH_HOST_COPY, 1, EIO);
	ASSERT_EQ(0, queue.store(job, pool, make_items(pool, prompt(1, 4))));
	EXPECT_EQ(-EIO, queue.finish(job).status);
	EXPECT_STREQ("device host:0: it has died", wait_until_ill(engine, "device").reason);
}

TEST(Pulse, TheOlderOfBusyAndWaitingCounts)
{
	kvh_pulse pulse{};

	EXPECT_EQ(0u, kvh_pulse_age(&pulse, 100)) << "idle";
	pulse = {40, 0};
	EXPECT_EQ(60u, kvh_pulse_age(&pulse, 100));
	pulse = {0, 30};
	EXPECT_EQ(70u, kvh_pulse_age(&pulse, 100));
	pulse = {40, 30};
	EXPECT_EQ(70u, kvh_pulse_age(&pulse, 100));
	pulse = {20, 30};
	EXPECT_EQ(80u, kvh_pulse_age(&pulse, 100));
	EXPECT_EQ(0u, kvh_pulse_age(&pulse, 10)) << "another thread's clock is ahead";
}

} // namespace
