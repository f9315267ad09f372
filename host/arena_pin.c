/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_pin.c - touches and registers the pieces of an arena: on threads of its own,
 * and on the opener's where it waits for all of it. A thread takes the next thing to
 * do under arena->lock, does it without, and sleeps while there is nothing for it; the
 * last one to leave cleans up.
 *
 * Limit: touching memory that the machine has not got can't be refused, the kernel
 * kills for it. Room is asked for before each piece, so that this takes somebody
 * else who grabs as much in the same moment.
 */
#include "host/arena_impl.h"

#include "host/log.h"
#include "host/spin.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Of a piece, touched by one thread: small enough for all to work on the first piece
 * and for a close not to wait, large enough for the lock not to count. */
#define PART_BYTES   (UINT64_C(16) << 20)
#define TOUCH_STRIDE 4096u
/* A registration walks the pages, which several can do at once, and then tells the
 * driver, which it does for one at a time: with two one of each is under way, and the
 * other threads touch. */
#define REGISTER_THREADS 2u

#define TO(s) (1u << KVH_PIECE_##s)
static const uint8_t piece_next[KVH_PIECE_STATES] = {
	[KVH_PIECE_WANTED] = TO(TOUCHING),
	[KVH_PIECE_TOUCHING] = TO(TOUCHED) | TO(LOST),
	[KVH_PIECE_TOUCHED] = TO(REGISTERING),
	[KVH_PIECE_REGISTERING] = TO(PINNED) | TO(LOST),
};
#undef TO

static void piece_move(struct kvh_arena *arena, uint32_t piece, enum kvh_piece_state to)
{
	assert((piece_next[arena->pin.states[piece]] >> to & 1) != 0);
	arena->pin.states[piece] = (uint8_t)to;
}

/* Something to do: a part to touch, or, with no bytes, the piece to register. */
struct job {
	uint32_t piece;
	unsigned char *from;
	uint64_t bytes;
	bool first; /* part of its piece */
	/* out */
	int error;
	char why[sizeof(((struct kvh_pin *)NULL)->why)];
};

/* ---- under the lock ----------------------------------------------------- */

static void tell(struct kvh_arena *arena)
{
	if (arena->pin.watcher != NULL)
		arena->pin.watcher(arena->pin.watcher_arg);
}

/* Whatever is PINNED without a gap serves from now on. */
static void publish(struct kvh_arena *arena)
{
	uint32_t n = arena->n_pinned;

	while (n < arena->map.n_pieces && arena->pin.states[n] == KVH_PIECE_PINNED) {
		kvh_slab_piece_add(arena, n);
		__atomic_store_n(&arena->pinned_bytes,
				 arena->pinned_bytes + arena->map.pieces[n].bytes,
				 __ATOMIC_RELAXED);
		__atomic_store_n(&arena->n_pinned, ++n, __ATOMIC_RELEASE);
	}
}

/* Pieces are registered in rising order, as they serve. The first has the driver for
 * itself: somebody waits for it. */
static bool may_register(const struct kvh_arena *arena)
{
	const struct kvh_pin *pin = &arena->pin;

	return pin->register_piece < arena->map.n_pieces &&
	       pin->states[pin->register_piece] == KVH_PIECE_TOUCHED &&
	       pin->registering < (arena->n_pinned > 0 ? pin->register_max : 1);
}

static bool is_over(const struct kvh_arena *arena)
{
	const struct kvh_pin *pin = &arena->pin;

	return pin->stop || pin->error != 0 || pin->register_piece == arena->map.n_pieces;
}

