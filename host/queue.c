/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.c - completion queues: a ring of events behind an eventfd, and the slots
 * of the jobs. One user's thread at a time polls; any thread ends jobs.
 *
 * The eventfd is raised once until the user has looked and found nothing left,
 * so a burst of completions costs one system call.
 */
#include "host/queue.h"

#include "host/engine.h"
#include "host/log.h"
#include "host/thread.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS_A_JOB 3u

/* id: number in the engine (48 bits), from 1 | slot (16). Never used again. */
static kvh_job_t job_id(const struct kvh_queue *queue, uint32_t slot)
{
	return __atomic_add_fetch(&queue->engine->last_job, 1, __ATOMIC_RELAXED) << 16 | slot;
}

static uint32_t job_slot(kvh_job_t id)
{
	return (uint32_t)(id & 0xFFFF);
}

static uint32_t ring_size(const struct kvh_queue *queue)
{
	return EVENTS_A_JOB * queue->capacity;
}

static void check_locked(const struct kvh_queue *queue)
{
	assert(queue->n_active + queue->n_ended <= queue->capacity);
	assert(queue->head <= queue->tail && queue->tail - queue->head <= ring_size(queue));
}

static void push_locked(struct kvh_queue *queue, const struct kvh_event *event)
{
	queue->events[queue->tail++ % ring_size(queue)] = *event;
	check_locked(queue);
	if (!queue->signalled) {
		queue->signalled = true;
		(void)eventfd_write(queue->fd, 1);
	}
}

int kvh_job_begin(struct kvh_queue *queue, const struct kvh_job_ops *ops, uint64_t user_data,
		  struct kvh_job **job_p)
{
	struct kvh_job *job;

	pthread_mutex_lock(&queue->lock);
	job = queue->free_jobs;
	if (job != NULL) {
		queue->free_jobs = job->next_free;
		queue->n_active++;
		job->id = job_id(queue, (uint32_t)(job - queue->jobs));
		job->ops = ops;
		job->body = NULL;
		job->user_data = user_data;
		job->began_ns = kvh_now_ns();
		job->state = KVH_JOB_ACTIVE;
		check_locked(queue);
	}
	pthread_mutex_unlock(&queue->lock);
	if (job == NULL) {
		kvh_debug("queue: all of %u jobs are outstanding", queue->capacity);
		return -EAGAIN;
	}
	kvh_count(&queue->engine->metrics.jobs, 1);
	*job_p = job;
	return 0;
}

static void free_locked(struct kvh_job *job)
{
	struct kvh_queue *queue = job->queue;

	job->state = KVH_JOB_FREE;
	job->body = NULL;
	job->next_free = queue->free_jobs;
	queue->free_jobs = job;
}

void kvh_job_abandon(struct kvh_job *job)
{
	struct kvh_queue *queue = job->queue;

	pthread_mutex_lock(&queue->lock);
	assert(job->state == KVH_JOB_ACTIVE);
	queue->n_active--;
	free_locked(job);
	pthread_mutex_unlock(&queue->lock);
	kvh_uncount(&queue->engine->metrics.jobs, 1);
}

void kvh_job_event(struct kvh_job *job, enum kvh_event_type type, uint32_t n_ok,
		   uint32_t usable)
{
	struct kvh_event event = {.job = job->id,
				  .user_data = job->user_data,
				  .type = type,
				  .n_ok = n_ok,
				  .usable = usable};

	pthread_mutex_lock(&job->queue->lock);
	assert(job->state == KVH_JOB_ACTIVE && type != KVH_EVENT_DONE);
	push_locked(job->queue, &event);
	pthread_mutex_unlock(&job->queue->lock);
}

void kvh_job_end(struct kvh_job *job, int status, uint32_t n_ok, uint32_t usable,
		 uint32_t flags)
{
	struct kvh_queue *queue = job->queue;
	struct kvh_event event = {.job = job->id,
				  .user_data = job->user_data,
				  .type = KVH_EVENT_DONE,
				  .status = status,
				  .n_ok = n_ok,
				  .usable = usable,
				  .flags = flags};

	if (job->ops->measured != 0)
		kvh_took(&queue->engine->metrics, (enum kvh_latency_of)(job->ops->measured - 1),
			 job->began_ns);
	pthread_mutex_lock(&queue->lock);
	assert(job->state == KVH_JOB_ACTIVE);
	job->state = KVH_JOB_ENDED;
	queue->n_active--;
	queue->n_ended++;
	push_locked(queue, &event);
	if (queue->n_active == 0)
		pthread_cond_broadcast(&queue->idle);
	pthread_mutex_unlock(&queue->lock);
}

struct kvh_job *kvh_job_find(struct kvh_queue *queue, kvh_job_t id)
{
	uint32_t slot = job_slot(id);
	struct kvh_job *job = NULL;

	pthread_mutex_lock(&queue->lock);
	if (slot < queue->capacity && queue->jobs[slot].id == id &&
	    queue->jobs[slot].state != KVH_JOB_FREE)
		job = &queue->jobs[slot];
	pthread_mutex_unlock(&queue->lock);
	return job;
}

/* The user has seen its end, or never will. */
static void job_forget(struct kvh_job *job)
{
	kvh_uncount(&job->queue->engine->metrics.jobs, 1);
	if (job->ops->forget != NULL)
		job->ops->forget(job);
}

