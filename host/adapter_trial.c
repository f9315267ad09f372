/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adapter_trial.c - how a breaker that is open finds out that the adapter is well
 * again: a frame of one page is put, read back and deleted; and an adapter's own
 * word about its health. The controller's thread.
 *
 *    IDLE --due--> PUT --> GET --> DELETE --> IDLE, closed
 *      ^            '-------+--------+--any failed--> IDLE, open for longer
 *      '--came back-- OUT <-- one ran past its deadline
 *
 * The key is of space 0, which no space has. What is full or read-only answers,
 * and so is well.
 */
#include "host/adapter_impl.h"
#include "host/clock.h"
#include "host/frame.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEALTH_NS (250 * KVH_NS_PER_MS) /* between looks, also without traffic */

struct kvh_trial {
	struct kvh_l2_task task;
	struct kvh_adapter *a;
	bool out; /* the adapter has the task */
	struct kvh_key key;
	unsigned char *frame; /* a page to write, and one to read into */
};

static void trial_ended(struct kvh_l2_task *task, int status, bool buffer_free);
static void trial_returned(struct kvh_l2_task *task);

int kvh_trial_open(struct kvh_adapter *a, struct kvh_trial **trial_p)
{
	static const uint8_t no_space[32];
	static const struct kvh_hash no_parent;
	struct kvh_trial *trial = calloc(1, sizeof(*trial));

	if (trial == NULL)
		return -ENOMEM;
	trial->frame = aligned_alloc(KVH_FRAME_ALIGN, 2 * (size_t)KVH_FRAME_ALIGN);
	if (trial->frame == NULL) {
		free(trial);
		return -ENOMEM;
	}
	trial->a = a;
	trial->key.rank = KVH_RANK_ANY;
	kvh_frame_fill(trial->frame, &trial->key, no_space, &no_parent, 0, 0);
	kvh_frame_seal(trial->frame);
	*trial_p = trial;
	return 0;
}

void kvh_trial_close(struct kvh_trial *trial)
{
	if (trial == NULL)
		return;
	assert(!trial->out);
	free(trial->frame);
	free(trial);
}

static void trial_over(struct kvh_trial *trial, int status)
{
	struct kvh_adapter *a = trial->a;

	if (kvh_breaker_tried(&a->breaker, status, a->now_ns))
		kvh_info("%s: answers again", a->ops->name);
}

static void trial_step(struct kvh_trial *trial, enum kvh_l2_op op)
{
	struct kvh_l2_task *task = &trial->task;
	int err;

	memset(task, 0, sizeof(*task));
	task->req.op = op;
	task->req.key = trial->key;
	if (op != KVH_L2_DELETE) {
		task->req.buf = trial->frame + (op == KVH_L2_GET ? KVH_FRAME_ALIGN : 0);
		task->req.len = KVH_FRAME_ALIGN;
	}
	task->ended = trial_ended;
	task->returned = trial_returned;
	task->deadline_ns = kvh_adapter_deadline(trial->a);
	err = kvh_adapter_submit_now(trial->a, task);
	trial->out = err == 0;
	if (err != 0)
		trial_over(trial, err);
}

static void trial_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	struct kvh_trial *trial = (struct kvh_trial *)task;

	trial->out = !buffer_free;
	if (status == 0 && task->req.op == KVH_L2_PUT)
		trial_step(trial, KVH_L2_GET);
	else if (task->req.op == KVH_L2_GET && !kvh_breaker_counts(status))
		trial_step(trial, KVH_L2_DELETE); /* may have been evicted, or not kept */
	else
		trial_over(trial, status);
}

static void trial_returned(struct kvh_l2_task *task)
{
	((struct kvh_trial *)task)->out = false;
}

static void trial_begin(struct kvh_trial *trial)
{
	kvh_count(&trial->a->counters.trials, 1);
	if (trial->out)
		trial_over(trial, -ETIMEDOUT); /* the last one has not come back */
	else
		trial_step(trial, KVH_L2_PUT);
}

static void look_at_health(struct kvh_adapter *a, uint64_t now_ns)
{
	const char *why = NULL;
	int err = a->ops->health(a->self, &why);

	if (err != a->health) {
		if (err != 0)
			kvh_warn("%s: says that it is ill: %s (%s)", a->ops->name,
				 why != NULL ? why : "no reason given", strerror(-err));
		else
			kvh_info("%s: says that it is well again", a->ops->name);
		a->health = err;
		kvh_gauge(&a->counters.health, (uint64_t)-err);
	}
	if (err != 0 && a->breaker.bound != 0)
		kvh_count(&a->counters.breaker_opened, kvh_breaker_trip(&a->breaker, now_ns));
}

uint64_t kvh_trial_tick(struct kvh_adapter *a, uint64_t now_ns)
{
	uint64_t at = UINT64_MAX;

	if (a->ops->health != NULL) {
		if (now_ns >= a->next_health_ns) {
			a->next_health_ns = now_ns + HEALTH_NS;
			look_at_health(a, now_ns);
		}
		at = a->next_health_ns;
	}
	if (kvh_breaker_due(&a->breaker, now_ns))
		trial_begin(a->trial);
	if (a->breaker.state == KVH_BREAKER_OPEN && a->breaker.trial_ns < at)
		at = a->breaker.trial_ns;
	return at;
}
