/* SPDX-License-Identifier: Apache-2.0 */
/*
 * controller_impl.h - what the parts of the controller share. All of it belongs
 * to the controller's thread, but for what says otherwise.
 */
#ifndef KVH_HOST_CONTROLLER_IMPL_H
#define KVH_HOST_CONTROLLER_IMPL_H

#include "host/adapter.h"
#include "host/cells.h"
#include "host/controller.h"
#include "host/defer.h"
#include "host/flush.h"
#include "host/keyset.h"
#include "host/policy.h"
#include "host/prefetch.h"
#include "host/work.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_limits;
struct kvh_put;
struct kvh_seal;
struct kvh_store_item;

struct kvh_controller {
	struct kvh_controller_opts opts;
	struct kvh_l2_env env;
	struct kvh_loop *loop;
	struct kvh_workers *workers;
	/* change.c: written by this thread, under `table`; read by others under it */
	pthread_rwlock_t table;
	struct kvh_adapter *adapters[KVH_ADAPTERS_MAX];
	uint32_t n_adapters; /* places that were ever taken; atomic */
	enum kvh_seat seats[KVH_ADAPTERS_MAX];
	uint32_t adapter_bits, storing_bits; /* OPEN or DRAINING; OPEN */
	struct kvh_change *changes; /* that wait for their turn, or for an adapter to drain */
	struct kvh_limits *limits;
	bool stopping;

	uint64_t now_ns; /* of this round */

	struct kvh_listener listener; /* any thread pushes */
	struct kvh_loop_source listener_source;

	/* store*.c: what was heard, [at_published, n_published) of it not looked at, and
	 * how many ever were */
	struct kvh_published *published;
	uint32_t n_published, at_published;
	uint64_t processed;
	uint64_t next_sweep_ns;
	struct kvh_policy_use policy;
	const struct kvh_space *space; /* the last one asked for */
	struct kvh_cells store_items, puts, seals;
	struct kvh_store_item *items; /* alive */
	struct kvh_seal *sealing;     /* not posted yet */
	struct kvh_put *backoff;
	uint64_t backoff_bytes[KVH_ADAPTERS_MAX];
	bool put_failing[KVH_ADAPTERS_MAX]; /* its last PUT failed: said once */
	uint64_t next_retry_ns;             /* the earliest backoff, UINT64_MAX: none */
	struct kvh_defer defer;

	/* store_demote.c: bytes of DEMOTED and PICKED items; whether any frame was made
	 * dirty since the last walk over all of them began; where the walk is. */
	struct kvh_loop_work demote; /* any thread posts it, once at a time */
	bool demote_posted;          /* atomic */
	uint64_t going_bytes;
	bool dirtied, walking, picking; /* picking: a flush waits for the walk */
	uint32_t walk_at;

	struct kvh_flush *flushes; /* flush.c: HEARING, by target */
	bool unheard;              /* atomic: the listener had no room, the next flush fails */
	struct kvh_epoch *epoch, *oldest_epoch;

	struct kvh_prefetcher prefetcher;
	bool dirty;                 /* a prefetch has something to look at */
	struct clear_batch *clears; /* clear.c */
	struct kvh_keyset erasing;  /* erase.c: keys of which a DELETE is out */

	struct kvh_loop_work expire; /* any thread posts it, once at a time */
	bool expire_posted;          /* atomic */
	uint64_t expire_not_before_ns;
	uint64_t expire_ns; /* atomic: not after the first deadline of a lease; then leases are
			     * looked at */

	struct kvh_loop_work evict; /* any thread posts it, once at a time */
	bool evict_posted;          /* atomic */

	struct kvh_loop_work attach; /* any thread posts it, once at a time */
	bool attach_posted;          /* atomic */

	uint32_t wants_uses; /* atomic: of the policy */
};

/* The lower watermark, of what L1 will have. Any thread. */
uint64_t kvh_controller_low(const struct kvh_controller *c,
			    const struct kvh_arena_stats *stats);
/* Adapters may lack pieces: they are given them soon. Any thread. */
void kvh_controller_attach(struct kvh_controller *c);

/* store.c */
int kvh_store_open(struct kvh_controller *c);
void kvh_store_close(struct kvh_controller *c);
/* Takes what was published, for the tick to look at: what was posted before it, an
 * erase of the same key, has run by then. */
void kvh_store_hear(struct kvh_controller *c);
uint64_t kvh_store_tick(struct kvh_controller *c, uint64_t now_ns);
void kvh_store_stop(struct kvh_controller *c);   /* drops what waits for a retry or a seal */
void kvh_store_erased(struct kvh_controller *c); /* keys: theirs leave backoff */
void kvh_store_quarantine(struct kvh_controller *c); /* after a close that timed out */

/* store_demote.c */
void kvh_demote_open(struct kvh_controller *c); /* L1 tells it from now on */
void kvh_demote_close(struct kvh_controller *c);

/* change.c */
/* Puts an open adapter into its place. */
void kvh_seat_open(struct kvh_controller *c, uint32_t index, struct kvh_adapter *adapter);
void kvh_controller_adapter_opts(const struct kvh_controller *c, const char *spec,
				 struct kvh_adapter_opts *opts);
/* settings.c */
void kvh_limits_to(struct kvh_controller *c, struct kvh_adapter *adapter);
void kvh_limits_close(struct kvh_controller *c);

/* prefetch.c */
uint64_t kvh_prefetch_tick(struct kvh_controller *c, uint64_t now_ns);
void kvh_prefetch_stop(struct kvh_controller *c);

/* ---- between erase.c and the others ------------------------------------ */

/* Whether a DELETE of the key has not been answered: it is not to be read. */
bool kvh_erase_pending(const struct kvh_controller *c, const struct kvh_key *key);

#ifdef __cplusplus
}
#endif
#endif
