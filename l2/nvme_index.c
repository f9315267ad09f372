/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_index.c - slots: which key lies in which, and their life. Segments and
 * classes are in nvme_segment.c. One thread, but for peek.
 *
 *   objects    == slots LIVE == keys in the table
 *   used_bytes == slot_bytes of the slots in use: busy or LIVE
 *   of a segment: busy == pins + slots WRITING, DOOMED, WIPING; live == LIVE
 *   of a pool: members == slots LIVE and WRITING; of a space, in all stripes:
 *   used_bytes == slot_bytes of its members, objects == LIVE
 */
#include "l2/nvme_index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BUCKETS_MIN 1024u
#define PEEK_BATCH  64u /* keys for which the lock is held at once */

_Static_assert(sizeof(struct kvh_nvme_slot) + sizeof(struct kvh_order_link) + 8 <= 60,
	       "memory beside a frame: at most 64 with the extent");

/* ---- the table ---- */

static uint64_t mix(uint64_t h)
{
	h ^= h >> 32;
	h *= UINT64_C(0x9e3779b97f4a7c15);
	return h ^ h >> 29;
}

static bool has_key(const struct kvh_nvme_index *index, const struct kvh_nvme_slot *slot,
		    const struct kvh_key *key)
{
	return memcmp(&slot->hash, &key->hash, sizeof(key->hash)) == 0 &&
	       slot->rank == key->rank && slot->group == key->group &&
	       index->pools[slot->pool].space->id == key->space;
}

bool kvh_nvme_slot_resembles(const struct kvh_nvme_index *index, uint32_t id,
			     const struct kvh_key *key)
{
	const struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);

	return memcmp(&slot->hash, &key->hash, sizeof(key->hash)) == 0 &&
	       slot->rank == key->rank && slot->group == key->group;
}

struct kvh_key kvh_nvme_slot_key(const struct kvh_nvme_index *index, uint32_t id)
{
	const struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);

	return (struct kvh_key){
		.hash = slot->hash,
		.space = index->pools[slot->pool].space->id,
		.rank = slot->rank,
		.group = slot->group,
	};
}

static uint32_t *bucket_of(const struct kvh_nvme_index *index, const struct kvh_key *key)
{
	uint64_t w[4], h = index->seed;

	memcpy(w, key, sizeof(w));
	for (unsigned i = 0; i < 4; i++)
		h = mix(h ^ w[i]);
	return &index->buckets[h & (index->n_buckets - 1)];
}

uint32_t kvh_nvme_index_find(const struct kvh_nvme_index *index, const struct kvh_key *key)
{
	uint32_t id = *bucket_of(index, key);

	while (id != KVH_NVME_NONE) {
		const struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);

		if (has_key(index, slot, key))
			break;
		id = slot->chain;
	}
	return id;
}

void kvh_nvme_index_peek(struct kvh_nvme_index *index, const struct kvh_key *keys, uint32_t n,
			 uint8_t *found)
{
	for (uint32_t i = 0; i < n;) {
		uint32_t end = n - i > PEEK_BATCH ? i + PEEK_BATCH : n;

		pthread_mutex_lock(&index->lock);
		for (; i < end; i++)
			found[i] = kvh_nvme_index_find(index, &keys[i]) != KVH_NVME_NONE;
		pthread_mutex_unlock(&index->lock);
	}
}

static uint32_t *buckets_new(uint32_t n)
{
	uint32_t *buckets = malloc(n * sizeof(*buckets));

	if (buckets != NULL)
		memset(buckets, 0xff, n * sizeof(*buckets)); /* KVH_NVME_NONE */
	return buckets;
}

/* Without memory the chains get longer. */
static void table_grow(struct kvh_nvme_index *index)
{
	uint32_t n = index->n_buckets, *old = index->buckets;
	uint32_t *buckets = buckets_new(2 * n);

	if (buckets == NULL)
		return;
	index->buckets = buckets;
	index->n_buckets = 2 * n;
	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t id = old[i], next; id != KVH_NVME_NONE; id = next) {
			struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);
			struct kvh_key key = kvh_nvme_slot_key(index, id);
			uint32_t *bucket = bucket_of(index, &key);

			next = slot->chain;
			slot->chain = *bucket;
			*bucket = id;
		}
	}
	free(old);
}

