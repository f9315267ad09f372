/* SPDX-License-Identifier: Apache-2.0 */
/*
 * space.c - descriptor to digest, and the table of spaces.
 *
 * The canonical descriptor is a sequence of fields, each as (tag, length,
 * bytes), little-endian, so that no two descriptors have one encoding: a string
 * cannot run into its neighbour. What does not decide bytes is not in it (the
 * order of a portable plane).
 */
#include "host/space.h"

#include "cuda/layout.h"
#include "host/frame.h"
#include "host/log.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

enum field {
	FIELD_VERSION = 1,
	FIELD_MODEL,
	FIELD_REVISION,
	FIELD_DTYPE,
	FIELD_QUANT,
	FIELD_RUNNER,
	FIELD_HASH_ALGO,
	FIELD_HASH_SEED,
	FIELD_SALT,
	FIELD_CHUNK_TOKENS,
	FIELD_LAYERS,
	FIELD_HEADS,
	FIELD_HEAD_SIZE,
	FIELD_TP_SIZE,
	FIELD_PP_SIZE,
	FIELD_GROUP,
	FIELD_PLANE,
};

/* SHA-256 cannot fail on memory; a failure inside OpenSSL shows in `ok`. */
struct digest {
	EVP_MD_CTX *ctx;
	bool ok;
};

static void put_le(uint8_t *to, uint64_t value)
{
	for (int i = 0; i < 8; i++)
		to[i] = (uint8_t)(value >> (8 * i));
}

static void add_bytes(struct digest *d, enum field tag, const void *bytes, size_t len)
{
	uint8_t head[16];

	put_le(head, (uint64_t)tag);
	put_le(head + 8, len);
	d->ok = d->ok && EVP_DigestUpdate(d->ctx, head, sizeof(head)) == 1 &&
		(len == 0 || EVP_DigestUpdate(d->ctx, bytes, len) == 1);
}

static void add_text(struct digest *d, enum field tag, const char *text)
{
	add_bytes(d, tag, text, text != NULL ? strlen(text) : 0);
}

static void add_numbers(struct digest *d, enum field tag, const uint64_t *values, size_t n)
{
	uint8_t bytes[8 * 8];

	for (size_t i = 0; i < n; i++)
		put_le(bytes + 8 * i, values[i]);
	add_bytes(d, tag, bytes, 8 * n);
}

static void add_number(struct digest *d, enum field tag, uint64_t value)
{
	add_numbers(d, tag, &value, 1);
}

static void add_group(struct digest *d, const struct kvh_group_desc *group)
{
	const uint64_t g[] = {group->kind,          group->format,     group->page_tokens,
			      group->window_tokens, group->replicated, group->n_planes};

	add_numbers(d, FIELD_GROUP, g, sizeof(g) / sizeof(g[0]));
	for (uint32_t i = 0; i < group->n_planes; i++) {
		const struct kvh_plane_shape *s = &group->planes[i];
		uint64_t order = group->format == KVH_FORMAT_NATIVE ? s->order : 0;
		const uint64_t p[] = {s->kind,       s->layer, s->heads,
				      s->head_bytes, order,    s->page_bytes};

		add_numbers(d, FIELD_PLANE, p, sizeof(p) / sizeof(p[0]));
	}
}

static int make_digest(const struct kvh_space_desc *desc, uint8_t digest[32])
{
	struct digest d = {EVP_MD_CTX_new(), true};

	d.ok = d.ctx != NULL && EVP_DigestInit_ex(d.ctx, EVP_sha256(), NULL) == 1;
	add_number(&d, FIELD_VERSION, KVH_FRAME_VERSION);
	add_text(&d, FIELD_MODEL, desc->model);
	add_text(&d, FIELD_REVISION, desc->revision);
	add_text(&d, FIELD_DTYPE, desc->dtype);
	add_text(&d, FIELD_QUANT, desc->quant);
	add_text(&d, FIELD_RUNNER, desc->runner);
	add_text(&d, FIELD_HASH_ALGO, desc->hash_algo);
	add_text(&d, FIELD_HASH_SEED, desc->hash_seed);
	add_bytes(&d, FIELD_SALT, desc->salt, desc->salt_len);
	add_number(&d, FIELD_CHUNK_TOKENS, desc->chunk_tokens);
	add_number(&d, FIELD_LAYERS, desc->layers);
	add_number(&d, FIELD_HEADS, desc->heads);
	add_number(&d, FIELD_HEAD_SIZE, desc->head_size);
	add_number(&d, FIELD_TP_SIZE, desc->tp_size);
	add_number(&d, FIELD_PP_SIZE, desc->pp_size);
	for (uint32_t g = 0; g < desc->n_groups; g++)
		add_group(&d, &desc->groups[g]);
	d.ok = d.ok && EVP_DigestFinal_ex(d.ctx, digest, NULL) == 1;
	EVP_MD_CTX_free(d.ctx);
	if (!d.ok) {
		kvh_err("space: SHA-256 of the descriptor failed in libcrypto");
		return -EIO;
	}
	return 0;
}

static int bad_field(const char *field, uint64_t value, const char *allowed)
{
	kvh_err("space: %s is %llu, allowed: %s", field, (unsigned long long)value, allowed);
	return -EINVAL;
}

