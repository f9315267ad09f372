/* SPDX-License-Identifier: Apache-2.0 */
/*
 * defer.h - the table of chunks that wait for their turn's end; defer.c has what
 * is done with it. The controller's thread.
 */
#ifndef KVH_HOST_DEFER_H
#define KVH_HOST_DEFER_H

#include "host/cells.h"

#define KVH_DEFER_BUCKETS 4096u

struct kvh_deferred;

/* n == entries in the buckets == entries from oldest to newest */
struct kvh_defer {
	struct kvh_deferred *buckets[KVH_DEFER_BUCKETS];
	struct kvh_deferred *oldest, *newest;
	uint32_t n;
	struct kvh_cells cells;
};

#endif
