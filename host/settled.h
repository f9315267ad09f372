/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settled.h - keys whose frames others have filled, or failed to: any thread
 * tells, the controller takes. It wakes the loop once until they were taken.
 */
#ifndef KVH_HOST_SETTLED_H
#define KVH_HOST_SETTLED_H

#include "host/loop.h"
#include "kvhoist.h"

#include <pthread.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* posted <=> n > 0 or forgot;  n <= room */
struct kvh_settled {
	struct kvh_loop *loop;
	struct kvh_loop_work wake;
	pthread_mutex_t lock; /* of all below */
	struct kvh_key *keys;
	uint32_t n, room;
	bool forgot; /* there was no memory: it may be any key */
	bool posted;
};

/* `wake` runs on the loop. */
void kvh_settled_open(struct kvh_settled *s, struct kvh_loop *loop,
		      void (*wake)(struct kvh_loop_work *work));
void kvh_settled_close(struct kvh_settled *s);
/* Any thread; takes no lock but its own and the loop's. `arg` is a kvh_settled. */
void kvh_settled_tell(void *arg, const struct kvh_key *key);
/* Takes all: *keys_p is the caller's to free, NULL if there are none. *forgot_p: it
 * may be any other, too. */
uint32_t kvh_settled_take(struct kvh_settled *s, struct kvh_key **keys_p, bool *forgot_p);

#ifdef __cplusplus
}
#endif
#endif
