// SPDX-License-Identifier: Apache-2.0
//
// l2_real_disk_test.cc - errors that the kernel itself reports, to io_uring with
// O_DIRECT too: a block device that fails or is slow, a file system that is full or
// becomes read-only, files that are moved, cut and removed. As root, with loop
// devices; what cannot be made here is skipped and says so.
#include "tests/l2_nvme_io.h"
#include "tests/long_run.h"
#include "tests/real_disk.h"

namespace l2test
{
namespace
{

Buffer frame_of(uint64_t k, uint64_t version = 0)
{
	return make_frame(make_key(k), 150000, version);
}

class Real : public ::testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		if (kind() == "uring" && !uring_works())
			GTEST_SKIP() << "io_uring is refused here";
	}
	static std::string kind()
	{
		return GetParam();
	}
	static std::string spec(const std::string &path, const std::string &more = "")
	{
		return (kind() == "fs" ? "fs:" + path : "nvme:" + path + ",engine=" + kind()) +
		       more;
	}
	static int put(Adapter &l2, uint64_t k)
	{
		return l2.put(make_key(k), frame_of(k));
	}
	// How many of [0, n) are read, and right.
	static unsigned right(Adapter &l2, uint64_t n)
	{
		unsigned found = 0;

		for (uint64_t k = 0; k < n; k++) {
			const Buffer frame = frame_of(k), into(frame.size());

			if (l2.get(make_key(k), into) == 0) {
				EXPECT_TRUE(into == frame) << "wrong bytes, key " << k;
				found++;
			}
		}
		return found;
	}
	// In the end; a guard against a hang, not a limit.
	static bool becomes(const Adapter &l2, int health)
	{
		const char *why = "";
		int now = 1;

		for (int i = 0; i < 1200 && now != health; i++) {
			if (i > 0)
				usleep(10000);
			now = l2.ops()->health(l2.self(), &why);
		}
		return now == health;
	}
	// M4: with nothing in flight, what is used is what is listed.
	static void expect_accounts(const Adapter &l2)
	{
		const struct kvh_l2_usage usage = l2.usage();
		uint64_t bytes = 0;

		l2.ops()->list(
			l2.self(),
			[](void *arg, const struct kvh_key *, uint64_t len) {
				*static_cast<uint64_t *>(arg) += len;
				return true;
			},
			&bytes);
		EXPECT_EQ(usage.used_bytes, bytes);
	}

	RealDisk disk_;
};

using RealBlock = Real;

// S1
TEST_P(RealBlock, ErrorsOfTheDeviceEndWhatTheyHit)
{
	Log log;

	disk_.make_failing();
	if (!disk_.missing().empty())
		GTEST_SKIP() << disk_.missing();
	{
		Adapter l2(spec(disk_.path()));
		ASSERT_EQ(l2.error(), 0) << log.text();
		for (uint64_t k = 0; k < 20; k++)
			ASSERT_EQ(put(l2, k), 0);

		disk_.fails("writes", true);
		for (uint64_t k = 20; k < 25; k++) {
			EXPECT_EQ(put(l2, k), -EIO) << "control: nothing fails";
			EXPECT_EQ(l2.probe(make_key(k)), -ENOENT);
		}
		EXPECT_EQ(right(l2, 20), 20u) << "reads go on, and nothing gave way";
		disk_.fails("writes", false);
		disk_.fails("reads", true);
		EXPECT_EQ(right(l2, 20), 0u) << "control: nothing fails";
		disk_.fails("reads", false);
		EXPECT_EQ(right(l2, 20), 20u);
		unsigned ok = 0;
		for (uint64_t k = 0; k < 200 && ok < 20; k++)
			ok += put(l2, k % 20) == 0;
		EXPECT_EQ(ok, 20u) << "stores do not resume";
		expect_accounts(l2);
	}
	disk_.fails("reads", true);
	EXPECT_EQ(Adapter(spec(disk_.path())).error(), -EIO);
	disk_.fails("reads", false);
	Adapter again(spec(disk_.path()));
	ASSERT_EQ(again.error(), 0) << log.text();
	EXPECT_GE(right(again, 20), 15u);
	expect_accounts(again);
}

