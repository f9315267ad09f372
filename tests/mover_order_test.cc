/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_order_test.cc - what has to wait for what: order points, stages, done,
 * layers. Mostly on the stepped device, where "nothing can go on" is a fact and
 * not a matter of time. Each guard has its negative control: with the wait, or
 * the query, falsified, the same check finds the damage.
 */
#include "sanitizers.h"
#include "tests/mover_rig.h"

#include <thread>

using namespace rig;

namespace
{

/* Work of the runtime's: overwrites the pool on a stream, held until a release. */
class Producer
{
      public:
	Producer(Rig &rig, Group &g, kvh_stream stream)
	    : rig(rig), g(g), stream(stream), next(g.image)
	{
		fill(rig.rng, next.data(), next.size());
		struct kvh_copy copy = {g.memory(), next.data(), next.size()};
		rig.rule(KVH_HOST_COPY, KVH_HOST_HOLD);
		EXPECT_EQ(0, rig.dev->ops->copy(rig.dev, KVH_COPY_H2D, &copy, stream));
		rig.settle(1);
	}
	/* The image becomes what the pool is after it. The bytes of the vector stay
	 * where they are: a plan points to them. */
	void release()
	{
		kvh_host_release(rig.dev);
		EXPECT_EQ(0, rig.dev->ops->stream_wait(rig.dev, stream));
		memcpy(g.image.data(), next.data(), next.size());
	}

