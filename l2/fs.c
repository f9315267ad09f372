/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs.c - a directory of frames, one a file; l2/fs.h has the layout. The
 * controller's thread only moves requests between lists; worker threads do the
 * file I/O, since it blocks. Several processes may share a directory: each
 * keeps to its own `size` by what it has seen.
 * Limit: an index entry a file, some 80 bytes of memory, and a scan at open.
 */
#include "l2/fs.h"

#include "host/log.h"
#include "l2/conf.h"

#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S UINT64_C(1000000000)
#define LEN_MAX  (UINT64_C(1) << 40)

/* ---- workers --------------------------------------------------------------- */

static const char *op_name(enum kvh_l2_op op)
{
	switch (op) {
	case KVH_L2_PUT: return "put";
	case KVH_L2_GET: return "get";
	case KVH_L2_PROBE: return "probe";
	case KVH_L2_DELETE: return "delete";
	case KVH_L2_CLEAR: return "clear";
	case KVH_L2_FLUSH: return "flush";
	}
	return "?";
}

/* One line when errors start and when their kind changes, not one a frame. */
static void log_result(struct fs_l2 *fs, const struct kvh_l2_req *req, int ret)
{
	struct fs_path path;

	if (ret == -ENOENT)
		return;
	if (ret == 0) {
		if (req->op == KVH_L2_PUT && atomic_load(&fs->last_error) != 0)
			atomic_store(&fs->last_error, 0);
		return;
	}
	if (atomic_exchange(&fs->last_error, ret) == ret)
		return;
	kvh_fs_path_make(&req->key, &path);
	kvh_warn("fs: %s/%s: %s of %llu bytes: %s", fs->path, path.text, op_name(req->op),
		 (unsigned long long)req->len, strerror(-ret));
}

static int run(struct fs_l2 *fs, struct kvh_l2_req *req)
{
	switch (req->op) {
	case KVH_L2_PUT: return kvh_fs_put(fs, &req->key, req->buf, req->len);
	case KVH_L2_GET: return kvh_fs_get(fs, &req->key, req->buf, req->len);
	case KVH_L2_PROBE: return kvh_fs_probe(fs, &req->key, &req->len);
	case KVH_L2_DELETE: return kvh_fs_delete(fs, &req->key);
	case KVH_L2_CLEAR: return kvh_fs_clear(fs, req->key.space);
	case KVH_L2_FLUSH: break; /* refused: caps */
	}
	return -EINVAL;
}

/* Under lock. A list that was not empty has its wake-up under way. */
static void push_done(struct fs_l2 *fs, struct kvh_l2_req *req, int status)
{
	bool first = fs->done.head == NULL;

	req->status = status;
	kvh_req_push(&fs->done, req);
	if (first)
		kvh_event_raise(fs->event);
}

static void *work(void *arg)
{
	struct fs_l2 *fs = arg;

	pthread_mutex_lock(&fs->lock);
	for (;;) {
		struct kvh_l2_req *req;
		int status;

		while (!fs->closing && fs->waiting.head == NULL)
			pthread_cond_wait(&fs->work, &fs->lock);
		if (fs->closing)
			break;
		req = kvh_req_pop(&fs->waiting);
		pthread_mutex_unlock(&fs->lock);
		status = run(fs, req);
		log_result(fs, req, status);
		pthread_mutex_lock(&fs->lock);
		push_done(fs, req, status);
	}
	fs->n_running--;
	pthread_cond_signal(&fs->exited);
	pthread_mutex_unlock(&fs->lock);
	return NULL;
}

/* Signals are for the process's own threads. */
static int start_workers(struct fs_l2 *fs)
{
	sigset_t all, old;
	int ret = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_mutex_lock(&fs->lock);
	while (ret == 0 && fs->n_running < fs->n_workers) {
		ret = -pthread_create(&fs->workers[fs->n_running], NULL, work, fs);
		fs->n_running += ret == 0;
	}
	fs->n_workers = fs->n_running; /* that can be joined */
	pthread_mutex_unlock(&fs->lock);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret;
}

