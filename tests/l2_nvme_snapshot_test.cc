// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_snapshot_test.cc - the index that the nvme adapter keeps at a clean
// close: that all of it comes back, and when it is not believed.
#include "l2/nvme_layout.h"
#include "tests/l2_nvme_io.h"

namespace l2test
{
namespace
{

constexpr uint64_t kPayload = 60 << 10;
constexpr uint64_t kFrame = 64 << 10;

class NvmeSnapshot : public ::testing::TestWithParam<const char *>
{
      protected:
	std::string path() const
	{
		return dir_.path() + "/l2";
	}
	std::string spec(const std::string &more = "") const
	{
		return "nvme:" + path() + ",check=0,size=16M,eviction=" + GetParam() + more;
	}
	void put(Adapter &l2, uint64_t from, uint64_t to)
	{
		for (uint64_t i = from; i < to; i++)
			ASSERT_EQ(l2.put(make_key(i), make_frame(make_key(i), kPayload)), 0)
				<< i;
	}
	bool has(Adapter &l2, uint64_t i)
	{
		return l2.probe(make_key(i)) == static_cast<int64_t>(kFrame);
	}
	struct kvh_nvme_super super() const
	{
		struct kvh_nvme_super best = {}, found;
		const int fd = ::open(path().c_str(), O_RDONLY | O_CLOEXEC);

		for (off_t copy = 0; copy < 2; copy++) {
			EXPECT_EQ(pread(fd, &found, sizeof(found), copy * 4096), 4096);
			if (kvh_nvme_super_check(&found) == 0 && found.sequence > best.sequence)
				best = found;
		}
		::close(fd);
		return best;
	}
	void poke(uint64_t off, const void *bytes, size_t len) const
	{
		const int fd = ::open(path().c_str(), O_WRONLY | O_CLOEXEC);

		EXPECT_EQ(pwrite(fd, bytes, len, static_cast<off_t>(off)),
			  static_cast<ssize_t>(len));
		::close(fd);
	}

