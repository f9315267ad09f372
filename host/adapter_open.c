/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adapter_open.c - opening, attaching and closing an adapter, and what may be
 * asked about one. Open and close on any one thread that waits; the rest as
 * adapter.h says.
 */
#include "host/adapter_impl.h"
#include "host/arena.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OUT_MAX 65536u /* requests out, whatever an adapter would take */

/* What is pinned by now; the rest comes by kvh_adapter_attach. */
static int attach_pieces(struct kvh_adapter *a, struct kvh_arena *arena)
{
	uint32_t n;

	if (arena == NULL || a->ops->attach == NULL)
		return 0;
	n = kvh_arena_pieces_max(arena);
	a->regions = malloc(n * sizeof(a->regions[0]));
	if (a->regions == NULL)
		return -ENOMEM;
	memset(a->regions, 0xFF, n * sizeof(a->regions[0])); /* KVH_L2_NO_REGION */
	a->arena = arena;
	while (kvh_adapter_attach(a)) {}
	return 0;
}

bool kvh_adapter_lacks(const struct kvh_adapter *a)
{
	const struct kvh_arena_piece *pieces;

	return a->arena != NULL && !a->retired &&
	       a->n_attached < kvh_arena_pieces(a->arena, &pieces);
}

bool kvh_adapter_attach(struct kvh_adapter *a)
{
	const struct kvh_arena_piece *piece;
	int region;

	if (!kvh_adapter_lacks(a))
		return false;
	(void)kvh_arena_pieces(a->arena, &piece);
	piece += a->n_attached;
	region = a->ops->attach(a->self, piece->base, piece->bytes);
	if (region >= 0)
		a->regions[a->n_attached] = (uint32_t)region;
	else
		kvh_count(&a->counters.unregistered, 1);
	a->n_attached++;
	return true;
}

static int find_ops(struct kvh_adapter *a, const char *spec, const char **conf_p)
{
	if (kvh_l2_find(spec, &a->ops, conf_p) != 0)
		return -EINVAL; /* an option of unknown name; -ENOENT is a path's */
	if (a->ops->abi == KVH_L2_ABI)
		return 0;
	kvh_err("%s: contract version %u, this library has %u", a->ops->name, a->ops->abi,
		KVH_L2_ABI);
	return -EPROTONOSUPPORT;
}

void kvh_adapter_free(struct kvh_adapter *a)
{
	kvh_trial_close(a->trial);
	kvh_fair_free(&a->reads);
	kvh_fair_free(&a->writes);
	free(a->out.slots);
	free(a->regions);
	free(a->spec);
	free(a);
}

int kvh_adapter_open(const struct kvh_adapter_opts *opts, struct kvh_adapter **adapter_p)
{
	struct kvh_adapter *a = calloc(1, sizeof(*a));
	const char *conf;
	int err;

	if (a == NULL)
		return -ENOMEM;
	a->metrics = opts->metrics;
	a->deadline_ns = opts->deadline_ns;
	kvh_adapter_queues_init(a);
	kvh_breaker_init(&a->breaker, opts->breaker);
	a->spec = strdup(opts->spec);
	err = a->spec != NULL ? find_ops(a, a->spec, &conf) : -ENOMEM;
	if (err == 0)
		err = a->ops->open(conf, opts->env, &a->self);
	if (err != 0)
		goto err_free;
	a->ops->query(a->self, &a->caps);
	err = kvh_out_open(&a->out,
			   a->caps.max_inflight < OUT_MAX ? a->caps.max_inflight : OUT_MAX);
	if (err == 0)
		err = kvh_trial_open(a, &a->trial);
	if (err == 0)
		err = attach_pieces(a, opts->arena);
	if (err != 0)
		goto err_close;
	kvh_adapter_refresh_usage(a);
	*adapter_p = a;
	return 0;

err_close:
	(void)a->ops->close(a->self, UINT64_MAX);
err_free:
	kvh_adapter_free(a);
	return err;
}

