/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c - the store controller: from a frame in L1 to every adapter that the
 * policy names. The controller's thread, but for the seal itself.
 *
 *   popped --admit: no; at eviction (dirty); no target, gone-> settled
 *      |-----admit: at the turn's end--> defer.c, and popped again from there
 *      \--> SEALING --sealed--> PUTTING --last put settled--> SETTLED --> freed
 *             (worker)           |    ^                         (when no buffer
 *                                v    |                          is out)
 *                               backoff
 *
 * One hold on the frame, from publishing until the item is freed: the frame
 * stays READY or DOOMED, and its bytes stay what they were sealed as.
 */
#include "host/store_impl.h"

#include "host/frame.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define A_ROUND 1024u /* chunks looked at, so that reads do not wait for a burst */

/* ---- the end of an item ------------------------------------------------- */

static void settle(struct kvh_controller *c, struct kvh_persist *persist, uint32_t index,
		   const struct kvh_store_outcome *outcome)
{
	kvh_uncount(&c->opts.metrics->store_waiting, 1); /* before anybody is told */
	if (persist != NULL)
		persist->settled(persist, index, outcome);
}

static void item_free(struct kvh_store_item *item)
{
	struct kvh_controller *c = item->c;
	struct kvh_put *put, *next;

	for (put = item->puts; put != NULL; put = next) {
		next = put->sibling;
		kvh_cells_give(&c->puts, put);
	}
	if (item->prev != NULL)
		item->prev->next = item->next;
	else
		c->items = item->next;
	if (item->next != NULL)
		item->next->prev = item->prev;
	kvh_cells_give(&c->store_items, item);
}

static void item_release(struct kvh_store_item *item)
{
	assert(item->pending == 0 && item->out == 0);
	if (item->heard == KVH_HEARD_DEMOTED)
		kvh_demote_settled(item->c, item->frame, item->bytes, false);
	else
		kvh_l1_unhold(item->c->opts.l1, item->frame);
	item_free(item);
}

/* Of one that L1 or a flush gave. It leaves L1, or counts as stored, whatever the
 * adapters said: one that fails must not keep what L1 cannot hold. */
static void item_given_settled(struct kvh_store_item *item)
{
	if (item->heard == KVH_HEARD_PICKED) {
		kvh_pick_settled(item->c, item->frame, item->bytes, item->stored != 0);
	} else if (item->heard == KVH_HEARD_DEMOTED && item->out > 0) {
		kvh_demote_settled(item->c, item->frame, item->bytes, true);
		item->heard = KVH_HEARD_STORED; /* a hold like any other from now on */
	}
}

static const struct kvh_hash *parent_of(const void *frame)
{
	return &((const struct kvh_frame_header *)frame)->parent;
}

static void chunk_of(const struct kvh_store_item *item, struct kvh_policy_chunk *chunk)
{
	*chunk = (struct kvh_policy_chunk){
		.key = &item->key,
		.parent = parent_of(item->data),
		.bytes = item->bytes,
		.kind = item->group_kind,
		.window_chunks = item->window_chunks,
	};
}

static void item_settled(struct kvh_store_item *item)
{
	struct kvh_controller *c = item->c;
	struct kvh_persist *persist = item->persist;
	uint32_t index = item->index;
	struct kvh_store_outcome outcome = {
		.stored = item->stored,
		.failed = item->failed,
		.skipped = c->adapter_bits & ~(item->stored | item->failed),
	};
	/* Erased before it was stored, it was to be nowhere. */
	bool failed = item->failed != 0 && !kvh_l1_doomed(c->opts.l1, item->frame);
	struct kvh_policy_chunk chunk;

	assert((item->stored & item->failed) == 0);
	chunk_of(item, &chunk);
	if (item->heard != KVH_HEARD_DEMOTED &&
	    kvh_policy_deletes(&c->policy, &chunk, item->targets, item->stored,
			       &c->opts.metrics->policy_wrong))
		kvh_l1_doom(c->opts.l1, item->frame);
	item_given_settled(item);
	kvh_epoch_leave(c, item->epoch, failed);
	if (item->out == 0)
		item_release(item);
	settle(c, persist, index, &outcome);
}

void kvh_item_put_settled(struct kvh_put *put, bool stored, bool buffer_free)
{
	struct kvh_store_item *item = put->item;

	if (stored)
		item->stored |= UINT32_C(1) << put->adapter;
	else
		item->failed |= UINT32_C(1) << put->adapter;
	if (buffer_free)
		kvh_adapter_settled(item->c->adapters[put->adapter], item->key.space,
				    item->bytes);
	else
		item->out++;
	if (--item->pending == 0)
		item_settled(item);
}

void kvh_item_put_back(struct kvh_put *put)
{
	struct kvh_store_item *item = put->item;

	kvh_adapter_settled(item->c->adapters[put->adapter], item->key.space, item->bytes);
	if (--item->out == 0 && item->pending == 0)
		item_release(item);
}

/* ---- the start of an item ----------------------------------------------- */

