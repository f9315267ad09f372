/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fair.h - what waits for one adapter, in order within a space, and fair between
 * spaces: deficit round robin by bytes. The controller's thread.
 *
 * Each space that has something here has a flow. Flows with waiting tasks stand in
 * a ring; one at the front may send what its deficit allows, then goes to the back
 * with a new quantum, which is the largest request so far: every turn moves at
 * least one, and a flood of one space delays another's task by one turn of it.
 *
 *   n     == sum of flows' waiting.n
 *   bytes == sum of flows' bytes <= limit, or one PUT alone
 *   a flow is in the ring <=> its waiting.n > 0
 *   a flow exists <=> waiting.n + out + admitted + pins > 0
 */
#ifndef KVH_HOST_FAIR_H
#define KVH_HOST_FAIR_H

#include "host/cells.h"
#include "host/task.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_FAIR_BUCKETS 256u

struct kvh_flow {
	kvh_space_t space;
	struct kvh_flow *chain;       /* of the bucket */
	struct kvh_flow *prev, *next; /* of the ring */
	struct kvh_task_list waiting;
	uint64_t deficit;  /* bytes it may send in this turn */
	uint64_t bytes;    /* of PUTs admitted */
	uint32_t admitted; /* PUTs */
	uint32_t out;      /* tasks that the adapter has */
	uint32_t pins;     /* somebody walks over it */
	bool clearing;     /* a CLEAR is out: all waits for it */
};

struct kvh_fair {
	struct kvh_flow *front; /* of the ring */
	uint32_t n_ring;
	bool in_turn; /* the front's turn was interrupted, and goes on */
	struct kvh_flow *buckets[KVH_FAIR_BUCKETS];
	struct kvh_cells cells; /* flows */
	struct kvh_flow spare;  /* for all spaces that find no memory for their own */
	uint64_t n, bytes;
	uint64_t quantum;
};

enum kvh_fed {
	KVH_FED_TAKEN,   /* it has left the queue */
	KVH_FED_PASSED,  /* stays; the next of its space may go before it */
	KVH_FED_BLOCKED, /* stays, and all of its space with it, for now */
	KVH_FED_FULL,    /* stays, and so does everything */
};

struct kvh_feeder {
	enum kvh_fed (*feed)(struct kvh_feeder *feeder, struct kvh_l2_task *task);
	/* The flow's turn is over: what was PASSED may be forgotten. */
	void (*turn_over)(struct kvh_feeder *feeder);
};

void kvh_fair_init(struct kvh_fair *fair);
void kvh_fair_free(struct kvh_fair *fair);

/* A task's way: add, then either remove, or sent and back. */
void kvh_fair_add(struct kvh_fair *fair, struct kvh_l2_task *task);
void kvh_fair_remove(struct kvh_fair *fair, struct kvh_l2_task *task);
void kvh_fair_sent(struct kvh_fair *fair, struct kvh_l2_task *task);
void kvh_fair_back(struct kvh_fair *fair, struct kvh_l2_task *task);

/* Counts a PUT's bytes in its space until settled. False: there is no room for it
 * within `limit`, and no space has much more than its own; or no memory. May call
 * `drop` for waiting PUTs, newest first, of the space that has most: it settles
 * them. */
bool kvh_fair_admit(struct kvh_fair *fair, kvh_space_t space, uint64_t bytes, uint64_t limit,
		    void (*drop)(void *arg, struct kvh_l2_task *task), void *arg);
void kvh_fair_settled(struct kvh_fair *fair, kvh_space_t space, uint64_t bytes);

/* Offers what waits, space by space. Returns false when it was told FULL. */
bool kvh_fair_feed(struct kvh_fair *fair, struct kvh_feeder *feeder);

/* Calls visit for each task that waits, a space's in order, until it returns false:
 * then the next space's. It may take that task out of the queue. */
void kvh_fair_each(struct kvh_fair *fair, bool (*visit)(void *arg, struct kvh_l2_task *task),
		   void *arg);

#ifdef __cplusplus
}
#endif
#endif
