/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_evict.c - who is evicted next. Any thread, under no lock of L1's.
 *
 *   1. of spaces above their soft limit, what is above it
 *   2. of all that are not pinned, the oldest: in each lane as its order says,
 *      over lanes and shards by the age of the next, to a 16th of it
 *   3. frames with children, that 2. would not take
 *
 * With a victim go the other ranks and groups of its chunk: they are of no use
 * without it. Then its parents are next, up the prefix, as far as they are old and
 * have no other children. What is held, dirty or has children that stay is set
 * aside when it is met.
 *
 * Dirty frames need L2 before they give room. Who hunts in the background can wait
 * for that: what is in line for it counts as gone. Who needs memory now passes them
 * over for what is clean and younger, and as many bytes go to L2.
 */
#include "host/l1_impl.h"

#include <errno.h>

#define LOCKED_MAX 32u /* frames that are met under one locking of a shard */
#define CHAIN_MAX  32u /* parents that are looked ahead for */

struct hunt {
	uint32_t lane;
	uint32_t want;
	uint64_t want_bytes;
	struct kvh_victims gone;
	struct kvh_l1_evicted of_space; /* a part of them */
	uint32_t turn;   /* shards to go on from the one with the oldest; 0: alone */
	bool patient;    /* in the background */
	uint64_t coming; /* of the patient: bytes in line for L2, or on their way */
	/* Of frames that are gone, from the last locking: may be next. */
	uint32_t parents[LOCKED_MAX], stamps[LOCKED_MAX]; /* and the stamps of their child */
	uint32_t n_parents;
};

static bool is_done(const struct hunt *hunt)
{
	return hunt->gone.n >= hunt->want ||
	       hunt->gone.bytes + hunt->coming >= hunt->want_bytes;
}

static void parent_is_next(struct hunt *hunt, uint32_t parent, uint32_t stamp)
{
	if (parent == KVH_REC_NONE || hunt->n_parents == LOCKED_MAX)
		return;
	hunt->parents[hunt->n_parents] = parent;
	hunt->stamps[hunt->n_parents++] = stamp;
}

/* Its parents are next, as if it were gone. */
static void put_in_line(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec,
			struct hunt *hunt)
{
	(void)kvh_l1_set_aside(l1, shard, rec, KVH_PLACE_LINE);
	hunt->coming += hunt->patient ? kvh_l1_rec_bytes(l1, rec) : 0;
	parent_is_next(hunt, kvh_l1_parent(l1, rec), l1->items.links[rec].stamp);
}

/* ---- one frame, under its shard's lock ---------------------------------- */

static bool evict_one(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec,
		      struct hunt *hunt)
{
	uint64_t bytes;

	if (shard->n_orphans == KVH_ORPHANS_MAX)
		return false;
	bytes = kvh_l1_evict_rec(l1, shard, rec, 0, &hunt->of_space);
	if (bytes == 0)
		return false;
	hunt->gone.n++;
	hunt->gone.bytes += bytes;
	hunt->gone.last = hunt->of_space.last;
	return true;
}

/* The other ranks and groups of a chunk that is gone, as far as nobody holds
 * them, needs them or has to store them: those follow in their own turn. */
static void evict_siblings(struct kvh_l1 *l1, struct kvh_l1_shard *shard,
			   const uint64_t hash[2], uint32_t family, struct hunt *hunt)
{
	const struct kvh_l1_space *space =
		&l1->spaces.space[kvh_family_space(&l1->families, family)];
	uint64_t spread = kvh_index_spread(hash);
	uint32_t f = __atomic_load_n(&space->families, __ATOMIC_ACQUIRE);

	for (; f != KVH_FAMILY_NONE; f = l1->families.family[f].next) {
		uint32_t rec;

		if (f == family)
			continue;
		rec = kvh_index_find(&shard->index, kvh_index_place(spread, f), hash, f);
		if (rec != KVH_REC_NONE && kvh_l1_children(l1, rec) == 0)
			(void)evict_one(l1, shard, rec, hunt);
	}
}

