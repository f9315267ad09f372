// SPDX-License-Identifier: Apache-2.0
//
// residual_test.cc - memory and files are used again by others: no byte of one tenant
// is in a frame of another, neither behind a shorter payload, nor in its padding,
// nor in what an adapter keeps and gives back.
#include "engine_harness.h"
#include "long_run.h"

#include <atomic>
#include <filesystem>
#include <fstream>

using namespace enginetest;

namespace
{

constexpr char kCanary[] = "CANARY-7"; // 8 bytes that no pattern of B's has
constexpr size_t kLen = sizeof(kCanary) - 1;
constexpr uint32_t kChunks = 8; // of a prompt

uint64_t canaries(const void *data, uint64_t bytes)
{
	const char *at = static_cast<const char *>(data), *end = at + bytes;
	uint64_t n = 0;

	while ((at = static_cast<const char *>(
			memmem(at, static_cast<size_t>(end - at), kCanary, kLen))) != nullptr) {
		at += kLen;
		n++;
	}
	return n;
}

struct Tenant {
	// Odd sizes leave a tail of a page to be padded.
	Tenant(const Engine &engine, const char *salt, uint32_t head_bytes)
	    : layout(layouts::dense("small", "pkthd", sizes_of(head_bytes), KVH_FORMAT_NATIVE)),
	      pool(engine, layout, engine.space(desc(salt)))
	{
	}
	static Sizes sizes_of(uint32_t head_bytes)
	{
		Sizes s = sizes(4 * kChunks);

		s.D = head_bytes;
		return s;
	}
	Desc desc(const char *salt) const
	{
		Desc d;

		d.layout = layout;
		d.salt = salt;
		return d;
	}
	Layout layout;
	Pool pool;
};

// A's pages hold nothing but the canary.
void poison(Pool &pool)
{
	for (const kvh_alloc &alloc : pool.memory.allocs())
		for (uint64_t at = 0; at < alloc.bytes; at++)
			static_cast<char *>(alloc.base)[at] = kCanary[at % kLen];
}

void store(Queue &queue, Pool &pool, uint64_t seed, bool fill)
{
	std::vector<Item> items;
	Job job;

	for (const kvh_hash &hash : prompt(seed, kChunks)) {
		items.push_back({pool.key(0, hash), pool.take(0), {}});
		if (fill)
			pool.fill(items.back().key, items.back().pages);
	}
	ASSERT_EQ(0, queue.store(job, pool, items, KVH_STORE_PERSISTED));
	ASSERT_EQ(kChunks, queue.finish(job).n_ok);
	pool.give_all();
}

class Residue : public testing::TestWithParam<const char *>
{
      protected:
	static Opts opts(const std::string &l2)
	{
		Opts o;

		if (!l2.empty())
			o.l2 = {l2};
		o.l1_bytes = 2 * MIB;
		return o;
	}
	std::string spec() const
	{
		const std::string name = GetParam();

		if (name == "mem")
			return "mem:residue,size=256K";
		return name.empty() ? "" : name + ":" + dir.path() + "/kv,size=64M";
	}
	// In all of the frames in L1, from header to the end of the padding.
	static uint64_t scan(const Engine &engine, Pool &pool, uint64_t seed, uint32_t *frames)
	{
		kvh_l1 *l1 = engine.get()->l1;
		uint64_t n = 0;

		for (const kvh_hash &hash : prompt(seed, kChunks)) {
			const kvh_key key = pool.key(0, hash);
			kvh_frame frame;

			if (kvh_l1_hold_key(l1, &key, &frame) != 0)
				continue;
			n += canaries(kvh_l1_data(l1, frame), kvh_l1_frame_bytes(l1, frame));
			kvh_l1_unhold(l1, frame);
			++*frames;
		}
		return n;
	}

	const Dir dir;
};

TEST_P(Residue, NoByteOfOneTenantIsInAFrameOfAnother)
{
	Engine engine(opts(spec()));
	Tenant a(engine, "a", 200), b(engine, "b", 33);
	Queue queue(engine);
	const uint64_t slow = std::string(GetParam()) == "fs" ? 10 : 1;
	const uint64_t rounds = l2test::long_or(100000, 800) / kChunks / 2 / slow;
	uint32_t frames = 0, again = 0;

	poison(a.pool);
	store(queue, a.pool, 0, false);
	EXPECT_GT(scan(engine, a.pool, 0, &frames), 1000u); // the control: in A's it is seen
	EXPECT_EQ(kChunks, std::exchange(frames, 0));
	for (uint64_t i = 1; i <= rounds; i++) {
		store(queue, a.pool, 2 * i, false);
		engine.evict();
		store(queue, b.pool, 2 * i + 1, true);
		ASSERT_EQ(0u, scan(engine, b.pool, 2 * i + 1, &frames)) << "round " << i;
		if (spec().empty())
			continue;
		engine.evict();
		const uint32_t usable = fetch_and_check(queue, b.pool,
							prompt(2 * i + 1, kChunks));
		b.pool.give_all();
		EXPECT_EQ(kChunks, usable);
		ASSERT_EQ(0u, scan(engine, b.pool, 2 * i + 1, &again)) << "round " << i;
	}
	EXPECT_EQ(rounds * kChunks, frames);
	EXPECT_EQ(spec().empty() ? 0 : rounds * kChunks, again);
	VERDICT("%u frames of B scanned in L1, %u brought back, no byte of A", frames, again);
}

INSTANTIATE_TEST_SUITE_P(Tiers, Residue, testing::Values("", "mem", "fs", "nvme"),
			 [](const testing::TestParamInfo<const char *> &info) {
				 return info.param[0] != '\0' ? info.param : "L1";
			 });

// What an adapter keeps of B is B's.
TEST(ResidueFiles, NoneOfTheOthersFilesHasIt)
{
	const Dir dir;
	uint64_t n_a = 0, n_b = 0, files_b = 0;
	Opts opts;

	opts.l2 = {"fs:" + dir.path() + "/kv,size=64M"};
	opts.l1_bytes = 2 * MIB;
	{
		Engine engine(opts);
		Tenant a(engine, "a", 200), b(engine, "b", 33);
		Queue queue(engine);

		poison(a.pool);
		for (uint64_t i = 0; i < 20; i++) {
			store(queue, i % 2 == 0 ? a.pool : b.pool, i, i % 2 != 0);
			engine.evict();
		}
		queue.close();
	}
	for (const auto &entry : std::filesystem::recursive_directory_iterator(dir.path())) {
		if (!entry.is_regular_file())
			continue;
		std::ifstream file(entry.path(), std::ios::binary);
		const std::string bytes{std::istreambuf_iterator<char>(file), {}};
		kvh_frame_header header;

		if (bytes.size() < sizeof(header))
			continue;
		memcpy(&header, bytes.data(), sizeof(header));
		const bool of_b = header.payload_bytes < 4096;
		(of_b ? n_b : n_a) += canaries(bytes.data(), bytes.size());
		files_b += of_b;
	}
	EXPECT_EQ(10u * kChunks, files_b);
	EXPECT_EQ(0u, n_b);
	EXPECT_GT(n_a, 1000u); // the control: in A's it is seen
}

} // namespace
