/* SPDX-License-Identifier: Apache-2.0 */
/*
 * change.c - adding, draining and removing adapters while traffic flows. The
 * controller's thread, but for open_round and close_round (helpers of their own).
 *
 * Other threads look at adapters under c->table, for reading; places change under
 * it, for writing: for moments.
 */
#include "host/change.h"

#include "host/clock.h"
#include "host/controller_impl.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define CLOSE_NS (2 * KVH_NS_PER_S) /* for an adapter's own close */

#define TO(place) (1u << KVH_SEAT_##place)
static const uint8_t seat_next[KVH_SEATS] = {
	[KVH_SEAT_EMPTY] = TO(OPENING),
	[KVH_SEAT_OPENING] = TO(OPEN) | TO(EMPTY),
	[KVH_SEAT_OPEN] = TO(DRAINING),
	[KVH_SEAT_DRAINING] = TO(CLOSING),
	[KVH_SEAT_CLOSING] = TO(EMPTY) | TO(STUCK),
	[KVH_SEAT_STUCK] = 0,
};
#undef TO

static void seat_move(struct kvh_controller *c, uint32_t index, enum kvh_seat to)
{
	assert((seat_next[c->seats[index]] >> to & 1) != 0);
	__atomic_store_n(&c->seats[index], to, __ATOMIC_RELAXED);
	if (to == KVH_SEAT_OPEN)
		c->storing_bits |= UINT32_C(1) << index;
	else
		c->storing_bits &= ~(UINT32_C(1) << index);
	if (to == KVH_SEAT_OPEN || to == KVH_SEAT_DRAINING)
		c->adapter_bits |= UINT32_C(1) << index;
	else
		c->adapter_bits &= ~(UINT32_C(1) << index);
}

/* ---- specs -------------------------------------------------------------- */

/* Of "name:PATH,...", as l2/conf.h reads it; 0: without a path. */
static size_t spec_path_len(const char *spec)
{
	size_t start = strcspn(spec, ":"), n;

	start += spec[start] == ':';
	if (spec[start + strcspn(spec + start, "=/,")] == '=')
		return 0; /* options only */
	for (n = start; spec[n] != '\0' && spec[n] != ','; n++)
		if (spec[n] == '\\' && spec[n + 1] == ',')
			n++;
	return n > start ? n : 0;
}

bool kvh_spec_same(const char *a, const char *b)
{
	size_t len = spec_path_len(a);

	/* Without a path two of them do not meet. */
	return len > 0 && spec_path_len(b) == len && memcmp(a, b, len) == 0;
}

/* ---- add ---------------------------------------------------------------- */

/* An EMPTY place whose requests, of who was there before, are all back, and what they
 * read is verified. */
static int free_seat(const struct kvh_controller *c, uint32_t *index_p)
{
	for (uint32_t i = 0; i < KVH_ADAPTERS_MAX; i++) {
		if (c->seats[i] != KVH_SEAT_EMPTY ||
		    (i < c->n_adapters && !kvh_adapter_idle(c->adapters[i])) ||
		    c->prefetcher.sources.at[i].bytes != 0)
			continue;
		*index_p = i;
		return 0;
	}
	kvh_err("L2: all of %u seats for adapters are taken", KVH_ADAPTERS_MAX);
	return -ENOSPC;
}

static int check_spec(const struct kvh_controller *c, const char *spec)
{
	for (uint32_t left = c->adapter_bits; left != 0; left &= left - 1) {
		uint32_t a = (uint32_t)__builtin_ctz(left);

		if (!kvh_spec_same(spec, kvh_adapter_spec(c->adapters[a])))
			continue;
		kvh_err("L2: '%s' has the adapter and path of adapter %u", spec, a);
		return -EEXIST;
	}
	return 0;
}

