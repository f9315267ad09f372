/* SPDX-License-Identifier: Apache-2.0 */
/*
 * req.h - what adapters share about requests: a FIFO through kvh_l2_req.next,
 * the check of a request against the caps, and the end of reap that rule 4
 * describes. No lock of its own: the adapter's thread, or under its lock.
 */
#ifndef KVH_L2_REQ_H
#define KVH_L2_REQ_H

#include "l2/l2.h"

#include <errno.h>
#include <stddef.h>
#include <sys/eventfd.h>

struct kvh_req_fifo {
	struct kvh_l2_req *head, *tail; /* both NULL: empty */
};

static inline void kvh_req_push(struct kvh_req_fifo *fifo, struct kvh_l2_req *req)
{
	req->next = NULL;
	if (fifo->tail != NULL)
		fifo->tail->next = req;
	else
		fifo->head = req;
	fifo->tail = req;
}

static inline struct kvh_l2_req *kvh_req_pop(struct kvh_req_fifo *fifo)
{
	struct kvh_l2_req *req = fifo->head;

	if (req == NULL)
		return NULL;
	fifo->head = req->next;
	if (fifo->head == NULL)
		fifo->tail = NULL;
	req->next = NULL;
	return req;
}

/* Takes `req` out from anywhere; false if it is not in. Linear. */
static inline bool kvh_req_take(struct kvh_req_fifo *fifo, struct kvh_l2_req *req)
{
	struct kvh_l2_req *before = NULL;

	for (struct kvh_l2_req *r = fifo->head; r != NULL; before = r, r = r->next) {
		if (r != req)
			continue;
		if (before != NULL)
			before->next = req->next;
		else
			fifo->head = req->next;
		if (fifo->tail == req)
			fifo->tail = before;
		req->next = NULL;
		return true;
	}
	return false;
}

/* 0, or -EINVAL: a request that the adapter has to refuse. */
static inline int kvh_req_check(const struct kvh_l2_req *req, const struct kvh_l2_caps *caps)
{
	switch (req->op) {
	case KVH_L2_PROBE:
	case KVH_L2_DELETE: return 0;
	case KVH_L2_CLEAR: return caps->clear ? 0 : -EINVAL;
	case KVH_L2_FLUSH: return caps->flush ? 0 : -EINVAL;
	case KVH_L2_PUT:
	case KVH_L2_GET: break;
	default: return -EINVAL;
	}
	if (req->buf == NULL || req->len == 0 || req->len > caps->max_len)
		return -EINVAL;
	return ((uintptr_t)req->buf | req->len) & (caps->align - 1) ? -EINVAL : 0;
}

static inline void kvh_event_raise(int fd)
{
	(void)eventfd_write(fd, 1); /* EAGAIN: it is as readable as can be */
}

static inline void kvh_event_clear(int fd)
{
	eventfd_t ignored;

	(void)eventfd_read(fd, &ignored); /* EAGAIN: it was clear */
}

#endif
