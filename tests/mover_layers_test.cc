/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_layers_test.cc - stores by layers: every byte, whatever the layers given and
 * when; nothing is read before its order point, and one that waits holds up no other. The
 * runtime's computation is a copy into the pool, layer by layer, on its stream. Most of it on
 * the stepped device, where "nothing can go on" is a fact.
 */
#include "sanitizers.h"
#include "tests/mover_layers.h"

using namespace layers;

namespace
{

class MoverLayers : public testing::TestWithParam<Kind>
{
      protected:
	void SetUp() override
	{
		struct kvh_device *dev = nullptr;

		if (!open_device(GetParam(), &dev))
			GTEST_SKIP() << "no device: " << kvh_device_describe();
		dev->ops->close(dev);
	}
};

class MoverLayersHost : public testing::TestWithParam<Kind>
{
};

INSTANTIATE_TEST_SUITE_P(, MoverLayers, testing::Values(Kind::HOST, Kind::STEPPED, Kind::CUDA),
			 name_of);
INSTANTIATE_TEST_SUITE_P(, MoverLayersHost, testing::Values(Kind::HOST, Kind::STEPPED),
			 name_of);

/* ---- bytes ------------------------------------------------------------ */

TEST_P(MoverLayers, EveryByteWhateverIsGivenAtOnce)
{
	for (uint64_t seed = 1; seed <= 12; seed++) {
		SCOPED_TRACE("seed " + std::to_string(seed));
		Rig r(GetParam(), seed % 3 * 3000, 1 + uint32_t(seed % 3), seed);
		Shape s = deep(), gappy = deep();

		s.planes_a_layer = 1 + uint32_t(seed % 4);
		gappy.first_layer = 1;
		gappy.layer_step = 3;
		gappy.opaque = 700;
		Group &a = r.group(s), &b = r.group(gappy);
		Runtime ra(r, a), rb(r, b);
		Job job(r);
		int64_t given = -1;
		uint32_t last = std::max(last_layer(a), last_layer(b));

		job.add(a, 3);
		job.add(b, 2);
		job.layered = true;
		ASSERT_EQ(0, job.start(false, nullptr));
		while (given < int64_t(last)) {
			uint32_t layer = uint32_t(given + 1 + int64_t(r.rng() % 3));

			ra.compute(given, layer);
			rb.compute(given, layer);
			ASSERT_EQ(0, job.give(layer, r.stream));
			given = layer;
			for (uint64_t i = r.rng() % 8; r.kind == Kind::STEPPED && i > 0; i--)
				r.step();
		}
		job.wait();
		job.expect_stored();
	}
}

TEST_P(MoverLayers, AllAtOnceAndWithoutAStream)
{
	Rig r(GetParam(), 3000, 2);
	Group &g = r.group(deep());
	Job all(r), last(r), none(r);

	all.add(g, 4);
	last.add(g, 4);
	none.add(g, 0);
	for (Job *job : {&all, &last, &none}) {
		job->layered = true;
		ASSERT_EQ(0, job->start(false, nullptr));
	}
	ASSERT_EQ(0, all.give(KVH_LAYER_ALL, nullptr));
	ASSERT_EQ(0, last.give(last_layer(g), nullptr));
	for (Job *job : {&all, &last, &none}) { /* of none there is nothing to give */
		job->wait();
		job->expect_stored();
	}
}

/* ---- order ------------------------------------------------------------ */

TEST_P(MoverLayersHost, ALayerIsReadBehindItsOrderPointAndNoLater)
{
	Rig r(GetParam());
	Group &g = r.group(deep());
	Runtime runtime(r, g);
	Job job(r);

	job.add(g, 4);
	job.layered = true;
	ASSERT_EQ(0, job.start(false, nullptr));
	runtime.compute(-1, 0);
	runtime.wait();
	ASSERT_EQ(0, job.give(0, r.stream));
	r.settle(0);
	runtime.hold();
	runtime.compute(0, 1);
	ASSERT_EQ(0, job.give(1, r.stream));
	r.settle(1);
	EXPECT_FALSE(job.finished());
	EXPECT_FALSE(layer_stored(job, 0, 1));
	if (r.kind == Kind::STEPPED) { /* layer 0 did not wait for layer 1 */
		EXPECT_TRUE(layer_stored(job, 0, 0));
	}
	kvh_host_release(r.dev);
	runtime.compute(1, last_layer(g));
	ASSERT_EQ(0, job.give(KVH_LAYER_ALL, r.stream));
	job.wait();
	job.expect_stored();
}

TEST(MoverLayersControl, WithoutWaitingALayerIsReadTooEarly)
{
	CONTROL_IS_A_DATA_RACE();
	Rig r(Kind::STEPPED);
	Group &g = r.group(deep());
	Runtime runtime(r, g);
	Job job(r);

	job.add(g, 4);
	job.layered = true;
	ASSERT_EQ(0, job.start(false, nullptr));
	runtime.hold();
	runtime.compute(-1, KVH_LAYER_ALL);
	r.settle(1);
	r.rule(KVH_HOST_WAIT_EVENT, KVH_HOST_LIE, 1, UINT64_MAX);
	ASSERT_EQ(0, job.give(KVH_LAYER_ALL, r.stream));
	job.wait();
	EXPECT_EQ(0, job.move.status); /* it says */
	EXPECT_FALSE(layer_stored(job, 0, 0));
	kvh_host_release(r.dev);
	runtime.wait();
}

TEST_P(MoverLayersHost, AnEventCountsAsItWasAtTheCall)
{
	Rig r(GetParam());
	Group &g = r.group(deep());
	Runtime runtime(r, g);
	struct kvh_copy nothing = {g.memory(), g.memory(), 0};
	kvh_event_mark event = nullptr;
	kvh_stream other = nullptr;
	Job first(r), second(r);

	ASSERT_EQ(0, r.dev->ops->event_create(r.dev, &event));
	ASSERT_EQ(0, r.dev->ops->stream_create(r.dev, 0, &other));
	for (Job *job : {&first, &second}) {
		job->add(g, 4);
		job->layered = true;
		ASSERT_EQ(0, job->start(false, nullptr));
	}
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD);
	ASSERT_EQ(0, r.dev->ops->copy(r.dev, KVH_COPY_D2D, &nothing, other));
	r.settle(1);
	runtime.compute(-1, KVH_LAYER_ALL);
	ASSERT_EQ(0, r.dev->ops->event_record(r.dev, event, r.stream));
	ASSERT_EQ(0, first.give(KVH_LAYER_ALL, nullptr, event));
	/* The first does not care what the event is later. */
	ASSERT_EQ(0, r.dev->ops->event_record(r.dev, event, other));
	first.wait();
	first.expect_stored();
	ASSERT_EQ(0, second.give(KVH_LAYER_ALL, nullptr, event));
	r.settle(1);
	EXPECT_FALSE(second.finished());
	kvh_host_release(r.dev);
	second.wait();
	second.expect_stored();
	r.dev->ops->event_destroy(r.dev, event);
	r.dev->ops->stream_destroy(r.dev, other);
}

