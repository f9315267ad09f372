/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clear.h - erasing all of a space: one CLEAR on every adapter. Started by any
 * thread; the rest is the controller's.
 */
#ifndef KVH_HOST_CLEAR_H
#define KVH_HOST_CLEAR_H

#include "host/loop.h"
#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_controller;
struct clear_batch;

struct kvh_clear {
	kvh_space_t space;
	/* Controller's thread, once: 0; the first adapter's error; -EOPNOTSUPP, one
	 * cannot clear; -ECANCELED. */
	void (*ended)(struct kvh_clear *clear, int status);
	/* the controller's own */
	struct kvh_controller *controller;
	struct kvh_loop_work start;
	struct clear_batch *batch;
};

/* L1 was done by the caller. */
void kvh_controller_clear(struct kvh_controller *c, struct kvh_clear *clear);
/* On the controller's thread, of one that has not ended; the CLEARs go on. */
void kvh_clear_cancel(struct kvh_clear *clear);

/* Whether a CLEAR of the space has not been answered: it is not to be read. */
bool kvh_clear_pending(const struct kvh_controller *c, kvh_space_t space);

#ifdef __cplusplus
}
#endif
#endif
