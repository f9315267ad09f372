/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.h - what the subcommands of kvhoist-bench share: how they end, how they
 * complain, and that a signal ends them in good order. One thread.
 */
#ifndef KVH_BENCH_BENCH_H
#define KVH_BENCH_BENCH_H

#include <signal.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_bench_exit {
	KVH_BENCH_OK = 0,
	KVH_BENCH_FAILED = 1,      /* bytes differed, or the run could not be finished */
	KVH_BENCH_USAGE = 2,       /* arguments or input */
	KVH_BENCH_SIGNALLED = 128, /* plus the signal */
};

/* A subcommand: argv[0] is "kvhoist-bench NAME". Returns the exit status. */
int kvh_bench_config(int argc, char **argv);
int kvh_bench_status(int argc, char **argv);
int kvh_bench_replay(int argc, char **argv);
int kvh_bench_demo(int argc, char **argv);
int kvh_bench_control(int argc, char **argv);
int kvh_bench_pack(int argc, char **argv);
int kvh_bench_l2(int argc, char **argv);
int kvh_bench_l1(int argc, char **argv);
int kvh_bench_pin(int argc, char **argv);

/* "kvhoist-bench: ..." and a newline, to stderr. */
void kvh_bench_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* An option's value, 1..max, or argp_error, which ends the program. */
struct argp_state;
uint64_t kvh_bench_number(struct argp_state *state, const char *option, const char *text,
			  uint64_t max);

/* The signal that asked for an early end, or 0: what runs for long looks at it.
 * SIGINT, SIGTERM, SIGHUP and SIGPIPE after kvh_bench_catch set it; the second of
 * one of the first three kills as ever. */
extern volatile sig_atomic_t kvh_bench_signal;
void kvh_bench_catch(void);

#ifdef __cplusplus
}
#endif
#endif
