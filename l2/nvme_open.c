/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_open.c - opens and closes the nvme adapter: its options, its files, an
 * engine a stripe, its threads. On a helper's thread; blocks.
 */
#include "l2/nvme.h"

#include "host/clock.h"
#include "host/log.h"
#include "l2/conf.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS    100
#define SCAN_DEPTH 256u /* transfers that an engine takes, even where depth= is less */

static const char *const policies[] = {"lru", "s3-fifo", "arc", NULL};

/* ---- options ---- */

/* "10%" or bytes. */
static int parse_floor(struct kvh_nvme_conf *conf)
{
	const char *text = conf->floor;
	size_t digits;

	if (text == NULL)
		return 0;
	digits = strspn(text, "0123456789");
	if (digits > 0 && digits <= 2 && strcmp(text + digits, "%") == 0) {
		conf->floor_pct = (uint32_t)strtoul(text, NULL, 10);
		return 0;
	}
	if (kvh_conf_bytes(text, &conf->floor_bytes) == 0)
		return 0;
	kvh_err("nvme: floor=%s: is to be a number of bytes (as 4096, 64K, 1.5G), or of "
		"percent from 0%% to 99%%",
		text);
	return -EINVAL;
}

static int conf_check(struct kvh_nvme_conf *conf)
{
	int ret = parse_floor(conf);

	if (ret == 0 && conf->check_ms == 0 && (conf->floor_bytes | conf->floor_pct) != 0) {
		kvh_err("nvme: floor=%s needs check=MS: it is looked at then", conf->floor);
		ret = -EINVAL;
	}
	if (ret == 0)
		ret = kvh_conf_absolute(&conf->path);
	for (uint32_t i = 0; i < conf->more.n && ret == 0; i++)
		ret = kvh_conf_absolute(&conf->more.items[i]);
	return ret;
}

static int conf_parse(struct kvh_nvme_conf *conf, const char *text)
{
	static const char *const engines[] = {"auto", "uring", "threads", NULL};
	static const char *const directs[] = {"auto", "on", "off", NULL};
	static const char *const syncs[] = {"close", "none", "write", NULL};
	const uint64_t min = KVH_NVME_MIN_BYTES, max = KVH_NVME_MAX_BYTES;
	const struct kvh_conf_option options[] = {
		{"stripe", KVH_CONF_LIST, &conf->more, 0, KVH_NVME_STRIPES - 1, NULL},
		{"size", KVH_CONF_BYTES, &conf->size, min, max, NULL},
		{"segment", KVH_CONF_BYTES, &conf->segment, KVH_NVME_PAGE, max, NULL},
		{"depth", KVH_CONF_U32, &conf->depth, 1, 4096, NULL},
		{"budget", KVH_CONF_BYTES, &conf->budget, min, max, NULL},
		{"threads", KVH_CONF_U32, &conf->threads, 1, 256, NULL},
		{"engine", KVH_CONF_CHOICE, &conf->engine, 0, 0, engines},
		{"direct", KVH_CONF_CHOICE, &conf->direct, 0, 0, directs},
		{"sync", KVH_CONF_CHOICE, &conf->sync, 0, 0, syncs},
		{"eviction", KVH_CONF_CHOICE, &conf->eviction, 0, 0, policies},
		{"floor", KVH_CONF_TEXT, &conf->floor, 0, 0, NULL},
		{"discard", KVH_CONF_BOOL, &conf->discard, 0, 0, NULL},
		{"check", KVH_CONF_U32, &conf->check_ms, 0, 60000, NULL},
		{"format", KVH_CONF_BOOL, &conf->format, 0, 0, NULL},
		{NULL, KVH_CONF_TEXT, NULL, 0, 0, NULL},
	};
	int ret;

	conf->depth = 64;
	conf->threads = 16;
	conf->check_ms = 250;
	ret = kvh_conf_parse("nvme", text, &conf->path, options);
	return ret < 0 ? ret : conf_check(conf);
}

static void conf_free(struct kvh_nvme_conf *conf)
{
	for (uint32_t i = 0; i < conf->more.n; i++)
		free(conf->more.items[i]);
	free(conf->more.items);
	free(conf->floor);
	free(conf->path);
}

/* ---- a stripe ---- */

