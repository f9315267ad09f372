/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_stepped_test.cc - the host device without threads: every interleaving
 * that streams allow, by seed, and no other.
 */
#include "cuda/device_host.h"
#include "host/log.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <sys/eventfd.h>
#include <unistd.h>
#include <vector>

namespace
{

constexpr size_t N_STREAMS = 3;
constexpr size_t N_SLOTS = 12;

void quiet(void *, kvh_log_level, const char *)
{
}

class SteppedTest : public testing::Test
{
      protected:
	void SetUp() override
	{
		kvh_log_set(quiet, nullptr, KVH_LOG_ERROR);
		open_device();
	}

	void TearDown() override
	{
		close_device();
		kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	}

	void open_device()
	{
		ASSERT_EQ(kvh_device_host_open_stepped(&dev), 0);
		ops = dev->ops;
		for (kvh_stream &s : streams)
			ASSERT_EQ(ops->stream_create(dev, 0, &s), 0);
		for (kvh_event_mark &e : events)
			ASSERT_EQ(ops->event_create(dev, &e), 0);
		memset(slots, 0, sizeof(slots));
		slots[0] = 42;
	}

	void close_device()
	{
		for (kvh_event_mark e : events)
			ops->event_destroy(dev, e);
		for (kvh_stream s : streams)
			ops->stream_destroy(dev, s);
		ops->close(dev);
	}

	void copy(size_t to, size_t from, kvh_stream s)
	{
		kvh_copy c = {&slots[to], &slots[from], sizeof(slots[0])};

		ASSERT_EQ(ops->copy(dev, KVH_COPY_D2D, &c, s), 0);
	}

	/* slots[i] = slots[i - 1], each on a stream of the seed's choice that waits
	 * for the one before; then steps of the seed's choice until nothing moves. */
	void hand_on(unsigned seed)
	{
		std::mt19937 rng(seed);
		uint64_t steps = 0;

		for (size_t i = 1; i < N_SLOTS; i++) {
			kvh_stream s = streams[rng() % N_STREAMS];

			/* The first waits for an event that was never recorded. */
			ASSERT_EQ(ops->stream_wait_event(dev, s, events[i - 1]), 0);
			copy(i, i - 1, s);
			ASSERT_EQ(ops->event_record(dev, events[i], s), 0);
		}
		EXPECT_EQ(slots[1], 0) << "nothing runs by itself";
		while (kvh_host_step(dev, rng()))
			steps++;
		EXPECT_GE(steps, 3 * (N_SLOTS - 1));
		EXPECT_FALSE(kvh_host_step(dev, rng()));
	}

