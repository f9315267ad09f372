/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_health.h - a thread of the nvme adapter that looks after its files several
 * times a second, also without traffic: whether they are still where they were
 * and what they were, whether the file system takes writes, how much room it has.
 */
#ifndef KVH_L2_NVME_HEALTH_H
#define KVH_L2_NVME_HEALTH_H

#include "l2/nvme_file.h"

struct kvh_nvme_health;

int kvh_nvme_health_open(struct kvh_nvme_file *files, uint32_t n,
			 struct kvh_nvme_health **health_p);
/* Waits for a look that has begun, until the deadline: -ETIMEDOUT, all stays as it
 * is. NULL is fine. */
int kvh_nvme_health_close(struct kvh_nvme_health *health, uint64_t deadline_ns);

/* Any thread: 0, or a negative errno and why. */
int kvh_nvme_health_get(const struct kvh_nvme_health *health, const char **why_p);
/* Any thread: the free space is below the floor. */
bool kvh_nvme_health_full(const struct kvh_nvme_health *health);

#endif
