/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy.c - the store policies of this build, those that users add, and the
 * check of what they answer. Finding and adding: any thread. The rest: the
 * controller's.
 */
#include "host/policy.h"

#include "host/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define REGISTERED_MAX 32u

/* ---- what the simple ones do -------------------------------------------- */

static uint32_t admit_now(void *self, const struct kvh_policy_chunk *chunk)
{
	(void)self;
	(void)chunk;
	return KVH_ADMIT_NOW;
}

static uint32_t admit_full(void *self, const struct kvh_policy_chunk *chunk)
{
	(void)self;
	return chunk->kind == KVH_GROUP_FULL ? KVH_ADMIT_NOW : KVH_ADMIT_NO;
}

static uint32_t admit_windows_last(void *self, const struct kvh_policy_chunk *chunk)
{
	(void)self;
	return chunk->kind == KVH_GROUP_FULL ? KVH_ADMIT_NOW : KVH_ADMIT_TURN_END;
}

static uint32_t admit_evicted(void *self, const struct kvh_policy_chunk *chunk)
{
	(void)self;
	(void)chunk;
	return KVH_ADMIT_EVICTION;
}

static uint32_t to_all(void *self, const struct kvh_policy_chunk *chunk, uint32_t adapters)
{
	(void)self;
	(void)chunk;
	return adapters;
}

static uint32_t keep(void *self, const struct kvh_policy_chunk *chunk, uint32_t targets,
		     uint32_t stored)
{
	(void)self;
	(void)chunk;
	(void)targets;
	(void)stored;
	return 0;
}

static uint32_t drop(void *self, const struct kvh_policy_chunk *chunk, uint32_t targets,
		     uint32_t stored)
{
	(void)self;
	(void)chunk;
	(void)targets;
	(void)stored;
	return 1;
}

#define SIMPLE(name_, flags_, admit_, deletes_)                                \
	{                                                                      \
		.version = KVH_POLICY_VERSION, .name = name_, .flags = flags_, \
		.admit = admit_, .targets = to_all, .deletes = deletes_,       \
	}

static const struct kvh_policy simple[] = {
	SIMPLE("default", KVH_POLICY_RETAIN, admit_now, keep),
	SIMPLE("buffer-only", 0, admit_now, drop),
	SIMPLE("whole-prefix", KVH_POLICY_RETAIN, admit_full, keep),
	SIMPLE("deferred-windows", KVH_POLICY_RETAIN, admit_windows_last, keep),
	SIMPLE("write-back", KVH_POLICY_RETAIN, admit_evicted, keep),
};

/* ---- finding and adding ------------------------------------------------- */

#define N_SIMPLE (sizeof(simple) / sizeof(simple[0]))
#define N_BUILT  (N_SIMPLE + 1)

static pthread_mutex_t registered_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvh_policy registered[REGISTERED_MAX]; /* under the lock; they stay */
static uint32_t n_registered;

static const struct kvh_policy *at_locked(size_t i)
{
	if (i < N_SIMPLE)
		return &simple[i];
	if (i == N_SIMPLE)
		return &kvh_policy_second_use;
	return i - N_BUILT < n_registered ? &registered[i - N_BUILT] : NULL;
}

static const struct kvh_policy *find_locked(const char *name)
{
	const struct kvh_policy *policy;

	for (size_t i = 0; (policy = at_locked(i)) != NULL; i++)
		if (strcmp(policy->name, name) == 0)
			return policy;
	return NULL;
}

const char *kvh_policy_name(size_t index)
{
	const struct kvh_policy *policy;

	pthread_mutex_lock(&registered_lock);
	policy = at_locked(index);
	pthread_mutex_unlock(&registered_lock);
	return policy != NULL ? policy->name : NULL;
}

static void say_unknown_locked(const char *name)
{
	char names[512] = "";
	size_t at = 0;

	for (size_t i = 0; at_locked(i) != NULL && at < sizeof(names) - 1; i++) {
		int n = snprintf(names + at, sizeof(names) - at, "%s%s", i > 0 ? ", " : "",
				 at_locked(i)->name);

		at += n > 0 ? (size_t)n : 0;
	}
	kvh_err("policy: '%s' is not known, allowed: %s", name, names);
}

