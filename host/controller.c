/* SPDX-License-Identifier: Apache-2.0 */
/*
 * controller.c - the controller's thread: opening and closing, what is done a
 * round, and background eviction.
 */
#include "host/controller.h"

#include "host/controller_impl.h"
#include "host/log.h"
#include "host/thread.h"
#include "l2/io.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define EVICT_SLICE (UINT64_C(256) << 20) /* bytes in one go, so that a round stays short */

/* From one look for leases whose deadline has passed to the next. */
#define EXPIRE_SOONEST_NS (20 * KVH_NS_PER_MS)

/* Lowers expire_ns; false: it was sooner. */
static bool expire_by(struct kvh_controller *c, uint64_t ns)
{
	uint64_t at = __atomic_load_n(&c->expire_ns, __ATOMIC_SEQ_CST);

	while (ns < at)
		if (__atomic_compare_exchange_n(&c->expire_ns, &at, ns, false, __ATOMIC_SEQ_CST,
						__ATOMIC_SEQ_CST))
			return true;
	return false;
}

static uint64_t expire_tick(struct kvh_controller *c, uint64_t now_ns)
{
	uint64_t at = __atomic_load_n(&c->expire_ns, __ATOMIC_SEQ_CST);

	if (now_ns >= at && now_ns >= c->expire_not_before_ns) {
		/* Before looking: whoever takes one behind the look lowers it again. */
		__atomic_store_n(&c->expire_ns, UINT64_MAX, __ATOMIC_SEQ_CST);
		if (kvh_l1_timed(c->opts.l1))
			(void)expire_by(c, kvh_l1_expire(c->opts.l1, now_ns));
		c->expire_not_before_ns = now_ns + EXPIRE_SOONEST_NS;
		at = __atomic_load_n(&c->expire_ns, __ATOMIC_SEQ_CST);
	}
	return at > c->expire_not_before_ns ? at : c->expire_not_before_ns;
}

static void expire_run(struct kvh_loop_work *work)
{
	struct kvh_controller *c = (struct kvh_controller *)((char *)work -
							     offsetof(struct kvh_controller,
								      expire));

	/* The tick that follows looks. */
	__atomic_store_n(&c->expire_posted, false, __ATOMIC_SEQ_CST);
}

void kvh_controller_lease_timed(struct kvh_controller *c, uint64_t deadline_ns)
{
	if (expire_by(c, deadline_ns) &&
	    !__atomic_exchange_n(&c->expire_posted, true, __ATOMIC_SEQ_CST))
		kvh_loop_post(c->loop, &c->expire);
}

/* One round, after the events: controllers first, then what they submitted. */
static uint64_t controller_tick(void *arg, uint64_t now_ns)
{
	struct kvh_controller *c = arg;
	uint64_t at, t;

	c->now_ns = now_ns;
	do {
		at = kvh_change_tick(c, now_ns);
		t = kvh_prefetch_tick(c, now_ns);
		at = t < at ? t : at;
		t = kvh_store_tick(c, now_ns);
		at = t < at ? t : at;
		for (uint32_t a = 0; a < c->n_adapters; a++) {
			t = kvh_adapter_tick(c->adapters[a], now_ns);
			at = t < at ? t : at;
		}
	} while (c->dirty);
	t = expire_tick(c, now_ns);
	at = t < at ? t : at;
	/* Last: a sweep may have put one into backoff. */
	return c->next_retry_ns < at ? c->next_retry_ns : at;
}

static void listener_ready(struct kvh_loop_source *source)
{
	kvh_store_hear(
		(struct kvh_controller *)((char *)source -
					  offsetof(struct kvh_controller, listener_source)));
}

/* ---- memory that is pinned later -------------------------------------- */

/* One piece of one adapter a round: registering a gigabyte takes a while. */
static void attach_run(struct kvh_loop_work *work)
{
	struct kvh_controller *c = (struct kvh_controller *)((char *)work -
							     offsetof(struct kvh_controller,
								      attach));
	bool attached = false;

	__atomic_store_n(&c->attach_posted, false, __ATOMIC_SEQ_CST);
	for (uint32_t left = c->stopping ? 0 : c->adapter_bits; left != 0 && !attached;
	     left &= left - 1)
		attached = kvh_adapter_attach(c->adapters[__builtin_ctz(left)]);
	if (attached)
		kvh_controller_attach(c);
	kvh_controller_pressure(c); /* what is missing moves the watermarks */
}

void kvh_controller_attach(struct kvh_controller *c)
{
	if (!__atomic_exchange_n(&c->attach_posted, true, __ATOMIC_SEQ_CST))
		kvh_loop_post(c->loop, &c->attach);
}

