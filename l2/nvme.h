/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme.h - the parts of the nvme adapter see each other here: nvme.c has the
 * table, nvme_open.c makes it, nvme_task.c the requests, nvme_put.c finds slots
 * for PUTs, nvme_wipe.c wipes and clears, nvme_grow.c opens more slots, nvme_scan.c
 * finds the frames at open and nvme_snapshot.c keeps them at close. Below them nvme_index.h,
 * nvme_sched.h, nvme_file.h, nvme_side.h, nvme_health.h, nvme_layout.h.
 */
#ifndef KVH_L2_NVME_H
#define KVH_L2_NVME_H

#include "l2/nvme_health.h"
#include "l2/nvme_index.h"
#include "l2/nvme_sched.h"
#include "l2/nvme_side.h"
#include "l2/req.h"

#define KVH_NVME_GROW_IOS 8u
#define KVH_NVME_WIPE_IOS 16u
#define KVH_NVME_ZEROS    (UINT64_C(64) << 10)

/* Opens slots in a segment, some at a time:
 *
 *    IDLE --start, cleared--> [FLUSH] --> DROP --the table names no slots--+
 *     | |                                  | nobody wants it: IDLE         v
 *     | +--start, used before--------------------------------------------> WIPE
 *     |                                                  headers are zero  |
 *     +--start, virgin--> [FLUSH] --> TABLE <-- [FLUSH] <------------------+
 *                                       |
 *    IDLE <--written, or anything failed+
 *
 * Only behind TABLE are the slots FREE: until then a scan does not look at them,
 * and after it finds nothing old in them. FLUSH: what has been written, above all
 * the table's other copy, is on the medium before the table is written again; only
 * with sync=close, and if something was. When a flush failed, that copy may be lost
 * though it can still be read: FLUSH --failed--> AGAIN, as it was --> FLUSH. */
enum kvh_nvme_grow_state {
	KVH_NVME_GROW_IDLE,
	KVH_NVME_GROW_FLUSH,
	KVH_NVME_GROW_AGAIN,
	KVH_NVME_GROW_DROP,
	KVH_NVME_GROW_WIPE,
	KVH_NVME_GROW_TABLE
};

struct kvh_nvme_grow {
	enum kvh_nvme_grow_state state, next; /* FLUSH: what comes behind it */
	uint32_t segment, class, count;       /* slots to open; 0: it is only dropped */
	uint64_t at, end;                     /* still to be wiped, on the medium */
	uint64_t step;                        /* from one wipe to the next */
	uint32_t running;
	bool unflushed;      /* table or headers were written since the last FLUSH */
	bool table_dirty;    /* one page of the table was, */
	uint32_t dirty_page; /* this one */
	bool lost;           /* a flush failed since */
	int status;          /* of this one, or the last */
	struct kvh_nvme_io ios[KVH_NVME_GROW_IOS];
};

/* Wipes that no request waits for, but CLEAR for all of them. */
struct kvh_nvme_wiper {
	struct kvh_order_list doomed; /* DOOMED, and not read */
	struct kvh_order_list trims;  /* WIPING: wiped, their room is to be given back */
	uint32_t orphans;             /* DOOMED and read, and no request is parked for them */
	uint32_t running;
	int status; /* the first failure since a CLEAR began */
	struct kvh_nvme_io ios[KVH_NVME_WIPE_IOS];
	uint32_t slots[KVH_NVME_WIPE_IOS]; /* that each is for */
	bool trimming[KVH_NVME_WIPE_IOS];  /* gives room back; else wipes */
	uint32_t idle[KVH_NVME_WIPE_IOS];  /* [WIPE_IOS - running] of them */
};

struct kvh_nvme;

