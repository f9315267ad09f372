/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_impl.h - what the files of L1 share: records, shards, lanes, the frame word.
 *
 * A frame's bookkeeping beside its memory, in bytes: its record 32, its link in
 * an eviction order 12, its parent 4, the way back from memory to record 4, and
 * at most 12 of its shard's index.
 *
 * Locks, in this order: client, shard, then the records' pool, the families, the
 * arena or the watcher. Of shards, either one, or several in rising order
 * (l1_batch.c); of the others one.
 */
#ifndef KVH_HOST_L1_IMPL_H
#define KVH_HOST_L1_IMPL_H

#include "host/frame.h"
#include "host/index.h"
#include "host/l1.h"
#include "host/l1_family.h"
#include "host/l1_space.h"
#include "host/lease.h"
#include "host/order.h"
#include "host/spin.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#define KVH_REC_NONE   KVH_INDEX_NONE
#define KVH_PAGE_UNSET UINT32_MAX /* of a record: no memory yet */

/*
 * The word of a record:
 *
 *     63         32 31 9    8        7         6       5      4   3  2   0
 *    | generation | count | guess | temporary | dirty | watched | place | state |
 *
 *   FILLING, CANCELLED   count == 1, the writer's claim
 *   READY                count == leases + holds
 *   DOOMED, QUARANTINED  the same; a DOOMED one with 0 is about to be ABSENT
 *   ABSENT               count == 0
 *
 *   in the index       <=>  FILLING or READY
 *   in a lane's order  <=>  FILLING or READY, and LISTED
 *   in a lane's kin    <=>  READY and KIN
 *   in a shard's line  <=>  READY, dirty and LINE
 *
 * Watched: somebody waits for the end of FILLING, and is told by whoever ends it.
 * Guess: nobody has asked for it; the first use takes the mark away, and counts.
 * Temporary: gone with its last count. Dirty: not in L2 yet, not to be evicted.
 *
 * States leave FILLING for READY with no lock, all other states under the
 * shard's lock (or by the last to hold a DOOMED frame). Counts change with no
 * lock where they are not 0; from 0 to 1 under the lock. Places change under it.
 */
enum kvh_frame_state {
	KVH_FRAME_ABSENT,
	KVH_FRAME_FILLING,
	KVH_FRAME_READY,
	KVH_FRAME_DOOMED,
	KVH_FRAME_CANCELLED, /* doomed while its writer still fills it */
	KVH_FRAME_QUARANTINED,
	KVH_FRAME_NSTATES
};

/*
 * Where a frame stands for eviction. It meets a frame that it may not take once,
 * not again and again, and puts it somewhere else; so a release needs no lock
 * but after such a meeting.
 *
 *             met, held                  last count
 *   LISTED ---------------> PARKED ------------------------> LISTED, newest
 *      |  met, has children              last child gone
 *      |------------------> KIN  --------------------------> LISTED, oldest
 *      |                        `------- used -------------> LISTED, newest
 *      |  met, dirty               handed over
 *      `------------------> LINE ----------------> PARKED
 *                               `------- used or clean ----> LISTED
 */
enum kvh_frame_place { KVH_PLACE_LISTED, KVH_PLACE_PARKED, KVH_PLACE_KIN, KVH_PLACE_LINE };

#define KVH_WORD_STATE UINT64_C(0x7)
#define KVH_WORD_PLACE UINT64_C(0x18)
#define KVH_WORD_WATCH UINT64_C(0x20) /* FILLING only */
#define KVH_WORD_DIRTY UINT64_C(0x40)
#define KVH_WORD_TEMP  UINT64_C(0x80)
#define KVH_WORD_GUESS UINT64_C(0x100)
#define KVH_WORD_ONE   UINT64_C(0x200)
#define KVH_COUNT_MAX  0x7FFFFFu
#define KVH_LEASED_MAX (KVH_COUNT_MAX - 0xFFFFu) /* the rest is for holds, and for races */

