/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_uring.c - transfers over io_uring, with the file and the attached memory
 * registered. No thread of its own.
 *
 * The ring may be used by one thread after another (open's helper, then the
 * controller), so it is not SINGLE_ISSUER, which could not register buffers
 * from the second. Transfers that are started together go to the kernel in one
 * call, but never two adjacent ones, as the block layer would merge them, which
 * costs a fifth of the rate.
 *
 *   running <= depth, cancels <= running: 2 * depth completions always fit
 */
#include "l2/nvme_engine.h"

#include "host/log.h"
#include "l2/l2.h"
#include "l2/req.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

#define REGIONS_MAX   1024u
#define REGION_BYTES  (UINT64_C(1) << 30) /* of the kernel, for one buffer */
#define DEPTH_MIN     8u
#define EVENT_SUBMITS 4u /* tries to submit at one call, for EINTR */

struct region {
	char *base;
	uint64_t len;
};

struct uring {
	struct io_uring ring;
	const struct kvh_nvme_file *file;
	int efd;
	int fd; /* registered: 0; or the file's own */
	bool fixed_file;
	bool fixed_buffers;
	bool plugged;
	uint64_t from, to; /* of the last one that is on the ring; to == 0: none */
	uint32_t depth;
	uint32_t running;              /* in the kernel, or on the submission ring */
	struct kvh_nvme_io_list later; /* wait for a place on the submission ring */
	struct kvh_nvme_io_list ended; /* not reaped yet */
	uint32_t n_regions;
	struct region regions[REGIONS_MAX];
};

static void uring_register(struct uring *u)
{
	int ret = io_uring_register_files(&u->ring, &u->file->fd, 1);

	u->fixed_file = ret == 0;
	u->fd = u->fixed_file ? 0 : u->file->fd;
	if (ret < 0)
		kvh_info("nvme: %s: the file cannot be registered: %s", u->file->path,
			 strerror(-ret));
	ret = io_uring_register_buffers_sparse(&u->ring, REGIONS_MAX);
	u->fixed_buffers = ret == 0;
	if (ret < 0)
		kvh_warn("nvme: %s: memory cannot be registered with io_uring: %s",
			 u->file->path, strerror(-ret));
}

/* A filter may let a ring be made and refuse what it is for; then nothing would
 * ever end. */
static int uring_probe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int ret;

	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, NULL);
	do
		ret = io_uring_submit_and_wait(ring, 1);
	while (ret == -EINTR);
	if (ret < 0)
		return ret;
	ret = io_uring_wait_cqe(ring, &cqe);
	if (ret == 0)
		io_uring_cqe_seen(ring, cqe);
	return ret;
}

static int uring_open(const struct kvh_nvme_file *file, uint32_t depth, uint32_t threads,
		      int efd, void **engine_p)
{
	struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP};
	struct uring *u;
	int ret = file->io->ring_allowed(file->io_ctx);

	(void)threads;
	if (ret < 0)
		return ret;
	u = calloc(1, sizeof(*u));
	if (u == NULL)
		return -ENOMEM;
	u->file = file;
	u->efd = efd;
	u->depth = depth < DEPTH_MIN ? DEPTH_MIN : depth;
	kvh_nvme_io_list_init(&u->later);
	kvh_nvme_io_list_init(&u->ended);
	params.cq_entries = 2 * u->depth;
	ret = io_uring_queue_init_params(u->depth, &u->ring, &params);
	if (ret < 0)
		goto err_free;
	ret = params.cq_entries < 2 * u->depth ? -EINVAL : uring_probe(&u->ring);
	if (ret == 0)
		ret = io_uring_register_eventfd(&u->ring, efd);
	if (ret < 0)
		goto err_ring;
	uring_register(u);
	*engine_p = u;
	return 0;

err_ring:
	io_uring_queue_exit(&u->ring);
err_free:
	free(u);
	return ret;
}

static void uring_close(void *engine)
{
	struct uring *u = engine;

	assert(u->running == 0 && u->later.head == NULL);
	/* The kernel takes a ring down when it likes; until then the file would stay
	 * open, and a block device claimed. */
	if (u->fixed_file)
		(void)io_uring_unregister_files(&u->ring);
	io_uring_queue_exit(&u->ring);
	free(u);
}

static int uring_attach(void *engine, void *base, uint64_t len)
{
	struct uring *u = engine;
	struct iovec iov = {.iov_base = base, .iov_len = len};
	__u64 tag = 0;
	int ret;

	if (!u->fixed_buffers)
		return -EOPNOTSUPP; /* logged at open */
	ret = -EINVAL;
	if (len > 0 && len <= REGION_BYTES)
		ret = u->n_regions == REGIONS_MAX
			      ? -ENOSPC
			      : io_uring_register_buffers_update_tag(&u->ring, u->n_regions,
								     &iov, &tag, 1);
	if (ret < 0) {
		kvh_warn("nvme: %s: %llu bytes of memory cannot be registered: %s%s",
			 u->file->path, (unsigned long long)len, strerror(-ret),
			 ret == -ENOMEM ? " (see RLIMIT_MEMLOCK)" : "");
		return ret;
	}
	u->regions[u->n_regions] = (struct region){base, len};
	return (int)u->n_regions++;
}

static bool is_registered(const struct uring *u, const struct kvh_nvme_io *io)
{
	const struct region *region;

	if (io->region >= u->n_regions)
		return false;
	region = &u->regions[io->region];
	return io->buf >= region->base &&
	       (uint64_t)(io->buf - region->base) + io->len <= region->len;
}

