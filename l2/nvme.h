/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme.h - the parts of the nvme adapter see each other here: nvme.c has the
 * table, nvme_task.c the requests, nvme_grow.c opens more slots, nvme_scan.c finds the frames
 * at open. Below them nvme_index.h, nvme_engine.h, nvme_file.h, nvme_layout.h.
 */
#ifndef KVH_L2_NVME_H
#define KVH_L2_NVME_H

#include "l2/nvme_engine.h"
#include "l2/nvme_index.h"
#include "l2/req.h"

#define KVH_NVME_GROW_IOS 8u
#define KVH_NVME_ZEROS    (UINT64_C(64) << 10)

/* Opens slots in a segment, one extent at a time:
 *
 *    IDLE --start--> WIPE --headers are zero--> TABLE --written--> IDLE
 *      |              |                           ^  |
 *      |              +--failed--> IDLE           |  +--failed--> IDLE
 *      +---------------- virgin ------------------+
 *
 * Only behind the table's write are the slots FREE: until then a scan does not
 * look at them, and after it finds nothing old in them. */
enum kvh_nvme_grow_state { KVH_NVME_GROW_IDLE, KVH_NVME_GROW_WIPE, KVH_NVME_GROW_TABLE };

struct kvh_nvme_grow {
	enum kvh_nvme_grow_state state;
	uint32_t segment, class, count; /* slots to open */
	uint64_t at, end;               /* still to be wiped, on the medium */
	uint64_t step;                  /* from one wipe to the next */
	uint32_t running;
	int status; /* of this one, or the last */
	struct kvh_nvme_io ios[KVH_NVME_GROW_IOS];
};

struct kvh_nvme {
	struct kvh_nvme_conf conf;
	struct kvh_nvme_file file;
	struct kvh_nvme_index index;
	const struct kvh_nvme_engine_ops *engine_ops;
	void *engine;
	int efd;
	char *zeros; /* KVH_NVME_ZEROS of them, aligned */
	struct kvh_nvme_grow grow;
	uint32_t running;  /* transfers in the engine, grow's too */
	uint32_t accepted; /* requests, <= conf.depth */
	uint32_t puts;
	struct kvh_l2_req **active;  /* [accepted - done] */
	uint32_t n_active;           /* == waiting + parked + task transfers running */
	struct kvh_req_fifo waiting; /* PUTs without a slot */
	struct kvh_req_fifo parked;  /* their slot is DOOMED and read */
	struct kvh_req_fifo done;    /* to be reaped */
};

/* Whose a transfer is: kvh_nvme_io.owner. */
enum kvh_nvme_owner { KVH_NVME_OWNER_TASK, KVH_NVME_OWNER_GROW };

/* nvme_task.c: what submit, cancel and reap come to. Ended requests are in
 * nvme->done. */
void kvh_nvme_task_begin(struct kvh_nvme *nvme, struct kvh_l2_req *req);
void kvh_nvme_task_cancel(struct kvh_nvme *nvme, struct kvh_l2_req *req);
void kvh_nvme_task_advance(struct kvh_nvme *nvme);

/* Starts a transfer of a caller's struct, all of whose other fields it sets. */
void kvh_nvme_start(struct kvh_nvme *nvme, struct kvh_nvme_io *io, enum kvh_io_dir dir,
		    void *buf, uint64_t len, uint64_t off, uint32_t region);

/* Reads the headers of all slots that the table names. Blocks. -ENOMEM. */
int kvh_nvme_scan(struct kvh_nvme *nvme);

/* Not growing. The segment has room, or is not busy: then what is in it goes. */
void kvh_nvme_grow_start(struct kvh_nvme *nvme, uint32_t segment, uint32_t class);
/* One of its transfers was reaped. */
void kvh_nvme_grow_ended(struct kvh_nvme *nvme, struct kvh_nvme_io *io);

static inline bool kvh_nvme_growing(const struct kvh_nvme *nvme)
{
	return nvme->grow.state != KVH_NVME_GROW_IDLE;
}

#endif
