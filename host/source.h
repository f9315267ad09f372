/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source.h - the adapters as places to read from: how much is out with each, how
 * fast it was, and which to ask. Arithmetic, no I/O. The controller's thread.
 *
 * What an adapter needs for a read is taken to be
 *
 *     latency_ns + (bytes out with it + bytes) * ns_per_mib / 1 MiB
 *
 * both terms moving averages of what was measured. An adapter that was never
 * measured is tried first, and one that seems slow is tried now and then, the more
 * rarely the slower it seems: a slow start does not stick.
 */
#ifndef KVH_HOST_SOURCE_H
#define KVH_HOST_SOURCE_H

#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which adapter a chunk is read from that several have. */
enum kvh_read_plan {
	KVH_READ_FIRST,   /* the first, in the order of the options */
	KVH_READ_FASTEST, /* which is expected to have done it first */
};

/* "first", "fastest": by enum kvh_read_plan; NULL beyond the last. */
const char *kvh_read_plan_name(size_t plan);

#define KVH_SOURCES_MAX 16u

/* Reads may be begun while reads < depth and bytes + more <= window_bytes, and one
 * alone always. */
struct kvh_source {
	uint32_t depth;      /* requests that the adapter takes at once */
	uint32_t reads;      /* waiting for it, or with it */
	uint64_t bytes;      /* of reads, until they are verified or failed */
	uint32_t guesses;    /* of reads: nobody asked for them */
	uint32_t overdue;    /* reads and probes that it has not answered in time */
	uint64_t latency_ns; /* averages */
	uint64_t ns_per_mib;
	uint64_t probe_ns;
	uint64_t samples;
	uint64_t busy_ns;           /* since when the running sum is counted; 0: idle */
	uint64_t sum_ns, sum_bytes; /* of reads that ended since the last average */
	uint64_t began_at;          /* the count of reads when its last one began */
};

struct kvh_sources {
	struct kvh_source at[KVH_SOURCES_MAX];
	enum kvh_read_plan plan;
	uint64_t window_bytes; /* of one */
	uint64_t begun;        /* reads, of all */
	uint64_t hedge_ns;     /* 0: by measure; UINT64_MAX: never */
};

/* One that was added. */
void kvh_source_open(struct kvh_sources *s, uint32_t a, uint32_t depth);

bool kvh_source_room(const struct kvh_sources *s, uint32_t a, uint64_t bytes);
/* What one of `bytes` more would take. 0: not measured. */
uint64_t kvh_source_estimate(const struct kvh_sources *s, uint32_t a, uint64_t bytes);
/* The one of a mask that is not 0 which the plan prefers, not overdue if possible. */
uint32_t kvh_source_choose(const struct kvh_sources *s, uint32_t mask, uint64_t bytes);
/* How long a read that begins now may take until it is asked elsewhere; UINT64_MAX:
 * for ever. */
uint64_t kvh_source_patience(const struct kvh_sources *s, uint32_t a, uint64_t bytes);
uint64_t kvh_source_probe_patience(const struct kvh_sources *s, uint32_t a);

/* A read's way: began, ended, freed. */
void kvh_source_began(struct kvh_sources *s, uint32_t a, uint64_t bytes, uint64_t now_ns);
/* `ahead`: bytes out when it had begun, its own among them. Not `good`: nothing is
 * learnt of its speed. */
void kvh_source_ended(struct kvh_sources *s, uint32_t a, uint64_t ahead, uint64_t bytes,
		      uint64_t began_ns, uint64_t now_ns, bool good);
void kvh_source_freed(struct kvh_sources *s, uint32_t a, uint64_t bytes);
uint32_t kvh_source_guesses(const struct kvh_sources *s); /* of all */
void kvh_source_probed(struct kvh_sources *s, uint32_t a, uint64_t took_ns);

#ifdef __cplusplus
}
#endif
#endif
