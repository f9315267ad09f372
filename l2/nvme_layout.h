/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_layout.h - what lies on the disk of the nvme adapter: superblock, segment
 * table, snapshots of the index. Pure functions over memory; any thread.
 * docs/nvme.md draws it.
 *
 * All integers little-endian. Offsets are part of the format: a change is a new
 * version, or a bit in `incompat` if old readers must be kept out.
 *
 *   0 super A | 4096 super B | table, pages 0A 0B 1A 1B ... | snapshots | segments ...
 */
#ifndef KVH_L2_NVME_LAYOUT_H
#define KVH_L2_NVME_LAYOUT_H

#include "kvhoist.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_NVME_PAGE        4096u
#define KVH_NVME_VERSION     2u
#define KVH_NVME_MIN_BYTES   (UINT64_C(1) << 20)
#define KVH_NVME_MAX_BYTES   (UINT64_C(1) << 50)
#define KVH_NVME_SEGMENT_MAX (UINT64_C(1) << 30) /* as chosen by itself */
#define KVH_NVME_SEGMENTS    (1u << 20)          /* of a file */
#define KVH_NVME_ENTRIES     254u                /* of a table page */
#define KVH_NVME_STRIPES     64u                 /* of a set */

/* Two copies, written in turn: the sound one of the higher sequence counts. All of
 * it is in one sector, which a disk writes whole or not at all. */
struct kvh_nvme_super {
	uint8_t magic[8];         /*   0 "KVHNVME\0" */
	uint32_t version;         /*   8 */
	uint32_t incompat;        /*  12 features a reader has to know; none yet */
	uint64_t sequence;        /*  16; up to 2: made, and never opened since */
	uint8_t uuid[16];         /*  24 of the set */
	uint32_t stripes;         /*  40 files in the set */
	uint32_t stripe;          /*  44 which one this is */
	uint64_t bytes;           /*  48 of the file */
	uint64_t table_offset;    /*  56 */
	uint32_t table_pages;     /*  64 of one copy */
	uint32_t segments;        /*  68 */
	uint64_t data_offset;     /*  72 */
	uint64_t segment_bytes;   /*  80 of all but the last, which has the rest too */
	uint64_t snapshot_offset; /*  88 of the room for two, one behind the other */
	uint64_t snapshot_bytes;  /*  96 room for one */
	uint32_t clean;           /* 104 1: closed in order, and nobody has it open */
	uint32_t owner;           /* 108 process that opened it last, for a message */
	/* Of the index as it was at this close, or none: only while clean is 1. */
	uint32_t snapshot;          /* 112 0: none, 1: the first, 2: the second */
	uint32_t formatting;        /* 116 1: not a superblock yet, and nothing is here */
	uint64_t snapshot_records;  /* 120 */
	uint64_t snapshot_checksum; /* 128 CRC-64 of the records, padded to a page */
	uint8_t zero[512 - 136 - 8];
	uint64_t checksum; /* 504 CRC-64 of the bytes before */
	uint8_t unused[4096 - 512];
};

/* A LIVE slot. Those of one space and slot size stand in the order in which they
 * would be evicted. */
struct kvh_nvme_record {
	struct kvh_key key; /*  0 */
	uint32_t segment;   /* 32 */
	uint32_t slot;      /* 36 place in the segment; KVH_NVME_SECOND_LIST */
	uint32_t age;       /* 40 uses of others since its own last */
	uint32_t tag;       /* 44 the low half of the frame's header checksum */
};

#define KVH_NVME_SECOND_LIST 0x80000000u /* of the policy's two */

/* A segment holds slots of one size, side by side from its start. */
struct kvh_nvme_entry {
	uint64_t slot_bytes; /* == frame_bytes of every frame in it; 0: not assigned */
	uint32_t used;       /* slots from the start that may hold frames */
	uint32_t flags;      /* KVH_NVME_VIRGIN */
};

/* Behind the used slots nothing was ever written: there it reads as zeros. */
#define KVH_NVME_VIRGIN 1u

/* Two copies of each, written in turn by generation's lowest bit. */
struct kvh_nvme_table_page {
	uint32_t magic;      /* 0 "KVHT" */
	uint32_t page;       /* 4 */
	uint64_t generation; /* 8 the sound one of the higher generation counts */
	struct kvh_nvme_entry entries[KVH_NVME_ENTRIES]; /* 16 */
	uint64_t reserved;                               /* 4080 */
	uint64_t checksum;                               /* 4088 */
};

/* Fills the geometry of a file of `bytes`; segment_bytes 0: chosen by itself.
 * -EINVAL: no such segments in so many bytes. */
int kvh_nvme_super_plan(struct kvh_nvme_super *super, uint64_t bytes, uint64_t segment_bytes);
void kvh_nvme_super_seal(struct kvh_nvme_super *super);
/* 0, 1 (formatting: may be formatted anew), -ENOENT (not ours), -EBADMSG (ours, damaged),
 * -EPROTONOSUPPORT (another version, or features that we do not know). */
int kvh_nvme_super_check(const struct kvh_nvme_super *super);

void kvh_nvme_table_seal(struct kvh_nvme_table_page *table);
int kvh_nvme_table_check(const struct kvh_nvme_table_page *table, uint32_t page);

/* Of a key, for the choice of its stripe: part of the format. */
uint64_t kvh_nvme_layout_hash(const struct kvh_key *key);

/* Records that there is room for in one snapshot. */
uint64_t kvh_nvme_snapshot_room(const struct kvh_nvme_super *super);
/* Of a run of whole pages, `before` the value of those before it, 0 at first. */
uint64_t kvh_nvme_snapshot_checksum(uint64_t before, const void *pages, uint64_t bytes);
/* Of snapshot 1 or 2. */
uint64_t kvh_nvme_snapshot_offset(const struct kvh_nvme_super *super, uint32_t snapshot);

uint64_t kvh_nvme_segment_offset(const struct kvh_nvme_super *super, uint32_t segment);
uint64_t kvh_nvme_segment_bytes(const struct kvh_nvme_super *super, uint32_t segment);
/* Of the table page that holds generation `generation` of it. */
uint64_t kvh_nvme_table_offset(const struct kvh_nvme_super *super, uint32_t page,
			       uint64_t generation);

#ifdef __cplusplus
}
#endif
#endif
