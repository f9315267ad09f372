/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adapter_out.c - the set of requests that an adapter has: by address, so that a
 * completion which is not one of ours is known without looking at it. The
 * controller's thread.
 */
#include "host/adapter_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static uint32_t place(const struct kvh_out_set *out, const struct kvh_l2_req *req)
{
	return (uint32_t)(((uintptr_t)req * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & out->mask;
}

int kvh_out_open(struct kvh_out_set *out, uint32_t max)
{
	uint32_t n = 16;

	while (n < 2 * max)
		n *= 2;
	out->slots = calloc(n, sizeof(out->slots[0]));
	if (out->slots == NULL)
		return -ENOMEM;
	out->mask = n - 1;
	out->n = 0;
	out->max = max;
	return 0;
}

void kvh_out_add(struct kvh_out_set *out, struct kvh_l2_req *req)
{
	uint32_t i = place(out, req);

	assert(out->n < out->max);
	while (out->slots[i] != NULL)
		i = (i + 1) & out->mask;
	out->slots[i] = req;
	out->n++;
}

bool kvh_out_remove(struct kvh_out_set *out, const struct kvh_l2_req *req)
{
	uint32_t i = place(out, req), j;

	while (out->slots[i] != req) {
		if (out->slots[i] == NULL)
			return false;
		i = (i + 1) & out->mask;
	}
	/* Close the gap, so that no search ends at it too early. */
	for (j = (i + 1) & out->mask; out->slots[j] != NULL; j = (j + 1) & out->mask) {
		uint32_t home = place(out, out->slots[j]);

		if (((j - home) & out->mask) >= ((j - i) & out->mask)) {
			out->slots[i] = out->slots[j];
			i = j;
		}
	}
	out->slots[i] = NULL;
	out->n--;
	return true;
}
