/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_store.c - pages -> payloads, through a stage or directly.
 *
 * A call records the order point and hands over. The mover's thread does the
 * rest: it feeds the oldest run that has something to feed, stage by stage as
 * long as the ring has a free one and the rate allows it, and frees stages oldest
 * first when their last copy was seen done. Units of two runs, of two parts, or of
 * layers given apart never share a stage: a store of a few small chunks does not fill
 * its stage.
 *
 * What a pass costs does not grow with what is pending: one query, of the oldest
 * stage; what ended is found by its last stage; and a run that got layers looks for
 * its place among the older ones that have something to feed.
 *
 * A gather stands behind its order point in the lane's stream, so that the stores
 * behind it wait for that, too; they do not wait for layers that were not given.
 */
#include "cuda/mover_impl.h"

#include <assert.h>
#include <errno.h>

static int store_order(struct kvh_mover *mover, const struct kvh_move *move, kvh_stream stream,
		       kvh_event_mark event)
{
	if (move->n_parts == 0 || (stream && event))
		return -EINVAL;
	if (!move->layered)
		return kvh_run_order_check(mover, stream, event);
	if (stream || event)
		return -EINVAL;
	return kvh_mover_ops(mover)->dead(mover->dev) ? -EIO : 0;
}

int kvh_mover_store(struct kvh_mover *mover, struct kvh_move *move, kvh_stream stream,
		    kvh_event_mark event)
{
	struct kvh_lane *lane = &mover->store;
	struct kvh_grant *grant;
	struct kvh_move_run *run;
	int rc = store_order(mover, move, stream, event);

	if (rc)
		return rc;
	rc = kvh_run_begin(lane, move, &run);
	if (rc)
		return rc;
	if (!move->layered) {
		rc = kvh_grant_make(lane, (uint64_t)KVH_LAYER_ALL + 1, stream, event, &grant);
		if (rc) {
			kvh_run_recycle(run);
			return rc;
		}
		kvh_grant_give(run, grant); /* nobody else knows it yet */
	}
	kvh_run_accept(run);
	return 0;
}

static void lane_check(const struct kvh_lane *lane)
{
	assert(lane->done <= lane->sent && lane->sent <= lane->fed);
	assert(lane->fed <= lane->done + lane->mover->n_stages);
}

/* ---- feeding ---------------------------------------------------------- */

/* Moves on to the part that has units to feed, of the layers that are being fed;
 * false if there is none. */
static bool run_band(struct kvh_move_run *run, struct kvh_band *band)
{
	const struct kvh_move *move = run->move;

	for (; run->part < move->n_parts; run->part++, run->unit = 0) {
		const struct kvh_move_part *part = &move->parts[run->part];
		const struct kvh_plan *plan = part->plan->plan;
		uint32_t first = kvh_plan_planes_below(plan, run->fed_to);
		uint32_t end = kvh_plan_planes_below(plan, run->feed_to);

		if (part->n && first < end) {
			kvh_band_init(band, part, first, end);
			if (run->unit < band->total)
				return true;
		}
		run->part_page += (uint64_t)part->n * plan->pages_per_chunk;
	}
	return false;
}

/* The memory may be replaced by a larger one at any time: moves that were accepted
 * before keep what they got. */
static struct kvh_stage *stage_take(struct kvh_lane *lane, unsigned char **mem_p,
				    uint64_t *room_p)
{
	struct kvh_stage *stage = &lane->stages[lane->fed % lane->mover->n_stages];

	pthread_mutex_lock(&lane->mover->lock);
	*mem_p = stage->mem;
	*room_p = lane->mover->stage_bytes;
	lane->fed++;
	pthread_mutex_unlock(&lane->mover->lock);
	return stage;
}

/* All before stage `end` are free; of stages that were taken and not sent, too. */
static void stages_free(struct kvh_lane *lane, uint64_t end)
{
	pthread_mutex_lock(&lane->mover->lock);
	lane->done = end;
	pthread_mutex_unlock(&lane->mover->lock);
}

/* GATHER, then COPY. Direct copies come behind the order point, too, and so behind
 * what the kernel stream has waited for. */
