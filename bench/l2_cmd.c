/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_cmd.c - `kvhoist-bench l2`: options, the runs of every size, the report. The
 * program's only thread, but for those of the rig.
 */
#include "bench/bench.h"
#include "bench/l2_fio.h"
#include "bench/l2_report.h"
#include "l2/conf.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZES_MAX   16u
#define DEPTH_BYTES (UINT64_C(32) << 20)
#define DEPTH_MIN   4u /* of a depth in bytes */
#define DEPTH_MAX   32u
#define OPEN_MODE   KVH_L2_MODES /* of options.modes: not one of the rig's */

struct options {
	const char *spec;
	uint64_t sizes[SIZES_MAX];
	uint32_t n_sizes;
	bool modes[KVH_L2_MODES + 1];
	uint32_t depth; /* 0: by depth_bytes */
	uint64_t depth_bytes;
	uint64_t fill_bytes; /* where the adapter has no size */
	uint64_t open_frames, open_bytes;
	uint32_t pairs, workers;
	double seconds;
	bool verify, raw, fio, json, quiet;
};

enum option_key {
	OPTION_L2 = 256,
	OPTION_SIZE,
	OPTION_MODE,
	OPTION_DEPTH,
	OPTION_PAIRS,
	OPTION_SECONDS,
	OPTION_VERIFY,
	OPTION_RAW,
	OPTION_WORKERS,
	OPTION_FILL,
	OPTION_FRAMES,
	OPTION_FRAME_BYTES,
	OPTION_NO_FIO,
	OPTION_JSON,
};

static const struct argp_option option_list[] = {
	{"l2", OPTION_L2, "SPEC", 0,
	 "the adapter, like nvme:PATH,size=4G; the path must not be there yet, and is removed "
	 "at the end",
	 0},
	{"size", OPTION_SIZE, "LIST", 0, "bytes of a frame (256K,1M,2M,10M,32M)", 0},
	{"mode", OPTION_MODE, "LIST", 0,
	 "store, load, mixed (half and half), probe, open (store,load,mixed,probe)", 0},
	{"depth", OPTION_DEPTH, "N|BYTES", 0,
	 "frames with the adapter at a time, or their bytes, like 64M: then 4 to 32 (32M)", 0},
	{"pairs", OPTION_PAIRS, "N", 0, "of runs, the adapter's and fio's in turn (11)", 0},
	{"seconds", OPTION_SECONDS, "S", 0, "that a run lasts, about (1)", 0},
	{"verify", OPTION_VERIFY, "on|off", 0, "seal before a store, verify after a load (on)",
	 0},
	{"raw", OPTION_RAW, NULL, 0,
	 "the adapter alone, without the engine's queues, threads and checksums", 0},
	{"workers", OPTION_WORKERS, "N", 0, "threads for checksums (2)", 0},
	{"fill", OPTION_FILL, "BYTES", 0, "what to fill an adapter with that has no size (1G)",
	 0},
	{"frames", OPTION_FRAMES, "N", 0, "that --mode=open finds (100000)", 0},
	{"frame-bytes", OPTION_FRAME_BYTES, "BYTES", 0,
	 "of each of those (8K; above 16K an adapter may read fewer at a time)", 0},
	{"no-fio", OPTION_NO_FIO, NULL, 0, "do not run fio beside it", 0},
	{"json", OPTION_JSON, NULL, 0, "print JSON instead of a table", 0},
	{"quiet", 'q', NULL, 0, "no progress", 0},
	{NULL, 0, NULL, 0, NULL, 0},
};

/* ---- options ---- */

static void take_sizes(struct argp_state *state, struct options *o, char *list)
{
	char *save, *item = strtok_r(list, ",", &save);

	for (o->n_sizes = 0; item != NULL; item = strtok_r(NULL, ",", &save)) {
		uint64_t *size = &o->sizes[o->n_sizes];

		if (o->n_sizes == SIZES_MAX || kvh_conf_bytes(item, size) != 0 ||
		    *size < 8192 || *size > UINT64_C(1) << 30 || *size % 4096 != 0)
			argp_error(state,
				   "--size %s: up to %u multiples of 4K, from 8K to 1G, like "
				   "256K,2M",
				   item, SIZES_MAX);
		o->n_sizes++;
	}
}