int kvh_policy_find(const char *name, const struct kvh_policy **policy_p)
{
	const struct kvh_policy *policy;

	if (name == NULL)
		name = "default";
	pthread_mutex_lock(&registered_lock);
	policy = find_locked(name);
	if (policy == NULL)
		say_unknown_locked(name);
	pthread_mutex_unlock(&registered_lock);
	if (policy == NULL)
		return -EINVAL;
	*policy_p = policy;
	return 0;
}

static int check(const struct kvh_policy *policy)
{
	if (policy->version != KVH_POLICY_VERSION) {
		kvh_err("policy: version %u, this library has %u", policy->version,
			KVH_POLICY_VERSION);
		return -EPROTONOSUPPORT;
	}
	if (policy->name == NULL || policy->name[0] == '\0' || policy->admit == NULL ||
	    policy->targets == NULL || policy->deletes == NULL ||
	    (policy->flags & ~(KVH_POLICY_RETAIN | KVH_POLICY_USES)) != 0) {
		kvh_err("policy: '%s' with flags %#x; needs a name, admit, targets and "
			"deletes, "
			"and flags that are known",
			policy->name != NULL ? policy->name : "", policy->flags);
		return -EINVAL;
	}
	return 0;
}

int kvh_policy_register(const struct kvh_policy *policy)
{
	int err = check(policy);

	if (err != 0)
		return err;
	pthread_mutex_lock(&registered_lock);
	if (find_locked(policy->name) != NULL) {
		kvh_err("policy: there is one named '%s' already", policy->name);
		err = -EEXIST;
	} else if (n_registered == REGISTERED_MAX) {
		kvh_err("policy: '%s' is one too many, %u can be added", policy->name,
			REGISTERED_MAX);
		err = -ENOSPC;
	} else {
		registered[n_registered++] = *policy;
	}
	pthread_mutex_unlock(&registered_lock);
	return err;
}

/* ---- in use -------------------------------------------------------------- */

int kvh_policy_open(const struct kvh_policy *policy, struct kvh_policy_use *use)
{
	void *self = policy->arg;
	int err = policy->open != NULL ? policy->open(policy->arg, &self) : 0;

	if (err != 0) {
		kvh_err("policy: '%s' cannot be opened: %s", policy->name, strerror(-err));
		return err;
	}
	*use = (struct kvh_policy_use){policy, self};
	return 0;
}

void kvh_policy_close(struct kvh_policy_use *use)
{
	if (use->policy != NULL && use->policy->close != NULL)
		use->policy->close(use->self);
	use->policy = NULL;
}

static void say_wrong(const struct kvh_policy_use *use, const char *what, uint32_t value,
		      kvh_counter *wrong)
{
	kvh_count(wrong, 1);
	if (kvh_counted(wrong) == 1)
		kvh_err("policy: '%s' answers %#x to %s; counted, and not said again",
			use->policy->name, value, what);
}

enum kvh_admit kvh_policy_admit(const struct kvh_policy_use *use,
				const struct kvh_policy_chunk *chunk, kvh_counter *wrong)
{
	uint32_t answer = use->policy->admit(use->self, chunk);

	if (answer <= KVH_ADMIT_EVICTION)
		return (enum kvh_admit)answer;
	say_wrong(use, "admit", answer, wrong);
	return KVH_ADMIT_NOW;
}

uint32_t kvh_policy_targets(const struct kvh_policy_use *use,
			    const struct kvh_policy_chunk *chunk, uint32_t adapters,
			    kvh_counter *wrong)
{
	uint32_t answer = use->policy->targets(use->self, chunk, adapters);

	if ((answer & ~adapters) != 0)
		say_wrong(use, "targets", answer, wrong);
	return answer & adapters;
}

bool kvh_policy_deletes(const struct kvh_policy_use *use, const struct kvh_policy_chunk *chunk,
			uint32_t targets, uint32_t stored, kvh_counter *wrong)
{
	uint32_t answer = use->policy->deletes(use->self, chunk, targets, stored);

	if (answer > 1)
		say_wrong(use, "deletes", answer, wrong);
	return answer == 1;
}
