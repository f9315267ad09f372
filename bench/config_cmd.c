/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_cmd.c - `kvhoist-bench config`: the options in force and where each was
 * said, or what is wrong with them. One thread.
 */
#include "bench/bench.h"
#include "bench/engine_args.h"

#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct options {
	struct kvh_engine_args engine;
	bool json, all;
};

enum option_key { OPTION_JSON = 256, OPTION_ALL };

static const struct argp_option option_list[] = {
	{"json", OPTION_JSON, NULL, 0, "print JSON instead of a table", 0},
	{"all", OPTION_ALL, NULL, 0, "print defaults, what is allowed and what it is for, too",
	 0},
	{NULL, 0, NULL, 0, NULL, 0},
};

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT: state->child_inputs[0] = &o->engine; break;
	case OPTION_JSON: o->json = true; break;
	case OPTION_ALL: o->all = true; break;
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
	.doc = "Prints the options of an engine that are in force, and where each was "
	       "said.\v"
	       "The exit status is 0 if an engine takes them, 2 if one is wrong; an engine is "
	       "not opened, so that what only an adapter or a device can say is not known.",
	.children = children,
};

static void print_one(const struct kvh_config_value *value, bool all)
{
	printf("%-22s %-20s %s%s\n", value->name, value->value[0] != '\0' ? value->value : "-",
	       value->origin, value->live != 0 ? ", live" : "");
	if (all)
		printf("    %s\n    allowed: %s; default: %s\n", value->help, value->allowed,
		       value->fallback[0] != '\0' ? value->fallback : "none");
}

static void print_table(struct kvh_config *config, bool all)
{
	struct kvh_config_value value = {.size = sizeof(value)};

	for (uint32_t i = 0; kvh_config_value_get(config, i, &value) == 0; i++)
		print_one(&value, all);
}

/* A path may be no UTF-8. */
static void put(json_t *object, const char *name, const char *text)
{
	json_t *string = json_string(text);

	(void)json_object_set_new(object, name, string != NULL ? string : json_null());
}

static int print_json(struct kvh_config *config)
{
	struct kvh_config_value value = {.size = sizeof(value)};
	json_t *list = json_array();
	int err;

	for (uint32_t i = 0; kvh_config_value_get(config, i, &value) == 0; i++) {
		json_t *one = json_object();

		put(one, "name", value.name);
		put(one, "value", value.value);
		put(one, "origin", value.origin);
		put(one, "default", value.fallback);
		put(one, "allowed", value.allowed);
		put(one, "help", value.help);
		(void)json_object_set_new(one, "live", json_boolean(value.live != 0));
		(void)json_array_append_new(list, one);
	}
	err = json_dumpf(list, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(list);
	return err;
}

int kvh_bench_config(int argc, char **argv)
{
	struct options o = {.json = false};
	struct kvh_engine_opts ignored;
	int err, status = KVH_BENCH_OK;

	(void)argp_parse(&parser, argc, argv, 0, NULL, &o);
	err = kvh_config_opts(o.engine.config, &ignored);
	if (err != 0)
		status = KVH_BENCH_USAGE;
	if (o.json)
		status = print_json(o.engine.config) == 0 ? status : KVH_BENCH_FAILED;
	else
		print_table(o.engine.config, o.all);
	kvh_config_close(o.engine.config);
	return status;
}