static void evict_chunk(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec,
			struct hunt *hunt)
{
	const struct kvh_index_rec *r = &l1->recs[rec];
	const uint64_t hash[2] = {r->hash[0], r->hash[1]};
	uint32_t family = kvh_l1_family_of(l1, rec);
	uint32_t parent = kvh_l1_parent(l1, rec);
	uint32_t stamp = l1->items.links[rec].stamp;

	if (!evict_one(l1, shard, rec, hunt))
		return;
	evict_siblings(l1, shard, hash, family, hunt);
	parent_is_next(hunt, parent, stamp);
}

/* A frame whose turn it is, according to its order. False: it has children, and
 * was left where it is. */
static bool meet(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec, struct hunt *hunt)
{
	uint64_t word = kvh_word_load(&l1->recs[rec]);

	/* It went with another of its chunk; its record may be of another shard by now. */
	if (kvh_word_state(word) == KVH_FRAME_ABSENT || kvh_l1_shard_of(l1, rec) != shard)
		return true;
	if (kvh_word_count(word) > 0 && kvh_l1_set_aside(l1, shard, rec, KVH_PLACE_PARKED))
		return true;
	if (kvh_l1_children(l1, rec) > 0)
		return false;
	if ((word & KVH_WORD_DIRTY) != 0)
		put_in_line(l1, shard, rec, hunt);
	else
		evict_chunk(l1, shard, rec, hunt);
	return true;
}

static void set_kin(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec)
{
	(void)kvh_l1_set_aside(l1, shard, rec, KVH_PLACE_KIN);
	/* The last child may have gone before it could see that. */
	if (kvh_l1_children(l1, rec) == 0)
		kvh_l1_relist(l1, shard, rec, false);
}

/* ---- one lane of one shard ---------------------------------------------- */

/* The next victims of the age or older, up to n. What evicting them will miss in
 * the cache is asked for, for all of them at once. */
static uint32_t list_victims(struct kvh_l1 *l1, struct kvh_l1_shard *shard,
			     struct kvh_l1_lane *lane, uint32_t now, uint32_t age,
			     uint32_t *recs, uint32_t n)
{
	uint32_t all = kvh_order_victims(&lane->order, recs, n);
	uint32_t len = 0;

	while (len < all && kvh_l1_age(now, l1->items.links[recs[len]].stamp) >= age)
		__builtin_prefetch(&l1->recs[recs[len++]], 1);
	for (uint32_t i = 0; i < len; i++)
		if (kvh_l1_children(l1, recs[i]) == 0) /* else it stays, probably */
			kvh_index_prefetch(&shard->index, kvh_l1_identity(l1, recs[i]));
	return len;
}

static void hunt_slot(struct kvh_l1 *l1, struct kvh_l1_shard *shard, struct kvh_l1_slot *slot,
		      uint32_t now, uint32_t age, struct hunt *hunt)
{
	uint32_t recs[LOCKED_MAX], n = hunt->want - hunt->gone.n, kept = 0;

	n = list_victims(l1, shard, slot->lane, now, age, recs,
			 n < LOCKED_MAX ? n : LOCKED_MAX);
	for (uint32_t i = 0; i < n && !is_done(hunt); i++)
		if (!meet(l1, shard, recs[i], hunt))
			recs[kept++] = recs[i];
	/* Their children may be next, and then they are; else they are in the way. */
	for (uint32_t i = 0; i < kept && kept == n; i++)
		set_kin(l1, shard, recs[i]);
	kvh_l1_show_slot(slot); /* also where nothing went: it was not as old as it seemed */
}

/* ---- up a prefix -------------------------------------------------------- */

static bool is_hunted(const struct kvh_l1 *l1, uint32_t lane, const struct hunt *hunt)
{
	return hunt->lane == KVH_LANE_ANY ? !kvh_lane_is_pinned(&l1->spaces, lane)
					  : hunt->lane == lane;
}

