// SPDX-License-Identifier: Apache-2.0
//
// adapter_test.cc - queues and the order of writes in front of one adapter.
#include "tests/adapter_rig.h"

using namespace adaptertest;

TEST(Adapter, OpenFailures)
{
	l2test::Log log;
	struct kvh_metrics metrics = {};
	struct kvh_l2_env env = {&kvh_io_system, nullptr};
	struct kvh_adapter_opts opts = {};
	struct kvh_adapter *a = nullptr;

	opts.env = &env;
	opts.metrics = &metrics;
	opts.spec = "nosuch:x";
	EXPECT_EQ(kvh_adapter_open(&opts, &a), -EINVAL); // not -ENOENT: that is a path's
	opts.spec = "mem:x,size=1";
	EXPECT_EQ(kvh_adapter_open(&opts, &a), -EINVAL);
	EXPECT_EQ(a, nullptr);
}

TEST(Adapter, OneFrameThereAndBack)
{
	Rig rig("mem");

	EXPECT_STREQ(kvh_adapter_name(rig.a), "mem");
	EXPECT_TRUE(kvh_adapter_caps(rig.a)->local_index);
	EXPECT_EQ(rig.tick(), UINT64_MAX); // nothing to come back for
	Task &put = rig.submit(KVH_L2_PUT, 1);
	EXPECT_EQ(put.n_ended, 0u); // never inside submit
	EXPECT_NE(rig.tick(), UINT64_MAX);
	EXPECT_EQ(rig.count(&kvh_adapter_counters::inflight), 1u);
	rig.settle();
	EXPECT_EQ(put.status, 0);
	EXPECT_TRUE(put.buffer_free);
	EXPECT_EQ(rig.count(&kvh_adapter_counters::inflight), 0u);
	EXPECT_EQ(rig.count(&kvh_adapter_counters::objects), 1u);

	Task &get = rig.submit(KVH_L2_GET, 1);
	Task &miss = rig.submit(KVH_L2_GET, 2);
	Task &probe = rig.submit(KVH_L2_PROBE, 1);
	rig.settle();
	EXPECT_EQ(get.status, 0);
	EXPECT_TRUE(get.buffer == put.buffer);
	EXPECT_EQ(miss.status, -ENOENT);
	EXPECT_EQ(probe.status, 0);
	EXPECT_EQ(probe.req.len, put.buffer.size());

	Task &gone = rig.submit(KVH_L2_DELETE, 1);
	Task &again = rig.submit(KVH_L2_DELETE, 1);
	rig.settle();
	EXPECT_EQ(gone.status, 0);
	EXPECT_EQ(again.status, -ENOENT);
	for (const Task &task : rig.tasks) {
		EXPECT_EQ(task.n_ended, 1u);
		EXPECT_FALSE(task.back);
	}
}

// Who hears of an end and asks at once how much there is, on any thread.
TEST(Adapter, TheStatusHasWhatHasEnded)
{
	Rig rig("mem");
	Task &put = rig.submit(KVH_L2_PUT, 1);

	rig.settle();
	EXPECT_EQ(put.objects_at_end, 1u);
	Task &gone = rig.submit(KVH_L2_DELETE, 1);
	rig.settle();
	EXPECT_EQ(gone.objects_at_end, 0u);
}

TEST(Adapter, PeekAddsToWhatWasFound)
{
	Rig rig("mem");
	struct kvh_key keys[600];
	uint8_t found[600] = {};

	for (uint64_t i = 0; i < 600; i++)
		keys[i] = l2test::make_key(i);
	rig.submit(KVH_L2_PUT, 2);
	rig.submit(KVH_L2_PUT, 599);
	rig.settle();
	found[0] = 1;
	kvh_adapter_peek(rig.a, keys, 600, found);
	for (uint64_t i = 0; i < 600; i++)
		EXPECT_EQ(found[i], i == 0 || i == 2 || i == 599) << i;

	Rig blind("null"); // has no local index: leaves all as it is
	kvh_adapter_peek(blind.a, keys, 600, found);
	EXPECT_EQ(found[0], 1);
	EXPECT_EQ(found[1], 0);
}

TEST(Adapter, MoreThanOneBatchAtOnce)
{
	Rig rig("null:x,depth=1000");

	for (uint64_t i = 0; i < 1000; i++)
		rig.submit(KVH_L2_PUT, i);
	rig.settle();
	EXPECT_EQ(rig.order.size(), 1000u);
}

TEST(Adapter, FullAdapterIsFedAsItEmpties)
{
	Rig rig("null:x,depth=3");

	for (uint64_t i = 0; i < 10; i++)
		rig.submit(KVH_L2_PUT, i);
	rig.tick();
	EXPECT_EQ(rig.count(&kvh_adapter_counters::inflight), 3u);
	rig.settle();
	EXPECT_EQ(rig.order.size(), 10u);
}