/* One put more, if the adapter has room in its queue. False: dropped. */
static bool item_add_put(struct kvh_store_item *item, uint32_t adapter)
{
	struct kvh_controller *c = item->c;
	struct kvh_adapter *a = c->adapters[adapter];
	struct kvh_put *put;

	if (!kvh_adapter_usable(a))
		return false;
	put = kvh_cells_take(&c->puts);
	if (put == NULL)
		return false;
	if (!kvh_adapter_admit(a, item->key.space, item->bytes, c->opts.queue_bytes)) {
		kvh_cells_give(&c->puts, put);
		return false;
	}
	put->item = item;
	put->sibling = item->puts;
	put->adapter = adapter;
	put->attempts = 0;
	put->retry_ns = 0;
	item->puts = put;
	item->n_puts++;
	return true;
}

/* Puts for those adapters that do not have it yet, nor are about to delete it.
 * True: one of them keeps what it gets. */
static bool item_add_puts(struct kvh_store_item *item)
{
	struct kvh_controller *c = item->c;
	bool kept = false;

	for (uint32_t left = item->targets; left != 0; left &= left - 1) {
		uint32_t a = (uint32_t)__builtin_ctz(left);
		struct kvh_adapter *adapter = c->adapters[a];
		uint8_t has = 0;

		if (!kvh_adapter_erasing(adapter))
			kvh_adapter_peek(adapter, &item->key, 1, &has);
		if (has) {
			item->stored |= UINT32_C(1) << a;
		} else if (item_add_put(item, a)) {
			kept |= !kvh_adapter_caps(adapter)->discards;
		} else {
			item->failed |= UINT32_C(1) << a;
			kvh_count(&kvh_adapter_counters(adapter)->put_dropped, 1);
		}
	}
	item->pending = item->n_puts;
	return kept;
}

static void item_begin(struct kvh_store_item *item)
{
	struct kvh_controller *c = item->c;
	bool kept = item_add_puts(item);

	item->epoch = kvh_epoch_enter(c);
	if (item->n_puts == 0)
		item_settled(item);
	else if (kept && !kvh_frame_sealed(item->data))
		kvh_seal_add(item);
	else
		kvh_puts_submit(item);
}

static struct kvh_store_item *item_make(struct kvh_controller *c,
					const struct kvh_published *published,
					const struct kvh_policy_chunk *chunk, uint32_t targets)
{
	struct kvh_store_item *item = kvh_cells_take(&c->store_items);

	if (item == NULL)
		return NULL;
	*item = (struct kvh_store_item){
		.c = c,
		.frame = published->frame,
		.persist = published->persist,
		.index = published->index,
		.group_kind = chunk->kind,
		.window_chunks = chunk->window_chunks,
		.key = *chunk->key,
		.data = kvh_l1_data(c->opts.l1, published->frame),
		.bytes = chunk->bytes,
		.targets = targets,
		.heard = published->heard,
		.next = c->items,
	};
	if (item->next != NULL)
		item->next->prev = item;
	c->items = item;
	return item;
}

/* The hold is given back, and whoever waits is told that nothing was done. */
static void pass_over(struct kvh_controller *c, const struct kvh_published *published,
		      uint32_t failed)
{
	struct kvh_store_outcome outcome = {
		.failed = failed,
		.skipped = c->adapter_bits & ~failed,
	};

	uint64_t bytes = kvh_l1_frame_bytes(c->opts.l1, published->frame);

	if (published->heard == KVH_HEARD_PICKED)
		kvh_pick_settled(c, published->frame, bytes, false);
	if (published->heard == KVH_HEARD_DEMOTED)
		kvh_demote_settled(c, published->frame, bytes, false);
	else
		kvh_l1_unhold(c->opts.l1, published->frame);
	if (failed != 0)
		kvh_epoch_leave(c, kvh_epoch_enter(c), true);
	settle(c, published->persist, published->index, &outcome);
}

static void store_chunk(struct kvh_controller *c, const struct kvh_published *published,
			const struct kvh_policy_chunk *chunk)
{
	uint32_t targets = kvh_policy_targets(&c->policy, chunk, c->storing_bits,
					      &c->opts.metrics->policy_wrong);
	struct kvh_store_item *item;

	if (targets == 0) {
		pass_over(c, published, 0);
		return;
	}
	item = item_make(c, published, chunk, targets);
	if (item == NULL)
		pass_over(c, published, targets); /* no memory: it is a cache */
	else
		item_begin(item);
}

/* ---- what is heard ------------------------------------------------------- */

/* The group's shape, where the space is known. */
static void fill_shape(struct kvh_controller *c, struct kvh_policy_chunk *chunk)
{
	const struct kvh_key *key = chunk->key;

	if (c->space == NULL || c->space->id != key->space)
		c->space = c->opts.spaces != NULL
				   ? kvh_space_table_find(c->opts.spaces, key->space)
				   : NULL;
	if (c->space == NULL || key->group >= c->space->n_groups)
		return;
	chunk->kind = c->space->groups[key->group].desc.kind;
	chunk->window_chunks = c->space->groups[key->group].window_chunks;
}

