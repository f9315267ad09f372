/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.c - the values of all options and where each was said: a file, the
 * environment, flags. One thread at a time.
 *
 * A value of a later origin stays, whatever is read after it. Every error is
 * logged with its place; what follows is still read, so that one run names them
 * all, and the configuration is refused when it is to be used.
 */
#include "host/config.h"

#include "host/engine.h"
#include "host/log.h"
#include "l2/spec.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPTIONS_MAX 64u /* rows of the table; a test counts */
#define ENV_PREFIX  "KVHOIST_"
#define ENV_FILE    "KVHOIST_CONFIG"

/* Kept until the configuration closes: options point to it. */
struct kept {
	struct kept *next;
	char text[];
};

struct kvh_config {
	struct kvh_engine_opts opts;          /* as given: zero is not yet filled in */
	struct kvh_place places[OPTIONS_MAX]; /* of the table's rows */
	const char *specs[KVH_L2_MAX];        /* what opts.l2 points to */
	struct kvh_place spec_places[KVH_L2_MAX];
	char *path; /* the file, or NULL */
	bool failed;
	struct kept *kept;
	char name[96], value[256], origin[4224], fallback[64], allowed[256]; /* value_get's */
};

/* ---- places ----------------------------------------------------------- */

/* KVHOIST_L1_BYTES */
static void env_name(const char *name, char *text, size_t size)
{
	(void)snprintf(text, size, ENV_PREFIX "%s", name);
	for (char *p = text; *p != '\0'; p++)
		*p = *p == '.' ? '_' : (char)toupper((unsigned char)*p);
}

static void place_text(const struct kvh_config *config, struct kvh_place place,
		       const char *name, char *text, size_t size)
{
	switch (place.origin) {
	case KVH_FROM_DEFAULT: (void)snprintf(text, size, "default"); return;
	case KVH_FROM_FILE:
		(void)snprintf(text, size, "%s:%u", config->path, place.line);
		return;
	case KVH_FROM_ENV: env_name(name, text, size); return;
	case KVH_FROM_FLAG: (void)snprintf(text, size, "flag"); return;
	}
}

/* A name from outside, for a line of the log: cut, and without control bytes. */
static void printable(const char *from, char *to, size_t size)
{
	(void)snprintf(to, size, "%s", from);
	for (; *to != '\0'; to++)
		if (iscntrl((unsigned char)*to))
			*to = '?';
}

int kvh_config_refuse(struct kvh_config *config, struct kvh_place place, const char *name,
		      const char *fmt, ...)
{
	char where[512], shown[128], what[512];
	va_list ap;

	config->failed = true;
	place_text(config, place, name, where, sizeof(where));
	printable(name, shown, sizeof(shown));
	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	kvh_err("%s: %s%s%s", where, place.origin == KVH_FROM_ENV ? "" : shown,
		place.origin == KVH_FROM_ENV ? "" : " ", what);
	return -EINVAL;
}

int kvh_config_unknown(struct kvh_config *config, struct kvh_place place, const char *name)
{
	return kvh_config_refuse(config, place, name, "is no option; the nearest is %s",
				 kvh_option_nearest(name));
}

/* ---- values ----------------------------------------------------------- */

static const char *keep(struct kvh_config *config, const char *text)
{
	size_t size = strlen(text) + 1;
	struct kept *kept = malloc(sizeof(*kept) + size);

	if (kept == NULL)
		return NULL;
	memcpy(kept->text, text, size);
	kept->next = config->kept;
	config->kept = kept;
	return kept->text;
}

static struct kvh_place *place_of(struct kvh_config *config, const struct kvh_option *option)
{
	size_t row = (size_t)(option - kvh_options);

	assert(row < OPTIONS_MAX);
	return &config->places[row];
}

static int again(struct kvh_config *config, struct kvh_place place, const char *name,
		 struct kvh_place before)
{
	if (place.origin != KVH_FROM_FILE || before.origin != KVH_FROM_FILE)
		return 0;
	return kvh_config_refuse(config, place, name, "is given twice, first on line %u",
				 before.line);
}

int kvh_config_specs_begin(struct kvh_config *config, struct kvh_place place)
{
	struct kvh_place *now = place_of(config, kvh_option_find("l2.adapters"));
	int err = again(config, place, "l2.adapters", *now);

	if (err == 0 && place.origin >= now->origin) {
		*now = place;
		config->opts.l2 = config->specs;
		config->opts.n_l2 = 0;
	}
	return err;
}

