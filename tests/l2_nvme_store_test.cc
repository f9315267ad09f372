// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_store_test.cc - frames in the slots of the nvme adapter: sizes side by
// side, eviction, what is found after a reopen and what must not be, GETs beside
// what overwrites and deletes.
#include "l2/nvme_layout.h"
#include "tests/l2_nvme_io.h"

#include <map>
#include <set>

namespace l2test
{
namespace
{

std::vector<uint64_t> sizes()
{
	return {4000, 4096, 20000, 65536, 65537, 100000, 131072, 200000, 300000, 400000};
}

TEST_P(Nvme, SizesLieSideBySideAndAreFoundAgain)
{
	uint64_t n = 0;
	{
		Adapter l2(spec("size=64M"));
		ASSERT_EQ(l2.error(), 0);
		for (int round = 0; round < 5; round++) {
			for (size_t s = 0; s < 7; s++, n++) {
				const Buffer frame = make_frame(make_key(n), sizes()[s]);
				ASSERT_EQ(l2.put(make_key(n), frame), 0);
			}
		}
	}
	Adapter l2(spec(""));
	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.usage().objects, n);
	while (n-- > 0) {
		const Buffer frame = make_frame(make_key(n), sizes()[n % 7]);
		const Buffer into(frame.size());

		ASSERT_EQ(l2.get(make_key(n), into), 0) << n;
		EXPECT_TRUE(into == frame) << n;
	}
}

// More sizes than segments: one gives way to the other, and nothing of the old
// one is ever found in its place.
TEST_P(Nvme, SegmentsChangeTheirSize)
{
	const uint32_t seed = std::random_device{}();
	std::mt19937_64 random(seed);
	std::map<uint64_t, uint64_t> put; // key, version
	uint64_t version = 0;

	SCOPED_TRACE("seed " + std::to_string(seed));
	for (int round = 0; round < 6; round++) {
		Adapter l2(spec("size=4M"));
		ASSERT_EQ(l2.error(), 0);
		for (int i = 0; i < 60; i++) {
			const uint64_t key = random() % 80;
			const uint64_t size = sizes()[key % sizes().size()];

			if (random() % 8 == 0) {
				const int status = l2.del(make_key(key));
				ASSERT_TRUE(status == 0 || status == -ENOENT);
				put.erase(key);
				continue;
			}
			const Buffer frame = make_frame(make_key(key), size, ++version);
			ASSERT_EQ(l2.put(make_key(key), frame), 0) << key;
			put[key] = version;
		}
		for (uint64_t key = 0; key < 80; key++) {
			const uint64_t size = sizes()[key % sizes().size()];

			if (put.count(key) == 0)
				EXPECT_EQ(l2.probe(make_key(key)), -ENOENT) << key;
			else
				expect_frame_or_miss(l2, make_key(key),
						     make_frame(make_key(key), size, put[key]));
		}
		EXPECT_GT(l2.usage().objects, 0u);
		EXPECT_LE(l2.usage().used_bytes, l2.usage().capacity_bytes);
	}
}

TEST_P(Nvme, EvictsTheLeastRecentlyUsedAndStaysWithinItsBytes)
{
	Adapter l2(spec("size=4M"));
	ASSERT_EQ(l2.error(), 0);
	const Buffer into(kvh_frame_bytes(100000));
	uint64_t n = 0;

	for (; l2.usage().evicted == 0; n++) {
		ASSERT_EQ(l2.put(make_key(n), make_frame(make_key(n), 100000)), 0);
		if (n > 0) { // used again and again
			ASSERT_EQ(l2.get(make_key(0), into), 0);
		}
	}
	EXPECT_EQ(l2.probe(make_key(1)), -ENOENT);
	for (uint64_t i = 2; i < n; i++)
		EXPECT_GT(l2.probe(make_key(i)), 0) << i;
	for (uint64_t end = n + 100; n < end; n++) {
		ASSERT_EQ(l2.put(make_key(n), make_frame(make_key(n), 100000)), 0);
		ASSERT_LE(l2.usage().used_bytes, l2.usage().capacity_bytes);
		ASSERT_EQ(l2.get(make_key(0), into), 0);
	}
	EXPECT_EQ(l2.usage().evicted, n - l2.usage().objects);
	EXPECT_EQ(std::filesystem::file_size(path()), 4u << 20);
}

TEST_P(Nvme, DeletedAndReplacedStayAwayAfterAReopen)
{
	{
		Adapter l2(spec());
		ASSERT_EQ(l2.error(), 0);
		for (uint64_t i = 0; i < 20; i++)
			ASSERT_EQ(l2.put(make_key(i), make_frame(make_key(i), 9000, 7)), 0);
		for (uint64_t i = 0; i < 20; i++) // earlier in sequence, and other sizes
			ASSERT_EQ(l2.put(make_key(i),
					 make_frame(make_key(i), i % 2 ? 9000 : 5000, 3)),
				  0);
		for (uint64_t i = 0; i < 10; i++)
			ASSERT_EQ(l2.del(make_key(i)), 0);
	}
	Adapter l2(spec(""));
	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.usage().objects, 10u);
	for (uint64_t i = 0; i < 20; i++) {
		const Buffer frame = make_frame(make_key(i), i % 2 ? 9000 : 5000, 3);
		const Buffer into(frame.size());

		ASSERT_EQ(l2.get(make_key(i), into), i < 10 ? -ENOENT : 0) << i;
		if (i >= 10) {
			EXPECT_TRUE(into == frame);
		}
	}
}

