/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_index.h - what the nvme adapter knows about its medium, all derived from
 * it: segments, the slots in them, and which key lies in which slot. One thread
 * changes it (open's, then the controller's); kvh_nvme_index_peek is for any.
 *
 *            take                 published              removed
 *    FREE ----------> WRITING ----------------> LIVE --------------> DOOMED
 *     ^ ^                | ^                     |                      |
 *     | |          failed| +------- evicted -----+          no reader   |
 *     | |                v                                              |
 *     | +--- wiped -- WIPING <------------------------------------------+
 *     |                  | failed                                       |
 *     |                 BAD ---------------- wiped again ---------------+
 *     |                  +--written over--> WRITING
 *    GONE
 *
 *    FREE -> BAD: the header cannot be read. GONE -> FREE: opened. FREE, LIVE,
 *    BAD -> GONE: the segment was cleared.
 *
 * FREE: nothing on the medium that a scan would take for a frame. LIVE: in the
 * index. DOOMED: not in it any more, but read by GETs. WIPING: its header page
 * is being zeroed. BAD: could not be written, or not wiped, so that the frame it had
 * may still be there; tried again later.
 *
 * A slot is named by a number, extent * 32 + place. Memory a slot: 40 bytes, 12
 * of the eviction order (s3-fifo and arc: 13, and 24 a ghost), 4 to 8 of the hash
 * table.
 *
 * LIVE and WRITING slots of one size and space are a pool's: what is to be evicted
 * is chosen by pools (nvme_pool.c). A LIVE slot is listed in its pool's order
 * while no GET reads it; links of those that are not are for lists of ours.
 */
#ifndef KVH_L2_NVME_INDEX_H
#define KVH_L2_NVME_INDEX_H

#include "host/order.h"
#include "kvhoist.h"
#include "l2/nvme_layout.h"
#include "l2/nvme_space.h"

#include <pthread.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_NVME_NONE         UINT32_MAX
#define KVH_NVME_EXTENT_SLOTS 32u

enum kvh_nvme_slot_state {
	KVH_NVME_GONE,
	KVH_NVME_FREE,
	KVH_NVME_WRITING,
	KVH_NVME_LIVE,
	KVH_NVME_DOOMED,
	KVH_NVME_WIPING,
	KVH_NVME_BAD,
	KVH_NVME_STATES
};

struct kvh_nvme_slot {
	/* LIVE: of the key, as are rank and group. Until it is wiped or LIVE again, of
	 * the key that it had: its frame may still be on the medium. */
	struct kvh_hash hash;
	uint32_t rank, group;
	uint32_t tag;   /* LIVE: the low half of the frame's header checksum */
	uint32_t pool;  /* LIVE, WRITING; else KVH_NVME_NONE */
	uint32_t chain; /* LIVE: next of the bucket */
	uint16_t pins;  /* GETs that read it: LIVE or DOOMED */
	uint8_t state;  /* enum kvh_nvme_slot_state; slot_move sets it */
};

/* Slots side by side in one segment. */
struct kvh_nvme_extent {
	uint32_t segment;
	uint32_t first; /* its first slot, in the segment */
	uint32_t count; /* opened so far */
	uint32_t next;  /* extent of the segment, before it; KVH_NVME_NONE */
	struct kvh_nvme_slot slots[KVH_NVME_EXTENT_SLOTS];
};

struct kvh_nvme_segment {
	uint32_t class;    /* KVH_NVME_NONE: not assigned */
	uint32_t used;     /* slots opened; the same on the medium */
	uint32_t extents;  /* the last */
	uint32_t busy;     /* pins, and slots WRITING, DOOMED or WIPING */
	uint32_t live;     /* slots LIVE */
	uint32_t last_use; /* a tick */
	bool virgin;       /* zeros behind the used slots */
	bool drained;      /* slots that are not busy are GONE; to be cleared */
	bool stale;        /* cleared, and the table on the medium does not say so yet */
	bool failed;       /* could not be assigned: passed over for a while */
};

/* Frames of one size. */
struct kvh_nvme_class {
	uint64_t slot_bytes;
	uint32_t segments;            /* 0: the class may be taken for another size */
	uint32_t live;                /* slots LIVE */
	struct kvh_order_list free;   /* longest free first */
	struct kvh_order_list failed; /* BAD */
	uint64_t no_room;             /* index->room when there was none */
};

/* Frames of one size and space. */
struct kvh_nvme_pool {
	struct kvh_nvme_space *space;
	uint32_t class;
	uint32_t members; /* slots LIVE and WRITING; 0: may become another pool */
	struct kvh_evict_order order;
};

