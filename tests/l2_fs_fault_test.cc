// SPDX-License-Identifier: Apache-2.0
//
// l2_fs_fault_test.cc - the fs adapter when calls fail, fall short or are
// refused, and when somebody planted things under its root.
#include "tests/io_fault.h"
#include "tests/l2_harness.h"

#include <fstream>
#include <sys/stat.h>

namespace l2test
{
namespace
{

namespace stdfs = std::filesystem;
using iofault::IoFault;

constexpr uint64_t kLen = 65536;

Buffer frame_of(uint64_t n, uint64_t version = 0)
{
	return make_frame(make_key(n), kLen - 4096, version);
}

class FsFault : public ::testing::Test
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
	// Of the temporaries: the instance's lock is none.
	size_t temporaries() const
	{
		size_t n = 0;

		for (const auto &entry : stdfs::directory_iterator(root() + "/tmp"))
			n += entry.path().extension() != ".lock";
		return n;
	}
	std::string fan_of(uint64_t n) const
	{
		char name[64];
		const struct kvh_key key = make_key(n);

		snprintf(name, sizeof(name), "/0000000000005ace/%02x", key.hash.bytes[0]);
		return root() + name;
	}
	std::string file_of(uint64_t n) const
	{
		for (const auto &entry : stdfs::directory_iterator(fan_of(n)))
			return entry.path().string();
		return "";
	}
	// Anything but a directory there, or below it.
	static bool is_empty(const std::string &path)
	{
		return stdfs::is_empty(path);
	}

