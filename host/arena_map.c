/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_map.c - maps, binds, touches and registers the pieces of an arena, on
 * the thread that opens it, with helpers for the touching. Limit: returns when
 * all of it is pinned; on large machines that takes seconds.
 */
#include "host/arena_map.h"

#include "host/log.h"
#include "host/thread.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <numaif.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define PIECE_MAX     (UINT64_C(1) << 30)
#define BYTES_MIN     (UINT64_C(1) << 20)
#define BYTES_MAX     (UINT64_C(8) << 40)
#define TOUCH_MAX     16u
#define TOUCH_STRIDE  4096u
#define NODES_MAX     1024u
#define BITS_PER_LONG (8 * sizeof(unsigned long))

static int check_opts(const struct kvh_arena_opts *opts)
{
	if (opts->bytes < BYTES_MIN || opts->bytes > BYTES_MAX) {
		kvh_err("L1 of %" PRIu64 " bytes: must be %" PRIu64 " to %" PRIu64, opts->bytes,
			BYTES_MIN, BYTES_MAX);
		return -EINVAL;
	}
	if (opts->piece_bytes != 0 &&
	    (opts->piece_bytes < KVH_GRANULE_BYTES || opts->piece_bytes > PIECE_MAX)) {
		kvh_err("L1 pieces of %" PRIu64 " bytes: must be %" PRIu64 " to %" PRIu64,
			opts->piece_bytes, KVH_GRANULE_BYTES, PIECE_MAX);
		return -EINVAL;
	}
	if (opts->numa_node >= (int)NODES_MAX) {
		kvh_err("L1 on NUMA node %d: must be below %u", opts->numa_node, NODES_MAX);
		return -EINVAL;
	}
	return 0;
}

static int check_room(uint64_t bytes, const char *of, uint64_t room)
{
	if (bytes <= room)
		return 0;
	kvh_err("L1 of %" PRIu64 " bytes does not fit: %s has room for %" PRIu64, bytes, of,
		room);
	return -ENOMEM;
}

static int check_rooms(uint64_t bytes, int node)
{
	int rc = check_room(bytes, "the machine", kvh_arena_room_machine(""));

	if (rc == 0)
		rc = check_room(bytes, "the cgroup", kvh_arena_room_cgroup(""));
	if (rc == 0 && node >= 0)
		rc = check_room(bytes, "the NUMA node", kvh_arena_room_node("", node));
	return rc;
}

struct touch {
	unsigned char *from, *end;
};

static enum kvh_round touch_round(void *arg, enum kvh_wake wake)
{
	const struct touch *touch = arg;

	(void)wake;
	/* Volatile: a store to fresh memory of zero is otherwise no store. */
	for (volatile unsigned char *p = touch->from; p < touch->end; p += TOUCH_STRIDE)
		*p = 0;
	return KVH_ROUND_END;
}

static uint32_t touch_threads(uint32_t asked)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	uint32_t n = asked != 0 ? asked : cores > 0 ? (uint32_t)cores : 1;

	return n < TOUCH_MAX ? n : TOUCH_MAX;
}

/* The first touch makes the kernel find and clear each page: by far the longest
 * part of opening, and it scales with cores. */
static void touch_piece(const struct kvh_arena_piece *piece, uint32_t n)
{
	uint64_t granules = piece->bytes / KVH_GRANULE_BYTES;
	struct touch touches[TOUCH_MAX];
	struct kvh_thread threads[TOUCH_MAX];
	bool started[TOUCH_MAX];

	for (uint32_t i = 0; i < n; i++) {
		unsigned char *base = piece->base;

		touches[i].from = base + granules * i / n * KVH_GRANULE_BYTES;
		touches[i].end = base + granules * (i + 1) / n * KVH_GRANULE_BYTES;
		threads[i] = (struct kvh_thread){
			.name = "kvh-touch", .round = touch_round, .arg = &touches[i]};
		started[i] = i + 1 < n && kvh_thread_start(&threads[i]) == 0;
		if (!started[i]) /* the last one, or no threads to be had */
			(void)touch_round(&touches[i], KVH_WAKE_WAIT);
	}
	for (uint32_t i = 0; i < n; i++)
		if (started[i])
			kvh_thread_join(&threads[i]);
}

static void bind_piece(struct kvh_arena_map *map, const struct kvh_arena_piece *piece, int node)
{
	unsigned long mask[NODES_MAX / BITS_PER_LONG] = {0};

	mask[(unsigned)node / BITS_PER_LONG] |= 1ul << ((unsigned)node % BITS_PER_LONG);
	if (mbind(piece->base, piece->bytes, MPOL_BIND, mask, NODES_MAX, 0) == 0)
		return;
	if (map->numa_refused++ == 0)
		kvh_warn("L1 is not bound to NUMA node %d: mbind: %s", node, strerror(errno));
}

