/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nearest.h - which of the valid names somebody may have meant, for messages.
 * Pure; any thread.
 */
#ifndef KVH_HOST_NEAREST_H
#define KVH_HOST_NEAREST_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Begin with {word, NULL, 0}, try every valid name, read `best`: NULL if none was
 * tried. Of equals, the first. */
struct kvh_nearest {
	const char *word;
	const char *best;
	uint32_t distance;
};
void kvh_nearest_try(struct kvh_nearest *nearest, const char *name);

/* Insertions, deletions, substitutions and swaps of neighbours that turn one
 * into the other, whatever the case of letters. Of long texts, the first 63
 * bytes. */
uint32_t kvh_edit_distance(const char *a, const char *b);

#ifdef __cplusplus
}
#endif
#endif
