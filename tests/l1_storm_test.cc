// SPDX-License-Identifier: Apache-2.0
//
// l1_storm_test.cc - a full L1: everything held, or nobody but the writers to make
// room; and keys that collide.
#include "tests/l1_rig.h"

#include "host/l1_impl.h"

#include <atomic>
#include <cerrno>
#include <random>
#include <thread>

namespace
{

constexpr uint64_t kFrame = 64 * 1024;
constexpr uint64_t kPayload = kFrame - 4096;
constexpr uint64_t kFrames = 256;

class L1Storm : public L1Rig
{
      protected:
	void SetUp() override
	{
		L1Rig::SetUp();
		open(kFrames * kFrame);
	}

	// Shards in which an eviction would have something to look at.
	uint32_t shards_to_visit() const
	{
		uint32_t n = 0;

		for (uint32_t i = 0; i < l1->n_shards; i++)
			n += l1->oldest[i] != 0;
		return n;
	}

	std::vector<kvh_lease_t> lease_all()
	{
		std::vector<kvh_lease_t> leases;

		for (uint64_t i = 0; i < kFrames; i++) {
			put(make_key(i), kPayload);
			leases.push_back(lease(make_key(i)));
		}
		return leases;
	}
};

TEST_F(L1Storm, AllLeasedIsRefusedAtOnceAndNobodyBlocks)
{
	std::vector<kvh_lease_t> leases = lease_all();
	int status = 0;

	EXPECT_EQ(reserve(make_key(kFrames), kPayload, &status), 0u);
	EXPECT_EQ(status, -ENOMEM);
	// It has met each held frame once: from now on there is nothing to look at, so a
	// storm of stores costs no search and the background finds nothing to do.
	EXPECT_EQ(shards_to_visit(), 0u);
	std::vector<std::thread> storm;
	std::atomic<uint64_t> refused{0};
	for (uint64_t t = 0; t < 4; t++)
		storm.emplace_back([&, t] {
			for (uint64_t i = 0; i < 20000; i++) {
				reserve_item item = {};

				item.key = make_key(1000000 * (t + 1) + i);
				item.payload_bytes = kPayload;
				kvh_l1_reserve(l1, &item, 1);
				refused += item.status == -ENOMEM;
			}
		});
	for (std::thread &thread : storm)
		thread.join();
	EXPECT_EQ(refused, 80000u);
	EXPECT_EQ(kvh_l1_evict(l1, 0), 0u);
	EXPECT_EQ(shards_to_visit(), 0u);

	// And eviction is alive: one that is given back makes room.
	EXPECT_EQ(kvh_l1_release(l1, leases.back()), 0);
	leases.pop_back();
	EXPECT_EQ(shards_to_visit(), 1u);
	EXPECT_NE(put(make_key(kFrames), kPayload), 0u);
	for (kvh_lease_t value : leases)
		EXPECT_EQ(kvh_l1_release(l1, value), 0);
	EXPECT_EQ(kvh_l1_evict(l1, 0), kFrames * kFrame);
}

// The control: of frames that nobody holds there is always something to look at.
TEST_F(L1Storm, NegativeControlWhatIsNotHeldIsLookedAt)
{
	for (uint64_t i = 0; i < kFrames; i++)
		put(make_key(i), kPayload);
	EXPECT_GT(shards_to_visit(), 0u);
	EXPECT_NE(put(make_key(kFrames), kPayload), 0u);
	EXPECT_GT(shards_to_visit(), 0u);
}

// Who evicts gets that memory: if others were faster, it would have to clear the
// place around a victim, new frames there as well.
TEST_F(L1Storm, WritersAtOnceDoNotEvictWhatIsNew)
{
	constexpr uint64_t kThreads = 4, kBatch = kFrames / 32, kRounds = 4000;
	std::vector<std::thread> writers;
	std::atomic<uint64_t> gone{0};
	pthread_barrier_t barrier;

	for (uint64_t i = 0; i < kFrames; i++)
		put(make_key(i), kPayload);
	pthread_barrier_init(&barrier, nullptr, kThreads);
	for (uint64_t t = 0; t < kThreads; t++)
		writers.emplace_back([&, t] {
			std::vector<reserve_item> items(kBatch);
			std::vector<kvh_key> keys(kBatch);
			std::vector<uint8_t> found(kBatch);

			// An eighth of L1 is new in each round, of all threads together.
			for (uint64_t round = 1; round <= kRounds; round++) {
				for (uint64_t i = 0; i < kBatch; i++) {
					keys[i] = make_key(1000000 * (t + 1) + round * kBatch +
							   i);
					items[i] = {};
					items[i].key = keys[i];
					items[i].payload_bytes = kPayload;
				}
				kvh_l1_reserve(l1, items.data(), kBatch);
				for (const reserve_item &item : items)
					gone += item.status != 0 ||
						kvh_l1_publish(l1, item.frame, 0) != 0;
				pthread_barrier_wait(&barrier);
				kvh_l1_find(l1, keys.data(), kBatch, found.data());
				for (uint8_t one : found)
					gone += one != 1;
				pthread_barrier_wait(&barrier);
			}
		});
	for (std::thread &writer : writers)
		writer.join();
	pthread_barrier_destroy(&barrier);
	EXPECT_EQ(gone, 0u);
}

// No background at all: the writers make their own room, so throughput is never
// zero, whatever lags.
TEST_F(L1Storm, EvictionNeverLagsBehindTheWriters)
{
	std::vector<std::thread> writers;
	std::atomic<uint64_t> stored{0};

	for (uint64_t t = 0; t < 4; t++)
		writers.emplace_back([&, t] {
			for (uint64_t i = 0; i < 10 * kFrames; i++) {
				reserve_item item = {};

				item.key = make_key(1000000 * (t + 1) + i);
				item.payload_bytes = kPayload;
				if (kvh_l1_reserve(l1, &item, 1) == 1 &&
				    kvh_l1_publish(l1, item.frame, 0) == 0)
					stored++;
			}
		});
	for (std::thread &thread : writers)
		thread.join();
	EXPECT_EQ(stored, 40 * kFrames);
	EXPECT_EQ(stats().evicted_background, 0u);
	EXPECT_EQ(stats().evicted_alloc, 39 * kFrames);
	EXPECT_TRUE(kvh_l1_check(l1));
}

// ---- everything that may change while it runs --------------------------------------

class L1Changes : public L1Storm
{
      protected:
	static constexpr int kRounds = 3000;

