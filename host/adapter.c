/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adapter.c - queues, deadlines and write order in front of one L2 adapter. The
 * controller's thread. task.h draws what becomes of a task.
 *
 * Write order (l2.h, rule 7) is kept by `busy`, a counting filter over the keys
 * of writes that are out: a write whose bucket is taken waits, and so does what
 * comes after it in that bucket. A false match only delays. A CLEAR waits for all
 * writes of its space, and all later ones wait for it.
 */
#include "host/adapter_impl.h"
#include "host/arena.h"
#include "host/clock.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define REAP_BATCH 256u

#define TO(state) (1u << KVH_TASK_##state)
static const uint8_t task_next[KVH_TASK_NSTATES] = {
	[KVH_TASK_IDLE] = TO(WAITING) | TO(INFLIGHT),
	[KVH_TASK_WAITING] = TO(INFLIGHT) | TO(IDLE) | TO(OWED),
	[KVH_TASK_INFLIGHT] = TO(LATE) | TO(IDLE),
	[KVH_TASK_LATE] = TO(IDLE),
	[KVH_TASK_OWED] = TO(LATE) | TO(IDLE),
};
#undef TO

static bool is_queued(enum kvh_task_state state)
{
	return state == KVH_TASK_WAITING || state == KVH_TASK_OWED;
}

static struct kvh_fair *queue_of(struct kvh_adapter *a, const struct kvh_l2_task *task)
{
	return kvh_task_is_write(task) ? &a->writes : &a->reads;
}

static struct kvh_task_list *list_of(struct kvh_adapter *a, enum kvh_task_state state)
{
	return state == KVH_TASK_LATE ? &a->late : &a->inflight;
}

/* Out of the queue or the list that it is in; into those of `to`. */
static void task_relink(struct kvh_adapter *a, struct kvh_l2_task *task, enum kvh_task_state to)
{
	struct kvh_fair *queue = queue_of(a, task);
	enum kvh_task_state from = task->state;

	if (is_queued(from) && is_queued(to))
		return;
	if (is_queued(from) && to == KVH_TASK_IDLE)
		kvh_fair_remove(queue, task);
	else if (is_queued(from))
		kvh_fair_sent(queue, task);
	else if (from != KVH_TASK_IDLE)
		kvh_tasks_remove(list_of(a, from), task);
	if (is_queued(to))
		kvh_fair_add(queue, task);
	else if (to != KVH_TASK_IDLE)
		kvh_tasks_add(list_of(a, to), task);
	else if (!is_queued(from) && task->flow != NULL)
		kvh_fair_back(queue, task);
}

/* The one place where a task changes state. */
static void task_move(struct kvh_adapter *a, struct kvh_l2_task *task, enum kvh_task_state to)
{
	enum kvh_task_state from = task->state;

	assert((task_next[from] >> to & 1) != 0);
	task_relink(a, task, to);
	task->state = to;
	if (!kvh_task_erases(task))
		return;
	a->erasing += from == KVH_TASK_IDLE;
	a->erasing -= to == KVH_TASK_IDLE;
	a->owed += to == KVH_TASK_OWED;
	a->owed -= from == KVH_TASK_OWED;
}

/* ---- write order -------------------------------------------------------- */

static uint16_t *busy_bucket(struct kvh_adapter *a, const struct kvh_key *key)
{
	uint64_t h;

	memcpy(&h, key->hash.bytes, sizeof(h));
	h = (h ^ key->space ^ ((uint64_t)key->rank << 20) ^ key->group) *
	    UINT64_C(0x9E3779B97F4A7C15);
	return &a->busy[h >> 52];
}
_Static_assert(KVH_BUSY_BUCKETS == 1u << 12, "busy_bucket takes the top 12 bits");

void kvh_adapter_key_hold(struct kvh_adapter *a, const struct kvh_key *key)
{
	++*busy_bucket(a, key);
}

void kvh_adapter_key_unhold(struct kvh_adapter *a, const struct kvh_key *key)
{
	assert(*busy_bucket(a, key) > 0);
	--*busy_bucket(a, key);
}

/* Of writes to one key; a CLEAR has none. */
static bool has_key(const struct kvh_l2_task *task)
{
	return task->req.op == KVH_L2_PUT || task->req.op == KVH_L2_DELETE;
}

/* ---- ends --------------------------------------------------------------- */

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

/* The end of one that waits, and could not be done. What erases keeps its place,
 * unless there are too many: then it is the caller's word to the user that counts. */
