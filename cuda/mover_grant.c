/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_grant.c - which layers of a store are there, and behind which order points.
 *
 * Given on callers' threads, taken by the mover's when it feeds the run. A store that
 * is no store by layers has one grant of all from the start.
 */
#include "cuda/mover_impl.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define LAYER_END_ALL ((uint64_t)KVH_LAYER_ALL + 1)

static void grant_put(struct kvh_lane *lane, struct kvh_grant *grant)
{
	grant->next = lane->free_grants;
	lane->free_grants = grant;
}

static void grant_destroy(struct kvh_mover *mover, struct kvh_grant *grant)
{
	if (grant->event)
		kvh_mover_ops(mover)->event_destroy(mover->dev, grant->event);
	free(grant);
}

void kvh_grants_free(struct kvh_lane *lane)
{
	struct kvh_grant *grant;

	while ((grant = lane->free_grants)) {
		lane->free_grants = grant->next;
		grant_destroy(lane->mover, grant);
	}
}

static int grant_get(struct kvh_lane *lane, struct kvh_grant **grant_p)
{
	struct kvh_mover *mover = lane->mover;
	struct kvh_grant *grant;
	int rc;

	pthread_mutex_lock(&mover->lock);
	grant = lane->free_grants;
	if (grant)
		lane->free_grants = grant->next;
	pthread_mutex_unlock(&mover->lock);
	if (!grant) {
		grant = calloc(1, sizeof(*grant));
		if (!grant)
			return -ENOMEM;
		rc = kvh_mover_ops(mover)->event_create(mover->dev, &grant->event);
		if (rc) {
			grant_destroy(mover, grant);
			return rc;
		}
	}
	*grant_p = grant;
	return 0;
}

/* The event is the caller's, who may record it again when the call is over. The
 * store is fed later, so it gets an event of its own behind the caller's, on one stream
 * for all: stores behind events stand behind each other's, those behind streams do not. */
static int record_behind(struct kvh_lane *lane, kvh_event_mark mark, kvh_event_mark event)
{
	struct kvh_mover *mover = lane->mover;
	int rc;

	pthread_mutex_lock(&lane->enqueue);
	rc = kvh_mover_ops(mover)->stream_wait_event(mover->dev, lane->order, event);
	if (rc == 0)
		rc = kvh_mover_ops(mover)->event_record(mover->dev, mark, lane->order);
	pthread_mutex_unlock(&lane->enqueue);
	return rc;
}

int kvh_grant_make(struct kvh_lane *lane, uint64_t layer_end, kvh_stream stream,
		   kvh_event_mark event, struct kvh_grant **grant_p)
{
	struct kvh_mover *mover = lane->mover;
	struct kvh_grant *grant;
	int rc = grant_get(lane, &grant);

	if (rc)
		return rc;
	grant->next = NULL;
	grant->layer_end = layer_end;
	if (event)
		rc = record_behind(lane, grant->event, event);
	else
		rc = kvh_mover_ops(mover)->event_record(mover->dev, grant->event, stream);
	if (rc) {
		pthread_mutex_lock(&mover->lock);
		grant_put(lane, grant);
		pthread_mutex_unlock(&mover->lock);
		return rc;
	}
	*grant_p = grant;
	return 0;
}

void kvh_grant_give(struct kvh_move_run *run, struct kvh_grant *grant)
{
	assert(run->given_to < grant->layer_end);
	run->given_to = grant->layer_end;
	*run->grants_tail = grant;
	run->grants_tail = &grant->next;
}

void kvh_run_call(struct kvh_move_run *run)
{
	if (run->called)
		return;
	run->called = true;
	TAILQ_INSERT_TAIL(&run->lane->calls, run, of_calls);
}

/* ---- the caller ------------------------------------------------------- */

/* Under mover->lock. 1: it is new, 0: it was given. */
static int layer_is_new(const struct kvh_move *move, uint64_t layer_end)
{
	const struct kvh_move_run *run = move->run;

	if (!run || !move->layered || run->lane->load)
		return -ENOENT;
	if (layer_end < run->given_to) {
		kvh_err("mover: layers up to %llu of a store, after those up to %llu",
			(unsigned long long)layer_end - 1,
			(unsigned long long)run->given_to - 1);
		return -EINVAL;
	}
	return layer_end > run->given_to;
}

