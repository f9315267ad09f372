// SPDX-License-Identifier: Apache-2.0
//
// l2_store_test.cc - every adapter held to l2/l2.h in what it keeps: usage,
// eviction within its bytes, list, the local index, what a reopen finds.
#include "tests/l2_harness.h"

#include <atomic>
#include <map>
#include <thread>

namespace l2test
{
namespace
{

using Listing = std::map<std::string, uint64_t>; // key's bytes -> length

std::string key_bytes(const struct kvh_key &key)
{
	return std::string(reinterpret_cast<const char *>(&key), sizeof(key));
}

Listing list_all(const Adapter &l2)
{
	Listing all;
	const auto visit = [](void *arg, const struct kvh_key *key, uint64_t len) {
		EXPECT_TRUE(static_cast<Listing *>(arg)->emplace(key_bytes(*key), len).second)
			<< "listed twice";
		return true;
	};

	EXPECT_EQ(l2.ops()->list(l2.self(), visit, &all), 0);
	return all;
}

struct kvh_key nth_key(uint64_t n)
{
	return make_key(n, 0x5ACE + n % 3, static_cast<uint32_t>(n % 2),
			static_cast<uint32_t>(n % 5));
}

Buffer nth_frame(uint64_t n)
{
	return make_frame(nth_key(n), n % 7 * 10000, n);
}

class Store : public L2
{
      protected:
	bool has_list(const Adapter &l2) const
	{
		const auto none = [](void *, const struct kvh_key *, uint64_t) { return true; };

		return l2.ops()->list != nullptr &&
		       l2.ops()->list(l2.self(), none, nullptr) != -EOPNOTSUPP;
	}
};

TEST_P(Store, ListAndUsageAgreeWithWhatWasPut)
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const struct kvh_l2_usage before = l2->usage();
	Listing expected;
	uint64_t bytes = 0;

	if (!keeps())
		GTEST_SKIP() << "keeps nothing";
	for (uint64_t n = 0; n < 60; n++) {
		const Buffer frame = nth_frame(n);

		ASSERT_EQ(l2->put(nth_key(n), frame), 0);
		expected[key_bytes(nth_key(n))] = frame.size();
		bytes += frame.size();
	}
	ASSERT_EQ(l2->del(nth_key(7)), 0);
	expected.erase(key_bytes(nth_key(7)));
	bytes -= nth_frame(7).size();

	const struct kvh_l2_usage usage = l2->usage();
	if (usage.objects != UINT64_MAX) {
		EXPECT_EQ(usage.objects, expected.size());
	}
	EXPECT_GE(usage.used_bytes, bytes);
	EXPECT_EQ(usage.evicted, 0u);
	EXPECT_LE(usage.used_bytes, usage.capacity_bytes);
	if (has_list(*l2)) {
		EXPECT_EQ(list_all(*l2), expected);
	}
	for (uint64_t n = 0; n < 60; n++) {
		ASSERT_EQ(l2->del(nth_key(n)), n == 7 ? -ENOENT : 0);
	}
	EXPECT_EQ(l2->usage().used_bytes, before.used_bytes);
	if (usage.objects != UINT64_MAX) {
		EXPECT_EQ(l2->usage().objects, 0u);
	}
}

TEST_P(Store, ListStopsWhenToldTo)
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	unsigned visits = 0;
	const auto visit = [](void *arg, const struct kvh_key *, uint64_t) {
		return ++*static_cast<unsigned *>(arg) < 3;
	};

	if (!keeps() || !has_list(*l2))
		GTEST_SKIP() << "keeps nothing, or has no list";
	for (uint64_t n = 0; n < 10; n++) {
		ASSERT_EQ(l2->put(nth_key(n), nth_frame(n)), 0);
	}
	EXPECT_GE(l2->ops()->list(l2->self(), visit, &visits), 0);
	EXPECT_EQ(visits, 3u);
}

TEST_P(Store, AReopenFindsWhatWasPut)
{
	constexpr uint64_t kFrames = 40;
	auto l2 = open();
	ASSERT_TRUE(l2);
	const bool lasts = keeps() && !l2->caps().volatile_;
	Listing listing;
	uint64_t used;

	for (uint64_t n = 0; n < kFrames; n++) {
		ASSERT_EQ(l2->put(nth_key(n), nth_frame(n)), 0);
	}
	ASSERT_EQ(l2->put(nth_key(3), make_frame(nth_key(3), 30000, 99)), 0);
	if (keeps()) {
		ASSERT_EQ(l2->del(nth_key(5)), 0);
	}
	if (has_list(*l2))
		listing = list_all(*l2);
	used = l2->usage().used_bytes;
	ASSERT_EQ(l2->close(), 0);

	l2 = open();
	ASSERT_TRUE(l2);
	if (lasts) {
		EXPECT_EQ(l2->usage().used_bytes, used);
		EXPECT_EQ(list_all(*l2), listing);
	}
	for (uint64_t n = 0; n < kFrames; n++) {
		const Buffer frame = n == 3 ? make_frame(nth_key(3), 30000, 99) : nth_frame(n);
		Buffer into(frame.size());

		ASSERT_EQ(l2->get(nth_key(n), into), lasts && n != 5 ? 0 : -ENOENT) << n;
		if (lasts && n != 5) {
			EXPECT_TRUE(into == frame) << n;
		}
	}
}

