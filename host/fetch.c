/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fetch.c - a chunk that prefetches wait for, on its way into L1: read once,
 * whoever and however many want it. The controller's thread.
 *
 *   want --reserved--> READING --arrived--> published, leased for all who wait
 *     |                 |  ^  `--the last adapter failed--> lost for all who wait
 *     |                 `--'  failed, or too slow: the next adapter
 *     `--another fills it--> WATCHED --settled--> each looks at L1 again
 *
 * Who leaves takes nothing from the others: a read is given up when the last of
 * those who wait was cancelled, and goes on for L1 when it only ran out of time.
 * A chunk that is erased leaves at once, and what is read of it is nobody's.
 */
#include "host/clock.h"
#include "host/controller_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table ----------------------------------------------------------- */

static struct kvh_fetch **bucket_of(struct kvh_controller *c, const struct kvh_key *key)
{
	uint64_t h;

	memcpy(&h, key->hash.bytes, sizeof(h));
	h = (h ^ key->space ^ ((uint64_t)key->rank << 20) ^ key->group) *
	    UINT64_C(0x9E3779B97F4A7C15);
	return &c->prefetcher.fetches[h >> 52];
}
_Static_assert(KVH_FETCH_BUCKETS == 1u << 12, "bucket_of takes the top 12 bits");

static struct kvh_fetch *fetch_find(struct kvh_controller *c, const struct kvh_key *key)
{
	struct kvh_fetch *f = *bucket_of(c, key);

	while (f != NULL && memcmp(&f->key, key, sizeof(*key)) != 0)
		f = f->next;
	return f;
}

static struct kvh_fetch *fetch_make(struct kvh_controller *c, const struct kvh_space *space,
				    const struct kvh_key *key, uint32_t maybe)
{
	struct kvh_fetch **bucket = bucket_of(c, key);
	struct kvh_fetch *f = calloc(1, sizeof(*f));

	if (f == NULL)
		return NULL;
	f->key = *key;
	f->c = c;
	f->space = space;
	f->maybe = maybe;
	LIST_INIT(&f->waits);
	f->next = *bucket;
	*bucket = f;
	return f;
}

static void fetch_free(struct kvh_fetch *f)
{
	struct kvh_fetch **link = bucket_of(f->c, &f->key);

	assert(LIST_EMPTY(&f->waits));
	while (*link != f)
		link = &(*link)->next;
	*link = f->next;
	free(f);
}

/* ---- who waits ------------------------------------------------------------ */

static int wait_add(struct kvh_fetch *f, struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_wait *wait = malloc(sizeof(*wait));

	if (wait == NULL)
		return -ENOMEM;
	*wait = (struct kvh_wait){.fetch = f, .p = p, .entry = entry};
	LIST_INSERT_HEAD(&f->waits, wait, of_fetch);
	LIST_INSERT_HEAD(&p->waits, wait, of_prefetch);
	f->retain |= !p->temporary && (f->c->policy.policy->flags & KVH_POLICY_RETAIN) != 0;
	p->entry[entry] = KVH_ENTRY_WAITING;
	return 0;
}

static void wait_free(struct kvh_wait *wait)
{
	LIST_REMOVE(wait, of_fetch);
	LIST_REMOVE(wait, of_prefetch);
	free(wait);
}

/* Takes the first who waits out; NULL: nobody does. */
static struct kvh_prefetch *wait_pop(struct kvh_fetch *f, uint32_t *entry_p)
{
	struct kvh_wait *wait = LIST_FIRST(&f->waits);
	struct kvh_prefetch *p;

	if (wait == NULL)
		return NULL;
	p = wait->p;
	*entry_p = wait->entry;
	wait_free(wait);
	return p;
}

/* It cannot be had: from any adapter, not only those that were asked. */
static void fetch_lost(struct kvh_fetch *f)
{
	struct kvh_prefetch *p;
	uint32_t entry;

	kvh_count(&f->c->opts.metrics->speculation_wasted, f->speculative);

	while ((p = wait_pop(f, &entry)) != NULL)
		kvh_prefetch_entry_lost(p, entry);
	fetch_free(f);
}

static enum kvh_want no_memory(struct kvh_prefetch *p)
{
	p->no_memory = true;
	return KVH_WANT_LOST;
}

static enum kvh_want join(struct kvh_fetch *f, struct kvh_prefetch *p, uint32_t entry)
{
	struct kvh_metrics *m = f->c->opts.metrics;

	if (wait_add(f, p, entry) != 0)
		return no_memory(p);
	f->maybe |= p->hits[entry] & KVH_HITS_MAYBE;
	if (f->read != NULL)
		kvh_count(&m->reads_shared, 1);
	if (f->speculative)
		kvh_count(&m->speculation_hits, 1);
	f->speculative = false;
	return KVH_WANT_WAITS;
}

/* ---- beginning ------------------------------------------------------------ */

static enum kvh_want watch(struct kvh_prefetch *p, uint32_t entry, const struct kvh_key *key)
{
	struct kvh_fetch *f;

	switch (kvh_l1_watch(p->controller->opts.l1, key)) {
	case 0: break;
	case -EEXIST: return KVH_WANT_IN_L1;
	default: /* nobody fills it any more: who has it? */
		kvh_prefetch_entry_gone(p, entry);
		return p->entry[entry] == KVH_ENTRY_WANTED ? KVH_WANT_AGAIN : KVH_WANT_LOST;
	}
	f = fetch_make(p->controller, p->space, key, 0);
	if (f == NULL)
		return no_memory(p);
	if (wait_add(f, p, entry) == 0)
		return KVH_WANT_WAITS;
	fetch_free(f);
	return no_memory(p);
}

/* 0, -EEXIST, -EINPROGRESS, -ENOMEM, -EINVAL: as L1 says. */
static int reserve(struct kvh_controller *c, const struct kvh_space *space,
		   const struct kvh_key *key, kvh_frame *frame_p)
{
	/* Whether it is to be kept is known when it has come. */
	struct kvh_l1_reserve item = {.key = *key, .flags = KVH_L1_TEMPORARY};

	item.payload_bytes = space->groups[key->group].payload_bytes;
	item.near = kvh_space_near(space, key->rank);
	(void)kvh_l1_reserve(c->opts.l1, &item, 1);
	*frame_p = item.frame;
	return item.status;
}

static uint32_t usable(const struct kvh_controller *c, uint32_t adapters)
{
	for (uint32_t rest = adapters; rest != 0; rest &= rest - 1)
		if (!kvh_adapter_usable(c->adapters[__builtin_ctz(rest)]))
			adapters &= ~(rest & -rest);
	return adapters;
}

/* A fetch with a read into `frame`; NULL: no memory, and the frame is as it was. */
static struct kvh_fetch *fetch_read(struct kvh_controller *c, const struct kvh_space *space,
				    const struct kvh_key *key, uint32_t maybe, uint32_t adapter,
				    kvh_frame frame, bool guess)
{
	struct kvh_fetch *f = fetch_make(c, space, key, maybe);

	if (f == NULL)
		return NULL;
	f->asked = UINT32_C(1) << adapter;
	f->speculative = f->retain = guess;
	if (kvh_read_start(f, adapter, frame) == 0)
		return f;
	fetch_free(f);
	return NULL;
}

static enum kvh_want begin(struct kvh_prefetch *p, uint32_t entry, const struct kvh_key *key,
			   uint32_t adapter)
{
	struct kvh_controller *c = p->controller;
	uint32_t maybe = p->hits[entry] & KVH_HITS_MAYBE;
	struct kvh_fetch *f;
	kvh_frame frame;

	switch (reserve(c, p->space, key, &frame)) {
	case 0: break;
	case -EEXIST: return KVH_WANT_IN_L1;
	case -EINPROGRESS: return watch(p, entry, key);
	default: return no_memory(p);
	}
	f = fetch_read(c, p->space, key, maybe, adapter, frame, false);
	if (f == NULL) {
		kvh_l1_abort(c->opts.l1, frame);
		return no_memory(p);
	}
	if (wait_add(f, p, entry) == 0)
		return KVH_WANT_WAITS;
	return no_memory(p); /* the read goes on, for L1 */
}

enum kvh_want kvh_fetch_want(struct kvh_prefetch *p, uint32_t entry, const struct kvh_key *key)
{
	struct kvh_controller *c = p->controller;
	struct kvh_fetch *f = fetch_find(c, key);
	uint64_t bytes = p->space->groups[key->group].payload_bytes;
	uint32_t maybe = usable(c, p->hits[entry] & KVH_HITS_MAYBE);
	uint32_t adapter;

	if (f != NULL)
		return join(f, p, entry);
	if (kvh_erase_pending(c, key))
		return KVH_WANT_LOST;
	if (maybe == 0)
		return watch(p, entry, key);
	adapter = kvh_source_choose(&c->prefetcher.sources, maybe, bytes);
	if (!kvh_source_room(&c->prefetcher.sources, adapter, bytes))
		return KVH_WANT_BLOCKED;
	return begin(p, entry, key, adapter);
}

bool kvh_fetch_speculate(struct kvh_controller *c, const struct kvh_space *space,
			 const struct kvh_key *key, uint32_t adapters)
{
	uint64_t bytes = space->groups[key->group].payload_bytes;
	uint32_t adapter = kvh_source_choose(&c->prefetcher.sources, adapters, bytes);
	kvh_frame frame;

	if (fetch_find(c, key) != NULL || kvh_erase_pending(c, key) ||
	    !kvh_source_room(&c->prefetcher.sources, adapter, bytes) ||
	    reserve(c, space, key, &frame) != 0)
		return false;
	if (fetch_read(c, space, key, adapters, adapter, frame, true) != NULL)
		return true;
	kvh_l1_abort(c->opts.l1, frame);
	return false;
}

/* ---- the end of a read ----------------------------------------------------- */

static void lease_all(struct kvh_fetch *f, kvh_frame frame, uint32_t adapter)
{
	struct kvh_prefetch *p;
	uint32_t entry;

	while ((p = wait_pop(f, &entry)) != NULL) {
		if (kvh_l1_lease_held(f->c->opts.l1, p->client, frame, &p->leases[entry]) !=
		    0) {
			p->no_memory = true;
			kvh_prefetch_entry_lost(p, entry);
			continue;
		}
		kvh_prefetch_entry_read(p, entry, adapter);
	}
}

void kvh_fetch_arrived(struct kvh_fetch *f, kvh_frame frame, uint32_t adapter)
{
	struct kvh_controller *c = f->c;
	struct kvh_l1 *l1 = c->opts.l1;

	f->read = NULL;
	if (f->speculative)
		kvh_l1_set_guess(l1, frame);
	if (kvh_l1_publish(l1, frame, 1) != 0) { /* erased in L1 meanwhile */
		kvh_count(&c->opts.metrics->prefetch_wasted, 1);
		fetch_lost(f);
		return;
	}
	if (LIST_EMPTY(&f->waits) && !f->speculative)
		kvh_count(&c->opts.metrics->prefetch_wasted, 1);
	lease_all(f, frame, adapter);
	if (f->retain)
		kvh_l1_keep(l1, frame);
	kvh_l1_unhold(l1, frame);
	fetch_free(f);
}

/* The next adapter to ask; false: there is none. */
static bool next_adapter(struct kvh_fetch *f, uint64_t bytes, uint32_t *adapter_p)
{
	uint32_t maybe = usable(f->c, f->maybe & ~f->asked);

	if (maybe == 0 && f->hedged != 0) {
		maybe = usable(f->c, f->hedged);
		f->hedged = 0;
		f->last = true;
	}
	if (maybe == 0 || LIST_EMPTY(&f->waits) || f->c->stopping)
		return false;
	*adapter_p = kvh_source_choose(&f->c->prefetcher.sources, maybe, bytes);
	f->asked |= UINT32_C(1) << *adapter_p;
	return true;
}

void kvh_fetch_failed(struct kvh_fetch *f, kvh_frame frame)
{
	struct kvh_l1 *l1 = f->c->opts.l1;
	uint64_t bytes = f->space->groups[f->key.group].payload_bytes;
	uint32_t adapter;
	bool more = next_adapter(f, bytes, &adapter);

	f->read = NULL;
	/* The key may be another's by now, or erased, if the frame is not ours any
	 * more: then those who wait look at L1 again. */
	if (more && frame == 0 && reserve(f->c, f->space, &f->key, &frame) != 0) {
		kvh_fetch_settled(f->c, &f->key);
		return;
	}
	if (more && kvh_read_start(f, adapter, frame) == 0)
		return;
	if (frame != 0)
		kvh_l1_abort(l1, frame);
	fetch_lost(f);
}

bool kvh_fetch_hedge(struct kvh_fetch *f, uint32_t slow)
{
	struct kvh_controller *c = f->c;
	uint64_t bytes = f->space->groups[f->key.group].payload_bytes;
	struct kvh_read *read = f->read;
	uint32_t maybe = usable(c, f->maybe & ~f->asked), adapter;

	if (maybe == 0 || f->last || LIST_EMPTY(&f->waits))
		return false;
	adapter = kvh_source_choose(&c->prefetcher.sources, maybe, bytes);
	if (c->prefetcher.sources.at[adapter].overdue > 0)
		return false; /* no better */
	kvh_count(&c->opts.metrics->hedges, 1);
	kvh_count(&kvh_adapter_counters(c->adapters[slow])->hedged, 1);
	f->hedged |= UINT32_C(1) << slow;
	f->read = NULL;
	kvh_read_give_up(read);
	kvh_fetch_failed(f, 0);
	return true;
}

/* ---- leaving ---------------------------------------------------------------- */

/* Nobody is left who waits. */
static void fetch_left(struct kvh_fetch *f, bool give_up)
{
	struct kvh_read *read = f->read;

	if (read != NULL && !(give_up && kvh_read_is_out(read)))
		return; /* goes on, for L1 */
	fetch_free(f);
	if (read != NULL)
		kvh_read_give_up(read);
}

void kvh_fetch_detach(struct kvh_prefetch *p, bool give_up)
{
	struct kvh_wait *wait;

	while ((wait = LIST_FIRST(&p->waits)) != NULL) {
		struct kvh_fetch *f = wait->fetch;

		p->entry[wait->entry] = KVH_ENTRY_ABSENT;
		wait_free(wait);
		if (LIST_EMPTY(&f->waits))
			fetch_left(f, give_up);
	}
}

/* What is being read is nobody's; another's frame: L1 tells of its end. */
static void fetch_erase(struct kvh_fetch *f)
{
	struct kvh_read *read = f->read;

	if (read == NULL)
		return;
	fetch_lost(f);
	kvh_read_give_up(read);
}

void kvh_fetch_erase(struct kvh_controller *c, const struct kvh_key *keys, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct kvh_fetch *f = fetch_find(c, &keys[i]);

		if (f != NULL)
			fetch_erase(f);
	}
}

void kvh_fetch_erase_space(struct kvh_controller *c, kvh_space_t space)
{
	for (uint32_t b = 0; b < KVH_FETCH_BUCKETS; b++) {
		struct kvh_fetch *f = c->prefetcher.fetches[b], *next;

		for (; f != NULL; f = next) {
			next = f->next;
			if (f->key.space == space)
				fetch_erase(f); /* may free it */
		}
	}
}

/* ---- frames of others -------------------------------------------------------- */

static void fetch_look(struct kvh_fetch *f)
{
	struct kvh_prefetch *p;
	uint32_t entry;

	while ((p = wait_pop(f, &entry)) != NULL)
		kvh_prefetch_entry_look(p, entry);
	fetch_free(f);
}

void kvh_fetch_settled(struct kvh_controller *c, const struct kvh_key *key)
{
	struct kvh_fetch *f = fetch_find(c, key);

	if (f != NULL && f->read == NULL)
		fetch_look(f);
}

void kvh_fetch_settled_any(struct kvh_controller *c)
{
	struct kvh_fetch *f, *next;

	for (uint32_t b = 0; b < KVH_FETCH_BUCKETS; b++)
		for (f = c->prefetcher.fetches[b]; f != NULL; f = next) {
			next = f->next;
			if (f->read == NULL)
				fetch_look(f);
		}
}
