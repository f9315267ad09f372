// SPDX-License-Identifier: Apache-2.0
//
// policy_test.cc - the store policies of this build, how they are found, how users
// add theirs, and that an answer which makes no sense does no harm.
#include "host/policy.h"
#include "tests/l2_harness.h"

#include <cstring>
#include <set>

namespace
{

const struct kvh_policy *find(const char *name)
{
	const struct kvh_policy *policy = nullptr;

	EXPECT_EQ(kvh_policy_find(name, &policy), 0);
	return policy;
}

// A policy in use, and a chunk to ask about.
struct Use {
	explicit Use(const struct kvh_policy *policy)
	{
		EXPECT_EQ(kvh_policy_open(policy, &use), 0);
	}
	explicit Use(const char *name) : Use(find(name))
	{
	}
	~Use()
	{
		kvh_policy_close(&use);
	}
	enum kvh_admit admit(uint64_t n, uint32_t kind = KVH_GROUP_FULL, bool used = false)
	{
		const struct kvh_key key = l2test::make_key(n);
		struct kvh_policy_chunk chunk = {};

		chunk.key = &key;
		chunk.parent = &parent;
		chunk.bytes = 8192;
		chunk.kind = kind;
		chunk.used = used;
		return kvh_policy_admit(&use, &chunk, &wrong);
	}
	uint32_t targets(uint32_t adapters)
	{
		const struct kvh_key key = l2test::make_key(1);
		struct kvh_policy_chunk chunk = {};

		chunk.key = &key;
		chunk.parent = &parent;
		return kvh_policy_targets(&use, &chunk, adapters, &wrong);
	}
	bool deletes(uint32_t targets, uint32_t stored)
	{
		const struct kvh_key key = l2test::make_key(1);
		struct kvh_policy_chunk chunk = {};

		chunk.key = &key;
		chunk.parent = &parent;
		return kvh_policy_deletes(&use, &chunk, targets, stored, &wrong);
	}
	struct kvh_policy_use use = {};
	struct kvh_hash parent = {};
	kvh_counter wrong = {};
};

const char *const kNames[] = {"default",      "buffer-only",      "second-use",
			      "whole-prefix", "deferred-windows", "write-back"};

TEST(Policy, FoundByName)
{
	for (const char *name : kNames)
		EXPECT_STREQ(find(name)->name, name);
	EXPECT_EQ(find(nullptr), find("default"));
}

TEST(Policy, UnknownIsRefusedWithTheNames)
{
	const struct kvh_policy *policy = nullptr;
	l2test::Log log;

	for (const char *name : {"", "Default", "default ", "buffer", "none"})
		EXPECT_EQ(kvh_policy_find(name, &policy), -EINVAL) << name;
	EXPECT_EQ(policy, nullptr);
	EXPECT_EQ(log.count("'buffer' is not known, allowed: default, buffer-only"), 1u);
}

TEST(Policy, AllStoreToAllThereAre)
{
	for (const char *name : kNames)
		for (uint32_t adapters : {0u, 1u, 5u, 0xFFFFu})
			EXPECT_EQ(Use(name).targets(adapters), adapters) << name;
}

TEST(Policy, OnlyBufferOnlyDeletes)
{
	for (const char *name : kNames)
		for (uint32_t stored : {0u, 1u, 2u, 3u})
			EXPECT_EQ(Use(name).deletes(3, stored),
				  strcmp(name, "buffer-only") == 0);
	EXPECT_EQ(find("buffer-only")->flags & KVH_POLICY_RETAIN, 0u);
	EXPECT_NE(find("default")->flags & KVH_POLICY_RETAIN, 0u);
}

TEST(Policy, WhatEachAdmits)
{
	const struct {
		const char *name;
		enum kvh_admit full, window, state;
	} cases[] = {
		{"default", KVH_ADMIT_NOW, KVH_ADMIT_NOW, KVH_ADMIT_NOW},
		{"buffer-only", KVH_ADMIT_NOW, KVH_ADMIT_NOW, KVH_ADMIT_NOW},
		{"whole-prefix", KVH_ADMIT_NOW, KVH_ADMIT_NO, KVH_ADMIT_NO},
		{"deferred-windows", KVH_ADMIT_NOW, KVH_ADMIT_TURN_END, KVH_ADMIT_TURN_END},
		{"write-back", KVH_ADMIT_EVICTION, KVH_ADMIT_EVICTION, KVH_ADMIT_EVICTION},
	};

	for (const auto &c : cases) {
		EXPECT_EQ(Use(c.name).admit(1, KVH_GROUP_FULL), c.full) << c.name;
		EXPECT_EQ(Use(c.name).admit(1, KVH_GROUP_WINDOW), c.window) << c.name;
		EXPECT_EQ(Use(c.name).admit(1, KVH_GROUP_STATE), c.state) << c.name;
	}
}

// ---- second use -------------------------------------------------------------

TEST(PolicySecond, TheFirstTimeIsNotStoredTheSecondIs)
{
	Use use("second-use");

	EXPECT_EQ(use.admit(1), KVH_ADMIT_NO);
	EXPECT_EQ(use.admit(2), KVH_ADMIT_NO);
	EXPECT_EQ(use.admit(1), KVH_ADMIT_NOW);
	EXPECT_EQ(use.admit(1), KVH_ADMIT_NOW); // it left L1, and maybe L2
	EXPECT_EQ(use.admit(2, KVH_GROUP_FULL, true), KVH_ADMIT_NOW); // loaded
	EXPECT_EQ(use.admit(2, KVH_GROUP_FULL, true), KVH_ADMIT_NO);  // and again: has it
	EXPECT_EQ(use.admit(3, KVH_GROUP_FULL, true), KVH_ADMIT_NO);  // never heard of it
}

// Whatever comes, the last 65,536 keys are known, and memory does not grow.
TEST(PolicySecond, ItsMemoryIsBounded)
{
	Use use("second-use");

	for (uint64_t i = 0; i < 65536; i++)
		ASSERT_EQ(use.admit(i), KVH_ADMIT_NO) << i;
	for (uint64_t i = 0; i < 65536; i++)
		ASSERT_EQ(use.admit(i), KVH_ADMIT_NOW) << i;
	for (uint64_t i = 1000000; i < 1000000 + 200000; i++)
		use.admit(i);
	EXPECT_EQ(use.admit(1), KVH_ADMIT_NO); // forgotten
	EXPECT_EQ(use.admit(1000000 + 199999), KVH_ADMIT_NOW);
}

TEST(PolicySecond, EachEngineHasItsOwn)
{
	Use a("second-use"), b("second-use");

	EXPECT_EQ(a.admit(1), KVH_ADMIT_NO);
	EXPECT_EQ(b.admit(1), KVH_ADMIT_NO);
	EXPECT_EQ(a.admit(1), KVH_ADMIT_NOW);
}

// ---- users' own -------------------------------------------------------------

uint32_t admit_it(void *self, const struct kvh_policy_chunk *)
{
	return *static_cast<uint32_t *>(self);
}

uint32_t all_bits(void *, const struct kvh_policy_chunk *, uint32_t)
{
	return UINT32_MAX;
}

uint32_t maybe(void *, const struct kvh_policy_chunk *, uint32_t, uint32_t)
{
	return 7;
}

struct kvh_policy own(const char *name)
{
	struct kvh_policy policy = {};

