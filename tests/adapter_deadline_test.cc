// SPDX-License-Identifier: Apache-2.0
//
// adapter_deadline_test.cc - requests that do not end: deadlines, buffers that
// stay out, and closing over them.
#include "tests/adapter_rig.h"

using namespace adaptertest;

// ---- deadlines --------------------------------------------------------------

TEST(AdapterDeadline, ALateBufferStaysOutUntilItComesBack)
{
	l2test::Log log;
	Rig rig("fault:late,script=any@1x2:hang=hard,next=mem");

	Task &get = rig.submit(KVH_L2_GET, 1);
	Task &put = rig.submit(KVH_L2_PUT, 2);
	rig.sweep();
	EXPECT_EQ(get.n_ended + put.n_ended, 0u); // not before the deadline
	rig.after_deadline();
	for (Task *task : {&get, &put}) {
		EXPECT_EQ(task->status, -ETIMEDOUT);
		EXPECT_FALSE(task->buffer_free);
		EXPECT_FALSE(task->back);
	}
	EXPECT_EQ(kvh_adapter_busy(rig.a), 0u);
	EXPECT_EQ(rig.count(&kvh_adapter_counters::timeouts), 2u);
	EXPECT_EQ(rig.count(&kvh_adapter_counters::inflight), 2u);
	EXPECT_EQ(kvh_counted(&rig.metrics.l2_quarantined), 2u);
	EXPECT_EQ(log.count("has not ended within 30000 ms"), 1u); // the first of those out

	Task &other = rig.submit(KVH_L2_PUT, 3); // the adapter serves others
	rig.settle();
	EXPECT_EQ(other.status, 0);

	kvh_fault_release(kvh_fault_find("late"));
	rig.sweep();
	rig.sweep();
	for (Task *task : {&get, &put}) {
		EXPECT_TRUE(task->back);
		EXPECT_EQ(task->n_ended, 1u);
	}
	EXPECT_EQ(kvh_counted(&rig.metrics.l2_quarantined), 0u);
	EXPECT_EQ(rig.count(&kvh_adapter_counters::inflight), 0u);
	EXPECT_GT(rig.tick(KVH_NS_PER_S), rig.now + 100 * KVH_NS_PER_MS); // no sweep any more
}

TEST(AdapterDeadline, WithoutABufferNothingIsSetAside)
{
	l2test::Log log;
	Rig rig("fault:late,script=any x*:hang=hard,next=mem");

	Task &probe = rig.submit(KVH_L2_PROBE, 1);
	Task &gone = rig.submit(KVH_L2_DELETE, 1);
	rig.after_deadline();
	EXPECT_EQ(probe.status, -ETIMEDOUT);
	EXPECT_EQ(gone.status, -ETIMEDOUT);
	EXPECT_EQ(rig.count(&kvh_adapter_counters::inflight), 2u);
	EXPECT_EQ(kvh_counted(&rig.metrics.l2_quarantined), 0u);
	kvh_fault_release(kvh_fault_find("late"));
	rig.sweep();
	rig.sweep();
	EXPECT_TRUE(probe.back && gone.back);
	EXPECT_EQ(kvh_counted(&rig.metrics.l2_quarantined), 0u);
}

TEST(AdapterDeadline, AReadThatWaitsHasADeadlineToo)
{
	l2test::Log log;
	Rig rig("fault:late,script=get@1x2:hang=hard,next=mem:x,depth=2");

	rig.submit(KVH_L2_GET, 1);
	rig.submit(KVH_L2_GET, 2);
	Task &waits = rig.submit(KVH_L2_GET, 3);
	rig.after_deadline();
	EXPECT_EQ(waits.status, -ETIMEDOUT);
	EXPECT_TRUE(waits.buffer_free); // the adapter never saw it
	kvh_fault_release(kvh_fault_find("late"));
}

