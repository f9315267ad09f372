// SPDX-License-Identifier: Apache-2.0
//
// loop_test.cc - the controller's thread: work that is posted, fds that are
// watched, the time that tick asks for, and a stop that loses nothing.
#include "host/clock.h"
#include "host/loop.h"

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

struct Work : kvh_loop_work {
	explicit Work(std::function<void()> f) : fn(std::move(f))
	{
		next = nullptr;
		run = [](kvh_loop_work *work) { static_cast<Work *>(work)->fn(); };
	}
	std::function<void()> fn;
};

class Signal
{
      public:
	void raise()
	{
		std::lock_guard<std::mutex> guard(lock_);

		raised_ = true;
		changed_.notify_all();
	}
	void wait()
	{
		std::unique_lock<std::mutex> guard(lock_);

		changed_.wait(guard, [this] { return raised_; });
	}

      private:
	std::mutex lock_;
	std::condition_variable changed_;
	bool raised_ = false;
};

class Loop
{
      public:
	explicit Loop(std::function<uint64_t(uint64_t)> tick = nullptr) : tick_(std::move(tick))
	{
		EXPECT_EQ(kvh_loop_open(
				  [](void *arg, uint64_t now_ns) {
					  Loop *self = static_cast<Loop *>(arg);

					  self->ticks++;
					  return self->tick_ ? self->tick_(now_ns) : UINT64_MAX;
				  },
				  this, &loop),
			  0);
	}
	~Loop()
	{
		kvh_loop_stop(loop);
		kvh_loop_close(loop);
	}
	void start()
	{
		ASSERT_EQ(kvh_loop_start(loop), 0);
	}
	void post(Work &work)
	{
		kvh_loop_post(loop, &work);
	}

	struct kvh_loop *loop = nullptr;
	std::atomic<uint64_t> ticks = 0;

      private:
	std::function<uint64_t(uint64_t)> tick_;
};

TEST(Loop, StopWithoutStart)
{
	for (int i = 0; i < 50; i++)
		Loop loop;
	kvh_loop_close(nullptr);
}

TEST(Loop, StopTwice)
{
	int ran = 0;
	Loop loop;
	Work work([&ran] { ran++; }), later([&ran] { ran++; });

	loop.start();
	loop.post(work);
	kvh_loop_stop(loop.loop);
	EXPECT_EQ(ran, 1);
	loop.post(later); // as workers do that end after the loop
	kvh_loop_stop(loop.loop);
	EXPECT_EQ(ran, 2);
}

TEST(Loop, RunsInOrderAlsoWhatWasPostedBeforeStart)
{
	std::vector<std::unique_ptr<Work>> works;
	std::vector<int> order, want;
	Loop loop;

	for (int i = 0; i < 1000; i++) {
		works.push_back(std::make_unique<Work>([&order, i] { order.push_back(i); }));
		want.push_back(i);
	}
	for (int i = 0; i < 1000; i++) {
		if (i == 300)
			loop.start();
		loop.post(*works[size_t(i)]);
	}
	kvh_loop_stop(loop.loop);
	EXPECT_EQ(order, want);
}

TEST(Loop, RunsOnOneThreadOfItsOwn)
{
	std::thread::id first, second;
	Loop loop;
	Work one([&first] { first = std::this_thread::get_id(); });
	Work two([&second] { second = std::this_thread::get_id(); });

	loop.start();
	loop.post(one);
	loop.post(two);
	kvh_loop_stop(loop.loop);
	EXPECT_EQ(first, second);
	EXPECT_NE(first, std::this_thread::get_id());
	EXPECT_NE(first, std::thread::id());
}

TEST(Loop, WorkMayPostAndFreeItself)
{
	struct Chain : kvh_loop_work {
		struct kvh_loop *loop;
		int *left;
	};
	int left = 100;
	Signal done;
	Loop loop;
	Work last([&done] { done.raise(); });
	Chain *chain = new Chain();

	chain->loop = loop.loop;
	chain->left = &left;
	chain->run = [](kvh_loop_work *work) {
		Chain *c = static_cast<Chain *>(work);

		if (--*c->left == 0)
			delete c;
		else
			kvh_loop_post(c->loop, c);
	};
	loop.start();
	kvh_loop_post(loop.loop, chain);
	kvh_loop_stop(loop.loop); // runs the chain to its end
	EXPECT_EQ(left, 0);
}

// The post and the stop may both be seen behind one wake-up, which is the last.
TEST(Loop, StopRightBehindAPost)
{
	for (int i = 0; i < 3000; i++) {
		int ran = 0;
		Loop loop;
		Work second([&ran] { ran++; });
		Work first([&] {
			ran++;
			loop.post(second);
		});

		loop.start();
		loop.post(first);
		kvh_loop_stop(loop.loop);
		ASSERT_EQ(ran, 2);
	}
}

