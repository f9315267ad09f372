/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1.c - L1's interface: publishing, finding and dropping frames. Any thread.
 * l1_reserve.c makes them, l1_lease.c has leases and holds, l1_evict.c eviction, l1_frame.c the
 * states. Never touches the memory of a frame.
 */
#include "host/l1_batch.h"
#include "host/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SHARDS_DEFAULT 64u
#define FIRST_BUCKETS  16u /* of a shard's index, to half as many more */
/* Records beyond one a page: in use by reserves that wait for memory, and
 * unused ones that lie in shards. */
#define RECS_SPARE (KVH_SHARDS_MAX * 64u + 64u * KVH_BATCH_MAX)

/* ---- open, close -------------------------------------------------------- */

static void *map_table(uint64_t n, size_t size)
{
	void *at = mmap(NULL, n * size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at != MAP_FAILED ? at : NULL;
}

static void unmap_table(void *at, uint64_t n, size_t size)
{
	if (at != NULL)
		(void)munmap(at, n * size);
}

static void tables_close(struct kvh_l1 *l1)
{
	unmap_table(l1->recs, l1->pool.max, sizeof(*l1->recs));
	unmap_table(l1->parents, l1->pool.max, sizeof(*l1->parents));
	kvh_order_items_close(&l1->items);
	unmap_table(l1->owners, l1->n_pages, sizeof(*l1->owners));
}

static int tables_open(struct kvh_l1 *l1)
{
	l1->recs = map_table(l1->pool.max, sizeof(*l1->recs));
	l1->parents = map_table(l1->pool.max, sizeof(*l1->parents));
	l1->owners = map_table(l1->n_pages, sizeof(*l1->owners));
	if (l1->recs == NULL || l1->parents == NULL || l1->owners == NULL ||
	    kvh_order_items_open(&l1->items, l1->pool.max) != 0) {
		kvh_err("L1: no addresses for the records of %" PRIu64 " pages", l1->n_pages);
		tables_close(l1);
		return -ENOMEM;
	}
	/* Records are looked at in no order: fewer TLB entries for them. */
	(void)madvise(l1->recs, l1->pool.max * sizeof(*l1->recs), MADV_HUGEPAGE);
	(void)madvise(l1->parents, l1->pool.max * sizeof(*l1->parents), MADV_HUGEPAGE);
	return 0;
}

static int shards_open(struct kvh_l1 *l1)
{
	size_t bytes = l1->n_shards * sizeof(*l1->shards);

	l1->shards = aligned_alloc(_Alignof(struct kvh_l1_shard), bytes);
	l1->oldest = calloc(l1->n_shards, sizeof(*l1->oldest));
	if (l1->shards == NULL || l1->oldest == NULL) {
		free(l1->shards);
		free(l1->oldest);
		return -ENOMEM;
	}
	memset(l1->shards, 0, bytes);
	for (uint32_t i = 0; i < l1->n_shards; i++) {
		struct kvh_l1_shard *shard = &l1->shards[i];

		pthread_mutex_init(&shard->lock, NULL);
		kvh_index_open(&shard->index, l1->recs,
			       FIRST_BUCKETS + FIRST_BUCKETS / 2 * i / l1->n_shards);
		shard->unused = KVH_REC_NONE;
	}
	return 0;
}

static int parts_open(struct kvh_l1 *l1)
{
	int rc = tables_open(l1);

	if (rc != 0)
		return rc;
	rc = shards_open(l1);
	if (rc != 0)
		goto err_tables;
	rc = kvh_l1_lanes_open(l1);
	if (rc != 0)
		goto err_shards;
	rc = kvh_spaces_open(&l1->spaces);
	if (rc != 0)
		goto err_lanes;
	rc = kvh_families_open(&l1->families);
	if (rc != 0)
		goto err_spaces;
	rc = kvh_clients_open(&l1->clients);
	if (rc != 0)
		goto err_families;
	pthread_mutex_init(&l1->pool.lock, NULL);
	pthread_mutex_init(&l1->watcher.lock, NULL);
	return 0;

err_families:
	kvh_families_close(&l1->families);
err_spaces:
	kvh_spaces_close(&l1->spaces);
err_lanes:
	kvh_l1_lanes_close(l1);
err_shards:
	free(l1->shards);
	free(l1->oldest);
err_tables:
	tables_close(l1);
	return rc;
}

int kvh_l1_open(const struct kvh_l1_opts *opts, struct kvh_l1 **l1_p)
{
	uint32_t n_shards = opts->n_shards != 0 ? opts->n_shards : SHARDS_DEFAULT;
	const struct kvh_arena_piece *pieces;
	const struct kvh_order_ops *policy;
	struct kvh_arena_stats stats;
	struct kvh_l1 *l1;
	uint64_t span;
	int rc;

	if (n_shards > KVH_SHARDS_MAX || (n_shards & (n_shards - 1)) != 0) {
		kvh_err("L1 with %" PRIu32 " shards: must be a power of two up to %u", n_shards,
			KVH_SHARDS_MAX);
		return -EINVAL;
	}
	policy = kvh_order_find(opts->eviction);
	if (policy == NULL) {
		kvh_err("L1: there is no eviction policy '%s'; there are %s", opts->eviction,
			kvh_order_names());
		return -EINVAL;
	}
	l1 = aligned_alloc(_Alignof(struct kvh_l1), sizeof(*l1));
	if (l1 == NULL)
		return -ENOMEM;
	memset(l1, 0, sizeof(*l1));
	kvh_arena_stats(opts->arena, &stats);
	(void)kvh_arena_pieces(opts->arena, &pieces);
	l1->policy = policy;
	l1->demote = opts->demote;
	l1->demote_arg = opts->demote_arg;
	l1->arena = opts->arena;
	l1->base = kvh_arena_base(opts->arena, &span);
	l1->n_pages = span / KVH_FRAME_ALIGN;
	l1->frame_max = pieces[0].bytes;
	l1->n_shards = n_shards;
	l1->pool.unused = KVH_REC_NONE;
	l1->pool.max = (uint32_t)(stats.wanted_bytes / KVH_FRAME_ALIGN) + RECS_SPARE;
	rc = parts_open(l1);
	if (rc != 0) {
		kvh_err("L1: no memory for its tables");
		free(l1);
		return rc;
	}
	*l1_p = l1;
	return 0;
}

static void free_memory(struct kvh_l1 *l1, uint32_t rec)
{
	const struct kvh_index_rec *r = &l1->recs[rec];
	enum kvh_frame_state state = kvh_word_state(r->word);

	if (state == KVH_FRAME_ABSENT || state == KVH_FRAME_QUARANTINED)
		return;
	/* Else somebody holds it still. */
	assert(state == KVH_FRAME_READY && kvh_word_count(r->word) == 0);
	if (r->page != KVH_PAGE_UNSET)
		kvh_arena_free(l1->arena, kvh_l1_memory(l1, r->page));
}

void kvh_l1_close(struct kvh_l1 *l1)
{
#ifdef KVH_DEBUG
	assert(kvh_l1_check(l1));
#endif
	for (uint32_t i = 0; i < l1->pool.fresh; i++)
		free_memory(l1, i);
	for (uint32_t i = 0; i < l1->n_shards; i++) {
		kvh_index_close(&l1->shards[i].index);
		pthread_mutex_destroy(&l1->shards[i].lock);
	}
	kvh_clients_close(l1->clients);
	kvh_families_close(&l1->families);
	kvh_spaces_close(&l1->spaces);
	kvh_l1_lanes_close(l1);
	pthread_mutex_destroy(&l1->pool.lock);
	pthread_mutex_destroy(&l1->watcher.lock);
	free(l1->shards);
	free(l1->oldest);
	tables_close(l1);
	free(l1);
}

/* ---- one frame ---------------------------------------------------------- */

/* The writer's claim on a frame that was doomed while it filled it. */
static void drop_cancelled(struct kvh_l1 *l1, uint32_t rec)
{
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	uint64_t word;

	kvh_l1_lock(shard);
	word = kvh_word_load(&l1->recs[rec]);
	assert(kvh_word_state(word) == KVH_FRAME_CANCELLED);
	(void)kvh_l1_move(&l1->recs[rec], &word, KVH_FRAME_ABSENT, 0);
	kvh_l1_count(&shard->doomed, UINT64_MAX);
	kvh_l1_give(l1, shard, rec);
	pthread_mutex_unlock(&shard->lock);
}

/* Of a frame that was FILLING, with the lock held that keeps its record. */
static void tell_rec(struct kvh_l1 *l1, uint32_t rec, uint64_t word)
{
	struct kvh_key key;

	if ((word & KVH_WORD_WATCH) == 0)
		return;
	kvh_l1_rec_key(l1, rec, &key);
	kvh_l1_tell(l1, &key);
}

int kvh_l1_publish(struct kvh_l1 *l1, kvh_frame frame, uint32_t holds)
{
	uint32_t rec = kvh_l1_rec(l1, frame);
	uint64_t word = kvh_word_load(&l1->recs[rec]);
	struct kvh_key key;

	do {
		if (kvh_word_state(word) == KVH_FRAME_CANCELLED) {
			drop_cancelled(l1, rec);
			return -ECANCELED;
		}
		assert(kvh_word_state(word) == KVH_FRAME_FILLING);
		if ((word & KVH_WORD_WATCH) != 0)
			kvh_l1_rec_key(l1, rec, &key);
	} while (!kvh_l1_move(&l1->recs[rec], &word, KVH_FRAME_READY, holds));
	if (holds > 0)
		__atomic_fetch_add(&kvh_l1_shard_of(l1, rec)->holds, holds, __ATOMIC_RELAXED);
	else
		kvh_l1_published(l1, rec, word);
	if ((word & KVH_WORD_WATCH) != 0)
		kvh_l1_tell(l1, &key);
	return 0;
}

void kvh_l1_keep(struct kvh_l1 *l1, kvh_frame frame)
{
	(void)__atomic_fetch_and(&l1->recs[kvh_l1_rec(l1, frame)].word, ~KVH_WORD_TEMP,
				 __ATOMIC_ACQ_REL);
}

void kvh_l1_set_guess(struct kvh_l1 *l1, kvh_frame frame)
{
	(void)__atomic_fetch_or(&l1->recs[kvh_l1_rec(l1, frame)].word, KVH_WORD_GUESS,
				__ATOMIC_ACQ_REL);
}

void kvh_l1_abort(struct kvh_l1 *l1, kvh_frame frame)
{
	uint32_t rec = kvh_l1_rec(l1, frame);
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	struct kvh_index_rec *r = &l1->recs[rec];
	uint64_t word;

	kvh_l1_lock(shard);
	word = kvh_word_load(r);
	assert(kvh_word_state(word) == KVH_FRAME_FILLING ||
	       kvh_word_state(word) == KVH_FRAME_CANCELLED);
	if (kvh_word_state(word) == KVH_FRAME_FILLING)
		kvh_l1_unfind(l1, shard, rec, word);
	else
		kvh_l1_count(&shard->doomed, UINT64_MAX);
	/* Only the lock's holder and the writer, the caller, could change it. */
	(void)kvh_l1_move(r, &word, KVH_FRAME_ABSENT, 0);
	tell_rec(l1, rec, word);
	kvh_l1_give(l1, shard, rec);
	kvh_l1_unlock(l1, shard);
}

void *kvh_l1_data(const struct kvh_l1 *l1, kvh_frame frame)
{
	return kvh_l1_memory(l1, l1->recs[kvh_l1_rec(l1, frame)].page);
}

bool kvh_l1_doomed(const struct kvh_l1 *l1, kvh_frame frame)
{
	return kvh_word_state(kvh_word_load(&l1->recs[kvh_l1_rec(l1, frame)])) !=
	       KVH_FRAME_READY;
}

uint64_t kvh_l1_frame_bytes(const struct kvh_l1 *l1, kvh_frame frame)
{
	return kvh_arena_frame_bytes(l1->arena, kvh_l1_data(l1, frame));
}

void kvh_l1_rec_key(const struct kvh_l1 *l1, uint32_t rec, struct kvh_key *key)
{
	const struct kvh_index_rec *r = &l1->recs[rec];
	const struct kvh_family *family = &l1->families.family[kvh_index_family(r)];

	memcpy(key->hash.bytes, r->hash, sizeof(key->hash.bytes));
	key->space = family->space;
	key->rank = family->rank;
	key->group = family->group;
}

void kvh_l1_key(const struct kvh_l1 *l1, kvh_frame frame, struct kvh_key *key)
{
	kvh_l1_rec_key(l1, kvh_l1_rec(l1, frame), key);
}

/* Out of the index: ABSENT, or DOOMED while somebody holds it. */
void kvh_l1_erase_rec(struct kvh_l1 *l1, struct kvh_l1_shard *shard, uint32_t rec)
{
	struct kvh_index_rec *r = &l1->recs[rec];
	uint64_t word = kvh_word_load(r);
	enum kvh_frame_state to;

	do {
		if (kvh_word_state(word) == KVH_FRAME_FILLING)
			to = KVH_FRAME_CANCELLED;
		else
			to = kvh_word_count(word) > 0 ? KVH_FRAME_DOOMED : KVH_FRAME_ABSENT;
	} while (!kvh_l1_move(r, &word, to, kvh_word_count(word)));
	kvh_l1_unfind(l1, shard, rec, word);
	tell_rec(l1, rec, word);
	if (to == KVH_FRAME_ABSENT)
		kvh_l1_give(l1, shard, rec);
	else
		kvh_l1_count(&shard->doomed, 1);
}

int kvh_l1_erase(struct kvh_l1 *l1, const struct kvh_key *key)
{
	struct kvh_batch batch;
	struct kvh_l1_shard *shard;
	uint32_t rec;

	kvh_batch_fill(&batch, l1, key, sizeof(*key), 1, false);
	shard = &l1->shards[batch.shard[0]];
	kvh_l1_lock(shard);
	rec = kvh_batch_find(&batch, shard, 0, key);
	if (rec != KVH_REC_NONE)
		kvh_l1_erase_rec(l1, shard, rec);
	kvh_l1_unlock(l1, shard);
	return rec != KVH_REC_NONE ? 0 : -ENOENT;
}

static bool is_found(uint64_t word)
{
	return kvh_word_state(word) == KVH_FRAME_FILLING ||
	       kvh_word_state(word) == KVH_FRAME_READY;
}

void kvh_l1_doom(struct kvh_l1 *l1, kvh_frame frame)
{
	uint32_t rec = kvh_l1_rec(l1, frame);
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);

	kvh_l1_lock(shard);
	if (is_found(kvh_word_load(&l1->recs[rec])))
		kvh_l1_erase_rec(l1, shard, rec);
	kvh_l1_unlock(l1, shard);
}

