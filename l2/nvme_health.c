/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_health.c - looks after the files. A thread of its own, because each of its
 * calls may hang with the device; what it found is in atomics. What changes is
 * logged, once.
 */
#include "l2/nvme_health.h"

#include "host/log.h"
#include "host/thread.h"
#include "l2/nvme_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#define ASK_EVERY 3u
#define HANG_NS   (5 * KVH_NS_PER_S) /* a look that takes longer has found something */

struct kvh_nvme_health {
	struct kvh_nvme_file *files;
	uint32_t n;
	void *page;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* stop or ended */
	bool stop, ended;
	pthread_t thread;
	bool seen_full; /* the thread's */
	uint32_t looks;
	_Atomic(const char *) why; /* NULL: all is well */
	atomic_int error;
	atomic_bool full;
	atomic_uint_fast64_t since_ns; /* of the look that goes on; 0: none does */
};

/* ---- one file ---- */

static int check_path(const struct kvh_nvme_file *file, const char **why_p)
{
	struct stat st;
	int fd = file->io->open(file->io_ctx, AT_FDCWD, file->path, O_PATH | O_CLOEXEC, 0, 0);
	int ret;

	*why_p = "its file is gone";
	if (fd < 0)
		return fd;
	ret = file->io->fstat(file->io_ctx, fd, &st);
	(void)file->io->close(file->io_ctx, fd);
	if (ret < 0)
		return ret;
	*why_p = "another file stands at its path";
	if (file->block)
		return S_ISBLK(st.st_mode) && st.st_rdev == file->dev ? 0 : -ESTALE;
	return st.st_dev == file->dev && st.st_ino == file->ino ? 0 : -ESTALE;
}

static uint64_t floor_of(const struct kvh_nvme_conf *conf, const struct statvfs *vfs)
{
	if (conf->floor_pct != 0)
		return (uint64_t)vfs->f_blocks * vfs->f_frsize / 100 * conf->floor_pct;
	return conf->floor_bytes;
}

static int check_room(struct kvh_nvme_health *health, const struct kvh_nvme_file *file,
		      const char **why_p)
{
	struct statvfs vfs;
	int ret = file->io->fstatvfs(file->io_ctx, file->fd, &vfs);

	*why_p = "its file system does not answer";
	if (ret < 0)
		return ret;
	*why_p = "its file system takes no writes";
	if (vfs.f_flag & ST_RDONLY)
		return -EROFS;
	/* Where the file system did it by itself, the flag is not set: it is asked for
	 * room that it has given already. Not at each look, as it writes a time stamp. */
	if (health->looks % ASK_EVERY == 0)
		ret = file->io->fallocate(file->io_ctx, file->fd, FALLOC_FL_KEEP_SIZE, 0,
					  KVH_NVME_PAGE);
	if (ret == -EROFS || ret == -EIO || ret == -EUCLEAN)
		return ret;
	if ((uint64_t)vfs.f_bavail * vfs.f_frsize < floor_of(file->conf, &vfs))
		health->seen_full = true;
	return 0;
}

/* Reads what names it: a device that is gone fails, and nobody else has made
 * something of it. */
static int check_medium(struct kvh_nvme_health *health, struct kvh_nvme_file *file,
			const char **why_p)
{
	const struct kvh_nvme_super *super = health->page;
	int ret = -ESTALE;

	*why_p = "its file cannot be read";
	for (unsigned copy = 0; copy < 2 && ret == -ESTALE; copy++) {
		ret = kvh_nvme_file_read(file, health->page, KVH_NVME_PAGE,
					 copy * KVH_NVME_PAGE);
		if (ret == 0 && memcmp(super->uuid, file->super->uuid, 16) != 0)
			ret = -ESTALE;
	}
	if (ret == -ESTALE)
		*why_p = "its file has been written over";
	return ret;
}

static int check(struct kvh_nvme_health *health, struct kvh_nvme_file *file, const char **why_p)
{
	int ret = check_path(file, why_p);

	if (ret == 0 && !file->block)
		ret = check_room(health, file, why_p);
	if (ret == 0)
		ret = check_medium(health, file, why_p);
	return ret;
}

/* ---- all of them ---- */

