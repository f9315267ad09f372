/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - one line a failure, where it was found. Any thread. The one header
 * of host/ that cuda/ and l2/ include too.
 */
#ifndef KVH_HOST_LOG_H
#define KVH_HOST_LOG_H

#include "kvhoist.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Without a newline. Lines above 1023 bytes are cut. */
void kvh_log(enum kvh_log_level level, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* For pthread_atfork: no other thread holds the log's lock while a child is made. */
void kvh_log_lock(void);
void kvh_log_unlock(void);

#define kvh_err(...)   kvh_log(KVH_LOG_ERROR, __VA_ARGS__)
#define kvh_warn(...)  kvh_log(KVH_LOG_WARN, __VA_ARGS__)
#define kvh_info(...)  kvh_log(KVH_LOG_INFO, __VA_ARGS__)
#define kvh_debug(...) kvh_log(KVH_LOG_DEBUG, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
