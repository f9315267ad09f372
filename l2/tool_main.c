/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tool_main.c - kvhoist-l2, for those who run the nvme adapter: looks at its files,
 * verifies, lists and discards what is on them. Its subcommands and their options.
 */
#include "l2/tool.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 64u

enum option_key {
	OPTION_JSON = 256,
	OPTION_THREADS,
	OPTION_SPACE,
	OPTION_KEY,
	OPTION_OUTPUT,
	OPTION_DAMAGED,
	OPTION_YES,
};

/* At the end of every list. */
/* clang-format off */
#define OPTION_COMMON \
	{"json", OPTION_JSON, NULL, 0, "print JSON", 0}, \
	{"threads", OPTION_THREADS, "N", 0, \
	 "that read each file, 1..64 (16 for frames, 32 for headers)", 0}, \
	{"quiet", 'q', NULL, 0, "no progress, no remarks", 0}, \
	{NULL, 0, NULL, 0, NULL, 0}
/* clang-format on */

static const struct argp_option common_options[] = {OPTION_COMMON};

static const struct argp_option dump_options[] = {
	{"space", OPTION_SPACE, "DIGEST", 0, "only frames of this space: its digest, or its id",
	 0},
	{"key", OPTION_KEY, "HASH[-RANK-GROUP]", 0,
	 "write the payload of this frame, after it was verified", 0},
	{"output", OPTION_OUTPUT, "FILE", 0, "to a new file, instead of stdout", 0},
	OPTION_COMMON,
};

static const struct argp_option discard_options[] = {
	{"space", OPTION_SPACE, "DIGEST", 0, "only frames of this space: its digest, or its id",
	 0},
	{"damaged", OPTION_DAMAGED, NULL, 0, "only what verify finds damaged", 0},
	{"yes", OPTION_YES, NULL, 0, "do not ask", 0},
	OPTION_COMMON,
};

#define EXIT_DOC                                                                             \
	"\vSeveral PATHs are the stripes of one set. Exit status: 0 sound, or done; 1 "      \
	"damage was found; 2 the arguments are wrong, it is nothing of the nvme adapter or " \
	"of another version, or it cannot be done; 3 it is in use."
#define BESIDE_DOC                                                                       \
	" Reads only, and may run beside a process that has the files open: what looks " \
	"damaged then is read again before it is called so."

static const struct command {
	const char *name, *title, *what, *doc;
	const struct argp_option *options;
	int (*run)(const struct kvh_tool_opts *opts);
} commands[] = {
	{"inspect", "kvhoist-l2 inspect", "what is on the files, by space and frame size",
	 "Prints what is on files or devices of the nvme adapter." BESIDE_DOC EXIT_DOC,
	 common_options, kvh_tool_inspect},
	{"verify", "kvhoist-l2 verify", "read every frame, and name those that are damaged",
	 "Reads every frame and compares its checksums." BESIDE_DOC EXIT_DOC, common_options,
	 kvh_tool_verify},
	{"dump", "kvhoist-l2 dump", "list the frames, or write the payload of one",
	 "Lists frames, a line each, or writes the payload of one." BESIDE_DOC EXIT_DOC,
	 dump_options, kvh_tool_dump},
	{"discard", "kvhoist-l2 discard", "make them hold nothing, or nothing of a space",
	 "Discards what is on files or devices of the nvme adapter: all of it, a space's "
	 "frames, or what is damaged. Needs all stripes, in use by nobody. The set stays as "
	 "it was made, with its size." EXIT_DOC,
	 discard_options, kvh_tool_discard},
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void take_threads(struct argp_state *state, struct kvh_tool_opts *o, const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '\0' || n == 0 || n > THREADS_MAX)
		argp_error(state, "--threads %s: must be a whole number, 1..%u", text,
			   THREADS_MAX);
	o->threads = (uint32_t)n;
}

static void take_path(struct argp_state *state, struct kvh_tool_opts *o, char *path)
{
	if (o->n_paths == KVH_NVME_STRIPES)
		argp_error(state, "a set has at most %u stripes", KVH_NVME_STRIPES);
	o->paths[o->n_paths++] = path;
}

