// SPDX-License-Identifier: Apache-2.0
//
// controller_jobs.h - a prefetch and an erase as a test sees them: started, waited
// for, cancelled, and what they ended with.
#ifndef KVH_TESTS_CONTROLLER_JOBS_H
#define KVH_TESTS_CONTROLLER_JOBS_H

#include "tests/controller_harness.h"

#include <algorithm>

namespace ctl
{

// A prefetch and its end.
class Prefetch : public kvh_prefetch
{
      public:
	Prefetch(Rig &rig, std::vector<struct kvh_hash> hashes, uint32_t n_ranks = 1,
		 uint32_t first_rank = 0);
	~Prefetch()
	{
		release();
	}
	Prefetch(const Prefetch &) = delete;
	Prefetch &operator=(const Prefetch &) = delete;

	Prefetch &start();
	Prefetch &wait()
	{
		done.wait();
		return *this;
	}
	void cancel(); // returns when the controller has done it
	void release();
	kvh_lease_t lease(uint32_t chunk, uint32_t group = 0, uint32_t r = 0) const
	{
		return lease_[KVH_ENTRY(&prefix, chunk, group, r)];
	}
	size_t leased() const
	{
		return size_t(std::count_if(lease_.begin(), lease_.end(),
					    [](kvh_lease_t l) { return l != KVH_NONE; }));
	}

	int status = KVH_PENDING;
	uint32_t usable = 0, n_ok = 0;
	uint32_t found_usable = UINT32_MAX, n_found = 0;
	Count done;

      private:
	Rig &rig_;
	std::vector<struct kvh_hash> hash_;
	std::vector<kvh_lease_t> lease_;
	std::vector<uint8_t> entry_;
	std::vector<uint32_t> hits_;
};

// An erase of some keys, L1 included, and its end.
class Erase : public kvh_erase
{
      public:
	Erase(Rig &rig, std::vector<struct kvh_key> keys);
	Erase &start();
	Erase &wait()
	{
		done.wait();
		return *this;
	}
	void cancel();

	std::vector<int32_t> result;
	Count done;

      private:
	Rig &rig_;
	std::vector<struct kvh_key> key_;
};

inline Prefetch::Prefetch(Rig &rig, std::vector<struct kvh_hash> hashes, uint32_t n_ranks,
			  uint32_t first_rank)
    : kvh_prefetch(), rig_(rig), hash_(std::move(hashes))
{
	prefix.space = rig.space->id;
	prefix.hashes = hash_.data();
	prefix.n_chunks = uint32_t(hash_.size());
	prefix.first_rank = first_rank;
	prefix.n_ranks = n_ranks;
	prefix.n_groups = rig.space->n_groups;
	space = rig.space;
	client = rig.client;
	lease_.assign(KVH_ENTRIES(&prefix), KVH_NONE);
	entry_.assign(KVH_ENTRIES(&prefix), 0);
	hits_.assign(KVH_ENTRIES(&prefix), 0);
	leases = lease_.data();
	entry = entry_.data();
	hits = hits_.data();
	deadline_ns = UINT64_MAX;
	found = [](struct kvh_prefetch *base, uint32_t usable) {
		Prefetch *p = static_cast<Prefetch *>(base);

		p->found_usable = usable;
		p->n_found++;
	};
	ended = [](struct kvh_prefetch *base, int status, uint32_t usable, uint32_t n_ok) {
		Prefetch *p = static_cast<Prefetch *>(base);

		p->status = status;
		p->usable = usable;
		p->n_ok = n_ok;
		EXPECT_EQ(p->done.now(), 0u) << "ended twice";
		p->done.add();
	};
}

inline Prefetch &Prefetch::start()
{
	kvh_controller_prefetch(rig_.controller, this);
	return *this;
}

inline void Prefetch::cancel()
{
	rig_.on_loop([this] {
		if (done.now() == 0)
			kvh_prefetch_cancel(this);
	});
}

inline void Prefetch::release()
{
	for (kvh_lease_t &lease : lease_)
		if (lease != KVH_NONE) {
			EXPECT_EQ(kvh_l1_release(rig_.l1, lease), 0);
			lease = KVH_NONE;
		}
}

inline Erase::Erase(Rig &rig, std::vector<struct kvh_key> keys)
    : kvh_erase(), rig_(rig), key_(std::move(keys))
{
	kvh_erase::keys = key_.data();
	n = uint32_t(key_.size());
	result.resize(n);
	status = result.data();
	ended = [](struct kvh_erase *e) { static_cast<Erase *>(e)->done.add(); };
}

inline Erase &Erase::start()
{
	for (uint32_t i = 0; i < n; i++)
		result[i] = kvh_l1_erase(rig_.l1, &key_[i]);
	kvh_controller_erase(rig_.controller, this);
	return *this;
}

inline void Erase::cancel()
{
	rig_.on_loop([this] {
		if (done.now() == 0)
			kvh_erase_cancel(this);
	});
}

inline std::vector<struct kvh_hash> hashes(uint64_t n, uint64_t from = 0)
{
	std::vector<struct kvh_hash> all;

	for (uint64_t i = 0; i < n; i++)
		all.push_back(hash_of(from + i));
	return all;
}

} // namespace ctl

#endif
