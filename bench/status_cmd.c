/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status_cmd.c - `kvhoist-bench status`: an engine's devices, what it costs to count,
 * and to ask for all that was counted, with many spaces, while other threads look keys up. The
 * main thread asks; as many threads as were wanted look up meanwhile, and for as long without
 * being disturbed, so that what asking costs them is a ratio of one run.
 */
#include "bench/bench.h"
#include "bench/engine_args.h"
#include "host/clock.h"
#include "host/metrics.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS        256u /* of one look-up */
#define COUNTS      (UINT64_C(1) << 22)
#define MAX_THREADS 64u

struct options {
	struct kvh_engine_args engine;
	uint32_t spaces, threads, snapshots;
	bool json;
};

struct result {
	double count_ns, latency_ns;          /* of one count */
	struct kvh_latency snapshot;          /* of one kvh_snapshot_take, and its free */
	double lookups_alone, lookups_beside; /* a second, all threads */
};

enum option_key { OPTION_SPACES = 256, OPTION_THREADS, OPTION_SNAPSHOTS, OPTION_JSON };

static const struct argp_option option_list[] = {
	{"spaces", OPTION_SPACES, "N", 0, "that the engine has (1000)", 0},
	{"threads", OPTION_THREADS, "N", 0, "that look up meanwhile, 1..64 (1)", 0},
	{"snapshots", OPTION_SNAPSHOTS, "N", 0, "to take (2000)", 0},
	{"json", OPTION_JSON, NULL, 0, "print JSON instead of a table", 0},
	{NULL, 0, NULL, 0, NULL, 0},
};

static uint32_t number(struct argp_state *state, const char *text, uint32_t max)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '\0' || n == 0 || n > max)
		argp_error(state, "'%s' must be a whole number, 1..%" PRIu32, text, max);
	return (uint32_t)n;
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT: state->child_inputs[0] = &o->engine; break;
	case OPTION_SPACES: o->spaces = number(state, arg, 1000000); break;
	case OPTION_THREADS: o->threads = number(state, arg, MAX_THREADS); break;
	case OPTION_SNAPSHOTS: o->snapshots = number(state, arg, 10000000); break;
	case OPTION_JSON: o->json = true; break;
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
	.doc = "Lists the engine's devices, and measures what counting costs, and a snapshot "
	       "of all counters. Without a "
	       "l1.bytes, L1 has 64M.",
};

/* ---- counting --------------------------------------------------------- */

/* Undisturbed, on one thread; a counter and a histogram of the engine's kind. */
static void measure_counts(struct result *result)
{
	static struct kvh_histogram histogram;
	static kvh_counter counter;
	uint64_t value = 1, began = kvh_now_ns(), ended;

	for (uint64_t i = 0; i < COUNTS; i++)
		kvh_count(&counter, 1);
	ended = kvh_now_ns();
	result->count_ns = (double)(ended - began) / (double)COUNTS;
	began = ended;
	for (uint64_t i = 0; i < COUNTS; i++) {
		value = value * UINT64_C(6364136223846793005) + 1; /* any bucket */
		kvh_histogram_add(&histogram, value >> 40);
	}
	result->latency_ns = (double)(kvh_now_ns() - began) / (double)COUNTS;
}

/* ---- look-ups --------------------------------------------------------- */

struct looker {
	struct kvh_engine *engine;
	struct kvh_prefix prefix;
	bool *stop; /* atomic */
	pthread_t thread;
	uint64_t n; /* look-ups */
	int err;
};

static void *look(void *arg)
{
	struct looker *looker = arg;
	struct kvh_queue *queue;
	uint32_t usable;

	looker->err = kvh_queue_open(looker->engine, 1, &queue);
	if (looker->err != 0)
		return NULL;
	while (!__atomic_load_n(looker->stop, __ATOMIC_RELAXED) && looker->err == 0) {
		looker->err = kvh_lookup(queue, &looker->prefix, 0, NULL, NULL, &usable);
		looker->n++;
	}
	kvh_queue_close(queue);
	return NULL;
}

static int snapshots(struct kvh_engine *engine, uint32_t n, struct kvh_latency *latency)
{
	struct kvh_histogram *histogram = calloc(1, sizeof(*histogram));
	int err = histogram != NULL ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < n && err == 0; i++) {
		uint64_t began = kvh_now_ns();
		struct kvh_snapshot *snapshot;

		err = kvh_snapshot_take(engine, &snapshot);
		if (err == 0)
			kvh_snapshot_free(snapshot);
		kvh_histogram_add(histogram, kvh_now_ns() - began);
	}
	if (err == 0)
		kvh_histogram_read(histogram, 1, latency);
	free(histogram);
	return err;
}