static inline enum kvh_frame_state kvh_word_state(uint64_t word)
{
	return (enum kvh_frame_state)(word & KVH_WORD_STATE);
}

static inline bool kvh_word_is_findable(uint64_t word)
{
	enum kvh_frame_state state = kvh_word_state(word);

	return state == KVH_FRAME_READY || state == KVH_FRAME_FILLING;
}

static inline enum kvh_frame_place kvh_word_place(uint64_t word)
{
	return (enum kvh_frame_place)((word & KVH_WORD_PLACE) >> 3);
}

static inline uint32_t kvh_word_count(uint64_t word)
{
	return (uint32_t)word >> 9;
}

static inline uint32_t kvh_word_generation(uint64_t word)
{
	return (uint32_t)(word >> 32);
}

static inline uint64_t kvh_word_load(const struct kvh_index_rec *rec)
{
	return __atomic_load_n(&rec->word, __ATOMIC_ACQUIRE);
}

static inline bool kvh_word_swap(struct kvh_index_rec *rec, uint64_t *word, uint64_t to)
{
	return __atomic_compare_exchange_n(&rec->word, word, to, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE);
}

/* Spaces that have an order of their own in each shard; those that come later
 * share the first one. */
#define KVH_LANES_MAX KVH_SPACE_LANES
#define KVH_LANE_ANY  UINT32_MAX

/* The frames of a space, in one shard. What each frame's coming and going changes
 * lies in the first cache line. */
struct kvh_l1_lane {
	uint32_t shown; /* the item whose stamp is in the slot */
	struct kvh_evict_order order;
	struct kvh_order_list kin; /* of KIN frames, longest there is the oldest */
} __attribute__((aligned(64)));

/* `next` is for other threads, which look for the oldest frame without the lock:
 * 2^32 + stamp of about the next victim; 0: none. */
struct kvh_l1_slot {
	struct kvh_l1_lane *lane; /* NULL: none yet */
	uint64_t next;
};

#define KVH_ORPHANS_MAX 192u /* of one locking of a shard */

/* The counters are written under the lock, holds apart, and read without.
 *
 * A shard that another core had last costs as much time as cache lines of it are
 * touched: a frame that comes or goes changes the first two. */
struct kvh_l1_shard {
	pthread_mutex_t lock;
	uint32_t unused, n_unused; /* records */
	/* KIN frames of any shard that have lost their last child: for
	 * kvh_l1_unlock, which lists them again. */
	uint32_t n_orphans;
	uint64_t frames; /* FILLING or READY == kvh_index_count */

	struct kvh_index index __attribute__((aligned(64)));

	struct kvh_l1_slot *slots __attribute__((aligned(64))); /* by lane */
	uint32_t n_lanes;                                       /* none at or above */
	uint32_t oldest_lane; /* whose next l1->oldest shows */
	struct kvh_order_list line;
	uint64_t doomed; /* DOOMED or CANCELLED */
	uint64_t quarantined;
	uint64_t holds __attribute__((aligned(64)));
	uint32_t orphans[KVH_ORPHANS_MAX];
} __attribute__((aligned(64)));

/* Told of the end of watched frames, with its lock held. */
struct kvh_l1_watcher {
	pthread_mutex_t lock;
	void (*settled)(void *arg, const struct kvh_key *key); /* or NULL */
	void *arg;
};

/* Unused records beyond those of the shards. */
struct kvh_rec_pool {
	pthread_mutex_t lock;
	uint32_t unused; /* a list */
	uint32_t fresh;  /* never used: [fresh, max) */
	uint32_t max;
};

struct kvh_l1 {
	struct kvh_arena *arena;
	unsigned char *base; /* the arena's; frames are known by their page from here */
	uint64_t n_pages;
	uint64_t frame_max; /* bytes */
	uint32_t n_shards;
	struct kvh_clients *clients;
	struct kvh_families families;
	struct kvh_spaces spaces;
	struct kvh_rec_pool pool;
	const struct kvh_order_ops *policy; /* of lanes to be made; atomic */

