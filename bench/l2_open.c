/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2_open.c - fills an adapter with small frames, and opens it again and again.
 * One thread; between rigs, so that the process has no other when it forks.
 * Limit: what the disk's own cache, or a hypervisor's, still knows is not cold.
 */
#include "bench/l2_open.h"

#include "bench/bench.h"
#include "bench/l2_fio.h"
#include "bench/l2_rig.h"
#include "bench/measure.h"
#include "host/clock.h"
#include "host/frame.h"
#include "l2/io.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRIES_MAX 16u

static const struct kvh_l2_env env = {.io = &kvh_io_system};

static int fill(const struct kvh_open_opts *opts, struct kvh_open_result *result)
{
	const struct kvh_rig_opts rig_opts = {
		.spec = opts->spec,
		.frame_bytes = opts->frame_bytes,
		.depth = KVH_OPEN_DEPTH,
		.raw = true,
	};
	struct kvh_rig_result run = {0};
	struct kvh_rig *rig;
	uint64_t room;
	int err = kvh_rig_open(&rig_opts, &rig), closed;

	if (err != 0)
		return err;
	room = kvh_rig_room(rig, UINT64_MAX);
	if (room < opts->frames) {
		kvh_bench_complain("%" PRIu64 " frames of %" PRIu64
				   " bytes do not fit, %" PRIu64
				   " do: a larger size= is needed",
				   opts->frames, opts->frame_bytes, room);
		err = -ENOSPC;
	}
	if (err == 0)
		err = kvh_rig_run(rig, KVH_L2_STORE, opts->frames, &run);
	result->frames = kvh_rig_objects(rig);
	result->frame_bytes = opts->frame_bytes;
	closed = kvh_rig_close(rig);
	free(run.latency.ns);
	if (err == 0 && run.failed > 0) {
		kvh_bench_complain("%" PRIu64 " frames could not be stored", run.failed);
		err = -EIO;
	}
	return err != 0 ? err : closed;
}

/* The open call alone, and what it found. */
static int open_timed(const struct kvh_open_opts *opts, double *seconds_p, uint64_t *found_p)
{
	const struct kvh_l2_ops *ops;
	struct kvh_l2_usage usage = {0};
	const char *conf;
	uint64_t began;
	void *self;
	int err = kvh_l2_find(opts->spec, &ops, &conf);

	if (err != 0)
		return err;
	began = kvh_now_ns();
	err = ops->open(conf, &env, &self);
	if (err != 0)
		return err;
	*seconds_p = (double)(kvh_now_ns() - began) / 1e9;
	ops->usage(self, &usage);
	*found_p = usage.objects;
	return ops->close(self, KVH_L2_DEADLINE_NO);
}

/* Opens, stores a frame, and is killed in the midst of it all. */
static void die_with_it_open(const struct kvh_open_opts *opts)
{
	const struct kvh_l2_ops *ops;
	struct kvh_l2_req req = {.op = KVH_L2_PUT, .region = KVH_L2_NO_REGION};
	const uint8_t digest[32] = {0};
	const struct kvh_hash parent = {{0}};
	const char *conf;
	void *self;

	req.len = opts->frame_bytes;
	req.buf = aligned_alloc(KVH_FRAME_ALIGN, req.len);
	if (req.buf == NULL || kvh_l2_find(opts->spec, &ops, &conf) != 0 ||
	    ops->open(conf, &env, &self) != 0)
		_exit(KVH_BENCH_FAILED);
	kvh_frame_fill(req.buf, &req.key, digest, &parent, 1, req.len - KVH_FRAME_ALIGN);
	kvh_frame_seal(req.buf);
	if (ops->submit(self, &req) == 0) {
		struct pollfd pfd = {.fd = ops->event_fd(self), .events = POLLIN};
		struct kvh_l2_req *done;

		do
			(void)poll(&pfd, 1, 100);
		while (ops->reap(self, &done, 1) == 0);
	}
	(void)kill(getpid(), SIGKILL);
	_exit(KVH_BENCH_FAILED);
}

static int crash(const struct kvh_open_opts *opts)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		die_with_it_open(opts);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -errno;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return 0;
	kvh_bench_complain("the process that was to be killed ended before that");
	return -EIO;
}

static int median_of(const struct kvh_open_opts *opts, const struct kvh_target *target,
		     bool crashed, double *seconds_p, uint64_t *found_p)
{
	double seconds[TRIES_MAX] = {0};
	uint32_t n = opts->tries < TRIES_MAX ? opts->tries : TRIES_MAX;
	int err = 0;

	for (uint32_t i = 0; i < n && err == 0; i++) {
		if (crashed)
			err = crash(opts);
		kvh_target_cool(target);
		if (err == 0)
			err = open_timed(opts, &seconds[i], found_p);
		if (err == 0 && kvh_bench_signal != 0)
			err = -EINTR;
	}
	*seconds_p = kvh_spread_of(seconds, n).median;
	return err;
}

static int fio_timed(const struct kvh_open_opts *opts, const struct kvh_target *target,
		     double *seconds_p)
{
	double seconds[TRIES_MAX] = {0};
	uint32_t n = opts->tries < TRIES_MAX ? opts->tries : TRIES_MAX;
	struct kvh_fio_result run;
	int err = 0;

	for (uint32_t i = 0; i < n && err == 0; i++) {
		const struct kvh_fio_opts fio = {
			.path = target->path,
			.pattern = "randread",
			.size = target->bytes,
			.block = KVH_FRAME_ALIGN,
			.bytes = opts->frames * KVH_FRAME_ALIGN,
			.depth = KVH_OPEN_DEPTH,
			.seed = i + 1,
			.huge = kvh_fio_huge(KVH_FRAME_ALIGN, KVH_OPEN_DEPTH),
		};

		err = kvh_fio_run(&fio, &run);
		seconds[i] = run.seconds;
	}
	if (err == 0)
		*seconds_p = kvh_spread_of(seconds, n).median;
	return err;
}

static bool keeps(const struct kvh_open_opts *opts)
{
	const struct kvh_l2_ops *ops;
	struct kvh_l2_caps caps = {.volatile_ = true};
	const char *conf;
	void *self;

	if (kvh_l2_find(opts->spec, &ops, &conf) != 0 || ops->open(conf, &env, &self) != 0)
		return false;
	ops->query(self, &caps);
	(void)ops->close(self, KVH_L2_DEADLINE_NO);
	if (caps.volatile_)
		kvh_bench_complain("%s keeps nothing over a close: no open to time",
				   opts->spec);
	return !caps.volatile_;
}

int kvh_open_times(const struct kvh_open_opts *opts, struct kvh_target *target,
		   struct kvh_open_result *result)
{
	int err = keeps(opts) ? fill(opts, result) : -EOPNOTSUPP;

	if (err != 0)
		return err;
	kvh_target_look(target);
	err = median_of(opts, target, false, &result->clean_s, &result->clean_frames);
	if (err == 0)
		err = median_of(opts, target, true, &result->crash_s, &result->crash_frames);
	if (err == 0 && opts->fio &&
	    (target->kind == KVH_TARGET_FILE || target->kind == KVH_TARGET_BLOCK))
		err = fio_timed(opts, target, &result->fio_s);
	if (err == -ENOENT) { /* said once, by whoever asked */
		result->fio_s = 0;
		err = 0;
	}
	return err;
}
