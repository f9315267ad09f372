/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_set.c - pool, pages and frames of `kvhoist-bench pack`, and their bytes. One
 * thread.
 */
#include "bench/pack_set.h"

#include "bench/bench.h"
#include "bench/random.h"
#include "host/frame.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PAGES_A_CHUNK 16u
#define BOUNCE_BYTES  (UINT64_C(32) << 20)
#define GPU_POOL      (UINT64_C(1) << 30)
#define GPU_ARENA     (UINT64_C(2) << 30)
#define HOST_POOL     (UINT64_C(64) << 20)
#define HOST_ARENA    (UINT64_C(128) << 20)

const char *kvh_pages_order_name(enum kvh_pages_order order)
{
	switch (order) {
	case KVH_PAGES_CONTIGUOUS: return "contiguous";
	case KVH_PAGES_STRIDED: return "strided";
	case KVH_PAGES_SHUFFLED: return "shuffled";
	case KVH_PAGES_ORDERS: break;
	}
	return "?";
}

/* ---- rig ---------------------------------------------------------------- */

static int rig_memory(struct kvh_pack_rig *rig, uint64_t pool_bytes, uint64_t arena_bytes)
{
	const struct kvh_device_ops *ops = rig->dev->ops;
	struct kvh_device_info info;
	struct kvh_arena_opts arena = {.dev = rig->dev};
	void *mem;
	int err;

	ops->info(rig->dev, &info);
	rig->pool_bytes = pool_bytes != 0 ? pool_bytes : info.n_sms != 0 ? GPU_POOL : HOST_POOL;
	arena.bytes = arena_bytes != 0 ? arena_bytes : info.n_sms != 0 ? GPU_ARENA : HOST_ARENA;
	arena.numa_node = info.numa_node;
	rig->bounce_bytes = BOUNCE_BYTES;
	err = ops->mem_alloc(rig->dev, rig->pool_bytes, &mem);
	if (err != 0)
		return err;
	rig->pool = mem;
	err = ops->host_alloc(rig->dev, rig->bounce_bytes, &mem);
	if (err != 0)
		return err;
	rig->bounce = mem;
	return kvh_arena_open(&arena, &rig->arena);
}

int kvh_pack_rig_open(struct kvh_pack_rig *rig, const char *device, uint64_t pool_bytes,
		      uint64_t arena_bytes)
{
	struct kvh_mover_opts mover = {.calibrate = true};
	uint64_t span;
	int err;

	memset(rig, 0, sizeof(*rig));
	err = kvh_device_open(device, &rig->dev);
	if (err != 0) {
		kvh_bench_complain("device %s: %s", device, strerror(-err));
		return err;
	}
	err = rig_memory(rig, pool_bytes, arena_bytes);
	if (err == 0) {
		mover.pinned_base = kvh_arena_base(rig->arena, &span);
		mover.pinned_stride = kvh_arena_stride(rig->arena);
		err = kvh_mover_open(rig->dev, &mover, &rig->mover);
	}
	if (err == 0)
		err = rig->dev->ops->stream_create(rig->dev, 2, &rig->stream);
	if (err != 0) {
		kvh_bench_complain("a pool of %" PRIu64 " bytes: %s", rig->pool_bytes,
				   strerror(-err));
		kvh_pack_rig_close(rig);
	}
	return err;
}

void kvh_pack_rig_close(struct kvh_pack_rig *rig)
{
	const struct kvh_device_ops *ops;

	if (rig->dev == NULL)
		return;
	ops = rig->dev->ops;
	if (rig->mover != NULL)
		kvh_mover_close(rig->mover);
	if (rig->stream != NULL)
		ops->stream_destroy(rig->dev, rig->stream);
	if (rig->arena != NULL)
		kvh_arena_close(rig->arena, false);
	if (rig->bounce != NULL)
		ops->host_free(rig->dev, rig->bounce);
	if (rig->pool != NULL)
		ops->mem_free(rig->dev, rig->pool);
	ops->close(rig->dev);
	memset(rig, 0, sizeof(*rig));
}

int kvh_pack_rig_wait(struct kvh_pack_rig *rig)
{
	return rig->dev->ops->stream_wait(rig->dev, rig->stream);
}

/* ---- bytes -------------------------------------------------------------- */

/* Of the word at an offset of the pool, none twice; a generation changes every byte of
 * it. As fast as memory: the pool is compared after every load. */
