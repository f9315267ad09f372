/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.c - slabs and frames. Any thread; one lock over all of it, held for the
 * moments of a bitmap search. All bookkeeping is in arrays by granule, 0.01 % of
 * the memory, made at open: handing out frames allocates nothing, but for a
 * bitmap with each new size. Nothing here touches a frame.
 */
#include "host/arena_impl.h"

#include "host/log.h"
#include "host/spin.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Of slabs that are looked through for a run, before a new slab is made. */
#define RUN_SLABS_MAX 64u

int kvh_arena_open(const struct kvh_arena_opts *opts, struct kvh_arena **arena_p)
{
	struct kvh_arena *arena = calloc(1, sizeof(*arena));
	int rc;

	if (arena == NULL)
		return -ENOMEM;
	rc = kvh_arena_map_open(opts, &arena->map);
	if (rc != 0)
		goto err_free;
	rc = kvh_slab_tables_open(arena);
	if (rc != 0)
		goto err_map;
	pthread_mutex_init(&arena->lock, NULL);
	rc = kvh_pin_open(arena, opts);
	if (rc != 0)
		goto err_tables;
	*arena_p = arena;
	return 0;

err_tables:
	pthread_mutex_destroy(&arena->lock);
	kvh_slab_tables_close(arena);
err_map:
	kvh_arena_map_close(&arena->map, false);
err_free:
	free(arena);
	return rc;
}

void kvh_arena_close(struct kvh_arena *arena, bool leak)
{
	assert(leak || arena->frames == 0);
	kvh_pin_close(arena, leak);
#ifdef KVH_DEBUG
	assert(kvh_arena_check(arena));
#endif
	kvh_arena_map_close(&arena->map, leak);
	kvh_slab_tables_close(arena);
	pthread_mutex_destroy(&arena->lock);
	free(arena);
}

/* frames[] of one slab, by their numbers in it. */
static void take_run(struct kvh_arena *arena, uint32_t slab, uint32_t first, uint32_t n,
		     void **frames)
{
	kvh_slab_take(arena, slab, first, n);
	for (uint32_t i = 0; i < n; i++)
		frames[i] = kvh_slab_frame(arena, slab, first + i);
}

/* n frames side by side in a slab that has them free. */
static bool alloc_beside(struct kvh_arena *arena, struct kvh_size_class *sizes, int node,
			 uint32_t n, void **frames)
{
	uint32_t slab = kvh_class_next(arena, sizes, 0, node);

	for (uint32_t i = 0; i < RUN_SLABS_MAX && slab != KVH_SLAB_NONE; i++) {
		uint32_t first, len;

		if (arena->slabs[slab].n_free >= n) {
			len = kvh_slab_run(arena, slab, n, &first);
			if (len == n) {
				take_run(arena, slab, first, n, frames);
				return true;
			}
		}
		slab = kvh_class_next(arena, sizes, slab + 1, node);
	}
	return false;
}

/* What is free at the lowest address, up to n; 0 if nothing is. */
static uint32_t alloc_lowest(struct kvh_arena *arena, struct kvh_size_class *sizes, int node,
			     uint32_t n, void **frames)
{
	uint32_t slab = kvh_class_next(arena, sizes, 0, node);
	uint32_t first, len;

	if (slab == KVH_SLAB_NONE)
		return 0;
	/* The first run, however short: the search for n ends at any. */
	len = kvh_slab_run(arena, slab, 1, &first);
	while (len < n && kvh_slab_is_free(arena, slab, first + len))
		len++;
	take_run(arena, slab, first, len, frames);
	return len;
}

/* From a new slab; 0 where there is no room for one. */
static uint32_t alloc_new(struct kvh_arena *arena, struct kvh_size_class *sizes, int node,
			  uint32_t n, void **frames)
{
	uint32_t slab = kvh_slab_make(arena, sizes, node);
	uint32_t take;

	if (slab == KVH_SLAB_NONE)
		return 0;
	take = arena->slabs[slab].n_frames;
	take = take < n ? take : n;
	take_run(arena, slab, 0, take, frames);
	return take;
}

/* One by the first fit. Several: where they lie side by side, in slabs there are
 * or in new ones, or else wherever there is room. */
static uint32_t alloc_frames(struct kvh_arena *arena, struct kvh_size_class *sizes, int node,
			     uint32_t n, void **frames)
{
	uint32_t got = 0, more;

	if (n > 1 && alloc_beside(arena, sizes, node, n, frames))
		return n;
	if (n == 1 && (more = alloc_lowest(arena, sizes, node, 1, frames)) > 0)
		return more;
	while (got < n && (more = alloc_new(arena, sizes, node, n - got, frames + got)) > 0)
		got += more;
	while (got < n && (more = alloc_lowest(arena, sizes, node, n - got, frames + got)) > 0)
		got += more;
	return got;
}

