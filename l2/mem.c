/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mem.c - frames in host memory, within `size` bytes and its spaces' limits.
 * Volatile. All on the controller's thread but peek, which the lock is for. A request is
 * carried out when it is reaped, so its buffer is in use until then and a cancel can come in
 * time, as with a slower medium. Limit: copies run on the controller's thread; it is for tests
 * and for hosts without a disk, not for speed.
 */
#include "l2/conf.h"
#include "l2/req.h"
#include "l2/shelf.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct mem_l2 {
	int fd;                      /* eventfd; rule 4 */
	uint32_t depth, accepted;    /* accepted <= depth */
	struct kvh_req_fifo waiting; /* `accepted` of them, oldest first */
	/* Changes of keys and lengths are made under it, by the one thread that makes
	 * any: that thread may look without. */
	pthread_mutex_t lock;
	struct kvh_shelf shelf; /* an item's data is the frame, malloc'ed */
};

static int mem_init(struct mem_l2 *mem, int eviction, uint64_t size)
{
	const struct kvh_order_ops *policy = kvh_order_find(kvh_shelf_policies[eviction]);
	int ret = kvh_shelf_open(&mem->shelf, policy, size);

	if (ret < 0)
		return ret;
	mem->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (mem->fd < 0) {
		ret = -errno;
		kvh_shelf_close(&mem->shelf);
		return ret;
	}
	pthread_mutex_init(&mem->lock, NULL);
	return 0;
}

static int mem_open(const char *conf, const struct kvh_l2_env *env, void **self_p)
{
	uint64_t size = UINT64_C(1) << 30;
	uint32_t depth = 256;
	int eviction = 0;
	const struct kvh_conf_option options[] = {
		{.name = "size",
		 .type = KVH_CONF_BYTES,
		 .value = &size,
		 .min = 8192,
		 .max = UINT64_C(1) << 48},
		{.name = "depth",
		 .type = KVH_CONF_U32,
		 .value = &depth,
		 .min = 1,
		 .max = 65536},
		{.name = "eviction",
		 .type = KVH_CONF_CHOICE,
		 .value = &eviction,
		 .choices = kvh_shelf_policies},
		{.name = NULL},
	};
	struct mem_l2 *mem;
	char *path;
	int ret = kvh_conf_parse("mem", conf, &path, options);

	(void)env; /* no file is touched */
	if (ret < 0)
		return ret;
	free(path); /* only a name, so that an engine can have two */
	mem = calloc(1, sizeof(*mem));
	if (mem == NULL)
		return -ENOMEM;
	mem->depth = depth;
	ret = mem_init(mem, eviction, size);
	if (ret < 0) {
		free(mem);
		return ret;
	}
	*self_p = mem;
	return 0;
}

/* Out with an item and its frame; `evicted`: for others. */
static void mem_drop(struct mem_l2 *mem, uint32_t item, bool evicted)
{
	struct kvh_shelf *shelf = &mem->shelf;

	pthread_mutex_lock(&mem->lock);
	if (kvh_shelf_at(shelf, item)->state == KVH_SHELF_LISTED)
		kvh_shelf_hold(shelf, item);
	free(kvh_shelf_at(shelf, item)->data);
	if (evicted)
		kvh_shelf_evicted(shelf, item);
	else
		kvh_shelf_set_len(shelf, item, 0);
	kvh_shelf_remove(shelf, item);
	pthread_mutex_unlock(&mem->lock);
}

static int mem_close(void *self, uint64_t deadline_ns)
{
	struct mem_l2 *mem = self;
	uint32_t item = 0;

	(void)deadline_ns; /* nothing runs that could outlast it */
	while ((item = kvh_shelf_next(&mem->shelf, item)) != KVH_SHELF_NONE)
		mem_drop(mem, item, false);
	assert(kvh_shelf_check(&mem->shelf));
	kvh_shelf_close(&mem->shelf);
	pthread_mutex_destroy(&mem->lock);
	close(mem->fd);
	free(mem);
	return 0;
}

static void mem_query(const void *self, struct kvh_l2_caps *caps)
{
	const struct mem_l2 *mem = self;

	*caps = (struct kvh_l2_caps){
		.max_inflight = mem->depth,
		.align = 1,
		.max_len = mem->shelf.size,
		.local_index = true,
		.volatile_ = true,
		.clear = true,
	};
}

static int make_room(struct mem_l2 *mem, uint32_t item, uint64_t len)
{
	uint32_t victim;
	int ret;

	while ((ret = kvh_shelf_room(&mem->shelf, item, len, &victim)) == 1)
		mem_drop(mem, victim, true);
	return ret;
}

static int mem_put(struct mem_l2 *mem, const struct kvh_l2_req *req)
{
	uint32_t item = kvh_shelf_find(&mem->shelf, &req->key);
	void *bytes;
	int ret;

	if (item != KVH_SHELF_NONE)
		mem_drop(mem, item, false);
	pthread_mutex_lock(&mem->lock);
	item = kvh_shelf_add(&mem->shelf, &req->key);
	pthread_mutex_unlock(&mem->lock);
	if (item == KVH_SHELF_NONE)
		return -ENOMEM;
	ret = make_room(mem, item, req->len);
	bytes = ret == 0 ? malloc(req->len) : NULL;
	if (bytes == NULL) {
		mem_drop(mem, item, false);
		return ret == 0 ? -ENOMEM : ret;
	}
	memcpy(bytes, req->buf, req->len);
	pthread_mutex_lock(&mem->lock);
	kvh_shelf_at(&mem->shelf, item)->data = bytes;
	kvh_shelf_set_len(&mem->shelf, item, req->len);
	kvh_shelf_list(&mem->shelf, item);
	pthread_mutex_unlock(&mem->lock);
	return 0;
}