static bool is_writers(uint64_t word)
{
	return kvh_word_state(word) == KVH_FRAME_FILLING ||
	       kvh_word_state(word) == KVH_FRAME_CANCELLED;
}

void kvh_l1_quarantine(struct kvh_l1 *l1, kvh_frame frame)
{
	uint32_t rec = kvh_l1_rec(l1, frame);
	struct kvh_l1_shard *shard = kvh_l1_shard_of(l1, rec);
	struct kvh_index_rec *r = &l1->recs[rec];
	uint64_t word;

	kvh_l1_lock(shard);
	word = kvh_word_load(r);
	if (kvh_word_state(word) != KVH_FRAME_QUARANTINED) {
		while (!kvh_l1_move(r, &word, KVH_FRAME_QUARANTINED, kvh_word_count(word) - 1))
			;
		if (is_found(word))
			kvh_l1_unfind(l1, shard, rec, word);
		else
			kvh_l1_count(&shard->doomed, UINT64_MAX);
		kvh_l1_count(&shard->quarantined, 1);
		tell_rec(l1, rec, word);
	} else { /* a second transfer of the frame hangs, too */
		kvh_l1_unref(l1, rec);
	}
	if (!is_writers(word))
		__atomic_fetch_sub(&shard->holds, 1, __ATOMIC_RELAXED);
	kvh_l1_unlock(l1, shard);
}

