/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_layout.h - what lies on the disk of the nvme adapter: superblock and
 * segment table. Pure functions over memory; any thread. docs/nvme.md draws it.
 *
 * All integers little-endian. Offsets are part of the format: a change is a new
 * version, or a bit in `incompat` if old readers must be kept out.
 *
 *   0 super A | 4096 super B | table, pages 0A 0B 1A 1B ... | segments ...
 */
#ifndef KVH_L2_NVME_LAYOUT_H
#define KVH_L2_NVME_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_NVME_PAGE        4096u
#define KVH_NVME_VERSION     1u
#define KVH_NVME_MIN_BYTES   (UINT64_C(1) << 20)
#define KVH_NVME_MAX_BYTES   (UINT64_C(1) << 50)
#define KVH_NVME_SEGMENT_MAX (UINT64_C(1) << 30) /* as chosen by itself */
#define KVH_NVME_SEGMENTS    (1u << 20)          /* of a file */
#define KVH_NVME_ENTRIES     254u                /* of a table page */

/* Two copies, written in turn: the sound one of the higher sequence counts. */
struct kvh_nvme_super {
	uint8_t magic[8];         /*   0 "KVHNVME\0" */
	uint32_t version;         /*   8 */
	uint32_t incompat;        /*  12 features a reader has to know; none yet */
	uint64_t sequence;        /*  16 */
	uint8_t uuid[16];         /*  24 of the stripe set */
	uint32_t stripes;         /*  40 files in the set: 1 */
	uint32_t stripe;          /*  44 which one this is: 0 */
	uint64_t bytes;           /*  48 of the file */
	uint64_t table_offset;    /*  56 */
	uint32_t table_pages;     /*  64 of one copy */
	uint32_t segments;        /*  68 */
	uint64_t data_offset;     /*  72 */
	uint64_t segment_bytes;   /*  80 of all but the last, which has the rest too */
	uint64_t snapshot_offset; /*  88 of the index; 0: none */
	uint64_t snapshot_bytes;  /*  96 */
	uint32_t clean;           /* 104 1: closed in order, and nobody has it open */
	uint32_t owner;           /* 108 process that opened it last, for a message */
	uint8_t zero[4096 - 112 - 8];
	uint64_t checksum; /* 4088 CRC-64 of the bytes before */
};

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
/* 0, -ENOENT (not ours), -EBADMSG (ours, damaged), -EPROTONOSUPPORT (newer). */
int kvh_nvme_super_check(const struct kvh_nvme_super *super);

void kvh_nvme_table_seal(struct kvh_nvme_table_page *table);
int kvh_nvme_table_check(const struct kvh_nvme_table_page *table, uint32_t page);

uint64_t kvh_nvme_segment_offset(const struct kvh_nvme_super *super, uint32_t segment);
uint64_t kvh_nvme_segment_bytes(const struct kvh_nvme_super *super, uint32_t segment);
/* Of the table page that holds generation `generation` of it. */
uint64_t kvh_nvme_table_offset(const struct kvh_nvme_super *super, uint32_t page,
			       uint64_t generation);

#ifdef __cplusplus
}
#endif
#endif