/* Parts that came from several slabs may not be in order. */
static bool in_order(void *const *frames, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++)
		if (frames[i] < frames[i - 1])
			return false;
	return true;
}

static int by_address(const void *a, const void *b)
{
	uintptr_t x = (uintptr_t) * (void *const *)a, y = (uintptr_t) * (void *const *)b;

	return (x > y) - (x < y);
}

/* Under the lock; kvh_arena_stats reads without. */
static void count(uint64_t *counter, uint64_t change)
{
	__atomic_store_n(counter, *counter + change, __ATOMIC_RELAXED);
}

int kvh_arena_alloc_near(struct kvh_arena *arena, int node, uint64_t bytes, uint32_t n,
			 void **frames)
{
	struct kvh_size_class *sizes;
	uint32_t got = 0;

	if (bytes == 0 || bytes % KVH_PAGE_BYTES != 0 || bytes > arena->map.pieces[0].bytes) {
		kvh_err("a frame of %" PRIu64
			" bytes: must be a multiple of 4096 up to %" PRIu64 ", the L1 piece",
			bytes, arena->map.pieces[0].bytes);
		return -EINVAL;
	}
	kvh_spin_lock(&arena->lock);
	sizes = kvh_class_get(arena, (uint32_t)(bytes / KVH_PAGE_BYTES));
	if (sizes != NULL && n > 0)
		got = alloc_frames(arena, sizes, node, n, frames);
	if (sizes != NULL && got < n && node != KVH_NODE_ANY)
		got += alloc_frames(arena, sizes, KVH_NODE_ANY, n - got, frames + got);
	count(&arena->frames, got);
	count(&arena->used_bytes, got * bytes);
	pthread_mutex_unlock(&arena->lock);
	if (!in_order(frames, got))
		qsort(frames, got, sizeof(*frames), by_address);
	return (int)got;
}

int kvh_arena_alloc(struct kvh_arena *arena, uint64_t bytes, uint32_t n, void **frames)
{
	return kvh_arena_alloc_near(arena, KVH_NODE_ANY, bytes, n, frames);
}

/* Under the lock. */
static void free_frame(struct kvh_arena *arena, void *frame)
{
	uint32_t number, slab = kvh_slab_of(arena, frame, &number);

	assert(!kvh_slab_is_free(arena, slab, number)); /* twice */
	count(&arena->frames, (uint64_t)-1);
	count(&arena->used_bytes, -((uint64_t)arena->slabs[slab].pages * KVH_PAGE_BYTES));
	kvh_slab_give(arena, slab, number);
}

void kvh_arena_free_many(struct kvh_arena *arena, void *const *frames, uint32_t n)
{
	kvh_spin_lock(&arena->lock);
	for (uint32_t i = 0; i < n; i++)
		free_frame(arena, frames[i]);
	pthread_mutex_unlock(&arena->lock);
}

void kvh_arena_free(struct kvh_arena *arena, void *frame)
{
	kvh_arena_free_many(arena, &frame, 1);
}

/* No lock: what describes a slab does not change while a frame of it is out. */
uint64_t kvh_arena_frame_bytes(struct kvh_arena *arena, const void *frame)
{
	uint32_t number;

	return (uint64_t)arena->slabs[kvh_slab_of(arena, frame, &number)].pages *
	       KVH_PAGE_BYTES;
}

void *kvh_arena_slab_end(struct kvh_arena *arena, const void *address)
{
	uint64_t offset = (uintptr_t)address - (uintptr_t)arena->map.base;
	uint32_t granule = (uint32_t)(offset / KVH_GRANULE_BYTES);
	uint32_t slab;

	kvh_spin_lock(&arena->lock);
	slab = arena->slab_of[granule];
	granule = slab != KVH_SLAB_NONE ? slab + arena->slabs[slab].granules : granule + 1;
	pthread_mutex_unlock(&arena->lock);
	return kvh_granule_address(arena, granule);
}

uint32_t kvh_arena_pieces(const struct kvh_arena *arena,
			  const struct kvh_arena_piece **pieces_p)
{
	*pieces_p = arena->map.pieces;
	return kvh_arena_n_pinned(arena);
}

uint32_t kvh_arena_pieces_max(const struct kvh_arena *arena)
{
	return arena->map.n_pieces;
}

uint32_t kvh_arena_piece_of(const struct kvh_arena *arena, const void *address)
{
	const struct kvh_arena_map *map = &arena->map;
	uint64_t offset = (uintptr_t)address - (uintptr_t)map->base;
	uint64_t piece = offset / map->stride;

	if (piece >= kvh_arena_n_pinned(arena) ||
	    offset % map->stride >= map->pieces[piece].bytes)
		return UINT32_MAX;
	return (uint32_t)piece;
}

uint64_t kvh_arena_stride(const struct kvh_arena *arena)
{
	return arena->map.stride;
}

void *kvh_arena_base(const struct kvh_arena *arena, uint64_t *span_p)
{
	*span_p = arena->map.span;
	return arena->map.base;
}

