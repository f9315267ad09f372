// SPDX-License-Identifier: Apache-2.0
//
// arena_rig.h - an arena over the host device, and what it logs; checked after every
// allocation.
#ifndef KVH_TESTS_ARENA_RIG_H
#define KVH_TESTS_ARENA_RIG_H

#include "cuda/device_host.h"
#include "host/arena.h"
#include "host/log.h"

#include <gtest/gtest.h>
#include <string>
#include <vector>

constexpr uint64_t kMiB = UINT64_C(1) << 20;
constexpr uint64_t kPage = 4096;

inline std::string log_lines;

inline void log_sink(void *, enum kvh_log_level, const char *line)
{
	log_lines += line;
	log_lines += '\n';
}

class Arena : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		log_lines.clear();
		kvh_log_set(log_sink, nullptr, KVH_LOG_WARN);
		ASSERT_EQ(kvh_device_host_open(&dev), 0);
		opts.dev = dev;
		opts.bytes = 32 * kMiB;
		opts.numa_node = -1;
	}

	void TearDown() override
	{
		if (arena != nullptr) {
			EXPECT_TRUE(kvh_arena_check(arena));
			kvh_arena_close(arena, false);
		}
		dev->ops->close(dev);
		kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	}

	void open()
	{
		ASSERT_EQ(kvh_arena_open(&opts, &arena), 0) << log_lines;
	}

	std::vector<void *> alloc(uint64_t bytes, uint32_t n)
	{
		std::vector<void *> frames(n);
		int got = kvh_arena_alloc(arena, bytes, n, frames.data());

		EXPECT_GE(got, 0);
		frames.resize(got < 0 ? 0 : static_cast<size_t>(got));
		EXPECT_TRUE(kvh_arena_check(arena)) << log_lines;
		return frames;
	}

	void free_all(const std::vector<void *> &frames)
	{
		for (void *frame : frames)
			kvh_arena_free(arena, frame);
		EXPECT_TRUE(kvh_arena_check(arena)) << log_lines;
	}

	struct kvh_arena_stats stats()
	{
		struct kvh_arena_stats s;

		kvh_arena_stats(arena, &s);
		return s;
	}

	kvh_device *dev = nullptr;
	kvh_arena *arena = nullptr;
	kvh_arena_opts opts = {};
};

#endif
