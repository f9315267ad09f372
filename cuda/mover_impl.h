/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_impl.h - the mover's inside, for its own files:
 *
 *   mover.c        the API that is not a move, the thread, one pass
 *   mover_plan.c   plans in device memory, stage memory and its growth
 *   mover_run.c    a run: what the mover knows of a move, from call to done
 *   mover_grant.c  layers of a store that are there, and their order points
 *   mover_rate.c   what stores may take of the link
 *   mover_band.c   which units lie in a stage, and the pieces of payloads
 *   mover_batch.c  the copies of these pieces, as few as there can be
 *   mover_direct.c the pieces of payloads and pages, without a stage
 *   mover_way.c    which way a plan goes; mover_calibrate.c measures it
 *   mover_store.c  pages -> payloads, on the mover's thread
 *   mover_load.c   payloads -> pages, on the caller's thread
 *
 * Locks: lane.enqueue (over device calls), then mover.lock (lists,
 * counters and pools; never over a device call that enqueues).
 */
#ifndef KVH_CUDA_MOVER_IMPL_H
#define KVH_CUDA_MOVER_IMPL_H

#include "cuda/mover.h"
#include "cuda/mover_band.h"
#include "cuda/mover_direct.h"
#include "host/pulse.h"
#include "host/thread.h"

#include <stdatomic.h>
#include <sys/queue.h>

#define KVH_STAGE_ALIGN 256u
#define KVH_STAGE_BYTES (UINT64_C(32) << 20)
#define KVH_STAGES      3u
/* Of a stage: what is loaded at once at least. Its calls of the driver cost a processor
 * 10 us or so, and the link carries an eighth of 32 MiB in 75. */
#define KVH_STAGE_PARTS 8u
#define KVH_STAGES_MAX  16u
#define KVH_MOVER_POLL_NS \
	(2 * KVH_NS_PER_MS) /* while anything is in flight: a notice may be lost */
#define KVH_MOVER_IDLE_NS \
	(100 * KVH_NS_PER_MS) /* while stores only wait: a dead device tells nobody */

struct kvh_move_run;

/*
 * A stage of device memory. A store's, by the lane's counters:
 *
 *            taken, gather enqueued     copies enqueued       `empty` queried: 1
 *   FREE ---------------------> GATHER ---------------> COPY ------------------> FREE
 *         fed++                         sent++                done++
 *
 * What goes direct takes a stage as well, but not its memory: so budget and cancel
 * know only stages, and GATHER is the wait for the order point.
 *
 * A load's is filled from `used` on by one fill after the other; the copy stream
 * enters it again behind the last `empty`, and no host looks. Direct loads take none.
 */
struct kvh_stage {
	unsigned char *mem;
	kvh_event_mark full;  /* store: gathered; load: copied in */
	kvh_event_mark empty; /* store: copied out; load: scattered */
	/* Store: whose units it holds, and which chunks [first, end) are whole with it. */
	struct kvh_move_run *run;
	uint32_t part;
	uint64_t chunk_first, chunk_end;
};

/* Layers of a store that are there once `event` was reached. Recycled with it. */
struct kvh_grant {
	struct kvh_grant *next;
	uint64_t layer_end;   /* all layers below */
	kvh_event_mark event; /* ours, behind the caller's order point */
};

/*
 * What stores may take of the link. A stage is fed when due_ns has come, and puts it
 * off by the time that its bytes take at the rate:
 *
 *   bytes fed in any T  <=  rate * T + a stage
 *
 * and one stage more where the thread came late to one that waited: what was missed
 * is made up for, so that the rate is reached.
 */
struct kvh_rate {
	_Atomic uint64_t bytes_per_s; /* any thread; 0: no cap */
	uint64_t used;                /* what due_ns was reckoned with */
	uint64_t due_ns;
	bool held; /* a stage waits for due_ns, and for nothing else */
};

TAILQ_HEAD(kvh_run_list, kvh_move_run);

