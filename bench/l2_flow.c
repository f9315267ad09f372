/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_flow.c - which requests a run of the rig is made of, and what became of
 * them. On the rig's driving thread, but for the seal and the check themselves.
 */
#include "bench/l2_rig_impl.h"

#include "bench/measure.h"
#include "bench/random.h"
#include "host/clock.h"
#include "host/frame.h"

#include <assert.h>
#include <errno.h>
#include <isa-l/crc64.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t digest[32] = "kvhoist-bench l2";

const char *kvh_l2_mode_name(enum kvh_l2_mode mode)
{
	switch (mode) {
	case KVH_L2_STORE: return "store";
	case KVH_L2_LOAD: return "load";
	case KVH_L2_MIXED: return "mixed";
	case KVH_L2_PROBES: return "probe";
	case KVH_L2_MODES: break;
	}
	return "?";
}

static void key_make(uint64_t number, struct kvh_key *key)
{
	uint64_t words[2] = {kvh_random_mix(number + 1), number};

	memset(key, 0, sizeof(*key));
	memcpy(key->hash.bytes, words, sizeof(words));
	memcpy(&key->space, digest, sizeof(key->space));
}

/* ---- lanes ---- */

static bool sums(const struct kvh_rig *rig)
{
	return rig->opts.verify && !rig->opts.raw;
}

static void lane_free(struct kvh_lanes *lanes, struct kvh_lane *lane)
{
	lane->state = KVH_LANE_FREE;
	lane->next = lanes->free;
	lanes->free = lane;
}

static struct kvh_lane *lane_take(struct kvh_lanes *lanes)
{
	struct kvh_lane *lane = lanes->free;

	if (lane != NULL)
		lanes->free = lane->next;
	return lane;
}

static void sealed_push(struct kvh_lanes *lanes, struct kvh_lane *lane)
{
	lane->state = KVH_LANE_SEALED;
	lane->next = NULL;
	*lanes->sealed_tail = lane;
	lanes->sealed_tail = &lane->next;
}

static struct kvh_lane *sealed_take(struct kvh_lanes *lanes)
{
	struct kvh_lane *lane = lanes->sealed;

	if (lane == NULL)
		return NULL;
	lanes->sealed = lane->next;
	if (lanes->sealed == NULL)
		lanes->sealed_tail = &lanes->sealed;
	return lane;
}

/* Worker. */
static void seal_run(struct kvh_work *work)
{
	struct kvh_lane *lane = (struct kvh_lane *)((char *)work -
						    offsetof(struct kvh_lane, work));

	kvh_frame_seal(lane->frame);
	kvh_loop_post(lane->rig->loop, &lane->worked);
}

static void seal_ended(struct kvh_loop_work *worked)
{
	struct kvh_lane *lane = (struct kvh_lane *)((char *)worked -
						    offsetof(struct kvh_lane, worked));

	sealed_push(&lane->rig->puts, lane);
}

/* The header without the payload's checksum: an adapter may look at it. */
static void seal_header(void *frame)
{
	struct kvh_frame_header *header = frame;

	header->header_checksum = crc64_ecma_refl(
		0, frame, offsetof(struct kvh_frame_header, header_checksum));
}

static void seal_ahead(struct kvh_rig *rig)
{
	const uint64_t payload = rig->opts.frame_bytes - KVH_FRAME_ALIGN;
	const struct kvh_hash parent = {{0}};
	struct kvh_lane *lane;

	while ((lane = lane_take(&rig->puts)) != NULL) {
		lane->number = rig->next_put;
		__atomic_store_n(&rig->next_put, lane->number + 1, __ATOMIC_RELAXED);
		key_make(lane->number, &lane->task.req.key);
		kvh_frame_fill(lane->frame, &lane->task.req.key, digest, &parent,
			       lane->number + 1, payload);
		if (!sums(rig)) {
			seal_header(lane->frame);
			sealed_push(&rig->puts, lane);
			continue;
		}
		lane->state = KVH_LANE_SEALING;
		lane->work.run = seal_run;
		lane->worked.run = seal_ended;
		kvh_workers_post(rig->workers, &lane->work);
	}
}

