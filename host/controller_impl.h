/* SPDX-License-Identifier: Apache-2.0 */
/*
 * controller_impl.h - what the parts of the controller share. All of it belongs
 * to the controller's thread, but for what says otherwise.
 */
#ifndef KVH_HOST_CONTROLLER_IMPL_H
#define KVH_HOST_CONTROLLER_IMPL_H

#include "host/adapter.h"
#include "host/controller.h"
#include "host/prefetch.h"
#include "host/work.h"

#include <pthread.h>

struct kvh_store_item;

struct kvh_controller {
	struct kvh_controller_opts opts;
	struct kvh_l2_env env;
	struct kvh_loop *loop;
	struct kvh_workers *workers;
	struct kvh_adapter *adapters[KVH_ADAPTERS_MAX];
	uint32_t n_adapters;
	bool stopping;

	struct kvh_listener listener; /* any thread pushes */
	struct kvh_loop_source listener_source;
	struct kvh_published *published; /* heard, and not looked at */
	uint32_t n_published;

	struct kvh_store_item *items;       /* store.c: alive */
	bool put_failing[KVH_ADAPTERS_MAX]; /* its last PUT failed: said once */
	uint64_t next_retry_ns;             /* the earliest backoff, UINT64_MAX: none */

	struct kvh_prefetcher prefetcher;
	bool dirty;                   /* a prefetch has something to look at */
	struct delete_batch *deletes; /* erase.c: of which a DELETE is out */

	struct kvh_loop_work evict; /* any thread posts it, once at a time */
	bool evict_posted;          /* atomic */

	pthread_mutex_t lock; /* of settled and its condition */
	pthread_cond_t settled;
	uint64_t unsettled; /* stores published and not settled */
};

/* store.c */
/* Takes what was published, for the tick to look at: what was posted before it, an
 * erase of the same key, has run by then. */
void kvh_store_hear(struct kvh_controller *c);
void kvh_store_listen(struct kvh_controller *c); /* both at once, when stopping */
void kvh_store_tick(struct kvh_controller *c, uint64_t now_ns); /* sets next_retry_ns */
void kvh_store_stop(struct kvh_controller *c);   /* drops what waits for a retry or a seal */
void kvh_store_erased(struct kvh_controller *c); /* keys: theirs leave backoff */
void kvh_store_quarantine(struct kvh_controller *c); /* after a close that timed out */
/* any thread */
void kvh_store_unsettle(struct kvh_controller *c);
void kvh_store_settle(struct kvh_controller *c);

/* prefetch.c */
uint64_t kvh_prefetch_tick(struct kvh_controller *c, uint64_t now_ns);
void kvh_prefetch_stop(struct kvh_controller *c);

/* ---- between erase.c and the others ------------------------------------ */

/* Whether a DELETE of the key has not been answered: it is not to be read. */
bool kvh_erase_pending(const struct kvh_controller *c, const struct kvh_key *key);

#endif
