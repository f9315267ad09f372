/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_schedule.h - one schedule: some hundred operations and faults drawn from a seed, and
 * the reckoning after them. See docs/testing.md.
 */
#ifndef KVH_TESTS_SIM_SCHEDULE_H
#define KVH_TESTS_SIM_SCHEDULE_H

#include "sim_reckoning.h"

namespace sim
{

struct Result {
	std::string wrong; /* empty: nothing */
	uint64_t hash = 0, rounds = 0, loaded = 0, hits = 0;
};

class Schedule : private Reckoning
{
      public:
	explicit Schedule(const Plan &plan) : Reckoning(plan)
	{
	}

	Result run()
	{
		Result result;

		open();
		for (uint64_t i = 0; i < plan_.ops; i++) {
			operation();
			world_.run(rng_.below(pace_));
			check_limits();
			truth_.check_drained();
		}
		reckon();
		result.hash = world_.hash();
		result.rounds = world_.rounds();
		result.loaded = loaded_;
		return result;
	}

      private:
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
				       static_cast<uint32_t>(rng_.below(4)) |
					       (rng_.one_in(4) ? KVH_STORE_LAYERS : 0));
	}
	void prefetch()
	{
		const Space &s = space();
		static const uint64_t deadlines[] = {0, 0, 0, 1, 5 * MS, 150 * MS, 5000 * MS};

		client().prefetch(s, static_cast<uint32_t>(rng_.below(s.prompts)),
				  1 + static_cast<uint32_t>(rng_.below(s.chunks)),
				  static_cast<uint32_t>(rng_.below(rng_.one_in(2) ? 8 : 2)),
				  deadlines[rng_.below(7)], draw_lease());
	}
	uint64_t draw_lease()
	{
		static const uint64_t leases[] = {1, 5 * MS, 300 * MS, 4000 * MS};

		return rng_.one_in(4) ? leases[rng_.below(4)] : 0;
	}
	void lookup()
	{
		const Space &s = space();
		const bool lease = rng_.one_in(2);

		(void)client().lookup(s, static_cast<uint32_t>(rng_.below(s.prompts)),
				      1 + static_cast<uint32_t>(rng_.below(s.chunks)), lease,
				      lease ? draw_lease() : 0);
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
	void touch()
	{
		const Space &s = space();
		Client &c = client();
		std::vector<kvh_key> keys = c.held_keys(1 +
							static_cast<uint32_t>(rng_.below(8)));

		if (keys.empty() || rng_.one_in(2))
			keys = some_keys(s, static_cast<uint32_t>(rng_.below(s.ranks)));
		c.touch(keys);
		if (rng_.one_in(2))
			c.release(16, false);
	}
	/* With nothing else under way: then it has to tell of each store that failed since
	 * the flush before. */
	void flush_alone()
	{
		for (const auto &c : clients_)
			if (c->changes())
				return; /* a drain may wait for an adapter that is dead */
		finish_jobs();
		client().flush();
		finish_jobs();
		const Told now = {truth_.flushed, truth_.erased, truth_.put_failed()};
		if (now.flushed == told_.flushed + 1 && now.erased == told_.erased &&
		    now.failed > told_.failed && truth_.flush_status == 0)
			violation("%llu stores failed, and a flush does not tell",
				  ull(now.failed - told_.failed));
		told_ = now;
	}
	void die()
	{
		const size_t at = rng_.below(clients_.size());

		if (clients_[at]->changes())
			return;    /* nobody would know what became of them */
		release_devices(); /* it waits for what is on the device */
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
			release_devices();
			new_pool(p->space, p->rank);
		}
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
		else if (n < 75)
			client().give_layer();
		else if (n < 84)
			(void)client().poll(1 + static_cast<uint32_t>(rng_.below(16)));
		else if (n < 87)
			pass();
		else
			rarely();
	}
	void rarely()
	{
		switch (rng_.below(28)) {
		case 0: die(); break;
		case 1: unregister(); break;
		case 2: release_orphan(); break;
		case 3:
			if (!truth_.adapters.empty() || !calm())
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
		case 11:
		case 12: client().flush(); break;
		case 13: flush_alone(); break;
		case 17:
		case 18:
		case 19: set_option(); break;
		case 20:
		case 21:
			if (!calm())
				limit();
			break;
		case 22:
		case 23:
		case 24: change_adapters(client()); break;
		case 25: client().space_erase(space()); break;
		case 14:
		case 15:
		case 16: touch(); break;
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
		release_devices();
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
		truth_.forget();
		told_ = Told();
		open();
	}

	struct Told {
		uint64_t flushed = 0, erased = 0, failed = 0;
	} told_; /* as of the last flush_alone */
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
