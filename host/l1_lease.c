/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1_lease.c - leases and holds: who keeps a frame, and giving it back. Any
 * thread. A lease's count is added before its entry is there and taken back
 * after the entry is gone: an entry that can be seen always has its count.
 */
#include "host/l1_batch.h"

#include <errno.h>

int kvh_l1_client_open(struct kvh_l1 *l1, uint32_t *client_p)
{
	return kvh_client_open(l1->clients, client_p);
}

bool kvh_l1_timed(const struct kvh_l1 *l1)
{
	return kvh_clients_timed(l1->clients);
}

static void lease_ended(void *arg, uint32_t rec)
{
	kvh_l1_unref(arg, rec);
}

uint64_t kvh_l1_expire(struct kvh_l1 *l1, uint64_t now_ns)
{
	uint64_t next, n = kvh_clients_expire(l1->clients, now_ns, lease_ended, l1, &next);

	if (n > 0)
		(void)__atomic_fetch_add(&l1->expired, n, __ATOMIC_RELAXED);
	return next;
}

void kvh_l1_client_close(struct kvh_l1 *l1, uint32_t client)
{
	int rc = kvh_client_close(l1->clients, client, lease_ended, l1);

	assert(rc == 0);
	(void)rc;
}

/* 0 with a count added, -ENOENT, -EINPROGRESS, -ENOMEM. */
static int32_t lease_rec(struct kvh_l1 *l1, uint32_t rec)
{
	uint64_t word;

	if (rec == KVH_REC_NONE)
		return -ENOENT;
	word = kvh_word_load(&l1->recs[rec]);
	if (kvh_word_state(word) != KVH_FRAME_READY)
		return -EINPROGRESS;
	if (kvh_word_count(word) >= KVH_LEASED_MAX)
		return -ENOMEM;
	kvh_l1_ref(l1, rec);
	return 0;
}

struct lease_part {
	struct kvh_client *client;
	const struct kvh_key *keys;
	kvh_lease_t *leases;
	int32_t *status;
	uint32_t room; /* entries that the client has left for it */
	uint32_t stamp;
	uint64_t deadline_ns;
};

/* The records of the items [at, end), whose shards are locked. Their neighbours
 * in the LRU lists are what is missed in the cache next. */
static void find_window(struct kvh_l1 *l1, const struct kvh_batch *batch,
			const struct kvh_key *keys, uint32_t at, uint32_t end, uint32_t *recs)
{
	for (uint32_t k = at; k < end; k++) {
		uint32_t i = batch->order[k];

		recs[k - at] = kvh_batch_find(batch, kvh_batch_shard(l1, batch, k), i,
					      &keys[i]);
		if (recs[k - at] != KVH_REC_NONE)
			__builtin_prefetch(&l1->items.links[recs[k - at]], 1);
	}
	for (uint32_t k = at; k < end; k++) {
		uint32_t rec = recs[k - at];

		if (rec == KVH_REC_NONE)
			continue;
		/* Of no record, at a list's ends: an address that is never used. */
		__builtin_prefetch(&l1->items.links[l1->items.links[rec].newer], 1);
		__builtin_prefetch(&l1->items.links[l1->items.links[rec].older], 1);
	}
}

static uint32_t lease_window(struct kvh_l1 *l1, const struct kvh_batch *batch, uint32_t at,
			     uint32_t end, struct lease_part *part)
{
	const struct kvh_l1_shard *last = NULL;
	uint32_t recs[KVH_BATCH_MAX];
	uint32_t after = KVH_REC_NONE, got = 0;

	find_window(l1, batch, part->keys, at, end, recs);
	for (uint32_t k = at; k < end; k++) {
		struct kvh_l1_shard *shard = kvh_batch_shard(l1, batch, k);
		uint32_t i = batch->order[k], rec = recs[k - at];

		after = shard == last ? after : KVH_REC_NONE;
		last = shard;
		part->leases[i] = KVH_NONE;
		part->status[i] = got < part->room ? lease_rec(l1, rec) : -ENOMEM;
		if (part->status[i] != 0)
			continue;
		part->leases[i] = kvh_client_take(part->client, rec, part->deadline_ns);
		got++;
		kvh_l1_use(l1, shard, rec, &after, part->stamp + batch->n - 1 - i);
	}
	part->room -= got;
	return got;
}