int kvh_config_spec(struct kvh_config *config, struct kvh_place place, const char *spec)
{
	const struct kvh_place *now = place_of(config, kvh_option_find("l2.adapters"));
	const char *kept;
	char why[256];

	if (kvh_l2_spec_check(spec, why, sizeof(why)) != 0)
		return kvh_config_refuse(config, place, "l2.adapters", "%s", why);
	if (place.origin < now->origin)
		return 0;
	if (config->opts.n_l2 == KVH_L2_MAX)
		return kvh_config_refuse(config, place, "l2.adapters",
					 "has more than %u adapters", KVH_L2_MAX);
	kept = keep(config, spec);
	if (kept == NULL)
		return -ENOMEM;
	config->spec_places[config->opts.n_l2] = place;
	config->specs[config->opts.n_l2++] = kept;
	return 0;
}

/* One of the environment or of a flag: an array, or one adapter. Flags add up. */
static int take_specs(struct kvh_config *config, struct kvh_place place, const char *text)
{
	int err = 0;

	if (text[0] == '[')
		return kvh_config_specs_json(config, place, text);
	if (text[0] == '\0' ||
	    place_of(config, kvh_option_find("l2.adapters"))->origin != KVH_FROM_FLAG)
		err = kvh_config_specs_begin(config, place);
	if (err == 0 && text[0] != '\0')
		err = kvh_config_spec(config, place, text);
	return err;
}

int kvh_config_take(struct kvh_config *config, struct kvh_place place, const char *name,
		    const char *text)
{
	const struct kvh_option *option = kvh_option_find(name);
	struct kvh_option_value value = {0};
	struct kvh_place *now;
	struct kvh_why why;

	if (option == NULL)
		return kvh_config_unknown(config, place, name);
	if (option->type == KVH_OPTION_SPECS)
		return take_specs(config, place, text);
	now = place_of(config, option);
	if (again(config, place, name, *now) != 0)
		return -EINVAL;
	if (kvh_option_parse(option, text, &value, &why) != 0)
		return kvh_config_refuse(config, place, name, "%s", why.text);
	if (place.origin < now->origin)
		return 0;
	if (option->type == KVH_OPTION_TEXT) {
		value.text = keep(config, text);
		if (value.text == NULL)
			return -ENOMEM;
	}
	kvh_option_set(option, &config->opts, &value);
	*now = place;
	return 0;
}

/* ---- the API ---------------------------------------------------------- */

int kvh_config_open(struct kvh_config **config_p)
{
	struct kvh_config *config = calloc(1, sizeof(*config));

	if (config == NULL)
		return -ENOMEM;
	kvh_engine_opts_init(&config->opts, sizeof(config->opts));
	for (const struct kvh_option *o = kvh_options; o->name != NULL; o++) {
		struct kvh_option_value value = {o->fallback, NULL};

		if (o->fallback_text == NULL)
			kvh_option_set(o, &config->opts, &value);
	}
	*config_p = config;
	return 0;
}

void kvh_config_close(struct kvh_config *config)
{
	struct kept *next;

	if (config == NULL)
		return;
	for (struct kept *kept = config->kept; kept != NULL; kept = next) {
		next = kept->next;
		free(kept);
	}
	free(config->path);
	free(config);
}

int kvh_config_file(struct kvh_config *config, const char *path)
{
	int err;

	if (path == NULL)
		path = getenv(ENV_FILE);
	if (path == NULL)
		return 0;
	if (config->path != NULL) {
		kvh_err("config: '%s' was read, '%s' would be a second file", config->path,
			path);
		config->failed = true;
		return -EEXIST;
	}
	config->path = strdup(path);
	err = config->path != NULL ? kvh_config_read(config, path) : -ENOMEM;
	config->failed |= err != 0;
	return err;
}

int kvh_config_set(struct kvh_config *config, const char *name, const char *value)
{
	int err = kvh_config_take(config, (struct kvh_place){KVH_FROM_FLAG, 0}, name, value);

	config->failed |= err != 0;
	return err;
}

static int unknown_variable(struct kvh_config *config, const char *name)
{
	const struct kvh_option *nearest;
	char lower[128], env[128];

	(void)snprintf(lower, sizeof(lower), "%s", name + strlen(ENV_PREFIX));
	for (char *p = lower; *p != '\0'; p++)
		*p = *p == '_' ? '.' : (char)tolower((unsigned char)*p);
	nearest = kvh_option_find(kvh_option_nearest(lower));
	env_name(nearest->name, env, sizeof(env));
	printable(name, lower, sizeof(lower));
	kvh_err("%s: no option is set by this variable; the nearest is %s", lower, env);
	config->failed = true;
	return -EINVAL;
}

