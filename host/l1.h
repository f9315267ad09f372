/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1.h - chunks in pinned memory: a sharded index from key to frame, the
 * frames' states, the leases of clients, LRU eviction.
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
 * Any thread. A shard (by token hash, so that ranks and groups of a chunk sit
 * together) has its lock, its part of the index and its part of the LRU list.
 * Nothing here waits, but for those locks.
 */
#ifndef KVH_HOST_L1_H
#define KVH_HOST_L1_H

#include "host/arena.h"
#include "kvhoist.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_l1;

/* A frame in a certain life of it: index and generation. 0 is none. */
typedef uint64_t kvh_frame;

struct kvh_l1_opts {
	struct kvh_arena *arena; /* not owned */
	uint32_t n_shards;       /* a power of two, 1..1024; 0: 64 */
};

struct kvh_l1_stats {
	uint64_t frames; /* FILLING or READY */
	uint64_t doomed;
	uint64_t leases;
	uint64_t holds;
	uint64_t used_bytes; /* of frames of any state: the arena's */
	uint64_t evicted_alloc, evicted_background;
};

int kvh_l1_open(const struct kvh_l1_opts *opts, struct kvh_l1 **l1_p);
/* Frees all; frames still held or leased are the caller's bug (asserted), but
 * for those set aside by kvh_l1_quarantine. */
void kvh_l1_close(struct kvh_l1 *l1);

struct kvh_l1_reserve {
	struct kvh_key key;
	struct kvh_hash parent;
	uint64_t payload_bytes;
	kvh_frame frame; /* out, with status 0 */
	int32_t status;  /* out: 0; -EEXIST READY; -EINPROGRESS FILLING, also earlier in this
			  * batch; -ENOMEM also after eviction; -EINVAL larger than a piece */
};
/* Makes FILLING frames, side by side where possible; evicts at once, on this
 * thread, READY frames that nobody holds, least recently used first, where
 * memory is short. Returns how many were reserved. */
uint32_t kvh_l1_reserve(struct kvh_l1 *l1, struct kvh_l1_reserve *items, uint32_t n);

/* FILLING -> READY, findable, with `holds` (0 or more) engine holds on it. The
 * writer's stores to the frame are visible to whoever finds it.
 * 0, or -ECANCELED: erased meanwhile; the frame is gone. */
int kvh_l1_publish(struct kvh_l1 *l1, kvh_frame frame, uint32_t holds);
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
uint32_t kvh_l1_lease(struct kvh_l1 *l1, uint32_t client, const struct kvh_key *keys,
		      uint32_t n, kvh_lease_t *leases, int32_t *status);
/* A lease on a frame that the caller holds. 0, -ENOMEM, or -ESTALE: no such client. */
int kvh_l1_lease_held(struct kvh_l1 *l1, uint32_t client, kvh_frame frame,
		      kvh_lease_t *lease_p);
/* 0, or -ESTALE: not held (any more); nothing was touched. */
int kvh_l1_release(struct kvh_l1 *l1, kvh_lease_t lease);

/* Engine holds. By a lease: -ESTALE if that is not held. */
int kvh_l1_hold_lease(struct kvh_l1 *l1, kvh_lease_t lease, kvh_frame *frame_p);
int kvh_l1_hold_key(struct kvh_l1 *l1, const struct kvh_key *key,
		    kvh_frame *frame_p); /* -ENOENT */
void kvh_l1_unhold(struct kvh_l1 *l1, kvh_frame frame);

/* Not findable from now on; freed at once, or with the last hold or lease.
 * -ENOENT absent. FILLING frames too: their publish will be told. */
int kvh_l1_erase(struct kvh_l1 *l1, const struct kvh_key *key);
/* The same for one frame that the caller holds (policy, corruption), or fills and
 * still has to abort; a no-op if it is doomed already. */
void kvh_l1_doom(struct kvh_l1 *l1, kvh_frame frame);
/* A FILLING or held frame whose memory a hanging transfer may still touch:
 * made unfindable; its memory is never reused. Ends the caller's claim. */
void kvh_l1_quarantine(struct kvh_l1 *l1, kvh_frame frame);

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
