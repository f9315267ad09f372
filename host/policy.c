/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy.c - the store policies of this build. The controller's thread.
 */
#include "host/policy.h"

#include "host/log.h"

#include <errno.h>
#include <string.h>

static uint32_t all_targets(const struct kvh_key *key, uint32_t n_adapters)
{
	(void)key;
	return n_adapters >= 32 ? UINT32_MAX : (UINT32_C(1) << n_adapters) - 1;
}

static bool keep(const struct kvh_key *key, uint32_t targets, uint32_t stored)
{
	(void)key;
	(void)targets;
	(void)stored;
	return false;
}

static bool drop(const struct kvh_key *key, uint32_t targets, uint32_t stored)
{
	(void)key;
	(void)targets;
	(void)stored;
	return true;
}

static const struct kvh_policy policies[] = {
	{
		.name = "default",
		.select_targets = all_targets,
		.select_deletion = keep,
		.retain_prefetched = true,
	},
	{
		.name = "buffer-only",
		.select_targets = all_targets,
		.select_deletion = drop,
		.retain_prefetched = false,
	},
};

int kvh_policy_find(const char *name, const struct kvh_policy **policy_p)
{
	if (name == NULL)
		name = "default";
	for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
		if (strcmp(policies[i].name, name) == 0) {
			*policy_p = &policies[i];
			return 0;
		}
	}
	kvh_err("policy: '%s' is not known, allowed: default, buffer-only", name);
	return -EINVAL;
}

const char *kvh_policy_name(size_t index)
{
	return index < sizeof(policies) / sizeof(policies[0]) ? policies[index].name : NULL;
}
