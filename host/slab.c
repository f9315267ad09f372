/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slab.c - granules into slabs, slabs into frames. Called under the arena's
 * lock. First fit in rising addresses at every level.
 */
#include "host/arena_impl.h"
#include "host/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A slab is as small as wastes at most 1 / WASTE_PART of it, but for this cap,
 * in granules and as a part of the arena: large slabs seldom become empty, and
 * only empty ones can change size. */
#define WASTE_PART       64u
#define SLAB_GRANULES    64u
#define SLAB_ARENA_PART  4u
#define SLAB_FRAMES_PART 4u /* ... or of so many frames' granules, if those are more */

int kvh_slab_tables_open(struct kvh_arena *arena)
{
	const struct kvh_arena_map *map = &arena->map;
	uint32_t n = (uint32_t)(map->span / KVH_GRANULE_BYTES);

	arena->n_granules = n;
	arena->slab_of = malloc(n * sizeof(*arena->slab_of));
	arena->slabs = calloc(n, sizeof(*arena->slabs));
	arena->bits = calloc((size_t)n * KVH_GRANULE_WORDS, sizeof(*arena->bits));
	arena->free_granules = calloc(map->n_pieces, sizeof(*arena->free_granules));
	if (arena->slab_of == NULL || arena->slabs == NULL || arena->bits == NULL ||
	    arena->free_granules == NULL) {
		kvh_err("L1: no memory for the tables of %" PRIu32 " granules", n);
		kvh_slab_tables_close(arena);
		return -ENOMEM;
	}
	memset(arena->slab_of, 0xFF, n * sizeof(*arena->slab_of));
	return 0;
}

void kvh_slab_piece_add(struct kvh_arena *arena, uint32_t piece)
{
	assert(piece == arena->n_pinned && arena->free_granules[piece] == 0);
	arena->free_granules[piece] = (uint32_t)(arena->map.pieces[piece].bytes /
						 KVH_GRANULE_BYTES);
}

void kvh_slab_tables_close(struct kvh_arena *arena)
{
	for (uint32_t i = 0; i < arena->n_classes; i++)
		free(arena->classes[i].partial);
	free(arena->classes);
	free(arena->free_granules);
	free(arena->bits);
	free(arena->slabs);
	free(arena->slab_of);
}

/* ---- pieces ------------------------------------------------------------- */

static uint32_t piece_granules(const struct kvh_arena *arena)
{
	return (uint32_t)(arena->map.stride / KVH_GRANULE_BYTES);
}

static uint32_t piece_of_granule(const struct kvh_arena *arena, uint32_t granule)
{
	return granule / piece_granules(arena);
}

static bool is_on(const struct kvh_arena *arena, uint32_t piece, int node)
{
	return node == KVH_NODE_ANY || arena->map.pieces[piece].node == node;
}

/* ---- sizes -------------------------------------------------------------- */

/* Granules of the slab that wastes little, among those of at most `most`. */
static uint32_t choose_granules(uint32_t pages, uint32_t most)
{
	uint32_t least = (pages + KVH_GRANULE_PAGES - 1) / KVH_GRANULE_PAGES;
	uint32_t best = least;
	uint64_t best_waste = UINT64_MAX; /* pages * 2^20 / pages of the slab */

	for (uint32_t g = least; g <= most; g++) {
		uint64_t all = (uint64_t)g * KVH_GRANULE_PAGES;
		uint64_t waste = (all % pages << 20) / all;

		if (waste < best_waste) {
			best_waste = waste;
			best = g;
		}
		if (all % pages * WASTE_PART <= all)
			break;
	}
	return best;
}

static uint32_t slab_granules_max(const struct kvh_arena *arena, uint32_t pages)
{
	uint32_t piece = (uint32_t)(arena->map.pieces[0].bytes / KVH_GRANULE_BYTES);
	uint32_t least = (pages + KVH_GRANULE_PAGES - 1) / KVH_GRANULE_PAGES;
	uint32_t most = least * SLAB_FRAMES_PART;
	uint64_t part = arena->map.bytes / KVH_GRANULE_BYTES / SLAB_ARENA_PART;

	most = most > SLAB_GRANULES ? most : SLAB_GRANULES;
	most = most < part ? most : (uint32_t)part;
	most = most < piece ? most : piece;
	return most > least ? most : least;
}

static struct kvh_size_class *class_add(struct kvh_arena *arena)
{
	struct kvh_size_class *classes;
	uint64_t *partial = calloc((arena->n_granules + 63) / 64, sizeof(*partial));