	/* Address ranges for the most there can be; memory comes with use. */
	struct kvh_index_rec *recs;
	struct kvh_order_items items; /* by record */
	uint32_t *parents;            /* by record: the parent's record + 1 */
	uint32_t *owners;          /* by page: the record whose frame starts there, or 0; + 1 */
	struct kvh_l1_slot *slots; /* by shard, by lane */

	struct kvh_l1_shard *shards;
	uint64_t *oldest; /* by shard: of its lanes that are not pinned, as `next` */

	struct kvh_l1_watcher watcher;
	void (*demote)(void *arg); /* or NULL */
	void *demote_arg;

	uint32_t clock __attribute__((aligned(64)));
	uint64_t evicted_alloc, evicted_background, evicted_quota;
	uint64_t expired;
	uint64_t guesses_used, guesses_wasted;
	uint64_t n_kin;      /* KIN frames */
	uint64_t n_line;     /* LINE frames */
	uint64_t n_demoting; /* handed over, not settled yet */
	/* Bytes of both; what hunts still lack, where they met dirty frames. */
	uint64_t line_bytes, demoting_bytes, demote_wanted;
	uint32_t hunters; /* threads in kvh_l1_hunt */
};

/* ---- l1_lane.c: places -------------------------------------------------- */

int kvh_l1_lanes_open(struct kvh_l1 *l1);
void kvh_l1_lanes_close(struct kvh_l1 *l1);
/* Under the shard's lock, all but unlock and unpark. */
/* A new frame, next older than `after` or the newest. -ENOMEM: no lane. */
int kvh_l1_list(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint32_t after,
		uint32_t stamp);
/* A READY frame was used, wherever it stands. *after is the one before of the
 * batch, and becomes rec where it is listed. */
void kvh_l1_use(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint32_t *after,
		uint32_t stamp);
/* Out of where `word` says that it stands. */
void kvh_l1_unlist(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint64_t word);
/* From LISTED to another place. For PARKED it must be held: false, it was given
 * back right now. */
bool kvh_l1_set_aside(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec,
		      enum kvh_frame_place place);
/* Back to LISTED, from any place. */
void kvh_l1_relist(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, bool newest);
/* What others see: of a lane, and, from its lanes, of the shard. */
void kvh_l1_show_slot(struct kvh_l1_slot *slot);
void kvh_l1_show_oldest(struct kvh_l1 *l1, struct kvh_l1_shard *shard);

/* ---- l1_kin.c: parents and children ------------------------------------- */

/* Of FILLING frames that the caller fills: items with status 0. */
void kvh_l1_kin_join(struct kvh_l1 *l1, const struct kvh_l1_reserve *items, uint32_t n);
uint32_t kvh_l1_children(const struct kvh_l1 *l1, uint32_t rec);
/* The record it names, whatever that is by now; KVH_REC_NONE: none. */
uint32_t kvh_l1_parent(const struct kvh_l1 *l1, uint32_t rec);
void kvh_l1_kin_reset(struct kvh_l1 *l1, uint32_t rec, uint32_t family);
/* Under the shard's lock: of a frame that cannot be found any more. */
void kvh_l1_kin_leave(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec);
static inline void kvh_l1_lock(struct kvh_l1_shard *shard)
{
	kvh_spin_lock(&shard->lock);
}

/* Unlocks, then lists the shard's orphans again, under their shards' locks. */
void kvh_l1_unlock(struct kvh_l1 *l1, struct kvh_l1_shard *shard);

/* ---- l1_frame.c: records, one by one ------------------------------------ */

/* The one way from state to state. False: the word had changed; *word is the
 * new one, look again. */
bool kvh_l1_move(struct kvh_index_rec *rec, uint64_t *word, enum kvh_frame_state to,
		 uint32_t count);