static void table_insert(struct kvh_nvme_index *index, uint32_t id, const struct kvh_key *key)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);
	uint32_t *bucket;

	pthread_mutex_lock(&index->lock);
	if (index->objects >= index->n_buckets && index->n_buckets < UINT32_C(1) << 31)
		table_grow(index);
	slot->hash = key->hash;
	slot->rank = key->rank;
	slot->group = key->group;
	bucket = bucket_of(index, key);
	slot->chain = *bucket;
	*bucket = id;
	pthread_mutex_unlock(&index->lock);
}

static void table_remove(struct kvh_nvme_index *index, uint32_t id)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);
	struct kvh_key key = kvh_nvme_slot_key(index, id);
	uint32_t *link = bucket_of(index, &key);

	pthread_mutex_lock(&index->lock);
	while (*link != id)
		link = &kvh_nvme_slot_at(index, *link)->chain;
	*link = slot->chain;
	pthread_mutex_unlock(&index->lock);
}

/* ---- the one setter ---- */

#define TO(s) (1u << KVH_NVME_##s)
static const uint8_t slot_next[KVH_NVME_STATES] = {
	[KVH_NVME_GONE] = TO(FREE),
	[KVH_NVME_FREE] = TO(WRITING) | TO(BAD) | TO(GONE),
	[KVH_NVME_WRITING] = TO(LIVE) | TO(WIPING),
	[KVH_NVME_LIVE] = TO(DOOMED) | TO(WRITING) | TO(GONE),
	[KVH_NVME_DOOMED] = TO(WIPING),
	[KVH_NVME_WIPING] = TO(FREE) | TO(BAD),
	[KVH_NVME_BAD] = TO(DOOMED) | TO(WRITING) | TO(GONE),
};
#define IS(state, set) (((1u << (state)) & (set)) != 0)
#define BUSY           (TO(WRITING) | TO(DOOMED) | TO(WIPING))
#define USED           (BUSY | TO(LIVE))

/* The list of ours that slots of a state are in; NULL: none. */
static struct kvh_order_list *list_of(struct kvh_nvme_class *class, uint8_t state)
{
	if (state == KVH_NVME_FREE)
		return &class->free;
	return state == KVH_NVME_BAD ? &class->failed : NULL;
}

static void relist(struct kvh_nvme_index *index, uint32_t id, struct kvh_nvme_class *class,
		   uint8_t to)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);
	struct kvh_order_list *list = list_of(class, slot->state);

	if (list != NULL)
		kvh_order_list_take(&index->items, list, id);
	else if (slot->state == KVH_NVME_LIVE && slot->pins == 0)
		kvh_order_remove(&index->pools[slot->pool].order, id);
	list = list_of(class, to);
	if (list != NULL)
		kvh_order_list_put(&index->items, list, id, KVH_ORDER_NEWEST);
}

static void slot_move(struct kvh_nvme_index *index, uint32_t id, enum kvh_nvme_slot_state to)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);
	struct kvh_nvme_segment *segment =
		&index->segments[kvh_nvme_extent_of(index, id)->segment];
	struct kvh_nvme_class *class = &index->classes[segment->class];

	assert(slot_next[slot->state] & (1u << to));
	assert(slot->pins == 0 || IS(to, TO(LIVE) | TO(DOOMED)));
	relist(index, id, class, (uint8_t)to);
	segment->busy += (uint32_t)IS(to, BUSY) - (uint32_t)IS(slot->state, BUSY);
	segment->live += (uint32_t)IS(to, TO(LIVE)) - (uint32_t)IS(slot->state, TO(LIVE));
	class->live += (uint32_t)IS(to, TO(LIVE)) - (uint32_t)IS(slot->state, TO(LIVE));
	index->objects += (uint64_t)IS(to, TO(LIVE)) - (uint64_t)IS(slot->state, TO(LIVE));
	if (IS(to, USED) && !IS(slot->state, USED))
		index->used_bytes += class->slot_bytes;
	if (!IS(to, USED) && IS(slot->state, USED))
		index->used_bytes -= class->slot_bytes;
	slot->state = (uint8_t)to;
	if (segment->live == 0 && segment->busy == 0)
		index->room++;
}

/* ---- the life of a slot ---- */

static const struct kvh_nvme_segment *segment_of(const struct kvh_nvme_index *index,
						 uint32_t id)
{
	return &index->segments[kvh_nvme_extent_of(index, id)->segment];
}

uint64_t kvh_nvme_slot_bytes(const struct kvh_nvme_index *index, uint32_t id)
{
	return index->classes[segment_of(index, id)->class].slot_bytes;
}

