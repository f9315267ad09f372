/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fill.h - the bytes that a page must hold: they follow from the chunk's key, the
 * plane, and the offset among the plane's bytes of the chunk in token order
 * (token, head, byte), so they do not depend on how a pool lays out its pages.
 * Pure functions; any thread.
 */
#ifndef KVH_BENCH_FILL_H
#define KVH_BENCH_FILL_H

#include "kvhoist.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What pages hold that have not been written: never what they must hold. */
#define KVH_FILL_POISON 0xa5

/* What one page holds of one plane. `head_bytes` is a multiple of 8, and so is
 * the alignment of the page. */
struct kvh_fill_unit {
	uint64_t base;        /* kvh_fill_base */
	uint32_t first_token; /* of the page, in the chunk */
	uint32_t tokens;
	uint32_t heads;
	uint32_t head_bytes;
	uint32_t order; /* enum kvh_order */
};

/* Plane `plane` of the key's group. */
uint64_t kvh_fill_base(const struct kvh_key *key, uint32_t plane);
void kvh_fill_write(const struct kvh_fill_unit *unit, void *page);
/* Offset in the page of the first byte that is wrong, or -1: all are right. */
int64_t kvh_fill_check(const struct kvh_fill_unit *unit, const void *page);
/* The byte that stands at an offset in the page: for messages. */
uint8_t kvh_fill_byte(const struct kvh_fill_unit *unit, uint64_t offset);

/* The 128-bit hash of a trace's block. */
void kvh_fill_hash(uint64_t salt, uint64_t id, struct kvh_hash *hash);

#ifdef __cplusplus
}
#endif
#endif