static void arena_changed(void *arg)
{
	kvh_controller_attach(arg);
}

static void watch_arena(struct kvh_controller *c)
{
	kvh_arena_watch(c->opts.arena, arena_changed, c);
	/* What came before, after an adapter had looked. */
	for (uint32_t a = 0; a < c->n_adapters; a++)
		if (kvh_adapter_lacks(c->adapters[a]))
			kvh_controller_attach(c);
}

/* ---- background eviction ---------------------------------------------- */

/* While memory is still coming, usage is not kept below a part of what has come; of
 * what will not come, the watermarks have no part. */
static uint64_t mark(const uint64_t *bytes, const struct kvh_arena_stats *stats)
{
	uint64_t all = __atomic_load_n(bytes, __ATOMIC_RELAXED);

	if (stats->missing_bytes == 0)
		return all;
	return (uint64_t)((double)all * (double)kvh_arena_capacity(stats) /
			  (double)stats->wanted_bytes);
}

uint64_t kvh_controller_low(const struct kvh_controller *c, const struct kvh_arena_stats *stats)
{
	return mark(&c->opts.low_bytes, stats);
}

static void evict_run(struct kvh_loop_work *work)
{
	struct kvh_controller *c = (struct kvh_controller *)((char *)work -
							     offsetof(struct kvh_controller,
								      evict));
	struct kvh_arena_stats stats;
	uint64_t low, target;

	__atomic_store_n(&c->evict_posted, false, __ATOMIC_SEQ_CST);
	kvh_arena_stats(c->opts.arena, &stats);
	low = target = kvh_controller_low(c, &stats);
	if (stats.used_bytes <= low || c->stopping)
		return;
	if (stats.used_bytes - target > EVICT_SLICE)
		target = stats.used_bytes - EVICT_SLICE;
	if (kvh_l1_evict(c->opts.l1, target) > 0 && target > low &&
	    !__atomic_exchange_n(&c->evict_posted, true, __ATOMIC_SEQ_CST))
		kvh_loop_post(c->loop, &c->evict);
}

void kvh_controller_pressure(struct kvh_controller *c)
{
	struct kvh_arena_stats stats;

	kvh_arena_stats(c->opts.arena, &stats);
	if (stats.used_bytes > mark(&c->opts.high_bytes, &stats) &&
	    !__atomic_exchange_n(&c->evict_posted, true, __ATOMIC_SEQ_CST))
		kvh_loop_post(c->loop, &c->evict);
}

/* ---- any thread ------------------------------------------------------- */

/* No adapter, or no memory to remember them: they are not stored. */
static void let_go(struct kvh_controller *c, const struct kvh_published *items, uint32_t n,
		   bool held)
{
	const struct kvh_store_outcome none = {0};

	for (uint32_t i = 0; i < n; i++) {
		if (held)
			kvh_l1_unhold(c->opts.l1, items[i].frame);
		if (items[i].persist != NULL)
			items[i].persist->settled(items[i].persist, items[i].index, &none);
	}
}

static void hand_over(struct kvh_controller *c, const struct kvh_published *items, uint32_t n)
{
	kvh_count(&c->opts.metrics->store_waiting, n);
	if (kvh_listener_push(&c->listener, items, n) == 0)
		return;
	__atomic_store_n(&c->unheard, true, __ATOMIC_RELAXED);
	kvh_uncount(&c->opts.metrics->store_waiting, n);
	let_go(c, items, n, true);
}

uint32_t kvh_controller_publish_many(struct kvh_controller *c,
				     const struct kvh_published *items, uint32_t n,
				     int32_t *status)
{
	struct kvh_published published[64];
	bool stores = __atomic_load_n(&c->n_adapters, __ATOMIC_RELAXED) > 0;
	uint32_t m = 0, n_ok = 0;

	for (uint32_t i = 0; i < n; i++) {
		status[i] = kvh_l1_publish(c->opts.l1, items[i].frame, stores);
		if (status[i] == 0) {
			published[m++] = items[i];
			n_ok++;
		}
		if (m == 0 || (m < 64 && i + 1 < n))
			continue;
		if (stores)
			hand_over(c, published, m);
		else
			let_go(c, published, m, false);
		m = 0;
	}
	return n_ok;
}

int kvh_controller_publish(struct kvh_controller *c, kvh_frame frame,
			   struct kvh_persist *persist)
{
	struct kvh_published item = {.frame = frame, .persist = persist};
	int32_t status;

	(void)kvh_controller_publish_many(c, &item, 1, &status);
	return status;
}

bool kvh_controller_wants_uses(const struct kvh_controller *c)
{
	return __atomic_load_n(&c->wants_uses, __ATOMIC_RELAXED) != 0;
}

