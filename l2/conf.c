/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conf.c - "PATH,option=value,..." into a path and typed values. Values are
 * kept aside until all of the text was understood, then written: a failure
 * leaves the caller's as they were. Any thread.
 */
#include "l2/conf.h"

#include "host/log.h"
#include "host/nearest.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

struct pending {
	bool given;
	uint64_t number; /* of all types without text */
	char *text;
	struct kvh_conf_list list;
};

struct parser {
	const char *adapter;
	const struct kvh_conf_option *options;
	struct pending pending[KVH_CONF_OPTIONS_MAX]; /* one an option */
};

struct unit {
	const char *name; /* any case */
	uint64_t scale;
};

static const struct unit byte_units[] = {
	{"", 1},
	{"K", UINT64_C(1) << 10},
	{"M", UINT64_C(1) << 20},
	{"G", UINT64_C(1) << 30},
	{"T", UINT64_C(1) << 40},
	{NULL, 0},
};

static const struct unit duration_units[] = {
	{"ns", 1},
	{"us", 1000},
	{"ms", 1000000},
	{"s", UINT64_C(1000000000)},
	{"min", UINT64_C(60000000000)},
	{"h", UINT64_C(3600000000000)},
	{NULL, 0},
};

/* Of a part of a unit, what is smaller than 1 is dropped. */
static int parse_scaled(const char *text, const struct unit *unit, uint64_t *value_p)
{
	size_t whole = strspn(text, "0123456789");
	size_t part = text[whole] == '.' ? strspn(text + whole + 1, "0123456789") : 0;
	const char *end = text + whole + (text[whole] == '.') + part;
	uint64_t number = 0, parts = 1;

	while (unit->name != NULL && strcasecmp(unit->name, end) != 0)
		unit++;
	/* A point needs digits on both sides, and a unit that it is a part of. */
	if (whole == 0 || unit->name == NULL ||
	    (text[whole] == '.' && (part == 0 || unit->scale == 1)))
		return -EINVAL;
	for (const char *p = text; p < end; p++) {
		if (*p == '.')
			continue;
		if (__builtin_mul_overflow(number, 10u, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*p - '0'), &number))
			return -ERANGE;
		if (p > text + whole && __builtin_mul_overflow(parts, 10u, &parts))
			return -ERANGE;
	}

	unsigned __int128 value = (unsigned __int128)number * unit->scale / parts;

	if (value > UINT64_MAX)
		return -ERANGE;
	*value_p = (uint64_t)value;
	return 0;
}

int kvh_conf_bytes(const char *text, uint64_t *bytes_p)
{
	return parse_scaled(text, byte_units, bytes_p);
}

int kvh_conf_duration(const char *text, uint64_t *ns_p)
{
	return parse_scaled(text, duration_units, ns_p);
}

static int parse_number(const struct parser *parser, const struct kvh_conf_option *option,
			const char *text, uint64_t *number_p)
{
	bool units = option->type == KVH_CONF_BYTES;
	uint64_t number = 0;
	int ret = kvh_conf_bytes(text, &number);

	if (ret == 0 && !units && strspn(text, "0123456789") != strlen(text))
		ret = -EINVAL;
	if (ret < 0 || number < option->min || number > option->max) {
		kvh_err("%s: %s=%s: is to be a number%s from %" PRIu64 " to %" PRIu64,
			parser->adapter, option->name, text,
			units ? " of bytes (as 4096, 64K, 1.5G)" : "", option->min,
			option->max);
		return -EINVAL;
	}
	*number_p = number;
	return 0;
}

static int parse_bool(const struct parser *parser, const struct kvh_conf_option *option,
		      const char *text, uint64_t *number_p)
{
	bool yes = strcmp(text, "1") == 0 || strcmp(text, "yes") == 0;

	if (!yes && strcmp(text, "0") != 0 && strcmp(text, "no") != 0) {
		kvh_err("%s: %s=%s: is to be yes, no, 1 or 0", parser->adapter, option->name,
			text);
		return -EINVAL;
	}
	*number_p = yes;
	return 0;
}

/* "a|b|c", cut to what fits. */
static void join(const char *const *words, char *out, size_t size)
{
	size_t used = 0;

	out[0] = '\0';
	for (size_t i = 0; words[i] != NULL && used < size; i++) {
		int n = snprintf(out + used, size - used, "%s%s", i == 0 ? "" : "|", words[i]);

		used += n < 0 ? size : (size_t)n;
	}
}

static int parse_choice(const struct parser *parser, const struct kvh_conf_option *option,
			const char *text, uint64_t *number_p)
{
	char allowed[256];

	for (size_t i = 0; option->choices[i] != NULL; i++) {
		if (strcmp(text, option->choices[i]) == 0) {
			*number_p = i;
			return 0;
		}
	}
	join(option->choices, allowed, sizeof(allowed));
	kvh_err("%s: %s=%s: is to be %s", parser->adapter, option->name, text, allowed);
	return -EINVAL;
}

static int parse_list_item(const struct parser *parser, const struct kvh_conf_option *option,
			   const char *text, struct kvh_conf_list *list)
{
	char **items, *item;

	if (list->n == option->max) {
		kvh_err("%s: %s=%s: is given more than %" PRIu64 " times", parser->adapter,
			option->name, text, option->max);
		return -EINVAL;
	}
	items = realloc(list->items, (list->n + 1) * sizeof(*items));
	if (items == NULL)
		return -ENOMEM;
	list->items = items;
	item = strdup(text);
	if (item == NULL)
		return -ENOMEM;
	items[list->n++] = item;
	return 0;
}

