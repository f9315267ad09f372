/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fill.c - a plane's bytes of a chunk are 64-bit words, word i a mix of (base + i):
 * one multiplication each, which compilers turn into vectors, so that writing and
 * checking cost about as much as copying.
 */
#include "bench/fill.h"

#include "bench/random.h"

#include <assert.h>
#include <string.h>

#define WORD_BYTES  8u
#define BLOCK_WORDS 64u /* compared before looking */

static inline uint64_t word(uint64_t n)
{
	n *= UINT64_C(0x9e3779b97f4a7c15);
	return n ^ (n >> 32);
}

/* A run: bytes that follow each other in the page and in token order. */
struct run {
	uint64_t n_words;
	uint64_t n_runs;
};

static struct run runs_of(const struct kvh_fill_unit *unit)
{
	uint64_t head_words = unit->head_bytes / WORD_BYTES;

	assert(unit->head_bytes % WORD_BYTES == 0);
	if (unit->order == KVH_ORDER_NHD || unit->heads == 1)
		return (struct run){head_words * unit->heads * unit->tokens, 1};
	return (struct run){head_words, (uint64_t)unit->heads * unit->tokens};
}

/* The number of the first word of run r: in HND order, run r of the page is head
 * r / tokens of token r % tokens. */
static uint64_t first_word(const struct kvh_fill_unit *unit, const struct run *run, uint64_t r)
{
	uint64_t token = unit->first_token, head = 0;

	if (run->n_runs > 1) {
		token += r % unit->tokens;
		head = r / unit->tokens;
	}
	return unit->base + (token * unit->heads + head) * (unit->head_bytes / WORD_BYTES);
}

static void write_run(unsigned char *to, uint64_t n, uint64_t n_words)
{
	for (uint64_t i = 0; i < n_words; i++) {
		uint64_t w = word(n + i);

		memcpy(to + i * WORD_BYTES, &w, WORD_BYTES);
	}
}

static uint64_t differs(const unsigned char *at, uint64_t n, uint64_t n_words)
{
	uint64_t diff = 0;

	for (uint64_t i = 0; i < n_words; i++) {
		uint64_t w;

		memcpy(&w, at + i * WORD_BYTES, WORD_BYTES);
		diff |= w ^ word(n + i);
	}
	return diff;
}

static int64_t first_wrong(const unsigned char *at, uint64_t n, uint64_t n_words)
{
	for (uint64_t i = 0; i < n_words; i++) {
		uint64_t w = word(n + i);
		unsigned char want[WORD_BYTES];

		memcpy(want, &w, WORD_BYTES);
		for (uint64_t b = 0; b < WORD_BYTES; b++) {
			if (at[i * WORD_BYTES + b] != want[b])
				return (int64_t)(i * WORD_BYTES + b);
		}
	}
	return -1;
}

static int64_t check_run(const unsigned char *at, uint64_t n, uint64_t n_words)
{
	for (uint64_t i = 0; i < n_words; i += BLOCK_WORDS) {
		uint64_t left = n_words - i, some = left < BLOCK_WORDS ? left : BLOCK_WORDS;
		const unsigned char *block = at + i * WORD_BYTES;

		if (differs(block, n + i, some) != 0)
			return (int64_t)(i * WORD_BYTES) + first_wrong(block, n + i, some);
	}
	return -1;
}

void kvh_fill_write(const struct kvh_fill_unit *unit, void *page)
{
	struct run run = runs_of(unit);
	unsigned char *to = page;

	for (uint64_t r = 0; r < run.n_runs; r++) {
		write_run(to, first_word(unit, &run, r), run.n_words);
		to += run.n_words * WORD_BYTES;
	}
}

int64_t kvh_fill_check(const struct kvh_fill_unit *unit, const void *page)
{
	struct run run = runs_of(unit);

	for (uint64_t r = 0; r < run.n_runs; r++) {
		uint64_t offset = r * run.n_words * WORD_BYTES;
		int64_t bad = check_run((const unsigned char *)page + offset,
					first_word(unit, &run, r), run.n_words);

		if (bad >= 0)
			return (int64_t)offset + bad;
	}
	return -1;
}

uint8_t kvh_fill_byte(const struct kvh_fill_unit *unit, uint64_t offset)
{
	struct run run = runs_of(unit);
	uint64_t n = offset / WORD_BYTES;
	uint64_t w = word(first_word(unit, &run, n / run.n_words) + n % run.n_words);
	unsigned char bytes[WORD_BYTES];

	memcpy(bytes, &w, WORD_BYTES);
	return bytes[offset % WORD_BYTES];
}

uint64_t kvh_fill_base(const struct kvh_key *key, uint32_t plane)
{
	uint64_t half[2], n;

	memcpy(half, key->hash.bytes, sizeof(half));
	n = kvh_random_mix(half[0] ^ kvh_random_mix(half[1]));
	n = kvh_random_mix(n ^ key->space);
	n = kvh_random_mix(n ^ ((uint64_t)key->rank << 32 | key->group));
	return kvh_random_mix(n + plane);
}

void kvh_fill_hash(uint64_t salt, uint64_t id, struct kvh_hash *hash)
{
	uint64_t half[2];

	/* Never zero: that stands for "no chunk before". */
	half[0] = kvh_random_mix(kvh_random_mix(salt + 1) ^ id) | 1;
	half[1] = kvh_random_mix(half[0] + UINT64_C(0x9e3779b97f4a7c15) * (id + 1));
	memcpy(hash->bytes, half, sizeof(half));
}
