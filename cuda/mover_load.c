/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_load.c - payloads -> pages, through a stage or directly, layer by layer.
 *
 * Everything is enqueued on the caller's thread, under the lane's lock. The ring
 * is kept by the streams alone: before the copy stream enters a stage again it
 * waits for the event behind the last scatter from it. Fills lie one behind the
 * other in a stage, of small layers and of several loads, so that copies run
 * ahead of scatters by the whole ring. Only the scatters wait for the order point.
 * On a GPU layers of less than an eighth of a stage go together, as many as make that up: the
 * first of them comes a moment later, and none of them costs its own calls.
 * What goes direct takes no stage: its copies wait for the order point, and with them
 * those that come behind.
 */
#include "cuda/mover_impl.h"

#include <errno.h>
#include <stdlib.h>

/* ---- what there is to load -------------------------------------------- */

static int array_fit(void *array_p, uint64_t *cap, uint64_t n, size_t size)
{
	void **array = array_p, *mem;

	if (n <= *cap)
		return 0;
	mem = realloc(*array, n * size);
	if (!mem)
		return -ENOMEM;
	*array = mem;
	*cap = n;
	return 0;
}

static unsigned char chunk_present(const uint32_t *pages, uint32_t n)
{
	uint32_t there = 0;

	for (uint32_t i = 0; i < n; i++)
		there += pages[i] != KVH_PAGE_NONE;
	if (there == 0)
		return KVH_PRESENT_NONE;
	return there == n ? KVH_PRESENT_ALL : KVH_PRESENT_SOME;
}

static int run_note_present(struct kvh_move_run *run)
{
	const struct kvh_move *move = run->move;
	uint64_t n = 0;
	int rc;

	for (uint32_t p = 0; p < move->n_parts; p++)
		n += move->parts[p].n;
	rc = array_fit(&run->present, &run->cap_present, n, sizeof(*run->present));
	if (rc)
		return rc;
	n = 0;
	for (uint32_t p = 0; p < move->n_parts; p++) {
		const struct kvh_move_part *part = &move->parts[p];
		uint32_t ppc = part->plan->plan->pages_per_chunk;

		for (uint64_t c = 0; c < part->n; c++)
			run->present[n++] = chunk_present(part->pages + c * ppc, ppc);
	}
	return 0;
}

/* The lowest layer that any part has at its cursor. */
static bool next_layer(const struct kvh_move_run *run, uint32_t *layer_p)
{
	const struct kvh_move *move = run->move;
	bool found = false;

	for (uint32_t p = 0; p < move->n_parts; p++) {
		const struct kvh_plan *plan = move->parts[p].plan->plan;

		if (move->parts[p].n == 0 || run->cursor[p] == plan->n_planes)
			continue;
		if (!found || plan->planes[run->cursor[p]].layer < *layer_p)
			*layer_p = plan->planes[run->cursor[p]].layer;
		found = true;
	}
	return found;
}

/* The part's planes up to the layer are [*first_p, cursor); false if it has none. */
static bool take_layers(struct kvh_move_run *run, uint32_t p, uint32_t last, uint32_t *first_p)
{
	const struct kvh_move_part *part = &run->move->parts[p];
	const struct kvh_plan *plan = part->plan->plan;
	uint32_t *at = &run->cursor[p];

	*first_p = *at;
	while (part->n && *at < plan->n_planes && plan->planes[*at].layer <= last)
		++*at;
	return *at > *first_p;
}

static void reset_cursors(struct kvh_move_run *run)
{
	for (uint32_t p = 0; p < run->move->n_parts; p++)
		run->cursor[p] = 0;
}

