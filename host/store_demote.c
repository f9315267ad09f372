/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_demote.c - chunks that go to L2 when L1 evicts them, and not before: frames
 * that are dirty. The controller's thread, but for demote_ask (any).
 *
 *   admit: at eviction --> dirty --L1 lacks room--> DEMOTED item --settled--> evicted
 *                            |                                  \--leased--> clean
 *                            `------a flush-------> PICKED item --settled--> clean,
 *                                                     or dirty again where nobody has it
 *
 * What is on its way is bounded, so that neither fills the adapters' queues and is
 * dropped there: half of a queue's bytes, and one frame always.
 */
#include "host/store_impl.h"

#define A_ROUND 256u /* frames in one go */
#define TAKEN   32u

/* ---- settling ------------------------------------------------------------- */

void kvh_demote_settled(struct kvh_controller *c, kvh_frame frame, uint64_t bytes, bool late)
{
	c->going_bytes -= bytes;
	if (late)
		kvh_l1_demote_late(c->opts.l1, frame);
	else
		kvh_l1_demoted(c->opts.l1, frame, true);
}

void kvh_pick_settled(struct kvh_controller *c, kvh_frame frame, uint64_t bytes, bool stored)
{
	c->going_bytes -= bytes;
	if (!stored && !c->stopping)
		kvh_demote_later(c, frame);
}

void kvh_demote_later(struct kvh_controller *c, kvh_frame frame)
{
	kvh_l1_set_dirty(c->opts.l1, frame);
	c->dirtied = true;
}

/* ---- starting --------------------------------------------------------------- */

static uint64_t room(const struct kvh_controller *c)
{
	uint64_t most = c->opts.queue_bytes / 2;

	if (c->going_bytes == 0)
		return most > 0 ? most : 1;
	return most > c->going_bytes ? most - c->going_bytes : 0;
}

static void give(struct kvh_controller *c, kvh_frame frame, enum kvh_heard heard)
{
	const struct kvh_published published = {.frame = frame, .heard = heard};

	c->going_bytes += kvh_l1_frame_bytes(c->opts.l1, frame);
	kvh_count(&c->opts.metrics->store_waiting, 1);
	kvh_store_heard(c, &published);
}

uint64_t kvh_demote_tick(struct kvh_controller *c, uint64_t now_ns)
{
	kvh_frame frames[TAKEN];
	uint32_t n;

	for (uint32_t done = 0; done < A_ROUND; done += n) {
		uint64_t lacks = kvh_l1_demote_lacks(c->opts.l1), most = room(c);

		if (lacks == 0 || most == 0)
			break;
		n = kvh_l1_demote_take(c->opts.l1, frames, TAKEN, lacks < most ? lacks : most);
		if (n == 0)
			break;
		for (uint32_t i = 0; i < n; i++)
			give(c, frames[i], KVH_HEARD_DEMOTED);
	}
	kvh_seal_post(c);
	if (room(c) == 0)
		return UINT64_MAX; /* what is on its way wakes us */
	return c->picking || kvh_l1_demote_lacks(c->opts.l1) > 0 ? now_ns : UINT64_MAX;
}

bool kvh_demote_all(struct kvh_controller *c)
{
	kvh_frame frame;

	if (c->stopping || (!c->walking && !c->dirtied))
		return true;
	if (!c->walking) {
		c->walking = true;
		c->dirtied = false;
		c->walk_at = 0;
	}
	for (uint32_t n = 0; n < A_ROUND && room(c) > 0; n++) {
		if (!kvh_l1_next_dirty(c->opts.l1, &c->walk_at, &frame)) {
			c->walking = false;
			return true;
		}
		kvh_l1_set_clean(c->opts.l1, frame); /* else L1 may give it, too */
		give(c, frame, KVH_HEARD_PICKED);
	}
	return false;
}

void kvh_demote_all_cancel(struct kvh_controller *c)
{
	c->dirtied |= c->walking;
	c->walking = false;
}

/* ---- being asked ------------------------------------------------------------ */

/* The tick that follows does it. */
static void demote_run(struct kvh_loop_work *work)
{
	struct kvh_controller *c = (struct kvh_controller *)((char *)work -
							     offsetof(struct kvh_controller,
								      demote));

	__atomic_store_n(&c->demote_posted, false, __ATOMIC_SEQ_CST);
}

static void demote_ask(void *arg)
{
	struct kvh_controller *c = arg;

	if (!__atomic_exchange_n(&c->demote_posted, true, __ATOMIC_SEQ_CST))
		kvh_loop_post(c->loop, &c->demote);
}

void kvh_demote_open(struct kvh_controller *c)
{
	c->demote.run = demote_run;
	kvh_l1_demoter_set(c->opts.l1, demote_ask, c);
}

void kvh_demote_close(struct kvh_controller *c)
{
	kvh_l1_demoter_set(c->opts.l1, NULL, NULL);
}
