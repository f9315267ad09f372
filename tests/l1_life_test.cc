// SPDX-License-Identifier: Apache-2.0
//
// l1_life_test.cc - how long frames and leases live: temporary frames, use
// without a lease, deadlines, and another policy while it runs.
#include "tests/l1_rig.h"

#include <cerrno>

namespace
{

constexpr uint64_t kFrame = 64 * 1024;
constexpr uint64_t kPayload = kFrame - 4096;

class L1Life : public L1Rig
{
      protected:
	void SetUp() override
	{
		L1Rig::SetUp();
		open(4 * kMiB);
	}

	kvh_frame put_temporary(uint64_t i, uint32_t holds = 0)
	{
		reserve_item item = {};

		item.key = make_key(i);
		item.payload_bytes = kPayload;
		item.flags = KVH_L1_TEMPORARY;
		EXPECT_EQ(kvh_l1_reserve(l1, &item, 1), 1u);
		EXPECT_EQ(kvh_l1_publish(l1, item.frame, holds), 0);
		return item.frame;
	}

	kvh_lease_t lease_until(uint64_t i, uint64_t deadline_ns)
	{
		const kvh_key key = make_key(i);
		kvh_lease_t value = KVH_NONE;
		int32_t status = 1;

		EXPECT_EQ(kvh_l1_lease_until(l1, client, &key, 1, deadline_ns, &value, &status),
			  1u);
		return value;
	}
};

// -- temporary ----------------------------------------------------------------------

TEST_F(L1Life, TemporaryIsGoneAtTheLastRelease)
{
	put_temporary(1);
	kvh_lease_t a = lease(make_key(1)), b = lease(make_key(1));
	kvh_l1_release(l1, a);
	EXPECT_EQ(find(make_key(1)), 1);
	kvh_l1_release(l1, b);
	EXPECT_EQ(find(make_key(1)), 0);
	EXPECT_EQ(stats().used_bytes, 0u);
}

TEST_F(L1Life, NegativeControlOthersStay)
{
	put(make_key(1), kPayload);
	kvh_l1_release(l1, lease(make_key(1)));
	EXPECT_EQ(find(make_key(1)), 1);
}

// As a prefetch has it: its hold becomes a lease.
TEST_F(L1Life, TemporaryGoesFromHoldToLease)
{
	kvh_frame frame = put_temporary(1, 1);
	kvh_lease_t value = KVH_NONE;

	ASSERT_EQ(kvh_l1_lease_held(l1, client, frame, &value), 0);
	kvh_l1_unhold(l1, frame);
	EXPECT_EQ(find(make_key(1)), 1);
	kvh_l1_client_close(l1, client); // the client dies
	EXPECT_EQ(find(make_key(1)), 0);
	EXPECT_EQ(stats().used_bytes, 0u);
	ASSERT_EQ(kvh_l1_client_open(l1, &client), 0);
}

TEST_F(L1Life, TemporaryWithAChildOrErasedIsGoneAllTheSame)
{
	const kvh_key key = make_key(1);
	reserve_item child = {};

	put_temporary(1);
	child.key = make_key(2);
	child.parent = key.hash;
	child.payload_bytes = kPayload;
	ASSERT_EQ(kvh_l1_reserve(l1, &child, 1), 1u);
	kvh_l1_publish(l1, child.frame, 0);
	kvh_l1_release(l1, lease(make_key(1)));
	EXPECT_EQ(find(make_key(1)), 0);

	put_temporary(1);
	kvh_lease_t held = lease(make_key(1));
	EXPECT_EQ(kvh_l1_erase(l1, &key), 0);
	kvh_l1_release(l1, held);
	EXPECT_EQ(stats().used_bytes, kFrame);
}

TEST_F(L1Life, TemporaryThatSomebodyWantsIsKept)
{
	const kvh_key key = make_key(1);
	int32_t status = 1;
	int again = 0;

	put_temporary(1);
	put_temporary(2);
	EXPECT_EQ(kvh_l1_touch(l1, &key, 1, &status), 1u);
	EXPECT_EQ(reserve(make_key(2), kPayload, &again), 0u); // a store of the same
	EXPECT_EQ(again, -EEXIST);
	kvh_l1_release(l1, lease(make_key(1)));
	kvh_l1_release(l1, lease(make_key(2)));
	EXPECT_EQ(find(make_key(1)), 1);
	EXPECT_EQ(find(make_key(2)), 1);
}

// -- touch --------------------------------------------------------------------------

TEST_F(L1Life, TouchIsAUse)
{
	for (uint64_t i = 0; i < 64; i++)
		put(make_key(i), kPayload);
	const kvh_key keys[3] = {make_key(0), make_key(999), make_key(100)};
	int32_t status[3];
	kvh_l1_evict(l1, 63 * kFrame);
	const kvh_key oldest = make_key(1);
	ASSERT_EQ(kvh_l1_touch(l1, &oldest, 1, status), 1u);
	EXPECT_EQ(status[0], 0);
	kvh_frame filling = reserve(make_key(100), kPayload);
	EXPECT_EQ(kvh_l1_touch(l1, keys, 3, status), 0u);
	EXPECT_EQ(status[0], -ENOENT);
	EXPECT_EQ(status[1], -ENOENT);
	EXPECT_EQ(status[2], -EINPROGRESS);
	kvh_l1_abort(l1, filling);
	kvh_l1_evict(l1, 62 * kFrame);
	EXPECT_EQ(find(make_key(1)), 1);
	EXPECT_EQ(find(make_key(2)), 0);
}

// -- deadlines ----------------------------------------------------------------------

TEST_F(L1Life, LookupNeverFollowedByALoadLosesItsLease)
{
	put(make_key(1), kPayload);
	put(make_key(2), kPayload);
	kvh_lease_t forgotten = lease_until(1, 1000), kept = lease(make_key(2));
	EXPECT_EQ(kvh_l1_expire(l1, 999), 1000u);
	EXPECT_EQ(stats().leases, 2u);
	EXPECT_EQ(kvh_l1_evict(l1, 0), 0u);
	EXPECT_EQ(kvh_l1_expire(l1, 1000), UINT64_MAX);
	EXPECT_EQ(stats().leases, 1u);
	EXPECT_EQ(stats().leases_expired, 1u);
	EXPECT_EQ(kvh_l1_release(l1, forgotten), -ESTALE); // late
	EXPECT_EQ(kvh_l1_evict(l1, 0), kFrame);
	EXPECT_EQ(find(make_key(1)), 0);
	EXPECT_EQ(kvh_l1_release(l1, kept), 0);
}

TEST_F(L1Life, NegativeControlWithoutADeadlineItIsHeldForEver)
{
	put(make_key(1), kPayload);
	kvh_lease_t forgotten = lease(make_key(1));
	EXPECT_EQ(kvh_l1_expire(l1, UINT64_MAX - 1), UINT64_MAX);
	EXPECT_EQ(kvh_l1_evict(l1, 0), 0u);
	EXPECT_EQ(kvh_l1_release(l1, forgotten), 0);
}

TEST_F(L1Life, LeaseUnderATransferDoesNotExpire)
{
	kvh_frame frame = 0, again = 0;

	put(make_key(1), kPayload);
	kvh_lease_t value = lease_until(1, 1000);
	ASSERT_EQ(kvh_l1_hold_lease(l1, value, &frame), 0);
	ASSERT_EQ(kvh_l1_hold_lease(l1, value, &again), 0); // two loads at once
	EXPECT_EQ(kvh_l1_expire(l1, 5000), 1000u);
	kvh_l1_unhold_lease(l1, value, frame);
	EXPECT_EQ(kvh_l1_expire(l1, 5000), 1000u);
	EXPECT_EQ(stats().leases, 1u);
	kvh_l1_unhold_lease(l1, value, again);
	EXPECT_EQ(kvh_l1_expire(l1, 5000), UINT64_MAX);
	EXPECT_EQ(stats().leases, 0u);
	EXPECT_EQ(kvh_l1_hold_lease(l1, value, &frame), -ESTALE);
	EXPECT_EQ(stats().leases_expired, 1u);
}

// Its owner may give it back in between; the memory stays for the transfer.
TEST_F(L1Life, ReleasedUnderATransferTheFrameStaysUntilItsEnd)
{
	kvh_frame frame = 0;

	put(make_key(1), kPayload);
	kvh_lease_t value = lease_until(1, 1000);
	ASSERT_EQ(kvh_l1_hold_lease(l1, value, &frame), 0);
	EXPECT_EQ(kvh_l1_release(l1, value), 0);
	kvh_lease_t other = lease_until(1, 2000); // in the same entry
	EXPECT_EQ(kvh_l1_expire(l1, 1500), 2000u);
	kvh_l1_unhold_lease(l1, value, frame); // does not count for the other one
	EXPECT_EQ(kvh_l1_evict(l1, 0), 0u);
	EXPECT_EQ(kvh_l1_expire(l1, 2000), UINT64_MAX);
	EXPECT_EQ(kvh_l1_release(l1, other), -ESTALE);
	EXPECT_EQ(kvh_l1_evict(l1, 0), kFrame);
}

TEST_F(L1Life, AWriterThatDiesLeavesNothing)
{
	kvh_frame frame = reserve(make_key(1), kPayload);
	kvh_l1_abort(l1, frame);
	EXPECT_EQ(stats().used_bytes, 0u);
	EXPECT_EQ(stats().frames, 0u);
	EXPECT_NE(put(make_key(1), kPayload), 0u); // the next one writes it
}

// -- another policy -----------------------------------------------------------------

TEST_F(L1Life, PolicyChangesWhileFramesAreThere)
{
	const char *const names[] = {"s3-fifo", "arc", "lru", "arc", "s3-fifo", "lru"};

	for (uint64_t i = 0; i < 64; i++)
		put(make_key(i, 1 + i % 3), kPayload);
	kvh_lease_t held = lease(make_key(1, 2)); // parked over all of them
	uint64_t next = 64;
	for (const char *name : names) {
		ASSERT_EQ(kvh_l1_eviction_set(l1, name), 0);
		ASSERT_TRUE(kvh_l1_check(l1)) << name;
		for (uint64_t i = 0; i < 40; i++, next++)
			put(make_key(next, 1 + next % 3), kPayload);
		kvh_l1_release(l1, lease(make_key(next - 1, 1 + (next - 1) % 3)));
		ASSERT_TRUE(kvh_l1_check(l1)) << name;
	}
	kvh_l1_release(l1, held);
	kvh_l1_evict(l1, 0);
	EXPECT_EQ(stats().used_bytes, 0u);
}

TEST_F(L1Life, UnknownPolicyIsRefused)
{
	kvh_log_set([](void *, enum kvh_log_level, const char *) {}, nullptr, KVH_LOG_ERROR);
	EXPECT_EQ(kvh_l1_eviction_set(l1, "mru"), -EINVAL);
	put(make_key(1), kPayload);
}

// What is used again survives a scan of ten times L1 in an L1 with s3-fifo or
// arc, and does not in one with lru.
class Scan : public L1Rig, public ::testing::WithParamInterface<const char *>
{
};

TEST_P(Scan, HotFramesInL1)
{
	uint64_t hot = 0;

	open(16 * kMiB, 1, 0, GetParam());
	for (int round = 0; round < 4; round++)
		for (uint64_t i = 0; i < 100; i++) {
			if (find(make_key(i)) == 1)
				kvh_l1_release(l1, lease(make_key(i)));
			else
				put(make_key(i), kPayload);
		}
	for (uint64_t i = 0; i < 2560; i++)
		put(make_key(10000 + i), kPayload);
	for (uint64_t i = 0; i < 100; i++)
		hot += find(make_key(i)) == 1;
	if (std::string(GetParam()) == "lru") {
		EXPECT_EQ(hot, 0u) << "the control";
	} else {
		EXPECT_GE(hot, 95u);
	}
}

INSTANTIATE_TEST_SUITE_P(Policies, Scan, ::testing::Values("lru", "s3-fifo", "arc"));

} // namespace
