/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_report.h - the rows of `kvhoist-bench l2` as a table and as JSON. One thread.
 */
#ifndef KVH_BENCH_L2_REPORT_H
#define KVH_BENCH_L2_REPORT_H

#include "bench/l2_open.h"
#include "bench/l2_pairs.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_l2_report {
	const char *spec;
	bool raw, verify;
	const char *fio; /* "huge pages", "4 KiB pages", "not installed", "off" */
	uint32_t pairs;
	double seconds;
	const struct kvh_pairs_row *rows;
	uint32_t n_rows;
	const struct kvh_open_result *open; /* NULL: not measured */
};

void kvh_l2_report_table(FILE *out, const struct kvh_l2_report *report);
/* One object and a newline. 0 or -ENOMEM. */
int kvh_l2_report_json(FILE *out, const struct kvh_l2_report *report);

#ifdef __cplusplus
}
#endif
#endif
