/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_host_impl.h - the host device's inside, for its own four files:
 *
 *   device_host.c         the table: streams, events, enqueueing
 *   device_host_memory.c  the table: memory
 *   device_host_stream.c  operations: queues, threads, steps
 *   device_host_rules.c   what tests do to single calls
 *
 * One lock a device guards everything but the bytes that operations move.
 */
#ifndef KVH_CUDA_DEVICE_HOST_IMPL_H
#define KVH_CUDA_DEVICE_HOST_IMPL_H

#include "cuda/device_host.h"
#include "cuda/pack.h"
#include "host/thread.h"

#define HOST_RULES_MAX 16u

/* A record of an event: what a query and a wait refer to, so that recording the
 * event again changes nothing for those who wait for the record before. Held by
 * the event, the operation that records and those that wait. */
struct host_mark {
	uint32_t refs;
	bool reached;
};

struct host_event {
	struct host_mark *last; /* NULL: never recorded */
};

/* What the rules say of one call, decided when it is counted. */
struct host_verdict {
	uint64_t release; /* dev->releases then: a later release ends HOLD and SLOW */
	uint64_t ns;      /* SLOW: how long, or how many steps in the stepped form */
	uint64_t until;   /* SLOW: when it is over, monotonic; 0: it is, or the stepped form */
	int error;        /* FAIL: positive errno; 0: none */
	bool hold;
	bool lie;
};

struct host_op {
	struct host_op *next;
	enum kvh_host_call call; /* COPY .. NOTIFY */
	bool arrived;            /* counted; verdict is valid */
	struct host_verdict verdict;
	struct host_event *event; /* RECORD, WAIT_EVENT: until it is queued */
	struct host_mark *mark;   /* RECORD, WAIT_EVENT; NULL: nothing to wait for */
	union {
		struct kvh_pack pack;
		int eventfd;
		struct {
			unsigned char *dst;
			const unsigned char *src;
			uint64_t dst_pitch, src_pitch, width, height;
			enum kvh_copy_kind kind;
		} copy;
	} u;
};

/* queued operations == posted - done; empty iff head == NULL. */
struct host_stream {
	struct host_stream *next;
	struct host_device *dev;
	struct host_op *head, **tail;
	uint64_t posted, done;
	pthread_cond_t wake;
	struct kvh_thread thread;
	bool busy;      /* its first operation runs, without the lock */
	bool closing;   /* destroyed by the caller: runs dry, takes nothing more */
	bool finished;  /* closing and dry: may be joined and freed */
	bool capturing; /* as a test says */
	int priority;   /* as asked for */
};

struct host_device;

/* Memory that was allocated on a device, or registered through it. */
struct host_range {
	struct host_range *next;
	const struct host_device *owner;
	uintptr_t base;
	uint64_t bytes;
};

/* What is registered with devices that were opened beside each other. */
struct host_registry {
	pthread_mutex_t lock; /* of all below; taken after a device's */
	struct host_range *ranges;
	uint32_t refs; /* devices */
};

struct host_rule {
	struct kvh_host_rule rule;
	uint64_t first; /* the call's number that it hits first; 0: the slot is free */
};

/*
 *            an operation fails          running == 0
 *   alive -----------------------> dying ------------> dead
 *
 * dying: nothing starts any more, what is queued is dropped, what runs ends.
 * Only a dead device says so: by then no operation touches memory.
 *
 *   dead == failed && running == 0
 */
struct host_device {
	struct kvh_device base;
	uint32_t number; /* among those that are open together */
	/* Calls that have to wait run operations by themselves, one at a time. Alone:
	 * the stepped form, kvh_host_step runs the others. With `threaded`: a simulation
	 * calls the rounds of the streams' threads. */
	bool stepped;
	bool threaded; /* streams have threads */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* an operation arrived or ended, a release, a failure */
	struct host_stream *streams;
	struct host_registry *registry;
	struct host_range *mem; /* mem_alloc's */
	uint64_t n_mem;         /* allocations and events not freed yet, for the log at close */
	uint64_t n_events;
	bool failed;
	uint32_t running;
	bool null_capturing;
	struct host_rule rules[HOST_RULES_MAX];
	uint64_t counts[KVH_HOST_NCALLS];
	uint64_t copied[KVH_COPY_D2D + 1]; /* bytes, by kind */
	uint64_t releases;
	uint32_t held_callers;
};

static inline struct host_device *host_of(struct kvh_device *dev)
{
	return (struct host_device *)dev;
}

static inline bool host_dead(const struct host_device *dev)
{
	return dev->failed && dev->running == 0;
}

/* device_host_memory.c: the table's functions. */
int kvh_host_mem_alloc(struct kvh_device *base, uint64_t bytes, void **mem_p);
int kvh_host_host_alloc(struct kvh_device *base, uint64_t bytes, void **mem_p);
void kvh_host_mem_free(struct kvh_device *base, void *mem); /* of both */
int kvh_host_owns(struct kvh_device *base, const void *mem);
int kvh_host_register(struct kvh_device *base, void *mem, uint64_t bytes);
int kvh_host_unregister(struct kvh_device *base, void *mem);
/* A registry of its own, or that of `beside`. */
int kvh_host_memory_open(struct host_device *dev, struct kvh_device *beside);
/* Logs what was not given back, and forgets it. */
void kvh_host_memory_close(struct host_device *dev);

/* Locks, and counts a call that is counted when called. On failure unlocked. */
int kvh_host_call_begin(struct host_device *dev, enum kvh_host_call call);

/* Everything below is called with dev->lock held. */

/* device_host_rules.c. Of a device that nobody knows yet: kvh_host_rule_next's. */
void kvh_host_rules_take_next(struct kvh_device *base);
/* Counts a call and asks the rules. */
struct host_verdict kvh_host_judge(struct host_device *dev, enum kvh_host_call call);
bool kvh_host_is_held(const struct host_device *dev, const struct host_verdict *verdict);
/* Still to be slow? Once not, verdict->until is 0. */
bool kvh_host_is_slow(const struct host_device *dev, struct host_verdict *verdict);
/* A call that is counted when called: counts, waits, returns -error or 0. */
int kvh_host_called(struct host_device *dev, enum kvh_host_call call, bool *lie);
/* Waits on `cond` for a change, or until the verdict's time. */
void kvh_host_pause(struct host_device *dev, pthread_cond_t *cond,
		    const struct host_verdict *verdict);

/* device_host_stream.c */
struct host_stream *kvh_host_stream_new(struct host_device *dev, int *err_p);
void kvh_host_stream_close(struct host_stream *stream);
/* Joins and frees the streams that are finished; `all`: waits for the others,
 * which must be closing. */
void kvh_host_streams_reap(struct host_device *dev, bool all);
void kvh_host_streams_wake(struct host_device *dev);
/* Queues or, on the NULL stream, runs a chain of n operations, which it takes. */
int kvh_host_post(struct host_device *dev, struct host_stream *stream, struct host_op *chain);
void kvh_host_ops_free(struct host_op *chain);
void kvh_host_mark_put(struct host_mark *mark);
/* One step of the stepped form. */
bool kvh_host_step_locked(struct host_device *dev, uint64_t choice);

#endif
