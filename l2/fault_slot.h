/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault_slot.h - private to fault.c and fault_slot.c: the fault adapter's state
 * and the life of one request in it. All under fault->lock.
 *
 *            accepted             due                     taken by next
 *    FREE ------------> DELAYED -------> HELD ---> READY ---------------> NEXT
 *      ^                                release                            |
 *      |  reaped            n of them, or the last                  reaped |
 *    DONE <-------------------------- STACKED <----------------------------+
 *
 * DELAYED, HELD and STACKED only if a rule says so; DONE is reached from
 * everywhere, by failure, cancel or death.
 */
#ifndef KVH_L2_FAULT_SLOT_H
#define KVH_L2_FAULT_SLOT_H

#include "host/thread.h"
#include "l2/fault.h"
#include "l2/req.h"

enum slot_state {
	SLOT_FREE,
	SLOT_DELAYED, /* until due_ns */
	SLOT_HELD,    /* hangs */
	SLOT_READY,   /* next was full */
	SLOT_NEXT,    /* next has `twin` */
	SLOT_STACKED, /* ended, waits for others to overtake it */
	SLOT_DONE,    /* outer is in `done` */
	SLOT_STATES
};

enum shortness { SHORT_NOT, SHORT_HONEST, SHORT_LIES };
enum hanging { HANG_NOT, HANG_SOFT, HANG_HARD };

/* What the rules have in store for one request. */
struct plan {
	uint64_t delay_ms;
	int fail;              /* 0 or a negative errno */
	uint64_t corrupt_from; /* BYTE_NONE: intact */
	enum shortness shortness;
	enum hanging hanging;
	uint32_t reorder; /* 0: no */
};

struct slot {
	struct kvh_l2_req twin; /* what next sees; .owner is the slot */
	struct kvh_l2_req *outer;
	enum slot_state state;
	struct plan plan;
	uint64_t due_ns;
	void *copy;        /* what twin.buf is, where not outer->buf */
	struct slot *link; /* of the free list, or of the stack */
};

struct kvh_fault {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* n_state[SLOT_HELD] has changed */
	const struct kvh_l2_ops *next;
	void *next_self;
	struct kvh_l2_caps caps;
	int epoll, event, timer;
	char *name;
	uint64_t seed;
	bool dead, closing;
	struct kvh_fault_rule *rules;
	uint32_t n_rules;
	struct kvh_fault_stats stats;
	/* sum of n_state == n_slots */
	struct slot *slots, *free, *stack;
	uint32_t n_slots;
	uint32_t n_state[SLOT_STATES];
	uint32_t n_reorder; /* slots between accepted and done that are to be stacked */
	struct kvh_req_fifo done;
	struct kvh_fault *older; /* in the list of instances */
};

/* The one setter of a slot's state. */
void kvh_fault_slot_move(struct kvh_fault *fault, struct slot *slot, enum slot_state to);
/* FREE: plans it by the rules and sends it on its way. */
void kvh_fault_slot_start(struct kvh_fault *fault, struct slot *slot);
/* DELAYED, and due. */
void kvh_fault_slot_due(struct kvh_fault *fault, struct slot *slot);
/* READY: on to the next adapter, or to the end; stays READY if next is full. */
void kvh_fault_slot_forward(struct kvh_fault *fault, struct slot *slot);
/* NEXT: the twin was reaped. */
void kvh_fault_slot_returned(struct kvh_fault *fault, struct slot *slot);
/* To DONE. */
void kvh_fault_slot_end(struct kvh_fault *fault, struct slot *slot, int status);
/* DONE: outer was reaped. */
void kvh_fault_slot_free(struct kvh_fault *fault, struct slot *slot);
/* Unstacks when enough have come, or when no more can. */
void kvh_fault_stack_settle(struct kvh_fault *fault);

#endif
