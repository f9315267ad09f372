/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine_args.h - the options of an engine as every subcommand takes them: a file,
 * the environment, --set NAME=VALUE and the short forms of a few. One thread.
 */
#ifndef KVH_BENCH_ENGINE_ARGS_H
#define KVH_BENCH_ENGINE_ARGS_H

#include "kvhoist.h"

#include <argp.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The input of kvh_engine_argp, zeroed before: a subcommand's parser has that as
 * a child, and in ARGP_KEY_INIT sets state->child_inputs[0] to it. */
struct kvh_engine_args {
	struct kvh_config *config; /* kvh_config_close */
	bool has_file;
};
extern const struct argp kvh_engine_argp;

/* Takes NAME=VALUE. What is refused ends the program as argp_error does. */
void kvh_engine_args_set(struct argp_state *state, struct kvh_engine_args *args,
			 const char *flag, const char *name, const char *value);
/* The value in force, "" if there is none, until the next call; *given: it is no
 * default. */
const char *kvh_engine_args_value(struct kvh_engine_args *args, const char *name, bool *given);

#ifdef __cplusplus
}
#endif
#endif
