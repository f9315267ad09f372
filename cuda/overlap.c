/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlap.c - lattices against lattices. Two that repeat at the same stride
 * meet if, for some difference k of their step numbers, the insides meet; since
 * an inside is no longer than the stride, at most a few k put them near each
 * other, and those are found by division. So 100,000 pages cost as much as two.
 * Where strides differ, the steps of the longer one that come near the other
 * lattice are tried one by one, within a budget. Any thread.
 */
#include "cuda/overlap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define STEPS_MAX (UINT64_C(1) << 26) /* about a second */

enum { APART, MEET, UNKNOWN };

struct search {
	uint64_t steps;
	uint64_t address; /* of a byte of both, after MEET */
};

/* The part of a lattice that is looked at: levels >= level, from `start`. */
struct part {
	const struct kvh_lattice *lat;
	uint32_t level;
	int64_t start;
};

void kvh_lattice_init(struct kvh_lattice *lat, uint32_t plane, uint64_t start, uint64_t run)
{
	*lat = (struct kvh_lattice){
		.start = (int64_t)start, .run = (int64_t)run, .plane = plane};
}

void kvh_lattice_add(struct kvh_lattice *lat, const char *name, uint64_t stride, uint64_t n)
{
	const struct kvh_lattice_level add = {(int64_t)stride, (int64_t)n, name};
	uint32_t at = lat->n_levels;

	if (n < 2)
		return;
	assert(lat->n_levels < KVH_LATTICE_LEVELS);
	for (; at > 0 && lat->level[at - 1].stride < add.stride; at--)
		lat->level[at] = lat->level[at - 1];
	lat->level[at] = add;
	lat->n_levels++;
}

const struct kvh_lattice_level *kvh_lattice_seal(struct kvh_lattice *lat)
{
	uint32_t l = lat->n_levels;

	/* Steps as long as the run are one longer run. */
	for (; l > 0 && lat->level[l - 1].stride == lat->run; l--)
		lat->run *= lat->level[l - 1].n;
	lat->n_levels = l;
	lat->extent[l] = lat->run;
	for (; l > 0; l--) {
		const struct kvh_lattice_level *level = &lat->level[l - 1];

		if (level->stride < lat->extent[l])
			return level;
		lat->extent[l - 1] = (level->n - 1) * level->stride + lat->extent[l];
	}
	return NULL;
}

static int64_t part_extent(struct part p)
{
	return p.lat->extent[p.level];
}

/* 0 for a bare run. */
static int64_t part_stride(struct part p)
{
	return p.level < p.lat->n_levels ? p.lat->level[p.level].stride : 0;
}

static int64_t part_steps(struct part p)
{
	return p.lat->level[p.level].n;
}

static struct part part_inside(struct part p, int64_t step)
{
	p.start += step * part_stride(p);
	p.level++;
	return p;
}

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

static int64_t max64(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static int64_t min64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int parts_meet(struct search *search, struct part a, struct part b);

/* Steps k with  k*stride + extent > from  and  k*stride < to. */
static void steps_near(int64_t stride, int64_t extent, int64_t from, int64_t to, int64_t *lo_p,
		       int64_t *hi_p)
{
	*lo_p = max64(*lo_p, floor_div(from - extent, stride) + 1);
	*hi_p = min64(*hi_p, floor_div(to - 1, stride));
}

/* Equal strides: only the difference k of the two step numbers counts. */
static int insides_meet(struct search *search, struct part a, struct part b)
{
	int64_t lo = 1 - part_steps(b), hi = part_steps(a) - 1;
	int64_t delta = b.start - a.start, k;

	steps_near(part_stride(a), part_extent(part_inside(a, 0)), delta,
		   delta + part_extent(part_inside(b, 0)), &lo, &hi);
	for (k = lo; k <= hi; k++) {
		int met = parts_meet(search, part_inside(a, max64(k, 0)),
				     part_inside(b, max64(-k, 0)));

		if (met != APART)
			return met;
	}
	return APART;
}

/* a's steps, one by one, against the whole of b. */
static int steps_meet(struct search *search, struct part a, struct part b)
{
	int64_t lo = 0, hi = part_steps(a) - 1;
	int64_t delta = b.start - a.start, k;

	steps_near(part_stride(a), part_extent(part_inside(a, 0)), delta,
		   delta + part_extent(b), &lo, &hi);
	for (k = lo; k <= hi; k++) {
		int met = parts_meet(search, part_inside(a, k), b);

		if (met != APART)
			return met;
	}
	return APART;
}

static int parts_meet(struct search *search, struct part a, struct part b)
{
	if (a.start + part_extent(a) <= b.start || b.start + part_extent(b) <= a.start)
		return APART;
	if (search->steps++ == STEPS_MAX)
		return UNKNOWN;
	if (part_stride(a) == 0 && part_stride(b) == 0) {
		search->address = (uint64_t)max64(a.start, b.start);
		return MEET;
	}
	if (part_stride(a) == part_stride(b))
		return insides_meet(search, a, b);
	if (part_stride(a) > part_stride(b))
		return steps_meet(search, a, b);
	return steps_meet(search, b, a);
}

static int by_start(const void *a, const void *b)
{
	const struct kvh_lattice *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

int kvh_lattices_disjoint(struct kvh_lattice *lats, uint32_t n, struct kvh_overlap *found)
{
	struct search search = {0, 0};

	qsort(lats, n, sizeof(*lats), by_start);
	for (uint32_t i = 0; i < n; i++) {
		const struct part a = {&lats[i], 0, lats[i].start};

		for (uint32_t j = i + 1; j < n; j++) {
			const struct part b = {&lats[j], 0, lats[j].start};
			int met;

			if (b.start >= a.start + part_extent(a))
				break; /* nor does any that starts later */
			met = parts_meet(&search, a, b);
			if (met == APART)
				continue;
			*found = (struct kvh_overlap){{a.lat->plane, b.lat->plane},
						      met == MEET ? search.address : 0};
			return met == MEET ? -EEXIST : -E2BIG;
		}
	}
	return 0;
}
