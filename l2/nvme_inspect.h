/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_inspect.h - looks at a file of the nvme adapter without writing to it or
 * locking it: one that is closed, one that a crash left, or one in use, which may
 * change meanwhile. For tools. Blocks.
 *
 * After open any thread may read, several at once.
 */
#ifndef KVH_L2_NVME_INSPECT_H
#define KVH_L2_NVME_INSPECT_H

#include "host/frame.h"
#include "l2/io.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_nvme_inspect;

struct kvh_nvme_info {
	uint32_t version;
	bool in_use;               /* somebody has it open, and may change it */
	uint32_t clean;            /* 1: closed in order; 0: in use, or left by a crash */
	uint32_t owner;            /* process that opened it last, unless clean; 0: none */
	uint8_t uuid[16];          /* of the set */
	uint32_t stripes;          /* of the set */
	uint32_t stripe;           /* which of them this is */
	uint64_t sequence;         /* of the superblock */
	uint64_t bytes;            /* of the format */
	uint64_t file_bytes;       /* less than that: it was cut */
	uint32_t bad_super_copies; /* damaged; the other one counts */
	uint32_t bad_table_copies; /* the same, of pages of the table */
	uint32_t bad_table_pages;  /* in both copies: their segments' frames are lost */
	uint64_t data_offset;
	uint64_t segment_bytes;
	uint32_t segments;
	uint64_t snapshot_records; /* of the index; 0: none, or empty */
};

struct kvh_nvme_segment_info {
	uint64_t offset;     /* in the file */
	uint64_t slot_bytes; /* 0: not assigned to a frame size */
	uint32_t used;       /* slots that may hold frames */
	uint32_t slots;      /* that there is room for */
};

/* Logged: what was found, and what can be done. -ENOENT nothing of ours: no file, no
 * superblock, one that was never finished; -EBADMSG both superblocks are damaged;
 * -EPROTONOSUPPORT another version; others as the file system says. */
int kvh_nvme_inspect_open(const char *path, const struct kvh_io_ops *io, void *io_ctx,
			  struct kvh_nvme_inspect **inspect_p);
void kvh_nvme_inspect_close(struct kvh_nvme_inspect *inspect);

void kvh_nvme_inspect_info(const struct kvh_nvme_inspect *inspect, struct kvh_nvme_info *info);
void kvh_nvme_inspect_segment(const struct kvh_nvme_inspect *inspect, uint32_t segment,
			      struct kvh_nvme_segment_info *info);

/* Of the header page at the start of a slot: 0 a sound header, -ENOENT no frame,
 * -EBADMSG and *what_p: it is no header, or that of a frame of another size. */
int kvh_nvme_inspect_judge(const void *page, uint64_t slot_bytes, const char **what_p);
/* `bytes` at `offset`, as a slot has them, into memory aligned to 4 KiB. */
int kvh_nvme_inspect_read(const struct kvh_nvme_inspect *inspect, uint64_t offset,
			  uint64_t bytes, void *buf);

#ifdef __cplusplus
}
#endif
#endif
