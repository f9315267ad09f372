// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_test.cc - the nvme adapter's file: how it is made, what is refused, and
// what damage to superblocks and tables comes to.
#include "l2/nvme_layout.h"
#include "tests/l2_nvme_io.h"

#include <fstream>
#include <sys/wait.h>

namespace l2test
{
namespace
{

uint64_t file_size(const std::string &path)
{
	std::error_code error;
	const auto bytes = std::filesystem::file_size(path, error);

	return error ? 0 : bytes;
}

TEST_P(Nvme, MakesItsFileAndFindsItAgain)
{
	const Buffer frame = make_frame(make_key(1), 100000);
	const Buffer into(frame.size());
	{
		Adapter l2(spec());

		ASSERT_EQ(l2.error(), 0);
		EXPECT_EQ(file_size(path()), 16u << 20);
		EXPECT_EQ(l2.put(make_key(1), frame), 0);
	}
	struct stat st;

	ASSERT_EQ(stat(path().c_str(), &st), 0);
	EXPECT_EQ(st.st_mode & 0777, 0600u);

	Adapter l2(spec("")); // the size is known

	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.get(make_key(1), into), 0);
	EXPECT_TRUE(into == frame);
	EXPECT_EQ(l2.usage().objects, 1u);
	EXPECT_EQ(l2.usage().used_bytes, frame.size());
}

TEST_P(Nvme, RefusesWhatCannotBeAndLeavesNothing)
{
	const struct {
		std::string spec;
		int error;
		const char *says;
	} bad[] = {
		{spec(""), -ENOENT, "size="},
		{spec("size=100K"), -EINVAL, "100K"},
		{spec("size=16M,segment=32M"), -EINVAL, "33554432"},
		{spec("size=16M,depth=0"), -EINVAL, "depth"},
		{"nvme:/nosuchdir/l2,size=16M", -ENOENT, "/nosuchdir/l2"},
		{"nvme:/dev/null,size=16M", -EINVAL, "/dev/null"},
		{"nvme:/tmp,size=16M", -EISDIR, "/tmp"},
		{"nvme:,size=16M", -ENOENT, "nvme"},
		{spec("size=4096T"), -EINVAL, "size"},
	};

	for (const auto &b : bad) {
		Log log;
		const Adapter l2(b.spec);

		EXPECT_EQ(l2.error(), b.error) << b.spec << ": " << strerror(-l2.error());
		EXPECT_NE(log.text().find(b.says), std::string::npos) << log.text();
		EXPECT_FALSE(std::filesystem::exists(path())) << b.spec;
	}
}

TEST_P(Nvme, WhatIsNotOursIsKept)
{
	const std::string text(300000, 'x');
	{
		std::ofstream file(path());
		file << text;
	}
	{
		Log log;
		const Adapter l2(spec());

		EXPECT_EQ(l2.error(), -EEXIST);
		EXPECT_NE(log.text().find(path()), std::string::npos) << log.text();
	}
	std::string now(text.size(), 0);
	peek(0, now.data(), now.size());
	EXPECT_EQ(now, text);
	EXPECT_EQ(file_size(path()), text.size());

	// At the end of the file, where partition tables have their copies.
	now.assign(8u << 20, 0);
	now.back() = 1;
	{
		std::ofstream file(path(), std::ios::trunc);
		file << now;
	}
	Log log;
	{
		const Adapter l2(spec(""));
		EXPECT_EQ(l2.error(), -EEXIST);
	}
	const Adapter l2(spec("size=16M,format=yes")); // asked for
	EXPECT_EQ(l2.error(), 0);
}

TEST_P(Nvme, ABlankFileOfAnyLengthIsTaken)
{
	{
		std::ofstream file(path());
		file << std::string(3000001, '\0');
	}
	Adapter l2(spec(""));

	ASSERT_EQ(l2.error(), 0);
	EXPECT_LT(l2.usage().capacity_bytes, 3000001u);
	EXPECT_GT(l2.usage().capacity_bytes, 2500000u);
}

TEST_P(Nvme, AnotherSizeOrACutFileIsRefused)
{
	Log log;

	ASSERT_EQ(Adapter(spec()).error(), 0);
	EXPECT_EQ(Adapter(spec("size=16777216")).error(), 0); // the same
	EXPECT_EQ(Adapter(spec("size=32M")).error(), -EEXIST);
	EXPECT_NE(log.text().find("16777216"), std::string::npos) << log.text();
	std::filesystem::resize_file(path(), 12u << 20);
	EXPECT_EQ(Adapter(spec("")).error(), -EBADMSG);
	std::filesystem::resize_file(path(), 24u << 20); // longer does no harm
	EXPECT_EQ(Adapter(spec("")).error(), 0);
}

TEST_P(Nvme, OneSuperblockIsEnoughAndIsMended)
{
	const Buffer frame = make_frame(make_key(1), 5000);
	const uint64_t junk = 0xDEAD;
	Log log;

	{
		Adapter l2(spec());
		ASSERT_EQ(l2.put(make_key(1), frame), 0);
	}
	for (int round = 0; round < 4; round++) {
		poke((round & 1) * 4096 + 200, &junk, 8);
		{
			Adapter l2(spec(""));
			ASSERT_EQ(l2.error(), 0) << round;
			EXPECT_EQ(l2.probe(make_key(1)), static_cast<int64_t>(frame.size()));
		} // opened and closed: both are written
		EXPECT_EQ(log.count("superblock"), static_cast<size_t>(round) + 1);
	}
	poke(200, &junk, 8);
	poke(4296, &junk, 8);
	EXPECT_EQ(Adapter(spec("")).error(), -EBADMSG);
	EXPECT_EQ(Adapter(spec("size=16M")).error(), -EBADMSG);

	Adapter l2(spec("size=16M,format=yes"));
	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.probe(make_key(1)), -ENOENT);
}

