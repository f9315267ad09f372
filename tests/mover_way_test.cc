/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_way_test.cc - direct moves keep what staged ones promise: they come behind
 * their order point, a layer's event behind its bytes, done behind all, and what was
 * not asked for does not cross the link. Each guard is taken out once. mover_test.cc
 * and its like run both ways, too.
 */
#include "tests/mover_rig.h"
#include "tests/sanitizers.h"

using namespace rig;

namespace
{

constexpr enum kvh_mover_way WAYS[] = {KVH_MOVER_STAGED, KVH_MOVER_DIRECT};

/* Stands for work of the runtime's in front of the order point. */
void hold_order_point(Rig &r)
{
	r.rule(KVH_HOST_RECORD, KVH_HOST_HOLD);
}

class MoverDirect : public testing::TestWithParam<Kind>
{
      protected:
	Mode mode() const
	{
		return Mode(GetParam(), KVH_MOVER_DIRECT);
	}
};

INSTANTIATE_TEST_SUITE_P(, MoverDirect, testing::Values(Kind::HOST, Kind::STEPPED),
			 [](const testing::TestParamInfo<Kind> &info) {
				 return kind_name(info.param);
			 });

/* ---- no stage, no kernel ------------------------------------------------ */

TEST_P(MoverDirect, NoKernelRuns)
{
	Rig r(mode());
	Group &g = r.group(Shape());
	Job store(r), load(r);

	store.add(g, 4);
	ASSERT_EQ(0, store.start(false, r.stream));
	store.wait();
	store.expect_stored();
	load.add(g, 4, 30);
	ASSERT_EQ(0, load.start(true, r.stream));
	load.wait();
	load.expect_loaded();
	EXPECT_EQ(0u, kvh_host_count(r.dev, KVH_HOST_GATHER));
	EXPECT_EQ(0u, kvh_host_count(r.dev, KVH_HOST_SCATTER));
}

/* A plan whose pages are many runs goes through a stage, whatever was asked for;
 * both in one move. */
TEST_P(MoverDirect, PartsGoTheirOwnWays)
{
	Rig r(mode(), 2000, 2);
	Shape runs;
	Job store(r), load(r);

	runs.order = KVH_ORDER_HND;
	runs.format = KVH_FORMAT_PORTABLE;
	Group &direct = r.group(Shape()), &staged = r.group(runs);
	EXPECT_EQ(KVH_MOVER_DIRECT, direct.mplan.way[0]);
	EXPECT_EQ(KVH_MOVER_DIRECT, direct.mplan.way[1]);
	EXPECT_TRUE(direct.mplan.direct);
	EXPECT_EQ(KVH_MOVER_STAGED, staged.mplan.way[0]);
	EXPECT_EQ(KVH_MOVER_STAGED, staged.mplan.way[1]);
	EXPECT_FALSE(staged.mplan.direct);
	for (Job *job : {&store, &load}) {
		job->add(staged, 3);
		job->add(direct, 3);
		job->add(staged, 1);
		job->add(direct, 2);
	}
	ASSERT_EQ(0, store.start(false, r.stream));
	store.wait();
	store.expect_stored();
	EXPECT_GT(kvh_host_count(r.dev, KVH_HOST_GATHER), 0u);
	ASSERT_EQ(0, load.start(true, r.stream));
	load.wait();
	load.apply();
	for (Group *g : {&direct, &staged})
		EXPECT_TRUE(g->download() == g->image);
}

/* ---- what crosses the link ---------------------------------------------- */

uint64_t unit_bytes_of_all(const Group &g)
{
	return g.payload_bytes() / g.pages_per_chunk();
}

/* A prefix that is skipped, a chunk without its last pages, one with holes. */
TEST(MoverLinkBytes, OnlyPagesAskedForCrossIt)
{
	for (auto way : WAYS) {
		Rig r(Mode(Kind::HOST, way));
		Group &g = r.group(Shape());
		const uint32_t P = g.pages_per_chunk();
		Pages pages;
		uint64_t asked = 0;
		Job job(r);

		ASSERT_GE(P, 4u);
		for (uint32_t i = 0; i < 6 * P; i++) {
			const bool there = i >= 2 * P && (i < 3 * P || i % P < P - 1) &&
					   (i < 5 * P || i % 2 == 0);

			pages.push_back(there ? 7 * i % 64 : KVH_PAGE_NONE);
			asked += there;
		}
		job.add(g, pages);
		const uint64_t in = kvh_host_copied(r.dev, KVH_COPY_H2D);
		const uint64_t out = kvh_host_copied(r.dev, KVH_COPY_D2H);
		ASSERT_EQ(0, job.start(true, r.stream));
		job.wait();
		job.expect_loaded();
		EXPECT_EQ(asked * unit_bytes_of_all(g) + pages.size() * sizeof(uint32_t),
			  kvh_host_copied(r.dev, KVH_COPY_H2D) - in)
			<< kvh_mover_way_name(way);
		EXPECT_EQ(out, kvh_host_copied(r.dev, KVH_COPY_D2H));
	}
}

/* Whole chunks, and those that a skipped prefix begins in: the frames' headers are
 * none of it, and rows of several chunks are one 2-D copy where they can be. */
TEST(MoverLinkBytes, FramesSideBySideAreFewCopies)
{
	Rig r(Mode(Kind::HOST, KVH_MOVER_STAGED));
	Shape shape;

	shape.planes = 2; /* one layer */
	Group &g = r.group(shape);
	const uint32_t P = g.pages_per_chunk();
	Pages pages(8 * P);
	Job job(r);

	for (uint32_t i = 0; i < pages.size(); i++)
		pages[i] = i % P ? 5 * i % 64 : KVH_PAGE_NONE; /* all lack their first */
	job.add(g, pages);
	const uint64_t bytes = kvh_host_copied(r.dev, KVH_COPY_H2D);
	ASSERT_EQ(0, job.start(true, r.stream));
	job.wait();
	job.expect_loaded();
	EXPECT_EQ(8 * (P - 1) * unit_bytes_of_all(g) + pages.size() * sizeof(uint32_t),
		  kvh_host_copied(r.dev, KVH_COPY_H2D) - bytes);
}

TEST(MoverLinkBytes, OfStores)
{
	for (auto way : WAYS) {
		Rig r(Mode(Kind::HOST, way), 2000, 2);
		Group &g = r.group(Shape());
		Job job(r);

		job.add(g, 5);
		ASSERT_EQ(0, job.start(false, r.stream));
		job.wait();
		job.expect_stored();
		EXPECT_EQ(5 * g.payload_bytes(), kvh_host_copied(r.dev, KVH_COPY_D2H));
	}
}

/* ---- order -------------------------------------------------------------- */

TEST_P(MoverDirect, LoadWritesNoPageBeforeItsOrderPoint)
{
	Rig r(mode());
	Group &g = r.group(Shape());
	kvh_event_mark event = nullptr;
	kvh_stream other = nullptr;

	ASSERT_EQ(0, r.dev->ops->event_create(r.dev, &event));
	ASSERT_EQ(0, r.dev->ops->stream_create(r.dev, 0, &other));
	for (bool by_event : {false, true}) {
		Job job(r);

		job.add(g, 4);
		if (by_event) {
			hold_order_point(r);
			ASSERT_EQ(0, r.dev->ops->event_record(r.dev, event, other));
			ASSERT_EQ(0, job.start(true, nullptr, event));
		} else {
			hold_order_point(r);
			ASSERT_EQ(0, job.start(true, r.stream));
		}
		r.settle(1);
		EXPECT_FALSE(job.finished());
		EXPECT_TRUE(g.download() == g.image);
		kvh_host_release(r.dev);
		job.wait();
		job.expect_loaded();
	}
	r.dev->ops->event_destroy(r.dev, event);
	r.dev->ops->stream_destroy(r.dev, other);
}

/* What comes behind a direct load is not kept from the pages that it wrote. */
TEST_P(MoverDirect, StagedLoadBehindADirectOne)
{
	Rig r(mode());
	Shape runs;

	runs.order = KVH_ORDER_HND;
	runs.format = KVH_FORMAT_PORTABLE;
	Group &direct = r.group(Shape()), &staged = r.group(runs);
	Job first(r), second(r), third(r);

	first.add(direct, 4);
	second.add(staged, 4);
	third.add(direct, 4);
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
	for (Job *job : {&first, &second, &third})
		ASSERT_EQ(0, job->start(true, r.stream));
	r.settle(1);
	EXPECT_FALSE(first.finished());
	kvh_host_release(r.dev);
	for (Job *job : {&first, &second, &third}) {
		job->wait();
		job->apply();
	}
	EXPECT_TRUE(direct.download() == direct.image);
	EXPECT_TRUE(staged.download() == staged.image);
	EXPECT_LT(first.done_seq, second.done_seq);
	EXPECT_LT(second.done_seq, third.done_seq);
}

/* The copies of the load that come before its second layer: of known pages. */
Pages scattered(const Group &g, uint32_t n)
{
	Pages pages;

	for (uint32_t i = 0; i < n * g.pages_per_chunk(); i++)
		pages.push_back(i * 23 % 64);
	return pages;
}

/* Copies the pool behind a layer. */
Bytes read_behind(Rig &r, Group &g, Job &job, uint32_t layer)
{
	Bytes seen(g.image.size());
	struct kvh_copy copy = {seen.data(), g.memory(), seen.size()};
	kvh_stream stream = nullptr;

	EXPECT_EQ(0, r.dev->ops->stream_create(r.dev, 0, &stream));
	EXPECT_EQ(0, kvh_mover_load_wait(r.mover, &job.move, layer, stream));
	EXPECT_EQ(0, r.dev->ops->copy(r.dev, KVH_COPY_D2H, &copy, stream));
	EXPECT_EQ(0, r.dev->ops->stream_wait(r.dev, stream));
	r.dev->ops->stream_destroy(r.dev, stream);
	return seen;
}

TEST_P(MoverDirect, ALayerCanBeReadWhileTheNextIsHeld)
{
	Rig r(mode());
	Group &g = r.group(Shape()); /* two layers of equal copies */
	Job counted(r), job(r);

	counted.add(g, scattered(g, 3));
	uint64_t copies = kvh_host_count(r.dev, KVH_HOST_COPY);
	ASSERT_EQ(0, counted.start(true, r.stream));
	counted.wait();
	counted.expect_loaded();
	copies = kvh_host_count(r.dev, KVH_HOST_COPY) - copies - 1; /* page numbers */
	ASSERT_EQ(0u, copies % 2);
	job.add(g, scattered(g, 3));
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 1 + copies / 2 + 1);
	ASSERT_EQ(0, job.start(true, r.stream));
	/* Page numbers go on another stream: they may come late, and the copy that is
	 * held be the second of the layer. */
	r.settle(1);
	job.apply_planes(0, 0, 2);
	const Bytes seen = read_behind(r, g, job, 0);
	const size_t layer1 = size_t(g.ref->planes[2].base -
				     reinterpret_cast<uintptr_t>(g.image.data()));
	EXPECT_TRUE(
		std::equal(seen.begin(), seen.begin() + ptrdiff_t(layer1), g.image.begin()));
	EXPECT_FALSE(job.finished());
	job.apply();
	kvh_host_release(r.dev);
	EXPECT_TRUE(read_behind(r, g, job, 1) == g.image);
	EXPECT_TRUE(read_behind(r, g, job, KVH_LAYER_ALL) == g.image);
	job.wait();
}