	policy.version = KVH_POLICY_VERSION;
	policy.name = name;
	policy.admit = admit_it;
	policy.targets = all_bits;
	policy.deletes = maybe;
	return policy;
}

TEST(PolicyRegister, AddedOnceAndFound)
{
	static uint32_t answer = KVH_ADMIT_NO;
	l2test::Log log;
	struct kvh_policy policy = own("test-own");
	const struct kvh_policy *found;

	policy.arg = &answer;
	EXPECT_EQ(kvh_policy_find("test-own", &found), -EINVAL);
	ASSERT_EQ(kvh_policy_register(&policy), 0);
	EXPECT_EQ(kvh_policy_register(&policy), -EEXIST);
	policy.name = "default";
	EXPECT_EQ(kvh_policy_register(&policy), -EEXIST);
	ASSERT_EQ(kvh_policy_find("test-own", &found), 0);
	EXPECT_EQ(Use(found).admit(1), KVH_ADMIT_NO); // its arg is its self
}

TEST(PolicyRegister, BadOnesAreRefused)
{
	l2test::Log log;
	struct kvh_policy policy = own("test-bad");

	policy.version = KVH_POLICY_VERSION + 1;
	EXPECT_EQ(kvh_policy_register(&policy), -EPROTONOSUPPORT);
	policy = own(nullptr);
	EXPECT_EQ(kvh_policy_register(&policy), -EINVAL);
	policy = own("");
	EXPECT_EQ(kvh_policy_register(&policy), -EINVAL);
	policy = own("test-bad");
	policy.admit = nullptr;
	EXPECT_EQ(kvh_policy_register(&policy), -EINVAL);
	policy = own("test-bad");
	policy.flags = 0x80;
	EXPECT_EQ(kvh_policy_register(&policy), -EINVAL);
}

TEST(PolicyRegister, AnOpenThatFailsIsTold)
{
	l2test::Log log;
	struct kvh_policy policy = own("test-open");
	struct kvh_policy_use use = {};

	policy.open = [](void *, void **) { return -ENOSPC; };
	EXPECT_EQ(kvh_policy_open(&policy, &use), -ENOSPC);
	EXPECT_EQ(use.policy, nullptr);
	EXPECT_EQ(log.count("'test-open' cannot be opened"), 1u);
}

// What makes no sense is counted, and taken for what does least harm.
TEST(PolicyAnswers, NonsenseIsSurvivedAndCounted)
{
	uint32_t answer = 99;
	l2test::Log log;
	struct kvh_policy policy = own("test-nonsense");

	policy.arg = &answer;
	Use use(&policy);

	EXPECT_EQ(use.admit(1), KVH_ADMIT_NOW);
	EXPECT_EQ(kvh_counted(&use.wrong), 1u);
	EXPECT_EQ(use.targets(5), 5u); // not those that are not there
	EXPECT_EQ(kvh_counted(&use.wrong), 2u);
	EXPECT_FALSE(use.deletes(5, 5));
	EXPECT_EQ(kvh_counted(&use.wrong), 3u);
	EXPECT_EQ(log.count("counted, and not said again"), 1u);
}

TEST(PolicyAnswers, ControlSenseIsNotCounted)
{
	Use use("default");

	use.admit(1);
	use.targets(5);
	use.deletes(5, 5);
	EXPECT_EQ(kvh_counted(&use.wrong), 0u);
}

} // namespace
