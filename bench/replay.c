/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay.c - traces by name, a runtime as large as the trace needs it, and the
 * line that shows how far a replay has come. One thread.
 */
#include "bench/replay.h"

#include "bench/bench.h"
#include "bench/random.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GENERATED_REQUESTS 1000u
#define SHOW_EVERY_NS      UINT64_C(100000000)
#define POOLS_MAX          2u /* longest prompts that a pool has room for at once */

/* ---- trace ---- */

static int generate(struct kvh_replay *replay, const char *seed, size_t n)
{
	char *end;
	int err;

	errno = 0;
	replay->salt = strtoull(seed, &end, 10);
	if (errno != 0 || *seed < '0' || *seed > '9' || *end != '\0') {
		kvh_bench_complain("--trace gen:%s: the seed is not a whole number", seed);
		return -EINVAL;
	}
	err = kvh_trace_generate(replay->salt, n == 0 ? GENERATED_REQUESTS : n, &replay->trace);
	if (err != 0)
		kvh_bench_complain("--trace gen:%s: %s", seed, strerror(-err));
	/* Files have salt 0: their ids are their own. */
	replay->salt = kvh_random_mix(replay->salt + 1);
	return err;
}

int kvh_replay_trace(struct kvh_replay *replay, const char *name, size_t max_requests)
{
	char what[512];
	int err;

	replay->trace_name = name;
	if (strncmp(name, "gen:", 4) == 0)
		return generate(replay, name + 4, max_requests);
	err = kvh_trace_read(name, max_requests, &replay->trace, what, sizeof(what));
	if (err != 0)
		kvh_bench_complain("%s", what);
	return err;
}

/* ---- sizes ---- */

int kvh_replay_runtime(struct kvh_replay *replay, const char *device, uint32_t n_slots)
{
	struct kvh_runtime_opts opts = {.device = device, .geo = &replay->geo};
	uint32_t chunk_pages = 0, pools = n_slots < POOLS_MAX ? n_slots : POOLS_MAX;
	uint64_t n_pages;
	int err;

	for (uint32_t g = 0; g < replay->geo.n_groups; g++)
		chunk_pages += kvh_geometry_chunk_pages(&replay->geo, g);
	n_pages = (uint64_t)kvh_trace_longest(&replay->trace) * chunk_pages * pools;
	if (n_pages == 0)
		n_pages = chunk_pages; /* empty prompts only */
	if (n_pages >= KVH_PAGE_NONE) {
		kvh_bench_complain("a prompt of %" PRIu32 " blocks is too long",
				   kvh_trace_longest(&replay->trace));
		return -EINVAL;
	}
	opts.n_pages = (uint32_t)n_pages;
	err = kvh_runtime_open(&opts, &replay->rt);
	if (err == 0)
		err = kvh_runtime_link(replay->rt, &replay->result.link_store,
				       &replay->result.link_load);
	if (err == 0)
		(void)snprintf(replay->device_text, sizeof(replay->device_text), "%s (%s)",
			       kvh_runtime_device_name(replay->rt), kvh_device_describe());
	return err;
}

/* What can be had without swapping; 0: not known. */
static uint64_t available_bytes(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	uint64_t kib = 0;
	char line[128];

	if (file == NULL)
		return 0;
	while (fgets(line, sizeof(line), file) != NULL) {
		if (strncmp(line, "MemAvailable:", 13) == 0)
			kib = strtoull(line + 13, NULL, 10);
	}
	(void)fclose(file);
	return kib * 1024;
}

int kvh_replay_l1(const struct kvh_replay *replay, uint64_t *l1_p)
{
	int64_t distinct = kvh_trace_distinct(&replay->trace, 0, replay->trace.n_requests);
	uint64_t available = available_bytes(), need;
	char want[24], have[24];

	if (distinct < 0)
		return (int)distinct;
	need = kvh_geometry_l1_bytes(&replay->geo, (uint64_t)distinct);
	if (available != 0 && need > available) {
		kvh_bench_complain("an L1 for all %" PRId64 " distinct blocks takes %s, the "
				   "machine has %s left: give --l1 SIZE, a smaller --scale, or "
				   "fewer --requests",
				   distinct, kvh_size_text(need, want),
				   kvh_size_text(available, have));
		return -ENOMEM;
	}
	*l1_p = need;
	return 0;
}

void kvh_replay_close(struct kvh_replay *replay)
{
	kvh_runtime_close(replay->rt);
	kvh_geometry_free(&replay->geo);
	kvh_trace_free(&replay->trace);
	kvh_result_free(&replay->result);
}

/* ---- report ---- */

void kvh_replay_head(const struct kvh_replay *replay, uint64_t l1_bytes,
		     struct kvh_report_head *head)
{
	memset(head, 0, sizeof(*head));
	head->model = replay->geo_text;
	head->model_name = replay->geo.model->name;
	head->trace = replay->trace_name;
	head->device = replay->device_text;
	head->scale = replay->geo.scale;
	head->token_bytes = replay->geo.token_bytes;
	for (uint32_t g = 0; g < replay->geo.n_groups; g++)
		head->block_bytes += kvh_geometry_chunk_bytes(&replay->geo, g);
	head->l1_bytes = l1_bytes;
}

void kvh_replay_progress(void *arg)
{
	struct kvh_replay *replay = arg;
	const struct kvh_result *result = &replay->result;
	uint64_t now;
	char moved[24];

	if (!replay->show_progress)
		return;
	now = kvh_player_now();
	if (now - replay->shown_ns < SHOW_EVERY_NS)
		return;
	replay->shown_ns = now;
	(void)fprintf(stderr,
		      "\r%" PRIu64 " of %zu requests, %.1f %% hits, %s loaded and checked, "
		      "%" PRIu64 " mismatches \033[K",
		      result->requests, replay->n_requests,
		      result->block_references == 0 ? 0
						    : 100.0 * (double)result->prefix_hits /
							      (double)result->block_references,
		      kvh_size_text(result->stages[KVH_STAGE_CHECK].bytes, moved),
		      result->mismatches);
}

void kvh_replay_progress_end(struct kvh_replay *replay)
{
	if (replay->show_progress && replay->shown_ns != 0)
		(void)fputs("\r\033[K", stderr);
	replay->shown_ns = 0;
}
