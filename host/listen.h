/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listen.h - chunks on their way to the store controller: just published, used, or
 * chosen by L1's eviction. Any thread pushes, the controller pops. In order. Every
 * frame in it is held.
 */
#ifndef KVH_HOST_LISTEN_H
#define KVH_HOST_LISTEN_H

#include "host/l1.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Who waits for the adapters' answers (KVH_STORE_PERSISTED), or nobody. */
struct kvh_persist {
	/* Controller's thread, once a published frame, when every adapter has
	 * answered for it; `index` as it was published with. */
	void (*settled)(struct kvh_persist *persist, uint32_t index,
			const struct kvh_store_outcome *outcome);
};

enum kvh_heard {
	KVH_HEARD_STORED,   /* published by a store */
	KVH_HEARD_USED,     /* loaded */
	KVH_HEARD_TURN_END, /* the turn that it was deferred to has ended */
	KVH_HEARD_DEMOTED,  /* dirty, and L1 needs the room */
	KVH_HEARD_PICKED,   /* dirty, and there is a flush */
};

struct kvh_published {
	kvh_frame frame;             /* with one hold, the controller's */
	struct kvh_persist *persist; /* or NULL */
	uint32_t index;              /* for persist */
	enum kvh_heard heard;
};

/* Two arrays that change places: one is pushed to, one was popped.
 *   n <= room;  eventfd is readable if n > 0, but for a signal that was lost */
struct kvh_listener {
	pthread_mutex_t lock;
	struct kvh_published *items, *taken;
	uint32_t n, room, taken_room;
	uint64_t pushed; /* since open; atomic */
	int fd;
};

int kvh_listener_open(struct kvh_listener *listener);
void kvh_listener_close(struct kvh_listener *listener);
/* -ENOMEM: nothing was pushed. */
int kvh_listener_push(struct kvh_listener *listener, const struct kvh_published *items,
		      uint32_t n);
/* Takes all: *items_p is valid until the next pop, NULL if there are none. */
uint32_t kvh_listener_pop(struct kvh_listener *listener, struct kvh_published **items_p);
/* How many were ever pushed: all of them by calls that have returned. */
uint64_t kvh_listener_pushed(const struct kvh_listener *listener);
int kvh_listener_fd(const struct kvh_listener *listener);

#ifdef __cplusplus
}
#endif
#endif
