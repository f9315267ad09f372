/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlap.h - do planes share a byte? A plane's bytes are a lattice: runs of
 * one length, repeated at up to three strides (page, token, head), sorted so
 * that each step is at least as long as all that lies inside it:
 *
 *   |run  run  run      |run  run  run      |run  run  run      | ..
 *    `----- level 1 ----'
 *    `-------------------- level 0 -----------------------------'
 *
 * Plain arithmetic on addresses below 2^63, any thread.
 */
#ifndef KVH_CUDA_OVERLAP_H
#define KVH_CUDA_OVERLAP_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_LATTICE_LEVELS 3

struct kvh_lattice_level {
	int64_t stride;
	int64_t n;        /* >= 2 */
	const char *name; /* for messages */
};

struct kvh_lattice {
	int64_t start;
	int64_t run;
	int64_t extent[KVH_LATTICE_LEVELS + 1]; /* [l]: first to last byte of levels >= l */
	struct kvh_lattice_level level[KVH_LATTICE_LEVELS]; /* the longest stride first */
	uint32_t n_levels;
	uint32_t plane; /* the caller's number of it */
};

/* One run; then levels in any order, those of one step left out; then seal,
 * which returns the level that is shorter than what it steps over, or NULL. The
 * whole must end below 2^63. */
void kvh_lattice_init(struct kvh_lattice *lat, uint32_t plane, uint64_t start, uint64_t run);
void kvh_lattice_add(struct kvh_lattice *lat, const char *name, uint64_t stride, uint64_t n);
const struct kvh_lattice_level *kvh_lattice_seal(struct kvh_lattice *lat);

struct kvh_overlap {
	uint32_t plane[2];
	uint64_t address; /* of a byte of both */
};

/* Exact in O(1) a pair where strides are equal or extents disjoint, by
 * counting up where strides differ. Sorts `lats`.
 *  0       no two share a byte
 * -EEXIST  two do: *found
 * -E2BIG   not known after 2^26 steps: *found names the pair, without address */
int kvh_lattices_disjoint(struct kvh_lattice *lats, uint32_t n, struct kvh_overlap *found);

#ifdef __cplusplus
}
#endif
#endif
