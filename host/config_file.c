/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_file.c - one JSON file into options. One thread.
 *
 * jansson keeps no line numbers of values, so the lines are read off the text,
 * which it has found to be valid: lines[i] is that of value i, in the order of
 * the text (of a member, the line of its key). jansson iterates in the order of
 * the text, too, and the walk counts the values it passes:
 *
 *     value at the walk's `at` lies on lines[at],   at <= n_lines
 */
#include "host/config.h"

#include "host/log.h"
#include "l2/l2.h"
#include "l2/spec.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX     ((size_t)1 << 20)
#define PATH_MAX_LEN 256u /* of a dotted name */
#define SPEC_MAX     4096u

struct walk {
	struct kvh_config *config;
	enum kvh_origin origin;
	const uint32_t *lines; /* NULL: one line of the environment or a flag */
	size_t n_lines, at;
	int err; /* the first */
};

/* ---- lines ------------------------------------------------------------ */

static const char *blank_end(const char *p, const char *end, uint32_t *line)
{
	for (; p < end && strchr(" \t\r\n", *p) != NULL && *p != '\0'; p++)
		*line += *p == '\n';
	return p;
}

/* Behind the closing quote; `p` is at the opening one. */
static const char *string_end(const char *p, const char *end)
{
	for (p++; p < end && *p != '"'; p++)
		p += *p == '\\';
	return p + 1;
}

/* Of valid JSON. Room for one value a byte, and none is longer than the text. */
static size_t find_lines(const char *p, const char *end, uint32_t *lines)
{
	uint32_t line = 1, key_line = 0;
	size_t n = 0;

	while ((p = blank_end(p, end, &line)) < end) {
		uint32_t here = line;

		if (strchr("}],:", *p) != NULL) {
			p++;
			continue;
		}
		if (*p == '"') {
			p = blank_end(string_end(p, end), end, &line);
			if (p < end && *p == ':') {
				key_line = here;
				continue;
			}
		} else if (*p == '{' || *p == '[') {
			p++;
		} else {
			p += strcspn(p, " \t\r\n,]}");
		}
		lines[n++] = key_line != 0 ? key_line : here;
		key_line = 0;
	}
	return n;
}

/* ---- the walk --------------------------------------------------------- */

/* The place of the next value; steps over it. */
static struct kvh_place next_place(struct walk *walk)
{
	struct kvh_place place = {walk->origin, 0};

	assert(walk->lines == NULL || walk->at < walk->n_lines);
	if (walk->lines != NULL)
		place.line = walk->lines[walk->at++];
	return place;
}

static void skip(struct walk *walk, json_t *value)
{
	const char *key;
	json_t *member;
	size_t i;

	json_object_foreach(value, key, member)
	{
		walk->at++;
		skip(walk, member);
	}
	json_array_foreach(value, i, member)
	{
		walk->at++;
		skip(walk, member);
	}
}

static void note(struct walk *walk, int err)
{
	walk->err = walk->err != 0 ? walk->err : err;
}

static const char *json_name(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT: return "an object";
	case JSON_ARRAY: return "an array";
	case JSON_STRING: return "a text";
	case JSON_INTEGER: return "a whole number";
	case JSON_REAL: return "a number with a point or exponent";
	case JSON_TRUE:
	case JSON_FALSE: return "true or false";
	case JSON_NULL: return "null";
	}
	return "?";
}

/* As text for the option's own parser. False: JSON has another type there. */
static bool scalar_text(const json_t *value, char *number, size_t size, const char **text_p)
{
	switch (json_typeof(value)) {
	case JSON_STRING: *text_p = json_string_value(value); return true;
	case JSON_TRUE: *text_p = "yes"; return true;
	case JSON_FALSE: *text_p = "no"; return true;
	case JSON_INTEGER:
		(void)snprintf(number, size, "%" JSON_INTEGER_FORMAT,
			       json_integer_value(value));
		*text_p = number;
		return true;
	case JSON_OBJECT:
	case JSON_ARRAY:
	case JSON_REAL:
	case JSON_NULL: break;
	}
	return false;
}

/* Which types of JSON an option may have. */
static bool type_fits(const struct kvh_option *option, const json_t *value)
{
	switch (option->type) {
	case KVH_OPTION_BYTES: return json_is_integer(value) || json_is_string(value);
	case KVH_OPTION_U32:
	case KVH_OPTION_I32:
	case KVH_OPTION_PERCENT: return json_is_integer(value);
	case KVH_OPTION_BOOL: return json_is_boolean(value);
	case KVH_OPTION_DURATION:
	case KVH_OPTION_CHOICE:
	case KVH_OPTION_TEXT: return json_is_string(value);
	case KVH_OPTION_SPECS: return json_is_array(value);
	}
	return false;
}

