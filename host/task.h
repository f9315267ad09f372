/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task.h - one request on its way through the controller's queues to an adapter.
 * The controller's thread.
 *
 *                submit            accepted            reaped
 *    (owner) -----------> WAITING ----------> INFLIGHT -------> ended(buffer_free)
 *                           | |                  |
 *          cancel, deadline | | erasing, and     | deadline
 *                           v | the adapter      v         reaped
 *          ended(buffer_free) | cannot now     LATE ---------------> returned
 *                             v                  ^  ended(!buffer_free) was called
 *                           OWED ----------------'
 *             ended(!buffer_free) was called   accepted
 *
 * LATE: past its deadline it has ended for its owner, but its buffer stays out
 * until the adapter gives it back. OWED: an erasing one that could not be done in
 * time keeps its place, so that what was erased does not come back with the
 * adapter.
 */
#ifndef KVH_HOST_TASK_H
#define KVH_HOST_TASK_H

#include "l2/l2.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_flow;

enum kvh_task_state {
	KVH_TASK_IDLE,
	KVH_TASK_WAITING,
	KVH_TASK_INFLIGHT,
	KVH_TASK_LATE,
	KVH_TASK_OWED,
	KVH_TASK_NSTATES
};

/* The owner's memory from submit until ended (buffer_free) or returned. The
 * owner fills req.op, key, buf, len and the two functions. */
struct kvh_l2_task {
	struct kvh_l2_req req; /* first: reap gives it back */
	/* Once. Never called inside submit. May submit; must not cancel, but
	 * for what it cancels later, in its own tick. -EHOSTDOWN: the adapter's
	 * breaker is open; -ENOBUFS: a PUT that had to make room for another space's. */
	void (*ended)(struct kvh_l2_task *task, int status, bool buffer_free);
	/* Once, only after ended with buffer_free false. */
	void (*returned)(struct kvh_l2_task *task);
	uint64_t deadline_ns; /* from submit; of writes: anew from acceptance */
	enum kvh_task_state state;
	struct kvh_flow *flow; /* of its space; NULL: IDLE, or past the queue */
	struct kvh_l2_task *prev, *next;
};

static inline bool kvh_task_is_write(const struct kvh_l2_task *task)
{
	return task->req.op != KVH_L2_GET && task->req.op != KVH_L2_PROBE;
}

/* One that takes objects away. */
static inline bool kvh_task_erases(const struct kvh_l2_task *task)
{
	return task->req.op == KVH_L2_DELETE || task->req.op == KVH_L2_CLEAR;
}

/* In order; a task is in one list at most. */
struct kvh_task_list {
	struct kvh_l2_task *head, *tail;
	uint64_t n;
};

static inline void kvh_tasks_add(struct kvh_task_list *list, struct kvh_l2_task *task)
{
	task->next = NULL;
	task->prev = list->tail;
	if (list->tail != NULL)
		list->tail->next = task;
	else
		list->head = task;
	list->tail = task;
	list->n++;
}

static inline void kvh_tasks_remove(struct kvh_task_list *list, struct kvh_l2_task *task)
{
	if (task->prev != NULL)
		task->prev->next = task->next;
	else
		list->head = task->next;
	if (task->next != NULL)
		task->next->prev = task->prev;
	else
		list->tail = task->prev;
	task->prev = task->next = NULL;
	list->n--;
}

#ifdef __cplusplus
}
#endif
#endif
