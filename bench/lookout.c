/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lookout.c - a device's table with events behind its copies. The table's functions run on
 * whatever thread calls the device; the lookout's thread waits.
 */
#include "bench/lookout.h"

#include "host/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct kvh_lookout {
	struct kvh_device_ops ops; /* the device's, while it is watched */
	const struct kvh_device_ops *inner;
	struct kvh_device *dev;
	kvh_stream stream; /* the thread's, to wait on */
	pthread_t thread;
	bool started;
	atomic_bool mute;

	pthread_mutex_t lock; /* of all below, and over records of the event */
	pthread_cond_t changed;
	kvh_event_mark event;    /* behind the last that was enqueued */
	uint64_t enqueued, seen; /* seen <= enqueued */
	uint64_t at_ns;          /* when the last of `seen` had finished */
	int error;
	bool closing;
};

static struct kvh_lookout *lookout_of(struct kvh_device *dev)
{
	return (struct kvh_lookout *)(uintptr_t)dev->ops;
}

/* ---- in the table ------------------------------------------------------- */

static int mark(struct kvh_lookout *lookout, int err, kvh_stream stream)
{
	if (err != 0)
		return err;
	(void)pthread_mutex_lock(&lookout->lock);
	err = lookout->inner->event_record(lookout->dev, lookout->event, stream);
	if (err == 0) {
		lookout->enqueued++;
		(void)pthread_cond_broadcast(&lookout->changed);
	}
	(void)pthread_mutex_unlock(&lookout->lock);
	return err;
}

static int lookout_copy(struct kvh_device *dev, enum kvh_copy_kind kind,
			const struct kvh_copy *copy, kvh_stream stream)
{
	struct kvh_lookout *lookout = lookout_of(dev);

	return mark(lookout, lookout->inner->copy(dev, kind, copy, stream), stream);
}

static int lookout_copy_2d(struct kvh_device *dev, enum kvh_copy_kind kind, void *dst,
			   uint64_t dst_pitch, const void *src, uint64_t src_pitch,
			   uint64_t width, uint64_t height, kvh_stream stream)
{
	struct kvh_lookout *lookout = lookout_of(dev);

	return mark(lookout,
		    lookout->inner->copy_2d(dev, kind, dst, dst_pitch, src, src_pitch, width,
					    height, stream),
		    stream);
}

static int lookout_copy_batch(struct kvh_device *dev, enum kvh_copy_kind kind,
			      const struct kvh_copy *copies, size_t n, kvh_stream stream)
{
	struct kvh_lookout *lookout = lookout_of(dev);

	return mark(lookout, lookout->inner->copy_batch(dev, kind, copies, n, stream), stream);
}

static int lookout_scatter(struct kvh_device *dev, const struct kvh_pack *pack,
			   kvh_stream stream)
{
	struct kvh_lookout *lookout = lookout_of(dev);

	return mark(lookout, lookout->inner->scatter(dev, pack, stream), stream);
}

static int lookout_notify(struct kvh_device *dev, kvh_stream stream, int eventfd)
{
	struct kvh_lookout *lookout = lookout_of(dev);

	return atomic_load(&lookout->mute) ? 0 : lookout->inner->notify(dev, stream, eventfd);
}

/* The engine's threads may be looking at the device in this moment: an aligned pointer,
 * and either table is right. ThreadSanitizer need not know. */
__attribute__((no_sanitize("thread"))) static void put_table(struct kvh_device *dev,
							     const struct kvh_device_ops *ops)
{
	*(const struct kvh_device_ops *volatile *)&dev->ops = ops;
}

/* ---- the thread --------------------------------------------------------- */

/* Until the event's last record: what came before it may be overtaken. */
static int wait_once(struct kvh_lookout *lookout)
{
	int err;

	(void)pthread_mutex_lock(&lookout->lock);
	err = lookout->inner->stream_wait_event(lookout->dev, lookout->stream, lookout->event);
	(void)pthread_mutex_unlock(&lookout->lock);
	return err != 0 ? err : lookout->inner->stream_wait(lookout->dev, lookout->stream);
}

