/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_client.h - a client of the simulated engine: a queue, its jobs, the leases
 * it holds. Every call, event and status is held to kvhoist.h here: one terminal
 * event a job and nothing after it, leases exactly where the usable prefix needs
 * them, statuses that the contract allows, bytes of an epoch that may be served.
 */
#ifndef KVH_TESTS_SIM_CLIENT_H
#define KVH_TESTS_SIM_CLIENT_H

#include "sim_universe.h"

#include <cerrno>
#include <list>
#include <set>

namespace sim
{

/* What has been done to the engine, and so may be an answer. */
struct Weather {
	bool memory_fails = false;  /* -ENOMEM from anywhere */
	bool device_fails = false;  /* calls and operations of the device fail */
	bool adapters_fail = false; /* erases may fail, stores may not reach L2 */
	bool calm() const
	{
		return sound() && !adapters_fail;
	}
	/* The host device's operations are memory too. */
	bool sound() const
	{
		return !memory_fails && !device_fails;
	}
};

/* What kvh_status has to say, summed up from what the calls said. */
struct Counts {
	uint64_t stored = 0, stored_bytes = 0, loaded = 0, loaded_bytes = 0;
	uint64_t exists = 0, erased_jobs = 0;
	bool exact = true; /* no job was forgotten with its client */
};

struct Lease {
	kvh_lease_t id;
	kvh_key key;
	const Space *space;
	uint32_t asked, got; /* epochs of its key then */
};

enum class Kind { STORE, PREFETCH, LOAD, ERASE, UNREGISTER };

struct Job {
	Kind kind;
	kvh_job_t id = KVH_NONE;
	Pool *pool = nullptr;
	uint32_t flags = 0;
	uint32_t seen = 0; /* event types, a bit each */
	bool cancelled = false;
	uint64_t deadline_ns = UINT64_MAX;
	std::vector<int32_t> status;
	/* store and load: a chunk each */
	std::vector<kvh_key> keys;
	std::vector<std::vector<uint32_t>> pages;
	std::vector<uint32_t> epochs; /* store: of the bytes. erase: its own */
	bool pages_free = false;
	std::vector<Lease> leases;   /* load: of each chunk */
	std::vector<uint32_t> asked; /* prefetch: epoch of each entry's key at the call */
	/* prefetch */
	const Space *space = nullptr;
	uint32_t prompt = 0, chunks = 0;
	std::vector<kvh_lease_t> got;
};

class Client
{
      public:
	Client(World &world, kvh_engine *engine, Keys &keys, Weather &weather, Counts &counts,
	       uint32_t capacity)
	    : world_(world), engine_(engine), keys_(keys), weather_(weather), counts_(counts),
	      capacity_(capacity)
	{
		int err = kvh_queue_open(engine, capacity, &queue_);

		if (err == -ENOMEM && weather.memory_fails)
			err = kvh_queue_open(engine, capacity,
					     &queue_); /* one fails at a time */
		if (err != 0)
			violation("queue_open: %d", err);
	}
	Client(const Client &) = delete;
	Client &operator=(const Client &) = delete;

