/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_host_test.cc - the host device's own: rules that hold, fail, slow and
 * falsify single calls, what death of a device means, and the stepped form.
 * Nothing here sleeps: a held call stands where the test wants it.
 */
#include "cuda/device_host.h"
#include "host/log.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>
#include <string>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

constexpr uint64_t FOREVER = UINT64_C(3600000000000);

std::string last_line;

void keep_line(void *, kvh_log_level, const char *line)
{
	last_line = line;
}

class HostTest : public testing::Test
{
      protected:
	explicit HostTest(bool stepped = false)
	{
		kvh_log_set(keep_line, nullptr, KVH_LOG_ERROR);
		last_line.clear();
		EXPECT_EQ(stepped ? kvh_device_host_open_stepped(&dev)
				  : kvh_device_host_open(&dev),
			  0);
		ops = dev->ops;
		for (kvh_stream *s : {&a, &b})
			EXPECT_EQ(ops->stream_create(dev, 0, s), 0);
		for (kvh_event_mark *e : {&ea, &eb})
			EXPECT_EQ(ops->event_create(dev, e), 0);
		memset(src, 0x11, sizeof(src));
	}

	~HostTest() override
	{
		ops->event_destroy(dev, ea);
		ops->event_destroy(dev, eb);
		ops->stream_destroy(dev, a);
		ops->stream_destroy(dev, b);
		ops->close(dev);
		kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	}

	void rule(kvh_host_call call, kvh_host_action action, uint64_t nth = 1,
		  uint64_t count = 1, int error = 0, uint64_t ns = 0)
	{
		kvh_host_rule r = {call, action, nth, count, error, ns};

		ASSERT_EQ(kvh_host_rule_add(dev, &r), 0);
	}

	int copy(kvh_stream stream, unsigned char *to, const unsigned char *from = nullptr)
	{
		kvh_copy c = {to, from != nullptr ? from : src, sizeof(src)};

		return ops->copy(dev, KVH_COPY_D2D, &c, stream);
	}

	/* 0x11 there, or still 0. */
	static bool arrived(const unsigned char *bytes)
	{
		return bytes[0] == 0x11 && bytes[sizeof(src) - 1] == 0x11;
	}

	kvh_device *dev = nullptr;
	const kvh_device_ops *ops = nullptr;
	kvh_stream a = nullptr, b = nullptr;
	kvh_event_mark ea = nullptr, eb = nullptr;
	static constexpr size_t N = 64;
	unsigned char src[N], one[N] = {}, two[N] = {}, three[N] = {};
};

TEST_F(HostTest, HoldsOneStreamAndNoOther)
{
	rule(KVH_HOST_COPY, KVH_HOST_HOLD);
	ASSERT_EQ(copy(a, one), 0);
	ASSERT_EQ(ops->event_record(dev, ea, a), 0);
	kvh_host_held_wait(dev, 1);
	EXPECT_EQ(kvh_host_held(dev), 1u);
	ASSERT_EQ(copy(b, two), 0);
	ASSERT_EQ(ops->stream_wait(dev, b), 0);
	EXPECT_TRUE(arrived(two));
	EXPECT_FALSE(arrived(one));
	EXPECT_EQ(ops->event_query(dev, ea), 0);

	kvh_host_release(dev);
	EXPECT_EQ(kvh_host_held(dev), 0u);
	ASSERT_EQ(ops->stream_wait(dev, a), 0);
	EXPECT_EQ(ops->event_query(dev, ea), 1);
	EXPECT_TRUE(arrived(one));
}

/* CUDA's semantics: a wait takes the record that is the last at the call; a query
 * asks for the one that is the last at the query. */
