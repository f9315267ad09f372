/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings.c - what may be changed while a controller runs: policy, watermarks,
 * bounds, a space's limits in the adapters. Any thread asks; what is refused leaves
 * the old value in force; what is not takes effect on the controller's thread, in
 * order, for what is stored after the call.
 */
#include "host/controller_impl.h"
#include "host/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- policy ------------------------------------------------------------- */

struct policy_change {
	struct kvh_loop_work work;
	struct kvh_controller *c;
	struct kvh_policy_use use;
};

static void policy_run(struct kvh_loop_work *work)
{
	struct policy_change *change = (struct policy_change *)work;
	struct kvh_controller *c = change->c;

	kvh_policy_close(&c->policy);
	c->policy = change->use;
	__atomic_store_n(&c->wants_uses, c->policy.policy->flags & KVH_POLICY_USES,
			 __ATOMIC_RELAXED);
	free(change);
}

int kvh_controller_set_policy(struct kvh_controller *c, const char *name)
{
	struct policy_change *change;
	const struct kvh_policy *policy;
	int err = kvh_policy_find(name, &policy);

	if (err != 0)
		return err;
	change = calloc(1, sizeof(*change));
	if (change == NULL)
		return -ENOMEM;
	err = kvh_policy_open(policy, &change->use);
	if (err != 0) {
		free(change);
		return err;
	}
	change->work.run = policy_run;
	change->c = c;
	kvh_loop_post(c->loop, &change->work);
	return 0;
}

/* ---- numbers ------------------------------------------------------------- */

int kvh_controller_set_watermarks(struct kvh_controller *c, uint64_t high_bytes,
				  uint64_t low_bytes)
{
	if (low_bytes == 0 || low_bytes >= high_bytes) {
		kvh_err("watermarks: high %llu and low %llu bytes; allowed: 0 < low < high",
			(unsigned long long)high_bytes, (unsigned long long)low_bytes);
		return -EINVAL;
	}
	/* In this order a reader in between sees them apart, or equal, never crossed. */
	if (high_bytes > __atomic_load_n(&c->opts.high_bytes, __ATOMIC_RELAXED)) {
		__atomic_store_n(&c->opts.high_bytes, high_bytes, __ATOMIC_SEQ_CST);
		__atomic_store_n(&c->opts.low_bytes, low_bytes, __ATOMIC_SEQ_CST);
	} else {
		__atomic_store_n(&c->opts.low_bytes, low_bytes, __ATOMIC_SEQ_CST);
		__atomic_store_n(&c->opts.high_bytes, high_bytes, __ATOMIC_SEQ_CST);
	}
	kvh_controller_pressure(c);
	return 0;
}

struct bounds_change {
	struct kvh_loop_work work;
	struct kvh_controller *c;
	struct kvh_controller_bounds bounds;
};

static void bounds_run(struct kvh_loop_work *work)
{
	struct bounds_change *change = (struct bounds_change *)work;
	struct kvh_controller *c = change->c;

	c->opts.deadline_ns = change->bounds.deadline_ns;
	c->opts.retries = change->bounds.retries;
	c->opts.queue_bytes = change->bounds.queue_bytes;
	for (uint32_t left = c->adapter_bits; left != 0; left &= left - 1)
		kvh_adapter_set_deadline(c->adapters[__builtin_ctz(left)], c->opts.deadline_ns);
	free(change);
}

int kvh_controller_set_bounds(struct kvh_controller *c,
			      const struct kvh_controller_bounds *bounds)
{
	struct bounds_change *change;

	if (bounds->deadline_ns == 0 || bounds->retries > 16 || bounds->queue_bytes == 0) {
		kvh_err("L2: deadline %llu ns, %u retries, queue of %llu bytes; allowed: above "
			"0, 0..16, above 0",
			(unsigned long long)bounds->deadline_ns, bounds->retries,
			(unsigned long long)bounds->queue_bytes);
		return -EINVAL;
	}
	change = calloc(1, sizeof(*change));
	if (change == NULL)
		return -ENOMEM;
	change->work.run = bounds_run;
	change->c = c;
	change->bounds = *bounds;
	kvh_loop_post(c->loop, &change->work);
	return 0;
}

/* ---- limits of spaces ------------------------------------------------------ */

/* Remembered, for adapters that come later. */
struct kvh_limits {
	struct kvh_loop_work work;
	struct kvh_controller *c;
	kvh_space_t space;
	uint64_t soft_bytes, hard_bytes;
	struct kvh_limits *next;
};

static void limits_tell(const struct kvh_limits *limits, struct kvh_adapter *adapter)
{
	int err = kvh_adapter_limits(adapter, limits->space, limits->soft_bytes,
				     limits->hard_bytes);

	if (err != 0)
		kvh_warn("%s: limits of %llu and %llu bytes for space %016llx were refused: %s",
			 kvh_adapter_name(adapter), (unsigned long long)limits->soft_bytes,
			 (unsigned long long)limits->hard_bytes,
			 (unsigned long long)limits->space, strerror(-err));
}

static void limits_run(struct kvh_loop_work *work)
{
	struct kvh_limits *limits = (struct kvh_limits *)work, **at;
	struct kvh_controller *c = limits->c;

	for (at = &c->limits; *at != NULL; at = &(*at)->next) {
		if ((*at)->space == limits->space) {
			struct kvh_limits *old = *at;

			*at = old->next;
			free(old);
			break;
		}
	}
	limits->next = c->limits;
	c->limits = limits;
	for (uint32_t left = c->adapter_bits; left != 0; left &= left - 1)
		limits_tell(limits, c->adapters[__builtin_ctz(left)]);
}

int kvh_controller_limits_make(struct kvh_controller *c, kvh_space_t space, uint64_t soft_bytes,
			       uint64_t hard_bytes, struct kvh_limits **limits_p)
{
	struct kvh_limits *limits;

	if (soft_bytes > 0 && hard_bytes > 0 && soft_bytes > hard_bytes) {
		kvh_err("L2: soft limit %llu above the hard one, %llu bytes",
			(unsigned long long)soft_bytes, (unsigned long long)hard_bytes);
		return -EINVAL;
	}
	limits = calloc(1, sizeof(*limits));
	if (limits == NULL)
		return -ENOMEM;
	*limits = (struct kvh_limits){
		.work = {.run = limits_run},
		.c = c,
		.space = space,
		.soft_bytes = soft_bytes,
		.hard_bytes = hard_bytes,
	};
	*limits_p = limits;
	return 0;
}

void kvh_controller_limits_set(struct kvh_limits *limits)
{
	kvh_loop_post(limits->c->loop, &limits->work);
}

void kvh_controller_limits_drop(struct kvh_limits *limits)
{
	free(limits);
}

void kvh_limits_to(struct kvh_controller *c, struct kvh_adapter *adapter)
{
	for (const struct kvh_limits *limits = c->limits; limits != NULL; limits = limits->next)
		limits_tell(limits, adapter);
}

void kvh_limits_close(struct kvh_controller *c)
{
	while (c->limits != NULL) {
		struct kvh_limits *limits = c->limits;

		c->limits = limits->next;
		free(limits);
	}
}