/* False: nothing for this thread right now. */
static bool take(struct kvh_arena *arena, struct job *job)
{
	struct kvh_pin *pin = &arena->pin;
	const struct kvh_arena_piece *piece;

	job->bytes = 0;
	if (may_register(arena)) {
		job->piece = pin->register_piece++;
		piece_move(arena, job->piece, KVH_PIECE_REGISTERING);
		pin->registering++;
		return true;
	}
	if (pin->touch_piece == arena->map.n_pieces)
		return false;
	job->piece = pin->touch_piece;
	piece = &arena->map.pieces[job->piece];
	job->from = (unsigned char *)piece->base + pin->touch_at;
	job->bytes = piece->bytes - pin->touch_at;
	job->bytes = job->bytes < PART_BYTES ? job->bytes : PART_BYTES;
	job->first = pin->touch_at == 0;
	if (job->first)
		piece_move(arena, job->piece, KVH_PIECE_TOUCHING);
	pin->touch_at += job->bytes;
	if (pin->touch_at == piece->bytes) {
		pin->touch_at = 0;
		pin->touch_piece++;
	}
	return true;
}

static void lose(struct kvh_arena *arena, const struct job *job)
{
	struct kvh_pin *pin = &arena->pin;

	piece_move(arena, job->piece, KVH_PIECE_LOST);
	if (pin->error != 0)
		return;
	pin->lost = job->piece;
	memcpy(pin->why, job->why, sizeof(pin->why));
	__atomic_store_n(&pin->error, job->error, __ATOMIC_RELAXED);
}

static void settle(struct kvh_arena *arena, const struct job *job)
{
	struct kvh_pin *pin = &arena->pin;
	bool registered = job->bytes == 0;

	if (registered)
		pin->registering--;
	else if (--pin->parts[job->piece] > 0 && job->error == 0)
		return;
	if (pin->states[job->piece] == KVH_PIECE_LOST)
		return; /* by another part of it */
	if (job->error != 0) {
		lose(arena, job);
	} else if (registered) {
		piece_move(arena, job->piece, KVH_PIECE_PINNED);
		publish(arena);
	} else {
		piece_move(arena, job->piece, KVH_PIECE_TOUCHED);
	}
	(void)pthread_cond_broadcast(&pin->changed);
	if (registered && job->error == 0)
		tell(arena);
}

/* ---- without ------------------------------------------------------------ */

static void check_room(const struct kvh_arena *arena, struct job *job)
{
	const char *of;
	uint64_t room;

	job->error = kvh_arena_map_room(&arena->map, job->piece, &of, &room);
	if (job->error != 0)
		(void)snprintf(job->why, sizeof(job->why), "%s has room for %" PRIu64, of,
			       room);
}

/* The first touch makes the kernel find and clear each page: by far the longest
 * part of pinning, and it scales with cores. */
static void touch(const struct job *job)
{
	/* Volatile: a store to fresh memory of zero is otherwise no store. */
	for (volatile unsigned char *p = job->from; p < job->from + job->bytes;
	     p += TOUCH_STRIDE)
		*p = 0;
}

static void register_piece(const struct kvh_arena *arena, struct job *job)
{
	struct rlimit limit = {0};

	job->error = kvh_arena_map_register(&arena->map, job->piece);
	if (job->error == 0)
		return;
	(void)getrlimit(RLIMIT_MEMLOCK, &limit);
	(void)snprintf(job->why, sizeof(job->why),
		       "%s; RLIMIT_MEMLOCK is %" PRIu64 " bytes (ulimit -l)",
		       strerror(-job->error), (uint64_t)limit.rlim_cur);
}

static void run_job(const struct kvh_arena *arena, struct job *job)
{
	job->error = 0;
	if (job->bytes == 0) {
		register_piece(arena, job);
		return;
	}
	if (job->first && job->piece > 0) /* of the first one, open has asked */
		check_room(arena, job);
	if (job->error == 0)
		touch(job);
}

/* What is pinned behind a gap serves nobody. The last to leave: nobody else is here. */
static void give_back(struct kvh_arena *arena)
{
	for (uint32_t i = arena->n_pinned; i < arena->map.n_pieces; i++) {
		if (arena->pin.states[i] == KVH_PIECE_PINNED)
			kvh_arena_map_unregister(&arena->map, i);
		kvh_arena_map_drop(&arena->map, i);
	}
}