void kvh_adapter_retire(struct kvh_adapter *a, struct kvh_loop *loop)
{
	kvh_loop_remove(loop, &a->source);
	a->retired = true;
	a->caps.local_index = true; /* that has nothing */
}

int kvh_adapter_shut(struct kvh_adapter *a, uint64_t deadline_ns)
{
	return a->ops->close(a->self, deadline_ns);
}

void kvh_adapter_shut_done(struct kvh_adapter *a, bool closed)
{
	if (!closed)
		kvh_err("%s: does not close; %llu requests are still out, their memory stays "
			"mapped",
			a->ops->name, (unsigned long long)(a->inflight.n + a->late.n));
	else
		a->self = NULL; /* before anybody is told, who might ask for more */
	kvh_adapter_end_out(a, closed);
}

int kvh_adapter_close(struct kvh_adapter *a, uint64_t deadline_ns)
{
	int err = 0;

	assert(a->reads.n + a->writes.n == 0);
	if (a->self != NULL) {
		err = kvh_adapter_shut(a, deadline_ns);
		kvh_adapter_shut_done(a, err == 0);
	}
	if (err == 0)
		kvh_adapter_free(a);
	return err;
}

int kvh_adapter_watch(struct kvh_adapter *a, struct kvh_loop *loop)
{
	a->source.fd = a->ops->event_fd(a->self);
	a->source.hint = true; /* l2.h, rule 4 */
	return kvh_loop_add(loop, &a->source);
}

bool kvh_adapter_erasing(const struct kvh_adapter *a)
{
	return a->erasing > 0;
}

uint64_t kvh_adapter_busy(const struct kvh_adapter *a)
{
	return a->reads.n + a->writes.n - a->owed + a->inflight.n;
}

bool kvh_adapter_usable(const struct kvh_adapter *a)
{
	return a->breaker.state == KVH_BREAKER_CLOSED && !a->retired;
}

_Static_assert((int)KVH_BREAKER_OPEN == KVH_L2_OPEN && (int)KVH_BREAKER_TRIAL == KVH_L2_TRIAL,
	       "what users see");

enum kvh_breaker_state kvh_adapter_breaker(const struct kvh_adapter *a)
{
	return (enum kvh_breaker_state)kvh_counted(&a->counters.breaker);
}

bool kvh_adapter_drained(const struct kvh_adapter *a)
{
	return a->writes.cells.used == 0 && a->writes.n == 0; /* no flow is left */
}

bool kvh_adapter_idle(const struct kvh_adapter *a)
{
	return kvh_adapter_drained(a) && a->reads.cells.used == 0 && a->reads.n == 0 &&
	       a->inflight.n + a->late.n == 0;
}

const char *kvh_adapter_spec(const struct kvh_adapter *a)
{
	return a->spec;
}

int kvh_adapter_limits(struct kvh_adapter *a, kvh_space_t space, uint64_t soft_bytes,
		       uint64_t hard_bytes)
{
	if (a->ops->limits == NULL || a->retired)
		return 0;
	return a->ops->limits(a->self, space, soft_bytes, hard_bytes);
}

void kvh_adapter_set_deadline(struct kvh_adapter *a, uint64_t deadline_ns)
{
	a->deadline_ns = deadline_ns; /* of what comes from now on */
}

const struct kvh_l2_caps *kvh_adapter_caps(const struct kvh_adapter *a)
{
	return &a->caps;
}

const char *kvh_adapter_name(const struct kvh_adapter *a)
{
	return a->ops->name;
}

void kvh_adapter_peek(const struct kvh_adapter *a, const struct kvh_key *keys, uint32_t n,
		      uint8_t *found)
{
	uint8_t batch[256];

	if (!a->caps.local_index || a->retired)
		return;
	for (uint32_t i = 0; i < n; i += 256) {
		uint32_t m = n - i < 256 ? n - i : 256;

		a->ops->peek(a->self, keys + i, m, batch);
		for (uint32_t j = 0; j < m; j++)
			found[i + j] |= batch[j];
	}
}

struct kvh_adapter_counters *kvh_adapter_counters(struct kvh_adapter *a)
{
	return &a->counters;
}