// Where the first slot of the first segment lies.
uint64_t data_offset(const std::string &path)
{
	struct kvh_nvme_super super;
	const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);

	EXPECT_EQ(pread(fd, &super, sizeof(super), 0), 4096);
	::close(fd);
	return super.data_offset;
}

TEST_P(Nvme, OfTwoFramesOfAKeyTheLaterIsFound)
{
	const uint64_t bytes = kvh_frame_bytes(9000);
	{
		Adapter l2(spec());
		ASSERT_EQ(l2.error(), 0);
		for (uint64_t i = 0; i < 3; i++)
			ASSERT_EQ(l2.put(make_key(i), make_frame(make_key(i), 9000, 5)), 0);
	}
	const uint64_t at = data_offset(path());
	const Buffer later = make_frame(make_key(1), 9000, 9);
	const Buffer earlier = make_frame(make_key(1), 9000, 1);

	unclose();
	poke(at, later.data(), bytes);               // in front of it
	poke(at + 2 * bytes, earlier.data(), bytes); // and behind
	for (int i = 0; i < 2; i++) {                // the second time they are gone
		Adapter l2(spec(""));
		const Buffer into(bytes);

		ASSERT_EQ(l2.error(), 0);
		EXPECT_EQ(l2.usage().objects, 1u);
		ASSERT_EQ(l2.get(make_key(1), into), 0);
		EXPECT_TRUE(into == later);
	}
	Buffer header(4096);
	for (uint64_t slot = 1; slot < 3; slot++) {
		peek(at + slot * bytes, header.data(), 4096);
		EXPECT_LT(kvh_frame_check_header(header.data()), 0) << slot;
	}
}

TEST_P(Nvme, TornFramesAreMissedOrFoundByVerifying)
{
	const uint64_t bytes = kvh_frame_bytes(40000);
	const uint8_t digest[32] = {1};
	const std::string junk(512, 'j');
	{
		Adapter l2(spec());
		ASSERT_EQ(l2.error(), 0);
		for (uint64_t i = 0; i < 4; i++)
			ASSERT_EQ(l2.put(make_key(i), make_frame(make_key(i), 40000)), 0);
	}
	const uint64_t at = data_offset(path());

	unclose();
	poke(at + 1000, junk.data(), 512);                 // 0: in the header
	poke(at + bytes + 4096, junk.data(), 512);         // 1: in the payload
	poke(at + 2 * bytes + bytes - 96, junk.data(), 1); // 2: in the padding
	Adapter l2(spec(""));
	ASSERT_EQ(l2.error(), 0);
	for (uint64_t i = 0; i < 4; i++) {
		const Buffer into(bytes);
		const struct kvh_key key = make_key(i);

		ASSERT_EQ(l2.get(key, into), i == 0 ? -ENOENT : 0) << i;
		if (i > 0) {
			EXPECT_EQ(kvh_frame_verify(into.data(), bytes, &key, digest, nullptr),
				  i == 3 ? 0 : -EBADMSG)
				<< i;
		}
	}
}

// A frame at the right place but of another size is not of this slot.
TEST_P(Nvme, OldFramesOfAnotherSizeAreNotFound)
{
	{
		Adapter l2(spec());
		ASSERT_EQ(l2.error(), 0);
		for (uint64_t i = 0; i < 4; i++)
			ASSERT_EQ(l2.put(make_key(i), make_frame(make_key(i), 40000)), 0);
	}
	const Buffer other = make_frame(make_key(77), 5000);

	unclose();
	poke(data_offset(path()), other.data(), other.size());
	Adapter l2(spec(""));
	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.probe(make_key(77)), -ENOENT);
	EXPECT_EQ(l2.usage().objects, 3u);
}

