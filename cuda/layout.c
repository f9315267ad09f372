/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout.c - shapes and planes to plans. All checks of a user's geometry are
 * here, so that neither twin nor kernel has to look: what makes a plan is in
 * its allocation, overlaps neither itself nor a neighbour, and fits 63 bits (a
 * unit KVH_UNIT_MAX). Any thread. Limit: within a plane the longer of two
 * strides has to step over all that the shorter one covers; combs that
 * interlock in one plane are refused, though no byte may be there twice.
 */
#include "cuda/layout.h"

#include "cuda/overlap.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* What is being checked: for messages, and so that each check takes one thing. */
struct site {
	char name[24];       /* "group 3", or "pool" */
	uint32_t plane_base; /* number of the group's first plane */
	const struct kvh_group_desc *group;
};

__attribute__((format(printf, 2, 3))) static int refuse(const struct site *site,
							const char *fmt, ...)
{
	char why[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	kvh_err("%s: %s", site->name, why);
	return -EINVAL;
}

/* ---- shapes ------------------------------------------------------------ */

static bool mul_over(uint64_t a, uint64_t b, uint64_t *p)
{
	return __builtin_mul_overflow(a, b, p) || *p > INT64_MAX;
}

static bool add_over(uint64_t a, uint64_t b, uint64_t *p)
{
	return __builtin_add_overflow(a, b, p) || *p > INT64_MAX;
}

int64_t kvh_shape_unit_bytes(const struct kvh_plane_shape *shape, uint32_t page_tokens)
{
	uint64_t bytes = shape->page_bytes;

	if (shape->kind == KVH_PLANE_TOKENS) {
		if (shape->page_bytes != 0 ||
		    mul_over((uint64_t)page_tokens * shape->heads, shape->head_bytes, &bytes))
			return -EINVAL;
	} else if (shape->kind != KVH_PLANE_OPAQUE) {
		return -EINVAL;
	}
	return bytes >= 1 && bytes <= KVH_UNIT_MAX ? (int64_t)bytes : -EINVAL;
}

int64_t kvh_group_pages_per_chunk(const struct kvh_group_desc *group, uint32_t chunk_tokens)
{
	if (group->kind == KVH_GROUP_STATE)
		return 1;
	if (chunk_tokens == 0 || group->page_tokens == 0 ||
	    chunk_tokens % group->page_tokens != 0)
		return -EINVAL;
	return chunk_tokens / group->page_tokens;
}

int64_t kvh_group_payload_bytes(const struct kvh_group_desc *group, uint32_t chunk_tokens)
{
	int64_t pages = kvh_group_pages_per_chunk(group, chunk_tokens);
	uint64_t sum = 0, bytes;

	if (pages < 0 || group->n_planes == 0)
		return -EINVAL;
	for (uint32_t i = 0; i < group->n_planes; i++) {
		int64_t unit = kvh_shape_unit_bytes(&group->planes[i], group->page_tokens);

		if (unit < 0 || mul_over((uint64_t)unit, (uint64_t)pages, &bytes) ||
		    add_over(sum, bytes, &sum))
			return -EINVAL;
	}
	return (int64_t)sum;
}

static int shape_check_tokens(const struct site *site, uint32_t number,
			      const struct kvh_plane_shape *shape)
{
	if (shape->heads == 0)
		return refuse(site, "plane %u: heads is 0", number);
	if (shape->head_bytes == 0)
		return refuse(site, "plane %u: head_bytes is 0", number);
	if (shape->page_bytes != 0)
		return refuse(site, "plane %u: page_bytes is %" PRIu64 " in a plane of tokens",
			      number, shape->page_bytes);
	if (site->group->format == KVH_FORMAT_NATIVE && shape->order > KVH_ORDER_HND)
		return refuse(site, "plane %u: order %u is unknown", number, shape->order);
	if (site->group->page_tokens == 0)
		return refuse(site, "plane %u: page_tokens is 0 in a plane of tokens", number);
	return 0;
}

static int shape_check(const struct site *site, uint32_t i)
{
	const struct kvh_plane_shape *shape = &site->group->planes[i];
	const uint32_t number = site->plane_base + i;
	int err = 0;

	if (shape->kind > KVH_PLANE_OPAQUE)
		return refuse(site, "plane %u: kind %u is unknown", number, shape->kind);
	if (shape->reserved != 0)
		return refuse(site, "plane %u: reserved is %u", number, shape->reserved);
	if (i > 0 && shape->layer < shape[-1].layer)
		return refuse(site, "plane %u: layer %u comes after layer %u", number,
			      shape->layer, shape[-1].layer);
	if (shape->kind == KVH_PLANE_TOKENS)
		err = shape_check_tokens(site, number, shape);
	else if (shape->page_bytes == 0)
		err = refuse(site, "plane %u: page_bytes is 0", number);
	if (err == 0 && kvh_shape_unit_bytes(shape, site->group->page_tokens) < 0)
		err = refuse(site,
			     "plane %u: a page of %u tokens, %u heads of %u bytes, %" PRIu64
			     " bytes is above 1 GiB",
			     number, site->group->page_tokens, shape->heads, shape->head_bytes,
			     shape->page_bytes);
	return err;
}

static int group_check_fields(const struct site *site, uint32_t chunk_tokens)
{
	const struct kvh_group_desc *group = site->group;

	if (group->kind > KVH_GROUP_STATE)
		return refuse(site, "kind %u is unknown", group->kind);
	if (group->format > KVH_FORMAT_PORTABLE)
		return refuse(site, "format %u is unknown", group->format);
	if (group->replicated > 1)
		return refuse(site, "replicated is %u, not 0 or 1", group->replicated);
	if (group->kind == KVH_GROUP_WINDOW && group->window_tokens == 0)
		return refuse(site, "window_tokens is 0 in a windowed group");
	if (group->kind != KVH_GROUP_WINDOW && group->window_tokens != 0)
		return refuse(site, "window_tokens is %u in a group without window",
			      group->window_tokens);
	if (chunk_tokens == 0)
		return refuse(site, "chunk_tokens is 0");
	if (kvh_group_pages_per_chunk(group, chunk_tokens) < 0)
		return refuse(site, "page_tokens %u does not divide chunk_tokens %u",
			      group->page_tokens, chunk_tokens);
	if (group->n_planes == 0 || group->n_planes > KVH_PLANES_MAX)
		return refuse(site, "n_planes is %u, not 1..%u", group->n_planes,
			      KVH_PLANES_MAX);
	if (group->planes == NULL)
		return refuse(site, "planes is NULL");
	return 0;
}

static int group_check(const struct site *site, uint32_t chunk_tokens)
{
	int err = group_check_fields(site, chunk_tokens);

	for (uint32_t i = 0; err == 0 && i < site->group->n_planes; i++)
		err = shape_check(site, i);
	if (err == 0 && kvh_group_payload_bytes(site->group, chunk_tokens) < 0)
		err = refuse(site, "the payload of a chunk of %u tokens is beyond 63 bits",
			     chunk_tokens);
	return err;
}

int kvh_group_check(const struct kvh_group_desc *group, uint32_t index, uint32_t chunk_tokens)
{
	struct site site = {.group = group};

	(void)snprintf(site.name, sizeof(site.name), "group %u", index);
	return group_check(&site, chunk_tokens);
}

/* ---- planes ------------------------------------------------------------ */

/* One plane on its way to the plan. Strides of one step are set to 0. */
struct place {
	const struct kvh_plane_shape *shape;
	uint32_t number;
	uint32_t n_pages, n_tokens, n_heads; /* 1 token and head where opaque */
	uint64_t page_stride, token_stride, head_stride;
	uint64_t start; /* address */
	uint64_t run;
};

static int place_check_strides(const struct site *site, const struct kvh_plane *plane,
			       const struct place *at)
{
	if (at->shape->kind == KVH_PLANE_OPAQUE && plane->token_stride != 0)
		return refuse(site, "plane %u: token_stride is %" PRIu64 " in an opaque plane",
			      at->number, plane->token_stride);
	if (at->shape->kind == KVH_PLANE_OPAQUE && plane->head_stride != 0)
		return refuse(site, "plane %u: head_stride is %" PRIu64 " in an opaque plane",
			      at->number, plane->head_stride);
	if (at->n_tokens == 1 || at->n_heads == 1 || site->group->format != KVH_FORMAT_NATIVE)
		return 0;
	if (at->shape->order == KVH_ORDER_NHD && at->token_stride < at->head_stride)
		return refuse(site,
			      "plane %u: order is NHD, but token_stride %" PRIu64
			      " is below head_stride %" PRIu64,
			      at->number, at->token_stride, at->head_stride);
	if (at->shape->order == KVH_ORDER_HND && at->head_stride < at->token_stride)
		return refuse(site,
			      "plane %u: order is HND, but head_stride %" PRIu64
			      " is below token_stride %" PRIu64,
			      at->number, at->head_stride, at->token_stride);
	return 0;
}

/* Bytes from the first of the plane's to behind the last; true: too many. */
static bool place_extent(const struct place *at, uint64_t *extent)
{
	uint64_t page, token, head;

	return mul_over(at->n_pages - 1, at->page_stride, &page) ||
	       mul_over(at->n_tokens - 1, at->token_stride, &token) ||
	       mul_over(at->n_heads - 1, at->head_stride, &head) ||
	       add_over(at->run, page, extent) || add_over(*extent, token, extent) ||
	       add_over(*extent, head, extent);
}

static int place_check_alloc(const struct site *site, const struct kvh_plane *plane,
			     const struct kvh_alloc *alloc, const struct place *at)
{
	uint64_t extent, end;

	if (alloc->base == NULL)
		return refuse(site, "plane %u: base of allocation %u is NULL", at->number,
			      plane->alloc);
	if (add_over((uintptr_t)alloc->base, alloc->bytes, &end))
		return refuse(site,
			      "plane %u: allocation %u of %" PRIu64 " bytes is beyond 63 bits",
			      at->number, plane->alloc, alloc->bytes);
	if (place_extent(at, &extent) || add_over(plane->offset, extent, &end))
		return refuse(site,
			      "plane %u: offset %" PRIu64
			      " and %u pages at page_stride %" PRIu64 ", token_stride %" PRIu64
			      ", head_stride %" PRIu64 " are beyond 63 bits",
			      at->number, plane->offset, at->n_pages, plane->page_stride,
			      plane->token_stride, plane->head_stride);
	if (end > alloc->bytes)
		return refuse(site,
			      "plane %u: page %u ends at %" PRIu64
			      ", but allocation %u has %" PRIu64 " bytes",
			      at->number, at->n_pages - 1, end, plane->alloc, alloc->bytes);
	return 0;
}

static int place_make(const struct site *site, uint32_t i, const struct kvh_plane *plane,
		      const struct kvh_alloc *allocs, uint32_t n_allocs, uint32_t n_pages,
		      struct place *at)
{
	const struct kvh_plane_shape *shape = &site->group->planes[i];
	const bool tokens = shape->kind == KVH_PLANE_TOKENS;
	int err;

	*at = (struct place){.shape = shape, .number = site->plane_base + i};
	if (plane->reserved != 0)
		return refuse(site, "plane %u: reserved is %u", at->number, plane->reserved);
	if (plane->alloc >= n_allocs)
		return refuse(site, "plane %u: alloc is %u of %u", at->number, plane->alloc,
			      n_allocs);
	at->n_pages = n_pages;
	at->n_tokens = tokens ? site->group->page_tokens : 1;
	at->n_heads = tokens ? shape->heads : 1;
	at->page_stride = n_pages > 1 ? plane->page_stride : 0;
	at->token_stride = at->n_tokens > 1 ? plane->token_stride : 0;
	at->head_stride = at->n_heads > 1 ? plane->head_stride : 0;
	at->run = tokens ? shape->head_bytes : shape->page_bytes;
	at->start = (uintptr_t)allocs[plane->alloc].base + plane->offset;
	err = place_check_strides(site, plane, at);
	return err != 0 ? err : place_check_alloc(site, plane, &allocs[plane->alloc], at);
}

/* No byte of the plane's is there twice. Makes the lattice for its neighbours. */
static int place_check_steps(const struct site *site, const struct place *at,
			     struct kvh_lattice *lat)
{
	const struct kvh_lattice_level *bad;

	kvh_lattice_init(lat, at->number, at->start, at->run);
	kvh_lattice_add(lat, "page_stride", at->page_stride, at->n_pages);
	kvh_lattice_add(lat, "token_stride", at->token_stride, at->n_tokens);
	kvh_lattice_add(lat, "head_stride", at->head_stride, at->n_heads);
	bad = kvh_lattice_seal(lat);
	if (bad != NULL)
		return refuse(site,
			      "plane %u: %s %" PRId64 " is too small, it steps over %" PRId64
			      " bytes",
			      at->number, bad->name, bad->stride,
			      lat->extent[bad - lat->level + 1]);
	return 0;
}

static int places_check_overlap(const struct site *site, struct kvh_lattice *lats)
{
	struct kvh_overlap found;
	int err = kvh_lattices_disjoint(lats, site->group->n_planes, &found);

	if (err == -EEXIST)
		return refuse(site,
			      "plane %u overlaps plane %u: address 0x%" PRIx64 " is in both",
			      found.plane[0], found.plane[1], found.address);
	if (err == -E2BIG)
		return refuse(
			site,
			"plane %u and plane %u lie among each other at different strides, "
			"too many to tell them apart",
			found.plane[0], found.plane[1]);
	return 0;
}

/* ---- the plan ---------------------------------------------------------- */

/* Longer runs and fewer loops, where the page goes on without a gap, or with the
 * same one; the unit has none. */
static void runs_merge(struct kvh_plan_plane *pp)
{
	while (pp->n_inner == 1 ? pp->n_outer > 1 : pp->page_inner == pp->run_bytes) {
		pp->run_bytes *= pp->n_inner;
		pp->n_inner = pp->n_outer;
		pp->page_inner = pp->page_outer;
		pp->n_outer = 1;
	}
	if (pp->n_outer > 1 && pp->page_outer == pp->page_inner * pp->n_inner) {
		pp->n_inner *= pp->n_outer;
		pp->n_outer = 1;
	}
	pp->unit_inner = pp->run_bytes;
	pp->unit_outer = pp->run_bytes * pp->n_inner;
	if (pp->n_inner == 1)
		pp->page_inner = pp->unit_inner = 0;
	if (pp->n_outer == 1)
		pp->page_outer = pp->unit_outer = 0;
}

static void plan_plane_fill(const struct kvh_group_desc *group, const struct place *at,
			    struct kvh_plan_plane *pp)
{
	const bool by_token = group->format == KVH_FORMAT_PORTABLE ||
			      at->shape->order == KVH_ORDER_NHD;

	pp->base = at->start;
	pp->page_stride = at->page_stride;
	pp->run_bytes = at->run;
	pp->unit_bytes = at->run * at->n_heads * at->n_tokens;
	pp->layer = at->shape->layer;
	pp->n_inner = by_token ? at->n_heads : at->n_tokens;
	pp->n_outer = by_token ? at->n_tokens : at->n_heads;
	pp->page_inner = by_token ? at->head_stride : at->token_stride;
	pp->page_outer = by_token ? at->token_stride : at->head_stride;
	runs_merge(pp);
	assert(pp->unit_bytes == pp->run_bytes * pp->n_inner * pp->n_outer);
}

/* The lowest bit of all that an address in a page, or an offset in a unit, adds up. */
static uint32_t plane_width(const struct kvh_plan_plane *pp)
{
	uint64_t bits = 16; /* the widest access there is */

	bits |= pp->base | pp->page_stride | pp->unit_bytes | pp->run_bytes;
	bits |= pp->page_inner | pp->page_outer | pp->unit_inner | pp->unit_outer;
	return (uint32_t)(bits & -bits);
}

/* The sums that follow from the planes. They fit: group_check added them up. Where a
 * plane's units lie is a sum of whole units, and so legal at the narrowest width. */
static void plan_finish(struct kvh_plan *plan)
{
	plan->width = 16;
	for (uint32_t i = 0; i < plan->n_planes; i++) {
		struct kvh_plan_plane *pp = &plan->planes[i];

		pp->payload_off = plan->payload_bytes;
		plan->payload_bytes += pp->unit_bytes * plan->pages_per_chunk;
		if (pp->unit_bytes > plan->max_unit_bytes)
			plan->max_unit_bytes = pp->unit_bytes;
		pp->width = plane_width(pp);
		if (pp->width < plan->width)
			plan->width = pp->width;
	}
}

static struct kvh_plan *plan_alloc(const struct site *site, uint32_t chunk_tokens,
				   uint32_t n_pages)
{
	const uint32_t n = site->group->n_planes;
	const size_t bytes = sizeof(struct kvh_plan) + n * sizeof(struct kvh_plan_plane);
	struct kvh_plan *plan = calloc(1, bytes);

	if (plan == NULL) {
		kvh_err("%s: no memory for a plan of %u planes", site->name, n);
		return NULL;
	}
	plan->bytes = bytes;
	plan->pages_per_chunk = (uint32_t)kvh_group_pages_per_chunk(site->group, chunk_tokens);
	plan->n_pages = n_pages;
	plan->n_planes = n;
	return plan;
}

static int plan_place(const struct site *site, const struct kvh_alloc *allocs,
		      uint32_t n_allocs, const struct kvh_plane *planes, struct kvh_plan *plan)
{
	const uint32_t n = site->group->n_planes;
	struct kvh_lattice *lats = calloc(n, sizeof(*lats));
	struct place at;
	int err = 0;

	if (lats == NULL) {
		kvh_err("%s: no memory to check %u planes", site->name, n);
		return -ENOMEM;
	}
	for (uint32_t i = 0; err == 0 && i < n; i++) {
		err = place_make(site, i, &planes[i], allocs, n_allocs, plan->n_pages, &at);
		if (err == 0)
			err = place_check_steps(site, &at, &lats[i]);
		if (err == 0)
			plan_plane_fill(site->group, &at, &plan->planes[i]);
		plan->planes[i].alloc = planes[i].alloc;
	}
	if (err == 0)
		err = places_check_overlap(site, lats);
	free(lats);
	return err;
}

int kvh_plan_make(const struct kvh_group_desc *group, uint32_t chunk_tokens,
		  const struct kvh_alloc *allocs, uint32_t n_allocs,
		  const struct kvh_plane *planes, uint32_t plane_base, uint32_t n_pages,
		  struct kvh_plan **plan_p)
{
	const struct site site = {"pool", plane_base, group};
	struct kvh_plan *plan;
	int err = group_check(&site, chunk_tokens);

	if (err != 0)
		return err;
	if (n_pages == 0)
		return refuse(&site, "plane %u and on: a group of 0 pages", plane_base);
	plan = plan_alloc(&site, chunk_tokens, n_pages);
	if (plan == NULL)
		return -ENOMEM;
	err = plan_place(&site, allocs, n_allocs, planes, plan);
	if (err != 0) {
		kvh_plan_free(plan);
		return err;
	}
	plan_finish(plan);
	*plan_p = plan;
	return 0;
}

void kvh_plan_free(struct kvh_plan *plan)
{
	free(plan);
}

uint32_t kvh_plan_planes_below(const struct kvh_plan *plan, uint64_t layer_end)
{
	uint32_t lo = 0, hi = plan->n_planes;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (plan->planes[mid].layer < layer_end)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}
