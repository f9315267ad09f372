/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_test.cc - the mover moves every byte to its place and no other: over
 * layouts, parts, stages smaller than a unit's chunk and larger than the job, on
 * every device of this machine.
 */
#include "tests/mover_rig.h"

#include <thread>

using namespace rig;

namespace
{

struct Stages {
	uint64_t bytes;
	uint32_t n;
};

class MoverBytes : public testing::TestWithParam<std::tuple<Mode, Stages>>
{
      protected:
	void SetUp() override
	{
		struct kvh_device *dev = nullptr;

		if (!open_device(kind(), &dev))
			GTEST_SKIP() << "no device: " << kvh_device_describe();
		dev->ops->close(dev);
	}
	Kind kind() const
	{
		return std::get<0>(GetParam()).kind;
	}
	std::unique_ptr<Rig> rig(uint64_t seed = 1) const
	{
		Stages s = std::get<1>(GetParam());

		return std::make_unique<Rig>(std::get<0>(GetParam()), s.bytes, s.n, seed);
	}
};

/* One of each kind of geometry: long and short runs, gaps, odd sizes. */
std::vector<Shape> shapes()
{
	std::vector<Shape> all(8);

	all[1].order = KVH_ORDER_HND;
	all[1].format = KVH_FORMAT_PORTABLE;
	all[2].gap = 48;
	all[2].opaque = 1000;
	all[3].heads = 1;
	all[3].head_bytes = 576;
	all[3].planes = 3;
	all[3].planes_a_layer = 1;
	all[4].head_bytes = 7;
	all[4].heads = 3;
	all[4].gap = 5;
	all[4].order = KVH_ORDER_HND;
	all[5].planes = 16;
	all[5].planes_a_layer = 16;
	all[5].page_tokens = 1;
	all[5].head_bytes = 16;
	all[5].n_pages = 256;
	all[6].planes = 1;
	all[6].page_tokens = CHUNK_TOKENS;
	all[6].n_pages = 9;
	all[7].planes = 12;
	all[7].first_layer = 3;
	all[7].layer_step = 5;
	all[7].page_tokens = 16;
	return all;
}

TEST_P(MoverBytes, StoreIsByteExact)
{
	auto r = rig();

	for (const Shape &shape : shapes()) {
		Job job(*r);

		job.add(r->group(shape), 6);
		ASSERT_EQ(0, job.start(false, r->stream));
		job.wait();
		job.expect_stored();
	}
}

TEST_P(MoverBytes, LoadIsByteExact)
{
	auto r = rig();

	for (const Shape &shape : shapes()) {
		Job job(*r);

		job.add(r->group(shape), 6);
		ASSERT_EQ(0, job.start(true, r->stream));
		job.wait();
		job.expect_loaded();
	}
}

TEST_P(MoverBytes, LoadLeavesAbsentPagesOut)
{
	auto r = rig();

	for (const Shape &shape : shapes()) {
		for (unsigned absent : {20u, 60u, 95u, 100u}) {
			Job job(*r);

			job.add(r->group(shape), 6, absent);
			ASSERT_EQ(0, job.start(true, r->stream));
			job.wait();
			job.expect_loaded();
		}
	}
}

/* A chunk without pages, or a run of absent pages, is not carried over the link. */
TEST(MoverLink, AbsentChunksAreNotCopied)
{
	Rig r(Kind::HOST);
	Shape shape;
	Pages pages;
	uint64_t before;

	shape.planes = 2;
	Group &g = r.group(shape);
	for (uint32_t i = 0; i < 4 * g.pages_per_chunk(); i++)
		pages.push_back(i < 3 * g.pages_per_chunk() ? KVH_PAGE_NONE : i);
	pages.back() = KVH_PAGE_NONE; /* the last chunk lacks its last page */
	Job job(r);
	job.add(g, pages);
	before = kvh_host_count(r.dev, KVH_HOST_COPY);
	ASSERT_EQ(0, job.start(true, r.stream));
	job.wait();
	job.expect_loaded();
	/* The page numbers, and one run of pages for each plane. */
	EXPECT_EQ(before + 3, kvh_host_count(r.dev, KVH_HOST_COPY));
}

TEST_P(MoverBytes, PartsOfSeveralGroups)
{
	auto r = rig();
	std::vector<Shape> all = shapes();
	Job store(*r), load(*r);

	for (const Shape &shape : all) {
		Group &g = r->group(shape);

		store.add(g, 3);
		store.add(g, 0); /* nothing of this one */
	}
	ASSERT_EQ(0, store.start(false, r->stream));
	store.wait();
	store.expect_stored();
	for (auto &g : r->groups)
		load.add(*g, 4, 10);
	ASSERT_EQ(0, load.start(true, r->stream));
	load.wait();
	load.expect_loaded();
}

TEST_P(MoverBytes, SeveralMovesEndInOrder)
{
	auto r = rig();
	std::deque<Job> jobs;
	Group &g = r->group(shapes()[0]);

	for (int i = 0; i < 12; i++) {
		jobs.emplace_back(*r);
		jobs.back().add(g, uint32_t(i % 4));
		ASSERT_EQ(0, jobs.back().start(false, r->stream));
	}
	uint64_t before = 0;
	for (size_t i = 0; i < jobs.size(); i++) {
		jobs[i].wait();
		jobs[i].expect_stored();
		if (i % 4 == 0) /* has nothing to wait for */
			continue;
		EXPECT_LT(before, jobs[i].done_seq);
		before = jobs[i].done_seq;
	}
}

TEST_P(MoverBytes, WhatWasStoredLoadsIntoOtherPages)
{
	auto r = rig();
	Shape hnd, nhd;

	hnd.format = nhd.format = KVH_FORMAT_PORTABLE;
	hnd.order = KVH_ORDER_HND;
	nhd.gap = 16;
	Group &from = r->group(hnd), &to = r->group(nhd);
	Job store(*r), load(*r);
	store.add(from, 5);
	ASSERT_EQ(0, store.start(false, r->stream));
	store.wait();
	load.add(to, 5);
	for (size_t i = 0; i < 5; i++)
		memcpy(load.parts[0].payloads[i], store.parts[0].payloads[i],
		       from.payload_bytes());
	ASSERT_EQ(0, load.start(true, r->stream));
	load.wait();
	load.expect_loaded();
}

TEST_P(MoverBytes, RandomGeometries)
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		SCOPED_TRACE("seed " + std::to_string(seed));
		auto r = rig(seed);
		Job store(*r), load(*r);
		unsigned parts = 1 + unsigned(r->rng() % 3);

