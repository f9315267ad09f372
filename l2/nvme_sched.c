/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_sched.c - the order of transfers and the budget of bytes, and how it is
 * found: bytes in flight beyond what the disk needs to move its most are only
 * latency, so now and then more and fewer are tried. Limits: what a disk does in
 * 50 ms has to be typical of it; a device that is shared makes the search wander
 * within BUDGET_MIN and BUDGET_MAX.
 */
#include "l2/nvme_sched.h"

#include "host/clock.h"

#include <assert.h>
#include <errno.h>

#define PASSED_MAX   4u
#define BUDGET_FIRST (UINT64_C(64) << 20)
#define BUDGET_MIN   (UINT64_C(4) << 20)
#define BUDGET_MAX   (UINT64_C(1) << 30)
#define ROUND_NS     (50 * KVH_NS_PER_MS)
#define ROUND_ENDED  32u  /* fewer say nothing */
#define RESTS        100u /* rounds from one search to the next: 5 s */
#define NOISE_PCT    3u   /* a rate within it is the same */

void kvh_nvme_sched_init(struct kvh_nvme_sched *sched,
			 const struct kvh_nvme_engine_ops *engine_ops, void *engine,
			 uint64_t fixed_bytes)
{
	*sched = (struct kvh_nvme_sched){
		.engine_ops = engine_ops,
		.engine = engine,
		.budget_bytes = fixed_bytes != 0 ? fixed_bytes : BUDGET_FIRST,
		.fixed_bytes = fixed_bytes,
	};
	for (unsigned i = 0; i < KVH_NVME_KINDS; i++)
		kvh_nvme_io_list_init(&sched->queues[i]);
	kvh_nvme_io_list_init(&sched->ended);
}

/* ---- the order ---- */

static struct kvh_nvme_io *take(struct kvh_nvme_sched *sched, unsigned kind)
{
	struct kvh_nvme_io_list *queue = &sched->queues[kind];
	struct kvh_nvme_io *io = queue->head;

	if (io == NULL)
		return NULL;
	queue->head = io->next;
	if (queue->head == NULL)
		kvh_nvme_io_list_init(queue);
	return io;
}

/* The kind of the next one; something waits. */
static unsigned next_kind(const struct kvh_nvme_sched *sched)
{
	unsigned kind = 0;

	while (sched->queues[kind].head == NULL)
		kind++;
	if (sched->passed < PASSED_MAX)
		return kind;
	for (unsigned later = kind + 1; later < KVH_NVME_KINDS; later++) {
		if (sched->queues[later].head != NULL)
			return later;
	}
	return kind;
}

static bool others_wait(const struct kvh_nvme_sched *sched, unsigned behind)
{
	for (unsigned kind = behind + 1; kind < KVH_NVME_KINDS; kind++) {
		if (sched->queues[kind].head != NULL)
			return true;
	}
	return false;
}

/* Starts what the budget has room for. */
static void fill(struct kvh_nvme_sched *sched)
{
	while (sched->waiting > 0) {
		unsigned kind = next_kind(sched);
		struct kvh_nvme_io *io = sched->queues[kind].head;

		if (sched->flying > 0 && sched->flying_bytes + io->len > sched->budget_bytes)
			break;
		(void)take(sched, kind);
		sched->passed = others_wait(sched, kind) ? sched->passed + 1 : 0;
		if (sched->passed > PASSED_MAX)
			sched->passed = 0;
		sched->waiting--;
		sched->flying++;
		sched->flying_bytes += io->len;
		io->flying = true;
		sched->engine_ops->start(sched->engine, io);
	}
}

void kvh_nvme_sched_start(struct kvh_nvme_sched *sched, struct kvh_nvme_io *io)
{
	io->flying = false;
	kvh_nvme_io_list_append(&sched->queues[io->kind], io);
	sched->waiting++;
	fill(sched);
}

void kvh_nvme_sched_cancel(struct kvh_nvme_sched *sched, struct kvh_nvme_io *io)
{
	struct kvh_nvme_io_list *queue = &sched->queues[io->kind];
	struct kvh_nvme_io *all, *next;

	if (io->flying) {
		sched->engine_ops->cancel(sched->engine, io);
		return;
	}
	for (all = kvh_nvme_io_list_take(queue); all != NULL; all = next) {
		next = all->next;
		if (all != io) {
			kvh_nvme_io_list_append(queue, all);
			continue;
		}
		sched->waiting--;
		io->result = -ECANCELED;
		kvh_nvme_io_list_append(&sched->ended, io);
	}
}

