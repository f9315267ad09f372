/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover.h - moves chunks between pages and frames: one state machine over the seam,
 * the same for every device. There are two ways, and each plan has one a direction:
 *
 *   staged  store: order point -> gather: pages -> stage -> copy: stage -> payloads -> done
 *           load:  order point -> copy: payloads -> stage -> scatter: stage -> pages -> done
 *   direct  either: order point -> copies: pages <-> payloads -> done
 *
 * Direct needs no kernel, and pages that have one run a plane: rows that lie at one
 * stride on both sides are one 2-D copy.
 *
 * One mover a device, with a ring of stages a direction and a thread of its
 * own. Loads are enqueued whole on the caller's thread: the stages of their
 * ring are recycled by stream order alone. Stores are fed to the device by the
 * mover's thread, as many stages as the ring has, so that a store that waits
 * can be cancelled; of those that have something to feed the oldest is next, so
 * that one whose layers do not come holds up no other. Completion is an event
 * queried oldest first: loads end in order of submission, stores when their last
 * copy is done, in the order of the ring. The notify hint wakes the thread, and
 * while anything is in flight it also looks every 2 ms.
 */
#ifndef KVH_CUDA_MOVER_H
#define KVH_CUDA_MOVER_H

#include "cuda/device.h"
#include "cuda/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_mover;
struct kvh_pulse;

enum kvh_mover_way {
	KVH_MOVER_AUTO, /* of options: as measured, or as a table of rates says */
	KVH_MOVER_STAGED,
	KVH_MOVER_DIRECT, /* of options: wherever a plan can */
};
const char *kvh_mover_way_name(size_t way); /* "auto", ..; NULL beyond the last */

struct kvh_mover_opts {
	/* Where payloads lie, if in several registrations: these begin `pinned_stride`
	 * apart, the first at pinned_base. 0: in one. */
	const void *pinned_base;
	uint64_t pinned_stride;
	uint64_t stage_bytes; /* 0: 32 MiB; grows to the largest unit of a plan in use */
	uint32_t n_stages;    /* a direction; 0: 3 */
	/* Loads: layers of less go together, up to that. 0: an eighth of a stage; on a
	 * device without SMs, whose calls cost little, none do. */
	uint64_t layer_bytes;
	bool threadless; /* simulation: the caller runs kvh_mover_step */
	enum kvh_mover_way way;
	bool calibrate; /* AUTO: measure at kvh_mover_plan_add, a moment once a shape */
	bool gentle;    /* as kvh_mover_set_gentle */
	uint32_t burst; /* CTAs of a gather or scatter at most; 0: as many as it has work for */
};

/* A plan with its copy in device memory. */
struct kvh_mover_plan {
	const struct kvh_plan *plan; /* the host's; owned by the caller */
	const struct kvh_plan *dev_plan;
	enum kvh_mover_way way[2]; /* of stores, of loads: STAGED or DIRECT */
	bool direct;               /* it can */
	bool gentle;               /* it can, in copies that are worth it: gentle stores do */
};

/* Chunks of one group. Everything pointed to is the caller's and lives until
 * done was called. */
struct kvh_move_part {
	const struct kvh_mover_plan *plan;
	uint32_t n;
	void *const *payloads; /* [n] of payload_bytes each, in registered memory */
	const uint32_t *pages; /* [n * pages_per_chunk]; KVH_PAGE_NONE (loads): leave out */
	int32_t *status;       /* [n] set before done: 0, -EIO, -ECANCELED */
};

/* One job, the caller's memory, the mover's from an accepted call until `done`
 * was called (loads: until kvh_mover_forget). The caller zeroes it and fills the
 * first five. */
struct kvh_move {
	struct kvh_move_part *parts;
	uint32_t n_parts;
	/* Called once, on the mover's thread (or in kvh_mover_step, or in destroy):
	 * no transfer touches pages or payloads any more. It may come before the call
	 * that took the move has returned. Must not wait. The move
	 * may be freed in it, unless it is a load: that one is forgotten first. Never called if
	 * the call that took the move failed. */
	void (*done)(struct kvh_move *move);
	void *arg;
	bool layered;             /* a store by layers: kvh_mover_store_layer */
	int status;               /* 0, or the first error of a chunk */
	bool pages_lost;          /* a load whose device died */
	struct kvh_move_run *run; /* the mover's own */
};

int kvh_mover_open(struct kvh_device *dev, const struct kvh_mover_opts *opts,
		   struct kvh_mover **mover_p);