TEST(AdapterDeadline, AWriteMayQueueForLonger)
{
	Rig rig("mem:x,depth=1");
	std::vector<Task *> puts;

	for (uint64_t i = 0; i < 4; i++)
		puts.push_back(&rig.submit(KVH_L2_PUT, i));
	for (int i = 0; i < 4; i++)
		rig.tick(kDeadline - 1); // each is accepted only when one has ended
	rig.settle();
	for (Task *put : puts)
		EXPECT_EQ(put->status, 0);
	EXPECT_EQ(rig.count(&kvh_adapter_counters::timeouts), 0u);
}

TEST(AdapterDeadline, FullOfLateOnesFailsWhatWaits)
{
	l2test::Log log;
	Rig rig("fault:late,script=any@1x2:hang=hard,next=mem:x,depth=2");

	rig.submit(KVH_L2_PUT, 1);
	rig.submit(KVH_L2_PUT, 2);
	rig.tick();
	Task &put = rig.submit(KVH_L2_PUT, 3);
	Task &gone = rig.submit(KVH_L2_DELETE, 4);
	rig.after_deadline();
	EXPECT_EQ(put.status, -ETIMEDOUT);
	EXPECT_TRUE(put.buffer_free);
	EXPECT_EQ(gone.status, -ETIMEDOUT);
	EXPECT_FALSE(gone.buffer_free); // still owed: what is erased stays so
	Task &get = rig.submit(KVH_L2_GET, 1);
	rig.tick();
	EXPECT_EQ(get.status, -ETIMEDOUT); // at once: nothing can come of it
	kvh_fault_release(kvh_fault_find("late"));
	rig.sweep();
	rig.sweep();
	Task &later = rig.submit(KVH_L2_PUT, 3);
	rig.settle();
	EXPECT_EQ(later.status, 0); // it is back
	EXPECT_TRUE(gone.back);     // and has done what it owed
	EXPECT_EQ(gone.n_ended, 1u);
}

// A late request in an adapter that has room does not harm its neighbours, not
// even writes that wait for their own turn.
TEST(AdapterDeadline, WithRoomNobodyElseFails)
{
	l2test::Log log;
	Rig rig("fault:late,script=put@1:hang=hard;put@2:hang,next=mem");

	Task &late = rig.submit(KVH_L2_PUT, 1);
	rig.after_deadline();
	EXPECT_EQ(late.status, -ETIMEDOUT);
	Task &out = rig.submit(KVH_L2_PUT, 2);
	Task &waits = rig.submit(KVH_L2_DELETE, 2);
	rig.tick();
	Task &behind = rig.submit(KVH_L2_DELETE, 1); // behind the late one: its own deadline
	rig.sweep();
	EXPECT_EQ(behind.n_ended, 0u);
	EXPECT_EQ(waits.n_ended + out.n_ended, 0u);
	kvh_fault_release(kvh_fault_find("late"));
	rig.settle();
	EXPECT_EQ(out.status, 0);
	EXPECT_EQ(waits.status, 0);
	EXPECT_EQ(behind.status, 0); // the late put did come back in time for it
}

TEST(AdapterDeadline, AWriteBehindALateOneEndsAtItsOwn)
{
	l2test::Log log;
	Rig rig("fault:late,script=put@1:hang=hard,next=mem");

	rig.submit(KVH_L2_PUT, 1);
	rig.after_deadline();
	Task &gone = rig.submit(KVH_L2_DELETE, 1);
	for (uint64_t i = 0; i < 10; i++) { // while others come and go
		rig.submit(KVH_L2_PUT, 100 + i);
		rig.sweep();
		EXPECT_EQ(gone.n_ended, 0u);
	}
	rig.after_deadline();
	EXPECT_EQ(gone.status, -ETIMEDOUT);
	EXPECT_FALSE(gone.buffer_free);
	EXPECT_EQ(rig.count(&kvh_adapter_counters::erases_owed), 1u);
	kvh_fault_release(kvh_fault_find("late"));
	while (!gone.back)
		rig.sweep();
	EXPECT_EQ(rig.count(&kvh_adapter_counters::erases_owed), 0u);
	Task &probe = rig.submit(KVH_L2_PROBE, 1);
	rig.settle();
	EXPECT_EQ(probe.status, -ENOENT); // the late put landed, and was deleted
}

