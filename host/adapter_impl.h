/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adapter_impl.h - what the files of the adapter's controller side share.
 */
#ifndef KVH_HOST_ADAPTER_IMPL_H
#define KVH_HOST_ADAPTER_IMPL_H

#include "host/adapter.h"
#include "host/breaker.h"
#include "host/fair.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_SWEEP_NS     (UINT64_C(100) * 1000 * 1000)
#define KVH_BUSY_BUCKETS 4096u
#define KVH_SKIP_MAX     64u    /* writes passed over in one look, so that a look is short */
#define KVH_OWED_MAX     65536u /* erasing tasks kept for an adapter that cannot now */

/* The requests that the adapter has: what reap returns and is not here, is a stray.
 * Open addressing; never more than half full. */
struct kvh_out_set {
	struct kvh_l2_req **slots;
	uint32_t mask;
	uint32_t n, max; /* n <= max == the adapter's max_inflight */
};

int kvh_out_open(struct kvh_out_set *out, uint32_t max);
void kvh_out_add(struct kvh_out_set *out, struct kvh_l2_req *req);
bool kvh_out_remove(struct kvh_out_set *out, const struct kvh_l2_req *req); /* whether it was */

/* reads.n + writes.n == tasks WAITING or OWED
 * inflight.n + late.n == out.n */
struct kvh_adapter {
	const struct kvh_l2_ops *ops;
	void *self;
	char *spec;
	bool retired; /* the adapter is not asked any more */
	struct kvh_l2_caps caps;
	struct kvh_metrics *metrics;
	/* NULL where nothing can be attached. Pieces [0, n_attached) were offered; others
	 * are used as what they are, unregistered. */
	const struct kvh_arena *arena;
	uint32_t n_attached;
	uint32_t *regions; /* [pieces there may be] as attach said; KVH_L2_NO_REGION */
	uint64_t deadline_ns;
	struct kvh_loop_source source;

	struct kvh_fair reads, writes;
	struct kvh_feeder feed_reads, feed_writes;
	struct kvh_l2_task *skipped[KVH_SKIP_MAX]; /* in this turn */
	uint32_t n_skipped;
	struct kvh_task_list inflight, late;
	struct kvh_out_set out;
	uint64_t erasing; /* tasks that are not IDLE */
	uint64_t owed;
	uint64_t now_ns; /* of the last tick */
	uint64_t next_sweep_ns;
	uint16_t busy[KVH_BUSY_BUCKETS];

	struct kvh_breaker breaker;
	struct kvh_trial *trial;
	int health; /* as of the last look */
	uint64_t next_health_ns;
	struct kvh_adapter_counters counters;
};

/* ---- adapter.c ---------------------------------------------------------- */

/* Submits at once, past the queue. -EAGAIN: full; others: refused. */
int kvh_adapter_submit_now(struct kvh_adapter *a, struct kvh_l2_task *task);
/* Of what the adapter takes in this round. */
uint64_t kvh_adapter_deadline(const struct kvh_adapter *a);
void kvh_adapter_queues_init(struct kvh_adapter *a);
/* After ops->close. It was closed: what was out comes back; or not: its owners are
 * told, the buffers never come back. */
void kvh_adapter_end_out(struct kvh_adapter *a, bool closed);
void kvh_adapter_refresh_usage(struct kvh_adapter *a);

/* ---- adapter_trial.c ---------------------------------------------------- */

/* A small frame put, read back and deleted, under a key that no space has. */
int kvh_trial_open(struct kvh_adapter *a, struct kvh_trial **trial_p);
void kvh_trial_close(struct kvh_trial *trial);
/* Looks at health and breaker; begins trials. Returns when it wants to be called
 * next, UINT64_MAX: no time. */
uint64_t kvh_trial_tick(struct kvh_adapter *a, uint64_t now_ns);

#ifdef __cplusplus
}
#endif

#endif
