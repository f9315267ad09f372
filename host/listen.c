/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listen.c - the queue between publishing and the store controller. A pop takes
 * the whole array, so that the lock is held for a swap.
 */
#include "host/listen.h"

#include "host/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int kvh_listener_open(struct kvh_listener *listener)
{
	memset(listener, 0, sizeof(*listener));
	listener->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (listener->fd < 0) {
		int err = errno;

		kvh_err("listener: eventfd: %s", strerror(err));
		return -err;
	}
	pthread_mutex_init(&listener->lock, NULL);
	return 0;
}

void kvh_listener_close(struct kvh_listener *listener)
{
	free(listener->items);
	(void)close(listener->fd);
	pthread_mutex_destroy(&listener->lock);
}

static int make_room(struct kvh_listener *listener, uint32_t n)
{
	uint32_t room = listener->room < 64 ? 64 : listener->room;
	struct kvh_published *items;

	while (room < listener->n + n)
		room *= 2;
	if (room == listener->room)
		return 0;
	items = realloc(listener->items, room * sizeof(items[0]));
	if (items == NULL)
		return -ENOMEM;
	listener->items = items;
	listener->room = room;
	return 0;
}

int kvh_listener_push(struct kvh_listener *listener, const struct kvh_published *items,
		      uint32_t n)
{
	int err;

	if (n == 0)
		return 0;
	pthread_mutex_lock(&listener->lock);
	err = make_room(listener, n);
	if (err == 0) {
		memcpy(listener->items + listener->n, items, n * sizeof(items[0]));
		listener->n += n;
	}
	pthread_mutex_unlock(&listener->lock);
	if (err == 0)
		(void)eventfd_write(listener->fd, 1);
	return err;
}

uint32_t kvh_listener_pop(struct kvh_listener *listener, struct kvh_published **items_p)
{
	eventfd_t ignored;
	uint32_t n;

	(void)eventfd_read(listener->fd, &ignored); /* clear first, then look */
	pthread_mutex_lock(&listener->lock);
	n = listener->n;
	*items_p = n > 0 ? listener->items : NULL;
	if (n > 0) {
		listener->items = NULL;
		listener->n = 0;
		listener->room = 0;
	}
	pthread_mutex_unlock(&listener->lock);
	return n;
}

int kvh_listener_fd(const struct kvh_listener *listener)
{
	return listener->fd;
}