static void found(struct kvh_nvme_health *health, const struct kvh_nvme_file *file, int error,
		  const char *why)
{
	const char *before = atomic_load(&health->why);

	if (error == 0) {
		if (before != NULL)
			kvh_warn("nvme: %s: is well again", health->files[0].path);
		atomic_store(&health->error, 0);
		atomic_store(&health->why, NULL);
		return;
	}
	if (before != why)
		kvh_err("nvme: %s: %s: %s", file->path, why, strerror(-error));
	atomic_store(&health->error, error);
	atomic_store(&health->why, why);
}

static void look(struct kvh_nvme_health *health)
{
	const char *why = NULL;
	bool was_full;
	uint32_t i;
	int error = 0;

	health->looks++;
	health->seen_full = false;
	for (i = 0; i < health->n && error == 0; i++)
		error = check(health, &health->files[i], &why);
	found(health, &health->files[error != 0 ? i - 1 : 0], error, why);
	was_full = atomic_exchange(&health->full, health->seen_full);
	if (was_full != health->seen_full)
		kvh_warn("nvme: %s: the file system has %s than the floor of free space: %s",
			 health->files[0].path, was_full ? "more" : "less",
			 was_full ? "stores again" : "stores nothing until there is more");
}

static void *health_run(void *arg)
{
	struct kvh_nvme_health *health = arg;
	uint64_t every_ns = health->files[0].conf->check_ms * KVH_NS_PER_MS;

	pthread_mutex_lock(&health->lock);
	while (!health->stop) {
		uint64_t until_ns;

		pthread_mutex_unlock(&health->lock);
		atomic_store(&health->since_ns, kvh_now_ns());
		look(health);
		atomic_store(&health->since_ns, 0);
		until_ns = kvh_deadline_ns(every_ns);
		pthread_mutex_lock(&health->lock);
		while (!health->stop &&
		       kvh_cond_wait(&health->changed, &health->lock, until_ns) == 0)
			;
	}
	health->ended = true;
	pthread_cond_signal(&health->changed);
	pthread_mutex_unlock(&health->lock);
	return NULL;
}

int kvh_nvme_health_open(struct kvh_nvme_file *files, uint32_t n,
			 struct kvh_nvme_health **health_p)
{
	struct kvh_nvme_health *health = calloc(1, sizeof(*health));
	int ret = -ENOMEM;

	if (health == NULL)
		return ret;
	health->files = files;
	health->n = n;
	health->page = aligned_alloc(KVH_NVME_PAGE, KVH_NVME_PAGE);
	pthread_mutex_init(&health->lock, NULL);
	kvh_cond_init(&health->changed);
	if (health->page != NULL)
		ret = kvh_nvme_spawn(&health->thread, health_run, health);
	if (ret == 0) {
		*health_p = health;
		return 0;
	}
	pthread_cond_destroy(&health->changed);
	pthread_mutex_destroy(&health->lock);
	free(health->page);
	free(health);
	return ret;
}

int kvh_nvme_health_close(struct kvh_nvme_health *health, uint64_t deadline_ns)
{
	bool ended;

	if (health == NULL)
		return 0;
	pthread_mutex_lock(&health->lock);
	health->stop = true;
	pthread_cond_signal(&health->changed);
	while (!health->ended &&
	       kvh_cond_wait(&health->changed, &health->lock, deadline_ns) == 0)
		;
	ended = health->ended;
	pthread_mutex_unlock(&health->lock);
	if (!ended)
		return -ETIMEDOUT;
	pthread_join(health->thread, NULL);
	pthread_cond_destroy(&health->changed);
	pthread_mutex_destroy(&health->lock);
	free(health->page);
	free(health);
	return 0;
}

int kvh_nvme_health_get(const struct kvh_nvme_health *health, const char **why_p)
{
	uint64_t since_ns = atomic_load(&health->since_ns);
	const char *why = atomic_load(&health->why);
	int error = atomic_load(&health->error);

	if (since_ns != 0 && kvh_now_ns() - since_ns > HANG_NS) {
		*why_p = "its file does not answer";
		return -ETIMEDOUT;
	}
	if (error == 0 || why == NULL)
		return 0;
	*why_p = why;
	return error;
}

bool kvh_nvme_health_full(const struct kvh_nvme_health *health)
{
	return atomic_load(&health->full);
}
