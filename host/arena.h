/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.h - pinned memory for frames: pieces, cut into slabs, cut into frames.
 *
 *   piece  a mapping of its own, <= 1 GiB, registered with the device at once
 *   slab   adjacent granules (2 MiB) of a piece that hold a whole number of
 *          frames of one exact size; an empty slab gives its granules back
 *   frame  what alloc returns: 4 KiB aligned
 *
 *   used_bytes  == sum of the frames handed out
 *   free granules + sum of slabs' granules == granules of all pinned pieces
 *   pinned_bytes + missing_bytes <= wanted_bytes; equal once pinning has ended
 *
 * Where all pieces lie is decided at open; they are pinned by several threads at
 * once, also behind the opener's back (`early`), and serve in rising order, as soon
 * as they and all before them are pinned: what is not pinned is never handed out.
 * A piece that cannot be pinned ends it: the arena stays what it is by then, says
 * how much is missing, and why, for good.
 *
 * So there are three sizes, and each question has its own:
 *   what is there now   pinned_bytes. Frames, and whether there is room for one
 *   what there will be  kvh_arena_capacity: what a share of L1 is a share of. A
 *                       background that kept usage below a part of what is pinned
 *                       already would evict while memory is still coming; one that
 *                       kept it below a part of what will never come, never
 *   what was asked for  wanted_bytes. Limits that fit the options stay right
 * Whoever needs a frame at once does not wait for memory to come: nothing here waits.
 * An allocation takes what is pinned, and L1 evicts for more, as at any other time.
 *
 * Any thread; one lock, held for moments. Never touches the memory of a frame.
 */
#ifndef KVH_HOST_ARENA_H
#define KVH_HOST_ARENA_H

#include "cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_arena;

#define KVH_ARENA_NODES_MAX 16u
#define KVH_NODE_ANY        (-1)

struct kvh_arena_opts {
	struct kvh_device *dev; /* registers the pieces */
	/* Others that share registrations with it, and stand in for it where it has died.
	 * The caller's, until close. */
	struct kvh_device *const *others;
	uint32_t n_others;
	uint64_t bytes;       /* >= 1 MiB; rounded down to 2 MiB, but 2 MiB at least */
	uint64_t piece_bytes; /* 0: 1 GiB */
	int numa_node;        /* -1: any; of all pieces, where n_nodes is 0 */
	/* Else pieces lie in turn on these nodes (-1: any), as far as there are pieces:
	 * each node has to have room for its own. */
	uint32_t n_nodes; /* 0..KVH_ARENA_NODES_MAX */
	int nodes[KVH_ARENA_NODES_MAX];
	uint32_t touch_threads;    /* 0: as many as the machine has cores, at most 16 */
	uint32_t register_threads; /* of those, that register at the same time; 0: 2 */
	/* Returns when the first piece is pinned; threads of the arena's own go on with
	 * the rest. Not in a simulation (sim.h), and not where no thread can be had: then
	 * all is pinned when it returns, as without. */
	bool early;
	const char *root; /* of /proc and /sys, for tests; NULL: the system's */
	/* No memory behind the frames, nothing pinned: for measuring what is beside
	 * them, with more of them than fit. */
	bool addresses_only;
};

struct kvh_arena_piece {
	void *base;
	uint64_t bytes;
	int node; /* that it is bound to; KVH_NODE_ANY: none, also where that was refused */
};

struct kvh_arena_stats {
	uint64_t pinned_bytes;  /* now: frames may lie there */
	uint64_t wanted_bytes;  /* as asked for, rounded */
	uint64_t missing_bytes; /* could not be pinned, and never will be */
	bool pinning;           /* more is coming */
	int error;              /* why bytes are missing; negative errno */
	uint64_t used_bytes;    /* frames handed out */
	uint64_t slab_bytes;    /* granules in slabs */
	uint64_t frames;
	uint64_t huge_bytes; /* of pinned_bytes: on huge pages asked for, granted by madvise */
	uint64_t numa_refused; /* pieces; mbind refused: went on without */
};

/* What it will have, or has for good. */
static inline uint64_t kvh_arena_capacity(const struct kvh_arena_stats *stats)
{
	return stats->wanted_bytes - stats->missing_bytes;
}