      private:
	Rig &rig;
	Group &g;
	kvh_stream stream;
	Bytes next;
};

class MoverOrder : public testing::TestWithParam<Mode>
{
};

INSTANTIATE_TEST_SUITE_P(, MoverOrder, host_modes(), mode_name);

TEST_P(MoverOrder, StoreWaitsForItsStream)
{
	Rig r(GetParam());
	Group &g = r.group(Shape());
	Job job(r);

	job.add(g, 4);
	Producer producer(r, g, r.stream);
	ASSERT_EQ(0, job.start(false, r.stream));
	r.settle(1);
	EXPECT_FALSE(job.finished());
	EXPECT_TRUE(job.untouched());
	producer.release();
	job.wait();
	job.expect_stored(); /* what the producer wrote */
}

/* With a wait that does not wait, the store is done before its producer. */
TEST_P(MoverOrder, ControlStoreWithoutWaiting)
{
	CONTROL_IS_A_DATA_RACE();
	Rig r(GetParam());
	Group &g = r.group(Shape());
	Job job(r);

	job.add(g, 4);
	Producer producer(r, g, r.stream);
	r.rule(KVH_HOST_WAIT_EVENT, KVH_HOST_LIE, 1, UINT64_MAX);
	ASSERT_EQ(0, job.start(false, r.stream));
	job.wait();
	producer.release();
	for (size_t i = 0; i < 4; i++)
		EXPECT_FALSE(job.stored(0, i));
}

TEST_P(MoverOrder, StoreWaitsForAnEventAsItWasAtTheCall)
{
	Rig r(GetParam());
	Group &g = r.group(Shape());
	kvh_event_mark event = nullptr;
	kvh_stream other = nullptr;
	Job first(r), second(r);

	ASSERT_EQ(0, r.dev->ops->event_create(r.dev, &event));
	ASSERT_EQ(0, r.dev->ops->stream_create(r.dev, 0, &other));
	first.add(g, 4);
	second.add(g, 4);
	Producer producer(r, g, other);
	ASSERT_EQ(0, r.dev->ops->event_record(r.dev, event, r.stream));
	ASSERT_EQ(0, first.start(false, nullptr, event));
	/* The first store does not care what the event is later. */
	ASSERT_EQ(0, r.dev->ops->event_record(r.dev, event, other));
	first.wait();
	first.expect_stored();
	ASSERT_EQ(0, second.start(false, nullptr, event));
	r.settle(1);
	EXPECT_FALSE(second.finished());
	producer.release();
	second.wait();
	second.expect_stored();
	r.dev->ops->event_destroy(r.dev, event);
	r.dev->ops->stream_destroy(r.dev, other);
}

/* Pages may be read until the order point; the link does not wait for it. */
TEST_P(MoverOrder, LoadWaitsWithItsPagesOnly)
{
	NEEDS_STAGES();
	Rig r(GetParam());
	Group &g = r.group(Shape());
	kvh_event_mark event = nullptr;

	ASSERT_EQ(0, r.dev->ops->event_create(r.dev, &event));
	for (bool by_event : {false, true}) {
		Job job(r);

		job.add(g, 4);
		Producer producer(r, g, r.stream);
		ASSERT_EQ(0, r.dev->ops->event_record(r.dev, event, r.stream));
		uint64_t copies = kvh_host_count(r.dev, KVH_HOST_COPY);
		ASSERT_EQ(0, job.start(true, by_event ? nullptr : r.stream,
				       by_event ? event : nullptr));
		r.settle(1);
		EXPECT_FALSE(job.finished());
		EXPECT_TRUE(g.download() == g.image);
		if (r.kind == Kind::STEPPED) { /* each layer of all chunks is in a stage */
			EXPECT_EQ(copies + 2, kvh_host_count(r.dev, KVH_HOST_COPY));
		}
		producer.release();
		job.wait();
		job.expect_loaded();
	}
	r.dev->ops->event_destroy(r.dev, event);
}

TEST_P(MoverOrder, ControlLoadWithoutWaiting)
{
	CONTROL_IS_A_DATA_RACE();
	Rig r(GetParam());
	Group &g = r.group(Shape());
	Job job(r);

	job.add(g, 4);
	Producer producer(r, g, r.stream);
	r.rule(KVH_HOST_WAIT_EVENT, KVH_HOST_LIE, 1, UINT64_MAX);
	ASSERT_EQ(0, job.start(true, r.stream));
	job.wait();
	EXPECT_FALSE(g.download() == g.image); /* written before the order point */
	producer.release();
	r.close_mover(); /* waits for the copies that `done` did not */
}

TEST_P(MoverOrder, NoStreamIsNow)
{
	Rig r(GetParam());
	Group &g = r.group(Shape());
	Job store(r), load(r);

	store.add(g, 4);
	ASSERT_EQ(0, store.start(false, nullptr));
	store.wait();
	store.expect_stored();
	load.add(g, 4);
	ASSERT_EQ(0, load.start(true, nullptr));
	load.wait();
	load.expect_loaded();
	EXPECT_EQ(-EINVAL, store.start(false, r.stream, (kvh_event_mark)(void *)&r));
}

/* ---- done ------------------------------------------------------------- */

TEST_P(MoverOrder, DoneComesAfterTheLastCopy)
{
	Rig r(GetParam(), 2000, 2);
	Group &g = r.group(Shape());
	uint64_t before = kvh_host_count(r.dev, KVH_HOST_COPY);
	Job job(r);

	job.add(g, 4);
	ASSERT_EQ(0, job.start(false, r.stream));
	job.wait();
	uint64_t copies = kvh_host_count(r.dev, KVH_HOST_COPY) - before;
	ASSERT_GT(copies, 4u);
	for (uint64_t nth = 2; nth <= copies; nth++) { /* the first is the page numbers */
		Job again(r);

		again.add(g, job.parts[0].pages);
		r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, nth);
		ASSERT_EQ(0, again.start(false, r.stream));
		r.settle(1);
		EXPECT_FALSE(again.finished());
		kvh_host_release(r.dev);
		again.wait();
		again.expect_stored();
	}
}

TEST_P(MoverOrder, ControlStoreDoneWithoutItsEvent)
{
	CONTROL_IS_A_DATA_RACE();
	Rig r(GetParam());
	Group &g = r.group(Shape());
	Job job(r);

	job.add(g, 4);
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
	r.rule(KVH_HOST_QUERY, KVH_HOST_LIE, 1, UINT64_MAX);
	ASSERT_EQ(0, job.start(false, r.stream));
	job.wait();
	EXPECT_EQ(0, job.move.status); /* it says */
	EXPECT_FALSE(job.stored(0, 0));
	kvh_host_release(r.dev);
	r.close_mover();
	EXPECT_TRUE(job.stored(0, 0));
}

