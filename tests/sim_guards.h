/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_guards.h - what the simulation may take from the library: memory, and the
 * guards themselves. The linker (--wrap, tests/CMakeLists.txt) sends the library's
 * calls here; without a mutant they go on to where they were going.
 *
 * A mutant is the library without one guard. A simulation that is worth anything
 * finds each of them soon: tests/sim_mutants_test.cc. Include once in a program.
 */
#ifndef KVH_TESTS_SIM_GUARDS_H
#define KVH_TESTS_SIM_GUARDS_H

#include "cuda/device.h"
#include "host/controller.h"
#include "host/l1_space.h"
#include "host/option.h"
#include "host/queue.h"
#include "sim_world.h"

#include <cerrno>
#include <cstdlib>

namespace sim
{

enum Mutant {
	NONE,
	NO_VERIFY,      /* what comes from L2 is published as it is */
	EARLY_PUBLISH,  /* a frame is published before its copy's event has fired */
	NO_RETRY_HOLD,  /* a PUT that failed is tried again after a DELETE of its key */
	NO_FETCH_ERASE, /* what is being read is published though it was erased */
	LEAKED_HOLD,    /* one of 40 holds is never given back */
	LEAKED_FRAME,   /* one of 4 frames whose writer failed is not given back */
	LEAKED_LEASES,  /* a client that dies keeps its leases */
	LOST_END,       /* one of 100 jobs ends without telling anybody */
	LOST_KICK,      /* the mover is not woken for a new move */
	EARLY_FLUSH,    /* a flush waits for nothing */
	QUIET_FLUSH,    /* a flush is not told that a store failed */
	LOST_SET,       /* L2's bounds are changed, and nobody tells the controller */
	LOOSE_SET,      /* what an option cannot be is taken for 0 */
	DRAIN_STORES,   /* an adapter that drains is given stores all the same */
	NO_SPACE_ERASE, /* what L1 has of a space stays when that is erased */
	NO_EXPIRY,      /* leases do not end by themselves */
	NO_QUOTA,       /* a space may have more of L1 than its hard limit */
	NO_TOUCH,       /* a touch says that it did, and does nothing */
	EARLY_LAYERS,   /* with one layer all are taken for there */
	MUTANTS
};

inline const char *mutant_name(int mutant)
{
	static const char *const names[MUTANTS] = {
		"none",           "no-verify",   "early-publish", "no-retry-hold",
		"no-fetch-erase", "leaked-hold", "leaked-frame",  "leaked-leases",
		"lost-end",       "lost-kick",   "early-flush",   "quiet-flush",
		"lost-set",       "loose-set",   "drain-stores",  "no-space-erase",
		"no-expiry",      "no-quota",    "no-touch",      "early-layers"};

	return names[mutant];
}

struct Guards {
	Mutant mutant = NONE;
	uint64_t fail_alloc_in = 0; /* the library's allocations from now; 0: none */
	/* What the library's own threads ask for while they complete work: memory, and
	 * room in the queue of the store controller. 0: none fails */
	uint64_t fail_inside_one_in = 0;
	uint64_t failed = 0; /* of all these */
	uint64_t n = 0;
	uint32_t adapters = 0; /* that were ever given stores, a bit each */
	uint64_t locked = 0;   /* L1 tells of a key under its shard's lock */
	Rng rng{0};

	void reset(uint64_t seed)
	{
		fail_alloc_in = fail_inside_one_in = n = 0;
		adapters = 0;
		rng = Rng(seed);
	}
	bool alloc_fails()
	{
		if (fail_alloc_in != 0 && --fail_alloc_in == 0) {
			failed++;
			return true;
		}
		return fails_inside();
	}
	bool fails_inside()
	{
		const auto *world = static_cast<World *>(::kvh_sim);
		const bool fails = fail_inside_one_in != 0 && world != nullptr &&
				   world->inside() && rng.one_in(fail_inside_one_in);

		failed += fails;
		return fails;
	}
	/* This time the guard is left out. */
	bool out(Mutant m, uint64_t one_in = 1)
	{
		return mutant == m && ++n % one_in == 0;
	}
};

inline Guards &guards()
{
	static Guards guards;

	return guards;
}

inline void yield()
{
	if (::kvh_sim != nullptr && guards().locked == 0)
		static_cast<World *>(::kvh_sim)->yield();
}

} // namespace sim

#define KVH_WRAP(result, name, params) \
	result __real_##name params;   \
	result __wrap_##name params;   \
	result __wrap_##name params

struct kvh_adapter;
struct kvh_clients;
struct kvh_controller;
struct kvh_epoch;
struct kvh_listener;
struct kvh_published;
struct kvh_mover;
struct kvh_move;

