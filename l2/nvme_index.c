/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_index.c - slots: which key lies in which, and their life. Segments and
 * classes are in nvme_segment.c. One thread, but for peek.
 *
 *   objects    == slots LIVE == keys in the table
 *   used_bytes == slot_bytes of the slots in use: busy or LIVE
 *   of a segment: busy == pins + slots WRITING, DOOMED, WIPING; live == LIVE
 */
#include "l2/nvme_index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BUCKETS_MIN 1024u
#define PEEK_BATCH  64u /* keys for which the lock is held at once */

_Static_assert(sizeof(struct kvh_nvme_slot) <= 56, "memory beside a frame: 64 with the table");

/* ---- the table ---- */

static uint64_t mix(uint64_t h)
{
	h ^= h >> 32;
	h *= UINT64_C(0x9e3779b97f4a7c15);
	return h ^ h >> 29;
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

		if (memcmp(&slot->key, key, sizeof(*key)) == 0)
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
			uint32_t *bucket = bucket_of(index, &slot->key);

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
	slot->key = *key;
	bucket = bucket_of(index, key);
	slot->chain = *bucket;
	*bucket = id;
	pthread_mutex_unlock(&index->lock);
}

static void table_remove(struct kvh_nvme_index *index, uint32_t id)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);
	uint32_t *link = bucket_of(index, &slot->key);

	pthread_mutex_lock(&index->lock);
	while (*link != id)
		link = &kvh_nvme_slot_at(index, *link)->chain;
	*link = slot->chain;
	pthread_mutex_unlock(&index->lock);
}

/* ---- lists ---- */

static void list_append(struct kvh_nvme_index *index, struct kvh_nvme_list *list, uint32_t id)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);

	slot->older = list->newest;
	slot->newer = KVH_NVME_NONE;
	if (list->newest != KVH_NVME_NONE)
		kvh_nvme_slot_at(index, list->newest)->newer = id;
	else
		list->oldest = id;
	list->newest = id;
	list->count++;
}

static void list_remove(struct kvh_nvme_index *index, struct kvh_nvme_list *list, uint32_t id)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);

	if (slot->older != KVH_NVME_NONE)
		kvh_nvme_slot_at(index, slot->older)->newer = slot->newer;
	else
		list->oldest = slot->newer;
	if (slot->newer != KVH_NVME_NONE)
		kvh_nvme_slot_at(index, slot->newer)->older = slot->older;
	else
		list->newest = slot->older;
	list->count--;
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
	[KVH_NVME_BAD] = TO(FREE) | TO(GONE),
};
#define IS(state, set) (((1u << (state)) & (set)) != 0)
#define BUSY           (TO(WRITING) | TO(DOOMED) | TO(WIPING))
#define USED           (BUSY | TO(LIVE))

/* The list that slots of a state are in; NULL: none. */
static struct kvh_nvme_list *list_of(struct kvh_nvme_class *class, uint8_t state)
{
	switch ((enum kvh_nvme_slot_state)state) {
	case KVH_NVME_FREE: return &class->free;
	case KVH_NVME_LIVE: return &class->lived;
	case KVH_NVME_BAD: return &class->failed;
	case KVH_NVME_GONE:
	case KVH_NVME_WRITING:
	case KVH_NVME_DOOMED:
	case KVH_NVME_WIPING:
	case KVH_NVME_STATES: break;
	}
	return NULL;
}

static void slot_move(struct kvh_nvme_index *index, uint32_t id, enum kvh_nvme_slot_state to)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);
	struct kvh_nvme_segment *segment =
		&index->segments[kvh_nvme_extent_of(index, id)->segment];
	struct kvh_nvme_class *class = &index->classes[segment->class];
	struct kvh_nvme_list *from_list = list_of(class, slot->state);
	struct kvh_nvme_list *to_list = list_of(class, (uint8_t)to);

	assert(slot_next[slot->state] & (1u << to));
	assert(slot->pins == 0 || IS(to, TO(LIVE) | TO(DOOMED)));
	if (from_list != NULL)
		list_remove(index, from_list, id);
	if (to_list != NULL)
		list_append(index, to_list, id);
	segment->busy += (uint32_t)IS(to, BUSY) - (uint32_t)IS(slot->state, BUSY);
	segment->live += (uint32_t)IS(to, TO(LIVE)) - (uint32_t)IS(slot->state, TO(LIVE));
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

static void touch(struct kvh_nvme_index *index, uint32_t id)
{
	struct kvh_nvme_segment *segment =
		&index->segments[kvh_nvme_extent_of(index, id)->segment];

	segment->last_use = ++index->tick;
	kvh_nvme_slot_at(index, id)->tick = index->tick;
}

