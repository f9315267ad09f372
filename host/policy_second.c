/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy_second.c - "second-use": a chunk goes to L2 when it is seen for the second
 * time, stored again after it had left L1, or loaded. What is used once only, and
 * much is, costs no write. The controller's thread.
 *
 * Seen keys are remembered by 64 bits of them in two tables of a fixed size: when
 * the new one is full the old one is forgotten and they change places, so that the
 * last KEYS to 2 * KEYS keys are known, in 2 MiB. A false match stores a chunk at
 * its first use, no more.
 */
#include "host/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEYS  65536u
#define SLOTS (2u * KEYS)

struct seen {
	uint32_t n;
	uint64_t slots[SLOTS]; /* 0: free; the lowest bit: it was admitted */
};

struct second {
	struct seen *now, *before;
};

static int second_open(void *arg, void **self_p)
{
	struct second *second = calloc(1, sizeof(*second));

	(void)arg;
	if (second == NULL)
		return -ENOMEM;
	second->now = calloc(1, sizeof(*second->now));
	second->before = calloc(1, sizeof(*second->before));
	if (second->now == NULL || second->before == NULL) {
		free(second->now);
		free(second->before);
		free(second);
		return -ENOMEM;
	}
	*self_p = second;
	return 0;
}

static void second_close(void *self)
{
	struct second *second = self;

	free(second->now);
	free(second->before);
	free(second);
}

/* Never 0, and even. */
static uint64_t mark_of(const struct kvh_key *key)
{
	uint64_t a, b;

	memcpy(&a, key->hash.bytes, sizeof(a));
	memcpy(&b, key->hash.bytes + sizeof(a), sizeof(b));
	a ^= b * UINT64_C(0xD6E8FEB86659FD93);
	a ^= (key->space ^ ((uint64_t)key->rank << 20) ^ key->group) *
	     UINT64_C(0xC2B2AE3D27D4EB4F);
	a ^= a >> 29;
	return (a | 2) & ~UINT64_C(1);
}

/* Where the mark is, or would be. */
static uint64_t *slot_of(struct seen *seen, uint64_t mark)
{
	uint32_t i = (uint32_t)(mark >> 40) & (SLOTS - 1);

	while (seen->slots[i] != 0 && (seen->slots[i] & ~UINT64_C(1)) != mark)
		i = (i + 1) & (SLOTS - 1);
	return &seen->slots[i];
}

static void remember(struct second *second, uint64_t mark)
{
	struct seen *old = second->before;

	if (second->now->n == KEYS) {
		second->before = second->now;
		second->now = old;
		memset(old, 0, sizeof(*old));
	}
	*slot_of(second->now, mark & ~UINT64_C(1)) = mark;
	second->now->n++;
}

static uint32_t second_admit(void *self, const struct kvh_policy_chunk *chunk)
{
	struct second *second = self;
	uint64_t mark = mark_of(chunk->key);
	uint64_t *slot = slot_of(second->now, mark);

	if (*slot == 0)
		slot = slot_of(second->before, mark);
	if (*slot == 0) {
		remember(second, mark);
		return KVH_ADMIT_NO;
	}
	/* Loaded again and again, it is stored once; stored anew, the adapters say
	 * whether they still have it. */
	if (chunk->used && (*slot & 1) != 0)
		return KVH_ADMIT_NO;
	*slot |= 1;
	return KVH_ADMIT_NOW;
}

static uint32_t second_targets(void *self, const struct kvh_policy_chunk *chunk,
			       uint32_t adapters)
{
	(void)self;
	(void)chunk;
	return adapters;
}

static uint32_t second_deletes(void *self, const struct kvh_policy_chunk *chunk,
			       uint32_t targets, uint32_t stored)
{
	(void)self;
	(void)chunk;
	(void)targets;
	(void)stored;
	return 0;
}

const struct kvh_policy kvh_policy_second_use = {
	.version = KVH_POLICY_VERSION,
	.flags = KVH_POLICY_RETAIN | KVH_POLICY_USES,
	.name = "second-use",
	.open = second_open,
	.close = second_close,
	.admit = second_admit,
	.targets = second_targets,
	.deletes = second_deletes,
};
