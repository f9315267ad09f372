/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_set.c - the files of the nvme adapter as one set: each says in its
 * superblock which set it belongs to, and which stripe of how many it is. They
 * may be given in any order. On the thread that opens; blocks.
 *
 * All are formatted, or none: a file that is blank beside one that is in use is
 * a stripe that is missing, not a new one.
 */
#include "l2/nvme_file.h"

#include "host/log.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#define FORMATTED 2u /* superblocks that a format writes: open writes the next */

static const char *path_of(const struct kvh_nvme_conf *conf, uint32_t i)
{
	return i == 0 ? conf->path : conf->more.items[i - 1];
}

static void close_first(struct kvh_nvme_file *files, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		kvh_nvme_file_close(&files[i], false);
}

/* The first that is ours; NULL: none. */
static const struct kvh_nvme_file *find_ours(const struct kvh_nvme_file *files, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (files[i].found == KVH_NVME_OURS)
			return &files[i];
	}
	return NULL;
}

/* ---- do they belong together ---- */

static int check_one(const struct kvh_nvme_file *file, const struct kvh_nvme_file *first,
		     uint32_t n)
{
	const struct kvh_nvme_super *super = file->super;

	if (file->found != KVH_NVME_OURS) {
		kvh_err("nvme: %s is no stripe, %s is stripe %" PRIu32 " of %" PRIu32
			" of a set; name the stripe that is missing, or format=yes makes all "
			"of "
			"them anew",
			file->path, first->path, first->super->stripe, first->super->stripes);
		return -EEXIST;
	}
	if (memcmp(super->uuid, first->super->uuid, sizeof(super->uuid)) != 0) {
		kvh_err("nvme: %s is a stripe of another set than %s; name those of one set, "
			"or "
			"format=yes makes one of them",
			file->path, first->path);
		return -EEXIST;
	}
	if (super->stripes != n) {
		kvh_err("nvme: %s is stripe %" PRIu32 " of %" PRIu32 ", but %" PRIu32
			" are given; name all of them with stripe=PATH, or format=yes makes a "
			"set of those given",
			file->path, super->stripe, super->stripes, n);
		return -EEXIST;
	}
	return 0;
}

static int check(const struct kvh_nvme_file *files, uint32_t n)
{
	const struct kvh_nvme_file *first = find_ours(files, n);
	const struct kvh_nvme_file *at[KVH_NVME_STRIPES] = {NULL};

	for (uint32_t i = 0; i < n; i++) {
		uint32_t stripe;
		int ret = check_one(&files[i], first, n);

		if (ret < 0)
			return ret;
		stripe = files[i].super->stripe;
		if (at[stripe] != NULL) {
			kvh_err("nvme: %s and %s are both stripe %" PRIu32 " of %" PRIu32
				"; one is a copy, and another stripe is missing",
				at[stripe]->path, files[i].path, stripe, n);
			return -EEXIST;
		}
		at[stripe] = &files[i];
	}
	return 0;
}

static void arrange(struct kvh_nvme_file *files, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		while (files[i].super->stripe != i) {
			uint32_t to = files[i].super->stripe;
			struct kvh_nvme_file file = files[to];

			files[to] = files[i];
			files[i] = file;
		}
	}
}

/* ---- making one ---- */

/* A format that was interrupted: some have their superblock, and nobody has
 * opened them since. */
static bool is_half_made(const struct kvh_nvme_file *files, uint32_t n)
{
	const struct kvh_nvme_file *first = find_ours(files, n);
	uint32_t ours = 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct kvh_nvme_super *super = files[i].super;

		if (files[i].found == KVH_NVME_OTHER)
			return false;
		if (files[i].found == KVH_NVME_BLANK)
			continue;
		if (super->sequence > FORMATTED || super->stripes != n ||
		    memcmp(super->uuid, first->super->uuid, sizeof(super->uuid)) != 0)
			return false;
		ours++;
	}
	return ours < n;
}

static int format(struct kvh_nvme_file *files, uint32_t n)
{
	uint8_t uuid[16];
	int ret = 0;

	if (getrandom(uuid, sizeof(uuid), 0) < 0)
		return -errno;
	for (uint32_t i = 0; i < n && ret == 0; i++) {
		if (files[i].found != KVH_NVME_BLANK && files[i].conf->format)
			kvh_warn("nvme: %s: format=yes: is formatted", files[i].path);
		ret = kvh_nvme_file_format(&files[i], uuid, n, i);
	}
	for (uint32_t step = 0; step < FORMATTED; step++) {
		for (uint32_t i = 0; i < n && ret == 0; i++)
			ret = kvh_nvme_file_formatted(&files[i]);
	}
	return ret;
}

static int find_or_make(struct kvh_nvme_file *files, uint32_t n,
			const struct kvh_nvme_conf *conf)
{
	int ret;

	if (find_ours(files, n) == NULL || is_half_made(files, n))
		return format(files, n);
	ret = check(files, n);
	if (ret < 0)
		return conf->format ? format(files, n) : ret;
	arrange(files, n);
	return 0;
}

int kvh_nvme_set_open(struct kvh_nvme_file *files, uint32_t n, const struct kvh_nvme_conf *conf,
		      const struct kvh_io_ops *io, void *io_ctx)
{
	int ret = 0;

	for (uint32_t i = 0; i < n; i++) {
		ret = kvh_nvme_file_open(&files[i], conf, path_of(conf, i), io, io_ctx);
		if (ret < 0) {
			close_first(files, i);
			return ret;
		}
	}
	ret = find_or_make(files, n, conf);
	if (ret < 0)
		close_first(files, n);
	return ret;
}
