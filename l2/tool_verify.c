/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tool_verify.c - `kvhoist-l2 verify`: reads every frame and compares header, sizes
 * and the checksum of all of it, which is bound to key, space and sequence. Names each
 * that is damaged. One thread, but for those of the scan.
 */
#include "l2/tool.h"

#include <inttypes.h>

struct verify {
	const struct kvh_tool *tool;
	json_t *damaged; /* with --json */
};

static void take_json(struct verify *verify, const struct kvh_tool_slot *slot)
{
	json_t *one = json_object();
	char key[KVH_TOOL_KEY_TEXT], space[17];

	(void)snprintf(space, sizeof(space), "%016" PRIx64, slot->key.space);
	kvh_tool_put_text(one, "path", verify->tool->files[slot->file].path);
	kvh_tool_put(one, "segment", slot->segment);
	kvh_tool_put(one, "slot", slot->slot);
	kvh_tool_put(one, "offset", slot->offset);
	kvh_tool_put(one, "bytes", slot->bytes);
	kvh_tool_put_text(one, "fault", slot->fault);
	if (slot->named) {
		kvh_tool_put_text(one, "key", kvh_tool_key_text(&slot->key, key));
		kvh_tool_put_text(one, "space", space);
	}
	(void)json_array_append_new(verify->damaged, one);
}

static void take(void *arg, const struct kvh_tool_slot *slot)
{
	struct verify *verify = arg;
	char key[KVH_TOOL_KEY_TEXT], bytes[24];

	if (slot->fault == NULL)
		return;
	if (verify->damaged != NULL) {
		take_json(verify, slot);
		return;
	}
	printf("damaged  %s: segment %" PRIu32 ", slot %" PRIu32 ", offset %" PRIu64
	       " (%s): %s",
	       verify->tool->files[slot->file].path, slot->segment, slot->slot, slot->offset,
	       kvh_size_text(slot->bytes, bytes), slot->fault);
	if (slot->named)
		printf("; key %s, space %016" PRIx64, kvh_tool_key_text(&slot->key, key),
		       slot->key.space);
	putchar('\n');
}

static void print_totals(const struct kvh_tool *tool, const struct kvh_tool_totals *totals)
{
	char bytes[24];

	printf("%" PRIu64 " frames are sound (%s, %.2f GB/s), %" PRIu64 " damaged",
	       totals->frames, kvh_size_text(totals->bytes, bytes),
	       kvh_tool_rate(totals->bytes, totals->ns), totals->damaged);
	if (totals->changed > 0)
		printf(", %" PRIu64 " changed meanwhile", totals->changed);
	putchar('\n');
	for (uint32_t i = 0; i < tool->n; i++) {
		const struct kvh_nvme_info *info = &tool->files[i].info;

		if (totals->damaged > 0 && info->clean == 0 && !info->in_use)
			printf("%s was not closed in order: what was being written then may be "
			       "among the damaged\n",
			       tool->files[i].path);
	}
}

static json_t *totals_json(const struct verify *verify, const struct kvh_tool_totals *totals)
{
	json_t *object = json_object();

	kvh_tool_put(object, "frames", totals->frames);
	kvh_tool_put(object, "bytes", totals->bytes);
	kvh_tool_put(object, "blank_slots", totals->blank);
	kvh_tool_put(object, "changed", totals->changed);
	(void)json_object_set_new(object, "seconds", json_real((double)totals->ns / 1e9));
	(void)json_object_set_new(object, "gb_per_s",
				  json_real(kvh_tool_rate(totals->bytes, totals->ns)));
	(void)json_object_set_new(object, "damaged", verify->damaged);
	(void)json_object_set_new(object, "files", kvh_tool_files_json(verify->tool));
	return object;
}

int kvh_tool_verify(const struct kvh_tool_opts *opts)
{
	struct kvh_tool_totals totals;
	struct kvh_tool tool;
	struct verify verify = {.tool = &tool};
	int status = kvh_tool_open(&tool, opts);

	if (status != 0)
		return status;
	kvh_tool_remark(&tool);
	verify.damaged = opts->json ? json_array() : NULL;
	if (kvh_tool_faults(&tool, opts->json ? NULL : stdout) > 0)
		status = KVH_TOOL_DAMAGE;
	if (kvh_tool_scan(&tool, true, take, &verify, &totals) < 0) {
		json_decref(verify.damaged);
		kvh_tool_close(&tool);
		return KVH_TOOL_REFUSED;
	}
	if (totals.damaged > 0)
		status = KVH_TOOL_DAMAGE;
	if (opts->json)
		status = kvh_tool_json(totals_json(&verify, &totals), status);
	else
		print_totals(&tool, &totals);
	kvh_tool_close(&tool);
	return status;
}
