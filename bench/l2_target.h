/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_target.h - what an adapter's spec stands for on this machine: a file, a block
 * device, a directory, or nothing with a path. The bench makes it, and takes away
 * what it made. One thread.
 */
#ifndef KVH_BENCH_L2_TARGET_H
#define KVH_BENCH_L2_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_target_kind {
	KVH_TARGET_NONE,
	KVH_TARGET_FILE,
	KVH_TARGET_BLOCK,
	KVH_TARGET_DIRECTORY
};

struct kvh_target {
	const char *spec;
	char *path; /* NULL: the spec has none */
	bool was_there;
	enum kvh_target_kind kind; /* once the adapter has opened it */
	uint64_t bytes;            /* FILE, BLOCK */
	char *twin;                /* FILE: another of its size beside it, or NULL */
};

/* Before the adapter is opened. -EEXIST: a file or directory is there already: it
 * may be somebody's cache. A block device may be. */
int kvh_target_init(struct kvh_target *target, const char *spec);
/* Once it is open. */
void kvh_target_look(struct kvh_target *target);
/* FILE: makes its twin, for writes that are not the adapter's: allocated, and written
 * by nobody yet. Complains. */
int kvh_target_twin(struct kvh_target *target);
void kvh_target_twin_drop(struct kvh_target *target);
/* How a read comes by its bytes: "direct" (O_DIRECT), "dropped" (the page cache is
 * emptied of it by kvh_target_cool), "cached", "memory". Static. */
const char *kvh_target_cold(const struct kvh_target *target);
void kvh_target_cool(const struct kvh_target *target);
/* After the close: removes what was not there before, and the twin. */
void kvh_target_fini(struct kvh_target *target);

#ifdef __cplusplus
}
#endif
#endif
