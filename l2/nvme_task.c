/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_task.c - the requests of the nvme adapter, from submit to done. On the
 * controller thread, or that of close; nothing blocks.
 *
 * A request's way; its task lies in its scratch:
 *
 *    PUT     WAITING --a slot--> WRITING --ok, nothing replaced--> DONE
 *               |                  |  +--ok, replaced--> [PARKED -->] WIPING --> DONE
 *               |                  +-------failed-------------------> WIPING --> DONE
 *               +--no room, cancelled--> DONE
 *    GET     READING --> DONE
 *    DELETE  [PARKED -->] WIPING --> DONE
 *    PROBE   DONE
 *
 * PARKED: the slot to be wiped is still read by a GET; the last one goes on with
 * it. A PUT writes into a slot that no GET can find until all of it is written;
 * what was there under the key goes after that.
 */
#include "l2/nvme.h"

#include "host/log.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#define RETRY_PUTS 64u /* so many PUTs later, bad slots and segments are tried again */
#define IDLE_EVERY 16u /* evictions from one search for an idle segment to the next */

enum task_state {
	TASK_NEW,
	TASK_WAITING,
	TASK_WRITING,
	TASK_READING,
	TASK_PARKED,
	TASK_WIPING,
	TASK_DONE,
	TASK_STATES
};

#define TO(s) (1u << TASK_##s)
static const uint8_t task_next[TASK_STATES] = {
	[TASK_NEW] = TO(WAITING) | TO(READING) | TO(PARKED) | TO(WIPING) | TO(DONE),
	[TASK_WAITING] = TO(WRITING) | TO(DONE),
	[TASK_WRITING] = TO(PARKED) | TO(WIPING) | TO(DONE),
	[TASK_READING] = TO(DONE),
	[TASK_PARKED] = TO(WIPING),
	[TASK_WIPING] = TO(DONE),
};

struct task {
	struct kvh_nvme_io io; /* first: the engine gives it back */
	uint32_t state;        /* enum task_state */
	uint32_t slot;         /* written, read, or to be wiped */
	int status;            /* what the request will end with */
	uint32_t place;        /* in nvme->active */
} __attribute__((__may_alias__));
_Static_assert(sizeof(struct task) <= sizeof(((struct kvh_l2_req *)0)->scratch),
	       "a task fits in the scratch");

static struct task *task_of(struct kvh_l2_req *req)
{
	return (struct task *)req->scratch;
}

static struct kvh_l2_req *req_of(struct kvh_nvme_io *io)
{
	return (struct kvh_l2_req *)((char *)io - offsetof(struct kvh_l2_req, scratch));
}

static void task_move(struct kvh_l2_req *req, enum task_state to)
{
	assert(task_next[task_of(req)->state] & (1u << to));
	task_of(req)->state = (uint32_t)to;
}

void kvh_nvme_start(struct kvh_nvme *nvme, struct kvh_nvme_io *io, enum kvh_io_dir dir,
		    void *buf, uint64_t len, uint64_t off, uint32_t region)
{
	io->buf = buf;
	io->off = off;
	io->len = len;
	io->done = 0;
	io->region = region;
	io->result = 0;
	io->dir = (uint8_t)dir;
	io->retries = 0;
	io->cancelled = false;
	nvme->running++;
	nvme->engine_ops->start(nvme->engine, io);
}

static void finish(struct kvh_nvme *nvme, struct kvh_l2_req *req, int status)
{
	struct kvh_l2_req *last = nvme->active[--nvme->n_active];
	uint32_t place = task_of(req)->place;

	task_move(req, TASK_DONE);
	nvme->active[place] = last;
	task_of(last)->place = place;
	req->status = status;
	kvh_req_push(&nvme->done, req);
}

/* ---- wiping ---- */

static void wipe(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	struct task *task = task_of(req);

	task_move(req, TASK_WIPING);
	kvh_nvme_slot_wipe(&nvme->index, task->slot);
	kvh_nvme_start(nvme, &task->io, KVH_IO_WRITE, nvme->zeros, KVH_NVME_PAGE,
		       kvh_nvme_slot_offset(&nvme->index, task->slot), KVH_NVME_NONE);
}

