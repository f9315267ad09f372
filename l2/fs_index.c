/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_index.c - which files there are, as far as this process has seen, and how many
 * bytes they hold, by space (l2/shelf.h). It decides what is evicted and answers
 * peek; whether an object is there is the file system's to say. Any of the
 * adapter's threads, under index_lock; files are removed without it.
 *
 *   an item is LISTED with a len, or HELD; at rest without a len it is removed
 *   who waits for a HELD item has reserved nothing
 */
#include "l2/fs.h"

#include "host/log.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Back into the order, or away. */
static void item_settle(struct fs_l2 *fs, uint32_t item)
{
	if (kvh_shelf_at(&fs->shelf, item)->len > 0)
		kvh_shelf_list(&fs->shelf, item);
	else
		kvh_shelf_remove(&fs->shelf, item);
	pthread_cond_broadcast(&fs->settled);
}

/* The key's item when nobody works on it; KVH_SHELF_NONE: there is none. */
static uint32_t item_wait(struct fs_l2 *fs, const struct kvh_key *key)
{
	uint32_t item;

	while ((item = kvh_shelf_find(&fs->shelf, key)) != KVH_SHELF_NONE &&
	       kvh_shelf_at(&fs->shelf, item)->state == KVH_SHELF_HELD)
		pthread_cond_wait(&fs->settled, &fs->index_lock);
	return item;
}

/* Removes the file of a HELD item; the lock is given up meanwhile. */
static int evict_held(struct fs_l2 *fs, uint32_t item)
{
	const struct kvh_key key = kvh_shelf_at(&fs->shelf, item)->key;
	int ret;

	pthread_mutex_unlock(&fs->index_lock);
	ret = kvh_fs_unlink(fs, &key);
	pthread_mutex_lock(&fs->index_lock);
	if (ret == 0)
		kvh_shelf_evicted(&fs->shelf, item);
	else if (ret == -ENOENT)
		kvh_shelf_set_len(&fs->shelf, item, 0);
	else
		return ret;
	return 0;
}

static int evict(struct fs_l2 *fs, uint32_t item)
{
	int ret;

	kvh_shelf_hold(&fs->shelf, item);
	ret = evict_held(fs, item);
	item_settle(fs, item);
	return ret;
}

static bool fits_for_ever(const struct fs_l2 *fs, uint32_t item, uint64_t len)
{
	uint64_t hard = fs->shelf.spaces[kvh_shelf_at(&fs->shelf, item)->space]->hard;

	return (hard == 0 || len <= hard) && (fs->shelf.size == 0 || len <= fs->shelf.size);
}

/* Reserves len for a HELD item, at the cost of others, then of what it was. */
static int reserve(struct fs_l2 *fs, uint32_t item, uint64_t len)
{
	uint32_t victim;
	int ret;

	while ((ret = kvh_shelf_room(&fs->shelf, item, len, &victim)) != 0) {
		if (ret == 1)
			ret = evict(fs, victim);
		else if (!fits_for_ever(fs, item, len))
			return ret;
		else if (kvh_shelf_at(&fs->shelf, item)->len > 0)
			ret = evict_held(fs, item);
		else if (fs->shelf.reserved > 0) /* may be LISTED when it has ended */
			ret = -pthread_cond_wait(&fs->settled, &fs->index_lock);
		if (ret < 0)
			return ret;
	}
	kvh_shelf_reserve(&fs->shelf, item, len);
	return 0;
}

int kvh_fs_index_begin_put(struct fs_l2 *fs, const struct kvh_key *key, uint64_t len,
			   uint32_t *item_p, uint64_t *old_len_p)
{
	uint32_t item;
	int ret = -ENOMEM;

	pthread_mutex_lock(&fs->index_lock);
	item = item_wait(fs, key);
	if (item == KVH_SHELF_NONE)
		item = kvh_shelf_add(&fs->shelf, key);
	else
		kvh_shelf_hold(&fs->shelf, item);
	if (item != KVH_SHELF_NONE) {
		ret = reserve(fs, item, len);
		if (ret < 0)
			item_settle(fs, item);
	}
	if (ret == 0) {
		*item_p = item;
		*old_len_p = kvh_shelf_at(&fs->shelf, item)->len;
	}
	pthread_mutex_unlock(&fs->index_lock);
	return ret;
}

void kvh_fs_index_end_put(struct fs_l2 *fs, uint32_t item, uint64_t reserved, uint64_t len)
{
	pthread_mutex_lock(&fs->index_lock);
	kvh_shelf_unreserve(&fs->shelf, item, reserved);
	kvh_shelf_set_len(&fs->shelf, item, len);
	item_settle(fs, item);
	pthread_mutex_unlock(&fs->index_lock);
}

uint32_t kvh_fs_index_begin_delete(struct fs_l2 *fs, const struct kvh_key *key)
{
	uint32_t item;

	pthread_mutex_lock(&fs->index_lock);
	item = item_wait(fs, key);
	if (item != KVH_SHELF_NONE)
		kvh_shelf_hold(&fs->shelf, item);
	pthread_mutex_unlock(&fs->index_lock);
	return item;
}

void kvh_fs_index_end_delete(struct fs_l2 *fs, uint32_t item, bool gone)
{
	pthread_mutex_lock(&fs->index_lock);
	if (gone)
		kvh_shelf_set_len(&fs->shelf, item, 0);
	item_settle(fs, item);
	pthread_mutex_unlock(&fs->index_lock);
}

