/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_impl.h - what the files of the store controller share: an item is one
 * chunk on its way to adapters, a put its way to one of them. The controller's
 * thread, but for the seal itself.
 */
#ifndef KVH_HOST_STORE_IMPL_H
#define KVH_HOST_STORE_IMPL_H

#include "host/controller_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_epoch;

struct kvh_put {
	struct kvh_l2_task task;
	struct kvh_store_item *item;
	struct kvh_put *sibling; /* the item's next */
	uint32_t adapter;
	uint32_t attempts;
	uint64_t retry_ns; /* in backoff until then; 0: is not */
	struct kvh_put *prev_backoff, *next_backoff;
};

/* pending + settled puts == n_puts;  out <= n_puts
 * stored, failed within targets, and no adapter in both
 * each put is admitted to its adapter's queue until its buffer is back */
struct kvh_store_item {
	struct kvh_controller *c;
	kvh_frame frame; /* held */
	struct kvh_persist *persist;
	uint32_t index; /* for persist */
	uint32_t group_kind, window_chunks;
	struct kvh_key key;
	void *data;
	uint64_t bytes;
	uint32_t targets, stored, failed; /* adapters, a bit each */
	uint32_t n_puts, pending;
	uint32_t out; /* puts past their deadline, whose adapter has the buffer still */
	enum kvh_heard heard;
	struct kvh_put *puts;
	struct kvh_epoch *epoch;
	struct kvh_store_item *prev, *next; /* of those alive */
	struct kvh_store_item *batch;       /* the next to be sealed with it */
};

/* ---- store.c ------------------------------------------------------------ */

/* A put is over: its adapter has the chunk, or does not. */
void kvh_item_put_settled(struct kvh_put *put, bool stored, bool buffer_free);
/* A late put's buffer is back. */
void kvh_item_put_back(struct kvh_put *put);
/* Takes a held frame, and asks the policy what to do with it. */
void kvh_store_heard(struct kvh_controller *c, const struct kvh_published *published);

/* ---- store_demote.c ----------------------------------------------------- */

/* A frame that L1 gave to be stored has been dealt with, and the hold with it.
 * `late`: the hold stays, an adapter reads it still. */
void kvh_demote_settled(struct kvh_controller *c, kvh_frame frame, uint64_t bytes, bool late);
/* The same of one that a flush has picked; `stored`: somewhere. The hold stays. */
void kvh_pick_settled(struct kvh_controller *c, kvh_frame frame, uint64_t bytes, bool stored);
/* Stores what L1 wants to have evicted; returns when to come again. */
uint64_t kvh_demote_tick(struct kvh_controller *c, uint64_t now_ns);
/* Stores dirty frames, for a flush; true: there are no more. */
bool kvh_demote_all(struct kvh_controller *c);
void kvh_demote_all_cancel(struct kvh_controller *c); /* that flush is not */
/* The policy wants the chunk to go when L1 evicts it. */
void kvh_demote_later(struct kvh_controller *c, kvh_frame frame);

/* ---- store_put.c -------------------------------------------------------- */

/* Submits each of an item's. Where it is to be dropped (stopping, erased) that is
 * counted instead, and frees it. */
void kvh_puts_submit(struct kvh_store_item *item);
/* Those whose backoff is over; all of them are dropped when stopping, and those that
 * were erased. */
void kvh_puts_retry(struct kvh_controller *c, uint64_t now_ns);

/* ---- store_seal.c ------------------------------------------------------- */

/* To be sealed by a worker with others, then submitted. */
void kvh_seal_add(struct kvh_store_item *item);
void kvh_seal_post(struct kvh_controller *c); /* what was added and not posted */

extern const size_t kvh_seal_size;

/* ---- defer.c ------------------------------------------------------------ */

/* Remembers a chunk until its turn ends, and forgets the one that it pushes out of
 * its prompt's window. */
void kvh_defer_add(struct kvh_controller *c, const struct kvh_policy_chunk *chunk);
/* Has those stored that have waited long enough; returns when to come again. */
uint64_t kvh_defer_tick(struct kvh_controller *c, uint64_t now_ns);
void kvh_defer_release(struct kvh_controller *c); /* all */

extern const size_t kvh_deferred_size;

/* ---- flush.c ------------------------------------------------------------ */

/* What a flush waits for: the stores between it and the one before. */
struct kvh_epoch *kvh_epoch_enter(struct kvh_controller *c);
void kvh_epoch_leave(struct kvh_controller *c, struct kvh_epoch *epoch, bool failed);

#ifdef __cplusplus
}
#endif

#endif