TEST(Adapter, ReadsGoBeforeWrites)
{
	Rig rig("mem:x,depth=1");

	rig.submit(KVH_L2_PUT, 1);
	rig.submit(KVH_L2_DELETE, 2);
	rig.submit(KVH_L2_GET, 3);
	rig.submit(KVH_L2_PROBE, 4);
	rig.settle();
	EXPECT_EQ(rig.order, (Order{2, 3, 0, 1}));
}

// ---- write order ------------------------------------------------------------

TEST(AdapterOrder, AWriteWaitsForTheWriteBeforeToItsKey)
{
	Rig rig("fault:order,script=put@1:hang,next=mem");
	struct kvh_fault *fault = kvh_fault_find("order");

	Task &put = rig.submit(KVH_L2_PUT, 1);
	Task &gone = rig.submit(KVH_L2_DELETE, 1);
	Task &again = rig.submit(KVH_L2_PUT, 1);
	Task &other = rig.submit(KVH_L2_PUT, 2);
	rig.sweep();
	EXPECT_EQ(other.status, 0);
	EXPECT_EQ(gone.n_ended + put.n_ended + again.n_ended, 0u);
	EXPECT_EQ(rig.count(&kvh_adapter_counters::inflight), 1u);
	kvh_fault_release(fault);
	rig.settle();
	EXPECT_EQ(rig.order, (Order{3, 0, 1, 2}));
	EXPECT_EQ(gone.status, 0); // it found what the first had put
	EXPECT_EQ(rig.submit(KVH_L2_GET, 1).n_ended, 0u);
	rig.settle();
	EXPECT_EQ(rig.tasks.back().status, 0); // and the last put is there
}

TEST(AdapterOrder, AReadDoesNotWait)
{
	Rig rig("fault:order,script=put@1:hang,next=mem");

	Task &put = rig.submit(KVH_L2_PUT, 1);
	rig.tick();
	Task &get = rig.submit(KVH_L2_GET, 1);
	rig.sweep();
	EXPECT_EQ(get.status, -ENOENT);
	EXPECT_EQ(put.n_ended, 0u);
}

TEST(AdapterOrder, ManyToOneKeyAndMoreThanALookPassesOver)
{
	Rig rig("fault:order,script=put@1:hang,next=mem");
	Order want;

	for (int i = 0; i < 200; i++) {
		rig.submit(i % 2 == 0 ? KVH_L2_PUT : KVH_L2_DELETE, 1);
		want.push_back(i);
	}
	rig.sweep();
	EXPECT_TRUE(rig.order.empty());
	kvh_fault_release(kvh_fault_find("order"));
	rig.settle();
	EXPECT_EQ(rig.order, want);
	for (const Task &task : rig.tasks)
		EXPECT_EQ(task.status, 0) << task.id; // each delete found its put
}

TEST(AdapterOrder, AHeldKeyKeepsWritesBack)
{
	Rig rig("mem");
	const struct kvh_key key = l2test::make_key(1);

	kvh_adapter_key_hold(rig.a, &key);
	kvh_adapter_key_hold(rig.a, &key);
	Task &gone = rig.submit(KVH_L2_DELETE, 1);
	rig.sweep();
	EXPECT_EQ(gone.n_ended, 0u);
	kvh_adapter_key_unhold(rig.a, &key);
	rig.sweep();
	EXPECT_EQ(gone.n_ended, 0u);
	kvh_adapter_key_unhold(rig.a, &key);
	rig.settle();
	EXPECT_EQ(gone.n_ended, 1u);
}

// Random writes to few keys, finished in another order by the adapter: of each
// key they end in the order of their submission, and the last one decides.
TEST(AdapterOrder, RandomWritesToFewKeys)
{
	const uint32_t seed = std::random_device()();
	std::mt19937 random(seed);
	Rig rig("fault:order,script=any x*:reorder=5,next=mem:x,depth=16");

	SCOPED_TRACE(testing::Message() << "seed " << seed);
	for (int i = 0; i < 500; i++) {
		rig.submit(random() % 2 == 0 ? KVH_L2_PUT : KVH_L2_DELETE, random() % 7);
		if (random() % 4 == 0)
			rig.tick(random() % 3 * 100 * KVH_NS_PER_MS);
	}
	rig.settle();
	std::vector<int> last(7, -1);
	std::vector<enum kvh_l2_op> op(7);

	for (int id : rig.order) {
		const Task &task = rig.tasks[size_t(id)];
		const uint64_t n = task.req.key.hash.bytes[8];

		EXPECT_GT(id, last[n]);
		EXPECT_EQ(task.status == 0 || task.req.op == KVH_L2_DELETE, true);
		last[n] = id;
		op[n] = task.req.op;
	}
	for (uint64_t n = 0; n < 7; n++) {
		Task &probe = rig.submit(KVH_L2_PROBE, n);

		rig.settle();
		EXPECT_EQ(probe.status, op[n] == KVH_L2_PUT ? 0 : -ENOENT) << n;
	}
}

