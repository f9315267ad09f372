// SPDX-License-Identifier: Apache-2.0
//
// l1_random_test.cc - random calls to all of L1, in one thread, with the leases and
// holds that ought to be there counted beside them: no count is ever below zero,
// nothing is returned twice, and usage is the truth whatever fails.
#include "sanitizers.h"
#include "tests/l1_rig.h"

#include <cerrno>
#include <random>

namespace
{

constexpr uint64_t kFrame = 8192;
constexpr uint64_t kFrames = 512;
// Ten million in a plain build.
constexpr uint64_t kSteps = TSAN || ASAN ? 400000 : 10000000;

class L1Random : public L1Rig
{
      protected:
	void SetUp() override
	{
		L1Rig::SetUp();
		kvh_log_set([](void *, enum kvh_log_level, const char *) {}, nullptr,
			    KVH_LOG_ERROR);
	}

	uint64_t draw(uint64_t n)
	{
		return random_() % n;
	}
	kvh_key draw_key()
	{
		return make_key(1 + draw(900), 1 + draw(4), static_cast<uint32_t>(draw(2)));
	}
	// Takes one of them out; false: there is none.
	template <typename T>
	bool take(std::vector<T> &from, T *out)
	{
		if (from.empty())
			return false;
		std::swap(from[draw(from.size())], from.back());
		*out = from.back();
		from.pop_back();
		return true;
	}

	void step();
	void make();
	void fill();
	void lease_or_touch();
	void give_lease();
	void transfer();
	void engine_hold();
	void forget();
	void demote();
	void reconfigure();
	void end_all();
	void expect_counts()
	{
		const struct kvh_l1_stats s = stats();

		ASSERT_EQ(s.leases, leases_.size());
		ASSERT_EQ(s.holds, holds_.size() + transfers_.size() + demoting_.size());
	}

	struct Transfer {
		kvh_lease_t lease;
		kvh_frame frame;
	};

