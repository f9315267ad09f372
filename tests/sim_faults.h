/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_faults.h - what a schedule makes fail: adapters by their scripts, the device by
 * its rules, the library's memory; and how all of it is healed.
 */
#ifndef KVH_TESTS_SIM_FAULTS_H
#define KVH_TESTS_SIM_FAULTS_H

#include "cuda/device_host.h"
#include "sim_stage.h"

namespace sim
{

class Faults : protected Stage
{
      protected:
	using Stage::Stage;

	void adapter_fault()
	{
		static const char *const ops[] = {"put", "get", "delete", "probe", "any"};
		static const char *const actions[] = {
			"fail",      "fail=ENOSPC", "fail=ENOMEM", "delay=3",
			"delay=250", "delay=5000",  "corrupt",     "corrupt=header",
			"short",     "short=lie",   "hang",        "hang=hard",
			"die",       "reorder=3",   "mute"};
		std::string script;

		if (!stormy_adapters_ || truth_.adapters.empty())
			return;
		Adapter &adapter = *std::next(
			truth_.adapters.begin(),
			static_cast<ptrdiff_t>(rng_.below(truth_.adapters.size())));
		kvh_fault *fault = find_fault(adapter);
		if (fault == nullptr)
			return;
		if (rng_.one_in(3)) {
			world_.note("adapters go on");
			kvh_fault_release(fault);
		} else {
			for (uint64_t n = 1 + rng_.below(3); n > 0; n--) {
				script += ops[rng_.below(5)];
				script += "@" + std::to_string(1 + rng_.below(4));
				script += rng_.one_in(4)
						  ? "x*"
						  : "x" + std::to_string(1 + rng_.below(5));
				script += ":";
				script += actions[rng_.below(15)];
				script += n > 1 ? ";" : "";
			}
			world_.note("adapter: %s", script.c_str());
			weather_.adapters_fail = true;
			adapter.trusted = false;
			set_script(fault, script);
		}
	}
	void set_script(kvh_fault *fault, const std::string &script)
	{
		const uint64_t fail_in = std::exchange(guards().fail_alloc_in, 0);

		if (kvh_fault_set_script(fault, script.c_str()) != 0)
			violation("script %s", script.c_str());
		guards().fail_alloc_in = fail_in;
	}
	/* NULL: it is being closed. */
	static kvh_fault *find_fault(const Adapter &adapter)
	{
		kvh_fault *fault = kvh_fault_find(adapter.name.c_str());

		if (fault == nullptr && !adapter.leaving)
			violation("no adapter %s", adapter.name.c_str());
		return fault;
	}
	void device_fault()
	{
		static const kvh_host_rule rules[] = {
			{KVH_HOST_ENQUEUE, KVH_HOST_FAIL, 1, 1, EIO, 0},
			{KVH_HOST_ENQUEUE, KVH_HOST_FAIL, 1, 1, ENOMEM, 0},
			{KVH_HOST_QUERY, KVH_HOST_FAIL, 1, 1, EIO, 0},
			{KVH_HOST_MEM_ALLOC, KVH_HOST_FAIL, 1, 1, ENOMEM, 0},
			{KVH_HOST_HOST_ALLOC, KVH_HOST_FAIL, 1, 1, ENOMEM, 0},
			{KVH_HOST_EVENT_CREATE, KVH_HOST_FAIL, 1, 1, ENOMEM, 0},
			{KVH_HOST_STREAM_CREATE, KVH_HOST_FAIL, 1, 1, ENOMEM, 0},
			{KVH_HOST_NOTIFY, KVH_HOST_LIE, 1, 4, 0, 0},
			{KVH_HOST_COPY, KVH_HOST_SLOW, 1, 1, 0, 50},
			{KVH_HOST_GATHER, KVH_HOST_HOLD, 1, 1, 0, 0},
			{KVH_HOST_COPY, KVH_HOST_HOLD, 1, 1, 0, 0},
			{KVH_HOST_SCATTER, KVH_HOST_HOLD, 1, 1, 0, 0},
			{KVH_HOST_COPY, KVH_HOST_FAIL, 1, 1, EIO, 0},
			{KVH_HOST_SCATTER, KVH_HOST_FAIL, 1, 1, EIO, 0},
		};
		const uint64_t n = rng_.below(rng_.one_in(8) ? 14 : 12);
		kvh_host_rule rule = rules[n];

		if (rng_.one_in(3)) {
			world_.note("device goes on");
			release_devices();
			return;
		}
		if (n < 7 || n > 11) { /* the others only change the order of things */
			if (!stormy_device_)
				return;
			weather_.device_fails = true;
		}
		rule.nth = 1 + rng_.below(8);
		const uint32_t d = which_device();
		(void)kvh_host_rule_add(engine_->devices.list[d].dev, &rule);
		world_.note("device %u: call %d, action %d", d, rule.call, rule.action);
	}
	void memory_fault()
	{
		if (!stormy_memory_)
			return;
		weather_.memory_fails = true;
		guards().fail_alloc_in = 1 + rng_.below(200);
		world_.note("an allocation will fail");
	}
	/* Also those that a delay ends for, and then hang. */
	void release_held()
	{
		for (const Adapter &adapter : truth_.adapters) {
			kvh_fault *fault = find_fault(adapter);
			kvh_fault_stats stats;

			if (fault == nullptr)
				continue;
			kvh_fault_read_stats(fault, &stats);
			if (stats.held > 0)
				kvh_fault_release(fault);
		}
	}
	void heal()
	{
		guards().fail_alloc_in = guards().fail_inside_one_in = 0;
		release_devices();
		for (const Adapter &adapter : truth_.adapters) {
			kvh_fault *fault = find_fault(adapter);

			if (fault == nullptr)
				continue;
			set_script(fault, "");
			kvh_fault_release(fault);
		}
		world_.spurious_one_in = 0; /* who sleeps has to be woken */
		world_.lost_one_in = 0;
	}
};

} // namespace sim

#endif
