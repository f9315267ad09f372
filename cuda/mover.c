/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover.c - the mover's thread, and its life from open to close.
 *
 * The thread makes passes: take over what was accepted, look at the oldest
 * events, feed stores. It sleeps without a limit while there is nothing to do, for
 * 2 ms at most while anything is in flight, as no notice comes from a device that
 * has died, and until the store rate allows another stage. With a spin it goes on
 * looking for so long before it sleeps.
 * In threadless form kvh_mover_step makes the passes.
 */
#include "cuda/mover_impl.h"
#include "host/log.h"
#include "host/spin.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

void kvh_mover_kick(struct kvh_mover *mover)
{
	/* Fails only when the counter is full: then the thread wakes anyway. */
	(void)eventfd_write(mover->wake, 1);
}

/* A query that fails on a device that lives says nothing; waiting does. */
int kvh_mover_reached(struct kvh_mover *mover, kvh_event_mark event, kvh_stream stream)
{
	int rc = kvh_mover_ops(mover)->event_query(mover->dev, event);

	if (rc >= 0 || kvh_mover_ops(mover)->dead(mover->dev))
		return rc;
	kvh_warn("mover: an event can't be queried (%s): waiting for its stream",
		 strerror(-rc));
	rc = kvh_mover_ops(mover)->stream_wait(mover->dev, stream);
	return rc ? rc : 1;
}

void kvh_lane_notice(struct kvh_lane *lane, kvh_event_mark event)
{
	struct kvh_device *dev = lane->mover->dev;

	if (dev->ops->stream_wait_event(dev, lane->notice, event) == 0)
		(void)dev->ops->notify(dev, lane->notice, lane->mover->wake);
}

/* ---- a pass ----------------------------------------------------------- */

static bool load_take(struct kvh_lane *lane)
{
	bool moved;

	pthread_mutex_lock(&lane->mover->lock);
	moved = !TAILQ_EMPTY(&lane->inbox);
	TAILQ_CONCAT(&lane->active, &lane->inbox, of_lane);
	pthread_mutex_unlock(&lane->mover->lock);
	return moved;
}

bool kvh_lane_bury(struct kvh_lane *lane)
{
	struct kvh_move_run *run;
	bool moved = !TAILQ_EMPTY(&lane->active);

	lane->broken = NULL;
	kvh_rate_idle(&lane->rate);
	pthread_mutex_lock(&lane->mover->lock);
	if (!lane->load)
		lane->sent = lane->done = lane->fed;
	pthread_mutex_unlock(&lane->mover->lock);
	while ((run = TAILQ_FIRST(&lane->active))) {
		atomic_store(&run->error, -EIO);
		run->move->pages_lost = lane->load;
		run->done = run->sent;
		kvh_run_end(run);
	}
	return moved;
}

/* Nothing runs on a dead device any more, so nothing touches pages or payloads. */
static bool mover_bury(struct kvh_mover *mover)
{
	bool moved;

	if (!mover->death_seen)
		kvh_err("mover: the device has died, every move ends with -EIO");
	mover->death_seen = true;
	moved = kvh_lane_bury(&mover->load);
	return kvh_lane_bury(&mover->store) || moved;
}

/* Of moves that were taken over, has any not ended? */
static bool mover_busy(const struct kvh_mover *mover)
{
	return !TAILQ_EMPTY(&mover->load.active) || !TAILQ_EMPTY(&mover->store.active);
}

/* Is anything on the device, whose end nobody may tell? */
static bool mover_in_flight(const struct kvh_mover *mover)
{
	return !TAILQ_EMPTY(&mover->load.active) || mover->store.done < mover->store.sent ||
	       mover->store.broken;
}

/* Stores that wait for layers have nothing on the device whose query would fail
 * when it has died: some event is asked for. */
static void mover_feel(struct kvh_mover *mover)
{
	if (mover_busy(mover) && !mover_in_flight(mover))
		(void)kvh_mover_ops(mover)->event_query(mover->dev,
							mover->store.stages[0].empty);
}

static bool mover_pass(struct kvh_mover *mover)
{
	bool moved;

	kvh_pulse_set(&mover->pulse.waiting_ns, 0); /* before a look at what waits */
	moved = load_take(&mover->load);
	moved |= kvh_store_take(&mover->store);
	mover_feel(mover);
	if (kvh_mover_ops(mover)->dead(mover->dev))
		return mover_bury(mover) || moved;
	if (atomic_load(&mover->stopping))
		moved |= kvh_lane_stop(&mover->store);
	moved |= kvh_load_reap(&mover->load);
	moved |= kvh_store_reap(&mover->store);
	moved |= kvh_store_feed(&mover->store);
	return moved;
}

bool kvh_mover_step(struct kvh_mover *mover)
{
	assert(mover->threadless);
	return mover_pass(mover);
}

