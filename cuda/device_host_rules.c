/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_host_rules.c - lets a test hold, fail, slow or falsify any one call of
 * the host device. A call is counted once, where its kind says (device_host.h),
 * and what all rules together say of that one number is its verdict; it does
 * not change later, but for a release, which ends waiting. Any thread.
 */
#include "cuda/device_host_impl.h"
#include "host/log.h"

#include <assert.h>
#include <errno.h>

/* Does the rule hit call number n? */
static bool rule_hits(const struct host_rule *r, enum kvh_host_call call, uint64_t n)
{
	return r->first != 0 && r->rule.call == call && n >= r->first &&
	       n - r->first < r->rule.count;
}

/* Can it still hit a call that comes? */
static bool rule_spent(const struct host_device *dev, const struct host_rule *r)
{
	uint64_t next = dev->counts[r->rule.call] + 1;

	return r->first == 0 || (next >= r->first && next - r->first >= r->rule.count);
}

struct host_verdict kvh_host_judge(struct host_device *dev, enum kvh_host_call call)
{
	struct host_verdict v = {.release = dev->releases};
	uint64_t n = ++dev->counts[call];

	for (unsigned i = 0; i < HOST_RULES_MAX; i++) {
		const struct kvh_host_rule *rule = &dev->rules[i].rule;

		if (!rule_hits(&dev->rules[i], call, n))
			continue;
		switch (rule->action) {
		case KVH_HOST_HOLD: v.hold = true; break;
		case KVH_HOST_FAIL: v.error = rule->error; break;
		case KVH_HOST_SLOW: v.ns += rule->ns; break;
		case KVH_HOST_LIE: v.lie = true; break;
		}
	}
	if (v.ns != 0 && !dev->stepped)
		v.until = kvh_deadline_ns(v.ns);
	return v;
}

bool kvh_host_is_held(const struct host_device *dev, const struct host_verdict *verdict)
{
	return verdict->hold && verdict->release == dev->releases;
}

bool kvh_host_is_slow(const struct host_device *dev, struct host_verdict *verdict)
{
	if (verdict->until != 0 &&
	    (verdict->release != dev->releases || kvh_now_ns() >= verdict->until))
		verdict->until = 0;
	return verdict->until != 0;
}

void kvh_host_pause(struct host_device *dev, pthread_cond_t *cond,
		    const struct host_verdict *verdict)
{
	bool timed = !kvh_host_is_held(dev, verdict) && verdict->until != 0;

	/* Not by asking the time again: were it over now, nothing would wake us. */
	(void)kvh_cond_wait(cond, &dev->lock, timed ? verdict->until : UINT64_MAX);
}

int kvh_host_called(struct host_device *dev, enum kvh_host_call call, bool *lie)
{
	struct host_verdict v = kvh_host_judge(dev, call);
	bool held = kvh_host_is_held(dev, &v);

	if (held) {
		dev->held_callers++;
		(void)pthread_cond_broadcast(&dev->changed);
	}
	while (kvh_host_is_held(dev, &v) || kvh_host_is_slow(dev, &v))
		kvh_host_pause(dev, &dev->changed, &v);
	if (held)
		dev->held_callers--;
	if (lie != NULL)
		*lie = v.lie;
	return -v.error;
}

/* A call lies only where a lie means something: see enum kvh_host_action. */
static bool rule_valid(const struct kvh_host_rule *rule)
{
	if ((unsigned)rule->call >= KVH_HOST_NCALLS)
		return false;
	switch (rule->action) {
	case KVH_HOST_HOLD: return true;
	case KVH_HOST_FAIL: return rule->error > 0;
	case KVH_HOST_SLOW: return true;
	case KVH_HOST_LIE:
		return rule->call == KVH_HOST_QUERY || rule->call == KVH_HOST_WAIT_EVENT ||
		       rule->call == KVH_HOST_NOTIFY || rule->call == KVH_HOST_COPY;
	}
	return false;
}

