/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec.c - names of adapters and of their options, looked up before anything is
 * opened. Any thread.
 */
#include "l2/spec.h"

#include "host/nearest.h"
#include "l2/l2.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NAME_MAX_LEN 63 /* of what is quoted in a message */

bool kvh_l2_help_next(const char **at_p, struct kvh_l2_help *help)
{
	const char *line = *at_p;

	while (line != NULL && *line != '\0') {
		size_t name = strcspn(line, "= \n");
		const char *end = strchr(line, '\n');

		help->name = line;
		help->len = name;
		help->rest = strncmp(line + name, "=SPEC ", 6) == 0;
		*at_p = end != NULL ? end + 1 : line + strlen(line);
		if (line[name] == '=')
			return true;
		line = *at_p;
	}
	return false;
}

bool kvh_l2_help_find(const struct kvh_l2_ops *ops, const char *name, size_t len,
		      struct kvh_l2_help *help)
{
	const char *at = ops->help;

	while (kvh_l2_help_next(&at, help))
		if (help->len == len && memcmp(help->name, name, len) == 0)
			return true;
	return false;
}

void kvh_l2_help_nearest(const struct kvh_l2_ops *ops, const char *name, char *nearest,
			 size_t size)
{
	const char *at = ops->help;
	struct kvh_l2_help help;
	uint32_t least = UINT32_MAX;

	nearest[0] = '\0';
	while (kvh_l2_help_next(&at, &help)) {
		char option[NAME_MAX_LEN + 1];
		uint32_t distance;

		(void)snprintf(option, sizeof(option), "%.*s", (int)help.len, help.name);
		distance = kvh_edit_distance(name, option);
		if (distance >= least)
			continue;
		least = distance;
		(void)snprintf(nearest, size, "%s", option);
	}
}

const struct kvh_l2_ops *kvh_l2_named(const char *name, size_t len, const char **nearest_p)
{
	char word[NAME_MAX_LEN + 1];
	struct kvh_nearest nearest = {word, NULL, 0};

	(void)snprintf(word, sizeof(word), "%.*s", len > NAME_MAX_LEN ? NAME_MAX_LEN : (int)len,
		       name);
	for (const struct kvh_l2_ops *const *p = kvh_l2_registry; *p != NULL; p++) {
		if (strlen((*p)->name) == len && memcmp((*p)->name, name, len) == 0)
			return *p;
		kvh_nearest_try(&nearest, (*p)->name);
	}
	*nearest_p = nearest.best;
	return NULL;
}

/* Behind the comma that ends the item, NULL after the last. */
static const char *item_end(const char *item)
{
	for (; *item != '\0'; item++) {
		if (*item == ',')
			return item + 1;
		if (item[0] == '\\' && item[1] == ',')
			item++;
	}
	return NULL;
}

/* *rest_p: what an option took that is itself a spec, else NULL. */
static int check_options(const struct kvh_l2_ops *ops, const char *conf, const char **rest_p,
			 char *why, size_t size)
{
	bool path = conf[strcspn(conf, "=/,")] != '=';

	*rest_p = NULL;
	for (const char *item = path ? item_end(conf) : conf; item != NULL;
	     item = item_end(item)) {
		size_t len = strcspn(item, "=,");
		char name[NAME_MAX_LEN + 1], nearest[NAME_MAX_LEN + 1];
		struct kvh_l2_help help;

		if (kvh_l2_help_find(ops, item, len, &help)) {
			if (!help.rest || item[len] != '=')
				continue;
			*rest_p = item + len + 1;
			return 0;
		}
		(void)snprintf(name, sizeof(name), "%.*s",
			       len > NAME_MAX_LEN ? NAME_MAX_LEN : (int)len, item);
		kvh_l2_help_nearest(ops, name, nearest, sizeof(nearest));
		(void)snprintf(why, size, "%s has no option \"%s\"; the nearest is \"%s\"",
			       ops->name, name, nearest);
		return -EINVAL;
	}
	return 0;
}

int kvh_l2_spec_check(const char *spec, char *why, size_t size)
{
	while (spec != NULL) {
		size_t len = strcspn(spec, ":");
		const char *nearest, *rest;
		const struct kvh_l2_ops *ops = kvh_l2_named(spec, len, &nearest);
		int err;

		if (ops == NULL) {
			(void)snprintf(why, size,
				       "there is no adapter \"%.*s\"; the nearest is \"%s\"",
				       len > NAME_MAX_LEN ? NAME_MAX_LEN : (int)len, spec,
				       nearest);
			return -EINVAL;
		}
		err = check_options(ops, spec[len] == ':' ? spec + len + 1 : spec + len, &rest,
				    why, size);
		if (err != 0)
			return err;
		spec = rest;
	}
	return 0;
}