/* The run may end while the order point is recorded, for it was cancelled. */
static int layer_give(struct kvh_lane *lane, struct kvh_move *move, struct kvh_grant *grant)
{
	struct kvh_mover *mover = lane->mover;
	int rc;

	pthread_mutex_lock(&mover->lock);
	rc = layer_is_new(move, grant->layer_end);
	if (rc == 1) {
		kvh_grant_give(move->run, grant);
		kvh_run_call(move->run);
	} else {
		grant_put(lane, grant);
	}
	pthread_mutex_unlock(&mover->lock);
	return rc < 0 ? rc : 0;
}

int kvh_mover_store_layer(struct kvh_mover *mover, struct kvh_move *move, uint32_t layer,
			  kvh_stream stream, kvh_event_mark event)
{
	struct kvh_lane *lane = &mover->store;
	struct kvh_grant *grant;
	int rc;

	if (stream && event) {
		kvh_err("mover: a layer with a stream and an event, allowed: one of them");
		return -EINVAL;
	}
	rc = kvh_run_order_check(mover, stream, event);
	if (rc)
		goto out_kick;
	pthread_mutex_lock(&mover->lock);
	rc = layer_is_new(move, (uint64_t)layer + 1);
	pthread_mutex_unlock(&mover->lock);
	if (rc <= 0)
		return rc;
	rc = kvh_grant_make(lane, (uint64_t)layer + 1, stream, event, &grant);
	if (rc == 0)
		rc = layer_give(lane, move, grant);
out_kick:
	kvh_mover_kick(mover); /* also of a device that has died meanwhile */
	return rc;
}

void kvh_mover_seal(struct kvh_mover *mover, struct kvh_move *move)
{
	struct kvh_move_run *run;

	pthread_mutex_lock(&mover->lock);
	run = move->run;
	if (run && !run->lane->load && run->given_to < run->layer_end) {
		run->cancelled = true;
		kvh_run_call(run);
	}
	pthread_mutex_unlock(&mover->lock);
	kvh_mover_kick(mover);
}

/* ---- the mover's thread ----------------------------------------------- */

static struct kvh_grant *grant_first(const struct kvh_move_run *run)
{
	struct kvh_mover *mover = run->lane->mover;
	struct kvh_grant *grant;

	pthread_mutex_lock(&mover->lock);
	grant = run->grants;
	pthread_mutex_unlock(&mover->lock);
	return grant;
}

static void grant_drop(struct kvh_move_run *run, struct kvh_grant *grant)
{
	run->grants = grant->next;
	if (!run->grants)
		run->grants_tail = &run->grants;
	grant_put(run->lane, grant);
}

static bool brings_planes(const struct kvh_move_run *run, const struct kvh_grant *grant)
{
	for (uint32_t p = 0; p < run->move->n_parts; p++) {
		const struct kvh_move_part *part = &run->move->parts[p];

		if (part->n &&
		    kvh_plan_planes_below(part->plan->plan, run->feed_to) <
			    kvh_plan_planes_below(part->plan->plan, grant->layer_end))
			return true;
	}
	return false;
}

/* Where it brings nothing nobody waits: nothing would say when the wait is over.
 * To take one that has not been reached along with one that has would make the copies
 * of its layers wait for the computation of the next, and callers are ahead of the
 * device by a whole model. */
int kvh_grants_begin(struct kvh_move_run *run)
{
	struct kvh_mover *mover = run->lane->mover;
	struct kvh_grant *grant = grant_first(run);
	int rc = 0;

	assert(run->fed_to == run->feed_to);
	while (grant && rc == 0) {
		if (brings_planes(run, grant))
			rc = kvh_mover_ops(mover)->stream_wait_event(
				mover->dev, run->lane->kernel, grant->event);
		if (rc)
			break;
		run->feed_to = grant->layer_end;
		pthread_mutex_lock(&mover->lock);
		grant_drop(run, grant); /* the wait is for the event as it was */
		grant = run->grants;
		pthread_mutex_unlock(&mover->lock);
		if (grant && kvh_mover_ops(mover)->event_query(mover->dev, grant->event) != 1)
			break;
	}
	return rc;
}

void kvh_grants_drop(struct kvh_move_run *run)
{
	while (run->grants)
		grant_drop(run, run->grants);
}