	if (partial == NULL)
		return NULL;
	classes = realloc(arena->classes, (arena->n_classes + 1) * sizeof(*classes));
	if (classes == NULL) {
		free(partial);
		return NULL;
	}
	arena->classes = classes;
	classes[arena->n_classes] = (struct kvh_size_class){.partial = partial};
	return &classes[arena->n_classes++];
}

/* There are as many as sizes with a slab, at most; a run over them is short
 * since sizes come from the groups of spaces, not from single chunks. */
struct kvh_size_class *kvh_class_get(struct kvh_arena *arena, uint32_t pages)
{
	struct kvh_size_class *sizes = NULL;

	for (uint32_t i = 0; i < arena->n_classes; i++) {
		if (arena->classes[i].pages == pages)
			return &arena->classes[i];
		if (arena->classes[i].n_slabs == 0)
			sizes = &arena->classes[i]; /* of a size that is gone */
	}
	if (sizes == NULL)
		sizes = class_add(arena);
	if (sizes == NULL)
		return NULL;
	sizes->pages = pages;
	sizes->granules = choose_granules(pages, slab_granules_max(arena, pages));
	sizes->lowest = 0;
	return sizes;
}

static struct kvh_size_class *class_of(struct kvh_arena *arena, uint32_t slab)
{
	struct kvh_size_class *sizes = kvh_class_get(arena, arena->slabs[slab].pages);

	assert(sizes != NULL && sizes->n_slabs > 0);
	return sizes;
}

static uint32_t class_next(struct kvh_arena *arena, struct kvh_size_class *sizes, uint32_t from)
{
	uint32_t at = from > sizes->lowest ? from : sizes->lowest;

	if (sizes->n_partial == 0)
		return KVH_SLAB_NONE;
	while (at < arena->n_granules) {
		uint64_t word = sizes->partial[at / 64] >> (at % 64);

		if (word != 0) {
			at += (uint32_t)__builtin_ctzll(word);
			sizes->lowest = from <= sizes->lowest ? at : sizes->lowest;
			return at;
		}
		at = (at / 64 + 1) * 64;
	}
	return KVH_SLAB_NONE;
}

uint32_t kvh_class_next(struct kvh_arena *arena, struct kvh_size_class *sizes, uint32_t from,
			int node)
{
	for (;;) {
		uint32_t at = class_next(arena, sizes, from);
		uint32_t piece;

		if (at == KVH_SLAB_NONE || node == KVH_NODE_ANY)
			return at;
		piece = piece_of_granule(arena, at);
		if (is_on(arena, piece, node))
			return at;
		do /* not slab by slab over what lies elsewhere */
			piece++;
		while (piece < arena->n_pinned && !is_on(arena, piece, node));
		if (piece == arena->n_pinned)
			return KVH_SLAB_NONE;
		from = piece * piece_granules(arena);
	}
}

static void set_partial(struct kvh_size_class *sizes, uint32_t slab, bool partial)
{
	uint64_t bit = UINT64_C(1) << (slab % 64);

	assert(((sizes->partial[slab / 64] & bit) != 0) != partial);
	sizes->partial[slab / 64] ^= bit;
	if (partial) {
		sizes->n_partial++;
		sizes->lowest = slab < sizes->lowest ? slab : sizes->lowest;
	} else {
		sizes->n_partial--;
	}
}

/* ---- granules ----------------------------------------------------------- */

/* The first run of `want` free granules in a piece; *longest_p grows to the
 * longest run that was seen, if none is long enough. */
static uint32_t piece_run(const struct kvh_arena *arena, uint32_t piece, uint32_t want,
			  uint32_t *longest_p)
{
	uint32_t at = piece * piece_granules(arena);
	uint32_t end = at + (uint32_t)(arena->map.pieces[piece].bytes / KVH_GRANULE_BYTES);
	uint32_t run = 0;

	while (at < end) {
		uint32_t slab = arena->slab_of[at];

		if (slab != KVH_SLAB_NONE) {
			at = slab + arena->slabs[slab].granules;
			run = 0;
			continue;
		}
		at++;
		run++;
		*longest_p = run > *longest_p ? run : *longest_p;
		if (run == want)
			return at - run;
	}
	return KVH_SLAB_NONE;
}

