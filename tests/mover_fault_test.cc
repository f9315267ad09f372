/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_fault_test.cc - moves that fail, die, are cancelled, or are in flight at
 * close: done comes once, when nothing touches pages or payloads any more; a
 * chunk whose status is 0 has its bytes, and the mover goes on if the device
 * does.
 */
#include "tests/mover_rig.h"

using namespace rig;

namespace
{

class MoverFault : public testing::TestWithParam<Mode>
{
};

INSTANTIATE_TEST_SUITE_P(, MoverFault, host_modes(), mode_name);

Shape small_shape()
{
	Shape s;

	s.page_tokens = CHUNK_TOKENS / 2; /* 8 units a chunk */
	return s;
}

constexpr uint64_t STAGE = 4 * 1024; /* half a chunk of small_shape */

/* 0 with the right bytes, or the error; which comes behind all that are 0. */
void expect_store_ended(Job &job, int error)
{
	bool failed = false;

	for (size_t i = 0; i < job.parts[0].status.size(); i++) {
		if (job.parts[0].status[i] == 0) {
			EXPECT_FALSE(failed) << "chunk " << i << " comes after one that failed";
			EXPECT_TRUE(job.stored(0, i)) << "chunk " << i;
		} else {
			EXPECT_EQ(error, job.parts[0].status[i]);
			failed = true;
		}
	}
	EXPECT_EQ(failed ? error : 0, job.move.status);
	EXPECT_TRUE(job.guards_intact());
}

void expect_load_ended(Job &job, int error)
{
	if (job.move.status == 0) {
		job.expect_loaded();
		return;
	}
	EXPECT_EQ(error, job.move.status);
	for (int32_t status : job.parts[0].status)
		EXPECT_EQ(error, status);
}

void expect_works(Rig &r, Group &g)
{
	Job load(r), store(r);

	load.add(g, 4);
	ASSERT_EQ(0, load.start(true, r.stream));
	load.wait();
	load.apply();
	g.upload(); /* what a failed load left is undefined */
	store.add(g, 4);
	ASSERT_EQ(0, store.start(false, r.stream));
	store.wait();
	store.expect_stored();
}

/* ---- enqueueing fails ------------------------------------------------- */

/* The n-th enqueueing call of a move fails, alone or with all that follow. */
void fail_every_enqueue(Mode mode, bool load, uint64_t count)
{
	Rig r(mode, STAGE, 2);
	Group &g = r.group(small_shape());
	unsigned refused = 0, broken = 0;

	for (uint64_t nth = 1;; nth++) {
		SCOPED_TRACE("enqueue " + std::to_string(nth));
		uint64_t before = kvh_host_count(r.dev, KVH_HOST_ENQUEUE);
		Job job(r);
		int rc;

		job.add(g, 3);
		r.rule(KVH_HOST_ENQUEUE, KVH_HOST_FAIL, nth, count, ENOMEM);
		rc = job.start(load, r.stream);
		if (rc == 0) {
			job.wait();
			if (load)
				expect_load_ended(job, -ENOMEM);
			else
				expect_store_ended(job, -ENOMEM);
			broken += job.move.status != 0;
		} else {
			EXPECT_EQ(-ENOMEM, rc);
			EXPECT_FALSE(job.finished());
			refused++;
		}
		uint64_t after = kvh_host_count(r.dev, KVH_HOST_ENQUEUE);
		kvh_host_release(r.dev);
		expect_works(r, g);
		if (testing::Test::HasFailure() || after < before + nth)
			break;
	}
	EXPECT_GE(refused, 1u);
	EXPECT_GE(broken, mode.way == KVH_MOVER_DIRECT ? 5u : 10u);
}

TEST_P(MoverFault, StoreWhoseNthEnqueueFails)
{
	fail_every_enqueue(GetParam(), false, 1);
}

TEST_P(MoverFault, LoadWhoseNthEnqueueFails)
{
	fail_every_enqueue(GetParam(), true, 1);
}

TEST_P(MoverFault, StoreThatCanEnqueueNoMore)
{
	fail_every_enqueue(GetParam(), false, UINT64_MAX);
}

TEST_P(MoverFault, LoadThatCanEnqueueNoMore)
{
	fail_every_enqueue(GetParam(), true, UINT64_MAX);
}

/* What was enqueued before the failure still runs: done waits for it. */
TEST_P(MoverFault, ABrokenMoveWaitsForItsCopies)
{
	NEEDS_STAGES();
	/* Of a store: order, wait, pages; gather, record, wait, copy, record; two for
	 * the notice; the second stage. A load copies first. */
	static const struct {
		bool load;
		enum kvh_host_call held;
		uint64_t held_nth, failed_nth;
	} cases[] = {
		{false, KVH_HOST_GATHER, 1, 5}, {false, KVH_HOST_COPY, 2, 8},
		{false, KVH_HOST_COPY, 2, 12},  {true, KVH_HOST_COPY, 1, 5},
		{true, KVH_HOST_COPY, 2, 12},   {true, KVH_HOST_SCATTER, 1, 9},
	};

	for (auto &c : cases) {
		Rig r(GetParam(), STAGE, 2);
		Group &g = r.group(small_shape());
		uint64_t before = kvh_host_count(r.dev, KVH_HOST_ENQUEUE);
		Job job(r);

		SCOPED_TRACE(std::string(c.load ? "load " : "store ") +
			     std::to_string(c.failed_nth));
		job.add(g, 3);
		r.rule(c.held, KVH_HOST_HOLD, c.held_nth);
		r.rule(KVH_HOST_ENQUEUE, KVH_HOST_FAIL, c.failed_nth, 1, ENOMEM);
		ASSERT_EQ(0, job.start(c.load, r.stream));
		r.until(KVH_HOST_ENQUEUE, before + c.failed_nth);
		r.settle(1);
		job.until_polled();
		EXPECT_FALSE(job.finished());
		if (c.load) {
			EXPECT_EQ(-EIO, kvh_mover_load_wait(r.mover, &job.move, 0, r.stream));
		}
		kvh_host_release(r.dev);
		job.wait();
		EXPECT_EQ(-ENOMEM, job.move.status);
		expect_works(r, g);
	}
}

/* A notice is a hint: without any the mover still gets there. */
TEST_P(MoverFault, NoticesAreLost)
{
	Rig r(GetParam(), STAGE, 2);
	Group &g = r.group(small_shape());

	r.rule(KVH_HOST_NOTIFY, KVH_HOST_LIE, 1, UINT64_MAX);
	expect_works(r, g);
}

TEST_P(MoverFault, QueriesFail)
{
	for (uint64_t count : {uint64_t(1), uint64_t(3), UINT64_MAX}) {
		Rig r(GetParam(), STAGE, 2);
		Group &g = r.group(small_shape());

		r.rule(KVH_HOST_QUERY, KVH_HOST_FAIL, 1, count, EINVAL);
		expect_works(r, g);
	}
}

TEST_P(MoverFault, NoMemoryForAMove)
{
	for (bool load : {false, true}) {
		for (auto call :
		     {KVH_HOST_MEM_ALLOC, KVH_HOST_HOST_ALLOC, KVH_HOST_EVENT_CREATE}) {
			for (uint64_t nth = 1;; nth++) {
				Rig r(GetParam(), STAGE, 2);
				Group &g = r.group(small_shape());
				Job job(r);
				uint64_t before = kvh_host_count(r.dev, KVH_HOST_ENQUEUE);

				job.add(g, 3);
				r.rule(call, KVH_HOST_FAIL, nth, 1, ENOMEM);
				int rc = job.start(load, r.stream);
				if (rc == 0) {
					job.wait();
					EXPECT_GT(nth, 1u);
					break;
				}
				EXPECT_EQ(-ENOMEM, rc);
				EXPECT_EQ(before, kvh_host_count(r.dev, KVH_HOST_ENQUEUE));
				kvh_host_release(r.dev);
				expect_works(r, g);
			}
		}
	}
}

/* ---- the device dies -------------------------------------------------- */

/* The device dies at the n-th operation of a kind while a store and a load are
 * under way; returns false if there is no such operation. */
bool die_at(Mode mode, enum kvh_host_call call, uint64_t nth)
{
	Rig r(mode, STAGE, 2);
	Group &g = r.group(small_shape()), &h = r.group(small_shape());
	Job store(r), load(r), after(r);

	store.add(g, 4);
	load.add(h, 4);
	after.add(g, 1);
	r.rule(call, KVH_HOST_FAIL, nth);
	int load_rc = load.start(true, r.stream);
	int store_rc = store.start(false, r.stream);
	for (auto rc : {load_rc, store_rc})
		EXPECT_TRUE(rc == 0 || rc == -EIO) << rc;
	if (store_rc == 0) {
		store.wait();
		expect_store_ended(store, -EIO);
	}
	if (load_rc == 0) {
		load.wait();
		expect_load_ended(load, -EIO);
		EXPECT_EQ(load.move.status == -EIO, load.move.pages_lost);
	}
	if (r.kind == Kind::STEPPED)
		r.settle(0); /* a notice may be all that is left */
	if (kvh_host_count(r.dev, call) < nth || !r.dev->ops->dead(r.dev))
		return false;
	EXPECT_EQ(-EIO, after.start(false, r.stream));
	EXPECT_EQ(-EIO, after.start(true, r.stream));
	EXPECT_FALSE(after.finished());
	if (load_rc == 0) {
		EXPECT_EQ(-EIO, kvh_mover_load_wait(r.mover, &load.move, 0, r.stream));
	}
	return true;
}

TEST_P(MoverFault, DeviceDiesAtAnyOperation)
{
	for (auto call : {KVH_HOST_COPY, KVH_HOST_GATHER, KVH_HOST_SCATTER, KVH_HOST_RECORD,
			  KVH_HOST_WAIT_EVENT, KVH_HOST_NOTIFY}) {
		uint64_t nth = 1;

		if (GetParam().way == KVH_MOVER_DIRECT &&
		    (call == KVH_HOST_GATHER || call == KVH_HOST_SCATTER))
			continue; /* there are none */
		for (; nth < 200; nth++) {
			SCOPED_TRACE("call " + std::to_string(call) + " nth " +
				     std::to_string(nth));
			if (!die_at(GetParam(), call, nth) || HasFailure())
				break;
		}
		EXPECT_GT(nth, call == KVH_HOST_NOTIFY ? 1u : 3u) << "call " << call;
		EXPECT_LT(nth, 200u);
	}
}

/* Nothing fires any more once the device is dead: the poll finds out. */
TEST_P(MoverFault, DeathWithoutANotice)
{
	Rig r(GetParam(), STAGE, 2);
	Group &g = r.group(small_shape());
	std::deque<Job> jobs;

	r.rule(KVH_HOST_NOTIFY, KVH_HOST_LIE, 1, UINT64_MAX);
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
	for (int i = 0; i < 4; i++) {
		jobs.emplace_back(r);
		jobs.back().add(g, 2);
		ASSERT_EQ(0, jobs.back().start(false, r.stream));
	}
	r.settle(1);
	/* The runtime's own work kills the device. */
	kvh_stream other = nullptr;
	unsigned char byte = 0;
	struct kvh_copy copy = {&byte, &byte, 0};
	ASSERT_EQ(0, r.dev->ops->stream_create(r.dev, 0, &other));
	r.rule(KVH_HOST_COPY, KVH_HOST_FAIL);
	ASSERT_EQ(0, r.dev->ops->copy(r.dev, KVH_COPY_D2D, &copy, other));
	for (auto &job : jobs) {
		job.wait();
		EXPECT_EQ(-EIO, job.move.status);
	}
	r.dev->ops->stream_destroy(r.dev, other);
}

/* ---- cancel ----------------------------------------------------------- */

TEST_P(MoverFault, CancelOfWhatWaits)
{
	Rig r(GetParam(), STAGE, 2);
	Group &g = r.group(small_shape());
	Job first(r), second(r), third(r);

	first.add(g, 4);
	second.add(g, 2);
	third.add(g, 2);
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
	ASSERT_EQ(0, first.start(false, r.stream));
	ASSERT_EQ(0, second.start(false, r.stream));
	ASSERT_EQ(0, third.start(false, r.stream));
	r.settle(1);
	kvh_mover_cancel(r.mover, &second.move);
	second.wait(); /* nothing of it is on the device: it waits for nobody */
	EXPECT_FALSE(first.finished());
	EXPECT_FALSE(third.finished());
	kvh_host_release(r.dev);
	for (Job *job : {&first, &third})
		job->wait();
	first.expect_stored();
	third.expect_stored();
	EXPECT_EQ(-ECANCELED, second.move.status);
	for (int32_t status : second.parts[0].status)
		EXPECT_EQ(-ECANCELED, status);
	EXPECT_TRUE(second.untouched());
	EXPECT_LT(first.done_seq, third.done_seq);
	kvh_mover_cancel(r.mover, &second.move); /* has been the mover's: nothing */
	kvh_mover_cancel(r.mover, &first.move);
	EXPECT_EQ(0, first.move.status);
}

/* A store that begins and is cancelled while the mover's thread ends another. */
TEST(MoverCancel, OfWhatCameWhileAnotherEnded)
{
	static Job *next;
	static void (*ended)(struct kvh_move *);
	Rig r(Kind::STEPPED, STAGE, 2);
	Group &g = r.group(small_shape());
	Job first(r), second(r), third(r);

	for (Job *job : {&first, &second, &third})
		job->add(g, 2);
	ASSERT_EQ(0, first.start(false, r.stream));
	next = &second;
	ended = first.move.done;
	first.move.done = [](struct kvh_move *move) {
		ended(move);
		EXPECT_EQ(0, next->start(false, next->rig.stream));
		kvh_mover_cancel(next->rig.mover, &next->move);
	};
	kvh_mover_cancel(r.mover, &first.move);
	for (Job *job : {&first, &second}) {
		job->wait();
		EXPECT_EQ(-ECANCELED, job->move.status);
		EXPECT_TRUE(job->untouched());
	}
	ASSERT_EQ(0, third.start(false, r.stream));
	third.wait();
	third.expect_stored();
}

/* Held at each copy in turn: complete chunks keep 0, the others say so. */
TEST_P(MoverFault, CancelAtEachStage)
{
	bool any[2] = {false, false};

	for (uint64_t nth = 2; nth <= 9; nth++) {
		Rig r(GetParam(), STAGE, 1);
		Group &g = r.group(small_shape());
		Job job(r);

		job.add(g, 4);
		r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, nth);
		ASSERT_EQ(0, job.start(false, r.stream));
		r.settle(1);
		kvh_mover_cancel(r.mover, &job.move);
		EXPECT_FALSE(job.finished());
		kvh_host_release(r.dev);
		job.wait();
		expect_store_ended(job, -ECANCELED);
		any[0] |= job.parts[0].status.front() == 0;
		any[1] |= job.parts[0].status.back() == -ECANCELED;
	}
	EXPECT_TRUE(any[0]);
	EXPECT_TRUE(any[1]);
}