static int run_add_layer(struct kvh_move_run *run, uint32_t layer)
{
	struct kvh_mover *mover = run->lane->mover;
	struct kvh_run_layer *at;
	int rc = 0;

	if (run->n_layers == run->cap_layers) {
		uint32_t cap = run->cap_layers ? run->cap_layers * 2 : 16;

		at = realloc(run->layers, cap * sizeof(*at));
		if (!at)
			return -ENOMEM;
		for (uint32_t i = run->cap_layers; i < cap; i++)
			at[i] = (struct kvh_run_layer){0};
		run->layers = at;
		run->cap_layers = cap;
	}
	at = &run->layers[run->n_layers];
	if (!at->event)
		rc = kvh_mover_ops(mover)->event_create(mover->dev, &at->event);
	if (rc)
		return rc;
	at->layer = layer;
	at->bytes = 0;
	run->n_layers++;
	return 0;
}

/* Moves the cursors behind the layer, which is the last one added. */
static void run_take_layer(struct kvh_move_run *run)
{
	struct kvh_run_layer *at = &run->layers[run->n_layers - 1];
	struct kvh_band band;
	uint32_t first;

	for (uint32_t p = 0; p < run->move->n_parts; p++) {
		if (!take_layers(run, p, at->layer, &first))
			continue;
		kvh_band_init(&band, &run->move->parts[p], first, run->cursor[p]);
		at->bytes += band.bytes * run->move->parts[p].n;
	}
}

static int run_note_layers(struct kvh_move_run *run)
{
	uint32_t layer = 0;
	int rc = array_fit(&run->cursor, &run->cap_cursor, run->move->n_parts,
			   sizeof(*run->cursor));

	if (rc)
		return rc;
	reset_cursors(run);
	while (next_layer(run, &layer)) {
		rc = run_add_layer(run, layer);
		if (rc)
			return rc;
		run_take_layer(run);
	}
	reset_cursors(run);
	return 0;
}

/* ---- enqueueing ------------------------------------------------------- */

/* Room for a fill: behind the last one, or in the next stage when it is empty. */
static int stage_room(struct kvh_lane *lane, uint64_t bytes, struct kvh_stage **stage_p,
		      unsigned char **mem_p)
{
	struct kvh_mover *mover = lane->mover;
	struct kvh_stage *stage = &lane->stages[lane->fed % mover->n_stages];

	if (bytes > mover->stage_bytes - lane->used) {
		struct kvh_stage *next = &lane->stages[(lane->fed + 1) % mover->n_stages];
		int rc = kvh_mover_ops(mover)->stream_wait_event(mover->dev, lane->copy,
								 next->empty);

		if (rc)
			return rc;
		stage = next;
		lane->fed++;
		lane->used = 0;
	}
	*stage_p = stage;
	*mem_p = stage->mem + lane->used;
	lane->used += (bytes + KVH_STAGE_ALIGN - 1) & ~(uint64_t)(KVH_STAGE_ALIGN - 1);
	return 0;
}

static int enqueue_fill(struct kvh_lane *lane, const struct kvh_band *band, uint64_t first,
			uint64_t end, const unsigned char *present, const uint32_t *dev_pages)
{
	struct kvh_device *dev = lane->mover->dev;
	struct kvh_stage *stage;
	struct kvh_pack pack;
	unsigned char *mem;
	uint64_t bytes = kvh_band_position(band, end) - kvh_band_position(band, first);
	int rc = stage_room(lane, bytes, &stage, &mem);

	if (rc)
		return rc;
	rc = kvh_band_copy(band, present, first, end, mem, dev, &lane->batch);
	if (rc == 0)
		rc = dev->ops->event_record(dev, stage->full, lane->copy);
	if (rc == 0)
		rc = dev->ops->stream_wait_event(dev, lane->kernel, stage->full);
	if (rc)
		return rc;
	kvh_band_pack(band, first, end, dev_pages, mem, &pack);
	pack.ctas = lane->mover->burst;
	rc = dev->ops->scatter(dev, &pack, lane->kernel);
	if (rc == 0)
		rc = dev->ops->event_record(dev, stage->empty, lane->kernel);
	return rc;
}

