/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c - opening and closing an engine, its spaces, queues and status. Any
 * thread.
 *
 * Built from the ground up, and taken down in the opposite order:
 *   devices -> arena -> L1 -> movers -> controller -> queues, pools
 */
#include "host/engine.h"

#include "host/adapter.h"
#include "host/clock.h"
#include "host/log.h"
#include "host/option.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLOSE_MIN_NS (2 * KVH_NS_PER_S) /* for the adapters' own close, beyond the drain */

/* ---- fork ------------------------------------------------------------- */

static uint32_t forks; /* atomic: how often this process is a child */
static pthread_once_t forks_once = PTHREAD_ONCE_INIT;

static void forked(void)
{
	kvh_log_unlock();
	(void)__atomic_add_fetch(&forks, 1, __ATOMIC_SEQ_CST);
}

static void watch_forks(void)
{
	(void)pthread_atfork(kvh_log_lock, kvh_log_unlock, forked);
}

int kvh_engine_alive(const struct kvh_engine *engine)
{
	if (engine->forks != __atomic_load_n(&forks, __ATOMIC_RELAXED))
		return -EPERM;
	if (__atomic_load_n(&engine->closing, __ATOMIC_ACQUIRE))
		return -ESHUTDOWN;
	return 0;
}

/* ---- options ---------------------------------------------------------- */

int kvh_check_size(const char *what, size_t size, size_t known)
{
	if (size == known)
		return 0;
	kvh_err("%s: a struct of %zu bytes, this library knows %zu; was it initialised?", what,
		size, known);
	return -EINVAL;
}

void kvh_engine_opts_init(struct kvh_engine_opts *opts, size_t size)
{
	memset(opts, 0, size);
	opts->size = size;
	if (size < sizeof(*opts))
		return; /* never known: every call refuses it */
	for (const struct kvh_option *o = kvh_options; o->name != NULL; o++) {
		struct kvh_option_value value = {o->fallback, NULL};

		if (o->zero == KVH_ZERO_IS_ZERO && o->fallback_text == NULL)
			kvh_option_set(o, opts, &value);
	}
}

/* ---- open ------------------------------------------------------------- */

static int open_l1(struct kvh_engine *engine, const struct kvh_engine_opts *o)
{
	struct kvh_devices *devices = &engine->devices;
	/* Registered once: a portable registration holds for all devices, and outlives the
	 * one it was made with. */
	struct kvh_arena_opts arena = {
		.dev = devices->devs[0],
		.others = devices->devs + 1,
		.n_others = devices->n - 1,
		.bytes = o->l1_bytes,
		.piece_bytes = o->l1_piece_bytes,
		.numa_node = o->numa_node,
		.early = o->l1_pin_wait == 0,
	};
	struct kvh_l1_opts l1 = {0};
	int err;

	if (arena.numa_node < 0)
		arena.n_nodes = kvh_devices_nodes(devices, arena.nodes, KVH_ARENA_NODES_MAX);
	devices->spread = arena.n_nodes > 1;
	err = kvh_arena_open(&arena, &engine->arena);
	if (err != 0)
		return err;
	l1.arena = engine->arena;
	l1.eviction = o->l1_eviction;
	err = kvh_l1_open(&l1, &engine->l1);
	if (err != 0)
		kvh_arena_close(engine->arena, false);
	return err;
}

static int open_controller(struct kvh_engine *engine, const struct kvh_engine_opts *o,
			   const struct kvh_policy *policy)
{
	struct kvh_arena_stats stats;
	struct kvh_controller_opts opts = {
		.l1 = engine->l1,
		.arena = engine->arena,
		.metrics = &engine->metrics,
		.policy = policy,
		.spaces = &engine->spaces,
		.l2 = o->l2,
		.n_l2 = o->n_l2,
		.workers = o->workers,
		.deadline_ns = o->l2_deadline_ns,
		.retries = o->l2_retries,
		.breaker = o->l2_breaker,
		.queue_bytes = o->l2_queue_bytes,
		.plan = o->prefetch_plan == kvh_read_plan_name(KVH_READ_FASTEST)
				? KVH_READ_FASTEST
				: KVH_READ_FIRST,
		.read_bytes = o->prefetch_read_bytes,
		.hedge_ns = o->prefetch_hedge_ns,
		.speculate = o->prefetch_speculate,
	};

	kvh_arena_stats(engine->arena, &stats);
	opts.high_bytes = stats.wanted_bytes * o->watermark_high_pct / 100;
	opts.low_bytes = stats.wanted_bytes * o->watermark_low_pct / 100;
	return kvh_controller_open(&opts, &engine->controller);
}

