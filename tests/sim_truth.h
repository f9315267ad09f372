/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_truth.h - what is true of the engine, by what it was asked and has answered:
 * its keys, its adapters and what they have to hold, what may be an answer.
 *
 * Moments order what the users saw: each call and each event is one.
 */
#ifndef KVH_TESTS_SIM_TRUTH_H
#define KVH_TESTS_SIM_TRUTH_H

#include "host/adapter.h"
#include "host/engine.h"
#include "l2/fault.h"
#include "sim_job.h"

#include <list>

namespace sim
{

struct Adapter {
	std::string name; /* of its fault adapter */
	uint32_t index = 0;
	bool trusted = true; /* nothing was made to fail in it */
	uint64_t since = 0;  /* gets what is stored by calls from this moment on */
	bool draining = false, leaving = false;
	uint32_t changes = 0; /* jobs that drain or remove it */
	/* PUTs that it had been given when it had drained; UINT64_MAX: it has not */
	uint64_t drained_puts = UINT64_MAX;
};

struct Truth {
	kvh_engine *engine = nullptr;
	Keys keys;
	Weather weather;
	Counts counts;
	std::list<Adapter> adapters;
	bool roomy = false;       /* L1 and L2 hold all there is */
	bool queue_roomy = false; /* an adapter's queue, too */
	bool stuck = false;       /* an adapter would not close, and keeps buffers */
	bool steady = true;       /* no adapter came, went or was drained */
	uint64_t lease_ns = 0; /* how long leases last of which nothing is said; 0: for ever */
	std::string policy;
	uint64_t moment = 0;
	uint64_t policy_since = 0; /* the moment of the last change */
	/* What was stored before may have missed L2, and somebody was told, or would have
	 * been but for a cancel. */
	uint64_t doubt = 0;
	uint32_t flushes = 0;             /* under way */
	uint64_t flushed = 0, erased = 0; /* how often */
	int flush_status = 0;             /* of the last one */

	uint64_t put_failed() const
	{
		uint64_t n = 0;

		for (const Adapter &adapter : adapters)
			n += status_of(adapter).put_failed;
		return n;
	}

	kvh_status status() const
	{
		kvh_status st;

		memset(&st, 0, sizeof(st));
		st.size = sizeof(st);
		const int err = kvh_status_get(engine, &st);
		if (err != 0)
			violation("status: %d", err);
		return st;
	}
	kvh_l2_status status_of(const Adapter &adapter) const
	{
		kvh_l2_status st;

		memset(&st, 0, sizeof(st));
		st.size = sizeof(st);
		if (kvh_l2_status_get(engine, adapter.index, &st) != 0)
			violation("adapter %u has no status", adapter.index);
		return st;
	}
	bool in_l1(const kvh_key &key) const
	{
		uint8_t found = 0;

		kvh_l1_find(engine->l1, &key, 1, &found);
		return found == 1;
	}
	Adapter *find(const std::string &name)
	{
		for (Adapter &adapter : adapters)
			if (adapter.name == name)
				return &adapter;
		return nullptr;
	}
	/* Stores only: a breaker's trials are none. */
	uint64_t puts_of(const Adapter &adapter) const
	{
		const kvh_l2_status st = status_of(adapter);

		return st.puts + st.put_failed;
	}
	/* Who has drained is given no store any more. */
	void check_drained() const
	{
		for (const Adapter &adapter : adapters)
			if (adapter.drained_puts != UINT64_MAX && !adapter.leaving &&
			    puts_of(adapter) != adapter.drained_puts)
				violation("%s has drained, and was given a store",
					  adapter.name.c_str());
	}
	bool timed_out() const
	{
		for (const Adapter &adapter : adapters)
			if (status_of(adapter).timeouts > 0)
				return true;
		return false;
	}
	bool holds(const Adapter &adapter, const kvh_key &key) const
	{
		uint8_t found = 0;

		kvh_adapter_peek(kvh_controller_adapter(engine->controller, adapter.index),
				 &key, 1, &found);
		return found != 0;
	}
	/* Whether a flush brings every such chunk to every adapter. */
	bool goes_to_l2(const KeyState &state) const
	{
		if (policy == "default" || policy == "buffer-only" || policy == "write-back")
			return true;
		return (policy == "whole-prefix" || policy == "deferred-windows") &&
		       state.kind == KVH_GROUP_FULL;
	}
	/* After a flush that was called at `began` and ended well. */
	void check_flushed(uint64_t began) const
	{
		const uint64_t from = std::max(doubt, policy_since);

		for (const auto &[key, state] : keys)
			if (state.stored_at > from && state.stored_end < began &&
			    goes_to_l2(state))
				for (const Adapter &adapter : adapters)
					if (roomy && adapter.trusted && !adapter.draining &&
					    adapter.since < state.stored_at &&
					    !holds(adapter, key))
						violation("%s was stored and flushed, and is "
							  "not in %s",
							  name_of(key).c_str(),
							  adapter.name.c_str());
	}
	/* The engine is gone, and what it knew. */
	void forget()
	{
		for (auto &key : keys)
			key.second.forget();
		adapters.clear();
		steady = true;
		stuck = false;
		counts = Counts();
		flushes = 0;
	}
};

} // namespace sim

#endif
