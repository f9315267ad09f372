/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_space.h - what each space has in L1, and may have: bytes, a soft and a hard
 * limit, pinned or not. Any thread; counting takes no lock. Spaces live as long
 * as L1.
 *
 *   used == sum of the bytes of the space's frames that have memory, in any state
 *   used <= hard, but after hard was lowered below it: until enough could go
 */
#ifndef KVH_HOST_L1_SPACE_H
#define KVH_HOST_L1_SPACE_H

#include "host/l1.h"

#include <pthread.h>

#define KVH_SPACES      (1u << 18)
#define KVH_SPACE_NONE  UINT32_MAX
#define KVH_SPACE_LANES 4096u

struct kvh_l1_space {
	kvh_space_t id;
	uint64_t used;
	uint64_t soft, hard; /* UINT64_MAX: none */
	uint64_t evicted;    /* frames */
	uint32_t lane;       /* 0: shared with others */
	uint32_t families;   /* a list; KVH_FAMILY_NONE at its end */
} __attribute__((aligned(64)));

struct kvh_spaces {
	pthread_mutex_t lock;       /* of adding, and of limits */
	struct kvh_l1_space *space; /* by number */
	uint32_t *table;            /* open addressing by id: number + 1 */
	uint32_t n;
	uint32_t n_lanes;
	uint64_t pinned_bytes; /* sum of the hard limits of pinned spaces */
	/* By lane. */
	uint32_t of_lane[KVH_SPACE_LANES];   /* the space's number */
	uint64_t over[KVH_SPACE_LANES / 64]; /* bits: was seen above its soft limit */
	uint8_t pinned[KVH_SPACE_LANES];
};

int kvh_spaces_open(struct kvh_spaces *spaces);
void kvh_spaces_close(struct kvh_spaces *spaces);
/* KVH_SPACE_NONE: none of this id. */
uint32_t kvh_spaces_find(const struct kvh_spaces *spaces, kvh_space_t id);
/* KVH_SPACE_NONE: there are too many. */
uint32_t kvh_spaces_add(struct kvh_spaces *spaces, kvh_space_t id);

/* Adds the bytes of up to n frames, as many as the hard limit allows. */
uint32_t kvh_space_charge(struct kvh_spaces *spaces, uint32_t number, uint64_t bytes,
			  uint32_t n);
/* What has to go before so many bytes can be charged; at least `bytes`. */
uint64_t kvh_space_lacks(const struct kvh_spaces *spaces, uint32_t number, uint64_t bytes);
static inline void kvh_space_uncharge(struct kvh_spaces *spaces, uint32_t number,
				      uint64_t bytes)
{
	(void)__atomic_fetch_sub(&spaces->space[number].used, bytes, __ATOMIC_RELAXED);
}

static inline bool kvh_space_is_over(const struct kvh_l1_space *space)
{
	return __atomic_load_n(&space->used, __ATOMIC_RELAXED) >
	       __atomic_load_n(&space->soft, __ATOMIC_RELAXED);
}

static inline bool kvh_lane_is_pinned(const struct kvh_spaces *spaces, uint32_t lane)
{
	return __atomic_load_n(&spaces->pinned[lane], __ATOMIC_RELAXED) != 0;
}

/* The next lane at or above `from` whose space is above its soft limit, or
 * UINT32_MAX. */
uint32_t kvh_spaces_next_over(struct kvh_spaces *spaces, uint32_t from);

/* Validates against `capacity`, then sets; the old limits stay if refused. */
int kvh_spaces_limit(struct kvh_spaces *spaces, kvh_space_t id, uint64_t capacity,
		     const struct kvh_l1_limits *limits, uint32_t *number_p);

#endif