      private:
	Dir dir_;
};

TEST_P(NvmeSnapshot, AllFramesAndTheirOrderAreKept)
{
	std::vector<uint64_t> before;
	const auto visit = [](void *arg, const struct kvh_key *key, uint64_t) {
		uint64_t n;

		memcpy(&n, key->hash.bytes + 8, 8);
		static_cast<std::vector<uint64_t> *>(arg)->push_back(n);
		return true;
	};
	{
		Adapter l2(spec());

		ASSERT_EQ(l2.error(), 0);
		put(l2, 0, 100);
		for (uint64_t i = 0; i < 100; i += 3) {
			const Buffer into(kFrame);

			ASSERT_EQ(l2.get(make_key(i), into), 0);
		}
		ASSERT_EQ(l2.del(make_key(50)), 0);
		l2.ops()->list(l2.self(), visit, &before);
	}
	EXPECT_EQ(super().snapshot_records, 99u);

	std::vector<uint64_t> after;
	Log log;
	Adapter l2(spec());

	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(log.text(), "");
	l2.ops()->list(l2.self(), visit, &after);
	EXPECT_EQ(after, before) << "who would go first goes first";
	EXPECT_EQ(super().snapshot, 0u) << "it is void while the file is open";
}

// By a header that was made unreadable behind the adapter's back: a scan would
// set it aside, so the frame is known from the snapshot.
TEST_P(NvmeSnapshot, NoHeaderIsReadAfterACleanClose)
{
	{
		Adapter l2(spec());

		put(l2, 0, 20);
	}
	const std::string junk(4096, 'x');

	poke(super().data_offset, junk.data(), junk.size());
	Adapter l2(spec());

	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.usage().objects, 20u);
}

TEST_P(NvmeSnapshot, ADamagedOneIsNotBelieved)
{
	for (uint64_t at : {0ull, 47ull, 48ull * 19, 48ull * 20 + 5}) {
		{
			Adapter l2(spec());

			ASSERT_EQ(l2.error(), 0);
			put(l2, 0, 20);
		}
		const struct kvh_nvme_super s = super();
		const uint64_t off = kvh_nvme_snapshot_offset(&s, s.snapshot) + at;
		const char junk = 0x55;
		Log log;

		ASSERT_NE(s.snapshot, 0u);
		poke(off, &junk, 1);
		Adapter l2(spec());

		ASSERT_EQ(l2.error(), 0);
		EXPECT_EQ(log.count("snapshot of the index is damaged"), 1u) << at;
		EXPECT_EQ(l2.usage().objects, 20u) << "the headers have them all";
		for (uint64_t i = 0; i < 20; i++)
			EXPECT_TRUE(has(l2, i)) << i;
	}
}

// A file that was opened again and then left by a crash.
TEST_P(NvmeSnapshot, AStaleOneIsNotBelieved)
{
	std::string image;
	{
		Adapter l2(spec());

		put(l2, 0, 20);
	}
	{
		Adapter l2(spec());

		ASSERT_EQ(l2.error(), 0);
		for (uint64_t i = 0; i < 10; i++)
			ASSERT_EQ(l2.del(make_key(i)), 0);
		put(l2, 20, 30);
		std::filesystem::copy_file(path(), path() + ".crashed"); // as a kill leaves it
	}
	std::filesystem::rename(path() + ".crashed", path());
	Adapter l2(spec());

	ASSERT_EQ(l2.error(), 0);
	for (uint64_t i = 0; i < 30; i++)
		EXPECT_EQ(has(l2, i), i >= 10) << i;
}

// The same, and the superblock that says so is lost: the other is that of the close.
TEST_P(NvmeSnapshot, AStaleOneIsNotBelievedThoughTheNewerSuperblockIsLost)
{
	const uint64_t junk = 0xDEAD;
	Log log;
	{
		Adapter l2(spec());

		put(l2, 0, 20);
	}
	{
		Adapter l2(spec());

		ASSERT_EQ(l2.error(), 0);
		for (uint64_t i = 0; i < 10; i++)
			ASSERT_EQ(l2.del(make_key(i)), 0);
		put(l2, 20, 30);
		std::filesystem::copy_file(path(), path() + ".crashed");
	}
	std::filesystem::rename(path() + ".crashed", path());
	poke((super().sequence & 1) * 4096 + 200, &junk, sizeof(junk));
	ASSERT_TRUE(super().clean) << "control: not the one of the close";
	Adapter l2(spec());

	ASSERT_EQ(l2.error(), 0);
	for (uint64_t i = 0; i < 30; i++)
		EXPECT_EQ(has(l2, i), i >= 10) << i;
}

// Control of AStaleOneIsNotBelieved: with the mark of the clean close put back, the old
// snapshot is believed, and deleted frames are found.
TEST_P(NvmeSnapshot, ControlWithoutTheMarkAStaleOneIsBelieved)
{
	struct kvh_nvme_super closed;
	{
		Adapter l2(spec());

		put(l2, 0, 20);
	}
	closed = super();
	{
		Adapter l2(spec());

		ASSERT_EQ(l2.error(), 0);
		for (uint64_t i = 0; i < 10; i++)
			ASSERT_EQ(l2.del(make_key(i)), 0);
		std::filesystem::copy_file(path(), path() + ".crashed");
	}
	std::filesystem::rename(path() + ".crashed", path());
	closed.sequence = super().sequence + 1;
	kvh_nvme_super_seal(&closed);
	poke((closed.sequence & 1) * 4096, &closed, sizeof(closed));
	Adapter l2(spec());

	ASSERT_EQ(l2.error(), 0);
	EXPECT_TRUE(has(l2, 0)) << "found, though deleted: the mark is what prevents it";
}

INSTANTIATE_TEST_SUITE_P(Policies, NvmeSnapshot, ::testing::Values("lru", "s3-fifo", "arc"),
			 [](const auto &info) {
				 return std::string(info.param) == "s3-fifo"
						? std::string("s3fifo")
						: std::string(info.param);
			 });

} // namespace
} // namespace l2test
