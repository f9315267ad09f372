/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_choice_test.cc - which way a plan goes, and who says so: options, a table of
 * rates, what both ways measured, and gentle, which stores follow at once. Tests say
 * nothing of which way is the faster here.
 */
#include "cuda/mover_direct.h"
#include "tests/mover_rig.h"

using namespace rig;

namespace
{

constexpr enum kvh_mover_way WAYS[] = {KVH_MOVER_STAGED, KVH_MOVER_DIRECT};

/* ---- gentle ------------------------------------------------------------- */

/* Pages of 16 KiB rows, eight of them at one stride: 128 KiB a copy. */
Shape gentle_shape()
{
	Shape s;

	s.planes = 8;
	s.planes_a_layer = 8;
	s.heads = 4;
	s.head_bytes = 512;
	s.n_pages = 16;
	return s;
}

TEST(MoverGentle, StoresChangeTheirWayAndLoadsDoNot)
{
	Rig r(Kind::HOST);
	Group &g = r.group(gentle_shape()), &small = r.group(Shape());
	bool gentle[] = {false, true, false};

	EXPECT_TRUE(g.mplan.gentle);
	EXPECT_TRUE(small.mplan.direct);
	EXPECT_FALSE(small.mplan.gentle); /* of 512 bytes: too much work for what moves */
	EXPECT_EQ(KVH_MOVER_STAGED, g.mplan.way[0]);
	for (bool on : gentle) {
		uint64_t gathers = kvh_host_count(r.dev, KVH_HOST_GATHER);
		uint64_t scatters = kvh_host_count(r.dev, KVH_HOST_SCATTER);
		Job store(r), load(r), other(r);

		kvh_mover_set_gentle(r.mover, on);
		store.add(g, 3);
		load.add(g, 3);
		other.add(small, 2);
		ASSERT_EQ(0, store.start(false, r.stream));
		store.wait();
		store.expect_stored();
		EXPECT_EQ(on, kvh_host_count(r.dev, KVH_HOST_GATHER) == gathers);
		gathers = kvh_host_count(r.dev, KVH_HOST_GATHER);
		ASSERT_EQ(0, other.start(false, r.stream));
		other.wait();
		other.expect_stored();
		EXPECT_GT(kvh_host_count(r.dev, KVH_HOST_GATHER), gathers);
		ASSERT_EQ(0, load.start(true, r.stream));
		load.wait();
		load.expect_loaded();
		EXPECT_GT(kvh_host_count(r.dev, KVH_HOST_SCATTER), scatters);
	}
}

/* Where it is asked for STAGED, gentle goes direct all the same: it is for the model. */
TEST(MoverGentle, FromTheStart)
{
	struct kvh_device *dev = nullptr;
	struct kvh_mover_opts opts {
	};

	opts.gentle = true;
	opts.way = KVH_MOVER_STAGED;
	ASSERT_EQ(0, kvh_device_host_open(&dev));
	Rig r(dev, opts);
	Group &g = r.group(gentle_shape());
	Job store(r);

	store.add(g, 2);
	ASSERT_EQ(0, store.start(false, r.stream));
	store.wait();
	store.expect_stored();
	EXPECT_EQ(0u, kvh_host_count(r.dev, KVH_HOST_GATHER));
}

/* ---- who decides -------------------------------------------------------- */

/* Pages of 64 KiB rows, 32 of them at one stride: 2 MiB a copy. A chunk is a page. */
Shape large_shape()
{
	Shape s;

	s.planes = s.planes_a_layer = 32;
	s.page_tokens = CHUNK_TOKENS;
	s.heads = 4;
	s.head_bytes = 512;
	s.n_pages = 2;
	return s;
}

TEST(MoverChoice, WithoutMeasuringByTheTable)
{
	Rig r(Kind::HOST);
	Shape shape = large_shape();
	Group &all = r.group(shape);

	EXPECT_EQ(KVH_MOVER_DIRECT, all.mplan.way[0]);
	EXPECT_EQ(KVH_MOVER_DIRECT, all.mplan.way[1]);
	shape.planes_a_layer = 2; /* loads by layers have copies of two rows */
	Group &by_layer = r.group(shape);
	EXPECT_EQ(KVH_MOVER_DIRECT, by_layer.mplan.way[0]);
	EXPECT_EQ(KVH_MOVER_STAGED, by_layer.mplan.way[1]);
	shape.planes = 31; /* less than 2 MiB a copy: too many for a GiB */
	EXPECT_EQ(KVH_MOVER_STAGED, r.group(shape).mplan.way[0]);
	shape = large_shape();
	shape.gap = 64; /* a gap between pages is none in a row */
	EXPECT_EQ(KVH_MOVER_DIRECT, r.group(shape).mplan.way[0]);
	shape.head_bytes = 256; /* 32 KiB, 64 of them: too short for all of the link */
	shape.planes = 64;
	EXPECT_EQ(KVH_MOVER_STAGED, r.group(shape).mplan.way[0]);
	EXPECT_EQ(0u, kvh_mover_calibration(r.mover, nullptr, 0));
}

TEST(MoverChoice, ByOption)
{
	for (auto way : WAYS) {
		Rig r(Mode(Kind::HOST, way));

		for (const Shape &shape : {Shape(), large_shape()}) {
			Group &g = r.group(shape);

			EXPECT_EQ(way, g.mplan.way[0]);
			EXPECT_EQ(way, g.mplan.way[1]);
		}
	}
}

TEST(MoverChoice, OnePercentLessIsAsGood)
{
	EXPECT_EQ(KVH_MOVER_DIRECT, kvh_way_of_rates(1000, 1001));
	EXPECT_EQ(KVH_MOVER_DIRECT, kvh_way_of_rates(1000, 990));
	EXPECT_EQ(KVH_MOVER_STAGED, kvh_way_of_rates(1000, 989));
	EXPECT_EQ(KVH_MOVER_STAGED, kvh_way_of_rates(1, 0));
}

/* ---- measuring ---------------------------------------------------------- */

struct kvh_mover_opts calibrating(uint64_t stage_bytes = 256 << 10)
{
	struct kvh_mover_opts opts {
	};

