// SPDX-License-Identifier: Apache-2.0
//
// lease_test.cc - lease tables: values that are stale stay stale, whatever was
// leased since, and a close ends each lease once whoever else ends them.
#include "host/lease.h"

#include "host/log.h"

#include <atomic>
#include <cerrno>
#include <gtest/gtest.h>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace
{

void count_ended(void *arg, uint32_t rec)
{
	static_cast<std::multiset<uint32_t> *>(arg)->insert(rec);
}

class Lease : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		ASSERT_EQ(kvh_clients_open(&clients), 0);
	}

	void TearDown() override
	{
		kvh_clients_close(clients);
		kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	}

	uint32_t open()
	{
		uint32_t id = UINT32_MAX;

		EXPECT_EQ(kvh_client_open(clients, &id), 0);
		return id;
	}

	kvh_lease_t take(uint32_t id, uint32_t rec)
	{
		kvh_client *client = kvh_client_lock(clients, id);
		kvh_lease_t lease = KVH_NONE;

		EXPECT_NE(client, nullptr);
		if (client == nullptr)
			return lease;
		if (kvh_client_prepare(client, 1) == 1)
			lease = kvh_client_take(client, rec, 0);
		kvh_client_unlock(client);
		return lease;
	}

	int end(kvh_lease_t lease, uint32_t *rec_p)
	{
		return kvh_lease_end(clients, lease, rec_p);
	}

	kvh_clients *clients = nullptr;
	uint32_t rec = UINT32_MAX;
	std::multiset<uint32_t> ended;
};

TEST_F(Lease, IsFoundUntilItEnds)
{
	kvh_lease_t lease = take(open(), 77);

	EXPECT_NE(lease, KVH_NONE);
	EXPECT_EQ(kvh_lease_rec(clients, lease, &rec), 0);
	EXPECT_EQ(rec, 77u);
	EXPECT_EQ(kvh_clients_leases(clients), 1u);
	EXPECT_EQ(end(lease, &rec), 0);
	EXPECT_EQ(kvh_lease_rec(clients, lease, &rec), -ESTALE);
	EXPECT_EQ(end(lease, &rec), -ESTALE); // double
	EXPECT_EQ(kvh_clients_leases(clients), 0u);
}

TEST_F(Lease, RecordZeroIsARecord)
{
	kvh_lease_t lease = take(open(), 0);

	EXPECT_EQ(end(lease, &rec), 0);
	EXPECT_EQ(rec, 0u);
}

TEST_F(Lease, LateEndDoesNotTouchTheEntrysNextLease)
{
	uint32_t id = open();
	kvh_lease_t first = take(id, 1);

	ASSERT_EQ(end(first, &rec), 0);
	for (uint32_t i = 0; i < 1000; i++) { // the entry is used again, many times
		kvh_lease_t lease = take(id, 100 + i);

		ASSERT_NE(lease, first);
		ASSERT_EQ(end(first, &rec), -ESTALE);
		ASSERT_EQ(kvh_lease_rec(clients, lease, &rec), 0);
		ASSERT_EQ(rec, 100 + i);
		ASSERT_EQ(end(lease, &rec), 0);
	}
}

TEST_F(Lease, ValuesThatNobodyGaveOutAreStale)
{
	uint32_t id = open();
	kvh_lease_t lease = take(id, 5);
	std::mt19937_64 random(99);

	for (kvh_lease_t bad :
	     {KVH_NONE, UINT64_MAX, lease + 1, lease ^ (UINT64_C(1) << 20),
	      lease ^ (UINT64_C(1) << 32), lease ^ (UINT64_C(1) << 63), lease | 0xFFFFF}) {
		EXPECT_EQ(end(bad, &rec), -ESTALE) << std::hex << bad;
		EXPECT_EQ(kvh_lease_rec(clients, bad, &rec), -ESTALE) << std::hex << bad;
	}
	for (int i = 0; i < 100000; i++) {
		uint64_t bad = random();

		ASSERT_TRUE(bad == lease || end(bad, &rec) == -ESTALE) << std::hex << bad;
	}
	EXPECT_EQ(end(lease, &rec), 0);
}

TEST_F(Lease, CloseEndsAllAtOnce)
{
	uint32_t a = open(), b = open();
	kvh_lease_t of_b = take(b, 9);
	std::vector<kvh_lease_t> leases;

	for (uint32_t i = 0; i < 1000; i++)
		leases.push_back(take(a, i % 500));
	for (uint32_t i = 0; i < 10; i++)
		ASSERT_EQ(end(leases[i], &rec), 0);
	EXPECT_EQ(kvh_client_close(clients, a, count_ended, &ended), 0);
	EXPECT_EQ(ended.size(), 990u);
	EXPECT_EQ(ended.count(3), 1u);
	EXPECT_EQ(ended.count(499), 2u);
	for (kvh_lease_t lease : leases)
		ASSERT_EQ(end(lease, &rec), -ESTALE);
	EXPECT_EQ(kvh_lease_rec(clients, of_b, &rec), 0);
	EXPECT_EQ(kvh_clients_leases(clients), 1u);
}

