/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_report.c - the two forms of the report. Names in the JSON are for good: a
 * program reads them. One thread.
 */
#include "bench/l2_report.h"

#include "bench/report.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>

static const char *size_text(uint64_t bytes, char text[24])
{
	if (bytes % (1 << 20) == 0)
		(void)snprintf(text, 24, "%" PRIu64 "M", bytes >> 20);
	else if (bytes % (1 << 10) == 0)
		(void)snprintf(text, 24, "%" PRIu64 "K", bytes >> 10);
	else
		(void)snprintf(text, 24, "%" PRIu64, bytes);
	return text;
}

/* ---- the table ---- */

static void row_print(FILE *out, const struct kvh_pairs_row *row)
{
	char size[24], p50[24], p99[24], p999[24], fio[48] = "", cpu[24] = "", calls[24] = "-";
	char rate[24] = "", own_cpu[24] = "";

	if (row->mode != KVH_L2_PROBES) {
		(void)snprintf(rate, sizeof(rate), "%.2f", row->gb_per_s.median);
		(void)snprintf(own_cpu, sizeof(own_cpu), "%.3f", row->cpu_s_per_gb);
	}
	if (row->no_fio == NULL) {
		(void)snprintf(fio, sizeof(fio), "%6.2f %5.1f %% %5.1f-%-5.1f",
			       row->fio_gb_per_s.median, 100 * row->share_of_fio.median,
			       100 * row->share_of_fio.low, 100 * row->share_of_fio.high);
		(void)snprintf(cpu, sizeof(cpu), "%6.3f", row->fio_cpu_s_per_gb);
	}
	if (row->calls_per_frame >= 0)
		(void)snprintf(calls, sizeof(calls), "%.2f", row->calls_per_frame);
	(void)fprintf(out, "%5s %5u %-5s %6s %-26s %9s %9s %9s %6s %6s %6s %-8s %" PRIu64 "\n",
		      size_text(row->frame_bytes, size), row->depth,
		      kvh_l2_mode_name(row->mode), rate, fio, kvh_format_ns(row->p50_ns, p50),
		      kvh_format_ns(row->p99_ns, p99), kvh_format_ns(row->p999_ns, p999),
		      own_cpu, cpu, calls, row->cold, row->frames);
	if (row->mode == KVH_L2_PROBES)
		(void)fprintf(out, "%18s %.0f probes a second\n", "", row->per_s.median);
	else if (row->no_fio != NULL)
		(void)fprintf(out, "%18s no fio: %s\n", "", row->no_fio);
	if (row->misses + row->failed + row->corrupt > 0)
		(void)fprintf(out,
			      "%18s missed %" PRIu64 ", failed %" PRIu64 ", corrupt %" PRIu64
			      "\n",
			      "", row->misses, row->failed, row->corrupt);
}

static void open_print(FILE *out, const struct kvh_open_result *open)
{
	(void)fprintf(out,
		      "\nopen, %" PRIu64 " frames of %" PRIu64 " bytes\n"
		      "  after a clean stop  %8.3f s, %" PRIu64 " frames\n"
		      "  after a kill        %8.3f s, %" PRIu64 " frames\n",
		      open->frames, open->frame_bytes, open->clean_s, open->clean_frames,
		      open->crash_s, open->crash_frames);
	if (open->fio_s > 0)
		(void)fprintf(out,
			      "  fio, as many reads  %8.3f s; the open after a kill takes "
			      "%.2f times that\n",
			      open->fio_s, open->crash_s / open->fio_s);
}

void kvh_l2_report_table(FILE *out, const struct kvh_l2_report *report)
{
	(void)fprintf(out, "%s%s, checksums %s; fio: %s\n", report->spec,
		      report->raw ? " (raw: the adapter alone)" : "",
		      report->verify && !report->raw ? "on" : "off", report->fio);
	if (report->n_rows > 0)
		(void)fprintf(out,
			      "median of %u pairs of %.1f s; share: its middle half behind it\n"
			      "%5s %5s %-5s %6s %-26s %9s %9s %9s %6s %6s %6s %-8s %s\n",
			      report->pairs, report->seconds, "size", "depth", "mode", "GB/s",
			      "   fio share of fio", "p50", "p99", "p999", "CPUs/G", "fio's",
			      "calls", "reads", "frames");
	for (uint32_t i = 0; i < report->n_rows; i++)
		row_print(out, &report->rows[i]);
	if (report->open != NULL)
		open_print(out, report->open);
}