/* What only an open says; kvh_apply_mover has the rest. */
static void mover_opts(const struct kvh_engine *engine, const struct kvh_engine_opts *o,
		       struct kvh_mover_opts *mover)
{
	uint64_t span;

	*mover = (struct kvh_mover_opts){
		.pinned_base = kvh_arena_base(engine->arena, &span),
		.pinned_stride = kvh_arena_stride(engine->arena),
		.stage_bytes = o->stage_bytes,
		.n_stages = o->gpu_stages,
		.calibrate = o->gpu_calibrate,
		.burst = o->gpu_burst,
	};
	if (o->gpu_way == kvh_mover_way_name(KVH_MOVER_STAGED))
		mover->way = KVH_MOVER_STAGED;
	else if (o->gpu_way == kvh_mover_way_name(KVH_MOVER_DIRECT))
		mover->way = KVH_MOVER_DIRECT;
}

static uint64_t first_sequence(void)
{
	/* Only so that a later run's stores have higher numbers: if the clock goes
	 * back, an older copy of equal bytes may win, no more. */
	return kvh_wall_ns();
}

/* `opts` were checked. */
static struct kvh_engine *engine_make(const struct kvh_engine_opts *opts)
{
	struct kvh_engine *engine = calloc(1, sizeof(*engine));

	if (engine == NULL)
		return NULL;
	engine->device_name = strdup(opts->device);
	if (engine->device_name == NULL) {
		free(engine);
		return NULL;
	}
	engine->opts = *opts; /* texts of choices are the table's */
	engine->opts.device = engine->device_name;
	engine->opts.l2 = NULL; /* the caller's; the adapters know */
	engine->opts.n_l2 = 0;
	engine->health_bound_ns = opts->health_bound_ns;
	engine->lease_ns = opts->l1_lease_ns;
	pthread_mutex_init(&engine->opts_lock, NULL);
	pthread_once(&forks_once, watch_forks);
	engine->forks = __atomic_load_n(&forks, __ATOMIC_RELAXED);
	engine->sequence.value = first_sequence();
	pthread_mutex_init(&engine->lock, NULL);
	kvh_space_table_init(&engine->spaces);
	return engine;
}

static void engine_free(struct kvh_engine *engine)
{
	kvh_space_table_free(&engine->spaces);
	pthread_mutex_destroy(&engine->lock);
	pthread_mutex_destroy(&engine->opts_lock);
	free(engine->device_name);
	free(engine);
}

int kvh_engine_open(const struct kvh_engine_opts *opts, struct kvh_engine **engine_p)
{
	struct kvh_mover_opts mover;
	const struct kvh_policy *policy;
	struct kvh_engine *engine;
	struct kvh_engine_opts o;
	struct kvh_why why;
	int err = kvh_check_size("engine", opts->size, sizeof(*opts));

	if (err != 0)
		return err;
	o = *opts;
	err = kvh_options_check(&o, false, &why);
	if (err != 0) {
		kvh_err("engine: %s", why.text);
		return err;
	}
	err = kvh_policy_find(o.policy, &policy);
	if (err != 0)
		return err;
	engine = engine_make(&o);
	if (engine == NULL)
		return -ENOMEM;
	err = kvh_devices_open(&engine->devices, o.device);
	if (err != 0)
		goto err_free;
	err = open_l1(engine, &o);
	if (err != 0)
		goto err_device;
	mover_opts(engine, &o, &mover);
	err = kvh_devices_start(&engine->devices, &mover);
	if (err != 0)
		goto err_l1;
	(void)kvh_apply_mover(engine, &o);
	err = open_controller(engine, &o, policy);
	if (err != 0)
		goto err_mover;
	*engine_p = engine;
	return 0;

err_mover:
	kvh_devices_stop(&engine->devices);
err_l1:
	kvh_l1_close(engine->l1);
	kvh_arena_close(engine->arena, false);
err_device:
	kvh_devices_close(&engine->devices);
err_free:
	engine_free(engine);
	return err;
}

