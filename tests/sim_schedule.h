/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_schedule.h - one schedule: an engine, its clients, some hundred operations
 * and faults drawn from a seed, and the reckoning after them.
 *
 * Four sorts of weather are drawn: calm (nothing fails, everything fits: then
 * nothing that was stored may be missed), adapters that fail, memory and device
 * that fail, and all of it. See docs/testing.md.
 */
#ifndef KVH_TESTS_SIM_SCHEDULE_H
#define KVH_TESTS_SIM_SCHEDULE_H

#include "cuda/device_host.h"
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

struct Result {
	std::string wrong; /* empty: nothing */
	uint64_t hash = 0, rounds = 0, loaded = 0, hits = 0;
};

class Schedule
{
      public:
	explicit Schedule(const Plan &plan)
	    : plan_(plan), world_(plan.seed, plan.trace), rng_(plan.seed ^ 0x5eed)
	{
		world_.spurious_one_in = rng_.one_in(4) ? 0 : 16 + rng_.below(200);
		world_.lost_one_in = rng_.one_in(3) ? 4 + rng_.below(60) : 0;
		world_.yield_one_in = rng_.below(4);
		pace_ = UINT64_C(1) << rng_.below(8);
		draw_weather();
		draw_spaces();
	}

	Result run()
	{
		Result result;

		open();
		for (uint64_t i = 0; i < plan_.ops; i++) {
			operation();
			world_.run(rng_.below(pace_));
		}
		reckon();
		result.hash = world_.hash();
		result.rounds = world_.rounds();
		result.loaded = all_.loaded;
		return result;
	}

      private:
	static constexpr uint64_t MIB = UINT64_C(1) << 20;
	static constexpr uint64_t MS = KVH_NS_PER_MS;

	/* ---- what is drawn once ---- */

