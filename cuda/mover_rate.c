/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_rate.c - what stores may take of the link: bytes per second. The mover's
 * thread; the rate is set by any. Time is kvh_now_ns alone.
 */
#include "cuda/mover_impl.h"

bool kvh_rate_allows(struct kvh_rate *rate)
{
	uint64_t bytes_per_s = atomic_load(&rate->bytes_per_s);

	if (bytes_per_s != rate->used) { /* what was owed at the old one is forgiven */
		rate->used = bytes_per_s;
		rate->due_ns = 0;
		rate->held = false;
	}
	if (bytes_per_s == 0 || kvh_now_ns() >= rate->due_ns)
		return true;
	rate->held = true;
	return false;
}

/* Rounded up. Of one stage, so that the product fits. */
static uint64_t bytes_ns(uint64_t bytes, uint64_t bytes_per_s)
{
	return bytes / bytes_per_s * KVH_NS_PER_S +
	       (bytes % bytes_per_s * KVH_NS_PER_S + bytes_per_s - 1) / bytes_per_s;
}

void kvh_rate_take(struct kvh_rate *rate, uint64_t bytes)
{
	uint64_t now_ns, took_ns, late_ns;

	if (rate->used == 0)
		return;
	now_ns = kvh_now_ns();
	took_ns = bytes_ns(bytes, rate->used);
	late_ns = rate->held && now_ns > rate->due_ns ? now_ns - rate->due_ns : 0;
	if (late_ns > took_ns)
		late_ns = took_ns;
	rate->due_ns = now_ns - late_ns + took_ns;
	rate->held = false;
}

void kvh_rate_idle(struct kvh_rate *rate)
{
	rate->held = false;
}
