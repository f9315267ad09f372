// SPDX-License-Identifier: Apache-2.0
//
// adapter_breaker_test.cc - an adapter that fails, hangs, or says that it is ill
// is left alone, and asked again by itself; completions that are not ours are
// survived.
#include "host/adapter_impl.h"
#include "tests/adapter_rig.h"

using namespace adaptertest;

namespace
{

using N = struct kvh_adapter_counters;

void fail_until_open(Rig &rig)
{
	for (uint64_t i = 0; i < 100 && kvh_adapter_usable(rig.a); i++) {
		rig.submit(KVH_L2_PUT, i);
		rig.sweep();
	}
	EXPECT_FALSE(kvh_adapter_usable(rig.a));
}

// Through the time to the next trial, and its three steps.
void to_trial(Rig &rig)
{
	rig.tick(KVH_BREAKER_BACKOFF_MAX_NS);
	for (int i = 0; i < 6; i++)
		rig.sweep();
}

TEST(AdapterBreaker, OpensAndRefusesAtOnce)
{
	l2test::Log log;
	Rig rig("fault:b,script=any x*:fail=EIO,next=mem", 4);

	for (uint64_t i = 0; i < 4; i++)
		rig.submit(KVH_L2_PUT, i);
	rig.sweep();
	EXPECT_FALSE(kvh_adapter_usable(rig.a));
	EXPECT_EQ(rig.count(&N::breaker_opened), 1u);
	EXPECT_EQ(log.count("4 requests in a row have failed"), 1u);

	Task &put = rig.submit(KVH_L2_PUT, 10);
	Task &get = rig.submit(KVH_L2_GET, 11);
	Task &probe = rig.submit(KVH_L2_PROBE, 12);
	Task &gone = rig.submit(KVH_L2_DELETE, 13);

	rig.tick();
	for (Task *task : {&put, &get, &probe, &gone})
		EXPECT_EQ(task->status, -EHOSTDOWN);
	EXPECT_TRUE(put.buffer_free && get.buffer_free && probe.buffer_free);
	EXPECT_FALSE(gone.buffer_free); // owed
	EXPECT_EQ(rig.count(&N::breaker_refused), 4u);
	kvh_adapter_drop_waiting(rig.a);
	EXPECT_TRUE(gone.back);
}

TEST(AdapterBreaker, ControlWithoutABoundEveryRequestIsTried)
{
	l2test::Log log;
	Rig rig("fault:b,script=any x*:fail=EIO,next=mem", 0);

	for (uint64_t i = 0; i < 100; i++) {
		Task &put = rig.submit(KVH_L2_PUT, i);

		rig.settle();
		EXPECT_EQ(put.status, -EIO);
	}
	EXPECT_TRUE(kvh_adapter_usable(rig.a));
}

TEST(AdapterBreaker, ClosesAgainByItself)
{
	l2test::Log log;
	Rig rig("fault:b,script=any x*:fail=EIO,next=mem", 3);

	fail_until_open(rig);
	to_trial(rig);
	EXPECT_FALSE(kvh_adapter_usable(rig.a)); // still fails
	EXPECT_GE(rig.count(&N::trials), 1u);
	ASSERT_EQ(kvh_fault_set_script(kvh_fault_find("b"), ""), 0);
	to_trial(rig); // nobody asks for anything
	EXPECT_TRUE(kvh_adapter_usable(rig.a));
	EXPECT_EQ(rig.count(&N::objects), 0u); // the trial left nothing behind
	Task &put = rig.submit(KVH_L2_PUT, 1);

	rig.settle();
	EXPECT_EQ(put.status, 0);
}

TEST(AdapterBreaker, WhatWasErasedMeanwhileIsGoneAfterwards)
{
	l2test::Log log;
	Rig rig("fault:b,next=mem", 3);

	rig.submit(KVH_L2_PUT, 7);
	rig.settle();
	ASSERT_EQ(kvh_fault_set_script(kvh_fault_find("b"), "any x*:fail=EIO"), 0);
	fail_until_open(rig);
	Task &gone = rig.submit(KVH_L2_DELETE, 7);

	rig.tick();
	EXPECT_EQ(gone.status, -EHOSTDOWN);
	ASSERT_EQ(kvh_fault_set_script(kvh_fault_find("b"), ""), 0);
	to_trial(rig);
	EXPECT_TRUE(gone.back);
	EXPECT_EQ(rig.count(&N::objects), 0u);
}

TEST(AdapterBreaker, TimeoutsOpenItAndNoBufferIsFreed)
{
	l2test::Log log;
	Rig rig("fault:b,script=any x*:hang=hard,next=mem", 3);

	for (uint64_t i = 0; i < 3; i++)
		rig.submit(KVH_L2_PUT, i);
	rig.after_deadline();
	EXPECT_FALSE(kvh_adapter_usable(rig.a));
	EXPECT_EQ(kvh_counted(&rig.metrics.l2_quarantined), 3u);
	for (Task &task : rig.tasks)
		EXPECT_FALSE(task.buffer_free);
	rig.tick(KVH_BREAKER_BACKOFF_MAX_NS); // a trial that hangs, too
	rig.tick(2 * kDeadline);
	rig.tick(2 * kDeadline);
	EXPECT_FALSE(kvh_adapter_usable(rig.a));
	EXPECT_GE(rig.count(&N::trials), 1u);
	ASSERT_EQ(kvh_fault_set_script(kvh_fault_find("b"), ""), 0);
	kvh_fault_release(kvh_fault_find("b"));
	for (int i = 0; i < 8; i++)
		to_trial(rig);
	EXPECT_TRUE(kvh_adapter_usable(rig.a));
	EXPECT_EQ(kvh_counted(&rig.metrics.l2_quarantined), 0u);
	for (Task &task : rig.tasks)
		EXPECT_TRUE(task.back);
}

// The adapter's close ends what a trial has with it; the trial's next step would go
// to what is not there any more.
TEST(AdapterBreaker, ATrialThatACloseEndsAsksForNothingMore)
{
	l2test::Log log;
	Rig rig("fault:b,script=any x*:fail=EIO,next=mem", 3);

	fail_until_open(rig);
	ASSERT_EQ(kvh_fault_set_script(kvh_fault_find("b"), "get x*:hang"), 0);
	to_trial(rig);
	ASSERT_EQ(rig.a->inflight.n, 1u); // its GET
	kvh_adapter_drop_waiting(rig.a);
	ASSERT_EQ(kvh_adapter_shut(rig.a, KVH_L2_DEADLINE_NO), 0);
	kvh_adapter_shut_done(rig.a, true);
	EXPECT_EQ(rig.a->inflight.n, 0u);
	EXPECT_FALSE(kvh_adapter_usable(rig.a));
}

// Full and read-only adapters still read: that is no reason to leave them alone.
TEST(AdapterBreaker, AFullAdapterIsStillReadFrom)
{
	l2test::Log log;
	Rig rig("fault:b,script=put@2x100:fail=ENOSPC,next=mem", 2);

	rig.submit(KVH_L2_PUT, 0);
	for (uint64_t i = 1; i < 20; i++)
		rig.submit(KVH_L2_PUT, i);
	rig.settle();
	EXPECT_TRUE(kvh_adapter_usable(rig.a));
	Task &get = rig.submit(KVH_L2_GET, 0);

	rig.settle();
	EXPECT_EQ(get.status, 0);
}

// ---- its own health ---------------------------------------------------------

int lost_disk;

// An adapter that knows better than its results.
struct Ill : Rig {
	explicit Ill(uint32_t breaker) : Rig("mem", breaker), ops(*a->ops), sound(a->ops)
	{
		lost_disk = 0;
		ops.health = [](const void *, const char **why_p) {
			*why_p = "the disk is gone";
			return lost_disk;
		};
		a->ops = &ops;
	}
	~Ill()
	{
		a->ops = sound;
	}
	struct kvh_l2_ops ops;
	const struct kvh_l2_ops *sound;
};

TEST(AdapterHealth, AnAdapterThatLostItsDiskDoesNotLookHealthy)
{
	l2test::Log log;
	Ill rig(8);

	EXPECT_NE(rig.tick(), UINT64_MAX); // looks again, also without traffic
	lost_disk = -EIO;
	EXPECT_LE(rig.tick() - rig.now, KVH_NS_PER_S);
	rig.tick(KVH_NS_PER_S);
	EXPECT_FALSE(kvh_adapter_usable(rig.a));
	EXPECT_EQ(kvh_adapter_breaker(rig.a), KVH_BREAKER_OPEN);
	EXPECT_EQ(rig.count(&N::health), uint64_t(EIO));
	EXPECT_EQ(log.count("the disk is gone"), 1u);
	for (int i = 0; i < 100; i++)
		rig.tick(KVH_NS_PER_S);
	EXPECT_EQ(rig.count(&N::trials), 0u); // it said so: nothing to try
	EXPECT_EQ(log.count("the disk is gone"), 1u);
	lost_disk = 0;
	rig.tick(KVH_NS_PER_S);
	to_trial(rig);
	to_trial(rig);
	EXPECT_TRUE(kvh_adapter_usable(rig.a));
	EXPECT_EQ(rig.count(&N::health), 0u);
}

TEST(AdapterHealth, ControlWithoutTheLookItLooksHealthy)
{
	Rig rig("mem", 8);

	lost_disk = -EIO;
	for (int i = 0; i < 100; i++)
		rig.tick(KVH_NS_PER_S);
	EXPECT_TRUE(kvh_adapter_usable(rig.a));
}

// ---- completions that are not ours ------------------------------------------

// Every completion comes twice, with one in between that nobody knows.
struct Liar : Rig {
	Liar() : Rig("mem"), ops(*a->ops), sound(a->ops)
	{
		inner = sound;
		ops.reap = [](void *self, struct kvh_l2_req **done, uint32_t max) -> uint32_t {
			static struct kvh_l2_req foreign;
			struct kvh_l2_req *own[80];
			uint32_t n = inner->reap(self, own, max / 3 < 80 ? max / 3 : 80);

			for (uint32_t i = 0; i < n; i++) {
				done[3 * i] = own[i];
				done[3 * i + 1] = &foreign;
				done[3 * i + 2] = own[i];
			}
			return 3 * n;
		};
		a->ops = &ops;
	}
	~Liar()
	{
		a->ops = sound;
	}
	static const struct kvh_l2_ops *inner;
	struct kvh_l2_ops ops;
	const struct kvh_l2_ops *sound;
};
const struct kvh_l2_ops *Liar::inner;

TEST(AdapterStray, DuplicateAndUnknownCompletionsAreCountedAndIgnored)
{
	l2test::Log log;
	Liar rig;

	for (uint64_t i = 0; i < 1000; i++)
		rig.submit(i % 3 != 0 ? KVH_L2_PUT : KVH_L2_GET, i);
	rig.settle();
	for (const Task &task : rig.tasks) {
		EXPECT_EQ(task.n_ended, 1u);
		EXPECT_FALSE(task.back);
	}
	EXPECT_EQ(rig.count(&N::strays), 2000u);
	EXPECT_EQ(log.count("handed back a request that it does not have"), 1u);
}

TEST(AdapterStray, ControlTheCountIsNotOfSoundOnes)
{
	Rig rig("mem");

	for (uint64_t i = 0; i < 1000; i++)
		rig.submit(KVH_L2_PUT, i);
	rig.settle();
	EXPECT_EQ(rig.count(&N::strays), 0u);
}

TEST(AdapterStray, ALateOneComesBackOnce)
{
	l2test::Log log;
	Rig rig("fault:s,script=put@1:hang=hard,next=mem");
	struct kvh_out_set *out = &rig.a->out;

	Task &put = rig.submit(KVH_L2_PUT, 1);
	rig.after_deadline();
	EXPECT_EQ(out->n, 1u); // it has it still
	kvh_fault_release(kvh_fault_find("s"));
	while (!put.back)
		rig.sweep();
	EXPECT_EQ(out->n, 0u);
	EXPECT_FALSE(kvh_out_remove(out, &put.req));
}

// ---- clear ------------------------------------------------------------------

// Keeps a CLEAR until it is told to answer.
struct Clearing : Rig {
	Clearing() : Rig("fault:c,script=put@1:hang,next=mem"), ops(*a->ops), sound(a->ops)
	{
		inner = sound;
		held = nullptr;
		ops.submit = [](void *self, struct kvh_l2_req *req) {
			if (req->op != KVH_L2_CLEAR)
				return inner->submit(self, req);
			held = req;
			return 0;
		};
		ops.reap = [](void *self, struct kvh_l2_req **done, uint32_t max) -> uint32_t {
			if (answer && held != nullptr) {
				done[0] = held;
				done[0]->status = 0;
				held = nullptr;
				return 1;
			}
			return inner->reap(self, done, max);
		};
		answer = false;
		a->ops = &ops;
	}
	~Clearing()
	{
		a->ops = sound;
	}
	static const struct kvh_l2_ops *inner;
	static struct kvh_l2_req *held;
	static bool answer;
	struct kvh_l2_ops ops;
	const struct kvh_l2_ops *sound;
};
const struct kvh_l2_ops *Clearing::inner;
struct kvh_l2_req *Clearing::held;
bool Clearing::answer;

TEST(AdapterOrder, AClearIsABarrierInItsSpaceAndNowhereElse)
{
	Clearing rig;
	Task &before = rig.submit(KVH_L2_PUT, 1); // hangs
	rig.tick();
	Task &clear = rig.submit(KVH_L2_CLEAR, 1);
	Task &after = rig.submit(KVH_L2_PUT, 2);
	Task &other = rig.submit(KVH_L2_PUT, 3);

	// Another space; it is only looked at in the queue.
	kvh_adapter_cancel(rig.a, &other);
	other.req.key.space ^= 1;
	other.n_ended = 0;
	kvh_adapter_submit(rig.a, &other);
	rig.sweep();
	EXPECT_EQ(other.n_ended, 1u);
	EXPECT_EQ(clear.n_ended + after.n_ended + before.n_ended, 0u);
	EXPECT_EQ(Clearing::held, nullptr); // waits for the put before it
	kvh_fault_release(kvh_fault_find("c"));
	rig.sweep();
	rig.sweep();
	EXPECT_EQ(before.n_ended, 1u);
	EXPECT_NE(Clearing::held, nullptr);
	EXPECT_EQ(after.n_ended, 0u); // waits for the clear
	EXPECT_TRUE(kvh_adapter_erasing(rig.a));
	Clearing::answer = true;
	rig.settle();
	EXPECT_EQ(clear.status, 0);
	EXPECT_EQ(after.status, 0);
	EXPECT_FALSE(kvh_adapter_erasing(rig.a));
}

} // namespace