void kvh_seat_open(struct kvh_controller *c, uint32_t index, struct kvh_adapter *adapter)
{
	struct kvh_adapter *before;

	pthread_rwlock_wrlock(&c->table);
	before = index < c->n_adapters ? c->adapters[index] : NULL;
	c->adapters[index] = adapter;
	if (index >= c->n_adapters)
		__atomic_store_n(&c->n_adapters, index + 1, __ATOMIC_RELEASE);
	pthread_rwlock_unlock(&c->table);
	if (before != NULL)
		kvh_adapter_free(before);
	if (c->seats[index] == KVH_SEAT_EMPTY)
		seat_move(c, index, KVH_SEAT_OPENING);
	seat_move(c, index, KVH_SEAT_OPEN);
	c->put_failing[index] = false;
	kvh_source_open(&c->prefetcher.sources, index, kvh_adapter_caps(adapter)->max_inflight);
	kvh_limits_to(c, adapter);
	if (kvh_adapter_lacks(adapter)) /* pinned while it opened */
		kvh_controller_attach(c);
	kvh_adapter_set_deadline(adapter, c->opts.deadline_ns); /* changed while it opened? */
}

/* Helper. */
static enum kvh_round open_round(void *arg, enum kvh_wake wake)
{
	struct kvh_change *change = arg;
	struct kvh_controller *c = change->controller;

	(void)wake;
	change->err = kvh_adapter_open(&change->opts, &change->adapter);
	kvh_loop_post(c->loop, &change->done);
	return KVH_ROUND_END;
}

static void add_done(struct kvh_loop_work *work)
{
	struct kvh_change *change = (struct kvh_change *)((char *)work -
							  offsetof(struct kvh_change, done));
	struct kvh_controller *c = change->controller;

	kvh_thread_join(&change->thread);
	if (change->err == 0) {
		change->err = kvh_adapter_watch(change->adapter, c->loop);
		if (change->err != 0)
			(void)kvh_adapter_close(change->adapter, UINT64_MAX);
	}
	if (change->err == 0) {
		kvh_seat_open(c, change->index, change->adapter);
		kvh_info("L2: '%s' is adapter %u now", change->spec, change->index);
	} else {
		seat_move(c, change->index, KVH_SEAT_EMPTY);
		kvh_err("L2 '%s' cannot be opened: %s", change->spec, strerror(-change->err));
	}
	change->ended(change, change->err);
}

/* One opens at a time: a place that is taken is never behind one that was not yet. */
static bool is_opening(const struct kvh_controller *c)
{
	for (uint32_t i = 0; i < KVH_ADAPTERS_MAX; i++)
		if (c->seats[i] == KVH_SEAT_OPENING)
			return true;
	return false;
}

static int add_start(struct kvh_controller *c, struct kvh_change *change)
{
	int err = check_spec(c, change->spec);

	if (err == 0)
		err = free_seat(c, &change->index);
	if (err != 0)
		return err;
	kvh_controller_adapter_opts(c, change->spec, &change->opts);
	change->done.run = add_done;
	change->thread = (struct kvh_thread){
		.name = "kvh-open", .round = open_round, .arg = change};
	seat_move(c, change->index, KVH_SEAT_OPENING);
	err = kvh_thread_start(&change->thread);
	if (err != 0)
		seat_move(c, change->index, KVH_SEAT_EMPTY);
	return err;
}

/* ---- drain, remove ------------------------------------------------------ */

static enum kvh_round close_round(void *arg, enum kvh_wake wake)
{
	struct kvh_change *change = arg;

	(void)wake;
	change->err = kvh_adapter_shut(change->adapter, kvh_deadline_ns(CLOSE_NS));
	kvh_loop_post(change->controller->loop, &change->done);
	return KVH_ROUND_END;
}

static void close_done(struct kvh_loop_work *work)
{
	struct kvh_change *change = (struct kvh_change *)((char *)work -
							  offsetof(struct kvh_change, done));
	struct kvh_controller *c = change->controller;

	if (change->thread.round != NULL)
		kvh_thread_join(&change->thread);
	kvh_adapter_shut_done(change->adapter, change->err == 0);
	seat_move(c, change->index, change->err == 0 ? KVH_SEAT_EMPTY : KVH_SEAT_STUCK);
	if (change->err == 0)
		kvh_info("L2: adapter %u was removed", change->index);
	else
		kvh_err("L2: adapter %u does not close (%s): it keeps its seat", change->index,
			strerror(-change->err));
	change->ended(change, change->err);
}