/* ---- the end of a request ---- */

static void over(struct kvh_rig *rig)
{
	rig->flow.result->ns += kvh_now_ns() - rig->flow.began_ns;
	rig->flow.result->cpu_ns += kvh_cpu_ns() - rig->flow.began_cpu_ns;
	kvh_rig_over(rig);
}

static void settle(struct kvh_lane *lane, int status)
{
	struct kvh_rig *rig = lane->rig;
	struct kvh_rig_result *result = rig->flow.result;
	uint64_t now = kvh_now_ns();

	if (status == 0) {
		result->frames++;
		result->bytes += lane->task.req.op == KVH_L2_PROBE ? 0 : lane->task.req.len;
		(void)kvh_samples_add(&result->latency, now - lane->began_ns);
	} else if (status == -ENOENT) {
		result->misses++;
	} else if (status == -EBADMSG) {
		result->corrupt++;
	} else {
		result->failed++;
	}
	if (rig->flow.finding && status == 0)
		rig->living[rig->n_living++] = lane->number;
	rig->flow.ended++;
	if (kvh_flow_over(rig))
		over(rig);
}

static struct kvh_lanes *lanes_of(struct kvh_lane *lane)
{
	return lane->task.req.op == KVH_L2_PUT ? &lane->rig->puts : &lane->rig->gets;
}

/* Worker. */
static void check_run(struct kvh_work *work)
{
	struct kvh_lane *lane = (struct kvh_lane *)((char *)work -
						    offsetof(struct kvh_lane, work));

	if (kvh_frame_verify(lane->frame, lane->task.req.len, &lane->task.req.key, digest,
			     &lane->wrong) == 0)
		lane->wrong = NULL;
	kvh_loop_post(lane->rig->loop, &lane->worked);
}

static void check_ended(struct kvh_loop_work *worked)
{
	struct kvh_lane *lane = (struct kvh_lane *)((char *)worked -
						    offsetof(struct kvh_lane, worked));

	lane_free(&lane->rig->gets, lane);
	settle(lane, lane->wrong == NULL ? 0 : -EBADMSG);
}

static void lane_ended(struct kvh_lane *lane, int status, bool buffer_free)
{
	struct kvh_rig *rig = lane->rig;

	assert(lane->state == KVH_LANE_OUT && rig->flow.out > 0);
	rig->flow.out--;
	if (status == 0 && lane->task.req.op == KVH_L2_GET && sums(rig)) {
		lane->state = KVH_LANE_CHECKING;
		lane->work.run = check_run;
		lane->worked.run = check_ended;
		kvh_workers_post(rig->workers, &lane->work);
		return;
	}
	if (buffer_free)
		lane_free(lanes_of(lane), lane);
	settle(lane, status);
}

static void task_ended(struct kvh_l2_task *task, int status, bool buffer_free)
{
	lane_ended((struct kvh_lane *)task, status, buffer_free);
}

static void task_returned(struct kvh_l2_task *task)
{
	lane_free(lanes_of((struct kvh_lane *)task), (struct kvh_lane *)task);
}

void kvh_flow_reaped(struct kvh_lane *lane)
{
	lane_ended(lane, lane->task.req.status, true);
}

/* ---- the start of a request ---- */

/* Fisher and Yates. */
static void shuffle(struct kvh_rig *rig)
{
	for (uint64_t i = rig->n_living; i > 1; i--) {
		uint64_t j = kvh_random_next(&rig->seed) % i, other = rig->living[j];

		rig->living[j] = rig->living[i - 1];
		rig->living[i - 1] = other;
	}
}

static uint64_t living_next(struct kvh_rig *rig)
{
	if (rig->next_living == 0)
		shuffle(rig);
	rig->next_living = (rig->next_living + 1) % rig->n_living;
	return rig->living[rig->next_living];
}

/* One of those put lately: long enough ago to have ended, whatever passed it, and
 * not so long that it may be evicted. */
static uint64_t recent(struct kvh_rig *rig)
{
	uint64_t margin = 4 * (uint64_t)rig->puts.n;
	uint64_t end = rig->next_put > margin ? rig->next_put - margin : 1;
	uint64_t span = rig->n_living / 4 < end ? rig->n_living / 4 : end;

	return span == 0 ? end - 1 : end - 1 - kvh_random_next(&rig->seed) % span;
}

