/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.h - what a model computes, or something like it: kernels that run on the device
 * while pages move, so that it can be said how much slower they get. One thread.
 *
 *   wave   a kernel of exactly one wave: as many CTAs as the GPU has SMs, each with so
 *          much shared memory that no second one fits beside it, and fixed work. Where
 *          one SM is taken away for long, it takes twice as long
 *   RxCxD  C[R,C] = A[R,D] B[D,C] in bf16, accumulated in fp32: rows x columns x depth
 *   copy   a copy within the device: bound by its memory
 *
 * Operands are small multiples of 1/2, so that every sum is exact in fp32, and a
 * result is right or wrong, whoever computed it and in which order.
 */
#ifndef KVH_BENCH_LOAD_H
#define KVH_BENCH_LOAD_H

#include "cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_load_kernel {
	KVH_LOAD_WAVE,
	KVH_LOAD_GEMM_64,
	KVH_LOAD_GEMM_1024,
	KVH_LOAD_GEMM_2048, /* 132 tiles of 256 x 128: one wave of an H100 */
	KVH_LOAD_GEMM_4096,
	KVH_LOAD_GEMM_8192,
	KVH_LOAD_COPY,
	KVH_LOAD_KERNELS
};

/* "wave", "64x8192x8192", ..., "copy". */
const char *kvh_load_name(enum kvh_load_kernel kernel);

struct kvh_gemm_shape {
	uint32_t rows, columns, depth; /* columns, depth: multiples of 64; 0: no GEMM */
};
struct kvh_gemm_shape kvh_load_gemm(enum kvh_load_kernel kernel);

/* A const table an implementation; all are required. */
struct kvh_load_ops {
	/* Memory, a stream, timing events. -ENODEV: not the device it is for; -ENOMEM,
	 * -EIO; the reason was printed. */
	int (*open)(const struct kvh_device_info *device, void **self_p);
	void (*close)(void *self);
	/* What computes, for the report: "cuBLAS 13.0.2". The load's own text. */
	const char *(*how)(const void *self);
	bool (*has)(const void *self, enum kvh_load_kernel kernel);
	/* Runs it n times in a row, waits, and says how long all took on the device, from
	 * the first one's begin to the last one's end. -EIO */
	int (*run)(void *self, enum kvh_load_kernel kernel, uint32_t n, uint64_t *ns_p);
	/* Whether what the last run left is what it has to be, of places drawn from all;
	 * or -EIO. */
	int (*check)(void *self, enum kvh_load_kernel kernel, bool *right_p);
};

extern const struct kvh_load_ops kvh_load_host;
/* NULL in a build without CUDA: load.cu or load_none.c. */
extern const struct kvh_load_ops *const kvh_load_gpu;

/* The one for a device. */
const struct kvh_load_ops *kvh_load_for(const struct kvh_device_info *device);

#ifdef __cplusplus
}
#endif
#endif