TEST(Loop, PostedFromManyThreads)
{
	constexpr int kThreads = 4, kEach = 3000;
	std::vector<std::vector<Work>> works(kThreads);
	std::vector<std::thread> threads;
	uint32_t ran = 0; // of one thread: the loop's
	Loop loop;

	loop.start();
	for (auto &mine : works)
		for (int i = 0; i < kEach; i++)
			mine.emplace_back([&ran] { ran++; });
	for (auto &mine : works)
		threads.emplace_back([&mine, &loop] {
			for (Work &work : mine)
				loop.post(work);
		});
	for (std::thread &thread : threads)
		thread.join();
	kvh_loop_stop(loop.loop);
	EXPECT_EQ(ran, uint32_t(kThreads * kEach));
}

struct Source : kvh_loop_source {
	explicit Source(std::function<void()> f) : fn(std::move(f))
	{
		fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		ready = [](kvh_loop_source *source) {
			eventfd_t ignored;

			(void)eventfd_read(source->fd, &ignored);
			static_cast<Source *>(source)->fn();
		};
	}
	~Source()
	{
		close(fd);
	}
	std::function<void()> fn;
};

TEST(Loop, CallsTheSourceAndThenTicks)
{
	Signal done;
	uint64_t calls = 0, tick_at_call = 0;
	Source *source_p = nullptr;
	Loop loop([&](uint64_t) {
		if (calls == 3)
			done.raise();
		return UINT64_MAX;
	});
	Source source([&] {
		EXPECT_GT(loop.ticks, tick_at_call) << "no tick between two events";
		tick_at_call = loop.ticks;
		if (++calls < 3)
			(void)eventfd_write(source_p->fd, 1);
	});

	source_p = &source;
	ASSERT_EQ(kvh_loop_add(loop.loop, &source), 0);
	loop.start();
	ASSERT_EQ(eventfd_write(source.fd, 1), 0);
	done.wait();
	EXPECT_EQ(calls, 3u);
}

TEST(Loop, ReadyBeforeStartIsSeen)
{
	Signal done;
	Loop loop;
	Source source([&done] { done.raise(); });

	ASSERT_EQ(eventfd_write(source.fd, 1), 0);
	ASSERT_EQ(kvh_loop_add(loop.loop, &source), 0);
	loop.start();
	done.wait();
}

TEST(Loop, AnFdThatCannotBeWatchedIsRefused)
{
	Loop loop;
	struct kvh_loop_source bad = {-1, nullptr, false};

	EXPECT_EQ(kvh_loop_add(loop.loop, &bad), -EBADF);
}

TEST(Loop, NoTickWithoutAReason)
{
	Signal first, second;
	Loop loop;
	Work one([&first] { first.raise(); }), two([&second] { second.raise(); });

	loop.start();
	loop.post(one);
	first.wait();
	loop.post(two);
	second.wait();
	// Start, a wake-up each, and perhaps one more behind a wake-up seen late.
	EXPECT_LE(loop.ticks, 4u);
}

// Never before its time, and again and again while it asks.
TEST(Loop, TicksAtTheTimeItAsksFor)
{
	Signal done;
	uint64_t asked = 0, n = 0;
	Loop loop([&](uint64_t now) {
		EXPECT_GE(now, asked) << "too early";
		if (++n == 20) {
			done.raise();
			return UINT64_MAX;
		}
		asked = now + KVH_NS_PER_MS;
		return asked;
	});

	loop.start();
	done.wait();
}

TEST(Loop, ATimeThatHasPassedTicksAtOnce)
{
	Signal done;
	uint64_t n = 0;
	Loop loop([&](uint64_t now) -> uint64_t {
		switch (++n) {
		case 1: return 0;
		case 2: return 1;
		case 3: return now;
		case 4: return now - 1;
		case 5: return now - 1; // not later either
		default: done.raise(); return UINT64_MAX;
		}
	});

	loop.start();
	done.wait();
	EXPECT_EQ(n, 6u);
}

// The timer follows when tick, woken by something else, wants to be called
// earlier than it said, or later.
TEST(Loop, TimeMovesBothWays)
{
	Signal asked_far, done;
	uint64_t near = 0;
	int stage = 0;
	Loop loop([&](uint64_t now) -> uint64_t {
		switch (stage) {
		case 0: // far away; then posted work asks for near
			asked_far.raise();
			return now + 3600 * KVH_NS_PER_S;
		case 1:
			near = now + 2 * KVH_NS_PER_MS;
			stage = 2;
			return near;
		default:
			if (now < near)
				return near; // woken by another
			done.raise();
			return UINT64_MAX;
		}
	});
	Work move([&stage] { stage = 1; });

	loop.start();
	asked_far.wait();
	loop.post(move);
	done.wait();
}

} // namespace
