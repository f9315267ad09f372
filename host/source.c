/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source.c - windows and speed of the adapters that are read from. Arithmetic, no
 * I/O and no clock of its own. The controller's thread.
 *
 * The rate is what came in while something was out, so that it is the adapter's
 * and not one request's; the latency is what a read took beyond its share of that.
 * An adapter that was always asked for one thing at a time has all of it in the
 * rate, and the estimate is right for that.
 */
#include "host/source.h"

#include "host/clock.h"

#include <assert.h>

#define MIB           (UINT64_C(1) << 20)
#define AVERAGE_SHIFT 3             /* an average moves by an eighth of the difference */
#define SUM_NS        KVH_NS_PER_MS /* a rate is of at least that long, or of */
#define SUM_BYTES     MIB           /* so many bytes */
#define EXPLORE_EVERY 32u           /* reads, times how much slower one seems than the best */
#define EXPLORE_RATIO 32u           /* at most */
#define PATIENCE      8u            /* times the estimate */
#define HEDGE_MIN_NS  (100 * KVH_NS_PER_MS)
#define PROBE_MIN_NS  KVH_NS_PER_S

void kvh_source_open(struct kvh_sources *s, uint32_t a, uint32_t depth)
{
	s->at[a] = (struct kvh_source){.depth = depth, .began_at = s->begun};
}

bool kvh_source_room(const struct kvh_sources *s, uint32_t a, uint64_t bytes)
{
	const struct kvh_source *source = &s->at[a];

	if (source->bytes == 0)
		return true;
	return source->reads < source->depth && source->bytes + bytes <= s->window_bytes;
}

uint64_t kvh_source_estimate(const struct kvh_sources *s, uint32_t a, uint64_t bytes)
{
	const struct kvh_source *source = &s->at[a];
	unsigned __int128 share = (unsigned __int128)(source->bytes + bytes) *
				  source->ns_per_mib / MIB;

	if (source->samples == 0)
		return 0;
	return source->latency_ns + (share < UINT64_MAX / 2 ? (uint64_t)share : UINT64_MAX / 2);
}

/* ---- choosing ----------------------------------------------------------- */

static uint32_t fastest_of(const struct kvh_sources *s, uint32_t mask, uint64_t bytes)
{
	uint32_t best = (uint32_t)__builtin_ctz(mask);
	uint64_t least = UINT64_MAX;

	for (; mask != 0; mask &= mask - 1) {
		uint32_t a = (uint32_t)__builtin_ctz(mask);
		uint64_t ns = kvh_source_estimate(s, a, bytes);

		if (ns < least) {
			least = ns;
			best = a;
		}
	}
	return best;
}

/* One of the others whose turn it is to be tried, or `best`. */
static uint32_t explore(const struct kvh_sources *s, uint32_t mask, uint32_t best,
			uint64_t bytes)
{
	uint64_t least = kvh_source_estimate(s, best, bytes) + 1;

	for (; mask != 0; mask &= mask - 1) {
		uint32_t a = (uint32_t)__builtin_ctz(mask);
		uint64_t ratio = kvh_source_estimate(s, a, bytes) / least + 1;

		if (ratio > EXPLORE_RATIO)
			ratio = EXPLORE_RATIO;
		if (a != best && s->begun - s->at[a].began_at >= EXPLORE_EVERY * ratio)
			return a;
	}
	return best;
}

uint32_t kvh_source_choose(const struct kvh_sources *s, uint32_t mask, uint64_t bytes)
{
	uint32_t prompt = 0;

	assert(mask != 0);
	for (uint32_t rest = mask; rest != 0; rest &= rest - 1)
		if (s->at[__builtin_ctz(rest)].overdue == 0)
			prompt |= rest & -rest;
	if (prompt != 0)
		mask = prompt;
	if (s->plan == KVH_READ_FIRST)
		return (uint32_t)__builtin_ctz(mask);
	return explore(s, mask, fastest_of(s, mask, bytes), bytes);
}