/* A direction. */
struct kvh_lane {
	struct kvh_mover *mover;
	bool load;
	kvh_stream kernel; /* gather: high; scatter: highest priority */
	kvh_stream copy;   /* the link */
	kvh_stream notice; /* waits for events and notifies: no copy waits for a host thread */

	kvh_stream order; /* store: waits for callers' events, records ours */

	pthread_mutex_t enqueue; /* over everything that a caller's thread enqueues */
	struct kvh_stage stages[KVH_STAGES_MAX];
	uint64_t used; /* load: bytes of the current stage */
	struct kvh_batch batch;

	/* Stages; stage i is stages[i % n_stages]. done <= sent <= fed <= done + n_stages
	 * for stores; a load only counts fed. Of the thread that enqueues; of stores fed
	 * and done change under mover.lock. */
	uint64_t fed, sent, done;
	struct kvh_move_run *broken; /* store: nothing is fed until it has ended */
	struct kvh_run_list active;  /* oldest first; the mover's thread */
	struct kvh_run_list feed;    /* store: those QUEUED and FEEDING, oldest first */
	struct kvh_rate rate;        /* store */

	/* Under mover.lock. finished <= accepted */
	uint64_t accepted, finished; /* moves */
	struct kvh_run_list inbox;   /* accepted, not seen by the mover's thread */
	struct kvh_run_list calls;   /* store: got layers, or was cancelled, since it looked */
	struct kvh_grant *free_grants;
	struct kvh_move_run *free_runs;
	struct kvh_move_run *all_runs;
};

/* Page numbers on their way to the device. */
struct kvh_pages {
	struct kvh_pages *next;
	uint32_t *host; /* pinned */
	uint32_t *dev;
	uint64_t cap;
};

/* Stage memory that was replaced; freed when nothing is in it any more: the stages
 * fed before are done (stores), the moves before have finished (loads). */
struct kvh_retired {
	struct kvh_retired *next;
	void *mem;
	const struct kvh_lane *lane;
	uint64_t after; /* lane->done, lane->finished */
};

struct kvh_mover {
	struct kvh_device *dev;
	uint32_t n_stages;
	bool threadless;
	uint64_t layer_bytes;  /* as asked for at open; 0: by the stage; 1: none together */
	uintptr_t pinned_base; /* as asked for at open */
	uint64_t pinned_stride;
	int wake; /* eventfd: notices, new moves, cancels, close */
	struct kvh_thread thread;
	atomic_bool stopping;
	struct kvh_pulse pulse;
	bool moved;        /* the last pass moved something: another may, too */
	uint64_t moved_ns; /* when one did */
	_Atomic uint64_t spin_ns;
	bool death_seen; /* the mover's thread has ended everything once */

	struct kvh_lane store, load;

	enum kvh_mover_way way; /* as asked for at open */
	bool calibrate;
	uint32_t burst;
	atomic_bool gentle;
	pthread_mutex_t measuring; /* over a calibration; taken before lock */

	pthread_mutex_t lock;
	uint32_t n_calibrations;
	struct kvh_calibration calibrations[KVH_CALIBRATIONS_MAX];
	uint64_t calibrated_bytes; /* that all of them have moved */
	uint64_t stage_bytes;      /* changed under both load.enqueue and lock */
	uint64_t want_bytes;       /* as asked for at open */
	struct kvh_pages *free_pages;
	struct kvh_retired *retired;
};

