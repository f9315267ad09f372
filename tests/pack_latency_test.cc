/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_latency_test.cc - what `kvhoist-bench pack --latency` stands on: the lookout says
 * when the device has finished, not before and not of what it does not see; and a run
 * moves the right bytes in every mode.
 */
#include "bench/latency.h"
#include "bench/lookout.h"
#include "cuda/device_host.h"
#include "host/clock.h"
#include "tests/run_program.h"

#include <gtest/gtest.h>

#include <cstring>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>

namespace
{

class Lookout : public ::testing::Test
{
      public:
	void SetUp() override
	{
		ASSERT_EQ(kvh_device_host_open(&dev), 0);
		ASSERT_EQ(dev->ops->stream_create(dev, 0, &stream), 0);
		ASSERT_EQ(kvh_lookout_open(dev, &lookout), 0);
	}
	void TearDown() override
	{
		if (lookout != nullptr)
			kvh_lookout_stop(lookout);
		dev->ops->stream_destroy(dev, stream);
		dev->ops->close(dev);
		kvh_lookout_free(lookout);
	}
	void rule(enum kvh_host_call call, enum kvh_host_action action, int error = 0)
	{
		const kvh_host_rule r = {call, action, 1, UINT64_MAX, error, 0};

		ASSERT_EQ(kvh_host_rule_add(dev, &r), 0);
	}
	int copy()
	{
		const kvh_copy c = {to, from, sizeof(to)};

		return dev->ops->copy(dev, KVH_COPY_D2H, &c, stream);
	}
	int copy_2d()
	{
		return dev->ops->copy_2d(dev, KVH_COPY_D2H, to, 16, from, 16, 8, 2, stream);
	}
	int copy_batch()
	{
		const kvh_copy c[] = {{to, from, 8}, {to + 8, from + 8, 8}};

		return dev->ops->copy_batch(dev, KVH_COPY_D2H, c, 2, stream);
	}
	/* It ends after the moment in which the copy was let go, and not before. */
	void expect_seen(int err)
	{
		std::thread releaser;
		uint64_t released = 0;

		ASSERT_EQ(err, 0);
		kvh_host_held_wait(dev, 1);
		releaser = std::thread([&] {
			released = kvh_now_ns();
			kvh_host_release(dev);
		});
		const uint64_t at = kvh_lookout_finished(lookout);

		releaser.join();
		EXPECT_GE(at, released);
		EXPECT_LE(at, kvh_now_ns());
	}

	kvh_device *dev = nullptr;
	kvh_stream stream = nullptr;
	struct kvh_lookout *lookout = nullptr;
	unsigned char from[32] = {1, 2, 3}, to[32] = {};
};

TEST_F(Lookout, SeesTheEndOfEachKindOfCopy)
{
	for (auto start : {&Lookout::copy, &Lookout::copy_2d, &Lookout::copy_batch}) {
		rule(KVH_HOST_COPY, KVH_HOST_HOLD);
		expect_seen((this->*start)());
	}
	EXPECT_EQ(to[0], 1);
}

/* Of two streams the one that ends last counts, whichever was enqueued last. */
TEST_F(Lookout, SeesTheLastOfSeveral)
{
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(copy(), 0);
	const uint64_t first = kvh_lookout_finished(lookout);

	rule(KVH_HOST_COPY, KVH_HOST_HOLD);
	expect_seen(copy());
	EXPECT_GT(kvh_lookout_finished(lookout), first);
}

/* The control: what does not go through it, it does not wait for. */
TEST_F(Lookout, ControlWhatItDoesNotSeeItDoesNotWaitFor)
{
	ASSERT_EQ(copy(), 0);
	const uint64_t before = kvh_lookout_finished(lookout);

	kvh_lookout_stop(lookout);
	rule(KVH_HOST_COPY, KVH_HOST_HOLD);
	ASSERT_EQ(copy(), 0);
	kvh_host_held_wait(dev, 1);
	EXPECT_EQ(kvh_lookout_finished(lookout), before);
	kvh_host_release(dev);
	ASSERT_EQ(dev->ops->stream_wait(dev, stream), 0);
	kvh_lookout_free(lookout);
	lookout = nullptr;
}

TEST_F(Lookout, MutedNoticesAreLost)
{
	const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	const uint64_t before = kvh_host_count(dev, KVH_HOST_NOTIFY);

	ASSERT_GE(fd, 0);
	for (uint64_t muted : {1, 0}) {
		kvh_lookout_mute(lookout, muted != 0);
		ASSERT_EQ(dev->ops->notify(dev, stream, fd), 0);
		ASSERT_EQ(dev->ops->stream_wait(dev, stream), 0);
		EXPECT_EQ(kvh_host_count(dev, KVH_HOST_NOTIFY), before + 1 - muted);
	}
	close(fd);
}

TEST_F(Lookout, ADeviceThatFailsIsNotWaitedFor)
{
	rule(KVH_HOST_COPY, KVH_HOST_FAIL, EIO);
	(void)copy();
	EXPECT_EQ(kvh_lookout_finished(lookout), 0u);
}

TEST(Latency, EveryModeMovesTheRightBytesBothWays)
{
	struct kvh_latency_opts opts = {};
	struct kvh_latency_report report;
	int noted = 0;

	opts.device = "host";
	opts.n = 3;
	opts.note = [](void *arg, const struct kvh_latency_row *) {
		++*static_cast<int *>(arg);
	};
	opts.arg = &noted;
	ASSERT_EQ(kvh_latency_run(&opts, &report), 0);
	EXPECT_TRUE(report.right);
	ASSERT_EQ(report.n, 2u * KVH_LATENCY_MODES);
	EXPECT_EQ(noted, 2 * KVH_LATENCY_MODES);
	for (uint32_t i = 0; i < report.n; i++) {
		const struct kvh_latency_row &row = report.rows[i];

		EXPECT_EQ(row.error, 0) << kvh_latency_mode_name(row.mode);
		EXPECT_EQ(row.mode, i % KVH_LATENCY_MODES);
		EXPECT_EQ(row.load, i >= KVH_LATENCY_MODES);
		EXPECT_GT(row.bytes, 1u << 20);
		EXPECT_LE(row.p50_ns, row.p99_ns);
	}
}

TEST(LatencyProgram, PrintsJson)
{
	const Outcome result = run({"pack", "--device", "host", "--latency", "--json"});

	ASSERT_EQ(result.status, 0) << result.err;
	const Json json(result.out);
	const json_t *rows = json_object_get(json.root(), "latency");

	EXPECT_EQ(json_array_size(json_object_get(json.root(), "rows")), 0u);
	ASSERT_EQ(json_array_size(rows), 2u * KVH_LATENCY_MODES);
	EXPECT_STREQ(json_string_value(json_object_get(json_array_get(rows, 0), "told_by")),
		     "notice");
	EXPECT_TRUE(json_is_integer(json_object_get(json_array_get(rows, 0), "p50_ns")));
}

} // namespace
