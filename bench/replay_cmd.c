/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay_cmd.c - `kvhoist-bench replay`: options, one run, report. One thread.
 */
#include "bench/bench.h"
#include "bench/engine_args.h"
#include "bench/replay.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PACED_SLOTS 16u

struct options {
	const char *trace;
	const struct kvh_model *model;
	double scale;
	size_t n_requests; /* 0: as many as there are */
	struct kvh_engine_args engine;
	bool json, paced, persist, quiet;
};

enum option_key {
	OPTION_TRACE = 256,
	OPTION_MODEL,
	OPTION_SCALE,
	OPTION_REQUESTS,
	OPTION_JSON,
	OPTION_PACED,
	OPTION_PERSIST,
};

static const struct argp_option option_list[] = {
	{"trace", OPTION_TRACE, "FILE|gen:SEED", 0,
	 "JSON lines of requests, or conversations made from a seed (gen:1)", 0},
	{"model", OPTION_MODEL, "NAME", 0,
	 "whose KV cache: llama-3.1-8b (default), llama-3.1-70b-tp8, qwen3-32b, deepseek-v3, "
	 "gpt-oss-120b",
	 0},
	{"scale", OPTION_SCALE, "F", 0,
	 "cut head size, then heads, then layers, to about F times the bytes a token; 0 < F <= "
	 "1 (1)",
	 0},
	{"requests", OPTION_REQUESTS, "N", 0, "the first N only (all; 1000 if generated)", 0},
	{"json", OPTION_JSON, NULL, 0, "print JSON instead of a table", 0},
	{"paced", OPTION_PACED, NULL, 0,
	 "begin requests at their time, several at once, instead of in sequence", 0},
	{"persist", OPTION_PERSIST, NULL, 0,
	 "a request ends only when the adapters have its chunks, too", 0},
	{"quiet", 'q', NULL, 0, "print errors only, and the JSON", 0},
	{NULL, 0, NULL, 0, NULL, 0},
};

static void take_model(struct argp_state *state, struct options *o, const char *name)
{
	char names[256] = "";
	size_t at = 0;

	o->model = kvh_model_find(name);
	if (o->model != NULL)
		return;
	for (size_t i = 0; kvh_model_at(i) != NULL; i++)
		at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s",
				       i == 0 ? "" : ", ", kvh_model_at(i)->name);
	argp_error(state, "there is no model '%s'; there are %s", name, names);
}

static void take_scale(struct argp_state *state, struct options *o, const char *text)
{
	char *end;

	o->scale = strtod(text, &end);
	if (end == text || *end != '\0' || !(o->scale > 0 && o->scale <= 1))
		argp_error(state, "--scale %s: must be above 0, and at most 1", text);
}

static void take_requests(struct argp_state *state, struct options *o, const char *text)
{
	char *end;
	unsigned long long n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || n == 0 ||
	    n > UINT32_MAX)
		argp_error(state, "--requests %s: must be a whole number, at least 1", text);
	o->n_requests = (size_t)n;
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT: state->child_inputs[0] = &o->engine; break;
	case OPTION_TRACE: o->trace = arg; break;
	case OPTION_MODEL: take_model(state, o, arg); break;
	case OPTION_SCALE: take_scale(state, o, arg); break;
	case OPTION_REQUESTS: take_requests(state, o, arg); break;
	case OPTION_JSON: o->json = true; break;
	case OPTION_PACED: o->paced = true; break;
	case OPTION_PERSIST: o->persist = true; break;
	case 'q': o->quiet = true; break;
	case ARGP_KEY_ARG: argp_error(state, "'%s' is no option", arg); break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp_child children[] = {{&kvh_engine_argp, 0, NULL, 0},
					     {NULL, 0, NULL, 0}};

static const struct argp parser = {
	.options = option_list,
	.parser = take,
	.children = children,
	.doc = "Plays a trace of requests through an engine and checks every byte that is "
	       "loaded. Without a l1.bytes, L1 is as large as all blocks take.\v"
	       "The exit status is 0 if all bytes were right, 1 if some were not or the run "
	       "failed, 2 if the options or the trace are wrong.",
};

/* ---- the run ---- */

/* Enough for everything, and everything stays, unless watermarks are given. */
static int whole_l1(struct kvh_engine_args *args, const struct kvh_replay *replay)
{
	char text[32];
	uint64_t bytes;
	bool high, low;
	int err = kvh_replay_l1(replay, &bytes);

	if (err != 0)
		return err;
	(void)snprintf(text, sizeof(text), "%" PRIu64, bytes);
	err = kvh_config_set(args->config, "l1.bytes", text);
	(void)kvh_engine_args_value(args, "watermark.high_pct", &high);
	(void)kvh_engine_args_value(args, "watermark.low_pct", &low);
	if (err != 0 || high || low)
		return err;
	err = kvh_config_set(args->config, "watermark.high_pct", "100");
	return err != 0 ? err : kvh_config_set(args->config, "watermark.low_pct", "99");
}