TEST_F(HostTest, WaitsForTheRecordBeforeTheCall)
{
	rule(KVH_HOST_RECORD, KVH_HOST_HOLD);
	ASSERT_EQ(ops->event_record(dev, ea, a), 0);
	kvh_host_held_wait(dev, 1);
	ASSERT_EQ(ops->stream_wait_event(dev, b, ea), 0);
	ASSERT_EQ(copy(b, one), 0);
	ASSERT_EQ(ops->event_record(dev, eb, b), 0);

	ASSERT_EQ(ops->event_record(dev, ea, nullptr), 0);
	EXPECT_EQ(ops->event_query(dev, ea), 1) << "the last record is done";
	EXPECT_EQ(ops->event_query(dev, eb), 0) << "b waits for the one before";
	EXPECT_FALSE(arrived(one));
	kvh_host_release(dev);
	ASSERT_EQ(ops->stream_wait(dev, b), 0);
	EXPECT_TRUE(arrived(one));
}

TEST_F(HostTest, WaitsForNothingThatIsRecordedLater)
{
	ASSERT_EQ(ops->stream_wait_event(dev, b, ea), 0);
	rule(KVH_HOST_RECORD, KVH_HOST_HOLD);
	ASSERT_EQ(ops->event_record(dev, ea, a), 0);
	kvh_host_held_wait(dev, 1);
	ASSERT_EQ(copy(b, one), 0);
	ASSERT_EQ(ops->stream_wait(dev, b), 0);
	EXPECT_TRUE(arrived(one));
}

TEST_F(HostTest, EventsAndStreamsMayGoWhileTheyAreWaitedFor)
{
	kvh_event_mark event;
	kvh_stream stream;

	ASSERT_EQ(ops->event_create(dev, &event), 0);
	ASSERT_EQ(ops->stream_create(dev, 0, &stream), 0);
	rule(KVH_HOST_COPY, KVH_HOST_HOLD);
	ASSERT_EQ(copy(stream, one), 0);
	ASSERT_EQ(ops->event_record(dev, event, stream), 0);
	ASSERT_EQ(ops->stream_wait_event(dev, b, event), 0);
	ASSERT_EQ(copy(b, two, one), 0);
	ops->event_destroy(dev, event);
	ops->stream_destroy(dev, stream);
	EXPECT_EQ(copy(stream, three), -EINVAL) << "it takes nothing more";
	kvh_host_release(dev);
	ASSERT_EQ(ops->stream_wait(dev, b), 0);
	EXPECT_TRUE(arrived(two)) << "what was queued still ran";
}

TEST_F(HostTest, CloseRunsWhatWasLeftAndCountsIt)
{
	kvh_device *other;
	kvh_stream stream;
	void *mem;

	ASSERT_EQ(kvh_device_host_open(&other), 0);
	ASSERT_EQ(ops->stream_create(other, 0, &stream), 0);
	ASSERT_EQ(ops->mem_alloc(other, 64, &mem), 0);
	kvh_host_rule hold = {KVH_HOST_COPY, KVH_HOST_HOLD, 0, 0, 0, 0};
	ASSERT_EQ(kvh_host_rule_add(other, &hold), 0);
	kvh_copy c = {one, src, N};
	ASSERT_EQ(ops->copy(other, KVH_COPY_D2D, &c, stream), 0);
	ops->close(other);
	EXPECT_TRUE(arrived(one));
	EXPECT_NE(last_line.find("1 allocations"), std::string::npos) << last_line;
	free(mem);
}

/* ---- failing ---- */