	/* ---- calls ---- */

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
		began(job, kvh_store(queue_, pool.id, chunks.data(),
				     static_cast<uint32_t>(chunks.size()), &opts,
				     job.status.data(), &job.id));
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
		      uint64_t deadline_ns)
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
		opts.user_data = reinterpret_cast<uintptr_t>(&job);
		began(job,
		      kvh_prefetch(queue_, &prefix, &opts,
				   (flags & KVH_PREFETCH_WARM) != 0 ? nullptr : job.got.data(),
				   &job.id));
	}
	/* Chunks usable. */
	uint32_t lookup(const Space &space, uint32_t prompt, uint32_t chunks, bool lease)
	{
		const std::vector<kvh_hash> hashes = hashes_of(space, prompt, chunks);
		const kvh_prefix prefix = prefix_of(space, hashes);
		std::vector<kvh_lease_t> leases(KVH_ENTRIES(&prefix), 77);
		std::vector<uint8_t> where(KVH_ENTRIES(&prefix), 77);
		uint32_t usable = 77;
		const int err = kvh_lookup(queue_, &prefix, lease ? KVH_LOOKUP_LEASE : 0,
					   where.data(), lease ? leases.data() : nullptr,
					   &usable);

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
			take_leases(space, prompt, chunks, usable, leases, nullptr);
		return usable;
	}
	void erase(const std::vector<kvh_key> &keys)
	{
		Job &job = make(Kind::ERASE, nullptr, 0);

		job.keys = keys;
		job.status.assign(keys.size(), 77);
		const int err = kvh_erase(
			queue_, keys.data(), static_cast<uint32_t>(keys.size()),
			reinterpret_cast<uintptr_t>(&job), job.status.data(), &job.id);
		if (err == 0)
			for (const kvh_key &key : keys)
				job.epochs.push_back(keys_[key].erase());
		began(job, err);
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

		for (uint32_t i = 0; i < n && !held_.empty(); i++) {
			const size_t at = world_.rng().below(held_.size());

			ids.push_back(held_[at].id);
			want.push_back(0);
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
		const bool all = std::find(want.begin(), want.end(), -ESTALE) == want.end();
		if (err != (all ? 0 : -ESTALE) || status != want)
			violation("release of %zu leases, %s: %d", ids.size(),
				  all ? "all held" : "one of them not held", err);
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
			if (job.kind == Kind::ERASE)
				for (size_t i = 0; i < job.keys.size(); i++)
					keys_[job.keys[i]].erase_ended(job.epochs[i], false);
			if (job.kind == Kind::STORE)
				for (const kvh_key &key : job.keys)
					keys_[key].stored = false;
			free_pages(job);
			if (job.pool != nullptr)
				job.pool->users--;
		}
		jobs_.clear();
		for (const Lease &lease : held_)
			stale_.push_back(lease.id);
		held_.clear();
	}

	/* ---- events ---- */

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

      private:
	template <typename Fn>
	static void each_entry(const Space &space, uint32_t chunks, Fn fn)
	{
		for (uint32_t c = 0; c < chunks; c++)
			for (uint32_t g = 0; g < space.groups.size(); g++)
				for (uint32_t r = 0; r < space.ranks; r++)
					fn(c, g, r,
					   (c * space.groups.size() + g) * space.ranks + r);
	}
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
	Job &make(Kind kind, Pool *pool, uint32_t flags)
	{
		jobs_.emplace_back();
		jobs_.back().kind = kind;
		jobs_.back().pool = pool;
		jobs_.back().flags = flags;
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

	/* The call's result; whether there is a job. */
	bool began(Job &job, int err)
	{
		static const char *const names[] = {"store", "prefetch", "load", "erase",
						    "unregister"};

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
				     (err == -ENOMEM && weather_.memory_fails) ||
				     ((err == -ENODEV || err == -ENOMEM || err == -EIO) &&
				      weather_.device_fails && job.pool != nullptr);
		if (!allowed)
			violation("%s: %d", names[static_cast<int>(job.kind)], err);
		free_pages(job);
		forget(job);
		return false;
	}

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

			if (status == 0) {
				counts_.stored++;
				counts_.stored_bytes += payload(job, i);
				key.stored |= !erased;
			} else if (status == -EEXIST || status == -EINPROGRESS) {
				counts_.exists++;
			} else if (status == -ECANCELED) {
				if (!job.cancelled && !erased && job.pool->open)
					violation("a store that nobody cancelled");
			} else if (status != -ENOMEM &&
				   !(status == -EIO && !weather_.sound())) {
				violation("store: chunk %zu: %d", i, status);
			}
		}
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
					       job.got, &job.asked);
		if (n != e.n_ok)
			violation("prefetch: %u ok, %u leases", e.n_ok, n);
	}
	void erase_ended(Job &job, const kvh_event &e)
	{
		check_sums(job, e, true);
		for (size_t i = 0; i < job.keys.size(); i++) {
			const bool well = job.status[i] == 0 || job.status[i] == -ENOENT;

			if (!well && !job.cancelled && weather_.calm())
				violation("erase: %d", job.status[i]);
			keys_[job.keys[i]].erase_ended(job.epochs[i], well);
		}
	}
	/* Exactly what the usable prefix needs is leased. How many. */
	uint32_t take_leases(const Space &space, uint32_t prompt, uint32_t chunks,
			     uint32_t usable, const std::vector<kvh_lease_t> &leases,
			     const std::vector<uint32_t> *asked)
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
			world_.say("  lease of " + name_of(key));
			held_.push_back({leases[e], key, &space,
					 asked != nullptr ? (*asked)[e] : state.epoch(),
					 state.epoch()});
			n++;
		});
		return n;
	}

	World &world_;
	kvh_engine *engine_;
	Keys &keys_;
	Weather &weather_;
	Counts &counts_;
	const uint32_t capacity_;
	kvh_queue *queue_ = nullptr;
	std::list<Job> jobs_;
	std::vector<Lease> held_;
	std::vector<kvh_lease_t> stale_; /* were held, or never */
};

} // namespace sim

#endif
