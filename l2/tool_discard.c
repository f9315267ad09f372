/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tool_discard.c - `kvhoist-l2 discard`: makes a set hold nothing, or no frames of a
 * space, or none that are damaged. One thread, but for those of the scan.
 *
 * The whole set is opened and locked as the adapter does it, and refused where that
 * refuses it; what is to go is found after that, so that nothing changes meanwhile.
 * Killed at any point, it leaves a set that opens, with some of the frames still there.
 */
#include "l2/tool.h"

#include "host/log.h"
#include "l2/nvme_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct place {
	uint32_t file;
	uint64_t offset;
};

struct discard {
	const struct kvh_tool_opts *opts;
	struct kvh_nvme_conf conf;
	struct kvh_nvme_file files[KVH_NVME_STRIPES]; /* locked */
	bool locked;
	struct kvh_tool tool;
	struct place *places; /* [n] of headers to wipe */
	size_t n, room;
	uint64_t frames, bytes; /* that go */
	int err;
};

/* ---- the set ---- */

/* What is blank is formatted by an adapter that opens it, and is nothing of ours. */
static int check_ours(struct discard *discard)
{
	int status = kvh_tool_open(&discard->tool, discard->opts);

	if (status == 0)
		kvh_tool_close(&discard->tool);
	return status;
}

static int lock(struct discard *discard)
{
	const struct kvh_tool_opts *opts = discard->opts;
	int ret;

	discard->conf.path = opts->paths[0];
	discard->conf.more.items = opts->paths + 1;
	discard->conf.more.n = opts->n_paths - 1;
	ret = kvh_nvme_set_open(discard->files, opts->n_paths, &discard->conf, &kvh_io_system,
				NULL);
	discard->locked = ret == 0;
	return kvh_tool_status(ret);
}

/* Not begun: nothing was written, and nothing is. */
static void unlock(struct discard *discard)
{
	for (uint32_t i = 0; discard->locked && i < discard->opts->n_paths; i++) {
		if (discard->files[i].fd >= 0)
			kvh_nvme_file_close(&discard->files[i], false);
	}
}

/* ---- what goes ---- */

static void take(void *arg, const struct kvh_tool_slot *slot)
{
	struct discard *discard = arg;
	const struct kvh_tool_opts *opts = discard->opts;
	struct place *bigger = discard->places;

	if (opts->damaged ? slot->fault == NULL
			  : slot->header == NULL || !kvh_tool_matches(opts, slot->header))
		return;
	if (discard->n == discard->room) {
		discard->room = discard->room == 0 ? 1024 : 2 * discard->room;
		bigger = realloc(discard->places, discard->room * sizeof(*bigger));
	}
	if (bigger == NULL) {
		discard->room = discard->n;
		discard->err = -ENOMEM;
		return;
	}
	discard->places = bigger;
	discard->places[discard->n++] = (struct place){.file = slot->file,
						       .offset = slot->offset};
	discard->frames++;
	discard->bytes += slot->bytes;
}

static int find(struct discard *discard)
{
	struct kvh_tool_totals totals;
	int status = kvh_tool_open(&discard->tool, discard->opts);

	if (status != 0)
		return status;
	if (kvh_tool_scan(&discard->tool, discard->opts->damaged, take, discard, &totals) < 0)
		return KVH_TOOL_REFUSED;
	if (discard->err < 0) {
		kvh_tool_complain("no memory for the list of frames");
		return KVH_TOOL_REFUSED;
	}
	return 0;
}

/* ---- may they ---- */

static const char *what(const struct kvh_tool_opts *opts)
{
	if (opts->damaged)
		return "damaged frames";
	return opts->space.given ? "frames of the space"
				 : "frames, which are all that are there";
}

static bool may(const struct discard *discard)
{
	char bytes[24], line[16];

	if (discard->opts->yes)
		return true;
	(void)fprintf(stderr, "Discard %" PRIu64 " %s (%s) of %s%s? [y/N] ", discard->frames,
		      what(discard->opts), kvh_size_text(discard->bytes, bytes),
		      discard->opts->paths[0],
		      discard->opts->n_paths > 1 ? " and its stripes" : "");
	(void)fflush(stderr);
	if (fgets(line, sizeof(line), stdin) != NULL &&
	    (strcmp(line, "y\n") == 0 || strcmp(line, "yes\n") == 0))
		return true;
	kvh_tool_complain("nothing was discarded; --yes does it without asking");
	return false;
}

/* ---- away with them ---- */

static int wipe(struct discard *discard, uint32_t i)
{
	static _Alignas(KVH_NVME_PAGE) const char zeros[KVH_NVME_PAGE];
	struct kvh_nvme_file *file = &discard->files[i];
	int first = 0;

	for (size_t p = 0; p < discard->n; p++) {
		int ret;

		if (discard->places[p].file != i)
			continue;
		ret = kvh_nvme_file_write(file, zeros, sizeof(zeros),
					  discard->places[p].offset);
		if (ret < 0 && first == 0) {
			first = ret;
			kvh_err("%s: the frame at offset %" PRIu64 " cannot be wiped: %s",
				file->path, discard->places[p].offset, strerror(-ret));
		}
	}
	return first;
}

static int empty_one(struct discard *discard, uint32_t i)
{
	struct kvh_nvme_file *file = &discard->files[i];
	bool all = !discard->opts->space.given && !discard->opts->damaged;
	int ret = kvh_nvme_file_begin(file);

	if (ret == 0)
		ret = all ? kvh_nvme_file_empty(file) : wipe(discard, i);
	/* Closed in order: the headers are the truth, there is no snapshot. */
	kvh_nvme_file_close(file, ret == 0);
	file->fd = -1;
	return ret;
}

static int empty(struct discard *discard)
{
	int first = 0;

	for (uint32_t i = 0; i < discard->opts->n_paths; i++) {
		int ret = empty_one(discard, i);

		if (first == 0)
			first = ret;
	}
	return kvh_tool_status(first);
}

static int print_done(const struct discard *discard)
{
	json_t *object;
	char bytes[24];

	if (!discard->opts->json) {
		printf("%" PRIu64 " frames (%s) are discarded\n", discard->frames,
		       kvh_size_text(discard->bytes, bytes));
		return KVH_TOOL_OK;
	}
	object = json_object();
	kvh_tool_put(object, "discarded_frames", discard->frames);
	kvh_tool_put(object, "discarded_bytes", discard->bytes);
	return kvh_tool_json(object, KVH_TOOL_OK);
}

static int run(struct discard *discard)
{
	int status = check_ours(discard);

	if (status == 0)
		status = lock(discard);
	if (status == 0)
		status = find(discard);
	if (status == 0 && !may(discard))
		status = KVH_TOOL_REFUSED;
	if (status == 0)
		status = empty(discard);
	return status == 0 ? print_done(discard) : status;
}

int kvh_tool_discard(const struct kvh_tool_opts *opts)
{
	struct discard discard = {.opts = opts};
	int status = run(&discard);

	kvh_tool_close(&discard.tool);
	unlock(&discard);
	free(discard.places);
	return status;
}
