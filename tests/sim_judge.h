/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_judge.h - what a client of the simulated engine is told, held to kvhoist.h: one
 * terminal event a job and nothing after it, leases exactly where the usable prefix
 * needs them, statuses that the contract allows, bytes of an epoch that may be served.
 */
#ifndef KVH_TESTS_SIM_JUDGE_H
#define KVH_TESTS_SIM_JUDGE_H

#include "sim_truth.h"

#include <cerrno>
#include <list>
#include <set>

namespace sim
{

class Judge
{
      public:
	Judge(World &world, Truth &truth)
	    : world_(world), truth_(truth), engine_(truth.engine), keys_(truth.keys),
	      weather_(truth.weather), counts_(truth.counts)
	{
	}
	Judge(const Judge &) = delete;
	Judge &operator=(const Judge &) = delete;

	uint32_t poll(uint32_t max)
	{
		std::vector<kvh_event> events(max);
		const int n = kvh_queue_poll(queue_, events.data(), max);

		if (n < 0)
			violation("poll: %d", n);
		for (int i = 0; i < n; i++)
			event(events[static_cast<size_t>(i)]);
		return static_cast<uint32_t>(n);
	}
	size_t jobs() const
	{
		return jobs_.size();
	}
	const std::vector<Lease> &held() const
	{
		return held_;
	}
	const std::vector<kvh_lease_t> &stale() const
	{
		return stale_;
	}
	uint64_t last_usable = 0; /* of the last prefetch that ended with 0 */

      protected:
	template <typename Fn>
	static void each_entry(const Space &space, uint32_t chunks, Fn fn)
	{
		for (uint32_t c = 0; c < chunks; c++)
			for (uint32_t g = 0; g < space.groups.size(); g++)
				for (uint32_t r = 0; r < space.ranks; r++)
					fn(c, g, r,
					   (c * space.groups.size() + g) * space.ranks + r);
	}
	void free_pages(Job &job)
	{
		if (job.pages_free || job.pool == nullptr)
			return;
		job.pages_free = true;
		for (size_t i = 0; i < job.pages.size(); i++) {
			std::vector<uint32_t> real;

			for (const uint32_t page : job.pages[i])
				if (page != KVH_PAGE_NONE)
					real.push_back(page);
			job.pool->give(job.keys[i].group, real);
		}
	}
	uint64_t until(uint64_t lease_ns, uint64_t from_ns) const
	{
		const uint64_t ns = lease_ns != 0 ? lease_ns : truth_.lease_ns;

		return ns != 0 ? from_ns + ns : UINT64_MAX;
	}
	bool may_be_over(const Lease &lease) const
	{
		return lease.until_ns <= world_.now();
	}
	void unhold(kvh_lease_t id)
	{
		stale_.push_back(id);
		drop(id);
	}
	void drop(kvh_lease_t id)
	{
		const auto it = std::find_if(held_.begin(), held_.end(),
					     [id](const Lease &l) { return l.id == id; });

		*it = held_.back();
		held_.pop_back();
	}

	uint32_t take_leases(const Space &space, uint32_t prompt, uint32_t chunks,
			     uint32_t usable, const std::vector<kvh_lease_t> &leases,
			     const std::vector<uint32_t> *asked, uint64_t until_ns)
	{
		uint32_t n = 0;

		if (usable > chunks)
			violation("%u of %u chunks usable", usable, chunks);
		each_entry(space, chunks, [&](uint32_t c, uint32_t g, uint32_t r, size_t e) {
			const bool none = r > 0 && space.groups[g].replicated;
			const bool needed = !none && space.needs(usable, c, g);
			const kvh_key key = space.key(prompt, c, g, r);
			const KeyState &state = keys_[key];

			if ((leases[e] != KVH_NONE) != needed)
				violation("chunk %u, group %u, rank %u of %u usable: %s", c, g,
					  r, usable, needed ? "no lease" : "a lease");
			if (!needed)
				return;
			world_.say("  lease of " + name_of(key) +
				   (until_ns != UINT64_MAX
					    ? " until " + std::to_string(until_ns)
					    : "") +
				   " #" + std::to_string(leases[e]));
			held_.push_back({leases[e], key, &space,
					 asked != nullptr ? (*asked)[e] : state.epoch(),
					 state.epoch(), false, until_ns});
			n++;
		});
		return n;
	}

