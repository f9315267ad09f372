/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - kvhoist-bench: a table of subcommands. Each has its options in a file
 * of its own and prints a table, or JSON.
 */
#include "bench/bench.h"
#include "kvhoist.h"

#include <argp.h>
#include <stdio.h>
#include <string.h>

struct command {
	const char *name;
	const char *title; /* argv[0] of the command: what its messages begin with */
	int (*run)(int argc, char **argv);
	const char *what;
};

static int print_help(int argc, char **argv);
static int print_version(int argc, char **argv);

static const struct command commands[] = {
	{"config", "kvhoist-bench config", kvh_bench_config,
	 "print the options of an engine, and where each was said"},
	{"status", "kvhoist-bench status", kvh_bench_status,
	 "what it costs to count, and to ask for all that was counted"},
	{"replay", "kvhoist-bench replay", kvh_bench_replay,
	 "play a trace of requests, and check every byte that is loaded"},
	{"demo", "kvhoist-bench demo", kvh_bench_demo,
	 "store, evict, restart, reload and verify, in at most a minute"},
	{"pack", "kvhoist-bench pack", kvh_bench_pack,
	 "how fast pages move to pinned memory and back, as a share of the link"},
	{"l2", "kvhoist-bench l2", kvh_bench_l2,
	 "store, load and probe through an adapter, beside fio on the same file"},
	{"control", "kvhoist-bench control", kvh_bench_control,
	 "store cycles a second through the store controller"},
	{"l1", "kvhoist-bench l1", kvh_bench_l1,
	 "what the index and the states of L1 cost: look-ups and cycles a second"},
	{"pin", "kvhoist-bench pin", kvh_bench_pin,
	 "how long pinning memory takes, until the first frame and until all of it"},
	{"help", "kvhoist-bench help", print_help, "this text"},
	{"--help", NULL, print_help, NULL},
	{"--version", NULL, print_version, NULL},
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static int print_help(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	puts("Usage: kvhoist-bench COMMAND [OPTION...]\n");
	for (size_t i = 0; i < N_COMMANDS; i++) {
		if (commands[i].what != NULL)
			printf("  %-10s %s\n", commands[i].name, commands[i].what);
	}
	puts("  --version  print the version\n\n"
	     "COMMAND --help lists its options. Exit status: 0 all is well, 1 bytes\n"
	     "differed or the run failed, 2 the arguments or the input are wrong.");
	return KVH_BENCH_OK;
}

static int print_version(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	printf("kvhoist-bench %s\n", kvh_version());
	return KVH_BENCH_OK;
}

/* A report that nobody got is no success. */
static int finish(int status)
{
	if (fflush(stdout) == 0 && ferror(stdout) == 0)
		return status;
	kvh_bench_complain("the output could not be written");
	return status == KVH_BENCH_OK ? KVH_BENCH_FAILED : status;
}

int main(int argc, char **argv)
{
	char title[64];

	argp_err_exit_status = KVH_BENCH_USAGE;
	if (argc < 2) {
		kvh_bench_complain("which command? `kvhoist-bench help` lists them");
		return KVH_BENCH_USAGE;
	}
	for (size_t i = 0; i < N_COMMANDS; i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		if (commands[i].title != NULL) {
			(void)snprintf(title, sizeof(title), "%s", commands[i].title);
			argv[1] = title;
		}
		return finish(commands[i].run(argc - 1, argv + 1));
	}
	kvh_bench_complain("there is no command '%s'; `kvhoist-bench help` lists them",
			   argv[1]);
	return KVH_BENCH_USAGE;
}
