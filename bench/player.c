/* SPDX-License-Identifier: Apache-2.0 */
/*
 * player.c - one request is one slot, and one thread moves them all:
 *
 *          lookup, prefetch        usable prefix known        pages, poison, load
 *   FREE ------------------> PREFETCH ------------> PAGES ------------------> LOAD
 *    ^                                                | nothing to load        |
 *    |                                                | fill, store            | check,
 *    |                                                v                        | release,
 *    +---------------- STORE <--------------------------------------- fill, store
 *    ^ pages back        the terminal event                                    |
 *    +-------------------------------------------------------------------------+
 *                                            nothing to store
 *
 * In PAGES a request waits until others give theirs back. The pool holds the
 * longest prompt, so that one of them can always go on.
 */
#include "bench/player_impl.h"

#include "bench/bench.h"
#include "bench/fill.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define MISMATCHES_MAX 10u /* printed */
#define EVENTS         16u

#define TO(s) (1u << (s))
static const uint8_t slot_next[SLOT_NSTATES] = {
	[SLOT_FREE] = TO(SLOT_PREFETCH),
	[SLOT_PREFETCH] = TO(SLOT_PAGES),
	[SLOT_PAGES] = TO(SLOT_LOAD) | TO(SLOT_STORE) | TO(SLOT_FREE),
	[SLOT_LOAD] = TO(SLOT_STORE) | TO(SLOT_FREE),
	[SLOT_STORE] = TO(SLOT_FREE),
};

static void slot_move(struct slot *slot, enum slot_state to)
{
	assert(slot_next[slot->state] & TO(to));
	slot->state = to;
}

/* Says what failed in which request; returns err. */
static int request_failed(const struct slot *slot, const char *what, int err)
{
	kvh_bench_complain("request %zu: %s: %s", slot->request + 1, what, strerror(-err));
	return err;
}

/* ---- prefetch ---- */

static int begin(struct kvh_player *p, struct slot *slot, size_t index)
{
	const struct kvh_trace_request *request = &p->opts.trace->requests[index];
	const uint64_t *ids = p->opts.trace->ids + request->first;
	struct kvh_prefetch_opts opts;
	uint64_t before = kvh_player_now();
	int err;

	slot->request = index;
	slot->prefix.n_chunks = request->n_ids;
	for (uint32_t i = 0; i < request->n_ids; i++)
		kvh_fill_hash(p->opts.salt, ids[i], &slot->hashes[i]);
	err = kvh_lookup(p->queue, &slot->prefix, 0, NULL, NULL, &slot->usable);
	if (err != 0)
		return request_failed(slot, "lookup", err);
	slot->began_ns = kvh_player_now();
	kvh_result_stage(p->opts.result, KVH_STAGE_LOOKUP, 0, slot->began_ns - before);
	kvh_prefetch_opts_init(&opts, sizeof(opts));
	opts.user_data = (uint64_t)(slot - p->slots);
	err = kvh_prefetch(p->queue, &slot->prefix, &opts, slot->leases, &slot->job);
	if (err != 0)
		return request_failed(slot, "prefetch", err);
	slot_move(slot, SLOT_PREFETCH);
	p->n_active++;
	return 0;
}

/* Is what was leased what the prefix needs, and nothing else? A full group's
 * chunks all, of a window's the last one at least. */
static bool leases_fit(const struct kvh_player *p, const struct slot *slot)
{
	for (uint32_t c = 0; c < slot->prefix.n_chunks; c++) {
		for (uint32_t g = 0; g < slot->prefix.n_groups; g++) {
			bool leased = slot->leases[KVH_ENTRY(&slot->prefix, c, g, 0)] !=
				      KVH_NONE;
			bool full = p->opts.geo->groups[g].kind == KVH_GROUP_FULL;

			if (c >= slot->usable ? leased
					      : !leased && (full || c + 1 == slot->usable))
				return false;
		}
	}
	return true;
}

static int prefetched(struct kvh_player *p, struct slot *slot, const struct kvh_event *event)
{
	struct kvh_result *result = p->opts.result;

	kvh_result_stage(result, KVH_STAGE_PREFETCH, 0, kvh_player_now() - slot->began_ns);
	if (event->status == -ENOMEM)
		result->prefetch_short++;
	else if (event->status != 0)
		return request_failed(slot, "prefetch", event->status);
	slot->usable = event->usable;
	if (slot->usable > slot->prefix.n_chunks || !leases_fit(p, slot))
		return request_failed(slot, "leases that do not fit the prefix", -EPROTO);
	result->prefix_hits += slot->usable;
	slot_move(slot, SLOT_PAGES);
	return 0;
}

