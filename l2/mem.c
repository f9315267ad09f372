/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mem.c - frames in host memory, within `size` bytes, least recently used out
 * first. Volatile. All on the controller's thread but peek, which the lock is
 * for. A request is carried out when it is reaped, so its buffer is in use
 * until then and a cancel can come in time, as with a slower medium.
 * Limit: copies run on the controller's thread; it is for tests and for hosts
 * without a disk, not for speed.
 */
#include "l2/conf.h"
#include "l2/lru.h"
#include "l2/req.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct mem_frame {
	struct kvh_lru_node node; /* first */
	uint64_t len;
	uint8_t bytes[];
};

struct mem_l2 {
	int fd; /* eventfd; rule 4 */
	uint64_t size;
	uint32_t depth, accepted;    /* accepted <= depth */
	struct kvh_req_fifo waiting; /* `accepted` of them, oldest first */
	uint64_t used, evicted;      /* used == sum of the frames' len <= size */
	/* Changes of `lru` are made under it, by the one thread that makes any:
	 * that thread may look without. */
	pthread_mutex_t lock;
	struct kvh_lru lru;
};

static int mem_init(struct mem_l2 *mem)
{
	int ret = kvh_lru_init(&mem->lru);

	if (ret < 0)
		return ret;
	mem->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (mem->fd < 0) {
		ret = -errno;
		kvh_lru_fini(&mem->lru);
		return ret;
	}
	pthread_mutex_init(&mem->lock, NULL);
	return 0;
}

static int mem_open(const char *conf, const struct kvh_l2_env *env, void **self_p)
{
	uint64_t size = UINT64_C(1) << 30;
	uint32_t depth = 256;
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
	mem->size = size;
	mem->depth = depth;
	ret = mem_init(mem);
	if (ret < 0) {
		free(mem);
		return ret;
	}
	*self_p = mem;
	return 0;
}

static struct mem_frame *mem_find(const struct mem_l2 *mem, const struct kvh_key *key)
{
	return (struct mem_frame *)kvh_lru_find(&mem->lru, key);
}

static void mem_drop(struct mem_l2 *mem, struct mem_frame *frame)
{
	pthread_mutex_lock(&mem->lock);
	kvh_lru_remove(&mem->lru, &frame->node);
	pthread_mutex_unlock(&mem->lock);
	assert(mem->used >= frame->len);
	mem->used -= frame->len;
	free(frame);
}

static int mem_close(void *self, uint64_t deadline_ns)
{
	struct mem_l2 *mem = self;
	struct kvh_lru_node *node;

	(void)deadline_ns; /* nothing runs that could outlast it */
	while ((node = kvh_lru_oldest(&mem->lru)) != NULL)
		mem_drop(mem, (struct mem_frame *)node);
	assert(mem->used == 0);
	kvh_lru_fini(&mem->lru);
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
		.max_len = mem->size,
		.local_index = true,
		.volatile_ = true,
	};
}

static int mem_put(struct mem_l2 *mem, const struct kvh_l2_req *req)
{
	struct mem_frame *frame = mem_find(mem, &req->key);

	if (frame != NULL)
		mem_drop(mem, frame);
	while (mem->used + req->len > mem->size) {
		mem_drop(mem, (struct mem_frame *)kvh_lru_oldest(&mem->lru));
		mem->evicted++;
	}
	frame = malloc(sizeof(*frame) + req->len);
	if (frame == NULL)
		return -ENOMEM;
	frame->node.key = req->key;
	frame->len = req->len;
	memcpy(frame->bytes, req->buf, req->len);
	pthread_mutex_lock(&mem->lock);
	kvh_lru_insert(&mem->lru, &frame->node);
	pthread_mutex_unlock(&mem->lock);
	mem->used += req->len;
	return 0;
}

static int mem_get(struct mem_l2 *mem, const struct kvh_l2_req *req)
{
	struct mem_frame *frame = mem_find(mem, &req->key);

	if (frame == NULL)
		return -ENOENT;
	if (frame->len != req->len)
		return -EIO; /* rule 5 */
	memcpy(req->buf, frame->bytes, frame->len);
	kvh_lru_touch(&mem->lru, &frame->node); /* peek does not look at the order */
	return 0;
}

static int mem_run(struct mem_l2 *mem, struct kvh_l2_req *req)
{
	struct mem_frame *frame;

	switch (req->op) {
	case KVH_L2_PUT: return mem_put(mem, req);
	case KVH_L2_GET: return mem_get(mem, req);
	case KVH_L2_PROBE:
	case KVH_L2_DELETE: break;
	case KVH_L2_CLEAR: /* refused: caps */
	case KVH_L2_FLUSH: return -EINVAL;
	}
	frame = mem_find(mem, &req->key);
	if (frame == NULL)
		return -ENOENT;
	if (req->op == KVH_L2_PROBE)
		req->len = frame->len;
	else
		mem_drop(mem, frame);
	return 0;
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
	const struct mem_l2 *mem = self;

	*usage = (struct kvh_l2_usage){
		.used_bytes = mem->used,
		.capacity_bytes = mem->size,
		.objects = mem->lru.n_nodes,
		.evicted = mem->evicted,
	};
}

static int mem_list(void *self,
		    bool (*visit)(void *arg, const struct kvh_key *key, uint64_t len),
		    void *arg)
{
	struct mem_l2 *mem = self;

	for (struct kvh_lru_node *node = kvh_lru_oldest(&mem->lru); node != &mem->lru.ends;
	     node = node->newer) {
		if (node == NULL || !visit(arg, &node->key, ((struct mem_frame *)node)->len))
			break;
	}
	return 0;
}

static void mem_peek(const void *self, const struct kvh_key *keys, uint32_t n, uint8_t *found)
{
	struct mem_l2 *mem = (struct mem_l2 *)self; /* only the lock changes */

	pthread_mutex_lock(&mem->lock);
	for (uint32_t i = 0; i < n; i++)
		found[i] = kvh_lru_find(&mem->lru, &keys[i]) != NULL;
	pthread_mutex_unlock(&mem->lock);
}

extern const struct kvh_l2_ops kvh_l2_mem;
const struct kvh_l2_ops kvh_l2_mem = {
	.abi = KVH_L2_ABI,
	.name = "mem",
	.help = "size=BYTES  room for frames, 8K.. (1G)\n"
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
};