uint64_t kvh_nvme_slot_offset(const struct kvh_nvme_index *index, uint32_t id)
{
	const struct kvh_nvme_extent *extent = kvh_nvme_extent_of(index, id);

	return kvh_nvme_segment_offset(index->super, extent->segment) +
	       (extent->first + id % KVH_NVME_EXTENT_SLOTS) * kvh_nvme_slot_bytes(index, id);
}

static uint32_t next_tick(struct kvh_nvme_index *index, uint32_t id)
{
	index->segments[kvh_nvme_extent_of(index, id)->segment].last_use = ++index->tick;
	return index->tick;
}

/* The same if the key comes again. */
static uint64_t identity(const struct kvh_nvme_slot *slot)
{
	uint64_t w[2];

	memcpy(w, &slot->hash, sizeof(w));
	return mix(mix(w[0] ^ slot->rank) ^ w[1] ^ (uint64_t)slot->group << 32);
}

/* ---- members of pools ---- */

static void join(struct kvh_nvme_index *index, uint32_t id, uint32_t pool)
{
	kvh_nvme_slot_at(index, id)->pool = pool;
	index->pools[pool].members++;
	index->pools[pool].space->used_bytes += kvh_nvme_slot_bytes(index, id);
}

static void leave(struct kvh_nvme_index *index, uint32_t id)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);
	struct kvh_nvme_pool *pool = &index->pools[slot->pool];

	assert(pool->members > 0);
	pool->members--;
	pool->space->used_bytes -= kvh_nvme_slot_bytes(index, id);
	slot->pool = KVH_NVME_NONE;
}

/* LIVE: it cannot be found any more. */
static void forget_key(struct kvh_nvme_index *index, uint32_t id)
{
	table_remove(index, id);
	index->pools[kvh_nvme_slot_at(index, id)->pool].space->objects--;
}

/* LIVE, not read: leaves its order as one that gave way. */
static void evict(struct kvh_nvme_index *index, uint32_t id, enum kvh_nvme_slot_state to)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);
	struct kvh_nvme_pool *pool = &index->pools[slot->pool];

	assert(slot->pins == 0);
	pool->space->evicted++;
	index->evicted++;
	forget_key(index, id);
	slot_move(index, id, to);
	kvh_order_evicted(&pool->order, id, identity(slot));
	leave(index, id);
}

/* ---- transitions ---- */

uint32_t kvh_nvme_slot_take(struct kvh_nvme_index *index, uint32_t pool)
{
	uint32_t id = index->classes[index->pools[pool].class].free.oldest;

	if (id != KVH_NVME_NONE)
		kvh_nvme_slot_claim(index, id, pool);
	return id;
}

void kvh_nvme_slot_claim(struct kvh_nvme_index *index, uint32_t id, uint32_t pool)
{
	slot_move(index, id, KVH_NVME_WRITING);
	join(index, id, pool);
}

void kvh_nvme_slot_evict(struct kvh_nvme_index *index, uint32_t id, uint32_t pool)
{
	evict(index, id, KVH_NVME_WRITING);
	join(index, id, pool);
}

void kvh_nvme_slot_drop(struct kvh_nvme_index *index, uint32_t id)
{
	evict(index, id, KVH_NVME_DOOMED);
}

uint32_t kvh_nvme_slot_publish(struct kvh_nvme_index *index, uint32_t id,
			       const struct kvh_key *key, uint32_t tag)
{
	uint32_t before = kvh_nvme_index_find(index, key);
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);
	struct kvh_nvme_pool *pool = &index->pools[slot->pool];

	if (before != KVH_NVME_NONE)
		kvh_nvme_slot_doom(index, before);
	slot->tag = tag;
	table_insert(index, id, key);
	slot_move(index, id, KVH_NVME_LIVE);
	kvh_order_insert(&pool->order, id, identity(slot), KVH_ORDER_NEWEST,
			 next_tick(index, id));
	pool->space->objects++;
	return before;
}

void kvh_nvme_slot_doom(struct kvh_nvme_index *index, uint32_t id)
{
	forget_key(index, id);
	slot_move(index, id, KVH_NVME_DOOMED);
	leave(index, id);
}

void kvh_nvme_slot_wipe(struct kvh_nvme_index *index, uint32_t id)
{
	bool writing = kvh_nvme_slot_at(index, id)->state == KVH_NVME_WRITING;

	slot_move(index, id, KVH_NVME_WIPING);
	if (writing)
		leave(index, id);
}

