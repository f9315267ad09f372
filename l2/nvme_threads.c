/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_threads.c - transfers over pread and pwrite on a pool of threads, for
 * where io_uring is refused, as in most containers. The lock guards both lists;
 * a transfer outside of them is its thread's. First come, first served.
 */
#include "l2/nvme_engine.h"

#include "l2/req.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct pool {
	const struct kvh_nvme_file *file;
	int efd;
	pthread_mutex_t lock;
	pthread_cond_t work; /* `queued` is not empty, or `stop` */
	struct kvh_nvme_io_list queued, ended;
	bool stop;
	uint32_t n_threads;
	pthread_t threads[];
};

static bool transfer_piece(const struct kvh_nvme_file *file, struct kvh_nvme_io *io)
{
	char *buf = io->buf + io->done;
	size_t len = kvh_nvme_io_piece(io);
	off_t off = (off_t)(io->off + io->done);
	ssize_t res;

	if (io->dir == KVH_IO_READ)
		res = file->io->pread(file->io_ctx, file->fd, buf, len, off);
	else
		res = file->io->pwrite(file->io_ctx, file->fd, buf, len, off);
	return kvh_nvme_io_advance(io, res, file->direct);
}

static struct kvh_nvme_io *pool_next(struct pool *pool)
{
	struct kvh_nvme_io *io;

	while (pool->queued.head == NULL && !pool->stop)
		pthread_cond_wait(&pool->work, &pool->lock);
	io = pool->queued.head;
	if (io == NULL)
		return NULL;
	pool->queued.head = io->next;
	if (io->next == NULL)
		kvh_nvme_io_list_init(&pool->queued);
	return io;
}

static void *pool_run(void *arg)
{
	struct pool *pool = arg;
	struct kvh_nvme_io *io;

	pthread_mutex_lock(&pool->lock);
	while ((io = pool_next(pool)) != NULL) {
		pthread_mutex_unlock(&pool->lock);
		while (!transfer_piece(pool->file, io))
			;
		pthread_mutex_lock(&pool->lock);
		if (pool->ended.head == NULL)
			kvh_event_raise(pool->efd);
		kvh_nvme_io_list_append(&pool->ended, io);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

static void pool_close(void *engine)
{
	struct pool *pool = engine;

	pthread_mutex_lock(&pool->lock);
	assert(pool->queued.head == NULL);
	pool->stop = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (uint32_t i = 0; i < pool->n_threads; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

static int pool_spawn(struct pool *pool, uint32_t threads)
{
	int ret = 0;

	for (uint32_t i = 0; i < threads && ret == 0; i++) {
		ret = kvh_nvme_spawn(&pool->threads[i], pool_run, pool);
		pool->n_threads += ret == 0;
	}
	return pool->n_threads > 0 ? 0 : ret; /* fewer will do */
}

static int pool_open(const struct kvh_nvme_file *file, uint32_t depth, uint32_t threads,
		     int efd, void **engine_p)
{
	uint32_t n = threads < depth ? threads : depth;
	struct pool *pool = calloc(1, sizeof(*pool) + n * sizeof(pool->threads[0]));
	int ret;

	if (pool == NULL)
		return -ENOMEM;
	pool->file = file;
	pool->efd = efd;
	kvh_nvme_io_list_init(&pool->queued);
	kvh_nvme_io_list_init(&pool->ended);
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	ret = pool_spawn(pool, n);
	if (ret < 0) {
		pool_close(pool);
		return ret;
	}
	*engine_p = pool;
	return 0;
}

static void pool_start(void *engine, struct kvh_nvme_io *io)
{
	struct pool *pool = engine;

	pthread_mutex_lock(&pool->lock);
	kvh_nvme_io_list_append(&pool->queued, io);
	pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->lock);
}

static void pool_cancel(void *engine, struct kvh_nvme_io *io)
{
	struct pool *pool = engine;
	struct kvh_nvme_io *all, *next;

	__atomic_store_n(&io->cancelled, true,
			 __ATOMIC_RELAXED); /* one that runs ends after its piece */
	pthread_mutex_lock(&pool->lock);
	for (all = kvh_nvme_io_list_take(&pool->queued); all != NULL; all = next) {
		next = all->next;
		if (all != io) {
			kvh_nvme_io_list_append(&pool->queued, all);
			continue;
		}
		io->result = -ECANCELED;
		kvh_nvme_io_list_append(&pool->ended, io);
		kvh_event_raise(pool->efd);
	}
	pthread_mutex_unlock(&pool->lock);
}

static struct kvh_nvme_io *pool_reap(void *engine)
{
	struct pool *pool = engine;
	struct kvh_nvme_io *ended;

	pthread_mutex_lock(&pool->lock);
	ended = kvh_nvme_io_list_take(&pool->ended);
	pthread_mutex_unlock(&pool->lock);
	return ended;
}

const struct kvh_nvme_engine_ops kvh_nvme_threads = {
	.name = "threads",
	.open = pool_open,
	.close = pool_close,
	.start = pool_start,
	.cancel = pool_cancel,
	.reap = pool_reap,
};