static uint32_t lease_part(struct kvh_l1 *l1, struct lease_part *part, uint32_t n)
{
	struct kvh_batch batch;
	uint32_t got = 0;

	part->room = kvh_client_prepare(part->client, n);
	part->stamp = kvh_l1_tick(l1, n);
	kvh_batch_fill(&batch, l1, part->keys, sizeof(*part->keys), n, false);
	for (uint32_t at = 0, end; at < n; at = end) {
		end = kvh_batch_lock_one(l1, &batch, at, true);
		got += lease_window(l1, &batch, at, end, part);
		kvh_batch_unlock(l1, &batch, at, end);
	}
	return got;
}

uint32_t kvh_l1_lease_until(struct kvh_l1 *l1, uint32_t client, const struct kvh_key *keys,
			    uint32_t n, uint64_t deadline_ns, kvh_lease_t *leases,
			    int32_t *status)
{
	struct kvh_client *c = kvh_client_lock(l1->clients, client);
	uint32_t got = 0;

	if (c == NULL) {
		for (uint32_t i = 0; i < n; i++) {
			leases[i] = KVH_NONE;
			status[i] = -ESTALE;
		}
		return 0;
	}
	for (uint32_t at = 0; at < n; at += KVH_BATCH_MAX) {
		struct lease_part part = {
			.client = c,
			.keys = keys + at,
			.leases = leases + at,
			.status = status + at,
			.deadline_ns = deadline_ns,
		};

		got += lease_part(l1, &part, n - at < KVH_BATCH_MAX ? n - at : KVH_BATCH_MAX);
	}
	kvh_client_unlock(c);
	return got;
}

int kvh_l1_lease_held_until(struct kvh_l1 *l1, uint32_t client, kvh_frame frame,
			    uint64_t deadline_ns, kvh_lease_t *lease_p)
{
	uint32_t rec = kvh_l1_rec(l1, frame);
	struct kvh_client *c = kvh_client_lock(l1->clients, client);
	int rc = 0;

	if (c == NULL)
		return -ESTALE;
	if (kvh_client_prepare(c, 1) < 1 ||
	    kvh_word_count(kvh_word_load(&l1->recs[rec])) >= KVH_LEASED_MAX) {
		rc = -ENOMEM;
	} else {
		kvh_l1_ref(l1, rec);
		*lease_p = kvh_client_take(c, rec, deadline_ns);
	}
	kvh_client_unlock(c);
	return rc;
}

void kvh_l1_lease_deadline(struct kvh_l1 *l1, const kvh_lease_t *leases, uint32_t n,
			   uint64_t deadline_ns)
{
	for (uint32_t i = 0; i < n; i++)
		if (leases[i] != KVH_NONE)
			kvh_lease_deadline(l1->clients, leases[i], deadline_ns);
}

int kvh_l1_release(struct kvh_l1 *l1, kvh_lease_t lease)
{
	uint32_t rec;
	int rc = kvh_lease_end(l1->clients, lease, &rec);

	if (rc == 0)
		kvh_l1_unref(l1, rec);
	return rc;
}

static void count_hold(struct kvh_l1 *l1, uint32_t rec, uint64_t n)
{
	__atomic_fetch_add(&kvh_l1_shard_of(l1, rec)->holds, n, __ATOMIC_RELAXED);
}

/* The lease may be released at any moment, and the record be another frame's
 * then. So: a word that was read between two looks at the held lease is the
 * leased frame's, and the swap succeeds only if it still is. */
static int hold_leased(struct kvh_l1 *l1, kvh_lease_t lease, uint32_t rec, kvh_frame *frame_p)
{
	uint64_t word = kvh_word_load(&l1->recs[rec]);
	uint32_t again;

	do {
		int rc = kvh_lease_rec(l1->clients, lease, &again);

		if (rc != 0)
			return rc;
		assert(again == rec && kvh_word_count(word) > 0);
		assert(kvh_word_count(word) < KVH_COUNT_MAX);
	} while (!kvh_word_swap(&l1->recs[rec], &word, word + KVH_WORD_ONE));
	count_hold(l1, rec, 1);
	*frame_p = kvh_l1_value(rec, word);
	return 0;
}

