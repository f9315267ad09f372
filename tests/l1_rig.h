// SPDX-License-Identifier: Apache-2.0
//
// l1_rig.h - an L1 over a small arena over the host device, and short words for
// what the tests do with it.
#ifndef KVH_TESTS_L1_RIG_H
#define KVH_TESTS_L1_RIG_H

#include "cuda/device_host.h"
#include "host/frame.h"
#include "host/l1.h"
#include "host/log.h"

#include <atomic>
#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <sys/mman.h>
#include <vector>

constexpr uint64_t kMiB = UINT64_C(1) << 20;

using reserve_item = struct kvh_l1_reserve; // there is a function of that name

inline kvh_key make_key(uint64_t hash, kvh_space_t space = 1, uint32_t rank = 0,
			uint32_t group = 0)
{
	kvh_key key = {};

	memcpy(key.hash.bytes, &hash, sizeof(hash));
	key.space = space;
	key.rank = rank;
	key.group = group;
	return key;
}

class L1Rig : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		ASSERT_EQ(kvh_device_host_open(&dev), 0);
	}

	void open(uint64_t bytes, uint32_t n_shards = 0, uint64_t piece_bytes = 0,
		  const char *eviction = nullptr)
	{
		kvh_arena_opts arena_opts = {};
		kvh_l1_opts opts = {};

		arena_opts.dev = dev;
		arena_opts.bytes = bytes;
		arena_opts.piece_bytes = piece_bytes;
		arena_opts.numa_node = -1;
		arena_opts.early = early;
		ASSERT_EQ(kvh_arena_open(&arena_opts, &arena), 0);
		opts.arena = arena;
		opts.n_shards = n_shards;
		opts.eviction = eviction;
		opts.demote = [](void *arg) { static_cast<L1Rig *>(arg)->demote_calls++; };
		opts.demote_arg = this;
		ASSERT_EQ(kvh_l1_open(&opts, &l1), 0);
		ASSERT_EQ(kvh_l1_client_open(l1, &client), 0);
	}

	void TearDown() override
	{
		if (l1 != nullptr) {
			kvh_l1_client_close(l1, client);
			EXPECT_TRUE(kvh_l1_check(l1));
			EXPECT_EQ(stats().leases, 0u);
			EXPECT_EQ(stats().holds, 0u);
			kvh_l1_close(l1);
			close_arena();
		}
		dev->ops->close(dev);
		kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	}

	// FILLING, or 0 with *status_p.
	kvh_frame reserve(const kvh_key &key, uint64_t payload, int *status_p = nullptr)
	{
		reserve_item item = {};

		item.key = key;
		item.payload_bytes = payload;
		uint32_t made = kvh_l1_reserve(l1, &item, 1);
		EXPECT_EQ(made, item.status == 0 ? 1u : 0u);
		EXPECT_EQ(item.frame != 0, item.status == 0);
		if (status_p != nullptr)
			*status_p = item.status;
		return item.frame;
	}

	kvh_frame put(const kvh_key &key, uint64_t payload, uint32_t holds = 0)
	{
		kvh_frame frame = reserve(key, payload);

		EXPECT_NE(frame, 0u);
		if (frame != 0) {
			EXPECT_EQ(kvh_l1_publish(l1, frame, holds), 0);
		}
		return frame;
	}

	kvh_lease_t lease(const kvh_key &key, int want = 0)
	{
		kvh_lease_t value = 123;
		int32_t status = 1;

		uint32_t got = kvh_l1_lease(l1, client, &key, 1, &value, &status);
		EXPECT_EQ(got, want == 0 ? 1u : 0u);
		EXPECT_EQ(status, want);
		EXPECT_EQ(value != KVH_NONE, want == 0);
		return value;
	}

	int find(const kvh_key &key)
	{
		uint8_t found = 77;

		kvh_l1_find(l1, &key, 1, &found);
		return found;
	}

	struct kvh_l1_stats stats()
	{
		struct kvh_l1_stats s;

		kvh_l1_stats(l1, &s);
		return s;
	}

	// What is leaked because of a quarantine goes here: else it is a finding.
	void close_arena()
	{
		std::vector<kvh_arena_piece> leaked;
		const kvh_arena_piece *pieces;
		uint32_t n = kvh_arena_pieces(arena, &pieces);

		if (quarantined)
			leaked.assign(pieces, pieces + n);
		kvh_arena_close(arena, quarantined);
		for (const kvh_arena_piece &piece : leaked) {
			dev->ops->host_unregister(dev, piece.base);
			munmap(piece.base, piece.bytes);
		}
	}

	bool early = false; // L1 is there before its arena is
	kvh_device *dev = nullptr;
	kvh_arena *arena = nullptr;
	kvh_l1 *l1 = nullptr;
	uint32_t client = UINT32_MAX;
	bool quarantined = false;
	std::atomic<uint32_t> demote_calls{0};
};

#endif
