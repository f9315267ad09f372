/* SPDX-License-Identifier: Apache-2.0 */
/*
 * demo.c - `kvhoist-bench demo`: generated conversations against an L1 that holds a
 * quarter of them, with an NVMe file behind it. In the middle the engine is closed and
 * another one opened on the same file. Fails unless chunks were evicted, were read
 * back from L2 before and after the restart, and every byte was right.
 *
 * Ends in about a minute on any machine: when a part's time is over it begins no
 * more requests. The file lies in a directory of its own, removed at the end, also
 * after a signal. One thread.
 */
#include "bench/bench.h"
#include "bench/replay.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SECOND      UINT64_C(1000000000)
#define MIB         (UINT64_C(1) << 20)
#define FRAME_EXTRA 8192u /* at most, of header and padding */

struct part {
	const char *model;
	double scale;
	const char *trace;
	size_t n_requests;
	uint64_t seconds; /* at most, about */
};

static const struct part parts[] = {
	{"llama-3.1-8b", 0.03, "gen:3", 100, 24},
	{"deepseek-v3", 0.05, "gen:4", 50, 12},
	{"gpt-oss-120b", 0.05, "gen:5", 50, 12},
};

struct demo {
	const char *device;
	const char *parent; /* where the directory is made */
	char dir[PATH_MAX / 2];
	char l2_path[PATH_MAX];
	char l2_spec[2 * PATH_MAX + 32];
	uint64_t l1_bytes;
	struct kvh_replay replay; /* of the part; its result is of all parts */
};

/* ---- the file ---- */

/* As the text of an adapter has paths: a comma in one is "\,". */
static void write_spec(struct demo *demo, uint64_t size)
{
	char *to = demo->l2_spec;

	to = stpcpy(to, "nvme:");
	for (const char *c = demo->l2_path; *c != '\0'; c++) {
		if (*c == ',')
			*to++ = '\\';
		*to++ = *c;
	}
	(void)sprintf(to, ",size=%" PRIu64, size);
}

static const char *parent_of(const struct demo *demo)
{
	const char *parent = demo->parent;

	if (parent == NULL)
		parent = getenv("TMPDIR");
	return parent == NULL || *parent == '\0' ? "/tmp" : parent;
}

static int make_dir(struct demo *demo)
{
	const char *parent = parent_of(demo);
	int n = snprintf(demo->dir, sizeof(demo->dir), "%s/kvhoist-demo-XXXXXX", parent);
	if (n < 0 || (size_t)n >= sizeof(demo->dir)) {
		kvh_bench_complain("%s: the path is too long", parent);
		return -ENAMETOOLONG;
	}
	if (mkdtemp(demo->dir) == NULL) {
		int err = -errno;

		kvh_bench_complain("%s: no directory can be made there: %s", parent,
				   strerror(-err));
		demo->dir[0] = '\0';
		return err;
	}
	(void)snprintf(demo->l2_path, sizeof(demo->l2_path), "%s/l2", demo->dir);
	return 0;
}

static void remove_dir(const struct demo *demo)
{
	if (demo->dir[0] == '\0')
		return;
	if (unlink(demo->l2_path) != 0 && errno != ENOENT)
		kvh_bench_complain("%s: left behind: %s", demo->l2_path, strerror(errno));
	if (rmdir(demo->dir) != 0)
		kvh_bench_complain("%s: left behind: %s", demo->dir, strerror(errno));
}

static int check_space(const struct demo *demo, uint64_t size)
{
	struct statvfs vfs;
	uint64_t room;
	char want[24], have[24];

	if (statvfs(demo->dir, &vfs) != 0)
		return 0; /* the adapter will say what is wrong */
	room = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	if (room >= size)
		return 0;
	kvh_bench_complain("%s: the NVMe file takes %s, there is room for %s: choose "
			   "another --dir",
			   demo->dir, kvh_size_text(size, want), kvh_size_text(room, have));
	return -ENOSPC;
}

/* ---- a part ---- */

/* An L1 for a quarter of the distinct blocks, or, if that is more, for a longest
 * prompt and a quarter; an L2 for all of them, with room to spare. */