/* ---- close ------------------------------------------------------------ */

static void release_queue(struct kvh_queue *queue)
{
	kvh_l1_client_close(queue->engine->l1, queue->client);
	kvh_queue_free(queue);
}

/* Jobs end by themselves, then stores that wait for L2. */
static void drain(struct kvh_engine *engine, uint64_t deadline_ns)
{
	for (struct kvh_queue *queue = engine->queues; queue != NULL; queue = queue->next)
		kvh_queue_seal(queue);
	for (struct kvh_queue *queue = engine->queues; queue != NULL; queue = queue->next)
		kvh_queue_idle_wait(queue, deadline_ns);
	(void)kvh_controller_drain_wait(engine->controller, deadline_ns);
}

/* Transfers of an adapter that hang still point to device, metrics and adapter:
 * that is left, where a debugger and a leak checker find it. */
static void abandon(struct kvh_engine *engine)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static struct kvh_engine *abandoned;

	pthread_mutex_lock(&lock);
	engine->abandoned = abandoned;
	abandoned = engine;
	pthread_mutex_unlock(&lock);
}

int kvh_engine_close(struct kvh_engine *engine, uint64_t drain_ns)
{
	uint64_t drain_until = kvh_deadline_ns(drain_ns);
	uint64_t close_until;
	int err;

	if (engine == NULL)
		return 0;
	err = kvh_engine_alive(engine);
	if (err != 0)
		return err;
	__atomic_store_n(&engine->closing, true, __ATOMIC_RELEASE);
	drain(engine, drain_until);
	/* All first: a job of one queue may wait for one of another. */
	for (struct kvh_queue *queue = engine->queues; queue != NULL; queue = queue->next)
		kvh_queue_cancel(queue);
	for (struct kvh_queue *queue = engine->queues; queue != NULL; queue = queue->next)
		kvh_queue_idle_wait(queue, UINT64_MAX);
	close_until = kvh_deadline_ns(CLOSE_MIN_NS);
	err = kvh_controller_close(engine->controller, close_until);
	while (engine->queues != NULL) {
		struct kvh_queue *queue = engine->queues;

		engine->queues = queue->next;
		release_queue(queue);
	}
	while (engine->pools != NULL) {
		struct kvh_pool *pool = engine->pools;

		engine->pools = pool->next;
		kvh_pool_free(pool);
	}
	kvh_devices_stop(&engine->devices);
	kvh_l1_close(engine->l1);
	kvh_arena_close(engine->arena, err != 0);
	if (err != 0) {
		abandon(engine);
		return err;
	}
	kvh_devices_close(&engine->devices);
	engine_free(engine);
	return 0;
}

/* ---- spaces and queues ------------------------------------------------ */

int kvh_space_open(struct kvh_engine *engine, const struct kvh_space_desc *desc,
		   kvh_space_t *space_p)
{
	struct kvh_space *space;
	int err = kvh_engine_alive(engine);

	if (err == 0)
		err = kvh_space_make(desc, &space);
	if (err == 0)
		err = kvh_space_table_add(&engine->spaces, space, &space);
	if (err == 0)
		err = kvh_limits_default(engine, space);
	if (err == 0)
		*space_p = space->id;
	return err;
}

int64_t kvh_space_chunk_bytes(struct kvh_engine *engine, kvh_space_t id, uint32_t group)
{
	const struct kvh_space *space;
	int err = kvh_engine_alive(engine);

	if (err != 0)
		return err;
	space = kvh_space_table_find(&engine->spaces, id);
	if (space == NULL || group >= space->n_groups) {
		kvh_err("space: there is no group %u of a space %016llx", group,
			(unsigned long long)id);
		return -ENOENT;
	}
	return (int64_t)space->groups[group].payload_bytes;
}

