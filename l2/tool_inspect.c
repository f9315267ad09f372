/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tool_inspect.c - `kvhoist-l2 inspect`: what is on the files, by space and by frame
 * size, from the headers of all frames. One thread, but for those of the scan.
 */
#include "l2/tool.h"

#include "host/log.h"

#include <errno.h>
#include <inttypes.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

struct space {
	uint8_t digest[32]; /* first: compared */
	uint64_t id;
	uint64_t frames, bytes;
	uint64_t oldest, newest; /* store sequences */
};

/* Segments of one frame size. */
struct class
{
	uint64_t slot_bytes; /* 0: of none */
	uint64_t segments, slots, used;
};

struct inspect {
	struct kvh_tool tool;
	void *tree;            /* of struct space, by digest and id: tsearch */
	struct space **spaces; /* [n_spaces] by bytes, most first; once all are there */
	size_t n_spaces;
	struct class *classes; /* [n_classes] by size */
	size_t n_classes;
	uint64_t room; /* bytes of all segments */
	struct kvh_tool_totals totals;
	int err;
};

/* ---- spaces ---- */

static int compare_spaces(const void *a, const void *b)
{
	const struct space *x = a, *y = b;
	int order = memcmp(x->digest, y->digest, sizeof(x->digest));

	return order != 0 ? order : (x->id > y->id) - (x->id < y->id);
}

static struct space *space_get(struct inspect *inspect, const struct kvh_frame_header *header)
{
	struct space wanted = {.id = header->key.space, .oldest = UINT64_MAX};
	struct space *space;
	void *found;

	memcpy(wanted.digest, header->digest, sizeof(wanted.digest));
	found = tfind(&wanted, &inspect->tree, compare_spaces);
	if (found != NULL)
		return *(struct space **)found;
	space = malloc(sizeof(*space));
	if (space == NULL)
		return NULL;
	*space = wanted;
	if (tsearch(space, &inspect->tree, compare_spaces) == NULL) {
		free(space);
		return NULL;
	}
	inspect->n_spaces++;
	return space;
}

static void take(void *arg, const struct kvh_tool_slot *slot)
{
	struct inspect *inspect = arg;
	struct space *space;

	if (slot->header == NULL)
		return;
	space = space_get(inspect, slot->header);
	if (space == NULL) {
		inspect->err = -ENOMEM;
		return;
	}
	space->frames++;
	space->bytes += slot->bytes;
	if (slot->sequence < space->oldest)
		space->oldest = slot->sequence;
	if (slot->sequence > space->newest)
		space->newest = slot->sequence;
}

static int compare_bytes(const void *a, const void *b)
{
	const struct space *x = *(struct space *const *)a, *y = *(struct space *const *)b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return compare_spaces(x, y);
}

static void list_space(const void *node, VISIT which, void *arg)
{
	struct inspect *inspect = arg;

	if (which == postorder || which == leaf)
		inspect->spaces[inspect->n_spaces++] = *(struct space *const *)node;
}

static int list_spaces(struct inspect *inspect)
{
	inspect->spaces = calloc(inspect->n_spaces + 1, sizeof(struct space *));
	if (inspect->spaces == NULL)
		return -ENOMEM;
	inspect->n_spaces = 0;
	twalk_r(inspect->tree, list_space, inspect);
	qsort(inspect->spaces, inspect->n_spaces, sizeof(struct space *), compare_bytes);
	return 0;
}

/* ---- frame sizes ---- */

static int compare_classes(const void *a, const void *b)
{
	const struct class *x = a, *y = b;

	return (x->slot_bytes > y->slot_bytes) - (x->slot_bytes < y->slot_bytes);
}

static int add_segment(struct inspect *inspect, const struct kvh_nvme_segment_info *in)
{
	struct class wanted = {.slot_bytes = in->slot_bytes};
	struct class *class = lfind(&wanted, inspect->classes, &inspect->n_classes,
				    sizeof(wanted), compare_classes);

	if (class == NULL) {
		class = realloc(inspect->classes, (inspect->n_classes + 1) * sizeof(wanted));
		if (class == NULL)
			return -ENOMEM;
		inspect->classes = class;
		class += inspect->n_classes++;
		*class = wanted;
	}
	class->segments++;
	class->slots += in->slots;
	class->used += in->used;
	return 0;
}