// S7: each transfer takes its time; all end, and at once when they are asked for
// at once.
TEST_P(RealBlock, ASlowDeviceIsOnlySlow)
{
	Log log;

	disk_.make_slow(30);
	if (!disk_.missing().empty())
		GTEST_SKIP() << disk_.missing();
	Adapter l2(spec(disk_.path(), ",depth=8,threads=8"));
	ASSERT_EQ(l2.error(), 0) << log.text();
	std::vector<struct kvh_l2_req> reqs(8);
	std::vector<Buffer> frames;

	for (uint64_t k = 0; k < 8; k++) {
		frames.push_back(frame_of(k));
		reqs[k] = make_req(KVH_L2_PUT, make_key(k), frames[k].data(), frames[k].size());
		ASSERT_EQ(l2.submit(&reqs[k]), 0);
	}
	EXPECT_EQ(l2.wait(8).size(), 8u);
	for (const struct kvh_l2_req &req : reqs)
		EXPECT_EQ(req.status, 0);
	EXPECT_EQ(right(l2, 8), 8u);
}

// A child has it open and is writing. Says which it is; killed by the caller.
pid_t hold_open(const std::string &spec)
{
	int go[2];
	char byte = 0;

	if (pipe(go) != 0)
		return -1;
	const pid_t child = fork();
	if (child == 0) {
		Adapter l2(spec);
		byte = l2.error() == 0;
		if (write(go[1], &byte, 1) != 1)
			_exit(1);
		for (uint64_t k = 0; byte == 1; k++)
			if (l2.put(make_key(k % 20), frame_of(k % 20)) != 0)
				break;
		_exit(1);
	}
	::close(go[1]);
	EXPECT_EQ(read(go[0], &byte, 1), 1);
	EXPECT_EQ(byte, 1);
	::close(go[0]);
	return child;
}

// C9 of a device, which the kernel lets one process claim: by the dead one's ring,
// too, until that is gone.
TEST_P(RealBlock, AProcessThatHasItIsNamedAndOneThatDiedIsWaitedFor)
{
	const std::string image = disk_.dir() + "/bytes";

	if (geteuid() != 0 || !command("truncate -s 64M " + image))
		GTEST_SKIP() << "needs root";
	const std::string device = output_of("losetup -f --show " + image);
	if (device.empty())
		GTEST_SKIP() << "no loop device here";
	for (unsigned i = 0; i < long_or(20, 3); i++) {
		const pid_t child = hold_open(spec(device));
		Log log;

		EXPECT_EQ(Adapter(spec(device)).error(), -EBUSY);
		EXPECT_EQ(Adapter(spec(device, ",format=yes")).error(), -EBUSY);
		EXPECT_EQ(log.count("process " + std::to_string(child)), 2u) << log.text();
		kill(child, SIGKILL);
		EXPECT_EQ(waitpid(child, nullptr, 0), child);
		Adapter next(spec(device));
		ASSERT_EQ(next.error(), 0) << log.text();
		(void)right(next, 20);
	}
	EXPECT_TRUE(in_the_end("losetup -d " + device));
}