int kvh_queue_open(struct kvh_engine *engine, uint32_t capacity, struct kvh_queue **queue_p)
{
	struct kvh_queue *queue;
	int err = kvh_engine_alive(engine);

	if (err != 0)
		return err;
	if (capacity == 0 || capacity > 65536) {
		kvh_err("queue: capacity is %u, allowed: 1..65536", capacity);
		return -EINVAL;
	}
	err = kvh_queue_make(engine, capacity, &queue);
	if (err != 0)
		return err;
	err = kvh_l1_client_open(engine->l1, &queue->client);
	if (err != 0) {
		kvh_queue_free(queue);
		return err;
	}
	pthread_mutex_lock(&engine->lock);
	queue->next = engine->queues;
	if (queue->next != NULL)
		queue->next->prev = queue;
	engine->queues = queue;
	pthread_mutex_unlock(&engine->lock);
	*queue_p = queue;
	return 0;
}

void kvh_queue_close(struct kvh_queue *queue)
{
	struct kvh_engine *engine;

	if (queue == NULL || kvh_engine_alive(queue->engine) == -EPERM)
		return;
	engine = queue->engine;
	kvh_queue_cancel(queue);
	kvh_queue_idle_wait(queue, UINT64_MAX);
	pthread_mutex_lock(&engine->lock);
	if (queue->prev != NULL)
		queue->prev->next = queue->next;
	else
		engine->queues = queue->next;
	if (queue->next != NULL)
		queue->next->prev = queue->prev;
	pthread_mutex_unlock(&engine->lock);
	release_queue(queue);
}

/* ---- option structs, version ------------------------------------------ */

#define OPTS_INIT(name)                                                          \
	void kvh_##name##_opts_init(struct kvh_##name##_opts *opts, size_t size) \
	{                                                                        \
		memset(opts, 0, size);                                           \
		opts->size = size;                                               \
	}

OPTS_INIT(store)
OPTS_INIT(prefetch)
OPTS_INIT(load)

const char *kvh_version(void)
{
	static char text[64];
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

	pthread_mutex_lock(&lock);
	if (text[0] == '\0')
		(void)snprintf(text, sizeof(text), "%d.%d.%d (%s)", KVH_VERSION_MAJOR,
			       KVH_VERSION_MINOR, KVH_VERSION_PATCH, kvh_device_build());
	pthread_mutex_unlock(&lock);
	return text;
}

/* ---- status ----------------------------------------------------------- */

static void status_l1(struct kvh_engine *engine, struct kvh_status *st)
{
	struct kvh_arena_stats arena;
	struct kvh_l1_stats l1;

	kvh_arena_stats(engine->arena, &arena);
	kvh_l1_stats(engine->l1, &l1);
	st->l1_bytes = arena.pinned_bytes;
	st->l1_used_bytes = arena.used_bytes;
	st->l1_frames = l1.frames;
	st->l1_leases = l1.leases;
	st->l1_doomed = l1.doomed;
	st->evicted_alloc = l1.evicted_alloc;
	st->evicted_background = l1.evicted_background;
	st->numa_refused = arena.numa_refused;
	st->huge_bytes = arena.huge_bytes;
	st->evicted_quota = l1.evicted_quota;
	st->leases_expired = l1.leases_expired;
	st->l1_demoting = l1.demoting;
	st->l1_wanted_bytes = arena.wanted_bytes;
	st->l1_missing_bytes = arena.missing_bytes;
	st->l1_pinning = arena.pinning;
	st->speculation_hits += l1.guesses_used;
	st->speculation_wasted += l1.guesses_wasted;
}