/* ---- patience ----------------------------------------------------------- */

static uint64_t patience(const struct kvh_sources *s, uint64_t estimate_ns, uint64_t min_ns)
{
	if (s->hedge_ns != 0)
		return s->hedge_ns;
	if (estimate_ns > UINT64_MAX / PATIENCE)
		return UINT64_MAX;
	return PATIENCE * estimate_ns > min_ns ? PATIENCE * estimate_ns : min_ns;
}

uint64_t kvh_source_patience(const struct kvh_sources *s, uint32_t a, uint64_t bytes)
{
	/* Of one that was never measured, nothing is known: as long as for a probe. */
	return patience(s, kvh_source_estimate(s, a, bytes),
			s->at[a].samples > 0 ? HEDGE_MIN_NS : PROBE_MIN_NS);
}

uint64_t kvh_source_probe_patience(const struct kvh_sources *s, uint32_t a)
{
	return patience(s, s->at[a].probe_ns, PROBE_MIN_NS);
}

/* ---- measuring ---------------------------------------------------------- */

static void average(uint64_t *mean, uint64_t sample, bool first)
{
	if (first)
		*mean = sample;
	else if (sample >= *mean)
		*mean += (sample - *mean) >> AVERAGE_SHIFT;
	else
		*mean -= (*mean - sample) >> AVERAGE_SHIFT;
}

void kvh_source_began(struct kvh_sources *s, uint32_t a, uint64_t bytes, uint64_t now_ns)
{
	struct kvh_source *source = &s->at[a];

	if (source->reads++ == 0)
		source->busy_ns = now_ns;
	source->bytes += bytes;
	source->began_at = ++s->begun;
}

static void measure(struct kvh_source *source, uint64_t ahead, uint64_t bytes, uint64_t took_ns,
		    uint64_t now_ns)
{
	bool first = source->samples == 0;
	uint64_t share;

	source->sum_ns += now_ns - source->busy_ns;
	source->busy_ns = now_ns;
	source->sum_bytes += bytes;
	if (first || source->sum_ns >= SUM_NS || source->sum_bytes >= SUM_BYTES) {
		average(&source->ns_per_mib,
			(uint64_t)((unsigned __int128)source->sum_ns * MIB / source->sum_bytes),
			first);
		source->sum_ns = source->sum_bytes = 0;
	}
	share = (uint64_t)((unsigned __int128)ahead * source->ns_per_mib / MIB);
	average(&source->latency_ns, took_ns > share ? took_ns - share : 0, first);
	source->samples++;
}

void kvh_source_ended(struct kvh_sources *s, uint32_t a, uint64_t ahead, uint64_t bytes,
		      uint64_t began_ns, uint64_t now_ns, bool good)
{
	struct kvh_source *source = &s->at[a];

	assert(source->reads > 0 && bytes > 0);
	source->reads--;
	if (good)
		measure(source, ahead, bytes, now_ns - began_ns, now_ns);
}

void kvh_source_freed(struct kvh_sources *s, uint32_t a, uint64_t bytes)
{
	assert(s->at[a].bytes >= bytes);
	s->at[a].bytes -= bytes;
}

uint32_t kvh_source_guesses(const struct kvh_sources *s)
{
	uint32_t n = 0;

	for (uint32_t a = 0; a < KVH_SOURCES_MAX; a++)
		n += s->at[a].guesses;
	return n;
}

void kvh_source_probed(struct kvh_sources *s, uint32_t a, uint64_t took_ns)
{
	average(&s->at[a].probe_ns, took_ns, s->at[a].probe_ns == 0);
}

const char *kvh_read_plan_name(size_t plan)
{
	switch (plan) {
	case KVH_READ_FIRST: return "first";
	case KVH_READ_FASTEST: return "fastest";
	default: return NULL;
	}
}
