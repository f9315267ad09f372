/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reconfigure.c - live options: kvh_engine_set and what the table's rows apply.
 * Any thread, one change at a time; the parts that follow a change read it
 * without a lock, or are told on their own thread.
 */
#include "host/engine.h"
#include "host/log.h"
#include "host/option.h"

#include <errno.h>
#include <stdio.h>

int kvh_apply_health(struct kvh_engine *engine, const struct kvh_engine_opts *opts)
{
	__atomic_store_n(&engine->health_bound_ns, opts->health_bound_ns, __ATOMIC_RELAXED);
	return 0;
}

int kvh_apply_lease(struct kvh_engine *engine, const struct kvh_engine_opts *opts)
{
	__atomic_store_n(&engine->lease_ns, opts->l1_lease_ns, __ATOMIC_RELAXED);
	return 0;
}

/* Spaces look when they are opened. */
int kvh_apply_space_limits(struct kvh_engine *engine, const struct kvh_engine_opts *opts)
{
	(void)engine;
	(void)opts;
	return 0;
}

int kvh_apply_watermarks(struct kvh_engine *engine, const struct kvh_engine_opts *opts)
{
	struct kvh_arena_stats stats;

	kvh_arena_stats(engine->arena, &stats);
	return kvh_controller_set_watermarks(
		engine->controller, stats.wanted_bytes * opts->watermark_high_pct / 100,
		stats.wanted_bytes * opts->watermark_low_pct / 100);
}

int kvh_apply_eviction(struct kvh_engine *engine, const struct kvh_engine_opts *opts)
{
	return kvh_l1_eviction_set(engine->l1, opts->l1_eviction);
}

int kvh_apply_policy(struct kvh_engine *engine, const struct kvh_engine_opts *opts)
{
	return kvh_controller_set_policy(engine->controller, opts->policy);
}

int kvh_apply_bounds(struct kvh_engine *engine, const struct kvh_engine_opts *opts)
{
	struct kvh_controller_bounds bounds = {
		.deadline_ns = opts->l2_deadline_ns,
		.retries = opts->l2_retries,
		.queue_bytes = opts->l2_queue_bytes,
	};

	return kvh_controller_set_bounds(engine->controller, &bounds);
}

int kvh_apply_mover(struct kvh_engine *engine, const struct kvh_engine_opts *opts)
{
	for (uint32_t i = 0; i < engine->devices.n; i++) {
		kvh_mover_set_store_rate(engine->devices.list[i].mover,
					 opts->store_bytes_per_s);
		kvh_mover_set_spin(engine->devices.list[i].mover, opts->gpu_spin_ns);
		kvh_mover_set_gentle(engine->devices.list[i].mover, opts->store_gentle);
	}
	return 0;
}

static int option_find(const char *name, const struct kvh_option **option_p)
{
	*option_p = kvh_option_find(name);
	if (*option_p != NULL)
		return 0;
	kvh_err("engine: \"%.64s\" is no option; the nearest is %s", name,
		kvh_option_nearest(name));
	return -EINVAL;
}

/* Under opts_lock. */
static int change(struct kvh_engine *engine, const struct kvh_option *option, const char *text)
{
	struct kvh_engine_opts opts = engine->opts;
	struct kvh_option_value value = {0};
	struct kvh_why why;
	char before[64];
	int err = kvh_option_parse(option, text, &value, &why);

	kvh_option_format(option, &engine->opts, before, sizeof(before));
	if (err != 0) {
		kvh_err("engine: %s %s; it stays %s", option->name, why.text, before);
		return err;
	}
	kvh_option_set(option, &opts, &value);
	err = kvh_options_check(&opts, true, &why);
	if (err != 0) {
		kvh_err("engine: %s; %s stays %s", why.text, option->name, before);
		return err;
	}
	err = option->apply(engine, &opts);
	if (err == 0)
		engine->opts = opts;
	return err;
}

int kvh_engine_set(struct kvh_engine *engine, const char *name, const char *value)
{
	const struct kvh_option *option;
	int err = kvh_engine_alive(engine);

	if (err == 0)
		err = option_find(name, &option);
	if (err != 0)
		return err;
	if (option->apply == NULL) {
		kvh_err("engine: %s cannot change while the engine runs", name);
		return -EBUSY;
	}
	pthread_mutex_lock(&engine->opts_lock);
	err = change(engine, option, value);
	pthread_mutex_unlock(&engine->opts_lock);
	return err;
}

int kvh_engine_get(struct kvh_engine *engine, const char *name, char *value, size_t size)
{
	const struct kvh_option *option;
	char text[1024]; /* of KVH_DEVICES_MAX devices */
	int err = kvh_engine_alive(engine);

	if (err == 0)
		err = option_find(name, &option);
	if (err != 0)
		return err;
	if (option->type == KVH_OPTION_SPECS) {
		kvh_err("engine: %s is a list: kvh_l2_status_get has each", name);
		return -EINVAL;
	}
	pthread_mutex_lock(&engine->opts_lock);
	kvh_option_format(option, &engine->opts, text, sizeof(text));
	pthread_mutex_unlock(&engine->opts_lock);
	return snprintf(value, size, "%s", text);
}
