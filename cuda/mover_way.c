/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_way.c - which way the pages of a plan go, decided when it is added: as the
 * options say, as was measured, or as a table of rates has it. Any thread.
 */
#include "cuda/mover_impl.h"
#include "host/log.h"
#include "host/sim.h"

#include <errno.h>
#include <string.h>

/* A copy costs a processor 1 us or so, and its owner few hundred a GB: that many
 * copies are a GiB at least. */
#define COPY_BYTES (UINT64_C(2) << 20)
/* A submission of a stage's 32 MiB in a batch of copies. */
#define GENTLE_COPY_BYTES (UINT64_C(64) << 10)
/* Shorter rows reached half of the link, and 75 % at this length: no matter what
 * staging reaches, and what gentle takes is too little. */
#define MEASURED_ROW_BYTES (UINT64_C(16) << 10)
/* What is taken for granted where nothing was measured. Share of the link on an
 * H100, out of the device and in, where a stage is 99 and 99 %:
 *
 *   rows of a 2-D copy   4 KiB 50 and 43, 16 KiB 75 and 75, 32 KiB 92 and 94 %
 *   copies in a batch    64 KiB 74, 128 KiB 83, 256 KiB 91, 512 KiB 95, 1 MiB 98,
 *                        2 MiB 99 %
 *   frames, a 2-D copy   mostly 100 %, of 64 KiB and more
 *
 * So rows of 64 KiB, in copies of 2 MiB, are the first to lose nothing. */
#define ROW_BYTES (UINT64_C(64) << 10)
#define ROW_MAX   COPY_BYTES
#define PAGE_MAX  (UINT64_C(8) << 20)
/* All calibrations of a mover together: under a second down to 12 GB/s. */
#define CALIBRATION_BYTES (UINT64_C(6) << 30)

const char *kvh_mover_way_name(size_t way)
{
	static const char *const names[] = {
		[KVH_MOVER_AUTO] = "auto",
		[KVH_MOVER_STAGED] = "staged",
		[KVH_MOVER_DIRECT] = "direct",
	};

	return way < sizeof(names) / sizeof(names[0]) ? names[way] : NULL;
}

bool kvh_way_is_direct(const struct kvh_lane *lane, const struct kvh_mover_plan *mplan)
{
	if (mplan->way[lane->load] == KVH_MOVER_DIRECT)
		return true;
	return !lane->load && mplan->gentle &&
	       atomic_load_explicit(&lane->mover->gentle, memory_order_relaxed);
}

void kvh_mover_set_gentle(struct kvh_mover *mover, bool gentle)
{
	atomic_store_explicit(&mover->gentle, gentle, memory_order_relaxed);
}

/* ---- what was measured -------------------------------------------------- */

static uint64_t class_of(uint64_t n)
{
	return UINT64_C(1) << (63 - __builtin_clzll(n));
}

/* Longer rows, and more of them, are as good as these. */
static struct kvh_calibration calibration_class(bool load, const struct kvh_direct_shape *shape)
{
	uint64_t row = class_of(shape->row_bytes), rows = class_of(shape->rows);

	if (row > ROW_MAX)
		row = ROW_MAX;
	if (rows > PAGE_MAX / row)
		rows = PAGE_MAX / row;
	return (struct kvh_calibration){
		.row_bytes = row,
		.rows = (uint32_t)rows,
		.load = load,
	};
}

static struct kvh_calibration *calibration_find(struct kvh_mover *mover,
						const struct kvh_calibration *like)
{
	for (uint32_t i = 0; i < mover->n_calibrations; i++) {
		struct kvh_calibration *at = &mover->calibrations[i];

		if (at->load == like->load && at->rows == like->rows &&
		    at->row_bytes == like->row_bytes)
			return at;
	}
	return NULL;
}