static void *lookout_main(void *arg)
{
	struct kvh_lookout *lookout = arg;

	(void)pthread_mutex_lock(&lookout->lock);
	while (!lookout->closing) {
		uint64_t upto = lookout->enqueued, now;
		int err;

		if (lookout->seen == upto || lookout->error != 0) {
			(void)pthread_cond_wait(&lookout->changed, &lookout->lock);
			continue;
		}
		(void)pthread_mutex_unlock(&lookout->lock);
		err = wait_once(lookout);
		now = kvh_now_ns();
		(void)pthread_mutex_lock(&lookout->lock);
		lookout->error = err;
		lookout->seen = upto;
		lookout->at_ns = now;
		(void)pthread_cond_broadcast(&lookout->changed);
	}
	(void)pthread_mutex_unlock(&lookout->lock);
	return NULL;
}

uint64_t kvh_lookout_finished(struct kvh_lookout *lookout)
{
	uint64_t at_ns;

	(void)pthread_mutex_lock(&lookout->lock);
	while (lookout->seen != lookout->enqueued && lookout->error == 0)
		(void)pthread_cond_wait(&lookout->changed, &lookout->lock);
	at_ns = lookout->error == 0 ? lookout->at_ns : 0;
	(void)pthread_mutex_unlock(&lookout->lock);
	return at_ns;
}

void kvh_lookout_mute(struct kvh_lookout *lookout, bool mute)
{
	atomic_store(&lookout->mute, mute);
}

/* ---- open, stop --------------------------------------------------------- */

int kvh_lookout_open(struct kvh_device *dev, struct kvh_lookout **lookout_p)
{
	struct kvh_lookout *lookout = calloc(1, sizeof(*lookout));
	int err;

	if (lookout == NULL)
		return -ENOMEM;
	lookout->dev = dev;
	lookout->inner = dev->ops;
	lookout->ops = *dev->ops;
	lookout->ops.copy = lookout_copy;
	lookout->ops.copy_2d = lookout_copy_2d;
	lookout->ops.copy_batch = lookout_copy_batch;
	lookout->ops.scatter = lookout_scatter;
	lookout->ops.notify = lookout_notify;
	(void)pthread_mutex_init(&lookout->lock, NULL);
	(void)pthread_cond_init(&lookout->changed, NULL);
	err = dev->ops->stream_create(dev, 0, &lookout->stream);
	if (err == 0)
		err = dev->ops->event_create(dev, &lookout->event);
	if (err == 0)
		err = -pthread_create(&lookout->thread, NULL, lookout_main, lookout);
	if (err != 0) {
		kvh_lookout_stop(lookout);
		kvh_lookout_free(lookout);
		return err;
	}
	lookout->started = true;
	put_table(dev, &lookout->ops);
	*lookout_p = lookout;
	return 0;
}

void kvh_lookout_stop(struct kvh_lookout *lookout)
{
	if (lookout->started) {
		put_table(lookout->dev, lookout->inner);
		(void)pthread_mutex_lock(&lookout->lock);
		lookout->closing = true;
		(void)pthread_cond_broadcast(&lookout->changed);
		(void)pthread_mutex_unlock(&lookout->lock);
		(void)pthread_join(lookout->thread, NULL);
	}
	if (lookout->event != NULL)
		lookout->inner->event_destroy(lookout->dev, lookout->event);
	if (lookout->stream != NULL)
		lookout->inner->stream_destroy(lookout->dev, lookout->stream);
}

void kvh_lookout_free(struct kvh_lookout *lookout)
{
	if (lookout == NULL)
		return;
	(void)pthread_cond_destroy(&lookout->changed);
	(void)pthread_mutex_destroy(&lookout->lock);
	free(lookout);
}