static int mem_get(struct mem_l2 *mem, const struct kvh_l2_req *req, uint32_t item)
{
	const struct kvh_shelf_item *at = kvh_shelf_at(&mem->shelf, item);

	if (at->len != req->len)
		return -EIO; /* rule 5 */
	memcpy(req->buf, at->data, at->len);
	kvh_shelf_use(&mem->shelf, item); /* peek does not look at the order */
	return 0;
}

static int mem_clear(struct mem_l2 *mem, kvh_space_t space)
{
	const struct kvh_shelf *shelf = &mem->shelf;

	for (uint32_t item = kvh_shelf_next(shelf, 0); item != KVH_SHELF_NONE;
	     item = kvh_shelf_next(shelf, item + 1)) {
		if (kvh_shelf_at(shelf, item)->key.space == space)
			mem_drop(mem, item, false);
	}
	return 0;
}

static int mem_run(struct mem_l2 *mem, struct kvh_l2_req *req)
{
	uint32_t item;

	if (req->op == KVH_L2_PUT)
		return mem_put(mem, req);
	if (req->op == KVH_L2_CLEAR)
		return mem_clear(mem, req->key.space);
	item = kvh_shelf_find(&mem->shelf, &req->key);
	if (item == KVH_SHELF_NONE)
		return -ENOENT;
	switch (req->op) {
	case KVH_L2_GET: return mem_get(mem, req, item);
	case KVH_L2_PROBE: req->len = kvh_shelf_at(&mem->shelf, item)->len; return 0;
	case KVH_L2_DELETE: mem_drop(mem, item, false); return 0;
	case KVH_L2_PUT: /* above */
	case KVH_L2_CLEAR:
	case KVH_L2_FLUSH: break; /* refused: caps */
	}
	return -EINVAL;
}

static int mem_submit(void *self, struct kvh_l2_req *req)
{
	struct mem_l2 *mem = self;
	struct kvh_l2_caps caps;

	mem_query(mem, &caps);
	if (kvh_req_check(req, &caps) < 0)
		return -EINVAL;
	if (mem->accepted == mem->depth)
		return -EAGAIN;
	mem->accepted++;
	req->scratch[0] = 0; /* not cancelled */
	kvh_req_push(&mem->waiting, req);
	kvh_event_raise(mem->fd);
	return 0;
}

static void mem_cancel(void *self, struct kvh_l2_req *req)
{
	(void)self;
	req->scratch[0] = 1;
}

static uint32_t mem_reap(void *self, struct kvh_l2_req **done, uint32_t max)
{
	struct mem_l2 *mem = self;
	uint32_t n;

	kvh_event_clear(mem->fd);
	for (n = 0; n < max && mem->waiting.head != NULL; n++) {
		struct kvh_l2_req *req = kvh_req_pop(&mem->waiting);

		req->status = req->scratch[0] ? -ECANCELED : mem_run(mem, req);
		done[n] = req;
	}
	assert(n <= mem->accepted);
	mem->accepted -= n;
	if (mem->waiting.head != NULL)
		kvh_event_raise(mem->fd);
	return n;
}

static int mem_event_fd(const void *self)
{
	return ((const struct mem_l2 *)self)->fd;
}

static void mem_usage(const void *self, struct kvh_l2_usage *usage)
{
	kvh_shelf_usage(&((const struct mem_l2 *)self)->shelf, usage);
}

static int mem_limits(void *self, kvh_space_t space, uint64_t soft_bytes, uint64_t hard_bytes)
{
	return kvh_shelf_limits(&((struct mem_l2 *)self)->shelf, space, soft_bytes, hard_bytes);
}

static void mem_usage_space(const void *self, kvh_space_t space, struct kvh_l2_usage *usage)
{
	kvh_shelf_usage_space(&((const struct mem_l2 *)self)->shelf, space, usage);
}

static int mem_list(void *self,
		    bool (*visit)(void *arg, const struct kvh_key *key, uint64_t len),
		    void *arg)
{
	const struct kvh_shelf *shelf = &((struct mem_l2 *)self)->shelf;

	for (uint32_t i = kvh_shelf_next(shelf, 0); i != KVH_SHELF_NONE;
	     i = kvh_shelf_next(shelf, i + 1)) {
		if (!visit(arg, &kvh_shelf_at(shelf, i)->key, kvh_shelf_at(shelf, i)->len))
			break;
	}
	return 0;
}

static void mem_peek(const void *self, const struct kvh_key *keys, uint32_t n, uint8_t *found)
{
	struct mem_l2 *mem = (struct mem_l2 *)self; /* only the lock changes */

	pthread_mutex_lock(&mem->lock);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t item = kvh_shelf_find(&mem->shelf, &keys[i]);

		found[i] = item != KVH_SHELF_NONE && kvh_shelf_at(&mem->shelf, item)->len > 0;
	}
	pthread_mutex_unlock(&mem->lock);
}

extern const struct kvh_l2_ops kvh_l2_mem;
const struct kvh_l2_ops kvh_l2_mem = {
	.abi = KVH_L2_ABI,
	.name = "mem",
	.help = "size=BYTES  room for frames, 8K.. (1G)\n"
		"eviction=lru|s3-fifo|arc  which frames go first (lru)\n"
		"depth=N  requests at a time, 1..65536 (256)",
	.open = mem_open,
	.close = mem_close,
	.query = mem_query,
	.submit = mem_submit,
	.cancel = mem_cancel,
	.reap = mem_reap,
	.event_fd = mem_event_fd,
	.usage = mem_usage,
	.list = mem_list,
	.peek = mem_peek,
	.limits = mem_limits,
	.usage_space = mem_usage_space,
};