void kvh_fs_index_saw(struct fs_l2 *fs, const struct kvh_key *key, uint64_t len)
{
	struct kvh_shelf *shelf = &fs->shelf;
	uint32_t item, victim;

	pthread_mutex_lock(&fs->index_lock);
	item = kvh_shelf_find(shelf, key);
	if (item == KVH_SHELF_NONE && len > 0) {
		item = kvh_shelf_add(shelf, key); /* another process's */
	} else if (item != KVH_SHELF_NONE &&
		   kvh_shelf_at(shelf, item)->state == KVH_SHELF_LISTED) {
		kvh_shelf_use(shelf, item);
		kvh_shelf_hold(shelf, item);
	} else {
		item = KVH_SHELF_NONE; /* one that is HELD is about to be known better */
	}
	if (item != KVH_SHELF_NONE) { /* no memory: not counted */
		kvh_shelf_set_len(shelf, item, len);
		item_settle(fs, item);
		while ((victim = kvh_shelf_excess(shelf)) != KVH_SHELF_NONE &&
		       evict(fs, victim) == 0)
			;
	}
	pthread_mutex_unlock(&fs->index_lock);
}

bool kvh_fs_index_next(struct fs_l2 *fs, kvh_space_t space, uint32_t *at_p, struct kvh_key *key)
{
	uint32_t item;

	pthread_mutex_lock(&fs->index_lock);
	item = kvh_shelf_next(&fs->shelf, *at_p);
	while (item != KVH_SHELF_NONE && kvh_shelf_at(&fs->shelf, item)->key.space != space)
		item = kvh_shelf_next(&fs->shelf, item + 1);
	if (item != KVH_SHELF_NONE) {
		*key = kvh_shelf_at(&fs->shelf, item)->key;
		*at_p = item + 1;
	}
	pthread_mutex_unlock(&fs->index_lock);
	return item != KVH_SHELF_NONE;
}

/* ---- open and close ------------------------------------------------------ */

struct found {
	struct kvh_key key;
	uint64_t len;
	struct timespec time;
};

struct scan {
	struct found *found;
	size_t n, room;
	bool no_memory;
};

static bool scan_visit(void *arg, const struct kvh_key *key, const struct stat *st)
{
	struct scan *scan = arg;

	if (st->st_size <= 0)
		return true; /* torn; a PUT will replace it */
	if (scan->n == scan->room) {
		size_t room = scan->room * 2 + 1024;
		struct found *more = reallocarray(scan->found, room, sizeof(*more));

		scan->no_memory = more == NULL;
		if (more == NULL)
			return false;
		scan->found = more;
		scan->room = room;
	}
	scan->found[scan->n++] = (struct found){
		.key = *key, .len = (uint64_t)st->st_size, .time = st->st_mtim};
	return true;
}

static int by_time(const void *a, const void *b)
{
	const struct timespec *x = &((const struct found *)a)->time;
	const struct timespec *y = &((const struct found *)b)->time;

	if (x->tv_sec != y->tv_sec)
		return x->tv_sec < y->tv_sec ? -1 : 1;
	return (x->tv_nsec > y->tv_nsec) - (x->tv_nsec < y->tv_nsec);
}

static int index_fill(struct fs_l2 *fs, struct scan *scan)
{
	uint32_t item;
	int ret = 0;

	if (scan->n > 0)
		qsort(scan->found, scan->n, sizeof(*scan->found), by_time);
	pthread_mutex_lock(&fs->index_lock);
	for (size_t i = 0; i < scan->n && ret == 0; i++) {
		item = kvh_shelf_find(&fs->shelf, &scan->found[i].key);
		if (item != KVH_SHELF_NONE) /* getdents may name one twice that others rename */
			kvh_shelf_hold(&fs->shelf, item);
		else
			item = kvh_shelf_add(&fs->shelf, &scan->found[i].key);
		if (item == KVH_SHELF_NONE) {
			ret = -ENOMEM;
			break;
		}
		kvh_shelf_set_len(&fs->shelf, item, scan->found[i].len);
		kvh_shelf_list(&fs->shelf, item);
	}
	while (ret == 0 && (item = kvh_shelf_excess(&fs->shelf)) != KVH_SHELF_NONE)
		ret = evict(fs, item);
	pthread_mutex_unlock(&fs->index_lock);
	return ret;
}

int kvh_fs_index_open(struct fs_l2 *fs)
{
	struct scan scan = {.found = NULL};
	int ret = kvh_shelf_open(&fs->shelf, kvh_order_find(kvh_shelf_policies[fs->eviction]),
				 fs->size);

	if (ret < 0)
		return ret;
	ret = kvh_fs_walk(fs, scan_visit, &scan);
	if (scan.no_memory)
		ret = -ENOMEM;
	if (ret == 0)
		ret = index_fill(fs, &scan);
	free(scan.found);
	if (ret < 0) {
		kvh_err("fs: %s: could not be read in or trimmed to %" PRIu64 " bytes: %s",
			fs->path, fs->size, strerror(-ret));
		kvh_fs_index_close(fs);
	}
	return ret;
}

/* No worker lives. */
void kvh_fs_index_close(struct fs_l2 *fs)
{
	assert(kvh_shelf_check(&fs->shelf));
	kvh_shelf_close(&fs->shelf);
}
