/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limits.c - what a space may have in L1 and in L2. Any thread.
 */
#include "host/engine.h"
#include "host/log.h"

#include <errno.h>
#include <string.h>

void kvh_space_limits_init(struct kvh_space_limits *limits, size_t size)
{
	memset(limits, 0, size);
	limits->size = size;
}

/* In L1 and in L2, or, where L1 refuses them, nowhere. Under opts_lock, so that both
 * have the same of two that are set at once. */
static int apply(struct kvh_engine *engine, kvh_space_t space,
		 const struct kvh_space_limits *limits)
{
	struct kvh_l1_limits l1 = {
		.soft_bytes = limits->l1_soft_bytes,
		.hard_bytes = limits->l1_hard_bytes,
		.pinned = limits->pinned != 0,
	};
	struct kvh_limits *l2;
	int err = kvh_controller_limits_make(engine->controller, space, limits->l2_soft_bytes,
					     limits->l2_hard_bytes, &l2);

	if (err != 0)
		return err;
	err = kvh_l1_limits_set(engine->l1, space, &l1);
	if (err == 0)
		kvh_controller_limits_set(l2);
	else
		kvh_controller_limits_drop(l2);
	return err;
}

int kvh_space_limits_set(struct kvh_engine *engine, kvh_space_t space,
			 const struct kvh_space_limits *limits)
{
	struct kvh_space *found;
	int err = kvh_engine_alive(engine);

	if (err == 0)
		err = kvh_check_size("space limits", limits->size, sizeof(*limits));
	if (err != 0)
		return err;
	found = kvh_space_table_find(&engine->spaces, space);
	if (found == NULL) {
		kvh_err("limits: there is no space %016llx", (unsigned long long)space);
		return -ENOENT;
	}
	if (limits->pinned > 1) {
		kvh_err("limits: space %016llx: pinned is %u, allowed: 0 or 1",
			(unsigned long long)space, limits->pinned);
		return -EINVAL;
	}
	pthread_mutex_lock(&engine->opts_lock);
	err = apply(engine, space, limits);
	if (err == 0)
		found->limited = true;
	pthread_mutex_unlock(&engine->opts_lock);
	return err;
}

int kvh_limits_default(struct kvh_engine *engine, struct kvh_space *space)
{
	const struct kvh_engine_opts *o = &engine->opts;
	int err = 0;

	pthread_mutex_lock(&engine->opts_lock);
	if (!space->limited) {
		const struct kvh_space_limits limits = {
			.l1_soft_bytes = o->space_l1_soft_bytes,
			.l1_hard_bytes = o->space_l1_hard_bytes,
			.l2_soft_bytes = o->space_l2_soft_bytes,
			.l2_hard_bytes = o->space_l2_hard_bytes,
		};

		if ((limits.l1_soft_bytes | limits.l1_hard_bytes | limits.l2_soft_bytes |
		     limits.l2_hard_bytes) != 0)
			err = apply(engine, space->id, &limits);
		space->limited = err == 0;
	}
	pthread_mutex_unlock(&engine->opts_lock);
	return err;
}
