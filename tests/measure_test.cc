// SPDX-License-Identifier: Apache-2.0
//
// measure_test.cc - middle and spread, processor time and system calls of the
// bench, against values that are known.
#include "bench/measure.h"

#include <cerrno>
#include <cstring>
#include <ctime>
#include <future>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

namespace
{

TEST(Spread, OfNoneOneAndFew)
{
	double one[] = {7}, three[] = {9, 1, 5}, five[] = {5, 1, 4, 2, 3};
	const struct kvh_spread none = kvh_spread_of(nullptr, 0), a = kvh_spread_of(one, 1),
				b = kvh_spread_of(three, 3), c = kvh_spread_of(five, 5);

	EXPECT_EQ(none.median, 0);
	EXPECT_EQ(a.low, 7);
	EXPECT_EQ(a.median, 7);
	EXPECT_EQ(a.high, 7);
	EXPECT_EQ(b.low, 3);
	EXPECT_EQ(b.median, 5);
	EXPECT_EQ(b.high, 7);
	EXPECT_EQ(c.low, 2);
	EXPECT_EQ(c.median, 3);
	EXPECT_EQ(c.high, 4);
}

TEST(Cpu, GoesOnlyForward)
{
	const uint64_t before = kvh_cpu_ns();
	volatile uint64_t x = 0;

	while (kvh_cpu_ns() == before)
		x = x + 1;
	EXPECT_GT(kvh_cpu_ns(), before);
}

TEST(Cpu, OfThreadsByName)
{
	constexpr uint64_t BURNT_NS = 5000000;
	std::promise<void> end;

	if (access("/proc/self/schedstat", R_OK) != 0)
		GTEST_SKIP() << "the kernel does not say how long threads run";
	std::thread thread([ended = end.get_future()] {
		struct timespec ts;

		(void)pthread_setname_np(pthread_self(), "kvh-test0");
		do
			(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
		while (uint64_t(ts.tv_nsec) < BURNT_NS);
		ended.wait();
	});
	/* Until it sleeps, its figure is an old one. */
	while (kvh_cpu_of_threads_ns("kvh-test") < BURNT_NS)
		std::this_thread::yield();
	EXPECT_EQ(kvh_cpu_of_threads_ns("kvh-tests"), 0u);
	end.set_value();
	thread.join();
}

TEST(Calls, AreCountedOneByOne)
{
	struct kvh_calls *calls;
	const int err = kvh_calls_begin(&calls);

	if (err != 0)
		GTEST_SKIP() << "the kernel does not let us count: " << strerror(-err);
	for (int i = 0; i < 1000; i++)
		(void)syscall(SYS_getppid);
	const uint64_t n = kvh_calls_end(calls);

	EXPECT_GE(n, 1000u);
	EXPECT_LE(n, 1000u + 16u) << "what begin and end make themselves";
}

} // namespace
