/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runtime.c - the pool's memory and its bytes. A piece is what one page holds of
 * one plane: one run of bytes in every layout that model.c has. One thread.
 *
 *   free pages + pages taken == n_pages
 */
#include "bench/runtime.h"

#include "bench/bench.h"
#include "bench/measure.h"
#include "bench/random.h"
#include "host/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STAGE_BYTES (UINT64_C(32) << 20)
#define BATCH_MAX   4096u

struct piece {
	size_t chunk;
	uint32_t plane; /* of the group */
	uint32_t page;  /* of the chunk */
	uint64_t bytes;
	unsigned char *address; /* in device memory */
	struct kvh_fill_unit unit;
};

struct kvh_runtime {
	const struct kvh_geometry *geo;
	struct kvh_device *dev;
	struct kvh_device_info info;
	struct CUstream_st *stream; /* NULL: host device */
	bool direct;                /* device memory is the process's own */
	uint32_t n_pages, n_free;
	uint32_t *free_pages;
	void **tensors;           /* [geo->n_allocs] */
	struct kvh_plane *planes; /* [geo->n_planes] */
	uint32_t first_plane[KVH_MODEL_GROUPS_MAX];
	/* Not direct: */
	unsigned char *stage;  /* pinned */
	unsigned char *poison; /* pinned, the bytes of the largest piece */
	uint64_t stage_used;
	uint32_t n_batch;
	struct kvh_copy *copies; /* [BATCH_MAX] */
	struct piece *pieces;    /* [BATCH_MAX] */
};

/* ---- memory ---- */

static uint64_t tensor_bytes(const struct kvh_runtime *rt)
{
	return rt->geo->page_bytes * rt->n_pages;
}

static int open_tensors(struct kvh_runtime *rt)
{
	uint32_t first = 0;

	rt->tensors = calloc(rt->geo->n_allocs, sizeof(*rt->tensors));
	rt->planes = calloc(rt->geo->n_planes, sizeof(*rt->planes));
	if (rt->tensors == NULL || rt->planes == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < rt->geo->n_allocs; i++) {
		int err = rt->dev->ops->mem_alloc(rt->dev, tensor_bytes(rt), &rt->tensors[i]);

		if (err != 0)
			return err;
	}
	kvh_geometry_planes(rt->geo, rt->n_pages, rt->planes);
	for (uint32_t g = 0; g < rt->geo->n_groups; g++) {
		rt->first_plane[g] = first;
		first += rt->geo->groups[g].n_planes;
	}
	return 0;
}

/* Shuffled, so that the pages of a chunk lie apart from the start. */
static int open_pages(struct kvh_runtime *rt)
{
	uint64_t random = 0;

	rt->free_pages = malloc(rt->n_pages * sizeof(*rt->free_pages));
	if (rt->free_pages == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < rt->n_pages; i++) {
		uint32_t k = kvh_random_even(&random, 0, i);

		rt->free_pages[i] = rt->free_pages[k];
		rt->free_pages[k] = i;
	}
	rt->n_free = rt->n_pages;
	return 0;
}

static int open_stage(struct kvh_runtime *rt)
{
	const struct kvh_device_ops *ops = rt->dev->ops;
	void *mem = NULL;
	int err;

	if (rt->direct)
		return 0;
	assert(rt->geo->page_bytes <= STAGE_BYTES);
	rt->copies = calloc(BATCH_MAX, sizeof(*rt->copies));
	rt->pieces = calloc(BATCH_MAX, sizeof(*rt->pieces));
	if (rt->copies == NULL || rt->pieces == NULL)
		return -ENOMEM;
	err = ops->host_alloc(rt->dev, STAGE_BYTES, &mem);
	if (err != 0)
		return err;
	rt->stage = mem;
	err = ops->host_alloc(rt->dev, rt->geo->page_bytes, &mem);
	if (err != 0)
		return err;
	rt->poison = mem;
	memset(rt->poison, KVH_FILL_POISON, rt->geo->page_bytes);
	return 0;
}

/* The pages are on the first of several: the others are the engine's. */
static int open_device(struct kvh_runtime *rt, const char *names)
{
	struct kvh_device *devs[KVH_DEVICES_MAX];
	int n = kvh_device_open_list(names, devs, KVH_DEVICES_MAX);

	for (int i = 1; i < n; i++)
		devs[i]->ops->close(devs[i]);
	if (n < 0)
		return n;
	rt->dev = devs[0];
	return 0;
}