TEST_F(HostTest, AFailedOperationKillsTheDevice)
{
	int fd = eventfd(0, EFD_NONBLOCK);
	eventfd_t n;
	void *mem;

	rule(KVH_HOST_COPY, KVH_HOST_FAIL, 2, 1, EIO);
	rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
	ASSERT_EQ(copy(a, one), 0);
	ASSERT_EQ(copy(a, two), 0);
	kvh_host_held_wait(dev, 1); /* so that all is queued before it fails */
	ASSERT_EQ(ops->event_record(dev, ea, a), 0);
	ASSERT_EQ(ops->notify(dev, a, fd), 0);
	ASSERT_EQ(ops->stream_wait_event(dev, b, ea), 0);
	ASSERT_EQ(copy(b, three), 0);
	EXPECT_FALSE(ops->dead(dev));
	kvh_host_release(dev);

	EXPECT_EQ(ops->stream_wait(dev, a), -EIO);
	EXPECT_EQ(ops->stream_wait(dev, b), -EIO);
	EXPECT_TRUE(ops->dead(dev));
	EXPECT_TRUE(arrived(one));
	EXPECT_FALSE(arrived(two)) << "it failed";
	EXPECT_FALSE(arrived(three)) << "of another stream, dropped";
	EXPECT_EQ(ops->event_query(dev, ea), -EIO);
	EXPECT_EQ(ops->event_query(dev, eb), -EIO) << "never recorded, too";
	EXPECT_EQ(eventfd_read(fd, &n), -1) << "no notice comes";
	EXPECT_EQ(copy(a, one), -EIO);
	EXPECT_EQ(copy(nullptr, one), -EIO);
	EXPECT_EQ(ops->event_record(dev, eb, b), -EIO);
	EXPECT_EQ(ops->mem_alloc(dev, 1, &mem), -EIO);
	EXPECT_EQ(ops->host_register(dev, src, N), -EIO);
	EXPECT_EQ(ops->stream_capturing(dev, a), -EIO);
	EXPECT_NE(last_line.find("dead"), std::string::npos) << last_line;
	close(fd);
}

/* Whoever hears that the device is dead frees pages: so nothing may run then. */
TEST_F(HostTest, IsDeadOnlyWhenNothingRunsAnyMore)
{
	int fd = eventfd(0, 0);
	eventfd_t n;

	ASSERT_EQ(eventfd_write(fd, UINT64_MAX - 1), 0); /* the next write blocks */
	ASSERT_EQ(ops->notify(dev, a, fd), 0);
	ASSERT_EQ(ops->event_record(dev, ea, a), 0);
	while (kvh_host_count(dev, KVH_HOST_NOTIFY) == 0)
		std::this_thread::yield();
	rule(KVH_HOST_COPY, KVH_HOST_FAIL, 1, 1, EIO);
	ASSERT_EQ(copy(nullptr, one), -EIO);
	EXPECT_EQ(copy(b, one), -EIO) << "dying: nothing is taken any more";
	EXPECT_FALSE(ops->dead(dev));
	EXPECT_EQ(ops->event_query(dev, ea), 0) << "a still works on it";
	ASSERT_EQ(eventfd_read(fd, &n), 0);
	EXPECT_EQ(ops->stream_wait(dev, a), -EIO);
	EXPECT_TRUE(ops->dead(dev));
	EXPECT_EQ(ops->event_query(dev, ea), -EIO);
	close(fd);
}