static void take_modes(struct argp_state *state, struct options *o, char *list)
{
	char *save, *item = strtok_r(list, ",", &save);

	memset(o->modes, 0, sizeof(o->modes));
	for (; item != NULL; item = strtok_r(NULL, ",", &save)) {
		enum kvh_l2_mode mode = 0;

		while (mode < KVH_L2_MODES && strcmp(item, kvh_l2_mode_name(mode)) != 0)
			mode++;
		if (mode == KVH_L2_MODES && strcmp(item, "open") != 0)
			argp_error(state,
				   "--mode %s: there are store, load, mixed, probe and open",
				   item);
		o->modes[mode] = true;
	}
}

static void take_depth(struct argp_state *state, struct options *o, const char *text)
{
	bool number = strspn(text, "0123456789") == strlen(text);

	if (number)
		o->depth = (uint32_t)kvh_bench_number(state, "depth", text, 1024);
	else if (kvh_conf_bytes(text, &o->depth_bytes) != 0)
		argp_error(state, "--depth %s: must be a number, or bytes like 64M", text);
}

static void take_seconds(struct argp_state *state, struct options *o, const char *text)
{
	char *end;

	o->seconds = strtod(text, &end);
	if (end == text || *end != '\0' || !(o->seconds >= 0.01 && o->seconds <= 600))
		argp_error(state, "--seconds %s: must be from 0.01 to 600", text);
}

static void take_bytes(struct argp_state *state, const char *option, const char *text,
		       uint64_t *bytes_p)
{
	if (kvh_conf_bytes(text, bytes_p) != 0 || *bytes_p < 1 << 20)
		argp_error(state, "--%s %s: must be a size of at least 1M", option, text);
}

