/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.c - wraps another adapter and does to its requests what a script says
 * (l2/fault.h, docs/adapters.md). Everything on the controller's thread but
 * the handle's functions, which the lock is for. Every request travels as a
 * twin in a slot (l2/fault_slot.h), so that the submitter's is touched only as
 * rule 3 allows, and a PUT's buffer never.
 */
#include "l2/fault_slot.h"

#include "host/log.h"
#include "l2/conf.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define SLOTS_MAX 4096u
#define BATCH     32u

static pthread_mutex_t instances_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvh_fault *instances;

/* ---- the handle -------------------------------------------------------- */

struct kvh_fault *kvh_fault_find(const char *name)
{
	struct kvh_fault *fault;

	pthread_mutex_lock(&instances_lock);
	fault = instances;
	while (fault != NULL && strcmp(fault->name, name) != 0)
		fault = fault->older;
	pthread_mutex_unlock(&instances_lock);
	return fault;
}

int kvh_fault_set_script(struct kvh_fault *fault, const char *text)
{
	struct kvh_fault_rule *rules;
	uint32_t n;
	int ret = kvh_fault_parse(text, &rules, &n);

	if (ret < 0)
		return ret;
	pthread_mutex_lock(&fault->lock);
	free(fault->rules);
	fault->rules = rules;
	fault->n_rules = n;
	fault->dead = false;
	pthread_mutex_unlock(&fault->lock);
	return 0;
}

void kvh_fault_wait_held(struct kvh_fault *fault, uint32_t n)
{
	pthread_mutex_lock(&fault->lock);
	while (fault->n_state[SLOT_HELD] < n)
		(void)kvh_cond_wait(&fault->changed, &fault->lock, UINT64_MAX);
	pthread_mutex_unlock(&fault->lock);
}

/* Only marks them: the next adapter is called on the controller's thread. */
void kvh_fault_release(struct kvh_fault *fault)
{
	pthread_mutex_lock(&fault->lock);
	for (uint32_t i = 0; i < fault->n_slots; i++) {
		if (fault->slots[i].state == SLOT_HELD)
			kvh_fault_slot_move(fault, &fault->slots[i], SLOT_READY);
	}
	kvh_event_raise(fault->event);
	pthread_mutex_unlock(&fault->lock);
}

void kvh_fault_read_stats(struct kvh_fault *fault, struct kvh_fault_stats *stats)
{
	pthread_mutex_lock(&fault->lock);
	*stats = fault->stats;
	stats->held = fault->n_state[SLOT_HELD];
	pthread_mutex_unlock(&fault->lock);
}

/* ---- open and close ---------------------------------------------------- */

static int watch(int epoll, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};

	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int fault_open_fds(struct kvh_fault *fault)
{
	int ret;

	fault->epoll = epoll_create1(EPOLL_CLOEXEC);
	fault->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (fault->epoll < 0 || fault->event < 0)
		return -errno;
	fault->timer = kvh_timer_open();
	if (fault->timer < 0)
		return fault->timer;
	ret = watch(fault->epoll, fault->event);
	if (ret == 0)
		ret = watch(fault->epoll, fault->timer);
	if (ret == 0)
		ret = watch(fault->epoll, fault->next->event_fd(fault->next_self));
	return ret;
}

static int fault_make_slots(struct kvh_fault *fault)
{
	fault->next->query(fault->next_self, &fault->caps);
	if (fault->caps.max_inflight > SLOTS_MAX)
		fault->caps.max_inflight = SLOTS_MAX;
	fault->slots = calloc(fault->caps.max_inflight, sizeof(*fault->slots));
	if (fault->slots == NULL)
		return -ENOMEM;
	fault->n_slots = fault->caps.max_inflight;
	for (uint32_t i = fault->n_slots; i-- > 0;) {
		fault->slots[i].link = fault->free;
		fault->free = &fault->slots[i];
	}
	fault->n_state[SLOT_FREE] = fault->n_slots;
	return 0;
}

