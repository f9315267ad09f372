/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.h - how a chunk lies in L1 and in every L2: a header page, then the
 * payload, zero-padded to 4 KiB. Pure functions over memory; any thread.
 *
 * All integers little-endian. Offsets are part of the format: a change is a
 * new version.
 */
#ifndef KVH_HOST_FRAME_H
#define KVH_HOST_FRAME_H

#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_FRAME_ALIGN   4096u /* of header, padding and every frame in memory */
#define KVH_FRAME_VERSION 1u

enum kvh_checksum_algo {
	KVH_CHECKSUM_NONE = 0,
	KVH_CHECKSUM_CRC64_ECMA = 1, /* ISA-L crc64_ecma_refl */
};

/* The payload's checksum starts from the checksum of the bytes [0, 128) of the
 * header, so it is bound to key, space and sequence; it covers the padding. */
struct kvh_frame_header {
	uint8_t magic[8];       /*   0 "KVHOIST\0" */
	uint32_t version;       /*   8 */
	uint32_t checksum_algo; /*  12 enum kvh_checksum_algo */
	struct kvh_key key;     /*  16 */
	uint8_t digest[32];     /*  48 SHA-256 of the space's canonical descriptor */
	struct kvh_hash parent; /*  80 zero: the first chunk of a prompt */
	uint64_t sequence;      /*  96 of the store, unique in the engine's life */
	uint64_t payload_bytes; /* 104 */
	uint64_t frame_bytes;   /* 112 == kvh_frame_bytes(payload_bytes) */
	uint64_t reserved;      /* 120 zero */
	uint64_t checksum;      /* 128 of the payload and its padding */
	uint8_t zero[4096 - 136 - 8];
	uint64_t header_checksum; /* 4088 of the bytes [0, 4088) */
};

static inline uint64_t kvh_frame_bytes(uint64_t payload_bytes)
{
	return KVH_FRAME_ALIGN +
	       (payload_bytes + KVH_FRAME_ALIGN - 1) / KVH_FRAME_ALIGN * KVH_FRAME_ALIGN;
}

/* Writes everything but the two checksums, and zeroes the padding. */
void kvh_frame_fill(void *frame, const struct kvh_key *key, const uint8_t digest[32],
		    const struct kvh_hash *parent, uint64_t sequence, uint64_t payload_bytes);

/* Computes both checksums of a filled frame. Once, before its first PUT. */
void kvh_frame_seal(void *frame);

/* Whether it was sealed: never a second time, its bytes may be under way. */
static inline bool kvh_frame_sealed(const void *frame)
{
	return ((const struct kvh_frame_header *)frame)->header_checksum != 0;
}

/* The payload's checksum in pieces: begun from the header, then over all that follows
 * it, in order, the padding too. At the end it is header->checksum. */
uint64_t kvh_frame_sum_begin(const void *header);
uint64_t kvh_frame_sum_add(uint64_t sum, const void *bytes, uint64_t n);

/* What a medium may be asked without the payload: magic, version, lengths and
 * the header's checksum of the 4096 bytes at `header`. 0, -EBADMSG (not a sound
 * header), -EPROTONOSUPPORT (a newer version). Logs nothing. */
int kvh_frame_check_header(const void *header);
/* The same, as what is unsound, a static text, or NULL. */
const char *kvh_frame_header_fault(const void *header);

/* Everything, for a frame of `bytes` that claims to be `key` of the space:
 * 0 or -EBADMSG; *what_p (may be NULL) then says what differs. Logs nothing. */
int kvh_frame_verify(const void *frame, uint64_t bytes, const struct kvh_key *key,
		     const uint8_t digest[32], const char **what_p);

#ifdef __cplusplus
}
#endif
#endif