/* Takes events out; forgets the jobs that have ended with them. */
static uint32_t take(struct kvh_queue *queue, struct kvh_event *events, uint32_t max)
{
	eventfd_t ignored;
	uint32_t n = 0;

	pthread_mutex_lock(&queue->lock);
	while (n < max && queue->head != queue->tail)
		events[n++] = queue->events[queue->head++ % ring_size(queue)];
	if (queue->head == queue->tail && queue->signalled) {
		queue->signalled = false;
		(void)eventfd_read(queue->fd, &ignored);
	}
	pthread_mutex_unlock(&queue->lock);
	for (uint32_t i = 0; i < n; i++) {
		struct kvh_job *job = &queue->jobs[job_slot(events[i].job)];

		if (events[i].type != KVH_EVENT_DONE)
			continue;
		job_forget(job);
		pthread_mutex_lock(&queue->lock);
		queue->n_ended--;
		free_locked(job);
		pthread_mutex_unlock(&queue->lock);
	}
	return n;
}

int kvh_queue_make(struct kvh_engine *engine, uint32_t capacity, struct kvh_queue **queue_p)
{
	struct kvh_queue *queue = calloc(1, sizeof(*queue));

	if (queue == NULL)
		return -ENOMEM;
	queue->engine = engine;
	queue->capacity = capacity;
	queue->jobs = calloc(capacity, sizeof(queue->jobs[0]));
	queue->events = calloc((size_t)EVENTS_A_JOB * capacity, sizeof(queue->events[0]));
	queue->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	pthread_mutex_init(&queue->lock, NULL);
	kvh_cond_init(&queue->idle);
	if (queue->jobs == NULL || queue->events == NULL || queue->fd < 0) {
		int err = queue->fd < 0 ? -errno : -ENOMEM;

		kvh_err("queue: no room for %u jobs or no eventfd: %s", capacity,
			strerror(-err));
		kvh_queue_free(queue);
		return err;
	}
	for (uint32_t i = capacity; i > 0; i--) {
		queue->jobs[i - 1].queue = queue;
		free_locked(&queue->jobs[i - 1]);
	}
	*queue_p = queue;
	return 0;
}

void kvh_queue_idle_wait(struct kvh_queue *queue, uint64_t deadline_ns)
{
	int err = 0;

	pthread_mutex_lock(&queue->lock);
	while (queue->n_active > 0 && err == 0)
		err = kvh_cond_wait(&queue->idle, &queue->lock, deadline_ns);
	pthread_mutex_unlock(&queue->lock);
}

static bool job_active(struct kvh_job *job)
{
	bool active;

	pthread_mutex_lock(&job->queue->lock);
	active = job->state == KVH_JOB_ACTIVE;
	pthread_mutex_unlock(&job->queue->lock);
	return active;
}

void kvh_queue_cancel(struct kvh_queue *queue)
{
	for (uint32_t i = 0; i < queue->capacity; i++) {
		struct kvh_job *job = &queue->jobs[i];

		/* It may end meanwhile; its body lives until it is forgotten. */
		if (job_active(job) && job->ops->cancel != NULL)
			job->ops->cancel(job);
	}
}

void kvh_queue_seal(struct kvh_queue *queue)
{
	for (uint32_t i = 0; i < queue->capacity; i++) {
		struct kvh_job *job = &queue->jobs[i];

		if (job_active(job) && job->ops->seal != NULL)
			job->ops->seal(job);
	}
}

void kvh_queue_free(struct kvh_queue *queue)
{
	for (uint32_t i = 0; queue->jobs != NULL && i < queue->capacity; i++)
		if (queue->jobs[i].state == KVH_JOB_ENDED)
			job_forget(&queue->jobs[i]);
	if (queue->fd >= 0)
		(void)close(queue->fd);
	pthread_cond_destroy(&queue->idle);
	pthread_mutex_destroy(&queue->lock);
	free(queue->events);
	free(queue->jobs);
	free(queue);
}

/* ---- public ----------------------------------------------------------- */

int kvh_queue_fd(const struct kvh_queue *queue)
{
	int err = kvh_engine_alive(queue->engine);

	return err != 0 ? err : queue->fd;
}

int kvh_queue_poll(struct kvh_queue *queue, struct kvh_event *events, uint32_t max)
{
	int err = kvh_engine_alive(queue->engine);

	return err != 0 ? err : (int)take(queue, events, max);
}

int kvh_queue_wait(struct kvh_queue *queue, struct kvh_event *events, uint32_t max,
		   uint64_t timeout_ns)
{
	uint64_t deadline = kvh_deadline_ns(timeout_ns);
	int n = kvh_queue_poll(queue, events, max), err;

	while (n == 0 && max > 0) {
		err = kvh_fd_wait(queue->fd, deadline);
		if (err != 0)
			return err;
		n = kvh_queue_poll(queue, events, max);
	}
	return n;
}

int kvh_cancel(struct kvh_queue *queue, kvh_job_t id)
{
	int err = kvh_engine_alive(queue->engine);
	struct kvh_job *job;

	if (err != 0)
		return err;
	job = kvh_job_find(queue, id);
	if (job == NULL || !job_active(job))
		return -ENOENT;
	if (job->ops->cancel != NULL)
		job->ops->cancel(job);
	return 0;
}