static int map_piece(struct kvh_arena_map *map, struct kvh_arena_piece *piece)
{
	if (mmap(piece->base, piece->bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
		kvh_err("L1: mapping %" PRIu64 " bytes: %s", piece->bytes, strerror(errno));
		return -ENOMEM;
	}
	/* Else a fork copies all pages: pinned ones can't be shared for later. */
	if (madvise(piece->base, piece->bytes, MADV_DONTFORK) != 0) {
		kvh_err("L1: MADV_DONTFORK: %s", strerror(errno));
		return -ENOMEM;
	}
	if (madvise(piece->base, piece->bytes, MADV_HUGEPAGE) == 0)
		map->huge_bytes += piece->bytes;
	return 0;
}

static int register_piece(struct kvh_device *dev, const struct kvh_arena_piece *piece,
			  uint64_t pinned)
{
	int rc = dev->ops->host_register(dev, piece->base, piece->bytes);
	struct rlimit limit = {0};

	if (rc == 0)
		return 0;
	(void)getrlimit(RLIMIT_MEMLOCK, &limit);
	kvh_err("L1: pinning %" PRIu64 " bytes after %" PRIu64
		": %s; RLIMIT_MEMLOCK is %" PRIu64 " bytes (ulimit -l)",
		piece->bytes, pinned, strerror(-rc), (uint64_t)limit.rlim_cur);
	return -ENOMEM;
}

/* One piece, pinned; map->n_pieces counts it then. */
static int open_piece(struct kvh_arena_map *map, const struct kvh_arena_opts *opts,
		      uint64_t left)
{
	struct kvh_arena_piece *piece = &map->pieces[map->n_pieces];
	uint64_t piece_bytes = map->stride - KVH_GRANULE_BYTES;
	int rc;

	piece->base = map->base + map->n_pieces * map->stride;
	piece->bytes = left < piece_bytes ? left : piece_bytes;
	if (opts->addresses_only) {
		map->n_pieces++;
		map->bytes += piece->bytes;
		return 0;
	}
	rc = map_piece(map, piece);
	if (rc != 0)
		return rc;
	if (opts->numa_node >= 0)
		bind_piece(map, piece, opts->numa_node);
	touch_piece(piece, touch_threads(opts->touch_threads));
	rc = register_piece(map->dev, piece, map->bytes);
	if (rc != 0)
		return rc;
	map->n_pieces++;
	map->bytes += piece->bytes;
	return 0;
}

/* A range of addresses, aligned to granules, without memory behind it. */
static unsigned char *reserve_range(uint64_t span)
{
	uint64_t slack = KVH_GRANULE_BYTES;
	unsigned char *at = mmap(NULL, span + slack, PROT_NONE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t skip;

	if (at == MAP_FAILED)
		return NULL;
	skip = (slack - (uintptr_t)at % slack) % slack;
	if (skip > 0)
		(void)munmap(at, skip);
	if (skip < slack)
		(void)munmap(at + skip + span, slack - skip);
	return at + skip;
}

static int map_range(struct kvh_arena_map *map, uint64_t bytes, uint64_t piece_bytes)
{
	uint64_t n = (bytes + piece_bytes - 1) / piece_bytes;

	map->stride = piece_bytes + KVH_GRANULE_BYTES;
	map->span = n * map->stride;
	map->pieces = calloc(n, sizeof(*map->pieces));
	if (map->pieces == NULL) {
		kvh_err("L1: no memory for %" PRIu64 " pieces", n);
		return -ENOMEM;
	}
	map->base = reserve_range(map->span);
	if (map->base == NULL) {
		kvh_err("L1: no range of %" PRIu64 " addresses: %s", map->span,
			strerror(errno));
		free(map->pieces);
		return -ENOMEM;
	}
	return 0;
}

int kvh_arena_map_open(const struct kvh_arena_opts *opts, struct kvh_arena_map *map)
{
	uint64_t piece_bytes = opts->piece_bytes != 0 ? opts->piece_bytes : PIECE_MAX;
	uint64_t bytes = opts->bytes / KVH_GRANULE_BYTES * KVH_GRANULE_BYTES;
	int rc = check_opts(opts);

	if (rc != 0)
		return rc;
	bytes = bytes > 0 ? bytes : KVH_GRANULE_BYTES;
	piece_bytes = piece_bytes / KVH_GRANULE_BYTES * KVH_GRANULE_BYTES;
	piece_bytes = piece_bytes < bytes ? piece_bytes : bytes;
	rc = opts->addresses_only ? 0 : check_rooms(bytes, opts->numa_node);
	if (rc != 0)
		return rc;
	*map = (struct kvh_arena_map){.dev = opts->dev, .unpinned = opts->addresses_only};
	rc = map_range(map, bytes, piece_bytes);
	if (rc != 0)
		return rc;
	while (rc == 0 && map->bytes < bytes)
		rc = open_piece(map, opts, bytes - map->bytes);
	if (rc != 0)
		kvh_arena_map_close(map, false);
	return rc;
}

void kvh_arena_map_close(struct kvh_arena_map *map, bool leak)
{
	struct kvh_device *dev = map->dev;

	if (!leak) {
		for (uint32_t i = map->unpinned ? 0 : map->n_pieces; i-- > 0;)
			(void)dev->ops->host_unregister(dev, map->pieces[i].base);
		(void)munmap(map->base, map->span);
	}
	free(map->pieces);
}