// Control: a PUT keeps no place; what it wrote late is there.
TEST(AdapterDeadline, ControlWithoutTheDeleteALatePutIsFound)
{
	l2test::Log log;
	Rig rig("fault:late,script=put@1:hang=hard,next=mem");

	Task &put = rig.submit(KVH_L2_PUT, 1);
	rig.after_deadline();
	kvh_fault_release(kvh_fault_find("late"));
	while (!put.back)
		rig.sweep();
	Task &probe = rig.submit(KVH_L2_PROBE, 1);
	rig.settle();
	EXPECT_EQ(probe.status, 0);
}

TEST(AdapterDeadline, WhatIsOwedIsGivenBackAtClose)
{
	l2test::Log log;
	Rig rig("fault:late,script=put@1:hang=hard,next=mem");

	Task &put = rig.submit(KVH_L2_PUT, 1);
	rig.after_deadline();
	Task &gone = rig.submit(KVH_L2_DELETE, 1);
	for (int i = 0; i < 3 && gone.n_ended == 0; i++)
		rig.after_deadline();
	EXPECT_FALSE(gone.back);
	kvh_adapter_drop_waiting(rig.a);
	EXPECT_TRUE(gone.back);
	EXPECT_EQ(gone.n_ended, 1u);
	EXPECT_EQ(put.n_ended, 1u);
	kvh_fault_release(kvh_fault_find("late"));
}

// ---- close ------------------------------------------------------------------

TEST(AdapterClose, GivesBackWhatIsOut)
{
	Rig rig("fault:close,script=any x*:hang,next=mem");

	Task &put = rig.submit(KVH_L2_PUT, 1);
	Task &get = rig.submit(KVH_L2_GET, 2);
	rig.tick();
	EXPECT_EQ(kvh_adapter_close(rig.a, KVH_L2_DEADLINE_NO), 0);
	rig.a = nullptr;
	for (Task *task : {&put, &get}) {
		EXPECT_EQ(task->status, -ECANCELED);
		EXPECT_TRUE(task->buffer_free);
		EXPECT_EQ(task->n_ended, 1u);
	}
}

TEST(AdapterClose, GivesBackLateOnes)
{
	l2test::Log log;
	Rig rig("fault:close,script=any x*:hang=hard,next=mem");

	Task &put = rig.submit(KVH_L2_PUT, 1);
	rig.after_deadline();
	kvh_fault_release(kvh_fault_find("close")); // but nobody has reaped it
	EXPECT_EQ(kvh_adapter_close(rig.a, KVH_L2_DEADLINE_NO), 0);
	rig.a = nullptr;
	EXPECT_EQ(put.n_ended, 1u);
	EXPECT_TRUE(put.back);
	EXPECT_EQ(kvh_counted(&rig.metrics.l2_quarantined), 0u);
}

TEST(AdapterClose, ThatDoesNotEndKeepsTheBuffers)
{
	l2test::Log log;
	// Not freed: the adapter is inside them for ever. Its list of instances is
	// what the leak check finds them by.
	Rig *rig = new Rig("fault:hung,script=any x*:hang=hard,next=mem");

	Task &late = rig->submit(KVH_L2_PUT, 1);
	rig->after_deadline();
	Task &out = rig->submit(KVH_L2_GET, 2);
	rig->tick();
	EXPECT_EQ(kvh_adapter_close(rig->a, kvh_now_ns()), -ETIMEDOUT);
	EXPECT_EQ(out.status, -ETIMEDOUT);
	EXPECT_FALSE(out.buffer_free);
	EXPECT_FALSE(out.back || late.back);
	EXPECT_EQ(out.n_ended + late.n_ended, 2u);
	EXPECT_EQ(kvh_counted(&rig->metrics.l2_quarantined), 2u);
	EXPECT_EQ(log.count("2 requests are still out, their memory stays mapped"), 1u);
}
