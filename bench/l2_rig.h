/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_rig.h - one adapter, driven as the engine drives it: frames in pinned memory
 * on huge pages that is attached to the adapter, a controller's thread with the
 * queues of host/adapter.h, workers that seal before a PUT and verify after a
 * GET. Or raw: the adapter alone on the caller's thread, no checksums. l2_rig.c
 * has the rig, l2_flow.c what moves through it.
 *
 *   next frame --worker: seal--> sealed --PUT--> ended
 *   next key -----------------------------GET--> worker: verify --> ended
 *
 * At most `depth` requests are with the adapter. Frames are sealed ahead of them,
 * as many again, and those are kept from one run to the next, so that a run
 * neither starts empty nor gets work for nothing.
 */
#ifndef KVH_BENCH_L2_RIG_H
#define KVH_BENCH_L2_RIG_H

#include "bench/report.h"
#include "l2/l2.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_l2_mode { KVH_L2_STORE, KVH_L2_LOAD, KVH_L2_MIXED, KVH_L2_PROBES, KVH_L2_MODES };
const char *kvh_l2_mode_name(enum kvh_l2_mode mode);

struct kvh_rig_opts {
	const char *spec;
	uint64_t frame_bytes; /* a multiple of 4096, >= 8192 */
	uint32_t depth;
	uint32_t workers;
	bool raw;    /* implies no checksums */
	bool verify; /* seal and verify */
};

/* Zero, then added to by each run; kvh_samples_free is the owner's. */
struct kvh_rig_result {
	uint64_t ns;     /* from the first request to the last end */
	uint64_t cpu_ns; /* of the whole process, meanwhile */
	uint64_t frames; /* that ended well */
	uint64_t bytes;  /* of PUTs and GETs that ended well */
	uint64_t misses; /* GETs and PROBEs */
	uint64_t failed; /* any other error */
	uint64_t corrupt;
	struct kvh_samples latency; /* from submit to the end; a GET's with its check */
};

struct kvh_rig;

/* Opens the adapter and touches all memory: outside every timing. */
int kvh_rig_open(const struct kvh_rig_opts *opts, struct kvh_rig **rig_p);
/* 0 or what close of the adapter said. */
int kvh_rig_close(struct kvh_rig *rig);

/* Objects that fit: as the adapter says, or as `fallback_bytes` hold. */
uint64_t kvh_rig_room(const struct kvh_rig *rig, uint64_t fallback_bytes);
uint64_t kvh_rig_objects(const struct kvh_rig *rig); /* UINT64_MAX: not known */

/* n operations. STORE puts keys that were never there; LOAD gets each living key
 * once, in an order of its own, then anew; MIXED does both, half and half, and
 * gets what was put lately. -EINTR: a signal asked for an end; -ENOENT: there is
 * nothing to load. */
int kvh_rig_run(struct kvh_rig *rig, enum kvh_l2_mode mode, uint64_t n,
		struct kvh_rig_result *result);
/* Finds out by PROBE which of the keys put so far are there: what LOAD takes. */
int kvh_rig_find(struct kvh_rig *rig);
uint64_t kvh_rig_living(const struct kvh_rig *rig);

#ifdef __cplusplus
}
#endif
#endif