static int engine_open(struct kvh_nvme_stripe *stripe)
{
	const struct kvh_nvme_conf *conf = &stripe->nvme->conf;
	int efd = stripe->nvme->efd;
	int ret;

	stripe->depth = conf->depth > SCAN_DEPTH ? conf->depth : SCAN_DEPTH;
	stripe->depth += KVH_NVME_GROW_IOS + KVH_NVME_WIPE_IOS;
	if (conf->engine != KVH_NVME_ENGINE_THREADS) {
		stripe->engine_ops = &kvh_nvme_uring;
		ret = kvh_nvme_uring.open(stripe->file, stripe->depth, 0, efd, &stripe->engine);
		if (ret == 0)
			return 0;
		if (conf->engine == KVH_NVME_ENGINE_URING) {
			kvh_err("nvme: %s: io_uring is refused: %s", stripe->file->path,
				strerror(-ret));
			return ret;
		}
		kvh_warn("nvme: %s: io_uring is refused (%s), uses %" PRIu32 " threads",
			 stripe->file->path, strerror(-ret), conf->threads);
	}
	stripe->engine_ops = &kvh_nvme_threads;
	ret = kvh_nvme_threads.open(stripe->file, stripe->depth, conf->threads, efd,
				    &stripe->engine);
	if (ret < 0)
		kvh_err("nvme: %s: no threads: %s", stripe->file->path, strerror(-ret));
	return ret;
}

static void stripe_fini(struct kvh_nvme_stripe *stripe)
{
	stripe->engine_ops->close(stripe->engine);
	kvh_nvme_index_fini(&stripe->index);
}

static int stripe_init(struct kvh_nvme *nvme, uint32_t i)
{
	struct kvh_nvme_stripe *stripe = &nvme->stripes[i];
	int ret;

	stripe->nvme = nvme;
	stripe->file = &nvme->files[i];
	ret = kvh_nvme_index_init(&stripe->index, stripe->file->super, &nvme->spaces,
				  kvh_order_find(policies[nvme->conf.eviction]));
	if (ret < 0)
		return ret;
	ret = engine_open(stripe);
	if (ret < 0) {
		kvh_nvme_index_fini(&stripe->index);
		return ret;
	}
	kvh_nvme_sched_init(&stripe->sched, stripe->engine_ops, stripe->engine,
			    nvme->conf.budget);
	kvh_nvme_wiper_init(stripe);
	nvme->bytes += stripe->file->super->bytes;
	return 0;
}

static void stripes_fini(struct kvh_nvme *nvme, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		stripe_fini(&nvme->stripes[i]);
}

static int stripes_init(struct kvh_nvme *nvme)
{
	for (uint32_t i = 0; i < nvme->n_stripes; i++) {
		int ret = stripe_init(nvme, i);

		if (ret < 0) {
			stripes_fini(nvme, i);
			return ret;
		}
	}
	return 0;
}

/* ---- open ---- */

/* What needs no file. */
static int memory_init(struct kvh_nvme *nvme)
{
	nvme->n_stripes = 1 + nvme->conf.more.n;
	nvme->files = calloc(nvme->n_stripes, sizeof(*nvme->files));
	nvme->stripes = calloc(nvme->n_stripes, sizeof(*nvme->stripes));
	nvme->zeros = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_ZEROS);
	nvme->active = calloc(nvme->conf.depth, sizeof(*nvme->active));
	if (nvme->files == NULL || nvme->stripes == NULL || nvme->zeros == NULL ||
	    nvme->active == NULL)
		return -ENOMEM;
	memset(nvme->zeros, 0, KVH_NVME_ZEROS);
	nvme->efd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return nvme->efd < 0 ? -errno : 0;
}

static void memory_fini(struct kvh_nvme *nvme)
{
	if (nvme->efd >= 0)
		close(nvme->efd);
	kvh_nvme_spaces_fini(&nvme->spaces);
	free(nvme->active);
	free(nvme->zeros);
	free(nvme->stripes);
	free(nvme->files);
	conf_free(&nvme->conf);
	free(nvme);
}

static void files_close(struct kvh_nvme *nvme, bool clean)
{
	for (uint32_t i = 0; i < nvme->n_stripes; i++)
		kvh_nvme_file_close(&nvme->files[i], clean);
}

