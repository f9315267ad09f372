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
 *     |                  | failed
 *     +---- retried --- BAD
 *
 *    FREE -> BAD: the header cannot be read. GONE -> FREE: opened. FREE, LIVE,
 *    BAD -> GONE: the segment was cleared.
 *
 * FREE: nothing on the medium that a scan would take for a frame. LIVE: in the
 * index. DOOMED: not in it any more, but read by GETs. WIPING: its header page
 * is being zeroed. BAD: neither written nor wiped; tried again later.
 *
 * A slot is named by a number, extent * 1024 + place. 56 bytes a slot, and 4 to
 * 8 of the hash table.
 */
#ifndef KVH_L2_NVME_INDEX_H
#define KVH_L2_NVME_INDEX_H

#include "kvhoist.h"
#include "l2/nvme_layout.h"

#include <pthread.h>
#include <stdbool.h>

#define KVH_NVME_NONE         UINT32_MAX
#define KVH_NVME_EXTENT_SLOTS 1024u

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
	struct kvh_key key;    /* LIVE */
	uint32_t older, newer; /* in the list of the state */
	uint32_t chain;        /* LIVE: next of the bucket */
	uint32_t tick;         /* LIVE: of the last use */
	uint16_t pins;         /* GETs that read it: LIVE or DOOMED */
	uint8_t state;         /* enum kvh_nvme_slot_state; slot_move sets it */
};

/* Slots that were opened together, side by side in one segment. */
struct kvh_nvme_extent {
	uint32_t segment;
	uint32_t first; /* its first slot, in the segment */
	uint32_t count;
	uint32_t next; /* extent of the segment; KVH_NVME_NONE */
	struct kvh_nvme_slot slots[];
};

struct kvh_nvme_segment {
	uint32_t class;    /* KVH_NVME_NONE: not assigned */
	uint32_t used;     /* slots opened; the same on the medium */
	uint32_t extents;  /* the first */
	uint32_t busy;     /* pins, and slots WRITING, DOOMED or WIPING */
	uint32_t live;     /* slots LIVE */
	uint32_t last_use; /* a tick */
	bool virgin;       /* zeros behind the used slots */
	bool drained;      /* slots that are not busy are GONE; to be cleared */
	bool failed;       /* could not be assigned: passed over for a while */
};

/* Oldest at the head. */
struct kvh_nvme_list {
	uint32_t oldest, newest, count;
};

/* Frames of one size. */
struct kvh_nvme_class {
	uint64_t slot_bytes;
	uint32_t segments;           /* 0: the class may be taken for another size */
	struct kvh_nvme_list free;   /* longest free first */
	struct kvh_nvme_list lived;  /* LIVE, least recently used first */
	struct kvh_nvme_list failed; /* BAD */
	uint64_t no_room;            /* index->room when there was none */
};

struct kvh_nvme_index {
	const struct kvh_nvme_super *super;
	struct kvh_nvme_segment *segments; /* [super->segments] */
	struct kvh_nvme_class *classes;    /* [n_classes], room for segments + 1 */
	uint32_t n_classes;
	uint32_t tick;
	uint64_t room;       /* grows when a segment may have become free for a class */
	uint64_t used_bytes; /* of slots in use: WRITING, LIVE, DOOMED, WIPING */
	uint64_t objects;    /* LIVE */
	uint64_t evicted;
	/* Changed under the lock, by the one thread, which may look without. */
	pthread_mutex_t lock;
	struct kvh_nvme_extent **extents; /* [n_extents], some NULL */
	uint32_t n_extents;
	uint32_t *buckets; /* [n_buckets], a power of two */
	uint32_t n_buckets;
	uint64_t seed;
};

int kvh_nvme_index_init(struct kvh_nvme_index *index, const struct kvh_nvme_super *super);
void kvh_nvme_index_fini(struct kvh_nvme_index *index);

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

/* FREE -> WRITING, the longest free of the class; KVH_NVME_NONE. */
uint32_t kvh_nvme_slot_take(struct kvh_nvme_index *index, uint32_t class);
/* LIVE -> WRITING, the least recently used that nobody reads; KVH_NVME_NONE. */
uint32_t kvh_nvme_slot_evict(struct kvh_nvme_index *index, uint32_t class);
/* FREE -> WRITING, this one. */
void kvh_nvme_slot_claim(struct kvh_nvme_index *index, uint32_t slot);
/* WRITING -> LIVE, found under `key`. What was found before is DOOMED, and
 * returned; else KVH_NVME_NONE. */
uint32_t kvh_nvme_slot_publish(struct kvh_nvme_index *index, uint32_t slot,
			       const struct kvh_key *key);
/* LIVE -> DOOMED */
void kvh_nvme_slot_doom(struct kvh_nvme_index *index, uint32_t slot);
/* WRITING, DOOMED -> WIPING -> FREE or, if it failed, BAD */
void kvh_nvme_slot_wipe(struct kvh_nvme_index *index, uint32_t slot);
void kvh_nvme_slot_wiped(struct kvh_nvme_index *index, uint32_t slot, bool ok);
/* FREE -> BAD, and the oldest BAD of each class -> FREE */
void kvh_nvme_slot_bad(struct kvh_nvme_index *index, uint32_t slot);
void kvh_nvme_index_retry(struct kvh_nvme_index *index);

/* GONE -> FREE, and FREE, LIVE, BAD -> GONE, for nvme_segment.c. */
void kvh_nvme_slot_open(struct kvh_nvme_index *index, uint32_t slot);
void kvh_nvme_slot_forget(struct kvh_nvme_index *index, uint32_t slot);

/* A GET begins and ends to read it. */
void kvh_nvme_slot_pin(struct kvh_nvme_index *index, uint32_t slot);
void kvh_nvme_slot_unpin(struct kvh_nvme_index *index, uint32_t slot);

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
uint32_t kvh_nvme_segment_idle(const struct kvh_nvme_index *index, uint32_t class);

/* All segments are busy: evicts what is not from the one used least recently,
 * so that it will be idle soon. */
void kvh_nvme_segment_drain(struct kvh_nvme_index *index, uint32_t class);

/* Evicts what is in it; not busy. It is not assigned then. */
void kvh_nvme_segment_clear(struct kvh_nvme_index *index, uint32_t segment);
/* Gives one that is not assigned to the class. */
void kvh_nvme_segment_assign(struct kvh_nvme_index *index, uint32_t segment, uint32_t class);
/* The next `count` slots of the segment become FREE; *extent_p says which.
 * -ENOMEM. */
int kvh_nvme_segment_open(struct kvh_nvme_index *index, uint32_t segment, uint32_t count,
			  uint32_t *extent_p);

/* Asserts the sums above. Expensive. */
void kvh_nvme_index_check(const struct kvh_nvme_index *index);

#endif