TEST_P(MoverOrder, ControlLoadDoneWithoutItsEvent)
{
	NEEDS_STAGES();
	CONTROL_IS_A_DATA_RACE();
	Rig r(GetParam());
	Group &g = r.group(Shape());
	Job job(r);

	job.add(g, 4);
	r.rule(KVH_HOST_SCATTER, KVH_HOST_HOLD);
	r.rule(KVH_HOST_QUERY, KVH_HOST_LIE, 1, UINT64_MAX);
	ASSERT_EQ(0, job.start(true, r.stream));
	job.wait();
	EXPECT_EQ(0, job.move.status);
	EXPECT_TRUE(g.download() == g.image); /* nothing there yet */
	kvh_host_release(r.dev);
	r.close_mover();
	job.expect_loaded();
}

/* A ring of two: no third gather before a stage's copies were seen done. */
TEST_P(MoverOrder, AStageIsFreeWhenItsCopyIsDone)
{
	NEEDS_STAGES();
	Rig r(GetParam(), 1, 2);
	Group &g = r.group(Shape());
	Job job(r);
	uint64_t before = kvh_host_count(r.dev, KVH_HOST_GATHER);

	job.add(g, 4);
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
	ASSERT_EQ(0, job.start(false, r.stream));
	r.settle(1);
	EXPECT_LE(kvh_host_count(r.dev, KVH_HOST_GATHER), before + 2);
	if (r.kind == Kind::STEPPED) {
		EXPECT_EQ(kvh_host_count(r.dev, KVH_HOST_GATHER), before + 2);
	}
	kvh_host_release(r.dev);
	job.wait();
	job.expect_stored();
	EXPECT_EQ(before + 4 * 16, kvh_host_count(r.dev, KVH_HOST_GATHER)); /* one a unit */
}

TEST_P(MoverOrder, ControlAStageIsOverwritten)
{
	NEEDS_STAGES();
	CONTROL_IS_A_DATA_RACE();
	Rig r(GetParam(), 1, 2);
	Group &g = r.group(Shape());
	Job job(r);

	job.add(g, 4);
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
	r.rule(KVH_HOST_QUERY, KVH_HOST_LIE, 1, UINT64_MAX);
	ASSERT_EQ(0, job.start(false, r.stream));
	job.wait();
	r.until(KVH_HOST_GATHER, 4 * 16);
	kvh_host_release(r.dev);
	r.close_mover();
	EXPECT_FALSE(job.stored(0, 0)); /* got a later unit's bytes */
}

/* ---- loads and stores --------------------------------------------------- */

TEST(MoverPriority, ScattersGoBeforeGathers)
{
	Rig r(Kind::HOST);

	EXPECT_EQ(1u, kvh_host_streams(r.dev, 2));
	EXPECT_EQ(1u, kvh_host_streams(r.dev, 1));
	EXPECT_LT(0u, kvh_host_streams(r.dev, 0));
	r.close_mover();
	EXPECT_EQ(0u, kvh_host_streams(r.dev, 2));
}

/* Stores that hold the whole ring, and more that wait, hold up no load. */
TEST_P(MoverOrder, ALoadPassesStores)
{
	Rig r(GetParam(), 1, 2);
	Group &g = r.group(Shape()), &into = r.group(Shape());
	Job first(r), second(r), load(r);

	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2); /* the first behind the page numbers */
	for (Job *job : {&first, &second}) {
		job->add(g, 4);
		ASSERT_EQ(0, job->start(false, r.stream));
	}
	r.settle(1);
	load.add(into, 4);
	ASSERT_EQ(0, load.start(true, r.stream));
	load.wait();
	load.expect_loaded();
	EXPECT_FALSE(first.finished());
	EXPECT_FALSE(second.finished());
	EXPECT_GE(2u, kvh_host_count(r.dev, KVH_HOST_GATHER)); /* none ahead of the ring */
	kvh_host_release(r.dev);
	for (Job *job : {&first, &second}) {
		job->wait();
		job->expect_stored();
	}
}

