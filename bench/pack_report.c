/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_report.c - the forms of what `kvhoist-bench pack` has measured. Names in the
 * JSON are for good. One thread.
 */
#include "bench/pack_report.h"

#include "bench/figures.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- rows --------------------------------------------------------------- */

/* Room for one more, zeroed; NULL: no memory. */
static void *grow(void *array_p, size_t *n, size_t *room, size_t size)
{
	void **array = array_p;
	char *at;

	if (*n == *room) {
		size_t more = *room == 0 ? 64 : 2 * *room;
		void *bigger = realloc(*array, more * size);

		if (bigger == NULL)
			return NULL;
		*array = bigger;
		*room = more;
	}
	at = (char *)*array + (*n)++ * size;
	memset(at, 0, size);
	return at;
}

struct kvh_pack_row *kvh_pack_report_row(struct kvh_pack_report *report)
{
	return grow(&report->rows, &report->n_rows, &report->room, sizeof(report->rows[0]));
}

struct kvh_pack_both *kvh_pack_report_both(struct kvh_pack_report *report)
{
	return grow(&report->both, &report->n_both, &report->both_room,
		    sizeof(report->both[0]));
}

void kvh_pack_report_free(struct kvh_pack_report *report)
{
	free(report->rows);
	free(report->both);
	kvh_beside_report_free(&report->beside);
	memset(report, 0, sizeof(*report));
}

/* Ways of others need not go; ours do, but for one way with a shape that it is not for. */
static bool row_is_right(const struct kvh_pack_row *row)
{
	if (row->error == 0)
		return row->right;
	return row->way < KVH_WAY_KVHOIST || row->error == -EOPNOTSUPP;
}

bool kvh_pack_report_right(const struct kvh_pack_report *report)
{
	for (size_t i = 0; i < report->n_rows; i++)
		if (!row_is_right(&report->rows[i]))
			return false;
	for (size_t i = 0; i < report->n_both; i++)
		if (!report->both[i].right)
			return false;
	return kvh_beside_report_right(&report->beside) &&
	       (report->latency.n == 0 || report->latency.right);
}

const char *kvh_pack_report_device(const struct kvh_pack_report *report)
{
	return report->device.n_sms != 0 ? report->device.name : "host device";
}

static const char *direction(bool load)
{
	return load ? "H2D" : "D2H";
}

/* "2K", "32M": as --fragments takes them. `text` has room for 24. */
static const char *size_text(uint64_t bytes, char *text)
{
	if (bytes % (1u << 20) == 0)
		(void)snprintf(text, 24, "%" PRIu64 "M", bytes >> 20);
	else if (bytes % 1024 == 0)
		(void)snprintf(text, 24, "%" PRIu64 "K", bytes >> 10);
	else
		(void)snprintf(text, 24, "%" PRIu64, bytes);
	return text;
}

/* ---- table -------------------------------------------------------------- */

void kvh_pack_report_head(FILE *out, const struct kvh_pack_report *report)
{
	if (report->device.n_sms == 0)
		fprintf(out, "no device: this is the host device, whose copies the processor "
			     "makes; its rates say nothing about a GPU\n");
	fprintf(out, "device: %s%s%s\n", report->device.name,
		report->device.driver[0] != '\0' ? ", driver " : "", report->device.driver);
	fprintf(out,
		"link: D2H %.2f GB/s, H2D %.2f GB/s, both %.2f GB/s (%" PRIu64
		" MiB contiguous, median)\n",
		report->link_store, report->link_load, report->link_both,
		report->link_bytes >> 20);
}

void kvh_pack_rows_head(FILE *out)
{
	fprintf(out, "\n%-10s %-4s %8s %8s %-10s %8s %7s %10s %10s %6s %9s %9s\n", "way", "dir",
		"fragment", "frame", "pages", "GB/s", "link", "submit", "others", "cores",
		"p50", "p99");
	fprintf(out, "%-10s %-4s %8s %8s %-10s %8s %7s %10s %10s\n", "", "", "", "", "", "", "",
		"us/GB", "us/GB");
}

void kvh_pack_row_print(FILE *out, const struct kvh_pack_row *row)
{
	char fragment[24], payload[24], p50[24], p99[24];

	fprintf(out, "%-10s %-4s %8s %8s %-10s ", kvh_way_name(row->way), direction(row->load),
		size_text(row->fragment, fragment), size_text(row->payload, payload),
		kvh_pages_order_name(row->order));
	if (row->error != 0) {
		fprintf(out, "%s\n",
			row->error == -EOPNOTSUPP ? "not with this shape"
						  : strerror(-row->error));
		return;
	}
	fprintf(out, "%8.2f %6.1f%% %10.0f %10.0f %6.3f %9s %9s  %s%s\n", row->rate,
		100 * row->share, row->submit_us_per_gb, row->other_us_per_gb,
		kvh_pack_row_cores(row), kvh_format_ns(row->p50_ns, p50),
		kvh_format_ns(row->p99_ns, p99), row->decided,
		row->right ? "" : "  WRONG BYTES");
}

