/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_calibrate.c - the two ways side by side, for pages of one shape: the same
 * code as moves go through, over a plan, pages and payloads made for it.
 *
 * The thread that adds a plan, one at a time. A bounded number of bytes, and
 * streams and memory of its own: moves that are under way are not touched, but take
 * their share of the link from both ways alike. The best of a few samples each,
 * taken in turn, so that a moment's disturbance decides nothing.
 */
#include "cuda/mover_impl.h"
#include "host/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES 3u
/* Of the scratch memory, in a sample. One without SMs: where the host's memory stands
 * in for a GPU's it is slow, and the rates decide little. */
#define ROUNDS        6u
#define SCRATCH_BYTES (UINT64_C(32) << 20)
#define CHUNK_PAGES   4u
#define FRAME_GAP     4096u /* a frame's header lies between payloads */

struct bench {
	struct kvh_mover *mover;
	struct kvh_device *dev;
	const struct kvh_calibration *at;
	kvh_stream kernel, copy;
	kvh_event_mark full[2], empty[2];
	void *pool, *stage[2], *dev_plan, *dev_pages; /* of the device */
	void *payload_mem, *tables;                   /* pinned */
	uint64_t stage_bytes;
	unsigned rounds;
	uint32_t n_chunks, n_pages; /* n_pages == CHUNK_PAGES * n_chunks, a power of two */
	struct kvh_plan *plan;
	struct kvh_mover_plan mplan;
	uint32_t *pages; /* in tables */
	void **payloads;
	struct kvh_move_part part;
	struct kvh_band band;
	struct kvh_batch batch;
	uint64_t turns;  /* stages used; stage i is stage[i % 2] */
	uint64_t *moved; /* bytes, of all samples */
};

/* ---- what is moved ------------------------------------------------------ */

static void bench_sizes(struct bench *b)
{
	uint64_t page = b->at->row_bytes * b->at->rows, bytes;
	struct kvh_device_info info;

	b->dev->ops->info(b->dev, &info);
	b->rounds = info.n_sms ? ROUNDS : 1;
	pthread_mutex_lock(&b->mover->lock);
	b->stage_bytes = b->mover->stage_bytes;
	pthread_mutex_unlock(&b->mover->lock);
	bytes = 4 * b->stage_bytes < SCRATCH_BYTES ? 4 * b->stage_bytes : SCRATCH_BYTES;
	if (b->stage_bytes > SCRATCH_BYTES)
		b->stage_bytes = SCRATCH_BYTES;
	for (b->n_chunks = 1; 2 * b->n_chunks * CHUNK_PAGES * page <= bytes;)
		b->n_chunks *= 2;
	b->n_pages = b->n_chunks * CHUNK_PAGES;
}

/* Planes one behind the other, so that they lie at one stride. */
static int bench_plan(struct bench *b)
{
	uint64_t row = b->at->row_bytes;
	uint32_t n = b->at->rows;
	struct kvh_plane_shape *shapes = calloc(n, sizeof(*shapes));
	struct kvh_plane *planes = calloc(n, sizeof(*planes));
	struct kvh_alloc alloc = {b->pool, row * n * b->n_pages};
	struct kvh_group_desc group = {
		.kind = KVH_GROUP_FULL,
		.format = KVH_FORMAT_NATIVE,
		.page_tokens = 1,
		.n_planes = n,
		.planes = shapes,
	};
	int rc = shapes && planes ? 0 : -ENOMEM;

	for (uint32_t i = 0; rc == 0 && i < n; i++) {
		shapes[i].kind = KVH_PLANE_OPAQUE;
		shapes[i].page_bytes = row;
		planes[i].offset = row * b->n_pages * i;
		planes[i].page_stride = row;
	}
	if (rc == 0)
		rc = kvh_plan_make(&group, CHUNK_PAGES, &alloc, 1, planes, 0, b->n_pages,
				   &b->plan);
	free(planes);
	free(shapes);
	return rc;
}

/* Its bits turned round: no page lies behind the one before. */
static uint32_t page_at(uint32_t i, uint32_t n_pages)
{
	uint32_t page = 0;

	for (; n_pages > 1; n_pages /= 2, i /= 2)
		page = 2 * page + i % 2;
	return page;
}

