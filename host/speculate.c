/* SPDX-License-Identifier: Apache-2.0 */
/*
 * speculate.c - reading ahead: what followed a prefix before is likely to be asked
 * for next. The controller's thread, but for kvh_speculate_after (any).
 *
 * Learnt from stores and prefetches: which chunk followed which, the last one that
 * did, in a table of fixed size. After a prefix was asked for and is there, the
 * chunks that would follow it are read, a few at a time, and only while an adapter
 * has nothing else to do and L1 has room below the watermark at which eviction
 * ends: no load, no store and no frame gives way to a guess.
 *
 *   begun == hits + wasted + those in L1 or being read that nobody has asked for
 */
#include "host/controller_impl.h"
#include "host/frame.h"
#include "host/prefix.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SETS_LOG2 14u /* of the successor table: 2.6 MB in all */
#define WAYS      4u
#define HINTS     64u   /* prefixes asked for that were not looked at yet */
#define TODO      1024u /* keys to read */
#define READS_OUT 4u

struct successor {
	uint64_t parent; /* mixed with its space; 0: empty */
	struct kvh_hash child;
	uint32_t learnt; /* the clock then */
};

struct hint {
	const struct kvh_space *space;
	struct kvh_prefix prefix; /* of the chunk `last` alone */
	struct kvh_hash last;
};

struct guess {
	const struct kvh_space *space;
	struct kvh_key key;
};

struct kvh_speculation {
	struct kvh_controller *c;
	uint32_t clock;
	struct successor *table;

	struct guess todo[TODO]; /* head <= tail <= head + TODO */
	uint64_t head, tail;

	pthread_mutex_t lock; /* of all below */
	struct hint hints[HINTS];
	uint32_t n_hints;
	bool posted;
	struct kvh_loop_work work;
};

/* ---- what followed what -------------------------------------------------- */

static uint64_t mix(kvh_space_t space, const struct kvh_hash *hash)
{
	uint64_t h[2], mixed;

	memcpy(h, hash->bytes, sizeof(h));
	mixed = (h[0] ^ space) * UINT64_C(0x9E3779B97F4A7C15) ^ h[1];
	mixed = (mixed ^ mixed >> 29) * UINT64_C(0xBF58476D1CE4E5B9);
	return mixed != 0 ? mixed : 1;
}

static struct successor *set_of(const struct kvh_speculation *s, uint64_t parent)
{
	return &s->table[(parent >> (64 - SETS_LOG2)) * WAYS];
}

static struct successor *find(const struct kvh_speculation *s, uint64_t parent)
{
	struct successor *set = set_of(s, parent);

	for (uint32_t w = 0; w < WAYS; w++)
		if (set[w].parent == parent)
			return &set[w];
	return NULL;
}

static struct successor *oldest(const struct kvh_speculation *s, uint64_t parent)
{
	struct successor *set = set_of(s, parent), *old = set;

	for (uint32_t w = 0; w < WAYS; w++) {
		if (set[w].parent == 0)
			return &set[w];
		if (s->clock - set[w].learnt > s->clock - old->learnt)
			old = &set[w];
	}
	return old;
}

void kvh_speculate_learn(struct kvh_controller *c, kvh_space_t space,
			 const struct kvh_hash *parent, const struct kvh_hash *child)
{
	static const struct kvh_hash none;
	struct kvh_speculation *s = c->prefetcher.speculation;
	struct successor *entry;
	uint64_t mixed;

	if (s == NULL || memcmp(parent, &none, sizeof(none)) == 0)
		return;
	mixed = mix(space, parent);
	entry = find(s, mixed);
	if (entry == NULL)
		entry = oldest(s, mixed);
	*entry = (struct successor){.parent = mixed, .child = *child, .learnt = ++s->clock};
}

/* ---- what to read ----------------------------------------------------------- */

static void add_guess(struct kvh_speculation *s, const struct kvh_space *space,
		      const struct kvh_key *key)
{
	if (s->tail - s->head == TODO)
		s->head++; /* the oldest guess is the least likely to be of use still */
	s->todo[s->tail++ % TODO] = (struct guess){space, *key};
}

/* All entries of one chunk; of states that of the last one only. */
static void add_chunk(struct kvh_speculation *s, const struct hint *hint,
		      const struct kvh_hash *hash, bool last)
{
	struct kvh_prefix one = hint->prefix;
	struct kvh_walk walk = {0};
	struct kvh_key key;
	uint32_t entry;

	one.hashes = hash;
	one.n_chunks = 1;
	while (kvh_prefix_step(&one, hint->space, KVH_WALK_ALL, &walk, &entry, &key))
		if (last || hint->space->groups[key.group].desc.kind != KVH_GROUP_STATE)
			add_guess(s, hint->space, &key);
}

