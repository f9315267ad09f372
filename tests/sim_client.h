/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_client.h - a client of the simulated engine: its calls, and what each of them
 * may answer. sim_judge.h has what it is told later.
 */
#ifndef KVH_TESTS_SIM_CLIENT_H
#define KVH_TESTS_SIM_CLIENT_H

#include "sim_judge.h"

namespace sim
{

class Client : public Judge
{
      public:
	Client(World &world, Truth &truth, uint32_t capacity)
	    : Judge(world, truth), capacity_(capacity)
	{
		int err = kvh_queue_open(engine_, capacity, &queue_);

		if (err == -ENOMEM && weather_.memory_fails)
			err = kvh_queue_open(engine_, capacity,
					     &queue_); /* one fails at a time */
		if (err != 0)
			violation("queue_open: %d", err);
	}

	void store(Pool &pool, const std::vector<kvh_key> &keys, uint32_t flags)
	{
		std::vector<kvh_store_chunk> chunks;
		kvh_store_opts opts;
		Job &job = make(Kind::STORE, &pool, flags);

		for (const kvh_key &key : keys) {
			std::vector<uint32_t> pages;

			if (!pool.take(key.group, world_.rng(), &pages))
				break;
			job.keys.push_back(key);
			job.epochs.push_back(keys_[key].epoch());
			keys_[key].kind = pool.space.groups[key.group].kind;
			if ((flags & KVH_STORE_LAYERS) == 0)
				pool.fill(key.group, pages, Content(key, job.epochs.back()));
			job.pages.push_back(pages);
		}
		job.status.assign(job.keys.size(), 77);
		for (size_t i = 0; i < job.keys.size(); i++)
			chunks.push_back({job.keys[i],
					  {},
					  job.pages[i].data(),
					  static_cast<uint32_t>(job.pages[i].size()),
					  0});
		kvh_store_opts_init(&opts, sizeof(opts));
		opts.flags = flags;
		opts.user_data = reinterpret_cast<uintptr_t>(&job);
		if (chunks.empty())
			return forget(job);
		if ((flags & KVH_STORE_LAYERS) != 0)
			job.given = -1;
		began(job, kvh_store(queue_, pool.id, chunks.data(),
				     static_cast<uint32_t>(chunks.size()), &opts,
				     job.status.data(), &job.id));
	}
	/* To one of its stores by layers that lack some: the next, or all of them. */
	void give_layer()
	{
		for (Job &job : jobs_)
			if (lacks_layers(job) && world_.rng().one_in(2))
				return give(job,
					    world_.rng().one_in(4)
						    ? KVH_LAYER_ALL
						    : static_cast<uint32_t>(job.given + 1));
	}
	/* No store by layers is left that lacks any. */
	void end_layers()
	{
		for (Job &job : jobs_)
			if (lacks_layers(job))
				give(job, KVH_LAYER_ALL);
	}
	/* Some of the leases that it holds of the pool's space; with pages left out. */
	void load(Pool &pool, uint32_t n, uint32_t flags)
	{
		std::vector<kvh_load_chunk> chunks;
		kvh_load_opts opts;
		Job &job = make(Kind::LOAD, &pool, flags);

		for (size_t i = 0; i < held_.size() && job.keys.size() < n; i++) {
			const Lease &lease = held_[i];
			std::vector<uint32_t> pages;

			if (lease.space != &pool.space ||
			    (lease.key.rank != pool.rank && lease.key.rank != KVH_RANK_ANY) ||
			    !pool.take(lease.key.group, world_.rng(), &pages))
				continue;
			leave_out(pool, lease.key.group, &pages);
			job.keys.push_back(lease.key);
			job.pages.push_back(pages);
			job.leases.push_back(lease);
		}
		job.status.assign(job.keys.size(), 77);
		for (size_t i = 0; i < job.keys.size(); i++)
			chunks.push_back({job.leases[i].id, job.pages[i].data(),
					  static_cast<uint32_t>(job.pages[i].size()), 0});
		kvh_load_opts_init(&opts, sizeof(opts));
		opts.flags = flags;
		opts.user_data = reinterpret_cast<uintptr_t>(&job);
		if (chunks.empty())
			return forget(job);
		if (began(job, kvh_load(queue_, pool.id, chunks.data(),
					static_cast<uint32_t>(chunks.size()), &opts,
					job.status.data(), &job.id)) &&
		    (flags & KVH_LOAD_RELEASE) != 0)
			for (const Lease &lease : job.leases)
				drop(lease.id); /* stale once the job has ended */
	}
	void prefetch(const Space &space, uint32_t prompt, uint32_t chunks, uint32_t flags,
		      uint64_t deadline_ns, uint64_t lease_ns = 0)
	{
		const std::vector<kvh_hash> hashes = hashes_of(space, prompt, chunks);
		const kvh_prefix prefix = prefix_of(space, hashes);
		kvh_prefetch_opts opts;
		Job &job = make(Kind::PREFETCH, nullptr, flags);

		job.space = &space;
		job.prompt = prompt;
		job.chunks = chunks;
		job.got.assign(KVH_ENTRIES(&prefix), 77);
		each_entry(space, chunks, [&](uint32_t c, uint32_t g, uint32_t r, size_t e) {
			job.asked.resize(e + 1);
			job.asked[e] = keys_[space.key(prompt, c, g, r)].epoch();
		});
		if (deadline_ns != 0)
			job.deadline_ns = world_.now() + deadline_ns;
		kvh_prefetch_opts_init(&opts, sizeof(opts));
		opts.flags = flags;
		opts.deadline_ns = deadline_ns;
		opts.lease_ns = job.lease_ns = lease_ns;
		opts.user_data = reinterpret_cast<uintptr_t>(&job);
		began(job,
		      kvh_prefetch(queue_, &prefix, &opts,
				   (flags & KVH_PREFETCH_WARM) != 0 ? nullptr : job.got.data(),
				   &job.id));
	}
	/* Chunks usable. */
	uint32_t lookup(const Space &space, uint32_t prompt, uint32_t chunks, bool lease,
			uint64_t lease_ns = 0)
	{
		const std::vector<kvh_hash> hashes = hashes_of(space, prompt, chunks);
		const kvh_prefix prefix = prefix_of(space, hashes);
		std::vector<kvh_lease_t> leases(KVH_ENTRIES(&prefix), 77);
		std::vector<uint8_t> where(KVH_ENTRIES(&prefix), 77);
		uint32_t usable = 77;
		const uint64_t began_ns = world_.now();
		const int err = lease_ns != 0
					? kvh_lookup_lease(queue_, &prefix, lease_ns,
							   where.data(), leases.data(), &usable)
					: kvh_lookup(queue_, &prefix,
						     lease ? KVH_LOOKUP_LEASE : 0, where.data(),
						     lease ? leases.data() : nullptr, &usable);

		world_.note("lookup %s %u:%u%s is %d, %u usable", space.name.c_str(), prompt,
			    chunks, lease ? " with leases" : "", err, usable);
		if (err == -ENOMEM && weather_.memory_fails)
			return 0;
		if (err != 0)
			violation("lookup: %d", err);
		const uint32_t would = space.usable(chunks, [&](auto c, auto g, auto r) {
			const uint8_t w = where[KVH_ENTRY(&prefix, c, g, r)];

			return lease ? (w & KVH_IN_L1) != 0 : w != 0;
		});
		if (usable > would)
			violation("lookup: %u usable, of what it found are %u", usable, would);
		if (!lease && usable != would)
			violation("lookup: %u usable, of what it found are %u", usable, would);
		if (lease)
			take_leases(space, prompt, chunks, usable, leases, nullptr,
				    until(lease_ns, began_ns));
		return usable;
	}
	void erase(const std::vector<kvh_key> &keys)
	{
		Job &job = make(Kind::ERASE, nullptr, 0);

		job.keys = keys;
		job.status.assign(keys.size(), 77);
		truth_.erased++;
		const int err = kvh_erase(
			queue_, keys.data(), static_cast<uint32_t>(keys.size()),
			reinterpret_cast<uintptr_t>(&job), job.status.data(), &job.id);
		if (err == 0)
			for (const kvh_key &key : keys)
				job.epochs.push_back(keys_[key].erase());
		began(job, err);
	}
	void flush()
	{
		Job &job = make(Kind::FLUSH, nullptr, 0);

		truth_.flushes++;
		if (!began(job, kvh_flush(queue_, reinterpret_cast<uintptr_t>(&job), &job.id)))
			truth_.flushes--;
	}
	void touch(const std::vector<kvh_key> &keys)
	{
		const auto n = static_cast<uint32_t>(keys.size());
		std::vector<int32_t> want, status(n, 77);
		std::vector<uint8_t> found(n, 0);

		kvh_l1_find(engine_->l1, keys.data(), n, found.data());
		for (const uint8_t f : found)
			want.push_back(f == 1 ? 0 : f == 2 ? -EINPROGRESS : -ENOENT);
		const int is = kvh_touch(engine_, keys.data(), n, status.data());
		world_.note("touch of %u is %d", n, is);
		if (status != want || is != std::count(want.begin(), want.end(), 0))
			violation("touch of %u: %d", n, is);
		for (Lease &lease : held_)
			for (uint32_t i = 0; i < n; i++)
				lease.touched |= want[i] == 0 && memcmp(&keys[i], &lease.key,
									sizeof(keys[i])) == 0;
	}
	void space_erase(const Space &space)
	{
		Job &job = make(Kind::SPACE_ERASE, nullptr, 0);
		const int err = kvh_space_erase(queue_, space.id,
						reinterpret_cast<uintptr_t>(&job), &job.id);

		truth_.erased++;
		for (auto &[key, state] : keys_)
			if (err == 0 && key.space == space.id) {
				job.keys.push_back(key);
				job.epochs.push_back(state.erase());
			}
		began(job, err);
	}
	void l2_add(const std::string &name, const std::string &spec)
	{
		Job &job = make(Kind::L2_ADD, nullptr, 0);

		job.adapter = name;
		if (began(job, kvh_l2_add(queue_, spec.c_str(),
					  reinterpret_cast<uintptr_t>(&job), &job.id)))
			truth_.steady = false;
	}
	/* Drains, or with a time removes. */
	void l2_change(Adapter &adapter, const uint64_t *drain_ns)
	{
		Job &job = make(drain_ns != nullptr ? Kind::L2_REMOVE : Kind::L2_DRAIN, nullptr,
				0);
		const auto data = reinterpret_cast<uintptr_t>(&job);

		job.adapter = adapter.name;
		job.contested = adapter.changes > 0 || adapter.leaving;
		if (!began(job, drain_ns != nullptr
					? kvh_l2_remove(queue_, adapter.index, *drain_ns, data,
							&job.id)
					: kvh_l2_drain(queue_, adapter.index, data, &job.id)))
			return;
		adapter.changes++;
		adapter.draining = true;
		adapter.leaving |= drain_ns != nullptr;
		truth_.steady = false;
	}
	/* Whether it has asked for a change of adapters that has not ended. */
	bool changes() const
	{
		return std::any_of(jobs_.begin(), jobs_.end(),
				   [](const Job &j) { return j.kind >= Kind::L2_ADD; });
	}
	/* Lets go of leases that end by themselves. */
	void leave_timed()
	{
		for (size_t i = 0; i < held_.size();)
			if (held_[i].until_ns != UINT64_MAX)
				drop(held_[i].id);
			else
				i++;
	}
	void unregister(Pool &pool)
	{
		Job &job = make(Kind::UNREGISTER, &pool, 0);

		if (began(job, kvh_pool_unregister(queue_, pool.id,
						   reinterpret_cast<uintptr_t>(&job), &job.id)))
			pool.open = false;
	}
	void cancel()
	{
		if (jobs_.empty())
			return;
		auto it = jobs_.begin();
		std::advance(it, world_.rng().below(jobs_.size()));
		const int err = kvh_cancel(queue_, it->id);

		world_.note("cancel %llu is %d", ull(it->id), err);
		if (err != 0 && err != -ENOENT)
			violation("cancel: %d", err);
		it->cancelled |= err == 0;
	}
	/* One lease, or several; also such as are not held. */
	void release(uint32_t n, bool late)
	{
		std::vector<kvh_lease_t> ids;
		std::vector<int32_t> want, status;
		std::vector<kvh_key> touched;
		std::vector<uint64_t> until;

		for (uint32_t i = 0; i < n && !held_.empty(); i++) {
			const size_t at = world_.rng().below(held_.size());

			ids.push_back(held_[at].id);
			/* One that has ended by itself held nothing: its frame may have
			 * left, and another, that nobody has touched, come. */
			if (held_[at].touched && held_[at].until_ns > world_.now() &&
			    held_[at].got == keys_[held_[at].key].epoch() &&
			    truth_.policy != "buffer-only" && truth_.in_l1(held_[at].key))
				touched.push_back(held_[at].key);
			want.push_back(0);
			until.push_back(held_[at].until_ns);
			unhold(ids.back());
		}
		if (late && !ids.empty() && world_.rng().one_in(2)) {
			ids.push_back(ids[0]); /* twice */
			want.push_back(-ESTALE);
		} else if (late && !stale_.empty()) {
			ids.push_back(stale_[world_.rng().below(stale_.size())]);
			want.push_back(-ESTALE);
		}
		status.assign(ids.size(), 77);
		const int err = kvh_release(engine_, ids.data(), ids.size(), status.data());
		world_.note("release of %zu is %d", ids.size(), err);
		for (size_t i = 0; i < until.size(); i++)
			if (until[i] <= world_.now() && status[i] == -ESTALE)
				want[i] = -ESTALE; /* it has ended by itself */
		const bool all = std::find(want.begin(), want.end(), -ESTALE) == want.end();
		if (err != (all ? 0 : -ESTALE) || status != want)
			violation("release of %zu leases, %s: %d", ids.size(),
				  all ? "all held" : "one of them not held", err);
		for (const kvh_key &key : touched)
			if (!truth_.in_l1(key))
				violation("%s was touched, and went with its lease",
					  name_of(key).c_str());
	}
	/* Keys of leases that it holds. */
	std::vector<kvh_key> held_keys(uint32_t n)
	{
		std::vector<kvh_key> keys;

		for (size_t i = 0; i < held_.size() && i < n; i++)
			keys.push_back(held_[i].key);
		return keys;
	}
	/* The client dies, or its queue closes: its jobs end without an event. */
	void die()
	{
		world_.note("a client dies with %zu jobs and %zu leases", jobs_.size(),
			    held_.size());
		kvh_queue_close(queue_);
		gone();
	}
	/* Its engine has closed. */
	void gone()
	{
		queue_ = nullptr;
		counts_.exact &= jobs_.empty();
		for (Job &job : jobs_) {
			if (job.kind == Kind::ERASE || job.kind == Kind::SPACE_ERASE)
				for (size_t i = 0; i < job.keys.size(); i++)
					keys_[job.keys[i]].erase_ended(job.epochs[i], false);
			if (job.kind == Kind::FLUSH) {
				truth_.flushes--;
				truth_.flushed++;
				truth_.doubt = truth_.moment;
			}
			if (job.kind == Kind::STORE)
				for (const kvh_key &key : job.keys)
					keys_[key].forget();
			free_pages(job);
			if (job.pool != nullptr)
				job.pool->users--;
		}
		jobs_.clear();
		for (const Lease &lease : held_)
			stale_.push_back(lease.id);
		held_.clear();
	}

