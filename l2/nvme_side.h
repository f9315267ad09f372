/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_side.h - a thread of the nvme adapter for the calls that block and have no
 * hurry: flushing files, giving room back. First come, first served; one at a
 * time, so that no discard is under way when a later flush begins.
 */
#ifndef KVH_L2_NVME_SIDE_H
#define KVH_L2_NVME_SIDE_H

#include "l2/nvme_engine.h"

enum kvh_nvme_side_op {
	KVH_NVME_FLUSH,     /* all files, one after another */
	KVH_NVME_FLUSH_ONE, /* the file */
	KVH_NVME_DISCARD,   /* io->len bytes at io->off of the file */
};

struct kvh_nvme_side;

/* `efd` becomes readable when reap has something. */
int kvh_nvme_side_open(struct kvh_nvme_file *files, uint32_t n, int efd,
		       struct kvh_nvme_side **side_p);
/* Nothing is running. NULL is fine. */
void kvh_nvme_side_close(struct kvh_nvme_side *side);

/* io->dir is the operation, io->region the file's number. */
void kvh_nvme_side_start(struct kvh_nvme_side *side, struct kvh_nvme_io *io);
/* Takes all that have ended, with io->result; NULL: none. */
struct kvh_nvme_io *kvh_nvme_side_reap(struct kvh_nvme_side *side);

#endif