/* Of one stripe. */
struct kvh_nvme_index {
	const struct kvh_nvme_super *super;
	struct kvh_nvme_spaces *spaces; /* of all stripes */
	const struct kvh_order_ops *policy;
	struct kvh_order_items items;      /* by slot */
	struct kvh_nvme_segment *segments; /* [super->segments] */
	struct kvh_nvme_class *classes;    /* [n_classes], room for segments + 1 */
	uint32_t n_classes;
	uint32_t unsettled; /* segments drained or stale: a scan would find old frames */
	uint32_t tick;
	uint64_t room;       /* grows when a segment may have become free for a class */
	uint64_t used_bytes; /* of slots in use: WRITING, LIVE, DOOMED, WIPING */
	uint64_t objects;    /* LIVE */
	uint64_t evicted;
	/* Changed under the lock, by the one thread, which may look without. */
	pthread_mutex_t lock;
	struct kvh_nvme_pool *pools;
	uint32_t n_pools;
	struct kvh_nvme_extent **extents; /* [n_extents], some NULL */
	uint32_t n_extents;
	uint32_t no_place; /* extents before it are not NULL */
	uint32_t *buckets; /* [n_buckets], a power of two */
	uint32_t n_buckets;
	uint64_t seed;
};

int kvh_nvme_index_init(struct kvh_nvme_index *index, const struct kvh_nvme_super *super,
			struct kvh_nvme_spaces *spaces, const struct kvh_order_ops *policy);
void kvh_nvme_index_fini(struct kvh_nvme_index *index);
/* As after init; what it held is taken from the spaces. */
int kvh_nvme_index_reset(struct kvh_nvme_index *index);

static inline struct kvh_nvme_extent *kvh_nvme_extent_of(const struct kvh_nvme_index *index,
							 uint32_t slot)
{
	return index->extents[slot / KVH_NVME_EXTENT_SLOTS];
}

static inline struct kvh_nvme_slot *kvh_nvme_slot_at(const struct kvh_nvme_index *index,
						     uint32_t slot)
{
	return &kvh_nvme_extent_of(index, slot)->slots[slot % KVH_NVME_EXTENT_SLOTS];
}

uint64_t kvh_nvme_slot_bytes(const struct kvh_nvme_index *index, uint32_t slot);
uint64_t kvh_nvme_slot_offset(const struct kvh_nvme_index *index, uint32_t slot);

/* ---- keys; LIVE slots ---- */

uint32_t kvh_nvme_index_find(const struct kvh_nvme_index *index, const struct kvh_key *key);
/* Any thread. */
void kvh_nvme_index_peek(struct kvh_nvme_index *index, const struct kvh_key *keys, uint32_t n,
			 uint8_t *found);

/* ---- the life of a slot ---- */

/* FREE -> WRITING, the longest free of the pool's class; KVH_NVME_NONE. */
uint32_t kvh_nvme_slot_take(struct kvh_nvme_index *index, uint32_t pool);
/* LIVE and not read -> WRITING, for a frame of the pool, which has its class. */
void kvh_nvme_slot_evict(struct kvh_nvme_index *index, uint32_t slot, uint32_t pool);
/* LIVE and not read -> DOOMED, to give way. */
void kvh_nvme_slot_drop(struct kvh_nvme_index *index, uint32_t slot);
/* FREE -> WRITING, this one. */
void kvh_nvme_slot_claim(struct kvh_nvme_index *index, uint32_t slot, uint32_t pool);
/* WRITING -> LIVE, found under `key`. What was found before is DOOMED, and
 * returned; else KVH_NVME_NONE. */
uint32_t kvh_nvme_slot_publish(struct kvh_nvme_index *index, uint32_t slot,
			       const struct kvh_key *key, uint32_t tag);
/* LIVE -> DOOMED */
void kvh_nvme_slot_doom(struct kvh_nvme_index *index, uint32_t slot);
/* WRITING, DOOMED -> WIPING -> FREE or, if it failed, BAD */
void kvh_nvme_slot_wipe(struct kvh_nvme_index *index, uint32_t slot);
void kvh_nvme_slot_wiped(struct kvh_nvme_index *index, uint32_t slot, bool ok);
/* The same, wiped, but to be set aside: WIPING -> BAD */
void kvh_nvme_slot_set_aside(struct kvh_nvme_index *index, uint32_t slot);
/* FREE -> BAD */
void kvh_nvme_slot_bad(struct kvh_nvme_index *index, uint32_t slot);
/* BAD -> DOOMED: to be wiped again */
void kvh_nvme_slot_doom_again(struct kvh_nvme_index *index, uint32_t slot);
/* BAD -> WRITING, the oldest of the pool's class; KVH_NVME_NONE. */
uint32_t kvh_nvme_slot_retry(struct kvh_nvme_index *index, uint32_t pool);
/* Segments that failed are no longer passed over. */
void kvh_nvme_index_retry(struct kvh_nvme_index *index);

