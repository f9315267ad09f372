/* SPDX-License-Identifier: Apache-2.0 */
/*
 * figures.c - the wanted figures, and the worst rows. One thread.
 */
#include "bench/figures.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

static const char *const directions[] = {"D2H", "H2D"};

struct list {
	struct kvh_figure *figures;
	uint32_t n;
};

/* Begins a figure; it counts once `worst` was called for a row. */
static struct kvh_figure *begin(struct list *list, const char *what, const char *direction,
				const char *unit, bool least, double wanted)
{
	struct kvh_figure *figure = &list->figures[list->n];

	*figure = (struct kvh_figure){.unit = unit, .least = least, .wanted = wanted};
	(void)snprintf(figure->name, sizeof(figure->name), "%s%s%s", what,
		       *direction != '\0' ? ", " : "", direction);
	return figure;
}

/* Nothing is worse than a row that was not measured: the first of them stays. */
static void worst(struct kvh_figure *figure, int error, double value, const char *where)
{
	bool worse = figure->least ? value < figure->reached : value > figure->reached;

	if (figure->error != 0 || (error == 0 && figure->where[0] != '\0' && !worse))
		return;
	figure->error = error;
	figure->reached = error == 0 ? value : 0;
	(void)snprintf(figure->where, sizeof(figure->where), "%s", where);
}

static void end(struct list *list)
{
	if (list->figures[list->n].where[0] != '\0' && list->n + 1 < KVH_FIGURES_MAX)
		list->n++;
}

/* ---- alone -------------------------------------------------------------- */

enum quantity { SHARE, SUBMIT, CORES };

static double quantity_of(const struct kvh_pack_row *row, enum quantity quantity)
{
	switch (quantity) {
	case SHARE: return 100 * row->share;
	case SUBMIT: return row->submit_us_per_gb;
	case CORES: return kvh_pack_row_cores(row);
	}
	return 0;
}

/* The mover's rows with shuffled pages and payloads in [low, high]. */
static void alone(struct list *list, struct kvh_figure *figure,
		  const struct kvh_pack_report *report, bool load, uint64_t low, uint64_t high,
		  enum quantity quantity)
{
	for (size_t i = 0; i < report->n_rows; i++) {
		const struct kvh_pack_row *row = &report->rows[i];
		char where[64];

		if (row->way != KVH_WAY_KVHOIST || row->load != load ||
		    row->order != KVH_PAGES_SHUFFLED || row->payload < low ||
		    row->payload > high)
			continue;
		(void)snprintf(where, sizeof(where),
			       "%" PRIu64 " KiB in frames of %" PRIu64 " KiB",
			       row->fragment >> 10, row->payload >> 10);
		worst(figure, row->error, quantity_of(row, quantity), where);
	}
	end(list);
}

static void figures_alone(struct list *list, const struct kvh_pack_report *report)
{
	for (int load = 0; load < 2; load++) {
		const char *dir = directions[load];

		alone(list,
		      begin(list, "alone, frames >= 2 MiB", dir, "% of the link", true, 98),
		      report, load != 0, 2 * MIB, UINT64_MAX, SHARE);
		alone(list,
		      begin(list, "alone, frames of 512 KiB", dir, "% of the link", true, 97),
		      report, load != 0, MIB / 2, MIB / 2, SHARE);
		alone(list,
		      begin(list, "alone, frames of 128 KiB", dir, "% of the link", true, 90),
		      report, load != 0, MIB / 8, MIB / 8, SHARE);
		alone(list,
		      begin(list, "CPU of the submitting thread", dir, "us a GB", false, 200),
		      report, load != 0, 2 * MIB, UINT64_MAX, SUBMIT);
		alone(list, begin(list, "host CPU, link full", dir, "cores", false, 0.15),
		      report, load != 0, 2 * MIB, UINT64_MAX, CORES);
	}
}

static void figures_both(struct list *list, const struct kvh_pack_report *report)
{
	struct kvh_figure *figure = begin(list, "both directions at once", "",
					  "% of both links", true, 97);

	for (size_t i = 0; i < report->n_both; i++) {
		const struct kvh_pack_both *both = &report->both[i];
		char where[64];

		(void)snprintf(where, sizeof(where),
			       "%" PRIu64 " KiB in frames of %" PRIu64 " KiB",
			       both->fragment >> 10, both->payload >> 10);
		if (both->payload >= 2 * MIB)
			worst(figure, 0, 100 * both->share, where);
	}
	end(list);
}

/* ---- beside ------------------------------------------------------------- */

static void beside(struct list *list, struct kvh_figure *figure,
		   const struct kvh_pack_report *report, enum kvh_pump_way way, bool load,
		   uint64_t fragment, bool share)
{
	for (size_t i = 0; i < report->beside.n; i++) {
		const struct kvh_beside_row *row = &report->beside.rows[i];
		char where[64];

		if (row->way != way || row->load != load || row->fragment < fragment ||
		    (row->error == 0 && !share && !row->has_link))
			continue;
		(void)snprintf(where, sizeof(where), "%s, %" PRIu64 " KiB",
			       kvh_load_name(row->kernel), row->fragment >> 10);
		worst(figure, row->error, 100 * (share ? row->share : row->over_link), where);
	}
	end(list);
}