static int parse_value(const struct parser *parser, const struct kvh_conf_option *option,
		       const char *text, struct pending *pending)
{
	switch (option->type) {
	case KVH_CONF_BYTES:
	case KVH_CONF_U32: return parse_number(parser, option, text, &pending->number);
	case KVH_CONF_BOOL: return parse_bool(parser, option, text, &pending->number);
	case KVH_CONF_CHOICE: return parse_choice(parser, option, text, &pending->number);
	case KVH_CONF_LIST: return parse_list_item(parser, option, text, &pending->list);
	case KVH_CONF_TEXT:
	case KVH_CONF_REST: break;
	}
	pending->text = strdup(text);
	return pending->text != NULL ? 0 : -ENOMEM;
}

static void log_unknown(const struct parser *parser, const char *name)
{
	const char *names[KVH_CONF_OPTIONS_MAX + 1] = {NULL};
	struct kvh_nearest nearest = {name, NULL, 0};
	char allowed[512];

	for (size_t i = 0; parser->options[i].name != NULL; i++) {
		names[i] = parser->options[i].name;
		kvh_nearest_try(&nearest, names[i]);
	}
	join(names, allowed, sizeof(allowed));
	kvh_err("%s: no option \"%s\"; the nearest is \"%s\", there are %s (a path with a "
		"\"=\" begins with \"./\")",
		parser->adapter, name, nearest.best != NULL ? nearest.best : "", allowed);
}

/* Cuts the item at `text` off, "\," turned into ","; returns where the next one
 * starts, NULL after the last. */
static char *cut_item(char *text)
{
	char *to = text;

	for (char *p = text; *p != '\0'; p++) {
		if (*p == ',') {
			*to = '\0';
			return p + 1;
		}
		if (p[0] == '\\' && p[1] == ',')
			p++;
		*to++ = *p;
	}
	*to = '\0';
	return NULL;
}

static size_t option_find(const struct parser *parser, const char *name, size_t len)
{
	size_t i = 0;

	while (parser->options[i].name != NULL &&
	       (strlen(parser->options[i].name) != len ||
		strncmp(parser->options[i].name, name, len) != 0))
		i++;
	assert(i < KVH_CONF_OPTIONS_MAX);
	return i;
}

/* Takes the item at *text_p off the text. */
static int parse_item(struct parser *parser, char **text_p)
{
	char *text = *text_p;
	size_t len = strcspn(text, "=,");
	size_t i = option_find(parser, text, len);
	const struct kvh_conf_option *option = &parser->options[i];
	bool rest = option->name != NULL && option->type == KVH_CONF_REST;

	*text_p = rest ? NULL : cut_item(text);
	if (option->name == NULL) {
		text[strcspn(text, "=")] = '\0';
		log_unknown(parser, text);
		return -EINVAL;
	}
	if (text[len] != '=') {
		kvh_err("%s: option %s has no value", parser->adapter, option->name);
		return -EINVAL;
	}
	if (parser->pending[i].given && option->type != KVH_CONF_LIST) {
		kvh_err("%s: %s: option given twice", parser->adapter, text);
		return -EINVAL;
	}
	parser->pending[i].given = true;
	return parse_value(parser, option, text + len + 1, &parser->pending[i]);
}

static void commit(const struct parser *parser)
{
	for (size_t i = 0; parser->options[i].name != NULL; i++) {
		const struct kvh_conf_option *option = &parser->options[i];
		const struct pending *pending = &parser->pending[i];

		if (!pending->given)
			continue;
		switch (option->type) {
		case KVH_CONF_BYTES: *(uint64_t *)option->value = pending->number; break;
		case KVH_CONF_U32:
			*(uint32_t *)option->value = (uint32_t)pending->number;
			break;
		case KVH_CONF_BOOL:
		case KVH_CONF_CHOICE: *(int *)option->value = (int)pending->number; break;
		case KVH_CONF_TEXT:
		case KVH_CONF_REST: *(char **)option->value = pending->text; break;
		case KVH_CONF_LIST:
			*(struct kvh_conf_list *)option->value = pending->list;
			break;
		}
	}
}

static bool has_path(const char *conf)
{
	size_t len = strcspn(conf, "=/,");

	return conf[len] != '=';
}

/* `text` is taken apart. */
static int parse_text(struct parser *parser, char *text, char **path_p)
{
	char *path = text, *next = text;

	if (has_path(text))
		next = cut_item(text);
	else
		path = "";
	while (next != NULL) {
		int ret = parse_item(parser, &next);

		if (ret < 0)
			return ret;
	}
	*path_p = strdup(path);
	return *path_p != NULL ? 0 : -ENOMEM;
}

static void pending_free(struct pending *pending)
{
	free(pending->text);
	for (uint32_t i = 0; i < pending->list.n; i++)
		free(pending->list.items[i]);
	free(pending->list.items);
}

int kvh_conf_parse(const char *adapter, const char *conf, char **path_p,
		   const struct kvh_conf_option *options)
{
	struct parser parser = {.adapter = adapter, .options = options};
	char *text = strdup(conf), *path = NULL;
	int ret = text != NULL ? parse_text(&parser, text, &path) : -ENOMEM;

	free(text);
	if (ret < 0) {
		for (size_t i = 0; i < KVH_CONF_OPTIONS_MAX; i++)
			pending_free(&parser.pending[i]);
		return ret;
	}
	commit(&parser);
	*path_p = path;
	return 0;
}

int kvh_conf_absolute(char **path_p)
{
	char *cwd, *path;
	int ret;

	if (**path_p == '/' || **path_p == '\0')
		return 0;
	cwd = getcwd(NULL, 0);
	if (cwd == NULL)
		return -errno;
	ret = asprintf(&path, "%s/%s", cwd, *path_p);
	free(cwd);
	if (ret < 0)
		return -ENOMEM;
	free(*path_p);
	*path_p = path;
	return 0;
}
