/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_host.h - what tests may do to the host device: hold, fail, slow or
 * falsify any one call, and run it step by step. Any thread.
 */
#ifndef KVH_CUDA_DEVICE_HOST_H
#define KVH_CUDA_DEVICE_HOST_H

#include "cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a rule counts. COPY, GATHER, SCATTER, RECORD, WAIT_EVENT and NOTIFY are
 * counted when the stream runs them; the others when they are called. */
enum kvh_host_call {
	KVH_HOST_MEM_ALLOC,
	KVH_HOST_HOST_ALLOC,
	KVH_HOST_REGISTER,
	KVH_HOST_STREAM_CREATE,
	KVH_HOST_EVENT_CREATE,
	KVH_HOST_ENQUEUE, /* any enqueueing call, at the call: e.g. to fail a submission */
	KVH_HOST_QUERY,
	KVH_HOST_COPY,
	KVH_HOST_GATHER,
	KVH_HOST_SCATTER,
	KVH_HOST_RECORD,
	KVH_HOST_WAIT_EVENT,
	KVH_HOST_NOTIFY,
	KVH_HOST_NCALLS
};

enum kvh_host_action {
	KVH_HOST_HOLD, /* the stream stops before it, until kvh_host_release */
	KVH_HOST_FAIL, /* called: returns -error. Run by a stream: a context error, the device
			  dies */
	KVH_HOST_SLOW, /* takes ns longer */
	KVH_HOST_LIE, /* QUERY: says 1. WAIT_EVENT: does not wait. NOTIFY: is lost. COPY: copies
		       * nothing. Negative controls. */
};

struct kvh_host_rule {
	enum kvh_host_call call;
	enum kvh_host_action action;
	uint64_t nth;   /* the first call from now that it hits, 1-based; 0 is 1 */
	uint64_t count; /* how many; 0 is 1, UINT64_MAX: all that follow */
	int error;      /* FAIL: positive errno */
	uint64_t ns;    /* SLOW; in the stepped form so many steps of a stream */
};

/* Adds a rule; at most 16 that can still hit. `dev` must be a host device. Rules
 * for the same call add up; a failing one fails after it was held.
 * -EINVAL  no such call, or an action it does not have; -ENOSPC  too many */
int kvh_host_rule_add(struct kvh_device *dev, const struct kvh_host_rule *rule);
/* The same, of the next host device that is opened, and no other: for what happens
 * before anybody has its address. */
int kvh_host_rule_next(const struct kvh_host_rule *rule);
/* Lets all that is held go on, and drops all rules. */
void kvh_host_release(struct kvh_device *dev);
/* How often a call was counted since open. */
uint64_t kvh_host_count(struct kvh_device *dev, enum kvh_host_call call);
/* How many bytes copies of the kind have moved since open: what crossed the link. */
uint64_t kvh_host_copied(struct kvh_device *dev, enum kvh_copy_kind kind);
/* How many streams, and callers, stand held right now. */
uint32_t kvh_host_held(struct kvh_device *dev);
/* Waits until at least n do. Not in the stepped form: nothing gets there. */
void kvh_host_held_wait(struct kvh_device *dev, uint32_t n);
/* How many ranges are registered right now. */
uint32_t kvh_host_registered(struct kvh_device *dev);
/* How many streams of a priority are open. */
uint32_t kvh_host_streams(struct kvh_device *dev, int priority);
/* Marks a stream (NULL: that one) as under capture. */
void kvh_host_set_capturing(struct kvh_device *dev, kvh_stream stream, bool capturing);

/* Stepped form: runs one operation of one stream that can go on, `choice`
 * modulo how many there are. Returns false if none can. Calls that have to wait
 * (stream_wait, work on the NULL stream that waits for an event) step by
 * themselves, and are -EDEADLK when nothing can go on. */
bool kvh_host_step(struct kvh_device *dev, uint64_t choice);

#ifdef __cplusplus
}
#endif
#endif
