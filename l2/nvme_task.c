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
 *    DELETE  [BEHIND -->] [PARKED -->] WIPING --> DONE
 *    PROBE   DONE
 *    CLEAR   CLEARING --all wiped--> DONE
 *    FLUSH   FLUSHING --by the side thread--> DONE
 *
 * BEHIND: an older frame of the key gave way, and is still on the medium: the
 * DELETE waits until a crash could not bring it back; where nothing helps, it fails. PARKED:
 * the slot to be wiped is still read by a GET; the last one goes on with it. A PUT writes into
 * a slot that no GET can find until all of it is written; what was there under the key goes
 * after that.
 */
#include "l2/nvme.h"

#include "host/frame.h"
#include "host/log.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#define RETRY_PUTS 64u /* so many PUTs later, bad slots and segments are tried again */

enum task_state {
	TASK_NEW,
	TASK_WAITING,
	TASK_WRITING,
	TASK_READING,
	TASK_BEHIND,
	TASK_PARKED,
	TASK_WIPING,
	TASK_CLEARING,
	TASK_FLUSHING,
	TASK_DONE,
	TASK_STATES
};

#define TO(s) (1u << TASK_##s)
static const uint16_t task_next[TASK_STATES] = {
	[TASK_NEW] = TO(WAITING) | TO(READING) | TO(BEHIND) | TO(PARKED) | TO(WIPING) |
		     TO(CLEARING) | TO(FLUSHING) | TO(DONE),
	[TASK_WAITING] = TO(WRITING) | TO(DONE),
	[TASK_WRITING] = TO(PARKED) | TO(WIPING) | TO(DONE),
	[TASK_READING] = TO(DONE),
	[TASK_BEHIND] = TO(PARKED) | TO(WIPING) | TO(DONE),
	[TASK_PARKED] = TO(WIPING),
	[TASK_WIPING] = TO(DONE),
	[TASK_CLEARING] = TO(DONE),
	[TASK_FLUSHING] = TO(DONE),
};

