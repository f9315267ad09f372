/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_map.c - lays out, maps and binds the pieces of an arena, on the thread that
 * opens it. Touches nothing: that is moments, however large the arena is.
 */
#include "host/arena_map.h"

#include "host/log.h"

#include <errno.h>
#include <inttypes.h>
#include <numaif.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PIECE_MAX     (UINT64_C(1) << 30)
#define BYTES_MIN     (UINT64_C(1) << 20)
#define BYTES_MAX     (UINT64_C(8) << 40)
#define NODES_MAX     1024u
#define BITS_PER_LONG (8 * sizeof(unsigned long))

static int check_node(int node)
{
	if (node < (int)NODES_MAX)
		return 0;
	kvh_err("L1 on NUMA node %d: must be below %u", node, NODES_MAX);
	return -EINVAL;
}

static int check_nodes(const struct kvh_arena_opts *opts)
{
	int rc = 0;

	if (opts->n_nodes > KVH_ARENA_NODES_MAX) {
		kvh_err("L1 on %" PRIu32 " NUMA nodes: at most %u", opts->n_nodes,
			KVH_ARENA_NODES_MAX);
		return -EINVAL;
	}
	for (uint32_t i = 0; i < opts->n_nodes && rc == 0; i++)
		rc = check_node(opts->nodes[i]);
	return rc != 0 ? rc : check_node(opts->numa_node);
}

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
	return check_nodes(opts);
}

static int check_room(uint64_t bytes, const char *of, uint64_t room)
{
	if (bytes <= room)
		return 0;
	kvh_err("L1 of %" PRIu64 " bytes does not fit: %s has room for %" PRIu64, bytes, of,
		room);
	return -ENOMEM;
}

/* Of the pieces that the node is to hold; once for each node, at its first piece. */
static int check_room_node(const struct kvh_arena_map *map, uint32_t first)
{
	int node = map->pieces[first].node;
	uint64_t bytes = 0;
	char name[32];

	if (node < 0)
		return 0;
	for (uint32_t i = 0; i < map->n_pieces; i++) {
		if (map->pieces[i].node != node)
			continue;
		if (i < first)
			return 0;
		bytes += map->pieces[i].bytes;
	}
	(void)snprintf(name, sizeof(name), "NUMA node %d", node);
	return check_room(bytes, name, kvh_arena_room_node(map->root, node));
}

static int check_rooms(const struct kvh_arena_map *map)
{
	int rc = check_room(map->bytes, "the machine", kvh_arena_room_machine(map->root));

	if (rc == 0)
		rc = check_room(map->bytes, "the cgroup", kvh_arena_room_cgroup(map->root));
	for (uint32_t i = 0; i < map->n_pieces && i < KVH_ARENA_NODES_MAX && rc == 0; i++)
		rc = check_room_node(map, i);
	return rc;
}

int kvh_arena_map_room(const struct kvh_arena_map *map, uint32_t piece, const char **of_p,
		       uint64_t *room_p)
{
	uint64_t bytes = map->pieces[piece].bytes;
	int node = map->pieces[piece].node;

	*of_p = "the machine";
	*room_p = kvh_arena_room_machine(map->root);
	if (*room_p >= bytes) {
		*of_p = "the cgroup";
		*room_p = kvh_arena_room_cgroup(map->root);
	}
	if (*room_p >= bytes && node >= 0) {
		*of_p = "its NUMA node";
		*room_p = kvh_arena_room_node(map->root, node);
	}
	return *room_p >= bytes ? 0 : -ENOMEM;
}

/* ---- mapping ------------------------------------------------------------ */