static uint32_t arena_run(const struct kvh_arena *arena, uint32_t want, int node,
			  uint32_t *longest_p)
{
	*longest_p = 0;
	for (uint32_t i = 0; i < arena->n_pinned; i++) {
		uint32_t at;

		if (!is_on(arena, i, node) || arena->free_granules[i] <= *longest_p)
			continue; /* neither enough nor longer than what was seen */
		at = piece_run(arena, i, want, longest_p);
		if (at != KVH_SLAB_NONE)
			return at;
	}
	return KVH_SLAB_NONE;
}

/* ---- slabs -------------------------------------------------------------- */

static void set_bits(uint64_t *bits, uint32_t first, uint32_t n, bool set)
{
	for (uint32_t i = first; i < first + n;) {
		uint32_t in_word = 64 - i % 64;
		uint32_t len = first + n - i < in_word ? first + n - i : in_word;
		uint64_t mask = (len == 64 ? UINT64_MAX : (UINT64_C(1) << len) - 1) << (i % 64);

		assert((bits[i / 64] & mask) == (set ? 0 : mask));
		bits[i / 64] = set ? bits[i / 64] | mask : bits[i / 64] & ~mask;
		i += len;
	}
}

static uint64_t *slab_bits(const struct kvh_arena *arena, uint32_t slab)
{
	return arena->bits + (uint64_t)slab * KVH_GRANULE_WORDS;
}

static void slab_start(struct kvh_arena *arena, struct kvh_size_class *sizes, uint32_t slab,
		       uint32_t granules)
{
	uint32_t n = granules * KVH_GRANULE_PAGES / sizes->pages;

	arena->slabs[slab] = (struct kvh_slab){
		.granules = granules,
		.pages = sizes->pages,
		.n_frames = n,
		.n_free = n,
	};
	for (uint32_t i = 0; i < granules; i++)
		arena->slab_of[slab + i] = slab;
	set_bits(slab_bits(arena, slab), 0, n, true);
	arena->free_granules[piece_of_granule(arena, slab)] -= granules;
	__atomic_store_n(&arena->slab_granules, arena->slab_granules + granules,
			 __ATOMIC_RELAXED);
	sizes->n_slabs++;
	set_partial(sizes, slab, true);
}

uint32_t kvh_slab_make(struct kvh_arena *arena, struct kvh_size_class *sizes, int node)
{
	uint32_t least = (sizes->pages + KVH_GRANULE_PAGES - 1) / KVH_GRANULE_PAGES;
	uint32_t granules = sizes->granules;
	uint32_t longest, slab;

	slab = arena_run(arena, granules, node, &longest);
	if (slab == KVH_SLAB_NONE) {
		if (longest < least)
			return KVH_SLAB_NONE;
		/* Memory is short: rather a slab that wastes more than none. */
		granules = choose_granules(sizes->pages, longest);
		slab = arena_run(arena, granules, node, &longest);
		assert(slab != KVH_SLAB_NONE);
	}
	slab_start(arena, sizes, slab, granules);
	return slab;
}

static void slab_end(struct kvh_arena *arena, struct kvh_size_class *sizes, uint32_t slab)
{
	struct kvh_slab *s = &arena->slabs[slab];

	set_partial(sizes, slab, false);
	set_bits(slab_bits(arena, slab), 0, s->n_frames, false);
	for (uint32_t i = 0; i < s->granules; i++)
		arena->slab_of[slab + i] = KVH_SLAB_NONE;
	arena->free_granules[piece_of_granule(arena, slab)] += s->granules;
	__atomic_store_n(&arena->slab_granules, arena->slab_granules - s->granules,
			 __ATOMIC_RELAXED);
	sizes->n_slabs--;
	*s = (struct kvh_slab){0};
}

void kvh_slab_take(struct kvh_arena *arena, uint32_t slab, uint32_t first, uint32_t n)
{
	struct kvh_slab *s = &arena->slabs[slab];

	assert(n > 0 && n <= s->n_free);
	set_bits(slab_bits(arena, slab), first, n, false);
	s->n_free -= n;
	if (s->n_free == 0)
		set_partial(class_of(arena, slab), slab, false);
}

void kvh_slab_give(struct kvh_arena *arena, uint32_t slab, uint32_t number)
{
	struct kvh_slab *s = &arena->slabs[slab];
	struct kvh_size_class *sizes;

	set_bits(slab_bits(arena, slab), number, 1, true);
	s->n_free++;
	if (s->n_free > 1 && s->n_free < s->n_frames)
		return;
	sizes = class_of(arena, slab);
	if (s->n_free == 1)
		set_partial(sizes, slab, true);
	if (s->n_free == s->n_frames)
		slab_end(arena, sizes, slab);
}

