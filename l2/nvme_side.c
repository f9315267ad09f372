/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_side.c - one thread that waits for calls which block. The lock guards both
 * lists; what is outside of them is the thread's.
 */
#include "l2/nvme_side.h"

#include "l2/req.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct kvh_nvme_side {
	struct kvh_nvme_file *files;
	uint32_t n;
	int efd;
	pthread_mutex_t lock;
	pthread_cond_t work; /* `queued` is not empty, or `stop` */
	struct kvh_nvme_io_list queued, ended;
	bool stop;
	pthread_t thread;
};

static int flush(const struct kvh_nvme_side *side)
{
	int ret = 0;

	for (uint32_t i = 0; i < side->n; i++) {
		int one = kvh_nvme_file_sync(&side->files[i], true);

		ret = ret < 0 ? ret : one;
	}
	return ret;
}

/* On a block device it is what BLKZEROOUT does with unmapping; both read as zeros
 * behind it. */
static int discard(const struct kvh_nvme_file *file, const struct kvh_nvme_io *io)
{
	return file->io->fallocate(file->io_ctx, file->fd,
				   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)io->off,
				   (off_t)io->len);
}

static int run(const struct kvh_nvme_side *side, const struct kvh_nvme_io *io)
{
	const struct kvh_nvme_file *file = &side->files[io->region];

	switch ((enum kvh_nvme_side_op)io->dir) {
	case KVH_NVME_FLUSH: return flush(side);
	case KVH_NVME_FLUSH_ONE: return kvh_nvme_file_sync(file, true);
	case KVH_NVME_DISCARD: return discard(file, io);
	}
	return -EINVAL;
}

static void *side_run(void *arg)
{
	struct kvh_nvme_side *side = arg;

	pthread_mutex_lock(&side->lock);
	for (;;) {
		struct kvh_nvme_io *io = side->queued.head;

		if (io == NULL && side->stop)
			break;
		if (io == NULL) {
			pthread_cond_wait(&side->work, &side->lock);
			continue;
		}
		side->queued.head = io->next;
		if (io->next == NULL)
			kvh_nvme_io_list_init(&side->queued);
		pthread_mutex_unlock(&side->lock);
		io->result = run(side, io);
		pthread_mutex_lock(&side->lock);
		kvh_nvme_io_list_append(&side->ended, io);
		kvh_event_raise(side->efd);
	}
	pthread_mutex_unlock(&side->lock);
	return NULL;
}

int kvh_nvme_side_open(struct kvh_nvme_file *files, uint32_t n, int efd,
		       struct kvh_nvme_side **side_p)
{
	struct kvh_nvme_side *side = calloc(1, sizeof(*side));
	int ret;

	if (side == NULL)
		return -ENOMEM;
	side->files = files;
	side->n = n;
	side->efd = efd;
	kvh_nvme_io_list_init(&side->queued);
	kvh_nvme_io_list_init(&side->ended);
	pthread_mutex_init(&side->lock, NULL);
	pthread_cond_init(&side->work, NULL);
	ret = kvh_nvme_spawn(&side->thread, side_run, side);
	if (ret < 0) {
		pthread_cond_destroy(&side->work);
		pthread_mutex_destroy(&side->lock);
		free(side);
		return ret;
	}
	*side_p = side;
	return 0;
}

void kvh_nvme_side_close(struct kvh_nvme_side *side)
{
	if (side == NULL)
		return;
	pthread_mutex_lock(&side->lock);
	assert(side->queued.head == NULL);
	side->stop = true;
	pthread_cond_signal(&side->work);
	pthread_mutex_unlock(&side->lock);
	pthread_join(side->thread, NULL);
	pthread_cond_destroy(&side->work);
	pthread_mutex_destroy(&side->lock);
	free(side);
}

void kvh_nvme_side_start(struct kvh_nvme_side *side, struct kvh_nvme_io *io)
{
	pthread_mutex_lock(&side->lock);
	kvh_nvme_io_list_append(&side->queued, io);
	pthread_cond_signal(&side->work);
	pthread_mutex_unlock(&side->lock);
}

struct kvh_nvme_io *kvh_nvme_side_reap(struct kvh_nvme_side *side)
{
	struct kvh_nvme_io *ended;

	pthread_mutex_lock(&side->lock);
	ended = kvh_nvme_io_list_take(&side->ended);
	pthread_mutex_unlock(&side->lock);
	return ended;
}