static int stage_fill(struct kvh_lane *lane, struct kvh_stage *stage,
		      const struct kvh_band *band, uint64_t first, uint64_t end,
		      unsigned char *mem, const uint32_t *dev_pages)
{
	struct kvh_device *dev = lane->mover->dev;
	bool direct = kvh_way_is_direct(lane, band->part->plan);
	struct kvh_pack pack;
	int rc = 0;

	if (!direct) {
		kvh_band_pack(band, first, end, dev_pages, mem, &pack);
		pack.ctas = lane->mover->burst;
		rc = dev->ops->gather(dev, &pack, lane->kernel);
	}
	if (rc == 0)
		rc = dev->ops->event_record(dev, stage->full, lane->kernel);
	if (rc == 0)
		rc = dev->ops->stream_wait_event(dev, lane->copy, stage->full);
	if (rc == 0)
		rc = direct ? kvh_direct_copy(band, first, end, dev, &lane->batch)
			    : kvh_band_copy(band, NULL, first, end, mem, dev, &lane->batch);
	if (rc == 0)
		rc = dev->ops->event_record(dev, stage->empty, lane->copy);
	return rc;
}

static int run_feed_stage(struct kvh_lane *lane, struct kvh_move_run *run,
			  const struct kvh_band *band)
{
	unsigned char *mem;
	uint64_t room, end;
	struct kvh_stage *stage = stage_take(lane, &mem, &room);
	bool last = band->plane_end == band->plan->n_planes;
	int rc;

	end = kvh_band_cut(band, run->unit, room);
	stage->run = run;
	stage->part = run->part;
	/* A chunk is whole with the last unit of its last planes. */
	stage->chunk_end = last ? end / band->units : 0;
	stage->chunk_first = last ? run->unit / band->units : 0;
	rc = stage_fill(lane, stage, band, run->unit, end, mem,
			run->pages->dev + run->part_page);
	if (rc)
		return rc;
	kvh_rate_take(&lane->rate,
		      kvh_band_position(band, end) - kvh_band_position(band, run->unit));
	run->unit = end;
	run->sent++;
	lane->sent++;
	kvh_lane_notice(lane, stage->empty);
	return 0;
}

/* Onto the list of those to feed, by age. New ones are the youngest. */
static void run_queue(struct kvh_lane *lane, struct kvh_move_run *run)
{
	struct kvh_move_run *at;

	kvh_run_set_state(run, KVH_RUN_QUEUED);
	TAILQ_FOREACH(at, &lane->feed, of_feed)
	{
		if (at->seq > run->seq) {
			TAILQ_INSERT_BEFORE(at, run, of_feed);
			return;
		}
	}
	TAILQ_INSERT_TAIL(&lane->feed, run, of_feed);
}

/* No more of this one: it has all that it will have on the device. */
static void run_leave(struct kvh_lane *lane, struct kvh_move_run *run, enum kvh_run_state to)
{
	if (run->state != KVH_RUN_WAITING)
		TAILQ_REMOVE(&lane->feed, run, of_feed);
	kvh_run_set_state(run, to);
	if (to == KVH_RUN_FED && run->done == run->sent)
		kvh_run_end(run);
}

static bool run_has_grants(struct kvh_move_run *run)
{
	bool has;

	pthread_mutex_lock(&run->lane->mover->lock);
	has = run->grants != NULL;
	pthread_mutex_unlock(&run->lane->mover->lock);
	return has;
}

/* What was given has been fed. */
static void run_end_round(struct kvh_lane *lane, struct kvh_move_run *run)
{
	run->fed_to = run->feed_to;
	run->part = 0;
	run->unit = run->part_page = 0;
	if (run->fed_to >= run->layer_end)
		run_leave(lane, run, KVH_RUN_FED);
	else if (run_has_grants(run))
		kvh_run_set_state(run, KVH_RUN_QUEUED);
	else
		run_leave(lane, run, KVH_RUN_WAITING);
}

/* Page numbers go with the first stage, whose end says that they have arrived: the
 * buffer is another's when the run ends. */
static int run_feed_units(struct kvh_lane *lane, struct kvh_move_run *run,
			  const struct kvh_band *band)
{
	int rc = run->pages_sent ? 0 : kvh_run_send_pages(run);

	run->pages_sent = true;
	return rc ? rc : run_feed_stage(lane, run, band);
}

/* A stage at most. */
static void run_feed(struct kvh_lane *lane, struct kvh_move_run *run)
{
	struct kvh_band band;
	int rc = 0;

	if (run->state == KVH_RUN_QUEUED) {
		kvh_run_set_state(run, KVH_RUN_FEEDING);
		rc = kvh_grants_begin(run);
	}
	if (rc == 0 && run_band(run, &band))
		rc = run_feed_units(lane, run, &band);
	if (rc) {
		lane->broken = run;
		TAILQ_REMOVE(&lane->feed, run, of_feed);
		kvh_run_break(run, rc);
	} else if (!run_band(run, &band)) {
		run_end_round(lane, run);
	}
}

