/* SPDX-License-Identifier: Apache-2.0 */
/*
 * defer.c - chunks of windowed and state groups that wait for the end of their
 * turn: of those only the last of a prompt are ever loaded, and while a prompt
 * grows the last ones change. The controller's thread.
 *
 *    add --> WAITING --flush, or no growth for IDLE_NS--> stored, if still in L1
 *               |  \--the oldest of too many------------> stored
 *               `--its prompt grew beyond the window----> forgotten
 *
 * A chunk's prompt is followed by its parent's hash: a new chunk forgets the one
 * that is a window before it. What waits is known by key alone and holds nothing
 * in L1.
 */
#include "host/clock.h"
#include "host/store_impl.h"

#include <string.h>

#define IDLE_NS     (5 * KVH_NS_PER_S) /* kvhoist.h names it */
#define WAITING_MAX 65536u
#define BUCKETS     4096u
#define WINDOW_MAX  4096u /* steps back */

struct kvh_deferred {
	struct kvh_key key;
	struct kvh_hash parent;
	uint64_t since_ns;
	struct kvh_deferred *chain;
	struct kvh_deferred *prev, *next; /* by age */
};

const size_t kvh_deferred_size = sizeof(struct kvh_deferred);

static struct kvh_deferred **bucket(struct kvh_controller *c, const struct kvh_key *key)
{
	uint64_t h;

	memcpy(&h, key->hash.bytes, sizeof(h));
	h = (h ^ key->space ^ ((uint64_t)key->rank << 20) ^ key->group) *
	    UINT64_C(0x9E3779B97F4A7C15);
	return &c->defer.buckets[h >> 52];
}
_Static_assert(BUCKETS == KVH_DEFER_BUCKETS && BUCKETS == 1u << 12, "the top 12 bits");

static struct kvh_deferred *find(struct kvh_controller *c, const struct kvh_key *key)
{
	struct kvh_deferred *d = *bucket(c, key);

	while (d != NULL && memcmp(&d->key, key, sizeof(*key)) != 0)
		d = d->chain;
	return d;
}

static void age_remove(struct kvh_controller *c, struct kvh_deferred *d)
{
	if (d->prev != NULL)
		d->prev->next = d->next;
	else
		c->defer.oldest = d->next;
	if (d->next != NULL)
		d->next->prev = d->prev;
	else
		c->defer.newest = d->prev;
}

static void age_add(struct kvh_controller *c, struct kvh_deferred *d)
{
	d->since_ns = c->now_ns;
	d->next = NULL;
	d->prev = c->defer.newest;
	if (d->prev != NULL)
		d->prev->next = d;
	else
		c->defer.oldest = d;
	c->defer.newest = d;
}

static void forget(struct kvh_controller *c, struct kvh_deferred *d)
{
	struct kvh_deferred **at = bucket(c, &d->key);

	while (*at != d)
		at = &(*at)->chain;
	*at = d->chain;
	age_remove(c, d);
	c->defer.n--;
	kvh_cells_give(&c->defer.cells, d);
}

/* Its turn has ended. */
static void release(struct kvh_controller *c, struct kvh_deferred *d)
{
	struct kvh_published published = {.heard = KVH_HEARD_TURN_END};
	struct kvh_key key = d->key;

	forget(c, d);
	if (kvh_l1_hold_key(c->opts.l1, &key, &published.frame) != 0) {
		kvh_count(&c->opts.metrics->deferred_lost, 1);
		return;
	}
	kvh_count(&c->opts.metrics->store_waiting, 1);
	kvh_store_heard(c, &published);
}

/* The chunk that lies `window` before the new one of that parent. Those in between
 * are of a prompt that grows: their turn goes on. */
static struct kvh_deferred *outgrown(struct kvh_controller *c,
				     const struct kvh_policy_chunk *chunk)
{
	uint32_t window = chunk->window_chunks > 0 ? chunk->window_chunks : 1;
	struct kvh_key key = *chunk->key;
	static const struct kvh_hash no_parent;
	struct kvh_hash parent = *chunk->parent;
	struct kvh_deferred *d = NULL;

	if (window > WINDOW_MAX)
		return NULL;
	for (uint32_t i = 0; i < window; i++) {
		if (memcmp(&parent, &no_parent, sizeof(parent)) == 0)
			return NULL; /* the first of its prompt */
		key.hash = parent;
		d = find(c, &key);
		if (d == NULL)
			return NULL;
		parent = d->parent;
		age_remove(c, d);
		age_add(c, d);
	}
	return d;
}

void kvh_defer_add(struct kvh_controller *c, const struct kvh_policy_chunk *chunk)
{
	struct kvh_deferred *d = find(c, chunk->key), **head;

	if (d != NULL)
		forget(c, d); /* stored anew: from now on */
	d = outgrown(c, chunk);
	if (d != NULL) {
		kvh_count(&c->opts.metrics->deferred_outgrown, 1);
		forget(c, d);
	}
	if (c->defer.n == WAITING_MAX)
		release(c, c->defer.oldest);
	d = kvh_cells_take(&c->defer.cells);
	if (d == NULL)
		return; /* never stored: it is a cache */
	head = bucket(c, chunk->key);
	*d = (struct kvh_deferred){
		.key = *chunk->key,
		.parent = *chunk->parent,
		.chain = *head,
	};
	*head = d;
	age_add(c, d);
	c->defer.n++;
}

void kvh_defer_release(struct kvh_controller *c)
{
	while (c->defer.oldest != NULL)
		release(c, c->defer.oldest);
}

uint64_t kvh_defer_tick(struct kvh_controller *c, uint64_t now_ns)
{
	while (c->defer.oldest != NULL && c->defer.oldest->since_ns + IDLE_NS <= now_ns)
		release(c, c->defer.oldest);
	return c->defer.oldest != NULL ? c->defer.oldest->since_ns + IDLE_NS : UINT64_MAX;
}
