/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_impl.h - what arena.c, arena_pin.c and slab.c share. Everything below is read
 * and written under arena->lock, but map, which never changes, and what says that it
 * is atomic: that is written under the lock, and read without.
 */
#ifndef KVH_HOST_ARENA_IMPL_H
#define KVH_HOST_ARENA_IMPL_H

#include "host/arena_map.h"
#include "host/thread.h"

#include <assert.h>
#include <pthread.h>

#define KVH_PAGE_BYTES    4096u
#define KVH_GRANULE_PAGES ((uint32_t)(KVH_GRANULE_BYTES / KVH_PAGE_BYTES))
#define KVH_GRANULE_WORDS (KVH_GRANULE_PAGES / 64u)
#define KVH_SLAB_NONE     UINT32_MAX

/*
 * Named by its first granule.
 *
 *   n_frames * pages <= granules * KVH_GRANULE_PAGES
 *   n_free == bits set among the slab's first n_frames bits
 *   0 <= n_free < n_frames: an empty slab is gone at once
 */
struct kvh_slab {
	uint32_t granules; /* 0: no slab starts here */
	uint32_t pages;    /* of one frame */
	uint32_t n_frames;
	uint32_t n_free;
};

/* The slabs of one size.   n_partial == bits set in partial */
struct kvh_size_class {
	uint32_t pages;
	uint32_t granules; /* of the slabs that waste little */
	uint32_t n_slabs;
	uint32_t n_partial; /* slabs with a free frame */
	uint32_t lowest;    /* no partial slab lies below */
	uint64_t *partial;  /* by first granule */
};

/*
 * One piece's way:
 *
 *             first part        last part         a thread        the device
 *            handed out          touched          took it          took it
 *    WANTED ------------> TOUCHING ----> TOUCHED ------> REGISTERING ----> PINNED
 *                            | no room for it                 | refused
 *                            '-------------> LOST <-----------'
 *
 * Parts are handed out, and pieces taken, in rising order; they may be PINNED in any.
 * With the first LOST one, or a stop, nothing is handed out any more; the last thread
 * to leave then gives back what lies behind the first piece that is not PINNED.
 */
enum kvh_piece_state {
	KVH_PIECE_WANTED,
	KVH_PIECE_TOUCHING,
	KVH_PIECE_TOUCHED,
	KVH_PIECE_REGISTERING,
	KVH_PIECE_PINNED,
	KVH_PIECE_LOST,
	KVH_PIECE_STATES
};

#define KVH_PIN_THREADS_MAX 16u

/*
 *   registering == pieces REGISTERING <= register_max
 *   n_pinned <= register_piece <= touch_piece
 *   working == threads (and the opener) that may still hand out or do something
 *   ended: working == 0 and what was to be given back is
 */
struct kvh_pin {
	uint8_t *states;         /* by piece: enum kvh_piece_state */
	uint32_t *parts;         /* by piece: handed out or not, not touched yet */
	uint32_t touch_piece;    /* the next part to hand out */
	uint64_t touch_at;       /* bytes into it */
	uint32_t register_piece; /* the next one; all before it were taken */
	uint32_t registering, register_max;
	uint32_t working;
	bool stop, ended;
	int error; /* of the first LOST piece; atomic */
	uint32_t lost;
	char why[160];
	uint64_t began_ns;
	pthread_cond_t changed;     /* states, n_pinned, ended */
	void (*watcher)(void *arg); /* or NULL */
	void *watcher_arg;
	struct kvh_thread threads[KVH_PIN_THREADS_MAX];
	uint32_t n_threads; /* to join */
};

struct kvh_arena {
	struct kvh_arena_map map;
	pthread_mutex_t lock;
	struct kvh_pin pin;
	/* Pieces [0, n_pinned) serve. All atomic: who reads n_pinned (acquire) sees them
	 * registered. */
	uint32_t n_pinned;
	uint64_t pinned_bytes, missing_bytes;
	bool pinning;
	uint64_t frames; /* atomic, as the two below */
	uint64_t used_bytes;
	uint64_t slab_granules;

