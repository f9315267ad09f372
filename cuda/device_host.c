/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_host.c - the device where there is no GPU: host memory, in-order
 * streams that run on threads of their own, and so as asynchronous as a GPU's.
 * What the table's functions do on any thread is here, but for memory
 * (device_host_memory.c); what streams do later in device_host_stream.c. Addresses are not
 * checked, as a GPU's driver would not.
 */
#include "cuda/device_host_impl.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct host_stream *stream_of(kvh_stream stream)
{
	return (struct host_stream *)(void *)stream;
}

static struct host_event *event_of(kvh_event_mark event)
{
	return (struct host_event *)(void *)event;
}

/* The same in every process, and never zero, which means any device. */
static void uuid_of(uint32_t number, uint8_t uuid[16])
{
	memcpy(uuid, "kvhoist-host", 12);
	for (unsigned i = 0; i < 4; i++)
		uuid[12 + i] = (uint8_t)(number >> (24 - 8 * i));
}

static void host_info(struct kvh_device *base, struct kvh_device_info *info)
{
	long pages = sysconf(_SC_PHYS_PAGES);
	long page = sysconf(_SC_PAGESIZE);

	memset(info, 0, sizeof(*info));
	(void)snprintf(info->name, sizeof(info->name), "host");
	(void)snprintf(info->label, sizeof(info->label), "host:%u", host_of(base)->number);
	uuid_of(host_of(base)->number, info->uuid);
	info->numa_node = -1;
	if (pages > 0 && page > 0)
		info->mem_bytes = (uint64_t)pages * (uint64_t)page;
}

/* Without the lock, as on a GPU: whoever asks is not to wait for a call. */
static bool host_is_dead(struct kvh_device *base)
{
	struct host_device *dev = host_of(base);

	return __atomic_load_n(&dev->failed, __ATOMIC_ACQUIRE) &&
	       __atomic_load_n(&dev->running, __ATOMIC_ACQUIRE) == 0;
}

/* ---- streams and events ---- */

/* All streams are equal here, a thread's priority is not ours to raise; tests may ask
 * what was wanted. */
static int host_stream_create(struct kvh_device *base, int priority, kvh_stream *stream_p)
{
	struct host_device *dev = host_of(base);
	struct host_stream *stream;
	int err = kvh_host_call_begin(dev, KVH_HOST_STREAM_CREATE);

	if (err != 0)
		return err;
	stream = kvh_host_stream_new(dev, &err);
	if (stream != NULL)
		stream->priority = priority;
	pthread_mutex_unlock(&dev->lock);
	if (stream != NULL)
		*stream_p = (kvh_stream)(void *)stream;
	return err;
}

static void host_stream_destroy(struct kvh_device *base, kvh_stream stream)
{
	struct host_device *dev = host_of(base);

	if (stream == NULL)
		return;
	pthread_mutex_lock(&dev->lock);
	assert(!stream_of(stream)->closing);
	kvh_host_stream_close(stream_of(stream));
	pthread_mutex_unlock(&dev->lock);
}

static int host_stream_wait(struct kvh_device *base, kvh_stream stream)
{
	struct host_device *dev = host_of(base);
	struct host_stream *s = stream_of(stream);
	int err = 0;

	pthread_mutex_lock(&dev->lock);
	if (s != NULL) { /* work on the NULL stream is done already */
		uint64_t posted = s->posted;

		while (err == 0 && s->done < posted) {
			if (!dev->stepped)
				(void)kvh_cond_wait(&dev->changed, &dev->lock, UINT64_MAX);
			else if (!kvh_host_step_locked(dev, 0))
				err = -EDEADLK;
		}
	}
	while (dev->failed && dev->running > 0)
		(void)kvh_cond_wait(&dev->changed, &dev->lock, UINT64_MAX);
	if (dev->failed)
		err = -EIO;
	pthread_mutex_unlock(&dev->lock);
	return err;
}

static int host_stream_capturing(struct kvh_device *base, kvh_stream stream)
{
	struct host_device *dev = host_of(base);
	struct host_stream *s = stream_of(stream);
	int rc;

	pthread_mutex_lock(&dev->lock);
	if (dev->failed)
		rc = -EIO;
	else
		rc = s != NULL ? s->capturing : dev->null_capturing;
	pthread_mutex_unlock(&dev->lock);
	return rc;
}

uint32_t kvh_host_streams(struct kvh_device *base, int priority)
{
	struct host_device *dev = host_of(base);
	uint32_t n = 0;

	pthread_mutex_lock(&dev->lock);
	for (const struct host_stream *s = dev->streams; s != NULL; s = s->next)
		n += !s->closing && s->priority == priority;
	pthread_mutex_unlock(&dev->lock);
	return n;
}