		for (unsigned i = 0; i < parts; i++) {
			Shape s;

			s.planes = 1 + uint32_t(r->rng() % 9);
			s.planes_a_layer = 1 + uint32_t(r->rng() % 3);
			s.first_layer = uint32_t(r->rng() % 4);
			s.layer_step = 1 + uint32_t(r->rng() % 3);
			s.heads = 1 + uint32_t(r->rng() % 4);
			s.head_bytes = 1 + uint32_t(r->rng() % 100);
			s.order = uint32_t(r->rng() % 2);
			s.format = uint32_t(r->rng() % 2);
			s.page_tokens = 1u << (r->rng() % 6);
			s.gap = uint32_t(r->rng() % 40);
			s.opaque = r->rng() % 2 ? 0 : 1 + r->rng() % 3000;
			s.n_pages = 8 * CHUNK_TOKENS / s.page_tokens;
			Group &g = r->group(s);
			store.add(g, uint32_t(r->rng() % 8));
			load.add(g, uint32_t(r->rng() % 8), uint32_t(r->rng() % 40));
		}
		ASSERT_EQ(0, store.start(false, r->stream));
		store.wait(); /* before the pages change */
		store.expect_stored();
		ASSERT_EQ(0, load.start(true, r->stream));
		load.wait();
		load.expect_loaded();
		if (testing::Test::HasFailure())
			return;
	}
}

std::string param_name(const testing::TestParamInfo<std::tuple<Mode, Stages>> &info)
{
	Stages s = std::get<1>(info.param);

	return mode_text(std::get<0>(info.param)) + "_" + std::to_string(s.bytes) + "x" +
	       std::to_string(s.n);
}

/* 1: grows to the largest unit, so one unit a stage. */
INSTANTIATE_TEST_SUITE_P(
	, MoverBytes,
	testing::Combine(testing::Values(Mode(Kind::HOST), Mode(Kind::STEPPED),
					 Mode(Kind::CUDA), Mode(Kind::HOST, KVH_MOVER_DIRECT),
					 Mode(Kind::STEPPED, KVH_MOVER_DIRECT),
					 Mode(Kind::CUDA, KVH_MOVER_DIRECT)),
			 testing::Values(Stages{1, 1}, Stages{1, 3}, Stages{2000, 2},
					 Stages{10000, 3}, Stages{0, 0})),
	param_name);

