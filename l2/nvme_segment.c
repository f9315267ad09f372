/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_segment.c - segments and classes of the nvme adapter's index: which
 * segment may hold which frame size, and when it changes. One thread.
 *
 * A segment is cleared for another size only when nothing in it is in use, and
 * its frames have not been used for longer than the oldest of the size that
 * wants room; sizes that are gone give way to those that come.
 */
#include "l2/nvme_index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint32_t kvh_nvme_class_get(struct kvh_nvme_index *index, uint64_t slot_bytes)
{
	uint32_t unused = index->n_classes;

	for (uint32_t i = 0; i < index->n_classes; i++) {
		if (index->classes[i].slot_bytes == slot_bytes)
			return i;
		if (index->classes[i].segments == 0 && unused == index->n_classes)
			unused = i;
	}
	assert(unused <= index->super->segments); /* the others have one each */
	if (unused == index->n_classes)
		index->n_classes++;
	index->classes[unused] = (struct kvh_nvme_class){.slot_bytes = slot_bytes};
	kvh_order_list_init(&index->classes[unused].free);
	kvh_order_list_init(&index->classes[unused].failed);
	return unused;
}

uint32_t kvh_nvme_segment_slots(const struct kvh_nvme_index *index, uint32_t segment,
				uint64_t slot_bytes)
{
	return (uint32_t)(kvh_nvme_segment_bytes(index->super, segment) / slot_bytes);
}

static bool has_room(const struct kvh_nvme_index *index, uint32_t i)
{
	const struct kvh_nvme_segment *segment = &index->segments[i];
	uint64_t slot_bytes = index->classes[segment->class].slot_bytes;

	return segment->used < kvh_nvme_segment_slots(index, i, slot_bytes);
}

uint32_t kvh_nvme_segment_room(struct kvh_nvme_index *index, uint32_t class)
{
	uint32_t unassigned = KVH_NVME_NONE, empty = KVH_NVME_NONE;

	if (index->classes[class].no_room == index->room)
		return KVH_NVME_NONE; /* a full cache asks at every PUT */
	for (uint32_t i = 0; i < index->super->segments; i++) {
		const struct kvh_nvme_segment *segment = &index->segments[i];

		if (segment->failed)
			continue;
		if (segment->class == class && !segment->drained && has_room(index, i))
			return i;
		if (segment->class == KVH_NVME_NONE && unassigned == KVH_NVME_NONE)
			unassigned = i;
		else if ((segment->class != class || segment->drained) && segment->live == 0 &&
			 segment->busy == 0)
			empty = i;
	}
	if (unassigned == KVH_NVME_NONE && empty == KVH_NVME_NONE)
		index->classes[class].no_room = index->room;
	return unassigned != KVH_NVME_NONE ? unassigned : empty;
}

/* Of another class, the least recently used for longer than `longest`. */
static uint32_t oldest_other(const struct kvh_nvme_index *index, uint32_t class,
			     uint32_t longest, bool busy_too)
{
	uint32_t found = KVH_NVME_NONE;

	/* Ages, so that the tick may wrap. */
	for (uint32_t i = 0; i < index->super->segments; i++) {
		const struct kvh_nvme_segment *segment = &index->segments[i];
		uint32_t age = index->tick - segment->last_use;

		if (segment->class == KVH_NVME_NONE || segment->class == class ||
		    segment->failed || (segment->busy != 0 && !busy_too) || age < longest)
			continue;
		longest = age + 1;
		found = i;
	}
	return found;
}

uint32_t kvh_nvme_segment_idle(struct kvh_nvme_index *index, uint32_t class)
{
	uint32_t own = kvh_nvme_pool_victim(index, class);
	uint32_t longest = 0;

	if (own != KVH_NVME_NONE)
		longest = index->tick - index->items.links[own].stamp + 1;
	return oldest_other(index, class, longest, false);
}

static void extent_forget(struct kvh_nvme_index *index, uint32_t e)
{
	struct kvh_nvme_extent *extent = index->extents[e];

	for (uint32_t s = 0; s < extent->count; s++) {
		switch ((enum kvh_nvme_slot_state)extent->slots[s].state) {
		case KVH_NVME_LIVE:
			if (extent->slots[s].pins != 0)
				break;
			/* fallthrough */
		case KVH_NVME_FREE:
		case KVH_NVME_BAD:
			kvh_nvme_slot_forget(index, e * KVH_NVME_EXTENT_SLOTS + s);
			break;
		case KVH_NVME_GONE:
		case KVH_NVME_WRITING:
		case KVH_NVME_DOOMED:
		case KVH_NVME_WIPING:
		case KVH_NVME_STATES: break;
		}
	}
}

void kvh_nvme_segment_drain(struct kvh_nvme_index *index, uint32_t class)
{
	uint32_t e, found = KVH_NVME_NONE;

	for (uint32_t i = 0; i < index->super->segments && found == KVH_NVME_NONE; i++)
		found = index->segments[i].drained ? i : KVH_NVME_NONE;
	if (found == KVH_NVME_NONE)
		found = oldest_other(index, class, 0, true);
	if (found == KVH_NVME_NONE)
		return;
	if (!index->segments[found].drained && !index->segments[found].stale)
		index->unsettled++;
	index->segments[found].drained = true;
	for (e = index->segments[found].extents; e != KVH_NVME_NONE;
	     e = index->extents[e]->next)
		extent_forget(index, e);
}

