/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme.c - the nvme adapter: frames in slots of a preallocated file or block
 * device. This file opens and closes, and has the table that the controller
 * calls; nvme_task.c has the requests. On the controller thread, but open and
 * close (a helper's) and peek (any). docs/nvme.md has the layout on disk and what
 * is promised. Limits: one file; evicts in order of use, whatever the space.
 */
#include "l2/nvme.h"

#include "host/clock.h"
#include "host/log.h"
#include "l2/conf.h"

#include <assert.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS 100

static void nvme_query(const void *self, struct kvh_l2_caps *caps)
{
	const struct kvh_nvme *nvme = self;

	*caps = (struct kvh_l2_caps){
		.max_inflight = nvme->conf.depth,
		.align = KVH_NVME_PAGE,
		.max_len = nvme->file.super->segment_bytes,
		.local_index = true,
		.volatile_ = false,
	};
}

static int nvme_submit(void *self, struct kvh_l2_req *req)
{
	struct kvh_nvme *nvme = self;
	struct kvh_l2_caps caps;

	nvme_query(nvme, &caps);
	if (kvh_req_check(req, &caps) < 0)
		return -EINVAL;
	if (nvme->accepted == nvme->conf.depth)
		return -EAGAIN;
	nvme->accepted++;
	kvh_nvme_task_begin(nvme, req);
	return 0;
}

static void nvme_cancel(void *self, struct kvh_l2_req *req)
{
	kvh_nvme_task_cancel(self, req);
}

static uint32_t nvme_reap(void *self, struct kvh_l2_req **done, uint32_t max)
{
	struct kvh_nvme *nvme = self;
	uint32_t n;

	kvh_event_clear(nvme->efd);
	kvh_nvme_task_advance(nvme);
	for (n = 0; n < max && nvme->done.head != NULL; n++)
		done[n] = kvh_req_pop(&nvme->done);
	assert(n <= nvme->accepted);
	nvme->accepted -= n;
	if (nvme->done.head != NULL)
		kvh_event_raise(nvme->efd);
	return n;
}

static int nvme_attach(void *self, void *base, uint64_t len)
{
	struct kvh_nvme *nvme = self;

	if (nvme->engine_ops->attach == NULL)
		return -EOPNOTSUPP;
	return nvme->engine_ops->attach(nvme->engine, base, len);
}

static int nvme_event_fd(const void *self)
{
	return ((const struct kvh_nvme *)self)->efd;
}

static void nvme_usage(const void *self, struct kvh_l2_usage *usage)
{
	const struct kvh_nvme *nvme = self;

	*usage = (struct kvh_l2_usage){
		.used_bytes = nvme->index.used_bytes,
		.capacity_bytes = nvme->file.super->bytes - nvme->file.super->data_offset,
		.objects = nvme->index.objects,
		.evicted = nvme->index.evicted,
	};
}

static int nvme_list(void *self,
		     bool (*visit)(void *arg, const struct kvh_key *key, uint64_t len),
		     void *arg)
{
	const struct kvh_nvme_index *index = &((struct kvh_nvme *)self)->index;

	for (uint32_t i = 0; i < index->n_classes; i++) {
		uint32_t id = index->classes[i].lived.oldest;

		for (; id != KVH_NVME_NONE; id = kvh_nvme_slot_at(index, id)->newer) {
			if (!visit(arg, &kvh_nvme_slot_at(index, id)->key,
				   index->classes[i].slot_bytes))
				return 0;
		}
	}
	return 0;
}

static void nvme_peek(const void *self, const struct kvh_key *keys, uint32_t n, uint8_t *found)
{
	struct kvh_nvme *nvme = (struct kvh_nvme *)self; /* only the lock changes */

	kvh_nvme_index_peek(&nvme->index, keys, n, found);
}

/* ---- open and close ---- */

static int conf_parse(struct kvh_nvme_conf *conf, const char *text)
{
	static const char *const engines[] = {"auto", "uring", "threads", NULL};
	static const char *const directs[] = {"auto", "on", "off", NULL};
	static const char *const syncs[] = {"close", "none", "write", NULL};
	const struct kvh_conf_option options[] = {
		{"size", KVH_CONF_BYTES, &conf->size, KVH_NVME_MIN_BYTES, KVH_NVME_MAX_BYTES,
		 NULL},
		{"segment", KVH_CONF_BYTES, &conf->segment, KVH_NVME_PAGE, KVH_NVME_MAX_BYTES,
		 NULL},
		{"depth", KVH_CONF_U32, &conf->depth, 1, 4096, NULL},
		{"threads", KVH_CONF_U32, &conf->threads, 1, 256, NULL},
		{"engine", KVH_CONF_CHOICE, &conf->engine, 0, 0, engines},
		{"direct", KVH_CONF_CHOICE, &conf->direct, 0, 0, directs},
		{"sync", KVH_CONF_CHOICE, &conf->sync, 0, 0, syncs},
		{"format", KVH_CONF_BOOL, &conf->format, 0, 0, NULL},
		{NULL, KVH_CONF_TEXT, NULL, 0, 0, NULL},
	};

	conf->depth = 64;
	conf->threads = 16;
	return kvh_conf_parse("nvme", text, &conf->path, options);
}

static int engine_open(struct kvh_nvme *nvme)
{
	uint32_t depth = nvme->conf.depth + KVH_NVME_GROW_IOS;
	int ret;

	if (nvme->conf.engine != KVH_NVME_ENGINE_THREADS) {
		nvme->engine_ops = &kvh_nvme_uring;
		ret = kvh_nvme_uring.open(&nvme->file, depth, 0, nvme->efd, &nvme->engine);
		if (ret == 0)
			return 0;
		if (nvme->conf.engine == KVH_NVME_ENGINE_URING) {
			kvh_err("nvme: %s: io_uring is refused: %s", nvme->conf.path,
				strerror(-ret));
			return ret;
		}
		kvh_warn("nvme: %s: io_uring is refused (%s), uses %" PRIu32 " threads",
			 nvme->conf.path, strerror(-ret), nvme->conf.threads);
	}
	nvme->engine_ops = &kvh_nvme_threads;
	ret = kvh_nvme_threads.open(&nvme->file, depth, nvme->conf.threads, nvme->efd,
				    &nvme->engine);
	if (ret < 0)
		kvh_err("nvme: %s: no threads: %s", nvme->conf.path, strerror(-ret));
	return ret;
}

/* What needs no file. */
static int memory_init(struct kvh_nvme *nvme)
{
	nvme->zeros = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_ZEROS);
	nvme->active = calloc(nvme->conf.depth, sizeof(*nvme->active));
	if (nvme->zeros == NULL || nvme->active == NULL)
		return -ENOMEM;
	memset(nvme->zeros, 0, KVH_NVME_ZEROS);
	nvme->efd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return nvme->efd < 0 ? -errno : 0;
}

