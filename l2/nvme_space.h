/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_space.h - the spaces that the nvme adapter has met, with what they use and
 * may use. As many as there are. On the controller's thread, and before it that
 * of open.
 */
#ifndef KVH_L2_NVME_SPACE_H
#define KVH_L2_NVME_SPACE_H

#include "kvhoist.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_nvme_space {
	kvh_space_t id;
	uint64_t used_bytes; /* of slots WRITING or LIVE, in all stripes */
	uint64_t objects;
	uint64_t evicted;
	uint64_t soft_bytes, hard_bytes; /* 0: no such limit */
	struct kvh_nvme_space *chain;
};

struct kvh_nvme_spaces {
	struct kvh_nvme_space **buckets;
	uint32_t n_buckets; /* a power of two; 0 at first */
	uint32_t n;
};

void kvh_nvme_spaces_fini(struct kvh_nvme_spaces *spaces);

/* NULL: not met. */
struct kvh_nvme_space *kvh_nvme_space_find(const struct kvh_nvme_spaces *spaces,
					   kvh_space_t id);
/* Finds or makes it. NULL: no memory. It stays where it is until fini. */
struct kvh_nvme_space *kvh_nvme_space_get(struct kvh_nvme_spaces *spaces, kvh_space_t id);

#ifdef __cplusplus
}
#endif
#endif