static void give_up(struct kvh_adapter *a, struct kvh_l2_task *task, int status)
{
	if (!kvh_task_erases(task) || a->owed >= KVH_OWED_MAX || a->retired) {
		finish(a, task, status);
		return;
	}
	task_move(a, task, KVH_TASK_OWED);
	task->ended(task, status, false);
}

static void time_out(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	kvh_count(&a->counters.timeouts, 1);
	give_up(a, task, -ETIMEDOUT);
}

static bool refuse_one(void *arg, struct kvh_l2_task *task)
{
	struct kvh_adapter *a = arg;

	if (task->state == KVH_TASK_WAITING) {
		kvh_count(&a->counters.breaker_refused, 1);
		give_up(a, task, -EHOSTDOWN);
	}
	return true;
}

static bool time_out_one(void *arg, struct kvh_l2_task *task)
{
	if (task->state == KVH_TASK_WAITING)
		time_out(arg, task);
	return true;
}

static bool drop_one(void *arg, struct kvh_l2_task *task)
{
	struct kvh_adapter *a = arg;

	if (task->state == KVH_TASK_WAITING) {
		finish(a, task, -ECANCELED);
	} else {
		task_move(a, task, KVH_TASK_IDLE);
		task->returned(task);
	}
	return true;
}

static void each_queued(struct kvh_adapter *a,
			bool (*visit)(void *arg, struct kvh_l2_task *task))
{
	kvh_fair_each(&a->reads, visit, a);
	kvh_fair_each(&a->writes, visit, a);
}

void kvh_adapter_drop_waiting(struct kvh_adapter *a)
{
	/* The end of one may bring another. */
	while (a->reads.n + a->writes.n > 0)
		each_queued(a, drop_one);
}

static void judge(struct kvh_adapter *a, int status)
{
	if (!kvh_breaker_result(&a->breaker, status, a->now_ns))
		return;
	kvh_count(&a->counters.breaker_opened, 1);
	kvh_warn("%s: %u requests in a row have failed, the last: %s; it is left alone for a "
		 "while",
		 a->ops->name, a->breaker.bound, strerror(-status));
}

/* ---- feeding ------------------------------------------------------------ */

uint64_t kvh_adapter_deadline(const struct kvh_adapter *a)
{
	return a->deadline_ns > UINT64_MAX - a->now_ns ? UINT64_MAX
						       : a->now_ns + a->deadline_ns;
}

int kvh_adapter_submit_now(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	int err;

	if (a->self == NULL)
		return -ESHUTDOWN;
	if (a->out.n == a->out.max)
		return -EAGAIN;
	task->req.cancelled = false;
	task->req.region = KVH_L2_NO_REGION;
	if (task->req.buf != NULL && a->arena != NULL) {
		uint32_t piece = kvh_arena_piece_of(a->arena, task->req.buf);

		if (piece != UINT32_MAX)
			task->req.region = a->regions[piece];
	}
	/* Before: the adapter may have ended it by the time it returns. */
	kvh_out_add(&a->out, &task->req);
	err = a->ops->submit(a->self, &task->req);
	if (err != 0) {
		(void)kvh_out_remove(&a->out, &task->req);
		return err;
	}
	if (kvh_task_is_write(task))
		task->deadline_ns = kvh_adapter_deadline(a);
	if (has_key(task))
		kvh_adapter_key_hold(a, &task->req.key);
	if (task->state == KVH_TASK_OWED)
		task_move(a, task, KVH_TASK_LATE);
	else
		task_move(a, task, KVH_TASK_INFLIGHT);
	return 0;
}

static enum kvh_fed feed_one(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	int err;

	if (a->breaker.state != KVH_BREAKER_CLOSED)
		return KVH_FED_FULL; /* opened by the one before */
	err = kvh_adapter_submit_now(a, task);
	if (err == -EAGAIN)
		return KVH_FED_FULL;
	if (err == 0)
		return KVH_FED_TAKEN;
	kvh_err("%s: refused a request of %llu bytes: %s", a->ops->name,
		(unsigned long long)task->req.len, strerror(-err));
	judge(a, err);
	if (task->state == KVH_TASK_OWED) {
		task_move(a, task, KVH_TASK_IDLE);
		task->returned(task);
	} else {
		finish(a, task, err);
	}
	return KVH_FED_TAKEN;
}

static enum kvh_fed feed_read(struct kvh_feeder *feeder, struct kvh_l2_task *task)
{
	return feed_one((struct kvh_adapter *)((char *)feeder -
					       offsetof(struct kvh_adapter, feed_reads)),
			task);
}

