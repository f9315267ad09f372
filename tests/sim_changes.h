/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_changes.h - what a schedule changes while traffic flows: options, limits of
 * spaces, adapters. What is refused changes nothing; what is not is in force in the
 * parts at the end.
 */
#ifndef KVH_TESTS_SIM_CHANGES_H
#define KVH_TESTS_SIM_CHANGES_H

#include "host/controller_impl.h"
#include "sim_faults.h"

namespace sim
{

class Changes : protected Faults
{
      protected:
	using Faults::Faults;

	/* ---- options ---- */

	struct Setting {
		const char *name, *value;
		int err;
	};

	std::string get(const char *name)
	{
		char text[64];
		const int len = kvh_engine_get(engine_, name, text, sizeof(text));

		if (len < 0)
			violation("get %s: %d", name, len);
		return text;
	}
	/* Whether it was changed. */
	bool set(const Setting &setting)
	{
		const bool known = setting.err != -ENOENT;
		const std::string before = known ? get(setting.name) : "";
		const int want = known ? setting.err : -EINVAL;
		const int err = kvh_engine_set(engine_, setting.name, setting.value);

		world_.note("set %s to %s is %d", setting.name, setting.value, err);
		if (err != want && !(err == -ENOMEM && weather_.memory_fails))
			violation("set %s to %s: %d", setting.name, setting.value, err);
		if (known && get(setting.name) != (err == 0 ? setting.value : before))
			violation("set %s to %s is %d: it is %s, and was %s", setting.name,
				  setting.value, err, get(setting.name).c_str(),
				  before.c_str());
		return err == 0;
	}
	/* Of no effect on what has to be found afterwards. */
	void set_some()
	{
		static const Setting some[] = {
			{"l2.retries", "0", 0},
			{"l2.retries", "3", 0},
			{"l2.retries", "17", -EINVAL},
			{"l2.queue_bytes", "lots", -EINVAL},
			{"l2.deadline", "-1s", -EINVAL},
			{"health.bound", "2s", 0},
			{"health.bound", "1ms", -EINVAL},
			{"l1.eviction", "lru", 0},
			{"l1.eviction", "s3-fifo", 0},
			{"l1.eviction", "arc", 0},
			{"l1.eviction", "mru", -EINVAL},
			{"store.policy", "write-through", -EINVAL},
			{"workers", "3", -EBUSY},
			{"l3.bytes", "1G", -ENOENT},
			{"gpu.store_rate", "0", 0},
			{"gpu.store_rate", "8M", 0},
			{"gpu.store_rate", "-1", -EINVAL},
			{"gpu.spin", "50us", 0},
		};

		(void)set(some[rng_.below(18)]);
	}
	void set_bounds()
	{
		static const Setting some[] = {
			{"l2.queue_bytes", "1M", 0},
			{"l2.queue_bytes", "64M", 0},
			{"l2.deadline", "150ms", 0},
			{"l2.deadline", "2s", 0},
		};

		truth_.queue_roomy = false;
		(void)set(some[rng_.below(4)]);
	}
	void set_watermark()
	{
		const bool high = rng_.one_in(2);
		const uint64_t value = 1 + rng_.below(110);
		const uint64_t other = std::stoull(
			get(high ? "watermark.low_pct" : "watermark.high_pct"));
		const bool well = high ? other < value && value <= 100 : value < other;
		const std::string text = std::to_string(value);

		(void)set({high ? "watermark.high_pct" : "watermark.low_pct", text.c_str(),
			   well ? 0 : -EINVAL});
	}
	void set_policy()
	{
		static const char *const policies[] = {"default",          "buffer-only",
						       "second-use",       "whole-prefix",
						       "deferred-windows", "write-back"};
		const char *const policy = policies[rng_.below(6)];

		if (!set({"store.policy", policy, 0}))
			return;
		truth_.policy = policy;
		truth_.policy_since = ++truth_.moment;
		weather_.demotes |= truth_.policy == "write-back";
	}
	void set_option()
	{
		if (calm() || rng_.one_in(2))
			set_some();
		else if (rng_.one_in(3))
			set_bounds();
		else if (rng_.one_in(2))
			set_watermark();
		else
			set_policy();
	}
	/* In the parts is what the options say. */
	void check_parts()
	{
		const kvh_engine_opts &o = engine_->opts;
		const struct kvh_controller *c = engine_->controller;
		struct kvh_arena_stats arena;

		kvh_arena_stats(engine_->arena, &arena);
		if (c->opts.deadline_ns != o.l2_deadline_ns ||
		    c->opts.retries != o.l2_retries || c->opts.queue_bytes != o.l2_queue_bytes)
			violation("L2's bounds are not those of the options");
		if (c->opts.high_bytes != arena.wanted_bytes * o.watermark_high_pct / 100 ||
		    c->opts.low_bytes != arena.wanted_bytes * o.watermark_low_pct / 100)
			violation("the watermarks are not those of the options");
		if (strcmp(c->policy.policy->name, o.policy) != 0)
			violation("the policy is %s, the option %s", c->policy.policy->name,
				  o.policy);
	}