/* ---- the budget ---- */

static uint64_t clamp(uint64_t bytes)
{
	if (bytes < BUDGET_MIN)
		return BUDGET_MIN;
	return bytes > BUDGET_MAX ? BUDGET_MAX : bytes;
}

static void try_larger(struct kvh_nvme_sched *sched)
{
	sched->trying = KVH_NVME_LARGER;
	sched->budget_bytes = clamp(sched->kept_bytes + sched->kept_bytes / 2);
}

static void try_smaller(struct kvh_nvme_sched *sched)
{
	sched->trying = KVH_NVME_SMALLER;
	sched->budget_bytes = clamp(sched->kept_bytes - sched->kept_bytes / 3);
}

static void rest(struct kvh_nvme_sched *sched)
{
	sched->trying = KVH_NVME_REST;
	sched->budget_bytes = sched->kept_bytes;
	sched->rests = 0;
}

void kvh_nvme_sched_judge(struct kvh_nvme_sched *sched, uint64_t rate)
{
	uint64_t noise = sched->kept_rate / 100 * NOISE_PCT;

	switch (sched->trying) {
	case KVH_NVME_REST:
		if (sched->kept_rate != 0 && ++sched->rests < RESTS)
			return;
		sched->kept_bytes = sched->budget_bytes;
		sched->kept_rate = rate;
		try_larger(sched);
		return;
	case KVH_NVME_LARGER:
		if (rate > sched->kept_rate + noise &&
		    sched->budget_bytes > sched->kept_bytes) {
			sched->kept_bytes = sched->budget_bytes;
			sched->kept_rate = rate;
			try_larger(sched);
			return;
		}
		try_smaller(sched);
		return;
	case KVH_NVME_SMALLER:
		/* Against the same rate, so that many small losses are not kept. */
		if (rate + noise >= sched->kept_rate &&
		    sched->budget_bytes < sched->kept_bytes) {
			sched->kept_bytes = sched->budget_bytes;
			try_smaller(sched);
			return;
		}
		rest(sched);
		return;
	case KVH_NVME_TRIES: break;
	}
}

/* Called when some have ended and the queues were looked at. */
static void measure(struct kvh_nvme_sched *sched, uint64_t bytes, uint32_t ended)
{
	uint64_t now;

	if (sched->fixed_bytes != 0)
		return;
	if (sched->waiting == 0) { /* the budget binds nobody */
		sched->round_ns = 0;
		return;
	}
	now = kvh_now_ns();
	if (sched->round_ns == 0) {
		sched->round_ns = now;
		sched->round_bytes = 0;
		sched->round_ended = 0;
		return;
	}
	sched->round_bytes += bytes;
	sched->round_ended += ended;
	if (now - sched->round_ns < ROUND_NS || sched->round_ended < ROUND_ENDED)
		return;
	kvh_nvme_sched_judge(sched, sched->round_bytes * 1000 /
					    ((now - sched->round_ns) / KVH_NS_PER_MS));
	sched->round_ns = 0; /* what flies now was started before: not counted */
}

struct kvh_nvme_io *kvh_nvme_sched_reap(struct kvh_nvme_sched *sched)
{
	struct kvh_nvme_io *io = sched->engine_ops->reap(sched->engine), *next;
	uint64_t bytes = 0;
	uint32_t n = 0;

	for (; io != NULL; io = next) {
		next = io->next;
		assert(sched->flying > 0 && sched->flying_bytes >= io->len);
		sched->flying--;
		sched->flying_bytes -= io->len;
		bytes += io->done;
		n++;
		kvh_nvme_io_list_append(&sched->ended, io);
	}
	if (n > 0) {
		fill(sched);
		measure(sched, bytes, n);
	}
	return kvh_nvme_io_list_take(&sched->ended);
}

void kvh_nvme_sched_plug(struct kvh_nvme_sched *sched, bool on)
{
	if (sched->engine_ops->plug != NULL)
		sched->engine_ops->plug(sched->engine, on);
}