/* Plan and page numbers on the device; payloads as frames lie. */
static int bench_part(struct bench *b)
{
	const struct kvh_device_ops *ops = b->dev->ops;
	uint64_t pages_bytes = b->n_pages * sizeof(uint32_t);
	struct kvh_copy copies[2];
	int rc;

	b->payloads = calloc(b->n_chunks, sizeof(*b->payloads));
	if (!b->payloads)
		return -ENOMEM;
	for (uint32_t i = 0; i < b->n_chunks; i++)
		b->payloads[i] = (unsigned char *)b->payload_mem + FRAME_GAP +
				 i * (b->plan->payload_bytes + FRAME_GAP);
	rc = ops->host_alloc(b->dev, b->plan->bytes + pages_bytes, &b->tables);
	if (rc == 0)
		rc = ops->mem_alloc(b->dev, b->plan->bytes, &b->dev_plan);
	if (rc == 0)
		rc = ops->mem_alloc(b->dev, pages_bytes, &b->dev_pages);
	if (rc)
		return rc;
	memcpy(b->tables, b->plan, b->plan->bytes);
	b->pages = (uint32_t *)((unsigned char *)b->tables + b->plan->bytes);
	for (uint32_t i = 0; i < b->n_pages; i++)
		b->pages[i] = page_at(i, b->n_pages);
	copies[0] = (struct kvh_copy){b->dev_plan, b->tables, b->plan->bytes};
	copies[1] = (struct kvh_copy){b->dev_pages, b->pages, pages_bytes};
	b->mplan = (struct kvh_mover_plan){.plan = b->plan, .dev_plan = b->dev_plan};
	b->part = (struct kvh_move_part){
		.plan = &b->mplan,
		.n = b->n_chunks,
		.payloads = b->payloads,
		.pages = b->pages,
	};
	kvh_band_init(&b->band, &b->part, 0, b->plan->n_planes);
	rc = ops->copy_batch(b->dev, KVH_COPY_H2D, copies, 2, b->copy);
	return rc ? rc : ops->stream_wait(b->dev, b->copy);
}

static int bench_streams(struct bench *b)
{
	const struct kvh_device_ops *ops = b->dev->ops;
	int rc = ops->stream_create(b->dev, 1, &b->kernel);

	if (rc == 0)
		rc = ops->stream_create(b->dev, 0, &b->copy);
	for (unsigned i = 0; i < 2 && rc == 0; i++) {
		rc = ops->event_create(b->dev, &b->full[i]);
		if (rc == 0)
			rc = ops->event_create(b->dev, &b->empty[i]);
	}
	b->batch.kind = b->at->load ? KVH_COPY_H2D : KVH_COPY_D2H;
	b->batch.stream = b->copy;
	return rc;
}

static int bench_open(struct bench *b)
{
	const struct kvh_device_ops *ops = b->dev->ops;
	uint64_t bytes;
	int rc = bench_streams(b);

	bench_sizes(b);
	bytes = b->at->row_bytes * b->at->rows * b->n_pages;
	if (rc == 0)
		rc = ops->mem_alloc(b->dev, bytes, &b->pool);
	for (unsigned i = 0; i < 2 && rc == 0; i++)
		rc = ops->mem_alloc(b->dev, b->stage_bytes, &b->stage[i]);
	if (rc == 0)
		rc = ops->host_alloc(b->dev, bytes + (uint64_t)b->n_chunks * FRAME_GAP,
				     &b->payload_mem);
	if (rc == 0)
		rc = bench_plan(b);
	return rc ? rc : bench_part(b);
}