static int size_tiers(struct demo *demo)
{
	const struct kvh_replay *replay = &demo->replay;
	int64_t n = kvh_trace_distinct(&replay->trace, 0, replay->trace.n_requests);
	uint64_t chunks, longest = kvh_trace_longest(&replay->trace), block = 0, l2_bytes;

	if (n < 0)
		return (int)n;
	for (uint32_t g = 0; g < replay->geo.n_groups; g++)
		block += kvh_geometry_chunk_bytes(&replay->geo, g) + FRAME_EXTRA;
	chunks = (uint64_t)n / 4;
	if (chunks < longest + longest / 4)
		chunks = longest + longest / 4;
	demo->l1_bytes = chunks * block;
	l2_bytes = ((uint64_t)n * block / 2 * 3 + MIB - 1) / MIB * MIB;
	write_spec(demo, l2_bytes);
	return check_space(demo, l2_bytes);
}

static void print_part(const struct demo *demo)
{
	const struct kvh_replay *replay = &demo->replay;
	struct kvh_report_head head;
	char block[24], l1[24], all[24];
	int64_t n = kvh_trace_distinct(&replay->trace, 0, replay->trace.n_requests);

	kvh_replay_head(replay, demo->l1_bytes, &head);
	printf("\n%s\non %s\n", head.model, head.device);
	printf("  %zu requests over %" PRId64
	       " distinct blocks of %s: %s, behind an L1 of %s\n",
	       replay->trace.n_requests, n, kvh_size_text(head.block_bytes, block),
	       kvh_size_text((uint64_t)n * head.block_bytes, all),
	       kvh_size_text(demo->l1_bytes, l1));
	(void)fflush(stdout);
}

/* What a phase has added to the result. */
struct counts {
	uint64_t requests, stored, evicted, verified, hits_l2;
};

static struct counts counts_of(const struct kvh_result *result)
{
	const struct kvh_status *e = &result->engine;

	return (struct counts){result->requests, e->stored_chunks,
			       e->evicted_alloc + e->evicted_background,
			       result->chunks_verified, e->hits_l2};
}

static void print_phase(const char *name, const struct counts *c)
{
	printf("  %-8s %3" PRIu64 " requests: %" PRIu64 " chunks stored, %" PRIu64
	       " evicted, %" PRIu64 " loaded and verified, %" PRIu64 " of them from L2\n",
	       name, c->requests, c->stored, c->evicted, c->verified, c->hits_l2);
	(void)fflush(stdout);
}

/* One engine's life: requests [*next, end). */
static int play_phase(struct demo *demo, const char *name, size_t *next, size_t end,
		      uint64_t until_ns, struct counts *added)
{
	struct kvh_replay *replay = &demo->replay;
	const char *l2 = demo->l2_spec;
	struct kvh_engine_opts engine;
	struct kvh_player_opts opts = {
		.engine = &engine,
		.geo = &replay->geo,
		.trace = &replay->trace,
		.rt = replay->rt,
		.result = &replay->result,
		.salt = replay->salt,
		.n_slots = 1,
		.persist = true,
		.progress = kvh_replay_progress,
		.arg = replay,
	};
	struct counts before = counts_of(&replay->result), after;
	struct kvh_player *player;
	int err, rc;

	kvh_engine_opts_init(&engine, sizeof(engine));
	engine.device = demo->device;
	engine.l1_bytes = demo->l1_bytes;
	engine.l1_pin_wait = 1;
	engine.l2 = &l2;
	engine.n_l2 = 1;
	err = kvh_player_open(&opts, &player);
	if (err != 0)
		return err;
	err = kvh_player_play(player, next, end, until_ns);
	kvh_replay_progress_end(replay);
	rc = kvh_player_close(player);
	after = counts_of(&replay->result);
	*added = (struct counts){after.requests - before.requests, after.stored - before.stored,
				 after.evicted - before.evicted,
				 after.verified - before.verified,
				 after.hits_l2 - before.hits_l2};
	print_phase(name, added);
	return err != 0 ? err : rc;
}

/* What has to have happened; a demo that shows nothing must not say OK. */
static int judge(const struct counts *first, const struct counts *second)
{
	const struct {
		bool ok;
		const char *what;
	} wanted[] = {
		{first->stored > 0, "nothing was stored"},
		{first->evicted > 0, "nothing was evicted from L1 before the restart"},
		{first->hits_l2 > 0, "nothing was read back from L2 before the restart"},
		{second->hits_l2 > 0, "nothing was found in L2 after the restart"},
		{second->verified > 0, "nothing was loaded after the restart"},
	};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		if (wanted[i].ok)
			continue;
		kvh_bench_complain("%s", wanted[i].what);
		return -EPROTO;
	}
	return 0;
}