bool kvh_store_feed(struct kvh_lane *lane)
{
	bool moved = false;

	while (!lane->broken && !TAILQ_EMPTY(&lane->feed) &&
	       lane->fed < lane->done + lane->mover->n_stages && kvh_rate_allows(&lane->rate)) {
		run_feed(lane, TAILQ_FIRST(&lane->feed));
		moved = true;
	}
	if (lane->broken || TAILQ_EMPTY(&lane->feed))
		kvh_rate_idle(&lane->rate);
	lane_check(lane);
	return moved;
}

/* ---- what was called for ---------------------------------------------- */

static void take_inbox(struct kvh_lane *lane)
{
	struct kvh_move_run *run;

	while ((run = TAILQ_FIRST(&lane->inbox))) {
		TAILQ_REMOVE(&lane->inbox, run, of_lane);
		TAILQ_INSERT_TAIL(&lane->active, run, of_lane);
		if (run->state == KVH_RUN_QUEUED)
			TAILQ_INSERT_TAIL(&lane->feed, run, of_feed);
	}
}

static bool run_may_feed(const struct kvh_move_run *run)
{
	return run->state == KVH_RUN_WAITING || run->state == KVH_RUN_QUEUED ||
	       run->state == KVH_RUN_FEEDING;
}

bool kvh_store_take(struct kvh_lane *lane)
{
	struct kvh_mover *mover = lane->mover;
	struct kvh_move_run *run;
	bool moved, cancelled;

	pthread_mutex_lock(&mover->lock);
	moved = !TAILQ_EMPTY(&lane->inbox) || !TAILQ_EMPTY(&lane->calls);
	for (;;) {
		/* Again each time: while the lock was away one more may have been
		 * accepted, and called for. */
		take_inbox(lane);
		run = TAILQ_FIRST(&lane->calls);
		if (!run)
			break;
		TAILQ_REMOVE(&lane->calls, run, of_calls);
		run->called = false;
		cancelled = run->cancelled;
		pthread_mutex_unlock(&mover->lock);
		if (cancelled && run_may_feed(run))
			run_leave(lane, run, KVH_RUN_FED);
		else if (run->state == KVH_RUN_WAITING)
			run_queue(lane, run);
		pthread_mutex_lock(&mover->lock);
	}
	pthread_mutex_unlock(&mover->lock);
	return moved;
}

bool kvh_lane_stop(struct kvh_lane *lane)
{
	struct kvh_move_run *run = TAILQ_FIRST(&lane->active), *next;
	bool moved = false;

	for (; run; run = next) {
		next = TAILQ_NEXT(run, of_lane);
		if (run_may_feed(run)) {
			run_leave(lane, run, KVH_RUN_FED);
			moved = true;
		}
	}
	return moved;
}

/* ---- what is done ----------------------------------------------------- */

static void reap_stage(struct kvh_lane *lane, struct kvh_stage *stage)
{
	struct kvh_move_run *run = stage->run;

	run->done++;
	kvh_run_settle(run, stage->part, stage->chunk_first, stage->chunk_end);
	stages_free(lane, lane->done + 1);
	if (run->state == KVH_RUN_FED && run->done == run->sent)
		kvh_run_end(run);
}

/* Its end is the last that is on the device; then the stage that it took is free. */
static bool reap_broken(struct kvh_lane *lane)
{
	struct kvh_move_run *run = lane->broken;

	if (!run || lane->done < lane->sent || !kvh_run_drained(run))
		return false;
	lane->broken = NULL;
	lane->sent = lane->fed;
	stages_free(lane, lane->fed);
	kvh_run_end(run);
	return true;
}

bool kvh_store_reap(struct kvh_lane *lane)
{
	struct kvh_mover *mover = lane->mover;
	bool moved = false;

	while (lane->done < lane->sent) {
		struct kvh_stage *stage = &lane->stages[lane->done % mover->n_stages];

		if (kvh_mover_reached(mover, stage->empty, lane->copy) != 1)
			break;
		reap_stage(lane, stage);
		moved = true;
	}
	moved |= reap_broken(lane);
	lane_check(lane);
	return moved;
}
