/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.h - requests of a serving system, read from a file or generated.
 *
 * A file has a JSON object a line: timestamp (milliseconds), input_length and
 * output_length (tokens), and hash_ids: one id for each 512-token block of the
 * prompt, the last one too. Equal ids are equal prefixes. Other fields are
 * ignored, and so are blank lines.
 */
#ifndef KVH_BENCH_TRACE_H
#define KVH_BENCH_TRACE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_TRACE_BLOCK_TOKENS 512u

struct kvh_trace_request {
	uint64_t timestamp_ms;
	uint32_t input_length, output_length; /* tokens */
	uint32_t n_ids;
	size_t first; /* its ids are ids[first .. first + n_ids) */
};

struct kvh_trace {
	struct kvh_trace_request *requests;
	size_t n_requests;
	uint64_t *ids;
	size_t n_ids;
	size_t requests_room, ids_room;
};

/* Reads at most `max_requests` (0: all). On failure `what` says which line of
 * which file is wrong and why.
 * -EINVAL a line, or no request at all; -ENOMEM; others as open and read say */
int kvh_trace_read(const char *path, size_t max_requests, struct kvh_trace *trace, char *what,
		   size_t what_len);

/* Conversations of several turns that start with one of a few system prompts; a
 * turn's prompt is all that was said before. The same seed gives the same trace
 * everywhere, and a longer one begins like a shorter one. 0 or -ENOMEM. */
int kvh_trace_generate(uint64_t seed, size_t n_requests, struct kvh_trace *trace);

void kvh_trace_free(struct kvh_trace *trace);

/* 0 or -ENOMEM. The ids are copied. */
int kvh_trace_add(struct kvh_trace *trace, const struct kvh_trace_request *request,
		  const uint64_t *ids);

/* Distinct ids among the requests [first, end). Negative: -ENOMEM. */
int64_t kvh_trace_distinct(const struct kvh_trace *trace, size_t first, size_t end);
/* Blocks of the longest prompt. */
uint32_t kvh_trace_longest(const struct kvh_trace *trace);

#ifdef __cplusplus
}
#endif
#endif
