/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_engine.c - how a transfer goes on, the same for both engines; whoever has
 * the transfer. And how threads are started.
 */
#include "l2/nvme_engine.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>

/* In a row, without a byte moved: more than any kernel needs, less than for ever. */
#define RETRIES_MAX 16u

static bool ended(struct kvh_nvme_io *io, int result)
{
	io->result = result;
	return true;
}

bool kvh_nvme_io_advance(struct kvh_nvme_io *io, int64_t res, bool direct)
{
	/* O_DIRECT can be continued only at a page. */
	int64_t moved = direct ? res & ~(int64_t)(KVH_NVME_PAGE - 1) : res;
	bool again = res == -EINTR || res == -EAGAIN || (res > 0 && moved == 0);

	if (res < 0 && !again)
		return ended(io, (int)res);
	if (res == 0 || (again && ++io->retries > RETRIES_MAX))
		return ended(io, -EIO);
	if (moved > 0) {
		assert((uint64_t)moved <= io->len - io->done);
		io->done += (uint64_t)moved;
		io->retries = 0;
	}
	if (io->done == io->len)
		return ended(io, 0);
	return __atomic_load_n(&io->cancelled, __ATOMIC_RELAXED) ? ended(io, -ECANCELED)
								 : false;
}

int kvh_nvme_spawn(pthread_t *thread, void *(*run)(void *), void *arg)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -ret;
}
