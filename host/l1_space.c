/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_space.c - the table of spaces and their limits. Any thread. Limits: 196,608
 * spaces; the first 4,095 have an order of their own in each shard, and only
 * those can be limited.
 */
#include "host/l1_space.h"

#include "host/l1_family.h"
#include "host/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define SPACES_MAX (KVH_SPACES / 4 * 3)
#define NO_LIMIT   UINT64_MAX

int kvh_spaces_open(struct kvh_spaces *spaces)
{
	/* Of this size it is fresh memory: only what is used is there. */
	spaces->space = calloc(SPACES_MAX, sizeof(*spaces->space));
	spaces->table = calloc(KVH_SPACES, sizeof(*spaces->table));
	if (spaces->space == NULL || spaces->table == NULL) {
		free(spaces->space);
		free(spaces->table);
		return -ENOMEM;
	}
	pthread_mutex_init(&spaces->lock, NULL);
	spaces->n = 0;
	spaces->n_lanes = 1; /* the shared one */
	return 0;
}

void kvh_spaces_close(struct kvh_spaces *spaces)
{
	pthread_mutex_destroy(&spaces->lock);
	free(spaces->space);
	free(spaces->table);
}

/* The space's number, or KVH_SPACE_NONE and the place where it would be. */
static uint32_t probe(const struct kvh_spaces *spaces, kvh_space_t id, uint32_t *place_p)
{
	uint32_t i = (uint32_t)(id * UINT64_C(0x9E3779B97F4A7C15) >> 40) & (KVH_SPACES - 1);
	uint32_t at;

	while ((at = __atomic_load_n(&spaces->table[i], __ATOMIC_ACQUIRE)) != 0) {
		if (spaces->space[at - 1].id == id)
			return at - 1;
		i = (i + 1) & (KVH_SPACES - 1);
	}
	*place_p = i;
	return KVH_SPACE_NONE;
}

uint32_t kvh_spaces_find(const struct kvh_spaces *spaces, kvh_space_t id)
{
	uint32_t place;

	return probe(spaces, id, &place);
}

static uint32_t add_locked(struct kvh_spaces *spaces, kvh_space_t id)
{
	struct kvh_l1_space *space;
	uint32_t place, number = probe(spaces, id, &place);

	if (number != KVH_SPACE_NONE)
		return number;
	if (spaces->n == SPACES_MAX) {
		kvh_err("L1: more than %u spaces", SPACES_MAX);
		return KVH_SPACE_NONE;
	}
	number = spaces->n++;
	space = &spaces->space[number];
	space->id = id;
	space->soft = space->hard = NO_LIMIT;
	space->families = KVH_FAMILY_NONE;
	if (spaces->n_lanes < KVH_SPACE_LANES) {
		space->lane = spaces->n_lanes++;
		spaces->of_lane[space->lane] = number;
	}
	__atomic_store_n(&spaces->table[place], number + 1, __ATOMIC_RELEASE);
	return number;
}

uint32_t kvh_spaces_add(struct kvh_spaces *spaces, kvh_space_t id)
{
	uint32_t number;

	pthread_mutex_lock(&spaces->lock);
	number = add_locked(spaces, id);
	pthread_mutex_unlock(&spaces->lock);
	return number;
}

/* ---- bytes -------------------------------------------------------------- */

/* Whoever evicts looks at the bits first, and at `used` only then: a thousand
 * spaces are 16 words. */
static void mark_over(struct kvh_spaces *spaces, const struct kvh_l1_space *space)
{
	uint64_t *word = &spaces->over[space->lane / 64];
	uint64_t bit = UINT64_C(1) << (space->lane % 64);

	if (space->lane != 0 && (__atomic_load_n(word, __ATOMIC_RELAXED) & bit) == 0)
		(void)__atomic_fetch_or(word, bit, __ATOMIC_RELEASE);
}