/* -ETIMEDOUT: a worker is in a system call that does not end. */
static int stop_workers(struct fs_l2 *fs, uint64_t deadline_ns)
{
	struct timespec until = {.tv_sec = (time_t)(deadline_ns / NS_PER_S),
				 .tv_nsec = (long)(deadline_ns % NS_PER_S)};
	int ret = 0;

	pthread_mutex_lock(&fs->lock);
	fs->closing = true;
	pthread_cond_broadcast(&fs->work);
	while (fs->n_running > 0 && ret != ETIMEDOUT) {
		if (deadline_ns == KVH_L2_DEADLINE_NO)
			pthread_cond_wait(&fs->exited, &fs->lock);
		else
			ret = pthread_cond_timedwait(&fs->exited, &fs->lock, &until);
	}
	ret = fs->n_running > 0 ? -ETIMEDOUT : 0;
	pthread_mutex_unlock(&fs->lock);
	for (uint32_t i = 0; ret == 0 && i < fs->n_workers; i++)
		pthread_join(fs->workers[i], NULL);
	return ret;
}

/* ---- open and close -------------------------------------------------------- */

static const char *const sync_choices[] = {"none", "data", "full", NULL};
static const char *const direct_choices[] = {"auto", "on", "off", NULL};

static int parse_conf(struct fs_l2 *fs, const char *conf)
{
	const struct kvh_conf_option options[] = {
		{.name = "size",
		 .type = KVH_CONF_BYTES,
		 .value = &fs->size,
		 .min = 8192,
		 .max = UINT64_C(1) << 60},
		{.name = "threads",
		 .type = KVH_CONF_U32,
		 .value = &fs->n_workers,
		 .min = 1,
		 .max = FS_WORKERS_MAX},
		{.name = "depth",
		 .type = KVH_CONF_U32,
		 .value = &fs->depth,
		 .min = 1,
		 .max = 65536},
		{.name = "fsync",
		 .type = KVH_CONF_CHOICE,
		 .value = &fs->sync,
		 .choices = sync_choices},
		{.name = "direct",
		 .type = KVH_CONF_CHOICE,
		 .value = &fs->direct_option,
		 .choices = direct_choices},
		{.name = "eviction",
		 .type = KVH_CONF_CHOICE,
		 .value = &fs->eviction,
		 .choices = kvh_shelf_policies},
		{.name = "check", .type = KVH_CONF_U32, .value = &fs->check_ms, .max = 60000},
		{.name = NULL},
	};
	int ret = kvh_conf_parse("fs", conf, &fs->path, options);

	if (ret == 0 && fs->path[0] == '\0') {
		kvh_err("fs: a directory is needed, as fs:/var/cache/kv,size=100G");
		ret = -EINVAL;
	}
	return ret < 0 ? ret : kvh_conf_absolute(&fs->path);
}

static struct fs_l2 *fs_new(const struct kvh_l2_env *env)
{
	struct fs_l2 *fs = calloc(1, sizeof(*fs));
	pthread_condattr_t attr;

	if (fs == NULL)
		return NULL;
	fs->io = env->io;
	fs->io_ctx = env->io_ctx;
	fs->root = fs->tmp = fs->lock_fd = fs->event = -1;
	fs->depth = 64;
	fs->n_workers = 4;
	fs->check_ms = 250;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&fs->lock, NULL);
	pthread_cond_init(&fs->work, NULL);
	pthread_cond_init(&fs->exited, &attr);
	pthread_mutex_init(&fs->index_lock, NULL);
	pthread_cond_init(&fs->settled, NULL);
	pthread_condattr_destroy(&attr);
	return fs;
}

static void fs_free(struct fs_l2 *fs)
{
	pthread_cond_destroy(&fs->settled);
	pthread_mutex_destroy(&fs->index_lock);
	pthread_cond_destroy(&fs->exited);
	pthread_cond_destroy(&fs->work);
	pthread_mutex_destroy(&fs->lock);
	if (fs->event >= 0)
		close(fs->event);
	free(fs->path);
	free(fs);
}