static void forget_old(struct kvh_nvme_slot *slot)
{
	memset(&slot->hash, 0, sizeof(slot->hash));
	slot->rank = slot->group = 0;
}

void kvh_nvme_slot_set_aside(struct kvh_nvme_index *index, uint32_t id)
{
	forget_old(kvh_nvme_slot_at(index, id));
	slot_move(index, id, KVH_NVME_BAD);
}

void kvh_nvme_slot_wiped(struct kvh_nvme_index *index, uint32_t id, bool ok)
{
	if (ok)
		forget_old(kvh_nvme_slot_at(index, id));
	slot_move(index, id, ok ? KVH_NVME_FREE : KVH_NVME_BAD);
}

void kvh_nvme_slot_bad(struct kvh_nvme_index *index, uint32_t id)
{
	slot_move(index, id, KVH_NVME_BAD);
}

void kvh_nvme_slot_open(struct kvh_nvme_index *index, uint32_t id)
{
	slot_move(index, id, KVH_NVME_FREE);
}

void kvh_nvme_slot_forget(struct kvh_nvme_index *index, uint32_t id)
{
	if (kvh_nvme_slot_at(index, id)->state == KVH_NVME_LIVE)
		evict(index, id, KVH_NVME_GONE);
	else
		slot_move(index, id, KVH_NVME_GONE);
}

void kvh_nvme_slot_doom_again(struct kvh_nvme_index *index, uint32_t id)
{
	slot_move(index, id, KVH_NVME_DOOMED);
}

uint32_t kvh_nvme_slot_retry(struct kvh_nvme_index *index, uint32_t pool)
{
	uint32_t id = index->classes[index->pools[pool].class].failed.oldest;

	if (id != KVH_NVME_NONE)
		kvh_nvme_slot_claim(index, id, pool);
	return id;
}

uint32_t kvh_nvme_index_bad(const struct kvh_nvme_index *index)
{
	uint32_t bad = 0;

	for (uint32_t i = 0; i < index->n_classes; i++)
		bad += index->classes[i].failed.n;
	return bad;
}

void kvh_nvme_index_retry(struct kvh_nvme_index *index)
{
	for (uint32_t i = 0; i < index->super->segments; i++)
		index->segments[i].failed = false;
	index->room++;
}

void kvh_nvme_slot_pin(struct kvh_nvme_index *index, uint32_t id)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);
	struct kvh_evict_order *order = &index->pools[slot->pool].order;

	assert(slot->state == KVH_NVME_LIVE && slot->pins < UINT16_MAX);
	if (slot->pins > 0) {
		kvh_order_note(order, id);
	} else {
		kvh_order_use(order, id, KVH_ORDER_NEWEST, next_tick(index, id));
		kvh_order_remove(order, id);
	}
	slot->pins++;
	index->segments[kvh_nvme_extent_of(index, id)->segment].busy++;
}

void kvh_nvme_slot_unpin(struct kvh_nvme_index *index, uint32_t id)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);

	assert(slot->pins > 0);
	slot->pins--;
	index->segments[kvh_nvme_extent_of(index, id)->segment].busy--;
	if (slot->pins == 0 && slot->state == KVH_NVME_LIVE)
		kvh_order_restore(&index->pools[slot->pool].order, id, next_tick(index, id),
				  true);
}

/* ---- all of it ---- */

/* Slot numbers that there can be: of the smallest slots, and a part of an extent
 * in each segment. */
static uint32_t items_max(const struct kvh_nvme_super *super)
{
	uint64_t max = (super->bytes - super->data_offset) / KVH_NVME_PAGE +
		       (uint64_t)super->segments * KVH_NVME_EXTENT_SLOTS;

	return max < KVH_NVME_NONE ? (uint32_t)max : KVH_NVME_NONE - 1;
}

int kvh_nvme_index_init(struct kvh_nvme_index *index, const struct kvh_nvme_super *super,
			struct kvh_nvme_spaces *spaces, const struct kvh_order_ops *policy)
{
	*index = (struct kvh_nvme_index){
		.super = super,
		.spaces = spaces,
		.policy = policy,
		.n_buckets = BUCKETS_MIN,
		.room = 1,
	};
	pthread_mutex_init(&index->lock, NULL);
	index->segments = calloc(super->segments, sizeof(*index->segments));
	index->classes = calloc(super->segments + 1u, sizeof(*index->classes));
	index->buckets = buckets_new(index->n_buckets);
	if (index->segments == NULL || index->classes == NULL || index->buckets == NULL ||
	    getrandom(&index->seed, sizeof(index->seed), 0) < 0 ||
	    kvh_order_items_open(&index->items, items_max(super)) < 0) {
		kvh_nvme_index_fini(index);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < super->segments; i++) {
		index->segments[i].class = KVH_NVME_NONE;
		index->segments[i].extents = KVH_NVME_NONE;
	}
	return 0;
}

