/* SPDX-License-Identifier: Apache-2.0 */
/*
 * breaker.c - opens after a row of failures, closes after a trial. Pure: no clock
 * of its own, no lock.
 */
#include "host/breaker.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>

#define TO(state) (1u << KVH_BREAKER_##state)
static const uint8_t state_next[KVH_BREAKER_NSTATES] = {
	[KVH_BREAKER_CLOSED] = TO(OPEN),
	[KVH_BREAKER_OPEN] = TO(TRIAL),
	[KVH_BREAKER_TRIAL] = TO(CLOSED) | TO(OPEN),
};
#undef TO

const char *kvh_breaker_state_name(enum kvh_breaker_state state)
{
	switch (state) {
	case KVH_BREAKER_CLOSED: return "closed";
	case KVH_BREAKER_OPEN: return "open";
	case KVH_BREAKER_TRIAL: return "trial";
	case KVH_BREAKER_NSTATES: break;
	}
	return "?";
}

static void move(struct kvh_breaker *b, enum kvh_breaker_state to)
{
	assert((state_next[b->state] >> to & 1) != 0);
	b->state = to;
}

void kvh_breaker_init(struct kvh_breaker *b, uint32_t bound)
{
	*b = (struct kvh_breaker){.bound = bound};
}

bool kvh_breaker_counts(int status)
{
	switch (-status) {
	case 0:
	case ENOENT:    /* a miss */
	case ECANCELED: /* we did it */
	case EINVAL:    /* the request is wrong */
	case EFBIG:
	case ENOSPC: /* full: it still reads */
	case EDQUOT:
	case EROFS:  /* the same */
	case ENOMEM: /* of this process */
	case EMFILE:
	case ENFILE:
	case EOPNOTSUPP: return false;
	default: return true;
	}
}

static void open_at(struct kvh_breaker *b, uint64_t now_ns)
{
	b->backoff_ns = b->backoff_ns == 0 ? KVH_BREAKER_BACKOFF_NS : 2 * b->backoff_ns;
	if (b->backoff_ns > KVH_BREAKER_BACKOFF_MAX_NS)
		b->backoff_ns = KVH_BREAKER_BACKOFF_MAX_NS;
	b->trial_ns = now_ns + b->backoff_ns;
	b->failures = 0;
	move(b, KVH_BREAKER_OPEN);
}

bool kvh_breaker_result(struct kvh_breaker *b, int status, uint64_t now_ns)
{
	if (b->state != KVH_BREAKER_CLOSED)
		return false; /* of before; the trial decides */
	if (!kvh_breaker_counts(status)) {
		if (status != -ECANCELED)
			b->failures = 0;
		return false;
	}
	if (b->bound == 0 || ++b->failures < b->bound)
		return false;
	open_at(b, now_ns);
	b->opened++;
	return true;
}

bool kvh_breaker_trip(struct kvh_breaker *b, uint64_t now_ns)
{
	bool opens = b->state == KVH_BREAKER_CLOSED;

	if (b->state == KVH_BREAKER_TRIAL) {
		return false; /* ends by itself */
	}
	if (opens) {
		open_at(b, now_ns);
		b->opened++;
	} else if (b->trial_ns <= now_ns) {
		b->trial_ns = now_ns + b->backoff_ns; /* no trial while it says so */
	}
	return opens;
}

bool kvh_breaker_due(struct kvh_breaker *b, uint64_t now_ns)
{
	if (b->state != KVH_BREAKER_OPEN || b->trial_ns > now_ns)
		return false;
	move(b, KVH_BREAKER_TRIAL);
	return true;
}

bool kvh_breaker_tried(struct kvh_breaker *b, int status, uint64_t now_ns)
{
	assert(b->state == KVH_BREAKER_TRIAL);
	if (kvh_breaker_counts(status) || status == -ECANCELED) {
		open_at(b, now_ns);
		return false;
	}
	move(b, KVH_BREAKER_CLOSED);
	b->backoff_ns = 0;
	return true;
}
