// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_empty_test.cc - a file of the nvme adapter is emptied, and the power fails
// meanwhile: what is left opens, and serves the frames whole or not at all.
#include "l2/nvme_file.h"
#include "tests/disk_model.h"
#include "tests/l2_harness.h"

namespace l2test
{
namespace
{

const char *const kFile = "/disk/l2";
constexpr uint64_t kFrames = 30, kPayload = 20000;

Image full()
{
	DiskModel disk;
	{
		Adapter l2(std::string("nvme:") + kFile + ",size=4M,engine=threads,threads=1",
			   DiskModel::ops(), &disk);

		EXPECT_EQ(l2.error(), 0);
		for (uint64_t n = 0; n < kFrames; n++)
			EXPECT_EQ(l2.put(make_key(n), make_frame(make_key(n), kPayload)), 0);
	}
	return disk.image();
}

void empty(DiskModel *disk)
{
	std::string path = kFile;
	struct kvh_nvme_conf conf = {};
	struct kvh_nvme_file file;

	conf.path = path.data();
	ASSERT_EQ(kvh_nvme_set_open(&file, 1, &conf, DiskModel::ops(), disk), 0);
	ASSERT_EQ(kvh_nvme_file_begin(&file), 0);
	ASSERT_EQ(kvh_nvme_file_empty(&file), 0);
	kvh_nvme_file_close(&file, true);
}

// How many frames an adapter serves, each of them whole.
uint64_t served(const Image &image)
{
	DiskModel disk(image);
	uint64_t found = 0;
	Adapter l2(std::string("nvme:") + kFile + ",engine=threads,threads=1", DiskModel::ops(),
		   &disk);

	EXPECT_EQ(l2.error(), 0);
	for (uint64_t n = 0; n < kFrames && l2.error() == 0; n++) {
		const Buffer want = make_frame(make_key(n), kPayload), into(want.size());
		const int ret = l2.get(make_key(n), into);

		EXPECT_TRUE(ret == -ENOENT || (ret == 0 && into == want)) << n << ": " << ret;
		found += ret == 0;
	}
	return found;
}

TEST(NvmeEmpty, APowerCutLeavesWhatOpensWithTheFramesWholeOrGone)
{
	DiskModel disk(full());
	const uint64_t before = disk.moment();
	empty(&disk);
	const uint64_t after = disk.moment();
	std::mt19937_64 random(1);
	uint64_t all = 0, none = 0;

	EXPECT_EQ(served(disk.image()), 0u);
	for (uint64_t at = before; at <= after; at++) {
		for (unsigned i = 0; i < 8; i++) {
			const uint64_t found = served(disk.cut(at, random));

			all += found == kFrames;
			none += found == 0;
			EXPECT_TRUE(at < after || found == 0) << "it was closed: " << found;
		}
	}
	EXPECT_GT(all, 0u) << "control: it was never cut before the table was written";
	EXPECT_GT(none, 0u);
}

// The order that counts: the table says that nothing is there before the room goes.
// Where flushes hold nothing, frames are found that have lost theirs.
TEST(NvmeEmpty, ControlWithoutFlushesFramesAreFoundThatAreGone)
{
	DiskModel disk(full());
	disk.ignores_flushes = true;
	const uint64_t before = disk.moment();
	empty(&disk);
	const uint64_t after = disk.moment();
	std::mt19937_64 random(1);
	unsigned wrong = 0;

	for (uint64_t at = before; at <= after; at++) {
		for (unsigned i = 0; i < 8; i++) {
			DiskModel left(disk.cut(at, random));
			Adapter l2(std::string("nvme:") + kFile + ",engine=threads,threads=1",
				   DiskModel::ops(), &left);

			for (uint64_t n = 0; n < kFrames && l2.error() == 0; n++) {
				const Buffer into(kvh_frame_bytes(kPayload));
				const int ret = l2.get(make_key(n), into);

				wrong += ret != 0 && ret != -ENOENT;
			}
		}
	}
	EXPECT_GT(wrong, 0u);
}

} // namespace
} // namespace l2test