/* When to look without having been woken. */
static uint64_t mover_alarm_ns(const struct kvh_mover *mover)
{
	const struct kvh_rate *rate = &mover->store.rate;
	uint64_t alarm_ns = UINT64_MAX;

	if (mover_in_flight(mover))
		alarm_ns = kvh_deadline_ns(KVH_MOVER_POLL_NS);
	else if (mover_busy(mover))
		alarm_ns = kvh_deadline_ns(KVH_MOVER_IDLE_NS);
	if (rate->held && rate->due_ns < alarm_ns)
		alarm_ns = rate->due_ns;
	return alarm_ns;
}

/* Look again at once? Not in a simulation, whose time stands still meanwhile. What
 * wakes the thread is looked for in the pass itself; its eventfd stays raised until
 * the thread sleeps. */
static bool mover_spins(const struct kvh_mover *mover)
{
	uint64_t spin_ns = atomic_load(&mover->spin_ns);

	if (spin_ns == 0 || kvh_simulated() || !mover_in_flight(mover) ||
	    kvh_now_ns() - mover->moved_ns >= spin_ns)
		return false;
	kvh_spin_pause();
	return true;
}

/* True: it was woken, or its alarm has come. */
static bool mover_sleep(struct kvh_mover *mover, bool wait)
{
	uint64_t alarm_ns = mover->thread.alarm_ns;
	bool woken = kvh_fd_wait(mover->wake, wait ? alarm_ns : 0) == 0;
	eventfd_t ignored;

	if (woken)
		(void)eventfd_read(mover->wake, &ignored); /* clear first, then look */
	return woken || wait || kvh_now_ns() >= alarm_ns;
}

static enum kvh_round mover_round(void *arg, enum kvh_wake wake)
{
	struct kvh_mover *mover = arg;
	bool stopping;

	if (!mover->moved && !mover_spins(mover)) {
		kvh_pulse_set(&mover->pulse.busy_ns, 0);
		if (!mover_sleep(mover, wake == KVH_WAKE_WAIT) && wake == KVH_WAKE_IF_READY)
			return KVH_ROUND_ASLEEP;
	}
	kvh_pulse_set(&mover->pulse.busy_ns, kvh_now_ns());
	/* Asked before the pass: what was accepted until then is seen in it. */
	stopping = atomic_load(&mover->stopping);
	mover->moved = mover_pass(mover);
	if (mover->moved)
		mover->moved_ns = kvh_now_ns();
	if (!mover->moved && stopping && !mover_busy(mover)) {
		kvh_pulse_set(&mover->pulse.busy_ns, 0);
		return KVH_ROUND_END;
	}
	mover->thread.alarm_ns = mover_alarm_ns(mover);
	return KVH_ROUND_DONE;
}

void kvh_mover_cancel(struct kvh_mover *mover, struct kvh_move *move)
{
	pthread_mutex_lock(&mover->lock);
	if (move->run && !move->run->lane->load) {
		move->run->cancelled = true;
		kvh_run_call(move->run);
	}
	pthread_mutex_unlock(&mover->lock);
	kvh_mover_kick(mover);
}

void kvh_mover_set_store_rate(struct kvh_mover *mover, uint64_t bytes_per_s)
{
	atomic_store(&mover->store.rate.bytes_per_s, bytes_per_s);
	kvh_mover_kick(mover);
}

void kvh_mover_set_spin(struct kvh_mover *mover, uint64_t ns)
{
	atomic_store(&mover->spin_ns, ns);
}

/* ---- life ------------------------------------------------------------- */

/*
 * Loads go before stores where both wait, by the streams' priorities alone: of a
 * scatter and gathers that are all ready the scatter is next, so it waits for the one
 * gather that runs, a stage of tens of microseconds, however many were enqueued ahead.
 * For the link nothing has to be held: stores and loads take a copy engine each, and
 * both at once reach what the two engines reach alone. So feeding does not look at loads.
 * Of a store only page numbers, some KB, go the loads' way.
 */
static int lane_open(struct kvh_mover *mover, struct kvh_lane *lane, bool load)
{
	struct kvh_device *dev = mover->dev;
	int rc;

	rc = dev->ops->stream_create(dev, load ? 2 : 1, &lane->kernel);
	if (rc == 0)
		rc = dev->ops->stream_create(dev, 0, &lane->copy);
	if (rc == 0)
		rc = dev->ops->stream_create(dev, 0, &lane->notice);
	if (rc == 0 && !load)
		rc = dev->ops->stream_create(dev, 0, &lane->order);
	for (uint32_t i = 0; i < mover->n_stages && rc == 0; i++) {
		rc = dev->ops->event_create(dev, &lane->stages[i].full);
		if (rc == 0)
			rc = dev->ops->event_create(dev, &lane->stages[i].empty);
	}
	lane->batch.kind = load ? KVH_COPY_H2D : KVH_COPY_D2H;
	lane->batch.stream = lane->copy;
	lane->batch.pinned_base = mover->pinned_base;
	lane->batch.pinned_stride = mover->pinned_stride;
	return rc;
}

