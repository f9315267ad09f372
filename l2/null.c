/* SPDX-License-Identifier: Apache-2.0 */
/*
 * null.c - the adapter that accepts everything and keeps nothing: what an L2
 * costs before any byte moves, and the template for a new adapter. All calls
 * on the controller's thread (rule 1), so there is no lock.
 *
 * An adapter that does work replaces null_answer: it starts the work in submit,
 * and pushes the request to `done` when the work has ended.
 */
#include "l2/conf.h"
#include "l2/req.h"

#include <assert.h>
#include <stdlib.h>
#include <unistd.h>

struct null_l2 {
	int fd;                   /* eventfd; rule 4 */
	bool sealed;              /* wants frames as those get them that keep them */
	uint32_t depth;           /* requests accepted and not reaped, at most */
	uint32_t accepted;        /* <= depth */
	struct kvh_req_fifo done; /* `accepted` of them */
};

static int null_open(const char *conf, const struct kvh_l2_env *env, void **self_p)
{
	struct null_l2 *null;
	char *path;
	uint32_t depth = 256;
	int sealed = 0;
	const struct kvh_conf_option options[] = {
		{.name = "depth",
		 .type = KVH_CONF_U32,
		 .value = &depth,
		 .min = 1,
		 .max = 65536},
		{.name = "sealed", .type = KVH_CONF_BOOL, .value = &sealed},
		{.name = NULL},
	};
	int ret = kvh_conf_parse("null", conf, &path, options);

	(void)env; /* no file is touched */
	if (ret < 0)
		return ret;
	free(path); /* only a name, so that an engine can have two */
	null = calloc(1, sizeof(*null));
	if (null == NULL)
		return -ENOMEM;
	null->depth = depth;
	null->sealed = sealed != 0;
	null->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (null->fd < 0) {
		ret = -errno;
		free(null);
		return ret;
	}
	*self_p = null;
	return 0;
}

static int null_close(void *self, uint64_t deadline_ns)
{
	struct null_l2 *null = self;

	(void)deadline_ns; /* nothing runs that could outlast it */
	close(null->fd);
	free(null);
	return 0;
}

static void null_query(const void *self, struct kvh_l2_caps *caps)
{
	const struct null_l2 *null = self;

	*caps = (struct kvh_l2_caps){
		.max_inflight = null->depth,
		.align = 1,
		.max_len = UINT64_MAX,
		.volatile_ = true,
		.clear = true,
		.discards = !null->sealed,
	};
}

static int null_answer(enum kvh_l2_op op)
{
	return op == KVH_L2_PUT || op == KVH_L2_CLEAR ? 0 : -ENOENT;
}

static int null_submit(void *self, struct kvh_l2_req *req)
{
	struct null_l2 *null = self;
	struct kvh_l2_caps caps;

	null_query(null, &caps);
	if (kvh_req_check(req, &caps) < 0)
		return -EINVAL;
	if (null->accepted == null->depth)
		return -EAGAIN;
	null->accepted++;
	req->status = null_answer(req->op);
	if (null->done.head == NULL) /* else it is raised already: a system call a burst */
		kvh_event_raise(null->fd);
	kvh_req_push(&null->done, req);
	return 0;
}

static uint32_t null_reap(void *self, struct kvh_l2_req **done, uint32_t max)
{
	struct null_l2 *null = self;
	uint32_t n;

	kvh_event_clear(null->fd); /* first: what ends from here on raises it again */
	for (n = 0; n < max && null->done.head != NULL; n++)
		done[n] = kvh_req_pop(&null->done);
	assert(n <= null->accepted);
	null->accepted -= n;
	if (null->done.head != NULL)
		kvh_event_raise(null->fd);
	return n;
}

static int null_event_fd(const void *self)
{
	return ((const struct null_l2 *)self)->fd;
}

static void null_usage(const void *self, struct kvh_l2_usage *usage)
{
	(void)self;
	*usage = (struct kvh_l2_usage){.used_bytes = 0};
}

extern const struct kvh_l2_ops kvh_l2_null;
const struct kvh_l2_ops kvh_l2_null = {
	.abi = KVH_L2_ABI,
	.name = "null",
	.help = "depth=N        requests at a time, 1..65536 (256)\n"
		"sealed=yes|no  frames come with their checksums (no)",
	.open = null_open,
	.close = null_close,
	.query = null_query,
	.submit = null_submit,
	.reap = null_reap,
	.event_fd = null_event_fd,
	.usage = null_usage,
};
