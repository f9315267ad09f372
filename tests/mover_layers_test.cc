/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_layers_test.cc - stores by layers: every byte, whatever the layers given and
 * when; nothing is read before its order point, one that waits holds up no other, and
 * whatever fails, done comes once. The runtime's computation is a copy into the pool,
 * layer by layer, on its stream. Most of it on the stepped device, where "nothing can
 * go on" is a fact.
 */
#include "sanitizers.h"
#include "tests/mover_rig.h"

using namespace rig;

namespace
{

/* Computes a group's pool anew. The image is what it will be. */
class Runtime
{
      public:
	Runtime(Rig &rig, Group &g) : rig(rig), g(g), next(g.image.size())
	{
		fill(rig.rng, next.data(), next.size());
	}
	/* All layers in (after, layer]. */
	void compute(int64_t after, uint32_t layer)
	{
		for (uint32_t i = 0; i < g.plan->n_planes; i++) {
			uint64_t off = g.plane_offset(i), bytes = g.plane_bytes(i);
			uint32_t at = g.plan->planes[i].layer;
			struct kvh_copy copy = {static_cast<char *>(g.memory()) + off,
						&next[off], bytes};

			if (int64_t(at) <= after || at > layer)
				continue;
			EXPECT_EQ(0,
				  rig.dev->ops->copy(rig.dev, KVH_COPY_H2D, &copy, rig.stream));
			memcpy(&g.image[off], &next[off], bytes);
		}
	}
	/* What comes next on the stream is held. */
	void hold()
	{
		rig.rule(KVH_HOST_COPY, KVH_HOST_HOLD);
	}
	void wait()
	{
		EXPECT_EQ(0, rig.dev->ops->stream_wait(rig.dev, rig.stream));
	}