/* With waits that do not wait, a layer is read before its copies. */
TEST_P(MoverDirect, ControlLayerWithoutWaiting)
{
	CONTROL_IS_A_DATA_RACE();
	Rig r(mode());
	Group &g = r.group(Shape());
	Job job(r);

	job.add(g, 4);
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
	r.rule(KVH_HOST_WAIT_EVENT, KVH_HOST_LIE, 1, UINT64_MAX);
	ASSERT_EQ(0, job.start(true, r.stream));
	r.settle(1);
	job.apply();
	EXPECT_FALSE(read_behind(r, g, job, KVH_LAYER_ALL) == g.image);
	kvh_host_release(r.dev);
	job.wait();
	r.close_mover(); /* waits for the copies that `done` did not */
}

/* A ring of two: no third slice goes to the device before the first is done. */
TEST(MoverDirectRing, ASliceIsAStageOfTheRing)
{
	Rig r(Mode(Kind::STEPPED, KVH_MOVER_DIRECT), 1, 2);
	Group &g = r.group(Shape());
	Job job(r);

	job.add(g, 4);
	const uint64_t copies = kvh_host_count(r.dev, KVH_HOST_COPY);
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
	const uint64_t enqueued = kvh_host_count(r.dev, KVH_HOST_ENQUEUE);
	ASSERT_EQ(0, job.start(false, r.stream));
	r.settle(1);
	/* Order point: recorded, waited for; page numbers. A slice: recorded, waited
	 * for, one copy, recorded, and two for its notice. */
	EXPECT_EQ(enqueued + 3 + 2 * 6, kvh_host_count(r.dev, KVH_HOST_ENQUEUE));
	kvh_host_release(r.dev);
	job.wait();
	job.expect_stored();
	EXPECT_EQ(copies + 1 + 4 * 16, kvh_host_count(r.dev, KVH_HOST_COPY)); /* one a unit */
}