static int play_both(struct demo *demo, const struct part *part)
{
	struct kvh_replay *replay = &demo->replay;
	size_t n = replay->trace.n_requests, next = 0;
	uint64_t now = kvh_player_now(), share = part->seconds * SECOND / 2;
	struct counts first, second;
	int64_t distinct;
	int err = play_phase(demo, "before", &next, n / 2, now + share, &first);

	if (err == 0) {
		printf("  restart: the engine is closed and its L1 is gone; a new one opens "
		       "the same file\n");
		now = kvh_player_now();
		err = play_phase(demo, "after", &next, next + n / 2, now + share, &second);
	}
	distinct = kvh_trace_distinct(&replay->trace, 0, next);
	replay->result.distinct_blocks += distinct < 0 ? 0 : (uint64_t)distinct;
	if (err != 0)
		return err;
	if (next < n / 2 * 2)
		printf("  stopped after %zu requests: this part's time is over\n", next);
	return judge(&first, &second);
}

static int play_part(struct demo *demo, const struct part *part)
{
	struct kvh_replay *replay = &demo->replay;
	int err = kvh_geometry_make(kvh_model_find(part->model), part->scale, &replay->geo);

	if (err == 0)
		err = kvh_replay_trace(replay, part->trace, part->n_requests);
	if (err != 0)
		return err;
	kvh_geometry_describe(&replay->geo, replay->geo_text, sizeof(replay->geo_text));
	err = kvh_replay_runtime(replay, demo->device, 1);
	if (err == 0)
		err = size_tiers(demo);
	if (err != 0)
		return err;
	replay->n_requests = replay->result.requests + replay->trace.n_requests;
	print_part(demo);
	err = play_both(demo, part);
	(void)unlink(demo->l2_path);
	return err;
}

/* ---- the command ---- */

enum option_key { OPTION_DEVICE = 256, OPTION_DIR };

static const struct argp_option option_list[] = {
	{"device", OPTION_DEVICE, "NAME", 0, "auto, host, cuda, cuda:N (auto)", 0},
	{"dir", OPTION_DIR, "DIR", 0,
	 "where the NVMe file lies, in a directory of its own ($TMPDIR, or /tmp)", 0},
	{NULL, 0, NULL, 0, NULL, 0},
};

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct demo *demo = state->input;

	switch (key) {
	case OPTION_DEVICE: demo->device = arg; break;
	case OPTION_DIR: demo->parent = arg; break;
	case ARGP_KEY_ARG: argp_error(state, "'%s' is no option", arg); break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp parser = {
	.options = option_list,
	.parser = take,
	.doc = "Stores the KV cache of model geometries, evicts it, restarts, reloads it and "
	       "checks every byte, in at most about a minute.\v"
	       "The last line is \"demo: OK, N chunks verified, 0 mismatches\" and the exit "
	       "status 0, or something is wrong and it is not.",
};

static int play_parts(struct demo *demo)
{
	struct kvh_replay *replay = &demo->replay;
	int err = make_dir(demo);

	for (size_t i = 0; err == 0 && i < sizeof(parts) / sizeof(parts[0]); i++) {
		err = play_part(demo, &parts[i]);
		kvh_runtime_close(replay->rt);
		kvh_geometry_free(&replay->geo);
		kvh_trace_free(&replay->trace);
		replay->rt = NULL;
	}
	remove_dir(demo);
	return err;
}

int kvh_bench_demo(int argc, char **argv)
{
	struct demo demo = {0};
	const struct kvh_result *result = &demo.replay.result;
	int err, status = KVH_BENCH_OK;

	(void)argp_parse(&parser, argc, argv, 0, NULL, &demo);
	kvh_bench_catch();
	demo.replay.show_progress = isatty(STDERR_FILENO) == 1;
	printf("kvhoist %s, an L2 in %s\n", kvh_version(), parent_of(&demo));
	err = play_parts(&demo);
	if (result->engines != 0)
		kvh_report_table(stdout, &demo.replay.result);
	if (err != 0 || result->mismatches != 0 || result->chunks_verified == 0) {
		status = err == -EINVAL ? KVH_BENCH_USAGE : KVH_BENCH_FAILED;
		if (kvh_bench_signal != 0)
			status = KVH_BENCH_SIGNALLED + (int)kvh_bench_signal;
		printf("demo: FAILED, %" PRIu64 " chunks verified, %" PRIu64 " mismatches\n",
		       result->chunks_verified, result->mismatches);
	} else {
		printf("demo: OK, %" PRIu64 " chunks verified, 0 mismatches\n",
		       result->chunks_verified);
	}
	kvh_replay_close(&demo.replay);
	return status;
}
