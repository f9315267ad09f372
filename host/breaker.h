/* SPDX-License-Identifier: Apache-2.0 */
/*
 * breaker.h - the circuit breaker of one adapter: whether it is worth asking. A
 * state machine over results and time, nothing else. The controller's thread.
 *
 *            `bound` failures in a row, or trip
 *    CLOSED -----------------------------------> OPEN <--------------.
 *      ^                                          | backoff is over  | the trial
 *      |               the trial went well        v                  | failed: backoff
 *      '--------------------------------------- TRIAL ---------------' doubled
 *
 * A result that is about the request (not there, no space, too large), or about this
 * process (no memory, no descriptor), is no failure of the adapter, and ends a row.
 */
#ifndef KVH_HOST_BREAKER_H
#define KVH_HOST_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_BREAKER_BACKOFF_NS     UINT64_C(100000000)   /* doubled with each failed trial */
#define KVH_BREAKER_BACKOFF_MAX_NS UINT64_C(10000000000) /* no longer than this */

enum kvh_breaker_state {
	KVH_BREAKER_CLOSED,
	KVH_BREAKER_OPEN,
	KVH_BREAKER_TRIAL, /* half-open: one request of its own decides */
	KVH_BREAKER_NSTATES
};

/* CLOSED <=> failures < bound and backoff_ns == 0, where bound is not 0 */
struct kvh_breaker {
	enum kvh_breaker_state state;
	uint32_t bound;    /* failures in a row that open it; 0: it never opens */
	uint32_t failures; /* in a row, CLOSED only */
	uint64_t backoff_ns;
	uint64_t trial_ns; /* OPEN: not before then */
	uint64_t opened;   /* times */
};

void kvh_breaker_init(struct kvh_breaker *b, uint32_t bound);
/* A request's result. True: this opened it. */
bool kvh_breaker_result(struct kvh_breaker *b, int status, uint64_t now_ns);
/* Opens it, or keeps it open, whatever the results were: the adapter says itself
 * that it is ill. True: this opened it. */
bool kvh_breaker_trip(struct kvh_breaker *b, uint64_t now_ns);
/* OPEN and time for a trial: TRIAL now, and the caller begins one. */
bool kvh_breaker_due(struct kvh_breaker *b, uint64_t now_ns);
/* How the trial ended. True: CLOSED now. */
bool kvh_breaker_tried(struct kvh_breaker *b, int status, uint64_t now_ns);

/* Whether a status speaks against the adapter. */
bool kvh_breaker_counts(int status);
const char *kvh_breaker_state_name(enum kvh_breaker_state state);

#ifdef __cplusplus
}
#endif
#endif