static void memory_fini(struct kvh_nvme *nvme)
{
	if (nvme->efd >= 0)
		close(nvme->efd);
	free(nvme->active);
	free(nvme->zeros);
	free(nvme->conf.path);
	free(nvme);
}

static int file_open(struct kvh_nvme *nvme, const struct kvh_l2_env *env)
{
	int ret = kvh_nvme_file_open(&nvme->file, &nvme->conf, env->io, env->io_ctx);

	if (ret < 0)
		return ret;
	ret = kvh_nvme_index_init(&nvme->index, nvme->file.super);
	if (ret < 0)
		goto err_file;
	ret = engine_open(nvme);
	if (ret < 0)
		goto err_index;
	ret = kvh_nvme_scan(nvme);
	if (ret < 0)
		goto err_engine;
	return 0;

err_engine:
	nvme->engine_ops->close(nvme->engine);
err_index:
	kvh_nvme_index_fini(&nvme->index);
err_file:
	kvh_nvme_file_close(&nvme->file, false);
	return ret;
}

static int nvme_open(const char *conf, const struct kvh_l2_env *env, void **self_p)
{
	struct kvh_nvme *nvme = calloc(1, sizeof(*nvme));
	int ret;

	if (nvme == NULL)
		return -ENOMEM;
	nvme->efd = -1;
	ret = conf_parse(&nvme->conf, conf);
	if (ret == 0)
		ret = memory_init(nvme);
	if (ret == 0)
		ret = file_open(nvme, env);
	if (ret < 0) {
		memory_fini(nvme);
		return ret;
	}
	kvh_info("nvme: %s: %" PRIu64 " frames in %" PRIu64 " bytes, by %s%s", nvme->conf.path,
		 nvme->index.objects, nvme->file.super->bytes, nvme->engine_ops->name,
		 nvme->file.direct ? ", O_DIRECT" : "");
	*self_p = nvme;
	return 0;
}

static int drain(struct kvh_nvme *nvme, uint64_t deadline_ns)
{
	struct pollfd pfd = {.fd = nvme->efd, .events = POLLIN};

	for (;;) {
		uint64_t now, left;

		kvh_event_clear(nvme->efd);
		kvh_nvme_task_advance(nvme);
		if (nvme->running == 0)
			return 0;
		now = kvh_now_ns();
		if (now >= deadline_ns)
			return -ETIMEDOUT;
		left = (deadline_ns - now) / KVH_NS_PER_MS + 1;
		(void)poll(&pfd, 1, left < POLL_MS ? (int)left : POLL_MS);
	}
}

static int nvme_close(void *self, uint64_t deadline_ns)
{
	struct kvh_nvme *nvme = self;
	int ret;

	for (uint32_t i = nvme->n_active; i-- > 0;)
		kvh_nvme_task_cancel(nvme, nvme->active[i]);
	ret = drain(nvme, deadline_ns);
	if (ret < 0) {
		kvh_err("nvme: %s: %" PRIu32 " transfers still run, they and their memory are "
			"left",
			nvme->conf.path, nvme->running);
		return ret;
	}
	assert(nvme->n_active == 0 && !kvh_nvme_growing(nvme));
#ifdef KVH_DEBUG
	kvh_nvme_index_check(&nvme->index);
#endif
	nvme->engine_ops->close(nvme->engine);
	kvh_nvme_index_fini(&nvme->index);
	kvh_nvme_file_close(&nvme->file, true);
	memory_fini(nvme);
	return 0;
}

extern const struct kvh_l2_ops kvh_l2_nvme;
const struct kvh_l2_ops kvh_l2_nvme = {
	.abi = KVH_L2_ABI,
	.name = "nvme",
	.help = "PATH  file or block device\n"
		"size=BYTES  of the file, 1M..; needed to make it\n"
		"segment=BYTES  when it is made; the largest frame (an eighth, at most 1G)\n"
		"engine=auto|uring|threads  (auto: threads where io_uring is refused)\n"
		"depth=N  requests at a time, 1..4096 (64)\n"
		"threads=N  of the threads engine, 1..256 (16)\n"
		"direct=auto|on|off  past the page cache (auto: where it can be)\n"
		"sync=close|none|write  when what was written is flushed (close)\n"
		"format=yes|no  over what would be refused (no)",
	.open = nvme_open,
	.close = nvme_close,
	.query = nvme_query,
	.attach = nvme_attach,
	.submit = nvme_submit,
	.cancel = nvme_cancel,
	.reap = nvme_reap,
	.event_fd = nvme_event_fd,
	.usage = nvme_usage,
	.list = nvme_list,
	.peek = nvme_peek,
};