TEST_P(Nvme, AnotherVersionIsRefusedEvenBesideOurs)
{
	const struct {
		uint32_t version, incompat;
		const char *says;
	} others[] = {{3, 0, "version 3"}, {1, 0, "version 1"}, {2, 4, "features 0x4"}};
	struct kvh_nvme_super super;

	ASSERT_EQ(Adapter(spec()).error(), 0);
	peek(0, &super, sizeof(super));
	for (const auto &o : others) {
		struct kvh_nvme_super other = super, now;
		Log log;

		other.version = o.version;
		other.incompat = o.incompat;
		kvh_nvme_super_seal(&other);
		poke(0, &other, sizeof(other));
		EXPECT_EQ(Adapter(spec("")).error(), -EPROTONOSUPPORT) << o.says;
		EXPECT_NE(log.text().find(o.says), std::string::npos) << log.text();
		EXPECT_NE(log.text().find("format=yes"), std::string::npos) << "what to do";
		peek(0, &now, sizeof(now));
		EXPECT_EQ(memcmp(&now, &other, sizeof(now)), 0) << "was written to";
	}
	Log log;
	EXPECT_EQ(Adapter(spec("format=yes")).error(), 0) << "asked for";
}

TEST_P(Nvme, WhatIsTooSmallIsRefusedAndSaysFromWhat)
{
	Log log;
	{
		std::ofstream file(path());
		file << std::string(100000, '\0');
	}
	EXPECT_EQ(Adapter(spec("")).error(), -EINVAL);
	EXPECT_NE(log.text().find("100000"), std::string::npos) << log.text();
	EXPECT_NE(log.text().find("size from 1048576"), std::string::npos) << log.text();
	EXPECT_EQ(file_size(path()), 100000u) << "was changed";
	Adapter l2(spec("size=1M")); // which makes it larger
	EXPECT_EQ(l2.error(), 0) << log.text();
}

TEST_P(Nvme, FormatYesTakesNothingThatIsInUse)
{
	Adapter l2(spec());
	Log log;

	ASSERT_EQ(l2.error(), 0);
	ASSERT_EQ(l2.put(make_key(1), make_frame(make_key(1), 5000)), 0);
	EXPECT_EQ(Adapter(spec("size=32M,format=yes")).error(), -EBUSY) << log.text();
	EXPECT_EQ(l2.get(make_key(1), Buffer(kvh_frame_bytes(5000))), 0);
}

