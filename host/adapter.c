/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adapter.c - queues, deadlines and write order in front of one L2 adapter. The
 * controller's thread.
 *
 * Write order (l2.h, rule 7) is kept by `busy`, a counting filter over the keys
 * of writes that are out: a write whose bucket is taken waits, and so does what
 * comes after it in that bucket. A false match only delays.
 */
#include "host/adapter.h"

#include "host/arena.h"
#include "host/clock.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SWEEP_NS     (100 * KVH_NS_PER_MS)
#define BUSY_BUCKETS 4096u
#define REAP_BATCH   64u
#define SKIP_MAX     64u /* writes passed over in one look, so that a look is short */

struct task_list {
	struct kvh_l2_task *head, *tail;
	uint64_t n;
};

struct kvh_adapter {
	const struct kvh_l2_ops *ops;
	void *self;
	struct kvh_l2_caps caps;
	struct kvh_metrics *metrics;
	const struct kvh_arena *arena;
	uint32_t *regions; /* [pieces] as attach said */
	uint64_t deadline_ns;
	struct kvh_loop_source source;
	struct task_list reads, writes; /* WAITING */
	struct task_list inflight, late;
	uint64_t deletes; /* that are not IDLE */
	uint64_t next_sweep_ns;
	uint16_t busy[BUSY_BUCKETS];
	struct kvh_adapter_counters counters;
};

static void list_add(struct task_list *list, struct kvh_l2_task *task)
{
	task->next = NULL;
	task->prev = list->tail;
	if (list->tail != NULL)
		list->tail->next = task;
	else
		list->head = task;
	list->tail = task;
	list->n++;
}

static void list_remove(struct task_list *list, struct kvh_l2_task *task)
{
	if (task->prev != NULL)
		task->prev->next = task->next;
	else
		list->head = task->next;
	if (task->next != NULL)
		task->next->prev = task->prev;
	else
		list->tail = task->prev;
	task->prev = task->next = NULL;
	list->n--;
}

static bool is_write(const struct kvh_l2_task *task)
{
	return task->req.op == KVH_L2_PUT || task->req.op == KVH_L2_DELETE;
}

static struct task_list *list_of(struct kvh_adapter *a, const struct kvh_l2_task *task)
{
	switch (task->state) {
	case KVH_TASK_IDLE: return NULL;
	case KVH_TASK_WAITING: return is_write(task) ? &a->writes : &a->reads;
	case KVH_TASK_INFLIGHT: return &a->inflight;
	case KVH_TASK_LATE: return &a->late;
	}
	return NULL;
}

#define TO(s) (1u << (s))
static const uint8_t task_next[] = {
	[KVH_TASK_IDLE] = TO(KVH_TASK_WAITING),
	[KVH_TASK_WAITING] = TO(KVH_TASK_INFLIGHT) | TO(KVH_TASK_IDLE),
	[KVH_TASK_INFLIGHT] = TO(KVH_TASK_LATE) | TO(KVH_TASK_IDLE),
	[KVH_TASK_LATE] = TO(KVH_TASK_IDLE),
};

/* The one place where a task changes state, and so list. */
static void task_move(struct kvh_adapter *a, struct kvh_l2_task *task, enum kvh_task_state to)
{
	assert(task_next[task->state] & TO(to));
	if (task->state != KVH_TASK_IDLE)
		list_remove(list_of(a, task), task);
	else
		a->deletes += task->req.op == KVH_L2_DELETE;
	task->state = to;
	if (to != KVH_TASK_IDLE)
		list_add(list_of(a, task), task);
	else
		a->deletes -= task->req.op == KVH_L2_DELETE;
	kvh_gauge(&a->counters.inflight, a->inflight.n + a->late.n);
}

static uint16_t *busy_bucket(struct kvh_adapter *a, const struct kvh_key *key)
{
	uint64_t h;

	memcpy(&h, key->hash.bytes, sizeof(h));
	h = (h ^ key->space ^ ((uint64_t)key->rank << 20) ^ key->group) *
	    UINT64_C(0x9E3779B97F4A7C15);
	return &a->busy[h >> 52];
}
_Static_assert(BUSY_BUCKETS == 1u << 12, "busy_bucket takes the top 12 bits");