/* The rest but unref: under the shard's lock. */
uint32_t kvh_l1_rec_new(struct kvh_l1 *l1, struct kvh_l1_shard *shard); /* or KVH_REC_NONE */
void kvh_l1_rec_unused(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec);
/* Gives the memory and the record of a frame back that is ABSENT by now. */
void kvh_l1_give(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec);
/* Out of index and lists; `word` is the one that the move away from FILLING or
 * READY replaced. */
void kvh_l1_unfind(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint64_t word);

/* Out of the index: ABSENT, or DOOMED while somebody holds it. */
void kvh_l1_erase_rec(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec);

/* Adds a count to a frame that has one, or that is READY under the lock. */
void kvh_l1_ref(struct kvh_l1 *l1, uint32_t rec);
/* Takes one back; with the last a DOOMED or temporary frame is freed, and a
 * PARKED one is listed again. */
void kvh_l1_unref(struct kvh_l1 *l1, uint32_t rec);
/* By who published it without a hold; `word` is the one before. */
void kvh_l1_published(struct kvh_l1 *l1, uint32_t rec, uint64_t word);

/* Memory of one size that whoever evicts wants for itself: it needs no lock of the
 * arena's, and nobody else can be faster. */
struct kvh_l1_reuse {
	uint64_t bytes; /* of each */
	uint32_t n, max;
	void **memory; /* in the order of eviction */
};

/* What was evicted of one space: charged to it, and its memory not free, until
 * evict_end; so that both are done once for many frames. */
#define KVH_EVICTED_MAX 64u
struct kvh_l1_evicted {
	uint32_t space;
	uint32_t frames;
	uint64_t bytes;
	uint32_t n_memory; /* <= frames: the rest is reused */
	void *memory[KVH_EVICTED_MAX];
	struct kvh_l1_reuse *reuse; /* or NULL */
	const void *last;           /* where the last one was */
};

/* Evicts a READY frame that has no count but the caller's `holds`, and that L2
 * does not wait for. Its bytes; or 0: it is held, or dirty. Those of another space
 * that `gone` has are settled. */
uint64_t kvh_l1_evict_rec(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec,
			  uint32_t holds, struct kvh_l1_evicted *gone);
void kvh_l1_evict_end(struct kvh_l1 *l1, struct kvh_l1_evicted *gone);

/* ---- l1_evict.c: victims; under no lock --------------------------------- */

struct kvh_victims {
	uint32_t n;
	uint64_t bytes;
	const void *last; /* where the last one was */
};

/* Up to `want` frames or `want_bytes`, whichever comes first: of one lane, or of
 * any that is not pinned; of those above their soft limit first. `reuse` (or NULL)
 * gets the memory that it asks for, the arena the rest. */
struct kvh_victims kvh_l1_hunt(struct kvh_l1 *l1, uint32_t lane, uint32_t want,
			       uint64_t want_bytes, struct kvh_l1_reuse *reuse);
/* -EAGAIN: something waits for L2, and will be evictable then. Else -ENOMEM. */
int kvh_l1_full(const struct kvh_l1 *l1);

/* ---- l1_demote.c; under no lock ------------------------------------------ */

/* Bytes in line for L2, or on their way there. */
uint64_t kvh_l1_coming(const struct kvh_l1 *l1);
/* By a hunt for so many bytes, at its end: where dirty frames are in line, that
 * much of them is to go to L2. */
void kvh_l1_demote_want(struct kvh_l1 *l1, uint64_t bytes);

/* ---- l1_room.c ---------------------------------------------------------- */

/* Memory for up to n frames, evicting where it is short; returns how many.
 * Under no lock. */
uint32_t kvh_l1_alloc(struct kvh_l1 *l1, int node, uint64_t bytes, uint32_t n, void **frames);

/* ---- l1_watch.c --------------------------------------------------------- */

/* By who ended the FILLING of a watched frame. Its key was copied before, where the
 * record may be another frame's by now. */
