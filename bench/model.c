/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.c - the models, and how they are scaled. Numbers are those of the
 * config.json that is published with each model's weights (the field names are in
 * `source`); KV is bf16, two bytes an element. Pure functions; any thread.
 */
#include "bench/model.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ELEMENT_BYTES 2u
#define FRAME_ALIGN   4096u               /* a frame is a header page and whole pages */
#define GRANULE       (UINT64_C(2) << 20) /* L1 is cut into these */
#define PIECE         (UINT64_C(1) << 30) /* and pinned in these; no frame crosses */
#define SLAB_MAX      64u                 /* granules */

static const struct kvh_model models[] = {
	{
		.name = "llama-3.1-8b",
		.source = "num_hidden_layers 32, num_key_value_heads 8, head_dim 128",
		.layers = 32,
		.heads = 8,
		.head_size = 128,
		.tp_size = 1,
		.page_tokens = 16,
		.layout = KVH_LAYOUT_KV_APART,
		.order = KVH_ORDER_NHD,
		.runtime = "vLLM FlashAttention: a layer is [2, pages, 16, heads, size]",
	},
	{
		.name = "llama-3.1-70b-tp8",
		.source = "num_hidden_layers 80, num_key_value_heads 8, head_dim 128; one of 8 "
			  "ranks",
		.layers = 80,
		.heads = 8,
		.head_size = 128,
		.tp_size = 8,
		.page_tokens = 16,
		.layout = KVH_LAYOUT_KV_PAIRED,
		.order = KVH_ORDER_NHD,
		.runtime = "vLLM FlashInfer: a layer is [pages, 2, 16, heads, size]",
	},
	{
		.name = "qwen3-32b",
		.source = "num_hidden_layers 64, num_key_value_heads 8, head_dim 128",
		.layers = 64,
		.heads = 8,
		.head_size = 128,
		.tp_size = 1,
		.page_tokens = 16,
		.layout = KVH_LAYOUT_KV_PAIRED,
		.order = KVH_ORDER_HND,
		.runtime = "vLLM FlashInfer, HND: a layer is [pages, 2, heads, 16, size]",
	},
	{
		/* MLA caches one latent a token and layer, the same on all ranks. */
		.name = "deepseek-v3",
		.source = "num_hidden_layers 61, kv_lora_rank 512 + qk_rope_head_dim 64",
		.layers = 61,
		.heads = 1,
		.head_size = 512 + 64,
		.tp_size = 8,
		.page_tokens = 64,
		.layout = KVH_LAYOUT_LATENT,
		.order = KVH_ORDER_NHD,
		.runtime = "vLLM FlashMLA: a layer is [pages, 64, latent]",
	},
	{
		/* layer_types alternates sliding_attention and full_attention. The hybrid
		 * allocator of vLLM gives a tensor to each pair of them: a page of it
		 * belongs to one of the two groups. */
		.name = "gpt-oss-120b",
		.source = "num_hidden_layers 36, num_key_value_heads 8, head_dim 64, "
			  "sliding_window 128",
		.layers = 36,
		.heads = 8,
		.head_size = 64,
		.tp_size = 1,
		.page_tokens = 16,
		.window_tokens = 128,
		.layout = KVH_LAYOUT_KV_APART,
		.order = KVH_ORDER_NHD,
		.runtime = "vLLM, hybrid: a pair of layers is [2, pages, 16, heads, size]",
	},
};
#define N_MODELS (sizeof(models) / sizeof(models[0]))

const struct kvh_model *kvh_model_at(size_t i)
{
	return i < N_MODELS ? &models[i] : NULL;
}

const struct kvh_model *kvh_model_find(const char *name)
{
	for (size_t i = 0; i < N_MODELS; i++) {
		if (strcmp(models[i].name, name) == 0)
			return &models[i];
	}
	return NULL;
}

/* ---- scale ---- */

static uint32_t planes_a_layer(const struct kvh_model *model)
{
	return model->layout == KVH_LAYOUT_LATENT ? 1 : 2;
}

static uint64_t token_bytes(const struct kvh_geometry *geo)
{
	return (uint64_t)geo->layers * planes_a_layer(geo->model) * geo->heads *
	       geo->head_bytes;
}

/* `now` brought to about `target / bytes` of it, in whole steps, at least one. */
static uint32_t cut(uint32_t now, uint32_t step, double target, uint64_t bytes)
{
	double steps = round((double)now / step * target / (double)bytes);

	if (target >= (double)bytes)
		return now;
	return steps < 1 ? step : (uint32_t)steps * step;
}

