/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_report.h - what `kvhoist-bench pack` has measured: as a table, as JSON, as
 * CSV, and as a plot. One thread.
 */
#ifndef KVH_BENCH_PACK_REPORT_H
#define KVH_BENCH_PACK_REPORT_H

#include "bench/beside.h"
#include "bench/latency.h"
#include "bench/pack_way.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One way with one shape. Rates are GB/s, 10^9 bytes, of the median sample. */
struct kvh_pack_row {
	enum kvh_way way;
	bool load;
	uint64_t fragment, payload, bytes; /* bytes: of a sample */
	enum kvh_pages_order order;
	double rate, share; /* share: of the link in this direction */
	double submit_us_per_gb, other_us_per_gb;
	uint64_t p50_ns, p99_ns; /* of a sample */
	bool right;
	int error;           /* 0, or why there is no measurement */
	const char *decided; /* the mover's: which way it took; else "" */
};

/* Processor time of the process while the link is full, but for the thread that waits. */
static inline double kvh_pack_row_cores(const struct kvh_pack_row *row)
{
	return (row->submit_us_per_gb + row->other_us_per_gb) * row->rate / 1e6;
}

/* The mover in both directions at once. */
struct kvh_pack_both {
	uint64_t fragment, payload;
	double rate, share; /* share: of the link in both directions */
	bool right;
};

struct kvh_pack_report {
	struct kvh_device_info device;
	double link_store, link_load, link_both;
	uint64_t link_bytes;
	struct kvh_pack_row *rows;
	size_t n_rows, room;
	struct kvh_pack_both *both;
	size_t n_both, both_room;
	struct kvh_beside_report beside;
	uint64_t pin_bytes; /* 0: not measured */
	double pin_rate;    /* GB/s, until the last byte of an arena is pinned */
	struct kvh_latency_report latency;
};

/* NULL: no memory. Valid until the next one is added. */
struct kvh_pack_row *kvh_pack_report_row(struct kvh_pack_report *report);
struct kvh_pack_both *kvh_pack_report_both(struct kvh_pack_report *report);
void kvh_pack_report_free(struct kvh_pack_report *report);
/* Whether all that was measured was right, and everything of ours was measured. */
bool kvh_pack_report_right(const struct kvh_pack_report *report);

/* Its name; "host device" where it is none. */
const char *kvh_pack_report_device(const struct kvh_pack_report *report);

void kvh_pack_report_head(FILE *out, const struct kvh_pack_report *report);
void kvh_pack_rows_head(FILE *out);
void kvh_pack_row_print(FILE *out, const struct kvh_pack_row *row);
void kvh_pack_both_print(FILE *out, const struct kvh_pack_both *both);
/* 0 or -ENOMEM. */
int kvh_pack_report_json(FILE *out, const struct kvh_pack_report *report);
/* A table a part, with its names in the first line, and an empty line between two. */
void kvh_pack_report_csv(FILE *out, const struct kvh_pack_report *report);
/* Share of the link by fragment, a line each way and direction: of the rows with
 * shuffled pages and the most common payload. */
void kvh_pack_report_svg(FILE *out, const struct kvh_pack_report *report);

#ifdef __cplusplus
}
#endif
#endif