/* Nobody looks at it from here on. */
static void close_begin(struct kvh_change *change)
{
	struct kvh_controller *c = change->controller;

	change->adapter = c->adapters[change->index];
	seat_move(c, change->index, KVH_SEAT_CLOSING);
	pthread_rwlock_wrlock(&c->table);
	kvh_adapter_retire(change->adapter, c->loop);
	pthread_rwlock_unlock(&c->table);
	kvh_adapter_drop_waiting(change->adapter);
	change->done.run = close_done;
	change->thread = (struct kvh_thread){
		.name = "kvh-close", .round = close_round, .arg = change};
	if (kvh_thread_start(&change->thread) != 0) {
		/* Not at once then, but also not here: it may block. */
		change->thread.round = NULL;
		change->err = -EAGAIN;
		kvh_loop_post(c->loop, &change->done);
	}
}

/* True: it is over, or opening or closing. */
static bool look(struct kvh_change *change, uint64_t now_ns)
{
	struct kvh_controller *c = change->controller;
	const struct kvh_adapter *adapter;
	int err;

	if (change->kind == KVH_CHANGE_ADD) {
		if (is_opening(c))
			return false;
		err = add_start(c, change);
		if (err != 0)
			change->ended(change, err);
		return true;
	}
	adapter = c->adapters[change->index];
	if (change->kind == KVH_CHANGE_DRAIN) {
		if (!kvh_adapter_drained(adapter))
			return false;
		change->ended(change, 0);
		return true;
	}
	if (!kvh_adapter_idle(adapter) && now_ns < change->drain_until_ns)
		return false;
	close_begin(change);
	return true;
}

static bool has_change(const struct kvh_controller *c, uint32_t index)
{
	for (const struct kvh_change *change = c->changes; change != NULL;
	     change = change->next)
		if (change->kind != KVH_CHANGE_ADD && change->index == index)
			return true;
	return false;
}

/* Behind those that wait already. */
static void change_wait(struct kvh_controller *c, struct kvh_change *change)
{
	struct kvh_change **at = &c->changes;

	while (*at != NULL)
		at = &(*at)->next;
	change->next = NULL;
	*at = change;
}

static int drain_start(struct kvh_controller *c, struct kvh_change *change)
{
	uint32_t index = change->index;

	if (index < KVH_ADAPTERS_MAX && c->seats[index] == KVH_SEAT_CLOSING) {
		kvh_err("L2: adapter %u is being removed already", index);
		return -EBUSY;
	}
	if (index >= KVH_ADAPTERS_MAX || (c->adapter_bits >> index & 1) == 0) {
		kvh_err("L2: there is no adapter %u", index);
		return -ENOENT;
	}
	if (has_change(c, index)) {
		kvh_err("L2: adapter %u is being drained already", index);
		return -EBUSY;
	}
	if (c->seats[index] == KVH_SEAT_OPEN)
		seat_move(c, index, KVH_SEAT_DRAINING);
	change_wait(c, change);
	return 0;
}

/* ---- all ----------------------------------------------------------------- */

static void change_start(struct kvh_loop_work *work)
{
	struct kvh_change *change = (struct kvh_change *)((char *)work -
							  offsetof(struct kvh_change, start));
	struct kvh_controller *c = change->controller;
	int err = 0;

	if (c->stopping)
		err = -ECANCELED;
	else if (change->kind == KVH_CHANGE_ADD)
		change_wait(c, change); /* for its turn, in the tick that follows */
	else
		err = drain_start(c, change);
	if (err != 0)
		change->ended(change, err);
}

void kvh_controller_change(struct kvh_controller *c, struct kvh_change *change)
{
	change->controller = c;
	change->adapter = NULL;
	change->start.run = change_start;
	kvh_loop_post(c->loop, &change->start);
}

void kvh_change_cancel(struct kvh_change *change)
{
	struct kvh_change **at = &change->controller->changes;

	while (*at != NULL && *at != change)
		at = &(*at)->next;
	if (*at == NULL || (change->kind == KVH_CHANGE_ADD && !change->controller->stopping))
		return; /* opening or closing: it ends by itself */
	*at = change->next;
	change->ended(change, -ECANCELED);
}

uint64_t kvh_change_tick(struct kvh_controller *c, uint64_t now_ns)
{
	struct kvh_change **at = &c->changes, *change;
	uint64_t next_ns = UINT64_MAX;

	while ((change = *at) != NULL) {
		struct kvh_change *next = change->next;

		if (look(change, now_ns)) {
			*at = next;
			continue;
		}
		if (change->kind == KVH_CHANGE_REMOVE && change->drain_until_ns < next_ns)
			next_ns = change->drain_until_ns;
		at = &change->next;
	}
	return next_ns;
}