/* ---- batches ---- */

/* What is loaded has a lease; what is stored is what comes behind the prefix. */
static bool in_batch(const struct slot *slot, uint32_t chunk, uint32_t group, bool load)
{
	if (!load)
		return chunk >= slot->usable;
	return slot->leases[KVH_ENTRY(&slot->prefix, chunk, group, 0)] != KVH_NONE;
}

static void batch_add(struct kvh_player *p, struct slot *slot, uint32_t chunk, uint32_t group,
		      const uint32_t *pages)
{
	const struct kvh_geometry *geo = p->opts.geo;
	const struct kvh_trace_request *request = &p->opts.trace->requests[slot->request];
	struct batch *batch = &slot->batch;
	uint32_t n_pages = kvh_geometry_chunk_pages(geo, group), i = batch->n++;
	struct kvh_key key = {slot->hashes[chunk], p->space, kvh_geometry_rank(geo, group),
			      group};

	memset(&batch->stores[i], 0, sizeof(batch->stores[i]));
	batch->stores[i].key = key;
	if (chunk > 0)
		batch->stores[i].parent = slot->hashes[chunk - 1];
	batch->stores[i].pages = pages;
	batch->stores[i].n_pages = n_pages;
	batch->loads[i] = (struct kvh_load_chunk){
		.lease = slot->leases[KVH_ENTRY(&slot->prefix, chunk, group, 0)],
		.pages = pages,
		.n_pages = n_pages,
	};
	batch->chunks[i] = (struct kvh_runtime_chunk){key, pages};
	batch->ids[i] = p->opts.trace->ids[request->first + chunk];
	batch->bytes += kvh_geometry_chunk_bytes(geo, group);
}

/* The chunks that are loaded have the first of the slot's pages, those that are
 * stored the ones behind. Returns where the batch's end. */
static uint32_t batch_make(struct kvh_player *p, struct slot *slot, bool load, uint32_t at)
{
	slot->batch.n = 0;
	slot->batch.bytes = 0;
	for (uint32_t c = 0; c < slot->prefix.n_chunks; c++) {
		for (uint32_t g = 0; g < slot->prefix.n_groups; g++) {
			if (!in_batch(slot, c, g, load))
				continue;
			batch_add(p, slot, c, g, slot->pages + at);
			at += kvh_geometry_chunk_pages(p->opts.geo, g);
		}
	}
	return at;
}

/* ---- store ---- */

static void finish(struct kvh_player *p, struct slot *slot)
{
	kvh_runtime_pages_give(p->opts.rt, slot->n_pages, slot->pages);
	slot->n_pages = 0;
	slot_move(slot, SLOT_FREE);
	p->n_active--;
	p->opts.result->requests++;
	p->opts.result->block_references += slot->prefix.n_chunks;
	if (p->opts.progress != NULL)
		p->opts.progress(p->opts.arg);
}

/* The batch is what has to be stored. */
static int begin_store(struct kvh_player *p, struct slot *slot)
{
	struct kvh_store_opts opts;
	uint64_t before = kvh_player_now();
	int err;

	if (slot->batch.n == 0) {
		finish(p, slot);
		return 0;
	}
	err = kvh_runtime_fill(p->opts.rt, slot->batch.chunks, slot->batch.n);
	if (err != 0)
		return request_failed(slot, "fill", err);
	slot->began_ns = kvh_player_now();
	kvh_result_stage(p->opts.result, KVH_STAGE_FILL, slot->batch.bytes,
			 slot->began_ns - before);
	kvh_store_opts_init(&opts, sizeof(opts));
	opts.stream = kvh_runtime_stream(p->opts.rt);
	opts.user_data = (uint64_t)(slot - p->slots);
	opts.flags = p->opts.persist ? KVH_STORE_PERSISTED : 0;
	err = kvh_store(p->queue, p->pool, slot->batch.stores, slot->batch.n, &opts,
			slot->status, &slot->job);
	if (err != 0)
		return request_failed(slot, "store", err);
	slot_move(slot, SLOT_STORE);
	return 0;
}

