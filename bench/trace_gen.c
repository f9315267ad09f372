/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace_gen.c - generates a trace: a simulation of people who talk to a model.
 *
 *   prompt of turn k = system prompt + turns before + what the user says now
 *
 * A block has an id when it first appears. Full blocks of a conversation keep
 * theirs from turn to turn; a block that is not full has an id of its own, as
 * the next turn fills it with something else. The first blocks, up to where the
 * system prompt ends, belong to all conversations that share it. Any thread.
 */
#include "bench/random.h"
#include "bench/trace.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define N_SYSTEMS      12u
#define SYSTEM_TOKENS  6000u  /* of the longest system prompt */
#define CONTEXT_TOKENS 49152u /* a conversation ends before it is longer */
#define ID_NONE        UINT64_MAX
#define TURN_TOKENS    4096u /* at most, of a turn: what is said and the answer */
#define BLOCKS_MAX     ((CONTEXT_TOKENS + TURN_TOKENS) / KVH_TRACE_BLOCK_TOKENS + 1)

struct system_prompt {
	uint32_t tokens;
	uint64_t ids[SYSTEM_TOKENS / KVH_TRACE_BLOCK_TOKENS];
};

struct conversation {
	struct conversation *next;
	struct system_prompt *system;
	uint64_t random;
	uint64_t next_ms; /* of the next turn */
	uint32_t turns_left;
	uint32_t tokens; /* said so far */
	uint64_t ids[BLOCKS_MAX];
};

struct generator {
	struct kvh_trace *trace;
	uint64_t seed;
	uint64_t random; /* of arrivals */
	uint64_t arrival_ms;
	uint64_t n_ids;
	uint64_t n_conversations;
	struct conversation *talking;
	struct system_prompt systems[N_SYSTEMS];
};

static int arrive(struct generator *g)
{
	struct conversation *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return -ENOMEM;
	/* A stream of numbers of its own: others may come or go. */
	c->random = kvh_random_mix(g->seed ^ kvh_random_mix(++g->n_conversations));
	c->system = &g->systems[kvh_random_skewed(&c->random, 0, N_SYSTEMS - 1)];
	c->tokens = c->system->tokens;
	c->turns_left = kvh_random_skewed(&c->random, 1, 12);
	c->next_ms = g->arrival_ms;
	for (size_t i = 0; i < BLOCKS_MAX; i++)
		c->ids[i] = ID_NONE;
	c->next = g->talking;
	g->talking = c;
	g->arrival_ms += kvh_random_skewed(&g->random, 10, 4000);
	return 0;
}

/* The id of full block i of the conversation. */
static uint64_t full_block(struct generator *g, struct conversation *c, uint32_t i)
{
	bool shared = (i + 1) * KVH_TRACE_BLOCK_TOKENS <= c->system->tokens;
	uint64_t *id = shared ? &c->system->ids[i] : &c->ids[i];

	if (*id == ID_NONE)
		*id = g->n_ids++;
	return *id;
}

static int take_turn(struct generator *g, struct conversation *c)
{
	struct kvh_trace_request request = {.timestamp_ms = c->next_ms};
	uint64_t ids[BLOCKS_MAX];
	uint32_t n_full;

	c->tokens += kvh_random_skewed(&c->random, 20, TURN_TOKENS / 2);
	request.input_length = c->tokens;
	request.output_length = kvh_random_skewed(&c->random, 20, TURN_TOKENS / 2);
	n_full = c->tokens / KVH_TRACE_BLOCK_TOKENS;
	for (uint32_t i = 0; i < n_full; i++)
		ids[i] = full_block(g, c, i);
	request.n_ids = n_full;
	if (c->tokens % KVH_TRACE_BLOCK_TOKENS != 0)
		ids[request.n_ids++] = g->n_ids++;
	c->tokens += request.output_length;
	c->next_ms += kvh_random_skewed(&c->random, 2000, 90000);
	c->turns_left--;
	return kvh_trace_add(g->trace, &request, ids);
}

/* Where the conversation hangs whose turn is next; NULL: nobody talks. */
static struct conversation **next_turn(struct generator *g)
{
	struct conversation **first = NULL;

	for (struct conversation **at = &g->talking; *at != NULL; at = &(*at)->next) {
		if (first == NULL || (*at)->next_ms < (*first)->next_ms)
			first = at;
	}
	return first;
}

static int step(struct generator *g)
{
	struct conversation **at = next_turn(g), *c;
	int err;

	if (at == NULL || g->arrival_ms <= (*at)->next_ms)
		return arrive(g);
	c = *at;
	err = take_turn(g, c);
	if (c->turns_left == 0 || c->tokens > CONTEXT_TOKENS) {
		*at = c->next;
		free(c);
	}
	return err;
}

int kvh_trace_generate(uint64_t seed, size_t n_requests, struct kvh_trace *trace)
{
	struct generator g = {.trace = trace, .seed = kvh_random_mix(seed + 1)};
	int err = 0;

	*trace = (struct kvh_trace){0};
	g.random = g.seed;
	for (size_t i = 0; i < N_SYSTEMS; i++) {
		g.systems[i].tokens = kvh_random_even(&g.random, 300, SYSTEM_TOKENS);
		for (size_t k = 0; k < SYSTEM_TOKENS / KVH_TRACE_BLOCK_TOKENS; k++)
			g.systems[i].ids[k] = ID_NONE;
	}
	while (err == 0 && trace->n_requests < n_requests)
		err = step(&g);
	while (g.talking != NULL) {
		struct conversation *c = g.talking;

		g.talking = c->next;
		free(c);
	}
	if (err != 0)
		kvh_trace_free(trace);
	return err;
}