/* ---- layers ----------------------------------------------------------- */

/* Layer by layer in ascending order, over all parts. */
TEST(MoverLayers, AscendingOverParts)
{
	Rig r(Kind::STEPPED);
	Shape even, odd;

	even.layer_step = 2; /* 0 2 */
	odd.first_layer = 1; /* 1 2 */
	Group &a = r.group(even), &b = r.group(odd);
	Job job(r);
	job.add(a, 4);
	job.add(b, 4);
	uint64_t before = kvh_host_count(r.dev, KVH_HOST_SCATTER);
	ASSERT_EQ(0, job.start(true, r.stream));
	static const struct {
		size_t part;
		uint32_t plane;
	} order[] = {{0, 0}, {1, 0}, {0, 2}, {1, 2}};
	for (uint64_t i = 0; i < 4; i++) {
		while (kvh_host_count(r.dev, KVH_HOST_SCATTER) == before + i)
			ASSERT_TRUE(r.step());
		/* It was counted and run in one step. */
		job.apply_planes(order[i].part, order[i].plane, order[i].plane + 2);
		EXPECT_TRUE(a.download() == a.image);
		EXPECT_TRUE(b.download() == b.image);
	}
	job.wait();
	job.expect_loaded();
}

/* Copies the pool on a stream of its own, behind a layer of the load. */
class Consumer
{
      public:
	Consumer(Rig &rig, Group &g) : seen(g.image.size()), rig(rig), g(g)
	{
		EXPECT_EQ(0, rig.dev->ops->stream_create(rig.dev, 0, &stream));
		EXPECT_EQ(0, rig.dev->ops->event_create(rig.dev, &end));
	}
	~Consumer()
	{
		rig.dev->ops->event_destroy(rig.dev, end);
		rig.dev->ops->stream_destroy(rig.dev, stream);
	}
	void read_behind(Job &job, uint32_t layer)
	{
		struct kvh_copy copy = {seen.data(), g.memory(), seen.size()};

		EXPECT_EQ(0, kvh_mover_load_wait(rig.mover, &job.move, layer, stream));
		EXPECT_EQ(0, rig.dev->ops->copy(rig.dev, KVH_COPY_D2H, &copy, stream));
		EXPECT_EQ(0, rig.dev->ops->event_record(rig.dev, end, stream));
	}
	bool finished()
	{
		return rig.dev->ops->event_query(rig.dev, end) == 1;
	}
	void wait()
	{
		EXPECT_EQ(0, rig.dev->ops->stream_wait(rig.dev, stream));
	}
	Bytes seen;
	kvh_stream stream = nullptr;

      private:
	Rig &rig;
	Group &g;
	kvh_event_mark end = nullptr;
};

/* Each with an event of its own or not, all of them can be waited for. */
TEST_P(MoverOrder, SmallLayersGoTogether)
{
	NEEDS_STAGES();
	Shape s;

	s.planes = 24; /* 12 layers */
	for (const uint32_t together : {1u, 4u, 5u, 12u, 100u}) {
		struct kvh_device *dev = nullptr;
		struct kvh_mover_opts opts = {};

		ASSERT_TRUE(open_device(GetParam().kind, &dev));
		opts.threadless = GetParam().kind == Kind::STEPPED;
		opts.layer_bytes = uint64_t{4096} * 4 * together;
		Rig r(dev, opts);
		Group &g = r.group(s);
		Job job(r);

		ASSERT_EQ(g.plan->payload_bytes, 12u * 4096);
		job.add(g, 4);
		const uint64_t before = kvh_host_count(r.dev, KVH_HOST_SCATTER);
		ASSERT_EQ(0, job.start(true, r.stream));
		for (uint32_t i = 0; i < 12; i++)
			EXPECT_EQ(0, kvh_mover_load_wait(r.mover, &job.move, i, r.stream));
		EXPECT_EQ(-EINVAL, kvh_mover_load_wait(r.mover, &job.move, 12, r.stream));
		job.wait();
		job.expect_loaded();
		EXPECT_EQ((12 + together - 1) / together,
			  kvh_host_count(r.dev, KVH_HOST_SCATTER) - before);
	}
}

