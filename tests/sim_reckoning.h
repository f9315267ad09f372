/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_reckoning.h - what has to be so at the end of a schedule: all jobs have ended, all was
 * given back, books and counters are right, and what was stored is found.
 */
#ifndef KVH_TESTS_SIM_RECKONING_H
#define KVH_TESTS_SIM_RECKONING_H

#include "sim_changes.h"

namespace sim
{

class Reckoning : protected Changes
{
      protected:
	using Changes::Changes;

	void reckon()
	{
		world_.note("the reckoning");
		heal();
		finish_jobs();
		if (calm() && truth_.steady && truth_.lease_ns == 0)
			nothing_is_missed();
		for (auto &c : clients_) {
			if (truth_.lease_ns == 0)
				c->leave_timed();
			c->release(1u << 20, false);
		}
		quiet();
		check_counts();
		check_parts();
		check_limits();
		truth_.check_drained();
		for (auto &p : pools_)
			p->check_all();
		if (rng_.one_in(2) && !truth_.stuck)
			nothing_is_kept();
		weather_.adapters_fail = false; /* all was given back */
		stop(0);
	}
	void finish_jobs()
	{
		const bool ended = world_.until([&] {
			size_t jobs = 0;

			release_devices();
			release_held();
			for (auto &c : clients_)
				c->end_layers();
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
		bool ended;

		do { /* an adapter that has nothing to do is asked for guesses */
			ended = world_.until([&] { return is_quiet(); });
			world_.settle();
		} while (ended && !is_quiet());
		const kvh_status st = truth_.status();
		struct kvh_l1_stats l1;

		if (!ended)
			violation(
				"%llu stores, %llu doomed frames, %llu jobs, %llu buffers and "
				"%llu requests are left",
				ull(st.store_waiting), ull(st.l1_doomed), ull(st.jobs),
				ull(st.l2_quarantined), ull(inflight()));
		kvh_l1_stats(engine_->l1, &l1);
		if (l1.leases != 0 || st.l1_leases != 0 || (l1.holds != 0 && !truth_.stuck))
			violation("%llu leases and %llu holds of nobody", ull(l1.leases),
				  ull(l1.holds));
		if (!kvh_l1_check(engine_->l1))
			violation("L1's books are wrong");
	}
	bool is_quiet()
	{
		const kvh_status st = truth_.status();

		release_held();
		return st.store_waiting == 0 && st.jobs == 0 &&
		       (st.l1_leases == 0 || !kvh_l1_timed(engine_->l1)) &&
		       (truth_.stuck ||
			(st.l1_doomed == 0 && st.l2_quarantined == 0 && inflight() == 0));
	}
	/* Requests that adapters have, or are to get. */
	uint64_t inflight()
	{
		uint64_t n = 0;

		for (const Adapter &adapter : truth_.adapters) {
			const kvh_l2_status st = truth_.status_of(adapter);

			n += st.inflight + st.waiting;
		}
		return n;
	}
	void check_counts()
	{
		const kvh_status st = truth_.status();

		loaded_ += truth_.counts.loaded;
		if (!truth_.counts.exact)
			return;
		if (st.stored_chunks != truth_.counts.stored ||
		    st.stored_bytes != truth_.counts.stored_bytes)
			violation("%llu chunks stored, it counts %llu",
				  ull(truth_.counts.stored), ull(st.stored_chunks));
		if (st.loaded_chunks != truth_.counts.loaded ||
		    st.loaded_bytes != truth_.counts.loaded_bytes)
			violation("%llu chunks loaded, it counts %llu",
				  ull(truth_.counts.loaded), ull(st.loaded_chunks));
		if (st.store_exists != truth_.counts.exists)
			violation("%llu chunks were there, it counts %llu",
				  ull(truth_.counts.exists), ull(st.store_exists));
	}
	/* Calm: what was stored is there, in L1 or L2, and comes back. */
	void nothing_is_missed()
	{
		for (const Space &s : spaces_)
			for (uint32_t p = 0; p < s.prompts; p++) {
				const uint32_t want = s.usable(s.chunks, [&](auto c, auto g,
									     auto r) {
					const auto it = truth_.keys.find(s.key(p, c, g, r));

					return it != truth_.keys.end() &&
					       it->second.stored_at != 0;
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
		lift_limits(); /* pinned ones */
		(void)world_.until([&] {
			(void)kvh_l1_evict(engine_->l1, 0);
			return truth_.status().l1_frames == 0;
		});
		const kvh_status st = truth_.status();

		if (st.l1_used_bytes != 0 || st.l1_frames != 0)
			violation("%llu frames cannot be evicted by %s", ull(st.l1_frames),
				  engine_->opts.l1_eviction);
	}
};

} // namespace sim

#endif
