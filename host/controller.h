/* SPDX-License-Identifier: Apache-2.0 */
/*
 * controller.h - the L2 side of the engine: one thread that owns every adapter
 * and runs the store, prefetch, erase and eviction controllers. It knows L1 and
 * adapters, and neither devices nor the user's jobs.
 *
 *   any thread                        the controller's thread
 *   published() --> listener -------> store.c     seal, PUT, retry, settle
 *   prefetch()  --> posted work ----> prefetch.c  probe, GET, verify, publish
 *   erase()     --> posted work ----> erase.c     DELETE everywhere
 *   pressure()  --> posted work ----> evict       between the watermarks
 */
#ifndef KVH_HOST_CONTROLLER_H
#define KVH_HOST_CONTROLLER_H

#include "host/change.h"
#include "host/clear.h"
#include "host/flush.h"
#include "host/l1.h"
#include "host/listen.h"
#include "host/loop.h"
#include "host/metrics.h"
#include "host/policy.h"
#include "host/prefix.h"
#include "host/source.h"
#include "host/space.h"
#include "l2/l2.h"

#include <stdbool.h>
#include <sys/queue.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_ADAPTERS_MAX KVH_L2_MAX

struct kvh_adapter;
struct kvh_pulse;
struct kvh_controller;
struct delete_batch;
struct kvh_adapter_opts;
struct kvh_limits;
struct kvh_probing;
struct kvh_wait;

struct kvh_controller_opts {
	struct kvh_l1 *l1;
	struct kvh_arena *arena;
	struct kvh_metrics *metrics;
	const struct kvh_policy *policy;
	struct kvh_space_table *spaces; /* NULL: policies see no group's shape */
	const char *const *l2;
	uint32_t n_l2;
	const struct kvh_l2_env *env; /* NULL: the system's calls */
	uint32_t workers;
	uint64_t deadline_ns; /* of an L2 request */
	uint32_t retries;     /* of a PUT */
	uint32_t breaker;     /* failures in a row that open an adapter's; 0: none */
	uint64_t queue_bytes; /* waiting for one adapter, or out with it */
	/* Watermarks, as parts of all that L1 was to have; relaxed atomics, they may change */
	uint64_t high_bytes, low_bytes;
	enum kvh_read_plan plan;
	uint64_t read_bytes; /* being read from one adapter at once; one frame always may */
	/* A read that takes longer is asked of another adapter; 0: as measured, UINT64_MAX:
	 * never. */
	uint64_t hedge_ns;
	uint32_t speculate; /* chunks read ahead of what was asked for; 0: none */
	uint64_t sweep_ns;  /* for lost wake-ups; 0: 100 ms, UINT64_MAX: never */
};

/* Opens the adapters, each on a helper thread, and starts the thread. */
int kvh_controller_open(const struct kvh_controller_opts *opts,
			struct kvh_controller **controller_p);
/* Flushes, and waits for it at most until deadline_ns. True: it has ended. */
bool kvh_controller_drain_wait(struct kvh_controller *c, uint64_t deadline_ns);
/* Ends prefetches with -ECANCELED, drops waiting stores, returns every hold and
 * joins. -ETIMEDOUT: an adapter keeps buffers: their frames are quarantined, and
 * the arena must not be unmapped. */
int kvh_controller_close(struct kvh_controller *c, uint64_t deadline_ns);

/* Places for adapters that were ever taken. The adapter of one, and what is asked of
 * it by another thread than the controller's, between lock and unlock. */
uint32_t kvh_controller_adapters(const struct kvh_controller *c);
enum kvh_seat kvh_controller_seat(const struct kvh_controller *c, uint32_t index);
void kvh_controller_lock_adapters(struct kvh_controller *c);
void kvh_controller_unlock_adapters(struct kvh_controller *c);
struct kvh_adapter *kvh_controller_adapter(const struct kvh_controller *c, uint32_t index);

/* Any thread: publishes FILLING frames, and hands them to the store controller if
 * there is an adapter. A `persist` (or NULL) is told once a chunk that it has
 * settled (also when nothing was to do, then in this call). status[i]: 0, or
 * -ECANCELED: it was erased meanwhile; nobody is told. Returns how many are 0. */
uint32_t kvh_controller_publish_many(struct kvh_controller *c,
				     const struct kvh_published *items, uint32_t n,
				     int32_t *status);
int kvh_controller_publish(struct kvh_controller *c, kvh_frame frame,
			   struct kvh_persist *persist);
/* Held frames that were loaded; the holds go with them. */
void kvh_controller_used(struct kvh_controller *c, const kvh_frame *frames, uint32_t n);
/* Whether it wants to know. Any thread. */
bool kvh_controller_wants_uses(const struct kvh_controller *c);

/* found[i] |= 1 where an adapter's local index has the key. Any thread. */
void kvh_controller_peek(struct kvh_controller *c, const struct kvh_key *keys, uint32_t n,
			 uint8_t *found);

/* ---- prefetch --------------------------------------------------------- */

/* One prefetch: made on the caller's thread, the controller's from
 * kvh_controller_prefetch until `ended`. */
