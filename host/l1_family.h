/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_family.h - small numbers for what keys have in common: space, rank and
 * group. A record has 4 bytes for these 16. Any thread; looking up takes no
 * lock. Families live as long as L1: spaces do.
 */
#ifndef KVH_HOST_L1_FAMILY_H
#define KVH_HOST_L1_FAMILY_H

#include "kvhoist.h"

#include <pthread.h>

struct kvh_spaces;

#define KVH_FAMILY_NONE UINT32_MAX
#define KVH_FAMILIES    (1u << 18)

struct kvh_family {
	kvh_space_t space;
	uint32_t rank;
	uint32_t group;
	uint32_t space_number; /* of l1_space.h */
	uint32_t lane;         /* of the space, by which a shard finds its frames' order */
	uint32_t next;         /* the space's next family, or KVH_FAMILY_NONE */
};

struct kvh_families {
	pthread_mutex_t lock;      /* of adding */
	struct kvh_family *family; /* open addressing: the place is the number */
	uint8_t *set;              /* 1: family[i] is there and never changes again */
	uint32_t n;
};

int kvh_families_open(struct kvh_families *families);
void kvh_families_close(struct kvh_families *families);
uint32_t kvh_family_find(const struct kvh_families *families, const struct kvh_key *key);
static inline uint32_t kvh_family_lane(const struct kvh_families *families, uint32_t number)
{
	return __atomic_load_n(&families->family[number].lane, __ATOMIC_RELAXED);
}

static inline uint32_t kvh_family_space(const struct kvh_families *families, uint32_t number)
{
	return __atomic_load_n(&families->family[number].space_number, __ATOMIC_RELAXED);
}

/* Adds its space, too. KVH_FAMILY_NONE: there are too many. */
uint32_t kvh_family_add(struct kvh_families *families, struct kvh_spaces *spaces,
			const struct kvh_key *key);

#endif