static uint64_t word_at(uint64_t offset, uint8_t generation)
{
	uint64_t word = (offset / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15);

	return word ^ word >> 32 ^ generation * UINT64_C(0x0101010101010101);
}

void kvh_pack_bytes_fill(unsigned char *to, uint64_t offset, uint64_t bytes, uint8_t generation)
{
	for (uint64_t i = 0; i < bytes; i += 8) {
		uint64_t word = word_at(offset + i, generation);

		memcpy(to + i, &word, sizeof(word));
	}
}

uint64_t kvh_pack_bytes_compare(const unsigned char *at, uint64_t offset, uint64_t bytes,
				uint8_t generation)
{
	for (uint64_t i = 0; i < bytes; i += 8) {
		uint64_t word;

		memcpy(&word, at + i, sizeof(word));
		if (word != word_at(offset + i, generation))
			return i;
	}
	return bytes;
}

/* Calls fn for each piece of the pool, behind a copy of it to the bounce buffer
 * or before one from there. */
static int each_piece(struct kvh_pack_set *set, bool write,
		      bool (*fn)(struct kvh_pack_set *set, uint64_t offset, uint64_t bytes))
{
	struct kvh_pack_rig *rig = set->rig;
	int err = 0;

	for (uint64_t at = 0; at < rig->pool_bytes && err == 0; at += rig->bounce_bytes) {
		uint64_t left = rig->pool_bytes - at;
		struct kvh_copy copy = {
			.dst = write ? rig->pool + at : rig->bounce,
			.src = write ? rig->bounce : rig->pool + at,
			.bytes = left < rig->bounce_bytes ? left : rig->bounce_bytes,
		};

		if (write && !fn(set, at, copy.bytes))
			return -EBADMSG;
		err = rig->dev->ops->copy(rig->dev, write ? KVH_COPY_H2D : KVH_COPY_D2H, &copy,
					  rig->stream);
		if (err == 0)
			err = kvh_pack_rig_wait(rig);
		if (err == 0 && !write && !fn(set, at, copy.bytes))
			err = -EBADMSG;
	}
	return err;
}

static bool pool_fill(struct kvh_pack_set *set, uint64_t offset, uint64_t bytes)
{
	kvh_pack_bytes_fill(set->rig->bounce, offset, bytes, 0);
	return true;
}

/* ---- pages -------------------------------------------------------------- */

static void pages_shuffle(uint32_t *pages, uint32_t n, uint32_t n_pages)
{
	uint64_t state = 42;

	/* A part of a permutation of all: the first n places of it. */
	for (uint32_t i = 0; i < n_pages; i++)
		pages[i] = i;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t j = kvh_random_even(&state, i, n_pages - 1);
		uint32_t page = pages[i];

		pages[i] = pages[j];
		pages[j] = page;
	}
}

static int pages_make(struct kvh_pack_set *set, enum kvh_pages_order order)
{
	struct kvh_pack_rig *rig = set->rig;
	uint32_t n = set->n_chunks * set->pages_per_chunk;
	struct kvh_copy copy = {.bytes = n * sizeof(set->pages[0])};
	void *mem;
	int err;

	set->pages = calloc(set->n_pages, sizeof(set->pages[0]));
	set->page_generation = calloc(set->n_pages, sizeof(set->page_generation[0]));
	if (set->pages == NULL || set->page_generation == NULL)
		return -ENOMEM;
	if (order == KVH_PAGES_SHUFFLED)
		pages_shuffle(set->pages, n, set->n_pages);
	else
		for (uint32_t i = 0; i < n; i++)
			set->pages[i] = order == KVH_PAGES_STRIDED ? 2 * i : i;
	err = rig->dev->ops->mem_alloc(rig->dev, copy.bytes, &mem);
	if (err != 0)
		return err;
	set->dev_pages = mem;
	memcpy(rig->bounce, set->pages, copy.bytes);
	copy.dst = set->dev_pages;
	copy.src = rig->bounce;
	err = rig->dev->ops->copy(rig->dev, KVH_COPY_H2D, &copy, rig->stream);
	return err != 0 ? err : kvh_pack_rig_wait(rig);
}

/* ---- set ---------------------------------------------------------------- */

