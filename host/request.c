/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.c - the calls about keys and leases: lookup, prefetch, release, erase.
 * The user's thread; what needs an adapter's answer ends on the controller's.
 */
#include "host/clock.h"
#include "host/engine.h"
#include "host/log.h"
#include "host/prefix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int find_space(struct kvh_queue *queue, const struct kvh_prefix *prefix,
		      const struct kvh_space **space_p)
{
	int err = kvh_engine_alive(queue->engine);

	if (err != 0)
		return err;
	*space_p = kvh_space_table_find(&queue->engine->spaces, prefix->space);
	if (*space_p == NULL) {
		kvh_err("prefix: there is no space %016llx", (unsigned long long)prefix->space);
		return -ENOENT;
	}
	return kvh_prefix_check(prefix, *space_p);
}

/* ---- lookup ----------------------------------------------------------- */

/* Keys of all entries, in the entries' order; what has no entry of its own
 * repeats the one at r = 0. */
static struct kvh_key *make_keys(const struct kvh_prefix *prefix, const struct kvh_space *space)
{
	struct kvh_key *keys = calloc(KVH_ENTRIES(prefix), sizeof(keys[0])), *key = keys;

	if (keys == NULL)
		return NULL;
	for (uint32_t chunk = 0; chunk < prefix->n_chunks; chunk++)
		for (uint32_t g = 0; g < prefix->n_groups; g++)
			for (uint32_t r = 0; r < prefix->n_ranks; r++)
				kvh_prefix_key(prefix, space, chunk, g, r, key++);
	return keys;
}

static void find_all(struct kvh_engine *engine, const struct kvh_prefix *prefix,
		     const struct kvh_space *space, const struct kvh_key *keys, uint8_t *where)
{
	uint32_t n = (uint32_t)KVH_ENTRIES(prefix);
	uint8_t *l2 = where + n;

	kvh_l1_find(engine->l1, keys, n, where);
	kvh_controller_peek(engine->controller, keys, n, l2);
	for (uint32_t e = 0; e < n; e++) {
		uint32_t group = e / prefix->n_ranks % prefix->n_groups;

		where[e] = (uint8_t)((where[e] == 1 ? KVH_IN_L1 : 0) | (l2[e] ? KVH_IN_L2 : 0));
		if (e % prefix->n_ranks >= kvh_prefix_ranks(prefix, space, group))
			where[e] = 0;
	}
}

/* Leases what the longest prefix usable from L1 alone needs. A frame that was
 * evicted since it was found shortens the prefix, and it is done again. */
static uint32_t lease_usable(struct kvh_queue *queue, const struct kvh_prefix *prefix,
			     const struct kvh_space *space, const struct kvh_key *keys,
			     const uint8_t *where, uint8_t *in_l1, kvh_lease_t *leases)
{
	struct kvh_l1 *l1 = queue->engine->l1;
	size_t n = KVH_ENTRIES(prefix);
	uint32_t usable, group;
	int32_t status;
	bool lost;

	for (size_t e = 0; e < n; e++) {
		in_l1[e] = (where[e] & KVH_IN_L1) != 0;
		leases[e] = KVH_NONE;
	}
	do {
		lost = false;
		usable = kvh_prefix_usable(prefix, space, in_l1);
		for (size_t e = 0; e < n && !lost; e++) {
			group = (uint32_t)(e / prefix->n_ranks % prefix->n_groups);
			if (leases[e] != KVH_NONE ||
			    e % prefix->n_ranks >= kvh_prefix_ranks(prefix, space, group) ||
			    !kvh_prefix_needs(
				    space, usable,
				    (uint32_t)(e / prefix->n_ranks / prefix->n_groups), group))
				continue;
			lost = kvh_l1_lease(l1, queue->client, &keys[e], 1, &leases[e],
					    &status) != 1;
			if (lost) {
				leases[e] = KVH_NONE;
				in_l1[e] = 0;
			}
		}
	} while (lost);
	for (size_t e = 0; e < n; e++) {
		group = (uint32_t)(e / prefix->n_ranks % prefix->n_groups);
		if (leases[e] != KVH_NONE &&
		    !kvh_prefix_needs(space, usable,
				      (uint32_t)(e / prefix->n_ranks / prefix->n_groups),
				      group)) {
			(void)kvh_l1_release(l1, leases[e]);
			leases[e] = KVH_NONE;
		}
	}
	return usable;
}

