/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listen.h - chunks just published, on their way to the store controller: any
 * thread pushes, the controller pops. In order. Every frame in it is held.
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
	 * answered for it. */
	void (*settled)(struct kvh_persist *persist);
};

struct kvh_published {
	kvh_frame frame;             /* with one hold, the controller's */
	struct kvh_persist *persist; /* or NULL */
};

/* n <= room;  eventfd is readable if n > 0 */
struct kvh_listener {
	pthread_mutex_t lock;
	struct kvh_published *items;
	uint32_t n, room;
	int fd;
};

int kvh_listener_open(struct kvh_listener *listener);
void kvh_listener_close(struct kvh_listener *listener);
/* -ENOMEM: nothing was pushed. */
int kvh_listener_push(struct kvh_listener *listener, const struct kvh_published *items,
		      uint32_t n);
/* Takes all: *items_p is the caller's to free, NULL if there are none. */
uint32_t kvh_listener_pop(struct kvh_listener *listener, struct kvh_published **items_p);
int kvh_listener_fd(const struct kvh_listener *listener);

#ifdef __cplusplus
}
#endif
#endif