uint32_t kvh_nvme_slot_take(struct kvh_nvme_index *index, uint32_t class)
{
	uint32_t id = index->classes[class].free.oldest;

	if (id != KVH_NVME_NONE)
		slot_move(index, id, KVH_NVME_WRITING);
	return id;
}

void kvh_nvme_slot_claim(struct kvh_nvme_index *index, uint32_t id)
{
	slot_move(index, id, KVH_NVME_WRITING);
}

uint32_t kvh_nvme_slot_evict(struct kvh_nvme_index *index, uint32_t class)
{
	uint32_t id = index->classes[class].lived.oldest;

	while (id != KVH_NVME_NONE && kvh_nvme_slot_at(index, id)->pins != 0)
		id = kvh_nvme_slot_at(index, id)->newer; /* read ones are among the newest */
	if (id == KVH_NVME_NONE)
		return id;
	table_remove(index, id);
	slot_move(index, id, KVH_NVME_WRITING);
	index->evicted++;
	return id;
}

uint32_t kvh_nvme_slot_publish(struct kvh_nvme_index *index, uint32_t id,
			       const struct kvh_key *key)
{
	uint32_t before = kvh_nvme_index_find(index, key);

	if (before != KVH_NVME_NONE)
		kvh_nvme_slot_doom(index, before);
	table_insert(index, id, key);
	slot_move(index, id, KVH_NVME_LIVE);
	touch(index, id);
	return before;
}

void kvh_nvme_slot_doom(struct kvh_nvme_index *index, uint32_t id)
{
	table_remove(index, id);
	slot_move(index, id, KVH_NVME_DOOMED);
}

void kvh_nvme_slot_wipe(struct kvh_nvme_index *index, uint32_t id)
{
	slot_move(index, id, KVH_NVME_WIPING);
}

void kvh_nvme_slot_wiped(struct kvh_nvme_index *index, uint32_t id, bool ok)
{
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
	if (kvh_nvme_slot_at(index, id)->state == KVH_NVME_LIVE) {
		table_remove(index, id);
		index->evicted++;
	}
	slot_move(index, id, KVH_NVME_GONE);
}

void kvh_nvme_index_retry(struct kvh_nvme_index *index)
{
	for (uint32_t i = 0; i < index->n_classes; i++) {
		uint32_t id = index->classes[i].failed.oldest;

		if (id != KVH_NVME_NONE)
			slot_move(index, id, KVH_NVME_FREE);
	}
	for (uint32_t i = 0; i < index->super->segments; i++)
		index->segments[i].failed = false;
	index->room++;
}

void kvh_nvme_slot_pin(struct kvh_nvme_index *index, uint32_t id)
{
	struct kvh_nvme_segment *segment =
		&index->segments[kvh_nvme_extent_of(index, id)->segment];
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);

	assert(slot->state == KVH_NVME_LIVE && slot->pins < UINT16_MAX);
	slot->pins++;
	segment->busy++;
	list_remove(index, &index->classes[segment->class].lived, id);
	list_append(index, &index->classes[segment->class].lived, id);
	touch(index, id);
}

void kvh_nvme_slot_unpin(struct kvh_nvme_index *index, uint32_t id)
{
	struct kvh_nvme_slot *slot = kvh_nvme_slot_at(index, id);

	assert(slot->pins > 0);
	slot->pins--;
	index->segments[kvh_nvme_extent_of(index, id)->segment].busy--;
}

/* ---- all of it ---- */

int kvh_nvme_index_init(struct kvh_nvme_index *index, const struct kvh_nvme_super *super)
{
	*index = (struct kvh_nvme_index){.super = super, .n_buckets = BUCKETS_MIN, .room = 1};
	index->segments = calloc(super->segments, sizeof(*index->segments));
	index->classes = calloc(super->segments + 1u, sizeof(*index->classes));
	index->buckets = buckets_new(index->n_buckets);
	pthread_mutex_init(&index->lock, NULL);
	if (index->segments == NULL || index->classes == NULL || index->buckets == NULL ||
	    getrandom(&index->seed, sizeof(index->seed), 0) < 0) {
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
	free(index->extents);
	free(index->buckets);
	free(index->classes);
	free(index->segments);
	pthread_mutex_destroy(&index->lock);
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
			if (slot->state == KVH_NVME_LIVE)
				assert(kvh_nvme_index_find(index, &slot->key) == id);
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
}