static int list_classes(struct inspect *inspect)
{
	int ret = 0;

	for (uint32_t i = 0; i < inspect->tool.n; i++) {
		const struct kvh_tool_file *file = &inspect->tool.files[i];

		inspect->room += file->info.bytes - file->info.data_offset;
		for (uint32_t s = 0; s < file->info.segments && ret == 0; s++) {
			struct kvh_nvme_segment_info in;

			kvh_nvme_inspect_segment(file->inspect, s, &in);
			ret = add_segment(inspect, &in);
		}
	}
	if (ret == 0)
		qsort(inspect->classes, inspect->n_classes, sizeof(struct class),
		      compare_classes);
	return ret;
}

/* ---- the table ---- */

static double share(const struct inspect *inspect, uint64_t bytes)
{
	return inspect->room == 0 ? 0 : 100.0 * (double)bytes / (double)inspect->room;
}

static void print_state(const struct kvh_nvme_info *info)
{
	if (info->in_use)
		printf("in use by process %" PRIu32, info->owner);
	else if (info->clean == 0)
		printf("not closed in order by process %" PRIu32, info->owner);
	else if (info->snapshot_records > 0)
		printf("closed, with a snapshot of %" PRIu64 " frames", info->snapshot_records);
	else
		printf("closed, without a snapshot");
}

static void print_files(const struct kvh_tool *tool)
{
	for (uint32_t i = 0; i < tool->n; i++) {
		const struct kvh_nvme_info *info = &tool->files[i].info;
		char set[33], bytes[24], segment[24];

		printf("file     %s\n"
		       "         format %" PRIu32 ", stripe %" PRIu32 " of %" PRIu32
		       ", set %s\n"
		       "         %s, %" PRIu32 " segments of %s; ",
		       tool->files[i].path, info->version, info->stripe, info->stripes,
		       kvh_tool_hex(info->uuid, sizeof(info->uuid), set),
		       kvh_size_text(info->bytes, bytes), info->segments,
		       kvh_size_text(info->segment_bytes, segment));
		print_state(info);
		putchar('\n');
	}
}

static void print_classes(const struct inspect *inspect)
{
	printf("\n%-14s %10s %12s %12s\n", "frame size", "segments", "slots", "opened");
	for (size_t i = 0; i < inspect->n_classes; i++) {
		const struct class *class = &inspect->classes[i];
		char bytes[24];

		printf("%-14s %10" PRIu64 " %12" PRIu64 " %12" PRIu64 "\n",
		       class->slot_bytes == 0 ? "none yet"
					      : kvh_size_text(class->slot_bytes, bytes),
		       class->segments, class->slots, class->used);
	}
}

static void print_spaces(const struct inspect *inspect)
{
	printf("\n%-16s %10s %12s %7s  %-40s %s\n", "space", "frames", "bytes", "share",
	       "store sequences", "digest");
	for (size_t i = 0; i < inspect->n_spaces; i++) {
		const struct space *space = inspect->spaces[i];
		char bytes[24], digest[65], range[48];

		(void)snprintf(range, sizeof(range), "%" PRIu64 "..%" PRIu64, space->oldest,
			       space->newest);
		printf("%016" PRIx64 " %10" PRIu64 " %12s %5.1f %%  %-40s %s\n", space->id,
		       space->frames, kvh_size_text(space->bytes, bytes),
		       share(inspect, space->bytes), range,
		       kvh_tool_hex(space->digest, sizeof(space->digest), digest));
	}
}

static void print_table(const struct inspect *inspect)
{
	const struct kvh_tool_totals *totals = &inspect->totals;
	char bytes[24], room[24];

	print_files(&inspect->tool);
	print_classes(inspect);
	print_spaces(inspect);
	printf("\n%" PRIu64 " frames, %s of %s (%.1f %%); %" PRIu64 " damaged headers\n",
	       totals->frames, kvh_size_text(totals->bytes, bytes),
	       kvh_size_text(inspect->room, room), share(inspect, totals->bytes),
	       totals->damaged);
}

