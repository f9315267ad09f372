/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.h - the script of the fault adapter, and the handle by which a test
 * steers one that an engine has opened. docs/adapters.md has the language.
 * Any thread; a handle is valid until the adapter was closed.
 */
#ifndef KVH_L2_FAULT_H
#define KVH_L2_FAULT_H

#include "l2/l2.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_fault_action {
	KVH_FAULT_DELAY,   /* arg: milliseconds before the next adapter gets it */
	KVH_FAULT_FAIL,    /* arg: errno, positive; the next adapter never sees it */
	KVH_FAULT_CORRUPT, /* arg: first byte of the range to flip one bit in */
	KVH_FAULT_SHORT,   /* arg: 0 honest (-EIO), 1 lies (0, and a stale tail) */
	KVH_FAULT_REORDER, /* arg: completions handed over in reverse */
	KVH_FAULT_HANG,    /* arg: 0 until cancelled, closed or released, 1 only the last */
	KVH_FAULT_DIE,     /* this and all that end from here on: -EIO */
	KVH_FAULT_MUTE,    /* the event fd is never readable again */
	KVH_FAULT_ACTIONS
};

#define KVH_FAULT_ANY_OP UINT32_MAX
#define KVH_FAULT_OPS    (KVH_L2_FLUSH + 1)

/* Applies to the requests nth .. nth+count-1 of those accepted that match. */
struct kvh_fault_rule {
	uint32_t op;    /* enum kvh_l2_op or KVH_FAULT_ANY_OP */
	uint64_t nth;   /* from 1 */
	uint64_t count; /* UINT64_MAX: for ever */
	enum kvh_fault_action action;
	uint64_t arg;
	uint64_t seen; /* that matched */
};

/* "put@3x2:fail=EIO; get x*:delay=20" -> rules, malloc'ed; none is NULL and 0.
 * -EINVAL, logged with the rule. */
int kvh_fault_parse(const char *text, struct kvh_fault_rule **rules_p, uint32_t *n_p);

struct kvh_fault;

struct kvh_fault_stats {
	uint64_t accepted[KVH_FAULT_OPS];    /* by enum kvh_l2_op */
	uint64_t applied[KVH_FAULT_ACTIONS]; /* rules that took effect */
	uint64_t held;                       /* requests that hang now */
};

/* The open instance of that name (its path), the youngest; NULL: there is none. */
struct kvh_fault *kvh_fault_find(const char *name);

/* Replaces the script; its counts start anew. Requests on their way keep what
 * they were given. Also brings a dead adapter back; a mute one stays mute. */
int kvh_fault_set_script(struct kvh_fault *fault, const char *text);

/* Waits until at least n requests hang. */
void kvh_fault_wait_held(struct kvh_fault *fault, uint32_t n);

/* Lets all that hang go on to the next adapter. */
void kvh_fault_release(struct kvh_fault *fault);

void kvh_fault_read_stats(struct kvh_fault *fault, struct kvh_fault_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