static struct kvh_adapter *of_writes(struct kvh_feeder *feeder)
{
	return (struct kvh_adapter *)((char *)feeder -
				      offsetof(struct kvh_adapter, feed_writes));
}

static enum kvh_fed feed_write(struct kvh_feeder *feeder, struct kvh_l2_task *task)
{
	struct kvh_adapter *a = of_writes(feeder);
	struct kvh_flow *flow = task->flow;

	if (flow->clearing)
		return KVH_FED_BLOCKED;
	if (task->req.op == KVH_L2_CLEAR)
		return flow->out == 0 && a->n_skipped == 0 ? feed_one(a, task)
							   : KVH_FED_BLOCKED;
	if (!has_key(task) || *busy_bucket(a, &task->req.key) == 0)
		return feed_one(a, task);
	if (a->n_skipped == KVH_SKIP_MAX)
		return KVH_FED_BLOCKED;
	kvh_adapter_key_hold(a, &task->req.key); /* for those behind it */
	a->skipped[a->n_skipped++] = task;
	return KVH_FED_PASSED;
}

static void reads_over(struct kvh_feeder *feeder)
{
	(void)feeder; /* reads pass nothing over */
}

static void writes_over(struct kvh_feeder *feeder)
{
	struct kvh_adapter *a = of_writes(feeder);

	while (a->n_skipped > 0)
		kvh_adapter_key_unhold(a, &a->skipped[--a->n_skipped]->req.key);
}

static void feed(struct kvh_adapter *a)
{
	bool room = true;

	if (a->breaker.state == KVH_BREAKER_CLOSED && a->reads.n + a->writes.n > 0)
		room = kvh_fair_feed(&a->reads, &a->feed_reads) &&
		       kvh_fair_feed(&a->writes, &a->feed_writes);
	if (a->breaker.state != KVH_BREAKER_CLOSED)
		each_queued(a, refuse_one);
	else if (!room && a->inflight.n == 0 && a->late.n > 0)
		/* Every place in the adapter is taken by a request past its deadline:
		 * what waits would wait for ever. */
		each_queued(a, time_out_one);
}

/* ---- reaping ------------------------------------------------------------ */

void kvh_adapter_refresh_usage(struct kvh_adapter *a)
{
	struct kvh_l2_usage usage = {0};

	a->ops->usage(a->self, &usage);
	kvh_gauge(&a->counters.used_bytes, usage.used_bytes);
	kvh_gauge(&a->counters.capacity_bytes, usage.capacity_bytes);
	kvh_gauge(&a->counters.objects, usage.objects);
}

static void come_back(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	bool late = task->state == KVH_TASK_LATE;

	if (has_key(task))
		kvh_adapter_key_unhold(a, &task->req.key);
	if (!late) {
		judge(a, task->req.status);
		finish(a, task, task->req.status);
		return;
	}
	task_move(a, task, KVH_TASK_IDLE);
	kvh_uncount(&a->metrics->l2_quarantined, task->req.buf != NULL);
	task->returned(task);
}

static void stray(struct kvh_adapter *a)
{
	kvh_count(&a->counters.strays, 1);
	if (kvh_counted(&a->counters.strays) == 1)
		kvh_err("%s: handed back a request that it does not have; ignored, and not "
			"said again",
			a->ops->name);
}

static void reap(struct kvh_adapter *a)
{
	struct kvh_l2_req *done[REAP_BATCH];
	uint32_t n;

	do {
		n = a->ops->reap(a->self, done, REAP_BATCH);
		/* Before anyone hears of an end: who then asks for the status sees it. */
		if (n > 0)
			kvh_adapter_refresh_usage(a);
		for (uint32_t i = 0; i < n; i++) {
			if (kvh_out_remove(&a->out, done[i]))
				come_back(a, (struct kvh_l2_task *)done[i]);
			else
				stray(a);
		}
	} while (n == REAP_BATCH);
}

static void adapter_ready(struct kvh_loop_source *source)
{
	reap((struct kvh_adapter *)((char *)source - offsetof(struct kvh_adapter, source)));
}

/* ---- deadlines ---------------------------------------------------------- */

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
		judge(a, -ETIMEDOUT);
		set_aside(a, task);
	}
}

struct expiry {
	struct kvh_adapter *a;
	uint64_t now_ns;
};

/* In order of submission, so the oldest of a space are in front. */
static bool expire_read(void *arg, struct kvh_l2_task *task)
{
	const struct expiry *e = arg;

	if (task->deadline_ns > e->now_ns)
		return false;
	time_out(e->a, task);
	return true;
}