// As where the disk acknowledged a write and lost it: sound, of the key, but older.
TEST_P(Nvme, AnOlderFrameOfTheKeyInItsPlaceIsNotServed)
{
	const Buffer frame = make_frame(make_key(1), 9000, 5);
	const Buffer older = make_frame(make_key(1), 9000, 4), into(frame.size());
	Log log;

	for (int reopened = 0; reopened < 2; reopened++) {
		Adapter l2(spec("size=16M,direct=off"));

		ASSERT_EQ(l2.error(), 0);
		if (!reopened) {
			ASSERT_EQ(l2.put(make_key(1), frame), 0);
		}
		poke(data_offset(path()), older.data(), older.size());
		EXPECT_EQ(l2.get(make_key(1), into), -EIO) << reopened;
		EXPECT_EQ(log.count("is not the frame"), static_cast<size_t>(reopened) + 1);
		poke(data_offset(path()), frame.data(), frame.size()); // control
		EXPECT_EQ(l2.get(make_key(1), into), 0);
		EXPECT_TRUE(into == frame);
	}
}

TEST_P(Nvme, FormattingAUsedFileBringsNothingBack)
{
	{
		Adapter l2(spec());
		for (uint64_t i = 0; i < 50; i++)
			ASSERT_EQ(l2.put(make_key(i), make_frame(make_key(i), 40000)), 0);
	}
	const std::string junk(8192, 'x');
	Log log;

	poke(0, junk.data(), junk.size());
	for (int i = 0; i < 2; i++) {
		Adapter l2(spec("size=16M,format=yes"));
		ASSERT_EQ(l2.error(), 0);
		if (i == 0) { // opens the same slots
			ASSERT_EQ(l2.put(make_key(99), make_frame(make_key(99), 40000)), 0);
		}
		EXPECT_EQ(l2.usage().objects, 1u); // format=yes keeps what is sound
	}
}

// The slots of a used segment are opened for the size that they had before.
TEST_P(Nvme, WhatLiesInSlotsThatAreOpenedIsNotFound)
{
	const std::string junk(16, 'x');
	Log log;
	{
		Adapter l2(spec());
		for (uint64_t i = 0; i < 30; i++)
			ASSERT_EQ(l2.put(make_key(i), make_frame(make_key(i), 40000)), 0);
		for (uint64_t i = 100; i < 130; i++)
			ASSERT_EQ(l2.put(make_key(i), make_frame(make_key(i), 90000)), 0);
	}
	poke(2 * 4096, junk.data(), junk.size()); // without a table nothing is assigned
	poke(3 * 4096, junk.data(), junk.size());
	{
		Adapter l2(spec(""));
		ASSERT_EQ(l2.error(), 0);
		EXPECT_EQ(l2.usage().objects, 0u);
		ASSERT_EQ(l2.put(make_key(200), make_frame(make_key(200), 40000)), 0);
		ASSERT_EQ(l2.put(make_key(201), make_frame(make_key(201), 90000)), 0);
	}
	Adapter l2(spec(""));
	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.usage().objects, 2u);
}

TEST_P(Nvme, AttachedMemoryIsBoundedAndUsed)
{
	Adapter l2(spec());
	ASSERT_EQ(l2.error(), 0);
	const Buffer memory(1 << 20);
	Log log;
	const int region = l2.ops()->attach(l2.self(), memory.data(), memory.size());
	const struct kvh_key key = make_key(1);
	const Buffer frame = make_frame(key, 40000);

	if (std::string(GetParam()) == "threads") {
		EXPECT_LT(region, 0);
		return;
	}
	EXPECT_EQ(l2.ops()->attach(l2.self(), memory.data(), (1ull << 30) + 4096), -EINVAL);
	if (region < 0)
		GTEST_SKIP() << "memory cannot be registered here: " << strerror(-region);
	memcpy(memory.data() + 8192, frame.data(), frame.size());
	for (uint32_t r : {static_cast<uint32_t>(region), KVH_L2_NO_REGION, 77u}) {
		struct kvh_l2_req put = make_req(KVH_L2_PUT, key, memory.data() + 8192,
						 frame.size());
		struct kvh_l2_req get = make_req(KVH_L2_GET, key, memory.data() + (512 << 10),
						 frame.size());

		put.region = get.region = r;
		memset(get.buf, 0, frame.size());
		ASSERT_EQ(l2.run(&put), 0);
		ASSERT_EQ(l2.run(&get), 0);
		EXPECT_EQ(memcmp(get.buf, frame.data(), frame.size()), 0);
	}
	// A region of which the buffer is no part: by its address all the same.
	struct kvh_l2_req get = make_req(KVH_L2_GET, key, frame.data(), frame.size());
	get.region = static_cast<uint32_t>(region);
	EXPECT_EQ(l2.run(&get), 0);
}