void kvh_controller_used(struct kvh_controller *c, const kvh_frame *frames, uint32_t n)
{
	struct kvh_published items[64];

	for (uint32_t i = 0; i < n;) {
		uint32_t m;

		for (m = 0; m < 64 && i < n; m++, i++)
			items[m] = (struct kvh_published){.frame = frames[i],
							  .heard = KVH_HEARD_USED};
		hand_over(c, items, m);
	}
}

void kvh_controller_peek(struct kvh_controller *c, const struct kvh_key *keys, uint32_t n,
			 uint8_t *found)
{
	kvh_controller_lock_adapters(c);
	for (uint32_t a = 0; a < c->n_adapters; a++)
		kvh_adapter_peek(c->adapters[a], keys, n, found);
	kvh_controller_unlock_adapters(c);
}

void kvh_controller_post(struct kvh_controller *c, struct kvh_loop_work *work)
{
	kvh_loop_post(c->loop, work);
}

struct kvh_workers *kvh_controller_workers(struct kvh_controller *c)
{
	return c->workers;
}

const struct kvh_pulse *kvh_controller_pulse(const struct kvh_controller *c)
{
	return kvh_loop_pulse(c->loop);
}

uint32_t kvh_controller_adapters(const struct kvh_controller *c)
{
	return __atomic_load_n(&c->n_adapters, __ATOMIC_ACQUIRE);
}

enum kvh_seat kvh_controller_seat(const struct kvh_controller *c, uint32_t index)
{
	return __atomic_load_n(&c->seats[index], __ATOMIC_RELAXED);
}

void kvh_controller_lock_adapters(struct kvh_controller *c)
{
	pthread_rwlock_rdlock(&c->table);
}

void kvh_controller_unlock_adapters(struct kvh_controller *c)
{
	pthread_rwlock_unlock(&c->table);
}

struct kvh_adapter *kvh_controller_adapter(const struct kvh_controller *c, uint32_t index)
{
	return c->adapters[index];
}

/* ---- open ------------------------------------------------------------- */

struct opening {
	struct kvh_adapter_opts opts;
	struct kvh_adapter *adapter;
	struct kvh_thread thread;
	bool threaded;
	int err;
};

static enum kvh_round open_round(void *arg, enum kvh_wake wake)
{
	struct opening *opening = arg;

	(void)wake;
	opening->err = kvh_adapter_open(&opening->opts, &opening->adapter);
	return KVH_ROUND_END;
}

void kvh_controller_adapter_opts(const struct kvh_controller *c, const char *spec,
				 struct kvh_adapter_opts *opts)
{
	*opts = (struct kvh_adapter_opts){
		.spec = spec,
		.env = &c->env,
		.arena = c->opts.arena,
		.metrics = c->opts.metrics,
		.deadline_ns = c->opts.deadline_ns,
		.breaker = c->opts.breaker,
	};
}

/* All at once, each on a thread of its own: an open may scan a disk. */
static int open_adapters(struct kvh_controller *c)
{
	struct opening opening[KVH_ADAPTERS_MAX] = {0};
	int err = 0;

	for (uint32_t i = 0; i < c->opts.n_l2; i++) {
		kvh_controller_adapter_opts(c, c->opts.l2[i], &opening[i].opts);
		opening[i].thread = (struct kvh_thread){
			.name = "kvh-open", .round = open_round, .arg = &opening[i]};
		opening[i].threaded = kvh_thread_start(&opening[i].thread) == 0;
		if (!opening[i].threaded)
			(void)open_round(&opening[i], KVH_WAKE_WAIT);
	}
	for (uint32_t i = 0; i < c->opts.n_l2; i++) {
		if (opening[i].threaded)
			kvh_thread_join(&opening[i].thread);
		if (opening[i].err == 0)
			kvh_seat_open(c, c->n_adapters, opening[i].adapter);
		else
			kvh_err("L2 '%s' cannot be opened: %s", c->opts.l2[i],
				strerror(-opening[i].err));
		err = err != 0 ? err : opening[i].err;
	}
	for (uint32_t a = 0; a < c->n_adapters && err == 0; a++)
		err = kvh_adapter_watch(c->adapters[a], c->loop);
	return err;
}

static void close_adapters(struct kvh_controller *c)
{
	while (c->n_adapters > 0)
		(void)kvh_adapter_close(c->adapters[--c->n_adapters], UINT64_MAX);
}

static struct kvh_controller *controller_make(const struct kvh_controller_opts *opts)
{
	static const struct kvh_l2_env system_env = {.io = &kvh_io_system};
	struct kvh_controller *c = calloc(1, sizeof(*c));
	pthread_rwlockattr_t attr;