/*
 * A store, by the mover's thread:
 *
 *     all planes from the start              begins with what was given
 *   IDLE --------------------> QUEUED ---------------------------------> FEEDING
 *     |                        ^    ^                                      |  |
 *     |           layers given |    `----- fed, and more was given --------+  | enqueue
 *     | by layers              |                                           |  | failed
 *     `--------------------> WAITING <------ fed, and layers lack ---------+  v
 *                                                                          | BROKEN
 *     QUEUED, WAITING, FEEDING --cancelled, or the mover closes--> FED     |  |
 *                                                                   ^      |  | drained
 *                                      all planes are fed ----------+------'  |
 *                                                                   |         v
 *                                          its stages are done      `-----> ENDED
 *
 * QUEUED and FEEDING are on lane.feed. A load, by its caller: IDLE -> FEEDING -> FED
 * or BROKEN, then ENDED by the mover's thread; one whose first enqueueing fails goes
 * back to IDLE. ENDED -> IDLE: done was called, and a load forgotten. From every state
 * but IDLE a dead device leads to ENDED.
 */
enum kvh_run_state {
	KVH_RUN_IDLE,
	KVH_RUN_WAITING,
	KVH_RUN_QUEUED,
	KVH_RUN_FEEDING,
	KVH_RUN_FED,
	KVH_RUN_BROKEN,
	KVH_RUN_ENDED,
	KVH_RUN_NSTATES
};

struct kvh_run_layer {
	uint32_t layer;
	uint32_t with;  /* place of the one whose event says that this one is there, too */
	uint64_t bytes; /* of all parts; absent pages count */
	kvh_event_mark event;
};

#define KVH_END_KERNEL 1u
#define KVH_END_COPY   2u

/* What the mover knows of a move. Recycled with its events. */
struct kvh_move_run {
	TAILQ_ENTRY(kvh_move_run) of_lane; /* inbox, active */
	TAILQ_ENTRY(kvh_move_run) of_feed;
	TAILQ_ENTRY(kvh_move_run) of_calls;
	struct kvh_move_run *next;     /* free_runs */
	struct kvh_move_run *next_all; /* all_runs */
	uint64_t seq;                  /* the how many-th of the lane */
	struct kvh_lane *lane;
	struct kvh_move *move;
	enum kvh_run_state state;
	atomic_int error;     /* the first; 0: none */
	kvh_event_mark order; /* ours; load */
	kvh_event_mark after; /* load: the order point, ours or the caller's */
	/* Behind all that was enqueued: of a load, and of a broken run. */
	kvh_event_mark end[2];
	unsigned unended;    /* KVH_END_*: not known to have been reached */
	unsigned unrecorded; /* of these: not recorded yet. Subset of unended */
	struct kvh_pages *pages;

	/* Store. Of all parts the planes of layers below fed_to were fed, and those below
	 * feed_to are being fed: part by part, in each the units of its band. sent counts
	 * this run's stages.
	 *
	 *   fed_to <= feed_to <= given_to,  done <= sent */
	uint64_t fed_to, feed_to;
	uint64_t layer_end; /* with it every plane was fed */
	uint32_t part;
	uint64_t unit;
	uint64_t part_page; /* of `part` in pages */
	bool pages_sent;
	uint64_t sent, done;
	/* Under mover.lock: */
	uint64_t given_to;
	struct kvh_grant *grants, **grants_tail; /* given, not begun; rising */
	bool cancelled;
	bool called; /* in lane.calls */

	/* Load. n_layers <= cap_layers; events outlive moves */
	struct kvh_run_layer *layers;
	uint32_t n_layers, cap_layers;
	uint32_t *cursor;       /* [n_parts] plane that comes next */
	unsigned char *present; /* [chunks of all parts] enum kvh_present */
	uint64_t cap_cursor, cap_present;
};

/* mover_way.c. Decides for a plan whose copy is on the device. */
void kvh_way_choose(struct kvh_mover *mover, struct kvh_mover_plan *mplan);
/* Asked anew for each stage: a gentle store may begin as another. */
bool kvh_way_is_direct(const struct kvh_lane *lane, const struct kvh_mover_plan *mplan);

/* mover_calibrate.c. Measures both ways with scratch memory and streams of its own;
 * fills in the rates of *at, whose shape is given. -ENOMEM, -EIO */
int kvh_calibrate(struct kvh_mover *mover, struct kvh_calibration *at, uint64_t *bytes_p);