/* Of what was made so far; next is closed already. */
static void fault_free(struct kvh_fault *fault)
{
	for (uint32_t i = 0; fault->slots != NULL && i < fault->n_slots; i++)
		free(fault->slots[i].copy);
	free(fault->slots);
	free(fault->rules);
	free(fault->name);
	if (fault->epoll >= 0)
		close(fault->epoll);
	if (fault->event >= 0)
		close(fault->event);
	if (fault->timer >= 0)
		kvh_timer_close(fault->timer);
	pthread_cond_destroy(&fault->changed);
	pthread_mutex_destroy(&fault->lock);
	free(fault);
}

static struct kvh_fault *fault_new(void)
{
	struct kvh_fault *fault = calloc(1, sizeof(*fault));

	if (fault == NULL)
		return NULL;
	fault->epoll = fault->event = fault->timer = -1;
	pthread_mutex_init(&fault->lock, NULL);
	kvh_cond_init(&fault->changed);
	return fault;
}

/* The script and the adapter behind. */
static int fault_open_next(struct kvh_fault *fault, const char *script, const char *spec,
			   const struct kvh_l2_env *env)
{
	const char *conf;
	int ret;

	if (spec == NULL) {
		kvh_err("fault: option next= is missing: the adapter to wrap, as "
			"next=mem:size=1G");
		return -EINVAL;
	}
	ret = kvh_fault_parse(script != NULL ? script : "", &fault->rules, &fault->n_rules);
	if (ret == 0)
		ret = kvh_l2_find(spec, &fault->next, &conf);
	if (ret == 0)
		ret = fault->next->open(conf, env, &fault->next_self);
	return ret;
}

static int fault_init(struct kvh_fault *fault, const char *script, const char *spec,
		      const struct kvh_l2_env *env)
{
	int ret = fault_open_next(fault, script, spec, env);

	if (ret < 0)
		return ret;
	ret = fault_make_slots(fault);
	if (ret == 0)
		ret = fault_open_fds(fault);
	if (ret < 0) {
		kvh_err("fault: could not be made: %s", strerror(-ret));
		fault->next->close(fault->next_self, KVH_L2_DEADLINE_NO);
	}
	return ret;
}

static int fault_open(const char *conf, const struct kvh_l2_env *env, void **self_p)
{
	struct kvh_fault *fault = fault_new();
	char *script = NULL, *spec = NULL;
	uint32_t seed = 1;
	const struct kvh_conf_option options[] = {
		{.name = "script", .type = KVH_CONF_TEXT, .value = &script},
		{.name = "seed", .type = KVH_CONF_U32, .value = &seed, .max = UINT32_MAX},
		{.name = "next", .type = KVH_CONF_REST, .value = &spec},
		{.name = NULL},
	};
	int ret;

	if (fault == NULL)
		return -ENOMEM;
	ret = kvh_conf_parse("fault", conf, &fault->name, options);
	fault->seed = seed;
	if (ret == 0)
		ret = fault_init(fault, script, spec, env);
	free(script);
	free(spec);
	if (ret < 0) {
		fault_free(fault);
		return ret;
	}
	pthread_mutex_lock(&instances_lock);
	fault->older = instances;
	instances = fault;
	pthread_mutex_unlock(&instances_lock);
	*self_p = fault;
	return 0;
}

/* Requests that not even close may take back. */
static uint32_t held_hard(const struct kvh_fault *fault)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < fault->n_slots; i++)
		n += fault->slots[i].state == SLOT_HELD &&
		     fault->slots[i].plan.hanging == HANG_HARD;
	return n;
}

static int fault_wait_hard(struct kvh_fault *fault, uint64_t deadline_ns)
{
	int ret = 0;

	pthread_mutex_lock(&fault->lock);
	while (held_hard(fault) > 0 && ret != ETIMEDOUT)
		ret = kvh_cond_wait(&fault->changed, &fault->lock, deadline_ns);
	ret = held_hard(fault) > 0 ? -ETIMEDOUT : 0;
	pthread_mutex_unlock(&fault->lock);
	return ret;
}

static void fault_forget(struct kvh_fault *fault)
{
	struct kvh_fault **p = &instances;

	pthread_mutex_lock(&instances_lock);
	while (*p != fault)
		p = &(*p)->older;
	*p = fault->older;
	pthread_mutex_unlock(&instances_lock);
}

