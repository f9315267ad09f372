/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1.h - chunks in pinned memory: a sharded index from key to frame, the
 * frames' states, the leases of clients, eviction, and what each space may have.
 *
 *    ABSENT --reserve--> FILLING --publish--> READY --evict, erase--> ABSENT
 *                         |    \                 \ (nobody holds it)
 *                         |     erase             erase (held)
 *                         |         \                \
 *                       abort        `--> DOOMED <----'
 *                         v                 |
 *                       ABSENT <------------' last release, unhold, abort
 *
 * One atomic word a frame: state, count, generation. The count is of leases
 * and holds together: the word counts, who holds a lease is in its client's
 * table, and holds are the engine's own (a transfer, the store controller).
 * A FILLING frame belongs to its writer alone. DOOMED frames cannot be found,
 * and their key can be reserved again at once.
 *
 * A temporary frame is gone with its last lease or hold. A dirty frame (not in
 * L2 yet) is not evicted but handed over first: kvh_l1_demote_take.
 *
 * Any thread. A shard (by token hash, so that ranks and groups of a chunk sit
 * together) has its lock, its part of the index, and for each space an eviction
 * order (order.h). Nothing here waits, but for those locks.
 */
#ifndef KVH_HOST_L1_H
#define KVH_HOST_L1_H

#include "host/arena.h"
#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_l1;

/* A frame in a certain life of it: index and generation. 0 is none. */
typedef uint64_t kvh_frame;

struct kvh_l1_opts {
	struct kvh_arena *arena; /* not owned */
	uint32_t n_shards;       /* a power of two, 1..1024; 0: 64 */
	const char *eviction;    /* a policy of order.h; NULL: "lru" */
	/* Called when eviction has met dirty frames: kvh_l1_demote_take has some. On the
	 * evicting thread, under no lock of L1's; it must not wait. NULL: nobody. */
	void (*demote)(void *arg);
	void *demote_arg;
};

/* Of one space; 0: no limit. */
struct kvh_l1_limits {
	uint64_t soft_bytes; /* what is above goes first when memory is short */
	uint64_t hard_bytes; /* never exceeded: its own frames are evicted before */
	bool pinned;         /* not evicted for others; needs hard_bytes */
};

struct kvh_l1_stats {
	uint64_t frames; /* FILLING or READY */
	uint64_t doomed;
	uint64_t leases;
	uint64_t holds;
	uint64_t used_bytes; /* of frames of any state: the arena's */
	uint64_t evicted_alloc, evicted_background;
	uint64_t evicted_quota;  /* for the hard limit of their space */
	uint64_t leases_expired; /* ended by their deadline */
	/* Frames that were set to be guesses: used after all; gone without. */
	uint64_t guesses_used, guesses_wasted;
	uint64_t demoting; /* dirty frames in line for L2, or on their way */
};

int kvh_l1_open(const struct kvh_l1_opts *opts, struct kvh_l1 **l1_p);
/* Frees all; frames still held or leased are the caller's bug (asserted), but
 * for those set aside by kvh_l1_quarantine. */
void kvh_l1_close(struct kvh_l1 *l1);

struct kvh_l1_reserve {
	struct kvh_key key;
	struct kvh_hash parent;
	uint64_t payload_bytes;
	uint32_t flags;  /* KVH_L1_* */
	uint32_t near;   /* 1 + the NUMA node where it should lie, if there is room; 0: any */
	kvh_frame frame; /* out, with status 0 */
	/* out: 0; -EEXIST READY; -EINPROGRESS FILLING, also earlier in this batch;
	 * -EINVAL larger than a piece; and, also after eviction, -ENOMEM; -EDQUOT: the
	 * space is at its hard limit and its own frames cannot go; -EAGAIN: frames have
	 * to go to L2 first, which is on its way */
	int32_t status;
};
#define KVH_L1_TEMPORARY 1u

/* Makes FILLING frames, side by side where possible; evicts at once, on this
 * thread, READY frames that nobody holds where memory is short. `parent` (zero:
 * none) is a hint: a frame is evicted before its parent. Returns how many were
 * reserved. */
uint32_t kvh_l1_reserve(struct kvh_l1 *l1, struct kvh_l1_reserve *items, uint32_t n);

/* FILLING -> READY, findable, with `holds` (0 or more) engine holds on it. The
 * writer's stores to the frame are visible to whoever finds it.
 * 0, or -ECANCELED: erased meanwhile; the frame is gone. */
int kvh_l1_publish(struct kvh_l1 *l1, kvh_frame frame, uint32_t holds);
/* By the writer before it publishes: nobody has asked for it. Whether somebody does
 * before it goes is counted. */
void kvh_l1_set_guess(struct kvh_l1 *l1, kvh_frame frame);
/* FILLING (or DOOMED while filling) -> ABSENT. */
void kvh_l1_abort(struct kvh_l1 *l1, kvh_frame frame);

/* Who waits for frames that others fill. `settled` is called once a watched frame,
 * when it is FILLING no more: READY, or not to be found. On the thread that did it,
 * maybe with a shard locked: it must neither call L1 nor wait. NULL: nobody. When
 * this returns, no call to who watched before is under way. */
void kvh_l1_watcher_set(struct kvh_l1 *l1,
			void (*settled)(void *arg, const struct kvh_key *key), void *arg);
/* 0: FILLING, and watched; -EEXIST: READY; -ENOENT. */
int kvh_l1_watch(struct kvh_l1 *l1, const struct kvh_key *key);

/* Whether a held frame cannot be found any more (erased, or doomed by policy). */
bool kvh_l1_doomed(const struct kvh_l1 *l1, kvh_frame frame);

/* A frame that its writer, a hold or a lease keeps alive. */
void *kvh_l1_data(const struct kvh_l1 *l1, kvh_frame frame); /* the header; kvh_frame_bytes() */
uint64_t kvh_l1_frame_bytes(const struct kvh_l1 *l1, kvh_frame frame);
void kvh_l1_key(const struct kvh_l1 *l1, kvh_frame frame, struct kvh_key *key);

/* found[i]: 0 absent, 1 READY, 2 FILLING. Does not count as use. */
void kvh_l1_find(struct kvh_l1 *l1, const struct kvh_key *keys, uint32_t n, uint8_t *found);

/* A client's table of leases. Ids are reused after close. -EMFILE above 4096. */
int kvh_l1_client_open(struct kvh_l1 *l1, uint32_t *client_p);
/* Gives all its leases back. */
void kvh_l1_client_close(struct kvh_l1 *l1, uint32_t client);

/* Leases READY frames, and marks them used. status[i]: 0, -ENOENT absent,
 * -EINPROGRESS FILLING, -ENOMEM, -ESTALE no such client. Returns how many. */
uint32_t kvh_l1_lease_until(struct kvh_l1 *l1, uint32_t client, const struct kvh_key *keys,
			    uint32_t n, uint64_t deadline_ns, kvh_lease_t *leases,
			    int32_t *status);
/* A lease on a frame that the caller holds. 0, -ENOMEM, or -ESTALE: no such client. */
int kvh_l1_lease_held_until(struct kvh_l1 *l1, uint32_t client, kvh_frame frame,
			    uint64_t deadline_ns, kvh_lease_t *lease_p);
/* With deadline_ns 0: without a deadline. */
static inline uint32_t kvh_l1_lease(struct kvh_l1 *l1, uint32_t client,
				    const struct kvh_key *keys, uint32_t n, kvh_lease_t *leases,
				    int32_t *status)
{
	return kvh_l1_lease_until(l1, client, keys, n, 0, leases, status);
}
static inline int kvh_l1_lease_held(struct kvh_l1 *l1, uint32_t client, kvh_frame frame,
				    kvh_lease_t *lease_p)
{
	return kvh_l1_lease_held_until(l1, client, frame, 0, lease_p);
}
/* Gives back the leases whose deadline has passed, but for those that a transfer
 * uses. Returns when to call again; for once in many milliseconds. */
uint64_t kvh_l1_expire(struct kvh_l1 *l1, uint64_t now_ns);
/* Whether any lease has a deadline. */
bool kvh_l1_timed(const struct kvh_l1 *l1);
/* The same leases, from now on with this deadline. KVH_NONE, and what is not held
 * any more, is passed over. No transfer uses them yet. */
void kvh_l1_lease_deadline(struct kvh_l1 *l1, const kvh_lease_t *leases, uint32_t n,
			   uint64_t deadline_ns);
/* 0, or -ESTALE: not held (any more); nothing was touched. */
int kvh_l1_release(struct kvh_l1 *l1, kvh_lease_t lease);

/* A held temporary frame stays in L1 after its last lease and hold. */
void kvh_l1_keep(struct kvh_l1 *l1, kvh_frame frame);
/* Marks READY frames used, and temporary ones to be kept. status[i] as for
 * leases. Returns how many. */
uint32_t kvh_l1_touch(struct kvh_l1 *l1, const struct kvh_key *keys, uint32_t n,
		      int32_t *status);

/* Engine holds. By a lease: -ESTALE if that is not held; until it is given back by
 * unhold_lease, the lease does not expire. */
int kvh_l1_hold_lease(struct kvh_l1 *l1, kvh_lease_t lease, kvh_frame *frame_p);
void kvh_l1_unhold_lease(struct kvh_l1 *l1, kvh_lease_t lease, kvh_frame frame);
int kvh_l1_hold_key(struct kvh_l1 *l1, const struct kvh_key *key,
		    kvh_frame *frame_p); /* -ENOENT */
void kvh_l1_unhold(struct kvh_l1 *l1, kvh_frame frame);

/* Not findable from now on; freed at once, or with the last hold or lease.
 * -ENOENT absent. FILLING frames too: their publish will be told. */
int kvh_l1_erase(struct kvh_l1 *l1, const struct kvh_key *key);
/* The same for all frames of a space that were there when it was called. Returns
 * how many. */
uint64_t kvh_l1_erase_space(struct kvh_l1 *l1, kvh_space_t space);
/* The same for one frame that the caller holds (policy, corruption), or fills and
 * still has to abort; a no-op if it is doomed already. */
void kvh_l1_doom(struct kvh_l1 *l1, kvh_frame frame);
/* A FILLING or held frame whose memory a hanging transfer may still touch:
 * made unfindable; its memory is never reused. Ends the caller's claim. */
void kvh_l1_quarantine(struct kvh_l1 *l1, kvh_frame frame);

/* ---- write-back ---------------------------------------------------------- */

/* By the writer before it publishes, or a holder: not in L2 yet, and in it now. */
void kvh_l1_set_dirty(struct kvh_l1 *l1, kvh_frame frame);
void kvh_l1_set_clean(struct kvh_l1 *l1, kvh_frame frame);
bool kvh_l1_is_dirty(const struct kvh_l1 *l1, kvh_frame frame);
/* Who is called, as kvh_l1_opts.demote says. While no other thread is in L1. */
void kvh_l1_demoter_set(struct kvh_l1 *l1, void (*demote)(void *arg), void *arg);
/* Bytes that eviction lacks and could have of dirty frames, beyond those that are
 * on their way to L2. */
uint64_t kvh_l1_demote_lacks(const struct kvh_l1 *l1);
/* Dirty frames that eviction has met, about oldest first, with an engine hold on
 * each: each has to be given to kvh_l1_demoted. Stops after `max_bytes`. Returns how
 * many. */
uint32_t kvh_l1_demote_take(struct kvh_l1 *l1, kvh_frame *frames, uint32_t max,
			    uint64_t max_bytes);
/* Ends that hold. `done`: it is in L2 now, and evicted if nobody else holds it;
 * else it stays dirty, and in line again when eviction meets it. */
void kvh_l1_demoted(struct kvh_l1 *l1, kvh_frame frame, bool done);
/* Instead: it is not waited for any longer, but an adapter still reads it. The hold
 * stays, until kvh_l1_unhold. */
void kvh_l1_demote_late(struct kvh_l1 *l1, kvh_frame frame);
/* Any dirty frame, for a flush: walks the records from *cursor, 0 at first; the
 * frame has an engine hold. False: no more. */
bool kvh_l1_next_dirty(struct kvh_l1 *l1, uint32_t *cursor, kvh_frame *frame_p);

/* ---- eviction, spaces ---------------------------------------------------- */

/* Another policy, from now on: what is there is listed again in the order that it
 * has. -EINVAL: unknown, and the old one stays. One thread at a time; shard by shard. */
int kvh_l1_eviction_set(struct kvh_l1 *l1, const char *name);

/* Also of a space that has nothing yet. What is above a new hard limit is evicted
 * at once, as far as it can go.
 * -EINVAL  above L1's bytes, as asked for; soft above hard; pinned without hard, or all pinned
 *          together above L1's bytes: the old limits stay
 * -ENOSPC  too many spaces before it */
int kvh_l1_limits_set(struct kvh_l1 *l1, kvh_space_t space, const struct kvh_l1_limits *limits);

struct kvh_l1_space_stats {
	uint64_t used_bytes; /* of its frames in any state */
	uint64_t evicted;    /* frames */
	struct kvh_l1_limits limits;
};
/* -ENOENT: L1 never had a frame of it. */
int kvh_l1_space_stats(const struct kvh_l1 *l1, kvh_space_t space,
		       struct kvh_l1_space_stats *stats);

/* Evicts READY frames nobody holds, oldest first over all shards (approximately),
 * until used_bytes <= target. Returns the bytes freed. */
uint64_t kvh_l1_evict(struct kvh_l1 *l1, uint64_t target_bytes);

void kvh_l1_stats(struct kvh_l1 *l1, struct kvh_l1_stats *stats);

/* Whether index, lists, states, counts and memory agree; logs what does not.
 * Only while no other thread is in L1. Slow: tests. */
bool kvh_l1_check(struct kvh_l1 *l1);

#ifdef __cplusplus
}
#endif
#endif
