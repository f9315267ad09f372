// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_device_test.cc - the nvme adapter on block devices, made of files with
// losetup: what stands on one is named and kept, and one that is in use is refused.
// Skipped where no loop device can be had (not root, or in a container).
#include "tests/l2_nvme_io.h"

#include <array>
#include <memory>

namespace l2test
{
namespace
{

std::string run(const std::string &command, int *status = nullptr)
{
	std::array<char, 256> line;
	std::string out;
	FILE *pipe = popen((command + " 2>&1").c_str(), "r");

	while (pipe != nullptr && fgets(line.data(), line.size(), pipe) != nullptr)
		out += line.data();
	const int ret = pipe != nullptr ? pclose(pipe) : -1;

	if (status != nullptr)
		*status = ret;
	return out;
}

class NvmeDevice : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		int status;

		std::filesystem::create_directory(dir_.path() + "/mnt");
		run("truncate -s 64M " + image());
		device_ = run("losetup --find --show --direct-io=on " + image(), &status);
		if (status != 0)
			device_ = run("losetup --find --show " + image(), &status);
		if (status != 0) {
			device_.clear();
			GTEST_SKIP() << "no loop device here";
		}
		device_.pop_back(); // the newline
	}
	void TearDown() override
	{
		run("umount " + dir_.path() + "/mnt");
		if (!device_.empty())
			run("losetup -d " + device_);
	}
	std::string image() const
	{
		return dir_.path() + "/image";
	}
	std::string mount_point() const
	{
		return dir_.path() + "/mnt";
	}
	std::string spec(const std::string &more = "") const
	{
		return "nvme:" + device_ + (more.empty() ? "" : "," + more);
	}
	bool has_tool(const std::string &tool)
	{
		int status;

		run("command -v " + tool, &status);
		return status == 0;
	}
	std::string device_;

      private:
	Dir dir_;
};

TEST_F(NvmeDevice, ABlankDeviceIsTakenWholeAndFoundAgain)
{
	{
		Adapter l2(spec());

		ASSERT_EQ(l2.error(), 0);
		EXPECT_GT(l2.usage().capacity_bytes, 60u << 20);
		for (uint64_t n = 0; n < 50; n++)
			ASSERT_EQ(l2.put(make_key(n), make_frame(make_key(n), 100000)), 0);
	}
	Adapter l2(spec("discard=yes"));

	ASSERT_EQ(l2.error(), 0);
	for (uint64_t n = 0; n < 50; n++) {
		const Buffer frame = make_frame(make_key(n), 100000), into(frame.size());

		ASSERT_EQ(l2.get(make_key(n), into), 0);
		EXPECT_TRUE(into == frame);
		ASSERT_EQ(l2.del(make_key(n)), 0);
	}
	EXPECT_EQ(l2.usage().objects, 0u);
}

TEST_F(NvmeDevice, WhatStandsOnItIsNamedAndKept)
{
	const struct {
		const char *tool, *make, *name;
	} others[] = {
		{"mkfs.ext4", "mkfs.ext4 -q -F ", "ext4"},
		{"mkswap", "mkswap ", "swap"},
		{"sfdisk", "echo ,, | sfdisk -q --label gpt ", "gpt"},
	};
	unsigned tried = 0;

	for (const auto &other : others) {
		if (!has_tool(other.tool))
			continue;
		Log log;

		tried++;
		run(std::string(other.make) + device_);
		EXPECT_EQ(Adapter(spec()).error(), -EEXIST) << other.name;
		EXPECT_NE(log.text().find(std::string("holds ") + other.name),
			  std::string::npos)
			<< log.text();
		EXPECT_NE(run("blkid -p " + device_).find(other.name), std::string::npos)
			<< "it is still there";
	}
	if (tried == 0)
		GTEST_SKIP() << "no tool to put something on it";
	Log log;
	Adapter l2(spec("format=yes")); // asked for

	EXPECT_EQ(l2.error(), 0) << log.text();
}

TEST_F(NvmeDevice, OneThatIsTooSmallIsRefused)
{
	Log log;

	EXPECT_EQ(Adapter(spec("size=128M")).error(), -EINVAL);
	EXPECT_NE(log.text().find("at most 67108864"), std::string::npos) << log.text();
	run("losetup -d " + device_);
	run("truncate -s 512K " + image());
	device_ = run("losetup --find --show " + image());
	device_.pop_back();
	EXPECT_EQ(Adapter(spec()).error(), -EINVAL);
	EXPECT_NE(log.text().find("size from 1048576"), std::string::npos) << log.text();
}

TEST_F(NvmeDevice, ADeviceThatIsMountedIsRefused)
{
	Log log;
	int status;

	if (!has_tool("mkfs.ext4"))
		GTEST_SKIP() << "no mkfs.ext4";
	run("mkfs.ext4 -q -F " + device_);
	run("mount " + device_ + " " + mount_point(), &status);
	if (status != 0)
		GTEST_SKIP() << "cannot mount here";
	EXPECT_EQ(Adapter(spec("format=yes")).error(), -EBUSY) << "not even with format=yes";
	EXPECT_NE(log.text().find("mounted"), std::string::npos) << log.text();
}

TEST_F(NvmeDevice, AFormattedDeviceThatShrankIsRefusedAndOneThatGrewIsKept)
{
	{
		Adapter l2(spec("size=32M"));

		ASSERT_EQ(l2.error(), 0) << "a part of it may be asked for";
		ASSERT_EQ(l2.put(make_key(1), make_frame(make_key(1), 5000)), 0);
	}
	Log log;
	{
		Adapter l2(spec());

		ASSERT_EQ(l2.error(), 0);
		EXPECT_GT(l2.probe(make_key(1)), 0);
	}
	run("losetup -d " + device_);
	run("truncate -s 16M " + image());
	device_ = run("losetup --find --show " + image());
	device_.pop_back();
	EXPECT_EQ(Adapter(spec()).error(), -EBADMSG);
	EXPECT_NE(log.text().find("has been cut"), std::string::npos) << log.text();
}

} // namespace
} // namespace l2test
