/* SPDX-License-Identifier: Apache-2.0 */
/*
 * latency_report.c - the forms of what `kvhoist-bench pack --latency` has measured. Names
 * in the JSON are for good. One thread.
 */
#include "bench/latency.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

static const char *direction(bool load)
{
	return load ? "H2D" : "D2H";
}

void kvh_latency_head_print(FILE *out)
{
	fprintf(out, "\nfrom the device's end to the user awake, one job at a time\n");
	fprintf(out, "%-10s %-4s %8s %6s %9s %9s %12s\n", "told by", "dir", "MiB", "jobs",
		"p50", "p99", "mover, cores");
}

void kvh_latency_row_print(FILE *out, const struct kvh_latency_row *row)
{
	char p50[24], p99[24];

	fprintf(out, "%-10s %-4s %8.1f ", kvh_latency_mode_name(row->mode),
		direction(row->load), (double)row->bytes / 1048576);
	if (row->error != 0)
		fprintf(out, "%s\n", strerror(-row->error));
	else
		fprintf(out, "%6" PRIu32 " %9s %9s %12.3f\n", row->n,
			kvh_format_ns(row->p50_ns, p50), kvh_format_ns(row->p99_ns, p99),
			row->mover_cores);
}

void kvh_latency_csv(FILE *out, const struct kvh_latency_report *report)
{
	fputs("told_by,direction,job_bytes,jobs,p50_ns,p99_ns,mover_cores\n", out);
	for (uint32_t i = 0; i < report->n; i++) {
		const struct kvh_latency_row *row = &report->rows[i];

		if (row->error != 0)
			continue;
		fprintf(out, "%s,%s,%" PRIu64 ",%" PRIu32 ",%" PRIu64 ",%" PRIu64 ",%.4f\n",
			kvh_latency_mode_name(row->mode), direction(row->load), row->bytes,
			row->n, row->p50_ns, row->p99_ns, row->mover_cores);
	}
}

static json_t *row_json(const struct kvh_latency_row *row)
{
	json_t *object = json_pack("{s:s, s:s, s:I}", "told_by",
				   kvh_latency_mode_name(row->mode), "direction",
				   direction(row->load), "job_bytes", (json_int_t)row->bytes);

	if (object == NULL)
		return NULL;
	if (row->error != 0) {
		(void)json_object_set_new(object, "error", json_string(strerror(-row->error)));
		return object;
	}
	(void)json_object_set_new(object, "jobs", json_integer(row->n));
	(void)json_object_set_new(object, "p50_ns", json_integer((json_int_t)row->p50_ns));
	(void)json_object_set_new(object, "p99_ns", json_integer((json_int_t)row->p99_ns));
	(void)json_object_set_new(object, "mover_cores", json_real(row->mover_cores));
	return object;
}

struct json_t *kvh_latency_json(const struct kvh_latency_report *report)
{
	json_t *rows = json_array();

	for (uint32_t i = 0; i < report->n; i++)
		(void)json_array_append_new(rows, row_json(&report->rows[i]));
	return rows;
}