void kvh_pack_both_print(FILE *out, const struct kvh_pack_both *both)
{
	char fragment[24], payload[24];

	fprintf(out, "%-10s %-4s %8s %8s %-10s %8.2f %6.1f%%%s\n", "kvhoist", "both",
		size_text(both->fragment, fragment), size_text(both->payload, payload),
		"shuffled", both->rate, 100 * both->share, both->right ? "" : "  WRONG BYTES");
}

/* ---- JSON, CSV ---------------------------------------------------------- */

static json_t *row_json(const struct kvh_pack_row *row)
{
	json_t *object = json_pack(
		"{s:s, s:s, s:I, s:I, s:s, s:I}", "way", kvh_way_name(row->way), "direction",
		direction(row->load), "fragment_bytes", (json_int_t)row->fragment,
		"frame_bytes", (json_int_t)row->payload, "pages",
		kvh_pages_order_name(row->order), "sample_bytes", (json_int_t)row->bytes);

	if (object == NULL)
		return NULL;
	if (row->error != 0) {
		(void)json_object_set_new(object, "error", json_string(strerror(-row->error)));
		return object;
	}
	if (row->decided[0] != '\0')
		(void)json_object_set_new(object, "decided", json_string(row->decided));
	(void)json_object_set_new(object, "gb_per_s", json_real(row->rate));
	(void)json_object_set_new(object, "share_of_link", json_real(row->share));
	(void)json_object_set_new(object, "submit_us_per_gb", json_real(row->submit_us_per_gb));
	(void)json_object_set_new(object, "other_us_per_gb", json_real(row->other_us_per_gb));
	(void)json_object_set_new(object, "cores", json_real(kvh_pack_row_cores(row)));
	(void)json_object_set_new(object, "p50_ns", json_integer((json_int_t)row->p50_ns));
	(void)json_object_set_new(object, "p99_ns", json_integer((json_int_t)row->p99_ns));
	(void)json_object_set_new(object, "right", json_boolean(row->right));
	return object;
}

static json_t *both_json(const struct kvh_pack_both *both)
{
	return json_pack("{s:I, s:I, s:f, s:f, s:b}", "fragment_bytes",
			 (json_int_t)both->fragment, "frame_bytes", (json_int_t)both->payload,
			 "gb_per_s", both->rate, "share_of_link", both->share, "right",
			 (int)both->right);
}