/* A dirty one, whose child is in line: goes behind that. */
static bool line_parent(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec,
			uint64_t word, uint32_t now, uint32_t stamp, struct hunt *hunt)
{
	uint32_t *own = &l1->items.links[rec].stamp;

	if (kvh_word_place(word) == KVH_PLACE_LINE || kvh_word_count(word) > 0 ||
	    kvh_l1_children(l1, rec) > 1)
		return false;
	if (kvh_l1_age(now, *own) > kvh_l1_age(now, stamp))
		*own = stamp;
	put_in_line(l1, shard, rec, hunt);
	return true;
}

/* Whatever frame the record has by now: it is a victim if it is as old as one.
 * `stamp`: a little younger than its child's. */
static bool hunt_parent(struct kvh_l1 *l1, uint32_t rec, uint32_t now, uint32_t age,
			uint32_t stamp, struct hunt *hunt)
{
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	uint32_t before = hunt->gone.n, n_parents = hunt->n_parents;
	bool lined = false;
	uint64_t word;

	kvh_l1_lock(shard);
	word = kvh_word_load(&l1->recs[rec]);
	if (kvh_l1_shard_of(l1, rec) == shard && kvh_word_state(word) == KVH_FRAME_READY &&
	    kvh_l1_age(now, l1->items.links[rec].stamp) >= age &&
	    is_hunted(l1, kvh_family_lane(&l1->families, kvh_l1_family_of(l1, rec)), hunt)) {
		if ((word & KVH_WORD_DIRTY) != 0)
			lined = line_parent(l1, shard, rec, word, now, stamp, hunt);
		else if (kvh_word_place(word) == KVH_PLACE_LISTED &&
			 kvh_l1_children(l1, rec) == 0)
			evict_chunk(l1, shard, rec, hunt);
	}
	kvh_l1_unlock(l1, shard);
	hunt->n_parents = n_parents; /* the caller goes up by itself */
	return lined || hunt->gone.n > before;
}

/* What will be missed in the cache is asked for, for several at once. */
static uint32_t list_chain(struct kvh_l1 *l1, uint32_t rec, uint32_t *recs)
{
	uint32_t n = 0;

	for (; n < CHAIN_MAX && rec != KVH_REC_NONE; rec = kvh_l1_parent(l1, rec)) {
		recs[n++] = rec;
		__builtin_prefetch(&l1->recs[rec], 1);
		__builtin_prefetch(&l1->items.links[rec], 1);
	}
	for (uint32_t i = 0; i < n; i++) {
		const struct kvh_index_rec *r = &l1->recs[recs[i]];
		const uint64_t hash[2] = {
			__atomic_load_n(&r->hash[0], __ATOMIC_RELAXED),
			__atomic_load_n(&r->hash[1], __ATOMIC_RELAXED),
		};
		uint64_t spread = kvh_index_spread(hash);

		kvh_index_prefetch(&l1->shards[spread & (l1->n_shards - 1)].index,
				   kvh_index_place(spread, kvh_index_family(r)));
	}
	return n;
}

static void hunt_chain(struct kvh_l1 *l1, uint32_t rec, uint32_t now, uint32_t age,
		       uint32_t stamp, struct hunt *hunt)
{
	uint32_t recs[CHAIN_MAX], n, i = 0;

	do {
		n = list_chain(l1, rec, recs);
		rec = n == CHAIN_MAX ? kvh_l1_parent(l1, recs[n - 1]) : KVH_REC_NONE;
		for (i = 0; i < n && !is_done(hunt); i++)
			if (!hunt_parent(l1, recs[i], now, age, ++stamp, hunt))
				return;
	} while (rec != KVH_REC_NONE && !is_done(hunt));
}