uint32_t kvh_space_charge(struct kvh_spaces *spaces, uint32_t number, uint64_t bytes,
			  uint32_t n)
{
	struct kvh_l1_space *space = &spaces->space[number];
	uint64_t used = __atomic_load_n(&space->used, __ATOMIC_RELAXED);
	uint64_t fit;

	do {
		uint64_t hard = __atomic_load_n(&space->hard, __ATOMIC_RELAXED);

		fit = hard > used ? (hard - used) / bytes : 0;
		fit = fit < n ? fit : n;
		if (fit == 0)
			return 0;
	} while (!__atomic_compare_exchange_n(&space->used, &used, used + fit * bytes, true,
					      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	if (kvh_space_is_over(space))
		mark_over(spaces, space);
	return (uint32_t)fit;
}

uint64_t kvh_space_lacks(const struct kvh_spaces *spaces, uint32_t number, uint64_t bytes)
{
	const struct kvh_l1_space *space = &spaces->space[number];
	uint64_t used = __atomic_load_n(&space->used, __ATOMIC_RELAXED);
	uint64_t hard = __atomic_load_n(&space->hard, __ATOMIC_RELAXED);

	return used > hard ? used - hard + bytes : bytes;
}

static bool still_over(struct kvh_spaces *spaces, uint32_t lane)
{
	const struct kvh_l1_space *space = &spaces->space[spaces->of_lane[lane]];

	if (kvh_space_is_over(space))
		return true;
	(void)__atomic_fetch_and(&spaces->over[lane / 64], ~(UINT64_C(1) << (lane % 64)),
				 __ATOMIC_SEQ_CST);
	/* It may have grown just before the bit was gone. */
	if (kvh_space_is_over(space))
		mark_over(spaces, space);
	return false;
}

uint32_t kvh_spaces_next_over(struct kvh_spaces *spaces, uint32_t from)
{
	for (uint32_t i = from; i < KVH_SPACE_LANES;) {
		uint64_t word = __atomic_load_n(&spaces->over[i / 64], __ATOMIC_ACQUIRE) >>
				(i % 64);

		if (word == 0) {
			i = (i / 64 + 1) * 64;
			continue;
		}
		i += (uint32_t)__builtin_ctzll(word);
		if (still_over(spaces, i))
			return i;
		i++;
	}
	return UINT32_MAX;
}

/* ---- limits ------------------------------------------------------------- */

static int check_limits(kvh_space_t id, uint64_t capacity, const struct kvh_l1_limits *limits,
			uint64_t others_pinned)
{

	if (limits->hard_bytes > capacity || limits->soft_bytes > capacity) {
		kvh_err("L1: limits of space %016" PRIx64 " are %" PRIu64 " soft and %" PRIu64
			" hard; L1 has %" PRIu64 " bytes",
			id, limits->soft_bytes, limits->hard_bytes, capacity);
		return -EINVAL;
	}
	if (limits->hard_bytes != 0 && limits->soft_bytes > limits->hard_bytes) {
		kvh_err("L1: space %016" PRIx64 " has a soft limit of %" PRIu64
			", above the hard one of %" PRIu64,
			id, limits->soft_bytes, limits->hard_bytes);
		return -EINVAL;
	}
	if (limits->pinned && limits->hard_bytes == 0) {
		kvh_err("L1: space %016" PRIx64 " cannot be pinned without a hard limit: it "
			"could take all of L1 for ever",
			id);
		return -EINVAL;
	}
	if (limits->pinned && limits->hard_bytes > capacity - others_pinned) {
		kvh_err("L1: pinning space %016" PRIx64 " with %" PRIu64 " bytes: %" PRIu64
			" of %" PRIu64 " are pinned by others",
			id, limits->hard_bytes, others_pinned, capacity);
		return -EINVAL;
	}
	return 0;
}

static int limit_locked(struct kvh_spaces *spaces, kvh_space_t id, uint64_t capacity,
			const struct kvh_l1_limits *limits, uint32_t *number_p)
{
	uint32_t number = add_locked(spaces, id);
	struct kvh_l1_space *space;
	uint64_t others;
	int rc;

	if (number == KVH_SPACE_NONE)
		return -ENOSPC;
	space = &spaces->space[number];
	if (space->lane == 0) {
		kvh_err("L1: space %016" PRIx64 " came after %u others: it cannot be limited",
			id, KVH_SPACE_LANES - 1);
		return -ENOSPC;
	}
	others = spaces->pinned_bytes - (spaces->pinned[space->lane] != 0 ? space->hard : 0);
	rc = check_limits(id, capacity, limits, others);
	if (rc != 0)
		return rc;
	spaces->pinned_bytes = others + (limits->pinned ? limits->hard_bytes : 0);
	__atomic_store_n(&space->soft, limits->soft_bytes != 0 ? limits->soft_bytes : NO_LIMIT,
			 __ATOMIC_RELAXED);
	__atomic_store_n(&space->hard, limits->hard_bytes != 0 ? limits->hard_bytes : NO_LIMIT,
			 __ATOMIC_RELAXED);
	__atomic_store_n(&spaces->pinned[space->lane], limits->pinned, __ATOMIC_RELAXED);
	if (kvh_space_is_over(space))
		mark_over(spaces, space);
	*number_p = number;
	return 0;
}

int kvh_spaces_limit(struct kvh_spaces *spaces, kvh_space_t id, uint64_t capacity,
		     const struct kvh_l1_limits *limits, uint32_t *number_p)
{
	int rc;

	pthread_mutex_lock(&spaces->lock);
	rc = limit_locked(spaces, id, capacity, limits, number_p);
	pthread_mutex_unlock(&spaces->lock);
	return rc;
}
