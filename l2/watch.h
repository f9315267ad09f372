/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.h - looks after an adapter's medium several times a second, also without
 * traffic (l2.h, rule 14): a thread of its own, because a look may hang with the
 * medium. What changes is logged, once.
 */
#ifndef KVH_L2_WATCH_H
#define KVH_L2_WATCH_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_watch;

struct kvh_watch_opts {
	const char *adapter, *path; /* for the log; live until close */
	uint32_t every_ms;          /* >= 1 */
	/* The thread's: 0, or a negative errno and *why_p, a static text. */
	int (*look)(void *arg, const char **why_p);
	void *arg;
};

int kvh_watch_open(const struct kvh_watch_opts *opts, struct kvh_watch **watch_p);
/* -ETIMEDOUT: a look does not come back; all stays as it is. NULL is fine. */
int kvh_watch_close(struct kvh_watch *watch, uint64_t deadline_ns);
/* Any thread: what the last look found; -ETIMEDOUT: one has been away for long. */
int kvh_watch_get(const struct kvh_watch *watch, const char **why_p);

#ifdef __cplusplus
}
#endif
#endif