/* ---- JSON ---- */

static json_t *classes_json(const struct inspect *inspect)
{
	json_t *list = json_array();

	for (size_t i = 0; i < inspect->n_classes; i++) {
		const struct class *class = &inspect->classes[i];
		json_t *one = json_object();

		kvh_tool_put(one, "frame_bytes", class->slot_bytes);
		kvh_tool_put(one, "segments", class->segments);
		kvh_tool_put(one, "slots", class->slots);
		kvh_tool_put(one, "opened", class->used);
		(void)json_array_append_new(list, one);
	}
	return list;
}

static json_t *spaces_json(const struct inspect *inspect)
{
	json_t *list = json_array();

	for (size_t i = 0; i < inspect->n_spaces; i++) {
		const struct space *space = inspect->spaces[i];
		json_t *one = json_object();
		char id[17], digest[65];

		(void)snprintf(id, sizeof(id), "%016" PRIx64, space->id);
		kvh_tool_put_text(one, "space", id);
		kvh_tool_put_text(one, "digest",
				  kvh_tool_hex(space->digest, sizeof(space->digest), digest));
		kvh_tool_put(one, "frames", space->frames);
		kvh_tool_put(one, "bytes", space->bytes);
		(void)json_object_set_new(one, "share_percent",
					  json_real(share(inspect, space->bytes)));
		kvh_tool_put(one, "oldest_sequence", space->oldest);
		kvh_tool_put(one, "newest_sequence", space->newest);
		(void)json_array_append_new(list, one);
	}
	return list;
}

static json_t *all_json(const struct inspect *inspect)
{
	json_t *object = json_object();

	(void)json_object_set_new(object, "files", kvh_tool_files_json(&inspect->tool));
	(void)json_object_set_new(object, "frame_sizes", classes_json(inspect));
	(void)json_object_set_new(object, "spaces", spaces_json(inspect));
	kvh_tool_put(object, "room_bytes", inspect->room);
	kvh_tool_put(object, "frames", inspect->totals.frames);
	kvh_tool_put(object, "bytes", inspect->totals.bytes);
	kvh_tool_put(object, "blank_slots", inspect->totals.blank);
	kvh_tool_put(object, "damaged_headers", inspect->totals.damaged);
	kvh_tool_put(object, "changed", inspect->totals.changed);
	return object;
}

/* ---- all of it ---- */

static int look(struct inspect *inspect)
{
	int ret = list_classes(inspect);

	if (ret == 0 &&
	    kvh_tool_scan(&inspect->tool, false, take, inspect, &inspect->totals) < 0)
		return -ECANCELED; /* logged */
	if (ret == 0)
		ret = inspect->err;
	if (ret == 0)
		ret = list_spaces(inspect);
	if (ret < 0)
		kvh_err("no memory for what is found");
	return ret;
}

int kvh_tool_inspect(const struct kvh_tool_opts *opts)
{
	struct inspect inspect = {.tree = NULL};
	int status = kvh_tool_open(&inspect.tool, opts);

	if (status != 0)
		return status;
	kvh_tool_remark(&inspect.tool);
	if (look(&inspect) < 0)
		status = KVH_TOOL_REFUSED;
	if (status == 0 && !opts->json)
		print_table(&inspect);
	if (status == 0) {
		uint32_t faults = kvh_tool_faults(&inspect.tool, opts->json ? NULL : stdout);

		if (faults > 0 || inspect.totals.damaged > 0)
			status = KVH_TOOL_DAMAGE;
	}
	if (status != KVH_TOOL_REFUSED && opts->json)
		status = kvh_tool_json(all_json(&inspect), status);
	tdestroy(inspect.tree, free);
	free(inspect.spaces);
	free(inspect.classes);
	kvh_tool_close(&inspect.tool);
	return status;
}
