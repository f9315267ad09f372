/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault_slot.c - the life of one request in the fault adapter: what the rules
 * plan for it, and the damage done on its way. Under fault->lock, on the
 * controller's thread. The caller's PUT buffer is only ever read.
 */
#include "l2/fault_slot.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define BYTE_NONE   UINT64_MAX /* of plan.corrupt_from */
#define FRAME_ALIGN 4096u

#define TO(state) (1u << (state))
static const uint8_t slot_next[SLOT_STATES] = {
	[SLOT_FREE] = TO(SLOT_DELAYED) | TO(SLOT_HELD) | TO(SLOT_READY) | TO(SLOT_DONE),
	[SLOT_DELAYED] = TO(SLOT_HELD) | TO(SLOT_READY) | TO(SLOT_DONE),
	[SLOT_HELD] = TO(SLOT_READY) | TO(SLOT_DONE),
	[SLOT_READY] = TO(SLOT_NEXT) | TO(SLOT_DONE),
	[SLOT_NEXT] = TO(SLOT_STACKED) | TO(SLOT_DONE),
	[SLOT_STACKED] = TO(SLOT_DONE),
	[SLOT_DONE] = TO(SLOT_FREE),
};

/* splitmix64 */
static uint64_t random_next(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static void plan_apply(struct kvh_fault *fault, struct plan *plan,
		       const struct kvh_fault_rule *rule)
{
	fault->stats.applied[rule->action]++;
	switch (rule->action) {
	case KVH_FAULT_DELAY: plan->delay_ms += rule->arg; break;
	case KVH_FAULT_FAIL: plan->fail = -(int)rule->arg; break;
	case KVH_FAULT_CORRUPT: plan->corrupt_from = rule->arg; break;
	case KVH_FAULT_SHORT: plan->shortness = rule->arg ? SHORT_LIES : SHORT_HONEST; break;
	case KVH_FAULT_REORDER: plan->reorder = (uint32_t)rule->arg; break;
	case KVH_FAULT_HANG: plan->hanging = rule->arg ? HANG_HARD : HANG_SOFT; break;
	case KVH_FAULT_DIE: fault->dead = true; break;
	case KVH_FAULT_MUTE:
		/* ENOENT: it is mute already. */
		epoll_ctl(fault->epoll, EPOLL_CTL_DEL, fault->event, NULL);
		epoll_ctl(fault->epoll, EPOLL_CTL_DEL, fault->timer, NULL);
		epoll_ctl(fault->epoll, EPOLL_CTL_DEL, fault->next->event_fd(fault->next_self),
			  NULL);
		break;
	case KVH_FAULT_ACTIONS: break;
	}
}

static struct plan plan_make(struct kvh_fault *fault, enum kvh_l2_op op)
{
	struct plan plan = {.corrupt_from = BYTE_NONE};

	for (uint32_t i = 0; i < fault->n_rules; i++) {
		struct kvh_fault_rule *rule = &fault->rules[i];

		if (rule->op != KVH_FAULT_ANY_OP && rule->op != (uint32_t)op)
			continue;
		rule->seen++;
		if (rule->seen >= rule->nth && rule->seen - rule->nth < rule->count)
			plan_apply(fault, &plan, rule);
	}
	return plan;
}

void kvh_fault_slot_move(struct kvh_fault *fault, struct slot *slot, enum slot_state to)
{
	assert(slot_next[slot->state] & TO(to));
	assert(fault->n_state[slot->state] > 0);
	fault->n_state[slot->state]--;
	fault->n_state[to]++;
	if (slot->state == SLOT_HELD || to == SLOT_HELD)
		pthread_cond_broadcast(&fault->changed);
	slot->state = to;
}

void kvh_fault_slot_end(struct kvh_fault *fault, struct slot *slot, int status)
{
	kvh_fault_slot_move(fault, slot, SLOT_DONE);
	if (slot->plan.reorder != 0)
		fault->n_reorder--;
	slot->outer->status = fault->dead ? -EIO : status;
	kvh_req_push(&fault->done, slot->outer);
	kvh_event_raise(fault->event);
}

void kvh_fault_slot_free(struct kvh_fault *fault, struct slot *slot)
{
	kvh_fault_slot_move(fault, slot, SLOT_FREE);
	free(slot->copy);
	slot->copy = NULL;
	slot->outer = NULL;
	slot->link = fault->free;
	fault->free = slot;
}

static void flip_bit(struct kvh_fault *fault, uint8_t *frame, uint64_t len, uint64_t from)
{
	/* A frame without payload has only its header to damage. */
	uint64_t first = from < len ? from : 0;
	uint64_t end = first < FRAME_ALIGN && len > FRAME_ALIGN ? FRAME_ALIGN : len;
	uint64_t r = random_next(&fault->seed);

	frame[first + (r >> 3) % (end - first)] ^= (uint8_t)(1u << (r & 7));
}

/* Where a transfer that falls short stops. */
static uint64_t short_len(uint64_t len)
{
	return len / 2;
}

/* Gives the twin memory of its own where the caller's must not be touched:
 * a PUT to be damaged, a GET of which only a part is to arrive. */
static int slot_copy(struct kvh_fault *fault, struct slot *slot)
{
	struct kvh_l2_req *twin = &slot->twin;
	bool put = twin->op == KVH_L2_PUT;

	if (slot->plan.shortness == SHORT_NOT && !(put && slot->plan.corrupt_from != BYTE_NONE))
		return 0;
	if (posix_memalign(&slot->copy, FRAME_ALIGN, twin->len) != 0) {
		slot->copy = NULL;
		return -ENOMEM;
	}
	if (put) {
		uint8_t *bytes = memcpy(slot->copy, twin->buf, twin->len);

		if (slot->plan.corrupt_from != BYTE_NONE)
			flip_bit(fault, bytes, twin->len, slot->plan.corrupt_from);
		if (slot->plan.shortness == SHORT_LIES)
			for (uint64_t i = short_len(twin->len); i < twin->len; i++)
				bytes[i] = (uint8_t)~bytes[i];
	}
	twin->buf = slot->copy;
	twin->region = KVH_L2_NO_REGION;
	return 0;
}

void kvh_fault_slot_forward(struct kvh_fault *fault, struct slot *slot)
{
	bool frame = slot->twin.op == KVH_L2_PUT || slot->twin.op == KVH_L2_GET;
	int ret = slot->plan.fail;

	if (fault->dead)
		ret = -EIO;
	else if (slot->twin.op == KVH_L2_PUT && slot->plan.shortness == SHORT_HONEST)
		ret = -EIO;
	if (ret == 0 && frame && slot->copy == NULL)
		ret = slot_copy(fault, slot);
	if (ret == 0)
		ret = fault->next->submit(fault->next_self, &slot->twin);
	if (ret == 0)
		kvh_fault_slot_move(fault, slot, SLOT_NEXT);
	else if (ret != -EAGAIN || slot->plan.fail != 0)
		kvh_fault_slot_end(fault, slot, ret);
}

static void slot_ready(struct kvh_fault *fault, struct slot *slot)
{
	kvh_fault_slot_move(fault, slot, SLOT_READY);
	kvh_fault_slot_forward(fault, slot);
}

void kvh_fault_slot_due(struct kvh_fault *fault, struct slot *slot)
{
	if (slot->plan.hanging != HANG_NOT)
		kvh_fault_slot_move(fault, slot, SLOT_HELD);
	else
		slot_ready(fault, slot);
}

void kvh_fault_slot_start(struct kvh_fault *fault, struct slot *slot)
{
	slot->plan = plan_make(fault, slot->twin.op);
	if (slot->plan.reorder != 0)
		fault->n_reorder++;
	if (slot->plan.delay_ms == 0) {
		kvh_fault_slot_due(fault, slot);
		return;
	}
	slot->due_ns = kvh_deadline_ns(slot->plan.delay_ms * KVH_NS_PER_MS);
	kvh_fault_slot_move(fault, slot, SLOT_DELAYED);
}

/* The next adapter has ended the twin: damage what it brought. */
void kvh_fault_slot_returned(struct kvh_fault *fault, struct slot *slot)
{
	struct kvh_l2_req *twin = &slot->twin, *outer = slot->outer;

	if (twin->op == KVH_L2_PROBE)
		outer->len = twin->len;
	if (twin->op == KVH_L2_GET && twin->status == 0) {
		if (slot->copy != NULL)
			memcpy(outer->buf, slot->copy, short_len(outer->len));
		if (slot->plan.shortness == SHORT_HONEST)
			twin->status = -EIO;
		if (slot->plan.corrupt_from != BYTE_NONE)
			flip_bit(fault, outer->buf, outer->len, slot->plan.corrupt_from);
	}
	if (slot->plan.reorder == 0) {
		kvh_fault_slot_end(fault, slot, twin->status);
		return;
	}
	kvh_fault_slot_move(fault, slot, SLOT_STACKED);
	slot->link = fault->stack;
	fault->stack = slot;
}

void kvh_fault_stack_settle(struct kvh_fault *fault)
{
	uint32_t n = fault->n_state[SLOT_STACKED];

	if (n == 0 || (n < fault->stack->plan.reorder && n < fault->n_reorder))
		return;
	while (fault->stack != NULL) {
		struct slot *slot = fault->stack;

		fault->stack = slot->link;
		kvh_fault_slot_end(fault, slot, slot->twin.status);
	}
}
