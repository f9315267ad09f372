/* SPDX-License-Identifier: Apache-2.0 */
/*
 * beside_report.c - the forms of what kernels lost. Names in the JSON are for good. One
 * thread.
 */
#include "bench/beside.h"
#include "bench/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

static const char *direction(bool load)
{
	return load ? "H2D" : "D2H";
}

/* ---- table, CSV, JSON --------------------------------------------------- */

void kvh_beside_head_print(FILE *out, const char *how)
{
	fprintf(out, "\nbeside other kernels: GEMMs by %s\n", how);
	fprintf(out, "slower: median of neighbouring samples, and their middle half; more: "
		     "than beside the link's own copies\n");
	fprintf(out, "%-15s %-8s %-4s %8s %9s %9s %7s %15s %6s %7s %7s\n", "kernel", "way",
		"dir", "fragment", "alone", "beside", "slower", "", "more", "GB/s", "link");
}

void kvh_beside_row_print(FILE *out, const struct kvh_beside_row *row)
{
	char alone[24], beside[24], fragment[24], half[32], more[16] = "";

	(void)snprintf(fragment, sizeof(fragment), "%" PRIu64 "K", row->fragment >> 10);
	fprintf(out, "%-15s %-8s %-4s %8s ", kvh_load_name(row->kernel),
		kvh_pump_way_name(row->way), direction(row->load),
		row->fragment == 0 ? "" : fragment);
	if (row->error != 0) {
		fprintf(out, "%s\n", strerror(-row->error));
		return;
	}
	(void)snprintf(half, sizeof(half), "%.1f..%.1f", 100 * row->slower.low,
		       100 * row->slower.high);
	if (row->has_link)
		(void)snprintf(more, sizeof(more), "%+.1f", 100 * row->over_link);
	fprintf(out, "%9s %9s %6.1f%% %15s %6s %7.2f %6.1f%%%s\n",
		kvh_format_ns((uint64_t)row->alone_ns, alone),
		kvh_format_ns((uint64_t)row->beside_ns, beside), 100 * row->slower.median, half,
		more, row->rate, 100 * row->share, row->right ? "" : "  WRONG");
}

void kvh_beside_csv(FILE *out, const struct kvh_beside_report *report)
{
	fputs("kernel,way,direction,fragment_bytes,launches,alone_ns,beside_ns,slower,"
	      "slower_low,slower_high,over_link,gb_per_s,share_of_link,right\n",
	      out);
	for (size_t i = 0; i < report->n; i++) {
		const struct kvh_beside_row *row = &report->rows[i];
		char over[32] = "";

		if (row->error != 0)
			continue;
		if (row->has_link)
			(void)snprintf(over, sizeof(over), "%.5f", row->over_link);
		fprintf(out,
			"%s,%s,%s,%" PRIu64 ",%" PRIu32
			",%.0f,%.0f,%.5f,%.5f,%.5f,%s,%.4f,%.5f,%d\n",
			kvh_load_name(row->kernel), kvh_pump_way_name(row->way),
			direction(row->load), row->fragment, row->launches, row->alone_ns,
			row->beside_ns, row->slower.median, row->slower.low, row->slower.high,
			over, row->rate, row->share, row->right);
	}
}

static json_t *row_json(const struct kvh_beside_row *row)
{
	json_t *object = json_pack("{s:s, s:s, s:s, s:I}", "kernel", kvh_load_name(row->kernel),
				   "way", kvh_pump_way_name(row->way), "direction",
				   direction(row->load), "fragment_bytes",
				   (json_int_t)row->fragment);

	if (object == NULL)
		return NULL;
	if (row->error != 0) {
		(void)json_object_set_new(object, "error", json_string(strerror(-row->error)));
		return object;
	}
	(void)json_object_set_new(object, "launches", json_integer(row->launches));
	(void)json_object_set_new(object, "alone_ns", json_real(row->alone_ns));
	(void)json_object_set_new(object, "beside_ns", json_real(row->beside_ns));
	(void)json_object_set_new(object, "slower", json_real(row->slower.median));
	(void)json_object_set_new(object, "slower_low", json_real(row->slower.low));
	(void)json_object_set_new(object, "slower_high", json_real(row->slower.high));
	if (row->has_link)
		(void)json_object_set_new(object, "over_link", json_real(row->over_link));
	(void)json_object_set_new(object, "gb_per_s", json_real(row->rate));
	(void)json_object_set_new(object, "share_of_link", json_real(row->share));
	(void)json_object_set_new(object, "right", json_boolean(row->right));
	return object;
}

struct json_t *kvh_beside_json(const struct kvh_beside_report *report)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < report->n; i++)
		(void)json_array_append_new(rows, row_json(&report->rows[i]));
	return json_pack("{s:s, s:o}", "gemm", report->how, "rows", rows);
}