static uint64_t number_to_read(struct kvh_rig *rig)
{
	if (rig->flow.finding)
		return rig->find_next++;
	if (rig->flow.mode == KVH_L2_MIXED)
		return recent(rig);
	return living_next(rig);
}

static struct kvh_lane *put_prepare(struct kvh_rig *rig)
{
	struct kvh_lane *lane = sealed_take(&rig->puts);

	if (lane == NULL)
		return NULL;
	lane->task.req.op = KVH_L2_PUT;
	lane->task.req.buf = lane->frame;
	lane->task.req.len = rig->opts.frame_bytes;
	return lane;
}

static struct kvh_lane *read_prepare(struct kvh_rig *rig, enum kvh_l2_op op)
{
	struct kvh_lane *lane = lane_take(&rig->gets);

	if (lane == NULL)
		return NULL;
	lane->number = number_to_read(rig);
	key_make(lane->number, &lane->task.req.key);
	lane->task.req.op = op;
	lane->task.req.buf = op == KVH_L2_GET ? lane->frame : NULL;
	lane->task.req.len = op == KVH_L2_GET ? rig->opts.frame_bytes : 0;
	return lane;
}

/* NULL: nothing can be started before something has ended. */
static struct kvh_lane *next_prepare(struct kvh_rig *rig)
{
	switch (rig->flow.mode) {
	case KVH_L2_STORE: return put_prepare(rig);
	case KVH_L2_LOAD: return read_prepare(rig, KVH_L2_GET);
	case KVH_L2_PROBES: return read_prepare(rig, KVH_L2_PROBE);
	case KVH_L2_MIXED: /* in turn, so that both halves are as long */
		return rig->flow.started % 2 == 0 ? put_prepare(rig)
						  : read_prepare(rig, KVH_L2_GET);
	case KVH_L2_MODES: break;
	}
	return NULL;
}

void kvh_flow_pump(struct kvh_rig *rig)
{
	struct kvh_flow *flow = &rig->flow;
	struct kvh_lane *lane;

	if (flow->mode == KVH_L2_STORE || flow->mode == KVH_L2_MIXED)
		seal_ahead(rig);
	if (__atomic_load_n(&rig->stop, __ATOMIC_RELAXED) && flow->n > flow->started) {
		flow->n = flow->started;
		if (kvh_flow_over(rig))
			over(rig);
	}
	while (flow->started < flow->n && flow->out < rig->opts.depth &&
	       (lane = next_prepare(rig)) != NULL) {
		flow->started++;
		flow->out++;
		lane->state = KVH_LANE_OUT;
		lane->began_ns = kvh_now_ns();
		kvh_rig_submit(rig, lane);
	}
	assert(flow->ended <= flow->started && flow->started <= flow->n);
}

bool kvh_flow_over(const struct kvh_rig *rig)
{
	return rig->flow.ended == rig->flow.n;
}

void kvh_flow_begin(struct kvh_rig *rig)
{
	rig->flow.began_cpu_ns = kvh_cpu_ns();
	rig->flow.began_ns = kvh_now_ns();
}

static void lanes_init(struct kvh_rig *rig, struct kvh_lanes *lanes, bool random)
{
	const uint64_t words = rig->opts.frame_bytes / sizeof(uint64_t);

	lanes->sealed_tail = &lanes->sealed;
	for (uint32_t i = lanes->n; i-- > 0;) {
		struct kvh_lane *lane = &lanes->lanes[i];
		uint64_t *bytes = lane->frame;

		lane->rig = rig;
		lane->task.ended = task_ended;
		lane->task.returned = task_returned;
		lane->task.req.owner = lane;
		for (uint64_t w = 0; w < words; w++)
			bytes[w] = random ? kvh_random_next(&rig->seed) : 0;
		lane_free(lanes, lane);
	}
}

void kvh_flow_init(struct kvh_rig *rig)
{
	rig->seed = 1;
	lanes_init(rig, &rig->puts, true);
	lanes_init(rig, &rig->gets, false);
}