uint32_t kvh_slab_run(const struct kvh_arena *arena, uint32_t slab, uint32_t n,
		      uint32_t *first_p)
{
	const uint64_t *bits = slab_bits(arena, slab);
	uint32_t end = arena->slabs[slab].n_frames;
	uint32_t run = 0;

	for (uint32_t i = 0; i < end;) {
		uint64_t word = bits[i / 64] >> (i % 64);
		uint32_t left = 64 - i % 64, len;

		if ((word & 1) == 0) { /* over what is taken, to the next free one */
			len = word == 0 ? left : (uint32_t)__builtin_ctzll(word);
			run = 0;
		} else {
			len = ~word == 0 ? 64 : (uint32_t)__builtin_ctzll(~word);
			len = len < left ? len : left;
			run += len;
		}
		i += len;
		if (run >= n) {
			*first_p = i - run;
			return n;
		}
	}
	return 0;
}

/* ---- invariants --------------------------------------------------------- */

static bool slab_check(const struct kvh_arena *arena, uint32_t slab)
{
	const struct kvh_slab *s = &arena->slabs[slab];
	uint32_t free_frames = 0;

	for (uint32_t i = 0; i < s->granules; i++)
		if (arena->slab_of[slab + i] != slab)
			return false;
	for (uint32_t i = 0; i < s->n_frames; i++)
		free_frames += kvh_slab_is_free(arena, slab, i);
	return s->n_frames > 0 && free_frames == s->n_free && s->n_free < s->n_frames &&
	       (uint64_t)s->n_frames * s->pages <= (uint64_t)s->granules * KVH_GRANULE_PAGES;
}

static bool class_check(struct kvh_arena *arena, struct kvh_size_class *sizes)
{
	uint32_t partial = 0, slabs = 0;

	for (uint32_t g = 0; g < arena->n_granules; g++) {
		const struct kvh_slab *s = &arena->slabs[g];
		bool here = s->granules > 0 && s->pages == sizes->pages;
		bool bit = (sizes->partial[g / 64] >> (g % 64) & 1) != 0;

		if (bit != (here && s->n_free > 0) || (bit && g < sizes->lowest))
			return false;
		partial += bit;
		slabs += here;
	}
	return partial == sizes->n_partial && slabs == sizes->n_slabs;
}

static const char *arena_fault(struct kvh_arena *arena)
{
	uint64_t used = 0, frames = 0, in_slabs = 0, free_granules = 0, pinned = 0;

	for (uint32_t g = 0; g < arena->n_granules; g++) {
		const struct kvh_slab *s = &arena->slabs[g];

		if (s->granules == 0)
			continue;
		if (!slab_check(arena, g))
			return "a slab contradicts itself";
		frames += s->n_frames - s->n_free;
		used += (uint64_t)(s->n_frames - s->n_free) * s->pages * KVH_PAGE_BYTES;
		in_slabs += s->granules;
	}
	for (uint32_t i = 0; i < arena->map.n_pieces; i++) {
		free_granules += arena->free_granules[i];
		pinned += i < arena->n_pinned ? arena->map.pieces[i].bytes : 0;
	}
	for (uint32_t i = 0; i < arena->n_classes; i++)
		if (!class_check(arena, &arena->classes[i]))
			return "a size's slabs are not those there are";
	if (used != arena->used_bytes || frames != arena->frames)
		return "used_bytes != sum of the frames handed out";
	if (in_slabs != arena->slab_granules ||
	    (free_granules + in_slabs) * KVH_GRANULE_BYTES != pinned)
		return "free granules + slabs' granules != granules of all pinned pieces";
	if (pinned != arena->pinned_bytes || pinned + arena->missing_bytes > arena->map.bytes ||
	    (arena->pin.ended && pinned + arena->missing_bytes != arena->map.bytes))
		return "what is pinned and what is missing are not what was wanted";
	return NULL;
}

bool kvh_arena_check(struct kvh_arena *arena)
{
	const char *fault;

	pthread_mutex_lock(&arena->lock);
	fault = arena_fault(arena);
	pthread_mutex_unlock(&arena->lock);
	if (fault != NULL)
		kvh_err("arena: %s", fault);
	return fault == NULL;
}
