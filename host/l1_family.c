/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_family.c - the table of families. Limit: 196,608 of them (KVH_FAMILIES at
 * 75 %); keys of more are refused with -ENOMEM.
 */
#include "host/l1_family.h"

#include "host/l1_space.h"
#include "host/log.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define FAMILIES_MAX (KVH_FAMILIES / 4 * 3)

int kvh_families_open(struct kvh_families *families)
{
	/* calloc of this size is fresh memory: only what is used is there. */
	families->family = calloc(KVH_FAMILIES, sizeof(*families->family));
	families->set = calloc(KVH_FAMILIES, 1);
	families->n = 0;
	if (families->family == NULL || families->set == NULL) {
		free(families->family);
		free(families->set);
		return -ENOMEM;
	}
	pthread_mutex_init(&families->lock, NULL);
	return 0;
}

void kvh_families_close(struct kvh_families *families)
{
	pthread_mutex_destroy(&families->lock);
	free(families->family);
	free(families->set);
}

static uint32_t first_place(const struct kvh_key *key)
{
	uint64_t x = key->space ^ ((uint64_t)key->rank << 32 | key->group);

	x *= UINT64_C(0x9E3779B97F4A7C15);
	return (uint32_t)(x >> 40) & (KVH_FAMILIES - 1);
}

/* Where the family is, or the free place where it would be. */
static bool probe(const struct kvh_families *families, const struct kvh_key *key,
		  uint32_t *place_p)
{
	uint32_t i = first_place(key);

	for (; __atomic_load_n(&families->set[i], __ATOMIC_ACQUIRE) != 0;
	     i = (i + 1) & (KVH_FAMILIES - 1)) {
		const struct kvh_family *f = &families->family[i];

		if (f->space == key->space && f->rank == key->rank && f->group == key->group) {
			*place_p = i;
			return true;
		}
	}
	*place_p = i;
	return false;
}

uint32_t kvh_family_find(const struct kvh_families *families, const struct kvh_key *key)
{
	uint32_t place;

	return probe(families, key, &place) ? place : KVH_FAMILY_NONE;
}

static uint32_t add_locked(struct kvh_families *families, struct kvh_spaces *spaces,
			   const struct kvh_key *key)
{
	struct kvh_l1_space *space;
	struct kvh_family *family;
	uint32_t place, number;

	if (probe(families, key, &place)) /* another thread was faster */
		return place;
	if (families->n == FAMILIES_MAX) {
		kvh_err("more than %u combinations of space, rank and group", FAMILIES_MAX);
		return KVH_FAMILY_NONE;
	}
	number = kvh_spaces_add(spaces, key->space);
	if (number == KVH_SPACE_NONE)
		return KVH_FAMILY_NONE;
	space = &spaces->space[number];
	families->n++;
	family = &families->family[place];
	family->space = key->space;
	family->rank = key->rank;
	family->group = key->group;
	__atomic_store_n(&family->space_number, number, __ATOMIC_RELAXED);
	__atomic_store_n(&family->lane, space->lane, __ATOMIC_RELAXED);
	family->next = space->families;
	__atomic_store_n(&space->families, place, __ATOMIC_RELEASE);
	__atomic_store_n(&families->set[place], 1, __ATOMIC_RELEASE);
	return place;
}

uint32_t kvh_family_add(struct kvh_families *families, struct kvh_spaces *spaces,
			const struct kvh_key *key)
{
	uint32_t place;

	if (probe(families, key, &place))
		return place;
	pthread_mutex_lock(&families->lock);
	place = add_locked(families, spaces, key);
	pthread_mutex_unlock(&families->lock);
	return place;
}
