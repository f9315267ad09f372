/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fair.c - deficit round robin over the flows of spaces. The controller's thread.
 *
 * A flow costs a hash look-up when a task comes, and nothing else: tasks remember
 * theirs. Finding the flow with most bytes looks at all that wait, but only when
 * the queue is full.
 */
#include "host/fair.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#define SMALL_COST UINT64_C(4096) /* of a request without a buffer */

static uint64_t cost(const struct kvh_l2_task *task)
{
	return task->req.buf != NULL ? task->req.len : SMALL_COST;
}

/* ---- flows -------------------------------------------------------------- */

static struct kvh_flow **bucket(struct kvh_fair *fair, kvh_space_t space)
{
	return &fair->buckets[(space * UINT64_C(0x9E3779B97F4A7C15)) >> 56];
}
_Static_assert(KVH_FAIR_BUCKETS == 1u << 8, "bucket takes the top 8 bits");

static struct kvh_flow *flow_find(struct kvh_fair *fair, kvh_space_t space)
{
	struct kvh_flow *flow = *bucket(fair, space);

	while (flow != NULL && flow->space != space)
		flow = flow->chain;
	return flow;
}

/* NULL: no memory. */
static struct kvh_flow *flow_get(struct kvh_fair *fair, kvh_space_t space)
{
	struct kvh_flow *flow = flow_find(fair, space), **head;

	if (flow != NULL)
		return flow;
	flow = kvh_cells_take(&fair->cells);
	if (flow == NULL)
		return NULL;
	memset(flow, 0, sizeof(*flow));
	head = bucket(fair, space);
	flow->space = space;
	flow->chain = *head;
	*head = flow;
	return flow;
}

static void flow_put(struct kvh_fair *fair, struct kvh_flow *flow)
{
	struct kvh_flow **at;

	if (flow->waiting.n + flow->out + flow->admitted + flow->pins > 0 ||
	    flow == &fair->spare)
		return;
	assert(flow->bytes == 0 && !flow->clearing);
	for (at = bucket(fair, flow->space); *at != flow; at = &(*at)->chain)
		;
	*at = flow->chain;
	kvh_cells_give(&fair->cells, flow);
}

static void unpin(struct kvh_fair *fair, struct kvh_flow *flow)
{
	flow->pins--;
	flow_put(fair, flow);
}

/* ---- the ring ----------------------------------------------------------- */

static void ring_add(struct kvh_fair *fair, struct kvh_flow *flow)
{
	if (fair->front == NULL) {
		flow->prev = flow->next = flow;
		fair->front = flow;
	} else {
		flow->next = fair->front;
		flow->prev = fair->front->prev;
		flow->prev->next = flow;
		flow->next->prev = flow;
	}
	flow->deficit = 0;
	fair->n_ring++;
}

static void ring_remove(struct kvh_fair *fair, struct kvh_flow *flow)
{
	if (fair->front == flow) {
		fair->front = flow->next != flow ? flow->next : NULL;
		fair->in_turn = false;
	}
	flow->prev->next = flow->next;
	flow->next->prev = flow->prev;
	fair->n_ring--;
}

/* ---- tasks -------------------------------------------------------------- */

void kvh_fair_init(struct kvh_fair *fair)
{
	memset(fair, 0, sizeof(*fair));
	kvh_cells_init(&fair->cells, sizeof(struct kvh_flow), 16);
}

void kvh_fair_free(struct kvh_fair *fair)
{
	kvh_cells_free(&fair->cells);
}

void kvh_fair_add(struct kvh_fair *fair, struct kvh_l2_task *task)
{
	struct kvh_flow *flow = flow_get(fair, task->req.key.space);

	if (flow == NULL)
		flow = &fair->spare;
	task->flow = flow;
	kvh_tasks_add(&flow->waiting, task);
	fair->n++;
	if (flow->waiting.n == 1)
		ring_add(fair, flow);
}

static void take_out(struct kvh_fair *fair, struct kvh_l2_task *task)
{
	kvh_tasks_remove(&task->flow->waiting, task);
	fair->n--;
	if (task->flow->waiting.n == 0)
		ring_remove(fair, task->flow);
}

void kvh_fair_remove(struct kvh_fair *fair, struct kvh_l2_task *task)
{
	take_out(fair, task);
	flow_put(fair, task->flow);
	task->flow = NULL;
}

void kvh_fair_sent(struct kvh_fair *fair, struct kvh_l2_task *task)
{
	take_out(fair, task);
	task->flow->out++;
	task->flow->clearing = task->req.op == KVH_L2_CLEAR;
}

void kvh_fair_back(struct kvh_fair *fair, struct kvh_l2_task *task)
{
	struct kvh_flow *flow = task->flow;

	assert(flow->out > 0);
	flow->out--;
	if (task->req.op == KVH_L2_CLEAR)
		flow->clearing = false;
	task->flow = NULL;
	flow_put(fair, flow);
}

