// SPDX-License-Identifier: Apache-2.0
//
// l1_stress_test.cc - threads that do everything to the same keys at once. Whoever
// holds a frame sees the bytes that its key stands for, from first to last look;
// at the end all counts are those of an L1 that is idle.
#include "tests/l1_rig.h"

#include <atomic>
#include <cerrno>
#include <functional>
#include <random>
#include <thread>

namespace
{

constexpr uint64_t kKeys = 96;
constexpr int kRounds = 20000;

// Bytes follow from the key, so that a frame that is another's shows at once.
uint64_t payload_of(uint64_t i)
{
	static const uint64_t payloads[] = {0, 4000, 40000, 200000};

	return payloads[i % 4];
}

class L1Stress : public L1Rig
{
      protected:
	using Body = std::function<void(std::mt19937 &)>;

	void TearDown() override
	{
		EXPECT_EQ(wrong, 0u);
		L1Rig::TearDown();
	}

	void paint(kvh_frame frame, uint64_t i)
	{
		auto *at = static_cast<uint64_t *>(kvh_l1_data(l1, frame));
		uint64_t words = kvh_frame_bytes(payload_of(i)) / 8;

		for (uint64_t w = 0; w < words; w += 63)
			at[w] = i << 32 | w;
		at[words - 1] = i;
	}

	void look(kvh_frame frame, uint64_t i)
	{
		const auto *at = static_cast<const uint64_t *>(kvh_l1_data(l1, frame));
		uint64_t words = kvh_frame_bytes(payload_of(i)) / 8;
		bool right = kvh_l1_frame_bytes(l1, frame) == words * 8 && at[words - 1] == i;
		const kvh_key want = make_key(i);
		kvh_key key;

		for (uint64_t w = 0; w + 1 < words; w += 63)
			right = right && at[w] == (i << 32 | w);
		kvh_l1_key(l1, frame, &key);
		right = right && memcmp(&key.hash, &want.hash, sizeof(key.hash)) == 0;
		wrong += !right;
	}

	void store(std::mt19937 &random);
	void read(std::mt19937 &random, uint32_t id);
	void erase(std::mt19937 &random);

	// All start together and go on for kRounds each, and until `enough`: what the
	// test is about has happened.
	void run(const std::vector<Body> &bodies, const std::function<bool()> &enough)
	{
		std::vector<std::thread> threads;
		std::atomic<size_t> ready{0};

		for (size_t t = 0; t < bodies.size(); t++)
			threads.emplace_back([&, t] {
				std::mt19937 random(static_cast<uint32_t>(1000 + t));

				for (ready++; ready < bodies.size();)
					std::this_thread::yield();
				for (int round = 0; round < kRounds || !enough(); round++)
					bodies[t](random);
			});
		for (std::thread &thread : threads)
			thread.join();
	}