	kvh_device *dev = nullptr;
	const kvh_device_ops *ops = nullptr;
	kvh_stream streams[N_STREAMS];
	kvh_event_mark events[N_SLOTS];
	uint64_t slots[N_SLOTS];
};

TEST_F(SteppedTest, EveryOrderRespectsTheEvents)
{
	unsigned base = std::random_device{}();

	for (unsigned i = 0; i < 500; i++) {
		hand_on(base + i);
		ASSERT_EQ(slots[N_SLOTS - 1], 42u) << "seed " << base + i;
		for (kvh_event_mark e : events)
			ASSERT_EQ(ops->event_query(dev, e), 1);
		close_device();
		open_device();
	}
}

/* The negative control: without the waits some order gets it wrong. */
TEST_F(SteppedTest, SomeOrderIsWrongWithoutTheWaits)
{
	kvh_host_rule lie = {KVH_HOST_WAIT_EVENT, KVH_HOST_LIE, 1, UINT64_MAX, 0, 0};
	unsigned wrong = 0;

	for (unsigned seed = 0; seed < 50; seed++) {
		ASSERT_EQ(kvh_host_rule_add(dev, &lie), 0);
		hand_on(seed);
		wrong += slots[N_SLOTS - 1] != 42;
		close_device();
		open_device();
	}
	EXPECT_GT(wrong, 0u);
}

TEST_F(SteppedTest, TheChoicePicksTheStream)
{
	for (uint64_t choice : {0, 1}) {
		copy(1, 0, streams[0]);
		copy(2, 0, streams[1]);
		ASSERT_TRUE(kvh_host_step(dev, choice));
		EXPECT_NE(slots[1], slots[2]) << "one of them ran";
		uint64_t which = slots[1];
		ASSERT_TRUE(kvh_host_step(dev, choice));
		EXPECT_EQ(slots[1], slots[2]);
		EXPECT_FALSE(kvh_host_step(dev, choice));
		slots[1] = slots[2] = 0;
		copy(1, 0, streams[0]);
		copy(2, 0, streams[1]);
		ASSERT_TRUE(kvh_host_step(dev, choice + 1));
		EXPECT_NE(slots[1], which) << "the other choice, the other stream";
		ASSERT_TRUE(kvh_host_step(dev, 0));
		slots[1] = slots[2] = 0;
	}
}

TEST_F(SteppedTest, HeldAndSlowStreamsAndDeadlock)
{
	kvh_host_rule hold = {KVH_HOST_COPY, KVH_HOST_HOLD, 1, 1, 0, 0};
	kvh_host_rule slow = {KVH_HOST_COPY, KVH_HOST_SLOW, 1, 1, 0, 5};

	ASSERT_EQ(kvh_host_rule_add(dev, &hold), 0);
	copy(1, 0, streams[0]);
	ASSERT_EQ(ops->event_record(dev, events[1], streams[0]), 0);
	EXPECT_TRUE(kvh_host_step(dev, 0)) << "it gets there";
	EXPECT_FALSE(kvh_host_step(dev, 0)) << "and stands";
	EXPECT_EQ(kvh_host_held(dev), 1u);
	EXPECT_EQ(ops->stream_wait(dev, streams[0]), -EDEADLK);
	EXPECT_EQ(ops->stream_wait_event(dev, nullptr, events[1]), -EDEADLK);
	kvh_host_release(dev);
	EXPECT_EQ(ops->stream_wait_event(dev, nullptr, events[1]), 0) << "steps by itself";
	EXPECT_EQ(slots[1], 42u);

	ASSERT_EQ(kvh_host_rule_add(dev, &slow), 0);
	copy(2, 1, streams[0]);
	for (int i = 0; i < 5; i++) {
		ASSERT_TRUE(kvh_host_step(dev, 0));
		EXPECT_EQ(slots[2], 0u);
	}
	ASSERT_TRUE(kvh_host_step(dev, 0));
	EXPECT_EQ(slots[2], 42u);
}

TEST_F(SteppedTest, ADeadDeviceDropsWhatIsQueued)
{
	kvh_host_rule fail = {KVH_HOST_COPY, KVH_HOST_FAIL, 1, 1, EFAULT, 0};
	int fd = eventfd(0, EFD_NONBLOCK);
	eventfd_t n;

	ASSERT_EQ(kvh_host_rule_add(dev, &fail), 0);
	copy(1, 0, streams[0]);
	ASSERT_EQ(ops->notify(dev, streams[0], fd), 0);
	copy(2, 0, streams[1]);
	ASSERT_EQ(ops->event_record(dev, events[1], streams[1]), 0);
	while (kvh_host_count(dev, KVH_HOST_COPY) == 0)
		ASSERT_TRUE(kvh_host_step(dev, 0));
	EXPECT_TRUE(ops->dead(dev));
	EXPECT_EQ(ops->event_query(dev, events[1]), -EIO);
	while (kvh_host_step(dev, 0)) {}
	EXPECT_EQ(slots[1] + slots[2], 0u);
	EXPECT_EQ(eventfd_read(fd, &n), -1);
	EXPECT_EQ(ops->stream_wait(dev, streams[1]), -EIO);
	close(fd);
}

TEST_F(SteppedTest, ADestroyedStreamRunsDry)
{
	kvh_stream own;

	ASSERT_EQ(ops->stream_create(dev, 0, &own), 0);
	copy(1, 0, own);
	copy(2, 1, own);
	ops->stream_destroy(dev, own);
	while (kvh_host_step(dev, 0)) {}
	EXPECT_EQ(slots[2], 42u);
}

} // namespace
