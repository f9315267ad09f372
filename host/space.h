/* SPDX-License-Identifier: Apache-2.0 */
/*
 * space.h - what makes bytes interchangeable: the descriptor's own copy, its
 * digest, and the sizes that follow from it. A space never changes but for its
 * counters; the table only grows, and is read without a lock from any thread.
 */
#ifndef KVH_HOST_SPACE_H
#define KVH_HOST_SPACE_H

#include "host/metrics.h"
#include "kvhoist.h"

#include <pthread.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of one space, since open. */
struct kvh_space_counters {
	kvh_counter stored_chunks, stored_bytes;
	kvh_counter loaded_chunks, loaded_bytes;
	kvh_counter store_exists, store_no_memory, store_failed;
	kvh_counter hits_l1, hits_l2, misses, prefetch_wasted;
};

/* Of the ranks' pools, by rank: 1 + the NUMA node of the device; 0: not known. A hint,
 * where ranks share a place: it decides where a frame lies, not whether. */
#define KVH_SPACE_NEAR 64u

struct kvh_space_group {
	struct kvh_group_desc desc; /* planes: the space's own copy */
	uint64_t payload_bytes;     /* of a chunk */
	uint32_t pages_per_chunk;
	uint32_t window_chunks; /* WINDOW: chunks that hold the last window_tokens */
	uint32_t first_plane;   /* of the pool's planes */
};

struct kvh_space {
	kvh_space_t id; /* the first 8 bytes of digest, little-endian */
	uint8_t digest[32];
	uint32_t chunk_tokens;
	uint32_t n_groups;
	uint32_t n_planes; /* of all groups */
	bool limited;      /* has limits, or is to have none; the engine's opts_lock */
	struct kvh_space *next;
	struct kvh_space_counters *counters; /* any thread adds */
	uint32_t near[KVH_SPACE_NEAR];       /* atomic */
	struct kvh_plane_shape *shapes;
	struct kvh_space_group groups[KVH_GROUPS_MAX];
};

static inline void kvh_space_near_set(struct kvh_space *space, uint32_t rank, uint32_t near)
{
	__atomic_store_n(&space->near[rank % KVH_SPACE_NEAR], near, __ATOMIC_RELAXED);
}

/* Of replicated chunks: 0, any rank may want them. */
static inline uint32_t kvh_space_near(const struct kvh_space *space, uint32_t rank)
{
	if (rank == KVH_RANK_ANY)
		return 0;
	return __atomic_load_n(&space->near[rank % KVH_SPACE_NEAR], __ATOMIC_RELAXED);
}

/* -EINVAL: logged with field, value and what is allowed. */
int kvh_space_make(const struct kvh_space_desc *desc, struct kvh_space **space_p);
void kvh_space_free(struct kvh_space *space);

#define KVH_SPACE_BUCKETS 256u
struct kvh_space_table {
	pthread_mutex_t lock; /* of writers */
	struct kvh_space
		*buckets[KVH_SPACE_BUCKETS]; /* read with acquire, written with release */
};
void kvh_space_table_init(struct kvh_space_table *table);
void kvh_space_table_free(struct kvh_space_table *table);
/* Takes `space`: adds it, or frees it where an equal one is there already;
 * *space_p is the one in the table. -EEXIST another descriptor has the id. */
int kvh_space_table_add(struct kvh_space_table *table, struct kvh_space *space,
			struct kvh_space **space_p);
struct kvh_space *kvh_space_table_find(struct kvh_space_table *table, kvh_space_t id);

#ifdef __cplusplus
}
#endif
#endif