/* Whatever there is of it. What a failure left enqueued ends first. */
static void bench_close(struct bench *b)
{
	const struct kvh_device_ops *ops = b->dev->ops;
	kvh_stream streams[2] = {b->kernel, b->copy};
	void *mem[] = {b->pool, b->stage[0], b->stage[1], b->dev_plan, b->dev_pages};

	for (unsigned i = 0; i < 2 && streams[i]; i++) {
		(void)ops->stream_wait(b->dev, streams[i]);
		ops->stream_destroy(b->dev, streams[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		if (b->full[i])
			ops->event_destroy(b->dev, b->full[i]);
		if (b->empty[i])
			ops->event_destroy(b->dev, b->empty[i]);
	}
	for (unsigned i = 0; i < sizeof(mem) / sizeof(mem[0]); i++)
		if (mem[i])
			ops->mem_free(b->dev, mem[i]);
	if (b->tables)
		ops->host_free(b->dev, b->tables);
	if (b->payload_mem)
		ops->host_free(b->dev, b->payload_mem);
	kvh_plan_free(b->plan);
	free(b->payloads);
	free(b);
}

/* ---- both ways ---------------------------------------------------------- */

static int copy_stage(struct bench *b, unsigned turn, uint64_t first, uint64_t end)
{
	return kvh_band_copy(&b->band, NULL, first, end, b->stage[turn], b->dev, &b->batch);
}

static int fill_store(struct bench *b, unsigned turn, uint64_t first, uint64_t end)
{
	const struct kvh_device_ops *ops = b->dev->ops;
	struct kvh_pack pack;
	int rc = ops->stream_wait_event(b->dev, b->kernel, b->empty[turn]);

	kvh_band_pack(&b->band, first, end, b->dev_pages, b->stage[turn], &pack);
	pack.ctas = b->mover->burst;
	if (rc == 0)
		rc = ops->gather(b->dev, &pack, b->kernel);
	if (rc == 0)
		rc = ops->event_record(b->dev, b->full[turn], b->kernel);
	if (rc == 0)
		rc = ops->stream_wait_event(b->dev, b->copy, b->full[turn]);
	if (rc == 0)
		rc = copy_stage(b, turn, first, end);
	return rc ? rc : ops->event_record(b->dev, b->empty[turn], b->copy);
}

static int fill_load(struct bench *b, unsigned turn, uint64_t first, uint64_t end)
{
	const struct kvh_device_ops *ops = b->dev->ops;
	struct kvh_pack pack;
	int rc = ops->stream_wait_event(b->dev, b->copy, b->empty[turn]);

	kvh_band_pack(&b->band, first, end, b->dev_pages, b->stage[turn], &pack);
	pack.ctas = b->mover->burst;
	if (rc == 0)
		rc = copy_stage(b, turn, first, end);
	if (rc == 0)
		rc = ops->event_record(b->dev, b->full[turn], b->copy);
	if (rc == 0)
		rc = ops->stream_wait_event(b->dev, b->kernel, b->full[turn]);
	if (rc == 0)
		rc = ops->scatter(b->dev, &pack, b->kernel);
	return rc ? rc : ops->event_record(b->dev, b->empty[turn], b->kernel);
}

static int round_staged(struct bench *b)
{
	int rc = 0;

	for (uint64_t unit = 0, end; unit < b->band.total && rc == 0; unit = end) {
		unsigned turn = b->turns++ % 2;

		end = kvh_band_cut(&b->band, unit, b->stage_bytes);
		rc = b->at->load ? fill_load(b, turn, unit, end)
				 : fill_store(b, turn, unit, end);
	}
	return rc;
}

static int round_direct(struct bench *b)
{
	return kvh_direct_copy(&b->band, 0, b->band.total, b->dev, &b->batch);
}

/* Keeps the best rate in *rate_p. */
static int sample(struct bench *b, int (*round)(struct bench *), unsigned rounds,
		  uint64_t *rate_p)
{
	const struct kvh_device_ops *ops = b->dev->ops;
	uint64_t bytes = rounds * b->band.bytes * b->n_chunks, ns, rate;
	uint64_t start = kvh_now_ns();
	int rc = 0;

	for (unsigned i = 0; i < rounds && rc == 0; i++)
		rc = round(b);
	if (rc == 0)
		rc = ops->stream_wait(b->dev, b->kernel);
	if (rc == 0)
		rc = ops->stream_wait(b->dev, b->copy);
	ns = kvh_now_ns() - start;
	*b->moved += bytes;
	rate = (uint64_t)((double)bytes * 1e9 / (double)(ns ? ns : 1));
	if (rc == 0 && rate > *rate_p)
		*rate_p = rate;
	return rc;
}

int kvh_calibrate(struct kvh_mover *mover, struct kvh_calibration *at, uint64_t *bytes_p)
{
	struct bench *b = calloc(1, sizeof(*b));
	uint64_t staged = 0, direct = 0, warm = 0;
	int rc;

	if (!b)
		return -ENOMEM;
	b->mover = mover;
	b->dev = mover->dev;
	b->at = at;
	b->moved = bytes_p;
	rc = bench_open(b);
	if (rc == 0)
		rc = sample(b, round_staged, 1, &warm);
	if (rc == 0)
		rc = sample(b, round_direct, 1, &warm);
	for (unsigned i = 0; i < SAMPLES && rc == 0; i++) {
		rc = sample(b, round_staged, b->rounds, &staged);
		if (rc == 0)
			rc = sample(b, round_direct, b->rounds, &direct);
	}
	bench_close(b);
	at->staged_rate = staged;
	at->direct_rate = direct;
	return rc;
}
