/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spin.h - taking a mutex that is held for less time than sleeping and waking
 * takes: a thread that finds it taken looks again for a few microseconds before it
 * sleeps. The C library's own adaptive mutex gives up after a part of one.
 */
#ifndef KVH_HOST_SPIN_H
#define KVH_HOST_SPIN_H

#include <pthread.h>

#define KVH_SPINS 200u

static inline void kvh_spin_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb");
#endif
}

static inline void kvh_spin_lock(pthread_mutex_t *mutex)
{
	for (unsigned i = 0; i < KVH_SPINS; i++) {
		if (pthread_mutex_trylock(mutex) == 0)
			return;
		kvh_spin_pause();
	}
	pthread_mutex_lock(mutex);
}

#endif
