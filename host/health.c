/* SPDX-License-Identifier: Apache-2.0 */
/*
 * health.c - whether every part of an engine makes progress, as of now. Any
 * thread; asks nobody that might hang, and takes no lock.
 *
 * A thread is ill that has had work for longer than health.bound; a device that is
 * dead; an adapter whose breaker is not closed, or that says so itself; an L1 of which
 * not all could be pinned.
 */
#include "host/adapter.h"
#include "host/clock.h"
#include "host/engine.h"
#include "host/pulse.h"
#include "host/work.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The first reason stays. */
static void ill(struct kvh_health *health, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void ill(struct kvh_health *health, const char *fmt, ...)
{
	va_list ap;

	health->n_ill++;
	if (health->n_ill > 1)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(health->reason, sizeof(health->reason), fmt, ap);
	va_end(ap);
}

static void check_pulse(struct kvh_health *health, const struct kvh_pulse *pulse,
			const char *who, uint64_t now_ns, uint64_t bound_ns)
{
	uint64_t age = kvh_pulse_age(pulse, now_ns);

	if (age > bound_ns)
		ill(health, "%s: no progress for %" PRIu64 " ms", who, age / KVH_NS_PER_MS);
}

static void check_workers(struct kvh_engine *engine, struct kvh_health *health, uint64_t now_ns,
			  uint64_t bound_ns)
{
	const struct kvh_workers *workers = kvh_controller_workers(engine->controller);
	struct kvh_pulse pulse;
	char who[32];

	for (uint32_t i = 0; kvh_workers_pulse(workers, i, &pulse); i++) {
		(void)snprintf(who, sizeof(who), "worker %" PRIu32, i);
		check_pulse(health, &pulse, who, now_ns, bound_ns);
	}
}

static void check_adapters(struct kvh_engine *engine, struct kvh_health *health)
{
	struct kvh_controller *c = engine->controller;

	kvh_controller_lock_adapters(c);
	for (uint32_t a = 0; a < kvh_controller_adapters(c); a++) {
		struct kvh_adapter *adapter = kvh_controller_adapter(c, a);
		enum kvh_seat seat = kvh_controller_seat(c, a);
		enum kvh_breaker_state state = kvh_adapter_breaker(adapter);
		uint64_t err = kvh_counted(&kvh_adapter_counters(adapter)->health);

		if (seat == KVH_SEAT_STUCK)
			ill(health, "adapter %" PRIu32 " (%s): would not close", a,
			    kvh_adapter_name(adapter));
		if (seat != KVH_SEAT_OPEN && seat != KVH_SEAT_DRAINING)
			continue;
		if (err != 0)
			ill(health, "adapter %" PRIu32 " (%s): %s", a,
			    kvh_adapter_name(adapter), strerror((int)err));
		else if (state != KVH_BREAKER_CLOSED)
			ill(health, "adapter %" PRIu32 " (%s): its breaker is %s", a,
			    kvh_adapter_name(adapter), kvh_breaker_state_name(state));
	}
	kvh_controller_unlock_adapters(c);
}

static void check_devices(struct kvh_engine *engine, struct kvh_health *health, uint64_t now_ns,
			  uint64_t bound_ns)
{
	char who[40];

	for (uint32_t i = 0; i < engine->devices.n; i++) {
		const struct kvh_engine_device *device = &engine->devices.list[i];

		(void)snprintf(who, sizeof(who), "mover of %s", device->info.label);
		check_pulse(health, kvh_mover_pulse(device->mover), who, now_ns, bound_ns);
		if (kvh_device_dead(device))
			ill(health, "device %s: it has died", device->info.label);
	}
}

/* More that is still coming is no illness. */
static void check_arena(struct kvh_engine *engine, struct kvh_health *health)
{
	struct kvh_arena_stats arena;

	kvh_arena_stats(engine->arena, &arena);
	if (arena.error != 0)
		ill(health, "L1: %" PRIu64 " of %" PRIu64 " bytes could not be pinned: %s",
		    arena.missing_bytes, arena.wanted_bytes, strerror(-arena.error));
}

void kvh_health_read(struct kvh_engine *engine, struct kvh_health *health)
{
	uint64_t bound_ns = __atomic_load_n(&engine->health_bound_ns, __ATOMIC_RELAXED);
	uint64_t now_ns = kvh_now_ns();

	*health = (struct kvh_health){.size = sizeof(*health)};
	check_pulse(health, kvh_controller_pulse(engine->controller), "controller", now_ns,
		    bound_ns);
	check_devices(engine, health, now_ns, bound_ns);
	check_workers(engine, health, now_ns, bound_ns);
	check_adapters(engine, health);
	check_arena(engine, health);
	health->healthy = health->n_ill == 0;
}

int kvh_health_get(struct kvh_engine *engine, struct kvh_health *health)
{
	int err = kvh_engine_alive(engine);

	if (err == 0)
		err = kvh_check_size("health", health->size, sizeof(*health));
	if (err == 0)
		kvh_health_read(engine, health);
	return err;
}