void kvh_host_set_capturing(struct kvh_device *base, kvh_stream stream, bool capturing)
{
	struct host_device *dev = host_of(base);

	pthread_mutex_lock(&dev->lock);
	if (stream != NULL)
		stream_of(stream)->capturing = capturing;
	else
		dev->null_capturing = capturing;
	pthread_mutex_unlock(&dev->lock);
}

static int host_event_create(struct kvh_device *base, kvh_event_mark *event_p)
{
	struct host_device *dev = host_of(base);
	struct host_event *event;
	int err = kvh_host_call_begin(dev, KVH_HOST_EVENT_CREATE);

	if (err != 0)
		return err;
	event = calloc(1, sizeof(*event));
	if (event != NULL)
		dev->n_events++;
	pthread_mutex_unlock(&dev->lock);
	if (event == NULL)
		return -ENOMEM;
	*event_p = (kvh_event_mark)(void *)event;
	return 0;
}

static void host_event_destroy(struct kvh_device *base, kvh_event_mark event)
{
	struct host_device *dev = host_of(base);

	if (event == NULL)
		return;
	pthread_mutex_lock(&dev->lock);
	assert(dev->n_events > 0);
	dev->n_events--;
	kvh_host_mark_put(event_of(event)->last);
	pthread_mutex_unlock(&dev->lock);
	free(event_of(event));
}

static int host_event_query(struct kvh_device *base, kvh_event_mark event)
{
	struct host_device *dev = host_of(base);
	const struct host_mark *mark;
	bool lie = false;
	int rc;

	pthread_mutex_lock(&dev->lock);
	rc = kvh_host_called(dev, KVH_HOST_QUERY, &lie);
	mark = event_of(event)->last;
	if (rc == 0 && host_dead(dev))
		rc = -EIO;
	else if (rc == 0)
		rc = lie || mark == NULL || mark->reached;
	pthread_mutex_unlock(&dev->lock);
	return rc;
}

/* ---- work for streams ---- */

static struct host_op *op_new(enum kvh_host_call call)
{
	struct host_op *op = calloc(1, sizeof(*op));

	if (op != NULL)
		op->call = call;
	return op;
}

/* Takes the chain; NULL: there was no memory for it. */
static int post(struct kvh_device *base, kvh_stream stream, struct host_op *chain)
{
	struct host_device *dev = host_of(base);
	int err;

	if (chain == NULL)
		return -ENOMEM;
	pthread_mutex_lock(&dev->lock);
	err = kvh_host_post(dev, stream_of(stream), chain);
	pthread_mutex_unlock(&dev->lock);
	return err;
}

static int host_event_record(struct kvh_device *base, kvh_event_mark event, kvh_stream stream)
{
	struct host_op *op = op_new(KVH_HOST_RECORD);
	struct host_mark *mark = calloc(1, sizeof(*mark));

	if (op == NULL || mark == NULL) {
		free(op);
		free(mark);
		return -ENOMEM;
	}
	mark->refs = 1;
	op->mark = mark;
	op->event = event_of(event);
	return post(base, stream, op);
}

static int host_stream_wait_event(struct kvh_device *base, kvh_stream stream,
				  kvh_event_mark event)
{
	struct host_op *op = op_new(KVH_HOST_WAIT_EVENT);

	if (op != NULL)
		op->event = event_of(event);
	return post(base, stream, op);
}

static int host_copy_2d(struct kvh_device *base, enum kvh_copy_kind kind, void *dst,
			uint64_t dst_pitch, const void *src, uint64_t src_pitch, uint64_t width,
			uint64_t height, kvh_stream stream)
{
	struct host_op *op;

	if (height > 1 && (dst_pitch < width || src_pitch < width)) {
		kvh_err("host device: 2-D copy of width %llu with pitches %llu and %llu",
			(unsigned long long)width, (unsigned long long)dst_pitch,
			(unsigned long long)src_pitch);
		return -EINVAL;
	}
	op = op_new(KVH_HOST_COPY);
	if (op != NULL) {
		op->u.copy.dst = dst;
		op->u.copy.src = src;
		op->u.copy.dst_pitch = dst_pitch;
		op->u.copy.src_pitch = src_pitch;
		op->u.copy.width = width;
		op->u.copy.height = width == 0 ? 0 : height;
		op->u.copy.kind = kind;
	}
	return post(base, stream, op);
}

/* Every copy of a batch is an operation, so that a test can stop between two;
 * they are queued together or not at all. */