	// Prompts of 8 chunks in a space, dirty or not; leased and given back.
	void writer(uint64_t t)
	{
		const kvh_space_t space = 1 + t % 3;

		for (uint64_t i = 0; i < kRounds; i++) {
			reserve_item items[8] = {};
			kvh_key keys[8];
			kvh_lease_t leases[8];
			int32_t status[8];

			for (uint64_t j = 0; j < 8; j++) {
				items[j].key = make_key((i % 50 + t * 1000) * 8 + j + 1, space);
				items[j].payload_bytes = kPayload;
				if (j > 0)
					items[j].parent = items[j - 1].key.hash;
				keys[j] = items[j].key;
			}
			kvh_l1_reserve(l1, items, 8);
			for (auto &item : items) {
				if (item.status != 0)
					continue;
				if (i % 4 == 0)
					kvh_l1_set_dirty(l1, item.frame);
				kvh_l1_publish(l1, item.frame, 0);
			}
			kvh_l1_lease_until(l1, client, keys, 8, i % 2, leases, status);
			for (kvh_lease_t lease : leases)
				if (lease != KVH_NONE)
					kvh_l1_release(l1, lease); // or it has expired
		}
	}

	void demoter()
	{
		kvh_frame frames[16];

		for (int i = 0; i < kRounds; i++) {
			const uint32_t n = kvh_l1_demote_take(l1, frames, 16, UINT64_MAX);

			for (uint32_t k = 0; k < n; k++)
				kvh_l1_demoted(l1, frames[k], i % 8 != 0);
			kvh_l1_expire(l1, 1);
		}
	}

