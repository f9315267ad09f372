/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_map.h - the memory under an arena: address range, pieces, NUMA node,
 * huge pages, registration. Made and taken down by one thread each; between
 * these it never changes, so any thread reads it without a lock.
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
	unsigned char *base;
	uint64_t span;
	uint64_t stride;
	uint64_t bytes; /* of all pieces */
	struct kvh_arena_piece *pieces;
	uint32_t n_pieces;
	uint64_t huge_bytes;
	uint64_t numa_refused; /* pieces */
	bool unpinned;         /* addresses only */
};

/* Errors as kvh_arena_open; nothing is left behind on failure. */
int kvh_arena_map_open(const struct kvh_arena_opts *opts, struct kvh_arena_map *map);
void kvh_arena_map_close(struct kvh_arena_map *map, bool leak);

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
