/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_rate_test.cc - what stores may take of the link: exact bytes at exact times,
 * by a clock that moves when the test says so, with passes of the mover made by hand;
 * and its thread sleeps until the time has come, also made to go round by hand.
 */
#include "host/thread.h"
#include "tests/mover_rig.h"

using namespace rig;

namespace
{

constexpr uint64_t UNIT = 512;     /* bytes of Shape's units: one a stage */
constexpr uint64_t UNIT_NS = 1000; /* at RATE */
constexpr uint64_t RATE = UNIT * (KVH_NS_PER_S / UNIT_NS);

/* Time as a number. A thread that is started is kept, for rounds by hand. */
class Clock : public kvh_sim
{
      public:
	Clock()
	{
		now_ns = [](struct kvh_sim *sim) { return static_cast<Clock *>(sim)->now; };
		start = [](struct kvh_sim *sim, struct kvh_thread *t) {
			static_cast<Clock *>(sim)->thread = t;
			return 0;
		};
		step = [](struct kvh_sim *sim, uint64_t) {
			static_cast<Clock *>(sim)->round();
		};
		arm = [](struct kvh_sim *, int, uint64_t) {};
		lost = [](struct kvh_sim *, int) { return false; };
		::kvh_sim = this;
	}
	~Clock()
	{
		::kvh_sim = nullptr;
	}
	/* False: it sleeps. */
	bool round()
	{
		enum kvh_round did = thread->round(thread->arg, KVH_WAKE_IF_READY);

		thread->ended = did == KVH_ROUND_END;
		return did == KVH_ROUND_DONE;
	}
	uint64_t now = KVH_NS_PER_S;
	struct kvh_thread *thread = nullptr;
};

/* Stages are a unit each: gathers are stages. */
class MoverRate : public testing::Test
{
      protected:
	void SetUp() override
	{
		Shape s;

		rig_ = std::make_unique<Rig>(Kind::STEPPED, 1, 3);
		g_ = &rig_->group(s);
		ASSERT_EQ(UNIT, g_->plan->max_unit_bytes);
	}
	Rig &r()
	{
		return *rig_;
	}
	uint64_t stages()
	{
		r().settle(0);
		return kvh_host_count(r().dev, KVH_HOST_GATHER);
	}
	void store(Job &job, uint32_t chunks) /* 16 units each */
	{
		job.add(*g_, chunks);
		ASSERT_EQ(0, job.start(false, nullptr));
	}
	Clock clock_; /* before and after the mover */
	std::unique_ptr<Rig> rig_;
	Group *g_ = nullptr;
};

TEST_F(MoverRate, ExactBytesAtExactTimes)
{
	Job job(r());

	kvh_mover_set_store_rate(r().mover, RATE);
	store(job, 1);
	EXPECT_EQ(1u, stages());
	for (uint64_t n = 2; n <= 16; n++) {
		clock_.now += UNIT_NS - 1;
		EXPECT_EQ(n - 1, stages());
		clock_.now += 1;
		EXPECT_EQ(n, stages());
	}
	ASSERT_TRUE(job.finished());
	job.expect_stored();
}

TEST_F(MoverRate, ControlWithoutARateTimeDoesNotMatter)
{
	Job job(r());

	store(job, 4);
	EXPECT_EQ(64u, stages());
	ASSERT_TRUE(job.finished());
	job.expect_stored();
}

/* An idle link saves nothing up: a stage, whatever time has passed. */
TEST_F(MoverRate, WhatWasNotUsedIsGone)
{
	Job first(r()), second(r());

	kvh_mover_set_store_rate(r().mover, RATE);
	store(first, 1);
	for (int i = 0; i < 15; i++) {
		EXPECT_EQ(uint64_t(i) + 1, stages());
		clock_.now += UNIT_NS;
	}
	EXPECT_EQ(16u, stages());
	clock_.now += KVH_NS_PER_S;
	EXPECT_EQ(16u, stages());
	store(second, 1);
	EXPECT_EQ(17u, stages());
	clock_.now += UNIT_NS - 1;
	EXPECT_EQ(17u, stages());
	r().close_mover();
}

/* Who comes late to a stage that waited makes up for it, by a stage at most. */
TEST_F(MoverRate, LatenessIsMadeUpFor)
{
	Job job(r());

	kvh_mover_set_store_rate(r().mover, RATE);
	store(job, 4);
	EXPECT_EQ(1u, stages());
	clock_.now += UNIT_NS + 300;
	EXPECT_EQ(2u, stages());
	clock_.now += UNIT_NS - 300;
	EXPECT_EQ(3u, stages()); /* where it would be without having been late */
	clock_.now += 10 * UNIT_NS;
	EXPECT_EQ(5u, stages());
	clock_.now += UNIT_NS - 1;
	EXPECT_EQ(5u, stages());
	clock_.now += 1;
	EXPECT_EQ(6u, stages());
	r().close_mover();
}

TEST_F(MoverRate, ChangesAtOnce)
{
	Job job(r());

	kvh_mover_set_store_rate(r().mover, 1); /* minutes a stage */
	store(job, 4);
	EXPECT_EQ(1u, stages());
	clock_.now += KVH_NS_PER_S;
	EXPECT_EQ(1u, stages());
	kvh_mover_set_store_rate(r().mover, RATE);
	EXPECT_EQ(2u, stages());
	clock_.now += UNIT_NS;
	EXPECT_EQ(3u, stages());
	kvh_mover_set_store_rate(r().mover, 2 * RATE);
	EXPECT_EQ(4u, stages());
	clock_.now += UNIT_NS / 2;
	EXPECT_EQ(5u, stages());
	kvh_mover_set_store_rate(r().mover, 0);
	EXPECT_EQ(64u, stages());
	ASSERT_TRUE(job.finished());
	job.expect_stored();
}

TEST_F(MoverRate, LoadsAreNotHeldBackAndCancelsNeither)
{
	Job job(r()), other(r()), load(r());
	Group &into = r().group(Shape());

	kvh_mover_set_store_rate(r().mover, RATE);
	store(job, 4);
	store(other, 4);
	EXPECT_EQ(1u, stages());
	load.add(into, 4);
	ASSERT_EQ(0, load.start(true, nullptr));
	kvh_mover_cancel(r().mover, &other.move);
	EXPECT_EQ(1u, stages());
	ASSERT_TRUE(load.finished());
	load.expect_loaded();
	ASSERT_TRUE(other.finished());
	EXPECT_EQ(-ECANCELED, other.move.status);
	EXPECT_FALSE(job.finished());
	r().close_mover();
	ASSERT_TRUE(job.finished());
	EXPECT_EQ(-ECANCELED, job.move.status);
}

/* ---- the thread ------------------------------------------------------- */

/* Rounds of thread and device until both sleep; how many of the thread. One that would
 * go round for ever is seen. */
uint64_t rounds(Clock &clock, struct kvh_device *dev)
{
	uint64_t n = 0;
	bool more = true;

	while (more && n < 1000) {
		more = false;
		while (kvh_host_step(dev, 0))
			more = true;
		while (n < 1000 && clock.round()) {
			more = true;
			n++;
		}
	}
	return n;
}

/* A rig whose mover has a thread, which makes its rounds when the test says so. */
class MoverRateThread : public testing::Test
{
      protected:
	void SetUp() override
	{
		struct kvh_mover_opts opts {
		};

		rig_ = std::make_unique<Rig>(Kind::STEPPED, 1, 3);
		g_ = &rig_->group(Shape());
		opts.stage_bytes = 1;
		ASSERT_EQ(0, kvh_mover_open(r().dev, &opts, &mover_));
		ASSERT_EQ(0, kvh_mover_plan_add(mover_, g_->plan, &mplan_));
		std::swap(r().mover, mover_);
		std::swap(g_->mplan, mplan_);
	}
	void TearDown() override
	{
		kvh_mover_plan_remove(r().mover, &g_->mplan);
		kvh_mover_close(r().mover);
		std::swap(r().mover, mover_);
		std::swap(g_->mplan, mplan_);
	}
	Rig &r()
	{
		return *rig_;
	}
	Clock clock_;
	std::unique_ptr<Rig> rig_;
	Group *g_ = nullptr;