void kvh_adapter_key_hold(struct kvh_adapter *a, const struct kvh_key *key)
{
	++*busy_bucket(a, key);
}

void kvh_adapter_key_unhold(struct kvh_adapter *a, const struct kvh_key *key)
{
	assert(*busy_bucket(a, key) > 0);
	--*busy_bucket(a, key);
}

/* ended() for a task the adapter does not have (any more). */
static void finish(struct kvh_adapter *a, struct kvh_l2_task *task, int status)
{
	task_move(a, task, KVH_TASK_IDLE);
	task->ended(task, status, true);
}

/* ended() for a task whose buffer the adapter keeps. */
static void set_aside(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	kvh_count(&a->metrics->l2_quarantined, task->req.buf != NULL);
	task_move(a, task, KVH_TASK_LATE);
	task->ended(task, -ETIMEDOUT, false);
}

static int try_submit(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	int err;

	task->req.cancelled = false;
	task->req.region = KVH_L2_NO_REGION;
	if (task->req.buf != NULL && a->arena != NULL) {
		uint32_t piece = kvh_arena_piece_of(a->arena, task->req.buf);

		if (piece != UINT32_MAX)
			task->req.region = a->regions[piece];
	}
	err = a->ops->submit(a->self, &task->req);
	if (err != 0)
		return err;
	if (is_write(task)) {
		task->deadline_ns = kvh_deadline_ns(a->deadline_ns);
		kvh_adapter_key_hold(a, &task->req.key);
	}
	task_move(a, task, KVH_TASK_INFLIGHT);
	return 0;
}

/* Returns false when the adapter is full. */
static bool feed_one(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	int err = try_submit(a, task);

	if (err == -EAGAIN)
		return false;
	if (err != 0) {
		kvh_err("%s: refused a request of %llu bytes: %s", a->ops->name,
			(unsigned long long)task->req.len, strerror(-err));
		finish(a, task, err);
	}
	return true;
}

/* The same. */
static bool feed_writes(struct kvh_adapter *a)
{
	struct kvh_l2_task *skipped[SKIP_MAX], *task, *next;
	uint32_t n_skipped = 0;
	bool room = true;

	for (task = a->writes.head; task != NULL && room && n_skipped < SKIP_MAX; task = next) {
		next = task->next;
		if (*busy_bucket(a, &task->req.key) > 0) {
			kvh_adapter_key_hold(a, &task->req.key); /* for those behind it */
			skipped[n_skipped++] = task;
		} else {
			room = feed_one(a, task);
		}
	}
	for (uint32_t i = 0; i < n_skipped; i++)
		kvh_adapter_key_unhold(a, &skipped[i]->req.key);
	return room;
}

static void time_out(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	kvh_count(&a->counters.timeouts, 1);
	finish(a, task, -ETIMEDOUT);
}

static void feed(struct kvh_adapter *a)
{
	struct kvh_l2_task *task;
	bool room = true;

	while (a->reads.head != NULL && room)
		room = feed_one(a, a->reads.head);
	if (room)
		room = feed_writes(a);
	if (room || a->inflight.n > 0 || a->late.n == 0)
		return;
	/* Every place in the adapter is taken by a request past its deadline: what
	 * waits would wait for ever. */
	while ((task = a->reads.head) != NULL || (task = a->writes.head) != NULL)
		time_out(a, task);
}

static void refresh_usage(struct kvh_adapter *a)
{
	struct kvh_l2_usage usage = {0};

	a->ops->usage(a->self, &usage);
	kvh_gauge(&a->counters.used_bytes, usage.used_bytes);
	kvh_gauge(&a->counters.capacity_bytes, usage.capacity_bytes);
	kvh_gauge(&a->counters.objects, usage.objects);
}

static void reaped(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	bool late = task->state == KVH_TASK_LATE;

	if (is_write(task))
		kvh_adapter_key_unhold(a, &task->req.key);
	if (!late) {
		finish(a, task, task->req.status);
		return;
	}
	task_move(a, task, KVH_TASK_IDLE);
	kvh_uncount(&a->metrics->l2_quarantined, task->req.buf != NULL);
	task->returned(task);
}

