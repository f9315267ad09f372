// SPDX-License-Identifier: Apache-2.0
//
// l2_fs_test.cc - the fs adapter in good weather: layout and rights, eviction,
// syncing, several of them on one directory, threads. l2_fs_fault_test.cc has
// the bad. What all adapters promise is in the suite over all.
#include "tests/io_fault.h"
#include "tests/l2_harness.h"

#include <fstream>
#include <regex>
#include <set>
#include <sys/file.h>

namespace l2test
{
namespace
{

namespace stdfs = std::filesystem;
using iofault::IoFault;

constexpr uint64_t kLen = 65536; // of the frames here

Buffer frame_of(uint64_t n, uint64_t version = 0)
{
	return make_frame(make_key(n), kLen - 4096, version);
}

class Fs : public ::testing::Test
{
      protected:
	std::unique_ptr<Adapter> open(const std::string &options = "")
	{
		// Without the look after the directory, which would take injected faults.
		auto l2 = std::make_unique<Adapter>("fs:" + root() + ",check=0" + options,
						    IoFault::ops(), &io_);

		EXPECT_EQ(l2->error(), 0);
		return l2->error() == 0 ? std::move(l2) : nullptr;
	}
	std::string root() const
	{
		return dir_.path() + "/root";
	}
	int put(Adapter &l2, uint64_t n, uint64_t version = 0)
	{
		return l2.put(make_key(n), frame_of(n, version));
	}
	bool has(Adapter &l2, uint64_t n, uint64_t version = 0)
	{
		Buffer into(kLen);
		const int status = l2.get(make_key(n), into);

		EXPECT_TRUE(status == 0 || status == -ENOENT) << status;
		EXPECT_TRUE(status != 0 || into == frame_of(n, version));
		return status == 0;
	}
	// Frames on the disk, or (tmp) what lies in tmp/.
	std::vector<stdfs::path> files(bool tmp = false) const
	{
		std::vector<stdfs::path> all;

		for (const auto &entry : stdfs::recursive_directory_iterator(root())) {
			const bool in_tmp = entry.path().parent_path().filename() == "tmp";

			if (!entry.is_directory() && in_tmp == tmp)
				all.push_back(entry.path());
		}
		return all;
	}

	Dir dir_;
	IoFault io_{7};
};

TEST_F(Fs, NamesAndRights) // X6
{
	const mode_t mask = umask(0);
	{
		const auto l2 = open();
		ASSERT_TRUE(l2);
		struct kvh_key key = make_key(1, 0x0123456789abcdef, 0xffffffff, 5);

		for (int i = 0; i < 16; i++)
			key.hash.bytes[i] = static_cast<uint8_t>(0xf0 + i);
		ASSERT_EQ(l2->put(key, make_frame(key, 4096)), 0);
		EXPECT_TRUE(stdfs::exists(
			root() + "/0123456789abcdef/f0/"
				 "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff-ffffffff-00000005"));
		for (const auto &entry : stdfs::recursive_directory_iterator(root()))
			EXPECT_EQ(entry.status().permissions(), entry.is_directory()
									? stdfs::perms(0700)
									: stdfs::perms(0600))
				<< entry.path();
		EXPECT_EQ(stdfs::status(root()).permissions(), stdfs::perms(0700));
	}
	umask(mask);
	EXPECT_TRUE(files(true).empty()) << "the lock goes with the instance";
	EXPECT_EQ(io_.open_fds(), 0u);
}

struct kvh_key evil_key(std::mt19937 &random)
{
	const char evil[] = "../@%\0\n ~$*?;|\\'\"./../..";
	struct kvh_key key;
	uint8_t bytes[sizeof(key)];

