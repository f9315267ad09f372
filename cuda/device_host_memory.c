/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_host_memory.c - the host device's memory: what was allocated on it, and
 * what is registered. A registration holds for all devices that were opened beside
 * each other, as a portable one does for all GPUs: none may overlap, and any of them
 * takes it back.
 * Any thread.
 */
#include "cuda/device_host_impl.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MEM_ALIGN  256u /* what cudaMalloc promises */
#define HOST_ALIGN 4096u

int kvh_host_call_begin(struct host_device *dev, enum kvh_host_call call)
{
	int err;

	pthread_mutex_lock(&dev->lock);
	err = kvh_host_called(dev, call, NULL);
	if (err == 0 && dev->failed)
		err = -EIO;
	if (err != 0)
		pthread_mutex_unlock(&dev->lock);
	return err;
}

/* NULL: no memory. */
static struct host_range *range_add(struct host_range **list, const struct host_device *owner,
				    const void *base, uint64_t bytes)
{
	struct host_range *range = malloc(sizeof(*range));

	if (range == NULL)
		return NULL;
	*range = (struct host_range){*list, owner, (uintptr_t)base, bytes};
	*list = range;
	return range;
}

/* Takes out the one that starts there: NULL, none does. */
static struct host_range *range_take(struct host_range **list, const void *base)
{
	struct host_range *range;

	while (*list != NULL && (*list)->base != (uintptr_t)base)
		list = &(*list)->next;
	range = *list;
	if (range != NULL)
		*list = range->next;
	return range;
}

static bool ranges_overlap(const struct host_range *list, uintptr_t base, uint64_t bytes)
{
	for (; list != NULL; list = list->next)
		if (base < list->base + list->bytes && list->base < base + bytes)
			return true;
	return false;
}

/* ---- allocations ------------------------------------------------------ */

/* Under the lock. */
static int alloc_locked(struct host_device *dev, enum kvh_host_call call, uint64_t bytes,
			void **mem_p)
{
	size_t align = call == KVH_HOST_MEM_ALLOC ? MEM_ALIGN : HOST_ALIGN;
	void *mem = NULL;

	if (bytes == 0)
		return -EINVAL;
	if (bytes > PTRDIFF_MAX || posix_memalign(&mem, align, bytes) != 0)
		return -ENOMEM;
	if (call == KVH_HOST_MEM_ALLOC && range_add(&dev->mem, dev, mem, bytes) == NULL) {
		free(mem);
		return -ENOMEM;
	}
	dev->n_mem++;
	*mem_p = mem;
	return 0;
}

static int alloc(struct host_device *dev, enum kvh_host_call call, uint64_t bytes, void **mem_p)
{
	int err = kvh_host_call_begin(dev, call);

	if (err != 0)
		return err;
	err = alloc_locked(dev, call, bytes, mem_p);
	pthread_mutex_unlock(&dev->lock);
	if (err != 0)
		kvh_err("host device: %llu bytes not allocated: %s", (unsigned long long)bytes,
			strerror(-err));
	return err;
}

int kvh_host_mem_alloc(struct kvh_device *base, uint64_t bytes, void **mem_p)
{
	return alloc(host_of(base), KVH_HOST_MEM_ALLOC, bytes, mem_p);
}

int kvh_host_host_alloc(struct kvh_device *base, uint64_t bytes, void **mem_p)
{
	return alloc(host_of(base), KVH_HOST_HOST_ALLOC, bytes, mem_p);
}

void kvh_host_mem_free(struct kvh_device *base, void *mem)
{
	struct host_device *dev = host_of(base);

	if (mem == NULL)
		return;
	pthread_mutex_lock(&dev->lock);
	assert(dev->n_mem > 0);
	dev->n_mem--;
	free(range_take(&dev->mem, mem));
	pthread_mutex_unlock(&dev->lock);
	free(mem);
}

int kvh_host_owns(struct kvh_device *base, const void *mem)
{
	struct host_device *dev = host_of(base);
	int owns;

	pthread_mutex_lock(&dev->lock);
	if (dev->failed)
		owns = -EIO;
	else
		owns = ranges_overlap(dev->mem, (uintptr_t)mem, 1) ? KVH_OWNS_YES
								   : KVH_OWNS_MAYBE;
	pthread_mutex_unlock(&dev->lock);
	return owns;
}

