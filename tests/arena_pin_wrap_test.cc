// SPDX-License-Identifier: Apache-2.0
//
// arena_pin_wrap_test.cc - an arena for which threads, or memory for its tables,
// cannot be had.
#include "arena_rig.h"
#include "wrap.h"

#include <cerrno>

namespace
{

class PinWrap : public Arena
{
      protected:
	void SetUp() override
	{
		Arena::SetUp();
		opts.piece_bytes = 2 * kMiB;
		opts.touch_threads = 4;
		opts.early = true;
	}
	void open_without(uint64_t nth)
	{
		wrap::threads.arm(nth, true);
		open();
		EXPECT_TRUE(wrap::threads.disarm()) << "control: they were asked for";
	}
};

TEST_F(PinWrap, WithoutThreadsOpenDoesItAll)
{
	open_without(1);
	EXPECT_FALSE(stats().pinning);
	EXPECT_EQ(stats().pinned_bytes, 32 * kMiB);
	EXPECT_NE(log_lines.find("kvh-pin cannot be started"), std::string::npos);
	free_all(alloc(kMiB, 32));
}

TEST_F(PinWrap, WithOneThreadThatDoes)
{
	open_without(2);
	kvh_arena_pinned_wait(arena);
	EXPECT_EQ(stats().pinned_bytes, 32 * kMiB);
	free_all(alloc(kMiB, 32));
}

TEST_F(PinWrap, WithoutEarlyNeither)
{
	opts.early = false;
	open_without(1);
	EXPECT_EQ(stats().pinned_bytes, 32 * kMiB);
}

TEST_F(PinWrap, EveryAllocationAndMappingMayFail)
{
	uint64_t nth = 0, failed = 0;
	int err;

	opts.touch_threads = 1;
	opts.early = false;
	do {
		wrap::memory.arm(++nth, false);
		err = kvh_arena_open(&opts, &arena);
		if (!wrap::memory.disarm())
			break; /* there are no more */
		failed++;
		/* What gives back an unaligned rest may fail without harm. */
		EXPECT_TRUE(err == 0 || err == -ENOMEM) << nth << ": " << err;
		if (err == 0)
			kvh_arena_close(arena, false);
		arena = nullptr;
		EXPECT_EQ(kvh_host_registered(dev), 0u) << nth;
		ASSERT_LT(nth, 1000u);
	} while (true);
	EXPECT_GT(failed, 16u) << "at least each piece's mapping";
	EXPECT_EQ(err, 0);
}

} // namespace
