/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_layers_end_test.cc - how stores by layers end: whole, cancelled, sealed, with
 * the mover or the device; what is refused; and whatever fails, done comes once.
 */
#include "tests/mover_layers.h"

using namespace layers;

namespace
{

class MoverLayersHost : public testing::TestWithParam<Kind>
{
};

INSTANTIATE_TEST_SUITE_P(, MoverLayersHost, testing::Values(Kind::HOST, Kind::STEPPED),
			 name_of);

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

/* Layers that a group has nothing of put nothing on the device: whoever is cancelled
 * meanwhile leaves nothing behind, and nobody waits for its order point. */
TEST_P(MoverLayersHost, LayersOfNoPlaneAreNotWaitedFor)
{
	Rig r(GetParam());
	Shape late = deep();
	struct kvh_copy nothing = {};

	late.first_layer = 3;
	Group &g = r.group(late);
	Job job(r), other(r);

	job.add(g, 3);
	other.add(g, 2);
	job.layered = true;
	ASSERT_EQ(0, job.start(false, nullptr));
	nothing.dst = g.memory();
	nothing.src = g.memory();
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD);
	ASSERT_EQ(0, r.dev->ops->copy(r.dev, KVH_COPY_D2D, &nothing, r.stream));
	r.settle(1);
	ASSERT_EQ(0, job.give(2, r.stream)); /* held */
	ASSERT_EQ(0, other.start(false, nullptr));
	other.wait();
	other.expect_stored();
	EXPECT_FALSE(job.finished());
	kvh_mover_cancel(r.mover, &job.move);
	job.wait();
	expect_cancelled(job);
	r.close_mover(); /* without the caller's stream */
	kvh_host_release(r.dev);
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