static int fault_close(void *self, uint64_t deadline_ns)
{
	struct kvh_fault *fault = self;
	int ret = fault_wait_hard(fault, deadline_ns);

	if (ret == 0)
		ret = fault->next->close(fault->next_self, deadline_ns);
	if (ret < 0)
		return ret; /* twins and copies are still in use */
	fault_forget(fault);
	fault_free(fault);
	return 0;
}

/* ---- requests ---------------------------------------------------------- */

static void fault_query(const void *self, struct kvh_l2_caps *caps)
{
	*caps = ((const struct kvh_fault *)self)->caps;
}

static int fault_attach(void *self, void *base, uint64_t len)
{
	struct kvh_fault *fault = self;

	if (fault->next->attach == NULL)
		return -EOPNOTSUPP;
	return fault->next->attach(fault->next_self, base, len);
}

/* To the first of those that are delayed. */
static void fault_arm(struct kvh_fault *fault)
{
	uint64_t first = UINT64_MAX;

	for (uint32_t i = 0; fault->n_state[SLOT_DELAYED] > 0 && i < fault->n_slots; i++) {
		const struct slot *slot = &fault->slots[i];

		if (slot->state == SLOT_DELAYED && slot->due_ns < first)
			first = slot->due_ns;
	}
	kvh_timer_arm(fault->timer, first);
}

static void twin_make(struct slot *slot, struct kvh_l2_req *req)
{
	slot->outer = req;
	slot->twin = (struct kvh_l2_req){
		.op = req->op,
		.key = req->key,
		.buf = req->buf,
		.len = req->len,
		.region = req->region,
		.owner = slot,
	};
	req->scratch[0] = (uintptr_t)slot;
}

static int fault_submit(void *self, struct kvh_l2_req *req)
{
	struct kvh_fault *fault = self;
	struct slot *slot;

	if (kvh_req_check(req, &fault->caps) < 0)
		return -EINVAL;
	pthread_mutex_lock(&fault->lock);
	slot = fault->free;
	if (slot == NULL) {
		pthread_mutex_unlock(&fault->lock);
		return -EAGAIN;
	}
	fault->free = slot->link;
	fault->stats.accepted[req->op]++;
	twin_make(slot, req);
	kvh_fault_slot_start(fault, slot);
	if (slot->state == SLOT_DELAYED)
		fault_arm(fault);
	pthread_mutex_unlock(&fault->lock);
	return 0;
}

static void fault_cancel(void *self, struct kvh_l2_req *req)
{
	struct kvh_fault *fault = self;
	struct slot *slot = (struct slot *)(uintptr_t)req->scratch[0];

	pthread_mutex_lock(&fault->lock);
	switch (slot->state) {
	case SLOT_HELD:
		if (slot->plan.hanging == HANG_HARD)
			break;
		/* fall through */
	case SLOT_DELAYED:
	case SLOT_READY: kvh_fault_slot_end(fault, slot, -ECANCELED); break;
	case SLOT_NEXT:
		slot->twin.cancelled = req->cancelled;
		if (fault->next->cancel != NULL)
			fault->next->cancel(fault->next_self, &slot->twin);
		break;
	case SLOT_FREE:
	case SLOT_STACKED:
	case SLOT_DONE:
	case SLOT_STATES: break;
	}
	pthread_mutex_unlock(&fault->lock);
}

/* Those whose time has come, and those that next had no room for. */
static void fault_advance(struct kvh_fault *fault)
{
	uint64_t now;

	if (fault->n_state[SLOT_DELAYED] + fault->n_state[SLOT_READY] == 0)
		return;
	now = kvh_now_ns();
	for (uint32_t i = 0; i < fault->n_slots; i++) {
		struct slot *slot = &fault->slots[i];

		if (slot->state == SLOT_READY)
			kvh_fault_slot_forward(fault, slot);
		else if (slot->state == SLOT_DELAYED && slot->due_ns <= now)
			kvh_fault_slot_due(fault, slot);
	}
	fault_arm(fault);
}

