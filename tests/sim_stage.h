/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_stage.h - what a schedule plays on: an engine, its adapters, clients and pools, all
 * drawn from the seed; opened, stopped, opened again.
 *
 * Four sorts of weather are drawn: calm (nothing fails, everything fits: then
 * nothing that was stored may be missed), adapters that fail, memory and device
 * that fail, and all of it.
 */
#ifndef KVH_TESTS_SIM_STAGE_H
#define KVH_TESTS_SIM_STAGE_H

#include "host/engine.h"
#include "l2/fault.h"
#include "sim_client.h"
#include "sim_guards.h"

#include <utility>

namespace sim
{

struct Plan {
	uint64_t seed = 1;
	uint64_t ops = 300;
	bool trace = false;
	/* What completions ask for fails, often: see Guards::fail_inside_one_in. */
	bool completions_fail = false;
};

class Stage
{
      protected:
	static constexpr uint64_t MIB = UINT64_C(1) << 20;
	static constexpr uint64_t MS = KVH_NS_PER_MS;

	explicit Stage(const Plan &plan)
	    : plan_(plan), world_(plan.seed, plan.trace), rng_(plan.seed ^ 0x5eed),
	      device_rng_(plan.seed ^ 0xde71ce)
	{
		world_.spurious_one_in = rng_.one_in(4) ? 0 : 16 + rng_.below(200);
		world_.lost_one_in = rng_.one_in(3) ? 4 + rng_.below(60) : 0;
		world_.yield_one_in = rng_.below(4);
		pace_ = UINT64_C(1) << rng_.below(8);
		draw_weather();
		draw_spaces();
	}

	/* ---- what is drawn once ---- */

	void draw_weather()
	{
		const uint64_t w = rng_.below(8);

		stormy_adapters_ = w >= 2;
		stormy_device_ = w == 6 || w == 7;
		stormy_memory_ = w == 5 || w == 7 || plan_.completions_fail;
		changing_ = rng_.one_in(3);
		roomy_ = w < 2 || rng_.one_in(3);
	}
	void draw_spaces()
	{
		static const uint64_t sizes[] = {1504, 6000, 14336, 14336, 30000};
		const uint64_t page = sizes[rng_.below(5)];
		Space plain, hybrid;

		plain.name = "plain";
		plain.groups = {{KVH_GROUP_FULL, 0, 2, page, false}};
		plain.prompts = 8;
		plain.chunks = 6;
		spaces_.push_back(plain);
		if (rng_.one_in(2))
			return;
		hybrid.name = "hybrid";
		hybrid.groups = {{KVH_GROUP_FULL, 0, 1, 4096, false},
				 {KVH_GROUP_WINDOW, 2, 1, 2048, rng_.one_in(2)},
				 {KVH_GROUP_STATE, 0, 1, page / 2, rng_.one_in(2)}};
		hybrid.ranks = 1 + static_cast<uint32_t>(rng_.below(2));
		hybrid.prompts = 4;
		hybrid.chunks = 4;
		spaces_.push_back(hybrid);
	}
	std::string l2_size() const
	{
		return roomy_ ? "64M" : std::to_string(256 + (plan_.seed % 7) * 200) + "K";
	}

	/* ---- the engine ---- */