static void take_verify(struct argp_state *state, struct options *o, const char *text)
{
	o->verify = strcmp(text, "on") == 0;
	if (!o->verify && strcmp(text, "off") != 0)
		argp_error(state, "--verify %s: must be on or off", text);
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case OPTION_L2: o->spec = arg; break;
	case OPTION_SIZE: take_sizes(state, o, arg); break;
	case OPTION_MODE: take_modes(state, o, arg); break;
	case OPTION_DEPTH: take_depth(state, o, arg); break;
	case OPTION_PAIRS:
		o->pairs = (uint32_t)kvh_bench_number(state, "pairs", arg, KVH_PAIRS_MAX);
		break;
	case OPTION_SECONDS: take_seconds(state, o, arg); break;
	case OPTION_VERIFY: take_verify(state, o, arg); break;
	case OPTION_RAW: o->raw = true; break;
	case OPTION_WORKERS:
		o->workers = (uint32_t)kvh_bench_number(state, "workers", arg, 64);
		break;
	case OPTION_FILL: take_bytes(state, "fill", arg, &o->fill_bytes); break;
	case OPTION_FRAMES:
		o->open_frames = kvh_bench_number(state, "frames", arg, UINT32_MAX);
		break;
	case OPTION_FRAME_BYTES:
		if (kvh_conf_bytes(arg, &o->open_bytes) != 0 || o->open_bytes < 8192 ||
		    o->open_bytes % 4096 != 0)
			argp_error(state,
				   "--frame-bytes %s: must be a multiple of 4K, at least 8K",
				   arg);
		break;
	case OPTION_NO_FIO: o->fio = false; break;
	case OPTION_JSON: o->json = true; break;
	case 'q': o->quiet = true; break;
	case ARGP_KEY_ARG: argp_error(state, "'%s' is no option", arg); break;
	case ARGP_KEY_END:
		if (o->spec == NULL)
			argp_error(state, "--l2 is missing, like --l2 nvme:PATH,size=4G");
		break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp parser = {
	.options = option_list,
	.parser = take,
	.doc = "Stores, loads and probes frames through an adapter, as the engine does, and "
	       "beside it moves as many bytes with fio in the same file.\v"
	       "Reads are cold: the adapter's O_DIRECT, or an emptied page cache; the column "
	       "'reads' says which. For fio's buffers set vm.nr_hugepages, or it is no "
	       "measure. "
	       "The exit status is 0 if all is well, 1 if bytes were wrong or a request "
	       "failed, "
	       "2 if the options are wrong.",
};

/* ---- the runs ---- */

struct session {
	const struct options *o;
	struct kvh_target target;
	struct kvh_pairs_row rows[SIZES_MAX * KVH_L2_MODES];
	uint32_t n_rows;
	struct kvh_open_result open;
	bool opened, show;
	const char *fio;
	struct kvh_pairs_opts pairs;
};

static uint32_t depth_of(const struct options *o, uint64_t size)
{
	uint64_t n = o->depth_bytes / size;

	if (o->depth != 0)
		return o->depth;
	return n < DEPTH_MIN ? DEPTH_MIN : n > DEPTH_MAX ? DEPTH_MAX : (uint32_t)n;
}

static void progress(void *arg, uint32_t pair)
{
	const struct session *s = arg;
	const struct kvh_pairs_row *row = &s->rows[s->n_rows];

	if (s->show)
		(void)fprintf(stderr, "\r\033[K%" PRIu64 "K %s: pair %u of %u",
			      row->frame_bytes >> 10, kvh_l2_mode_name(row->mode), pair + 1,
			      s->o->pairs);
}

static void progress_end(const struct session *s)
{
	if (s->show)
		(void)fputs("\r\033[K", stderr);
}

/* Every place of the medium is written once, and some are used again: only then
 * is a store what it will be for good. */
static int fill(struct session *s, struct kvh_rig *rig, uint32_t depth)
{
	struct kvh_rig_result run = {0};
	uint64_t room = kvh_rig_room(rig, s->o->fill_bytes);
	int err;

	if (room < 4 * depth) {
		kvh_bench_complain("%s has room for %" PRIu64 " such frames: at least %u are "
				   "needed",
				   s->o->spec, room, 4 * depth);
		return -EINVAL;
	}
	err = kvh_rig_run(rig, KVH_L2_STORE, room + 2 * depth, &run);
	free(run.latency.ns);
	if (err == 0 && run.failed > 0) {
		kvh_bench_complain("%" PRIu64 " of %" PRIu64 " stores failed", run.failed,
				   room + 2 * depth);
		err = -EIO;
	}
	return err;
}

/* For what fio writes. Without it there is no comparison of stores. */
static void make_twin(struct session *s, uint64_t size, uint32_t depth)
{
	bool writes = s->o->modes[KVH_L2_STORE] || s->o->modes[KVH_L2_MIXED];

	if (!s->pairs.fio || !writes || s->target.kind != KVH_TARGET_FILE ||
	    kvh_target_twin(&s->target) != 0)
		return;
	if (kvh_pairs_prepare(&s->pairs, &s->target, size, depth) != 0)
		kvh_target_twin_drop(&s->target);
}

static int run_modes(struct session *s, struct kvh_rig *rig, uint64_t size, uint32_t depth)
{
	int err = fill(s, rig, depth);

	if (err != 0)
		return err;
	kvh_target_look(&s->target);
	make_twin(s, size, depth);
	for (enum kvh_l2_mode mode = 0; mode < KVH_L2_MODES && err == 0; mode++) {
		struct kvh_pairs_row *row = &s->rows[s->n_rows];

		if (!s->o->modes[mode])
			continue;
		*row = (struct kvh_pairs_row){
			.frame_bytes = size, .depth = depth, .mode = mode};
		err = kvh_pairs_run(&s->pairs, rig, &s->target, row);
		if (err == -ENOENT) /* it keeps nothing */
			err = 0;
		else if (err == 0 || row->pairs > 0)
			s->n_rows++;
	}
	progress_end(s);
	return err;
}

static int run_size(struct session *s, uint64_t size)
{
	uint32_t depth = depth_of(s->o, size);
	const struct kvh_rig_opts opts = {
		.spec = s->o->spec,
		.frame_bytes = size,
		.depth = depth,
		.workers = s->o->workers,
		.raw = s->o->raw,
		.verify = s->o->verify,
	};
	struct kvh_rig *rig;
	int err = kvh_target_init(&s->target, s->o->spec), closed;

	if (err != 0)
		return err;
	s->pairs.fio_huge = kvh_fio_huge(size, depth);
	if (s->pairs.fio)
		s->fio = s->pairs.fio_huge ? "huge pages" : "4 KiB pages: no measure";
	err = kvh_rig_open(&opts, &rig);
	if (err == 0) {
		err = run_modes(s, rig, size, depth);
		closed = kvh_rig_close(rig);
		err = err != 0 ? err : closed;
	}
	kvh_target_fini(&s->target);
	return err;
}

static int run_open(struct session *s)
{
	const struct kvh_open_opts opts = {
		.spec = s->o->spec,
		.frames = s->o->open_frames,
		.frame_bytes = s->o->open_bytes,
		.tries = 3,
		.fio = s->pairs.fio,
	};
	int err = kvh_target_init(&s->target, s->o->spec);

	if (err != 0)
		return err;
	err = kvh_open_times(&opts, &s->target, &s->open);
	s->opened = err == 0;
	kvh_target_fini(&s->target);
	return err;
}

static void look_for_fio(struct session *s)
{
	s->fio = "off";
	if (!s->o->fio)
		return;
	s->pairs.fio = kvh_fio_there();
	s->fio = "huge pages";
	if (s->pairs.fio)
		return;
	s->fio = "not installed";
	kvh_bench_complain(
		"fio is not installed: nothing to compare with (cmake/install-deps.sh "
		"--ci)");
}

static int report(const struct session *s)
{
	const struct kvh_l2_report report = {
		.spec = s->o->spec,
		.raw = s->o->raw,
		.verify = s->o->verify,
		.fio = s->fio,
		.pairs = s->o->pairs,
		.seconds = s->o->seconds,
		.rows = s->rows,
		.n_rows = s->n_rows,
		.open = s->opened ? &s->open : NULL,
	};

	if (s->o->json)
		return kvh_l2_report_json(stdout, &report);
	kvh_l2_report_table(stdout, &report);
	return 0;
}

static int exit_status(const struct session *s, int err)
{
	for (uint32_t i = 0; i < s->n_rows; i++) {
		if (s->rows[i].corrupt + s->rows[i].failed > 0)
			return KVH_BENCH_FAILED;
	}
	if (err == -EINTR && kvh_bench_signal != 0)
		return KVH_BENCH_SIGNALLED + (int)kvh_bench_signal;
	if (err == -EINVAL || err == -EEXIST)
		return KVH_BENCH_USAGE;
	return err == 0 ? KVH_BENCH_OK : KVH_BENCH_FAILED;
}

static int run_all(struct session *s)
{
	bool any = false;
	int err = 0;

	for (int mode = 0; mode < KVH_L2_MODES; mode++)
		any |= s->o->modes[mode];
	for (uint32_t i = 0; any && i < s->o->n_sizes && err == 0; i++)
		err = run_size(s, s->o->sizes[i]);
	if (err == 0 && s->o->modes[OPEN_MODE])
		err = run_open(s);
	return err;
}

int kvh_bench_l2(int argc, char **argv)
{
	struct options o = {
		.sizes = {256 << 10, 1 << 20, 2 << 20, 10 << 20, 32 << 20},
		.n_sizes = 5,
		.modes = {true, true, true, true, false},
		.depth_bytes = DEPTH_BYTES,
		.fill_bytes = UINT64_C(1) << 30,
		.open_frames = 100000,
		.open_bytes = 8192,
		.pairs = 11,
		.workers = 2,
		.seconds = 1,
		.verify = true,
		.fio = true,
	};
	struct session *s;
	int err, rc;

	(void)argp_parse(&parser, argc, argv, 0, NULL, &o);
	s = calloc(1, sizeof(*s));
	if (s == NULL)
		return KVH_BENCH_FAILED;
	kvh_bench_catch();
	s->o = &o;
	s->show = !o.quiet && isatty(STDERR_FILENO) == 1;
	s->pairs = (struct kvh_pairs_opts){
		.pairs = o.pairs, .seconds = o.seconds, .progress = progress, .arg = s};
	look_for_fio(s);
	err = run_all(s);
	rc = s->n_rows > 0 || s->opened ? report(s) : 0;
	if (err != 0 && err != -EINTR)
		kvh_bench_complain("%s: %s", o.spec, strerror(-err));
	rc = exit_status(s, err != 0 ? err : rc);
	free(s);
	return rc;
}
