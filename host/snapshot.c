/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot.c - everything there is to know of an engine, at one time. Any thread;
 * takes no lock that work waits for: counters are relaxed atomics, the lists of
 * spaces and adapters are read as they grow.
 *
 * One allocation: the struct, then the adapters, the devices, the spaces.
 */
#include "host/engine.h"
#include "host/histogram.h"
#include "host/log.h"

#include <errno.h>
#include <stdlib.h>

const char *kvh_latency_name(uint32_t which)
{
	static const char *const names[KVH_LATENCIES] = {
		[KVH_LATENCY_STORE] = "store",       [KVH_LATENCY_LOAD] = "load",
		[KVH_LATENCY_PREFETCH] = "prefetch", [KVH_LATENCY_ERASE] = "erase",
		[KVH_LATENCY_WORK] = "work",         [KVH_LATENCY_ROUND] = "round",
	};

	return which < KVH_LATENCIES ? names[which] : NULL;
}

static void read_space(const struct kvh_l1 *l1, const struct kvh_space *space,
		       struct kvh_space_status *st)
{
	const struct kvh_space_counters *n = space->counters;
	struct kvh_l1_space_stats in_l1 = {0};

	(void)kvh_l1_space_stats(l1, space->id, &in_l1); /* or it never had a frame */
	*st = (struct kvh_space_status){
		.space = space->id,
		.stored_chunks = kvh_counted(&n->stored_chunks),
		.stored_bytes = kvh_counted(&n->stored_bytes),
		.loaded_chunks = kvh_counted(&n->loaded_chunks),
		.loaded_bytes = kvh_counted(&n->loaded_bytes),
		.store_exists = kvh_counted(&n->store_exists),
		.store_no_memory = kvh_counted(&n->store_no_memory),
		.store_failed = kvh_counted(&n->store_failed),
		.hits_l1 = kvh_counted(&n->hits_l1),
		.hits_l2 = kvh_counted(&n->hits_l2),
		.misses = kvh_counted(&n->misses),
		.prefetch_wasted = kvh_counted(&n->prefetch_wasted),
		.l1_used_bytes = in_l1.used_bytes,
		.l1_evicted = in_l1.evicted,
	};
}

/* Of at most `max`: more may have come. Or, with NULL, how many there are. */
static uint32_t read_spaces(struct kvh_engine *engine, struct kvh_space_status *spaces,
			    uint32_t max)
{
	uint32_t n = 0;

	for (uint32_t b = 0; b < KVH_SPACE_BUCKETS; b++) {
		const struct kvh_space *space = __atomic_load_n(&engine->spaces.buckets[b],
								__ATOMIC_ACQUIRE);

		for (; space != NULL; space = space->next) {
			if (spaces == NULL)
				n++;
			else if (n < max)
				read_space(engine->l1, space, &spaces[n++]);
		}
	}
	return n;
}

static uint32_t read_adapters(struct kvh_engine *engine, struct kvh_l2_status *l2)
{
	uint32_t n = 0;

	while (n < KVH_L2_MAX && n < kvh_controller_adapters(engine->controller)) {
		l2[n].size = sizeof(l2[n]);
		if (kvh_l2_status_get(engine, n, &l2[n]) != 0)
			break;
		n++;
	}
	return n;
}

static void read_devices(struct kvh_engine *engine, struct kvh_device_status *devices)
{
	for (uint32_t i = 0; i < engine->devices.n; i++) {
		devices[i].size = sizeof(devices[i]);
		(void)kvh_device_status_get(engine, i, &devices[i]);
	}
}

int kvh_snapshot_take(struct kvh_engine *engine, struct kvh_snapshot **snapshot_p)
{
	struct kvh_device_status *devices;
	struct kvh_space_status *spaces;
	struct kvh_l2_status *l2;
	struct kvh_snapshot *s;
	uint32_t n_spaces;
	int err = kvh_engine_alive(engine);

	if (err != 0)
		return err;
	n_spaces = read_spaces(engine, NULL, 0);
	s = calloc(1, sizeof(*s) + KVH_L2_MAX * sizeof(*l2) +
			      engine->devices.n * sizeof(*devices) +
			      n_spaces * sizeof(*spaces));
	if (s == NULL)
		return -ENOMEM;
	l2 = (struct kvh_l2_status *)(s + 1);
	devices = (struct kvh_device_status *)(l2 + KVH_L2_MAX);
	spaces = (struct kvh_space_status *)(devices + engine->devices.n);
	s->engine.size = sizeof(s->engine);
	err = kvh_status_get(engine, &s->engine);
	if (err != 0) { /* it closes */
		free(s);
		return err;
	}
	kvh_health_read(engine, &s->health);
	for (uint32_t i = 0; i < KVH_LATENCIES; i++)
		kvh_histogram_read(engine->metrics.latency[i], KVH_HISTOGRAM_SHARDS,
				   &s->latency[i]);
	s->n_l2 = read_adapters(engine, l2);
	s->n_spaces = read_spaces(engine, spaces, n_spaces);
	read_devices(engine, devices);
	s->l2 = l2;
	s->devices = devices;
	s->n_devices = engine->devices.n;
	s->spaces = spaces;
	*snapshot_p = s;
	return 0;
}

void kvh_snapshot_free(struct kvh_snapshot *snapshot)
{
	free(snapshot);
}
