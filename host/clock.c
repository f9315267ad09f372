/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.c - timers as fds. In a simulation an eventfd stands for the timerfd, and
 * the simulation raises it when its time has come. A timer belongs to one thread
 * at a time.
 */
#include "host/clock.h"

#include "host/log.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

struct kvh_sim *kvh_sim;

uint64_t kvh_wall_ns(void)
{
	struct timespec ts;

	if (kvh_simulated())
		return kvh_now_ns();
	(void)clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * KVH_NS_PER_S + (uint64_t)ts.tv_nsec;
}

int kvh_timer_open(void)
{
	int fd = kvh_simulated() ? eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
				 : timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

void kvh_timer_arm(int fd, uint64_t at_ns)
{
	struct itimerspec spec = {.it_value = {0}};

	if (kvh_simulated()) {
		kvh_sim->arm(kvh_sim, fd, at_ns);
		return;
	}
	if (at_ns != UINT64_MAX)
		spec.it_value = kvh_timespec(at_ns != 0 ? at_ns : 1); /* 0 is off */
	if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, NULL) != 0)
		kvh_err("timer: timerfd_settime: %s", strerror(errno));
}

void kvh_timer_clear(int fd)
{
	uint64_t ignored;

	if (read(fd, &ignored, sizeof(ignored)) < 0 && errno != EAGAIN)
		kvh_err("timer: read: %s", strerror(errno));
}

void kvh_timer_close(int fd)
{
	if (kvh_simulated())
		kvh_sim->arm(kvh_sim, fd, UINT64_MAX);
	(void)close(fd);
}
