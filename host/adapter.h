/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adapter.h - the controller's side of one L2 adapter: queues in front of it,
 * deadlines, the order of writes to one key, and its circuit breaker. The
 * controller's thread, but for open, the adapter's own close, and
 * kvh_adapter_peek.
 *
 * Reads go before writes, each fair between spaces (fair.h); a write waits for
 * earlier writes to its key, but no longer than the deadline for one that is LATE.
 * While the breaker is not closed nothing is submitted but its trials: what waits
 * ends with -EHOSTDOWN, and what erases is OWED.
 */
#ifndef KVH_HOST_ADAPTER_H
#define KVH_HOST_ADAPTER_H

#include "host/breaker.h"
#include "host/loop.h"
#include "host/metrics.h"
#include "host/task.h"
#include "l2/l2.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_adapter;
struct kvh_arena;

struct kvh_adapter_opts {
	const char *spec; /* "name:conf" */
	const struct kvh_l2_env *env;
	struct kvh_arena *arena; /* its pieces are attached as they are pinned */
	struct kvh_metrics *metrics;
	uint64_t deadline_ns; /* of one request */
	uint32_t breaker;     /* failures in a row that open it; 0: none do */
};

/* Opens the adapter on this thread, which may scan a disk. */
int kvh_adapter_open(const struct kvh_adapter_opts *opts, struct kvh_adapter **adapter_p);
/* After the loop has stopped, with nothing waiting: closes and frees. -ETIMEDOUT:
 * LATE or INFLIGHT buffers stay out for ever; the struct and its tasks are leaked. */
int kvh_adapter_close(struct kvh_adapter *adapter, uint64_t deadline_ns);
/* The same in parts, while the loop runs: nothing is submitted or reaped from `retire`
 * on, which is on the loop's thread; `shut` may block, anywhere; `done` on the
 * loop's thread. What is left after a good end answers nothing (-EHOSTDOWN), until
 * `free`, when it is idle. */
void kvh_adapter_retire(struct kvh_adapter *adapter, struct kvh_loop *loop);
int kvh_adapter_shut(struct kvh_adapter *adapter, uint64_t deadline_ns);
void kvh_adapter_shut_done(struct kvh_adapter *adapter, bool closed);
void kvh_adapter_free(struct kvh_adapter *adapter);
/* Whether pieces of the arena have been pinned that it was not given. Gives it the next
 * one, if so: true. What it refuses is used unregistered, and counted. */
bool kvh_adapter_lacks(const struct kvh_adapter *adapter);
bool kvh_adapter_attach(struct kvh_adapter *adapter);
/* Its event fd, once. */
int kvh_adapter_watch(struct kvh_adapter *adapter, struct kvh_loop *loop);

void kvh_adapter_submit(struct kvh_adapter *adapter, struct kvh_l2_task *task);
/* WAITING: ends with -ECANCELED, in this call. INFLIGHT: asks the adapter. */
void kvh_adapter_cancel(struct kvh_adapter *adapter, struct kvh_l2_task *task);
/* Ends all that is WAITING with -ECANCELED, and all that is OWED (close). */
void kvh_adapter_drop_waiting(struct kvh_adapter *adapter);
/* Before a PUT: whether the queue has room for its bytes, of `limit` at most; maybe
 * after dropping others (-ENOBUFS) of a space that has more. Each true one is
 * settled once, when the PUT's buffer is back for good. */
bool kvh_adapter_admit(struct kvh_adapter *adapter, kvh_space_t space, uint64_t bytes,
		       uint64_t limit);
void kvh_adapter_settled(struct kvh_adapter *adapter, kvh_space_t space, uint64_t bytes);
/* Keeps later writes to the key back while the owner waits to try again. */
void kvh_adapter_key_hold(struct kvh_adapter *adapter, const struct kvh_key *key);
void kvh_adapter_key_unhold(struct kvh_adapter *adapter, const struct kvh_key *key);

/* Feeds and reaps; finds late ones at every sweep. Returns when it wants to be
 * called next, UINT64_MAX: nothing is out. */
uint64_t kvh_adapter_tick(struct kvh_adapter *adapter, uint64_t now_ns);
/* Whether it has a DELETE or CLEAR: what peek finds may be about to go. */
bool kvh_adapter_erasing(const struct kvh_adapter *adapter);
/* WAITING or INFLIGHT. */
uint64_t kvh_adapter_busy(const struct kvh_adapter *adapter);
/* Whether no store is queued, in backoff, or out, and nothing is owed; whether nothing
 * at all is. */
bool kvh_adapter_drained(const struct kvh_adapter *adapter);
bool kvh_adapter_idle(const struct kvh_adapter *adapter);
/* Whether it is worth reading from: it is there, and its breaker closed. */
bool kvh_adapter_usable(const struct kvh_adapter *adapter);
enum kvh_breaker_state kvh_adapter_breaker(const struct kvh_adapter *adapter); /* any thread */

const struct kvh_l2_caps *kvh_adapter_caps(const struct kvh_adapter *adapter);
const char *kvh_adapter_name(const struct kvh_adapter *adapter);
const char *kvh_adapter_spec(const struct kvh_adapter *adapter);
/* A space's limits: 0, or what it says; 0 where it knows none. */
int kvh_adapter_limits(struct kvh_adapter *adapter, kvh_space_t space, uint64_t soft_bytes,
		       uint64_t hard_bytes);
void kvh_adapter_set_deadline(struct kvh_adapter *adapter, uint64_t deadline_ns);
/* Sets found[i] to 1 where the local index has the key, else leaves it. */
void kvh_adapter_peek(const struct kvh_adapter *adapter, const struct kvh_key *keys, uint32_t n,
		      uint8_t *found);

/* Counters that the controllers add to; relaxed atomics. */
struct kvh_adapter_counters {
	kvh_counter puts, put_bytes, put_failed, put_retried, put_dropped;
	kvh_counter gets, get_bytes, get_missed, get_failed, get_corrupt;
	kvh_counter hits;   /* entries of prefetches that came from here */
	kvh_counter hedged; /* reads that took too long, and were asked elsewhere */
	kvh_counter probes, deletes, delete_failed;
	kvh_counter timeouts;
	kvh_counter strays; /* completions of what was not out: late twice, or foreign */
	kvh_counter breaker_opened;
	kvh_counter breaker_refused; /* requests that ended because it was open */
	kvh_counter trials;
	kvh_counter erases_owed; /* gauge */
	kvh_counter breaker;     /* gauge: enum kvh_breaker_state */
	kvh_counter health;      /* gauge: the errno that it says itself, or 0 */
	kvh_counter unregistered;
	kvh_counter waiting, waiting_bytes;              /* gauges */
	kvh_counter inflight;                            /* gauge */
	kvh_counter used_bytes, capacity_bytes, objects; /* gauges, as of the last reap */
};
struct kvh_adapter_counters *kvh_adapter_counters(struct kvh_adapter *adapter);

#ifdef __cplusplus
}
#endif
#endif