#define GENTLE_RUN (UINT64_C(16) << 10)

static void figures_beside(struct list *list, const struct kvh_pack_report *report)
{
	struct kvh_figure *figure;

	for (int load = 0; load < 2; load++) {
		const char *dir = directions[load];

		beside(list,
		       begin(list, "beside other kernels", dir, "% of the link", true, 94),
		       report, KVH_PUMP_KVHOIST, load != 0, 0, true);
		beside(list,
		       begin(list, "what they lose beyond the link's price", dir, "points",
			     false, 3),
		       report, KVH_PUMP_KVHOIST, load != 0, 0, false);
	}
	beside(list,
	       begin(list, "gentle, beside other kernels", "D2H", "% of the link", true, 70),
	       report, KVH_PUMP_GENTLE, false, GENTLE_RUN, true);
	figure = begin(list, "gentle, what they lose beyond the link", "D2H", "points", false,
		       0);
	figure->whole = true;
	beside(list, figure, report, KVH_PUMP_GENTLE, false, GENTLE_RUN, false);
}

/* ---- latency ------------------------------------------------------------ */

static void latency(struct list *list, struct kvh_figure *figure,
		    const struct kvh_pack_report *report, enum kvh_latency_mode mode, bool load,
		    bool p99)
{
	for (uint32_t i = 0; i < report->latency.n; i++) {
		const struct kvh_latency_row *row = &report->latency.rows[i];

		if (row->mode == mode && row->load == load)
			worst(figure, row->error,
			      (double)(p99 ? row->p99_ns : row->p50_ns) / 1e3,
			      kvh_latency_mode_name(mode));
	}
	end(list);
}

static void figures_latency(struct list *list, const struct kvh_pack_report *report)
{
	for (int load = 0; load < 2; load++) {
		const char *dir = directions[load];

		latency(list,
			begin(list, "from its end to the user, p50", dir, "us", false, 40),
			report, KVH_LATENCY_NOTICE, load != 0, false);
		latency(list,
			begin(list, "from its end to the user, p99", dir, "us", false, 200),
			report, KVH_LATENCY_NOTICE, load != 0, true);
		latency(list, begin(list, "the same with gpu.spin, p50", dir, "us", false, 5),
			report, KVH_LATENCY_SPIN, load != 0, false);
	}
}

static void figures_pin(struct list *list, const struct kvh_pack_report *report)
{
	struct kvh_figure *figure = begin(list, "pinning", "", "GB/s", true, 10);
	char where[64];

	(void)snprintf(where, sizeof(where), "%" PRIu64 " MiB", report->pin_bytes >> 20);
	if (report->pin_bytes != 0)
		worst(figure, 0, report->pin_rate, where);
	end(list);
}

uint32_t kvh_figures_of(const struct kvh_pack_report *report,
			struct kvh_figure figures[KVH_FIGURES_MAX])
{
	struct list list = {figures, 0};

	figures_alone(&list, report);
	figures_both(&list, report);
	figures_beside(&list, report);
	figures_latency(&list, report);
	figures_pin(&list, report);
	return list.n;
}

/* ---- forms -------------------------------------------------------------- */

void kvh_figures_print(FILE *out, const struct kvh_figure *figures, uint32_t n)
{
	fprintf(out, "\n%-46s %9s %9s %-15s %-7s %s\n", "figure", "reached", "wanted", "", "",
		"worst at");
	for (uint32_t i = 0; i < n; i++) {
		const struct kvh_figure *f = &figures[i];
		char wanted[24], reached[24];

		(void)snprintf(reached, sizeof(reached), f->error == 0 ? "%.2f" : "-",
			       f->reached);
		(void)snprintf(wanted, sizeof(wanted), "%s %g",
			       f->least ? ">=" : "<=", f->wanted);
		fprintf(out, "%-46s %9s %9s %-15s %-7s %s%s%s\n", f->name, reached, wanted,
			f->unit, kvh_figure_met(f) ? "" : "MISSED", f->where,
			f->error != 0 ? ": " : "", f->error != 0 ? strerror(-f->error) : "");
	}
}

struct json_t *kvh_figures_json(const struct kvh_figure *figures, uint32_t n)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < n; i++) {
		const struct kvh_figure *f = &figures[i];

		(void)json_array_append_new(
			array,
			json_pack("{s:s, s:s, s:o, s:f, s:s, s:b, s:s}", "figure", f->name,
				  "unit", f->unit, "reached",
				  f->error == 0 ? json_real(f->reached) : json_null(), "wanted",
				  f->wanted, "bound", f->least ? "least" : "most", "met",
				  (int)kvh_figure_met(f), "worst_at", f->where));
	}
	return array;
}
