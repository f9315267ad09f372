/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - one thread, epoll, an eventfd for posted work and a timer's fd.
 *
 * The timer is armed for the time that tick asks for, and only changed when
 * that changes: a system call a change, not one a round.
 */
#include "host/loop.h"

#include "host/histogram.h"
#include "host/log.h"
#include "host/pulse.h"
#include "host/thread.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS_A_ROUND 32

struct kvh_loop {
	int epoll_fd, wake_fd, timer_fd;
	uint64_t (*tick)(void *arg, uint64_t now_ns);
	void *arg;
	uint64_t armed_ns; /* what timer_fd is set to; UINT64_MAX: off */
	struct kvh_thread thread;
	bool started, begun; /* the thread; its first round */
	struct kvh_pulse pulse;
	struct kvh_histogram *rounds; /* how long one takes, or NULL */
	uint64_t woken_ns;            /* when this round began */
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
		kvh_pulse_set(&loop->pulse.waiting_ns, 0);
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
	kvh_timer_clear(source->fd);
}

static void arm(struct kvh_loop *loop, uint64_t at_ns)
{
	if (at_ns == loop->armed_ns)
		return;
	kvh_timer_arm(loop->timer_fd, at_ns);
	loop->armed_ns = at_ns;
}

static void woken(struct kvh_loop *loop)
{
	loop->woken_ns = kvh_now_ns();
	kvh_pulse_set(&loop->pulse.busy_ns, loop->woken_ns);
}

/* Sleeps, and handles the events; how many there were. */
static int run_events(struct kvh_loop *loop, enum kvh_wake wake)
{
	struct epoll_event events[EVENTS_A_ROUND];
	int n, handled = 0;

	kvh_pulse_set(&loop->pulse.busy_ns, 0);
	n = epoll_wait(loop->epoll_fd, events, EVENTS_A_ROUND, wake == KVH_WAKE_WAIT ? -1 : 0);
	woken(loop);

	if (n < 0 && errno != EINTR)
		kvh_err("loop: epoll_wait: %s", strerror(errno));
	for (int i = 0; i < n; i++) {
		struct kvh_loop_source *source = events[i].data.ptr;

		if (kvh_simulated() && source->hint && kvh_sim->lost(kvh_sim, source->fd))
			continue;
		source->ready(source);
		handled++;
	}
	return handled;
}

static enum kvh_round loop_round(void *arg, enum kvh_wake wake)
{
	struct kvh_loop *loop = arg;
	uint64_t now, at;

	/* The first one sets the timer, so nothing is slept for. */
	if (loop->begun && run_events(loop, wake) == 0 && wake == KVH_WAKE_IF_READY) {
		kvh_pulse_set(&loop->pulse.busy_ns, 0);
		return KVH_ROUND_ASLEEP;
	}
	if (!loop->begun)
		woken(loop);
	loop->begun = true;
	if (run_posted(loop)) {
		kvh_pulse_set(&loop->pulse.busy_ns, 0);
		return KVH_ROUND_END;
	}
	now = kvh_now_ns();
	at = loop->tick(loop->arg, now);
	if (loop->armed_ns <= now)
		loop->armed_ns = UINT64_MAX - 1; /* has fired: set it anew */
	arm(loop, at);
	if (loop->rounds != NULL)
		kvh_histogram_add(loop->rounds, kvh_now_ns() - loop->woken_ns);
	return KVH_ROUND_DONE;
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

void kvh_loop_remove(struct kvh_loop *loop, struct kvh_loop_source *source)
{
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL) != 0)
		kvh_err("loop: epoll_ctl of fd %d: %s", source->fd, strerror(errno));
}

static int open_fds(struct kvh_loop *loop)
{
	int err;

	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (loop->epoll_fd < 0 || loop->wake_fd < 0) {
		err = errno;
		kvh_err("loop: epoll or eventfd: %s", strerror(err));
		return -err;
	}
	loop->timer_fd = kvh_timer_open();
	if (loop->timer_fd < 0) {
		kvh_err("loop: timer: %s", strerror(-loop->timer_fd));
		return loop->timer_fd;
	}
	loop->wake = (struct kvh_loop_source){.fd = loop->wake_fd, .ready = wake_ready};
	loop->timer = (struct kvh_loop_source){.fd = loop->timer_fd, .ready = timer_ready};
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
	int err;

	loop->thread.name = "kvh-controller";
	loop->thread.round = loop_round;
	loop->thread.arg = loop;
	err = kvh_thread_start(&loop->thread);
	loop->started = err == 0;
	return err;
}

void kvh_loop_post(struct kvh_loop *loop, struct kvh_loop_work *work)
{
	bool first;

	work->next = NULL;
	pthread_mutex_lock(&loop->lock);
	first = loop->head == NULL;
	*loop->tail = work;
	loop->tail = &work->next;
	if (first)
		kvh_pulse_set(&loop->pulse.waiting_ns, kvh_now_ns());
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
		kvh_thread_join(&loop->thread);
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
		kvh_timer_close(loop->timer_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

const struct kvh_pulse *kvh_loop_pulse(const struct kvh_loop *loop)
{
	return &loop->pulse;
}

void kvh_loop_measure(struct kvh_loop *loop, struct kvh_histogram *rounds)
{
	loop->rounds = rounds;
}