/* The slot is DOOMED: it is wiped as soon as no GET reads it. */
static void dispose(struct kvh_nvme *nvme, struct kvh_l2_req *req, uint32_t slot)
{
	task_of(req)->slot = slot;
	if (kvh_nvme_slot_at(&nvme->index, slot)->pins == 0) {
		wipe(nvme, req);
		return;
	}
	task_move(req, TASK_PARKED);
	kvh_req_push(&nvme->parked, req);
}

static void unpark(struct kvh_nvme *nvme, uint32_t slot)
{
	struct kvh_l2_req *req = nvme->parked.head;

	while (task_of(req)->slot != slot)
		req = req->next; /* it is there: who doomed the slot waits for it */
	(void)kvh_req_take(&nvme->parked, req);
	wipe(nvme, req);
}

static void wiped(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	struct task *task = task_of(req);

	kvh_nvme_slot_wiped(&nvme->index, task->slot, task->io.result == 0);
	if (task->io.result < 0)
		kvh_warn("nvme: %s: slot at %" PRIu64 " cannot be wiped, is set aside: %s",
			 nvme->conf.path, task->io.off, strerror(-task->io.result));
	if (req->op == KVH_L2_DELETE)
		task->status = task->io.result;
	finish(nvme, req, task->status);
}

/* ---- PUT ---- */

/* A segment in which the class can get more slots: for nothing; else now and
 * then, or if it has no frame to evict, one that has been idle for longer. */
static uint32_t find_segment(struct kvh_nvme *nvme, uint32_t class)
{
	struct kvh_nvme_index *index = &nvme->index;
	bool none = index->classes[class].lived.oldest == KVH_NVME_NONE;
	uint32_t segment = kvh_nvme_segment_room(index, class);

	if (segment != KVH_NVME_NONE || kvh_nvme_growing(nvme))
		return segment;
	if (none || index->evicted % IDLE_EVERY == 0)
		segment = kvh_nvme_segment_idle(index, class);
	if (segment == KVH_NVME_NONE && none)
		kvh_nvme_segment_drain(index, class);
	return segment;
}

/* A slot for a frame of `len` bytes. -EAGAIN: something has to end first. */
static int find_slot(struct kvh_nvme *nvme, uint64_t len, uint32_t *slot_p)
{
	struct kvh_nvme_index *index = &nvme->index;
	uint32_t class = kvh_nvme_class_get(index, len);
	uint32_t segment;

	*slot_p = kvh_nvme_slot_take(index, class);
	if (*slot_p != KVH_NVME_NONE)
		return 0;
	if (kvh_nvme_growing(nvme) && nvme->grow.class == class)
		return -EAGAIN;
	segment = find_segment(nvme, class);
	if (segment != KVH_NVME_NONE) {
		if (!kvh_nvme_growing(nvme))
			kvh_nvme_grow_start(nvme, segment, class);
		return -EAGAIN;
	}
	*slot_p = kvh_nvme_slot_evict(index, class);
	if (*slot_p != KVH_NVME_NONE)
		return 0;
	if (nvme->running > 0)
		return -EAGAIN;
	return nvme->grow.status < 0 ? nvme->grow.status : -ENOSPC;
}

/* PUTs that wait are tried again, in their order. */
static void pump(struct kvh_nvme *nvme)
{
	struct kvh_req_fifo all = nvme->waiting;
	struct kvh_l2_req *req;

	nvme->waiting = (struct kvh_req_fifo){NULL, NULL};
	while ((req = kvh_req_pop(&all)) != NULL) {
		struct task *task = task_of(req);
		int ret = find_slot(nvme, req->len, &task->slot);

		if (ret == -EAGAIN) {
			kvh_req_push(&nvme->waiting, req);
		} else if (ret < 0) {
			finish(nvme, req, ret);
		} else {
			task_move(req, TASK_WRITING);
			kvh_nvme_start(nvme, &task->io, KVH_IO_WRITE, req->buf, req->len,
				       kvh_nvme_slot_offset(&nvme->index, task->slot),
				       req->region);
		}
	}
}

static void written(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	struct task *task = task_of(req);
	uint32_t before;

	task->status = task->io.result;
	if (task->status < 0) {
		wipe(nvme, req); /* part of it may be there, header and all */
		return;
	}
	before = kvh_nvme_slot_publish(&nvme->index, task->slot, &req->key);
	if (before != KVH_NVME_NONE)
		dispose(nvme, req, before);
	else
		finish(nvme, req, 0);
}