	void operator_()
	{
		const char *const policies[] = {"s3-fifo", "arc", "lru"};

		for (int i = 0; i < kRounds / 10; i++) {
			kvh_l1_limits limits = {};

			limits.hard_bytes = static_cast<uint64_t>(i % 5) * 20 * kFrame;
			limits.soft_bytes = limits.hard_bytes / 2;
			limits.pinned = i % 5 != 0 && i % 7 == 0;
			kvh_l1_limits_set(l1, 1 + static_cast<uint64_t>(i % 3), &limits);
			kvh_l1_eviction_set(l1, policies[i % 3]);
			if (i % 10 == 0)
				kvh_l1_erase_space(l1, 1 + static_cast<uint64_t>(i / 10 % 3));
			kvh_l1_evict(l1, kFrames * kFrame / 2);
		}
	}
};

TEST_F(L1Changes, LimitsPoliciesAndDemotionWhileTrafficFlows)
{
	std::vector<std::thread> threads;

	kvh_log_set([](void *, enum kvh_log_level, const char *) {}, nullptr, KVH_LOG_ERROR);
	for (uint64_t t = 0; t < 3; t++)
		threads.emplace_back([this, t] { writer(t); });
	threads.emplace_back([this] { demoter(); });
	threads.emplace_back([this] { operator_(); });
	for (std::thread &thread : threads)
		thread.join();
	kvh_l1_expire(l1, 1);
	EXPECT_TRUE(kvh_l1_check(l1));
	for (kvh_space_t space = 1; space <= 3; space++)
		kvh_l1_erase_space(l1, space);
	EXPECT_EQ(stats().used_bytes, 0u);
}

// ---- keys that collide -------------------------------------------------------------

// A million keys go through an index that sees 8 bits of each.
class Collision : public ::testing::Test
{
      protected:
	static constexpr uint32_t kLive = 2000, kInserts = 1000000;

	static uint64_t cut(uint64_t hash)
	{
		uint64_t place = (hash & 0xFF) * UINT64_C(0x0101010101010101);

		return place;
	}

	void SetUp() override
	{
		recs.resize(kLive + 1);
		kvh_index_open(&index, recs.data(), 256);
	}
	void TearDown() override
	{
		kvh_index_close(&index);
	}

	std::vector<kvh_index_rec> recs;
	kvh_index index;
};

TEST_F(Collision, KeysThatCollideAreNeverServedForEachOther)
{
	std::mt19937_64 random(99);
	uint64_t right = 0, by_fingerprint_alone = 0;

	for (uint32_t i = 0; i < kInserts; i++) {
		const uint32_t rec = i % kLive;
		kvh_index_rec &r = recs[rec];

		if (i >= kLive)
			kvh_index_erase(&index, cut(r.hash[0]), rec);
		r.hash[0] = random();
		r.hash[1] = i; // no two are equal
		ASSERT_EQ(kvh_index_insert(&index, cut(r.hash[0]), rec), 0);
		if (i < kLive)
			continue;
		const uint32_t other = static_cast<uint32_t>(random() % kLive);
		const uint64_t place = cut(recs[other].hash[0]);
		right += kvh_index_find(&index, place, recs[other].hash, 0) == other;
		by_fingerprint_alone += kvh_index_guess(&index, place) == other;
		const uint64_t absent[2] = {recs[other].hash[0], UINT64_MAX};
		ASSERT_EQ(kvh_index_find(&index, place, absent, 0), KVH_INDEX_NONE);
	}
	EXPECT_EQ(right, kInserts - kLive);
	// The control: who compares no more than the 8 bits serves the wrong one.
	EXPECT_LT(by_fingerprint_alone, right / 2);
}

} // namespace
