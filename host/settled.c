/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settled.c - keys on their way to the controller. Any thread tells; the
 * controller's takes.
 */
#include "host/settled.h"

#include <stdlib.h>

#define FIRST_ROOM 64u

void kvh_settled_open(struct kvh_settled *s, struct kvh_loop *loop,
		      void (*wake)(struct kvh_loop_work *work))
{
	*s = (struct kvh_settled){.loop = loop, .wake = {wake, NULL}};
	pthread_mutex_init(&s->lock, NULL);
}

void kvh_settled_close(struct kvh_settled *s)
{
	free(s->keys);
	pthread_mutex_destroy(&s->lock);
}

static bool make_room(struct kvh_settled *s)
{
	uint32_t room = s->room == 0 ? FIRST_ROOM : 2 * s->room;
	struct kvh_key *keys;

	if (s->n < s->room)
		return true;
	keys = realloc(s->keys, room * sizeof(keys[0]));
	if (keys == NULL)
		return false;
	s->keys = keys;
	s->room = room;
	return true;
}

void kvh_settled_tell(void *arg, const struct kvh_key *key)
{
	struct kvh_settled *s = arg;

	pthread_mutex_lock(&s->lock);
	if (make_room(s))
		s->keys[s->n++] = *key;
	else
		s->forgot = true;
	if (!s->posted)
		kvh_loop_post(s->loop, &s->wake);
	s->posted = true;
	pthread_mutex_unlock(&s->lock);
}

uint32_t kvh_settled_take(struct kvh_settled *s, struct kvh_key **keys_p, bool *forgot_p)
{
	uint32_t n;

	pthread_mutex_lock(&s->lock);
	n = s->n;
	*keys_p = s->keys;
	*forgot_p = s->forgot;
	s->keys = NULL;
	s->n = s->room = 0;
	s->forgot = s->posted = false;
	pthread_mutex_unlock(&s->lock);
	return n;
}