int kvh_pack_report_json(FILE *out, const struct kvh_pack_report *report)
{
	struct kvh_figure list[KVH_FIGURES_MAX];
	json_t *rows = json_array(), *both = json_array(), *figures, *object;
	int rc;

	for (size_t i = 0; i < report->n_rows; i++)
		(void)json_array_append_new(rows, row_json(&report->rows[i]));
	for (size_t i = 0; i < report->n_both; i++)
		(void)json_array_append_new(both, both_json(&report->both[i]));
	figures = report->device.n_sms != 0
			  ? kvh_figures_json(list, kvh_figures_of(report, list))
			  : json_array();
	object = json_pack(
		"{s:s, s:s, s:b, s:f, s:f, s:f, s:I, s:o, s:o, s:o, s:o, s:I, s:f, s:o}",
		"device", report->device.name, "driver", report->device.driver, "gpu",
		(int)(report->device.n_sms != 0), "link_d2h_gb_per_s", report->link_store,
		"link_h2d_gb_per_s", report->link_load, "link_both_gb_per_s", report->link_both,
		"link_bytes", (json_int_t)report->link_bytes, "rows", rows, "both", both,
		"beside", kvh_beside_json(&report->beside), "latency",
		kvh_latency_json(&report->latency), "pin_bytes", (json_int_t)report->pin_bytes,
		"pin_gb_per_s", report->pin_rate, "figures", figures);
	if (object == NULL)
		return -ENOMEM;
	rc = json_dumpf(object, out, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	json_decref(object);
	(void)fputc('\n', out);
	return rc == 0 ? 0 : -ENOMEM;
}

static void rows_csv(FILE *out, const struct kvh_pack_report *report)
{
	fputs("way,direction,fragment_bytes,frame_bytes,pages,sample_bytes,gb_per_s,"
	      "share_of_link,submit_us_per_gb,other_us_per_gb,p50_ns,p99_ns,right\n",
	      out);
	for (size_t i = 0; i < report->n_rows; i++) {
		const struct kvh_pack_row *row = &report->rows[i];

		if (row->error != 0)
			continue;
		fprintf(out,
			"%s,%s,%" PRIu64 ",%" PRIu64 ",%s,%" PRIu64
			",%.4f,%.5f,%.1f,%.1f,%" PRIu64 ",%" PRIu64 ",%d\n",
			kvh_way_name(row->way), direction(row->load), row->fragment,
			row->payload, kvh_pages_order_name(row->order), row->bytes, row->rate,
			row->share, row->submit_us_per_gb, row->other_us_per_gb, row->p50_ns,
			row->p99_ns, row->right);
	}
}

void kvh_pack_report_csv(FILE *out, const struct kvh_pack_report *report)
{
	const char *before = "";

	if (report->n_rows > 0) {
		rows_csv(out, report);
		before = "\n";
	}
	if (report->beside.n > 0) {
		fputs(before, out);
		kvh_beside_csv(out, &report->beside);
		before = "\n";
	}
	if (report->latency.n > 0) {
		fputs(before, out);
		kvh_latency_csv(out, &report->latency);
	}
}

/* ---- plot --------------------------------------------------------------- */

#define PLOT_W  760
#define PLOT_H  420
#define MARGIN  60
#define LEGEND  150
#define PLOTTED (PLOT_W - MARGIN - LEGEND)

static const char *const colours[KVH_WAYS] = {"#888888", "#1f77b4", "#2ca02c", "#d62728",
					      "#000000", "#9467bd", "#ff7f0e"};

/* The payload of the widest range of fragments: that of the most plotted rows. */
static uint64_t plotted_payload(const struct kvh_pack_report *report)
{
	uint64_t best = 0;
	size_t most = 0;

	for (size_t i = 0; i < report->n_rows; i++) {
		size_t n = 0;

		for (size_t j = 0; j < report->n_rows; j++)
			n += report->rows[j].payload == report->rows[i].payload;
		if (n > most) {
			most = n;
			best = report->rows[i].payload;
		}
	}
	return best;
}

static double plot_x(uint64_t fragment)
{
	/* 1 KiB to 256 KiB, by powers of two. */
	return MARGIN + PLOTTED * (log2((double)fragment) - 10) / 8;
}

static double plot_y(double share)
{
	return PLOT_H - MARGIN - (PLOT_H - 2 * MARGIN) * (share > 1.1 ? 1.1 : share) / 1.1;
}

static void plot_axes(FILE *out)
{
	for (int percent = 0; percent <= 100; percent += 20)
		fprintf(out,
			"<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' stroke='#dddddd'/>"
			"<text x='%d' y='%.1f' text-anchor='end'>%d %%</text>\n",
			MARGIN, MARGIN + PLOTTED, plot_y(percent / 100.0),
			plot_y(percent / 100.0), MARGIN - 6, plot_y(percent / 100.0) + 4,
			percent);
	for (uint64_t f = 1024; f <= 256 * 1024; f *= 2) {
		char text[24];

		fprintf(out, "<text x='%.1f' y='%d' text-anchor='middle'>%s</text>\n",
			plot_x(f), PLOT_H - MARGIN + 18, size_text(f, text));
	}
	fprintf(out,
		"<text x='%d' y='%d' text-anchor='middle'>bytes that a page has of a plane"
		"</text>\n",
		MARGIN + PLOTTED / 2, PLOT_H - MARGIN + 38);
}

static void plot_line(FILE *out, const struct kvh_pack_report *report, uint64_t payload,
		      enum kvh_way way, bool load)
{
	int row_y = MARGIN + 18 * (2 * (int)way + load);
	bool any = false;

	for (size_t i = 0; i < report->n_rows; i++) {
		const struct kvh_pack_row *row = &report->rows[i];

		if (row->way != way || row->load != load || row->payload != payload ||
		    row->order != KVH_PAGES_SHUFFLED || row->error != 0)
			continue;
		fprintf(out, "%s%.1f,%.1f", any ? " " : "<polyline points='",
			plot_x(row->fragment), plot_y(row->share));
		any = true;
	}
	if (!any)
		return;
	fprintf(out, "' fill='none' stroke='%s' stroke-width='2'%s/>\n", colours[way],
		load ? " stroke-dasharray='6 3'" : "");
	fprintf(out,
		"<line x1='%d' x2='%d' y1='%d' y2='%d' stroke='%s' stroke-width='2'%s/>"
		"<text x='%d' y='%d'>%s %s</text>\n",
		MARGIN + PLOTTED + 12, MARGIN + PLOTTED + 40, row_y, row_y, colours[way],
		load ? " stroke-dasharray='6 3'" : "", MARGIN + PLOTTED + 46, row_y + 4,
		kvh_way_name(way), direction(load));
}

void kvh_pack_report_svg(FILE *out, const struct kvh_pack_report *report)
{
	uint64_t payload = plotted_payload(report);
	char text[24];

	fprintf(out,
		"<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' "
		"font-family='sans-serif' font-size='12'>\n"
		"<rect width='%d' height='%d' fill='white'/>\n"
		"<text x='%d' y='28' font-size='15'>Share of the link by fragment, frames of "
		"%s, shuffled pages: %s</text>\n",
		PLOT_W, PLOT_H, PLOT_W, PLOT_H, MARGIN, size_text(payload, text),
		kvh_pack_report_device(report));
	plot_axes(out);
	for (int way = 0; way < KVH_WAYS; way++)
		for (int load = 0; load < 2; load++)
			plot_line(out, report, payload, (enum kvh_way)way, load != 0);
	fputs("</svg>\n", out);
}