TEST(AdapterOrder, ItKnowsOfDeletes)
{
	l2test::Log log;
	Rig rig("fault:order,script=delete@1:hang;delete@2:hang=hard,next=mem");

	EXPECT_FALSE(kvh_adapter_erasing(rig.a));
	rig.submit(KVH_L2_PUT, 1);
	EXPECT_FALSE(kvh_adapter_erasing(rig.a));
	rig.submit(KVH_L2_DELETE, 2);
	EXPECT_TRUE(kvh_adapter_erasing(rig.a)); // waiting
	rig.tick();
	EXPECT_TRUE(kvh_adapter_erasing(rig.a)); // out
	kvh_fault_release(kvh_fault_find("order"));
	rig.settle();
	EXPECT_FALSE(kvh_adapter_erasing(rig.a));

	Task &late = rig.submit(KVH_L2_DELETE, 1);
	rig.after_deadline();
	EXPECT_EQ(late.status, -ETIMEDOUT);
	EXPECT_TRUE(kvh_adapter_erasing(rig.a)); // it may still happen
	kvh_fault_release(kvh_fault_find("order"));
	rig.sweep();
	rig.sweep();
	EXPECT_TRUE(late.back);
	EXPECT_FALSE(kvh_adapter_erasing(rig.a));
}

// ---- refusals, wake-ups, cancel ---------------------------------------------

TEST(Adapter, ARefusedRequestEndsWithItsError)
{
	l2test::Log log;
	Rig rig("mem:x,size=8K"); // a frame of 8 KiB just fits

	Task &put = rig.submit(KVH_L2_PUT, 1);
	put.req.len = 16384;
	Task &after = rig.submit(KVH_L2_PUT, 2);
	rig.settle();
	EXPECT_EQ(put.status, -EINVAL);
	EXPECT_TRUE(put.buffer_free);
	EXPECT_EQ(after.status, 0);
	EXPECT_EQ(log.count("mem: refused a request of 16384 bytes"), 1u);
}

TEST(Adapter, ALostWakeUpCostsASweep)
{
	Rig rig("fault:mute,script=any:mute,next=mem");

	Task &put = rig.submit(KVH_L2_PUT, 1);
	const uint64_t sweep = rig.tick();
	EXPECT_EQ(put.n_ended, 0u);
	EXPECT_EQ(sweep, rig.now + 100 * KVH_NS_PER_MS); // it asks to be called then
	rig.now = sweep;
	rig.tick();
	EXPECT_EQ(put.status, 0);
}

TEST(Adapter, CancelWhereItIs)
{
	Rig rig("fault:cancel,script=put@1:hang;put@2:hang=hard,next=mem:x,depth=2");

	Task &soft = rig.submit(KVH_L2_PUT, 1);
	Task &hard = rig.submit(KVH_L2_PUT, 2);
	Task &waits = rig.submit(KVH_L2_PUT, 3);
	rig.tick();
	kvh_adapter_cancel(rig.a, &waits);
	EXPECT_EQ(waits.status, -ECANCELED); // in the call
	kvh_adapter_cancel(rig.a, &soft);
	kvh_adapter_cancel(rig.a, &hard);
	kvh_adapter_cancel(rig.a, &hard); // once is enough
	EXPECT_EQ(soft.n_ended, 0u);      // it is the adapter's until reaped
	rig.sweep();
	EXPECT_EQ(soft.status, -ECANCELED);
	EXPECT_EQ(hard.n_ended, 0u);
	kvh_fault_release(kvh_fault_find("cancel"));
	rig.settle();
	EXPECT_EQ(hard.n_ended, 1u);
}

TEST(Adapter, DropWaitingEndsWhatIsNotOut)
{
	Rig rig("fault:drop,script=put@1:hang,next=mem:x,depth=1");

	Task &out = rig.submit(KVH_L2_PUT, 1);
	rig.tick();
	rig.submit(KVH_L2_GET, 1);
	rig.submit(KVH_L2_PUT, 2);
	rig.submit(KVH_L2_DELETE, 1);
	kvh_adapter_drop_waiting(rig.a);
	for (int i = 1; i <= 3; i++) {
		EXPECT_EQ(rig.tasks[size_t(i)].status, -ECANCELED);
		EXPECT_TRUE(rig.tasks[size_t(i)].buffer_free);
	}
	EXPECT_EQ(out.n_ended, 0u);
	EXPECT_EQ(kvh_adapter_busy(rig.a), 1u);
}
