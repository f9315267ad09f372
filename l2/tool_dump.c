/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tool_dump.c - `kvhoist-l2 dump`: lists frames, or writes the payload of one. One
 * thread, but for those of the scan.
 */
#include "l2/tool.h"

#include "host/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct found {
	struct kvh_key key;
	uint64_t sequence, offset, bytes, payload_bytes;
	uint32_t file;
};

struct dump {
	struct kvh_tool tool;
	struct found *found; /* [n] in the order of the files */
	size_t n, room;
	uint64_t damaged;
	int err;
};

/* ---- which ---- */

static void take(void *arg, const struct kvh_tool_slot *slot)
{
	struct dump *dump = arg;

	dump->damaged += slot->header == NULL;
	if (slot->header == NULL || !kvh_tool_matches(dump->tool.opts, slot->header))
		return;
	if (dump->n == dump->room) {
		size_t room = dump->room == 0 ? 1024 : 2 * dump->room;
		struct found *bigger = realloc(dump->found, room * sizeof(*bigger));

		if (bigger == NULL) {
			dump->err = -ENOMEM;
			return;
		}
		dump->found = bigger;
		dump->room = room;
	}
	dump->found[dump->n++] = (struct found){
		.key = slot->key,
		.sequence = slot->sequence,
		.offset = slot->offset,
		.bytes = slot->bytes,
		.payload_bytes = slot->header->payload_bytes,
		.file = slot->file,
	};
}

static int compare_found(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	return (x->offset > y->offset) - (x->offset < y->offset);
}

/* ---- the list ---- */

static json_t *found_json(const struct dump *dump, const struct found *found)
{
	json_t *one = json_object();
	char key[KVH_TOOL_KEY_TEXT], space[17];

	(void)snprintf(space, sizeof(space), "%016" PRIx64, found->key.space);
	kvh_tool_put_text(one, "key", kvh_tool_key_text(&found->key, key));
	kvh_tool_put_text(one, "space", space);
	kvh_tool_put(one, "payload_bytes", found->payload_bytes);
	kvh_tool_put(one, "sequence", found->sequence);
	kvh_tool_put_text(one, "path", dump->tool.files[found->file].path);
	kvh_tool_put(one, "offset", found->offset);
	return one;
}

/* One at a time: a tree of millions would not fit. */
static int list_json(const struct dump *dump)
{
	bool ok = putchar('[') != EOF;

	for (size_t i = 0; i < dump->n && ok; i++) {
		json_t *one = found_json(dump, &dump->found[i]);

		ok = fputs(i == 0 ? "\n" : ",\n", stdout) != EOF &&
		     json_dumpf(one, stdout, 0) == 0;
		json_decref(one);
	}
	return ok && puts("\n]") != EOF ? KVH_TOOL_OK : KVH_TOOL_REFUSED;
}

static int list(const struct dump *dump)
{
	if (dump->tool.opts->json)
		return list_json(dump);
	for (size_t i = 0; i < dump->n; i++) {
		const struct found *found = &dump->found[i];
		char key[KVH_TOOL_KEY_TEXT];

		printf("%s space %016" PRIx64 " bytes %" PRIu64 " sequence %" PRIu64
		       " offset %" PRIu64 " in %s\n",
		       kvh_tool_key_text(&found->key, key), found->key.space,
		       found->payload_bytes, found->sequence, found->offset,
		       dump->tool.files[found->file].path);
	}
	return KVH_TOOL_OK;
}

/* ---- a payload ---- */

/* Of two of one key, which only a crash can leave, the later one. NULL: said. */
static const struct found *choose(const struct dump *dump)
{
	const struct found *best = NULL;

	for (size_t i = 0; i < dump->n; i++) {
		const struct found *found = &dump->found[i];

		if (best != NULL && memcmp(&best->key, &found->key, sizeof(best->key)) != 0) {
			kvh_tool_complain("%zu frames have that hash; say which with "
					  "--key=HASH-RANK-GROUP and --space, as the list "
					  "without --output has them",
					  dump->n);
			return NULL;
		}
		if (best == NULL || found->sequence > best->sequence)
			best = found;
	}
	if (best == NULL)
		kvh_tool_complain("there is no such frame");
	return best;
}

