/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flush.h - waiting until all that was stored so far is in L2. Started by any
 * thread; the rest is the controller's.
 */
#ifndef KVH_HOST_FLUSH_H
#define KVH_HOST_FLUSH_H

#include "host/loop.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_controller;
struct kvh_epoch;

struct kvh_flush {
	/* Controller's thread, once: 0, -EIO (some of what was stored since the flush
	 * before is not where it was to be), -ECANCELED. */
	void (*ended)(struct kvh_flush *flush, int status);
	/* the controller's own */
	struct kvh_controller *controller;
	struct kvh_loop_work start;
	uint64_t target;         /* HEARING: the listener's count at the call */
	struct kvh_epoch *epoch; /* HEARING, PICKING: the one that follows */
	struct kvh_epoch *waits; /* WAITING */
	struct sync *sync;       /* SYNCING */
	struct kvh_flush *next;
};

/* What publishing calls that have returned before is covered. -ENOMEM */
int kvh_controller_flush(struct kvh_controller *c, struct kvh_flush *flush);
/* On the controller's thread, of one that has not ended. */
void kvh_flush_cancel(struct kvh_flush *flush);

void kvh_flush_tick(struct kvh_controller *c);
int kvh_epochs_open(struct kvh_controller *c);
void kvh_flush_close(struct kvh_controller *c);

#ifdef __cplusplus
}
#endif
#endif
