/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load_host.c - the names of the kernels, and the only one that the host device has:
 * a copy that the caller's thread makes, bound by memory as the device's is. It shows
 * that the command works; what it loses says nothing about a GPU. The caller's thread.
 */
#include "bench/bench.h"
#include "bench/load.h"
#include "bench/random.h"
#include "host/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COPY_BYTES (UINT64_C(8) << 20) /* larger than a cache's share */

static const struct {
	const char *name;
	struct kvh_gemm_shape gemm;
} kernels[KVH_LOAD_KERNELS] = {
	[KVH_LOAD_WAVE] = {"wave", {0, 0, 0}},
	[KVH_LOAD_GEMM_64] = {"64x8192x8192", {64, 8192, 8192}},
	[KVH_LOAD_GEMM_1024] = {"1024x8192x4096", {1024, 8192, 4096}},
	[KVH_LOAD_GEMM_2048] = {"2048x2112x4096", {2048, 2112, 4096}},
	[KVH_LOAD_GEMM_4096] = {"4096x4096x4096", {4096, 4096, 4096}},
	[KVH_LOAD_GEMM_8192] = {"8192x8192x8192", {8192, 8192, 8192}},
	[KVH_LOAD_COPY] = {"copy", {0, 0, 0}},
};

const char *kvh_load_name(enum kvh_load_kernel kernel)
{
	return kernels[kernel].name;
}

struct kvh_gemm_shape kvh_load_gemm(enum kvh_load_kernel kernel)
{
	return kernels[kernel].gemm;
}

struct host_load {
	unsigned char *from, *to;
	uint64_t runs; /* the last one's number lies in every word of `from` */
};

static void host_close(void *self)
{
	struct host_load *load = self;

	free(load->from);
	free(load->to);
	free(load);
}

static int host_open(const struct kvh_device_info *device, void **self_p)
{
	struct host_load *load = calloc(1, sizeof(*load));

	(void)device;
	if (load == NULL)
		return -ENOMEM;
	load->from = malloc(COPY_BYTES);
	load->to = malloc(COPY_BYTES);
	if (load->from == NULL || load->to == NULL) {
		kvh_bench_complain("no memory for what runs beside");
		host_close(load);
		return -ENOMEM;
	}
	memset(load->to, 0, COPY_BYTES);
	*self_p = load;
	return 0;
}

static const char *host_how(const void *self)
{
	(void)self;
	return "no device: a thread that copies memory";
}

static bool host_has(const void *self, enum kvh_load_kernel kernel)
{
	(void)self;
	return kernel == KVH_LOAD_COPY;
}

static uint64_t word_of(uint64_t run, uint64_t i)
{
	return kvh_random_mix(run << 32 | i);
}

static int host_run(void *self, enum kvh_load_kernel kernel, uint32_t n, uint64_t *ns_p)
{
	struct host_load *load = self;
	uint64_t begun;

	(void)kernel;
	load->runs++;
	for (uint64_t i = 0; i < COPY_BYTES / 8; i++) {
		uint64_t word = word_of(load->runs, i);

		memcpy(load->from + 8 * i, &word, sizeof(word));
	}
	begun = kvh_now_ns();
	for (uint32_t i = 0; i < n; i++) {
		memcpy(load->to, load->from, COPY_BYTES);
		__asm__ volatile("" ::"r"(load->to) : "memory"); /* each of them is made */
	}
	*ns_p = kvh_now_ns() - begun;
	return 0;
}

static int host_check(void *self, enum kvh_load_kernel kernel, bool *right_p)
{
	const struct host_load *load = self;
	bool right = true;

	(void)kernel;
	for (uint64_t i = 0; i < COPY_BYTES / 8; i++) {
		uint64_t word;

		memcpy(&word, load->to + 8 * i, sizeof(word));
		right = right && word == word_of(load->runs, i);
	}
	*right_p = right;
	return 0;
}

const struct kvh_load_ops kvh_load_host = {
	.open = host_open,
	.close = host_close,
	.how = host_how,
	.has = host_has,
	.run = host_run,
	.check = host_check,
};

const struct kvh_load_ops *kvh_load_for(const struct kvh_device_info *device)
{
	return device->n_sms != 0 && kvh_load_gpu != NULL ? kvh_load_gpu : &kvh_load_host;
}