	std::atomic<uint64_t> wrong{0}, stored{0}, leased{0}, held{0}, refused{0};
};

void L1Stress::store(std::mt19937 &random)
{
	const uint32_t n = 1 + static_cast<uint32_t>(random() % 6);
	std::vector<reserve_item> items(n);
	std::vector<uint64_t> which(n);

	for (uint32_t k = 0; k < n; k++) {
		which[k] = random() % kKeys;
		items[k].key = make_key(which[k]);
		items[k].payload_bytes = payload_of(which[k]);
	}
	kvh_l1_reserve(l1, items.data(), n);
	for (uint32_t k = 0; k < n; k++) {
		uint32_t holds = static_cast<uint32_t>(random() % 2);

		if (items[k].status != 0) {
			refused += items[k].status == -ENOMEM;
			continue;
		}
		paint(items[k].frame, which[k]);
		if (random() % 8 == 0) {
			kvh_l1_abort(l1, items[k].frame);
			continue;
		}
		if (kvh_l1_publish(l1, items[k].frame, holds) != 0)
			continue;
		stored++;
		if (holds == 0)
			continue;
		look(items[k].frame, which[k]);
		if (random() % 8 == 0)
			kvh_l1_doom(l1, items[k].frame);
		look(items[k].frame, which[k]);
		kvh_l1_unhold(l1, items[k].frame);
	}
}

void L1Stress::read(std::mt19937 &random, uint32_t id)
{
	kvh_key keys[8];
	uint64_t which[8];
	kvh_lease_t leases[8];
	int32_t status[8];
	kvh_frame frame;

	for (int k = 0; k < 8; k++) {
		which[k] = random() % kKeys;
		keys[k] = make_key(which[k]);
	}
	kvh_l1_lease(l1, id, keys, 8, leases, status);
	for (int k = 0; k < 8; k++) {
		if (status[k] != 0)
			continue;
		leased++;
		if (kvh_l1_hold_lease(l1, leases[k], &frame) != 0) {
			wrong++;
			continue;
		}
		look(frame, which[k]);
		wrong += kvh_l1_release(l1, leases[k]) != 0;
		look(frame, which[k]); // the hold keeps it
		kvh_l1_unhold(l1, frame);
		wrong += kvh_l1_release(l1, leases[k]) != -ESTALE;
	}
}

void L1Stress::erase(std::mt19937 &random)
{
	const kvh_key key = make_key(random() % kKeys);
	uint8_t found;

	kvh_l1_find(l1, &key, 1, &found);
	if (random() % 4 == 0)
		kvh_l1_erase(l1, &key);
	if (random() % 16 == 0)
		kvh_l1_evict(l1, random() % (4 * kMiB));
}

TEST_F(L1Stress, AllAtOnce)
{
	open(4 * kMiB, 4, 2 * kMiB); // small: all keys together do not fit
	std::vector<Body> bodies;

	for (int t = 0; t < 2; t++)
		bodies.emplace_back([this](std::mt19937 &random) { store(random); });
	for (int t = 0; t < 2; t++)
		bodies.emplace_back([this](std::mt19937 &random) {
			uint32_t id;

			if (kvh_l1_client_open(l1, &id) != 0) {
				wrong++;
				return;
			}
			for (int i = 0; i < 3; i++)
				read(random, id);
			kvh_l1_client_close(l1, id);
		});
	bodies.emplace_back([this](std::mt19937 &random) { erase(random); });
	run(bodies,
	    [this] { return stored > 100 && leased > 100 && stats().evicted_alloc > 100; });
}

// A client closes while others release its leases and take holds by them.
TEST_F(L1Stress, ClientCloseAgainstReleaseAndHold)
{
	std::atomic<kvh_lease_t> shared[16] = {};

	open(4 * kMiB, 4);
	auto other = [&](std::mt19937 &random) {
		uint64_t i = random() % 16;
		kvh_lease_t value = shared[i];
		kvh_frame frame;

		if (random() % 2 == 0) {
			kvh_l1_release(l1, value);
		} else if (kvh_l1_hold_lease(l1, value, &frame) == 0) {
			held++;
			look(frame, i);
			kvh_l1_unhold(l1, frame);
		}
	};
	auto owner = [&](std::mt19937 &random) {
		uint32_t id;

		wrong += kvh_l1_client_open(l1, &id) != 0;
		for (uint64_t i = 0; i < 16; i++) {
			const kvh_key key = make_key(i);
			reserve_item item = {};
			kvh_lease_t value;
			int32_t status;

			item.key = key;
			item.payload_bytes = payload_of(i);
			if (kvh_l1_reserve(l1, &item, 1) == 1) {
				paint(item.frame, i);
				kvh_l1_publish(l1, item.frame, 0);
			}
			kvh_l1_lease(l1, id, &key, 1, &value, &status);
			shared[i] = value;
			if (random() % 4 == 0)
				kvh_l1_erase(l1, &key);
		}
		std::this_thread::yield();
		kvh_l1_client_close(l1, id);
	};
	run({owner, other, other}, [this] { return held > 1000; });
}

// Writers of one key: one at a time, and each that is told 0 does publish.
TEST_F(L1Stress, OneWriterAKey)
{
	std::atomic<int> writing{0}, met{0};

	open(4 * kMiB);
	auto body = [&](std::mt19937 &) {
		reserve_item item = {};
		const kvh_key key = make_key(1);

		item.key = key;
		item.payload_bytes = payload_of(1);
		if (kvh_l1_reserve(l1, &item, 1) != 1) {
			wrong += item.status != -EEXIST && item.status != -EINPROGRESS;
			met++;
			return;
		}
		wrong += writing.fetch_add(1) != 0;
		paint(item.frame, 1);
		std::this_thread::yield();
		look(item.frame, 1);
		writing--;
		wrong += kvh_l1_publish(l1, item.frame, 1) != 0;
		kvh_l1_doom(l1, item.frame);
		kvh_l1_unhold(l1, item.frame);
		stored++;
	};
	run({body, body, body}, [&] { return met > 10; });
}

// Threads that want different sizes of an L1 that holds neither: all go on.
TEST_F(L1Stress, SizesTakeTurns)
{
	open(8 * kMiB, 4, 4 * kMiB);
	std::vector<Body> bodies;

	for (uint64_t t = 0; t < 3; t++)
		bodies.emplace_back([this, t](std::mt19937 &random) {
			static const uint64_t payloads[] = {0, 100000, 2 * kMiB};
			reserve_item item = {};

			item.key = make_key(t << 40 | random());
			item.payload_bytes = payloads[t];
			if (kvh_l1_reserve(l1, &item, 1) == 1) {
				stored++;
				kvh_l1_publish(l1, item.frame, 0);
			} else {
				refused += item.status == -ENOMEM;
			}
		});
	run(bodies, [] { return true; });
	// Each writer has one frame at a time, so there is always a place to clear;
	// all but a few races for it succeed.
	EXPECT_GT(stored, 3u * kRounds * 95 / 100) << refused << " refused";
}

} // namespace