static const char *type_wanted(const struct kvh_option *option)
{
	switch (option->type) {
	case KVH_OPTION_BYTES: return "a whole number, or a text like \"64K\" or \"1.5G\"";
	case KVH_OPTION_U32:
	case KVH_OPTION_I32:
	case KVH_OPTION_PERCENT: return "a whole number";
	case KVH_OPTION_BOOL: return "true or false";
	case KVH_OPTION_DURATION: return "a text like \"30s\" or \"1.5ms\"";
	case KVH_OPTION_CHOICE:
	case KVH_OPTION_TEXT: return "a text";
	case KVH_OPTION_SPECS: return "an array of adapters";
	}
	return "?";
}

/* ---- adapters --------------------------------------------------------- */

struct spec {
	char text[SPEC_MAX];
	size_t used;
	bool failed; /* it did not fit, or cannot be written as a spec */
};

static void spec_put(struct spec *spec, const char *text, bool escaped)
{
	for (; *text != '\0'; text++) {
		if (spec->used + 3 > sizeof(spec->text)) {
			spec->failed = true;
			return;
		}
		if (escaped && *text == ',')
			spec->text[spec->used++] = '\\';
		spec->text[spec->used++] = *text;
		/* In front of a comma or the next option it would be an escape. */
		spec->failed |= escaped && text[0] == '\\' && text[1] == '\0';
	}
	spec->text[spec->used] = '\0';
}

static void spec_put_path(struct spec *spec, const char *path)
{
	if (path[strcspn(path, "=/,")] == '=')
		spec_put(spec, "./", false); /* else it reads like an option */
	spec_put(spec, path, true);
}

static int spec_option(struct walk *walk, const struct kvh_l2_ops *ops, const char *key,
		       const json_t *value, struct kvh_place place, struct spec *spec)
{
	char number[32], nearest[64];
	const char *text;
	struct kvh_l2_help help;

	if (!kvh_l2_help_find(ops, key, strlen(key), &help)) {
		kvh_l2_help_nearest(ops, key, nearest, sizeof(nearest));
		return kvh_config_refuse(walk->config, place, key,
					 "is no option of %s; the nearest is \"%s\"", ops->name,
					 nearest);
	}
	if (!scalar_text(value, number, sizeof(number), &text))
		return kvh_config_refuse(walk->config, place, key,
					 "is %s, allowed: a text, a whole number, true, false",
					 json_name(value));
	spec_put(spec, ",", false);
	spec_put(spec, key, false);
	spec_put(spec, "=", false);
	spec_put(spec, text, !help.rest);
	return 0;
}

/* The members of an adapter's object: those whose value takes all that follows
 * go last. */
static void spec_members(struct walk *walk, const struct kvh_l2_ops *ops, json_t *object,
			 struct spec *spec)
{
	size_t first = walk->at;
	struct kvh_l2_help help;
	const char *key;
	json_t *value;

	for (int rest = 0; rest < 2; rest++) {
		walk->at = first;
		json_object_foreach(object, key, value)
		{
			struct kvh_place place = next_place(walk);
			bool known = kvh_l2_help_find(ops, key, strlen(key), &help);

			skip(walk, value);
			if (strcmp(key, "adapter") == 0 || strcmp(key, "path") == 0)
				continue;
			if ((known && help.rest) == (rest != 0))
				note(walk, spec_option(walk, ops, key, value, place, spec));
		}
	}
}

static int object_spec(struct walk *walk, json_t *object, struct kvh_place place,
		       struct spec *spec)
{
	const json_t *adapter = json_object_get(object, "adapter");
	const json_t *path = json_object_get(object, "path");
	const char *name = json_string_value(adapter), *nearest = NULL;
	const struct kvh_l2_ops *ops;
	int before = walk->err;

	ops = name != NULL ? kvh_l2_named(name, strlen(name), &nearest) : NULL;
	if (ops == NULL || (path != NULL && !json_is_string(path))) {
		skip(walk, object);
		if (name == NULL)
			return kvh_config_refuse(walk->config, place, "l2.adapters",
						 "has an object without a text \"adapter\"");
		if (ops == NULL)
			return kvh_config_refuse(
				walk->config, place, "l2.adapters",
				"there is no adapter \"%.64s\"; the nearest is \"%s\"", name,
				nearest);
		return kvh_config_refuse(walk->config, place, "path", "is %s, allowed: a text",
					 json_name(path));
	}
	spec_put(spec, name, false);
	spec_put(spec, ":", false);
	if (path != NULL)
		spec_put_path(spec, json_string_value(path));
	walk->err = 0;
	spec_members(walk, ops, object, spec);
	if (walk->err != 0)
		return walk->err;
	walk->err = before;
	if (spec->failed)
		return kvh_config_refuse(walk->config, place, "l2.adapters",
					 "has an adapter of more than %u bytes, or a text that "
					 "ends with a backslash",
					 SPEC_MAX - 3);
	return 0;
}

static int take_adapter(struct walk *walk, json_t *value)
{
	struct kvh_place place = next_place(walk);
	struct spec spec = {.used = 0};
	int err;

	if (json_is_string(value))
		return kvh_config_spec(walk->config, place, json_string_value(value));
	if (!json_is_object(value)) {
		skip(walk, value);
		return kvh_config_refuse(walk->config, place, "l2.adapters",
					 "has %s, allowed: a text or an object",
					 json_name(value));
	}
	err = object_spec(walk, value, place, &spec);
	return err != 0 ? err : kvh_config_spec(walk->config, place, spec.text);
}