	std::mt19937_64 random_{20261125};
	std::vector<kvh_frame> filling_, holds_, demoting_;
	std::vector<kvh_lease_t> leases_;
	std::vector<kvh_lease_t> stale_; // given back once
	std::vector<Transfer> transfers_;
	uint64_t refused_ = 0, stale_refused_ = 0, failed_submits_ = 0;
};

void L1Random::make()
{
	reserve_item items[4] = {};
	const uint32_t n = static_cast<uint32_t>(1 + draw(4));

	for (uint32_t i = 0; i < n; i++) {
		items[i].key = draw_key();
		items[i].payload_bytes = draw(2) * 4096;
		items[i].flags = draw(8) == 0 ? KVH_L1_TEMPORARY : 0;
		if (draw(2) == 0)
			items[i].parent = draw_key().hash; // often wrong
	}
	kvh_l1_reserve(l1, items, n);
	for (uint32_t i = 0; i < n; i++) {
		if (items[i].status == 0)
			filling_.push_back(items[i].frame);
		else
			refused_++;
	}
}

// The writer's end: published with a hold or none, dirty or not, or given up.
void L1Random::fill()
{
	kvh_frame frame;

	if (!take(filling_, &frame))
		return;
	if (draw(8) == 0) {
		kvh_l1_abort(l1, frame);
		return;
	}
	if (draw(6) == 0)
		kvh_l1_set_dirty(l1, frame);
	const uint32_t holds = static_cast<uint32_t>(draw(2));
	const int rc = kvh_l1_publish(l1, frame, holds);
	if (rc == 0 && holds == 1)
		holds_.push_back(frame);
	else
		ASSERT_TRUE(rc == 0 || rc == -ECANCELED) << rc;
}

void L1Random::lease_or_touch()
{
	kvh_key keys[4];
	kvh_lease_t leases[4];
	int32_t status[4];

	for (kvh_key &key : keys)
		key = draw_key();
	if (draw(4) == 0) {
		kvh_l1_touch(l1, keys, 4, status);
		return;
	}
	kvh_l1_lease(l1, client, keys, 4, leases, status);
	for (int i = 0; i < 4; i++)
		if (status[i] == 0)
			leases_.push_back(leases[i]);
}

// And one that was given back before: nobody else's may be taken for it.
void L1Random::give_lease()
{
	kvh_lease_t lease;

	if (!stale_.empty()) {
		ASSERT_EQ(kvh_l1_release(l1, stale_[draw(stale_.size())]), -ESTALE);
		stale_refused_++;
	}
	if (!take(leases_, &lease))
		return;
	ASSERT_EQ(kvh_l1_release(l1, lease), 0);
	if (stale_.size() == 64)
		stale_[draw(64)] = lease;
	else
		stale_.push_back(lease);
}

// A load begins, or its submit fails and gives back the one hold it took; or ends.
void L1Random::transfer()
{
	Transfer t = {};

	if (draw(2) == 0 && take(transfers_, &t)) {
		kvh_l1_unhold_lease(l1, t.lease, t.frame);
		return;
	}
	if (leases_.empty())
		return;
	t.lease = leases_[draw(leases_.size())];
	ASSERT_EQ(kvh_l1_hold_lease(l1, t.lease, &t.frame), 0);
	if (draw(2) == 0) {
		failed_submits_++;
		kvh_l1_unhold_lease(l1, t.lease, t.frame);
		expect_counts();
	} else {
		transfers_.push_back(t);
	}
}

void L1Random::engine_hold()
{
	kvh_frame frame;

	if (draw(2) == 0) {
		if (take(holds_, &frame))
			kvh_l1_unhold(l1, frame);
		return;
	}
	const kvh_key key = draw_key();
	if (kvh_l1_hold_key(l1, &key, &frame) == 0)
		holds_.push_back(frame);
}

void L1Random::forget()
{
	const kvh_key key = draw_key();

	switch (draw(40)) {
	case 0: kvh_l1_erase_space(l1, key.space); break;
	case 1: kvh_l1_evict(l1, draw(kFrames) * kFrame); break;
	case 2:
		if (!holds_.empty())
			kvh_l1_doom(l1, holds_[draw(holds_.size())]);
		break;
	default: kvh_l1_erase(l1, &key);
	}
}

void L1Random::demote()
{
	kvh_frame frames[8], frame;

	if (draw(2) == 0) {
		const uint32_t n = kvh_l1_demote_take(l1, frames, 8, UINT64_MAX);
		demoting_.insert(demoting_.end(), frames, frames + n);
	} else if (take(demoting_, &frame)) {
		kvh_l1_demoted(l1, frame, draw(3) != 0);
	}
}

void L1Random::reconfigure()
{
	const char *const policies[] = {"lru", "s3-fifo", "arc"};
	kvh_l1_limits limits = {};

	if (draw(4) == 0) {
		ASSERT_EQ(kvh_l1_eviction_set(l1, policies[draw(3)]), 0);
		return;
	}
	limits.soft_bytes = draw(kFrames) * kFrame;
	limits.hard_bytes = draw(2) * draw(kFrames) * kFrame;
	limits.pinned = draw(4) == 0;
	kvh_l1_limits_set(l1, 1 + draw(4), &limits); // often refused
}

void L1Random::step()
{
	switch (draw(16)) {
	case 0:
	case 1:
	case 2: make(); break;
	case 3:
	case 4:
	case 5: fill(); break;
	case 6:
	case 7: lease_or_touch(); break;
	case 8:
	case 9:
	case 10: give_lease(); break;
	case 11:
	case 12: transfer(); break;
	case 13: engine_hold(); break;
	case 14: forget(); break;
	case 15: draw(200) == 0 ? reconfigure() : demote(); break;
	}
	// Not everything may be held for ever.
	while (leases_.size() > 200 || filling_.size() > 60)
		leases_.size() > 200 ? give_lease() : fill();
	while (holds_.size() > 60)
		engine_hold();
}

void L1Random::end_all()
{
	while (!filling_.empty())
		fill();
	while (!transfers_.empty())
		transfer();
	while (!leases_.empty())
		give_lease();
	while (!holds_.empty())
		engine_hold();
	while (!demoting_.empty())
		demote();
}

TEST_F(L1Random, CountsAndUsageAreTheTruthWhateverFails)
{
	open(kFrames * kFrame, 4);
	for (uint64_t i = 0; i < kSteps && !HasFatalFailure(); i++) {
		step();
		if (i % 100000 == 0) {
			expect_counts();
			ASSERT_TRUE(kvh_l1_check(l1)) << "step " << i;
		}
	}
	end_all();
	expect_counts();
	EXPECT_EQ(stats().leases, 0u);
	EXPECT_EQ(stats().holds, 0u);
	EXPECT_GT(refused_, kSteps / 1000);
	EXPECT_GT(stale_refused_, kSteps / 10);
	EXPECT_GT(failed_submits_, kSteps / 1000);
}

// The control: a submit that fails and keeps its hold is seen by the same books.
TEST_F(L1Random, NegativeControlALeakedHoldIsSeen)
{
	kvh_frame frame = 0;

	open(kFrames * kFrame, 4);
	put(make_key(1), 4096);
	leases_.push_back(lease(make_key(1)));
	ASSERT_EQ(kvh_l1_hold_lease(l1, leases_[0], &frame), 0);
	EXPECT_NE(stats().holds, holds_.size() + transfers_.size());
	kvh_l1_unhold_lease(l1, leases_[0], frame);
	expect_counts();
	end_all();
}

} // namespace