/* As many planes and pages a chunk as make its payload. */
static int set_shape(struct kvh_pack_set *set, const struct kvh_pack_shape *shape)
{
	uint64_t fragments = shape->payload / shape->fragment;
	uint64_t chunks, pages;

	if (shape->fragment == 0 || shape->fragment % 8 != 0 || fragments == 0)
		return -ENOSPC;
	set->fragment = shape->fragment;
	set->pages_per_chunk = fragments < PAGES_A_CHUNK ? (uint32_t)fragments : PAGES_A_CHUNK;
	set->n_planes = (uint32_t)(fragments / set->pages_per_chunk);
	if (set->n_planes > KVH_PLANES_MAX)
		set->n_planes = KVH_PLANES_MAX;
	set->payload_bytes = set->fragment * set->pages_per_chunk * set->n_planes;
	chunks = shape->sample / set->payload_bytes;
	if (chunks == 0)
		chunks = 1;
	pages = set->rig->pool_bytes / set->n_planes / set->fragment;
	/* Half of the pool at most, so that strided and shuffled pages mean something. */
	if (chunks > pages / 2 / set->pages_per_chunk)
		chunks = pages / 2 / set->pages_per_chunk;
	if (chunks == 0)
		return -ENOSPC;
	set->n_chunks = (uint32_t)chunks;
	set->n_pages = (uint32_t)(pages < UINT32_MAX - 1 ? pages : UINT32_MAX - 1);
	set->plane_bytes = (uint64_t)set->n_pages * set->fragment;
	set->bytes = set->payload_bytes * set->n_chunks;
	if (set->n_chunks * set->pages_per_chunk * sizeof(uint32_t) > set->rig->bounce_bytes)
		return -ENOSPC;
	return 0;
}

static int set_plan(struct kvh_pack_set *set, uint32_t layers)
{
	struct kvh_plane_shape shape = {.kind = KVH_PLANE_OPAQUE, .page_bytes = set->fragment};
	struct kvh_plane_shape *shapes = calloc(set->n_planes, sizeof(*shapes));
	struct kvh_plane *planes = calloc(set->n_planes, sizeof(*planes));
	struct kvh_alloc alloc = {set->rig->pool, set->rig->pool_bytes};
	struct kvh_group_desc group = {
		.kind = KVH_GROUP_FULL,
		.format = KVH_FORMAT_NATIVE,
		.page_tokens = 1,
		.n_planes = set->n_planes,
		.planes = shapes,
	};
	int err = shapes == NULL || planes == NULL ? -ENOMEM : 0;

	if (layers == 0)
		layers = 1;
	if (layers > set->n_planes)
		layers = set->n_planes;
	for (uint32_t i = 0; i < set->n_planes && err == 0; i++) {
		shapes[i] = shape;
		shapes[i].layer = (uint32_t)((uint64_t)i * layers / set->n_planes);
		planes[i].offset = i * set->plane_bytes;
		planes[i].page_stride = set->fragment;
	}
	if (err == 0)
		err = kvh_plan_make(&group, set->pages_per_chunk, &alloc, 1, planes, 0,
				    set->n_pages, &set->plan);
	if (err == 0)
		err = kvh_mover_plan_add(set->rig->mover, set->plan, &set->mplan);
	free(planes);
	free(shapes);
	return err;
}

static int set_frames(struct kvh_pack_set *set)
{
	int got;

	set->frames = calloc(set->n_chunks, sizeof(set->frames[0]));
	set->payloads = calloc(set->n_chunks, sizeof(set->payloads[0]));
	set->status = calloc(set->n_chunks, sizeof(set->status[0]));
	if (set->frames == NULL || set->payloads == NULL || set->status == NULL)
		return -ENOMEM;
	got = kvh_arena_alloc(set->rig->arena, kvh_frame_bytes(set->payload_bytes),
			      set->n_chunks, set->frames);
	if (got < 0)
		return got == -EINVAL ? -ENOSPC : got; /* larger than a piece */
	for (int i = 0; i < got; i++)
		set->payloads[i] = (char *)set->frames[i] + KVH_FRAME_ALIGN;
	return (uint32_t)got == set->n_chunks ? 0 : -ENOSPC;
}

int kvh_pack_set_open(struct kvh_pack_rig *rig, const struct kvh_pack_shape *shape,
		      struct kvh_pack_set *set)
{
	int err;

	memset(set, 0, sizeof(*set));
	set->rig = rig;
	err = set_shape(set, shape);
	if (err == 0)
		err = set_plan(set, shape->layers);
	if (err == 0)
		err = set_frames(set);
	if (err == 0)
		err = pages_make(set, shape->order);
	if (err == 0)
		err = each_piece(set, true, pool_fill);
	if (err != 0)
		kvh_pack_set_close(set);
	return err;
}

