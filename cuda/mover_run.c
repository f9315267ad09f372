/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_run.c - a run: what the mover knows of a move, from the call to done.
 *
 * Begun and accepted on the caller's thread, broken on the thread that enqueues,
 * ended on the mover's. Runs and page buffers are recycled with their events and
 * memory, so that a mover that has warmed up allocates nothing. They are given
 * back to the system at close only: as many stay as were ever in flight at once.
 */
#include "cuda/mover_impl.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGES_MIN UINT64_C(1024)

static const char *run_state_name(enum kvh_run_state state)
{
	static const char *const names[KVH_RUN_NSTATES] = {
		[KVH_RUN_IDLE] = "idle",     [KVH_RUN_WAITING] = "waiting",
		[KVH_RUN_QUEUED] = "queued", [KVH_RUN_FEEDING] = "feeding",
		[KVH_RUN_FED] = "fed",       [KVH_RUN_BROKEN] = "broken",
		[KVH_RUN_ENDED] = "ended",
	};

	return names[state];
}

void kvh_run_set_state(struct kvh_move_run *run, enum kvh_run_state state)
{
#define TO(s) (1u << KVH_RUN_##s)
	static const unsigned next[KVH_RUN_NSTATES] = {
		[KVH_RUN_IDLE] = TO(WAITING) | TO(QUEUED) | TO(FEEDING),
		[KVH_RUN_WAITING] = TO(QUEUED) | TO(FED) | TO(ENDED) | TO(IDLE),
		[KVH_RUN_QUEUED] = TO(FEEDING) | TO(FED) | TO(ENDED) | TO(IDLE),
		[KVH_RUN_FEEDING] = TO(WAITING) | TO(QUEUED) | TO(FED) | TO(BROKEN) |
				    TO(ENDED) | TO(IDLE),
		[KVH_RUN_FED] = TO(ENDED),
		[KVH_RUN_BROKEN] = TO(ENDED),
		[KVH_RUN_ENDED] = TO(IDLE),
	};
#undef TO

	if (!(next[run->state] & (1u << state))) {
		kvh_err("mover: a run goes from %s to %s", run_state_name(run->state),
			run_state_name(state));
		abort();
	}
	run->state = state;
}

/* ---- page buffers ----------------------------------------------------- */

static void pages_destroy(struct kvh_mover *mover, struct kvh_pages *pages)
{
	if (pages->dev)
		kvh_mover_ops(mover)->mem_free(mover->dev, pages->dev);
	if (pages->host)
		kvh_mover_ops(mover)->host_free(mover->dev, pages->host);
	free(pages);
}

static int pages_new(struct kvh_mover *mover, uint64_t n, struct kvh_pages **pages_p)
{
	struct kvh_pages *pages = calloc(1, sizeof(*pages));
	void *mem;
	int rc;

	if (!pages)
		return -ENOMEM;
	for (pages->cap = PAGES_MIN; pages->cap < n;)
		pages->cap *= 2;
	rc = kvh_mover_ops(mover)->host_alloc(mover->dev, pages->cap * sizeof(uint32_t), &mem);
	if (rc)
		goto err_destroy;
	pages->host = mem;
	rc = kvh_mover_ops(mover)->mem_alloc(mover->dev, pages->cap * sizeof(uint32_t), &mem);
	if (rc)
		goto err_destroy;
	pages->dev = mem;
	*pages_p = pages;
	return 0;

err_destroy:
	pages_destroy(mover, pages);
	return rc;
}

static int pages_get(struct kvh_mover *mover, uint64_t n, struct kvh_pages **pages_p)
{
	struct kvh_pages **at, *pages = NULL;

	pthread_mutex_lock(&mover->lock);
	for (at = &mover->free_pages; *at; at = &(*at)->next) {
		if ((*at)->cap >= n) {
			pages = *at;
			*at = pages->next;
			break;
		}
	}
	pthread_mutex_unlock(&mover->lock);
	if (!pages)
		return pages_new(mover, n, pages_p);
	*pages_p = pages;
	return 0;
}

void kvh_pages_free(struct kvh_mover *mover)
{
	struct kvh_pages *pages;

	while ((pages = mover->free_pages)) {
		mover->free_pages = pages->next;
		pages_destroy(mover, pages);
	}
}

/* ---- runs ------------------------------------------------------------- */

static void run_destroy(struct kvh_move_run *run)
{
	struct kvh_mover *mover = run->lane->mover;
	kvh_event_mark own[3] = {run->order, run->end[0], run->end[1]};

	for (unsigned i = 0; i < 3; i++)
		if (own[i])
			kvh_mover_ops(mover)->event_destroy(mover->dev, own[i]);
	for (uint32_t i = 0; i < run->cap_layers; i++)
		if (run->layers[i].event)
			kvh_mover_ops(mover)->event_destroy(mover->dev, run->layers[i].event);
	free(run->layers);
	free(run->cursor);
	free(run->present);
	free(run);
}