	for (uint8_t &byte : bytes)
		byte = static_cast<uint8_t>(
			random() % 2 ? random()
				     : static_cast<uint8_t>(evil[random() % sizeof(evil)]));
	memcpy(&key, bytes, sizeof(key));
	return key;
}

TEST_F(Fs, OnlyTheRootIsOpenedByItsName) // X6
{
	const uint32_t seed = std::random_device{}();
	std::mt19937 random(seed);
	// Of paths whose hex digits are all written as "h".
	const std::regex plain("[.]|tmp|hh|(h{16}|tmp)(/hh)?|(h{16}/hh/)?h{32}-h{8}-h{8}"
			       "|h{16}([.]lohk|-h{16})");
	std::set<std::string> shapes;
	size_t by_name = 0;

	{
		const auto l2 = open();
		ASSERT_TRUE(l2);
		const Buffer put(4096);
		std::vector<Buffer> into;
		struct kvh_l2_req reqs[50];

		for (size_t i = 0; i < 50; i++)
			into.emplace_back(4096);
		for (int round = 0; round < 2000; round++) {
			for (size_t i = 0; i < 50; i++) {
				const struct kvh_key key = evil_key(random);

				// A put makes three files: fewer of these.
				if (i == 0)
					reqs[i] = make_req(KVH_L2_PUT, key, put.data(), 4096);
				else if (i < 20)
					reqs[i] = make_req(KVH_L2_GET, key, into[i].data(),
							   4096);
				else
					reqs[i] = make_req(
						i < 35 ? KVH_L2_PROBE : KVH_L2_DELETE, key);
				ASSERT_EQ(l2->submit(&reqs[i]), 0);
			}
			ASSERT_EQ(l2->wait(50).size(), 50u);
			for (size_t i = 0; i < 50; i++)
				ASSERT_EQ(reqs[i].status, i == 0 ? 0 : -ENOENT) << i;
		}
	}
	for (const auto &opened : io_.opened()) {
		if (opened.path == root()) {
			by_name++;
			continue;
		}
		EXPECT_TRUE(opened.beneath) << opened.path;
		EXPECT_GE(opened.dirfd, 0) << opened.path;
		std::string shape = opened.path;

		for (char &c : shape)
			c = strchr("0123456789abcdef", c) != nullptr ? 'h' : c;
		shapes.insert(shape);
	}
	for (const std::string &shape : shapes)
		EXPECT_TRUE(std::regex_match(shape, plain)) << "seed " << seed << ": " << shape;
	EXPECT_EQ(by_name, 1u);
	EXPECT_EQ(io_.open_fds(), 0u);
}

TEST_F(Fs, EvictsTheLeastRecentlyUsed)
{
	const auto l2 = open(",threads=1,size=" + std::to_string(4 * kLen));
	ASSERT_TRUE(l2);

	for (uint64_t n = 0; n < 4; n++)
		ASSERT_EQ(put(*l2, n), 0);
	EXPECT_TRUE(has(*l2, 0)); // now 1 is the oldest
	ASSERT_EQ(put(*l2, 4), 0);
	EXPECT_FALSE(has(*l2, 1));
	ASSERT_EQ(put(*l2, 2, 1), 0) << "an overwrite needs room as well: 3 goes";
	EXPECT_FALSE(has(*l2, 3));
	EXPECT_TRUE(has(*l2, 0));
	EXPECT_TRUE(has(*l2, 2, 1));
	EXPECT_TRUE(has(*l2, 4));
	EXPECT_EQ(l2->usage().evicted, 2u);
	EXPECT_EQ(l2->usage().used_bytes, 3 * kLen);
	EXPECT_EQ(files().size(), 3u);
}

TEST_F(Fs, TheLastFrameMakesRoomForItsOwnNewVersion)
{
	const auto l2 = open(",size=" + std::to_string(kLen));
	ASSERT_TRUE(l2);

	for (uint64_t version = 0; version < 3; version++) {
		ASSERT_EQ(put(*l2, 1, version), 0) << version;
		EXPECT_TRUE(has(*l2, 1, version));
	}
	EXPECT_EQ(l2->usage().used_bytes, kLen);
}

// The victim's next version waits until its file is gone, and is not removed
// in its place.
TEST_F(Fs, APutOfWhatIsBeingEvictedIsKept)
{
	const auto l2 = open(",threads=2,size=" + std::to_string(2 * kLen));
	ASSERT_TRUE(l2);
	const Buffer three = frame_of(3), one = frame_of(1, 1);
	struct kvh_l2_req evictor = make_req(KVH_L2_PUT, make_key(3), three.data(), kLen);
	struct kvh_l2_req again = make_req(KVH_L2_PUT, make_key(1), one.data(), kLen);

	ASSERT_EQ(put(*l2, 1), 0);
	ASSERT_EQ(put(*l2, 2), 0);
	io_.hold(iofault::kUnlink);
	ASSERT_EQ(l2->submit(&evictor), 0);
	io_.wait_held(1);
	ASSERT_EQ(l2->submit(&again), 0);
	EXPECT_TRUE(l2->reap().empty());
	io_.release();
	ASSERT_EQ(l2->wait(2).size(), 2u);
	EXPECT_EQ(evictor.status, 0);
	EXPECT_EQ(again.status, 0);
	EXPECT_TRUE(has(*l2, 1, 1));
	EXPECT_TRUE(has(*l2, 3));
	EXPECT_EQ(l2->usage().objects, files().size());
	EXPECT_EQ(l2->usage().used_bytes, 2 * kLen);
}

TEST_F(Fs, AReopenWithLessRoomDropsTheOldest)
{
	auto l2 = open();
	ASSERT_TRUE(l2);
	for (uint64_t n = 0; n < 6; n++) {
		ASSERT_EQ(put(*l2, n), 0);
		// Times of their own, whatever the file system's clock ticks like.
		for (const auto &path : files())
			if (stdfs::last_write_time(path) >
			    stdfs::file_time_type::clock::now() - std::chrono::hours(1))
				stdfs::last_write_time(path,
						       stdfs::file_time_type::clock::now() -
							       std::chrono::hours(48 - n));
	}
	EXPECT_EQ(l2->usage().capacity_bytes, 0u);
	ASSERT_EQ(l2->close(), 0);

	l2 = open(",size=" + std::to_string(2 * kLen));
	ASSERT_TRUE(l2);
	EXPECT_EQ(l2->usage().objects, 2u);
	EXPECT_EQ(l2->usage().evicted, 4u);
	for (uint64_t n = 0; n < 6; n++)
		EXPECT_EQ(has(*l2, n), n >= 4) << n;
}

TEST_F(Fs, SyncsAsConfigured)
{
	const struct {
		const char *options;
		uint64_t data, full; // of a put into a directory that is there
	} cases[] = {{"", 0, 0}, {",fsync=data", 1, 0}, {",fsync=full", 0, 2}};

	for (const auto &c : cases) {
		const auto l2 = open(c.options);
		ASSERT_TRUE(l2);
		ASSERT_EQ(put(*l2, 1), 0);
		const uint64_t all = io_.calls(iofault::kFsync), data = io_.data_syncs();

		ASSERT_EQ(put(*l2, 1, 1), 0);
		EXPECT_EQ(io_.data_syncs() - data, c.data) << c.options;
		EXPECT_EQ(io_.calls(iofault::kFsync) - all, c.data + c.full) << c.options;
	}
}

TEST_F(Fs, TwoOnOneDirectorySeeEachOther)
{
	const auto a = open(), b = open();
	ASSERT_TRUE(a && b);

	ASSERT_EQ(put(*a, 1), 0);
	EXPECT_EQ(b->usage().objects, 0u) << "not seen yet";
	EXPECT_TRUE(has(*b, 1));
	EXPECT_EQ(b->usage().objects, 1u);
	EXPECT_EQ(b->usage().used_bytes, kLen);
	ASSERT_EQ(b->del(make_key(1)), 0);
	EXPECT_EQ(a->usage().objects, 1u) << "not seen yet";
	EXPECT_FALSE(has(*a, 1));
	EXPECT_EQ(a->usage().objects, 0u);
	EXPECT_EQ(a->usage().used_bytes, 0u);
	EXPECT_EQ(a->del(make_key(1)), -ENOENT);
}

TEST_F(Fs, AnothersFramesCountAndAreTrimmed)
{
	const auto a = open(), b = open(",size=" + std::to_string(2 * kLen));
	ASSERT_TRUE(a && b);

	for (uint64_t n = 0; n < 5; n++)
		ASSERT_EQ(put(*a, n), 0);
	for (uint64_t n = 0; n < 5; n++)
		EXPECT_EQ(b->probe(make_key(n)), static_cast<int64_t>(kLen));
	EXPECT_LE(b->usage().used_bytes, 2 * kLen);
	EXPECT_EQ(files().size(), 2u);
}

TEST_F(Fs, StaleTemporariesGoAndLivingOnesStay)
{
	auto l2 = open();
	ASSERT_TRUE(l2);
	const std::string tmp = root() + "/tmp/";
	// Of a dead process with its lock, of one without, of one that lives, and
	// things that are none of ours.
	for (const char *name : {"00000000000000aa.lock", "00000000000000aa-0000000000000001",
				 "00000000000000bb-0000000000000002", "00000000000000cc.lock",
				 "00000000000000cc-0000000000000003", "foreign",
				 "00000000000000AA-0000000000000001", "00000000000000aa-1",
				 "00000000000000aa.lockx"})
		std::ofstream(tmp + name) << "x";
	const int living = ::open((tmp + "00000000000000cc.lock").c_str(), O_RDWR | O_CLOEXEC);
	ASSERT_EQ(flock(living, LOCK_EX | LOCK_NB), 0);

	// One that is being written by an instance of this very process.
	struct kvh_l2_req req;
	const Buffer frame = frame_of(1);
	io_.hold(iofault::kPwrite);
	req = make_req(KVH_L2_PUT, make_key(1), frame.data(), frame.size());
	ASSERT_EQ(l2->submit(&req), 0);
	io_.wait_held(1);
	{
		const Adapter second("fs:" + root());
		ASSERT_EQ(second.error(), 0);
	}
	io_.release();
	ASSERT_EQ(l2->wait(1).size(), 1u);
	EXPECT_EQ(req.status, 0) << "its temporary was swept away";
	EXPECT_FALSE(stdfs::exists(tmp + "00000000000000aa.lock"));
	EXPECT_FALSE(stdfs::exists(tmp + "00000000000000aa-0000000000000001"));
	EXPECT_FALSE(stdfs::exists(tmp + "00000000000000bb-0000000000000002"));
	for (const char *name : {"00000000000000cc.lock", "00000000000000cc-0000000000000003",
				 "foreign", "00000000000000AA-0000000000000001",
				 "00000000000000aa-1", "00000000000000aa.lockx"})
		EXPECT_TRUE(stdfs::exists(tmp + name)) << name;
	::close(living);
}

TEST_F(Fs, FilesThatAreNotOursAreLeftAlone)
{
	stdfs::create_directories(root() + "/0000000000005ace/aa");
	const std::string own = root() + "/0000000000005ace/aa/";
	for (const std::string &path :
	     {root() + "/notes.txt", own + "notes.txt",
	      own + "aa00000000000000000000000000000-00000000-00000000",
	      own + "AA000000000000000000000000000000-00000000-00000000"})
		std::ofstream(path) << "x";
	stdfs::create_directory(own + "aa000000000000000000000000000000-00000000-00000000");
	const auto l2 = open(",size=8K");
	ASSERT_TRUE(l2);

	EXPECT_EQ(l2->usage().objects, 0u);
	EXPECT_EQ(files().size(), 4u);
}

TEST_F(Fs, ACancelEndsWhatHasNotStarted)
{
	const auto l2 = open(",threads=1");
	ASSERT_TRUE(l2);
	const Buffer one = frame_of(1), two = frame_of(2);
	struct kvh_l2_req first = make_req(KVH_L2_PUT, make_key(1), one.data(), one.size());
	struct kvh_l2_req second = make_req(KVH_L2_PUT, make_key(2), two.data(), two.size());

	io_.hold(iofault::kPwrite);
	ASSERT_EQ(l2->submit(&first), 0);
	io_.wait_held(1);
	ASSERT_EQ(l2->submit(&second), 0);
	l2->ops()->cancel(l2->self(), &first); // too late
	l2->ops()->cancel(l2->self(), &second);
	const auto done = l2->wait(1);
	ASSERT_EQ(done.size(), 1u);
	EXPECT_EQ(done[0], &second);
	EXPECT_EQ(second.status, -ECANCELED);
	io_.release();
	ASSERT_EQ(l2->wait(1).size(), 1u);
	EXPECT_EQ(first.status, 0);
	EXPECT_TRUE(has(*l2, 1));
	EXPECT_FALSE(has(*l2, 2));
}

TEST_F(Fs, ThreadsWorkSideBySide)
{
	const auto l2 = open(",threads=4");
	ASSERT_TRUE(l2);
	std::vector<Buffer> frames;
	std::vector<struct kvh_l2_req> reqs;

	io_.hold(iofault::kPwrite);
	for (uint64_t n = 0; n < 6; n++)
		frames.push_back(frame_of(n));
	for (uint64_t n = 0; n < 6; n++)
		reqs.push_back(make_req(KVH_L2_PUT, make_key(n), frames[n].data(), kLen));
	for (struct kvh_l2_req &req : reqs)
		ASSERT_EQ(l2->submit(&req), 0);
	io_.wait_held(4); // four at once: else this never returns
	io_.release();
	EXPECT_EQ(l2->wait(6).size(), 6u);
}

TEST_F(Fs, ACloseThatCannotFinishSaysSo) // 2
{
	Log log;
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const Buffer frame = frame_of(1);
	struct kvh_l2_req req = make_req(KVH_L2_PUT, make_key(1), frame.data(), frame.size());
	void *self = l2->self();

	io_.hold(iofault::kPwrite);
	ASSERT_EQ(l2->submit(&req), 0);
	io_.wait_held(1);
	EXPECT_EQ(l2->close(1), -ETIMEDOUT) << "a deadline that has passed";
	EXPECT_EQ(log.count("deadline"), 1u) << log.text();
	io_.release();
	EXPECT_EQ(l2->ops()->close(self, KVH_L2_DEADLINE_NO), 0);
	EXPECT_EQ(io_.open_fds(), 0u);
}

TEST_F(Fs, PathsThatCannotBe)
{
	const std::string file = dir_.path() + "/file";
	std::ofstream(file) << "x";
	const struct {
		std::string spec;
		int error;
	} bad[] = {
		{"fs", -EINVAL},
		{"fs:,size=1G", -EINVAL},
		{"fs:" + file, -ENOTDIR},
		{"fs:" + file + "/below", -ENOTDIR},
		{"fs:" + dir_.path() + "/not/there", -ENOENT},
		{"fs:" + root() + ",size=4K", -EINVAL},
		{"fs:" + root() + ",threads=65", -EINVAL},
		{"fs:" + root() + ",fsync=maybe", -EINVAL},
	};

	for (const auto &b : bad) {
		Log log;
		const Adapter l2(b.spec);

		EXPECT_EQ(l2.error(), b.error) << b.spec;
		EXPECT_EQ(log.count("\n"), 1u) << b.spec << ":\n" << log.text();
		if (b.error != -EINVAL) {
			EXPECT_NE(log.text().find(b.spec.substr(3)), std::string::npos)
				<< log.text();
		}
	}
}

} // namespace
} // namespace l2test