static int threads_open(struct kvh_nvme *nvme)
{
	int ret = kvh_nvme_side_open(nvme->files, nvme->n_stripes, nvme->efd, &nvme->side);

	if (ret == 0 && nvme->conf.check_ms != 0)
		ret = kvh_nvme_health_open(nvme->files, nvme->n_stripes, &nvme->health);
	if (ret < 0)
		kvh_err("nvme: %s: no thread: %s", nvme->conf.path, strerror(-ret));
	return ret;
}

static int files_open(struct kvh_nvme *nvme, const struct kvh_l2_env *env)
{
	int ret = kvh_nvme_set_open(nvme->files, nvme->n_stripes, &nvme->conf, env->io,
				    env->io_ctx);

	if (ret < 0)
		return ret;
	ret = stripes_init(nvme);
	if (ret < 0)
		goto err_files;
	ret = kvh_nvme_scan(nvme);
	if (ret == 0)
		ret = threads_open(nvme);
	if (ret < 0)
		goto err_stripes;
	return 0;

err_stripes:
	kvh_nvme_side_close(nvme->side);
	stripes_fini(nvme, nvme->n_stripes);
err_files:
	files_close(nvme, false);
	return ret;
}

static void log_opened(const struct kvh_nvme *nvme)
{
	uint64_t objects = 0;

	for (uint32_t i = 0; i < nvme->n_stripes; i++)
		objects += nvme->stripes[i].index.objects;
	kvh_info("nvme: %s: %" PRIu64 " frames in %" PRIu64 " bytes, %" PRIu32
		 " stripe(s), by %s%s",
		 nvme->conf.path, objects, nvme->bytes, nvme->n_stripes,
		 nvme->stripes[0].engine_ops->name, nvme->files[0].direct ? ", O_DIRECT" : "");
}

int kvh_nvme_open(const char *conf, const struct kvh_l2_env *env, void **self_p)
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
		ret = files_open(nvme, env);
	if (ret < 0) {
		memory_fini(nvme);
		return ret;
	}
	log_opened(nvme);
	*self_p = nvme;
	return 0;
}

/* ---- close ---- */

static uint32_t count_running(const struct kvh_nvme *nvme)
{
	uint32_t running = 0;

	for (uint32_t i = 0; i < nvme->n_stripes; i++)
		running += nvme->stripes[i].running;
	return running;
}

static int drain(struct kvh_nvme *nvme, uint64_t deadline_ns)
{
	struct pollfd pfd = {.fd = nvme->efd, .events = POLLIN};

	for (;;) {
		uint64_t now, left;

		kvh_event_clear(nvme->efd);
		kvh_nvme_task_advance(nvme);
		if (count_running(nvme) == 0)
			return 0;
		now = kvh_now_ns();
		if (now >= deadline_ns)
			return -ETIMEDOUT;
		left = (deadline_ns - now) / KVH_NS_PER_MS + 1;
		(void)poll(&pfd, 1, left < POLL_MS ? (int)left : POLL_MS);
	}
}

static void snapshots_save(struct kvh_nvme *nvme)
{
	for (uint32_t i = 0; i < nvme->n_stripes; i++) {
#ifdef KVH_DEBUG
		kvh_nvme_index_check(&nvme->stripes[i].index);
#endif
		kvh_nvme_snapshot_save(&nvme->stripes[i]);
	}
}

int kvh_nvme_close(void *self, uint64_t deadline_ns)
{
	struct kvh_nvme *nvme = self;
	int ret;

	for (uint32_t i = nvme->n_active; i-- > 0;)
		kvh_nvme_task_cancel(nvme, nvme->active[i]);
	for (uint32_t i = 0; i < nvme->n_stripes; i++)
		kvh_nvme_wipe_again(&nvme->stripes[i], NULL);
	ret = drain(nvme, deadline_ns);
	if (ret < 0) {
		kvh_err("nvme: %s: %" PRIu32 " transfers still run, they and their memory are "
			"left",
			nvme->conf.path, count_running(nvme));
		return ret;
	}
	assert(nvme->n_active == 0);
	ret = kvh_nvme_health_close(nvme->health, deadline_ns);
	if (ret < 0) {
		kvh_err("nvme: %s: its file does not answer, it is left open", nvme->conf.path);
		return ret;
	}
	nvme->health = NULL;
	kvh_nvme_side_close(nvme->side);
	if (!nvme->flush_failed)
		snapshots_save(nvme);
	stripes_fini(nvme, nvme->n_stripes);
	files_close(nvme, !nvme->flush_failed);
	memory_fini(nvme);
	return 0;
}