/* mover_run.c */
void kvh_run_set_state(struct kvh_move_run *run, enum kvh_run_state state);
/* A run for the move with its events, and a buffer that has its page numbers. */
int kvh_run_begin(struct kvh_lane *lane, struct kvh_move *move, struct kvh_move_run **run_p);
/* Nothing of it was enqueued, or it ended. */
void kvh_run_recycle(struct kvh_move_run *run);
/* May work be ordered behind this? Nothing is touched. -EBUSY, -EIO */
int kvh_run_order_check(const struct kvh_mover *mover, kvh_stream stream, kvh_event_mark event);
/* The kernel stream fetches the page numbers, before the first units of the run: who
 * used the buffer before has ended. */
int kvh_run_send_pages(struct kvh_move_run *run);
/* From here on the move is the mover's: its thread will see it. */
void kvh_run_accept(struct kvh_move_run *run);
/* Enqueueing failed: what is on the device has to end first. */
void kvh_run_break(struct kvh_move_run *run, int error);
/* All that a load, or a broken run, enqueued has been done. */
bool kvh_run_drained(struct kvh_move_run *run);
/* These chunks of the part have arrived. */
void kvh_run_settle(struct kvh_move_run *run, uint32_t part, uint64_t first, uint64_t end);
/* Settles the other chunks, takes leave of the run, calls done. */
void kvh_run_end(struct kvh_move_run *run);
void kvh_runs_free(struct kvh_lane *lane);
void kvh_pages_free(struct kvh_mover *mover);

/* mover_grant.c. Under mover->lock: the mover's thread has to look at the run. */
void kvh_run_call(struct kvh_move_run *run);
/* Records the order point of layers below layer_end in a grant. */
int kvh_grant_make(struct kvh_lane *lane, uint64_t layer_end, kvh_stream stream,
		   kvh_event_mark event, struct kvh_grant **grant_p);
/* Under mover->lock; the run's from here on. */
void kvh_grant_give(struct kvh_move_run *run, struct kvh_grant *grant);
/* The kernel stream waits for what was given. Of several, those that have been reached
 * already are one: run->feed_to. */
int kvh_grants_begin(struct kvh_move_run *run);
/* Of a run that ends; under mover->lock. */
void kvh_grants_drop(struct kvh_move_run *run);
void kvh_grants_free(struct kvh_lane *lane);

/* mover_rate.c. The mover's thread: may a stage be fed? Else not before due_ns. */
bool kvh_rate_allows(struct kvh_rate *rate);
void kvh_rate_take(struct kvh_rate *rate, uint64_t bytes);
/* Nothing waits for it. */
void kvh_rate_idle(struct kvh_rate *rate);

/* Has the stream reached the event's last record? 1, 0; negative: it died. */
int kvh_mover_reached(struct kvh_mover *mover, kvh_event_mark event, kvh_stream stream);
void kvh_mover_kick(struct kvh_mover *mover);

/* mover_plan.c */
void kvh_stages_free(struct kvh_mover *mover);

/* mover_store.c, mover_load.c: of a pass; true if anything moved. */
bool kvh_store_reap(struct kvh_lane *lane);
bool kvh_store_feed(struct kvh_lane *lane);
/* What was called for since the last pass: layers, cancels; and the new runs. */
bool kvh_store_take(struct kvh_lane *lane);
/* Nothing more of any run is fed: the mover closes. */
bool kvh_lane_stop(struct kvh_lane *lane);
bool kvh_load_reap(struct kvh_lane *lane);
/* The device is dead: every stage is free, every run ends. */
bool kvh_lane_bury(struct kvh_lane *lane);
/* Behind the event the stream `notice` wakes the mover's thread. Only a hint, so
 * a failure is nobody's. */
void kvh_lane_notice(struct kvh_lane *lane, kvh_event_mark event);

static inline const struct kvh_device_ops *kvh_mover_ops(const struct kvh_mover *mover)
{
	return mover->dev->ops;
}

#endif