int kvh_lookup(struct kvh_queue *queue, const struct kvh_prefix *prefix, uint32_t flags,
	       uint8_t *where, kvh_lease_t *leases, uint32_t *usable_p)
{
	const struct kvh_space *space;
	struct kvh_key *keys;
	uint8_t *found;
	uint32_t usable;
	int err = find_space(queue, prefix, &space);

	if (err != 0)
		return err;
	if ((flags & ~KVH_LOOKUP_LEASE) != 0 || (flags != 0) != (leases != NULL)) {
		kvh_err("lookup: flags %#x with%s leases; allowed: 0, or KVH_LOOKUP_LEASE with "
			"them",
			flags, leases != NULL ? "" : "out");
		return -EINVAL;
	}
	keys = make_keys(prefix, space);
	found = calloc(2, KVH_ENTRIES(prefix)); /* in L1, and from the indexes of L2 */
	if (keys == NULL || found == NULL) {
		err = -ENOMEM;
		goto out;
	}
	find_all(queue->engine, prefix, space, keys, found);
	if (where != NULL)
		memcpy(where, found, KVH_ENTRIES(prefix));
	usable = leases != NULL ? lease_usable(queue, prefix, space, keys, found,
					       found + KVH_ENTRIES(prefix), leases)
				: kvh_prefix_usable(prefix, space, found);
	if (usable_p != NULL)
		*usable_p = usable;
out:
	free(keys);
	free(found);
	return err;
}

/* ---- prefetch --------------------------------------------------------- */

/* Two may have it: the job, and a cancel on its way to the controller. */
struct prefetch_job {
	struct kvh_prefetch base;
	struct kvh_job *job;
	struct kvh_engine *engine;
	bool ended; /* controller's thread */
	struct kvh_loop_work cancel;
	bool cancel_posted; /* user's thread */
	uint32_t refs;      /* atomic */
	struct kvh_hash hashes[];
};