void kvh_pack_set_close(struct kvh_pack_set *set)
{
	struct kvh_pack_rig *rig = set->rig;

	for (uint32_t i = 0; set->frames != NULL && i < set->n_chunks; i++)
		if (set->frames[i] != NULL)
			kvh_arena_free(rig->arena, set->frames[i]);
	if (set->dev_pages != NULL)
		rig->dev->ops->mem_free(rig->dev, set->dev_pages);
	if (set->mplan.plan != NULL)
		kvh_mover_plan_remove(rig->mover, &set->mplan);
	kvh_plan_free(set->plan);
	free(set->page_generation);
	free(set->pages);
	free(set->frames);
	free(set->payloads);
	free(set->status);
	memset(set, 0, sizeof(*set));
}

/* ---- checks ------------------------------------------------------------- */

/* Calls fn for every fragment of the payloads, with its offset in the pool and its
 * page, until it returns false; then that is the result. */
static bool each_fragment(const struct kvh_pack_set *set, unsigned char *flat, uint32_t n,
			  bool (*fn)(const struct kvh_pack_set *set, unsigned char *at,
				     uint64_t offset, uint32_t page))
{
	for (uint32_t c = 0; c < n; c++) {
		const uint32_t *pages = set->pages + c * set->pages_per_chunk;
		unsigned char *at = flat != NULL ? flat + c * set->payload_bytes
						 : set->payloads[c];

		for (uint32_t plane = 0; plane < set->n_planes; plane++) {
			for (uint32_t p = 0; p < set->pages_per_chunk; p++) {
				if (!fn(set, at,
					plane * set->plane_bytes + pages[p] * set->fragment,
					pages[p]))
					return false;
				at += set->fragment;
			}
		}
	}
	return true;
}

static bool fragment_check(const struct kvh_pack_set *set, unsigned char *at, uint64_t offset,
			   uint32_t page)
{
	uint64_t good = kvh_pack_bytes_compare(at, offset, set->fragment,
					       set->page_generation[page]);

	if (good == set->fragment)
		return true;
	kvh_bench_complain("a frame differs from the pool: plane %" PRIu64
			   ", page %u, byte %" PRIu64,
			   offset / set->plane_bytes, page, good);
	return false;
}

bool kvh_pack_frames_check(const struct kvh_pack_set *set, unsigned char *flat, uint32_t n)
{
	return each_fragment(set, flat, n, fragment_check);
}

static bool fragment_fill(const struct kvh_pack_set *set, unsigned char *at, uint64_t offset,
			  uint32_t page)
{
	kvh_pack_bytes_fill(at, offset, set->fragment, set->generation);
	set->page_generation[page] = set->generation;
	return true;
}

void kvh_pack_frames_next(struct kvh_pack_set *set, unsigned char *flat, uint32_t n)
{
	set->generation++;
	(void)each_fragment(set, flat, n, fragment_fill);
}

void kvh_pack_frames_spoil(struct kvh_pack_set *set, unsigned char *flat, uint32_t n)
{
	if (flat != NULL)
		memset(flat, 0xa5, n * set->payload_bytes);
	else
		for (uint32_t c = 0; c < n; c++)
			memset(set->payloads[c], 0xa5, set->payload_bytes);
}

/* Page by page, as far as this piece has them. */
static bool piece_check(struct kvh_pack_set *set, uint64_t offset, uint64_t bytes)
{
	uint64_t planes = set->plane_bytes * set->n_planes, end = offset + bytes, at, len;

	for (at = offset; at < end; at += len) {
		uint64_t in_plane = at % set->plane_bytes, good;
		uint32_t page = (uint32_t)(in_plane / set->fragment);
		uint8_t generation = at < planes ? set->page_generation[page] : 0;

		len = at < planes ? set->fragment - in_plane % set->fragment : end - at;
		if (len > end - at)
			len = end - at;
		good = kvh_pack_bytes_compare(set->rig->bounce + (at - offset), at, len,
					      generation);
		if (good == len)
			continue;
		kvh_bench_complain("the pool differs at byte %" PRIu64 ", page %u", at + good,
				   page);
		return false;
	}
	return true;
}

bool kvh_pack_pool_check(struct kvh_pack_set *set)
{
	int err = each_piece(set, false, piece_check);

	if (err != 0 && err != -EBADMSG)
		kvh_bench_complain("the pool could not be read: %s", strerror(-err));
	return err == 0;
}