static void hunt_shard(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t now,
		       uint32_t age, struct hunt *hunt)
{
	hunt->n_parents = 0;
	kvh_l1_lock(shard);
	if (hunt->lane != KVH_LANE_ANY) {
		if (shard->slots[hunt->lane].lane != NULL)
			hunt_slot(l1, shard, &shard->slots[hunt->lane], now, age, hunt);
	} else {
		for (uint32_t i = 0; i < shard->n_lanes && !is_done(hunt); i++) {
			struct kvh_l1_slot *slot = &shard->slots[i];

			if (slot->next != 0 && kvh_l1_age(now, slot->next) >= age &&
			    !kvh_lane_is_pinned(&l1->spaces, i))
				hunt_slot(l1, shard, slot, now, age, hunt);
		}
	}
	kvh_l1_show_oldest(l1, shard);
	kvh_l1_unlock(l1, shard);
	for (uint32_t i = 0; i < hunt->n_parents && !is_done(hunt); i++)
		hunt_chain(l1, hunt->parents[i], now, age, hunt->stamps[i], hunt);
}

/* ---- over shards -------------------------------------------------------- */

static uint64_t next_of(const struct kvh_l1 *l1, uint32_t shard, uint32_t lane)
{
	if (lane == KVH_LANE_ANY)
		return __atomic_load_n(&l1->oldest[shard], __ATOMIC_RELAXED);
	return __atomic_load_n(&l1->shards[shard].slots[lane].next, __ATOMIC_RELAXED);
}

/* The shard with the oldest frame and its age; false: no shard has one. */
static bool find_oldest(const struct kvh_l1 *l1, uint32_t lane, uint32_t now, uint32_t *shard_p,
			uint32_t *age_p)
{
	bool found = false;

	*age_p = 0;
	for (uint32_t i = 0; i < l1->n_shards; i++) {
		uint64_t next = next_of(l1, i, lane);
		uint32_t age = kvh_l1_age(now, next);

		if (next == 0 || (found && age <= *age_p))
			continue;
		*shard_p = i;
		*age_p = age;
		found = true;
	}
	return found;
}

/* Threads that hunt at once begin at different shards: of those that are nearly as
 * old as the oldest, no two have to go after the same prefix. */
static void hunt_oldest(struct kvh_l1 *l1, struct hunt *hunt)
{
	while (!is_done(hunt)) {
		uint32_t now = __atomic_load_n(&l1->clock, __ATOMIC_RELAXED);
		uint32_t first, age;

		if (!find_oldest(l1, hunt->lane, now, &first, &age))
			break;
		age -= age / KVH_AGE_PART;
		for (uint32_t i = 0; i < l1->n_shards && !is_done(hunt); i++) {
			uint32_t s = (first + hunt->turn + i) & (l1->n_shards - 1);
			uint64_t next = next_of(l1, s, hunt->lane);

			if (next != 0 && kvh_l1_age(now, next) >= age)
				hunt_shard(l1, &l1->shards[s], now, age, hunt);
		}
	}
}

/* ---- spaces above their soft limit, frames with children ----------------- */

static void hunt_over(struct kvh_l1 *l1, struct hunt *hunt)
{
	uint32_t lane = 0;

	while (!is_done(hunt) &&
	       (lane = kvh_spaces_next_over(&l1->spaces, lane)) != UINT32_MAX) {
		const struct kvh_l1_space *space = &l1->spaces.space[l1->spaces.of_lane[lane]];
		uint64_t used = __atomic_load_n(&space->used, __ATOMIC_RELAXED);
		uint64_t soft = __atomic_load_n(&space->soft, __ATOMIC_RELAXED);
		uint64_t all = hunt->want_bytes, have = hunt->gone.bytes + hunt->coming;
		uint64_t left = all - have;

		if (used > soft && !kvh_lane_is_pinned(&l1->spaces, lane)) {
			hunt->lane = lane;
			hunt->want_bytes = have + (used - soft < left ? used - soft : left);
			hunt_oldest(l1, hunt);
			kvh_l1_evict_end(l1, &hunt->of_space);
			hunt->want_bytes = all;
		}
		lane++;
	}
}