/* ---- JSON ---- */

static void set_spread(json_t *object, const char *name, const struct kvh_spread *spread)
{
	char low[64], high[64];

	(void)snprintf(low, sizeof(low), "%s_low", name);
	(void)snprintf(high, sizeof(high), "%s_high", name);
	(void)json_object_set_new(object, name, json_real(spread->median));
	(void)json_object_set_new(object, low, json_real(spread->low));
	(void)json_object_set_new(object, high, json_real(spread->high));
}

static json_t *real_or_null(bool known, double value)
{
	return known ? json_real(value) : json_null();
}

static json_t *row_json(const struct kvh_pairs_row *row)
{
	json_t *o = json_pack(
		"{s:I, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
		"frame_bytes", (json_int_t)row->frame_bytes, "depth", (json_int_t)row->depth,
		"mode", kvh_l2_mode_name(row->mode), "reads", row->cold, "pairs",
		(json_int_t)row->pairs, "run_frames", (json_int_t)row->run_frames, "p50_ns",
		(json_int_t)row->p50_ns, "p99_ns", (json_int_t)row->p99_ns, "p999_ns",
		(json_int_t)row->p999_ns, "frames", (json_int_t)row->frames, "missed",
		(json_int_t)row->misses, "failed", (json_int_t)row->failed, "corrupt",
		(json_int_t)row->corrupt);
	bool fio = row->no_fio == NULL, moves = row->mode != KVH_L2_PROBES;

	set_spread(o, "gb_per_s", &row->gb_per_s);
	set_spread(o, "frames_per_s", &row->per_s);
	if (fio) {
		set_spread(o, "fio_gb_per_s", &row->fio_gb_per_s);
		set_spread(o, "share_of_fio", &row->share_of_fio);
	} else {
		(void)json_object_set_new(o, "share_of_fio", json_null());
		(void)json_object_set_new(o, "no_fio", json_string(row->no_fio));
	}
	(void)json_object_set_new(o, "cpu_s_per_gb", real_or_null(moves, row->cpu_s_per_gb));
	(void)json_object_set_new(o, "fio_cpu_s_per_gb",
				  real_or_null(fio, row->fio_cpu_s_per_gb));
	(void)json_object_set_new(
		o, "calls_per_frame",
		real_or_null(row->calls_per_frame >= 0, row->calls_per_frame));
	return o;
}

static json_t *open_json(const struct kvh_open_result *open)
{
	bool fio = open->fio_s > 0;
	json_t *o = json_pack("{s:I, s:I, s:f, s:I, s:f, s:I}", "open_frames",
			      (json_int_t)open->frames, "open_frame_bytes",
			      (json_int_t)open->frame_bytes, "open_clean_s", open->clean_s,
			      "open_clean_frames", (json_int_t)open->clean_frames,
			      "open_crash_s", open->crash_s, "open_crash_frames",
			      (json_int_t)open->crash_frames);

	(void)json_object_set_new(o, "fio_reads_s", real_or_null(fio, open->fio_s));
	(void)json_object_set_new(o, "open_crash_by_fio",
				  real_or_null(fio, fio ? open->crash_s / open->fio_s : 0));
	return o;
}

int kvh_l2_report_json(FILE *out, const struct kvh_l2_report *report)
{
	json_t *root = json_pack("{s:s, s:b, s:b, s:s, s:I, s:f}", "adapter", report->spec,
				 "raw", report->raw, "verify", report->verify && !report->raw,
				 "fio", report->fio, "pairs", (json_int_t)report->pairs,
				 "seconds", report->seconds);
	json_t *rows = json_array();
	int err;

	for (uint32_t i = 0; i < report->n_rows; i++)
		(void)json_array_append_new(rows, row_json(&report->rows[i]));
	if (report->open != NULL)
		(void)json_object_set_new(root, "open", open_json(report->open));
	err = root == NULL || rows == NULL ? -ENOMEM : json_object_set_new(root, "rows", rows);
	if (err == 0)
		err = json_dumpf(root, out, JSON_INDENT(2)) < 0 ? -ENOMEM : 0;
	json_decref(root);
	(void)fputc('\n', out);
	return err;
}
