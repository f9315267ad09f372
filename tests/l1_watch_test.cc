// SPDX-License-Identifier: Apache-2.0
//
// l1_watch_test.cc - who watches a frame that another fills is told of its end,
// once, whatever the end is; who does not watch is not.
#include "tests/l1_rig.h"

#include <atomic>
#include <cerrno>
#include <thread>

namespace
{

constexpr uint64_t kPayload = 60 * 1024;

class L1Watch : public L1Rig
{
      protected:
	void SetUp() override
	{
		L1Rig::SetUp();
		open(4 * kMiB);
		kvh_l1_watcher_set(
			l1,
			[](void *arg, const struct kvh_key *k) {
				static_cast<std::vector<kvh_key> *>(arg)->push_back(*k);
			},
			&told);
	}

	void expect_told(size_t n)
	{
		EXPECT_EQ(told.size(), n);
		for (const kvh_key &k : told)
			EXPECT_EQ(memcmp(&k, &key, sizeof(key)), 0);
		EXPECT_TRUE(kvh_l1_check(l1));
	}

	const kvh_key key = make_key(0xFEDCBA9876543210, 0x1234, KVH_RANK_ANY, 15);
	std::vector<kvh_key> told;
};

TEST_F(L1Watch, OnlyWhatIsFilling)
{
	EXPECT_EQ(kvh_l1_watch(l1, &key), -ENOENT);
	kvh_frame frame = reserve(key, kPayload);
	EXPECT_EQ(kvh_l1_watch(l1, &key), 0);
	EXPECT_EQ(kvh_l1_watch(l1, &key), 0); // twice is once
	expect_told(0);
	EXPECT_EQ(kvh_l1_publish(l1, frame, 0), 0);
	expect_told(1);
	EXPECT_EQ(kvh_l1_watch(l1, &key), -EEXIST);
	EXPECT_EQ(kvh_l1_erase(l1, &key), 0);
	expect_told(1);
}

TEST_F(L1Watch, EveryEndIsTold)
{
	kvh_frame frame = reserve(key, kPayload);

	EXPECT_EQ(kvh_l1_watch(l1, &key), 0);
	kvh_l1_abort(l1, frame);
	expect_told(1);

	frame = reserve(key, kPayload);
	EXPECT_EQ(kvh_l1_watch(l1, &key), 0);
	EXPECT_EQ(kvh_l1_erase(l1, &key), 0); // it is over when it cannot be found
	expect_told(2);
	EXPECT_EQ(kvh_l1_publish(l1, frame, 0), -ECANCELED);
	expect_told(2);

	frame = reserve(key, kPayload);
	EXPECT_EQ(kvh_l1_watch(l1, &key), 0);
	kvh_l1_doom(l1, frame); // by its writer
	expect_told(3);
	EXPECT_EQ(kvh_l1_watch(l1, &key), -ENOENT);
	kvh_l1_abort(l1, frame);
	expect_told(3);

	frame = reserve(key, kPayload);
	EXPECT_EQ(kvh_l1_watch(l1, &key), 0);
	EXPECT_EQ(kvh_l1_publish(l1, frame, 1), 0);
	expect_told(4);
	kvh_l1_unhold(l1, frame);
}

// The negative control of the others: nobody asked.
TEST_F(L1Watch, WhatNobodyWatchesIsNotTold)
{
	kvh_frame frame = reserve(key, kPayload);

	EXPECT_EQ(kvh_l1_publish(l1, frame, 0), 0);
	EXPECT_EQ(kvh_l1_erase(l1, &key), 0);
	kvh_l1_abort(l1, reserve(key, kPayload));
	frame = reserve(key, kPayload);
	EXPECT_EQ(kvh_l1_watch(l1, &key), 0);
	kvh_l1_watcher_set(l1, nullptr, nullptr);
	EXPECT_EQ(kvh_l1_publish(l1, frame, 0), 0);
	expect_told(0);
}

// A watcher that was told that the frame is filling is told of its end, too,
// however close the two are.
TEST_F(L1Watch, NoneIsMissedInARace)
{
	constexpr int kRounds = 20000;
	std::atomic<uint64_t> n_told{0};
	std::atomic<bool> over{false};

	kvh_l1_watcher_set(
		l1,
		[](void *arg, const struct kvh_key *) {
			static_cast<std::atomic<uint64_t> *>(arg)->fetch_add(1);
		},
		&n_told);
	std::thread writer([&] {
		for (int i = 0; i < kRounds; i++) {
			kvh_frame frame = reserve(key, kPayload);

			EXPECT_EQ(kvh_l1_publish(l1, frame, 0), 0);
			EXPECT_EQ(kvh_l1_erase(l1, &key), 0);
		}
		over = true;
	});
	uint64_t watched = 0;

	while (!over) {
		if (kvh_l1_watch(l1, &key) != 0)
			continue;
		watched++;
		while (n_told.load() < watched) // for ever, if one is missed
			std::this_thread::yield();
	}
	writer.join();
	EXPECT_EQ(n_told.load(), watched);
}

} // namespace
