// SPDX-License-Identifier: Apache-2.0
//
// l2_fs_health_test.cc - the fs adapter finds out by itself, without traffic, that
// its directory is gone or takes no writes (S11). Time limits are none of the
// tests': how long it took stands in the report.
#include "tests/io_fault.h"
#include "tests/l2_harness.h"

#include "host/clock.h"

#include <fstream>
#include <sched.h>
#include <sys/mount.h>
#include <thread>

namespace l2test
{
namespace
{

namespace stdfs = std::filesystem;
using iofault::IoFault;

class FsHealth : public ::testing::Test
{
      protected:
	std::string root() const
	{
		return dir_.path() + "/root";
	}
	static int health(const Adapter &l2, std::string *why_p = nullptr)
	{
		const char *why = "";
		const int error = l2.ops()->health(l2.self(), &why);

		if (why_p != nullptr)
			*why_p = why;
		return error;
	}
	// Until it says so.
	void await(const Adapter &l2, int error, const std::string &why = "")
	{
		const uint64_t began = kvh_now_ns();
		std::string text;

		while (health(l2, &text) != error &&
		       kvh_now_ns() - began < kGuardMs * KVH_NS_PER_MS)
			std::this_thread::yield();
		EXPECT_EQ(health(l2, &text), error);
		EXPECT_NE(text.find(why), std::string::npos) << text;
		RecordProperty("found_after_ms",
			       static_cast<int>((kvh_now_ns() - began) / KVH_NS_PER_MS));
	}

	Dir dir_;
};

TEST_F(FsHealth, ARemovedDirectoryIsFound) // S11
{
	Log log;
	Adapter l2("fs:" + root());
	ASSERT_EQ(l2.error(), 0);

	EXPECT_EQ(health(l2), 0);
	stdfs::remove_all(root());
	await(l2, -ENOENT, "is gone");
	EXPECT_EQ(log.count("is gone"), 1u) << "said once:\n" << log.text();
}

TEST_F(FsHealth, WithoutItsLookNothingIsFound) // control of the one above
{
	Adapter l2("fs:" + root() + ",check=0");
	ASSERT_EQ(l2.error(), 0);

	stdfs::remove_all(root());
	EXPECT_EQ(health(l2), 0);
	EXPECT_LT(l2.put(make_key(1), make_frame(make_key(1), 4096)), 0);
	EXPECT_EQ(health(l2), 0);
}

TEST_F(FsHealth, AnotherDirectoryAtItsPathIsNotItsOwn) // S11
{
	Log log;
	Adapter l2("fs:" + root());
	ASSERT_EQ(l2.error(), 0);

	stdfs::rename(root(), root() + ".away");
	stdfs::create_directory(root());
	await(l2, -ESTALE, "another directory");
	EXPECT_TRUE(stdfs::is_empty(root())) << "nothing is written there";
	stdfs::remove(root());
	stdfs::rename(root() + ".away", root());
	await(l2, 0);
	EXPECT_EQ(log.count("well again"), 1u) << log.text();
}

TEST_F(FsHealth, WithoutItsTemporariesItCannotStore) // S11
{
	Log log;
	Adapter l2("fs:" + root());
	ASSERT_EQ(l2.error(), 0);

	stdfs::rename(root() + "/tmp", root() + "/away");
	await(l2, -ENOENT, "temporaries");
	stdfs::rename(root() + "/away", root() + "/tmp");
	await(l2, 0);
}

TEST_F(FsHealth, ADirectoryStaysWhereItWasWhenTheProcessGoesElsewhere)
{
	const stdfs::path before = stdfs::current_path();
	IoFault io;

	stdfs::create_directory(dir_.path() + "/deeper");
	stdfs::current_path(dir_.path());
	Adapter l2("fs:root,check=1", IoFault::ops(), &io);
	stdfs::current_path(dir_.path() + "/deeper");
	ASSERT_EQ(l2.error(), 0);
	// Each look opens its two directories: some whole ones.
	const uint64_t opens = io.calls(iofault::kOpen);
	while (io.calls(iofault::kOpen) < opens + 8)
		std::this_thread::yield();
	EXPECT_EQ(health(l2), 0);
	stdfs::current_path(before);
}

TEST_F(FsHealth, AFullDiskIsNoSickness)
{
	IoFault io;
	Adapter l2("fs:" + root() + ",check=1", IoFault::ops(), &io);
	ASSERT_EQ(l2.error(), 0);

	io.fail(iofault::kFtruncate, -ENOSPC);
	const uint64_t looks = io.calls(iofault::kFtruncate);
	while (io.calls(iofault::kFtruncate) < looks + 3)
		std::this_thread::yield();
	EXPECT_EQ(health(l2), 0);
}

TEST_F(FsHealth, ALookThatHangsIsFoundAndCloseDoesNotWaitForIt)
{
	Log log;
	IoFault io;
	Adapter l2("fs:" + root() + ",check=1", IoFault::ops(), &io);
	ASSERT_EQ(l2.error(), 0);
	void *self = l2.self();

	io.hold(iofault::kFstatvfs);
	io.wait_held(1);
	await(l2, -ETIMEDOUT, "does not answer");
	EXPECT_EQ(l2.close(1), -ETIMEDOUT);
	io.release();
	EXPECT_EQ(l2.ops()->close(self, KVH_L2_DEADLINE_NO), 0);
	EXPECT_EQ(io.open_fds(), 0u);
}

// A real one: ext4 that goes read-only after an error of its own, which its mount
// flags need not show.
TEST_F(FsHealth, AFileSystemThatGoesReadOnlyIsFound) // S11
{
	Log log;
	const std::string image = dir_.path() + "/image", at = dir_.path() + "/mount";
	std::string make = "truncate -s 32M " + image + " && mkfs.ext4 -q " + image;

	stdfs::create_directory(at);
	if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 ||
	    mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
		GTEST_SKIP() << "needs a mount namespace of its own";
	if (system((make + " && mount -o loop,errors=remount-ro " + image + " " + at +
		    " 2>/dev/null")
			   .c_str()) != 0)
		GTEST_SKIP() << "no loop device, or no mkfs.ext4";
	{
		Adapter l2("fs:" + at + "/root");
		ASSERT_EQ(l2.error(), 0);
		ASSERT_EQ(l2.put(make_key(1), make_frame(make_key(1), 4096)), 0);
		EXPECT_EQ(health(l2), 0);

		const std::string trigger = "echo 1 > /sys/fs/ext4/$(basename $(findmnt -no "
					    "SOURCE " +
					    at + "))/trigger_fs_error";

		if (system((trigger + " 2>/dev/null").c_str()) == 0) {
			const Buffer into(8192);

			await(l2, -EROFS, "takes no writes");
			EXPECT_EQ(l2.put(make_key(2), make_frame(make_key(2), 4096)), -EROFS);
			EXPECT_EQ(l2.get(make_key(1), into), 0) << "what is there can be read";
		}
	}
	EXPECT_EQ(umount2(at.c_str(), MNT_DETACH), 0);
	if (log.count("takes no writes") == 0)
		GTEST_SKIP() << "this kernel lets nobody trigger an error of ext4";
}

} // namespace
} // namespace l2test