/* Cancels what waits, waits for what is on the device, calls every done. */
void kvh_mover_close(struct kvh_mover *mover);

/* Device memory for the plan; also makes sure that a stage holds its largest
 * unit, and decides which way its pages go. Blocks on the device for a moment.
 * -ENOMEM, -EIO */
int kvh_mover_plan_add(struct kvh_mover *mover, const struct kvh_plan *plan,
		       struct kvh_mover_plan *mplan);
/* No move that uses it may be in flight. */
void kvh_mover_plan_remove(struct kvh_mover *mover, struct kvh_mover_plan *mplan);

/* Both take at most one order point (`stream` or `event`); it is recorded
 * before the call returns. With neither: the device's NULL stream.
 * -EBUSY the stream is being captured, -EIO the device is dead, -ENOMEM
 * A store by layers takes none (-EINVAL). */
int kvh_mover_store(struct kvh_mover *mover, struct kvh_move *move, kvh_stream stream,
		    kvh_event_mark event);
/* Of a store by layers: the planes of all layers up to and including `layer`
 * (KVH_LAYER_ALL: all) are there once the order point has been reached, which is
 * recorded before the call returns. For one move by one thread at a time; `move` as
 * for cancel.
 * -ENOENT not by layers, or it has ended; -EINVAL a layer below one given, both order
 * points; -EBUSY, -EIO, -ENOMEM */
int kvh_mover_store_layer(struct kvh_mover *mover, struct kvh_move *move, uint32_t layer,
			  kvh_stream stream, kvh_event_mark event);
/* All copies are enqueued, layer by layer across the parts (small ones together), when it
 * returns, and each layer's event is recorded. */
int kvh_mover_load(struct kvh_mover *mover, struct kvh_move *move, kvh_stream stream,
		   kvh_event_mark event);
/* The stream waits for the layer (KVH_LAYER_ALL: all) of a load: between
 * kvh_mover_load and kvh_mover_forget. -EINVAL no such layer, -EBUSY, -EIO */
int kvh_mover_load_wait(struct kvh_mover *mover, struct kvh_move *move, uint32_t layer,
			kvh_stream stream);
/* A load's events live past done, until the owner forgets it (exactly once for
 * each accepted load, in done or after it, before the mover is gone: if close
 * calls done, in done). A store needs no forget. */
void kvh_mover_forget(struct kvh_mover *mover, struct kvh_move *move);

/* Stores: what is not on the device yet ends with -ECANCELED. Loads: nothing,
 * they are on the device. `move` must be the mover's, or have been and not be
 * freed. done comes as ever. */
void kvh_mover_cancel(struct kvh_mover *mover, struct kvh_move *move);
/* Cancels a store by layers that lacks some: no more will come. */
void kvh_mover_seal(struct kvh_mover *mover, struct kvh_move *move);

/* Live, any thread. What stores may take of the link, in bytes a second; never more
 * than that times the time, and a stage (two, after the thread was late). 0: no cap. */
void kvh_mover_set_store_rate(struct kvh_mover *mover, uint64_t bytes_per_s);
/* Live, any thread. How long the thread looks, while anything is in flight and
 * nothing moves, before it sleeps. */
void kvh_mover_set_spin(struct kvh_mover *mover, uint64_t ns);

/* Stores that are fed from now on go direct where their plan can, and a page is
 * rows of 16 KiB or more at one stride, even where that is slower: it takes nothing
 * from a model but the link. Any thread. */
void kvh_mover_set_gentle(struct kvh_mover *mover, bool gentle);

/* What was measured: bytes per second of pages of `rows` rows of row_bytes, both at
 * least so many and below twice as many. */
struct kvh_calibration {
	uint64_t row_bytes;
	uint32_t rows; /* of one copy */
	bool load;
	enum kvh_mover_way way; /* that plans of this shape go */
	uint64_t staged_rate, direct_rate;
};
#define KVH_CALIBRATIONS_MAX 16u
/* Fills in at most n, oldest first; returns how many there are. Any thread. */
uint32_t kvh_mover_calibration(struct kvh_mover *mover, struct kvh_calibration *out,
			       uint32_t n);

/* One pass: feed, query, finish. True if anything moved. Threadless only. */
bool kvh_mover_step(struct kvh_mover *mover);
/* Any thread. */
const struct kvh_pulse *kvh_mover_pulse(const struct kvh_mover *mover);

#ifdef __cplusplus
}
#endif
#endif