/* ---- faults ------------------------------------------------------------- */

/* A copy that was lost is seen by whoever compares: so do all tests here. */
TEST_P(MoverDirect, ControlACopyIsLost)
{
	Rig r(mode());
	Group &g = r.group(Shape());
	Job store(r), load(r);

	store.add(g, 1);
	r.rule(KVH_HOST_COPY, KVH_HOST_LIE, 2);
	ASSERT_EQ(0, store.start(false, r.stream));
	store.wait();
	EXPECT_FALSE(store.stored(0, 0));
	kvh_host_release(r.dev);
	load.add(g, 1);
	r.rule(KVH_HOST_COPY, KVH_HOST_LIE, 3); /* page numbers are not used */
	ASSERT_EQ(0, load.start(true, r.stream));
	load.wait();
	load.apply();
	EXPECT_FALSE(g.download() == g.image);
}

/* Any enqueueing call fails while the first copy of pages is held, most of them in the
 * middle of a slice: what went out before is waited for. */
TEST(MoverDirectBroken, AMoveWaitsForItsCopies)
{
	for (bool load : {false, true}) {
		unsigned broken = 0;

		for (uint64_t nth = 1; nth < 24; nth++) {
			Rig r(Mode(Kind::STEPPED, KVH_MOVER_DIRECT), 4096, 2);
			Group &g = r.group(Shape());
			Job job(r), after(r);

			SCOPED_TRACE((load ? "load " : "store ") + std::to_string(nth));
			job.add(g, scattered(g, 3));
			r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
			r.rule(KVH_HOST_ENQUEUE, KVH_HOST_FAIL, nth, 1, ENOMEM);
			if (job.start(load, r.stream))
				continue; /* refused at the call */
			r.settle(1);
			if (kvh_host_held(r.dev)) {
				EXPECT_FALSE(job.finished());
				kvh_host_release(r.dev);
				job.wait();
				broken += job.move.status == -ENOMEM;
			} else {
				job.wait();
			}
			if (load)
				g.upload(); /* what a failed load left is undefined */
			kvh_host_release(r.dev);
			after.add(g, 4);
			ASSERT_EQ(0, after.start(false, r.stream));
			after.wait();
			after.expect_stored();
		}
		EXPECT_GE(broken, 4u) << load;
	}
}

} // namespace