INSTANTIATE_TEST_SUITE_P(Engines, Nvme, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

// ---- with reads that are held: the threads engine, whose reads can be ----

class NvmeHeld : public ::testing::Test
{
      protected:
	Dir dir;
	FaultIo io;
	const std::string spec = "nvme:" + dir.path() + "/l2,engine=threads,size=2M";
	const struct kvh_key key = make_key(1);
	const Buffer old_frame = make_frame(key, 100000, 1);
	const Buffer new_frame = make_frame(key, 100000, 2);
	const Buffer into{old_frame.size()};
};

TEST_F(NvmeHeld, ADeleteWaitsForTheGetThatReads)
{
	Adapter l2(spec, &io.ops, &io);
	ASSERT_EQ(l2.put(key, old_frame), 0);
	struct kvh_l2_req get = make_req(KVH_L2_GET, key, into.data(), into.size());
	struct kvh_l2_req del = make_req(KVH_L2_DELETE, key);

	io.reads.hold();
	ASSERT_EQ(l2.submit(&get), 0);
	io.reads.await(1);
	ASSERT_EQ(l2.submit(&del), 0);
	EXPECT_EQ(l2.probe(key), -ENOENT); // from now on
	EXPECT_TRUE(l2.reap().empty());
	io.reads.release();
	ASSERT_EQ(l2.wait(2).size(), 2u);
	EXPECT_EQ(get.status, 0);
	EXPECT_EQ(del.status, 0);
	EXPECT_TRUE(into == old_frame);
	EXPECT_EQ(l2.usage().used_bytes, 0u);
}

TEST_F(NvmeHeld, AGetBesideAReplacingPutReadsTheOldOne)
{
	{
		Adapter l2(spec, &io.ops, &io);
		ASSERT_EQ(l2.put(key, old_frame), 0);
		struct kvh_l2_req get = make_req(KVH_L2_GET, key, into.data(), into.size());
		struct kvh_l2_req put = make_req(KVH_L2_PUT, key, new_frame.data(),
						 new_frame.size());

		io.reads.hold();
		ASSERT_EQ(l2.submit(&get), 0);
		io.reads.await(1);
		ASSERT_EQ(l2.submit(&put), 0);
		while (l2.usage().used_bytes < 2 * old_frame.size()) // its slot was opened
			(void)l2.reap();
		io.reads.release();
		ASSERT_EQ(l2.wait(2).size(), 2u);
		EXPECT_EQ(get.status, 0);
		EXPECT_EQ(put.status, 0);
		EXPECT_TRUE(into == old_frame);
		EXPECT_EQ(l2.get(key, into), 0);
		EXPECT_TRUE(into == new_frame);
	}
	Adapter l2(spec);
	EXPECT_EQ(l2.usage().objects, 1u); // the old one was wiped
}

TEST_F(NvmeHeld, WhatIsReadIsNotEvicted)
{
	Adapter l2(spec, &io.ops, &io);
	uint64_t n = 0;

	for (; l2.usage().evicted == 0; n++)
		ASSERT_EQ(l2.put(make_key(n), make_frame(make_key(n), 100000)), 0);
	const uint64_t oldest = 1; // 0 is evicted
	const Buffer want = make_frame(make_key(oldest), 100000);
	struct kvh_l2_req get = make_req(KVH_L2_GET, make_key(oldest), into.data(),
					 into.size());

	io.reads.hold();
	ASSERT_EQ(l2.submit(&get), 0);
	io.reads.await(1);
	for (uint64_t end = n + 40; n < end; n++) {
		ASSERT_EQ(l2.put(make_key(n), make_frame(make_key(n), 100000)), 0);
	}
	EXPECT_GT(l2.probe(make_key(oldest)), 0);
	// Nor for another size, which takes a segment that is idle, or waits.
	struct kvh_l2_req put[3];
	const Buffer other = make_frame(make_key(1000), 30000);
	for (int i = 0; i < 3; i++) {
		put[i] = make_req(KVH_L2_PUT, make_key(1000 + static_cast<uint64_t>(i)),
				  other.data(), other.size());
		ASSERT_EQ(l2.submit(&put[i]), 0);
	}
	ASSERT_EQ(l2.wait(3).size(), 3u);
	io.reads.release();
	ASSERT_EQ(l2.wait(1).size(), 1u);
	EXPECT_EQ(get.status, 0);
	EXPECT_TRUE(into == want);
}

// Every segment is read: a PUT of a new size makes one give way, and waits.
TEST_F(NvmeHeld, ANewSizeGetsRoomThoughAllIsRead)
{
	Adapter l2(spec + ",depth=128,threads=128", &io.ops, &io);
	uint64_t n = 0;

	for (; l2.usage().evicted == 0; n++)
		ASSERT_EQ(l2.put(make_key(n), make_frame(make_key(n), 100000)), 0);
	std::vector<Buffer> buffers;
	std::vector<struct kvh_l2_req> gets;
	for (uint64_t i = 1; i < n; i++) {
		buffers.emplace_back(into.size());
		gets.push_back(
			make_req(KVH_L2_GET, make_key(i), buffers.back().data(), into.size()));
	}
	io.reads.hold();
	for (struct kvh_l2_req &get : gets)
		ASSERT_EQ(l2.submit(&get), 0);
	io.reads.await(static_cast<unsigned>(gets.size()));
	const Buffer other = make_frame(make_key(1000), 30000);
	struct kvh_l2_req put = make_req(KVH_L2_PUT, make_key(1000), other.data(),
					 other.size());
	ASSERT_EQ(l2.submit(&put), 0);
	EXPECT_TRUE(l2.reap().empty());
	io.reads.release();
	ASSERT_EQ(l2.wait(gets.size() + 1).size(), gets.size() + 1);
	EXPECT_EQ(put.status, 0);
	for (uint64_t i = 1; i < n; i++) {
		EXPECT_EQ(gets[i - 1].status, 0);
		EXPECT_TRUE(buffers[i - 1] == make_frame(make_key(i), 100000)) << i;
	}
	EXPECT_EQ(l2.get(make_key(1000), Buffer(other.size())), 0);
}

// A segment that is to give way is emptied of what nobody reads, so that readers
// who come and go cannot keep it for ever.
TEST_F(NvmeHeld, WhatGivesWayTakesNoNewReaders)
{
	Adapter l2(spec, &io.ops, &io);
	uint64_t n = 0;

	for (; l2.usage().evicted == 0; n++)
		ASSERT_EQ(l2.put(make_key(n), make_frame(make_key(n), 100000)), 0);
	ASSERT_EQ(n, 17u) << "eight segments of two frames, and one more";
	std::vector<Buffer> buffers;
	std::vector<struct kvh_l2_req> gets;
	for (uint64_t i = 0; i < 8; i++) {
		buffers.emplace_back(into.size());
		gets.push_back(make_req(KVH_L2_GET, make_key(2 * i + 1), buffers[i].data(),
					into.size()));
	}
	io.reads.hold();
	for (struct kvh_l2_req &get : gets)
		ASSERT_EQ(l2.submit(&get), 0);
	io.reads.await(8); // one in each segment
	const Buffer other = make_frame(make_key(1000), 30000);
	struct kvh_l2_req put = make_req(KVH_L2_PUT, make_key(1000), other.data(),
					 other.size());
	ASSERT_EQ(l2.submit(&put), 0);
	EXPECT_EQ(l2.usage().evicted, 2u);
	io.reads.release();
	ASSERT_EQ(l2.wait(9).size(), 9u);
	EXPECT_EQ(put.status, 0);
	for (uint64_t i = 0; i < 8; i++) {
		EXPECT_EQ(gets[i].status, 0);
		EXPECT_TRUE(buffers[i] == make_frame(make_key(2 * i + 1), 100000));
	}
}

TEST_F(NvmeHeld, ACloseThatCannotFinishSaysSo)
{
	Adapter l2(spec, &io.ops, &io);
	ASSERT_EQ(l2.put(key, old_frame), 0);
	struct kvh_l2_req get = make_req(KVH_L2_GET, key, into.data(), into.size());
	Log log;

	io.reads.hold();
	ASSERT_EQ(l2.submit(&get), 0);
	io.reads.await(1);
	EXPECT_EQ(l2.ops()->close(l2.self(), 1), -ETIMEDOUT);
	EXPECT_NE(log.text().find("1 transfers"), std::string::npos) << log.text();
	io.reads.release(); // so that the destructor's close can
}

} // namespace
} // namespace l2test