TEST_F(HostTest, AFailedCallDoesNothing)
{
	void *mem = nullptr;

	rule(KVH_HOST_MEM_ALLOC, KVH_HOST_FAIL, 2, 1, ENOMEM);
	ASSERT_EQ(ops->mem_alloc(dev, N, &mem), 0);
	ops->mem_free(dev, mem);
	EXPECT_EQ(ops->mem_alloc(dev, N, &mem), -ENOMEM);
	ASSERT_EQ(ops->mem_alloc(dev, N, &mem), 0);
	ops->mem_free(dev, mem);

	rule(KVH_HOST_ENQUEUE, KVH_HOST_FAIL, 1, 2, EAGAIN);
	kvh_copy batch[] = {{one, src, N}, {two, src, N}};
	EXPECT_EQ(ops->copy_batch(dev, KVH_COPY_D2D, batch, 2, a), -EAGAIN);
	EXPECT_EQ(ops->event_record(dev, ea, a), -EAGAIN);
	ASSERT_EQ(ops->stream_wait(dev, a), 0);
	EXPECT_FALSE(arrived(one) || arrived(two));
	EXPECT_EQ(ops->event_query(dev, ea), 1) << "not recorded";
	ASSERT_EQ(copy(a, one), 0);
	ASSERT_EQ(ops->stream_wait(dev, a), 0);
	EXPECT_TRUE(arrived(one));

	kvh_stream stream = nullptr;
	kvh_event_mark event = nullptr;
	rule(KVH_HOST_STREAM_CREATE, KVH_HOST_FAIL, 1, 1, ENOMEM);
	EXPECT_EQ(ops->stream_create(dev, 0, &stream), -ENOMEM);
	EXPECT_EQ(stream, nullptr);
	rule(KVH_HOST_EVENT_CREATE, KVH_HOST_FAIL, 1, 1, ENOMEM);
	EXPECT_EQ(ops->event_create(dev, &event), -ENOMEM);
	rule(KVH_HOST_HOST_ALLOC, KVH_HOST_FAIL, 1, 1, EPERM);
	EXPECT_EQ(ops->host_alloc(dev, N, &mem), -EPERM);
	rule(KVH_HOST_REGISTER, KVH_HOST_FAIL, 2, UINT64_MAX, ENOMEM);
	EXPECT_EQ(ops->host_register(dev, one, N), 0);
	EXPECT_EQ(ops->host_register(dev, two, N), -ENOMEM);
	EXPECT_EQ(ops->host_register(dev, three, N), -ENOMEM);
	EXPECT_EQ(kvh_host_registered(dev), 1u);
	EXPECT_EQ(kvh_host_count(dev, KVH_HOST_REGISTER), 3u);
	EXPECT_EQ(ops->host_unregister(dev, one), 0);
	EXPECT_EQ(kvh_host_registered(dev), 0u);
	EXPECT_FALSE(ops->dead(dev));
}

/* ---- slow, held, lies ---- */

TEST_F(HostTest, SlowTakesLonger)
{
	const uint64_t ns = 3000000;
	auto start = std::chrono::steady_clock::now();

	rule(KVH_HOST_COPY, KVH_HOST_SLOW, 1, 1, 0, ns);
	rule(KVH_HOST_QUERY, KVH_HOST_SLOW, 1, 1, 0, ns);
	ASSERT_EQ(copy(a, one), 0);
	ASSERT_EQ(ops->stream_wait(dev, a), 0);
	EXPECT_EQ(ops->event_query(dev, ea), 1);
	EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::nanoseconds(2 * ns));
	EXPECT_TRUE(arrived(one));
}

TEST_F(HostTest, ReleaseEndsSlowness)
{
	rule(KVH_HOST_COPY, KVH_HOST_SLOW, 1, 1, 0, FOREVER);
	ASSERT_EQ(copy(a, one), 0);
	ASSERT_EQ(ops->event_record(dev, ea, a), 0);
	while (kvh_host_count(dev, KVH_HOST_COPY) == 0)
		std::this_thread::yield();
	EXPECT_EQ(ops->event_query(dev, ea), 0);
	EXPECT_EQ(kvh_host_held(dev), 0u) << "slow is not held";
	kvh_host_release(dev);
	EXPECT_EQ(ops->stream_wait(dev, a), 0);
	EXPECT_TRUE(arrived(one));
}

TEST_F(HostTest, HoldsCallersToo)
{
	void *mem = nullptr;

	rule(KVH_HOST_MEM_ALLOC, KVH_HOST_HOLD);
	rule(KVH_HOST_COPY, KVH_HOST_HOLD);
	std::thread allocates([&] { EXPECT_EQ(ops->mem_alloc(dev, N, &mem), 0); });
	std::thread copies([&] { EXPECT_EQ(copy(nullptr, one), 0); });
	kvh_host_held_wait(dev, 2);
	EXPECT_FALSE(arrived(one));
	kvh_host_release(dev);
	allocates.join();
	copies.join();
	EXPECT_TRUE(arrived(one));
	ops->mem_free(dev, mem);
}