// The device is there, and smaller than what was made on it.
TEST_P(RealBlock, ADeviceThatShrankIsRefused)
{
	Log log;
	const std::string image = disk_.dir() + "/bytes";

	if (geteuid() != 0 || !command("truncate -s 64M " + image))
		GTEST_SKIP() << "needs root";
	const std::string device = output_of("losetup -f --show " + image);
	if (device.empty())
		GTEST_SKIP() << "no loop device here";
	{
		Adapter l2(spec(device));
		EXPECT_EQ(l2.error(), 0) << log.text();
		EXPECT_EQ(l2.error() == 0 ? put(l2, 0) : -1, 0);
	}
	EXPECT_TRUE(command("truncate -s 32M " + image + " && losetup -c " + device));
	EXPECT_EQ(Adapter(spec(device)).error(), -EBADMSG);
	EXPECT_TRUE(command("truncate -s 96M " + image + " && losetup -c " + device));
	{
		Adapter l2(spec(device));
		EXPECT_EQ(l2.error(), 0) << "larger does no harm: " << log.text();
		EXPECT_EQ(l2.error() == 0 ? right(l2, 1) : 0, 1u);
	}
	EXPECT_TRUE(in_the_end("losetup -d " + device));
}

INSTANTIATE_TEST_SUITE_P(Engines, RealBlock, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

using RealFileSystem = Real;

// S2
TEST_P(RealFileSystem, FullStoresFailAndReadsGoOn)
{
	Log log;
	FaultIo sparse; // else the file of nvme is there from the start

	disk_.make_ext4();
	if (!disk_.missing().empty())
		GTEST_SKIP() << disk_.missing();
	sparse.no_fallocate = true;
	Adapter l2(spec(disk_.path() + "/l2", ",size=32M"), &sparse.ops, &sparse);
	ASSERT_EQ(l2.error(), 0) << log.text();
	uint64_t k = 0;

	for (; k < 20; k++)
		ASSERT_EQ(put(l2, k), 0);
	disk_.fill(1 << 20);
	int status = 0;
	for (; k < 100 && status == 0; k++)
		status = put(l2, k);
	EXPECT_EQ(status, -ENOSPC) << "control: it is never full";
	EXPECT_EQ(l2.probe(make_key(k - 1)), -ENOENT);
	EXPECT_GE(right(l2, 20), 15u) << "reads go on";
	if (kind() == "fs") {
		for (const auto &entry :
		     std::filesystem::directory_iterator(disk_.path() + "/l2/tmp"))
			EXPECT_EQ(entry.path().extension(), ".lock") << entry.path();
	}
	disk_.empty();
	unsigned ok = 0;
	for (uint64_t i = 0; i < 200 && ok < 20; i++)
		ok += put(l2, i % 20) == 0;
	EXPECT_EQ(ok, 20u) << "stores do not resume";
	EXPECT_EQ(right(l2, 20), 20u);
	expect_accounts(l2);
}

// S11
TEST_P(RealFileSystem, ReadOnlyUnderTrafficServesWhatItHas)
{
	Log log;

	disk_.make_ext4();
	if (!disk_.missing().empty())
		GTEST_SKIP() << disk_.missing();
	{
		Adapter l2(spec(disk_.path() + "/l2", ",size=16M"));
		ASSERT_EQ(l2.error(), 0) << log.text();
		for (uint64_t k = 0; k < 20; k++)
			ASSERT_EQ(put(l2, k), 0);
		ASSERT_TRUE(command("sync -f " + disk_.path()));
		EXPECT_TRUE(becomes(l2, 0));
		ASSERT_TRUE(disk_.becomes_read_only());
		EXPECT_TRUE(becomes(l2, -EROFS)) << "it knows without a store";
		EXPECT_LT(put(l2, 30), 0) << "control: it can be written";
		EXPECT_EQ(l2.probe(make_key(30)), -ENOENT);
		EXPECT_EQ(right(l2, 20), 20u) << "reads go on";
	}
	EXPECT_LT(Adapter(spec(disk_.path() + "/l2", ",size=16M")).error(), 0);
	ASSERT_TRUE(disk_.mounts_again());
	Adapter again(spec(disk_.path() + "/l2", ",size=16M"));
	ASSERT_EQ(again.error(), 0) << log.text();
	EXPECT_GE(right(again, 20), 15u);
	EXPECT_EQ(put(again, 30), 0);
	expect_accounts(again);
}

// S11, as ext4 does it by itself: the flags need not show it.
TEST_P(RealFileSystem, AnErrorOfTheFileSystemIsFoundWithoutTraffic)
{
	Log log;

	disk_.make_ext4();
	if (!disk_.missing().empty())
		GTEST_SKIP() << disk_.missing();
	Adapter l2(spec(disk_.path() + "/l2", ",size=16M"));
	ASSERT_EQ(l2.error(), 0) << log.text();
	ASSERT_EQ(put(l2, 1), 0);
	ASSERT_TRUE(command("sync -f " + disk_.path()));
	EXPECT_TRUE(becomes(l2, 0));
	if (!disk_.has_an_error())
		GTEST_SKIP() << "this kernel lets nobody trigger an error of ext4";
	EXPECT_TRUE(becomes(l2, -EROFS));
	EXPECT_LT(put(l2, 2), 0) << "control: it can be written";
	EXPECT_EQ(right(l2, 2), 1u) << "reads go on";
}

INSTANTIATE_TEST_SUITE_P(Stores, RealFileSystem, ::testing::Values("uring", "threads", "fs"),
			 [](const auto &info) { return std::string(info.param); });

// ---- files that are moved, cut, removed; for everybody ----

using RealFile = Nvme;

TEST_P(RealFile, MovedWhileItIsOpen)
{
	Log log;
	const std::string moved = path() + ".moved";

	{
		Adapter l2(spec());
		ASSERT_EQ(l2.error(), 0);
		ASSERT_EQ(l2.put(make_key(1), frame_of(1)), 0);
		std::filesystem::rename(path(), moved);
		ASSERT_EQ(l2.put(make_key(2), frame_of(2)), 0);
		EXPECT_EQ(Adapter("nvme:" + moved).error(), -EBUSY) << "the same file";
	}
	EXPECT_EQ(Adapter(spec("")).error(), -ENOENT);
	Adapter l2("nvme:" + moved);
	ASSERT_EQ(l2.error(), 0) << log.text();
	EXPECT_GT(l2.probe(make_key(1)), 0);
	EXPECT_GT(l2.probe(make_key(2)), 0);
}

TEST_P(RealFile, CutWhileItIsOpenServesNothingWrong)
{
	Log log;
	unsigned gone = 0;

	{
		Adapter l2(spec("size=16M"));
		ASSERT_EQ(l2.error(), 0);
		for (uint64_t k = 0; k < 40; k++)
			ASSERT_EQ(l2.put(make_key(k), frame_of(k)), 0);
		std::filesystem::resize_file(path(), 3 << 20);
		for (uint64_t k = 0; k < 40; k++) {
			const Buffer frame = frame_of(k), into(frame.size());
			const int status = l2.get(make_key(k), into);

			EXPECT_TRUE(status == 0 || status == -EIO) << strerror(-status);
			EXPECT_TRUE(status != 0 || into == frame) << k;
			gone += status != 0;
		}
		EXPECT_GT(gone, 0u) << "control: nothing was cut";
		EXPECT_LT(gone, 40u);
	}
	const int error = Adapter(spec("")).error();
	EXPECT_TRUE(error == -EBADMSG || error == 0) << strerror(-error);
}

TEST_P(RealFile, RemovedWhileItIsOpen)
{
	Log log;

	{
		Adapter l2(spec("size=16M"));
		ASSERT_EQ(l2.error(), 0);
		ASSERT_EQ(l2.put(make_key(1), frame_of(1)), 0);
		std::filesystem::remove(path());
		const Buffer into(frame_of(1).size());
		EXPECT_EQ(l2.get(make_key(1), into), 0);
		EXPECT_TRUE(into == frame_of(1));
		(void)l2.put(make_key(2), frame_of(2)); // it may; nobody will find it
	}
	EXPECT_FALSE(std::filesystem::exists(path())) << "made again unasked";
	Adapter l2(spec("size=16M"));
	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.usage().objects, 0u);
}

INSTANTIATE_TEST_SUITE_P(Engines, RealFile, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

} // namespace
} // namespace l2test
