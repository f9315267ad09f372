/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pump.h - keeps pages moving, by a thread of its own, while somebody measures what
 * that does to other kernels. Its owner's thread; the pump's own thread submits, and
 * sleeps until something has landed.
 *
 *            run                  pause
 *   PAUSED -------> RUNNING ---------------> PAUSED
 *                      \ a transfer failed: nothing more is submitted; run and
 *                        pause return its error
 *
 * A set is cut into a few transfers, which are all on their way, each one again as soon
 * as it has landed: the link never waits for a submission.
 */
#ifndef KVH_BENCH_PUMP_H
#define KVH_BENCH_PUMP_H

#include "bench/pack_set.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_pump_way {
	KVH_PUMP_COPY,    /* contiguous copies: the price of the link itself */
	KVH_PUMP_KVHOIST, /* the mover */
	KVH_PUMP_GENTLE,  /* the mover, told to be gentle: stores */
	KVH_PUMP_WAYS
};
/* "link", "kvhoist", "gentle". */
const char *kvh_pump_way_name(enum kvh_pump_way way);
/* Whether there is such a way in this direction. */
bool kvh_pump_way_goes(enum kvh_pump_way way, bool load);

/* The last landing of all. */
struct kvh_pump_mark {
	uint64_t at_ns;
	uint64_t bytes; /* landed since open */
};

struct kvh_pump;

/* Of the whole set, fresh from kvh_pack_set_open and the pump's until close. The link's
 * moves as many bytes of the pool itself, and a load of it leaves them changed: such a
 * set is of no other use.
 * -ENOSPC      too few chunks, or no room in the arena
 * -EOPNOTSUPP  gentle: the set's pages are no rows that are worth a copy
 * -ENOMEM, -EIO */
int kvh_pump_open(struct kvh_pack_set *set, enum kvh_pump_way way, bool load,
		  struct kvh_pump **pump_p);
/* Waits until everything has landed. NULL is fine. */
void kvh_pump_close(struct kvh_pump *pump);

/* Returns when each part has landed once: the link is full. 0, or the error. */
int kvh_pump_run(struct kvh_pump *pump);
/* Returns when nothing is on its way any more. 0, or the error. */
int kvh_pump_pause(struct kvh_pump *pump);
struct kvh_pump_mark kvh_pump_mark(struct kvh_pump *pump);
/* Paused. Whether the last transfers brought the right bytes, and no others; prints the
 * first difference. Only after a run. */
bool kvh_pump_check(struct kvh_pump *pump);

#ifdef __cplusplus
}
#endif
#endif
