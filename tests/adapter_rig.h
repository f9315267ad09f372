/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adapter_rig.h - one adapter behind its queues, on the test's own thread: no
 * thread and no time passes, each test is the controller, and says what time
 * it is.
 */
#ifndef KVH_TESTS_ADAPTER_RIG_H
#define KVH_TESTS_ADAPTER_RIG_H

#include "host/adapter.h"
#include "host/clock.h"
#include "l2/fault.h"
#include "tests/l2_harness.h"

#include <algorithm>
#include <deque>
#include <vector>

namespace adaptertest
{

constexpr uint64_t kDeadline = 30 * KVH_NS_PER_S;
constexpr uint64_t kPayload = 4096;

struct Rig;

struct Task : kvh_l2_task {
	Rig *rig;
	int id;
	l2test::Buffer buffer{kvh_frame_bytes(kPayload)};
	int status = KVH_PENDING;
	bool buffer_free = false, back = false;
	uint32_t n_ended = 0;
	uint64_t objects_at_end = 0; // as the adapter's status has it then
};

struct Rig {
	explicit Rig(const std::string &spec, uint32_t breaker = 0)
	{
		struct kvh_adapter_opts opts = {};

		opts.spec = spec.c_str();
		opts.env = &env;
		opts.metrics = &metrics;
		opts.deadline_ns = kDeadline;
		opts.breaker = breaker;
		EXPECT_EQ(kvh_adapter_open(&opts, &a), 0);
	}
	~Rig()
	{
		if (a == nullptr)
			return;
		kvh_adapter_drop_waiting(a);
		EXPECT_EQ(kvh_adapter_close(a, KVH_L2_DEADLINE_NO), 0);
	}

	Task &submit(enum kvh_l2_op op, uint64_t n)
	{
		tasks.emplace_back();
		Task &task = tasks.back();

		task.rig = this;
		task.id = int(tasks.size()) - 1;
		task.req.op = op;
		task.req.key = l2test::make_key(n);
		if (op == KVH_L2_PUT)
			task.buffer = l2test::make_frame(task.req.key, kPayload, n);
		if (op == KVH_L2_PUT || op == KVH_L2_GET) {
			task.req.buf = task.buffer.data();
			task.req.len = task.buffer.size();
		}
		task.ended = [](kvh_l2_task *t, int status, bool buffer_free) {
			Task *self = static_cast<Task *>(t);

			self->n_ended++;
			self->status = status;
			self->buffer_free = buffer_free;
			self->objects_at_end = self->rig->count(&kvh_adapter_counters::objects);
			self->rig->order.push_back(self->id);
		};
		task.returned = [](kvh_l2_task *t) { static_cast<Task *>(t)->back = true; };
		kvh_adapter_submit(a, &task);
		return task;
	}

	// One round: at the next sweep, which also reaps.
	uint64_t tick(uint64_t pass_ns = 0)
	{
		now += pass_ns;
		return kvh_adapter_tick(a, now);
	}
	void sweep()
	{
		tick(); // feeds, and arms the sweep
		tick(200 * KVH_NS_PER_MS);
	}
	void settle()
	{
		for (int i = 0; i < 1000 && kvh_adapter_busy(a) > 0; i++)
			sweep();
		EXPECT_EQ(kvh_adapter_busy(a), 0u);
	}
	// The deadline of all there is has passed; not that of what comes later.
	void after_deadline()
	{
		tick();
		for (Task &task : tasks)
			task.deadline_ns = 0;
		tick(200 * KVH_NS_PER_MS);
	}
	uint64_t count(kvh_counter kvh_adapter_counters::*counter)
	{
		return kvh_counted(&(kvh_adapter_counters(a)->*counter));
	}

	struct kvh_l2_env env = {&kvh_io_system, nullptr};
	struct kvh_metrics metrics = {};
	struct kvh_adapter *a = nullptr;
	std::deque<Task> tasks;
	std::vector<int> order; // of ends
	uint64_t now = kvh_now_ns();
};

using Order = std::vector<int>;

} // namespace adaptertest

#endif
