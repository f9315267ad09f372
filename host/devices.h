/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devices.h - the devices of an engine, each with a mover of its own and what was
 * done on it. A pool belongs to one of them, and so do the jobs on it; L1 is pinned
 * once, for all.
 *
 *   closed --open--> OPEN --start--> STARTED --stop--> OPEN --close--> closed
 *                            the movers run
 *
 * One thread opens and closes; in between the table does not change, and any thread
 * reads it. A device that dies stays in it: its own jobs end, the others' go on.
 */
#ifndef KVH_HOST_DEVICES_H
#define KVH_HOST_DEVICES_H

#include "cuda/device.h"
#include "cuda/mover.h"
#include "host/metrics.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_engine_device {
	struct kvh_device *dev;
	struct kvh_mover *mover; /* STARTED */
	struct kvh_device_info info;
	kvh_counter pools, jobs; /* gauges: registered; from the mover's call to `done` */
	kvh_counter stored_chunks, stored_bytes;
	kvh_counter loaded_chunks, loaded_bytes;
	kvh_counter errors; /* jobs that it failed, and calls since it has died */
};

struct kvh_devices {
	struct kvh_engine_device *list;
	uint32_t n;                               /* 1..KVH_DEVICES_MAX */
	bool spread;                              /* L1 lies on several of their NUMA nodes */
	struct kvh_device *devs[KVH_DEVICES_MAX]; /* of list, in its order */
};

/* Errors as kvh_device_open_list. */
int kvh_devices_open(struct kvh_devices *devices, const char *names);
/* A mover for each, or for none. Errors as kvh_mover_open. */
int kvh_devices_start(struct kvh_devices *devices, const struct kvh_mover_opts *opts);
void kvh_devices_stop(struct kvh_devices *devices);
void kvh_devices_close(struct kvh_devices *devices);

/* The device that a pool means: of its UUID; where that is zero, the only one, or the
 * one that owns its memory. -ENODEV: none, or not all on one; the log has all. */
int kvh_devices_find(const struct kvh_devices *devices, const struct kvh_pool_desc *desc,
		     struct kvh_engine_device **device_p);
/* The NUMA nodes that they are on, each once, in their order; at most `max`. */
uint32_t kvh_devices_nodes(const struct kvh_devices *devices, int *nodes, uint32_t max);

/* Where frames for the device should lie: as kvh_l1_reserve takes it. */
static inline uint32_t kvh_devices_near(const struct kvh_devices *devices,
					const struct kvh_engine_device *device)
{
	return devices->spread ? (uint32_t)(device->info.numa_node + 1) : 0;
}

static inline bool kvh_device_dead(const struct kvh_engine_device *device)
{
	return device->dev->ops->dead(device->dev);
}

#ifdef __cplusplus
}
#endif
#endif
