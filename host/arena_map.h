/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_map.h - the memory under an arena: address range, pieces, NUMA nodes, huge
 * pages. Made and taken down by one thread each; between these it never changes
 * but for n_kept, so any thread reads it without a lock. What becomes of the pieces:
 * arena_pin.c.
 */
#ifndef KVH_HOST_ARENA_MAP_H
#define KVH_HOST_ARENA_MAP_H

#include "host/arena.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_GRANULE_BYTES (UINT64_C(2) << 20)

/*
 * One range of addresses holds all pieces, in rising order, so that an address
 * tells its piece by a division. Behind each lies a granule without access: no
 * copy can run from one registration into the next.
 *
 *   base <- piece_bytes -> gap <- piece_bytes -> gap ... base + span
 *   piece i starts at base + i * stride, stride == piece_bytes + KVH_GRANULE_BYTES
 */
struct kvh_arena_map {
	struct kvh_device *dev;
	struct kvh_device *const *others; /* [n_others] */
	uint32_t n_others;
	uint32_t n_kept; /* pieces that could not be unregistered */
	unsigned char *base;
	uint64_t span;
	uint64_t stride;
	uint64_t bytes; /* of all pieces, pinned or not */
	struct kvh_arena_piece *pieces;
	uint32_t n_pieces;
	uint64_t huge_bytes;   /* of pieces that may be on huge pages */
	uint64_t numa_refused; /* pieces */
	const char *root;
	bool unpinned; /* addresses only */
};

/* Mapped, and nothing touched. Errors as kvh_arena_open; nothing is left behind on
 * failure. */
int kvh_arena_map_open(const struct kvh_arena_opts *opts, struct kvh_arena_map *map);
/* Nothing is registered any more, or it stays mapped with `leak`. */
void kvh_arena_map_close(struct kvh_arena_map *map, bool leak);
/* Through the device, or another that lives where that has died. */
int kvh_arena_map_register(const struct kvh_arena_map *map, uint32_t piece);
/* If none lives, the driver may hold the piece still: its memory goes at close, its
 * addresses stay reserved, so that nobody registers them again. */
void kvh_arena_map_unregister(struct kvh_arena_map *map, uint32_t piece);
/* Whether machine, cgroup and the piece's node have room for it still: 0, or -ENOMEM
 * and which of them has room for how much. */
int kvh_arena_map_room(const struct kvh_arena_map *map, uint32_t piece, const char **of_p,
		       uint64_t *room_p);
/* Gives the memory of a piece back that is not registered; the addresses stay. */
void kvh_arena_map_drop(const struct kvh_arena_map *map, uint32_t piece);

/* Bytes that can still be had, from the kernel's files below `root` ("" but in
 * tests); UINT64_MAX where there is no such limit. Page cache counts as room.
 * Of all cgroups (v1 and v2) that this process is in; of a NUMA node. */
uint64_t kvh_arena_room_cgroup(const char *root);
uint64_t kvh_arena_room_node(const char *root, int node);
/* Of the machine: MemAvailable. */
uint64_t kvh_arena_room_machine(const char *root);

#ifdef __cplusplus
}
#endif
#endif
