/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.c - complaints, numbers and signals. The handler stores one word; whatever has to
 * be cleaned up is cleaned up by the code that looks at it. The programs' only
 * thread, but for the handler.
 */
#include "bench/bench.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

volatile sig_atomic_t kvh_bench_signal;

void kvh_bench_complain(const char *fmt, ...)
{
	va_list ap;

	(void)fputs("kvhoist-bench: ", stderr);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fputc('\n', stderr);
}

uint64_t kvh_bench_number(struct argp_state *state, const char *option, const char *text,
			  uint64_t max)
{
	char *end;
	unsigned long long n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || n == 0 || n > max)
		argp_error(state, "--%s %s: must be a whole number, 1..%" PRIu64, option, text,
			   max);
	return n;
}

static void note_signal(int number)
{
	kvh_bench_signal = number;
}

void kvh_bench_catch(void)
{
	static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_flags = (int)SA_RESETHAND};

	/* No SA_RESTART: a wait for events ends with -EINTR. */
	action.sa_handler = note_signal;
	(void)sigemptyset(&action.sa_mask);
	for (size_t i = 0; i < sizeof(caught) / sizeof(caught[0]); i++)
		(void)sigaction(caught[i], &action, NULL);
	/* Each line that is left to print raises one more. */
	action.sa_flags = 0;
	(void)sigaction(SIGPIPE, &action, NULL);
}