static int run_new(struct kvh_lane *lane, struct kvh_move_run **run_p)
{
	struct kvh_mover *mover = lane->mover;
	struct kvh_move_run *run = calloc(1, sizeof(*run));
	int rc;

	if (!run)
		return -ENOMEM;
	run->lane = lane;
	rc = kvh_mover_ops(mover)->event_create(mover->dev, &run->order);
	for (unsigned i = 0; i < 2 && rc == 0; i++)
		rc = kvh_mover_ops(mover)->event_create(mover->dev, &run->end[i]);
	if (rc) {
		run_destroy(run);
		return rc;
	}
	pthread_mutex_lock(&mover->lock);
	run->next_all = lane->all_runs;
	lane->all_runs = run;
	pthread_mutex_unlock(&mover->lock);
	*run_p = run;
	return 0;
}

static int run_get(struct kvh_lane *lane, struct kvh_move_run **run_p)
{
	struct kvh_move_run *run;

	pthread_mutex_lock(&lane->mover->lock);
	run = lane->free_runs;
	if (run)
		lane->free_runs = run->next;
	pthread_mutex_unlock(&lane->mover->lock);
	if (!run)
		return run_new(lane, run_p);
	*run_p = run;
	return 0;
}

/* Under mover->lock. */
static void run_put_pages(struct kvh_move_run *run)
{
	struct kvh_mover *mover = run->lane->mover;

	if (!run->pages)
		return;
	run->pages->next = mover->free_pages;
	mover->free_pages = run->pages;
	run->pages = NULL;
}

static void run_put(struct kvh_move_run *run)
{
	run_put_pages(run);
	kvh_run_set_state(run, KVH_RUN_IDLE);
	run->move = NULL;
	run->next = run->lane->free_runs;
	run->lane->free_runs = run;
}

void kvh_run_recycle(struct kvh_move_run *run)
{
	struct kvh_mover *mover = run->lane->mover;

	pthread_mutex_lock(&mover->lock);
	run_put(run);
	pthread_mutex_unlock(&mover->lock);
}

void kvh_runs_free(struct kvh_lane *lane)
{
	struct kvh_move_run *run;

	while ((run = lane->all_runs)) {
		lane->all_runs = run->next_all;
		run_destroy(run);
	}
	lane->free_runs = NULL;
}

static void run_reset(struct kvh_move_run *run, struct kvh_move *move)
{
	run->move = move;
	atomic_store(&run->error, 0);
	run->after = run->order;
	run->unended = run->unrecorded = 0;
	run->fed_to = run->feed_to = run->given_to = 0;
	run->grants = NULL;
	run->grants_tail = &run->grants;
	run->cancelled = run->called = run->pages_sent = false;
	run->part = 0;
	run->unit = run->part_page = 0;
	run->sent = run->done = 0;
	run->n_layers = 0;
}

/* Without layers to wait for a store has nothing to wait for. */
static enum kvh_run_state first_state(struct kvh_move_run *run)
{
	const struct kvh_move *move = run->move;

	run->layer_end = 0;
	for (uint32_t p = 0; p < move->n_parts; p++) {
		const struct kvh_plan *plan = move->parts[p].plan->plan;
		uint64_t end = (uint64_t)plan->planes[plan->n_planes - 1].layer + 1;

		if (move->parts[p].n && end > run->layer_end)
			run->layer_end = end;
	}
	if (run->lane->load)
		return KVH_RUN_FEEDING;
	return move->layered && run->layer_end > 0 ? KVH_RUN_WAITING : KVH_RUN_QUEUED;
}

static uint64_t part_pages(const struct kvh_move_part *part)
{
	return (uint64_t)part->n * part->plan->plan->pages_per_chunk;
}

int kvh_run_begin(struct kvh_lane *lane, struct kvh_move *move, struct kvh_move_run **run_p)
{
	struct kvh_move_run *run;
	uint64_t n = 0;
	int rc = run_get(lane, &run);

	if (rc)
		return rc;
	run_reset(run, move);
	kvh_run_set_state(run, first_state(run));
	for (uint32_t p = 0; p < move->n_parts; p++)
		n += part_pages(&move->parts[p]);
	rc = pages_get(lane->mover, n, &run->pages);
	if (rc) {
		kvh_run_recycle(run);
		return rc;
	}
	n = 0;
	for (uint32_t p = 0; p < move->n_parts; p++) {
		const struct kvh_move_part *part = &move->parts[p];

		if (part->n)
			memcpy(run->pages->host + n, part->pages,
			       part_pages(part) * sizeof(uint32_t));
		for (uint32_t i = 0; i < part->n; i++)
			part->status[i] = KVH_PENDING;
		n += part_pages(part);
	}
	*run_p = run;
	return 0;
}

int kvh_run_order_check(const struct kvh_mover *mover, kvh_stream stream, kvh_event_mark event)
{
	int rc;

	if (kvh_mover_ops(mover)->dead(mover->dev))
		return -EIO;
	/* An event of a stream under capture can't be asked for. */
	if (event)
		rc = kvh_mover_ops(mover)->event_query(mover->dev, event);
	else
		rc = kvh_mover_ops(mover)->stream_capturing(mover->dev, stream);
	if (rc < 0)
		return rc;
	return !event && rc > 0 ? -EBUSY : 0;
}

