/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order_ghost.c - identities of what was evicted, oldest first, found by a table
 * that grows with them: linear hashing, so that each new ghost splits one bucket
 * and none waits for a rehash of all. The caller locks.
 */
#include "host/order.h"

#include <assert.h>
#include <stdlib.h>

#define NONE       KVH_ORDER_NONE
#define ROOM_FIRST 64u

void kvh_ghosts_open(struct kvh_ghosts *ghosts)
{
	*ghosts = (struct kvh_ghosts){.unused = NONE, .newest = NONE, .oldest = NONE};
}

void kvh_ghosts_close(struct kvh_ghosts *ghosts)
{
	free(ghosts->at);
	kvh_ghosts_open(ghosts);
}

/* Of twice as many buckets, those below n_buckets are there; what belongs to one
 * that is not is still with the one that it will be split from. */
static uint32_t bucket_of(uint64_t id, uint32_t n_buckets)
{
	uint64_t hash = (id ^ id >> 32) * UINT64_C(0x9E3779B97F4A7C15);
	uint32_t mask = n_buckets > 1 ? UINT32_MAX >> __builtin_clz(n_buckets - 1) : 0;
	uint32_t bucket = (uint32_t)(hash >> 32) & mask;

	return bucket < n_buckets ? bucket : bucket & mask >> 1;
}

/* Gives the last bucket what belongs to it by now. */
static void split(struct kvh_ghosts *ghosts)
{
	uint32_t last = ghosts->n_buckets - 1;
	uint32_t half = UINT32_MAX >> __builtin_clz(last) >> 1;
	uint32_t *from = &ghosts->at[last & half].head;

	while (*from != NONE) {
		struct kvh_ghost *ghost = &ghosts->at[*from];
		uint32_t number = *from;

		if (bucket_of(ghost->id, ghosts->n_buckets) != last) {
			from = &ghost->chain;
			continue;
		}
		*from = ghost->chain;
		ghost->chain = ghosts->at[last].head;
		ghosts->at[last].head = number;
	}
}

static uint32_t ghost_new(struct kvh_ghosts *ghosts)
{
	uint32_t number = ghosts->unused;

	if (number != NONE) {
		ghosts->unused = ghosts->at[number].older;
		return number;
	}
	if (ghosts->n_buckets == ghosts->room) {
		uint32_t room = ghosts->room > 0 ? ghosts->room + ghosts->room / 2 : ROOM_FIRST;
		struct kvh_ghost *at = realloc(ghosts->at, room * sizeof(*at));

		if (at == NULL)
			return NONE;
		ghosts->at = at;
		ghosts->room = room;
	}
	number = ghosts->n_buckets++;
	ghosts->at[number].head = NONE;
	if (number > 0)
		split(ghosts);
	return number;
}

void kvh_ghosts_add(struct kvh_ghosts *ghosts, uint64_t id)
{
	uint32_t number = ghost_new(ghosts);
	struct kvh_ghost *ghost;
	uint32_t *head;

	if (number == NONE)
		return;
	ghost = &ghosts->at[number];
	head = &ghosts->at[bucket_of(id, ghosts->n_buckets)].head;
	ghost->id = id;
	ghost->chain = *head;
	*head = number;
	ghost->newer = NONE;
	ghost->older = ghosts->newest;
	if (ghosts->newest != NONE)
		ghosts->at[ghosts->newest].newer = number;
	else
		ghosts->oldest = number;
	ghosts->newest = number;
	ghosts->n++;
}

static void ghost_end(struct kvh_ghosts *ghosts, uint32_t *in_chain)
{
	uint32_t number = *in_chain;
	struct kvh_ghost *ghost = &ghosts->at[number];

	*in_chain = ghost->chain;
	if (ghost->newer != NONE)
		ghosts->at[ghost->newer].older = ghost->older;
	else
		ghosts->newest = ghost->older;
	if (ghost->older != NONE)
		ghosts->at[ghost->older].newer = ghost->newer;
	else
		ghosts->oldest = ghost->newer;
	ghost->older = ghosts->unused;
	ghosts->unused = number;
	ghosts->n--;
}

bool kvh_ghosts_take(struct kvh_ghosts *ghosts, uint64_t id)
{
	uint32_t *at;

	if (ghosts->n == 0)
		return false;
	at = &ghosts->at[bucket_of(id, ghosts->n_buckets)].head;
	while (*at != NONE && ghosts->at[*at].id != id)
		at = &ghosts->at[*at].chain;
	if (*at == NONE)
		return false;
	ghost_end(ghosts, at);
	return true;
}

void kvh_ghosts_drop_oldest(struct kvh_ghosts *ghosts)
{
	bool was_there = ghosts->n > 0 &&
			 kvh_ghosts_take(ghosts, ghosts->at[ghosts->oldest].id);

	assert(was_there);
	(void)was_there;
}