/* GONE -> FREE, and FREE, LIVE, BAD -> GONE, for nvme_segment.c. */
void kvh_nvme_slot_open(struct kvh_nvme_index *index, uint32_t slot);
void kvh_nvme_slot_forget(struct kvh_nvme_index *index, uint32_t slot);

/* A GET begins and ends to read it. */
void kvh_nvme_slot_pin(struct kvh_nvme_index *index, uint32_t slot);
void kvh_nvme_slot_unpin(struct kvh_nvme_index *index, uint32_t slot);

static inline const struct kvh_nvme_pool *kvh_nvme_pool_of(const struct kvh_nvme_index *index,
							   uint32_t slot)
{
	return &index->pools[kvh_nvme_slot_at(index, slot)->pool];
}

/* How many are BAD. */
uint32_t kvh_nvme_index_bad(const struct kvh_nvme_index *index);

/* Whether a slot has, or had, a frame of the key, or of the same in another space. */
bool kvh_nvme_slot_resembles(const struct kvh_nvme_index *index, uint32_t slot,
			     const struct kvh_key *key);

/* Of a LIVE slot. */
struct kvh_key kvh_nvme_slot_key(const struct kvh_nvme_index *index, uint32_t slot);

/* ---- pools ---- */

/* Finds or makes the pool of a size and space, which is good as long as it has
 * members. -ENOMEM. */
int kvh_nvme_pool_get(struct kvh_nvme_index *index, uint32_t class, kvh_space_t space,
		      uint32_t *pool_p);

/* The LIVE slot that is the next to go, and not read; KVH_NVME_NONE. For a frame
 * of the class: of the space that is furthest beyond its soft limit, else the one
 * not used for the longest time. */
uint32_t kvh_nvme_pool_victim(struct kvh_nvme_index *index, uint32_t class);
/* Of the space, in the class, or with KVH_NVME_NONE in any. */
uint32_t kvh_nvme_pool_victim_of(struct kvh_nvme_index *index,
				 const struct kvh_nvme_space *space, uint32_t class);

/* ---- classes and segments ---- */

/* Finds or makes the class of a size. Until a segment is assigned to it, its
 * number is good only until the next call. */
uint32_t kvh_nvme_class_get(struct kvh_nvme_index *index, uint64_t slot_bytes);
uint32_t kvh_nvme_segment_slots(const struct kvh_nvme_index *index, uint32_t segment,
				uint64_t slot_bytes);

/* A segment in which slots of the class can be opened and no frame is lost: its
 * own with room, one not assigned, an empty one. KVH_NVME_NONE. */
uint32_t kvh_nvme_segment_room(struct kvh_nvme_index *index, uint32_t class);
/* The segment of another class that was used least recently, if that is longer
 * ago than the use of the class's own oldest frame. KVH_NVME_NONE. */
uint32_t kvh_nvme_segment_idle(struct kvh_nvme_index *index, uint32_t class);

/* All segments are busy: evicts what is not from the one used least recently,
 * so that it will be idle soon. */
void kvh_nvme_segment_drain(struct kvh_nvme_index *index, uint32_t class);

/* Evicts what is in it; not busy. It is not assigned then. */
void kvh_nvme_segment_clear(struct kvh_nvme_index *index, uint32_t segment);
/* One that is drained and no longer busy, or stale; KVH_NVME_NONE. Not one that
 * failed. `busy_too`: drained, and busy. */
uint32_t kvh_nvme_segment_unsettled(const struct kvh_nvme_index *index, bool busy_too);
/* The medium's table says that it holds nothing. */
void kvh_nvme_segment_settled(struct kvh_nvme_index *index, uint32_t segment);
/* Gives one that is not assigned to the class. */
void kvh_nvme_segment_assign(struct kvh_nvme_index *index, uint32_t segment, uint32_t class);
/* The next `count` slots of the segment become FREE. -ENOMEM: fewer did. */
int kvh_nvme_segment_open(struct kvh_nvme_index *index, uint32_t segment, uint32_t count);

/* Bytes of memory that the index has taken for what it holds. */
uint64_t kvh_nvme_index_bytes(const struct kvh_nvme_index *index);

/* Asserts the sums above. Expensive. */
void kvh_nvme_index_check(const struct kvh_nvme_index *index);

#ifdef __cplusplus
}
#endif
#endif
