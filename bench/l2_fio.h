/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_fio.h - fio, the measure: the same file, size, depth and pattern, in a child
 * process of its own. One thread.
 */
#ifndef KVH_BENCH_L2_FIO_H
#define KVH_BENCH_L2_FIO_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_fio_opts {
	const char *path;    /* a file that is there, or a block device */
	const char *pattern; /* "write", "randread", "randrw" (half and half) */
	uint64_t size;       /* of it, from its start */
	uint64_t block;      /* bytes of one request */
	uint64_t bytes;      /* to move */
	uint32_t depth;
	uint64_t seed;
	bool huge; /* buffers on huge pages */
};

struct kvh_fio_result {
	double seconds, gb_per_s, cpu_s_per_gb;
};

/* -ENOENT: there is no fio. -EIO: it failed; its first line was printed. */
int kvh_fio_run(const struct kvh_fio_opts *opts, struct kvh_fio_result *result);

bool kvh_fio_there(void);

/* Whether fio's buffers find huge pages: without them it is up to a third slower,
 * and no measure. */
bool kvh_fio_huge(uint64_t block, uint32_t depth);

#ifdef __cplusplus
}
#endif
#endif