	void draw_weather()
	{
		const uint64_t w = rng_.below(8);

		stormy_adapters_ = w >= 2;
		stormy_device_ = w == 6 || w == 7;
		stormy_memory_ = w == 5 || w == 7 || plan_.completions_fail;
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

	void open()
	{
		std::vector<std::string> specs;
		std::vector<const char *> l2;
		kvh_engine_opts o;

		n_l2_ = static_cast<uint32_t>(rng_.below(4));
		for (uint32_t i = 0; i < n_l2_; i++)
			specs.push_back("fault:sim" + std::to_string(i) +
					",seed=" + std::to_string(1 + rng_.below(1000)) +
					",next=mem:size=" + l2_size() + ",depth=" +
					std::to_string(UINT64_C(1) << (2 * rng_.below(4) + 2)));
		for (const auto &spec : specs)
			l2.push_back(spec.c_str());
		kvh_engine_opts_init(&o, sizeof(o));
		o.device = "host";
		/* Slabs of 2 MiB hold frames of one size each. */
		o.l1_bytes = spaces_.size() * (roomy_ ? 4 : 1) * 2 * MIB;
		o.l2 = l2.data();
		o.n_l2 = n_l2_;
		o.policy = rng_.one_in(3) && n_l2_ > 0 && !calm() ? "buffer-only" : "default";
		o.stage_bytes = 64 << 10;
		o.l2_deadline_ns = (100 + rng_.below(3000)) * MS;
		o.l2_retries = static_cast<uint32_t>(rng_.below(4));
		o.l2_queue_bytes = calm() ? 256 * MIB : 0;
		o.watermark_low_pct = 40 + static_cast<uint32_t>(rng_.below(50));
		o.watermark_high_pct = o.watermark_low_pct + 1 +
				       static_cast<uint32_t>(rng_.below(9));
		if (roomy_) {
			o.watermark_low_pct = 98;
			o.watermark_high_pct = 99;
		}
		int err = kvh_engine_open(&o, &engine_);
		while (err == -ENOMEM && weather_.memory_fails &&
		       world_.threads() <= abandoned_) {
			world_.note("no memory for an engine");
			err = kvh_engine_open(&o, &engine_);
		}
		if (err != 0)
			violation("engine_open: %d, %zu threads", err, world_.threads());
		counts_ = Counts();
		if (plan_.completions_fail) {
			weather_.memory_fails = true;
			guards().fail_inside_one_in = 10;
		}
		for (Space &space : spaces_)
			space.open(engine_);
		for (uint64_t n = 1 + rng_.below(3); n > 0; n--)
			new_client();
		for (const Space &space : spaces_)
			for (uint32_t rank = 0; rank < space.ranks; rank++)
				new_pool(space, rank);
	}
	bool calm() const
	{
		return !stormy_adapters_ && !stormy_device_ && !stormy_memory_ && roomy_;
	}
	void new_client()
	{
		clients_.push_back(std::make_unique<Client>(
			world_, engine_, keys_, weather_, counts_,
			1 + static_cast<uint32_t>(rng_.below(rng_.one_in(3) ? 4 : 64))));
	}
	void new_pool(const Space &space, uint32_t rank)
	{
		pools_.push_back(std::make_unique<Pool>(space, rank, 24));
		const int err = pools_.back()->add(engine_);
		if (err == 0) {
			pools_.back()->open = true;
			return;
		}
		pools_.pop_back();
		if (!weather_.device_fails && !(err == -ENOMEM && weather_.memory_fails))
			violation("pool_register: %d", err);
	}

	/* ---- operations ---- */

	Client &client()
	{
		return *clients_[rng_.below(clients_.size())];
	}
	/* Mostly one that is registered; NULL: there is none. */
	Pool *pool()
	{
		for (int tries = 0; tries < 4 && !pools_.empty(); tries++) {
			Pool *pool = pools_[rng_.below(pools_.size())].get();

			if (pool->open || rng_.one_in(16))
				return pool;
		}
		return nullptr;
	}
	Space &space()
	{
		return spaces_[rng_.below(spaces_.size())];
	}
	/* Some chunks of one prompt, in order, all groups of the pool's rank. */
	std::vector<kvh_key> some_keys(const Space &space, uint32_t rank)
	{
		const auto prompt = static_cast<uint32_t>(rng_.below(space.prompts));
		const auto from = static_cast<uint32_t>(
			rng_.one_in(2) ? 0 : rng_.below(space.chunks));
		const auto n = 1 + static_cast<uint32_t>(rng_.below(space.chunks - from));
		std::vector<kvh_key> keys;

		for (uint32_t c = from; c < from + n; c++)
			for (uint32_t g = 0; g < space.groups.size(); g++)
				keys.push_back(space.key(prompt, c, g, rank));
		if (rng_.one_in(16))
			keys.push_back(keys[rng_.below(keys.size())]); /* twice */
		return keys;
	}
	void store()
	{
		Pool *p = pool();

		if (p != nullptr)
			client().store(*p, some_keys(p->space, p->rank),
				       static_cast<uint32_t>(rng_.below(4)));
	}
	void prefetch()
	{
		const Space &s = space();
		static const uint64_t deadlines[] = {0, 0, 0, 1, 5 * MS, 150 * MS, 5000 * MS};

		client().prefetch(s, static_cast<uint32_t>(rng_.below(s.prompts)),
				  1 + static_cast<uint32_t>(rng_.below(s.chunks)),
				  static_cast<uint32_t>(rng_.below(rng_.one_in(3) ? 8 : 2)),
				  deadlines[rng_.below(7)]);
	}
	void lookup()
	{
		const Space &s = space();

		(void)client().lookup(s, static_cast<uint32_t>(rng_.below(s.prompts)),
				      1 + static_cast<uint32_t>(rng_.below(s.chunks)),
				      rng_.one_in(2));
	}
	void load()
	{
		Client &c = client();
		Pool *p = pool();

		if (p != nullptr)
			c.load(*p, 1 + static_cast<uint32_t>(rng_.below(8)),
			       rng_.one_in(2) ? KVH_LOAD_RELEASE : 0);
	}
	void erase()
	{
		const Space &s = space();
		std::vector<kvh_key> keys = some_keys(
			s, static_cast<uint32_t>(rng_.below(s.ranks)));

		/* Twice in one call is the same erase twice: not told apart below. */
		std::sort(keys.begin(), keys.end(), KeyLess());
		keys.erase(std::unique(keys.begin(), keys.end(),
				       [](const kvh_key &a, const kvh_key &b) {
					       return memcmp(&a, &b, sizeof(a)) == 0;
				       }),
			   keys.end());
		client().erase(keys);
	}
	void die()
	{
		const size_t at = rng_.below(clients_.size());

		kvh_host_release(engine_->dev); /* it waits for what is on the device */
		clients_[at]->die();
		for (const kvh_lease_t id : clients_[at]->stale())
			if (rng_.one_in(8))
				orphans_.push_back(id);
		clients_.erase(clients_.begin() + static_cast<ptrdiff_t>(at));
		new_client();
	}
	void unregister()
	{
		Pool *p = pool();

		if (p == nullptr)
			return;
		client().unregister(*p);
		if (!p->open) {
			kvh_host_release(engine_->dev);
			new_pool(p->space, p->rank);
		}
	}
	void poll_all(uint32_t max)
	{
		for (auto &c : clients_)
			while (c->poll(max) == max) {}
	}
	/* A lease of a client that is gone is nobody's. */
	void release_orphan()
	{
		if (orphans_.empty())
			return;
		const kvh_lease_t id = orphans_[rng_.below(orphans_.size())];
		const int err = kvh_release(engine_, &id, 1, nullptr);

		if (err != -ESTALE)
			violation("release of a dead client's lease: %d", err);
	}
	void operation()
	{
		const uint64_t n = rng_.below(100);

		if (n < 22)
			store();
		else if (n < 38)
			prefetch();
		else if (n < 46)
			lookup();
		else if (n < 58)
			load();
		else if (n < 64)
			client().release(1 + static_cast<uint32_t>(rng_.below(6)),
					 rng_.one_in(4));
		else if (n < 68)
			erase();
		else if (n < 71)
			client().cancel();
		else if (n < 84)
			(void)client().poll(1 + static_cast<uint32_t>(rng_.below(16)));
		else if (n < 88)
			pass();
		else
			rarely();
	}
	void rarely()
	{
		switch (rng_.below(13)) {
		case 0: die(); break;
		case 1: unregister(); break;
		case 2: release_orphan(); break;
		case 3:
			if (n_l2_ > 0 || !calm())
				(void)kvh_l1_evict(engine_->l1, rng_.below(4 * MIB));
			break;
		case 4:
		case 5:
		case 6: adapter_fault(); break;
		case 7:
		case 8: device_fault(); break;
		case 9: memory_fault(); break;
		case 10:
			if (rng_.one_in(4))
				reopen();
			break;
		default: poll_all(16); break;
		}
	}
	void pass()
	{
		static const uint64_t spans[] = {MS / 10, MS, 10 * MS, 100 * MS, 1000 * MS};

		world_.pass(rng_.below(spans[rng_.below(5)]));
		world_.note("time passes");
	}

	/* The engine stops with all that is in flight, and another begins. */
	void reopen()
	{
		static const uint64_t drains[] = {0, 0, 20 * MS, 4000 * MS};

		world_.note("the engine stops");
		kvh_host_release(engine_->dev);
		release_held();
		stop(drains[rng_.below(4)]);
		for (auto &p : pools_)
			p->check_all();
		for (auto &c : clients_)
			orphans_.insert(orphans_.end(), c->stale().begin(), c->stale().end());
		clients_.clear();
		pools_.clear();
		guards().fail_inside_one_in = 0; /* until it is open */
		orphans_.clear();                /* another engine may give the same numbers */
		for (auto &key : keys_)
			key.second.stored = false;
		open();
	}

	/* ---- faults ---- */

	void adapter_fault()
	{
		static const char *const ops[] = {"put", "get", "delete", "probe", "any"};
		static const char *const actions[] = {
			"fail",      "fail=ENOSPC", "fail=ENOMEM", "delay=3",
			"delay=250", "delay=5000",  "corrupt",     "corrupt=header",
			"short",     "short=lie",   "hang",        "hang=hard",
			"die",       "reorder=3",   "mute"};
		std::string script;

		if (!stormy_adapters_ || n_l2_ == 0)
			return;
		weather_.adapters_fail = true;
		kvh_fault *fault = find_fault();
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
	kvh_fault *find_fault()
	{
		const std::string name = "sim" + std::to_string(rng_.below(n_l2_));
		kvh_fault *fault = kvh_fault_find(name.c_str());

		if (fault == nullptr)
			violation("no adapter %s", name.c_str());
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
			kvh_host_release(engine_->dev);
			return;
		}
		if (n < 7 || n > 11) { /* the others only change the order of things */
			if (!stormy_device_)
				return;
			weather_.device_fails = true;
		}
		rule.nth = 1 + rng_.below(8);
		(void)kvh_host_rule_add(engine_->dev, &rule);
		world_.note("device: call %d, action %d", rule.call, rule.action);
	}
	void memory_fault()
	{
		if (!stormy_memory_)
			return;
		weather_.memory_fails = true;
		guards().fail_alloc_in = 1 + rng_.below(200);
		world_.note("an allocation will fail");
	}

	/* ---- the reckoning ---- */

	/* Also those that a delay ends for, and then hang. */
	void release_held()
	{
		for (uint32_t i = 0; i < n_l2_; i++) {
			kvh_fault *fault = kvh_fault_find(("sim" + std::to_string(i)).c_str());
			kvh_fault_stats stats;

			kvh_fault_read_stats(fault, &stats);
			if (stats.held > 0)
				kvh_fault_release(fault);
		}
	}
	void heal()
	{
		guards().fail_alloc_in = guards().fail_inside_one_in = 0;
		kvh_host_release(engine_->dev);
		for (uint32_t i = 0; i < n_l2_; i++) {
			kvh_fault *fault = kvh_fault_find(("sim" + std::to_string(i)).c_str());

			set_script(fault, "");
			kvh_fault_release(fault);
		}
		world_.spurious_one_in = 0; /* who sleeps has to be woken */
		world_.lost_one_in = 0;
	}
	kvh_status status()
	{
		kvh_status st;

		memset(&st, 0, sizeof(st));
		st.size = sizeof(st);
		const int err = kvh_status_get(engine_, &st);
		if (err != 0)
			violation("status: %d", err);
		return st;
	}
	void reckon()
	{
		world_.note("the reckoning");
		heal();
		finish_jobs();
		if (calm())
			nothing_is_missed();
		for (auto &c : clients_)
			c->release(1u << 20, false);
		quiet();
		check_counts();
		for (auto &p : pools_)
			p->check_all();
		if (rng_.one_in(2))
			nothing_is_kept();
		weather_.adapters_fail = false; /* all was given back */
		stop(0);
	}
	void finish_jobs()
	{
		const bool ended = world_.until([&] {
			size_t jobs = 0;

			release_held();
			poll_all(16);
			for (auto &c : clients_)
				jobs += c->jobs();
			return jobs == 0;
		});
		if (!ended)
			violation("a job does not end");
	}
	/* Everything given back, nothing left in a controller. */
	void quiet()
	{
		const bool ended = world_.until([&] {
			const kvh_status st = status();

			release_held();
			return st.store_waiting == 0 && st.l1_doomed == 0 && st.jobs == 0 &&
			       st.l2_quarantined == 0 && inflight() == 0;
		});
		const kvh_status st = status();
		struct kvh_l1_stats l1;

		if (!ended)
			violation(
				"%llu stores, %llu doomed frames, %llu jobs, %llu buffers and "
				"%llu requests are left",
				ull(st.store_waiting), ull(st.l1_doomed), ull(st.jobs),
				ull(st.l2_quarantined), ull(inflight()));
		world_.settle();
		kvh_l1_stats(engine_->l1, &l1);
		if (l1.leases != 0 || l1.holds != 0 || st.l1_leases != 0)
			violation("%llu leases and %llu holds of nobody", ull(l1.leases),
				  ull(l1.holds));
		if (!kvh_l1_check(engine_->l1))
			violation("L1's books are wrong");
	}
	/* Requests that adapters have. */
	uint64_t inflight()
	{
		uint64_t n = 0;

		for (uint32_t i = 0; i < n_l2_; i++) {
			kvh_l2_status l2;

			memset(&l2, 0, sizeof(l2));
			l2.size = sizeof(l2);
			if (kvh_l2_status_get(engine_, i, &l2) != 0)
				violation("adapter %u has no status", i);
			n += l2.inflight;
		}
		return n;
	}
	void check_counts()
	{
		const kvh_status st = status();

		all_.loaded += counts_.loaded;
		if (!counts_.exact)
			return;
		if (st.stored_chunks != counts_.stored ||
		    st.stored_bytes != counts_.stored_bytes)
			violation("%llu chunks stored, it counts %llu", ull(counts_.stored),
				  ull(st.stored_chunks));
		if (st.loaded_chunks != counts_.loaded ||
		    st.loaded_bytes != counts_.loaded_bytes)
			violation("%llu chunks loaded, it counts %llu", ull(counts_.loaded),
				  ull(st.loaded_chunks));
		if (st.store_exists != counts_.exists)
			violation("%llu chunks were there, it counts %llu", ull(counts_.exists),
				  ull(st.store_exists));
	}
	/* Calm: what was stored is there, in L1 or L2, and comes back. */
	void nothing_is_missed()
	{
		for (const Space &s : spaces_)
			for (uint32_t p = 0; p < s.prompts; p++) {
				const uint32_t want = s.usable(
					s.chunks, [&](auto c, auto g, auto r) {
						const auto it = keys_.find(s.key(p, c, g, r));

						return it != keys_.end() && it->second.stored;
					});
				Client &c = *clients_[0];

				c.prefetch(s, p, s.chunks, 0, 0);
				finish_jobs();
				if (c.last_usable < want)
					violation("prompt %u of %s: %u chunks are stored, %llu "
						  "are "
						  "found",
						  p, s.name.c_str(), want, ull(c.last_usable));
				c.release(1u << 20, false);
			}
	}
	/* All frames can be evicted, and then there is nothing. */
	void nothing_is_kept()
	{
		(void)kvh_l1_evict(engine_->l1, 0);
		const kvh_status st = status();

		if (st.l1_used_bytes != 0 || st.l1_frames != 0)
			violation("%llu frames cannot be evicted", ull(st.l1_frames));
	}
	void stop(uint64_t drain_ns)
	{
		const int err = kvh_engine_close(std::exchange(engine_, nullptr), drain_ns);

		/* An adapter may keep a buffer, and so the device: then all of it stays. */
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
	uint64_t pace_ = 1; /* rounds between operations, below it */
	bool stormy_adapters_ = false, stormy_device_ = false, stormy_memory_ = false;
	bool roomy_ = false; /* L1 and L2 hold all there is */
	Weather weather_;
	Counts counts_, all_;
	Keys keys_;
	std::vector<Space> spaces_;
	kvh_engine *engine_ = nullptr;
	uint32_t n_l2_ = 0;
	size_t abandoned_ = 0; /* threads of engines that could not be freed */
	std::vector<std::unique_ptr<Pool>> pools_;
	std::vector<std::unique_ptr<Client>> clients_;
	std::vector<kvh_lease_t> orphans_;
};

inline Result run_schedule(const Plan &plan)
{
	Schedule schedule(plan);

	guards().reset(plan.seed);
	try {
		return schedule.run();
	} catch (const std::runtime_error &e) {
		Result result;

		result.wrong = e.what();
		return result;
	}
}

} // namespace sim

#endif