static void bind_piece(struct kvh_arena_map *map, struct kvh_arena_piece *piece)
{
	unsigned long mask[NODES_MAX / BITS_PER_LONG] = {0};
	unsigned node = (unsigned)piece->node;

	mask[node / BITS_PER_LONG] |= 1ul << (node % BITS_PER_LONG);
	if (mbind(piece->base, piece->bytes, MPOL_BIND, mask, NODES_MAX, 0) == 0)
		return;
	if (map->numa_refused++ == 0)
		kvh_warn("L1 is not bound to NUMA node %u: mbind: %s", node, strerror(errno));
	piece->node = KVH_NODE_ANY;
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
	if (piece->node >= 0)
		bind_piece(map, piece);
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

static int node_of(const struct kvh_arena_opts *opts, uint32_t piece)
{
	int node = opts->n_nodes > 0 ? opts->nodes[piece % opts->n_nodes] : opts->numa_node;

	return node >= 0 ? node : KVH_NODE_ANY;
}

/* Where every piece is to lie. */
static int lay_out(const struct kvh_arena_opts *opts, struct kvh_arena_map *map)
{
	uint64_t piece_bytes = opts->piece_bytes != 0 ? opts->piece_bytes : PIECE_MAX;
	uint64_t bytes = opts->bytes / KVH_GRANULE_BYTES * KVH_GRANULE_BYTES;

	bytes = bytes > 0 ? bytes : KVH_GRANULE_BYTES;
	piece_bytes = piece_bytes / KVH_GRANULE_BYTES * KVH_GRANULE_BYTES;
	piece_bytes = piece_bytes < bytes ? piece_bytes : bytes;
	map->bytes = bytes;
	map->n_pieces = (uint32_t)((bytes + piece_bytes - 1) / piece_bytes);
	map->stride = piece_bytes + KVH_GRANULE_BYTES;
	map->span = map->n_pieces * map->stride;
	map->pieces = calloc(map->n_pieces, sizeof(*map->pieces));
	if (map->pieces == NULL) {
		kvh_err("L1: no memory for %" PRIu32 " pieces", map->n_pieces);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < map->n_pieces; i++) {
		map->pieces[i].bytes = bytes < piece_bytes ? bytes : piece_bytes;
		map->pieces[i].node = node_of(opts, i);
		bytes -= map->pieces[i].bytes;
	}
	return 0;
}

static int map_range(struct kvh_arena_map *map)
{
	int rc = 0;

	map->base = reserve_range(map->span);
	if (map->base == NULL) {
		kvh_err("L1: no range of %" PRIu64 " addresses: %s", map->span,
			strerror(errno));
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < map->n_pieces && rc == 0; i++) {
		map->pieces[i].base = map->base + i * map->stride;
		if (!map->unpinned)
			rc = map_piece(map, &map->pieces[i]);
	}
	if (rc != 0)
		(void)munmap(map->base, map->span);
	return rc;
}

int kvh_arena_map_open(const struct kvh_arena_opts *opts, struct kvh_arena_map *map)
{
	int rc = check_opts(opts);

	if (rc != 0)
		return rc;
	*map = (struct kvh_arena_map){
		.dev = opts->dev,
		.others = opts->others,
		.n_others = opts->n_others,
		.root = opts->root != NULL ? opts->root : "",
		.unpinned = opts->addresses_only,
	};
	rc = lay_out(opts, map);
	if (rc != 0)
		return rc;
	rc = map->unpinned ? 0 : check_rooms(map);
	if (rc == 0)
		rc = map_range(map);
	if (rc != 0)
		free(map->pieces);
	return rc;
}

void kvh_arena_map_drop(const struct kvh_arena_map *map, uint32_t piece)
{
	const struct kvh_arena_piece *p = &map->pieces[piece];

	if (mmap(p->base, p->bytes, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		kvh_warn("L1: %" PRIu64 " bytes that could not be pinned stay mapped: %s",
			 p->bytes, strerror(errno));
}

/* That lives, or else the one that was given. */
static struct kvh_device *device_of(const struct kvh_arena_map *map)
{
	struct kvh_device *dev = map->dev;

	for (uint32_t i = 0; i < map->n_others && dev->ops->dead(dev); i++)
		dev = map->others[i];
	return dev->ops->dead(dev) ? map->dev : dev;
}

int kvh_arena_map_register(const struct kvh_arena_map *map, uint32_t piece)
{
	const struct kvh_arena_piece *p = &map->pieces[piece];
	struct kvh_device *dev, *next = device_of(map);
	int rc;

	do { /* again, if it was the one that died of it */
		dev = next;
		rc = dev->ops->host_register(dev, p->base, p->bytes);
		next = device_of(map);
	} while (rc != 0 && next != dev);
	return rc;
}

void kvh_arena_map_unregister(struct kvh_arena_map *map, uint32_t piece)
{
	struct kvh_device *dev, *next = device_of(map);
	int rc;

	do {
		dev = next;
		rc = dev->ops->host_unregister(dev, map->pieces[piece].base);
		next = device_of(map);
	} while (rc != 0 && next != dev);
	if (rc != 0 && map->n_kept++ == 0)
		kvh_warn("L1: it could not be unregistered: %s; its addresses stay reserved",
			 strerror(-rc));
}

void kvh_arena_map_close(struct kvh_arena_map *map, bool leak)
{
	if (!leak && map->n_kept == 0)
		(void)munmap(map->base, map->span);
	else if (!leak)
		for (uint32_t i = 0; i < map->n_pieces; i++)
			kvh_arena_map_drop(map, i);
	free(map->pieces);
}
