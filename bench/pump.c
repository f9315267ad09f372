/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pump.c - a set that is moved again and again. The pump's thread makes all device
 * calls of a run; its owner's makes the others while it is paused. Parts land in the
 * order in which they were submitted, so only the oldest is waited for.
 */
#include "bench/pump.h"

#include "bench/bench.h"
#include "host/clock.h"
#include "host/frame.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PARTS     4u
#define BYTES_NEW 0x77u /* the generation that a load of the link's brings */

struct part {
	struct kvh_pump *pump;
	uint64_t bytes;
	bool flying; /* of the pump's thread */
	/* of the mover's */
	struct kvh_move move;
	struct kvh_move_part chunks;
	bool landed; /* under the lock */
	/* of the link's */
	kvh_stream stream;
	struct kvh_copy copy;
	uint64_t offset; /* in the pool */
	void *frame;
};

struct kvh_pump {
	struct kvh_pack_set *set;
	enum kvh_pump_way way;
	bool load;
	struct part parts[PARTS];
	pthread_t thread;
	bool started;

	pthread_mutex_t lock; /* of all below */
	pthread_cond_t changed;
	bool running; /* asked for */
	bool idle;    /* nothing is on its way, and nothing will be */
	bool closing;
	uint32_t landings; /* since run */
	struct kvh_pump_mark mark;
	int error; /* the first */
};

const char *kvh_pump_way_name(enum kvh_pump_way way)
{
	switch (way) {
	case KVH_PUMP_COPY: return "link";
	case KVH_PUMP_KVHOIST: return "kvhoist";
	case KVH_PUMP_GENTLE: return "gentle";
	case KVH_PUMP_WAYS: break;
	}
	return "?";
}

bool kvh_pump_way_goes(enum kvh_pump_way way, bool load)
{
	return way != KVH_PUMP_GENTLE || !load;
}

/* ---- a part ------------------------------------------------------------- */

/* On the mover's thread. */
static void part_landed(struct kvh_move *move)
{
	struct part *part = move->arg;
	struct kvh_pump *pump = part->pump;

	(void)pthread_mutex_lock(&pump->lock);
	part->landed = true;
	(void)pthread_cond_broadcast(&pump->changed);
	(void)pthread_mutex_unlock(&pump->lock);
}

static int part_submit(struct kvh_pump *pump, struct part *part)
{
	struct kvh_pack_rig *rig = pump->set->rig;
	int err;

	if (pump->way == KVH_PUMP_COPY) {
		err = rig->dev->ops->copy(rig->dev, pump->load ? KVH_COPY_H2D : KVH_COPY_D2H,
					  &part->copy, part->stream);
	} else {
		part->landed = false; /* nobody else has it */
		memset(&part->move, 0, sizeof(part->move));
		part->move.parts = &part->chunks;
		part->move.n_parts = 1;
		part->move.done = part_landed;
		part->move.arg = part;
		err = pump->load ? kvh_mover_load(rig->mover, &part->move, rig->stream, NULL)
				 : kvh_mover_store(rig->mover, &part->move, rig->stream, NULL);
	}
	part->flying = err == 0;
	return err;
}

static int part_wait(struct kvh_pump *pump, struct part *part)
{
	struct kvh_pack_rig *rig = pump->set->rig;

	part->flying = false;
	if (pump->way == KVH_PUMP_COPY)
		return rig->dev->ops->stream_wait(rig->dev, part->stream);
	(void)pthread_mutex_lock(&pump->lock);
	while (!part->landed)
		(void)pthread_cond_wait(&pump->changed, &pump->lock);
	(void)pthread_mutex_unlock(&pump->lock);
	if (pump->load)
		kvh_mover_forget(rig->mover, &part->move);
	return part->move.status;
}

/* ---- the thread --------------------------------------------------------- */

/* Counts a landing; whether to go on. */
static bool note_landing(struct kvh_pump *pump, const struct part *part, int err)
{
	bool go_on;

	(void)pthread_mutex_lock(&pump->lock);
	if (err != 0 && pump->error == 0)
		pump->error = err;
	if (err == 0) {
		pump->mark.at_ns = kvh_now_ns();
		pump->mark.bytes += part->bytes;
		pump->landings++;
		(void)pthread_cond_broadcast(&pump->changed);
	}
	go_on = pump->running && pump->error == 0;
	(void)pthread_mutex_unlock(&pump->lock);
	return go_on;
}

