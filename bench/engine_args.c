/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine_args.c - an argp child that reads options of an engine. One thread.
 *
 * Flags are read first, then the file that one of them may name, then the
 * environment: the configuration knows which overrides which.
 */
#include "bench/engine_args.h"

#include "bench/bench.h"

#include <string.h>

enum option_key {
	OPTION_CONFIG = 512, /* beside the keys of the parent */
	OPTION_SET,
	OPTION_L1,
	OPTION_L2,
	OPTION_DEVICE,
	OPTION_POLICY,
};

static const struct argp_option option_list[] = {
	{NULL, 0, NULL, 0, "Options of the engine, by the names of docs/configuration.md:", 10},
	{"config", OPTION_CONFIG, "FILE", 0,
	 "read options from a JSON file ($KVHOIST_CONFIG); the environment overrides it "
	 "(KVHOIST_L1_BYTES), flags override both",
	 10},
	{"set", OPTION_SET, "NAME=VALUE", 0, "an option, like l1.bytes=512M", 10},
	{"l1", OPTION_L1, "SIZE", 0, "l1.bytes: pinned memory, like 512M", 10},
	{"l2", OPTION_L2, "SPEC", 0,
	 "l2.adapters: one, like nvme:PATH,size=8G or fs:DIR; may be given several times", 10},
	{"device", OPTION_DEVICE, "NAME", 0,
	 "device: auto, host, cuda, cuda:N, several with commas, cuda:* (auto)", 10},
	{"policy", OPTION_POLICY, "NAME", 0, "store.policy (default)", 10},
	{NULL, 0, NULL, 0, NULL, 0},
};

void kvh_engine_args_set(struct argp_state *state, struct kvh_engine_args *args,
			 const char *flag, const char *name, const char *value)
{
	if (kvh_config_set(args->config, name, value) != 0)
		argp_error(state, "%s %s: refused, as said above", flag, value);
}

static void take_set(struct argp_state *state, struct kvh_engine_args *args, char *text)
{
	char *equals = strchr(text, '=');

	if (equals == NULL) {
		argp_error(state, "--set %s: is to be NAME=VALUE", text);
		return;
	}
	*equals = '\0';
	if (kvh_config_set(args->config, text, equals + 1) != 0)
		argp_error(state, "--set %s=%s: refused, as said above", text, equals + 1);
}

static void open_config(struct argp_state *state, struct kvh_engine_args *args)
{
	int err = kvh_config_open(&args->config);

	if (err != 0)
		argp_failure(state, KVH_BENCH_FAILED, -err, "the options of the engine");
}

/* What is wrong was logged. */
static void finish(struct argp_state *state, struct kvh_engine_args *args)
{
	/* $KVHOIST_CONFIG, unless there was a --config. */
	int err = args->has_file ? 0 : kvh_config_file(args->config, NULL);
	int rc = kvh_config_env(args->config);

	if (err != 0 || rc != 0)
		argp_error(state, "the configuration was refused");
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct kvh_engine_args *args = state->input;

	switch (key) {
	case ARGP_KEY_INIT: open_config(state, args); break;
	case OPTION_CONFIG:
		args->has_file = true;
		if (kvh_config_file(args->config, arg) != 0)
			argp_error(state, "--config %s: refused", arg);
		break;
	case OPTION_SET: take_set(state, args, arg); break;
	case OPTION_L1: kvh_engine_args_set(state, args, "--l1", "l1.bytes", arg); break;
	case OPTION_L2: kvh_engine_args_set(state, args, "--l2", "l2.adapters", arg); break;
	case OPTION_DEVICE: kvh_engine_args_set(state, args, "--device", "device", arg); break;
	case OPTION_POLICY:
		kvh_engine_args_set(state, args, "--policy", "store.policy", arg);
		break;
	case ARGP_KEY_END: finish(state, args); break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

const struct argp kvh_engine_argp = {.options = option_list, .parser = take};

const char *kvh_engine_args_value(struct kvh_engine_args *args, const char *name, bool *given)
{
	struct kvh_config_value value = {.size = sizeof(value)};

	*given = false;
	for (uint32_t i = 0; kvh_config_value_get(args->config, i, &value) == 0; i++) {
		if (strcmp(value.name, name) != 0)
			continue;
		*given = strcmp(value.origin, "default") != 0;
		return value.value;
	}
	return "";
}