/* Look-ups for as long as the snapshots take, or, with none, for ns; a second. */
static int measure_lookups(const struct options *o, struct looker *lookers, uint64_t ns,
			   struct kvh_latency *latency, double *rate_p)
{
	uint64_t began = kvh_now_ns(), n = 0;
	bool stop = false;
	uint32_t started = 0;
	int err = 0;

	for (; started < o->threads && err == 0; started++) {
		lookers[started].stop = &stop;
		lookers[started].n = 0;
		err = -pthread_create(&lookers[started].thread, NULL, look, &lookers[started]);
	}
	started -= err != 0;
	if (err == 0 && latency != NULL)
		err = snapshots(lookers[0].engine, o->snapshots, latency);
	while (latency == NULL && err == 0 && kvh_now_ns() - began < ns) {
		struct timespec pause = kvh_timespec(KVH_NS_PER_MS);

		(void)nanosleep(&pause, NULL);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (uint32_t i = 0; i < started; i++) {
		(void)pthread_join(lookers[i].thread, NULL);
		err = err != 0 ? err : lookers[i].err;
		n += lookers[i].n;
	}
	*rate_p = (double)n * 1e9 / (double)(kvh_now_ns() - began);
	return err;
}

/* ---- the run ---------------------------------------------------------- */

static int open_spaces(struct kvh_engine *engine, uint32_t n, kvh_space_t *last_p)
{
	const struct kvh_plane_shape shape = {
		.kind = KVH_PLANE_TOKENS, .heads = 1, .head_bytes = 64};
	const struct kvh_group_desc group = {
		.page_tokens = 16, .n_planes = 1, .planes = &shape};
	struct kvh_space_desc desc;
	int err = 0;

	kvh_space_desc_init(&desc, sizeof(desc));
	desc.chunk_tokens = 256;
	desc.n_groups = 1;
	desc.groups = &group;
	for (uint32_t i = 0; i < n && err == 0; i++) {
		desc.salt = &i;
		desc.salt_len = sizeof(i);
		err = kvh_space_open(engine, &desc, last_p);
	}
	return err;
}

static int measure(const struct options *o, struct kvh_engine *engine, struct result *result)
{
	struct looker lookers[MAX_THREADS] = {0};
	struct kvh_hash hashes[KEYS] = {0};
	uint64_t began, ns;
	kvh_space_t space;
	int err = open_spaces(engine, o->spaces, &space);

	for (uint32_t i = 0; i < KEYS; i++)
		memcpy(hashes[i].bytes, &i, sizeof(i));
	for (uint32_t i = 0; i < o->threads; i++) {
		lookers[i].engine = engine;
		lookers[i].prefix = (struct kvh_prefix){.space = space,
							.hashes = hashes,
							.n_chunks = KEYS,
							.n_ranks = 1,
							.n_groups = 1};
	}
	measure_counts(result);
	began = kvh_now_ns();
	if (err == 0)
		err = measure_lookups(o, lookers, 0, &result->snapshot,
				      &result->lookups_beside);
	ns = kvh_now_ns() - began;
	if (err == 0)
		err = measure_lookups(o, lookers, ns, NULL, &result->lookups_alone);
	return err;
}

static void print_device(const struct kvh_device_status *d)
{
	char node[16] = "not known";

	if (d->numa_node >= 0)
		(void)snprintf(node, sizeof(node), "%" PRId32, d->numa_node);
	printf("device          %s: %s, NUMA node %s, %" PRIu64 " bytes stored, %" PRIu64
	       " loaded, %" PRIu64 " errors%s\n",
	       d->label, d->name, node, d->stored_bytes, d->loaded_bytes, d->errors,
	       d->dead != 0 ? ", dead" : "");
}

static void print_l1(const struct kvh_status *st)
{
	printf("L1              %" PRIu64 " of %" PRIu64 " MiB pinned%s, %" PRIu64 " missing\n",
	       st->l1_bytes >> 20, st->l1_wanted_bytes >> 20,
	       st->l1_pinning != 0 ? " so far" : "", st->l1_missing_bytes >> 20);
}

/* NULL: no memory. */
static json_t *json_l1(const struct kvh_status *st)
{
	return json_pack("{s:I, s:I, s:I, s:b}", "pinned_bytes", (json_int_t)st->l1_bytes,
			 "wanted_bytes", (json_int_t)st->l1_wanted_bytes, "missing_bytes",
			 (json_int_t)st->l1_missing_bytes, "pinning", st->l1_pinning != 0);
}

/* NULL: no memory. */
static json_t *json_devices(const struct kvh_snapshot *s)
{
	json_t *list = json_array();

	for (uint64_t i = 0; i < s->n_devices && list != NULL; i++) {
		const struct kvh_device_status *d = &s->devices[i];
		json_t *row = json_pack(
			"{s:s, s:s, s:I, s:b, s:I, s:I, s:I}", "device", d->label, "name",
			d->name, "numa_node", (json_int_t)d->numa_node, "dead", d->dead != 0,
			"stored_bytes", (json_int_t)d->stored_bytes, "loaded_bytes",
			(json_int_t)d->loaded_bytes, "errors", (json_int_t)d->errors);

		if (row == NULL || json_array_append_new(list, row) != 0) {
			json_decref(list);
			list = NULL;
		}
	}
	return list;
}

static int print(const struct options *o, const struct kvh_snapshot *s, const struct result *r)
{
	json_t *json;
	int err;

	if (!o->json) {
		for (uint64_t i = 0; i < s->n_devices; i++)
			print_device(&s->devices[i]);
		print_l1(&s->engine);
		printf("spaces          %" PRIu32 "\n"
		       "count           %.1f ns\n"
		       "latency count   %.1f ns\n"
		       "snapshot        p50 %.1f us, p99 %.1f us, max %.1f us, %" PRIu64
		       " taken\n"
		       "look-ups        %.0f a second of %u keys beside snapshots, %.0f alone "
		       "(%" PRIu32 " threads)\n",
		       o->spaces, r->count_ns, r->latency_ns, (double)r->snapshot.p50_ns / 1e3,
		       (double)r->snapshot.p99_ns / 1e3, (double)r->snapshot.max_ns / 1e3,
		       r->snapshot.count, r->lookups_beside, KEYS, r->lookups_alone,
		       o->threads);
		return 0;
	}
	json = json_pack("{s:o, s:o, s:I, s:f, s:f, s:I, s:I, s:I, s:f, s:f}", "devices",
			 json_devices(s), "l1", json_l1(&s->engine), "spaces",
			 (json_int_t)o->spaces, "count_ns", r->count_ns, "latency_count_ns",
			 r->latency_ns, "snapshot_p50_ns", (json_int_t)r->snapshot.p50_ns,
			 "snapshot_p99_ns", (json_int_t)r->snapshot.p99_ns, "snapshot_max_ns",
			 (json_int_t)r->snapshot.max_ns, "lookups_per_s_beside",
			 r->lookups_beside, "lookups_per_s_alone", r->lookups_alone);
	err = json == NULL ? -ENOMEM : json_dumpf(json, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(json);
	return err;
}

static int report(const struct options *o, struct kvh_engine *engine,
		  const struct result *result)
{
	struct kvh_snapshot *snapshot;
	int err = kvh_snapshot_take(engine, &snapshot);

	if (err != 0)
		return err;
	err = print(o, snapshot, result);
	kvh_snapshot_free(snapshot);
	return err;
}

int kvh_bench_status(int argc, char **argv)
{
	struct options o = {.spaces = 1000, .threads = 1, .snapshots = 2000};
	struct kvh_engine *engine = NULL;
	struct result result = {0};
	struct kvh_engine_opts opts;
	bool given;
	int err;

	(void)argp_parse(&parser, argc, argv, 0, NULL, &o);
	(void)kvh_engine_args_value(&o.engine, "l1.bytes", &given);
	err = given ? 0 : kvh_config_set(o.engine.config, "l1.bytes", "64M");
	err = err != 0 ? err : kvh_config_opts(o.engine.config, &opts);
	err = err != 0 ? err : kvh_engine_open(&opts, &engine);
	kvh_config_close(err == 0 ? NULL : o.engine.config);
	if (err != 0)
		return err == -EINVAL || err == -EEXIST ? KVH_BENCH_USAGE : KVH_BENCH_FAILED;
	err = measure(&o, engine, &result);
	err = err != 0 ? err : report(&o, engine, &result);
	if (err != 0)
		kvh_bench_complain("%s", strerror(-err));
	(void)kvh_engine_close(engine, 0);
	kvh_config_close(o.engine.config);
	return err == 0 ? KVH_BENCH_OK : KVH_BENCH_FAILED;
}
