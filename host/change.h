/* SPDX-License-Identifier: Apache-2.0 */
/*
 * change.h - adapters that come and go while traffic flows. Started by any thread;
 * the rest is the controller's, but for opening and closing an adapter, each on a
 * thread of its own.
 *
 *           add                            drain               remove
 *   EMPTY ------> OPENING --opened--> OPEN ------> DRAINING --------> CLOSING
 *     ^              | failed          |  remove                         |
 *     |<-------------'                 '--> DRAINING                     |
 *     |<-----------------------------------------------------closed------'
 *                                                       STUCK <--timed out'
 *
 * A seat is an adapter's until it was removed; an EMPTY one whose requests are all
 * back may be another's then. DRAINING: no store is given to it, loads and erases
 * go on. STUCK: it would not close, and keeps buffers; its seat stays taken.
 */
#ifndef KVH_HOST_CHANGE_H
#define KVH_HOST_CHANGE_H

#include "host/adapter.h"
#include "host/loop.h"
#include "host/thread.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_controller;

enum kvh_seat {
	KVH_SEAT_EMPTY,
	KVH_SEAT_OPENING,
	KVH_SEAT_OPEN,
	KVH_SEAT_DRAINING,
	KVH_SEAT_CLOSING,
	KVH_SEAT_STUCK,
	KVH_SEATS
};

enum kvh_change_kind { KVH_CHANGE_ADD, KVH_CHANGE_DRAIN, KVH_CHANGE_REMOVE };

struct kvh_change {
	enum kvh_change_kind kind;
	const char *spec;        /* ADD: live until ended */
	uint32_t index;          /* DRAIN, REMOVE; out: ADD */
	uint64_t drain_until_ns; /* REMOVE: stores that wait are dropped then */
	/* Controller's thread, once.
	 * ADD: as its open says; -ENOSPC no seat; -EEXIST it is there already
	 * DRAIN, REMOVE: -ENOENT no such adapter; -EBUSY another change of it is under
	 * way; -ETIMEDOUT it would not close; -ECANCELED */
	void (*ended)(struct kvh_change *change, int status);
	/* the controller's own */
	struct kvh_controller *controller;
	struct kvh_loop_work start, done;
	struct kvh_thread thread;
	struct kvh_adapter_opts opts; /* ADD */
	struct kvh_adapter *adapter;
	int err;
	struct kvh_change *next; /* of those that wait for their turn, or for a drain */
};

/* Whether two specs name the same adapter and path. */
bool kvh_spec_same(const char *a, const char *b);

void kvh_controller_change(struct kvh_controller *c, struct kvh_change *change);
/* On the controller's thread, of one that has not ended: ends it, where it can be; an
 * adapter that drains goes on draining. */
void kvh_change_cancel(struct kvh_change *change);
/* Returns when it wants to be called next. */
uint64_t kvh_change_tick(struct kvh_controller *c, uint64_t now_ns);

#ifdef __cplusplus
}
#endif
#endif
