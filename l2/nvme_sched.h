/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_sched.h - which transfers of a stripe are given to the engine, and when.
 *
 *   - Loads before stores, stores before what can wait (wipes of the wiper); of
 *     each kind in order. One of a later kind goes when PASSED_MAX before it.
 *   - A budget of bytes in flight, which is as small as it can be without the disk
 *     moving fewer: what is beyond waits here, where a load can pass it, and not
 *     in the device, where nothing can.
 *
 *   flying_bytes == sum of len of transfers in the engine
 *   flying_bytes <= budget_bytes, or one transfer flies
 *
 * On the thread of the adapter's calls.
 */
#ifndef KVH_L2_NVME_SCHED_H
#define KVH_L2_NVME_SCHED_H

#include "l2/nvme_engine.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_nvme_kind { KVH_NVME_LOAD, KVH_NVME_STORE, KVH_NVME_LATER, KVH_NVME_KINDS };

/* The budget's search: a round is measured while the disk is kept full.
 *
 *            +------------- rate as before: keeps the smaller one -----------+
 *            v                                                               |
 *    LARGER: budget * 3/2, is the rate higher? --no--> SMALLER: budget * 2/3 +
 *            ^  | yes: keeps the larger one                 | rate lower: back
 *            +--+                                           v
 *            +------------------ after a while ---------- REST
 */
enum kvh_nvme_try { KVH_NVME_REST, KVH_NVME_LARGER, KVH_NVME_SMALLER, KVH_NVME_TRIES };

struct kvh_nvme_sched {
	const struct kvh_nvme_engine_ops *engine_ops;
	void *engine;
	struct kvh_nvme_io_list queues[KVH_NVME_KINDS];
	struct kvh_nvme_io_list ended; /* without having been started */
	uint32_t waiting;              /* in the queues */
	uint32_t passed;               /* loads since something later went, though it waited */
	uint32_t flying;
	uint64_t flying_bytes;
	uint64_t budget_bytes;
	uint64_t fixed_bytes; /* the budget, if it is not to be searched; else 0 */
	/* The search. */
	enum kvh_nvme_try trying;
	uint64_t kept_bytes, kept_rate; /* what is tried against; bytes a second */
	uint64_t round_ns;              /* began; 0: the disk is not kept full */
	uint64_t round_bytes;           /* moved in it */
	uint32_t round_ended;           /* transfers */
	uint32_t rests;
};

void kvh_nvme_sched_init(struct kvh_nvme_sched *sched,
			 const struct kvh_nvme_engine_ops *engine_ops, void *engine,
			 uint64_t fixed_bytes);

/* Never fails, as kvh_nvme_engine_ops.start. */
void kvh_nvme_sched_start(struct kvh_nvme_sched *sched, struct kvh_nvme_io *io);
/* Asks for an early end. */
void kvh_nvme_sched_cancel(struct kvh_nvme_sched *sched, struct kvh_nvme_io *io);
/* Takes all that have ended, and starts others in their place; NULL: none. */
struct kvh_nvme_io *kvh_nvme_sched_reap(struct kvh_nvme_sched *sched);

/* Between on and off, what is started may be kept, to be given to the kernel in
 * one call. */
void kvh_nvme_sched_plug(struct kvh_nvme_sched *sched, bool on);

/* A round of the search came to `rate`, for tests of it. */
void kvh_nvme_sched_judge(struct kvh_nvme_sched *sched, uint64_t rate);

#ifdef __cplusplus
}
#endif
#endif