void kvh_l1_tell(struct kvh_l1 *l1, const struct kvh_key *key);
void kvh_l1_rec_key(const struct kvh_l1 *l1, uint32_t rec, struct kvh_key *key);

/* ---- small -------------------------------------------------------------- */

/* Of any record, also one that another thread takes into use right now: the
 * caller has to look again under the shard's lock. */
static inline struct kvh_l1_shard *kvh_l1_shard_of(struct kvh_l1 *l1, uint32_t rec)
{
	const struct kvh_index_rec *r = &l1->recs[rec];
	const uint64_t hash[2] = {
		__atomic_load_n(&r->hash[0], __ATOMIC_RELAXED),
		__atomic_load_n(&r->hash[1], __ATOMIC_RELAXED),
	};

	return &l1->shards[kvh_index_spread(hash) & (l1->n_shards - 1)];
}

/* n stamps; the first of them. */
static inline uint32_t kvh_l1_tick(struct kvh_l1 *l1, uint32_t n)
{
	return __atomic_fetch_add(&l1->clock, n, __ATOMIC_RELAXED);
}

#define KVH_AGE_PART  16u /* what is nearly as old as the oldest goes, too */
#define KVH_AHEAD_MAX (1u << 24)

/* In uses of L1, modulo 2^32: frames of several shards that are older still are
 * taken in any order. Others' stamps can be a little ahead of `now`. */
static inline uint32_t kvh_l1_age(uint32_t now, uint64_t stamp)
{
	uint32_t age = now - (uint32_t)stamp;

	return age <= UINT32_MAX - KVH_AHEAD_MAX ? age : 0;
}

/* The identity by which a policy knows an evicted frame again. */
static inline uint64_t kvh_l1_identity(const struct kvh_l1 *l1, uint32_t rec)
{
	return kvh_index_rec_place(&l1->recs[rec]);
}

static inline uint32_t kvh_l1_family_of(const struct kvh_l1 *l1, uint32_t rec)
{
	return kvh_index_family(&l1->recs[rec]);
}

static inline uint32_t kvh_l1_space_of(const struct kvh_l1 *l1, uint32_t rec)
{
	return kvh_family_space(&l1->families, kvh_l1_family_of(l1, rec));
}

static inline struct kvh_l1_slot *kvh_l1_slot_of(const struct kvh_l1 *l1,
						 const struct kvh_l1_shard *shard, uint32_t rec)
{
	return &shard->slots[kvh_family_lane(&l1->families, kvh_l1_family_of(l1, rec))];
}

static inline void *kvh_l1_memory(const struct kvh_l1 *l1, uint32_t page)
{
	return l1->base + (uint64_t)page * KVH_FRAME_ALIGN;
}

static inline uint32_t kvh_l1_page(const struct kvh_l1 *l1, const void *memory)
{
	return (uint32_t)(((uintptr_t)memory - (uintptr_t)l1->base) / KVH_FRAME_ALIGN);
}

/* Of a frame that has memory. */
static inline uint64_t kvh_l1_rec_bytes(const struct kvh_l1 *l1, uint32_t rec)
{
	return kvh_arena_frame_bytes(l1->arena, kvh_l1_memory(l1, l1->recs[rec].page));
}

static inline void kvh_l1_count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n,
			 __ATOMIC_RELAXED);
}

static inline kvh_frame kvh_l1_value(uint32_t rec, uint64_t word)
{
	return (word & ~(uint64_t)UINT32_MAX) | rec;
}

/* Asserts that the frame is alive. */
static inline uint32_t kvh_l1_rec(const struct kvh_l1 *l1, kvh_frame frame)
{
	uint32_t rec = (uint32_t)frame;

	(void)l1;
	assert(frame != 0 && rec < l1->pool.max);
	assert(kvh_word_generation(kvh_word_load(&l1->recs[rec])) == frame >> 32);
	assert(kvh_word_state(kvh_word_load(&l1->recs[rec])) != KVH_FRAME_ABSENT);
	return rec;
}

#endif
