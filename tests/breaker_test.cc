// SPDX-License-Identifier: Apache-2.0
//
// breaker_test.cc - the breaker's state machine by itself: time is a number.
#include "host/breaker.h"

#include <cerrno>
#include <gtest/gtest.h>

namespace
{

struct Breaker : kvh_breaker {
	explicit Breaker(uint32_t bound)
	{
		kvh_breaker_init(this, bound);
	}
	bool result(int status)
	{
		return kvh_breaker_result(this, status, now);
	}
	void open()
	{
		while (!result(-EIO))
			;
	}
	// To the trial, and how it ends.
	bool tried(int status)
	{
		EXPECT_FALSE(kvh_breaker_due(this, trial_ns - 1));
		now = trial_ns;
		EXPECT_TRUE(kvh_breaker_due(this, now));
		EXPECT_EQ(state, KVH_BREAKER_TRIAL);
		return kvh_breaker_tried(this, status, now);
	}
	uint64_t now = 1000;
};

TEST(Breaker, OpensAfterTheBoundInARow)
{
	Breaker b(3);

	EXPECT_FALSE(b.result(-EIO));
	EXPECT_FALSE(b.result(-ETIMEDOUT));
	EXPECT_FALSE(b.result(0)); // ends the row
	EXPECT_FALSE(b.result(-EIO));
	EXPECT_FALSE(b.result(-EIO));
	EXPECT_EQ(b.state, KVH_BREAKER_CLOSED);
	EXPECT_TRUE(b.result(-EIO));
	EXPECT_EQ(b.state, KVH_BREAKER_OPEN);
	EXPECT_EQ(b.opened, 1u);
	EXPECT_FALSE(b.result(-EIO)); // said once
}

TEST(Breaker, WhatIsAboutTheRequestIsNoFailure)
{
	for (int status :
	     {-ENOENT, -ENOSPC, -EDQUOT, -EINVAL, -EFBIG, -EROFS, -ENOMEM, -EMFILE}) {
		Breaker b(1);

		EXPECT_FALSE(b.result(status)) << status;
	}
	Breaker b(2);

	b.result(-EIO);
	EXPECT_FALSE(b.result(-ECANCELED)); // says nothing, so it does not end the row either
	EXPECT_TRUE(b.result(-EIO));
}

TEST(Breaker, ControlWithoutABoundItNeverOpens)
{
	Breaker b(0);

	for (int i = 0; i < 100000; i++)
		ASSERT_FALSE(b.result(-EIO));
	EXPECT_EQ(b.state, KVH_BREAKER_CLOSED);
}

TEST(Breaker, ClosesByItselfAfterATrial)
{
	Breaker b(1);

	b.open();
	EXPECT_TRUE(b.tried(0));
	EXPECT_EQ(b.state, KVH_BREAKER_CLOSED);
	b.open();
	EXPECT_TRUE(b.tried(-ENOSPC)); // full, and alive
	EXPECT_EQ(b.opened, 2u);
}

TEST(Breaker, BacksOffUpToABound)
{
	Breaker b(1);
	uint64_t last = 0;

	b.open();
	for (int i = 0; i < 20; i++) {
		const uint64_t start = b.now;

		EXPECT_FALSE(b.tried(i % 2 ? -EIO : -ETIMEDOUT));
		EXPECT_EQ(b.state, KVH_BREAKER_OPEN);
		EXPECT_GE(b.now - start, last);
		last = b.now - start;
	}
	EXPECT_EQ(last, KVH_BREAKER_BACKOFF_MAX_NS);
	EXPECT_TRUE(b.tried(0));
	b.open();
	EXPECT_EQ(b.trial_ns - b.now, KVH_BREAKER_BACKOFF_NS); // from the start again
}

TEST(Breaker, ATripOpensAndPutsTrialsOff)
{
	Breaker b(8);

	EXPECT_TRUE(kvh_breaker_trip(&b, b.now));
	EXPECT_FALSE(kvh_breaker_trip(&b, b.now));
	const uint64_t due = b.trial_ns;

	EXPECT_FALSE(kvh_breaker_trip(&b, due)); // still ill
	EXPECT_FALSE(kvh_breaker_due(&b, due));
	EXPECT_TRUE(b.tried(0)); // well, later
}

TEST(Breaker, Names)
{
	EXPECT_STREQ(kvh_breaker_state_name(KVH_BREAKER_CLOSED), "closed");
	EXPECT_STREQ(kvh_breaker_state_name(KVH_BREAKER_OPEN), "open");
	EXPECT_STREQ(kvh_breaker_state_name(KVH_BREAKER_TRIAL), "trial");
}

} // namespace