	if (c == NULL)
		return NULL;
	c->opts = *opts;
	c->env = opts->env != NULL ? *opts->env : system_env;
	c->next_retry_ns = UINT64_MAX;
	c->evict.run = evict_run;
	c->attach.run = attach_run;
	c->expire.run = expire_run;
	c->expire_ns = UINT64_MAX;
	/* Readers that overlap must not keep the controller's thread waiting. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&c->table, &attr);
	pthread_rwlockattr_destroy(&attr);
	if (c->opts.sweep_ns == 0)
		c->opts.sweep_ns = 100 * KVH_NS_PER_MS;
	return c;
}

static void controller_free(struct kvh_controller *c)
{
	kvh_store_close(c);
	kvh_limits_close(c);
	kvh_keyset_close(&c->erasing);
	pthread_rwlock_destroy(&c->table);
	free(c);
}

int kvh_controller_open(const struct kvh_controller_opts *opts,
			struct kvh_controller **controller_p)
{
	struct kvh_controller *c = controller_make(opts);
	int err;

	if (c == NULL)
		return -ENOMEM;
	err = kvh_store_open(c);
	if (err == 0)
		err = kvh_keyset_open(&c->erasing);
	if (err == 0)
		err = kvh_loop_open(controller_tick, c, &c->loop);
	if (err != 0)
		goto err_free;
	err = kvh_listener_open(&c->listener);
	if (err != 0)
		goto err_loop;
	c->listener_source = (struct kvh_loop_source){.fd = kvh_listener_fd(&c->listener),
						      .ready = listener_ready};
	err = kvh_loop_add(c->loop, &c->listener_source);
	if (err != 0)
		goto err_listener;
	err = kvh_workers_open(opts->workers, &c->workers);
	if (err != 0)
		goto err_listener;
	kvh_demote_open(c);
	kvh_loop_measure(c->loop, c->opts.metrics->latency[KVH_LATENCY_ROUND]);
	kvh_workers_measure(c->workers, c->opts.metrics->latency[KVH_LATENCY_WORK]);
	err = kvh_prefetcher_open(c);
	if (err != 0)
		goto err_workers;
	err = open_adapters(c);
	if (err != 0)
		goto err_adapters;
	watch_arena(c);
	err = kvh_loop_start(c->loop);
	if (err != 0)
		goto err_watch;
	*controller_p = c;
	return 0;

err_watch:
	kvh_arena_watch(c->opts.arena, NULL, NULL);
err_adapters:
	close_adapters(c);
	kvh_prefetcher_close(c);
err_workers:
	kvh_demote_close(c);
	kvh_workers_close(c->workers);
err_listener:
	kvh_listener_close(&c->listener);
err_loop:
	kvh_loop_close(c->loop);
err_free:
	controller_free(c);
	return err;
}

/* ---- close ------------------------------------------------------------ */

struct stop_work {
	struct kvh_loop_work work;
	struct kvh_controller *c;
};

/* Loop: from here on nothing new is submitted, and what waits ends. */
static void stop_run(struct kvh_loop_work *work)
{
	struct kvh_controller *c = ((struct stop_work *)work)->c;

	c->stopping = true;
	kvh_prefetch_stop(c);
	kvh_store_stop(c);
	for (uint32_t a = 0; a < c->n_adapters; a++)
		kvh_adapter_drop_waiting(c->adapters[a]);
}

int kvh_controller_close(struct kvh_controller *c, uint64_t deadline_ns)
{
	struct stop_work stop = {{stop_run, NULL}, c};
	int err = 0, e;

	kvh_arena_watch(c->opts.arena, NULL, NULL);
	kvh_loop_post(c->loop, &stop.work);
	kvh_loop_stop(c->loop);
	/* The loop is gone: this thread is the controller's now. Workers end what
	 * they have, and what they post is run by the second stop. */
	kvh_workers_close(c->workers);
	kvh_loop_stop(c->loop);
	for (uint32_t a = 0; a < c->n_adapters; a++) {
		kvh_adapter_drop_waiting(c->adapters[a]);
		e = kvh_adapter_close(c->adapters[a], deadline_ns);
		err = err != 0 ? err : e;
	}
	kvh_store_stop(c);
	if (err != 0) {
		kvh_store_quarantine(c);
		kvh_read_quarantine(c);
	}
	kvh_prefetcher_close(c);
	kvh_demote_close(c);
	kvh_listener_close(&c->listener);
	kvh_loop_close(c->loop);
	if (err == 0)
		controller_free(c); /* else requests that are out point into it */
	return err;
}
