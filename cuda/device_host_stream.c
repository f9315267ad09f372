/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_host_stream.c - the host device's streams: queues of operations, each
 * with a thread of its own, or, in the stepped form, run by kvh_host_step.
 *
 * An operation:
 *
 *            reaches the front     not held, slow or waiting        returned
 *   queued -------------------> arrived -------------------> running --------> gone
 *      `----------------------------`---- the device failed ------------------^
 *
 * It is counted and the rules are asked when it arrives; it runs without the
 * lock. Work on the NULL stream takes the same way on the caller's thread.
 */
#include "cuda/device_host_impl.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

/* ---- operations ---- */

void kvh_host_mark_put(struct host_mark *mark)
{
	if (mark != NULL && --mark->refs == 0)
		free(mark);
}

static void op_free(struct host_op *op)
{
	kvh_host_mark_put(op->mark);
	free(op);
}

void kvh_host_ops_free(struct host_op *chain)
{
	while (chain != NULL) {
		struct host_op *op = chain;

		chain = op->next;
		op_free(op);
	}
}

static void op_arrive(struct host_device *dev, struct host_op *op)
{
	if (op->arrived)
		return;
	op->arrived = true;
	op->verdict = kvh_host_judge(dev, op->call);
	(void)pthread_cond_broadcast(&dev->changed);
}

static bool op_waits(const struct host_op *op)
{
	return op->call == KVH_HOST_WAIT_EVENT && op->mark != NULL && !op->mark->reached &&
	       !op->verdict.lie;
}

static bool op_blocked(const struct host_device *dev, struct host_op *op)
{
	return kvh_host_is_held(dev, &op->verdict) || kvh_host_is_slow(dev, &op->verdict) ||
	       op_waits(op);
}

static void op_copy(const struct host_op *op)
{
	unsigned char *dst = op->u.copy.dst;
	const unsigned char *src = op->u.copy.src;

	for (uint64_t y = 0; y < op->u.copy.height; y++) {
		memcpy(dst, src, op->u.copy.width);
		dst += op->u.copy.dst_pitch;
		src += op->u.copy.src_pitch;
	}
}

/* Without the lock. */
static int op_work(const struct host_op *op)
{
	switch (op->call) {
	case KVH_HOST_COPY:
		if (!op->verdict.lie)
			op_copy(op);
		return 0;
	case KVH_HOST_GATHER: return kvh_gather_ref(&op->u.pack);
	case KVH_HOST_SCATTER: return kvh_scatter_ref(&op->u.pack);
	case KVH_HOST_NOTIFY:
		/* Full or closed: a hint may be lost, and a full one is readable. */
		if (!op->verdict.lie)
			(void)eventfd_write(op->u.eventfd, 1);
		return 0;
	default: return 0; /* RECORD, WAIT_EVENT: all of it is under the lock */
	}
}

static void device_fail(struct host_device *dev, const struct host_op *op, int err)
{
	if (!dev->failed)
		kvh_err("host device: operation %d failed (%s): the device is dead",
			(int)op->call, strerror(err));
	__atomic_store_n(&dev->failed, true, __ATOMIC_RELEASE);
	kvh_host_streams_wake(dev);
}

/* The operation has arrived and is not blocked. Drops the lock while it works. */
static int op_run(struct host_device *dev, struct host_op *op)
{
	int err;

	if (op->verdict.error != 0) {
		device_fail(dev, op, op->verdict.error);
		return -EIO;
	}
	(void)__atomic_add_fetch(&dev->running, 1, __ATOMIC_ACQ_REL);
	pthread_mutex_unlock(&dev->lock);
	err = op_work(op);
	pthread_mutex_lock(&dev->lock);
	(void)__atomic_sub_fetch(&dev->running, 1, __ATOMIC_ACQ_REL);
	if (err != 0)
		device_fail(dev, op, -err);
	else if (op->call == KVH_HOST_RECORD)
		op->mark->reached = true;
	else if (op->call == KVH_HOST_COPY && !op->verdict.lie)
		dev->copied[op->u.copy.kind] += op->u.copy.width * op->u.copy.height;
	/* The last to end is what makes a dying device a dead one, too. */
	if (op->call == KVH_HOST_RECORD || dev->failed)
		kvh_host_streams_wake(dev);
	else
		(void)pthread_cond_broadcast(&dev->changed);
	return err;
}