/* Only a calibration adds to what is read here, one at a time. */
static int calibration_make(struct kvh_mover *mover, struct kvh_calibration *at)
{
	uint64_t bytes = 0;
	int rc;

	if (mover->n_calibrations == KVH_CALIBRATIONS_MAX ||
	    mover->calibrated_bytes >= CALIBRATION_BYTES)
		return -EDQUOT;
	rc = kvh_calibrate(mover, at, &bytes);
	mover->calibrated_bytes += bytes;
	if (rc) {
		kvh_warn("mover: %ss of rows of %llu bytes could not be measured: %s",
			 at->load ? "load" : "store", (unsigned long long)at->row_bytes,
			 strerror(-rc));
		return rc;
	}
	at->way = kvh_way_of_rates(at->staged_rate, at->direct_rate);
	kvh_info("mover: %ss of %u rows of %llu bytes: staged %.1f GB/s, direct %.1f GB/s: %s",
		 at->load ? "load" : "store", at->rows, (unsigned long long)at->row_bytes,
		 (double)at->staged_rate / 1e9, (double)at->direct_rate / 1e9,
		 kvh_mover_way_name(at->way));
	pthread_mutex_lock(&mover->lock);
	mover->calibrations[mover->n_calibrations++] = *at;
	pthread_mutex_unlock(&mover->lock);
	return 0;
}

enum kvh_mover_way kvh_way_of_rates(uint64_t staged_rate, uint64_t direct_rate)
{
	/* 1 % less is not felt, and a kernel on every SM is. */
	return direct_rate >= staged_rate - staged_rate / 100 ? KVH_MOVER_DIRECT
							      : KVH_MOVER_STAGED;
}

uint32_t kvh_mover_calibration(struct kvh_mover *mover, struct kvh_calibration *out, uint32_t n)
{
	pthread_mutex_lock(&mover->lock);
	for (uint32_t i = 0; i < n && i < mover->n_calibrations; i++)
		out[i] = mover->calibrations[i];
	n = mover->n_calibrations;
	pthread_mutex_unlock(&mover->lock);
	return n;
}

/* ---- the choice --------------------------------------------------------- */

static enum kvh_mover_way way_measured(struct kvh_mover *mover, bool load,
				       const struct kvh_direct_shape *shape,
				       enum kvh_mover_way otherwise)
{
	struct kvh_calibration like = calibration_class(load, shape);
	const struct kvh_calibration *at;
	enum kvh_mover_way way = otherwise;

	pthread_mutex_lock(&mover->measuring);
	at = calibration_find(mover, &like);
	if (at)
		way = at->way;
	else if (calibration_make(mover, &like) == 0)
		way = like.way;
	pthread_mutex_unlock(&mover->measuring);
	return way;
}

static enum kvh_mover_way way_choose(struct kvh_mover *mover, bool load,
				     const struct kvh_direct_shape *shape)
{
	enum kvh_mover_way way = shape->row_bytes >= ROW_BYTES ? KVH_MOVER_DIRECT
							       : KVH_MOVER_STAGED;

	if (!shape->can || mover->way == KVH_MOVER_STAGED)
		return KVH_MOVER_STAGED;
	if (mover->way == KVH_MOVER_DIRECT)
		return KVH_MOVER_DIRECT;
	if (shape->copy_bytes < COPY_BYTES || shape->row_bytes < MEASURED_ROW_BYTES)
		return KVH_MOVER_STAGED;
	/* Simulated time does not pass by copying. */
	if (!mover->calibrate || mover->threadless || kvh_simulated())
		return way;
	return way_measured(mover, load, shape, way);
}

void kvh_way_choose(struct kvh_mover *mover, struct kvh_mover_plan *mplan)
{
	struct kvh_direct_shape store, load;

	kvh_direct_shape(mplan->plan, false, &store);
	kvh_direct_shape(mplan->plan, true, &load);
	mplan->direct = store.can;
	mplan->gentle = store.can && store.row_bytes >= MEASURED_ROW_BYTES &&
			store.copy_bytes >= GENTLE_COPY_BYTES;
	mplan->way[0] = way_choose(mover, false, &store);
	mplan->way[1] = way_choose(mover, true, &load);
}