static void lane_init(struct kvh_mover *mover, struct kvh_lane *lane, bool load)
{
	lane->mover = mover;
	lane->load = load;
	pthread_mutex_init(&lane->enqueue, NULL);
	TAILQ_INIT(&lane->active);
	TAILQ_INIT(&lane->inbox);
	TAILQ_INIT(&lane->feed);
	TAILQ_INIT(&lane->calls);
}

/* All moves have ended; what may still be on the device is of ours alone. Not so
 * the order stream: it may wait for callers' work that nobody needs any more. */
static void lane_close(struct kvh_lane *lane)
{
	struct kvh_device *dev = lane->mover->dev;
	kvh_stream streams[] = {lane->kernel, lane->copy, lane->notice, lane->order};

	for (unsigned i = 0; i < 4; i++) {
		if (!streams[i])
			continue;
		if (streams[i] != lane->order)
			(void)dev->ops->stream_wait(dev, streams[i]);
		dev->ops->stream_destroy(dev, streams[i]);
	}
	for (uint32_t i = 0; i < lane->mover->n_stages; i++) {
		if (lane->stages[i].full)
			dev->ops->event_destroy(dev, lane->stages[i].full);
		if (lane->stages[i].empty)
			dev->ops->event_destroy(dev, lane->stages[i].empty);
	}
	kvh_runs_free(lane);
	kvh_grants_free(lane);
	pthread_mutex_destroy(&lane->enqueue);
}

/* Also of a mover that is half open. */
static void mover_free(struct kvh_mover *mover)
{
	lane_close(&mover->load);
	lane_close(&mover->store);
	kvh_stages_free(mover);
	kvh_pages_free(mover);
	/* A dead device was not waited for: a notice of its may still come, and must
	 * not find another file behind this number. */
	if (mover->wake >= 0 && !kvh_mover_ops(mover)->dead(mover->dev))
		close(mover->wake);
	pthread_mutex_destroy(&mover->measuring);
	pthread_mutex_destroy(&mover->lock);
	free(mover);
}

static int mover_start(struct kvh_mover *mover)
{
	if (mover->threadless)
		return 0;
	mover->thread.name = "kvh-mover";
	mover->thread.round = mover_round;
	mover->thread.arg = mover;
	return kvh_thread_start(&mover->thread);
}

int kvh_mover_open(struct kvh_device *dev, const struct kvh_mover_opts *opts,
		   struct kvh_mover **mover_p)
{
	struct kvh_mover *mover;
	struct kvh_device_info info;
	int rc;

	if (opts->n_stages > KVH_STAGES_MAX) {
		kvh_err("mover: %u stages, at most %u", opts->n_stages, KVH_STAGES_MAX);
		return -EINVAL;
	}
	mover = calloc(1, sizeof(*mover));
	if (!mover)
		return -ENOMEM;
	mover->dev = dev;
	mover->n_stages = opts->n_stages ? opts->n_stages : KVH_STAGES;
	mover->want_bytes = opts->stage_bytes ? opts->stage_bytes : KVH_STAGE_BYTES;
	mover->threadless = opts->threadless;
	dev->ops->info(dev, &info);
	mover->layer_bytes = opts->layer_bytes ? opts->layer_bytes : info.n_sms == 0;
	mover->pinned_base = (uintptr_t)opts->pinned_base;
	mover->pinned_stride = opts->pinned_stride;
	mover->way = opts->way;
	mover->calibrate = opts->calibrate;
	mover->burst = opts->burst;
	atomic_init(&mover->gentle, opts->gentle);
	pthread_mutex_init(&mover->lock, NULL);
	pthread_mutex_init(&mover->measuring, NULL);
	lane_init(mover, &mover->store, false);
	lane_init(mover, &mover->load, true);
	mover->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rc = mover->wake < 0 ? -errno : lane_open(mover, &mover->store, false);
	if (rc == 0)
		rc = lane_open(mover, &mover->load, true);
	if (rc == 0)
		rc = mover_start(mover);
	if (rc) {
		kvh_err("mover: open: %s", strerror(-rc));
		mover_free(mover);
		return rc;
	}
	*mover_p = mover;
	return 0;
}

/* Threadless: nobody else makes passes, so wait for what they wait for. */
static void mover_run_dry(struct kvh_mover *mover)
{
	struct kvh_device *dev = mover->dev;

	do {
		while (mover_pass(mover))
			;
		(void)dev->ops->stream_wait(dev, mover->store.copy);
		(void)dev->ops->stream_wait(dev, mover->load.kernel);
	} while (mover_pass(mover) || mover_busy(mover));
}

void kvh_mover_close(struct kvh_mover *mover)
{
	atomic_store(&mover->stopping, true);
	kvh_mover_kick(mover);
	if (mover->threadless)
		mover_run_dry(mover);
	else
		kvh_thread_join(&mover->thread);
	mover_free(mover);
}

const struct kvh_pulse *kvh_mover_pulse(const struct kvh_mover *mover)
{
	return &mover->pulse;
}