static void hunt_kin_slot(struct kvh_l1 *l1, struct kvh_l1_shard *shard,
			  const struct kvh_l1_slot *slot, struct hunt *hunt)
{
	const struct kvh_order_list *kin = &slot->lane->kin;

	while (kin->n > 0 && !is_done(hunt) && shard->n_orphans < KVH_ORPHANS_MAX / 2) {
		uint32_t rec = kin->oldest;
		uint64_t word = kvh_word_load(&l1->recs[rec]);

		if (kvh_word_count(word) > 0 &&
		    kvh_l1_set_aside(l1, shard, rec, KVH_PLACE_PARKED))
			continue;
		if ((word & KVH_WORD_DIRTY) != 0)
			put_in_line(l1, shard, rec, hunt);
		else
			evict_chunk(l1, shard, rec, hunt);
	}
}

static void hunt_kin(struct kvh_l1 *l1, struct hunt *hunt)
{
	if (__atomic_load_n(&l1->n_kin, __ATOMIC_RELAXED) == 0)
		return;
	for (uint32_t s = 0; s < l1->n_shards && !is_done(hunt); s++) {
		struct kvh_l1_shard *shard = &l1->shards[s];

		kvh_l1_lock(shard);
		for (uint32_t i = 0; i < shard->n_lanes && !is_done(hunt); i++) {
			if (is_hunted(l1, i, hunt) && shard->slots[i].lane != NULL)
				hunt_kin_slot(l1, shard, &shard->slots[i], hunt);
		}
		kvh_l1_unlock(l1, shard);
	}
}

/* ---- interface ---------------------------------------------------------- */

static struct kvh_victims hunt_all(struct kvh_l1 *l1, struct hunt *hunt)
{
	uint32_t others = __atomic_fetch_add(&l1->hunters, 1, __ATOMIC_RELAXED);
	uint32_t lane = hunt->lane;
	uint64_t want_bytes = hunt->want_bytes;

	hunt->turn = others * (l1->n_shards / 8 * 3 + 1);
	if (lane == KVH_LANE_ANY) {
		hunt_over(l1, hunt);
		hunt->lane = KVH_LANE_ANY;
	}
	hunt_oldest(l1, hunt);
	/* Children that wait for L2 will be gone soon. */
	if (hunt->gone.n == 0 && kvh_l1_full(l1) == -ENOMEM)
		hunt_kin(l1, hunt);
	kvh_l1_evict_end(l1, &hunt->of_space);
	(void)__atomic_fetch_sub(&l1->hunters, 1, __ATOMIC_RELAXED);
	kvh_l1_demote_want(l1, want_bytes);
	return hunt->gone;
}

struct kvh_victims kvh_l1_hunt(struct kvh_l1 *l1, uint32_t lane, uint32_t want,
			       uint64_t want_bytes, struct kvh_l1_reuse *reuse)
{
	struct hunt hunt = {
		.lane = lane, .want = want, .want_bytes = want_bytes, .of_space.reuse = reuse};

	return hunt_all(l1, &hunt);
}

int kvh_l1_full(const struct kvh_l1 *l1)
{
	if (__atomic_load_n(&l1->n_line, __ATOMIC_RELAXED) > 0 ||
	    __atomic_load_n(&l1->n_demoting, __ATOMIC_RELAXED) > 0)
		return -EAGAIN;
	return -ENOMEM;
}

uint64_t kvh_l1_evict(struct kvh_l1 *l1, uint64_t target_bytes)
{
	struct kvh_arena_stats stats;
	struct kvh_victims gone;
	struct hunt hunt;
	uint64_t bytes = 0;

	for (;;) {
		kvh_arena_stats(l1->arena, &stats);
		if (stats.used_bytes <= target_bytes)
			return bytes;
		hunt = (struct hunt){
			.lane = KVH_LANE_ANY,
			.want = UINT32_MAX,
			.want_bytes = stats.used_bytes - target_bytes,
			.patient = true,
			.coming = kvh_l1_coming(l1),
		};
		gone = hunt_all(l1, &hunt);
		if (gone.n == 0)
			return bytes;
		(void)__atomic_fetch_add(&l1->evicted_background, gone.n, __ATOMIC_RELAXED);
		bytes += gone.bytes;
	}
}
