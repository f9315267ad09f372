/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme.c - the nvme adapter: frames in slots of preallocated files or block
 * devices. This file has the table that the controller calls; nvme_open.c opens
 * and closes, nvme_task.c has the requests. On the controller thread, but open and
 * close (a helper's) and peek (any). docs/nvme.md has the layout on disk and what
 * is promised. Limit: a file's size is that of its format.
 */
#include "l2/nvme.h"

#include <assert.h>
#include <string.h>

#define WRITE_ERRORS 8u /* in a row: it is not one bad slot */

static void nvme_query(const void *self, struct kvh_l2_caps *caps)
{
	const struct kvh_nvme *nvme = self;

	uint64_t max_len = nvme->files[0].super->segment_bytes;

	for (uint32_t i = 1; i < nvme->n_stripes; i++) {
		if (nvme->files[i].super->segment_bytes < max_len)
			max_len = nvme->files[i].super->segment_bytes;
	}
	*caps = (struct kvh_l2_caps){
		.max_inflight = nvme->conf.depth,
		.align = KVH_NVME_PAGE,
		.max_len = max_len,
		.local_index = true,
		.volatile_ = false,
		.clear = true,
		.flush = true,
	};
}

static int nvme_submit(void *self, struct kvh_l2_req *req)
{
	struct kvh_nvme *nvme = self;
	struct kvh_l2_caps caps;

	nvme_query(nvme, &caps);
	if (kvh_req_check(req, &caps) < 0)
		return -EINVAL;
	if (nvme->accepted == nvme->conf.depth)
		return -EAGAIN;
	nvme->accepted++;
	kvh_nvme_task_begin(nvme, req);
	return 0;
}

static void nvme_cancel(void *self, struct kvh_l2_req *req)
{
	kvh_nvme_task_cancel(self, req);
}

static uint32_t nvme_reap(void *self, struct kvh_l2_req **done, uint32_t max)
{
	struct kvh_nvme *nvme = self;
	uint32_t n;

	kvh_event_clear(nvme->efd);
	kvh_nvme_task_advance(nvme);
	for (n = 0; n < max && nvme->done.head != NULL; n++)
		done[n] = kvh_req_pop(&nvme->done);
	assert(n <= nvme->accepted);
	nvme->accepted -= n;
	if (nvme->done.head != NULL)
		kvh_event_raise(nvme->efd);
	return n;
}

/* A region has the same number in every ring, or is in none. */
static int nvme_attach(void *self, void *base, uint64_t len)
{
	struct kvh_nvme *nvme = self;
	int region = -EOPNOTSUPP;

	for (uint32_t i = 0; i < nvme->n_stripes; i++) {
		struct kvh_nvme_stripe *stripe = &nvme->stripes[i];
		int ret = stripe->engine_ops->attach != NULL
				  ? stripe->engine_ops->attach(stripe->engine, base, len)
				  : -EOPNOTSUPP;

		if (ret < 0 || (i > 0 && ret != region))
			return ret < 0 ? ret : -EOPNOTSUPP;
		region = ret;
	}
	return region;
}

static int nvme_event_fd(const void *self)
{
	return ((const struct kvh_nvme *)self)->efd;
}

static void nvme_usage(const void *self, struct kvh_l2_usage *usage)
{
	const struct kvh_nvme *nvme = self;

	*usage = (struct kvh_l2_usage){.used_bytes = 0};
	for (uint32_t i = 0; i < nvme->n_stripes; i++) {
		const struct kvh_nvme_index *index = &nvme->stripes[i].index;

		usage->used_bytes += index->used_bytes;
		usage->capacity_bytes += index->super->bytes - index->super->data_offset;
		usage->objects += index->objects;
		usage->evicted += index->evicted;
		usage->buffered += nvme->stripes[i].buffered;
	}
}

static void nvme_usage_space(const void *self, kvh_space_t id, struct kvh_l2_usage *usage)
{
	const struct kvh_nvme *nvme = self;
	const struct kvh_nvme_space *space = kvh_nvme_space_find(&nvme->spaces, id);

	*usage = (struct kvh_l2_usage){.used_bytes = 0};
	if (space != NULL)
		*usage = (struct kvh_l2_usage){
			.used_bytes = space->used_bytes,
			.capacity_bytes = space->hard_bytes,
			.objects = space->objects,
			.evicted = space->evicted,
		};
}

static int nvme_limits(void *self, kvh_space_t id, uint64_t soft_bytes, uint64_t hard_bytes)
{
	struct kvh_nvme *nvme = self;
	struct kvh_nvme_space *space;

	if (soft_bytes != 0 && hard_bytes != 0 && soft_bytes > hard_bytes)
		return -EINVAL;
	space = kvh_nvme_space_get(&nvme->spaces, id);
	if (space == NULL)
		return -ENOMEM;
	space->soft_bytes = soft_bytes;
	space->hard_bytes = hard_bytes;
	return 0;
}

static int nvme_health(const void *self, const char **why_p)
{
	const struct kvh_nvme *nvme = self;
	int ret = nvme->health != NULL ? kvh_nvme_health_get(nvme->health, why_p) : 0;

	for (uint32_t i = 0; i < nvme->n_stripes && ret == 0; i++) {
		if (nvme->stripes[i].write_errors < WRITE_ERRORS)
			continue;
		*why_p = "its writes fail";
		ret = -EIO;
	}
	return ret;
}

static bool list_pool(const struct kvh_nvme_index *index, const struct kvh_nvme_pool *pool,
		      bool (*visit)(void *arg, const struct kvh_key *key, uint64_t len),
		      void *arg)
{
	for (uint32_t list = 0; list < 2; list++) {
		uint32_t id = pool->order.lists[list].oldest;

		for (; id != KVH_NVME_NONE; id = index->items.links[id].newer) {
			struct kvh_key key = kvh_nvme_slot_key(index, id);

			if (!visit(arg, &key, index->classes[pool->class].slot_bytes))
				return false;
		}
	}
	return true;
}

static int nvme_list(void *self,
		     bool (*visit)(void *arg, const struct kvh_key *key, uint64_t len),
		     void *arg)
{
	const struct kvh_nvme *nvme = self;

	for (uint32_t i = 0; i < nvme->n_stripes; i++) {
		const struct kvh_nvme_index *index = &nvme->stripes[i].index;

		for (uint32_t p = 0; p < index->n_pools; p++) {
			if (!list_pool(index, &index->pools[p], visit, arg))
				return 0;
		}
	}
	return 0;
}

static void nvme_peek(const void *self, const struct kvh_key *keys, uint32_t n, uint8_t *found)
{
	const struct kvh_nvme *nvme = self;

	if (nvme->n_stripes == 1) {
		kvh_nvme_index_peek(&nvme->stripes[0].index, keys, n, found);
		return;
	}
	for (uint32_t i = 0; i < n; i++)
		kvh_nvme_index_peek(&kvh_nvme_stripe_of(nvme, &keys[i])->index, &keys[i], 1,
				    &found[i]);
}

extern const struct kvh_l2_ops kvh_l2_nvme;
const struct kvh_l2_ops kvh_l2_nvme = {
	.abi = KVH_L2_ABI,
	.name = "nvme",
	.help = "PATH  file or block device\n"
		"stripe=PATH  another one; as many as there are stripes\n"
		"size=BYTES  of each file, 1M..; needed to make it\n"
		"segment=BYTES  when it is made; the largest frame (an eighth, at most 1G)\n"
		"engine=auto|uring|threads  (auto: threads where io_uring is refused)\n"
		"depth=N  requests at a time, 1..4096 (64)\n"
		"budget=BYTES  in flight in each file, 1M.. (searched for)\n"
		"threads=N  of the threads engine, 1..256 (16)\n"
		"direct=auto|on|off  past the page cache (auto: where it can be)\n"
		"sync=close|none|write  when what was written is flushed (close)\n"
		"eviction=lru|s3-fifo|arc  which frames go first (lru)\n"
		"floor=BYTES|PERCENT%  of free space on the file system (0)\n"
		"discard=yes|no  gives the room of deleted frames back (no)\n"
		"check=MS  how often it looks after its files, 0: never (250)\n"
		"format=yes|no  over what would be refused (no)",
	.open = kvh_nvme_open,
	.close = kvh_nvme_close,
	.query = nvme_query,
	.attach = nvme_attach,
	.submit = nvme_submit,
	.cancel = nvme_cancel,
	.reap = nvme_reap,
	.event_fd = nvme_event_fd,
	.usage = nvme_usage,
	.list = nvme_list,
	.peek = nvme_peek,
	.limits = nvme_limits,
	.usage_space = nvme_usage_space,
	.health = nvme_health,
};