static int stored(struct kvh_player *p, struct slot *slot)
{
	struct kvh_result *result = p->opts.result;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < slot->batch.n; i++) {
		uint32_t group = slot->batch.stores[i].key.group;

		switch (slot->status[i]) {
		case 0: bytes += kvh_geometry_chunk_bytes(p->opts.geo, group); break;
		case -EEXIST:
		case -EINPROGRESS: result->store_exists++; break;
		case -ENOMEM: result->store_no_memory++; break;
		default:
			result->store_failed++;
			return request_failed(slot, "store of a chunk", slot->status[i]);
		}
	}
	kvh_result_stage(result, KVH_STAGE_STORE, bytes, kvh_player_now() - slot->began_ns);
	finish(p, slot);
	return 0;
}

/* ---- load ---- */

/* A runtime's layers wait on the stream, each for its own. */
static int wait_layers(struct kvh_player *p, struct slot *slot)
{
	struct CUstream_st *stream = kvh_runtime_stream(p->opts.rt);

	for (uint32_t g = 0; g < p->opts.geo->n_groups; g++) {
		const struct kvh_group_desc *group = &p->opts.geo->groups[g];

		for (uint32_t i = 0; i < group->n_planes; i++) {
			int err;

			if (i > 0 && group->planes[i].layer == group->planes[i - 1].layer)
				continue;
			err = kvh_load_wait(p->queue, slot->job, group->planes[i].layer,
					    stream);
			if (err != 0)
				return request_failed(slot, "wait for a layer", err);
		}
	}
	return 0;
}

static int begin_load(struct kvh_player *p, struct slot *slot)
{
	struct kvh_load_opts opts;
	int err = kvh_runtime_poison(p->opts.rt, slot->batch.chunks, slot->batch.n);

	if (err != 0)
		return request_failed(slot, "poison", err);
	slot->began_ns = kvh_player_now();
	kvh_load_opts_init(&opts, sizeof(opts));
	opts.stream = kvh_runtime_stream(p->opts.rt);
	opts.user_data = (uint64_t)(slot - p->slots);
	err = kvh_load(p->queue, p->pool, slot->batch.loads, slot->batch.n, &opts, slot->status,
		       &slot->job);
	if (err != 0)
		return request_failed(slot, "load", err);
	slot_move(slot, SLOT_LOAD);
	return wait_layers(p, slot);
}

static void print_mismatch(const struct slot *slot, uint32_t i)
{
	const struct kvh_runtime_wrong *wrong = &slot->wrong[i];

	kvh_bench_complain("MISMATCH: request %zu, block %ju, group %u, plane %u, page %u of "
			   "the chunk, byte %ju: 0x%02x, must be 0x%02x",
			   slot->request + 1, (uintmax_t)slot->batch.ids[i],
			   slot->batch.chunks[i].key.group, wrong->plane, wrong->page,
			   (uintmax_t)wrong->offset, wrong->got, wrong->want);
}

static int check(struct kvh_player *p, struct slot *slot)
{
	struct kvh_result *result = p->opts.result;
	uint64_t before = kvh_player_now();
	int err = kvh_runtime_check(p->opts.rt, slot->batch.chunks, slot->batch.n, slot->wrong);

	if (err != 0)
		return request_failed(slot, "reading pages back", err);
	kvh_result_stage(result, KVH_STAGE_CHECK, slot->batch.bytes, kvh_player_now() - before);
	for (uint32_t i = 0; i < slot->batch.n; i++) {
		if (!slot->wrong[i].wrong)
			result->chunks_verified++;
		else if (result->mismatches++ < MISMATCHES_MAX)
			print_mismatch(slot, i);
	}
	return 0;
}

static int loaded(struct kvh_player *p, struct slot *slot, const struct kvh_event *event)
{
	uint32_t at = 0;
	int err;

	kvh_result_stage(p->opts.result, KVH_STAGE_LOAD, slot->batch.bytes,
			 kvh_player_now() - slot->began_ns);
	if (event->status != 0)
		return request_failed(slot, "load", event->status);
	err = check(p, slot);
	if (err != 0)
		return err;
	err = kvh_release(p->engine, slot->leases, KVH_ENTRIES(&slot->prefix), NULL);
	if (err != 0)
		return request_failed(slot, "release", err);
	for (uint32_t i = 0; i < slot->batch.n; i++)
		at += slot->batch.loads[i].n_pages;
	(void)batch_make(p, slot, false, at);
	return begin_store(p, slot);
}