      private:
	static std::vector<kvh_hash> hashes_of(const Space &space, uint32_t prompt, uint32_t n)
	{
		std::vector<kvh_hash> hashes;

		for (uint32_t c = 0; c < n; c++)
			hashes.push_back(space.hash(prompt, c));
		return hashes;
	}
	static kvh_prefix prefix_of(const Space &space, const std::vector<kvh_hash> &hashes)
	{
		return {space.id, hashes.data(), static_cast<uint32_t>(hashes.size()),
			0,        space.ranks,   static_cast<uint32_t>(space.groups.size())};
	}
	static bool lacks_layers(const Job &job)
	{
		return job.kind == Kind::STORE &&
		       std::any_of(job.keys.begin(), job.keys.end(), [&](const kvh_key &key) {
			       return job.given + 1 < job.pool->space.groups[key.group].planes;
		       });
	}
	/* They are computed, and then said to be there. */
	void give(Job &job, uint32_t layer)
	{
		for (size_t i = 0; i < job.keys.size() && !job.pages_free; i++)
			job.pool->fill(job.keys[i].group, job.pages[i],
				       Content(job.keys[i], job.epochs[i]), job.given, layer);
		const int err = kvh_store_layer(queue_, job.id, layer, nullptr, nullptr);

		world_.note("layer %d of job %llu is %d", static_cast<int>(layer), ull(job.id),
			    err);
		if (err == 0 || err == -ENOENT)
			job.given = layer; /* or nobody wants it any more */
		const bool pends = std::count(job.status.begin(), job.status.end(),
					      KVH_PENDING) > 0;
		const bool allowed = err == 0 ||
				     (err == -ENOENT &&
				      (!pends || job.cancelled || !job.pool->open ||
				       !weather_.sound())) ||
				     (err == -ENOMEM && weather_.memory_fails) ||
				     ((err == -EIO || err == -ENOMEM) && weather_.device_fails);
		if (!allowed)
			violation("layer %u of a store: %d", layer, err);
	}
	Job &make(Kind kind, Pool *pool, uint32_t flags)
	{
		jobs_.emplace_back();
		jobs_.back().kind = kind;
		jobs_.back().pool = pool;
		jobs_.back().flags = flags;
		jobs_.back().began = ++truth_.moment;
		jobs_.back().began_ns = world_.now();
		return jobs_.back();
	}
	void forget(Job &job)
	{
		jobs_.remove_if([&job](const Job &j) { return &j == &job; });
	}
	void leave_out(Pool &pool, uint32_t group, std::vector<uint32_t> *pages)
	{
		for (uint32_t &page : *pages)
			if (world_.rng().one_in(16)) {
				pool.give(group, {page});
				page = KVH_PAGE_NONE;
			}
	}
	/* Those of the load that have ended by themselves. */
	bool lost_leases(const Job &job)
	{
		bool lost = false;

		for (size_t i = 0; i < job.leases.size(); i++) {
			if (job.status[i] != -ESTALE)
				continue;
			if (!may_be_over(job.leases[i]))
				violation("a lease that was held is not");
			unhold(job.leases[i].id);
			lost = true;
		}
		return lost;
	}
	/* The call's result; whether there is a job. */
	bool began(Job &job, int err)
	{
		static const char *const names[] = {
			"store", "prefetch",    "load",   "erase",    "unregister",
			"flush", "space erase", "l2_add", "l2_drain", "l2_remove"};

		world_.note("%s of %zu is %d, job %llu", names[static_cast<int>(job.kind)],
			    job.keys.size(), err, ull(err == 0 ? job.id : 0));
		for (size_t i = 0; i < job.keys.size(); i++)
			world_.say("  " + name_of(job.keys[i]) +
				   (i < job.epochs.size()
					    ? " epoch " + std::to_string(job.epochs[i])
					    : ""));
		const bool full = jobs_.size() - 1 == capacity_;
		if (err == 0 && full)
			violation("a job beyond the queue's capacity of %u", capacity_);
		if (err == 0) {
			if (job.pool != nullptr)
				job.pool->users++;
			return true;
		}
		const bool gone_pool = job.pool != nullptr && !job.pool->open;
		const bool allowed = (err == -EAGAIN && full) ||
				     (err == -ENOENT && gone_pool) ||
				     (err == -ESTALE && lost_leases(job)) ||
				     (err == -ENOMEM && weather_.memory_fails) ||
				     ((err == -ENODEV || err == -ENOMEM || err == -EIO) &&
				      weather_.device_fails && job.pool != nullptr);
		if (!allowed)
			violation("%s: %d", names[static_cast<int>(job.kind)], err);
		free_pages(job);
		forget(job);
		return false;
	}

	const uint32_t capacity_;
};

} // namespace sim

#endif
