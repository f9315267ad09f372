/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_space.c - a hash table of spaces that only ever grows. One thread.
 */
#include "l2/nvme_space.h"

#include <stdlib.h>

#define BUCKETS_MIN 16u

/* An id is a piece of a SHA-256: any bits of it will do. */
static struct kvh_nvme_space **bucket_of(const struct kvh_nvme_spaces *spaces, kvh_space_t id)
{
	return &spaces->buckets[(id ^ id >> 32) & (spaces->n_buckets - 1)];
}

/* Without memory the chains get longer, but the first needs some. */
static void grow(struct kvh_nvme_spaces *spaces)
{
	uint32_t n = spaces->n_buckets == 0 ? BUCKETS_MIN : 2 * spaces->n_buckets;
	struct kvh_nvme_spaces larger = {.n_buckets = n, .n = spaces->n};

	larger.buckets = calloc(n, sizeof(struct kvh_nvme_space *));
	if (larger.buckets == NULL)
		return;
	for (uint32_t i = 0; i < spaces->n_buckets; i++) {
		struct kvh_nvme_space *space = spaces->buckets[i], *next;

		for (; space != NULL; space = next) {
			struct kvh_nvme_space **bucket = bucket_of(&larger, space->id);

			next = space->chain;
			space->chain = *bucket;
			*bucket = space;
		}
	}
	free(spaces->buckets);
	*spaces = larger;
}

void kvh_nvme_spaces_fini(struct kvh_nvme_spaces *spaces)
{
	for (uint32_t i = 0; i < spaces->n_buckets; i++) {
		struct kvh_nvme_space *space = spaces->buckets[i], *next;

		for (; space != NULL; space = next) {
			next = space->chain;
			free(space);
		}
	}
	free(spaces->buckets);
}

struct kvh_nvme_space *kvh_nvme_space_find(const struct kvh_nvme_spaces *spaces, kvh_space_t id)
{
	struct kvh_nvme_space *space = NULL;

	if (spaces->n_buckets != 0)
		space = *bucket_of(spaces, id);
	while (space != NULL && space->id != id)
		space = space->chain;
	return space;
}

struct kvh_nvme_space *kvh_nvme_space_get(struct kvh_nvme_spaces *spaces, kvh_space_t id)
{
	struct kvh_nvme_space *space = kvh_nvme_space_find(spaces, id);
	struct kvh_nvme_space **bucket;

	if (space != NULL)
		return space;
	if (spaces->n >= spaces->n_buckets)
		grow(spaces);
	space = spaces->n_buckets != 0 ? calloc(1, sizeof(*space)) : NULL;
	if (space == NULL)
		return NULL;
	bucket = bucket_of(spaces, id);
	space->id = id;
	space->chain = *bucket;
	*bucket = space;
	spaces->n++;
	return space;
}
