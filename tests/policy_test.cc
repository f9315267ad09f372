// SPDX-License-Identifier: Apache-2.0
//
// policy_test.cc - the two store policies of this build, and how they are found.
#include "host/policy.h"
#include "tests/l2_harness.h"

namespace
{

const struct kvh_policy *find(const char *name)
{
	const struct kvh_policy *policy = nullptr;

	EXPECT_EQ(kvh_policy_find(name, &policy), 0);
	return policy;
}

TEST(Policy, FoundByName)
{
	EXPECT_STREQ(find("default")->name, "default");
	EXPECT_STREQ(find("buffer-only")->name, "buffer-only");
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

TEST(Policy, BothStoreToAll)
{
	const struct kvh_key key = l2test::make_key(1);

	for (const char *name : {"default", "buffer-only"}) {
		EXPECT_EQ(find(name)->select_targets(&key, 0), 0u);
		for (uint32_t n = 1; n < 32; n++)
			EXPECT_EQ(find(name)->select_targets(&key, n), (1u << n) - 1) << n;
		EXPECT_EQ(find(name)->select_targets(&key, 32), UINT32_MAX);
	}
}

TEST(Policy, DefaultKeepsWhateverTheAdaptersSaid)
{
	const struct kvh_key key = l2test::make_key(1);

	for (uint32_t stored : {0u, 1u, 2u, 3u})
		EXPECT_FALSE(find("default")->select_deletion(&key, 3, stored));
	EXPECT_TRUE(find("default")->retain_prefetched);
}

TEST(Policy, BufferOnlyDropsWhateverTheAdaptersSaid)
{
	const struct kvh_key key = l2test::make_key(1);

	for (uint32_t stored : {0u, 1u, 2u, 3u})
		EXPECT_TRUE(find("buffer-only")->select_deletion(&key, 3, stored));
	EXPECT_FALSE(find("buffer-only")->retain_prefetched);
}

} // namespace