void kvh_nvme_index_fini(struct kvh_nvme_index *index)
{
	for (uint32_t i = 0; i < index->n_extents; i++)
		free(index->extents[i]);
	for (uint32_t i = 0; i < index->n_pools; i++)
		kvh_order_close(&index->pools[i].order);
	kvh_order_items_close(&index->items);
	free(index->extents);
	free(index->pools);
	free(index->buckets);
	free(index->classes);
	free(index->segments);
	pthread_mutex_destroy(&index->lock);
	/* A reset that failed has ended it already: again, it does nothing. */
	*index = (struct kvh_nvme_index){.lock = PTHREAD_MUTEX_INITIALIZER};
}

int kvh_nvme_index_reset(struct kvh_nvme_index *index)
{
	const struct kvh_nvme_index old = *index;

	for (uint32_t i = 0; i < index->n_pools; i++) {
		struct kvh_nvme_pool *pool = &index->pools[i];

		pool->space->objects -= kvh_order_count(&pool->order);
		pool->space->used_bytes -= pool->members *
					   index->classes[pool->class].slot_bytes;
	}
	kvh_nvme_index_fini(index);
	return kvh_nvme_index_init(index, old.super, old.spaces, old.policy);
}

uint64_t kvh_nvme_index_bytes(const struct kvh_nvme_index *index)
{
	uint64_t bytes = sizeof(*index);
	uint64_t extents = 0;

	for (uint32_t i = 0; i < index->n_extents; i++)
		extents += index->extents[i] != NULL;
	for (uint32_t i = 0; i < index->n_pools; i++)
		bytes += sizeof(index->pools[i]) + kvh_order_bytes(&index->pools[i].order);
	bytes += extents *
		 (sizeof(struct kvh_nvme_extent) + sizeof(void *) + 2 * sizeof(void *));
	bytes += extents * KVH_NVME_EXTENT_SLOTS *
		 (sizeof(struct kvh_order_link) + sizeof(index->items.marks[0]));
	bytes += index->super->segments * (sizeof(*index->segments) + sizeof(*index->classes));
	return bytes + index->n_buckets * sizeof(*index->buckets);
}

static void segment_check(const struct kvh_nvme_index *index, uint32_t i, uint64_t *objects,
			  uint64_t *used_bytes)
{
	const struct kvh_nvme_segment *segment = &index->segments[i];
	uint32_t busy = 0, live = 0, used = 0;

	for (uint32_t e = segment->extents; e != KVH_NVME_NONE; e = index->extents[e]->next) {
		const struct kvh_nvme_extent *extent = index->extents[e];

		assert(extent->segment == i);
		used += extent->count;
		for (uint32_t s = 0; s < extent->count; s++) {
			const struct kvh_nvme_slot *slot = &extent->slots[s];
			uint32_t id = e * KVH_NVME_EXTENT_SLOTS + s;

			busy += slot->pins + (uint32_t)IS(slot->state, BUSY);
			live += slot->state == KVH_NVME_LIVE;
			if (IS(slot->state, USED))
				*used_bytes += kvh_nvme_slot_bytes(index, id);
			if (slot->state == KVH_NVME_LIVE) {
				struct kvh_key key = kvh_nvme_slot_key(index, id);

				assert(kvh_nvme_index_find(index, &key) == id);
			}
		}
	}
	assert(segment->busy == busy && segment->live == live && segment->used == used);
	*objects += live;
}

void kvh_nvme_index_check(const struct kvh_nvme_index *index)
{
	uint64_t objects = 0, used_bytes = 0;

	for (uint32_t i = 0; i < index->super->segments; i++)
		segment_check(index, i, &objects, &used_bytes);
	assert(index->objects == objects && index->used_bytes == used_bytes);
	for (uint32_t p = 0; p < index->n_pools; p++)
		assert(index->pools[p].members >= kvh_order_count(&index->pools[p].order) &&
		       kvh_order_check(&index->pools[p].order));
}