	/* By granule, the gaps between pieces included. */
	uint32_t n_granules;
	uint32_t *slab_of; /* first granule of the slab; KVH_SLAB_NONE: free, or gap */
	struct kvh_slab *slabs;
	uint64_t *bits; /* KVH_GRANULE_WORDS each; a slab's frames from its first: 1 is free */

	/* By piece; 0 where it is not pinned. */
	uint32_t *free_granules;

	struct kvh_size_class *classes;
	uint32_t n_classes;
};

int kvh_slab_tables_open(struct kvh_arena *arena);
void kvh_slab_tables_close(struct kvh_arena *arena);
/* The next piece serves from now on: its granules are free. */
void kvh_slab_piece_add(struct kvh_arena *arena, uint32_t piece);

/* Pins the pieces, or, with `early`, the first and goes on. -ENOMEM: logged, and
 * nothing is pinned; nothing runs any more. */
int kvh_pin_open(struct kvh_arena *arena, const struct kvh_arena_opts *opts);
/* Ends it. Unregisters what is pinned, but for `leak`. */
void kvh_pin_close(struct kvh_arena *arena, bool leak);

/* NULL: no memory for another size. The pointer holds until the next call. */
struct kvh_size_class *kvh_class_get(struct kvh_arena *arena, uint32_t pages);
/* The first slab with a free frame at or above granule `from`; on this node only, or
 * KVH_NODE_ANY. */
uint32_t kvh_class_next(struct kvh_arena *arena, struct kvh_size_class *sizes, uint32_t from,
			int node);

/* A new slab with all frames free; at least one must be taken before the lock
 * is left. KVH_SLAB_NONE: no room on this node, or KVH_NODE_ANY. */
uint32_t kvh_slab_make(struct kvh_arena *arena, struct kvh_size_class *sizes, int node);
/* The first run of n free frames, or else 0. */
uint32_t kvh_slab_run(const struct kvh_arena *arena, uint32_t slab, uint32_t n,
		      uint32_t *first_p);
void kvh_slab_take(struct kvh_arena *arena, uint32_t slab, uint32_t first, uint32_t n);
/* Gives the granules back, too, with the last frame. */
void kvh_slab_give(struct kvh_arena *arena, uint32_t slab, uint32_t number);

static inline uint32_t kvh_arena_n_pinned(const struct kvh_arena *arena)
{
	return __atomic_load_n(&arena->n_pinned, __ATOMIC_ACQUIRE);
}

static inline void *kvh_granule_address(const struct kvh_arena *arena, uint32_t granule)
{
	return arena->map.base + granule * KVH_GRANULE_BYTES;
}

static inline void *kvh_slab_frame(const struct kvh_arena *arena, uint32_t slab,
				   uint32_t number)
{
	return arena->map.base + slab * KVH_GRANULE_BYTES +
	       (uint64_t)number * arena->slabs[slab].pages * KVH_PAGE_BYTES;
}

/* Asserts that a frame may start at the address. */
static inline uint32_t kvh_slab_of(const struct kvh_arena *arena, const void *frame,
				   uint32_t *number_p)
{
	uint64_t page = ((uintptr_t)frame - (uintptr_t)arena->map.base) / KVH_PAGE_BYTES;
	uint32_t slab;

	assert(page / KVH_GRANULE_PAGES < arena->n_granules);
	slab = arena->slab_of[page / KVH_GRANULE_PAGES];
	assert(slab != KVH_SLAB_NONE);
	*number_p = (uint32_t)(page - (uint64_t)slab * KVH_GRANULE_PAGES) /
		    arena->slabs[slab].pages;
	assert(kvh_slab_frame(arena, slab, *number_p) == frame);
	return slab;
}

static inline bool kvh_slab_is_free(const struct kvh_arena *arena, uint32_t slab,
				    uint32_t number)
{
	const uint64_t *bits = arena->bits + (uint64_t)slab * KVH_GRANULE_WORDS;

	return number < arena->slabs[slab].n_frames &&
	       (bits[number / 64] >> (number % 64) & 1) != 0;
}

#endif