/* ---- plot --------------------------------------------------------------- */

#define PLOT_W  760
#define PLOT_H  420
#define MARGIN  60
#define LEGEND  170
#define PLOTTED (PLOT_W - MARGIN - LEGEND)

static const char *const colours[KVH_PUMP_WAYS] = {"#888888", "#d62728", "#2ca02c"};

/* Of the axes: the least round numbers that have everything in them. */
struct plot {
	double rate, low, high; /* GB/s; slower, in percent */
};

static struct plot plot_scale(const struct kvh_beside_report *report)
{
	struct plot p = {10, 0, 10};

	for (size_t i = 0; i < report->n; i++) {
		const struct kvh_beside_row *row = &report->rows[i];

		while (row->error == 0 && row->rate > p.rate)
			p.rate += 10;
		while (row->error == 0 && 100 * row->slower.median > p.high)
			p.high += 10;
		while (row->error == 0 && 100 * row->slower.median < p.low)
			p.low -= 10;
	}
	return p;
}

static double plot_x(const struct plot *p, double rate)
{
	return MARGIN + PLOTTED * rate / p->rate;
}

static double plot_y(const struct plot *p, double percent)
{
	return PLOT_H - MARGIN -
	       (PLOT_H - 2 * MARGIN) * (percent - p->low) / (p->high - p->low);
}

static void plot_axes(FILE *out, const struct plot *p)
{
	int step = (int)((p->high - p->low) / 10 + 9) / 10 * 10;

	for (int y = (int)p->low; y <= (int)p->high; y += step)
		fprintf(out,
			"<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' stroke='#dddddd'/>"
			"<text x='%d' y='%.1f' text-anchor='end'>%d %%</text>\n",
			MARGIN, MARGIN + PLOTTED, plot_y(p, y), plot_y(p, y), MARGIN - 6,
			plot_y(p, y) + 4, y);
	for (int x = 0; x <= (int)p->rate; x += (int)p->rate / 5)
		fprintf(out, "<text x='%.1f' y='%d' text-anchor='middle'>%d</text>\n",
			plot_x(p, x), PLOT_H - MARGIN + 18, x);
	fprintf(out,
		"<text x='%d' y='%d' text-anchor='middle'>GB/s that move meanwhile</text>\n",
		MARGIN + PLOTTED / 2, PLOT_H - MARGIN + 38);
}

/* A circle is a store, a square a load; the kernel's name shows where a pointer rests. */
static void plot_point(FILE *out, double x, double y, bool load, const char *colour,
		       const char *title)
{
	if (load)
		fprintf(out,
			"<rect x='%.1f' y='%.1f' width='8' height='8' fill='%s' "
			"fill-opacity='0.7'><title>%s</title></rect>\n",
			x - 4, y - 4, colour, title);
	else
		fprintf(out,
			"<circle cx='%.1f' cy='%.1f' r='4.5' fill='%s' "
			"fill-opacity='0.7'><title>%s</title></circle>\n",
			x, y, colour, title);
}

static void plot_legend(FILE *out)
{
	int at = 0;

	for (int way = 0; way < KVH_PUMP_WAYS; way++) {
		for (int load = 0; load < 2; load++) {
			int y = MARGIN + 18 * at;

			if (!kvh_pump_way_goes((enum kvh_pump_way)way, load != 0))
				continue;
			plot_point(out, MARGIN + PLOTTED + 20, y, load != 0, colours[way], "");
			fprintf(out, "<text x='%d' y='%d'>%s %s</text>\n",
				MARGIN + PLOTTED + 32, y + 4,
				kvh_pump_way_name((enum kvh_pump_way)way),
				direction(load != 0));
			at++;
		}
	}
}

void kvh_beside_svg(FILE *out, const struct kvh_beside_report *report, const char *device)
{
	struct plot p = plot_scale(report);

	fprintf(out,
		"<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' "
		"font-family='sans-serif' font-size='12'>\n"
		"<rect width='%d' height='%d' fill='white'/>\n"
		"<text x='%d' y='28' font-size='15'>How much slower other kernels get beside "
		"transfers: %s</text>\n",
		PLOT_W, PLOT_H, PLOT_W, PLOT_H, MARGIN, device);
	plot_axes(out, &p);
	for (size_t i = 0; i < report->n; i++) {
		const struct kvh_beside_row *row = &report->rows[i];
		char title[64];

		if (row->error != 0)
			continue;
		(void)snprintf(title, sizeof(title), "%s, %" PRIu64 " KiB",
			       kvh_load_name(row->kernel), row->fragment >> 10);
		plot_point(out, plot_x(&p, row->rate), plot_y(&p, 100 * row->slower.median),
			   row->load, colours[row->way], title);
	}
	plot_legend(out);
	fputs("</svg>\n", out);
}