static int start_watch(struct fs_l2 *fs)
{
	const struct kvh_watch_opts opts = {
		.adapter = "fs",
		.path = fs->path,
		.every_ms = fs->check_ms,
		.look = kvh_fs_look,
		.arg = fs,
	};

	return fs->check_ms != 0 ? kvh_watch_open(&opts, &fs->watch) : 0;
}

static int fs_init(struct fs_l2 *fs)
{
	int ret;

	fs->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (fs->event < 0)
		return -errno;
	ret = kvh_fs_dir_open(fs);
	if (ret < 0)
		return ret;
	ret = kvh_fs_try_direct(fs);
	if (ret < 0)
		goto err_dir;
	ret = kvh_fs_index_open(fs);
	if (ret < 0)
		goto err_dir;
	ret = start_workers(fs);
	if (ret < 0)
		goto err_workers;
	ret = start_watch(fs);
	if (ret < 0)
		goto err_workers;
	return 0;

err_workers:
	kvh_err("fs: %s: threads: %s", fs->path, strerror(-ret));
	(void)stop_workers(fs, KVH_L2_DEADLINE_NO); /* they are idle */
	kvh_fs_index_close(fs);
err_dir:
	kvh_fs_dir_close(fs);
	return ret;
}

static int fs_open(const char *conf, const struct kvh_l2_env *env, void **self_p)
{
	struct fs_l2 *fs = fs_new(env);
	int ret;

	if (fs == NULL)
		return -ENOMEM;
	ret = parse_conf(fs, conf);
	if (ret == 0)
		ret = fs_init(fs);
	if (ret < 0) {
		fs_free(fs);
		return ret;
	}
	*self_p = fs;
	return 0;
}

static int fs_close(void *self, uint64_t deadline_ns)
{
	struct fs_l2 *fs = self;
	unsigned long long buffered = atomic_load(&fs->buffered);
	int ret = kvh_watch_close(fs->watch, deadline_ns);

	if (ret == 0) {
		fs->watch = NULL;
		ret = stop_workers(fs, deadline_ns);
	}
	if (ret < 0) {
		kvh_err("fs: %s: transfers still run at the deadline of close", fs->path);
		return ret;
	}
	if (buffered > 0)
		kvh_info("fs: %s: O_DIRECT was refused %llu times", fs->path, buffered);
	kvh_fs_index_close(fs);
	kvh_fs_dir_close(fs);
	fs_free(fs);
	return 0;
}

/* ---- requests -------------------------------------------------------------- */

static void fs_query(const void *self, struct kvh_l2_caps *caps)
{
	const struct fs_l2 *fs = self;

	*caps = (struct kvh_l2_caps){
		.max_inflight = fs->depth,
		.align = fs->direct_option == FS_DIRECT_OFF ? 1 : 4096,
		.max_len = fs->size != 0 && fs->size < LEN_MAX ? fs->size : LEN_MAX,
		.local_index = true,
		.clear = true,
	};
}

static int fs_submit(void *self, struct kvh_l2_req *req)
{
	struct fs_l2 *fs = self;
	struct kvh_l2_caps caps;
	int ret = -EAGAIN;

	fs_query(fs, &caps);
	if (kvh_req_check(req, &caps) < 0)
		return -EINVAL;
	pthread_mutex_lock(&fs->lock);
	if (fs->accepted < fs->depth) {
		fs->accepted++;
		kvh_req_push(&fs->waiting, req);
		pthread_cond_signal(&fs->work);
		ret = 0;
	}
	pthread_mutex_unlock(&fs->lock);
	return ret;
}

static void fs_cancel(void *self, struct kvh_l2_req *req)
{
	struct fs_l2 *fs = self;

	pthread_mutex_lock(&fs->lock);
	if (kvh_req_take(&fs->waiting, req)) /* else it is with a worker, or done */
		push_done(fs, req, -ECANCELED);
	pthread_mutex_unlock(&fs->lock);
}

static uint32_t fs_reap(void *self, struct kvh_l2_req **done, uint32_t max)
{
	struct fs_l2 *fs = self;
	uint32_t n;

	kvh_event_clear(fs->event);
	pthread_mutex_lock(&fs->lock);
	for (n = 0; n < max && fs->done.head != NULL; n++)
		done[n] = kvh_req_pop(&fs->done);
	assert(n <= fs->accepted);
	fs->accepted -= n;
	if (fs->done.head != NULL)
		kvh_event_raise(fs->event);
	pthread_mutex_unlock(&fs->lock);
	return n;
}

