/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.c - complaints and signals. The handler stores one word; whatever has to
 * be cleaned up is cleaned up by the code that looks at it. The programs' only
 * thread, but for the handler.
 */
#include "bench/bench.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

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