/* ---- bytes -------------------------------------------------------------- */

static struct kvh_flow *most_bytes(const struct kvh_fair *fair)
{
	struct kvh_flow *most = fair->front, *flow = fair->front;

	for (uint32_t i = 0; i < fair->n_ring; i++, flow = flow->next)
		if (flow->bytes > most->bytes)
			most = flow;
	return most;
}

/* False: it would take room from one that has no more than its own share. */
static bool make_room(struct kvh_fair *fair, const struct kvh_flow *flow, uint64_t bytes,
		      uint64_t limit, void (*drop)(void *arg, struct kvh_l2_task *task),
		      void *arg)
{
	while (fair->bytes > 0 && (fair->bytes > limit || bytes > limit - fair->bytes)) {
		struct kvh_flow *most = most_bytes(fair);
		struct kvh_l2_task *task;

		if (most == NULL || most->bytes <= flow->bytes + bytes)
			return false;
		task = most->waiting.tail;
		while (task != NULL && task->req.op != KVH_L2_PUT)
			task = task->prev;
		if (task == NULL)
			return false;
		drop(arg, task);
	}
	return true;
}

bool kvh_fair_admit(struct kvh_fair *fair, kvh_space_t space, uint64_t bytes, uint64_t limit,
		    void (*drop)(void *arg, struct kvh_l2_task *task), void *arg)
{
	struct kvh_flow *flow = flow_get(fair, space);
	bool room;

	if (flow == NULL)
		return false;
	flow->pins++;
	room = make_room(fair, flow, bytes, limit, drop, arg);
	if (room) {
		flow->admitted++;
		flow->bytes += bytes;
		fair->bytes += bytes;
	}
	unpin(fair, flow);
	return room;
}

void kvh_fair_settled(struct kvh_fair *fair, kvh_space_t space, uint64_t bytes)
{
	struct kvh_flow *flow = flow_find(fair, space);

	assert(flow != NULL && flow->admitted > 0 && flow->bytes >= bytes);
	flow->admitted--;
	flow->bytes -= bytes;
	fair->bytes -= bytes;
	flow_put(fair, flow);
}

/* ---- feeding ------------------------------------------------------------ */

/* One turn of a pinned flow; *moved says whether it sent anything. */
static enum kvh_fed feed_flow(struct kvh_fair *fair, struct kvh_flow *flow,
			      struct kvh_feeder *feeder, bool *moved)
{
	struct kvh_l2_task *task, *next;
	enum kvh_fed fed = KVH_FED_TAKEN;

	for (task = flow->waiting.head; task != NULL; task = next) {
		uint64_t bytes = cost(task);

		next = task->next;
		if (bytes > fair->quantum) {
			flow->deficit += bytes - fair->quantum;
			fair->quantum = bytes;
		}
		if (bytes > flow->deficit)
			return KVH_FED_TAKEN; /* the turn is over */
		fed = feeder->feed(feeder, task);
		if (fed == KVH_FED_TAKEN) {
			flow->deficit -= bytes;
			*moved = true;
		} else if (fed != KVH_FED_PASSED) {
			return fed;
		}
	}
	return fed;
}

bool kvh_fair_feed(struct kvh_fair *fair, struct kvh_feeder *feeder)
{
	uint32_t still = 0; /* flows in a row that could not move */
	enum kvh_fed fed = KVH_FED_TAKEN;

	while (fair->front != NULL && still < fair->n_ring && fed != KVH_FED_FULL) {
		struct kvh_flow *flow = fair->front;
		bool moved = false;

		if (!fair->in_turn)
			flow->deficit += fair->quantum;
		fair->in_turn = true;
		flow->pins++;
		fed = feed_flow(fair, flow, feeder, &moved);
		feeder->turn_over(feeder);
		still = moved ? 0 : still + 1;
		if (fed != KVH_FED_FULL && fair->front == flow) {
			fair->in_turn = false;
			fair->front = flow->next;
			if (!moved)
				flow->deficit = 0; /* what is blocked saves nothing up */
		}
		unpin(fair, flow);
	}
	return fed != KVH_FED_FULL;
}

void kvh_fair_each(struct kvh_fair *fair, bool (*visit)(void *arg, struct kvh_l2_task *task),
		   void *arg)
{
	for (uint32_t n = fair->n_ring; n > 0 && fair->front != NULL; n--) {
		struct kvh_flow *flow = fair->front;
		struct kvh_l2_task *task, *next;

		flow->pins++;
		for (task = flow->waiting.head; task != NULL; task = next) {
			next = task->next;
			if (!visit(arg, task))
				break;
		}
		if (fair->front == flow)
			fair->front = flow->next;
		unpin(fair, flow);
	}
	fair->in_turn = false;
}