/* Twice, as the adapter may be writing it. */
static int read_frame(const struct dump *dump, const struct found *found, void *frame)
{
	const struct kvh_frame_header *header = frame;
	const struct kvh_tool_file *file = &dump->tool.files[found->file];
	const char *fault = "";
	int ret = -EIO;

	for (int i = 0; i < 2 && ret < 0; i++) {
		ret = kvh_nvme_inspect_read(file->inspect, found->offset, found->bytes, frame);
		if (ret < 0)
			fault = strerrordesc_np(-ret);
		else
			ret = kvh_frame_verify(frame, found->bytes, &found->key, header->digest,
					       &fault);
	}
	if (ret < 0)
		kvh_tool_complain("%s: the frame at offset %" PRIu64
				  " is damaged, it is not written: %s",
				  file->path, found->offset, fault);
	return ret;
}

/* Never over something: a slip of the hand would cost a file. */
static int write_payload(const char *path, const void *frame)
{
	const struct kvh_frame_header *header = frame;
	FILE *out = path == NULL ? stdout : fopen(path, "wbx");
	bool ok;

	if (out == NULL) {
		kvh_tool_complain("--output %s: %s", path, strerror(errno));
		return KVH_TOOL_REFUSED;
	}
	ok = fwrite((const char *)frame + KVH_FRAME_ALIGN, 1, header->payload_bytes, out) ==
	     header->payload_bytes;
	if (path != NULL)
		ok = fclose(out) == 0 && ok;
	if (ok)
		return KVH_TOOL_OK;
	kvh_tool_complain("%s: %s", path == NULL ? "stdout" : path, strerror(errno));
	return KVH_TOOL_REFUSED;
}

static int write_one(const struct dump *dump)
{
	const struct kvh_tool_opts *opts = dump->tool.opts;
	const struct found *found = choose(dump);
	int status = KVH_TOOL_REFUSED;
	void *frame;

	if (found == NULL)
		return KVH_TOOL_REFUSED;
	frame = aligned_alloc(KVH_FRAME_ALIGN, found->bytes);
	if (frame == NULL)
		kvh_tool_complain("no memory for a frame of %" PRIu64 " bytes", found->bytes);
	else if (read_frame(dump, found, frame) < 0)
		status = KVH_TOOL_DAMAGE;
	else
		status = write_payload(opts->output, frame);
	free(frame);
	if (status == KVH_TOOL_OK && opts->output != NULL && opts->json)
		return kvh_tool_json(found_json(dump, found), status);
	return status;
}

/* ---- all of it ---- */

static int look(struct dump *dump)
{
	struct kvh_tool_totals totals;

	if (kvh_tool_scan(&dump->tool, false, take, dump, &totals) < 0)
		return KVH_TOOL_REFUSED;
	if (dump->err < 0) {
		kvh_tool_complain("no memory for the list");
		return KVH_TOOL_REFUSED;
	}
	if (dump->n > 0)
		qsort(dump->found, dump->n, sizeof(*dump->found), compare_found);
	return dump->tool.opts->key.given ? write_one(dump) : list(dump);
}

int kvh_tool_dump(const struct kvh_tool_opts *opts)
{
	struct dump dump = {.found = NULL};
	int status;

	if (opts->key.given && opts->output == NULL &&
	    (opts->json || isatty(STDOUT_FILENO) == 1)) {
		kvh_tool_complain("a payload is bytes, not text: say where to with --output");
		return KVH_TOOL_REFUSED;
	}
	status = kvh_tool_open(&dump.tool, opts);
	if (status != 0)
		return status;
	kvh_tool_remark(&dump.tool);
	status = look(&dump);
	if (status == 0 && dump.damaged > 0) {
		kvh_tool_complain("%" PRIu64 " damaged headers are left out; verify names them",
				  dump.damaged);
		status = KVH_TOOL_DAMAGE;
	}
	free(dump.found);
	kvh_tool_close(&dump.tool);
	return status;
}
