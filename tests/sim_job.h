/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_job.h - what the simulation remembers of what it asked for: jobs, leases, and
 * what was done to the engine that may explain an answer.
 */
#ifndef KVH_TESTS_SIM_JOB_H
#define KVH_TESTS_SIM_JOB_H

#include "sim_universe.h"

namespace sim
{

/* What has been done to the engine, and so may be an answer. */
struct Weather {
	bool memory_fails = false;  /* -ENOMEM from anywhere */
	bool device_fails = false;  /* calls and operations of the device fail */
	bool adapters_fail = false; /* erases may fail, stores may not reach L2 */
	bool limited = false;       /* a space has, or had, limits */
	bool demotes = false;       /* write-back: frames go to L2 before they can go */
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
	bool touched;        /* its chunk, since then */
	uint64_t until_ns;   /* may end by itself from here on; UINT64_MAX: does not */
};

enum class Kind {
	STORE,
	PREFETCH,
	LOAD,
	ERASE,
	UNREGISTER,
	FLUSH,
	SPACE_ERASE,
	L2_ADD,
	L2_DRAIN,
	L2_REMOVE
};

struct Job {
	Kind kind;
	kvh_job_t id = KVH_NONE;
	Pool *pool = nullptr;
	uint32_t flags = 0;
	uint32_t seen = 0;                /* event types, a bit each */
	uint64_t began = 0, began_ns = 0; /* the moment and the time of its call */
	bool cancelled = false;
	uint64_t deadline_ns = UINT64_MAX;
	std::vector<int32_t> status;
	/* store and load: a chunk each */
	std::vector<kvh_key> keys;
	std::vector<std::vector<uint32_t>> pages;
	std::vector<uint32_t> epochs; /* store: of the bytes. erase: its own */
	int64_t given = UINT32_MAX;   /* store: the last layer that is there, -1: none */
	std::string adapter;          /* changes of adapters: its name */
	bool contested = false;       /* another change of it was under way */
	bool pages_free = false;
	std::vector<Lease> leases;   /* load: of each chunk */
	std::vector<uint32_t> asked; /* prefetch: epoch of each entry's key at the call */
	/* prefetch */
	const Space *space = nullptr;
	uint64_t lease_ns = 0;
	uint32_t prompt = 0, chunks = 0;
	std::vector<kvh_lease_t> got;
};

} // namespace sim

#endif