TEST_P(MoverFault, CancelOfALoadIsNothing)
{
	Rig r(GetParam(), STAGE, 2);
	Group &g = r.group(small_shape());
	Job job(r);

	job.add(g, 4);
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
	ASSERT_EQ(0, job.start(true, r.stream));
	kvh_mover_cancel(r.mover, &job.move);
	kvh_host_release(r.dev);
	job.wait();
	job.expect_loaded();
	kvh_mover_cancel(r.mover, &job.move);
}

/* ---- close ------------------------------------------------------------ */

TEST(MoverClose, WithWorkInFlight)
{
	for (uint64_t nth = 1; nth <= 12; nth++) {
		Rig r(Kind::HOST, STAGE, 2);
		Group &g = r.group(small_shape()), &h = r.group(small_shape());
		std::deque<Job> stores;
		Job load(r);

		load.add(h, 3);
		r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, nth);
		ASSERT_EQ(0, load.start(true, r.stream));
		for (int i = 0; i < 5; i++) {
			stores.emplace_back(r);
			stores.back().add(g, 2);
			ASSERT_EQ(0, stores.back().start(false, r.stream));
		}
		kvh_host_held_wait(r.dev, 1);
		std::thread release([&] { kvh_host_release(r.dev); });
		r.close_mover();
		release.join();
		for (auto &job : stores) {
			ASSERT_TRUE(job.finished());
			job.wait();
			expect_store_ended(job, -ECANCELED);
		}
		ASSERT_TRUE(load.finished());
		load.expect_loaded();
	}
}

