/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adapter.h - the controller's side of one L2 adapter: queues in front of it,
 * deadlines, and the order of writes to one key. The controller's thread, but
 * for kvh_adapter_peek (any).
 *
 *                submit            accepted            reaped
 *    (owner) -----------> WAITING ----------> INFLIGHT -------> ended(buffer_free)
 *                            |                   |  deadline
 *                            | cancel            v         reaped
 *                            `--> ended         LATE ---------------> returned
 *                                                ended(!buffer_free) was called
 *
 * A task whose request ran past its deadline has ended for its owner, but its
 * buffer stays out until the adapter gives it back. Reads go before writes; a
 * write waits for earlier writes to its key, but no longer than the deadline for
 * one that is LATE.
 */
#ifndef KVH_HOST_ADAPTER_H
#define KVH_HOST_ADAPTER_H

#include "host/loop.h"
#include "host/metrics.h"
#include "l2/l2.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_adapter;
struct kvh_arena;

enum kvh_task_state { KVH_TASK_IDLE, KVH_TASK_WAITING, KVH_TASK_INFLIGHT, KVH_TASK_LATE };

/* The owner's memory from submit until ended (buffer_free) or returned. The
 * owner fills req.op, key, buf, len and the two functions. */
struct kvh_l2_task {
	struct kvh_l2_req req; /* first: reap gives it back */
	/* Once. Never called inside submit. May submit; must not cancel, but
	 * for what it cancels later, in its own tick. */
	void (*ended)(struct kvh_l2_task *task, int status, bool buffer_free);
	/* Once, only after ended with buffer_free false. */
	void (*returned)(struct kvh_l2_task *task);
	uint64_t deadline_ns; /* from submit; of writes: anew from acceptance */
	enum kvh_task_state state;
	struct kvh_l2_task *prev, *next;
};

struct kvh_adapter_opts {
	const char *spec; /* "name:conf" */
	const struct kvh_l2_env *env;
	struct kvh_arena *arena; /* its pieces are attached */
	struct kvh_metrics *metrics;
	uint64_t deadline_ns; /* of one request */
};

/* Opens the adapter on this thread, which may scan a disk. */
int kvh_adapter_open(const struct kvh_adapter_opts *opts, struct kvh_adapter **adapter_p);
/* After the loop has stopped: ends what waits, then closes. -ETIMEDOUT: LATE or
 * INFLIGHT buffers stay out for ever; the struct and its tasks are leaked. */
int kvh_adapter_close(struct kvh_adapter *adapter, uint64_t deadline_ns);
/* Its event fd, once, before the loop starts. */
int kvh_adapter_watch(struct kvh_adapter *adapter, struct kvh_loop *loop);

void kvh_adapter_submit(struct kvh_adapter *adapter, struct kvh_l2_task *task);
/* WAITING: ends with -ECANCELED, in this call. INFLIGHT: asks the adapter. */
void kvh_adapter_cancel(struct kvh_adapter *adapter, struct kvh_l2_task *task);
/* Ends all that is WAITING with -ECANCELED (close). */
void kvh_adapter_drop_waiting(struct kvh_adapter *adapter);
/* Keeps later writes to the key back while the owner waits to try again. */
void kvh_adapter_key_hold(struct kvh_adapter *adapter, const struct kvh_key *key);
void kvh_adapter_key_unhold(struct kvh_adapter *adapter, const struct kvh_key *key);

/* Feeds and reaps; finds late ones at every sweep. Returns when it wants to be
 * called next, UINT64_MAX: nothing is out. */
uint64_t kvh_adapter_tick(struct kvh_adapter *adapter, uint64_t now_ns);
/* Whether it has a DELETE: what peek finds may be about to go. */
bool kvh_adapter_deleting(const struct kvh_adapter *adapter);
/* WAITING or INFLIGHT. */
uint64_t kvh_adapter_busy(const struct kvh_adapter *adapter);

/* Whether it is worth reading from. */
bool kvh_adapter_usable(const struct kvh_adapter *adapter);

const struct kvh_l2_caps *kvh_adapter_caps(const struct kvh_adapter *adapter);
const char *kvh_adapter_name(const struct kvh_adapter *adapter);
/* Sets found[i] to 1 where the local index has the key, else leaves it. */
void kvh_adapter_peek(const struct kvh_adapter *adapter, const struct kvh_key *keys, uint32_t n,
		      uint8_t *found);

/* Counters that the controllers add to; relaxed atomics. */
struct kvh_adapter_counters {
	kvh_counter puts, put_bytes, put_failed, put_retried, put_dropped;
	kvh_counter gets, get_bytes, get_missed, get_failed, get_corrupt;
	kvh_counter hits;   /* entries that a read served, shared ones too */
	kvh_counter hedged; /* reads that took too long, and were asked elsewhere */
	kvh_counter probes, deletes, delete_failed;
	kvh_counter timeouts;
	kvh_counter unregistered;
	kvh_counter inflight;                            /* gauge */
	kvh_counter used_bytes, capacity_bytes, objects; /* gauges, as of the last reap */
};
struct kvh_adapter_counters *kvh_adapter_counters(struct kvh_adapter *adapter);

#ifdef __cplusplus
}
#endif
#endif