/* No stage is used, but the event of one, which is waited for at once. */
static int enqueue_direct(struct kvh_lane *lane, const struct kvh_band *band)
{
	struct kvh_device *dev = lane->mover->dev;
	kvh_event_mark full = lane->stages[lane->fed % lane->mover->n_stages].full;
	int rc = kvh_direct_copy(band, 0, band->total, dev, &lane->batch);

	if (rc == 0)
		rc = dev->ops->event_record(dev, full, lane->copy);
	if (rc == 0)
		rc = dev->ops->stream_wait_event(dev, lane->kernel, full);
	return rc;
}

static int enqueue_band(struct kvh_lane *lane, const struct kvh_band *band,
			const unsigned char *present, const uint32_t *dev_pages)
{
	uint64_t unit = kvh_band_skip(band, present, 0);

	while (unit < band->total) {
		uint64_t end = kvh_band_cut(band, unit, lane->mover->stage_bytes);
		int rc = enqueue_fill(lane, band, unit, end, present, dev_pages);

		if (rc)
			return rc;
		unit = kvh_band_skip(band, present, end);
	}
	return 0;
}

/* Up to this layer: those before it that are not enqueued yet, and itself. */
static int enqueue_layers(struct kvh_move_run *run, const struct kvh_run_layer *last)
{
	struct kvh_lane *lane = run->lane;
	const struct kvh_move *move = run->move;
	const unsigned char *present = run->present;
	const uint32_t *dev_pages = run->pages->dev;

	for (uint32_t p = 0; p < move->n_parts; p++) {
		const struct kvh_move_part *part = &move->parts[p];
		struct kvh_band band;
		uint32_t first;
		int rc;

		if (take_layers(run, p, last->layer, &first)) {
			kvh_band_init(&band, part, first, run->cursor[p]);
			rc = kvh_way_is_direct(lane, part->plan)
				     ? enqueue_direct(lane, &band)
				     : enqueue_band(lane, &band, present, dev_pages);
			if (rc)
				return rc;
		}
		present += part->n;
		dev_pages += (uint64_t)part->n * part->plan->plan->pages_per_chunk;
	}
	return kvh_mover_ops(lane->mover)
		->event_record(lane->mover->dev, last->event, lane->kernel);
}

/* From layer `first` on, those that are loaded at once, as each is small: the end. */
static uint32_t layers_together(struct kvh_move_run *run, uint32_t first)
{
	const struct kvh_mover *mover = run->lane->mover;
	uint64_t least = mover->layer_bytes ? mover->layer_bytes
					    : mover->stage_bytes / KVH_STAGE_PARTS;
	uint64_t bytes = 0;
	uint32_t end = first;

	do
		bytes += run->layers[end++].bytes;
	while (end < run->n_layers && bytes < least && run->layers[end].bytes < least);
	for (uint32_t i = first; i < end; i++)
		run->layers[i].with = end - 1;
	return end;
}

static int run_enqueue(struct kvh_move_run *run)
{
	struct kvh_lane *lane = run->lane;
	int rc = 0;

	for (uint32_t i = 0; i < run->n_layers && rc == 0;) {
		i = layers_together(run, i);
		rc = enqueue_layers(run, &run->layers[i - 1]);
	}
	if (rc == 0)
		rc = kvh_mover_ops(lane->mover)
			     ->event_record(lane->mover->dev, run->end[0], lane->kernel);
	return rc;
}

/* Direct copies write pages themselves. */
static int run_order_copies(struct kvh_move_run *run)
{
	struct kvh_lane *lane = run->lane;
	bool direct = false;

	for (uint32_t p = 0; p < run->move->n_parts; p++)
		direct |= kvh_way_is_direct(lane, run->move->parts[p].plan);
	return direct ? kvh_mover_ops(lane->mover)
				->stream_wait_event(lane->mover->dev, lane->copy, run->after)
		      : 0;
}