/* A store that waits for its order point does not hold up close. */
TEST(MoverClose, DoesNotWaitForAStoreThatWaits)
{
	Rig r(Kind::STEPPED, STAGE, 1);
	Group &g = r.group(small_shape());
	Job job(r);
	kvh_event_mark event = nullptr;
	kvh_stream other = nullptr;

	ASSERT_EQ(0, r.dev->ops->event_create(r.dev, &event));
	ASSERT_EQ(0, r.dev->ops->stream_create(r.dev, 0, &other));
	r.rule(KVH_HOST_RECORD, KVH_HOST_HOLD); /* stands for work of the runtime's */
	ASSERT_EQ(0, r.dev->ops->event_record(r.dev, event, other));
	r.settle(1);
	job.add(g, 2);
	ASSERT_EQ(0, job.start(false, nullptr, event)); /* no pass before close */
	r.close_mover();
	ASSERT_TRUE(job.finished());
	EXPECT_EQ(-ECANCELED, job.move.status);
	EXPECT_TRUE(job.untouched());
	kvh_host_release(r.dev);
	r.dev->ops->event_destroy(r.dev, event);
	r.dev->ops->stream_destroy(r.dev, other);
}

TEST(MoverClose, OfADeadDevice)
{
	Rig r(Kind::HOST, STAGE, 2);
	Group &g = r.group(small_shape());
	std::deque<Job> jobs;

	for (int i = 0; i < 4; i++) {
		jobs.emplace_back(r);
		jobs.back().add(g, 2);
	}
	r.rule(KVH_HOST_GATHER, KVH_HOST_FAIL, 2);
	for (size_t i = 0; i < jobs.size(); i++) {
		int rc = jobs[i].start(i % 2, r.stream);

		EXPECT_TRUE(rc == 0 || rc == -EIO) << rc;
	}
	r.close_mover();
	for (auto &job : jobs)
		EXPECT_EQ(job.accepted, job.finished());
}

} // namespace