/* Only layers that were given are read; without them the mover has nothing to do. */
TEST(MoverLayersStepped, WhatIsNotGivenIsNotRead)
{
	Rig r(Kind::STEPPED);
	Group &g = r.group(deep());
	Job job(r);

	job.add(g, 4);
	job.layered = true;
	ASSERT_EQ(0, job.start(false, nullptr));
	r.settle(0);
	EXPECT_TRUE(job.untouched());
	ASSERT_EQ(0, job.give(2, nullptr));
	r.settle(0);
	EXPECT_FALSE(job.finished());
	for (uint32_t layer = 0; layer <= last_layer(g); layer++)
		EXPECT_EQ(layer <= 2, layer_stored(job, 0, layer)) << layer;
	ASSERT_EQ(0, job.give(KVH_LAYER_ALL, nullptr));
	job.wait();
	job.expect_stored();
}

/* Given before the device is fed, and reached: one gather. What is not reached is not
 * waited for by what is. */
TEST(MoverLayersStepped, ReachedLayersAreFedTogether)
{
	Rig r(Kind::STEPPED);
	Group &g = r.group(deep());
	Runtime runtime(r, g);
	Job job(r);
	uint64_t before = kvh_host_count(r.dev, KVH_HOST_GATHER);

	job.add(g, 4);
	job.layered = true;
	ASSERT_EQ(0, job.start(false, nullptr));
	for (uint32_t layer : {0u, 1u, 1u, 2u}) /* the second time is nothing new */
		ASSERT_EQ(0, job.give(layer, nullptr));
	runtime.hold();
	runtime.compute(2, 3);
	ASSERT_EQ(0, job.give(3, r.stream));
	ASSERT_EQ(0, job.give(4, r.stream));
	r.settle(1);
	EXPECT_EQ(before + 1, kvh_host_count(r.dev, KVH_HOST_GATHER));
	EXPECT_TRUE(layer_stored(job, 0, 2));
	kvh_host_release(r.dev);
	r.settle(0);
	EXPECT_EQ(before + 3, kvh_host_count(r.dev, KVH_HOST_GATHER)); /* 3, then 4 */
	ASSERT_EQ(0, job.give(KVH_LAYER_ALL, nullptr));
	job.wait();
	job.expect_stored();
}

