/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_clear.c - removes all of a space: every file of it that there is, also other
 * processes', and what the index still believes. A worker's; each key by itself,
 * so that whoever works on one goes on. Limit: empty directories stay.
 */
#include "l2/fs.h"

struct clear {
	struct fs_l2 *fs;
	int ret; /* the first that failed */
};

static void clear_key(struct clear *clear, const struct kvh_key *key)
{
	int ret = kvh_fs_delete(clear->fs, key);

	if (ret < 0 && ret != -ENOENT && clear->ret == 0)
		clear->ret = ret;
}

static bool clear_file(void *arg, const struct kvh_key *key, const struct stat *st)
{
	(void)st;
	clear_key(arg, key);
	return true;
}

int kvh_fs_clear(struct fs_l2 *fs, kvh_space_t space)
{
	struct clear clear = {.fs = fs};
	int ret = kvh_fs_walk_space(fs, space, clear_file, &clear);
	struct kvh_key key;
	uint32_t at = 0;

	while (kvh_fs_index_next(fs, space, &at, &key))
		clear_key(&clear, &key);
	return ret < 0 ? ret : clear.ret;
}