struct kvh_prefetch {
	/* filled by the caller */
	struct kvh_prefix prefix; /* hashes: live until ended */
	const struct kvh_space *space;
	uint32_t client;
	kvh_lease_t *leases;  /* [KVH_ENTRIES], KVH_NONE; written before ended */
	uint64_t deadline_ns; /* absolute; UINT64_MAX: none */
	uint64_t lease_ns;    /* how long leases last from the end; 0: until released */
	bool want_found;
	bool temporary; /* what is read for it alone leaves L1 with its last lease */
	bool warm;      /* leases nothing in the end; client: kvh_prefetch_warm_client */
	/* Controller's thread; ended once, and then it touches the struct no more. */
	void (*found)(struct kvh_prefetch *p, uint32_t usable);
	void (*ended)(struct kvh_prefetch *p, int status, uint32_t usable, uint32_t n_ok);

	/* the controller's own, zeroed: prefetch.h */
	uint8_t *entry; /* [KVH_ENTRIES] enum kvh_entry_state; the caller's memory, zeroed */
	uint32_t *hits; /* [KVH_ENTRIES] KVH_HITS_*; the same */
	struct kvh_controller *controller;
	struct kvh_loop_work start;
	uint8_t phase, place;
	uint32_t usable;      /* chunks: nothing beyond is asked for; it only falls */
	uint32_t missing;     /* entries that those need and that are not leased */
	struct kvh_walk walk; /* of the phase */
	uint32_t askable;     /* adapters that have no index, a bit each */
	struct kvh_probing *probing;
	uint64_t probe_until_ns;
	LIST_HEAD(, kvh_wait) waits;
	bool found_sent, no_memory, expired, shrunk;
	bool had_turn; /* began reads in its last turn: others go first */
	TAILQ_ENTRY(kvh_prefetch) all, turn;
};

/* Leases at once, on the caller's thread, where L1 has all that the whole prefix
 * needs: true, and *n_ok_p leases were taken; else false, and none were. */
bool kvh_prefetch_from_l1(struct kvh_controller *c, struct kvh_prefetch *p, uint32_t *n_ok_p);
void kvh_controller_prefetch(struct kvh_controller *c, struct kvh_prefetch *p);
/* Holds the leases of warm-ups while they run. */
uint32_t kvh_prefetch_warm_client(const struct kvh_controller *c);
/* On the controller's thread (kvh_controller_post), of one that has not ended. */
void kvh_prefetch_cancel(struct kvh_prefetch *p);

/* ---- erase ------------------------------------------------------------ */

/* Deletes keys from all adapters. L1 was done by the caller, and is done once more
 * here: what was read meanwhile. */
struct kvh_erase {
	/* filled by the caller */
	const struct kvh_key *keys; /* live until ended and kvh_controller_erase is over */
	uint32_t n;
	int32_t *status; /* [n]: in 0 (L1 had it) or -ENOENT; out as kvh_erase says */
	void (*ended)(struct kvh_erase *e);
	/* the controller's own */
	struct kvh_loop_work start;
	struct kvh_controller *controller;
	struct delete_batch *batch;
	uint64_t pending;
};
void kvh_controller_erase(struct kvh_controller *c, struct kvh_erase *e);
/* On the controller's thread (kvh_controller_post), of one that has not ended: what
 * no adapter has answered is -ECANCELED. */
void kvh_erase_cancel(struct kvh_erase *e);

/* ---- changes while it runs -------------------------------------------- */

/* Any thread. What is refused leaves the old value in force.
 * -EINVAL: logged, with the value and what is allowed. -ENOMEM */
int kvh_controller_set_policy(struct kvh_controller *c, const char *name);
/* Usage above the new `high` is taken care of. */
int kvh_controller_set_watermarks(struct kvh_controller *c, uint64_t high_bytes,
				  uint64_t low_bytes);
struct kvh_controller_bounds {
	uint64_t deadline_ns; /* as in the options */
	uint32_t retries;
	uint64_t queue_bytes;
};
int kvh_controller_set_bounds(struct kvh_controller *c,
			      const struct kvh_controller_bounds *bounds);
/* Of a space in every adapter, also in those that come later; 0: none. Made first,
 * so that setting them cannot fail; else dropped. */
int kvh_controller_limits_make(struct kvh_controller *c, kvh_space_t space, uint64_t soft_bytes,
			       uint64_t hard_bytes, struct kvh_limits **limits_p);
void kvh_controller_limits_set(struct kvh_limits *limits);
void kvh_controller_limits_drop(struct kvh_limits *limits);

/* ---- leases with a deadline ------------------------------------------- */

/* Some were taken: the controller may be asleep beyond their deadline. Any thread. */
void kvh_controller_lease_timed(struct kvh_controller *c, uint64_t deadline_ns);

/* ---- hand over, pressure ---------------------------------------------- */

void kvh_controller_post(struct kvh_controller *c, struct kvh_loop_work *work);
struct kvh_workers *kvh_controller_workers(struct kvh_controller *c);
const struct kvh_pulse *kvh_controller_pulse(const struct kvh_controller *c);
/* Any thread, after L1 grew: wakes the evictor where usage is above `high`. */
void kvh_controller_pressure(struct kvh_controller *c);

#ifdef __cplusplus
}
#endif
#endif
