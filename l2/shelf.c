/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shelf.c - a chained table of items, spaces with their bytes, and an order of
 * eviction a space. The caller locks. The seed keeps chosen prefix hashes from
 * meeting in one bucket.
 */
#include "l2/shelf.h"

#include "host/log.h"
#include "host/root.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#define BUCKETS_FIRST 1024u
#define FRAME_MIN     4096u                /* nothing smaller is stored */
#define ROOT_MAX      (UINT64_C(64) << 20) /* of items that a leak checker looks at */

_Static_assert(sizeof(struct kvh_key) == 32, "keys are hashed and compared as bytes");
_Static_assert(sizeof(struct kvh_shelf_item) == 64, "what shelf.h says of memory");

const char *const kvh_shelf_policies[] = {"lru", "s3-fifo", "arc", NULL};

/* ---- open and close ------------------------------------------------------ */

/* Of the items' memory: their data is malloc'ed by some adapters. */
static size_t root_bytes(const struct kvh_shelf *shelf)
{
	uint64_t bytes = shelf->max * sizeof(*shelf->items);

	return bytes < ROOT_MAX ? bytes : ROOT_MAX;
}

static uint32_t items_max(uint64_t size)
{
	uint64_t n = size / FRAME_MIN + 1; /* and one that is to replace another */

	return size == 0 || n > KVH_SHELF_ITEMS ? KVH_SHELF_ITEMS : (uint32_t)n;
}