/* Maps (memory that fork does not take: MADV_DONTFORK), asks for huge pages, binds
 * to nodes; then touches and registers, several pieces at once. Whether machine,
 * cgroup and nodes have room for all is asked first, and, as others take memory
 * meanwhile, again before each piece.
 * -EINVAL bytes, piece_bytes or a node out of range
 * -ENOMEM the mapping, a registration (memlock), a node or the cgroup is too small:
 *         the log has wanted and available bytes; nothing is left behind. With
 *         `early`: the same for the first piece; what fails later is in the stats */
int kvh_arena_open(const struct kvh_arena_opts *opts, struct kvh_arena **arena_p);
/* All frames must have been freed, or are abandoned with `leak`: then the
 * memory stays mapped and registered. Pinning ends: waits for what is being
 * registered, and at most 16 MiB a thread being touched. */
void kvh_arena_close(struct kvh_arena *arena, bool leak);

/* Waits until pinning has ended: for benches and tests. */
void kvh_arena_pinned_wait(struct kvh_arena *arena);
/* `changed` is called when more is pinned, and when pinning has ended; under the
 * arena's lock: it must neither call the arena nor wait. NULL: nobody. When this
 * returns, no call to who watched before is under way. */
void kvh_arena_watch(struct kvh_arena *arena, void (*changed)(void *arg), void *arg);

/* Up to n frames of `bytes` each (a multiple of 4096), side by side where there
 * is room, in rising addresses. Returns how many: fewer when memory is short.
 * -EINVAL: bytes is 0, no multiple, or larger than a piece. */
int kvh_arena_alloc(struct kvh_arena *arena, uint64_t bytes, uint32_t n, void **frames);
/* The same, from pieces on the node as far as they have room, then from any: what is
 * on each side lies side by side. Evicts nothing: a caller that would rather evict near
 * than go far has to say so to L1. */
int kvh_arena_alloc_near(struct kvh_arena *arena, int node, uint64_t bytes, uint32_t n,
			 void **frames);
void kvh_arena_free(struct kvh_arena *arena, void *frame);
void kvh_arena_free_many(struct kvh_arena *arena, void *const *frames, uint32_t n);
/* Bytes of the frame as allocated. */
uint64_t kvh_arena_frame_bytes(struct kvh_arena *arena, const void *frame);

/* How many are pinned; it only rises. The table is of all that were asked for, and
 * does not change; in rising addresses, never adjacent. Takes no lock. */
uint32_t kvh_arena_pieces(const struct kvh_arena *arena,
			  const struct kvh_arena_piece **pieces_p);
/* How many it may become. */
uint32_t kvh_arena_pieces_max(const struct kvh_arena *arena);
/* Index of the pinned piece that holds the address; UINT32_MAX: none. Takes no lock. */
uint32_t kvh_arena_piece_of(const struct kvh_arena *arena, const void *address);

void kvh_arena_stats(struct kvh_arena *arena, struct kvh_arena_stats *stats);

/* Bytes from the start of one piece to that of the next. */
uint64_t kvh_arena_stride(const struct kvh_arena *arena);

/* For whoever evicts. All pieces, the coming ones too, lie in [base, base + span);
 * aligned to 2 MiB. */
void *kvh_arena_base(const struct kvh_arena *arena, uint64_t *span_p);
/* The frames handed out in [from, end), in rising addresses; at most max. */
uint32_t kvh_arena_list(struct kvh_arena *arena, const void *from, const void *end,
			void **frames, uint32_t max);
/* A range of whole slabs and free granules that starts with what holds `from`
 * (earlier at the end of a piece; later if no pinned piece holds it): once no frame is
 * in it, a frame of `bytes` fits. False: none from there on. */
bool kvh_arena_window(struct kvh_arena *arena, uint64_t bytes, const void *from, void **lo_p,
		      void **hi_p);
/* Where the slab, or free granule, ends that holds the address. */
void *kvh_arena_slab_end(struct kvh_arena *arena, const void *address);

/* Whether the equations above hold; logs the one that does not. Slow: tests. */
bool kvh_arena_check(struct kvh_arena *arena);

#ifdef __cplusplus
}
#endif
#endif