	Dir dir_;
	IoFault io_{std::random_device{}()};
};

TEST_F(FsFault, ShortTransfersGoOn) // S3
{
	for (const char *options : {",direct=off", ",direct=auto"}) {
		Log log;
		const auto l2 = open(options);
		ASSERT_TRUE(l2);
		const uint64_t before = io_.injected();

		io_.shorten(2);
		for (uint64_t n = 0; n < 200; n++) {
			Buffer into(kLen);

			ASSERT_EQ(put(*l2, n % 8, n), 0) << options << n;
			ASSERT_EQ(l2->get(make_key(n % 8), into), 0) << options << n;
			ASSERT_TRUE(into == frame_of(n % 8, n)) << options << n;
		}
		EXPECT_GT(io_.injected() - before, 100u);
		EXPECT_EQ(log.text(), "") << "a short transfer is no refusal of O_DIRECT";
		io_.clear();
	}
}

// A file that is not what was written: cut, grown, of another kind.
TEST_F(FsFault, AFileOfAnotherSizeIsAnError) // 5
{
	Log log;
	const auto l2 = open();
	ASSERT_TRUE(l2);
	Buffer into(kLen);

	for (uint64_t size : {kLen - 1, kLen - 4096, kLen + 1, uint64_t{0}}) {
		ASSERT_EQ(put(*l2, 1), 0);
		stdfs::resize_file(file_of(1), size);
		EXPECT_EQ(l2->get(make_key(1), into), -EIO) << size;
	}
	ASSERT_EQ(put(*l2, 1), 0);
	stdfs::remove(file_of(1));
	ASSERT_EQ(mkfifo((fan_of(1) + "/x").c_str(), 0600), 0);
	ASSERT_EQ(put(*l2, 2), 0);
	const std::string name = file_of(2);
	stdfs::remove(name);
	ASSERT_EQ(mkfifo(name.c_str(), 0600), 0);
	EXPECT_EQ(l2->get(make_key(2), into), -EIO) << "and it did not wait for a writer";
	EXPECT_EQ(l2->probe(make_key(2)), -ENOENT);
}

// A read that ends early although fstat said otherwise.
TEST_F(FsFault, AFileThatIsCutWhileItIsReadIsAnError) // 5
{
	Log log;
	const auto l2 = open(",direct=off");
	ASSERT_TRUE(l2);
	Buffer into(kLen);
	struct kvh_l2_req req = make_req(KVH_L2_GET, make_key(1), into.data(), into.size());

	ASSERT_EQ(put(*l2, 1), 0);
	io_.hold(iofault::kPread);
	ASSERT_EQ(l2->submit(&req), 0);
	io_.wait_held(1);
	stdfs::resize_file(file_of(1), 8192);
	io_.release();
	ASSERT_EQ(l2->wait(1).size(), 1u);
	EXPECT_EQ(req.status, -EIO);
}

struct Step {
	iofault::Call call;
	const char *options;
};

class FsStep : public FsFault, public ::testing::WithParamInterface<Step>
{
};

// Every call of a put fails in its turn, once and for ever: the put fails,
// nothing is left over, what was there before is there or gone, and the next
// put works.
TEST_P(FsStep, APutSurvivesEachCallThatFails) // S1, S2
{
	uint64_t next = 2;

	for (int error : {-EIO, -ENOSPC, -EROFS}) {
		for (uint64_t count : {uint64_t{1}, iofault::kForEver}) {
			uint64_t failed = 0;

			for (uint64_t nth = 1;; nth++) {
				Log log;
				const auto l2 = open(GetParam().options);
				ASSERT_TRUE(l2);
				Buffer into(kLen);
				const uint64_t key = next++; // in a directory of its own

				ASSERT_EQ(put(*l2, 1, 0), 0);
				const uint64_t before = io_.injected();
				io_.fail(GetParam().call, error, nth, count);
				const int over = put(*l2, 1, 1), fresh = put(*l2, key, 0);
				const bool fired = io_.injected() > before;
				io_.clear();

				if (!fired) {
					EXPECT_EQ(over, 0);
					EXPECT_EQ(fresh, 0);
					EXPECT_EQ(l2->del(make_key(1)), 0);
					EXPECT_EQ(l2->del(make_key(key)), 0);
					break;
				}
				failed += over != 0 || fresh != 0;
				ASSERT_TRUE(over == 0 || over == error) << over;
				ASSERT_TRUE(fresh == 0 || fresh == error) << fresh;
				EXPECT_EQ(l2->probe(make_key(key)),
					  fresh == 0 ? static_cast<int64_t>(kLen) : -ENOENT);
				const int got = l2->get(make_key(1), into);
				ASSERT_TRUE(got == 0 || (over != 0 && got == -ENOENT)) << got;
				if (got == 0) {
					EXPECT_TRUE(into == frame_of(1, over == 0));
				}
				EXPECT_EQ(temporaries(), 0u);
				EXPECT_EQ(put(*l2, 1, 2), 0);
				EXPECT_EQ(put(*l2, key, 2), 0);
				EXPECT_EQ(l2->usage().objects, 2u);
				EXPECT_EQ(l2->usage().used_bytes, 2 * kLen);
				EXPECT_EQ(l2->del(make_key(1)), 0);
				EXPECT_EQ(l2->del(make_key(key)), 0);
				ASSERT_LT(nth, 100u);
			}
			EXPECT_GT(failed, 0u) << "nothing was ever hit";
			EXPECT_EQ(io_.open_fds(), 0u);
		}
	}
}

INSTANTIATE_TEST_SUITE_P(
	Calls, FsStep,
	::testing::Values(Step{iofault::kOpen, ""}, Step{iofault::kPwrite, ",direct=off"},
			  Step{iofault::kPwrite, ""}, Step{iofault::kRename, ""},
			  Step{iofault::kMkdir, ""}, Step{iofault::kFsync, ",fsync=data"},
			  Step{iofault::kFsync, ",fsync=full"}));

TEST_F(FsFault, AFullDiskFailsPutsAndServesGets) // S2
{
	Log log;
	const auto l2 = open();
	ASSERT_TRUE(l2);
	Buffer into(kLen);

	ASSERT_EQ(put(*l2, 1), 0);
	io_.fail(iofault::kPwrite, -ENOSPC);
	for (uint64_t n = 2; n < 12; n++) {
		EXPECT_EQ(put(*l2, n), -ENOSPC);
		EXPECT_EQ(l2->get(make_key(1), into), 0);
	}
	EXPECT_EQ(temporaries(), 0u);
	EXPECT_EQ(log.count("No space left"), 1u) << "one line, not one a frame:\n"
						  << log.text();
	io_.clear();
	EXPECT_EQ(put(*l2, 2), 0);
	EXPECT_EQ(l2->usage().used_bytes, 2 * kLen);
}

TEST_F(FsFault, OpensOnAFullDisk)
{
	Log log;
	ASSERT_TRUE(open());
	io_.fail(iofault::kPwrite, -ENOSPC);
	const auto l2 = open();
	ASSERT_TRUE(l2);
	EXPECT_EQ(put(*l2, 1), -ENOSPC);
	EXPECT_EQ(temporaries(), 0u);
}

// Another process's frames are in no index: only the walk finds them.
TEST_F(FsFault, AClearThatCouldNotReadADirectoryFails) // S1
{
	for (const auto &[call, nth] :
	     {std::pair{iofault::kOpen, 2}, // of the first fan
	      std::pair{iofault::kGetdents, 2}, std::pair{iofault::kOpen, 3}, // of its frame
	      std::pair{iofault::kFstat, 1}}) {
		Log log;
		const auto l2 = open(), other = open();
		struct kvh_l2_req req = make_req(KVH_L2_CLEAR, make_key(0));
		ASSERT_TRUE(l2 && other);

		ASSERT_EQ(put(*other, 1), 0);
		io_.fail(call, -EIO, static_cast<uint64_t>(nth), 1);
		EXPECT_EQ(l2->run(&req), -EIO) << call << nth;
		io_.clear();
		EXPECT_NE(file_of(1), "") << "control: it is there";
		EXPECT_EQ(l2->run(&req), 0);
		EXPECT_EQ(file_of(1), "");
	}
}

TEST_F(FsFault, AReadErrorEndsThatRead) // S1
{
	Log log;
	const auto l2 = open();
	ASSERT_TRUE(l2);
	Buffer into(kLen);

	ASSERT_EQ(put(*l2, 1), 0);
	io_.fail(iofault::kPread, -EIO, 1, 1);
	EXPECT_EQ(l2->get(make_key(1), into), -EIO);
	EXPECT_EQ(l2->get(make_key(1), into), 0);
	EXPECT_TRUE(into == frame_of(1));
	io_.fail(iofault::kFstat, -EIO, 1, 1);
	EXPECT_EQ(l2->probe(make_key(1)), -EIO);
	io_.fail(iofault::kUnlink, -EACCES, 1, 1);
	EXPECT_EQ(l2->del(make_key(1)), -EACCES);
	EXPECT_EQ(l2->usage().objects, 1u);
	EXPECT_EQ(l2->del(make_key(1)), 0);
}

// Refused at open(2), or only when bytes move: puts and gets succeed, and it is
// said once.
TEST_F(FsFault, WithoutDirectItGoesThroughTheCache) // S8
{
	for (IoFault::Direct how : {IoFault::kRefusedAtOpen, IoFault::kRefusedAtTransfer}) {
		for (bool from_start : {true, false}) {
			Log log;
			io_.set_direct(from_start ? how : IoFault::kAllowed);
			const auto l2 = open();
			ASSERT_TRUE(l2);
			Buffer into(kLen);

			ASSERT_EQ(put(*l2, 1), 0);
			io_.set_direct(how);
			for (uint64_t n = 1; n < 5; n++) {
				EXPECT_EQ(l2->get(make_key(n), into), 0);
				EXPECT_EQ(put(*l2, n + 1), 0);
			}
			EXPECT_EQ(log.count("O_DIRECT"), 1u) << log.text();
			EXPECT_GE(l2->usage().buffered, 1u) << "and it is counted";
			EXPECT_EQ(l2->usage().objects, 5u) << "never 0 files, healthy";
			EXPECT_EQ(io_.opened().back().flags & O_DIRECT, 0);
			EXPECT_EQ(temporaries(), 0u);
			io_.clear();
		}
	}
}

TEST_F(FsFault, DirectThatIsDemandedAndRefused) // S8
{
	for (IoFault::Direct how : {IoFault::kRefusedAtOpen, IoFault::kRefusedAtTransfer}) {
		Log log;

		io_.set_direct(how);
		const Adapter l2("fs:" + root() + ",check=0,direct=on", IoFault::ops(), &io_);
		EXPECT_EQ(l2.error(), -EINVAL);
		EXPECT_EQ(log.count("direct=on"), 1u) << log.text();
		EXPECT_EQ(io_.open_fds(), 0u);
		EXPECT_TRUE(is_empty(root() + "/tmp"));
		io_.clear();
	}
}

// Each call of an open fails in its turn: it fails cleanly, or goes on.
TEST_F(FsFault, AnOpenSurvivesEachCallThatFails)
{
	{
		const auto l2 = open();
		ASSERT_TRUE(l2);
		ASSERT_EQ(put(*l2, 1), 0);
	}
	for (int call = 0; call < iofault::kCalls; call++) {
		for (uint64_t nth = 1;; nth++) {
			Log log;
			const uint64_t before = io_.injected();

			io_.fail(static_cast<iofault::Call>(call), -EIO, nth, 1);
			{
				Adapter l2("fs:" + root() + ",check=0", IoFault::ops(), &io_);

				io_.clear();
				if (l2.error() != 0) {
					EXPECT_EQ(l2.error(), -EIO) << call << " " << nth;
					EXPECT_GE(log.count("\n"), 1u)
						<< "without a reason: " << call << " " << nth;
				} else {
					EXPECT_EQ(put(l2, 2), 0);
				}
			}
			EXPECT_EQ(io_.open_fds(), 0u) << call << " " << nth;
			if (io_.injected() == before)
				break;
			ASSERT_LT(nth, 200u);
		}
	}
	const auto l2 = open();
	ASSERT_TRUE(l2);
	EXPECT_EQ(l2->probe(make_key(1)), static_cast<int64_t>(kLen))
		<< "lost by a failed open";
}

TEST_F(FsFault, AnOldKernelIsRefused)
{
	Log log;

	ASSERT_TRUE(stdfs::create_directory(root()));
	io_.fail(iofault::kOpen, -ENOSYS, 2);
	EXPECT_EQ(Adapter("fs:" + root() + ",check=0", IoFault::ops(), &io_).error(), -ENOSYS);
	EXPECT_EQ(log.count("openat2"), 1u) << log.text();
}

// Links planted at every place of a path: nothing outside is read, written,
// made or removed.
TEST_F(FsFault, PlantedSymlinksLeadNowhere) // X6, S11
{
	Log log;
	const std::string outside = dir_.path() + "/outside";
	const auto l2 = open();
	ASSERT_TRUE(l2);
	Buffer into(kLen);

	ASSERT_EQ(put(*l2, 1), 0);
	const std::string fan = fan_of(1), space = stdfs::path(fan).parent_path().string();
	const std::string file = stdfs::path(file_of(1)).filename().string();
	stdfs::create_directories(outside + "/" + stdfs::path(fan).filename().string());
	std::ofstream(outside + "/secret") << std::string(kLen, 's');
	stdfs::copy(fan + "/" + file, outside + "/" + file);
	stdfs::copy(fan + "/" + file, outside + "/" + stdfs::path(fan).filename().string());

	// The file: not read, and replaced by a put, not written through.
	stdfs::remove(fan + "/" + file);
	stdfs::create_symlink(outside + "/secret", fan + "/" + file);
	EXPECT_EQ(l2->get(make_key(1), into), -ELOOP);
	EXPECT_LT(l2->probe(make_key(1)), 0);
	EXPECT_EQ(into.data()[0], 0xEE);
	EXPECT_EQ(put(*l2, 1, 1), 0);
	EXPECT_FALSE(stdfs::is_symlink(fan + "/" + file));
	EXPECT_EQ(stdfs::file_size(outside + "/secret"), kLen);

	// A directory above it.
	for (const std::string &where : {fan, space}) {
		stdfs::rename(where, where + ".away");
		stdfs::create_directory_symlink(outside, where);
		EXPECT_EQ(l2->get(make_key(1), into), -ELOOP) << where;
		EXPECT_EQ(put(*l2, 1, 2), -ELOOP) << where;
		EXPECT_EQ(l2->del(make_key(1)), -ELOOP) << where;
		EXPECT_LT(l2->probe(make_key(1)), 0) << where;
		stdfs::remove(where);
		stdfs::rename(where + ".away", where);
	}
	EXPECT_TRUE(stdfs::exists(outside + "/" + file)) << "deleted through a link";
	EXPECT_EQ(put(*l2, 1, 3), 0);
	EXPECT_EQ(temporaries(), 0u);
}

TEST_F(FsFault, PlantedSymlinksAreNotScanned) // X6
{
	Log log;
	const std::string outside = dir_.path() + "/outside";

	stdfs::create_directories(outside + "/00");
	std::ofstream(outside + "/00/00000000000000000000000000000000-00000000-00000000")
		<< std::string(8192, 'x');
	ASSERT_TRUE(stdfs::create_directory(root()));
	stdfs::create_directory_symlink(outside, root() + "/0000000000005ace");
	{
		const auto l2 = open(",size=8K");
		ASSERT_TRUE(l2);
		EXPECT_EQ(l2->usage().objects, 0u);
	}
	stdfs::remove(root() + "/tmp");
	stdfs::create_directory_symlink(outside, root() + "/tmp");
	EXPECT_EQ(Adapter("fs:" + root() + ",check=0", IoFault::ops(), &io_).error(), -ELOOP);
	EXPECT_TRUE(stdfs::exists(outside +
				  "/00/00000000000000000000000000000000-00000000-00000000"));
	EXPECT_EQ(std::distance(stdfs::directory_iterator(outside), {}), 1)
		<< "something was made there";
}

TEST_F(FsFault, ARootThatGoesAwayFailsButEndsNothing) // S11
{
	Log log;
	const auto l2 = open();
	ASSERT_TRUE(l2);
	Buffer into(kLen);

	ASSERT_EQ(put(*l2, 1), 0);
	stdfs::remove_all(root());
	EXPECT_EQ(l2->get(make_key(1), into), -ENOENT);
	EXPECT_LT(put(*l2, 1), 0);
	EXPECT_LT(put(*l2, 2), 0);
	EXPECT_EQ(l2->del(make_key(1)), -ENOENT);
	EXPECT_EQ(l2->usage().objects, 0u);
	EXPECT_EQ(l2->usage().used_bytes, 0u);
}

} // namespace
} // namespace l2test
