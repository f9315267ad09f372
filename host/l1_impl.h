/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_impl.h - what the files of L1 share: records, shards, the frame word.
 *
 * A frame's bookkeeping beside its memory, in bytes: its record 32, its link in
 * the LRU list 12, the way back from memory to record 4, and at most 12 of its
 * shard's index.
 *
 * Locks, in this order: client, shard, then the records' pool, the arena or the
 * watcher. Of shards, either one, or several in rising order (l1_batch.c); of the others one.
 */
#ifndef KVH_HOST_L1_IMPL_H
#define KVH_HOST_L1_IMPL_H

#include "host/frame.h"
#include "host/index.h"
#include "host/l1.h"
#include "host/l1_family.h"
#include "host/lease.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#define KVH_REC_NONE   KVH_INDEX_NONE
#define KVH_PAGE_UNSET UINT32_MAX /* of a record: no memory yet */

/*
 * The word of a record:
 *
 *     63         32 31       8         4        3    2   0
 *    | generation | count | 0 | watched | parked | state |
 *
 *   FILLING, CANCELLED   count == 1, the writer's claim
 *   READY                count == leases + holds
 *   DOOMED, QUARANTINED  the same; a DOOMED one with 0 is about to be ABSENT
 *   ABSENT               count == 0
 *
 *   in the index       <=>  FILLING or READY
 *   in the LRU list    <=>  FILLING or READY, and not parked
 *
 * Parked: eviction met the frame while it was held and took it out of the list;
 * who takes its last count puts it back. So eviction meets a held frame once,
 * not again and again, and a release needs no lock but after such a meeting.
 *
 * Watched: somebody waits for the end of FILLING, and is told by whoever ends it.
 *
 * States leave FILLING for READY with no lock, all other states under the
 * shard's lock (or by the last to hold a DOOMED frame). Counts change with no
 * lock where they are not 0; from 0 to 1 under the lock.
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

#define KVH_WORD_STATE UINT64_C(0x7)
#define KVH_WORD_PARK  UINT64_C(0x8)
#define KVH_WORD_WATCH UINT64_C(0x10) /* FILLING only */
#define KVH_WORD_ONE   UINT64_C(0x100)
#define KVH_COUNT_MAX  0xFFFFFFu
#define KVH_LEASED_MAX (KVH_COUNT_MAX - 0xFFFFu) /* the rest is for holds, and for races */

static inline enum kvh_frame_state kvh_word_state(uint64_t word)
{
	return (enum kvh_frame_state)(word & KVH_WORD_STATE);
}

static inline uint32_t kvh_word_count(uint64_t word)
{
	return (uint32_t)word >> 8;
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

struct kvh_lru_link {
	uint32_t newer, older; /* an unused record: older is the next unused one */
	uint32_t stamp;        /* the clock at its last use */
};

/* The counters are written under the lock, holds apart, and read without. */
struct kvh_l1_shard {
	pthread_mutex_t lock;
	struct kvh_index index;
	uint32_t newest, oldest;
	uint32_t unused, n_unused; /* records */
	uint64_t frames;           /* FILLING or READY == kvh_index_count */
	uint64_t doomed;           /* DOOMED or CANCELLED */
	uint64_t quarantined;
	uint64_t holds;
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
	struct kvh_rec_pool pool;

	/* Address ranges for the most there can be; memory comes with use. */
	struct kvh_index_rec *recs;
	struct kvh_lru_link *links;
	uint32_t *owners; /* by page: the record whose frame starts there, or 0; + 1 */

	struct kvh_l1_shard *shards;
	uint64_t *oldest; /* by shard: 2^32 + stamp of its oldest; 0: none */

	struct kvh_l1_watcher watcher;

	uint32_t clock __attribute__((aligned(64)));
	uint64_t evicted_alloc, evicted_background;
};

/* ---- l1_frame.c: records, one by one ------------------------------------ */

/* The one way from state to state. False: the word had changed; *word is the
 * new one, look again. */
bool kvh_l1_move(struct kvh_index_rec *rec, uint64_t *word, enum kvh_frame_state to,
		 uint32_t count);

/* The rest but unref and unpark: under the shard's lock. */
uint32_t kvh_l1_rec_new(struct kvh_l1 *l1, struct kvh_l1_shard *shard); /* or KVH_REC_NONE */
void kvh_l1_rec_unused(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec);
/* Gives the memory and the record of a frame back that is ABSENT by now. */
void kvh_l1_give(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec);
/* Out of index and list; `word` is the one that the move away from FILLING or
 * READY replaced. */
void kvh_l1_unfind(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint64_t word);

/* Newest, or next older than `after`. */
void kvh_l1_link(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, uint32_t after,
		 uint32_t stamp);
void kvh_l1_unlink(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec);

/* Adds a count to a frame that has one, or that is READY under the lock. */
void kvh_l1_ref(struct kvh_l1 *l1, uint32_t rec);
/* Takes one back; frees a DOOMED frame with the last, and unparks. */
void kvh_l1_unref(struct kvh_l1 *l1, uint32_t rec);
void kvh_l1_unpark(struct kvh_l1 *l1, uint32_t rec, uint32_t generation);

/* Evicts a READY frame that nobody holds. Its bytes, and where they were; or 0:
 * it is held. */
uint64_t kvh_l1_evict_rec(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec,
			  const void **memory_p);

/* ---- l1_evict.c --------------------------------------------------------- */

/* Memory for up to n frames, evicting where it is short; returns how many.
 * Under no lock. */
uint32_t kvh_l1_alloc(struct kvh_l1 *l1, uint64_t bytes, uint32_t n, void **frames);

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

static inline void *kvh_l1_memory(const struct kvh_l1 *l1, uint32_t page)
{
	return l1->base + (uint64_t)page * KVH_FRAME_ALIGN;
}

static inline uint32_t kvh_l1_page(const struct kvh_l1 *l1, const void *memory)
{
	return (uint32_t)(((uintptr_t)memory - (uintptr_t)l1->base) / KVH_FRAME_ALIGN);
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