	opts.stage_bytes = stage_bytes;
	opts.calibrate = true;
	return opts;
}

struct kvh_device *host_device()
{
	struct kvh_device *dev = nullptr;

	EXPECT_EQ(0, kvh_device_host_open(&dev));
	return dev;
}

/* Both ways ran, and the better one was taken; whichever that is here. */
TEST(MoverCalibration, TheBetterWayIsTaken)
{
	Rig r(host_device(), calibrating());
	struct kvh_calibration seen[KVH_CALIBRATIONS_MAX];
	Group &g = r.group(large_shape());

	EXPECT_GT(kvh_host_count(r.dev, KVH_HOST_GATHER), 0u);
	EXPECT_GT(kvh_host_count(r.dev, KVH_HOST_SCATTER), 0u);
	ASSERT_EQ(2u, kvh_mover_calibration(r.mover, seen, KVH_CALIBRATIONS_MAX));
	for (int load = 0; load < 2; load++) {
		EXPECT_EQ(load != 0, seen[load].load);
		EXPECT_EQ(64u << 10, seen[load].row_bytes);
		EXPECT_EQ(32u, seen[load].rows);
		EXPECT_GT(seen[load].staged_rate, 0u);
		EXPECT_GT(seen[load].direct_rate, 0u);
		EXPECT_EQ(kvh_way_of_rates(seen[load].staged_rate, seen[load].direct_rate),
			  seen[load].way);
		EXPECT_EQ(seen[load].way, g.mplan.way[load]);
	}
	Job store(r), load(r);
	store.add(g, 2);
	ASSERT_EQ(0, store.start(false, r.stream));
	store.wait();
	store.expect_stored();
	load.add(g, 2);
	ASSERT_EQ(0, load.start(true, r.stream));
	load.wait();
	load.expect_loaded();
}

/* Once a shape: rows twice as long are another, some more bytes are not. */
TEST(MoverCalibration, OnceAShape)
{
	Rig r(host_device(), calibrating());
	Shape shape = large_shape();
	uint64_t gathers;

	r.group(shape);
	EXPECT_EQ(2u, kvh_mover_calibration(r.mover, nullptr, 0));
	gathers = kvh_host_count(r.dev, KVH_HOST_GATHER);
	r.group(shape);
	shape.head_bytes += 16;
	r.group(shape);
	EXPECT_EQ(2u, kvh_mover_calibration(r.mover, nullptr, 0));
	EXPECT_EQ(gathers, kvh_host_count(r.dev, KVH_HOST_GATHER));
	shape.head_bytes = 1024;
	r.group(shape);
	EXPECT_EQ(4u, kvh_mover_calibration(r.mover, nullptr, 0));
	EXPECT_GT(kvh_host_count(r.dev, KVH_HOST_GATHER), gathers);
}

/* What has no chance, or no choice, costs nothing. */
TEST(MoverCalibration, NothingIsMeasuredInVain)
{
	struct kvh_mover_opts opts = calibrating();
	Shape runs = large_shape();

	runs.order = KVH_ORDER_HND;
	runs.format = KVH_FORMAT_PORTABLE;
	{
		Rig r(host_device(), opts);

		r.group(runs);
		r.group(Shape());
		r.group(gentle_shape());
		EXPECT_EQ(0u, kvh_mover_calibration(r.mover, nullptr, 0));
	}
	for (auto way : WAYS) {
		opts.way = way;
		Rig r(host_device(), opts);

		r.group(large_shape());
		EXPECT_EQ(0u, kvh_mover_calibration(r.mover, nullptr, 0));
	}
}

/* The n-th call that a calibration makes fails: the plan goes as the table says, and
 * nothing is left behind, which the device would say at close. */
TEST(MoverCalibration, EveryCallMayFail)
{
	static const enum kvh_host_call calls[] = {KVH_HOST_MEM_ALLOC, KVH_HOST_HOST_ALLOC,
						   KVH_HOST_STREAM_CREATE,
						   KVH_HOST_EVENT_CREATE, KVH_HOST_ENQUEUE};

	for (auto call : calls) {
		/* Of the plan: the rig's memory, and its own, and for the upload pinned
		 * memory, a stream, a copy. */
		const uint64_t first_nth = call == KVH_HOST_MEM_ALLOC ? 3 : 2;

		for (uint64_t nth = first_nth; nth < 20; nth += 1 + nth / 2) {
			Rig r(host_device(), calibrating());
			Group &first = r.group(Shape()); /* stages are there */
			const uint64_t before = kvh_host_count(r.dev, call);

			EXPECT_EQ(KVH_MOVER_STAGED, first.mplan.way[0]);
			r.rule(call, KVH_HOST_FAIL, nth, 1, ENOMEM);
			Group &g = r.group(large_shape());
			if (kvh_host_count(r.dev, call) < before + nth)
				break;
			EXPECT_EQ(1u, kvh_mover_calibration(r.mover, nullptr, 0))
				<< "call " << call << " nth " << nth;
			Job job(r);
			job.add(g, 2);
			ASSERT_EQ(0, job.start(false, r.stream));
			job.wait();
			job.expect_stored();
		}
	}
}

/* It disturbs no move that is under way: stages and streams are others. */
TEST(MoverCalibration, BesideMoves)
{
	Rig r(host_device(), calibrating());
	Group &g = r.group(Shape());
	Job store(r), load(r);

	store.add(g, 4);
	load.add(g, 4);
	r.rule(KVH_HOST_GATHER, KVH_HOST_HOLD);
	ASSERT_EQ(0, store.start(false, r.stream));
	kvh_host_held_wait(r.dev, 1);
	r.group(large_shape());
	EXPECT_EQ(2u, kvh_mover_calibration(r.mover, nullptr, 0));
	EXPECT_FALSE(store.finished());
	kvh_host_release(r.dev);
	store.wait();
	store.expect_stored();
	ASSERT_EQ(0, load.start(true, r.stream));
	load.wait();
	load.expect_loaded();
}

/* In steps and in a simulation no time passes by copying. */
TEST(MoverCalibration, NotWithoutThreads)
{
	struct kvh_mover_opts opts = calibrating();
	struct kvh_device *dev = nullptr;

	opts.threadless = true;
	ASSERT_EQ(0, kvh_device_host_open_stepped(&dev));
	Rig r(dev, opts);
	EXPECT_EQ(KVH_MOVER_DIRECT, r.group(large_shape()).mplan.way[0]);
	EXPECT_EQ(0u, kvh_mover_calibration(r.mover, nullptr, 0));
	EXPECT_EQ(0u, kvh_host_count(r.dev, KVH_HOST_GATHER));
}

} // namespace
