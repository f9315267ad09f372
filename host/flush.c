/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flush.c - a flush ends when all that was stored before it has reached the
 * adapters or failed, and they have made it last. The controller's thread.
 *
 *   HEARING --all that was pushed before is looked at--> PICKING
 *   PICKING --every dirty frame is on its way----------> WAITING
 *   WAITING --its epoch and all before are empty-------> SYNCING
 *   SYNCING --every adapter has answered---------------> ended
 *
 * An epoch counts the stores between two flushes. They are in order, and only the
 * oldest ones can be over:
 *
 *   items alive == sum of the epochs' n
 */
#include "host/flush.h"

#include "host/store_impl.h"
#include "host/thread.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct kvh_epoch {
	struct kvh_epoch *next;
	uint64_t n;
	bool failed;             /* one of its stores */
	struct kvh_flush *flush; /* that ends it; NULL: is open, or cancelled */
	bool cut;
};

/* A FLUSH of each adapter that has one: outlives the flush where one hangs. */
struct sync {
	struct kvh_flush *flush; /* NULL: has ended */
	uint32_t pending, out;
	bool failed;
	struct sync_task {
		struct kvh_l2_task task;
		struct sync *sync;
	} tasks[KVH_ADAPTERS_MAX];
};

/* ---- epochs -------------------------------------------------------------- */

int kvh_epochs_open(struct kvh_controller *c)
{
	c->epoch = c->oldest_epoch = calloc(1, sizeof(*c->epoch));
	return c->epoch != NULL ? 0 : -ENOMEM;
}

/* What has not ended is told so. */
void kvh_flush_close(struct kvh_controller *c)
{
	while (c->flushes != NULL)
		kvh_flush_cancel(c->flushes);
	while (c->oldest_epoch != NULL) {
		struct kvh_epoch *epoch = c->oldest_epoch;

		c->oldest_epoch = epoch->next;
		if (epoch->flush != NULL)
			kvh_flush_cancel(epoch->flush);
		free(epoch);
	}
}

struct kvh_epoch *kvh_epoch_enter(struct kvh_controller *c)
{
	c->epoch->n++;
	return c->epoch;
}

void kvh_epoch_leave(struct kvh_controller *c, struct kvh_epoch *epoch, bool failed)
{
	(void)c; /* kvh_flush_tick sees that it is empty */
	assert(epoch->n > 0);
	epoch->n--;
	epoch->failed |= failed;
}

/* ---- syncing ------------------------------------------------------------- */

static void flush_end(struct kvh_flush *flush, bool failed)
{
	flush->sync = NULL;
	flush->ended(flush, failed ? -EIO : 0);
}

static void sync_put(struct sync *sync)
{
	if (--sync->out == 0)
		free(sync);
}

static void sync_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	struct sync *sync = ((struct sync_task *)task)->sync;

	sync->failed |= status != 0;
	if (--sync->pending == 0 && sync->flush != NULL)
		flush_end(sync->flush, sync->failed);
	if (buffer_free)
		sync_put(sync);
}

static void sync_returned(struct kvh_l2_task *task)
{
	sync_put(((struct sync_task *)task)->sync);
}

static void sync_begin(struct kvh_controller *c, struct kvh_flush *flush, bool failed)
{
	struct sync *sync = NULL;

	uint32_t adapters = c->stopping ? 0 : c->adapter_bits;

	for (uint32_t left = adapters; left != 0; left &= left - 1) {
		uint32_t a = (uint32_t)__builtin_ctz(left);
		struct sync_task *t;

		if (!kvh_adapter_caps(c->adapters[a])->flush)
			continue;
		if (sync == NULL)
			sync = calloc(1, sizeof(*sync));
		if (sync == NULL) {
			flush_end(flush, true);
			return;
		}
		t = &sync->tasks[sync->out++];
		t->sync = sync;
		t->task.req.op = KVH_L2_FLUSH;
		t->task.ended = sync_ended;
		t->task.returned = sync_returned;
		kvh_adapter_submit(c->adapters[a], &t->task);
	}
	if (sync == NULL) {
		flush_end(flush, failed);
		return;
	}
	sync->flush = flush;
	sync->failed = failed;
	sync->pending = sync->out;
	flush->sync = sync;
}

/* ---- a flush -------------------------------------------------------------- */