int kvh_status_get(struct kvh_engine *engine, struct kvh_status *st)
{
	const struct kvh_metrics *m = &engine->metrics;
	int err = kvh_engine_alive(engine);

	if (err != 0)
		return err;
	err = kvh_check_size("status", st->size, sizeof(*st));
	if (err != 0)
		return err;
	*st = (struct kvh_status){
		.size = st->size,
		.jobs = kvh_counted(&m->jobs),
		.store_waiting = kvh_counted(&m->store_waiting),
		.l2_quarantined = kvh_counted(&m->l2_quarantined),
		.stored_chunks = kvh_counted(&m->stored_chunks),
		.stored_bytes = kvh_counted(&m->stored_bytes),
		.loaded_chunks = kvh_counted(&m->loaded_chunks),
		.loaded_bytes = kvh_counted(&m->loaded_bytes),
		.store_exists = kvh_counted(&m->store_exists),
		.store_no_memory = kvh_counted(&m->store_no_memory),
		.store_failed = kvh_counted(&m->store_failed),
		.hits_l1 = kvh_counted(&m->hits_l1),
		.hits_l2 = kvh_counted(&m->hits_l2),
		.misses = kvh_counted(&m->misses),
		.prefetch_wasted = kvh_counted(&m->prefetch_wasted),
		.reads_shared = kvh_counted(&m->reads_shared),
		.hedges = kvh_counted(&m->hedges),
		.speculation_begun = kvh_counted(&m->speculation_begun),
		.speculation_hits = kvh_counted(&m->speculation_hits),
		.speculation_wasted = kvh_counted(&m->speculation_wasted),
		.erased = kvh_counted(&m->erased),
		.corrupt = kvh_counted(&m->corrupt),
		.device_errors = kvh_counted(&m->device_errors),
		.n_l2 = kvh_controller_adapters(engine->controller),
		.policy_wrong = kvh_counted(&m->policy_wrong),
		.deferred_outgrown = kvh_counted(&m->deferred_outgrown),
		.deferred_lost = kvh_counted(&m->deferred_lost),
		.n_devices = engine->devices.n,
	};
	status_l1(engine, st);
	return 0;
}

int kvh_l2_status_get(struct kvh_engine *engine, uint32_t index, struct kvh_l2_status *st)
{
	const struct kvh_adapter_counters *n;
	struct kvh_adapter *adapter;
	int err = kvh_engine_alive(engine);

	if (err != 0)
		return err;
	err = kvh_check_size("l2 status", st->size, sizeof(*st));
	if (err != 0)
		return err;
	kvh_controller_lock_adapters(engine->controller);
	if (index >= kvh_controller_adapters(engine->controller)) {
		kvh_controller_unlock_adapters(engine->controller);
		return -ENOENT;
	}
	adapter = kvh_controller_adapter(engine->controller, index);
	n = kvh_adapter_counters(adapter);
	*st = (struct kvh_l2_status){
		.size = st->size,
		.used_bytes = kvh_counted(&n->used_bytes),
		.capacity_bytes = kvh_counted(&n->capacity_bytes),
		.objects = kvh_counted(&n->objects),
		.inflight = kvh_counted(&n->inflight),
		.puts = kvh_counted(&n->puts),
		.put_bytes = kvh_counted(&n->put_bytes),
		.put_failed = kvh_counted(&n->put_failed),
		.put_retried = kvh_counted(&n->put_retried),
		.put_dropped = kvh_counted(&n->put_dropped),
		.gets = kvh_counted(&n->gets),
		.get_bytes = kvh_counted(&n->get_bytes),
		.get_missed = kvh_counted(&n->get_missed),
		.get_failed = kvh_counted(&n->get_failed),
		.get_corrupt = kvh_counted(&n->get_corrupt),
		.hits = kvh_counted(&n->hits),
		.hedged = kvh_counted(&n->hedged),
		.probes = kvh_counted(&n->probes),
		.deletes = kvh_counted(&n->deletes),
		.delete_failed = kvh_counted(&n->delete_failed),
		.timeouts = kvh_counted(&n->timeouts),
		.unregistered = kvh_counted(&n->unregistered),
		.breaker = (uint32_t)kvh_adapter_breaker(adapter),
		.health = -(int32_t)kvh_counted(&n->health),
		.breaker_opened = kvh_counted(&n->breaker_opened),
		.breaker_trials = kvh_counted(&n->trials),
		.breaker_refused = kvh_counted(&n->breaker_refused),
		.waiting = kvh_counted(&n->waiting),
		.waiting_bytes = kvh_counted(&n->waiting_bytes),
		.erases_owed = kvh_counted(&n->erases_owed),
		.strays = kvh_counted(&n->strays),
		.state = (uint32_t)kvh_controller_seat(engine->controller, index),
	};
	(void)snprintf(st->name, sizeof(st->name), "%s", kvh_adapter_name(adapter));
	kvh_controller_unlock_adapters(engine->controller);
	return 0;
}