int kvh_l1_hold_lease(struct kvh_l1 *l1, kvh_lease_t lease, kvh_frame *frame_p)
{
	uint32_t rec;
	int rc = kvh_lease_begin(l1->clients, lease, &rec);

	if (rc != 0)
		return rc;
	rc = hold_leased(l1, lease, rec, frame_p);
	if (rc != 0)
		kvh_lease_finish(l1->clients, lease);
	return rc;
}

void kvh_l1_unhold_lease(struct kvh_l1 *l1, kvh_lease_t lease, kvh_frame frame)
{
	kvh_lease_finish(l1->clients, lease);
	kvh_l1_unhold(l1, frame);
}

int kvh_l1_hold_key(struct kvh_l1 *l1, const struct kvh_key *key, kvh_frame *frame_p)
{
	struct kvh_batch batch;
	struct kvh_l1_shard *shard;
	uint64_t word = 0;
	uint32_t rec;

	kvh_batch_fill(&batch, l1, key, sizeof(*key), 1, false);
	shard = &l1->shards[batch.shard[0]];
	kvh_l1_lock(shard);
	rec = kvh_batch_find(&batch, shard, 0, key);
	if (rec != KVH_REC_NONE)
		word = kvh_word_load(&l1->recs[rec]);
	if (kvh_word_state(word) == KVH_FRAME_READY)
		kvh_l1_ref(l1, rec);
	pthread_mutex_unlock(&shard->lock);
	if (kvh_word_state(word) != KVH_FRAME_READY)
		return -ENOENT;
	count_hold(l1, rec, 1);
	*frame_p = kvh_l1_value(rec, word);
	return 0;
}

void kvh_l1_unhold(struct kvh_l1 *l1, kvh_frame frame)
{
	uint32_t rec = kvh_l1_rec(l1, frame);

	count_hold(l1, rec, UINT64_MAX);
	kvh_l1_unref(l1, rec);
}

/* ---- use without a lease ------------------------------------------------ */

static int32_t touch_rec(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec,
			 uint32_t *after, uint32_t stamp)
{
	struct kvh_index_rec *r;

	if (rec == KVH_REC_NONE)
		return -ENOENT;
	r = &l1->recs[rec];
	if (kvh_word_state(kvh_word_load(r)) != KVH_FRAME_READY)
		return -EINPROGRESS;
	(void)__atomic_fetch_and(&r->word, ~KVH_WORD_TEMP, __ATOMIC_ACQ_REL);
	kvh_l1_use(l1, shard, rec, after, stamp);
	return 0;
}

static uint32_t touch_part(struct kvh_l1 *l1, const struct kvh_key *keys, uint32_t n,
			   int32_t *status)
{
	struct kvh_batch batch;
	uint32_t stamp = kvh_l1_tick(l1, n), there = 0;

	kvh_batch_fill(&batch, l1, keys, sizeof(*keys), n, false);
	for (uint32_t at = 0, end; at < n; at = end) {
		const struct kvh_l1_shard *last = NULL;
		uint32_t after = KVH_REC_NONE;

		end = kvh_batch_lock_one(l1, &batch, at, true);
		for (uint32_t k = at; k < end; k++) {
			struct kvh_l1_shard *shard = kvh_batch_shard(l1, &batch, k);
			uint32_t i = batch.order[k];

			after = shard == last ? after : KVH_REC_NONE;
			last = shard;
			status[i] = touch_rec(l1, shard,
					      kvh_batch_find(&batch, shard, i, &keys[i]),
					      &after, stamp + n - 1 - i);
			there += status[i] == 0;
		}
		kvh_batch_unlock(l1, &batch, at, end);
	}
	return there;
}

uint32_t kvh_l1_touch(struct kvh_l1 *l1, const struct kvh_key *keys, uint32_t n,
		      int32_t *status)
{
	uint32_t there = 0;

	for (uint32_t at = 0; at < n; at += KVH_BATCH_MAX)
		there += touch_part(l1, keys + at,
				    n - at < KVH_BATCH_MAX ? n - at : KVH_BATCH_MAX,
				    status + at);
	return there;
}