/* PICKING -> WAITING: what was stored up to here is its epoch. */
static void flush_cut(struct kvh_controller *c, struct kvh_flush *flush)
{
	kvh_defer_release(c);
	kvh_seal_post(c);
	c->epoch->failed |= __atomic_exchange_n(&c->unheard, false, __ATOMIC_RELAXED);
	c->epoch->cut = true;
	c->epoch->flush = flush;
	c->epoch->next = flush->epoch;
	flush->waits = c->epoch;
	c->epoch = flush->epoch;
	flush->epoch = NULL;
}

void kvh_flush_tick(struct kvh_controller *c)
{
	struct kvh_flush *flush;

	c->picking = false;
	while ((flush = c->flushes) != NULL && flush->target <= c->processed) {
		c->picking = !kvh_demote_all(c);
		if (c->picking)
			break;
		c->flushes = flush->next;
		flush_cut(c, flush);
	}
	while (c->oldest_epoch->cut && c->oldest_epoch->n == 0) {
		struct kvh_epoch *epoch = c->oldest_epoch;

		c->oldest_epoch = epoch->next;
		if (epoch->flush != NULL) {
			epoch->flush->waits = NULL;
			sync_begin(c, epoch->flush, epoch->failed);
		}
		free(epoch);
	}
}

static void flush_start(struct kvh_loop_work *work)
{
	struct kvh_flush *flush = (struct kvh_flush *)((char *)work -
						       offsetof(struct kvh_flush, start));
	struct kvh_flush **at = &flush->controller->flushes;

	/* In order of their targets, so that epochs follow each other as flushes do. */
	while (*at != NULL && (*at)->target <= flush->target)
		at = &(*at)->next;
	flush->next = *at;
	*at = flush;
}

int kvh_controller_flush(struct kvh_controller *c, struct kvh_flush *flush)
{
	flush->epoch = calloc(1, sizeof(*flush->epoch));
	if (flush->epoch == NULL)
		return -ENOMEM;
	flush->controller = c;
	flush->waits = NULL;
	flush->sync = NULL;
	flush->target = kvh_listener_pushed(&c->listener);
	flush->start.run = flush_start;
	kvh_loop_post(c->loop, &flush->start);
	return 0;
}

void kvh_flush_cancel(struct kvh_flush *flush)
{
	struct kvh_flush **at;

	if (flush->sync != NULL) {
		flush->sync->flush = NULL;
	} else if (flush->waits != NULL) {
		flush->waits->flush = NULL;
	} else {
		kvh_demote_all_cancel(flush->controller);
		for (at = &flush->controller->flushes; *at != flush; at = &(*at)->next)
			;
		*at = flush->next;
		free(flush->epoch);
	}
	flush->ended(flush, -ECANCELED);
}

/* ---- waiting for one ------------------------------------------------------ */

/* Two may have it: who waits, and the flush. */
struct drain {
	struct kvh_flush flush;
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t over;
	bool ended;
	uint32_t refs;
};

static void drain_put(struct drain *drain)
{
	bool last;

	pthread_mutex_lock(&drain->lock);
	last = --drain->refs == 0;
	pthread_mutex_unlock(&drain->lock);
	if (!last)
		return;
	pthread_cond_destroy(&drain->over);
	pthread_mutex_destroy(&drain->lock);
	free(drain);
}

static void drain_ended(struct kvh_flush *flush, int status)
{
	struct drain *drain = (struct drain *)flush;

	(void)status;
	pthread_mutex_lock(&drain->lock);
	drain->ended = true;
	pthread_cond_broadcast(&drain->over);
	pthread_mutex_unlock(&drain->lock);
	drain_put(drain);
}

bool kvh_controller_drain_wait(struct kvh_controller *c, uint64_t deadline_ns)
{
	struct drain *drain = calloc(1, sizeof(*drain));
	int err = 0;
	bool ended;

	if (drain == NULL)
		return false;
	pthread_mutex_init(&drain->lock, NULL);
	kvh_cond_init(&drain->over);
	drain->flush.ended = drain_ended;
	drain->refs = 2;
	if (kvh_controller_flush(c, &drain->flush) != 0)
		drain_put(drain);
	pthread_mutex_lock(&drain->lock);
	while (!drain->ended && drain->refs == 2 && err == 0)
		err = kvh_cond_wait(&drain->over, &drain->lock, deadline_ns);
	ended = drain->ended;
	pthread_mutex_unlock(&drain->lock);
	drain_put(drain);
	return ended;
}