      private:
	struct kvh_mover *mover_ = nullptr; /* the rig's own */
	struct kvh_mover_plan mplan_ {
	};
};

TEST_F(MoverRateThread, SleepsUntilTheTimeHasCome)
{
	Job job(r());

	kvh_mover_set_store_rate(r().mover, RATE);
	job.add(*g_, 1);
	ASSERT_EQ(0, job.start(false, nullptr));
	for (int i = 0; i < 16; i++) {
		/* Bounded: it does not go round and round meanwhile. */
		EXPECT_LE(rounds(clock_, r().dev), 8u);
		EXPECT_EQ(i == 15, job.finished());
		if (i < 15) {
			EXPECT_EQ(clock_.now + UNIT_NS, clock_.thread->alarm_ns);
		}
		clock_.now += UNIT_NS;
	}
	EXPECT_EQ(UINT64_MAX, clock_.thread->alarm_ns); /* nothing is in flight */
	job.expect_stored();
}

/* Nor when what it waits for can't come any more. */
TEST_F(MoverRateThread, SleepsWhenTheStoreHasBrokenOrTheDeviceDied)
{
	Job broken(r()), dead(r());

	kvh_mover_set_store_rate(r().mover, RATE);
	for (Job *job : {&broken, &dead}) {
		job->add(*g_, 1);
		ASSERT_EQ(0, job->start(false, nullptr));
		(void)rounds(clock_, r().dev);
		EXPECT_EQ(clock_.now + UNIT_NS, clock_.thread->alarm_ns);
		r().rule(job == &broken ? KVH_HOST_ENQUEUE : KVH_HOST_GATHER, KVH_HOST_FAIL);
		clock_.now += UNIT_NS;
		EXPECT_LE(rounds(clock_, r().dev), 8u);
		clock_.now += KVH_NS_PER_S;
		EXPECT_LE(rounds(clock_, r().dev), 8u);
		ASSERT_TRUE(job->finished());
		EXPECT_EQ(-EIO, job->move.status);
		EXPECT_EQ(UINT64_MAX, clock_.thread->alarm_ns);
	}
}

/* A store that waits for layers costs no polls: its alarm is the slow one. */
TEST_F(MoverRateThread, AStoreThatWaitsForLayersIsNotPolledFor)
{
	Job job(r());

	job.add(*g_, 1);
	job.layered = true;
	ASSERT_EQ(0, job.start(false, nullptr));
	ASSERT_EQ(0, job.give(0, nullptr));
	(void)rounds(clock_, r().dev);
	EXPECT_FALSE(job.finished());
	EXPECT_GE(clock_.thread->alarm_ns, clock_.now + 50 * KVH_NS_PER_MS);
	EXPECT_LT(clock_.thread->alarm_ns, UINT64_MAX); /* the device may die */
	ASSERT_EQ(0, job.give(KVH_LAYER_ALL, nullptr));
	(void)rounds(clock_, r().dev);
	ASSERT_TRUE(job.finished());
	job.expect_stored();
}

} // namespace