static int take_adapters(struct walk *walk, json_t *array, struct kvh_place place)
{
	int err = kvh_config_specs_begin(walk->config, place);
	json_t *value;
	size_t i;

	json_array_foreach(array, i, value)
	{
		note(walk, take_adapter(walk, value));
	}
	return err;
}

/* ---- options ---------------------------------------------------------- */

static int take_option(struct walk *walk, const struct kvh_option *option, json_t *value,
		       struct kvh_place place)
{
	char number[32];
	const char *text;

	if (!type_fits(option, value)) {
		skip(walk, value);
		return kvh_config_refuse(walk->config, place, option->name,
					 "is %s, allowed: %s", json_name(value),
					 type_wanted(option));
	}
	if (option->type == KVH_OPTION_SPECS)
		return take_adapters(walk, value, place);
	(void)scalar_text(value, number, sizeof(number), &text);
	return kvh_config_take(walk->config, place, option->name, text);
}

/* Whether options begin with "NAME.". */
static bool is_group(const char *name)
{
	size_t len = strlen(name);

	for (const struct kvh_option *o = kvh_options; o->name != NULL; o++)
		if (strncmp(o->name, name, len) == 0 && o->name[len] == '.')
			return true;
	return false;
}

/* As deep as the names of options, since others are not entered. */
static void take_object(struct walk *walk, json_t *object, const char *prefix)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		struct kvh_place place = next_place(walk);
		const struct kvh_option *option;
		char name[PATH_MAX_LEN];

		(void)snprintf(name, sizeof(name), "%s%s%s", prefix,
			       prefix[0] != '\0' ? "." : "", key);
		option = kvh_option_find(name);
		if (option != NULL) {
			note(walk, take_option(walk, option, value, place));
		} else if (is_group(name) && json_is_object(value)) {
			take_object(walk, value, name);
		} else {
			skip(walk, value);
			note(walk, is_group(name)
					   ? kvh_config_refuse(walk->config, place, name,
							       "is %s, allowed: an object",
							       json_name(value))
					   : kvh_config_unknown(walk->config, place, name));
		}
	}
}

/* ---- text ------------------------------------------------------------- */

static int parse(const char *where, const char *text, size_t len, json_t **root_p)
{
	json_error_t error;

	*root_p = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	if (*root_p != NULL)
		return 0;
	/* Out of memory, jansson mostly says nothing. */
	if (json_error_code(&error) == json_error_out_of_memory || error.text[0] == '\0')
		return -ENOMEM;
	kvh_err("%s:%d: %s", where, error.line > 0 ? error.line : 1, error.text);
	return -EINVAL;
}

static int take_file(struct kvh_config *config, const char *path, const char *text, size_t len)
{
	struct walk walk = {.config = config, .origin = KVH_FROM_FILE};
	uint32_t *lines;
	json_t *root;
	int err = parse(path, text, len, &root);

	if (err != 0)
		return err;
	lines = calloc(len, sizeof(*lines));
	if (lines == NULL) {
		json_decref(root);
		return -ENOMEM;
	}
	walk.n_lines = find_lines(text, text + len, lines);
	walk.lines = lines;
	if (json_is_object(root)) {
		(void)next_place(&walk);
		take_object(&walk, root, "");
		assert(walk.at == walk.n_lines);
	} else {
		kvh_err("%s:%u: is %s, allowed: an object", path, lines[0], json_name(root));
		walk.err = -EINVAL;
	}
	free(lines);
	json_decref(root);
	return walk.err;
}

static int read_text(FILE *file, const char *path, char *text, size_t *len_p)
{
	*len_p = fread(text, 1, FILE_MAX + 1, file);
	if (ferror(file) != 0) {
		int err = errno;

		kvh_err("%s: %s", path, strerror(err));
		return -err;
	}
	if (*len_p > FILE_MAX) {
		kvh_err("%s: more than %zu bytes", path, FILE_MAX);
		return -EFBIG;
	}
	text[*len_p] = '\0';
	return 0;
}

int kvh_config_read(struct kvh_config *config, const char *path)
{
	char *text = malloc(FILE_MAX + 2);
	FILE *file;
	size_t len;
	int err;

	if (text == NULL)
		return -ENOMEM;
	file = fopen(path, "re");
	if (file == NULL) {
		err = -errno;
		kvh_err("%s: %s", path, strerror(-err));
		goto err_text;
	}
	err = read_text(file, path, text, &len);
	if (err == 0)
		err = take_file(config, path, text, len);
	(void)fclose(file);
err_text:
	free(text);
	return err;
}

int kvh_config_specs_json(struct kvh_config *config, struct kvh_place place, const char *text)
{
	struct walk walk = {.config = config, .origin = place.origin};
	json_t *root;
	int err = parse("l2.adapters", text, strlen(text), &root);

	if (err != 0)
		return err;
	note(&walk, take_adapters(&walk, root, place));
	json_decref(root);
	return walk.err;
}