/* Without the lock: it is asked on the way of the data. */
void kvh_arena_stats(struct kvh_arena *arena, struct kvh_arena_stats *stats)
{
	uint64_t pinned = __atomic_load_n(&arena->pinned_bytes, __ATOMIC_RELAXED);

	*stats = (struct kvh_arena_stats){
		.pinned_bytes = pinned,
		.wanted_bytes = arena->map.bytes,
		.missing_bytes = __atomic_load_n(&arena->missing_bytes, __ATOMIC_RELAXED),
		.pinning = __atomic_load_n(&arena->pinning, __ATOMIC_RELAXED),
		.error = __atomic_load_n(&arena->pin.error, __ATOMIC_RELAXED),
		.used_bytes = __atomic_load_n(&arena->used_bytes, __ATOMIC_RELAXED),
		.slab_bytes = __atomic_load_n(&arena->slab_granules, __ATOMIC_RELAXED) *
			      KVH_GRANULE_BYTES,
		.frames = __atomic_load_n(&arena->frames, __ATOMIC_RELAXED),
		.huge_bytes = arena->map.huge_bytes < pinned ? arena->map.huge_bytes : pinned,
		.numa_refused = arena->map.numa_refused,
	};
}

/* The first granule at or above `offset` that is in a slab and its slab. */
static uint32_t slab_from(const struct kvh_arena *arena, uint32_t granule, uint32_t end)
{
	while (granule < end && arena->slab_of[granule] == KVH_SLAB_NONE)
		granule++;
	return granule < end ? arena->slab_of[granule] : KVH_SLAB_NONE;
}

static uint32_t list_slab(const struct kvh_arena *arena, uint32_t slab, const void *from,
			  const void *end, void **frames, uint32_t max)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < arena->slabs[slab].n_frames && n < max; i++) {
		void *frame = kvh_slab_frame(arena, slab, i);

		if (frame >= from && frame < end && !kvh_slab_is_free(arena, slab, i))
			frames[n++] = frame;
	}
	return n;
}

uint32_t kvh_arena_list(struct kvh_arena *arena, const void *from, const void *end,
			void **frames, uint32_t max)
{
	uint64_t lo = (uintptr_t)from - (uintptr_t)arena->map.base;
	uint64_t hi = (uintptr_t)end - (uintptr_t)arena->map.base;
	uint32_t granule = (uint32_t)(lo / KVH_GRANULE_BYTES);
	uint32_t last = (uint32_t)((hi + KVH_GRANULE_BYTES - 1) / KVH_GRANULE_BYTES);
	uint32_t n = 0;

	kvh_spin_lock(&arena->lock);
	while (n < max) {
		uint32_t slab = slab_from(arena, granule, last);

		if (slab == KVH_SLAB_NONE)
			break;
		n += list_slab(arena, slab, from, end, frames + n, max - n);
		granule = slab + arena->slabs[slab].granules;
	}
	pthread_mutex_unlock(&arena->lock);
	return n;
}

/* Granules [*lo, *hi) of the piece that starts at `first`, grown to whole slabs. */
static void whole_slabs(const struct kvh_arena *arena, uint32_t *lo, uint32_t *hi)
{
	uint32_t slab = arena->slab_of[*lo];

	if (slab != KVH_SLAB_NONE)
		*lo = slab;
	slab = arena->slab_of[*hi - 1];
	if (slab != KVH_SLAB_NONE)
		*hi = slab + arena->slabs[slab].granules;
}

bool kvh_arena_window(struct kvh_arena *arena, uint64_t bytes, const void *from, void **lo_p,
		      void **hi_p)
{
	const struct kvh_arena_map *map = &arena->map;
	uint64_t offset = (uintptr_t)from - (uintptr_t)map->base;
	uint32_t need = (uint32_t)((bytes + KVH_GRANULE_BYTES - 1) / KVH_GRANULE_BYTES);
	uint32_t at = (uint32_t)(offset / KVH_GRANULE_BYTES);
	uint32_t per_piece = (uint32_t)(map->stride / KVH_GRANULE_BYTES);
	uint32_t n_pieces = kvh_arena_n_pinned(arena);

	for (uint32_t piece = at / per_piece; piece < n_pieces; piece++) {
		uint32_t first = piece * per_piece;
		uint32_t end = first + (uint32_t)(map->pieces[piece].bytes / KVH_GRANULE_BYTES);
		uint32_t lo = at > first ? at : first, hi;

		if (end - first < need || lo >= end)
			continue;
		lo = lo + need <= end ? lo : end - need;
		hi = lo + need;
		kvh_spin_lock(&arena->lock);
		whole_slabs(arena, &lo, &hi);
		pthread_mutex_unlock(&arena->lock);
		*lo_p = kvh_granule_address(arena, lo);
		*hi_p = kvh_granule_address(arena, hi);
		return true;
	}
	return false;
}