static void extent_free(struct kvh_nvme_index *index, uint32_t e)
{
	struct kvh_nvme_extent *extent = index->extents[e];

	extent_forget(index, e);
	pthread_mutex_lock(&index->lock);
	index->extents[e] = NULL;
	pthread_mutex_unlock(&index->lock);
	if (e < index->no_place)
		index->no_place = e;
	free(extent);
}

void kvh_nvme_segment_clear(struct kvh_nvme_index *index, uint32_t i)
{
	struct kvh_nvme_segment *segment = &index->segments[i];
	uint32_t e, next;

	assert(segment->busy == 0 && segment->class != KVH_NVME_NONE);
	for (e = segment->extents; e != KVH_NVME_NONE; e = next) {
		next = index->extents[e]->next;
		extent_free(index, e);
	}
	assert(segment->live == 0);
	index->classes[segment->class].segments--;
	segment->class = KVH_NVME_NONE;
	segment->extents = KVH_NVME_NONE;
	segment->used = 0;
	if (!segment->drained && !segment->stale)
		index->unsettled++;
	segment->stale = true;
	segment->drained = false;
	segment->virgin = false; /* what was behind the used slots may be in the new ones */
	index->room++;
}

uint32_t kvh_nvme_segment_unsettled(const struct kvh_nvme_index *index, bool busy_too)
{
	for (uint32_t i = 0; index->unsettled > 0 && i < index->super->segments; i++) {
		const struct kvh_nvme_segment *segment = &index->segments[i];

		if (segment->failed || (!segment->stale && !segment->drained))
			continue;
		if (!segment->drained || segment->busy == 0 || busy_too)
			return i;
	}
	return KVH_NVME_NONE;
}

void kvh_nvme_segment_settled(struct kvh_nvme_index *index, uint32_t i)
{
	assert(index->segments[i].stale && index->unsettled > 0);
	index->segments[i].stale = false;
	index->unsettled--;
}

void kvh_nvme_segment_assign(struct kvh_nvme_index *index, uint32_t i, uint32_t class)
{
	assert(index->segments[i].class == KVH_NVME_NONE && index->segments[i].used == 0);
	index->segments[i].class = class;
	index->segments[i].last_use = index->tick;
	index->classes[class].segments++;
}

/* A free place in the directory, which is made larger if need be. */
static int extent_place(struct kvh_nvme_index *index, uint32_t *place_p)
{
	uint32_t n = index->n_extents, more = n == 0 ? 64 : 2 * n;
	struct kvh_nvme_extent **extents;

	for (; index->no_place < n; index->no_place++) {
		if (index->extents[index->no_place] == NULL) {
			*place_p = index->no_place;
			return 0;
		}
	}
	if (n >= index->items.max / KVH_NVME_EXTENT_SLOTS)
		return -ENOMEM;
	pthread_mutex_lock(&index->lock);
	extents = realloc(index->extents, more * sizeof(struct kvh_nvme_extent *));
	if (extents != NULL) {
		memset(extents + n, 0, (more - n) * sizeof(struct kvh_nvme_extent *));
		index->extents = extents;
		index->n_extents = more;
		*place_p = n;
	}
	pthread_mutex_unlock(&index->lock);
	return extents != NULL ? 0 : -ENOMEM;
}

/* Behind the last of the segment. */
static int extent_add(struct kvh_nvme_index *index, struct kvh_nvme_segment *segment,
		      uint32_t i)
{
	struct kvh_nvme_extent *extent = calloc(1, sizeof(*extent));
	uint32_t e;

	if (extent == NULL || extent_place(index, &e) < 0) {
		free(extent);
		return -ENOMEM;
	}
	extent->segment = i;
	extent->first = segment->used;
	extent->next = segment->extents;
	segment->extents = e;
	pthread_mutex_lock(&index->lock);
	index->extents[e] = extent;
	pthread_mutex_unlock(&index->lock);
	return 0;
}

int kvh_nvme_segment_open(struct kvh_nvme_index *index, uint32_t i, uint32_t count)
{
	struct kvh_nvme_segment *segment = &index->segments[i];

	for (uint32_t n = 0; n < count; n++) {
		struct kvh_nvme_extent *extent;
		uint32_t place = segment->used % KVH_NVME_EXTENT_SLOTS;

		if (place == 0 && extent_add(index, segment, i) < 0)
			return -ENOMEM;
		extent = index->extents[segment->extents];
		assert(extent->count == place);
		extent->count++;
		extent->slots[place].pool = KVH_NVME_NONE;
		segment->used++;
		kvh_nvme_slot_open(index, segment->extents * KVH_NVME_EXTENT_SLOTS + place);
	}
	return 0;
}