static void log_lost(const struct kvh_arena *arena)
{
	const struct kvh_pin *pin = &arena->pin;

	kvh_err("L1: piece %" PRIu32 " of %" PRIu32 ", %" PRIu64
		" bytes, is not pinned: %s. %" PRIu64 " of %" PRIu64 " bytes are",
		pin->lost + 1, arena->map.n_pieces, arena->map.pieces[pin->lost].bytes,
		pin->why, arena->pinned_bytes, arena->map.bytes);
}

static void end(struct kvh_arena *arena)
{
	bool whole = arena->n_pinned == arena->map.n_pieces;

	if (!whole)
		give_back(arena);
	if (arena->pin.error != 0)
		log_lost(arena);
	else if (whole)
		kvh_info("L1: all of %" PRIu64 " bytes is pinned, after %" PRIu64 " ms",
			 arena->map.bytes,
			 (kvh_now_ns() - arena->pin.began_ns) / KVH_NS_PER_MS);
	kvh_spin_lock(&arena->lock);
	__atomic_store_n(&arena->missing_bytes, arena->map.bytes - arena->pinned_bytes,
			 __ATOMIC_RELAXED);
	__atomic_store_n(&arena->pinning, false, __ATOMIC_RELAXED);
	arena->pin.ended = true;
	(void)pthread_cond_broadcast(&arena->pin.changed);
	tell(arena);
	pthread_mutex_unlock(&arena->lock);
}

/* Of the opener, or of one thread, that was counted in. */
static void leave(struct kvh_arena *arena)
{
	bool last;

	kvh_spin_lock(&arena->lock);
	last = --arena->pin.working == 0;
	pthread_mutex_unlock(&arena->lock);
	if (last)
		end(arena);
}

static void work(struct kvh_arena *arena)
{
	struct job job;

	kvh_spin_lock(&arena->lock);
	while (!is_over(arena)) {
		/* Alone one always has something: it waits for no one. */
		if (!take(arena, &job)) {
			(void)kvh_cond_wait(&arena->pin.changed, &arena->lock, UINT64_MAX);
			continue;
		}
		pthread_mutex_unlock(&arena->lock);
		run_job(arena, &job);
		kvh_spin_lock(&arena->lock);
		settle(arena, &job);
	}
	pthread_mutex_unlock(&arena->lock);
}

static enum kvh_round pin_round(void *arg, enum kvh_wake wake)
{
	(void)wake;
	work(arg);
	leave(arg);
	return KVH_ROUND_END;
}

/* ---- open, close -------------------------------------------------------- */

static uint32_t count_threads(uint32_t asked)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	uint32_t n = asked != 0 ? asked : cores > 0 ? (uint32_t)cores : 1;

	return n < KVH_PIN_THREADS_MAX ? n : KVH_PIN_THREADS_MAX;
}

/* As many as can be had, up to n. */
static void start_threads(struct kvh_arena *arena, uint32_t n)
{
	struct kvh_pin *pin = &arena->pin;

	for (; pin->n_threads < n; pin->n_threads++) {
		struct kvh_thread *thread = &pin->threads[pin->n_threads];

		*thread = (struct kvh_thread){
			.name = "kvh-pin", .round = pin_round, .arg = arena};
		kvh_spin_lock(&arena->lock);
		pin->working++;
		pthread_mutex_unlock(&arena->lock);
		if (kvh_thread_start(thread) != 0) {
			kvh_spin_lock(&arena->lock);
			pin->working--; /* not to 0: the opener counts */
			pthread_mutex_unlock(&arena->lock);
			return;
		}
	}
}