int kvh_run_send_pages(struct kvh_move_run *run)
{
	struct kvh_lane *lane = run->lane;
	struct kvh_mover *mover = lane->mover;
	struct kvh_copy copy = {.dst = run->pages->dev, .src = run->pages->host};

	for (uint32_t p = 0; p < run->move->n_parts; p++)
		copy.bytes += part_pages(&run->move->parts[p]) * sizeof(uint32_t);
	if (copy.bytes == 0)
		return 0;
	return kvh_mover_ops(mover)->copy(mover->dev, KVH_COPY_H2D, &copy, lane->kernel);
}

void kvh_run_accept(struct kvh_move_run *run)
{
	struct kvh_lane *lane = run->lane;
	struct kvh_mover *mover = lane->mover;

	pthread_mutex_lock(&mover->lock);
	run->move->run = run;
	run->move->status = 0;
	run->move->pages_lost = false;
	run->seq = lane->accepted++;
	if (__atomic_load_n(&mover->pulse.waiting_ns, __ATOMIC_RELAXED) == 0)
		kvh_pulse_set(&mover->pulse.waiting_ns, kvh_now_ns());
	TAILQ_INSERT_TAIL(&lane->inbox, run, of_lane);
	pthread_mutex_unlock(&mover->lock);
	kvh_mover_kick(mover);
}

void kvh_run_break(struct kvh_move_run *run, int error)
{
	struct kvh_lane *lane = run->lane;
	struct kvh_mover *mover = lane->mover;
	kvh_stream streams[2] = {lane->kernel, lane->copy};

	kvh_err("mover: a %s could not be enqueued: %s", lane->load ? "load" : "store",
		strerror(-error));
	atomic_store(&run->error, error);
	kvh_run_set_state(run, KVH_RUN_BROKEN);
	run->unended = run->unrecorded = KVH_END_KERNEL | KVH_END_COPY;
	for (unsigned i = 0; i < 2; i++)
		if (kvh_mover_ops(mover)->event_record(mover->dev, run->end[i], streams[i]) ==
		    0)
			run->unrecorded &= ~(1u << i);
}

/* A stream that takes no event can only be waited for: the mover's thread stands
 * still meanwhile, for a device that refuses twice in a row but is not dead. */
static bool end_reached(struct kvh_move_run *run, unsigned i)
{
	struct kvh_lane *lane = run->lane;
	struct kvh_mover *mover = lane->mover;
	kvh_stream stream = i == 0 ? lane->kernel : lane->copy;
	unsigned bit = 1u << i;

	if (!(run->unended & bit))
		return true;
	if (run->unrecorded & bit) {
		if (kvh_mover_ops(mover)->stream_wait(mover->dev, stream))
			return false;
	} else if (kvh_mover_reached(mover, run->end[i], stream) != 1) {
		return false;
	}
	run->unended &= ~bit;
	run->unrecorded &= ~bit;
	return true;
}

bool kvh_run_drained(struct kvh_move_run *run)
{
	return end_reached(run, 0) && end_reached(run, 1);
}

/* ---- the end ---------------------------------------------------------- */

void kvh_run_settle(struct kvh_move_run *run, uint32_t part, uint64_t first, uint64_t end)
{
	const struct kvh_move_part *at = &run->move->parts[part];

	assert(end <= at->n);
	for (uint64_t i = first; i < end; i++)
		at->status[i] = 0;
}

/* What has not arrived: of a store without an error, because it was cancelled. */
static void settle_rest(struct kvh_move_run *run)
{
	struct kvh_move *move = run->move;
	int error = atomic_load(&run->error);

	if (error == 0)
		error = -ECANCELED;
	for (uint32_t p = 0; p < move->n_parts; p++) {
		for (uint32_t i = 0; i < move->parts[p].n; i++) {
			if (move->parts[p].status[i] != KVH_PENDING)
				continue;
			move->parts[p].status[i] = error;
			move->status = error;
		}
	}
}

void kvh_run_end(struct kvh_move_run *run)
{
	struct kvh_lane *lane = run->lane;
	struct kvh_mover *mover = lane->mover;
	struct kvh_move *move = run->move;

	assert(run->done <= run->sent);
	settle_rest(run);
	TAILQ_REMOVE(&lane->active, run, of_lane);
	if (!lane->load && (run->state == KVH_RUN_QUEUED || run->state == KVH_RUN_FEEDING))
		TAILQ_REMOVE(&lane->feed, run, of_feed);
	pthread_mutex_lock(&mover->lock);
	lane->finished++;
	assert(lane->finished <= lane->accepted);
	kvh_run_set_state(run, KVH_RUN_ENDED);
	run_put_pages(run);
	kvh_grants_drop(run);
	if (run->called)
		TAILQ_REMOVE(&lane->calls, run, of_calls);
	if (!lane->load) {
		move->run = NULL;
		run_put(run);
	}
	pthread_mutex_unlock(&mover->lock);
	move->done(move);
}
