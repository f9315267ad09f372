/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.c - samples, sums and their two forms. Names in the JSON are for good:
 * others are added, none changes its meaning. One thread.
 */
#include "bench/report.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* ---- samples ---- */

bool kvh_samples_add(struct kvh_samples *samples, uint64_t ns)
{
	if (samples->n == samples->room) {
		size_t room = samples->room == 0 ? 1024 : 2 * samples->room;
		uint64_t *bigger = realloc(samples->ns, room * sizeof(*bigger));

		if (bigger == NULL)
			return false;
		samples->ns = bigger;
		samples->room = room;
	}
	samples->ns[samples->n++] = ns;
	return true;
}

static int compare_ns(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

uint64_t kvh_samples_percentile(struct kvh_samples *samples, double percent)
{
	size_t rank;

	if (samples->n == 0)
		return 0;
	qsort(samples->ns, samples->n, sizeof(*samples->ns), compare_ns);
	rank = (size_t)ceil(percent / 100 * (double)samples->n);
	if (rank == 0)
		rank = 1;
	return samples->ns[rank > samples->n ? samples->n - 1 : rank - 1];
}

/* ---- result ---- */

const char *kvh_stage_name(enum kvh_stage stage)
{
	switch (stage) {
	case KVH_STAGE_LOOKUP: return "lookup";
	case KVH_STAGE_PREFETCH: return "prefetch";
	case KVH_STAGE_LOAD: return "load";
	case KVH_STAGE_CHECK: return "check";
	case KVH_STAGE_FILL: return "fill";
	case KVH_STAGE_STORE: return "store";
	case KVH_STAGES: break;
	}
	return "?";
}

void kvh_result_free(struct kvh_result *result)
{
	for (int i = 0; i < KVH_STAGES; i++)
		free(result->stages[i].each.ns);
	memset(result, 0, sizeof(*result));
}

void kvh_result_stage(struct kvh_result *result, enum kvh_stage stage, uint64_t bytes,
		      uint64_t ns)
{
	result->stages[stage].bytes += bytes;
	result->stages[stage].ns += ns;
	(void)kvh_samples_add(&result->stages[stage].each, ns);
}

/* `sum` becomes `now` with the counters [from, to) of both added: fields of
 * uint64_t that lie side by side. */
static void add_counters(void *sum, const void *now, size_t size, size_t from, size_t to)
{
	uint64_t before[sizeof(struct kvh_status) / sizeof(uint64_t)];
	size_t n = (to - from) / sizeof(uint64_t);
	uint64_t *fields = (uint64_t *)(void *)((char *)sum + from);

	assert(n <= sizeof(before) / sizeof(before[0]));
	memcpy(before, fields, n * sizeof(uint64_t));
	memcpy(sum, now, size);
	for (size_t i = 0; i < n; i++)
		fields[i] += before[i];
}

void kvh_result_engine(struct kvh_result *result, struct kvh_engine *engine)
{
	struct kvh_status now = {.size = sizeof(now)};

	if (kvh_status_get(engine, &now) != 0)
		return;
	add_counters(&result->engine, &now, sizeof(now),
		     offsetof(struct kvh_status, stored_chunks),
		     offsetof(struct kvh_status, n_l2));
	result->n_l2 = 0;
	for (uint32_t i = 0; i < KVH_RESULT_L2_MAX; i++) {
		struct kvh_l2_status l2 = {.size = sizeof(l2)};

		if (kvh_l2_status_get(engine, i, &l2) != 0)
			break;
		add_counters(&result->l2[i], &l2, sizeof(l2),
			     offsetof(struct kvh_l2_status, puts),
			     offsetof(struct kvh_l2_status, unregistered));
		result->n_l2 = i + 1;
		result->stages[KVH_STAGE_PREFETCH].bytes += l2.get_bytes;
	}
	result->engines++;
}

struct usage {
	double cpu_seconds;
	uint64_t peak_bytes;
};

static struct usage usage_now(void)
{
	struct rusage used = {0};
	struct usage usage;

	(void)getrusage(RUSAGE_SELF, &used);
	usage.cpu_seconds = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
			    (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
	usage.peak_bytes = (uint64_t)used.ru_maxrss * 1024;
	return usage;
}

static double percent_of(uint64_t part, uint64_t whole)
{
	return whole == 0 ? 0 : 100.0 * (double)part / (double)whole;
}

static double gb_per_s(uint64_t bytes, uint64_t ns)
{
	return ns == 0 ? 0 : (double)bytes / (double)ns;
}

/* Of the link in its direction; 0: it has none, or it was not measured. */
static double share_of_link(const struct kvh_result *result, enum kvh_stage which)
{
	const struct kvh_stage_total *stage = &result->stages[which];
	double link = which == KVH_STAGE_LOAD    ? result->link_load
		      : which == KVH_STAGE_STORE ? result->link_store
						 : 0;

	return link > 0 ? gb_per_s(stage->bytes, stage->ns) / link : 0;
}

/* ---- table ---- */

const char *kvh_format_ns(uint64_t ns, char *text)
{
	static const char *const units[] = {"ns", "us", "ms", "s"};
	double value = (double)ns;
	size_t unit = 0;

	while (value >= 1000 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1000;
		unit++;
	}
	(void)snprintf(text, 24, unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
	return text;
}

void kvh_report_head_print(FILE *out, const struct kvh_report_head *head)
{
	char block[24], l1[24];

	(void)fprintf(out, "model     %s\n", head->model);
	(void)fprintf(out, "trace     %s, blocks of 512 tokens, %s each\n", head->trace,
		      kvh_size_text(head->block_bytes, block));
	(void)fprintf(out, "device    %s\n", head->device);
	(void)fprintf(out, "L1        %s\n", kvh_size_text(head->l1_bytes, l1));
}

static void table_stages(FILE *out, struct kvh_result *result)
{
	if (result->link_load > 0)
		(void)fprintf(out, "\nlink      D2H %.2f GB/s, H2D %.2f GB/s\n",
			      result->link_store, result->link_load);
	(void)fprintf(out, "\n%-10s %8s %12s %9s %7s %10s %10s\n", "stage", "times", "bytes",
		      "GB/s", result->link_load > 0 ? "link" : "", "p50", "p99");
	for (int i = 0; i < KVH_STAGES; i++) {
		struct kvh_stage_total *stage = &result->stages[i];
		double share = share_of_link(result, (enum kvh_stage)i);
		char bytes[24], rate[24] = "", link[24] = "", p50[24], p99[24];

		if (stage->bytes != 0)
			(void)snprintf(rate, sizeof(rate), "%.2f",
				       gb_per_s(stage->bytes, stage->ns));
		if (share > 0)
			(void)snprintf(link, sizeof(link), "%.1f%%", 100 * share);
		(void)fprintf(out, "%-10s %8zu %12s %9s %7s %10s %10s\n",
			      kvh_stage_name((enum kvh_stage)i), stage->each.n,
			      stage->bytes == 0 ? "" : kvh_size_text(stage->bytes, bytes), rate,
			      link,
			      kvh_format_ns(kvh_samples_percentile(&stage->each, 50), p50),
			      kvh_format_ns(kvh_samples_percentile(&stage->each, 99), p99));
	}
}

static void table_l2(FILE *out, const struct kvh_result *result)
{
	for (uint32_t i = 0; i < result->n_l2; i++) {
		const struct kvh_l2_status *l2 = &result->l2[i];
		char put[24], got[24], used[24];

		(void)fprintf(out,
			      "L2 %-10s %" PRIu64 " written (%s), %" PRIu64
			      " read (%s), %" PRIu64 " failed, %" PRIu64 " dropped, %" PRIu64
			      " corrupt; %s in use\n",
			      l2->name, l2->puts, kvh_size_text(l2->put_bytes, put), l2->gets,
			      kvh_size_text(l2->get_bytes, got),
			      l2->put_failed + l2->get_failed + l2->timeouts, l2->put_dropped,
			      l2->get_corrupt, kvh_size_text(l2->used_bytes, used));
	}
}

void kvh_report_table(FILE *out, struct kvh_result *result)
{
	const struct kvh_status *e = &result->engine;
	struct usage usage = usage_now();
	char wall[24], peak[24];

	table_stages(out, result);
	(void)fprintf(out,
		      "\nrequests      %" PRIu64 " in %s\n"
		      "blocks        %" PRIu64 " references, %" PRIu64 " distinct\n"
		      "prefix hits   %" PRIu64 " (%.1f %%)\n"
		      "hits by tier  %" PRIu64 " chunks in L1, %" PRIu64 " in L2, %" PRIu64
		      " missed\n"
		      "stored        %" PRIu64 " chunks; %" PRIu64 " were there, %" PRIu64
		      " found no room, %" PRIu64 " failed\n"
		      "evicted       %" PRIu64 " chunks\n",
		      result->requests, kvh_format_ns(result->wall_ns, wall),
		      result->block_references, result->distinct_blocks, result->prefix_hits,
		      percent_of(result->prefix_hits, result->block_references), e->hits_l1,
		      e->hits_l2, e->misses, e->stored_chunks, result->store_exists,
		      result->store_no_memory, result->store_failed,
		      e->evicted_alloc + e->evicted_background);
	table_l2(out, result);
	if (result->late != 0)
		(void)fprintf(out, "late          %" PRIu64 " requests\n", result->late);
	(void)fprintf(out,
		      "CPU           %.2f s, peak memory %s\n"
		      "verified      %" PRIu64 " chunks, %" PRIu64 " mismatches\n",
		      usage.cpu_seconds, kvh_size_text(usage.peak_bytes, peak),
		      result->chunks_verified, result->mismatches);
}

/* ---- JSON ---- */

/* A number, or nothing where memory is short: the caller looks at the end. */
struct field {
	const char *name;
	uint64_t value;
};

static void put_fields(json_t *object, const struct field *fields, size_t n)
{
	for (size_t i = 0; i < n; i++)
		(void)json_object_set_new(object, fields[i].name,
					  json_integer((json_int_t)fields[i].value));
}
#define PUT_FIELDS(object, fields) \
	put_fields(object, fields, sizeof(fields) / sizeof((fields)[0]))

static void put_real(json_t *object, const char *name, double value)
{
	(void)json_object_set_new(object, name, json_real(value));
}

static void put_text(json_t *object, const char *name, const char *value)
{
	json_t *text = json_string(value);

	/* A path may be no UTF-8. */
	(void)json_object_set_new(object, name, text != NULL ? text : json_null());
}

static json_t *stages_json(struct kvh_result *result)
{
	json_t *stages = json_object();

	for (int i = 0; i < KVH_STAGES; i++) {
		struct kvh_stage_total *from = &result->stages[i];
		const struct field fields[] = {
			{"times", from->each.n},
			{"bytes", from->bytes},
			{"ns", from->ns},
			{"p50_ns", kvh_samples_percentile(&from->each, 50)},
			{"p99_ns", kvh_samples_percentile(&from->each, 99)},
		};
		json_t *stage = json_object();

		PUT_FIELDS(stage, fields);
		put_real(stage, "gb_per_s", gb_per_s(from->bytes, from->ns));
		if (share_of_link(result, (enum kvh_stage)i) > 0)
			put_real(stage, "share_of_link",
				 share_of_link(result, (enum kvh_stage)i));
		(void)json_object_set_new(stages, kvh_stage_name((enum kvh_stage)i), stage);
	}
	return stages;
}

static json_t *l2_json(const struct kvh_result *result)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < result->n_l2; i++) {
		const struct kvh_l2_status *l2 = &result->l2[i];
		const struct field fields[] = {
			{"used_bytes", l2->used_bytes},
			{"capacity_bytes", l2->capacity_bytes},
			{"objects", l2->objects},
			{"puts", l2->puts},
			{"put_bytes", l2->put_bytes},
			{"put_failed", l2->put_failed},
			{"put_retried", l2->put_retried},
			{"put_dropped", l2->put_dropped},
			{"gets", l2->gets},
			{"get_bytes", l2->get_bytes},
			{"get_missed", l2->get_missed},
			{"get_failed", l2->get_failed},
			{"get_corrupt", l2->get_corrupt},
			{"probes", l2->probes},
			{"timeouts", l2->timeouts},
		};
		json_t *one = json_object();

		put_text(one, "name", l2->name);
		PUT_FIELDS(one, fields);
		(void)json_array_append_new(list, one);
	}
	return list;
}

static void put_counts(json_t *object, const struct kvh_result *result)
{
	const struct kvh_status *e = &result->engine;
	const struct field fields[] = {
		{"requests", result->requests},
		{"block_references", result->block_references},
		{"distinct_blocks", result->distinct_blocks},
		{"prefix_hits", result->prefix_hits},
		{"chunks_verified", result->chunks_verified},
		{"mismatches", result->mismatches},
		{"hits_l1", e->hits_l1},
		{"hits_l2", e->hits_l2},
		{"misses", e->misses},
		{"stored_chunks", e->stored_chunks},
		{"stored_bytes", e->stored_bytes},
		{"loaded_chunks", e->loaded_chunks},
		{"loaded_bytes", e->loaded_bytes},
		{"store_exists", result->store_exists},
		{"store_no_memory", result->store_no_memory},
		{"store_failed", result->store_failed},
		{"prefetch_short", result->prefetch_short},
		{"prefetch_wasted", e->prefetch_wasted},
		{"evicted", e->evicted_alloc + e->evicted_background},
		{"corrupt", e->corrupt},
		{"device_errors", e->device_errors},
		{"l1_used_bytes", e->l1_used_bytes},
		{"l1_leases", e->l1_leases},
		{"late", result->late},
		{"engines", result->engines},
	};

	PUT_FIELDS(object, fields);
}

int kvh_report_json(FILE *out, const struct kvh_report_head *head, struct kvh_result *result)
{
	struct usage usage = usage_now();
	json_t *object = json_object();
	const struct field sizes[] = {
		{"token_bytes", head->token_bytes},
		{"block_bytes", head->block_bytes},
		{"l1_bytes", head->l1_bytes},
		{"peak_memory_bytes", usage.peak_bytes},
		{"load_p50_ns",
		 kvh_samples_percentile(&result->stages[KVH_STAGE_LOAD].each, 50)},
		{"load_p99_ns",
		 kvh_samples_percentile(&result->stages[KVH_STAGE_LOAD].each, 99)},
	};
	int rc;

	put_counts(object, result);
	put_real(object, "prefix_hit_percent",
		 percent_of(result->prefix_hits, result->block_references));
	PUT_FIELDS(object, sizes);
	put_real(object, "cpu_seconds", usage.cpu_seconds);
	put_real(object, "wall_seconds", (double)result->wall_ns / 1e9);
	if (result->link_load > 0) {
		put_real(object, "link_d2h_gb_per_s", result->link_store);
		put_real(object, "link_h2d_gb_per_s", result->link_load);
	}
	put_text(object, "model", head->model_name);
	put_text(object, "geometry", head->model);
	put_real(object, "scale", head->scale);
	put_text(object, "trace", head->trace);
	put_text(object, "device", head->device);
	(void)json_object_set_new(object, "stages", stages_json(result));
	(void)json_object_set_new(object, "l2", l2_json(result));
	rc = json_dumpf(object, out, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	json_decref(object);
	if (rc == 0 && fputc('\n', out) != EOF)
		return 0;
	return -ENOMEM;
}