static int check_rule(const struct kvh_host_rule *rule)
{
	if (rule_valid(rule))
		return 0;
	kvh_err("host device: no rule for call %d, action %d, error %d", (int)rule->call,
		(int)rule->action, rule->error);
	return -EINVAL;
}

static pthread_mutex_t next_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvh_host_rule next_rules[HOST_RULES_MAX];
static unsigned n_next;

int kvh_host_rule_next(const struct kvh_host_rule *rule)
{
	int err = check_rule(rule);

	if (err != 0)
		return err;
	pthread_mutex_lock(&next_lock);
	if (n_next < HOST_RULES_MAX)
		next_rules[n_next++] = *rule;
	else
		err = -ENOSPC;
	pthread_mutex_unlock(&next_lock);
	return err;
}

void kvh_host_rules_take_next(struct kvh_device *base)
{
	pthread_mutex_lock(&next_lock);
	while (n_next > 0)
		(void)kvh_host_rule_add(base, &next_rules[--n_next]);
	pthread_mutex_unlock(&next_lock);
}

int kvh_host_rule_add(struct kvh_device *base, const struct kvh_host_rule *rule)
{
	struct host_device *dev = host_of(base);
	struct host_rule *slot = NULL;
	int err = check_rule(rule);

	if (err != 0)
		return err;
	pthread_mutex_lock(&dev->lock);
	for (unsigned i = 0; i < HOST_RULES_MAX && slot == NULL; i++) {
		if (rule_spent(dev, &dev->rules[i]))
			slot = &dev->rules[i];
	}
	if (slot != NULL) {
		slot->rule = *rule;
		slot->rule.count = rule->count == 0 ? 1 : rule->count;
		slot->first = dev->counts[rule->call] + (rule->nth == 0 ? 1 : rule->nth);
	}
	pthread_mutex_unlock(&dev->lock);
	return slot != NULL ? 0 : -ENOSPC;
}

void kvh_host_release(struct kvh_device *base)
{
	struct host_device *dev = host_of(base);

	pthread_mutex_lock(&dev->lock);
	for (unsigned i = 0; i < HOST_RULES_MAX; i++)
		dev->rules[i].first = 0;
	dev->releases++;
	kvh_host_streams_wake(dev);
	pthread_mutex_unlock(&dev->lock);
}

uint64_t kvh_host_count(struct kvh_device *base, enum kvh_host_call call)
{
	struct host_device *dev = host_of(base);
	uint64_t n;

	assert((unsigned)call < KVH_HOST_NCALLS);
	pthread_mutex_lock(&dev->lock);
	n = dev->counts[call];
	pthread_mutex_unlock(&dev->lock);
	return n;
}

uint64_t kvh_host_copied(struct kvh_device *base, enum kvh_copy_kind kind)
{
	struct host_device *dev = host_of(base);
	uint64_t bytes;

	assert((unsigned)kind <= KVH_COPY_D2D);
	pthread_mutex_lock(&dev->lock);
	bytes = dev->copied[kind];
	pthread_mutex_unlock(&dev->lock);
	return bytes;
}

static uint32_t count_held(const struct host_device *dev)
{
	uint32_t n = dev->held_callers;

	for (const struct host_stream *s = dev->streams; s != NULL; s = s->next) {
		if (s->head != NULL && s->head->arrived && !dev->failed &&
		    kvh_host_is_held(dev, &s->head->verdict))
			n++;
	}
	return n;
}

uint32_t kvh_host_held(struct kvh_device *base)
{
	struct host_device *dev = host_of(base);
	uint32_t n;

	pthread_mutex_lock(&dev->lock);
	n = count_held(dev);
	pthread_mutex_unlock(&dev->lock);
	return n;
}

void kvh_host_held_wait(struct kvh_device *base, uint32_t n)
{
	struct host_device *dev = host_of(base);

	pthread_mutex_lock(&dev->lock);
	while (count_held(dev) < n)
		(void)kvh_cond_wait(&dev->changed, &dev->lock, UINT64_MAX);
	pthread_mutex_unlock(&dev->lock);
}