/* ---- others ----------------------------------------------------------- */

TEST_P(MoverLayersHost, OthersPassAStoreWhoseLayersDoNotCome)
{
	Rig r(GetParam(), 3000, 2);
	Group &g = r.group(deep()), &into = r.group(deep());
	std::deque<Job> others;
	Job waits(r), partly(r);

	for (Job *job : {&waits, &partly}) {
		job->add(g, 4);
		job->layered = true;
		ASSERT_EQ(0, job->start(false, nullptr));
	}
	ASSERT_EQ(0, partly.give(1, nullptr));
	for (int i = 0; i < 6; i++) {
		others.emplace_back(r);
		others.back().add(i % 3 == 0 ? into : g, 2);
		ASSERT_EQ(0, others.back().start(i % 3 == 0, nullptr));
	}
	for (auto &job : others)
		job.wait();
	EXPECT_FALSE(waits.finished());
	EXPECT_FALSE(partly.finished());
	for (auto &job : others) {
		if (job.load)
			job.apply();
		else
			job.expect_stored();
	}
	EXPECT_TRUE(into.download() == into.image);
	for (Job *job : {&partly, &waits})
		ASSERT_EQ(0, job->give(KVH_LAYER_ALL, nullptr));
	waits.wait();
	partly.wait();
	waits.expect_stored();
	partly.expect_stored();
}

/* The check sees it if they wait: behind a layer whose order point is not reached. */
TEST(MoverLayersControl, OthersWaitBehindAnOrderPoint)
{
	Rig r(Kind::STEPPED, 3000, 2);
	Group &g = r.group(deep());
	Runtime runtime(r, g);
	Job job(r), other(r);

	job.add(g, 4);
	job.layered = true;
	ASSERT_EQ(0, job.start(false, nullptr));
	runtime.hold();
	runtime.compute(-1, KVH_LAYER_ALL);
	r.settle(1);
	ASSERT_EQ(0, job.give(KVH_LAYER_ALL, r.stream));
	other.add(g, 2);
	ASSERT_EQ(0, other.start(false, nullptr));
	r.settle(1);
	EXPECT_FALSE(other.finished());
	kvh_host_release(r.dev);
	other.wait();
	job.wait();
	other.expect_stored();
	job.expect_stored();
}

/* What a pass asks the device does not grow with what is pending. */
TEST(MoverLayersStepped, APassAsksForTheOldestAlone)
{
	uint64_t asked[2];

	for (int many : {0, 1}) {
		Rig r(Kind::STEPPED, 3000, 2);
		Group &g = r.group(deep()), &into = r.group(deep());
		std::deque<Job> jobs;

		r.rule(KVH_HOST_SCATTER, KVH_HOST_HOLD);
		r.rule(KVH_HOST_GATHER, KVH_HOST_HOLD);
		for (int i = 0; i < (many ? 300 : 3); i++) {
			jobs.emplace_back(r);
			jobs.back().add(i % 3 == 0 ? into : g, 2);
			jobs.back().layered = i % 3 == 1;
			ASSERT_EQ(0, jobs.back().start(i % 3 == 0, nullptr));
			if (i % 3 == 1) {
				ASSERT_EQ(0, jobs.back().give(1, nullptr));
			}
		}
		r.settle(2);
		uint64_t before = kvh_host_count(r.dev, KVH_HOST_QUERY);
		EXPECT_FALSE(kvh_mover_step(r.mover));
		asked[many] = kvh_host_count(r.dev, KVH_HOST_QUERY) - before;
		kvh_host_release(r.dev);
		for (auto &job : jobs) {
			if (job.layered)
				kvh_mover_cancel(r.mover, &job.move);
			job.wait();
		}
	}
	EXPECT_EQ(2u, asked[0]); /* a load's, and a stage's */
	EXPECT_EQ(asked[0], asked[1]);
}

/* Of those that have something to feed the oldest is next. */
TEST(MoverLayersStepped, TheOldestIsFedFirst)
{
	Rig r(Kind::STEPPED, 1, 1);
	Group &g = r.group(deep());
	Job old(r), young(r);

	old.add(g, 1);
	old.layered = true;
	young.add(g, 4);
	ASSERT_EQ(0, old.start(false, nullptr));
	ASSERT_EQ(0, young.start(false, nullptr));
	r.until(KVH_HOST_GATHER, 5);
	ASSERT_EQ(0, old.give(KVH_LAYER_ALL, nullptr));
	young.wait();
	ASSERT_TRUE(old.finished());
	EXPECT_LT(old.done_seq, young.done_seq);
	old.expect_stored();
	young.expect_stored();
}

} // namespace
