/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.h - completion queues and the jobs on them.
 *
 *   FREE --begin--> ACTIVE --end--> ENDED --terminal event polled--> FREE
 *     ^               |
 *     '----abandon----'   (the call that began it failed)
 *
 *   active + ended <= capacity;  events waiting <= 3 * capacity
 *
 * The user's thread begins, polls and closes; any thread adds events and ends.
 * What a job is about (its body) is freed when its terminal event was polled,
 * so a body may be used by the user's thread until then, also after its end.
 */
#ifndef KVH_HOST_QUEUE_H
#define KVH_HOST_QUEUE_H

#include "kvhoist.h"

#include <pthread.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_job;

/* What a kind of job does when asked; a const table a kind. */
struct kvh_job_ops {
	const char *name;
	uint32_t measured; /* 1 + enum kvh_latency_of; 0: it is not */
	/* User's thread, ACTIVE or ENDED. May be NULL: nothing can be cancelled. */
	void (*cancel)(struct kvh_job *job);
	/* The same; the user calls no more. NULL: nothing waits for its calls. */
	void (*seal)(struct kvh_job *job);
	/* User's thread, ENDED: frees the body. */
	void (*forget)(struct kvh_job *job);
};

enum kvh_job_state { KVH_JOB_FREE, KVH_JOB_ACTIVE, KVH_JOB_ENDED };

struct kvh_job {
	kvh_job_t id;
	struct kvh_queue *queue;
	const struct kvh_job_ops *ops;
	void *body;
	uint64_t user_data;
	uint64_t began_ns;
	enum kvh_job_state state; /* under the queue's lock */
	struct kvh_job *next_free;
};

struct kvh_queue {
	struct kvh_engine *engine;
	struct kvh_queue *prev, *next; /* of the engine's list */
	uint32_t client;               /* its leases */
	uint32_t capacity;
	int fd;

	pthread_mutex_t lock; /* of all below */
	struct kvh_job *jobs; /* [capacity] */
	struct kvh_job *free_jobs;
	uint32_t n_active, n_ended;
	struct kvh_event *events; /* [3 * capacity], a ring */
	uint64_t head, tail;      /* head <= tail <= head + 3 * capacity */
	bool signalled;           /* fd is raised, or its reader is about to look */
	pthread_cond_t idle;      /* n_active == 0 */
};

/* Makes a job; `body` may be set until it is handed over. -EAGAIN: full. */
int kvh_job_begin(struct kvh_queue *queue, const struct kvh_job_ops *ops, uint64_t user_data,
		  struct kvh_job **job_p);
/* Takes it back: no event comes. The body is the caller's. */
void kvh_job_abandon(struct kvh_job *job);
/* An intermediate event; at most two a job. */
void kvh_job_event(struct kvh_job *job, enum kvh_event_type type, uint32_t n_ok,
		   uint32_t usable);
/* The terminal event. The caller touches job and body no more. */
void kvh_job_end(struct kvh_job *job, int status, uint32_t n_ok, uint32_t usable,
		 uint32_t flags);
/* User's thread: the job, ACTIVE or ENDED; NULL: none of this queue. */
struct kvh_job *kvh_job_find(struct kvh_queue *queue, kvh_job_t id);

/* Waits until n_active is 0, at most until deadline_ns. */
void kvh_queue_idle_wait(struct kvh_queue *queue, uint64_t deadline_ns);
/* Cancels all. They end later: kvh_queue_idle_wait. */
void kvh_queue_cancel(struct kvh_queue *queue);
/* Cancels those that wait for calls of the user's, who makes none any more. */
void kvh_queue_seal(struct kvh_queue *queue);
/* Forgets every job. None is ACTIVE. */
void kvh_queue_free(struct kvh_queue *queue);
int kvh_queue_make(struct kvh_engine *engine, uint32_t capacity, struct kvh_queue **queue_p);

#ifdef __cplusplus
}
#endif
#endif
