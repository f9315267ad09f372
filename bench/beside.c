/* SPDX-License-Identifier: Apache-2.0 */
/*
 * beside.c - samples of a kernel, alone and beside the pump. One thread beside the
 * pump's. What moves is counted from landing to landing, so that neither the beginning
 * nor the end of a run is in a rate.
 */
#include "bench/beside.h"

#include "bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Fewer than a driver queues before a launch waits, and with it who else submits; a GEMM
 * whose sums are split is two launches. */
#define LAUNCHES_MAX 300u

void kvh_beside_report_free(struct kvh_beside_report *report)
{
	free(report->rows);
	memset(report, 0, sizeof(*report));
}

bool kvh_beside_report_right(const struct kvh_beside_report *report)
{
	for (size_t i = 0; i < report->n; i++)
		if (report->rows[i].error != 0 || !report->rows[i].right)
			return false;
	return true;
}

static const struct kvh_beside_row *link_row(const struct kvh_beside_report *report,
					     const struct kvh_beside_row *row)
{
	for (size_t i = 0; i < report->n; i++) {
		const struct kvh_beside_row *link = &report->rows[i];

		if (link->way == KVH_PUMP_COPY && link->load == row->load &&
		    link->kernel == row->kernel && link->error == 0)
			return link;
	}
	return NULL;
}

void kvh_beside_report_compare(struct kvh_beside_report *report)
{
	for (size_t i = 0; i < report->n; i++) {
		struct kvh_beside_row *row = &report->rows[i];
		const struct kvh_beside_row *link = link_row(report, row);

		row->has_link = link != NULL && row->way != KVH_PUMP_COPY && row->error == 0;
		if (row->has_link)
			row->over_link = row->slower.median - link->slower.median;
	}
}

/* ---- a kernel ----------------------------------------------------------- */

/* What is collected of a row. */
struct samples {
	double *alone, *beside, *slower; /* [n] */
	uint32_t n;
	uint64_t bytes, ns; /* that moved, and for how long */
};

static bool samples_open(struct samples *s, uint32_t n)
{
	memset(s, 0, sizeof(*s));
	s->alone = calloc(n, sizeof(double));
	s->beside = calloc(n, sizeof(double));
	s->slower = calloc(n, sizeof(double));
	return s->alone != NULL && s->beside != NULL && s->slower != NULL;
}

static void samples_close(struct samples *s)
{
	free(s->alone);
	free(s->beside);
	free(s->slower);
}

/* How often it is launched a sample; the first run warms it up. */
static int launches_of(const struct kvh_beside *b, void *load, enum kvh_load_kernel kernel,
		       uint32_t *n_p)
{
	uint64_t ns = 0;
	int err = b->ops->run(load, kernel, 1, &ns);

	if (err == 0)
		err = b->ops->run(load, kernel, 1, &ns);
	if (err != 0)
		return err;
	if (ns == 0)
		ns = 1;
	*n_p = b->sample_ns / ns < LAUNCHES_MAX ? (uint32_t)(b->sample_ns / ns) : LAUNCHES_MAX;
	if (*n_p == 0)
		*n_p = 1;
	return 0;
}

/* Alone, then beside. */
static int pair(const struct kvh_beside *b, void *load, struct kvh_pump *pump,
		const struct kvh_beside_row *row, struct samples *s)
{
	struct kvh_pump_mark before, after;
	uint64_t alone = 0, beside = 0;
	int err = b->ops->run(load, row->kernel, row->launches, &alone), rc;

	if (err != 0)
		return err;
	err = kvh_pump_run(pump);
	before = kvh_pump_mark(pump);
	if (err == 0)
		err = b->ops->run(load, row->kernel, row->launches, &beside);
	after = kvh_pump_mark(pump);
	rc = kvh_pump_pause(pump);
	if (err == 0)
		err = rc;
	if (err == 0 && (alone == 0 || beside == 0))
		err = -ERANGE; /* the clock stood still */
	if (err != 0)
		return err;
	s->alone[s->n] = (double)alone;
	s->beside[s->n] = (double)beside;
	s->slower[s->n] = (double)beside / (double)alone - 1;
	s->n++;
	s->bytes += after.bytes - before.bytes;
	s->ns += after.at_ns - before.at_ns;
	return 0;
}

void kvh_beside_kernel(const struct kvh_beside *b, void *load, struct kvh_pump *pump,
		       struct kvh_beside_row *row)
{
	double link = row->load ? b->link_load : b->link_store;
	struct samples s;
	bool right = false;

