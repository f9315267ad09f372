/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listen.c - the queue between L1 and the store controller. A pop swaps two
 * arrays, so that the lock is held for moments and nothing is allocated once they
 * have grown; the eventfd is written once until the controller has looked.
 */
#include "host/listen.h"

#include "host/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ROOM_KEPT 65536u /* a larger array, of a burst, is not kept */

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
	free(listener->taken);
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
	bool first;
	int err;

	if (n == 0)
		return 0;
	pthread_mutex_lock(&listener->lock);
	first = listener->n == 0;
	err = make_room(listener, n);
	if (err == 0) {
		memcpy(listener->items + listener->n, items, n * sizeof(items[0]));
		listener->n += n;
		__atomic_store_n(&listener->pushed, listener->pushed + n, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&listener->lock);
	if (err == 0 && first)
		(void)eventfd_write(listener->fd, 1);
	return err;
}

uint32_t kvh_listener_pop(struct kvh_listener *listener, struct kvh_published **items_p)
{
	struct kvh_published *items;
	eventfd_t ignored;
	uint32_t n, room;

	(void)eventfd_read(listener->fd, &ignored); /* clear first, then look */
	pthread_mutex_lock(&listener->lock);
	n = listener->n;
	if (n > 0) {
		items = listener->items;
		room = listener->room;
		if (listener->taken_room > ROOM_KEPT) {
			free(listener->taken);
			listener->taken = NULL;
			listener->taken_room = 0;
		}
		listener->items = listener->taken;
		listener->room = listener->taken_room;
		listener->taken = items;
		listener->taken_room = room;
		listener->n = 0;
	}
	pthread_mutex_unlock(&listener->lock);
	*items_p = n > 0 ? listener->taken : NULL;
	return n;
}

uint64_t kvh_listener_pushed(const struct kvh_listener *listener)
{
	return __atomic_load_n(&listener->pushed, __ATOMIC_ACQUIRE);
}

int kvh_listener_fd(const struct kvh_listener *listener)
{
	return listener->fd;
}
