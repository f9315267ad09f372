/* SPDX-License-Identifier: Apache-2.0 */
/*
 * beside.h - what other kernels lose while pages move, and how fast these move then:
 * each kernel in turn alone and beside the pump, again and again, so that clocks that
 * drift move both. One thread beside the pump's.
 */
#ifndef KVH_BENCH_BESIDE_H
#define KVH_BENCH_BESIDE_H

#include "bench/load.h"
#include "bench/measure.h"
#include "bench/pump.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A kernel beside a way of moving. */
struct kvh_beside_row {
	enum kvh_load_kernel kernel;
	enum kvh_pump_way way;
	bool load;
	uint64_t fragment;          /* 0: the link's contiguous copies have none */
	uint32_t launches;          /* of the kernel, a sample */
	double alone_ns, beside_ns; /* of a launch; medians */
	struct kvh_spread slower;   /* of neighbouring samples: 0.05 is 5 % slower */
	double rate, share;         /* GB/s (10^9) meanwhile; of the link in this direction */
	bool has_link;
	double over_link; /* has_link: slower than beside the link's copies alone by so much */
	bool right;       /* bytes that moved, and the kernel's result */
	int error;        /* 0, or why there is no measurement */
};

struct kvh_beside_report {
	char how[96]; /* what computes */
	struct kvh_beside_row *rows;
	size_t n, room;
};
void kvh_beside_report_free(struct kvh_beside_report *report);
/* Whether all that was measured was right. */
bool kvh_beside_report_right(const struct kvh_beside_report *report);
/* Fills over_link in, once the link's rows are there. */
void kvh_beside_report_compare(struct kvh_beside_report *report);

struct kvh_beside {
	struct kvh_pack_rig *rig;
	const struct kvh_load_ops *ops;
	bool kernels[KVH_LOAD_KERNELS]; /* those asked for */
	const uint64_t *fragments;
	uint32_t n_fragments;
	uint64_t payload, sample;     /* of a chunk; of the set that is moved again and again */
	uint32_t layers;              /* of the set's planes; 0: one */
	uint32_t samples;             /* of each kind */
	uint64_t sample_ns;           /* a kernel is repeated until it takes so long, about */
	double link_store, link_load; /* GB/s */
	void (*note)(void *arg, const struct kvh_beside_row *row); /* of each, as it comes */
	void *arg;
};

/* Every kernel that the device has beside every way, in both directions. 0, -EINTR after
 * a signal, -ENOMEM, -EIO, -ENODEV */
int kvh_beside_run(const struct kvh_beside *b, struct kvh_beside_report *report);
/* One kernel beside an open pump, which is paused before and after. */
void kvh_beside_kernel(const struct kvh_beside *b, void *load, struct kvh_pump *pump,
		       struct kvh_beside_row *row);

/* beside_report.c */
void kvh_beside_head_print(FILE *out, const char *how);
void kvh_beside_row_print(FILE *out, const struct kvh_beside_row *row);
void kvh_beside_csv(FILE *out, const struct kvh_beside_report *report);
/* An array of objects; NULL: no memory. */
struct json_t;
struct json_t *kvh_beside_json(const struct kvh_beside_report *report);
/* Slowdown against rate, a point a row. */
void kvh_beside_svg(FILE *out, const struct kvh_beside_report *report, const char *device);

#ifdef __cplusplus
}
#endif
#endif
