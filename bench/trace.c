/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.c - reads a trace file. The whole trace is kept in memory: 16 bytes a
 * request and 8 a block, some megabytes for an hour of a busy service. Any
 * thread.
 */
#include "bench/trace.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the reader stands, and where it says what it did not like. */
struct reader {
	const char *path;
	size_t line;
	char *what;
	size_t what_len;
	uint64_t *ids; /* of the line */
	size_t room;
};

static int wrong(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int wrong(struct reader *r, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	(void)snprintf(r->what, r->what_len, "%s:%zu: %s", r->path, r->line, text);
	return -EINVAL;
}

static bool grow(void **array, size_t *room, size_t need, size_t size)
{
	size_t want = *room == 0 ? 64 : *room;
	void *bigger;

	if (need <= *room)
		return true;
	while (want < need)
		want *= 2;
	bigger = realloc(*array, want * size);
	if (bigger == NULL)
		return false;
	*array = bigger;
	*room = want;
	return true;
}

int kvh_trace_add(struct kvh_trace *trace, const struct kvh_trace_request *request,
		  const uint64_t *ids)
{
	struct kvh_trace_request *to;

	if (!grow((void **)&trace->requests, &trace->requests_room, trace->n_requests + 1,
		  sizeof(*trace->requests)) ||
	    !grow((void **)&trace->ids, &trace->ids_room, trace->n_ids + request->n_ids,
		  sizeof(*trace->ids)))
		return -ENOMEM;
	to = &trace->requests[trace->n_requests++];
	*to = *request;
	to->first = trace->n_ids;
	if (request->n_ids != 0)
		memcpy(trace->ids + trace->n_ids, ids, request->n_ids * sizeof(*ids));
	trace->n_ids += request->n_ids;
	return 0;
}

void kvh_trace_free(struct kvh_trace *trace)
{
	free(trace->requests);
	free(trace->ids);
	memset(trace, 0, sizeof(*trace));
}

/* A whole number in [0, max]. */
static int read_number(struct reader *r, const json_t *object, const char *name, uint64_t max,
		       uint64_t *number_p)
{
	const json_t *value = json_object_get(object, name);

	if (value == NULL)
		return wrong(r, "%s is missing", name);
	if (!json_is_integer(value))
		return wrong(r, "%s is not a whole number", name);
	if (json_integer_value(value) < 0)
		return wrong(r, "%s is negative: %" JSON_INTEGER_FORMAT, name,
			     json_integer_value(value));
	if ((uint64_t)json_integer_value(value) > max)
		return wrong(r, "%s is above %ju: %" JSON_INTEGER_FORMAT, name, (uintmax_t)max,
			     json_integer_value(value));
	*number_p = (uint64_t)json_integer_value(value);
	return 0;
}

static int read_ids(struct reader *r, const json_t *object, uint32_t *n_p)
{
	const json_t *list = json_object_get(object, "hash_ids");
	size_t n;

	if (list == NULL)
		return wrong(r, "hash_ids is missing");
	if (!json_is_array(list))
		return wrong(r, "hash_ids is not a list");
	n = json_array_size(list);
	if (!grow((void **)&r->ids, &r->room, n, sizeof(*r->ids)))
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const json_t *id = json_array_get(list, i);

		if (!json_is_integer(id))
			return wrong(r, "hash_ids[%zu] is not a whole number", i);
		if (json_integer_value(id) < 0)
			return wrong(r, "hash_ids[%zu] is negative: %" JSON_INTEGER_FORMAT, i,
				     json_integer_value(id));
		r->ids[i] = (uint64_t)json_integer_value(id);
	}
	*n_p = (uint32_t)n;
	return 0;
}

static int read_request(struct reader *r, const json_t *object, struct kvh_trace *trace)
{
	struct kvh_trace_request request = {0};
	uint64_t input = 0, output = 0;
	int err;

	if (!json_is_object(object))
		return wrong(r, "not a JSON object");
	err = read_number(r, object, "timestamp", INT64_MAX, &request.timestamp_ms);
	if (err == 0)
		err = read_number(r, object, "input_length", UINT32_MAX, &input);
	if (err == 0)
		err = read_number(r, object, "output_length", UINT32_MAX, &output);
	if (err == 0)
		err = read_ids(r, object, &request.n_ids);
	if (err != 0)
		return err;
	request.input_length = (uint32_t)input;
	request.output_length = (uint32_t)output;
	return kvh_trace_add(trace, &request, r->ids);
}

static int read_line(struct reader *r, const char *line, size_t len, struct kvh_trace *trace)
{
	json_error_t error;
	json_t *object;
	int err;

	if (strspn(line, " \t\r\n") == len)
		return 0;
	object = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
	if (object == NULL)
		return wrong(r, "not JSON: %s (column %d)", error.text, error.column);
	err = read_request(r, object, trace);
	json_decref(object);
	return err;
}

static int read_lines(struct reader *r, FILE *file, size_t max_requests,
		      struct kvh_trace *trace)
{
	char *line = NULL;
	size_t room = 0;
	ssize_t len = 0;
	int err = 0;

	while (err == 0 && (max_requests == 0 || trace->n_requests < max_requests) &&
	       (len = getline(&line, &room, file)) >= 0) {
		r->line++;
		err = read_line(r, line, (size_t)len, trace);
	}
	if (err == 0 && len < 0 && ferror(file) != 0) {
		err = errno == 0 ? -EIO : -errno;
		(void)snprintf(r->what, r->what_len, "%s: %s", r->path, strerror(-err));
	}
	if (err == 0 && trace->n_requests == 0) {
		(void)snprintf(r->what, r->what_len, "%s: no request in it", r->path);
		err = -EINVAL;
	}
	free(line);
	return err;
}

int kvh_trace_read(const char *path, size_t max_requests, struct kvh_trace *trace, char *what,
		   size_t what_len)
{
	struct reader r = {.path = path, .what = what, .what_len = what_len};
	FILE *file;
	int err;

	memset(trace, 0, sizeof(*trace));
	(void)snprintf(what, what_len, "%s: %s", path, strerror(ENOMEM));
	file = fopen(path, "re");
	if (file == NULL) {
		err = -errno;
		(void)snprintf(what, what_len, "%s: %s", path, strerror(-err));
		return err;
	}
	err = read_lines(&r, file, max_requests, trace);
	(void)fclose(file);
	free(r.ids);
	if (err != 0)
		kvh_trace_free(trace);
	return err;
}

static int compare_ids(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int64_t kvh_trace_distinct(const struct kvh_trace *trace, size_t first, size_t end)
{
	size_t from, n;
	uint64_t *ids;
	int64_t distinct = 0;

	if (first >= end)
		return 0;
	from = trace->requests[first].first;
	n = trace->requests[end - 1].first + trace->requests[end - 1].n_ids - from;
	if (n == 0)
		return 0;
	ids = malloc(n * sizeof(*ids));
	if (ids == NULL)
		return -ENOMEM;
	memcpy(ids, trace->ids + from, n * sizeof(*ids));
	qsort(ids, n, sizeof(*ids), compare_ids);
	for (size_t i = 0; i < n; i++)
		distinct += i == 0 || ids[i] != ids[i - 1];
	free(ids);
	return distinct;
}

uint32_t kvh_trace_longest(const struct kvh_trace *trace)
{
	uint32_t longest = 0;

	for (size_t i = 0; i < trace->n_requests; i++) {
		if (trace->requests[i].n_ids > longest)
			longest = trace->requests[i].n_ids;
	}
	return longest;
}