/* In the order of the streams, so that the oldest run is the first to end. */
static int run_submit(struct kvh_move_run *run)
{
	struct kvh_lane *lane = run->lane;
	int rc = run_order_copies(run);

	if (rc == 0)
		rc = kvh_mover_ops(lane->mover)
			     ->stream_wait_event(lane->mover->dev, lane->kernel, run->after);
	/* The last that may fail without a trace: page numbers on their way would come
	 * into a buffer that is another's by then. */
	if (rc == 0)
		rc = kvh_run_send_pages(run);
	if (rc)
		return rc;
	rc = run_enqueue(run);
	if (rc) {
		kvh_run_break(run, rc);
	} else {
		run->unended = KVH_END_KERNEL;
		kvh_run_set_state(run, KVH_RUN_FED);
		kvh_lane_notice(lane, run->end[0]);
	}
	kvh_run_accept(run);
	return 0;
}

/* The caller's event as it is: all is enqueued before the call returns. */
static int run_order(struct kvh_move_run *run, kvh_stream stream, kvh_event_mark event)
{
	struct kvh_mover *mover = run->lane->mover;

	if (event) {
		run->after = event;
		return 0;
	}
	return kvh_mover_ops(mover)->event_record(mover->dev, run->order, stream);
}

int kvh_mover_load(struct kvh_mover *mover, struct kvh_move *move, kvh_stream stream,
		   kvh_event_mark event)
{
	struct kvh_lane *lane = &mover->load;
	struct kvh_move_run *run;
	int rc;

	if (move->n_parts == 0 || (stream && event))
		return -EINVAL;
	rc = kvh_run_order_check(mover, stream, event);
	if (rc)
		return rc;
	rc = kvh_run_begin(lane, move, &run);
	if (rc)
		return rc;
	rc = run_note_present(run);
	if (rc == 0)
		rc = run_note_layers(run);
	if (rc == 0)
		rc = run_order(run, stream, event);
	if (rc == 0) {
		pthread_mutex_lock(&lane->enqueue);
		rc = run_submit(run);
		pthread_mutex_unlock(&lane->enqueue);
	}
	if (rc)
		kvh_run_recycle(run);
	return rc;
}

/* ---- afterwards ------------------------------------------------------- */

static kvh_event_mark layer_event(const struct kvh_move_run *run, uint32_t layer)
{
	uint32_t lo = 0, hi = run->n_layers;

	if (layer == KVH_LAYER_ALL)
		return run->end[0];
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (run->layers[mid].layer == layer)
			return run->layers[run->layers[mid].with].event;
		if (run->layers[mid].layer < layer)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

int kvh_mover_load_wait(struct kvh_mover *mover, struct kvh_move *move, uint32_t layer,
			kvh_stream stream)
{
	struct kvh_move_run *run = move->run;
	kvh_event_mark event;
	int rc;

	if (!run || !run->lane->load)
		return -EINVAL;
	rc = kvh_run_order_check(mover, stream, NULL);
	if (rc)
		return rc;
	event = layer_event(run, layer);
	if (!event)
		return -EINVAL;
	/* A load that broke has not recorded all of its events. */
	if (atomic_load(&run->error))
		return -EIO;
	return kvh_mover_ops(mover)->stream_wait_event(mover->dev, stream, event);
}

void kvh_mover_forget(struct kvh_mover *mover, struct kvh_move *move)
{
	struct kvh_move_run *run;

	pthread_mutex_lock(&mover->lock);
	run = move->run;
	move->run = NULL;
	pthread_mutex_unlock(&mover->lock);
	if (run)
		kvh_run_recycle(run);
}

bool kvh_load_reap(struct kvh_lane *lane)
{
	struct kvh_move_run *run;
	bool moved = false;

	while ((run = TAILQ_FIRST(&lane->active)) && kvh_run_drained(run)) {
		for (uint32_t p = 0; run->state == KVH_RUN_FED && p < run->move->n_parts; p++)
			kvh_run_settle(run, p, 0, run->move->parts[p].n);
		kvh_run_end(run);
		moved = true;
	}
	return moved;
}
