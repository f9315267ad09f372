/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.c - lines to stderr or to the sink of the user. Any thread; a lock keeps
 * the sink and its argument together, and lines whole.
 */
#include "host/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static void (*sink_fn)(void *arg, enum kvh_log_level level, const char *line);
static void *sink_arg;
static _Atomic(int) sink_level = KVH_LOG_WARN;

void kvh_log_set(void (*sink)(void *arg, enum kvh_log_level level, const char *line), void *arg,
		 enum kvh_log_level up_to)
{
	pthread_mutex_lock(&sink_lock);
	sink_fn = sink;
	sink_arg = arg;
	atomic_store_explicit(&sink_level, (int)up_to, memory_order_relaxed);
	pthread_mutex_unlock(&sink_lock);
}

static const char *level_name(enum kvh_log_level level)
{
	switch (level) {
	case KVH_LOG_ERROR: return "error";
	case KVH_LOG_WARN: return "warning";
	case KVH_LOG_INFO: return "info";
	case KVH_LOG_DEBUG: return "debug";
	}
	return "?";
}

void kvh_log(enum kvh_log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	if ((int)level > atomic_load_explicit(&sink_level, memory_order_relaxed))
		return;
	va_start(ap, fmt);
	(void)vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&sink_lock);
	if (sink_fn != NULL)
		sink_fn(sink_arg, level, line);
	else
		(void)fprintf(stderr, "kvhoist: %s: %s\n", level_name(level), line);
	pthread_mutex_unlock(&sink_lock);
}

void kvh_log_lock(void)
{
	pthread_mutex_lock(&sink_lock);
}

void kvh_log_unlock(void)
{
	pthread_mutex_unlock(&sink_lock);
}
