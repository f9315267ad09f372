/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy.h - what the store controller asks before it acts: the table of policies
 * by name, and one in use. The contract of a policy is kvhoist.h's. Tables are
 * found and added by any thread; a policy in use is the controller's thread's, and
 * whatever it answers is checked here.
 */
#ifndef KVH_HOST_POLICY_H
#define KVH_HOST_POLICY_H

#include "host/metrics.h"
#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One of this build, or registered; NULL is "default". -EINVAL: logged, with the
 * names there are. The table lives as long as the process. */
int kvh_policy_find(const char *name, const struct kvh_policy **policy_p);

struct kvh_policy_use {
	const struct kvh_policy *policy;
	void *self;
};

/* By number; NULL beyond the last. */
const char *kvh_policy_name(size_t index);

/* Any thread. As the policy's open says; *use is written on success only. */
int kvh_policy_open(const struct kvh_policy *policy, struct kvh_policy_use *use);
void kvh_policy_close(struct kvh_policy_use *use);

/* A policy's answers; one that makes no sense is counted in `wrong`, and taken for
 * what does least harm: now, none beyond `adapters`, keep. */
enum kvh_admit kvh_policy_admit(const struct kvh_policy_use *use,
				const struct kvh_policy_chunk *chunk, kvh_counter *wrong);
uint32_t kvh_policy_targets(const struct kvh_policy_use *use,
			    const struct kvh_policy_chunk *chunk, uint32_t adapters,
			    kvh_counter *wrong);
bool kvh_policy_deletes(const struct kvh_policy_use *use, const struct kvh_policy_chunk *chunk,
			uint32_t targets, uint32_t stored, kvh_counter *wrong);

/* Those of this build: policy.c has the simple ones, policy_second.c one. */
extern const struct kvh_policy kvh_policy_second_use;

#ifdef __cplusplus
}
#endif
#endif