      private:
	Rig &rig;
	Group &g;
	Bytes next;
};

uint32_t last_layer(const Group &g)
{
	return g.plan->planes[g.plan->n_planes - 1].layer;
}

/* The planes of the layer, of all chunks of a part, are what the image says. */
bool layer_stored(Job &job, size_t p, uint32_t layer)
{
	Job::Part &part = job.parts[p];
	uint32_t ppc = part.group->pages_per_chunk();

	for (size_t i = 0; i < part.payloads.size(); i++) {
		Bytes want = part.group->gathered(&part.pages[i * ppc]);

		for (uint32_t pl = 0; pl < part.group->plan->n_planes; pl++) {
			const struct kvh_plan_plane &plane = part.group->plan->planes[pl];
			const char *at = static_cast<const char *>(part.payloads[i]);

			if (plane.layer == layer &&
			    memcmp(at + plane.payload_off, &want[plane.payload_off],
				   plane.unit_bytes * ppc))
				return false;
		}
	}
	return true;
}

void expect_cancelled(Job &job)
{
	EXPECT_EQ(-ECANCELED, job.move.status);
	for (auto &part : job.parts)
		for (int32_t status : part.status)
			EXPECT_EQ(-ECANCELED, status);
	EXPECT_TRUE(job.guards_intact());
}

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

std::string name_of(const testing::TestParamInfo<Kind> &info)
{
	return kind_name(info.param);
}

INSTANTIATE_TEST_SUITE_P(, MoverLayers, testing::Values(Kind::HOST, Kind::STEPPED, Kind::CUDA),
			 name_of);
INSTANTIATE_TEST_SUITE_P(, MoverLayersHost, testing::Values(Kind::HOST, Kind::STEPPED),
			 name_of);

/* ---- bytes ------------------------------------------------------------ */

Shape deep()
{
	Shape s;

	s.planes = 12;
	return s;
}

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

/* ---- the end ---------------------------------------------------------- */

TEST(MoverLayersStepped, AChunkIsSettledWhenItIsWhole)
{
	Rig r(Kind::STEPPED, 3000, 2);
	Shape shallow;
	Group &a = r.group(deep()), &b = r.group(shallow); /* layers 0..5, and 0 1 */
	Job job(r);

	job.add(a, 3);
	job.add(b, 3);
	job.layered = true;
	ASSERT_EQ(0, job.start(false, nullptr));
	ASSERT_EQ(0, job.give(4, nullptr));
	r.settle(0);
	kvh_mover_cancel(r.mover, &job.move);
	job.wait();
	EXPECT_EQ(-ECANCELED, job.move.status);
	for (size_t i = 0; i < 3; i++) {
		EXPECT_EQ(-ECANCELED, job.parts[0].status[i]);
		EXPECT_EQ(0, job.parts[1].status[i]);
		EXPECT_TRUE(job.stored(1, i));
	}
}

TEST_P(MoverLayersHost, CancelAtAnyLayer)
{
	for (uint32_t given = 0; given <= 6; given++) {
		Rig r(GetParam(), 3000, 2);
		Group &g = r.group(deep());
		Job job(r), other(r);

		job.add(g, 3);
		other.add(g, 2);
		job.layered = true;
		ASSERT_EQ(0, job.start(false, nullptr));
		for (uint32_t layer = 0; layer < given && layer < 5; layer++)
			ASSERT_EQ(0, job.give(layer, r.stream));
		r.settle(0);
		kvh_mover_cancel(r.mover, &job.move);
		int rc = job.give(5, r.stream); /* too late */
		EXPECT_TRUE(rc == 0 || rc == -ENOENT) << rc;
		job.wait();
		expect_cancelled(job);
		EXPECT_EQ(-ENOENT, job.give(KVH_LAYER_ALL, r.stream));
		ASSERT_EQ(0, other.start(false, r.stream));
		other.wait();
		other.expect_stored();
	}
}

TEST_P(MoverLayersHost, ASealedStoreEndsUnlessItHasAll)
{
	Rig r(GetParam(), 3000, 2);
	Group &g = r.group(deep());
	Job lacks(r), has(r), plain(r);

	for (Job *job : {&lacks, &has, &plain}) {
		job->add(g, 3);
		job->layered = job != &plain;
		ASSERT_EQ(0, job->start(false, nullptr));
	}
	ASSERT_EQ(0, lacks.give(4, nullptr));
	ASSERT_EQ(0, has.give(5, nullptr));
	for (Job *job : {&lacks, &has, &plain})
		kvh_mover_seal(r.mover, &job->move);
	for (Job *job : {&lacks, &has, &plain})
		job->wait();
	expect_cancelled(lacks);
	has.expect_stored();
	plain.expect_stored();
}

TEST_P(MoverLayersHost, CloseEndsWhatWaits)
{
	for (bool given : {false, true}) {
		Rig r(GetParam(), 3000, 2);
		Group &g = r.group(deep());
		Job job(r);

		job.add(g, 3);
		job.layered = true;
		ASSERT_EQ(0, job.start(false, nullptr));
		if (given) {
			ASSERT_EQ(0, job.give(2, r.stream));
		}
		r.close_mover();
		ASSERT_TRUE(job.finished());
		expect_cancelled(job);
	}
}

/* Nothing of it is on the device, so nothing fails; and nobody gives a layer. */
TEST_P(MoverLayersHost, ADeadDeviceEndsWhatWaits)
{
	Rig r(GetParam(), 3000, 2);
	Group &g = r.group(deep());
	struct kvh_copy copy = {g.memory(), g.memory(), 0};
	Job job(r), partly(r);

	for (Job *j : {&job, &partly}) {
		j->add(g, 3);
		j->layered = true;
		ASSERT_EQ(0, j->start(false, nullptr));
	}
	ASSERT_EQ(0, partly.give(2, nullptr));
	r.settle(0);
	/* The runtime's own work kills it. */
	kvh_stream other = nullptr;
	ASSERT_EQ(0, r.dev->ops->stream_create(r.dev, 0, &other));
	r.rule(KVH_HOST_COPY, KVH_HOST_FAIL);
	(void)r.dev->ops->copy(r.dev, KVH_COPY_D2D, &copy, other);
	job.wait();
	partly.wait();
	for (Job *j : {&job, &partly}) {
		EXPECT_EQ(-EIO, j->move.status);
		for (int32_t status : j->parts[0].status)
			EXPECT_EQ(-EIO, status);
	}
	EXPECT_EQ(-EIO, job.give(KVH_LAYER_ALL, nullptr));
	r.dev->ops->stream_destroy(r.dev, other);
}

/* ---- what is refused -------------------------------------------------- */

TEST_P(MoverLayersHost, WrongCallsAreRefusedAndChangeNothing)
{
	Rig r(GetParam());
	Group &g = r.group(deep());
	Job job(r), plain(r), load(r);
	kvh_event_mark event = nullptr;

	ASSERT_EQ(0, r.dev->ops->event_create(r.dev, &event));
	job.add(g, 3);
	plain.add(g, 3);
	load.add(r.group(deep()), 3);
	job.layered = true;
	EXPECT_EQ(-EINVAL, job.start(false, r.stream));
	EXPECT_EQ(-EINVAL, job.start(false, nullptr, event));
	ASSERT_EQ(0, job.start(false, nullptr));
	ASSERT_EQ(0, plain.start(false, r.stream));
	ASSERT_EQ(0, load.start(true, r.stream));
	EXPECT_EQ(-ENOENT, plain.give(1, r.stream));
	EXPECT_EQ(-ENOENT, load.give(1, r.stream));
	ASSERT_EQ(0, job.give(2, r.stream));
	EXPECT_EQ(-EINVAL, job.give(1, r.stream));
	EXPECT_EQ(-EINVAL, job.give(3, r.stream, event));
	for (kvh_stream stream : {r.stream, (kvh_stream) nullptr}) {
		kvh_host_set_capturing(r.dev, stream, true);
		EXPECT_EQ(-EBUSY, job.give(3, stream));
		kvh_host_set_capturing(r.dev, stream, false);
	}
	plain.wait();
	load.wait();
	EXPECT_FALSE(job.finished());
	ASSERT_EQ(0, job.give(KVH_LAYER_ALL, r.stream));
	job.wait();
	job.expect_stored();
	EXPECT_EQ(-ENOENT, job.give(KVH_LAYER_ALL, r.stream));
	r.dev->ops->event_destroy(r.dev, event);
}

TEST_P(MoverLayersHost, NoMemoryForALayer)
{
	Rig r(GetParam());
	Group &g = r.group(deep());
	Job job(r);

	job.add(g, 3);
	job.layered = true;
	ASSERT_EQ(0, job.start(false, nullptr));
	r.rule(KVH_HOST_EVENT_CREATE, KVH_HOST_FAIL, 1, 1, ENOMEM);
	EXPECT_EQ(-ENOMEM, job.give(0, r.stream));
	ASSERT_EQ(0, job.give(0, r.stream)); /* as if nothing had been */
	ASSERT_EQ(0, job.give(KVH_LAYER_ALL, r.stream));
	job.wait();
	job.expect_stored();
}

/* ---- what fails ------------------------------------------------------- */

/* Chunks with status 0 have their bytes, the others the error. */
void expect_ended(Job &job, int error)
{
	bool failed = false;

	for (size_t i = 0; i < job.parts[0].status.size(); i++) {
		int32_t status = job.parts[0].status[i];

		EXPECT_TRUE(status == 0 ? job.stored(0, i) : status == error) << status;
		failed |= status != 0;
	}
	EXPECT_EQ(failed ? error : 0, job.move.status);
	EXPECT_TRUE(job.guards_intact());
}

TEST_P(MoverLayersHost, TheNthEnqueueFails)
{
	Rig r(GetParam(), 3000, 2);
	Group &g = r.group(deep());
	unsigned refused = 0, broken = 0;
	bool hit = true;

	for (uint64_t nth = 1; hit && !HasFailure(); nth++) {
		SCOPED_TRACE("enqueue " + std::to_string(nth));
		uint64_t before = kvh_host_count(r.dev, KVH_HOST_ENQUEUE);
		Job job(r), after(r);

		job.add(g, 3);
		job.layered = true;
		r.rule(KVH_HOST_ENQUEUE, KVH_HOST_FAIL, nth, 1, ENOMEM);
		ASSERT_EQ(0, job.start(false, nullptr));
		for (uint32_t layer : {0u, 1u, 3u, 5u}) {
			int rc = job.give(layer, r.stream);

			EXPECT_TRUE(rc == 0 || rc == -ENOMEM || rc == -ENOENT) << rc;
			refused += rc == -ENOMEM;
			if (rc == -ENOMEM) /* the next one covers it; the last again */
				rc = layer == 5 ? job.give(layer, r.stream) : 0;
			for (uint64_t i = 0; r.kind == Kind::STEPPED && i < 20; i++)
				r.step();
		}
		job.wait();
		expect_ended(job, -ENOMEM);
		broken += job.move.status != 0;
		hit = kvh_host_count(r.dev, KVH_HOST_ENQUEUE) >= before + nth;
		kvh_host_release(r.dev);
		after.add(g, 2);
		ASSERT_EQ(0, after.start(false, r.stream));
		after.wait();
		after.expect_stored();
	}
	EXPECT_GE(refused, 1u);
	EXPECT_GE(broken, 10u);
}

bool die_at(Kind kind, enum kvh_host_call call, uint64_t nth)
{
	Rig r(kind, 3000, 2);
	Group &g = r.group(deep());
	Job job(r), plain(r);

	job.add(g, 3);
	plain.add(g, 2);
	job.layered = true;
	r.rule(call, KVH_HOST_FAIL, nth);
	EXPECT_EQ(0, job.start(false, nullptr));
	for (uint32_t layer : {0u, 1u, 3u, KVH_LAYER_ALL}) {
		int rc = job.give(layer, r.stream);

		EXPECT_TRUE(rc == 0 || rc == -EIO || rc == -ENOENT) << rc;
	}
	if (plain.start(false, r.stream) == 0) {
		plain.wait();
		expect_ended(plain, -EIO);
	}
	job.wait();
	expect_ended(job, -EIO);
	if (kind == Kind::STEPPED)
		r.settle(0);
	return r.dev->ops->dead(r.dev);
}

TEST_P(MoverLayersHost, DeviceDiesAtAnyOperation)
{
	for (auto call : {KVH_HOST_COPY, KVH_HOST_GATHER, KVH_HOST_RECORD, KVH_HOST_WAIT_EVENT,
			  KVH_HOST_NOTIFY}) {
		uint64_t nth = 1;

		while (nth < 200 && die_at(GetParam(), call, nth) && !HasFailure())
			nth++;
		EXPECT_GT(nth, 2u) << "call " << call;
		EXPECT_LT(nth, 200u);
	}
}

} // namespace