TEST_P(Nvme, AnInterruptedFormatStartsCold)
{
	struct kvh_nvme_super super;

	{
		Adapter l2(spec());
		ASSERT_EQ(l2.error(), 0);
		ASSERT_EQ(l2.put(make_key(1), make_frame(make_key(1), 5000)), 0);
	}
	peek(0, &super, sizeof(super));
	super.formatting = 1;
	kvh_nvme_super_seal(&super);
	poke(0, &super, sizeof(super)); // over what was there, beside a sound one
	Adapter l2(spec());
	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(l2.usage().objects, 0u);
}

TEST_P(Nvme, OneTablePageIsEnoughWithoutBothItIsCold)
{
	const Buffer frame = make_frame(make_key(1), 5000);
	const uint64_t junk = 0xDEAD;
	Log log;

	{
		Adapter l2(spec());
		ASSERT_EQ(l2.put(make_key(1), frame), 0);
	}
	// Generation 1 has the segment; without it, 0 has none.
	poke(2 * 4096 + 100, &junk, 8);
	{
		Adapter l2(spec(""));
		ASSERT_EQ(l2.error(), 0);
		EXPECT_GT(l2.probe(make_key(1)), 0);
	}
	poke(3 * 4096 + 100, &junk, 8);
	Adapter l2(spec(""));
	ASSERT_EQ(l2.error(), 0);
	EXPECT_EQ(log.count("table page 0 is damaged"), 1u) << log.text();
	EXPECT_EQ(l2.probe(make_key(1)), -ENOENT);
	EXPECT_EQ(l2.put(make_key(1), frame), 0); // and goes on
}

// It may be sound: no open may go on without it, and write over it.
TEST_P(Nvme, ATableThatCannotBeReadIsNotTakenForADamagedOne)
{
	static std::atomic<int> unread; // so many copies, 0 first
	struct kvh_io_ops ops = kvh_io_system;
	Log log;

	ops.pread = [](void *, int fd, void *buf, size_t len, off_t off) -> ssize_t {
		if (off >= 2 * 4096 && off < (2 + unread) * 4096)
			return -EIO;
		return kvh_io_system.pread(nullptr, fd, buf, len, off);
	};
	{
		Adapter l2(spec());
		ASSERT_EQ(l2.put(make_key(1), make_frame(make_key(1), 5000)), 0);
	}
	unread = 2;
	EXPECT_EQ(Adapter(spec(""), &ops).error(), -EIO);
	EXPECT_EQ(log.count("table page 0 cannot be read"), 1u) << log.text();
	unread = 1; // the other one is sound, and newer
	EXPECT_EQ(Adapter(spec(""), &ops).error(), 0);
	unread = 0;
	Adapter l2(spec(""), &ops);
	EXPECT_GT(l2.probe(make_key(1)), 0);
}

TEST_P(Nvme, OneProcessAtATime)
{
	Log log;
	Adapter first(spec());
	ASSERT_EQ(first.error(), 0);

	EXPECT_EQ(Adapter(spec("")).error(), -EBUSY); // nor twice in one
	EXPECT_NE(log.text().find(std::to_string(getpid())), std::string::npos) << log.text();
	ASSERT_EQ(first.close(), 0);

	const pid_t child = fork();
	if (child == 0)
		_exit(Adapter(spec("")).error() == 0 ? 0 : 1);
	int status = -1;
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_EQ(status, 0);
}

TEST_P(Nvme, AnotherProcessIsToldWhoHasIt)
{
	int go[2], ready[2];
	char byte = 0;
	ASSERT_EQ(pipe(go), 0);
	ASSERT_EQ(pipe(ready), 0);

	const pid_t child = fork();
	if (child == 0) {
		Adapter l2(spec());
		byte = l2.error() == 0;
		if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1)
			_exit(1);
		_exit(l2.close() == 0 ? 0 : 1);
	}
	ASSERT_EQ(read(ready[0], &byte, 1), 1);
	ASSERT_EQ(byte, 1);
	{
		Log log;
		EXPECT_EQ(Adapter(spec("")).error(), -EBUSY);
		EXPECT_NE(log.text().find(std::to_string(child)), std::string::npos)
			<< log.text();
	}
	ASSERT_EQ(write(go[1], &byte, 1), 1);
	int status = -1;
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_EQ(status, 0);
	EXPECT_EQ(Adapter(spec("")).error(), 0);
	for (int fd : {go[0], go[1], ready[0], ready[1]})
		::close(fd);
}