/* ---- plans and stages ------------------------------------------------- */

/* A plan with larger units is added while a load and a store are in flight: both
 * go on with what they have, and what comes later has larger stages. */
TEST(MoverPlan, StagesGrowUnderMovesInFlight)
{
	Rig r(Kind::HOST, 1, 2);
	Shape small, large;

	large.opaque = 100000;
	Group &g = r.group(small);
	Job store(r), load(r), after(r), back(r);
	store.add(g, 4);
	load.add(r.group(small), 4);
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 6, UINT64_MAX);
	ASSERT_EQ(0, store.start(false, r.stream));
	kvh_host_held_wait(r.dev, 1);
	ASSERT_EQ(0, load.start(true, r.stream));
	Group *added = nullptr;
	std::thread add([&] { added = &r.group(large); });
	/* Two streams of the load, one of the store; and the upload of the plan, for
	 * which the stages have grown already. */
	kvh_host_held_wait(r.dev, 4);
	kvh_host_release(r.dev);
	add.join();
	Group &big = *added;
	after.add(big, 6);
	back.add(big, 6);
	ASSERT_EQ(0, after.start(false, r.stream));
	for (Job *job : {&store, &after}) {
		job->wait();
		job->expect_stored();
	}
	load.wait();
	load.expect_loaded();
	ASSERT_EQ(0, back.start(true, r.stream));
	back.wait();
	back.expect_loaded();
}

TEST(MoverPlan, NoMemoryForStages)
{
	struct kvh_device *dev = nullptr;
	struct kvh_mover *mover = nullptr;
	struct kvh_mover_opts opts {
	};
	struct kvh_mover_plan mplan {
	};
	Rig r(Kind::HOST);
	Group &g = r.group(Shape());

	ASSERT_EQ(0, kvh_device_host_open(&dev));
	ASSERT_EQ(0, kvh_mover_open(dev, &opts, &mover));
	for (uint64_t nth = 1; nth <= 7; nth++) { /* six stages and the plan */
		struct kvh_host_rule rule = {
			KVH_HOST_MEM_ALLOC, KVH_HOST_FAIL, nth, 1, ENOMEM, 0};

		ASSERT_EQ(0, kvh_host_rule_add(dev, &rule));
		EXPECT_EQ(-ENOMEM, kvh_mover_plan_add(mover, g.plan, &mplan));
		kvh_host_release(dev);
	}
	EXPECT_EQ(0, kvh_mover_plan_add(mover, g.plan, &mplan));
	kvh_mover_plan_remove(mover, &mplan);
	kvh_mover_close(mover);
	dev->ops->close(dev);
}

TEST(MoverOpen, EveryCallMayFail)
{
	static const enum kvh_host_call calls[] = {KVH_HOST_STREAM_CREATE,
						   KVH_HOST_EVENT_CREATE};

	for (enum kvh_host_call call : calls) {
		for (uint64_t nth = 1;; nth++) {
			struct kvh_device *dev = nullptr;
			struct kvh_mover *mover = nullptr;
			struct kvh_mover_opts opts {
			};
			struct kvh_host_rule rule = {call, KVH_HOST_FAIL, nth, 1, ENOMEM, 0};
			int rc;

			ASSERT_EQ(0, kvh_device_host_open(&dev));
			ASSERT_EQ(0, kvh_host_rule_add(dev, &rule));
			rc = kvh_mover_open(dev, &opts, &mover);
			if (rc == 0)
				kvh_mover_close(mover);
			dev->ops->close(dev);
			if (rc == 0) {
				EXPECT_GT(nth, 1u);
				break;
			}
			EXPECT_EQ(-ENOMEM, rc);
		}
	}
}

TEST(MoverOpen, TooManyStages)
{
	struct kvh_device *dev = nullptr;
	struct kvh_mover *mover = nullptr;
	struct kvh_mover_opts opts {
	};

	opts.n_stages = 17;
	ASSERT_EQ(0, kvh_device_host_open(&dev));
	EXPECT_EQ(-EINVAL, kvh_mover_open(dev, &opts, &mover));
	dev->ops->close(dev);
}

} // namespace