	/* ---- limits of spaces ---- */

	void limit()
	{
		Space &space = spaces_[rng_.below(spaces_.size())];
		const uint64_t all = engine_->opts.l1_bytes;
		kvh_space_limits limits;

		kvh_space_limits_init(&limits, sizeof(limits));
		limits.l1_hard_bytes = rng_.one_in(4) ? 0 : rng_.below(all + all / 8);
		limits.l1_soft_bytes = rng_.one_in(2) ? 0 : rng_.below(all);
		limits.pinned = rng_.one_in(4);
		limits.l2_hard_bytes = rng_.one_in(2) ? 0 : rng_.below(2 * MIB);
		limits.l2_soft_bytes = rng_.one_in(2) ? 0 : rng_.below(2 * MIB);
		const int err = kvh_space_limits_set(engine_, space.id, &limits);
		world_.note("limits of %s are %d", space.name.c_str(), err);
		const bool wrong = limits.l1_hard_bytes > all || limits.l1_soft_bytes > all ||
				   (limits.l1_hard_bytes != 0 &&
				    limits.l1_soft_bytes > limits.l1_hard_bytes) ||
				   (limits.l2_hard_bytes != 0 &&
				    limits.l2_soft_bytes > limits.l2_hard_bytes) ||
				   (limits.pinned != 0 && limits.l1_hard_bytes == 0);
		const bool too_much = limits.pinned != 0; /* all pinned ones together */

		const bool allowed = err == (wrong ? -EINVAL : 0) ||
				     (err == -EINVAL && too_much) ||
				     (err == -ENOMEM && weather_.memory_fails);

		if (!allowed)
			violation("limits of %s: %d", space.name.c_str(), err);
		if (err != 0)
			return;
		weather_.limited = true;
		truth_.roomy = false;
		space.l1_hard = limits.l1_hard_bytes;
		space.l1_used = UINT64_MAX;
	}
	void lift_limits()
	{
		kvh_space_limits none;

		kvh_space_limits_init(&none, sizeof(none));
		for (Space &space : spaces_) {
			const int err = kvh_space_limits_set(engine_, space.id, &none);

			if (err != 0)
				violation("no limits for %s: %d", space.name.c_str(), err);
			space.l1_hard = 0;
		}
	}
	/* Above its hard limit a space only shrinks, and below it stays. */
	void check_limits()
	{
		for (Space &space : spaces_) {
			struct kvh_l1_space_stats stats;

			if (space.l1_hard == 0 ||
			    kvh_l1_space_stats(engine_->l1, space.id, &stats) != 0)
				continue;
			if (stats.limits.hard_bytes != space.l1_hard)
				violation("the limit of %s is %llu, not %llu",
					  space.name.c_str(), ull(stats.limits.hard_bytes),
					  ull(space.l1_hard));
			if (stats.used_bytes > std::max(space.l1_hard, space.l1_used))
				violation("%s has %llu bytes of L1, its limit is %llu",
					  space.name.c_str(), ull(stats.used_bytes),
					  ull(space.l1_hard));
			space.l1_used = stats.used_bytes;
		}
	}

	/* ---- adapters ---- */

	void change_adapters(Client &client)
	{
		static const uint64_t drains[] = {0, 0, 20 * MS, 4000 * MS};
		const uint64_t drain_ns = drains[rng_.below(4)];

		if (!changing_)
			return;
		if (truth_.adapters.size() < 4 && rng_.one_in(2)) {
			Adapter adapter;
			const std::string spec = new_spec(&adapter);

			client.l2_add(adapter.name, spec);
		} else if (!truth_.adapters.empty()) {
			Adapter &adapter = *std::next(
				truth_.adapters.begin(),
				static_cast<ptrdiff_t>(rng_.below(truth_.adapters.size())));

			/* Once it is removed its index may be another's. */
			if (!adapter.leaving)
				client.l2_change(adapter, rng_.one_in(2) ? &drain_ns : nullptr);
		}
	}
};

} // namespace sim

#endif