/* ---- find, stats -------------------------------------------------------- */

static uint8_t found_as(const struct kvh_l1 *l1, uint32_t rec)
{
	if (rec == KVH_REC_NONE)
		return 0;
	return kvh_word_state(kvh_word_load(&l1->recs[rec])) == KVH_FRAME_READY ? 1 : 2;
}

static void find_part(struct kvh_l1 *l1, const struct kvh_key *keys, uint32_t n, uint8_t *found)
{
	struct kvh_batch batch;

	kvh_batch_fill(&batch, l1, keys, sizeof(*keys), n, false);
	for (uint32_t at = 0, end; at < n; at = end) {
		end = kvh_batch_lock(l1, &batch, at);
		for (uint32_t k = at; k < end; k++) {
			struct kvh_l1_shard *shard = kvh_batch_shard(l1, &batch, k);
			uint32_t i = batch.order[k];

			found[i] = found_as(l1, kvh_batch_find(&batch, shard, i, &keys[i]));
		}
		kvh_batch_unlock(l1, &batch, at, end);
	}
}

void kvh_l1_find(struct kvh_l1 *l1, const struct kvh_key *keys, uint32_t n, uint8_t *found)
{
	for (uint32_t at = 0; at < n; at += KVH_BATCH_MAX)
		find_part(l1, keys + at, n - at < KVH_BATCH_MAX ? n - at : KVH_BATCH_MAX,
			  found + at);
}