TEST_F(Lease, ClosedClientIsGoneAndItsNumberIsUsedAgain)
{
	uint32_t id = open();
	kvh_lease_t before = take(id, 1);

	EXPECT_EQ(kvh_client_close(clients, id, count_ended, &ended), 0);
	EXPECT_EQ(kvh_client_lock(clients, id), nullptr);
	EXPECT_EQ(kvh_client_close(clients, id, count_ended, &ended), -ESTALE);
	EXPECT_EQ(kvh_client_close(clients, 4000, count_ended, &ended), -ESTALE);
	EXPECT_EQ(kvh_client_close(clients, UINT32_MAX, count_ended, &ended), -ESTALE);
	EXPECT_EQ(open(), id);
	for (int i = 0; i < 100; i++)
		EXPECT_NE(take(id, 2), before); // of the former client
	EXPECT_EQ(end(before, &rec), -ESTALE);
}

TEST_F(Lease, ThereIsAnEndOfClients)
{
	uint32_t id;

	kvh_log_set([](void *, enum kvh_log_level, const char *) {}, nullptr, KVH_LOG_ERROR);
	for (uint32_t i = 0; i < KVH_CLIENTS_MAX; i++)
		ASSERT_EQ(open(), i);
	EXPECT_EQ(kvh_client_open(clients, &id), -EMFILE);
	EXPECT_EQ(kvh_client_close(clients, 17, count_ended, &ended), 0);
	EXPECT_EQ(open(), 17u);
	EXPECT_NE(take(KVH_CLIENTS_MAX - 1, 1), KVH_NONE);
}

TEST_F(Lease, ThereIsAnEndOfLeases)
{
	uint32_t id = open();
	kvh_client *client = kvh_client_lock(clients, id);
	uint32_t n = kvh_client_prepare(client, KVH_LEASES_MAX);
	kvh_lease_t last = KVH_NONE;

	EXPECT_GT(n, KVH_LEASES_MAX - 100);
	for (uint32_t i = 0; i < n; i++)
		last = kvh_client_take(client, i, 0);
	EXPECT_EQ(kvh_client_prepare(client, 1), 0u);
	kvh_client_unlock(client);
	EXPECT_EQ(end(last, &rec), 0);
	EXPECT_EQ(rec, n - 1);
	EXPECT_NE(take(id, 3), KVH_NONE); // an ended one is there again
	EXPECT_EQ(kvh_client_close(clients, id, count_ended, &ended), 0);
	EXPECT_EQ(ended.size(), n);
}

// Threads end the same leases while the client closes: each ends once.
TEST_F(Lease, EachEndsOnceAgainstCloseAndOthers)
{
	const int rounds = 300;

	for (int round = 0; round < rounds; round++) {
		uint32_t id = open();
		std::vector<kvh_lease_t> leases;
		std::atomic<uint32_t> won{0};
		std::atomic<bool> go{false};

		for (uint32_t i = 0; i < 100; i++)
			leases.push_back(take(id, i));
		auto run = [&] {
			uint32_t unused;

			while (!go.load())
				std::this_thread::yield();
			for (kvh_lease_t lease : leases)
				won += kvh_lease_end(clients, lease, &unused) == 0;
		};
		std::thread one(run), two(run);
		go = true;
		ended.clear();
		ASSERT_EQ(kvh_client_close(clients, id, count_ended, &ended), 0);
		one.join();
		two.join();
		ASSERT_EQ(won + ended.size(), 100u) << "round " << round;
		ASSERT_EQ(kvh_clients_leases(clients), 0u);
	}
}

// Takers and enders on one client: what is taken is what ends, no entry twice.
TEST_F(Lease, EntriesGoRoundBetweenThreads)
{
	uint32_t id = open();
	std::vector<std::thread> threads;
	std::atomic<uint32_t> wrong{0};

	for (uint32_t t = 0; t < 3; t++)
		threads.emplace_back([&, t] {
			for (uint32_t i = 0; i < 20000; i++) {
				uint32_t at, want = t << 20 | i;
				kvh_lease_t lease = take(id, want);

				wrong += kvh_lease_end(clients, lease, &at) != 0 || at != want;
				wrong += kvh_lease_end(clients, lease, &at) != -ESTALE;
			}
		});
	for (std::thread &thread : threads)
		thread.join();
	EXPECT_EQ(wrong, 0u);
	EXPECT_EQ(kvh_clients_leases(clients), 0u);
}

} // namespace