void kvh_store_heard(struct kvh_controller *c, const struct kvh_published *published)
{
	struct kvh_l1 *l1 = c->opts.l1;
	struct kvh_policy_chunk chunk = {0};
	enum kvh_admit admit = KVH_ADMIT_NOW;
	struct kvh_key key;

	if (c->stopping || kvh_l1_doomed(l1, published->frame)) {
		pass_over(c, published, 0);
		return;
	}
	kvh_l1_key(l1, published->frame, &key);
	chunk.key = &key;
	chunk.parent = parent_of(kvh_l1_data(l1, published->frame));
	chunk.bytes = kvh_l1_frame_bytes(l1, published->frame);
	chunk.used = published->heard == KVH_HEARD_USED;
	fill_shape(c, &chunk);
	if (published->heard == KVH_HEARD_STORED)
		kvh_speculate_learn(c, key.space, chunk.parent, &key.hash);
	if (published->heard == KVH_HEARD_STORED || published->heard == KVH_HEARD_USED)
		admit = kvh_policy_admit(&c->policy, &chunk, &c->opts.metrics->policy_wrong);
	if (admit == KVH_ADMIT_NOW) {
		store_chunk(c, published, &chunk);
		return;
	}
	if (admit == KVH_ADMIT_TURN_END)
		kvh_defer_add(c, &chunk);
	if (admit == KVH_ADMIT_EVICTION)
		kvh_demote_later(c, published->frame);
	pass_over(c, published, 0);
}

/* ---- open, close, rounds -------------------------------------------------- */

int kvh_store_open(struct kvh_controller *c)
{
	int err;

	kvh_cells_init(&c->store_items, sizeof(struct kvh_store_item), 256);
	kvh_cells_init(&c->puts, sizeof(struct kvh_put), 256);
	kvh_cells_init(&c->seals, kvh_seal_size, 16);
	kvh_cells_init(&c->defer.cells, kvh_deferred_size, 64);
	err = kvh_epochs_open(c);
	if (err == 0)
		err = kvh_policy_open(c->opts.policy, &c->policy);
	if (err == 0)
		c->wants_uses = c->policy.policy->flags & KVH_POLICY_USES;
	return err;
}

void kvh_store_close(struct kvh_controller *c)
{
	kvh_policy_close(&c->policy);
	kvh_flush_close(c);
	kvh_cells_free(&c->store_items);
	kvh_cells_free(&c->puts);
	kvh_cells_free(&c->seals);
	kvh_cells_free(&c->defer.cells);
}

void kvh_store_hear(struct kvh_controller *c)
{
	if (c->n_published > c->at_published)
		return; /* not done with the last ones: the fd stays readable */
	c->at_published = 0;
	c->n_published = kvh_listener_pop(&c->listener, &c->published);
}

/* Looks at what was heard, up to `max`. */
static void look(struct kvh_controller *c, uint32_t max)
{
	uint32_t end = c->n_published - c->at_published < max ? c->n_published
							      : c->at_published + max;

	c->processed += end - c->at_published;
	while (c->at_published < end)
		kvh_store_heard(c, &c->published[c->at_published++]);
	kvh_seal_post(c);
}

/* What was pushed and not popped at a sweep has lost its signal: popped now, looked at
 * in the next round, when what was posted before it has run. */
static uint64_t sweep(struct kvh_controller *c, uint64_t now_ns)
{
	uint64_t heard = c->processed + (c->n_published - c->at_published);

	if (c->opts.sweep_ns == UINT64_MAX)
		return UINT64_MAX;
	if (now_ns < c->next_sweep_ns)
		return c->next_sweep_ns;
	c->next_sweep_ns = now_ns + c->opts.sweep_ns;
	if (kvh_listener_pushed(&c->listener) == heard)
		return c->next_sweep_ns;
	kvh_store_hear(c);
	return now_ns;
}

uint64_t kvh_store_tick(struct kvh_controller *c, uint64_t now_ns)
{
	uint64_t at, t;

	look(c, A_ROUND);
	if (now_ns >= c->next_retry_ns)
		kvh_puts_retry(c, now_ns);
	at = c->at_published < c->n_published ? now_ns : sweep(c, now_ns);
	t = kvh_defer_tick(c, now_ns);
	at = t < at ? t : at;
	kvh_flush_tick(c);
	t = kvh_demote_tick(c, now_ns);
	return t < at ? t : at;
}

void kvh_store_stop(struct kvh_controller *c)
{
	do {
		look(c, UINT32_MAX);
		kvh_store_hear(c);
	} while (c->at_published < c->n_published);
	kvh_puts_retry(c, UINT64_MAX);
	kvh_flush_tick(c);
}

void kvh_store_quarantine(struct kvh_controller *c)
{
	struct kvh_store_outcome none = {0};

	while (c->items != NULL) {
		struct kvh_store_item *item = c->items;

		kvh_l1_quarantine(c->opts.l1, item->frame);
		/* The adapter still has a request inside one of its puts: it is leaked. */
		c->items = item->next;
		if (item->pending > 0)
			settle(c, item->persist, item->index, &none);
	}
}
