/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_inspect.h - looks at a file of the nvme adapter without writing to it or
 * locking it: one that is closed, one that a crash left, or one in use, which may
 * change meanwhile. For tools. Blocks.
 *
 * After open any thread may walk and read, several at once.
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
	uint32_t clean;    /* 1: closed in order; 0: in use, or left by a crash */
	uint32_t owner;    /* process that has it open, as far as the file says; 0: none */
	uint8_t uuid[16];  /* of the set */
	uint32_t stripes;  /* of the set */
	uint32_t stripe;   /* which of them this is */
	uint64_t sequence; /* of the superblock */
	uint64_t bytes;    /* of the format; the file may be larger */
	uint64_t data_offset;
	uint64_t segment_bytes;
	uint32_t segments;
	uint64_t snapshot_records; /* of the index; 0: none, or empty */
};

struct kvh_nvme_segment_info {
	uint64_t slot_bytes; /* 0: not assigned to a frame size */
	uint32_t used;       /* slots that may hold frames */
	uint32_t slots;      /* that there is room for */
};

struct kvh_nvme_slot_info {
	uint32_t segment, slot;
	uint64_t offset; /* in the file */
	uint64_t bytes;  /* of the slot; of its frame, too */
	/* 0: a sound header; -ENOENT: no frame; -EBADMSG: what is there is no header,
	 * or that of a frame of another size; others: it cannot be read */
	int status;
	const struct kvh_frame_header *header; /* during the call, if it could be read */
};

/* Logged: what was found. -ENOENT no superblock, or no file; -EBADMSG damaged;
 * -EPROTONOSUPPORT another version; others as the file system says. */
int kvh_nvme_inspect_open(const char *path, const struct kvh_io_ops *io, void *io_ctx,
			  struct kvh_nvme_inspect **inspect_p);
void kvh_nvme_inspect_close(struct kvh_nvme_inspect *inspect);

void kvh_nvme_inspect_info(const struct kvh_nvme_inspect *inspect, struct kvh_nvme_info *info);
void kvh_nvme_inspect_segment(const struct kvh_nvme_inspect *inspect, uint32_t segment,
			      struct kvh_nvme_segment_info *info);

/* Calls visit for every used slot of a segment, until it returns false. -ENOMEM. */
int kvh_nvme_inspect_walk(const struct kvh_nvme_inspect *inspect, uint32_t segment,
			  bool (*visit)(void *arg, const struct kvh_nvme_slot_info *slot),
			  void *arg);
/* `bytes` at `offset`, as a slot has them, into memory aligned to 4 KiB. */
int kvh_nvme_inspect_read(const struct kvh_nvme_inspect *inspect, uint64_t offset,
			  uint64_t bytes, void *buf);

#ifdef __cplusplus
}
#endif
#endif