static int engine_options(struct options *o, const struct kvh_replay *replay,
			  struct kvh_engine_opts *engine)
{
	bool given;
	int err = 0;

	(void)kvh_engine_args_value(&o->engine, "l1.bytes", &given);
	if (!given)
		err = whole_l1(&o->engine, replay);
	/* What is played meets an L1 that is there, unless somebody wants to see it come. */
	(void)kvh_engine_args_value(&o->engine, "l1.pin_wait", &given);
	if (!given && err == 0)
		err = kvh_config_set(o->engine.config, "l1.pin_wait", "yes");
	return err != 0 ? err : kvh_config_opts(o->engine.config, engine);
}

static int play(const struct options *o, struct kvh_replay *replay,
		const struct kvh_engine_opts *engine)
{
	struct kvh_player_opts opts = {
		.engine = engine,
		.geo = &replay->geo,
		.trace = &replay->trace,
		.rt = replay->rt,
		.result = &replay->result,
		.salt = replay->salt,
		.n_slots = o->paced ? PACED_SLOTS : 1,
		.paced = o->paced,
		.persist = o->persist,
		.progress = kvh_replay_progress,
		.arg = replay,
	};
	struct kvh_player *player;
	size_t next = 0;
	int64_t distinct;
	int err, rc;

	err = kvh_player_open(&opts, &player);
	if (err != 0)
		return err;
	err = kvh_player_play(player, &next, replay->trace.n_requests, UINT64_MAX);
	kvh_replay_progress_end(replay);
	rc = kvh_player_close(player);
	distinct = kvh_trace_distinct(&replay->trace, 0, next);
	replay->result.distinct_blocks = distinct < 0 ? 0 : (uint64_t)distinct;
	return err != 0 ? err : rc;
}

static int report(const struct options *o, struct kvh_replay *replay, uint64_t l1_bytes)
{
	struct kvh_report_head head;

	kvh_replay_head(replay, l1_bytes, &head);
	if (o->json)
		return kvh_report_json(stdout, &head, &replay->result);
	if (!o->quiet)
		kvh_report_table(stdout, &replay->result);
	return 0;
}

static int prepare(struct options *o, struct kvh_replay *replay, struct kvh_engine_opts *engine)
{
	struct kvh_report_head head;
	int err = kvh_geometry_make(o->model, o->scale, &replay->geo);

	if (err == 0)
		err = kvh_replay_trace(replay, o->trace, o->n_requests);
	if (err != 0)
		return err == -ENOMEM ? err : -EINVAL;
	kvh_geometry_describe(&replay->geo, replay->geo_text, sizeof(replay->geo_text));
	err = engine_options(o, replay, engine);
	if (err == 0)
		err = kvh_replay_runtime(replay, engine->device, o->paced ? PACED_SLOTS : 1);
	replay->n_requests = replay->trace.n_requests;
	replay->show_progress = !o->quiet && isatty(STDERR_FILENO) == 1;
	if (err != 0 || o->quiet || o->json)
		return err;
	kvh_replay_head(replay, engine->l1_bytes, &head);
	kvh_report_head_print(stdout, &head);
	(void)fflush(stdout);
	return 0;
}

static int exit_status(const struct kvh_replay *replay, int err)
{
	if (replay->result.mismatches != 0)
		return KVH_BENCH_FAILED;
	if (err == -EINTR && kvh_bench_signal != 0)
		return KVH_BENCH_SIGNALLED + (int)kvh_bench_signal;
	return err == 0 ? KVH_BENCH_OK : KVH_BENCH_FAILED;
}

int kvh_bench_replay(int argc, char **argv)
{
	struct options o = {.trace = "gen:1", .scale = 1, .model = kvh_model_at(0)};
	struct kvh_replay replay = {0};
	struct kvh_engine_opts engine;
	int err, status;

	(void)argp_parse(&parser, argc, argv, 0, NULL, &o);
	kvh_bench_catch();
	err = prepare(&o, &replay, &engine);
	if (err == 0) {
		err = play(&o, &replay, &engine);
		/* Without an engine there is nothing to report. */
		if (replay.result.engines != 0) {
			int rc = report(&o, &replay, engine.l1_bytes);

			status = exit_status(&replay, err != 0 ? err : rc);
			kvh_replay_close(&replay);
			kvh_config_close(o.engine.config);
			return status;
		}
	}
	kvh_replay_close(&replay);
	kvh_config_close(o.engine.config);
	return err == -EINVAL || err == -EEXIST ? KVH_BENCH_USAGE : KVH_BENCH_FAILED;
}