/* Nothing is lost if the kernel takes nothing now: the entries stay on the
 * ring, and the next call, at the latest the sweep's, tries again. */
static void uring_flush(struct uring *u)
{
	for (unsigned i = 0; i < EVENT_SUBMITS && io_uring_sq_ready(&u->ring) != 0; i++) {
		int ret = io_uring_submit(&u->ring);

		if (ret < 0 && ret != -EINTR)
			break;
	}
	u->to = 0;
}

static void uring_plug(void *engine, bool on)
{
	struct uring *u = engine;

	u->plugged = on;
	if (!on)
		uring_flush(u);
}

static void uring_end(struct uring *u, struct kvh_nvme_io *io)
{
	kvh_nvme_io_list_append(&u->ended, io);
	kvh_event_raise(u->efd);
}

static void prepare(const struct uring *u, const struct kvh_nvme_io *io,
		    struct io_uring_sqe *sqe)
{
	char *buf = io->buf + io->done;
	unsigned len = (unsigned)kvh_nvme_io_piece(io);
	uint64_t off = io->off + io->done;
	int index = (int)io->region;

	if (is_registered(u, io) && io->dir == KVH_IO_READ)
		io_uring_prep_read_fixed(sqe, u->fd, buf, len, off, index);
	else if (is_registered(u, io))
		io_uring_prep_write_fixed(sqe, u->fd, buf, len, off, index);
	else if (io->dir == KVH_IO_READ)
		io_uring_prep_read(sqe, u->fd, buf, len, off);
	else
		io_uring_prep_write(sqe, u->fd, buf, len, off);
	if (u->fixed_file)
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
}

/* The next piece goes to the kernel. */
static void uring_push(struct uring *u, struct kvh_nvme_io *io)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (io_uring_sq_space_left(&u->ring) == 0) {
		kvh_nvme_io_list_append(&u->later, io);
		return;
	}
	ret = u->file->io->submitting(u->file->io_ctx, (enum kvh_io_dir)io->dir, u->file->fd,
				      io->buf + io->done, kvh_nvme_io_piece(io),
				      (off_t)(io->off + io->done));
	if (ret < 0) {
		io->result = ret;
		uring_end(u, io);
		return;
	}
	if (u->to != 0 && (io->off + io->done == u->to || io->off + io->len == u->from))
		uring_flush(u);
	sqe = io_uring_get_sqe(&u->ring);
	assert(sqe != NULL && u->running < u->depth);
	prepare(u, io, sqe);
	io_uring_sqe_set_data(sqe, io);
	u->running++;
	u->from = io->off + io->done;
	u->to = u->from + kvh_nvme_io_piece(io);
	if (!u->plugged)
		uring_flush(u);
}

static void uring_start(void *engine, struct kvh_nvme_io *io)
{
	uring_push(engine, io);
}

static bool take_later(struct uring *u, const struct kvh_nvme_io *io)
{
	struct kvh_nvme_io *all = kvh_nvme_io_list_take(&u->later);
	bool found = false;

	while (all != NULL) {
		struct kvh_nvme_io *next = all->next;

		if (all == io)
			found = true;
		else
			kvh_nvme_io_list_append(&u->later, all);
		all = next;
	}
	return found;
}

static void uring_cancel(void *engine, struct kvh_nvme_io *io)
{
	struct uring *u = engine;
	struct io_uring_sqe *sqe;

	if (io->cancelled)
		return;
	io->cancelled = true;
	if (take_later(u, io)) {
		io->result = -ECANCELED;
		uring_end(u, io);
		return;
	}
	sqe = io_uring_get_sqe(&u->ring);
	if (sqe == NULL)
		return; /* it ends in its own time */
	io_uring_prep_cancel(sqe, io, 0);
	io_uring_sqe_set_data(sqe, NULL);
	uring_flush(u);
}

static void uring_completed(struct uring *u, struct kvh_nvme_io *io, int res)
{
	const struct kvh_nvme_file *file = u->file;

	u->running--;
	res = file->io->completed(file->io_ctx, (enum kvh_io_dir)io->dir, file->fd,
				  io->buf + io->done, kvh_nvme_io_piece(io),
				  (off_t)(io->off + io->done), res);
	if (kvh_nvme_io_advance(io, res, file->direct))
		kvh_nvme_io_list_append(&u->ended, io);
	else
		uring_push(u, io);
}

static struct kvh_nvme_io *uring_reap(void *engine)
{
	struct uring *u = engine;
	struct io_uring_cqe *cqe;
	struct kvh_nvme_io *later;

	uring_flush(u);
	while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
		struct kvh_nvme_io *io = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&u->ring, cqe);
		if (io != NULL) /* else a cancel's own, or nothing's */
			uring_completed(u, io, res);
	}
	for (later = kvh_nvme_io_list_take(&u->later); later != NULL;) {
		struct kvh_nvme_io *io = later;

		later = later->next;
		uring_push(u, io);
	}
	return kvh_nvme_io_list_take(&u->ended);
}

const struct kvh_nvme_engine_ops kvh_nvme_uring = {
	.name = "io_uring",
	.open = uring_open,
	.close = uring_close,
	.start = uring_start,
	.cancel = uring_cancel,
	.reap = uring_reap,
	.plug = uring_plug,
	.attach = uring_attach,
};