TEST_P(Store, MorePutsThanRoomStayWithinIt) // 9
{
	constexpr uint64_t kFrames = 96;
	const auto l2 = open("16M");
	ASSERT_TRUE(l2);
	const uint64_t capacity = l2->usage().capacity_bytes;
	uint64_t kept = 0, refused = 0;

	if (!keeps() || capacity == 0)
		GTEST_SKIP() << "keeps nothing, or without limit";
	for (uint64_t n = 0; n < kFrames; n++) {
		const int status = l2->put(make_key(n), make_frame(make_key(n), 256 << 10, n));

		ASSERT_TRUE(status == 0 || status == -ENOSPC) << n << ": " << status;
		refused += status != 0;
		ASSERT_LE(l2->usage().used_bytes, capacity) << n;
	}
	for (uint64_t n = 0; n < kFrames; n++) {
		const Buffer frame = make_frame(make_key(n), 256 << 10, n);
		Buffer into(frame.size());
		const int status = l2->get(make_key(n), into);

		ASSERT_TRUE(status == 0 || status == -ENOENT) << n << ": " << status;
		if (status != 0)
			continue;
		EXPECT_TRUE(into == frame) << n;
		kept++;
	}
	EXPECT_GT(l2->usage().evicted + refused, 0u);
	EXPECT_LT(kept, kFrames);
	EXPECT_GE(kept * (260ull << 10), capacity / 2)
		<< "more than half of the room is unused";
	if (refused == 0) {
		Buffer into(kvh_frame_bytes(256 << 10));

		EXPECT_EQ(l2->get(make_key(kFrames - 1), into), 0) << "the youngest is gone";
	}
}

// Frames of several sizes, many at once, in little room.
TEST_P(Store, AStormInLittleRoomStaysWithinIt) // 9
{
	const uint32_t seed = std::random_device{}();
	std::mt19937 random(seed);
	const auto l2 = open("16M");
	ASSERT_TRUE(l2);
	const uint64_t capacity = l2->usage().capacity_bytes;
	const size_t batch = std::min<size_t>(l2->caps().max_inflight, 8);
	uint64_t next = 0, ok = 0;

	if (!keeps() || capacity == 0)
		GTEST_SKIP() << "keeps nothing, or without limit";
	SCOPED_TRACE("seed " + std::to_string(seed));
	for (int round = 0; round < 40; round++) {
		std::vector<Buffer> frames;
		std::vector<struct kvh_l2_req> reqs;

		for (size_t i = 0; i < batch; i++) {
			const uint64_t payload = (random() % 3 + 1) * (100 << 10);

			frames.push_back(make_frame(make_key(next + i), payload));
		}
		for (size_t i = 0; i < batch; i++)
			reqs.push_back(make_req(KVH_L2_PUT, make_key(next + i),
						frames[i].data(), frames[i].size()));
		next += batch;
		for (struct kvh_l2_req &req : reqs) {
			ASSERT_EQ(l2->submit(&req), 0);
		}
		for (size_t ended = 0; ended < batch;) {
			const auto done = l2->wait(1);

			ASSERT_FALSE(done.empty());
			for (const struct kvh_l2_req *req : done)
				ok += req->status == 0;
			ASSERT_LE(l2->usage().used_bytes, capacity);
			ended += done.size();
		}
	}
	EXPECT_GT(ok, 0u);
	if (has_list(*l2)) {
		uint64_t bytes = 0;

		for (const auto &object : list_all(*l2))
			bytes += object.second;
		EXPECT_LE(bytes, capacity);
	}
}

// Peeks from another thread while the controller's puts and deletes.
TEST_P(Store, PeekAgreesFromAnyThread) // 1, 6
{
	constexpr uint32_t kKeys = 64;
	const auto l2 = open();
	ASSERT_TRUE(l2);
	std::vector<struct kvh_key> keys;
	std::atomic<bool> stop{false};
	std::atomic<uint64_t> rounds{0};

	if (!l2->caps().local_index)
		GTEST_SKIP() << "has no local index";
	for (uint32_t i = 0; i < kKeys; i++)
		keys.push_back(nth_key(i));
	std::thread peeker([&] {
		std::vector<uint8_t> found(kKeys);

		while (!stop) {
			std::fill(found.begin(), found.end(), 0xEE);
			l2->ops()->peek(l2->self(), keys.data(), kKeys, found.data());
			for (uint8_t f : found) {
				ASSERT_LE(f, 1u);
			}
			rounds++;
		}
	});
	for (uint64_t n = 0; n < kKeys || rounds < 10; n++) {
		EXPECT_EQ(l2->put(nth_key(n % kKeys), nth_frame(n % kKeys)), 0);
		if (n % 3 == 0) {
			EXPECT_EQ(l2->del(nth_key(n % kKeys)), 0);
		}
		std::this_thread::yield(); // a busy machine lets the peeker wait for long
	}
	stop = true;
	peeker.join();

	std::vector<uint8_t> found(kKeys);
	l2->ops()->peek(l2->self(), keys.data(), kKeys, found.data());
	for (uint32_t i = 0; i < kKeys; i++) {
		EXPECT_EQ(found[i] != 0, l2->probe(keys[i]) >= 0) << i;
	}
}

INSTANTIATE_TEST_SUITE_P(Adapters, Store, ::testing::ValuesIn(cases()), case_label);

} // namespace
} // namespace l2test