INSTANTIATE_TEST_SUITE_P(Engines, Nvme, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

TEST(NvmeLayout, AnyPlanStaysInItsFile)
{
	const uint32_t seed = std::random_device{}();
	std::mt19937_64 random(seed);
	struct kvh_nvme_super super;
	unsigned planned = 0;

	SCOPED_TRACE("seed " + std::to_string(seed));
	for (int i = 0; i < 20000; i++) {
		const uint64_t bytes = random() >> (14 + random() % 34);
		const uint64_t segment = random() % 2 ? 0 : random() >> (24 + random() % 40);
		const int ret = kvh_nvme_super_plan(&super, bytes, segment);

		if (ret < 0) {
			ASSERT_TRUE(segment != 0 || bytes < KVH_NVME_MIN_BYTES ||
				    bytes > KVH_NVME_MAX_BYTES)
				<< bytes;
			continue;
		}
		planned++;
		kvh_nvme_super_seal(&super);
		ASSERT_EQ(kvh_nvme_super_check(&super), 0) << bytes << " " << segment;

		const uint32_t last = super.segments - 1;
		const uint64_t end = kvh_nvme_segment_offset(&super, last) +
				     kvh_nvme_segment_bytes(&super, last);

		ASSERT_LE(end, bytes);
		ASSERT_GT(end + KVH_NVME_PAGE + 1, bytes / 4096 * 4096);
		ASSERT_LE(kvh_nvme_table_offset(&super, super.table_pages - 1, 1) + 4096,
			  super.data_offset);
		ASSERT_GE(kvh_nvme_segment_bytes(&super, last), super.segment_bytes);
	}
	EXPECT_GT(planned, 1000u);
}

TEST(NvmeLayout, EveryFlippedBitOfAPageIsFound)
{
	struct kvh_nvme_super super;
	struct kvh_nvme_table_page table = {};

	ASSERT_EQ(kvh_nvme_super_plan(&super, 1u << 24, 0), 0);
	kvh_nvme_super_seal(&super);
	table.page = 3;
	kvh_nvme_table_seal(&table);
	EXPECT_EQ(kvh_nvme_table_check(&table, 3), 0);
	EXPECT_EQ(kvh_nvme_table_check(&table, 2), -EBADMSG); // misplaced
	for (unsigned bit = 0; bit < 4096 * 8; bit++) {
		const bool in_super = bit < 512 * 8; // behind, nothing is looked at

		uint8_t *const pages[] = {reinterpret_cast<uint8_t *>(&super),
					  reinterpret_cast<uint8_t *>(&table)};

		for (uint8_t *page : pages)
			page[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
		ASSERT_EQ(kvh_nvme_super_check(&super) < 0, in_super) << bit;
		ASSERT_LT(kvh_nvme_table_check(&table, 3), 0) << bit;
		for (uint8_t *page : pages)
			page[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
	}
	EXPECT_EQ(kvh_nvme_super_check(&super), 0);
}

// A sound checksum over geometry that leads out of the file.
TEST(NvmeLayout, ImpossibleGeometryIsRefused)
{
	struct kvh_nvme_super good;
	uint32_t refused = 0;

	ASSERT_EQ(kvh_nvme_super_plan(&good, 1u << 24, 0), 0);
	for (unsigned off = 48; off < 88; off += 4) {
		for (uint32_t value : {0u, 1u, 0x7fffffffu, 0xffffffffu, 4096u}) {
			struct kvh_nvme_super bad = good;

			memcpy(reinterpret_cast<uint8_t *>(&bad) + off, &value, 4);
			kvh_nvme_super_seal(&bad);
			if (kvh_nvme_super_check(&bad) == 0) {
				const uint32_t last = bad.segments - 1;

				ASSERT_LE(kvh_nvme_segment_offset(&bad, last) +
						  kvh_nvme_segment_bytes(&bad, last),
					  bad.bytes)
					<< off << " " << value;
			} else {
				refused++;
			}
		}
	}
	EXPECT_GT(refused, 35u);
}

} // namespace
} // namespace l2test