/* ---- streams ---- */

void kvh_host_streams_wake(struct host_device *dev)
{
	for (struct host_stream *s = dev->streams; s != NULL; s = s->next) {
		if (s->head != NULL || s->closing)
			(void)pthread_cond_signal(&s->wake);
	}
	(void)pthread_cond_broadcast(&dev->changed);
}

static void stream_check(const struct host_stream *s)
{
	assert((s->head == NULL) == (s->posted == s->done));
	assert(s->done <= s->posted);
	assert(!s->finished || (s->closing && s->head == NULL));
}

static void stream_pop(struct host_stream *s)
{
	struct host_op *op = s->head;

	s->head = op->next;
	if (s->head == NULL)
		s->tail = &s->head;
	s->done++;
	op_free(op);
	stream_check(s);
	(void)pthread_cond_broadcast(&s->dev->changed);
}

/* The first operation's turn. false: it has to wait. */
static bool stream_turn(struct host_stream *s)
{
	struct host_device *dev = s->dev;
	struct host_op *op = s->head;

	if (!dev->failed) {
		op_arrive(dev, op);
		if (op_blocked(dev, op))
			return false;
		if (dev->stepped && op->verdict.ns != 0) {
			op->verdict.ns--;
			return true;
		}
		s->busy = true;
		(void)op_run(dev, op);
		s->busy = false;
	}
	stream_pop(s);
	return true;
}

/* With the lock: true, something was done. */
static bool stream_go(struct host_stream *s, bool wait)
{
	static const struct host_verdict idle;

	if (s->head != NULL && !s->busy && stream_turn(s))
		return true;
	if (wait)
		kvh_host_pause(s->dev, &s->wake, s->head != NULL ? &s->head->verdict : &idle);
	return wait;
}

static enum kvh_round stream_round(void *arg, enum kvh_wake wake)
{
	struct host_stream *s = arg;
	struct host_device *dev = s->dev;
	enum kvh_round did = KVH_ROUND_END;

	pthread_mutex_lock(&dev->lock);
	if (s->head != NULL || !s->closing) {
		did = stream_go(s, wake == KVH_WAKE_WAIT) ? KVH_ROUND_DONE : KVH_ROUND_ASLEEP;
	} else {
		s->finished = true;
		(void)pthread_cond_broadcast(&dev->changed);
	}
	pthread_mutex_unlock(&dev->lock);
	return did;
}

static int thread_start(struct host_stream *s)
{
	s->thread.name = "kvh-stream";
	s->thread.round = stream_round;
	s->thread.arg = s;
	return kvh_thread_start(&s->thread);
}

struct host_stream *kvh_host_stream_new(struct host_device *dev, int *err_p)
{
	struct host_stream *s = calloc(1, sizeof(*s));

	kvh_host_streams_reap(dev, false);
	if (s == NULL) {
		*err_p = -ENOMEM;
		return NULL;
	}
	s->dev = dev;
	s->tail = &s->head;
	kvh_cond_init(&s->wake);
	*err_p = dev->threaded ? thread_start(s) : 0;
	if (*err_p != 0) {
		(void)pthread_cond_destroy(&s->wake);
		free(s);
		return NULL;
	}
	s->next = dev->streams;
	dev->streams = s;
	return s;
}

/* As on a GPU, what is queued still runs; the caller does not wait for it. */
void kvh_host_stream_close(struct host_stream *s)
{
	s->closing = true;
	(void)pthread_cond_signal(&s->wake);
	kvh_host_streams_reap(s->dev, false);
}

void kvh_host_streams_reap(struct host_device *dev, bool all)
{
	struct host_stream **link = &dev->streams;

	while (*link != NULL) {
		struct host_stream *s = *link;

		if (!dev->threaded)
			s->finished = s->closing && s->head == NULL;
		while (all && dev->threaded && !s->finished)
			(void)kvh_cond_wait(&dev->changed, &dev->lock, UINT64_MAX);
		if (!s->finished) {
			link = &s->next;
			continue;
		}
		*link = s->next;
		/* It let go of the lock after `finished`: joining does not wait for it. */
		if (dev->threaded)
			kvh_thread_join(&s->thread);
		(void)pthread_cond_destroy(&s->wake);
		free(s);
	}
}