	/* A fault adapter over memory, of a name that was never used before: those of engines
	 * that could not be freed are open still. */
	std::string new_spec(Adapter *adapter)
	{
		static const char *const depths[] = {"4", "16", "64", "256"};

		adapter->name = "sim" + std::to_string(plan_.seed) + "-" +
				std::to_string(n_names_++);
		return "fault:" + adapter->name +
		       ",seed=" + std::to_string(1 + rng_.below(1000)) +
		       ",next=mem:size=" + l2_size() + ",depth=" + depths[rng_.below(4)];
	}
	void open()
	{
		std::vector<std::string> specs(rng_.below(4));
		std::vector<const char *> l2;
		kvh_engine_opts o;

		for (auto &spec : specs) {
			truth_.adapters.emplace_back();
			truth_.adapters.back().index = static_cast<uint32_t>(l2.size());
			spec = new_spec(&truth_.adapters.back());
			l2.push_back(spec.c_str());
		}
		kvh_engine_opts_init(&o, sizeof(o));
		o.device = device_rng_.one_in(3) ? "host,host" : "host";
		o.l2 = l2.data();
		o.n_l2 = static_cast<uint32_t>(l2.size());
		draw_memory(&o);
		draw_l2(&o);
		draw_prefetch(&o);
		open_engine(o);
		if (plan_.completions_fail) {
			weather_.memory_fails = true;
			guards().fail_inside_one_in = 10;
		}
		for (Space &space : spaces_) {
			space.open(engine_);
			space.l1_hard = 0;
		}
		for (uint64_t n = 1 + rng_.below(3); n > 0; n--)
			new_client();
		for (const Space &space : spaces_)
			for (uint32_t rank = 0; rank < space.ranks; rank++)
				new_pool(space, rank);
	}
	void draw_memory(kvh_engine_opts *o)
	{
		static const char *const orders[] = {"lru", "s3-fifo", "arc"};

		/* Slabs of 2 MiB hold frames of one size each. */
		o->l1_bytes = spaces_.size() * (roomy_ ? 4 : 1) * 2 * MIB;
		o->l1_eviction = orders[rng_.below(3)];
		o->stage_bytes = 64 << 10;
		o->store_bytes_per_s = rng_.one_in(3) ? (1 + rng_.below(64)) * MIB : 0;
		o->watermark_low_pct = 40 + static_cast<uint32_t>(rng_.below(50));
		o->watermark_high_pct = o->watermark_low_pct + 1 +
					static_cast<uint32_t>(rng_.below(9));
		if (roomy_) {
			o->watermark_low_pct = 98;
			o->watermark_high_pct = 99;
		}
	}
	void draw_l2(kvh_engine_opts *o)
	{
		static const uint64_t leases[] = {0, 0, 100 * MS, 3000 * MS};
		static const char *const policies[] = {
			"default",    "default",      "default",          "buffer-only",
			"second-use", "whole-prefix", "deferred-windows", "write-back"};

		o->policy = policies[calm() || o->n_l2 == 0 ? 0 : rng_.below(8)];
		o->l1_lease_ns = truth_.lease_ns = leases[rng_.below(4)];
		o->l2_deadline_ns = (100 + rng_.below(3000)) * MS;
		o->l2_retries = static_cast<uint32_t>(rng_.below(4));
		o->l2_queue_bytes = calm() || rng_.one_in(3) ? 256 * MIB : 0;
		o->l2_breaker = rng_.one_in(2) ? 0 : 1 + static_cast<uint32_t>(rng_.below(4));
		truth_.policy = o->policy;
		weather_.demotes |= truth_.policy == "write-back";
		truth_.roomy = roomy_;
		truth_.queue_roomy = o->l2_queue_bytes != 0;
	}
	void draw_prefetch(kvh_engine_opts *o)
	{
		static const uint64_t hedges[] = {0, 0, 1, 2 * MS, 50 * MS};

		o->prefetch_plan = rng_.one_in(2) ? "first" : "fastest";
		o->prefetch_hedge_ns = hedges[rng_.below(5)];
		o->prefetch_read_bytes = rng_.one_in(2) ? 0 : 1 + rng_.below(256 << 10);
		o->prefetch_speculate = rng_.one_in(2)
						? 0
						: 1 + static_cast<uint32_t>(rng_.below(8));
	}
	void open_engine(const kvh_engine_opts &o)
	{
		int err = kvh_engine_open(&o, &engine_);

		while (err == -ENOMEM && weather_.memory_fails &&
		       world_.threads() <= abandoned_) {
			world_.note("no memory for an engine");
			err = kvh_engine_open(&o, &engine_);
		}
		if (err != 0)
			violation("engine_open: %d, %zu threads", err, world_.threads());
		truth_.engine = engine_;
		guards().adapters = 0;
	}
	bool calm() const
	{
		return !stormy_adapters_ && !stormy_device_ && !stormy_memory_ && roomy_;
	}
	void new_client()
	{
		clients_.push_back(std::make_unique<Client>(
			world_, truth_,
			1 + static_cast<uint32_t>(rng_.below(rng_.one_in(3) ? 4 : 64))));
	}
	uint32_t which_device()
	{
		return static_cast<uint32_t>(device_rng_.below(engine_->devices.n));
	}
	void release_devices()
	{
		for (uint32_t d = 0; d < engine_->devices.n; d++)
			kvh_host_release(engine_->devices.list[d].dev);
	}
	void new_pool(const Space &space, uint32_t rank)
	{
		pools_.push_back(std::make_unique<Pool>(space, rank, 24));
		const int err = pools_.back()->add(
			engine_, engine_->devices.list[which_device()].info.uuid);
		if (err == 0) {
			pools_.back()->open = true;
			return;
		}
		pools_.pop_back();
		if (!weather_.device_fails && !(err == -ENOMEM && weather_.memory_fails))
			violation("pool_register: %d", err);
	}
	void poll_all(uint32_t max)
	{
		for (auto &c : clients_)
			while (c->poll(max) == max) {}
	}
	void stop(uint64_t drain_ns)
	{
		const int err = kvh_engine_close(std::exchange(engine_, nullptr), drain_ns);

		/* An adapter may keep a buffer, and so the device: then all of it
		 * stays. */
		if (err != 0 && (err != -ETIMEDOUT || !weather_.adapters_fail))
			violation("engine_close: %d", err);
		for (auto &c : clients_)
			c->gone();
		if (err != 0)
			abandoned_ = world_.threads(); /* its device's streams */
		if (world_.threads() > abandoned_)
			violation("%zu threads are left", world_.threads());
	}

	const Plan plan_;
	World world_;
	Rng rng_;
	Rng device_rng_;    /* of its own: which device something happens on, of one or two */
	uint64_t pace_ = 1; /* rounds between operations, below it */
	bool stormy_adapters_ = false, stormy_device_ = false, stormy_memory_ = false;
	bool roomy_ = false;    /* L1 and L2 hold all there is */
	bool changing_ = false; /* adapters come and go */
	Truth truth_;
	Weather &weather_ = truth_.weather;
	uint64_t loaded_ = 0; /* by all engines */
	std::vector<Space> spaces_;
	kvh_engine *engine_ = nullptr;
	uint32_t n_names_ = 0; /* of adapters */
	size_t abandoned_ = 0; /* threads of engines that could not be freed */
	std::vector<std::unique_ptr<Pool>> pools_;
	std::vector<std::unique_ptr<Client>> clients_;
	std::vector<kvh_lease_t> orphans_;
};

} // namespace sim

#endif