	row->error = samples_open(&s, b->samples) ? 0 : -ENOMEM;
	if (row->error == 0)
		row->error = launches_of(b, load, row->kernel, &row->launches);
	for (uint32_t i = 0; i < b->samples && row->error == 0; i++)
		row->error = pair(b, load, pump, row, &s);
	if (row->error == 0)
		row->error = b->ops->check(load, row->kernel, &right);
	if (row->error == 0) {
		row->right = right && kvh_pump_check(pump);
		row->alone_ns = kvh_spread_of(s.alone, s.n).median / row->launches;
		row->beside_ns = kvh_spread_of(s.beside, s.n).median / row->launches;
		row->slower = kvh_spread_of(s.slower, s.n);
		row->rate = s.ns == 0 ? 0 : (double)s.bytes / (double)s.ns;
		row->share = link > 0 ? row->rate / link : 0;
	}
	samples_close(&s);
}

/* ---- all of them -------------------------------------------------------- */

static struct kvh_beside_row *next_row(struct kvh_beside_report *report)
{
	if (report->n == report->room) {
		size_t room = report->room == 0 ? 64 : 2 * report->room;
		void *rows = realloc(report->rows, room * sizeof(report->rows[0]));

		if (rows == NULL)
			return NULL;
		report->rows = rows;
		report->room = room;
	}
	memset(&report->rows[report->n], 0, sizeof(report->rows[0]));
	return &report->rows[report->n++];
}

static int each_kernel(const struct kvh_beside *b, void *load, struct kvh_pump *pump,
		       const struct kvh_beside_row *like, struct kvh_beside_report *report)
{
	for (int k = 0; k < KVH_LOAD_KERNELS; k++) {
		struct kvh_beside_row *row;

		if (!b->kernels[k] || !b->ops->has(load, (enum kvh_load_kernel)k))
			continue;
		row = next_row(report);
		if (row == NULL)
			return -ENOMEM;
		*row = *like;
		row->kernel = (enum kvh_load_kernel)k;
		kvh_beside_kernel(b, load, pump, row);
		kvh_beside_report_compare(report);
		row = &report->rows[report->n - 1];
		b->note(b->arg, row);
		if (row->error == -EIO || kvh_bench_signal != 0)
			return row->error == -EIO ? -EIO : -EINTR;
	}
	return 0;
}

/* A way with a set of its own: what it left in the pool is nobody's. */
static int each_way(const struct kvh_beside *b, void *load, enum kvh_pump_way way, bool is_load,
		    uint64_t fragment, struct kvh_beside_report *report)
{
	struct kvh_beside_row like = {
		.way = way,
		.load = is_load,
		.fragment = way == KVH_PUMP_COPY ? 0 : fragment,
	};
	struct kvh_pack_shape shape = {fragment, b->payload, b->sample, KVH_PAGES_SHUFFLED,
				       b->layers};
	struct kvh_pack_set set;
	struct kvh_pump *pump = NULL;
	int err = kvh_pack_set_open(b->rig, &shape, &set);

	if (err == 0) {
		err = kvh_pump_open(&set, way, is_load, &pump);
		if (err == 0)
			err = each_kernel(b, load, pump, &like, report);
		kvh_pump_close(pump);
		kvh_pack_set_close(&set);
	}
	if (err == -EOPNOTSUPP)
		return 0; /* there is no such way for this shape */
	if (err == -ENOSPC)
		kvh_bench_complain("fragments of %" PRIu64 " in frames of %" PRIu64
				   " do not fit beside: a larger --pool or --arena",
				   fragment, b->payload);
	return err;
}

int kvh_beside_run(const struct kvh_beside *b, struct kvh_beside_report *report)
{
	struct kvh_device_info info;
	void *load;
	int err;

	b->rig->dev->ops->info(b->rig->dev, &info);
	err = b->ops->open(&info, &load);
	if (err != 0)
		return err;
	(void)snprintf(report->how, sizeof(report->how), "%s", b->ops->how(load));
	for (int is_load = 0; is_load < 2 && err == 0; is_load++)
		err = each_way(b, load, KVH_PUMP_COPY, is_load != 0, b->fragments[0], report);
	for (uint32_t f = 0; f < b->n_fragments; f++)
		for (int way = KVH_PUMP_COPY + 1; way < KVH_PUMP_WAYS; way++)
			for (int is_load = 0; is_load < 2 && err == 0; is_load++)
				if (kvh_pump_way_goes((enum kvh_pump_way)way, is_load != 0))
					err = each_way(b, load, (enum kvh_pump_way)way,
						       is_load != 0, b->fragments[f], report);
	b->ops->close(load);
	return err;
}