static int fs_event_fd(const void *self)
{
	return ((const struct fs_l2 *)self)->event;
}

static void fs_usage(const void *self, struct kvh_l2_usage *usage)
{
	struct fs_l2 *fs = (struct fs_l2 *)self; /* only the lock changes */

	pthread_mutex_lock(&fs->index_lock);
	kvh_shelf_usage(&fs->shelf, usage);
	pthread_mutex_unlock(&fs->index_lock);
	usage->buffered = atomic_load(&fs->buffered);
}

static int fs_limits(void *self, kvh_space_t space, uint64_t soft_bytes, uint64_t hard_bytes)
{
	struct fs_l2 *fs = self;
	int ret;

	pthread_mutex_lock(&fs->index_lock);
	ret = kvh_shelf_limits(&fs->shelf, space, soft_bytes, hard_bytes);
	pthread_mutex_unlock(&fs->index_lock);
	return ret;
}

static void fs_usage_space(const void *self, kvh_space_t space, struct kvh_l2_usage *usage)
{
	struct fs_l2 *fs = (struct fs_l2 *)self; /* only the lock changes */

	pthread_mutex_lock(&fs->index_lock);
	kvh_shelf_usage_space(&fs->shelf, space, usage);
	pthread_mutex_unlock(&fs->index_lock);
}

static int fs_health(const void *self, const char **why_p)
{
	const struct fs_l2 *fs = self;

	return fs->watch != NULL ? kvh_watch_get(fs->watch, why_p) : 0;
}

struct listing {
	bool (*visit)(void *arg, const struct kvh_key *key, uint64_t len);
	void *arg;
};

static bool list_visit(void *arg, const struct kvh_key *key, const struct stat *st)
{
	const struct listing *listing = arg;

	return st->st_size <= 0 || listing->visit(listing->arg, key, (uint64_t)st->st_size);
}

static int fs_list(void *self,
		   bool (*visit)(void *arg, const struct kvh_key *key, uint64_t len), void *arg)
{
	struct listing listing = {.visit = visit, .arg = arg};

	return kvh_fs_walk(self, list_visit, &listing);
}

static void fs_peek(const void *self, const struct kvh_key *keys, uint32_t n, uint8_t *found)
{
	struct fs_l2 *fs = (struct fs_l2 *)self; /* only the lock changes */

	pthread_mutex_lock(&fs->index_lock);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t item = kvh_shelf_find(&fs->shelf, &keys[i]);

		found[i] = item != KVH_SHELF_NONE && kvh_shelf_at(&fs->shelf, item)->len > 0;
	}
	pthread_mutex_unlock(&fs->index_lock);
}

extern const struct kvh_l2_ops kvh_l2_fs;
const struct kvh_l2_ops kvh_l2_fs = {
	.abi = KVH_L2_ABI,
	.name = "fs",
	.help = "PATH  a directory, made if it is not there\n"
		"size=BYTES  evict beyond, 8K.. (no limit)\n"
		"eviction=lru|s3-fifo|arc  which files go first (lru)\n"
		"fsync=none|data|full  before a put has succeeded; full: directories too "
		"(none)\n"
		"direct=auto|on|off  O_DIRECT; auto: where the file system takes it (auto)\n"
		"check=MS  how often it looks after its directory, 0: never (250)\n"
		"threads=N  that do the file I/O, 1..64 (4)\n"
		"depth=N  requests at a time, 1..65536 (64)",
	.open = fs_open,
	.close = fs_close,
	.query = fs_query,
	.submit = fs_submit,
	.cancel = fs_cancel,
	.reap = fs_reap,
	.event_fd = fs_event_fd,
	.usage = fs_usage,
	.list = fs_list,
	.peek = fs_peek,
	.limits = fs_limits,
	.usage_space = fs_usage_space,
	.health = fs_health,
};