/* ---- steps ---- */

static bool stream_can_go(const struct host_device *dev, const struct host_stream *s)
{
	if (s->head == NULL || s->busy)
		return false;
	return dev->failed || !s->head->arrived || !op_blocked(dev, s->head);
}

bool kvh_host_step_locked(struct host_device *dev, uint64_t choice)
{
	uint64_t n = 0;

	for (struct host_stream *s = dev->streams; s != NULL; s = s->next)
		n += stream_can_go(dev, s);
	if (n == 0)
		return false;
	choice %= n;
	for (struct host_stream *s = dev->streams; s != NULL; s = s->next) {
		if (stream_can_go(dev, s) && choice-- == 0) {
			/* Arriving at a wait, or where it is held, is a step as well. */
			(void)stream_turn(s);
			kvh_host_streams_reap(dev, false);
			return true;
		}
	}
	return false;
}

bool kvh_host_step(struct kvh_device *base, uint64_t choice)
{
	struct host_device *dev = host_of(base);
	bool moved;

	assert(dev->stepped);
	pthread_mutex_lock(&dev->lock);
	moved = kvh_host_step_locked(dev, choice);
	pthread_mutex_unlock(&dev->lock);
	return moved;
}

/* ---- enqueueing ---- */

/* Now that it is certain that it is queued, an operation gets its mark: a record
 * its new one becomes the event's last, a wait refers to what is the last. */
static void op_bind(struct host_op *op)
{
	if (op->call == KVH_HOST_RECORD) {
		kvh_host_mark_put(op->event->last);
		op->event->last = op->mark;
		op->mark->refs++;
	} else if (op->call == KVH_HOST_WAIT_EVENT && op->event->last != NULL) {
		op->mark = op->event->last;
		op->mark->refs++;
	}
	op->event = NULL;
}

/* On the NULL stream: on this thread, until it is done. */
static int op_now(struct host_device *dev, struct host_op *op)
{
	bool held;
	int err = 0;

	op_arrive(dev, op);
	held = kvh_host_is_held(dev, &op->verdict);
	dev->held_callers += held;
	while (err == 0 && !dev->failed && op_blocked(dev, op)) {
		if (!dev->stepped || kvh_host_is_held(dev, &op->verdict))
			kvh_host_pause(dev, &dev->changed, &op->verdict);
		else if (!kvh_host_step_locked(dev, 0))
			err = -EDEADLK;
	}
	dev->held_callers -= held;
	if (err != 0)
		return err;
	return dev->failed ? -EIO : op_run(dev, op);
}

static int post_now(struct host_device *dev, struct host_op *chain)
{
	int err = 0;

	while (chain != NULL) {
		struct host_op *op = chain;

		chain = op->next;
		if (err == 0) {
			op_bind(op);
			err = op_now(dev, op);
		}
		op_free(op);
	}
	return err;
}

static void post_queue(struct host_stream *s, struct host_op *chain)
{
	*s->tail = chain;
	while (*s->tail != NULL) {
		struct host_op *op = *s->tail;

		op_bind(op);
		s->tail = &op->next;
		s->posted++;
	}
	stream_check(s);
	(void)pthread_cond_signal(&s->wake);
}

/* A stranger's stream (a CUDA one, say) is found out, not followed. */
static int stream_usable(const struct host_device *dev, const struct host_stream *s)
{
	const struct host_stream *known = dev->streams;

	if (s == NULL)
		return dev->null_capturing ? -EBUSY : 0;
	while (known != NULL && known != s)
		known = known->next;
	if (known == NULL || known->closing) {
		kvh_err("host device: %p is no stream of its own", (const void *)s);
		return -EINVAL;
	}
	return s->capturing ? -EBUSY : 0;
}

int kvh_host_post(struct host_device *dev, struct host_stream *stream, struct host_op *chain)
{
	int err = kvh_host_called(dev, KVH_HOST_ENQUEUE, NULL);

	if (err == 0 && dev->failed)
		err = -EIO;
	if (err == 0)
		err = stream_usable(dev, stream);
	if (err != 0) {
		kvh_host_ops_free(chain);
		return err;
	}
	if (stream == NULL)
		return post_now(dev, chain);
	post_queue(stream, chain);
	return 0;
}
