/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_store.c - pages -> stage -> payloads.
 *
 * A call records the order point and hands over. The mover's thread does the
 * rest: it feeds the oldest run stage by stage as long as the ring has a free
 * one, and frees stages oldest first when their last copy was seen done. Units
 * of two runs, or of two parts, never share a stage: a store of a few small
 * chunks does not fill its stage.
 */
#include "cuda/mover_impl.h"

#include <assert.h>
#include <errno.h>

int kvh_mover_store(struct kvh_mover *mover, struct kvh_move *move, kvh_stream stream,
		    kvh_event_mark event)
{
	struct kvh_move_run *run;
	int rc;

	if (move->n_parts == 0 || (stream && event))
		return -EINVAL;
	rc = kvh_run_order_check(mover, stream, event);
	if (rc)
		return rc;
	rc = kvh_run_begin(&mover->store, move, &run);
	if (rc)
		return rc;
	rc = kvh_run_order(run, stream, event);
	if (rc) {
		kvh_run_recycle(run);
		return rc;
	}
	kvh_run_accept(run);
	return 0;
}

static void lane_check(const struct kvh_lane *lane)
{
	assert(lane->done <= lane->sent && lane->sent <= lane->fed);
	assert(lane->fed <= lane->done + lane->mover->n_stages);
}

/* Moves on to the part that has units to feed; false if there is none. */
static bool run_has_more(struct kvh_move_run *run)
{
	const struct kvh_move *move = run->move;

	for (; run->part < move->n_parts; run->part++, run->unit = 0) {
		const struct kvh_move_part *part = &move->parts[run->part];
		uint64_t pages = (uint64_t)part->n * part->plan->plan->pages_per_chunk;

		if (run->unit < pages * part->plan->plan->n_planes)
			return true;
		run->part_page += pages;
	}
	return false;
}

/* The memory may be replaced by a larger one at any time: moves that were accepted
 * before keep what they got. */
static uint64_t stage_memory(struct kvh_lane *lane, const struct kvh_stage *stage,
			     unsigned char **mem_p)
{
	uint64_t bytes;

	pthread_mutex_lock(&lane->mover->lock);
	*mem_p = stage->mem;
	bytes = lane->mover->stage_bytes;
	pthread_mutex_unlock(&lane->mover->lock);
	return bytes;
}

/* GATHER, then COPY. */
static int stage_fill(struct kvh_lane *lane, struct kvh_stage *stage,
		      const struct kvh_band *band, uint64_t first, uint64_t end,
		      unsigned char *mem, const uint32_t *dev_pages)
{
	struct kvh_device *dev = lane->mover->dev;
	struct kvh_pack pack;
	int rc;

	kvh_band_pack(band, first, end, dev_pages, mem, &pack);
	rc = dev->ops->gather(dev, &pack, lane->kernel);
	if (rc == 0)
		rc = dev->ops->event_record(dev, stage->full, lane->kernel);
	if (rc == 0)
		rc = dev->ops->stream_wait_event(dev, lane->copy, stage->full);
	if (rc == 0)
		rc = kvh_band_copy(band, NULL, first, end, mem, dev, &lane->batch);
	if (rc == 0)
		rc = dev->ops->event_record(dev, stage->empty, lane->copy);
	return rc;
}

static int run_feed_stage(struct kvh_lane *lane, struct kvh_move_run *run)
{
	const struct kvh_move_part *part = &run->move->parts[run->part];
	struct kvh_stage *stage = &lane->stages[lane->fed % lane->mover->n_stages];
	struct kvh_band band;
	unsigned char *mem;
	uint64_t room, end;
	int rc;

	kvh_band_init(&band, part, 0, part->plan->plan->n_planes);
	room = stage_memory(lane, stage, &mem);
	stage->run = run;
	stage->part = run->part;
	end = kvh_band_cut(&band, run->unit, room);
	stage->chunk_end = end / band.units;
	lane->fed++;
	rc = stage_fill(lane, stage, &band, run->unit, end, mem,
			run->pages->dev + run->part_page);
	if (rc)
		return rc;
	run->unit = end;
	run->sent++;
	lane->sent++;
	kvh_lane_notice(lane, stage->empty);
	return 0;
}

static void run_feed(struct kvh_lane *lane, struct kvh_move_run *run)
{
	bool cancelled = atomic_load(&run->cancelled) || atomic_load(&lane->mover->stopping);
	int rc = 0;

	if (!cancelled && run_has_more(run)) {
		if (run->state == KVH_RUN_QUEUED) {
			kvh_run_set_state(run, KVH_RUN_FEEDING);
			rc = kvh_run_prologue(run);
		}
		if (rc == 0)
			rc = run_feed_stage(lane, run);
		if (rc == 0 && run_has_more(run))
			return;
	}
	lane->feeding = run->next; /* nothing more of this one */
	if (rc) {
		lane->broken = run;
		kvh_run_break(run, rc);
	} else {
		kvh_run_set_state(run, KVH_RUN_FED);
	}
}

bool kvh_store_feed(struct kvh_lane *lane)
{
	bool moved = false;

	while (!lane->broken && lane->feeding &&
	       lane->fed < lane->done + lane->mover->n_stages) {
		run_feed(lane, lane->feeding);
		moved = true;
	}
	lane_check(lane);
	return moved;
}

static bool run_ended(struct kvh_move_run *run)
{
	if (run->done < run->sent)
		return false;
	return run->state == KVH_RUN_FED ||
	       (run->state == KVH_RUN_BROKEN && kvh_run_drained(run));
}

static bool lane_reap_runs(struct kvh_lane *lane)
{
	struct kvh_move_run *run;
	bool moved = false;

	while ((run = lane->active.head) && run_ended(run)) {
		if (run == lane->broken) { /* all is drained, the stage it took is free */
			assert(lane->done == lane->sent);
			lane->sent = lane->done = lane->fed;
			lane->broken = NULL;
		}
		kvh_run_list_pop(&lane->active);
		kvh_run_end(run);
		moved = true;
	}
	return moved;
}

bool kvh_store_reap(struct kvh_lane *lane)
{
	struct kvh_mover *mover = lane->mover;
	bool moved = false;

	while (lane->done < lane->sent) {
		struct kvh_stage *stage = &lane->stages[lane->done % mover->n_stages];

		if (kvh_mover_reached(mover, stage->empty, lane->copy) != 1)
			break;
		stage->run->done++;
		kvh_run_advance(stage->run, stage->part, stage->chunk_end);
		lane->done++;
		moved = true;
	}
	lane_check(lane);
	return lane_reap_runs(lane) || moved;
}
