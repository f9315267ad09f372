/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_index.c - which files there are, as far as this process has seen, in order
 * of last use, and how many bytes they hold. It decides what is evicted and
 * answers peek; whether an object is there is the file system's to say. Any of
 * the adapter's threads, under index_lock; files are removed without it.
 *
 *   used == sum of len over present entries
 *   an entry is in the order, or busy; neither present nor busy: freed
 */
#include "l2/fs.h"

#include "host/log.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static struct fs_entry *entry_find(struct fs_l2 *fs, const struct kvh_key *key)
{
	return (struct fs_entry *)kvh_lru_find(&fs->index, key);
}

/* NULL: no memory. */
static struct fs_entry *entry_new(struct fs_l2 *fs, const struct kvh_key *key)
{
	struct fs_entry *entry = calloc(1, sizeof(*entry));

	if (entry == NULL)
		return NULL;
	entry->node.key = *key;
	kvh_lru_insert(&fs->index, &entry->node);
	return entry;
}

/* What is under the name now; 0: nothing. */
static void entry_set(struct fs_l2 *fs, struct fs_entry *entry, uint64_t len)
{
	fs->used = fs->used - entry->len + len;
	fs->objects += (len > 0) - (uint64_t)entry->present;
	entry->len = len;
	entry->present = len > 0;
}

static void entry_grab(struct fs_l2 *fs, struct fs_entry *entry)
{
	assert(!entry->busy);
	entry->busy = true;
	kvh_lru_hide(&fs->index, &entry->node);
}

/* Back into the order, or away. */
static void entry_settle(struct fs_l2 *fs, struct fs_entry *entry)
{
	entry->busy = false;
	if (entry->present) {
		kvh_lru_touch(&fs->index, &entry->node);
	} else {
		kvh_lru_remove(&fs->index, &entry->node);
		free(entry);
	}
	pthread_cond_broadcast(&fs->settled);
}

/* The key's entry when nobody works on it; NULL: there is none. */
static struct fs_entry *entry_wait(struct fs_l2 *fs, const struct kvh_key *key)
{
	struct fs_entry *entry;

	while ((entry = entry_find(fs, key)) != NULL && entry->busy)
		pthread_cond_wait(&fs->settled, &fs->index_lock);
	return entry;
}

static bool over_size(const struct fs_l2 *fs, uint64_t more)
{
	return fs->size != 0 && fs->used + fs->reserved + more > fs->size;
}

/* Removes the file of an entry that the caller has grabbed. */
static int evict_entry(struct fs_l2 *fs, struct fs_entry *entry)
{
	int ret;

	assert(entry->busy);
	pthread_mutex_unlock(&fs->index_lock);
	ret = kvh_fs_unlink(fs, &entry->node.key);
	pthread_mutex_lock(&fs->index_lock);
	if (ret == 0)
		fs->evicted++;
	if (ret < 0 && ret != -ENOENT)
		return ret;
	entry_set(fs, entry, 0);
	return 0;
}

/* The oldest. The lock is given up meanwhile. -ENOENT: none could go. */
static int evict_one(struct fs_l2 *fs)
{
	struct fs_entry *entry = (struct fs_entry *)kvh_lru_oldest(&fs->index);
	int ret;

	if (entry == NULL)
		return -ENOENT;
	entry_grab(fs, entry);
	ret = evict_entry(fs, entry);
	entry_settle(fs, entry);
	return ret;
}

/* Reserves len for `entry`, at the cost of others, then of what it was. */
static int reserve(struct fs_l2 *fs, struct fs_entry *entry, uint64_t len)
{
	while (over_size(fs, len)) {
		int ret = evict_one(fs);

		if (ret == -ENOENT)
			ret = entry->present ? evict_entry(fs, entry) : -ENOSPC;
		if (ret < 0)
			return ret;
	}
	fs->reserved += len;
	return 0;
}

int kvh_fs_index_begin_put(struct fs_l2 *fs, const struct kvh_key *key, uint64_t len,
			   struct fs_entry **entry_p)
{
	struct fs_entry *entry;
	int ret = -ENOMEM;

	pthread_mutex_lock(&fs->index_lock);
	entry = entry_wait(fs, key);
	if (entry == NULL)
		entry = entry_new(fs, key);
	if (entry != NULL) {
		entry_grab(fs, entry);
		ret = reserve(fs, entry, len);
		if (ret < 0)
			entry_settle(fs, entry);
	}
	pthread_mutex_unlock(&fs->index_lock);
	if (ret == 0)
		*entry_p = entry;
	return ret;
}

void kvh_fs_index_end_put(struct fs_l2 *fs, struct fs_entry *entry, uint64_t reserved,
			  uint64_t len)
{
	pthread_mutex_lock(&fs->index_lock);
	assert(fs->reserved >= reserved);
	fs->reserved -= reserved;
	entry_set(fs, entry, len);
	entry_settle(fs, entry);
	pthread_mutex_unlock(&fs->index_lock);
}

struct fs_entry *kvh_fs_index_begin_delete(struct fs_l2 *fs, const struct kvh_key *key)
{
	struct fs_entry *entry;

	pthread_mutex_lock(&fs->index_lock);
	entry = entry_wait(fs, key);
	if (entry != NULL)
		entry_grab(fs, entry);
	pthread_mutex_unlock(&fs->index_lock);
	return entry;
}

void kvh_fs_index_end_delete(struct fs_l2 *fs, struct fs_entry *entry, bool gone)
{
	pthread_mutex_lock(&fs->index_lock);
	if (gone)
		entry_set(fs, entry, 0);
	entry_settle(fs, entry);
	pthread_mutex_unlock(&fs->index_lock);
}

void kvh_fs_index_saw(struct fs_l2 *fs, const struct kvh_key *key, uint64_t len)
{
	struct fs_entry *entry;

	pthread_mutex_lock(&fs->index_lock);
	entry = entry_find(fs, key);
	if (entry == NULL && len > 0)
		entry = entry_new(fs, key); /* another process's; no memory: not counted */
	/* One that is busy is about to be known better. */
	if (entry != NULL && !entry->busy) {
		entry_set(fs, entry, len);
		entry_settle(fs, entry);
		while (over_size(fs, 0) && evict_one(fs) == 0)
			;
	}
	pthread_mutex_unlock(&fs->index_lock);
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
	int ret = 0;

	if (scan->n > 0)
		qsort(scan->found, scan->n, sizeof(*scan->found), by_time);
	pthread_mutex_lock(&fs->index_lock);
	for (size_t i = 0; i < scan->n && ret == 0; i++) {
		struct fs_entry *entry = entry_find(fs, &scan->found[i].key);

		if (entry == NULL) /* getdents may name a file twice that others rename */
			entry = entry_new(fs, &scan->found[i].key);
		if (entry == NULL)
			ret = -ENOMEM;
		else
			entry_set(fs, entry, scan->found[i].len);
	}
	while (ret == 0 && over_size(fs, 0))
		ret = evict_one(fs);
	pthread_mutex_unlock(&fs->index_lock);
	return ret;
}

int kvh_fs_index_open(struct fs_l2 *fs)
{
	struct scan scan = {.found = NULL};
	int ret = kvh_lru_init(&fs->index);

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

/* Nothing is busy: no worker lives. */
void kvh_fs_index_close(struct fs_l2 *fs)
{
	struct kvh_lru_node *node;

	while ((node = kvh_lru_oldest(&fs->index)) != NULL) {
		kvh_lru_remove(&fs->index, node);
		free(node);
	}
	kvh_lru_fini(&fs->index);
}