static void reap(struct kvh_adapter *a)
{
	struct kvh_l2_req *done[REAP_BATCH];
	uint32_t n, total = 0;

	do {
		n = a->ops->reap(a->self, done, REAP_BATCH);
		for (uint32_t i = 0; i < n; i++)
			reaped(a, (struct kvh_l2_task *)done[i]);
		total += n;
	} while (n == REAP_BATCH);
	if (total > 0)
		refresh_usage(a);
}

static void expire_inflight(struct kvh_adapter *a, uint64_t now_ns)
{
	struct kvh_l2_task *task, *next;

	for (task = a->inflight.head; task != NULL; task = next) {
		next = task->next;
		if (task->deadline_ns > now_ns)
			continue;
		kvh_count(&a->counters.timeouts, 1);
		if (a->late.n == 0) /* the first of those that are out */
			kvh_warn("%s: a request has not ended within %llu ms", a->ops->name,
				 (unsigned long long)(a->deadline_ns / KVH_NS_PER_MS));
		task->req.cancelled = true;
		if (a->ops->cancel != NULL)
			a->ops->cancel(a->self, &task->req);
		set_aside(a, task);
	}
}

static void expire(struct kvh_adapter *a, uint64_t now_ns)
{
	struct kvh_l2_task *task, *next;

	expire_inflight(a, now_ns);
	/* In order of submission, so the oldest are in front. */
	while (a->reads.head != NULL && a->reads.head->deadline_ns <= now_ns)
		time_out(a, a->reads.head);
	/* Writes may queue for long, but not behind one that does not come back. */
	for (task = a->writes.head; task != NULL && a->late.n > 0; task = next) {
		next = task->next;
		if (task->deadline_ns <= now_ns && *busy_bucket(a, &task->req.key) > 0)
			time_out(a, task);
	}
}

uint64_t kvh_adapter_tick(struct kvh_adapter *a, uint64_t now_ns)
{
	if (kvh_adapter_busy(a) + a->late.n == 0) {
		a->next_sweep_ns = UINT64_MAX;
		return UINT64_MAX;
	}
	if (a->next_sweep_ns == UINT64_MAX)
		a->next_sweep_ns = now_ns + SWEEP_NS;
	if (now_ns >= a->next_sweep_ns) {
		a->next_sweep_ns = now_ns + SWEEP_NS;
		reap(a); /* a lost wake-up costs a sweep, no more */
		expire(a, now_ns);
	}
	feed(a);
	return a->next_sweep_ns;
}

static void adapter_ready(struct kvh_loop_source *source)
{
	reap((struct kvh_adapter *)((char *)source - offsetof(struct kvh_adapter, source)));
}

void kvh_adapter_submit(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	task->prev = task->next = NULL;
	task->state = KVH_TASK_IDLE;
	task->deadline_ns = kvh_deadline_ns(a->deadline_ns);
	task_move(a, task, KVH_TASK_WAITING); /* fed by the tick that follows this round */
}

void kvh_adapter_cancel(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	if (task->state == KVH_TASK_WAITING) {
		finish(a, task, -ECANCELED);
	} else if (task->state == KVH_TASK_INFLIGHT && !task->req.cancelled) {
		task->req.cancelled = true;
		if (a->ops->cancel != NULL)
			a->ops->cancel(a->self, &task->req);
	}
}

void kvh_adapter_drop_waiting(struct kvh_adapter *a)
{
	struct kvh_l2_task *task;

	while ((task = a->reads.head) != NULL || (task = a->writes.head) != NULL)
		finish(a, task, -ECANCELED);
}

static int attach_pieces(struct kvh_adapter *a, struct kvh_arena *arena)
{
	const struct kvh_arena_piece *pieces;
	uint32_t n;

	if (arena == NULL)
		return 0;
	n = kvh_arena_pieces(arena, &pieces);
	a->regions = calloc(n, sizeof(a->regions[0]));
	if (a->regions == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		int region = -EOPNOTSUPP;

		if (a->ops->attach != NULL)
			region = a->ops->attach(a->self, pieces[i].base, pieces[i].bytes);
		a->regions[i] = region >= 0 ? (uint32_t)region : KVH_L2_NO_REGION;
		if (region < 0 && a->ops->attach != NULL)
			kvh_count(&a->counters.unregistered, 1);
	}
	a->arena = arena;
	return 0;
}