static int open_parts(struct kvh_runtime *rt, const struct kvh_runtime_opts *opts)
{
	int err = open_device(rt, opts->device);

	if (err != 0) {
		kvh_bench_complain("device '%s' cannot be used: %s (%s)",
				   opts->device == NULL ? "auto" : opts->device, strerror(-err),
				   kvh_device_describe());
		return err;
	}
	rt->dev->ops->info(rt->dev, &rt->info);
	rt->direct = rt->info.n_sms == 0 && !opts->staged;
	if (rt->info.n_sms != 0)
		err = rt->dev->ops->stream_create(rt->dev, 0, &rt->stream);
	if (err == 0)
		err = open_tensors(rt);
	if (err == 0)
		err = open_pages(rt);
	if (err == 0)
		err = open_stage(rt);
	if (err != 0)
		kvh_bench_complain(
			"no memory for a pool of %u pages, %ju MiB on device '%s': %s; "
			"choose a smaller --scale",
			rt->n_pages, (uintmax_t)((tensor_bytes(rt) * rt->geo->n_allocs) >> 20),
			rt->info.name, strerror(-err));
	return err;
}

int kvh_runtime_open(const struct kvh_runtime_opts *opts, struct kvh_runtime **rt_p)
{
	struct kvh_runtime *rt = calloc(1, sizeof(*rt));
	int err;

	if (rt == NULL)
		return -ENOMEM;
	rt->geo = opts->geo;
	rt->n_pages = opts->n_pages;
	err = open_parts(rt, opts);
	if (err != 0) {
		kvh_runtime_close(rt);
		return err;
	}
	*rt_p = rt;
	return 0;
}

static void close_device(struct kvh_runtime *rt)
{
	const struct kvh_device_ops *ops = rt->dev->ops;

	(void)ops->stream_wait(rt->dev, rt->stream);
	for (uint32_t i = 0; rt->tensors != NULL && i < rt->geo->n_allocs; i++) {
		if (rt->tensors[i] != NULL)
			ops->mem_free(rt->dev, rt->tensors[i]);
	}
	if (rt->stage != NULL)
		ops->host_free(rt->dev, rt->stage);
	if (rt->poison != NULL)
		ops->host_free(rt->dev, rt->poison);
	if (rt->stream != NULL)
		ops->stream_destroy(rt->dev, rt->stream);
	ops->close(rt->dev);
}

void kvh_runtime_close(struct kvh_runtime *rt)
{
	if (rt == NULL)
		return;
	if (rt->dev != NULL)
		close_device(rt);
	free(rt->tensors);
	free(rt->planes);
	free(rt->free_pages);
	free(rt->copies);
	free(rt->pieces);
	free(rt);
}

int kvh_runtime_register(struct kvh_runtime *rt, struct kvh_engine *engine, kvh_space_t space,
			 kvh_pool_t *pool_p)
{
	struct kvh_pool_desc desc;
	uint32_t group_pages[KVH_MODEL_GROUPS_MAX];
	struct kvh_alloc *allocs = calloc(rt->geo->n_allocs, sizeof(*allocs));
	int err;

	if (allocs == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < rt->geo->n_allocs; i++)
		allocs[i] = (struct kvh_alloc){rt->tensors[i], tensor_bytes(rt)};
	for (uint32_t g = 0; g < rt->geo->n_groups; g++)
		group_pages[g] = rt->n_pages;
	kvh_pool_desc_init(&desc, sizeof(desc));
	desc.space = space;
	desc.rank = 0;
	desc.n_allocs = rt->geo->n_allocs;
	desc.allocs = allocs;
	desc.n_planes = rt->geo->n_planes;
	desc.planes = rt->planes;
	desc.group_pages = group_pages;
	err = kvh_pool_register(engine, &desc, pool_p);
	free(allocs);
	return err;
}

struct CUstream_st *kvh_runtime_stream(const struct kvh_runtime *rt)
{
	return rt->stream;
}

const char *kvh_runtime_device_name(const struct kvh_runtime *rt)
{
	return rt->info.name;
}

/* ---- link ---- */

#define LINK_BYTES   (UINT64_C(256) << 20)
#define LINK_SAMPLES 5u