static void prefetch_put(struct prefetch_job *p)
{
	if (__atomic_sub_fetch(&p->refs, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	free(p->base.entry);
	free(p->base.hits);
	free(p);
}

static void prefetch_found(struct kvh_prefetch *base, uint32_t usable)
{
	kvh_job_event(((struct prefetch_job *)base)->job, KVH_EVENT_FOUND, 0, usable);
}

static void prefetch_ended(struct kvh_prefetch *base, int status, uint32_t usable,
			   uint32_t n_ok)
{
	struct prefetch_job *p = (struct prefetch_job *)base;

	p->ended = true;
	kvh_controller_pressure(p->engine->controller);
	kvh_job_end(p->job, status, n_ok, usable, 0);
}

static void prefetch_cancel_run(struct kvh_loop_work *work)
{
	struct prefetch_job *p = (struct prefetch_job *)((char *)work -
							 offsetof(struct prefetch_job, cancel));

	if (!p->ended)
		kvh_prefetch_cancel(&p->base);
	prefetch_put(p);
}

static void prefetch_cancel(struct kvh_job *job)
{
	struct prefetch_job *p = job->body;

	if (p->cancel_posted)
		return;
	p->cancel_posted = true;
	(void)__atomic_add_fetch(&p->refs, 1, __ATOMIC_RELAXED);
	p->cancel.run = prefetch_cancel_run;
	kvh_controller_post(p->engine->controller, &p->cancel);
}

static void prefetch_forget(struct kvh_job *job)
{
	prefetch_put(job->body);
}

static const struct kvh_job_ops prefetch_ops = {
	.name = "prefetch",
	.cancel = prefetch_cancel,
	.forget = prefetch_forget,
};

static struct prefetch_job *prefetch_make(struct kvh_queue *queue,
					  const struct kvh_prefix *prefix,
					  const struct kvh_space *space)
{
	struct prefetch_job *p = calloc(1,
					sizeof(*p) + prefix->n_chunks * sizeof(p->hashes[0]));

	if (p == NULL)
		return NULL;
	p->refs = 1;
	p->engine = queue->engine;
	p->base.prefix = *prefix;
	p->base.prefix.hashes = p->hashes;
	memcpy(p->hashes, prefix->hashes, prefix->n_chunks * sizeof(p->hashes[0]));
	p->base.space = space;
	p->base.client = queue->client;
	p->base.found = prefetch_found;
	p->base.ended = prefetch_ended;
	p->base.entry = calloc(KVH_ENTRIES(prefix), sizeof(p->base.entry[0]));
	p->base.hits = calloc(KVH_ENTRIES(prefix), sizeof(p->base.hits[0]));
	if (p->base.entry == NULL || p->base.hits == NULL) {
		prefetch_put(p);
		return NULL;
	}
	return p;
}

int kvh_prefetch(struct kvh_queue *queue, const struct kvh_prefix *prefix,
		 const struct kvh_prefetch_opts *opts, kvh_lease_t *leases, kvh_job_t *job_p)
{
	const struct kvh_space *space;
	struct prefetch_job *p;
	uint32_t n_ok;
	int err = find_space(queue, prefix, &space);

	if (err == 0)
		err = kvh_check_size("prefetch", opts->size, sizeof(*opts));
	if (err != 0)
		return err;
	if ((opts->flags & ~KVH_PREFETCH_FOUND) != 0 || leases == NULL) {
		kvh_err("prefetch: flags %#x, %s leases; allowed: within %#x, with leases",
			opts->flags, leases != NULL ? "with" : "without", KVH_PREFETCH_FOUND);
		return -EINVAL;
	}
	p = prefetch_make(queue, prefix, space);
	if (p == NULL)
		return -ENOMEM;
	err = kvh_job_begin(queue, &prefetch_ops, opts->user_data, &p->job);
	if (err != 0) {
		prefetch_put(p);
		return err;
	}
	p->job->body = p;
	p->base.leases = leases;
	p->base.deadline_ns = opts->deadline_ns != 0 ? kvh_deadline_ns(opts->deadline_ns)
						     : UINT64_MAX;
	p->base.want_found = (opts->flags & KVH_PREFETCH_FOUND) != 0;
	*job_p = p->job->id;
	if (kvh_prefetch_from_l1(queue->engine->controller, &p->base, &n_ok)) {
		if (p->base.want_found)
			prefetch_found(&p->base, prefix->n_chunks);
		prefetch_ended(&p->base, 0, prefix->n_chunks, n_ok);
		return 0;
	}
	kvh_controller_prefetch(queue->engine->controller, &p->base);
	return 0;
}

/* ---- release ---------------------------------------------------------- */

int kvh_release(struct kvh_engine *engine, const kvh_lease_t *leases, size_t n, int32_t *status)
{
	int err = kvh_engine_alive(engine), e;

	if (err != 0)
		return err;
	for (size_t i = 0; i < n; i++) {
		e = leases[i] != KVH_NONE ? kvh_l1_release(engine->l1, leases[i]) : 0;
		if (e != 0 && err == 0) {
			kvh_err("release: lease %#llx at place %zu is not held",
				(unsigned long long)leases[i], i);
			err = e;
		}
		if (status != NULL)
			status[i] = e;
	}
	return err;
}

/* ---- erase ------------------------------------------------------------ */

struct erase_job {
	struct kvh_erase base;
	struct kvh_job *job;
	struct kvh_engine *engine;
	int32_t *user_status;
	bool ended; /* controller's thread */
	struct kvh_loop_work cancel;
	bool cancel_posted; /* user's thread */
	uint32_t refs;      /* atomic */
	int32_t *status;    /* [n], behind the keys */
	struct kvh_key keys[];
};

static void erase_put(struct erase_job *e)
{
	if (__atomic_sub_fetch(&e->refs, 1, __ATOMIC_ACQ_REL) == 0)
		free(e);
}

static void erase_ended(struct kvh_erase *base)
{
	struct erase_job *e = (struct erase_job *)base;
	uint32_t n_ok = 0;
	int first = 0;

	for (uint32_t i = 0; i < base->n; i++) {
		int status = base->status[i];

		n_ok += status == 0;
		if (first == 0 && status != -ENOENT)
			first = status;
		if (e->user_status != NULL)
			e->user_status[i] = status;
	}
	e->ended = true;
	kvh_job_end(e->job, first, n_ok, 0, 0);
}

static void erase_cancel_run(struct kvh_loop_work *work)
{
	struct erase_job *e = (struct erase_job *)((char *)work -
						   offsetof(struct erase_job, cancel));

	if (!e->ended)
		kvh_erase_cancel(&e->base);
	erase_put(e);
}

static void erase_cancel(struct kvh_job *job)
{
	struct erase_job *e = job->body;

	if (e->cancel_posted)
		return;
	e->cancel_posted = true;
	(void)__atomic_add_fetch(&e->refs, 1, __ATOMIC_RELAXED);
	e->cancel.run = erase_cancel_run;
	kvh_controller_post(e->engine->controller, &e->cancel);
}

static void erase_forget(struct kvh_job *job)
{
	erase_put(job->body);
}

static const struct kvh_job_ops erase_ops = {
	.name = "erase",
	.cancel = erase_cancel,
	.forget = erase_forget,
};

int kvh_erase(struct kvh_queue *queue, const struct kvh_key *keys, uint32_t n,
	      uint64_t user_data, int32_t *status, kvh_job_t *job_p)
{
	struct kvh_engine *engine = queue->engine;
	struct erase_job *e;
	int err = kvh_engine_alive(engine);

	if (err != 0)
		return err;
	if (n == 0) {
		kvh_err("erase: n is 0, allowed: >= 1");
		return -EINVAL;
	}
	e = calloc(1, sizeof(*e) + n * (sizeof(e->keys[0]) + sizeof(e->status[0])));
	if (e == NULL)
		return -ENOMEM;
	err = kvh_job_begin(queue, &erase_ops, user_data, &e->job);
	if (err != 0) {
		free(e);
		return err;
	}
	e->refs = 1;
	e->engine = engine;
	e->user_status = status;
	e->status = (int32_t *)(e->keys + n);
	memcpy(e->keys, keys, n * sizeof(keys[0]));
	e->job->body = e;
	for (uint32_t i = 0; i < n; i++) {
		e->status[i] = kvh_l1_erase(engine->l1, &keys[i]);
		kvh_count(&engine->metrics.erased, e->status[i] == 0);
		if (status != NULL)
			status[i] = KVH_PENDING;
	}
	e->base.keys = e->keys;
	e->base.n = n;
	e->base.status = e->status;
	e->base.ended = erase_ended;
	*job_p = e->job->id;
	kvh_controller_erase(engine->controller, &e->base);
	return 0;
}