/* From run to pause. */
static void move_on(struct kvh_pump *pump)
{
	int err = 0;

	for (uint32_t i = 0; i < PARTS && err == 0; i++)
		err = part_submit(pump, &pump->parts[i]);
	for (uint32_t i = 0; pump->parts[i].flying; i = (i + 1) % PARTS) {
		struct part *part = &pump->parts[i];
		int rc = part_wait(pump, part);

		if (note_landing(pump, part, rc != 0 ? rc : err) && err == 0)
			err = part_submit(pump, part);
	}
	(void)pthread_mutex_lock(&pump->lock);
	if (err != 0 && pump->error == 0)
		pump->error = err;
	(void)pthread_mutex_unlock(&pump->lock);
}

static void *pump_main(void *arg)
{
	struct kvh_pump *pump = arg;

	(void)pthread_mutex_lock(&pump->lock);
	while (!pump->closing) {
		if (pump->running && pump->error == 0) {
			pump->idle = false;
			(void)pthread_mutex_unlock(&pump->lock);
			move_on(pump);
			(void)pthread_mutex_lock(&pump->lock);
			pump->idle = true;
			(void)pthread_cond_broadcast(&pump->changed);
			continue;
		}
		(void)pthread_cond_wait(&pump->changed, &pump->lock);
	}
	(void)pthread_mutex_unlock(&pump->lock);
	return NULL;
}

/* ---- run, pause --------------------------------------------------------- */

int kvh_pump_run(struct kvh_pump *pump)
{
	int err;

	(void)pthread_mutex_lock(&pump->lock);
	pump->running = true;
	pump->landings = 0;
	(void)pthread_cond_broadcast(&pump->changed);
	while (pump->landings < PARTS && pump->error == 0)
		(void)pthread_cond_wait(&pump->changed, &pump->lock);
	err = pump->error;
	(void)pthread_mutex_unlock(&pump->lock);
	return err;
}

int kvh_pump_pause(struct kvh_pump *pump)
{
	int err;

	(void)pthread_mutex_lock(&pump->lock);
	pump->running = false;
	while (!pump->idle)
		(void)pthread_cond_wait(&pump->changed, &pump->lock);
	err = pump->error;
	(void)pthread_mutex_unlock(&pump->lock);
	return err;
}

struct kvh_pump_mark kvh_pump_mark(struct kvh_pump *pump)
{
	struct kvh_pump_mark mark;

	(void)pthread_mutex_lock(&pump->lock);
	mark = pump->mark;
	(void)pthread_mutex_unlock(&pump->lock);
	return mark;
}

/* ---- check -------------------------------------------------------------- */

static bool link_part_check(struct kvh_pump *pump, struct part *part)
{
	struct kvh_pack_rig *rig = pump->set->rig;
	uint8_t generation = pump->load ? BYTES_NEW : 0;

	for (uint64_t at = 0, len; at < part->bytes; at += len) {
		unsigned char *here = (unsigned char *)part->frame + at;
		uint64_t offset = part->offset + at, good;

		len = part->bytes - at < rig->bounce_bytes ? part->bytes - at
							   : rig->bounce_bytes;
		if (pump->load) {
			struct kvh_copy back = {rig->bounce, rig->pool + offset, len};

			here = rig->bounce;
			if (rig->dev->ops->copy(rig->dev, KVH_COPY_D2H, &back, rig->stream) !=
				    0 ||
			    kvh_pack_rig_wait(rig) != 0)
				return false;
		}
		good = kvh_pack_bytes_compare(here, offset, len, generation);
		if (good != len) {
			kvh_bench_complain("a copy differs at byte %" PRIu64 " of the pool",
					   offset + good);
			return false;
		}
	}
	return true;
}

bool kvh_pump_check(struct kvh_pump *pump)
{
	struct kvh_pack_set *set = pump->set;
	bool right = true;

	if (pump->way != KVH_PUMP_COPY)
		return pump->load ? kvh_pack_pool_check(set)
				  : kvh_pack_frames_check(set, NULL, set->n_chunks);
	for (uint32_t i = 0; i < PARTS; i++)
		right = right && link_part_check(pump, &pump->parts[i]);
	return right;
}

/* ---- open, close -------------------------------------------------------- */