/* Writes may queue for long, but not behind one that does not come back. */
static bool expire_write(void *arg, struct kvh_l2_task *task)
{
	const struct expiry *e = arg;
	bool blocked = has_key(task) ? *busy_bucket(e->a, &task->req.key) > 0
				     : task->flow->out > 0;

	if (task->state == KVH_TASK_WAITING && task->deadline_ns <= e->now_ns && blocked)
		time_out(e->a, task);
	return true;
}

static void expire(struct kvh_adapter *a, uint64_t now_ns)
{
	struct expiry e = {a, now_ns};

	expire_inflight(a, now_ns);
	kvh_fair_each(&a->reads, expire_read, &e);
	if (a->late.n > 0)
		kvh_fair_each(&a->writes, expire_write, &e);
}

static void show(struct kvh_adapter *a)
{
	kvh_gauge(&a->counters.inflight, a->inflight.n + a->late.n);
	kvh_gauge(&a->counters.waiting, a->reads.n + a->writes.n);
	kvh_gauge(&a->counters.waiting_bytes, a->writes.bytes);
	kvh_gauge(&a->counters.erases_owed, a->owed);
	kvh_gauge(&a->counters.breaker, (uint64_t)a->breaker.state);
}

uint64_t kvh_adapter_tick(struct kvh_adapter *a, uint64_t now_ns)
{
	uint64_t at;

	a->now_ns = now_ns;
	if (a->retired) {
		if (a->reads.n + a->writes.n > 0)
			each_queued(a, refuse_one);
		return UINT64_MAX;
	}
	at = kvh_trial_tick(a, now_ns);

	if (a->reads.n + a->writes.n + a->inflight.n + a->late.n == 0) {
		a->next_sweep_ns = UINT64_MAX;
		show(a);
		return at;
	}
	if (a->next_sweep_ns == UINT64_MAX)
		a->next_sweep_ns = now_ns + KVH_SWEEP_NS;
	if (now_ns >= a->next_sweep_ns) {
		a->next_sweep_ns = now_ns + KVH_SWEEP_NS;
		reap(a); /* a lost wake-up costs a sweep, no more */
		expire(a, now_ns);
	}
	feed(a);
	show(a);
	return at < a->next_sweep_ns ? at : a->next_sweep_ns;
}

/* ---- the owners' side --------------------------------------------------- */

void kvh_adapter_queues_init(struct kvh_adapter *a)
{
	kvh_fair_init(&a->reads);
	kvh_fair_init(&a->writes);
	a->feed_reads = (struct kvh_feeder){feed_read, reads_over};
	a->feed_writes = (struct kvh_feeder){feed_write, writes_over};
	a->source.ready = adapter_ready;
	a->next_sweep_ns = UINT64_MAX;
}

void kvh_adapter_submit(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	task->prev = task->next = NULL;
	task->flow = NULL;
	task->state = KVH_TASK_IDLE;
	task->deadline_ns = kvh_deadline_ns(a->deadline_ns);
	task_move(a, task, KVH_TASK_WAITING); /* fed by the tick that follows this round */
}

void kvh_adapter_cancel(struct kvh_adapter *a, struct kvh_l2_task *task)
{
	if (task->state == KVH_TASK_WAITING) {
		finish(a, task, -ECANCELED);
	} else if (task->state == KVH_TASK_INFLIGHT && !task->req.cancelled && !a->retired) {
		task->req.cancelled = true;
		if (a->ops->cancel != NULL)
			a->ops->cancel(a->self, &task->req);
	}
}

static void push_out(void *arg, struct kvh_l2_task *task)
{
	finish(arg, task, -ENOBUFS);
}

bool kvh_adapter_admit(struct kvh_adapter *a, kvh_space_t space, uint64_t bytes, uint64_t limit)
{
	return kvh_fair_admit(&a->writes, space, bytes, limit, push_out, a);
}

void kvh_adapter_settled(struct kvh_adapter *a, kvh_space_t space, uint64_t bytes)
{
	kvh_fair_settled(&a->writes, space, bytes);
}

void kvh_adapter_end_out(struct kvh_adapter *a, bool closed)
{
	struct kvh_l2_task *task;

	while ((task = a->inflight.head) != NULL) {
		if (!closed) {
			set_aside(a, task);
			continue;
		}
		task->req.status = -ECANCELED;
		(void)kvh_out_remove(&a->out, &task->req);
		come_back(a, task);
	}
	while (closed && (task = a->late.head) != NULL) {
		task->req.status = -ECANCELED;
		(void)kvh_out_remove(&a->out, &task->req);
		come_back(a, task);
	}
}