struct kvh_nvme_stripe {
	struct kvh_nvme *nvme;
	struct kvh_nvme_file *file;
	struct kvh_nvme_index index;
	const struct kvh_nvme_engine_ops *engine_ops;
	void *engine;
	uint32_t depth; /* of the engine */
	struct kvh_nvme_sched sched;
	struct kvh_nvme_grow grow;
	struct kvh_nvme_wiper wiper;
	uint32_t running; /* transfers, and work of the side thread */
	uint32_t puts;
	uint32_t write_errors;       /* in a row */
	uint32_t wipe_errors;        /* since open */
	uint64_t buffered;           /* transfers, because O_DIRECT was refused */
	struct kvh_req_fifo waiting; /* PUTs without a slot */
	struct kvh_req_fifo parked;  /* their slot is DOOMED and read */
	/* DELETEs of what a crash now would bring back: its slot is being written over,
	 * or waits to be wiped. */
	struct kvh_req_fifo behind;
};

/* The CLEAR that goes on; others wait. Its cursor walks the stripes' extents. */
struct kvh_nvme_clear {
	struct kvh_req_fifo waiting; /* the first is the one */
	struct kvh_nvme_space *space;
	uint32_t stripe, extent;
	bool marked;      /* the requests that it has to wait for are */
	uint32_t pending; /* == those that are marked and have not ended */
};

struct kvh_nvme {
	struct kvh_nvme_conf conf;
	struct kvh_nvme_file *files;     /* [n_stripes] */
	struct kvh_nvme_stripe *stripes; /* [n_stripes] */
	uint32_t n_stripes;
	uint64_t bytes; /* of all files: a key's stripe is chosen by their shares */
	struct kvh_nvme_spaces spaces;
	struct kvh_nvme_side *side;
	struct kvh_nvme_health *health;
	int efd;
	char *zeros;                /* KVH_NVME_ZEROS of them, aligned */
	uint32_t accepted;          /* requests, <= conf.depth */
	bool flush_failed;          /* nothing is called durable any more */
	bool stale_said;            /* a frame was found that is not the one written: logged */
	bool full;                  /* the floor was reached: said once */
	struct kvh_l2_req **active; /* [accepted - done] */
	uint32_t n_active;
	struct kvh_nvme_clear clear;
	struct kvh_req_fifo done; /* to be reaped */
};

/* Whose a transfer is: kvh_nvme_io.owner. */
enum kvh_nvme_owner { KVH_NVME_OWNER_TASK, KVH_NVME_OWNER_GROW, KVH_NVME_OWNER_WIPE };

/* nvme_task.c: what submit, cancel and reap come to. Ended requests are in
 * nvme->done. */
void kvh_nvme_task_begin(struct kvh_nvme *nvme, struct kvh_l2_req *req);
void kvh_nvme_task_cancel(struct kvh_nvme *nvme, struct kvh_l2_req *req);
void kvh_nvme_task_advance(struct kvh_nvme *nvme);
/* For nvme_put.c and nvme_wipe.c: a PUT has its slot, and is written; a request
 * has ended. */
void kvh_nvme_task_write(struct kvh_nvme_stripe *stripe, struct kvh_l2_req *req, uint32_t slot);
void kvh_nvme_task_finish(struct kvh_nvme *nvme, struct kvh_l2_req *req, int status);
/* Marks the requests that write over or wipe a frame, for CLEAR: it may be its. */
void kvh_nvme_task_mark(struct kvh_nvme *nvme);
/* After a failed flush. */
void kvh_nvme_flush_failed(struct kvh_nvme *nvme, int error);

/* Starts a transfer of a caller's struct, all of whose other fields it sets. */
void kvh_nvme_start(struct kvh_nvme_stripe *stripe, struct kvh_nvme_io *io,
		    enum kvh_nvme_kind kind, void *buf, uint64_t len, uint64_t off,
		    uint32_t region);

/* The stripe that a key's frame is in. */
struct kvh_nvme_stripe *kvh_nvme_stripe_of(const struct kvh_nvme *nvme,
					   const struct kvh_key *key);

/* nvme_put.c: PUTs that wait are tried again, in their order. */
void kvh_nvme_pump(struct kvh_nvme_stripe *stripe);

/* ---- nvme_wipe.c ---- */