static void check(struct argp_state *state, const struct kvh_tool_opts *o)
{
	if (o->n_paths == 0)
		argp_error(state, "which PATH? A file or block device of the nvme adapter");
	if (o->output != NULL && !o->key.given)
		argp_error(state, "--output is for the payload of a frame: say which with "
				  "--key");
	if (o->damaged && o->space.given)
		argp_error(state, "--damaged and --space cannot be given together");
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct kvh_tool_opts *o = state->input;

	switch (key) {
	case OPTION_JSON: o->json = true; break;
	case OPTION_THREADS: take_threads(state, o, arg); break;
	case OPTION_SPACE:
		if (!kvh_tool_space_parse(arg, &o->space))
			argp_error(state,
				   "--space %s: must be 64 hexadecimal digits, a digest, or "
				   "16, an id",
				   arg);
		break;
	case OPTION_KEY:
		if (!kvh_tool_key_parse(arg, &o->key))
			argp_error(state,
				   "--key %s: must be a hash, 32 hexadecimal digits, or "
				   "HASH-RANK-GROUP with 8 more each",
				   arg);
		break;
	case OPTION_OUTPUT: o->output = arg; break;
	case OPTION_DAMAGED: o->damaged = true; break;
	case OPTION_YES: o->yes = true; break;
	case 'q': o->quiet = true; break;
	case ARGP_KEY_ARG: take_path(state, o, arg); break;
	case ARGP_KEY_END: check(state, o); break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static int run(const struct command *command, int argc, char **argv)
{
	const struct argp parser = {
		.options = command->options,
		.parser = take,
		.args_doc = "PATH...",
		.doc = command->doc,
	};
	char *paths[KVH_NVME_STRIPES];
	struct kvh_tool_opts opts = {.paths = paths};
	char title[32];

	(void)snprintf(title, sizeof(title), "%s", command->title);
	argv[0] = title;
	(void)argp_parse(&parser, argc, argv, 0, NULL, &opts);
	return command->run(&opts);
}

static int print_help(void)
{
	puts("Usage: kvhoist-l2 COMMAND [OPTION...] PATH...\n");
	for (size_t i = 0; i < N_COMMANDS; i++)
		printf("  %-10s %s\n", commands[i].name, commands[i].what);
	puts("  help       this text\n"
	     "  --version  print the version\n\n"
	     "PATHs are the files or block devices of an nvme adapter, one for each stripe.\n"
	     "COMMAND --help lists its options. Exit status: 0 sound, or done; 1 damage was\n"
	     "found; 2 the arguments are wrong, it is nothing of the nvme adapter or of\n"
	     "another version, or it cannot be done; 3 it is in use.");
	return KVH_TOOL_OK;
}

/* A report that nobody got is no success. */
static int finish(int status)
{
	if (fflush(stdout) == 0 && ferror(stdout) == 0)
		return status;
	kvh_tool_complain("the output could not be written");
	return status == KVH_TOOL_OK ? KVH_TOOL_REFUSED : status;
}

int main(int argc, char **argv)
{
	argp_err_exit_status = KVH_TOOL_REFUSED;
	kvh_log_set(kvh_tool_log, NULL, KVH_LOG_WARN);
	if (argc < 2) {
		kvh_tool_complain("which command? `kvhoist-l2 help` lists them");
		return KVH_TOOL_REFUSED;
	}
	for (size_t i = 0; i < N_COMMANDS; i++) {
		if (strcmp(argv[1], commands[i].name) == 0)
			return finish(run(&commands[i], argc - 1, argv + 1));
	}
	if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0)
		return finish(print_help());
	if (strcmp(argv[1], "--version") == 0) {
		printf("kvhoist-l2 %s\n", kvh_version());
		return finish(KVH_TOOL_OK);
	}
	kvh_tool_complain("there is no command '%s'; `kvhoist-l2 help` lists them", argv[1]);
	return KVH_TOOL_REFUSED;
}