/* From PAGES on; stays there where too few are free. */
static int try_pages(struct kvh_player *p, struct slot *slot)
{
	uint32_t n, n_loaded = batch_make(p, slot, true, 0);

	n = batch_make(p, slot, false, n_loaded);
	if (!kvh_runtime_pages_take(p->opts.rt, n, slot->pages))
		return 0;
	slot->n_pages = n;
	if (n_loaded == 0)
		return begin_store(p, slot);
	(void)batch_make(p, slot, true, 0);
	return begin_load(p, slot);
}

/* ---- the loop ---- */

static int dispatch(struct kvh_player *p, const struct kvh_event *event)
{
	struct slot *slot = &p->slots[event->user_data];

	if (event->type != KVH_EVENT_DONE)
		return 0;
	switch (slot->state) {
	case SLOT_PREFETCH: return prefetched(p, slot, event);
	case SLOT_LOAD: return loaded(p, slot, event);
	case SLOT_STORE: return stored(p, slot);
	case SLOT_FREE:
	case SLOT_PAGES:
	case SLOT_NSTATES: break;
	}
	return request_failed(slot, "an event that nobody waits for", -EPROTO);
}

static uint64_t due_ns(const struct kvh_player *p, size_t request)
{
	if (!p->opts.paced)
		return 0;
	return p->base_ns + p->opts.trace->requests[request].timestamp_ms * UINT64_C(1000000);
}

static struct slot *free_slot(struct kvh_player *p)
{
	for (uint32_t i = 0; i < p->opts.n_slots; i++) {
		if (p->slots[i].state == SLOT_FREE)
			return &p->slots[i];
	}
	return NULL;
}

static int begin_due(struct kvh_player *p, size_t *next, size_t end)
{
	uint64_t now = kvh_player_now();
	struct slot *slot;
	int err = 0;

	while (err == 0 && *next < end && due_ns(p, *next) <= now &&
	       (slot = free_slot(p)) != NULL) {
		if (p->opts.paced && now - due_ns(p, *next) > UINT64_C(10000000))
			p->opts.result->late++;
		if (p->opts.trace->requests[*next].n_ids == 0)
			p->opts.result->requests++; /* an empty prompt needs no cache */
		else
			err = begin(p, slot, *next);
		++*next;
	}
	return err;
}

/* How long an event may be waited for until the next request is due. */
static uint64_t patience_ns(struct kvh_player *p, size_t next, size_t end)
{
	uint64_t due, now;

	if (next >= end || free_slot(p) == NULL)
		return UINT64_MAX;
	due = due_ns(p, next);
	now = kvh_player_now();
	return due > now ? due - now : 0;
}

static int take_events(struct kvh_player *p, uint64_t timeout_ns)
{
	struct kvh_event events[EVENTS];
	int n = kvh_queue_wait(p->queue, events, EVENTS, timeout_ns), err = 0;

	if (n == -ETIMEDOUT || n == -EINTR)
		return 0;
	for (int i = 0; err == 0 && i < n; i++)
		err = dispatch(p, &events[i]);
	for (uint32_t i = 0; err == 0 && i < p->opts.n_slots; i++) {
		if (p->slots[i].state == SLOT_PAGES)
			err = try_pages(p, &p->slots[i]);
	}
	return n < 0 ? n : err;
}

int kvh_player_play(struct kvh_player *p, size_t *next, size_t end, uint64_t until_ns)
{
	uint64_t began = kvh_player_now();
	int err = 0;

	if (*next < end)
		p->base_ns = began -
			     p->opts.trace->requests[*next].timestamp_ms * UINT64_C(1000000);
	while (err == 0 && (*next < end || p->n_active > 0)) {
		if (kvh_player_now() > until_ns)
			end = *next;
		err = begin_due(p, next, end);
		if (err == 0 && (p->n_active > 0 || *next < end))
			err = take_events(p, patience_ns(p, *next, end));
		if (err == 0 && kvh_bench_signal != 0)
			err = -EINTR;
	}
	p->opts.result->wall_ns += kvh_player_now() - began;
	p->broken = err != 0;
	return err;
}