int kvh_adapter_open(const struct kvh_adapter_opts *opts, struct kvh_adapter **adapter_p)
{
	struct kvh_adapter *a = calloc(1, sizeof(*a));
	const char *conf;
	int err;

	if (a == NULL)
		return -ENOMEM;
	a->metrics = opts->metrics;
	a->deadline_ns = opts->deadline_ns;
	a->next_sweep_ns = UINT64_MAX;
	err = kvh_l2_find(opts->spec, &a->ops, &conf);
	if (err != 0) {
		err = -EINVAL; /* an option of unknown name; -ENOENT is a path's */
		goto err_free;
	}
	if (a->ops->abi != KVH_L2_ABI) {
		kvh_err("%s: contract version %u, this library has %u", a->ops->name,
			a->ops->abi, KVH_L2_ABI);
		err = -EPROTONOSUPPORT;
		goto err_free;
	}
	err = a->ops->open(conf, opts->env, &a->self);
	if (err != 0)
		goto err_free;
	a->ops->query(a->self, &a->caps);
	err = attach_pieces(a, opts->arena);
	if (err != 0)
		goto err_close;
	refresh_usage(a);
	*adapter_p = a;
	return 0;

err_close:
	(void)a->ops->close(a->self, UINT64_MAX);
err_free:
	free(a->regions);
	free(a);
	return err;
}

int kvh_adapter_close(struct kvh_adapter *a, uint64_t deadline_ns)
{
	int err;

	assert(a->reads.n + a->writes.n == 0);
	err = a->ops->close(a->self, deadline_ns);
	if (err != 0) {
		kvh_err("%s: close: %s; %llu requests are still out, their memory stays mapped",
			a->ops->name, strerror(-err),
			(unsigned long long)(a->inflight.n + a->late.n));
		/* Their owners are told; the buffers never come back. */
		while (a->inflight.head != NULL)
			set_aside(a, a->inflight.head);
		return err;
	}
	/* What the adapter still had was dropped by its close: give it back. */
	while (a->inflight.head != NULL) {
		struct kvh_l2_task *task = a->inflight.head;

		if (is_write(task))
			kvh_adapter_key_unhold(a, &task->req.key);
		finish(a, task, -ECANCELED);
	}
	while (a->late.head != NULL) {
		a->late.head->req.status = -ECANCELED;
		reaped(a, a->late.head);
	}
	free(a->regions);
	free(a);
	return 0;
}

int kvh_adapter_watch(struct kvh_adapter *a, struct kvh_loop *loop)
{
	a->source.fd = a->ops->event_fd(a->self);
	a->source.ready = adapter_ready;
	a->source.hint = true; /* l2.h, rule 4 */
	return kvh_loop_add(loop, &a->source);
}

bool kvh_adapter_deleting(const struct kvh_adapter *a)
{
	return a->deletes > 0;
}

uint64_t kvh_adapter_busy(const struct kvh_adapter *a)
{
	return a->reads.n + a->writes.n + a->inflight.n;
}

bool kvh_adapter_usable(const struct kvh_adapter *a)
{
	(void)a;
	return true;
}

const struct kvh_l2_caps *kvh_adapter_caps(const struct kvh_adapter *a)
{
	return &a->caps;
}

const char *kvh_adapter_name(const struct kvh_adapter *a)
{
	return a->ops->name;
}

void kvh_adapter_peek(const struct kvh_adapter *a, const struct kvh_key *keys, uint32_t n,
		      uint8_t *found)
{
	uint8_t batch[256];

	if (!a->caps.local_index)
		return;
	for (uint32_t i = 0; i < n; i += 256) {
		uint32_t m = n - i < 256 ? n - i : 256;

		a->ops->peek(a->self, keys + i, m, batch);
		for (uint32_t j = 0; j < m; j++)
			found[i + j] |= batch[j];
	}
}

struct kvh_adapter_counters *kvh_adapter_counters(struct kvh_adapter *a)
{
	return &a->counters;
}