static int link_part_open(struct kvh_pump *pump, struct part *part, uint32_t i)
{
	struct kvh_pack_set *set = pump->set;
	struct kvh_pack_rig *rig = set->rig;
	unsigned char *there;
	int err;

	part->bytes = set->bytes / PARTS / KVH_FRAME_ALIGN * KVH_FRAME_ALIGN;
	part->offset = i * part->bytes;
	there = rig->pool + part->offset;
	if (part->bytes == 0)
		return -ENOSPC;
	err = kvh_arena_alloc(rig->arena, part->bytes, 1, &part->frame);
	if (err != 1)
		return err < 0 && err != -EINVAL ? err : -ENOSPC;
	if (pump->load)
		kvh_pack_bytes_fill(part->frame, part->offset, part->bytes, BYTES_NEW);
	else
		memset(part->frame, 0xa5, part->bytes);
	part->copy.dst = pump->load ? (void *)there : part->frame;
	part->copy.src = pump->load ? part->frame : (void *)there;
	part->copy.bytes = part->bytes;
	return rig->dev->ops->stream_create(rig->dev, 0, &part->stream);
}

static void set_part_open(struct kvh_pump *pump, struct part *part, uint32_t i)
{
	struct kvh_pack_set *set = pump->set;
	uint32_t first = set->n_chunks * i / PARTS, end = set->n_chunks * (i + 1) / PARTS;

	part->bytes = (end - first) * set->payload_bytes;
	part->chunks = (struct kvh_move_part){
		.plan = &set->mplan,
		.n = end - first,
		.payloads = set->payloads + first,
		.pages = set->pages + (size_t)first * set->pages_per_chunk,
		.status = set->status + first,
	};
}

static int parts_open(struct kvh_pump *pump)
{
	struct kvh_pack_set *set = pump->set;
	int err = set->n_chunks < PARTS ? -ENOSPC : 0;

	if (err == 0 && pump->way == KVH_PUMP_GENTLE && !set->mplan.gentle)
		err = -EOPNOTSUPP;
	for (uint32_t i = 0; i < PARTS && err == 0; i++) {
		pump->parts[i].pump = pump;
		if (pump->way == KVH_PUMP_COPY)
			err = link_part_open(pump, &pump->parts[i], i);
		else
			set_part_open(pump, &pump->parts[i], i);
	}
	if (err != 0 || pump->way == KVH_PUMP_COPY)
		return err;
	if (pump->load)
		kvh_pack_frames_next(set, NULL, set->n_chunks);
	else
		kvh_pack_frames_spoil(set, NULL, set->n_chunks);
	return 0;
}

int kvh_pump_open(struct kvh_pack_set *set, enum kvh_pump_way way, bool load,
		  struct kvh_pump **pump_p)
{
	struct kvh_pump *pump = calloc(1, sizeof(*pump));
	int err;

	if (pump == NULL)
		return -ENOMEM;
	pump->set = set;
	pump->way = way;
	pump->load = load;
	pump->idle = true;
	(void)pthread_mutex_init(&pump->lock, NULL);
	(void)pthread_cond_init(&pump->changed, NULL);
	err = parts_open(pump);
	if (err == 0)
		err = -pthread_create(&pump->thread, NULL, pump_main, pump);
	if (err != 0) {
		kvh_pump_close(pump);
		return err;
	}
	pump->started = true;
	if (way == KVH_PUMP_GENTLE)
		kvh_mover_set_gentle(set->rig->mover, true);
	*pump_p = pump;
	return 0;
}

static void pump_join(struct kvh_pump *pump)
{
	(void)pthread_mutex_lock(&pump->lock);
	pump->running = false;
	pump->closing = true;
	(void)pthread_cond_broadcast(&pump->changed);
	(void)pthread_mutex_unlock(&pump->lock);
	(void)pthread_join(pump->thread, NULL);
	if (pump->way == KVH_PUMP_GENTLE)
		kvh_mover_set_gentle(pump->set->rig->mover, false);
}

void kvh_pump_close(struct kvh_pump *pump)
{
	struct kvh_pack_rig *rig;

	if (pump == NULL)
		return;
	rig = pump->set->rig;
	if (pump->started)
		pump_join(pump);
	for (uint32_t i = 0; i < PARTS; i++) {
		if (pump->parts[i].stream != NULL)
			rig->dev->ops->stream_destroy(rig->dev, pump->parts[i].stream);
		if (pump->parts[i].frame != NULL)
			kvh_arena_free(rig->arena, pump->parts[i].frame);
	}
	(void)pthread_cond_destroy(&pump->changed);
	(void)pthread_mutex_destroy(&pump->lock);
	free(pump);
}