void kvh_nvme_wiper_init(struct kvh_nvme_stripe *stripe);
/* A DOOMED slot, not read, is wiped some time. */
void kvh_nvme_wipe_later(struct kvh_nvme_stripe *stripe, uint32_t slot);
/* BAD slots are tried again: those that have had a frame like it; with NULL, all. */
void kvh_nvme_wipe_again(struct kvh_nvme_stripe *stripe, const struct kvh_key *key);
/* The oldest of each size. */
void kvh_nvme_wipe_oldest(struct kvh_nvme_stripe *stripe);
/* A slot that could not be wiped has had a frame like it. */
bool kvh_nvme_bad_has(const struct kvh_nvme_stripe *stripe, const struct kvh_key *key);
/* A slot that is to be wiped, or is being, has had a frame like it. */
bool kvh_nvme_wiper_has(const struct kvh_nvme_stripe *stripe, const struct kvh_key *key);
/* One of its transfers was reaped. */
void kvh_nvme_wipe_ended(struct kvh_nvme_stripe *stripe, struct kvh_nvme_io *io);
enum kvh_nvme_why { KVH_NVME_DELETED, KVH_NVME_REPLACED, KVH_NVME_NOT_WRITTEN };

/* The header of a WIPING slot is zero, or could not be made so. NOT_WRITTEN: it is
 * the slot that may be broken, so it is set aside. */
void kvh_nvme_wiped(struct kvh_nvme_stripe *stripe, uint32_t slot, int result,
		    enum kvh_nvme_why why);
void kvh_nvme_clear_begin(struct kvh_nvme *nvme, struct kvh_l2_req *req);
/* It ends; what it deleted so far stays deleted. */
void kvh_nvme_clear_cancel(struct kvh_nvme *nvme, struct kvh_l2_req *req);
/* Goes on with a CLEAR: some slots at a time. */
void kvh_nvme_clear_advance(struct kvh_nvme *nvme);

/* ---- open and close ---- */

/* Fills the index of all stripes, from their snapshots or the headers of all slots
 * that the tables name, and marks the files as open. Blocks. */
int kvh_nvme_scan(struct kvh_nvme *nvme);
/* Into an index with FREE slots only. -ENOENT: there is none. Others: it is not to
 * go by, and the index is to be made anew. */
int kvh_nvme_snapshot_load(struct kvh_nvme_stripe *stripe);
/* Nothing runs. Names it in the superblock, which is to be written next. */
void kvh_nvme_snapshot_save(struct kvh_nvme_stripe *stripe);

/* ---- nvme_grow.c ---- */

/* Not growing. The segment has room, or is not busy: then what is in it goes. */
void kvh_nvme_grow_start(struct kvh_nvme_stripe *stripe, uint32_t segment, uint32_t class);
/* Segments that nobody wants any more, and that a scan would find old frames in, are
 * taken out of the table, one after another. */
void kvh_nvme_grow_settle(struct kvh_nvme_stripe *stripe);
/* One of its transfers was reaped. */
void kvh_nvme_grow_ended(struct kvh_nvme_stripe *stripe, struct kvh_nvme_io *io);

static inline bool kvh_nvme_growing(const struct kvh_nvme_stripe *stripe)
{
	return stripe->grow.state != KVH_NVME_GROW_IDLE;
}

/* A scan would find old frames in segments that have been cleared, and this will
 * be over. Where it cannot be, index.unsettled > 0 all the same. */
static inline bool kvh_nvme_unsettled(const struct kvh_nvme_stripe *stripe)
{
	return stripe->index.unsettled > 0 &&
	       (kvh_nvme_growing(stripe) ||
		kvh_nvme_segment_unsettled(&stripe->index, true) != KVH_NVME_NONE);
}

/* ---- nvme_open.c ---- */

int kvh_nvme_open(const char *conf, const struct kvh_l2_env *env, void **self_p);
int kvh_nvme_close(void *self, uint64_t deadline_ns);

#endif