	World &world_;
	Truth &truth_;
	kvh_engine *engine_;
	Keys &keys_;
	Weather &weather_;
	Counts &counts_;
	kvh_queue *queue_ = nullptr;
	std::list<Job> jobs_;
	std::vector<Lease> held_;
	std::vector<kvh_lease_t> stale_; /* were held, or never */

      private:
	void event(const kvh_event &e)
	{
		const auto it = std::find_if(jobs_.begin(), jobs_.end(),
					     [&e](const Job &j) { return j.id == e.job; });

		world_.note("event %u of job %llu: %d, %u ok, %u usable", e.type, ull(e.job),
			    e.status, e.n_ok, e.usable);
		if (it == jobs_.end())
			violation("event %u of job %llu, which has ended or never was", e.type,
				  ull(e.job));
		if (e.user_data != reinterpret_cast<uintptr_t>(&*it))
			violation("another job's user_data");
		if (e.type > KVH_EVENT_DONE || (it->seen & 1u << e.type) != 0)
			violation("event %u of job %llu twice", e.type, ull(e.job));
		it->seen |= 1u << e.type;
		truth_.moment++;
		for (size_t i = 0; i < it->status.size(); i++)
			world_.say("  " + name_of(it->keys[i]) + " is " +
				   std::to_string(it->status[i]));
		if (e.type != KVH_EVENT_DONE) {
			early(*it, e);
			return;
		}
		switch (it->kind) {
		case Kind::STORE: store_ended(*it, e); break;
		case Kind::LOAD: load_ended(*it, e); break;
		case Kind::PREFETCH: prefetch_ended(*it, e); break;
		case Kind::ERASE: erase_ended(*it, e); break;
		case Kind::UNREGISTER:
			if (e.status != 0)
				violation("unregister: %d", e.status);
			break;
		case Kind::FLUSH: flush_ended(*it, e); break;
		case Kind::SPACE_ERASE: space_erase_ended(*it, e); break;
		case Kind::L2_ADD: add_ended(*it, e); break;
		case Kind::L2_DRAIN:
		case Kind::L2_REMOVE: change_ended(*it, e); break;
		}
		free_pages(*it);
		if (it->pool != nullptr)
			it->pool->users--;
		jobs_.erase(it);
	}
	void early(Job &job, const kvh_event &e)
	{
		const bool asked = job.kind == Kind::STORE
					   ? (e.type == KVH_EVENT_PACKED &&
					      (job.flags & KVH_STORE_PACKED) != 0) ||
						     (e.type == KVH_EVENT_PERSISTED &&
						      (job.flags & KVH_STORE_PERSISTED) != 0)
					   : job.kind == Kind::PREFETCH &&
						     e.type == KVH_EVENT_FOUND &&
						     (job.flags & KVH_PREFETCH_FOUND) != 0;

		if (!asked)
			violation("event %u, which was not asked for", e.type);
		if (e.type == KVH_EVENT_PACKED)
			free_pages(job);
	}
	/* n_ok and the first error against status[]. */
	void check_sums(const Job &job, const kvh_event &e, bool exists_is_none)
	{
		uint32_t n_ok = 0;
		bool matches = e.status == 0, failed = false;

		for (const int32_t status : job.status) {
			const bool none = exists_is_none &&
					  (status == -EEXIST || status == -EINPROGRESS ||
					   status == -ENOENT);

			n_ok += status == 0;
			failed |= status != 0 && !none;
			matches |= e.status == status;
			if (status == 77 || status == KVH_PENDING)
				violation("a status that was not set");
		}
		const bool cancelled = e.status == -ECANCELED && job.cancelled;
		if (e.n_ok != n_ok || (!matches && !cancelled) || (failed && e.status == 0))
			violation("event: %u ok and %d, the statuses say otherwise", e.n_ok,
				  e.status);
	}
	void store_ended(Job &job, const kvh_event &e)
	{
		check_sums(job, e, true);
		if ((job.flags & KVH_STORE_PACKED) != 0 &&
		    (job.seen & 1u << KVH_EVENT_PACKED) == 0)
			violation("a store without its PACKED");
		for (size_t i = 0; i < job.keys.size(); i++) {
			const int status = job.status[i];
			KeyState &key = keys_[job.keys[i]];
			const bool erased = key.epoch() != job.epochs[i];

			if (status == 0 && job.given + 1 < planes_of(job, i))
				violation("a store ended without its layers");
			if (status == 0) {
				counts_.stored++;
				counts_.stored_bytes += payload(job, i);
				if (!erased)
					stored(job, key);
			} else if (status == -EEXIST || status == -EINPROGRESS) {
				counts_.exists++;
			} else if (status == -ECANCELED) {
				if (!job.cancelled && !erased && job.pool->open)
					violation("a store that nobody cancelled");
			} else if (status != -ENOMEM &&
				   !(status == -EDQUOT && weather_.limited) &&
				   !(status == -EAGAIN && weather_.demotes) &&
				   !(status == -EIO && !weather_.sound())) {
				violation("store: chunk %zu: %d", i, status);
			}
		}
	}
	void stored(const Job &job, KeyState &key)
	{
		key.stored_at = job.began;
		key.stored_end = truth_.moment;
	}
	static int64_t planes_of(const Job &job, size_t i)
	{
		return job.pool->space.groups[job.keys[i].group].planes;
	}
	uint64_t payload(const Job &job, size_t i) const
	{
		return job.pool->space.groups[job.keys[i].group].payload_bytes();
	}
	void load_ended(Job &job, const kvh_event &e)
	{
		check_sums(job, e, false);
		if ((job.flags & KVH_LOAD_RELEASE) != 0)
			for (const Lease &lease : job.leases)
				stale_.push_back(lease.id);
		for (size_t i = 0; i < job.keys.size(); i++) {
			if (job.status[i] == 0) {
				counts_.loaded++;
				counts_.loaded_bytes += payload(job, i);
				check_bytes(job, i);
			} else if (job.status[i] != -EIO || weather_.sound()) {
				violation("load: chunk %zu: %d", i, job.status[i]);
			}
		}
	}
	void check_bytes(Job &job, size_t i)
	{
		const Lease &lease = job.leases[i];

		const uint32_t oldest = keys_[lease.key].oldest(lease.asked);

		for (uint32_t epoch = lease.got;; epoch--) {
			if (job.pool->holds(lease.key.group, job.pages[i],
					    Content(lease.key, epoch))) {
				if (epoch < oldest)
					violation("bytes of epoch %u, erased; of %u..%u "
						  "allowed (%s)",
						  epoch, oldest, lease.got,
						  name_of(lease.key).c_str());
				return;
			}
			if (epoch == 0)
				violation(
					"wrong bytes were served (chunk %zu of %zu, group %u)",
					i, job.keys.size(), lease.key.group);
		}
	}
	void prefetch_ended(Job &job, const kvh_event &e)
	{
		const bool allowed = e.status == 0 || e.status == -ENOMEM ||
				     (e.status == -ETIMEDOUT &&
				      job.deadline_ns != UINT64_MAX) ||
				     (e.status == -ECANCELED && job.cancelled);

		if (!allowed)
			violation("prefetch: %d", e.status);
		if (e.status == -ETIMEDOUT && world_.now() < job.deadline_ns)
			violation("a prefetch timed out before its deadline");
		if (e.status == -ECANCELED && e.usable != 0)
			violation("a cancelled prefetch with %u chunks", e.usable);
		last_usable = e.status == 0 ? e.usable : 0;
		if ((job.flags & KVH_PREFETCH_WARM) != 0)
			return; /* leases nothing */
		const uint32_t n = take_leases(*job.space, job.prompt, job.chunks, e.usable,
					       job.got, &job.asked,
					       until(job.lease_ns, job.began_ns));
		if (n != e.n_ok)
			violation("prefetch: %u ok, %u leases", e.n_ok, n);
	}
	void flush_ended(const Job &job, const kvh_event &e)
	{
		const bool may_fail = !weather_.calm() || !truth_.roomy || !truth_.steady ||
				      !truth_.queue_roomy || truth_.timed_out();

		truth_.flushes--;
		truth_.flushed++;
		truth_.flush_status = e.status;
		if (e.status != 0 && !(e.status == -ECANCELED && job.cancelled) &&
		    !(e.status == -EIO && may_fail))
			violation("flush: %d", e.status);
		if (e.status != 0)
			truth_.doubt = truth_.moment;
		else if (truth_.flushes == 0) /* else another one is to be told */
			truth_.check_flushed(job.began);
	}
	void space_erase_ended(const Job &job, const kvh_event &e)
	{
		if (e.status != 0 && !(e.status == -ECANCELED && job.cancelled) &&
		    weather_.calm() && truth_.steady && !truth_.timed_out())
			violation("erase of a space: %d", e.status);
		for (size_t i = 0; i < job.keys.size(); i++)
			keys_[job.keys[i]].erase_ended(job.epochs[i], e.status == 0);
	}
	void add_ended(const Job &job, const kvh_event &e)
	{
		if (e.status != 0 && !(e.status == -ENOMEM && weather_.memory_fails))
			violation("l2_add: %d", e.status);
		if (e.status != 0)
			return;
		for (const Adapter &adapter : truth_.adapters)
			if (adapter.index == e.usable && !adapter.leaving)
				violation("%s has the index of %s", job.adapter.c_str(),
					  adapter.name.c_str());
		truth_.adapters.emplace_back();
		truth_.adapters.back().name = job.adapter;
		truth_.adapters.back().index = e.usable;
		truth_.adapters.back().since = truth_.moment;
	}
	void change_ended(const Job &job, const kvh_event &e)
	{
		Adapter *adapter = truth_.find(job.adapter);
		const bool removes = job.kind == Kind::L2_REMOVE;
		const bool allowed =
			e.status == 0 || (e.status == -ECANCELED && job.cancelled) ||
			((e.status == -EBUSY || e.status == -ENOENT) && job.contested) ||
			(removes && ((e.status == -ETIMEDOUT && weather_.adapters_fail) ||
				     (e.status == -EAGAIN && weather_.memory_fails)));

		if (!allowed)
			violation("%s of an adapter: %d", removes ? "remove" : "drain",
				  e.status);
		truth_.stuck |= e.status == -ETIMEDOUT;
		if (adapter == nullptr)
			return; /* it was removed by another */
		adapter->changes--;
		if (e.status == 0 && removes) {
			if (kvh_fault_find(job.adapter.c_str()) != nullptr)
				violation("%s was removed, and is open", job.adapter.c_str());
			truth_.adapters.remove_if(
				[&job](const Adapter &a) { return a.name == job.adapter; });
		} else if (e.status == 0 && adapter->drained_puts == UINT64_MAX) {
			adapter->drained_puts = truth_.puts_of(*adapter);
		}
	}
	void erase_ended(Job &job, const kvh_event &e)
	{
		check_sums(job, e, true);
		for (size_t i = 0; i < job.keys.size(); i++) {
			const bool well = job.status[i] == 0 || job.status[i] == -ENOENT;

			if (!well && !job.cancelled && weather_.calm() && truth_.steady)
				violation("erase: %d", job.status[i]);
			keys_[job.keys[i]].erase_ended(job.epochs[i], well);
		}
	}
};

} // namespace sim

#endif