static void fault_drain_next(struct kvh_fault *fault)
{
	struct kvh_l2_req *ended[BATCH];
	uint32_t n;

	do {
		n = fault->next->reap(fault->next_self, ended, BATCH);
		for (uint32_t i = 0; i < n; i++)
			kvh_fault_slot_returned(fault, ended[i]->owner);
	} while (n == BATCH);
}

static uint32_t fault_reap(void *self, struct kvh_l2_req **done, uint32_t max)
{
	struct kvh_fault *fault = self;
	uint32_t n;

	pthread_mutex_lock(&fault->lock);
	kvh_timer_clear(fault->timer);
	fault_drain_next(fault);
	fault_advance(fault);
	kvh_fault_stack_settle(fault);
	kvh_event_clear(fault->event); /* not first: it is only raised under the lock */
	for (n = 0; n < max && fault->done.head != NULL; n++) {
		done[n] = kvh_req_pop(&fault->done);
		kvh_fault_slot_free(fault, (struct slot *)(uintptr_t)done[n]->scratch[0]);
	}
	if (fault->done.head != NULL)
		kvh_event_raise(fault->event);
	pthread_mutex_unlock(&fault->lock);
	return n;
}

static int fault_event_fd(const void *self)
{
	return ((const struct kvh_fault *)self)->epoll;
}

static void fault_usage(const void *self, struct kvh_l2_usage *usage)
{
	const struct kvh_fault *fault = self;

	fault->next->usage(fault->next_self, usage);
}

static int fault_list(void *self,
		      bool (*visit)(void *arg, const struct kvh_key *key, uint64_t len),
		      void *arg)
{
	struct kvh_fault *fault = self;

	if (fault->next->list == NULL)
		return -EOPNOTSUPP;
	return fault->next->list(fault->next_self, visit, arg);
}

static void fault_peek(const void *self, const struct kvh_key *keys, uint32_t n, uint8_t *found)
{
	const struct kvh_fault *fault = self;

	assert(fault->caps.local_index);
	fault->next->peek(fault->next_self, keys, n, found);
}

static int fault_limits(void *self, kvh_space_t space, uint64_t soft_bytes, uint64_t hard_bytes)
{
	const struct kvh_fault *fault = self;

	if (fault->next->limits == NULL)
		return -EOPNOTSUPP;
	return fault->next->limits(fault->next_self, space, soft_bytes, hard_bytes);
}

static void fault_usage_space(const void *self, kvh_space_t space, struct kvh_l2_usage *usage)
{
	const struct kvh_fault *fault = self;

	*usage = (struct kvh_l2_usage){0};
	if (fault->next->usage_space != NULL)
		fault->next->usage_space(fault->next_self, space, usage);
}

/* Sick while dead by its script, else as the next one. */
static int fault_health(const void *self, const char **why_p)
{
	struct kvh_fault *fault = (struct kvh_fault *)self; /* only the lock changes */
	bool dead;

	pthread_mutex_lock(&fault->lock);
	dead = fault->dead;
	pthread_mutex_unlock(&fault->lock);
	if (dead) {
		*why_p = "it died, as its script says";
		return -EIO;
	}
	return fault->next->health != NULL ? fault->next->health(fault->next_self, why_p) : 0;
}

extern const struct kvh_l2_ops kvh_l2_fault;
const struct kvh_l2_ops kvh_l2_fault = {
	.abi = KVH_L2_ABI,
	.name = "fault",
	.help = "script=RULES  what to do to whom, docs/adapters.md (nothing)\n"
		"seed=N  of the bits that corrupt flips (1)\n"
		"next=SPEC  the adapter to wrap; the last option: takes all that follows",
	.open = fault_open,
	.close = fault_close,
	.query = fault_query,
	.attach = fault_attach,
	.submit = fault_submit,
	.cancel = fault_cancel,
	.reap = fault_reap,
	.event_fd = fault_event_fd,
	.usage = fault_usage,
	.list = fault_list,
	.peek = fault_peek,
	.limits = fault_limits,
	.usage_space = fault_usage_space,
	.health = fault_health,
};
