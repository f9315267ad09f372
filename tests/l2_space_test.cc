// SPDX-License-Identifier: Apache-2.0
//
// l2_space_test.cc - every adapter held to l2/l2.h, whose rule numbers the tests
// cite: what concerns a space as a whole, flushing and health. An adapter that
// does not offer one is skipped there, visibly.
#include "tests/l2_harness.h"

namespace l2test
{
namespace
{

constexpr uint64_t kPayload = 60 << 10; // frames of 64 KiB
constexpr uint64_t kFrame = 64 << 10;
constexpr kvh_space_t kA = 0xA0A0, kB = 0xB0B0;

class Space : public L2
{
      protected:
	int clear(Adapter &l2, kvh_space_t space)
	{
		struct kvh_l2_req req = make_req(KVH_L2_CLEAR, make_key(0, space));

		return l2.run(&req);
	}
	int put(Adapter &l2, uint64_t n, kvh_space_t space)
	{
		const struct kvh_key key = make_key(n, space);

		return l2.put(key, make_frame(key, kPayload));
	}
	bool is_there(Adapter &l2, uint64_t n, kvh_space_t space)
	{
		const struct kvh_key key = make_key(n, space);
		const Buffer frame = make_frame(key, kPayload), into(frame.size());
		const int status = l2.get(key, into);

		EXPECT_TRUE(status == 0 || status == -ENOENT) << strerror(-status);
		EXPECT_TRUE(status != 0 || into == frame);
		return status == 0;
	}
	uint64_t count(Adapter &l2, uint64_t n, kvh_space_t space)
	{
		uint64_t there = 0;

		for (uint64_t i = 0; i < n; i++)
			there += is_there(l2, i, space) ? 1 : 0;
		return there;
	}
	bool has_limits(const Adapter &l2) const
	{
		return keeps() && l2.ops()->limits != nullptr &&
		       l2.ops()->usage_space != nullptr &&
		       l2.ops()->limits(l2.self(), kA, 0, 0) != -EOPNOTSUPP;
	}
	struct kvh_l2_usage usage(const Adapter &l2, kvh_space_t space) const
	{
		struct kvh_l2_usage usage = {};

		l2.ops()->usage_space(l2.self(), space, &usage);
		return usage;
	}
};

TEST_P(Space, WhatIsNotOfferedIsRefusedUntouched) // 3
{
	const auto l2 = open();
	ASSERT_TRUE(l2);

	for (enum kvh_l2_op op : {KVH_L2_CLEAR, KVH_L2_FLUSH}) {
		struct kvh_l2_req req = make_req(op, make_key(1)), copy;
		const bool offered = op == KVH_L2_CLEAR ? l2->caps().clear : l2->caps().flush;

		memset(req.scratch, 0xA5, sizeof(req.scratch));
		memcpy(&copy, &req, sizeof(req));
		if (offered)
			continue;
		EXPECT_EQ(l2->submit(&req), -EINVAL) << op;
		EXPECT_EQ(memcmp(&copy, &req, sizeof(req)), 0) << op;
	}
	EXPECT_TRUE(l2->reap().empty());
}

TEST_P(Space, ClearTakesOneSpaceAndLeavesTheOthers) // 11
{
	auto l2 = open();
	ASSERT_TRUE(l2);

	if (!l2->caps().clear)
		GTEST_SKIP() << "has no clear";
	for (uint64_t n = 0; n < 40; n++) {
		ASSERT_EQ(put(*l2, n, kA), 0);
		ASSERT_EQ(put(*l2, n, kB), 0);
	}
	EXPECT_EQ(clear(*l2, kA), 0);
	EXPECT_EQ(clear(*l2, 0xC0C0), 0) << "a space without objects";
	for (int round = 0; round < 2; round++) {
		EXPECT_EQ(count(*l2, 40, kA), 0u) << round;
		EXPECT_EQ(count(*l2, 40, kB), keeps() ? 40u : 0u) << round;
		if (l2->caps().volatile_)
			break;
		l2.reset();
		l2 = open();
		ASSERT_TRUE(l2);
	}
	ASSERT_EQ(put(*l2, 1, kA), 0);
	EXPECT_EQ(is_there(*l2, 1, kA), keeps()) << "the space can be used again";
}

TEST_P(Space, ClearBesideOtherRequestsOfTheSpace) // 3, 11
{
	const auto l2 = open();
	ASSERT_TRUE(l2);

	if (!l2->caps().clear)
		GTEST_SKIP() << "has no clear";
	for (uint64_t n = 0; n < 8; n++) {
		ASSERT_EQ(put(*l2, n, kA), 0);
	}

	const Buffer frame = make_frame(make_key(100, kA), kPayload);
	std::vector<Buffer> into;
	std::vector<struct kvh_l2_req> reqs;
	size_t accepted = 0;

	for (uint64_t n = 0; n < 4; n++) { /* within the depth of any */
		into.emplace_back(kFrame);
		reqs.push_back(
			make_req(KVH_L2_GET, make_key(n, kA), into.back().data(), kFrame));
	}
	reqs.push_back(make_req(KVH_L2_PUT, make_key(100, kA), frame.data(), frame.size()));
	reqs.push_back(make_req(KVH_L2_CLEAR, make_key(0, kA)));
	for (struct kvh_l2_req &req : reqs)
		accepted += l2->submit(&req) == 0 ? 1 : 0;
	ASSERT_EQ(accepted, reqs.size());
	EXPECT_EQ(l2->wait(accepted).size(), accepted);
	for (uint64_t n = 0; n < 4; n++) {
		if (reqs[n].status == 0) {
			EXPECT_TRUE(into[n] == make_frame(make_key(n, kA), kPayload)) << n;
		}
	}
	EXPECT_EQ(count(*l2, 8, kA), 0u);
	(void)is_there(*l2, 100, kA); /* either; never a mixture */
}

TEST_P(Space, FlushSucceedsWithAndWithoutAnythingToFlush) // 12
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	struct kvh_l2_req req = make_req(KVH_L2_FLUSH, make_key(0));