TEST_F(HostTest, LiesWhereTold)
{
	int fd = eventfd(0, EFD_NONBLOCK);
	eventfd_t n;

	rule(KVH_HOST_COPY, KVH_HOST_LIE);
	ASSERT_EQ(copy(a, one), 0);
	ASSERT_EQ(ops->stream_wait(dev, a), 0);
	EXPECT_FALSE(arrived(one));

	rule(KVH_HOST_NOTIFY, KVH_HOST_LIE);
	ASSERT_EQ(ops->notify(dev, a, fd), 0);
	ASSERT_EQ(ops->stream_wait(dev, a), 0);
	EXPECT_EQ(eventfd_read(fd, &n), -1);

	rule(KVH_HOST_COPY, KVH_HOST_HOLD);
	rule(KVH_HOST_QUERY, KVH_HOST_LIE);
	rule(KVH_HOST_WAIT_EVENT, KVH_HOST_LIE);
	ASSERT_EQ(copy(a, one), 0);
	ASSERT_EQ(ops->event_record(dev, ea, a), 0);
	kvh_host_held_wait(dev, 1);
	EXPECT_EQ(ops->event_query(dev, ea), 1);
	EXPECT_EQ(ops->event_query(dev, ea), 0) << "only the first was a lie";
	ASSERT_EQ(ops->stream_wait_event(dev, b, ea), 0);
	ASSERT_EQ(copy(b, two, one), 0);
	ASSERT_EQ(ops->stream_wait(dev, b), 0) << "did not wait";
	EXPECT_FALSE(arrived(two));
	close(fd);
}

TEST_F(HostTest, RulesAreCheckedAndSpent)
{
	kvh_host_rule bad[] = {
		{KVH_HOST_NCALLS, KVH_HOST_HOLD, 0, 0, 0, 0},
		{KVH_HOST_COPY, KVH_HOST_FAIL, 0, 0, 0, 0},
		{KVH_HOST_COPY, KVH_HOST_FAIL, 0, 0, -EIO, 0},
		{KVH_HOST_MEM_ALLOC, KVH_HOST_LIE, 0, 0, 0, 0},
	};
	kvh_host_rule far = {KVH_HOST_COPY, KVH_HOST_HOLD, 1000, 1, 0, 0};

	for (const kvh_host_rule &r : bad)
		EXPECT_EQ(kvh_host_rule_add(dev, &r), -EINVAL);
	for (int i = 0; i < 15; i++)
		ASSERT_EQ(kvh_host_rule_add(dev, &far), 0);
	for (int i = 0; i < 40; i++) { /* the last slot, over and over */
		kvh_host_rule query = {KVH_HOST_QUERY, KVH_HOST_LIE, 0, 0, 0, 0};

		ASSERT_EQ(kvh_host_rule_add(dev, &query), 0) << i;
		ASSERT_EQ(ops->event_query(dev, ea), 1);
	}
	ASSERT_EQ(kvh_host_rule_add(dev, &far), 0);
	EXPECT_EQ(kvh_host_rule_add(dev, &far), -ENOSPC);
	EXPECT_EQ(kvh_host_count(dev, KVH_HOST_QUERY), 40u);
	kvh_host_release(dev);
	EXPECT_EQ(kvh_host_rule_add(dev, &far), 0) << "release drops them";
}

TEST_F(HostTest, RefusesStreamsUnderCaptureAndStrangers)
{
	for (kvh_stream s : {a, static_cast<kvh_stream>(nullptr)}) {
		kvh_host_set_capturing(dev, s, true);
		EXPECT_EQ(ops->stream_capturing(dev, s), 1);
		EXPECT_EQ(copy(s, one), -EBUSY);
		EXPECT_EQ(ops->event_record(dev, ea, s), -EBUSY);
		EXPECT_EQ(ops->stream_wait_event(dev, s, ea), -EBUSY);
		EXPECT_EQ(copy(b, two), 0) << "the other one is not";
		kvh_host_set_capturing(dev, s, false);
		EXPECT_EQ(copy(s, one), 0);
		EXPECT_EQ(ops->stream_wait(dev, s), 0);
	}
	EXPECT_EQ(copy(reinterpret_cast<kvh_stream>(this), one), -EINVAL);
	EXPECT_EQ(ops->stream_wait(dev, b), 0);
}

} // namespace
