/* SPDX-License-Identifier: Apache-2.0 */
/*
 * figures.h - what `kvhoist-bench pack` was to reach on a GPU, beside what it did: the
 * worst of all rows that a figure is about, and where that was. One thread.
 */
#ifndef KVH_BENCH_FIGURES_H
#define KVH_BENCH_FIGURES_H

#include "bench/pack_report.h"

#include <math.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_FIGURES_MAX 32u

struct kvh_figure {
	char name[64];
	const char *unit;
	double reached, wanted;
	bool least; /* wanted is the least that is good enough; else the most */
	bool whole; /* compared as rounded: what is wanted is nothing that could be seen */
	int error;  /* 0, or why one of its rows was not measured, and so nothing reached */
	char where[64];
};
static inline bool kvh_figure_met(const struct kvh_figure *figure)
{
	double reached = figure->whole ? round(figure->reached) : figure->reached;

	if (figure->error != 0)
		return false;
	return figure->least ? reached >= figure->wanted : reached <= figure->wanted;
}

/* Those of which something was measured, or was to be; returns how many. */
uint32_t kvh_figures_of(const struct kvh_pack_report *report,
			struct kvh_figure figures[KVH_FIGURES_MAX]);
void kvh_figures_print(FILE *out, const struct kvh_figure *figures, uint32_t n);
/* An array of objects; NULL: no memory. */
struct json_t;
struct json_t *kvh_figures_json(const struct kvh_figure *figures, uint32_t n);

#ifdef __cplusplus
}
#endif
#endif
