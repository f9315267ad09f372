/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.h - the KV cache of models, as their published configurations and a
 * runtime have it: what a token takes, and how pages lie in device memory.
 *
 * A geometry is a model, perhaps scaled down. All of its groups draw their pages
 * from one set of page numbers, as the runtimes that have several groups do; they
 * may share memory, for a page belongs to one group at a time.
 */
#ifndef KVH_BENCH_MODEL_H
#define KVH_BENCH_MODEL_H

#include "kvhoist.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_MODEL_CHUNK_TOKENS 512u /* the blocks of a trace */
#define KVH_MODEL_GROUPS_MAX   2u
#define KVH_MODEL_HEAD_MIN     16u /* bytes that scaling leaves of a head */

/* How a runtime lays out a layer's pages. */
enum kvh_model_layout {
	KVH_LAYOUT_KV_APART,  /* [2, pages, ...]: all K pages, then all V pages */
	KVH_LAYOUT_KV_PAIRED, /* [pages, 2, ...]: each page's K, then its V */
	KVH_LAYOUT_LATENT,    /* [pages, tokens, latent]: one plane, one "head" */
};

struct kvh_model {
	const char *name;
	const char *source; /* where the numbers are from */
	uint32_t layers;
	uint32_t heads;     /* KV heads of the whole model; 1: a latent */
	uint32_t head_size; /* elements; of a latent, all of it */
	uint32_t tp_size;
	uint32_t page_tokens;
	uint32_t window_tokens; /* of every other layer, from the first; 0: none */
	enum kvh_model_layout layout;
	enum kvh_order order;
	const char *runtime; /* whose layout it is */
};

struct kvh_geometry {
	const struct kvh_model *model;
	double scale;
	uint32_t layers, heads; /* of one rank */
	uint32_t head_bytes;
	uint32_t n_groups;
	uint32_t n_planes; /* of all groups */
	struct kvh_group_desc groups[KVH_MODEL_GROUPS_MAX];
	struct kvh_plane_shape *shapes; /* [n_planes], group by group */
	uint32_t n_allocs;              /* tensors of the pool */
	uint64_t page_bytes;            /* of a tensor */
	uint64_t token_bytes;           /* of all layers */
	uint64_t full_token_bytes;      /* unscaled */
};

/* NULL: unknown. */
const struct kvh_model *kvh_model_find(const char *name);
/* The i-th model; NULL: there are no more. */
const struct kvh_model *kvh_model_at(size_t i);

/* Cuts head size, then heads, then layers, until a token takes about `scale` of
 * its bytes, or no less is possible. 0 < scale <= 1. Free it, also for reuse.
 * -EINVAL scale, -ENOMEM */
int kvh_geometry_make(const struct kvh_model *model, double scale, struct kvh_geometry *geo);
void kvh_geometry_free(struct kvh_geometry *geo);

/* Borrows from the geometry. */
void kvh_geometry_space(const struct kvh_geometry *geo, struct kvh_space_desc *desc);
/* Planes of a pool of `n_pages`, as kvh_pool_desc wants them: [n_planes]. Tensor
 * i is alloc i, of n_pages * page_bytes. */
void kvh_geometry_planes(const struct kvh_geometry *geo, uint32_t n_pages,
			 struct kvh_plane *planes);
/* The rank of the keys of a group. */
uint32_t kvh_geometry_rank(const struct kvh_geometry *geo, uint32_t group);
uint32_t kvh_geometry_chunk_pages(const struct kvh_geometry *geo, uint32_t group);
/* Bytes of a chunk of the group. */
uint64_t kvh_geometry_chunk_bytes(const struct kvh_geometry *geo, uint32_t group);
/* An L1 size that holds `chunks` of every group at once. */
uint64_t kvh_geometry_l1_bytes(const struct kvh_geometry *geo, uint64_t chunks);

/* "llama-3.1-8b: 32 layers, 8 KV heads of 256 bytes, 131072 bytes a token, ..." */
void kvh_geometry_describe(const struct kvh_geometry *geo, char *text, size_t len);

#ifdef __cplusplus
}
#endif
#endif