/* The first one warms up. */
static int link_rate(struct kvh_runtime *rt, enum kvh_copy_kind kind,
		     const struct kvh_copy *copy, double *rate_p)
{
	double rates[LINK_SAMPLES];
	int err = 0;

	for (uint32_t i = 0; i <= LINK_SAMPLES && err == 0; i++) {
		uint64_t begun = kvh_now_ns();

		err = rt->dev->ops->copy(rt->dev, kind, copy, rt->stream);
		if (err == 0)
			err = rt->dev->ops->stream_wait(rt->dev, rt->stream);
		if (i > 0)
			rates[i - 1] = (double)copy->bytes / (double)(kvh_now_ns() - begun);
	}
	if (err == 0)
		*rate_p = kvh_spread_of(rates, LINK_SAMPLES).median;
	return err;
}

int kvh_runtime_link(struct kvh_runtime *rt, double *store_p, double *load_p)
{
	const struct kvh_device_ops *ops = rt->dev->ops;
	struct kvh_copy copy = {.bytes = LINK_BYTES};
	void *there, *here;
	int err;

	*store_p = *load_p = 0;
	if (rt->info.n_sms == 0)
		return 0;
	err = ops->mem_alloc(rt->dev, LINK_BYTES, &there);
	if (err != 0)
		return err;
	err = ops->host_alloc(rt->dev, LINK_BYTES, &here);
	if (err == 0) {
		copy.dst = here;
		copy.src = there;
		err = link_rate(rt, KVH_COPY_D2H, &copy, store_p);
		copy.dst = there;
		copy.src = here;
		if (err == 0)
			err = link_rate(rt, KVH_COPY_H2D, &copy, load_p);
		ops->host_free(rt->dev, here);
	}
	ops->mem_free(rt->dev, there);
	return err;
}

/* ---- pages ---- */

bool kvh_runtime_pages_take(struct kvh_runtime *rt, uint32_t n, uint32_t *pages)
{
	if (n > rt->n_free)
		return false;
	rt->n_free -= n;
	memcpy(pages, rt->free_pages + rt->n_free, n * sizeof(*pages));
	return true;
}

void kvh_runtime_pages_give(struct kvh_runtime *rt, uint32_t n, const uint32_t *pages)
{
	assert(n <= rt->n_pages - rt->n_free);
	memcpy(rt->free_pages + rt->n_free, pages, n * sizeof(*pages));
	rt->n_free += n;
}

uint32_t kvh_runtime_pages_free(const struct kvh_runtime *rt)
{
	return rt->n_free;
}

/* ---- pieces ---- */

static struct piece piece_at(const struct kvh_runtime *rt,
			     const struct kvh_runtime_chunk *chunk, uint32_t plane,
			     uint32_t page)
{
	const struct kvh_group_desc *group = &rt->geo->groups[chunk->key.group];
	const struct kvh_plane_shape *shape = &group->planes[plane];
	const struct kvh_plane *at = &rt->planes[rt->first_plane[chunk->key.group] + plane];
	struct piece piece = {.plane = plane, .page = page};

	piece.bytes = (uint64_t)group->page_tokens * shape->heads * shape->head_bytes;
	piece.address = (unsigned char *)rt->tensors[at->alloc] + at->offset +
			chunk->pages[page] * at->page_stride;
	piece.unit.first_token = page * group->page_tokens;
	piece.unit.tokens = group->page_tokens;
	piece.unit.heads = shape->heads;
	piece.unit.head_bytes = shape->head_bytes;
	piece.unit.order = shape->order;
	return piece;
}

/* What is done with each piece: now, or, where memory is staged, in two halves
 * before and after the batch's copies. */
struct action {
	enum kvh_copy_kind kind;
	void (*work)(void *arg, const struct piece *piece, unsigned char *bytes);
	bool after; /* the copies: work looks at what they brought */
	void *arg;
	unsigned char *source; /* staged: copied to every piece; NULL: the stage */
};

/* Ends the batch: its copies are on the stream, the stage may be used again. */
static int flush(struct kvh_runtime *rt, const struct action *action)
{
	const struct kvh_device_ops *ops = rt->dev->ops;
	int err;

	if (rt->n_batch == 0)
		return 0;
	err = ops->copy_batch(rt->dev, action->kind, rt->copies, rt->n_batch, rt->stream);
	if (err == 0)
		err = ops->stream_wait(rt->dev, rt->stream);
	for (uint32_t i = 0; err == 0 && action->after && i < rt->n_batch; i++)
		action->work(action->arg, &rt->pieces[i], rt->copies[i].dst);
	rt->n_batch = 0;
	rt->stage_used = 0;
	return err;
}

