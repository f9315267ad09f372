/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_plan.c - plans in device memory, and the memory of the stages.
 *
 * Any thread. The stages get their memory with the first plan, and larger memory
 * with a plan whose units do not fit. Device memory is freed here and at close
 * only, where waiting is allowed: freeing it may make the whole device wait.
 */
#include "cuda/mover_impl.h"
#include "host/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct kvh_stage *stage_at(struct kvh_mover *mover, uint32_t i)
{
	struct kvh_lane *lane = i < mover->n_stages ? &mover->store : &mover->load;

	return &lane->stages[i % mover->n_stages];
}

static void retired_free(struct kvh_mover *mover, struct kvh_retired *list)
{
	struct kvh_retired *retired;

	while ((retired = list)) {
		list = retired->next;
		if (retired->mem)
			kvh_mover_ops(mover)->mem_free(mover->dev, retired->mem);
		free(retired);
	}
}

/* Under mover->lock. What is in stage memory now is gone when lane_past has come to
 * what lane_now is. */
static uint64_t lane_now(const struct kvh_lane *lane)
{
	return lane->load ? lane->accepted : lane->fed;
}

static uint64_t lane_past(const struct kvh_lane *lane)
{
	return lane->load ? lane->finished : lane->done;
}

/* Frees what no move in flight can use any more. */
static void retired_sweep(struct kvh_mover *mover)
{
	struct kvh_retired **at = &mover->retired, *retired, *idle = NULL;

	pthread_mutex_lock(&mover->lock);
	while ((retired = *at)) {
		if (lane_past(retired->lane) < retired->after) {
			at = &retired->next;
			continue;
		}
		*at = retired->next;
		retired->next = idle;
		idle = retired;
	}
	pthread_mutex_unlock(&mover->lock);
	retired_free(mover, idle);
}

/* A list of as much new memory as there are stages. */
static int stages_alloc(struct kvh_mover *mover, uint64_t bytes, struct kvh_retired **list_p)
{
	struct kvh_retired *list = NULL;

	for (uint32_t i = 0; i < 2 * mover->n_stages; i++) {
		struct kvh_retired *node = calloc(1, sizeof(*node));
		int rc = node ? kvh_mover_ops(mover)->mem_alloc(mover->dev, bytes, &node->mem)
			      : -ENOMEM;

		if (rc) {
			free(node);
			retired_free(mover, list);
			return rc;
		}
		node->next = list;
		list = node;
	}
	*list_p = list;
	return 0;
}

/* Each stage gets a node's memory, the node gets the stage's old one. */
static void stages_swap(struct kvh_mover *mover, struct kvh_retired *list, uint64_t bytes)
{
	struct kvh_retired *node, *next;
	uint32_t i = 0;

	pthread_mutex_lock(&mover->lock);
	for (node = list; node; node = next, i++) {
		struct kvh_stage *stage = stage_at(mover, i);
		void *mem = node->mem;

		next = node->next;
		node->mem = stage->mem;
		node->lane = i < mover->n_stages ? &mover->store : &mover->load;
		node->after = lane_now(node->lane);
		node->next = mover->retired;
		mover->retired = node;
		stage->mem = mem;
	}
	mover->stage_bytes = bytes;
	pthread_mutex_unlock(&mover->lock);
}

/* Stages of at least `unit_bytes`, and of what was asked for at open. */
static int stages_fit(struct kvh_mover *mover, uint64_t unit_bytes)
{
	uint64_t bytes = unit_bytes > mover->want_bytes ? unit_bytes : mover->want_bytes;
	struct kvh_retired *list;
	int rc = 0;

	bytes = (bytes + KVH_STAGE_ALIGN - 1) & ~(uint64_t)(KVH_STAGE_ALIGN - 1);
	pthread_mutex_lock(&mover->load.enqueue);
	if (bytes > mover->stage_bytes) {
		rc = stages_alloc(mover, bytes, &list);
		if (rc)
			kvh_err("mover: %u stages of %llu bytes of device memory: %s",
				2 * mover->n_stages, (unsigned long long)bytes, strerror(-rc));
		else
			stages_swap(mover, list, bytes);
	}
	pthread_mutex_unlock(&mover->load.enqueue);
	return rc;
}

void kvh_stages_free(struct kvh_mover *mover)
{
	retired_free(mover, mover->retired);
	mover->retired = NULL;
	for (uint32_t i = 0; i < 2 * mover->n_stages; i++) {
		struct kvh_stage *stage = stage_at(mover, i);

		if (stage->mem)
			kvh_mover_ops(mover)->mem_free(mover->dev, stage->mem);
		stage->mem = NULL;
	}
}

/* Through pinned memory, and a stream of its own: no other work is waited for. */
static int plan_upload(struct kvh_mover *mover, const struct kvh_plan *plan, void *dev_plan)
{
	struct kvh_device *dev = mover->dev;
	struct kvh_copy copy = {.dst = dev_plan, .bytes = plan->bytes};
	kvh_stream stream;
	void *pinned;
	int rc = dev->ops->host_alloc(dev, plan->bytes, &pinned);

	if (rc)
		return rc;
	memcpy(pinned, plan, plan->bytes);
	copy.src = pinned;
	rc = dev->ops->stream_create(dev, 0, &stream);
	if (rc)
		goto err_free;
	rc = dev->ops->copy(dev, KVH_COPY_H2D, &copy, stream);
	if (rc == 0)
		rc = dev->ops->stream_wait(dev, stream);
	dev->ops->stream_destroy(dev, stream);
err_free:
	dev->ops->host_free(dev, pinned);
	return rc;
}

int kvh_mover_plan_add(struct kvh_mover *mover, const struct kvh_plan *plan,
		       struct kvh_mover_plan *mplan)
{
	struct kvh_device *dev = mover->dev;
	void *dev_plan;
	int rc;

	if (dev->ops->dead(dev))
		return -EIO;
	retired_sweep(mover);
	rc = stages_fit(mover, plan->max_unit_bytes);
	if (rc)
		return rc;
	rc = dev->ops->mem_alloc(dev, plan->bytes, &dev_plan);
	if (rc)
		return rc;
	rc = plan_upload(mover, plan, dev_plan);
	if (rc) {
		dev->ops->mem_free(dev, dev_plan);
		return rc;
	}
	*mplan = (struct kvh_mover_plan){.plan = plan, .dev_plan = dev_plan};
	kvh_way_choose(mover, mplan);
	return 0;
}

void kvh_mover_plan_remove(struct kvh_mover *mover, struct kvh_mover_plan *mplan)
{
	union {
		const void *in;
		void *out;
	} plan = {.in = mplan->dev_plan}; /* ours, so it may lose its const */

	kvh_mover_ops(mover)->mem_free(mover->dev, plan.out);
	*mplan = (struct kvh_mover_plan){0};
	retired_sweep(mover);
}
