/* SPDX-License-Identifier: Apache-2.0 */
/*
 * root.h - mapped memory that points to what malloc gave. A leak checker follows
 * pointers from the heap, the stacks and the data only: it has to be told, or what
 * an adapter that hangs keeps for ever looks like a leak. Nothing without one.
 */
#ifndef KVH_HOST_ROOT_H
#define KVH_HOST_ROOT_H

#include <stddef.h>

/* LeakSanitizer's, where it is linked. */
void __lsan_register_root_region(const void *at, size_t bytes) __attribute__((weak));
void __lsan_unregister_root_region(const void *at, size_t bytes) __attribute__((weak));

static inline void kvh_root_add(const void *at, size_t bytes)
{
	if (__lsan_register_root_region != NULL)
		__lsan_register_root_region(at, bytes);
}

/* Before it is unmapped; as it was added. */
static inline void kvh_root_remove(const void *at, size_t bytes)
{
	if (__lsan_unregister_root_region != NULL)
		__lsan_unregister_root_region(at, bytes);
}

#endif