static int host_copy_batch(struct kvh_device *base, enum kvh_copy_kind kind,
			   const struct kvh_copy *copies, size_t n, kvh_stream stream)
{
	struct host_op *chain = NULL;

	if (n == 0)
		return 0;
	for (size_t i = n; i-- > 0;) {
		struct host_op *op = op_new(KVH_HOST_COPY);

		if (op == NULL) {
			kvh_host_ops_free(chain);
			return -ENOMEM;
		}
		op->u.copy.dst = copies[i].dst;
		op->u.copy.src = copies[i].src;
		op->u.copy.width = copies[i].bytes;
		op->u.copy.height = copies[i].bytes == 0 ? 0 : 1;
		op->u.copy.kind = kind;
		op->next = chain;
		chain = op;
	}
	return post(base, stream, chain);
}

static int host_copy(struct kvh_device *base, enum kvh_copy_kind kind,
		     const struct kvh_copy *copy, kvh_stream stream)
{
	return host_copy_batch(base, kind, copy, 1, stream);
}

static int post_pack(struct kvh_device *base, enum kvh_host_call call,
		     const struct kvh_pack *pack, kvh_stream stream)
{
	struct host_op *op = op_new(call);

	if (op != NULL)
		op->u.pack = *pack;
	return post(base, stream, op);
}

static int host_gather(struct kvh_device *base, const struct kvh_pack *pack, kvh_stream stream)
{
	return post_pack(base, KVH_HOST_GATHER, pack, stream);
}

static int host_scatter(struct kvh_device *base, const struct kvh_pack *pack, kvh_stream stream)
{
	return post_pack(base, KVH_HOST_SCATTER, pack, stream);
}

static int host_notify(struct kvh_device *base, kvh_stream stream, int eventfd)
{
	struct host_op *op = op_new(KVH_HOST_NOTIFY);

	if (op != NULL)
		op->u.eventfd = eventfd;
	return post(base, stream, op);
}

/* ---- open, close ---- */

static void streams_close_all(struct host_device *dev)
{
	uint32_t left = 0;

	for (struct host_stream *s = dev->streams; s != NULL; s = s->next) {
		left += !s->closing;
		s->closing = true;
	}
	if (left != 0)
		kvh_err("host device: closed with %u streams not destroyed", left);
	kvh_host_streams_wake(dev);
	while (dev->stepped && kvh_host_step_locked(dev, 0)) {}
	kvh_host_streams_reap(dev, true);
}

static void host_close(struct kvh_device *base)
{
	struct host_device *dev = host_of(base);

	kvh_host_release(base);
	pthread_mutex_lock(&dev->lock);
	streams_close_all(dev);
	assert(dev->streams == NULL && dev->running == 0);
	pthread_mutex_unlock(&dev->lock);
	kvh_host_memory_close(dev);
	(void)pthread_cond_destroy(&dev->changed);
	(void)pthread_mutex_destroy(&dev->lock);
	free(dev);
}

static const struct kvh_device_ops host_ops = {
	.name = "host",
	.close = host_close,
	.info = host_info,
	.dead = host_is_dead,
	.mem_alloc = kvh_host_mem_alloc,
	.mem_free = kvh_host_mem_free,
	.owns = kvh_host_owns,
	.host_alloc = kvh_host_host_alloc,
	.host_free = kvh_host_mem_free,
	.host_register = kvh_host_register,
	.host_unregister = kvh_host_unregister,
	.stream_create = host_stream_create,
	.stream_destroy = host_stream_destroy,
	.stream_wait = host_stream_wait,
	.stream_capturing = host_stream_capturing,
	.event_create = host_event_create,
	.event_destroy = host_event_destroy,
	.event_record = host_event_record,
	.event_query = host_event_query,
	.stream_wait_event = host_stream_wait_event,
	.copy = host_copy,
	.copy_2d = host_copy_2d,
	.copy_batch = host_copy_batch,
	.gather = host_gather,
	.scatter = host_scatter,
	.notify = host_notify,
};

static int device_new(uint32_t number, struct kvh_device *beside, bool stepped, bool threaded,
		      struct kvh_device **dev_p)
{
	struct host_device *dev = calloc(1, sizeof(*dev));

	if (dev == NULL)
		return -ENOMEM;
	if (kvh_host_memory_open(dev, beside) != 0) {
		free(dev);
		return -ENOMEM;
	}
	dev->base.ops = &host_ops;
	dev->number = number;
	dev->stepped = stepped;
	dev->threaded = threaded;
	(void)pthread_mutex_init(&dev->lock, NULL);
	kvh_cond_init(&dev->changed);
	kvh_host_rules_take_next(&dev->base);
	*dev_p = &dev->base;
	return 0;
}

int kvh_device_host_open_nth(uint32_t number, struct kvh_device *beside,
			     struct kvh_device **dev_p)
{
	return device_new(number, beside, kvh_simulated(), true, dev_p);
}

int kvh_device_host_open(struct kvh_device **dev_p)
{
	return kvh_device_host_open_nth(0, NULL, dev_p);
}

int kvh_device_host_open_stepped(struct kvh_device **dev_p)
{
	return device_new(0, NULL, true, false, dev_p);
}
