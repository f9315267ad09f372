/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devices.c - an engine's table of devices, how a pool finds its own there, and what
 * is told of each. See devices.h for who calls what.
 */
#include "host/devices.h"

#include "host/engine.h"
#include "host/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- open, close ------------------------------------------------------ */

int kvh_devices_open(struct kvh_devices *devices, const char *names)
{
	struct kvh_device **devs = devices->devs;
	int n = kvh_device_open_list(names, devs, KVH_DEVICES_MAX);
	struct kvh_engine_device *list;

	if (n < 0)
		return n;
	list = calloc((size_t)n, sizeof(*list));
	if (list == NULL) {
		while (n-- > 0)
			devs[n]->ops->close(devs[n]);
		return -ENOMEM;
	}
	for (int i = 0; i < n; i++) {
		list[i].dev = devs[i];
		devs[i]->ops->info(devs[i], &list[i].info);
	}
	devices->list = list;
	devices->n = (uint32_t)n;
	return 0;
}

/* The last first, also of those that were started. */
static void stop_some(struct kvh_devices *devices, uint32_t n)
{
	while (n-- > 0) {
		kvh_mover_close(devices->list[n].mover);
		devices->list[n].mover = NULL;
	}
}

int kvh_devices_start(struct kvh_devices *devices, const struct kvh_mover_opts *opts)
{
	for (uint32_t i = 0; i < devices->n; i++) {
		struct kvh_engine_device *device = &devices->list[i];
		int err = kvh_mover_open(device->dev, opts, &device->mover);

		if (err != 0) {
			stop_some(devices, i);
			return err;
		}
	}
	return 0;
}

void kvh_devices_stop(struct kvh_devices *devices)
{
	stop_some(devices, devices->n);
}

void kvh_devices_close(struct kvh_devices *devices)
{
	for (uint32_t i = devices->n; i-- > 0;)
		devices->list[i].dev->ops->close(devices->list[i].dev);
	free(devices->list);
	*devices = (struct kvh_devices){0};
}

/* ---- a pool's --------------------------------------------------------- */

static void uuid_text(const uint8_t uuid[16], char text[33])
{
	for (unsigned i = 0; i < 16; i++)
		(void)snprintf(text + 2 * (size_t)i, 3, "%02x", uuid[i]);
}

static int not_found(const struct kvh_devices *devices, const char *why)
{
	char text[33];

	kvh_err("pool: %s; the engine's devices are:", why);
	for (uint32_t i = 0; i < devices->n; i++) {
		const struct kvh_device_info *info = &devices->list[i].info;

		uuid_text(info->uuid, text);
		kvh_err("  %s %s (%s)%s", info->label, text, info->name,
			kvh_device_dead(&devices->list[i]) ? ", dead" : "");
	}
	return -ENODEV;
}

static int find_uuid(const struct kvh_devices *devices, const uint8_t uuid[16],
		     struct kvh_engine_device **device_p)
{
	char why[80], text[33];

	for (uint32_t i = 0; i < devices->n; i++) {
		if (memcmp(devices->list[i].info.uuid, uuid, 16) == 0) {
			*device_p = &devices->list[i];
			return 0;
		}
	}
	uuid_text(uuid, text);
	(void)snprintf(why, sizeof(why), "no device of the UUID %s", text);
	return not_found(devices, why);
}

/* Whose memory it is; that of no device belongs to the first that can reach it. NULL:
 * nobody's. A device that has died does not answer. */
static struct kvh_engine_device *owner_of(const struct kvh_devices *devices, const void *mem)
{
	struct kvh_engine_device *first = NULL;

	for (uint32_t i = 0; i < devices->n; i++) {
		struct kvh_device *dev = devices->list[i].dev;
		int owns = dev->ops->owns(dev, mem);

		if (owns == KVH_OWNS_YES)
			return &devices->list[i];
		if (owns == KVH_OWNS_MAYBE && first == NULL)
			first = &devices->list[i];
	}
	return first;
}

static int find_owner(const struct kvh_devices *devices, const struct kvh_pool_desc *desc,
		      struct kvh_engine_device **device_p)
{
	struct kvh_engine_device *owner = NULL, *device = NULL;
	char why[96];

	for (uint32_t i = 0; i < desc->n_allocs; i++) {
		owner = owner_of(devices, desc->allocs[i].base);
		if (owner == NULL) {
			(void)snprintf(why, sizeof(why),
				       "no UUID, and allocation %u (%p) is on no device", i,
				       desc->allocs[i].base);
			return not_found(devices, why);
		}
		if (i > 0 && owner != device) {
			(void)snprintf(why, sizeof(why),
				       "no UUID, and allocation %u is on %s, %u on %s", i - 1,
				       device->info.label, i, owner->info.label);
			return not_found(devices, why);
		}
		device = owner;
	}
	*device_p = device;
	return 0;
}

int kvh_devices_find(const struct kvh_devices *devices, const struct kvh_pool_desc *desc,
		     struct kvh_engine_device **device_p)
{
	static const uint8_t any[16];

	if (memcmp(desc->device_uuid, any, sizeof(any)) != 0)
		return find_uuid(devices, desc->device_uuid, device_p);
	if (devices->n > 1)
		return find_owner(devices, desc, device_p);
	*device_p = &devices->list[0];
	return 0;
}

/* ---- what is asked of all --------------------------------------------- */

static bool node_is_in(const int *nodes, uint32_t n, int node)
{
	for (uint32_t i = 0; i < n; i++)
		if (nodes[i] == node)
			return true;
	return false;
}

uint32_t kvh_devices_nodes(const struct kvh_devices *devices, int *nodes, uint32_t max)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < devices->n && n < max; i++) {
		int node = devices->list[i].info.numa_node;

		if (node >= 0 && !node_is_in(nodes, n, node))
			nodes[n++] = node;
	}
	return n;
}

int kvh_device_status_get(struct kvh_engine *engine, uint32_t index,
			  struct kvh_device_status *st)
{
	const struct kvh_engine_device *device;
	int err = kvh_engine_alive(engine);

	if (err == 0)
		err = kvh_check_size("device status", st->size, sizeof(*st));
	if (err != 0)
		return err;
	if (index >= engine->devices.n)
		return -ENOENT;
	device = &engine->devices.list[index];
	*st = (struct kvh_device_status){
		.size = st->size,
		.numa_node = device->info.numa_node,
		.dead = kvh_device_dead(device),
		.pools = kvh_counted(&device->pools),
		.jobs = kvh_counted(&device->jobs),
		.stored_chunks = kvh_counted(&device->stored_chunks),
		.stored_bytes = kvh_counted(&device->stored_bytes),
		.loaded_chunks = kvh_counted(&device->loaded_chunks),
		.loaded_bytes = kvh_counted(&device->loaded_bytes),
		.errors = kvh_counted(&device->errors),
	};
	(void)snprintf(st->label, sizeof(st->label), "%s", device->info.label);
	(void)snprintf(st->name, sizeof(st->name), "%s", device->info.name);
	memcpy(st->uuid, device->info.uuid, sizeof(st->uuid));
	return 0;
}