/* ---- where a user's thread may be interrupted ---- */

struct kvh_loop;
struct kvh_loop_work;

extern "C" {
KVH_WRAP(void, kvh_loop_post, (struct kvh_loop * loop, struct kvh_loop_work *work))
{
	sim::yield();
	__real_kvh_loop_post(loop, work);
}
KVH_WRAP(void, kvh_l1_tell, (struct kvh_l1 * l1, const struct kvh_key *key))
{
	sim::guards().locked++;
	__real_kvh_l1_tell(l1, key);
	sim::guards().locked--;
}
KVH_WRAP(uint32_t, kvh_l1_reserve,
	 (struct kvh_l1 * l1, struct kvh_l1_reserve *items, uint32_t n))
{
	sim::yield();
	return __real_kvh_l1_reserve(l1, items, n);
}
KVH_WRAP(int, kvh_mover_store,
	 (struct kvh_mover * mover, struct kvh_move *move, kvh_stream stream,
	  kvh_event_mark event))
{
	sim::yield();
	return __real_kvh_mover_store(mover, move, stream, event);
}
KVH_WRAP(int, kvh_mover_store_layer,
	 (struct kvh_mover * mover, struct kvh_move *move, uint32_t layer, kvh_stream stream,
	  kvh_event_mark event))
{
	sim::yield();
	if (sim::guards().out(sim::EARLY_LAYERS))
		layer = KVH_LAYER_ALL;
	return __real_kvh_mover_store_layer(mover, move, layer, stream, event);
}
KVH_WRAP(int, kvh_mover_load,
	 (struct kvh_mover * mover, struct kvh_move *move, kvh_stream stream,
	  kvh_event_mark event))
{
	sim::yield();
	return __real_kvh_mover_load(mover, move, stream, event);
}
}

/* ---- memory and guards ---- */

