// SPDX-License-Identifier: Apache-2.0
//
// listen_test.cc - the queue between publishing and the store controller: order,
// nothing lost, and an eventfd that says when there is something.
#include "host/listen.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <thread>
#include <vector>

namespace
{

class Listener : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		ASSERT_EQ(kvh_listener_open(&listener_), 0);
	}
	void TearDown() override
	{
		kvh_listener_close(&listener_);
	}

	void push(std::vector<kvh_frame> frames)
	{
		std::vector<struct kvh_published> items;

		for (kvh_frame frame : frames)
			items.push_back({frame, nullptr, 0, KVH_HEARD_STORED});
		ASSERT_EQ(kvh_listener_push(&listener_, items.data(), uint32_t(items.size())),
			  0);
	}

	std::vector<kvh_frame> pop()
	{
		struct kvh_published *items = reinterpret_cast<struct kvh_published *>(1);
		const uint32_t n = kvh_listener_pop(&listener_, &items);
		std::vector<kvh_frame> frames;

		for (uint32_t i = 0; i < n; i++)
			frames.push_back(items[i].frame);
		if (n == 0) {
			EXPECT_EQ(items, nullptr);
		}
		return frames;
	}

	bool readable()
	{
		struct pollfd fd = {kvh_listener_fd(&listener_), POLLIN, 0};

		return poll(&fd, 1, 0) == 1;
	}

	struct kvh_listener listener_;
};

using Frames = std::vector<kvh_frame>;

TEST_F(Listener, EmptyAtFirst)
{
	EXPECT_FALSE(readable());
	EXPECT_EQ(pop(), Frames());
}

TEST_F(Listener, KeepsOrder)
{
	push({3, 1, 2});
	push({9});
	push({7, 8});
	EXPECT_EQ(pop(), (Frames{3, 1, 2, 9, 7, 8}));
}

TEST_F(Listener, KeepsWhoWaits)
{
	struct kvh_persist first = {}, second = {};
	const struct kvh_published in[] = {{1, &first, 7, KVH_HEARD_STORED},
					   {2, nullptr, 0, KVH_HEARD_USED},
					   {3, &second, 9, KVH_HEARD_DEMOTED}};
	struct kvh_published *out;

	ASSERT_EQ(kvh_listener_push(&listener_, in, 3), 0);
	ASSERT_EQ(kvh_listener_pop(&listener_, &out), 3u);
	EXPECT_EQ(out[0].persist, &first);
	EXPECT_EQ(out[1].persist, nullptr);
	EXPECT_EQ(out[2].persist, &second);
}

TEST_F(Listener, ClearedByPop)
{
	push({1, 2});
	EXPECT_EQ(pop().size(), 2u);
	EXPECT_FALSE(readable());
	EXPECT_EQ(pop(), Frames());
	push({3});
	EXPECT_EQ(pop(), Frames{3});
}

TEST_F(Listener, RaisesTheEventFd)
{
	push({1});
	EXPECT_TRUE(readable());
	EXPECT_TRUE(readable()); // until it is popped
	pop();
	EXPECT_FALSE(readable());
	push({2});
	EXPECT_TRUE(readable());
}

TEST_F(Listener, Accumulates)
{
	Frames want;

	for (kvh_frame i = 1; i <= 1000; i++) {
		push({i});
		want.push_back(i);
	}
	EXPECT_EQ(pop(), want);
}

TEST_F(Listener, NothingPushedRaisesNothing)
{
	ASSERT_EQ(kvh_listener_push(&listener_, nullptr, 0), 0);
	EXPECT_FALSE(readable());
}

TEST_F(Listener, EventFdAtItsMaximumLosesNothing)
{
	ASSERT_EQ(eventfd_write(kvh_listener_fd(&listener_), UINT64_MAX - 1), 0);
	push({1});
	push({2});
	EXPECT_TRUE(readable());
	EXPECT_EQ(pop(), (Frames{1, 2}));
	EXPECT_FALSE(readable());
}

TEST_F(Listener, ClosedWithItemsInIt)
{
	push({1, 2, 3}); // TearDown frees them, or the sanitizer tells
}

// What is popped, over all pops, is what was pushed, each thread's in its order;
// and the event is up whenever something is there.
TEST_F(Listener, ManyThreads)
{
	constexpr kvh_frame kThreads = 4, kEach = 2000;
	std::vector<std::thread> threads;
	std::vector<kvh_frame> last(kThreads, 0);
	kvh_frame got = 0;

	for (kvh_frame t = 0; t < kThreads; t++)
		threads.emplace_back([this, t] {
			for (kvh_frame i = 1; i <= kEach; i++)
				push({t << 32 | i});
		});
	while (got < kThreads * kEach) {
		struct pollfd fd = {kvh_listener_fd(&listener_), POLLIN, 0};

		ASSERT_EQ(poll(&fd, 1, -1), 1);
		for (kvh_frame frame : pop()) {
			EXPECT_EQ(uint32_t(frame), ++last[frame >> 32]);
			got++;
		}
	}
	for (std::thread &thread : threads)
		thread.join();
	EXPECT_EQ(pop(), Frames());
}

} // namespace
