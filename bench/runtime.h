/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runtime.h - stands in for a runtime: a paged pool on a device, an allocator of
 * pages, a stream, and, in place of a model, code that fills pages with bytes that
 * follow from their keys and checks that they hold them. One thread.
 *
 * On a GPU, bytes go to and from pages in batches through pinned memory, on the
 * runtime's stream; on the host device they are written in place, and the stream is
 * NULL: work is done before a call returns.
 */
#ifndef KVH_BENCH_RUNTIME_H
#define KVH_BENCH_RUNTIME_H

#include "bench/fill.h"
#include "bench/model.h"
#include "cuda/device.h"
#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_runtime;

struct kvh_runtime_opts {
	const char *device;             /* as kvh_device_open_list takes it; the first */
	const struct kvh_geometry *geo; /* borrowed until close */
	uint32_t n_pages;
	bool staged; /* through pinned memory also on the host device */
};

/* The reason of a failure was printed.
 * -EINVAL, -ENODEV the device, -ENOMEM */
int kvh_runtime_open(const struct kvh_runtime_opts *opts, struct kvh_runtime **rt_p);
/* No engine may know the pool any more. NULL is fine. */
void kvh_runtime_close(struct kvh_runtime *rt);

int kvh_runtime_register(struct kvh_runtime *rt, struct kvh_engine *engine, kvh_space_t space,
			 kvh_pool_t *pool_p);
struct CUstream_st *kvh_runtime_stream(const struct kvh_runtime *rt);
/* "host", or as the driver calls it. */
const char *kvh_runtime_device_name(const struct kvh_runtime *rt);

/* The link: the median of a few contiguous copies each way, in GB/s (10^9). Zeros, and no
 * measurement, on the host device, which has none. Before anything else. Waits. */
int kvh_runtime_link(struct kvh_runtime *rt, double *store_p, double *load_p);

/* Scattered ones, as after hours of serving. All or none: false, too few are free. */
bool kvh_runtime_pages_take(struct kvh_runtime *rt, uint32_t n, uint32_t *pages);
void kvh_runtime_pages_give(struct kvh_runtime *rt, uint32_t n, const uint32_t *pages);
uint32_t kvh_runtime_pages_free(const struct kvh_runtime *rt);

/* A chunk and its pages: those of its group, in token order. */
struct kvh_runtime_chunk {
	struct kvh_key key;
	const uint32_t *pages;
};

/* The first byte of a chunk that is not what it must be. */
struct kvh_runtime_wrong {
	bool wrong;
	uint32_t plane;  /* of the group */
	uint32_t page;   /* of the chunk: 0 .. */
	uint64_t offset; /* in the page */
	uint8_t want, got;
};

/* Behind the call, on the stream, the pages hold what they must; or poison.
 * 0, or as the device fails. */
int kvh_runtime_fill(struct kvh_runtime *rt, const struct kvh_runtime_chunk *chunks, size_t n);
int kvh_runtime_poison(struct kvh_runtime *rt, const struct kvh_runtime_chunk *chunks,
		       size_t n);
/* Every byte, behind what the stream has. Waits. wrong[i] is set for each chunk. */
int kvh_runtime_check(struct kvh_runtime *rt, const struct kvh_runtime_chunk *chunks, size_t n,
		      struct kvh_runtime_wrong *wrong);

#ifdef __cplusplus
}
#endif
#endif