extern "C" {
KVH_WRAP(void *, malloc, (size_t n))
{
	return sim::guards().alloc_fails() ? nullptr : __real_malloc(n);
}
KVH_WRAP(void *, calloc, (size_t n, size_t size))
{
	return sim::guards().alloc_fails() ? nullptr : __real_calloc(n, size);
}
KVH_WRAP(void *, realloc, (void *mem, size_t n))
{
	return sim::guards().alloc_fails() ? nullptr : __real_realloc(mem, n);
}
KVH_WRAP(int, posix_memalign, (void **mem_p, size_t align, size_t n))
{
	return sim::guards().alloc_fails() ? ENOMEM : __real_posix_memalign(mem_p, align, n);
}
KVH_WRAP(int, kvh_listener_push,
	 (struct kvh_listener * listener, const struct kvh_published *items, uint32_t n))
{
	if (sim::guards().fails_inside())
		return -ENOMEM;
	return __real_kvh_listener_push(listener, items, n);
}
KVH_WRAP(int, kvh_frame_verify,
	 (const void *frame, uint64_t bytes, const struct kvh_key *key, const uint8_t *digest,
	  const char **what_p))
{
	if (sim::guards().out(sim::NO_VERIFY))
		return 0;
	return __real_kvh_frame_verify(frame, bytes, key, digest, what_p);
}
KVH_WRAP(int, kvh_mover_reached,
	 (struct kvh_mover * mover, kvh_event_mark event, kvh_stream stream))
{
	if (sim::guards().out(sim::EARLY_PUBLISH))
		return 1;
	return __real_kvh_mover_reached(mover, event, stream);
}
KVH_WRAP(void, kvh_adapter_key_hold, (struct kvh_adapter * adapter, const struct kvh_key *key))
{
	if (!sim::guards().out(sim::NO_RETRY_HOLD))
		__real_kvh_adapter_key_hold(adapter, key);
}
KVH_WRAP(void, kvh_adapter_key_unhold,
	 (struct kvh_adapter * adapter, const struct kvh_key *key))
{
	if (!sim::guards().out(sim::NO_RETRY_HOLD))
		__real_kvh_adapter_key_unhold(adapter, key);
}
KVH_WRAP(bool, kvh_l1_doomed, (const struct kvh_l1 *l1, kvh_frame frame))
{
	return !sim::guards().out(sim::NO_RETRY_HOLD) && __real_kvh_l1_doomed(l1, frame);
}
KVH_WRAP(void, kvh_fetch_erase,
	 (struct kvh_controller * c, const struct kvh_key *keys, uint32_t n))
{
	if (!sim::guards().out(sim::NO_FETCH_ERASE))
		__real_kvh_fetch_erase(c, keys, n);
}
KVH_WRAP(void, kvh_l1_unhold, (struct kvh_l1 * l1, kvh_frame frame))
{
	if (!sim::guards().out(sim::LEAKED_HOLD, 40))
		__real_kvh_l1_unhold(l1, frame);
}
KVH_WRAP(void, kvh_l1_abort, (struct kvh_l1 * l1, kvh_frame frame))
{
	if (!sim::guards().out(sim::LEAKED_FRAME, 4))
		__real_kvh_l1_abort(l1, frame);
}
KVH_WRAP(int, kvh_client_close,
	 (struct kvh_clients * clients, uint32_t id, void (*ended)(void *arg, uint32_t rec),
	  void *arg))
{
	if (sim::guards().out(sim::LEAKED_LEASES))
		ended = [](void *, uint32_t) {};
	return __real_kvh_client_close(clients, id, ended, arg);
}
KVH_WRAP(void, kvh_job_end,
	 (struct kvh_job * job, int status, uint32_t n_ok, uint32_t usable, uint32_t flags))
{
	if (!sim::guards().out(sim::LOST_END, 100))
		__real_kvh_job_end(job, status, n_ok, usable, flags);
}
KVH_WRAP(void, kvh_epoch_leave,
	 (struct kvh_controller * c, struct kvh_epoch *epoch, bool failed))
{
	if (sim::guards().mutant != sim::EARLY_FLUSH)
		__real_kvh_epoch_leave(c, epoch,
				       failed && !sim::guards().out(sim::QUIET_FLUSH));
}
KVH_WRAP(struct kvh_epoch *, kvh_epoch_enter, (struct kvh_controller * c))
{
	struct kvh_epoch *epoch = __real_kvh_epoch_enter(c);

	if (sim::guards().out(sim::EARLY_FLUSH))
		__real_kvh_epoch_leave(c, epoch, false);
	return epoch;
}
KVH_WRAP(uint32_t, kvh_l1_touch,
	 (struct kvh_l1 * l1, const struct kvh_key *keys, uint32_t n, int32_t *status))
{
	uint32_t found = 0;

	if (!sim::guards().out(sim::NO_TOUCH))
		return __real_kvh_l1_touch(l1, keys, n, status);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t is = 0;

		kvh_l1_find(l1, &keys[i], 1, &is);
		status[i] = is == 1 ? 0 : is == 2 ? -EINPROGRESS : -ENOENT;
		found += is == 1;
	}
	return found;
}
KVH_WRAP(int, kvh_controller_set_bounds,
	 (struct kvh_controller * c, const struct kvh_controller_bounds *bounds))
{
	return sim::guards().out(sim::LOST_SET) ? 0
						: __real_kvh_controller_set_bounds(c, bounds);
}
KVH_WRAP(int, kvh_option_parse,
	 (const struct kvh_option *option, const char *text, struct kvh_option_value *value,
	  struct kvh_why *why))
{
	const int err = __real_kvh_option_parse(option, text, value, why);

	return sim::guards().out(sim::LOOSE_SET) ? 0 : err;
}
KVH_WRAP(uint32_t, kvh_policy_targets,
	 (const struct kvh_policy_use *use, const struct kvh_policy_chunk *chunk,
	  uint32_t adapters, kvh_counter *wrong))
{
	sim::guards().adapters |= adapters;
	if (sim::guards().out(sim::DRAIN_STORES))
		adapters = sim::guards().adapters;
	return __real_kvh_policy_targets(use, chunk, adapters, wrong);
}
KVH_WRAP(uint64_t, kvh_l1_erase_space, (struct kvh_l1 * l1, kvh_space_t space))
{
	return sim::guards().out(sim::NO_SPACE_ERASE) ? 0
						      : __real_kvh_l1_erase_space(l1, space);
}
KVH_WRAP(uint64_t, kvh_l1_expire, (struct kvh_l1 * l1, uint64_t now_ns))
{
	return sim::guards().out(sim::NO_EXPIRY) ? UINT64_MAX
						 : __real_kvh_l1_expire(l1, now_ns);
}
KVH_WRAP(uint32_t, kvh_space_charge,
	 (struct kvh_spaces * spaces, uint32_t number, uint64_t bytes, uint32_t n))
{
	const uint32_t got = __real_kvh_space_charge(spaces, number, bytes, n);

	if (!sim::guards().out(sim::NO_QUOTA))
		return got;
	spaces->space[number].used += (n - got) * bytes;
	return n;
}
KVH_WRAP(void, kvh_mover_kick, (struct kvh_mover * mover))
{
	if (!sim::guards().out(sim::LOST_KICK))
		__real_kvh_mover_kick(mover);
}
}

#endif