static int make_tables(struct kvh_arena *arena, const struct kvh_arena_opts *opts)
{
	struct kvh_pin *pin = &arena->pin;
	uint32_t n = arena->map.n_pieces;

	pin->states = calloc(n, sizeof(*pin->states));
	pin->parts = calloc(n, sizeof(*pin->parts));
	if (pin->states == NULL || pin->parts == NULL) {
		kvh_err("L1: no memory for the tables of %" PRIu32 " pieces", n);
		free(pin->states);
		free(pin->parts);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n; i++)
		pin->parts[i] = (uint32_t)((arena->map.pieces[i].bytes + PART_BYTES - 1) /
					   PART_BYTES);
	pin->register_max = opts->register_threads != 0 ? opts->register_threads
							: REGISTER_THREADS;
	kvh_cond_init(&pin->changed);
	return 0;
}

static void join_threads(struct kvh_arena *arena)
{
	for (uint32_t i = 0; i < arena->pin.n_threads; i++)
		kvh_thread_join(&arena->pin.threads[i]);
	arena->pin.n_threads = 0;
}

/* Addresses without memory serve at once. */
static void pin_nothing(struct kvh_arena *arena)
{
	memset(arena->pin.states, KVH_PIECE_PINNED, arena->map.n_pieces);
	publish(arena);
	arena->pin.ended = true;
}

static void pin_pieces(struct kvh_arena *arena, const struct kvh_arena_opts *opts)
{
	struct kvh_pin *pin = &arena->pin;
	/* A simulation has one thread, and is the same on any machine. */
	uint32_t n = kvh_simulated() ? 1 : count_threads(opts->touch_threads);
	bool early = opts->early && arena->map.n_pieces > 1 && !kvh_simulated();

	pin->began_ns = kvh_now_ns();
	arena->pinning = true;
	pin->working = 1;
	start_threads(arena, early ? n : n - 1);
	early = early && pin->n_threads > 0;
	if (!early)
		work(arena);
	leave(arena);
	if (!early) {
		join_threads(arena);
		return;
	}
	kvh_spin_lock(&arena->lock);
	while (arena->n_pinned == 0 && !pin->ended)
		(void)kvh_cond_wait(&pin->changed, &arena->lock, UINT64_MAX);
	pthread_mutex_unlock(&arena->lock);
}

int kvh_pin_open(struct kvh_arena *arena, const struct kvh_arena_opts *opts)
{
	bool failed;
	int rc = make_tables(arena, opts);

	if (rc != 0)
		return rc;
	if (arena->map.unpinned)
		pin_nothing(arena);
	else
		pin_pieces(arena, opts);
	kvh_spin_lock(&arena->lock);
	failed = arena->n_pinned < (opts->early ? 1 : arena->map.n_pieces);
	pthread_mutex_unlock(&arena->lock);
	if (!failed)
		return 0;
	kvh_pin_close(arena, false);
	return -ENOMEM;
}

void kvh_pin_close(struct kvh_arena *arena, bool leak)
{
	kvh_spin_lock(&arena->lock);
	arena->pin.stop = true;
	(void)pthread_cond_broadcast(&arena->pin.changed);
	pthread_mutex_unlock(&arena->lock);
	join_threads(arena);
	assert(arena->pin.ended);
	for (uint32_t i = arena->n_pinned; i-- > 0 && !leak && !arena->map.unpinned;)
		kvh_arena_map_unregister(&arena->map, i);
	(void)pthread_cond_destroy(&arena->pin.changed);
	free(arena->pin.states);
	free(arena->pin.parts);
}

void kvh_arena_pinned_wait(struct kvh_arena *arena)
{
	kvh_spin_lock(&arena->lock);
	while (!arena->pin.ended)
		(void)kvh_cond_wait(&arena->pin.changed, &arena->lock, UINT64_MAX);
	pthread_mutex_unlock(&arena->lock);
}

void kvh_arena_watch(struct kvh_arena *arena, void (*changed)(void *arg), void *arg)
{
	kvh_spin_lock(&arena->lock);
	arena->pin.watcher = changed;
	arena->pin.watcher_arg = arg;
	pthread_mutex_unlock(&arena->lock);
}