/* ---- registrations ---------------------------------------------------- */

static int register_range(const struct host_device *dev, void *mem, uint64_t bytes)
{
	struct host_registry *registry = dev->registry;
	int err = 0;

	if (mem == NULL || bytes == 0 || bytes > UINTPTR_MAX - (uintptr_t)mem)
		return -EINVAL;
	pthread_mutex_lock(&registry->lock);
	if (ranges_overlap(registry->ranges, (uintptr_t)mem, bytes))
		err = -EEXIST;
	else if (range_add(&registry->ranges, dev, mem, bytes) == NULL)
		err = -ENOMEM;
	pthread_mutex_unlock(&registry->lock);
	return err;
}

int kvh_host_register(struct kvh_device *base, void *mem, uint64_t bytes)
{
	struct host_device *dev = host_of(base);
	int err = kvh_host_call_begin(dev, KVH_HOST_REGISTER);

	if (err != 0)
		return err;
	err = register_range(dev, mem, bytes);
	pthread_mutex_unlock(&dev->lock);
	if (err != 0)
		kvh_err("host device: %llu bytes at %p not registered: %s",
			(unsigned long long)bytes, mem, strerror(-err));
	return err;
}

/* A device that has died takes nothing back, as a GPU's context would not. */
int kvh_host_unregister(struct kvh_device *base, void *mem)
{
	struct host_device *dev = host_of(base);
	struct host_range *range = NULL;
	bool failed;

	pthread_mutex_lock(&dev->lock);
	failed = dev->failed;
	if (!failed) {
		pthread_mutex_lock(&dev->registry->lock);
		range = range_take(&dev->registry->ranges, mem);
		pthread_mutex_unlock(&dev->registry->lock);
	}
	pthread_mutex_unlock(&dev->lock);
	if (failed)
		return -EIO;
	if (range == NULL) {
		kvh_err("host device: %p is not registered", mem);
		return -ENOENT;
	}
	free(range);
	return 0;
}

uint32_t kvh_host_registered(struct kvh_device *base)
{
	struct host_registry *registry = host_of(base)->registry;
	uint32_t n = 0;

	pthread_mutex_lock(&registry->lock);
	for (const struct host_range *r = registry->ranges; r != NULL; r = r->next)
		n += r->owner == host_of(base);
	pthread_mutex_unlock(&registry->lock);
	return n;
}

/* ---- open, close ------------------------------------------------------ */

int kvh_host_memory_open(struct host_device *dev, struct kvh_device *beside)
{
	struct host_registry *registry;

	if (beside == NULL) {
		registry = calloc(1, sizeof(*registry));
		if (registry == NULL)
			return -ENOMEM;
		pthread_mutex_init(&registry->lock, NULL);
	} else {
		registry = host_of(beside)->registry;
	}
	pthread_mutex_lock(&registry->lock);
	registry->refs++;
	pthread_mutex_unlock(&registry->lock);
	dev->registry = registry;
	return 0;
}

/* Drops the device's own ranges; how many. The last device drops the registry. */
static uint32_t registry_put(const struct host_device *dev)
{
	struct host_registry *registry = dev->registry;
	struct host_range **link = &registry->ranges;
	uint32_t n = 0;
	bool last;

	pthread_mutex_lock(&registry->lock);
	while (*link != NULL) {
		struct host_range *range = *link;

		if (range->owner != dev) {
			link = &range->next;
			continue;
		}
		*link = range->next;
		free(range);
		n++;
	}
	last = --registry->refs == 0;
	pthread_mutex_unlock(&registry->lock);
	if (last) {
		pthread_mutex_destroy(&registry->lock);
		free(registry);
	}
	return n;
}

void kvh_host_memory_close(struct host_device *dev)
{
	uint32_t left = registry_put(dev);

	/* One that has died took nothing back. */
	if (dev->n_mem != 0 || dev->n_events != 0 || (left != 0 && !dev->failed))
		kvh_err("host device: closed with %llu allocations, %llu events, %u "
			"registrations left",
			(unsigned long long)dev->n_mem, (unsigned long long)dev->n_events,
			left);
	while (dev->mem != NULL) {
		struct host_range *range = dev->mem;

		dev->mem = range->next;
		free(range);
	}
}