/* "NAME=value" of the environment. */
static int take_variable(struct kvh_config *config, const char *variable)
{
	const char *equals = strchr(variable, '=');
	char name[128], env[128];

	if (equals == NULL || strncmp(variable, ENV_PREFIX, strlen(ENV_PREFIX)) != 0)
		return 0;
	(void)snprintf(name, sizeof(name), "%.*s",
		       equals - variable < 127 ? (int)(equals - variable) : 127, variable);
	if (strcmp(name, ENV_FILE) == 0)
		return 0;
	for (const struct kvh_option *o = kvh_options; o->name != NULL; o++) {
		env_name(o->name, env, sizeof(env));
		if (strcmp(env, name) == 0)
			return kvh_config_take(config, (struct kvh_place){KVH_FROM_ENV, 0},
					       o->name, equals + 1);
	}
	return unknown_variable(config, name);
}

int kvh_config_env(struct kvh_config *config)
{
	int err = 0;

	for (char **variable = environ; variable != NULL && *variable != NULL; variable++) {
		int rc = take_variable(config, *variable);

		err = err != 0 ? err : rc;
	}
	config->failed |= err != 0;
	return err;
}

/* Fills in what is still to be, into a copy: it depends on what else is given. */
static int effective(const struct kvh_config *config, struct kvh_engine_opts *opts,
		     struct kvh_why *why)
{
	*opts = config->opts;
	return kvh_options_check(opts, true, why);
}

int kvh_config_opts(struct kvh_config *config, struct kvh_engine_opts *opts)
{
	struct kvh_engine_opts o;
	struct kvh_why why;
	int err = 0;

	if (config->failed) {
		kvh_err("config: not used, since parts of it were refused");
		return -EINVAL;
	}
	err = effective(config, &o, &why);
	if (err != 0) {
		kvh_err("config: %s", why.text);
		return err;
	}
	*opts = o;
	return 0;
}

/* ---- one by one ------------------------------------------------------- */

static void fill_value(struct kvh_config *config, const struct kvh_option *o,
		       struct kvh_place place, struct kvh_config_value *value)
{
	place_text(config, place, o->name, config->origin, sizeof(config->origin));
	kvh_option_default(o, config->fallback, sizeof(config->fallback));
	kvh_option_allowed(o, config->allowed, sizeof(config->allowed));
	value->name = config->name;
	value->origin = config->origin;
	value->fallback = config->fallback;
	value->allowed = config->allowed;
	value->help = o->help;
	value->live = o->apply != NULL;
	value->number = o->type != KVH_OPTION_TEXT && o->type != KVH_OPTION_CHOICE &&
			o->type != KVH_OPTION_SPECS;
}

static void option_value(struct kvh_config *config, const struct kvh_option *o,
			 struct kvh_config_value *value)
{
	struct kvh_engine_opts opts;
	struct kvh_why ignored;

	(void)effective(config, &opts, &ignored); /* as far as it goes */
	(void)snprintf(config->name, sizeof(config->name), "%s", o->name);
	config->value[0] = '\0';
	if (o->type != KVH_OPTION_SPECS &&
	    (o->type != KVH_OPTION_BYTES || opts.l1_bytes != 0 || o->fallback_text == NULL))
		kvh_option_format(o, &opts, config->value, sizeof(config->value));
	value->value = config->value;
	fill_value(config, o, *place_of(config, o), value);
}

static void spec_value(struct kvh_config *config, const struct kvh_option *o, uint32_t i,
		       struct kvh_config_value *value)
{
	(void)snprintf(config->name, sizeof(config->name), "%s[%u]", o->name, i);
	value->value = config->specs[i];
	fill_value(config, o, config->spec_places[i], value);
}

int kvh_config_value_get(struct kvh_config *config, uint32_t index,
			 struct kvh_config_value *value)
{
	int err = kvh_check_size("config value", value->size, sizeof(*value));

	if (err != 0)
		return err;
	for (const struct kvh_option *o = kvh_options; o->name != NULL; o++) {
		bool list = o->type == KVH_OPTION_SPECS && config->opts.n_l2 > 0;
		uint32_t n = list ? config->opts.n_l2 : 1;

		if (index < n) {
			if (list)
				spec_value(config, o, index, value);
			else
				option_value(config, o, value);
			return 0;
		}
		index -= n;
	}
	return -ENOENT;
}
