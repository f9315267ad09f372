/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - one thread, epoll, an eventfd for posted work and a timerfd.
 *
 * The timer is armed for the time that tick asks for, and only changed when
 * that changes: a system call a change, not one a round.
 */
#include "host/loop.h"

#include "host/clock.h"
#include "host/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define EVENTS_A_ROUND 32

struct kvh_loop {
	int epoll_fd, wake_fd, timer_fd;
	uint64_t (*tick)(void *arg, uint64_t now_ns);
	void *arg;
	uint64_t armed_ns; /* what timer_fd is set to; UINT64_MAX: off */
	pthread_t thread;
	bool started;
	struct kvh_loop_source wake, timer;

	pthread_mutex_t lock; /* of all below */
	struct kvh_loop_work *head, **tail;
	bool stopping;
};

static struct kvh_loop *of_wake(struct kvh_loop_source *source)
{
	return (struct kvh_loop *)((char *)source - offsetof(struct kvh_loop, wake));
}

/* Runs what was posted before; when stopping, until nothing is left, since no
 * event follows the last. True: stopping, and empty. */
static bool run_posted(struct kvh_loop *loop)
{
	struct kvh_loop_work *work, *next;
	bool stopping, empty;

	do {
		pthread_mutex_lock(&loop->lock);
		work = loop->head;
		loop->head = NULL;
		loop->tail = &loop->head;
		stopping = loop->stopping;
		pthread_mutex_unlock(&loop->lock);
		empty = work == NULL;
		for (; work != NULL; work = next) {
			next = work->next;
			work->run(work);
		}
	} while (stopping && !empty);
	return stopping;
}

static void wake_ready(struct kvh_loop_source *source)
{
	eventfd_t ignored;

	(void)eventfd_read(of_wake(source)->wake_fd, &ignored);
}

static void timer_ready(struct kvh_loop_source *source)
{
	uint64_t ignored;

	if (read(source->fd, &ignored, sizeof(ignored)) < 0 && errno != EAGAIN)
		kvh_err("loop: timerfd read: %s", strerror(errno));
}

static void arm(struct kvh_loop *loop, uint64_t at_ns)
{
	struct itimerspec spec;

	if (at_ns == loop->armed_ns)
		return;
	memset(&spec, 0, sizeof(spec));
	if (at_ns != UINT64_MAX) {
		spec.it_value.tv_sec = (time_t)(at_ns / KVH_NS_PER_S);
		spec.it_value.tv_nsec = (long)(at_ns % KVH_NS_PER_S);
		if (at_ns == 0)
			spec.it_value.tv_nsec = 1; /* zero would switch it off */
	}
	if (timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL) != 0)
		kvh_err("loop: timerfd_settime: %s", strerror(errno));
	loop->armed_ns = at_ns;
}

static void *loop_main(void *arg)
{
	struct kvh_loop *loop = arg;
	struct epoll_event events[EVENTS_A_ROUND];
	uint64_t now, at;
	int n;

	while (!run_posted(loop)) {
		now = kvh_now_ns();
		at = loop->tick(loop->arg, now);
		if (loop->armed_ns <= now)
			loop->armed_ns = UINT64_MAX - 1; /* has fired: set it anew */
		arm(loop, at);
		n = epoll_wait(loop->epoll_fd, events, EVENTS_A_ROUND, -1);
		if (n < 0 && errno != EINTR)
			kvh_err("loop: epoll_wait: %s", strerror(errno));
		for (int i = 0; i < n; i++) {
			struct kvh_loop_source *source = events[i].data.ptr;

			source->ready(source);
		}
	}
	return NULL;
}

int kvh_loop_add(struct kvh_loop *loop, struct kvh_loop_source *source)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, source->fd, &event) != 0) {
		int err = errno;

		kvh_err("loop: epoll_ctl of fd %d: %s", source->fd, strerror(err));
		return -err;
	}
	return 0;
}

static int open_fds(struct kvh_loop *loop)
{
	int err;

	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (loop->epoll_fd < 0 || loop->wake_fd < 0 || loop->timer_fd < 0) {
		err = errno;
		kvh_err("loop: epoll, eventfd or timerfd: %s", strerror(err));
		return -err;
	}
	loop->wake = (struct kvh_loop_source){loop->wake_fd, wake_ready};
	loop->timer = (struct kvh_loop_source){loop->timer_fd, timer_ready};
	err = kvh_loop_add(loop, &loop->wake);
	return err != 0 ? err : kvh_loop_add(loop, &loop->timer);
}

int kvh_loop_open(uint64_t (*tick)(void *arg, uint64_t now_ns), void *arg,
		  struct kvh_loop **loop_p)
{
	struct kvh_loop *loop = calloc(1, sizeof(*loop));
	int err;

	if (loop == NULL)
		return -ENOMEM;
	loop->epoll_fd = loop->wake_fd = loop->timer_fd = -1;
	loop->tick = tick;
	loop->arg = arg;
	loop->armed_ns = UINT64_MAX;
	loop->tail = &loop->head;
	pthread_mutex_init(&loop->lock, NULL);
	err = open_fds(loop);
	if (err != 0) {
		kvh_loop_close(loop);
		return err;
	}
	*loop_p = loop;
	return 0;
}

int kvh_loop_start(struct kvh_loop *loop)
{
	int err = pthread_create(&loop->thread, NULL, loop_main, loop);

	if (err != 0) {
		kvh_err("loop: the controller's thread cannot be started: %s", strerror(err));
		return -err;
	}
	loop->started = true;
	return 0;
}

void kvh_loop_post(struct kvh_loop *loop, struct kvh_loop_work *work)
{
	bool first;

	work->next = NULL;
	pthread_mutex_lock(&loop->lock);
	first = loop->head == NULL;
	*loop->tail = work;
	loop->tail = &work->next;
	if (first) /* later ones are seen with it; under the lock, so that stop cannot close
		    * wake_fd in between */
		(void)eventfd_write(loop->wake_fd, 1);
	pthread_mutex_unlock(&loop->lock);
}

void kvh_loop_stop(struct kvh_loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	loop->stopping = true;
	(void)eventfd_write(loop->wake_fd, 1);
	pthread_mutex_unlock(&loop->lock);
	if (loop->started)
		pthread_join(loop->thread, NULL);
	loop->started = false;
	(void)run_posted(loop);
}

void kvh_loop_close(struct kvh_loop *loop)
{
	if (loop == NULL)
		return;
	if (loop->epoll_fd >= 0)
		(void)close(loop->epoll_fd);
	if (loop->wake_fd >= 0)
		(void)close(loop->wake_fd);
	if (loop->timer_fd >= 0)
		(void)close(loop->timer_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}