static int stage_piece(struct kvh_runtime *rt, const struct action *action,
		       const struct piece *piece)
{
	unsigned char *bytes = action->source;
	int err = 0;

	if (rt->n_batch == BATCH_MAX || rt->stage_used + piece->bytes > STAGE_BYTES)
		err = flush(rt, action);
	if (err != 0)
		return err;
	if (bytes == NULL) {
		bytes = rt->stage + rt->stage_used;
		rt->stage_used += piece->bytes;
		if (!action->after)
			action->work(action->arg, piece, bytes);
	}
	rt->pieces[rt->n_batch] = *piece;
	if (action->kind == KVH_COPY_D2H)
		rt->copies[rt->n_batch] = (struct kvh_copy){bytes, piece->address,
							    piece->bytes};
	else
		rt->copies[rt->n_batch] = (struct kvh_copy){piece->address, bytes,
							    piece->bytes};
	rt->n_batch++;
	return 0;
}

/* All pages of a plane, for messages and bases are by plane. */
static int each_page(struct kvh_runtime *rt, const struct kvh_runtime_chunk *chunk,
		     size_t index, uint32_t plane, const struct action *action)
{
	uint32_t n_pages = kvh_geometry_chunk_pages(rt->geo, chunk->key.group);
	uint64_t base = kvh_fill_base(&chunk->key, plane);
	int err = 0;

	for (uint32_t page = 0; err == 0 && page < n_pages; page++) {
		struct piece piece = piece_at(rt, chunk, plane, page);

		piece.chunk = index;
		piece.unit.base = base;
		if (rt->direct)
			action->work(action->arg, &piece, piece.address);
		else
			err = stage_piece(rt, action, &piece);
	}
	return err;
}

static int each_piece(struct kvh_runtime *rt, const struct kvh_runtime_chunk *chunks, size_t n,
		      const struct action *action)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < n; i++) {
		uint32_t n_planes = rt->geo->groups[chunks[i].key.group].n_planes;

		for (uint32_t plane = 0; err == 0 && plane < n_planes; plane++)
			err = each_page(rt, &chunks[i], i, plane, action);
	}
	if (err == 0)
		err = flush(rt, action);
	rt->n_batch = 0;
	rt->stage_used = 0;
	return err;
}

static void write_piece(void *arg, const struct piece *piece, unsigned char *bytes)
{
	(void)arg;
	kvh_fill_write(&piece->unit, bytes);
}

static void poison_piece(void *arg, const struct piece *piece, unsigned char *bytes)
{
	(void)arg;
	memset(bytes, KVH_FILL_POISON, piece->bytes);
}

static void check_piece(void *arg, const struct piece *piece, unsigned char *bytes)
{
	struct kvh_runtime_wrong *wrong = (struct kvh_runtime_wrong *)arg + piece->chunk;
	int64_t at = kvh_fill_check(&piece->unit, bytes);

	if (at < 0 || wrong->wrong)
		return;
	wrong->wrong = true;
	wrong->plane = piece->plane;
	wrong->page = piece->page;
	wrong->offset = (uint64_t)at;
	wrong->want = kvh_fill_byte(&piece->unit, (uint64_t)at);
	wrong->got = bytes[at];
}

int kvh_runtime_fill(struct kvh_runtime *rt, const struct kvh_runtime_chunk *chunks, size_t n)
{
	struct action action = {.kind = KVH_COPY_H2D, .work = write_piece};

	return each_piece(rt, chunks, n, &action);
}

int kvh_runtime_poison(struct kvh_runtime *rt, const struct kvh_runtime_chunk *chunks, size_t n)
{
	struct action action = {
		.kind = KVH_COPY_H2D, .work = poison_piece, .source = rt->poison};

	return each_piece(rt, chunks, n, &action);
}

int kvh_runtime_check(struct kvh_runtime *rt, const struct kvh_runtime_chunk *chunks, size_t n,
		      struct kvh_runtime_wrong *wrong)
{
	struct action action = {
		.kind = KVH_COPY_D2H, .work = check_piece, .after = true, .arg = wrong};

	memset(wrong, 0, n * sizeof(*wrong));
	return each_piece(rt, chunks, n, &action);
}