static void follow(struct kvh_speculation *s, const struct hint *hint)
{
	const struct successor *next = find(s, mix(hint->prefix.space, &hint->last));

	for (uint32_t i = 0; i < s->c->opts.speculate && next != NULL; i++) {
		const struct successor *after = find(s, mix(hint->prefix.space, &next->child));
		bool last = i + 1 == s->c->opts.speculate || after == NULL;

		add_chunk(s, hint, &next->child, last);
		next = after;
	}
}

static void look(struct kvh_loop_work *work)
{
	struct kvh_speculation *s = (struct kvh_speculation *)((char *)work -
							       offsetof(struct kvh_speculation,
									work));
	struct hint hints[HINTS];
	uint32_t n;

	pthread_mutex_lock(&s->lock);
	n = s->n_hints;
	memcpy(hints, s->hints, n * sizeof(hints[0]));
	s->n_hints = 0;
	s->posted = false;
	pthread_mutex_unlock(&s->lock);
	for (uint32_t i = 0; i < n && !s->c->stopping; i++)
		follow(s, &hints[i]);
}

void kvh_speculate_after(struct kvh_controller *c, const struct kvh_prefix *prefix,
			 const struct kvh_space *space)
{
	struct kvh_speculation *s = c->prefetcher.speculation;
	bool posted;

	if (s == NULL)
		return;
	pthread_mutex_lock(&s->lock);
	if (s->n_hints < HINTS)
		s->hints[s->n_hints++] = (struct hint){
			.space = space,
			.prefix = *prefix,
			.last = prefix->hashes[prefix->n_chunks - 1],
		};
	posted = s->posted;
	s->posted = true;
	pthread_mutex_unlock(&s->lock);
	if (!posted) /* under no lock: it wakes who takes that one next */
		kvh_loop_post(c->loop, &s->work);
}

/* ---- reading it --------------------------------------------------------------- */

/* Adapters whose index has it; *idle_p: those of them that do nothing but guesses. */
static uint32_t who_has(const struct kvh_controller *c, const struct kvh_key *key,
			uint32_t *idle_p)
{
	uint32_t having = 0;

	*idle_p = 0;
	for (uint32_t a = 0; a < c->n_adapters; a++) {
		const struct kvh_source *source = &c->prefetcher.sources.at[a];
		uint8_t has = 0;

		if (!kvh_adapter_usable(c->adapters[a]))
			continue;
		kvh_adapter_peek(c->adapters[a], key, 1, &has);
		having |= (uint32_t)has << a;
		if (has && kvh_adapter_busy(c->adapters[a]) <= source->guesses)
			*idle_p |= UINT32_C(1) << a;
	}
	return having;
}

static bool has_room(const struct kvh_controller *c, const struct guess *guess)
{
	uint64_t payload = guess->space->groups[guess->key.group].payload_bytes;
	struct kvh_arena_stats stats;
	uint64_t then;

	kvh_arena_stats(c->opts.arena, &stats);
	then = stats.used_bytes + kvh_frame_bytes(payload);
	return then <= stats.pinned_bytes && then <= kvh_controller_low(c, &stats);
}

/* False: not now. */
static bool try_next(struct kvh_controller *c, struct kvh_speculation *s)
{
	const struct guess *guess = &s->todo[s->head % TODO];
	uint32_t idle, having = who_has(c, &guess->key, &idle);

	if (having != 0 && idle == 0)
		return false;
	s->head++;
	if (having != 0 && has_room(c, guess) &&
	    kvh_fetch_speculate(c, guess->space, &guess->key, idle))
		kvh_count(&c->opts.metrics->speculation_begun, 1);
	return true;
}

void kvh_speculate_tick(struct kvh_controller *c)
{
	struct kvh_prefetcher *f = &c->prefetcher;
	struct kvh_speculation *s = f->speculation;

	if (s == NULL || c->stopping)
		return;
	while (s->head != s->tail && kvh_source_guesses(&f->sources) < READS_OUT &&
	       TAILQ_EMPTY(&f->ready) && TAILQ_EMPTY(&f->blocked))
		if (!try_next(c, s))
			return;
}

/* ---- opening and closing -------------------------------------------------------- */

int kvh_speculation_open(struct kvh_controller *c)
{
	struct kvh_speculation *s;

	if (c->opts.speculate == 0)
		return 0;
	s = calloc(1, sizeof(*s));
	if (s == NULL)
		return -ENOMEM;
	s->table = calloc((size_t)WAYS << SETS_LOG2, sizeof(s->table[0]));
	if (s->table == NULL) {
		free(s);
		return -ENOMEM;
	}
	s->c = c;
	s->work.run = look;
	pthread_mutex_init(&s->lock, NULL);
	c->prefetcher.speculation = s;
	return 0;
}

void kvh_speculation_close(struct kvh_controller *c)
{
	struct kvh_speculation *s = c->prefetcher.speculation;

	if (s == NULL)
		return;
	pthread_mutex_destroy(&s->lock);
	free(s->table);
	free(s);
}