/* The next is cut only where the one before can give no more. */
static void scale_down(struct kvh_geometry *geo)
{
	double target = (double)geo->full_token_bytes * geo->scale;

	geo->head_bytes = cut(geo->head_bytes, KVH_MODEL_HEAD_MIN, target, token_bytes(geo));
	if (geo->head_bytes > KVH_MODEL_HEAD_MIN)
		return;
	geo->heads = cut(geo->heads, 1, target, token_bytes(geo));
	if (geo->heads > 1)
		return;
	geo->layers = cut(geo->layers, geo->n_groups, target, token_bytes(geo));
}

/* ---- shapes ---- */

static bool has_window(const struct kvh_geometry *geo, uint32_t group)
{
	return geo->model->window_tokens != 0 && group == 1;
}

/* Group 0 has full attention. With windows, layers take turns, and the first has
 * a window: group 0 has the odd ones. */
static uint32_t layer_of(const struct kvh_geometry *geo, uint32_t group, uint32_t i)
{
	return geo->n_groups == 1 ? i : 2 * i + (group == 0);
}

static void make_group(struct kvh_geometry *geo, uint32_t group, struct kvh_plane_shape *shapes)
{
	struct kvh_group_desc *desc = &geo->groups[group];
	uint32_t a_layer = planes_a_layer(geo->model);

	desc->kind = has_window(geo, group) ? KVH_GROUP_WINDOW : KVH_GROUP_FULL;
	desc->format = KVH_FORMAT_NATIVE;
	desc->page_tokens = geo->model->page_tokens;
	desc->window_tokens = has_window(geo, group) ? geo->model->window_tokens : 0;
	desc->replicated = geo->model->layout == KVH_LAYOUT_LATENT;
	desc->n_planes = geo->layers / geo->n_groups * a_layer;
	desc->planes = shapes;
	for (uint32_t i = 0; i < desc->n_planes; i++) {
		shapes[i].kind = KVH_PLANE_TOKENS;
		shapes[i].layer = layer_of(geo, group, i / a_layer);
		shapes[i].heads = geo->heads;
		shapes[i].head_bytes = geo->head_bytes;
		shapes[i].order = geo->model->order;
	}
}

int kvh_geometry_make(const struct kvh_model *model, double scale, struct kvh_geometry *geo)
{
	uint32_t a_layer = planes_a_layer(model), at = 0;

	memset(geo, 0, sizeof(*geo));
	if (!(scale > 0 && scale <= 1)) /* and no NaN */
		return -EINVAL;
	geo->model = model;
	geo->scale = scale;
	geo->layers = model->layers;
	geo->heads = model->layout == KVH_LAYOUT_LATENT ? 1 : model->heads / model->tp_size;
	geo->head_bytes = model->head_size * ELEMENT_BYTES;
	geo->n_groups = model->window_tokens != 0 ? 2 : 1;
	geo->full_token_bytes = token_bytes(geo);
	scale_down(geo);
	geo->token_bytes = token_bytes(geo);
	geo->n_planes = geo->layers * a_layer;
	geo->n_allocs = geo->layers / geo->n_groups;
	geo->page_bytes = (uint64_t)model->page_tokens * a_layer * geo->heads * geo->head_bytes;
	geo->shapes = calloc(geo->n_planes, sizeof(*geo->shapes));
	if (geo->shapes == NULL)
		return -ENOMEM;
	for (uint32_t g = 0; g < geo->n_groups; g++) {
		make_group(geo, g, geo->shapes + at);
		at += geo->groups[g].n_planes;
	}
	return 0;
}

void kvh_geometry_free(struct kvh_geometry *geo)
{
	free(geo->shapes);
	memset(geo, 0, sizeof(*geo));
}

void kvh_geometry_space(const struct kvh_geometry *geo, struct kvh_space_desc *desc)
{
	const struct kvh_model *model = geo->model;

	kvh_space_desc_init(desc, sizeof(*desc));
	desc->model = model->name;
	desc->revision = "generated";
	desc->dtype = "bf16";
	desc->runner = model->runtime;
	desc->hash_algo = "trace-ids";
	desc->chunk_tokens = KVH_MODEL_CHUNK_TOKENS;
	desc->layers = geo->layers;
	desc->heads = model->layout == KVH_LAYOUT_LATENT ? 1 : geo->heads * model->tp_size;
	desc->head_size = geo->head_bytes / ELEMENT_BYTES;
	desc->tp_size = model->tp_size;
	desc->pp_size = 1;
	desc->n_groups = geo->n_groups;
	desc->groups = geo->groups;
}

/* ---- pages ---- */