struct task {
	struct kvh_nvme_io io; /* first: the engine gives it back */
	struct kvh_nvme_stripe *stripe;
	uint32_t state; /* enum task_state */
	uint32_t slot;  /* written, read, or to be wiped */
	int status;     /* what the request will end with */
	uint32_t place; /* in nvme->active */
	bool marked;    /* a CLEAR waits for it */
	bool tried;     /* DELETE: BAD slots like it were wiped again */
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

/* ---- stripes ---- */

/* The same for ever: where a frame is looked for depends on it. */
struct kvh_nvme_stripe *kvh_nvme_stripe_of(const struct kvh_nvme *nvme,
					   const struct kvh_key *key)
{
	struct kvh_nvme_stripe *stripe = nvme->stripes;
	uint64_t at;

	if (nvme->n_stripes == 1)
		return stripe;
	at = (uint64_t)((unsigned __int128)kvh_nvme_layout_hash(key) * nvme->bytes >> 64);
	for (; at >= stripe->file->super->bytes; stripe++)
		at -= stripe->file->super->bytes;
	return stripe;
}

void kvh_nvme_start(struct kvh_nvme_stripe *stripe, struct kvh_nvme_io *io,
		    enum kvh_nvme_kind kind, void *buf, uint64_t len, uint64_t off,
		    uint32_t region)
{
	io->buf = buf;
	io->off = off;
	io->len = len;
	io->done = 0;
	io->region = region;
	io->result = 0;
	io->dir = kind == KVH_NVME_LOAD ? KVH_IO_READ : KVH_IO_WRITE;
	io->kind = (uint8_t)kind;
	io->retries = 0;
	io->cancelled = false;
	stripe->running++;
	kvh_nvme_sched_start(&stripe->sched, io);
}

void kvh_nvme_task_finish(struct kvh_nvme *nvme, struct kvh_l2_req *req, int status)
{
	struct kvh_l2_req *last = nvme->active[--nvme->n_active];
	uint32_t place = task_of(req)->place;

	task_move(req, TASK_DONE);
	nvme->clear.pending -= task_of(req)->marked;
	nvme->active[place] = last;
	task_of(last)->place = place;
	req->status = status;
	kvh_req_push(&nvme->done, req);
}

static void finish(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req, int status)
{
	kvh_nvme_task_finish(stripe->nvme, req, status);
}

/* ---- wiping ---- */

static void wipe(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req)
{
	struct task *task = task_of(req);

	task_move(req, TASK_WIPING);
	kvh_nvme_slot_wipe(&stripe->index, task->slot);
	kvh_nvme_start(stripe, &task->io, KVH_NVME_STORE, stripe->nvme->zeros, KVH_NVME_PAGE,
		       kvh_nvme_slot_offset(&stripe->index, task->slot), KVH_NVME_NONE);
}

/* The slot is DOOMED: it is wiped as soon as no GET reads it. */
static void dispose(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req, uint32_t slot)
{
	task_of(req)->slot = slot;
	if (kvh_nvme_slot_at(&stripe->index, slot)->pins == 0) {
		wipe(stripe, req);
		return;
	}
	task_move(req, TASK_PARKED);
	kvh_req_push(&stripe->parked, req);
}

/* The last GET of a DOOMED slot has ended: who doomed it waits for that, or the
 * wiper does. */
static void unpark(struct kvh_nvme_stripe *stripe, uint32_t slot)
{
	struct kvh_l2_req *req = stripe->parked.head;

	while (req != NULL && task_of(req)->slot != slot)
		req = req->next;
	if (req == NULL) {
		stripe->wiper.orphans--;
		kvh_nvme_wipe_later(stripe, slot);
		return;
	}
	(void)kvh_req_take(&stripe->parked, req);
	wipe(stripe, req);
}

static void wiped(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req)
{
	struct task *task = task_of(req);
	bool delete = req->op == KVH_L2_DELETE;
	bool sound = task->status == 0 || task->status == -ECANCELED;

	kvh_nvme_wiped(stripe, task->slot, task->io.result,
		       delete  ? KVH_NVME_DELETED
		       : sound ? KVH_NVME_REPLACED
			       : KVH_NVME_NOT_WRITTEN);
	finish(stripe, req, delete &&task->io.result < 0 ? task->io.result : task->status);
}

/* ---- PUT ---- */

void kvh_nvme_task_write(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req, uint32_t slot)
{
	struct task *task = task_of(req);

	task_move(req, TASK_WRITING);
	task->slot = slot;
	kvh_nvme_start(stripe, &task->io, KVH_NVME_STORE, req->buf, req->len,
		       kvh_nvme_slot_offset(&stripe->index, slot), req->region);
}

static uint32_t tag_of(const void *frame)
{
	return (uint32_t)((const struct kvh_frame_header *)frame)->header_checksum;
}

static void written(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req)
{
	struct task *task = task_of(req);
	uint32_t before;

	task->status = task->io.result;
	if (task->status != -ECANCELED)
		stripe->write_errors = task->status < 0 ? stripe->write_errors + 1 : 0;
	if (task->status < 0) {
		wipe(stripe, req); /* part of it may be there, header and all */
		return;
	}
	before = kvh_nvme_slot_publish(&stripe->index, task->slot, &req->key, tag_of(req->buf));
	if (before != KVH_NVME_NONE)
		dispose(stripe, req, before);
	else
		finish(stripe, req, 0);
}

/* ---- the other operations ---- */

static void get(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req, uint32_t slot)
{
	if (req->len != kvh_nvme_slot_bytes(&stripe->index, slot)) {
		finish(stripe, req, -EIO); /* rule 5 */
		return;
	}
	task_move(req, TASK_READING);
	task_of(req)->slot = slot;
	kvh_nvme_slot_pin(&stripe->index, slot);
	kvh_nvme_start(stripe, &task_of(req)->io, KVH_NVME_LOAD, req->buf, req->len,
		       kvh_nvme_slot_offset(&stripe->index, slot), req->region);
}

/* What was read is not what was written, though it may be a sound frame of the
 * key: an older one, where the disk lost a write, or one that it put elsewhere. */
static bool is_stale(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req, uint32_t slot)
{
	if (task_of(req)->io.result < 0 ||
	    tag_of(req->buf) == kvh_nvme_slot_at(&stripe->index, slot)->tag)
		return false;
	if (!stripe->nvme->stale_said)
		kvh_warn("nvme: %s: at %" PRIu64 " is not the frame that was written there; "
			 "others like it are missed without a word",
			 stripe->file->path, kvh_nvme_slot_offset(&stripe->index, slot));
	stripe->nvme->stale_said = true;
	return true;
}

static void got(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req)
{
	uint32_t slot = task_of(req)->slot;
	bool stale = is_stale(stripe, req, slot);

	kvh_nvme_slot_unpin(&stripe->index, slot);
	finish(stripe, req, stale ? -EIO : task_of(req)->io.result);
	if (kvh_nvme_slot_at(&stripe->index, slot)->pins == 0 &&
	    kvh_nvme_slot_at(&stripe->index, slot)->state == KVH_NVME_DOOMED)
		unpark(stripe, slot);
}

/* After a flush that failed nobody can say what is on the medium: the kernel
 * has forgotten which writes were lost, and the next flush would succeed. */
static void flush(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	struct kvh_nvme_io *io = &task_of(req)->io;

	if (nvme->flush_failed || nvme->conf.sync == KVH_NVME_SYNC_WRITE) {
		kvh_nvme_task_finish(nvme, req, nvme->flush_failed ? -EIO : 0);
		return;
	}
	task_move(req, TASK_FLUSHING);
	io->dir = KVH_NVME_FLUSH;
	io->region = 0;
	nvme->stripes[0].running++;
	kvh_nvme_side_start(nvme->side, io);
}

void kvh_nvme_flush_failed(struct kvh_nvme *nvme, int error)
{
	if (!nvme->flush_failed)
		kvh_err("nvme: %s: a flush failed (%s): nothing is called durable until it is "
			"opened again",
			nvme->conf.path, strerror(-error));
	nvme->flush_failed = true;
	for (uint32_t i = 0; i < nvme->n_stripes; i++)
		nvme->stripes[i].grow.lost = true;
}

static void flushed(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	if (task_of(req)->io.result < 0)
		kvh_nvme_flush_failed(nvme, task_of(req)->io.result);
	kvh_nvme_task_finish(nvme, req, nvme->flush_failed ? -EIO : 0);
}

static void dispatch_put(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req)
{
	const struct kvh_nvme *nvme = stripe->nvme;

	if (nvme->health != NULL && kvh_nvme_health_full(nvme->health)) {
		finish(stripe, req, -ENOSPC);
		return;
	}
	task_move(req, TASK_WAITING);
	kvh_req_push(&stripe->waiting, req);
	if (++stripe->puts % RETRY_PUTS != 0)
		return;
	kvh_nvme_index_retry(&stripe->index);
	kvh_nvme_wipe_oldest(stripe);
	if (!kvh_nvme_growing(stripe))
		stripe->grow.status = 0;
}

/* It writes over a slot, wipes it or is to, or is the last to read what is to be. */
static bool is_on_medium(const struct kvh_nvme_stripe *stripe, const struct task *task)
{
	switch ((enum task_state)task->state) {
	case TASK_WRITING:
	case TASK_PARKED:
	case TASK_WIPING: return true;
	case TASK_READING:
		return kvh_nvme_slot_at(&stripe->index, task->slot)->state == KVH_NVME_DOOMED;
	case TASK_NEW:
	case TASK_WAITING:
	case TASK_BEHIND:
	case TASK_CLEARING:
	case TASK_FLUSHING:
	case TASK_DONE:
	case TASK_STATES: break;
	}
	return false;
}

/* A frame of the key that gave way may still be on the medium, for a while. Linear
 * in the requests under way; DELETEs are rare. */
static bool may_come_back(const struct kvh_nvme_stripe *stripe, const struct kvh_key *key)
{
	const struct kvh_nvme *nvme = stripe->nvme;

	if (kvh_nvme_unsettled(stripe) || kvh_nvme_wiper_has(stripe, key))
		return true;
	for (uint32_t i = 0; i < nvme->n_active; i++) {
		const struct task *task = task_of(nvme->active[i]);

		if (task->stripe == stripe && is_on_medium(stripe, task) &&
		    kvh_nvme_slot_resembles(&stripe->index, task->slot, key))
			return true;
	}
	return false;
}

static void dispatch_delete(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req)
{
	struct task *task = task_of(req);
	uint32_t slot;

	if (!task->tried)
		kvh_nvme_wipe_again(stripe, &req->key);
	task->tried = true;
	if (may_come_back(stripe, &req->key)) {
		if (task->state != TASK_BEHIND)
			task_move(req, TASK_BEHIND);
		kvh_req_push(&stripe->behind, req);
		return;
	}
	if (stripe->index.unsettled > 0 || kvh_nvme_bad_has(stripe, &req->key))
		task->status = -EIO; /* it goes, but may come back */
	slot = kvh_nvme_index_find(&stripe->index, &req->key);
	if (slot == KVH_NVME_NONE) {
		finish(stripe, req, task->status < 0 ? task->status : -ENOENT);
		return;
	}
	kvh_nvme_slot_doom(&stripe->index, slot);
	dispose(stripe, req, slot);
}

/* GET, PROBE */
static void dispatch_find(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req)
{
	uint32_t slot = kvh_nvme_index_find(&stripe->index, &req->key);

	if (slot == KVH_NVME_NONE) {
		finish(stripe, req, -ENOENT);
	} else if (req->op == KVH_L2_GET) {
		get(stripe, req, slot);
	} else {
		req->len = kvh_nvme_slot_bytes(&stripe->index, slot);
		finish(stripe, req, 0);
	}
}

static void dispatch(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	struct kvh_nvme_stripe *stripe = task_of(req)->stripe;

	switch (req->op) {
	case KVH_L2_PUT: dispatch_put(stripe, req); break;
	case KVH_L2_GET:
	case KVH_L2_PROBE: dispatch_find(stripe, req); break;
	case KVH_L2_DELETE: dispatch_delete(stripe, req); break;
	case KVH_L2_CLEAR:
		task_move(req, TASK_CLEARING);
		kvh_nvme_clear_begin(nvme, req);
		break;
	case KVH_L2_FLUSH: flush(nvme, req); break;
	}
}

static void retry_behind(struct kvh_nvme_stripe *stripe)
{
	struct kvh_req_fifo all = stripe->behind;
	struct kvh_l2_req *req;

	stripe->behind = (struct kvh_req_fifo){NULL, NULL};
	while ((req = kvh_req_pop(&all)) != NULL)
		dispatch_delete(stripe, req);
}

void kvh_nvme_task_mark(struct kvh_nvme *nvme)
{
	for (uint32_t i = 0; i < nvme->n_active; i++) {
		struct task *task = task_of(nvme->active[i]);

		if (task->marked || (task->state != TASK_WRITING &&
				     task->state != TASK_PARKED && task->state != TASK_WIPING))
			continue;
		task->marked = true;
		nvme->clear.pending++;
	}
}

/* ---- what nvme.c calls ---- */

void kvh_nvme_task_begin(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	struct kvh_nvme_stripe *stripe = kvh_nvme_stripe_of(nvme, &req->key);

	*task_of(req) = (struct task){
		.state = TASK_NEW,
		.place = nvme->n_active,
		.stripe = stripe,
	};
	nvme->active[nvme->n_active++] = req;
	dispatch(nvme, req);
	kvh_nvme_pump(stripe);
	kvh_nvme_grow_settle(stripe);
	if (nvme->done.head != NULL)
		kvh_event_raise(nvme->efd);
}

void kvh_nvme_task_cancel(struct kvh_nvme *nvme, struct kvh_l2_req *req)
{
	struct task *task = task_of(req);

	switch ((enum task_state)task->state) {
	case TASK_WAITING:
		(void)kvh_req_take(&task->stripe->waiting, req);
		kvh_nvme_task_finish(nvme, req, -ECANCELED);
		kvh_event_raise(nvme->efd);
		break;
	case TASK_WRITING:
	case TASK_READING:
		kvh_nvme_sched_cancel(&task->stripe->sched, &task->io);
		kvh_event_raise(nvme->efd);
		break;
	case TASK_BEHIND:
		(void)kvh_req_take(&task->stripe->behind, req);
		kvh_nvme_task_finish(nvme, req, -ECANCELED);
		kvh_event_raise(nvme->efd);
		break;
	case TASK_CLEARING: kvh_nvme_clear_cancel(nvme, req); break;
	case TASK_NEW:
	case TASK_PARKED:
	case TASK_WIPING: /* ends soon, as does a flush */
	case TASK_FLUSHING:
	case TASK_DONE:
	case TASK_STATES: break;
	}
}

static void io_ended(struct kvh_nvme_stripe *stripe, struct kvh_nvme_io *io)
{
	struct kvh_l2_req *req;

	stripe->running--;
	if (io->owner == KVH_NVME_OWNER_GROW) {
		kvh_nvme_grow_ended(stripe, io);
		return;
	}
	if (io->owner == KVH_NVME_OWNER_WIPE) {
		kvh_nvme_wipe_ended(stripe, io);
		return;
	}
	req = req_of(io);
	switch ((enum task_state)task_of(req)->state) {
	case TASK_WRITING: written(stripe, req); break;
	case TASK_READING: got(stripe, req); break;
	case TASK_WIPING: wiped(stripe, req); break;
	case TASK_FLUSHING: flushed(stripe->nvme, req); break;
	case TASK_NEW:
	case TASK_WAITING:
	case TASK_BEHIND:
	case TASK_PARKED:
	case TASK_CLEARING:
	case TASK_DONE:
	case TASK_STATES: assert(false); /* nobody waits for a transfer */
	}
}

static bool side_advance(struct kvh_nvme *nvme)
{
	struct kvh_nvme_io *io = kvh_nvme_side_reap(nvme->side), *next;
	bool any = io != NULL;

	for (; io != NULL; io = next) {
		next = io->next;
		io_ended(&nvme->stripes[io->region], io);
	}
	return any;
}

static bool stripe_advance(struct kvh_nvme_stripe *stripe)
{
	struct kvh_nvme_io *io = kvh_nvme_sched_reap(&stripe->sched), *next;
	bool buffered = !stripe->file->direct &&
			stripe->nvme->conf.direct == KVH_NVME_DIRECT_AUTO;
	bool any = io != NULL;

	for (; io != NULL; io = next) {
		next = io->next;
		stripe->buffered += buffered;
		io_ended(stripe, io);
	}
	return any;
}

/* A PUT may wait for what ends in another stripe: its space's limit is for all. */
void kvh_nvme_task_advance(struct kvh_nvme *nvme)
{
	bool any;

	for (uint32_t i = 0; i < nvme->n_stripes; i++)
		kvh_nvme_sched_plug(&nvme->stripes[i].sched, true);
	do {
		any = side_advance(nvme);
		for (uint32_t i = 0; i < nvme->n_stripes; i++)
			any |= stripe_advance(&nvme->stripes[i]);
		kvh_nvme_clear_advance(nvme);
		for (uint32_t i = 0; i < nvme->n_stripes; i++) {
			kvh_nvme_pump(&nvme->stripes[i]);
			kvh_nvme_grow_settle(&nvme->stripes[i]);
			retry_behind(&nvme->stripes[i]);
		}
	} while (any);
	for (uint32_t i = 0; i < nvme->n_stripes; i++)
		kvh_nvme_sched_plug(&nvme->stripes[i].sched, false);
}
