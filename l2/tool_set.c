/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tool_set.c - the files that kvhoist-l2 was given: opened for reading, and found to
 * be stripes of one set. One thread.
 */
#include "l2/tool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What is no file is not opened: a FIFO would wait for a writer. */
static int check_kind(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0) {
		kvh_tool_complain("%s: %s", path, strerror(errno));
		return -errno;
	}
	if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
		return 0;
	if (S_ISDIR(st.st_mode))
		kvh_tool_complain("%s is a directory, as the fs adapter has, whose frames are "
				  "files in it; wanted is a file or device of the nvme adapter",
				  path);
	else
		kvh_tool_complain("%s is neither a file nor a block device", path);
	return -EINVAL;
}

static int file_open(struct kvh_tool_file *file, const char *path)
{
	int ret = check_kind(path);

	if (ret < 0)
		return ret;
	ret = kvh_nvme_inspect_open(path, &kvh_io_system, NULL, &file->inspect);
	if (ret < 0)
		return ret;
	file->path = path;
	kvh_nvme_inspect_info(file->inspect, &file->info);
	return 0;
}

static int compare_stripes(const void *a, const void *b)
{
	const struct kvh_tool_file *x = a, *y = b;

	return (x->info.stripe > y->info.stripe) - (x->info.stripe < y->info.stripe);
}

static int check_set(const struct kvh_tool *tool)
{
	const struct kvh_tool_file *first = &tool->files[0];

	for (uint32_t i = 1; i < tool->n; i++) {
		const struct kvh_tool_file *file = &tool->files[i];

		if (memcmp(file->info.uuid, first->info.uuid, sizeof(first->info.uuid)) != 0) {
			kvh_tool_complain("%s is a stripe of another set than %s; give those "
					  "of one set",
					  file->path, first->path);
			return KVH_TOOL_REFUSED;
		}
		if (file->info.stripe == file[-1].info.stripe) {
			kvh_tool_complain("%s and %s are both stripe %" PRIu32 " of %" PRIu32
					  "; give each once",
					  file[-1].path, file->path, file->info.stripe,
					  file->info.stripes);
			return KVH_TOOL_REFUSED;
		}
	}
	return 0;
}

int kvh_tool_open(struct kvh_tool *tool, const struct kvh_tool_opts *opts)
{
	int status = 0;

	*tool = (struct kvh_tool){.opts = opts};
	for (uint32_t i = 0; i < opts->n_paths && status == 0; i++) {
		status = kvh_tool_status(file_open(&tool->files[i], opts->paths[i]));
		tool->n += status == 0;
	}
	if (status == 0) {
		qsort(tool->files, tool->n, sizeof(tool->files[0]), compare_stripes);
		status = check_set(tool);
	}
	if (status != 0)
		kvh_tool_close(tool);
	return status;
}

void kvh_tool_close(struct kvh_tool *tool)
{
	for (uint32_t i = 0; i < tool->n; i++)
		kvh_nvme_inspect_close(tool->files[i].inspect);
	tool->n = 0;
}

/* ---- what is to be said of them ---- */

void kvh_tool_remark(const struct kvh_tool *tool)
{
	uint32_t stripes = tool->files[0].info.stripes;

	if (tool->opts->quiet)
		return;
	for (uint32_t i = 0; i < tool->n; i++) {
		if (tool->files[i].info.in_use)
			kvh_tool_complain("%s is in use by process %" PRIu32
					  ": what looks damaged is read twice, as it may be "
					  "changing",
					  tool->files[i].path, tool->files[i].info.owner);
	}
	if (tool->n < stripes)
		kvh_tool_complain("%" PRIu32 " of the %" PRIu32
				  " stripes of the set are not given",
				  stripes - tool->n, stripes);
}

static void print_count(FILE *out, const char *path, uint32_t n, const char *what)
{
	if (out != NULL && n > 0)
		(void)fprintf(out, "damaged  %s: %" PRIu32 " %s\n", path, n, what);
}

uint32_t kvh_tool_faults(const struct kvh_tool *tool, FILE *out)
{
	uint32_t faults = 0;

	for (uint32_t i = 0; i < tool->n; i++) {
		const struct kvh_nvme_info *info = &tool->files[i].info;
		const char *path = tool->files[i].path;
		bool cut = info->file_bytes < info->bytes;

		print_count(out, path, info->bad_super_copies,
			    "of 2 copies of the superblock; the other one counts");
		print_count(out, path, info->bad_table_copies,
			    "copies of pages of the segment table");
		print_count(out, path, info->bad_table_pages,
			    "pages of the segment table in both copies: their frames are lost");
		if (cut && out != NULL)
			(void)fprintf(out,
				      "damaged  %s: cut, %" PRIu64 " of %" PRIu64
				      " bytes are there\n",
				      path, info->file_bytes, info->bytes);
		faults += info->bad_super_copies + info->bad_table_copies + cut;
	}
	return faults;
}

static json_t *file_json(const struct kvh_tool_file *file)
{
	const struct kvh_nvme_info *info = &file->info;
	json_t *object = json_object();
	char set[33];

	kvh_tool_put_text(object, "path", file->path);
	kvh_tool_put(object, "version", info->version);
	kvh_tool_put_text(object, "set", kvh_tool_hex(info->uuid, sizeof(info->uuid), set));
	kvh_tool_put(object, "stripe", info->stripe);
	kvh_tool_put(object, "stripes", info->stripes);
	kvh_tool_put(object, "bytes", info->bytes);
	kvh_tool_put(object, "file_bytes", info->file_bytes);
	kvh_tool_put(object, "segments", info->segments);
	kvh_tool_put(object, "segment_bytes", info->segment_bytes);
	kvh_tool_put(object, "snapshot_frames", info->snapshot_records);
	(void)json_object_set_new(object, "closed_in_order", json_boolean(info->clean != 0));
	(void)json_object_set_new(object, "in_use", json_boolean(info->in_use));
	kvh_tool_put(object, "process", info->owner);
	kvh_tool_put(object, "damaged_superblocks", info->bad_super_copies);
	kvh_tool_put(object, "damaged_table_copies", info->bad_table_copies);
	kvh_tool_put(object, "lost_table_pages", info->bad_table_pages);
	return object;
}

json_t *kvh_tool_files_json(const struct kvh_tool *tool)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < tool->n; i++)
		(void)json_array_append_new(list, file_json(&tool->files[i]));
	return list;
}