int kvh_shelf_open(struct kvh_shelf *shelf, const struct kvh_order_ops *policy, uint64_t size)
{
	int err;

	*shelf = (struct kvh_shelf){.policy = policy,
				    .size = size,
				    .max = items_max(size),
				    .free = KVH_SHELF_NONE,
				    .n_buckets = BUCKETS_FIRST};
	memset(shelf->space_buckets, 0xff, sizeof(shelf->space_buckets));
	/* Without entropy the table is as correct, only easier to attack. */
	if (getrandom(&shelf->seed, sizeof(shelf->seed), GRND_NONBLOCK) < 0)
		shelf->seed = (uint64_t)(uintptr_t)shelf;
	err = kvh_order_items_open(&shelf->order_items, shelf->max);
	if (err != 0)
		return err;
	shelf->items = mmap(NULL, shelf->max * sizeof(*shelf->items), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (shelf->items == MAP_FAILED)
		shelf->items = NULL;
	else
		kvh_root_add(shelf->items, root_bytes(shelf));
	shelf->buckets = malloc(shelf->n_buckets * sizeof(*shelf->buckets));
	if (shelf->items == NULL || shelf->buckets == NULL) {
		kvh_shelf_close(shelf);
		return -ENOMEM;
	}
	memset(shelf->buckets, 0xff, shelf->n_buckets * sizeof(*shelf->buckets));
	return 0;
}

void kvh_shelf_close(struct kvh_shelf *shelf)
{
	for (uint32_t i = 0; i < shelf->n_spaces; i++) {
		kvh_order_close(&shelf->spaces[i]->order);
		free(shelf->spaces[i]);
	}
	free(shelf->spaces);
	free(shelf->buckets);
	if (shelf->items != NULL) {
		kvh_root_remove(shelf->items, root_bytes(shelf));
		(void)munmap(shelf->items, shelf->max * sizeof(*shelf->items));
	}
	kvh_order_items_close(&shelf->order_items);
	shelf->items = NULL;
}

/* ---- spaces -------------------------------------------------------------- */

static uint32_t *space_bucket(struct kvh_shelf *shelf, kvh_space_t id)
{
	return &shelf->space_buckets[((id ^ shelf->seed) * UINT64_C(0x9e3779b97f4a7c15)) >> 56];
}

static uint32_t space_find(const struct kvh_shelf *shelf, kvh_space_t id)
{
	uint32_t i = *space_bucket((struct kvh_shelf *)shelf, id);

	while (i != KVH_SHELF_NONE && shelf->spaces[i]->id != id)
		i = shelf->spaces[i]->chain;
	return i;
}

/* KVH_SHELF_NONE: no memory. */
static uint32_t space_get(struct kvh_shelf *shelf, kvh_space_t id)
{
	uint32_t i = space_find(shelf, id), *bucket = space_bucket(shelf, id);
	struct kvh_shelf_space *space;

	if (i != KVH_SHELF_NONE)
		return i;
	if (shelf->n_spaces == shelf->space_room) {
		uint32_t room = shelf->space_room * 2 + 8;
		struct kvh_shelf_space **more = reallocarray(shelf->spaces, room,
							     sizeof(*more));

		if (more == NULL)
			return KVH_SHELF_NONE;
		shelf->spaces = more;
		shelf->space_room = room;
	}
	space = calloc(1, sizeof(*space));
	if (space == NULL)
		return KVH_SHELF_NONE;
	space->id = id;
	space->chain = *bucket;
	kvh_order_open(&space->order, shelf->policy, &shelf->order_items);
	*bucket = shelf->n_spaces;
	shelf->spaces[shelf->n_spaces] = space;
	return shelf->n_spaces++;
}

static struct kvh_shelf_space *space_of(const struct kvh_shelf *shelf, uint32_t item)
{
	return shelf->spaces[shelf->items[item].space];
}

int kvh_shelf_limits(struct kvh_shelf *shelf, kvh_space_t id, uint64_t soft, uint64_t hard)
{
	uint32_t i;

	if (soft != 0 && hard != 0 && soft > hard) {
		kvh_err("space %016llx: a soft limit of %llu bytes is above the hard one of "
			"%llu",
			(unsigned long long)id, (unsigned long long)soft,
			(unsigned long long)hard);
		return -EINVAL;
	}
	i = space_get(shelf, id);
	if (i == KVH_SHELF_NONE)
		return -ENOMEM;
	shelf->spaces[i]->soft = soft;
	shelf->spaces[i]->hard = hard;
	return 0;
}

/* ---- items --------------------------------------------------------------- */

static uint64_t hash(const struct kvh_shelf *shelf, const struct kvh_key *key)
{
	uint64_t words[4], h = shelf->seed;

	memcpy(words, key, sizeof(words));
	for (int i = 0; i < 4; i++) {
		h = (h ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
		h ^= h >> 32;
	}
	return h;
}

static uint32_t *bucket_of(const struct kvh_shelf *shelf, const struct kvh_key *key)
{
	return &shelf->buckets[hash(shelf, key) & (shelf->n_buckets - 1)];
}

uint32_t kvh_shelf_find(const struct kvh_shelf *shelf, const struct kvh_key *key)
{
	uint32_t i = *bucket_of(shelf, key);

	while (i != KVH_SHELF_NONE && memcmp(&shelf->items[i].key, key, sizeof(*key)) != 0)
		i = shelf->items[i].chain;
	return i;
}

static void chain_push(struct kvh_shelf *shelf, uint32_t item)
{
	uint32_t *bucket = bucket_of(shelf, &shelf->items[item].key);

	shelf->items[item].chain = *bucket;
	*bucket = item;
}

/* Without memory the chains get longer. */
static void grow(struct kvh_shelf *shelf)
{
	uint32_t n = shelf->n_buckets * 2;
	uint32_t *buckets = malloc(n * sizeof(*buckets));

	if (buckets == NULL)
		return;
	memset(buckets, 0xff, n * sizeof(*buckets));
	free(shelf->buckets);
	shelf->buckets = buckets;
	shelf->n_buckets = n;
	for (uint32_t i = 0; i < shelf->n_ever; i++) {
		if (shelf->items[i].state != KVH_SHELF_FREE)
			chain_push(shelf, i);
	}
}

static uint32_t item_take(struct kvh_shelf *shelf)
{
	uint32_t item = shelf->free;

	if (item != KVH_SHELF_NONE) {
		shelf->free = shelf->items[item].chain;
		return item;
	}
	return shelf->n_ever < shelf->max ? shelf->n_ever++ : KVH_SHELF_NONE;
}

uint32_t kvh_shelf_add(struct kvh_shelf *shelf, const struct kvh_key *key)
{
	uint32_t space = space_get(shelf, key->space), item;

	assert(kvh_shelf_find(shelf, key) == KVH_SHELF_NONE);
	if (space == KVH_SHELF_NONE)
		return KVH_SHELF_NONE;
	if (shelf->n_items >= shelf->n_buckets)
		grow(shelf);
	item = item_take(shelf);
	if (item == KVH_SHELF_NONE)
		return KVH_SHELF_NONE;
	shelf->items[item] = (struct kvh_shelf_item){
		.key = *key, .space = space, .state = KVH_SHELF_HELD};
	chain_push(shelf, item);
	shelf->n_items++;
	return item;
}

void kvh_shelf_hold(struct kvh_shelf *shelf, uint32_t item)
{
	assert(shelf->items[item].state == KVH_SHELF_LISTED);
	shelf->items[item].state = KVH_SHELF_HELD;
	kvh_order_remove(&space_of(shelf, item)->order, item);
}

void kvh_shelf_list(struct kvh_shelf *shelf, uint32_t item)
{
	struct kvh_shelf_item *at = &shelf->items[item];
	struct kvh_evict_order *order = &space_of(shelf, item)->order;

	assert(at->state == KVH_SHELF_HELD && at->len > 0);
	at->state = KVH_SHELF_LISTED;
	if (at->ordered)
		kvh_order_restore(order, item, ++shelf->clock, true);
	else
		kvh_order_insert(order, item, hash(shelf, &at->key), KVH_ORDER_NEWEST,
				 ++shelf->clock);
	at->ordered = true;
}

void kvh_shelf_use(struct kvh_shelf *shelf, uint32_t item)
{
	assert(shelf->items[item].state == KVH_SHELF_LISTED);
	kvh_order_use(&space_of(shelf, item)->order, item, KVH_ORDER_NEWEST, ++shelf->clock);
}

void kvh_shelf_set_len(struct kvh_shelf *shelf, uint32_t item, uint64_t len)
{
	struct kvh_shelf_item *at = &shelf->items[item];
	struct kvh_shelf_space *space = space_of(shelf, item);
	uint64_t more = (uint64_t)(len > 0) - (uint64_t)(at->len > 0); /* -1, 0, 1 */

	space->used += len - at->len;
	shelf->used += len - at->len;
	space->objects += more;
	shelf->objects += more;
	at->len = len;
}

void kvh_shelf_evicted(struct kvh_shelf *shelf, uint32_t item)
{
	struct kvh_shelf_space *space = space_of(shelf, item);

	assert(shelf->items[item].state == KVH_SHELF_HELD);
	kvh_shelf_set_len(shelf, item, 0);
	space->evicted++;
	shelf->evicted++;
	if (shelf->items[item].ordered)
		kvh_order_evicted(&space->order, item, hash(shelf, &shelf->items[item].key));
	shelf->items[item].ordered = false;
}

void kvh_shelf_remove(struct kvh_shelf *shelf, uint32_t item)
{
	struct kvh_shelf_item *at = &shelf->items[item];
	uint32_t *p = bucket_of(shelf, &at->key);

	assert(at->state == KVH_SHELF_HELD && at->len == 0);
	while (*p != item) {
		assert(*p != KVH_SHELF_NONE);
		p = &shelf->items[*p].chain;
	}
	*p = at->chain;
	at->state = KVH_SHELF_FREE;
	at->chain = shelf->free;
	shelf->free = item;
	shelf->n_items--;
}

uint32_t kvh_shelf_next(const struct kvh_shelf *shelf, uint32_t item)
{
	while (item < shelf->n_ever && shelf->items[item].state == KVH_SHELF_FREE)
		item++;
	return item < shelf->n_ever ? item : KVH_SHELF_NONE;
}

/* ---- room ---------------------------------------------------------------- */

/* Its next victim; KVH_SHELF_NONE: nothing of it is LISTED. */
static uint32_t space_victim(struct kvh_shelf_space *space)
{
	uint32_t item;

	return kvh_order_victims(&space->order, &item, 1) == 1 ? item : KVH_SHELF_NONE;
}

static uint64_t beyond(uint64_t bytes, uint64_t limit)
{
	return limit != 0 && bytes > limit ? bytes - limit : 0;
}

/* The one furthest beyond its soft limit; else the one whose next has been unused
 * for longest. NULL: nothing is LISTED. */
static struct kvh_shelf_space *space_to_shrink(const struct kvh_shelf *shelf)
{
	struct kvh_shelf_space *best = NULL;
	uint64_t most = 0;
	uint32_t stamp = 0, at;

	for (uint32_t i = 0; i < shelf->n_spaces; i++) {
		struct kvh_shelf_space *space = shelf->spaces[i];
		uint64_t excess = beyond(space->used + space->reserved, space->soft);

		if (kvh_order_count(&space->order) == 0 || !kvh_order_next(&space->order, &at))
			continue;
		if (best == NULL || excess > most ||
		    (excess == most && (int32_t)(at - stamp) < 0)) {
			best = space;
			most = excess;
			stamp = at;
		}
	}
	return best;
}

static uint32_t shelf_victim(const struct kvh_shelf *shelf)
{
	struct kvh_shelf_space *space = space_to_shrink(shelf);

	return space != NULL ? space_victim(space) : KVH_SHELF_NONE;
}

int kvh_shelf_room(struct kvh_shelf *shelf, uint32_t item, uint64_t len, uint32_t *victim_p)
{
	struct kvh_shelf_space *space = space_of(shelf, item);
	uint32_t victim;

	if (space->hard != 0 && len > space->hard)
		return -EDQUOT;
	if (beyond(space->used + space->reserved + len, space->hard) > 0) {
		victim = space_victim(space);
		if (victim == KVH_SHELF_NONE)
			return -EDQUOT;
	} else if (beyond(shelf->used + shelf->reserved + len, shelf->size) > 0) {
		victim = shelf_victim(shelf);
		if (victim == KVH_SHELF_NONE)
			return -ENOSPC;
	} else {
		return 0;
	}
	*victim_p = victim;
	return 1;
}

void kvh_shelf_reserve(struct kvh_shelf *shelf, uint32_t item, uint64_t len)
{
	space_of(shelf, item)->reserved += len;
	shelf->reserved += len;
}

void kvh_shelf_unreserve(struct kvh_shelf *shelf, uint32_t item, uint64_t len)
{
	struct kvh_shelf_space *space = space_of(shelf, item);

	assert(space->reserved >= len && shelf->reserved >= len);
	space->reserved -= len;
	shelf->reserved -= len;
}

uint32_t kvh_shelf_excess(struct kvh_shelf *shelf)
{
	return beyond(shelf->used + shelf->reserved, shelf->size) > 0 ? shelf_victim(shelf)
								      : KVH_SHELF_NONE;
}

/* ---- questions ----------------------------------------------------------- */

void kvh_shelf_usage(const struct kvh_shelf *shelf, struct kvh_l2_usage *usage)
{
	*usage = (struct kvh_l2_usage){
		.used_bytes = shelf->used + shelf->reserved,
		.capacity_bytes = shelf->size,
		.objects = shelf->objects,
		.evicted = shelf->evicted,
	};
}

void kvh_shelf_usage_space(const struct kvh_shelf *shelf, kvh_space_t id,
			   struct kvh_l2_usage *usage)
{
	uint32_t i = space_find(shelf, id);

	*usage = (struct kvh_l2_usage){0};
	if (i == KVH_SHELF_NONE)
		return;
	*usage = (struct kvh_l2_usage){
		.used_bytes = shelf->spaces[i]->used + shelf->spaces[i]->reserved,
		.capacity_bytes = shelf->spaces[i]->hard,
		.objects = shelf->spaces[i]->objects,
		.evicted = shelf->spaces[i]->evicted,
	};
}

bool kvh_shelf_check(const struct kvh_shelf *shelf)
{
	uint64_t used = 0, objects = 0, reserved = 0, by_space = 0, listed = 0, in_order = 0;
	uint32_t n = 0;

	for (uint32_t i = kvh_shelf_next(shelf, 0); i != KVH_SHELF_NONE;
	     i = kvh_shelf_next(shelf, i + 1)) {
		n++;
		used += shelf->items[i].len;
		objects += shelf->items[i].len > 0;
		listed += shelf->items[i].state == KVH_SHELF_LISTED;
		if (kvh_shelf_find(shelf, &shelf->items[i].key) != i)
			return false;
	}
	for (uint32_t i = 0; i < shelf->n_spaces; i++) {
		by_space += shelf->spaces[i]->used;
		reserved += shelf->spaces[i]->reserved;
		in_order += kvh_order_count(&shelf->spaces[i]->order);
		if (!kvh_order_check(&shelf->spaces[i]->order))
			return false;
	}
	return n == shelf->n_items && used == shelf->used && by_space == used &&
	       objects == shelf->objects && reserved == shelf->reserved && listed == in_order;
}