void kvh_l1_stats(struct kvh_l1 *l1, struct kvh_l1_stats *stats)
{
	struct kvh_arena_stats arena;

	kvh_arena_stats(l1->arena, &arena);
	*stats = (struct kvh_l1_stats){
		.leases = kvh_clients_leases(l1->clients),
		.used_bytes = arena.used_bytes,
		.evicted_alloc = __atomic_load_n(&l1->evicted_alloc, __ATOMIC_RELAXED),
		.evicted_background = __atomic_load_n(&l1->evicted_background,
						      __ATOMIC_RELAXED),
		.evicted_quota = __atomic_load_n(&l1->evicted_quota, __ATOMIC_RELAXED),
		.leases_expired = __atomic_load_n(&l1->expired, __ATOMIC_RELAXED),
		.guesses_used = __atomic_load_n(&l1->guesses_used, __ATOMIC_RELAXED),
		.guesses_wasted = __atomic_load_n(&l1->guesses_wasted, __ATOMIC_RELAXED),
		.demoting = __atomic_load_n(&l1->n_line, __ATOMIC_RELAXED) +
			    __atomic_load_n(&l1->n_demoting, __ATOMIC_RELAXED),
	};
	for (uint32_t i = 0; i < l1->n_shards; i++) {
		const struct kvh_l1_shard *shard = &l1->shards[i];

		stats->frames += __atomic_load_n(&shard->frames, __ATOMIC_RELAXED);
		stats->doomed += __atomic_load_n(&shard->doomed, __ATOMIC_RELAXED);
		stats->holds += __atomic_load_n(&shard->holds, __ATOMIC_RELAXED);
	}
}