/* ---- the other operations ---- */

static void get(struct kvh_nvme *nvme, struct kvh_l2_req *req, uint32_t slot)
{
	if (req->len != kvh_nvme_slot_bytes(&nvme->index, slot)) {
		finish(nvme, req, -EIO); /* rule 5 */
		return;
	}
	task_move(req, TASK_READING);
	task_of(req)->slot = slot;
	kvh_nvme_slot_pin(&nvme->index, slot);
	kvh_nvme_start(nvme, &task_of(req)->io, KVH_IO_READ, req->buf, req->len,
		       kvh_nvme_slot_offset(&nvme->index, slot), req->region);
}

static void got(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	uint32_t slot = task_of(req)->slot;

	kvh_nvme_slot_unpin(&nvme->index, slot);
	finish(nvme, req, task_of(req)->io.result);
	if (kvh_nvme_slot_at(&nvme->index, slot)->pins == 0 &&
	    kvh_nvme_slot_at(&nvme->index, slot)->state == KVH_NVME_DOOMED)
		unpark(nvme, slot);
}

static void dispatch(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	uint32_t slot;

	if (req->op == KVH_L2_PUT) {
		task_move(req, TASK_WAITING);
		kvh_req_push(&nvme->waiting, req);
		if (++nvme->puts % RETRY_PUTS == 0)
			kvh_nvme_index_retry(&nvme->index);
		return;
	}
	slot = kvh_nvme_index_find(&nvme->index, &req->key);
	if (slot == KVH_NVME_NONE) {
		finish(nvme, req, -ENOENT);
	} else if (req->op == KVH_L2_GET) {
		get(nvme, req, slot);
	} else if (req->op == KVH_L2_PROBE) {
		req->len = kvh_nvme_slot_bytes(&nvme->index, slot);
		finish(nvme, req, 0);
	} else {
		kvh_nvme_slot_doom(&nvme->index, slot);
		dispose(nvme, req, slot);
	}
}

/* ---- what nvme.c calls ---- */

void kvh_nvme_task_begin(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	*task_of(req) = (struct task){.state = TASK_NEW, .place = nvme->n_active};
	nvme->active[nvme->n_active++] = req;
	dispatch(nvme, req);
	pump(nvme);
	if (nvme->done.head != NULL)
		kvh_event_raise(nvme->efd);
}

void kvh_nvme_task_cancel(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	switch ((enum task_state)task_of(req)->state) {
	case TASK_WAITING:
		(void)kvh_req_take(&nvme->waiting, req);
		finish(nvme, req, -ECANCELED);
		kvh_event_raise(nvme->efd);
		break;
	case TASK_WRITING:
	case TASK_READING: nvme->engine_ops->cancel(nvme->engine, &task_of(req)->io); break;
	case TASK_NEW:
	case TASK_PARKED:
	case TASK_WIPING: /* ends soon */
	case TASK_DONE:
	case TASK_STATES: break;
	}
}

static void io_ended(struct kvh_nvme *nvme, struct kvh_nvme_io *io)
{
	struct kvh_l2_req *req;

	nvme->running--;
	if (io->owner == KVH_NVME_OWNER_GROW) {
		kvh_nvme_grow_ended(nvme, io);
		return;
	}
	req = req_of(io);
	switch ((enum task_state)task_of(req)->state) {
	case TASK_WRITING: written(nvme, req); break;
	case TASK_READING: got(nvme, req); break;
	case TASK_WIPING: wiped(nvme, req); break;
	case TASK_NEW:
	case TASK_WAITING:
	case TASK_PARKED:
	case TASK_DONE:
	case TASK_STATES: assert(false); /* nobody waits for a transfer */
	}
}

void kvh_nvme_task_advance(struct kvh_nvme *nvme)
{
	struct kvh_nvme_io *io;

	while ((io = nvme->engine_ops->reap(nvme->engine)) != NULL) {
		while (io != NULL) {
			struct kvh_nvme_io *next = io->next;

			io_ended(nvme, io);
			io = next;
		}
		pump(nvme);
	}
}