TEST_P(MoverOrder, ALayerCanBeReadWhileTheNextIsHeld)
{
	NEEDS_STAGES();
	Rig r(GetParam());
	Group &g = r.group(Shape());
	Consumer layer0(r, g), layer1(r, g), all(r, g);
	Job job(r);

	job.add(g, 4);
	r.rule(KVH_HOST_SCATTER, KVH_HOST_HOLD, 2);
	ASSERT_EQ(0, job.start(true, r.stream));
	/* At once: the events are recorded when the call is over. */
	layer0.read_behind(job, 0);
	layer1.read_behind(job, 1);
	all.read_behind(job, KVH_LAYER_ALL);
	EXPECT_EQ(-EINVAL, kvh_mover_load_wait(r.mover, &job.move, 2, layer0.stream));
	r.settle(1);
	layer0.wait();
	job.apply_planes(0, 0, 2);
	EXPECT_TRUE(layer0.seen == g.image);
	EXPECT_FALSE(layer1.finished());
	EXPECT_FALSE(all.finished());
	EXPECT_FALSE(job.finished());
	kvh_host_release(r.dev);
	job.wait();
	job.expect_loaded();
	/* Also after done: until the load is forgotten. */
	Consumer late(r, g);
	late.read_behind(job, 1);
	for (Consumer *c : {&layer1, &all, &late}) {
		c->wait();
		EXPECT_TRUE(c->seen == g.image);
	}
}

TEST_P(MoverOrder, ControlLayerWithoutWaiting)
{
	NEEDS_STAGES();
	CONTROL_IS_A_DATA_RACE();
	Rig r(GetParam());
	Group &g = r.group(Shape());
	Consumer layer1(r, g);
	Job job(r);

	job.add(g, 4);
	r.rule(KVH_HOST_SCATTER, KVH_HOST_HOLD, 2);
	ASSERT_EQ(0, job.start(true, r.stream));
	r.settle(1);
	r.rule(KVH_HOST_WAIT_EVENT, KVH_HOST_LIE, 1, UINT64_MAX);
	layer1.read_behind(job, 1);
	layer1.wait();
	kvh_host_release(r.dev);
	job.wait();
	job.expect_loaded();
	EXPECT_FALSE(layer1.seen == g.image); /* old KV */
	r.close_mover();
}

/* ---- capture ---------------------------------------------------------- */

TEST_P(MoverOrder, CaptureIsBusyAndTouchesNothing)
{
	Rig r(GetParam());
	Group &g = r.group(Shape());
	Job job(r), load(r);

	job.add(g, 4);
	load.add(g, 4);
	ASSERT_EQ(0, load.start(true, r.stream));
	load.wait();
	load.expect_loaded();
	r.settle(0);
	for (kvh_stream stream : {r.stream, (kvh_stream) nullptr}) {
		uint64_t before = kvh_host_count(r.dev, KVH_HOST_ENQUEUE);

		kvh_host_set_capturing(r.dev, stream, true);
		EXPECT_EQ(-EBUSY, job.start(false, stream));
		EXPECT_EQ(-EBUSY, job.start(true, stream));
		EXPECT_EQ(-EBUSY, kvh_mover_load_wait(r.mover, &load.move, 0, stream));
		EXPECT_EQ(before, kvh_host_count(r.dev, KVH_HOST_ENQUEUE));
		EXPECT_FALSE(job.finished());
		EXPECT_TRUE(job.untouched());
		kvh_host_set_capturing(r.dev, stream, false);
	}
	ASSERT_EQ(0, job.start(false, r.stream));
	job.wait();
	job.expect_stored();
}

} // namespace