/* Half k of tensor `alloc`: K or V. */
static struct kvh_plane place(const struct kvh_geometry *geo, uint32_t alloc, uint32_t k,
			      uint32_t n_pages)
{
	uint32_t halves = planes_a_layer(geo->model);
	uint64_t unit = geo->page_bytes / halves;
	bool apart = geo->model->layout == KVH_LAYOUT_KV_APART;
	bool hnd = geo->model->order == KVH_ORDER_HND;
	struct kvh_plane plane = {.alloc = alloc};

	plane.offset = apart ? k * unit * n_pages : k * unit;
	plane.page_stride = apart ? unit : geo->page_bytes;
	plane.token_stride = hnd ? geo->head_bytes : (uint64_t)geo->heads * geo->head_bytes;
	plane.head_stride = hnd ? (uint64_t)geo->model->page_tokens * geo->head_bytes
				: geo->head_bytes;
	return plane;
}

void kvh_geometry_planes(const struct kvh_geometry *geo, uint32_t n_pages,
			 struct kvh_plane *planes)
{
	uint32_t a_layer = planes_a_layer(geo->model), at = 0;

	for (uint32_t g = 0; g < geo->n_groups; g++) {
		for (uint32_t i = 0; i < geo->groups[g].n_planes; i++)
			planes[at++] = place(geo, i / a_layer, i % a_layer, n_pages);
	}
}

uint32_t kvh_geometry_rank(const struct kvh_geometry *geo, uint32_t group)
{
	return geo->groups[group].replicated ? KVH_RANK_ANY : 0;
}

uint32_t kvh_geometry_chunk_pages(const struct kvh_geometry *geo, uint32_t group)
{
	return KVH_MODEL_CHUNK_TOKENS / geo->groups[group].page_tokens;
}

uint64_t kvh_geometry_chunk_bytes(const struct kvh_geometry *geo, uint32_t group)
{
	return (uint64_t)KVH_MODEL_CHUNK_TOKENS * geo->groups[group].n_planes * geo->heads *
	       geo->head_bytes;
}

static uint64_t round_up(uint64_t n, uint64_t step)
{
	return (n + step - 1) / step * step;
}

/* Granules of a slab: the fewest that waste a 64th at most, or those up to SLAB_MAX
 * that waste least. */
static uint64_t slab_granules(uint64_t frame)
{
	uint64_t best = round_up(frame, GRANULE) / GRANULE, best_n = 1;

	for (uint64_t g = best; g <= SLAB_MAX; g++) {
		uint64_t n = g * GRANULE / frame;

		if (n * best > best_n * g) { /* more frames a granule */
			best = g;
			best_n = n;
		}
		if (g * GRANULE % frame * 64 <= g * GRANULE)
			break;
	}
	return best;
}

/* L1 cuts pieces into slabs of whole granules, and slabs into frames: what is left
 * over is lost. A few slabs more, as it may choose others than these. */
uint64_t kvh_geometry_l1_bytes(const struct kvh_geometry *geo, uint64_t chunks)
{
	uint64_t granules = 0;

	for (uint32_t g = 0; g < geo->n_groups; g++) {
		uint64_t frame = FRAME_ALIGN +
				 round_up(kvh_geometry_chunk_bytes(geo, g), FRAME_ALIGN);
		uint64_t slab = slab_granules(frame), a_slab = slab * GRANULE / frame;
		uint64_t n_slabs = (chunks + a_slab - 1) / a_slab;
		uint64_t a_piece = PIECE / GRANULE / slab;

		n_slabs += n_slabs / 32 + 2;
		granules += n_slabs * slab;
		if (a_piece != 0) /* the end of a piece that no slab fits in */
			granules += (n_slabs / a_piece + 1) * (PIECE / GRANULE % slab);
	}
	return granules * GRANULE;
}

void kvh_geometry_describe(const struct kvh_geometry *geo, char *text, size_t len)
{
	char heads[64], window[64] = "", scaled[96] = "";

	if (geo->model->layout == KVH_LAYOUT_LATENT)
		(void)snprintf(heads, sizeof(heads), "a latent of %u bytes", geo->head_bytes);
	else
		(void)snprintf(heads, sizeof(heads), "%u KV head%s of %u bytes", geo->heads,
			       geo->heads == 1 ? "" : "s", geo->head_bytes);
	if (geo->n_groups > 1)
		(void)snprintf(window, sizeof(window), ", every other layer a window of %u",
			       geo->model->window_tokens);
	if (geo->scale < 1)
		(void)snprintf(scaled, sizeof(scaled), " (%.3g of %ju; asked for %g)",
			       (double)geo->token_bytes / (double)geo->full_token_bytes,
			       (uintmax_t)geo->full_token_bytes, geo->scale);
	(void)snprintf(text, len, "%s: %u layer%s%s, %s; %ju bytes a token%s", geo->model->name,
		       geo->layers, geo->layers == 1 ? "" : "s", window, heads,
		       (uintmax_t)geo->token_bytes, scaled);
}
