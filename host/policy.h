/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy.h - what the store controller asks before it acts. A const table of
 * functions; the controller's thread calls them, and they must not wait.
 */
#ifndef KVH_HOST_POLICY_H
#define KVH_HOST_POLICY_H

#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_policy {
	const char *name;
	/* After a chunk was stored to L1: the adapters that get it, a bit each of
	 * the lowest n. 0: none. */
	uint32_t (*select_targets)(const struct kvh_key *key, uint32_t n_adapters);
	/* After all of `targets` have answered; `stored` are those that have it
	 * now. True: the chunk leaves L1 (when its last lease ends). Not asked
	 * where there was no target. */
	bool (*select_deletion)(const struct kvh_key *key, uint32_t targets, uint32_t stored);
	/* Whether a prefetched chunk stays in L1 after its last lease. */
	bool retain_prefetched;
};

/* "default", "buffer-only"; NULL is "default". -EINVAL: logged, with the names. */
int kvh_policy_find(const char *name, const struct kvh_policy **policy_p);
/* NULL beyond the last. */
const char *kvh_policy_name(size_t index);

#ifdef __cplusplus
}
#endif
#endif