static int check_desc(const struct kvh_space_desc *desc)
{
	uint64_t planes = 0;
	int err;

	if (desc->size != sizeof(*desc))
		return bad_field("size", desc->size, "what kvh_space_desc_init set");
	if (desc->chunk_tokens == 0)
		return bad_field("chunk_tokens", 0, ">= 1");
	if (desc->n_groups == 0 || desc->n_groups > KVH_GROUPS_MAX || desc->groups == NULL)
		return bad_field("n_groups", desc->n_groups, "1..16");
	if (desc->tp_size == 0 || desc->pp_size == 0)
		return bad_field("tp_size or pp_size", 0, ">= 1");
	if (desc->salt == NULL && desc->salt_len != 0)
		return bad_field("salt_len", desc->salt_len, "0 without a salt");
	for (uint32_t g = 0; g < desc->n_groups; g++) {
		err = kvh_group_check(&desc->groups[g], g, desc->chunk_tokens);
		if (err != 0)
			return err;
		planes += desc->groups[g].n_planes;
	}
	if (planes > KVH_PLANES_MAX)
		return bad_field("planes of all groups", planes, "1..4096");
	return 0;
}

static void fill_groups(struct kvh_space *space, const struct kvh_space_desc *desc)
{
	for (uint32_t i = 0; i < desc->n_groups; i++) {
		struct kvh_space_group *g = &space->groups[i];

		g->desc = desc->groups[i];
		g->first_plane = space->n_planes;
		g->desc.planes = space->shapes + space->n_planes;
		memcpy(space->shapes + space->n_planes, desc->groups[i].planes,
		       g->desc.n_planes * sizeof(space->shapes[0]));
		space->n_planes += g->desc.n_planes;
		g->payload_bytes = (uint64_t)kvh_group_payload_bytes(&g->desc,
								     desc->chunk_tokens);
		g->pages_per_chunk = (uint32_t)kvh_group_pages_per_chunk(&g->desc,
									 desc->chunk_tokens);
		g->window_chunks = g->desc.window_tokens / desc->chunk_tokens +
				   (g->desc.window_tokens % desc->chunk_tokens != 0);
	}
}

int kvh_space_make(const struct kvh_space_desc *desc, struct kvh_space **space_p)
{
	struct kvh_space *space;
	size_t planes = 0;
	int err;

	err = check_desc(desc);
	if (err != 0)
		return err;
	for (uint32_t g = 0; g < desc->n_groups; g++)
		planes += desc->groups[g].n_planes;
	space = calloc(1, sizeof(*space));
	if (space == NULL)
		return -ENOMEM;
	space->shapes = calloc(planes, sizeof(space->shapes[0]));
	space->counters = calloc(1, sizeof(*space->counters));
	if (space->shapes == NULL || space->counters == NULL) {
		err = -ENOMEM;
		goto err_free;
	}
	err = make_digest(desc, space->digest);
	if (err != 0)
		goto err_free;
	for (int i = 0; i < 8; i++)
		space->id |= (uint64_t)space->digest[i] << (8 * i);
	space->chunk_tokens = desc->chunk_tokens;
	space->n_groups = desc->n_groups;
	fill_groups(space, desc);
	*space_p = space;
	return 0;

err_free:
	kvh_space_free(space);
	return err;
}

void kvh_space_free(struct kvh_space *space)
{
	if (space == NULL)
		return;
	free(space->shapes);
	free(space->counters);
	free(space);
}

void kvh_space_desc_init(struct kvh_space_desc *desc, size_t size)
{
	memset(desc, 0, size);
	desc->size = size;
	if (size < sizeof(*desc))
		return; /* never known: every call refuses it */
	desc->tp_size = 1;
	desc->pp_size = 1;
}

void kvh_space_table_init(struct kvh_space_table *table)
{
	memset(table, 0, sizeof(*table));
	pthread_mutex_init(&table->lock, NULL);
}

void kvh_space_table_free(struct kvh_space_table *table)
{
	for (uint32_t b = 0; b < KVH_SPACE_BUCKETS; b++) {
		while (table->buckets[b] != NULL) {
			struct kvh_space *space = table->buckets[b];

			table->buckets[b] = space->next;
			kvh_space_free(space);
		}
	}
	pthread_mutex_destroy(&table->lock);
}

struct kvh_space *kvh_space_table_find(struct kvh_space_table *table, kvh_space_t id)
{
	struct kvh_space *space;

	space = __atomic_load_n(&table->buckets[id % KVH_SPACE_BUCKETS], __ATOMIC_ACQUIRE);
	while (space != NULL && space->id != id)
		space = space->next;
	return space;
}

int kvh_space_table_add(struct kvh_space_table *table, struct kvh_space *space,
			struct kvh_space **space_p)
{
	struct kvh_space **bucket = &table->buckets[space->id % KVH_SPACE_BUCKETS];
	struct kvh_space *found;
	int err = 0;

	pthread_mutex_lock(&table->lock);
	found = kvh_space_table_find(table, space->id);
	if (found == NULL) {
		space->next = *bucket;
		__atomic_store_n(bucket, space, __ATOMIC_RELEASE);
		*space_p = space;
	} else if (memcmp(found->digest, space->digest, sizeof(found->digest)) == 0) {
		kvh_space_free(space);
		*space_p = found;
	} else {
		kvh_err("space: id %016llx belongs to another descriptor",
			(unsigned long long)space->id);
		kvh_space_free(space);
		err = -EEXIST;
	}
	pthread_mutex_unlock(&table->lock);
	return err;
}