	if (!l2->caps().flush)
		GTEST_SKIP() << "has no flush";
	EXPECT_EQ(l2->run(&req), 0);
	ASSERT_EQ(put(*l2, 1, kA), 0);
	req = make_req(KVH_L2_FLUSH, make_key(0));
	EXPECT_EQ(l2->run(&req), 0);
	EXPECT_EQ(is_there(*l2, 1, kA), keeps());
}

TEST_P(Space, ASpaceStaysWithinItsHardLimit) // 13
{
	const auto l2 = open();
	ASSERT_TRUE(l2);

	if (!has_limits(*l2))
		GTEST_SKIP() << "has no limits";
	ASSERT_EQ(l2->ops()->limits(l2->self(), kA, 0, 8 * kFrame), 0);
	for (uint64_t n = 0; n < 8; n++) {
		ASSERT_EQ(put(*l2, n, kB), 0);
	}
	for (uint64_t n = 0; n < 40; n++) {
		ASSERT_EQ(put(*l2, n, kA), 0) << n;
		ASSERT_LE(usage(*l2, kA).used_bytes, 8 * kFrame) << n;
	}
	EXPECT_EQ(usage(*l2, kA).capacity_bytes, 8 * kFrame);
	EXPECT_GE(usage(*l2, kA).evicted, 32u);
	EXPECT_GE(count(*l2, 40, kA), 6u) << "nor much below it";
	EXPECT_TRUE(is_there(*l2, 39, kA)) << "the latest";
	EXPECT_EQ(count(*l2, 8, kB), 8u) << "another space pays nothing";
	EXPECT_EQ(usage(*l2, kB).objects, 8u);
}

TEST_P(Space, ControlWithoutItsLimitTheSameSpaceGrows) // 13
{
	const auto l2 = open();
	ASSERT_TRUE(l2);

	if (!has_limits(*l2))
		GTEST_SKIP() << "has no limits";
	for (uint64_t n = 0; n < 40; n++) {
		ASSERT_EQ(put(*l2, n, kA), 0) << n;
	}
	EXPECT_EQ(usage(*l2, kA).used_bytes, 40 * kFrame);
	EXPECT_EQ(usage(*l2, kA).evicted, 0u);
}

TEST_P(Space, WhatIsLargerThanTheLimitIsRefused) // 13
{
	const auto l2 = open();
	ASSERT_TRUE(l2);

	if (!has_limits(*l2))
		GTEST_SKIP() << "has no limits";
	ASSERT_EQ(l2->ops()->limits(l2->self(), kA, 0, kFrame / 2), 0);
	EXPECT_EQ(put(*l2, 1, kA), -EDQUOT);
	EXPECT_FALSE(is_there(*l2, 1, kA));
	ASSERT_EQ(l2->ops()->limits(l2->self(), kA, 0, 0), 0);
	EXPECT_EQ(put(*l2, 1, kA), 0);
	EXPECT_EQ(l2->ops()->limits(l2->self(), kA, 2 * kFrame, kFrame), -EINVAL)
		<< "soft beyond hard";
}

TEST_P(Space, BeyondItsSoftLimitASpaceGivesWayFirst) // 13
{
	const auto l2 = open("4M");
	ASSERT_TRUE(l2);

	if (!has_limits(*l2))
		GTEST_SKIP() << "has no limits";
	ASSERT_EQ(l2->ops()->limits(l2->self(), kA, 8 * kFrame, 0), 0);
	for (uint64_t n = 0; n < 16; n++) {
		ASSERT_EQ(put(*l2, n, kB), 0); /* the older ones */
	}
	for (uint64_t n = 0; n < 200; n++) {
		ASSERT_EQ(put(*l2, n, kA), 0) << n;
	}
	EXPECT_EQ(count(*l2, 16, kB), 16u) << "older, and within its limit";
	EXPECT_TRUE(is_there(*l2, 199, kA));
}

TEST_P(Space, AWorkingAdapterIsHealthy) // 14
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const char *why = nullptr;

	if (l2->ops()->health == nullptr)
		GTEST_SKIP() << "has no health of its own";
	EXPECT_EQ(l2->ops()->health(l2->self(), &why), 0);
	ASSERT_EQ(put(*l2, 1, kA), 0);
	EXPECT_EQ(l2->ops()->health(l2->self(), &why), 0) << why;
}

INSTANTIATE_TEST_SUITE_P(Adapters, Space, ::testing::ValuesIn(cases()), case_label);

} // namespace
} // namespace l2test
